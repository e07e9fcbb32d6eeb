#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/mem.h"
#include "daemon/store/sample_int.h"

#include <errno.h>

#define OBJS 400

static void test_1_rate_sets_threshold_and_size(void **state)
{
	struct samples t;
	(void)state;

	assert_int_equal(samples_create(&t, 0, 1000), 0);
	assert_null(t.row);
	assert_int_equal(t.threshold, 0);
	samples_destroy(&t);
	assert_int_equal(samples_create(&t, 0.25, 1000), 0);
	assert_true(t.threshold == UINT64_MAX / 4 + 1);
	assert_int_equal(t.mask, 511);
	samples_destroy(&t);
	assert_int_equal(samples_create(&t, 1, UINT32_MAX), 0);
	assert_true(t.threshold == UINT64_MAX);
	samples_destroy(&t);
	mem_fail_at(1);
	assert_int_equal(samples_create(&t, 1, 10), -ENOMEM);
	mem_fail_at(0);
}

static void test_2_a_full_table_takes_no_more(void **state)
{
	struct samples t;
	uint32_t n = 0;
	(void)state;

	assert_int_equal(samples_create(&t, 0.1, 10), 0);
	while (samples_add(&t, n + 1, 5))
		n++;
	assert_in_range(n, 32, 63);
	for (uint32_t i = 1; i <= n; i++)
		samples_remove(&t, i);
	assert_int_equal(t.n, 0);
	assert_true(samples_add(&t, 1, 5));
	samples_destroy(&t);
}

static void test_3_random_rows_against_an_array(void **state)
{
	struct rnd r = rnd_start("samples");
	uint64_t model[OBJS + 1] = {0};
	struct samples t;
	(void)state;

	assert_int_equal(samples_create(&t, 0.5, OBJS), 0);
	for (uint64_t op = 1; op < 100000; op++) {
		uint32_t obj = 1 + rnd_below(&r, OBJS);
		if (model[obj]) {
			assert_int_equal(samples_get(&t, obj)->created_ms, model[obj]);
			samples_remove(&t, obj);
			model[obj] = 0;
		} else if (samples_add(&t, obj, op)) {
			model[obj] = op;
		}
		obj = 1 + rnd_below(&r, OBJS);
		if (model[obj])
			assert_int_equal(samples_get(&t, obj)->created_ms, model[obj]);
	}
	samples_destroy(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_rate_sets_threshold_and_size),
		cmocka_unit_test(test_2_a_full_table_takes_no_more),
		cmocka_unit_test(test_3_random_rows_against_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
