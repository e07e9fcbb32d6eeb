/* tier_bench.c - the tier alone: objects per second down and up, its CPU per object, and allocations, with an adapter that answers at
 * once and objects nobody touches. What a real adapter and the bytes cost comes on top.
 *
 *   tier_bench [objects]      default 400000
 *
 * The limits: how fast eight drives of 14 GB/s take objects of 1 MiB, which the tier's one thread must not hold up; and what the
 * same objects cost L1 alone, in the same run, for their reservation, commit and locks.
 */
#include "daemon/base/clock.h"
#include "daemon/tier/tier.h"
#include "tests/unit/daemon/store/fake_arena.h"
#include "tools/bench/row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define UNIT  4096u
#define BATCH 256u
/* The tier takes 2 GiB and 32768 objects before it drops any. */
#define WAITING 16384u
#define FLIGHT  8u                                 /* batches under way */
#define DRIVES  (8 * 14e9 / (double)(1024 * 1024)) /* objects of 1 MiB per second */

/* ---- every allocation of the process, whoever asks -------------------------------------------------------------------- */

static _Atomic uint64_t mallocs;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

/* In the place of libc's. */
void *counted_malloc(size_t n) __asm__("malloc");
void *counted_calloc(size_t n, size_t size) __asm__("calloc");
void *counted_realloc(void *p, size_t n) __asm__("realloc");

void *counted_malloc(size_t n)
{
	mallocs++;
	return __libc_malloc(n);
}

void *counted_calloc(size_t n, size_t size)
{
	mallocs++;
	return __libc_calloc(n, size);
}

void *counted_realloc(void *p, size_t n)
{
	mallocs++;
	return __libc_realloc(p, n);
}

/* ---- the adapter ------------------------------------------------------------------------------------------------------- */

static void instant_find(struct l2 *a, struct l2_find *f)
{
	(void)a;
	for (uint32_t i = 0; i < f->n; i++)
		f->bytes[i] = UNIT;
	f->done(f);
}

static void instant_io(struct l2 *a, struct l2_io *io)
{
	(void)a;
	io->result = 0;
	io->done(io);
}

static void instant_close(struct l2 *a, uint32_t wait_ms)
{
	(void)a;
	(void)wait_ms;
}

static const struct l2_ops instant = {.type = "instant",
				      .local = true,
				      .find = instant_find,
				      .load = instant_io,
				      .store = instant_io,
				      .flush = instant_io,
				      .close = instant_close};

/* ---- the run ------------------------------------------------------------------------------------------------------------- */

struct bench {
	struct arena *arena;
	struct store *store;
	store_ns ns;
	struct tier *tier;
	struct l2 adapter;
	_Atomic uint32_t loaded; /* jobs */
	_Atomic uint64_t objects;
};

static bool on_loaded(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs)
{
	struct bench *b = ctx;

	(void)id;
	store_unlock(b->store, objs, NULL, r->objects, 0);
	b->objects += r->objects;
	b->loaded++;
	return true; /* they are ours, and given back already */
}

static void die(const char *what)
{
	fprintf(stderr, "tier_bench: %s\n", what);
	exit(1);
}

static void open_all(struct bench *b, uint32_t objects)
{
	struct l2 *adapters[1] = {&b->adapter};
	struct why why;

	b->arena = fake_arena_full((uint64_t)objects * UNIT);
	struct store_conf sc = {.arena = b->arena, .trigger_watermark = 1, .eviction_ratio = 0.2, .align = UNIT};
	if (store_create(&sc, &b->store, &why))
		die(why.text);
	b->ns = store_ns_get(b->store, slice_str("model"), 1, 0, slice_str(""), NULL);
	b->adapter.ops = &instant;
	struct tier_conf tc = {.store = b->store,
			       .adapters = adapters,
			       .nadapters = 1,
			       .max_jobs = FLIGHT,
			       .max_load_bytes = 64ull << 20,
			       .max_dirty_bytes = 2ull << 30,
			       .load_timeout_ms = 60000,
			       .prefetch_policy = TIER_PREFETCH_RETAIN,
			       .listener = {b, NULL, on_loaded}};
	if (tier_create(&tc, &b->tier, &why))
		die(why.text);
}

static double cpu(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* CPU of all threads but ours: the tier's. */
static double others_cpu(void)
{
	return cpu(CLOCK_PROCESS_CPUTIME_ID) - cpu(CLOCK_THREAD_CPUTIME_ID);
}

static void hashes_from(struct store_hash *h, uint64_t first)
{
	for (uint64_t i = 0; i < BATCH; i++) {
		uint64_t x = (first + i) * 0x9e3779b97f4a7c15u;
		for (uint32_t k = 0; k < STORE_HASH_BYTES; k += 8) {
			x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
			memcpy(h[i].b + k, &x, 8);
		}
	}
}

static void commit_batch(struct bench *b, const struct store_hash *h, store_obj *o)
{
	if (store_reserve(b->store, b->ns, h, BATCH, UNIT, NODE_UNKNOWN, 0, o).reserved != BATCH)
		die("no room in L1");
	if (store_commit_locked(b->store, o, BATCH, 1, false, 0) != BATCH)
		die("not committed");
}

/* What L1 alone costs per object: reserve, commit, unlock. */
static double l1_alone(struct bench *b, uint32_t objects)
{
	struct store_hash h[BATCH];
	store_obj o[BATCH];
	double t0;

	t0 = cpu(CLOCK_THREAD_CPUTIME_ID);
	for (uint32_t at = 0; at < objects; at += BATCH) {
		hashes_from(h, at + (1ull << 40));
		commit_batch(b, h, o);
		store_unlock(b->store, o, NULL, BATCH, 0);
	}
	t0 = (cpu(CLOCK_THREAD_CPUTIME_ID) - t0) / objects;
	store_clear(b->store);
	return t0;
}

struct figures {
	double seconds, tier_cpu;
	uint64_t mallocs;
};

static struct figures down(struct bench *b, uint32_t objects, uint64_t first)
{
	struct store_hash h[BATCH];
	store_obj o[BATCH];
	struct tier_stats st;
	struct figures f;
	uint64_t t0 = clock_ns(), m0 = mallocs, done;
	double c0 = others_cpu();

	tier_stats(b->tier, &st);
	done = st.stored_objects;
	for (uint32_t at = 0; at < objects; at += BATCH) {
		hashes_from(h, first + at);
		while (tier_stats(b->tier, &st), st.dirty_objects > WAITING)
			usleep(50);
		commit_batch(b, h, o);
		tier_store(b->tier, 1, h, o, BATCH);
	}
	do {
		tier_stats(b->tier, &st);
	} while (st.dirty_objects && !usleep(100));
	f = (struct figures){(double)(clock_ns() - t0) * 1e-9, others_cpu() - c0, mallocs - m0};
	if (st.stored_objects - done != objects)
		die("some objects were not written");
	return f;
}

static struct figures up(struct bench *b, uint32_t objects, uint64_t first)
{
	struct store_hash h[BATCH];
	uint32_t name = 1, jobs = 0;
	uint64_t t0 = clock_ns(), m0 = mallocs, o0 = b->objects;
	double c0 = others_cpu();
	struct figures f;

	b->loaded = 0;
	for (uint32_t at = 0; at < objects; at += BATCH) {
		store_ns ns = store_ns_get(b->store, slice_str("model"), 1, 0, slice_str(""), NULL);
		struct tier_want w = {.id = jobs,
				      .world_size = 1,
				      .ns = &ns,
				      .names = &name,
				      .hashes = h,
				      .nchunks = BATCH,
				      .object_bytes = UNIT,
				      .locks = 1,
				      .node = NODE_UNKNOWN};

		hashes_from(h, first + at);
		while (jobs - b->loaded >= FLIGHT)
			usleep(20);
		if (tier_prefetch(b->tier, &w))
			die("a prefetch was refused");
		jobs++;
	}
	while (b->loaded < jobs)
		usleep(100);
	f = (struct figures){(double)(clock_ns() - t0) * 1e-9, others_cpu() - c0, mallocs - m0};
	if (b->objects - o0 != objects)
		die("some objects were not loaded");
	return f;
}

static void rows(const char *what, const struct figures *f, uint32_t objects, double l1_s)
{
	double rate = objects / f->seconds, cpu_s = f->tier_cpu / objects;
	char name[64];

	snprintf(name, sizeof(name), "%s: objects per second", what);
	bench_row(name, rate / 1e3, DRIVES / 1e3, "k/s", "8 drives of 14 GB/s, 1 MiB", rate / DRIVES, ">= 1",
		  rate >= DRIVES);
	bench_row("  CPU of the tier's thread per object", cpu_s * 1e9, l1_s * 1e9, "ns",
		  "L1 alone: reserve, commit, unlock", cpu_s / l1_s, "-", true);
	bench_row("  share of its core at 10 GB/s of 1 MiB", cpu_s * 1e10 / (1 << 20), 1, "cores", "one core",
		  cpu_s * 1e10 / (1 << 20), "<= 0.05", cpu_s * 1e10 / (1 << 20) <= 0.05);
	bench_row("  allocations", (double)f->mallocs, 0, "", "none", (double)f->mallocs, "0", f->mallocs == 0);
}

int main(int argc, char **argv)
{
	uint32_t objects = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) / BATCH * BATCH : 1600 * BATCH;
	struct figures f;
	struct bench b;
	double l1;

	memset(&b, 0, sizeof(b));
	open_all(&b, objects + 16 * BATCH);
	if (!mallocs)
		die("allocations are not seen");
	bench_head("tier: objects down and up, an adapter that answers at once");
	l1_alone(&b, objects);
	l1 = l1_alone(&b, objects);
	down(&b, objects, 0); /* tables and buffers have their size then */
	store_clear(b.store);
	f = down(&b, objects, 0);
	rows("store", &f, objects, l1);
	store_clear(b.store);
	up(&b, objects, 0);
	store_clear(b.store);
	f = up(&b, objects, 0);
	rows("prefetch, 256 objects each", &f, objects, l1);
	tier_destroy(b.tier, 1000);
	store_ns_put(b.store, b.ns);
	store_destroy(b.store);
	arena_destroy(b.arena);
	return 0;
}
