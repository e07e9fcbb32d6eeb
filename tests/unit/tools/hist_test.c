#include "tools/hist.h"

#include "tools/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void t01_empty(void **state)
{
	(void)state;
	static struct hist h;
	assert_int_equal(hist_percentile(&h, 0.5), 0);
}

static void t02_small_values_are_exact(void **state)
{
	(void)state;
	static struct hist h;
	for (uint64_t v = 1; v <= 50; v++)
		hist_add(&h, v);
	assert_int_equal(hist_percentile(&h, 0.5), 25);
	assert_int_equal(hist_percentile(&h, 0), 1);
	assert_int_equal(hist_percentile(&h, 0.02), 1);
	assert_int_equal(hist_percentile(&h, 0.98), 49);
	assert_int_equal(hist_percentile(&h, 1), 50);
}

static void t03_one_value_is_itself(void **state)
{
	(void)state;
	static const uint64_t values[] = {0, 1, 63, 64, 65, 127, 128, 1000, 123456789, 1ull << 40, UINT64_MAX};
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct hist *h = calloc(1, sizeof(*h));
		hist_add(h, values[i]);
		uint64_t p = hist_percentile(h, 0.99);
		assert_true(p <= values[i]);
		if (values[i] < 1ull << 46)
			assert_int_equal(p, values[i]);
		free(h);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Against the sorted values themselves. */
static void t04_within_the_promised_error(void **state)
{
	(void)state;
	enum { N = 20000 };
	static uint64_t v[N];
	static struct hist h, a, b;
	srandom(7);
	for (int i = 0; i < N; i++) {
		v[i] = (uint64_t)random() >> (random() % 30);
		hist_add(&h, v[i]);
		hist_add(i % 3 ? &a : &b, v[i]);
	}
	qsort(v, N, sizeof(*v), compare);
	hist_merge(&a, &b);
	assert_memory_equal(&a, &h, sizeof(h));
	for (int share = 1; share <= 1000; share++) {
		uint64_t exact = v[(N * share + 999) / 1000 - 1], got = hist_percentile(&h, share / 1000.0);
		if (got < exact || (double)got > (double)exact * 1.016 + 1)
			fail_msg("%d/1000: %llu, exactly %llu", share, (unsigned long long)got,
				 (unsigned long long)exact);
	}
}

static void t05_median(void **state)
{
	(void)state;
	double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2};
	assert_true(rig_median(odd, 3) == 3);
	assert_true(rig_median(even, 4) == 2.5);
	assert_true(rig_median(NULL, 0) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_empty),
		cmocka_unit_test(t02_small_values_are_exact),
		cmocka_unit_test(t03_one_value_is_itself),
		cmocka_unit_test(t04_within_the_promised_error),
		cmocka_unit_test(t05_median),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
