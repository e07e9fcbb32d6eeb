/* flush.c - "everything handed over before is durable": first the stores before it come to an end, then every adapter flushes.
 *
 * Items carry the number of the flush that will wait for them (their epoch); counting the open ones per epoch is all it takes. A flush that
 * hangs is answered at its deadline; its memory waits for the adapters.
 */
#include "daemon/base/clock.h"
#include "daemon/tier/tier_int.h"

#include <errno.h>
#include <stddef.h>

static bool items_done(const struct tier *t, const struct flush *f)
{
	uint64_t newer = t->epoch - f->epoch;

	/* All cells but those of newer epochs: what is older than EPOCHS shares a cell, and is waited for. */
	for (uint64_t e = 0; e < EPOCHS - newer; e++) {
		if (t->open_in_epoch[(f->epoch - e) % EPOCHS])
			return false;
	}
	return true;
}

static void tell(struct tier *t, struct flush *f, int result)
{
	uint64_t bad = t->n.store_failed + t->n.store_dropped;

	if (f->told)
		return;
	f->told = true;
	if (!result && bad != t->bad_at_flush)
		result = -EIO;
	t->bad_at_flush = bad;
	f->done(f->ctx, result);
}

static void set_state(struct tier *t, struct flush *f, enum flush_state state)
{
	lk_lock(&t->lk);
	f->state = state;
	t->nflushes -= state == FLUSH_FREE;
	lk_unlock(&t->lk);
}

static void begin(struct tier *t, struct flush *f, uint64_t now_ns)
{
	set_state(t, f, FLUSH_RUNNING);
	f->result = 0;
	f->open = t->c.nadapters;
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		f->io[i] = (struct l2_io){
			.done = tier_io_done, .owner = t, .tag = IO_FLUSH | (uint64_t)i << 8, .submitted_ns = now_ns};
		t->lane[i].a->ops->flush(t->lane[i].a, &f->io[i]);
	}
	if (!t->c.nadapters) {
		tell(t, f, 0);
		set_state(t, f, FLUSH_FREE);
	}
}

void flush_done(struct tier *t, struct l2_io *io)
{
	uint32_t i = (uint32_t)(io->tag >> 8);
	struct flush *f = (struct flush *)((char *)(io - i) - offsetof(struct flush, io));

	if (io->result)
		f->result = -EIO;
	if (--f->open == 0) {
		tell(t, f, f->result);
		set_state(t, f, FLUSH_FREE);
	}
}

bool flush_mark(struct tier *t)
{
	bool any = false;

	for (uint32_t i = 0; t->nflushes && i < FLUSHES; i++) {
		if (t->flush[i].state != FLUSH_NEW)
			continue;
		t->flush[i].state = FLUSH_WAITING;
		t->flush[i].epoch = t->epoch;
		any = true;
	}
	return any;
}

static void turn_one(struct tier *t, struct flush *f, enum flush_state state, uint64_t now_ns)
{
	if (state == FLUSH_WAITING && items_done(t, f)) {
		begin(t, f, now_ns);
	} else if (now_ns >= f->deadline_ns) {
		tell(t, f, -EIO);
		if (state == FLUSH_WAITING)
			set_state(t, f, FLUSH_FREE);
	}
}

/* Flushes are few and rare: all are looked at. */
void flush_turn(struct tier *t, uint64_t now_ns)
{
	enum flush_state state[FLUSHES];

	if (!t->flushing)
		return;
	lk_lock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES; i++)
		state[i] = t->flush[i].state;
	lk_unlock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES; i++) {
		if (state[i] == FLUSH_WAITING || state[i] == FLUSH_RUNNING)
			turn_one(t, &t->flush[i], state[i], now_ns);
	}
	lk_lock(&t->lk);
	t->flushing = t->nflushes > 0;
	lk_unlock(&t->lk);
}

uint64_t flush_next_ns(struct tier *t)
{
	uint64_t next = UINT64_MAX;

	if (!t->flushing)
		return next;
	lk_lock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES; i++) {
		const struct flush *f = &t->flush[i];
		if (f->state > FLUSH_NEW && !f->told && f->deadline_ns < next)
			next = f->deadline_ns;
	}
	lk_unlock(&t->lk);
	return next;
}

void flush_end_all(struct tier *t)
{
	bool open[FLUSHES];

	lk_lock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES; i++)
		open[i] = t->flush[i].state != FLUSH_FREE;
	lk_unlock(&t->lk);
	for (uint32_t i = 0; i < FLUSHES; i++) {
		if (open[i])
			tell(t, &t->flush[i], -EIO);
	}
}
