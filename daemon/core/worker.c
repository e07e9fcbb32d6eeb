/* worker.c - threads that hash, look up, copy and register. Transfers of one peer always go to the same worker, in order; its lookups to
 * another, so that a scheduler never waits behind a copy. Bounded by the number of tasks. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define EARLY_CHUNKS 16u /* with more chunks to remember, the reply goes first: a second wake-up costs less */

static struct task *next_task(struct worker *w)
{
	struct task *t;

	lk_lock(&w->lk);
	while (!w->head && !w->stop) {
		atomic_store_explicit(&w->busy, false, memory_order_relaxed);
		pthread_cond_wait(&w->wake, &w->lk.m);
	}
	t = w->head;
	if (t) {
		w->head = t->next;
		if (!w->head)
			w->tail = &w->head;
		w->depth--;
		atomic_store_explicit(&w->busy, true, memory_order_relaxed);
	}
	lk_unlock(&w->lk);
	return t;
}

static void *run(void *arg)
{
	struct worker *w = arg;
	struct task *t;

	pthread_setname_np(pthread_self(), w->name);
	/* The control thread answers PINGs: on a full machine it must win against copies. */
	setpriority(PRIO_PROCESS, 0, 5);
	while ((t = next_task(w))) {
		atomic_store_explicit(&w->progress_ms, clock_ms(), memory_order_relaxed);
		atomic_store_explicit(&w->cpu, sched_getcpu(), memory_order_relaxed);
		task_run(w->exec, t);
		if (!t->early && w->exec->walk->fresh > EARLY_CHUNKS)
			control_reply_early(w->srv->control, t);
		exec_remember(w->exec);
		atomic_store_explicit(&w->progress_ms, clock_ms(), memory_order_relaxed);
		control_complete(w->srv->control, t);
	}
	atomic_store(&w->ended, true);
	return NULL;
}

static int start_one(struct server *srv, struct worker *w, enum plan_role role, uint32_t i, const char *name,
		     struct why *why)
{
	uint32_t at = role == ROLE_LOOKUP && srv->nlookup ? i % srv->nlookup
							  : i; /* those that register are beside those that look up */
	int err;

	w->srv = srv;
	w->tail = &w->head;
	w->admits = strcmp(name, "admit") == 0;
	w->node = place_node_of(srv, role, at);
	w->progress_ms = clock_ms();
	w->cpu = -1;
	snprintf(w->name, sizeof(w->name), "lmca-%s-%u", name, i);
	lk_init(&w->lk, LK_QUEUE);
	pthread_cond_init(&w->wake, NULL);
	err = exec_create(srv, &w->exec, why);
	if (!err)
		err = place_enter(srv, role, at, w->name, why);
	if (err)
		return err;
	err = pthread_create(&w->thread, NULL, run, w);
	place_leave(srv);
	if (err)
		return why_set(why, -err, "cannot start thread %s: %s", w->name, strerror(err));
	w->started = true;
	return 0;
}

int workers_start(struct server *srv, struct why *why)
{
	int err = 0;

	srv->ntransfer = srv->conf.max_gpu_workers;
	srv->nlookup = srv->conf.max_cpu_workers;
	if (srv->ntransfer > MAX_THREADS / 2)
		srv->ntransfer = MAX_THREADS / 2;
	if (srv->nlookup > MAX_THREADS / 2)
		srv->nlookup = MAX_THREADS / 2;
	srv->nadmit = srv->gpu ? MAX_ADMIT : 1;
	for (uint32_t i = 0; !err && i < srv->ntransfer; i++)
		err = start_one(srv, &srv->worker[i], ROLE_TRANSFER, i, "xfer", why);
	for (uint32_t i = 0; !err && i < srv->nlookup; i++)
		err = start_one(srv, &srv->worker[srv->ntransfer + i], ROLE_LOOKUP, i, "look", why);
	for (uint32_t i = 0; !err && i < srv->nadmit; i++)
		err = start_one(srv, &srv->worker[srv->ntransfer + srv->nlookup + i], ROLE_LOOKUP, i, "admit", why);
	return err;
}

/* One that registers may be held up by a GPU for ever. */
static bool ends(struct worker *w, uint64_t until_ms)
{
	lk_lock(&w->lk);
	w->stop = true;
	pthread_cond_signal(&w->wake);
	lk_unlock(&w->lk);
	while (w->admits && !atomic_load(&w->ended) && clock_ms() < until_ms)
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	return !w->admits || atomic_load(&w->ended);
}

bool workers_stop(struct server *srv, uint32_t ms)
{
	uint64_t until_ms = clock_ms() + ms;
	bool all = true;

	for (uint32_t i = 0; i < srv->ntransfer + srv->nlookup + srv->nadmit; i++) {
		struct worker *w = &srv->worker[i];

		if (w->started && !ends(w, until_ms)) {
			log_error("%s does not come back from a registration", w->name);
			all = false;
			continue;
		}
		if (w->started)
			pthread_join(w->thread, NULL);
		w->started = false;
		exec_destroy(w->exec);
		w->exec = NULL;
	}
	return all;
}

uint32_t worker_near(const struct server *srv, node_id node, const uint32_t *engines)
{
	uint32_t best = WORKER_NONE;
	bool near = false;

	for (uint32_t i = 0; i < srv->ntransfer; i++)
		near |= node_same(srv->worker[i].node, node);
	for (uint32_t i = 0; i < srv->ntransfer; i++) {
		if (near && !node_same(srv->worker[i].node, node))
			continue;
		if (best == WORKER_NONE || engines[i] < engines[best])
			best = i;
	}
	return best;
}

void worker_submit(struct worker *w, struct task *t)
{
	t->next = NULL;
	lk_lock(&w->lk);
	*w->tail = t;
	w->tail = &t->next;
	w->depth++;
	pthread_cond_signal(&w->wake);
	lk_unlock(&w->lk);
}
