/* Replies, server side. Clients decode them strictly, and older ones lose their receive thread over a wrong type, so every
 * reply is what the golden vectors show to the byte: maps in declaration order, integers in the shortest form.
 */
#include "transport/wire/wire_int.h"

#include <errno.h>

static void put_pair(struct wire_pen *pen, struct slice bytes, bool flag, bool flag_first)
{
	mp_put_array(&pen->out, 2);
	if (flag_first)
		mp_put_bool(&pen->out, flag);
	mp_put_bin(&pen->out, bytes);
	if (!flag_first)
		mp_put_bool(&pen->out, flag);
}

static void put_pool(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_map(&pen->out, 2);
	mp_put_cstr(&pen->out, "shm_name");
	mp_put_str(&pen->out, r->shm_name);
	mp_put_cstr(&pen->out, "pool_size");
	mp_put_uint(&pen->out, r->pool_size);
}

static void put_slot(struct wire_pen *pen, const struct wire_slots *s, const struct wire_slot *slot)
{
	mp_put_map(&pen->out, 4);
	mp_put_cstr(&pen->out, "offset");
	mp_put_uint(&pen->out, slot->offset);
	mp_put_cstr(&pen->out, "length");
	mp_put_uint(&pen->out, slot->length);
	mp_put_cstr(&pen->out, "shape");
	mp_put_array(&pen->out, s->ndim);
	for (uint32_t i = 0; i < s->ndim; i++)
		mp_put_uint(&pen->out, s->shape[i]);
	mp_put_cstr(&pen->out, "dtype");
	mp_put_str(&pen->out, s->dtype);
}

static void put_context(struct wire_pen *pen, const struct wire_slots *s, bool with_indices)
{
	mp_put_cstr(&pen->out, "context");
	if (!s->shm) {
		mp_put_map(&pen->out, 0);
		return;
	}
	mp_put_map(&pen->out, with_indices ? 2 : 1);
	mp_put_cstr(&pen->out, "slots");
	mp_put_array(&pen->out, s->n);
	for (uint32_t i = 0; i < s->n; i++)
		put_slot(pen, s, &s->v[i]);
	if (with_indices) {
		mp_put_cstr(&pen->out, "chunk_indices");
		wire_put_u32s(pen, s->chunk_indices, s->n);
	}
}

static void put_prepare_store(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_map(&pen->out, 1);
	put_context(pen, &r->slots, true);
}

static void put_prepare_retrieve(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_map(&pen->out, 3);
	mp_put_cstr(&pen->out, "success");
	mp_put_bool(&pen->out, r->flag);
	mp_put_cstr(&pen->out, "data");
	mp_put_bin(&pen->out, r->bytes);
	put_context(pen, &r->slots, false);
}

static void put_strs(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_array(&pen->out, r->nstrs);
	for (uint32_t i = 0; i < r->nstrs; i++)
		mp_put_str(&pen->out, r->strs[i]);
}

static void put_ranges(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_array(&pen->out, r->nitems);
	for (uint32_t i = 0; i < r->nitems; i++) {
		mp_put_array(&pen->out, 2);
		mp_put_uint(&pen->out, r->ranges[i].start);
		mp_put_uint(&pen->out, r->ranges[i].end);
	}
}

static void put_matches(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_array(&pen->out, r->nitems);
	for (uint32_t i = 0; i < r->nitems; i++)
		wire_put_map(pen, wire_match_items, WIRE_MATCH_ITEMS, &r->matches[i]);
}

static void put_p2p(struct wire_pen *pen, const struct wire_reply *r)
{
	mp_put_array(&pen->out, r->nitems);
	for (uint32_t i = 0; i < r->nitems; i++) {
		mp_put_map(&pen->out, 2);
		mp_put_cstr(&pen->out, "offset");
		mp_put_int(&pen->out, (int64_t)r->p2p[i].offset);
		mp_put_cstr(&pen->out, "size");
		mp_put_uint(&pen->out, r->p2p[i].length);
	}
}

static void put_reply(struct wire_pen *pen, const struct wire_reply *r)
{
	switch (r->kind) {
	case WIRE_REPLY_NONE:
		return;
	case WIRE_REPLY_UINT:
		mp_put_uint(&pen->out, r->u);
		return;
	case WIRE_REPLY_BOOL:
		mp_put_bool(&pen->out, r->flag);
		return;
	case WIRE_REPLY_STR:
		mp_put_str(&pen->out, r->bytes);
		return;
	case WIRE_REPLY_EVENT:
		put_pair(pen, r->bytes, r->flag, false);
		return;
	case WIRE_REPLY_BOOL_BYTES:
		put_pair(pen, r->bytes, r->flag, true);
		return;
	case WIRE_REPLY_POOL:
		put_pool(pen, r);
		return;
	case WIRE_REPLY_PREPARE_STORE:
		put_prepare_store(pen, r);
		return;
	case WIRE_REPLY_PREPARE_RETRIEVE:
		put_prepare_retrieve(pen, r);
		return;
	case WIRE_REPLY_STRS:
		put_strs(pen, r);
		return;
	case WIRE_REPLY_INT_BOOL:
		mp_put_array(&pen->out, 2);
		mp_put_uint(&pen->out, r->u);
		mp_put_bool(&pen->out, r->flag);
		return;
	case WIRE_REPLY_RANGES:
		put_ranges(pen, r);
		return;
	case WIRE_REPLY_MATCHES:
		put_matches(pen, r);
		return;
	case WIRE_REPLY_P2P_RESULTS:
		put_p2p(pen, r);
		return;
	}
	pen->out.overflow = true; /* no such kind */
}

ssize_t wire_reply_encode(const struct wire_reply *reply, void *buf, size_t cap)
{
	struct wire_pen pen = {mp_out(buf, cap), WIRE_D7};

	put_reply(&pen, reply);
	return pen.out.overflow ? -ENOSPC : (ssize_t)(pen.out.p - (uint8_t *)buf);
}

/* Longest forms: integer 9 bytes, header of str, bin, array or map 5. */
#define INT_MOST  9
#define HEAD_MOST 5

static size_t slots_bound(const struct wire_slots *s)
{
	size_t names = sizeof("offset") + sizeof("length") + sizeof("shape") + sizeof("dtype");
	size_t slot = 3 * HEAD_MOST + names + (2 + (size_t)s->ndim) * INT_MOST + s->dtype.n;

	return s->shm ? s->n * (slot + INT_MOST) : 0;
}

static size_t items_bound(const struct wire_reply *r)
{
	size_t n = 0;

	switch (r->kind) {
	case WIRE_REPLY_STRS:
		for (uint32_t i = 0; i < r->nstrs; i++)
			n += HEAD_MOST + r->strs[i].n;
		return n;
	case WIRE_REPLY_RANGES:
		return r->nitems * (size_t)(1 + 2 * INT_MOST);
	case WIRE_REPLY_MATCHES:
		for (uint32_t i = 0; i < r->nitems; i++)
			n += HEAD_MOST + 5 * sizeof("old_st") + 4 * INT_MOST + HEAD_MOST + r->matches[i].hash.n;
		return n;
	case WIRE_REPLY_P2P_RESULTS:
		return r->nitems * (HEAD_MOST + sizeof("offset") + sizeof("size") + 2 * (size_t)INT_MOST);
	case WIRE_REPLY_PREPARE_STORE:
	case WIRE_REPLY_PREPARE_RETRIEVE:
		return slots_bound(&r->slots);
	default:
		return 0;
	}
}

size_t wire_reply_bound(const struct wire_reply *reply)
{
	/* 128 covers every fixed part: the names of the outer maps, headers, one or two integers. */
	return 128 + reply->bytes.n + reply->shm_name.n + items_bound(reply);
}
