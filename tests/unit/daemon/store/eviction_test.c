/* eviction_test.c - who goes when, under every policy. */
#include "tests/unit/daemon/store/fixture.h"

static void commit_ns(struct fix *f, store_ns ns, uint64_t first, uint32_t n)
{
	store_ns keep = f->ns;

	f->ns = ns;
	put(f, first, n, UNIT);
	f->ns = keep;
}

static bool has_ns(struct fix *f, store_ns ns, uint64_t i)
{
	struct store_hash h = key(i);

	return store_peek_prefix(f->s, &ns, 1, &h, 1, 0) == 1;
}

static uint32_t count_ns(struct fix *f, store_ns ns, uint64_t first, uint32_t n)
{
	uint32_t there = 0;

	for (uint32_t i = 0; i < n; i++)
		there += has_ns(f, ns, first + i);
	return there;
}

/* Two prompts of four chunks fill the store; the older one goes chunk by chunk from its tail, then the other. */
static void test_01_tail_before_head_old_prompt_first(void **state)
{
	struct fix f;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	put(&f, 0, 4, UNIT);
	put(&f, 10, 4, UNIT);
	for (uint32_t i = 0; i < 8; i++) {
		uint64_t victim = i < 4 ? 3 - i : 10 + 7 - i;
		assert_true(has(&f, victim));
		put(&f, 100 + i, 1, UNIT);
		assert_false(has(&f, victim));
		assert_int_equal(stats(&f).evicted_objects, i + 1);
	}
	assert_int_equal(stats(&f).evicted_bytes, 8 * UNIT);
	fix_close(&f);
}

static void test_02_a_lookup_renews_the_whole_prompt(void **state)
{
	struct fix f;
	struct store_hash h[4];
	store_obj o[4];
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	put(&f, 0, 4, UNIT);
	put(&f, 10, 4, UNIT);
	keys(h, 0, 4);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h, 4, 1, 0, 0, o), 4);
	store_unlock(f.s, o, NULL, 4, 0);
	put(&f, 100, 5, UNIT);
	assert_int_equal(count_ns(&f, f.ns, 10, 4), 0);
	assert_int_equal(count_ns(&f, f.ns, 0, 4), 3);
	assert_false(has(&f, 3));
	fix_close(&f);
}

/* A prompt that grew: its old head is touched so that it does not go before its new tail. */
static void test_03_touch_makes_a_grown_prompt_one_age(void **state)
{
	struct fix f;
	struct store_hash h[6];
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	put(&f, 0, 2, UNIT);
	put(&f, 10, 2, UNIT);
	put(&f, 2, 4, UNIT); /* chunks 2 to 5 of the first prompt */
	keys(h, 0, 6);
	store_touch(f.s, &f.ns, 1, h, 6, 0);
	put(&f, 100, 2, UNIT);
	assert_int_equal(count_ns(&f, f.ns, 10, 2), 0);
	for (uint64_t i = 6; i-- > 0;) {
		assert_true(has(&f, i));
		put(&f, 200 + i, 1, UNIT);
		assert_false(has(&f, i));
	}
	fix_close(&f);
}

static void test_04_touch_skips_gaps_and_what_is_in_use(void **state)
{
	struct fix f;
	struct store_hash h[6];
	store_obj locked;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	put(&f, 0, 2, UNIT);
	put(&f, 3, 2, UNIT); /* 2 is missing */
	put(&f, 10, 4, UNIT);
	locked = lock_one(&f, 1);
	keys(h, 0, 6);
	store_touch(f.s, &f.ns, 1, h, 6, 0);
	put(&f, 100, 4, UNIT);
	assert_int_equal(count_ns(&f, f.ns, 10, 4), 0);
	assert_int_equal(count_ns(&f, f.ns, 0, 5), 4);
	store_unlock(f.s, &locked, NULL, 1, 0);
	fix_close(&f);
}

static void test_05_locked_and_reserved_are_never_evicted(void **state)
{
	struct fix f;
	struct store_hash h[8];
	store_obj locked[3], writing[3], o[8];
	struct store_reserve_result r;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	put(&f, 0, 3, UNIT);
	keys(h, 0, 3);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h, 3, 1, 0, 0, locked), 3);
	keys(h, 10, 3);
	assert_int_equal(store_reserve(f.s, f.ns, h, 3, UNIT, NODE_UNKNOWN, 0, writing).reserved, 3);
	put(&f, 20, 2, UNIT);
	keys(h, 30, 8);
	r = store_reserve(f.s, f.ns, h, 8, UNIT, NODE_UNKNOWN, 0, o);
	assert_int_equal(r.reserved, 2);
	assert_int_equal(r.refused, 6);
	assert_int_equal(count_ns(&f, f.ns, 0, 3), 3);
	assert_int_equal(count_ns(&f, f.ns, 20, 2), 0);
	assert_int_equal(store_tick(f.s, 0), 0);
	store_abort(f.s, o, 8);
	assert_int_equal(store_commit(f.s, writing, 3, 0), 3);
	store_unlock(f.s, locked, NULL, 3, 0);
	assert_int_equal(count_ns(&f, f.ns, 0, 3) + count_ns(&f, f.ns, 10, 3), 6);
	fix_close(&f);
}

static void test_06_noop_refuses_when_full(void **state)
{
	struct fix f;
	struct store_hash h[4];
	store_obj o[4];
	(void)state;

	fix_units(&f, 4, STORE_NOOP);
	put(&f, 0, 4, UNIT);
	keys(h, 10, 4);
	assert_int_equal(store_reserve(f.s, f.ns, h, 4, UNIT, NODE_UNKNOWN, 0, o).refused, 4);
	assert_int_equal(store_tick(f.s, 0), 0);
	assert_int_equal(stats(&f).evicted_objects, 0);
	assert_int_equal(count_ns(&f, f.ns, 0, 4), 4);
	fix_close(&f);
}

/* By bytes, not by keys: one large old object is enough where small ones are many. */
static void test_07_watermark_counts_bytes(void **state)
{
	struct store_conf conf = fix_conf(fake_arena_full(100 * UNIT));
	struct fix f;
	(void)state;

	conf.trigger_watermark = 0.8;
	conf.eviction_ratio = 0.25;
	fix_open(&f, &conf);
	put(&f, 0, 1, 25 * UNIT);
	put(&f, 10, 54, UNIT);
	assert_int_equal(store_tick(f.s, 0), 0); /* 79 of 100 */
	put(&f, 100, 1, UNIT);
	assert_int_equal(store_tick(f.s, 0), 25 * UNIT); /* 80: a quarter is 20, the oldest has 25 */
	assert_false(has(&f, 0));
	assert_int_equal(count_ns(&f, f.ns, 10, 54), 54);
	assert_int_equal(stats(&f).evict_ticks, 2);
	assert_int_equal(stats(&f).evict_triggered, 1);
	fix_close(&f);
}

static void test_08_a_large_slot_takes_neighbours_of_one_age(void **state)
{
	struct fix f;
	(void)state;

	fix_units(&f, 64, STORE_LRU);
	put(&f, 0, 32, UNIT);
	put(&f, 100, 32, UNIT);
	put(&f, 200, 1, 32 * UNIT);
	assert_int_equal(count_ns(&f, f.ns, 0, 32), 0);
	assert_int_equal(count_ns(&f, f.ns, 100, 32), 32);
	assert_int_equal(stats(&f).evicted_objects, 32);
	fix_close(&f);
}

/* Old and young slots alternate; no run of old ones exists, and yet room must be made, around the locked ones. */
static void test_09_room_between_locked_slots(void **state)
{
	struct fix f;
	struct store_hash h;
	store_obj locked[4], o;
	(void)state;

	fix_units(&f, 64, STORE_LRU);
	put(&f, 0, 64, UNIT);
	for (uint32_t i = 0; i < 4; i++)
		locked[i] = lock_one(&f, 7 + 16 * i);
	h = key(500);
	/* the longest stretch without a lock is 15 slots, but behind the last lock there are 8 only */
	assert_int_equal(store_reserve(f.s, f.ns, &h, 1, 16 * UNIT, NODE_UNKNOWN, 0, &o).refused, 1);
	assert_int_equal(stats(&f).evicted_objects, 0); /* nothing is thrown away for nothing */
	assert_int_equal(store_reserve(f.s, f.ns, &h, 1, 15 * UNIT, NODE_UNKNOWN, 0, &o).reserved, 1);
	store_abort(f.s, &o, 1);
	for (uint32_t i = 0; i < 4; i++)
		assert_true(has(&f, 7 + 16 * i));
	store_unlock(f.s, locked, NULL, 4, 0);
	fix_close(&f);
}

static void test_10_lazy_arena_grows_before_anything_is_evicted(void **state)
{
	struct store_conf conf = fix_conf(fake_arena(1, 64 * UNIT, 8 * UNIT, 8 * UNIT));
	struct fix f;
	(void)state;

	fix_open(&f, &conf);
	assert_int_equal(stats(&f).committed_bytes, 8 * UNIT);
	assert_int_equal(stats(&f).largest_free_bytes, 64 * UNIT);
	put(&f, 0, 8, UNIT);
	put(&f, 10, 1, 20 * UNIT);
	assert_int_equal(stats(&f).committed_bytes, 32 * UNIT);
	assert_int_equal(stats(&f).evicted_objects, 0);
	store_tick(f.s, 0); /* 4 of 32 left: ahead of need */
	assert_int_equal(stats(&f).committed_bytes, 40 * UNIT);
	put(&f, 20, 36, UNIT);
	assert_int_equal(stats(&f).used_bytes, 64 * UNIT);
	assert_int_equal(stats(&f).evicted_objects, 0);
	put(&f, 100, 1, UNIT);
	assert_int_equal(stats(&f).evicted_objects, 1);
	fix_close(&f);
}

/* A full /dev/shm: the store makes do with what is committed, asks again at the next tick, not at every request. */
static void test_11_growth_that_fails(void **state)
{
	struct store_conf conf = fix_conf(fake_arena(1, 64 * UNIT, 8 * UNIT, 8 * UNIT));
	struct fix f;
	int asked;
	(void)state;

	conf.trigger_watermark = 0.9;
	fix_open(&f, &conf);
	f.a->refuse = true;
	put(&f, 0, 8, UNIT);
	for (uint64_t i = 0; i < 20; i++)
		put(&f, 10 + i, 1, UNIT);
	assert_int_equal(stats(&f).evicted_objects, 20);
	asked = f.a->commits;
	assert_int_equal(asked, 1);
	assert_int_equal(stats(&f).short_bytes, 56 * UNIT); /* what the operator is told */
	assert_true(store_tick(f.s, 0) > 0);                /* the watermark is one of what is usable */
	assert_int_equal(f.a->commits, asked + 1);
	f.a->refuse = false;
	put(&f, 40, 2, UNIT);
	store_tick(f.s, 0);
	put(&f, 50, 20, UNIT);
	assert_int_equal(count_ns(&f, f.ns, 50, 20), 20);
	assert_true(stats(&f).committed_bytes > 8 * UNIT);
	assert_int_equal(stats(&f).short_bytes, 0);
	fix_close(&f);
}

static void test_12_nodes(void **state)
{
	struct store_conf conf = fix_conf(fake_arena(2, 8 * UNIT, 8 * UNIT, UNIT));
	struct fix f;
	struct store_hash h[8];
	store_obj o[8];
	(void)state;

	fix_open(&f, &conf);
	keys(h, 0, 8);
	assert_int_equal(store_reserve(f.s, f.ns, h, 6, UNIT, node_of(1), 0, o).reserved, 6);
	for (int i = 0; i < 6; i++)
		assert_int_equal(arena_range_of(f.a, store_offset(f.s, o[i])), 1);
	store_commit(f.s, o, 6, 0);
	assert_int_equal(stats(&f).spill_bytes, 0);
	keys(h, 10, 8);
	assert_int_equal(store_reserve(f.s, f.ns, h, 4, UNIT, node_of(1), 0, o).reserved, 4);
	assert_int_equal(stats(&f).spill_bytes, 2 * UNIT);
	assert_int_equal(stats(&f).evicted_objects, 0);
	store_commit(f.s, o, 4, 0);
	/* a node that has no range, or no node at all: wherever there is most room */
	keys(h, 20, 8);
	assert_int_equal(store_reserve(f.s, f.ns, h, 1, UNIT, node_of(7), 0, o).reserved, 1);
	assert_int_equal(arena_range_of(f.a, store_offset(f.s, o[0])), 0);
	store_commit(f.s, o, 1, 0);
	assert_int_equal(store_reserve(f.s, f.ns, h + 1, 1, 9 * UNIT, NODE_UNKNOWN, 0, o).refused, 1);
	fix_close(&f);
}

static void test_13_between_equally_old_the_asked_node_is_cleared(void **state)
{
	struct store_conf conf = fix_conf(fake_arena(2, 64 * UNIT, 64 * UNIT, UNIT));
	struct fix f;
	struct store_hash h[2];
	store_obj o[2];
	(void)state;

	fix_open(&f, &conf);
	for (uint64_t i = 0; i < 64; i++) {
		for (int node = 0; node < 2; node++) {
			h[0] = key(2 * i + (uint64_t)node);
			assert_int_equal(store_reserve(f.s, f.ns, h, 1, UNIT, node_of(node), 0, o).reserved, 1);
			store_commit(f.s, o, 1, 0);
		}
	}
	for (uint64_t i = 0; i < 4; i++) {
		h[0] = key(1000 + i);
		assert_int_equal(store_reserve(f.s, f.ns, h, 1, UNIT, node_of(1), 0, o).reserved, 1);
		assert_int_equal(arena_range_of(f.a, store_offset(f.s, o[0])), 1);
		store_commit(f.s, o, 1, 0);
		assert_true(has(&f, 2 * i) && !has(&f, 2 * i + 1));
	}
	fix_close(&f);
}

/* ---- IsolatedLRU ------------------------------------------------------------------------------------------------- */

static store_ns tenant(struct fix *f, const char *salt)
{
	return store_ns_get(f->s, slice_str("m"), 1, 0, slice_str(salt), NULL);
}

static void test_20_isolated_without_quotas_is_one_lru(void **state)
{
	struct fix f;
	store_ns a, b, c;
	(void)state;

	fix_units(&f, 12, STORE_ISOLATED_LRU);
	a = tenant(&f, "a");
	b = tenant(&f, "b");
	c = tenant(&f, "c");
	commit_ns(&f, a, 0, 2);
	commit_ns(&f, b, 0, 4);
	commit_ns(&f, c, 0, 2);
	commit_ns(&f, a, 2, 4);
	commit_ns(&f, c, 100, 8);
	assert_int_equal(count_ns(&f, a, 0, 2) + count_ns(&f, b, 0, 4) + count_ns(&f, c, 0, 2), 0);
	assert_int_equal(count_ns(&f, a, 2, 4), 4);
	store_check(f.s);
	commit_ns(&f, b, 50, 3);
	assert_int_equal(count_ns(&f, a, 2, 4), 1);
	assert_true(has_ns(&f, a, 2)); /* the head last */
	fix_close(&f);
}

static void test_21_quota_is_enforced_at_the_tick(void **state)
{
	struct fix f;
	store_ns a, b;
	(void)state;

	fix_units(&f, 32, STORE_ISOLATED_LRU);
	a = tenant(&f, "a");
	b = tenant(&f, "b");
	assert_int_equal(store_quota_set(f.s, slice_str("a"), 4 * UNIT), 0);
	commit_ns(&f, a, 0, 10); /* soft: nothing is refused */
	commit_ns(&f, b, 0, 10);
	assert_int_equal(store_tick(f.s, 0), 6 * UNIT);
	assert_int_equal(count_ns(&f, a, 0, 10), 4);
	assert_true(has_ns(&f, a, 0) && has_ns(&f, a, 3));
	assert_int_equal(count_ns(&f, b, 0, 10), 10);
	assert_int_equal(store_tick(f.s, 0), 0);
	fix_close(&f);
}

static void test_22_under_pressure_no_quota_goes_first_then_the_furthest_over(void **state)
{
	struct fix f;
	store_ns a, b, c, d;
	(void)state;

	fix_units(&f, 20, STORE_ISOLATED_LRU);
	a = tenant(&f, "a");
	b = tenant(&f, "b");
	c = tenant(&f, "c");
	d = tenant(&f, "d");
	store_quota_set(f.s, slice_str("a"), 6 * UNIT);
	store_quota_set(f.s, slice_str("b"), 2 * UNIT);
	store_quota_set(f.s, slice_str("c"), 1 * UNIT);
	commit_ns(&f, a, 0, 6); /* at its limit, and oldest */
	commit_ns(&f, b, 0, 6); /* 4 over */
	commit_ns(&f, c, 0, 3); /* 2 over */
	commit_ns(&f, d, 0, 5); /* none, and youngest */
	commit_ns(&f, a, 100, 5);
	assert_int_equal(count_ns(&f, d, 0, 5), 0);
	assert_int_equal(count_ns(&f, a, 0, 6) + count_ns(&f, b, 0, 6) + count_ns(&f, c, 0, 3), 15);
	/* now a is 5 over, b 4, c 2 */
	commit_ns(&f, d, 10, 1);
	assert_int_equal(count_ns(&f, a, 0, 6), 5);
	fix_close(&f);
}

static void test_23_protected_salts_give_way_last_but_they_do(void **state)
{
	struct fix f;
	store_ns a, b;
	(void)state;

	fix_units(&f, 8, STORE_ISOLATED_LRU);
	a = tenant(&f, "a");
	b = tenant(&f, "b");
	store_quota_set(f.s, slice_str("a"), 100 * UNIT);
	store_quota_set(f.s, slice_str("b"), 100 * UNIT);
	commit_ns(&f, a, 0, 4);
	commit_ns(&f, b, 0, 4);
	commit_ns(&f, b, 10, 4);
	assert_int_equal(count_ns(&f, a, 0, 4), 0);
	assert_int_equal(count_ns(&f, b, 0, 4), 4);
	/* a large one across both */
	f.ns = a;
	put(&f, 50, 1, 8 * UNIT);
	assert_int_equal(stats(&f).objects, 1);
	fix_close(&f);
}

static void test_24_quotas_come_and_go(void **state)
{
	struct fix f;
	store_ns a, b;
	struct store_quota list[4];
	(void)state;

	fix_units(&f, 8, STORE_ISOLATED_LRU);
	a = tenant(&f, "a");
	b = tenant(&f, "b");
	commit_ns(&f, a, 0, 4);
	store_quota_set(f.s, slice_str("a"), 100 * UNIT); /* protects what it has already */
	store_check(f.s);
	commit_ns(&f, b, 0, 4);
	commit_ns(&f, b, 10, 4);
	assert_int_equal(count_ns(&f, a, 0, 4), 4);
	assert_int_equal(store_quota_list(f.s, list, 4), 2);
	assert_int_equal(store_quota_list(f.s, NULL, 0), 2);
	for (int i = 0; i < 2; i++) {
		bool is_a = strcmp(list[i].salt, "a") == 0;
		assert_true(is_a || strcmp(list[i].salt, "b") == 0);
		assert_true(list[i].limit_bytes == (is_a ? 100 * UNIT : UINT64_MAX));
		assert_int_equal(list[i].used_bytes, 4 * UNIT);
	}
	store_quota_set(f.s, slice_str("a"), UINT64_MAX);
	store_check(f.s);
	commit_ns(&f, b, 20, 4);
	assert_int_equal(count_ns(&f, a, 0, 4), 0);
	assert_int_equal(count_ns(&f, b, 10, 4), 4);
	fix_close(&f);
}

static void test_25_many_salts_keep_one_order(void **state)
{
	struct rnd r = rnd_start("salts");
	struct fix f;
	store_ns ns[100];
	char salt[8];
	(void)state;

	fix_units(&f, 400, STORE_ISOLATED_LRU);
	for (int i = 0; i < 100; i++) {
		snprintf(salt, sizeof(salt), "s%d", i);
		ns[i] = tenant(&f, salt);
	}
	for (uint64_t i = 0; i < 400; i++)
		commit_ns(&f, ns[i % 100], i, 1);
	/* renew some, so that salts change places; then the untouched must go in order */
	for (int i = 0; i < 150; i++) {
		uint64_t k = 200 + rnd_below(&r, 200);
		struct store_hash h = key(k);
		store_touch(f.s, &ns[k % 100], 1, &h, 1, 0);
	}
	store_check(f.s);
	for (uint64_t i = 0; i < 200; i++) {
		assert_true(has_ns(&f, ns[i % 100], i));
		commit_ns(&f, ns[rnd_below(&r, 100)], 1000 + i, 1);
		assert_false(has_ns(&f, ns[i % 100], i));
	}
	fix_close(&f);
}

/* ---- observers --------------------------------------------------------------------------------------------------- */

struct seen {
	uint32_t evicted, reused;
	double lifetime, idle, gap;
};

static void on_evicted(void *ctx, double lifetime_s, double idle_s)
{
	struct seen *seen = ctx;

	seen->evicted++;
	seen->lifetime = lifetime_s;
	seen->idle = idle_s;
}

static void on_reused(void *ctx, double gap_s)
{
	struct seen *seen = ctx;

	seen->reused++;
	seen->gap = gap_s;
}

static void test_30_observed_ages(void **state)
{
	struct seen seen = {0};
	struct store_conf conf = fix_conf(fake_arena_full(UNIT));
	struct store_hash h = key(0);
	struct fix f;
	store_obj o;
	(void)state;

	conf.sample_rate = 1;
	conf.observer = (struct store_observer){&seen, on_evicted, on_reused};
	fix_open(&f, &conf);
	store_reserve(f.s, f.ns, &h, 1, UNIT, NODE_UNKNOWN, 1000, &o);
	store_commit(f.s, &o, 1, 2000);
	store_lock_prefix(f.s, &f.ns, 1, &h, 1, 1, 0, 3500, &o);
	assert_int_equal(seen.reused, 1);
	assert_true(seen.gap == 1.5);
	store_unlock(f.s, &o, NULL, 1, 4000);
	h = key(1);
	store_reserve(f.s, f.ns, &h, 1, UNIT, NODE_UNKNOWN, 10000, &o);
	assert_int_equal(seen.evicted, 1);
	assert_true(seen.lifetime == 8 && seen.idle == 6.5);
	store_abort(f.s, &o, 1);
	fix_close(&f);
}

static void test_31_the_sample_is_a_share(void **state)
{
	struct seen seen = {0};
	struct store_conf conf = fix_conf(fake_arena_full(10000 * (uint64_t)UNIT));
	struct fix f;
	(void)state;

	conf.sample_rate = 0.1;
	conf.observer = (struct store_observer){&seen, on_evicted, on_reused};
	fix_open(&f, &conf);
	put(&f, 0, 10000, UNIT);
	put(&f, 20000, 10000, UNIT);
	assert_in_range(seen.evicted, 800, 1200);
	fix_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_tail_before_head_old_prompt_first),
		cmocka_unit_test(test_02_a_lookup_renews_the_whole_prompt),
		cmocka_unit_test(test_03_touch_makes_a_grown_prompt_one_age),
		cmocka_unit_test(test_04_touch_skips_gaps_and_what_is_in_use),
		cmocka_unit_test(test_05_locked_and_reserved_are_never_evicted),
		cmocka_unit_test(test_06_noop_refuses_when_full),
		cmocka_unit_test(test_07_watermark_counts_bytes),
		cmocka_unit_test(test_08_a_large_slot_takes_neighbours_of_one_age),
		cmocka_unit_test(test_09_room_between_locked_slots),
		cmocka_unit_test(test_10_lazy_arena_grows_before_anything_is_evicted),
		cmocka_unit_test(test_11_growth_that_fails),
		cmocka_unit_test(test_12_nodes),
		cmocka_unit_test(test_13_between_equally_old_the_asked_node_is_cleared),
		cmocka_unit_test(test_20_isolated_without_quotas_is_one_lru),
		cmocka_unit_test(test_21_quota_is_enforced_at_the_tick),
		cmocka_unit_test(test_22_under_pressure_no_quota_goes_first_then_the_furthest_over),
		cmocka_unit_test(test_23_protected_salts_give_way_last_but_they_do),
		cmocka_unit_test(test_24_quotas_come_and_go),
		cmocka_unit_test(test_25_many_salts_keep_one_order),
		cmocka_unit_test(test_30_observed_ages),
		cmocka_unit_test(test_31_the_sample_is_a_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
