#include "daemon/store/slots_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/store/varray_int.h"

#include <errno.h>
#include <string.h>

/* How many blocks of a class are compared for the best fit. A class spans 3 % in size, so this is about slivers. */
#define FIT_TRIES 16
/* The same where nothing larger is left, before the store has to evict or refuse. */
#define FIT_TRIES_LAST 256

int slots_create(struct slots *s, uint32_t max_objects, uint32_t nranges)
{
	memset(s, 0, sizeof(*s));
	s->used_cap = max_objects + 1;
	s->free_cap = max_objects + nranges + 2;
	s->nranges = nranges;
	s->used = varray_map(s->used_cap, sizeof(*s->used));
	s->free = varray_map(s->free_cap, sizeof(*s->free));
	s->range = mem_calloc(nranges, sizeof(*s->range));
	if (s->used && s->free && s->range)
		return 0;
	slots_destroy(s);
	return -ENOMEM;
}

void slots_destroy(struct slots *s)
{
	varray_unmap(s->used, s->used_cap, sizeof(*s->used));
	varray_unmap(s->free, s->free_cap, sizeof(*s->free));
	mem_free(s->range);
	memset(s, 0, sizeof(*s));
}

void slots_range(struct slots *s, uint32_t i, uint32_t start, uint32_t units, node_id node)
{
	s->range[i] = (struct slot_range){.start = start, .units = units, .node = node};
}

uint32_t slots_range_of(const struct slots *s, uint32_t off)
{
	for (uint32_t i = 0; i < s->nranges; i++) {
		if (off - s->range[i].start < s->range[i].units)
			return i;
	}
	check(!"offset outside every range");
	return 0;
}

/* ---- size classes: exact below 32 units, then 32 per power of two ---------------------------------------------- */

static uint32_t class_of(uint32_t units, uint32_t *sl)
{
	uint32_t log = 31u - (uint32_t)__builtin_clz(units);

	if (log < SLOT_SL_BITS) {
		*sl = units;
		return 0;
	}
	*sl = (units >> (log - SLOT_SL_BITS)) & (SLOT_SL - 1);
	return log - SLOT_SL_BITS + 1;
}

static void class_insert(struct slots *s, struct slot_range *r, uint32_t fid)
{
	struct slot_free *f = &s->free[fid];
	uint32_t sl, fl = class_of(f->units, &sl);

	f->fl_prev = 0;
	f->fl_next = r->head[fl][sl];
	if (f->fl_next)
		s->free[f->fl_next].fl_prev = fid;
	r->head[fl][sl] = fid;
	r->sl_map[fl] |= 1u << sl;
	r->fl_map |= 1u << fl;
}

static void class_remove(struct slots *s, struct slot_range *r, uint32_t fid)
{
	struct slot_free *f = &s->free[fid];
	uint32_t sl, fl = class_of(f->units, &sl);

	if (f->fl_next)
		s->free[f->fl_next].fl_prev = f->fl_prev;
	if (f->fl_prev) {
		s->free[f->fl_prev].fl_next = f->fl_next;
		return;
	}
	r->head[fl][sl] = f->fl_next;
	if (f->fl_next)
		return;
	r->sl_map[fl] &= ~(1u << sl);
	if (!r->sl_map[fl])
		r->fl_map &= ~(1u << fl);
}

/* The smallest that fits among the first few of a class. */
static uint32_t class_fit(const struct slots *s, uint32_t fid, uint32_t units, int tries)
{
	uint32_t best = 0;

	for (int n = 0; fid && n < tries; n++, fid = s->free[fid].fl_next) {
		if (s->free[fid].units < units)
			continue;
		if (!best || s->free[fid].units < s->free[best].units)
			best = fid;
		if (s->free[fid].units == units)
			break;
	}
	return best;
}

/* The next class above that has blocks: all of them fit. 0 when there is none. */
static uint32_t larger_class(const struct slot_range *r, uint32_t fl, uint32_t sl)
{
	uint32_t map = sl + 1 < SLOT_SL ? r->sl_map[fl] & (~0u << (sl + 1)) : 0;

	if (!map) {
		uint32_t above = fl + 1 < SLOT_FL ? r->fl_map & (~0u << (fl + 1)) : 0;
		if (!above)
			return 0;
		fl = (uint32_t)__builtin_ctz(above);
		map = r->sl_map[fl];
	}
	return r->head[fl][__builtin_ctz(map)];
}

/* Where the last slot was cut; else the class `units` itself belongs to, where some are too small; else the next. */
uint32_t slots_find(const struct slots *s, uint32_t i, uint32_t units)
{
	const struct slot_range *r = &s->range[i];
	uint32_t sl, fl = class_of(units, &sl), larger, fid;

	if (r->hole && s->free[r->hole].units >= units)
		return r->hole | SLOT_FREE;
	fid = class_fit(s, r->head[fl][sl], units, FIT_TRIES);
	if (!fid) {
		larger = larger_class(r, fl, sl);
		fid = larger ? class_fit(s, larger, units, FIT_TRIES)
			     : class_fit(s, r->head[fl][sl], units, FIT_TRIES_LAST);
	}
	return fid ? fid | SLOT_FREE : 0;
}

/* ---- blocks ---------------------------------------------------------------------------------------------------- */

static void set_next(struct slots *s, struct slot_range *r, uint32_t link, uint32_t to)
{
	if (!link)
		r->first = to;
	else if (link & SLOT_FREE)
		s->free[link & ~SLOT_FREE].next = to;
	else
		s->used[link].next = to;
}

static void set_prev(struct slots *s, struct slot_range *r, uint32_t link, uint32_t to)
{
	if (!link)
		r->last = to;
	else if (link & SLOT_FREE)
		s->free[link & ~SLOT_FREE].prev = to;
	else
		s->used[link].prev = to;
}

static uint32_t free_record_take(struct slots *s)
{
	uint32_t fid = s->free_unused;

	if (fid)
		s->free_unused = s->free[fid].fl_next;
	else
		fid = ++s->free_hi;
	check(fid < s->free_cap);
	s->nfree++;
	return fid;
}

static void free_record_put(struct slots *s, uint32_t fid)
{
	s->free[fid].units = 0;
	s->free[fid].fl_next = s->free_unused;
	s->free_unused = fid;
	s->nfree--;
}

/* Puts a free block between two links, merging it with whichever of them is free. */
static void block_free(struct slots *s, struct slot_range *r, uint32_t off, uint32_t units, uint32_t prev,
		       uint32_t next)
{
	uint32_t fid = 0;

	r->free_units += units;
	if (next & SLOT_FREE) {
		fid = next & ~SLOT_FREE;
		class_remove(s, r, fid);
		units += s->free[fid].units;
		next = s->free[fid].next;
	}
	if (prev & SLOT_FREE) {
		uint32_t before = prev & ~SLOT_FREE;
		class_remove(s, r, before);
		off = s->free[before].off;
		units += s->free[before].units;
		prev = s->free[before].prev;
		if (fid) {
			free_record_put(s, fid);
			if (r->hole == fid)
				r->hole = before;
		}
		fid = before;
	}
	if (!fid)
		fid = free_record_take(s);
	s->free[fid] = (struct slot_free){.off = off, .units = units, .prev = prev, .next = next};
	set_next(s, r, prev, fid | SLOT_FREE);
	set_prev(s, r, next, fid | SLOT_FREE);
	class_insert(s, r, fid);
}

void slots_grow(struct slots *s, uint32_t i, uint32_t units)
{
	struct slot_range *r = &s->range[i];
	uint32_t more;

	check(units <= r->units);
	if (units <= r->grown)
		return;
	more = units - r->grown;
	block_free(s, r, r->start + r->grown, more, r->last, 0);
	r->grown = units;
}

void slots_take(struct slots *s, uint32_t block, uint32_t units, uint32_t obj)
{
	uint32_t fid = block & ~SLOT_FREE;
	struct slot_free *f = &s->free[fid];
	struct slot_range *r = &s->range[slots_range_of(s, f->off)];

	check(block & SLOT_FREE && f->units >= units);
	class_remove(s, r, fid);
	s->used[obj] = (struct slot_used){.off = f->off, .prev = f->prev, .next = f->next};
	set_next(s, r, f->prev, obj);
	if (f->units > units) {
		f->off += units;
		f->units -= units;
		f->prev = obj;
		s->used[obj].next = block;
		class_insert(s, r, fid);
		r->hole = fid;
	} else {
		set_prev(s, r, f->next, obj);
		free_record_put(s, fid);
		if (r->hole == fid)
			r->hole = 0;
	}
	r->free_units -= units;
}

void slots_release(struct slots *s, uint32_t obj, uint32_t units)
{
	struct slot_used *u = &s->used[obj];

	block_free(s, &s->range[slots_range_of(s, u->off)], u->off, units, u->prev, u->next);
}

uint32_t slots_largest(const struct slots *s, uint32_t i)
{
	const struct slot_range *r = &s->range[i];
	uint32_t best = r->units - r->grown, fl, fid;

	if (r->last & SLOT_FREE)
		best += s->free[r->last & ~SLOT_FREE].units;
	if (!r->fl_map)
		return best;
	fl = 31u - (uint32_t)__builtin_clz(r->fl_map);
	fid = r->head[fl][31 - __builtin_clz(r->sl_map[fl])];
	for (int n = 0; fid && n < 1024; n++, fid = s->free[fid].fl_next)
		best = s->free[fid].units > best ? s->free[fid].units : best;
	return best;
}

/* ---- invariants ------------------------------------------------------------------------------------------------ */

static uint32_t check_classes(const struct slots *s, const struct slot_range *r)
{
	uint32_t n = 0, sl;

	for (uint32_t fl = 0; fl < SLOT_FL; fl++) {
		check(!!(r->fl_map >> fl & 1) == !!r->sl_map[fl]);
		for (uint32_t i = 0; i < SLOT_SL; i++) {
			uint32_t before = 0;
			check(!!(r->sl_map[fl] >> i & 1) == !!r->head[fl][i]);
			for (uint32_t f = r->head[fl][i]; f; before = f, f = s->free[f].fl_next, n++) {
				check(s->free[f].fl_prev == before);
				check(class_of(s->free[f].units, &sl) == fl && sl == i);
			}
		}
	}
	return n;
}

uint64_t slots_check(const struct slots *s, uint32_t (*units_of)(void *ctx, uint32_t obj), void *ctx)
{
	uint64_t used_units = 0;
	uint32_t nfree = 0;

	for (uint32_t i = 0; i < s->nranges; i++) {
		const struct slot_range *r = &s->range[i];
		uint32_t at = r->start, before = 0, free_units = 0, blocks = 0;

		for (uint32_t l = r->first; l; before = l, l = slots_next(s, l)) {
			bool is_free = l & SLOT_FREE;
			uint32_t units = is_free ? s->free[l & ~SLOT_FREE].units : units_of(ctx, l);
			check(slots_prev(s, l) == before);
			check((is_free ? s->free[l & ~SLOT_FREE].off : s->used[l].off) == at && units > 0);
			check(!(is_free && before & SLOT_FREE));
			at += units;
			blocks += is_free;
			free_units += is_free ? units : 0;
		}
		check(r->last == before && at == r->start + r->grown && free_units == r->free_units);
		check(check_classes(s, r) == blocks);
		used_units += r->grown - free_units;
		nfree += blocks;
	}
	check(nfree == s->nfree);
	return used_units;
}
