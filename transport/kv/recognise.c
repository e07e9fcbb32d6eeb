/* Recognising paged KV layouts. The rules are those of section 9.3 of the shared protocol reference; what it leaves open is
 * decided here, each time by the rule "believe what is stated or provable, refuse the rest":
 *
 * - kv_layout names the order of the physical (normalised) dimensions. LBNHC and LBHNC are NHD and HND by their letters.
 * - Without kv_layout: NHD, unless the client's own view proves otherwise. Engines shape their views token-major, so a view
 *   whose strides put the heads before the tokens is HND; and so is a tensor whose stated block size only fits that way.
 * - Of two dimensions one of which is 1, the other is the block size, since one head and many tokens is common and paging
 *   by single tokens with many heads is not done; in memory both readings are the same. An explicit NHD is believed.
 * - A stated block size (engine group, else hint) that fits neither reading is refused: ids would mean other blocks.
 * - Flat token pools are cut into blocks; a remainder that fills no block is out of reach of any block id.
 * - A fused K/V dimension is halved; if head_dim is stated and is not the half, the tensor means something else.
 */
#include "transport/kv/kv_int.h"

#include <errno.h>
#include <stdio.h>

enum order { ORDER_ANY, ORDER_NHD, ORDER_HND };

struct shape_text {
	char s[KV_MAX_DIMS * 21 + 3];
};

static const char *shape_text(const struct norm *n, struct shape_text *out)
{
	size_t at = 0;
	out->s[at++] = '[';
	for (uint32_t i = 0; i < n->ndim; i++)
		at += (size_t)snprintf(out->s + at, sizeof out->s - at, "%s%llu", i ? ", " : "",
				       (unsigned long long)n->shape[i]);
	snprintf(out->s + at, sizeof out->s - at, "]");
	return out->s;
}

/* ---- normalising ----------------------------------------------------------------------------------------------------- */

/* Sorts the dimensions longer than 1 by descending stride among their own positions; the others stay where they are. */
static void sort_dims(const struct kv_tensor *t, struct norm *out)
{
	uint32_t pos[KV_MAX_DIMS], n = 0;
	for (uint32_t i = 0; i < t->ndim; i++) {
		out->from[i] = i;
		if (t->shape[i] > 1)
			pos[n++] = i;
	}
	for (uint32_t i = 1; i < n; i++) {
		uint32_t dim = out->from[pos[i]], j = i;
		for (; j > 0 && t->stride[out->from[pos[j - 1]]] < t->stride[dim]; j--)
			out->from[pos[j]] = out->from[pos[j - 1]];
		out->from[pos[j]] = dim;
	}
}

static int check_tensor(const struct kv_tensor *t, uint32_t index, struct why *why)
{
	if (t->ndim == 0 || t->ndim > KV_MAX_DIMS)
		return why_set(why, -EINVAL, "tensor %u has %u dimensions (1 to %d are understood)", index, t->ndim,
			       KV_MAX_DIMS);
	if (t->element_size == 0 || t->element_size > 16 || (t->element_size & (t->element_size - 1)) != 0)
		return why_set(why, -EINVAL, "tensor %u has elements of %u bytes", index, t->element_size);
	for (uint32_t i = 0; i < t->ndim; i++) {
		if (t->shape[i] == 0)
			return why_set(why, -EINVAL, "tensor %u: dimension %u is empty", index, i);
		if (t->shape[i] > 1 && t->stride[i] <= 0)
			return why_set(why, -EINVAL, "tensor %u: dimension %u has stride %lld", index, i,
				       (long long)t->stride[i]);
	}
	return 0;
}

/* Contiguous, but for the outermost dimension longer than 1, which may be padded. Fills shape and stride (bytes), and in
 * `extent` the bytes from the first element to the end of the last. */
static int check_contiguous(const struct kv_tensor *t, uint32_t index, struct norm *out, uint64_t *extent,
			    struct why *why)
{
	uint32_t outer = 0;
	while (outer + 1 < t->ndim && t->shape[out->from[outer]] == 1)
		outer++;
	uint64_t need = t->element_size; /* the stride of a contiguous tensor, and the extent of the inner dimensions */
	*extent = need;
	for (uint32_t i = t->ndim; i-- > 0;) {
		uint64_t n = t->shape[out->from[i]], stride = need, reach;
		if (n > 1 && __builtin_mul_overflow((uint64_t)t->stride[out->from[i]], t->element_size, &stride))
			return why_set(why, -EINVAL, "tensor %u: strides overflow", index);
		if (stride < need)
			return why_set(why, -EINVAL, "tensor %u: dimension %u overlaps itself (stride %lld)", index,
				       out->from[i], (long long)t->stride[out->from[i]]);
		if (stride > need && i != outer)
			return why_set(why, -EINVAL,
				       "tensor %u: dimension %u is padded; only the outermost may be (stride %llu, "
				       "contiguous would be %llu)",
				       index, out->from[i], (unsigned long long)(stride / t->element_size),
				       (unsigned long long)(need / t->element_size));
		if (__builtin_mul_overflow(stride, n - 1, &reach) || __builtin_add_overflow(*extent, reach, extent) ||
		    __builtin_mul_overflow(stride, n, &need))
			return why_set(why, -EINVAL, "tensor %u: shape overflows", index);
		out->shape[i] = n;
		out->stride[i] = stride;
	}
	return 0;
}

int kv_normalise(const struct kv_tensor *t, uint32_t index, struct norm *out, struct why *why)
{
	uint64_t extent, end;
	int rc = check_tensor(t, index, why);
	if (rc < 0)
		return rc;
	out->ndim = t->ndim;
	sort_dims(t, out);
	rc = check_contiguous(t, index, out, &extent, why);
	if (rc < 0)
		return rc;
	if (__builtin_add_overflow(extent, t->offset, &end) || end > t->bytes)
		return why_set(why, -ERANGE, "tensor %u needs %llu bytes from offset %llu, its memory has %llu", index,
			       (unsigned long long)extent, (unsigned long long)t->offset, (unsigned long long)t->bytes);
	out->first = t->base + t->offset;
	return 0;
}

/* ---- hints ----------------------------------------------------------------------------------------------------------- */

static int order_hint(const struct kv_layout_in *in, enum order *out, struct why *why)
{
	struct slice h = in->hint_kv_layout;
	if (h.n == 0)
		*out = ORDER_ANY;
	else if (slice_is(h, "NHD") || slice_is(h, "LBNHC"))
		*out = ORDER_NHD;
	else if (slice_is(h, "HND") || slice_is(h, "LBHNC"))
		*out = ORDER_HND;
	else
		return why_set(why, -EINVAL, "kv_layout '%.*s' is unknown (NHD, HND, LBNHC and LBHNC are understood)",
			       SLICE_FMT(h));
	return 0;
}

/* Layers the engine groups speak of; 0 = they say nothing. */
static uint64_t layers_in_groups(const struct kv_layout_in *in)
{
	uint64_t n = 0;
	for (uint32_t g = 0; g < in->ngroups; g++)
		n += in->groups[g].nlayers;
	return n;
}

static bool flat_by_block_size(const struct kv_layout_in *in, const struct norm *n)
{
	/* Before D3 no engine type is sent. A vLLM latent cache [NB, BS, HS] carries its block size in the middle; a stated
	 * one that differs means a flat pool [NB*BS, NH, HS]. */
	return in->engine_type.n == 0 && n->ndim == 3 && in->hint_tokens_per_block != 0 &&
	       n->shape[1] != in->hint_tokens_per_block;
}

static int arrange_lists(const struct kv_layout_in *in, const struct norm *norm, enum arrangement *arr,
			 uint32_t *nlayers, struct why *why)
{
	bool k_v = in->hint_list_layout.n != 0;
	uint64_t told = layers_in_groups(in);
	uint32_t head_dim = norm[0].ndim >= 2 ? norm[0].ndim - 2 : 0;
	/* One head and no hint: latent (kv_size 1), unless the engine groups count half as many layers as tensors. */
	if (norm[0].shape[head_dim] > 1 || (told != 0 && told * 2 == in->ntensors))
		k_v = true;
	*arr = k_v ? ARR_LISTS_K_V : ARR_LIST_LATENT;
	*nlayers = k_v ? in->ntensors / 2 : in->ntensors;
	if (k_v && in->ntensors % 2 != 0)
		return why_set(why, -EINVAL, "%u tensors cannot be a list of all K followed by all V", in->ntensors);
	return 0;
}

static int arrange_cross(const struct kv_layout_in *in, const struct norm *norm, enum arrangement *arr,
			 uint32_t *nlayers, struct why *why)
{
	struct shape_text text;
	if (in->ntensors != 1)
		return why_set(why, -EINVAL,
			       "%u tensors of shape %s; a tensor that holds all layers ([NB, NL, 2, ...]) comes alone",
			       in->ntensors, shape_text(norm, &text));
	if (norm->shape[1] > KV_MAX_TENSORS)
		return why_set(why, -EINVAL, "tensor of shape %s would have more than %d layers",
			       shape_text(norm, &text), KV_MAX_TENSORS);
	*arr = ARR_CROSS_LAYER;
	*nlayers = (uint32_t)norm->shape[1];
	return 0;
}

int kv_arrange(const struct kv_layout_in *in, const struct norm *norm, enum arrangement *arr, uint32_t *nlayers,
	       struct why *why)
{
	if (in->hint_list_layout.n != 0 && !slice_is(in->hint_list_layout, "k_v"))
		return why_set(why, -EINVAL, "kv_list_layout '%.*s' is unknown ('k_v' is understood)",
			       SLICE_FMT(in->hint_list_layout));
	if (norm[0].ndim == 6 || (slice_is(in->engine_type, "trtllm") && in->hint_list_layout.n == 0))
		return arrange_cross(in, norm, arr, nlayers, why);
	if (slice_is(in->engine_type, "sglang") || in->hint_list_layout.n != 0 || flat_by_block_size(in, norm))
		return arrange_lists(in, norm, arr, nlayers, why);
	*arr = ARR_PER_LAYER;
	*nlayers = in->ntensors;
	return 0;
}

/* ---- one layer ------------------------------------------------------------------------------------------------------- */

struct dims {
	uint32_t block, token, head; /* positions in the normalised shape */
};

static int set_u32(uint64_t v, uint32_t *out)
{
	*out = (uint32_t)v;
	return v <= UINT32_MAX ? 0 : -EINVAL;
}

static int fill_form(const struct norm *n, struct dims at, struct layer_form *f, struct why *why)
{
	struct shape_text text;
	f->num_blocks = n->shape[at.block];
	f->block_stride = n->stride[at.block];
	f->token_stride = n->stride[at.token];
	f->head_stride = n->stride[at.head];
	if (set_u32(n->shape[at.token], &f->block_size) < 0 || set_u32(n->shape[at.head], &f->num_heads) < 0 ||
	    set_u32(n->shape[n->ndim - 1], &f->head_size) < 0)
		return why_set(why, -EINVAL, "shape %s has dimensions beyond 32 bits", shape_text(n, &text));
	return 0;
}

static int wrong_block_size(const struct norm *n, uint32_t stated, uint64_t seen, struct why *why)
{
	struct shape_text text;
	return why_set(why, -EINVAL, "shape %s has blocks of %llu tokens, but %u tokens per block are stated",
		       shape_text(n, &text), (unsigned long long)seen, stated);
}

/* Which of the adjoining dimensions a and a + 1 counts tokens and which heads; the rules at the top of the file. */
static int tokens_or_heads(const struct norm *n, uint32_t a, enum order hint, uint32_t stated, bool *hnd,
			   struct why *why)
{
	uint64_t x = n->shape[a], y = n->shape[a + 1];
	*hnd = hint == ORDER_HND || (hint == ORDER_ANY && x > 1 && y > 1 && n->from[a] > n->from[a + 1]);
	uint64_t tokens = *hnd ? y : x, heads = *hnd ? x : y;
	bool may_swap = hint == ORDER_ANY || x == 1 || y == 1;
	if (stated != 0 && tokens != stated) {
		if (heads != stated || !may_swap)
			return wrong_block_size(n, stated, tokens, why);
		*hnd = !*hnd;
	} else if (stated == 0 && tokens == 1 && hint != ORDER_NHD) {
		*hnd = !*hnd;
	}
	return 0;
}

static struct dims dims_of(uint32_t block, uint32_t a, bool hnd)
{
	return (struct dims){block, hnd ? a + 1 : a, hnd ? a : a + 1};
}

/* [2, NB, ...] or [NB, 2, ...], then tokens and heads in either order, then the head. */
static int layer_5d(const struct norm *n, enum order hint, uint32_t stated, struct layer_form *f, struct why *why)
{
	struct shape_text text;
	bool k_first = n->shape[0] == 2, hnd = false;
	if (!k_first && n->shape[1] != 2)
		return why_set(why, -EINVAL,
			       "shape %s: [2, NB, BS, NH, HS] or [NB, 2, BS, NH, HS] (or HND) would be understood",
			       shape_text(n, &text));
	int rc = tokens_or_heads(n, 2, hint, stated, &hnd, why);
	if (rc < 0)
		return rc;
	if (k_first)
		f->format = hnd ? KV_NL_X_TWO_NB_NH_BS_HS : KV_NL_X_TWO_NB_BS_NH_HS;
	else
		f->format = hnd ? KV_NL_X_NB_TWO_NH_BS_HS : KV_NL_X_NB_TWO_BS_NH_HS;
	f->kv_size = 2;
	f->base[0] = n->first;
	f->base[1] = n->first + n->stride[k_first ? 0 : 1];
	return fill_form(n, dims_of(k_first ? 1 : 0, 2, hnd), f, why);
}

/* Fused: [NB, NH, BS, 2*HS] or [NB, BS, NH, 2*HS]; K and V alternate, so a head's row is half of the last dimension. */
static int layer_fused(const struct kv_layout_in *in, const struct norm *n, enum order hint, uint32_t stated,
		       struct layer_form *f, struct why *why)
{
	struct shape_text text;
	bool hnd = false;
	uint64_t half = n->shape[3] / 2;
	if (n->shape[3] % 2 != 0 || (in->hint_head_dim != 0 && in->hint_head_dim != half))
		return why_set(why, -EINVAL,
			       "shape %s: [NB, NH, BS, 2*HS] would be understood, but head_dim is %u and half of the "
			       "last dimension %llu%s",
			       shape_text(n, &text), in->hint_head_dim, (unsigned long long)half,
			       n->shape[3] % 2 ? " and a half" : "");
	int rc = tokens_or_heads(n, 1, hint, stated, &hnd, why);
	if (rc == 0)
		rc = fill_form(n, dims_of(0, 1, hnd), f, why);
	if (rc < 0)
		return rc;
	f->format = KV_NL_X_NB_NH_BS_TWO_HS;
	f->kv_size = 2;
	f->head_size = (uint32_t)half;
	f->base[0] = n->first;
	f->base[1] = n->first + half * n->stride[3];
	return 0;
}

/* [NB, BS, HS], one latent vector per token. */
static int layer_latent(const struct norm *n, uint32_t stated, struct layer_form *f, struct why *why)
{
	if (stated != 0 && n->shape[1] != stated)
		return wrong_block_size(n, stated, n->shape[1], why);
	int rc = fill_form(n, (struct dims){0, 1, 2}, f, why);
	f->format = KV_NL_X_NB_BS_HS;
	f->kv_size = 1;
	f->num_heads = 1;
	f->base[0] = n->first;
	return rc;
}

static int layer_single(const struct kv_layout_in *in, const struct norm *n, enum order hint, uint32_t stated,
			struct layer_form *f, struct why *why)
{
	struct shape_text text;
	if (n->ndim == 5)
		return layer_5d(n, hint, stated, f, why);
	if (n->ndim == 4)
		return layer_fused(in, n, hint, stated, f, why);
	if (n->ndim == 3)
		return layer_latent(n, stated, f, why);
	return why_set(why, -EINVAL,
		       "shape %s: per layer, [2, NB, BS, NH, HS], [NB, 2, BS, NH, HS], [NB, NH, BS, 2*HS] or [NB, BS, "
		       "HS] would be understood",
		       shape_text(n, &text));
}

/* One tensor of a list: [NB*BS, NH, HS] cut into blocks, or [NB, BS, NH, HS]. */
static int list_part(const struct norm *n, uint32_t stated, struct layer_form *f, struct why *why)
{
	struct shape_text text;
	if (n->ndim == 4) {
		if (stated != 0 && n->shape[1] != stated)
			return wrong_block_size(n, stated, n->shape[1], why);
		return fill_form(n, (struct dims){0, 1, 2}, f, why);
	}
	if (n->ndim != 3)
		return why_set(why, -EINVAL,
			       "shape %s: in lists, [NB*BS, NH, HS] or [NB, BS, NH, HS] would be understood",
			       shape_text(n, &text));
	if (stated == 0 || n->shape[0] < stated)
		return why_set(why, -EINVAL, "shape %s: [NB*BS, NH, HS] needs tokens_per_block, stated is %u",
			       shape_text(n, &text), stated);
	int rc = fill_form(n, (struct dims){0, 0, 1}, f, why);
	f->block_size = stated;
	f->num_blocks = n->shape[0] / stated;
	/* No overflow: a whole block lies inside the tensor. */
	f->block_stride = n->stride[0] * stated;
	return rc;
}

static bool same_shape(const struct norm *a, const struct norm *b)
{
	if (a->ndim != b->ndim)
		return false;
	for (uint32_t i = 0; i < a->ndim; i++) {
		if (a->shape[i] != b->shape[i] || a->stride[i] != b->stride[i])
			return false;
	}
	return true;
}

static int layer_lists(const struct kv_layout_in *in, const struct norm *k, const struct norm *v, uint32_t stated,
		       enum order hint, struct layer_form *f, struct why *why)
{
	struct shape_text tk, tv;
	if (hint == ORDER_HND)
		return why_set(why, -EINVAL, "shape %s: kv_layout HND is not known for lists of tensors",
			       shape_text(k, &tk));
	int rc = list_part(k, stated, f, why);
	if (rc < 0)
		return rc;
	f->base[0] = k->first;
	if (v == NULL) {
		if (f->num_heads != 1)
			return why_set(why, -EINVAL,
				       "shape %s: without V tensors [NB*BS, 1, HS] would be understood (%u tensors)",
				       shape_text(k, &tk), in->ntensors);
		f->format = KV_NL_X_NBBS_ONE_HS;
		f->kv_size = 1;
		return 0;
	}
	if (!same_shape(k, v))
		return why_set(why, -EINVAL, "K has shape %s, V of the same layer %s", shape_text(k, &tk),
			       shape_text(v, &tv));
	f->format = k->ndim == 3 ? KV_TWO_X_NL_X_NBBS_NH_HS : KV_TWO_X_NL_X_NB_BS_NH_HS;
	f->kv_size = 2;
	f->base[1] = v->first;
	return 0;
}

/* [NB, NL, 2, NH*BS*HS]: the last dimension is split by the hints into the order that kv_layout states. */
static int split_flat(const struct kv_layout_in *in, const struct norm *n, enum order hint, uint32_t stated,
		      struct norm *out, struct why *why)
{
	struct shape_text text;
	uint64_t heads = in->hint_num_kv_heads, size = in->hint_head_dim, product;
	if (hint == ORDER_ANY || heads == 0 || size == 0 || stated == 0)
		return why_set(why, -EINVAL,
			       "shape %s: [NB, NL, 2, NH*BS*HS] needs the hints kv_layout, num_kv_heads, "
			       "tokens_per_block and head_dim",
			       shape_text(n, &text));
	if (__builtin_mul_overflow(heads * size, (uint64_t)stated, &product) || product != n->shape[3])
		return why_set(why, -EINVAL, "shape %s: the last dimension is not %llu heads * %u tokens * %llu",
			       shape_text(n, &text), (unsigned long long)heads, stated, (unsigned long long)size);
	*out = *n;
	out->ndim = 6;
	out->shape[3] = hint == ORDER_HND ? heads : stated;
	out->shape[4] = hint == ORDER_HND ? stated : heads;
	out->shape[5] = size;
	out->stride[5] = n->stride[3];
	out->stride[4] = out->stride[5] * size;
	out->stride[3] = out->stride[4] * out->shape[4];
	for (uint32_t i = 3; i < 6; i++)
		out->from[i] = i;
	return 0;
}

static int layer_cross(const struct kv_layout_in *in, const struct norm *n, enum order hint, uint32_t stated,
		       uint32_t layer, struct layer_form *f, struct why *why)
{
	struct shape_text text;
	struct norm split;
	bool hnd = false;
	int rc = 0;
	if ((n->ndim != 4 && n->ndim != 6) || n->shape[2] != 2)
		return why_set(why, -EINVAL,
			       "shape %s: [NB, NL, 2, BS, NH, HS], [NB, NL, 2, NH, BS, HS] or [NB, NL, 2, NH*BS*HS] "
			       "would be understood",
			       shape_text(n, &text));
	if (n->ndim == 4) {
		rc = split_flat(in, n, hint, stated, &split, why);
		n = &split;
	}
	if (rc == 0)
		rc = tokens_or_heads(n, 3, hint, stated, &hnd, why);
	if (rc == 0)
		rc = fill_form(n, dims_of(0, 3, hnd), f, why);
	if (rc < 0)
		return rc;
	f->format = hnd ? KV_NB_NL_TWO_NH_BS_HS : KV_NB_NL_TWO_BS_NH_HS;
	f->kv_size = 2;
	f->base[0] = n->first + layer * n->stride[1];
	f->base[1] = f->base[0] + n->stride[2];
	return 0;
}

static int same_type(const struct kv_tensor *k, const struct kv_tensor *v, struct why *why)
{
	if (k->dtype != v->dtype || k->element_size != v->element_size)
		return why_set(why, -EINVAL, "K and V differ in their element type");
	return 0;
}

int kv_recognise(const struct kv_layout_in *in, const struct norm *norm, enum arrangement arr, uint32_t layer,
		 uint32_t nlayers, uint32_t tokens_per_block, struct layer_form *out, struct why *why)
{
	uint32_t stated = tokens_per_block != 0 ? tokens_per_block : in->hint_tokens_per_block;
	const struct kv_tensor *t = &in->tensors[arr == ARR_CROSS_LAYER ? 0 : layer];
	enum order hint = ORDER_ANY;
	int rc = order_hint(in, &hint, why);
	if (rc < 0)
		return rc;
	switch (arr) {
	case ARR_PER_LAYER:
		rc = layer_single(in, &norm[layer], hint, stated, out, why);
		break;
	case ARR_LISTS_K_V:
		rc = layer_lists(in, &norm[layer], &norm[nlayers + layer], stated, hint, out, why);
		if (rc == 0)
			rc = same_type(t, &in->tensors[nlayers + layer], why);
		break;
	case ARR_LIST_LATENT:
		rc = layer_lists(in, &norm[layer], NULL, stated, hint, out, why);
		break;
	case ARR_CROSS_LAYER:
		rc = layer_cross(in, norm, hint, stated, layer, out, why);
		break;
	}
	out->dtype = t->dtype;
	out->element_size = t->element_size;
	if (rc < 0)
		why_prefix(why, "layer %u", layer);
	return rc;
}
