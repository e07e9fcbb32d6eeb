/* fake_engine.h - an engine that a test works by hand: it keeps what it is given until the test says how each ends, and its time is
 * the test's. */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include "daemon/base/mem.h"
#include "transport/disk/disk_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define FAKE_MAX 2048u

struct fake {
	struct disk_sub *held[FAKE_MAX]; /* in the order they came */
	uint32_t n, room;                /* room: how many it holds at most */
	struct disk_sub *ended[FAKE_MAX];
	uint32_t nended;
	uint64_t now, most_bytes;
	uint32_t most, wakes, closes, waits;
	uint64_t last_wait;
	bool leaked;
};

static inline uint64_t fake_bytes(const struct fake *f)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < f->n; i++)
		sum += f->held[i]->bytes;
	return sum;
}

static uint32_t fake_submit(void *engine, struct disk_sub **subs, uint32_t n)
{
	struct fake *f = engine;
	uint32_t k = 0;

	while (k < n && f->n < f->room)
		f->held[f->n++] = subs[k++];
	if (f->n > f->most)
		f->most = f->n;
	if (fake_bytes(f) > f->most_bytes)
		f->most_bytes = fake_bytes(f);
	return k;
}

static uint32_t fake_reap(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns)
{
	struct fake *f = engine;
	uint32_t k = 0;

	f->last_wait = wait_ns;
	f->waits += wait_ns != 0;
	while (k < max && k < f->nended) {
		out[k] = f->ended[k];
		k++;
	}
	memmove(f->ended, f->ended + k, (f->nended - k) * sizeof f->ended[0]);
	f->nended -= k;
	if (!k)
		f->now += wait_ns;
	return k;
}

static void fake_wake(void *engine)
{
	((struct fake *)engine)->wakes++;
}

static uint64_t fake_now(void *engine)
{
	return ((struct fake *)engine)->now;
}

static void fake_close(void *engine, bool leak)
{
	struct fake *f = engine;

	f->closes++;
	f->leaked = leak;
}

static const struct disk_engine_ops fake_ops = {
	.name = "fake",
	.close = fake_close,
	.submit = fake_submit,
	.reap = fake_reap,
	.wake = fake_wake,
	.now = fake_now,
	.forgets = true,
};

/* The held sub-IO at `i` ends. */
static inline void fake_end(struct fake *f, uint32_t i, int32_t result)
{
	struct disk_sub *s = f->held[i];

	assert_true(i < f->n);
	memmove(f->held + i, f->held + i + 1, (f->n - i - 1) * sizeof f->held[0]);
	f->n--;
	s->result = result;
	f->ended[f->nended++] = s;
}

static inline void fake_end_well(struct fake *f, uint32_t i)
{
	assert_true(i < f->n);
	fake_end(f, i, f->held[i]->op == DISK_READ || f->held[i]->op == DISK_WRITE ? (int32_t)f->held[i]->bytes : 0);
}

#endif
