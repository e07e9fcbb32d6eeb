/* What a payload frame can hold, one item per field of wire_req. Blend and P2P are in blend.c. */
#include "transport/wire/blend_int.h"
#include "transport/wire/wire_int.h"

#define AT(field) offsetof(struct wire_req, field)

static bool get_instance(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;

	r->has_instance = true;
	return mp_uint(&c->in, UINT64_MAX, &r->instance_id);
}

static void put_instance(struct wire_pen *pen, const void *obj)
{
	mp_put_uint(&pen->out, ((const struct wire_req *)obj)->instance_id);
}

static void put_instance_opt(struct wire_pen *pen, const void *obj)
{
	if (((const struct wire_req *)obj)->has_instance)
		put_instance(pen, obj);
	else
		mp_put_nil(&pen->out);
}

static bool get_wrappers(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;
	struct slice *v = c->scratch->items;

	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &r->nwrappers))
		return false;
	r->wrappers = v;
	for (uint32_t i = 0; i < r->nwrappers; i++) {
		if (!mp_ext(&c->in, 1, WIRE_MAX_WRAPPER, &v[i]))
			return false;
	}
	return true;
}

static void put_wrappers(struct wire_pen *pen, const void *obj)
{
	const struct wire_req *r = obj;

	mp_put_array(&pen->out, r->nwrappers);
	for (uint32_t i = 0; i < r->nwrappers; i++)
		mp_put_ext(&pen->out, 1, r->wrappers[i]);
}

static bool get_model(struct wire_cur *c, void *obj)
{
	return wire_get_model(c, &((struct wire_req *)obj)->model);
}

static void put_model(struct wire_pen *pen, const void *obj)
{
	mp_put_str(&pen->out, ((const struct wire_req *)obj)->model);
}

/* ---- layout hints, engine groups, engine-driven registration ---------------------------------------------------- */

#define HINT(field) offsetof(struct wire_hints, field)

static const struct wire_item hint_items[] = {
	{"kv_layout", KIND_NAME, ITEM_OMIT | ITEM_NIL_OK, HINT(kv_layout), 64, NULL, NULL, NULL},
	{"num_kv_heads", KIND_U32, ITEM_OMIT | ITEM_NIL_OK, HINT(num_kv_heads), 0, NULL, NULL, NULL},
	{"tokens_per_block", KIND_U32, ITEM_OMIT | ITEM_NIL_OK, HINT(tokens_per_block), 0, NULL, NULL, NULL},
	{"head_dim", KIND_U32, ITEM_OMIT | ITEM_NIL_OK, HINT(head_dim), 0, NULL, NULL, NULL},
	{"inference_engine_logical_block_size", KIND_U32, ITEM_OMIT | ITEM_NIL_OK, HINT(logical_block_size), 0, NULL,
	 NULL, NULL},
	{"kv_list_layout", KIND_NAME, ITEM_OMIT | ITEM_NIL_OK, HINT(kv_list_layout), 64, NULL, NULL, NULL},
};
#define HINT_ITEMS (sizeof(hint_items) / sizeof(hint_items[0]))

static bool get_hints(struct wire_cur *c, void *obj)
{
	return wire_get_map(c, hint_items, HINT_ITEMS, &((struct wire_req *)obj)->hints, NULL);
}

static void put_hints(struct wire_pen *pen, const void *obj)
{
	wire_put_map(pen, hint_items, HINT_ITEMS, &((const struct wire_req *)obj)->hints);
}

static bool get_layers(struct wire_cur *c, void *obj)
{
	struct wire_group_info *g = obj;

	return mp_array(&c->in, WIRE_MAX_TENSORS, &g->nlayers) && wire_get_u32s(c, g->nlayers, &g->layer_indices);
}

static void put_layers(struct wire_pen *pen, const void *obj)
{
	const struct wire_group_info *g = obj;

	wire_put_u32s(pen, g->layer_indices, g->nlayers);
}

#define GROUP(field) offsetof(struct wire_group_info, field)

static const struct wire_item group_items[] = {
	{"engine_group_id", KIND_U32, ITEM_REQUIRED, GROUP(engine_group_id), 0, NULL, NULL, NULL},
	{"layer_indices", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_layers, put_layers, NULL},
	{"tokens_per_block", KIND_U32, ITEM_OMIT | ITEM_NIL_OK, GROUP(tokens_per_block), 0, NULL, NULL, NULL},
	{"sw_size_tokens", KIND_I64, ITEM_OMIT | ITEM_NIL_OK, GROUP(sw_size_tokens), 0, NULL, NULL, NULL},
};
#define GROUP_ITEMS (sizeof(group_items) / sizeof(group_items[0]))

static bool get_groups(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;

	r->has_groups = true;
	if (mp_peek(&c->in) == MP_NIL)
		return mp_nil(&c->in);
	if (!mp_array(&c->in, WIRE_MAX_GROUPS, &r->ngroups))
		return false;
	for (uint32_t i = 0; i < r->ngroups; i++) {
		if (!wire_get_map(c, group_items, GROUP_ITEMS, &r->groups[i], NULL))
			return false;
	}
	return true;
}

static void put_groups(struct wire_pen *pen, const void *obj)
{
	const struct wire_req *r = obj;

	mp_put_array(&pen->out, r->ngroups);
	for (uint32_t i = 0; i < r->ngroups; i++)
		wire_put_map(pen, group_items, GROUP_ITEMS, &r->groups[i]);
}

static const struct wire_item engine_driven_items[] = {
	{"instance_id", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_instance, put_instance, NULL},
	{"model_name", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_model, put_model, NULL},
	{"world_size", KIND_U32, ITEM_REQUIRED | ITEM_NONZERO, AT(world_size), WIRE_MAX_WORLD, NULL, NULL, NULL},
	{"block_size", KIND_U32, ITEM_REQUIRED | ITEM_NONZERO, AT(ed.block_size), 0, NULL, NULL, NULL},
	{"num_layers", KIND_U32, ITEM_REQUIRED | ITEM_NONZERO, AT(ed.num_layers), 0, NULL, NULL, NULL},
	{"hidden_dim_size", KIND_U32, ITEM_REQUIRED | ITEM_NONZERO, AT(ed.hidden_dim_size), 0, NULL, NULL, NULL},
	{"dtype_str", KIND_NAME, ITEM_REQUIRED, AT(ed.dtype), 64, NULL, NULL, NULL},
	{"use_mla", KIND_BOOL, ITEM_REQUIRED, AT(ed.use_mla), 0, NULL, NULL, NULL},
};
#define ENGINE_DRIVEN_ITEMS (sizeof(engine_driven_items) / sizeof(engine_driven_items[0]))

static bool get_engine_driven(struct wire_cur *c, void *obj)
{
	return wire_get_map(c, engine_driven_items, ENGINE_DRIVEN_ITEMS, obj, NULL);
}

static void put_engine_driven(struct wire_pen *pen, const void *obj)
{
	wire_put_map(pen, engine_driven_items, ENGINE_DRIVEN_ITEMS, obj);
}

/* ---- block ids --------------------------------------------------------------------------------------------------- */

static bool get_block_group(struct wire_cur *c, struct wire_blocks *b)
{
	return mp_array(&c->in, c->scratch->max_tokens, &b->n) && wire_get_u32s(c, b->n, &b->ids);
}

static bool get_blocks_flat(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;

	r->flat_blocks = true;
	r->nblock_groups = 1;
	return get_block_group(c, &r->blocks[0]);
}

static void put_blocks_flat(struct wire_pen *pen, const void *obj)
{
	const struct wire_req *r = obj;

	wire_put_u32s(pen, r->blocks[0].ids, r->nblock_groups ? r->blocks[0].n : 0);
}

static bool get_blocks(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;

	if (!mp_array(&c->in, WIRE_MAX_GROUPS, &r->nblock_groups))
		return false;
	for (uint32_t i = 0; i < r->nblock_groups; i++) {
		if (!get_block_group(c, &r->blocks[i]))
			return false;
	}
	return true;
}

static void put_blocks(struct wire_pen *pen, const void *obj)
{
	const struct wire_req *r = obj;

	mp_put_array(&pen->out, r->nblock_groups);
	for (uint32_t i = 0; i < r->nblock_groups; i++)
		wire_put_u32s(pen, r->blocks[i].ids, r->blocks[i].n);
}

/* ---- REPORT_BLOCK_ALLOCATION --------------------------------------------------------------------------------------- */

struct record {
	struct slice req_id;
	uint64_t blocks, tokens;
};

/* Checks an array of integers and counts it; the values feed nothing. */
static bool count_ids(struct wire_cur *c, uint64_t *count)
{
	uint32_t bounce[256];
	uint32_t n;

	if (!mp_array(&c->in, c->scratch->max_tokens, &n))
		return false;
	*count += n;
	while (n > 0) {
		uint32_t run = n < 256 ? n : 256;
		if (!mp_u32_run(&c->in, run, bounce))
			return false;
		n -= run;
	}
	return true;
}

static bool get_new_blocks(struct wire_cur *c, void *obj)
{
	return count_ids(c, &((struct record *)obj)->blocks);
}

static bool get_new_tokens(struct wire_cur *c, void *obj)
{
	return count_ids(c, &((struct record *)obj)->tokens);
}

static const struct wire_item record_items[] = {
	{"req_id", KIND_NAME, ITEM_REQUIRED, offsetof(struct record, req_id), WIRE_MAX_NAME, NULL, NULL, NULL},
	{"new_block_ids", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_new_blocks, NULL, NULL},
	{"new_token_ids", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_new_tokens, NULL, NULL},
};

static bool get_records(struct wire_cur *c, void *obj)
{
	struct wire_req *r = obj;
	struct record sum = {0};

	r->records = slice_of(c->in.p, (size_t)(c->in.end - c->in.p));
	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &r->nrecords))
		return false;
	for (uint32_t i = 0; i < r->nrecords; i++) {
		if (!wire_get_map(c, record_items, 3, &sum, NULL))
			return false;
	}
	r->record_blocks = sum.blocks;
	r->record_tokens = sum.tokens;
	return true;
}

static void put_records(struct wire_pen *pen, const void *obj)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)obj)->records);
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

#define PLAIN(name, kind, flags, field, max)                               \
	{                                                                  \
		name, KIND_##kind, flags, AT(field), max, NULL, NULL, NULL \
	}
#define CUSTOM(name, flags, fn)                                          \
	{                                                                \
		name, KIND_CUSTOM, flags, 0, 0, get_##fn, put_##fn, NULL \
	}
#define SHARED(name, fn)                                                       \
	{                                                                      \
		name, KIND_CUSTOM, 0, 0, 0, wire_get_##fn, wire_put_##fn, NULL \
	}

static const struct wire_item fields[F_COUNT] = {
	[F_KEY] = SHARED("key", key),
	[F_INSTANCE] = CUSTOM("instance_id", 0, instance),
	[F_INSTANCE_OPT] = {"instance_id", KIND_CUSTOM, ITEM_NIL_OK, 0, 0, get_instance, put_instance_opt, NULL},
	[F_WRAPPERS] = CUSTOM("kv_caches", 0, wrappers),
	[F_MODEL] = CUSTOM("model_name", 0, model),
	[F_WORLD] = PLAIN("world_size", U32, ITEM_NONZERO, world_size, WIRE_MAX_WORLD),
	[F_ENGINE] = PLAIN("engine_type", NAME, 0, engine_type, 64),
	[F_HINTS] = CUSTOM("layout_hints", ITEM_NIL_OK, hints),
	[F_GROUPS] = CUSTOM("engine_group_infos", 0, groups),
	[F_BLOCKS_FLAT] = CUSTOM("block_ids", 0, blocks_flat),
	[F_BLOCKS] = CUSTOM("block_ids", 0, blocks),
	[F_EVENT] = PLAIN("event", BIN, 0, event, WIRE_MAX_EVENT),
	[F_SKIP] = PLAIN("skip_first_n_tokens", U64, 0, skip_first_n_tokens, INT64_MAX),
	[F_REQUEST_ID] = PLAIN("request_id", NAME, 0, request_id, WIRE_MAX_NAME),
	[F_JOB_ID] = PLAIN("job_id", U64, 0, job_id, 0),
	[F_TP_SIZE] = PLAIN("tp_size", I64, 0, tp_size, 0),
	[F_TIMEOUT] = PLAIN("timeout_seconds", DOUBLE, 0, timeout_seconds, 0),
	[F_DATA] = PLAIN("data", BIN, 0, data, 0),
	[F_OFFSET] = PLAIN("offset", U64, 0, offset, INT64_MAX),
	[F_RANGES] = SHARED("ranges", ranges),
	[F_MATCHES] = SHARED("matches", matches),
	[F_RECORDS] = CUSTOM("records", 0, records),
	[F_ENGINE_DRIVEN] = CUSTOM("context", 0, engine_driven),
	[F_BLOCK_SIZE] = PLAIN("block_size", U32, ITEM_NONZERO, ed.block_size, 0),
	[F_NUM_LAYERS] = PLAIN("num_layers", U32, ITEM_NONZERO, ed.num_layers, 0),
	[F_HIDDEN] = PLAIN("hidden_dim_size", U32, ITEM_NONZERO, ed.hidden_dim_size, 0),
	[F_DTYPE] = PLAIN("dtype_str", NAME, 0, ed.dtype, 64),
	[F_USE_MLA] = PLAIN("use_mla", BOOL, 0, ed.use_mla, 0),
	[F_OBJECT_KEYS] = SHARED("keys", object_keys),
	[F_LAYOUTS] = SHARED("layouts", layouts),
	[F_HEAD_SIZE] = PLAIN("head_size", U32, ITEM_NONZERO, rope.head_size, 0),
	[F_ROPE_STYLE] = PLAIN("rotary_style", BOOL, 0, rope.style, 0),
	[F_GROUP_TO_CACHE] = SHARED("group_to_cache", group_to_cache),
	[F_GROUP_ROT] = SHARED("group_rot", group_rot),
};

const struct wire_item *wire_field_item(enum wire_field f)
{
	return &fields[f];
}
