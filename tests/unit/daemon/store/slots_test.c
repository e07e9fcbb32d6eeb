#include "tests/unit/daemon/store/fixture.h"

#include "daemon/store/slots_int.h"

#define OBJS 600

struct ctx {
	struct slots s;
	uint32_t units[OBJS + 1]; /* 0: not in use */
};

static uint32_t units_of(void *ctx, uint32_t obj)
{
	return ((struct ctx *)ctx)->units[obj];
}

static void open_ranges(struct ctx *c, uint32_t nranges, uint32_t units)
{
	memset(c, 0, sizeof(*c));
	assert_int_equal(slots_create(&c->s, OBJS, nranges), 0);
	for (uint32_t i = 0; i < nranges; i++) {
		slots_range(&c->s, i, i * units, units, node_of((int)i));
		slots_grow(&c->s, i, units);
	}
}

static bool take(struct ctx *c, uint32_t range, uint32_t units, uint32_t obj)
{
	uint32_t block = slots_find(&c->s, range, units);

	if (!block)
		return false;
	slots_take(&c->s, block, units, obj);
	c->units[obj] = units;
	return true;
}

static void give(struct ctx *c, uint32_t obj)
{
	slots_release(&c->s, obj, c->units[obj]);
	c->units[obj] = 0;
}

static void test_1_whole_range_and_back(void **state)
{
	struct ctx c;
	(void)state;

	open_ranges(&c, 2, 1000);
	assert_int_equal(slots_largest(&c.s, 0), 1000);
	assert_true(take(&c, 1, 1000, 1));
	assert_int_equal(c.s.used[1].off, 1000);
	assert_false(take(&c, 1, 1, 2));
	assert_int_equal(slots_range_of(&c.s, 1999), 1);
	assert_int_equal(slots_largest(&c.s, 1), 0);
	assert_int_equal(slots_check(&c.s, units_of, &c), 1000);
	give(&c, 1);
	assert_int_equal(slots_largest(&c.s, 1), 1000);
	assert_int_equal(slots_check(&c.s, units_of, &c), 0);
	slots_destroy(&c.s);
}

static void test_2_neighbours_merge_in_every_order(void **state)
{
	static const int orders[6][3] = {{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}};
	struct ctx c;
	(void)state;

	for (int o = 0; o < 6; o++) {
		open_ranges(&c, 1, 30);
		for (uint32_t i = 1; i <= 3; i++)
			assert_true(take(&c, 0, 10, i));
		for (int i = 0; i < 3; i++) {
			give(&c, (uint32_t)orders[o][i]);
			slots_check(&c.s, units_of, &c);
		}
		assert_int_equal(c.s.nfree, 1);
		assert_int_equal(slots_largest(&c.s, 0), 30);
		slots_destroy(&c.s);
	}
}

static void test_3_best_fit_among_holes(void **state)
{
	struct ctx c;
	(void)state;

	open_ranges(&c, 1, 1000);
	/* holes of 100, 40 and 43 units, the rest taken */
	assert_true(take(&c, 0, 100, 1) && take(&c, 0, 1, 2) && take(&c, 0, 40, 3) && take(&c, 0, 1, 4));
	assert_true(take(&c, 0, 43, 5) && take(&c, 0, 1, 6) && take(&c, 0, 1000 - 186, 7));
	give(&c, 1);
	give(&c, 3);
	give(&c, 5);
	assert_true(take(&c, 0, 40, 8));
	assert_int_equal(c.s.used[8].off, 101);
	assert_true(take(&c, 0, 41, 9));
	assert_int_equal(c.s.used[9].off, 142);
	assert_true(take(&c, 0, 90, 10));
	assert_int_equal(c.s.used[10].off, 0);
	assert_int_equal(slots_check(&c.s, units_of, &c), 1000 - 2 - 10);
	slots_destroy(&c.s);
}

/* The block last cut is cut again, so that what is stored together lies together. */
static void test_4_cuts_go_on_where_the_last_was(void **state)
{
	struct ctx c;
	(void)state;

	open_ranges(&c, 1, 1000);
	assert_true(take(&c, 0, 10, 1) && take(&c, 0, 1, 2));
	give(&c, 1);
	for (uint32_t i = 3; i < 20; i++) {
		assert_true(take(&c, 0, 10, i));
		assert_int_equal(c.s.used[i].off, 11 + 10 * (i - 3));
	}
	slots_check(&c.s, units_of, &c);
	slots_destroy(&c.s);
}

static void test_5_growth_joins_the_last_block(void **state)
{
	struct ctx c;
	(void)state;

	memset(&c, 0, sizeof(c));
	assert_int_equal(slots_create(&c.s, OBJS, 1), 0);
	slots_range(&c.s, 0, 0, 100, node_of(0));
	assert_int_equal(slots_find(&c.s, 0, 1), 0);
	slots_grow(&c.s, 0, 10);
	slots_grow(&c.s, 0, 10);
	assert_true(take(&c, 0, 8, 1));
	assert_false(take(&c, 0, 3, 2));
	assert_int_equal(slots_largest(&c.s, 0), 92);
	slots_grow(&c.s, 0, 100);
	assert_int_equal(c.s.nfree, 1);
	assert_true(take(&c, 0, 92, 2));
	assert_int_equal(slots_check(&c.s, units_of, &c), 100);
	slots_destroy(&c.s);
}

static uint32_t random_size(struct rnd *r)
{
	static const uint32_t fixed[] = {1, 31, 32, 33, 63, 64, 65, 128, 1152, 9216};

	return rnd_below(r, 2) ? fixed[rnd_below(r, 10)] : 1 + rnd_below(r, 1u << rnd_below(r, 14));
}

static void test_6_random_blocks_tile_the_ranges(void **state)
{
	struct rnd r = rnd_start("slots");
	struct ctx c;
	uint64_t used = 0;
	(void)state;

	open_ranges(&c, 3, 300000);
	for (int op = 0; op < 200000; op++) {
		uint32_t obj = 1 + rnd_below(&r, OBJS), units = random_size(&r), range = rnd_below(&r, 3);
		if (c.units[obj]) {
			used -= c.units[obj];
			give(&c, obj);
		} else if (take(&c, range, units, obj)) {
			used += units;
			assert_int_equal(slots_range_of(&c.s, c.s.used[obj].off), range);
		} else {
			assert_true(slots_largest(&c.s, range) < units || c.s.nfree > 16);
		}
		if (op % 500 == 0)
			assert_int_equal(slots_check(&c.s, units_of, &c), used);
	}
	for (uint32_t obj = 1; obj <= OBJS; obj++) {
		if (c.units[obj])
			give(&c, obj);
	}
	assert_int_equal(slots_check(&c.s, units_of, &c), 0);
	assert_int_equal(c.s.nfree, 3);
	slots_destroy(&c.s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_whole_range_and_back),
		cmocka_unit_test(test_2_neighbours_merge_in_every_order),
		cmocka_unit_test(test_3_best_fit_among_holes),
		cmocka_unit_test(test_4_cuts_go_on_where_the_last_was),
		cmocka_unit_test(test_5_growth_joins_the_last_block),
		cmocka_unit_test(test_6_random_blocks_tile_the_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
