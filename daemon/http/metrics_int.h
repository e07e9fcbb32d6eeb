/* metrics_int.h - cells, shards and series behind metrics.h.
 *
 * A row owns a run of cells: one for a counter or gauge; for a histogram its buckets, +Inf and the sum. The series
 * without label values of every row lives in the shards: one copy of all cells per CPU (rounded up to a power of two, at
 * most METRICS_MAX_SHARDS), each on cache lines of its own, added up when read. A labelled series has one copy of its
 * cells, on cache lines of its own.
 */
#ifndef DAEMON_HTTP_METRICS_INT_H
#define DAEMON_HTTP_METRICS_INT_H

#include "daemon/base/lock.h"
#include "daemon/http/metrics.h"

#include <stdatomic.h>

#define METRICS_MAX_SHARDS      64u
#define METRICS_MAX_LABELS      3u
#define METRICS_MAX_BUCKETS     32u
#define METRICS_MAX_SERIES      65536u  /* all rows together */
#define METRICS_MAX_HIST_SERIES 1024u   /* of one histogram row: each is a page of text in every scrape */
#define METRICS_VALUE_BYTES     256u    /* a longer label value is cut */
#define METRICS_HASH_SLOTS      262144u /* four times the series: never full */

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_row {
	enum metric_kind kind;
	const char *name, *aliases, *unit, *labels, *since, *help;
};

extern const struct metric_row metric_rows[METRIC_COUNT];

/* Upper bounds of a unit's buckets, without +Inf. */
struct metric_buckets {
	const double *le;
	uint32_t n;
};
struct metric_buckets metric_buckets_of(const struct metric_row *row);

bool metric_is_ours(const struct metric_row *row);
/* Names in a comma-separated list; "" has none. */
uint32_t metric_list_count(const char *list);

typedef _Atomic uint64_t metric_cell;

struct metric_labelled {
	_Atomic(struct metric_labelled *) next; /* of the same row, oldest first */
	metric_cell *cells;
	uint64_t hash;
	uint32_t row;
	char labels[]; /* as exported, without the braces */
};

struct metrics {
	char *service_instance_id;
	bool legacy_names;
	struct lk lock;                 /* creation of series */
	uint32_t first[METRIC_COUNT];   /* cell of a row within a shard */
	uint32_t ncells[METRIC_COUNT];  /* 1, or buckets + 2 */
	uint32_t nlabels[METRIC_COUNT]; /* names in the row */
	uint32_t shard_cells, nshards;
	metric_cell *shards;
	void *shards_block; /* what mem_free takes */
	_Atomic(struct metric_labelled *) head[METRIC_COUNT];
	struct metric_labelled *tail[METRIC_COUNT]; /* under lock */
	uint32_t nseries[METRIC_COUNT];             /* under lock */
	metric_series overflow[METRIC_COUNT];       /* under lock */
	struct metric_labelled **series;            /* by handle - 1 - METRIC_COUNT; a slot is written once */
	uint32_t total;                             /* under lock */
	uint32_t *slots;                            /* under lock: open addressing, index + 1 into series */
	uint64_t seed[2];                           /* label values come from outside */
};

/* Sum of a row's series without label values over all shards, or one labelled series, into out[ncells]. */
void metric_read(const struct metrics *m, uint32_t row, const struct metric_labelled *s, uint64_t *out);
/* Adds `more` to `sum` cell by cell (a histogram's last cell is a double, a gauge's only one too). */
void metric_merge(const struct metrics *m, uint32_t row, uint64_t *sum, const uint64_t *more);

double metric_double(uint64_t bits);

#endif
