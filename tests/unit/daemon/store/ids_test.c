#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/mem.h"
#include "daemon/store/ids_int.h"

#include <errno.h>

static void test_1_ascending_then_none(void **state)
{
	struct ids t;
	(void)state;

	assert_int_equal(ids_create(&t, 5), 0);
	for (uint32_t i = 1; i <= 5; i++)
		assert_int_equal(ids_take(&t), i);
	assert_int_equal(ids_take(&t), 0);
	ids_put(&t, 3);
	assert_true(ids_is_free(&t, 3) && !ids_is_free(&t, 4));
	assert_int_equal(ids_take(&t), 3);
	assert_int_equal(ids_take(&t), 0);
	ids_destroy(&t);
}

/* What went in any order comes back in ascending stretches, before numbers never used. */
static void test_2_stretches(void **state)
{
	struct ids t;
	(void)state;

	assert_int_equal(ids_create(&t, 1000000), 0);
	for (uint32_t i = 1; i <= 10000; i++)
		assert_int_equal(ids_take(&t), i);
	for (uint32_t i = 0; i < 500; i++) {
		ids_put(&t, 9000 - (i * 7) % 500);
		ids_put(&t, 100 + (i * 3) % 500);
	}
	for (uint32_t i = 100; i < 600; i++)
		assert_int_equal(ids_take(&t), i);
	for (uint32_t i = 8501; i <= 9000; i++)
		assert_int_equal(ids_take(&t), i);
	assert_int_equal(ids_take(&t), 10001);
	/* goes on from where it was, and begins again at the front when nothing is left behind */
	ids_put(&t, 50);
	ids_put(&t, 9500);
	assert_int_equal(ids_take(&t), 9500);
	assert_int_equal(ids_take(&t), 50);
	assert_int_equal(ids_take(&t), 10002);
	ids_destroy(&t);
}

static void random_against_array(uint32_t max, int ops)
{
	struct rnd r = rnd_start("ids");
	char *used = calloc(max + 1, 1);
	uint32_t n = 0, id;
	struct ids t;

	assert_int_equal(ids_create(&t, max), 0);
	for (int op = 0; op < ops; op++) {
		bool fill = (op / 5000) % 2 == 0;
		if (rnd_below(&r, 10) < (fill ? 7 : 3)) {
			id = ids_take(&t);
			assert_int_equal(id == 0, n == max);
			if (!id)
				continue;
			assert_in_range(id, 1, max);
			assert_false(used[id]);
			used[id] = 1;
			n++;
		} else if (n) {
			for (id = 1 + rnd_below(&r, t.hi); !used[id]; id = id % t.hi + 1)
				;
			ids_put(&t, id);
			used[id] = 0;
			n--;
		}
	}
	for (id = 1; id <= max; id++)
		assert_int_equal(ids_is_free(&t, id), !used[id]);
	ids_destroy(&t);
	free(used);
}

static void test_3_random(void **state)
{
	(void)state;
	random_against_array(1, 1000);
	random_against_array(63, 50000);
	random_against_array(64, 50000);
	random_against_array(4096, 100000);
	random_against_array(300000, 100000);
}

static void test_4_allocation_failures(void **state)
{
	struct ids t;
	int n, err;
	(void)state;

	for (n = 1;; n++) {
		mem_fail_at((uint64_t)n);
		err = ids_create(&t, UINT32_MAX);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	assert_int_equal(t.levels, IDS_LEVELS);
	ids_destroy(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_ascending_then_none),
		cmocka_unit_test(test_2_stretches),
		cmocka_unit_test(test_3_random),
		cmocka_unit_test(test_4_allocation_failures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
