/* count.c - metrics whose labels are known at the start, and those of a lookup. */
#include "daemon/core/core_int.h"

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
		      [COUNT_STORES_SUBMITTED] = {M_NUM_SUBMITTED_STORES, "cpu"},
		      [COUNT_STORES_FINISHED] = {M_NUM_FINISHED_STORES, "cpu"},
		      [COUNT_RETRIEVES_SUBMITTED] = {M_NUM_SUBMITTED_RETRIEVES, "cpu"},
		      [COUNT_RETRIEVES_FINISHED] = {M_NUM_FINISHED_RETRIEVES, "cpu"}};

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

void count_lookup(struct server *srv, const struct session_lookup *l, const struct session_hits *hits)
{
	uint64_t cs = srv->chash.chunk_tokens, found = hits->chunks * (uint64_t)l->world_size;
	const struct slice labels[] = {l->model, l->salt};

	if (!l->object_bytes || !l->nchunks) {
		early_exit(srv, l->nchunks ? "no_gpu_context" : "empty_chunk_hashes");
		metric_add(srv->metrics, M_LOOKUP_REQUESTED_TOKENS, l->nchunks * cs);
		return;
	}
	add(srv, M_LOOKUPS_REQUESTS, labels, 2, 1);
	add(srv, M_LOOKUP_REQUESTED_TOKENS, labels, 2, l->nchunks * cs);
	add(srv, M_LOOKUP_HIT_TOKENS, labels, 2, hits->chunks * cs);
	add(srv, M_LOOKUP_HIT_L1_TOKENS, labels, 2, hits->chunks * cs);
	add(srv, M_LOOKUP_HIT_L1_KEYS, labels, 2, found);
	metric_add(srv->metrics, M_SM_READ_REQUESTS, 1);
	metric_add(srv->metrics, M_SM_READ_SUCCEED_KEYS, found);
	metric_add(srv->metrics, M_SM_READ_FAILED_KEYS, l->nchunks * (uint64_t)l->world_size - found);
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
