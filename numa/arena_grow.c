/* arena_grow.c - committing memory: step by step, several threads per range, each range's usable part one prefix.
 *
 * Normal path: a thread takes the next step of a range, populates it with MADV_POPULATE_WRITE, and waits until all earlier steps
 * are done before it moves the end of the committed part. Threads of a node populate that node's range.
 * Failure paths: a step fails (pages, space or a limit used up): steps before it are kept, those after it are given up, and the
 * next caller tries again from the end of the committed part.
 */
#include "daemon/base/check.h"
#include "numa/arena_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* linux/mman.h, since 5.14 */
#endif

void arena_grow_init(struct arena *a)
{
	for (uint32_t i = 0; i < ARENA_MAX_RANGES; i++) {
		lk_init(&a->grow[i].lock, LK_ARENA);
		pthread_cond_init(&a->grow[i].moved, NULL);
		a->grow[i].failed_at = UINT64_MAX;
	}
}

void arena_grow_destroy(struct arena *a)
{
	for (uint32_t i = 0; i < ARENA_MAX_RANGES; i++) {
		lk_destroy(&a->grow[i].lock);
		pthread_cond_destroy(&a->grow[i].moved);
	}
}

/* Kernels before 5.14 have no MADV_POPULATE_WRITE. A store of ours would die of SIGBUS where pages are used up; when the kernel
 * writes for us, the same fault is an error of the call. */
static int populate_by_hand(const struct arena *a, uint8_t *p, uint64_t n)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	for (uint64_t i = 0; !err && i < n; i += a->page_bytes) {
		if (read(fd, p + i, 1) != 1)
			err = errno == EINTR ? 0 : -errno;
	}
	close(fd);
	return err;
}

static int populate(const struct arena *a, uint8_t *p, uint64_t n)
{
	int err;

	do {
		err = madvise(p, n, MADV_POPULATE_WRITE) == 0 ? 0 : -errno;
	} while (err == -EINTR || err == -EAGAIN);
	if (err == -EINVAL)
		err = populate_by_hand(a, p, n);
	return err == -EFAULT ? -ENOSPC : err; /* EFAULT = a touch would have raised SIGBUS */
}

static uint64_t step_bytes(const struct arena *a)
{
	if (a->backing != BACK_HUGETLB)
		return COMMIT_STEP;
	return a->page_bytes > HUGE_STEP ? a->page_bytes : HUGE_STEP;
}

static void wait_moved(struct arena_grow *g)
{
	pthread_cond_wait(&g->moved, &g->lock.m);
}

/* Takes a step that begins below `upto`; false when there is none to take now, and the caller looks again. */
static bool take_step(struct arena *a, uint32_t i, uint64_t upto, uint64_t *at, uint64_t *n)
{
	struct arena_grow *g = &a->grow[i];
	uint64_t step = step_bytes(a);
	bool taken = false;

	lk_lock(&g->lock);
	while (g->failed_at != UINT64_MAX && g->busy)
		wait_moved(g);
	if (g->failed_at != UINT64_MAX) { /* a new round: what was short may be there now */
		g->failed_at = UINT64_MAX;
		g->next = arena_committed(a, i);
	}
	if (g->next < upto) {
		*at = g->next;
		*n = a->range[i].bytes - *at < step ? a->range[i].bytes - *at : step;
		g->next += *n;
		g->busy++;
		taken = true;
	} else if (arena_committed(a, i) < upto) {
		wait_moved(g);
	}
	lk_unlock(&g->lock);
	return taken;
}

/* The committed part is a prefix: a step is counted when all before it are. */
static int end_step(struct arena *a, uint32_t i, uint64_t at, uint64_t n, int err)
{
	struct arena_grow *g = &a->grow[i];

	lk_lock(&g->lock);
	if (err && at < g->failed_at) {
		g->failed_at = at;
		g->err = err;
		pthread_cond_broadcast(&g->moved);
	}
	while (!err && arena_committed(a, i) != at && g->failed_at > at)
		wait_moved(g);
	if (!err && g->failed_at < at)
		err = g->err;
	if (!err)
		atomic_store_explicit(&g->committed, at + n, memory_order_release);
	g->busy--;
	pthread_cond_broadcast(&g->moved);
	lk_unlock(&g->lock);
	return err;
}

int arena_commit(struct arena *a, uint32_t i, uint64_t upto)
{
	uint64_t at, n;
	int err = 0;

	check(i < a->nranges && upto <= a->range[i].bytes);
	while (!err && arena_committed(a, i) < upto) {
		if (!take_step(a, i, upto, &at, &n))
			continue;
		err = arena_place_room(a, i, n) ? populate(a, a->base + a->range[i].start + at, n) : -ENOSPC;
		err = end_step(a, i, at, n, err);
	}
	return err;
}

uint64_t arena_committed(const struct arena *a, uint32_t i)
{
	check(i < a->nranges);
	return atomic_load_explicit(&a->grow[i].committed, memory_order_acquire);
}

/* ---- all at once --------------------------------------------------------------------------------------------------- */

struct crew { /* the threads of one range */
	struct arena *a;
	uint32_t i;
	uint64_t upto;
	const _Atomic bool *stop;
	_Atomic int *err; /* of the first of all crews that failed; the others then stop */
	_Atomic int *failed;
	pthread_t thread[ARENA_THREADS];
	uint32_t n, started;
};

static bool go_on(const struct crew *c)
{
	return !atomic_load(c->err) && !(c->stop && atomic_load(c->stop));
}

/* Each call commits about one step, whoever takes it, until the target is reached. */
static void crew_work(const struct crew *c)
{
	uint64_t step = step_bytes(c->a), have;
	int none = 0, err;

	while (go_on(c) && (have = arena_committed(c->a, c->i)) < c->upto) {
		uint64_t ahead = have + step * c->n;

		err = arena_commit(c->a, c->i, ahead < c->upto ? ahead : c->upto);
		if (err && atomic_compare_exchange_strong(c->err, &none, err))
			atomic_store(c->failed, (int)c->i);
	}
}

static void *crew_thread(void *arg)
{
	const struct crew *c = arg;
	const struct cpu_set *cpus = &c->a->cpus[c->i];

	pthread_setname_np(pthread_self(), "lmca-populate");
	if (cpus_count(cpus))
		cpus_pin_self(cpus); /* only speed depends on it: the policy says where pages go */
	crew_work(c);
	return NULL;
}

static uint32_t crew_size(const struct arena *a, const struct crew *c)
{
	uint64_t left = c->upto - arena_committed(a, c->i);
	uint64_t steps = (left + step_bytes(a) - 1) / step_bytes(a);
	uint32_t cpus = cpus_count(&a->cpus[c->i]);
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n = a->threads;

	if (!n)
		n = cpus ? cpus : (uint32_t)(online > 0 ? online : 1) / a->nranges;
	n = n > ARENA_THREADS ? ARENA_THREADS : n;
	n = n > steps ? (uint32_t)steps : n;
	return n ? n : 1;
}

/* A single step is not worth a thread. Where none can be started the caller does the work. */
static void crew_start(struct crew *c)
{
	bool many = c->upto - arena_committed(c->a, c->i) > step_bytes(c->a);

	c->n = crew_size(c->a, c);
	while (many && c->started < c->n && pthread_create(&c->thread[c->started], NULL, crew_thread, c) == 0)
		c->started++;
}

static int populate_why(struct arena *a, uint32_t i, int err, struct why *why)
{
	char place[32] = "";

	if (a->backing == BACK_HUGETLB)
		return arena_huge_why(a, i, err, why);
	if (a->range[i].bound)
		snprintf(place, sizeof(place), " of node %d", a->range[i].node.os);
	return why_set(
		why, err,
		"cannot populate L1 memory%s beyond %.2f GiB: %s; lower --l1-size-gb, or give the machine%s more "
		"memory%s",
		place, (double)arena_committed(a, i) / (1 << 30), strerror(-err), a->name[0] ? ", or /dev/shm," : "",
		a->range[i].bound ? " or the range another node" : "");
}

int arena_populate(struct arena *a, uint64_t bytes, const _Atomic bool *stop, struct why *why)
{
	struct crew crew[ARENA_MAX_RANGES];
	_Atomic int err = 0, failed = 0;

	for (uint32_t i = 0; i < a->nranges; i++) {
		uint64_t all = a->range[i].bytes;
		uint64_t share = (uint64_t)((unsigned __int128)bytes * all / a->bytes);

		if (bytes >= a->bytes || share > all)
			share = all;
		crew[i] = (struct crew){.a = a, .i = i, .upto = share, .stop = stop, .err = &err, .failed = &failed};
		if (share > arena_committed(a, i))
			crew_start(&crew[i]);
	}
	for (uint32_t i = 0; i < a->nranges; i++) {
		if (crew[i].started == 0)
			crew_work(&crew[i]);
	}
	for (uint32_t i = 0; i < a->nranges; i++) {
		for (uint32_t t = 0; t < crew[i].started; t++)
			pthread_join(crew[i].thread[t], NULL);
	}
	if (err)
		return populate_why(a, (uint32_t)failed, err, why);
	return stop && atomic_load(stop) ? why_set(why, -ECANCELED, "populating L1 was stopped") : 0;
}
