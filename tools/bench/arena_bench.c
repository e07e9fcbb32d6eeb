/* arena_bench.c - how fast L1 memory is made ready at the start: bytes per second prefaulted, by kind of pages and threads.
 *
 * Each pass makes an arena as the daemon does (same calls, bound to node 0 where there is more than one) and times it from nothing
 * to all committed; the limit is memset of the same bytes by the same number of threads right after, when all pages are there:
 * prefaulting has to write every byte once too. The ratio is the median over the passes of ratios of such neighbours.
 *
 * Huge pages are used when free; as root those that lack are reserved for the run, at most 1 GiB, and given back, and shared
 * memory is a tmpfs of our own with huge=advise.
 *
 * arena_bench [MiB] [passes]
 */
#include "numa/arena.h"
#include "tools/bench/row.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 2u
#define MAX_PASSES  63u
#define MAX_MIB     1024u
#define HUGE_PAGE   (2ull << 20)
#define HUGE_DIR    "/sys/kernel/mm/hugepages/hugepages-2048kB/"

struct kind {
	const char *name;
	struct arena_conf conf;
	double goal; /* of the limit; a page of 4 KiB costs more to hand out than to write */
};

struct bench {
	uint64_t bytes;
	uint32_t passes;
};

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof(v[0]), by_value);
	return v[n / 2];
}

/* ---- the limit ---------------------------------------------------------------------------------------------------- */

struct filler {
	uint8_t *p;
	uint64_t n;
};

static void *fill(void *arg)
{
	const struct filler *f = arg;

	memset(f->p, 0x5a, f->n);
	return NULL;
}

static double memset_s(uint8_t *p, uint64_t bytes, uint32_t threads)
{
	struct filler f[MAX_THREADS];
	pthread_t t[MAX_THREADS];
	double t0 = now_s();

	for (uint32_t i = 0; i < threads; i++) {
		f[i] = (struct filler){p + bytes / threads * i, bytes / threads};
		if (pthread_create(&t[i], NULL, fill, &f[i]) != 0)
			exit(1);
	}
	for (uint32_t i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	return now_s() - t0;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

/* Seconds from nothing to all committed; -1 = these pages cannot be had, *why says it. */
static double pass(const struct bench *b, const struct kind *k, uint32_t threads, double *limit, struct why *why)
{
	struct arena_conf conf = k->conf;
	struct arena *a;
	double t0, took;

	*limit = 1;
	conf.bytes = b->bytes;
	conf.threads = threads;
	t0 = now_s();
	if (arena_create(&conf, &a, why) != 0)
		return -1;
	took = now_s() - t0;
	*limit = memset_s(arena_base(a), b->bytes, threads);
	arena_destroy(a);
	return took;
}

/* 1: goal met, 0: missed, -1: these pages cannot be had. */
static int row(const struct bench *b, const struct kind *k, uint32_t threads)
{
	double ours[MAX_PASSES], limit[MAX_PASSES], ratio[MAX_PASSES];
	struct why why = {0};
	char name[96], goal[32];

	for (uint32_t p = 0; p <= b->passes; p++) { /* the first warms the machine and does not count */
		uint32_t at = p ? p - 1 : 0;
		double took = pass(b, k, threads, &limit[at], &why);

		if (took < 0) {
			printf("%-44s skipped: %s\n", k->name, why.text);
			return -1;
		}
		ratio[at] = limit[at] / took;
		ours[at] = (double)b->bytes / took / 1e9;
		limit[at] = (double)b->bytes / limit[at] / 1e9;
	}
	double mid = median(ratio, b->passes);
	snprintf(name, sizeof(name), "prefault, %s, %u thread%s", k->name, threads, threads > 1 ? "s" : "");
	snprintf(goal, sizeof(goal), ">= %.2f", k->goal);
	return bench_row(name, median(ours, b->passes), median(limit, b->passes), "GB/s", "memset of present pages",
			 mid, goal, mid >= k->goal);
}

static bool rows(const struct bench *b)
{
	static const struct kind kinds[] = {
		{"shared, 4 KiB", {.shm_name = "lmca_arena_bench"}, 0.2},
		{"shared, transparent", {.shm_name = "lmca_arena_bench", .thp = WANT_YES}, 0.5},
		{"anonymous, transparent", {.shm_name = "", .thp = WANT_YES}, 0.5},
		{"huge 2 MiB", {.shm_name = "", .huge_2m = WANT_YES}, 0.6},
		{"huge 1 GiB", {.shm_name = "", .huge_1g = WANT_YES}, 0.6},
	};
	bool ok = true;

	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		struct bench at = *b;
		int met = 1;

		if (kinds[k].conf.huge_1g && at.bytes < 1ull << 30)
			at.bytes = 1ull << 30;
		for (uint32_t n = 1; met >= 0 && n <= MAX_THREADS; n++) {
			met = row(&at, &kinds[k], n);
			ok &= met != 0;
		}
	}
	return ok;
}

/* ---- pages ---------------------------------------------------------------------------------------------------------- */

static long read_count(const char *path)
{
	char text[32];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

static void write_count(const char *path, long count)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	dprintf(fd, "%ld", count);
	close(fd);
}

/* Whether a machine's /dev/shm has transparent huge pages is its operator's choice; as root we bring one that has. */
static void own_shm(void)
{
	if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		(void)mount("none", "/dev/shm", "tmpfs", 0, "huge=advise");
}

/* The child measures; the parent is there to give the pages back whatever becomes of it. */
int main(int argc, char **argv)
{
	struct bench b = {.bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 512) << 20,
			  .passes = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 7};
	long need = (long)(b.bytes / HUGE_PAGE), had, status = 1;
	char title[96];

	if (b.bytes < 64ull << 20 || b.bytes > (uint64_t)MAX_MIB << 20 || b.bytes % HUGE_PAGE || b.passes < 1 ||
	    b.passes > MAX_PASSES) {
		fprintf(stderr, "usage: arena_bench [MiB, 64 to %u, even] [passes, <= %u]\n", MAX_MIB, MAX_PASSES);
		return 2;
	}
	int lock = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC);
	if (lock >= 0)
		flock(lock, LOCK_EX); /* others of our programs that set this number */
	signal(SIGINT, SIG_IGN);
	had = read_count(HUGE_DIR "nr_hugepages");
	long avail = read_count(HUGE_DIR "free_hugepages");
	if (had >= 0 && avail < need)
		write_count(HUGE_DIR "nr_hugepages", had + need - avail);
	snprintf(title, sizeof(title), "arena start-up (%llu MiB each)", (unsigned long long)(b.bytes >> 20));
	bench_head(title);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGINT, SIG_DFL);
		own_shm();
		exit(rows(&b) ? 0 : 1);
	}
	int wait_status = -1;
	if (pid > 0 && waitpid(pid, &wait_status, 0) == pid)
		status = wait_status == 0 ? 0 : 1;
	if (had >= 0 && read_count(HUGE_DIR "nr_hugepages") != had)
		write_count(HUGE_DIR "nr_hugepages", had);
	if (lock >= 0)
		close(lock);
	return (int)status;
}
