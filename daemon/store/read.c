/* read.c - lookups, locks and ages. Every search goes through groups of keys, see index_int.h. */
#include "daemon/base/check.h"
#include "daemon/store/store_int.h"

#include <errno.h>
#include <string.h>

/* First groups are small: most prompts of a cold cache end at once. */
#define FIRST_GROUP 16

/* A walk over chunks x ranks in expansion order. */
struct walk {
	const store_ns *ns;
	const struct store_hash *hashes;
	uint32_t nranks;
	uint32_t chunk, rank;
};

static uint32_t walk_keys(struct walk *w, uint32_t n, struct index_key *keys)
{
	for (uint32_t i = 0; i < n; i++) {
		keys[i] = (struct index_key){&w->hashes[w->chunk], w->ns[w->rank]};
		if (++w->rank == w->nranks) {
			w->rank = 0;
			w->chunk++;
		}
	}
	return n;
}

/* Chunks and ranks come from requests; callers pass arrays of this many, so the product is known to fit. */
static uint32_t expansion(uint32_t nranks, uint32_t nchunks)
{
	uint64_t n = (uint64_t)nranks * nchunks;

	check(n <= UINT32_MAX);
	return (uint32_t)n;
}

/* The size a hit must have; units 0 = any. */
struct want {
	uint64_t units;
	uint32_t tail;
};

static struct want want_bytes(const struct store *s, uint64_t bytes)
{
	struct want w = {0, 0};

	if (bytes) {
		w.units = ((bytes - 1) >> s->align_shift) + 1;
		w.tail = (uint32_t)(units_bytes(s, w.units) - bytes);
	}
	return w;
}

static inline bool is_hit(const struct store *s, uint32_t id, const struct want *w)
{
	const struct obj *o = obj_at(s, id);

	return id && o->flags & OBJ_READABLE && (!w->units || (o->units == w->units && o->tail == w->tail));
}

/* Taking a stretch of a list out of it writes to the records at its ends. */
static void warm_neighbours(const struct store *s, uint32_t first, uint32_t last)
{
	__builtin_prefetch(obj_at(s, obj_at(s, first)->younger), 1);
	__builtin_prefetch(obj_at(s, obj_at(s, last)->older), 1);
}

static uint32_t lock_run(struct store *s, const uint32_t *ids, uint32_t n, uint16_t count, const struct want *w,
			 uint64_t now_ms)
{
	for (uint32_t i = 0; i < n; i++) {
		if (!is_hit(s, ids[i], w) || !obj_lock(s, ids[i], count, now_ms))
			return i;
	}
	return n;
}

/* Results of a walk whose caller does not keep them: as many as the index wants to see of what came before. */
struct trail {
	uint32_t ids[4 * INDEX_GROUP];
	uint32_t n;
};

static const uint32_t *trail_find(struct store *s, struct trail *t, const struct index_key *keys, uint32_t n,
				  uint32_t nranks)
{
	uint32_t *out;

	if (t->n + n > 4 * INDEX_GROUP) {
		memmove(t->ids, t->ids + t->n - 2 * INDEX_GROUP, 2 * INDEX_GROUP * sizeof(*t->ids));
		t->n = 2 * INDEX_GROUP;
	}
	out = t->ids + t->n;
	index_find_group(&s->ix, keys, n, nranks, t->n, out);
	t->n += n;
	return out;
}

static uint32_t next_group(uint32_t group, uint32_t left)
{
	return group < left ? group : left;
}

uint32_t store_lock_prefix(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			   uint32_t nchunks, uint16_t count, uint64_t bytes, uint64_t now_ms, store_obj *out)
{
	struct walk walk = {.ns = ns, .hashes = hashes, .nranks = nranks};
	uint32_t total = expansion(nranks, nchunks), done = 0, group = FIRST_GROUP, n, got;
	struct index_key keys[INDEX_GROUP];
	struct want want = want_bytes(s, bytes);
	uint32_t slice = STORE_SLICE;

	check(count > 0);
	lk_lock(&s->lk);
	for (; done < total; group = INDEX_GROUP) {
		n = walk_keys(&walk, next_group(group, total - done), keys);
		index_find_group(&s->ix, keys, n, nranks, done, out + done);
		warm_neighbours(s, out[done], out[done + n - 1]);
		got = lock_run(s, out + done, n, count, &want, now_ms);
		done += got;
		if (got < n)
			break;
		if (done >= slice && done < total) {
			store_breathe(s);
			slice = done + STORE_SLICE;
		}
	}
	s->n.lookups += total;
	s->n.hits += done;
	lk_unlock(&s->lk);
	return done;
}

uint32_t store_lock_present(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			    uint32_t first, uint32_t n, uint16_t count, uint64_t bytes, uint64_t now_ms, store_obj *out)
{
	struct walk walk = {
		.ns = ns, .hashes = hashes, .nranks = nranks, .chunk = first / nranks, .rank = first % nranks};
	struct want want = want_bytes(s, bytes);
	struct index_key keys[INDEX_GROUP];
	uint32_t done = 0, got = 0, step;

	check(count > 0);
	lk_lock(&s->lk);
	for (; done < n; done += step) {
		step = walk_keys(&walk, next_group(INDEX_GROUP, n - done), keys);
		index_find_group(&s->ix, keys, step, nranks, 0, out + done);
		for (uint32_t i = done; i < done + step; i++) {
			if (is_hit(s, out[i], &want) && obj_lock(s, out[i], count, now_ms))
				got++;
			else
				out[i] = 0;
		}
		if ((done / INDEX_GROUP + 1) % (STORE_SLICE / INDEX_GROUP) == 0)
			store_breathe(s);
	}
	lk_unlock(&s->lk);
	return got;
}

uint32_t store_peek_prefix(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			   uint32_t nchunks, uint64_t bytes)
{
	struct walk walk = {.ns = ns, .hashes = hashes, .nranks = nranks};
	uint32_t total = expansion(nranks, nchunks), done = 0, group = FIRST_GROUP, n, got;
	struct index_key keys[INDEX_GROUP];
	struct want want = want_bytes(s, bytes);
	uint32_t slice = STORE_SLICE;
	struct trail trail;
	const uint32_t *ids;

	trail.n = 0;
	lk_lock(&s->lk);
	for (; done < total; group = INDEX_GROUP) {
		n = walk_keys(&walk, next_group(group, total - done), keys);
		ids = trail_find(s, &trail, keys, n, nranks);
		for (got = 0; got < n && is_hit(s, ids[got], &want); got++)
			;
		done += got;
		if (got < n)
			break;
		if (done >= slice && done < total) {
			store_breathe(s);
			slice = done + STORE_SLICE;
		}
	}
	lk_unlock(&s->lk);
	return done;
}

/* Finds all before touching any, so that a miss changes nothing. Returns how many leading ones are hits. */
static uint32_t find_all(struct store *s, store_ns ns, const struct store_hash *hashes, uint32_t n,
			 const struct want *want, store_obj *out)
{
	struct walk walk = {.ns = &ns, .hashes = hashes, .nranks = 1};
	struct index_key keys[INDEX_GROUP];
	uint32_t done = 0, step;

	for (; done < n; done += step) {
		step = walk_keys(&walk, next_group(INDEX_GROUP, n - done), keys);
		index_find_group(&s->ix, keys, step, 1, done, out + done);
		for (uint32_t i = 0; i < step; i++) {
			if (!is_hit(s, out[done + i], want))
				return done + i;
		}
	}
	return n;
}

int store_lock_all(struct store *s, store_ns ns, const struct store_hash *hashes, uint32_t n, uint64_t bytes,
		   uint64_t now_ms, store_obj *out, uint32_t *missing)
{
	struct want want = want_bytes(s, bytes);
	uint32_t got;

	lk_lock(&s->lk);
	got = find_all(s, ns, hashes, n, &want, out);
	if (got == n) {
		got = lock_run(s, out, n, 1, &want, now_ms);
		for (uint32_t i = got; got < n && i-- > 0;)
			obj_unlock(s, out[i], 1); /* one of them has all the locks it can have */
	}
	s->n.lookups += n;
	s->n.hits += got;
	lk_unlock(&s->lk);
	if (got == n)
		return 0;
	if (missing)
		*missing = got;
	return -ENOENT;
}

void store_unlock(struct store *s, const store_obj *objs, const uint16_t *counts, uint32_t n, uint64_t now_ms)
{
	uint32_t seen = 0;

	(void)now_ms; /* ages are counted in use, not in time */
	lk_lock(&s->lk);
	for (uint32_t i = n; i-- > 0;) {
		if (i >= 8)
			__builtin_prefetch(obj_at(s, objs[i - 8]), 1);
		if (!objs[i])
			continue;
		if (++seen % STORE_SLICE == 0)
			store_breathe(s);
		obj_unlock(s, objs[i], counts ? counts[i] : 1);
	}
	s->n.reads_finished += seen;
	lk_unlock(&s->lk);
}

/* Keys in reverse expansion order, from position `at` down. */
static void keys_backwards(const store_ns *ns, uint32_t nranks, const struct store_hash *hashes, uint32_t at,
			   uint32_t n, struct index_key *keys)
{
	uint32_t chunk = at / nranks, rank = at % nranks;

	for (uint32_t i = 0; i < n; i++) {
		keys[i] = (struct index_key){&hashes[chunk], ns[rank]};
		if (rank-- == 0) {
			rank = nranks - 1;
			chunk--;
		}
	}
}

void store_touch(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
		 uint32_t nchunks, uint64_t now_ms)
{
	uint32_t left = expansion(nranks, nchunks), n, since = 0;
	struct index_key keys[INDEX_GROUP];
	struct trail trail;
	const uint32_t *ids;

	(void)now_ms; /* ages are counted in use, not in time */
	trail.n = 0;
	lk_lock(&s->lk);
	for (; left; left -= n) {
		n = next_group(INDEX_GROUP, left);
		keys_backwards(ns, nranks, hashes, left - 1, n, keys);
		ids = trail_find(s, &trail, keys, n, nranks);
		for (uint32_t i = 0; i < n; i++) {
			if (ids[i] && obj_at(s, ids[i])->flags & OBJ_LISTED) {
				lru_remove(s, ids[i]);
				lru_insert(s, ids[i]);
			}
		}
		since += n;
		if (since >= STORE_SLICE) {
			store_breathe(s);
			since = 0;
		}
	}
	lk_unlock(&s->lk);
}
