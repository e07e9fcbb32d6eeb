/* The server's parts with a tier below them: what a layout's digest tells apart, and requests that go down and come up, with the mock
 * adapter and without the server's threads. */
#include "daemon/core/below_int.h"
#include "tests/unit/daemon/core/server_fixture.h"

#include "daemon/base/clock.h"

#include <unistd.h>

#define CHUNKS 8u
#define MIB    64u

/* ---- digests ------------------------------------------------------------------------------------------------------- */

struct digest {
	uint8_t b[SEG_DIGEST];
};

static struct digest paged(const struct engine_shape *shape, const struct chash *h)
{
	struct engine_memory mem;
	struct ctx_paged_conf conf = {.chunk_tokens = h->chunk_tokens};
	struct wire_req req;
	struct digest d;
	struct ctx *c;
	struct why why;

	assert_int_equal(pk_mem_create(&conf.pk), 0);
	engine_open(&mem, shape);
	req = engine_registration(&mem, 1);
	ok_or_fail(ctx_paged_create(&req, &conf, &c, &why), &why);
	ctx_layout_digest(c, h);
	memcpy(d.b, c->object_form, SEG_DIGEST);
	ctx_put(NULL, c);
	engine_close(&mem);
	pk_mem_destroy(conf.pk);
	return d;
}

static struct digest driven(uint32_t layers, uint32_t hidden, bool mla, const char *dtype, const struct chash *h)
{
	struct wire_req req = {.instance_id = 1, .model = slice_str("m"), .world_size = 1};
	struct digest d;
	struct ctx *c;
	struct why why;

	req.ed.dtype = slice_str(dtype);
	req.ed.num_layers = layers;
	req.ed.hidden_dim_size = hidden;
	req.ed.block_size = 8;
	req.ed.use_mla = mla;
	ok_or_fail(ctx_engine_driven_create(&req, h->chunk_tokens, true, &c, &why), &why);
	ctx_layout_digest(c, h);
	memcpy(d.b, c->object_form, SEG_DIGEST);
	ctx_put(NULL, c);
	return d;
}

static void test_01_digests_tell_layouts_apart(void **state)
{
	static const struct engine_shape a = {.layers = 2, .blocks = 8, .block_tokens = 8, .heads = 2, .head_size = 16};
	struct engine_shape more = a, heads = a, layers = a, pages = a;
	struct chash h, longer, seeded, cbor;
	struct digest d[10];
	struct why why;
	uint32_t n = 0;

	(void)state;
	ok_or_fail(chash_init(&h, CHASH_BLAKE3, 16, NULL, &why), &why);
	ok_or_fail(chash_init(&longer, CHASH_BLAKE3, 32, NULL, &why), &why);
	ok_or_fail(chash_init(&cbor, CHASH_SHA256_CBOR, 16, "0", &why), &why);
	ok_or_fail(chash_init(&seeded, CHASH_SHA256_CBOR, 16, "1", &why), &why);
	more.head_size = 32;
	heads.heads = 4;
	heads.head_size = 8; /* the same bytes in the same places */
	layers.layers = 3;
	pages.blocks = 16; /* where the pages lie is the engine's own affair */
	d[n++] = paged(&a, &h);
	d[n++] = paged(&more, &h);
	d[n++] = paged(&layers, &h);
	d[n++] = paged(&a, &longer);
	d[n++] = paged(&a, &cbor);
	d[n++] = paged(&a, &seeded);
	d[n++] = driven(2, 32, false, "float16", &h);
	d[n++] = driven(1, 64, false, "bfloat16", &h);
	d[n++] = driven(4, 16, false, "bfloat16", &h);
	d[n++] = driven(2, 64, true, "bfloat16", &h);
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t k = 0; k < i; k++)
			assert_memory_not_equal(&d[i], &d[k], SEG_DIGEST);
	}
	d[1] = paged(&pages, &h);
	assert_memory_equal(&d[0], &d[1], SEG_DIGEST);
	d[1] = paged(&heads, &h);
	assert_memory_equal(&d[0], &d[1], SEG_DIGEST);
	d[1] = driven(2, 32, false, "bfloat16", &h); /* the other kind of engine */
	assert_memory_equal(&d[0], &d[1], SEG_DIGEST);
}

/* ---- requests -------------------------------------------------------------------------------------------------------- */

struct below {
	struct fx f;
	char json[256];
	char *list[1];
};

static void open_below(struct below *b, const char *json)
{
	struct server *srv;
	struct why why;

	fx_open(&b->f, CHASH_BLAKE3, CHUNK_TOKENS, CHUNKS, MIB);
	srv = b->f.srv;
	snprintf(b->json, sizeof(b->json), "%s", json);
	b->list[0] = b->json;
	srv->conf.l2_adapter = (struct conf_list){b->list, 1};
	srv->conf.l2_prefetch_max_in_flight = 8;
	srv->conf.l2_prefetch_max_mb = 16;
	srv->conf.l2_prefetch_stall_seconds = 2;
	srv->conf.l2_dirty_max_percent = 50;
	ok_or_fail(below_parse(srv, &why), &why);
	ok_or_fail(below_open(srv, &why), &why);
}

static void close_below(struct below *b)
{
	struct server *srv = b->f.srv;

	below_close(srv);
	assert_null(srv->tier);
	below_free(srv);
	srv->conf.l2_adapter.n = 0;
	fx_close(&b->f);
}

static void settle(struct below *b)
{
	struct tier_stats st;
	uint64_t until = clock_ms() + 20000;

	do {
		usleep(1000);
		tier_stats(b->f.srv->tier, &st);
		assert_true(clock_ms() < until);
	} while (st.dirty_objects || st.jobs_waiting || st.jobs_loading);
}

static struct wire_reply ask(struct fx *f, enum wire_op op, const char *id)
{
	struct wire_req q = {.op = op, .dialect = DIALECT, .request_id = slice_str(id), .timeout_seconds = 10};

	return fx_call(f, &q);
}

static void look(struct fx *f, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, WIRE_LOOKUP, id, chunks, 0, chunks);

	fx_call(f, &req);
}

static uint64_t wait_status(struct fx *f, const char *id)
{
	uint64_t until = clock_ms() + 20000;
	struct wire_reply r;

	while ((r = ask(f, WIRE_QUERY_PREFETCH_STATUS, id)).kind == WIRE_REPLY_NONE) {
		assert_true(clock_ms() < until);
		usleep(1000);
	}
	return r.u;
}

/* "name{labels} value" in the text that Prometheus reads. */
static void shows(struct server *srv, const char *line)
{
	size_t n;
	char *text = metrics_render(srv->metrics, &n);

	assert_non_null(text);
	if (!strstr(text, line))
		fail_msg("no '%s' in\n%s", line, text);
	free(text);
}

static const char mock[] = "{\"type\":\"mock\",\"max_size_gb\":0.1,\"mock_bandwidth_gb\":10}";
static const char late[] = "{\"type\":\"fault_inject\",\"latency\":1,\"latency_ms\":200,\"adapter\":{\"type\":\"mock\","
			   "\"max_size_gb\":0.1,\"mock_bandwidth_gb\":10}}";

static void test_02_down_and_up_again(void **state)
{
	static struct below b;
	struct server *srv;

	(void)state;
	open_below(&b, mock);
	srv = b.f.srv;
	assert_true(fx_store(&b.f, "p", CHUNKS));
	settle(&b);
	assert_int_equal(fix_stats(srv->store).locked, 0);
	store_clear(srv->store);
	look(&b.f, "p", CHUNKS);
	assert_int_equal(wait_status(&b.f, "p"), CHUNKS);
	assert_true(fx_retrieve(&b.f, "p", CHUNKS));
	assert_int_equal(fix_stats(srv->store).objects, 0); /* temporary */
	assert_int_equal(metric_value(srv->metrics, M_LOOKUP_HIT_L2_TOKENS), CHUNKS * CHUNK_TOKENS);
	assert_int_equal(metric_value(srv->metrics, M_LOOKUP_HIT_TOKENS), CHUNKS * CHUNK_TOKENS);
	below_refresh(srv);
	shows(srv, "lmcache_mp_l2_store_adapters{state=\"active\"} 1\n");
	shows(srv, "lmcache_mp_l2_prefetch_adapters{state=\"draining\"} 0\n");
	assert_int_equal(metric_value(srv->metrics, M_L2_STORE_COMPLETED_CHUNKS), CHUNKS);
	assert_int_equal(metric_value(srv->metrics, M_L2_PREFETCH_LOAD_COMPLETED_CHUNKS), CHUNKS);
	close_below(&b);
}

/* The sums were taken while the pages were gathered: the store knows them before L2 needs them. */
static void test_03_sums_come_with_the_copy(void **state)
{
	static struct below b;
	struct server *srv;
	uint32_t sums[16], again[16], missing;
	store_obj objs[CHUNKS];
	struct wire_req req;
	struct ctx *c;
	store_ns ns;

	(void)state;
	open_below(&b, late);
	srv = b.f.srv;
	assert_true(fx_store(&b.f, "p", CHUNKS));
	req = fx_request(&b.f, WIRE_STORE, "p", CHUNKS, 0, CHUNKS);
	c = ctx_get(srv->contexts, INSTANCE);
	assert_non_null(c);
	ns = range_ns_find(b.f.e, &req, c);
	ctx_put(srv->contexts, c);
	assert_int_equal(store_lock_all(srv->store, ns, b.f.e->walk->hashes, CHUNKS, 0, clock_ms(), objs, &missing), 0);
	for (uint32_t i = 0; i < CHUNKS; i++) {
		uint64_t bytes = store_bytes(srv->store, objs[i]);

		assert_true(store_sums_get(srv->store, objs[i], sums));
		crc32c_blocks(store_ptr(srv->store, objs[i]), bytes, again);
		assert_memory_equal(sums, again, crc_blocks(bytes) * sizeof(sums[0]));
	}
	store_unlock(srv->store, objs, NULL, CHUNKS, clock_ms());
	close_below(&b);
}

/* A WAIT that has to wait is a task with the job's number, no thread: the control thread gives it to `waiting`. */
static void test_04_waiting(void **state)
{
	static struct below b;
	struct waiting w = {0};
	struct task *ready;
	struct wire_req q = {.op = WIRE_WAIT_PREFETCH_STATUS,
			     .dialect = DIALECT,
			     .request_id = slice_str("p"),
			     .timeout_seconds = 10};
	uint64_t until;

	(void)state;
	open_below(&b, late);
	count_init(b.f.srv);
	assert_true(fx_store(&b.f, "p", CHUNKS));
	settle(&b);
	store_clear(b.f.srv->store);
	look(&b.f, "p", CHUNKS);
	assert_false(waiting_job_done(&w)); /* nobody waits: nobody is woken */
	fx_message(&b.f, &q);
	fx_run(&b.f);
	assert_int_not_equal(b.f.task.wait_job, 0);
	assert_true(waiting_add(&w, b.f.srv, &b.f.task));
	assert_in_range(waiting_ms(&w, 60000), 1, 10000);
	assert_null(waiting_ready(&w, b.f.srv, false));
	assert_true(waiting_job_done(&w));
	assert_false(waiting_job_done(&w)); /* once is enough */
	assert_null(waiting_ready(&w, b.f.srv, false));
	settle(&b);
	until = clock_ms() + 20000;
	do {
		waiting_job_done(&w);
		ready = waiting_ready(&w, b.f.srv, false);
		assert_true(clock_ms() < until);
	} while (!ready);
	assert_ptr_equal(ready, &b.f.task);
	assert_int_equal(fx_reply(&b.f, WIRE_WAIT_PREFETCH_STATUS).u, CHUNKS);
	assert_int_equal(waiting_ms(&w, 77), 77);
	assert_true(fx_retrieve(&b.f, "p", CHUNKS));
	close_below(&b);
}

static void test_05_time_is_up_and_stopping(void **state)
{
	static struct below b;
	struct waiting w = {0};
	struct wire_req q = {.op = WIRE_WAIT_PREFETCH_STATUS,
			     .dialect = DIALECT,
			     .request_id = slice_str("p"),
			     .timeout_seconds = 0.05};
	static const double none[] = {0, -1};

	(void)state;
	open_below(&b, late);
	count_init(b.f.srv);
	assert_true(fx_store(&b.f, "p", CHUNKS));
	settle(&b);
	store_clear(b.f.srv->store);
	look(&b.f, "p", CHUNKS);
	for (int i = 0; i < 2; i++) { /* no time at all: answered on the spot */
		q.timeout_seconds = none[i];
		fx_message(&b.f, &q);
		fx_run(&b.f);
		assert_false(waiting_add(&w, b.f.srv, &b.f.task));
		assert_int_equal(fx_reply(&b.f, WIRE_WAIT_PREFETCH_STATUS).kind, WIRE_REPLY_NONE);
	}
	q.timeout_seconds = 0.05;
	fx_message(&b.f, &q);
	fx_run(&b.f);
	assert_true(waiting_add(&w, b.f.srv, &b.f.task));
	usleep(60000);
	assert_ptr_equal(waiting_ready(&w, b.f.srv, false), &b.f.task);
	assert_int_equal(fx_reply(&b.f, WIRE_WAIT_PREFETCH_STATUS).kind, WIRE_REPLY_NONE);
	assert_int_equal(metric_value(b.f.srv->metrics, M_TIMEOUTS), 3);
	q.timeout_seconds = 600;
	fx_message(&b.f, &q);
	fx_run(&b.f);
	assert_true(waiting_add(&w, b.f.srv, &b.f.task));
	assert_ptr_equal(waiting_ready(&w, b.f.srv, true), &b.f.task);
	fx_reply(&b.f, WIRE_WAIT_PREFETCH_STATUS);
	close_below(&b);
}

/* A name's objects count for its salt, and those not brought up for its model; total and labels agree. */
static void test_06_counted_by_name(void **state)
{
	static struct below b;
	struct seg_name n = {.model = slice_str("m"), .salt = slice_str("tenant")};
	uint32_t one, other, same_salt;
	struct server *srv;

	(void)state;
	open_below(&b, mock);
	srv = b.f.srv;
	one = seg_name_get(srv->names, &n);
	n.model = slice_str("m2");
	same_salt = seg_name_get(srv->names, &n);
	n.salt = slice_str("other");
	other = seg_name_get(srv->names, &n);
	for (uint32_t i = 0; i < 3; i++) {
		below_counted(srv, TIER_COUNT_STORED, one, 2);
		below_counted(srv, TIER_COUNT_STORED, same_salt, 10);
		below_counted(srv, TIER_COUNT_STORED, other, 100);
		below_counted(srv, TIER_COUNT_FAILED, one, 1);
		below_counted(srv, TIER_COUNT_NO_ROOM, other, 5);
		below_counted(srv, TIER_COUNT_NO_ROOM, same_salt, 5);
	}
	below_refresh(srv);
	shows(srv, "lmcache_mp_l2_store_completed_objects_chunks_total{cache_salt=\"tenant\"} 36\n");
	shows(srv, "lmcache_mp_l2_store_completed_objects_chunks_total{cache_salt=\"other\"} 300\n");
	shows(srv, "lmcache_mp_l2_prefetch_failure_chunks_total{reason=\"failed\",model_name=\"m\"} 3\n");
	shows(srv, "lmcache_mp_l2_prefetch_failure_chunks_total{reason=\"l1_oom\",model_name=\"m2\"} 30\n");
	assert_int_equal(metric_value(srv->metrics, M_L2_STORE_COMPLETED_CHUNKS), 336);
	close_below(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_digests_tell_layouts_apart), cmocka_unit_test(test_02_down_and_up_again),
		cmocka_unit_test(test_03_sums_come_with_the_copy),    cmocka_unit_test(test_04_waiting),
		cmocka_unit_test(test_05_time_is_up_and_stopping),    cmocka_unit_test(test_06_counted_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
