/* write.c - objects on their way down: each to every adapter, from its slot in L1.
 *
 * An adapter has a queue of items it has not been given yet, and a window of copies it has. When the last adapter has answered, the item's
 * lock goes back; with skip_l1 the object leaves L1 with it, if at least one adapter has it now.
 */
#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/tier/tier_int.h"

#include <errno.h>

#define ITEM_BYTES (64u << 10) /* items are counted for objects of this size; smaller ones run out of items first */
#define LEAST      1024u
#define MOST       65536u

int write_create(struct tier *t)
{
	uint64_t n = t->c.max_dirty_bytes / ITEM_BYTES;

	t->nitems = (uint32_t)(n < LEAST ? LEAST : n > MOST ? MOST : n);
	t->items = mem_calloc(t->nitems, sizeof(*t->items));
	if (!t->items)
		return -ENOMEM;
	for (uint32_t i = t->nitems; i-- > 0;) {
		t->items[i].next = t->free_items;
		t->free_items = &t->items[i];
	}
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		struct lane *l = &t->lane[i];

		l->a = t->c.adapters[i];
		l->ring = mem_calloc(t->nitems, sizeof(*l->ring));
		l->copies = mem_calloc(LANE_IOS, sizeof(*l->copies));
		if (!l->ring || !l->copies)
			return -ENOMEM;
		for (uint32_t k = LANE_IOS; k-- > 0;) {
			l->copies[k].lane = i;
			l->copies[k].next = l->unused;
			l->unused = &l->copies[k];
		}
	}
	return 0;
}

void write_destroy(struct tier *t)
{
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		struct lane *l = &t->lane[i];

		for (uint32_t k = 0; l->copies && k < LANE_IOS; k++)
			sums_free(&l->copies[k].sums);
		mem_free(l->copies);
		mem_free(l->ring);
	}
	mem_free(t->items);
}

/* ---- giving back ------------------------------------------------------------------------------------------------------- */

static void give_back_locks(struct tier *t)
{
	if (t->nunlock)
		store_unlock(t->c.store, t->unlock, NULL, t->nunlock, clock_ms());
	if (t->ndrop)
		store_unlock_drop(t->c.store, t->drop, t->ndrop, clock_ms());
	t->nunlock = t->ndrop = 0;
}

void write_give_back(struct tier *t)
{
	struct item *it, *next;

	give_back_locks(t);
	if (!t->given_back)
		return;
	lk_lock(&t->lk);
	for (it = t->given_back; it; it = next) {
		next = it->next;
		it->next = t->free_items;
		t->free_items = it;
	}
	t->dirty_objects -= t->given_objects;
	t->dirty_bytes -= t->given_bytes;
	lk_unlock(&t->lk);
	t->given_back = NULL;
	t->given_objects = t->given_bytes = 0;
}

static void item_finish(struct tier *t, struct item *it)
{
	if (t->nunlock == BATCH || t->ndrop == BATCH)
		give_back_locks(t);
	if (it->stored && t->c.store_policy == TIER_STORE_SKIP_L1)
		t->drop[t->ndrop++] = it->obj;
	else
		t->unlock[t->nunlock++] = it->obj;
	t->open_in_epoch[it->epoch]--;
	t->given_objects++;
	t->given_bytes += it->bytes;
	it->next = t->given_back;
	t->given_back = it;
}

static void item_answered(struct tier *t, struct item *it)
{
	check(it->left > 0);
	if (--it->left == 0)
		item_finish(t, it);
}

/* ---- down -------------------------------------------------------------------------------------------------------------- */

static void find_noted(struct l2_find *f)
{
	(void)f; /* answered before find returns */
}

static bool is_below(const struct lane *l, const struct item *it)
{
	struct seg_key key = {it->name, it->hash};
	uint64_t bytes = 0;
	struct l2_find f = {.keys = &key, .bytes = &bytes, .n = 1, .done = find_noted};

	if (!l->a->ops->local)
		return false; /* it will say so itself */
	l->a->ops->find(l->a, &f);
	return bytes == it->bytes;
}

void write_take(struct tier *t, struct item *list, uint64_t now_ns)
{
	for (struct item *it = list, *next; it; it = next) {
		next = it->next;
		it->epoch = (uint8_t)(t->epoch % EPOCHS);
		t->open_in_epoch[it->epoch]++;
		it->left = 1; /* ours, until all adapters have it */
		for (uint32_t i = 0; i < t->c.nadapters; i++) {
			struct lane *l = &t->lane[i];

			if (it->hit && is_below(l, it)) {
				it->stored = true;
				add(&t->n.store_present, 1);
				continue;
			}
			if (!l->waiting && !l->in_flight)
				l->progress_ns = now_ns;
			l->ring[(l->head + l->waiting++) % t->nitems] = it;
			it->left++;
		}
		item_answered(t, it);
	}
}

static void drop(struct tier *t, struct item *it)
{
	add(&t->n.store_dropped, 1);
	item_answered(t, it);
}

static void give(struct tier *t, struct lane *l, struct item *it, uint64_t now_ns)
{
	struct copy *c = l->unused;
	uint32_t *sums = sums_for(&c->sums, it->bytes);

	if (!sums) {
		drop(t, it);
		return;
	}
	if (!store_sums_get(t->c.store, it->obj, sums))
		sums[0] = 0;
	l->unused = c->next;
	l->in_flight++;
	l->flight_bytes += it->bytes;
	c->item = it;
	c->io.key = (struct seg_key){it->name, it->hash};
	c->io.mem = store_ptr(t->c.store, it->obj);
	c->io.bytes = it->bytes;
	c->io.sums = sums;
	c->io.result = 0;
	c->io.done = tier_io_done;
	c->io.owner = t;
	c->io.tag = IO_STORE;
	c->io.submitted_ns = now_ns;
	l->a->ops->store(l->a, &c->io);
}

void write_pump(struct tier *t, uint64_t now_ns)
{
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		struct lane *l = &t->lane[i];

		while (l->waiting && l->unused) {
			struct item *it = l->ring[l->head];
			if (l->in_flight && l->flight_bytes + it->bytes > LANE_BYTES)
				break;
			l->head = (l->head + 1) % t->nitems;
			l->waiting--;
			give(t, l, it, now_ns);
		}
	}
}

static void count(struct tier *t, const struct copy *c, uint64_t now_ns)
{
	struct item *it = c->item;

	switch (c->io.result) {
	case 0:
		it->stored = true;
		add(&t->n.stored_objects, 1);
		tally(t, TIER_COUNT_STORED, it->name, 1);
		if (t->meter.stored)
			t->meter.stored(t->meter.ctx, c->lane, it->bytes, now_ns - c->io.submitted_ns);
		break;
	case -EEXIST:
		it->stored = true;
		add(&t->n.store_present, 1);
		break;
	case -ENOSPC:
	case -EBUSY:
	case -ECANCELED:
		add(&t->n.store_dropped, 1);
		break;
	default:
		add(&t->n.store_failed, 1);
	}
}

void write_done(struct tier *t, struct copy *c, uint64_t now_ns)
{
	struct lane *l = &t->lane[c->lane];
	struct item *it = c->item;

	if (c->io.result == 0 && c->io.sums[0])
		store_sums_set(t->c.store, it->obj, c->io.sums);
	count(t, c, now_ns);
	l->in_flight--;
	l->flight_bytes -= it->bytes;
	l->progress_ns = now_ns;
	c->item = NULL;
	c->next = l->unused;
	l->unused = c;
	item_answered(t, it);
}

/* ---- trouble ----------------------------------------------------------------------------------------------------------- */

static uint32_t drop_waiting(struct tier *t, struct lane *l)
{
	uint32_t n = l->waiting;

	for (; l->waiting; l->waiting--) {
		drop(t, l->ring[l->head]);
		l->head = (l->head + 1) % t->nitems;
	}
	return n;
}

void write_drop_stalled(struct tier *t, uint64_t now_ns)
{
	uint64_t skipped;

	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		struct lane *l = &t->lane[i];
		uint32_t n;

		if (!l->in_flight || !l->waiting || now_ns < l->progress_ns + STALLED_NS)
			continue;
		n = drop_waiting(t, l);
		if (log_limit_pass(&t->drop_log, 10000, &skipped))
			log_warn("L2 adapter #%u (%s) has finished no store for a second: %u objects are not written "
				 "to it",
				 i, l->a->ops->type, n);
	}
}

void write_abandon(struct tier *t)
{
	for (uint32_t i = 0; i < t->c.nadapters; i++)
		drop_waiting(t, &t->lane[i]);
	write_give_back(t);
}
