/* stream.c - the legacy torch.save stream of one storage: five pickles back to back, an int64 element count, the bytes
 * (torch/serialization.py, _legacy_save and _legacy_load). */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

#define STREAM_PROTOCOL 1001

/* 0x1950a86a20f9469cfc6c, little-endian. */
static const uint8_t magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

struct stream {
	struct pk_mem *m;
	struct slice left; /* not read yet */
	struct why *why;
};

static int next_pickle(struct stream *st, struct pk_val *v)
{
	size_t used;
	int r = pk_run(st->m, PK_IN_STREAM, st->left, &used, v, st->why);

	if (r == 0)
		st->left = slice_of((const uint8_t *)st->left.p + used, st->left.n - used);
	return r;
}

static int read_magic(struct stream *st)
{
	struct pk_val v;
	int r = next_pickle(st, &v);

	if (r < 0)
		return r;
	if (v.kind != V_LONG || !slice_eq(slice_of(v.u.p, v.n), slice_of(magic, sizeof(magic))))
		return why_set(st->why, -EPROTO, "not a legacy torch stream: wrong magic number");
	r = next_pickle(st, &v);
	if (r < 0)
		return r;
	if (v.kind != V_INT || v.u.i != STREAM_PROTOCOL)
		return why_set(st->why, -EPROTO, "not torch stream protocol %d", STREAM_PROTOCOL);
	return 0;
}

/* {protocol_version, little_endian, type_sizes}; the sizes describe C types that no storage here uses. */
static int read_sys_info(struct stream *st)
{
	struct pk_val v;
	const struct pk_val *key, *value;
	bool little = false;
	struct pk_walk w;
	int r = next_pickle(st, &v);

	if (r < 0)
		return r;
	if (v.kind != V_DICT)
		return why_set(st->why, -EPROTO, "system info is %s, not a dict", pk_kind_name(&v));
	w = pk_walk_start(&st->m->small, &v);
	while ((key = pk_walk_next(&w)) != NULL) {
		value = pk_walk_next(&w);
		if (key->kind == V_STR && slice_is(pk_bytes_of(key), "little_endian"))
			little = value->kind == V_BOOL && value->u.i;
	}
	if (!little)
		return why_set(st->why, -EPROTO, "the stream does not say that it is little-endian");
	return 0;
}

static bool is_str(const struct pk_val *v, const char *s)
{
	return v->kind == V_STR && slice_is(pk_bytes_of(v), s);
}

/* ("storage", class, key, location, elements, view metadata) */
static int read_persid(struct stream *st, enum pk_dtype *dtype, struct slice *key, uint64_t *elements)
{
	const struct pk_val *item;
	struct pk_val v;
	int r = next_pickle(st, &v);

	if (r < 0)
		return r;
	if (v.kind != V_PERSID || v.n != 6)
		return why_set(st->why, -EPROTO, "the stream's object is %s, not a storage", pk_kind_name(&v));
	item = pk_items(&st->m->small, &v);
	if (!is_str(&item[0], "storage") || item[1].kind != V_GLOBAL ||
	    pk_globals[item[1].tag].what != G_STORAGE_TYPE || item[2].kind != V_STR)
		return why_set(st->why, -EPROTO, "a persistent id that names no storage");
	if (!is_str(&item[3], "cpu"))
		return why_set(st->why, -EPROTO, "a storage that is not on the CPU");
	if (item[5].kind != V_NONE)
		return why_set(st->why, -EOPNOTSUPP, "a storage that is a view of another");
	*dtype = (enum pk_dtype)pk_globals[item[1].tag].arg;
	*key = pk_bytes_of(&item[2]);
	return pk_uint(&item[4], "the number of elements", elements, st->why);
}

static int read_keys(struct stream *st, struct slice key)
{
	const struct pk_val *first;
	struct pk_walk w;
	struct pk_val v;
	int r = next_pickle(st, &v);

	if (r < 0)
		return r;
	if (v.kind != V_LIST)
		return why_set(st->why, -EPROTO, "the storage keys are %s, not a list", pk_kind_name(&v));
	w = pk_walk_start(&st->m->small, &v);
	first = pk_walk_next(&w);
	if (!first || first->kind != V_STR || !slice_eq(pk_bytes_of(first), key) || pk_walk_next(&w))
		return why_set(st->why, -EPROTO, "the storage keys are not the one storage of the stream");
	return 0;
}

static int read_data(struct stream *st, enum pk_dtype dtype, uint64_t elements, struct pk_val *storage)
{
	uint64_t bytes;

	if (st->left.n < 8)
		return why_set(st->why, -EPROTO, "the stream ends before the element count");
	if (pk_le64(st->left.p) != elements)
		return why_set(st->why, -EPROTO, "two element counts: %llu and %llu", (unsigned long long)elements,
			       (unsigned long long)pk_le64(st->left.p));
	if (__builtin_mul_overflow(elements, pk_dtype_size(dtype), &bytes) || bytes != st->left.n - 8)
		return why_set(st->why, -EPROTO, "%llu elements of %s, but %zu bytes of data",
			       (unsigned long long)elements, pk_dtype_name(dtype), st->left.n - 8);
	*storage = (struct pk_val){.kind = V_STORAGE, .tag = (uint16_t)dtype, .u.p = st->left.p};
	return 0;
}

int pk_stream_load(struct pk_mem *m, struct slice bytes, struct pk_val *storage, struct why *why)
{
	struct stream st = {.m = m, .left = bytes, .why = why};
	enum pk_dtype dtype = PK_DTYPE_NONE;
	uint64_t elements = 0;
	struct slice key = {0};
	int r = read_magic(&st);

	if (r == 0)
		r = read_sys_info(&st);
	if (r == 0)
		r = read_persid(&st, &dtype, &key, &elements);
	if (r == 0)
		r = read_keys(&st, key);
	if (r == 0)
		r = read_data(&st, dtype, elements, storage);
	return r;
}

struct slice pk_storage_bytes(const struct pk_val *storage)
{
	return slice_of(storage->u.p + 8, pk_le64(storage->u.p) * pk_dtype_size((enum pk_dtype)storage->tag));
}
