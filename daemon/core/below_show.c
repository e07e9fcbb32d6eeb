/* below_show.c - what operators see of the tier and its adapters: metrics, /status, the configuration. */
#include "daemon/base/mem.h"
#include "daemon/core/below_int.h"
#include "daemon/http/http_below.h"
#include "daemon/http/status.h"

#include <errno.h>
#include <stdio.h>

/* ---- metrics ------------------------------------------------------------------------------------------------------- */

static void meter(struct server *srv, metric_series done, metric_series gbs, uint64_t bytes, uint64_t ns)
{
	metric_series_add(srv->metrics, done, 1);
	if (bytes && ns)
		metric_series_observe(srv->metrics, gbs, (double)bytes / (double)ns);
}

static void on_stored(void *ctx, uint32_t adapter, uint64_t bytes, uint64_t ns)
{
	struct server *srv = ctx;

	meter(srv, srv->l2_series[adapter].stored, srv->l2_series[adapter].store_gbs, bytes, ns);
}

static void on_loaded(void *ctx, uint32_t adapter, uint64_t bytes, uint64_t ns)
{
	struct server *srv = ctx;

	meter(srv, srv->l2_series[adapter].loaded, srv->l2_series[adapter].load_gbs, bytes, ns);
}

static metric_series one(struct server *srv, enum metric_id id, const struct slice *labels, uint32_t n)
{
	return metric_series_get(srv->metrics, id, labels, n);
}

void below_meter(struct server *srv)
{
	struct tier_meter m = {srv, on_stored, on_loaded, below_counted};

	for (uint32_t i = 0; i < srv->nl2; i++) {
		struct below_series *s = &srv->l2_series[i];
		char index[12];
		struct slice l[2] = {slice_str(l2_conf_type(srv->l2_conf[i])), slice_of(index, 0)};

		l[1].n = (size_t)snprintf(index, sizeof(index), "%u", i);
		s->store_gbs = one(srv, M_L2_STORE_THROUGHPUT, l, 1);
		s->load_gbs = one(srv, M_L2_LOAD_THROUGHPUT, l, 1);
		s->stored = one(srv, M_L2_STORE_COMPLETED_REQUESTS, l, 1);
		s->loaded = one(srv, M_L2_LOAD_COMPLETED_REQUESTS, l, 1);
		s->usage = one(srv, M_L2_USAGE_BYTES, l, 1);
		s->capacity = one(srv, M_L2_CAPACITY_BYTES, l, 1);
		s->in_stores = one(srv, M_NUM_INFLIGHT_L2_STORES, l, 2);
		s->in_loads = one(srv, M_NUM_INFLIGHT_L2_LOADS, l, 2);
		s->load_bytes = srv->nl2 == 1 ? one(srv, M_INFLIGHT_LOAD_MEMORY_USAGE_BYTES, l, 2) : 0;
		s->healthy = one(srv, M_L2_HEALTHY, l, 2);
		s->dropped = one(srv, M_L2_ADAPTER_DROPPED, l, 2);
		s->errors = one(srv, M_L2_IO_ERRORS, l, 2);
		s->checksums = one(srv, M_L2_BAD_CHECKSUMS, l, 2);
		s->read = one(srv, M_L2_READ_BYTES, l, 2);
		s->written = one(srv, M_L2_WRITTEN_BYTES, l, 2);
	}
	tier_meter(srv->tier, &m);
}

static void refresh_tier(struct server *srv)
{
	struct metrics *m = srv->metrics;
	struct tier_stats t;

	tier_stats(srv->tier, &t);
	metric_set(m, M_L2_STORE_SUBMITTED_REQUESTS, (double)t.store_requests);
	metric_set(m, M_L2_STORE_FAILED_KEYS, (double)t.store_failed);
	metric_set(m, M_L2_PREFETCH_LOOKUP_REQUESTS, (double)t.jobs);
	metric_set(m, M_L2_DROPPED_OBJECTS, (double)t.store_dropped);
	metric_set(m, M_L2_NOT_ADMITTED_OBJECTS, (double)t.not_admitted);
	metric_set(m, M_L2_DIRTY_BYTES, (double)t.dirty_bytes);
	metric_set(m, M_L2_QUARANTINED_BYTES, (double)t.quarantined_bytes);
	metric_set(m, M_L2_LATE_JOBS, (double)t.late_jobs);
	metric_set(m, M_L2_COALESCED_OBJECTS, (double)t.coalesced);
	if (srv->nl2 == 1)
		metric_series_set(m, srv->l2_series[0].load_bytes, (double)t.loading_bytes);
	else
		metric_set(m, M_INFLIGHT_LOAD_MEMORY_USAGE_BYTES, (double)t.loading_bytes);
}

/* An adapter whose breaker is open takes and has nothing: it is in neither state. None is ever taken away while the server runs. */
static void refresh_states(struct server *srv, uint32_t healthy)
{
	static const struct slice active = {"active", 6}, draining = {"draining", 8};
	struct metrics *m = srv->metrics;

	metric_series_set(m, one(srv, M_L2_STORE_ADAPTERS, &active, 1), healthy);
	metric_series_set(m, one(srv, M_L2_STORE_ADAPTERS, &draining, 1), 0);
	metric_series_set(m, one(srv, M_L2_PREFETCH_ADAPTERS, &active, 1), healthy);
	metric_series_set(m, one(srv, M_L2_PREFETCH_ADAPTERS, &draining, 1), 0);
}

/* Adapters of one type share the series of the type: sums over them. */
static double sum_of_type(const struct server *srv, metric_series usage, const double *v)
{
	double sum = 0;

	for (uint32_t i = 0; i < srv->nl2; i++)
		sum += srv->l2_series[i].usage == usage ? v[i] : 0;
	return sum;
}

void below_refresh(struct server *srv)
{
	double used[CONF_LIST_MAX], capacity[CONF_LIST_MAX];
	struct metrics *m = srv->metrics;
	uint64_t evicted = 0;
	uint32_t healthy = 0;

	if (!srv->tier)
		return;
	refresh_tier(srv);
	for (uint32_t i = 0; i < srv->nl2; i++) {
		const struct below_series *s = &srv->l2_series[i];
		struct l2 *a = tier_adapter(srv->tier, i);
		struct l2_stats st;

		a->ops->stats(a, &st);
		used[i] = (double)st.used_bytes;
		capacity[i] = (double)st.capacity_bytes;
		evicted += st.evicted_objects;
		healthy += st.healthy;
		metric_series_set(m, s->in_stores, (double)st.in_flight_stores);
		metric_series_set(m, s->in_loads, (double)st.in_flight_loads);
		metric_series_set(m, s->healthy, st.healthy);
		metric_series_set(m, s->dropped, (double)st.dropped);
		metric_series_set(m, s->errors, (double)(st.load_errors + st.store_errors));
		metric_series_set(m, s->checksums, (double)st.bad_checksums);
		metric_series_set(m, s->read, (double)st.load_bytes);
		metric_series_set(m, s->written, (double)st.store_bytes);
	}
	for (uint32_t i = 0; i < srv->nl2; i++) {
		metric_series_set(m, srv->l2_series[i].usage, sum_of_type(srv, srv->l2_series[i].usage, used));
		metric_series_set(m, srv->l2_series[i].capacity, sum_of_type(srv, srv->l2_series[i].usage, capacity));
	}
	refresh_states(srv, healthy);
	metric_set(m, M_L2_EVICTED_CHUNKS, (double)evicted);
}

/* ---- configuration, /status -------------------------------------------------------------------------------------- */

json_t *below_conf_json(const struct server *srv)
{
	json_t *list = json_array();

	for (uint32_t i = 0; list && i < srv->nl2; i++) {
		if (json_array_append_new(list, l2_conf_json(srv->l2_conf[i]))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

int below_status(struct server *srv, struct status *out)
{
	struct status_below *b = &out->below;

	b->max_in_flight = srv->conf.l2_prefetch_max_in_flight;
	if (!srv->tier)
		return 0;
	b->adapters = mem_calloc(srv->nl2, sizeof(*b->adapters));
	if (!b->adapters)
		return -ENOMEM;
	tier_stats(srv->tier, &b->tier);
	for (uint32_t i = 0; i < srv->nl2; i++) {
		struct l2 *a = tier_adapter(srv->tier, i);
		struct status_adapter *s = &b->adapters[b->n++];

		s->type = a->ops->type;
		a->ops->stats(a, &s->stats);
		s->about = a->ops->describe ? a->ops->describe(a) : NULL;
		s->conf = l2_conf_json(srv->l2_conf[i]);
	}
	return 0;
}

void below_http(struct server *srv, struct http_below *out)
{
	*out = (struct http_below){.tier = srv->tier, .names = srv->names, .store = srv->store};
}
