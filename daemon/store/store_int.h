/* store_int.h - the store's own state and what its files ask of each other. */
#ifndef DAEMON_STORE_STORE_INT_H
#define DAEMON_STORE_STORE_INT_H

#include "daemon/base/lock.h"
#include "daemon/store/index_int.h"
#include "daemon/store/names_int.h"
#include "daemon/store/sample_int.h"
#include "daemon/store/slots_int.h"
#include "daemon/store/store.h"
#include "numa/arena.h"

/* Objects handled before a long batch lets others at the lock. */
#define STORE_SLICE     1024
#define STORE_ANY_RANGE UINT32_MAX

struct store {
	struct lk lk; /* guards all below that changes */
	struct arena *arena;
	uint8_t *base;
	uint32_t align_shift;
	enum store_policy policy;
	double watermark, ratio;
	struct store_observer observer;

	struct index ix;
	struct slots slots;
	struct names names;
	struct samples samples;
	/* One list per range, so that a range can be cleared by age; with IsolatedLRU each salt has its own instead. */
	struct lru lru[ARENA_MAX_RANGES];
	enum store_spill spill;
	uint8_t near[ARENA_MAX_RANGES][ARENA_MAX_RANGES]; /* ranges as seen from range i, itself first */
	/* Salts without a quota that have something to evict, a heap by the age of the oldest (IsolatedLRU). */
	uint32_t *heap;
	uint32_t nheap;
	uint64_t seq; /* the clock of obj.seq */
	uint64_t used_units, total_units;

	struct {
		uint64_t readable, reserved, locked, detached;
		uint64_t temporary; /* counted where the flag changes, and not by obj_tally, which every lookup calls */
		uint64_t lookups, hits, reserves, reserve_present, reserve_refused, commits, aborts, reads_finished;
		uint64_t evicted_objects, evicted_bytes, evict_ticks, evict_triggered, cleared, spill_bytes;
	} n;

	/* Checksums: a word per sub-block from the slot's first granule on, see below.c. Not under the lock. */
	_Atomic uint32_t *sums;
	uint32_t sums_shift;
	_Atomic bool sums_used; /* one was set since the start: until then there is nothing to clear */
};

static inline struct obj *obj_at(const struct store *s, uint32_t id)
{
	return &s->ix.o[id];
}

static inline uint64_t units_bytes(const struct store *s, uint64_t units)
{
	return units << s->align_shift;
}

/* Cleared or taken away: nothing may find it again, its bytes go with the last owner. */
static inline bool obj_is_dead(const struct store *s, const struct obj *o)
{
	return !(o->flags & OBJ_KEYED) || o->seq <= s->ix.dead_seq;
}

/* Lets others at the lock between slices of a long batch. */
void store_breathe(struct store *s);
/* Makes usable what the arena has committed of range i. */
void store_adopt_committed(struct store *s, uint32_t i);

/* Address space for the checksums: 0 or -ENOMEM. The slot of a new object has none. (below.c) */
int store_sums_create(struct store *s);
void store_sums_destroy(struct store *s);
void store_sums_clear(struct store *s, uint32_t id);

/* ---- life of an object (object.c) ------------------------------------------------------------------------------ */

/* Every change of flags or of "has locks" happens between tally(-1) and tally(1). */
void obj_tally(struct store *s, const struct obj *o, int by);
/* Takes the key out of the index; the object becomes detached. It must not be listed. */
void obj_detach(struct store *s, uint32_t id);
/* Gives record, slot and key back. It must not be listed. */
void obj_free(struct store *s, uint32_t id);
/* Removes a readable or reserved object by key: freed when nobody owns it, else detached. */
void obj_drop(struct store *s, uint32_t id);
/* Reserved -> readable, or freed when dead. True when readable. */
bool obj_commit(struct store *s, uint32_t id, uint64_t now_ms);
/* The same, but with `count` locks (at least one) instead of on an eviction list. */
bool obj_commit_locked(struct store *s, uint32_t id, uint16_t count, bool temporary, uint64_t now_ms);
/* False when it is being written or would have more than OBJ_MAX_LOCKS. */
bool obj_lock(struct store *s, uint32_t id, uint16_t count, uint64_t now_ms);
void obj_unlock(struct store *s, uint32_t id, uint16_t count);

/* ---- eviction (eviction.c, window.c) --------------------------------------------------------------------------- */

void lru_insert(struct store *s, uint32_t id); /* at the young end */
void lru_remove(struct store *s, uint32_t id);
/* The list whose oldest object is to go next; NULL when nothing can be evicted. */
struct lru *evict_next_list(struct store *s);
/* Anchors of one level: where to look for room, most deserving first. Level 0: salts without a quota; 1: the one
 * furthest over its quota; 2: anything. LRU knows level 0 only. `range`: only objects there, or STORE_ANY_RANGE. Returns how many of `max` ids were filled in. */
#define EVICT_LEVELS 3
uint32_t evict_anchors(struct store *s, uint32_t level, uint32_t range, uint32_t *ids, uint32_t max);
/* Whether an object may go when the search is at this level. */
bool evict_allowed(const struct store *s, const struct obj *o, uint32_t level);
void evict_one(struct store *s, uint32_t id, uint64_t now_ms);
/* Evicts in age order until at least `units` went; at most STORE_SLICE objects. Returns the units freed. */
uint64_t evict_units(struct store *s, uint64_t units, uint64_t now_ms);
uint64_t evict_from(struct store *s, struct lru *lru, uint64_t units, uint64_t now_ms);
/* A salt got or lost its quota. */
void evict_requota(struct store *s, uint32_t salt);
void evict_check(struct store *s);

/* Makes a free block of at least `units`, preferably (or, with `only`, at most) on `range`, by evicting. 0 when that cannot be
 * done. */
uint32_t window_make(struct store *s, uint32_t units, uint32_t range, bool only, uint64_t now_ms);

#endif
