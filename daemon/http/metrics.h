/* metrics.h - counters, gauges and histograms, declared once in metrics.def.
 *
 * A row of metrics.def is: id, kind, Prometheus name (generation B, prefix lmcache_mp_), generation A alias or "", unit,
 * label names, sentence. The export, docs/metrics.md and their test come from it. All series without labels exist, as
 * zeros, from the start.
 *
 * Threads: any. metric_add and metric_observe are lock-free (relaxed atomics on a per-thread shard) and never allocate;
 * metric_series takes a lock and is called when a context or a namespace appears, not per request.
 */
#ifndef DAEMON_HTTP_METRICS_H
#define DAEMON_HTTP_METRICS_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>

enum metric_id {
#define METRIC(id, ...) M_##id,
#include "daemon/http/metrics.def"
#undef METRIC
	METRIC_COUNT
};

struct metrics;
typedef uint32_t metric_series; /* 0 = none: adding to it is a no-op */

int metrics_create(const char *service_instance_id, bool legacy_names, struct metrics **out);
void metrics_destroy(struct metrics *m);

/* The series without labels, or for a labelled metric the one with empty label values. */
void metric_add(struct metrics *m, enum metric_id id, uint64_t v);
void metric_observe(struct metrics *m, enum metric_id id, double v); /* histogram */
void metric_set(struct metrics *m, enum metric_id id, double v);     /* gauge */

/* Label values in the order of the row. Bounded (65536 series; beyond that everything lands in one overflow series with
 * label values "other"). The handle stays valid. */
metric_series metric_series_get(struct metrics *m, enum metric_id id, const struct slice *values, uint32_t n);
void metric_series_add(struct metrics *m, metric_series s, uint64_t v);
void metric_series_observe(struct metrics *m, metric_series s, double v);
void metric_series_set(struct metrics *m, metric_series s, double v);

/* Prometheus text; caller frees with free(). NULL when out of memory. */
char *metrics_render(struct metrics *m, size_t *bytes);
void metrics_reset(struct metrics *m);
/* Current value of an unlabelled counter or the sum over its series (tests, /status). */
uint64_t metric_value(struct metrics *m, enum metric_id id);

#endif
