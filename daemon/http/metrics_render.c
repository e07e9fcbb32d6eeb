/* metrics_render.c - the Prometheus page (text format 0.0.4) and docs/metrics.md, both from the rows.
 *
 * A render takes no lock: series are only ever appended, and cells are read one by one. A histogram's count is the sum of
 * the buckets read, so the page always agrees with itself.
 */
#include "daemon/http/metrics_int.h"

#include "daemon/base/mem.h"
#include "daemon/http/text_int.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const kind_names[] = {"counter", "gauge", "histogram"};

static const char *prefix_of(const struct metric_row *row)
{
	return metric_is_ours(row) ? "lmcache_appliance_" : "lmcache_mp_";
}

/* One name under which a row is exported. */
struct exported {
	char name[128];
	bool with_labels;
};

/* Takes the next alias off the list; false at its end. */
static bool next_alias(const char **list, struct exported *out)
{
	size_t len = strcspn(*list, ",");

	if (!len)
		return false;
	out->with_labels = len > 2 && strncmp(*list + len - 2, "{}", 2) == 0;
	snprintf(out->name, sizeof out->name, "lmcache_mp_%.*s", (int)(out->with_labels ? len - 2 : len), *list);
	*list += len + ((*list)[len] == ',');
	return true;
}

static void put_labels(struct text *t, const char *labels, const char *le)
{
	if (!*labels && !le)
		return;
	text_fmt(t, "{");
	text_put(t, labels, strlen(labels));
	if (le)
		text_fmt(t, "%sle=\"%s\"", *labels ? "," : "", le);
	text_fmt(t, "}");
}

static void put_histogram(struct text *t, const struct metric_row *row, const char *name, const char *labels,
			  const uint64_t *cells)
{
	struct metric_buckets b = metric_buckets_of(row);
	uint64_t below = 0;
	char le[32];

	for (uint32_t i = 0; i <= b.n; i++) {
		below += cells[i];
		if (i < b.n)
			snprintf(le, sizeof le, "%g", b.le[i]);
		text_fmt(t, "%s_bucket", name);
		put_labels(t, labels, i < b.n ? le : "+Inf");
		text_fmt(t, " %" PRIu64 "\n", below);
	}
	text_fmt(t, "%s_sum", name);
	put_labels(t, labels, NULL);
	text_fmt(t, " ");
	text_double(t, metric_double(cells[b.n + 1]));
	text_fmt(t, "\n%s_count", name);
	put_labels(t, labels, NULL);
	text_fmt(t, " %" PRIu64 "\n", below);
}

static void put_series(struct text *t, const struct metric_row *row, const char *name, const char *labels,
		       const uint64_t *cells)
{
	if (row->kind == METRIC_HISTOGRAM) {
		put_histogram(t, row, name, labels, cells);
		return;
	}
	text_fmt(t, "%s", name);
	put_labels(t, labels, NULL);
	text_fmt(t, " ");
	if (row->kind == METRIC_COUNTER)
		text_fmt(t, "%" PRIu64, cells[0]);
	else
		text_double(t, metric_double(cells[0]));
	text_fmt(t, "\n");
}

static bool any_set(const uint64_t *cells, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (cells[i])
			return true;
	return false;
}

static struct metric_labelled *first_of(const struct metrics *m, uint32_t row)
{
	return atomic_load_explicit(&m->head[row], memory_order_acquire);
}

static struct metric_labelled *next_of(struct metric_labelled *s)
{
	return atomic_load_explicit(&s->next, memory_order_acquire);
}

/* The empty-valued series of a labelled row: written as a bare name, which to Prometheus is the same thing. A counter's is
 * always there (absent() alerts, rates from the first event); that of a gauge or histogram only once it was used. */
static void put_all_series(struct text *t, const struct metrics *m, uint32_t r, const char *name)
{
	const struct metric_row *row = &metric_rows[r];
	uint64_t cells[METRICS_MAX_BUCKETS + 2] = {0};

	metric_read(m, r, NULL, cells);
	if (m->nlabels[r] == 0 || row->kind == METRIC_COUNTER || any_set(cells, m->ncells[r]))
		put_series(t, row, name, "", cells);
	for (struct metric_labelled *s = first_of(m, r); s; s = next_of(s)) {
		metric_read(m, r, s, cells);
		put_series(t, row, name, s->labels, cells);
	}
}

static void put_sum(struct text *t, const struct metrics *m, uint32_t r, const char *name)
{
	uint64_t cells[METRICS_MAX_BUCKETS + 2] = {0}, more[METRICS_MAX_BUCKETS + 2] = {0};

	metric_read(m, r, NULL, cells);
	for (struct metric_labelled *s = first_of(m, r); s; s = next_of(s)) {
		metric_read(m, r, s, more);
		metric_merge(m, r, cells, more);
	}
	put_series(t, &metric_rows[r], name, "", cells);
}

static void put_family(struct text *t, const struct metrics *m, uint32_t r, const struct exported *e)
{
	text_fmt(t, "# HELP %s %s\n# TYPE %s %s\n", e->name, metric_rows[r].help, e->name,
		 kind_names[metric_rows[r].kind]);
	if (e->with_labels)
		put_all_series(t, m, r, e->name);
	else
		put_sum(t, m, r, e->name);
}

static void put_row(struct text *t, const struct metrics *m, uint32_t r)
{
	const struct metric_row *row = &metric_rows[r];
	struct exported e = {.with_labels = true};
	const char *aliases = row->aliases;

	if (strcmp(row->since, "A") == 0 && !m->legacy_names)
		return;
	snprintf(e.name, sizeof e.name, "%s%s", prefix_of(row), row->name);
	put_family(t, m, r, &e);
	while (m->legacy_names && next_alias(&aliases, &e))
		put_family(t, m, r, &e);
}

static void put_target_info(struct text *t, const struct metrics *m)
{
	text_fmt(t, "# HELP target_info Target metadata\n# TYPE target_info gauge\ntarget_info{service_instance_id=\"");
	for (const char *p = m->service_instance_id; *p; p++) {
		if (*p == '\n')
			text_put(t, "\\n", 2);
		else
			text_fmt(t, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
	}
	text_fmt(t, "\"} 1\n");
}

char *metrics_render(struct metrics *m, size_t *bytes)
{
	struct text t = {0};

	put_target_info(&t, m);
	for (uint32_t r = 0; r < METRIC_COUNT; r++)
		put_row(&t, m, r);
	if (t.failed) {
		mem_free(t.p);
		return NULL;
	}
	*bytes = t.n;
	return t.p;
}

/* ---- docs/metrics.md ------------------------------------------------------------------------------------------ */

static void doc_code_list(FILE *out, const char *list, const char *prefix)
{
	for (bool first = true; *list; first = false) {
		size_t len = strcspn(list, ",");
		size_t shown = len > 2 && strncmp(list + len - 2, "{}", 2) == 0 ? len - 2 : len;

		fprintf(out, "%s`%s%.*s`", first ? "" : ", ", prefix, (int)shown, list);
		list += len + (list[len] == ',');
	}
}

static void doc_buckets(FILE *out, const char *unit, const char *what)
{
	struct metric_buckets b = metric_buckets_of(&(struct metric_row){.kind = METRIC_HISTOGRAM, .unit = unit});

	fprintf(out, "* %s:", what);
	for (uint32_t i = 0; i < b.n; i++)
		fprintf(out, " %g", b.le[i]);
	fprintf(out, " +Inf\n");
}

static void doc_head(FILE *out)
{
	fprintf(out,
		"# Metrics\n\n"
		"Written from `daemon/http/metrics.def`; do not edit. `GET /metrics` serves them in the Prometheus "
		"text "
		"format 0.0.4,\n`POST /metrics/reset` sets counters and histograms (not gauges) to zero.\n\n"
		"* Series exist as zeros from the start. A labelled counter also has one series without labels: it is "
		"what was counted\n  where the label was empty (the empty cache salt, say).\n"
		"* Older names of the same figure are exported beside the newer ones unless legacy metrics are "
		"switched "
		"off. An old name\n  carries no labels (it is the sum over them), except where upstream's did.\n"
		"* Since: the upstream generation a name is from. A: LMCache 0.4.4 to about 0.4.7; B: later; S4: "
		"autumn "
		"2026; ours: no\n  counterpart upstream.\n"
		"* Label values are cut at 256 bytes; bytes that are not UTF-8 become U+FFFD. Beyond 65536 series, and "
		"beyond 1024 of one\n  histogram, new ones land in one series whose labels are all `other`.\n"
		"* `target_info{service_instance_id=\"...\"}` names the server (`--instance-id`).\n\n"
		"Buckets:\n\n");
	doc_buckets(out, "seconds", "seconds");
	doc_buckets(out, "GB_per_second", "GB per second (1e9 bytes)");
}

void metrics_write_docs(FILE *out)
{
	doc_head(out);
	fprintf(out, "\n| Name | Type | Labels | Since | Older names | Meaning |\n|---|---|---|---|---|---|\n");
	for (uint32_t r = 0; r < METRIC_COUNT; r++) {
		const struct metric_row *row = &metric_rows[r];

		fprintf(out, "| `%s%s` | %s | ", prefix_of(row), row->name, kind_names[row->kind]);
		doc_code_list(out, row->labels, "");
		fprintf(out, " | %s | ", row->since);
		doc_code_list(out, row->aliases, "lmcache_mp_");
		fprintf(out, " | %s |\n", row->help);
	}
}
