/* cmd_describe.c - `describe kvcache`: GET /status as a box.
 *
 * Reads every key generation of the payload (eviction_controller or l1_eviction_controller, gpu_context_meta or
 * cache_context_meta, ...): what a server lacks is shown as N/A. Source: shared surface reference, 2.3 and 4.4.
 */
#include "tools/commands.h"

#include "tools/httpc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DESCRIBE_WIDTH 50
#define GB             (1024.0 * 1024 * 1024)

/* The first of `keys` (NULL-terminated) that is there, NULL else. */
static json_t *first_of(json_t *o, const char *const *keys)
{
	json_t *v = NULL;
	for (; *keys && !v; keys++)
		v = json_object_get(o, *keys);
	return v;
}

static json_t *either(json_t *o, const char *a, const char *b)
{
	const char *keys[] = {a, b, NULL};
	return first_of(o, keys);
}

static double number(json_t *v)
{
	return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *text(json_t *v)
{
	const char *s = json_string_value(v);
	return s ? s : "N/A";
}

static void row_int(struct report *r, const char *label, const char *key, json_t *v)
{
	if (json_is_integer(v))
		report_int(r, label, key, (long long)json_integer_value(v));
	else
		report_both(r, label, key, json_null(), "N/A");
}

static void row_text(struct report *r, const char *label, const char *key, json_t *v)
{
	if (json_is_string(v))
		report_text(r, label, key, "%s", json_string_value(v));
	else
		report_both(r, label, key, json_null(), "N/A");
}

static void row_health(struct report *r, json_t *v)
{
	report_text(r, "Health", "health", "%s", json_is_true(v) ? "OK" : json_is_false(v) ? "UNHEALTHY" : "N/A");
}

/* Only where the server has it: RFC rows that upstream never served. */
static void row_optional_text(struct report *r, const char *label, const char *key, json_t *v)
{
	if (json_is_string(v))
		row_text(r, label, key, v);
}

static void row_uptime(struct report *r, json_t *v)
{
	if (!json_is_number(v) || json_number_value(v) < 0 || json_number_value(v) > 1e12)
		return;
	long long s = (long long)json_number_value(v);
	report_both(r, "Uptime", "uptime_seconds", json_integer(s), "%lldh %lldm %llds", s / 3600, s / 60 % 60, s % 60);
}

static void show_l1(struct report *r, json_t *l1)
{
	double used = number(json_object_get(l1, "memory_used_bytes"));
	double total = number(either(l1, "memory_total_bytes", "memory_configured_bytes"));
	report_real(r, "L1 capacity (GB)", "l1_capacity_gb", total / GB);
	if (isfinite(used) && total > 0)
		report_both(r, "L1 used (GB)", "l1_used_gb", json_real(round(used / GB * 100) / 100), "%.2f (%.1f%%)",
			    used / GB, used / total * 100);
	else
		report_real(r, "L1 used (GB)", "l1_used_gb", used / GB);
}

static void show_service(struct report *r, const char *url, json_t *status)
{
	json_t *sm = json_object_get(status, "storage_manager");
	json_t *l1 = json_object_get(sm, "l1_manager");
	json_t *eviction = either(sm, "l1_eviction_controller", "eviction_controller");
	row_health(r, json_object_get(status, "is_healthy"));
	report_text(r, "URL", "url", "%s", url);
	row_optional_text(r, "ZMQ endpoint", "zmq_endpoint", json_object_get(status, "zmq_endpoint"));
	row_optional_text(r, "HTTP endpoint", "http_endpoint", json_object_get(status, "http_endpoint"));
	row_uptime(r, json_object_get(status, "uptime_seconds"));
	row_text(r, "Engine type", "engine_type", json_object_get(status, "engine_type"));
	row_int(r, "Chunk size", "chunk_size", json_object_get(status, "chunk_size"));
	show_l1(r, l1);
	row_text(r, "Eviction policy", "eviction_policy", json_object_get(eviction, "eviction_policy"));
	row_int(r, "Cached objects", "cached_objects", json_object_get(l1, "total_object_count"));
	row_int(r, "Active sessions", "active_sessions", json_object_get(status, "active_sessions"));
}

/* ---- models: one section per (model, world size), its instances listed --------------------------------------------- */

static bool same_model(json_t *a, json_t *b)
{
	return json_equal(json_object_get(a, "model_name"), json_object_get(b, "model_name")) &&
	       json_equal(json_object_get(a, "world_size"), json_object_get(b, "world_size"));
}

/* True when no context before `stop` in `contexts` has its model. */
static bool first_of_its_model(json_t *contexts, const char *stop, json_t *meta)
{
	const char *id;
	json_t *other;
	json_object_foreach(contexts, id, other)
	{
		if (strcmp(id, stop) == 0)
			return true;
		if (same_model(other, meta))
			return false;
	}
	return true;
}

static void row_ids(struct report *r, json_t *contexts, json_t *meta)
{
	char list[512] = "";
	size_t used = 0;
	json_t *ids = json_array(), *other;
	const char *id;
	json_object_foreach(contexts, id, other)
	{
		if (!same_model(other, meta))
			continue;
		json_array_append_new(ids, json_string(id));
		int n = used < sizeof(list) ? snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "", id)
					    : 0;
		used += n > 0 ? (size_t)n : 0;
	}
	report_both(r, "GPU IDs", "gpu_ids", ids, "%s", list);
}

/* "cuda:0 (store staged, retrieve direct), cuda:1": the devices of a model's engines, each once. */
static void row_devices(struct report *r, json_t *contexts, json_t *meta)
{
	json_t *devices = json_array(), *seen = json_object(), *other;
	char list[512] = "";
	const char *id;
	size_t used = 0;
	json_object_foreach(contexts, id, other)
	{
		const char *device = json_string_value(json_object_get(other, "device"));
		json_t *paths = json_object_get(other, "copy_paths");
		const char *store = json_string_value(json_object_get(paths, "store"));
		const char *retrieve = json_string_value(json_object_get(paths, "retrieve"));
		int n = 0;

		if (!device || !same_model(other, meta) || json_object_get(seen, device))
			continue;
		json_object_set_new(seen, device, json_true());
		json_array_append_new(devices, json_string(device));
		if (used < sizeof(list))
			n = snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "", device);
		used += n > 0 ? (size_t)n : 0;
		if (store && retrieve && used < sizeof(list)) {
			n = snprintf(list + used, sizeof(list) - used, " (store %s, retrieve %s)", store, retrieve);
			used += n > 0 ? (size_t)n : 0;
		}
	}
	json_decref(seen);
	if (used)
		report_both(r, "Devices", "devices", devices, "%s", list);
	else
		json_decref(devices);
}

static void show_model(struct report *r, json_t *contexts, json_t *meta)
{
	json_t *layout = json_object_get(meta, "kv_cache_layout");
	report_section(r, "models", true, "Model: %s", text(json_object_get(meta, "model_name")));
	row_text(r, "Model", "model", json_object_get(meta, "model_name"));
	row_int(r, "World size", "world_size", json_object_get(meta, "world_size"));
	row_ids(r, contexts, meta);
	row_devices(r, contexts, meta);
	if (layout) {
		row_int(r, "Num layers", "num_layers", json_object_get(layout, "num_layers"));
		row_int(r, "Num blocks", "num_blocks", json_object_get(layout, "num_blocks"));
		row_int(r, "Cache size per token (bytes)", "cache_size_per_token",
			json_object_get(layout, "cache_size_per_token"));
	} else {
		row_int(r, "Block size", "block_size", json_object_get(meta, "block_size"));
	}
}

static void show_kernel_groups(struct report *r, json_t *meta)
{
	json_t *group, *groups = json_object_get(json_object_get(meta, "kv_cache_layout"), "kernel_groups");
	size_t i;
	json_array_foreach(groups, i, group)
	{
		report_section(r, "kernel_groups", true, "Kernel group %zu (%s)", i,
			       text(json_object_get(meta, "model_name")));
		row_int(r, "Engine group", "engine_group", json_object_get(group, "engine_group_idx"));
		row_int(r, "Num layers", "num_layers", json_object_get(group, "num_layers"));
		row_int(r, "Tokens per block", "tokens_per_block", json_object_get(group, "tokens_per_block"));
		row_text(r, "Dtype", "dtype", json_object_get(group, "dtype"));
		row_text(r, "KV format", "engine_kv_format", either(group, "engine_kv_format", "gpu_kv_format"));
	}
}

static void show_models(struct report *r, json_t *contexts)
{
	const char *id;
	json_t *meta;
	json_object_foreach(contexts, id, meta)
	{
		if (!first_of_its_model(contexts, id, meta))
			continue;
		show_model(r, contexts, meta);
		show_kernel_groups(r, meta);
	}
}

/* ---- GPUs in use ------------------------------------------------------------------------------------------------- */

static void show_gpus(struct report *r, json_t *status)
{
	json_t *gpu, *door = json_object_get(status, "gpu");
	size_t i;
	json_array_foreach(json_object_get(door, "gpus"), i, gpu)
	{
		json_t *copies = json_object_get(gpu, "copies");

		if (!(number(json_object_get(gpu, "engines")) > 0))
			continue;
		report_section(r, "gpus", true, "GPU: cuda:%zu", i);
		row_text(r, "Name", "name", json_object_get(gpu, "name"));
		row_text(r, "UUID", "uuid", json_object_get(gpu, "uuid"));
		row_int(r, "Engines", "engines", json_object_get(gpu, "engines"));
		report_real(r, "Mapped (GB)", "mapped_gb",
			    number(json_object_get(json_object_get(gpu, "mapped"), "bytes")) / GB);
		report_real(r, "L1 registered (GB)", "l1_registered_gb",
			    number(json_object_get(json_object_get(door, "registered"), "bytes")) / GB);
		row_int(r, "Stores", "stores", json_object_get(copies, "stored"));
		row_int(r, "Retrieves", "retrieves", json_object_get(copies, "retrieved"));
		row_int(r, "Failed copies", "failed_copies", json_object_get(copies, "failed"));
	}
}

/* ---- L2 ------------------------------------------------------------------------------------------------------ */

static void show_used(struct report *r, json_t *adapter)
{
	double used = number(json_object_get(adapter, "current_size_bytes"));
	double max = number(json_object_get(adapter, "max_capacity_bytes"));
	if (isfinite(used) && max > 0)
		report_both(r, "Used", "used_bytes", json_real(used), "%.2f GB / %.2f GB (%.1f%%)", used / GB, max / GB,
			    used / max * 100);
	double pool = number(json_object_get(adapter, "pool_size"));
	double left = number(json_object_get(adapter, "pool_free_slots"));
	if (isfinite(pool) && isfinite(left))
		report_both(r, "Pool used", "pool_used", json_real(pool - left), "%.0f/%.0f", pool - left, pool);
}

static void show_l2(struct report *r, json_t *status)
{
	json_t *adapter, *list = json_object_get(json_object_get(status, "storage_manager"), "l2_adapters");
	size_t i;
	json_array_foreach(list, i, adapter)
	{
		report_section(r, "l2_adapters", true, "L2: %s", text(json_object_get(adapter, "type")));
		row_text(r, "Type", "type", json_object_get(adapter, "type"));
		row_health(r, json_object_get(adapter, "is_healthy"));
		row_optional_text(r, "Backend", "backend", json_object_get(adapter, "backend"));
		row_optional_text(r, "Base path", "base_path", json_object_get(adapter, "base_path"));
		if (json_object_get(adapter, "stored_object_count"))
			row_int(r, "Stored objects", "stored_objects", json_object_get(adapter, "stored_object_count"));
		show_used(r, adapter);
	}
}

static struct report *show(const char *url, json_t *status)
{
	struct report *r = report_create("LMCache KV Cache Service", DESCRIBE_WIDTH);
	if (!r)
		return NULL;
	show_service(r, url, status);
	show_models(r, either(status, "gpu_context_meta", "cache_context_meta"));
	show_models(r, json_object_get(status, "non_cuda_context_meta"));
	show_gpus(r, status);
	show_l2(r, status);
	return r;
}

static int fetch(const struct cli_common *o, json_t **status, struct why *why)
{
	static const char *const paths[] = {"/status", "/api/status", NULL};
	struct httpc_answer a;
	int rc = httpc_first(o->url.text, paths, NULL, o->timeout_s, &a, why);
	if (rc)
		return rc;
	rc = httpc_check(&a, why);
	if (rc && a.code == 503)
		why_prefix(why, "Server unhealthy");
	*status = rc ? NULL : httpc_json(&a, why);
	httpc_free(&a);
	return rc ? rc : *status ? 0 : why->err;
}

int cmd_describe_kvcache(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.default_url = CLI_DEFAULT_HTTP, .default_timeout_s = 10};
	struct cli_common o = {0};
	struct why why = {0};
	json_t *status = NULL;
	int code = cli_parse(cmd, &spec, argc, argv, &o);
	if (code >= 0)
		return code;
	if (o.url.kind != URL_HTTP)
		return cli_usage(cmd, "describe reads /status over HTTP: give the HTTP URL, such as %s",
				 CLI_DEFAULT_HTTP);
	if (fetch(&o, &status, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	code = cli_finish(cmd, &o, show(o.url.text, status), CLI_OK);
	json_decref(status);
	return code;
}
