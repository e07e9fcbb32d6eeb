/* load.c - objects on their way up: one load per object, whoever and however many wait for it.
 *
 * A load owns its reservation in L1 until the IO is back, whatever happens to the jobs that wanted it. With waiters its bytes count
 * against the budget; without, they are quarantined: an adapter that holds too many of those is not asked again until it gives some back.
 */
#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/tier/tier_int.h"

#include <errno.h>
#include <string.h>

#define LOAD_BYTES (256u << 10) /* loads are counted for objects of this size */
#define LEAST      64u
#define MOST       2048u

int load_create(struct tier *t)
{
	uint64_t n = t->c.max_load_bytes / LOAD_BYTES;

	t->nloads = (uint32_t)(n < LEAST ? LEAST : n > MOST ? MOST : n);
	t->load_mask = 1;
	while (t->load_mask < 2 * t->nloads)
		t->load_mask *= 2;
	t->load_of = mem_calloc(t->load_mask--, sizeof(struct load *));
	t->loads = mem_calloc(t->nloads, sizeof(*t->loads));
	t->waiters = mem_calloc(2 * (size_t)t->nloads, sizeof(*t->waiters));
	if (!t->load_of || !t->loads || !t->waiters)
		return -ENOMEM;
	for (uint32_t i = t->nloads; i-- > 0;) {
		t->loads[i].next = t->free_loads;
		t->free_loads = &t->loads[i];
	}
	for (uint32_t i = 2 * t->nloads; i-- > 0;) {
		t->waiters[i].next = t->free_waiters;
		t->free_waiters = &t->waiters[i];
	}
	return 0;
}

void load_destroy(struct tier *t)
{
	for (uint32_t i = 0; t->loads && i < t->nloads; i++)
		sums_free(&t->loads[i].sums);
	mem_free((void *)t->load_of);
	mem_free(t->loads);
	mem_free(t->waiters);
}

/* ---- which object is being loaded ---------------------------------------------------------------------------------------- */

static struct load **chain_of(const struct tier *t, store_ns ns, const struct store_hash *hash)
{
	uint64_t w;

	memcpy(&w, hash->b, sizeof(w));
	w = (w ^ ns) * 0x9e3779b97f4a7c15u;
	return &t->load_of[(w >> 32) & t->load_mask];
}

static struct load *load_find(const struct tier *t, store_ns ns, const struct store_hash *hash)
{
	struct load *l = *chain_of(t, ns, hash);

	while (l && (l->ns != ns || memcmp(l->io.key.hash.b, hash->b, sizeof(hash->b)) != 0))
		l = l->next;
	return l;
}

static void unchain(struct tier *t, struct load *l)
{
	struct load **p = chain_of(t, l->ns, &l->io.key.hash);

	while (*p != l)
		p = &(*p)->next;
	*p = l->next;
}

/* ---- budget -------------------------------------------------------------------------------------------------------------- */

static bool has_budget(const struct tier *t, uint64_t bytes)
{
	return !t->loading_bytes || t->loading_bytes + bytes <= t->c.max_load_bytes;
}

static void count_loading(struct tier *t, const struct load *l, int by)
{
	t->loading_bytes += (uint64_t)by * l->io.bytes;
	put(&t->n.loading_bytes, t->loading_bytes);
}

static void count_quarantined(struct tier *t, const struct load *l, int by)
{
	t->quarantined_bytes += (uint64_t)by * l->io.bytes;
	t->lane[l->lane].quarantined += (uint64_t)by * l->io.bytes;
	t->lane[l->lane].nquarantined += (uint32_t)by;
	put(&t->n.quarantined_bytes, t->quarantined_bytes);
}

/* ---- who waits ----------------------------------------------------------------------------------------------------------- */

static void wait_for(struct tier *t, struct load *l, struct job *j, uint32_t i)
{
	struct waiter *w = t->free_waiters;

	t->free_waiters = w->next;
	*w = (struct waiter){.next = l->waiters, .job = j, .at = i};
	l->waiters = w;
	l->locks += j->locks;
	j->load[i] = l;
	j->objs[i] = l->obj;
	j->spot[i] = SPOT_LOADING;
}

static enum try join(struct tier *t, struct load *l, struct job *j, uint32_t i)
{
	if (l->io.key.name != j->names[(j->rank0 + i) % j->world] || l->io.bytes != bytes_of(j, i) ||
	    !t->free_waiters || l->locks + j->locks > JOB_MAX_LOCKS)
		return TRY_CONTENDED;
	if (!l->waiters) {
		if (!has_budget(t, l->io.bytes))
			return TRY_NO_BUDGET;
		count_quarantined(t, l, -1);
		count_loading(t, l, 1);
	}
	add(&t->n.coalesced, 1);
	wait_for(t, l, j, i);
	return TRY_TAKEN;
}

void load_leave(struct tier *t, struct job *j, uint32_t i)
{
	struct load *l = j->load[i];
	struct waiter **p = &l->waiters, *w;

	while ((*p)->job != j || (*p)->at != i)
		p = &(*p)->next;
	w = *p;
	*p = w->next;
	w->next = t->free_waiters;
	t->free_waiters = w;
	l->locks -= j->locks;
	j->spot[i] = SPOT_NONE;
	j->objs[i] = 0;
	if (!l->waiters) {
		count_loading(t, l, -1);
		count_quarantined(t, l, 1);
	}
}

/* ---- up ------------------------------------------------------------------------------------------------------------------ */

static void start(struct tier *t, struct load *l, struct job *j, uint32_t i, uint64_t now_ns)
{
	uint32_t rank = (j->rank0 + i) % j->world, chunk = (j->rank0 + i) / j->world;
	struct load **chain = chain_of(t, j->ns[rank], &j->hashes[chunk]);

	t->free_loads = l->next;
	l->ns = j->ns[rank];
	l->lane = j->source[i] - 1u;
	l->waiters = NULL;
	l->locks = 0;
	l->next = *chain;
	*chain = l;
	l->io.key = (struct seg_key){j->names[rank], j->hashes[chunk]};
	l->io.mem = store_ptr(t->c.store, l->obj);
	l->io.bytes = j->bytes[rank];
	l->io.sums[0] = 0;
	l->io.result = 0;
	l->io.done = tier_io_done;
	l->io.owner = t;
	l->io.tag = IO_LOAD;
	l->io.submitted_ns = now_ns;
	t->loading++;
	count_loading(t, l, 1);
	wait_for(t, l, j, i);
	add(&t->n.load_objects, 1);
	tally(t, TIER_COUNT_LOAD, j->names[rank], 1);
	t->lane[l->lane].a->ops->load(t->lane[l->lane].a, &l->io);
}

enum try load_try(struct tier *t, struct job *j, uint32_t i, uint64_t now_ns)
{
	uint32_t rank = (j->rank0 + i) % j->world, chunk = (j->rank0 + i) / j->world;
	struct load *l = load_find(t, j->ns[rank], &j->hashes[chunk]);
	struct store_reserve_result r;
	uint64_t bytes = j->bytes[rank];

	if (l)
		return join(t, l, j, i);
	l = t->free_loads;
	if (!l || !t->free_waiters || !has_budget(t, bytes))
		return TRY_NO_BUDGET;
	l->io.sums = sums_for(&l->sums, bytes);
	if (!l->io.sums)
		return TRY_NO_ROOM;
	r = store_reserve(t->c.store, j->ns[rank], &j->hashes[chunk], 1, bytes, j->node, now_ns / 1000000, &l->obj);
	if (r.reserved) {
		start(t, l, j, i, now_ns);
		return TRY_TAKEN;
	}
	if (!r.present)
		return TRY_NO_ROOM;
	/* Stored by an engine meanwhile, or being stored. */
	if (!store_lock_present(t->c.store, j->ns, j->world, j->hashes, j->rank0 + i, 1, j->locks, bytes,
				now_ns / 1000000, &j->objs[i]))
		return TRY_CONTENDED;
	j->spot[i] = SPOT_L1;
	return TRY_TAKEN;
}

/* ---- done ---------------------------------------------------------------------------------------------------------------- */

/* After it a job's object is locked for it, or gone. */
static bool make_readable(struct tier *t, struct load *l, uint64_t now_ms)
{
	bool temporary = t->c.prefetch_policy == TIER_PREFETCH_DEFAULT;

	if (l->io.sums[0])
		store_sums_set(t->c.store, l->obj, l->io.sums);
	if (l->locks)
		return store_commit_locked(t->c.store, &l->obj, 1, (uint16_t)l->locks, temporary, now_ms) == 1;
	return store_commit(t->c.store, &l->obj, 1, now_ms) == 1;
}

/* A job may wait twice for one object (a client's list of hashes need not make sense): all are told before any job may end. */
static void tell_waiters(struct tier *t, struct load *l, bool ok, uint64_t now_ns)
{
	struct waiter *w;

	while ((w = l->waiters)) {
		l->waiters = w->next;
		w->next = t->free_waiters;
		t->free_waiters = w;
		fetch_arrived(t, w->job, w->at, ok ? SPOT_LOADED : SPOT_FAILED, now_ns);
	}
	fetch_advance(t);
}

void load_done(struct tier *t, struct load *l, uint64_t now_ns)
{
	bool ok = l->io.result == 0;

	if (l->waiters)
		count_loading(t, l, -1);
	else
		count_quarantined(t, l, -1);
	t->loading--;
	unchain(t, l);
	if (ok) {
		add(&t->n.loaded_objects, 1);
		tally(t, TIER_COUNT_LOADED, l->io.key.name, 1);
		if (t->meter.loaded)
			t->meter.loaded(t->meter.ctx, l->lane, l->io.bytes, now_ns - l->io.submitted_ns);
		ok = make_readable(t, l, now_ns / 1000000);
	} else {
		add(&t->n.load_failed, 1);
		tally(t, TIER_COUNT_FAILED, l->io.key.name, 1);
		/* An adapter that was closed may leave the memory to a device that still writes: it is not used again. */
		if (l->io.result != -ECANCELED || !t->closed)
			store_abort(t->c.store, &l->obj, 1);
	}
	tell_waiters(t, l, ok, now_ns);
	l->next = t->free_loads;
	t->free_loads = l;
}
