/* A GPU's thread: everything that happens on that GPU's streams happens here, so a full queue of one GPU stalls nobody else.
 *
 * It sleeps for as long as nothing is to be done. While copies are under way or wait for their engines' events it looks at them again and
 * again, with a pause that is an eighth of the time since something last happened: a copy of a millisecond is noticed within an eighth
 * of it, a long wait costs little, and a new copy ends any pause.
 */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>

#define PAUSE_MIN_NS  5000u
#define PAUSE_MAX_NS  200000u
#define PAUSE_LONG_NS 1000000u /* after a second without anything */
#define SECOND_NS     1000000000u

/* ---- one copy --------------------------------------------------------------------------------------------------------------- */

static void finish(struct gpu *g, struct gpu_copy *c, int rc)
{
	struct gpu_engine *e = c->engine;
	uint32_t direction = c->store ? TO_SLOTS : TO_PAGES;

	atomic_fetch_add(rc ? &g->n.failed : &g->n.copies[direction], 1);
	if (!rc)
		atomic_fetch_add(&g->n.bytes[direction], c->bytes);
	if (c->done)
		c->done(c, rc);
	gpu_engine_unref(e);
}

static void never_started(struct gpu *g, struct gpu_copy *c, int rc)
{
	if (c->submitted)
		c->submitted(c, rc, NULL, 0);
	finish(g, c, rc);
}

static struct gpu_copy *pop_waiting(struct gpu *g, struct gpu_engine *e, struct lane *l)
{
	struct gpu_copy *c = l->wait;

	events_close(e->events, &l->event);
	l->ready = false;
	l->wait = c->next;
	if (!l->wait)
		l->wait_tail = &l->wait;
	c->next = NULL;
	lk_lock(&g->in);
	g->queued--;
	lk_unlock(&g->in);
	return c;
}

/* 1: the first copy's event has happened. 0: not yet. */
static int head_ready(struct gpu_engine *e, struct lane *l, uint32_t direction)
{
	struct slice handle = l->wait->event;
	int rc = 1;

	if (l->ready)
		return 1;
	if (handle.n && !l->event.open) {
		rc = events_open(e->events, handle, &l->event);
		if (rc)
			return rc;
		rc = 1;
	}
	if (handle.n)
		rc = events_reached(e->events, &l->event, direction);
	l->ready = rc == 1;
	return rc;
}

/* ---- one engine, one direction ---------------------------------------------------------------------------------------------- */

/* True when something came to an end. */
static bool look_at_flying(struct gpu *g, struct lane *l)
{
	struct gpu_copy **at = &l->fly, *c;
	bool moved = false;

	while ((c = *at)) {
		int rc = copier_poll(g->copier, c);

		if (!rc) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		l->flying--;
		moved = true;
		atomic_fetch_sub(&g->n.in_flight, 1);
		finish(g, c, rc > 0 ? 0 : rc);
	}
	l->fly_tail = at;
	return moved;
}

/* 1: it flies or has failed; 0: not now. */
static int start_one(struct gpu *g, struct gpu_engine *e, struct lane *l, uint32_t direction)
{
	struct gpu_copy *c = l->wait;
	int rc = head_ready(e, l, direction);

	if (rc == 0)
		return 0;
	if (rc > 0) {
		c->started_ns = clock_ns();
		if (c->started_ns < atomic_load(&g->oldest_ns)) /* told before it looks what is registered */
			atomic_store(&g->oldest_ns, c->started_ns);
		rc = copier_start(g->copier, c);
		if (rc == -EAGAIN)
			return 0;
		pop_waiting(g, e, l);
		if (!rc) {
			*l->fly_tail = c;
			l->fly_tail = &c->next;
			l->flying++;
			atomic_fetch_add(&g->n.in_flight, 1);
			return 1;
		}
	} else {
		pop_waiting(g, e, l);
		copier_leave(c);
	}
	never_started(g, c, rc);
	return 1;
}

static bool fail_waiting(struct gpu *g, struct gpu_engine *e, struct lane *l, int rc)
{
	bool moved = l->wait != NULL;

	while (l->wait) {
		struct gpu_copy *c = pop_waiting(g, e, l);

		copier_leave(c);
		never_started(g, c, rc);
	}
	return moved;
}

/* What waits and will never be started: the reason, or 0. */
static int give_up(const struct gpu *g, const struct gpu_engine *e, uint64_t now)
{
	uint64_t put = atomic_load(&e->put_ns);

	if (atomic_load(&g->lost))
		return -ENODEV;
	return g->leaving || (put && now > put + GPU_GRACE_MS * 1000000ull) ? -ECANCELED : 0;
}

static bool step(struct gpu *g, struct gpu_engine *e, uint64_t now)
{
	int reason = give_up(g, e, now);
	bool moved = false;

	for (uint32_t i = 0; i < DIRECTIONS; i++) {
		struct lane *l = &e->lane[i];

		moved |= look_at_flying(g, l);
		if (reason)
			moved |= fail_waiting(g, e, l, reason);
		while (l->wait && l->flying < GPU_AHEAD && start_one(g, e, l, i))
			moved = true;
		g->busy += l->flying + (l->wait != NULL);
		for (const struct gpu_copy *c = l->fly; c; c = c->next)
			if (c->started_ns < g->oldest)
				g->oldest = c->started_ns;
	}
	return moved;
}

/* ---- all of them ------------------------------------------------------------------------------------------------------------ */

/* Also where the context is broken: what is under way must come to its end. */
static void make_current(struct gpu *g)
{
	CUcontext ctx;

	lk_lock(&g->lk);
	ctx = g->ctx;
	lk_unlock(&g->lk);
	g->door->cu->cuCtxSetCurrent(ctx);
}

/* The engine that was first is last next time, so that scarce staging goes round. */
static void rotate(struct gpu *g)
{
	struct gpu_engine *first = g->engines, **tail = &g->engines;

	if (!first || !first->next)
		return;
	while (*tail)
		tail = &(*tail)->next;
	g->engines = first->next;
	first->next = NULL;
	*tail = first;
}

static bool work(struct gpu *g)
{
	uint64_t now = clock_ns();
	bool moved = false;

	g->busy = 0;
	g->oldest = UINT64_MAX;
	rotate(g);
	for (struct gpu_engine *e = g->engines; e; e = e->next)
		moved |= step(g, e, now);
	atomic_store(&g->oldest_ns, g->oldest);
	return moved;
}

struct taken {
	struct gpu_copy *copies;
	struct gpu_engine *made, *dropped;
};

static bool deal_with(struct gpu *g, struct taken *t)
{
	bool any = t->copies || t->made || t->dropped;

	while (t->copies) {
		struct gpu_copy *c = t->copies;
		struct lane *l = &c->engine->lane[c->store ? TO_SLOTS : TO_PAGES];

		t->copies = c->next;
		c->next = NULL;
		*l->wait_tail = c;
		l->wait_tail = &c->next;
	}
	while (t->made) {
		struct gpu_engine *e = t->made;
		int rc;

		t->made = e->next_in;
		rc = g->leaving ? why_set(e->why, -ESHUTDOWN, "the door is closing") : gpu_engine_setup(e, e->why);
		lk_lock(&g->in);
		e->made = rc; /* the waiting thread's from here on */
		pthread_cond_broadcast(&g->answered);
		lk_unlock(&g->in);
	}
	while (t->dropped) {
		struct gpu_engine *e = t->dropped;

		t->dropped = e->next_in;
		gpu_engine_teardown(e);
		make_current(g); /* the context may be gone, or back */
	}
	return any;
}

static void pause_ns(struct gpu *g, uint64_t ns)
{
	uint64_t until = clock_ns() + ns;
	struct timespec t = {.tv_sec = (time_t)(until / SECOND_NS), .tv_nsec = (long)(until % SECOND_NS)};

	pthread_cond_timedwait(&g->wake, &g->in.m, &t);
}

static bool nothing_new(const struct gpu *g)
{
	return !g->inbox && !g->made && !g->dropped && (!g->stop || g->leaving);
}

/* Sleeps while there is nothing, pauses while things are under way, and takes what came. */
static void take(struct gpu *g, uint64_t quiet_ns, struct taken *t)
{
	uint64_t ns = quiet_ns / 8, most = quiet_ns < SECOND_NS ? PAUSE_MAX_NS : PAUSE_LONG_NS;

	ns = ns < PAUSE_MIN_NS ? PAUSE_MIN_NS : ns > most ? most : ns;
	lk_lock(&g->in);
	g->sleeping = true;
	if (g->busy && nothing_new(g))
		pause_ns(g, ns);
	while (!g->busy && nothing_new(g) && !g->leaving)
		pthread_cond_wait(&g->wake, &g->in.m);
	g->sleeping = false;
	*t = (struct taken){g->inbox, g->made, g->dropped};
	g->inbox = NULL;
	g->inbox_tail = &g->inbox;
	g->made = g->dropped = NULL;
	g->leaving = g->stop;
	lk_unlock(&g->in);
}

static void run_until_stopped(struct gpu *g)
{
	uint64_t moved_ns = clock_ns(), now;
	struct taken t;

	for (;;) {
		take(g, clock_ns() - moved_ns, &t);
		make_current(g);
		now = clock_ns();
		atomic_store(&g->progress_ns, now);
		if (deal_with(g, &t))
			moved_ns = now;
		if (work(g))
			moved_ns = clock_ns();
		if (!g->leaving || (g->busy && now < g->stop_ns))
			continue;
		lk_lock(&g->in);
		if (g->busy || nothing_new(g)) { /* the last reference may have gone just now */
			g->ended = true;
			pthread_cond_broadcast(&g->answered);
			lk_unlock(&g->in);
			return;
		}
		lk_unlock(&g->in);
	}
}

static void *run(void *arg)
{
	struct gpu *g = arg;
	const struct gpu_conf *conf = &g->door->conf;
	char name[16];

	snprintf(name, sizeof name, "lmca-gpu%u", g->index);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_TIMERSLACK, 1000ul); /* the default would make every pause 50 us longer */
	if (conf->enter)
		conf->enter(conf->ctx, g->facts.pci, g->facts.name);
	run_until_stopped(g);
	g->door->cu->cuCtxSetCurrent(NULL);
	if (conf->leave)
		conf->leave(conf->ctx);
	return NULL;
}

/* ---- start and stop --------------------------------------------------------------------------------------------------------- */

int gpu_thread_start(struct gpu *g, struct why *why)
{
	int rc = 0;

	lk_lock(&g->in);
	if (!g->started) {
		rc = pthread_create(&g->thread, NULL, run, g);
		g->started = !rc;
	}
	lk_unlock(&g->in);
	return rc ? why_set(why, -rc, "no thread for GPU %u", g->index) : 0;
}

bool gpu_thread_stop(struct gpu *g, uint64_t until_ns)
{
	/* It looks at the time itself; only one that is stuck in the driver is later. */
	uint64_t late = until_ns + SECOND_NS / 5;
	struct timespec t = {.tv_sec = (time_t)(late / SECOND_NS), .tv_nsec = (long)(late % SECOND_NS)};
	bool ended;

	lk_lock(&g->in);
	g->stop = true;
	g->stop_ns = until_ns;
	pthread_cond_signal(&g->wake);
	while (g->started && !g->ended && !pthread_cond_timedwait(&g->answered, &g->in.m, &t))
		;
	ended = g->ended || !g->started;
	lk_unlock(&g->in);
	if (!ended) {
		log_error("GPU %u: its thread does not come back from the driver", g->index);
		pthread_detach(g->thread);
		return false;
	}
	if (g->started)
		pthread_join(g->thread, NULL);
	return atomic_load(&g->n.in_flight) == 0;
}
