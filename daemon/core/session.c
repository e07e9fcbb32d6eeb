#include "daemon/core/session.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/core/session_int.h"

#include <errno.h>
#include <string.h>

/* api.py: local values equal the global ones. */
uint32_t session_kv_rank(uint32_t world_size, uint32_t rank)
{
	return world_size << 24 | rank << 16 | world_size << 8 | rank;
}

struct slice session_model(const struct session *x)
{
	return slice_of(x->names, x->model_bytes);
}

struct slice session_salt(const struct session *x)
{
	return slice_of(x->names + x->model_bytes, x->salt_bytes);
}

/* ---- LOOKUP ---------------------------------------------------------------------------------------------------- */

static int take_names(struct session *x, const struct session_lookup *l)
{
	size_t n = l->model.n + l->salt.n + (size_t)l->nforms * SEG_DIGEST, at = l->model.n + l->salt.n;

	x->model_bytes = x->salt_bytes = x->nforms = 0;
	if (n > x->names_cap) {
		char *grown = mem_realloc(x->names, n);
		if (!grown)
			return -ENOMEM;
		x->names = grown;
		x->names_cap = n;
	}
	if (l->model.n)
		memcpy(x->names, l->model.p, l->model.n);
	if (l->salt.n)
		memcpy(x->names + l->model.n, l->salt.p, l->salt.n);
	for (uint32_t i = 0; i < l->nforms; i++, at += SEG_DIGEST)
		memcpy(x->names + at, l->forms[i].layout, SEG_DIGEST);
	x->model_bytes = l->model.n;
	x->salt_bytes = l->salt.n;
	x->nforms = l->nforms;
	return 0;
}

/* Without room the prompt merely ages by its parts. */
static void take_prompt(struct sessions *s, struct session *x, const struct store_hash *hashes, uint32_t nchunks)
{
	session_forget_prompt(s, x);
	if (!nchunks || s->nhashes + nchunks > PROMPTS_MAX ||
	    session_reserve(&x->hashes, &x->hash_cap, nchunks, sizeof(*x->hashes)))
		return;
	memcpy(x->hashes, hashes, nchunks * sizeof(*hashes));
	x->nchunks = nchunks;
	s->nhashes += nchunks;
}

const uint8_t *session_layout(const struct sessions *s, const struct session_lookup *l, uint32_t rank)
{
	return l->nforms > 1 ? l->forms[s->form[rank]].layout : l->nforms ? l->forms[0].layout : NULL;
}

uint64_t session_bytes(const struct sessions *s, const struct session_lookup *l, uint32_t rank)
{
	return l->nforms > 1 ? l->forms[s->form[rank]].object_bytes : l->object_bytes;
}

/* References to the namespaces of the ranks in s->ns, so that their ids stay theirs until the objects are locked. Looked for
 * first, so that lookups of what is not there make none; 0 = not there. */
static void get_ranks(struct sessions *s, const struct session_lookup *l)
{
	const uint8_t *layout = session_layout(s, l, 0);

	for (uint32_t r = 0; r < l->world_size; r++) {
		uint32_t rank = session_kv_rank(l->world_size, r);

		s->ns[r] = store_ns_find(s->store, l->model, rank, 0, l->salt, layout);
		if (s->ns[r])
			s->ns[r] = store_ns_get(s->store, l->model, rank, 0, l->salt, layout);
	}
}

static void put_ranks(struct sessions *s, uint32_t world_size)
{
	for (uint32_t r = 0; r < world_size; r++)
		store_ns_put(s->store, s->ns[r]);
}

/* The locked objects s->objs[0, n) become the session's. */
static int keep_locks(struct sessions *s, struct session *x, uint32_t n, uint16_t locks)
{
	if (s->nobjs + n > LOCKS_MAX || session_reserve(&x->objs, &x->obj_cap, n, sizeof(*x->objs)) ||
	    session_reserve(&x->left, &x->left_cap, n, sizeof(*x->left)))
		return -ENOMEM;
	if (n) {
		memcpy(x->objs, s->objs, n * sizeof(*x->objs));
		memcpy(x->left, s->counts, n * sizeof(*x->left));
	}
	x->nobjs = n;
	x->held = (uint64_t)n * locks;
	s->nobjs += n;
	return 0;
}

/* Locks the hit prefix. What L1 lacks is asked of the tier below; without one, or when it has nothing, objects of a chunk that is not
 * complete on all ranks are released at once. */
static int take_locks(struct sessions *s, struct session *x, const struct session_lookup *l, struct session_hits *out)
{
	uint32_t most = SESSION_LOOKUP_OBJECTS / l->world_size, found;
	uint32_t nchunks = l->nchunks < most ? l->nchunks : most;
	uint64_t bytes = l->object_bytes == SESSION_ANY_SIZE ? 0 : l->object_bytes; /* a form implies a size */
	int err;

	if (l->nforms > 1)
		session_choose(s, l, nchunks);
	else
		get_ranks(s, l);
	found = store_lock_prefix(s->store, s->ns, l->world_size, l->hashes, nchunks, l->locks, bytes, l->now_ms,
				  s->objs);
	put_ranks(s, l->world_size);
	for (uint32_t i = 0; i < found; i++)
		s->counts[i] = l->locks;
	err = keep_locks(s, x, found, l->locks);
	if (err) {
		store_unlock(s->store, s->objs, s->counts, found, l->now_ms);
		return err;
	}
	out->objects = found;
	out->chunks = found / l->world_size;
	x->asked = nchunks * l->world_size;
	if (s->has_tier && l->nforms) {
		session_tell_hits(s, l, out->chunks);
		out->pending = found < x->asked && session_ask_tier(s, x, l, found);
	}
	if (!out->pending)
		session_settle(s, x, l->now_ms);
	return 0;
}

int sessions_lookup(struct sessions *s, const struct session_lookup *l, struct session_hits *out)
{
	struct session *x;
	int err;

	check(l->world_size > 0 && l->world_size <= SESSION_WORLD);
	*out = (struct session_hits){0};
	lk_lock(&s->lk);
	err = session_obtain(s, l->request_id, l->owner, l->now_ms, &x);
	if (!err) {
		session_release_all(s, x, l->now_ms);
		x->world_size = l->world_size;
		x->locks = l->locks;
		session_forget_prompt(s, x);
		session_new_job(s, x);
		err = take_names(x, l);
		if (!err && l->object_bytes && l->nchunks)
			err = take_locks(s, x, l, out);
		if (!err)
			take_prompt(s, x, l->hashes, l->nchunks);
		out->job_id = x->job_id;
	}
	lk_unlock(&s->lk);
	return err;
}

static uint32_t query(struct sessions *s, struct session *x, bool take)
{
	uint32_t hits = x && x->job ? x->hits : 0;

	if (x && x->pending && (take || !x->found_known))
		return SESSION_PENDING;
	if (x && take)
		session_drop_job(s, x);
	return hits;
}

uint32_t sessions_query(struct sessions *s, struct slice request_id, uint64_t owner, bool take)
{
	lk_lock(&s->lk);
	uint32_t hits = query(s, session_find(s, request_id, owner, false), take);
	lk_unlock(&s->lk);
	return hits;
}

uint32_t sessions_query_job(struct sessions *s, uint64_t job_id, bool take)
{
	lk_lock(&s->lk);
	uint32_t hits = query(s, session_of_job(s, job_id), take);
	lk_unlock(&s->lk);
	return hits;
}

uint32_t sessions_wait(struct sessions *s, struct slice request_id, uint64_t owner, uint64_t *job_id)
{
	struct session *x;
	uint32_t hits;

	lk_lock(&s->lk);
	x = session_find(s, request_id, owner, false);
	*job_id = x ? x->job_id : 0;
	hits = query(s, x, true);
	lk_unlock(&s->lk);
	return hits;
}

/* ---- giving back ------------------------------------------------------------------------------------------------- */

static bool holds(const struct session *x, const struct session_range *r)
{
	uint32_t chunks = x->world_size ? x->nobjs / x->world_size : 0;

	if (!x->held || r->rank < 0 || (uint32_t)r->rank >= x->world_size || r->n > chunks || r->first > chunks - r->n)
		return false;
	for (uint32_t i = 0; i < r->n; i++) {
		uint32_t at = (r->first + i) * x->world_size + (uint32_t)r->rank;

		if (x->left[at] == 0 || x->objs[at] != r->objs[i])
			return false;
	}
	return true;
}

/* The session a range means: see session.h. Without `objs` and without a session of its own, a worker means the only one. */
static struct session *pick(struct sessions *s, const struct session_range *r)
{
	struct session *x = session_find(s, r->request_id, r->owner, false);

	if (!r->objs)
		return x && r->rank >= 0 && x->owner != r->owner && session_next_alike(x) ? NULL : x;
	if (!x || holds(x, r))
		return x;
	for (x = session_find(s, r->request_id, 0, false); x && !holds(x, r);)
		x = session_next_alike(x);
	return x;
}

bool sessions_holds(struct sessions *s, const struct session_range *r)
{
	struct session *x;
	bool ok;

	lk_lock(&s->lk);
	x = pick(s, r);
	ok = x && holds(x, r);
	lk_unlock(&s->lk);
	return ok;
}

static uint32_t release_one(struct sessions *s, struct session *x, uint32_t i, uint16_t count, uint64_t now_ms)
{
	uint16_t give = x->left[i] < count ? x->left[i] : count;

	if (!give)
		return 0;
	store_unlock(s->store, &x->objs[i], &give, 1, now_ms);
	x->left[i] = (uint16_t)(x->left[i] - give);
	x->held -= give;
	return 1;
}

uint32_t sessions_release(struct sessions *s, const struct session_range *r, uint16_t count, uint64_t now_ms)
{
	struct session *x;
	uint32_t done = 0;

	lk_lock(&s->lk);
	x = pick(s, r);
	if (x && x->held && r->rank < (int)x->world_size) {
		uint32_t ws = x->world_size, chunks = x->nobjs / ws;
		uint32_t end = r->n < chunks && r->first < chunks - r->n ? r->first + r->n : chunks;
		uint32_t from = r->rank < 0 ? 0 : (uint32_t)r->rank, to = r->rank < 0 ? ws : (uint32_t)r->rank + 1;

		session_renew(s, x, now_ms);
		/* tail first: what becomes free last is the youngest */
		for (uint32_t c = end; c-- > r->first;) {
			for (uint32_t rank = from; rank < to; rank++)
				done += release_one(s, x, c * ws + rank, count, now_ms);
		}
		if (!x->held && !x->pending)
			session_release_all(s, x, now_ms);
	}
	lk_unlock(&s->lk);
	return done;
}

/* ---- the prompt ---------------------------------------------------------------------------------------------------- */

static bool continues(const struct session *x, const struct store_hash *hashes, uint32_t nchunks)
{
	return nchunks > x->nchunks &&
	       (x->nchunks == 0 || memcmp(&x->hashes[x->nchunks - 1], &hashes[x->nchunks - 1], sizeof(*hashes)) == 0);
}

void sessions_extend(struct sessions *s, struct slice request_id, const struct store_hash *hashes, uint32_t nchunks)
{
	struct session *x;

	lk_lock(&s->lk);
	x = session_find(s, request_id, 0, false);
	while (x && !continues(x, hashes, nchunks))
		x = session_next_alike(x);
	if (x)
		take_prompt(s, x, hashes, nchunks);
	lk_unlock(&s->lk);
}

static void touch_form(struct sessions *s, const struct session *x, const uint8_t *layout, uint64_t now_ms)
{
	uint32_t most = x->world_size ? SESSION_LOOKUP_OBJECTS / x->world_size : 0;
	bool any = false;

	for (uint32_t r = 0; r < x->world_size; r++) {
		s->ns[r] = store_ns_find(s->store, session_model(x), session_kv_rank(x->world_size, r), 0,
					 session_salt(x), layout);
		any |= s->ns[r] != 0;
	}
	if (any)
		store_touch(s->store, s->ns, x->world_size, x->hashes, x->nchunks < most ? x->nchunks : most, now_ms);
}

static void touch(struct sessions *s, const struct session *x, uint64_t now_ms)
{
	const char *layouts = x->names + x->model_bytes + x->salt_bytes;

	if (!x->nforms)
		touch_form(s, x, NULL, now_ms);
	for (uint32_t i = 0; i < x->nforms; i++)
		touch_form(s, x, (const uint8_t *)layouts + (size_t)i * SEG_DIGEST, now_ms);
}

bool sessions_end(struct sessions *s, struct slice request_id, uint64_t owner, uint64_t now_ms)
{
	struct session *x;
	bool found = false;

	lk_lock(&s->lk);
	while ((x = session_find(s, request_id, owner, false))) {
		found = true;
		session_release_all(s, x, now_ms);
		touch(s, x, now_ms);
		session_remove(s, x, now_ms);
		if (owner)
			break;
	}
	lk_unlock(&s->lk);
	return found;
}

uint32_t sessions_orphan(struct sessions *s, uint64_t owner, struct slice model, uint32_t world_size, uint64_t now_ms)
{
	uint32_t n = 0;

	lk_lock(&s->lk);
	for (struct session *x = s->oldest; x; x = x->younger) {
		bool served = model.n && x->world_size == world_size && slice_eq(session_model(x), model);

		if ((x->held || x->pending) && (x->owner == owner || served)) {
			session_release_all(s, x, now_ms);
			n++;
		}
	}
	lk_unlock(&s->lk);
	return n;
}
