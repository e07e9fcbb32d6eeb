/* pool.c - threads that do blocking work for an adapter. */
#include "daemon/l2/pool.h"

#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { LANE_LOAD, LANE_CONTROL, LANE_STORE, LANES };

struct lane {
	struct l2_io *first, **last;
	uint64_t n;
};

struct worker {
	struct l2_pool *pool;
	pthread_t thread;
	struct l2_io *io; /* under way; NULL when it was given back meanwhile */
	struct l2_find *find;
	bool busy;
	struct l2_job job;
};

struct l2_pool {
	struct lk lk; /* LK_QUEUE: everything below */
	pthread_cond_t work, idle;
	struct l2_pool_conf conf;
	struct l2_env env;
	char name[16];
	struct lane lane[LANES];
	struct l2_find *finds, **last_find;
	uint32_t loads, stores, busy, started, gone;
	uint64_t load_bytes;
	bool flushing, stop, abandoned; /* abandoned: the close did not wait; what the env lent may be gone */
	uint32_t *sums;
	struct worker w[];
};

#define SUMS (SEG_MAX_BYTES / CRC_BLOCK)

static int lane_of(enum l2_work kind)
{
	return kind == L2_WORK_LOAD ? LANE_LOAD : kind == L2_WORK_STORE ? LANE_STORE : LANE_CONTROL;
}

static enum l2_work kind_of(const struct l2_io *io)
{
	return (enum l2_work)(uintptr_t)io->priv[0];
}

/* ---- taking: the lock is held -------------------------------------------------------------------------------------------- */

static bool may_run(const struct l2_pool *p, const struct l2_io *io)
{
	switch (kind_of(io)) {
	case L2_WORK_LOAD:
		return p->loads < p->conf.max_loads && (p->loads == 0 || p->conf.max_load_bytes == 0 ||
							p->load_bytes + io->bytes <= p->conf.max_load_bytes);
	case L2_WORK_STORE:
		return !p->conf.hold_stores && p->stores < p->conf.max_stores;
	case L2_WORK_FLUSH:
		return !p->flushing;
	default:
		return true;
	}
}

static void begin(struct l2_pool *p, struct worker *w, struct l2_io *io)
{
	uint32_t *sums = w->job.sums;

	w->io = io;
	w->job.kind = kind_of(io);
	w->job.key = io->key;
	w->job.mem = io->mem;
	w->job.bytes = io->bytes;
	w->job.have_sums = false;
	if (w->job.kind == L2_WORK_LOAD) {
		p->loads++;
		p->load_bytes += io->bytes;
	} else if (w->job.kind == L2_WORK_STORE) {
		p->stores++;
		w->job.have_sums = io->sums && io->bytes && io->bytes <= SEG_MAX_BYTES && io->sums[0];
		if (w->job.have_sums)
			memcpy(sums, io->sums, crc_blocks(io->bytes) * sizeof(*sums));
	}
	p->flushing |= w->job.kind == L2_WORK_FLUSH;
}

static bool take_find(struct l2_pool *p, struct worker *w)
{
	if (!p->finds)
		return false;
	w->find = p->finds;
	p->finds = w->find->next;
	if (!p->finds)
		p->last_find = &p->finds;
	w->job.kind = L2_WORK_FIND;
	return true;
}

static bool take(struct l2_pool *p, struct worker *w)
{
	if (take_find(p, w))
		return true;
	for (uint32_t i = 0; i < LANES; i++) {
		struct lane *l = &p->lane[i];
		struct l2_io *io = l->first;
		if (!io || !may_run(p, io))
			continue;
		l->first = io->next;
		if (!l->first)
			l->last = &l->first;
		l->n--;
		begin(p, w, io);
		return true;
	}
	return false;
}

/* ---- doing ------------------------------------------------------------------------------------------------------------------ */

static void give_back(struct l2_io *io, const struct l2_job *job, int result)
{
	if (result == 0 && io->sums && (job->kind == L2_WORK_LOAD || (job->kind == L2_WORK_STORE && !job->have_sums)))
		memcpy(io->sums, job->sums, crc_blocks(io->bytes) * sizeof(*io->sums));
	io->result = result;
	io->done(io);
}

static void do_io(struct l2_pool *p, struct worker *w)
{
	bool moves = w->job.kind == L2_WORK_LOAD || w->job.kind == L2_WORK_STORE;
	int result = moves && (w->job.bytes > SEG_MAX_BYTES || w->job.bytes == 0) ? -EFBIG
										  : p->conf.run(p->conf.ctx, &w->job);
	lk_lock(&p->lk);
	struct l2_io *io = w->io;
	w->io = NULL;
	if (w->job.kind == L2_WORK_LOAD) {
		p->loads--;
		p->load_bytes -= w->job.bytes;
	}
	p->stores -= w->job.kind == L2_WORK_STORE;
	if (w->job.kind == L2_WORK_FLUSH)
		p->flushing = false;
	pthread_cond_signal(&p->work); /* what this one held back */
	lk_unlock(&p->lk);
	if (io)
		give_back(io, &w->job, result);
}

/* In pieces, each of which may find that the question was taken back. */
static void do_find(struct l2_pool *p, struct worker *w)
{
	struct l2_find *f;

	for (uint32_t at = 0;; at += w->job.n) {
		lk_lock(&p->lk);
		f = w->find;
		if (f && at > 0)
			memcpy(f->bytes + at - w->job.n, w->job.found, w->job.n * sizeof(*f->bytes));
		if (!f || at >= f->n) {
			w->find = NULL;
			lk_unlock(&p->lk);
			break;
		}
		w->job.n = f->n - at < L2_POOL_FIND ? f->n - at : L2_POOL_FIND;
		memcpy(w->job.keys, f->keys + at, w->job.n * sizeof(*f->keys));
		lk_unlock(&p->lk);
		memset(w->job.found, 0, sizeof(w->job.found));
		p->conf.run(p->conf.ctx, &w->job);
	}
	if (f)
		f->done(f);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct l2_pool *p = w->pool;

	if (p->env.enter)
		p->env.enter(p->env.ctx, NODE_UNKNOWN, p->name);
	lk_lock(&p->lk);
	for (;;) {
		while (!p->stop && !take(p, w))
			pthread_cond_wait(&p->work, &p->lk.m);
		if (p->stop)
			break;
		w->busy = true;
		p->busy++;
		lk_unlock(&p->lk);
		if (w->job.kind == L2_WORK_FIND)
			do_find(p, w);
		else
			do_io(p, w);
		lk_lock(&p->lk);
		w->busy = false;
		p->busy--;
		pthread_cond_broadcast(&p->idle);
	}
	bool abandoned = p->abandoned;
	lk_unlock(&p->lk);
	if (p->env.leave && !abandoned)
		p->env.leave(p->env.ctx);
	lk_lock(&p->lk);
	p->gone++;
	pthread_cond_broadcast(&p->idle);
	lk_unlock(&p->lk);
	return NULL;
}

/* ---- the caller's side ------------------------------------------------------------------------------------------------------ */

static struct l2_pool *pool_new(const struct l2_pool_conf *conf)
{
	struct l2_pool *p = mem_calloc(1, sizeof(*p) + conf->threads * sizeof(p->w[0]));
	pthread_condattr_t attr;

	if (!p)
		return NULL;
	p->sums = mem_calloc((size_t)conf->threads * SUMS, sizeof(*p->sums));
	if (!p->sums) {
		mem_free(p);
		return NULL;
	}
	lk_init(&p->lk, LK_QUEUE);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->work, &attr);
	pthread_cond_init(&p->idle, &attr);
	pthread_condattr_destroy(&attr);
	p->conf = *conf;
	p->env = *conf->env;
	snprintf(p->name, sizeof(p->name), "%s", conf->name);
	p->conf.max_loads = conf->max_loads ? conf->max_loads : conf->threads;
	p->conf.max_stores = conf->max_stores ? conf->max_stores : conf->threads;
	for (uint32_t i = 0; i < LANES; i++)
		p->lane[i].last = &p->lane[i].first;
	p->last_find = &p->finds;
	return p;
}

int l2_pool_start(const struct l2_pool_conf *conf, struct l2_pool **out, struct why *why)
{
	struct l2_pool *p = pool_new(conf);
	int rc = 0;

	if (!p)
		return why_set(why, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < conf->threads && !rc; i++) {
		p->w[i].pool = p;
		p->w[i].job.worker = i;
		p->w[i].job.sums = p->sums + (size_t)i * SUMS;
		rc = -pthread_create(&p->w[i].thread, NULL, worker_main, &p->w[i]);
		p->started += rc == 0;
	}
	if (rc) {
		l2_pool_stop(p, 10000);
		return why_set(why, rc, "cannot start a thread: %s", strerror(-rc));
	}
	*out = p;
	return 0;
}

void l2_pool_io(struct l2_pool *p, enum l2_work kind, struct l2_io *io)
{
	struct lane *l = &p->lane[lane_of(kind)];

	io->priv[0] = (void *)(uintptr_t)kind;
	io->submitted_ns = clock_ns();
	io->next = NULL;
	lk_lock(&p->lk);
	bool stop = p->stop;
	if (!stop) {
		*l->last = io;
		l->last = &io->next;
		l->n++;
		pthread_cond_signal(&p->work);
	}
	lk_unlock(&p->lk);
	if (stop) {
		io->result = -ECANCELED;
		io->done(io);
	}
}

void l2_pool_find(struct l2_pool *p, struct l2_find *f)
{
	f->next = NULL;
	memset(f->bytes, 0, f->n * sizeof(*f->bytes));
	lk_lock(&p->lk);
	bool stop = p->stop;
	if (!stop) {
		*p->last_find = f;
		p->last_find = &f->next;
		pthread_cond_signal(&p->work);
	}
	lk_unlock(&p->lk);
	if (stop)
		f->done(f);
}

void l2_pool_release_stores(struct l2_pool *p)
{
	lk_lock(&p->lk);
	p->conf.hold_stores = false;
	pthread_cond_broadcast(&p->work);
	lk_unlock(&p->lk);
}

void l2_pool_counts(struct l2_pool *p, uint64_t *loads, uint64_t *stores, uint64_t *queued)
{
	lk_lock(&p->lk);
	*loads = p->loads + p->lane[LANE_LOAD].n;
	*stores = p->stores + p->lane[LANE_STORE].n;
	*queued = p->busy;
	for (uint32_t i = 0; i < LANES; i++)
		*queued += p->lane[i].n;
	lk_unlock(&p->lk);
}

bool l2_pool_stopping(struct l2_pool *p)
{
	lk_lock(&p->lk);
	bool stop = p->stop;
	lk_unlock(&p->lk);
	return stop;
}

/* ---- the end -------------------------------------------------------------------------------------------------------------------- */

static void cancel_queued(struct l2_pool *p)
{
	struct l2_io *ios[LANES];
	struct l2_find *finds;

	lk_lock(&p->lk);
	p->stop = true;
	for (uint32_t i = 0; i < LANES; i++) {
		ios[i] = p->lane[i].first;
		p->lane[i].first = NULL;
		p->lane[i].n = 0;
	}
	finds = p->finds;
	p->finds = NULL;
	pthread_cond_broadcast(&p->work);
	lk_unlock(&p->lk);
	for (uint32_t i = 0; i < LANES; i++) {
		for (struct l2_io *io = ios[i], *next; io; io = next) {
			next = io->next;
			io->result = -ECANCELED;
			io->done(io);
		}
	}
	for (struct l2_find *f = finds, *next; f; f = next) {
		next = f->next;
		f->done(f);
	}
}

/* Takes back what hanging threads hold. */
static void cancel_hanging(struct l2_pool *p)
{
	for (uint32_t i = 0; i < p->started; i++) {
		lk_lock(&p->lk);
		struct l2_io *io = p->w[i].io;
		struct l2_find *f = p->w[i].find;
		p->w[i].io = NULL;
		p->w[i].find = NULL;
		lk_unlock(&p->lk);
		if (io) {
			io->result = -ECANCELED;
			io->done(io);
		}
		if (f)
			f->done(f);
	}
}

static bool wait_for_all(struct l2_pool *p, uint32_t wait_ms)
{
	uint64_t until = clock_ns() + wait_ms * UINT64_C(1000000);
	const struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};

	lk_lock(&p->lk);
	while (p->gone < p->started && clock_ns() < until)
		pthread_cond_timedwait(&p->idle, &p->lk.m, &t);
	bool all = p->gone == p->started;
	p->abandoned = !all;
	lk_unlock(&p->lk);
	return all;
}

void l2_pool_abandon(struct l2_pool *p, uint32_t wait_ms)
{
	cancel_queued(p);
	wait_for_all(p, wait_ms);
	cancel_hanging(p);
	for (uint32_t i = 0; i < p->started; i++)
		pthread_detach(p->w[i].thread);
}

bool l2_pool_stop(struct l2_pool *p, uint32_t wait_ms)
{
	cancel_queued(p);
	if (!wait_for_all(p, wait_ms)) {
		cancel_hanging(p);
		for (uint32_t i = 0; i < p->started; i++)
			pthread_detach(p->w[i].thread);
		return false;
	}
	for (uint32_t i = 0; i < p->started; i++)
		pthread_join(p->w[i].thread, NULL);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->idle);
	lk_destroy(&p->lk);
	mem_free(p->sums);
	mem_free(p);
	return true;
}

/* ---- adapters that only hand their work on --------------------------------------------------------------------------------- */

static struct l2_pool *pool_of(struct l2 *a)
{
	return ((struct l2_pooled *)a)->pool;
}

void l2_pooled_find(struct l2 *a, struct l2_find *f)
{
	l2_pool_find(pool_of(a), f);
}

void l2_pooled_load(struct l2 *a, struct l2_io *io)
{
	l2_pool_io(pool_of(a), L2_WORK_LOAD, io);
}

void l2_pooled_store(struct l2 *a, struct l2_io *io)
{
	l2_pool_io(pool_of(a), L2_WORK_STORE, io);
}

void l2_pooled_remove(struct l2 *a, struct l2_io *io)
{
	l2_pool_io(pool_of(a), L2_WORK_REMOVE, io);
}

void l2_pooled_clear(struct l2 *a, struct l2_io *io)
{
	l2_pool_io(pool_of(a), L2_WORK_CLEAR, io);
}

void l2_pooled_flush(struct l2 *a, struct l2_io *io)
{
	l2_pool_io(pool_of(a), L2_WORK_FLUSH, io);
}
