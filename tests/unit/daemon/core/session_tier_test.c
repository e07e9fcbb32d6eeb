/* Sessions whose lookup goes on below L1: a tier made of a few variables, answers in every order, and every way to give up. */
#include "tests/unit/daemon/core/session_fixture.h"

#define RANKS_MAX 4u

struct fake_tier {
	struct fix *f;
	bool has;
	int err;
	uint32_t jobs, cancels, dones, told, named;
	uint64_t id, cancelled;
	uint32_t first, nchunks, world_size, locks;
	store_ns ns[RANKS_MAX];
	struct seg_key asked;
	struct session_done last;
};

static const struct session_form form = {UNIT, {1}};

static bool fake_may_have(void *ctx, const struct seg_key *first, uint64_t bytes)
{
	struct fake_tier *t = ctx;

	assert_int_equal(bytes, UNIT);
	t->asked = *first;
	return t->has;
}

static int fake_prefetch(void *ctx, const struct tier_want *w)
{
	struct fake_tier *t = ctx;

	for (uint32_t r = 0; t->err && r < w->world_size; r++)
		store_ns_put(t->f->store, w->ns[r]);
	if (t->err)
		return t->err;
	t->jobs++;
	t->id = w->id;
	t->first = w->first;
	t->nchunks = w->nchunks;
	t->world_size = w->world_size;
	t->locks = w->locks;
	assert_in_range(w->world_size, 1, RANKS_MAX);
	for (uint32_t r = 0; r < w->world_size; r++)
		t->ns[r] = w->ns[r];
	return 0;
}

static void fake_cancel(void *ctx, uint64_t id)
{
	struct fake_tier *t = ctx;

	t->cancels++;
	t->cancelled = id;
}

static void fake_touched(void *ctx, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n)
{
	struct fake_tier *t = ctx;

	assert_true(name && hashes && objs[0]);
	t->told += n;
}

static uint32_t fake_name(void *ctx, struct slice model, uint32_t kv_rank, struct slice salt, const uint8_t *digest)
{
	struct fake_tier *t = ctx;

	assert_true(slice_is(model, MODEL) && salt.n == 0);
	assert_memory_equal(digest, form.layout, SEG_DIGEST);
	t->named++;
	return 100 + (kv_rank & 0xff);
}

static void fake_done(void *ctx, const struct session_done *d)
{
	struct fake_tier *t = ctx;

	t->dones++;
	if (d)
		t->last = *d;
}

static void use(struct fix *f, struct fake_tier *t)
{
	struct sessions_tier st = {t, fake_may_have, fake_prefetch, fake_cancel, fake_touched, fake_name, fake_done};

	*t = (struct fake_tier){.f = f, .has = true};
	fix_layout = form.layout;
	sessions_use(f->s, &st);
}

/* The tier takes its references back, as it does when a job is over. */
static void job_over(struct fake_tier *t)
{
	for (uint32_t r = 0; r < t->world_size; r++)
		store_ns_put(t->f->store, t->ns[r]);
	t->world_size = 0;
}

static struct session_hits ask(struct fix *f, const char *id, uint32_t nchunks, uint32_t ws, uint16_t locks,
			       uint64_t now)
{
	struct session_lookup l = want(f, id, nchunks, ws, locks, now);
	struct session_hits hits;

	l.forms = &form;
	l.nforms = 1;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	return hits;
}

/* Objects first..first+n of the expansion come up from below and are locked as the session wants it. */
static bool load(struct fix *f, struct fake_tier *t, uint64_t id, uint32_t n)
{
	struct tier_result r = {.objects = n, .from_l2 = n, .found = n};
	store_obj objs[64] = {0};
	bool taken;
	uint32_t ws = t->world_size;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = t->first + i;

		assert_int_equal(
			store_reserve(f->store, t->ns[at % ws], &f->h[at / ws], 1, UNIT, NODE_UNKNOWN, 0, &objs[i])
				.reserved,
			1);
		assert_int_equal(store_commit_locked(f->store, &objs[i], 1, (uint16_t)t->locks, true, 0), 1);
	}
	taken = sessions_loaded(f->s, id, &r, objs, 10);
	for (uint32_t i = 0; !taken && i < n; i++)
		store_unlock(f->store, &objs[i], &(uint16_t){(uint16_t)t->locks}, 1, 0);
	job_over(t);
	return taken;
}

static uint32_t query_of(struct fix *f, const char *id, bool take)
{
	return sessions_query(f->s, slice_str(id), 1, take);
}

static void test_01_pending_then_loaded(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;
	struct session_hits hits;

	use(f, &t);
	fix_put(f->store, MODEL, 1, 0, 0, 3, UNIT);
	hits = ask(f, "r", 8, 1, 1, 0);
	assert_true(hits.pending);
	assert_int_equal(hits.chunks, 3);
	assert_int_equal(t.first, 3);
	assert_int_equal(t.nchunks, 8);
	assert_int_equal(t.told, 3);
	assert_int_equal(t.asked.name, 100);
	assert_memory_equal(&t.asked.hash, &f->h[3], sizeof(f->h[3]));
	assert_int_equal(counts(f).pending, 1);
	assert_int_equal(locked(f), 3);
	assert_int_equal(query_of(f, "r", true), SESSION_PENDING);
	assert_int_equal(query_of(f, "r", false), SESSION_PENDING);
	sessions_found(f->s, t.id, 5);
	assert_int_equal(query_of(f, "r", true), SESSION_PENDING);
	assert_int_equal(query_of(f, "r", false), 8);
	assert_int_equal(sessions_query_job(f->s, hits.job_id, false), 8);
	assert_true(load(f, &t, t.id, 4));
	assert_int_equal(t.dones, 1);
	assert_int_equal(t.last.l1_chunks, 3);
	assert_int_equal(t.last.chunks, 7);
	assert_int_equal(counts(f).pending, 0);
	assert_int_equal(query_of(f, "r", false), 7);
	assert_int_equal(query_of(f, "r", true), 7);
	assert_int_equal(query_of(f, "r", true), 0);
	assert_int_equal(locked(f), 7);
	/* what was loaded goes with its last lock, as its reader is done with it */
	assert_int_equal(release(f->s, "r", 0, 7, 0, 1, 11), 7);
	assert_int_equal(fix_stats(f->store).objects, 3);
	assert_true(sessions_end(f->s, slice_str("r"), 1, 12));
	assert_int_equal(t.cancels, 0);
}

static void test_02_chunks_completed_from_below(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;
	struct session_hits hits;

	use(f, &t);
	fix_put(f->store, MODEL, 3, 0, 0, 3, UNIT);
	fix_put(f->store, MODEL, 3, 1, 0, 3, UNIT);
	fix_put(f->store, MODEL, 3, 2, 0, 2, UNIT);
	hits = ask(f, "r", 6, 3, 2, 0);
	assert_true(hits.pending);
	assert_int_equal(hits.chunks, 2);
	assert_int_equal(hits.objects, 8);
	assert_int_equal(t.first, 8);
	assert_int_equal(t.asked.name, 102);
	assert_int_equal(locked(f), 8);
	assert_true(load(f, &t, t.id, 5)); /* chunk 2 whole, chunk 3 whole, one of chunk 4 */
	assert_int_equal(query_of(f, "r", true), 4);
	assert_int_equal(locked(f), 12);
	assert_int_equal(t.last.l1_chunks, 2);
	assert_int_equal(release(f->s, "r", 0, 6, -1, 2, 11), 12);
	assert_int_equal(locked(f), 0);
}

static void test_03_nothing_came(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;

	use(f, &t);
	fix_put(f->store, MODEL, 2, 0, 0, 2, UNIT);
	fix_put(f->store, MODEL, 2, 1, 0, 1, UNIT);
	assert_true(ask(f, "r", 6, 2, 1, 0).pending);
	assert_int_equal(locked(f), 3);
	assert_true(load(f, &t, t.id, 0));
	assert_int_equal(query_of(f, "r", true), 1);
	assert_int_equal(locked(f), 2);
}

static void test_04_no_job_where_none_is_due(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;
	struct session_lookup l = want(f, "r", 5, 1, 1, 0);
	struct session_hits hits;

	use(f, &t);
	fix_put(f->store, MODEL, 1, 0, 0, 5, UNIT);
	assert_false(ask(f, "r", 5, 1, 1, 0).pending); /* all is in L1 */
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	t.has = false;
	assert_false(ask(f, "r", 6, 1, 1, 0).pending);
	t.has = true;
	t.err = -EAGAIN;
	assert_false(ask(f, "r", 6, 1, 1, 0).pending);
	assert_int_equal(query_of(f, "r", true), 5);
	t.err = 0;
	l.nchunks = 6; /* no layout */
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_false(hits.pending);
	assert_int_equal(t.jobs, 0);
	assert_int_equal(t.cancels, 0);
}

static void give_up_end(struct fix *f)
{
	sessions_end(f->s, slice_str("r"), 1, 5);
}

static void give_up_lookup(struct fix *f)
{
	struct session_lookup l = want(f, "r", 2, 1, 1, 5);
	struct session_hits hits;

	l.forms = &form;
	l.nforms = 1;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	assert_false(hits.pending);
}

static void give_up_death(struct fix *f)
{
	assert_int_equal(sessions_orphan(f->s, 1, slice_of("", 0), 1, 5), 1);
}

static void give_up_ttl(struct fix *f)
{
	assert_int_equal(sessions_sweep(f->s, TTL_MS + 1), 1);
}

static void give_up_tier(struct fix *f)
{
	sessions_use(f->s, NULL);
}

/* However it is given up: the tier hears of it once, its late answer is not taken, and no lock stays. */
static void test_05_giving_up(void **state)
{
	static void (*const ways[])(struct fix *) = {give_up_end, give_up_lookup, give_up_death, give_up_ttl,
						     give_up_tier};
	struct fix *f = *state;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct fake_tier t;

		use(f, &t);
		store_clear(f->store);
		fix_put(f->store, MODEL, 1, 0, 0, 2, UNIT);
		assert_true(ask(f, "r", 8, 1, 1, 0).pending);
		ways[i](f);
		assert_int_equal(t.cancels, 1);
		assert_int_equal(t.cancelled, t.id);
		assert_int_equal(t.dones, 1);
		assert_int_equal(counts(f).pending, 0);
		sessions_found(f->s, t.id, 6);
		assert_false(load(f, &t, t.id, 4));
		assert_int_equal(query_of(f, "r", true), ways[i] == give_up_lookup ? 2 : 0);
		sessions_end(f->s, slice_str("r"), 1, 6);
		assert_int_equal(locked(f), 0);
		assert_int_equal(t.cancels, 1);
	}
}

/* Locks given back while more is loading: the places of the objects must not shift. */
static void test_06_release_while_pending(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;
	store_obj objs[8];
	store_ns ns;
	uint32_t missing;

	use(f, &t);
	fix_put(f->store, MODEL, 1, 0, 0, 3, UNIT);
	assert_true(ask(f, "r", 8, 1, 1, 0).pending);
	assert_int_equal(release(f->s, "r", 0, 8, -1, 1, 1), 3);
	assert_int_equal(locked(f), 0);
	assert_true(load(f, &t, t.id, 2));
	assert_int_equal(query_of(f, "r", true), 5);
	ns = store_ns_find(f->store, slice_str(MODEL), 1 << 24 | 1 << 8, 0, slice_of("", 0), form.layout);
	assert_int_equal(store_lock_all(f->store, ns, f->h, 5, UNIT, 2, objs, &missing), 0);
	assert_true(holds(f->s, "r", 3, 2, 0, objs + 3));
	assert_false(holds(f->s, "r", 0, 5, 0, objs));
	store_unlock(f->store, objs, NULL, 5, 2);
	assert_int_equal(release(f->s, "r", 3, 2, 0, 1, 3), 2);
	assert_int_equal(locked(f), 0);
}

static void test_07_waiting(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;
	uint64_t job, first;

	use(f, &t);
	fix_put(f->store, MODEL, 1, 0, 0, 1, UNIT);
	first = ask(f, "r", 4, 1, 1, 0).job_id;
	assert_int_equal(sessions_wait(f->s, slice_str("r"), 1, &job), SESSION_PENDING);
	assert_int_equal(job, first);
	assert_true(load(f, &t, t.id, 3));
	assert_int_equal(sessions_query_job(f->s, job, true), 4);
	assert_int_equal(sessions_query_job(f->s, job, true), 0);
	assert_int_equal(sessions_wait(f->s, slice_str("x"), 1, &job), 0);
	assert_int_equal(job, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_01_pending_then_loaded),
					   T(test_02_chunks_completed_from_below),
					   T(test_03_nothing_came),
					   T(test_04_no_job_where_none_is_due),
					   T(test_05_giving_up),
					   T(test_06_release_while_pending),
					   T(test_07_waiting)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
