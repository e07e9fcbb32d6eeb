#include "tests/unit/transport/cuda/copy_rig.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct rig R;

static const struct {
	enum gpu_path path;
	uint64_t staging; /* of a slot; 0: the usual */
	bool registered;
	const char *name;
} WAYS[] = {
	{GPU_DIRECT, 0, true, "direct"},
	{GPU_BATCH, 0, true, "batch"},
	{GPU_STAGED, 0, true, "staged"},
	{GPU_STAGED, 1, true, "staged, plane by plane"}, /* raised to one plane */
	{GPU_STAGED, 6000, true, "staged, small slots"},
	{GPU_DIRECT, 0, false, "direct, arena not registered"},
	{GPU_BATCH, 0, false, "batch, arena not registered"},
	{GPU_STAGED, 0, false, "staged, arena not registered"},
	{GPU_STAGED, 3000, false, "staged, small slots, arena not registered"},
};

/* ---- one copy and what must come of it ------------------------------------------------------------------------------------------- */

static void expect_slots(struct rig_copy *k, uint8_t *at, uint64_t gap, const char *what)
{
	uint64_t bytes = kv_object_bytes(k->x->host);

	for (uint32_t i = 0; i < k->c.nchunks; i++) {
		const uint8_t *slot = at + i * (bytes + gap), *after = slot + bytes;
		bool absent = k->slots[i] == NULL;

		if (!absent && memcmp(slot, k->expected + i * bytes, bytes) != 0)
			fail_msg("%s: chunk %u differs", what, i);
		for (uint64_t b = 0; absent && b < bytes; b++)
			if (slot[b] != 0x5a)
				fail_msg("%s: chunk %u was left out, and written", what, i);
		for (uint64_t b = 0; b < gap; b++)
			assert_int_equal(after[b], 0x5a);
	}
	for (uint32_t b = 1; b <= RIG_GUARD; b++) {
		assert_int_equal(at[-(int)b], 0x5a);
		assert_int_equal(at[k->c.nchunks * (bytes + gap) + b - 1], 0x5a);
	}
}

static void store_one(struct rig_engine *x, uint32_t nchunks, uint32_t absent, enum rig_order order, uint64_t gap,
		      uint64_t *seed, const char *what)
{
	uint8_t *at = x->r->arena + RIG_GUARD + ref_random(seed) % 60000;
	uint64_t bytes = kv_object_bytes(x->host);
	struct rig_copy k;

	rig_copy(&k, x, true, nchunks, order, seed);
	rig_slots(&k, at, gap);
	for (uint32_t i = 0; i < nchunks; i++) {
		kv_gather(x->host, k.blocks, i, k.expected + i * bytes);
		if (absent >> i & 1)
			k.slots[i] = NULL;
	}
	assert_int_equal(rig_run(&k), 1);
	assert_int_equal(k.told, 1);
	assert_int_equal(k.rc, 0);
	assert_int_equal(k.event_bytes, GPU_EVENT);
	expect_slots(&k, at, gap, what);
	if (!rig_same(x))
		fail_msg("%s: a store changed pages", what);
	rig_copy_end(&k);
}

static void retrieve_one(struct rig_engine *x, uint32_t nchunks, uint32_t absent, enum rig_order order, uint32_t skip,
			 uint64_t *seed, const char *what)
{
	uint8_t *at = x->r->arena + RIG_GUARD + ref_random(seed) % 60000;
	uint64_t bytes = kv_object_bytes(x->host);
	uint32_t T = kv_layout_chunk_tokens(x->host);
	struct rig_copy k;

	rig_copy(&k, x, false, nchunks, order, seed);
	k.c.skip_tokens = skip;
	rig_slots(&k, at, 0);
	ref_fill(at, nchunks * bytes, ref_random(seed));
	for (uint32_t i = 0; i < nchunks; i++) {
		uint32_t first = i * T, left = skip > first ? skip - first : 0;

		if (absent >> i & 1)
			k.slots[i] = NULL;
		else if (left < T)
			kv_scatter(x->host, k.blocks, i, left, at + i * bytes);
	}
	assert_int_equal(rig_run(&k), 1);
	assert_int_equal(k.told, 1);
	if (!rig_same(x))
		fail_msg("%s: %u chunks, %u tokens skipped: pages differ", what, nchunks, skip);
	rig_copy_end(&k);
}

static void both_ways(struct rig_engine *x, uint64_t *seed, const char *what)
{
	uint32_t T = kv_layout_chunk_tokens(x->host), bs = kv_layout_block_size(x->host, 0);

	store_one(x, 1, 0, RIG_SCATTERED, 0, seed, what);
	store_one(x, 5, 0, RIG_ASCENDING, 0, seed, what);
	store_one(x, 4, 5, RIG_RUNS, 100, seed, what);
	store_one(x, 3, 7, RIG_RUNS, 0, seed, what); /* none of them */
	retrieve_one(x, 5, 0, RIG_SCATTERED, 0, seed, what);
	retrieve_one(x, 4, 2, RIG_RUNS, bs, seed, what);
	retrieve_one(x, 4, 0, RIG_ASCENDING, T + bs, seed, what);
	retrieve_one(x, 2, 0, RIG_ASCENDING, 2 * T, seed, what); /* nothing to do */
}

/* ---- the matrix -------------------------------------------------------------------------------------------------------------------- */

static const struct ref_shape SHAPES_[] = {
	{.nl = 2, .nb = 64, .bs = 16, .nh = 2, .hs = 8, .es = 2, .dtype = 1},
	{.nl = 3, .nb = 80, .bs = 8, .nh = 3, .hs = 5, .es = 1, .dtype = 2, .pad = 0, .lead = 3},
	{.nl = 1, .nb = 320, .bs = 1, .nh = 1, .hs = 16, .es = 4, .dtype = 3},
	{.nl = 2, .nb = 40, .bs = 32, .nh = 4, .hs = 16, .es = 2, .dtype = 1, .lead = 8},
	{.nl = 2, .nb = 24, .bs = 64, .nh = 2, .hs = 32, .es = 1, .dtype = 2}, /* a chunk is one block */
};

static void matrix(void **state)
{
	uint64_t seed = 0x6b1d + (uintptr_t)*state;
	uint32_t way = (uint32_t)(uintptr_t)*state;
	char what[160];

	rig_open(&R, WAYS[way].path, WAYS[way].staging, WAYS[way].registered);
	for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++) {
		for (uint32_t i = 0; i < COUNT(SHAPES_); i++) {
			struct rig_engine x = {.r = &R, .nkv = 1};
			struct ref_shape s = SHAPES_[i];

			if (ref_is_mla(f))
				s.nh = 1;
			if (f == 0 || f == 3 || f == 10)
				s.pad = i == 1 ? 48 : 0;
			s.nhd_fused = i == 3;
			ref_make(&x.kv[0], f, s, seed++);
			snprintf(what, sizeof(what), "%s: %s, shape %u", WAYS[way].name, kv_format_name(f), i);
			rig_engine(&x, ref_in(&x.kv[0], 64));
			both_ways(&x, &seed, what);
			rig_engine_end(&x);
		}
	}
	rig_close(&R, WAYS[way].registered);
}

#define WAY(n)                                                                        \
	{                                                                             \
		.name = "matrix " #n, .test_func = matrix, .initial_state = (void *)n \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {WAY(0), WAY(1), WAY(2), WAY(3), WAY(4), WAY(5), WAY(6), WAY(7), WAY(8)};

	return cmocka_run_group_tests(tests, rig_machine, rig_no_machine);
}
