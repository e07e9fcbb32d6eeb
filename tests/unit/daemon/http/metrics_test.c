/* Metrics: values, series, bounds, the exported page, the generated page of docs, and all of it under threads. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/mem.h"
#include "daemon/http/metrics.h"

static struct metrics *make(bool legacy)
{
	struct metrics *m = NULL;

	assert_int_equal(metrics_create("test-instance", legacy, &m), 0);
	return m;
}

static char *page_of(struct metrics *m)
{
	size_t n = 0;
	char *page = metrics_render(m, &n);

	assert_non_null(page);
	assert_int_equal(strlen(page), n);
	assert_int_equal(page[n - 1], '\n');
	return page;
}

/* A whole line of the page. */
static bool has_line(const char *page, const char *line)
{
	size_t n = strlen(line);

	for (const char *p = page; (p = strstr(p, line)); p++)
		if ((p == page || p[-1] == '\n') && p[n] == '\n')
			return true;
	return false;
}

#define assert_line(page, line)                                           \
	do {                                                              \
		if (!has_line(page, line))                                \
			fail_msg("no line \"%s\" in:\n%s", line, (page)); \
	} while (0)

static uint32_t count_of(const char *page, const char *text)
{
	uint32_t n = 0;

	for (const char *p = page; (p = strstr(p, text)); p++)
		n++;
	return n;
}

static void t01_counts(void **state)
{
	struct metrics *m = make(true);

	(void)state;
	assert_int_equal(metric_value(m, M_SM_READ_REQUESTS), 0);
	metric_add(m, M_SM_READ_REQUESTS, 1);
	metric_add(m, M_SM_READ_REQUESTS, UINT64_C(1) << 40);
	assert_int_equal(metric_value(m, M_SM_READ_REQUESTS), (UINT64_C(1) << 40) + 1);
	metric_set(m, M_L1_OBJECTS, 12.0);
	metric_set(m, M_L1_OBJECTS, 7.5);
	assert_int_equal(metric_value(m, M_L1_OBJECTS), 7);
	metric_set(m, M_L1_SPILL_BYTES, 4096.0);
	assert_int_equal(metric_value(m, M_L1_SPILL_BYTES), 4096);
	metrics_destroy(m);
}

static void t02_calls_of_the_wrong_kind_change_nothing(void **state)
{
	struct metrics *m = make(true);
	char *before = page_of(m), *after;

	(void)state;
	metric_add(m, M_L1_OBJECTS, 5);
	metric_add(m, M_L1_CHUNK_LIFETIME, 5);
	metric_observe(m, M_SM_READ_REQUESTS, 1.0);
	metric_observe(m, M_L1_OBJECTS, 1.0);
	metric_set(m, M_L1_CHUNK_LIFETIME, 3.0);
	metric_series_add(m, 0, 1);
	metric_series_observe(m, 0, 1.0);
	metric_series_set(m, 0, 1.0);
	after = page_of(m);
	assert_string_equal(before, after);
	free(before);
	free(after);
	metrics_destroy(m);
}

static void t03_zeros_from_the_start(void **state)
{
	struct metrics *m = make(true);
	char *page = page_of(m);

	(void)state;
	assert_line(page, "# TYPE target_info gauge");
	assert_line(page, "target_info{service_instance_id=\"test-instance\"} 1");
	assert_line(page, "# TYPE lmcache_mp_l1_read_chunks_total counter");
	assert_line(page, "lmcache_mp_l1_read_chunks_total 0");
	assert_line(page, "# TYPE lmcache_mp_l1_read_keys_total counter");
	assert_line(page, "lmcache_mp_l1_read_keys_total 0");
	assert_line(page, "lmcache_mp_sm_read_requests_total 0");
	assert_line(page, "lmcache_mp_l1_usage_ratio 0");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"1e-05\"} 0");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"+Inf\"} 0");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_sum 0");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_count 0");
	assert_line(page, "lmcache_appliance_prefix_cache_hits_total 0");
	/* A labelled gauge or histogram says nothing before it was used. */
	assert_false(has_line(page, "lmcache_appliance_queue_depth 0"));
	assert_null(strstr(page, "lmcache_mp_l0_l1_store_throughput_gbs_bucket"));
	free(page);
	metrics_destroy(m);
}

static void t04_every_row_once_with_help_and_type(void **state)
{
	static const char *const names[] = {
#define METRIC(id, kind, name, ...) name,
#include "daemon/http/metrics.def"
#undef METRIC
	};
	struct metrics *m = make(true);
	char *page = page_of(m), line[256];

	(void)state;
	for (uint32_t i = 0; i < METRIC_COUNT; i++) {
		snprintf(line, sizeof line, "_%s ", names[i]);
		assert_true(count_of(page, line) >= 2); /* HELP and TYPE */
	}
	assert_int_equal(count_of(page, "# HELP "), count_of(page, "# TYPE "));
	/* No name is announced twice: a scraper refuses the page. */
	for (const char *p = page; (p = strstr(p, "# TYPE ")); p += 7) {
		snprintf(line, sizeof line, "%.*s", (int)strcspn(p, "\n"), p);
		strrchr(line, ' ')[1] = '\0';
		assert_int_equal(count_of(page, line), 1);
	}
	free(page);
	metrics_destroy(m);
}

static void t05_series_and_their_alias(void **state)
{
	struct metrics *m = make(true);
	struct slice a = slice_str("tenant-a"), b = slice_str("tenant-b"), none = slice_of(NULL, 0);
	metric_series sa = metric_series_get(m, M_L1_READ_CHUNKS, &a, 1);
	metric_series sb = metric_series_get(m, M_L1_READ_CHUNKS, &b, 1);
	char *page;

	(void)state;
	assert_true(sa && sb && sa != sb);
	assert_int_equal(metric_series_get(m, M_L1_READ_CHUNKS, &a, 1), sa);
	assert_int_not_equal(metric_series_get(m, M_L1_WRITE_CHUNKS, &a, 1), sa);
	metric_series_add(m, sa, 3);
	metric_series_add(m, sb, 4);
	metric_series_add(m, metric_series_get(m, M_L1_READ_CHUNKS, &none, 1), 10);
	metric_add(m, M_L1_READ_CHUNKS, 100);
	page = page_of(m);
	assert_line(page, "lmcache_mp_l1_read_chunks_total 110");
	assert_line(page, "lmcache_mp_l1_read_chunks_total{cache_salt=\"tenant-a\"} 3");
	assert_line(page, "lmcache_mp_l1_read_chunks_total{cache_salt=\"tenant-b\"} 4");
	assert_line(page, "lmcache_mp_l1_read_keys_total 117");
	assert_int_equal(count_of(page, "\nlmcache_mp_l1_read_keys_total"), 1);
	assert_int_equal(metric_value(m, M_L1_READ_CHUNKS), 117);
	free(page);
	metrics_destroy(m);
}

static void t06_histograms_with_labels(void **state)
{
	struct metrics *m = make(true);
	struct slice v[3] = {slice_str("e1"), slice_str("cpu"), slice_str("org/model")};
	metric_series s = metric_series_get(m, M_L0_L1_STORE_THROUGHPUT, v, 3);
	const double samples[] = {0.1, 0.10001, 8.0, 5000.0, INFINITY, -3.0, NAN};
	static const char *const names[] = {"lmcache_mp_l0_l1_store_throughput_GB_per_second",
					    "lmcache_mp_l0_l1_store_throughput_gbs",
					    "lmcache_mp_l0_l1_store_throughput_GBs"};
	char *page, line[256];

	(void)state;
	for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
		metric_series_observe(m, s, samples[i]);
	page = page_of(m);
	for (int i = 0; i < 3; i++) {
		const char *l = "engine_id=\"e1\",device=\"cpu\",model_name=\"org/model\"";
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"0.1\"} 2", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"0.25\"} 3", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"6\"} 3", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"8\"} 4", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"400\"} 4", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_bucket{%s,le=\"+Inf\"} 6", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_sum{%s} 5008.20001", names[i], l);
		assert_line(page, line);
		snprintf(line, sizeof line, "%s_count{%s} 6", names[i], l);
		assert_line(page, line);
	}
	assert_int_equal(metric_value(m, M_L0_L1_STORE_THROUGHPUT), 6);
	free(page);
	metrics_destroy(m);
}

static void t07_bounds_belong_to_their_bucket(void **state)
{
	struct metrics *m = make(false);
	char *page;

	(void)state;
	metric_observe(m, M_L1_CHUNK_LIFETIME, 1e-5);
	metric_observe(m, M_L1_CHUNK_LIFETIME, 86400.0);
	metric_observe(m, M_L1_CHUNK_LIFETIME, 86400.5);
	page = page_of(m);
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"1e-05\"} 1");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"14400\"} 1");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"86400\"} 2");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_bucket{le=\"+Inf\"} 3");
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_count 3");
	free(page);
	metrics_destroy(m);
}

static void t08_label_values_are_escaped(void **state)
{
	static const struct {
		const char *in;
		size_t n;
		const char *out;
	} cases[] = {
		{"plain", 5, "plain"},
		{"a\"b\\c\nd", 7, "a\\\"b\\\\c\\nd"},
		{"\0x", 2, "\xEF\xBF\xBDx"},
		{"\xff\xc3\xa9\xc3", 4, "\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD"},
		{"\xc0\xaf", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"},                 /* overlong */
		{"\xed\xa0\x80", 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* surrogate */
		{"\xf0\x9f\x98\x80}{,=", 8, "\xf0\x9f\x98\x80}{,="},
		{"\xf4\x90\x80\x80", 4, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* beyond U+10FFFF */
	};
	struct metrics *m = make(true);
	char *page, line[256];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct slice v = slice_of(cases[i].in, cases[i].n);
		metric_series_add(m, metric_series_get(m, M_REQUESTS, &v, 1), i + 1);
	}
	page = page_of(m);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		snprintf(line, sizeof line, "lmcache_appliance_requests_total{op=\"%s\"} %zu", cases[i].out, i + 1);
		assert_line(page, line);
	}
	free(page);
	metrics_destroy(m);
}

static void t09_long_label_values_are_cut(void **state)
{
	struct metrics *m = make(true);
	char big[5000], line[400];
	struct slice v[3] = {slice_of(big, sizeof big), slice_of(big, sizeof big), slice_of(big, sizeof big)};
	char *page;

	(void)state;
	memset(big, 'x', sizeof big);
	metric_series_add(m, metric_series_get(m, M_REQUESTS, v, 1), 1);
	memset(big, 0xff, sizeof big); /* the longest escapes, in every label */
	assert_int_not_equal(metric_series_get(m, M_NUM_CHUNKS_LOADED, v, 3), 0);
	page = page_of(m);
	snprintf(line, sizeof line, "lmcache_appliance_requests_total{op=\"%0256d\"} 1", 0);
	for (char *p = line; *p; p++)
		if (*p == '0')
			*p = 'x';
	assert_line(page, line);
	free(page);
	metrics_destroy(m);
}

static metric_series numbered(struct metrics *m, enum metric_id id, uint32_t i, uint32_t nlabels)
{
	char text[32];
	struct slice v[3];

	snprintf(text, sizeof text, "v%u", i);
	for (uint32_t k = 0; k < 3; k++)
		v[k] = slice_str(text);
	return metric_series_get(m, id, v, nlabels);
}

static void t10_series_are_bounded(void **state)
{
	struct metrics *m = make(true);
	metric_series last = 0, one = 0;
	char *page;

	(void)state;
	for (uint32_t i = 0; i < 1024; i++)
		assert_int_not_equal(numbered(m, M_L0_L1_LOAD_THROUGHPUT, i, 3), last);
	one = numbered(m, M_L0_L1_LOAD_THROUGHPUT, 2000, 3);
	assert_int_equal(numbered(m, M_L0_L1_LOAD_THROUGHPUT, 2001, 3), one);
	assert_int_not_equal(numbered(m, M_L0_L1_LOAD_THROUGHPUT, 1023, 3), one);
	for (uint32_t i = 0; i < 70000; i++) {
		last = numbered(m, M_L1_READ_CHUNKS, i, 1);
		assert_int_not_equal(last, 0);
		metric_series_add(m, last, 1);
	}
	assert_int_equal(numbered(m, M_L1_READ_CHUNKS, 12345678, 1), last);
	assert_int_equal(metric_value(m, M_L1_READ_CHUNKS), 70000);
	/* Another row has its own overflow series even when the table is full. */
	assert_int_not_equal(numbered(m, M_L1_WRITE_CHUNKS, 1, 1), 0);
	assert_int_not_equal(numbered(m, M_L1_WRITE_CHUNKS, 1, 1), last);
	page = page_of(m);
	/* 65536 in all, 1025 of them the histogram's. */
	assert_line(page, "lmcache_mp_l1_read_chunks_total{cache_salt=\"other\"} 5489");
	assert_line(page, "lmcache_mp_l1_read_keys_total 70000");
	free(page);
	metrics_destroy(m);
}

static void t11_reset_leaves_gauges(void **state)
{
	struct metrics *m = make(true);
	struct slice a = slice_str("a");
	metric_series s = metric_series_get(m, M_REQUESTS, &a, 1);
	char *page;

	(void)state;
	metric_add(m, M_STORE_BYTES, 9);
	metric_series_add(m, s, 9);
	metric_observe(m, M_L1_CHUNK_REUSE_GAP, 9);
	metric_set(m, M_PEERS, 9);
	metrics_reset(m);
	page = page_of(m);
	assert_line(page, "lmcache_appliance_store_bytes_total 0");
	assert_line(page, "lmcache_appliance_requests_total{op=\"a\"} 0");
	assert_line(page, "lmcache_mp_l1_chunk_reuse_gap_seconds_sum 0");
	assert_line(page, "lmcache_mp_l1_chunk_reuse_gap_seconds_count 0");
	assert_line(page, "lmcache_appliance_peers 9");
	free(page);
	metric_series_add(m, s, 2);
	assert_int_equal(metric_value(m, M_REQUESTS), 2);
	metrics_destroy(m);
}

static void t12_legacy_names_can_be_off(void **state)
{
	struct metrics *m = make(false);
	char *page = page_of(m);

	(void)state;
	assert_line(page, "lmcache_mp_l1_read_chunks_total 0");
	assert_null(strstr(page, "l1_read_keys_total"));
	assert_null(strstr(page, "sm_read_requests_total"));
	assert_null(strstr(page, "throughput_gbs"));
	assert_line(page, "lmcache_mp_l1_chunk_lifetime_seconds_count 0");
	free(page);
	metrics_destroy(m);
}

static void t13_instance_id_is_escaped(void **state)
{
	struct metrics *m = NULL;
	char *page;

	(void)state;
	assert_int_equal(metrics_create("a\"b\\c\nd", true, &m), 0);
	page = page_of(m);
	assert_line(page, "target_info{service_instance_id=\"a\\\"b\\\\c\\nd\"} 1");
	free(page);
	metrics_destroy(m);
}

static void t14_doubles_read_back(void **state)
{
	static const double values[] = {0.1, 1.0 / 3.0, 1e-9, 123456789.0, 1e300, 0x1.fffffffffffffp+1023, 5e-324};
	struct metrics *m = make(true);

	(void)state;
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		char *page, *at;

		metric_set(m, M_L1_USAGE_RATIO, values[i]);
		page = page_of(m);
		at = strstr(page, "\nlmcache_mp_l1_usage_ratio ");
		assert_non_null(at);
		assert_true(strtod(at + strlen("\nlmcache_mp_l1_usage_ratio "), NULL) == values[i]);
		free(page);
	}
	metric_set(m, M_L1_USAGE_RATIO, NAN);
	metric_set(m, M_PEERS, INFINITY);
	char *page = page_of(m);
	assert_line(page, "lmcache_mp_l1_usage_ratio NaN");
	assert_line(page, "lmcache_appliance_peers +Inf");
	free(page);
	metrics_destroy(m);
}

static void t15_out_of_memory(void **state)
{
	struct slice a = slice_str("a");
	struct metrics *m = NULL;
	uint64_t n;
	size_t bytes;
	int rc = -ENOMEM;

	(void)state;
	for (n = 1; rc; n++) {
		mem_fail_at(n);
		rc = metrics_create("x", true, &m);
		mem_fail_at(0);
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_true(n < 20);
	}
	assert_true(n > 4); /* it really allocates */
	mem_fail_at(1);
	assert_int_equal(metric_series_get(m, M_REQUESTS, &a, 1), 0);
	mem_fail_at(0);
	assert_int_not_equal(metric_series_get(m, M_REQUESTS, &a, 1), 0);
	for (n = 1, rc = 1; rc; n++) {
		mem_fail_at(n);
		char *page = metrics_render(m, &bytes);
		mem_fail_at(0);
		rc = page == NULL;
		free(page);
	}
	assert_true(n > 3);
	metrics_destroy(m);
}

static void t16_no_allocation_while_counting(void **state)
{
	struct metrics *m = make(true);
	struct slice a = slice_str("a");
	metric_series s = metric_series_get(m, M_REQUESTS, &a, 1), h = metric_series_get(m, M_REQUEST_SECONDS, &a, 1);
	uint64_t before = mem_thread_allocs();

	(void)state;
	for (int i = 0; i < 1000; i++) {
		metric_add(m, M_STORE_BYTES, 1);
		metric_observe(m, M_L1_CHUNK_LIFETIME, 1);
		metric_set(m, M_PEERS, 1);
		metric_series_add(m, s, 1);
		metric_series_observe(m, h, 1e-4);
	}
	assert_int_equal(mem_thread_allocs(), before);
	metrics_destroy(m);
}

#define THREADS 4
#define ROUNDS  20000

struct hammer {
	struct metrics *m;
	metric_series shared;
	uint32_t id;
	atomic_bool *stop;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		metric_add(h->m, M_STORE_BYTES, 3);
		metric_observe(h->m, M_L1_CHUNK_LIFETIME, 0.5);
		metric_set(h->m, M_PEERS, i);
		metric_series_add(h->m, h->shared, 1);
		if (i % 100 == 0)
			metric_series_add(h->m, numbered(h->m, M_L1_READ_CHUNKS, i / 100 % 50 + h->id * 20, 1), 1);
	}
	return NULL;
}

static void *scrape(void *arg)
{
	struct hammer *h = arg;
	uint64_t last = 0;

	while (!atomic_load(h->stop)) {
		uint64_t now = metric_value(h->m, M_STORE_BYTES);
		char *page = page_of(h->m);

		assert_true(now >= last);
		last = now;
		free(page);
	}
	return NULL;
}

static void t17_threads_count_and_scrape(void **state)
{
	struct metrics *m = make(true);
	struct slice a = slice_str("shared");
	metric_series s = metric_series_get(m, M_REQUESTS, &a, 1);
	atomic_bool stop = false;
	struct hammer h[THREADS + 1];
	pthread_t t[THREADS + 1];
	char *page, line[128];

	(void)state;
	for (uint32_t i = 0; i <= THREADS; i++) {
		h[i] = (struct hammer){m, s, i, &stop};
		assert_int_equal(pthread_create(&t[i], NULL, i < THREADS ? hammer : scrape, &h[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	atomic_store(&stop, true);
	pthread_join(t[THREADS], NULL);
	assert_int_equal(metric_value(m, M_STORE_BYTES), 3u * THREADS * ROUNDS);
	assert_int_equal(metric_value(m, M_REQUESTS), THREADS * ROUNDS);
	assert_int_equal(metric_value(m, M_L1_READ_CHUNKS), THREADS * ROUNDS / 100);
	assert_int_equal(metric_value(m, M_L1_CHUNK_LIFETIME), THREADS * ROUNDS);
	page = page_of(m);
	snprintf(line, sizeof line, "lmcache_mp_l1_chunk_lifetime_seconds_sum %d", THREADS * ROUNDS / 2);
	assert_line(page, line);
	free(page);
	metrics_destroy(m);
}

static void t18_docs_are_what_the_table_says(void **state)
{
	char *text = NULL, have[65536];
	size_t n = 0, got = 0;
	FILE *out = open_memstream(&text, &n), *f;

	(void)state;
	metrics_write_docs(out);
	fclose(out);
	if (getenv("LMCA_UPDATE")) {
		assert_non_null(f = fopen("docs/metrics.md", "w"));
		assert_int_equal(fwrite(text, 1, n, f), n);
		fclose(f);
	}
	assert_non_null(f = fopen("docs/metrics.md", "r"));
	got = fread(have, 1, sizeof have - 1, f);
	fclose(f);
	have[got] = '\0';
	if (strcmp(have, text) != 0)
		fail_msg("docs/metrics.md is out of date: run this test with LMCA_UPDATE=1");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_counts),
		cmocka_unit_test(t02_calls_of_the_wrong_kind_change_nothing),
		cmocka_unit_test(t03_zeros_from_the_start),
		cmocka_unit_test(t04_every_row_once_with_help_and_type),
		cmocka_unit_test(t05_series_and_their_alias),
		cmocka_unit_test(t06_histograms_with_labels),
		cmocka_unit_test(t07_bounds_belong_to_their_bucket),
		cmocka_unit_test(t08_label_values_are_escaped),
		cmocka_unit_test(t09_long_label_values_are_cut),
		cmocka_unit_test(t10_series_are_bounded),
		cmocka_unit_test(t11_reset_leaves_gauges),
		cmocka_unit_test(t12_legacy_names_can_be_off),
		cmocka_unit_test(t13_instance_id_is_escaped),
		cmocka_unit_test(t14_doubles_read_back),
		cmocka_unit_test(t15_out_of_memory),
		cmocka_unit_test(t16_no_allocation_while_counting),
		cmocka_unit_test(t17_threads_count_and_scrape),
		cmocka_unit_test(t18_docs_are_what_the_table_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
