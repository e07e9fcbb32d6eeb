/* Every route and every error shape, over real sockets. */
#include "tests/unit/daemon/http/fake.h"

static void t01_root_health_conf(void **state)
{
	struct fake *f = fake_start();

	(void)state;
	expect(f, "GET", "/", "", 200, "{\"status\":\"ok\",\"service\":\"LMCache HTTP API\"}");
	expect(f, "GET", "/healthcheck", "", 200, "{\"status\":\"healthy\"}");
	expect(f, "GET", "/api/healthcheck", "", 200, "{\"status\":\"healthy\"}");
	expect(f, "GET", "/conf", "", 200, "{\"mp\":{\"port\":5555}}");
	expect(f, "GET", "/config", "", 200, "{\"mp\":{\"port\":5555}}");
	expect(f, "GET", "/config?pretty=1&x=%zz", "", 200, "{\"mp\":{\"port\":5555}}");
	fake_stop(f);
}

static void t02_status(void **state)
{
	struct fake *f = fake_start();

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct answer a = ask(f, "GET", i ? "/api/status" : "/status", "");
		json_t *json = json_loads(a.body, 0, NULL);

		assert_int_equal(a.status, 200);
		assert_head(&a, "\r\nContent-Type: application/json\r\n");
		assert_string_equal(json_string_value(json_object_get(json, "engine_type")), "MPCacheEngine");
		assert_int_equal(json_integer_value(json_object_get(json, "chunk_size")), 256);
		json_decref(json);
		free(a.body);
	}
	f->status_rc = -EAGAIN;
	expect(f, "GET", "/status", "", 503, "{\"error\":\"engine not initialized\"}");
	f->status_rc = -ENOMEM;
	struct answer a = ask(f, "GET", "/status", "");
	assert_int_equal(a.status, 500);
	assert_string_equal(a.body, "Internal Server Error");
	free(a.body);
	fake_stop(f);
}

static void t03_metrics(void **state)
{
	struct fake *f = fake_start();
	struct answer a;

	(void)state;
	metric_add(f->metrics, M_STORE_BYTES, 5);
	a = ask(f, "GET", "/metrics", "");
	assert_int_equal(a.status, 200);
	assert_head(&a, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
	assert_non_null(strstr(a.body, "\nlmcache_appliance_store_bytes_total 5\n"));
	assert_non_null(strstr(a.body, "\nlmcache_appliance_peers 1\n")); /* refreshed before */
	free(a.body);
	a = ask(f, "POST", "/metrics/reset", "");
	assert_int_equal(a.status, 200);
	assert_string_equal(a.body, "ok");
	free(a.body);
	assert_int_equal(metric_value(f->metrics, M_STORE_BYTES), 0);
	fake_stop(f);
	f = fake_start_with((struct http_conf){.host = "127.0.0.1", .metrics = false});
	expect(f, "GET", "/metrics", "", 404, "{\"detail\":\"Not Found\"}");
	expect(f, "POST", "/metrics/reset", "", 404, "{\"detail\":\"Not Found\"}");
	fake_stop(f);
}

static void t04_clear(void **state)
{
	static const char cleared[] = "{\"status\":\"ok\",\"cleared\":{\"tier\":\"l1\"}}";
	struct fake *f = fake_start();
	struct answer a = ask(f, "POST", "/clear-cache", "");

	(void)state;
	assert_string_equal(a.body, "{\"status\":\"ok\"}");
	assert_head(&a, "\r\nX-LMCache-Objects-Removed: 42\r\n");
	free(a.body);
	expect(f, "POST", "/api/clear-cache", "", 200, "{\"status\":\"ok\"}");
	expect(f, "POST", "/cache/clear", "{\"tier\":\"l1\",\"force\":true}", 200, cleared);
	expect(f, "POST", "/cache/clear", "{}", 200, cleared);
	expect(f, "POST", "/cache/clear", "{\"force\":0,\"more\":[]}", 200, cleared);
	expect(f, "POST", "/cache/clear", "{\"force\":\"Yes\"}", 200, cleared);
	assert_int_equal(atomic_load(&f->clears), 6);
	fake_stop(f);
}

static void t05_clear_refuses_bad_bodies(void **state)
{
	struct fake *f = fake_start();
	struct answer a;

	(void)state;
	expect(f, "POST", "/cache/clear", "{\"tier\":\"l3\"}", 400,
	       "{\"detail\":\"tier must be 'l1', 'l2' or 'all'\"}");
	expect(f, "POST", "/cache/clear", "{\"tier\":\"l2\"}", 400, "{\"detail\":\"there is no L2 adapter\"}");
	expect(f, "POST", "/cache/clear", "", 422,
	       "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\"],\"msg\":\"Field required\",\"input\":null}]}");
	expect(f, "POST", "/cache/clear", "[1]", 422,
	       "{\"detail\":[{\"type\":\"model_attributes_type\",\"loc\":[\"body\"],\"msg\":\"Input should be a valid "
	       "dictionary or object to extract fields from\",\"input\":[1]}]}");
	expect(f, "POST", "/cache/clear", "{\"tier\":7}", 422,
	       "{\"detail\":[{\"type\":\"string_type\",\"loc\":[\"body\",\"tier\"],\"msg\":\"Input should be a valid "
	       "string\",\"input\":7}]}");
	expect(f, "POST", "/cache/clear", "{\"tier\":\"l1\",\"force\":\"maybe\"}", 422,
	       "{\"detail\":[{\"type\":\"bool_type\",\"loc\":[\"body\",\"force\"],\"msg\":\"Input should be a valid "
	       "boolean\",\"input\":\"maybe\"}]}");
	a = ask(f, "POST", "/cache/clear", "{\"tier\":");
	assert_int_equal(a.status, 422);
	assert_non_null(strstr(a.body, "{\"detail\":[{\"type\":\"json_invalid\",\"loc\":[\"body\",8],"));
	free(a.body);
	assert_int_equal(atomic_load(&f->clears), 0);
	fake_stop(f);
}

static void t06_quota(void **state)
{
	struct fake *f = fake_start();

	(void)state;
	expect(f, "GET", "/quota", "", 200, "{\"users\":{}}");
	expect(f, "PUT", "/quota/tenant-a", "{\"limit_gb\":4}", 200,
	       "{\"cache_salt\":\"tenant-a\",\"limit_gb\":4.0,\"status\":\"ok\"}");
	assert_int_equal(f->quota[0].limit_bytes, UINT64_C(4) << 30);
	f->quota[0].used_bytes = UINT64_C(3) << 29;
	expect(f, "GET", "/quota/tenant-a", "", 200,
	       "{\"cache_salt\":\"tenant-a\",\"limit_gb\":4.0,\"current_usage_gb\":1.5,\"exists\":true}");
	expect(f, "PUT", "/quota/_default", "{\"limit_gb\":0.5}", 200,
	       "{\"cache_salt\":\"_default\",\"limit_gb\":0.5,\"status\":\"ok\"}");
	assert_string_equal(f->quota[1].salt, "");
	expect(f, "GET", "/quota", "", 200,
	       "{\"users\":{\"tenant-a\":{\"limit_gb\":4.0,\"current_usage_gb\":1.5},"
	       "\"_default\":{\"limit_gb\":0.5,\"current_usage_gb\":0.0}}}");
	expect(f, "DELETE", "/quota/tenant-a", "", 200, "{\"cache_salt\":\"tenant-a\",\"status\":\"removed\"}");
	assert_true(f->quota[0].limit_bytes == UINT64_MAX);
	expect(f, "DELETE", "/quota/tenant-a", "", 200, "{\"cache_salt\":\"tenant-a\",\"status\":\"not_found\"}");
	/* Objects without a limit: used, but no quota. */
	expect(f, "GET", "/quota/tenant-a", "", 200,
	       "{\"cache_salt\":\"tenant-a\",\"limit_gb\":0.0,\"current_usage_gb\":1.5,\"exists\":false}");
	expect(f, "GET", "/quota/nobody", "", 200,
	       "{\"cache_salt\":\"nobody\",\"limit_gb\":0.0,\"current_usage_gb\":0.0,\"exists\":false}");
	expect(f, "PUT", "/quota/a%2Fb%20%C3%A9", "{\"limit_gb\":0}", 200,
	       "{\"cache_salt\":\"a/b \xc3\xa9\",\"limit_gb\":0.0,\"status\":\"ok\"}");
	assert_string_equal(f->quota[2].salt, "a/b \xc3\xa9");
	fake_stop(f);
}

static void t07_quota_refuses(void **state)
{
	static const struct {
		const char *body, *error;
	} cases[] = {
		{"", "invalid JSON body"},
		{"{", "invalid JSON body"},
		{"{\"limit_gb\":NaN}", "invalid JSON body"},
		{"{\"limit_gb\":1e999}", "invalid JSON body"},
		{"[]", "body must be {'limit_gb': <float>}"},
		{"{}", "body must be {'limit_gb': <float>}"},
		{"{\"limit_gb\":null}", "limit_gb must be numeric"},
		{"{\"limit_gb\":-1}", "limit_gb must be non-negative"},
		{"{\"limit_gb\":1e300}", "limit_gb must be finite"},
	};
	struct fake *f = fake_start();
	char want[128];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		snprintf(want, sizeof want, "{\"error\":\"%s\"}", cases[i].error);
		expect(f, "PUT", "/quota/x", cases[i].body, 400, want);
	}
	expect(f, "PUT", "/quota/a%40b", "{\"limit_gb\":1}", 400, "{\"error\":\"invalid cache_salt\"}");
	expect(f, "PUT", "/quota/a%00b", "{\"limit_gb\":1}", 400, "{\"error\":\"invalid cache_salt\"}");
	assert_int_equal(f->nquota, 0);
	fake_stop(f);
}

static void t08_end_session(void **state)
{
	struct fake *f = fake_start();

	(void)state;
	expect(f, "POST", "/sessions/cmpl-1/end", "", 200, "{\"status\":\"ok\",\"request_id\":\"cmpl-1\"}");
	assert_int_equal(f->ended_n, 6);
	expect(f, "POST", "/sessions/a%2Fb%00c%/end", "", 200,
	       "{\"status\":\"ok\",\"request_id\":\"a/b\xEF\xBF\xBD"
	       "c%\"}");
	assert_int_equal(f->ended_n, 6);
	assert_memory_equal(f->ended, "a/b\0c%", 6);
	expect(f, "POST", "/sessions/no-such/end", "", 404, "{\"status\":\"not_found\",\"request_id\":\"no-such\"}");
	expect(f, "POST", "/sessions//end", "", 404, "{\"detail\":\"Not Found\"}");
	fake_stop(f);
}

static void t09_unknown_paths_and_methods(void **state)
{
	static const char *const unknown[] = {"/nothing",    "/status/", "/statusx", "/quota/",     "/quota/a/b",
					      "/run_script", "/env",     "//",       "/sessions/x", "/%73tatus"};
	static const struct {
		const char *method, *path, *allow;
	} wrong[] = {
		{"POST", "/status", "GET, HEAD"},
		{"DELETE", "/metrics", "GET, HEAD"},
		{"GET", "/clear-cache", "POST"},
		{"HEAD", "/cache/clear", "POST"},
		{"POST", "/quota/a", "GET, HEAD, PUT, DELETE"},
		{"PUT", "/quota", "GET, HEAD"},
		{"BREW", "/", "GET, HEAD"},
	};
	struct fake *f = fake_start();
	char allow[64];

	(void)state;
	for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
		expect(f, "GET", unknown[i], "", 404, "{\"detail\":\"Not Found\"}");
		expect(f, "POST", unknown[i], "{}", 404, "{\"detail\":\"Not Found\"}");
	}
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct answer a = ask(f, wrong[i].method, wrong[i].path, "");

		assert_int_equal(a.status, 405);
		snprintf(allow, sizeof allow, "\r\nAllow: %s\r\n", wrong[i].allow);
		assert_head(&a, allow);
		if (strcmp(wrong[i].method, "HEAD") != 0)
			assert_string_equal(a.body, "{\"detail\":\"Method Not Allowed\"}");
		free(a.body);
	}
	assert_int_equal(atomic_load(&f->clears), 0);
	fake_stop(f);
}

static void t10_head_is_get_without_a_body(void **state)
{
	struct fake *f = fake_start();
	int fd = dial(f);
	struct answer a;

	(void)state;
	send_text(fd, "HEAD /healthcheck HTTP/1.1\r\nHost: x\r\n\r\nGET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(fd, true);
	assert_int_equal(a.status, 200);
	assert_head(&a, "\r\nContent-Length: 20\r\n");
	free(a.body);
	a = read_answer(fd, false); /* the next answer follows at once: no body was sent */
	assert_int_equal(a.status, 200);
	assert_string_equal(a.body, "{\"status\":\"healthy\"}");
	free(a.body);
	close(fd);
	fake_stop(f);
}

static void t11_before_the_server_is_ready(void **state)
{
	static const char no_engine[] = "{\"error\":\"engine not initialized\"}";
	struct fake *f = fake_start();
	struct answer a;

	(void)state;
	atomic_store(&f->ready, false);
	expect(f, "GET", "/healthcheck", "", 503, "{\"status\":\"unhealthy\",\"reason\":\"engine not initialized\"}");
	expect(f, "GET", "/status", "", 503, no_engine);
	expect(f, "POST", "/clear-cache", "", 503, "{\"status\":\"error\",\"reason\":\"engine not initialized\"}");
	expect(f, "POST", "/cache/clear", "{}", 503, "{\"detail\":\"server not initialized\"}");
	expect(f, "GET", "/conf", "", 503, "{\"error\":\"configs not initialized\"}");
	expect(f, "GET", "/quota", "", 503, no_engine);
	expect(f, "GET", "/quota/a", "", 503, no_engine);
	expect(f, "PUT", "/quota/a", "{\"limit_gb\":1}", 503, no_engine);
	expect(f, "DELETE", "/quota/a", "", 503, no_engine);
	expect(f, "POST", "/sessions/a/end", "", 503, no_engine);
	a = ask(f, "GET", "/metrics", ""); /* scrapes work, the gauges are just not refreshed */
	assert_int_equal(a.status, 200);
	free(a.body);
	assert_int_equal(atomic_load(&f->refreshes) + atomic_load(&f->clears), 0);
	fake_stop(f);
}

/* Every row of the table is reachable: neither 404 of the router nor 405. */
static void t12_every_row_is_served(void **state)
{
	static const struct {
		const char *method, *path;
	} rows[] = {
#define ROUTE(method, path, handler, since, text) {method, path},
#include "daemon/http/routes.def"
#undef ROUTE
	};
	struct fake *f = fake_start();

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct answer a = ask(f, rows[i].method, rows[i].path, "{\"limit_gb\":1}");

		/* what L2 answers is tried with one, in tests/integration */
		if (a.status != 200 && (a.status != 503 || !strstr(a.body, "there is no L2 adapter")))
			fail_msg("%s %s: %d %s", rows[i].method, rows[i].path, a.status, a.body);
		free(a.body);
	}
	fake_stop(f);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static int count_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void t13_start_fails_with_a_reason(void **state)
{
	struct fake *f = fake_start();
	struct http_host host = {0};
	struct http *other = NULL;
	struct why why = {0};
	int before = count_fds();
	struct http_conf conf = {.host = "127.0.0.1", .port = http_port(f->http)};

	(void)state;
	assert_int_equal(http_start(&conf, &host, f->metrics, &other, &why), -EADDRINUSE);
	assert_non_null(strstr(why.text, "127.0.0.1"));
	conf = (struct http_conf){.host = "no such host.invalid"};
	assert_int_equal(http_start(&conf, &host, f->metrics, &other, &why), -EINVAL);
	conf = (struct http_conf){.host = "203.0.113.1"}; /* documentation network: not ours */
	assert_int_equal(http_start(&conf, &host, f->metrics, &other, &why), -EADDRNOTAVAIL);
	assert_null(other);
	http_stop(NULL);
	assert_int_equal(count_fds(), before);
	fake_stop(f);
}

static void t14_start_without_memory_or_descriptors(void **state)
{
	struct http_conf conf = {.host = "127.0.0.1", .metrics = true};
	struct http_host host = {0};
	struct http *h = NULL;
	struct rlimit old, low;
	struct why why = {0};
	int before = count_fds(), rc = -1;

	(void)state;
	mem_fail_at(1);
	assert_int_equal(http_start(&conf, &host, NULL, &h, &why), -ENOMEM);
	mem_fail_at(0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (rlim_t n = 3; rc && n < 200; n++) { /* one more descriptor each time, until it starts */
		low = old;
		low.rlim_cur = n;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
		rc = http_start(&conf, &host, NULL, &h, &why);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
		assert_true(rc == 0 || (why.err < 0 && why.text[0]));
		if (rc)
			assert_int_equal(count_fds(), before);
	}
	assert_int_equal(rc, 0);
	http_stop(h);
	assert_int_equal(count_fds(), before);
}

static void t15_other_addresses(void **state)
{
	static const char *const hosts[] = {NULL, "", "localhost", "0.0.0.0"};

	(void)state;
	for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
		struct fake *f = fake_start_with((struct http_conf){.host = hosts[i], .metrics = true});

		if (i != 2) /* localhost may be ::1 */
			expect(f, "GET", "/healthcheck", "", 200, "{\"status\":\"healthy\"}");
		fake_stop(f);
	}
}

static void t16_docs_are_what_the_table_says(void **state)
{
	char *text = NULL, have[65536];
	size_t n = 0, got;
	FILE *out = open_memstream(&text, &n), *file;

	(void)state;
	http_write_docs(out);
	fclose(out);
	if (getenv("LMCA_UPDATE")) {
		assert_non_null(file = fopen("docs/http.md", "w"));
		assert_int_equal(fwrite(text, 1, n, file), n);
		fclose(file);
	}
	assert_non_null(file = fopen("docs/http.md", "r"));
	got = fread(have, 1, sizeof have - 1, file);
	fclose(file);
	have[got] = '\0';
	if (strcmp(have, text) != 0)
		fail_msg("docs/http.md is out of date: run this test with LMCA_UPDATE=1");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_root_health_conf),
		cmocka_unit_test(t02_status),
		cmocka_unit_test(t03_metrics),
		cmocka_unit_test(t04_clear),
		cmocka_unit_test(t05_clear_refuses_bad_bodies),
		cmocka_unit_test(t06_quota),
		cmocka_unit_test(t07_quota_refuses),
		cmocka_unit_test(t08_end_session),
		cmocka_unit_test(t09_unknown_paths_and_methods),
		cmocka_unit_test(t10_head_is_get_without_a_body),
		cmocka_unit_test(t11_before_the_server_is_ready),
		cmocka_unit_test(t12_every_row_is_served),
		cmocka_unit_test(t13_start_fails_with_a_reason),
		cmocka_unit_test(t14_start_without_memory_or_descriptors),
		cmocka_unit_test(t15_other_addresses),
		cmocka_unit_test(t16_docs_are_what_the_table_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
