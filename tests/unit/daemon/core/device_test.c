/* GPU engines on a door of fake GPUs: requests are answered when their copies are queued, objects are there when they are done, and
 * whatever goes wrong in between gives everything back.
 */
#include "tests/unit/daemon/core/device_fixture.h"

static void test_01_what_was_stored_comes_back(void **state)
{
	static const size_t forms[] = {GPU_EVENT, GPU_TIMELINE};
	struct gx g;
	(void)state;

	gx_open(&g);
	for (int i = 0; i < 2; i++) {
		const char *id = i ? "b" : "a";
		struct wire_reply r;

		g.event_bytes = forms[i];
		pages_fill(&g.pages, (uint8_t)(1 + i));
		r = gx_copy(&g, WIRE_STORE, id, MAX_CHUNKS);
		assert_true(r.flag && has_event(r, 'e', forms[i]));
		UNTIL(stats(&g).readable == MAX_CHUNKS * (i + 1u));
		pages_fill(&g.pages, 99);
		assert_int_equal(gx_lookup(&g, id, MAX_CHUNKS), MAX_CHUNKS);
		r = gx_copy(&g, WIRE_RETRIEVE, id, MAX_CHUNKS);
		assert_true(r.flag && has_event(r, 'e', forms[i]));
		UNTIL(stats(&g).locked == 0);
		assert_true(pages_are(&g.pages, (uint8_t)(1 + i)));
		r = gx_copy(&g, WIRE_STORE, id, MAX_CHUNKS); /* nothing new: nothing to copy */
		assert_true(r.flag && has_event(r, 'i', forms[i]));
		r = gx_copy(&g, WIRE_RETRIEVE, id, MAX_CHUNKS); /* nobody looked up */
		assert_true(!r.flag && has_event(r, 'i', forms[i]));
	}
	gx_close(&g);
}

static void test_02_the_reply_does_not_wait(void **state)
{
	struct wire_req ping = gx_plain(WIRE_PING, INSTANCE);
	struct wire_reply r;
	struct gx g;
	(void)state;

	gx_open(&g);
	FAKE_SET(hold, true);
	for (int i = 0; i < 4; i++) {
		char id[8];

		snprintf(id, sizeof(id), "r%d", i);
		r = gx_copy(&g, WIRE_STORE, id, 8);
		assert_true(r.flag && has_event(r, 'e', GPU_EVENT));
		assert_int_equal(gx_lookup(&g, id, 8), 0); /* not yet readable */
		assert_true(gx_call(&g, &ping).flag);
	}
	assert_int_equal(stats(&g).reserved, 32);
	assert_int_equal(stats(&g).readable, 0);
	FAKE_SET(hold, false);
	UNTIL(stats(&g).readable == 32);
	assert_int_equal(gx_lookup(&g, "r3", 8), 8);
	gx_close(&g);
}

/* A GPU whose thread does not even queue: its engine waits, all others do not. */
static void test_03_a_gpu_that_is_stuck(void **state)
{
	struct wire_req req, ping = gx_plain(WIRE_PING, INSTANCE);
	struct gx g;
	uint64_t uid;
	(void)state;

	gx_open(&g);
	engine_open(&g.f.mem, &(struct engine_shape){LAYERS, BLOCKS, BLOCK, HEADS, HEAD_SIZE});
	req = engine_registration(&g.f.mem, INSTANCE + 1);
	req.dialect = DIALECT;
	req.model = slice_str("cpu");
	gx_call(&g, &req);
	assert_int_equal(ctx_count(g.f.srv->contexts), 2);
	FAKE_SET(deaf, true);
	req = gx_request(&g, WIRE_STORE, "a", 8);
	uid = gx_send(&g, &req);
	assert_true(gx_silent(&g, 50));
	assert_true(gx_call(&g, &ping).flag);
	req = fx_request(&g.f, WIRE_STORE, "b", 8, 0, 8);
	req.instance_id = INSTANCE + 1;
	req.model = req.key.model = slice_str("cpu");
	assert_true(gx_call(&g, &req).flag); /* the same worker */
	FAKE_SET(deaf, false);
	assert_true(gx_answer(&g, WIRE_STORE, uid).flag);
	UNTIL(stats(&g).readable == 16);
	gx_close(&g);
	engine_close(&g.f.mem);
}

static void test_04_too_many(void **state)
{
	struct wire_req req;
	struct wire_reply r;
	struct gx g;
	(void)state;

	gx_open(&g);
	FAKE_SET(deaf, true);
	for (uint32_t i = 0; i < DEVICE_WAITING_MAX; i++) {
		char id[16];

		snprintf(id, sizeof(id), "r%u", i);
		req = gx_request(&g, WIRE_STORE, id, 1);
		gx_send(&g, &req);
	}
	UNTIL(fake_get(&fake_door->in_flight) == DEVICE_WAITING_MAX);
	r = gx_copy(&g, WIRE_STORE, "one more", 1);
	assert_true(!r.flag && has_event(r, 'i', GPU_EVENT));
	assert_int_equal(stats(&g).reserved, DEVICE_WAITING_MAX);
	FAKE_SET(deaf, false);
	UNTIL(stats(&g).readable == DEVICE_WAITING_MAX);
	gx_close(&g);
}

/* ---- failures ---------------------------------------------------------------------------------------------------------- */

static void retrieve_fails(struct gx *g, bool flag)
{
	struct wire_reply r;

	assert_int_equal(gx_lookup(g, "there", 8), 8);
	r = gx_copy(g, WIRE_RETRIEVE, "there", 8);
	assert_int_equal(r.flag, flag);
	assert_true(has_event(r, flag ? 'e' : 'i', GPU_EVENT));
	UNTIL(stats(g).locked == 0);
}

static void test_05_failures(void **state)
{
	static const int errors[] = {-EAGAIN, -ENOMEM, -ENODEV, -EINVAL, -EIO};
	struct wire_reply r;
	struct gx g;
	(void)state;

	gx_open(&g);
	pages_fill(&g.pages, 3);
	assert_true(gx_copy(&g, WIRE_STORE, "there", 8).flag);
	UNTIL(stats(&g).readable == 8);
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		FAKE_SET(submit_error, errors[i]); /* not taken */
		r = gx_copy(&g, WIRE_STORE, "a", 16);
		assert_true(!r.flag && has_event(r, 'i', GPU_EVENT));
		assert_int_equal(stats(&g).reserved, 0);
		retrieve_fails(&g, false);
		FAKE_SET(submit_error, 0);
		FAKE_SET(start_error, errors[i]); /* not queued */
		r = gx_copy(&g, WIRE_STORE, "a", 16);
		assert_true(!r.flag && has_event(r, 'i', GPU_EVENT));
		UNTIL(stats(&g).reserved == 0);
		retrieve_fails(&g, false);
		FAKE_SET(start_error, 0);
		FAKE_SET(done_error, errors[i]); /* queued, and broken later */
		r = gx_copy(&g, WIRE_STORE, "a", 16);
		assert_true(r.flag && has_event(r, 'e', GPU_EVENT));
		UNTIL(stats(&g).reserved == 0);
		retrieve_fails(&g, true);
		FAKE_SET(done_error, 0);
		assert_int_equal(stats(&g).readable, 8);
		assert_int_equal(gx_lookup(&g, "a", 16), 0);
	}
	pages_fill(&g.pages, 4);
	assert_int_equal(gx_lookup(&g, "there", 8), 8);
	assert_true(gx_copy(&g, WIRE_RETRIEVE, "there", 8).flag); /* none of it has harmed what was there */
	UNTIL(stats(&g).locked == 0);
	gx_close(&g);
}

static void test_06_events(void **state)
{
	struct wire_req req;
	struct wire_reply r;
	struct gx g;
	(void)state;

	gx_open(&g);
	req = gx_request(&g, WIRE_STORE, "a", 4);
	req.event.n = 63;
	r = gx_call(&g, &req);
	assert_true(!r.flag && has_event(r, 'i', GPU_EVENT));
	req.event = slice_str(WIRE_STUB_EVENT); /* nothing that a GPU could wait for */
	r = gx_call(&g, &req);
	assert_true(!r.flag && slice_is(r.bytes, WIRE_STUB_EVENT));
	assert_int_equal(stats(&g).reserved, 0);
	req.event = slice_of("", 0);
	r = gx_call(&g, &req);
	assert_true(r.flag && has_event(r, 'e', GPU_EVENT));
	req = gx_request(&g, WIRE_STORE, "b", 4);
	req.instance_id++; /* unknown: an event of whatever GPU is in use */
	r = gx_call(&g, &req);
	assert_true(!r.flag && has_event(r, 'i', GPU_EVENT));
	req = gx_plain(WIRE_UNREGISTER_KV_CACHE, INSTANCE);
	gx_call(&g, &req);
	r = gx_copy(&g, WIRE_STORE, "b", 4);
	assert_true(!r.flag && r.bytes.n == 0); /* there is none */
	gx_close(&g);
}

/* ---- what happens while a copy is under way ------------------------------------------------------------------------------ */

static void test_07_unregister(void **state)
{
	struct wire_req req = gx_plain(WIRE_UNREGISTER_KV_CACHE, INSTANCE);
	struct gx g;
	uint64_t uid;
	(void)state;

	gx_open(&g);
	FAKE_SET(hold, true);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag);
	uid = gx_send(&g, &req);
	assert_true(gx_silent(&g, 50)); /* its memory is still mapped */
	assert_int_equal(ctx_count(g.f.srv->contexts), 0);
	FAKE_SET(hold, false);
	gx_answer(&g, WIRE_UNREGISTER_KV_CACHE, uid);
	assert_int_equal(fake_get(&fake_door->views), 0);
	assert_int_equal(stats(&g).readable, 8);
	gx_register(&g, &g.pages, INSTANCE);
	assert_int_equal(gx_lookup(&g, "a", 8), 8);
	gx_close(&g);
}

static void test_08_death(void **state)
{
	struct server *srv;
	struct ctx *c;
	struct gx g;
	(void)state;

	gx_open(&g);
	srv = g.f.srv;
	assert_true(gx_copy(&g, WIRE_STORE, "there", 4).flag);
	UNTIL(stats(&g).readable == 4);
	assert_int_equal(gx_lookup(&g, "there", 4), 4);
	FAKE_SET(hold, true);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag);
	assert_true(gx_copy(&g, WIRE_RETRIEVE, "there", 4).flag);
	c = ctx_get(srv->contexts, INSTANCE);
	assert_true(ctx_drop_this(srv->contexts, c));
	ctx_put(srv->contexts, c);
	assert_int_equal(ctx_count(srv->contexts), 0);
	assert_int_equal(stats(&g).reserved, 8); /* CUDA may still write there */
	assert_int_equal(stats(&g).locked, 4);
	assert_int_equal(fake_get(&fake_door->views), LAYERS);
	FAKE_SET(hold, false);
	UNTIL(fake_get(&fake_door->views) == 0);
	UNTIL(stats(&g).reserved == 0 && stats(&g).locked == 0);
	gx_close(&g);
}

static void test_09_clear_and_end(void **state)
{
	struct wire_req clear = {.op = WIRE_CLEAR, .dialect = DIALECT};
	struct wire_req end = {.op = WIRE_END_SESSION, .dialect = DIALECT, .request_id = slice_str("there")};
	struct gx g;
	(void)state;

	gx_open(&g);
	assert_true(gx_copy(&g, WIRE_STORE, "there", 4).flag);
	UNTIL(stats(&g).readable == 4);
	assert_int_equal(gx_lookup(&g, "there", 4), 4);
	FAKE_SET(hold, true);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag);
	assert_true(gx_copy(&g, WIRE_RETRIEVE, "there", 4).flag);
	gx_call(&g, &end);
	assert_int_equal(stats(&g).locked, 4); /* the copy's own */
	gx_call(&g, &clear);
	assert_int_equal(stats(&g).objects, 0);
	assert_int_equal(stats(&g).detached, 12);
	FAKE_SET(hold, false);
	UNTIL(stats(&g).detached == 0);
	assert_int_equal(stats(&g).objects, 0);
	gx_close(&g);
}

/* Slots of a copy stay, whatever the clock says; its keys do not. */
static void test_10_time_limits(void **state)
{
	struct gx g;
	(void)state;

	gx_open(&g);
	FAKE_SET(hold, true);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag);
	device_tick(g.f.srv, clock_ms() + 599000);
	assert_int_equal(stats(&g).objects, 8);
	device_tick(g.f.srv, clock_ms() + 601000);
	assert_int_equal(stats(&g).objects, 0);
	assert_int_equal(stats(&g).detached, 8);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag); /* once more, into other slots */
	assert_int_equal(stats(&g).reserved, 8);
	FAKE_SET(hold, false);
	UNTIL(stats(&g).readable == 8 && stats(&g).detached == 0);
	gx_close(&g);
}

static void test_11_lost_context(void **state)
{
	struct wire_req ping = gx_plain(WIRE_PING, INSTANCE);
	struct gpu_pages other;
	struct wire_reply r;
	struct gx g;
	(void)state;

	gx_open(&g);
	pages_open(&other, "1");
	gx_register(&g, &other, INSTANCE + 1);
	FAKE_SET(hold, true);
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag);
	fake_lose(0);
	r = gx_copy(&g, WIRE_STORE, "b", 8);
	assert_false(r.flag);
	assert_int_equal(stats(&g).reserved, 8);
	device_tick(g.f.srv, clock_ms());
	assert_int_equal(ctx_count(g.f.srv->contexts), 1); /* that of the other GPU */
	FAKE_SET(hold, false);
	UNTIL(stats(&g).reserved == 0);
	UNTIL(fake_get(&fake_door->views) == LAYERS);
	assert_int_equal(stats(&g).objects, 0);
	assert_false(gx_call(&g, &ping).flag); /* so that it notices */
	assert_true(gx_call(&g, &ping).flag);
	gx_register(&g, &g.pages, INSTANCE);
	assert_true(gx_copy(&g, WIRE_STORE, "b", 8).flag);
	UNTIL(stats(&g).readable == 8);
	gx_close(&g);
	pages_close(&other);
}

static void test_12_stop(void **state)
{
	struct gpu_pages p;
	struct server *srv;
	uint64_t uid;
	struct wire_req req;
	struct gx g;
	(void)state;

	gx_open(&g);
	srv = g.f.srv;
	FAKE_SET(deaf, true);
	req = gx_request(&g, WIRE_STORE, "a", 8);
	uid = gx_send(&g, &req);
	UNTIL(fake_get(&fake_door->in_flight) == 1);
	assert_false(device_drain(srv, 20)); /* as long as it does not answer */
	FAKE_SET(deaf, false);
	assert_true(gx_answer(&g, WIRE_STORE, uid).flag);
	pages_open(&p, "1");
	FAKE_SET(hang[1], true);
	req = gx_registration(&p, INSTANCE + 1);
	gx_send(&g, &req);
	UNTIL(fake_get(&fake_door->hanging) == 1);
	atomic_store(&srv->stopping, true);
	control_quiesce(srv);
	assert_false(workers_stop(srv, 20)); /* nor does it wait for that one */
	FAKE_SET(hang[1], false);
	gx_close(&g);
	pages_close(&p);
}

/* ---- all at once ------------------------------------------------------------------------------------------------------- */

#define ROUNDS 1500

static void *disturb(void *arg)
{
	struct gx *g = arg;
	struct rnd r = rnd_start("disturb");

	while (!atomic_load(&g->f.srv->stopping)) {
		FAKE_SET(hold, rnd_below(&r, 2));
		FAKE_SET(done_error, rnd_below(&r, 8) ? 0 : -EIO);
		FAKE_SET(start_error, rnd_below(&r, 8) ? 0 : -EINVAL);
		FAKE_SET(submit_error, rnd_below(&r, 8) ? 0 : -EAGAIN);
		device_tick(g->f.srv, clock_ms() + (rnd_below(&r, 8) ? 0 : 700000));
		nanosleep(&(struct timespec){0, 300000}, NULL);
	}
	FAKE_SET(hold, false);
	return NULL;
}

static void one_request(struct gx *g, struct rnd *r)
{
	struct wire_req clear = {.op = WIRE_CLEAR, .dialect = DIALECT},
			away = gx_plain(WIRE_UNREGISTER_KV_CACHE, INSTANCE);
	struct wire_req come = gx_registration(&g->pages, INSTANCE);
	uint32_t chunks = 1 + rnd_below(r, 8);
	char id[8];

	snprintf(id, sizeof(id), "r%u", rnd_below(r, 6));
	switch (rnd_below(r, 20)) {
	case 0:
		gx_call(g, &clear);
		break;
	case 1:
		FAKE_SET(hold, false);
		gx_send(g, &away);
		gx_call(g, &come); /* whether it is taken depends on which is first */
		break;
	case 2:
		fake_lose(0);
		device_tick(g->f.srv, clock_ms());
		gx_call(g, &come);
		break;
	default:
		if (rnd_below(r, 2)) {
			gx_copy(g, WIRE_STORE, id, chunks);
		} else {
			gx_lookup(g, id, chunks);
			gx_copy(g, WIRE_RETRIEVE, id, chunks);
		}
	}
}

static void test_13_all_at_once(void **state)
{
	struct rnd r = rnd_start("all at once");
	pthread_t thread;
	struct gx g;
	(void)state;

	gx_open(&g);
	assert_int_equal(pthread_create(&thread, NULL, disturb, &g), 0);
	for (int i = 0; i < ROUNDS; i++)
		one_request(&g, &r);
	atomic_store(&g.f.srv->stopping, true);
	pthread_join(thread, NULL);
	gx_close(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_what_was_stored_comes_back),
		cmocka_unit_test(test_02_the_reply_does_not_wait),
		cmocka_unit_test(test_03_a_gpu_that_is_stuck),
		cmocka_unit_test(test_04_too_many),
		cmocka_unit_test(test_05_failures),
		cmocka_unit_test(test_06_events),
		cmocka_unit_test(test_07_unregister),
		cmocka_unit_test(test_08_death),
		cmocka_unit_test(test_09_clear_and_end),
		cmocka_unit_test(test_10_time_limits),
		cmocka_unit_test(test_11_lost_context),
		cmocka_unit_test(test_12_stop),
		cmocka_unit_test(test_13_all_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
