/* The bench's reading of the layouts against transport/kv's: what one writes into pages, the other must gather. */
#include "tools/kvmodel.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BLOCK  4u
#define CHUNK  16u
#define BLOCKS 9u

static const struct km_model full = {"f", "f", 3, 2, 2, 8, BLOCK, 1, 1, 1, PK_BFLOAT16, 0};
static const struct km_model mla = {"m", "m", 3, 1, 1, 24, BLOCK, 1, 1, 1, PK_BFLOAT16, 0};

struct pages {
	struct km_place place;
	uint8_t *bases[KM_MAX_TENSORS];
};

static const struct km_model *model_of(uint32_t f)
{
	return km_format(f)->mla ? &mla : &full;
}

static void pages_make(struct pages *p, uint32_t format)
{
	struct why why = {0};
	assert_int_equal(km_place_init(&p->place, model_of(format), format, BLOCK, BLOCKS, &why), 0);
	for (uint32_t i = 0; i < p->place.ntensors; i++)
		p->bases[i] = calloc(1, p->place.tensor_bytes);
}

static void pages_free(struct pages *p)
{
	for (uint32_t i = 0; i < p->place.ntensors; i++)
		free(p->bases[i]);
}

static struct kv_layout *layout_of(const struct pages *p)
{
	const struct km_format *f = km_format(p->place.format);
	const struct km_model *m = p->place.model;
	struct kv_tensor t[KM_MAX_TENSORS] = {{0}};
	struct kv_layout *l = NULL;
	struct why why = {0};
	for (uint32_t i = 0; i < p->place.ntensors; i++) {
		int64_t stride = 1;
		t[i] = (struct kv_tensor){.base = p->bases[i],
					  .bytes = p->place.tensor_bytes,
					  .element_size = 2,
					  .dtype = m->dtype,
					  .ndim = p->place.ndim};
		for (uint32_t d = p->place.ndim; d-- > 0;) {
			t[i].shape[d] = p->place.shape[d];
			t[i].stride[d] = stride;
			stride *= (int64_t)p->place.shape[d];
		}
	}
	struct kv_layout_in in = {.engine_type = slice_str(f->engine_type),
				  .hint_kv_layout = slice_str(f->kv_layout),
				  .hint_list_layout = slice_str(f->kv_list_layout),
				  .hint_num_kv_heads = f->size_hints ? m->heads : 0,
				  .hint_tokens_per_block = f->size_hints ? BLOCK : 0,
				  .hint_head_dim = f->size_hints ? m->head_size : 0,
				  .tensors = t,
				  .ntensors = p->place.ntensors,
				  .chunk_tokens = CHUNK};
	if (kv_layout_create(&in, &l, &why))
		fail_msg("format %u: %s", p->place.format, why.text);
	return l;
}

static void chain_make(uint64_t chain[CHUNK])
{
	uint32_t ids[CHUNK];
	for (uint32_t i = 0; i < CHUNK; i++)
		ids[i] = i * 7 + 1;
	km_chain(ids, CHUNK, chain);
}

static void t01_recognised_and_gathered(void **state)
{
	(void)state;
	static const uint32_t blocks[CHUNK / BLOCK] = {5, 1, 8, 3};
	uint64_t chain[CHUNK];
	chain_make(chain);
	for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++) {
		struct pages p;
		struct km_place object;
		struct kv_group_facts facts;
		struct kv_blocks list = {blocks, CHUNK / BLOCK};
		pages_make(&p, f);
		struct kv_layout *l = layout_of(&p);
		kv_layout_group(l, 0, &facts);
		assert_int_equal(facts.format, f);
		assert_int_equal(km_chunk_bytes(model_of(f), CHUNK), kv_object_bytes(l));
		uint8_t *bytes = calloc(1, kv_object_bytes(l));
		for (uint32_t i = 0; i < CHUNK / BLOCK; i++)
			km_write(&p.place, p.bases, blocks[i], chain + i * BLOCK, 0);
		kv_gather(l, &list, 0, bytes);
		assert_int_equal(km_place_init(&object, model_of(f), KM_OBJECT, CHUNK, 1, NULL), 0);
		assert_int_equal(km_check(&object, &bytes, 0, chain, 0), 0);
		free(bytes);
		kv_layout_destroy(l);
		pages_free(&p);
	}
}

/* Every byte of a block counts: flip each, one at a time. */
static void t02_every_byte_is_checked(void **state)
{
	(void)state;
	uint64_t chain[CHUNK];
	chain_make(chain);
	for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++) {
		struct pages p;
		uint64_t found = 0, bytes = 0;
		pages_make(&p, f);
		km_write(&p.place, p.bases, 2, chain, 1);
		assert_int_equal(km_check(&p.place, p.bases, 2, chain, 1), 0);
		for (uint32_t t = 0; t < p.place.ntensors; t++)
			for (uint64_t i = 0; i < p.place.tensor_bytes; i++, bytes++) {
				p.bases[t][i] ^= 0x10;
				found += km_check(&p.place, p.bases, 2, chain, 1) == 1;
				p.bases[t][i] ^= 0x10;
			}
		assert_int_equal(found, bytes / BLOCKS);
		pages_free(&p);
	}
}

static void t03_other_prompts_ranks_and_places_differ(void **state)
{
	(void)state;
	uint64_t chain[CHUNK], other[CHUNK];
	uint32_t ids[CHUNK] = {0};
	struct pages p;
	uint64_t runs = (uint64_t)full.layers * 2 * full.heads * BLOCK;
	chain_make(chain);
	km_chain(ids, CHUNK, other);
	pages_make(&p, KV_NL_X_TWO_NB_BS_NH_HS);
	km_write(&p.place, p.bases, 4, chain, 0);
	assert_int_equal(km_check(&p.place, p.bases, 4, other, 0), runs);
	assert_int_equal(km_check(&p.place, p.bases, 4, chain, 1), runs);
	assert_int_equal(km_check(&p.place, p.bases, 4, chain + BLOCK, 0), runs);
	assert_int_equal(km_check(&p.place, p.bases, 3, chain, 0), runs);
	pages_free(&p);
}

static void t04_poison(void **state)
{
	(void)state;
	struct pages p;
	uint64_t chain[CHUNK];
	chain_make(chain);
	pages_make(&p, KV_NL_X_NB_TWO_NH_BS_HS);
	for (uint32_t b = 0; b < BLOCKS; b++)
		km_write(&p.place, p.bases, b, chain, 0);
	km_poison(&p.place, p.bases, 6);
	for (uint32_t b = 0; b < BLOCKS; b++) {
		assert_int_equal(km_check_poison(&p.place, p.bases, b) == 0, b == 6);
		assert_int_equal(km_check(&p.place, p.bases, b, chain, 0) == 0, b != 6);
	}
	pages_free(&p);
}

static void t05_refused(void **state)
{
	(void)state;
	struct km_place place;
	struct why why = {0};
	assert_int_equal(km_place_init(&place, &full, KV_NL_X_NB_BS_HS, 16, 8, &why), -EINVAL);
	assert_int_equal(km_place_init(&place, &mla, KV_NL_X_TWO_NB_BS_NH_HS, 16, 8, &why), -EINVAL);
	assert_int_equal(km_place_init(&place, &full, 99, 16, 8, &why), -EINVAL);
	assert_null(km_format(99));
}

/* Bytes per chunk of 256 tokens, as the models' own descriptions give them. */
static void t06_real_models(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		uint64_t token; /* bytes of one token on one rank */
	} known[] = {{"llama-3.1-8b", 128 << 10}, {"llama-3.1-70b-tp4", 80 << 10}, {"mistral-7b", 128 << 10},
		     {"qwen3-8b", 144 << 10},     {"qwen3-32b-tp4", 64 << 10},     {"gpt-oss-20b", 48 << 10},
		     {"deepseek-v3-mla", 70272}};
	char names[256], all[256] = "";
	assert_int_equal(sizeof(known) / sizeof(known[0]), km_nmodels);
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		const struct km_model *m = km_model_find(known[i].name);
		assert_non_null(m);
		assert_int_equal(km_chunk_bytes(m, 1), known[i].token);
		assert_int_equal(m->heads * m->head_size * pk_dtype_size(m->dtype) % 8, 0);
		strcat(strcat(all, i ? ", " : ""), m->name);
	}
	km_model_names(names, sizeof(names));
	assert_string_equal(names, all);
	assert_null(km_model_find("llama"));
}

static void t07_groups(void **state)
{
	static const struct km_model hybrid = {"h", "h", 5, 2, 2, 8, BLOCK, 1, 1, 1, PK_BFLOAT16, 6};
	struct pages p;
	struct why why = {0};
	uint64_t chain[CHUNK];
	(void)state;
	chain_make(chain);
	assert_int_equal(km_groups(&full, KV_NL_X_TWO_NB_BS_NH_HS), 1);
	assert_int_equal(km_groups(&hybrid, KV_NB_NL_TWO_BS_NH_HS), 1);    /* one tensor for all layers */
	assert_int_equal(km_groups(&hybrid, KV_TWO_X_NL_X_NBBS_NH_HS), 1); /* not vLLM's */
	assert_int_equal(km_groups(&hybrid, KV_NL_X_NB_TWO_NH_BS_HS), 2);
	assert_int_equal(km_place_init(&p.place, &hybrid, KV_NL_X_NB_TWO_NH_BS_HS, BLOCK, BLOCKS, &why), 0);
	for (uint32_t i = 0; i < p.place.ntensors; i++)
		p.bases[i] = calloc(1, p.place.tensor_bytes);
	struct km_place even = km_group(&p.place, 0), odd = km_group(&p.place, 1);
	km_write(&even, p.bases, 2, chain, 0);
	km_write(&odd, p.bases, 5, chain, 0);
	assert_int_equal(km_check(&even, p.bases, 2, chain, 0), 0);
	assert_int_equal(km_check(&odd, p.bases, 5, chain, 0), 0);
	assert_int_equal(km_check(&p.place, p.bases, 2, chain, 0),
			 2 * 2 * BLOCK * 2); /* layers 1 and 3 are elsewhere */
	assert_int_equal(km_check(&p.place, p.bases, 5, chain, 0), 2 * 3 * BLOCK * 2); /* 0, 2 and 4 */
	pages_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_recognised_and_gathered),
		cmocka_unit_test(t02_every_byte_is_checked),
		cmocka_unit_test(t03_other_prompts_ranks_and_places_differ),
		cmocka_unit_test(t04_poison),
		cmocka_unit_test(t05_refused),
		cmocka_unit_test(t06_real_models),
		cmocka_unit_test(t07_groups),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
