/* below.c - what the tiers below L1 need beyond reading and writing: objects that appear locked, objects that go with their last lock,
 * and the checksums that travel with the bytes.
 *
 * Checksums lie in an array of their own, at most a word per unit of the arena: an object's begin at the number of its slot's first granule. A
 * granule is never larger than a sub-block, so a slot has at least as many granules as its object has sub-blocks, and
 * neighbours cannot overlap. Address space only, until something below L1 sets the first.
 */
#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/store/store_int.h"
#include "daemon/store/varray_int.h"

#include <errno.h>
#include <stdatomic.h>

uint32_t store_commit_locked(struct store *s, store_obj *objs, uint32_t n, uint16_t count, bool temporary,
			     uint64_t now_ms)
{
	uint32_t done = 0, seen = 0;

	lk_lock(&s->lk);
	for (uint32_t i = 0; i < n; i++) {
		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		if (obj_commit_locked(s, objs[i], count, temporary, now_ms))
			done++;
		else
			objs[i] = 0;
	}
	s->n.commits += done;
	lk_unlock(&s->lk);
	return done;
}

void store_unlock_drop(struct store *s, const store_obj *objs, uint32_t n, uint64_t now_ms)
{
	uint32_t seen = 0;

	(void)now_ms; /* as store_unlock */
	lk_lock(&s->lk);
	for (uint32_t i = 0; i < n; i++) {
		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		s->n.temporary += !(obj_at(s, objs[i])->flags & OBJ_TEMP);
		obj_at(s, objs[i])->flags |= OBJ_TEMP;
		obj_unlock(s, objs[i], 1);
	}
	s->n.reads_finished += seen;
	lk_unlock(&s->lk);
}

uint32_t store_lock_more(struct store *s, store_obj *objs, uint32_t n)
{
	uint32_t done = 0, seen = 0;

	lk_lock(&s->lk);
	for (uint32_t i = 0; i < n; i++) {
		struct obj *o = obj_at(s, objs[i]);

		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		check(o->flags & OBJ_READABLE && o->locks);
		if (o->locks == OBJ_MAX_LOCKS) {
			objs[i] = 0;
			continue;
		}
		o->locks++;
		done++;
	}
	lk_unlock(&s->lk);
	return done;
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

static size_t granules(const struct store *s)
{
	return (size_t)(arena_bytes(s->arena) >> s->sums_shift) + 1;
}

int store_sums_create(struct store *s)
{
	uint32_t block = (uint32_t)__builtin_ctz(CRC_BLOCK);

	s->sums_shift = s->align_shift < block ? s->align_shift : block;
	s->sums = varray_map(granules(s), sizeof(*s->sums));
	return s->sums ? 0 : -ENOMEM;
}

void store_sums_destroy(struct store *s)
{
	varray_unmap((void *)s->sums, granules(s), sizeof(*s->sums));
}

static _Atomic uint32_t *sums_of(const struct store *s, uint32_t id)
{
	return s->sums + (store_offset(s, id) >> s->sums_shift);
}

/* Whoever had the slot before, and set sums in it, gave it back under the lock that is held now: no set can be missed. */
void store_sums_clear(struct store *s, uint32_t id)
{
	if (atomic_load_explicit(&s->sums_used, memory_order_relaxed))
		atomic_store_explicit(sums_of(s, id), 0, memory_order_relaxed);
}

void store_sums_set(struct store *s, store_obj o, const uint32_t *sums)
{
	_Atomic uint32_t *to = sums_of(s, o);

	if (!atomic_load_explicit(&s->sums_used, memory_order_relaxed))
		atomic_store_explicit(&s->sums_used, true, memory_order_relaxed);
	for (uint32_t i = crc_blocks(store_bytes(s, o)) - 1; i > 0; i--)
		atomic_store_explicit(&to[i], sums[i], memory_order_relaxed);
	/* The first says that the others are there. */
	atomic_store_explicit(&to[0], sums[0], memory_order_release);
}

bool store_sums_get(const struct store *s, store_obj o, uint32_t *sums)
{
	_Atomic uint32_t *from = sums_of(s, o);

	sums[0] = atomic_load_explicit(&from[0], memory_order_acquire);
	if (!sums[0])
		return false;
	for (uint32_t i = 1; i < crc_blocks(store_bytes(s, o)); i++)
		sums[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
	return true;
}
