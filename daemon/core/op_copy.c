/* op_copy.c - STORE and RETRIEVE of paged contexts: the daemon copies between the engine's pages and arena slots.
 *
 * STORE: hash, reserve (what is there already is skipped), gather, commit. RETRIEVE: lock all or nothing, scatter, unlock. Pages in shared
 * memory are copied right here; pages in GPU memory by their GPU, and the request is answered from there (device.h).
 * No allocation and no system call here, whatever the number of chunks; the store's lock is taken twice per request.
 * If the engine's memory vanished under the copy, the objects are given back and the answer is negative.
 */
#include "daemon/base/clock.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

enum { RETRIEVE, STORE }; /* begun[], ended[] of a context */

/* CPU clients send a stub and take it back. GPU clients open what they get as an event, many of them also with a negative answer. */
static void answer(struct exec *e, const struct wire_req *r, struct ctx *c, bool ok, struct outcome *o)
{
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_EVENT, .flag = ok, .bytes = slice_of("", 0)};
	if (slice_is(r->event, WIRE_STUB_EVENT))
		o->reply.bytes = r->event;
	else if (e->srv->gpu && (!c || c->gpu))
		o->reply.bytes = device_idle_event(e, r, c);
}

static uint32_t take_blocks(const struct wire_req *r, struct kv_blocks *out)
{
	for (uint32_t g = 0; g < r->nblock_groups; g++)
		out[g] = (struct kv_blocks){r->blocks[g].ids, r->blocks[g].n};
	return r->nblock_groups;
}

static int check_request(struct exec *e, const struct wire_req *r, const struct ctx *c, struct kv_blocks *blocks,
			 struct range *g, struct why *why)
{
	uint32_t ngroups = take_blocks(r, blocks);
	int err = range_check(e, r, g, why);

	if (err)
		return err;
	if (c->kind != CTX_PAGED)
		return why_set(why, -EINVAL, "the instance is engine-driven and has no pages");
	if (c->world_size != r->key.world_size || !slice_is(r->key.model, c->model))
		return why_set(why, -EINVAL, "key of model '%.*s', world size %u; registered as '%s', %u",
			       SLICE_FMT(r->key.model), r->key.world_size, c->model, c->world_size);
	return kv_blocks_check(c->layout, blocks, ngroups, g->n, why);
}

static struct moved what_moves(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g,
			       store_ns ns)
{
	return (struct moved){.ctx = c,
			      .salt = r->key.salt,
			      .rank = rank_of(&r->key),
			      .ns = ns,
			      .hashes = e->walk->hashes,
			      .first = g->first,
			      .n = g->n,
			      .objs = e->objs,
			      .bytes = g->n * c->object_bytes};
}

static const char *reason(int err)
{
	switch (err) {
	case -EFAULT:
		return "the engine's shared memory vanished during the copy";
	case -EAGAIN:
		return "too many copies wait for its GPU";
	case -ENODEV:
		return "its GPU's CUDA context is broken: it has to register again";
	case -ENOENT:
		return "the instance was dropped meanwhile";
	case -EINVAL:
		return "its event is none";
	default:
		return strerror(-err);
	}
}

/* ---- STORE ------------------------------------------------------------------------------------------------------- */

static bool gather_all(struct exec *e, const struct ctx *c, const struct kv_blocks *blocks, uint32_t n)
{
	struct store *s = e->srv->store;
	bool sums = below_wants_sums(e->srv);

	for (uint32_t j = 0; j < n; j++) {
		if (!e->objs[j])
			continue;
		if (!sums) {
			kv_gather(c->layout, blocks, j, store_ptr(s, e->objs[j]));
			continue;
		}
		/* while the bytes are in the CPU anyway: L2 would have to read them again */
		kv_gather_sums(c->layout, blocks, j, store_ptr(s, e->objs[j]), e->sums);
		store_sums_set(s, e->objs[j], e->sums);
	}
	return !ctx_faulted(c);
}

static int gather(struct exec *e, const struct moved *m, const struct kv_blocks *blocks)
{
	uint64_t t0 = clock_ns();
	bool ok = gather_all(e, m->ctx, blocks, m->n);

	moved_store(e->srv, m, ok, clock_ns() - t0);
	if (!ok)
		metric_add(e->srv->metrics, M_SHM_FAULTS, 1);
	return ok ? 0 : -EFAULT;
}

static int store_by_gpu(struct exec *e, const struct wire_req *r, const struct moved *m, const struct kv_blocks *blocks)
{
	int err = device_copy(e, r, m, blocks, true);

	if (err < 0)
		moved_store(e->srv, m, false, 0);
	return err;
}

/* 0, DEVICE_TAKEN, or an error. */
static int store_range(struct exec *e, const struct wire_req *r, struct ctx *c, const struct kv_blocks *blocks,
		       const struct range *g)
{
	struct server *srv = e->srv;
	struct moved m = what_moves(e, r, c, g, range_ns_get(e, r, c));
	struct store_reserve_result res;
	int err = 0;

	if (!m.ns)
		return 0; /* no room for another namespace: skipped like no memory */
	metric_add(srv->metrics, M_SM_WRITE_REQUESTS, 1);
	range_touch(e, r, m.ns); /* before reserving: eviction must not take this prompt's own head */
	res = store_reserve(srv->store, m.ns, e->walk->hashes + g->first, g->n, c->object_bytes, c->home, clock_ms(),
			    e->objs);
	metric_add(srv->metrics, M_SM_WRITE_SUCCEED_KEYS, res.reserved);
	metric_add(srv->metrics, M_SM_WRITE_FAILED_KEYS, res.present + res.refused);
	count_no_room(srv, slice_str(c->model), res.refused);
	m.bytes = res.reserved * c->object_bytes;
	if (res.reserved)
		err = c->gpu ? store_by_gpu(e, r, &m, blocks) : gather(e, &m, blocks);
	if (err != DEVICE_TAKEN)
		store_ns_put(srv->store, m.ns);
	return err;
}

void op_store(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct kv_blocks blocks[WIRE_MAX_GROUPS];
	struct ctx *c = ctx_get_for(e->srv->contexts, r->instance_id, e->owner);
	struct range g = {0};
	struct why why;
	int err = -EINVAL;

	if (!c) {
		why_set(&why, -ENOENT, "unknown instance");
	} else if (check_request(e, r, c, blocks, &g, &why) == 0) {
		metric_series_add(e->srv->metrics, c->begun[STORE], 1);
		err = ctx_faulted(c) ? -EFAULT : store_range(e, r, c, blocks, &g);
		if (err != DEVICE_TAKEN)
			metric_series_add(e->srv->metrics, c->ended[STORE], 1);
		if (err < 0)
			why_set(&why, err, "%s", reason(err));
	}
	if (err < 0)
		refuse(e->srv, r, &why);
	o->later = err == DEVICE_TAKEN;
	if (!o->later)
		answer(e, r, c, err == 0, o);
	ctx_put(e->srv->contexts, c);
}

/* ---- RETRIEVE ---------------------------------------------------------------------------------------------------- */

static bool scatter_all(struct exec *e, const struct wire_req *r, const struct ctx *c, const struct kv_blocks *blocks,
			uint32_t n)
{
	uint64_t skip = r->skip_first_n_tokens;
	uint32_t cs = e->srv->chash.chunk_tokens;

	for (uint32_t j = 0; j < n; j++) {
		uint32_t here = skip > cs ? cs : (uint32_t)skip;

		skip -= here;
		if (here < cs)
			kv_scatter(c->layout, blocks, j, here, store_ptr(e->srv->store, e->objs[j]));
	}
	return !ctx_faulted(c);
}

static int scatter(struct exec *e, const struct wire_req *r, const struct moved *m, const struct kv_blocks *blocks)
{
	uint64_t t0 = clock_ns();
	bool ok = scatter_all(e, r, m->ctx, blocks, m->n);

	moved_retrieve(e->srv, m, ok, clock_ns() - t0);
	return ok ? 0 : -EFAULT;
}

static int retrieve_by_gpu(struct exec *e, const struct wire_req *r, const struct moved *m,
			   const struct kv_blocks *blocks)
{
	int err = device_copy(e, r, m, blocks, false);

	if (err < 0)
		moved_retrieve(e->srv, m, false, 0);
	return err;
}

/* Something is to be written. */
static bool writes(const struct exec *e, const struct wire_req *r, const struct range *g)
{
	return r->skip_first_n_tokens < (uint64_t)g->n * e->srv->chash.chunk_tokens;
}

/* Locks all of the range, which the request's LOOKUP must hold locked: 0 or -ENOENT. */
static int lock_range(struct exec *e, const struct moved *m, const struct session_range *held)
{
	struct store *s = e->srv->store;
	uint32_t missing;

	if ((!m->ns && m->n) ||
	    store_lock_all(s, m->ns, m->hashes + m->first, m->n, m->ctx->object_bytes, clock_ms(), m->objs, &missing))
		return -ENOENT;
	if (sessions_holds(e->srv->sessions, held))
		return 0;
	store_unlock(s, m->objs, NULL, m->n, clock_ms()); /* nobody looked up, or its time ran out */
	return -ENOENT;
}

/* 0, DEVICE_TAKEN, -ENOENT (a chunk is missing), or another error. The lookup's locks have done their work in any case: a copy that goes
 * on has locks of its own. */
static int retrieve_range(struct exec *e, const struct wire_req *r, struct ctx *c, const struct kv_blocks *blocks,
			  const struct range *g)
{
	struct server *srv = e->srv;
	struct session_range held = range_held(e, r, g, e->objs);
	store_ns ns = range_ns_find(e, r, c) ? range_ns_get(e, r, c) : 0; /* counted: it must not become another's */
	struct moved m = what_moves(e, r, c, g, ns);
	int err = ctx_faulted(c) ? -EFAULT : lock_range(e, &m, &held);

	if (!err)
		err = c->gpu && writes(e, r, g) ? retrieve_by_gpu(e, r, &m, blocks) : scatter(e, r, &m, blocks);
	if (err < 0)
		held.objs = NULL; /* whatever is still locked of the range: it will not be asked for again */
	sessions_release(srv->sessions, &held, 1, clock_ms());
	if (err != DEVICE_TAKEN)
		store_ns_put(srv->store, ns);
	return err;
}

void op_retrieve(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct kv_blocks blocks[WIRE_MAX_GROUPS];
	struct ctx *c = ctx_get_for(e->srv->contexts, r->instance_id, e->owner);
	struct range g = {0};
	bool checked = false;
	struct why why;
	int err = -EINVAL;

	if (!c) {
		why_set(&why, -ENOENT, "unknown instance");
	} else if (check_request(e, r, c, blocks, &g, &why) == 0) {
		checked = true;
		metric_series_add(e->srv->metrics, c->begun[RETRIEVE], 1);
		err = retrieve_range(e, r, c, blocks, &g);
		if (err != DEVICE_TAKEN)
			metric_series_add(e->srv->metrics, c->ended[RETRIEVE], 1);
		if (err < 0)
			why_set(&why, err, "%s", reason(err));
	}
	if (checked && err == -ENOENT)
		count_read_failure(e->srv, slice_str(c->model));
	else if (err < 0)
		refuse(e->srv, r, &why);
	o->later = err == DEVICE_TAKEN;
	if (!o->later)
		answer(e, r, c, err == 0, o);
	ctx_put(e->srv->contexts, c);
}
