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

/* Each format meets each shape, though not in every way; fewer of them where a sanitizer makes everything slow. */
static uint32_t thinned(void)
{
	return getenv("LMCA_SANITIZER") ? 5 : 2;
}

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
			if ((i + f + way) % thinned() != 0)
				continue;
			ref_make(&x.kv[0], f, s, seed++);
			snprintf(what, sizeof(what), "%s: %s, shape %u", WAYS[way].name, kv_format_name(f), i);
			rig_engine(&x, ref_in(&x.kv[0], 64));
			both_ways(&x, &seed, what);
			rig_engine_end(&x);
		}
	}
	rig_close(&R, WAYS[way].registered);
}

/* ---- hybrid models, null blocks ---------------------------------------------------------------------------------------------------- */

/* Full attention and sliding windows, K and V and latent, 1 and 2 bytes, blocks of 16 and 32: five layer groups. */
static const struct {
	enum kv_format fmt;
	struct ref_shape s;
} HYBRID[] = {
	{KV_NL_X_NB_TWO_BS_NH_HS, {.nl = 1, .nb = 40, .bs = 16, .nh = 4, .hs = 32, .es = 2, .dtype = 1}},
	{KV_NL_X_NB_BS_HS, {.nl = 1, .nb = 40, .bs = 16, .nh = 1, .hs = 72, .es = 2, .dtype = 1}},
	{KV_NL_X_TWO_NB_BS_NH_HS, {.nl = 1, .nb = 24, .bs = 32, .nh = 2, .hs = 64, .es = 2, .dtype = 1}},
	{KV_NL_X_NB_TWO_BS_NH_HS, {.nl = 1, .nb = 40, .bs = 16, .nh = 8, .hs = 32, .es = 2, .dtype = 1}},
	{KV_NL_X_NB_TWO_NH_BS_HS, {.nl = 1, .nb = 40, .bs = 16, .nh = 4, .hs = 16, .es = 2, .dtype = 1}},
	{KV_NL_X_NB_NH_BS_TWO_HS,
	 {.nl = 1, .nb = 24, .bs = 32, .nh = 2, .hs = 64, .es = 1, .dtype = 2, .nhd_fused = true}},
	{KV_NL_X_NB_BS_HS, {.nl = 1, .nb = 40, .bs = 16, .nh = 1, .hs = 66, .es = 2, .dtype = 1}},
};

static void hybrid(struct rig_engine *x, uint64_t *seed, uint32_t null_block)
{
	static const uint32_t full[] = {0, 1, 3, 4, 6}, window[] = {2, 5};
	const struct kv_engine_group groups[] = {{full, 5, 16, 0}, {window, 2, 0, 100}};
	struct kv_tensor t[RIG_MODELS];

	x->nkv = COUNT(HYBRID);
	for (uint32_t i = 0; i < COUNT(HYBRID); i++) {
		ref_make(&x->kv[i], HYBRID[i].fmt, HYBRID[i].s, (*seed)++);
		t[i] = x->kv[i].t[0];
	}
	x->null_groups = 2;
	x->null_id = null_block;
	rig_engine(x, (struct kv_layout_in){.engine_type = slice_str("vllm"),
					    .tensors = t,
					    .ntensors = COUNT(HYBRID),
					    .groups = groups,
					    .ngroups = 2,
					    .chunk_tokens = 64,
					    .has_null_block = true,
					    .null_block = null_block});
}

static void hybrid_models(void **state)
{
	static const uint32_t null_blocks[] = {0, 7777, UINT32_MAX}; /* may be no block at all */
	uint64_t seed = 77;

	(void)state;
	for (uint32_t way = 0; way < COUNT(WAYS); way++) {
		rig_open(&R, WAYS[way].path, WAYS[way].staging, WAYS[way].registered);
		struct rig_engine x = {.r = &R};

		hybrid(&x, &seed, null_blocks[way % COUNT(null_blocks)]);
		both_ways(&x, &seed, WAYS[way].name);
		rig_engine_end(&x);
		rig_close(&R, WAYS[way].registered);
	}
}

/* ---- many at once ------------------------------------------------------------------------------------------------------------------ */

#define AT_ONCE 8u

static void plain(struct rig_engine *x, uint64_t *seed)
{
	x->r = &R;
	x->nkv = 1;
	ref_make(&x->kv[0], KV_NL_X_NB_TWO_BS_NH_HS,
		 (struct ref_shape){.nl = 4, .nb = 200, .bs = 16, .nh = 2, .hs = 32, .es = 2, .dtype = 1}, (*seed)++);
	rig_engine(x, ref_in(&x->kv[0], 64));
}

/* Room for few block ids, so that they go round and copies wait for it. */
static void small_ring(struct rig_engine *x, uint32_t cap)
{
	for (uint32_t d = 0; d < DIRECTIONS; d++) {
		struct track *l = &x->e.tables->track[d];
		void *host;

		if (l->ids) {
			ok(R.cu->cuMemFreeHost(l->ids));
			ok(R.cu->cuMemFree(l->ids_device));
		}
		ok(R.cu->cuMemAllocHost(&host, cap * sizeof(uint32_t)));
		ok(R.cu->cuMemAlloc(&l->ids_device, cap * sizeof(uint32_t)));
		l->ids = host;
		l->ids_cap = cap;
	}
}

static void start(struct rig_copy *k)
{
	ok(copier_take(&k->c));
	ok(copier_start(R.copier, &k->c));
}

/* Stores of two engines side by side, polled in no order. */
static void stores_at_once(struct rig_engine *x, uint64_t *seed)
{
	struct rig_copy k[2 * AT_ONCE];
	uint32_t left = 2 * AT_ONCE;

	for (uint32_t i = 0; i < 2 * AT_ONCE; i++) {
		struct rig_engine *e = &x[i % 2];
		uint64_t bytes = kv_object_bytes(e->host);
		uint32_t n = 1 + (uint32_t)(ref_random(seed) % RIG_CHUNKS);

		rig_copy(&k[i], e, true, n, i % RIG_ORDERS, seed);
		rig_slots(&k[i], R.arena + (i * 3 + 1) * RIG_SLICE, 64);
		for (uint32_t j = 0; j < n; j++)
			kv_gather(e->host, k[i].blocks, j, k[i].expected + j * bytes);
		start(&k[i]);
	}
	while (left) {
		struct rig_copy *p = &k[ref_random(seed) % (2 * AT_ONCE)];

		if (p->done == 0 && (p->done = copier_poll(R.copier, &p->c)) != 0)
			left--;
	}
	for (uint32_t i = 0; i < 2 * AT_ONCE; i++) {
		assert_int_equal(k[i].done, 1);
		assert_int_equal(k[i].told, 1);
		expect_slots(&k[i], R.arena + (i * 3 + 1) * RIG_SLICE, 64, "at once");
		rig_copy_end(&k[i]);
	}
}

/* Retrieves into the same blocks: the last one wins, since those of one engine keep their order. */
static void retrieves_at_once(struct rig_engine *x, uint64_t *seed)
{
	uint64_t bytes = kv_object_bytes(x->host), same = ref_random(seed);
	struct rig_copy k[AT_ONCE];

	for (uint32_t i = 0; i < AT_ONCE; i++) {
		uint8_t *at = R.arena + (i * 2 + 1) * RIG_SLICE;
		uint64_t s = same;

		rig_copy(&k[i], x, false, 6, RIG_SCATTERED, &s);
		rig_slots(&k[i], at, 0);
		ref_fill(at, 6 * bytes, ref_random(seed));
		for (uint32_t j = 0; j < 6; j++)
			kv_scatter(x->host, k[i].blocks, j, 0, at + j * bytes);
		start(&k[i]);
	}
	for (uint32_t i = AT_ONCE; i-- > 0;)
		assert_int_equal(rig_finish(&k[i]), 1);
	for (uint32_t i = 0; i < AT_ONCE; i++)
		rig_copy_end(&k[i]);
	assert_true(rig_same(x));
}

static void many_at_once(void **state)
{
	uint64_t seed = 4711;

	(void)state;
	for (uint32_t way = 0; way < COUNT(WAYS); way++) {
		struct rig_engine x[2] = {{0}};

		rig_open(&R, WAYS[way].path, WAYS[way].staging, WAYS[way].registered);
		ok(R.control("slow gpu=0 latency_us=30"));
		plain(&x[0], &seed);
		plain(&x[1], &seed);
		small_ring(&x[0], 100);
		for (uint32_t i = 0; i < 2; i++) {
			stores_at_once(x, &seed);
			retrieves_at_once(&x[0], &seed);
		}
		ok(R.control("slow gpu=0"));
		rig_engine_end(&x[0]);
		rig_engine_end(&x[1]);
		rig_close(&R, WAYS[way].registered);
	}
}

#define WAY(n)                                                                        \
	{                                                                             \
		.name = "matrix " #n, .test_func = matrix, .initial_state = (void *)n \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {WAY(0),
					   WAY(1),
					   WAY(2),
					   WAY(3),
					   WAY(4),
					   WAY(5),
					   WAY(6),
					   WAY(7),
					   WAY(8),
					   cmocka_unit_test(hybrid_models),
					   cmocka_unit_test(many_at_once)};

	return cmocka_run_group_tests(tests, rig_machine, rig_no_machine);
}
