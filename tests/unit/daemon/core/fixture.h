/* fixture.h - what the tests of daemon/core share: a random generator whose seed is printed and can be given by
 * LMC_TEST_SEED, hashes by number, a store over anonymous memory, bytes from hexadecimal text.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/mem.h"
#include "daemon/base/slice.h"
#include "daemon/store/store.h"
#include "numa/arena.h"

#define UNIT 4096u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#else
#define UNDER_SANITIZER 0
#endif

static inline uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

struct rnd {
	uint64_t state;
};

/* The same numbers in every run, unless a seed is given. */
static inline struct rnd rnd_start(const char *test)
{
	const char *given = getenv("LMC_TEST_SEED");
	struct rnd r = {given ? strtoull(given, NULL, 0) : 20260407};

	printf("# %s: LMC_TEST_SEED=%llu\n", test, (unsigned long long)r.state);
	return r;
}

static inline uint32_t rnd_below(struct rnd *r, uint32_t n)
{
	return (uint32_t)((mix64(r->state++) >> 32) * n >> 32);
}

static inline struct store_hash hash_no(uint64_t i)
{
	struct store_hash h;
	uint64_t w[4] = {mix64(4 * i), mix64(4 * i + 1), mix64(4 * i + 2), mix64(4 * i + 3)};

	memcpy(h.b, w, sizeof(h.b));
	return h;
}

static inline void hashes_from(struct store_hash *out, uint64_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = hash_no(first + i);
}

/* A store over `mib` MiB of anonymous memory. */
struct fix_store {
	struct arena *arena;
	struct store *store;
};

static inline void fix_store_open(struct fix_store *f, uint64_t mib)
{
	struct arena_conf ac = {.bytes = mib << 20, .shm_name = ""};
	struct store_conf sc = {.policy = STORE_LRU, .trigger_watermark = 1, .eviction_ratio = 0.2, .align = UNIT};
	struct why why;

	if (arena_create(&ac, &f->arena, &why))
		fail_msg("%s", why.text);
	sc.arena = f->arena;
	if (store_create(&sc, &f->store, &why))
		fail_msg("%s", why.text);
}

static inline void fix_store_close(struct fix_store *f)
{
	store_check(f->store);
	store_destroy(f->store);
	arena_destroy(f->arena);
}

static inline uint32_t kv_rank(uint32_t world_size, uint32_t rank)
{
	return world_size << 24 | rank << 16 | world_size << 8 | rank;
}

/* Of the objects fix_put makes. */
static const uint8_t *fix_layout;

/* Makes n objects of one rank readable, of hashes hash_no(first) and following. */
static inline void fix_put(struct store *s, const char *model, uint32_t world_size, uint32_t rank, uint64_t first,
			   uint32_t n, uint64_t bytes)
{
	struct store_hash *h = calloc(n, sizeof(*h));
	store_obj *o = calloc(n, sizeof(*o));
	store_ns ns = store_ns_get(s, slice_str(model), kv_rank(world_size, rank), 0, slice_of("", 0), fix_layout);
	struct store_reserve_result r;

	assert_true(h && o && ns);
	hashes_from(h, first, n);
	r = store_reserve(s, ns, h, n, bytes, NODE_UNKNOWN, 0, o);
	assert_int_equal(r.reserved, n);
	assert_int_equal(store_commit(s, o, n, 0), n);
	store_ns_put(s, ns);
	free(h);
	free(o);
}

static inline struct store_stats fix_stats(struct store *s)
{
	struct store_stats st;

	store_stats(s, &st);
	return st;
}

/* The bytes of hexadecimal text; returns how many. */
static inline size_t from_hex(const char *hex, void *out, size_t cap)
{
	size_t n = strlen(hex) / 2;

	assert_true(hex && n <= cap);
	for (size_t i = 0; i < n; i++) {
		char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'}, *end;

		((uint8_t *)out)[i] = (uint8_t)strtoul(two, &end, 16);
		assert_int_equal(*end, '\0');
	}
	return n;
}

#endif
