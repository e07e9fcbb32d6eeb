/* eviction.c - in which order objects go.
 *
 * A list holds only what may be evicted, oldest first: locking takes an object off its list, the last unlock puts it
 * back at the young end. LRU and noop have one list (noop never asks for a victim). IsolatedLRU has one per salt, and
 * three classes of salts, which give way in this order: without a quota (the salt with the oldest object first, so that
 * together they behave as one LRU); above their quota, furthest first; the rest.
 *
 * The salts of the first class are a heap by the age of their oldest object. That age only ever moves towards the
 * young, so keys are corrected when they reach the top instead of at every lock.
 */
#include "daemon/base/check.h"
#include "daemon/store/store_int.h"

static struct salt *salt_of(const struct store *s, const struct obj *o)
{
	return &s->names.salt[s->names.ns[o->ns + 1u].salt];
}

static uint64_t oldest_seq(const struct store *s, const struct salt *salt)
{
	return obj_at(s, salt->lru.oldest)->seq;
}

/* ---- heap of salts without a quota ----------------------------------------------------------------------------- */

static void heap_put(struct store *s, uint32_t at, uint32_t salt)
{
	s->heap[at] = salt;
	s->names.salt[salt].heap_at = at + 1;
}

static void heap_up(struct store *s, uint32_t at)
{
	uint32_t salt = s->heap[at];
	uint64_t key = s->names.salt[salt].heap_key;

	while (at && s->names.salt[s->heap[(at - 1) / 2]].heap_key > key) {
		heap_put(s, at, s->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	heap_put(s, at, salt);
}

static void heap_down(struct store *s, uint32_t at)
{
	uint32_t salt = s->heap[at], kid;
	uint64_t key = s->names.salt[salt].heap_key;

	while ((kid = 2 * at + 1) < s->nheap) {
		if (kid + 1 < s->nheap &&
		    s->names.salt[s->heap[kid + 1]].heap_key < s->names.salt[s->heap[kid]].heap_key)
			kid++;
		if (s->names.salt[s->heap[kid]].heap_key >= key)
			break;
		heap_put(s, at, s->heap[kid]);
		at = kid;
	}
	heap_put(s, at, salt);
}

static void heap_add(struct store *s, uint32_t salt)
{
	s->names.salt[salt].heap_key = oldest_seq(s, &s->names.salt[salt]);
	heap_put(s, s->nheap++, salt);
	heap_up(s, s->nheap - 1);
}

static void heap_remove(struct store *s, uint32_t salt)
{
	uint32_t at = s->names.salt[salt].heap_at - 1, moved = s->heap[--s->nheap];

	s->names.salt[salt].heap_at = 0;
	if (moved == salt)
		return;
	heap_put(s, at, moved);
	heap_up(s, at);
	heap_down(s, s->names.salt[moved].heap_at - 1);
}

static uint32_t heap_top(struct store *s)
{
	while (s->nheap) {
		struct salt *salt = &s->names.salt[s->heap[0]];
		if (salt->heap_key == oldest_seq(s, salt))
			return s->heap[0];
		salt->heap_key = oldest_seq(s, salt);
		heap_down(s, 0);
	}
	return 0;
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

static struct lru *lru_of(struct store *s, uint32_t id)
{
	return s->policy == STORE_ISOLATED_LRU ? &salt_of(s, obj_at(s, id))->lru : &s->lru[store_range_of(s, id)];
}

/* Of the ranges' lists the one whose oldest object is the oldest of all. NULL when all are empty. */
static struct lru *oldest_list(struct store *s)
{
	struct lru *best = NULL;

	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		struct lru *l = &s->lru[i];
		if (l->n && (!best || obj_at(s, l->oldest)->seq < obj_at(s, best->oldest)->seq))
			best = l;
	}
	return best;
}

static void salt_order(struct store *s, uint32_t salt)
{
	struct salt *t = &s->names.salt[salt];
	bool want = t->lru.n && t->limit_bytes == UINT64_MAX;

	if (want && !t->heap_at)
		heap_add(s, salt);
	else if (!want && t->heap_at)
		heap_remove(s, salt);
}

void lru_insert(struct store *s, uint32_t id)
{
	struct obj *o = obj_at(s, id);
	struct lru *l = lru_of(s, id);

	s->seq += o->units;
	o->seq = s->seq;
	o->flags |= OBJ_LISTED;
	o->older = l->youngest;
	o->younger = 0;
	if (l->youngest)
		obj_at(s, l->youngest)->younger = id;
	else
		l->oldest = id;
	l->youngest = id;
	l->units += o->units;
	if (l->n++ == 0 && s->policy == STORE_ISOLATED_LRU)
		salt_order(s, s->names.ns[o->ns + 1u].salt);
}

void lru_remove(struct store *s, uint32_t id)
{
	struct obj *o = obj_at(s, id);
	struct lru *l = lru_of(s, id);

	check(o->flags & OBJ_LISTED);
	o->flags &= ~(uint64_t)OBJ_LISTED;
	if (o->older)
		obj_at(s, o->older)->younger = o->younger;
	else
		l->oldest = o->younger;
	if (o->younger)
		obj_at(s, o->younger)->older = o->older;
	else
		l->youngest = o->older;
	l->units -= o->units;
	if (--l->n == 0 && s->policy == STORE_ISOLATED_LRU)
		salt_order(s, s->names.ns[o->ns + 1u].salt);
}

void evict_requota(struct store *s, uint32_t salt)
{
	if (s->policy == STORE_ISOLATED_LRU)
		salt_order(s, salt);
}

/* ---- who goes next --------------------------------------------------------------------------------------------- */

static uint64_t over_quota(const struct salt *t)
{
	return t->used_bytes > t->limit_bytes ? t->used_bytes - t->limit_bytes : 0;
}

/* The salt furthest over its quota, or, with `any`, the one with the oldest object. */
static uint32_t pick_quota_salt(const struct store *s, bool any)
{
	uint32_t best = 0;

	for (uint32_t i = 0; i < s->names.nquota; i++) {
		const struct salt *t = &s->names.salt[s->names.quota[i]], *b = &s->names.salt[best];
		if (!t->lru.n || (!any && !over_quota(t)))
			continue;
		if (!best || (any ? oldest_seq(s, t) < oldest_seq(s, b) : over_quota(t) > over_quota(b)))
			best = s->names.quota[i];
	}
	return best;
}

struct lru *evict_next_list(struct store *s)
{
	uint32_t salt;

	if (s->policy == STORE_NOOP)
		return NULL;
	if (s->policy == STORE_LRU)
		return oldest_list(s);
	salt = heap_top(s);
	if (!salt)
		salt = pick_quota_salt(s, false);
	if (!salt)
		salt = pick_quota_salt(s, true);
	return salt ? &s->names.salt[salt].lru : NULL;
}

bool evict_allowed(const struct store *s, const struct obj *o, uint32_t level)
{
	const struct salt *t;

	if (!(o->flags & OBJ_LISTED))
		return false;
	if (s->policy != STORE_ISOLATED_LRU || level >= 2)
		return true;
	t = salt_of(s, o);
	return t->limit_bytes == UINT64_MAX || (level == 1 && over_quota(t));
}

#define FILTER_STEPS 1024 /* objects of other ranges passed over in one list */

static bool is_on(const struct store *s, uint32_t id, uint32_t range)
{
	return range == STORE_ANY_RANGE || store_range_of(s, id) == range;
}

static uint32_t take_oldest(const struct store *s, const struct lru *l, uint32_t range, uint32_t *ids, uint32_t n,
			    uint32_t max)
{
	int steps = FILTER_STEPS;

	for (uint32_t id = l->oldest; id && n < max && steps; id = obj_at(s, id)->younger) {
		if (is_on(s, id, range))
			ids[n++] = id;
		else
			steps--;
	}
	return n;
}

/* The oldest of all ranges together: their lists, each in order, merged. */
static uint32_t merge_oldest(struct store *s, uint32_t *ids, uint32_t max)
{
	uint32_t at[ARENA_MAX_RANGES] = {0}, n = 0;

	for (uint32_t i = 0; i < s->slots.nranges; i++)
		at[i] = s->lru[i].oldest;
	while (n < max) {
		uint32_t best = 0;
		for (uint32_t i = 1; i < s->slots.nranges; i++) {
			if (at[i] && (!at[best] || obj_at(s, at[i])->seq < obj_at(s, at[best])->seq))
				best = i;
		}
		if (!at[best])
			break;
		ids[n++] = at[best];
		at[best] = obj_at(s, at[best])->younger;
	}
	return n;
}

uint32_t evict_anchors(struct store *s, uint32_t level, uint32_t range, uint32_t *ids, uint32_t max)
{
	uint32_t n = 0, salt;

	if (s->policy == STORE_NOOP || (s->policy == STORE_LRU && level > 0))
		return 0;
	if (s->policy == STORE_LRU)
		return range == STORE_ANY_RANGE ? merge_oldest(s, ids, max)
						: take_oldest(s, &s->lru[range], range, ids, 0, max);
	salt = level == 0 ? heap_top(s) : pick_quota_salt(s, level == 2);
	if (!salt)
		return 0;
	n = take_oldest(s, &s->names.salt[salt].lru, range, ids, 0, max > 1 ? max / 2 : 1);
	/* Near the top of the heap are the salts with the next oldest objects. */
	for (uint32_t i = 1; level == 0 && i < s->nheap && n < max; i++) {
		if (is_on(s, s->names.salt[s->heap[i]].lru.oldest, range))
			ids[n++] = s->names.salt[s->heap[i]].lru.oldest;
	}
	return n;
}

void evict_one(struct store *s, uint32_t id, uint64_t now_ms)
{
	const struct obj *o = obj_at(s, id);

	if (o->flags & OBJ_SAMPLED && s->observer.evicted) {
		const struct sample *row = samples_get(&s->samples, id);
		uint64_t now = now_ms > row->used_ms ? now_ms : row->used_ms;
		s->observer.evicted(s->observer.ctx, (double)(now - row->created_ms) / 1000,
				    (double)(now - row->used_ms) / 1000);
	}
	s->n.evicted_objects++;
	s->n.evicted_bytes += units_bytes(s, o->units);
	lru_remove(s, id);
	obj_free(s, id);
}

uint64_t evict_from(struct store *s, struct lru *lru, uint64_t units, uint64_t now_ms)
{
	uint64_t freed = 0;

	for (int n = 0; n < STORE_SLICE && freed < units && lru->n; n++) {
		freed += obj_at(s, lru->oldest)->units;
		evict_one(s, lru->oldest, now_ms);
	}
	return freed;
}

uint64_t evict_units(struct store *s, uint64_t units, uint64_t now_ms)
{
	uint64_t freed = 0;
	struct lru *l;

	for (int n = 0; n < STORE_SLICE && freed < units && (l = evict_next_list(s)); n++) {
		freed += obj_at(s, l->oldest)->units;
		evict_one(s, l->oldest, now_ms);
	}
	return freed;
}

/* ---- invariants ------------------------------------------------------------------------------------------------ */

static void check_list(struct store *s, const struct lru *l)
{
	uint64_t units = 0, seq = 0;
	uint32_t n = 0, before = 0;

	for (uint32_t id = l->oldest; id; before = id, id = obj_at(s, id)->younger, n++) {
		const struct obj *o = obj_at(s, id);
		check(o->flags == ((OBJ_USED | OBJ_KEYED | OBJ_READABLE | OBJ_LISTED) | (o->flags & OBJ_SAMPLED)));
		check(o->locks == 0 && o->older == before && o->seq > seq && o->seq <= s->seq);
		check(lru_of(s, id) == l);
		seq = o->seq;
		units += o->units;
	}
	check(l->youngest == before && l->n == n && l->units == units);
}

static uint32_t check_salts(struct store *s)
{
	uint32_t listed = 0, heaped = 0;

	for (uint32_t i = 1; i <= s->names.salt_hi; i++) {
		const struct salt *t = &s->names.salt[i];
		if (!t->refs)
			continue;
		check_list(s, &t->lru);
		listed += t->lru.n;
		check(!!t->heap_at == (t->lru.n && t->limit_bytes == UINT64_MAX));
		check(!t->heap_at || s->heap[t->heap_at - 1] == i);
		check(!t->heap_at || t->heap_key <= oldest_seq(s, t));
		heaped += t->heap_at != 0;
	}
	check(heaped == s->nheap);
	for (uint32_t i = 1; i < s->nheap; i++)
		check(s->names.salt[s->heap[(i - 1) / 2]].heap_key <= s->names.salt[s->heap[i]].heap_key);
	return listed;
}

void evict_check(struct store *s)
{
	uint32_t listed = 0;

	if (s->policy == STORE_ISOLATED_LRU) {
		listed = check_salts(s);
	} else {
		for (uint32_t i = 0; i < s->slots.nranges; i++) {
			check_list(s, &s->lru[i]);
			listed += s->lru[i].n;
		}
	}
	for (uint32_t id = 1; id <= s->ix.ids.hi; id++)
		listed -= !!(obj_at(s, id)->flags & OBJ_LISTED);
	check(listed == 0);
}
