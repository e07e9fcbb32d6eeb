/* The primary context of a GPU: made by the first user, given back by the last, and what happens when it breaks. */
#include "tests/unit/transport/cuda/toy.h"

static struct gpu_door *door(int gpus)
{
	struct gpu_conf conf = {0};
	struct gpu_door *d = NULL;

	toy_begin(gpus);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	return d;
}

static void first_and_last(void **state)
{
	struct gpu_door *d = door(2);
	struct gpu *g = &d->gpu[1];

	(void)state;
	assert_int_equal(gpu_enter(g), -ENODEV);
	assert_int_equal(gpu_hold(g, NULL), 0);
	assert_int_equal(gpu_hold(g, NULL), 0);
	assert_int_equal(toy.contexts, 1);
	assert_int_equal(gpu_enter(g), 0);
	gpu_release(g);
	assert_int_equal(toy.contexts, 1);
	gpu_release(g);
	assert_int_equal(toy.contexts, 0);
	assert_int_equal(toy.resets, 0);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

static void *hold_it(void *arg)
{
	struct gpu *g = arg;

	return gpu_hold(g, NULL) ? NULL : g;
}

static void a_broken_one(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu *g = &d->gpu[0];
	struct gpu_stats s;
	pthread_t waiting;
	void *held = NULL;

	(void)state;
	assert_int_equal(gpu_hold(g, NULL), 0);
	assert_int_equal(gpu_result(g, CUDA_ERROR_INVALID_VALUE), -EINVAL);
	assert_int_equal(gpu_result(g, CUDA_ERROR_NOT_READY), -EAGAIN);
	assert_int_equal(gpu_result(g, CUDA_ERROR_UNKNOWN), -EIO); /* the context answers: it is another trouble */
	assert_false(atomic_load(&g->lost));
	toy.broken = true;
	log_set_level(LOG_LVL_ERROR + 1);
	assert_int_equal(gpu_result(g, CUDA_ERROR_UNKNOWN), -ENODEV);
	assert_int_equal(gpu_result(g, CUDA_ERROR_ILLEGAL_ADDRESS), -ENODEV);
	gpu_stats(d, 0, &s);
	assert_int_equal(s.lost, 1);
	assert_int_equal(gpu_enter(g), -ENODEV);
	/* a registration waits for those who still have it */
	assert_int_equal(pthread_create(&waiting, NULL, hold_it, g), 0);
	toy_sleep_ms(50);
	assert_int_equal(toy.resets, 0);
	gpu_release(g);
	pthread_join(waiting, &held);
	assert_ptr_equal(held, g);
	assert_int_equal(toy.resets, 1);
	assert_int_equal(gpu_enter(g), 0);
	assert_int_equal(toy.contexts, 1);
	gpu_release(g);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

static void nobody_lets_go(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu *g = &d->gpu[0];
	struct why why = {0};
	uint64_t begin = clock_ms();

	(void)state;
	assert_int_equal(gpu_hold(g, NULL), 0);
	log_set_level(LOG_LVL_ERROR + 1);
	gpu_result(g, CUDA_ERROR_LAUNCH_FAILED);
	assert_int_equal(gpu_hold(g, &why), -ENODEV);
	assert_non_null(strstr(why.text, "broke"));
	assert_true(clock_ms() - begin < 4000);
	gpu_release(g);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

static void making_it_fails(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 3; n++) {
		struct gpu_door *d = door(1);
		struct why why = {0};
		int rc;

		toy.calls = 0;
		toy.fail_at = n;
		rc = gpu_hold(&d->gpu[0], &why);
		assert_int_equal(rc, n < 3 ? -ENOMEM : 0);
		if (rc) {
			assert_non_null(strstr(why.text, "CUDA_ERROR_OUT_OF_MEMORY"));
			assert_int_equal(gpu_hold(&d->gpu[0], NULL), 0);
		}
		gpu_release(&d->gpu[0]);
		gpu_door_close(d, 0);
		toy_nothing_left();
	}
}

/* Many threads hold and release: never two contexts, none left. */
static void *churn(void *arg)
{
	struct gpu *g = arg;

	for (int i = 0; i < 2000; i++) {
		if (gpu_hold(g, NULL))
			return NULL;
		if (gpu_enter(g))
			return NULL;
		gpu_release(g);
	}
	return g;
}

static void at_once(void **state)
{
	struct gpu_door *d = door(1);
	pthread_t t[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, churn, &d->gpu[0]), 0);
	for (int i = 0; i < 4; i++) {
		void *ok = NULL;

		pthread_join(t[i], &ok);
		assert_non_null(ok);
	}
	gpu_door_close(d, 0);
	toy_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_and_last),  cmocka_unit_test(a_broken_one), cmocka_unit_test(nobody_lets_go),
		cmocka_unit_test(making_it_fails), cmocka_unit_test(at_once),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
