/* Copies whose driver calls fail, one after another; a context that breaks; memory that is not there. */
#include "tests/unit/transport/cuda/copy_rig.h"

#include "daemon/base/mem.h"

#include <pthread.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct rig R;
static uint64_t seed = 99;

static const char *const CALLS[] = {"cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync", "cuMemcpy2DAsync", "cuMemcpyBatchAsync",
				    "cuLaunchKernel",    "cuStreamWaitEvent", "cuEventRecord",   "cuEventQuery",
				    "cuMemAllocHost",    "cuMemAlloc"};

static void engine(struct rig_engine *x)
{
	*x = (struct rig_engine){.r = &R, .nkv = 1};
	ref_make(&x->kv[0], KV_NL_X_NB_TWO_NH_BS_HS,
		 (struct ref_shape){.nl = 2, .nb = 64, .bs = 16, .nh = 2, .hs = 16, .es = 2, .dtype = 1}, seed++);
	rig_engine(x, ref_in(&x->kv[0], 64));
}

static void fault(const char *call, uint32_t after, int error, bool sticky)
{
	char line[128];

	snprintf(line, sizeof(line), "fail %s error=%d after=%u%s", call, error, after, sticky ? " sticky=1" : "");
	ok(R.control(line));
}

/* After a failure was told nothing may touch the slots. */
static void stays_as_it_is(const uint8_t *at, uint64_t n)
{
	uint8_t *was = malloc(n);

	memcpy(was, at, n);
	usleep(500);
	assert_memory_equal(was, at, n);
	free(was);
}

static int store(struct rig_engine *x, bool must)
{
	uint8_t *at = R.arena + RIG_SLICE - 5000; /* from one registered slice into the next */
	uint64_t bytes = kv_object_bytes(x->host);
	struct rig_copy k;
	int rc;

	rig_copy(&k, x, true, 4, RIG_SCATTERED, &seed);
	rig_slots(&k, at, 0);
	for (uint32_t i = 0; i < 4; i++)
		kv_gather(x->host, k.blocks, i, k.expected + i * bytes);
	rc = rig_run(&k);
	if (must)
		assert_int_equal(rc, 1);
	if (rc == 1) {
		assert_int_equal(k.told, 1);
		assert_int_equal(k.rc, 0);
		assert_memory_equal(at, k.expected, 4 * bytes);
	} else {
		assert_true(rc < 0);
		assert_null(k.c.inner);
		stays_as_it_is(at, 4 * bytes);
	}
	rig_copy_end(&k);
	return rc;
}

static int retrieve(struct rig_engine *x, bool must)
{
	uint8_t *at = R.arena + RIG_SLICE - 5000;
	uint64_t bytes = kv_object_bytes(x->host);
	struct rig_copy k;
	int rc;

	rig_copy(&k, x, false, 4, RIG_SCATTERED, &seed);
	rig_slots(&k, at, 0);
	ref_fill(at, 4 * bytes, seed++);
	for (uint32_t i = 0; i < 4; i++)
		kv_scatter(x->host, k.blocks, i, 0, at + i * bytes);
	rc = rig_run(&k);
	if (must)
		assert_int_equal(rc, 1);
	assert_true(rc == 1 || rc < 0);
	ok(R.control("clear"));
	if (rc != 1) {
		assert_null(k.c.inner);
		/* What lies in the pages is nobody's: the engine was told. */
		rig_push(x);
	}
	assert_true(rig_same(x));
	rig_copy_end(&k);
	return rc;
}

static void every_call_fails(void **state)
{
	static const struct {
		enum gpu_path path;
		uint64_t staging;
		bool registered;
	} ways[] = {{GPU_DIRECT, 0, true},
		    {GPU_BATCH, 0, true},
		    {GPU_STAGED, 5000, true},
		    {GPU_STAGED, 5000, false},
		    {GPU_DIRECT, 0, false}};
	uint32_t failed = 0;

	(void)state;
	for (uint32_t way = 0; way < COUNT(ways); way++) {
		rig_open(&R, ways[way].path, ways[way].staging, ways[way].registered);
		for (uint32_t call = 0; call < COUNT(CALLS); call++) {
			struct rig_engine x;

			engine(&x);
			for (uint32_t after = 0; after < 8; after++) {
				fault(CALLS[call], after, CUDA_ERROR_INVALID_VALUE, false);
				failed += store(&x, false) < 0;
				ok(R.control("clear"));
				fault(CALLS[call], after, CUDA_ERROR_INVALID_VALUE, false);
				failed += retrieve(&x, false) < 0;
			}
			store(&x, true);
			retrieve(&x, true);
			rig_engine_end(&x);
		}
		rig_close(&R, ways[way].registered);
	}
	assert_true(failed > 100);
}

/* A batched call that is refused costs the path, not the copy. */
static void refused_batches(void **state)
{
	struct rig_engine x;
	struct gpu_stats stats;

	(void)state;
	rig_open(&R, GPU_BATCH, 0, true);
	engine(&x);
	store(&x, true);
	fault("cuMemcpyBatchAsync", 0, CUDA_ERROR_NOT_SUPPORTED, false);
	store(&x, true);
	assert_false(R.copier->batch);
	store(&x, true);
	retrieve(&x, true);
	gpu_stats(R.door, 0, &stats);
	/* What went well, the batch that was refused, and what came after it. */
	assert_true(stats.path_bytes[GPU_BATCH] > 0 && stats.path_bytes[GPU_DIRECT] > 0);
	assert_true(stats.path_bytes[GPU_STAGED] > 0);
	assert_int_equal(x.e.tables->track[TO_SLOTS].path, GPU_STAGED);
	rig_engine_end(&x);
	rig_close(&R, true);
}

static void broken_context(void **state)
{
	static const char *const calls[] = {"cuLaunchKernel", "cuEventQuery", "cuMemcpyHtoDAsync", "cuEventRecord"};

	(void)state;
	for (uint32_t i = 0; i < COUNT(calls); i++) {
		struct rig_engine x;
		struct rig_copy k[3];

		rig_open(&R, GPU_STAGED, 0, false);
		engine(&x);
		for (uint32_t n = 0; n < 3; n++) {
			rig_copy(&k[n], &x, n != 1, 4, RIG_SCATTERED, &seed);
			rig_slots(&k[n], R.arena + (n + 1) * RIG_SLICE, 0);
			ok(copier_take(&k[n].c));
		}
		fault(calls[i], 1, CUDA_ERROR_ILLEGAL_ADDRESS, true);
		for (uint32_t n = 0; n < 3; n++) {
			int rc = copier_start(R.copier, &k[n].c);

			assert_true(rc <= 0);
			k[n].done = rc;
		}
		for (uint32_t n = 0; n < 3; n++) {
			if (!k[n].done)
				rig_finish(&k[n]);
			assert_true(k[n].done < 0);
			assert_null(k[n].c.inner);
			rig_copy_end(&k[n]);
		}
		assert_true(atomic_load(&R.gpu->lost));
		ok(R.control("clear"));
		rig_engine_end(&x);
		rig_close(&R, false);
	}
}

/* No pinned memory for what is not registered: the driver stages by itself. */
static void no_bounce_buffer(void **state)
{
	struct rig_engine x;

	(void)state;
	rig_open(&R, GPU_STAGED, 0, false);
	engine(&x);
	store(&x, true); /* has the ring of ids, and a bounce buffer */
	for (uint32_t d = 0; d < DIRECTIONS; d++) {
		struct track *l = &x.e.tables->track[d];

		l->bounce_refused = true;
		if (l->bounce)
			R.cu->cuMemFreeHost(l->bounce);
		l->bounce = NULL;
	}
	store(&x, true);
	retrieve(&x, true);
	rig_engine_end(&x);
	rig_close(&R, false);
}

static void no_memory_for_a_job(void **state)
{
	struct rig_engine x;

	(void)state;
	rig_open(&R, GPU_STAGED, 0, true);
	engine(&x);
	for (uint32_t n = 1; n < 5; n++) {
		struct rig_copy k;
		int rc;

		rig_copy(&k, &x, true, 4, RIG_SCATTERED, &seed);
		rig_slots(&k, R.arena + RIG_SLICE, 0);
		mem_fail_at(n);
		rc = copier_take(&k.c);
		mem_fail_at(0);
		if (rc)
			assert_int_equal(rc, -ENOMEM);
		else
			copier_leave(&k.c);
		rig_copy_end(&k);
	}
	uint64_t allocs = mem_thread_allocs();
	store(&x, true);
	assert_int_equal(mem_thread_allocs(), allocs); /* from the pool */
	rig_engine_end(&x);
	rig_close(&R, true);
}

/* Other threads take and leave while this one copies. */
static void *take_and_leave(void *arg)
{
	struct rig_copy *k = arg;

	for (uint32_t i = 0; i < 2000; i++) {
		ok(copier_take(&k->c));
		assert_int_equal(((struct job *)k->c.inner)->nchunks, 4);
		copier_leave(&k->c);
	}
	return NULL;
}

static void threads_that_submit(void **state)
{
	struct rig_engine x;
	struct rig_copy k[2];
	pthread_t t[2];

	(void)state;
	rig_open(&R, GPU_STAGED, 0, true);
	engine(&x);
	for (uint32_t i = 0; i < 2; i++) {
		rig_copy(&k[i], &x, true, 4, RIG_SCATTERED, &seed);
		rig_slots(&k[i], R.arena + (i + 4) * RIG_SLICE, 0);
		assert_int_equal(pthread_create(&t[i], NULL, take_and_leave, &k[i]), 0);
	}
	for (uint32_t i = 0; i < 10; i++) {
		json_t *status = copier_status(R.copier);

		store(&x, true);
		assert_non_null(json_object_get(status, "shapes"));
		json_decref(status);
	}
	for (uint32_t i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		rig_copy_end(&k[i]);
	}
	rig_engine_end(&x);
	rig_close(&R, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_fails),    cmocka_unit_test(refused_batches),
		cmocka_unit_test(broken_context),      cmocka_unit_test(no_bounce_buffer),
		cmocka_unit_test(no_memory_for_a_job), cmocka_unit_test(threads_that_submit),
	};

	return cmocka_run_group_tests(tests, rig_machine, rig_no_machine);
}
