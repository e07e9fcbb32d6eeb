/* delay.c - a thread that lets operations through when they are due. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>

struct l2_delay {
	struct lk lk; /* LK_QUEUE: list, stop */
	pthread_cond_t changed;
	pthread_t thread;
	struct l2_env env;
	char name[16];
	void (*due)(void *ctx, struct l2_io *io, bool cancelled);
	void *ctx;
	struct l2_io *first; /* by time, first come first among equals */
	bool stop;
};

static uint64_t time_of(const struct l2_io *io)
{
	return (uint64_t)(uintptr_t)io->priv[0];
}

/* Waits until the first one is due or the thread shall stop; takes it off the list. NULL: stopped and empty. */
static struct l2_io *next_due(struct l2_delay *d, bool *cancelled)
{
	struct l2_io *io = NULL;
	lk_lock(&d->lk);
	for (;;) {
		io = d->first;
		if (d->stop || (io && time_of(io) <= clock_ns()))
			break;
		if (!io || time_of(io) == UINT64_MAX) {
			pthread_cond_wait(&d->changed, &d->lk.m);
		} else {
			struct timespec t = {.tv_sec = (time_t)(time_of(io) / 1000000000u),
					     .tv_nsec = (long)(time_of(io) % 1000000000u)};
			pthread_cond_timedwait(&d->changed, &d->lk.m, &t);
		}
	}
	*cancelled = d->stop;
	if (io)
		d->first = io->next;
	lk_unlock(&d->lk);
	return io;
}

static void *run(void *p)
{
	struct l2_delay *d = p;
	struct l2_io *io;
	bool cancelled;
	if (d->env.enter)
		d->env.enter(d->env.ctx, NODE_UNKNOWN, d->name);
	while ((io = next_due(d, &cancelled)))
		d->due(d->ctx, io, cancelled);
	if (d->env.leave)
		d->env.leave(d->env.ctx);
	return NULL;
}

int l2_delay_start(const struct l2_env *env, const char *name, void (*due)(void *ctx, struct l2_io *io, bool cancelled),
		   void *ctx, struct l2_delay **out, struct why *why)
{
	pthread_condattr_t attr;
	struct l2_delay *d = mem_calloc(1, sizeof(*d));
	if (!d)
		return why_set(why, -ENOMEM, "out of memory");
	lk_init(&d->lk, LK_QUEUE);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->changed, &attr);
	pthread_condattr_destroy(&attr);
	d->env = *env;
	snprintf(d->name, sizeof(d->name), "%s", name);
	d->due = due;
	d->ctx = ctx;
	int rc = -pthread_create(&d->thread, NULL, run, d);
	if (rc) {
		pthread_cond_destroy(&d->changed);
		lk_destroy(&d->lk);
		mem_free(d);
		return why_set(why, rc, "cannot start a thread");
	}
	*out = d;
	return 0;
}

void l2_delay_put(struct l2_delay *d, struct l2_io *io, uint64_t at_ns)
{
	struct l2_io **at;
	io->priv[0] = (void *)(uintptr_t)at_ns;
	lk_lock(&d->lk);
	for (at = &d->first; *at && time_of(*at) <= at_ns; at = &(*at)->next)
		;
	io->next = *at;
	*at = io;
	pthread_cond_signal(&d->changed);
	lk_unlock(&d->lk);
}

void l2_delay_stop(struct l2_delay *d)
{
	lk_lock(&d->lk);
	d->stop = true;
	pthread_cond_signal(&d->changed);
	lk_unlock(&d->lk);
	pthread_join(d->thread, NULL);
	pthread_cond_destroy(&d->changed);
	lk_destroy(&d->lk);
	mem_free(d);
}
