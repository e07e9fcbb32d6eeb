/* disk_bench.c - the disk engine beside fio on the same file, and beside the shape that file backends have by default.
 *
 * Rows: reads and writes of 1 MiB and 4 MiB at random places, 32 MiB in flight, io_uring, O_DIRECT, fixed buffers on huge pages for both
 * (ordinary pages for both where there are none); fio against itself; reads beside write-back against reads alone; and 4 threads of
 * buffered pread of 4 MiB (the default of fs_native) against the engine, with CPU time per GiB. Pairs are interleaved, their order
 * alternates, and the ratio is the median of the pairs' ratios.
 *
 * disk_bench [directory] [pairs]     default: $LMCA_BENCH_DIR or /var/tmp, 9 pairs; takes 1 GiB there while it runs
 */
#include "daemon/base/clock.h"
#include "tools/bench/row.h"
#include "transport/disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MIB       (1ull << 20)
#define FILE_SIZE (1024 * MIB)
#define IN_FLIGHT (32 * MIB)
#define MEM       (128 * MIB)
#define MAX_PAIRS 63u
#define MAX_REQS  64u
#define RUN_NS    1000000000ull
#define HUGE_FILE "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static char path[256];
static long huge_before = -1;

struct bench {
	uint8_t *mem;
	bool huge, fio;
	uint32_t pairs;
	uint64_t seed;
	struct disk_stats total; /* of all runs of ours */
	bool traced;
};

/* ---- set-up ---------------------------------------------------------------------------------------------------------- */

static long huge_get(void)
{
	FILE *f = fopen(HUGE_FILE, "re");
	char text[32] = "";

	if (!f)
		return -1;
	if (!fgets(text, sizeof text, f))
		text[0] = 0;
	fclose(f);
	return text[0] ? strtol(text, NULL, 10) : -1;
}

static void huge_set(long n)
{
	FILE *f = fopen(HUGE_FILE, "we");

	if (!f)
		return;
	fprintf(f, "%ld", n);
	fclose(f);
}

static void clean(void)
{
	if (path[0])
		unlink(path);
	if (huge_before >= 0)
		huge_set(huge_before);
}

static void on_signal(int sig)
{
	(void)sig;
	exit(130); /* NOLINT: the bench has nothing to lose, the machine has pages to get back */
}

static int make_file(const struct bench *b, const char *dir)
{
	int fd;

	snprintf(path, sizeof path, "%s/disk_bench_XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0 || posix_fallocate(fd, 0, FILE_SIZE)) {
		printf("disk_bench: no file of 1 GiB in %s: %s\n", dir, strerror(errno));
		return -1;
	}
	for (uint64_t at = 0; at < FILE_SIZE; at += MEM) /* written: reads of what never was are not reads */
		if (pwrite(fd, b->mem, MEM, (off_t)at) != (ssize_t)MEM)
			return -1;
	fsync(fd);
	posix_fadvise(
		fd, 0, 0,
		POSIX_FADV_DONTNEED); /* direct IO would have to push cached pages out, which a ring leaves to others */
	close(fd);
	return 0;
}

static void make_memory(struct bench *b)
{
	uint64_t *w;

	if (geteuid() == 0) {
		huge_before = huge_get();
		if (huge_before >= 0)
			huge_set(huge_before + (long)(2 * MEM / (2 * MIB)));
	}
	b->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	b->huge = b->mem != MAP_FAILED;
	if (!b->huge)
		b->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->mem == MAP_FAILED)
		exit(1);
	w = (uint64_t *)(void *)b->mem;
	for (uint64_t i = 0; i < MEM / 8; i++)
		w[i] = i * 0x9e3779b97f4a7c15ull;
}

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

static uint64_t next_random(struct bench *b)
{
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return b->seed;
}

static void go(struct load *l, struct req *r)
{
	r->io.offset = next_random(l->b) % (FILE_SIZE / l->bytes) * l->bytes;
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
					   .buf = l->b->mem + mem_at + i * l->bytes,
					   .done = ended,
					   .owner = &r[i]}};
		go(l, &r[i]);
	}
}

static struct disk *open_ours(const struct bench *b)
{
	struct disk_buffer buffer = {b->mem, MEM};
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

struct result {
	double read, write, p99_ms, cpu_ms_per_gib; /* GB/s */
};

static double cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
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

/* ---- the others ------------------------------------------------------------------------------------------------------ */

static double fio(const struct bench *b, uint64_t bytes, bool write)
{
	char command[1024], line[8192], *p = line;
	FILE *f;

	snprintf(command, sizeof command,
		 "fio --minimal --name=x --filename=%s --size=%llu --rw=%s --bs=%llu --iodepth=%llu "
		 "--ioengine=io_uring --direct=1 "
		 "--fixedbufs=1 --registerfiles=1 --norandommap --randrepeat=0 --time_based --runtime=1 %s 2>/dev/null",
		 path, (unsigned long long)FILE_SIZE, write ? "randwrite" : "randread", (unsigned long long)bytes,
		 (unsigned long long)(IN_FLIGHT / bytes), b->huge ? "--iomem=shmhuge" : "");
	f = popen(command, "re"); /* NOLINT(cert-env33-c): a bench runs fio */
	if (!f)
		return -1;
	if (!fgets(line, sizeof line, f))
		line[0] = 0;
	if (pclose(f) || strncmp(line, "3;", 2) != 0)
		return -1;
	for (int field = 1; field < (write ? 48 : 7); field++) { /* bandwidth in KiB/s */
		p = strchr(p, ';');
		if (!p)
			return -1;
		p++;
	}
	return strtod(p, NULL) * 1024 / 1e9;
}

struct reader {
	int fd;
	uint32_t at, step;
	uint8_t *buf;
	const uint32_t *order;
};

static void *read_some(void *arg)
{
	struct reader *r = arg;

	for (uint32_t i = r->at; i < FILE_SIZE / (4 * MIB); i += r->step)
		if (pread(r->fd, r->buf, 4 * MIB, (off_t)(r->order[i] * 4 * MIB)) != (ssize_t)(4 * MIB))
			exit(1);
	return NULL;
}

/* What fs_native does unless told otherwise: 4 threads, buffered, memory of ordinary pages. The whole file once, nothing cached. */
static struct result native_shape(struct bench *b)
{
	enum { N = FILE_SIZE / (4 * MIB), THREADS = 4 };
	struct reader r[THREADS];
	pthread_t t[THREADS];
	uint32_t order[N];
	uint8_t *mem = mmap(NULL, THREADS * 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
			    -1, 0);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct result out = {0};
	uint64_t t0;
	double cpu;

	if (mem == MAP_FAILED || fd < 0)
		exit(1);
	madvise(mem, THREADS * 4 * MIB, MADV_NOHUGEPAGE);
	for (uint32_t i = 0; i < N; i++)
		order[i] = i;
	for (uint32_t i = N - 1; i; i--) {
		uint32_t k = (uint32_t)(next_random(b) % (i + 1)), x = order[i];
		order[i] = order[k];
		order[k] = x;
	}
	fdatasync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	cpu = cpu_ms();
	t0 = clock_ns();
	for (uint32_t i = 0; i < THREADS; i++) {
		r[i] = (struct reader){fd, i, THREADS, mem + i * 4 * MIB, order};
		if (pthread_create(&t[i], NULL, read_some, &r[i]))
			exit(1);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	out.read = (double)FILE_SIZE / (double)(clock_ns() - t0);
	out.cpu_ms_per_gib = (cpu_ms() - cpu) / ((double)FILE_SIZE / (double)(1u << 30));
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	munmap(mem, THREADS * 4 * MIB);
	close(fd);
	return out;
}

/* ---- rows ------------------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof v[0], by_value);
	return v[n / 2];
}

/* Pairs of two figures, and the median of their ratios. */
struct pairs {
	double a[MAX_PAIRS], b[MAX_PAIRS], ratio[MAX_PAIRS];
	uint32_t n;
};

static void pair(struct pairs *p, double a, double b)
{
	p->a[p->n] = a;
	p->b[p->n] = b;
	p->ratio[p->n++] = a / b;
}

static bool row(struct pairs *p, const char *name, const char *unit, const char *limit, double goal, bool at_most)
{
	char text[32];
	double mid = median(p->ratio, p->n);
	bool ok = !goal || (at_most ? mid <= goal : mid >= goal);

	snprintf(text, sizeof text, goal ? "%s %.2f" : "no goal", at_most ? "<=" : ">=", goal);
	bench_row(name, median(p->a, p->n), median(p->b, p->n), unit, limit, mid, text, ok);
	printf("%-44s pairs: ratios %.2f to %.2f\n", "", p->ratio[0], p->ratio[p->n - 1]);
	return ok;
}

static bool beside_fio(struct bench *b, uint64_t bytes, bool write)
{
	struct pairs p = {.n = 0};
	char name[64];

	for (uint32_t i = 0; i <= b->pairs; i++) { /* the first warms up and does not count */
		double theirs = 0, mine;
		struct result r;

		if (i & 1)
			theirs = fio(b, bytes, write);
		r = ours(b, bytes, !write, write, 0);
		mine = write ? r.write : r.read;
		if (!(i & 1))
			theirs = fio(b, bytes, write);
		if (theirs <= 0) {
			printf("fio does not run like this here: its rows are left out\n");
			b->fio = false;
			return true;
		}
		if (i)
			pair(&p, mine, theirs);
	}
	snprintf(name, sizeof name, "%s, %llu MiB, %s pages", write ? "write" : "read",
		 (unsigned long long)(bytes / MIB), b->huge ? "huge" : "4 KiB");
	return row(&p, name, "GB/s", "fio io_uring fixed", 0.95, false);
}

static void fio_beside_itself(struct bench *b)
{
	struct pairs p = {.n = 0};

	for (uint32_t i = 0; i < b->pairs; i++) {
		double x = fio(b, MIB, false), y = fio(b, MIB, false);
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

	for (uint32_t i = 0; i <= b->pairs; i++) {
		struct result n, o;

		if (i & 1)
			n = native_shape(b);
		o = ours(b, 4 * MIB, true, false, FILE_SIZE);
		if (!(i & 1))
			n = native_shape(b);
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

	for (uint32_t i = 0; i <= b->pairs; i++) {
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
	const char *dir = getenv("LMCA_BENCH_DIR");
	struct bench b = {
		.pairs = 9, .seed = 88172645463325252ull, .fio = system("command -v fio >/dev/null 2>&1") == 0};
	bool ok = true;

	if (argc > 1)
		dir = argv[1];
	if (argc > 2)
		b.pairs = (uint32_t)strtoul(argv[2], NULL, 10);
	if (!b.pairs || b.pairs > MAX_PAIRS)
		b.pairs = 9;
	atexit(clean);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	make_memory(&b);
	if (make_file(&b, dir ? dir : "/var/tmp"))
		return 1;
	bench_head("disk");
	if (!b.fio)
		printf("fio is not installed: its rows are left out\n");
	for (int write = 0; write < 2; write++)
		for (uint64_t bytes = MIB; b.fio && bytes <= 4 * MIB; bytes *= 4)
			ok = beside_fio(&b, bytes, write) && ok;
	if (b.fio)
		fio_beside_itself(&b);
	ok = beside_native(&b) && ok;
	ok = beside_writes(&b) && ok;
	ok = counters(&b) && ok;
	return ok ? 0 : 1;
}
