/* write_test.c - objects on their way down: every adapter, every answer, and what becomes of L1. */
#include "daemon/tier/room_int.h"
#include "tests/unit/daemon/tier/fixture.h"

static void test_01_every_adapter_gets_every_object(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_adapter(&x, FAKE_THREAD, false)->shuffle = true;
	tx_open(&x);
	assert_true(tier_accepts(x.t, 32, UNIT));
	tx_store(&x, 0, 32);
	tx_drain(&x);
	for (uint32_t i = 0; i < 32; i++) {
		struct store_hash h = key(i);
		assert_int_equal(fake_has(x.l2[0], NAME, &h), UNIT);
		assert_int_equal(fake_has(x.l2[1], NAME, &h), UNIT);
		assert_true(has(&x.f, i)); /* and L1 keeps it */
	}
	assert_int_equal(tstats(&x).store_requests, 1);
	assert_int_equal(tstats(&x).store_objects, 32);
	assert_int_equal(tstats(&x).store_bytes, 32 * UNIT);
	assert_int_equal(tstats(&x).stored_objects, 64);
	assert_int_equal(tstats(&x).dirty_bytes, 0);
	tx_close(&x, 0);
}

static void test_02_sums_are_computed_once(void **state)
{
	uint32_t sums[3], want[3];
	struct store_hash h = key(0);
	struct tfix x;
	store_obj o;
	(void)state;

	tx_conf(&x, 2048);
	tx_adapter(&x, FAKE_INLINE, true);
	x.bytes = 2 * CRC_BLOCK + 100;
	x.conf.max_dirty_bytes = 1 << 30;
	tx_open(&x);
	tx_store(&x, 0, 1);
	tx_drain(&x);
	assert_int_equal(x.l2[0]->with_sums, 0);
	o = lock_one(&x.f, 0);
	assert_true(store_sums_get(x.f.s, o, sums));
	crc32c_blocks(store_ptr(x.f.s, o), x.bytes, want);
	assert_memory_equal(sums, want, sizeof(want));
	tier_store(x.t, NAME, &h, &o, 1); /* once more: they are taken */
	tx_drain(&x);
	assert_int_equal(x.l2[0]->with_sums, 1);
	assert_int_equal(tstats(&x).store_present, 1);
	tx_close(&x, 0);
}

static void test_03_more_than_may_wait_is_dropped_and_counted(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.max_dirty_bytes = 10 * UNIT;
	tx_open(&x);
	tx_store(&x, 0, 8);
	assert_true(tier_accepts(x.t, 8, UNIT));
	tx_store(&x, 8, 8); /* two of them fit */
	assert_false(tier_accepts(x.t, 1, UNIT));
	assert_int_equal(tstats(&x).store_dropped, 6);
	assert_int_equal(tstats(&x).dirty_bytes, 10 * UNIT);
	EVENTUALLY(stats(&x.f).locked == 10);
	EVENTUALLY(fake_pending(x.l2[0]) == 10);
	for (int i = 0; i < 10; i++)
		fake_complete(x.l2[0], fake_pending(x.l2[0]) - 1, 0); /* backwards */
	tx_drain(&x);
	assert_int_equal(stats(&x.f).locked, 0);
	assert_true(tier_accepts(x.t, 1, UNIT));
	assert_true(tier_accepts(x.t, 1, 1 << 20)); /* larger than the limit, but nothing else waits */
	tx_close(&x, 0);
}

static void test_04_every_answer_is_counted_and_gives_the_lock_back(void **state)
{
	static const int answers[] = {0, -EEXIST, -ENOSPC, -EBUSY, -EIO, -EROFS};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	tx_store(&x, 0, 6);
	EVENTUALLY(fake_pending(x.l2[0]) == 6);
	for (int i = 0; i < 6; i++)
		fake_complete(x.l2[0], 0, answers[i]);
	tx_drain(&x);
	assert_int_equal(tstats(&x).stored_objects, 1);
	assert_int_equal(tstats(&x).store_present, 1);
	assert_int_equal(tstats(&x).store_dropped, 2);
	assert_int_equal(tstats(&x).store_failed, 2);
	assert_int_equal(stats(&x.f).locked, 0);
	assert_int_equal(stats(&x.f).readable, 6);
	tx_close(&x, 0);
}

static void test_05_skip_l1_keeps_what_nobody_else_has(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_adapter(&x, FAKE_INLINE, true)->store_error = -EIO;
	x.conf.store_policy = TIER_STORE_SKIP_L1;
	tx_open(&x);
	tx_store(&x, 0, 3);
	EVENTUALLY(fake_pending(x.l2[0]) == 3);
	assert_int_equal(stats(&x.f).readable, 3); /* written nowhere yet */
	fake_complete(x.l2[0], 0, 0);
	fake_complete(x.l2[0], 0, -EEXIST);
	fake_complete(x.l2[0], 0, -EIO);
	tx_drain(&x);
	assert_false(has(&x.f, 0));
	assert_false(has(&x.f, 1));
	assert_true(has(&x.f, 2)); /* no adapter has it */
	tx_close(&x, 0);
}

static void test_06_skip_l1_waits_for_readers(void **state)
{
	struct tfix x;
	store_obj o;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.store_policy = TIER_STORE_SKIP_L1;
	tx_open(&x);
	tx_store(&x, 0, 1);
	o = lock_one(&x.f, 0);
	EVENTUALLY(fake_pending(x.l2[0]) == 1);
	fake_complete(x.l2[0], 0, 0);
	tx_drain(&x);
	assert_true(has(&x.f, 0));
	store_unlock(x.f.s, &o, NULL, 1, 0);
	assert_false(has(&x.f, 0));
	tx_close(&x, 0);
}

static void touch(struct tfix *x, uint64_t i)
{
	struct store_hash h = key(i);
	store_obj o = lock_one(&x->f, i);

	assert_int_not_equal(o, 0);
	tier_touched(x->t, NAME, &h, &o, 1);
	store_unlock(x->f.s, &o, NULL, 1, 0);
}

static void test_07_second_touch(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.admission = TIER_ADMIT_SECOND_TOUCH;
	tx_open(&x);
	tx_store(&x, 0, 4);
	assert_int_equal(tstats(&x).not_admitted, 4);
	assert_int_equal(stats(&x.f).locked, 0);
	assert_int_equal(x.l2[0]->stores, 0);
	touch(&x, 1);
	tx_drain(&x);
	assert_int_equal(tstats(&x).stored_objects, 1);
	for (int i = 0; i < 10; i++)
		touch(&x, 1); /* it is below now */
	tx_drain(&x);
	assert_int_equal(x.l2[0]->stores, 1);
	/* Evicted and stored again: seen before. */
	store_clear(x.f.s);
	tx_store(&x, 2, 1);
	tx_drain(&x);
	assert_int_equal(tstats(&x).stored_objects, 2);
	/* A hit on what another daemon of the past has written. */
	tx_store(&x, 10, 1);
	tx_on_l2(&x, 0, 10, 1);
	touch(&x, 10);
	tx_drain(&x);
	assert_int_equal(tstats(&x).store_present, 1);
	assert_int_equal(x.l2[0]->stores, 2);
	tx_close(&x, 0);
}

static void test_08_touches_are_nothing_without_admission(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	put(&x.f, 0, 1, UNIT);
	touch(&x, 0);
	touch(&x, 0);
	tx_drain(&x);
	assert_int_equal(x.l2[0]->stores, 0);
	tx_close(&x, 0);
}

static void test_09_a_hanging_adapter_does_not_stop_the_others(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 1024);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_adapter(&x, FAKE_THREAD, true)->hang_stores = true;
	x.conf.max_dirty_bytes = 400 * UNIT;
	tx_open(&x);
	tx_store(&x, 0, 390);
	/* It holds what it was given; the rest is dropped for it and given back. */
	EVENTUALLY(tstats(&x).dirty_objects == 256);
	assert_int_equal(tstats(&x).store_dropped, 390 - 256);
	assert_int_equal(tstats(&x).stored_objects, 390);
	tx_store(&x, 500, 100);
	EVENTUALLY(tstats(&x).stored_objects == 490);
	tx_close(&x, 0);
}

static void test_10_names_nobody_knows_and_zeros(void **state)
{
	struct store_hash h[2] = {key(0), key(1)};
	store_obj o[2] = {0, 0};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	put(&x.f, 1, 1, UNIT);
	o[1] = lock_one(&x.f, 1);
	tier_store(x.t, 0, h, o, 2); /* the table of names is full */
	assert_int_equal(stats(&x.f).locked, 0);
	assert_int_equal(tstats(&x).store_dropped, 1);
	tx_close(&x, 0);
}

static void test_11_without_adapters(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_open(&x);
	assert_false(tier_accepts(x.t, 1, UNIT));
	tx_store(&x, 0, 2);
	assert_int_equal(stats(&x.f).locked, 0);
	assert_false(tier_may_have(x.t, &(struct seg_key){NAME, key(5)}, UNIT));
	assert_int_equal(tx_prefetch(&x, 1, 0, 4), 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 2);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

/* ---- flush --------------------------------------------------------------------------------------------------------------- */

struct flushed {
	_Atomic int calls, result;
};

static void flushed(void *ctx, int result)
{
	struct flushed *f = ctx;

	f->result = result;
	f->calls++;
}

static void test_12_flush_waits_for_what_came_before(void **state)
{
	struct flushed f = {0}, f2 = {0};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	tx_store(&x, 0, 2);
	assert_int_equal(tier_flush(x.t, flushed, &f), 0);
	EVENTUALLY(fake_pending(x.l2[0]) == 2);
	tx_store(&x, 10, 1); /* after it */
	EVENTUALLY(fake_pending(x.l2[0]) == 3);
	usleep(20000);
	assert_int_equal(x.l2[0]->flushes, 0);
	fake_complete(x.l2[0], 1, 0);
	fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(fake_pending(x.l2[0]) == 2); /* the third store, the flush */
	assert_int_equal(f.calls, 0);
	fake_complete(x.l2[0], 1, 0);
	EVENTUALLY(f.calls == 1);
	assert_int_equal(f.result, 0);
	/* A store fails: the next flush says so, and the one after it is fine again. */
	fake_complete(x.l2[0], 0, -EIO);
	x.l2[0]->mode = FAKE_INLINE;
	assert_int_equal(tier_flush(x.t, flushed, &f2), 0);
	EVENTUALLY(f2.calls == 1);
	assert_int_equal(f2.result, -EIO);
	assert_int_equal(tier_flush(x.t, flushed, &f2), 0);
	EVENTUALLY(f2.calls == 2);
	assert_int_equal(f2.result, 0);
	x.l2[0]->flush_error = -EIO;
	assert_int_equal(tier_flush(x.t, flushed, &f2), 0);
	EVENTUALLY(f2.calls == 3);
	assert_int_equal(f2.result, -EIO);
	tx_close(&x, 0);
}

static void test_13_too_many_flushes_and_the_end_with_some_open(void **state)
{
	struct flushed f = {0};
	struct tfix x;
	int n = 0;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	while (tier_flush(x.t, flushed, &f) == 0)
		n++;
	assert_int_equal(n, 16);
	assert_int_equal(tier_flush(x.t, flushed, &f), -EAGAIN);
	EVENTUALLY(fake_pending(x.l2[0]) == 16);
	fake_complete(x.l2[0], 3, 0);
	EVENTUALLY(f.calls == 1);
	EVENTUALLY(tier_flush(x.t, flushed, &f) == 0);
	tx_close(&x, 0);
	assert_int_equal(f.calls, 17); /* 1 + 16 */
	assert_int_equal(f.result, -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_every_adapter_gets_every_object),
		cmocka_unit_test(test_02_sums_are_computed_once),
		cmocka_unit_test(test_03_more_than_may_wait_is_dropped_and_counted),
		cmocka_unit_test(test_04_every_answer_is_counted_and_gives_the_lock_back),
		cmocka_unit_test(test_05_skip_l1_keeps_what_nobody_else_has),
		cmocka_unit_test(test_06_skip_l1_waits_for_readers),
		cmocka_unit_test(test_07_second_touch),
		cmocka_unit_test(test_08_touches_are_nothing_without_admission),
		cmocka_unit_test(test_09_a_hanging_adapter_does_not_stop_the_others),
		cmocka_unit_test(test_10_names_nobody_knows_and_zeros),
		cmocka_unit_test(test_11_without_adapters),
		cmocka_unit_test(test_12_flush_waits_for_what_came_before),
		cmocka_unit_test(test_13_too_many_flushes_and_the_end_with_some_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
