#include "daemon/base/check.h"
#include "daemon/store/store_int.h"

void obj_tally(struct store *s, const struct obj *o, int by)
{
	uint64_t d = (uint64_t)(int64_t)by;

	if (!(o->flags & OBJ_KEYED)) {
		s->n.detached += d;
	} else if (!(o->flags & OBJ_READABLE)) {
		s->n.reserved += d;
	} else {
		s->n.readable += d;
		s->n.locked += o->locks ? d : 0;
	}
}

void obj_detach(struct store *s, uint32_t id)
{
	struct obj *o = obj_at(s, id);

	check(!(o->flags & OBJ_LISTED) && o->flags & OBJ_KEYED);
	obj_tally(s, o, -1);
	index_remove(&s->ix, id);
	o->flags &= ~(uint64_t)OBJ_KEYED;
	obj_tally(s, o, 1);
}

void obj_free(struct store *s, uint32_t id)
{
	struct obj *o = obj_at(s, id);
	struct ns *ns = &s->names.ns[o->ns + 1u];

	check(!(o->flags & OBJ_LISTED) && o->flags & OBJ_USED);
	obj_tally(s, o, -1);
	if (o->flags & OBJ_KEYED)
		index_remove(&s->ix, id);
	if (o->flags & OBJ_SAMPLED)
		samples_remove(&s->samples, id);
	s->n.temporary -= (o->flags & OBJ_TEMP) != 0;
	slots_release(&s->slots, id, o->units);
	s->used_units -= o->units;
	s->names.salt[ns->salt].used_bytes -= units_bytes(s, o->units);
	ns->objects--;
	names_ns_release(&s->names, o->ns + 1u);
	index_put(&s->ix, id);
}

void obj_drop(struct store *s, uint32_t id)
{
	const struct obj *o = obj_at(s, id);

	if (o->flags & OBJ_LISTED) {
		lru_remove(s, id);
		obj_free(s, id);
	} else {
		obj_detach(s, id);
	}
}

static void sample_start(struct store *s, uint32_t id, uint64_t now_ms)
{
	struct obj *o = obj_at(s, id);
	uint64_t mix;

	if (!s->samples.threshold)
		return;
	mix = index_mix(&s->ix, o->ns + 1u, (const struct store_hash *)o->hash);
	if (mix < s->samples.threshold && samples_add(&s->samples, id, now_ms))
		o->flags |= OBJ_SAMPLED;
}

static void sample_reuse(struct store *s, uint32_t id, uint64_t now_ms)
{
	struct sample *row = samples_get(&s->samples, id);

	if (now_ms < row->used_ms)
		return; /* two threads read the clock in the other order */
	if (s->observer.reused)
		s->observer.reused(s->observer.ctx, (double)(now_ms - row->used_ms) / 1000);
	row->used_ms = now_ms;
}

static bool make_readable(struct store *s, uint32_t id, uint16_t locks, uint64_t flags, uint64_t now_ms)
{
	struct obj *o = obj_at(s, id);

	check((o->flags & (OBJ_USED | OBJ_READABLE)) == OBJ_USED);
	if (obj_is_dead(s, o)) {
		obj_free(s, id);
		return false;
	}
	obj_tally(s, o, -1);
	o->flags |= OBJ_READABLE | flags;
	s->n.temporary += (flags & OBJ_TEMP) != 0;
	o->locks = locks;
	obj_tally(s, o, 1);
	sample_start(s, id, now_ms);
	return true;
}

bool obj_commit(struct store *s, uint32_t id, uint64_t now_ms)
{
	bool ok = make_readable(s, id, 0, 0, now_ms);

	if (ok)
		lru_insert(s, id);
	return ok;
}

bool obj_commit_locked(struct store *s, uint32_t id, uint16_t count, bool temporary, uint64_t now_ms)
{
	check(count > 0);
	return make_readable(s, id, count, temporary ? OBJ_TEMP : 0, now_ms);
}

/* These two are half of what a lookup costs; where code before them moves them within a line of the cache they get 8 % slower. */
#define HOT __attribute__((aligned(64)))

HOT bool obj_lock(struct store *s, uint32_t id, uint16_t count, uint64_t now_ms)
{
	struct obj *o = obj_at(s, id);

	if (!(o->flags & OBJ_READABLE) || o->locks > OBJ_MAX_LOCKS - count)
		return false;
	if (!o->locks) {
		lru_remove(s, id);
		s->n.locked++;
	}
	o->locks = (uint16_t)(o->locks + count);
	if (o->flags & OBJ_SAMPLED)
		sample_reuse(s, id, now_ms);
	return true;
}

HOT void obj_unlock(struct store *s, uint32_t id, uint16_t count)
{
	struct obj *o = obj_at(s, id);

	check(o->flags & OBJ_READABLE && o->locks >= count);
	if (!count)
		return;
	if (o->locks > count) {
		o->locks = (uint16_t)(o->locks - count);
		return;
	}
	obj_tally(s, o, -1);
	o->locks = 0;
	obj_tally(s, o, 1);
	/* Dead, or temporary: one comparison of the flags. */
	if ((o->flags & (OBJ_KEYED | OBJ_TEMP)) != OBJ_KEYED || o->seq <= s->ix.dead_seq)
		obj_free(s, id);
	else
		lru_insert(s, id);
}
