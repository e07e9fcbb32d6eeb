/* register.c - building contexts from what engines send. Every number here comes from outside. */
#include "daemon/base/mem.h"
#include "daemon/core/context.h"

#include <errno.h>
#include <string.h>

#define POOL_PREFIX "lmcache_l1_pool_" /* what servers of this protocol call their L1 */

/* A client that registered L1 itself could read and overwrite every tenant's chunks with RETRIEVE and STORE. */
static bool is_pool(struct slice name, const char *arena_name)
{
	while (name.n && *(const char *)name.p == '/')
		name = slice_of((const char *)name.p + 1, name.n - 1);
	if (arena_name && *arena_name && slice_is(name, arena_name))
		return true;
	return name.n >= strlen(POOL_PREFIX) && memcmp(name.p, POOL_PREFIX, strlen(POOL_PREFIX)) == 0;
}

static int map_tensor(const struct pk_wrapper *w, const char *arena_name, struct ctx *c, struct kv_tensor *t,
		      struct why *why)
{
	struct shmx_map *map;
	int err;

	if (is_pool(w->shm_name, arena_name))
		return why_set(why, -EACCES, "'%.*s' is a server's L1 memory, not a KV cache", SLICE_FMT(w->shm_name));
	err = shmx_open(w->shm_name, w->nbytes, &map, why);
	if (err)
		return err;
	c->maps[c->nmaps++] = map;
	*t = (struct kv_tensor){.base = shmx_base(map),
				.bytes = w->nbytes,
				.offset = w->storage_offset * pk_dtype_size(w->dtype),
				.element_size = pk_dtype_size(w->dtype),
				.dtype = w->dtype,
				.ndim = w->ndim};
	memcpy(t->shape, w->shape, sizeof(t->shape));
	memcpy(t->stride, w->stride, sizeof(t->stride));
	return 0;
}

_Static_assert(PK_MAX_DIMS == KV_MAX_DIMS, "shapes are copied whole");

/* GPU memory of a registration, until the engine takes it over. */
struct imported {
	struct gpu_view **v;
	uint32_t n;
};

/* `pid`: a descriptor is taken from that process, its counters are recognised by their owner, and a reused pid by its start. */
static int import_tensor(uint32_t pid, const struct pk_wrapper *w, const struct ctx_paged_conf *conf,
			 struct imported *in, struct kv_tensor *t, struct why *why)
{
	struct gpu_view *v;
	int err;

	if (!conf->gpu)
		return why_set(why, -EOPNOTSUPP,
			       "a CUDA handle (device %.*s), but %s; use engine-driven transfer or CPU shared-memory "
			       "tensors",
			       SLICE_FMT(w->device_uuid),
			       conf->no_gpu && *conf->no_gpu ? conf->no_gpu : "this server has no CUDA door");
	err = gpu_import(conf->gpu, w, pid, &v, why);
	if (err)
		return err;
	in->v[in->n++] = v;
	*t = (struct kv_tensor){.base = (uint8_t *)(uintptr_t)gpu_view_address(v), /* never read here */
				.bytes = gpu_view_bytes(v),
				.offset = w->storage_offset * pk_dtype_size(w->dtype),
				.element_size = pk_dtype_size(w->dtype),
				.dtype = w->dtype,
				.ndim = w->ndim};
	memcpy(t->shape, w->shape, sizeof(t->shape));
	memcpy(t->stride, w->stride, sizeof(t->stride));
	return 0;
}

static int map_tensors(const struct wire_req *req, const struct ctx_paged_conf *conf, struct ctx *c,
		       struct imported *in, struct kv_tensor *tensors, struct why *why)
{
	uint32_t pid = 0;
	bool gpu = false;

	for (uint32_t i = 0; i < req->nwrappers; i++) {
		struct pk_wrapper w;
		int err = pk_wrapper_parse(req->wrappers[i], conf->pk, &w, why);

		if (!err && i == 0) {
			c->dtype = w.dtype;
			gpu = w.kind != PK_CPU_SHM;
			pid = gpu && conf->gpu && conf->pid ? conf->pid(conf->ctx, req->instance_id) : 0;
		}
		if (!err && gpu != (w.kind != PK_CPU_SHM))
			err = why_set(why, -EINVAL, "%s, but the first one is %s: an engine has one kind of memory",
				      gpu ? "shared memory of the host" : "GPU memory",
				      gpu ? "GPU memory" : "shared memory of the host");
		if (!err)
			err = gpu ? import_tensor(pid, &w, conf, in, &tensors[i], why)
				  : map_tensor(&w, conf->arena_name, c, &tensors[i], why);
		if (err) {
			why_prefix(why, "tensor %u", i);
			return err;
		}
	}
	return 0;
}

/* Takes the views over. The engine borrows the layout, so it must go before the context does: context_gpu.c. */
static int start_engine(const struct ctx_paged_conf *conf, struct imported *in, struct ctx *c, struct why *why)
{
	uint32_t n = in->n;
	struct gpu_facts f;
	int err;

	if (!n)
		return 0;
	in->n = 0;
	err = gpu_engine_create(conf->gpu, c->layout, in->v, n, &c->gpu, why);
	if (err)
		return err;
	c->gpu_index = gpu_engine_gpu(c->gpu);
	c->gpu_users = 1;
	c->engines = conf->engines;
	device_name(c->gpu_index, c->device);
	gpu_facts(conf->gpu, c->gpu_index, &f);
	memcpy(c->gpu_uuid, f.uuid, sizeof(c->gpu_uuid));
	if (c->engines)
		atomic_fetch_add(&c->engines->all, 1);
	return 0;
}

static int build_layout(const struct wire_req *req, const struct ctx_paged_conf *conf, const struct kv_tensor *tensors,
			struct ctx *c, struct why *why)
{
	struct kv_engine_group groups[WIRE_MAX_GROUPS];
	struct kv_layout_in in = {.engine_type = req->engine_type,
				  .hint_kv_layout = req->hints.kv_layout,
				  .hint_list_layout = req->hints.kv_list_layout,
				  .hint_num_kv_heads = req->hints.num_kv_heads,
				  .hint_tokens_per_block = req->hints.tokens_per_block,
				  .hint_head_dim = req->hints.head_dim,
				  .tensors = tensors,
				  .ntensors = req->nwrappers,
				  .groups = groups,
				  .ngroups = req->ngroups,
				  .chunk_tokens = conf->chunk_tokens,
				  .has_null_block = true,
				  .null_block = conf->null_block};
	struct kv_group_facts first;
	int err;

	for (uint32_t i = 0; i < req->ngroups; i++)
		groups[i] = (struct kv_engine_group){req->groups[i].layer_indices, req->groups[i].nlayers,
						     req->groups[i].tokens_per_block, req->groups[i].sw_size_tokens};
	err = kv_layout_create(&in, &c->layout, why);
	if (err)
		return err;
	c->object_bytes = kv_object_bytes(c->layout);
	c->num_layers = kv_layout_num_layers(c->layout);
	c->block_size = kv_layout_block_size(c->layout, 0);
	kv_layout_group(c->layout, 0, &first);
	c->hidden = first.num_heads * first.head_size;
	c->use_mla = first.kv_size == 1;
	if (c->object_bytes == 0 || c->object_bytes > CTX_MAX_OBJECT)
		return why_set(why, -ERANGE, "a chunk of this layout takes %llu bytes, at most %llu",
			       (unsigned long long)c->object_bytes, CTX_MAX_OBJECT);
	return 0;
}

int ctx_paged_create(const struct wire_req *req, const struct ctx_paged_conf *conf, struct ctx **out, struct why *why)
{
	struct imported in = {0};
	struct kv_tensor *tensors;
	struct ctx *c;
	int err;

	if (req->nwrappers == 0 || req->nwrappers > KV_MAX_TENSORS)
		return why_set(why, -EINVAL, "%u tensors, expected 1 to %d", req->nwrappers, KV_MAX_TENSORS);
	c = ctx_create(req->instance_id, CTX_PAGED, req->model, req->engine_type, req->world_size);
	tensors = mem_calloc(req->nwrappers, sizeof(*tensors));
	in.v = mem_calloc(req->nwrappers, sizeof(struct gpu_view *));
	if (c)
		c->maps = mem_calloc(req->nwrappers, sizeof(*c->maps));
	err = c && tensors && in.v && c->maps ? 0 : why_set(why, -ENOMEM, "out of memory");
	if (!err)
		err = map_tensors(req, conf, c, &in, tensors, why);
	if (!err)
		err = build_layout(req, conf, tensors, c, why);
	if (!err)
		err = start_engine(conf, &in, c, why);
	while (in.n)
		gpu_view_put(in.v[--in.n]);
	mem_free(in.v);
	mem_free(tensors);
	if (err) {
		ctx_put(NULL, c);
		return err;
	}
	*out = c;
	return 0;
}

int ctx_engine_driven_create(const struct wire_req *req, uint32_t chunk_tokens, bool slots, struct ctx **out,
			     struct why *why)
{
	const struct wire_engine_driven *ed = &req->ed;
	enum pk_dtype dtype = pk_dtype_parse(ed->dtype);
	unsigned __int128 bytes;
	struct ctx *c;

	if (dtype == PK_DTYPE_NONE)
		return why_set(why, -EINVAL, "unknown dtype '%.*s'", SLICE_FMT(ed->dtype));
	if (ed->num_layers == 0 || ed->hidden_dim_size == 0 || ed->block_size == 0 || chunk_tokens % ed->block_size)
		return why_set(why, -EINVAL, "layers %u, hidden size %u, block size %u (must divide chunk size %u)",
			       ed->num_layers, ed->hidden_dim_size, ed->block_size, chunk_tokens);
	bytes = (unsigned __int128)(ed->use_mla ? 1 : 2) * ed->num_layers * chunk_tokens * ed->hidden_dim_size *
		pk_dtype_size(dtype);
	if (bytes > CTX_MAX_OBJECT)
		return why_set(why, -ERANGE, "a chunk would take more than %llu bytes", CTX_MAX_OBJECT);
	c = ctx_create(req->instance_id, slots ? CTX_SLOTS : CTX_BYTES, req->model, req->engine_type, req->world_size);
	if (!c)
		return why_set(why, -ENOMEM, "out of memory");
	c->dtype = dtype;
	c->block_size = ed->block_size;
	c->num_layers = ed->num_layers;
	c->hidden = ed->hidden_dim_size;
	c->use_mla = ed->use_mla;
	c->object_bytes = (uint64_t)bytes;
	if (!ed->use_mla)
		c->shape[c->ndim++] = 2;
	c->shape[c->ndim++] = ed->num_layers;
	c->shape[c->ndim++] = chunk_tokens;
	c->shape[c->ndim++] = ed->hidden_dim_size;
	*out = c;
	return 0;
}
