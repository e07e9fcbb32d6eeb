/* kv_ref.h - an independent, element-by-element model of the formats, for the tests of transport/kv.
 *
 * The offsets are the formulas of the protocol reference, section 9.2, typed in one by one; nothing here knows planes,
 * rows or runs. Included by one test file per binary, hence the static functions.
 */
#ifndef TESTS_UNIT_TRANSPORT_KV_REF_H
#define TESTS_UNIT_TRANSPORT_KV_REF_H

#include "transport/kv/kv.h"

#include <assert.h>
#include <stdlib.h>

#define REF_MAX_LAYERS 8

struct ref_shape {
	uint32_t nl, nb, bs, nh, hs, es;
	uint64_t pad;   /* elements added to the stride of the outermost dimension */
	uint64_t lead;  /* elements before the first one */
	bool nhd_fused; /* format 10 as [NB, BS, NH, 2*HS] */
	uint32_t dtype;
};

struct ref_kv {
	enum kv_format fmt;
	struct ref_shape s;
	uint32_t ntensors;
	struct kv_tensor t[2 * REF_MAX_LAYERS];
};

static inline uint64_t ref_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline void ref_fill(void *p, uint64_t n, uint64_t seed)
{
	for (uint64_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)ref_random(&seed);
}

static inline bool ref_is_mla(enum kv_format f)
{
	return f == KV_NL_X_NB_BS_HS || f == KV_NL_X_NBBS_ONE_HS;
}

static inline uint32_t ref_kv_size(enum kv_format f)
{
	return ref_is_mla(f) ? 1 : 2;
}

static inline uint32_t ref_tensors(enum kv_format f, uint32_t nl)
{
	switch (f) {
	case KV_NB_NL_TWO_BS_NH_HS:
	case KV_NB_NL_TWO_NH_BS_HS:
		return 1;
	case KV_TWO_X_NL_X_NBBS_NH_HS:
	case KV_TWO_X_NL_X_NB_BS_NH_HS:
		return 2 * nl;
	default:
		return nl;
	}
}

static inline uint32_t ref_dims(enum kv_format f, const struct ref_shape *s, uint64_t out[KV_MAX_DIMS])
{
	const uint64_t NL = s->nl, NB = s->nb, BS = s->bs, NH = s->nh, HS = s->hs;
	const uint64_t table[KV_FORMAT_COUNT][7] = {
		[0] = {6, NB, NL, 2, BS, NH, HS},
		[1] = {5, 2, NB, BS, NH, HS},
		[2] = {5, NB, 2, BS, NH, HS},
		[3] = {3, NB, BS, HS},
		[4] = {3, NB * BS, NH, HS},
		[5] = {3, NB * BS, 1, HS},
		[6] = {5, 2, NB, NH, BS, HS},
		[7] = {5, NB, 2, NH, BS, HS},
		[8] = {4, NB, NL, 2, NH * BS * HS},
		[9] = {4, NB, BS, NH, HS},
		[10] = {4, NB, s->nhd_fused ? BS : NH, s->nhd_fused ? NH : BS, 2 * HS},
	};
	memcpy(out, &table[f][1], table[f][0] * sizeof(uint64_t));
	return (uint32_t)table[f][0];
}

/* Elements from element (0, ..., 0) of tensor l, or k*NL + l, or 0. */
static inline uint64_t ref_offset(enum kv_format f, const struct ref_shape *s, uint64_t l, uint64_t k, uint64_t b,
				  uint64_t t, uint64_t h, uint64_t d)
{
	const uint64_t NL = s->nl, NB = s->nb, BS = s->bs, NH = s->nh, HS = s->hs, P = s->pad;
	switch ((int)f) {
	case 0:
		return ((((b * NL + l) * 2 + k) * BS + t) * NH + h) * HS + d + b * P;
	case 1:
		return (((k * NB + b) * BS + t) * NH + h) * HS + d + k * P;
	case 2:
		return (((b * 2 + k) * BS + t) * NH + h) * HS + d + b * P;
	case 3:
		return (b * BS + t) * HS + d + b * P;
	case 4:
		return ((b * BS + t) * NH + h) * HS + d + (b * BS + t) * P;
	case 5:
		return (b * BS + t) * HS + d + (b * BS + t) * P;
	case 6:
		return (((k * NB + b) * NH + h) * BS + t) * HS + d + k * P;
	case 7:
		return (((b * 2 + k) * NH + h) * BS + t) * HS + d + b * P;
	case 8:
		return ((((b * NL + l) * 2 + k) * NH + h) * BS + t) * HS + d + b * P;
	case 9:
		return ((b * BS + t) * NH + h) * HS + d + b * P;
	default:
		if (s->nhd_fused)
			return (((b * BS + t) * NH + h) * 2 + k) * HS + d + b * P;
		return (((b * NH + h) * BS + t) * 2 + k) * HS + d + b * P;
	}
}

static inline uint8_t *ref_at(const struct ref_kv *kv, uint64_t l, uint64_t k, uint64_t b, uint64_t t, uint64_t h,
			      uint64_t d)
{
	uint64_t i = l;
	if (kv->ntensors == 1 && kv->s.nl > 1)
		i = 0;
	else if (kv->ntensors == 2 * kv->s.nl)
		i = k * kv->s.nl + l;
	const struct kv_tensor *T = &kv->t[i];
	return T->base + T->offset + ref_offset(kv->fmt, &kv->s, l, k, b, t, h, d) * T->element_size;
}

static inline void ref_make(struct ref_kv *kv, enum kv_format fmt, struct ref_shape s, uint64_t seed)
{
	assert(s.nl <= REF_MAX_LAYERS && (!ref_is_mla(fmt) || s.nh == 1));
	*kv = (struct ref_kv){.fmt = fmt, .s = s, .ntensors = ref_tensors(fmt, s.nl)};
	for (uint32_t i = 0; i < kv->ntensors; i++) {
		struct kv_tensor *t = &kv->t[i];
		t->ndim = ref_dims(fmt, &s, t->shape);
		uint64_t n = 1;
		for (uint32_t a = t->ndim; a-- > 0;) {
			t->stride[a] = (int64_t)n;
			n *= t->shape[a];
		}
		t->stride[0] += (int64_t)s.pad;
		n = (uint64_t)t->stride[0] * t->shape[0] - s.pad; /* no padding behind the last one */
		t->element_size = s.es;
		t->dtype = s.dtype;
		t->offset = s.lead * s.es;
		t->bytes = (s.lead + n) * s.es;
		t->base = aligned_alloc(64, (t->bytes + 63) / 64 * 64);
		ref_fill(t->base, t->bytes, seed + i);
	}
}

static inline void ref_free(struct ref_kv *kv)
{
	for (uint32_t i = 0; i < kv->ntensors; i++)
		free(kv->t[i].base);
}

/* A second cache with the same bytes, for expectations. */
static inline void ref_clone(struct ref_kv *to, const struct ref_kv *from)
{
	*to = *from;
	for (uint32_t i = 0; i < to->ntensors; i++) {
		to->t[i].base = malloc(to->t[i].bytes);
		memcpy(to->t[i].base, from->t[i].base, to->t[i].bytes);
	}
}

static inline bool ref_same(const struct ref_kv *a, const struct ref_kv *b)
{
	for (uint32_t i = 0; i < a->ntensors; i++) {
		if (memcmp(a->t[i].base, b->t[i].base, a->t[i].bytes) != 0)
			return false;
	}
	return true;
}

static inline const char *ref_order(const struct ref_kv *kv)
{
	switch ((int)kv->fmt) {
	case 6:
	case 7:
	case 8:
		return "HND";
	case 10:
		return kv->s.nhd_fused ? "NHD" : "HND";
	case 0:
	case 2:
		return "NHD";
	default:
		return "";
	}
}

/* What a client of this format sends. No engine groups. */
static inline struct kv_layout_in ref_in(const struct ref_kv *kv, uint32_t chunk_tokens)
{
	struct kv_layout_in in = {.tensors = kv->t, .ntensors = kv->ntensors, .chunk_tokens = chunk_tokens};
	in.hint_kv_layout = slice_str(ref_order(kv));
	in.engine_type = slice_str("vllm");
	if (kv->fmt == 4 || kv->fmt == 9) {
		in.engine_type = slice_str("sglang");
		in.hint_list_layout = slice_str("k_v");
	}
	if (kv->fmt == 5)
		in.engine_type = slice_str("sglang");
	if (kv->fmt == 4 || kv->fmt == 5 || kv->fmt == 9 || kv->s.bs == 1)
		in.hint_tokens_per_block = kv->s.bs;
	if (kv->fmt == 8) {
		in.engine_type = slice_str("trtllm");
		in.hint_num_kv_heads = kv->s.nh;
		in.hint_tokens_per_block = kv->s.bs;
		in.hint_head_dim = kv->s.hs;
	}
	return in;
}

/* One chunk of the layers of `kv`, in the order of the chunk object (section 9.4), element by element. With `store` the
 * pages are read, else written; blocks before `first_token` are left alone then. Returns the bytes of the object's part. */
static inline uint64_t ref_chunk(const struct ref_kv *kv, const uint32_t *ids, uint32_t chunk_tokens,
				 uint32_t first_token, bool store, uint8_t *object)
{
	const struct ref_shape *s = &kv->s;
	uint64_t D = (uint64_t)s->nh * s->hs, T = chunk_tokens, L = s->nl;
	for (uint64_t k = 0; k < ref_kv_size(kv->fmt); k++)
		for (uint64_t l = 0; l < L; l++)
			for (uint64_t t = store ? 0 : first_token; t < T; t++)
				for (uint64_t h = 0; h < s->nh; h++)
					for (uint64_t d = 0; d < s->hs; d++) {
						uint64_t o = ((k * L + l) * T + t) * D + h * s->hs + d;
						uint8_t *page = ref_at(kv, l, k, ids[t / s->bs], t % s->bs, h, d);
						if (store)
							memcpy(object + o * s->es, page, s->es);
						else
							memcpy(page, object + o * s->es, s->es);
					}
	return ref_kv_size(kv->fmt) * L * T * D * s->es;
}

#endif
