/* `describe kvcache` from sample payloads of both upstream generations, byte for byte. */
#include "tools/cmd_describe.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const char old_payload[] =
	"{\"is_healthy\":true,\"engine_type\":\"MPCacheEngine\",\"chunk_size\":256,\"active_sessions\":2,"
	"\"gpu_context_meta\":{\"4711\":{\"model_name\":\"org/model\",\"world_size\":2,\"kv_cache_layout\":"
	"{\"num_layers\":32,\"num_blocks\":9000,\"cache_size_per_token\":131072}},"
	"\"4712\":{\"model_name\":\"org/model\",\"world_size\":2,\"kv_cache_layout\":{\"num_layers\":32}}},"
	"\"storage_manager\":{\"l1_manager\":{\"memory_used_bytes\":45419279155,\"memory_total_bytes\":64424509440,"
	"\"total_object_count\":1024},\"eviction_controller\":{\"eviction_policy\":\"LRU\"},\"l2_adapters\":"
	"[{\"type\":\"fs_native\",\"is_healthy\":true,\"base_path\":\"/nvme/kv\",\"stored_object_count\":2048,"
	"\"current_size_bytes\":12884901888,\"max_capacity_bytes\":107374182400}]}}";

static const char old_box[] = "============ LMCache KV Cache Service ============\n"
			      "Health:                                         OK\n"
			      "URL:                         http://localhost:8080\n"
			      "Engine type:                         MPCacheEngine\n"
			      "Chunk size:                                    256\n"
			      "L1 capacity (GB):                            60.00\n"
			      "L1 used (GB):                        42.30 (70.5%)\n"
			      "Eviction policy:                               LRU\n"
			      "Cached objects:                               1024\n"
			      "Active sessions:                                 2\n"
			      "---------------- Model: org/model ----------------\n"
			      "Model:                                   org/model\n"
			      "World size:                                      2\n"
			      "GPU IDs:                                4711, 4712\n"
			      "Num layers:                                     32\n"
			      "Num blocks:                                   9000\n"
			      "Cache size per token (bytes):               131072\n"
			      "----------------- L2: fs_native ------------------\n"
			      "Type:                                    fs_native\n"
			      "Health:                                         OK\n"
			      "Base path:                                /nvme/kv\n"
			      "Stored objects:                               2048\n"
			      "Used:                 12.00 GB / 100.00 GB (12.0%)\n"
			      "==================================================\n";

static char *render(const char *payload, enum report_format format)
{
	char *text = NULL;
	size_t n = 0;
	json_t *status = json_loads(payload, 0, NULL);
	assert_non_null(status);
	struct report *r = show("http://localhost:8080", status);
	FILE *f = open_memstream(&text, &n);
	assert_int_equal(report_write(r, format, f), 0);
	fclose(f);
	report_destroy(r);
	json_decref(status);
	return text;
}

static void t01_first_generation(void **state)
{
	(void)state;
	char *text = render(old_payload, REPORT_TERMINAL);
	assert_string_equal(text, old_box);
	free(text);
}

static void t02_later_generation(void **state)
{
	(void)state;
	char *text = render("{\"is_healthy\":false,\"zmq_endpoint\":\"tcp://localhost:5555\",\"http_endpoint\":"
			    "\"http://localhost:8080\",\"uptime_seconds\":8072.4,\"engine_type\":\"MPCacheServer\","
			    "\"cache_context_meta\":{\"9\":{\"model_name\":\"m\",\"world_size\":1,\"kv_cache_layout\":"
			    "{\"num_layers\":2,\"kernel_groups\":[{\"engine_group_idx\":0,\"num_layers\":2,"
			    "\"tokens_per_block\":16,\"dtype\":\"torch.bfloat16\",\"engine_kv_format\":\"NL_X\"}]}}},"
			    "\"storage_manager\":{\"l1_eviction_controller\":{\"eviction_policy\":\"noop\"}}}",
			    REPORT_TERMINAL);
	static const char *const lines[] = {
		"Health:                                  UNHEALTHY\n",
		"ZMQ endpoint:                 tcp://localhost:5555\n",
		"HTTP endpoint:               http://localhost:8080\n",
		"Uptime:                                 2h 14m 32s\n",
		"L1 capacity (GB):                              N/A\n",
		"Eviction policy:                              noop\n",
		"Chunk size:                                    N/A\n",
		"--------------- Kernel group 0 (m) ---------------\n",
		"Tokens per block:                               16\n",
		"KV format:                                    NL_X\n",
	};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (!strstr(text, lines[i]))
			fail_msg("missing: %s in\n%s", lines[i], text);
	free(text);
}

static void t03_gpus(void **state)
{
	(void)state;
	char *text =
		render("{\"gpu_context_meta\":{\"1\":{\"model_name\":\"m\",\"world_size\":1,\"device\":\"cuda:1\","
		       "\"copy_paths\":"
		       "{\"store\":\"staged\",\"retrieve\":\"direct\"}},\"2\":{\"model_name\":\"m\",\"world_size\":1,"
		       "\"device\":"
		       "\"cuda:1\"},\"3\":{\"model_name\":\"m\",\"world_size\":1,\"device\":\"cpu\"},\"4\":{\"model_"
		       "name\":\"n\",\"world_size\":1,"
		       "\"device\":\"cuda:9\"}},\"gpu\":{\"gpus\":[{\"engines\":0,\"uuid\":\"idle\"},{\"engines\":2,"
		       "\"name\":\"H200\",\"uuid\":\"6c6d\",\"mapped\":{\"bytes\":2147483648},\"copies\":"
		       "{\"stored\":5,\"retrieved\":6,\"failed\":1}},7],\"registered\":{\"bytes\":1073741824}}}",
		       REPORT_TERMINAL);
	static const char *const lines[] = {
		"Devices: cuda:1 (store staged, retrieve direct), cpu\n",
		"Devices:                                    cuda:9\n",
		"------------------ GPU: cuda:1 -------------------\n",
		"Name:                                         H200\n",
		"Mapped (GB):                                  2.00\n",
		"L1 registered (GB):                           1.00\n",
		"Failed copies:                                   1\n",
	};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (!strstr(text, lines[i]))
			fail_msg("missing: %s in\n%s", lines[i], text);
	assert_null(strstr(text, "idle")); /* nobody registered memory of it */
	free(text);
}

static void t04_json(void **state)
{
	(void)state;
	char *text = render(old_payload, REPORT_JSON);
	json_t *whole = json_loads(text, 0, NULL), *m = json_object_get(whole, "metrics");
	static const char *const keys[] = {"health",          "url",        "engine_type",     "chunk_size",
					   "l1_capacity_gb",  "l1_used_gb", "eviction_policy", "cached_objects",
					   "active_sessions", "models",     "l2_adapters"};
	assert_string_equal(json_string_value(json_object_get(whole, "title")), "LMCache KV Cache Service");
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!json_object_get(m, keys[i]))
			fail_msg("missing: %s", keys[i]);
	assert_int_equal(json_array_size(json_object_get(m, "models")), 1);
	assert_true(json_real_value(json_object_get(m, "l1_used_gb")) == 42.3);
	json_decref(whole);
	free(text);
}

/* A server may send anything: wrong types show as N/A, nothing more. */
static void t05_hostile(void **state)
{
	(void)state;
	static const char *const payloads[] = {
		"{}",
		"{\"storage_manager\":[],\"gpu_context_meta\":[1,2]}",
		"{\"gpu_context_meta\":{\"1\":5,\"2\":null},\"uptime_seconds\":-1}",
		"{\"is_healthy\":\"yes\",\"chunk_size\":\"256\",\"uptime_seconds\":1e300}",
		"{\"storage_manager\":{\"l1_manager\":{\"memory_used_bytes\":1,\"memory_total_bytes\":0},"
		"\"l2_adapters\":[1,{},{\"current_size_bytes\":\"x\"}]}}",
	};
	for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
		char *text = render(payloads[i], REPORT_TERMINAL);
		assert_non_null(strstr(text, "Chunk size:                                    N/A\n"));
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_first_generation),
		cmocka_unit_test(t02_later_generation),
		cmocka_unit_test(t03_gpus),
		cmocka_unit_test(t04_json),
		cmocka_unit_test(t05_hostile),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
