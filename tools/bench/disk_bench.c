/* disk_bench.c - the disk engine beside fio on the same file, and beside the shape that file backends have by default.
 *
 * Rows: reads and writes of 1 MiB and 4 MiB at random places, 32 MiB in flight, io_uring, O_DIRECT, fixed buffers on huge pages for both
 * (ordinary pages for both where there are none); fio against itself; reads beside write-back against reads alone; and 4 threads of
 * buffered pread of 4 MiB (the default of fs_native) against the engine, with CPU time per GiB. Pairs are interleaved, their order
 * alternates, and the ratio is the median of the pairs' ratios.
 *
 * disk_bench [directory] [pairs]     default: $LMCA_BENCH_DIR or /var/tmp, 9 pairs; takes 1 GiB there while it runs
 */
#include "tools/bench/beside_fio.h"
#include "transport/disk/disk.h"

#define MAX_REQS 64u

struct bench {
	struct rig rig;
	struct disk_stats total; /* of all runs of ours */
	bool traced;
};

/* ---- ours ------------------------------------------------------------------------------------------------------------ */

struct load;
struct req {
	struct disk_io io;
	struct load *load;
};
struct load {
	struct bench *b;
	struct disk *d;
	struct req reads[MAX_REQS], writes[MAX_REQS];
	uint64_t read_bytes, write_bytes, bytes; /* done; of one request */
	uint64_t end, left;                      /* until then, or so many bytes */
	uint32_t nlat, flying;
	uint32_t lat_us[65536];
	int error;
};

static void go(struct load *l, struct req *r)
{
	r->io.offset = next_random(&l->b->rig) % (FILE_SIZE / l->bytes) * l->bytes;
	l->flying++;
	disk_submit(l->d, &r->io);
}

static void ended(struct disk_io *io)
{
	struct req *r = io->owner;
	struct load *l = r->load;
	uint64_t now = clock_ns();

	l->flying--;
	if (io->result)
		l->error = io->result;
	if (io->op == DISK_READ && l->nlat < sizeof l->lat_us / sizeof l->lat_us[0])
		l->lat_us[l->nlat++] = (uint32_t)((now - io->started_ns) / 1000);
	*(io->op == DISK_READ ? &l->read_bytes : &l->write_bytes) += io->bytes;
	l->left = l->left > io->bytes ? l->left - io->bytes : 0;
	if (now < l->end && l->left && !l->error)
		go(l, r);
}

static void start(struct load *l, struct req *r, enum disk_op op, uint32_t n, uint64_t mem_at)
{
	for (uint32_t i = 0; i < n; i++) {
		r[i] = (struct req){.load = l,
				    .io = {.op = op,
					   .bytes = l->bytes,
					   .buf = l->b->rig.mem + mem_at + i * l->bytes,
					   .done = ended,
					   .owner = &r[i]}};
		go(l, &r[i]);
	}
}

static struct disk *open_ours(const struct bench *b)
{
	struct disk_buffer buffer = {.base = b->rig.mem, .bytes = MEM};
	struct disk_conf c = {.path = path,
			      .write = true,
			      .buffers = &buffer,
			      .nbuffers = 1,
			      .window_bytes = IN_FLIGHT,
			      .trace = true};
	struct why why = {0};
	struct disk *d;

	if (disk_open(&c, &d, &why)) {
		printf("disk_bench: %s\n", why.text);
		exit(1);
	}
	return d;
}

static void add_stats(struct bench *b, struct disk *d)
{
	struct disk_stats s;

	disk_stats(d, &s);
	b->total.sub_ios += s.sub_ios;
	b->total.punts += s.punts;
	b->total.splits += s.splits;
	b->total.fixed_bytes += s.fixed_bytes;
	b->total.loose_bytes += s.loose_bytes;
	b->total.submit_calls += s.submit_calls;
	b->traced = s.traced;
}

static int by_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Requests of `bytes`, twice as many queued as the window takes. `left`: stop after so many bytes instead of a second. */
static struct result ours(struct bench *b, uint64_t bytes, bool reads, bool writes, uint64_t left)
{
	static struct load l;
	struct result r = {0};
	uint32_t n = (uint32_t)(2 * IN_FLIGHT / bytes), at;
	double cpu;
	uint64_t t0, took;

	memset(&l, 0, sizeof l);
	l.b = b;
	l.bytes = bytes;
	l.d = open_ours(b);
	if (n > MAX_REQS)
		n = MAX_REQS;
	disk_run(l.d, 0); /* the ring is enabled and the tracepoints are set by the first call: tens of ms */
	cpu = cpu_ms();
	t0 = clock_ns();
	l.left = left ? left : UINT64_MAX;
	l.end = left ? UINT64_MAX : t0 + RUN_NS;
	if (reads)
		start(&l, l.reads, DISK_READ, n, 0);
	if (writes)
		start(&l, l.writes, DISK_WRITE, n, MEM / 2);
	while (l.flying) /* to the last one, as fio counts */
		disk_run(l.d, 100000000);
	took = clock_ns() - t0;
	cpu = cpu_ms() - cpu;
	r.read = (double)l.read_bytes / (double)took;
	r.write = (double)l.write_bytes / (double)took;
	r.cpu_ms_per_gib = cpu / ((double)(l.read_bytes + l.write_bytes) / (double)(1u << 30));
	qsort(l.lat_us, l.nlat, sizeof l.lat_us[0], by_u32);
	at = (uint32_t)((uint64_t)l.nlat * 99 / 100);
	r.p99_ms = l.nlat ? l.lat_us[at] / 1e3 : 0;
	add_stats(b, l.d);
	disk_close(l.d, 10000);
	if (l.error) {
		printf("disk_bench: IO fails: %s\n", strerror(-l.error));
		exit(1);
	}
	return r;
}

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

static bool beside_fio(struct bench *b, uint64_t bytes, bool write)
{
	struct pairs p = {.n = 0};
	char name[64];

	for (uint32_t i = 0; i <= b->rig.pairs; i++) { /* the first warms up and does not count */
		double theirs = 0, mine;
		struct result r;

		if (i & 1)
			theirs = fio(&b->rig, bytes, write);
		r = ours(b, bytes, !write, write, 0);
		mine = write ? r.write : r.read;
		if (!(i & 1))
			theirs = fio(&b->rig, bytes, write);
		if (theirs <= 0) {
			printf("fio does not run like this here: its rows are left out\n");
			b->rig.fio = false;
			return true;
		}
		if (i)
			pair(&p, mine, theirs);
	}
	snprintf(name, sizeof name, "%s, %llu MiB, %s pages", write ? "write" : "read",
		 (unsigned long long)(bytes / MIB), b->rig.huge ? "huge" : "4 KiB");
	return row(&p, name, "GB/s", "fio io_uring fixed", 0.95, false);
}

static void fio_beside_itself(struct bench *b)
{
	struct pairs p = {.n = 0};

	for (uint32_t i = 0; i < b->rig.pairs; i++) {
		double x = fio(&b->rig, MIB, false), y = fio(&b->rig, MIB, false);
		if (x <= 0 || y <= 0)
			return;
		pair(&p, x, y);
	}
	row(&p, "control: fio, read, 1 MiB", "GB/s", "the same again", 0, false);
}

static bool beside_native(struct bench *b)
{
	struct pairs speed = {.n = 0}, cpu = {.n = 0};
	bool ok;

	for (uint32_t i = 0; i <= b->rig.pairs; i++) {
		struct result n, o;

		if (i & 1)
			n = native_shape(&b->rig);
		o = ours(b, 4 * MIB, true, false, FILE_SIZE);
		if (!(i & 1))
			n = native_shape(&b->rig);
		if (!i)
			continue;
		pair(&speed, o.read, n.read);
		pair(&cpu, o.cpu_ms_per_gib, n.cpu_ms_per_gib);
	}
	ok = row(&speed, "read, 4 MiB", "GB/s", "4 threads, buffered", 2, false);
	return row(&cpu, "its CPU time", "ms/GiB", "4 threads, buffered", 0.25, true) && ok;
}

static bool beside_writes(struct bench *b)
{
	struct pairs speed = {.n = 0}, p99 = {.n = 0}, writes = {.n = 0};
	bool ok;

	for (uint32_t i = 0; i <= b->rig.pairs; i++) {
		struct result with, alone = {0};

		if (i & 1)
			alone = ours(b, 4 * MIB, true, false, 0);
		with = ours(b, 4 * MIB, true, true, 0);
		if (!(i & 1))
			alone = ours(b, 4 * MIB, true, false, 0);
		if (!i)
			continue;
		pair(&speed, with.read, alone.read);
		pair(&p99, with.p99_ms, alone.p99_ms);
		pair(&writes, with.write, with.read);
	}
	ok = row(&speed, "read beside write-back, 4 MiB", "GB/s", "reads alone", 0.90, false);
	row(&p99, "their p99", "ms", "reads alone", 0, true);
	row(&writes, "write-back meanwhile", "GB/s", "the reads beside it", 0, false);
	return ok;
}

static bool counters(const struct bench *b)
{
	const struct disk_stats *t = &b->total;

	printf("all runs of ours: %llu sub-IOs, %.1f GiB through fixed buffers, %.1f GiB not, %.2f calls of the kernel "
	       "per sub-IO\n",
	       (unsigned long long)t->sub_ios, (double)t->fixed_bytes / (double)(1u << 30),
	       (double)t->loose_bytes / (double)(1u << 30),
	       (double)t->submit_calls / (double)(t->sub_ios ? t->sub_ios : 1));
	if (!b->traced) {
		printf("punts and splits: not counted (tracepoints need root and tracefs)\n");
		return true;
	}
	printf("punts to kernel threads %llu, requests split %llu: %s\n", (unsigned long long)t->punts,
	       (unsigned long long)t->splits, t->punts || t->splits ? "MISS" : "ok");
	return !t->punts && !t->splits;
}

int main(int argc, char **argv)
{
	struct bench b = {.traced = false};
	bool ok = true;

	rig_open(&b.rig, argc, argv);
	bench_head("disk");
	for (int write = 0; write < 2; write++)
		for (uint64_t bytes = MIB; b.rig.fio && bytes <= 4 * MIB; bytes *= 4)
			ok = beside_fio(&b, bytes, write) && ok;
	if (b.rig.fio)
		fio_beside_itself(&b);
	ok = beside_native(&b) && ok;
	ok = beside_writes(&b) && ok;
	ok = counters(&b) && ok;
	return ok ? 0 : 1;
}
