/* count.c - metrics whose labels are known at the start, and those of a lookup. */
#include "daemon/core/core_int.h"

#include <stdio.h>
#include <string.h>

static const struct {
	enum metric_id metric;
	const char *label;
} fixed[COUNT_IDS] = {[COUNT_ERROR_UNREADABLE] = {M_REQUEST_ERRORS, "unreadable"},
		      [COUNT_ERROR_REGISTRATION] = {M_REQUEST_ERRORS, "registration"},
		      [COUNT_ERROR_REFUSED] = {M_REQUEST_ERRORS, "refused"},
		      [COUNT_DROP_NO_REQUEST] = {M_DROPPED_MESSAGES, "no_request"},
		      [COUNT_DROP_NOT_SERVED] = {M_DROPPED_MESSAGES, "not_served"},
		      [COUNT_REAPED_PIDFD] = {M_CONTEXTS_REAPED, "pidfd"},
		      [COUNT_REAPED_PING] = {M_CONTEXTS_REAPED, "ping"},
		      [COUNT_REAPED_GPU] = {M_CONTEXTS_REAPED, "gpu"},
		      [COUNT_STORES_SUBMITTED] = {M_NUM_SUBMITTED_STORES, "cpu"},
		      [COUNT_STORES_FINISHED] = {M_NUM_FINISHED_STORES, "cpu"},
		      [COUNT_RETRIEVES_SUBMITTED] = {M_NUM_SUBMITTED_RETRIEVES, "cpu"},
		      [COUNT_RETRIEVES_FINISHED] = {M_NUM_FINISHED_RETRIEVES, "cpu"},
		      [COUNT_WAIT_TIMEOUTS] = {M_TIMEOUTS, "TimeoutError"}};

void count_init(struct server *srv)
{
	for (int i = 0; i < COUNT_IDS; i++) {
		struct slice label = slice_str(fixed[i].label);
		srv->counted[i] = metric_series_get(srv->metrics, fixed[i].metric, &label, 1);
	}
	for (int op = 0; op < WIRE_OP_COUNT; op++) {
		struct slice label = slice_str(wire_op_name((enum wire_op)op));
		if (!op_def((enum wire_op)op))
			continue;
		srv->op_requests[op] = metric_series_get(srv->metrics, M_REQUESTS, &label, 1);
		srv->op_seconds[op] = metric_series_get(srv->metrics, M_REQUEST_SECONDS, &label, 1);
	}
}

void count(struct server *srv, enum count_id id, uint64_t n)
{
	metric_series_add(srv->metrics, srv->counted[id], n);
}

void count_request(struct server *srv, enum wire_op op, uint64_t ns)
{
	metric_series_add(srv->metrics, srv->op_requests[op], 1);
	metric_series_observe(srv->metrics, srv->op_seconds[op], (double)ns / 1e9);
}

static void add(struct server *srv, enum metric_id id, const struct slice *labels, uint32_t n, uint64_t v)
{
	metric_series_add(srv->metrics, metric_series_get(srv->metrics, id, labels, n), v);
}

/* A model that nobody has registered gets no series of its own: its name is whatever a client says. */
static void early_exit(struct server *srv, const char *reason)
{
	const struct slice labels[] = {slice_of("", 0), slice_of("", 0), slice_str(reason)};

	metric_add(srv->metrics, M_LOOKUPS_REQUESTS, 1);
	add(srv, M_LOOKUP_EARLY_EXIT_REQUESTS, labels, 3, 1);
}

static bool find_series(struct metrics *m, const struct session_lookup *l, metric_series *out)
{
	static const enum metric_id rows[LOOKUP_SERIES] = {M_LOOKUPS_REQUESTS, M_LOOKUP_REQUESTED_TOKENS,
							   M_LOOKUP_HIT_TOKENS, M_LOOKUP_HIT_L1_TOKENS,
							   M_LOOKUP_HIT_L1_KEYS};
	const struct slice labels[] = {l->model, l->salt};
	bool all = true;

	for (uint32_t i = 0; i < LOOKUP_SERIES; i++) {
		out[i] = metric_series_get(m, rows[i], labels, 2);
		all &= out[i] != 0;
	}
	return all;
}

static bool is_of(const struct lookup_series *c, const struct session_lookup *l)
{
	return c->series[0] && slice_eq(l->model, slice_of(c->labels, c->model_bytes)) &&
	       slice_eq(l->salt, slice_of(c->labels + c->model_bytes, c->salt_bytes));
}

static uint32_t hash_bytes(uint32_t h, struct slice s)
{
	const uint8_t *p = s.p;

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ p[i]) * 0x01000193u;
	return h;
}

/* The exec's own copy of the handles, or `spare` filled for what does not fit there. */
static const metric_series *series_of(struct exec *e, const struct session_lookup *l, metric_series *spare)
{
	struct lookup_series *c;

	if (l->model.n > LOOKUP_LABELS || l->salt.n > LOOKUP_LABELS - l->model.n) {
		find_series(e->srv->metrics, l, spare);
		return spare;
	}
	c = &e->lookups[hash_bytes(hash_bytes(0x811c9dc5u, l->model), l->salt) % LOOKUP_CACHED];
	if (is_of(c, l))
		return c->series;
	c->series[0] = 0;
	if (!find_series(e->srv->metrics, l, spare))
		return spare; /* out of memory: tried again next time */
	if (l->model.n)
		memcpy(c->labels, l->model.p, l->model.n);
	if (l->salt.n)
		memcpy(c->labels + l->model.n, l->salt.p, l->salt.n);
	c->model_bytes = (uint32_t)l->model.n;
	c->salt_bytes = (uint32_t)l->salt.n;
	memcpy(c->series, spare, sizeof(c->series));
	return c->series;
}

void count_lookup(struct exec *e, const struct session_lookup *l, const struct session_hits *hits)
{
	struct server *srv = e->srv;
	uint64_t cs = srv->chash.chunk_tokens, found = hits->chunks * (uint64_t)l->world_size;
	const uint64_t add_to[LOOKUP_SERIES] = {1, l->nchunks * cs, hits->chunks * cs, hits->chunks * cs, found};
	metric_series spare[LOOKUP_SERIES];
	const metric_series *series;

	if (!l->object_bytes || !l->nchunks) {
		early_exit(srv, l->nchunks ? "no_gpu_context" : "empty_chunk_hashes");
		metric_add(srv->metrics, M_LOOKUP_REQUESTED_TOKENS, l->nchunks * cs);
		return;
	}
	series = series_of(e, l, spare);
	for (uint32_t i = 0; i < LOOKUP_SERIES; i++)
		metric_series_add(srv->metrics, series[i], add_to[i]);
	metric_add(srv->metrics, M_SM_READ_REQUESTS, 1);
	metric_add(srv->metrics, M_SM_READ_SUCCEED_KEYS, found);
	metric_add(srv->metrics, M_SM_READ_FAILED_KEYS, l->nchunks * (uint64_t)l->world_size - found);
}

void count_of_context(struct server *srv, struct ctx *c)
{
	struct slice model = slice_str(c->model), none = slice_of("", 0), device = slice_str(c->device);
	struct metrics *m = srv->metrics;
	char id[24];
	struct slice labels[3] = {slice_of(id, 0), device, model};

	labels[0].n = (size_t)snprintf(id, sizeof(id), "%llu", (unsigned long long)c->instance_id);
	c->store_gbs = metric_series_get(m, M_L0_L1_STORE_THROUGHPUT, labels, 3);
	c->load_gbs = metric_series_get(m, M_L0_L1_LOAD_THROUGHPUT, labels, 3);
	c->loaded_chunks = metric_series_get(m, M_NUM_CHUNKS_LOADED, (struct slice[]){labels[0], model, none}, 3);
	c->begun[0] = metric_series_get(m, M_NUM_SUBMITTED_RETRIEVES, &device, 1);
	c->begun[1] = metric_series_get(m, M_NUM_SUBMITTED_STORES, &device, 1);
	c->ended[0] = metric_series_get(m, M_NUM_FINISHED_RETRIEVES, &device, 1);
	c->ended[1] = metric_series_get(m, M_NUM_FINISHED_STORES, &device, 1);
}

void count_no_room(struct server *srv, struct slice model, uint32_t chunks)
{
	const struct slice labels[] = {slice_str("l1_store"), model};

	if (chunks)
		add(srv, M_L1_ALLOCATION_FAILURE_CHUNKS, labels, 2, chunks);
}

void count_read_failure(struct server *srv, struct slice model)
{
	const struct slice labels[] = {slice_str("l1_retrieve"), slice_str("not_found"), model};

	add(srv, M_L1_READ_FAILURE_CHUNKS, labels, 3, 1);
}
