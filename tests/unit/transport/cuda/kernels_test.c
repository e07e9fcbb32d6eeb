/* kernels.cu as C, on ordinary memory: against transport/kv, at every word, with any number of thread blocks. And the PTX is there. */
#include "tests/fake/libcuda/cpu_cuda.h"
#include "tests/unit/transport/kv/kv_ref.h"
#include "transport/cuda/copy_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define CHUNKS   3u
#define T        64u
#define GUARD    64u

struct memory {
	uint8_t *from[3], *to[3];
};

/* Only pages, tables and staging may be touched. */
static void *at(void *ctx, uint64_t address, uint32_t bytes, bool write)
{
	const struct memory *m = ctx;

	(void)write;
	for (uint32_t i = 0; i < 3; i++)
		if (address >= (uint64_t)(uintptr_t)m->from[i] && address + bytes <= (uint64_t)(uintptr_t)m->to[i])
			return (void *)(uintptr_t)address;
	return NULL;
}

static void compare(enum kv_format fmt, struct ref_shape s, uint32_t word, uint32_t blocks, uint32_t threads,
		    uint32_t skip, uint64_t seed)
{
	struct kernel_plane planes[2 * REF_MAX_LAYERS];
	struct kv_layout_in in;
	struct kv_layout *l;
	struct layout_table t;
	struct ref_kv kv, want;
	uint32_t ids[CHUNKS * T];
	uint64_t stride, all;
	uint8_t *object, *expected;

	ref_make(&kv, fmt, s, seed);
	in = ref_in(&kv, T);
	assert_int_equal(kv_layout_create(&in, &l, NULL), 0);
	assert_int_equal(table_make(&t, l), 0);
	word = word < t.group[0].word ? word : t.group[0].word;
	stride = t.stride;
	all = CHUNKS * stride + 2 * GUARD;
	object = aligned_alloc(64, (all + 63) / 64 * 64);
	expected = malloc(all);
	memset(object, 0x77, all);
	memset(expected, 0x77, all);
	for (uint32_t i = 0; i < CHUNKS * t.blocks[0]; i++)
		ids[i] = (uint32_t)((i * 7u + 3u) % s.nb);
	for (uint32_t i = 0; i < t.group[0].kv.nplanes; i++) {
		const struct kv_plane *p = &t.group[0].kv.planes[i];

		planes[i] = (struct kernel_plane){(uint64_t)(uintptr_t)p->base, p->block_stride, p->token_stride,
						  p->head_stride};
	}
	struct kernel_args a = {.plane = (uint64_t)(uintptr_t)planes,
				.ids = (uint64_t)(uintptr_t)ids,
				.object = (uint64_t)(uintptr_t)object + GUARD,
				.object_stride = stride,
				.row_bytes = t.group[0].kv.row_bytes,
				.rows = t.group[0].kv.rows,
				.planes = t.group[0].kv.nplanes,
				.chunks = CHUNKS,
				.chunk_tokens = T,
				.block_tokens = s.bs,
				.null_block = KERNEL_NO_NULL,
				.word = word};
	const struct kv_blocks list = {ids, CHUNKS * t.blocks[0]};
	struct memory m = {{NULL, NULL, object + GUARD}, {NULL, NULL, object + all - GUARD}};
	uint8_t *low = kv.t[0].base, *high = low;
	for (uint32_t n = 0; n < kv.ntensors; n++) {
		low = kv.t[n].base < low ? kv.t[n].base : low;
		high = kv.t[n].base + kv.t[n].bytes > high ? kv.t[n].base + kv.t[n].bytes : high;
	}
	/* One range around both tables, and one around all tensors. */
	m.from[0] = (uint8_t *)ids < (uint8_t *)planes ? (uint8_t *)ids : (uint8_t *)planes;
	m.to[0] = (uint8_t *)ids < (uint8_t *)planes ? (uint8_t *)(planes + COUNT(planes))
						     : (uint8_t *)(ids + COUNT(ids));
	m.from[1] = low;
	m.to[1] = high;
	assert_int_equal(cpu_launch(false, &a, blocks, threads, at, &m), 0);
	for (uint32_t c = 0; c < CHUNKS; c++)
		kv_gather(l, &list, c, expected + GUARD + c * stride);
	assert_memory_equal(object, expected, all);

	for (uint32_t n = 0; n < kv.ntensors; n++)
		ref_fill(kv.t[n].base, kv.t[n].bytes, seed + 100 + n);
	ref_clone(&want, &kv);
	a.skip_tokens = skip;
	/* Blocks that come twice would be written in any order; they hold the same bytes only where the chunk is the same. */
	for (uint32_t i = 0; i < CHUNKS * t.blocks[0]; i++)
		ids[i] = i;
	assert_int_equal(cpu_launch(true, &a, blocks, threads, at, &m), 0);
	for (uint32_t n = 0; n < kv.ntensors; n++)
		for (uint64_t b = 0; b < kv.t[n].bytes; b++) {
			uint8_t was = want.t[n].base[b];

			want.t[n].base[b] = kv.t[n].base[b];
			kv.t[n].base[b] = was;
		}
	for (uint32_t c = 0; c < CHUNKS; c++)
		kv_scatter(l, &list, c, skip > c * T ? (skip - c * T < T ? skip - c * T : T) : 0,
			   object + GUARD + c * stride);
	assert_true(ref_same(&kv, &want));
	free(object);
	free(expected);
	table_free(&t);
	kv_layout_destroy(l);
	ref_free(&want);
	ref_free(&kv);
}

static void every_format_and_word(void **state)
{
	static const struct ref_shape shapes[] = {
		{.nl = 2, .nb = 40, .bs = 16, .nh = 2, .hs = 8, .es = 2, .dtype = 1},
		{.nl = 2, .nb = 80, .bs = 8, .nh = 3, .hs = 3, .es = 1, .dtype = 2},
		{.nl = 1, .nb = 200, .bs = 1, .nh = 1, .hs = 36, .es = 4, .dtype = 3},
		{.nl = 2,
		 .nb = 8,
		 .bs = 64,
		 .nh = 2,
		 .hs = 70,
		 .es = 2,
		 .dtype = 1}, /* more than one piece per block */
	};
	static const uint32_t grids[][2] = {{1, 32}, {3, 512}, {7, 64}};
	uint64_t seed = 3;

	(void)state;
	for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++) {
		for (uint32_t i = 0; i < COUNT(shapes); i++) {
			for (uint32_t word = 1; word <= 16; word *= 2) {
				struct ref_shape s = shapes[i];
				const uint32_t *grid = grids[(f + i + word) % 3];

				s.nh = ref_is_mla(f) ? 1 : s.nh;
				compare(f, s, word, grid[0], grid[1], (word * 21) % (2 * T), seed++);
			}
		}
	}
}

/* An access that is not aligned, or goes anywhere else, is a fault of the launch. */
static void faults(void **state)
{
	uint32_t ids[1] = {0};
	uint8_t page[64], object[64];
	struct kernel_plane plane = {(uint64_t)(uintptr_t)page + 1, 64, 64, 0};
	struct kernel_args a = {.plane = (uint64_t)(uintptr_t)&plane,
				.ids = (uint64_t)(uintptr_t)ids,
				.object = (uint64_t)(uintptr_t)object,
				.row_bytes = 32,
				.rows = 1,
				.planes = 1,
				.chunks = 1,
				.chunk_tokens = 1,
				.block_tokens = 1,
				.null_block = KERNEL_NO_NULL,
				.word = 4};
	struct memory none = {{0}, {0}};

	(void)state;
	none.to[0] = (uint8_t *)UINTPTR_MAX;
	assert_int_not_equal(cpu_launch(false, &a, 1, 32, at, &none), 0);
	none.to[0] = NULL;
	a.word = 1;
	assert_int_not_equal(cpu_launch(false, &a, 1, 32, at, &none), 0);
}

static void the_image(void **state)
{
	size_t n = 0;
	const char *ptx = kernels_image(&n);

	(void)state;
	assert_int_equal(strlen(ptx) + 1, n);
	assert_non_null(strstr(ptx, ".visible .entry " KERNEL_GATHER "("));
	assert_non_null(strstr(ptx, ".visible .entry " KERNEL_SCATTER "("));
	assert_non_null(strstr(ptx, ".target sm_70"));
	assert_non_null(strstr(ptx, "ld.global.cs.v4.u32"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_format_and_word),
		cmocka_unit_test(faults),
		cmocka_unit_test(the_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
