/* The arena's registration with CUDA: slice by slice, in a thread of its own, while the arena grows.
 *
 * A registration belongs to the context it was made in, and is good for all GPUs (portable). So one of the GPUs in use lends its context,
 * which then stays until no GPU is in use any more, and everything is unregistered before it goes.
 */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>

#define SLICE         (1ull << 30)
#define LOOK_EVERY_MS 50u
#define TRY_AGAIN_MS  500u
#define QUIET_MS      10000u
#define GIB           (1024.0 * 1024.0 * 1024.0)

struct range {
	const struct gpu_memory *memory;
	uint64_t slices;
	uint64_t next;         /* the thread's: the slice to be registered next */
	_Atomic uint8_t *done; /* of each slice: it is registered */
	_Atomic uint64_t bytes;
	_Atomic bool failed;
};

struct pinned {
	struct gpu_door *door;
	uint64_t slice;
	struct range *ranges;
	uint32_t nranges;
	_Atomic uint64_t ns;       /* spent in the driver */
	struct gpu *_Atomic owner; /* whose context it is in; NULL: nothing is registered */

	struct lk lk;
	pthread_cond_t wake, ended_cond;
	pthread_t thread;
	uint32_t engines[GPU_MAX], all;
	uint32_t changes; /* so that none is slept through */
	bool started, stop, leave, ended;
};

/* ---- who asks ---------------------------------------------------------------------------------------------------------------- */

static const struct range *range_of(const struct pinned *p, const void *at)
{
	for (uint32_t i = 0; i < p->nranges; i++) {
		const struct gpu_memory *m = p->ranges[i].memory;

		if ((uintptr_t)at - (uintptr_t)m->base < m->bytes)
			return &p->ranges[i];
	}
	return NULL;
}

uint64_t pinned_run(const struct pinned *p, const void *at)
{
	const struct range *r = range_of(p, at);
	const struct gpu *owner = atomic_load(&p->owner);
	uint64_t offset, end;

	if (!r || !owner || atomic_load(&owner->lost))
		return 0;
	offset = (uintptr_t)at - (uintptr_t)r->memory->base;
	if (!atomic_load(&r->done[offset / p->slice]))
		return 0;
	end = (offset / p->slice + 1) * p->slice;
	return (end < r->memory->bytes ? end : r->memory->bytes) - offset;
}

bool pinned_covers(const struct pinned *p, const void *at, uint64_t n)
{
	return pinned_run(p, at) >= n;
}

void pinned_count(const struct pinned *p, uint64_t *bytes, uint64_t *ns)
{
	*bytes = 0;
	for (uint32_t i = 0; i < p->nranges; i++)
		*bytes += atomic_load(&p->ranges[i].bytes);
	*ns = atomic_load(&p->ns);
}

json_t *pinned_status(const struct pinned *p)
{
	const struct gpu *owner = atomic_load(&p->owner);
	json_t *ranges = json_array();
	uint64_t bytes, ns, of = 0;

	pinned_count(p, &bytes, &ns);
	for (uint32_t i = 0; i < p->nranges; i++) {
		const struct range *r = &p->ranges[i];

		of += r->memory->bytes;
		json_array_append_new(ranges,
				      json_pack("{s:I, s:I, s:b}", "bytes", (json_int_t)atomic_load(&r->bytes), "of",
						(json_int_t)r->memory->bytes, "failed", (int)atomic_load(&r->failed)));
	}
	return json_pack("{s:I, s:I, s:f, s:i, s:o}", "bytes", (json_int_t)bytes, "of", (json_int_t)of, "seconds",
			 (double)ns / 1e9, "in_context_of_gpu", owner ? (int)owner->index : -1, "ranges", ranges);
}

/* ---- the thread -------------------------------------------------------------------------------------------------------------- */

static uint64_t slice_bytes(const struct pinned *p, const struct range *r, uint64_t i)
{
	uint64_t left = r->memory->bytes - i * p->slice;

	return left < p->slice ? left : p->slice;
}

static uint64_t there(const struct gpu_memory *m)
{
	return m->there ? m->there(m->ctx, m->index) : m->bytes;
}

/* The range that has a slice to be registered now. `more`: there will be some later. */
static struct range *find_work(struct pinned *p, bool *more)
{
	*more = false;
	for (uint32_t i = 0; i < p->nranges; i++) {
		struct range *r = &p->ranges[i];

		if (r->next == r->slices || atomic_load(&r->failed))
			continue;
		if (there(r->memory) >= r->next * p->slice + slice_bytes(p, r, r->next))
			return r;
		*more = true;
	}
	return NULL;
}

static void register_failed(struct pinned *p, struct range *r, struct gpu *g, CUresult rc)
{
	atomic_store(&r->failed, true);
	log_warn("the arena cannot be registered with CUDA beyond %.1f of %.1f GiB of range %u: %s; copies of the rest "
		 "go "
		 "through staging memory and are slower. Allow locked memory (LimitMEMLOCK=infinity, ulimit -l "
		 "unlimited)",
		 (double)atomic_load(&r->bytes) / GIB, (double)r->memory->bytes / GIB, (uint32_t)(r - p->ranges),
		 cuda_error(p->door->cu, rc));
	gpu_result(g, rc);
}

static void register_one(struct pinned *p, struct range *r, struct gpu *g)
{
	uint64_t n = slice_bytes(p, r, r->next), begin = clock_ns();
	uint8_t *at = (uint8_t *)r->memory->base + r->next * p->slice;
	bool more;
	CUresult rc = p->door->cu->cuMemHostRegister(at, n, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);

	atomic_fetch_add(&p->ns, clock_ns() - begin);
	if (rc) {
		register_failed(p, r, g, rc);
		return;
	}
	atomic_store(&r->done[r->next++], 1);
	atomic_fetch_add(&r->bytes, n);
	if (!find_work(p, &more) && !more) {
		uint64_t bytes, ns;

		pinned_count(p, &bytes, &ns);
		log_info("%.1f GiB of the arena are registered with CUDA, in %.1f s", (double)bytes / GIB,
			 (double)ns / 1e9);
	}
}

/* Copies that began while memory counted as registered may still use it. Those of a GPU whose context broke have ended. */
static void wait_until_unused(const struct pinned *p)
{
	uint64_t mark = clock_ns(), until = mark + QUIET_MS * 1000000ull;
	struct timespec t = {.tv_nsec = 1000000};

	for (uint32_t i = 0; i < p->door->ngpus; i++) {
		const struct gpu *g = &p->door->gpu[i];

		while (!atomic_load(&g->lost) && atomic_load(&g->oldest_ns) <= mark && clock_ns() < until)
			nanosleep(&t, NULL);
	}
}

/* With a broken context its registrations are gone, too. */
static void unregister_all(struct pinned *p)
{
	struct gpu *g = atomic_exchange(&p->owner, NULL);
	bool lost;

	wait_until_unused(p);
	gpu_enter(g); /* it has been current here since gpu_hold: the worst is that it still is */
	lost = atomic_load(&g->lost);
	for (uint32_t i = 0; i < p->nranges; i++) {
		struct range *r = &p->ranges[i];

		for (uint64_t s = 0; s < r->next; s++) {
			atomic_store(&r->done[s], 0);
			if (!lost)
				p->door->cu->cuMemHostUnregister((uint8_t *)r->memory->base + s * p->slice);
		}
		r->next = 0;
		atomic_store(&r->bytes, 0);
		atomic_store(&r->failed, false);
	}
	atomic_store(&p->ns, 0);
	gpu_release(g);
}

/* Some GPU in use whose context works. */
static struct gpu *candidate(struct pinned *p)
{
	for (uint32_t i = 0; i < p->door->ngpus; i++)
		if (p->engines[i] && !atomic_load(&p->door->gpu[i].lost))
			return &p->door->gpu[i];
	return NULL;
}

/* 0: go on at once; else wait for so long at most; UINT32_MAX: until told. Without the lock. */
static uint32_t one_step(struct pinned *p, struct gpu *wanted, bool away)
{
	struct gpu *owner = atomic_load(&p->owner);
	struct range *r;
	bool more = false;

	if (owner && (away || atomic_load(&owner->lost))) {
		unregister_all(p);
		return 0;
	}
	if (!owner) {
		if (!wanted)
			return UINT32_MAX;
		if (gpu_hold(wanted, NULL))
			return TRY_AGAIN_MS;
		atomic_store(&p->owner, wanted);
		return 0;
	}
	r = find_work(p, &more);
	if (r)
		register_one(p, r, owner);
	return r ? 0 : more ? LOOK_EVERY_MS : UINT32_MAX;
}

static void wait_ms(struct pinned *p, uint32_t ms)
{
	uint64_t until = clock_ns() + ms * 1000000ull;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};

	if (ms == UINT32_MAX)
		pthread_cond_wait(&p->wake, &p->lk.m);
	else
		pthread_cond_timedwait(&p->wake, &p->lk.m, &t);
}

static void *run(void *arg)
{
	struct pinned *p = arg;

	prctl(PR_SET_NAME, "lmca-gpu-reg");
	lk_lock(&p->lk);
	while (!p->stop) {
		struct gpu *wanted = candidate(p);
		bool away = !p->all;
		uint32_t seen = p->changes, ms;

		lk_unlock(&p->lk);
		ms = one_step(p, wanted, away);
		lk_lock(&p->lk);
		if (ms && seen == p->changes && !p->stop)
			wait_ms(p, ms);
	}
	if (!p->leave && atomic_load(&p->owner)) {
		lk_unlock(&p->lk);
		unregister_all(p);
		lk_lock(&p->lk);
	}
	p->ended = true;
	pthread_cond_broadcast(&p->ended_cond);
	lk_unlock(&p->lk);
	return NULL;
}

/* ---- begin and end ----------------------------------------------------------------------------------------------------------- */

static int add_range(struct pinned *p, const struct gpu_memory *m)
{
	struct range *r = &p->ranges[p->nranges];

	if (!m->bytes)
		return 0;
	r->memory = m;
	r->slices = (m->bytes + p->slice - 1) / p->slice;
	r->done = mem_calloc(r->slices, sizeof(*r->done));
	if (!r->done)
		return -ENOMEM;
	p->nranges++;
	return 0;
}

static void free_pinned(struct pinned *p)
{
	for (uint32_t i = 0; i < p->nranges; i++)
		mem_free((void *)p->ranges[i].done);
	pthread_cond_destroy(&p->ended_cond);
	pthread_cond_destroy(&p->wake);
	lk_destroy(&p->lk);
	mem_free(p->ranges);
	mem_free(p);
}

int pinned_create(struct gpu_door *d, struct pinned **out)
{
	struct pinned *p = mem_calloc(1, sizeof(*p));
	pthread_condattr_t attr;
	int rc;

	if (!p)
		return -ENOMEM;
	p->door = d;
	p->slice = d->conf.slice_bytes ? d->conf.slice_bytes : SLICE;
	lk_init(&p->lk, LK_GPU_DOOR);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &attr);
	pthread_cond_init(&p->ended_cond, &attr);
	pthread_condattr_destroy(&attr);
	p->ranges = mem_calloc(d->conf.nmemory ? d->conf.nmemory : 1, sizeof(*p->ranges));
	rc = p->ranges ? 0 : -ENOMEM;
	for (uint32_t i = 0; !rc && i < d->conf.nmemory; i++)
		rc = add_range(p, &d->conf.memory[i]);
	if (rc)
		free_pinned(p);
	else
		*out = p;
	return rc;
}

/* Without it copies go through staging: no reason to refuse an engine. */
static void start_thread(struct pinned *p)
{
	int rc = p->started || !p->nranges ? 0 : pthread_create(&p->thread, NULL, run, p);

	if (rc)
		log_warn("no thread to register the arena with CUDA: %s; copies are slower", strerror(rc));
	else
		p->started = p->nranges != 0;
}

void pinned_begin(struct pinned *p, struct gpu *g)
{
	lk_lock(&p->lk);
	p->engines[g->index]++;
	p->all++;
	p->changes++;
	start_thread(p);
	pthread_cond_signal(&p->wake);
	lk_unlock(&p->lk);
}

void pinned_end(struct pinned *p, struct gpu *g)
{
	lk_lock(&p->lk);
	p->engines[g->index]--;
	p->all--;
	p->changes++;
	pthread_cond_signal(&p->wake);
	lk_unlock(&p->lk);
}

void pinned_destroy(struct pinned *p, bool leave)
{
	uint64_t until = clock_ns() + 1000000000ull;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
	bool ended;

	lk_lock(&p->lk);
	p->stop = true;
	p->leave = leave;
	pthread_cond_signal(&p->wake);
	while (leave && p->started && !p->ended && !pthread_cond_timedwait(&p->ended_cond, &p->lk.m, &t))
		;
	ended = p->ended;
	lk_unlock(&p->lk);
	if (leave) { /* the driver may keep the thread: a stuck device keeps whoever unregisters memory */
		if (p->started && !ended)
			pthread_detach(p->thread);
		else if (p->started)
			pthread_join(p->thread, NULL);
		return;
	}
	if (p->started)
		pthread_join(p->thread, NULL);
	free_pinned(p);
}
