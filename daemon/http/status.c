/* status.c - the snapshot as JSON.
 *
 * Key generations served side by side: gpu_context_meta and cache_context_meta hold the same objects, kv_cache_layout has the
 * flat keys of S1/S2 and the kernel_groups of S3+, the eviction controller stands under both of its names. Values are built
 * with json_pack, which gives NULL when a part is NULL, so one check at the end is enough.
 */
#include "daemon/http/status.h"

#include "daemon/base/mem.h"
#include "daemon/http/text_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void status_free(struct status *s)
{
	for (uint32_t i = 0; i < s->ncontexts; i++) {
		struct status_context *c = &s->contexts[i];

		for (uint32_t g = 0; g < c->ngroups; g++)
			mem_free(c->group[g].layers);
		mem_free(c->model_name);
		mem_free(c->engine_type);
	}
	mem_free(s->contexts);
	mem_free(s->threads);
	s->contexts = NULL;
	s->threads = NULL;
	s->ncontexts = s->nthreads = 0;
	status_numa_free(&s->numa);
	status_below_free(&s->below);
	json_decref(s->gpu);
	s->gpu = NULL;
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static json_t *num(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

/* Text may come from an engine: JSON takes valid UTF-8 only. */
static json_t *str(const char *s)
{
	json_t *out;
	char *clean;

	if (!s)
		return json_string("");
	clean = text_clean(s, strlen(s));
	out = clean ? json_string(clean) : NULL;
	mem_free(clean);
	return out;
}

/* Instance ids are 63-bit numbers at most; JSON integers here end there, so a larger one (never sent by an engine) is text. */
static json_t *id(uint64_t v)
{
	char text[24];

	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	snprintf(text, sizeof text, "%" PRIu64, v);
	return json_string(text);
}

static double ratio(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0.0;
}

/* Milliseconds are enough, and short. */
static json_t *seconds(double v)
{
	if (!(v > 0))
		return json_real(0.0);
	return json_real(v < 1e12 ? (double)(int64_t)(v * 1000.0 + 0.5) / 1000.0 : v < 1e300 ? v : 1e300);
}

/* ---- layouts ------------------------------------------------------------------------------------------------- */

/* "NL_X_TWO_NB_BS_NH_HS" is read as: NL tensors, each [2, NB, BS, NH, HS]. */
struct format {
	const char *name, *attention_backend;
};

/* Which engine sends which format: protocol reference 9.3. */
static const struct format formats[] = {
	{"NB_NL_TWO_BS_NH_HS", "vLLM cross-layer"},
	{"NB_NL_TWO_NH_BS_HS", "TensorRT-LLM"},
	{"NL_X_NBBS_ONE_HS", "SGLang MLA"},
	{"NL_X_NB_NH_BS_TWO_HS", "vLLM fused K and V"},
	{"NL_X_NB_BS_HS", "vLLM MLA"},
	{"NL_X_NB_TWO_BS_NH_HS", "vLLM non-MLA flash infer"},
	{"NL_X_NB_TWO_NH_BS_HS", "vLLM non-MLA flash infer (HND)"},
	{"NL_X_TWO_NB_BS_NH_HS", "vLLM non-MLA flash attention"},
	{"NL_X_TWO_NB_NH_BS_HS", "vLLM non-MLA flash attention (HND)"},
	{"TWO_X_NL_X_NBBS_NH_HS", "SGLang MHA"},
	{"TWO_X_NL_X_NB_BS_NH_HS", "SGLang MHA (paged)"},
};

static const char *attention_backend(const char *format)
{
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
		if (strcmp(formats[i].name, format) == 0)
			return formats[i].attention_backend;
	return "unknown";
}

static const char *dim_name(const char *word, size_t n)
{
	static const struct {
		const char *word, *shown;
	} names[] = {{"TWO", "2"}, {"ONE", "1"}, {"NBBS", "PBS"}, {"NL", "NL"},
		     {"NB", "NB"}, {"BS", "BS"}, {"NH", "NH"},    {"HS", "HS"}};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strlen(names[i].word) == n && strncmp(names[i].word, word, n) == 0)
			return names[i].shown;
	return "?";
}

/* Start of the tensor's own dimensions: behind the last "_X_". */
static const char *tensor_part(const char *format)
{
	for (const char *x; (x = strstr(format, "_X_"));)
		format = x + 3;
	return format;
}

/* "NL x " and "2 x NL x " with names, or with numbers when nlayers is given. */
static void put_factors(struct text *t, const char *format, const uint32_t *nlayers)
{
	const char *end = tensor_part(format);

	while (format < end) {
		size_t n = strcspn(format, "_");

		if (nlayers && strncmp(format, "NL_", 3) == 0)
			text_fmt(t, "%u x ", *nlayers);
		else
			text_fmt(t, "%s x ", dim_name(format, n));
		format += n + 3;
	}
}

static json_t *take(struct text *t)
{
	json_t *out = t->failed ? NULL : json_string(t->p);

	mem_free(t->p);
	return out;
}

/* "NL x [2, NB, BS, NH, HS]" */
static json_t *shape_text(const char *format)
{
	const char *p = tensor_part(format);
	struct text t = {0};

	put_factors(&t, format, NULL);
	text_fmt(&t, "[");
	while (*p) {
		size_t n = strcspn(p, "_");

		text_fmt(&t, "%s%s", dim_name(p, n), p[n] ? ", " : "]");
		p += n + (p[n] == '_');
	}
	return take(&t);
}

/* "32 x [2, 2048, 16, 8, 128]" */
static json_t *concrete_shape_text(const struct status_group *g)
{
	struct text t = {0};

	put_factors(&t, g->format, &g->nlayers);
	text_fmt(&t, "[");
	for (uint32_t i = 0; i < g->ndim && i < 8; i++)
		text_fmt(&t, "%s%" PRIu64, i ? ", " : "", g->concrete_shape[i]);
	text_fmt(&t, "]");
	return take(&t);
}

static json_t *dtype_text(const char *dtype)
{
	char text[64];

	snprintf(text, sizeof text, "torch.%s", dtype);
	return str(text);
}

static json_t *layer_indices(const struct status_group *g)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && g->layers && i < g->nlayers; i++)
		if (json_array_append_new(out, num(g->layers[i]))) {
			json_decref(out);
			return NULL;
		}
	return out;
}

/* The names changed from gpu_kv_* to engine_kv_* within S3: both. */
static json_t *kernel_group(const struct status_context *c, uint32_t i)
{
	const struct status_group *g = &c->group[i];

	return json_pack("{s:i s:i s:i s:o s:o s:o s:o s:o s:o s:b s:s s:o s:s s:o s:o s:s}", "kernel_group_idx",
			 (int)i, "engine_group_idx", (int)g->engine_group, "object_group_idx", 0, "num_layers",
			 num(g->nlayers), "layer_indices", layer_indices(g), "tokens_per_block", num(g->block_size),
			 "slots_per_block", num(g->block_size), "dtype", dtype_text(g->dtype),
			 "engine_kv_concrete_shape", concrete_shape_text(g), "is_mla", c->use_mla, "engine_kv_format",
			 g->format, "engine_kv_shape", shape_text(g->format), "gpu_kv_format", g->format,
			 "gpu_kv_shape", shape_text(g->format), "gpu_kv_concrete_shape", concrete_shape_text(g),
			 "attention_backend", attention_backend(g->format));
}

static json_t *kernel_groups(const struct status_context *c)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && i < c->ngroups; i++)
		if (json_array_append_new(out, kernel_group(c, i))) {
			json_decref(out);
			return NULL;
		}
	return out;
}

static json_t *hidden_dim_sizes(const struct status_context *c)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && i < c->ngroups; i++) {
		uint64_t dim = (uint64_t)c->group[i].num_heads * c->group[i].head_size;

		if (json_array_append_new(out, num(dim))) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

/* The flat keys describe the first group, as they did when there was only one. */
static json_t *kv_cache_layout(const struct status_context *c)
{
	static const struct status_group none = {.dtype = "", .format = ""};
	const struct status_group *g = c->ngroups ? &c->group[0] : &none;

	return json_pack("{s:o s:o s:o s:o s:b s:o s:s s:o s:o s:s s:o s:o}", "num_layers", num(c->num_layers),
			 "block_size", num(c->block_size), "hidden_dim_sizes", hidden_dim_sizes(c), "dtype",
			 c->ngroups ? dtype_text(g->dtype) : json_string(""), "is_mla", c->use_mla, "num_blocks",
			 num(g->num_blocks), "gpu_kv_format", g->format, "gpu_kv_shape",
			 c->ngroups ? shape_text(g->format) : json_string(""), "gpu_kv_concrete_shape",
			 c->ngroups ? concrete_shape_text(g) : json_string(""), "attention_backend",
			 c->ngroups ? attention_backend(g->format) : "", "cache_size_per_token",
			 num(c->cache_size_per_token), "kernel_groups", kernel_groups(c));
}

/* ---- contexts ------------------------------------------------------------------------------------------------ */

/* What the door has chosen for objects of this size on that GPU: {"store": "staged", "retrieve": "direct"}, or null. */
static json_t *copy_paths(const struct status *s, const struct status_context *c)
{
	json_t *gpus = json_object_get(s->gpu, "gpus"), *shape;
	uint32_t index = 0;
	size_t i;

	if (sscanf(c->device, "cuda:%u", &index) != 1)
		return json_null();
	json_array_foreach(json_object_get(json_object_get(json_array_get(gpus, index), "copier"), "shapes"), i, shape)
	{
		json_t *store = json_object_get(json_object_get(shape, "store"), "path");
		json_t *retrieve = json_object_get(json_object_get(shape, "retrieve"), "path");

		if (store && retrieve &&
		    (uint64_t)json_integer_value(json_object_get(shape, "object_bytes")) == c->object_bytes)
			return json_pack("{s:O s:O}", "store", store, "retrieve", retrieve);
	}
	return json_null();
}

/* What ours tells of every context, beside upstream's keys. */
static json_t *context_extras(const struct status *s, const struct status_context *c)
{
	const char *transfer = !c->engine_driven ? "lmcache_driven"
			       : c->shm_mode     ? "engine_driven_shm"
						 : "engine_driven";

	return json_pack("{s:o s:s s:o s:o s:s s:b s:o s:s? s:s s:s? s:o}", "engine", str(c->engine_type),
			 "transfer_mode", transfer, "object_bytes", num(c->object_bytes), "last_seen_seconds",
			 seconds(c->last_seen_s), "liveness", c->liveness ? c->liveness : "ping", "faulted", c->faulted,
			 "node", node_known(c->node) ? json_integer(c->node.os) : json_null(), "node_source",
			 c->node_source, "device", c->device[0] ? c->device : "cpu", "gpu_uuid",
			 c->uuid[0] ? c->uuid : NULL, "copy_paths", copy_paths(s, c));
}

static json_t *context_meta(const struct status *s, const struct status_context *c)
{
	json_t *extras = context_extras(s, c), *out;

	if (c->engine_driven)
		out = json_pack("{s:o s:o s:o s:b s:o s:o}", "model_name", str(c->model_name), "world_size",
				num(c->world_size), "block_size", num(c->block_size), "use_mla", c->use_mla,
				"num_layers", num(c->num_layers), "cache_size_per_token", num(c->cache_size_per_token));
	else
		out = json_pack("{s:o s:o s:o}", "model_name", str(c->model_name), "world_size", num(c->world_size),
				"kv_cache_layout", kv_cache_layout(c));
	if (!extras || !out || json_object_update(out, extras)) {
		json_decref(out);
		out = NULL;
	}
	json_decref(extras);
	return out;
}

enum which { HANDLE, ENGINE_DRIVEN, ALL };

static bool is_of(const struct status_context *c, enum which which)
{
	return which == ALL || c->engine_driven == (which == ENGINE_DRIVEN);
}

static json_t *context_ids(const struct status *s, enum which which)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && i < s->ncontexts; i++)
		if (is_of(&s->contexts[i], which) && json_array_append_new(out, id(s->contexts[i].instance_id))) {
			json_decref(out);
			return NULL;
		}
	return out;
}

static json_t *context_metas(const struct status *s, enum which which)
{
	json_t *out = json_object();
	char key[24];

	for (uint32_t i = 0; out && i < s->ncontexts; i++) {
		if (!is_of(&s->contexts[i], which))
			continue;
		snprintf(key, sizeof key, "%" PRIu64, s->contexts[i].instance_id);
		if (json_object_set_new(out, key, context_meta(s, &s->contexts[i]))) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

/* ---- storage manager ----------------------------------------------------------------------------------------- */

static json_t *l1_manager(const struct status *s)
{
	return json_pack("{s:b s:o s:o s:o s:o s:o s:o s:f s:i s:i s:o s:i s:i s:o s:o}", "is_healthy", s->is_healthy,
			 "total_object_count", num(s->objects), "write_locked_count", num(s->write_locked),
			 "read_locked_count", num(s->read_locked), "temporary_count", num(s->temporary),
			 "memory_used_bytes", num(s->used_bytes), "memory_total_bytes", num(s->total_bytes),
			 "memory_usage_ratio", ratio(s->used_bytes, s->total_bytes), "write_ttl_seconds",
			 (int)s->write_ttl_s, "read_ttl_seconds", (int)s->read_ttl_s, "memory_configured_bytes",
			 num(s->total_bytes), "staging_object_count", 0, "staging_bytes", 0, "memory_committed_bytes",
			 num(s->committed_bytes), "detached_count", num(s->detached));
}

static bool threads_healthy(const struct status *s)
{
	for (uint32_t i = 0; i < s->nthreads; i++)
		if (!s->threads[i].healthy)
			return false;
	return true;
}

/* Eviction runs where room is needed and from the timer: it is alive as long as every thread is. */
static json_t *eviction_controller(const struct status *s)
{
	bool alive = threads_healthy(s);

	return json_pack("{s:b s:b s:s s:f s:f}", "is_healthy", alive, "thread_alive", alive, "eviction_policy",
			 s->eviction_policy ? s->eviction_policy : "", "trigger_watermark", s->trigger_watermark,
			 "eviction_ratio", s->eviction_ratio);
}

static json_t *storage_manager(const struct status *s)
{
	const struct status_below *b = &s->below;
	json_t *out = json_pack("{s:b s:i s:o s:o s:o s:o s:o s:o s:o}", "is_healthy", s->is_healthy, "num_l2_adapters",
				(int)b->n, "l1_manager", l1_manager(s), "store_controller", status_store_controller(b),
				"prefetch_controller", status_prefetch_controller(b), "eviction_controller",
				eviction_controller(s), "l1_eviction_controller", eviction_controller(s),
				"l2_eviction_controller", status_l2_eviction_controller(b), "l2_adapters",
				status_l2_adapters(b));

	if (out && b->n && json_object_set_new(out, "tier", status_tier(b))) {
		json_decref(out);
		return NULL;
	}
	return out;
}

/* ---- ours ---------------------------------------------------------------------------------------------------- */

static json_t *threads(const struct status *s)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && i < s->nthreads; i++) {
		const struct status_thread *t = &s->threads[i];
		json_t *one = json_pack("{s:o s:i s:i s:o s:o s:b s:b}", "name", str(t->name), "cpu", t->cpu, "node",
					t->node, "queue_depth", num(t->queue_depth), "last_progress_seconds",
					seconds(t->last_progress_s), "busy", t->busy, "is_healthy", t->healthy);

		if (json_array_append_new(out, one)) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

static json_t *appliance(const struct status *s)
{
	return json_pack("{s:o s:o s:o s:o s:o s:{s:o s:o s:o} s:s s:{s:o s:o s:o}}", "uptime_seconds",
			 seconds(s->uptime_s), "zmq_endpoint", str(s->zmq_endpoint), "http_endpoint",
			 str(s->http_endpoint), "version", str(s->version), "threads", threads(s), "peers", "known",
			 num(s->peers.peers), "dropped_messages", num(s->peers.dropped_messages), "bad_messages",
			 num(s->peers.bad_messages), "copy_kernel", s->copy_kernel ? s->copy_kernel : "", "arena",
			 "backing", str(s->arena_backing), "total_bytes", num(s->total_bytes), "committed_bytes",
			 num(s->committed_bytes));
}

/* The door's own words; else why there is no door. */
static json_t *gpu(const struct status *s)
{
	return s->gpu ? json_incref(s->gpu) : json_pack("{s:n s:s}", "driver", "reason", s->no_gpu);
}

json_t *status_json(const struct status *s)
{
	json_t *ours = appliance(s);
	json_t *out =
		json_pack("{s:b s:s s:o s:s s:o s:o s:o s:o s:o s:o s:o s:o s:o}", "is_healthy", s->is_healthy,
			  "engine_type", "MPCacheEngine", "chunk_size", num(s->chunk_size), "hash_algorithm",
			  s->hash_algorithm ? s->hash_algorithm : "", "registered_gpu_ids", context_ids(s, HANDLE),
			  "gpu_context_meta", context_metas(s, HANDLE), "cache_context_meta", context_metas(s, HANDLE),
			  "registered_kv_cache_ids", context_ids(s, ALL), "registered_non_cuda_instance_ids",
			  context_ids(s, ENGINE_DRIVEN), "non_cuda_context_meta", context_metas(s, ENGINE_DRIVEN),
			  "active_sessions", num(s->active_sessions), "active_prefetch_jobs",
			  num(s->active_prefetch_jobs), "storage_manager", storage_manager(s));

	if (!ours || !out || json_object_update(out, ours) || json_object_set_new(out, "gpu", gpu(s)) ||
	    (s->numa.policy && json_object_set_new(out, "numa", status_numa_json(&s->numa)))) {
		json_decref(out);
		out = NULL;
	}
	json_decref(ours);
	return out;
}
