/* recover_bench.c - how long a store with a million objects takes to come back, and how soon the first object is served.
 *
 * The store is a sparse file whose segments, seals and summaries are written by the code that writes them in service; payloads are holes,
 * whose checksum is that of zeros, so that reads are verified as ever. Page cache: IO is direct; what the host below caches it caches
 * for the limit's row as well. Three shapes: small objects (few large summaries), objects of 1 MiB (thousands of segments), and a crash
 * that left segments unsealed, which are read whole.
 */
#include "tools/bench/row.h"

#include "daemon/base/clock.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/log.h"
#include "daemon/seg/format.h"
#include "daemon/seg/seg.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBJECTS 1000000u
#define NAMES   8u

static char path[256];

struct shape {
	const char *what;
	uint64_t bytes;         /* of an object */
	uint64_t segment_bytes; /* of a segment */
	uint32_t objects;
	uint32_t unsealed; /* segments, the last ones */
};

struct maker {
	int fd;
	struct format_super super;
	struct seg_names *names;
	uint32_t number[NAMES];
	struct format_summary *summary;
	struct format_record *record;
	uint8_t *block, *out;
	uint64_t sequence, summary_bytes;
	uint32_t segments, left;
};

static void fatal(const char *what)
{
	fprintf(stderr, "recover_bench: %s: %s\n", what, strerror(errno));
	unlink(path);
	exit(1);
}

static void put(struct maker *m, uint64_t at, const void *p, size_t n)
{
	if (pwrite(m->fd, p, n, (off_t)at) != (ssize_t)n)
		fatal("write");
}

static struct store_hash hash_of(uint64_t i)
{
	struct store_hash h;

	for (unsigned k = 0; k < STORE_HASH_BYTES / 8; k++) {
		uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u + k * 0xd1b54a32d192ed03u;

		x = (x ^ x >> 31) * 0x94d049bb133111ebu;
		memcpy(h.b + 8 * (size_t)k, &x, 8);
	}
	return h;
}

static struct seg_name name_of(uint32_t i)
{
	return (struct seg_name){slice_str("meta-llama/Llama-3.1-70B-Instruct"), slice_str(""), i, 0, {1, 2, 3}};
}

/* ---- making ------------------------------------------------------------------------------------------------------------ */

static void seal(struct maker *m, uint32_t id)
{
	uint64_t at = format_segment_at(&m->super, id), need = format_summary_need(m->summary);
	struct format_seal s = {.id = id, .generation = id + 1u, .summary_at = m->super.segment_bytes - need};

	memcpy(s.uuid, m->super.uuid, sizeof(s.uuid));
	format_summary_finish(m->summary, m->out, &s);
	put(m, at + s.summary_at, m->out, need);
	format_seal_encode(&s, m->block);
	put(m, at + FORMAT_BLOCK, m->block, FORMAT_BLOCK);
	m->summary_bytes += need;
}

static void put_header(struct maker *m, uint32_t id, uint64_t offset, const struct format_entry *e, uint32_t name)
{
	struct format_record *r = m->record;

	memcpy(r->uuid, m->super.uuid, sizeof(r->uuid));
	r->kind = FORMAT_OBJECT;
	r->segment = id;
	r->generation = id + 1u;
	r->offset = offset;
	r->sequence = e->sequence;
	r->name = name_of(name);
	r->hash = e->hash;
	r->bytes = e->bytes;
	format_record_encode(r, m->block);
	put(m, offset, m->block, FORMAT_BLOCK);
}

/* Fills a segment; returns how many objects went into it. Headers are written only where recovery looks at them. */
static uint32_t fill(struct maker *m, const struct shape *s, uint32_t id, bool sealed)
{
	struct format_segment h = {.id = id, .generation = id + 1u, .epoch = m->super.epoch};
	uint64_t start = format_segment_at(&m->super, id), at = FORMAT_RECORDS, step = format_record_bytes(s->bytes);
	uint32_t n = 0;

	memcpy(h.uuid, m->super.uuid, sizeof(h.uuid));
	format_segment_encode(&h, m->block);
	put(m, start, m->block, FORMAT_BLOCK);
	format_summary_start(m->summary, UINT32_MAX, m->names);
	for (; n < m->left && at + step + format_summary_need(m->summary) + FORMAT_BLOCK <= m->super.segment_bytes;
	     n++, at += step) {
		uint32_t name = (uint32_t)(m->sequence % NAMES);
		struct format_entry e = {.kind = FORMAT_OBJECT,
					 .name = m->number[name],
					 .hash = hash_of(m->sequence),
					 .at = at,
					 .bytes = s->bytes,
					 .sequence = m->sequence + 1,
					 .crc = crc32c_join(m->record->sums, s->bytes)};

		if (!format_summary_add(m->summary, &e))
			break;
		if (!sealed)
			put_header(m, id, start + at, &e, name);
		m->sequence++;
	}
	if (sealed)
		seal(m, id);
	m->left -= n;
	m->segments++;
	return n;
}

static uint32_t per_segment(const struct shape *s)
{
	return (uint32_t)((s->segment_bytes - FORMAT_MAX_SUMMARY) / format_record_bytes(s->bytes));
}

static void make(struct maker *m, const struct shape *s)
{
	uint8_t *zeros = calloc(1, s->bytes);
	uint32_t segments = s->objects / per_segment(s) + 8;

	*m = (struct maker){.left = s->objects};
	m->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	m->block = aligned_alloc(FORMAT_BLOCK, FORMAT_BLOCK);
	m->out = aligned_alloc(FORMAT_BLOCK, FORMAT_MAX_SUMMARY);
	m->record = calloc(1, sizeof(*m->record));
	m->summary = calloc(1, format_summary_size(UINT32_MAX));
	if (m->fd < 0 || !m->block || !m->out || !m->record || !m->summary || !zeros || seg_names_create(&m->names))
		fatal("making a store");
	if (format_geometry(segments * s->segment_bytes + (4u << 20), s->segment_bytes, &m->super))
		fatal("geometry");
	memset(m->super.uuid, 7, sizeof(m->super.uuid));
	m->super.epoch = 1;
	if (ftruncate(m->fd, (off_t)m->super.bytes))
		fatal("size");
	crc32c_blocks(zeros, s->bytes, m->record->sums);
	for (uint32_t i = 0; i < NAMES; i++) {
		struct seg_name n = name_of(i);

		m->number[i] = seg_name_get(m->names, &n);
	}
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
		format_super_encode(&m->super, c, m->block);
		put(m, format_super_at(&m->super, c), m->block, FORMAT_BLOCK);
	}
	for (uint32_t id = 0; m->left; id++)
		fill(m, s, id, m->left > s->unsealed * per_segment(s));
	if (fsync(m->fd))
		fatal("flush");
	free(zeros);
}

static void unmake(struct maker *m)
{
	close(m->fd);
	unlink(path);
	free(m->block);
	free(m->out);
	free(m->record);
	free(m->summary);
	seg_names_destroy(m->names);
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	sync();
	if (fd < 0 || write(fd, "3", 1) != 1)
		fprintf(stderr, "recover_bench: caches are not dropped: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* ---- measuring --------------------------------------------------------------------------------------------------------- */

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* Header blocks and summaries, one after another: what a reader without depth needs for them. */
static double limit(const struct maker *m)
{
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	uint64_t begin = clock_ns();
	struct format_seal s;

	for (uint32_t id = 0; id < m->segments; id++) {
		uint64_t at = format_segment_at(&m->super, id);

		if (pread(fd, m->out, 2ul * FORMAT_BLOCK, (off_t)at) != 2 * FORMAT_BLOCK)
			fatal("read");
		if (format_seal_decode(m->out + FORMAT_BLOCK, &s) == 0 &&
		    pread(fd, m->out, s.summary_bytes, (off_t)(at + s.summary_at)) != (ssize_t)s.summary_bytes)
			fatal("read");
	}
	begin = clock_ns() - begin;
	close(fd);
	return seconds(begin);
}

struct times {
	double first_hit, all, objects;
};

static void hit(struct seg_op *op)
{
	*(uint64_t *)op->owner = clock_ns();
}

static struct seg *open_store(void *memory, struct seg_names *names)
{
	const struct disk_buffer buffer = {.base = memory, .bytes = SEG_MEMORY + (4u << 20)};
	const struct disk_conf dc = {.path = path, .write = true, .exclusive = true, .buffers = &buffer, .nbuffers = 1};
	struct seg_conf sc = {.memory = memory, .names = names, .verify = true, .max_objects = 2 * OBJECTS};
	struct why why = {0};
	struct seg *s;

	if (disk_open(&dc, &sc.disk, &why) || seg_open(&sc, &s, &why)) {
		fprintf(stderr, "recover_bench: %s\n", why.text);
		unlink(path);
		exit(1);
	}
	return s;
}

/* As a server's thread does: turns, and between them a look whether the object asked for is there yet. */
static struct times start(const struct maker *m, const struct shape *shape)
{
	struct seg_names *names;
	uint8_t *memory = aligned_alloc(2u << 20, SEG_MEMORY + (4u << 20));
	uint32_t *sums = calloc(FORMAT_MAX_SUMS, sizeof(*sums));
	struct seg_key key = {.hash = hash_of(m->sequence - 1)};
	struct seg_name name = name_of((uint32_t)((m->sequence - 1) % NAMES));
	uint64_t served = 0, size = 0, begin, all = 0;
	struct seg_stats n;

	if (!memory || !sums || seg_names_create(&names))
		fatal("memory");
	memset(memory, 0, SEG_MEMORY + (4u << 20));
	begin = clock_ns();
	struct seg *s = open_store(memory, names);
	struct seg_op op = {.kind = SEG_READ,
			    .mem = memory + SEG_MEMORY,
			    .bytes = shape->bytes,
			    .sums = sums,
			    .done = hit,
			    .owner = &served};
	while (!served || !seg_recovered(s)) {
		seg_run(s, 1000000);
		if (!all && seg_recovered(s))
			all = clock_ns();
		if (size == 0 && (key.name = seg_name_find(names, &name)) != 0) {
			seg_find(s, &key, 1, &size);
			op.key = key;
			if (size)
				seg_submit(s, &op);
		}
		if (all && !size) {
			fprintf(stderr, "recover_bench: the object is not there\n");
			break;
		}
	}
	seg_stats(s, &n);
	if (op.result || n.objects != shape->objects)
		fprintf(stderr, "recover_bench: %" PRIu64 " objects of %u; read %d\n", n.objects, shape->objects,
			op.result);
	struct times t = {seconds(served - begin), seconds(all - begin), (double)n.objects};
	if (op.result)
		t.objects = 0;
	seg_close(s, 1000);
	seg_names_destroy(names);
	free(memory);
	free(sums);
	return t;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

#define RUNS 5

static bool measure(const struct shape *s)
{
	struct maker m;
	double all[RUNS], first[RUNS], least[RUNS];
	bool ok = true, complete = true;
	char name[80];

	make(&m, s);
	for (int i = 0; i < RUNS; i++) {
		drop_caches();
		least[i] = limit(&m);
		drop_caches();
		struct times t = start(&m, s);
		all[i] = t.all * 1e6 / s->objects;
		first[i] = t.first_hit;
		complete &= t.objects == s->objects;
	}
	qsort(all, RUNS, sizeof(double), by_value);
	qsort(first, RUNS, sizeof(double), by_value);
	qsort(least, RUNS, sizeof(double), by_value);
	double per = least[RUNS / 2] * 1e6 / s->objects, bound = s->unsealed ? 1.0 * s->objects / 1e6 + 1.0 : 1.0;
	double ours = s->unsealed ? all[RUNS / 2] * s->objects / 1e6 : all[RUNS / 2];
	snprintf(name, sizeof(name), "%s: %s", s->what, s->unsealed ? "restart" : "per million objects");
	ok &= bench_row(name, ours, s->unsealed ? least[RUNS / 2] : per, "s", "its summaries read one by one",
			ours / bound, s->unsealed ? "<= 1 s/M + 1 s" : "<= 1 s", complete && ours <= bound);
	snprintf(name, sizeof(name), "%s: first hit (newest object)", s->what);
	ok &= bench_row(name, first[RUNS / 2], 0.2, "s", "goal", first[RUNS / 2] / 0.2, "<= 0.2 s",
			complete && first[RUNS / 2] <= 0.2);
	unmake(&m);
	return ok;
}

int main(void)
{
	static const struct shape shapes[] = {
		{"1 M objects of 4 KiB, 35 segments", 4096, 256u << 20, OBJECTS, 0},
		{"1 M objects of 1 MiB, 4.1 k segments", 1u << 20, 256u << 20, OBJECTS, 0},
		{"100 k of 1 MiB, 4 segments unsealed", 1u << 20, 256u << 20, OBJECTS / 10, 4},
	};
	const char *dir = getenv("LMCA_BENCH_DIR");
	bool ok = true;

	log_set_level(LOG_LVL_ERROR);
	snprintf(path, sizeof(path), "%.200s/lmca-recover-%d", dir ? dir : "/var/tmp", (int)getpid());
	bench_head("recovery of a store, caches dropped, median of 5; ratio: ours / goal");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		ok &= measure(&shapes[i]);
	return ok ? 0 : 1;
}
