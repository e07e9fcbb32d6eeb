/* beside_fio.h - what disk_bench and l2_bench share: a file and memory to work on, fio on that same file, the default shape of
 * file backends, and rows of interleaved pairs. Included once per program; its state is the file and the huge pages to be given back.
 */
#ifndef TOOLS_BENCH_BESIDE_FIO_H
#define TOOLS_BENCH_BESIDE_FIO_H

#include "daemon/base/clock.h"
#include "tools/bench/row.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
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
#define RUN_NS    1000000000ull
#define HUGE_FILE "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

static char path[256]; /* of the file */
static long huge_before = -1;

struct rig {
	uint8_t *mem; /* MEM bytes */
	bool huge, fio;
	uint32_t pairs;
	uint64_t seed;
};

struct result {
	double read, write, p99_ms, cpu_ms_per_gib; /* GB/s */
};

/* ---- set-up ---------------------------------------------------------------------------------------------------------- */

static inline long huge_get(void)
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

static inline void huge_set(long n)
{
	FILE *f = fopen(HUGE_FILE, "we");

	if (!f)
		return;
	fprintf(f, "%ld", n);
	fclose(f);
}

static inline void clean(void)
{
	if (path[0])
		unlink(path);
	if (huge_before >= 0)
		huge_set(huge_before);
}

static inline void on_signal(int sig)
{
	(void)sig;
	exit(130); /* NOLINT: the bench has nothing to lose, the machine has pages to get back */
}

static inline int make_file(const struct rig *b, const char *dir)
{
	int fd;

	snprintf(path, sizeof path, "%s/bench_XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0 || posix_fallocate(fd, 0, FILE_SIZE)) {
		printf("no file of 1 GiB in %s: %s\n", dir, strerror(errno));
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

static inline void make_memory(struct rig *b)
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

static inline uint64_t next_random(struct rig *b)
{
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return b->seed;
}

static inline double cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

/* From the command line: [directory] [pairs]. */
static inline void rig_open(struct rig *r, int argc, char **argv)
{
	const char *dir = argc > 1 ? argv[1] : getenv("LMCA_BENCH_DIR");

	*r = (struct rig){
		.pairs = 9, .seed = 88172645463325252ull, .fio = system("command -v fio >/dev/null 2>&1") == 0};
	if (argc > 2)
		r->pairs = (uint32_t)strtoul(argv[2], NULL, 10);
	if (!r->pairs || r->pairs > MAX_PAIRS)
		r->pairs = 9;
	atexit(clean);
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	make_memory(r);
	if (make_file(r, dir ? dir : "/var/tmp"))
		exit(1);
	if (!r->fio)
		printf("fio is not installed: its rows are left out\n");
}

/* ---- the others ------------------------------------------------------------------------------------------------------ */

static inline double fio(const struct rig *b, uint64_t bytes, bool write)
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

static inline void *read_some(void *arg)
{
	struct reader *r = arg;

	for (uint32_t i = r->at; i < FILE_SIZE / (4 * MIB); i += r->step)
		if (pread(r->fd, r->buf, 4 * MIB, (off_t)(r->order[i] * 4 * MIB)) != (ssize_t)(4 * MIB))
			exit(1);
	return NULL;
}

/* What fs_native does unless told otherwise: 4 threads, buffered, memory of ordinary pages. The whole file once, nothing cached. */
static inline struct result native_shape(struct rig *b)
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

static inline int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static inline double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof v[0], by_value);
	return v[n / 2];
}

/* Pairs of two figures, and the median of their ratios. */
struct pairs {
	double a[MAX_PAIRS], b[MAX_PAIRS], ratio[MAX_PAIRS];
	uint32_t n;
};

static inline void pair(struct pairs *p, double a, double b)
{
	p->a[p->n] = a;
	p->b[p->n] = b;
	p->ratio[p->n++] = a / b;
}

static inline bool row(struct pairs *p, const char *name, const char *unit, const char *limit, double goal,
		       bool at_most)
{
	char text[32];
	double mid = median(p->ratio, p->n);
	bool ok = !goal || (at_most ? mid <= goal : mid >= goal);

	snprintf(text, sizeof text, goal ? "%s %.2f" : "no goal", at_most ? "<=" : ">=", goal);
	bench_row(name, median(p->a, p->n), median(p->b, p->n), unit, limit, mid, text, ok);
	printf("%-44s pairs: ratios %.2f to %.2f\n", "", p->ratio[0], p->ratio[p->n - 1]);
	return ok;
}

#endif
