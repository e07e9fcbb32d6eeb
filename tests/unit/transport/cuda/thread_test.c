/* A GPU's thread: engines come and go, copies are handed over, started when their event has happened, and end exactly once. */
#include "tests/unit/transport/cuda/toy.h"

#include <stdatomic.h>
#include <time.h>

#define COPIES 64u

static uint8_t memory[TOY_OBJECT];
static uint8_t *const slots[3] = {memory, NULL, memory};
static const uint8_t client_event[GPU_EVENT] = {3};

struct job {
	struct gpu_copy c;
	_Atomic int submitted, done, rc, submit_rc;
	_Atomic uint64_t done_ns;
	_Atomic uint32_t event_bytes;
	_Atomic int order;
};

static _Atomic int order;

static void submitted(struct gpu_copy *c, int rc, const uint8_t *event, uint32_t bytes)
{
	struct job *j = c->owner;

	assert_true(rc ? !event : event != NULL);
	atomic_store(&j->submit_rc, rc);
	atomic_store(&j->event_bytes, bytes);
	atomic_fetch_add(&j->submitted, 1);
}

static void done(struct gpu_copy *c, int rc)
{
	struct job *j = c->owner;

	atomic_store(&j->rc, rc);
	atomic_store(&j->order, atomic_fetch_add(&order, 1));
	atomic_store(&j->done_ns, clock_ns());
	atomic_fetch_add(&j->done, 1);
}

static int submit(struct gpu_engine *e, struct job *j, bool store, bool with_event)
{
	memset(j, 0, sizeof *j);
	j->c = (struct gpu_copy){.engine = e,
				 .store = store,
				 .nchunks = 3,
				 .slots = slots,
				 .submitted = submitted,
				 .done = done,
				 .owner = j};
	if (with_event)
		j->c.event = slice_of(client_event, sizeof client_event);
	return gpu_submit(&j->c);
}

static struct gpu_door *door(int gpus)
{
	struct gpu_conf conf = {0};
	struct gpu_door *d = NULL;

	toy_begin(gpus);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	return d;
}

static struct gpu_engine *engine(struct gpu_door *d, uint32_t gpu)
{
	struct gpu_view *v[2] = {toy_view(d, gpu), toy_view(d, gpu)};
	struct gpu_engine *e = NULL;
	struct why why = {0};

	if (gpu_engine_create(d, NULL, v, 2, &e, &why))
		fail_msg("%s", why.text);
	return e;
}

static void gone(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

static void copies(void **state)
{
	struct gpu_door *d = door(2);
	struct gpu_engine *a = engine(d, 0), *b = engine(d, 1);
	static struct job j[2][COPIES];
	struct gpu_stats s;
	_Atomic int went = 0;

	(void)state;
	assert_int_equal(gpu_engine_gpu(b), 1);
	for (uint32_t i = 0; i < COPIES; i++) {
		assert_int_equal(submit(a, &j[0][i], true, i % 2), 0);
		assert_int_equal(submit(b, &j[1][i], i % 3 == 0, false), 0);
	}
	gpu_engine_put(a, gone, &went); /* goes with its last copy */
	gpu_engine_put(b, gone, &went);
	toy_until(atomic_load(&went) == 2);
	for (uint32_t i = 0; i < COPIES; i++)
		for (uint32_t k = 0; k < 2; k++) {
			assert_int_equal(atomic_load(&j[k][i].submitted), 1);
			assert_int_equal(atomic_load(&j[k][i].submit_rc), 0);
			assert_int_equal(atomic_load(&j[k][i].event_bytes), GPU_EVENT);
			assert_int_equal(atomic_load(&j[k][i].done), 1);
			assert_int_equal(atomic_load(&j[k][i].rc), 0);
			assert_true(j[k][i].c.started_ns >= j[k][i].c.submitted_ns);
		}
	for (uint32_t i = 1; i < COPIES; i++) /* one engine, one direction: in order */
		assert_true(atomic_load(&j[0][i].order) > atomic_load(&j[0][i - 1].order));
	gpu_stats(d, 0, &s);
	assert_int_equal(s.copies[TO_SLOTS], COPIES);
	assert_int_equal(s.bytes[TO_SLOTS], COPIES * 2 * TOY_OBJECT);
	assert_int_equal(s.failed + s.waiting + s.in_flight + s.engines + s.events, 0);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* Tensors of two GPUs are no engine, nor are none. */
static void no_engine(void **state)
{
	struct gpu_door *d = door(2);
	struct gpu_view *v[2] = {toy_view(d, 0), toy_view(d, 1)};
	struct gpu_engine *e = NULL;
	struct why why = {0};

	(void)state;
	assert_int_equal(gpu_engine_create(d, NULL, v, 2, &e, &why), -EXDEV);
	assert_int_equal(gpu_engine_create(d, NULL, v, 0, &e, &why), -EINVAL);
	gpu_engine_put(NULL, NULL, NULL);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

/* Nothing is queued before the client's event; other engines go on; what waits is bounded. */
static void waits_for_the_event(void **state)
{
	static struct job j[GPU_QUEUE], other;
	struct gpu_door *d = door(1);
	struct gpu_engine *a = engine(d, 0), *b = engine(d, 0);
	struct gpu_stats s;
	int started;

	(void)state;
	toy_set(&toy.client_pending, true);
	for (uint32_t i = 0; i < GPU_QUEUE - 1; i++)
		assert_int_equal(submit(a, &j[i], true, true), 0);
	assert_int_equal(submit(b, &other, true, false), 0);
	toy_until(atomic_load(&other.done) == 1);
	gpu_stats(d, 0, &s);
	assert_int_equal(s.waiting, GPU_QUEUE - 1);
	LOCKED(started = toy.started);
	assert_int_equal(started, 1);
	assert_int_equal(submit(a, &j[GPU_QUEUE - 1], true, true), 0);
	assert_int_equal(submit(b, &other, true, false), -EAGAIN);
	assert_int_equal(atomic_load(&other.done), 0);
	toy_set(&toy.client_pending, false);
	for (uint32_t i = 0; i < GPU_QUEUE; i++)
		toy_until(atomic_load(&j[i].done) == 1 && atomic_load(&j[i].rc) == 0);
	gpu_engine_put(a, NULL, NULL);
	gpu_engine_put(b, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* An engine is killed: its event never comes. All is back within a second, and nothing was queued. */
static void killed(void **state)
{
	static struct job j[20];
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0);
	_Atomic int went = 0;
	uint64_t begin;

	(void)state;
	toy_set(&toy.client_pending, true);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(submit(e, &j[i], i % 2, true), 0);
	toy_sleep_ms(10);
	begin = clock_ms();
	gpu_engine_put(e, gone, &went);
	toy_until(atomic_load(&went) == 1);
	assert_true(clock_ms() - begin < 1000);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(atomic_load(&j[i].submitted), 1);
		assert_int_equal(atomic_load(&j[i].submit_rc), -ECANCELED);
		assert_int_equal(atomic_load(&j[i].done), 1);
		assert_int_equal(atomic_load(&j[i].rc), -ECANCELED);
	}
	assert_int_equal(toy.started, 0);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

static void bad_event(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0);
	struct job j;

	(void)state;
	log_set_level(LOG_LVL_ERROR);
	toy.bad_event = true;
	assert_int_equal(submit(e, &j, true, true), 0);
	toy_until(atomic_load(&j.done) == 1);
	assert_int_equal(atomic_load(&j.rc), -EINVAL);
	assert_int_equal(atomic_load(&j.submit_rc), -EINVAL);
	assert_int_equal(submit(e, &j, true, false), 0);
	toy_until(atomic_load(&j.done) == 1);
	assert_int_equal(atomic_load(&j.rc), 0);
	gpu_engine_put(e, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* The context breaks in flight: all fails, the engine is lost; once it is gone a registration works again. */
static void breaks(void **state)
{
	static struct job j[40];
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0), *again;
	_Atomic int went = 0;

	(void)state;
	log_set_level(LOG_LVL_ERROR + 1);
	toy_set(&toy.stuck, true);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(submit(e, &j[i], i % 2, false), 0);
	toy_sleep_ms(5);
	assert_false(gpu_engine_lost(e));
	toy_set(&toy.broken, true);
	for (uint32_t i = 0; i < 40; i++)
		toy_until(atomic_load(&j[i].done) == 1);
	for (uint32_t i = 0; i < 40; i++) {
		assert_int_equal(atomic_load(&j[i].rc), -ENODEV);
		assert_int_equal(atomic_load(&j[i].submitted), 1);
	}
	assert_true(gpu_engine_lost(e));
	assert_int_equal(submit(e, &j[0], true, false), -ENODEV);
	gpu_engine_put(e, gone, &went);
	toy_set(&toy.stuck, false);
	toy_until(atomic_load(&went) == 1);
	toy_until(toy.resets == 1);
	again = engine(d, 0);
	assert_false(gpu_engine_lost(again));
	assert_int_equal(submit(again, &j[0], true, true), 0);
	toy_until(atomic_load(&j[0].done) == 1);
	assert_int_equal(atomic_load(&j[0].rc), 0);
	gpu_engine_put(again, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* A stream never moves: closing comes back in time and says what is left. What the device may still write to is left alone. */
static void stuck_for_ever(void **state)
{
	static struct gpu_door *left; /* what stays is still known, for leak checkers */
	static struct job j[3];
	struct gpu_door *d = left = door(1);
	struct gpu_engine *e = engine(d, 0);
	uint64_t begin;

	(void)state;
	toy_set(&toy.stuck, true);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(submit(e, &j[i], true, false), 0);
	for (uint32_t i = 0; i < 3; i++)
		toy_until(atomic_load(&j[i].submitted) == 1);
	gpu_engine_put(e, NULL, NULL);
	begin = clock_ms();
	log_set_level(LOG_LVL_ERROR);
	gpu_door_close(d, 100);
	assert_in_range(clock_ms() - begin, 95, 600);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(atomic_load(&j[i].done), 0);
	assert_int_equal(toy.contexts, 1);
	assert_true(toy.streams > 0);
}

/* What waits for an event is failed when the door closes; what is under way is waited for. */
static void closing(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0);
	struct job flying, waiting;

	(void)state;
	toy_set(&toy.stuck, true);
	toy_set(&toy.client_pending, true);
	assert_int_equal(submit(e, &flying, true, false), 0);
	assert_int_equal(submit(e, &waiting, false, true), 0);
	toy_until(atomic_load(&flying.submitted) == 1);
	gpu_engine_put(e, NULL, NULL);
	toy_set(&toy.stuck, false);
	gpu_door_close(d, 2000);
	assert_int_equal(atomic_load(&flying.done), 1);
	assert_int_equal(atomic_load(&flying.rc), 0);
	assert_int_equal(atomic_load(&waiting.done), 1);
	assert_int_equal(atomic_load(&waiting.rc), -ECANCELED);
	toy_nothing_left();
}

static void thousand_engines(void **state)
{
	struct gpu_door *d = door(1);
	_Atomic int went = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		struct gpu_engine *e = engine(d, 0);
		struct job j;

		assert_int_equal(submit(e, &j, true, i % 2), 0);
		gpu_engine_put(e, gone, &went);
		toy_until(atomic_load(&went) == i + 1); /* and so `j` is not used any more */
		assert_int_equal(atomic_load(&j.rc), 0);
	}
	toy_until(toy.contexts == 0);
	toy_nothing_left(); /* before the door closes */
	gpu_door_close(d, 0);
}

/* Every call fails once. Each copy that was taken ends once; nothing stays. */
static void calls_fail(void **state)
{
	uint32_t failed = 0, refused = 0;
	bool over = false;

	(void)state;
	for (uint64_t n = 1; !over; n++) {
		struct gpu_door *d = door(1);
		struct gpu_view *v = toy_view(d, 0);
		struct gpu_engine *e = NULL;
		struct job j[4];

		log_set_level(LOG_LVL_ERROR + 1);
		LOCKED(toy.calls = 0; toy.fail_at = n);
		if (gpu_engine_create(d, NULL, &v, 1, &e, NULL)) {
			refused++;
		} else {
			for (uint32_t i = 0; i < 4; i++)
				assert_int_equal(submit(e, &j[i], i % 2, i > 1), 0);
			for (uint32_t i = 0; i < 4; i++) {
				toy_until(atomic_load(&j[i].done) == 1);
				assert_int_equal(atomic_load(&j[i].submitted), 1);
				failed += atomic_load(&j[i].rc) != 0;
			}
			LOCKED(over = toy.calls < n);
			gpu_engine_put(e, NULL, NULL);
		}
		gpu_door_close(d, 1000);
		toy_nothing_left();
	}
	assert_true(refused >= 6);
	assert_true(failed >= 10);
}

/* The same with errors that break the context. */
static void calls_break(void **state)
{
	bool over = false;

	(void)state;
	for (uint64_t n = 1; !over; n++) {
		struct gpu_door *d = door(1);
		struct gpu_view *v = toy_view(d, 0);
		struct gpu_engine *e = NULL;
		struct job j[4];
		uint32_t taken = 0;

		log_set_level(LOG_LVL_ERROR + 1);
		LOCKED(toy.calls = 0; toy.fail_at = n; toy.fail_with = CUDA_ERROR_ILLEGAL_ADDRESS);
		if (!gpu_engine_create(d, NULL, &v, 1, &e, NULL)) {
			for (uint32_t i = 0; i < 4; i++)
				if (submit(e, &j[taken], i % 2, i > 1) == 0)
					taken++;
			for (uint32_t i = 0; i < taken; i++)
				toy_until(atomic_load(&j[i].done) == 1);
			LOCKED(over = toy.calls < n);
			gpu_engine_put(e, NULL, NULL);
		}
		gpu_door_close(d, 1000);
		toy_nothing_left();
	}
}

static void no_memory(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu_engine *e = NULL;
	struct job j;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		struct gpu_view *v = toy_view(d, 0);
		struct why why = {0};

		mem_fail_at(n);
		assert_int_equal(gpu_engine_create(d, NULL, &v, 1, &e, &why), -ENOMEM);
		mem_fail_at(0);
	}
	e = engine(d, 0);
	mem_fail_at(1);
	assert_int_equal(submit(e, &j, true, false), -ENOMEM);
	mem_fail_at(0);
	gpu_engine_put(e, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* Several threads hand over copies while engines come and go. */
struct churn {
	struct gpu_door *d;
	uint32_t gpu;
	int bad;
};

static void *churn(void *arg)
{
	struct churn *c = arg;

	for (int i = 0; i < 60; i++) {
		struct gpu_view *v = toy_view(c->d, c->gpu);
		struct gpu_engine *e = NULL;
		_Atomic int went = 0;
		struct job j[8];

		if (!v || gpu_engine_create(c->d, NULL, &v, 1, &e, NULL)) {
			c->bad++;
			continue;
		}
		for (uint32_t k = 0; k < 8; k++)
			c->bad += submit(e, &j[k], k % 2, k % 3) != 0;
		gpu_engine_put(e, gone, &went);
		while (!atomic_load(&went))
			toy_sleep_ms(1);
		for (uint32_t k = 0; k < 8; k++)
			c->bad += atomic_load(&j[k].done) != 1 || atomic_load(&j[k].rc) != 0;
	}
	return NULL;
}

static void at_once(void **state)
{
	struct gpu_door *d = door(2);
	struct churn c[4];
	pthread_t t[4];

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		c[i] = (struct churn){d, i % 2, 0};
		assert_int_equal(pthread_create(&t[i], NULL, churn, &c[i]), 0);
	}
	for (uint32_t i = 0; i < 20; i++) {
		json_decref(gpu_status(d));
		toy_sleep_ms(1);
	}
	for (uint32_t i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(c[i].bad, 0);
	}
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* ---- what waiting costs ------------------------------------------------------------------------------------------------------- */

static uint64_t thread_cpu_ns(struct gpu_door *d)
{
	struct timespec t;
	clockid_t clock;

	assert_int_equal(pthread_getcpuclockid(d->gpu[0].thread, &clock), 0);
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void idle_costs_nothing(void **state)
{
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0);
	uint64_t calls, cpu;
	struct job j;

	(void)state;
	assert_int_equal(submit(e, &j, true, true), 0);
	toy_until(atomic_load(&j.done) == 1);
	toy_sleep_ms(20);
	LOCKED(calls = toy.calls);
	cpu = thread_cpu_ns(d);
	toy_sleep_ms(200);
	LOCKED(assert_int_equal(toy.calls, calls));
	assert_int_equal(thread_cpu_ns(d), cpu);
	gpu_engine_put(e, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

/* How late the end of a copy is noticed, for copies of some lengths, and what looking costs meanwhile. */
static void busy_costs_little(void **state)
{
	static const uint32_t us[] = {50, 200, 1000, 10000, 100000};
	struct gpu_door *d = door(1);
	struct gpu_engine *e = engine(d, 0);

	(void)state;
	for (uint32_t i = 0; i < sizeof us / sizeof us[0]; i++) {
		uint64_t late = 0, cpu = thread_cpu_ns(d), busy = 0, best = UINT64_MAX;
		uint32_t rounds = us[i] > 20000 ? 3 : 30;

		for (uint32_t k = 0; k < rounds; k++) {
			struct job j;
			uint64_t end;

			toy_set(&toy.stuck, true);
			assert_int_equal(submit(e, &j, true, false), 0);
			while (!atomic_load(&j.submitted))
				sched_yield();
			usleep(us[i]);
			end = clock_ns();
			toy_set(&toy.stuck, false);
			toy_until(atomic_load(&j.done) == 1);
			late += atomic_load(&j.done_ns) - end;
			if (atomic_load(&j.done_ns) - end < best)
				best = atomic_load(&j.done_ns) - end;
			busy += atomic_load(&j.done_ns) - j.c.started_ns;
		}
		cpu = thread_cpu_ns(d) - cpu;
		print_message("# copies of %6u us: noticed after %3llu us (mean; best %llu), %.1f%% of a CPU\n", us[i],
			      (unsigned long long)(late / rounds / 1000), (unsigned long long)(best / 1000),
			      100.0 * (double)cpu / (double)busy);
		assert_true(best < 2000000);
	}
	gpu_engine_put(e, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies),
		cmocka_unit_test(no_engine),
		cmocka_unit_test(waits_for_the_event),
		cmocka_unit_test(killed),
		cmocka_unit_test(bad_event),
		cmocka_unit_test(breaks),
		cmocka_unit_test(closing),
		cmocka_unit_test(thousand_engines),
		cmocka_unit_test(calls_fail),
		cmocka_unit_test(calls_break),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(at_once),
		cmocka_unit_test(idle_costs_nothing),
		cmocka_unit_test(busy_costs_little),
		cmocka_unit_test(stuck_for_ever), /* last: it leaves what it must */
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
