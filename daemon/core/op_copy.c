/* op_copy.c - STORE and RETRIEVE of paged contexts: the daemon copies between the engine's pages and arena slots.
 *
 * STORE: hash, reserve (what is there already is skipped), gather, commit. RETRIEVE: lock all or nothing, scatter, unlock.
 * No allocation and no system call here, whatever the number of chunks; the store's lock is taken twice per request.
 * If the engine's memory vanished under the copy, the objects are given back and the answer is negative.
 */
#include "daemon/base/clock.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

/* CPU clients send a stub and take it back. Handles of a device we did not open cannot be answered with a valid event. */
static void answer(const struct wire_req *r, bool ok, struct outcome *o)
{
	bool stub = slice_is(r->event, WIRE_STUB_EVENT);

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_EVENT, .flag = ok};
	o->reply.bytes = stub ? r->event : slice_of("", 0);
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

static void observe(struct server *srv, metric_series s, enum metric_id bytes_id, uint64_t bytes, uint64_t ns)
{
	metric_add(srv->metrics, bytes_id, bytes);
	if (bytes && ns)
		metric_series_observe(srv->metrics, s, (double)bytes / (double)ns);
}

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

static bool store_range(struct exec *e, const struct wire_req *r, struct ctx *c, const struct kv_blocks *blocks,
			const struct range *g)
{
	struct server *srv = e->srv;
	store_ns ns = range_ns_get(e, r, c);
	struct store_reserve_result res;
	uint64_t t0;
	bool ok = true;

	if (!ns)
		return true; /* no room for another namespace: skipped like no memory */
	metric_add(srv->metrics, M_SM_WRITE_REQUESTS, 1);
	range_touch(e, r, ns); /* before reserving: eviction must not take this prompt's own head */
	res = store_reserve(srv->store, ns, e->walk->hashes + g->first, g->n, c->object_bytes, c->home, clock_ms(),
			    e->objs);
	metric_add(srv->metrics, M_SM_WRITE_SUCCEED_KEYS, res.reserved);
	metric_add(srv->metrics, M_SM_WRITE_FAILED_KEYS, res.present + res.refused);
	count_no_room(srv, slice_str(c->model), res.refused);
	if (res.reserved) {
		t0 = clock_ns();
		ok = gather_all(e, c, blocks, g->n);
		if (ok) {
			locality_count(srv, c, LOCALITY_STORE, e->objs, g->n);
			uint32_t done = below_commit(srv, c, &r->key, rank_of(&r->key), e->walk->hashes + g->first,
						     e->objs, g->n);
			metric_add(srv->metrics, M_L1_WRITE_CHUNKS, done);
			range_touch(e, r, ns);
		} else {
			store_abort(srv->store, e->objs, g->n);
			metric_add(srv->metrics, M_SHM_FAULTS, 1);
		}
		observe(srv, c->store_gbs, M_STORE_BYTES, res.reserved * c->object_bytes, clock_ns() - t0);
	}
	store_ns_put(srv->store, ns);
	return ok;
}

void op_store(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct kv_blocks blocks[WIRE_MAX_GROUPS];
	struct ctx *c = ctx_get_for(e->srv->contexts, r->instance_id, e->owner);
	struct range g = {0};
	struct why why;
	bool ok = false;

	if (!c) {
		why_set(&why, -ENOENT, "unknown instance");
	} else if (check_request(e, r, c, blocks, &g, &why) == 0) {
		count(e->srv, COUNT_STORES_SUBMITTED, 1);
		ok = !ctx_faulted(c) && store_range(e, r, c, blocks, &g);
		count(e->srv, COUNT_STORES_FINISHED, 1);
		if (!ok)
			why_set(&why, -EFAULT, "the engine's shared memory vanished during the copy");
	}
	if (!ok)
		refuse(e->srv, r, &why);
	answer(r, ok, o);
	ctx_put(e->srv->contexts, c);
}

static bool scatter_all(struct exec *e, const struct wire_req *r, const struct ctx *c, const struct kv_blocks *blocks,
			const struct range *g)
{
	uint64_t skip = r->skip_first_n_tokens;
	uint32_t cs = e->srv->chash.chunk_tokens;

	for (uint32_t j = 0; j < g->n; j++) {
		uint32_t here = skip > cs ? cs : (uint32_t)skip;

		skip -= here;
		if (here < cs)
			kv_scatter(c->layout, blocks, j, here, store_ptr(e->srv->store, e->objs[j]));
	}
	return !ctx_faulted(c);
}

/* 0, -ENOENT (a chunk is missing), -EFAULT. */
static int retrieve_range(struct exec *e, const struct wire_req *r, struct ctx *c, const struct kv_blocks *blocks,
			  const struct range *g)
{
	struct server *srv = e->srv;
	struct session_range held = range_held(e, r, g, e->objs);
	uint32_t missing;
	store_ns ns = range_ns_find(e, r, c) ? range_ns_get(e, r, c) : 0; /* counted: it must not become another's */
	int err = ctx_faulted(c) ? -EFAULT : -ENOENT;
	uint64_t t0 = 0;

	if (err != -EFAULT && (ns || g->n == 0))
		err = store_lock_all(srv->store, ns, e->walk->hashes + g->first, g->n, c->object_bytes, clock_ms(),
				     e->objs, &missing);
	if (!err) {
		t0 = clock_ns();
		if (!sessions_holds(srv->sessions, &held))
			err = -ENOENT; /* no LOOKUP locked them for this request, or its time ran out */
		else
			err = scatter_all(e, r, c, blocks, g) ? 0 : -EFAULT;
		if (!err)
			locality_count(srv, c, LOCALITY_RETRIEVE, e->objs, g->n);
		store_unlock(srv->store, e->objs, NULL, g->n, clock_ms());
	}
	if (!err) {
		observe(srv, c->load_gbs, M_RETRIEVE_BYTES, g->n * c->object_bytes, clock_ns() - t0);
		metric_add(srv->metrics, M_L1_READ_CHUNKS, g->n);
		metric_series_add(srv->metrics, c->loaded_chunks, g->n);
	} else {
		held.objs = NULL; /* whatever is still locked of the range: it will not be asked for again */
	}
	sessions_release(srv->sessions, &held, 1, clock_ms());
	store_ns_put(srv->store, ns);
	return err;
}

void op_retrieve(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct kv_blocks blocks[WIRE_MAX_GROUPS];
	struct ctx *c = ctx_get_for(e->srv->contexts, r->instance_id, e->owner);
	struct range g = {0};
	struct why why;
	int err = -EINVAL;

	if (!c) {
		why_set(&why, -ENOENT, "unknown instance");
	} else if (check_request(e, r, c, blocks, &g, &why) == 0) {
		count(e->srv, COUNT_RETRIEVES_SUBMITTED, 1);
		err = retrieve_range(e, r, c, blocks, &g);
		count(e->srv, COUNT_RETRIEVES_FINISHED, 1);
		if (err == -EFAULT)
			why_set(&why, err, "the engine's shared memory vanished during the copy");
	}
	if (err == -ENOENT)
		count_read_failure(e->srv, slice_str(c->model));
	else if (err)
		refuse(e->srv, r, &why);
	answer(r, err == 0, o);
	ctx_put(e->srv->contexts, c);
}
