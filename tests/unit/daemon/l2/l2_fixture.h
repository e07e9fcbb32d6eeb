/* l2_fixture.h - objects with known bytes, and calls that wait, for the tests of adapters. */
#ifndef TESTS_L2_FIXTURE_H
#define TESTS_L2_FIXTURE_H

#include "daemon/l2/l2_int.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define FX_MAX_BYTES (8u << 20)

/* One operation with its own memory. */
struct fx_io {
	struct l2_io io;
	uint32_t sums[8];
	uint8_t *mem;
	uint64_t done_ns;
	_Atomic bool is_done;
};

static pthread_mutex_t fx_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t fx_changed = PTHREAD_COND_INITIALIZER;

static inline void fx_done(struct l2_io *io)
{
	struct fx_io *x = io->owner;
	x->done_ns = clock_ns();
	pthread_mutex_lock(&fx_lock);
	x->is_done = true;
	pthread_cond_broadcast(&fx_changed);
	pthread_mutex_unlock(&fx_lock);
}

static inline struct fx_io *fx_new(uint64_t bytes)
{
	struct fx_io *x = calloc(1, sizeof(*x));
	assert_non_null(x);
	assert_int_equal(posix_memalign((void **)&x->mem, 4096, (bytes + 8191) & ~4095ull), 0);
	x->io.mem = x->mem;
	x->io.bytes = bytes;
	x->io.sums = x->sums;
	x->io.done = fx_done;
	x->io.owner = x;
	return x;
}

static inline void fx_free(struct fx_io *x)
{
	free(x->mem);
	free(x);
}

static inline struct seg_key fx_key(uint32_t name, uint64_t number)
{
	struct seg_key k = {.name = name};
	uint64_t v = number * 0x9e3779b97f4a7c15u + 1;
	for (int i = 0; i < 4; i++) {
		v ^= v >> 29;
		v *= 0xbf58476d1ce4e5b9u;
		memcpy(k.hash.b + 8 * i, &v, 8);
	}
	memcpy(k.hash.b, &number, 8);
	return k;
}

/* Bytes of an object, told by its number. */
static inline void fx_fill(void *mem, uint64_t number, uint64_t bytes)
{
	uint64_t *p = mem, v = number * 0x94d049bb133111ebu + 7;
	for (uint64_t i = 0; i < bytes / 8; i++)
		p[i] = v + i * 0x9e3779b97f4a7c15u;
	memset((uint8_t *)mem + bytes / 8 * 8, (int)number, bytes % 8);
}

static inline bool fx_right(const void *mem, uint64_t number, uint64_t bytes)
{
	const uint64_t *p = mem;
	uint64_t v = number * 0x94d049bb133111ebu + 7;
	for (uint64_t i = 0; i < bytes / 8; i++)
		if (p[i] != v + i * 0x9e3779b97f4a7c15u)
			return false;
	for (uint64_t i = bytes / 8 * 8; i < bytes; i++)
		if (((const uint8_t *)mem)[i] != (uint8_t)number)
			return false;
	return true;
}

/* False: not within the time. */
static inline bool fx_wait(struct fx_io *x, uint32_t ms)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += ms % 1000 * 1000000l;
	if (t.tv_nsec >= 1000000000l)
		t.tv_sec++, t.tv_nsec -= 1000000000l;
	pthread_mutex_lock(&fx_lock);
	int rc = 0;
	while (!x->is_done && !rc)
		rc = pthread_cond_timedwait(&fx_changed, &fx_lock, &t);
	bool done = x->is_done;
	pthread_mutex_unlock(&fx_lock);
	return done;
}

static inline void fx_start_store(struct l2 *a, struct fx_io *x, struct seg_key key, uint64_t number)
{
	x->io.key = key;
	x->is_done = false;
	x->io.result = 1;
	memset(x->sums, 0, sizeof(x->sums));
	fx_fill(x->mem, number, x->io.bytes);
	a->ops->store(a, &x->io);
}

static inline void fx_start_load(struct l2 *a, struct fx_io *x, struct seg_key key)
{
	x->io.key = key;
	x->is_done = false;
	x->io.result = 1;
	memset(x->mem, 0xee, x->io.bytes);
	a->ops->load(a, &x->io);
}

/* The io's result; -ETIME when it did not come back within 20 s. */
static inline int fx_result(struct fx_io *x)
{
	return fx_wait(x, 20000) ? x->io.result : -ETIME;
}

static inline int fx_store(struct l2 *a, struct seg_key key, uint64_t number, uint64_t bytes)
{
	struct fx_io *x = fx_new(bytes);
	fx_start_store(a, x, key, number);
	int rc = fx_result(x);
	if (rc != -ETIME)
		fx_free(x);
	return rc;
}

/* Also checks every byte of what was loaded, and the checksums that came with it. */
static inline int fx_load(struct l2 *a, struct seg_key key, uint64_t number, uint64_t bytes)
{
	struct fx_io *x = fx_new(bytes);
	fx_start_load(a, x, key);
	int rc = fx_result(x);
	if (rc == 0) {
		uint32_t sums[8];
		crc32c_blocks(x->mem, bytes, sums);
		assert_true(fx_right(x->mem, number, bytes));
		assert_memory_equal(sums, x->sums, crc_blocks(bytes) * sizeof(*sums));
	}
	if (rc != -ETIME)
		fx_free(x);
	return rc;
}

static inline int fx_plain(struct l2 *a, void (*op)(struct l2 *, struct l2_io *), struct seg_key key)
{
	struct fx_io *x = fx_new(0);
	x->io.key = key;
	op(a, &x->io);
	int rc = fx_result(x);
	if (rc != -ETIME)
		fx_free(x);
	return rc;
}

static inline void fx_found(struct l2_find *f)
{
	*(bool *)f->owner = true;
}

/* Of a local adapter: the size, 0 when it has none. */
static inline uint64_t fx_find(struct l2 *a, struct seg_key key)
{
	uint64_t bytes = 77;
	bool done = false;
	struct l2_find f = {.keys = &key, .bytes = &bytes, .n = 1, .done = fx_found, .owner = &done};
	a->ops->find(a, &f);
	assert_true(done);
	return bytes;
}

static inline struct l2_stats fx_stats(struct l2 *a)
{
	struct l2_stats n;
	a->ops->stats(a, &n);
	return n;
}

static inline struct l2_conf *fx_conf(const char *json)
{
	struct why why = {0};
	struct l2_conf *c = NULL;
	if (l2_conf_parse(json, 0, &c, &why))
		fail_msg("%s: %s", json, why.text);
	return c;
}

static inline struct l2 *fx_make(const char *json, const struct l2_env *env)
{
	struct why why = {0};
	struct l2 *a = NULL;
	struct l2_conf *c = fx_conf(json);
	int rc = l2_create(c, env, &a, &why);
	l2_conf_free(c);
	if (rc)
		fail_msg("%s: %s", json, why.text);
	return a;
}

#endif
