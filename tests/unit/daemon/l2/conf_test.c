/* conf_test.c - --l2-adapter objects: what is accepted, and in which words the rest is refused. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct l2_conf *good(const char *json)
{
	struct why why = {0};
	struct l2_conf *c = NULL;
	if (l2_conf_parse(json, 0, &c, &why))
		fail_msg("%s: %s", json, why.text);
	return c;
}

struct refusal {
	const char *json;
	int err;
	const char *says[4];
};

static void refused(const struct refusal *r, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct why why = {0};
		struct l2_conf *c = NULL;
		int rc = l2_conf_parse(r[i].json, 3, &c, &why);
		if (rc != r[i].err)
			fail_msg("%.100s: %d (%s), expected %d", r[i].json, rc, why.text, r[i].err);
		assert_null(c);
		for (size_t k = 0; k < 4 && r[i].says[k]; k++)
			if (!strstr(why.text, r[i].says[k]))
				fail_msg("%.100s: '%s' does not say '%s'", r[i].json, why.text, r[i].says[k]);
	}
}
#define REFUSED(list) refused(list, sizeof(list) / sizeof((list)[0]))

static void texts_of_upstream(void **state)
{
	(void)state;
	static const struct refusal list[] = {
		{"{", -EINVAL, {"Invalid JSON for --l2-adapter #3: ", "line 1"}},
		{"", -EINVAL, {"Invalid JSON for --l2-adapter #3: "}},
		{"{\"type\": \"mock\"} x", -EINVAL, {"Invalid JSON for --l2-adapter #3: "}},
		{"{\"type\": \"mock\", \"type\": \"mock\"}",
		 -EINVAL,
		 {"Invalid JSON for --l2-adapter #3: ", "duplicate"}},
		{"[1]", -EINVAL, {"--l2-adapter #3: expected a JSON object"}},
		{"7", -EINVAL, {"--l2-adapter #3: expected a JSON object"}},
		{"null", -EINVAL, {"--l2-adapter #3: expected a JSON object"}},
		{"{}", -EINVAL, {"--l2-adapter #3: missing required key 'type'"}},
		{"{\"type\": 4}", -EINVAL, {"type: expected a text"}},
		{"{\"type\": \"nvme\"}", -EINVAL, {"unknown type 'nvme'; known: raw_block, fs, fs_native, mock"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1}",
		 -EINVAL,
		 {"missing required key 'mock_bandwidth_gb' of type mock"}},
		{"{\"type\": \"mock\", \"max_size_gb\": null, \"mock_bandwidth_gb\": 1}",
		 -EINVAL,
		 {"missing required key 'max_size_gb'"}},
		{"{\"type\": \"fs\"}", -EINVAL, {"missing required key 'base_path' of type fs"}},
		{"{\"type\": \"raw_block\"}", -EINVAL, {"missing required key 'device_path' of type raw_block"}},
		{"{\"type\": \"resp\", \"host\": \"h\"}", -EINVAL, {"missing required key 'port'"}},
		{"{\"type\": \"fault_inject\"}", -EINVAL, {"missing required key 'adapter'"}},
	};
	REFUSED(list);
}

static void types_we_do_not_serve(void **state)
{
	(void)state;
	static const char *const names[] = {"nixl_store",
					    "nixl_store_dynamic",
					    "mooncake_store",
					    "valkey",
					    "aerospike",
					    "bigtable",
					    "sagemaker-hyperpod",
					    "hfbucket",
					    "gcs",
					    "hf3fs",
					    "phx",
					    "nixl_native",
					    "s3",
					    "dax",
					    "plugin",
					    "native_plugin",
					    "p2p"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char json[128], says[128];
		snprintf(json, sizeof(json), "{\"type\": \"%s\", \"whatever\": 1}", names[i]);
		snprintf(says, sizeof(says), "type '%s' is not served: ", names[i]);
		struct refusal r = {json, -ENOTSUP, {says, "Served: raw_block"}};
		refused(&r, 1);
	}
}

static void keys_and_values(void **state)
{
	(void)state;
	static const struct refusal list[] = {
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"size\": 1}",
		 -EINVAL,
		 {"unknown key 'size'; known: ", "max_size_gb", "mock_bandwidth_gb"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction.eviction_ratio\": 0.2}",
		 -EINVAL,
		 {"unknown key 'eviction.eviction_ratio'"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction\": {\"policy\": "
		 "\"LRU\"}}",
		 -EINVAL,
		 {"unknown key 'policy' of eviction; known: eviction_policy, trigger_watermark, eviction_ratio"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction\": "
		 "{\"eviction_policy\": \"ARC\"}}",
		 -EINVAL,
		 {"eviction.eviction_policy: 'ARC' is none of LRU|noop"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction\": "
		 "{\"eviction_policy\": \"LR\"}}",
		 -EINVAL,
		 {"none of"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction\": "
		 "{\"trigger_watermark\": 1.5}}",
		 -EINVAL,
		 {"eviction.trigger_watermark: 1.5 is out of range (0.01 to 1)"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 1, \"eviction\": 3}",
		 -EINVAL,
		 {"eviction: expected an object"}},
		{"{\"type\": \"mock\", \"max_size_gb\": \"1\", \"mock_bandwidth_gb\": 1}",
		 -EINVAL,
		 {"max_size_gb: expected a number"}},
		{"{\"type\": \"mock\", \"max_size_gb\": -1, \"mock_bandwidth_gb\": 1}",
		 -EINVAL,
		 {"max_size_gb: -1 is out of range"}},
		{"{\"type\": \"mock\", \"max_size_gb\": 1e300, \"mock_bandwidth_gb\": 1}", -EINVAL, {"out of range"}},
		{"{\"type\": \"fs_native\", \"base_path\": \"/x\", \"num_workers\": 2.5}",
		 -EINVAL,
		 {"num_workers: expected an integer"}},
		{"{\"type\": \"fs_native\", \"base_path\": \"/x\", \"num_workers\": 0}",
		 -EINVAL,
		 {"num_workers: 0 is out of range (1 to 256)"}},
		{"{\"type\": \"fs_native\", \"base_path\": \"\"}", -EINVAL, {"base_path: empty"}},
		{"{\"type\": \"fs_native\", \"base_path\": \"a\\u0000b\"}", -EINVAL, {"Invalid JSON"}},
	};
	REFUSED(list);
}

static void what_is_not_here(void **state)
{
	(void)state;
	static const struct refusal list[] = {
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"persist_enabled\": false}",
		 -ENOTSUP,
		 {"persist_enabled is refused: "}},
		{"{\"type\": \"fs\", \"base_path\": \"/x\", \"serde\": {\"type\": \"fp8\"}}",
		 -ENOTSUP,
		 {"serde is refused: fp8 would change the bytes", "aesgcm"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"use_uring_cmd\": true}",
		 -ENOTSUP,
		 {"use_uring_cmd is refused: NVMe passthrough"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"fdp_enabled\": true}",
		 -ENOTSUP,
		 {"fdp_enabled is refused"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"per_tp_device_paths\": {}}",
		 -ENOTSUP,
		 {"per_tp_device_paths is refused"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"shared\": true}",
		 -ENOTSUP,
		 {"shared is refused"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"io_engine\": \"spdk\"}",
		 -EINVAL,
		 {"io_engine: 'spdk' is none of auto|io_uring|posix"}},
		{"{\"type\": \"raw_block\", \"device_path\": \"/x\", \"device_paths\": [\"/y\"]}",
		 -EINVAL,
		 {"exclude each other"}},
		{"{\"type\": \"raw_block\", \"device_paths\": []}", -EINVAL, {"device_paths: 0 entries"}},
		{"{\"type\": \"raw_block\", \"device_paths\": [3]}",
		 -EINVAL,
		 {"device_paths: expected a list of texts"}},
		{"{\"type\": \"fault_inject\", \"adapter\": {\"type\": \"mock\"}}",
		 -EINVAL,
		 {"--l2-adapter #3: missing required key 'max_size_gb'"}},
		{"{\"type\": \"fault_inject\", \"adapter\": {\"type\": \"s3\"}}",
		 -ENOTSUP,
		 {"type 's3' is not served"}},
	};
	REFUSED(list);
}

static void what_an_upstream_file_may_hold(void **state)
{
	(void)state;
	/* Every documented key of raw_block with its default. */
	l2_conf_free(good(
		"{\"type\": \"raw_block\", \"device_path\": \"/dev/nvme0n1\", \"slot_bytes\": 4198400, "
		"\"capacity_bytes\": 0, "
		"\"use_odirect\": true, \"block_align\": 4096, \"header_bytes\": 4096, \"meta_total_bytes\": "
		"268435456, "
		"\"meta_magic\": \"LMCIDX01\", \"meta_version\": 1, \"meta_checkpoint_interval_sec\": 60, "
		"\"meta_idle_quiet_ms\": 100, "
		"\"meta_enable_periodic\": true, \"meta_verify_on_load\": true, \"load_checkpoint_on_init\": true, "
		"\"enable_zero_copy\": true, \"io_engine\": \"posix\", \"iouring_queue_depth\": 256, "
		"\"use_uring_cmd\": false, "
		"\"max_data_transfer_size\": 0, \"fdp_enabled\": false, \"fdp_data_placement_policy\": \"none\", "
		"\"num_store_workers\": 2, \"num_lookup_workers\": 1, \"num_load_workers\": 4, \"persist_enabled\": "
		"true, "
		"\"serde\": null, \"shared\": false, \"affinity_tag\": \"_default\", "
		"\"eviction\": {\"eviction_policy\": \"LRU\", \"trigger_watermark\": 0.9, \"eviction_ratio\": 0.1}}"));
	l2_conf_free(good(
		"{\"type\": \"fs_native\", \"base_path\": \"/nvme/kv\", \"num_workers\": 8, \"relative_tmp_dir\": "
		"\"tmp\", "
		"\"use_odirect\": true, \"read_ahead_size\": 4096, \"max_capacity_gb\": 100.5, \"read_io_depth\": 0, "
		"\"read_max_bytes_in_flight\": 0, \"eviction\": {}}"));
	struct l2_conf *c = good("{\"type\": \"resp\", \"host\": \"h\", \"port\": 6379}");
	assert_int_equal(l2_conf_int(c, "num_workers"), 8);
	assert_string_equal(l2_conf_text(c, "username"), "");
	assert_false(l2_conf_has(c, "password"));
	assert_false(l2_conf_bool(c, "shared"));
	l2_conf_free(c);
}

static void values_come_back(void **state)
{
	(void)state;
	struct l2_conf *c = good("{\"type\": \"raw_block\", \"device_paths\": [\"/a\", \"/b\"], \"capacity_bytes\": "
				 "1099511627776, \"verify\": \"off\", "
				 "\"readmit\": 0.25, \"discard\": false, \"flush_ms\": 20.0}");
	assert_string_equal(l2_conf_type(c), "raw_block");
	assert_int_equal(l2_conf_count(c, "device_paths"), 2);
	assert_string_equal(l2_conf_item(c, "device_paths", 1), "/b");
	assert_int_equal(l2_conf_int(c, "capacity_bytes"), 1099511627776);
	assert_int_equal(l2_conf_int(c, "flush_ms"), 20);
	assert_string_equal(l2_conf_text(c, "verify"), "off");
	assert_true(l2_conf_real(c, "readmit") == 0.25);
	assert_false(l2_conf_bool(c, "discard"));
	assert_null(l2_conf_text(c, "device_path"));
	assert_string_equal(l2_conf_text(c, "io_engine"), "auto");
	l2_conf_free(c);
	c = good("{\"type\": \"mock\", \"max_size_gb\": 0.5, \"mock_bandwidth_gb\": 2, \"eviction\": "
		 "{\"eviction_ratio\": 0.5}}");
	assert_int_equal(l2_conf_gib(c, "max_size_gb"), 1 << 29);
	assert_true(l2_conf_real(c, "eviction.eviction_ratio") == 0.5);
	assert_true(l2_conf_real(c, "eviction.trigger_watermark") == 0.8);
	assert_string_equal(l2_conf_text(c, "eviction.eviction_policy"), "LRU");
	l2_conf_free(c);
}

static void secrets_are_not_shown(void **state)
{
	(void)state;
	struct l2_conf *c = good("{\"type\": \"fault_inject\", \"adapter\": {\"type\": \"resp\", \"host\": \"h\", "
				 "\"port\": 1, \"password\": \"hunter2\"}}");
	json_t *shown = l2_conf_json(c);
	char *text = json_dumps(shown, 0);
	assert_null(strstr(text, "hunter2"));
	assert_non_null(strstr(text, "<redacted>"));
	assert_string_equal(l2_conf_text(c->inner, "password"), "hunter2");
	free(text);
	json_decref(shown);
	l2_conf_free(c);
}

static void bounds(void **state)
{
	(void)state;
	struct why why;
	struct l2_conf *c = NULL;
	size_t n = L2_CONF_MAX + 100;
	char *json = malloc(n + 1);
	memset(json, ' ', n);
	json[n] = 0;
	assert_int_equal(l2_conf_parse(json, 0, &c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "longer than 65536 bytes"));
	memset(json, '[', 1000);
	json[1000] = 0;
	assert_int_equal(l2_conf_parse(json, 0, &c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "nested deeper than 8"));
	free(json);
	/* Brackets in texts are no depth. */
	l2_conf_free(good("{\"type\": \"fs\", \"base_path\": \"[[[[[[[[[[[[\\\"[[[[\"}"));
}

static void no_memory(void **state)
{
	(void)state;
	struct why why = {0};
	struct l2_conf *c = NULL;
	mem_fail_at(1);
	assert_int_equal(l2_conf_parse("{\"type\": \"fs\", \"base_path\": \"/x\"}", 0, &c, &why), -ENOMEM);
	mem_fail_at(0);
	assert_null(c);
}

/* The table against itself, and the page against the table. */
static void the_page_names_every_key(void **state)
{
	(void)state;
	char *page = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&page, &n);
	l2_conf_write_docs(out);
	fclose(out);
	for (uint32_t t = 0; t < L2_TYPES; t++) {
		char head[64];
		snprintf(head, sizeof(head), "\n## %s\n", l2_types[t].name);
		const char *at = strstr(page, head);
		assert_non_null(at);
		const char *end = strstr(at + 4, "\n## ");
		for (uint32_t i = 0; i < l2_nkeys; i++) {
			char name[128];
			if (!(l2_keys[i].types >> t & 1) || strcmp(l2_keys[i].name, "type") == 0)
				continue;
			snprintf(name, sizeof(name), "\n| `%s`", l2_keys[i].name);
			const char *line = strstr(at, name);
			if (!line || line > end)
				fail_msg("%s is not in the table of %s", l2_keys[i].name, l2_types[t].name);
			for (uint32_t k = 0; k < i; k++)
				if (l2_keys[k].types >> t & 1 && strcmp(l2_keys[k].name, l2_keys[i].name) == 0)
					fail_msg("%s is declared twice for %s", l2_keys[i].name, l2_types[t].name);
		}
	}
	FILE *file = fopen("docs/l2-adapters.md", "r");
	if (file) {
		char *stored = calloc(1, n + 2);
		size_t m = fread(stored, 1, n + 1, file);
		fclose(file);
		if (m != n || memcmp(stored, page, n) != 0)
			fail_msg("docs/l2-adapters.md is not what the table says: make docs");
		free(stored);
	}
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_of_upstream),
		cmocka_unit_test(types_we_do_not_serve),
		cmocka_unit_test(keys_and_values),
		cmocka_unit_test(what_is_not_here),
		cmocka_unit_test(what_an_upstream_file_may_hold),
		cmocka_unit_test(values_come_back),
		cmocka_unit_test(secrets_are_not_shown),
		cmocka_unit_test(bounds),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(the_page_names_every_key),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
