/* The status payload against a checked-in one, hostile names, and memory running out. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/mem.h"
#include "daemon/http/status.h"

#define GOLDEN "tests/unit/daemon/http/status.golden.json"

static char *copy(const char *s)
{
	return mem_strndup(s, strlen(s));
}

static struct status_group group(uint32_t engine_group, uint32_t first_layer, uint32_t nlayers, const char *format)
{
	struct status_group g = {.engine_group = engine_group,
				 .nlayers = nlayers,
				 .block_size = 16,
				 .kv_size = 2,
				 .num_heads = 8,
				 .head_size = 128,
				 .dtype = "bfloat16",
				 .format = format,
				 .num_blocks = 9000,
				 .concrete_shape = {2, 9000, 16, 8, 128},
				 .ndim = 5};

	g.layers = mem_calloc(nlayers, sizeof *g.layers);
	for (uint32_t i = 0; i < nlayers; i++)
		g.layers[i] = first_layer + i;
	return g;
}

/* One context of each kind: device handles with two groups, shared memory slots, bytes in messages. */
static void fill_contexts(struct status *s)
{
	s->contexts = mem_calloc(3, sizeof *s->contexts);
	s->ncontexts = 3;
	s->contexts[0] = (struct status_context){
		.instance_id = 4711,
		.model_name = copy("org/model"),
		.world_size = 2,
		.engine_type = copy("vllm"),
		.block_size = 16,
		.num_layers = 3,
		.hidden_dim_size = 1024,
		.object_bytes = 3145728,
		.cache_size_per_token = 12288,
		.group = {group(0, 0, 2, "NL_X_TWO_NB_BS_NH_HS"), group(1, 2, 1, "TWO_X_NL_X_NBBS_NH_HS")},
		.ngroups = 2,
		.last_seen_s = 1.25,
		.liveness = "pidfd",
		.node = {1},
		.node_source = "gpu",
		.device = "cuda:1",
		.uuid = "6c6d6361-2d74-6573-742d-677075400001"};
	s->contexts[1] = (struct status_context){.instance_id = INT64_MAX,
						 .model_name = copy("org/mla"),
						 .world_size = 1,
						 .engine_driven = true,
						 .shm_mode = true,
						 .engine_type = copy("sglang"),
						 .block_size = 64,
						 .num_layers = 61,
						 .use_mla = true,
						 .object_bytes = 1000,
						 .cache_size_per_token = 70272,
						 .last_seen_s = 0.0004,
						 .liveness = "ping",
						 .faulted = true,
						 .node = NODE_UNKNOWN};
	s->contexts[2] = (struct status_context){.instance_id = 7,
						 .model_name = copy("org/cpu"),
						 .world_size = 1,
						 .engine_driven = true,
						 .block_size = 128,
						 .num_layers = 4,
						 .node = NODE_UNKNOWN};
}

/* Two nodes; the second pool was never checked. A thread bound to two runs of CPUs, one that nobody placed. */
static void fill_numa(struct status_numa *n)
{
	*n = (struct status_numa){.policy = "local",
				  .bind = "try",
				  .source = "this system",
				  .this_system = true,
				  .nodes = 2,
				  .cpus = 8,
				  .devices = 3,
				  .fallbacks = 1,
				  .npools = 2,
				  .nplaces = 2,
				  .nnotes = 1};
	n->pools = mem_calloc(2, sizeof *n->pools);
	n->places = mem_calloc(2, sizeof *n->places);
	n->notes = mem_calloc(1, sizeof *n->notes);
	n->pools[0] = (struct status_pool){.node = {0},
					   .bytes = 2147483648,
					   .page_bytes = 2097152,
					   .used_bytes = 1048576,
					   .committed_bytes = 2147483648,
					   .backing = "hugetlb",
					   .bound = true,
					   .checked = true,
					   .pages = 1024,
					   .pages_looked = 1024,
					   .pages_on_node = 1013,
					   .pages_elsewhere = 10,
					   .pages_absent = 1,
					   .checked_s = 12.3456};
	n->pools[1] = (struct status_pool){.node = NODE_UNKNOWN,
					   .start = 2147483648,
					   .bytes = 2147483648,
					   .page_bytes = 2097152,
					   .backing = "hugetlb"};
	n->places[0] = (struct status_place){"lmca-xfer-0", 4711, "transfer", true, {{0xf | 1ull << 8}}, 3, {0}};
	n->places[1] = (struct status_place){"jemalloc_bg", 4712, "other", false, {{0}}, -1, NODE_UNKNOWN};
	n->notes[0] = (struct status_note){"warning", "node 1 has 8 of 512 huge pages", "echo 512 > nr_hugepages"};
}

static struct status snapshot(void)
{
	struct status s = {.is_healthy = true,
			   .uptime_s = 8072.5,
			   .zmq_endpoint = "tcp://localhost:5555",
			   .http_endpoint = "http://127.0.0.1:8080",
			   .version = "0.1.0",
			   .hash_algorithm = "blake3",
			   .chunk_size = 256,
			   .active_sessions = 2,
			   .active_prefetch_jobs = 1,
			   .objects = 1024,
			   .write_locked = 3,
			   .read_locked = 4,
			   .detached = 5,
			   .used_bytes = 3221225472,
			   .total_bytes = 4294967296,
			   .committed_bytes = 4294967296,
			   .write_ttl_s = 600,
			   .read_ttl_s = 300,
			   .eviction_policy = "LRU",
			   .trigger_watermark = 0.8,
			   .eviction_ratio = 0.2,
			   .peers = {6, 7, 8},
			   .below = {.max_in_flight = 8},
			   .copy_kernel = "avx512-nt",
			   .arena_backing = "shm lmcache_l1_pool_123"};

	fill_contexts(&s);
	s.gpu = json_pack("{s:s, s:[{s:i}, {s:i, s:{s:[{s:i, s:{s:s}, s:{s:s}}]}}]}", "driver", "12.8", "gpus", "gpu",
			  0, "gpu", 1, "copier", "shapes", "object_bytes", 3145728, "store", "path", "staged",
			  "retrieve", "path", "direct");
	assert_non_null(s.gpu);
	s.threads = mem_calloc(2, sizeof *s.threads);
	s.nthreads = 2;
	fill_numa(&s.numa);
	s.threads[0] = (struct status_thread){"control", 1, -1, 0, 0.001, false, true};
	s.threads[1] = (struct status_thread){"worker-0", 0, 0, 12, 0.25, true, true};
	return s;
}

static char *read_file(const char *path)
{
	char *text = calloc(1, 1 << 20);
	FILE *f = fopen(path, "r");

	assert_non_null(text);
	if (f) {
		assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
		fclose(f);
	}
	return text;
}

static void t01_the_whole_payload(void **state)
{
	struct status s = snapshot();
	json_t *json = status_json(&s);
	char *text, *golden;

	(void)state;
	assert_non_null(json);
	text = json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
	if (getenv("LMCA_UPDATE")) {
		FILE *f = fopen(GOLDEN, "w");
		assert_non_null(f);
		assert_true(fprintf(f, "%s\n", text) > 0);
		fclose(f);
	}
	golden = read_file(GOLDEN);
	if (strlen(golden) != strlen(text) + 1 || strncmp(golden, text, strlen(text)) != 0)
		fail_msg("payload is not the one of " GOLDEN ":\n%s", text);
	free(golden);
	free(text);
	json_decref(json);
	status_free(&s);
}

/* A dotted path into the payload. */
static json_t *at(json_t *json, const char *path)
{
	char word[64];

	while (*path) {
		size_t n = strcspn(path, ".");

		snprintf(word, sizeof word, "%.*s", (int)n, path);
		json = json_is_array(json) ? json_array_get(json, strtoul(word, NULL, 10))
					   : json_object_get(json, word);
		path += n + (path[n] == '.');
	}
	return json;
}

/* What upstream's own clients read, spelled out so that an update of the golden file cannot lose it. */
static void t02_keys_old_clients_read(void **state)
{
	static const char *const paths[] = {
		"is_healthy",
		"engine_type",
		"chunk_size",
		"hash_algorithm",
		"registered_gpu_ids.0",
		"gpu_context_meta.4711.model_name",
		"gpu_context_meta.4711.world_size",
		"gpu_context_meta.4711.kv_cache_layout.num_layers",
		"gpu_context_meta.4711.kv_cache_layout.block_size",
		"gpu_context_meta.4711.kv_cache_layout.hidden_dim_sizes.0",
		"gpu_context_meta.4711.kv_cache_layout.dtype",
		"gpu_context_meta.4711.kv_cache_layout.is_mla",
		"gpu_context_meta.4711.kv_cache_layout.num_blocks",
		"gpu_context_meta.4711.kv_cache_layout.gpu_kv_format",
		"gpu_context_meta.4711.kv_cache_layout.gpu_kv_shape",
		"gpu_context_meta.4711.kv_cache_layout.gpu_kv_concrete_shape",
		"gpu_context_meta.4711.kv_cache_layout.attention_backend",
		"gpu_context_meta.4711.kv_cache_layout.cache_size_per_token",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.kernel_group_idx",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.engine_group_idx",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.object_group_idx",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.layer_indices.0",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.tokens_per_block",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.slots_per_block",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.engine_kv_concrete_shape",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.engine_kv_format",
		"cache_context_meta.4711.kv_cache_layout.kernel_groups.1.engine_kv_shape",
		"registered_kv_cache_ids.2",
		"registered_non_cuda_instance_ids.1",
		"non_cuda_context_meta.9223372036854775807.use_mla",
		"non_cuda_context_meta.7.block_size",
		"active_sessions",
		"active_prefetch_jobs",
		"storage_manager.is_healthy",
		"storage_manager.num_l2_adapters",
		"storage_manager.l1_manager.total_object_count",
		"storage_manager.l1_manager.memory_usage_ratio",
		"storage_manager.l1_manager.write_ttl_seconds",
		"storage_manager.l1_manager.staging_bytes",
		"storage_manager.store_controller.pending_keys_count",
		"storage_manager.prefetch_controller.completed_results_count",
		"storage_manager.eviction_controller.eviction_policy",
		"storage_manager.l1_eviction_controller.trigger_watermark",
		"storage_manager.l2_eviction_controller.adapters",
		"storage_manager.l2_adapters",
		"uptime_seconds",
		"zmq_endpoint",
		"http_endpoint",
		"threads.1.queue_depth",
	};
	struct status s = snapshot();
	json_t *json = status_json(&s);

	(void)state;
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		if (!at(json, paths[i]))
			fail_msg("no %s", paths[i]);
	assert_null(at(json, "registered_gpu_ids.1"));
	assert_null(at(json, "gpu_context_meta.7"));
	assert_string_equal(json_string_value(at(json, "gpu_context_meta.4711.kv_cache_layout.gpu_kv_shape")),
			    "NL x [2, NB, BS, NH, HS]");
	assert_string_equal(json_string_value(at(json, "gpu_context_meta.4711.kv_cache_layout.gpu_kv_concrete_shape")),
			    "2 x [2, 9000, 16, 8, 128]");
	assert_string_equal(
		json_string_value(at(json, "gpu_context_meta.4711.kv_cache_layout.kernel_groups.1.engine_kv_shape")),
		"2 x NL x [PBS, NH, HS]");
	json_decref(json);
	status_free(&s);
}

/* What nobody knows is null: a number would be some node. */
static void t02b_unknown_nodes_are_null(void **state)
{
	struct status s = snapshot();
	json_t *json = status_json(&s);

	(void)state;
	assert_string_equal(json_string_value(at(json, "numa.notes.0.severity")), "warning");
	assert_true(json_is_null(at(json, "numa.pools.1.checked_s")));
	assert_true(json_is_null(at(json, "numa.pools.1.node")) &&
		    json_is_null(at(json, "numa.pools.1.pages_elsewhere")));
	assert_true(json_is_null(at(json, "numa.threads.1.node")) && json_is_null(at(json, "numa.threads.1.cpu")));
	assert_true(json_is_null(at(json, "non_cuda_context_meta.7.node")));
	assert_int_equal(json_integer_value(at(json, "numa.pools.0.pages_elsewhere")), 10);
	assert_string_equal(json_string_value(at(json, "numa.threads.0.planned_cpus")), "0-3,8");
	json_decref(json);
	status_free(&s);
	s = (struct status){.numa = {.policy = NULL}};
	json = status_json(&s);
	assert_null(json_object_get(json, "numa"));
	json_decref(json);
	status_free(&s);
}

static void t03_nothing_registered(void **state)
{
	struct status s = {0};
	json_t *json = status_json(&s);

	(void)state;
	assert_non_null(json);
	assert_false(json_boolean_value(at(json, "is_healthy")));
	assert_int_equal(json_array_size(at(json, "registered_gpu_ids")), 0);
	assert_int_equal(json_object_size(at(json, "gpu_context_meta")), 0);
	assert_true(json_real_value(at(json, "storage_manager.l1_manager.memory_usage_ratio")) == 0.0);
	json_decref(json);
	status_free(&s);
}

static void t04_a_stuck_thread_shows(void **state)
{
	struct status s = snapshot();
	json_t *json;

	(void)state;
	s.threads[1].healthy = false;
	json = status_json(&s);
	assert_true(json_is_false(at(json, "threads.1.is_healthy")));
	assert_true(json_is_false(at(json, "storage_manager.l1_eviction_controller.thread_alive")));
	assert_true(json_is_false(at(json, "storage_manager.eviction_controller.is_healthy")));
	json_decref(json);
	status_free(&s);
}

/* Names come from engines, numbers may be odd: the page must stay valid JSON. */
static void t05_hostile_values(void **state)
{
	struct status s = snapshot();
	json_t *json;

	(void)state;
	mem_free(s.contexts[0].model_name);
	s.contexts[0].model_name = copy("\xff\"\\\n\x01\xed\xa0\x80");
	s.contexts[0].instance_id = UINT64_MAX;
	s.contexts[0].last_seen_s = NAN;
	s.contexts[1].last_seen_s = INFINITY;
	s.contexts[0].cache_size_per_token = UINT64_MAX;
	s.uptime_s = -1;
	json = status_json(&s);
	assert_non_null(json);
	assert_string_equal(json_string_value(at(json, "gpu_context_meta.18446744073709551615.model_name")),
			    "\xEF\xBF\xBD\"\\\n\x01\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
	assert_string_equal(json_string_value(at(json, "registered_gpu_ids.0")), "18446744073709551615");
	assert_true(json_integer_value(at(json, "gpu_context_meta.18446744073709551615.kv_cache_layout."
						"cache_size_per_token")) == INT64_MAX);
	json_decref(json);
	status_free(&s);
}

static void t06_out_of_memory(void **state)
{
	struct status s = snapshot();
	json_t *json = NULL;
	uint64_t n;

	(void)state;
	for (n = 1; !json; n++) {
		mem_fail_at(n);
		json = status_json(&s);
		mem_fail_at(0);
	}
	assert_true(n > 10); /* texts are copied through mem.h */
	json_decref(json);
	status_free(&s);
}

/* jansson's own allocations fail one after the other. */
static uint64_t json_fail_at;

static void *json_malloc(size_t n)
{
	return json_fail_at && --json_fail_at == 0 ? NULL : malloc(n);
}

static void t07_out_of_memory_inside_jansson(void **state)
{
	struct status s = snapshot();
	json_t *json = NULL;
	uint64_t n;

	(void)state;
	json_set_alloc_funcs(json_malloc, free);
	for (n = 1; !json && n < 100000; n++) {
		json_fail_at = n;
		json = status_json(&s);
		json_fail_at = 0;
	}
	assert_non_null(json);
	assert_true(n > 300);
	json_decref(json);
	json_set_alloc_funcs(malloc, free);
	status_free(&s);
}

static void t08_free_twice_is_harmless(void **state)
{
	struct status s = snapshot();

	(void)state;
	status_free(&s);
	status_free(&s);
	assert_int_equal(s.ncontexts, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_the_whole_payload),       cmocka_unit_test(t02_keys_old_clients_read),
		cmocka_unit_test(t02b_unknown_nodes_are_null), cmocka_unit_test(t03_nothing_registered),
		cmocka_unit_test(t04_a_stuck_thread_shows),    cmocka_unit_test(t05_hostile_values),
		cmocka_unit_test(t06_out_of_memory),           cmocka_unit_test(t07_out_of_memory_inside_jansson),
		cmocka_unit_test(t08_free_twice_is_harmless),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
