/* Every instruction set of this CPU, not only the one that would be chosen: the file under test is included whole. */
#include "transport/kv/stream.c" // NOLINT(bugprone-suspicious-include)

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { SIZE = 40000 };

static const struct stream_ops *sets[4];
static unsigned nsets;

static int find_sets(void **state)
{
	(void)state;
#if defined(__x86_64__)
	static const struct stream_ops avx512 = {"avx512", copy_avx512, rows_avx512, sfence};
	static const struct stream_ops avx2 = {"avx2", copy_avx2, rows_avx2, sfence};
	static const struct stream_ops sse2 = {"sse2", copy_sse2, rows_sse2, sfence};
	if (__builtin_cpu_supports("avx512f"))
		sets[nsets++] = &avx512;
	if (__builtin_cpu_supports("avx2"))
		sets[nsets++] = &avx2;
	sets[nsets++] = &sse2;
#else
	sets[nsets++] = kv_stream_ops();
#endif
	return 0;
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++, seed = seed * 1664525u + 1013904223u)
		p[i] = (uint8_t)(seed >> 24);
}

static void copies(void **state)
{
	(void)state;
	static uint8_t src[SIZE], dst[SIZE], want[SIZE];
	static const size_t len[] = {0, 1, 1023, 1024, 1087, 4096, 8191, 8448, 8449, 8512, 9000, 16640, 17000, 39000};
	fill(src, SIZE, 1);
	for (unsigned set = 0; set < nsets; set++)
		for (size_t i = 0; i < sizeof len / sizeof *len; i++)
			for (size_t to = 0; to < 130; to += 13)
				for (size_t from = 0; from < 130; from += 29) {
					fill(dst, SIZE, 2);
					memcpy(want, dst, SIZE);
					memcpy(want + to, src + from, len[i]);
					sets[set]->copy(dst + to, src + from, len[i], NULL);
					sets[set]->fence();
					if (memcmp(dst, want, SIZE) != 0)
						fail_msg("%s: %zu bytes from %zu to %zu", sets[set]->name, len[i], from,
							 to);
				}
}

static void check_rows(const struct stream_ops *ops, uint64_t row, uint32_t outer, uint32_t inner, size_t to)
{
	static uint8_t src[SIZE], dst[SIZE], want[SIZE];
	/* transposing: the inner rows adjoin at the target, the outer ones at the source, with a gap between */
	struct row_copy r = {.dst = dst + to,
			     .src = src + 3,
			     .next = src,
			     .dst_outer = inner * row,
			     .dst_inner = row,
			     .src_outer = row,
			     .src_inner = outer * row + 5,
			     .outer = outer,
			     .inner = inner,
			     .row = row};
	fill(src, SIZE, 3);
	fill(dst, SIZE, 4);
	memcpy(want, dst, SIZE);
	for (uint32_t o = 0; o < outer; o++)
		for (uint32_t i = 0; i < inner; i++)
			memcpy(want + to + (o * inner + i) * row, src + 3 + o * row + i * (outer * row + 5), row);
	ops->rows(&r);
	ops->fence();
	if (memcmp(dst, want, SIZE) != 0)
		fail_msg("%s: %u x %u rows of %llu bytes to %zu", ops->name, outer, inner, (unsigned long long)row, to);
}

static void rows(void **state)
{
	(void)state;
	static const uint64_t row[] = {1, 2, 10, 63, 64, 65, 128, 160, 192, 256, 320, 512, 1088};
	for (unsigned set = 0; set < nsets; set++)
		for (size_t i = 0; i < sizeof row / sizeof *row; i++)
			for (size_t to = 0; to <= 64; to += 16) {
				check_rows(sets[set], row[i], 4, 3, to);
				check_rows(sets[set], row[i], 1, 8, to);
				check_rows(sets[set], row[i], 16, 1, to);
			}
}

static void the_widest_is_chosen(void **state)
{
	(void)state;
	assert_string_equal(kv_stream_ops()->name, sets[0]->name);
	assert_ptr_equal(kv_stream_ops(), kv_stream_ops());
}

int main(void)
{
#define T(n, f)                                         \
	{                                               \
		"transport/kv: " n, f, NULL, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("00 the widest set is chosen", the_widest_is_chosen),
		T("00 copies of every set", copies),
		T("00 rows of every set", rows),
	};
	return cmocka_run_group_tests(tests, find_sets, NULL);
}
