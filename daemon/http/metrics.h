/* metrics.h - counters, gauges and histograms, declared once in metrics.def.
 *
 * A row of metrics.def is: id, kind, Prometheus name (prefix lmcache_mp_, ours lmcache_appliance_), older upstream names,
 * unit, label names, upstream generation, sentence. The export, docs/metrics.md and their test come from it. All series
 * without labels exist, as zeros, from the start.
 *
 * Threads: any, with any lock held (rank LK_METRICS is the highest). metric_add, _observe and _set, and the same on a series,
 * are lock-free (relaxed atomics, one shard per CPU) and never allocate; metric_series_get takes a lock and is called
 * when a context or a namespace appears, not per request. A call that does not fit the row's kind is ignored.
 */
#ifndef DAEMON_HTTP_METRICS_H
#define DAEMON_HTTP_METRICS_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum metric_id {
#define METRIC(id, ...) M_##id,
#include "daemon/http/metrics.def"
#undef METRIC
	METRIC_COUNT
};

struct metrics;
typedef uint32_t metric_series; /* 0 = none: adding to it is a no-op */

/* 0 or -ENOMEM. */
int metrics_create(const char *service_instance_id, bool legacy_names, struct metrics **out);
void metrics_destroy(struct metrics *m);

/* The series without labels, or for a labelled metric the one with empty label values. */
void metric_add(struct metrics *m, enum metric_id id, uint64_t v);
/* Histogram. NaN is dropped, a negative value counts as 0. */
void metric_observe(struct metrics *m, enum metric_id id, double v);
/* Gauge; or a counter that mirrors a total kept elsewhere, which then must not be added to as well. */
void metric_set(struct metrics *m, enum metric_id id, double v);

/* Label values in the order of the row; n must be their number. All empty: the series without labels. Bounded (65536 series,
 * 1024 per histogram row; beyond that everything lands in the row's overflow series with label values "other"). The handle
 * stays valid for as long as `m`. 0 when out of memory. */
metric_series metric_series_get(struct metrics *m, enum metric_id id, const struct slice *values, uint32_t n);
void metric_series_add(struct metrics *m, metric_series s, uint64_t v);
void metric_series_observe(struct metrics *m, metric_series s, double v);
void metric_series_set(struct metrics *m, metric_series s, double v);

/* Prometheus text; caller frees with free(). NULL when out of memory. */
char *metrics_render(struct metrics *m, size_t *bytes);
/* Counters and histograms to zero; gauges keep what they say. An addition at the same moment may survive or not. */
void metrics_reset(struct metrics *m);
/* Current value of a counter (of a gauge, rounded down; of a histogram, its count), summed over its series. */
uint64_t metric_value(struct metrics *m, enum metric_id id);

/* Writes docs/metrics.md from the rows. */
void metrics_write_docs(FILE *out);

#endif
