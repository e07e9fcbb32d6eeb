/* metrics_series.c - labelled series: found or made under the lock, then reached by handle without it.
 *
 * The key of a series is its label text as exported, so that two values which look the same in the export are one series.
 * Label values come from engines (model names, salts): cut, made valid UTF-8, escaped, counted.
 */
#include "daemon/http/metrics_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/http/text_int.h"

#include <stdio.h>

/* Worst case: every byte becomes a three-byte replacement character; plus name, quotes, comma. */
#define LABEL_TEXT_BYTES (METRICS_MAX_LABELS * (3 * METRICS_VALUE_BYTES + 40))

struct label_text {
	char p[LABEL_TEXT_BYTES];
	uint32_t n;
};

static void put_bytes(struct label_text *t, const char *p, size_t n)
{
	check(t->n + n < sizeof t->p);
	memcpy(t->p + t->n, p, n);
	t->n += (uint32_t)n;
}

/* Exposition format 0.0.4: backslash, quote and newline are escaped; scrapers refuse NUL and invalid UTF-8, and then
 * lose the whole page. */
static void put_value(struct label_text *t, struct slice v)
{
	const char *p = v.p;
	size_t n = v.n, step;

	for (size_t used = 0; n && used < METRICS_VALUE_BYTES; p += step, n -= step, used += step) {
		step = text_utf8_len(p, n);
		if (step == 0 || *p == '\0') {
			step = 1;
			put_bytes(t, TEXT_REPLACEMENT, 3);
		} else if (*p == '\n') {
			put_bytes(t, "\\n", 2);
		} else if (*p == '\\' || *p == '"') {
			put_bytes(t, "\\", 1);
			put_bytes(t, p, 1);
		} else {
			put_bytes(t, p, step);
		}
	}
}

/* Renders a="..",b=".."; returns true when every value is empty. */
static bool label_text_make(struct label_text *t, const char *names, const struct slice *values, uint32_t n)
{
	bool empty = true;

	t->n = 0;
	for (uint32_t i = 0; i < n; i++) {
		size_t len = strcspn(names, ",");

		if (i)
			put_bytes(t, ",", 1);
		put_bytes(t, names, len);
		put_bytes(t, "=\"", 2);
		put_value(t, values[i]);
		put_bytes(t, "\"", 1);
		empty = empty && values[i].n == 0;
		names += len + (names[len] == ',');
	}
	t->p[t->n] = '\0';
	return empty;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 x = (unsigned __int128)a * b;

	return (uint64_t)x ^ (uint64_t)(x >> 64);
}

static uint64_t hash_labels(const struct metrics *m, uint32_t row, const struct label_text *t)
{
	uint64_t h = m->seed[0] ^ ((uint64_t)row << 32 | t->n);

	for (uint32_t i = 0; i < t->n; i += 8) {
		uint64_t w = 0;

		memcpy(&w, t->p + i, t->n - i < 8 ? t->n - i : 8);
		h = mix(h ^ w, m->seed[1] | 0x9e3779b97f4a7c15u);
	}
	return h;
}

/* The slot of this key, or the empty one where it belongs. The table is four times the number of series: it never fills. */
static uint32_t *find_slot(struct metrics *m, uint32_t row, uint64_t hash, const struct label_text *t)
{
	for (uint32_t i = (uint32_t)hash % METRICS_HASH_SLOTS;; i = (i + 1) % METRICS_HASH_SLOTS) {
		const struct metric_labelled *s = m->slots[i] ? m->series[m->slots[i] - 1] : NULL;

		if (!s || (s->hash == hash && s->row == row && strcmp(s->labels, t->p) == 0))
			return &m->slots[i];
	}
}

/* One block: the head, the label text, and the cells on cache lines of their own. */
static struct metric_labelled *labelled_alloc(const struct metrics *m, uint32_t row, const struct label_text *t)
{
	size_t head = sizeof(struct metric_labelled) + t->n + 1;
	size_t cells = ((size_t)m->ncells[row] * sizeof(metric_cell) + 63) & ~(size_t)63;
	struct metric_labelled *s = mem_calloc(1, head + 63 + cells);

	if (!s)
		return NULL;
	s->cells = (metric_cell *)(((uintptr_t)s + head + 63) & ~(uintptr_t)63);
	s->row = row;
	memcpy(s->labels, t->p, t->n + 1);
	return s;
}

static metric_series series_add(struct metrics *m, uint32_t row, uint64_t hash, uint32_t *slot,
				const struct label_text *t)
{
	struct metric_labelled *s = labelled_alloc(m, row, t);

	if (!s)
		return 0;
	s->hash = hash;
	m->series[m->total++] = s;
	*slot = m->total;
	m->nseries[row]++;
	/* The release makes the filled-in series visible to renders, which walk the list without the lock. */
	if (m->tail[row])
		atomic_store_explicit(&m->tail[row]->next, s, memory_order_release);
	else
		atomic_store_explicit(&m->head[row], s, memory_order_release);
	m->tail[row] = s;
	return METRIC_COUNT + m->total;
}

static bool is_full(const struct metrics *m, uint32_t row)
{
	return m->total >= METRICS_MAX_SERIES ||
	       (metric_rows[row].kind == METRIC_HISTOGRAM && m->nseries[row] >= METRICS_MAX_HIST_SERIES);
}

static metric_series overflow_get(struct metrics *m, uint32_t row)
{
	struct slice other[METRICS_MAX_LABELS];
	struct label_text t;
	uint64_t hash;
	uint32_t *slot;

	if (m->overflow[row])
		return m->overflow[row];
	for (uint32_t i = 0; i < METRICS_MAX_LABELS; i++)
		other[i] = slice_str("other");
	label_text_make(&t, metric_rows[row].labels, other, m->nlabels[row]);
	hash = hash_labels(m, row, &t);
	slot = find_slot(m, row, hash, &t);
	m->overflow[row] = *slot ? METRIC_COUNT + *slot : series_add(m, row, hash, slot, &t);
	return m->overflow[row];
}

metric_series metric_series_get(struct metrics *m, enum metric_id id, const struct slice *values, uint32_t n)
{
	struct label_text t;
	metric_series out;
	uint32_t *slot;
	uint64_t hash;

	check(n == m->nlabels[id] && n <= METRICS_MAX_LABELS);
	if (label_text_make(&t, metric_rows[id].labels, values, n))
		return (metric_series)id + 1;
	hash = hash_labels(m, id, &t);
	lk_lock(&m->lock);
	slot = find_slot(m, id, hash, &t);
	if (*slot)
		out = METRIC_COUNT + *slot;
	else if (is_full(m, id))
		out = overflow_get(m, id);
	else
		out = series_add(m, id, hash, slot, &t);
	lk_unlock(&m->lock);
	return out;
}
