/* fixture.h - what the store's tests share: a store over a fake arena, keys by number, a random generator whose seed is
 * printed and can be given by LMC_TEST_SEED.
 */
#ifndef TESTS_UNIT_DAEMON_STORE_FIXTURE_H
#define TESTS_UNIT_DAEMON_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/store/store.h"
#include "tests/unit/daemon/store/fake_arena.h"

#define UNIT 4096u

struct fix {
	struct arena *a;
	struct store *s;
	store_ns ns;
};

static inline struct store_conf fix_conf(struct arena *a)
{
	return (struct store_conf){
		.arena = a, .policy = STORE_LRU, .trigger_watermark = 1, .eviction_ratio = 0.2, .align = UNIT};
}

static inline void fix_open(struct fix *f, const struct store_conf *conf)
{
	struct why why;

	f->a = conf->arena;
	if (store_create(conf, &f->s, &why))
		fail_msg("%s", why.text);
	f->ns = store_ns_get(f->s, slice_str("model"), 0x01000100, 0, slice_str(""), NULL);
	assert_int_not_equal(f->ns, 0);
}

/* A store of `units` slots of one unit. */
static inline void fix_units(struct fix *f, uint32_t units, enum store_policy policy)
{
	struct store_conf conf = fix_conf(fake_arena_full((uint64_t)units * UNIT));

	conf.policy = policy;
	fix_open(f, &conf);
}

static inline void fix_close(struct fix *f)
{
	store_check(f->s);
	store_destroy(f->s);
	arena_destroy(f->a);
}

static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static inline struct store_hash key(uint64_t i)
{
	struct store_hash h;
	uint64_t w[4] = {mix64(4 * i), mix64(4 * i + 1), mix64(4 * i + 2), mix64(4 * i + 3)};

	memcpy(h.b, w, sizeof(h.b));
	return h;
}

static inline void keys(struct store_hash *out, uint64_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = key(first + i);
}

struct rnd {
	uint64_t state;
};

static inline struct rnd rnd_start(const char *test)
{
	const char *given = getenv("LMC_TEST_SEED");
	struct rnd r = {given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL)};

	printf("# %s: LMC_TEST_SEED=%llu\n", test, (unsigned long long)r.state);
	return r;
}

static inline uint32_t rnd_below(struct rnd *r, uint32_t n)
{
	return (uint32_t)((mix64(r->state++) >> 32) * n >> 32);
}

/* Stores n objects of keys first.. and makes them readable; all must be new and fit. */
static inline void put(struct fix *f, uint64_t first, uint32_t n, uint64_t bytes)
{
	struct store_hash *h = calloc(n, sizeof(*h));
	store_obj *o = calloc(n, sizeof(*o));
	struct store_reserve_result r;

	keys(h, first, n);
	r = store_reserve(f->s, f->ns, h, n, bytes, NODE_UNKNOWN, 0, o);
	assert_int_equal(r.reserved, n);
	assert_int_equal(store_commit(f->s, o, n, 0), n);
	free(h);
	free(o);
}

static inline bool has(struct fix *f, uint64_t i)
{
	struct store_hash h = key(i);

	return store_peek_prefix(f->s, &f->ns, 1, &h, 1, 0) == 1;
}

static inline store_obj lock_one(struct fix *f, uint64_t i)
{
	struct store_hash h = key(i);
	store_obj o = 0;

	return store_lock_prefix(f->s, &f->ns, 1, &h, 1, 1, 0, 0, &o) ? o : 0;
}

static inline struct store_stats stats(struct fix *f)
{
	struct store_stats st;

	store_stats(f->s, &st);
	return st;
}

#endif
