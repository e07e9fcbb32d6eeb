/* tensors.c - pickled lists of CPU tensors (protocol reference 8.6).
 *
 * _rebuild_tensor_v2 takes the dtype from its storage. _rebuild_tensor_v3 (8-bit floats and newer unsigned types) has it
 * as seventh argument and takes the storage as bytes; torch writes that storage as torch.storage.UntypedStorage, counted
 * in bytes (torch/_tensor.py, _reduce_ex_internal; torch/serialization.py, _legacy_save). Assumed, as no such pickle was
 * at hand: that these sources are what 8-bit float clients run. Metadata (conjugate or negative views) changes what the
 * bytes mean and is refused.
 */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

static int check_rest(const struct pk_val *item, uint32_t n, uint32_t metadata_at, struct why *why)
{
	if (item[4].kind != V_BOOL)
		return why_set(why, -EPROTO, "requires_grad is %s", pk_kind_name(&item[4]));
	if (item[5].kind != V_HOOKS)
		return why_set(why, -EPROTO, "the backward hooks are %s", pk_kind_name(&item[5]));
	if (n > metadata_at && item[metadata_at].kind != V_NONE)
		return why_set(why, -EOPNOTSUPP, "tensor metadata (%s) is not supported",
			       pk_kind_name(&item[metadata_at]));
	return 0;
}

/* Arguments of _rebuild_tensor_v2 or v3 to a tensor that fits its storage. */
static int decode(const struct pk_space *s, const struct pk_val *t, struct pk_tensor *out, struct why *why)
{
	const struct pk_val *item = &s->cells[t->u.at].v;
	uint32_t nargs = pk_globals[t->tag].arg;
	struct pk_geom g = {0};
	int r = check_rest(item, t->n, nargs, why);

	if (r < 0)
		return r;
	if (item[0].kind != V_STORAGE)
		return why_set(why, -EPROTO, "the storage is %s", pk_kind_name(&item[0]));
	g.dtype = (enum pk_dtype)item[0].tag;
	if (nargs == 7) {
		if (item[6].kind != V_GLOBAL || pk_globals[item[6].tag].what != G_DTYPE)
			return why_set(why, -EPROTO, "the dtype is %s", pk_kind_name(&item[6]));
		g.dtype = (enum pk_dtype)pk_globals[item[6].tag].arg;
	}
	r = pk_uint(&item[1], "the storage offset", &g.offset, why);
	if (r == 0)
		r = pk_geom_read(s, &item[2], &item[3], &g, why);
	if (r < 0)
		return r;
	*out = (struct pk_tensor){.dtype = g.dtype, .ndim = g.ndim, .storage_offset = g.offset};
	memcpy(out->shape, g.shape, g.ndim * sizeof(g.shape[0]));
	memcpy(out->stride, g.stride, g.ndim * sizeof(g.stride[0]));
	out->storage = pk_storage_bytes(&item[0]);
	return pk_geom_within(&g, out->storage.n, "the storage", why);
}

static ssize_t decode_all(const struct pk_space *s, const struct pk_val *list, struct pk_tensor *out, size_t max,
			  struct why *why)
{
	struct pk_walk w = pk_walk_start(s, list);
	const struct pk_val *v;
	size_t n = 0;

	for (; (v = pk_walk_next(&w)) != NULL; n++) {
		struct pk_tensor t;
		int r;

		if (v->kind != V_TENSOR)
			return why_set(why, -EPROTO, "element %zu is %s, not a tensor", n, pk_kind_name(v));
		r = decode(s, v, &t, why);
		if (r < 0) {
			why_prefix(why, "tensor %zu", n);
			return r;
		}
		if (n < max)
			out[n] = t;
	}
	return (ssize_t)n;
}

ssize_t pk_tensors_parse(struct slice pickle, struct pk_mem *m, struct pk_tensor *out, size_t max, struct why *why)
{
	struct pk_val v;
	size_t used;
	uint32_t n;
	int r = pk_run(m, PK_IN_LIST, pickle, &used, &v, why);

	if (r < 0)
		return r;
	if (used != pickle.n)
		return why_set(why, -EPROTO, "%zu bytes after the pickle", pickle.n - used);
	if (v.kind != V_LIST)
		return why_set(why, -EPROTO, "the pickle is %s, not a list", pk_kind_name(&v));
	n = m->list.cells[v.u.at].head.count;
	if (n > PK_MAX_TENSORS)
		return why_set(why, -E2BIG, "a list of %u tensors; the limit is %d", n, PK_MAX_TENSORS);
	return decode_all(&m->list, &v, out, max, why);
}
