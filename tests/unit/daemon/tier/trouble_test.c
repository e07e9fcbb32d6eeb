/* trouble_test.c - prefetches that do not go well: deadlines, failures, no room, contention, cancellation, and the end with an adapter
 * that hangs. What is delivered is always a prefix of locked objects with the right bytes, and nothing stays behind.
 */
#include "daemon/tier/room_int.h"
#include "tests/unit/daemon/tier/fixture.h"

#include "daemon/base/mem.h"

#define SLACK_MS (getenv("LMCA_SANITIZER") ? 100 : 10)

static uint64_t prefetch_and_time(struct tfix *x, uint64_t id, uint64_t first, uint32_t n)
{
	uint64_t t0 = clock_ns();

	assert_int_equal(tx_prefetch(x, id, first, n), 0);
	return (tx_wait(x, id)->at_ns - t0) / 1000000;
}

/* The tier ends a job within 10 ms of its deadline; a busy machine may run its thread, or ours, later than that, so the best of some
 * rounds counts. Never early, and never late without bounds. */
#define ROUNDS 12
struct lateness {
	uint64_t least_ms;
};

static bool in_time(struct lateness *l, uint64_t took_ms, uint64_t limit_ms)
{
	if (took_ms < limit_ms || took_ms > limit_ms + 2000)
		fail_msg("%llu ms instead of %llu", (unsigned long long)took_ms, (unsigned long long)limit_ms);
	if (took_ms - limit_ms < l->least_ms)
		l->least_ms = took_ms - limit_ms;
	return l->least_ms <= (uint64_t)SLACK_MS;
}

static void test_01_a_deadline_delivers_the_prefix(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.load_timeout_ms = 500;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	tx_prefetch(&x, 1, 0, 8);
	EVENTUALLY(fake_pending(x.l2[0]) == 8);
	fake_complete(x.l2[0], 1, 0);
	fake_complete(x.l2[0], 0, 0);
	fake_complete(x.l2[0], 3, 0); /* object 5 */
	assert_int_equal(tx_wait(&x, 1)->r.objects, 2);
	assert_int_equal(x.h[1].r.end, TIER_LATE);
	assert_int_equal(x.h[1].r.found, 8);
	assert_int_equal(tstats(&x).late_jobs, 1);
	assert_int_equal(tstats(&x).loading_bytes, 0);
	assert_int_equal(tstats(&x).quarantined_bytes, 5 * UNIT);
	assert_int_equal(stats(&x.f).locked, 2);
	assert_int_equal(stats(&x.f).reserved, 5);
	/* What comes late is an ordinary object, or nothing. */
	fake_complete(x.l2[0], 0, 0);
	fake_complete(x.l2[0], 0, -EIO);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(tstats(&x).quarantined_bytes == 0);
	EVENTUALLY(stats(&x.f).reserved == 0);
	assert_true(has(&x.f, 2));
	assert_false(has(&x.f, 3));
	assert_true(has(&x.f, 4));
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static bool hangs_until_its_deadline(struct lateness *l, uint64_t total_ms, uint64_t stall_ms)
{
	struct tfix x;
	bool ok;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_THREAD, true)->hang_loads = true;
	x.conf.load_timeout_ms = total_ms;
	x.conf.stall_ms = stall_ms;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 4);
	ok = in_time(l, prefetch_and_time(&x, 1, 0, 4), 50);
	assert_int_equal(x.h[1].r.objects, 0);
	assert_int_equal(x.h[1].r.end, TIER_LATE);
	tx_close(&x, x.l2[0]->loads);
	return ok;
}

static void test_02_deadlines_are_kept(void **state)
{
	struct lateness total = {UINT64_MAX}, stall = {UINT64_MAX};
	bool ok = false;
	(void)state;

	for (int i = 0; i < ROUNDS && !ok; i++)
		ok = hangs_until_its_deadline(&total, 50, 5000);
	assert_true(ok);
	ok = false;
	for (int i = 0; i < ROUNDS && !ok; i++)
		ok = hangs_until_its_deadline(&stall, 0, 50);
	assert_true(ok);
}

static void test_03_progress_renews_the_stall_limit(void **state)
{
	uint64_t t0 = clock_ms();
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.load_timeout_ms = 0;
	x.conf.stall_ms = 300;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	tx_prefetch(&x, 1, 0, 8);
	EVENTUALLY(fake_pending(x.l2[0]) == 8);
	for (int i = 0; i < 5; i++) {
		usleep(100000);
		fake_complete(x.l2[0], 0, 0);
	}
	assert_int_equal(tx_wait(&x, 1)->r.objects, 5);
	assert_true(clock_ms() - t0 >= 800);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(tstats(&x).quarantined_bytes == 0);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_04_a_failed_load_ends_the_prefix(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	tx_prefetch(&x, 1, 0, 8);
	EVENTUALLY(fake_pending(x.l2[0]) == 8);
	fake_complete(x.l2[0], 6, 0);
	fake_complete(x.l2[0], 3, -EILSEQ);
	usleep(5000);
	assert_false(tx_over(&x, 1));
	for (int i = 0; i < 3; i++)
		fake_complete(x.l2[0], 0, 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 3);
	assert_int_equal(x.h[1].r.end, TIER_FAILED);
	assert_int_equal(stats(&x.f).locked, 3);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(stats(&x.f).reserved == 0);
	assert_int_equal(tstats(&x).load_failed, 1);
	assert_false(has(&x.f, 3));
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_05_every_load_fails(void **state)
{
	static const int errors[] = {-ENOENT, -EILSEQ, -EMSGSIZE, -EIO, -EBUSY, -ECANCELED};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	for (uint64_t i = 0; i < 6; i++) {
		x.l2[0]->load_error = errors[i];
		tx_prefetch(&x, i, 0, 8);
		assert_int_equal(tx_wait(&x, i)->r.objects, 0);
		assert_int_equal(x.h[i].r.end, TIER_FAILED);
		EVENTUALLY(stats(&x.f).reserved == 0);
	}
	tx_close(&x, 0);
}

static void test_06_no_room(void **state)
{
	store_obj o[6];
	struct tfix x;
	(void)state;

	tx_conf(&x, 10);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	put(&x.f, 100, 10, UNIT);
	for (uint32_t i = 0; i < 6; i++)
		o[i] = lock_one(&x.f, 100 + i);
	tx_on_l2(&x, 0, 0, 8);
	tx_prefetch(&x, 1, 0, 8);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 4);
	assert_int_equal(x.h[1].r.end, TIER_NO_ROOM);
	assert_int_equal(x.h[1].r.found, 8);
	assert_int_equal(tstats(&x).no_room, 1);
	store_unlock(x.f.s, o, NULL, 6, 0);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_07_an_engine_is_writing_it(void **state)
{
	struct store_hash h[2] = {key(2), key(4)};
	store_obj o[2];
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	assert_int_equal(store_reserve(x.f.s, x.f.ns, h, 2, UNIT, NODE_UNKNOWN, 0, o).reserved, 2);
	tx_prefetch(&x, 1, 0, 8);
	EVENTUALLY(tstats(&x).contended == 2);
	EVENTUALLY(tstats(&x).loaded_objects == 6); /* the others are loaded meanwhile */
	assert_false(tx_over(&x, 1));
	fake_fill(store_ptr(x.f.s, o[0]), UNIT, &h[0]);
	store_commit(x.f.s, o, 1, 0);
	store_abort(x.f.s, o + 1, 1); /* this one comes from below after all */
	assert_int_equal(tx_wait(&x, 1)->r.objects, 8);
	assert_int_equal(x.h[1].r.from_l2, 7);
	assert_int_equal(x.h[1].r.end, TIER_COMPLETE);
	tx_release(&x, 1, 0);
	tx_close(&x, 0);
}

static void test_08_it_is_never_finished(void **state)
{
	struct lateness l = {UINT64_MAX};
	struct store_hash h = key(2);
	struct tfix x;
	store_obj o;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.load_timeout_ms = 60;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	store_reserve(x.f.s, x.f.ns, &h, 1, UNIT, NODE_UNKNOWN, 0, &o);
	for (uint64_t id = 1; id < ROUNDS; id++) {
		bool ok = in_time(&l, prefetch_and_time(&x, id, 0, 8), 60);
		assert_int_equal(x.h[id].r.objects, 2);
		assert_int_equal(x.h[id].r.end, TIER_CONTENDED);
		tx_release(&x, id, 0);
		if (ok)
			break;
	}
	assert_true(l.least_ms <= (uint64_t)SLACK_MS);
	store_abort(x.f.s, &o, 1);
	tx_close(&x, 0);
}

static void test_09_l1_is_cleared_under_a_load(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 3);
	tx_prefetch(&x, 1, 0, 3);
	EVENTUALLY(fake_pending(x.l2[0]) == 3);
	fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(stats(&x.f).locked == 1);
	store_clear(x.f.s);
	fake_complete(x.l2[0], 0, 0);
	fake_complete(x.l2[0], 0, 0);
	assert_int_equal(tx_wait(&x, 1)->r.objects, 1); /* locked before: still readable */
	assert_int_equal(x.h[1].r.end, TIER_FAILED);
	tx_release(&x, 1, 0);
	EVENTUALLY(stats(&x.f).used_bytes == 0);
	tx_close(&x, 0);
}

/* ---- cancellation, at every stage --------------------------------------------------------------------------------------- */

static void test_10_cancelled_while_asking(void **state)
{
	struct l2_find *q = NULL;
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, false);
	tx_open(&x);
	put(&x.f, 0, 2, UNIT);
	tx_prefetch(&x, 1, 0, 8);
	EVENTUALLY((q = fake_next_find(x.l2[0])));
	assert_int_equal(stats(&x.f).locked, 2);
	tier_cancel(x.t, 1);
	EVENTUALLY(stats(&x.f).locked == 0);
	fake_answer(x.l2[0], q); /* nobody cares */
	usleep(5000);
	assert_false(x.h[1].over || x.h[1].asked);
	tx_close(&x, 0);
}

static void test_11_cancelled_while_waiting_and_while_loading(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.max_jobs = 1;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 12);
	tx_prefetch(&x, 1, 0, 4);
	tx_prefetch(&x, 2, 4, 4);
	EVENTUALLY(tx_asked(&x, 2));
	EVENTUALLY(fake_pending(x.l2[0]) == 4);
	fake_complete(x.l2[0], 0, 0);
	EVENTUALLY(stats(&x.f).locked == 1);
	tier_cancel(x.t, 2);
	tier_cancel(x.t, 1);
	tier_cancel(x.t, 99);
	EVENTUALLY(tstats(&x).quarantined_bytes == 3 * UNIT);
	assert_int_equal(stats(&x.f).locked, 0);
	/* Somebody else wants one of them: it joins the load that is under way. */
	tx_prefetch(&x, 3, 2, 4);
	EVENTUALLY(tstats(&x).coalesced == 2);
	assert_int_equal(tstats(&x).quarantined_bytes, UNIT);
	while (fake_pending(x.l2[0]))
		fake_complete(x.l2[0], 0, 0);
	assert_int_equal(tx_wait(&x, 3)->r.objects, 4);
	tx_release(&x, 3, 2);
	assert_false(x.h[1].over || x.h[2].over);
	assert_true(has(&x.f, 1)); /* finished into an ordinary object */
	assert_int_equal(tstats(&x).late_jobs, 0);
	tx_close(&x, 0);
}

static void test_12_an_adapter_that_does_not_answer_is_left_out(void **state)
{
	struct lateness l = {UINT64_MAX};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_adapter(&x, FAKE_THREAD, false)->hang_finds = true;
	x.conf.load_timeout_ms = 2000;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 3);
	tx_on_l2(&x, 1, 0, 8);
	for (uint64_t id = 1; id < ROUNDS / 3; id++) {
		bool ok = in_time(&l, prefetch_and_time(&x, id, 0, 8), 500);
		assert_int_equal(x.h[id].r.objects, 3);
		assert_int_equal(x.h[id].r.end, TIER_COMPLETE);
		tx_release(&x, id, 0);
		store_clear(x.f.s);
		if (ok)
			break;
	}
	tx_close(&x, 0);
}

/* One adapter keeps all it is given; the budget must be there for the other one after the first deadline. */
static void test_13_quarantine_does_not_eat_the_budget(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 256);
	tx_adapter(&x, FAKE_THREAD, true)->hang_loads = true;
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.load_timeout_ms = 250;
	x.conf.max_load_bytes = 8 * UNIT;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 40);
	tx_on_l2(&x, 1, 100, 20);
	for (uint64_t id = 0; id < 3; id++) {
		tx_prefetch(&x, id, 8 * id, 8);
		assert_int_equal(tx_wait(&x, id)->r.objects, 0);
	}
	/* After twice the budget it is not even asked. */
	assert_int_equal(x.l2[0]->loads, 16);
	assert_int_equal(x.h[2].r.found, 0);
	assert_int_equal(tstats(&x).quarantined_bytes, 16 * UNIT);
	tx_prefetch(&x, 3, 100, 20);
	tx_wait(&x, 3);
	assert_int_equal(tx_wait(&x, 3)->r.objects, 20);
	tx_release(&x, 3, 100);
	tx_close(&x, 16);
}

static void test_14_too_many_jobs(void **state)
{
	struct tfix x;
	int n = 0, err;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, false);
	tx_open(&x);
	x.refuse = true;
	x.conf.listener.found = NULL;
	while ((err = tx_prefetch(&x, 60, 0, 1)) == 0) {
		n++;
		if (n == 1023)
			break;
	}
	assert_int_equal(n, 1023);
	tier_cancel(x.t, 60);
	EVENTUALLY(tstats(&x).jobs_waiting == 0);
	tx_close(&x, 0);
}

static void test_15_memory_runs_out(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 4);
	for (uint64_t n = 1; n < 4; n++) {
		store_ns ns = store_ns_get(x.f.s, slice_str("model"), 0x01000100, 0, slice_str("s"), NULL);
		mem_fail_at(n);
		assert_int_equal(tx_prefetch_world(&x, 1, 0, 4, 1, &ns, 0), -ENOMEM);
		mem_fail_at(0);
		assert_int_equal(store_ns_find(x.f.s, slice_str("model"), 0x01000100, 0, slice_str("s"), NULL), 0);
	}
	tx_prefetch(&x, 2, 0, 4);
	assert_int_equal(tx_wait(&x, 2)->r.objects, 4);
	tx_release(&x, 2, 0);
	tx_close(&x, 0);
}

static void test_16_the_start_fails(void **state)
{
	struct why why;
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_INLINE, true);
	x.conf.admission = TIER_ADMIT_SECOND_TOUCH;
	for (uint64_t n = 1;; n++) {
		mem_fail_at(n);
		int err = tier_create(&x.conf, &x.t, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_true(n < 20);
	}
	tx_close(&x, 0);
}

/* ---- the end ------------------------------------------------------------------------------------------------------------- */

static void test_17_the_end_with_everything_hanging(void **state)
{
	uint64_t t0;
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_THREAD, true)->hang_loads = true;
	x.l2[0]->hang_stores = true;
	tx_adapter(&x, FAKE_THREAD, false)->hang_finds = true;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 8);
	x.h[1].over = x.h[2].over = false;
	tx_prefetch(&x, 1, 0, 4);
	tx_store(&x, 20, 8);
	EVENTUALLY(x.l2[0]->stores == 8);
	t0 = clock_ms();
	tier_destroy(x.t, 100);
	assert_true(clock_ms() - t0 < 100 + 10 * (uint64_t)SLACK_MS);
	x.t = NULL;
	assert_true(x.h[1].over); /* it was told */
	tx_release(&x, 1, 0);
	tx_close(&x, stats(&x.f).reserved);
}

static void test_18_the_end_lets_stores_finish(void **state)
{
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_THREAD, true)->delay_us = 2000;
	tx_open(&x);
	tx_store(&x, 0, 20);
	tier_destroy(x.t, 5000);
	x.t = NULL;
	assert_int_equal(stats(&x.f).locked, 0);
	tx_close(&x, 0);
}

static void never(void *ctx, int result)
{
	(void)result;
	*(bool *)ctx = true;
}

struct last_wish {
	struct tfix *x;
	int prefetch, flush;
	bool heard, accepts, flushed;
};

/* Somebody who hears that his job ended because of the end, and asks for more. */
static bool wish(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs)
{
	struct last_wish *w = ctx;

	(void)id;
	(void)objs;
	w->heard = true;
	assert_int_equal(r->end, TIER_LATE);
	w->prefetch = tx_prefetch(w->x, 2, 0, 4);
	w->flush = tier_flush(w->x->t, never, &w->flushed);
	w->accepts = tier_accepts(w->x->t, 1, UNIT);
	tx_store(w->x, 30, 2);
	return false;
}

static void test_19_nothing_is_taken_after_the_end_began(void **state)
{
	struct last_wish w = {0};
	struct tfix x;
	(void)state;

	tx_conf(&x, 64);
	tx_adapter(&x, FAKE_MANUAL, true);
	x.conf.listener = (struct tier_listener){&w, NULL, wish};
	w.x = &x;
	tx_open(&x);
	tx_on_l2(&x, 0, 0, 4);
	tx_prefetch(&x, 1, 0, 4);
	EVENTUALLY(fake_pending(x.l2[0]) == 4);
	tier_destroy(x.t, 50);
	x.t = NULL;
	assert_true(w.heard);
	assert_int_equal(w.prefetch, -EAGAIN);
	assert_int_equal(w.flush, -EAGAIN);
	assert_false(w.accepts || w.flushed);
	tx_close(&x, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_a_deadline_delivers_the_prefix),
		cmocka_unit_test(test_02_deadlines_are_kept),
		cmocka_unit_test(test_03_progress_renews_the_stall_limit),
		cmocka_unit_test(test_04_a_failed_load_ends_the_prefix),
		cmocka_unit_test(test_05_every_load_fails),
		cmocka_unit_test(test_06_no_room),
		cmocka_unit_test(test_07_an_engine_is_writing_it),
		cmocka_unit_test(test_08_it_is_never_finished),
		cmocka_unit_test(test_09_l1_is_cleared_under_a_load),
		cmocka_unit_test(test_10_cancelled_while_asking),
		cmocka_unit_test(test_11_cancelled_while_waiting_and_while_loading),
		cmocka_unit_test(test_12_an_adapter_that_does_not_answer_is_left_out),
		cmocka_unit_test(test_13_quarantine_does_not_eat_the_budget),
		cmocka_unit_test(test_14_too_many_jobs),
		cmocka_unit_test(test_15_memory_runs_out),
		cmocka_unit_test(test_16_the_start_fails),
		cmocka_unit_test(test_17_the_end_with_everything_hanging),
		cmocka_unit_test(test_18_the_end_lets_stores_finish),
		cmocka_unit_test(test_19_nothing_is_taken_after_the_end_began),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
