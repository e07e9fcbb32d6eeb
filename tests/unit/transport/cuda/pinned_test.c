/* The arena's registration: slice by slice while it grows, in a context that stays, and gone before that goes. */
#include "tests/unit/transport/cuda/toy.h"

#define SLICE  4096u
#define SLICES 8u

static uint8_t arena[2][SLICE * SLICES];
static _Atomic uint64_t grown[2];

static uint64_t there(void *ctx, uint32_t index)
{
	(void)ctx;
	return atomic_load(&grown[index]);
}

static struct gpu_door *door(int gpus)
{
	static struct gpu_memory memory[2];
	struct gpu_conf conf = {.memory = memory, .nmemory = 2, .slice_bytes = SLICE};
	struct gpu_door *d = NULL;

	toy_begin(gpus);
	for (uint32_t i = 0; i < 2; i++) {
		atomic_store(&grown[i], 0);
		memory[i] = (struct gpu_memory){
			.base = arena[i], .bytes = sizeof arena[i] - i * 1000, .there = there, .index = i};
	}
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	memset(memory, 0, sizeof memory); /* it was copied */
	return d;
}

static uint64_t registered(struct gpu_door *d)
{
	uint64_t bytes, ns;

	pinned_count(d->pinned, &bytes, &ns);
	return bytes;
}

static void while_it_grows(void **state)
{
	struct gpu_door *d = door(1);
	struct pinned *p = d->pinned;

	(void)state;
	atomic_store(&grown[0], SLICE * 2);
	toy_sleep_ms(30);
	assert_int_equal(toy.registered, 0); /* no engine yet */
	assert_int_equal(toy.contexts, 0);
	pinned_begin(p, &d->gpu[0]);
	toy_until(registered(d) == SLICE * 2);
	assert_true(pinned_covers(p, arena[0], SLICE));
	assert_true(pinned_covers(p, arena[0] + SLICE, SLICE));
	assert_true(pinned_covers(p, arena[0] + 100, SLICE - 100));
	assert_false(pinned_covers(p, arena[0] + 100, SLICE)); /* from one slice into the next */
	assert_int_equal(pinned_run(p, arena[0] + 100), SLICE - 100);
	assert_int_equal(pinned_run(p, arena[0] + 2 * SLICE - 1), 1);
	assert_int_equal(pinned_run(p, arena[0] + 2 * SLICE), 0);
	assert_int_equal(pinned_run(p, arena[1]), 0);
	assert_int_equal(pinned_run(p, (const void *)((uintptr_t)arena - 1)), 0);
	assert_int_equal(pinned_run(p, (const void *)((uintptr_t)arena + sizeof arena)), 0);
	atomic_store(&grown[1], sizeof arena[1] - 1000);
	toy_until(registered(d) == SLICE * 2 + sizeof arena[1] - 1000);
	assert_int_equal(pinned_run(p, arena[1] + 7 * SLICE), SLICE - 1000); /* the last one is shorter */
	assert_false(pinned_covers(p, arena[1] + 7 * SLICE, SLICE));
	atomic_store(&grown[0], sizeof arena[0]);
	toy_until(registered(d) == sizeof arena[0] + sizeof arena[1] - 1000);
	assert_int_equal(toy.registered_bytes, registered(d));
	assert_int_equal(toy.registered, 2 * SLICES);
	pinned_end(p, &d->gpu[0]);
	toy_until(registered(d) == 0);
	assert_int_equal(pinned_run(p, arena[0]), 0);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

/* The door closes in the middle. */
static void closed_early(void **state)
{
	(void)state;
	for (int i = 0; i < 50; i++) {
		struct gpu_door *d = door(1);

		atomic_store(&grown[0], sizeof arena[0]);
		pinned_begin(d->pinned, &d->gpu[0]);
		if (i % 2)
			pinned_end(d->pinned, &d->gpu[0]);
		gpu_door_close(d, 0);
		toy_nothing_left();
	}
}

/* The context it is in stays while another GPU is in use, and is let go with the last engine of all. */
static void several_gpus(void **state)
{
	struct gpu_door *d = door(2);

	(void)state;
	atomic_store(&grown[0], sizeof arena[0]);
	atomic_store(&grown[1], sizeof arena[1]);
	pinned_begin(d->pinned, &d->gpu[1]);
	toy_until(registered(d) == sizeof arena[0] + sizeof arena[1] - 1000);
	pinned_begin(d->pinned, &d->gpu[0]);
	pinned_end(d->pinned, &d->gpu[1]);
	toy_sleep_ms(20);
	assert_true(pinned_covers(d->pinned, arena[0], SLICE));
	assert_int_equal(toy.contexts, 1);
	pinned_end(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == 0);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

/* What is not registered is not covered; the rest is. */
static void refused(void **state)
{
	struct gpu_door *d = door(1);
	json_t *s;

	(void)state;
	toy.register_fails = CUDA_ERROR_OUT_OF_MEMORY; /* after the first slice */
	atomic_store(&grown[0], sizeof arena[0]);
	log_set_level(LOG_LVL_ERROR);
	pinned_begin(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == SLICE);
	toy_sleep_ms(20);
	assert_true(pinned_covers(d->pinned, arena[0], SLICE));
	assert_int_equal(pinned_run(d->pinned, arena[0] + SLICE), 0);
	s = pinned_status(d->pinned);
	assert_true(json_is_true(json_object_get(json_array_get(json_object_get(s, "ranges"), 0), "failed")));
	json_decref(s);
	pinned_end(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == 0);
	/* the limit was raised: the next engine gets it */
	toy.register_fails = 0;
	pinned_begin(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == sizeof arena[0]);
	pinned_end(d->pinned, &d->gpu[0]);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

/* The context breaks: nothing counts as registered from that moment, and it is made anew in one that works. */
static void lost(void **state)
{
	struct gpu_door *d = door(2);

	(void)state;
	atomic_store(&grown[0], sizeof arena[0]);
	pinned_begin(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == sizeof arena[0]);
	pinned_begin(d->pinned, &d->gpu[1]);
	assert_true(pinned_covers(d->pinned, arena[0], SLICE));
	log_set_level(LOG_LVL_ERROR + 1);
	gpu_result(&d->gpu[0], CUDA_ERROR_LAUNCH_FAILED);
	assert_false(pinned_covers(d->pinned, arena[0], SLICE));
	pinned_end(d->pinned, &d->gpu[0]); /* its engine notices */
	toy_until(pinned_covers(d->pinned, arena[0] + sizeof arena[0] - SLICE, SLICE));
	assert_int_equal(toy.resets, 1);
	assert_int_equal(toy.contexts, 1);
	pinned_end(d->pinned, &d->gpu[1]);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

/* A copy on another GPU that began before keeps it registered until it ends. */
static void in_use_elsewhere(void **state)
{
	struct gpu_door *d = door(2);

	(void)state;
	atomic_store(&grown[0], sizeof arena[0]);
	pinned_begin(d->pinned, &d->gpu[0]);
	toy_until(registered(d) == sizeof arena[0]);
	pinned_begin(d->pinned, &d->gpu[1]);
	atomic_store(&d->gpu[1].oldest_ns, clock_ns());
	log_set_level(LOG_LVL_ERROR + 1);
	gpu_result(&d->gpu[0], CUDA_ERROR_LAUNCH_FAILED);
	pinned_end(d->pinned, &d->gpu[0]);
	toy_sleep_ms(50);
	assert_int_equal(toy.resets, 0);
	assert_false(pinned_covers(d->pinned, arena[0], SLICE));
	atomic_store(&d->gpu[1].oldest_ns, UINT64_MAX);
	toy_until(pinned_covers(d->pinned, arena[0], SLICE));
	assert_int_equal(toy.resets, 1);
	pinned_end(d->pinned, &d->gpu[1]);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

static void calls_fail(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 12; n++) {
		struct gpu_door *d = door(1);

		atomic_store(&grown[0], sizeof arena[0]);
		log_set_level(LOG_LVL_ERROR + 1);
		toy.calls = 0;
		toy.fail_at = n;
		pinned_begin(d->pinned, &d->gpu[0]);
		toy_sleep_ms(5);
		gpu_door_close(d, 0);
		toy_nothing_left();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(while_it_grows), cmocka_unit_test(closed_early), cmocka_unit_test(several_gpus),
		cmocka_unit_test(refused),        cmocka_unit_test(lost),         cmocka_unit_test(in_use_elsewhere),
		cmocka_unit_test(calls_fail),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
