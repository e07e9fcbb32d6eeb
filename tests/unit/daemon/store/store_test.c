/* store_test.c - what store.h promises, call by call. */
#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_01_store_and_find(void **state)
{
	struct fix f;
	struct store_hash h[3];
	store_obj o[3], got[3];
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	keys(h, 0, 3);
	assert_int_equal(store_reserve(f.s, f.ns, h, 3, 5000, NODE_UNKNOWN, 0, o).reserved, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(store_bytes(f.s, o[i]), 5000);
		assert_int_equal(store_offset(f.s, o[i]) % UNIT, 0);
		assert_ptr_equal(store_ptr(f.s, o[i]), f.a->base + store_offset(f.s, o[i]));
		memset(store_ptr(f.s, o[i]), i + 1, 5000);
	}
	assert_false(has(&f, 0)); /* being written: invisible */
	assert_int_equal(stats(&f).reserved, 3);
	assert_int_equal(store_commit(f.s, o, 3, 0), 3);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h, 3, 1, 5000, 0, got), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(got[i], o[i]);
		assert_int_equal(((uint8_t *)store_ptr(f.s, got[i]))[4999], i + 1);
	}
	assert_int_equal(stats(&f).used_bytes, 3 * 2 * UNIT);
	assert_int_equal(stats(&f).locked, 3);
	store_unlock(f.s, got, NULL, 3, 0);
	assert_int_equal(stats(&f).locked, 0);
	fix_close(&f);
}

static void test_02_present_keys_are_not_reserved_again(void **state)
{
	struct fix f;
	struct store_hash h[4];
	struct store_reserve_result r;
	store_obj o[4], o2[4];
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	keys(h, 0, 4);
	h[3] = h[0]; /* twice in one request */
	r = store_reserve(f.s, f.ns, h, 4, UNIT, NODE_UNKNOWN, 0, o);
	assert_int_equal(r.reserved, 3);
	assert_int_equal(r.present, 1);
	assert_int_equal(o[3], 0);
	r = store_reserve(f.s, f.ns, h, 3, UNIT, NODE_UNKNOWN, 0, o2); /* being written */
	assert_int_equal(r.present, 3);
	store_commit(f.s, o, 4, 0);
	r = store_reserve(f.s, f.ns, h, 3, UNIT, NODE_UNKNOWN, 0, o2); /* readable */
	assert_int_equal(r.present, 3);
	assert_int_equal(r.reserved + r.refused + o2[0] + o2[1] + o2[2], 0);
	assert_int_equal(stats(&f).reserve_present, 7);
	fix_close(&f);
}

static void test_03_abort_and_disown(void **state)
{
	struct fix f;
	struct store_hash h[2];
	store_obj o[2], again[2];
	(void)state;

	fix_units(&f, 4, STORE_LRU);
	keys(h, 0, 2);
	store_reserve(f.s, f.ns, h, 2, UNIT, NODE_UNKNOWN, 0, o);
	store_abort(f.s, o, 2);
	assert_int_equal(stats(&f).used_bytes, 0);
	store_reserve(f.s, f.ns, h, 2, UNIT, NODE_UNKNOWN, 0, o);
	store_disown(f.s, o, 2);
	store_disown(f.s, o, 2);
	assert_int_equal(stats(&f).detached, 2);
	assert_int_equal(stats(&f).used_bytes, 2 * UNIT); /* an engine may still write there */
	assert_int_equal(store_reserve(f.s, f.ns, h, 2, UNIT, NODE_UNKNOWN, 0, again).reserved, 2);
	assert_int_equal(store_commit(f.s, again, 2, 0), 2);
	assert_int_equal(store_commit(f.s, o, 1, 0), 0);
	store_abort(f.s, o + 1, 1);
	assert_int_equal(stats(&f).used_bytes, 2 * UNIT);
	assert_int_equal(stats(&f).detached, 0);
	assert_true(has(&f, 0) && has(&f, 1));
	fix_close(&f);
}

static void test_04_prefix_in_expansion_order(void **state)
{
	struct fix f;
	store_ns ns[3];
	struct store_hash h[5];
	store_obj o[5], out[15];
	(void)state;

	fix_units(&f, 64, STORE_LRU);
	keys(h, 0, 5);
	for (uint32_t r = 0; r < 3; r++) {
		ns[r] = store_ns_get(f.s, slice_str("m"), 0x03000300 | r << 16 | r, 0, slice_str(""), NULL);
		/* rank 0 has 5 chunks, rank 1 has 4, rank 2 has 2 */
		uint32_t n = r == 0 ? 5 : r == 1 ? 4 : 2;
		store_reserve(f.s, ns[r], h, n, UNIT, NODE_UNKNOWN, 0, o);
		store_commit(f.s, o, n, 0);
	}
	/* chunks 0 and 1 whole, of chunk 2 ranks 0 and 1 */
	assert_int_equal(store_peek_prefix(f.s, ns, 3, h, 5, UNIT), 8);
	assert_int_equal(store_lock_prefix(f.s, ns, 3, h, 5, 2, UNIT, 0, out), 8);
	assert_int_equal(stats(&f).locked, 8);
	assert_int_equal(store_peek_prefix(f.s, ns, 2, h, 5, UNIT), 9);
	assert_int_equal(store_peek_prefix(f.s, ns, 1, h, 5, UNIT), 5);
	for (uint32_t i = 0; i < 8; i++) {
		store_obj one;
		assert_int_equal(store_lock_all(f.s, ns[i % 3], &h[i / 3], 1, UNIT, 0, &one, NULL), 0);
		assert_int_equal(one, out[i]);
		store_unlock(f.s, &one, NULL, 1, 0);
	}
	store_unlock(f.s, out, (uint16_t[]){2, 2, 2, 2, 2, 2, 2, 2}, 8, 0);
	assert_int_equal(stats(&f).locked, 0);
	ns[1] = 0;
	assert_int_equal(store_lock_prefix(f.s, ns, 3, h, 5, 1, 0, 0, out), 1);
	store_unlock(f.s, out, NULL, 1, 0);
	assert_int_equal(stats(&f).lookups, 15 + 8 + 15);
	assert_int_equal(stats(&f).hits, 8 + 8 + 1);
	fix_close(&f);
}

/* Long prompts cross groups and slices of the lock; every count must still be exact. */
static void test_05_long_prefixes(void **state)
{
	enum { N = 5000 };
	static struct store_hash h[N + 1];
	static store_obj o[2 * N];
	store_ns ns[2];
	struct fix f;
	(void)state;

	fix_units(&f, 3 * N, STORE_LRU);
	keys(h, 0, N + 1);
	for (uint32_t r = 0; r < 2; r++) {
		ns[r] = store_ns_get(f.s, slice_str("m"), r, 0, slice_str(""), NULL);
		assert_int_equal(store_reserve(f.s, ns[r], h, N, UNIT, NODE_UNKNOWN, 0, o).reserved, N);
		assert_int_equal(store_commit(f.s, o, N, 0), N);
	}
	assert_int_equal(store_peek_prefix(f.s, ns, 2, h, N + 1, 0), 2 * N);
	assert_int_equal(store_lock_prefix(f.s, ns, 2, h, N, 1, 0, 0, o), 2 * N);
	store_touch(f.s, ns, 2, h, N, 0);
	store_check(f.s);
	store_unlock(f.s, o, NULL, 2 * N, 0);
	store_touch(f.s, ns, 2, h, N + 1, 0);
	assert_int_equal(store_delete(f.s, ns[1], &h[3333], false), 0);
	assert_int_equal(store_peek_prefix(f.s, ns, 2, h, N, 0), 2 * 3333 + 1);
	assert_int_equal(store_clear(f.s), 2 * N - 1);
	assert_int_equal(stats(&f).used_bytes, 0);
	fix_close(&f);
}

static void test_06_lock_all_is_all_or_nothing(void **state)
{
	struct fix f;
	struct store_hash h[4];
	store_obj o[4];
	uint32_t missing = 99;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	put(&f, 0, 3, UNIT);
	keys(h, 0, 4);
	assert_int_equal(store_lock_all(f.s, f.ns, h, 4, UNIT, 0, o, &missing), -ENOENT);
	assert_int_equal(missing, 3);
	assert_int_equal(stats(&f).locked, 0);
	h[3] = h[1]; /* the same twice: two locks */
	assert_int_equal(store_lock_all(f.s, f.ns, h, 4, UNIT, 0, o, &missing), 0);
	assert_int_equal(o[3], o[1]);
	assert_int_equal(stats(&f).locked, 3);
	store_unlock(f.s, o, NULL, 3, 0);
	assert_int_equal(stats(&f).locked, 1);
	store_unlock(f.s, o + 3, NULL, 1, 0);
	assert_int_equal(store_lock_all(f.s, 0, h, 1, UNIT, 0, o, NULL), -ENOENT);
	assert_int_equal(store_lock_all(f.s, f.ns, h, 0, UNIT, 0, o, &missing), 0);
	fix_close(&f);
}

static void test_07_locks_saturate(void **state)
{
	struct fix f;
	struct store_hash h[2];
	store_obj o[2], more;
	uint32_t missing;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	put(&f, 0, 2, UNIT);
	keys(h, 0, 2);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h + 1, 1, 65535, 0, 0, &more), 1);
	assert_int_equal(lock_one(&f, 1), 0);
	/* refusal in the middle of all-or-nothing gives the first back */
	assert_int_equal(store_lock_all(f.s, f.ns, h, 2, 0, 0, o, &missing), -ENOENT);
	assert_int_equal(missing, 1);
	assert_int_equal(stats(&f).locked, 1);
	store_unlock(f.s, &more, (uint16_t[]){1}, 1, 0);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h + 1, 1, 2, 0, 0, o), 0);
	assert_int_equal(lock_one(&f, 1), more); /* the last one that fits */
	assert_int_equal(lock_one(&f, 1), 0);
	store_unlock(f.s, &more, (uint16_t[]){65535}, 1, 0);
	assert_int_equal(stats(&f).locked, 0);
	fix_close(&f);
}

static void test_08_size_mismatch_is_a_miss_and_is_replaced(void **state)
{
	struct fix f;
	struct store_hash h = key(0);
	store_obj o, old;
	uint32_t missing;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	put(&f, 0, 1, 5000);
	assert_int_equal(store_peek_prefix(f.s, &f.ns, 1, &h, 1, 5000), 1);
	assert_int_equal(store_peek_prefix(f.s, &f.ns, 1, &h, 1, 5001), 0); /* the same slot size */
	assert_int_equal(store_peek_prefix(f.s, &f.ns, 1, &h, 1, 9000), 0);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, &h, 1, 1, 4999, 0, &o), 0);
	assert_int_equal(store_lock_all(f.s, f.ns, &h, 1, 1, 0, &o, &missing), -ENOENT);
	/* stored again with another size: the old one goes, or lives on for its reader */
	old = lock_one(&f, 0);
	assert_int_equal(store_reserve(f.s, f.ns, &h, 1, 9000, NODE_UNKNOWN, 0, &o).reserved, 1);
	assert_int_equal(store_bytes(f.s, old), 5000);
	assert_int_equal(stats(&f).detached, 1);
	assert_int_equal(store_commit(f.s, &o, 1, 0), 1);
	store_unlock(f.s, &old, NULL, 1, 0);
	assert_int_equal(stats(&f).used_bytes, 3 * UNIT);
	assert_int_equal(store_peek_prefix(f.s, &f.ns, 1, &h, 1, 9000), 1);
	assert_int_equal(store_reserve(f.s, f.ns, &h, 1, 100, NODE_UNKNOWN, 0, &o).reserved, 1);
	assert_int_equal(stats(&f).used_bytes, UNIT);
	/* one that is being written is never replaced */
	assert_int_equal(store_reserve(f.s, f.ns, &h, 1, 9000, NODE_UNKNOWN, 0, &old).present, 1);
	store_abort(f.s, &o, 1);
	fix_close(&f);
}

static void test_09_clear_detaches_what_is_in_use(void **state)
{
	struct fix f;
	struct store_hash h[6];
	store_obj locked[2], writing[2], o;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	put(&f, 0, 4, UNIT);
	keys(h, 0, 6);
	assert_int_equal(store_lock_prefix(f.s, &f.ns, 1, h, 2, 1, 0, 0, locked), 2);
	assert_int_equal(store_reserve(f.s, f.ns, h + 4, 2, UNIT, NODE_UNKNOWN, 0, writing).reserved, 2);
	assert_int_equal(store_clear(f.s), 6);
	for (uint64_t i = 0; i < 6; i++)
		assert_false(has(&f, i));
	assert_int_equal(stats(&f).objects, 0);
	assert_int_equal(stats(&f).detached, 4);
	assert_int_equal(stats(&f).used_bytes, 4 * UNIT);
	store_check(f.s);
	/* the same keys can be stored at once */
	put(&f, 0, 6, UNIT);
	assert_int_equal(store_commit(f.s, writing, 2, 0), 0);
	store_unlock(f.s, locked, NULL, 1, 0);
	assert_int_equal(stats(&f).detached, 1);
	store_unlock(f.s, locked + 1, NULL, 1, 0);
	assert_int_equal(stats(&f).used_bytes, 6 * UNIT);
	o = lock_one(&f, 5);
	assert_int_not_equal(o, 0);
	store_unlock(f.s, &o, NULL, 1, 0);
	assert_int_equal(stats(&f).cleared, 6);
	fix_close(&f);
}

static void test_10_delete(void **state)
{
	struct fix f;
	struct store_hash h = key(0);
	store_obj o;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	assert_int_equal(store_delete(f.s, f.ns, &h, false), -ENOENT);
	assert_int_equal(store_delete(f.s, 0, &h, true), -ENOENT);
	put(&f, 0, 1, UNIT);
	o = lock_one(&f, 0);
	assert_int_equal(store_delete(f.s, f.ns, &h, false), -EBUSY);
	assert_int_equal(store_delete(f.s, f.ns, &h, true), 0);
	assert_false(has(&f, 0));
	store_unlock(f.s, &o, NULL, 1, 0);
	assert_int_equal(stats(&f).used_bytes, 0);
	put(&f, 0, 1, UNIT);
	assert_int_equal(store_delete(f.s, f.ns, &h, false), 0);
	store_reserve(f.s, f.ns, &h, 1, UNIT, NODE_UNKNOWN, 0, &o);
	assert_int_equal(store_delete(f.s, f.ns, &h, false), -EBUSY);
	assert_int_equal(store_delete(f.s, f.ns, &h, true), 0);
	assert_int_equal(store_commit(f.s, &o, 1, 0), 0);
	assert_int_equal(stats(&f).used_bytes, 0);
	fix_close(&f);
}

static void test_11_refusals(void **state)
{
	struct fix f;
	struct store_hash h[5];
	struct store_reserve_result r;
	store_obj o[5], rest[5];
	(void)state;

	fix_units(&f, 4, STORE_LRU);
	keys(h, 0, 5);
	assert_int_equal(store_reserve(f.s, f.ns, h, 5, 5 * UNIT, NODE_UNKNOWN, 0, o).refused, 5);
	assert_int_equal(store_reserve(f.s, f.ns, h, 5, 0, NODE_UNKNOWN, 0, o).refused, 5);
	assert_int_equal(store_reserve(f.s, f.ns, h, 5, UINT64_MAX, NODE_UNKNOWN, 0, o).refused, 5);
	assert_int_equal(store_reserve(f.s, 0, h, 5, UNIT, NODE_UNKNOWN, 0, o).refused, 5);
	r = store_reserve(f.s, f.ns, h, 5, UNIT, NODE_UNKNOWN, 0, o);
	assert_int_equal(r.reserved, 4);
	assert_int_equal(r.refused, 1);
	assert_int_equal(o[4], 0);
	/* nothing but reservations: nothing can be evicted */
	r = store_reserve(f.s, f.ns, h, 5, UNIT, NODE_UNKNOWN, 0, rest);
	assert_int_equal(r.present, 4);
	assert_int_equal(r.refused, 1);
	assert_int_equal(stats(&f).reserve_refused, 22);
	store_abort(f.s, o, 5);
	fix_close(&f);
}

static void test_12_objects_are_bounded_too(void **state)
{
	struct store_conf conf = fix_conf(fake_arena_full(64 * UNIT));
	struct fix f;
	struct store_hash h[4];
	store_obj o[4];
	(void)state;

	conf.max_objects = 3;
	fix_open(&f, &conf);
	put(&f, 0, 3, UNIT);
	put(&f, 3, 1, UNIT); /* the oldest, the tail of the first batch, went */
	assert_true(has(&f, 0) && has(&f, 1) && !has(&f, 2) && has(&f, 3));
	keys(h, 10, 4);
	assert_int_equal(store_reserve(f.s, f.ns, h, 4, UNIT, NODE_UNKNOWN, 0, o).reserved, 3);
	store_abort(f.s, o, 4);
	fix_close(&f);
}

static void test_13_bad_configurations(void **state)
{
	struct arena *a = fake_arena_full(64 * UNIT);
	struct store_conf bad[6];
	struct store *s;
	struct why why;
	(void)state;

	for (int i = 0; i < 6; i++)
		bad[i] = fix_conf(a);
	bad[0].align = 2048;
	bad[1].align = 12288;
	bad[2].trigger_watermark = 0;
	bad[3].trigger_watermark = 1.5;
	bad[4].eviction_ratio = 0;
	bad[5].sample_rate = 2;
	for (int i = 0; i < 6; i++) {
		why.text[0] = '\0';
		assert_int_equal(store_create(&bad[i], &s, &why), -EINVAL);
		assert_true(strlen(why.text) > 10);
	}
	store_destroy(NULL);
	arena_destroy(a);
}

static void test_14_allocation_failures(void **state)
{
	struct store_conf conf = fix_conf(fake_arena_full(64 * UNIT));
	struct fix f = {.a = conf.arena};
	struct why why;
	int n, err;
	(void)state;

	conf.sample_rate = 0.5;
	for (n = 1;; n++) {
		why.text[0] = '\0';
		mem_fail_at((uint64_t)n);
		err = store_create(&conf, &f.s, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_true(strlen(why.text) > 10);
	}
	assert_true(n > 8);
	for (n = 1;; n++) {
		mem_fail_at((uint64_t)n);
		f.ns = store_ns_get(f.s, slice_str("m"), 0, 0, slice_str("s"), NULL);
		mem_fail_at(0);
		store_check(f.s);
		if (f.ns)
			break;
		assert_int_equal(store_ns_find(f.s, slice_str("m"), 0, 0, slice_str("s"), NULL), 0);
	}
	assert_true(n > 1);
	put(&f, 0, 10, UNIT);
	fix_close(&f);
}

/* Nothing on the data path allocates. */
static void test_15_no_allocation_after_the_namespace(void **state)
{
	struct fix f;
	struct store_hash h[32];
	store_obj o[32];
	uint64_t before;
	(void)state;

	fix_units(&f, 64, STORE_LRU);
	before = mem_thread_allocs();
	for (uint64_t i = 0; i < 100; i++) {
		keys(h, 16 * i, 32);
		store_reserve(f.s, f.ns, h, 32, UNIT, NODE_UNKNOWN, i, o);
		store_commit(f.s, o, 32, i);
		store_unlock(f.s, o, NULL, store_lock_prefix(f.s, &f.ns, 1, h, 32, 1, UNIT, i, o), i);
		store_tick(f.s, i);
	}
	store_clear(f.s);
	assert_int_equal(mem_thread_allocs(), before);
	fix_close(&f);
}

static void test_16_namespaces_outlive_their_references_by_their_objects(void **state)
{
	struct fix f;
	store_ns ns;
	struct store_hash h = key(0);
	store_obj o;
	(void)state;

	fix_units(&f, 16, STORE_LRU);
	ns = store_ns_get(f.s, slice_str("m"), 7, 1, slice_str("tenant"), NULL);
	store_reserve(f.s, ns, &h, 1, UNIT, NODE_UNKNOWN, 0, &o);
	store_commit(f.s, &o, 1, 0);
	store_ns_put(f.s, ns);
	assert_int_equal(store_ns_find(f.s, slice_str("m"), 7, 1, slice_str("tenant"), NULL), ns);
	assert_int_equal(store_peek_prefix(f.s, &ns, 1, &h, 1, 0), 1);
	store_clear(f.s);
	assert_int_equal(store_ns_find(f.s, slice_str("m"), 7, 1, slice_str("tenant"), NULL), 0);
	store_ns_put(f.s, 0);
	fix_close(&f);
}

static void check_index_bytes(uint64_t objects)
{
	struct store_conf conf = fix_conf(fake_arena_full(objects * UNIT));
	struct fix f;
	struct store_stats st;

	fix_open(&f, &conf);
	for (uint64_t at = 0; at < objects; at += 1000)
		put(&f, at, 1000, UNIT);
	st = stats(&f);
	assert_int_equal(st.objects, objects);
	assert_true(st.index_bytes <= 96 * st.objects);
	assert_true(st.index_bytes >= 80 * st.objects);
	/* every other object gone: free blocks and buckets that nobody needs any more count as well */
	for (uint64_t i = 0; i < objects; i += 2) {
		struct store_hash h = key(i);
		assert_int_equal(store_delete(f.s, f.ns, &h, false), 0);
	}
	st = stats(&f);
	assert_true(st.index_bytes <= 80 * st.objects + 24 * (st.objects + 1) + 8 * st.objects);
	fix_close(&f);
}

static void test_17_memory_per_object(void **state)
{
	(void)state;
	check_index_bytes(1000);
	check_index_bytes(10000);
	check_index_bytes(100000);
}

/* A machine that does not give address space for nothing gets a reason, not a crash. */
static void test_18_no_address_space(void **state)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	struct store_conf conf = fix_conf(fake_arena_full((uint64_t)64 << 30));
	struct rlimit small = {(rlim_t)1 << 30, (rlim_t)1 << 30};
	struct store *s;
	struct why why;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setrlimit(RLIMIT_AS, &small);
		_exit(store_create(&conf, &s, &why) == -ENOMEM && strstr(why.text, "address space") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	arena_destroy(conf.arena);
#endif
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_store_and_find),
		cmocka_unit_test(test_02_present_keys_are_not_reserved_again),
		cmocka_unit_test(test_03_abort_and_disown),
		cmocka_unit_test(test_04_prefix_in_expansion_order),
		cmocka_unit_test(test_05_long_prefixes),
		cmocka_unit_test(test_06_lock_all_is_all_or_nothing),
		cmocka_unit_test(test_07_locks_saturate),
		cmocka_unit_test(test_08_size_mismatch_is_a_miss_and_is_replaced),
		cmocka_unit_test(test_09_clear_detaches_what_is_in_use),
		cmocka_unit_test(test_10_delete),
		cmocka_unit_test(test_11_refusals),
		cmocka_unit_test(test_12_objects_are_bounded_too),
		cmocka_unit_test(test_13_bad_configurations),
		cmocka_unit_test(test_14_allocation_failures),
		cmocka_unit_test(test_15_no_allocation_after_the_namespace),
		cmocka_unit_test(test_16_namespaces_outlive_their_references_by_their_objects),
		cmocka_unit_test(test_17_memory_per_object),
		cmocka_unit_test(test_18_no_address_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
