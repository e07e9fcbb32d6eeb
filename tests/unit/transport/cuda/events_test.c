/* Events of both directions and both forms. */
#include "tests/unit/transport/cuda/toy.h"

struct fix {
	struct gpu_door *d;
	struct gpu *g;
	struct events *ev;
	CUstream s;
};

static void begin(struct fix *f)
{
	struct gpu_conf conf = {0};

	toy_begin(1);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &f->d, NULL), 0);
	f->g = &f->d->gpu[0];
	assert_int_equal(gpu_hold(f->g, NULL), 0);
	assert_int_equal(events_create(f->g, &f->ev, NULL), 0);
	assert_int_equal(toy_stream(&f->s, CU_STREAM_NON_BLOCKING, 0), 0);
}

static void end(struct fix *f)
{
	toy_stream_destroy(f->s);
	events_destroy(f->ev);
	gpu_release(f->g);
	assert_int_equal(atomic_load(&f->g->n.events), 0);
	gpu_door_close(f->d, 0);
	toy_nothing_left();
}

static CUevent event_of(const uint8_t *handle)
{
	CUevent e;

	memcpy(&e, handle, sizeof e);
	return e;
}

/* Every handle stays another event's until GPU_REPLIES later ones. */
static void replies(void **state)
{
	static uint8_t first[GPU_REPLIES][GPU_EVENT];
	uint8_t out[GPU_EVENT_MAX];
	struct fix f;
	uint32_t n;

	(void)state;
	begin(&f);
	for (uint32_t i = 0; i < GPU_REPLIES; i++) {
		assert_int_equal(events_record(f.ev, f.s, GPU_EVENT, first[i], &n), 0);
		assert_int_equal(n, GPU_EVENT);
		assert_int_equal(event_of(first[i])->recorded, 1);
		for (uint32_t k = i > 3 ? i - 3 : 0; k < i; k++)
			assert_memory_not_equal(first[i], first[k], GPU_EVENT);
	}
	assert_int_equal(toy.events, GPU_REPLIES + 1); /* and the idle one */
	assert_int_equal(events_record(f.ev, f.s, GPU_EVENT, out, &n), 0);
	assert_memory_equal(out, first[0], GPU_EVENT);
	assert_int_equal(event_of(out)->recorded, 2);
	end(&f);
}

/* An event that was not reached does not get a second meaning. */
static void not_reached(void **state)
{
	uint8_t out[GPU_EVENT_MAX];
	struct fix f;
	uint32_t n;

	(void)state;
	begin(&f);
	toy.stuck = true;
	for (uint32_t i = 0; i < GPU_REPLIES; i++)
		assert_int_equal(events_record(f.ev, f.s, GPU_EVENT, out, &n), 0);
	assert_int_equal(events_record(f.ev, f.s, GPU_EVENT, out, &n), -EBUSY);
	toy.stuck = false;
	assert_int_equal(events_record(f.ev, f.s, GPU_EVENT, out, &n), 0);
	end(&f);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static uint64_t slot_of(const uint8_t *handle)
{
	CUdeviceptr base;

	memcpy(&base, handle + 1, sizeof base); /* as toy_mem_handle writes it */
	return *(const uint64_t *)(uintptr_t)(base + be64(handle + 65));
}

static void our_timeline(void **state)
{
	uint8_t a[GPU_EVENT_MAX], b[GPU_EVENT_MAX], idle[GPU_EVENT_MAX];
	struct fix f;
	CUstream other = NULL;
	uint32_t n;

	(void)state;
	begin(&f);
	assert_int_equal(toy_stream(&other, CU_STREAM_NON_BLOCKING, 0), 0);
	assert_int_equal(events_idle(f.ev, GPU_TIMELINE, idle), GPU_TIMELINE);
	assert_true(slot_of(idle) >= be64(idle + 73));
	for (uint64_t i = 1; i <= 5000; i++) { /* more than there are slots */
		assert_int_equal(events_record(f.ev, f.s, GPU_TIMELINE, a, &n), 0);
		assert_int_equal(n, GPU_TIMELINE);
		assert_int_equal(a[0], 1);
		assert_int_equal(be64(a + 73), i);
		assert_int_equal(slot_of(a), i);
		assert_true(be64(a + 65) % 8 == 0 && be64(a + 65) < 4096 * 8);
	}
	/* another stream has an order of its own, so it has a slot of its own */
	assert_int_equal(events_record(f.ev, other, GPU_TIMELINE, b, &n), 0);
	assert_int_equal(be64(b + 73), 1);
	assert_true(be64(a + 65) != be64(b + 65) && be64(b + 65) != be64(idle + 65));
	assert_int_equal(slot_of(a), 5000);
	assert_memory_equal(a + 1, b + 1, 64);
	toy_stream_destroy(other);
	end(&f);
}

static void idle(void **state)
{
	uint8_t out[GPU_EVENT_MAX];
	struct fix f;

	(void)state;
	begin(&f);
	assert_int_equal(events_idle(f.ev, GPU_EVENT, out), GPU_EVENT);
	assert_int_equal(event_of(out)->recorded, 1);
	assert_int_equal(toy_event_query(event_of(out)), 0);
	end(&f);
}

static void of_clients(void **state)
{
	uint8_t handle[100] = {7};
	struct event_wait w;
	struct fix f;
	int before;

	(void)state;
	begin(&f);
	log_set_level(LOG_LVL_ERROR);
	before = toy.events;
	toy.client_pending = true;
	assert_int_equal(events_open(f.ev, slice_of(handle, GPU_EVENT), &w), 0);
	assert_int_equal(events_reached(f.ev, &w, 0), 0);
	toy.client_pending = false;
	assert_int_equal(events_reached(f.ev, &w, 0), 1);
	events_close(f.ev, &w);
	events_close(f.ev, &w);
	assert_int_equal(toy.events, before);
	/* forms that are none, and one that the driver refuses */
	for (uint32_t n = 0; n <= sizeof handle; n++)
		if (n != GPU_EVENT && n != GPU_TIMELINE)
			assert_int_equal(events_open(f.ev, slice_of(handle, n), &w), -EINVAL);
	toy.bad_event = true;
	assert_int_equal(events_open(f.ev, slice_of(handle, GPU_EVENT), &w), -EINVAL);
	events_close(f.ev, &w);
	assert_int_equal(toy.events, before);
	end(&f);
}

static void timeline_handle(uint8_t out[GPU_TIMELINE], uint8_t kind, uint64_t offset, uint64_t sequence)
{
	memset(out, kind, GPU_TIMELINE);
	out[0] = 1;
	for (int i = 0; i < 8; i++) {
		out[65 + i] = (uint8_t)(offset >> (56 - 8 * i));
		out[73 + i] = (uint8_t)(sequence >> (56 - 8 * i));
	}
}

static struct slice whole(const uint8_t *h)
{
	return slice_of(h, GPU_TIMELINE);
}

static void timelines_of_clients(void **state)
{
	uint8_t h[GPU_TIMELINE], h2[GPU_TIMELINE];
	struct event_wait w, w2;
	struct fix f;

	(void)state;
	begin(&f);
	timeline_handle(h, 1, 24, 1000);
	timeline_handle(h2, 1, 32, 5);
	assert_int_equal(events_open(f.ev, whole(h), &w), 0);
	assert_int_equal(events_open(f.ev, whole(h2), &w2), 0);
	assert_int_equal(toy.mapped, 1);
	assert_int_equal(events_reached(f.ev, &w, 0), 0);
	assert_int_equal(events_reached(f.ev, &w2, 1), 0);
	toy.slot[3] = 999;
	toy.slot[4] = 7;
	assert_int_equal(events_reached(f.ev, &w, 0), 0);
	assert_int_equal(events_reached(f.ev, &w2, 1), 1);
	toy.slot[3] = 1000;
	assert_int_equal(events_reached(f.ev, &w, 0), 1);
	events_close(f.ev, &w);
	events_close(f.ev, &w2);
	assert_int_equal(toy.mapped, 1); /* for the next one */
	end(&f);
}

static void bad_timelines(void **state)
{
	static const struct {
		uint8_t kind;
		uint64_t offset;
	} rows[] = {{1, 4},  {1, 4096 * 8}, {1, UINT64_MAX - 7}, {1, 1ull << 63},
		    {1, 64}, {2, 64},       {0xff, 0},           {1, 4095 * 8}};
	uint8_t h[GPU_TIMELINE];
	struct event_wait w;
	struct fix f;

	(void)state;
	begin(&f);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		timeline_handle(h, rows[i].kind, rows[i].offset, 1);
		assert_int_equal(events_open(f.ev, whole(h), &w), -EINVAL);
		events_close(f.ev, &w);
	}
	timeline_handle(h, 1, 0, 1);
	h[0] = 2;
	assert_int_equal(events_open(f.ev, whole(h), &w), -EINVAL);
	end(&f);
}

/* A client that names ever new memory does not make us map ever more, and cannot take away what somebody waits for. */
static void many_timelines(void **state)
{
	uint8_t h[GPU_TIMELINE];
	struct event_wait held, w;
	struct fix f;

	(void)state;
	begin(&f);
	timeline_handle(h, 1, 0, 77);
	assert_int_equal(events_open(f.ev, whole(h), &held), 0);
	for (uint8_t i = 3; i < 200; i++) {
		timeline_handle(h, i, 0, 0);
		assert_int_equal(events_open(f.ev, whole(h), &w), 0);
		assert_int_equal(events_reached(f.ev, &w, 1), 1);
		events_close(f.ev, &w);
		assert_true(toy.mapped <= 8);
	}
	toy.slot[0] = 77;
	assert_int_equal(events_reached(f.ev, &held, 0), 1);
	events_close(f.ev, &held);
	end(&f);
}

/* Every call of the driver fails once: an error comes back, or all is well, and nothing stays. */
static void calls_fail(void **state)
{
	uint8_t h[GPU_TIMELINE], out[GPU_EVENT_MAX], event[GPU_EVENT] = {1};
	uint32_t failures = 0, n;
	bool over = false;

	(void)state;
	timeline_handle(h, 1, 8, 0);
	for (uint64_t at = 1; !over; at++) {
		struct gpu_conf conf = {0};
		struct event_wait w = {0};
		struct fix f = {0};
		int rc;

		toy_begin(1);
		assert_int_equal(gpu_door_open_on(&toy_table, &conf, &f.d, NULL), 0);
		f.g = &f.d->gpu[0];
		assert_int_equal(gpu_hold(f.g, NULL), 0);
		log_set_level(LOG_LVL_ERROR);
		toy.calls = 0;
		toy.fail_at = at;
		rc = events_create(f.g, &f.ev, NULL);
		if (!rc) {
			rc = events_record(f.ev, NULL, GPU_EVENT, out, &n);
			rc = rc ? rc : events_record(f.ev, NULL, GPU_TIMELINE, out, &n);
			rc = rc ? rc : events_open(f.ev, whole(h), &w);
			if (!rc)
				rc = events_reached(f.ev, &w, 0) == 1 ? 0 : -EIO;
			events_close(f.ev, &w);
			rc = rc ? rc : events_open(f.ev, slice_of(event, GPU_EVENT), &w);
			if (!rc)
				rc = events_reached(f.ev, &w, 0) == 1 ? 0 : -EIO;
			events_close(f.ev, &w);
			over = toy.calls < at;
			events_destroy(f.ev);
		}
		failures += rc != 0;
		assert_int_equal(rc == 0, over);
		gpu_release(f.g);
		gpu_door_close(f.d, 0);
		toy_nothing_left();
	}
	assert_true(failures >= 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replies),       cmocka_unit_test(not_reached),
		cmocka_unit_test(our_timeline),  cmocka_unit_test(idle),
		cmocka_unit_test(of_clients),    cmocka_unit_test(timelines_of_clients),
		cmocka_unit_test(bad_timelines), cmocka_unit_test(many_timelines),
		cmocka_unit_test(calls_fail),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
