/* below_count.c - what the tier counts of its objects, by salt and model: series handles by the number of the objects' name.
 *
 * A name's handle is looked up once; then an object costs one relaxed addition. Two threads that look up the same one find the same.
 */
#include "daemon/base/mem.h"
#include "daemon/core/below_int.h"

#include <errno.h>

struct below_counts {
	_Atomic metric_series
		series[SEG_NAMES_MAX + 1][TIER_COUNTS]; /* 0: not looked up yet; pages nobody uses stay untouched */
};

struct row {
	enum metric_id id;
	const char *reason; /* NULL: by salt, else by reason and model */
};

static const struct row rows[TIER_COUNTS] = {
	[TIER_COUNT_STORE] = {M_L2_STORE_SUBMITTED_CHUNKS, NULL},
	[TIER_COUNT_STORED] = {M_L2_STORE_COMPLETED_CHUNKS, NULL},
	[TIER_COUNT_LOOKUP] = {M_L2_PREFETCH_LOOKUP_CHUNKS, NULL},
	[TIER_COUNT_HIT] = {M_L2_PREFETCH_HIT_CHUNKS, NULL},
	[TIER_COUNT_LOAD] = {M_L2_PREFETCH_LOAD_SUBMITTED_CHUNKS, NULL},
	[TIER_COUNT_LOADED] = {M_L2_PREFETCH_LOAD_COMPLETED_CHUNKS, NULL},
	[TIER_COUNT_NO_ROOM] = {M_L2_PREFETCH_FAILURE_CHUNKS, "l1_oom"},
	[TIER_COUNT_NOT_FOUND] = {M_L2_PREFETCH_FAILURE_CHUNKS, "not_found"},
	[TIER_COUNT_CONTENDED] = {M_L2_PREFETCH_FAILURE_CHUNKS, "l1_contended"},
	[TIER_COUNT_FAILED] = {M_L2_PREFETCH_FAILURE_CHUNKS, "failed"},
};

static metric_series look_up(struct server *srv, enum tier_count what, uint32_t name)
{
	const struct seg_name *n = seg_name_of(srv->names, name);
	const struct row *r = &rows[what];
	const struct slice labels[] = {r->reason ? slice_str(r->reason) : n->salt, n->model};

	return metric_series_get(srv->metrics, r->id, labels, r->reason ? 2 : 1);
}

void below_counted(void *ctx, enum tier_count what, uint32_t name, uint32_t n)
{
	struct server *srv = ctx;
	_Atomic metric_series *at = &srv->l2_counts->series[name][what];
	metric_series s = atomic_load_explicit(at, memory_order_relaxed);

	if (!s) {
		s = look_up(srv, what, name);
		atomic_store_explicit(at, s, memory_order_relaxed);
	}
	metric_series_add(srv->metrics, s, n);
}

int below_count_create(struct server *srv)
{
	srv->l2_counts = mem_calloc(1, sizeof(*srv->l2_counts));
	return srv->l2_counts ? 0 : -ENOMEM;
}

void below_count_destroy(struct server *srv)
{
	mem_free(srv->l2_counts);
	srv->l2_counts = NULL;
}
