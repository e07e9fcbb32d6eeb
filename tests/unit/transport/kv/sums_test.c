/* Copies that compute checksums on the way, with every instruction set of this CPU in turn: the choice is this file's. */
#define kv_sums_copy kv_sums_chosen
#include "transport/kv/stream_sums.c" // NOLINT(bugprone-suspicious-include)
#undef kv_sums_copy
kv_sums_fn *kv_sums_copy(void);

#include "daemon/base/mem.h"
#include "tests/unit/transport/kv/kv_ref.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { SIZE = 80000 };

static kv_sums_fn *sets[3], *forced;
static const char *names[3];
static unsigned nsets;

kv_sums_fn *kv_sums_copy(void)
{
	return forced;
}

static int find_sets(void **state)
{
	(void)state;
#ifdef __x86_64__
	if (crc32c_has_fold_avx512()) {
		sets[nsets] = copy_sums_avx512;
		names[nsets++] = "avx512";
	}
	if (crc32c_has_fold_avx2()) {
		sets[nsets] = copy_sums_avx2;
		names[nsets++] = "avx2";
	}
#endif
	sets[nsets] = copy_sums_pieces;
	names[nsets++] = "pieces";
	return 0;
}

static void copies(void **state)
{
	(void)state;
	static uint8_t src[SIZE], dst[SIZE], want[SIZE];
	static const size_t len[] = {0,    1,    64,   255,   1023,  1024,  1087,  1279,  4096,  8191,
				     8448, 8449, 9000, 16384, 16640, 17000, 32768, 33024, 49152, 79000};
	ref_fill(src, SIZE, 1);
	assert_ptr_equal(kv_sums_chosen(), sets[0]);
	for (unsigned set = 0; set < nsets; set++)
		for (size_t i = 0; i < sizeof len / sizeof *len; i++)
			for (size_t to = 0; to < 130; to += 13)
				for (size_t from = 0; from < 130; from += 43) {
					ref_fill(dst, 256, 2);
					memset(dst + 256, 7, SIZE - 256);
					memcpy(want, dst, SIZE);
					memcpy(want + to, src + from, len[i]);
					uint32_t raw = sets[set](~0x1234u, dst + to, src + from, len[i], NULL);
					kv_stream_ops()->fence();
					if (memcmp(dst, want, SIZE) != 0 || ~raw != crc32c(0x1234, src + from, len[i]))
						fail_msg("%s: %zu bytes from %zu to %zu", names[set], len[i], from, to);
				}
}

static void whole_buffers(void **state)
{
	(void)state;
	static const size_t len[] = {0, 5, CRC_BLOCK - 1, CRC_BLOCK, CRC_BLOCK + 1, 2 * CRC_BLOCK, 3 * CRC_BLOCK - 77};
	uint8_t *src = malloc(3 * CRC_BLOCK), *dst = malloc(3 * CRC_BLOCK + 64);
	uint32_t got[4], want[4];
	ref_fill(src, 3 * CRC_BLOCK, 9);
	for (unsigned set = 0; set < nsets; set++)
		for (size_t i = 0; i < sizeof len / sizeof *len; i++) {
			forced = sets[set];
			memset(got, 0xee, sizeof got);
			memset(want, 0xee, sizeof want);
			crc32c_blocks(src, len[i], want);
			kv_copy_sums(dst + i, src, len[i], got);
			assert_memory_equal(got, want, sizeof got);
			assert_memory_equal(dst + i, src, len[i]);
		}
	free(src);
	free(dst);
}

/* ---- gathering ------------------------------------------------------------------------------------------------------- */

static void gather_once(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j)
{
	uint64_t n = kv_object_bytes(l);
	uint8_t *a = aligned_alloc(4096, (n + 8191) / 4096 * 4096), *b = aligned_alloc(4096, (n + 8191) / 4096 * 4096);
	uint32_t *want = calloc(crc_blocks(n) + 1, sizeof *want), *got = calloc(crc_blocks(n) + 1, sizeof *got);
	memset(a, 1, n + 64);
	memset(b, 1, n + 64);
	kv_gather(l, blocks, j, a);
	crc32c_blocks(a, n, want);
	for (unsigned set = 0; set < nsets; set++) {
		forced = sets[set];
		memset(b, 2, n);
		memset(got, 0xee, crc_blocks(n) * sizeof *got);
		uint64_t before = mem_thread_allocs();
		kv_gather_sums(l, blocks, j, b, got);
		assert_int_equal(mem_thread_allocs(), before);
		if (memcmp(a, b, n + 64) != 0)
			fail_msg("%s: other bytes than kv_gather's", names[set]);
		if (memcmp(got, want, (crc_blocks(n) + 1) * sizeof *got) != 0)
			fail_msg("%s: wrong checksums (%llu bytes)", names[set], (unsigned long long)n);
	}
	free(a);
	free(b);
	free(want);
	free(got);
}

static void gather_format(int fmt, struct ref_shape s, uint32_t bpc)
{
	struct ref_kv kv;
	struct kv_layout *l;
	struct why why = {0};
	uint32_t ids[512];
	s.nhd_fused = fmt == 110;
	ref_make(&kv, (enum kv_format)(fmt == 110 ? 10 : fmt), s, 100);
	struct kv_layout_in in = ref_in(&kv, s.bs * bpc);
	if (kv_layout_create(&in, &l, &why) != 0)
		fail_msg("format %d: %s", fmt, why.text);
	for (uint32_t i = 0; i < 2 * bpc; i++) /* runs of two blocks, backwards */
		ids[i] = (s.nb - 2 - (i & ~1u) + (i & 1)) % s.nb;
	struct kv_blocks blocks = {ids, 2 * bpc};
	assert_int_equal(kv_blocks_check(l, &blocks, 1, 2, NULL), 0);
	for (uint32_t j = 0; j < 2; j++)
		gather_once(l, &blocks, j);
	kv_layout_destroy(l);
	ref_free(&kv);
}

/* Sub-blocks of 1 MiB end within planes, blocks and rows; small ones are a single sub-block that K and V share. */
static void every_format(void **state)
{
	(void)state;
	static const int mha[] = {0, 1, 2, 4, 6, 7, 8, 9, 10, 110}, mla[] = {3, 5};
	static const struct ref_shape shape[] = {
		{.nl = 4, .nb = 40, .bs = 16, .nh = 8, .hs = 128, .es = 2},
		{.nl = 7, .nb = 24, .bs = 16, .nh = 7, .hs = 96, .es = 2},
		{.nl = 5, .nb = 40, .bs = 16, .nh = 3, .hs = 200, .es = 2, .pad = 8},
		{.nl = 3, .nb = 40, .bs = 4, .nh = 3, .hs = 5, .es = 1, .lead = 3, .pad = 9},
		{.nl = 2, .nb = 40, .bs = 1, .nh = 2, .hs = 80, .es = 2},
	};
	static const struct ref_shape latent[] = {
		{.nl = 7, .nb = 9, .bs = 64, .nh = 1, .hs = 576, .es = 2},
		{.nl = 3, .nb = 40, .bs = 4, .nh = 1, .hs = 33, .es = 4, .pad = 3},
	};
	for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
		for (size_t f = 0; f < sizeof mha / sizeof *mha; f++)
			gather_format(mha[f], shape[i], i == 0 ? 16 : i == 1 ? 10 : 7);
	for (size_t i = 0; i < sizeof latent / sizeof *latent; i++)
		for (size_t f = 0; f < sizeof mla / sizeof *mla; f++)
			gather_format(mla[f], latent[i], 4);
}

/* Three groups in one object: latent layers, whole blocks with null blocks, and heads; sub-blocks end in the middle of them. */
static void groups_and_null_blocks(void **state)
{
	(void)state;
	static const struct {
		enum kv_format fmt;
		struct ref_shape s;
	} layer[4] = {
		{KV_NL_X_NB_TWO_NH_BS_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 8, .hs = 144, .es = 2, .dtype = 1}},
		{KV_NL_X_NB_BS_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 1, .hs = 572, .es = 2, .dtype = 1}},
		{KV_NL_X_TWO_NB_BS_NH_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 8, .hs = 128, .es = 2, .dtype = 1}},
		{KV_NL_X_NB_TWO_NH_BS_HS, {.nl = 1, .nb = 20, .bs = 16, .nh = 8, .hs = 144, .es = 2, .dtype = 1}},
	};
	static const uint32_t full[] = {1}, window[] = {0, 2, 3}, ids0[16] = {3, 4, 5, 6, 1, 2, 7, 8, 9, 10, 11, 12},
			      ids1[16] = {0, 0, 3, 4, 0, 9, 1, 1, 1, 5, 6, 7, 0, 2, 3, 0};
	const struct kv_engine_group eg[] = {{full, 1, 16, 0}, {window, 3, 16, 128}};
	const struct kv_blocks blocks[2] = {{ids0, 16}, {ids1, 16}};
	struct ref_kv kv[4];
	struct kv_tensor t[4];
	struct kv_layout *l;
	struct why why = {0};
	for (uint32_t i = 0; i < 4; i++) {
		ref_make(&kv[i], layer[i].fmt, layer[i].s, 50 + i);
		t[i] = kv[i].t[0];
	}
	struct kv_layout_in in = {.engine_type = slice_str("vllm"),
				  .hint_kv_layout = slice_str(""),
				  .tensors = t,
				  .ntensors = 4,
				  .groups = eg,
				  .ngroups = 2,
				  .chunk_tokens = 256,
				  .has_null_block = true};
	if (kv_layout_create(&in, &l, &why) != 0)
		fail_msg("%s", why.text);
	assert_true(kv_layout_groups(l) == 3 && kv_object_bytes(l) > 3 * CRC_BLOCK);
	assert_int_equal(kv_blocks_check(l, blocks, 2, 1, NULL), 0);
	gather_once(l, blocks, 0);
	kv_layout_destroy(l);
	for (uint32_t i = 0; i < 4; i++)
		ref_free(&kv[i]);
}

int main(void)
{
#define T(n, f)                                         \
	{                                               \
		"transport/kv: " n, f, NULL, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("sums 1 copies of every set", copies),
		T("sums 2 whole buffers", whole_buffers),
		T("sums 3 every format", every_format),
		T("sums 4 groups and null blocks", groups_and_null_blocks),
	};
	return cmocka_run_group_tests(tests, find_sets, NULL);
}
