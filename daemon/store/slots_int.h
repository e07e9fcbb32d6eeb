/* slots_int.h - which bytes of the arena belong to which object.
 *
 * Per arena range an allocator of any size from one unit (the store's alignment) to the whole range. Blocks tile the
 * range: each knows its physical neighbours, free ones are merged at once and hang in size classes (two levels, as in
 * TLSF), so taking, giving back and merging cost a constant. All bookkeeping is out of band: a used block is a 12-byte
 * record with the number of its object (its size is in the object), a free one has 24 bytes. There are never more free
 * blocks than used ones plus one per range.
 *
 * A link is a block: 0 = end of the range, top bit set = free block, else the object that owns it.
 * Threads: under the store's lock.
 */
#ifndef DAEMON_STORE_SLOTS_INT_H
#define DAEMON_STORE_SLOTS_INT_H

#include "numa/node.h"

#include <stdbool.h>
#include <stdint.h>

#define SLOT_FREE    0x80000000u
#define SLOT_FL      28
#define SLOT_SL_BITS 5
#define SLOT_SL      (1u << SLOT_SL_BITS)

struct slot_used {
	uint32_t off; /* units from the start of the arena */
	uint32_t prev, next;
};

struct slot_free {
	uint32_t off, units;
	uint32_t prev, next;
	uint32_t fl_prev, fl_next; /* the class's list; fl_next also the list of unused records */
};

struct slot_range {
	uint32_t start, units; /* of the arena, whole range */
	uint32_t grown;        /* units from the start that are usable */
	uint32_t free_units;
	uint32_t first, last; /* links */
	uint32_t hole;        /* the free block last cut from (record number), 0 = none */
	node_id node;
	bool grow_failed; /* the arena could not commit more; store_tick tries again */
	uint32_t fl_map;
	uint32_t sl_map[SLOT_FL];
	uint32_t head[SLOT_FL][SLOT_SL];
};

struct slots {
	struct slot_used *used; /* by object id */
	struct slot_free *free; /* by link without SLOT_FREE; 0 is not used */
	uint32_t used_cap, free_cap;
	uint32_t free_hi, free_unused, nfree;
	uint32_t nranges;
	struct slot_range *range;
};

/* Object ids up to max_objects. 0 or -ENOMEM. Ranges are filled in with slots_range before anything else is called. */
int slots_create(struct slots *s, uint32_t max_objects, uint32_t nranges);
void slots_destroy(struct slots *s);
void slots_range(struct slots *s, uint32_t i, uint32_t start, uint32_t units, node_id node);
/* The first `units` of range i may be used from now on (never fewer than before). */
void slots_grow(struct slots *s, uint32_t i, uint32_t units);

/* A free block of range i (a link) that is large enough; 0 when there is none. */
uint32_t slots_find(const struct slots *s, uint32_t i, uint32_t units);
/* Gives the first `units` of a free block to an object. */
void slots_take(struct slots *s, uint32_t block, uint32_t units, uint32_t obj);
/* `units` as given to slots_take. */
void slots_release(struct slots *s, uint32_t obj, uint32_t units);

uint32_t slots_range_of(const struct slots *s, uint32_t off);
/* Units of the largest block of range i, what can still be committed behind it included. */
uint32_t slots_largest(const struct slots *s, uint32_t i);
/* Walks every range; units_of tells the size of an object's slot. Returns the used units. */
uint64_t slots_check(const struct slots *s, uint32_t (*units_of)(void *ctx, uint32_t obj), void *ctx);

static inline uint32_t slots_next(const struct slots *s, uint32_t link)
{
	return link & SLOT_FREE ? s->free[link & ~SLOT_FREE].next : s->used[link].next;
}

static inline uint32_t slots_prev(const struct slots *s, uint32_t link)
{
	return link & SLOT_FREE ? s->free[link & ~SLOT_FREE].prev : s->used[link].prev;
}

#endif
