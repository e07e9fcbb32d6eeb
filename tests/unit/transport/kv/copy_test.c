#include "tests/unit/transport/kv/kv_ref.h"

#include "daemon/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stddef.h>
#include <cmocka.h>

#define CHUNKS     2u
#define MAX_BLOCKS 256u

/* The shapes of real models are among them; the others are there to be awkward. */
static const struct ref_shape shape_mha[] = {
	{.nl = 2, .nb = 40, .bs = 16, .nh = 8, .hs = 128, .es = 2},
	{.nl = 3, .nb = 40, .bs = 16, .nh = 2, .hs = 128, .es = 2, .lead = 7},
	{.nl = 3, .nb = 70, .bs = 4, .nh = 3, .hs = 5, .es = 1, .lead = 3, .pad = 9},
	{.nl = 1, .nb = 160, .bs = 1, .nh = 2, .hs = 80, .es = 2},
	{.nl = 2, .nb = 20, .bs = 8, .nh = 1, .hs = 64, .es = 4, .pad = 16},
	{.nl = 2, .nb = 12, .bs = 32, .nh = 5, .hs = 16, .es = 8},
	{.nl = 2, .nb = 9, .bs = 64, .nh = 4, .hs = 96, .es = 1, .pad = 64},
	{.nl = 4, .nb = 17, .bs = 16, .nh = 7, .hs = 32, .es = 2, .pad = 32},
	{.nl = 2, .nb = 3, .bs = 64, .nh = 4, .hs = 8, .es = 2},
};
static const struct ref_shape shape_mla[] = {
	{.nl = 3, .nb = 12, .bs = 64, .nh = 1, .hs = 576, .es = 2},
	{.nl = 2, .nb = 20, .bs = 16, .nh = 1, .hs = 656, .es = 1, .lead = 5},
	{.nl = 2, .nb = 140, .bs = 1, .nh = 1, .hs = 33, .es = 4, .pad = 3},
	{.nl = 1, .nb = 40, .bs = 4, .nh = 1, .hs = 7, .es = 8},
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static const int mha[] = {0, 1, 2, 4, 6, 7, 8, 9, 10, 110}; /* 110: format 10, token-major */
static const int mla[] = {3, 5};

static struct ref_shape variant(int *fmt, struct ref_shape s)
{
	s.nhd_fused = *fmt == 110;
	if (*fmt == 110)
		*fmt = 10;
	return s;
}

/* Distinct ids, so that a write to a wrong block shows; about half of them follow one another. */
static void pick_ids(uint32_t *ids, uint32_t n, uint32_t nb, uint64_t seed)
{
	bool used[MAX_BLOCKS] = {false};
	assert_true(n <= nb && nb <= MAX_BLOCKS);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = i > 0 && ref_random(&seed) % 2 ? ids[i - 1] + 1 : (uint32_t)(ref_random(&seed) % nb);
		while (id >= nb || used[id])
			id = id + 1 >= nb ? 0 : id + 1;
		used[id] = true;
		ids[i] = id;
	}
}

static struct kv_layout *layout_of(const struct ref_kv *kv, uint32_t chunk)
{
	struct why why = {0};
	struct kv_layout *l = NULL;
	struct kv_layout_in in = ref_in(kv, chunk);
	int rc = kv_layout_create(&in, &l, &why);
	if (rc != 0)
		print_message("format %d: %s\n", (int)kv->fmt, why.text);
	assert_int_equal(rc, 0);
	return l;
}

/* An object buffer whose surroundings are checked. */
struct object {
	uint8_t *p;
	uint64_t n;
};

static struct object object_new(uint64_t n)
{
	struct object o = {malloc(n + 128), n};
	memset(o.p, 0xa5, n + 128);
	o.p += 64;
	return o;
}

static void object_free(struct object o)
{
	for (int i = 0; i < 64; i++) {
		assert_int_equal(o.p[-1 - i], 0xa5);
		assert_int_equal(o.p[o.n + (uint64_t)i], 0xa5);
	}
	free(o.p - 64);
}

static uint32_t chunk_tokens_of(const struct ref_shape *s)
{
	uint32_t bpc = s->nb / CHUNKS;
	return s->bs * (bpc > 4 ? 4 : bpc);
}

/* Chunk by chunk from `x` into objects, checked, and on into `y`, checked. */
static void store_and_retrieve(const struct ref_kv *x, struct ref_kv *y, uint32_t skip)
{
	uint32_t chunk = chunk_tokens_of(&x->s), bpc = chunk / x->s.bs, xi[MAX_BLOCKS], yi[MAX_BLOCKS];
	struct kv_layout *lx = layout_of(x, chunk), *ly = layout_of(y, chunk);
	pick_ids(xi, bpc * CHUNKS, x->s.nb, 1);
	pick_ids(yi, bpc * CHUNKS, y->s.nb, 2);
	struct kv_blocks bx = {xi, bpc * CHUNKS}, by = {yi, bpc * CHUNKS};
	struct ref_kv want;
	ref_clone(&want, y);
	assert_int_equal(kv_object_bytes(lx), kv_object_bytes(ly));
	assert_int_equal(kv_blocks_check(lx, &bx, 1, CHUNKS, NULL), 0);
	assert_int_equal(kv_blocks_check(ly, &by, 1, CHUNKS, NULL), 0);
	for (uint32_t j = 0; j < CHUNKS; j++) {
		struct object got = object_new(kv_object_bytes(lx)), ref = object_new(kv_object_bytes(lx));
		uint64_t n = ref_chunk(x, xi + j * bpc, chunk, 0, true, ref.p);
		assert_int_equal(n, kv_object_bytes(lx));
		kv_gather(lx, &bx, j, got.p);
		if (memcmp(got.p, ref.p, n) != 0)
			fail_msg("gather of format %d differs (block %u, heads %u)", (int)x->fmt, x->s.bs, x->s.nh);
		uint32_t here = j == 0 ? skip : 0;
		ref_chunk(&want, yi + j * bpc, chunk, here / y->s.bs * y->s.bs, false, ref.p);
		kv_scatter(ly, &by, j, here, got.p);
		object_free(got);
		object_free(ref);
	}
	if (!ref_same(y, &want))
		fail_msg("scatter of format %d to %d differs (skip %u)", (int)x->fmt, (int)y->fmt, skip);
	ref_free(&want);
	kv_layout_destroy(lx);
	kv_layout_destroy(ly);
}

static void pair(int from, int to, const struct ref_shape *s, uint32_t skip)
{
	struct ref_kv x, y;
	struct ref_shape sx = variant(&from, *s), sy = variant(&to, *s);
	ref_make(&x, (enum kv_format)from, sx, 100);
	ref_make(&y, (enum kv_format)to, sy, 900);
	store_and_retrieve(&x, &y, skip);
	ref_free(&x);
	ref_free(&y);
}

static void every_format_round_trips(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(shape_mha); i++)
		for (size_t f = 0; f < COUNT(mha); f++)
			pair(mha[f], mha[f], &shape_mha[i], 0);
	for (size_t i = 0; i < COUNT(shape_mla); i++)
		for (size_t f = 0; f < COUNT(mla); f++)
			pair(mla[f], mla[f], &shape_mla[i], 0);
}

static void every_layout_reads_every_other(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT(shape_mha); i += 3)
		for (size_t a = 0; a < COUNT(mha); a++)
			for (size_t b = 0; b < COUNT(mha); b++)
				pair(mha[a], mha[b], &shape_mha[i], 0);
	for (size_t i = 0; i < COUNT(shape_mla); i++) {
		pair(3, 5, &shape_mla[i], 0);
		pair(5, 3, &shape_mla[i], 0);
	}
}

/* The same model paged with other block sizes, too. */
static void block_sizes_may_differ(void **state)
{
	(void)state;
	struct ref_shape sx = {.nl = 2, .nb = 40, .bs = 8, .nh = 2, .hs = 16, .es = 2}, sy = sx;
	sy.bs = 32;
	struct ref_kv x, y;
	ref_make(&x, KV_NL_X_NB_TWO_NH_BS_HS, sx, 5);
	ref_make(&y, KV_NL_X_TWO_NB_BS_NH_HS, sy, 6);
	struct kv_layout *lx = layout_of(&x, 64), *ly = layout_of(&y, 64);
	uint32_t xi[8], yi[2];
	pick_ids(xi, 8, 40, 3);
	pick_ids(yi, 2, 40, 4);
	struct kv_blocks bx = {xi, 8}, by = {yi, 2};
	struct object o = object_new(kv_object_bytes(lx));
	kv_gather(lx, &bx, 0, o.p);
	kv_scatter(ly, &by, 0, 0, o.p);
	for (uint32_t l = 0; l < 2; l++)
		for (uint32_t k = 0; k < 2; k++)
			for (uint32_t t = 0; t < 64; t++)
				for (uint32_t h = 0; h < 2; h++)
					assert_memory_equal(ref_at(&x, l, k, xi[t / 8], t % 8, h, 0),
							    ref_at(&y, l, k, yi[t / 32], t % 32, h, 0), 32);
	object_free(o);
	kv_layout_destroy(lx);
	kv_layout_destroy(ly);
	ref_free(&x);
	ref_free(&y);
}

static void skipped_blocks_are_untouched(void **state)
{
	(void)state;
	for (size_t f = 0; f < COUNT(mha); f++) {
		const struct ref_shape *s = &shape_mha[1];
		uint32_t chunk = chunk_tokens_of(s);
		for (uint32_t skip = 0; skip <= chunk; skip += s->bs) {
			pair(1, mha[f], s, skip);
			if (skip > 0)
				pair(1, mha[f], s, skip - 1); /* floored to a block */
		}
	}
	for (uint32_t skip = 0; skip <= chunk_tokens_of(&shape_mla[0]); skip += shape_mla[0].bs)
		pair(3, 5, &shape_mla[0], skip);
}

/* ---- several groups in one registration ------------------------------------------------------------------------------ */

struct hybrid_layer {
	enum kv_format fmt;
	struct ref_shape s;
	uint32_t engine;
};

#define HYBRID_LAYERS 7u
/* Two head counts, two block sizes, two element types, latent layers, and pages of different kinds in one group (0, 4). */
static const struct hybrid_layer hybrid[HYBRID_LAYERS] = {
	{KV_NL_X_NB_TWO_BS_NH_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 4, .hs = 32, .es = 2, .dtype = 1}, 0},
	{KV_NL_X_NB_BS_HS, {.nl = 1, .nb = 18, .bs = 16, .nh = 1, .hs = 72, .es = 2, .dtype = 1}, 0},
	{KV_NL_X_TWO_NB_BS_NH_HS, {.nl = 1, .nb = 9, .bs = 32, .nh = 2, .hs = 64, .es = 2, .dtype = 1}, 1},
	{KV_NL_X_NB_TWO_BS_NH_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 8, .hs = 32, .es = 2, .dtype = 1}, 0},
	{KV_NL_X_TWO_NB_BS_NH_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 4, .hs = 32, .es = 2, .dtype = 1, .pad = 40}, 0},
	{KV_NL_X_NB_NH_BS_TWO_HS,
	 {.nl = 1, .nb = 9, .bs = 32, .nh = 2, .hs = 64, .es = 1, .dtype = 2, .nhd_fused = true},
	 1},
	{KV_NL_X_NB_BS_HS, {.nl = 1, .nb = 18, .bs = 16, .nh = 1, .hs = 72, .es = 2, .dtype = 1}, 0},
};
static const uint32_t hybrid_groups[][3] = {{0, 4, 2}, {1, 6, 2}, {2, 2, 1}, {3, 3, 1}, {5, 5, 1}}; /* first, last, n */

struct hybrid_cache {
	struct ref_kv kv[HYBRID_LAYERS];
	struct kv_tensor t[HYBRID_LAYERS];
	struct kv_layout *l;
};

static void hybrid_make(struct hybrid_cache *c, uint64_t seed, int64_t window)
{
	static const uint32_t full[] = {0, 1, 3, 4, 6}, window_layers[] = {2, 5};
	const struct kv_engine_group eg[] = {{full, 5, 16, 0}, {window_layers, 2, 0, window}};
	struct why why = {0};
	for (uint32_t i = 0; i < HYBRID_LAYERS; i++) {
		ref_make(&c->kv[i], hybrid[i].fmt, hybrid[i].s, seed + i);
		c->t[i] = c->kv[i].t[0];
	}
	struct kv_layout_in in = {.engine_type = slice_str("vllm"),
				  .tensors = c->t,
				  .ntensors = HYBRID_LAYERS,
				  .groups = eg,
				  .ngroups = 2,
				  .chunk_tokens = 64,
				  .has_null_block = true,
				  .null_block = 0};
	int rc = kv_layout_create(&in, &c->l, &why);
	if (rc != 0)
		print_message("%s\n", why.text);
	assert_int_equal(rc, 0);
}

static void hybrid_free(struct hybrid_cache *c)
{
	for (uint32_t i = 0; i < HYBRID_LAYERS; i++)
		ref_free(&c->kv[i]);
	kv_layout_destroy(c->l);
}

/* The object of the hybrid model, group by group, layer by layer. `null`: id 0 of engine group 1 stands for no block. */
static void hybrid_chunk(struct ref_kv *kv, const uint32_t *const ids[2], uint32_t skip, bool null, bool store,
			 uint8_t *object)
{
	for (size_t g = 0; g < COUNT(hybrid_groups); g++) {
		const struct hybrid_layer *first = &hybrid[hybrid_groups[g][0]];
		uint64_t token = (uint64_t)first->s.nh * first->s.hs * first->s.es;
		for (uint32_t k = 0; k < ref_kv_size(first->fmt); k++) {
			for (uint32_t i = 0; i < hybrid_groups[g][2]; i++, object += 64 * token) {
				const struct ref_kv *layer = &kv[hybrid_groups[g][i]];
				for (uint32_t t = 0; t < 64; t++) {
					uint32_t id = ids[first->engine][t / first->s.bs];
					bool none = null && first->engine == 1 && id == 0;
					if (none && store)
						memset(object + t * token, 0, token);
					if (none || (!store && t < skip / first->s.bs * first->s.bs))
						continue;
					for (uint32_t h = 0; h < first->s.nh; h++) {
						uint8_t *page = ref_at(layer, 0, k, id, t % first->s.bs, h, 0);
						uint64_t n = (uint64_t)first->s.hs * first->s.es;
						uint8_t *mine = object + t * token + h * n;
						memcpy(store ? mine : page, store ? page : mine, n);
					}
				}
			}
		}
	}
}

static void hybrid_case(int64_t window, uint32_t skip, const uint32_t ids1[2])
{
	static const uint32_t ids0[4] = {17, 3, 4, 9};
	const uint32_t *const ids[2] = {ids0, ids1};
	const struct kv_blocks blocks[2] = {{ids0, 4}, {ids1, 2}};
	struct hybrid_cache a, b;
	struct ref_kv want[HYBRID_LAYERS];
	hybrid_make(&a, 50, window);
	hybrid_make(&b, 80, window);
	for (uint32_t i = 0; i < HYBRID_LAYERS; i++)
		ref_clone(&want[i], &b.kv[i]);
	assert_int_equal(kv_blocks_check(a.l, blocks, 2, 1, NULL), 0);
	struct object got = object_new(kv_object_bytes(a.l)), ref = object_new(kv_object_bytes(a.l));
	hybrid_chunk(a.kv, ids, 0, window > 0, true, ref.p);
	kv_gather(a.l, blocks, 0, got.p);
	assert_memory_equal(got.p, ref.p, got.n);
	hybrid_chunk(want, ids, skip, window > 0, false, ref.p);
	kv_scatter(b.l, blocks, 0, skip, got.p);
	for (uint32_t i = 0; i < HYBRID_LAYERS; i++) {
		assert_true(ref_same(&want[i], &b.kv[i]));
		ref_free(&want[i]);
	}
	object_free(got);
	object_free(ref);
	hybrid_free(&a);
	hybrid_free(&b);
}

static void hybrid_models(void **state)
{
	(void)state;
	static const uint32_t plain[2] = {5, 8}, null_first[2] = {0, 7}, null_both[2] = {0, 0};
	for (uint32_t skip = 0; skip <= 64; skip += 8) /* the groups floor it differently */
		hybrid_case(0, skip, plain);
	hybrid_case(0, 0, null_first); /* full attention: block 0 is a block */
	hybrid_case(128, 0, plain);
	hybrid_case(128, 0, null_first);
	hybrid_case(128, 32, null_first);
	hybrid_case(128, 0, null_both);
}

/* Rows of heads and latent layers in sliding windows: the null block in the row path. */
static void null_blocks_in_rows(void **state)
{
	(void)state;
	struct ref_shape s = {.nl = 2, .nb = 6, .bs = 8, .nh = 4, .hs = 64, .es = 2};
	static const uint32_t layers[] = {0, 1};
	const struct kv_engine_group eg = {layers, 2, 8, 100};
	struct ref_kv kv;
	ref_make(&kv, KV_NL_X_NB_TWO_NH_BS_HS, s, 7);
	struct kv_layout_in in = ref_in(&kv, 32);
	struct kv_layout *l;
	in.groups = &eg;
	in.ngroups = 1;
	in.has_null_block = true;
	in.null_block = 77; /* may even be no block at all */
	assert_int_equal(kv_layout_create(&in, &l, NULL), 0);
	const uint32_t ids[] = {77, 2, 77, 5};
	const struct kv_blocks blocks = {ids, 4};
	assert_int_equal(kv_blocks_check(l, &blocks, 1, 1, NULL), 0);
	struct object o = object_new(kv_object_bytes(l));
	struct ref_kv before;
	ref_clone(&before, &kv);
	kv_gather(l, &blocks, 0, o.p);
	for (uint64_t plane = 0; plane < 4; plane++)
		for (uint64_t i = 0; i < 8 * 512; i++) {
			assert_int_equal(o.p[plane * 32 * 512 + i], 0);
			assert_int_equal(o.p[plane * 32 * 512 + 16 * 512 + i], 0);
		}
	assert_memory_equal(o.p + 8 * 512, ref_at(&kv, 0, 0, 2, 0, 0, 0), 128);
	kv_scatter(l, &blocks, 0, 0, o.p);
	assert_true(ref_same(&kv, &before));
	object_free(o);
	ref_free(&before);
	ref_free(&kv);
	kv_layout_destroy(l);
}

/* ---- the copy itself ------------------------------------------------------------------------------------------------- */

static void kv_copy_of_every_length(void **state)
{
	(void)state;
	enum { SIZE = 9000 };
	static uint8_t src[SIZE + 128], dst[SIZE + 128], want[SIZE + 128];
	static const size_t len[] = {0,    1,    63,   64,   65,   127,  255,  256,  1023,
				     1024, 1025, 1088, 1215, 2047, 4096, 5000, 8191, SIZE};
	ref_fill(src, sizeof src, 3);
	assert_string_not_equal(kv_copy_name(), "");
	for (size_t i = 0; i < COUNT(len); i++)
		for (size_t to = 0; to < 65; to += 1 + to % 3)
			for (size_t from = 0; from < 65; from += 13) {
				ref_fill(dst, sizeof dst, to + from);
				memcpy(want, dst, sizeof dst);
				memcpy(want + to, src + from, len[i]);
				kv_copy(dst + to, src + from, len[i]);
				assert_memory_equal(dst, want, sizeof dst);
			}
}

static void copies_allocate_nothing(void **state)
{
	(void)state;
	struct ref_kv kv;
	ref_make(&kv, KV_NL_X_TWO_NB_NH_BS_HS, shape_mha[0], 1);
	struct kv_layout *l = layout_of(&kv, 64);
	const uint32_t ids[] = {1, 2, 3, 9};
	const struct kv_blocks blocks = {ids, 4};
	struct object o = object_new(kv_object_bytes(l));
	uint64_t before = mem_thread_allocs();
	kv_gather(l, &blocks, 0, o.p);
	kv_scatter(l, &blocks, 0, 16, o.p);
	kv_copy(o.p, o.p + o.n / 2, o.n / 2);
	assert_int_equal(mem_thread_allocs(), before);
	object_free(o);
	ref_free(&kv);
	kv_layout_destroy(l);
}

int main(void)
{
#define T(n, f)                                         \
	{                                               \
		"transport/kv: " n, f, NULL, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("01 copy of every length", kv_copy_of_every_length),
		T("02 every format round trips", every_format_round_trips),
		T("03 every layout reads every other", every_layout_reads_every_other),
		T("04 block sizes may differ", block_sizes_may_differ),
		T("05 skipped blocks are untouched", skipped_blocks_are_untouched),
		T("06 hybrid models", hybrid_models),
		T("07 null blocks in rows", null_blocks_in_rows),
		T("08 copies allocate nothing", copies_allocate_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
