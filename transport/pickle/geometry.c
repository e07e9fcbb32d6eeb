/* geometry.c - shapes, strides and whether a tensor fits its storage. All sums and products are checked. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

int pk_uint(const struct pk_val *v, const char *what, uint64_t *out, struct why *why)
{
	if (v->kind != V_INT)
		return why_set(why, -EPROTO, "%s is %s, not an int", what, pk_kind_name(v));
	if (v->u.i < 0)
		return why_set(why, -EPROTO, "%s is negative (%lld)", what, (long long)v->u.i);
	*out = (uint64_t)v->u.i;
	return 0;
}

/* Ints of a tuple or list. */
static int read_dims(const struct pk_space *s, const struct pk_val *v, const char *what, uint64_t *out, uint32_t *n,
		     struct why *why)
{
	struct pk_walk w = {0};
	uint32_t count;

	if (v->kind != V_TUPLE && v->kind != V_LIST)
		return why_set(why, -EPROTO, "%s is %s, not a tuple", what, pk_kind_name(v));
	count = v->kind == V_TUPLE ? v->n : s->cells[v->u.at].head.count;
	if (count > PK_MAX_DIMS)
		return why_set(why, -E2BIG, "%s has %u dimensions; at most %d are supported", what, count, PK_MAX_DIMS);
	if (v->kind == V_LIST)
		w = pk_walk_start(s, v);
	for (uint32_t i = 0; i < count; i++) {
		const struct pk_val *item = v->kind == V_TUPLE ? &pk_items(s, v)[i] : pk_walk_next(&w);
		int r = pk_uint(item, what, &out[i], why);

		if (r < 0)
			return r;
	}
	*n = count;
	return 0;
}

int pk_contiguous(const uint64_t *shape, uint32_t ndim, int64_t *stride, struct why *why)
{
	int64_t step = 1;

	for (uint32_t i = ndim; i > 0; i--) {
		uint64_t d = shape[i - 1] > 1 ? shape[i - 1] : 1;

		stride[i - 1] = step;
		if (__builtin_mul_overflow(step, d, &step))
			return why_set(why, -EPROTO, "the product of the shape overflows");
	}
	return 0;
}

int pk_geom_read(const struct pk_space *s, const struct pk_val *shape, const struct pk_val *stride, struct pk_geom *g,
		 struct why *why)
{
	uint64_t steps[PK_MAX_DIMS];
	uint32_t n;
	int r = read_dims(s, shape, "shape", g->shape, &g->ndim, why);

	/* Also without need for the strides: later products over the shape are then known not to overflow. */
	if (r == 0)
		r = pk_contiguous(g->shape, g->ndim, g->stride, why);
	if (r < 0 || !stride)
		return r;
	r = read_dims(s, stride, "stride", steps, &n, why);
	if (r < 0)
		return r;
	if (n != g->ndim)
		return why_set(why, -EPROTO, "shape has %u dimensions, stride has %u", g->ndim, n);
	for (uint32_t i = 0; i < n; i++)
		g->stride[i] = (int64_t)steps[i];
	return 0;
}

int pk_geom_within(const struct pk_geom *g, uint64_t limit, const char *of, struct why *why)
{
	uint64_t size = pk_dtype_size(g->dtype), last = 0, bytes, all = 1;
	bool empty = false, over = false;

	for (uint32_t i = 0; i < g->ndim; i++) {
		uint64_t reach;

		empty |= g->shape[i] == 0;
		over |= __builtin_mul_overflow(all, g->shape[i] ? g->shape[i] : 1, &all);
		over |= __builtin_mul_overflow(g->shape[i] ? g->shape[i] - 1 : 0, (uint64_t)g->stride[i], &reach);
		over |= __builtin_add_overflow(last, reach, &last);
	}
	over |= __builtin_add_overflow(last, 1, &last);
	over |= __builtin_add_overflow(empty ? 0 : last, g->offset, &last);
	over |= __builtin_mul_overflow(last, size, &bytes);
	over |= __builtin_mul_overflow(all, size, &all) || all > INT64_MAX;
	if (over)
		return why_set(why, -EPROTO, "shape, stride and storage offset overflow");
	if (bytes > limit)
		return why_set(why, -EPROTO, "the tensor reaches %llu bytes into its storage, %s is %llu",
			       (unsigned long long)bytes, of, (unsigned long long)limit);
	return 0;
}
