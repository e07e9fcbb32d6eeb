/* transfer.c - what all transfers share: the chunk range of a request, its namespace, refusals. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

int range_check(struct exec *e, const struct wire_req *r, struct range *out, struct why *why)
{
	const struct wire_key *k = &r->key;
	uint32_t cs = e->srv->chash.chunk_tokens;

	if (k->worker_id < 0)
		return why_set(why, -EINVAL, "the key names no worker");
	if (k->start % cs || k->end % cs || k->end < k->start)
		return why_set(why, -EINVAL, "range [%llu, %llu) is not made of whole chunks of %u tokens",
			       (unsigned long long)k->start, (unsigned long long)k->end, cs);
	if (k->end > k->tokens.count)
		return why_set(why, -EINVAL, "range ends at token %llu of %u", (unsigned long long)k->end,
			       k->tokens.count);
	out->first = (uint32_t)(k->start / cs);
	out->n = (uint32_t)((k->end - k->start) / cs);
	if (out->first + out->n > e->walk->nchunks)
		return why_set(why, -E2BIG, "%u chunks are more than this server takes", out->first + out->n);
	return 0;
}

uint32_t rank_of(const struct wire_key *k)
{
	uint32_t ws = k->world_size, rank = k->worker_id < 0 ? 0 : (uint32_t)k->worker_id;

	return ws << 24 | rank << 16 | ws << 8 | rank; /* api.py: local values equal the global ones */
}

store_ns range_ns_get(struct exec *e, const struct wire_req *r, const struct ctx *c)
{
	return store_ns_get(e->srv->store, r->key.model, rank_of(&r->key), 0, r->key.salt, c->object_form);
}

store_ns range_ns_find(struct exec *e, const struct wire_req *r, const struct ctx *c)
{
	return store_ns_find(e->srv->store, r->key.model, rank_of(&r->key), 0, r->key.salt, c->object_form);
}

void range_touch(struct exec *e, const struct wire_req *r, store_ns ns)
{
	uint32_t upto = (uint32_t)(r->key.end / e->srv->chash.chunk_tokens);

	store_touch(e->srv->store, &ns, 1, e->walk->hashes, upto, clock_ms());
	sessions_extend(e->srv->sessions, r->key.request_id, e->walk->hashes, upto);
}

static void observe(struct server *srv, metric_series s, enum metric_id bytes_id, uint64_t bytes, uint64_t ns)
{
	metric_add(srv->metrics, bytes_id, bytes);
	if (bytes && ns)
		metric_series_observe(srv->metrics, s, (double)bytes / (double)ns);
}

void moved_store(struct server *srv, const struct moved *m, bool ok, uint64_t ns)
{
	struct ctx *c = m->ctx;
	struct wire_key key = {.model = slice_str(c->model), .salt = m->salt};

	if (ok) {
		locality_count(srv, c, LOCALITY_STORE, m->objs, m->n);
		metric_add(srv->metrics, M_L1_WRITE_CHUNKS,
			   below_commit(srv, c, &key, m->rank, m->hashes + m->first, m->objs, m->n));
		store_touch(srv->store, &m->ns, 1, m->hashes, m->first + m->n, clock_ms());
	} else {
		store_abort(srv->store, m->objs, m->n);
	}
	observe(srv, c->store_gbs, M_STORE_BYTES, m->bytes, ns);
}

void moved_retrieve(struct server *srv, const struct moved *m, bool ok, uint64_t ns)
{
	struct ctx *c = m->ctx;

	if (ok)
		locality_count(srv, c, LOCALITY_RETRIEVE, m->objs, m->n);
	store_unlock(srv->store, m->objs, NULL, m->n, clock_ms());
	if (!ok)
		return;
	observe(srv, c->load_gbs, M_RETRIEVE_BYTES, m->bytes, ns);
	metric_add(srv->metrics, M_L1_READ_CHUNKS, m->n);
	metric_series_add(srv->metrics, c->loaded_chunks, m->n);
}

struct session_range range_held(const struct exec *e, const struct wire_req *r, const struct range *g,
				const store_obj *objs)
{
	return (struct session_range){.request_id = r->key.request_id,
				      .owner = e->owner,
				      .first = g->first,
				      .n = g->n,
				      .rank = r->key.worker_id < 0 ? 0 : r->key.worker_id,
				      .objs = objs};
}

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * 0x100000001b3ull;
	return (h ^ (h >> 29)) * 0x9e3779b97f4a7c15ull;
}

/* Pending transfers are keyed by (instance, key): model, salt, rank, range and the tokens, for which the last hash stands. */
uint64_t key_id(const struct exec *e, const struct wire_req *r, const struct range *g)
{
	uint32_t rank = rank_of(&r->key);
	uint64_t h = 0xcbf29ce484222325ull;

	h = mix(h, r->key.model.p, r->key.model.n);
	h = mix(h, r->key.salt.p, r->key.salt.n);
	h = mix(h, r->key.request_id.p, r->key.request_id.n);
	h = mix(h, &rank, sizeof(rank));
	h = mix(h, &g->first, sizeof(g->first));
	h = mix(h, &g->n, sizeof(g->n));
	if (g->n)
		h = mix(h, e->walk->hashes[g->first + g->n - 1].b, STORE_HASH_BYTES);
	return h;
}

void refuse(struct server *srv, const struct wire_req *r, const struct why *why)
{
	static struct log_limit limit;
	uint64_t dropped;

	count(srv, COUNT_ERROR_REFUSED, 1);
	if (log_limit_pass(&limit, 200, &dropped))
		log_warn("%s from instance %llu refused: %s%s", wire_op_name(r->op), (unsigned long long)r->instance_id,
			 why->text, dropped ? " (and more)" : "");
}
