/* Which dialect a peer speaks: its first request, the operator's word, the record of an earlier start. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/peer.h"
#include "tests/unit/daemon/core/server_fixture.h"

#include <sys/stat.h>

#define BIT(d)    (1u << WIRE_##d)
#define FAMILY_D2 (BIT(D1) | BIT(D2) | BIT(D3))
#define FAMILY_D4 (BIT(D4) | BIT(D4V3))
#define FAMILY_D5 (BIT(D5) | BIT(D6) | BIT(D7))

struct fix {
	struct fx fx;
	struct server *srv;
	struct peer peer;
	char dir[64];
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	fx_open(&f->fx, CHASH_BLAKE3, CHUNK_TOKENS, 4, 4);
	f->srv = f->fx.srv;
	f->srv->started_ms = clock_ms();
	snprintf(f->dir, sizeof(f->dir), "/tmp/lmca-recognise-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;
	char path[120];

	snprintf(path, sizeof(path), "%s/dialects-5555", f->dir);
	unlink(path);
	rmdir(f->dir);
	fx_close(&f->fx);
	free(f);
	return 0;
}

/* A request of a new peer. */
static bool first(struct fix *f, uint64_t number, const struct slice *frames, uint32_t n)
{
	struct task t = {.nframes = n};

	memset(&f->peer, 0, sizeof(f->peer));
	for (uint32_t i = 0; i < n; i++)
		t.frames[i] = frames[i];
	return recognise(f->srv, f->fx.e, &f->peer, &t, number);
}

static bool first_empty(struct fix *f, uint64_t number)
{
	return first(f, number, NULL, 0);
}

/* A whole request as dialect `d` writes it. */
static bool first_request(struct fix *f, enum wire_dialect d, struct wire_req *req)
{
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2];
	ssize_t n;

	req->dialect = d;
	req->flat_blocks = d <= WIRE_D3B;
	req->key.has_salt = d >= WIRE_D2;
	n = wire_request_encode(d, 1, req, 0, f->fx.message, MESSAGE_MAX, frames);
	assert_true(n >= 2);
	return first(f, wire_dialect_number(d, req->op), frames + 2, (uint32_t)n - 2);
}

static void remember(struct fix *f, wire_dialect_set set)
{
	f->srv->saved_dialects = f->srv->previous_dialects = set;
	f->srv->seen_dialects = 0;
}

static void test_01_every_adapters_first_request(void **state)
{
	static const struct {
		uint64_t number;
		wire_dialect_set set;
		enum wire_dialect newest;
	} probes[] = {{10, BIT(D1E), WIRE_D1E},   {11, FAMILY_D2, WIRE_D3}, {14, BIT(D3B), WIRE_D3B},
		      {17, FAMILY_D4, WIRE_D4V3}, {18, BIT(D5A), WIRE_D5A}, {21, FAMILY_D5, WIRE_D7}};
	wire_dialect_set all = 0;
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		all |= probes[i].set;
		assert_true(first_empty(f, probes[i].number));
		assert_true(f->peer.bound);
		assert_int_equal(f->peer.candidates, probes[i].set);
		assert_int_equal(f->peer.dialect, probes[i].newest);
		assert_int_equal(f->srv->saved_dialects, all); /* of every generation seen since the start */
	}
	assert_int_equal(all, WIRE_DIALECT_ALL);
}

static void test_02_other_numbers_are_no_probe(void **state)
{
	struct slice one = slice_of("\x05", 1);
	struct fix *f = *state;

	for (uint64_t n = 0; n < 300; n++) {
		if (wire_dialect_probe(n))
			continue;
		assert_false(first_empty(f, n));
		assert_false(f->peer.bound);
	}
	assert_false(first_empty(f, UINT64_MAX));
	assert_false(first(f, 11, &one, 1)); /* GET_CHUNK_SIZE has no payload */
	assert_int_equal(f->srv->saved_dialects, 0);
}

static void test_03_the_operators_word(void **state)
{
	struct slice one = slice_of("\x05", 1);
	char name[] = "d3B";
	struct fix *f = *state;

	f->srv->conf.dialect = name;
	assert_true(first(f, 99, &one, 1)); /* whatever comes first */
	assert_true(f->peer.bound);
	assert_int_equal(f->peer.candidates, BIT(D3B));
	assert_int_equal(f->peer.dialect, WIRE_D3B);
	assert_true(first_empty(f, 21));
	assert_int_equal(f->peer.dialect, WIRE_D3B);
	assert_int_equal(f->srv->saved_dialects, 0);
	f->srv->conf.dialect = NULL;
}

static void test_03b_every_name_is_an_option(void **state)
{
	struct why why;
	struct conf c;
	(void)state;

	for (int d = 0; d < WIRE_DIALECT_COUNT; d++) {
		char *argv[] = {"server",
				"--l1-size-gb",
				"1",
				"--eviction-policy",
				"LRU",
				"--dialect",
				(char *)wire_dialect_name((enum wire_dialect)d)};
		assert_int_equal(conf_parse((int)(sizeof(argv) / sizeof(argv[0])), argv, &c, &why), 0);
		conf_free(&c);
	}
}

static void test_04_a_stranger_who_does_not_introduce_itself(void **state)
{
	struct fix *f = *state;
	struct wire_req req = fx_request(&f->fx, WIRE_LOOKUP, "a", 2, 0, 2);
	struct task t = {0};

	for (enum wire_dialect d = WIRE_D1; d < WIRE_DIALECT_COUNT; d++)
		assert_false(first_request(f, d, &req));
	assert_true(recognise(f->srv, f->fx.e, &f->peer, &t, 21)); /* and then does */
	assert_true(f->peer.bound);
}

static void test_05_by_the_record(void **state)
{
	struct fix *f = *state;
	struct wire_req req = fx_request(&f->fx, WIRE_LOOKUP, "a", 2, 0, 2);

	remember(f, FAMILY_D2);
	assert_true(first_request(f, WIRE_D3, &req));
	assert_true(f->peer.bound);
	assert_int_equal(f->peer.candidates & ~FAMILY_D2, 0);
	assert_int_not_equal(f->peer.candidates & BIT(D3), 0);
	remember(f, FAMILY_D5);
	assert_true(first_request(f, WIRE_D6, &req));
	assert_int_equal(f->peer.candidates & ~FAMILY_D5, 0);
	remember(
		f,
		FAMILY_D4); /* LOOKUP is number 8 in D5, which is FREE_LOOKUP_LOCKS in D4: another key, another meaning */
	assert_true(first_request(f, WIRE_D4, &req));
	assert_int_equal(f->peer.candidates & ~FAMILY_D4, 0);
}

/* Number 20 without payload is NOOP in D4 and CLEAR in D5; 13 is NOOP in D1 and CLEAR in D3b. A wrong CLEAR empties the cache. */
static void test_06_ambiguous_messages_are_dropped(void **state)
{
	struct fix *f = *state;

	remember(f, FAMILY_D4 | FAMILY_D5);
	assert_false(first_empty(f, 20));
	assert_false(f->peer.bound);
	assert_int_equal(f->peer.candidates, 0);
	remember(f, BIT(D1) | BIT(D3B));
	assert_false(first_empty(f, 13));
	remember(f, FAMILY_D4);
	assert_true(first_empty(f, 20));
	assert_int_equal(wire_dialect_op(f->peer.dialect, 20), WIRE_NOOP);
	remember(f, FAMILY_D5);
	assert_true(first_empty(f, 20));
	assert_int_equal(wire_dialect_op(f->peer.dialect, 20), WIRE_CLEAR);
}

/* An early D4 sends PING as number 18 without payload, and so does D5a with GET_CHUNK_SIZE: an int where a bool is due ends a
 * client's receive thread. */
static void test_07_a_ping_from_before_the_restart(void **state)
{
	struct fix *f = *state;

	remember(f, FAMILY_D4);
	assert_true(first_empty(f, 18));
	assert_int_equal(wire_dialect_op(f->peer.dialect, 18), WIRE_PING);
	assert_int_equal(f->srv->saved_dialects, FAMILY_D4);
	f->srv->started_ms = clock_ms() - 120001; /* by now they have all come back */
	assert_true(first_empty(f, 18));
	assert_int_equal(f->peer.dialect, WIRE_D5A);
	f->srv->started_ms = clock_ms();
	f->srv->previous_dialects = 0; /* what this start has seen proves nothing */
	f->srv->saved_dialects = FAMILY_D4;
	assert_true(first_empty(f, 18));
	assert_int_equal(f->peer.dialect, WIRE_D5A);
	remember(f, FAMILY_D4 | BIT(D5A)); /* both were there: the usual reading */
	assert_true(first_empty(f, 18));
	assert_int_equal(f->peer.candidates, BIT(D5A));
}

static void test_08_a_bound_peer_stays_bound(void **state)
{
	struct slice junk = slice_of("\xc1", 1);
	struct fix *f = *state;
	struct task t = {.nframes = 1, .frames = {junk}};

	assert_true(first_empty(f, 11));
	assert_true(recognise(f->srv, f->fx.e, &f->peer, &t, 12345));
	assert_int_equal(f->peer.candidates, FAMILY_D2);
	t.nframes = 0;
	assert_true(recognise(f->srv, f->fx.e, &f->peer, &t, 21));
	assert_int_equal(f->peer.candidates, FAMILY_D2);
}

/* Whatever arrives: a guess is only acted on when all that is still possible means the same operation. */
static void test_09_guesses_are_never_two_things(void **state)
{
	static const enum wire_op ops[] = {WIRE_LOOKUP,
					   WIRE_STORE,
					   WIRE_RETRIEVE,
					   WIRE_END_SESSION,
					   WIRE_PING,
					   WIRE_CLEAR,
					   WIRE_NOOP,
					   WIRE_QUERY_PREFETCH_STATUS,
					   WIRE_FREE_LOOKUP_LOCKS,
					   WIRE_QUERY_PREFETCH_LOOKUP_HITS};
	struct rnd r = rnd_start("guesses");
	struct fix *f = *state;
	int guessed = 0;

	f->srv->started_ms = clock_ms();
	for (int i = 0; i < 6000; i++) {
		enum wire_op op = ops[rnd_below(&r, 10)];
		enum wire_dialect d = (enum wire_dialect)(WIRE_D1 + rnd_below(&r, WIRE_DIALECT_COUNT - 1));
		struct wire_req req = fx_request(&f->fx, op, "request", rnd_below(&r, 4), 0, 0);
		uint64_t number = wire_dialect_number(d, op);
		wire_dialect_set saved = rnd_below(&r, 2048);

		req.has_key = op != WIRE_END_SESSION && op != WIRE_PING;
		if (!number)
			continue;
		remember(f, saved);
		if (!first_request(f, d, &req) || f->srv->saved_dialects != saved)
			continue; /* dropped, or a probe */
		guessed++;
		assert_int_not_equal(f->peer.candidates, 0);
		assert_int_equal(f->peer.candidates & ~saved, 0);
		for (uint32_t k = 0; k < WIRE_DIALECT_COUNT; k++) {
			if (f->peer.candidates >> k & 1)
				assert_int_equal(wire_dialect_op((enum wire_dialect)k, number),
						 wire_dialect_op(f->peer.dialect, number));
		}
	}
	assert_true(guessed > 500);
}

/* ---- the durable record -------------------------------------------------------------------------------------------------- */

static void restart(struct fix *f)
{
	struct why why;

	f->srv->conf.state_dir = f->dir;
	f->srv->conf.port = 5555;
	remember(f, 0);
	ok_or_fail(state_open(f->srv, &why), &why);
	f->srv->conf.state_dir = NULL;
}

static void write_record(struct fix *f, const char *text)
{
	FILE *out = fopen(f->srv->state_path, "w");

	assert_non_null(out);
	fputs(text, out);
	fclose(out);
}

static void test_10_the_record_survives_a_restart(void **state)
{
	struct fix *f = *state;
	struct stat st;

	restart(f);
	assert_int_equal(f->srv->previous_dialects, 0);
	assert_true(first_empty(f, 17));
	assert_int_equal(stat(f->srv->state_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	restart(f);
	assert_int_equal(f->srv->previous_dialects, FAMILY_D4);
	assert_int_equal(f->srv->saved_dialects, FAMILY_D4);
	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT; d++) {
		state_save_dialects(f->srv, 1u << d);
		restart(f);
		assert_int_equal(f->srv->saved_dialects, 1u << d);
	}
	state_save_dialects(f->srv, WIRE_DIALECT_ALL);
	restart(f);
	assert_int_equal(f->srv->saved_dialects, WIRE_DIALECT_ALL);
}

static void test_11_a_spoilt_record_is_no_obstacle(void **state)
{
	char longer[2000];
	struct fix *f = *state;

	restart(f);
	write_record(f, "");
	restart(f);
	assert_int_equal(f->srv->saved_dialects, 0);
	write_record(f, "D99 \x01\xff nonsense\n\nD4");
	restart(f);
	assert_int_equal(f->srv->saved_dialects, BIT(D4));
	memset(longer, 'D', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	write_record(f, longer);
	restart(f);
	assert_int_equal(f->srv->saved_dialects, 0);
}

static void test_12_no_place_for_the_record(void **state)
{
	struct fix *f = *state;
	char path[120];
	struct why why;

	snprintf(path, sizeof(path), "%s/dialects-5555", f->dir);
	fclose(fopen(path, "w"));
	f->srv->conf.state_dir = path; /* a file where a directory should be */
	assert_true(state_open(f->srv, &why) < 0);
	assert_non_null(strstr(why.text, "--state-dir"));
	f->srv->conf.state_dir = NULL;
	f->srv->state_path[0] = '\0';
	state_save_dialects(f->srv, FAMILY_D5); /* remembered as long as the process lives */
	assert_int_equal(f->srv->saved_dialects, FAMILY_D5);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_01_every_adapters_first_request),
		T(test_02_other_numbers_are_no_probe),
		T(test_03_the_operators_word),
		T(test_03b_every_name_is_an_option),
		T(test_04_a_stranger_who_does_not_introduce_itself),
		T(test_05_by_the_record),
		T(test_06_ambiguous_messages_are_dropped),
		T(test_07_a_ping_from_before_the_restart),
		T(test_08_a_bound_peer_stays_bound),
		T(test_09_guesses_are_never_two_things),
		T(test_10_the_record_survives_a_restart),
		T(test_11_a_spoilt_record_is_no_obstacle),
		T(test_12_no_place_for_the_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
