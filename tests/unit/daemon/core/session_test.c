#include "daemon/core/session.h"

#include "tests/unit/daemon/core/fixture.h"

#include <pthread.h>

#define MODEL   "model/a"
#define TTL_MS  5000u
#define IDLE_MS 600000u

struct fix {
	struct fix_store fs;
	struct store *store;
	struct sessions *s;
	struct store_hash h[64]; /* hash_no(0) and following */
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	fix_store_open(&f->fs, 4);
	f->store = f->fs.store;
	hashes_from(f->h, 0, 64);
	assert_int_equal(sessions_create(f->store, TTL_MS, &f->s), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	sessions_destroy(f->s);
	assert_int_equal(fix_stats(f->store).locked, 0);
	fix_store_close(&f->fs);
	free(f);
	return 0;
}

static struct session_lookup want(struct fix *f, const char *id, uint32_t nchunks, uint32_t world_size, uint16_t locks,
				  uint64_t now_ms)
{
	return (struct session_lookup){.request_id = slice_str(id),
				       .model = slice_str(MODEL),
				       .salt = slice_of("", 0),
				       .owner = 1,
				       .world_size = world_size,
				       .locks = locks,
				       .object_bytes = UNIT,
				       .hashes = f->h,
				       .nchunks = nchunks,
				       .now_ms = now_ms};
}

static struct session_hits look(struct fix *f, const char *id, uint32_t nchunks, uint32_t world_size, uint16_t locks,
				uint64_t now_ms)
{
	struct session_lookup l = want(f, id, nchunks, world_size, locks, now_ms);
	struct session_hits hits;

	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	return hits;
}

/* As the connection that looked up. */
static uint32_t release(struct sessions *s, const char *id, uint32_t first, uint32_t n, int rank, uint16_t count,
			uint64_t now_ms)
{
	struct session_range r = {.request_id = slice_str(id), .owner = 1, .first = first, .n = n, .rank = rank};

	return sessions_release(s, &r, count, now_ms);
}

static bool holds(struct sessions *s, const char *id, uint32_t first, uint32_t n, int rank, const store_obj *objs)
{
	struct session_range r = {slice_str(id), 1, first, n, rank, objs};

	return sessions_holds(s, &r);
}

static uint64_t locked(struct fix *f)
{
	return fix_stats(f->store).locked;
}

static struct sessions_stats counts(struct fix *f)
{
	struct sessions_stats st;

	sessions_stats(f->s, &st);
	return st;
}

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
		ns[i] = store_ns_get(f->store, slice_str(MODEL), upstream[i], 0, slice_of("", 0));
		assert_int_equal(store_reserve(f->store, ns[i], f->h, 1, UNIT, -1, 0, &o).reserved, 1);
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
		ns[r] = store_ns_find(f->store, slice_str(MODEL), kv_rank(2, r), 0, slice_of("", 0));
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
	ns[1] = store_ns_find(f->store, slice_str(MODEL), kv_rank(2, 1), 0, slice_of("", 0));
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

static void test_11_read_ttl(void **state)
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
static void test_12_a_sweep_from_the_past_expires_nothing(void **state)
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

static void test_13_orphans(void **state)
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
static void test_14_job_ids(void **state)
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

static void test_15_limits(void **state)
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
	for (i = SESSIONS_MAX; i < 2 * SESSIONS_MAX - 1; i++) { /* all others give way, oldest first */
		l.request_id = slice_of(&i, sizeof(i));
		if (sessions_lookup(f->s, &l, &hits))
			break;
	}
	assert_int_equal(i, 2 * SESSIONS_MAX - 1);
	assert_int_equal(counts(f).active, SESSIONS_MAX);
	i = 78;
	assert_false(sessions_end(f->s, slice_of(&i, sizeof(i)), 1, 0));
	i = 77;
	assert_true(sessions_end(f->s, slice_of(&i, sizeof(i)), 1, 0));
	sessions_sweep(f->s, IDLE_MS + 1);
	assert_int_equal(counts(f).active, 0);
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
}

/* END_SESSION renews the whole prompt, also what STORE added to it: an older prompt gives way first. */
static void test_16_end_renews_the_prompt(void **state)
{
	struct fix *f = *state;
	uint32_t room = (4u << 20) / UNIT, n = 32;
	store_ns ns;

	fix_put(f->store, MODEL, 1, 0, 0, n, UNIT);
	fix_put(f->store, MODEL, 1, 0, 1000, room - n, UNIT); /* full, and all younger */
	ns = store_ns_find(f->store, slice_str(MODEL), kv_rank(1, 0), 0, slice_of("", 0));
	look(f, "r", 8, 1, 1, 0);
	sessions_extend(f->s, slice_str("r"), f->h, n);
	sessions_extend(f->s, slice_str("r"), f->h, 4); /* shorter says nothing */
	sessions_extend(f->s, slice_str("none"), f->h, 4);
	sessions_end(f->s, slice_str("r"), 1, 0);
	fix_put(f->store, MODEL, 1, 0, 9000, room - n, UNIT); /* as many again */
	assert_int_equal(store_peek_prefix(f->store, &ns, 1, f->h, n, UNIT), n);
}

/* Two engines that count their requests from 0: each means its own, by the connection that looked up; a worker on a connection of
 * its own means the request that holds what it reads. */
static void test_19_ids_that_collide(void **state)
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
	ns = store_ns_find(f->store, slice_str("other"), kv_rank(1, 0), 0, slice_of("", 0));
	assert_int_equal(store_lock_all(f->store, ns, f->h, 5, UNIT, 0, ob, NULL), 0);
	ns = store_ns_find(f->store, slice_str(MODEL), kv_rank(1, 0), 0, slice_of("", 0));
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
static void test_20_lookups_make_no_names(void **state)
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

/* ---- faults and threads ---------------------------------------------------------------------------------------- */

static void test_17_out_of_memory(void **state)
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

static void test_18_four_threads(void **state)
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

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
		T(test_11_read_ttl),
		T(test_12_a_sweep_from_the_past_expires_nothing),
		T(test_13_orphans),
		T(test_14_job_ids),
		T(test_15_limits),
		T(test_16_end_renews_the_prompt),
		T(test_17_out_of_memory),
		T(test_18_four_threads),
		T(test_19_ids_that_collide),
		T(test_20_lookups_make_no_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
