#include "daemon/core/context.h"

#include "daemon/base/check.h"
#include "daemon/base/lock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS 1024u

struct ctx_registry {
	struct lk lk;
	struct store *store;
	struct ctx *bucket[BUCKETS];
	uint64_t used[BUCKETS / 64]; /* bit b: bucket b is not empty, so that a LOOKUP visits only those */
	uint32_t count;
	struct ctx_pending *limbo; /* reservations whose engine may still write: see bury */
	ctx_dead_fn dead;
	void *dead_arg;
};

static uint32_t bucket_of(uint64_t id)
{
	return (uint32_t)((id * 0x9e3779b97f4a7c15ull) >> 54) % BUCKETS;
}

int ctx_registry_create(struct store *store, ctx_dead_fn dead, void *arg, struct ctx_registry **out)
{
	struct ctx_registry *r = mem_calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	lk_init(&r->lk, LK_CONTEXTS);
	r->store = store;
	r->dead = dead;
	r->dead_arg = arg;
	*out = r;
	return 0;
}

static void give_back(struct ctx_registry *r, struct ctx_pending *p, uint64_t now_ms)
{
	while (p) {
		struct ctx_pending *next = p->next;

		if (p->store)
			store_abort(r->store, p->objs, p->n);
		else
			store_unlock(r->store, p->objs, NULL, p->n, now_ms);
		mem_free(p);
		p = next;
	}
}

/* For a context that goes although its engine may live: what the engine only reads goes back, but slots it may still write into
 * stay taken (their keys do not) until the write TTL has passed. */
static void bury(struct ctx_registry *r, struct ctx_pending *p, uint64_t now_ms)
{
	while (p) {
		struct ctx_pending *next = p->next;

		p->next = NULL;
		if (!p->store) {
			give_back(r, p, now_ms);
		} else {
			if (!p->disowned)
				store_disown(r->store, p->objs, p->n);
			p->since_ms = now_ms;
			lk_lock(&r->lk);
			p->next = r->limbo;
			r->limbo = p;
			lk_unlock(&r->lk);
		}
		p = next;
	}
}

static void destroy(struct ctx *c)
{
	if (c->gpu && atomic_load(&c->gpu_users)) { /* it was never in the registry */
		atomic_store(&c->refs, 1);
		ctx_gpu_release(c);
		ctx_put(NULL, c);
		return;
	}
	kv_layout_destroy(c->layout);
	for (uint32_t i = 0; i < c->nmaps; i++)
		shmx_put(c->maps[i]);
	mem_free(c->maps);
	if (c->pidfd >= 0)
		close(c->pidfd);
	mem_free(c->model);
	mem_free(c->engine_type);
	mem_free(c);
}

struct ctx *ctx_create(uint64_t instance_id, enum ctx_kind kind, struct slice model, struct slice engine_type,
		       uint32_t world_size)
{
	struct ctx *c = mem_calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->refs = 1;
	c->pidfd = -1;
	c->node = c->home = NODE_UNKNOWN;
	c->instance_id = instance_id;
	c->kind = kind;
	c->world_size = world_size;
	memcpy(c->device, "cpu", 4);
	c->model = mem_strndup(model.p, model.n);
	c->engine_type = mem_strndup(engine_type.p, engine_type.n);
	if (!c->model || !c->engine_type) {
		destroy(c);
		return NULL;
	}
	return c;
}

void ctx_put(struct ctx_registry *r, struct ctx *c)
{
	(void)r;
	if (c && atomic_fetch_sub(&c->refs, 1) == 1)
		destroy(c);
}

/* Needs LK_CONTEXTS. Returns the context, whose table reference the caller now owns, and what it holds. */
static struct ctx *take_out(struct ctx_registry *r, uint64_t id, struct ctx_pending **held)
{
	struct ctx **link = &r->bucket[bucket_of(id)];

	*held = NULL;
	while (*link && (*link)->instance_id != id)
		link = &(*link)->next;
	struct ctx *c = *link;
	if (!c)
		return NULL;
	*link = c->next;
	r->count--;
	if (!r->bucket[bucket_of(id)])
		r->used[bucket_of(id) / 64] &= ~(1ull << (bucket_of(id) % 64));
	c->dropped = true;
	*held = c->pending;
	c->pending = NULL;
	c->npending = 0;
	return c;
}

static struct ctx *find(struct ctx_registry *r, uint64_t id)
{
	struct ctx *c = r->bucket[bucket_of(id)];

	while (c && c->instance_id != id)
		c = c->next;
	return c;
}

/* One process, proven by its pid: then two connections of it are no two engines. */
static bool same_process(const struct ctx *a, const struct ctx *b)
{
	return a->pidfd >= 0 && b->pidfd >= 0 && a->pid == b->pid;
}

/* Needs LK_CONTEXTS. */
static void put_in(struct ctx_registry *r, struct ctx *c)
{
	uint32_t b = bucket_of(c->instance_id);

	c->next = r->bucket[b];
	r->bucket[b] = c;
	r->used[b / 64] |= 1ull << (b % 64);
	r->count++;
}

/* What is in the table may use its engine. */
static bool is_broken(const struct ctx *c)
{
	return ctx_faulted(c) || (c->gpu && gpu_engine_lost(c->gpu));
}

int ctx_enter(struct ctx_registry *r, struct ctx *c, bool replace)
{
	uint64_t id = c->instance_id, now_ms = c->created_ms;
	struct ctx_pending *held = NULL;
	bool other, contested = false;
	struct ctx *old;
	int err = 0;

	lk_lock(&r->lk);
	old = find(r, id);
	other = old && old->owner != c->owner;
	if (old && !replace && !other && !is_broken(old))
		err = -EEXIST;
	else if (!old && r->count >= CTX_MAX)
		err = -ENOSPC;
	if (!err) {
		contested = other ? !same_process(old, c) : old && old->contested;
		c->contested = contested;
		old = old ? take_out(r, id, &held) : NULL;
		put_in(r, c);
	}
	lk_unlock(&r->lk); /* from here on `c` is the table's: it may be gone */
	if (err)
		return err;
	if (other && contested)
		log_warn("instance %llu is registered by a second connection: the newer one is served, the older one "
			 "refused (two engines in separate pid namespaces?)",
			 (unsigned long long)id);
	if (other)
		bury(r, held, now_ms);
	else
		give_back(r, held, now_ms);
	ctx_let_go(r, old);
	return 0;
}

static bool may_use(const struct ctx *c, uint64_t owner)
{
	return !c->contested || c->owner == owner;
}

static struct ctx *get(struct ctx_registry *r, uint64_t instance_id, bool any, uint64_t owner)
{
	struct ctx *c;

	lk_lock(&r->lk);
	c = find(r, instance_id);
	if (c && !any && !may_use(c, owner))
		c = NULL;
	if (c)
		atomic_fetch_add(&c->refs, 1);
	lk_unlock(&r->lk);
	return c;
}

struct ctx *ctx_get(struct ctx_registry *r, uint64_t instance_id)
{
	return get(r, instance_id, true, 0);
}

struct ctx *ctx_get_for(struct ctx_registry *r, uint64_t instance_id, uint64_t owner)
{
	return get(r, instance_id, false, owner);
}

struct ctx *ctx_take(struct ctx_registry *r, uint64_t instance_id, uint64_t owner)
{
	struct ctx_pending *held = NULL;
	struct ctx *c;

	lk_lock(&r->lk);
	c = find(r, instance_id);
	if (c && may_use(c, owner))
		c = take_out(r, instance_id, &held);
	else
		c = NULL;
	lk_unlock(&r->lk);
	if (c)
		give_back(r, held, atomic_load(&c->last_seen_ms));
	return c;
}

void ctx_let_go(struct ctx_registry *r, struct ctx *c)
{
	if (c && c->gpu)
		ctx_gpu_release(c);
	ctx_put(r, c);
}

bool ctx_drop(struct ctx_registry *r, uint64_t instance_id, uint64_t owner)
{
	struct ctx *c = ctx_take(r, instance_id, owner);
	bool known = c != NULL;

	ctx_let_go(r, c);
	return known;
}

bool ctx_drop_this(struct ctx_registry *r, struct ctx *c)
{
	struct ctx_pending *held = NULL;
	struct ctx *out = NULL;

	lk_lock(&r->lk);
	if (!c->dropped)
		out = take_out(r, c->instance_id, &held);
	lk_unlock(&r->lk);
	if (out) {
		give_back(r, held, atomic_load(&out->last_seen_ms));
		r->dead(r->dead_arg, out);
	}
	ctx_let_go(r, out);
	return out != NULL;
}

bool ctx_faulted(const struct ctx *c)
{
	for (uint32_t i = 0; i < c->nmaps; i++) {
		if (shmx_faulted(c->maps[i]))
			return true;
	}
	return false;
}

void ctx_seen(struct ctx *c, uint64_t now_ms, bool ping)
{
	atomic_store_explicit(&c->last_seen_ms, now_ms, memory_order_relaxed);
	if (ping)
		atomic_store_explicit(&c->pinged, true, memory_order_relaxed);
}

/* Needs LK_CONTEXTS. */
static void agree_in_bucket(const struct ctx_registry *r, uint32_t b, struct slice model, uint32_t world_size,
			    uint64_t owner, struct ctx_shape *s)
{
	for (const struct ctx *c = r->bucket[b]; c; c = c->next) {
		if (c->world_size == world_size && slice_is(model, c->model))
			ctx_shape_add(s, c, owner);
	}
}

void ctx_shape_of(struct ctx_registry *r, struct slice model, uint32_t world_size, uint64_t owner,
		  struct ctx_shape *out)
{
	out->object_bytes = 0;
	out->nforms = out->nown = 0; /* what lies behind them is not read */
	out->home = NODE_UNKNOWN;
	lk_lock(&r->lk);
	for (uint32_t w = 0; w < BUCKETS / 64; w++) {
		for (uint64_t bits = r->used[w]; bits; bits &= bits - 1)
			agree_in_bucket(r, w * 64 + (uint32_t)__builtin_ctzll(bits), model, world_size, owner, out);
	}
	lk_unlock(&r->lk);
}

uint64_t ctx_object_bytes(struct ctx_registry *r, struct slice model, uint32_t world_size)
{
	struct ctx_shape s;

	ctx_shape_of(r, model, world_size, 0, &s);
	return s.object_bytes;
}

/* Needs LK_CONTEXTS. */
static struct ctx_pending *unlink_pending(struct ctx *c, uint64_t key_id, bool store)
{
	struct ctx_pending **link = &c->pending, *p;

	while (*link && ((*link)->key_id != key_id || (*link)->store != store))
		link = &(*link)->next;
	p = *link;
	if (p) {
		*link = p->next;
		p->next = NULL;
		c->npending--;
	}
	return p;
}

int ctx_pending_add(struct ctx_registry *r, struct ctx *c, struct ctx_pending *p)
{
	struct ctx_pending *old = NULL;
	uint64_t now_ms = p->since_ms;
	int err = 0;

	lk_lock(&r->lk);
	if (!c->dropped && !p->store)
		old = unlink_pending(c, p->key_id, false);
	if (c->dropped) {
		err = -ENOENT;
	} else if (c->npending >= CTX_PENDING_MAX) {
		err = -ENOSPC;
	} else {
		p->next = c->pending;
		c->pending = p;
		c->npending++;
	}
	lk_unlock(&r->lk);
	give_back(r, old, now_ms);
	return err;
}

struct ctx_pending *ctx_pending_take(struct ctx_registry *r, struct ctx *c, uint64_t key_id, bool store)
{
	struct ctx_pending *p;

	lk_lock(&r->lk);
	p = unlink_pending(c, key_id, store);
	lk_unlock(&r->lk);
	return p;
}

/* Needs LK_CONTEXTS. A late writer keeps its slots until it commits, unregisters or dies; a late reader loses its locks, which are
 * put in `expired`. */
static void sweep_pending(struct ctx_registry *r, struct ctx *c, const struct ctx_limits *limits, uint64_t now_ms,
			  struct ctx_pending **expired)
{
	struct ctx_pending **link = &c->pending;

	while (*link) {
		struct ctx_pending *p = *link;
		uint64_t age = now_ms > p->since_ms ? now_ms - p->since_ms : 0;

		if (p->store && !p->disowned && age > limits->write_ttl_ms) {
			store_disown(r->store, p->objs, p->n);
			p->disowned = true;
			log_warn("instance %llu did not commit %u reserved chunks within the write TTL",
				 (unsigned long long)c->instance_id, p->n);
		}
		if (!p->store && age > limits->read_ttl_ms) {
			*link = p->next;
			c->npending--;
			p->next = *expired;
			*expired = p;
			continue;
		}
		link = &p->next;
	}
}

static void sweep_limbo(struct ctx_registry *r, const struct ctx_limits *limits, uint64_t now_ms)
{
	struct ctx_pending *done = NULL;

	lk_lock(&r->lk);
	for (struct ctx_pending **link = &r->limbo; *link;) {
		struct ctx_pending *p = *link;

		if (now_ms > p->since_ms && now_ms - p->since_ms > limits->write_ttl_ms) {
			*link = p->next;
			p->next = done;
			done = p;
		} else {
			link = &p->next;
		}
	}
	lk_unlock(&r->lk);
	give_back(r, done, now_ms);
}

bool ctx_watched(const struct ctx *c)
{
	return c->pidfd >= 0 && atomic_load(&c->watched);
}

static bool too_old(const struct ctx *c, const struct ctx_limits *limits, uint64_t now_ms)
{
	uint64_t seen = atomic_load(&c->last_seen_ms);
	uint64_t limit = atomic_load(&c->pinged) ? limits->reap_ms : limits->grace_ms;

	return !ctx_watched(c) && limits->reap_ms && now_ms > seen && now_ms - seen > limit;
}

/* One look at a bucket; true when an instance was dropped and there may be more. */
static bool sweep_bucket(struct ctx_registry *r, uint32_t b, const struct ctx_limits *limits, uint64_t now_ms)
{
	struct ctx_pending *expired = NULL, *held = NULL;
	struct ctx *dead = NULL;

	lk_lock(&r->lk);
	for (struct ctx *c = r->bucket[b]; c; c = c->next) {
		sweep_pending(r, c, limits, now_ms, &expired);
		if (!dead && too_old(c, limits, now_ms))
			dead = c;
	}
	if (dead)
		take_out(r, dead->instance_id, &held);
	lk_unlock(&r->lk);
	give_back(r, expired, now_ms);
	if (!dead)
		return false;
	log_warn("instance %llu (%s) sent nothing for %.0f s: dropped", (unsigned long long)dead->instance_id,
		 dead->model, (double)(now_ms - atomic_load(&dead->last_seen_ms)) / 1000.0);
	bury(r, held, now_ms); /* silence proves nothing: it may be stopped, and write when it goes on */
	r->dead(r->dead_arg, dead);
	ctx_let_go(r, dead);
	return true;
}

uint32_t ctx_sweep(struct ctx_registry *r, const struct ctx_limits *limits, uint64_t now_ms)
{
	uint32_t reaped = 0;

	sweep_limbo(r, limits, now_ms);
	for (uint32_t b = 0; b < BUCKETS; b++) {
		while (sweep_bucket(r, b, limits, now_ms))
			reaped++;
	}
	return reaped;
}

uint32_t ctx_count(struct ctx_registry *r)
{
	lk_lock(&r->lk);
	uint32_t n = r->count;
	lk_unlock(&r->lk);
	return n;
}

void ctx_registry_destroy(struct ctx_registry *r)
{
	if (!r)
		return;
	for (uint32_t b = 0; b < BUCKETS; b++) {
		while (r->bucket[b])
			ctx_drop(r, r->bucket[b]->instance_id, r->bucket[b]->owner);
	}
	give_back(r, r->limbo, 0);
	lk_destroy(&r->lk);
	mem_free(r);
}

struct ctx *ctx_get_gpu(struct ctx_registry *r)
{
	struct ctx *found = NULL;

	lk_lock(&r->lk);
	for (uint32_t b = 0; b < BUCKETS && !found; b++) {
		for (struct ctx *c = r->bucket[b]; c && !found; c = c->next) {
			if (c->gpu && !gpu_engine_lost(c->gpu))
				found = c;
		}
	}
	if (found)
		atomic_fetch_add(&found->refs, 1);
	lk_unlock(&r->lk);
	return found;
}

/* Nothing is copied under the lock that every PING takes. */
struct ctx **ctx_get_all(struct ctx_registry *r, uint32_t *n)
{
	uint32_t cap = ctx_count(r) + 16;
	struct ctx **all = mem_calloc(cap, sizeof(struct ctx *));

	*n = 0;
	if (!all)
		return NULL;
	lk_lock(&r->lk);
	for (uint32_t b = 0; b < BUCKETS; b++) {
		for (struct ctx *c = r->bucket[b]; c && *n < cap; c = c->next) {
			atomic_fetch_add(&c->refs, 1);
			all[(*n)++] = c;
		}
	}
	lk_unlock(&r->lk);
	return all;
}
