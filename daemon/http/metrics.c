/* metrics.c - the hot half: cells and what adds to them. */
#include "daemon/http/metrics_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

const struct metric_row metric_rows[METRIC_COUNT] = {
#define METRIC(id, kind, ...) [M_##id] = {METRIC_##kind, __VA_ARGS__},
#include "daemon/http/metrics.def"
#undef METRIC
};

/* A request here takes from ten microseconds (PING) to seconds, a chunk lives from seconds to days. Upstream sets no bounds,
 * which leaves the SDK's 0, 5, 10, 25 ... 10000: useless for both. */
static const double seconds_le[] = {1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3,  2.5e-3, 5e-3,
				    1e-2, 2.5e-2, 5e-2, 0.1,  0.25,   0.5,  1,     2.5,    5,
				    10,   30,     60,   300,  900,    3600, 14400, 86400};
static const double gbs_le[] = {0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25, 32, 40, 50, 64, 100, 200, 400};

_Static_assert(sizeof seconds_le / sizeof *seconds_le <= METRICS_MAX_BUCKETS, "buckets fit");
_Static_assert(sizeof gbs_le / sizeof *gbs_le <= METRICS_MAX_BUCKETS, "buckets fit");

struct metric_buckets metric_buckets_of(const struct metric_row *row)
{
	if (row->kind != METRIC_HISTOGRAM)
		return (struct metric_buckets){NULL, 0};
	if (strcmp(row->unit, "GB_per_second") == 0)
		return (struct metric_buckets){gbs_le, sizeof gbs_le / sizeof *gbs_le};
	return (struct metric_buckets){seconds_le, sizeof seconds_le / sizeof *seconds_le};
}

bool metric_is_ours(const struct metric_row *row)
{
	return strcmp(row->since, "ours") == 0;
}

uint32_t metric_list_count(const char *list)
{
	uint32_t n = *list != '\0';

	for (; *list; list++)
		n += *list == ',';
	return n;
}

double metric_double(uint64_t bits)
{
	double v;

	memcpy(&v, &bits, sizeof v);
	return v;
}

static uint64_t double_bits(double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof bits);
	return bits;
}

/* ---- creation ------------------------------------------------------------------------------------------------ */

static uint32_t shard_count(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	uint32_t n = 1;

	while (n < METRICS_MAX_SHARDS && (long)n < cpus)
		n *= 2;
	return n;
}

static void lay_out_cells(struct metrics *m)
{
	uint32_t at = 0;

	for (uint32_t r = 0; r < METRIC_COUNT; r++) {
		struct metric_buckets b = metric_buckets_of(&metric_rows[r]);

		m->first[r] = at;
		m->ncells[r] = b.n ? b.n + 2 : 1;
		m->nlabels[r] = metric_list_count(metric_rows[r].labels);
		at += m->ncells[r];
	}
	m->shard_cells = (at + 15) & ~15u; /* two cache lines: the neighbour is prefetched along */
}

static int alloc_tables(struct metrics *m)
{
	size_t shard_bytes = (size_t)m->shard_cells * sizeof(metric_cell);

	m->shards_block = mem_calloc(1, shard_bytes * m->nshards + 128);
	m->series = mem_calloc(METRICS_MAX_SERIES + METRIC_COUNT, sizeof(void *));
	m->slots = mem_calloc(METRICS_HASH_SLOTS, sizeof *m->slots);
	if (!m->shards_block || !m->series || !m->slots)
		return -ENOMEM;
	m->shards = (metric_cell *)(((uintptr_t)m->shards_block + 127) & ~(uintptr_t)127);
	return 0;
}

int metrics_create(const char *service_instance_id, bool legacy_names, struct metrics **out)
{
	struct metrics *m = mem_calloc(1, sizeof *m);

	if (!m)
		return -ENOMEM;
	lk_init(&m->lock, LK_METRICS);
	m->legacy_names = legacy_names;
	m->nshards = shard_count();
	lay_out_cells(m);
	m->service_instance_id = mem_strndup(service_instance_id, strlen(service_instance_id));
	if (!m->service_instance_id || alloc_tables(m)) {
		metrics_destroy(m);
		return -ENOMEM;
	}
	/* Without entropy the seed is the heap's address: enough, as the table only must not be predictable from afar. */
	if (getrandom(m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed)
		m->seed[0] ^= (uintptr_t)m;
	*out = m;
	return 0;
}

void metrics_destroy(struct metrics *m)
{
	if (!m)
		return;
	for (uint32_t i = 0; i < m->total; i++)
		mem_free(m->series[i]);
	mem_free(m->slots);
	mem_free(m->series);
	mem_free(m->shards_block);
	mem_free(m->service_instance_id);
	lk_destroy(&m->lock);
	mem_free(m);
}

/* ---- adding -------------------------------------------------------------------------------------------------- */

/* The CPU's shard. A thread that moves between the question and the addition only shares a cache line once. */
static metric_cell *base_cells(const struct metrics *m, uint32_t row)
{
	uint32_t cpu = (uint32_t)sched_getcpu();

	return m->shards + (size_t)(cpu & (m->nshards - 1)) * m->shard_cells + m->first[row];
}

/* Gauges, and counters that mirror a total kept elsewhere, are set: one place, the first shard. */
static metric_cell *set_cell(const struct metrics *m, uint32_t row)
{
	return m->shards + m->first[row];
}

static const struct metric_labelled *labelled(const struct metrics *m, metric_series s)
{
	return m->series[s - 1 - METRIC_COUNT];
}

static void add(metric_cell *cell, uint64_t v)
{
	atomic_fetch_add_explicit(cell, v, memory_order_relaxed);
}

static void add_double(metric_cell *cell, double v)
{
	uint64_t old = atomic_load_explicit(cell, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(cell, &old, double_bits(metric_double(old) + v),
						      memory_order_relaxed, memory_order_relaxed))
		;
}

static void observe(uint32_t row, metric_cell *cells, double v)
{
	struct metric_buckets b = metric_buckets_of(&metric_rows[row]);
	uint32_t lo = 0, hi = b.n;

	if (!b.n || isnan(v))
		return;
	if (!(v > 0))
		v = 0;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (v <= b.le[mid])
			hi = mid;
		else
			lo = mid + 1;
	}
	add(&cells[lo], 1);
	if (isfinite(v)) /* one infinite sample would make the sum useless for ever */
		add_double(&cells[b.n + 1], v);
}

static void set(uint32_t row, metric_cell *cell, double v)
{
	uint64_t bits;

	if (metric_rows[row].kind == METRIC_HISTOGRAM)
		return;
	if (metric_rows[row].kind == METRIC_COUNTER)
		bits = v > 0 ? (v < 0x1p64 ? (uint64_t)v : UINT64_MAX) : 0;
	else
		bits = double_bits(v);
	atomic_store_explicit(cell, bits, memory_order_relaxed);
}

void metric_add(struct metrics *m, enum metric_id id, uint64_t v)
{
	if (metric_rows[id].kind == METRIC_COUNTER)
		add(base_cells(m, id), v);
}

void metric_observe(struct metrics *m, enum metric_id id, double v)
{
	observe(id, base_cells(m, id), v);
}

void metric_set(struct metrics *m, enum metric_id id, double v)
{
	set(id, set_cell(m, id), v);
}

void metric_series_add(struct metrics *m, metric_series s, uint64_t v)
{
	if (!s)
		return;
	if (s <= METRIC_COUNT)
		metric_add(m, (enum metric_id)(s - 1), v);
	else if (metric_rows[labelled(m, s)->row].kind == METRIC_COUNTER)
		add(labelled(m, s)->cells, v);
}

void metric_series_observe(struct metrics *m, metric_series s, double v)
{
	if (!s)
		return;
	if (s <= METRIC_COUNT)
		metric_observe(m, (enum metric_id)(s - 1), v);
	else
		observe(labelled(m, s)->row, labelled(m, s)->cells, v);
}

void metric_series_set(struct metrics *m, metric_series s, double v)
{
	if (!s)
		return;
	if (s <= METRIC_COUNT)
		metric_set(m, (enum metric_id)(s - 1), v);
	else
		set(labelled(m, s)->row, labelled(m, s)->cells, v);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

void metric_merge(const struct metrics *m, uint32_t row, uint64_t *sum, const uint64_t *more)
{
	bool last_is_double = metric_rows[row].kind != METRIC_COUNTER;
	uint32_t n = m->ncells[row];

	for (uint32_t i = 0; i < n; i++) {
		if (last_is_double && i == n - 1)
			sum[i] = double_bits(metric_double(sum[i]) + metric_double(more[i]));
		else
			sum[i] += more[i];
	}
}

static void load(const metric_cell *cells, uint32_t n, uint64_t *out)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = atomic_load_explicit(&cells[i], memory_order_relaxed);
}

void metric_read(const struct metrics *m, uint32_t row, const struct metric_labelled *s, uint64_t *out)
{
	uint64_t part[METRICS_MAX_BUCKETS + 2] = {0};

	if (s) {
		load(s->cells, m->ncells[row], out);
		return;
	}
	load(m->shards + m->first[row], m->ncells[row], out);
	for (uint32_t i = 1; i < m->nshards; i++) {
		load(m->shards + (size_t)i * m->shard_cells + m->first[row], m->ncells[row], part);
		metric_merge(m, row, out, part);
	}
}

static uint64_t value_of(const struct metrics *m, uint32_t row, const uint64_t *cells)
{
	uint64_t n = 0;

	if (metric_rows[row].kind == METRIC_COUNTER)
		return cells[0];
	if (metric_rows[row].kind == METRIC_GAUGE) {
		double v = metric_double(cells[0]);
		return v > 0 ? (v < 0x1p64 ? (uint64_t)v : UINT64_MAX) : 0;
	}
	for (uint32_t i = 0; i + 1 < m->ncells[row]; i++)
		n += cells[i];
	return n;
}

uint64_t metric_value(struct metrics *m, enum metric_id id)
{
	uint64_t cells[METRICS_MAX_BUCKETS + 2] = {0}, sum;

	metric_read(m, id, NULL, cells);
	sum = value_of(m, id, cells);
	for (struct metric_labelled *s = atomic_load_explicit(&m->head[id], memory_order_acquire); s;
	     s = atomic_load_explicit(&s->next, memory_order_acquire)) {
		metric_read(m, id, s, cells);
		sum += value_of(m, id, cells);
	}
	return sum;
}

static void zero(metric_cell *cells, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		atomic_store_explicit(&cells[i], 0, memory_order_relaxed);
}

void metrics_reset(struct metrics *m)
{
	for (uint32_t r = 0; r < METRIC_COUNT; r++) {
		if (metric_rows[r].kind == METRIC_GAUGE)
			continue;
		for (uint32_t i = 0; i < m->nshards; i++)
			zero(m->shards + (size_t)i * m->shard_cells + m->first[r], m->ncells[r]);
		for (struct metric_labelled *s = atomic_load_explicit(&m->head[r], memory_order_acquire); s;
		     s = atomic_load_explicit(&s->next, memory_order_acquire))
			zero(s->cells, m->ncells[r]);
	}
}
