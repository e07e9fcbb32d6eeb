/* crc_bench.c - CRC-32C by every kernel of this CPU against one stream of the CPU's instruction, in the cache and from memory; and
 * the copy that computes it on the way against the same copy without.
 *
 * Short passes of all of them in turn; the ratio is the median of the ratios of neighbouring passes. The limit of what comes from memory
 * is the instruction or reading itself, whichever is slower to beat. Time is processor time.
 *
 * crc_bench [MiB of cold memory] [passes]
 */
#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/crc32c_kernels.h"
#include "tools/bench/row.h"
#include "transport/kv/kv.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_PASSES  255u
#define MAX_KERNELS 8u
#define HOT_BYTES   (16u << 10)
#define PASS_BYTES  (32u << 20)

struct bench {
	uint8_t *a, *b;
	uint64_t bytes, at, passes;
	const struct crc_kernel *one; /* one stream, or the table where there is no instruction */
	_Atomic uint64_t sink;
};

static uint64_t thread_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const double *v, uint64_t n)
{
	double sorted[MAX_PASSES];
	memcpy(sorted, v, n * sizeof *v);
	qsort(sorted, n, sizeof *sorted, by_value);
	return sorted[n / 2];
}

/* GB/s; the next PASS_BYTES of memory, or the same few again and again. */
static double crc_pass(struct bench *b, const struct crc_kernel *k, bool hot)
{
	uint64_t step = hot ? HOT_BYTES : CRC_BLOCK, start = thread_ns();
	uint32_t raw = 0;
	for (uint64_t i = 0; i < PASS_BYTES; i += step)
		raw ^= k->run(0, hot ? b->a : b->a + b->at + i, step);
	start = thread_ns() - start;
	if (!hot)
		b->at = (b->at + PASS_BYTES) % b->bytes;
	b->sink += raw;
	return (double)PASS_BYTES / (double)start;
}

static double read_pass(struct bench *b)
{
	uint64_t start = thread_ns(), sum = 0;
	const uint64_t *p = (const uint64_t *)(b->a + b->at);
	for (uint64_t i = 0; i < PASS_BYTES / 8; i += 8)
		sum += p[i];
	start = thread_ns() - start;
	b->at = (b->at + PASS_BYTES) % b->bytes;
	b->sink += sum;
	return (double)PASS_BYTES / (double)start;
}

static double copy_pass(struct bench *b, bool with_sums)
{
	uint32_t sums[PASS_BYTES / CRC_BLOCK];
	uint64_t start = thread_ns();
	if (with_sums)
		kv_copy_sums(b->b + b->at, b->a + b->at, PASS_BYTES, sums);
	else
		kv_copy(b->b + b->at, b->a + b->at, PASS_BYTES);
	start = thread_ns() - start;
	b->at = (b->at + PASS_BYTES) % b->bytes;
	b->sink += with_sums ? sums[0] : 0;
	return (double)PASS_BYTES / (double)start;
}

static bool kernels(struct bench *b, bool hot)
{
	static double one[MAX_PASSES], got[MAX_KERNELS][MAX_PASSES], reading[MAX_PASSES], ratio[MAX_PASSES];
	uint32_t n;
	bool ok = true, first = true;
	const struct crc_kernel *k = crc32c_kernels(&n);
	check(n <= MAX_KERNELS);
	for (uint64_t p = 0; p < b->passes; p++) {
		one[p] = crc_pass(b, b->one, hot);
		reading[p] = read_pass(b);
		for (uint32_t i = 0; i < n; i++)
			got[i][p] = k[i].usable() ? crc_pass(b, &k[i], hot) : 0;
	}
	/* 2.5 times the instruction where memory can deliver that much */
	double fast = 2.5 * median(one, b->passes), can = 0.9 * median(reading, b->passes);
	bool by_read = !hot && can < fast;
	for (uint32_t i = 0; i < n; i++) {
		char name[64];
		const double *limit = by_read ? reading : one;
		if (!k[i].usable())
			continue;
		for (uint64_t p = 0; p < b->passes; p++)
			ratio[p] = got[i][p] / limit[p];
		double mid = median(ratio, b->passes), least = by_read ? 0.9 : 2.5;
		snprintf(name, sizeof name, "crc32c %s, %s", k[i].name, hot ? "16 KiB again and again" : "from memory");
		bool met = bench_row(name, median(got[i], b->passes), median(limit, b->passes), "GB/s",
				     by_read ? "reading" : b->one->name, mid,
				     !first    ? "-"
				     : by_read ? ">= 0.90"
					       : ">= 2.50",
				     !first || mid >= least);
		ok &= met;
		first = false;
	}
	return ok;
}

static bool copies(struct bench *b)
{
	static double plain[MAX_PASSES], sums[MAX_PASSES], again[MAX_PASSES], ratio[MAX_PASSES], control[MAX_PASSES];
	for (uint64_t p = 0; p < b->passes; p++) {
		plain[p] = copy_pass(b, false);
		sums[p] = copy_pass(b, true);
		again[p] = copy_pass(b, false);
		ratio[p] = sums[p] / plain[p];
		control[p] = again[p] / plain[p];
	}
	double mid = median(ratio, b->passes), same = median(control, b->passes);
	bench_row("copy again (control)", median(again, b->passes), median(plain, b->passes), "GB/s", "copy", same, "-",
		  true);
	return bench_row("copy + crc32c", median(sums, b->passes), median(plain, b->passes), "GB/s", "copy", mid,
			 ">= 0.90", mid >= 0.9);
}

int main(int argc, char **argv)
{
	uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 512;
	struct bench b = {.bytes = mib << 20, .passes = argc > 2 ? strtoull(argv[2], NULL, 10) : 61};
	uint32_t n;
	bool ok = true;
	if (mib < 64 || mib % 32 != 0 || b.passes == 0 || b.passes > MAX_PASSES) {
		fprintf(stderr, "usage: crc_bench [MiB, a multiple of 32] [passes, <= %u]\n", MAX_PASSES);
		return 2;
	}
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
	b.a = mmap(NULL, 2 * b.bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (b.a == MAP_FAILED) {
		perror("crc_bench: mmap");
		return 2;
	}
	b.b = b.a + b.bytes;
	memset(b.a, 1, 2 * b.bytes);
	const struct crc_kernel *k = crc32c_kernels(&n);
	b.one = &k[n - 1];
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(k[i].name, "sse4.2-plain") == 0 && k[i].usable())
			b.one = &k[i];
	bench_head("checksums (1 thread)");
	ok &= kernels(&b, true);
	ok &= kernels(&b, false);
	ok &= copies(&b);
	return ok ? 0 : 1;
}
