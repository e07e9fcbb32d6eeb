/* Replies, client side: as strict as upstream's clients, which decode with the declared type. */
#include "transport/wire/wire_int.h"

#include <errno.h>

#define AT(field) offsetof(struct wire_reply, field)

static bool get_pair_head(struct wire_cur *c)
{
	uint32_t n;

	return mp_array(&c->in, 2, &n) && (n == 2 || mp_fail(&c->in, "not a pair"));
}

static bool get_event(struct wire_cur *c, struct wire_reply *r)
{
	return get_pair_head(c) && mp_bin(&c->in, WIRE_MAX_EVENT, &r->bytes) && mp_bool(&c->in, &r->flag);
}

static bool get_bool_bytes(struct wire_cur *c, struct wire_reply *r)
{
	return get_pair_head(c) && mp_bool(&c->in, &r->flag) && mp_bin(&c->in, SIZE_MAX, &r->bytes);
}

static bool get_int_bool(struct wire_cur *c, struct wire_reply *r)
{
	return get_pair_head(c) && mp_uint(&c->in, UINT64_MAX, &r->u) && mp_bool(&c->in, &r->flag);
}

static bool get_bool(struct wire_cur *c, struct wire_reply *r, enum wire_op op)
{
	enum mp_type type = mp_peek(&c->in);

	if (op != WIRE_PING || type == MP_BOOL)
		return mp_bool(&c->in, &r->flag);
	r->kind = WIRE_REPLY_UINT;
	if (!mp_uint(&c->in, UINT64_MAX, &r->u))
		return false;
	r->flag = r->u != 2;
	return true;
}

static const struct wire_item pool_items[] = {
	{"shm_name", KIND_NAME, ITEM_REQUIRED, AT(shm_name), 255, NULL, NULL, NULL},
	{"pool_size", KIND_U64, ITEM_REQUIRED, AT(pool_size), 0, NULL, NULL, NULL},
};

/* ---- slots ----------------------------------------------------------------------------------------------------------- */

struct one_slot {
	struct wire_slot slot;
	uint64_t shape[4];
	uint32_t ndim;
	struct slice dtype;
};

static bool get_shape(struct wire_cur *c, void *obj)
{
	struct one_slot *s = obj;

	if (!mp_array(&c->in, 4, &s->ndim))
		return false;
	for (uint32_t i = 0; i < s->ndim; i++) {
		if (!mp_uint(&c->in, INT64_MAX, &s->shape[i]))
			return false;
	}
	return true;
}

#define SLOT(field) offsetof(struct one_slot, field)

static const struct wire_item slot_items[] = {
	{"offset", KIND_U64, ITEM_REQUIRED, SLOT(slot.offset), 0, NULL, NULL, NULL},
	{"length", KIND_U64, ITEM_REQUIRED, SLOT(slot.length), 0, NULL, NULL, NULL},
	{"shape", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_shape, NULL, NULL},
	{"dtype", KIND_NAME, ITEM_REQUIRED, SLOT(dtype), 64, NULL, NULL, NULL},
};

static bool same_layout(const struct wire_slots *s, const struct one_slot *one)
{
	return s->ndim == one->ndim && memcmp(s->shape, one->shape, sizeof(one->shape)) == 0 &&
	       slice_eq(s->dtype, one->dtype);
}

static bool get_slot(struct wire_cur *c, struct wire_slots *s, struct wire_slot *out, bool first)
{
	struct one_slot one = {0};

	if (!wire_get_map(c, slot_items, sizeof(slot_items) / sizeof(slot_items[0]), &one, NULL))
		return false;
	if (first) {
		memcpy(s->shape, one.shape, sizeof(s->shape));
		s->ndim = one.ndim;
		s->dtype = one.dtype;
	}
	*out = one.slot;
	return same_layout(s, &one) || mp_fail(&c->in, "slots of different shape or dtype");
}

static bool get_slots(struct wire_cur *c, void *obj)
{
	struct wire_slots *s = obj;
	struct wire_slot *v;

	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &s->n))
		return false;
	v = wire_take(c, s->n, sizeof(*v));
	if (!v)
		return false;
	s->v = v;
	for (uint32_t i = 0; i < s->n; i++) {
		if (!get_slot(c, s, &v[i], i == 0))
			return false;
	}
	return true;
}

/* Their number is kept behind the slots' own until both are known. */
struct context {
	struct wire_slots slots;
	uint32_t nindices;
};

static bool get_indices(struct wire_cur *c, void *obj)
{
	struct context *ctx = obj;

	return mp_array(&c->in, WIRE_MAX_RECORDS, &ctx->nindices) &&
	       wire_get_u32s(c, ctx->nindices, &ctx->slots.chunk_indices);
}

static const struct wire_item context_items[] = {
	{"slots", KIND_CUSTOM, 0, 0, 0, get_slots, NULL, NULL},
	{"chunk_indices", KIND_CUSTOM, 0, 0, 0, get_indices, NULL, NULL},
};

static bool get_context(struct wire_cur *c, void *obj)
{
	struct wire_reply *r = obj;
	struct context ctx = {0};
	uint32_t seen;

	if (!wire_get_map(c, context_items, 2, &ctx, &seen))
		return false;
	ctx.slots.shm = seen & 1;
	r->slots = ctx.slots;
	if (r->kind == WIRE_REPLY_PREPARE_STORE && ctx.nindices != ctx.slots.n)
		return mp_fail(&c->in, "chunk_indices and slots of different length");
	return true;
}

static const struct wire_item prepare_store_items[] = {
	{"context", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_context, NULL, NULL},
};

static const struct wire_item prepare_retrieve_items[] = {
	{"success", KIND_BOOL, ITEM_REQUIRED, AT(flag), 0, NULL, NULL, NULL},
	{"data", KIND_BIN, ITEM_REQUIRED, AT(bytes), 0, NULL, NULL, NULL},
	{"context", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_context, NULL, NULL},
};

/* ---- lists ------------------------------------------------------------------------------------------------------------- */

static bool get_strs(struct wire_cur *c, struct wire_reply *r)
{
	struct slice *v = c->scratch->items;

	if (!mp_array(&c->in, WIRE_MAX_TENSORS, &r->nstrs))
		return false;
	r->strs = v;
	for (uint32_t i = 0; i < r->nstrs; i++) {
		if (!wire_get_name(c, WIRE_MAX_NAME, &v[i]))
			return false;
	}
	return true;
}

/* Count of a list and room for it. */
static void *get_list(struct wire_cur *c, struct wire_reply *r, size_t size)
{
	if (!mp_array(&c->in, WIRE_MAX_RECORDS, &r->nitems))
		return NULL;
	return wire_take(c, r->nitems, size);
}

static bool get_ranges(struct wire_cur *c, struct wire_reply *r)
{
	struct wire_range *v = get_list(c, r, sizeof(*v));

	r->ranges = v;
	for (uint32_t i = 0; v && i < r->nitems; i++) {
		if (!wire_get_range(c, &v[i]))
			return false;
	}
	return v != NULL;
}

static bool get_matches(struct wire_cur *c, struct wire_reply *r)
{
	struct wire_match *v = get_list(c, r, sizeof(*v));

	r->matches = v;
	for (uint32_t i = 0; v && i < r->nitems; i++) {
		if (!wire_get_map(c, wire_match_items, WIRE_MATCH_ITEMS, &v[i], NULL))
			return false;
	}
	return v != NULL;
}

static bool get_signed_offset(struct wire_cur *c, void *obj)
{
	int64_t v;

	if (!mp_int(&c->in, &v))
		return false;
	((struct wire_slot *)obj)->offset = (uint64_t)v;
	return true;
}

static const struct wire_item p2p_items[] = {
	{"offset", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_signed_offset, NULL, NULL},
	{"size", KIND_U64, ITEM_REQUIRED, offsetof(struct wire_slot, length), 0, NULL, NULL, NULL},
};

static bool get_p2p(struct wire_cur *c, struct wire_reply *r)
{
	struct wire_slot *v = get_list(c, r, sizeof(*v));

	r->p2p = v;
	for (uint32_t i = 0; v && i < r->nitems; i++) {
		if (!wire_get_map(c, p2p_items, 2, &v[i], NULL))
			return false;
	}
	return v != NULL;
}

/* ---- by kind ------------------------------------------------------------------------------------------------------------ */

static bool get_reply(struct wire_cur *c, struct wire_reply *r, enum wire_op op)
{
	switch (r->kind) {
	case WIRE_REPLY_NONE:
		return mp_fail(&c->in, "a payload where none is declared");
	case WIRE_REPLY_UINT:
		return mp_uint(&c->in, UINT64_MAX, &r->u);
	case WIRE_REPLY_BOOL:
		return get_bool(c, r, op);
	case WIRE_REPLY_STR:
		return wire_get_name(c, WIRE_MAX_NAME, &r->bytes);
	case WIRE_REPLY_EVENT:
		return get_event(c, r);
	case WIRE_REPLY_BOOL_BYTES:
		return get_bool_bytes(c, r);
	case WIRE_REPLY_POOL:
		return wire_get_map(c, pool_items, 2, r, NULL);
	case WIRE_REPLY_PREPARE_STORE:
		return wire_get_map(c, prepare_store_items, 1, r, NULL);
	case WIRE_REPLY_PREPARE_RETRIEVE:
		return wire_get_map(c, prepare_retrieve_items, 3, r, NULL);
	case WIRE_REPLY_STRS:
		return get_strs(c, r);
	case WIRE_REPLY_INT_BOOL:
		return get_int_bool(c, r);
	case WIRE_REPLY_RANGES:
		return get_ranges(c, r);
	case WIRE_REPLY_MATCHES:
		return get_matches(c, r);
	case WIRE_REPLY_P2P_RESULTS:
		return get_p2p(c, r);
	}
	return mp_fail(&c->in, "no such reply kind");
}

/* No payload frame: right for a reply declared None, or for one that may be None. */
static int absent_payload(const struct wire_shape *shape, struct wire_reply *out, struct why *why)
{
	enum wire_reply_kind declared = out->kind;

	out->kind = WIRE_REPLY_NONE;
	if (declared == WIRE_REPLY_NONE || shape->reply_maybe)
		return 0;
	return why_set(why, -EPROTO, "reply to %s without payload", wire_op_name((enum wire_op)shape->op));
}

int wire_reply_decode(enum wire_dialect d, enum wire_op op, struct slice payload, struct wire_scratch *scratch,
		      struct wire_reply *out, struct why *why)
{
	const struct wire_shape *shape = wire_shape_newest(d, op);
	struct wire_cur c = {mp_in(payload), "value", scratch, d};

	memset(out, 0, sizeof(*out));
	if (!shape)
		return why_set(why, -EOPNOTSUPP, "%s has no known reply in dialect %s", wire_op_name(op),
			       wire_dialect_name(d));
	out->kind = (enum wire_reply_kind)shape->reply;
	if (!payload.p)
		return absent_payload(shape, out, why);
	wire_scratch_reset(scratch);
	if (get_reply(&c, out, op) && mp_done(&c.in))
		return 0;
	return why_set(why, wire_in_error(&c.in), "reply to %s as %s: %s: %s", wire_op_name(op), wire_dialect_name(d),
		       c.at, c.in.err);
}
