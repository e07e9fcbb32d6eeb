/* tier.c - the tier's life, its thread and its figures. */
#include "daemon/tier/tier.h"

#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/tier/tier_int.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LONGEST_NS 1000000000ull /* the thread goes round at least so often, which /status shows */

/* ---- sums -------------------------------------------------------------------------------------------------------------- */

uint32_t *sums_for(struct sums *s, uint64_t bytes)
{
	uint32_t n = crc_blocks(bytes);

	if (n <= SUMS_INLINE)
		return s->few;
	if (n > s->cap) {
		mem_free(s->many);
		s->many = mem_calloc(n, sizeof(*s->many));
		s->cap = s->many ? n : 0;
	}
	return s->many;
}

void sums_free(struct sums *s)
{
	mem_free(s->many);
}

/* ---- waking ------------------------------------------------------------------------------------------------------------ */

/* Either the thread sees what was added before it sleeps, or we see that it sleeps: both sides write first and then read, all
 * sequentially consistent. */
void tier_wake(struct tier *t)
{
	uint64_t one = 1;

	if (atomic_load(&t->sleeping) && atomic_exchange(&t->sleeping, false))
		(void)!write(t->wake, &one, sizeof(one));
}

void tier_io_done(struct l2_io *io)
{
	struct tier *t = io->owner;

	io->next = atomic_load_explicit(&t->done_ios, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&t->done_ios, &io->next, io, memory_order_seq_cst,
						      memory_order_relaxed))
		;
	tier_wake(t);
}

static bool has_work(struct tier *t)
{
	return atomic_load(&t->done_ios) || atomic_load(&t->done_finds) || atomic_load(&t->todo);
}

static void rest(struct tier *t, uint64_t until_ns, uint64_t now_ns)
{
	uint64_t ns = until_ns > now_ns ? until_ns - now_ns : 0, count;
	struct timespec ts;
	struct pollfd p = {.fd = t->wake, .events = POLLIN};

	if (ns > LONGEST_NS)
		ns = LONGEST_NS;
	ts = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
	atomic_store(&t->sleeping, true);
	if (!has_work(t) && ppoll(&p, 1, &ts, NULL) > 0)
		(void)!read(t->wake, &count, sizeof(count));
	atomic_store(&t->sleeping, false);
}

/* ---- the thread -------------------------------------------------------------------------------------------------------- */

/* Completions in the order they came. */
static struct l2_io *take_ios(struct tier *t)
{
	struct l2_io *io = atomic_exchange(&t->done_ios, NULL), *list = NULL, *next;

	for (; io; io = next) {
		next = io->next;
		io->next = list;
		list = io;
	}
	return list;
}

static struct l2_find *take_finds(struct tier *t)
{
	struct l2_find *f = atomic_exchange(&t->done_finds, NULL), *list = NULL, *next;

	for (; f; f = next) {
		next = f->next;
		f->next = list;
		list = f;
	}
	return list;
}

static bool completions(struct tier *t, uint64_t now_ns)
{
	struct l2_io *io = take_ios(t), *next;
	struct l2_find *f = take_finds(t), *fnext;
	bool any = io || f;

	for (; f; f = fnext) {
		fnext = f->next;
		fetch_answer(t, f, now_ns);
	}
	for (; io; io = next) {
		next = io->next;
		switch ((enum io_kind)(io->tag & 0xff)) {
		case IO_LOAD:
			load_done(t, (struct load *)((char *)io - offsetof(struct load, io)), now_ns);
			break;
		case IO_STORE:
			write_done(t, (struct copy *)((char *)io - offsetof(struct copy, io)), now_ns);
			break;
		case IO_FLUSH:
			flush_done(t, io);
			break;
		}
	}
	return any;
}

static bool requests(struct tier *t, uint64_t now_ns)
{
	struct item *items;
	struct job *jobs;
	bool flush, cancels;

	if (!atomic_load(&t->todo))
		return false;
	lk_lock(&t->lk);
	atomic_store_explicit(&t->todo, 0, memory_order_relaxed);
	items = t->new_items;
	t->new_items = NULL;
	t->new_items_end = &t->new_items;
	jobs = t->new_jobs;
	t->new_jobs = NULL;
	t->new_jobs_end = &t->new_jobs;
	cancels = t->cancels > 0;
	t->cancels = 0;
	flush = flush_mark(t);
	lk_unlock(&t->lk);
	write_take(t, items, now_ns);
	fetch_take(t, jobs, now_ns);
	if (cancels)
		fetch_cancelled(t);
	if (flush) {
		t->epoch++;
		t->flushing = true;
	}
	return true;
}

static bool turn(struct tier *t, uint64_t now_ns)
{
	bool any = requests(t, now_ns);

	any |= completions(t, now_ns);
	fetch_deadlines(t, now_ns);
	/* Reads before writes. */
	fetch_pump(t, now_ns);
	write_pump(t, now_ns);
	flush_turn(t, now_ns);
	if (now_ns >= t->stalls_ns) {
		write_drop_stalled(t, now_ns);
		t->stalls_ns = now_ns + STALLED_NS / 4;
	}
	write_give_back(t);
	return any;
}

static uint64_t next_ns(struct tier *t, uint64_t now_ns)
{
	uint64_t next = fetch_next_ns(t, now_ns), flush = flush_next_ns(t);

	next = flush < next ? flush : next;
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		if (t->lane[i].waiting && t->stalls_ns < next)
			next = t->stalls_ns;
	}
	return next;
}

/* What is on its way has until then; nothing new is taken. True when it is time to go. */
static bool is_over(struct tier *t, uint64_t now_ns, uint64_t *until_ns)
{
	bool stopping, dirty;

	lk_lock(&t->lk);
	stopping = t->stopping;
	dirty = t->dirty_objects > 0 || t->nflushes > 0;
	*until_ns = t->stop_ns;
	lk_unlock(&t->lk);
	if (!stopping)
		return false;
	fetch_end_all(t);
	return now_ns >= *until_ns || (!dirty && !t->loading && !has_work(t));
}

static void *run(void *arg)
{
	struct tier *t = arg;
	uint64_t now, until = UINT64_MAX, next;

	pthread_setname_np(pthread_self(), "lmca-l2");
	for (;;) {
		now = clock_ns();
		put(&t->turn_ms, now / 1000000u);
		atomic_store_explicit(&t->cpu, sched_getcpu(), memory_order_relaxed);
		if (turn(t, now))
			continue;
		if (is_over(t, now, &until))
			return NULL;
		next = next_ns(t, now);
		rest(t, next < until ? next : until, now);
	}
}

/* ---- life -------------------------------------------------------------------------------------------------------------- */

static int make_parts(struct tier *t)
{
	int err;

	t->by_id = mem_calloc(JOBS_WAITING, sizeof(struct job *));
	t->flush = mem_calloc(FLUSHES, sizeof(*t->flush));
	if (!t->by_id || !t->flush)
		return -ENOMEM;
	if (t->c.admission == TIER_ADMIT_SECOND_TOUCH && !(t->sketch = sketch_create()))
		return -ENOMEM;
	err = write_create(t);
	return err ? err : load_create(t);
}

static void free_parts(struct tier *t)
{
	struct job *j, *jnext;
	struct find *f, *fnext;

	for (j = t->spare_jobs; j; j = jnext) {
		jnext = j->next;
		mem_free(j->mem);
		mem_free(j);
	}
	for (f = t->spare_finds; f; f = fnext) {
		fnext = f->next;
		mem_free(f->mem);
		mem_free(f);
	}
	load_destroy(t);
	write_destroy(t);
	sketch_destroy(t->sketch);
	mem_free(t->flush);
	mem_free((void *)t->by_id);
	if (t->wake >= 0)
		close(t->wake);
	lk_destroy(&t->lk);
	mem_free(t);
}

int tier_create(const struct tier_conf *conf, struct tier **out, struct why *why)
{
	struct tier *t;
	int err;

	if (conf->nadapters > TIER_MAX_ADAPTERS || !conf->max_jobs || !conf->max_load_bytes)
		return why_set(why, -EINVAL, "L2: %u adapters (at most %u), or no room for a prefetch", conf->nadapters,
			       TIER_MAX_ADAPTERS);
	t = mem_calloc(1, sizeof(*t));
	if (!t)
		return why_set(why, -ENOMEM, "no memory for L2");
	t->c = *conf;
	t->new_items_end = &t->new_items;
	t->new_jobs_end = &t->new_jobs;
	t->next_deadline_ns = UINT64_MAX;
	t->cpu = -1;
	put(&t->turn_ms, clock_ms());
	lk_init(&t->lk, LK_TIER);
	t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = t->wake < 0 ? -errno : make_parts(t);
	if (!err)
		err = -pthread_create(&t->thread, NULL, run, t);
	if (err) {
		/* The adapters stay the caller's. */
		free_parts(t);
		return why_set(why, err, "L2: cannot start: %s", strerror(-err));
	}
	t->c.adapters = NULL;
	*out = t;
	return 0;
}

/* After this nothing is in the hands of an adapter but what a dead device holds. */
static void close_adapters(struct tier *t, uint64_t until_ns)
{
	for (uint32_t i = 0; i < t->c.nadapters; i++) {
		uint64_t now = clock_ns();
		struct l2 *a = t->lane[i].a;

		a->ops->close(a, now < until_ns ? (uint32_t)((until_ns - now) / 1000000u) : 0);
	}
}

static bool is_empty(const struct tier *t)
{
	bool empty = !t->loading && !t->dirty_objects;

	for (uint32_t i = 0; i < FLUSHES; i++)
		empty &= t->flush[i].state == FLUSH_FREE;
	return empty;
}

void tier_destroy(struct tier *t, uint32_t wait_ms)
{
	if (!t)
		return;
	lk_lock(&t->lk);
	t->stopping = true;
	t->stop_ns = clock_ns() + wait_ms * 1000000ull;
	atomic_store(&t->todo, 1);
	lk_unlock(&t->lk);
	tier_wake(t);
	pthread_join(t->thread, NULL);
	/* From here on this thread is the owner. */
	requests(t, clock_ns());
	fetch_end_all(t);
	flush_end_all(t);
	write_abandon(t);
	t->closed = true;
	close_adapters(t, t->stop_ns);
	while (completions(t, clock_ns()))
		;
	write_give_back(t);
	if (!is_empty(t)) {
		log_error("L2: %u loads and %llu stores did not come back from their adapters; their memory is not "
			  "used again",
			  t->loading, (unsigned long long)t->dirty_objects);
		return;
	}
	free_parts(t);
}

/* ---- figures ----------------------------------------------------------------------------------------------------------- */

void tier_stats(struct tier *t, struct tier_stats *out)
{
	uint64_t now = clock_ms(), turn_at = atomic_load_explicit(&t->turn_ms, memory_order_relaxed);

#define GET(x) .x = atomic_load_explicit(&t->n.x, memory_order_relaxed)
	*out = (struct tier_stats){GET(store_requests), GET(store_objects),  GET(store_bytes),      GET(stored_objects),
				   GET(store_failed),   GET(store_dropped),  GET(store_present),    GET(not_admitted),
				   GET(jobs),           GET(lookup_objects), GET(hit_objects),      GET(load_objects),
				   GET(loaded_objects), GET(load_failed),    GET(no_room),          GET(not_found),
				   GET(contended),      GET(late_jobs),      GET(coalesced),        GET(loading_bytes),
				   GET(jobs_waiting),   GET(jobs_loading),   GET(quarantined_bytes)};
#undef GET
	lk_lock(&t->lk);
	out->dirty_objects = t->dirty_objects;
	out->dirty_bytes = t->dirty_bytes;
	lk_unlock(&t->lk);
	out->last_progress_s = now > turn_at ? (double)(now - turn_at) / 1000 : 0;
	out->cpu = atomic_load_explicit(&t->cpu, memory_order_relaxed);
}

uint32_t tier_adapters(const struct tier *t)
{
	return t->c.nadapters;
}

struct l2 *tier_adapter(const struct tier *t, uint32_t i)
{
	return t->lane[i].a;
}

void tier_meter(struct tier *t, const struct tier_meter *m)
{
	t->meter = *m;
}
