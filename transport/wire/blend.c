/* Blend and P2P payloads (reference sections 7.17, 7.18). No engine here serves them yet, so only their form is checked. */
#include "transport/wire/blend_int.h"

static struct slice rest(const struct wire_cur *c)
{
	return slice_of(c->in.p, (size_t)(c->in.end - c->in.p));
}

/* ---- matched ranges ------------------------------------------------------------------------------------------------ */

bool wire_get_range(struct wire_cur *c, struct wire_range *out)
{
	uint32_t n;

	if (!mp_array(&c->in, 2, &n))
		return false;
	if (n != 2)
		return mp_fail(&c->in, "not a pair");
	if (!mp_uint(&c->in, INT64_MAX, &out->start) || !mp_uint(&c->in, INT64_MAX, &out->end))
		return false;
	return out->start <= out->end || mp_fail(&c->in, "start behind end");
}

bool wire_get_ranges(struct wire_cur *c, void *req)
{
	struct wire_req *r = req;
	struct wire_range range;

	r->ranges = rest(c);
	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &r->nranges))
		return false;
	for (uint32_t i = 0; i < r->nranges; i++) {
		if (!wire_get_range(c, &range))
			return false;
	}
	return true;
}

void wire_put_ranges(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->ranges);
}

#define MATCH(field) offsetof(struct wire_match, field)

const struct wire_item wire_match_items[WIRE_MATCH_ITEMS] = {
	{"old_st", KIND_U64, ITEM_REQUIRED, MATCH(old_st), INT64_MAX, NULL, NULL, NULL},
	{"old_ed", KIND_U64, ITEM_REQUIRED, MATCH(old_ed), INT64_MAX, NULL, NULL, NULL},
	{"cur_st", KIND_U64, ITEM_REQUIRED, MATCH(cur_st), INT64_MAX, NULL, NULL, NULL},
	{"cur_ed", KIND_U64, ITEM_REQUIRED, MATCH(cur_ed), INT64_MAX, NULL, NULL, NULL},
	{"hash", KIND_BIN, ITEM_REQUIRED, MATCH(hash), WIRE_MAX_HASH, NULL, NULL, NULL},
};

bool wire_get_matches(struct wire_cur *c, void *req)
{
	struct wire_req *r = req;
	struct wire_match match;

	r->matches = rest(c);
	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &r->nmatches))
		return false;
	for (uint32_t i = 0; i < r->nmatches; i++) {
		if (!wire_get_map(c, wire_match_items, WIRE_MATCH_ITEMS, &match, NULL))
			return false;
	}
	return true;
}

void wire_put_matches(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->matches);
}

/* ---- P2P ---------------------------------------------------------------------------------------------------------- */

static bool get_model(struct wire_cur *c, void *obj)
{
	return wire_get_model(c, &((struct wire_object_key *)obj)->model);
}

static bool get_salt(struct wire_cur *c, void *obj)
{
	return wire_get_salt(c, &((struct wire_object_key *)obj)->salt);
}

#define OBJECT(field) offsetof(struct wire_object_key, field)

static const struct wire_item object_items[] = {
	{"chunk_hash", KIND_BIN, ITEM_REQUIRED, OBJECT(chunk_hash), WIRE_MAX_HASH, NULL, NULL, NULL},
	{"model_name", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_model, NULL, NULL},
	{"kv_rank", KIND_U32, ITEM_REQUIRED, OBJECT(kv_rank), 0, NULL, NULL, NULL},
	{"object_group_id", KIND_U32, 0, OBJECT(object_group_id), 0, NULL, NULL, NULL},
	{"cache_salt", KIND_CUSTOM, 0, 0, 0, get_salt, NULL, NULL},
};

bool wire_get_object_keys(struct wire_cur *c, void *req)
{
	struct wire_req *r = req;

	r->object_keys = rest(c);
	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &r->nobject_keys))
		return false;
	for (uint32_t i = 0; i < r->nobject_keys; i++) {
		struct wire_object_key key = {0};
		if (!wire_get_map(c, object_items, sizeof(object_items) / sizeof(object_items[0]), &key, NULL))
			return false;
	}
	return true;
}

void wire_put_object_keys(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->object_keys);
}

static bool get_shape(struct wire_cur *c)
{
	uint64_t v;
	uint32_t n;

	if (!mp_array(&c->in, 16, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!mp_uint(&c->in, INT64_MAX, &v))
			return false;
	}
	return true;
}

static bool get_shapes(struct wire_cur *c, void *obj)
{
	uint32_t n;

	(void)obj;
	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!get_shape(c))
			return false;
	}
	return true;
}

static bool get_dtypes(struct wire_cur *c, void *obj)
{
	struct slice name;
	uint32_t n;

	(void)obj;
	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!wire_get_name(c, 64, &name))
			return false;
	}
	return true;
}

static const struct wire_item layout_items[] = {
	{"shapes", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_shapes, NULL, NULL},
	{"dtypes", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_dtypes, NULL, NULL},
};

/* One MemoryLayoutDesc, or (later) a map of them by group id: told apart by the type of the first key. */
bool wire_get_layouts(struct wire_cur *c, void *req)
{
	struct mp_in ahead = c->in;
	uint64_t group;
	uint32_t n;

	((struct wire_req *)req)->layouts = rest(c);
	if (!mp_map(&ahead, WIRE_MAX_GROUPS, &n))
		return mp_fail(&c->in, ahead.err);
	if (n > 0 && mp_peek(&ahead) == MP_STR)
		return wire_get_map(c, layout_items, 2, req, NULL);
	c->in = ahead;
	for (uint32_t i = 0; i < n; i++) {
		if (!mp_uint(&c->in, UINT32_MAX, &group) || !wire_get_map(c, layout_items, 2, req, NULL))
			return false;
	}
	return true;
}

void wire_put_layouts(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->layouts);
}

/* ---- rotary embedding ------------------------------------------------------------------------------------------------ */

bool wire_get_group_to_cache(struct wire_cur *c, void *req)
{
	int64_t v;
	uint32_t n;

	((struct wire_req *)req)->rope.group_to_cache = rest(c);
	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!mp_int(&c->in, &v))
			return false;
	}
	return true;
}

void wire_put_group_to_cache(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->rope.group_to_cache);
}

/* Arrays of a type the reference leaves open. */
bool wire_get_group_rot(struct wire_cur *c, void *req)
{
	uint32_t n;

	((struct wire_req *)req)->rope.group_rot = rest(c);
	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (mp_peek(&c->in) != MP_ARRAY)
			return mp_fail(&c->in, "not an array of arrays");
		if (!mp_skip(&c->in))
			return false;
	}
	return true;
}

void wire_put_group_rot(struct wire_pen *pen, const void *req)
{
	mp_put_raw(&pen->out, ((const struct wire_req *)req)->rope.group_rot);
}
