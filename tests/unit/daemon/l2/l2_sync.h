/* l2_sync.h - an adapter's operations, waited for. Included by one test file per binary, hence the static functions. */
#ifndef TESTS_UNIT_DAEMON_L2_SYNC_H
#define TESTS_UNIT_DAEMON_L2_SYNC_H

#include "daemon/l2/l2_int.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SYNC_SUMS 64u

static struct seg_names *names;

static inline uint32_t name_of(const char *model, uint32_t rank, uint32_t group, const char *salt, uint8_t layout)
{
	struct seg_name n = {slice_str(model), slice_str(salt), rank, group, {layout}};
	uint32_t id = seg_name_get(names, &n);
	assert_true(id > 0);
	return id;
}

static inline struct seg_key key_of(uint32_t name, uint64_t number)
{
	struct seg_key k = {.name = name};
	for (uint32_t i = 0; i < STORE_HASH_BYTES; i++)
		k.hash.b[i] = (uint8_t)((number + 1) * 0x9e3779b97f4a7c15u >> (i % 8 * 8)) ^ (uint8_t)(i * 37);
	return k;
}

static inline struct l2 *make_l2(const char *json, int expect, const char *says)
{
	struct why why = {0};
	struct l2_conf *c = NULL;
	struct l2 *a = NULL;
	struct l2_env env = {.names = names, .chunk_tokens = 256};
	int rc = l2_conf_parse(json, 0, &c, &why);
	if (rc == 0)
		rc = l2_create(c, &env, &a, &why);
	if (rc != expect || (says && !strstr(why.text, says)))
		fail_msg("%s: %d (%s), expected %d", json, rc, why.text, expect);
	l2_conf_free(c);
	return a;
}

static inline void io_posted(struct l2_io *io)
{
	sem_post(io->owner);
}

static inline int run_io(struct l2 *a, void (*op)(struct l2 *, struct l2_io *), struct seg_key key, void *mem,
			 uint64_t bytes, uint32_t *sums)
{
	uint32_t own[SYNC_SUMS] = {0};
	sem_t sem;
	sem_init(&sem, 0, 0);
	struct l2_io io = {.key = key, .mem = mem, .bytes = bytes, .sums = sums ? sums : own, .done = io_posted};
	io.owner = &sem;
	op(a, &io);
	while (sem_wait(&sem))
		;
	sem_destroy(&sem);
	return io.result;
}

static inline void find_posted(struct l2_find *f)
{
	sem_post(f->owner);
}

static inline uint64_t find_one(struct l2 *a, struct seg_key key)
{
	uint64_t bytes = 77;
	sem_t sem;
	sem_init(&sem, 0, 0);
	struct l2_find f = {.keys = &key, .bytes = &bytes, .n = 1, .done = find_posted, .owner = &sem};
	a->ops->find(a, &f);
	while (sem_wait(&sem))
		;
	sem_destroy(&sem);
	return bytes;
}

/* What an object of this number contains. */
static inline void content(uint8_t *p, uint64_t n, uint64_t number)
{
	uint64_t x = number * 0x9e3779b97f4a7c15u + 1;
	for (uint64_t i = 0; i < n; i++) {
		if (i % 8 == 0)
			x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u + i;
		p[i] = (uint8_t)(x >> (i % 8 * 8));
	}
}

static inline int store_number(struct l2 *a, uint32_t name, uint64_t number, uint64_t bytes)
{
	uint8_t *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	content(p, bytes, number);
	int rc = run_io(a, a->ops->store, key_of(name, number), p, bytes, NULL);
	free(p);
	return rc;
}

/* Loads it and compares; fails the test on a wrong byte. */
static inline int load_number(struct l2 *a, uint32_t name, uint64_t number, uint64_t bytes)
{
	uint64_t room = (bytes + 4095) / 4096 * 4096 + 4096;
	uint8_t *p = aligned_alloc(4096, room), *want = malloc(bytes);
	uint32_t sums[SYNC_SUMS] = {0}, right[SYNC_SUMS] = {0};
	memset(p, 0xa5, room);
	int rc = run_io(a, a->ops->load, key_of(name, number), p, bytes, sums);
	if (rc == 0) {
		content(want, bytes, number);
		crc32c_blocks(want, bytes, right);
		if (memcmp(p, want, bytes) != 0)
			fail_msg("object %llu: wrong bytes", (unsigned long long)number);
		assert_memory_equal(sums, right, sizeof(sums));
	}
	for (uint64_t i = bytes; i < room; i++)
		assert_int_equal(p[i], 0xa5);
	free(p);
	free(want);
	return rc;
}

static inline struct l2_stats stats_of(struct l2 *a)
{
	struct l2_stats n;
	memset(&n, 0xee, sizeof(n));
	a->ops->stats(a, &n);
	return n;
}

static inline void wait_state(struct l2 *a, const char *state)
{
	for (int i = 0; i < 20000; i++) {
		struct l2_stats n = stats_of(a);
		if (strstr(n.state, state))
			return;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	struct l2_stats n = stats_of(a);
	fail_msg("state is '%s' and not '%s'", n.state, state);
}

#endif
