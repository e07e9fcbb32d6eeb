/* breaker_test.c - the breaker under a clock of the test's. */
#include "daemon/l2/breaker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MS 1000000ull
#define S  1000000000ull

static struct breaker b;
static uint64_t now;

static int fresh(void **state)
{
	(void)state;
	now = 1000 * S;
	breaker_init(&b, now);
	return 0;
}

static void is(enum breaker_state state, enum breaker_cause cause, bool reads, bool writes)
{
	assert_string_equal(breaker_state_name(b.state), breaker_state_name(state));
	assert_string_equal(breaker_cause_text(b.cause), breaker_cause_text(cause));
	assert_int_equal(b.reads, reads);
	assert_int_equal(b.writes, writes);
}

static void reads(uint32_t n, uint64_t ns)
{
	for (uint32_t i = 0; i < n; i++)
		breaker_done(&b, now, false, 0, ns);
}

static void three_errors_in_a_row(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		breaker_done(&b, now, false, -EIO, 0);
		breaker_done(&b, now, false, -EIO, 0);
		reads(1, MS); /* not in a row */
	}
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	breaker_done(&b, now, true, -EIO, 0);
	breaker_done(&b, now, false, 0, MS); /* a read between is no write that went well */
	breaker_done(&b, now, true, -EIO, 0);
	breaker_done(&b, now, true, -EIO, 0);
	is(BREAKER_WRITES_OFF, BREAKER_WRITE_ERRORS, true, false);
	for (int i = 0; i < 3; i++)
		breaker_done(&b, now, false, -EIO, 0);
	is(BREAKER_OPEN, BREAKER_READ_ERRORS, false, false);
	assert_int_equal(b.trips, 2);
}

static void one_in_a_hundred(void **state)
{
	(void)state;
	breaker_done(&b, now, false, -EIO, 0);
	reads(98, MS);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	reads(1, MS);
	breaker_done(&b, now, false, -EIO, 0); /* 2 of 101 */
	is(BREAKER_OPEN, BREAKER_READ_ERRORS, false, false);
	/* The same errors, but further apart than the window. */
	fresh(NULL);
	for (int i = 0; i < 20; i++) {
		breaker_done(&b, now, false, -EIO, 0);
		reads(110, MS);
		now += 11 * S;
	}
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
}

static void pauses_double(void **state)
{
	(void)state;
	breaker_tick(&b, now, 2 * S, 0);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	breaker_tick(&b, now, 2 * S + 1, 0);
	is(BREAKER_OPEN, BREAKER_HANGS, false, false);
	assert_false(breaker_probe(&b, now));
	static const uint64_t pause[] = {1, 2, 4, 8, 16, 32, 60, 60};
	for (size_t i = 0; i < sizeof(pause) / sizeof(pause[0]); i++) {
		now += pause[i] * S - 1;
		assert_false(breaker_probe(&b, now));
		now++;
		assert_true(breaker_probe(&b, now));
		is(BREAKER_HALF_OPEN, BREAKER_HANGS, false, false);
		now += 600 * S;
		assert_false(breaker_probe(&b, now)); /* one at a time, however long it takes */
		breaker_probed(&b, now, false);
		is(BREAKER_OPEN, BREAKER_HANGS, false, false);
	}
	now += 60 * S;
	assert_true(breaker_probe(&b, now));
	breaker_probed(&b, now, true);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	/* And from the beginning. */
	breaker_tick(&b, now, 3 * S, 0);
	assert_true(breaker_probe(&b, now + S));
}

static void reads_fail_while_writes_are_probed(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		breaker_done(&b, now, true, -EIO, 0);
	now += S;
	assert_true(breaker_probe(&b, now));
	is(BREAKER_HALF_OPEN, BREAKER_WRITE_ERRORS, true, false);
	for (int i = 0; i < 3; i++)
		breaker_done(&b, now, false, -EIO, 0);
	is(BREAKER_OPEN, BREAKER_READ_ERRORS, false, false);
	assert_false(breaker_probe(&b, now + 100 * S));
	breaker_probed(&b, now, true); /* came too late to count */
	is(BREAKER_OPEN, BREAKER_READ_ERRORS, false, false);
	assert_true(breaker_probe(&b, now + 2 * S));
}

static void gone_and_read_only(void **state)
{
	(void)state;
	breaker_done(&b, now, true, -EROFS, 0);
	is(BREAKER_WRITES_OFF, BREAKER_READ_ONLY, true, false);
	breaker_done(&b, now, false, -ENODEV, 0);
	is(BREAKER_OPEN, BREAKER_GONE, false, false);
	fresh(NULL);
	breaker_tick(&b, now, 3 * S, 0);
	breaker_gone(&b, now);
	is(BREAKER_OPEN, BREAKER_GONE, false, false);
	uint64_t changes = b.changes;
	breaker_gone(&b, now);
	assert_int_equal(b.changes, changes);
}

/* n periods of 10 s with reads of `ns`, beside peers whose p99 is `peers`. */
static void periods(uint32_t n, uint64_t ns, uint64_t peers)
{
	for (uint32_t i = 0; i < n * 10; i++) {
		reads(20, ns);
		now += S;
		breaker_tick(&b, now, 0, peers);
	}
}

static void slow_by_itself_and_beside_peers(void **state)
{
	(void)state;
	periods(5, 2 * MS, 2 * MS);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	assert_true(b.p99_ns >= 2 * MS && b.p99_ns <= 5 * MS / 2);
	/* Everybody is slow, or nobody else is there: no reason. */
	periods(10, 40 * MS, 40 * MS);
	periods(10, 40 * MS, 0);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
	/* Only this one: 30 s later writes stop, 30 s after that all. */
	periods(4, 40 * MS, 2 * MS);
	is(BREAKER_WRITES_OFF, BREAKER_SLOW, true, false);
	assert_false(breaker_probe(&b, now + 10 * S)); /* reads go on and say better */
	periods(3, 40 * MS, 2 * MS);
	is(BREAKER_OPEN, BREAKER_SLOW, false, false);
	assert_false(breaker_probe(&b, b.since_ns + 30 * S - 1));
	assert_true(breaker_probe(&b, b.since_ns + 30 * S));
	breaker_probed(&b, now + 31 * S, true);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
}

static void slow_for_a_while(void **state)
{
	(void)state;
	periods(5, 2 * MS, 2 * MS);
	periods(4, 40 * MS, 2 * MS);
	is(BREAKER_WRITES_OFF, BREAKER_SLOW, true, false);
	periods(2, 2 * MS, 2 * MS);
	assert_true(breaker_probe(&b, now));
	breaker_probed(&b, now, true);
	is(BREAKER_CLOSED, BREAKER_NONE, true, true);
}

static void a_decline_does_not_become_usual(void **state)
{
	(void)state;
	periods(5, MS, MS);
	uint64_t usual = b.usual_ns;
	periods(3, 3 * MS, 3 * MS);
	assert_int_equal(b.usual_ns, usual);
	assert_true(b.p99_ns > 2 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(three_errors_in_a_row, fresh),
		cmocka_unit_test_setup(one_in_a_hundred, fresh),
		cmocka_unit_test_setup(pauses_double, fresh),
		cmocka_unit_test_setup(reads_fail_while_writes_are_probed, fresh),
		cmocka_unit_test_setup(gone_and_read_only, fresh),
		cmocka_unit_test_setup(slow_by_itself_and_beside_peers, fresh),
		cmocka_unit_test_setup(slow_for_a_while, fresh),
		cmocka_unit_test_setup(a_decline_does_not_become_usual, fresh),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
