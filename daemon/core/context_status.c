/* context_status.c - contexts as operators see them. */
#include "daemon/base/mem.h"
#include "daemon/core/context.h"
#include "daemon/http/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int fill_group(struct status_group *g, const struct ctx *c, uint32_t i)
{
	struct kv_group_facts f;
	const struct kv_tensor *t;

	kv_layout_group(c->layout, i, &f);
	g->layers = mem_calloc(f.nlayers ? f.nlayers : 1, sizeof(*g->layers));
	if (!g->layers)
		return -ENOMEM;
	memcpy(g->layers, f.layers, f.nlayers * sizeof(*g->layers));
	g->engine_group = f.engine_group;
	g->nlayers = f.nlayers;
	g->block_size = f.block_size;
	g->kv_size = f.kv_size;
	g->num_heads = f.num_heads;
	g->head_size = f.head_size;
	g->dtype = pk_dtype_name((enum pk_dtype)f.dtype);
	g->format = kv_format_name(f.format);
	g->num_blocks = f.num_blocks;
	t = kv_layout_tensor(c->layout, 0);
	g->ndim = t->ndim;
	memcpy(g->concrete_shape, t->shape, t->ndim * sizeof(t->shape[0]));
	return 0;
}

static const char *const node_sources[] = {
	[CTX_NODE_UNKNOWN] = NULL, [CTX_NODE_PAGES] = "pages", [CTX_NODE_CPUS] = "cpus", [CTX_NODE_GPU] = "gpu"};

static int fill(struct status_context *s, const struct ctx *c, uint32_t chunk_tokens, uint64_t now_ms)
{
	uint64_t seen = atomic_load(&c->last_seen_ms);
	int err = 0;

	s->instance_id = c->instance_id;
	s->model_name = mem_strndup(c->model, strlen(c->model));
	s->engine_type = mem_strndup(c->engine_type, strlen(c->engine_type));
	if (!s->model_name || !s->engine_type)
		return -ENOMEM;
	s->world_size = c->world_size;
	s->engine_driven = c->kind != CTX_PAGED;
	s->shm_mode = c->kind == CTX_SLOTS;
	s->block_size = c->block_size;
	s->num_layers = c->num_layers;
	s->hidden_dim_size = c->hidden;
	s->use_mla = c->use_mla;
	s->object_bytes = c->object_bytes;
	s->cache_size_per_token = chunk_tokens ? c->object_bytes / chunk_tokens : 0;
	s->last_seen_s = now_ms > seen ? (double)(now_ms - seen) / 1000.0 : 0;
	s->liveness = ctx_watched(c) ? "pidfd" : "ping";
	s->faulted = ctx_faulted(c);
	s->node = c->node;
	s->node_source = node_sources[c->node_source];
	snprintf(s->uuid, sizeof(s->uuid), "%s", c->gpu_uuid);
	snprintf(s->device, sizeof(s->device), "%s", c->device);
	for (uint32_t i = 0; !err && c->layout && i < kv_layout_groups(c->layout) && i < STATUS_MAX_GROUPS; i++) {
		err = fill_group(&s->group[i], c, i);
		s->ngroups += !err;
	}
	return err;
}

int ctx_status(struct ctx_registry *r, struct status *out, uint64_t now_ms)
{
	uint32_t n;
	struct ctx **all = ctx_get_all(r, &n);
	int err = 0;

	out->contexts = all ? mem_calloc(n ? n : 1, sizeof(*out->contexts)) : NULL;
	if (!out->contexts)
		err = -ENOMEM;
	for (uint32_t i = 0; all && i < n; i++) {
		if (!err)
			err = fill(&out->contexts[out->ncontexts++], all[i], out->chunk_size, now_ms);
		ctx_put(r, all[i]);
	}
	mem_free(all);
	return err;
}
