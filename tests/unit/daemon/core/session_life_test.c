/* Sessions over time: time limits, orphans, jobs, limits, faults; and many threads at once. */
#include "tests/unit/daemon/core/session_fixture.h"

#include <pthread.h>

static void test_1_read_ttl(void **state)
{
	struct fix *f = *state;

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	look(f, "old", 4, 1, 1, 1000);
	look(f, "new", 4, 1, 1, 4000);
	look(f, "used", 4, 1, 2, 1000);
	assert_int_equal(sessions_sweep(f->s, 1000 + TTL_MS), 0);
	release(f->s, "used", 0, 1, 0, 1, 5000);
	assert_int_equal(sessions_sweep(f->s, 1001 + TTL_MS), 1);
	assert_int_equal(counts(f).locks_expired, 1);
	assert_int_equal(release(f->s, "old", 0, 4, 0, 1, 7000), 0);
	assert_int_equal(sessions_sweep(f->s, 4001 + TTL_MS), 1);
	assert_int_equal(locked(f), 4);
	assert_int_equal(sessions_sweep(f->s, 5001 + TTL_MS), 1);
	assert_int_equal(locked(f), 0);
	assert_int_equal(counts(f).locks_expired, 3);
	assert_int_equal(counts(f).active, 3); /* the sessions stay until they are idle */
	sessions_sweep(f->s, 4000 + IDLE_MS);
	assert_int_equal(counts(f).active, 2);
	sessions_sweep(f->s, 7001 + IDLE_MS);
	assert_int_equal(counts(f).active, 0);
	assert_int_equal(counts(f).jobs, 0);
}

/* The sweeper reads the clock, waits for the lock, and finds requests that are younger than its "now". */
static void test_2_a_sweep_from_the_past_expires_nothing(void **state)
{
	struct fix *f = *state;

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	look(f, "r", 4, 1, 1, 100001);
	look(f, "idle", 0, 1, 1, 100001);
	assert_int_equal(sessions_sweep(f->s, 100000), 0);
	assert_int_equal(sessions_sweep(f->s, 0), 0);
	assert_int_equal(locked(f), 4);
	assert_int_equal(counts(f).active, 2);
}

static void test_3_orphans(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "c", 4, 1, 1, 0);
	struct session_hits hits;

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	fix_put(f->store, "other", 1, 0, 0, 4, UNIT);
	look(f, "a", 4, 1, 1, 0);
	look(f, "b", 0, 1, 1, 0); /* holds nothing */
	l.owner = 2;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	l.request_id = slice_str("d");
	l.model = slice_str("other");
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(sessions_orphan(f->s, 77, slice_of("", 0), 1, 0), 0);
	assert_int_equal(sessions_orphan(f->s, 77, slice_str(MODEL), 2, 0), 0); /* another world size */
	assert_int_equal(locked(f), 8);
	assert_int_equal(sessions_orphan(f->s, 1, slice_of("", 0), 1, 0), 1); /* a */
	assert_int_equal(release(f->s, "a", 0, 4, 0, 1, 0), 0);
	assert_int_equal(locked(f), 8);
	assert_int_equal(sessions_orphan(f->s, 77, slice_str(MODEL), 1, 0), 1); /* c */
	assert_int_equal(locked(f), 4);
	assert_int_equal(sessions_orphan(f->s, 2, slice_str(MODEL), 1, 0), 1); /* d */
	assert_int_equal(locked(f), 0);
	assert_int_equal(counts(f).active, 4);
}

/* Two jobs whose numbers fall into one place of the table. */
static void test_4_job_ids(void **state)
{
	struct fix *f = *state;
	struct session_hits first, last = {0};

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	first = look(f, "first", 3, 1, 1, 0);
	assert_int_not_equal(first.job_id, 0);
	while (last.job_id < first.job_id + 65536)
		last = look(f, "other", 2, 1, 1, 0);
	assert_int_equal(sessions_query_job(f->s, first.job_id, false), 3);
	assert_int_equal(sessions_query_job(f->s, last.job_id, false), 2);
	assert_int_equal(sessions_query_job(f->s, last.job_id - 1, false), 0);
	assert_int_equal(sessions_query_job(f->s, 0, true), 0);
	assert_int_equal(sessions_query_job(f->s, first.job_id, true), 3);
	assert_int_equal(sessions_query_job(f->s, first.job_id, true), 0);
	assert_int_equal(sessions_query_job(f->s, last.job_id, false), 2);
	assert_int_equal(sessions_query(f->s, slice_str("first"), 1, true), 0);
	assert_int_equal(counts(f).jobs, 1);
	sessions_end(f->s, slice_str("other"), 1, 0);
	assert_int_equal(counts(f).jobs, 0);
}

static void test_5_limits(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "", 0, 1, 1, 0);
	struct session_hits hits;
	char id[1025];
	uint32_t i;

	memset(id, 'i', sizeof(id));
	l.request_id = slice_of(id, 1024);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	l.request_id = slice_of(id, 1025);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), -ENOSPC);
	for (i = 1; i < SESSIONS_MAX; i++) {
		l.request_id = slice_of(&i, sizeof(i));
		if (sessions_lookup(f->s, &l, &hits))
			break;
	}
	assert_int_equal(i, SESSIONS_MAX);
	i = 77; /* used again: the youngest */
	l.request_id = slice_of(&i, sizeof(i));
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	for (i = SESSIONS_MAX; i < SESSIONS_MAX + 1000; i++) { /* others give way, oldest first */
		l.request_id = slice_of(&i, sizeof(i));
		assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	}
	assert_int_equal(counts(f).active, SESSIONS_MAX);
	l.request_id = slice_of(id, 1024);
	assert_false(sessions_end(f->s, l.request_id, 1, 0));
	i = 999;
	assert_false(sessions_end(f->s, slice_of(&i, sizeof(i)), 1, 0));
	i = 1001;
	assert_true(sessions_end(f->s, slice_of(&i, sizeof(i)), 1, 0));
	i = 77;
	assert_true(sessions_end(f->s, slice_of(&i, sizeof(i)), 1, 0));
	sessions_sweep(f->s, IDLE_MS + 1);
	assert_int_equal(counts(f).active, 0);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
}

/* END_SESSION renews the whole prompt, also what STORE added to it: an older prompt gives way first. */
static void test_6_end_renews_the_prompt(void **state)
{
	struct fix *f = *state;
	uint32_t room = (4u << 20) / UNIT, n = 32;
	store_ns ns;

	fix_put(f->store, MODEL, 1, 0, 0, n, UNIT);
	fix_put(f->store, MODEL, 1, 0, 1000, room - n, UNIT); /* full, and all younger */
	ns = store_ns_find(f->store, slice_str(MODEL), kv_rank(1, 0), 0, slice_of("", 0), NULL);
	look(f, "r", 8, 1, 1, 0);
	sessions_extend(f->s, slice_str("r"), f->h, n);
	sessions_extend(f->s, slice_str("r"), f->h, 4); /* shorter says nothing */
	sessions_extend(f->s, slice_str("none"), f->h, 4);
	sessions_end(f->s, slice_str("r"), 1, 0);
	fix_put(f->store, MODEL, 1, 0, 9000, room - n, UNIT); /* as many again */
	assert_int_equal(store_peek_prefix(f->store, &ns, 1, f->h, n, UNIT), n);
}
/* ---- faults and threads ---------------------------------------------------------------------------------------- */

static void test_7_out_of_memory(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "r", 40, 3, 1, 0);
	struct session_hits hits;
	struct sessions *other = NULL;
	uint64_t n;
	int err;

	mem_fail_at(1);
	assert_int_equal(sessions_create(f->store, TTL_MS, &other), -ENOMEM);
	mem_fail_at(0);
	for (uint32_t r = 0; r < 3; r++)
		fix_put(f->store, MODEL, 3, r, 0, 40, UNIT);
	for (n = 1;; n++) {
		mem_fail_at(n);
		err = sessions_lookup(f->s, &l, &hits);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_int_equal(hits.chunks, 0);
		assert_int_equal(locked(f), 0);
		assert_int_equal(sessions_query(f->s, slice_str("r"), 1, false), 0);
		assert_int_equal(release(f->s, "r", 0, 40, -1, 1, 0), 0);
		if (n % 2)
			sessions_end(f->s, slice_str("r"), 1, 0);
	}
	assert_true(n >= 4);
	assert_int_equal(hits.chunks, 40);
	mem_fail_at(1); /* the prompt cannot be kept: its age is lost, nothing else */
	sessions_extend(f->s, slice_str("r"), f->h, 64);
	mem_fail_at(0);
	sessions_end(f->s, slice_str("r"), 1, 0);
}

struct user {
	struct fix *f;
	uint64_t seed;
	int wrong;
};

static void *use(void *arg)
{
	struct user *u = arg;
	struct rnd r = {u->seed};
	struct session_hits hits;
	char id[24];

	for (int i = 0; i < 3000 && !u->wrong; i++) {
		uint64_t now = rnd_below(&r, 20000);

		snprintf(id, sizeof(id), "%llu-%u", (unsigned long long)u->seed, rnd_below(&r, 4));
		struct session_lookup l =
			want(u->f, id, rnd_below(&r, 40), 1 + rnd_below(&r, 2), (uint16_t)(1 + rnd_below(&r, 3)), now);

		switch (rnd_below(&r, 6)) {
		case 0:
			sessions_end(u->f->s, slice_str(id), 1, now);
			break;
		case 1:
			release(u->f->s, id, rnd_below(&r, 40), rnd_below(&r, 40), (int)rnd_below(&r, 3) - 1, 1, now);
			break;
		case 2:
			sessions_sweep(u->f->s, now);
			break;
		case 3:
			sessions_orphan(u->f->s, rnd_below(&r, 3), slice_of("", 0), 1, now);
			break;
		default:
			u->wrong = sessions_lookup(u->f->s, &l, &hits) || hits.chunks > l.nchunks ||
				   (hits.chunks && !sessions_query_job(u->f->s, hits.job_id, false));
		}
	}
	return NULL;
}

static void test_8_four_threads(void **state)
{
	struct rnd r = rnd_start("threads");
	struct fix *f = *state;
	struct user u[4];
	pthread_t t[4];

	for (uint32_t k = 0; k < 2; k++) {
		for (uint32_t rank = 0; rank <= k; rank++)
			fix_put(f->store, MODEL, k + 1, rank, 0, 30, UNIT);
	}
	for (int i = 0; i < 4; i++) {
		u[i] = (struct user){f, mix64(r.state++), 0};
		assert_int_equal(pthread_create(&t[i], NULL, use, &u[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(u[i].wrong, 0);
	}
	sessions_sweep(f->s, 10 * IDLE_MS);
	assert_int_equal(locked(f), 0);
	assert_int_equal(counts(f).active, 0);
	assert_int_equal(counts(f).jobs, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_1_read_ttl),      T(test_2_a_sweep_from_the_past_expires_nothing),
		T(test_3_orphans),       T(test_4_job_ids),
		T(test_5_limits),        T(test_6_end_renews_the_prompt),
		T(test_7_out_of_memory), T(test_8_four_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
