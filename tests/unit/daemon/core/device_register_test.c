/* GPU engines register, on a door of fake GPUs: what fails gives every mapping back, what hangs holds up nobody else. */
#include "tests/unit/daemon/core/device_fixture.h"

static void not_registered(struct gx *g, const struct wire_req *req)
{
	gx_call(g, req);
	assert_int_equal(ctx_count(g->f.srv->contexts), 1);
	assert_int_equal(fake_get(&fake_door->views), LAYERS);
	assert_int_equal(fake_get(&fake_door->engines), 1);
}

static void test_01_registrations_that_fail(void **state)
{
	struct gpu_pages p;
	struct wire_req req;
	struct gx g;
	(void)state;

	gx_open(&g);
	pages_open(&p, "1");
	req = gx_registration(&p, INSTANCE + 1);
	for (int i = 0; i < (int)LAYERS; i++) {
		FAKE_SET(import_error_at, i);
		FAKE_SET(import_error, -EACCES);
		not_registered(&g, &req);
		FAKE_SET(import_error, 0);
	}
	FAKE_SET(engine_error, -ENOMEM);
	not_registered(&g, &req);
	FAKE_SET(engine_error, 0);
	p.w[1].shape[0] = 3; /* no layout */
	p.w[1].storage_bytes *= 2;
	engine_contiguous(&p.w[1]);
	pages_wrap(&p);
	not_registered(&g, &req);
	pages_close(&p);
	pages_open(&p, "1");
	p.w[1].device_uuid = slice_str("0"); /* of two GPUs */
	pages_wrap(&p);
	not_registered(&g, &req);
	engine_open(&g.f.mem, &(struct engine_shape){LAYERS, BLOCKS, BLOCK, HEADS, HEAD_SIZE});
	p.wrappers[1] = g.f.mem.wrappers[1]; /* half of it host memory */
	not_registered(&g, &req);
	p.wrappers[0] = g.f.mem.wrappers[0];
	pages_wrap(&p);
	p.wrappers[0] = g.f.mem.wrappers[0];
	not_registered(&g, &req);
	engine_close(&g.f.mem);
	pages_close(&p);
	gx_close(&g);
}

static void test_02_out_of_memory(void **state)
{
	struct ctx_paged_conf conf = {.chunk_tokens = CHUNK_TOKENS};
	struct device_engines engines = {0};
	struct gpu_pages p;
	struct wire_req req;
	struct ctx *c;
	struct gx g;
	uint64_t n;
	(void)state;

	gx_open(&g);
	pages_open(&p, "1");
	req = gx_registration(&p, INSTANCE + 1);
	conf.gpu = g.f.srv->gpu;
	conf.engines = &engines;
	conf.pk = g.f.e->pk;
	for (n = 1;; n++) {
		struct why why = {0};
		int err;

		mem_fail_at(n);
		err = ctx_paged_create(&req, &conf, &c, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_int_equal(fake_get(&fake_door->views), LAYERS);
		assert_int_equal(engines.all, 0);
	}
	assert_true(n >= 6);
	assert_int_equal(engines.all, 1);
	ctx_put(NULL, c); /* never in a registry: its engine goes with it */
	assert_int_equal(engines.all, 0);
	assert_int_equal(engines.leaving, 0);
	assert_int_equal(fake_get(&fake_door->views), LAYERS);
	pages_close(&p);
	gx_close(&g);
}

static struct ctl_client *another_client(struct gx *g)
{
	struct ctl_client *c;
	struct why why = {0};
	char url[64];

	snprintf(url, sizeof(url), "tcp://127.0.0.1:%u", control_port(g->f.srv->control));
	ok_or_fail(ctl_client_open(url, DIALECT, MAX_TOKENS, &c, &why), &why);
	return c;
}

/* A GPU on which nobody can register holds up neither copies of others nor their registrations. */
static void test_03_a_registration_that_hangs(void **state)
{
	struct ctl_client *first, *second[MAX_ADMIT - 1];
	struct gpu_pages p, q;
	struct wire_req req;
	struct why why;
	uint64_t uid, last;
	struct gx g;
	(void)state;

	gx_open(&g);
	pages_open(&p, "1");
	pages_open(&q, "0");
	first = g.client;
	FAKE_SET(hang[1], true);
	for (uint32_t i = 0; i + 1 < MAX_ADMIT; i++) {
		second[i] = another_client(&g);
		req = gx_registration(&p, INSTANCE + 1 + i);
		ok_or_fail(ctl_send(second[i], &req, 0, &uid, &why), &why);
		UNTIL(fake_get(&fake_door->hanging) == i + 1);
	}
	assert_true(gx_copy(&g, WIRE_STORE, "a", 8).flag); /* by the transfer worker */
	UNTIL(stats(&g).readable == 8);
	gx_register(&g, &q, INSTANCE + 100);
	g.client = second[0]; /* what a peer sends behind its registration waits for it */
	req = gx_request(&g, WIRE_STORE, "b", 8);
	req.instance_id = INSTANCE + 1;
	last = gx_send(&g, &req);
	assert_true(gx_silent(&g, 50));
	FAKE_SET(hang[1], false);
	assert_int_equal(ctl_recv(g.client, WAIT_MS, &(struct ctl_reply){0}, &why), 0);
	assert_true(gx_answer(&g, WIRE_STORE, last).flag);
	UNTIL(stats(&g).readable == 16);
	UNTIL(ctx_count(g.f.srv->contexts) == MAX_ADMIT + 1u);
	g.client = first;
	gx_close(&g);
	for (uint32_t i = 0; i + 1 < MAX_ADMIT; i++)
		ctl_client_close(second[i]);
	pages_close(&p);
	pages_close(&q);
}

/* The slots of an engine are on its GPU's node, and what it moves there is local. */
static void test_04_nodes(void **state)
{
	static const char *const names[] = {"gpu0", "gpu4"};
	struct gpu_pages other;
	struct why why;
	struct gx g;
	(void)state;

	ok_or_fail(machine_load("tests/machines/gpu8.json", &gx_machine, &why), &why);
	for (int i = 0; i < 2; i++) {
		const struct mach_device *d = machine_device(gx_machine, names[i]);

		assert_non_null(d);
		assert_int_equal(d->node.os, i);
		memcpy(fake_pci[i], d->pci, sizeof(fake_pci[i]));
	}
	fx_ranges = 2;
	gx_open(&g);
	pages_open(&other, "1");
	gx_register(&g, &other, INSTANCE + 1);
	for (int i = 0; i < 2; i++) {
		struct ctx *c = ctx_get(g.f.srv->contexts, INSTANCE + (unsigned)i);
		struct wire_req req = gx_request(&g, WIRE_STORE, i ? "b" : "a", 8);
		uint64_t used[2];

		assert_int_equal(c->node_source, CTX_NODE_GPU);
		assert_int_equal(c->node.os, i);
		assert_int_equal(c->home.os, i);
		ctx_put(g.f.srv->contexts, c);
		req.instance_id += (unsigned)i;
		assert_true(gx_call(&g, &req).flag);
		UNTIL(stats(&g).readable == 8u * (unsigned)(i + 1));
		store_range_used(g.f.srv->store, used, 2);
		assert_int_equal(used[i], 8 * 4096);
		assert_int_equal(used[!i], i ? 8 * 4096 : 0);
	}
	gx_close(&g);
	pages_close(&other);
	machine_destroy(gx_machine);
	gx_machine = NULL;
	fx_ranges = 1;
	memset(fake_pci, 0, sizeof(fake_pci));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_registrations_that_fail),
		cmocka_unit_test(test_02_out_of_memory),
		cmocka_unit_test(test_03_a_registration_that_hangs),
		cmocka_unit_test(test_04_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
