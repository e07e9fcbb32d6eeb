/* fetch_test.c - prefetches that go well: prefix order, several adapters, the budget, shared loads, and what L1 keeps. */
#include "tests/unit/daemon/tier/fixture.h"

static void test_01_a_prefix_from_l2(void **state)
{
	const struct heard *h;
	uint32_t sums[1];
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.locks = 3;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 10);
	tx_on_l2(&x, 0, 11, 5); /* 10 is nowhere */
	assert_int_equal(tx_prefetch(&x, 1, 0, 20), 0);
	h = tx_wait(&x, 1);
	assert_true(h->asked);
	assert_int_equal(h->found, 10);
	assert_int_equal(h->r.objects, 10);
	assert_int_equal(h->r.from_l2, 10);
	assert_int_equal(h->r.found, 10);
	assert_int_equal(h->r.end, TIER_COMPLETE);
	assert_int_equal(stats(&x.f).locked, 10);
	assert_true(store_sums_get(x.f.s, h->objs[9], sums));
	tx_release(&x, 1, 0);
	for (uint32_t i = 0; i < 10; i++)
		assert_true(has(&x.f, i)); /* retain */
	assert_false(has(&x.f, 11));       /* never loaded */
	assert_int_equal(tstats(&x).load_objects, 10);
	assert_int_equal(tstats(&x).not_found, 10);
	assert_int_equal(tstats(&x).hit_objects, 10);
	tx_close(&x, 0);
}

static void test_02_temporary_objects_go_when_they_were_read(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.prefetch_policy = TIER_PREFETCH_DEFAULT;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 4);
	put(&x.f, 1, 1, UNIT);
	store_obj o = lock_one(&x.f, 1);
	fake_fill(store_ptr(x.f.s, o), UNIT, &(struct store_hash[]){key(1)}[0]);
	store_unlock(x.f.s, &o, NULL, 1, 0);
	tx_prefetch(&x, 1, 0, 4);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 4);
	assert_int_equal(x.h[1].r.from_l2, 3);
	tx_release(&x, 1, 0);
	assert_false(has(&x.f, 0));
	assert_true(has(&x.f, 1)); /* an engine's own */
	assert_false(has(&x.f, 3));
	assert_int_equal(stats(&x.f).used_bytes, UNIT);
	tx_close(&x, 0);
}

static void test_03_l1_beyond_a_gap_is_locked_and_counts(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 2);
	for (uint64_t i = 2; i < 8; i++) {
		struct store_hash k = key(i);
		put(&x.f, i, 1, UNIT);
		store_obj o = lock_one(&x.f, i);
		fake_fill(store_ptr(x.f.s, o), UNIT, &k);
		store_unlock(x.f.s, &o, NULL, 1, 0);
	}
	put(&x.f, 9, 1, UNIT); /* beyond a real gap */
	tx_prefetch(&x, 1, 0, 10);
	EVENTUALLY(fake_pending(x.l2[0]) == 2);
	assert_int_equal(stats(&x.f).locked, 6);
	fake_complete(x.l2[0], 1, 0);
	usleep(10000);
	assert_false(tx_over(&x, 1));
	fake_complete(x.l2[0], 0, 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 8);
	assert_int_equal(x.h[1].r.from_l2, 2);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_04_the_first_adapter_that_has_it(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_adapter(&x, FAKE_THREAD, false)->shuffle = true;
	tx_adapter(&x, FAKE_THREAD, false);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 3);
	tx_on_l2(&x, 1, 0, 8);
	tx_on_l2(&x, 2, 4, 8);
	x.bytes = 2 * UNIT;
	tx_on_l2(&x, 0, 5, 1); /* of another size: not a hit there */
	x.bytes = UNIT;
	tx_prefetch(&x, 1, 0, 16);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 12);
	assert_int_equal(x.l2[0]->loads, 3);
	assert_int_equal(x.l2[1]->loads, 5);
	assert_int_equal(x.l2[2]->loads, 4);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_05_ranks(void **state)
{
	store_ns ns[2];
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	for (uint32_t i = 0; i < 4; i++) {
		struct store_hash h = key(i);
		fake_put(x.l2[0], NAME, &h, UNIT);
		if (i != 3)
			fake_put(x.l2[0], NAME + 1, &h, UNIT);
	}
	for (uint32_t r = 0; r < 2; r++)
		ns[r] = store_ns_get(x.f.s, slice_str("two"), 0x02000200 + r, 0, slice_str("salt"), NULL);
	/* From chunk 1 rank 1 on: object 3 of 10. */
	assert_int_equal(tx_prefetch_world(&x, 1, 0, 5, 2, ns, 3), 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 4); /* 1.1, 2.0, 2.1, 3.0 */
	for (uint32_t i = 0; i < 4; i++) {
		struct store_hash k = key((3 + i) / 2);
		assert_true(fake_check(store_ptr(x.f.s, x.h[1].objs[i]), UNIT, &k));
	}
	for (uint32_t i = 0; i < 4; i++)
		store_unlock(x.f.s, &x.h[1].objs[i], NULL, 1, 0);
	store_clear(x.f.s);
	/* The tier gave its references back: the namespaces are gone. */
	EVENTUALLY(store_ns_find(x.f.s, slice_str("two"), 0x02000200, 0, slice_str("salt"), NULL) == 0);
	EVENTUALLY(store_ns_find(x.f.s, slice_str("two"), 0x02000201, 0, slice_str("salt"), NULL) == 0);
	tx_close(&x, 0);
}

static void test_06_the_budget_slides(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 512);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.max_load_bytes = 8 * UNIT;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 300);
	tx_prefetch(&x, 1, 0, 200);
	tx_prefetch(&x, 2, 200, 100);
	for (uint32_t done = 0; done < 300; done++) {
		EVENTUALLY(fake_pending(x.l2[0]) == (300 - done < 8 ? 300 - done : 8));
		assert_true(tstats(&x).loading_bytes <= 8 * UNIT);
		if (done < 180) /* the older job first, in prefix order */
			for (uint32_t k = 0; k < 8; k++)
				assert_memory_equal(&x.l2[0]->ios[k]->key.hash,
						    &(struct store_hash[]){key(done + k)}[0], 32);
		fake_complete(x.l2[0], 0, 0);
	}
	assert_int_equal(tx_wait(&x, 1)->r.objects, 200);
	assert_int_equal(tx_wait(&x, 2)->r.objects, 100);
	assert_int_equal(x.l2[0]->most_load_bytes, 8 * UNIT);
	tx_release(&x, 1, 0);
	tx_release(&x, 2, 200);
	tx_close(&x, 0);
}

static void test_07_an_object_larger_than_the_budget(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 512);
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.max_load_bytes = UNIT;
	x.bytes = 80 * UNIT + 17; /* and with more sub-blocks than fit beside the io */
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 3);
	tx_prefetch(&x, 1, 0, 3);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 3);
	assert_int_equal(x.l2[0]->most_load_bytes, x.bytes);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_08_jobs_wait_their_turn(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.max_jobs = 2;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	for (uint64_t id = 0; id < 4; id++)
		tx_prefetch(&x, id, 2 * id, 2);
	EVENTUALLY(fake_pending(x.l2[0]) == 4);
	for (uint64_t id = 0; id < 4; id++)
		EVENTUALLY(tx_asked(&x, id)); /* what there is everybody knows at once */
	assert_int_equal(fake_pending(x.l2[0]), 4);
	assert_int_equal(tstats(&x).jobs_waiting, 2);
	fake_complete(x.l2[0], 0, 0);
	fake_complete(x.l2[0], 0, 0);
	tx_wait(&x, 0);
	EVENTUALLY(fake_pending(x.l2[0]) == 4);
	/* Nothing moves: after a while others may begin none the less. */
	EVENTUALLY(fake_pending(x.l2[0]) == 6);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], 0, 0);
	for (uint64_t id = 0; id < 4; id++) {
		assert_int_equal(tx_wait(&x, id)->r.objects, 2);
		tx_release(&x, id, 2 * id);
	}
	tx_close(&x, 0);
}

static void test_09_two_jobs_load_an_object_once(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.prefetch_policy = TIER_PREFETCH_DEFAULT;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 6);
	tx_prefetch(&x, 1, 0, 4);
	EVENTUALLY(fake_pending(x.l2[0]) == 4);
	tx_prefetch(&x, 2, 0, 6);
	EVENTUALLY(fake_pending(x.l2[0]) == 6);
	assert_int_equal(tstats(&x).coalesced, 4);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], fake_pending(x.l2[0]) - 1, 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 4);
	assert_int_equal(tx_wait(&x, 2)->r.objects, 6);
	assert_int_equal(x.l2[0]->loads, 6);
	tx_release(&x, 1, 0);
	assert_true(has(&x.f, 0)); /* the other one holds it */
	tx_release(&x, 2, 0);
	assert_int_equal(stats(&x.f).objects, 0);
	tx_close(&x, 0);
}

/* A client's own hashes need not be a chain: the same one twice is loaded once and locked twice. */
static void test_10_one_object_twice_in_a_job(void **state)
{
	struct store_hash h[4] = {key(0), key(1), key(0), key(1)};
	uint32_t name = NAME;
	struct tier_want w = {.id = 1,
			      .world_size = 1,
			      .names = &name,
			      .hashes = h,
			      .nchunks = 4,
			      .object_bytes = UNIT,
			      .locks = 1,
			      .node = NODE_UNKNOWN};
	store_ns ns;
	struct tfix x;
	(void)state;

	for (int error = 0; error < 2; error++) {
		tx_conf(&x, 64);
		tx_adapter(&x, FAKE_MANUAL, true);
		tx_open(&x);
		tx_on_l2(&x, 0, 0, 2);
		w.ns = &ns;
		ns = store_ns_get(x.f.s, slice_str("model"), 0x01000100, 0, slice_str(""), NULL);
		assert_int_equal(tier_prefetch(x.t, &w), 0);
		EVENTUALLY(fake_pending(x.l2[0]) == 2);
		fake_complete(x.l2[0], 0, 0);
		fake_complete(x.l2[0], 0, error ? -EIO : 0);
		assert_int_equal(tx_wait(&x, 1)->r.objects, error ? 1 : 4);
		store_unlock(x.f.s, x.h[1].objs, NULL, x.h[1].r.objects, 0);
		tx_close(&x, 0);
	}
}

static void test_11_may_have(void **state)
{
	struct seg_key k = {NAME, key(3)}, other = {NAME + 1, key(3)};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 3, 1);
	assert_true(tier_may_have(x.t, &k, UNIT));
	assert_false(tier_may_have(x.t, &k, UNIT + 1));
	assert_false(tier_may_have(x.t, &other, UNIT));
	tx_close(&x, 0);
	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_adapter(&x, FAKE_MANUAL, false);
	tx_open(&x);
	assert_true(tier_may_have(x.t, &other, UNIT)); /* who knows */
	tx_close(&x, 0);
}

static void test_12_nothing_there_and_nothing_asked_for(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tx_prefetch(&x, 1, 0, 5);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 0);
	assert_int_equal(x.h[1].r.end, TIER_COMPLETE);
	tx_prefetch(&x, 2, 0, 0);
	assert_int_equal(tx_wait(&x, 2)->r.found, 0);
	tx_close(&x, 0);
}

static void test_13_a_listener_that_does_not_want_the_locks(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.refuse = true;
	x.locks = 2;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 5);
	tx_prefetch(&x, 1, 0, 5);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 5);
	EVENTUALLY(stats(&x.f).locked == 0);
	tx_close(&x, 0);
}

/* The room for a prompt is never made of what the prompt wants. */
static void test_14_a_job_does_not_evict_its_own(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 8);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	for (uint64_t i = 4; i < 8; i++) {
		struct store_hash k = key(i);
		put(&x.f, i, 1, UNIT); /* the oldest */
		store_obj o = lock_one(&x.f, i);
		fake_fill(store_ptr(x.f.s, o), UNIT, &k);
		store_unlock(x.f.s, &o, NULL, 1, 0);
	}
	put(&x.f, 100, 4, UNIT);
	tx_on_l2(&x, 0, 0, 4);
	tx_prefetch(&x, 1, 0, 8);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 8);
	assert_int_equal(x.h[1].r.from_l2, 4);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void meter(void *ctx, uint32_t adapter, uint64_t bytes, uint64_t ns)
{
	uint64_t *sum = ctx;

	(void)ns;
	assert_int_equal(adapter, 0);
	sum[0]++;
	sum[1] += bytes;
}

static void test_15_the_meter(void **state)
{
	uint64_t sum[2] = {0};
	struct tier_meter m = {.ctx = sum, .stored = meter, .loaded = meter};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tier_meter(x.t, &m);
	tx_store(&x, 0, 4);
	tx_drain(&x);
	store_clear(x.f.s);
	tx_prefetch(&x, 1, 0, 4);
	tx_wait(&x, 1);
	tx_release(&x, 1, 0);
	tier_destroy(x.t, 100);
	x.t = NULL;
	assert_int_equal(sum[0], 8);
	assert_int_equal(sum[1], 8 * UNIT);
	tx_close(&x, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_a_prefix_from_l2),
		cmocka_unit_test(test_02_temporary_objects_go_when_they_were_read),
		cmocka_unit_test(test_03_l1_beyond_a_gap_is_locked_and_counts),
		cmocka_unit_test(test_04_the_first_adapter_that_has_it),
		cmocka_unit_test(test_05_ranks),
		cmocka_unit_test(test_06_the_budget_slides),
		cmocka_unit_test(test_07_an_object_larger_than_the_budget),
		cmocka_unit_test(test_08_jobs_wait_their_turn),
		cmocka_unit_test(test_09_two_jobs_load_an_object_once),
		cmocka_unit_test(test_10_one_object_twice_in_a_job),
		cmocka_unit_test(test_11_may_have),
		cmocka_unit_test(test_12_nothing_there_and_nothing_asked_for),
		cmocka_unit_test(test_13_a_listener_that_does_not_want_the_locks),
		cmocka_unit_test(test_14_a_job_does_not_evict_its_own),
		cmocka_unit_test(test_15_the_meter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
