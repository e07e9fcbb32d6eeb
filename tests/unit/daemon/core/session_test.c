/* Sessions: what a lookup locks, and who may use it and give it back. */
#include "tests/unit/daemon/core/session_fixture.h"

static void test_01_lookup_locks_the_prefix(void **state)
{
	struct fix *f = *state;
	struct session_hits hits;

	fix_put(f->store, MODEL, 1, 0, 0, 5, UNIT);
	hits = look(f, "r", 8, 1, 1, 0);
	assert_int_equal(hits.chunks, 5);
	assert_int_equal(hits.objects, 5);
	assert_int_equal(locked(f), 5);
	assert_int_equal(counts(f).active, 1);
	assert_int_equal(sessions_query(f->s, slice_str("r"), 1, false), 5);
	assert_int_equal(sessions_query(f->s, slice_str("r"), 1, true), 5);
	assert_int_equal(sessions_query(f->s, slice_str("r"), 1, true), 0);
	assert_int_equal(locked(f), 5); /* the answer was taken, the locks are for RETRIEVE */
	assert_int_equal(release(f->s, "r", 0, 5, 0, 1, 1), 5);
	assert_int_equal(locked(f), 0);
	assert_int_equal(release(f->s, "r", 0, 5, 0, 1, 1), 0);
	assert_true(sessions_end(f->s, slice_str("r"), 1, 2));
	assert_false(sessions_end(f->s, slice_str("r"), 1, 2));
	assert_int_equal(counts(f).active, 0);
}

/* A chunk counts when all ranks have it; what was locked of one that is not complete goes back at once. */
static void test_02_whole_chunks_of_all_ranks(void **state)
{
	struct fix *f = *state;
	struct session_hits hits;

	fix_put(f->store, MODEL, 3, 0, 0, 6, UNIT);
	fix_put(f->store, MODEL, 3, 1, 0, 5, UNIT);
	fix_put(f->store, MODEL, 3, 2, 0, 4, UNIT);
	hits = look(f, "r", 6, 3, 2, 0);
	assert_int_equal(hits.objects, 3 * 4 + 2);
	assert_int_equal(hits.chunks, 4);
	assert_int_equal(locked(f), 12);
	assert_int_equal(release(f->s, "r", 0, 6, 1, 1, 0), 4);
	assert_int_equal(locked(f), 12); /* each still has one of two */
	assert_int_equal(release(f->s, "r", 0, 6, 1, 1, 0), 4);
	assert_int_equal(locked(f), 8);
	assert_int_equal(release(f->s, "r", 1, 2, -1, 9, 0), 4); /* never more than it has */
	assert_int_equal(locked(f), 4);
	assert_true(sessions_end(f->s, slice_str("r"), 1, 0));
	assert_int_equal(locked(f), 0);
}

/* The expansion of a key into objects is upstream's: chunk-major, then rank, and the rank encoded as it encodes it. */
static void test_03_the_keys_are_upstreams(void **state)
{
	static const uint32_t upstream[] = {67109888, 67175425, 67240962, 67306499};
	struct fix *f = *state;
	store_ns ns[4];
	store_obj o;

	for (int i = 0; i < 4; i++) {
		ns[i] = store_ns_get(f->store, slice_str(MODEL), upstream[i], 0, slice_of("", 0), NULL);
		assert_int_equal(store_reserve(f->store, ns[i], f->h, 1, UNIT, NODE_UNKNOWN, 0, &o).reserved, 1);
		assert_int_equal(store_commit(f->store, &o, 1, 0), 1);
		assert_int_equal(look(f, "r", 1, 4, 1, 0).objects, i + 1);
	}
	assert_int_equal(look(f, "r", 1, 4, 1, 0).chunks, 1);
	assert_int_equal(look(f, "r", 1, 1, 1, 0).objects, 0);
	for (int i = 0; i < 4; i++)
		store_ns_put(f->store, ns[i]);
}

static void test_04_sessions_do_not_release_each_other(void **state)
{
	struct fix *f = *state;

	fix_put(f->store, MODEL, 1, 0, 0, 3, UNIT);
	look(f, "a", 3, 1, 1, 0);
	look(f, "b", 3, 1, 1, 0);
	assert_int_equal(release(f->s, "a", 0, 3, 0, 100, 0), 3);
	assert_int_equal(locked(f), 3);
	assert_int_equal(release(f->s, "a", 0, 3, 0, 100, 0), 0);
	assert_int_equal(release(f->s, "none", 0, 3, 0, 100, 0), 0);
	assert_int_equal(locked(f), 3);
	sessions_end(f->s, slice_str("b"), 1, 0);
	assert_int_equal(locked(f), 0);
}

static void test_05_a_second_lookup_replaces_the_first(void **state)
{
	struct fix *f = *state;
	struct session_hits one, two;

	fix_put(f->store, MODEL, 1, 0, 0, 8, UNIT);
	fix_put(f->store, MODEL, 2, 0, 0, 8, UNIT);
	fix_put(f->store, MODEL, 2, 1, 0, 8, UNIT);
	one = look(f, "r", 8, 1, 3, 0);
	two = look(f, "r", 2, 2, 1, 0);
	assert_int_equal(locked(f), 4);
	assert_int_equal(counts(f).active, 1);
	assert_int_equal(counts(f).jobs, 1);
	assert_true(two.job_id > one.job_id);
	assert_int_equal(sessions_query_job(f->s, one.job_id, false), 0);
	assert_int_equal(sessions_query_job(f->s, two.job_id, false), 2);
}

static void test_06_releasing_what_is_not_there(void **state)
{
	static const struct {
		uint32_t first, n;
		int rank;
	} odd[] = {{4, 1, 0},          {UINT32_MAX, 1, 0},          {0, UINT32_MAX, 2}, {UINT32_MAX, UINT32_MAX, 0},
		   {4, UINT32_MAX, 0}, {4, UINT32_MAX - 3, -1},     {0, 0, -1},         {0, 4, 1000},
		   {5, 2, -1},         {0x80000000, 0x80000000, 0}, {0, 4, 0x7fffffff}};
	struct fix *f = *state;

	fix_put(f->store, MODEL, 2, 0, 0, 4, UNIT);
	fix_put(f->store, MODEL, 2, 1, 0, 4, UNIT);
	look(f, "r", 4, 2, 1, 0);
	for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
		assert_int_equal(release(f->s, "r", odd[i].first, odd[i].n, odd[i].rank, 1, 0), 0);
	assert_int_equal(release(f->s, "r", 0, 4, -1, 0, 0), 0);
	assert_int_equal(locked(f), 8);
	assert_int_equal(release(f->s, "r", 3, UINT32_MAX, -1, 1, 0), 2);
	assert_int_equal(release(f->s, "r", 0, UINT32_MAX, 1, 1, 0), 3);
	assert_int_equal(locked(f), 3);
}

/* RETRIEVE may only use what its own request has locked: not after release, not what was cleared and stored anew. */
static void test_07_holds(void **state)
{
	struct fix *f = *state;
	store_ns ns[2];
	store_obj o[4] = {0};

	for (uint32_t r = 0; r < 2; r++) {
		fix_put(f->store, MODEL, 2, r, 0, 4, UNIT);
		ns[r] = store_ns_find(f->store, slice_str(MODEL), kv_rank(2, r), 0, slice_of("", 0), NULL);
	}
	look(f, "r", 4, 2, 1, 0);
	assert_int_equal(store_lock_all(f->store, ns[1], f->h, 4, UNIT, 0, o, NULL), 0);
	assert_true(holds(f->s, "r", 0, 4, 1, o));
	assert_true(holds(f->s, "r", 2, 2, 1, o + 2));
	assert_true(holds(f->s, "r", 4, 0, 1, o));
	assert_false(holds(f->s, "r", 0, 4, 0, o)); /* another rank's objects */
	assert_false(holds(f->s, "r", 1, 3, 1, o)); /* other places */
	assert_false(holds(f->s, "r", 0, 5, 1, o));
	assert_false(holds(f->s, "r", UINT32_MAX, 2, 1, o));
	assert_false(holds(f->s, "r", 2, UINT32_MAX, 1, o));
	assert_false(holds(f->s, "r", 0, 4, 2, o));
	assert_false(holds(f->s, "x", 0, 4, 1, o));
	release(f->s, "r", 2, 1, 1, 1, 0);
	assert_true(holds(f->s, "r", 0, 2, 1, o));
	assert_false(holds(f->s, "r", 0, 3, 1, o));
	store_unlock(f->store, o, NULL, 4, 0);
	store_clear(f->store);
	for (uint32_t r = 0; r < 2; r++)
		fix_put(f->store, MODEL, 2, r, 0, 4, UNIT);
	ns[1] = store_ns_find(f->store, slice_str(MODEL), kv_rank(2, 1), 0, slice_of("", 0), NULL);
	assert_int_equal(store_lock_all(f->store, ns[1], f->h, 4, UNIT, 0, o, NULL), 0);
	assert_false(holds(f->s, "r", 0, 1, 1, o));
	store_unlock(f->store, o, NULL, 4, 0);
	sessions_end(f->s, slice_str("r"), 1, 0);
	assert_int_equal(fix_stats(f->store).detached, 0);
}

static void test_08_only_objects_of_the_right_size(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "r", 4, 1, 1, 0);
	struct session_hits hits;

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	l.object_bytes = 0; /* nobody registered */
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	l.object_bytes = UNIT / 2;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	assert_int_equal(locked(f), 0);
	l.object_bytes = SESSION_ANY_SIZE;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 4);
}

static void test_09_other_names_other_objects(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "r", 4, 1, 1, 0);
	struct session_hits hits;

	fix_put(f->store, MODEL, 1, 0, 0, 4, UNIT);
	l.salt = slice_str("tenant");
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	l.salt = slice_of("", 0);
	l.model = slice_str("model/b");
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	l.model = slice_str(MODEL);
	l.world_size = 2;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	l.world_size = 1;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 4);
}

/* A prompt without a whole chunk, a request without a name, names of any bytes. */
static void test_10_the_smallest_requests(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "r", 0, 1, 1, 0);
	struct session_hits hits;

	l.hashes = NULL;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(hits.chunks, 0);
	l.request_id = slice_of("", 0);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	l.request_id = slice_of("a\0b", 3);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	l.request_id = slice_of("a\0c", 3);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_int_equal(counts(f).active, 4);
	assert_true(sessions_end(f->s, slice_of("", 0), 1, 0));
	assert_true(sessions_end(f->s, slice_of("a\0b", 3), 1, 0));
	assert_false(sessions_end(f->s, slice_str("a"), 1, 0));
	assert_int_equal(counts(f).active, 2);
}

/* Two engines that count their requests from 0: each means its own, by the connection that looked up; a worker on a connection of
 * its own means the request that holds what it reads. */
static void test_11_ids_that_collide(void **state)
{
	struct fix *f = *state;
	struct session_lookup a = want(f, "0", 3, 1, 1, 0), b = want(f, "0", 5, 1, 1, 0);
	struct session_range worker = {slice_str("0"), 99, 0, 5, 0, NULL};
	store_obj oa[3], ob[5];
	struct session_hits hits;
	store_ns ns;

	fix_put(f->store, MODEL, 1, 0, 0, 3, UNIT);
	fix_put(f->store, "other", 1, 0, 0, 5, UNIT);
	b.model = slice_str("other");
	b.owner = 2;
	assert_int_equal(sessions_lookup(f->s, &a, &hits), 0);
	assert_int_equal(sessions_lookup(f->s, &b, &hits), 0);
	assert_int_equal(counts(f).active, 2);
	assert_int_equal(locked(f), 8);
	assert_int_equal(sessions_query(f->s, slice_str("0"), 1, true), 3);
	assert_int_equal(sessions_query(f->s, slice_str("0"), 2, true), 5);
	ns = store_ns_find(f->store, slice_str("other"), kv_rank(1, 0), 0, slice_of("", 0), NULL);
	assert_int_equal(store_lock_all(f->store, ns, f->h, 5, UNIT, 0, ob, NULL), 0);
	ns = store_ns_find(f->store, slice_str(MODEL), kv_rank(1, 0), 0, slice_of("", 0), NULL);
	assert_int_equal(store_lock_all(f->store, ns, f->h, 3, UNIT, 0, oa, NULL), 0);
	assert_int_equal(sessions_release(f->s, &worker, 1, 0), 0); /* whose? unknown: nobody's */
	worker.objs = ob;
	assert_true(sessions_holds(f->s, &worker));
	assert_int_equal(sessions_release(f->s, &worker, 1, 0), 5);
	assert_false(sessions_holds(f->s, &worker));
	worker.objs = oa;
	worker.n = 3;
	assert_true(sessions_holds(f->s, &worker));
	store_unlock(f->store, oa, NULL, 3, 0);
	store_unlock(f->store, ob, NULL, 5, 0);
	assert_int_equal(locked(f), 3);
	assert_true(sessions_end(f->s, slice_str("0"), 2, 0));
	assert_int_equal(locked(f), 3);
	assert_true(sessions_end(f->s, slice_str("0"), 7, 0)); /* a connection that came back */
	assert_int_equal(locked(f), 0);
	assert_int_equal(sessions_lookup(f->s, &a, &hits), 0);
	assert_int_equal(sessions_lookup(f->s, &b, &hits), 0);
	assert_true(sessions_end(f->s, slice_str("0"), 0, 0)); /* the operator means all */
	assert_int_equal(counts(f).active, 0);
}

/* Lookups under names nobody stored anything with leave none behind: the table of names is shared by all tenants. */
static void test_12_lookups_make_no_names(void **state)
{
	struct fix *f = *state;
	struct session_lookup l = want(f, "r", 1, 255, 1, 0);
	struct session_hits hits;
	char id[16], salt[16];

	for (int i = 0; i < 400; i++) {
		snprintf(id, sizeof(id), "r%d", i);
		snprintf(salt, sizeof(salt), "s%d", i);
		l.request_id = slice_str(id);
		l.salt = slice_str(salt);
		assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	}
	fix_put(f->store, MODEL, 2, 0, 0, 1, UNIT); /* asserts that it found a name */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_01_lookup_locks_the_prefix),
		T(test_02_whole_chunks_of_all_ranks),
		T(test_03_the_keys_are_upstreams),
		T(test_04_sessions_do_not_release_each_other),
		T(test_05_a_second_lookup_replaces_the_first),
		T(test_06_releasing_what_is_not_there),
		T(test_07_holds),
		T(test_08_only_objects_of_the_right_size),
		T(test_09_other_names_other_objects),
		T(test_10_the_smallest_requests),
		T(test_11_ids_that_collide),
		T(test_12_lookups_make_no_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
