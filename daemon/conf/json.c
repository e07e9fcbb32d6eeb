/* conf_json: the configuration in the three sections that upstream gives to runtime plugins and at /config (surface reference,
 * section 5.4), the later http_config, and one section of ours. */
#include "daemon/conf/conf_int.h"

#include <jansson.h>
#include <string.h>

static const char *name(const struct conf *c, enum conf_index i)
{
	return conf_enum_text(&conf_options[i], c);
}

static json_int_t gib(double n)
{
	return (json_int_t)(n * 1073741824.0);
}

static json_t *mp_config(const struct conf *c)
{
	return json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:[], s:{s:[], s:{}}, s:s, s:s?, s:s?, s:f, s:f, s:I, s:s}",
		"host", c->host, "port", (json_int_t)c->port, "chunk_size", (json_int_t)c->chunk_size, "max_workers",
		(json_int_t)c->max_workers, "max_gpu_workers", (json_int_t)c->max_gpu_workers, "max_cpu_workers",
		(json_int_t)c->max_cpu_workers, "hash_algorithm", name(c, CONF_AT_hash_algorithm), "engine_type",
		name(c, CONF_AT_engine_type), "runtime_plugin_locations", "runtime_plugin_config", "locations",
		"extra_config", "supported_transfer_mode", name(c, CONF_AT_supported_transfer_mode), "shm_name",
		c->shm_name, "instance_id", c->instance_id, "worker_reap_timeout_seconds",
		c->worker_reap_timeout_seconds, "worker_registration_grace_seconds",
		c->worker_registration_grace_seconds, "null_block_id", (json_int_t)c->null_block_id, "transport",
		name(c, CONF_AT_transport));
}

/* The load timeout is null where there is none, as upstream's. */
static json_t *storage_config(const struct conf *c, json_t *adapters)
{
	return json_pack("{s:{s:{s:I, s:b, s:I, s:I, s:b}, s:I, s:I}, s:{s:s, s:f, s:f}, s:{s:o}, s:s, s:s, s:I, s:o}",
			 "l1_manager_config", "memory_config", "size_in_bytes", gib(c->l1_size_gb), "use_lazy",
			 (int)c->l1_use_lazy, "init_size_in_bytes", gib(c->l1_init_size_gb), "align_bytes",
			 (json_int_t)c->l1_align_bytes, "use_hugepages", (int)c->l1_use_hugepages, "write_ttl_seconds",
			 (json_int_t)c->l1_write_ttl_seconds, "read_ttl_seconds", (json_int_t)c->l1_read_ttl_seconds,
			 "eviction_config", "eviction_policy", name(c, CONF_AT_eviction_policy), "trigger_watermark",
			 c->eviction_trigger_watermark, "eviction_ratio", c->eviction_ratio, "l2_adapter_config",
			 "adapters", adapters ? json_incref(adapters) : json_array(), "store_policy",
			 name(c, CONF_AT_l2_store_policy), "prefetch_policy", name(c, CONF_AT_l2_prefetch_policy),
			 "prefetch_max_in_flight", (json_int_t)c->l2_prefetch_max_in_flight, "prefetch_load_timeout",
			 c->l2_prefetch_load_timeout > 0 ? json_real(c->l2_prefetch_load_timeout) : json_null());
}

/* max_queue_size and prometheus_port have no counterpart here; scripts that read the blob expect the keys. */
static json_t *obs_config(const struct conf *c)
{
	return json_pack("{s:b, s:i, s:b, s:b, s:b, s:n, s:i, s:f}", "enabled", (int)!c->disable_observability,
			 "max_queue_size", 10000, "metrics_enabled", (int)!c->disable_metrics, "logging_enabled",
			 (int)!c->disable_logging, "tracing_enabled", 0, "otlp_endpoint", "prometheus_port", 9090,
			 "metrics_sample_rate", c->metrics_sample_rate);
}

static json_t *our_config(const struct conf *c)
{
	return json_pack(
		"{s:s, s:s?, s:s?, s:s?, s:b, s:I, s:I, s:b, s:s, s:b, s:s, s:s, s:s?, s:s, s:I, s:s, s:f, s:I, s:I, "
		"s:s, s:s, s:s?, s:I, s:s, s:I, s:b}",
		"version", CONF_VERSION, "config", c->config, "dialect", c->dialect, "state_dir", c->state_dir,
		"insecure_allow_remote", (int)c->insecure_allow_remote, "max_tokens", (json_int_t)c->max_tokens,
		"max_message_mb", (json_int_t)c->max_message_mb, "legacy_metrics", (int)c->legacy_metrics, "log_level",
		name(c, CONF_AT_log_level), "no_http", (int)c->no_http, "numa_policy", name(c, CONF_AT_numa_policy),
		"numa", name(c, CONF_AT_numa), "numa_map", c->numa_map, "numa_spill", name(c, CONF_AT_numa_spill),
		"numa_check_seconds", (json_int_t)c->numa_check_seconds, "l1_pages", c->l1_pages,
		"l2_prefetch_stall_seconds", c->l2_prefetch_stall_seconds, "l2_prefetch_max_mb",
		(json_int_t)c->l2_prefetch_max_mb, "l2_dirty_max_percent", (json_int_t)c->l2_dirty_max_percent,
		"l2_admission", name(c, CONF_AT_l2_admission), "cuda", name(c, CONF_AT_cuda), "cuda_library",
		c->cuda_library, "gpu_staging_size_mb", (json_int_t)c->gpu_staging_size_mb, "gpu_copy_path",
		name(c, CONF_AT_gpu_copy_path), "gpu_blocks", (json_int_t)c->gpu_blocks, "isolated_ipc",
		(int)c->isolated_ipc);
}

/* The same sections go by other names at /conf than in the plugins' blob. */
static char *dump(const struct conf *c, json_t *adapters, const char *mp, const char *storage, const char *obs,
		  const char *http, const char *ours)
{
	json_t *root = json_pack("{s:o, s:o, s:o, s:{s:s, s:I}, s:o}", mp, mp_config(c), storage,
				 storage_config(c, adapters), obs, obs_config(c), http, "http_host", c->http_host,
				 "http_port", (json_int_t)c->http_port, ours, our_config(c));
	char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;

	json_decref(root);
	return text;
}

char *conf_json(const struct conf *c, json_t *adapters)
{
	return dump(c, adapters, "mp_config", "storage_manager_config", "obs_config", "http_config",
		    "appliance_config");
}

char *conf_json_http(const struct conf *c, json_t *adapters)
{
	return dump(c, adapters, "mp", "storage_manager", "observability", "http", "appliance");
}
