/* The planner without a driver: its operations, made with memcpy, give what transport/kv gives; and it merges what adjoins. */
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

struct fixture {
	struct ref_kv kv;
	struct kv_layout *l;
	struct layout_table t;
	uint32_t ids[CHUNKS * T];
	const uint32_t *lists[1];
	struct kv_blocks blocks;
	uint8_t *object, *slots[CHUNKS], *expected;
};

static void make(struct fixture *f, enum kv_format fmt, struct ref_shape s, uint64_t seed)
{
	struct kv_layout_in in;

	ref_make(&f->kv, fmt, s, seed);
	in = ref_in(&f->kv, T);
	assert_int_equal(kv_layout_create(&in, &f->l, NULL), 0);
	assert_int_equal(table_make(&f->t, f->l), 0);
	f->object = calloc(CHUNKS, f->t.object_bytes);
	f->expected = calloc(CHUNKS, f->t.object_bytes);
	for (uint32_t i = 0; i < CHUNKS; i++)
		f->slots[i] = f->object + i * f->t.object_bytes;
	f->lists[0] = f->ids;
	f->blocks = (struct kv_blocks){f->ids, CHUNKS * f->t.blocks[0]};
}

static void end(struct fixture *f)
{
	free(f->object);
	free(f->expected);
	table_free(&f->t);
	kv_layout_destroy(f->l);
	ref_free(&f->kv);
}

static void ids(struct fixture *f, uint64_t seed, uint32_t mode)
{
	uint32_t n = f->blocks.n, nb = f->kv.s.nb;

	assert_true(n <= nb);
	for (uint32_t i = 0; i < n; i++)
		f->ids[i] = mode == 0 ? i : mode == 1 ? nb - 1 - i : (i ^ 1) < n ? i ^ 1 : i;
	for (uint32_t i = 0; mode == 3 && i + 1 < n; i++) {
		uint32_t at = i + (uint32_t)(ref_random(&seed) % (n - i)), was = f->ids[i];

		f->ids[i] = f->ids[at];
		f->ids[at] = was;
	}
}

static void play(const struct plan_op *op, bool to_pages)
{
	for (uint32_t r = 0; r < op->rows; r++) {
		uint8_t *page = (uint8_t *)(uintptr_t)(op->page + r * op->page_pitch);
		uint8_t *object = op->object + r * op->object_pitch;

		memcpy(to_pages ? page : object, to_pages ? object : page, op->bytes);
	}
	if (op->rows == 0)
		memset(op->object, 0, op->bytes);
}

static uint64_t run(struct fixture *f, bool to_pages, bool flat, uint32_t skip, uint32_t cap)
{
	struct plan p = {.t = &f->t,
			 .ids = f->lists,
			 .slots = f->slots,
			 .to_pages = to_pages,
			 .flat = flat,
			 .skip_tokens = skip,
			 .end = CHUNKS};
	struct plan_op ops[128];
	uint64_t n = 0;

	while (!plan_over(&p)) {
		uint32_t got = plan_next(&p, ops, cap);

		assert_true(got <= cap);
		for (uint32_t i = 0; i < got; i++) {
			if (flat)
				assert_true(ops[i].rows <= 1);
			play(&ops[i], to_pages);
		}
		n += got;
	}
	return n;
}

static void as_the_cpu_does(void **state)
{
	static const struct ref_shape shapes[] = {
		{.nl = 2, .nb = 40, .bs = 16, .nh = 2, .hs = 8, .es = 2, .dtype = 1},
		{.nl = 3, .nb = 30, .bs = 8, .nh = 5, .hs = 3, .es = 1, .dtype = 2, .lead = 3},
		{.nl = 1, .nb = 200, .bs = 1, .nh = 2, .hs = 4, .es = 4, .dtype = 3},
		{.nl = 2, .nb = 4, .bs = 64, .nh = 3, .hs = 4, .es = 2, .dtype = 1},
	};
	static const uint32_t caps[] = {1, 2, 7, 97}, skips[] = {0, 16, 17, 63};
	uint64_t seed = 1;

	(void)state;
	for (uint32_t fmt = 0; fmt < KV_FORMAT_COUNT; fmt++) {
		for (uint32_t i = 0; i < COUNT(shapes) * 8; i++) {
			struct ref_shape s = shapes[i / 8];
			uint32_t cap = caps[i % 4], skip = skips[(i + fmt) % 4];
			bool flat = i & 4;
			struct fixture f;
			struct ref_kv want;

			s.nh = ref_is_mla(fmt) ? 1 : s.nh;
			if (s.bs == 8)
				s.nb = 80;
			make(&f, fmt, s, seed++);
			ids(&f, seed++, i % 4);
			for (uint32_t c = 0; c < CHUNKS; c++)
				kv_gather(f.l, &f.blocks, c, f.expected + c * f.t.object_bytes);
			run(&f, false, flat, 0, cap);
			assert_memory_equal(f.object, f.expected, CHUNKS * f.t.object_bytes);
			/* Back into pages of other bytes, and the same with transport/kv. */
			for (uint32_t n = 0; n < f.kv.ntensors; n++)
				ref_fill(f.kv.t[n].base, f.kv.t[n].bytes, seed + n);
			ref_clone(&want, &f.kv);
			run(&f, true, flat, skip, cap);
			for (uint32_t n = 0; n < f.kv.ntensors;
			     n++) { /* what we have is compared with what it should be */
				uint8_t *got = malloc(f.kv.t[n].bytes);

				memcpy(got, f.kv.t[n].base, f.kv.t[n].bytes);
				memcpy(f.kv.t[n].base, want.t[n].base, want.t[n].bytes);
				memcpy(want.t[n].base, got, want.t[n].bytes);
				free(got);
			}
			for (uint32_t c = 0; c < CHUNKS; c++)
				kv_scatter(f.l, &f.blocks, c, c == 0 ? skip : 0, f.slots[c]);
			assert_true(ref_same(&f.kv, &want));
			ref_free(&want);
			end(&f);
		}
	}
}

/* Consecutive blocks: a copy per plane and chunk. */
static void runs_are_merged(void **state)
{
	struct ref_shape s = {.nl = 4, .nb = 40, .bs = 16, .nh = 2, .hs = 8, .es = 2, .dtype = 1};
	struct fixture f;

	(void)state;
	make(&f, KV_NL_X_TWO_NB_BS_NH_HS, s, 3);
	ids(&f, 0, 0);
	assert_int_equal(run(&f, false, false, 0, 97), CHUNKS * 8);
	assert_int_equal(run(&f, false, true, 0, 97), CHUNKS * 8);
	ids(&f, 0, 1); /* descending: every block by itself */
	assert_int_equal(run(&f, false, false, 0, 97), CHUNKS * 8 * 4);
	end(&f);
	/* K and V of a block are neighbours: consecutive blocks are the rows of one 2D copy. */
	make(&f, KV_NL_X_NB_TWO_BS_NH_HS, s, 3);
	ids(&f, 0, 0);
	assert_int_equal(run(&f, false, false, 0, 97), CHUNKS * 8);
	assert_int_equal(run(&f, false, true, 0, 97), CHUNKS * 8 * 4);
	end(&f);
	/* Tokens by heads: a 2D copy for each block and head. */
	make(&f, KV_NL_X_TWO_NB_NH_BS_HS, s, 3);
	ids(&f, 0, 0);
	assert_int_equal(run(&f, false, false, 0, 97), CHUNKS * 8 * 4 * 2);
	/* Flat: each row, but the last one of a block and the first of the next are neighbours. */
	assert_int_equal(run(&f, false, true, 0, 128), CHUNKS * 8 * (4 * 16 * 2 - 3));
	end(&f);
	/* A chunk is one block of one latent layer, and the slots are neighbours: all of it at once. */
	s.nl = 1;
	s.bs = 64;
	s.nh = 1;
	make(&f, KV_NL_X_NB_BS_HS, s, 3);
	ids(&f, 0, 0);
	assert_int_equal(run(&f, false, false, 0, 97), 1);
	end(&f);
}

static void words(void **state)
{
	static const struct {
		uint32_t hs, es, lead, word;
	} cases[] = {{8, 2, 0, 16}, {4, 2, 0, 8}, {2, 2, 0, 4}, {1, 2, 0, 2}, {3, 1, 0, 1}, {8, 2, 4, 8}, {8, 2, 1, 2}};

	(void)state;
	for (uint32_t i = 0; i < COUNT(cases); i++) {
		struct ref_shape s = {.nl = 2, .nb = 16, .bs = 16, .nh = 1, .dtype = 1};
		struct fixture f;

		s.hs = cases[i].hs;
		s.es = cases[i].es;
		s.lead = cases[i].lead;
		make(&f, KV_NL_X_TWO_NB_BS_NH_HS, s, 1);
		assert_int_equal(f.t.group[0].word, cases[i].word);
		assert_true(f.t.staged);
		end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_the_cpu_does),
		cmocka_unit_test(runs_are_merged),
		cmocka_unit_test(words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
