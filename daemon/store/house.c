/* house.c - what the daemon does besides serving requests: clear, delete, watermark, quotas, figures. */
#include "daemon/base/check.h"
#include "daemon/store/store_int.h"
#include "numa/arena.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* Share of a range's usable bytes that must be free, or more is committed ahead of need. */
#define GROW_AHEAD 8

/* Unlike a yield, a short sleep lets even a waiter that has to be woken first have its turn. */
static void let_others_in(struct store *s)
{
	struct timespec nap = {0, 20000};

	lk_unlock(&s->lk);
	nanosleep(&nap, NULL);
	lk_lock(&s->lk);
}

/* All keys die at once by one number; their objects are then collected slice by slice. */
uint64_t store_clear(struct store *s)
{
	uint64_t dropped = 0, dead;

	lk_lock(&s->lk);
	dead = s->ix.dead_seq = s->seq;
	s->seq++;
	for (uint32_t id = 1; id <= s->ix.ids.hi; id++) {
		const struct obj *o = obj_at(s, id);
		if (id % STORE_SLICE == 0)
			let_others_in(s);
		if ((o->flags & (OBJ_USED | OBJ_KEYED)) != (OBJ_USED | OBJ_KEYED) || o->seq > dead)
			continue;
		obj_drop(s, id);
		dropped++;
	}
	s->n.cleared += dropped;
	lk_unlock(&s->lk);
	return dropped;
}

int store_delete(struct store *s, store_ns ns, const struct store_hash *hash, bool force)
{
	struct index_key key = {hash, ns};
	uint32_t id;
	int err = 0;

	lk_lock(&s->lk);
	id = index_find(&s->ix, &key, index_mix(&s->ix, ns, hash));
	if (!id)
		err = -ENOENT;
	else if (!force && !(obj_at(s, id)->flags & OBJ_LISTED))
		err = -EBUSY;
	else
		obj_drop(s, id);
	lk_unlock(&s->lk);
	return err;
}

/* ---- tick ------------------------------------------------------------------------------------------------------ */

static uint64_t usable_units(const struct store *s)
{
	uint64_t units = 0;

	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		const struct slot_range *r = &s->slots.range[i];
		units += r->grow_failed ? r->grown : r->units;
	}
	return units;
}

/* Between slices quotas may come and go: positions may be skipped, which the next tick makes good. */
static uint64_t enforce_quotas(struct store *s, uint64_t now_ms)
{
	uint64_t freed = 0, got;

	for (uint32_t i = 0; i < s->names.nquota;) {
		struct salt *t = &s->names.salt[s->names.quota[i]];
		uint64_t over = t->used_bytes > t->limit_bytes ? t->used_bytes - t->limit_bytes : 0;
		got = over ? evict_from(s, &t->lru, ((over - 1) >> s->align_shift) + 1, now_ms) : 0;
		freed += got;
		if (got)
			let_others_in(s);
		else
			i++;
	}
	return freed;
}

static uint64_t evict_in_slices(struct store *s, uint64_t units, uint64_t now_ms)
{
	uint64_t freed = 0, got = 1;

	while (freed < units && got) {
		got = evict_units(s, units - freed, now_ms);
		freed += got;
		if (freed < units)
			let_others_in(s);
	}
	return freed;
}

static uint64_t enforce_watermark(struct store *s, uint64_t now_ms)
{
	uint64_t want;

	if ((double)s->used_units < s->watermark * (double)usable_units(s))
		return 0;
	s->n.evict_triggered++;
	want = (uint64_t)((double)s->used_units * s->ratio);
	return evict_in_slices(s, want ? want : 1, now_ms);
}

/* Commits more where a range is nearly used up, so that requests need not wait for it. */
static void grow_ahead(struct store *s)
{
	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		struct slot_range *r = &s->slots.range[i];
		uint64_t upto;
		int err;
		if (r->grown == r->units || r->free_units > r->grown / GROW_AHEAD)
			continue;
		upto = units_bytes(s, (uint64_t)r->start + r->grown + 1) - arena_range(s->arena, i)->start;
		lk_unlock(&s->lk);
		err = arena_commit(s->arena, i, upto);
		lk_lock(&s->lk);
		r->grow_failed = err != 0;
		store_adopt_committed(s, i);
	}
}

uint64_t store_tick(struct store *s, uint64_t now_ms)
{
	uint64_t freed = 0;

	lk_lock(&s->lk);
	s->n.evict_ticks++;
	grow_ahead(s);
	if (s->policy == STORE_ISOLATED_LRU)
		freed += enforce_quotas(s, now_ms);
	if (s->policy != STORE_NOOP)
		freed += enforce_watermark(s, now_ms);
	lk_unlock(&s->lk);
	return units_bytes(s, freed);
}

/* ---- quotas ---------------------------------------------------------------------------------------------------- */

int store_quota_set(struct store *s, struct slice salt, uint64_t bytes)
{
	uint32_t id;
	int err;

	lk_lock(&s->lk);
	err = names_quota_set(&s->names, salt, bytes, &id);
	if (!err && id)
		evict_requota(s, id);
	lk_unlock(&s->lk);
	return err;
}

uint32_t store_quota_list(struct store *s, struct store_quota *out, uint32_t max)
{
	uint32_t n = 0;

	_Static_assert(sizeof(out->salt) > NAMES_MAX_SALT, "a salt and its end fit");
	lk_lock(&s->lk);
	for (uint32_t i = 1; i <= s->names.salt_hi; i++) {
		const struct salt *t = &s->names.salt[i];
		if (!t->refs || (t->limit_bytes == UINT64_MAX && !t->used_bytes))
			continue;
		if (n++ >= max)
			continue;
		out[n - 1] = (struct store_quota){.limit_bytes = t->limit_bytes, .used_bytes = t->used_bytes};
		memcpy(out[n - 1].salt, t->text, t->len);
	}
	lk_unlock(&s->lk);
	return n;
}

/* ---- figures --------------------------------------------------------------------------------------------------- */

uint32_t store_range_used(struct store *s, uint64_t *out, uint32_t max)
{
	lk_lock(&s->lk);
	for (uint32_t i = 0; i < s->slots.nranges && i < max; i++)
		out[i] = units_bytes(s, s->slots.range[i].grown - s->slots.range[i].free_units);
	lk_unlock(&s->lk);
	return s->slots.nranges;
}

static void fill_bytes(const struct store *s, struct store_stats *out)
{
	uint32_t largest = 0;

	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		uint32_t units = slots_largest(&s->slots, i);
		largest = units > largest ? units : largest;
		out->committed_bytes += units_bytes(s, s->slots.range[i].grown);
		if (s->slots.range[i].grow_failed)
			out->short_bytes += units_bytes(s, s->slots.range[i].units - s->slots.range[i].grown);
	}
	out->largest_free_bytes = units_bytes(s, largest);
	out->used_bytes = units_bytes(s, s->used_units);
	out->total_bytes = units_bytes(s, s->total_units);
	out->index_bytes = s->ix.used * (uint64_t)(sizeof(struct obj) + sizeof(struct slot_used)) +
			   s->slots.nfree * (uint64_t)sizeof(struct slot_free) +
			   s->ix.nbuckets * (uint64_t)sizeof(*s->ix.bucket) + s->ix.ids.hi / 8;
}

void store_stats(struct store *s, struct store_stats *out)
{
	memset(out, 0, sizeof(*out));
	lk_lock(&s->lk);
	fill_bytes(s, out);
	out->objects = s->ix.count;
	out->readable = s->n.readable;
	out->reserved = s->n.reserved;
	out->locked = s->n.locked;
	out->detached = s->n.detached;
	out->temporary = s->n.temporary;
	out->lookups = s->n.lookups;
	out->hits = s->n.hits;
	out->reserves = s->n.reserves;
	out->reserve_present = s->n.reserve_present;
	out->reserve_refused = s->n.reserve_refused;
	out->commits = s->n.commits;
	out->aborts = s->n.aborts;
	out->reads_finished = s->n.reads_finished;
	out->evicted_objects = s->n.evicted_objects;
	out->evicted_bytes = s->n.evicted_bytes;
	out->evict_ticks = s->n.evict_ticks;
	out->evict_triggered = s->n.evict_triggered;
	out->cleared = s->n.cleared;
	out->spill_bytes = s->n.spill_bytes;
	lk_unlock(&s->lk);
}

/* ---- invariants ------------------------------------------------------------------------------------------------ */

static uint32_t units_of(void *ctx, uint32_t id)
{
	const struct store *s = ctx;

	check(id <= s->ix.ids.hi && obj_at(s, id)->flags & OBJ_USED);
	return obj_at(s, id)->units;
}

static void check_tallies(struct store *s)
{
	uint64_t readable = s->n.readable, reserved = s->n.reserved, locked = s->n.locked, detached = s->n.detached;
	uint64_t units = 0, temporary = 0;

	for (uint32_t id = 1; id <= s->ix.ids.hi; id++) {
		const struct obj *o = obj_at(s, id);
		if (!(o->flags & OBJ_USED))
			continue;
		units += o->units;
		temporary += (o->flags & OBJ_TEMP) != 0;
		obj_tally(s, o, -1);
		if (o->flags & OBJ_KEYED && o->flags & OBJ_READABLE)
			check(!!(o->flags & OBJ_LISTED) == !o->locks);
		if (o->flags & OBJ_TEMP)
			check(o->flags & OBJ_READABLE && o->locks);
		if (!(o->flags & OBJ_KEYED))
			check(!(o->flags & OBJ_LISTED) && (!(o->flags & OBJ_READABLE) || o->locks));
	}
	check(!s->n.readable && !s->n.reserved && !s->n.locked && !s->n.detached);
	check(units == s->used_units && temporary == s->n.temporary);
	s->n.readable = readable;
	s->n.reserved = reserved;
	s->n.locked = locked;
	s->n.detached = detached;
}

static void check_names(const struct store *s)
{
	uint64_t used = 0, objects = 0;

	names_check(&s->names);
	for (uint32_t i = 1; i <= s->names.salt_hi; i++)
		used += s->names.salt[i].refs ? s->names.salt[i].used_bytes : 0;
	for (uint32_t i = 1; i <= s->names.ns_hi; i++)
		objects += s->names.ns[i].model ? s->names.ns[i].objects : 0;
	check(used == units_bytes(s, s->used_units) && objects == s->ix.used);
}

void store_check(struct store *s)
{
	lk_lock(&s->lk);
	index_check(&s->ix);
	evict_check(s);
	check(slots_check(&s->slots, units_of, s) == s->used_units);
	check_tallies(s);
	check_names(s);
	lk_unlock(&s->lk);
}
