/* All of the door on the test driver: an engine in another process shares its KV, its events and its timelines, is copied from and to, is
 * killed, and leaves nothing.
 */
#include "tests/unit/transport/cuda/engine_rig.h"

/* ---- tests --------------------------------------------------------------------------------------------------------------------------- */

static void events_of_64_bytes(void **state)
{
	struct gpu_door *d = door(GPU_AUTO);
	struct child c = start_engine();
	struct served s;
	struct answer e;
	struct job j;

	(void)state;
	must_serve(d, &c, &s);
	tell(&c, (struct told){.order = FILL, .value = 0x5a});
	/* a store waits for the engine's stream */
	control("stick gpu=0 pid=%d", c.pid);
	e = tell(&c, (struct told){.order = MAKE_EVENT});
	assert_int_equal(submit(&s, &j, true, e.handle, GPU_EVENT), 0);
	usleep(30000);
	assert_int_equal(atomic_load(&j.submitted), 0);
	control("release gpu=0");
	wait_for(&j.done);
	assert_int_equal(atomic_load(&j.rc), 0);
	assert_true(all_are(0x5a));
	/* and the reply's event covers a retrieve: whoever waits for it finds the bytes */
	memset(READ, 0x77, CHUNKS * OBJECT);
	control("slow gpu=0 latency_us=20000 pid=%d", getpid());
	e = tell(&c, (struct told){.order = MAKE_EVENT});
	assert_int_equal(submit(&s, &j, false, e.handle, GPU_EVENT), 0);
	wait_for(&j.submitted);
	assert_int_equal(j.reply_bytes, GPU_EVENT);
	{
		struct told t = {.order = AWAIT, .n = GPU_EVENT};

		memcpy(t.handle, j.reply, GPU_EVENT);
		tell(&c, t);
	}
	assert_int_equal(tell(&c, (struct told){.order = PEEK, .at = last_byte()}).value, 0x77);
	control("slow gpu=0");
	wait_for(&j.done);
	{
		struct told t = {.order = AWAIT, .n = gpu_engine_idle_event(s.engine, GPU_EVENT, t.handle)};

		assert_int_equal(t.n, GPU_EVENT);
		tell(&c, t);
	}
	leave(&s);
	gpu_door_close(d, 1000);
	nothing_left();
	stop_engine(&c, 0);
}

static void timeline_handle(uint8_t out[GPU_TIMELINE], const uint8_t memory[64], uint64_t offset, uint64_t sequence)
{
	out[0] = 1;
	memcpy(out + 1, memory, 64);
	for (int i = 0; i < 8; i++) {
		out[65 + i] = (uint8_t)(offset >> (56 - 8 * i));
		out[73 + i] = (uint8_t)(sequence >> (56 - 8 * i));
	}
}

static void timelines(void **state)
{
	struct gpu_door *d = door(GPU_AUTO);
	struct child c = start_engine();
	uint8_t handle[GPU_TIMELINE];
	struct served s;
	struct answer t;
	struct job j;

	(void)state;
	must_serve(d, &c, &s);
	t = tell(&c, (struct told){.order = MAKE_TIMELINE});
	tell(&c, (struct told){.order = FILL, .value = 0x21});
	for (uint32_t i = 1; i <= 20; i++) {
		struct told a = {.order = AWAIT, .n = GPU_TIMELINE};
		bool store = i % 2;

		memset(store ? arena : READ, store ? 0 : (int)i, CHUNKS * OBJECT);
		timeline_handle(handle, t.handle, 4095 * 8, i);
		assert_int_equal(submit(&s, &j, store, handle, GPU_TIMELINE), 0);
		if (i < 4) {
			usleep(5000);
			assert_int_equal(atomic_load(&j.submitted), 0);
		}
		tell(&c, (struct told){.order = WRITE, .at = 4095 * 8, .n = i});
		wait_for(&j.submitted);
		assert_int_equal(j.reply_bytes, GPU_TIMELINE);
		memcpy(a.handle, j.reply, GPU_TIMELINE);
		tell(&c, a);
		if (!store)
			assert_int_equal(tell(&c, (struct told){.order = PEEK, .at = last_byte()}).value, i);
		wait_for(&j.done);
		assert_int_equal(atomic_load(&j.rc), 0);
		if (store)
			assert_true(all_are(0x21));
	}
	timeline_handle(handle, t.handle, 4096 * 8, 1); /* not in it */
	assert_int_equal(submit(&s, &j, true, handle, GPU_TIMELINE), 0);
	wait_for(&j.done);
	assert_int_equal(atomic_load(&j.rc), -EINVAL);
	{
		struct told a = {.order = AWAIT, .n = gpu_engine_idle_event(s.engine, GPU_TIMELINE, a.handle)};

		assert_int_equal(a.n, GPU_TIMELINE);
		tell(&c, a);
	}
	leave(&s);
	gpu_door_close(d, 1000);
	nothing_left();
	stop_engine(&c, 0);
}

/* Killed with an event that never comes, and in the middle of copies: all is back within a second. */
static void killed(void **state)
{
	struct gpu_door *d = door(GPU_AUTO);
	struct job j[8];

	(void)state;
	for (int round = 0; round < 6; round++) {
		struct child c = start_engine();
		struct served s;
		struct answer e;

		must_serve(d, &c, &s);
		if (round % 2) {
			control("stick gpu=0 pid=%d", c.pid);
			e = tell(&c, (struct told){.order = MAKE_EVENT});
		} else {
			e = tell(&c, (struct told){.order = MAKE_EVENT});
			control("slow gpu=0 latency_us=3000 pid=%d", getpid());
		}
		for (uint32_t i = 0; i < 8; i++)
			assert_int_equal(submit(&s, &j[i], i % 2, e.handle, GPU_EVENT), 0);
		usleep(4000);
		stop_engine(&c, SIGKILL);
		gpu_engine_put(s.engine, went, &s);
		wait_gone(&s, 1000);
		for (uint32_t i = 0; i < 8; i++)
			assert_int_equal(atomic_load(&j[i].done), 1);
		control("release gpu=0");
		control("slow gpu=0");
		nothing_left();
	}
	gpu_door_close(d, 1000);
	nothing_left();
}

static void context_breaks(void **state)
{
	struct gpu_door *d = door(GPU_AUTO);
	struct child c = start_engine();
	struct served s;
	struct job j[6];
	uint32_t failed = 0;

	(void)state;
	log_set_level(LOG_LVL_ERROR + 1);
	must_serve(d, &c, &s);
	control("slow gpu=0 latency_us=5000 pid=%d", getpid());
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(submit(&s, &j[i], i % 2, NULL, 0), 0);
	wait_for(&j[0].submitted);
	control("fail cuEventQuery error=700 sticky=1 count=1 pid=%d", getpid());
	for (uint32_t i = 0; i < 6; i++) {
		wait_for(&j[i].done);
		failed += atomic_load(&j[i].rc) == -ENODEV;
	}
	assert_true(failed >= 1);
	assert_true(gpu_engine_lost(s.engine));
	control("slow gpu=0");
	control("clear");
	leave(&s);
	must_serve(d, &c, &s); /* the same engine again */
	assert_false(gpu_engine_lost(s.engine));
	tell(&c, (struct told){.order = FILL, .value = 0x42});
	assert_int_equal(submit(&s, &j[0], true, NULL, 0), 0);
	wait_for(&j[0].done);
	assert_int_equal(atomic_load(&j[0].rc), 0);
	assert_true(all_are(0x42));
	leave(&s);
	gpu_door_close(d, 1000);
	nothing_left();
	stop_engine(&c, 0);
}

/* Registered and let go, again and again. */
static void thousand_times(void **state)
{
	uint32_t scale = getenv("LMCA_SANITIZER") ? 10 : 1;
	struct gpu_door *d = door(GPU_DIRECT);
	struct child c = start_engine();
	uint64_t begin = clock_ms();
	struct served s;
	struct job j;

	(void)state;
	for (uint32_t i = 0; i < 1000 / scale; i++) {
		must_serve(d, &c, &s);
		if (i % 50 == 0) {
			struct answer e = tell(&c, (struct told){.order = MAKE_EVENT});

			assert_int_equal(submit(&s, &j, i % 100 == 0, e.handle, GPU_EVENT), 0);
		}
		leave(&s);
	}
	print_message("# %u engines came and went in %llu ms\n", 1000 / scale,
		      (unsigned long long)(clock_ms() - begin));
	nothing_left();
	gpu_door_close(d, 1000);
	stop_engine(&c, 0);
}

/* Each call of the driver fails once, from the registration to the last unmapping: no copy is told twice, nothing is left. */
static void every_call_fails(void **state)
{
	uint32_t refused = 0, failed = 0, through = 0, rounds = 0;
	struct child c = start_engine();

	(void)state;
	log_set_level(LOG_LVL_ERROR + 1);
	for (uint32_t n = 0; through < 60; n++, rounds++) {
		struct gpu_door *d = door(GPU_STAGED);
		struct answer e = tell(&c, (struct told){.order = MAKE_EVENT});
		struct served s;
		struct job j[2];
		bool ok = true;

		control("fail * error=2 after=%u count=1 pid=%d", n, getpid());
		if (serve(d, &c, &s, NULL)) {
			refused++;
			ok = false;
		} else {
			for (uint32_t i = 0; i < 2; i++)
				if (submit(&s, &j[i], i, e.handle, GPU_EVENT) == 0) {
					wait_for(&j[i].done);
					assert_int_equal(atomic_load(&j[i].done), 1);
					assert_int_equal(atomic_load(&j[i].submitted), 1);
					failed += atomic_load(&j[i].rc) != 0;
					ok &= atomic_load(&j[i].rc) == 0;
				}
			leave(&s);
		}
		gpu_door_close(d, 1000);
		control("clear");
		nothing_left();
		through = ok ? through + 1 : 0;
		if (n > 3000)
			fail_msg("it never comes to an end");
	}
	print_message("# %u rounds: %u engines refused, %u copies failed\n", rounds, refused, failed);
	assert_true(refused > 20 && failed > 5);
	stop_engine(&c, 0);
}

/* Our own streams stand still: the door closes in time and says what is left. It leaves what it must, so it is the last test. */
static void stuck(void **state)
{
	static struct gpu_door *left; /* what stays is still known, for leak checkers */
	static struct served s;
	struct gpu_door *d = left = door(GPU_DIRECT);
	struct child c = start_engine();
	uint64_t begin;
	struct job j;

	(void)state;
	must_serve(d, &c, &s);
	control("stick gpu=0 pid=%d", getpid());
	assert_int_equal(submit(&s, &j, true, NULL, 0), 0);
	wait_for(&j.submitted);
	gpu_engine_put(s.engine, NULL, NULL);
	begin = clock_ms();
	gpu_door_close(d, 200);
	assert_in_range(clock_ms() - begin, 190, 2000);
	assert_int_equal(atomic_load(&j.done), 0);
	stop_engine(&c, SIGKILL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(events_of_64_bytes),
		cmocka_unit_test(timelines),
		cmocka_unit_test(killed),
		cmocka_unit_test(context_breaks),
		cmocka_unit_test(thousand_times),
		cmocka_unit_test(every_call_fails),
		cmocka_unit_test(stuck),
	};

	if (argc == 1 && !strcmp(argv[0], "engine"))
		return engine_main();
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, machine, no_machine);
}
