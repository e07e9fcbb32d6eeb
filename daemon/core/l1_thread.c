/* l1_thread.c - one thread that first fills L1's memory, then looks now and then whether its pages are where they were planned.
 *
 * The kernel may move pages behind our back (automatic balancing, migratepages, memory going offline); nobody would notice but
 * for slow copies. The look costs a system call per 16 pages or so and takes no lock of ours; large pools of small pages are
 * sampled, other pages each time.
 */
#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"
#include "daemon/core/place.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MOST_PAGES (256ull << 10) /* of a range, per look: some 50 ms */

struct l1_thread {
	struct server *srv;
	pthread_t thread;
	pthread_mutex_t m; /* guards stop and the places; nothing else is taken under it */
	pthread_cond_t wake;
	bool stop, refused;
	struct arena_place place[ARENA_MAX_RANGES];
	uint64_t looked_ms[ARENA_MAX_RANGES]; /* 0 = never */
};

static void fill(struct server *srv)
{
	uint64_t t0 = clock_ms(), done = 0, ms;
	uint64_t want = srv->conf.l1_use_lazy ? (uint64_t)(srv->conf.l1_init_size_gb * (double)(1ull << 30))
					      : arena_bytes(srv->arena);
	struct why why = {0};
	int err;

	prefix_populate(srv->prefix);
	err = arena_populate(srv->arena, want < arena_bytes(srv->arena) ? want : arena_bytes(srv->arena),
			     &srv->stopping, &why);
	for (uint32_t i = 0; i < arena_nranges(srv->arena); i++)
		done += arena_committed(srv->arena, i);
	ms = clock_ms() - t0;
	if (err == -ECANCELED)
		return;
	if (err)
		log_error("L1: memory ran out after %.2f GiB; the cache stays at that size: %s",
			  (double)done / (1 << 30), why.text);
	else
		log_info("L1: %.2f GiB populated in %llu ms", (double)done / (1 << 30), (unsigned long long)ms);
}

/* True when the thread is to end. */
static bool pause_for(struct l1_thread *t, uint32_t seconds)
{
	struct timespec until;
	bool stop;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	pthread_mutex_lock(&t->m);
	while (!t->stop && pthread_cond_timedwait(&t->wake, &t->m, &until) == 0)
		;
	stop = t->stop;
	pthread_mutex_unlock(&t->m);
	return stop;
}

static void report(const struct arena_range *r, const struct arena_place *before, const struct arena_place *now)
{
	char text[256];

	if (now->elsewhere == before->elsewhere)
		return;
	arena_place_text(r, now, text, sizeof(text));
	if (now->elsewhere)
		log_warn("L1 pages are not where they were planned: %s", text);
	else
		log_info("L1 pages are back where they were planned: %s", text);
}

static void look_at(struct l1_thread *t, uint32_t i)
{
	struct arena_place now;
	struct why why = {0};
	int err = arena_verify(t->srv->arena, i, MOST_PAGES, &now, &why);

	if (err) {
		/* a profile that denies binding denies this too: the plan has warned of it */
		if (!t->refused && place_unbindable(t->srv))
			log_info("nobody can tell where L1's pages are: %s", why.text);
		else if (!t->refused)
			log_warn("nobody can tell where L1's pages are: %s", why.text);
		t->refused = true;
		return;
	}
	report(arena_range(t->srv->arena, i), &t->place[i], &now); /* only this thread writes it */
	pthread_mutex_lock(&t->m);
	t->place[i] = now;
	t->looked_ms[i] = clock_ms();
	pthread_mutex_unlock(&t->m);
}

static bool any_planned(const struct server *srv)
{
	for (uint32_t i = 0; i < arena_nranges(srv->arena); i++) {
		if (node_known(arena_range(srv->arena, i)->node))
			return true;
	}
	return false;
}

static void *run(void *arg)
{
	struct l1_thread *t = arg;
	struct server *srv = t->srv;

	pthread_setname_np(pthread_self(), "lmca-l1");
	fill(srv);
	if (!srv->conf.numa_check_seconds)
		return NULL;
	do {
		for (uint32_t i = 0; i < arena_nranges(srv->arena) && !atomic_load(&srv->stopping); i++)
			look_at(t, i);
		/* where nothing was planned, once is enough to tell */
	} while (any_planned(srv) && !t->refused && !pause_for(t, srv->conf.numa_check_seconds));
	return NULL;
}

int l1_thread_start(struct server *srv)
{
	struct l1_thread *t = mem_calloc(1, sizeof(*t));
	pthread_condattr_t attr;
	int err;

	if (!t)
		return -ENOMEM;
	t->srv = srv;
	pthread_mutex_init(&t->m, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->wake, &attr);
	pthread_condattr_destroy(&attr);
	err = pthread_create(&t->thread, NULL, run, t);
	if (err) {
		mem_free(t);
		return -err;
	}
	srv->l1_thread = t;
	return 0;
}

void l1_thread_stop(struct server *srv)
{
	struct l1_thread *t = srv->l1_thread;

	if (!t)
		return;
	pthread_mutex_lock(&t->m);
	t->stop = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->m);
	pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->wake);
	pthread_mutex_destroy(&t->m);
	mem_free(t);
	srv->l1_thread = NULL;
}

void l1_report_shortage(struct server *srv)
{
	struct store_stats st;
	double gib = 1 << 30;

	store_stats(srv->store, &st);
	if ((st.short_bytes != 0) == srv->l1_short)
		return;
	srv->l1_short = st.short_bytes != 0;
	if (srv->l1_short)
		log_warn("L1 cannot grow beyond %.2f of %.2f GiB, so it evicts early: no more memory can be had below "
			 "/dev/shm (see df /dev/shm, and the cgroup's limit); free some, or lower --l1-size-gb",
			 (double)st.committed_bytes / gib, (double)st.total_bytes / gib);
	else
		log_info("L1 grows again: %.2f of %.2f GiB", (double)st.committed_bytes / gib,
			 (double)st.total_bytes / gib);
}

bool l1_thread_place(struct server *srv, uint32_t i, struct arena_place *out, double *age_s)
{
	struct l1_thread *t = srv->l1_thread;
	uint64_t now = clock_ms(), then;

	if (!t)
		return false;
	pthread_mutex_lock(&t->m);
	*out = t->place[i];
	then = t->looked_ms[i];
	pthread_mutex_unlock(&t->m);
	*age_s = now > then ? (double)(now - then) / 1000 : 0;
	return then != 0;
}
