/* conf_parse as the server uses it: defaults, help, errors, deprecated and absent names, environment, allocation failures. */
#include "tests/unit/daemon/conf/util.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <jansson.h>

static void defaults_are_upstreams(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, "--l1-size-gb", "10", "--eviction-policy", "LRU"), 0);
	assert_string_equal(c.host, "localhost");
	assert_int_equal(c.port, 5555);
	assert_int_equal(c.chunk_size, 256);
	assert_int_equal(c.hash_algorithm, CONF_HASH_BLAKE3);
	assert_string_equal(c.http_host, "127.0.0.1");
	assert_int_equal(c.http_port, 8080);
	assert_null(c.shm_name);
	assert_null(c.instance_id);
	assert_null(c.config);
	assert_true(c.l1_use_lazy);
	assert_true(c.l1_size_gb == 10 && c.l1_init_size_gb == 10); /* 20, cut to the pool */
	assert_int_equal(c.l1_write_ttl_seconds, 600);
	assert_int_equal(c.l1_read_ttl_seconds, 300);
	assert_true(c.eviction_trigger_watermark == 0.8 && c.eviction_ratio == 0.2);
	assert_int_equal(c.max_tokens, 4u << 20);
	assert_int_equal(c.max_message_mb, 512);
	assert_int_equal(c.log_level, LOG_LVL_INFO);
	conf_free(&c);
	conf_free(&c); /* harmless on an empty one */
}

static void workers_follow_max_workers(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--max-workers=6", "--max-cpu-workers", "3"), 0);
	assert_int_equal(c.max_workers, 6);
	assert_int_equal(c.max_gpu_workers, 6);
	assert_int_equal(c.max_cpu_workers, 3);
	conf_free(&c);
}

static void the_last_flag_wins(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--port", "1", "--l1-size-gb=3", "--port=2", "--shm-name="), 0);
	assert_int_equal(c.port, 2);
	assert_true(c.l1_size_gb == 3);
	assert_string_equal(c.shm_name, "");
	conf_free(&c);
}

static void aliases_of_values(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--supported-transfer-mode", "non_gpu"), 0);
	assert_int_equal(c.supported_transfer_mode, CONF_TRANSFER_ENGINE_DRIVEN);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--supported-transfer-mode", "gpu"), 0);
	assert_int_equal(c.supported_transfer_mode, CONF_TRANSFER_LMCACHE_DRIVEN);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--hash-algorithm", "builtin", "--eviction-policy", "isolatedlru"),
			 0);
	assert_int_equal(c.hash_algorithm, CONF_HASH_BUILTIN);
	assert_int_equal(c.eviction_policy, CONF_ISOLATED_LRU);
	conf_free(&c);
}

static void help_and_version(void **state)
{
	struct capture cap = capture_begin(STDOUT_FILENO);
	struct conf c;
	struct why why;
	int help = parse(&c, &why, "--help"), short_help = parse(&c, &why, "-h"), version;
	char *text = capture_end(cap);

	(void)state;
	assert_int_equal(help, 1);
	assert_int_equal(short_help, 1);
	assert_int_equal(count_of(text, "Usage: lmcache-appliance server"), 2);
	*strstr(text + 1, "Usage: lmcache-appliance server") = '\0';
	assert_golden("tests/golden/server-help.txt", text);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_in_range(strlen(line), 1, 100);
	free(text);
	cap = capture_begin(STDOUT_FILENO);
	version = parse(&c, &why, "--version");
	text = capture_end(cap);
	assert_int_equal(version, 1);
	assert_string_equal(text, "lmcache-appliance " CONF_VERSION "\n");
	free(text);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static const char *const bad[][ARGS_MAX] = {
	{"--no-http"},
	{"--l1-size-gb", "1"},
	{REQUIRED, "--port", "65536"},
	{REQUIRED, "--port", "-1"},
	{REQUIRED, "--port", "0x10"},
	{REQUIRED, "--port="},
	{REQUIRED, "--port", "99999999999999999999999"},
	{REQUIRED, "--port", "5555", "6666"},
	{REQUIRED, "--port"},
	{REQUIRED, "--port", "--no-http"},
	{REQUIRED, "--po", "1"},
	{REQUIRED, "--http_port", "1"},
	{REQUIRED, "-p", "1"},
	{REQUIRED, "--"},
	{REQUIRED, "--no-http=true"},
	{REQUIRED, "--no-port"},
	{REQUIRED, "--help=me"},
	{REQUIRED, "--colour", "red"},
	{REQUIRED, "--l1-size-gb", "nan"},
	{REQUIRED, "--l1-size-gb", "inf"},
	{REQUIRED, "--l1-size-gb", "1e999"},
	{REQUIRED, "--l1-size-gb", "0"},
	{REQUIRED, "--l1-size-gb", "12GB"},
	{REQUIRED, "--l1-align-bytes", "5000"},
	{REQUIRED, "--chunk-size", "0"},
	{REQUIRED, "--worker-reap-timeout-seconds", "29"},
	{REQUIRED, "--worker-reap-timeout-seconds", "200", "--worker-registration-grace-seconds", "100"},
	{REQUIRED, "--eviction-trigger-watermark", "1.5"},
	{REQUIRED, "--eviction-policy", "FIFO"},
	{REQUIRED, "--eviction-policy", "ARC"},
	{REQUIRED, "--engine-type", "blend"},
	{REQUIRED, "--transport", "grpc"},
	{REQUIRED, "--hash-algorithm", "md5"},
	{REQUIRED, "--host", ""},
	{REQUIRED, "--host", "a\nb"},
	{REQUIRED, "--host", "0.0.0.0"},
	{REQUIRED, "--host", "*"},
	{REQUIRED, "--http-host", "192.168.1.1"},
	{REQUIRED, "--http-host", "::"},
	{REQUIRED, "--l2-adapter", ""},
	{REQUIRED, "--l2-adapter"},
	{REQUIRED, "--l2-store-policy", "write_back"},
	{REQUIRED, "--l2-prefetch-policy", "keep"},
	{REQUIRED, "--l2-prefetch-max-in-flight", "0"},
	{REQUIRED, "--l2-prefetch-load-timeout", "-1"},
	{REQUIRED, "--l2-prefetch-stall-seconds", "0"},
	{REQUIRED, "--l2-dirty-max-percent", "100"},
	{REQUIRED, "--l2-admission", "none"},
	{REQUIRED, "--separate-object-groups"},
	{REQUIRED, "--cuda", "maybe"},
	{REQUIRED, "--gpu-copy-path", "fast"},
	{REQUIRED, "--runtime-plugin-locations", "a.py", "b.py"},
	{REQUIRED, "--numa-policy", "manual"},
	{REQUIRED, "--numa-map", "0=50G,1=50G"},
	{REQUIRED, "--numa-policy", "manual", "--numa-map", "0=50G,1=51G"},
	{REQUIRED, "--numa-policy", "manual", "--numa-map", "0=50GB"},
	{REQUIRED, "--numa", "maybe"},
	{REQUIRED, "--l1-pages", "2m,1g"},
	{REQUIRED, "--l1-pages", "8k"},
	{REQUIRED, "--l1-use-hugepages", "--l1-pages", "4k"},
	{REQUIRED, "--config", "/nonexistent/conf"},
	{REQUIRED, "--config", "/"},
};

static void error_texts(void **state)
{
	char *text;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct conf c;
		struct why why;
		int rc = parse_list(&c, &why, bad[i]);

		assert_true(rc < 0);
		assert_int_equal(why.err, rc);
		assert_null(c.source);
		for (const char *const *a = bad[i]; *a; a++)
			fprintf(out, "%s%s", a == bad[i] ? "" : " ", **a ? *a : "''");
		fprintf(out, "\n\t%s\n", why.text);
	}
	fclose(out);
	assert_golden("tests/golden/server-errors.txt", text);
	free(text);
}

static void absent_features_are_refused(void **state)
{
	struct conf c;
	struct why why;
	char flag[96], env[CONF_ENV_CAP], line[128];

	(void)state;
	for (unsigned i = 0; conf_absents[i].flag; i++) {
		const struct conf_absent *a = &conf_absents[i];
		struct conf in_file = {.source = calloc(CONF_OPTIONS, 1)};

		snprintf(flag, sizeof(flag), "--%s", a->flag);
		if (a->kind == CONF_KIND_V)
			assert_int_equal(parse(&c, &why, REQUIRED, flag, "1"), -EINVAL);
		else
			assert_int_equal(parse(&c, &why, REQUIRED, flag), -EINVAL);
		assert_non_null(strstr(why.text, flag));
		assert_non_null(strstr(why.text, a->feature));
		setenv(conf_env_of_flag(a->flag, env), "1", 1);
		assert_int_equal(parse(&c, &why, REQUIRED), -EINVAL);
		assert_non_null(strstr(why.text, env));
		unsetenv(env);
		snprintf(line, sizeof(line), "\n%s = 1\n", a->flag);
		assert_int_equal(conf_file_parse(&in_file, "f", line, strlen(line), &why), -EINVAL);
		assert_non_null(strstr(why.text, "f:2: "));
		conf_free(&in_file);
	}
}

/* Asking for what this build does anyway is not an error. */
static void absence_may_be_asked_for(void **state)
{
	static const char text[] = "isolated-ipc = false\nseparate_object_groups = no\nenable-tracing = off\n";
	struct conf c, in_file = {.source = calloc(CONF_OPTIONS, 1)};
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--no-isolated-ipc", "--port", "7", "--no-separate-object-groups"),
			 0);
	assert_int_equal(c.port, 7);
	conf_free(&c);
	assert_int_equal(conf_file_parse(&in_file, "f", text, strlen(text), &why), 0);
	conf_free(&in_file);
}

static void deprecated_names_warn_once(void **state)
{
	(void)state;
	for (unsigned i = 0; conf_deprecateds[i].flag; i++) {
		const struct conf_deprecated *d = &conf_deprecateds[i];
		const char *value = d->now && strcmp(d->now, "host") == 0 ? "127.0.0.9" : "42";
		struct capture cap = capture_begin(STDERR_FILENO);
		struct conf c;
		struct why why;
		char flag[96], *text;
		int rc;

		snprintf(flag, sizeof(flag), "--%s", d->flag);
		rc = d->kind == CONF_KIND_V ? parse(&c, &why, REQUIRED, flag, value) : parse(&c, &why, REQUIRED, flag);
		text = capture_end(cap);
		assert_int_equal(rc, 0);
		assert_int_equal(count_of(text, "\n"), 1);
		assert_non_null(strstr(text, "WARNING"));
		assert_non_null(strstr(text, flag));
		if (d->now) {
			struct conf_match now = conf_match(d->now, strlen(d->now));
			assert_non_null(strstr(text, d->now));
			assert_int_equal(now.is, CONF_IS_OPTION);
			assert_int_equal(c.source[now.index], 'c');
		}
		conf_free(&c);
		free(text);
	}
}

static void deprecated_names_set_the_new_field(void **state)
{
	struct capture cap = capture_begin(STDERR_FILENO);
	struct conf c;
	struct why why;
	int rc = parse(&c, &why, "--cpu-buffer-size", "60", "--eviction-policy", "noop", "--zmq-host", "127.0.0.5",
		       "--zmq-port=6000", "--disable-prometheus", "--service-instance-id", "me");

	(void)state;
	free(capture_end(cap));
	assert_int_equal(rc, 0);
	assert_true(c.l1_size_gb == 60);
	assert_string_equal(c.host, "127.0.0.5");
	assert_int_equal(c.port, 6000);
	assert_true(c.disable_metrics);
	assert_string_equal(c.instance_id, "me");
	conf_free(&c);
}

/* ---- lists ---------------------------------------------------------------------------------------------------------- */

static void adapters_are_a_list(void **state)
{
	static const char text[] = "l2-adapter = {\"a\": 1} # first\nl2_adapter = [{\"b\": 2}, 3]\n";
	struct conf c, in_file = {.source = calloc(CONF_OPTIONS, 1)};
	const char *args[40] = {REQUIRED};
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED), 0);
	assert_int_equal(c.l2_adapter.n, 0);
	assert_int_equal(c.l2_prefetch_max_mb, 4096);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--l2-adapter", "{\"a\": 1}", "--port", "7", "--l2-adapter=no json"),
			 0);
	assert_int_equal(c.l2_adapter.n, 2);
	assert_string_equal(c.l2_adapter.v[0], "{\"a\": 1}");
	assert_string_equal(c.l2_adapter.v[1], "no json");
	conf_free(&c);
	assert_int_equal(conf_file_parse(&in_file, "f", text, strlen(text), &why), 0);
	assert_int_equal(in_file.l2_adapter.n, 3);
	assert_string_equal(in_file.l2_adapter.v[0], "{\"a\": 1}");
	assert_string_equal(in_file.l2_adapter.v[1], "{\"b\":2}");
	assert_string_equal(in_file.l2_adapter.v[2], "3");
	conf_free(&in_file);
	setenv("LMCACHE_APPLIANCE_L2_ADAPTER", "[{\"b\": 2}, {\"c\": [1]}]", 1);
	assert_int_equal(parse(&c, &why, "--l1-size-gb", "1", "--eviction-policy", "LRU"), 0);
	assert_int_equal(c.l2_adapter.n, 2);
	assert_string_equal(c.l2_adapter.v[1], "{\"c\":[1]}");
	assert_int_equal(c.l2_prefetch_max_mb, 256);
	conf_free(&c);
	/* flags take the place of what the environment says; an array is no adapter there */
	assert_int_equal(parse(&c, &why, REQUIRED, "--l2-adapter", "[{}]"), 0);
	assert_int_equal(c.l2_adapter.n, 1);
	assert_string_equal(c.l2_adapter.v[0], "[{}]");
	conf_free(&c);
	unsetenv("LMCACHE_APPLIANCE_L2_ADAPTER");
	for (int i = 4; i < 4 + (int)CONF_LIST_MAX + 1; i++)
		args[i] = "--l2-adapter={}";
	{
		char *argv[40] = {(char *)"prog"};
		int argc = 1;

		for (; args[argc - 1]; argc++)
			argv[argc] = (char *)args[argc - 1];
		assert_int_equal(conf_parse(argc, argv, &c, &why), -E2BIG);
		assert_int_equal(conf_parse(argc - 1, argv, &c, &why), 0);
		assert_int_equal(c.l2_adapter.n, CONF_LIST_MAX);
		conf_free(&c);
	}
}

static void adapters_are_shown(void **state)
{
	struct conf c;
	struct why why;
	json_t *list = json_pack("[{s:s}]", "type", "mock"), *blob, *sm;
	char *text;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--l2-store-policy", "skip_l1", "--l2-prefetch-policy", "retain",
			       "--l2-prefetch-load-timeout", "1.5"),
			 0);
	blob = json_loads(text = conf_json(&c, list), 0, NULL);
	free(text);
	sm = json_object_get(blob, "storage_manager_config");
	assert_true(json_equal(json_object_get(json_object_get(sm, "l2_adapter_config"), "adapters"), list));
	assert_string_equal(json_string_value(json_object_get(sm, "store_policy")), "skip_l1");
	assert_string_equal(json_string_value(json_object_get(sm, "prefetch_policy")), "retain");
	assert_true(json_real_value(json_object_get(sm, "prefetch_load_timeout")) == 1.5);
	assert_int_equal(list->refcount, 1);
	json_decref(blob);
	json_decref(list);
	conf_free(&c);
}

/* ---- environment, bind addresses ----------------------------------------------------------------------------------- */

static void a_kubernetes_service_is_not_a_port(void **state)
{
	struct capture cap;
	struct conf c;
	struct why why;
	char *text;
	int rc;

	(void)state;
	setenv("LMCACHE_APPLIANCE_PORT", "tcp://10.0.0.1:5555", 1);
	setenv("LMCACHE_APPLIANCE_SERVICE_HOST", "10.0.0.1", 1);
	setenv("LMCACHE_APPLIANCE_PORT_5555_TCP", "tcp://10.0.0.1:5555", 1);
	setenv("LMCACHE_APPLIANCE_CHUNKSIZE", "16", 1);
	setenv("LMCACHE_APPLIANCE_CHUNK_SIZE", "", 1);
	cap = capture_begin(STDERR_FILENO);
	rc = parse(&c, &why, REQUIRED);
	text = capture_end(cap);
	assert_int_equal(rc, 0);
	assert_int_equal(c.port, 5555);
	assert_int_equal(c.chunk_size, 256);
	assert_int_equal(count_of(text, "\n"), 1);
	assert_non_null(strstr(text, "LMCACHE_APPLIANCE_CHUNKSIZE names no option"));
	conf_free(&c);
	free(text);
	unsetenv("LMCACHE_APPLIANCE_SERVICE_HOST");
	unsetenv("LMCACHE_APPLIANCE_PORT_5555_TCP");
	unsetenv("LMCACHE_APPLIANCE_CHUNKSIZE");
}

static void environment_can_be_all(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	setenv("LMCACHE_APPLIANCE_L1_SIZE_GB", "2.5", 1);
	setenv("LMCACHE_APPLIANCE_EVICTION_POLICY", "LRU", 1);
	setenv("LMCACHE_LOG_LEVEL", "warn", 1);
	setenv("LMCACHE_APPLIANCE_SHM_NAME", "", 1);
	assert_int_equal(parse_list(&c, &why, (const char *const[]){NULL}), 0);
	assert_true(c.l1_size_gb == 2.5);
	assert_int_equal(c.log_level, LOG_LVL_WARNING);
	assert_string_equal(c.shm_name, "");
	conf_free(&c);
	setenv("LMCACHE_LOG_LEVEL", "loud", 1);
	assert_int_equal(parse_list(&c, &why, (const char *const[]){NULL}), -EINVAL);
	assert_string_equal(why.text, "LMCACHE_LOG_LEVEL loud: unknown value (DEBUG, INFO, WARNING, ERROR)");
}

static void loopback_needs_no_consent(void **state)
{
	static const char *const near[] = {"localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"};
	static const char *const far[] = {"0.0.0.0", "10.0.0.1", "::", "[::]", "example.org", "*", "128.0.0.1"};
	struct conf c;
	struct why why;

	(void)state;
	for (size_t i = 0; i < sizeof(near) / sizeof(near[0]); i++) {
		assert_int_equal(parse(&c, &why, REQUIRED, "--host", near[i], "--http-host", near[i]), 0);
		conf_free(&c);
	}
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
		assert_int_equal(parse(&c, &why, REQUIRED, "--host", far[i]), -EINVAL);
		assert_int_equal(parse(&c, &why, REQUIRED, "--http-host", far[i]), -EINVAL);
		assert_int_equal(parse(&c, &why, REQUIRED, "--http-host", far[i], "--no-http"), 0);
		conf_free(&c);
		assert_int_equal(parse(&c, &why, REQUIRED, "--host", far[i], "--insecure-allow-remote"), 0);
		conf_free(&c);
	}
}

static void addresses_have_one_form(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--host", "::1", "--http-host", "[::1]"), 0);
	assert_string_equal(c.host, "[::1]");
	assert_string_equal(c.http_host, "[::1]");
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--host", "tcp://localhost"), -EINVAL);
	assert_string_equal(why.text, "--host tcp://localhost: give the address alone, without tcp://");
	assert_int_equal(parse(&c, &why, REQUIRED, "--http-host", "http://::1"), -EINVAL);
	assert_string_equal(why.text, "--http-host http://::1: give the address alone, without http://");
}

static void an_unknown_dialect_is_refused(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED, "--dialect", "d4V3"), 0);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--dialect", "D99"), -EINVAL);
	assert_string_equal(why.text, "--dialect D99: unknown value (D1E, D1, D2, D3, D3b, D4, D4v3, D5a, D5, D6, D7)");
}

/* ---- output -------------------------------------------------------------------------------------------------------- */

static void http_has_its_own_section_names(void **state)
{
	static const char *const names[][2] = {{"mp_config", "mp"},
					       {"storage_manager_config", "storage_manager"},
					       {"obs_config", "observability"},
					       {"http_config", "http"},
					       {"appliance_config", "appliance"}};
	struct conf c;
	struct why why;
	json_t *blob, *http;
	char *text;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED), 0);
	blob = json_loads(text = conf_json(&c, NULL), 0, NULL);
	free(text);
	http = json_loads(text = conf_json_http(&c, NULL), 0, NULL);
	free(text);
	assert_int_equal(json_object_size(http), 5);
	for (size_t i = 0; i < 5; i++) {
		assert_non_null(json_object_get(http, names[i][1]));
		assert_true(json_equal(json_object_get(http, names[i][1]), json_object_get(blob, names[i][0])));
	}
	json_decref(blob);
	json_decref(http);
	conf_free(&c);
}

static void the_blob_has_upstreams_shape(void **state)
{
	char *want = slurp("tests/golden/server-blob.json"), *text;
	struct conf c;
	struct why why;
	json_t *got;

	(void)state;
	assert_int_equal(parse(&c, &why, "--l1-size-gb", "10", "--eviction-policy", "LRU"), 0);
	text = conf_json(&c, NULL);
	assert_non_null(text);
	got = json_loads(text, 0, NULL);
	assert_non_null(got);
	free(text);
	text = json_dumps(got, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
	text = realloc(text, strlen(text) + 2);
	strcat(text, "\n");
	assert_golden("tests/golden/server-blob.json", text);
	free(text);
	free(want);
	json_decref(got);
	conf_free(&c);
}

static void the_checked_in_docs_are_current(void **state)
{
	char *text, *want = slurp("docs/options.md");
	size_t len;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	conf_write_docs(out);
	fclose(out);
	if (strcmp(text, want) != 0)
		fail_msg("docs/options.md is not what the tables say: make docs");
	free(text);
	free(want);
}

static void every_allocation_may_fail(void **state)
{
	struct conf c;
	struct why why;
	int rc = -ENOMEM;
	uint64_t n;

	(void)state;
	for (n = 1; rc != 0; n++) {
		mem_fail_at(n);
		rc = parse(&c, &why, REQUIRED, "--config", "config/lmcache-appliance.conf", "--dialect", "D5");
		mem_fail_at(0);
		if (rc != 0) {
			assert_int_equal(rc, -ENOMEM);
			assert_non_null(strstr(why.text, "out of memory"));
		}
		assert_in_range(n, 1, 100);
	}
	assert_in_range(n, 6, 100);
	assert_string_equal(c.dialect, "D5");
	conf_free(&c);
}

#define T(name, f)                         \
	{                                  \
		name, f, setup, NULL, NULL \
	}

static int setup(void **state)
{
	(void)state;
	clean_environment();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T("01 defaults are upstream's", defaults_are_upstreams),
		T("02 worker pools follow --max-workers", workers_follow_max_workers),
		T("03 the last flag wins", the_last_flag_wins),
		T("04 aliases of values", aliases_of_values),
		T("05 help and version", help_and_version),
		T("06 error texts", error_texts),
		T("07 absent features are refused", absent_features_are_refused),
		T("08 their absence may be asked for", absence_may_be_asked_for),
		T("09 deprecated names warn once", deprecated_names_warn_once),
		T("10 deprecated names set the new field", deprecated_names_set_the_new_field),
		T("10b adapters are a list", adapters_are_a_list),
		T("10c adapters are shown", adapters_are_shown),
		T("11 a Kubernetes service is not a port", a_kubernetes_service_is_not_a_port),
		T("12 the environment can be all", environment_can_be_all),
		T("13 loopback needs no consent", loopback_needs_no_consent),
		T("13b addresses have one form", addresses_have_one_form),
		T("13c an unknown dialect is refused", an_unknown_dialect_is_refused),
		T("14 the blob has upstream's shape", the_blob_has_upstreams_shape),
		T("14b /conf has its own section names", http_has_its_own_section_names),
		T("15 the checked-in docs are current", the_checked_in_docs_are_current),
		T("16 every allocation may fail", every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
