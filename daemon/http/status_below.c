/* status_below.c - tier and adapters as JSON. A broken adapter is told here and in its metrics; it does not make the server unhealthy,
 * since lookups then miss and engines compute. */
#include "daemon/http/status_below.h"

#include "daemon/base/mem.h"

#include <string.h>

#define STUCK_S 30 /* the tier's thread turned no round for so long */

void status_below_free(struct status_below *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		json_decref(b->adapters[i].about);
		json_decref(b->adapters[i].conf);
	}
	mem_free(b->adapters);
	b->adapters = NULL;
	b->n = 0;
}

static json_t *num(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static bool alive(const struct status_below *b)
{
	return !b->n || b->tier.last_progress_s < STUCK_S;
}

json_t *status_store_controller(const struct status_below *b)
{
	uint64_t writing = 0;

	for (uint32_t i = 0; i < b->n; i++)
		writing += b->adapters[i].stats.in_flight_stores;
	return json_pack("{s:b s:b s:o s:o s:i s:i s:i}", "is_healthy", alive(b), "thread_alive", alive(b),
			 "pending_keys_count", num(b->tier.dirty_objects), "in_flight_task_count", num(writing),
			 "num_l2_adapters", (int)b->n, "num_active_adapters", (int)b->n, "num_draining_adapters", 0);
}

json_t *status_prefetch_controller(const struct status_below *b)
{
	return json_pack("{s:b s:b s:i s:o s:o s:o s:i s:o s:i s:i}", "is_healthy", alive(b), "thread_alive", alive(b),
			 "max_in_flight", (int)b->max_in_flight, "submission_queue_size", num(b->tier.jobs_waiting),
			 "pending_queue_size", num(b->tier.jobs_waiting), "in_flight_request_count",
			 num(b->tier.jobs_loading), "lookup_phase_count", 0, "load_phase_count",
			 num(b->tier.jobs_loading), "completed_results_count", 0, "num_l2_adapters", (int)b->n);
}

static double ratio(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0.0;
}

/* Adapters that were told how to evict; one whose capacity is its format (raw_block) evicts by itself and is not listed. */
static json_t *eviction_of(const struct status_adapter *a)
{
	json_t *e = json_object_get(a->conf, "eviction"), *policy, *mark, *share;

	if (!json_is_object(e))
		return NULL;
	policy = json_object_get(e, "eviction_policy");
	mark = json_object_get(e, "trigger_watermark");
	share = json_object_get(e, "eviction_ratio");
	return json_pack("{s:s s:f s:f s:f s:o s:o s:i}", "eviction_policy",
			 json_is_string(policy) ? json_string_value(policy) : "LRU", "trigger_watermark",
			 json_is_number(mark) ? json_number_value(mark) : 0.8, "eviction_ratio",
			 json_is_number(share) ? json_number_value(share) : 0.2, "current_usage",
			 ratio(a->stats.used_bytes, a->stats.capacity_bytes), "total_bytes_used",
			 num(a->stats.used_bytes), "total_capacity_bytes", num(a->stats.capacity_bytes),
			 "num_cache_salt_buckets", 0);
}

json_t *status_l2_eviction_controller(const struct status_below *b)
{
	json_t *list = json_array();

	for (uint32_t i = 0; list && i < b->n; i++) {
		json_t *e = eviction_of(&b->adapters[i]);

		if (e && json_array_append_new(list, e)) {
			json_decref(list);
			list = NULL;
		}
	}
	return json_pack("{s:b s:b s:o}", "is_healthy", alive(b), "thread_alive", alive(b), "adapters", list);
}

/* Keys of upstream's first, then what the adapter says of itself, which must not change them. */
static json_t *adapter(const struct status_adapter *a)
{
	const struct l2_stats *s = &a->stats;
	json_t *base = json_object_get(a->conf, "base_path"), *out;

	if (!base)
		base = json_object_get(a->conf, "device_path");
	out = json_pack("{s:s s:b s:s s:o s:o s:o s:O*}", "type", a->type, "is_healthy", s->healthy, "state", s->state,
			"stored_object_count", num(s->objects), "max_capacity_bytes", num(s->capacity_bytes),
			"current_size_bytes", num(s->used_bytes), "base_path", base);
	json_t *counts = json_pack(
		"{s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o}", "loads", num(s->loads), "load_bytes",
		num(s->load_bytes), "load_errors", num(s->load_errors), "load_misses", num(s->load_misses),
		"bad_checksums", num(s->bad_checksums), "stores", num(s->stores), "store_bytes", num(s->store_bytes),
		"store_errors", num(s->store_errors), "dropped", num(s->dropped), "evicted_object_count",
		num(s->evicted_objects), "evicted_bytes", num(s->evicted_bytes), "in_flight_loads",
		num(s->in_flight_loads), "in_flight_stores", num(s->in_flight_stores), "queued", num(s->queued));

	if (!out || !counts || json_object_update_missing(out, counts) ||
	    (a->about && json_object_update_missing(out, a->about))) {
		json_decref(out);
		out = NULL;
	}
	json_decref(counts);
	return out;
}

json_t *status_l2_adapters(const struct status_below *b)
{
	json_t *list = json_array();

	for (uint32_t i = 0; list && i < b->n; i++) {
		if (json_array_append_new(list, adapter(&b->adapters[i]))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

json_t *status_tier(const struct status_below *b)
{
	const struct tier_stats *t = &b->tier;

	return json_pack("{s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o s:o}", "stored_objects",
			 num(t->stored_objects), "store_failed", num(t->store_failed), "store_dropped",
			 num(t->store_dropped), "store_present", num(t->store_present), "not_admitted",
			 num(t->not_admitted), "jobs", num(t->jobs), "lookup_objects", num(t->lookup_objects),
			 "hit_objects", num(t->hit_objects), "loaded_objects", num(t->loaded_objects), "load_failed",
			 num(t->load_failed), "late_jobs", num(t->late_jobs), "coalesced", num(t->coalesced),
			 "dirty_bytes", num(t->dirty_bytes), "loading_bytes", num(t->loading_bytes),
			 "quarantined_bytes", num(t->quarantined_bytes));
}
