#include "tests/unit/transport/kv/kv_ref.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Layout creation never looks at the bytes, so the tensors of these tests have an address and a size, but no memory. */
static uint8_t *const nowhere = (uint8_t *)(uintptr_t)0x100000;

static struct kv_tensor tensor(uint32_t ndim, const uint64_t *shape)
{
	struct kv_tensor t = {.base = nowhere, .bytes = UINT64_C(1) << 40, .element_size = 2, .dtype = 1, .ndim = ndim};
	int64_t n = 1;
	for (uint32_t i = ndim; i-- > 0;) {
		t.shape[i] = shape[i];
		t.stride[i] = n;
		n *= (int64_t)shape[i];
	}
	return t;
}
#define TENSOR(...) tensor(COUNT(((uint64_t[]){__VA_ARGS__})), (uint64_t[]){__VA_ARGS__})

static struct kv_tensor swapped(struct kv_tensor t, uint32_t a, uint32_t b)
{
	uint64_t n = t.shape[a];
	int64_t s = t.stride[a];
	t.shape[a] = t.shape[b];
	t.stride[a] = t.stride[b];
	t.shape[b] = n;
	t.stride[b] = s;
	return t;
}

struct told {
	const char *engine, *layout, *list;
	uint32_t heads, tokens, head_dim, group_tokens, group_layers;
};

#define MAX_T 8u

static int create(const struct kv_tensor *t, uint32_t n, struct told told, struct kv_layout **l, struct why *why)
{
	uint32_t all[MAX_T] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct kv_engine_group eg = {all, told.group_layers ? told.group_layers : n, told.group_tokens, 0};
	bool grouped = told.group_tokens != 0 || told.group_layers != 0;
	struct kv_layout_in in = {.engine_type = slice_str(told.engine ? told.engine : "vllm"),
				  .hint_kv_layout = slice_str(told.layout ? told.layout : ""),
				  .hint_list_layout = slice_str(told.list ? told.list : ""),
				  .hint_num_kv_heads = told.heads,
				  .hint_tokens_per_block = told.tokens,
				  .hint_head_dim = told.head_dim,
				  .tensors = t,
				  .ntensors = n,
				  .groups = &eg,
				  .ngroups = grouped ? 1 : 0,
				  .chunk_tokens = 256};
	return kv_layout_create(&in, l, why);
}

struct expect {
	int format;
	uint32_t layers, kv, heads, size, block;
	uint64_t blocks;
};

static void reads_as(const struct kv_tensor *t, uint32_t n, struct told told, struct expect e)
{
	struct why why = {0};
	struct kv_layout *l = NULL;
	struct kv_group_facts f;
	int rc = create(t, n, told, &l, &why);
	if (rc != 0)
		print_message("expected format %d: %s\n", e.format, why.text);
	assert_int_equal(rc, 0);
	assert_int_equal(kv_layout_groups(l), 1);
	kv_layout_group(l, 0, &f);
	assert_int_equal(f.format, e.format);
	assert_int_equal(f.nlayers, e.layers);
	assert_int_equal(kv_layout_num_layers(l), e.layers);
	assert_int_equal(f.kv_size, e.kv);
	assert_int_equal(f.num_heads, e.heads);
	assert_int_equal(f.head_size, e.size);
	assert_int_equal(f.block_size, e.block);
	assert_int_equal(kv_layout_block_size(l, 0), e.block);
	assert_int_equal(f.num_blocks, e.blocks);
	assert_int_equal(kv_object_bytes(l), (uint64_t)e.kv * e.layers * 256 * e.heads * e.size * t->element_size);
	kv_layout_destroy(l);
}

/* Refused, with a reason that contains `word`. */
static void refused(const struct kv_tensor *t, uint32_t n, struct told told, int err, const char *word)
{
	struct why why = {0};
	struct kv_layout *l = NULL;
	int rc = create(t, n, told, &l, &why);
	if (rc != err || strstr(why.text, word) == NULL)
		print_message("%d, expected %d; '%s' not in: %s\n", rc, err, word, why.text);
	assert_int_equal(rc, err);
	assert_int_equal(why.err, err);
	assert_null(l);
	assert_non_null(strstr(why.text, word));
}

static void formats_by_shape_and_hint(void **state)
{
	(void)state;
	struct kv_tensor t[4];
#define ALL(x) t[0] = t[1] = t[2] = t[3] = (x)
	ALL(TENSOR(2, 100, 16, 8, 128));
	reads_as(t, 4, (struct told){0}, (struct expect){1, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "NHD"}, (struct expect){1, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "LBNHC"}, (struct expect){1, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = ""}, (struct expect){1, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "mock"}, (struct expect){1, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(2, 100, 8, 16, 128));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "LBHNC"}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(100, 2, 16, 8, 128));
	reads_as(t, 4, (struct told){0}, (struct expect){2, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(100, 2, 8, 16, 128));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){7, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(100, 64, 576));
	reads_as(t, 4, (struct told){0}, (struct expect){3, 4, 1, 1, 576, 64, 100});
	ALL(TENSOR(100, 8, 16, 256));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){10, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "HND", .head_dim = 128}, (struct expect){10, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(100, 16, 8, 256));
	reads_as(t, 4, (struct told){0}, (struct expect){10, 4, 2, 8, 128, 16, 100});
	ALL(TENSOR(100, 4, 2, 16, 8, 128));
	reads_as(t, 1, (struct told){0}, (struct expect){0, 4, 2, 8, 128, 16, 100});
	reads_as(t, 1, (struct told){.layout = "HND"}, (struct expect){8, 4, 2, 16, 128, 8, 100});
	reads_as(t, 1, (struct told){.layout = "HND", .engine = "trtllm"}, (struct expect){8, 4, 2, 16, 128, 8, 100});
	ALL(TENSOR(100, 4, 2, 8 * 32 * 128));
	reads_as(t, 1, (struct told){"trtllm", "HND", NULL, 8, 32, 128, 0, 0},
		 (struct expect){8, 4, 2, 8, 128, 32, 100});
	reads_as(t, 1, (struct told){"trtllm", "NHD", NULL, 8, 32, 128, 0, 0},
		 (struct expect){0, 4, 2, 8, 128, 32, 100});
}

static void lists_of_tensors(void **state)
{
	(void)state;
	struct kv_tensor t[4];
	ALL(TENSOR(1600, 8, 128));
	reads_as(t, 4, (struct told){.engine = "sglang", .list = "k_v", .tokens = 16},
		 (struct expect){4, 2, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 16}, (struct expect){4, 2, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "", .tokens = 16}, (struct expect){4, 2, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .group_tokens = 32, .group_layers = 2, .tokens = 16},
		 (struct expect){4, 2, 2, 8, 128, 32, 50});
	ALL(TENSOR(1601, 8, 128)); /* one token more than whole blocks */
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 16}, (struct expect){4, 2, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 1}, (struct expect){4, 2, 2, 8, 128, 1, 1601});
	ALL(TENSOR(100, 16, 8, 128));
	reads_as(t, 4, (struct told){.engine = "sglang", .list = "k_v"}, (struct expect){9, 2, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 16}, (struct expect){9, 2, 2, 8, 128, 16, 100});
	/* one head: latent, unless told otherwise */
	ALL(TENSOR(6400, 1, 576));
	reads_as(t, 3, (struct told){.engine = "sglang", .tokens = 64}, (struct expect){5, 3, 1, 1, 576, 64, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64}, (struct expect){5, 4, 1, 1, 576, 64, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64, .list = "k_v"},
		 (struct expect){4, 2, 2, 1, 576, 64, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64, .group_layers = 2},
		 (struct expect){4, 2, 2, 1, 576, 64, 100});
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64, .group_layers = 4},
		 (struct expect){5, 4, 1, 1, 576, 64, 100});
}

/* Clients may hand over a view whose dimensions are not in memory order. */
static void permuted_views(void **state)
{
	(void)state;
	struct kv_tensor t[4];
	ALL(swapped(TENSOR(2, 100, 8, 16, 128), 2, 3)); /* shaped NHD, strides HND */
	assert_int_equal(t[0].shape[2], 16);
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){0}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	ALL(swapped(TENSOR(100, 2, 8, 16, 128), 2, 3));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){7, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){0}, (struct expect){7, 4, 2, 8, 128, 16, 100});
	ALL(swapped(TENSOR(100, 2, 16, 8, 128), 0, 1)); /* shaped K first, blocks outermost in memory */
	reads_as(t, 4, (struct told){0}, (struct expect){2, 4, 2, 8, 128, 16, 100});
	ALL(swapped(TENSOR(100, 8, 16, 256), 1, 2));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){10, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){0}, (struct expect){10, 4, 2, 8, 128, 16, 100});
	/* every permutation of a padded tensor reads the same */
	struct kv_tensor p = TENSOR(100, 2, 16, 8, 128);
	p.stride[0] += 4096;
	for (uint32_t a = 0; a < 5; a++)
		for (uint32_t b = a + 1; b < 5; b++) {
			ALL(swapped(p, a, b));
			reads_as(t, 4, (struct told){.layout = "NHD"}, (struct expect){2, 4, 2, 8, 128, 16, 100});
		}
	/* an explicit hint speaks of memory, whatever the shape of the view */
	ALL(swapped(TENSOR(2, 100, 16, 8, 128), 2, 3));
	reads_as(t, 4, (struct told){.layout = "NHD"}, (struct expect){1, 4, 2, 8, 128, 16, 100});
}

static void ambiguous_shapes(void **state)
{
	(void)state;
	struct kv_tensor t[4];
	ALL(TENSOR(2, 2, 16, 8, 128)); /* K first */
	reads_as(t, 4, (struct told){0}, (struct expect){1, 4, 2, 8, 128, 16, 2});
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){6, 4, 2, 16, 128, 8, 2});
	ALL(TENSOR(2, 1, 16, 8, 128));
	reads_as(t, 4, (struct told){0}, (struct expect){1, 4, 2, 8, 128, 16, 1});
	ALL(TENSOR(1, 2, 16, 8, 128));
	reads_as(t, 4, (struct told){0}, (struct expect){2, 4, 2, 8, 128, 16, 1});
	/* a single head */
	ALL(TENSOR(2, 100, 16, 1, 128));
	reads_as(t, 4, (struct told){0}, (struct expect){1, 4, 2, 1, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){1, 4, 2, 1, 128, 16, 100});
	ALL(TENSOR(2, 100, 1, 16, 128));
	reads_as(t, 4, (struct told){.layout = "HND"}, (struct expect){6, 4, 2, 1, 128, 16, 100});
	reads_as(t, 4, (struct told){0}, (struct expect){6, 4, 2, 1, 128, 16, 100});
	reads_as(t, 4, (struct told){.layout = "NHD"}, (struct expect){1, 4, 2, 16, 128, 1, 100});
	reads_as(t, 4, (struct told){.group_tokens = 1}, (struct expect){1, 4, 2, 16, 128, 1, 100});
	/* a stated block size settles a missing hint */
	ALL(TENSOR(2, 100, 8, 16, 128));
	reads_as(t, 4, (struct told){.group_tokens = 16}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.group_tokens = 8}, (struct expect){1, 4, 2, 16, 128, 8, 100});
	reads_as(t, 4, (struct told){.tokens = 16}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	reads_as(t, 4, (struct told){.group_tokens = 16, .tokens = 8}, (struct expect){6, 4, 2, 8, 128, 16, 100});
	/* the size-1 dimension's stride means nothing */
	struct kv_tensor one = TENSOR(6400, 1, 576);
	one.stride[1] = -7;
	ALL(one);
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64}, (struct expect){5, 4, 1, 1, 576, 64, 100});
	one.stride[1] = INT64_MAX;
	ALL(one);
	reads_as(t, 4, (struct told){.engine = "sglang", .tokens = 64}, (struct expect){5, 4, 1, 1, 576, 64, 100});
}

static void what_cannot_be_proven_is_refused(void **state)
{
	(void)state;
	struct kv_tensor t[4];
	ALL(TENSOR(2, 100, 16, 8, 128));
	refused(t, 4, (struct told){.layout = "NDH"}, -EINVAL, "'NDH'");
	refused(t, 4, (struct told){.list = "v_k"}, -EINVAL, "'v_k'");
	refused(t, 4, (struct told){.group_tokens = 64}, -EINVAL, "[2, 100, 16, 8, 128]");
	refused(t, 4, (struct told){.layout = "HND", .group_tokens = 16}, -EINVAL, "blocks of 8 tokens");
	ALL(TENSOR(3, 100, 16, 8, 128));
	refused(t, 4, (struct told){0}, -EINVAL, "[2, NB, BS, NH, HS]");
	ALL(TENSOR(100, 16, 8, 255));
	refused(t, 4, (struct told){0}, -EINVAL, "2*HS");
	ALL(TENSOR(100, 16, 8, 256));
	refused(t, 4, (struct told){.head_dim = 256}, -EINVAL, "head_dim is 256");
	ALL(TENSOR(100, 64, 576));
	refused(t, 4, (struct told){.group_tokens = 16}, -EINVAL, "16 tokens per block");
	ALL(TENSOR(100, 576));
	refused(t, 4, (struct told){0}, -EINVAL, "[100, 576]");
	ALL(TENSOR(2, 2, 2, 2, 2, 2, 2));
	refused(t, 4, (struct told){0}, -EINVAL, "[2, 2, 2, 2, 2, 2, 2]");
	/* cross-layer */
	ALL(TENSOR(100, 4, 2, 16, 8, 128));
	refused(t, 2, (struct told){0}, -EINVAL, "comes alone");
	ALL(TENSOR(100, 4, 3, 16, 8, 128));
	refused(t, 1, (struct told){0}, -EINVAL, "[NB, NL, 2, BS, NH, HS]");
	ALL(TENSOR(2, 5000, 2, 16, 8, 128));
	refused(t, 1, (struct told){0}, -EINVAL, "4096 layers");
	ALL(TENSOR(100, 4, 2, 8 * 32 * 128));
	refused(t, 1, (struct told){"trtllm", "HND", NULL, 8, 32, 0, 0, 0}, -EINVAL, "head_dim");
	refused(t, 1, (struct told){"trtllm", "HND", NULL, 8, 16, 128, 0, 0}, -EINVAL, "16 tokens");
	refused(t, 1, (struct told){"trtllm", NULL, NULL, 8, 32, 128, 0, 0}, -EINVAL, "kv_layout");
	refused(t, 1, (struct told){"trtllm", "HND", NULL, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0, 0}, -EINVAL, "heads");
	refused(t, 2, (struct told){"trtllm", "HND", NULL, 8, 32, 128, 0, 0}, -EINVAL, "comes alone");
	ALL(TENSOR(100, 4, 1, 8 * 32 * 128));
	refused(t, 1, (struct told){"trtllm", "HND", NULL, 8, 32, 128, 0, 0}, -EINVAL, "[NB, NL, 2, NH*BS*HS]");
	/* lists */
	ALL(TENSOR(1600, 8, 128));
	refused(t, 4, (struct told){.engine = "sglang"}, -EINVAL, "tokens_per_block");
	refused(t, 3, (struct told){.engine = "sglang", .tokens = 16}, -EINVAL, "3 tensors");
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 3200}, -EINVAL, "3200");
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 16, .layout = "HND"}, -EINVAL, "HND");
	t[3] = TENSOR(1600, 8, 64);
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 16}, -EINVAL, "V of the same layer");
	ALL(TENSOR(1600, 8, 128));
	t[3].dtype = 9;
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 16}, -EINVAL, "element type");
	ALL(TENSOR(1600, 1, 128));
	t[2] = TENSOR(1600, 2, 128);
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 16}, -EINVAL, "[NB*BS, 1, HS]");
	ALL(TENSOR(2, 100, 16, 8, 128));
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 16}, -EINVAL, "in lists");
	ALL(TENSOR(100, 16, 8, 128));
	refused(t, 4, (struct told){.engine = "sglang", .tokens = 32}, -EINVAL, "blocks of 16 tokens");
	/* chunks */
	ALL(TENSOR(2, 100, 48, 8, 128));
	refused(t, 4, (struct told){0}, -EINVAL, "whole number of blocks");
	ALL(TENSOR(2, 100, 512, 8, 128));
	refused(t, 4, (struct told){0}, -EINVAL, "whole number of blocks");
}

static void hostile_tensors(void **state)
{
	(void)state;
	const struct kv_tensor good = TENSOR(2, 100, 16, 8, 128);
	struct kv_tensor t;
	refused(&good, 0, (struct told){0}, -EINVAL, "0 tensors");
	refused(&good, KV_MAX_TENSORS + 1, (struct told){0}, -EINVAL, "4097 tensors");
#define BAD(err, word, ...)                                    \
	do {                                                   \
		t = good;                                      \
		__VA_ARGS__;                                   \
		refused(&t, 1, (struct told){0}, (err), word); \
	} while (0)
	BAD(-EINVAL, "dimensions", t.ndim = 0);
	BAD(-EINVAL, "dimensions", t.ndim = KV_MAX_DIMS + 1);
	BAD(-EINVAL, "dimensions", t.ndim = UINT32_MAX);
	BAD(-EINVAL, "elements of 0 bytes", t.element_size = 0);
	BAD(-EINVAL, "elements of 3 bytes", t.element_size = 3);
	BAD(-EINVAL, "elements of 32 bytes", t.element_size = 32);
	for (uint32_t i = 0; i < 5; i++) {
		BAD(-EINVAL, "empty", t.shape[i] = 0);
		BAD(-EINVAL, "stride 0", t.stride[i] = 0);
		BAD(-EINVAL, "stride -1", t.stride[i] = -1);
		BAD(-EINVAL, "stride -9223372036854775808", t.stride[i] = INT64_MIN);
		BAD(-EINVAL, i == 0 ? "overflow" : "padded", t.stride[i] = INT64_MAX; t.element_size = 8);
	}
	BAD(-ERANGE, "its memory has", t.shape[0] = UINT64_C(1) << 40);
	BAD(-EINVAL, "overflows", t.shape[0] = UINT64_MAX);
	BAD(-EINVAL, "overlaps", t.shape[4] = UINT64_C(1) << 32);
	BAD(-EINVAL, "overlaps", t.stride[0] = t.stride[1]);
	BAD(-EINVAL, "overlaps", t.stride[1] -= 1);
	BAD(-EINVAL, "overlaps", t.stride[3] = 64);
	BAD(-EINVAL, "padded", t.stride[4] = 2; t.stride[3] = 256; t.stride[2] = 2048; t.stride[1] = 1 << 15;
	    t.stride[0] = 1 << 24);
	BAD(-EINVAL, "padded", t.stride[2] += 8; t.stride[1] += 8 * 16; t.stride[0] += 8 * 16 * 100);
	/* the memory's end, to the byte */
	const uint64_t need = UINT64_C(2) * 100 * 16 * 8 * 128 * 2;
	BAD(-ERANGE, "its memory has", t.bytes = need - 1);
	BAD(-ERANGE, "its memory has", t.bytes = need; t.offset = 1);
	BAD(-ERANGE, "its memory has", t.bytes = 0);
	BAD(-ERANGE, "its memory has", t.offset = t.bytes + 1);
	BAD(-ERANGE, "its memory has", t.offset = UINT64_MAX);
	BAD(-ERANGE, "its memory has", t.offset = UINT64_MAX - need + 1);
	BAD(-ERANGE, "its memory has", t.bytes = need; t.stride[0] += 1);
	t = good;
	t.bytes = need + 6;
	t.offset = 6;
	reads_as(&t, 1, (struct told){0}, (struct expect){1, 1, 2, 8, 128, 16, 100});
	/* products beyond 64 bits, all dimensions at once */
	struct kv_tensor huge = {.base = nowhere, .bytes = UINT64_MAX, .element_size = 16, .ndim = 5};
	for (uint32_t i = 0; i < 5; i++) {
		huge.shape[i] = UINT64_C(1) << 32;
		huge.stride[4 - i] = i == 0 ? 1 : i == 1 ? INT64_C(1) << 32 : INT64_MAX - 4 + (int64_t)i;
	}
	refused(&huge, 1, (struct told){0}, -EINVAL, "overflow");
	/* a dimension that fits its memory, but no 32 bits */
	t = TENSOR(1, UINT64_C(1) << 33, 2);
	t.bytes = UINT64_C(1) << 40;
	refused(&t, 1, (struct told){0}, -EINVAL, "beyond 32 bits");
}

/* ---- engine groups --------------------------------------------------------------------------------------------------- */

static int create_grouped(const struct kv_engine_group *eg, uint32_t n, uint32_t chunk, struct kv_layout **l,
			  struct why *why)
{
	static struct kv_tensor t[4];
	t[0] = t[1] = TENSOR(2, 100, 16, 8, 128);
	t[2] = t[3] = TENSOR(2, 60, 32, 8, 128);
	t[3].shape[1] = 50;
	t[3].stride[0] = 50 * 32 * 8 * 128;
	struct kv_layout_in in = {.tensors = t, .ntensors = 4, .groups = eg, .ngroups = n, .chunk_tokens = chunk};
	*l = NULL;
	return kv_layout_create(&in, l, why);
}

static void groups_refused(const struct kv_engine_group *eg, uint32_t n, uint32_t chunk, const char *word)
{
	struct why why = {0};
	struct kv_layout *l;
	int rc = create_grouped(eg, n, chunk, &l, &why);
	if (rc != -EINVAL || strstr(why.text, word) == NULL)
		print_message("%d; '%s' not in: %s\n", rc, word, why.text);
	assert_int_equal(rc, -EINVAL);
	assert_non_null(strstr(why.text, word));
	assert_null(l);
}

static void engine_groups(void **state)
{
	(void)state;
	static const uint32_t low[] = {1, 0}, high[] = {2, 3}, all[] = {0, 1, 2, 3}, twice[] = {2, 3, 3},
			      far[] = {2, 4}, one[] = {2}, farther[] = {2, UINT32_MAX};
	const struct kv_engine_group good[] = {{low, 2, 16, 0}, {NULL, 0, 0, 0}, {high, 2, 0, 0}};
	struct kv_layout *l;
	struct kv_group_facts f;
	assert_int_equal(create_grouped(good, 3, 64, &l, NULL), 0);
	assert_int_equal(kv_layout_engine_groups(l), 3);
	assert_int_equal(kv_layout_block_size(l, 0), 16);
	assert_int_equal(kv_layout_block_size(l, 1), 0);
	assert_int_equal(kv_layout_block_size(l, 2), 32);
	assert_int_equal(kv_layout_groups(l), 2);
	kv_layout_group(l, 0, &f);
	assert_int_equal(f.engine_group, 0);
	assert_int_equal(f.object_offset, 0);
	assert_int_equal(f.layers[0], 0);
	assert_int_equal(f.layers[1], 1);
	kv_layout_group(l, 1, &f);
	assert_int_equal(f.engine_group, 2);
	assert_int_equal(f.num_blocks, 50);
	assert_int_equal(f.object_offset, 2 * 2 * 64 * 1024 * 2);
	assert_int_equal(kv_object_bytes(l), 2 * 2 * 2 * 64 * 1024 * 2);
	assert_int_equal(f.layers[0], 2);
	assert_int_equal(f.layers[1], 3);
	assert_int_equal(kv_layout_tensor(l, 3)->shape[1], 50);
	kv_layout_destroy(l);
	kv_layout_destroy(NULL);
	groups_refused(NULL, 0, 64, "other layers of engine group 0");
	groups_refused((const struct kv_engine_group[]){{all, 4, 0, 0}}, 1, 64, "other layers of engine group 0");
	groups_refused((const struct kv_engine_group[]){{low, 2, 16, 0}}, 1, 64, "in no engine group");
	groups_refused((const struct kv_engine_group[]){{low, 2, 0, 0}, {one, 1, 0, 0}}, 2, 64, "layer 3 of 4");
	groups_refused((const struct kv_engine_group[]){{low, 2, 0, 0}, {twice, 3, 0, 0}}, 2, 64, "in engine groups");
	groups_refused((const struct kv_engine_group[]){{low, 2, 0, 0}, {all, 4, 0, 0}}, 2, 64, "in engine groups");
	groups_refused((const struct kv_engine_group[]){{low, 2, 0, 0}, {far, 2, 0, 0}}, 2, 64, "layer 4 of 4");
	groups_refused((const struct kv_engine_group[]){{low, 2, 0, 0}, {farther, 2, 0, 0}}, 2, 64, "4294967295");
	groups_refused((const struct kv_engine_group[]){{low, 2, 32, 0}, {high, 2, 0, 0}}, 2, 64, "32 tokens");
	groups_refused(good, 3, 48, "48 tokens");
	groups_refused(good, 3, 16, "16 tokens");
	groups_refused(good, 3, 0, "0 tokens");
	groups_refused(good, KV_MAX_ENGINE_GROUPS + 1, 64, "engine groups");
}

static void block_ids(void **state)
{
	(void)state;
	static const uint32_t low[] = {0, 1}, high[] = {2, 3};
	const struct kv_engine_group eg[] = {{low, 2, 0, 0}, {high, 2, 0, 0}};
	struct kv_layout *l;
	struct why why = {0};
	uint32_t a[12] = {0, 99, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, b[6] = {0, 49, 1, 2, 3, 4};
	assert_int_equal(create_grouped(eg, 2, 64, &l, NULL), 0);
	struct kv_blocks blocks[2] = {{a, 12}, {b, 6}};
	assert_int_equal(kv_blocks_check(l, blocks, 2, 3, &why), 0);
	assert_int_equal(kv_blocks_check(l, blocks, 1, 3, &why), -EINVAL);
	assert_int_equal(kv_blocks_check(l, blocks, 3, 3, &why), -EINVAL);
	assert_int_equal(kv_blocks_check(l, blocks, 2, 2, &why), -EINVAL);
	assert_int_equal(kv_blocks_check(l, blocks, 2, 4, &why), -EINVAL);
	assert_int_equal(kv_blocks_check(l, blocks, 2, UINT32_MAX, &why), -EINVAL);
	blocks[1].n = 5;
	assert_int_equal(kv_blocks_check(l, blocks, 2, 3, &why), -EINVAL);
	blocks[1].n = 6;
	b[1] = 50; /* layer 2 has 60 blocks, layer 3 only 50 */
	assert_int_equal(kv_blocks_check(l, blocks, 2, 3, &why), -ERANGE);
	assert_non_null(strstr(why.text, "block id 50"));
	b[1] = 49;
	a[11] = 100;
	assert_int_equal(kv_blocks_check(l, blocks, 2, 3, &why), -ERANGE);
	a[11] = UINT32_MAX;
	assert_int_equal(kv_blocks_check(l, blocks, 2, 3, &why), -ERANGE);
	struct kv_blocks none[2] = {{NULL, 0}, {NULL, 0}};
	assert_int_equal(kv_blocks_check(l, none, 2, 0, &why), 0);
	kv_layout_destroy(l);
}

static void format_names(void **state)
{
	(void)state;
	assert_string_equal(kv_format_name(KV_NB_NL_TWO_BS_NH_HS), "NB_NL_TWO_BS_NH_HS");
	assert_string_equal(kv_format_name(KV_NL_X_TWO_NB_BS_NH_HS), "NL_X_TWO_NB_BS_NH_HS");
	assert_string_equal(kv_format_name(KV_NL_X_NB_NH_BS_TWO_HS), "NL_X_NB_NH_BS_TWO_HS");
	for (int f = 0; f < KV_FORMAT_COUNT; f++)
		assert_non_null(strstr(kv_format_name((enum kv_format)f), "HS"));
	assert_string_equal(kv_format_name(KV_FORMAT_COUNT), "unknown");
	assert_string_equal(kv_format_name((enum kv_format) - 1), "unknown");
}

static void every_allocation_may_fail(void **state)
{
	(void)state;
	static const uint32_t low[] = {0, 1}, high[] = {2, 3};
	const struct kv_engine_group eg[] = {{low, 2, 0, 0}, {high, 2, 0, 0}};
	struct kv_layout *l;
	uint64_t n = 0;
	for (;;) {
		struct why why = {0};
		mem_fail_at(++n);
		int rc = create_grouped(eg, 2, 64, &l, &why);
		mem_fail_at(0);
		if (rc == 0)
			break;
		assert_int_equal(rc, -ENOMEM);
		assert_int_equal(why.err, -ENOMEM);
		assert_null(l);
	}
	assert_in_range(n, 8, 20); /* the sweep met them all */
	kv_layout_destroy(l);
}

/* Random strides and shapes: either refused, or every element that the layout can reach lies inside its memory, which the
 * sanitizers check by copying it. */
static void random_tensors_stay_inside(void **state)
{
	(void)state;
	enum { BYTES = 4096 };
	uint64_t seed = 42;
	uint32_t accepted = 0;
	for (int round = 0; round < 60000; round++) {
		static const uint64_t sizes[] = {1, 2, 2, 3, 4, 8};
		uint8_t *mem = malloc(BYTES), *object;
		struct kv_tensor t = {
			.base = mem, .bytes = BYTES, .element_size = 1u << ref_random(&seed) % 3, .ndim = 3};
		t.ndim += (uint32_t)(ref_random(&seed) % 4);
		t.offset = ref_random(&seed) % 3 ? 0 : ref_random(&seed) % BYTES;
		int64_t n = 1;
		for (uint32_t i = t.ndim; i-- > 0;) {
			t.shape[i] = sizes[ref_random(&seed) % COUNT(sizes)];
			t.stride[i] = ref_random(&seed) % 16 ? n : n + (int64_t)(ref_random(&seed) % 5) - 2;
			n *= (int64_t)t.shape[i];
		}
		if (ref_random(&seed) % 2)
			t = swapped(t, ref_random(&seed) % t.ndim, ref_random(&seed) % t.ndim);
		static const char *const hint[] = {"", "NHD", "HND"};
		static const char *const engine[] = {"vllm", "sglang", "trtllm", ""};
		struct kv_layout_in in = {.engine_type = slice_str(engine[ref_random(&seed) % 4]),
					  .hint_kv_layout = slice_str(hint[ref_random(&seed) % 3]),
					  .hint_tokens_per_block = (uint32_t)(ref_random(&seed) % 5),
					  .tensors = &t,
					  .ntensors = 1,
					  .chunk_tokens = 24};
		struct kv_layout *l = NULL;
		if (kv_layout_create(&in, &l, NULL) == 0) {
			struct kv_group_facts f;
			uint32_t ids[24];
			kv_layout_group(l, 0, &f);
			accepted++;
			for (uint32_t i = 0; i < 24; i++)
				ids[i] = (uint32_t)(i % 2 ? f.num_blocks - 1 : ref_random(&seed) % f.num_blocks);
			const struct kv_blocks b = {ids, 24 / f.block_size};
			assert_int_equal(kv_blocks_check(l, &b, 1, 1, NULL), 0);
			object = malloc(kv_object_bytes(l));
			memset(mem, 1, BYTES);
			kv_gather(l, &b, 0, object);
			for (uint64_t i = 0; i < kv_object_bytes(l); i++)
				assert_int_equal(object[i], 1);
			kv_scatter(l, &b, 0, 0, object);
			free(object);
			kv_layout_destroy(l);
		}
		free(mem);
	}
	assert_in_range(accepted, 1000, 59000);
}

int main(void)
{
#define T(n, f)                                         \
	{                                               \
		"transport/kv: " n, f, NULL, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("10 format names", format_names),
		T("11 formats by shape and hint", formats_by_shape_and_hint),
		T("12 lists of tensors", lists_of_tensors),
		T("13 permuted views", permuted_views),
		T("14 ambiguous shapes", ambiguous_shapes),
		T("15 what cannot be proven is refused", what_cannot_be_proven_is_refused),
		T("16 hostile tensors", hostile_tensors),
		T("17 engine groups", engine_groups),
		T("18 block ids", block_ids),
		T("19 every allocation may fail", every_allocation_may_fail),
		T("20 random tensors stay inside", random_tensors_stay_inside),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
