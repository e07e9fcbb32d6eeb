/* index_bench.c - the store alone: cost of a lookup as the index grows, memory per object, and how much of the arena
 * stays usable under churn. No engine, no copies, no real arena: slots are address space that nobody touches.
 *
 *   index_bench [max_objects [churn_operations]]      default 10000000 1000000
 *
 * A lookup is what a LOOKUP and the RETRIEVE after it cost per object: store_lock_prefix and store_unlock of a whole prompt of
 * 512 chunks, chosen at random, so that in a large index its records are cold; its hashes are fresh, as they are after hashing.
 * The limit is the same at 10^3 objects, measured in the same run. Times are of the thread's CPU clock, the lower quartile of
 * many prompts: other work on the machine only ever adds. Further rows: a store aged by many generations of prompts, the
 * worst case where no two chunks of a prompt lie together, and what a library's hash table costs for the bare search.
 */
#include "daemon/store/store.h"
#include "tests/unit/daemon/store/fake_arena.h"
#include "tools/bench/row.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if __has_include(<glib.h>)
#include <glib.h>
#define HAVE_GLIB 1
#endif

#define PROMPT 512
#define UNIT   4096u

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

static uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void make_key(struct store_hash *h, uint64_t i)
{
	uint64_t w[4] = {mix64(4 * i), mix64(4 * i + 1), mix64(4 * i + 2), mix64(4 * i + 3)};

	memcpy(h->b, w, sizeof(w));
}

static void make_prompt(struct store_hash *h, uint64_t prompt)
{
	for (uint64_t i = 0; i < PROMPT; i++)
		make_key(&h[i], prompt * PROMPT + i);
}

struct rig {
	struct arena *a;
	struct store *s;
	store_ns ns;
};

static void rig_open(struct rig *r, struct store_conf conf, uint64_t bytes)
{
	struct why why;

	r->a = fake_arena_full(bytes);
	conf.arena = r->a;
	conf.policy = STORE_LRU;
	conf.trigger_watermark = conf.trigger_watermark > 0 ? conf.trigger_watermark : 1;
	conf.eviction_ratio = 0.2;
	conf.align = UNIT;
	if (store_create(&conf, &r->s, &why)) {
		fprintf(stderr, "index_bench: %s\n", why.text);
		exit(1);
	}
	r->ns = store_ns_get(r->s, slice_str("model"), 0x01000100, 0, slice_str(""), NULL);
}

static void rig_close(struct rig *r)
{
	store_destroy(r->s);
	arena_destroy(r->a);
}

/* ---- lookups ------------------------------------------------------------------------------------------------------- */

static void store_all(struct rig *r, const struct store_hash *h, uint32_t n)
{
	store_obj o[PROMPT];

	if (store_reserve(r->s, r->ns, h, n, UNIT, NODE_UNKNOWN, 0, o).reserved != n ||
	    store_commit(r->s, o, n, 0) != n)
		abort();
}

/* As engines do: prompt by prompt. Returns ns per object. */
static double fill_prompts(struct rig *r, uint64_t prompts)
{
	struct store_hash h[PROMPT];
	uint64_t spent = 0, t;

	for (uint64_t p = 0; p < prompts; p++) {
		make_prompt(h, p);
		t = cpu_ns();
		store_all(r, h, PROMPT);
		spent += cpu_ns() - t;
	}
	return (double)spent / (double)(prompts * PROMPT);
}

/* First the first chunk of every prompt, then the second...: no neighbours anywhere. */
static void fill_scattered(struct rig *r, uint64_t prompts)
{
	struct store_hash h[PROMPT];

	for (uint64_t i = 0; i < PROMPT; i++) {
		for (uint64_t p = 0; p < prompts;) {
			uint32_t n = 0;
			for (; n < PROMPT && p < prompts; n++, p++)
				make_key(&h[n], p * PROMPT + i);
			store_all(r, h, n);
		}
	}
}

static struct store_hash picked[PROMPT];

static void pick(uint64_t *seed, uint64_t prompts)
{
	*seed = mix64(*seed);
	make_prompt(picked, *seed % prompts);
}

static double time_lock(struct rig *r)
{
	store_obj o[PROMPT];
	uint64_t t = cpu_ns();

	if (store_lock_prefix(r->s, &r->ns, 1, picked, PROMPT, 1, UNIT, 0, o) != PROMPT)
		abort();
	store_unlock(r->s, o, NULL, PROMPT, 0);
	return (double)(cpu_ns() - t) / PROMPT;
}

static double time_peek(struct rig *r)
{
	uint64_t t = cpu_ns();

	if (store_peek_prefix(r->s, &r->ns, 1, picked, PROMPT, UNIT) != PROMPT)
		abort();
	return (double)(cpu_ns() - t) / PROMPT;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

#define ROUNDS 4000

static double quartile(double *v)
{
	qsort(v, ROUNDS, sizeof(*v), by_value);
	return v[ROUNDS / 4];
}

struct cost {
	double lock, peek, insert, bytes;
};

static struct cost measure(uint64_t objects, bool scattered)
{
	static double lock[ROUNDS], peek[ROUNDS];
	uint64_t prompts = (objects + PROMPT - 1) / PROMPT, seed = 1;
	struct store_conf conf = {0};
	struct store_stats st;
	struct cost c = {0};
	struct rig r;

	rig_open(&r, conf, prompts * PROMPT * UNIT);
	if (scattered)
		fill_scattered(&r, prompts);
	else
		c.insert = fill_prompts(&r, prompts);
	for (int i = 0; i < ROUNDS; i++) {
		pick(&seed, prompts);
		lock[i] = time_lock(&r);
		pick(&seed, prompts);
		peek[i] = time_peek(&r);
	}
	store_stats(r.s, &st);
	c.lock = quartile(lock);
	c.peek = quartile(peek);
	c.bytes = (double)st.index_bytes / (double)st.objects;
	rig_close(&r);
	return c;
}

/* A full store that lived through eight generations of prompts of all lengths, a third of them used again, with the watermark
 * at its default; prompts of the last half generation are looked up. */
static double measure_aged(uint64_t objects)
{
	static double v[ROUNDS];
	uint64_t prompts = 16 * objects / PROMPT, seed = 3, kept = objects / PROMPT / 2 + 1;
	struct store_conf conf = {.trigger_watermark = 0.8};
	static struct store_hash h[2 * PROMPT];
	static store_obj o[2 * PROMPT];
	struct rig r;
	int n = 0;

	rig_open(&r, conf, objects * UNIT);
	for (uint64_t p = 0; p < prompts; p++) {
		uint32_t len = 1 + (uint32_t)(mix64(p) % (PROMPT - 1));
		make_prompt(h, p);
		store_reserve(r.s, r.ns, h, len, UNIT, NODE_UNKNOWN, 0, o);
		store_commit(r.s, o, len, 0);
		seed = mix64(seed);
		make_prompt(h, p - (seed >> 8) % (p < 2 * kept ? p + 1 : 2 * kept));
		if (seed % 3 == 0)
			store_touch(r.s, &r.ns, 1, h, PROMPT, 0);
		if (p % 16 == 0)
			store_tick(r.s, 0);
	}
	for (int i = 0; i < 4 * ROUNDS && n < ROUNDS; i++) {
		seed = mix64(seed);
		make_prompt(h, prompts - 1 - seed % kept);
		uint64_t t = cpu_ns();
		uint32_t got = store_lock_prefix(r.s, &r.ns, 1, h, PROMPT, 1, UNIT, 0, o);
		store_unlock(r.s, o, NULL, got, 0);
		t = cpu_ns() - t;
		if (got >= PROMPT / 2)
			v[n++] = (double)t / got;
	}
	rig_close(&r);
	qsort(v, (size_t)n, sizeof(*v), by_value);
	return n ? v[n / 4] : 0;
}

/* ---- a library's hash table ---------------------------------------------------------------------------------------- */

#ifdef HAVE_GLIB
static guint key_hash(gconstpointer k)
{
	guint h;

	memcpy(&h, k, sizeof(h));
	return h;
}

static gboolean key_equal(gconstpointer a, gconstpointer b)
{
	return memcmp(a, b, sizeof(struct store_hash)) == 0;
}

/* ns per successful search, one after the other as the library offers it. */
static double library_search(uint64_t objects)
{
	static double v[ROUNDS];
	uint64_t prompts = (objects + PROMPT - 1) / PROMPT, seed = 1, t;
	struct store_hash *all = malloc(prompts * PROMPT * sizeof(*all));
	GHashTable *table = g_hash_table_new(key_hash, key_equal);

	for (uint64_t i = 0; i < prompts * PROMPT; i++) {
		make_key(&all[i], i);
		g_hash_table_insert(table, &all[i], &all[i]);
	}
	for (int i = 0; i < ROUNDS; i++) {
		pick(&seed, prompts);
		t = cpu_ns();
		for (int k = 0; k < PROMPT; k++) {
			if (!g_hash_table_lookup(table, &picked[k]))
				abort();
		}
		v[i] = (double)(cpu_ns() - t) / PROMPT;
	}
	g_hash_table_destroy(table);
	free(all);
	return quartile(v);
}
#endif

static bool bench_lookups(uint64_t max)
{
	struct cost base = {0}, c;
	bool ok = true;
	uint64_t aged;
	char name[64];

	bench_head("lookup: lock + unlock per object, prompts of 512 chunks");
	for (uint64_t n = 1000; n <= max; n *= 10) {
		c = measure(n, false);
		base = n == 1000 ? c : base;
		snprintf(name, sizeof(name), "lookup, %llu objects", (unsigned long long)n);
		ok &= bench_row(name, c.lock, base.lock, "ns", "at 10^3 objects", c.lock / base.lock, "<= 1.5",
				c.lock <= 1.5 * base.lock);
		snprintf(name, sizeof(name), "  search only (peek)");
		bench_row(name, c.peek, base.peek, "ns", "at 10^3 objects", c.peek / base.peek, "-", true);
		snprintf(name, sizeof(name), "  index memory per object");
		ok &= bench_row(name, c.bytes, 96, "bytes", "budget", c.bytes / 96, "<= 1", c.bytes <= 96);
		snprintf(name, sizeof(name), "  reserve + commit");
		bench_row(name, c.insert, base.insert, "ns", "at 10^3 objects", c.insert / base.insert, "-", true);
#ifdef HAVE_GLIB
		double lib = library_search(n);
		snprintf(name, sizeof(name), "  search against GHashTable");
		ok &= bench_row(name, c.peek, lib, "ns", "g_hash_table_lookup", c.peek / lib, "<= 1", c.peek <= lib);
#endif
	}
	aged = max / 10 < 20000 ? 20000 : max / 10;
	c.lock = measure_aged(aged);
	snprintf(name, sizeof(name), "aged: %llu objects, 8 generations", (unsigned long long)aged);
	bench_row(name, c.lock, base.lock, "ns", "at 10^3 objects", c.lock / base.lock, "-", true);
	c = measure(max, true);
	snprintf(name, sizeof(name), "worst case: %llu objects, none adjacent", (unsigned long long)max);
	bench_row(name, c.lock, base.lock, "ns", "at 10^3 objects", c.lock / base.lock, "-", true);
	return ok;
}

/* ---- churn --------------------------------------------------------------------------------------------------------- */

enum mix { REAL_CHUNKS, LOG_UNIFORM, UNIFORM };

/* Chunks of 256 tokens: from one rank of a small MLA model to a 70B model with one rank. */
static uint64_t chunk_bytes(uint64_t *seed, enum mix mix)
{
	static const uint32_t kib[] = {512, 1024, 2048, 4608, 8192, 9216, 16384, 18432, 20480, 32768, 36864};
	double share;

	*seed = mix64(*seed);
	share = (double)(*seed >> 11) * 0x1p-53;
	switch (mix) {
	case REAL_CHUNKS:
		return (uint64_t)kib[(size_t)(share * 11)] << 10;
	case LOG_UNIFORM:
		return (uint64_t)(UNIT * exp(share * log(9216)));
	default:
		return UNIT + (uint64_t)(share * (36 << 20));
	}
}

#define AGES 4096

struct churn {
	uint32_t ages[AGES]; /* of victims, in steps of 16 operations */
	double sum, least;
	uint64_t evictions;
};

static void count_age(void *ctx, double lifetime_s, double idle_s)
{
	struct churn *c = ctx;
	double step = idle_s * 1000 / 16; /* the clock counts operations */

	(void)lifetime_s;
	c->ages[step < AGES - 1 ? (int)step : AGES - 1]++;
}

static double age_percentile(const struct churn *c, double share)
{
	uint64_t all = 0, n = 0;

	for (int i = 0; i < AGES; i++)
		all += c->ages[i];
	for (int i = 0; i < AGES; i++) {
		n += c->ages[i];
		if ((double)n >= share * (double)all)
			return 16 * (i + 0.5);
	}
	return 16 * AGES;
}

/* One operation: store one object, and, in `touches` of 100, use an earlier one of the last 2000 again. */
static void churn_step(struct rig *r, struct churn *c, uint64_t i, uint64_t bytes, bool count)
{
	struct store_stats before, after;
	struct store_hash h;
	store_obj o;

	make_key(&h, i);
	if (count)
		store_stats(r->s, &before);
	if (store_reserve(r->s, r->ns, &h, 1, bytes, NODE_UNKNOWN, i, &o).reserved != 1)
		abort();
	store_commit(r->s, &o, 1, i);
	if (!count)
		return;
	store_stats(r->s, &after);
	if (after.evicted_objects == before.evicted_objects)
		return;
	double usable = (double)before.used_bytes / (double)before.total_bytes;
	c->sum += usable;
	c->evictions++;
	c->least = usable < c->least ? usable : c->least;
}

static void churn_touch(struct rig *r, uint64_t *seed, uint64_t i, uint32_t touches)
{
	struct store_hash h;

	*seed = mix64(*seed);
	if (*seed % 100 >= touches)
		return;
	make_key(&h, i - (*seed >> 32) % (i < 2000 ? i + 1 : 2000));
	store_touch(r->s, &r->ns, 1, &h, 1, i);
}

/* After the churn: everything goes, and new objects fill the arena until the first one has to be evicted again. */
static double refill(struct rig *r, uint64_t *seed, uint64_t i, enum mix mix)
{
	struct store_stats before, now;
	struct store_hash h;
	store_obj o;

	store_clear(r->s);
	store_stats(r->s, &before);
	now = before;
	for (double used = 0;; i++) {
		make_key(&h, i);
		store_reserve(r->s, r->ns, &h, 1, chunk_bytes(seed, mix), NODE_UNKNOWN, i, &o);
		store_commit(r->s, &o, 1, i);
		store_stats(r->s, &now);
		if (now.evicted_objects != before.evicted_objects)
			return used;
		used = (double)now.used_bytes / (double)now.total_bytes;
	}
}

static bool bench_churn(const char *name, enum mix mix, uint32_t touches, uint64_t ops)
{
	static struct churn c;
	struct store_conf conf = {.sample_rate = 0.1, .observer = {&c, count_age, NULL}};
	uint64_t seed = 7, spent;
	struct store_stats st;
	double average, last;
	struct rig r;
	char row[64];
	bool ok;

	c = (struct churn){.least = 1};
	rig_open(&r, conf, (uint64_t)16 << 30);
	spent = cpu_ns();
	for (uint64_t i = 0; i < ops; i++) {
		churn_step(&r, &c, i, chunk_bytes(&seed, mix), i >= ops / 2);
		churn_touch(&r, &seed, i, touches);
	}
	spent = cpu_ns() - spent;
	store_stats(r.s, &st);
	average = c.sum / (double)c.evictions;
	last = refill(&r, &seed, ops, mix);
	snprintf(row, sizeof(row), "%s: usable, average", name);
	ok = bench_row(row, average, 1, "share", "whole arena", average, ">= 0.9", average >= 0.9);
	ok &= bench_row("  usable, least", c.least, 1, "share", "whole arena", c.least, ">= 0.9", c.least >= 0.9);
	ok &= bench_row("  usable, refilled after", last, 1, "share", "whole arena", last, ">= 0.9", last >= 0.9);
	bench_row("  age of the youngest 1 % of victims", age_percentile(&c, 0.01), age_percentile(&c, 0.5), "ops",
		  "median victim", age_percentile(&c, 0.01) / age_percentile(&c, 0.5), "-", true);
	bench_row("  one operation", (double)spent / (double)ops / 1000, 0, "us", "no limit measured", 0, "-", true);
	store_check(r.s);
	rig_close(&r);
	return ok;
}

int main(int argc, char **argv)
{
	uint64_t max = argc > 1 ? strtoull(argv[1], NULL, 0) : 10000000,
		 ops = argc > 2 ? strtoull(argv[2], NULL, 0) : 1000000;
	bool ok = bench_lookups(max < 1000 ? 1000 : max);

	bench_head("churn: fill and evict, 16 GiB arena");
	ok &= bench_churn("11 real chunk sizes", REAL_CHUNKS, 0, ops);
	ok &= bench_churn("log-uniform 4 KiB to 36 MiB", LOG_UNIFORM, 0, ops);
	ok &= bench_churn("uniform to 36 MiB", UNIFORM, 0, ops);
	ok &= bench_churn("real sizes, 30 % reuse", REAL_CHUNKS, 30, ops);
	ok &= bench_churn("log-uniform, 30 % reuse", LOG_UNIFORM, 30, ops);
	return ok ? 0 : 1;
}
