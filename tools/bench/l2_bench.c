/* l2_bench.c - the second tier as the server uses it (raw_block: thread, ring, index, records, checksums) beside fio.
 *
 * Rows: objects of 4 MiB loaded and stored, with checksums and without, 32 MiB in flight, against fio with blocks of 1 MiB, the same
 * bytes in flight and the same kind of memory; loads against the default shape of file backends, with CPU time per GiB; loads beside
 * write-back against loads alone. Stores bring their checksums along, as they do from STORE, where the copy computed them; in the last
 * row of stores the tier computes them itself.
 *
 * l2_bench [directory] [pairs] [row]     default: $LMCA_BENCH_DIR or /var/tmp, 9 pairs, all rows (else those with these words in their
 * names); takes 4 GiB there while it runs
 */
#include "daemon/base/crc32c.h"
#include "daemon/l2/l2.h"
#include "tools/bench/beside_fio.h"

#include <stdatomic.h>

#define OBJECT (4 * MIB)
#define WINDOW           \
	(2 * IN_FLIGHT / \
	 OBJECT) /* operations of one kind at once: the window of the disk is always full, as fio keeps its own */
#define OBJECTS  (FILE_SIZE / OBJECT) /* that are loaded */
#define CAPACITY (FILE_SIZE * 3 / 2)

struct bench;
struct job {
	struct l2_io io;
	struct bench *b;
	uint32_t sums[OBJECT / CRC_BLOCK];
};

struct bench {
	struct rig rig;
	struct seg_names *names;
	uint32_t name;
	struct l2 *l2;
	struct job loads[WINDOW], stores[WINDOW];
	uint32_t sums[MEM / OBJECT][OBJECT / CRC_BLOCK]; /* of the pieces of rig.mem */
	bool give_sums;
	_Atomic uint64_t next; /* key of the next store */
	uint64_t end_ns;
	_Atomic uint64_t ended_ns; /* the last operation */
	_Atomic uint64_t read_bytes, write_bytes;
	_Atomic int64_t left; /* bytes until the end; may fall below 0 */
	_Atomic uint32_t busy, misses;
	_Atomic int error;
};

static char store_path[280];
static const char *only; /* rows with this in their names */

static bool wanted(const char *name)
{
	return !only || strstr(name, only);
}

static void remove_store(void)
{
	if (store_path[0])
		unlink(store_path);
}

/* ---- ours ------------------------------------------------------------------------------------------------------------ */

static struct seg_key key_of(const struct bench *b, uint64_t n)
{
	struct seg_key k = {.name = b->name};

	for (int i = 0; i < 4; i++) {
		uint64_t x = (n * 4 + (uint64_t)i + 1) * 0x9e3779b97f4a7c15ull;
		memcpy(k.hash.b + 8 * i, &x, 8);
	}
	return k;
}

static void next_load(struct job *j);
static void next_store(struct job *j);

/* On the adapter's thread. */
static void ended(struct l2_io *io)
{
	struct job *j = io->owner;
	struct bench *b = j->b;
	bool load = j >= b->loads && j < b->loads + WINDOW;
	int64_t left;

	if (load && io->result == -ENOENT) /* evicted by the stores beside it */
		atomic_fetch_add(&b->misses, 1);
	else if (io->result)
		atomic_store(&b->error, io->result);
	else
		atomic_fetch_add(load ? &b->read_bytes : &b->write_bytes, io->bytes);
	atomic_store(&b->ended_ns, clock_ns());
	left = atomic_fetch_sub(&b->left, (int64_t)OBJECT);
	if (left > (int64_t)OBJECT && clock_ns() < b->end_ns && !b->error)
		(load ? next_load : next_store)(j);
	else
		atomic_fetch_sub(&b->busy, 1);
}

static void next_load(struct job *j)
{
	struct bench *b = j->b;

	j->io.key = key_of(b, next_random(&b->rig) % OBJECTS);
	b->l2->ops->load(b->l2, &j->io);
}

static void next_store(struct job *j)
{
	struct bench *b = j->b;
	size_t piece = (size_t)((uint8_t *)j->io.mem - b->rig.mem) / OBJECT;

	j->io.key = key_of(b, b->next++);
	j->sums[0] = 0;
	if (b->give_sums)
		memcpy(j->sums, b->sums[piece], sizeof(j->sums));
	b->l2->ops->store(b->l2, &j->io);
}

static void prepare(struct bench *b, struct job *jobs, uint8_t *mem)
{
	for (uint32_t i = 0; i < WINDOW; i++)
		jobs[i] = (struct job){.b = b,
				       .io = {.mem = mem + i * OBJECT,
					      .bytes = OBJECT,
					      .sums = jobs[i].sums,
					      .done = ended,
					      .owner = &jobs[i]}};
}

/* Until the time is over, or `bytes` were moved. */
static struct result ours(struct bench *b, bool loads, bool stores, uint64_t bytes)
{
	struct result r = {0};
	double cpu = cpu_ms();
	uint64_t t0 = clock_ns(), took;

	prepare(b, b->loads, b->rig.mem);
	prepare(b, b->stores, b->rig.mem + MEM / 2);
	b->read_bytes = b->write_bytes = 0;
	b->left = bytes ? (int64_t)bytes : INT64_MAX / 2;
	b->end_ns = bytes ? UINT64_MAX : t0 + RUN_NS;
	b->busy = (loads ? WINDOW : 0) + (stores ? WINDOW : 0);
	for (uint32_t i = 0; i < WINDOW; i++) {
		if (loads)
			next_load(&b->loads[i]);
		if (stores)
			next_store(&b->stores[i]);
	}
	while (atomic_load(&b->busy))
		usleep(5000); /* more often would be CPU time that is not the tier's */
	took = b->ended_ns - t0;
	if (b->error) {
		printf("l2_bench: %s\n", strerror(-b->error));
		exit(1);
	}
	r.read = (double)b->read_bytes / (double)took;
	r.write = (double)b->write_bytes / (double)took;
	r.cpu_ms_per_gib = (cpu_ms() - cpu) / ((double)(b->read_bytes + b->write_bytes) / (double)(1u << 30));
	return r;
}

static void open_l2(struct bench *b, bool verify)
{
	struct disk_buffer buffer = {.base = b->rig.mem, .bytes = MEM};
	struct l2_env env = {.names = b->names, .buffers = &buffer, .nbuffers = 1, .chunk_tokens = 256};
	struct l2_conf *conf;
	struct why why = {0};
	char json[512];

	snprintf(
		json, sizeof(json),
		"{\"type\": \"raw_block\", \"device_path\": \"%s\", \"capacity_bytes\": %llu, \"segment_bytes\": %llu, "
		"\"verify\": \"%s\", \"window_mb\": %llu}",
		store_path, (unsigned long long)CAPACITY, 64 * MIB, verify ? "full" : "off", IN_FLIGHT / MIB);
	if (l2_conf_parse(json, 0, &conf, &why) || l2_create(conf, &env, &b->l2, &why)) {
		printf("l2_bench: %s\n", why.text);
		exit(1);
	}
	l2_conf_free(conf);
}

static void flushed(struct l2_io *io)
{
	atomic_store((_Atomic int *)io->owner, 1);
}

static void flush(struct bench *b)
{
	_Atomic int done = 0;
	struct l2_io io = {.done = flushed, .owner = (void *)&done};

	b->l2->ops->flush(b->l2, &io);
	while (!atomic_load(&done))
		usleep(1000);
}

static void close_l2(struct bench *b)
{
	flush(b);
	b->l2->ops->close(b->l2, 10000);
}

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

static double mine(struct bench *b, bool store)
{
	struct result r = ours(b, !store, store, 0);

	return store ? r.write : r.read;
}

static bool beside_fio(struct bench *b, const char *name, bool store, double goal)
{
	struct pairs p = {.n = 0};

	for (uint32_t i = 0; i <= b->rig.pairs && b->rig.fio && wanted(name); i++) { /* the first warms up */
		double theirs = i & 1 ? fio(&b->rig, MIB, store) : 0, we = mine(b, store);

		if (!(i & 1))
			theirs = fio(&b->rig, MIB, store);
		b->rig.fio = theirs > 0;
		if (i && theirs > 0)
			pair(&p, we, theirs);
	}
	return !p.n || row(&p, name, "GB/s", "fio 1 MiB", goal, false);
}

static void control(struct bench *b)
{
	struct pairs p = {.n = 0};

	for (uint32_t i = 0; i < b->rig.pairs && b->rig.fio && wanted("control"); i++)
		pair(&p, mine(b, false), mine(b, false));
	if (p.n)
		row(&p, "control: load, checksums", "GB/s", "the same again", 0, false);
}

static bool beside_native(struct bench *b)
{
	struct pairs speed = {.n = 0}, cpu = {.n = 0}, drive = {.n = 0};
	double most;
	bool ok;

	for (uint32_t i = 0; i <= b->rig.pairs; i++) {
		struct result n = {0}, o;

		if (i & 1)
			n = native_shape(&b->rig);
		o = ours(b, true, false, FILE_SIZE);
		most = b->rig.fio ? fio(&b->rig, MIB, false) : 0;
		if (!(i & 1))
			n = native_shape(&b->rig);
		if (!i)
			continue;
		pair(&speed, o.read, n.read);
		if (most > 0)
			pair(&drive, most, n.read);
		pair(&cpu, o.cpu_ms_per_gib, n.cpu_ms_per_gib);
	}
	ok = row(&speed, "load, checksums", "GB/s", "4 threads, buffered", 2, false);
	if (drive.n) /* what any engine could reach on this drive */
		row(&drive, "fio 1 MiB, for comparison", "GB/s", "4 threads, buffered", 0, false);
	return row(&cpu, "its CPU time", "ms/GiB", "4 threads, buffered", 0.25, true) && ok;
}

static bool beside_writes(struct bench *b)
{
	struct pairs speed = {.n = 0}, writes = {.n = 0};

	for (uint32_t i = 0; i <= b->rig.pairs; i++) {
		struct result alone = {0}, with;

		if (i & 1)
			alone = ours(b, true, false, 0);
		with = ours(b, true, true, 0);
		if (!(i & 1))
			alone = ours(b, true, false, 0);
		if (!i)
			continue;
		pair(&speed, with.read, alone.read);
		pair(&writes, with.write, with.read);
	}
	printf("loads of objects that the stores had evicted: %u\n", b->misses);
	row(&writes, "write-back meanwhile", "GB/s", "the loads beside it", 0, false);
	return row(&speed, "load beside write-back", "GB/s", "loads alone", 0.90, false);
}

/* The objects that are loaded; stores use keys behind them, and evict those first that nobody loads. */
static void fill(struct bench *b)
{
	b->next = 0;
	ours(b, false, true, FILE_SIZE - WINDOW * OBJECT);
	while (b->next < OBJECTS)
		ours(b, false, true, 1);
	flush(b);
}

static void fresh(struct bench *b, bool verify)
{
	remove_store();
	open_l2(b, verify);
	fill(b);
}

int main(int argc, char **argv)
{
	static struct bench b;
	struct seg_name name = {.model = slice_str("bench"), .salt = slice_str("")};
	bool ok = true;

	rig_open(&b.rig, argc, argv);
	only = argc > 3 ? argv[3] : NULL;
	snprintf(store_path, sizeof(store_path), "%s.l2", path);
	atexit(remove_store);
	if (seg_names_create(&b.names))
		return 1;
	b.name = seg_name_get(b.names, &name);
	for (uint32_t i = 0; i < MEM / OBJECT; i++)
		crc32c_blocks(b.rig.mem + i * OBJECT, OBJECT, b.sums[i]);
	b.give_sums = true;
	bench_head("L2: objects of 4 MiB through the raw_block adapter");
	fresh(&b, false);
	ok = beside_fio(&b, "load, no checksums", false, 0.95) && ok;
	close_l2(&b);
	fresh(&b, true);
	ok = beside_fio(&b, "load, checksums", false, 0.92) && ok;
	control(&b);
	if (wanted("threads"))
		ok = beside_native(&b) && ok;
	ok = beside_fio(&b, "store, checksums from the copy", true, 0.95) && ok;
	b.give_sums = false;
	ok = beside_fio(&b, "store, checksums computed", true, 0.90) && ok;
	b.give_sums = true;
	close_l2(&b);
	fresh(&b, true);
	if (wanted("write-back"))
		ok = beside_writes(&b) && ok;
	close_l2(&b);
	seg_names_destroy(b.names);
	return ok ? 0 : 1;
}
