/* window.c - making room for a slot that does not fit.
 *
 * Evicting by age alone would free scattered slots until some happen to lie together. Instead the oldest objects are
 * anchors: around each, the cheapest run of neighbouring free and evictable slots that is large enough is found, and
 * the best run goes. The price of a victim is its bytes over the square of its age, so a run of old objects that needs
 * little freeing wins, and a young prompt goes only where its loss is tiny against the old bytes it saves. With slots of
 * one size the oldest object is its own run: plain LRU.
 *
 * Work is bounded: a fixed number of anchors, and neighbours visited at most in proportion to the room asked for.
 */
#include "daemon/base/check.h"
#include "daemon/store/store_int.h"

#include <math.h>

#define ANCHORS 32
/* Neighbours looked at once a run is known, to find a better one. */
#define POLISH_STEPS 512

struct window {
	uint32_t lo, hi;         /* links, both ends included */
	uint64_t units, victims; /* size, and what of it is alive */
	double cost;
};

struct search {
	struct store *s;
	uint32_t want, level, prefer; /* prefer: range */
	int64_t steps;                /* left */
	struct window best;
};

static uint32_t link_units(const struct store *s, uint32_t link)
{
	return link & SLOT_FREE ? s->slots.free[link & ~SLOT_FREE].units : obj_at(s, link)->units;
}

static double price(const struct search *q, uint32_t link)
{
	const struct obj *o;
	double age;

	if (!link)
		return INFINITY;
	if (link & SLOT_FREE)
		return 0;
	o = obj_at(q->s, link);
	if (!evict_allowed(q->s, o, q->level))
		return INFINITY;
	age = (double)(q->s->seq - o->seq + 1);
	return o->units / (age * age);
}

static void take_link(struct search *q, struct window *w, uint32_t link, double cost)
{
	uint32_t units = link_units(q->s, link);

	w->units += units;
	w->victims += link & SLOT_FREE ? 0 : units;
	w->cost += cost;
	q->steps--;
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

/* The last step may have made an earlier one at the other end needless. */
static void window_trim(struct search *q, struct window *w)
{
	uint32_t units;

	while ((units = link_units(q->s, w->lo)), w->units - units >= q->want) {
		w->cost -= price(q, w->lo);
		w->victims -= w->lo & SLOT_FREE ? 0 : units;
		w->units -= units;
		w->lo = slots_next(&q->s->slots, w->lo);
	}
	while ((units = link_units(q->s, w->hi)), w->units - units >= q->want) {
		w->cost -= price(q, w->hi);
		w->victims -= w->hi & SLOT_FREE ? 0 : units;
		w->units -= units;
		w->hi = slots_prev(&q->s->slots, w->hi);
	}
}

static bool is_preferred(const struct search *q, uint32_t anchor)
{
	return q->prefer == STORE_ANY_RANGE || slots_range_of(&q->s->slots, q->s->slots.used[anchor].off) == q->prefer;
}

static void try_anchor(struct search *q, uint32_t anchor)
{
	struct window w = {.lo = anchor, .hi = anchor};

	take_link(q, &w, anchor, price(q, anchor));
	if (w.cost >= q->best.cost || !window_widen(q, &w))
		return;
	window_trim(q, &w);
	if (!is_preferred(q, anchor))
		w.cost *= 2; /* bytes that cross nodes cost something, too */
	if (w.cost < q->best.cost) {
		q->best = w;
		q->steps = q->steps < POLISH_STEPS ? q->steps : POLISH_STEPS;
	}
}

/* The oldest object, evicted with next to no waste: nothing will be better. */
static bool good_enough(const struct search *q)
{
	return q->best.lo && q->best.victims <= q->want + q->want / 16;
}

static void search_level(struct search *q)
{
	uint32_t ids[ANCHORS], n = evict_anchors(q->s, q->level, ids, ANCHORS);
	uint32_t next;

	if (!n)
		return;
	for (uint32_t i = 0; i < n && q->steps > 0; i++) {
		try_anchor(q, ids[i]);
		if (i == 0 && is_preferred(q, ids[0]) && good_enough(q))
			return;
	}
	/* All hemmed in by locked slots: go on in age order. */
	for (next = obj_at(q->s, ids[0])->younger; next && !q->best.lo && q->steps > 0;
	     next = obj_at(q->s, next)->younger, q->steps--)
		try_anchor(q, next);
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

uint32_t window_make(struct store *s, uint32_t units, uint32_t range, uint64_t now_ms)
{
	struct search q = {.s = s, .want = units, .prefer = range, .best.cost = INFINITY};

	for (q.level = 0; q.level < EVICT_LEVELS && !q.best.lo; q.level++) {
		q.steps = 1024 + 2 * (int64_t)units;
		search_level(&q);
	}
	return q.best.lo ? window_evict(s, &q.best, now_ms) : 0;
}
