/* session_tier.c - lookups that go on below L1: starting them, what the tier answers, giving them up. */
#include "daemon/base/check.h"
#include "daemon/core/session_int.h"

#include <errno.h>
#include <string.h>

void sessions_use(struct sessions *s, const struct sessions_tier *tier)
{
	lk_lock(&s->lk);
	for (struct session *x = s->oldest; x && s->pending; x = x->younger)
		session_cancel(s, x);
	s->has_tier = tier != NULL;
	s->tier = tier ? *tier : (struct sessions_tier){0};
	lk_unlock(&s->lk);
}

/* ---- LOOKUP ---------------------------------------------------------------------------------------------------- */

bool session_below_has(struct sessions *s, const struct session_lookup *l, const struct session_form *f, uint32_t rank,
		       const struct store_hash *hash)
{
	struct seg_key key = {.hash = *hash};

	key.name = s->tier.name(s->tier.ctx, l->model, session_kv_rank(l->world_size, rank), l->salt, f->layout);
	return key.name && s->tier.may_have(s->tier.ctx, &key, f->object_bytes);
}

/* Numbers of all ranks in s->names, and sizes. A rank without one has nothing below L1, so no chunk can be completed from there. */
static bool find_names(struct sessions *s, const struct session_lookup *l)
{
	bool all = true;

	for (uint32_t r = 0; all && r < l->world_size; r++) {
		s->bytes[r] = session_bytes(s, l, r);
		s->names[r] = s->tier.name(s->tier.ctx, l->model, session_kv_rank(l->world_size, r), l->salt,
					   session_layout(s, l, r));
		all = s->names[r] != 0;
	}
	return all;
}

/* References to the ranks' namespaces in s->ns, for the tier. */
static bool make_ranks(struct sessions *s, const struct session_lookup *l)
{
	for (uint32_t r = 0; r < l->world_size; r++) {
		s->ns[r] = store_ns_get(s->store, l->model, session_kv_rank(l->world_size, r), 0, l->salt,
					session_layout(s, l, r));
		if (!s->ns[r]) {
			while (r-- > 0)
				store_ns_put(s->store, s->ns[r]);
			return false;
		}
	}
	return true;
}

bool session_ask_tier(struct sessions *s, struct session *x, const struct session_lookup *l, uint32_t found)
{
	struct tier_want w = {.id = x->job_id,
			      .world_size = l->world_size,
			      .ns = s->ns,
			      .names = s->names,
			      .hashes = l->hashes,
			      .nchunks = x->asked / l->world_size,
			      .first = found,
			      .rank_bytes = s->bytes,
			      .locks = l->locks,
			      .node = l->node};
	struct seg_key first;

	if (!find_names(s, l))
		return false;
	first = (struct seg_key){s->names[found % l->world_size], l->hashes[found / l->world_size]};
	if (!s->tier.may_have(s->tier.ctx, &first, s->bytes[found % l->world_size]) || !make_ranks(s, l))
		return false;
	if (s->tier.prefetch(s->tier.ctx, &w))
		return false;
	x->first = found;
	x->found_known = false;
	x->pending = true;
	s->pending++;
	return true;
}

/* By rank, as the tier wants them. */
void session_tell_hits(struct sessions *s, const struct session_lookup *l, uint32_t nchunks)
{
	store_obj *mine = s->spread;

	if (!s->tier.touched || !nchunks || !find_names(s, l))
		return;
	for (uint32_t r = 0; r < l->world_size; r++) {
		for (uint32_t i = 0; i < nchunks; i++)
			mine[i] = s->objs[i * l->world_size + r];
		s->tier.touched(s->tier.ctx, s->names[r], l->hashes, mine, nchunks);
	}
}

/* ---- the end of a job --------------------------------------------------------------------------------------------- */

static void over(struct sessions *s, struct session *x, const struct session_done *d)
{
	x->pending = false;
	s->pending--;
	s->tier.done(s->tier.ctx, d);
}

void session_cancel(struct sessions *s, struct session *x)
{
	if (!x->pending)
		return;
	s->tier.cancel(s->tier.ctx, x->job_id);
	x->hits = 0;
	over(s, x, NULL);
}

void session_settle(struct sessions *s, struct session *x, uint64_t now_ms)
{
	uint32_t keep = x->nobjs / x->world_size * x->world_size;

	for (uint32_t i = keep; i < x->nobjs; i++) {
		if (x->left[i])
			store_unlock(s->store, &x->objs[i], &x->left[i], 1, now_ms);
		x->held -= x->left[i];
	}
	s->nobjs -= x->nobjs - keep;
	x->nobjs = keep;
	x->hits = keep / x->world_size;
}

/* ---- what the tier tells ------------------------------------------------------------------------------------------- */

void sessions_found(struct sessions *s, uint64_t job_id, uint32_t found)
{
	struct session *x;

	lk_lock(&s->lk);
	x = session_of_job(s, job_id);
	if (x && x->pending) {
		x->found_known = true;
		x->hits = (x->first + found) / x->world_size;
	}
	lk_unlock(&s->lk);
}

/* Objects behind those the session has. False: no room, then they are still the tier's. */
static bool add_locks(struct sessions *s, struct session *x, const store_obj *objs, uint32_t n)
{
	uint32_t total = x->nobjs + n;

	if (s->nobjs + n > LOCKS_MAX || session_reserve(&x->objs, &x->obj_cap, total, sizeof(*x->objs)) ||
	    session_reserve(&x->left, &x->left_cap, total, sizeof(*x->left)))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		x->objs[x->nobjs + i] = objs[i];
		x->left[x->nobjs + i] = x->locks;
	}
	x->nobjs = total;
	x->held += (uint64_t)n * x->locks;
	s->nobjs += n;
	return true;
}

bool sessions_loaded(struct sessions *s, uint64_t job_id, const struct tier_result *r, const store_obj *objs,
		     uint64_t now_ms)
{
	struct session *x;
	bool taken = false;

	lk_lock(&s->lk);
	x = session_of_job(s, job_id);
	if (x && x->pending) {
		struct session_done d = {.model = session_model(x),
					 .salt = session_salt(x),
					 .world_size = x->world_size,
					 .l1_chunks = x->first / x->world_size,
					 .result = *r};

		check(x->nobjs == x->first && r->objects <= x->asked - x->first);
		taken = add_locks(s, x, objs, r->objects);
		session_settle(s, x, now_ms);
		d.chunks = x->hits;
		session_renew(s, x, now_ms); /* the read TTL of what was just loaded begins now */
		over(s, x, &d);
	}
	lk_unlock(&s->lk);
	return taken;
}
