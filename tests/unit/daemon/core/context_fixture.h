/* context_fixture.h - a registry over a real store, and pending transfers as operations would leave them. */
#ifndef TESTS_UNIT_DAEMON_CORE_CONTEXT_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_CONTEXT_FIXTURE_H

#include "daemon/core/context.h"

#include "daemon/http/status.h"
#include "tests/unit/daemon/core/fixture.h"

#include <fcntl.h>
#include <unistd.h>

#define OBJECT UNIT

static const struct ctx_limits limits = {
	.write_ttl_ms = 600000, .read_ttl_ms = 300000, .reap_ms = 120000, .grace_ms = 3600000};

struct fix {
	struct fix_store fs;
	struct store *store;
	struct ctx_registry *r;
	store_ns ns;
	int deaths;
	uint64_t last_dead;
};

static inline void on_dead(void *arg, const struct ctx *c)
{
	struct fix *f = arg;

	f->deaths++;
	f->last_dead = c->instance_id;
	ctx_count(f->r); /* takes the lock: aborts if the caller still held it */
}

static inline int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	fix_store_open(&f->fs, 4);
	f->store = f->fs.store;
	f->ns = store_ns_get(f->store, slice_str("m"), kv_rank(1, 0), 0, slice_of("", 0), NULL);
	assert_int_equal(ctx_registry_create(f->store, on_dead, f, &f->r), 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fix *f = *state;

	ctx_registry_destroy(f->r);
	assert_int_equal(fix_stats(f->store).locked, 0);
	assert_int_equal(fix_stats(f->store).reserved, 0);
	assert_int_equal(fix_stats(f->store).detached, 0);
	fix_store_close(&f->fs);
	free(f);
	return 0;
}

static inline struct ctx *make(uint64_t id, uint64_t owner)
{
	struct ctx *c = ctx_create(id, CTX_SLOTS, slice_str("m"), slice_str("vllm"), 1);

	assert_non_null(c);
	c->owner = owner;
	c->object_bytes = OBJECT;
	c->created_ms = c->last_seen_ms = 1000;
	return c;
}

/* Registered, and a reference for the test: put it back. */
static inline struct ctx *enter(struct fix *f, uint64_t id, uint64_t owner)
{
	struct ctx *c = make(id, owner);

	atomic_fetch_add(&c->refs, 1);
	assert_int_equal(ctx_enter(f->r, c, true), 0);
	return c;
}

/* n reserved objects, or locked ones, of hashes from `first` on, as a pending transfer would hold them. */
static inline struct ctx_pending *pending(struct fix *f, uint64_t key_id, bool store, uint64_t first, uint32_t n,
					  uint64_t now)
{
	struct ctx_pending *p = mem_calloc(1, sizeof(*p) + n * sizeof(p->objs[0]));
	struct store_hash h[16];

	assert_true(p && n <= 16);
	*p = (struct ctx_pending){.key_id = key_id, .store = store, .since_ms = now, .n = n};
	hashes_from(h, first, n);
	if (store)
		assert_int_equal(store_reserve(f->store, f->ns, h, n, OBJECT, NODE_UNKNOWN, now, p->objs).reserved, n);
	else
		assert_int_equal(store_lock_all(f->store, f->ns, h, n, OBJECT, now, p->objs, NULL), 0);
	return p;
}

static inline void add(struct fix *f, struct ctx *c, uint64_t key_id, bool store, uint64_t first, uint32_t n,
		       uint64_t now)
{
	assert_int_equal(ctx_pending_add(f->r, c, pending(f, key_id, store, first, n, now)), 0);
}

static inline bool known(struct fix *f, uint64_t id)
{
	struct ctx *c = ctx_get(f->r, id);

	ctx_put(f->r, c);
	return c != NULL;
}

static inline bool served(struct fix *f, uint64_t id, uint64_t owner)
{
	struct ctx *c = ctx_get_for(f->r, id, owner);

	ctx_put(f->r, c);
	return c != NULL;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
