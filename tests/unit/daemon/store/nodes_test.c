/* Ranges on nodes: where a writer's chunks go when its node is full, by distance or by eviction at home. */
#include "tests/unit/daemon/store/fixture.h"

#define UNITS 16u /* of each range */

/* Four nodes on a ring, as on a machine of four sockets. */
static const uint32_t ring[16] = {10, 21, 31, 20, 21, 10, 20, 31, 31, 20, 10, 21, 20, 31, 21, 10};

static void open_nodes(struct fix *f, uint32_t n, enum store_spill spill, const uint32_t *distance)
{
	struct store_conf conf = fix_conf(fake_arena(n, UNITS * UNIT, UNITS * UNIT, UNIT));

	conf.spill = spill;
	conf.distance = distance;
	fix_open(f, &conf);
}

/* Stores one chunk of a writer on `node`; the range it went to. */
static uint32_t put_on(struct fix *f, uint64_t k, node_id node, uint64_t bytes)
{
	struct store_hash h = key(k);
	store_obj o;
	uint32_t range;

	assert_int_equal(store_reserve(f->s, f->ns, &h, 1, bytes, node, 0, &o).reserved, 1);
	range = store_range_of(f->s, o);
	assert_int_equal(range, arena_range_of(f->a, store_offset(f->s, o)));
	assert_int_equal(store_commit(f->s, &o, 1, 0), 1);
	return range;
}

static void fill_node(struct fix *f, int node, uint64_t first)
{
	for (uint32_t i = 0; i < UNITS; i++)
		assert_int_equal(put_on(f, first + i, node_of(node), UNIT), node);
}

static void test_1_the_nearest_with_room(void **state)
{
	static const uint32_t order[4][4] = {{0, 3, 1, 2}, {1, 2, 0, 3}, {2, 1, 3, 0}, {3, 0, 2, 1}};
	(void)state;

	for (int home = 0; home < 4; home++) {
		struct fix f;
		uint64_t k = 0;

		open_nodes(&f, 4, STORE_SPILL_NEAR, ring);
		for (uint32_t step = 0; step < 4; step++) {
			for (uint32_t i = 0; i < UNITS; i++)
				assert_int_equal(put_on(&f, k++, node_of(home), UNIT), order[home][step]);
		}
		assert_int_equal(stats(&f).evicted_objects, 0);
		assert_int_equal(stats(&f).spill_bytes, 3 * UNITS * UNIT);
		put_on(&f, k++, node_of(home), UNIT); /* all full: now somebody goes */
		assert_int_equal(stats(&f).evicted_objects, 1);
		fix_close(&f);
	}
}

static void test_2_without_distances_in_order(void **state)
{
	uint32_t unknown[9] = {10, 0, 20, 0, 10, 0, 0, 0, 10};
	struct fix f;
	(void)state;

	open_nodes(&f, 3, STORE_SPILL_NEAR, NULL);
	fill_node(&f, 2, 0);
	assert_int_equal(put_on(&f, 100, node_of(2), UNIT), 0);
	fix_close(&f);
	/* what is unknown comes after what is known, and is not nearest of all */
	open_nodes(&f, 3, STORE_SPILL_NEAR, unknown);
	fill_node(&f, 0, 0);
	assert_int_equal(put_on(&f, 100, node_of(0), UNIT), 2);
	fix_close(&f);
}

static void test_3_at_home_by_eviction(void **state)
{
	struct fix f;
	uint64_t used[4];
	(void)state;

	open_nodes(&f, 4, STORE_SPILL_EVICT, ring);
	fill_node(&f, 3, 0); /* the oldest of all lie elsewhere, and stay */
	fill_node(&f, 1, 100);
	for (uint32_t i = 0; i < 3 * UNITS; i++)
		assert_int_equal(put_on(&f, 200 + i, node_of(1), UNIT), 1);
	assert_int_equal(stats(&f).evicted_objects, 3 * UNITS);
	assert_int_equal(stats(&f).spill_bytes, 0);
	for (uint32_t i = 0; i < UNITS; i++)
		assert_true(has(&f, i) && !has(&f, 100 + i));
	/* larger than one slot: neighbours of about one age */
	assert_int_equal(put_on(&f, 300, node_of(1), 5 * UNIT), 1);
	assert_int_equal(store_range_used(f.s, used, 4), 4);
	assert_true(used[0] == 0 && used[1] == UNITS * UNIT && used[2] == 0 && used[3] == UNITS * UNIT);
	/* an unknown writer is at home nowhere: where there is room */
	assert_int_equal(put_on(&f, 301, NODE_UNKNOWN, UNIT), 0);
	fix_close(&f);
}

static void test_4_locked_at_home_spills(void **state)
{
	struct store_hash h[UNITS];
	store_obj locked[UNITS];
	uint32_t missing;
	struct fix f;
	(void)state;

	open_nodes(&f, 4, STORE_SPILL_EVICT, ring);
	fill_node(&f, 2, 0);
	keys(h, 0, UNITS);
	assert_int_equal(store_lock_all(f.s, f.ns, h, UNITS, UNIT, 0, locked, &missing), 0);
	assert_int_equal(put_on(&f, 100, node_of(2), UNIT), 1);
	store_unlock(f.s, locked, NULL, 1, 0);
	assert_int_equal(put_on(&f, 101, node_of(2), UNIT), 2);
	store_unlock(f.s, locked + 1, NULL, UNITS - 1, 0);
	/* too large for a range */
	assert_int_equal(store_reserve(f.s, f.ns, h, 1, (UNITS + 1) * UNIT, node_of(2), 0, locked).refused, 1);
	fix_close(&f);
}

/* Age order over all ranges together, as with one. */
static void test_5_the_oldest_of_all_goes_first(void **state)
{
	struct fix f;
	(void)state;

	open_nodes(&f, 4, STORE_SPILL_NEAR, ring);
	for (uint64_t i = 0; i < 4 * UNITS; i++)
		put_on(&f, i, node_of((int)(i % 4)), UNIT);
	for (uint64_t i = 0; i < 2 * UNITS; i++) {
		put_on(&f, 1000 + i, NODE_UNKNOWN, UNIT);
		assert_false(has(&f, i));
		assert_true(has(&f, 2 * UNITS + i));
	}
	assert_int_equal(stats(&f).evicted_objects, 2 * UNITS);
	fix_close(&f);
}

static void random_steps(struct fix *f, struct rnd *r, store_ns *ns)
{
	store_obj held[8] = {0};

	for (int i = 0; i < 4000; i++) {
		struct store_hash h = key(rnd_below(r, 400));
		store_ns n = ns[rnd_below(r, 3)];
		uint32_t slot = rnd_below(r, 8), missing;
		store_obj o;

		if (held[slot]) {
			store_unlock(f->s, &held[slot], NULL, 1, (uint64_t)i);
			held[slot] = 0;
		} else if (rnd_below(r, 3) == 0) {
			if (store_lock_all(f->s, n, &h, 1, 0, (uint64_t)i, &o, &missing) == 0)
				held[slot] = o;
		} else if (store_reserve(f->s, n, &h, 1, (1 + rnd_below(r, 4)) * UNIT,
					 node_of((int)rnd_below(r, 6) - 1), (uint64_t)i, &o)
				   .reserved) {
			if (rnd_below(r, 8))
				store_commit(f->s, &o, 1, (uint64_t)i);
			else
				store_abort(f->s, &o, 1);
		}
		if (i % 100 == 0)
			store_check(f->s);
	}
	store_unlock(f->s, held, NULL, 8, 0);
}

static void test_6_any_policy_keeps_its_invariants(void **state)
{
	static const enum store_policy policies[] = {STORE_LRU, STORE_ISOLATED_LRU, STORE_NOOP};
	struct rnd r = rnd_start("nodes_test 6");
	(void)state;

	for (int p = 0; p < 3; p++) {
		for (int spill = 0; spill < 2; spill++) {
			struct store_conf conf = fix_conf(fake_arena(4, UNITS * UNIT, UNITS * UNIT, UNIT));
			struct fix f;
			store_ns ns[3];

			conf.policy = policies[p];
			conf.spill = spill ? STORE_SPILL_EVICT : STORE_SPILL_NEAR;
			conf.distance = ring;
			fix_open(&f, &conf);
			for (uint32_t i = 0; i < 3; i++)
				ns[i] = store_ns_get(f.s, slice_str("m"), i, 0, slice_of("abc", i), NULL);
			assert_int_equal(store_quota_set(f.s, slice_of("ab", 2), 4 * UNIT), 0);
			random_steps(&f, &r, ns);
			store_check(f.s);
			fix_close(&f);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_the_nearest_with_room),
		cmocka_unit_test(test_2_without_distances_in_order),
		cmocka_unit_test(test_3_at_home_by_eviction),
		cmocka_unit_test(test_4_locked_at_home_spills),
		cmocka_unit_test(test_5_the_oldest_of_all_goes_first),
		cmocka_unit_test(test_6_any_policy_keeps_its_invariants),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
