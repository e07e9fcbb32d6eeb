/* kernels.cu as C, on ordinary memory: against transport/kv, at every word, with any number of thread blocks. And the PTX is there. */
#include "tests/fake/libcuda/cpu_cuda.h"
#include "tests/unit/transport/kv/kv_ref.h"
#include "transport/cuda/copier.h"

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

struct fixture {
	struct ref_kv kv;
	struct kv_layout *l;
	struct layout_table t;
	struct {
		struct kernel_plane planes[2 * REF_MAX_LAYERS];
		uint32_t ids[CHUNKS * T];
	} tables;
	uint8_t *object, *expected;
	uint64_t all; /* bytes of each, with guards */
	struct kernel_args a;
	struct memory m;
	struct kv_blocks list;
};

static void make_memory(struct fixture *f)
{
	uint8_t *low = f->kv.t[0].base, *high = low;

	for (uint32_t n = 0; n < f->kv.ntensors; n++) {
		low = f->kv.t[n].base < low ? f->kv.t[n].base : low;
		high = f->kv.t[n].base + f->kv.t[n].bytes > high ? f->kv.t[n].base + f->kv.t[n].bytes : high;
	}
	f->m = (struct memory){{(uint8_t *)&f->tables, low, f->object + GUARD},
			       {(uint8_t *)(&f->tables + 1), high, f->object + f->all - GUARD}};
}

static void make(struct fixture *f, enum kv_format fmt, struct ref_shape s, uint32_t word, uint64_t seed)
{
	const struct group_table *g;
	struct kv_layout_in in;

	ref_make(&f->kv, fmt, s, seed);
	in = ref_in(&f->kv, T);
	assert_int_equal(kv_layout_create(&in, &f->l, NULL), 0);
	assert_int_equal(table_make(&f->t, f->l), 0);
	g = &f->t.group[0];
	f->all = CHUNKS * f->t.stride + 2 * GUARD;
	f->object = aligned_alloc(64, (f->all + 63) / 64 * 64);
	f->expected = malloc(f->all);
	memset(f->object, 0x77, f->all);
	memset(f->expected, 0x77, f->all);
	for (uint32_t i = 0; i < g->kv.nplanes; i++) {
		const struct kv_plane *p = &g->kv.planes[i];

		f->tables.planes[i] = (struct kernel_plane){(uint64_t)(uintptr_t)p->base, p->block_stride,
							    p->token_stride, p->head_stride};
	}
	f->a = (struct kernel_args){.plane = (uint64_t)(uintptr_t)f->tables.planes,
				    .ids = (uint64_t)(uintptr_t)f->tables.ids,
				    .object = (uint64_t)(uintptr_t)f->object + GUARD,
				    .object_stride = f->t.stride,
				    .row_bytes = g->kv.row_bytes,
				    .rows = g->kv.rows,
				    .planes = g->kv.nplanes,
				    .chunks = CHUNKS,
				    .chunk_tokens = T,
				    .block_tokens = s.bs,
				    .null_block = KERNEL_NO_NULL,
				    .word = word < g->word ? word : g->word};
	f->list = (struct kv_blocks){f->tables.ids, CHUNKS * f->t.blocks[0]};
	make_memory(f);
}

static void gather(struct fixture *f, uint32_t blocks, uint32_t threads)
{
	for (uint32_t i = 0; i < f->list.n; i++)
		f->tables.ids[i] = (uint32_t)((i * 7u + 3u) % f->kv.s.nb);
	assert_int_equal(cpu_launch(false, &f->a, blocks, threads, at, &f->m), 0);
	for (uint32_t c = 0; c < CHUNKS; c++)
		kv_gather(f->l, &f->list, c, f->expected + GUARD + c * f->t.stride);
	assert_memory_equal(f->object, f->expected, f->all);
}

/* Every block once: written twice it would hold what came last. */
static void scatter(struct fixture *f, uint32_t blocks, uint32_t threads, uint32_t skip)
{
	struct ref_kv was;

	for (uint32_t n = 0; n < f->kv.ntensors; n++)
		ref_fill(f->kv.t[n].base, f->kv.t[n].bytes, skip + n);
	ref_clone(&was, &f->kv);
	f->a.skip_tokens = skip;
	for (uint32_t i = 0; i < f->list.n; i++)
		f->tables.ids[i] = i;
	assert_int_equal(cpu_launch(true, &f->a, blocks, threads, at, &f->m), 0);
	for (uint32_t n = 0; n < f->kv.ntensors; n++) /* what came out and what was there change places */
		for (uint64_t b = 0; b < f->kv.t[n].bytes; b++) {
			uint8_t out = f->kv.t[n].base[b];

			f->kv.t[n].base[b] = was.t[n].base[b];
			was.t[n].base[b] = out;
		}
	for (uint32_t c = 0; c < CHUNKS; c++) {
		uint32_t left = skip > c * T ? skip - c * T : 0;

		kv_scatter(f->l, &f->list, c, left < T ? left : T, f->object + GUARD + c * f->t.stride);
	}
	assert_true(ref_same(&f->kv, &was));
	ref_free(&was);
}

static void compare(enum kv_format fmt, struct ref_shape s, uint32_t word, const uint32_t *grid, uint32_t skip,
		    uint64_t seed)
{
	struct fixture f;

	make(&f, fmt, s, word, seed);
	gather(&f, grid[0], grid[1]);
	scatter(&f, grid[0], grid[1], skip);
	free(f.object);
	free(f.expected);
	table_free(&f.t);
	kv_layout_destroy(f.l);
	ref_free(&f.kv);
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
				compare(f, s, word, grid, (word * 21) % (2 * T), seed++);
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
