/* store_test.c - a segment store in operation: what is written is read, by size, by key, after removal, clear and restart. */
#include "tests/unit/daemon/seg/box.h"

static const uint64_t sizes[] = {1,        4095,           4096,    4097,    65536, (1u << 20) - 1,
				 1u << 20, (1u << 20) + 1, 3333333, 5u << 20};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void round_trip(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 8, 16 << 20);
	for (uint32_t i = 0; i < SIZES; i++)
		assert_int_equal(box_put(&b, i, sizes[i]), 0);
	for (uint32_t turn = 0; turn < 2; turn++) {
		for (uint32_t i = 0; i < SIZES; i++) {
			assert_int_equal(box_find(&b, i), sizes[i]);
			assert_int_equal(box_get(&b, i, sizes[i]), 0);
			assert_int_equal(box_get(&b, i, sizes[i] + 1), -EMSGSIZE);
			assert_int_equal(box_put(&b, i, sizes[i]), -EEXIST);
		}
		assert_int_equal(box_get(&b, 99, 4096), -ENOENT);
		assert_int_equal(box_find(&b, 99), 0);
		assert_int_equal(box_stats(&b).objects, SIZES);
		box_close(&b);
		box_open(&b);
	}
	box_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
	};

	return cmocka_run_group_tests_name("segment store", tests, NULL, NULL);
}
