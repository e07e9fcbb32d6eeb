/* requests.c - what other threads ask of the tier: put on lists under its lock, or answered from memory. */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/tier/tier_int.h"

#include <errno.h>
#include <string.h>

/* ---- storing ----------------------------------------------------------------------------------------------------------- */

static bool has_room(const struct tier *t, uint64_t bytes)
{
	return t->free_items && !t->stopping && t->c.nadapters &&
	       (t->dirty_bytes + bytes <= t->c.max_dirty_bytes || !t->dirty_objects);
}

bool tier_accepts(struct tier *t, uint32_t n, uint64_t bytes)
{
	bool ok;

	lk_lock(&t->lk);
	ok = n && has_room(t, bytes);
	lk_unlock(&t->lk);
	return ok;
}

static bool hand_over(struct tier *t, uint32_t name, const struct store_hash *hash, store_obj obj, bool hit)
{
	uint64_t bytes = store_bytes(t->c.store, obj);
	struct item *it = t->free_items;

	if (!name || !has_room(t, bytes)) {
		add(&t->n.store_dropped, t->c.nadapters);
		return false;
	}
	t->free_items = it->next;
	*it = (struct item){.hash = *hash, .name = name, .obj = obj, .bytes = bytes, .hit = hit};
	*t->new_items_end = it;
	t->new_items_end = &it->next;
	t->dirty_objects++;
	t->dirty_bytes += bytes;
	return true;
}

/* Up to BATCH objects, each locked for the tier. What it does not take is unlocked. */
static void hand_over_batch(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs,
			    uint32_t n, bool hit)
{
	store_obj back[BATCH];
	uint32_t nback = 0;

	lk_lock(&t->lk);
	for (uint32_t i = 0; i < n; i++) {
		if (objs[i] && !hand_over(t, name, &hashes[i], objs[i], hit))
			back[nback++] = objs[i];
	}
	atomic_store(&t->todo, 1);
	lk_unlock(&t->lk);
	if (nback)
		store_unlock(t->c.store, back, NULL, nback, clock_ms());
}

/* Of new objects those seen before; the others go back at once. */
static void admit_batch(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs,
			uint32_t n)
{
	store_obj in[BATCH] = {0}, out[BATCH];
	uint32_t nout = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (!objs[i])
			continue;
		if (sketch_touch(t->sketch, name, &hashes[i]) > 1)
			in[i] = objs[i];
		else
			out[nout++] = objs[i];
	}
	add(&t->n.not_admitted, nout);
	if (nout)
		store_unlock(t->c.store, out, NULL, nout, clock_ms());
	if (nout < n)
		hand_over_batch(t, name, hashes, in, n, false);
}

void tier_store(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n)
{
	uint64_t objects = 0, bytes = 0;

	for (uint32_t i = 0; i < n; i++) {
		objects += objs[i] != 0;
		bytes += objs[i] ? store_bytes(t->c.store, objs[i]) : 0;
	}
	add(&t->n.store_requests, 1);
	add(&t->n.store_objects, objects);
	add(&t->n.store_bytes, bytes);
	tally(t, TIER_COUNT_STORE, name, objects);
	for (uint32_t at = 0; at < n; at += BATCH) {
		uint32_t step = n - at < BATCH ? n - at : BATCH;
		if (t->sketch)
			admit_batch(t, name, hashes + at, objs + at, step);
		else
			hand_over_batch(t, name, hashes + at, objs + at, step, false);
	}
	tier_wake(t);
}

/* Written at the second touch exactly: later ones find it written, or dropped on purpose. */
static bool touch_batch(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs,
			uint32_t n)
{
	store_obj in[BATCH] = {0};
	uint32_t nin = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (objs[i] && sketch_touch(t->sketch, name, &hashes[i]) == 2) {
			in[i] = objs[i];
			nin++;
		}
	}
	if (!nin)
		return false;
	store_lock_more(t->c.store, in, n);
	hand_over_batch(t, name, hashes, in, n, true);
	return true;
}

void tier_touched(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n)
{
	bool any = false;

	/* Touches are not counted while nothing can be written: the second one is then yet to come. */
	if (!t->sketch || !name || !tier_accepts(t, n, 0))
		return;
	for (uint32_t at = 0; at < n; at += BATCH)
		any |= touch_batch(t, name, hashes + at, objs + at, n - at < BATCH ? n - at : BATCH);
	if (any)
		tier_wake(t);
}

int tier_flush(struct tier *t, void (*done)(void *ctx, int result), void *ctx)
{
	int err = -EAGAIN;

	lk_lock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES && !t->stopping; i++) {
		struct flush *f = &t->flush[i];
		if (f->state != FLUSH_FREE)
			continue;
		f->state = FLUSH_NEW;
		f->done = done;
		f->ctx = ctx;
		f->told = false;
		f->deadline_ns = clock_ns() + FLUSH_NS;
		t->nflushes++;
		atomic_store(&t->todo, 1);
		err = 0;
		break;
	}
	lk_unlock(&t->lk);
	tier_wake(t);
	return err;
}

/* ---- prefetching ------------------------------------------------------------------------------------------------------- */

static void found_one(struct l2_find *f)
{
	(void)f; /* answered before l2_find returns */
}

bool tier_may_have(struct tier *t, const struct seg_key *first, uint64_t bytes)
{
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		uint64_t has = 0;
		struct l2_find f = {.keys = first, .bytes = &has, .n = 1, .done = found_one};
		struct l2 *a = t->lane[i].a;

		if (!a->ops->local)
			return true;
		a->ops->find(a, &f);
		if (has && (has == bytes || has == L2_SOME_SIZE))
			return true;
	}
	return false;
}

int tier_prefetch(struct tier *t, const struct tier_want *w)
{
	struct job *j;
	bool full;

	lk_lock(&t->lk);
	full = t->stopping || t->njobs >= JOBS_WAITING;
	t->njobs += !full;
	lk_unlock(&t->lk);
	j = full ? NULL : job_make(t, w);
	if (!j) {
		for (uint32_t r = 0; r < w->world_size; r++)
			store_ns_put(t->c.store, w->ns[r]);
		lk_lock(&t->lk);
		t->njobs -= !full;
		lk_unlock(&t->lk);
		return full ? -EAGAIN : -ENOMEM;
	}
	add(&t->n.jobs, 1);
	add(&t->n.lookup_objects, j->total);
	tally_job(t, j, TIER_COUNT_LOOKUP, 0, j->total);
	lk_lock(&t->lk);
	*t->new_jobs_end = j;
	t->new_jobs_end = &j->next;
	j->id_next = t->by_id[j->id % JOBS_WAITING];
	t->by_id[j->id % JOBS_WAITING] = j;
	atomic_store(&t->todo, 1);
	lk_unlock(&t->lk);
	tier_wake(t);
	return 0;
}

void tier_cancel(struct tier *t, uint64_t id)
{
	bool any = false;

	lk_lock(&t->lk);
	for (struct job *j = t->by_id[id % JOBS_WAITING]; j; j = j->id_next) {
		if (j->id != id || j->cancelled)
			continue;
		j->cancelled = any = true;
		t->cancels++;
		atomic_store(&t->todo, 1);
	}
	lk_unlock(&t->lk);
	if (any)
		tier_wake(t);
}
