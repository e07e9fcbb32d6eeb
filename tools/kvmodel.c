#include "tools/kvmodel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define POISON_WORD 0xA5A5A5A5A5A5A5A5u

/* Shapes as the models' configurations have them. `-tpN`: each of N ranks has a share of the heads. With MLA (DeepSeek: latent 512 + rotary
 * 64) all ranks hold the same KV, so world_size is 1 and two workers read it. gpt-oss is hybrid: every other layer sees a window only. */
const struct km_model km_models[] = {
	{"llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", 32, 2, 8, 128, 16, 1, 1, 1, PK_BFLOAT16, 0},
	{"llama-3.1-70b-tp4", "meta-llama/Llama-3.1-70B-Instruct", 80, 2, 2, 128, 16, 4, 4, 4, PK_BFLOAT16, 0},
	{"mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", 32, 2, 8, 128, 16, 1, 1, 1, PK_BFLOAT16, 0},
	{"qwen3-8b", "Qwen/Qwen3-8B", 36, 2, 8, 128, 16, 1, 1, 1, PK_BFLOAT16, 0},
	{"qwen3-32b-tp4", "Qwen/Qwen3-32B", 64, 2, 2, 128, 16, 4, 4, 4, PK_BFLOAT16, 0},
	{"gpt-oss-20b", "openai/gpt-oss-20b", 24, 2, 8, 64, 16, 1, 1, 1, PK_BFLOAT16, 128},
	{"deepseek-v3-mla", "deepseek-ai/DeepSeek-V3", 61, 1, 1, 576, 64, 1, 2, 2, PK_BFLOAT16, 0},
};
const uint32_t km_nmodels = sizeof(km_models) / sizeof(km_models[0]);

const struct km_model *km_model_find(const char *name)
{
	for (uint32_t i = 0; i < km_nmodels; i++)
		if (strcmp(name, km_models[i].name) == 0)
			return &km_models[i];
	return NULL;
}

void km_model_names(char *buf, size_t cap)
{
	size_t n = 0;
	for (uint32_t i = 0; i < km_nmodels && n < cap; i++)
		n += (size_t)snprintf(buf + n, cap - n, "%s%s", i ? ", " : "", km_models[i].name);
}

static const struct km_format formats[KM_OBJECT + 1] = {
	[KV_NB_NL_TWO_BS_NH_HS] = {"", "B.L.K.t.h.d", "vllm", "NHD", "", false, false},
	[KV_NL_X_TWO_NB_BS_NH_HS] = {"L", "K.B.t.h.d", "vllm", "NHD", "", false, false},
	[KV_NL_X_NB_TWO_BS_NH_HS] = {"L", "B.K.t.h.d", "vllm", "NHD", "", false, false},
	[KV_NL_X_NB_BS_HS] = {"L", "B.t.d", "vllm", "", "", false, true},
	[KV_TWO_X_NL_X_NBBS_NH_HS] = {"KL", "Bt.h.d", "sglang", "NHD", "k_v", true, false},
	[KV_NL_X_NBBS_ONE_HS] = {"L", "Bt.1.d", "sglang", "", "", true, true},
	[KV_NL_X_TWO_NB_NH_BS_HS] = {"L", "K.B.h.t.d", "vllm", "HND", "", false, false},
	[KV_NL_X_NB_TWO_NH_BS_HS] = {"L", "B.K.h.t.d", "vllm", "HND", "", false, false},
	[KV_NB_NL_TWO_NH_BS_HS] = {"", "B.L.K.htd", "trtllm", "HND", "", true, false},
	[KV_TWO_X_NL_X_NB_BS_NH_HS] = {"KL", "B.t.h.d", "sglang", "NHD", "k_v", true, false},
	[KV_NL_X_NB_NH_BS_TWO_HS] = {"L", "B.h.t.Kd", "vllm", "HND", "", false, false},
	[KM_OBJECT] = {"", "K.L.t.hd", "", "", "", false, false},
};

const struct km_format *km_format(uint32_t f)
{
	return f <= KM_OBJECT && formats[f].shape ? &formats[f] : NULL;
}

static uint64_t extent(const struct km_place *p, char dim)
{
	switch (dim) {
	case 'K':
		return p->model->kv_size;
	case 'L':
		return p->model->layers;
	case 'B':
		return p->num_blocks;
	case 't':
		return p->block_tokens;
	case 'h':
		return p->model->heads;
	case 'd':
		return p->model->head_size;
	default:
		return 1;
	}
}

static void set_stride(struct km_place *p, char dim, uint64_t bytes)
{
	if (dim == 'K')
		p->stride_k = bytes;
	else if (dim == 'L')
		p->stride_l = bytes;
	else if (dim == 'B')
		p->stride_b = bytes;
	else if (dim == 't')
		p->stride_t = bytes;
	else if (dim == 'h')
		p->stride_h = bytes;
}

static void lay_out(struct km_place *p, const struct km_format *f)
{
	p->ndim = 1;
	p->shape[0] = 1;
	for (const char *c = f->shape; *c; c++) {
		if (*c == '.')
			p->shape[p->ndim++] = 1;
		else
			p->shape[p->ndim - 1] *= extent(p, *c);
	}
	uint64_t bytes = p->element;
	for (size_t i = strlen(f->shape); i-- > 0;) {
		set_stride(p, f->shape[i], bytes);
		bytes *= extent(p, f->shape[i]);
	}
	p->tensor_bytes = bytes;
	p->ntensors = 1;
	for (size_t i = strlen(f->list); i-- > 0;) {
		if (f->list[i] == 'K')
			p->tensor_k = p->ntensors;
		else
			p->tensor_l = p->ntensors;
		p->ntensors *= (uint32_t)extent(p, f->list[i]);
	}
}

int km_place_init(struct km_place *p, const struct km_model *m, uint32_t format, uint32_t block_tokens,
		  uint64_t num_blocks, struct why *why)
{
	const struct km_format *f = km_format(format);
	if (!f)
		return why_set(why, -EINVAL, "KV format %u is unknown (0 to %d)", format, KV_FORMAT_COUNT - 1);
	if (format != KM_OBJECT && f->mla != (m->kv_size == 1))
		return why_set(why, -EINVAL, "KV format %u is %s, and %s %s", format,
			       f->mla ? "for MLA" : "for K and V", m->name,
			       m->kv_size == 1 ? "uses MLA (formats 3 and 5)" : "has K and V");
	memset(p, 0, sizeof(*p));
	p->model = m;
	p->format = format;
	p->block_tokens = block_tokens;
	p->num_blocks = num_blocks;
	p->element = pk_dtype_size(m->dtype);
	p->layer_step = 1;
	lay_out(p, f);
	if (p->ntensors > KM_MAX_TENSORS)
		return why_set(why, -EINVAL, "%u tensors; at most %d", p->ntensors, KM_MAX_TENSORS);
	return 0;
}

uint32_t km_groups(const struct km_model *m, uint32_t format)
{
	const struct km_format *f = km_format(format);
	return m->window && strcmp(f->engine_type, "vllm") == 0 && strcmp(f->list, "L") == 0 ? KM_GROUPS : 1;
}

struct km_place km_group(const struct km_place *p, uint32_t group)
{
	struct km_place g = *p;
	g.layer_first = group;
	g.layer_step = km_groups(p->model, p->format);
	return g;
}

uint64_t km_chunk_bytes(const struct km_model *m, uint32_t chunk_tokens)
{
	return (uint64_t)m->kv_size * m->layers * chunk_tokens * m->heads * m->head_size * pk_dtype_size(m->dtype);
}

/* ---- pattern ------------------------------------------------------------------------------------------------- */

static inline uint64_t mix(uint64_t h)
{
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93u;
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93u;
	h ^= h >> 32;
	return h;
}

void km_chain(const uint32_t *ids, uint32_t count, uint64_t *chain)
{
	uint64_t h = 0x6C6D63616368655Fu;
	for (uint32_t i = 0; i < count; i++) {
		h = mix(h + ids[i] + 1);
		chain[i] = h;
	}
}

struct run {
	uint8_t *p;
	uint64_t seed;
	size_t words;
};

#define STEP 0x9E3779B97F4A7C15u

static uint64_t run_write(const struct run *r)
{
	for (size_t i = 0; i < r->words; i++) {
		uint64_t v = r->seed + i * STEP;
		memcpy(r->p + i * 8, &v, 8);
	}
	return 0;
}

static uint64_t run_check(const struct run *r)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < r->words; i++) {
		uint64_t v;
		memcpy(&v, r->p + i * 8, 8);
		wrong |= v ^ (r->seed + i * STEP);
	}
	return wrong != 0;
}

static uint64_t run_poison(const struct run *r)
{
	memset(r->p, 0xA5, r->words * 8);
	return 0;
}

static uint64_t run_check_poison(const struct run *r)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < r->words; i++) {
		uint64_t v;
		memcpy(&v, r->p + i * 8, 8);
		wrong |= v ^ POISON_WORD;
	}
	return wrong != 0;
}

/* Every run of the block, in memory order of one (layer, k) plane. `chain` NULL: seeds are not needed. */
static inline __attribute__((always_inline)) uint64_t each_run(const struct km_place *p, uint8_t *const *bases,
							       uint64_t block, const uint64_t *chain, uint32_t rank,
							       uint64_t (*fn)(const struct run *))
{
	const struct km_model *m = p->model;
	uint64_t sum = 0;
	struct run r = {.words = m->head_size * p->element / 8};
	for (uint32_t k = 0; k < m->kv_size; k++)
		for (uint32_t l = p->layer_first; l < m->layers; l += p->layer_step) {
			uint8_t *plane = bases[k * p->tensor_k + l * p->tensor_l] + k * p->stride_k + l * p->stride_l +
					 block * p->stride_b;
			uint64_t where = mix(((uint64_t)rank << 40) + ((uint64_t)l << 20) + k);
			for (uint32_t t = 0; t < p->block_tokens; t++)
				for (uint32_t h = 0; h < m->heads; h++) {
					r.p = plane + t * p->stride_t + h * p->stride_h;
					r.seed = chain ? mix(chain[t] ^ (where + h)) : 0;
					sum += fn(&r);
				}
		}
	return sum;
}

void km_write(const struct km_place *p, uint8_t *const *bases, uint64_t block, const uint64_t *chain, uint32_t rank)
{
	each_run(p, bases, block, chain, rank, run_write);
}

uint64_t km_check(const struct km_place *p, uint8_t *const *bases, uint64_t block, const uint64_t *chain, uint32_t rank)
{
	return each_run(p, bases, block, chain, rank, run_check);
}

void km_poison(const struct km_place *p, uint8_t *const *bases, uint64_t block)
{
	each_run(p, bases, block, NULL, 0, run_poison);
}

uint64_t km_check_poison(const struct km_place *p, uint8_t *const *bases, uint64_t block)
{
	return each_run(p, bases, block, NULL, 0, run_check_poison);
}
