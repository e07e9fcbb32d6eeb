/* below_test.c - what the tiers below L1 ask of the store: objects that appear locked, that go with their last lock, checksums. */
#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/crc32c.h"

#include <pthread.h>
#include <stdatomic.h>

static void reserve(struct fix *f, uint64_t first, uint32_t n, uint64_t bytes, store_obj *o)
{
	struct store_hash h[64];

	keys(h, first, n);
	assert_int_equal(store_reserve(f->s, f->ns, h, n, bytes, NODE_UNKNOWN, 0, o).reserved, n);
}

static void test_01_committed_objects_are_locked_from_the_start(void **state)
{
	store_obj o[4], more[4];
	struct fix f;
	(void)state;

	fix_units(&f, 4, STORE_LRU);
	reserve(&f, 0, 4, UNIT, o);
	assert_int_equal(store_commit_locked(f.s, o, 4, 2, false, 0), 4);
	assert_int_equal(stats(&f).locked, 4);
	assert_int_equal(stats(&f).commits, 4);
	store_check(f.s);
	/* The store is full of locked objects: nothing can make room. */
	assert_int_equal(store_reserve(f.s, f.ns, &(struct store_hash){{1}}, 1, UNIT, NODE_UNKNOWN, 0, more).refused,
			 1);
	store_unlock(f.s, o, NULL, 4, 0);
	assert_int_equal(store_reserve(f.s, f.ns, &(struct store_hash){{1}}, 1, UNIT, NODE_UNKNOWN, 0, more).refused,
			 1);
	store_unlock(f.s, o, NULL, 4, 0);
	assert_int_equal(stats(&f).locked, 0);
	assert_true(has(&f, 3)); /* an ordinary object, and one that can be evicted */
	reserve(&f, 10, 1, UNIT, more);
	store_abort(f.s, more, 1);
	fix_close(&f);
}

static void test_02_temporary_objects_go_with_the_last_lock(void **state)
{
	store_obj o[3], got;
	struct fix f;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	reserve(&f, 0, 3, UNIT, o);
	assert_int_equal(store_commit_locked(f.s, o, 3, 1, true, 0), 3);
	assert_int_equal(stats(&f).temporary, 3);
	got = lock_one(&f, 1); /* a second owner */
	assert_int_equal(got, o[1]);
	store_unlock(f.s, o, NULL, 3, 0);
	store_check(f.s);
	assert_false(has(&f, 0));
	assert_true(has(&f, 1));
	assert_false(has(&f, 2));
	assert_int_equal(stats(&f).used_bytes, UNIT);
	assert_int_equal(stats(&f).temporary, 1);
	store_unlock(f.s, &got, NULL, 1, 0);
	assert_int_equal(stats(&f).temporary, 0);
	assert_int_equal(stats(&f).objects, 0);
	assert_int_equal(stats(&f).used_bytes, 0);
	fix_close(&f);
}

static void test_03_storing_it_anew_keeps_a_temporary_object(void **state)
{
	struct store_hash h[2];
	store_obj o[2], again[2];
	struct fix f;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	reserve(&f, 0, 2, UNIT, o);
	store_commit_locked(f.s, o, 2, 1, true, 0);
	keys(h, 0, 1);
	assert_int_equal(store_reserve(f.s, f.ns, h, 1, UNIT, NODE_UNKNOWN, 0, again).present, 1);
	store_unlock(f.s, o, NULL, 2, 0);
	assert_true(has(&f, 0));
	assert_false(has(&f, 1));
	fix_close(&f);
}

static void test_04_temporary_objects_that_are_cleared_deleted_or_replaced(void **state)
{
	struct store_hash h[4];
	store_obj o[4], other;
	struct fix f;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	keys(h, 0, 4);
	reserve(&f, 0, 4, UNIT, o);
	assert_int_equal(store_commit_locked(f.s, o, 2, 1, true, 0), 2);
	assert_int_equal(store_delete(f.s, f.ns, &h[0], true), 0);
	assert_int_equal(store_reserve(f.s, f.ns, &h[1], 1, 2 * UNIT, NODE_UNKNOWN, 0, &other).reserved, 1);
	store_check(f.s);
	assert_int_equal(stats(&f).detached, 2);
	assert_int_equal(store_clear(f.s), 3);
	/* Cleared while being written: nothing to lock. */
	assert_int_equal(store_commit_locked(f.s, &other, 1, 1, true, 0), 0);
	assert_int_equal(other, 0);
	assert_int_equal(store_commit_locked(f.s, o + 2, 2, 1, true, 0), 0);
	assert_int_equal(o[2] | o[3], 0);
	store_unlock(f.s, o, NULL, 4, 0);
	assert_int_equal(stats(&f).used_bytes, 0);
	assert_int_equal(stats(&f).detached, 0);
	fix_close(&f);
}

static void test_05_a_temporary_object_is_cleared_while_locked(void **state)
{
	store_obj o[2];
	struct fix f;
	(void)state;

	fix_units(&f, 4, STORE_LRU);
	reserve(&f, 0, 2, UNIT, o);
	store_commit_locked(f.s, o, 2, 3, true, 0);
	assert_int_equal(store_clear(f.s), 2);
	store_check(f.s);
	assert_int_equal(stats(&f).used_bytes, 2 * UNIT);
	store_unlock(f.s, o, (const uint16_t[]){3, 2}, 2, 0);
	assert_int_equal(stats(&f).used_bytes, UNIT);
	store_unlock(f.s, o + 1, NULL, 1, 0);
	assert_int_equal(stats(&f).used_bytes, 0);
	fix_close(&f);
}

static void test_06_unlock_and_drop(void **state)
{
	store_obj o[3], held, none = 0;
	struct fix f;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	reserve(&f, 0, 3, UNIT, o);
	store_commit_locked(f.s, o, 3, 1, false, 0);
	held = lock_one(&f, 1);
	store_unlock_drop(f.s, (store_obj[]){o[0], 0, o[1]}, 3, 0);
	store_check(f.s);
	assert_false(has(&f, 0));
	assert_true(has(&f, 1)); /* somebody reads it */
	store_unlock(f.s, &held, NULL, 1, 0);
	assert_false(has(&f, 1));
	assert_true(has(&f, 2));
	store_unlock(f.s, o + 2, NULL, 1, 0);
	store_unlock_drop(f.s, &none, 1, 0);
	assert_int_equal(stats(&f).objects, 1);
	fix_close(&f);
}

static void test_07_lock_more(void **state)
{
	store_obj o[3];
	struct fix f;
	(void)state;

	fix_units(&f, 8, STORE_LRU);
	reserve(&f, 0, 2, UNIT, o);
	store_commit_locked(f.s, o, 1, 1, false, 0);
	store_commit_locked(f.s, o + 1, 1, UINT16_MAX, false, 0);
	o[2] = 0;
	assert_int_equal(store_lock_more(f.s, (store_obj[]){o[0], o[2]}, 2), 1);
	assert_int_equal(store_lock_more(f.s, (store_obj[]){o[1]}, 1), 0);
	store_obj both[2] = {o[1], o[0]};
	assert_int_equal(store_lock_more(f.s, both, 2), 1);
	assert_int_equal(both[0], 0);
	assert_int_equal(both[1], o[0]);
	store_unlock(f.s, o, (const uint16_t[]){2, UINT16_MAX - 1}, 2, 0);
	assert_int_equal(stats(&f).locked, 2);
	store_unlock(f.s, o, NULL, 2, 0);
	assert_int_equal(stats(&f).locked, 0);
	fix_close(&f);
}

/* The slot's next owner must not inherit sums: an object with wrong sums would fail for ever once it is written below. */
static void test_08_sums_belong_to_the_object(void **state)
{
	uint64_t bytes = 3 * CRC_BLOCK + 5;
	uint32_t sums[4] = {11, 12, 13, 14}, got[4];
	struct store_conf conf = fix_conf(NULL);
	store_obj o[2];
	struct fix f;
	(void)state;

	for (uint32_t align = UNIT; align <= 4 * CRC_BLOCK; align *= 32) {
		conf.align = align;
		conf.arena = fake_arena_full(16 * CRC_BLOCK);
		fix_open(&f, &conf);
		reserve(&f, 0, 2, bytes, o);
		assert_false(store_sums_get(f.s, o[0], got));
		store_sums_set(f.s, o[0], sums);
		assert_false(store_sums_get(f.s, o[1], got));
		store_sums_set(f.s, o[1], (const uint32_t[]){1, 2, 3, 4});
		store_commit_locked(f.s, o, 2, 1, true, 0);
		assert_true(store_sums_get(f.s, o[0], got));
		assert_memory_equal(got, sums, sizeof(sums));
		store_unlock(f.s, o, NULL, 2, 0);
		reserve(&f, 0, 2, bytes, o);
		assert_false(store_sums_get(f.s, o[0], got));
		assert_false(store_sums_get(f.s, o[1], got));
		store_abort(f.s, o, 2);
		fix_close(&f);
	}
}

static void test_10_lock_what_is_there(void **state)
{
	struct store_hash h[300];
	store_obj got[600], one;
	store_ns ns[2];
	struct fix f;
	(void)state;

	fix_units(&f, 2048, STORE_LRU);
	ns[0] = f.ns;
	ns[1] = store_ns_get(f.s, slice_str("model"), 0x01000101, 0, slice_str(""), NULL);
	keys(h, 0, 300);
	for (uint32_t i = 0; i < 600; i++) {
		if (i % 3 == 0)
			continue; /* a hole */
		store_reserve(f.s, ns[i % 2], &h[i / 2], 1, i % 3 == 1 ? UNIT : 2 * UNIT, NODE_UNKNOWN, 0, &one);
		if (i != 301) /* one is being written */
			store_commit(f.s, &one, 1, 0);
	}
	assert_int_equal(store_lock_present(f.s, ns, 2, h, 5, 590, 3, UNIT, 0, got), 195);
	for (uint32_t i = 5; i < 595; i++)
		assert_int_equal(got[i - 5] != 0, i % 3 == 1 && i != 301);
	assert_int_equal(stats(&f).locked, 195);
	assert_int_equal(stats(&f).lookups, 0);
	for (int i = 0; i < 3; i++)
		store_unlock(f.s, got, NULL, 590, 0);
	assert_int_equal(stats(&f).locked, 0);
	keys(h, 150, 1);
	store_delete(f.s, ns[1], h, true);
	store_ns_put(f.s, ns[1]);
	fix_close(&f);
}

/* ---- between a commit and a lock nothing may come ---------------------------------------------------------------- */

#define ROUNDS 20000

struct race {
	struct fix f;
	_Atomic bool stop;
	_Atomic uint64_t evictions;
};

/* Keeps the store full, so that everything unlocked is evicted at once. */
static void *churn(void *arg)
{
	struct race *r = arg;
	store_obj o;

	for (uint64_t i = 1000; !r->stop; i++) {
		struct store_hash h = key(i);
		if (store_reserve(r->f.s, r->f.ns, &h, 1, UNIT, NODE_UNKNOWN, 0, &o).reserved)
			store_commit(r->f.s, &o, 1, 0);
	}
	return NULL;
}

static void test_09_eviction_cannot_come_between(void **state)
{
	uint32_t rounds = ROUNDS / (getenv("LMCA_TEST_SCALE") ? 4 : 1), done = 0;
	struct race r = {.stop = false};
	pthread_t t;
	(void)state;

	fix_units(&r.f, 8, STORE_LRU);
	assert_int_equal(pthread_create(&t, NULL, churn, &r), 0);
	for (uint32_t i = 0; i < rounds; i++) {
		struct store_hash h = key(i % 4);
		store_obj o;
		if (!store_reserve(r.f.s, r.f.ns, &h, 1, UNIT, NODE_UNKNOWN, 0, &o).reserved)
			continue;
		*(uint64_t *)store_ptr(r.f.s, o) = i;
		assert_int_equal(store_commit_locked(r.f.s, &o, 1, 1, i & 1, 0), 1);
		assert_int_equal(*(uint64_t *)store_ptr(r.f.s, o), i);
		assert_int_equal(lock_one(&r.f, i % 4), o);
		store_unlock_drop(r.f.s, &o, 1, 0);
		store_unlock(r.f.s, &o, NULL, 1, 0);
		done++;
	}
	r.stop = true;
	pthread_join(t, NULL);
	assert_true(done > rounds / 2);
	assert_true(stats(&r.f).evicted_objects > 0);
	assert_int_equal(stats(&r.f).locked, 0);
	fix_close(&r.f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_committed_objects_are_locked_from_the_start),
		cmocka_unit_test(test_02_temporary_objects_go_with_the_last_lock),
		cmocka_unit_test(test_03_storing_it_anew_keeps_a_temporary_object),
		cmocka_unit_test(test_04_temporary_objects_that_are_cleared_deleted_or_replaced),
		cmocka_unit_test(test_05_a_temporary_object_is_cleared_while_locked),
		cmocka_unit_test(test_06_unlock_and_drop),
		cmocka_unit_test(test_07_lock_more),
		cmocka_unit_test(test_08_sums_belong_to_the_object),
		cmocka_unit_test(test_09_eviction_cannot_come_between),
		cmocka_unit_test(test_10_lock_what_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
