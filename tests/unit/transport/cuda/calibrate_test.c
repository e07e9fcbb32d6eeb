/* What is chosen, that it is told, and that the engine's pages are left alone while it is found out. */
#include "tests/unit/transport/cuda/copy_rig.h"

#include "daemon/base/clock.h"

static struct rig R;
static uint64_t seed = 5;

static void model(struct rig_engine *x, uint32_t hs)
{
	*x = (struct rig_engine){.r = &R, .nkv = 1};
	ref_make(&x->kv[0], KV_NL_X_NB_TWO_BS_NH_HS,
		 (struct ref_shape){.nl = 4, .nb = 64, .bs = 16, .nh = 2, .hs = hs, .es = 2, .dtype = 1}, seed++);
}

static void copies_are_right(struct rig_engine *x)
{
	uint64_t bytes = kv_object_bytes(x->host);
	uint8_t *at = R.arena + RIG_GUARD;
	struct rig_copy k;

	rig_copy(&k, x, true, 4, RIG_SCATTERED, &seed);
	rig_slots(&k, at, 0);
	for (uint32_t i = 0; i < 4; i++)
		kv_gather(x->host, k.blocks, i, k.expected + i * bytes);
	assert_int_equal(rig_run(&k), 1);
	assert_memory_equal(at, k.expected, 4 * bytes);
	rig_copy_end(&k);
	rig_copy(&k, x, false, 4, RIG_SCATTERED, &seed);
	rig_slots(&k, at, 0);
	ref_fill(at, 4 * bytes, seed++);
	for (uint32_t i = 0; i < 4; i++)
		kv_scatter(x->host, k.blocks, i, 0, at + i * bytes);
	assert_int_equal(rig_run(&k), 1);
	assert_true(rig_same(x));
	rig_copy_end(&k);
}

static double figure(json_t *of, const char *path)
{
	char name[64];

	snprintf(name, sizeof(name), "%s_gb_per_second", path);
	return json_number_value(json_object_get(of, name));
}

/* The path is one of the best, and the reason can be read. */
static void direction_is_told(json_t *of)
{
	static const char *const paths[] = {"direct", "batch", "staged"};
	const char *path = json_string_value(json_object_get(of, "path"));
	double best = 0;

	assert_non_null(path);
	for (uint32_t i = 0; i < 3; i++)
		best = figure(of, paths[i]) > best ? figure(of, paths[i]) : best;
	assert_true(best > 0);
	assert_true(figure(of, path) >= 0.96 * best);
	assert_true(json_number_value(json_object_get(of, "one_large_copy_gb_per_second")) > 0);
	if (strcmp(path, "staged") == 0)
		assert_true(json_integer_value(json_object_get(of, "thread_blocks")) > 0);
}

static void measured_once_per_shape(void **state)
{
	struct rig_engine a, b, c;
	json_t *status, *shapes, *one;

	(void)state;
	rig_open(&R, GPU_AUTO, 0, true);
	model(&a, 64);
	rig_engine(&a, ref_in(&a.kv[0], 64));
	assert_true(rig_same(&a));
	status = copier_status(R.copier);
	shapes = json_object_get(status, "shapes");
	assert_int_equal(json_array_size(shapes), 1);
	one = json_array_get(shapes, 0);
	assert_true(json_is_true(json_object_get(one, "measured")));
	direction_is_told(json_object_get(one, "store"));
	direction_is_told(json_object_get(one, "retrieve"));
	json_decref(status);
	copies_are_right(&a);
	model(&b, 64);
	rig_engine(&b, ref_in(&b.kv[0], 64));
	assert_int_equal(R.copier->nshapes, 1);
	model(&c, 256);
	rig_engine(&c, ref_in(&c.kv[0], 64));
	assert_int_equal(R.copier->nshapes, 2);
	copies_are_right(&b);
	copies_are_right(&c);
	for (uint32_t d = 0; d < DIRECTIONS; d++) { /* staging only where it is used */
		struct track *l = &c.e.tables->track[d];

		assert_int_equal(l->slot[0] != 0, l->path == GPU_STAGED);
	}
	rig_engine_end(&a);
	rig_engine_end(&b);
	rig_engine_end(&c);
	assert_int_equal(R.copier->staging_bytes, 0);
	copier_destroy(R.copier); /* with the last engine; the next one knows */
	assert_int_equal(copier_create(R.gpu, &R.copier, NULL), 0);
	assert_int_equal(R.copier->nshapes, 2);
	assert_true(R.copier->shape[0].calibrated && R.copier->shape[1].calibrated);
	rig_close(&R, true);
}

static void operators_choose(void **state)
{
	(void)state;
	for (enum gpu_path p = GPU_DIRECT; p < GPU_PATHS; p++) {
		struct rig_engine x;

		rig_open(&R, p, 0, true);
		R.door->conf.blocks = 3;
		model(&x, 64);
		rig_engine(&x, ref_in(&x.kv[0], 64));
		assert_false(R.copier->shape[0].calibrated);
		for (uint32_t d = 0; d < DIRECTIONS; d++) {
			assert_int_equal(x.e.tables->track[d].path, p);
			assert_int_equal(x.e.tables->track[d].blocks, 3);
		}
		copies_are_right(&x);
		rig_engine_end(&x);
		rig_close(&R, true);
	}
}

/* Thread blocks are the operator's also where the rest is measured. */
static void operators_choose_blocks(void **state)
{
	struct rig_engine x;

	(void)state;
	rig_open(&R, GPU_AUTO, 0, true);
	R.door->conf.blocks = 2;
	model(&x, 64);
	rig_engine(&x, ref_in(&x.kv[0], 64));
	assert_int_equal(R.copier->shape[0].of[TO_SLOTS].blocks, 2);
	assert_int_equal(R.copier->shape[0].of[TO_PAGES].blocks, 2);
	rig_engine_end(&x);
	rig_close(&R, true);
}

static void what_is_not_there(void **state)
{
	struct rig_engine x;
	struct why why;

	(void)state;
	/* No batched copies. */
	rig_open(&R, GPU_BATCH, 0, true);
	R.copier->batch = false;
	model(&x, 64);
	rig_engine(&x, ref_in(&x.kv[0], 64));
	assert_int_equal(x.e.tables->track[TO_SLOTS].path, GPU_STAGED);
	copies_are_right(&x);
	rig_engine_end(&x);
	rig_close(&R, true);
	/* Little memory: smaller slots. Behind that of the tables one allocation is refused. */
	rig_open(&R, GPU_STAGED, 1 << 20, true);
	model(&x, 64);
	x.fault = "fail cuMemAlloc error=2 after=1 count=1";
	rig_engine(&x, ref_in(&x.kv[0], 64));
	ok(R.control("clear"));
	assert_int_equal(x.e.tables->track[TO_PAGES].path, GPU_STAGED);
	assert_true(x.e.tables->track[TO_PAGES].slot_bytes <= 1 << 19);
	copies_are_right(&x);
	rig_engine_end(&x);
	rig_close(&R, true);
	/* None at all. */
	rig_open(&R, GPU_STAGED, 1 << 20, true);
	model(&x, 64);
	x.fault = "fail cuMemAlloc error=2 after=1 count=100";
	rig_engine(&x, ref_in(&x.kv[0], 64));
	ok(R.control("clear"));
	assert_int_equal(x.e.tables->track[TO_PAGES].path, GPU_DIRECT);
	copies_are_right(&x);
	rig_engine_end(&x);
	/* The driver does not take the kernels. */
	copier_destroy(R.copier);
	ok(R.control("fail cuModuleLoadDataEx error=218"));
	ok(copier_create(R.gpu, &R.copier, &why));
	ok(R.control("clear"));
	model(&x, 64);
	rig_engine(&x, ref_in(&x.kv[0], 64));
	assert_int_equal(x.e.tables->track[TO_SLOTS].path, GPU_DIRECT);
	copies_are_right(&x);
	rig_engine_end(&x);
	rig_close(&R, true);
}

/* A slow GPU is not waited for, and a context that breaks meanwhile is an error of the registration. */
static void bounded(void **state)
{
	struct rig_engine x;
	struct why why = {0};
	uint64_t from;

	(void)state;
	rig_open(&R, GPU_AUTO, 0, true);
	model(&x, 64);
	ok(R.control("slow gpu=0 latency_us=2000"));
	from = clock_ms();
	rig_engine(&x, ref_in(&x.kv[0], 64));
	assert_true(clock_ms() - from < 4000);
	ok(R.control("slow gpu=0"));
	copies_are_right(&x);
	rig_engine_end(&x);
	model(&x, 128);
	ok(R.control("fail cuLaunchKernel error=700 sticky=1"));
	assert_true(rig_engine_try(&x, ref_in(&x.kv[0], 64), &why) < 0);
	ok(R.control("clear"));
	assert_true(atomic_load(&R.gpu->lost));
	assert_null(x.e.tables);
	rig_engine_end(&x);
	rig_close(&R, true);
}

/* Every allocation and every call of the making of an engine may fail; nothing is left behind. */
static void half_made(void **state)
{
	struct rig_engine x;
	uint32_t failed = 0;

	(void)state;
	rig_open(&R, GPU_AUTO, 0, true);
	for (uint32_t n = 0; n < 60; n += 3) {
		static const char *const calls[] = {"cuEventCreate", "cuStreamCreateWithPriority", "cuMemAllocHost"};
		struct why why = {0};
		char line[96];

		model(&x, 64);
		R.copier->nshapes = 0; /* measured anew */
		snprintf(line, sizeof(line), "fail %s error=2 after=%u count=3", calls[n / 3 % 3], n);
		ok(R.control(line));
		failed += rig_engine_try(&x, ref_in(&x.kv[0], 64), &why) != 0;
		ok(R.control("clear"));
		rig_engine_end(&x);
		assert_int_equal(R.copier->staging_bytes, 0);
	}
	assert_true(failed > 3);
	rig_close(&R, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(measured_once_per_shape),
		cmocka_unit_test(operators_choose),
		cmocka_unit_test(operators_choose_blocks),
		cmocka_unit_test(what_is_not_there),
		cmocka_unit_test(bounded),
		cmocka_unit_test(half_made),
	};

	return cmocka_run_group_tests(tests, rig_machine, rig_no_machine);
}
