/* Random requests against a model that keeps every single lock by itself. After each step the store must hold exactly the
 * locks that the model says, object by object: a lock too few lets eviction take what a request is about to read, a lock too many
 * keeps memory for ever.
 */
#include "daemon/core/session.h"

#include "tests/unit/daemon/core/fixture.h"

#define MODEL    "m"
#define TTL_MS   3000u
#define IDLE_MS  600000u
#define IDS      6u
#define CHUNKS   10u /* of a prompt */
#define PROMPTS  4u
#define SHARED   4u /* leading chunks all prompts have in common */
#define WORLDS   3u /* world sizes 1, 2, 3 */
#define HASHES   (PROMPTS * CHUNKS)
#define MAX_OBJS 4096u /* generations of objects in one run */

/* One generation of an object: stored, perhaps cleared while locked, never the same again. */
struct obj {
	bool keyed;
	uint32_t locks;
};

struct req {
	bool exists, job;
	uint32_t world_size, nobjs, hits, prompt;
	uint64_t owner, locked_ms, used_ms, job_id;
	struct obj *obj[CHUNKS * WORLDS];
	uint32_t left[CHUNKS * WORLDS];
};

struct model {
	struct fix_store fs;
	struct store *store;
	struct sessions *s;
	struct rnd r;
	uint64_t now;
	uint16_t all_locks;                           /* what an object can hold */
	struct obj *here[WORLDS + 1][WORLDS][HASHES]; /* by world size, rank, hash: what has the key now */
	struct obj pool[MAX_OBJS];
	uint32_t used;
	struct req req[IDS];
	uint64_t last_job, expired;
	struct {
		uint64_t hits, detached, holds, expired, orphans;
	} seen; /* over all runs: a test that meets none of them shows nothing */
};

/* The shared head, then a tail of its own. */
static uint32_t hash_of(uint32_t prompt, uint32_t chunk)
{
	return chunk < SHARED ? chunk : prompt * CHUNKS + chunk;
}

static struct slice id_of(uint32_t i)
{
	static const char *const ids[IDS] = {"a", "b", "cmpl-0123456789abcdef-0", "d", "", "f"};

	return slice_str(ids[i]);
}

/* Connections ask for several requests. */
static uint64_t owner_of(uint32_t i)
{
	return 1 + i % 3;
}

static store_ns ns_of(struct model *m, uint32_t world_size, uint32_t rank)
{
	return store_ns_find(m->store, slice_str(MODEL), kv_rank(world_size, rank), 0, slice_of("", 0), NULL);
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static void model_unlock(struct req *q, uint32_t i, uint32_t n)
{
	q->left[i] -= n;
	q->obj[i]->locks -= n;
}

static bool model_held(const struct req *q)
{
	for (uint32_t i = 0; i < q->nobjs; i++) {
		if (q->left[i])
			return true;
	}
	return false;
}

static void model_release_all(struct req *q)
{
	for (uint32_t i = 0; i < q->nobjs; i++)
		model_unlock(q, i, q->left[i]);
	q->nobjs = 0;
}

static void model_end(struct req *q)
{
	model_release_all(q);
	*q = (struct req){0};
}

/* ---- exactness -------------------------------------------------------------------------------------------------- */

/* How many locks an object has: as many as are missing to what it can hold. */
static uint32_t locks_of(struct model *m, store_ns ns, const struct store_hash *h)
{
	uint32_t low = 0, high = m->all_locks; /* low more fit, high + 1 do not */
	store_obj o;

	while (low < high) {
		uint16_t mid = (uint16_t)((low + high + 1) / 2);

		if (store_lock_prefix(m->store, &ns, 1, h, 1, mid, 0, 0, &o) == 1) {
			store_unlock(m->store, &o, &mid, 1, 0);
			low = mid;
		} else {
			high = mid - 1u;
		}
	}
	return m->all_locks - low;
}

static void check_object(struct model *m, uint32_t ws, uint32_t rank, uint32_t hash)
{
	const struct obj *o = m->here[ws][rank][hash];
	struct store_hash h = hash_no(hash);
	store_ns ns = ns_of(m, ws, rank);
	bool there = ns && store_peek_prefix(m->store, &ns, 1, &h, 1, UNIT) == 1;

	assert_int_equal(there, o != NULL);
	if (o && locks_of(m, ns, &h) != o->locks)
		fail_msg("world size %u rank %u hash %u: %u locks, the model has %u", ws, rank, hash,
			 locks_of(m, ns, &h), o->locks);
}

static void check_all(struct model *m, bool every_object)
{
	uint64_t locked = 0, detached = 0, active = 0, jobs = 0;
	struct store_stats st = fix_stats(m->store);
	struct sessions_stats ss;

	for (uint32_t i = 0; i < m->used; i++) {
		locked += m->pool[i].keyed && m->pool[i].locks;
		detached += !m->pool[i].keyed && m->pool[i].locks;
	}
	for (uint32_t i = 0; i < IDS; i++) {
		active += m->req[i].exists;
		jobs += m->req[i].job;
	}
	sessions_stats(m->s, &ss);
	assert_int_equal(st.locked, locked);
	assert_int_equal(st.detached, detached);
	m->seen.detached += detached;
	assert_int_equal(ss.active, active);
	assert_int_equal(ss.jobs, jobs);
	assert_int_equal(ss.locks_expired, m->expired);
	for (uint32_t ws = 1; every_object && ws <= WORLDS; ws++) {
		for (uint32_t rank = 0; rank < ws; rank++) {
			for (uint32_t h = 0; h < HASHES; h++)
				check_object(m, ws, rank, h);
		}
	}
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static void step_put(struct model *m)
{
	uint32_t ws = 1 + rnd_below(&m->r, WORLDS), rank = rnd_below(&m->r, ws), prompt = rnd_below(&m->r, PROMPTS);
	store_ns ns = store_ns_get(m->store, slice_str(MODEL), kv_rank(ws, rank), 0, slice_of("", 0), NULL);

	for (uint32_t c = rnd_below(&m->r, 2), end = rnd_below(&m->r, CHUNKS + 1); c < end; c++) {
		struct store_hash h = hash_no(hash_of(prompt, c));
		struct obj **here = &m->here[ws][rank][hash_of(prompt, c)];
		store_obj o;
		struct store_reserve_result res = store_reserve(m->store, ns, &h, 1, UNIT, NODE_UNKNOWN, m->now, &o);

		assert_int_equal(res.reserved, *here == NULL);
		if (*here)
			continue;
		assert_int_equal(store_commit(m->store, &o, 1, m->now), 1);
		assert_true(m->used < MAX_OBJS);
		*here = &m->pool[m->used++];
		**here = (struct obj){.keyed = true};
	}
	store_ns_put(m->store, ns);
}

static void model_forget(struct model *m, uint32_t ws, uint32_t rank, uint32_t hash)
{
	if (m->here[ws][rank][hash])
		m->here[ws][rank][hash]->keyed = false;
	m->here[ws][rank][hash] = NULL;
}

static void step_remove(struct model *m)
{
	uint32_t ws = 1 + rnd_below(&m->r, WORLDS), rank = rnd_below(&m->r, ws), hash = rnd_below(&m->r, HASHES);
	struct store_hash h = hash_no(hash);
	store_ns ns = ns_of(m, ws, rank);

	if (rnd_below(&m->r, 12) == 0) {
		store_clear(m->store);
		for (ws = 1; ws <= WORLDS; ws++) {
			for (rank = 0; rank < ws; rank++) {
				for (hash = 0; hash < HASHES; hash++)
					model_forget(m, ws, rank, hash);
			}
		}
	} else if (ns) {
		assert_int_equal(store_delete(m->store, ns, &h, true), m->here[ws][rank][hash] ? 0 : -ENOENT);
		model_forget(m, ws, rank, hash);
	}
}

static void step_lookup(struct model *m)
{
	static const uint64_t sizes[] = {UNIT, UNIT, UNIT, SESSION_ANY_SIZE, 0, UNIT + 1};
	uint32_t i = rnd_below(&m->r, IDS), prompt = rnd_below(&m->r, PROMPTS), n = 0;
	struct req *q = &m->req[i];
	struct store_hash h[CHUNKS];
	struct session_lookup l = {.request_id = id_of(i),
				   .model = slice_str(MODEL),
				   .salt = slice_of("", 0),
				   .owner = owner_of(i),
				   .world_size = 1 + rnd_below(&m->r, WORLDS),
				   .locks = (uint16_t)(1 + rnd_below(&m->r, 3)),
				   .object_bytes = sizes[rnd_below(&m->r, 6)],
				   .hashes = h,
				   .nchunks = rnd_below(&m->r, CHUNKS + 1),
				   .now_ms = m->now};
	bool fits = l.object_bytes == UNIT || l.object_bytes == SESSION_ANY_SIZE;
	struct session_hits hits;

	for (uint32_t c = 0; c < l.nchunks; c++)
		h[c] = hash_no(hash_of(prompt, c));
	if (q->exists)
		model_release_all(q);
	while (fits && n < l.nchunks * l.world_size &&
	       m->here[l.world_size][n % l.world_size][hash_of(prompt, n / l.world_size)])
		n++;
	assert_int_equal(sessions_lookup(m->s, &l, &hits), 0);
	assert_int_equal(hits.objects, n);
	assert_int_equal(hits.chunks, n / l.world_size);
	m->seen.hits += hits.chunks;
	assert_true(hits.job_id > m->last_job);
	*q = (struct req){.exists = true,
			  .job = true,
			  .world_size = l.world_size,
			  .nobjs = n / l.world_size * l.world_size,
			  .hits = hits.chunks,
			  .prompt = prompt,
			  .owner = l.owner,
			  .locked_ms = m->now,
			  .used_ms = m->now,
			  .job_id = hits.job_id};
	m->last_job = hits.job_id;
	for (uint32_t k = 0; k < q->nobjs; k++) {
		q->obj[k] = m->here[l.world_size][k % l.world_size][hash_of(prompt, k / l.world_size)];
		q->left[k] = l.locks;
		q->obj[k]->locks += l.locks;
	}
}

static void step_release(struct model *m)
{
	uint32_t i = rnd_below(&m->r, IDS), first = rnd_below(&m->r, CHUNKS + 2), n = rnd_below(&m->r, CHUNKS + 2);
	uint32_t done = 0, ws;
	int rank = (int)rnd_below(&m->r, WORLDS + 2) - 1;
	uint16_t count = (uint16_t)rnd_below(&m->r, 4);
	struct req *q = &m->req[i];

	if (q->exists && model_held(q) && rank < (int)q->world_size) {
		ws = q->world_size;
		q->used_ms = m->now;
		for (uint32_t c = first; c < first + n && c < q->nobjs / ws; c++) {
			for (uint32_t r = 0; r < ws; r++) {
				uint32_t k = c * ws + r, give = q->left[k] < count ? q->left[k] : count;

				if (rank >= 0 && r != (uint32_t)rank)
					continue;
				done += give > 0;
				model_unlock(q, k, give);
			}
		}
	}
	struct session_range range = {id_of(i), owner_of(i), first, n, rank, NULL};

	assert_int_equal(sessions_release(m->s, &range, count, m->now), done);
}

static void step_end(struct model *m)
{
	uint32_t i = rnd_below(&m->r, IDS);

	assert_int_equal(sessions_end(m->s, id_of(i), owner_of(i), m->now), m->req[i].exists);
	model_end(&m->req[i]);
}

static void step_orphan(struct model *m)
{
	uint64_t owner = rnd_below(&m->r, 4);
	uint32_t ws = 1 + rnd_below(&m->r, WORLDS), n = 0;
	bool model = rnd_below(&m->r, 4) == 0;

	for (uint32_t i = 0; i < IDS; i++) {
		struct req *q = &m->req[i];

		if (q->exists && model_held(q) && (q->owner == owner || (model && q->world_size == ws))) {
			model_release_all(q);
			n++;
		}
	}
	m->seen.orphans += n;
	assert_int_equal(sessions_orphan(m->s, owner, slice_str(model ? MODEL : ""), ws, m->now), n);
}

static void step_sweep(struct model *m)
{
	uint32_t n = 0;

	m->now += rnd_below(&m->r, 30) ? rnd_below(&m->r, TTL_MS) : IDLE_MS;
	for (uint32_t i = 0; i < IDS; i++) {
		struct req *q = &m->req[i];

		if (q->exists && model_held(q) && m->now - q->locked_ms > TTL_MS && m->now - q->used_ms > TTL_MS) {
			model_release_all(q);
			n++;
		}
		if (q->exists && !model_held(q) && m->now - q->used_ms > IDLE_MS)
			model_end(q);
	}
	m->expired += n;
	m->seen.expired += n;
	assert_int_equal(sessions_sweep(m->s, m->now), n);
}

static void step_query(struct model *m)
{
	uint32_t i = rnd_below(&m->r, IDS);
	struct req *q = &m->req[i];
	uint32_t hits = q->job ? q->hits : 0;
	bool take = rnd_below(&m->r, 2);

	if (rnd_below(&m->r, 2))
		assert_int_equal(sessions_query(m->s, id_of(i), owner_of(i), take), hits);
	else
		assert_int_equal(sessions_query_job(m->s, q->job_id, take), hits);
	if (take)
		q->job = false;
}

/* As RETRIEVE does: lock what has the keys now, ask whether the request holds just that, unlock. */
static void step_holds(struct model *m)
{
	uint32_t i = rnd_below(&m->r, IDS);
	struct req *q = &m->req[i];
	bool own = q->exists && rnd_below(&m->r, 4);
	uint32_t prompt = own ? q->prompt : rnd_below(&m->r, PROMPTS);
	uint32_t ws = own ? q->world_size : 1 + rnd_below(&m->r, WORLDS), rank = rnd_below(&m->r, ws);
	uint32_t first = rnd_below(&m->r, 3), n = rnd_below(&m->r, 5);
	bool want = q->exists && model_held(q) && rank < q->world_size;
	store_ns ns = ns_of(m, ws, rank);
	struct store_hash h[CHUNKS];
	store_obj o[CHUNKS];

	for (uint32_t c = 0; c < n; c++)
		h[c] = hash_no(hash_of(prompt, first + c));
	if (!ns || store_lock_all(m->store, ns, h, n, UNIT, m->now, o, NULL))
		return;
	want = want && first + n <= q->nobjs / q->world_size;
	for (uint32_t c = 0; want && c < n; c++) {
		uint32_t k = (first + c) * q->world_size + rank;

		want = q->left[k] && q->obj[k] == m->here[ws][rank][hash_of(prompt, first + c)];
	}
	struct session_range range = {id_of(i), owner_of(i), first, n, (int)rank, o};

	assert_int_equal(sessions_holds(m->s, &range), want);
	m->seen.holds += want && n;
	store_unlock(m->store, o, NULL, n, m->now);
}

static void step(struct model *m)
{
	static void (*const steps[])(struct model *) = {step_put,    step_put,     step_put,   step_lookup, step_lookup,
							step_lookup, step_release, step_query, step_holds,  step_holds,
							step_remove, step_end,     step_sweep, step_orphan};

	m->now += rnd_below(&m->r, 20);
	steps[rnd_below(&m->r, sizeof(steps) / sizeof(steps[0]))](m);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

static void start(struct model *m, const struct rnd *r)
{
	struct store_hash h = hash_no(999);
	store_obj o[2];
	uint16_t more = 1;
	store_ns ns;

	memset(m, 0, offsetof(struct model, seen));
	m->r = *r;
	m->now = 1000;
	fix_store_open(&m->fs, 4);
	m->store = m->fs.store;
	assert_int_equal(sessions_create(m->store, TTL_MS, &m->s), 0);
	fix_put(m->store, "probe", 1, 0, 999, 1, UNIT); /* what one object can hold */
	ns = store_ns_find(m->store, slice_str("probe"), kv_rank(1, 0), 0, slice_of("", 0), NULL);
	for (uint32_t bit = 1u << 15; bit; bit >>= 1) {
		more = (uint16_t)(m->all_locks | bit);
		if (store_lock_prefix(m->store, &ns, 1, &h, 1, more, 0, 0, o) == 1) {
			store_unlock(m->store, o, &more, 1, 0);
			m->all_locks = more;
		}
	}
	assert_true(m->all_locks >= 1000);
	assert_int_equal(store_delete(m->store, ns, &h, false), 0);
}

static void finish(struct model *m)
{
	for (uint32_t i = 0; i < IDS; i++) {
		sessions_end(m->s, id_of(i), owner_of(i), m->now);
		model_end(&m->req[i]);
	}
	check_all(m, true);
	assert_int_equal(fix_stats(m->store).locked, 0);
	assert_int_equal(fix_stats(m->store).detached, 0);
	sessions_destroy(m->s);
	fix_store_close(&m->fs);
}

static void test_1_the_store_holds_what_the_model_holds(void **state)
{
	struct rnd r = rnd_start("model");
	struct model *m = calloc(1, sizeof(*m));
	(void)state;

	assert_non_null(m);
	for (int run = 0; run < 60; run++) {
		start(m, &r);
		for (int i = 0; i < 400; i++) {
			step(m);
			check_all(m, i % 50 == 0);
			check_object(m, 2, rnd_below(&m->r, 2), rnd_below(&m->r, HASHES));
		}
		finish(m);
		r = m->r;
	}
	assert_true(m->seen.hits > 1000 && m->seen.detached > 1000 && m->seen.holds > 100);
	assert_true(m->seen.expired > 100 && m->seen.orphans > 100);
	free(m);
}

/* Destroying the sessions must give back whatever they hold. */
static void test_2_destroy_gives_everything_back(void **state)
{
	struct rnd r = rnd_start("destroy");
	struct model *m = malloc(sizeof(*m));
	(void)state;

	assert_non_null(m);
	for (int run = 0; run < 20; run++) {
		start(m, &r);
		for (int i = 0; i < 150; i++)
			step(m);
		sessions_destroy(m->s);
		assert_int_equal(fix_stats(m->store).locked, 0);
		assert_int_equal(fix_stats(m->store).detached, 0);
		fix_store_close(&m->fs);
		r = m->r;
	}
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_the_store_holds_what_the_model_holds),
		cmocka_unit_test(test_2_destroy_gives_everything_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
