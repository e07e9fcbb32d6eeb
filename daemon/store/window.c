/* window.c - making room for a slot that does not fit.
 *
 * Evicting by age alone frees scattered slots until some happen to lie together. Instead the oldest objects are anchors:
 * around each, the cheapest run of neighbouring free and evictable slots that is large enough is found. The price of a
 * victim is its size times the square of its youth (0 = among the oldest, 1 = just used). A run of old objects costs
 * next to nothing, since they would go soon anyway, and is taken at once; what it frees too much is where the next slots
 * are cut (slots_find), so that neighbours are of one age and a ring of old runs forms by itself. With slots of one size
 * the oldest object is its own run: plain LRU.
 *
 * Where old objects lie scattered among young ones, the oldest one goes and the search is repeated, until it succeeds or
 * SLACK of the memory is free; only then the cheapest run with young objects in it goes.
 *
 * Work per call is bounded: anchors and repetitions by constants, neighbours visited in proportion to the room asked for.
 */
#include "daemon/base/check.h"
#include "daemon/store/store_int.h"

#include <math.h>

#define ANCHORS 32
#define REPEATS 32
/* Share of the memory that may lie idle for the sake of age order (measured: index_bench). */
#define SLACK 0.05
/* Price per unit of a run that is taken without looking further: youth of about 9 % on average. */
#define DUE 0.01
/* Added to each unit's price: between equally old runs the one that wastes least, then the one on the right node. */
#define WASTE  0.001
#define REMOTE 0.004
/* Neighbours looked at once a run is known, to find a better one. */
#define POLISH_STEPS 512

struct window {
	uint32_t lo, hi;         /* links, both ends included; 0 = none */
	uint64_t units, victims; /* size, and what of it is alive */
	double cost;
};

struct search {
	struct store *s;
	uint32_t want, level, prefer; /* prefer: range */
	bool only;                    /* no other range will do */
	uint64_t old_seq;             /* what was used up to here has no youth */
	int64_t steps;                /* left in this search */
	int64_t visits;               /* neighbours looked at in all of them */
	struct window best;
};

static uint32_t link_units(const struct store *s, uint32_t link)
{
	return link & SLOT_FREE ? s->slots.free[link & ~SLOT_FREE].units : obj_at(s, link)->units;
}

/* INFINITY for what cannot go, and beyond the ends of a range. */
static double price(const struct search *q, uint32_t link)
{
	const struct obj *o;
	double youth = 0;

	if (!link)
		return INFINITY;
	if (link & SLOT_FREE)
		return 0;
	o = obj_at(q->s, link);
	if (!evict_allowed(q->s, o, q->level))
		return INFINITY;
	if (o->seq > q->old_seq)
		youth = (double)(o->seq - q->old_seq) / (double)(q->s->seq - q->old_seq);
	return o->units * (youth * youth + WASTE);
}

static void take_link(struct search *q, struct window *w, uint32_t link, double cost)
{
	uint32_t units = link_units(q->s, link);

	w->units += units;
	w->victims += link & SLOT_FREE ? 0 : units;
	w->cost += cost;
	q->steps--;
	q->visits++;
}

/* Towards the cheaper side until it is large enough. False when it is hemmed in, or dearer than the best. */
static bool window_widen(struct search *q, struct window *w)
{
	const struct slots *t = &q->s->slots;
	uint32_t prev = slots_prev(t, w->lo), next = slots_next(t, w->hi);
	double before = price(q, prev), after = price(q, next);

	while (w->units < q->want) {
		bool left = before < after;
		double cost = left ? before : after;
		if (cost == INFINITY || q->steps <= 0)
			return false;
		if (left) {
			w->lo = prev;
			prev = slots_prev(t, prev);
			before = price(q, prev);
		} else {
			w->hi = next;
			next = slots_next(t, next);
			after = price(q, next);
		}
		take_link(q, w, left ? w->lo : w->hi, cost);
		if (w->cost >= q->best.cost)
			return false;
	}
	return true;
}

/* Whether dropping an end leaves the run large enough and saves an object that is not due yet. */
static bool can_drop(const struct search *q, const struct window *w, uint32_t link)
{
	uint32_t units = link_units(q->s, link);

	return w->units - units >= q->want && price(q, link) > DUE * units;
}

/* The last step may have made an earlier one at the other end needless. */
static void window_trim(const struct search *q, struct window *w)
{
	bool hi;

	while ((hi = can_drop(q, w, w->hi)) || can_drop(q, w, w->lo)) {
		uint32_t drop = hi ? w->hi : w->lo, units = link_units(q->s, drop);
		w->cost -= price(q, drop);
		w->victims -= units;
		w->units -= units;
		if (hi)
			w->hi = slots_prev(&q->s->slots, drop);
		else
			w->lo = slots_next(&q->s->slots, drop);
	}
}

static bool is_preferred(const struct search *q, uint32_t anchor)
{
	return q->prefer == STORE_ANY_RANGE || store_range_of(q->s, anchor) == q->prefer;
}

static bool is_due(const struct search *q)
{
	return q->best.lo && q->best.cost <= DUE * (double)q->best.victims;
}

/* True when the search is over. */
static bool try_anchor(struct search *q, uint32_t anchor)
{
	struct window w = {.lo = anchor, .hi = anchor};
	bool preferred = is_preferred(q, anchor);

	take_link(q, &w, anchor, price(q, anchor));
	if (w.cost >= q->best.cost || !window_widen(q, &w))
		return false;
	window_trim(q, &w);
	if (!preferred)
		w.cost += REMOTE * (double)w.victims;
	if (w.cost < q->best.cost) {
		q->best = w;
		q->steps = q->steps < POLISH_STEPS ? q->steps : POLISH_STEPS;
	}
	return preferred && is_due(q);
}

static uint32_t anchors(const struct search *q, uint32_t *ids, uint32_t max)
{
	return evict_anchors(q->s, q->level, q->only ? q->prefer : STORE_ANY_RANGE, ids, max);
}

/* In age order, in the list of `id`. */
static void search_on(struct search *q, uint32_t id)
{
	for (; id && !q->best.lo && q->steps > 0; id = obj_at(q->s, id)->younger, q->steps--) {
		if (!q->only || is_preferred(q, id))
			try_anchor(q, id);
	}
}

/* All anchors are hemmed in by locked slots. */
static void search_all(struct search *q, uint32_t oldest)
{
	const struct store *s = q->s;

	if (s->policy == STORE_ISOLATED_LRU || s->slots.nranges == 1) {
		search_on(q, obj_at(s, oldest)->younger);
		return;
	}
	for (uint32_t k = 0; k < s->slots.nranges && !q->best.lo; k++) {
		uint32_t i = q->prefer == STORE_ANY_RANGE ? k : s->near[q->prefer][k];
		if (!q->only || i == q->prefer)
			search_on(q, s->lru[i].oldest);
	}
}

static void search_level(struct search *q)
{
	uint32_t ids[ANCHORS], n = anchors(q, ids, ANCHORS);

	if (!n)
		return;
	q->old_seq = obj_at(q->s, ids[n / 2])->seq;
	for (uint32_t i = 0; i < n && q->steps > 0; i++) {
		if (try_anchor(q, ids[i]))
			return;
	}
	search_all(q, ids[0]);
}

static void search(struct search *q)
{
	q->best = (struct window){.cost = INFINITY};
	for (q->level = 0;; q->level++) {
		q->steps = 1024 + 2 * (int64_t)q->want;
		search_level(q);
		if (q->best.lo || q->level + 1 == EVICT_LEVELS)
			return;
	}
}

/* Returns the free block that results. */
static uint32_t window_evict(struct store *s, const struct window *w, uint64_t now_ms)
{
	const struct slots *t = &s->slots;
	uint32_t off = w->lo & SLOT_FREE ? t->free[w->lo & ~SLOT_FREE].off : t->used[w->lo].off;
	uint32_t link = w->lo, next, end = slots_next(t, w->hi);

	/* A free block may merge away under us: step from victim to victim. */
	if (link & SLOT_FREE)
		link = slots_next(t, link);
	if (end & SLOT_FREE)
		end = slots_next(t, end);
	for (; link != end; link = next) {
		next = slots_next(t, link);
		if (next & SLOT_FREE)
			next = slots_next(t, next);
		evict_one(s, link, now_ms);
	}
	return end ? slots_prev(t, end) : t->range[slots_range_of(t, off)].last;
}

static bool slack_left(const struct search *q)
{
	const struct store *s = q->s;
	uint64_t grown = 0, unused = 0;

	for (uint32_t i = 0; i < s->slots.nranges; i++) {
		if (q->only && i != q->prefer)
			continue;
		grown += s->slots.range[i].grown;
		unused += s->slots.range[i].free_units;
	}
	return (double)unused < SLACK * (double)grown;
}

/* Evicts the oldest object; returns a block of that range that is large enough, if there is one now. */
static uint32_t evict_oldest(const struct search *q, uint64_t now_ms)
{
	uint32_t id, range;

	if (!anchors(q, &id, 1))
		return 0;
	range = store_range_of(q->s, id);
	evict_one(q->s, id, now_ms);
	return slots_find(&q->s->slots, range, q->want);
}

uint32_t window_make(struct store *s, uint32_t units, uint32_t range, bool only, uint64_t now_ms)
{
	struct search q = {.s = s, .want = units, .prefer = range, .only = only};
	int64_t most = 4096 + 4 * (int64_t)units;
	uint32_t block;

	search(&q);
	for (int n = 0; n < REPEATS && q.visits < most && q.best.lo && !is_due(&q) && slack_left(&q); n++) {
		block = evict_oldest(&q, now_ms);
		if (block)
			return block;
		search(&q);
	}
	return q.best.lo ? window_evict(s, &q.best, now_ms) : 0;
}
