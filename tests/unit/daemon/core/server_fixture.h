/* server_fixture.h - the server's parts without its threads: requests are encoded as a client does, run by task_run in the test's
 * own thread, and their replies decoded. An engine with paged memory is registered.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_SERVER_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_SERVER_FIXTURE_H

#include "daemon/core/core_int.h"
#include "tests/unit/daemon/core/engine_fixture.h"

#define DIALECT      WIRE_D5
#define MAX_TOKENS   (1u << 16)
#define MESSAGE_MAX  (1u << 20)
#define INSTANCE     (1ull << 50) /* no pid, so nobody looks for a process */
#define PEER_OWNER   7u
#define CHUNK_TOKENS 16u

/* Ranges of the arena, on nodes 0, 1, ... by name only. Set before fx_open. */
static uint32_t fx_ranges = 1;

struct fx {
	struct server *srv;
	struct exec *e;
	struct engine_memory mem;
	struct wire_scratch *scratch; /* of the client */
	uint32_t *ids, *blocks;
	uint8_t *message;
	struct task task;
};

static inline void ok_or_fail(int err, const struct why *why)
{
	if (err)
		fail_msg("%s", why->text);
}

static inline void fx_dead(void *arg, const struct ctx *c)
{
	(void)arg;
	(void)c;
}

static inline void fx_server(struct fx *f, enum chash_algorithm algorithm, uint32_t chunk, uint64_t arena_mib)
{
	struct arena_conf ac = {.bytes = arena_mib << 20, .shm_name = ""};
	struct store_conf sc = {.policy = STORE_LRU, .trigger_watermark = 1, .eviction_ratio = 0.2, .align = UNIT};
	struct server *srv = mem_calloc(1, sizeof(*srv));
	struct why why;

	assert_non_null(srv);
	f->srv = srv;
	for (; fx_ranges > 1 && ac.nranges < fx_ranges; ac.nranges++)
		ac.range[ac.nranges] = (struct arena_range_conf){.node = node_of((int)ac.nranges),
								 .bytes = (arena_mib << 20) / fx_ranges};
	srv->conf.max_tokens = MAX_TOKENS;
	srv->conf.l1_read_ttl_seconds = 300;
	srv->epoll_fd = srv->signal_fd = srv->timer_fd = -1;
	ok_or_fail(arena_create(&ac, &srv->arena, &why), &why);
	sc.arena = srv->arena;
	ok_or_fail(store_create(&sc, &srv->store, &why), &why);
	ok_or_fail(chash_init(&srv->chash, algorithm, chunk, "0", &why), &why);
	ok_or_fail(prefix_create(&srv->chash, 4 << 20, &srv->prefix, &why), &why);
	assert_int_equal(metrics_create("test", false, &srv->metrics), 0);
	assert_int_equal(ctx_registry_create(srv->store, fx_dead, NULL, &srv->contexts), 0);
	assert_int_equal(sessions_create(srv->store, 300000, &srv->sessions), 0);
	ok_or_fail(exec_create(srv, &f->e, &why), &why);
}

static inline void fx_close(struct fx *f)
{
	struct server *srv = f->srv;

	exec_destroy(f->e);
	sessions_destroy(srv->sessions);
	ctx_registry_destroy(srv->contexts);
	assert_int_equal(fix_stats(srv->store).locked, 0);
	assert_int_equal(fix_stats(srv->store).reserved, 0);
	assert_int_equal(fix_stats(srv->store).detached, 0);
	metrics_destroy(srv->metrics);
	prefix_destroy(srv->prefix);
	store_check(srv->store);
	store_destroy(srv->store);
	arena_destroy(srv->arena);
	mem_free(srv);
	wire_scratch_destroy(f->scratch);
	engine_close(&f->mem);
	free(f->ids);
	free(f->blocks);
	free(f->message);
	memset(f, 0, sizeof(*f));
}

static inline void fill_msg(zmq_msg_t *m, struct slice s)
{
	assert_int_equal(zmq_msg_init_size(m, s.n), 0);
	if (s.n)
		memcpy(zmq_msg_data(m), s.p, s.n);
}

/* The message in f->task, ready for task_run. */
static inline void fx_message(struct fx *f, const struct wire_req *req)
{
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2];
	ssize_t n = wire_request_encode(DIALECT, 1, req, 0, f->message, MESSAGE_MAX, frames);
	struct task *t = &f->task;

	assert_true(n >= 2);
	*t = (struct task){.nframes = (uint32_t)n - 2,
			   .owner = PEER_OWNER,
			   .dialect = DIALECT,
			   .candidates = 1u << DIALECT,
			   .bound = true,
			   .def = op_def(req->op)};
	assert_non_null(t->def);
	t->lane = t->def->lane;
	fill_msg(&t->id, slice_str("peer"));
	fill_msg(&t->uid, frames[0]);
	fill_msg(&t->type, frames[1]);
	for (uint32_t i = 0; i < t->nframes; i++) {
		fill_msg(&t->payload[i], frames[i + 2]);
		t->frames[i] = slice_of(zmq_msg_data(&t->payload[i]), zmq_msg_size(&t->payload[i]));
	}
}

/* Decodes the reply and frees the message. What it borrows is copied nowhere: read flag and numbers only. */
static inline struct wire_reply fx_reply(struct fx *f, enum wire_op op)
{
	struct task *t = &f->task;
	struct wire_reply reply = {0};
	struct slice payload = {0};
	struct why why;

	assert_true(t->has_reply);
	if (zmq_msg_size(&t->reply))
		payload = slice_of(zmq_msg_data(&t->reply), zmq_msg_size(&t->reply));
	ok_or_fail(wire_reply_decode(DIALECT, op, payload, f->scratch, &reply, &why), &why);
	if (reply.kind == WIRE_REPLY_EVENT)
		assert_true(slice_is(reply.bytes, WIRE_STUB_EVENT));
	zmq_msg_close(&t->reply);
	zmq_msg_close(&t->id);
	zmq_msg_close(&t->uid);
	zmq_msg_close(&t->type);
	for (uint32_t i = 0; i < t->nframes; i++)
		zmq_msg_close(&t->payload[i]);
	return reply;
}

static inline void fx_run(struct fx *f)
{
	task_run(f->e, &f->task);
	exec_remember(f->e);
}

static inline struct wire_reply fx_call(struct fx *f, const struct wire_req *req)
{
	fx_message(f, req);
	fx_run(f);
	return fx_reply(f, req->op);
}

/* Chunks [first, first + n) of prompt `id`, whose tokens are made from its name; pages are blocks 0, 1, ... */
static inline struct wire_req fx_request(struct fx *f, enum wire_op op, const char *id, uint32_t prompt_chunks,
					 uint32_t first, uint32_t n)
{
	uint32_t cs = f->srv->chash.chunk_tokens, count = prompt_chunks * cs, bpc = cs / f->mem.shape.block_tokens;
	uint64_t seed = 0;
	struct wire_req req;

	for (const char *c = id; *c; c++)
		seed = mix64(seed + (uint8_t)*c);
	assert_true(count <= MAX_TOKENS && n * bpc <= f->mem.shape.blocks);
	for (uint32_t i = 0; i < count; i++)
		f->ids[i] = (uint32_t)(mix64(seed + i) % 128000);
	req = (struct wire_req){.op = op,
				.dialect = DIALECT,
				.tp_size = 1,
				.has_instance = op == WIRE_STORE || op == WIRE_RETRIEVE,
				.instance_id = INSTANCE,
				.model = slice_str("m"),
				.world_size = 1,
				.event = slice_str(WIRE_STUB_EVENT),
				.has_key = true,
				.request_id = slice_str(id)};
	req.key = (struct wire_key){.model = req.model,
				    .world_size = 1,
				    .worker_id = req.has_instance ? 0 : -1,
				    .tokens = {.ids = f->ids, .count = count},
				    .start = (uint64_t)first * cs,
				    .end = (uint64_t)(first + n) * cs,
				    .request_id = req.request_id,
				    .has_salt = true};
	req.blocks[0] = (struct wire_blocks){f->blocks, n * bpc};
	req.nblock_groups = 1;
	return req;
}

static inline bool fx_store(struct fx *f, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, WIRE_STORE, id, chunks, 0, chunks);

	return fx_call(f, &req).flag;
}

static inline bool fx_retrieve(struct fx *f, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, WIRE_RETRIEVE, id, chunks, 0, chunks);

	return fx_call(f, &req).flag;
}

static inline uint64_t fx_lookup(struct fx *f, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, WIRE_LOOKUP, id, chunks, 0, chunks);
	struct wire_req query = {.op = WIRE_QUERY_PREFETCH_STATUS, .dialect = DIALECT, .request_id = slice_str(id)};

	fx_call(f, &req);
	return fx_call(f, &query).u;
}

static inline void fx_open(struct fx *f, enum chash_algorithm algorithm, uint32_t chunk, uint32_t max_chunks,
			   uint64_t arena_mib)
{
	struct engine_shape shape = {
		.layers = 2, .blocks = max_chunks * chunk / 8, .block_tokens = 8, .heads = 2, .head_size = 16};
	struct wire_req req;

	memset(f, 0, sizeof(*f));
	f->ids = calloc(MAX_TOKENS, sizeof(*f->ids));
	f->blocks = calloc(shape.blocks, sizeof(*f->blocks));
	f->message = malloc(MESSAGE_MAX);
	assert_true(f->ids && f->blocks && f->message);
	for (uint32_t i = 0; i < shape.blocks; i++)
		f->blocks[i] = i;
	assert_int_equal(wire_scratch_create(MAX_TOKENS, 0, &f->scratch), 0);
	fx_server(f, algorithm, chunk, arena_mib);
	engine_open(&f->mem, &shape);
	req = engine_registration(&f->mem, INSTANCE);
	req.dialect = DIALECT;
	fx_call(f, &req);
	assert_int_equal(ctx_count(f->srv->contexts), 1);
}

#endif
