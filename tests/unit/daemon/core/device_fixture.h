/* device_fixture.h - a server with its control thread and workers, a door of fake GPUs, and a client that speaks ZMQ to it. */
#ifndef TESTS_UNIT_DAEMON_CORE_DEVICE_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_DEVICE_FIXTURE_H

#include "daemon/base/clock.h"
#include "tests/unit/daemon/core/fake_gpu.h"
#include "tests/unit/daemon/core/server_fixture.h"
#include "transport/zmq/client.h"

#include <time.h>

#define LAYERS     2u
#define BLOCKS     128u
#define BLOCK      8u
#define HEADS      2u
#define HEAD_SIZE  16u
#define GPU_MODULE "lmcache.v1.platform.cuda.ipc_wrapper"
#define WAIT_MS    5000
#define MAX_CHUNKS (BLOCKS * BLOCK / CHUNK_TOKENS)

/* Pages of an engine in "GPU memory". */
struct gpu_pages {
	uint8_t *base[LAYERS];
	uint64_t bytes;
	struct pk_wrapper w[LAYERS];
	uint8_t handle[LAYERS][64], event[64], pickle[LAYERS][2048];
	struct slice wrappers[LAYERS];
};

static struct machine *gx_machine; /* before gx_open; NULL: nothing is known of nodes */

struct gx {
	struct fx f; /* server, and memory for requests */
	struct gpu_pages pages;
	struct ctl_client *client;
	uint8_t event[GPU_EVENT_MAX];
	size_t event_bytes; /* of a client's; what kind it is */
};

static inline void pages_wrap(struct gpu_pages *p)
{
	for (uint32_t i = 0; i < LAYERS; i++) {
		ssize_t n = pk_wrapper_emit_cuda(&p->w[i], GPU_MODULE, p->pickle[i], sizeof(p->pickle[i]));

		assert_true(n > 0);
		p->wrappers[i] = slice_of(p->pickle[i], (size_t)n);
	}
}

static inline void pages_open(struct gpu_pages *p, const char *gpu)
{
	memset(p, 0, sizeof(*p));
	p->bytes = 2ull * BLOCKS * BLOCK * HEADS * HEAD_SIZE * 2;
	for (uint32_t i = 0; i < LAYERS; i++) {
		p->base[i] = calloc(1, p->bytes);
		assert_non_null(p->base[i]);
		memcpy(p->handle[i], &p->base[i], sizeof(p->base[i]));
		p->w[i] = (struct pk_wrapper){.kind = PK_CUDA_IPC,
					      .dtype = PK_BFLOAT16,
					      .ndim = 5,
					      .shape = {2, BLOCKS, BLOCK, HEADS, HEAD_SIZE},
					      .device_uuid = slice_str(gpu),
					      .mem_handle = slice_of(p->handle[i], 64),
					      .handle_version = 1,
					      .storage_bytes = p->bytes,
					      .refcount_name = slice_str("/torch_x"),
					      .event_handle = slice_of(p->event, 64)};
		engine_contiguous(&p->w[i]);
	}
	pages_wrap(p);
}

static inline void pages_close(struct gpu_pages *p)
{
	for (uint32_t i = 0; i < LAYERS; i++)
		free(p->base[i]);
}

/* Request and reply order what the two threads do; ThreadSanitizer does not see through libzmq. */
static inline void pages_order(void)
{
	pthread_mutex_lock(&fake_door->lk);
	pthread_mutex_unlock(&fake_door->lk);
}

static inline void pages_fill(struct gpu_pages *p, uint8_t salt)
{
	pages_order();
	for (uint32_t l = 0; l < LAYERS; l++) {
		for (uint64_t i = 0; i < p->bytes; i++)
			p->base[l][i] = (uint8_t)(mix64(i * 8 + l) + salt);
	}
	pages_order();
}

static inline bool pages_are(const struct gpu_pages *p, uint8_t salt)
{
	pages_order();
	for (uint32_t l = 0; l < LAYERS; l++) {
		for (uint64_t i = 0; i < p->bytes; i++) {
			if (p->base[l][i] != (uint8_t)(mix64(i * 8 + l) + salt))
				return false;
		}
	}
	return true;
}

static inline struct wire_req gx_registration(struct gpu_pages *p, uint64_t instance)
{
	return (struct wire_req){.op = WIRE_REGISTER_KV_CACHE,
				 .dialect = DIALECT,
				 .has_instance = true,
				 .instance_id = instance,
				 .model = slice_str("m"),
				 .world_size = 1,
				 .engine_type = slice_str("vllm"),
				 .wrappers = p->wrappers,
				 .nwrappers = LAYERS};
}

static inline struct wire_reply gx_call(struct gx *g, const struct wire_req *req)
{
	struct wire_reply reply = {0};
	struct why why = {0};

	ok_or_fail(ctl_call(g->client, req, 0, WAIT_MS, &reply, &why), &why);
	return reply;
}

static inline uint64_t gx_send(struct gx *g, const struct wire_req *req)
{
	struct why why = {0};
	uint64_t uid = 0;

	ok_or_fail(ctl_send(g->client, req, 0, &uid, &why), &why);
	return uid;
}

/* The next reply, which is to `uid`. */
static inline struct wire_reply gx_answer(struct gx *g, enum wire_op op, uint64_t uid)
{
	struct wire_reply reply = {0};
	struct ctl_reply got;
	struct why why = {0};

	ok_or_fail(ctl_recv(g->client, WAIT_MS, &got, &why), &why);
	assert_int_equal(got.uid, uid);
	ok_or_fail(ctl_decode(g->client, op, got.payload, &reply, &why), &why);
	return reply;
}

static inline bool gx_silent(struct gx *g, int ms)
{
	struct ctl_reply got;
	struct why why;

	return ctl_recv(g->client, ms, &got, &why) == -ETIMEDOUT;
}

static inline struct wire_req gx_request(struct gx *g, enum wire_op op, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(&g->f, op, id, chunks, 0, chunks);

	req.event = slice_of(g->event, g->event_bytes);
	return req;
}

static inline struct wire_reply gx_copy(struct gx *g, enum wire_op op, const char *id, uint32_t chunks)
{
	struct wire_req req = gx_request(g, op, id, chunks);

	return gx_call(g, &req);
}

static inline uint64_t gx_lookup(struct gx *g, const char *id, uint32_t chunks)
{
	struct wire_req req = gx_request(g, WIRE_LOOKUP, id, chunks);
	struct wire_req query = {.op = WIRE_QUERY_PREFETCH_STATUS, .dialect = DIALECT, .request_id = slice_str(id)};

	gx_call(g, &req);
	return gx_call(g, &query).u;
}

static inline bool has_event(struct wire_reply r, char of, size_t bytes)
{
	return r.bytes.n == bytes && ((const char *)r.bytes.p)[0] == of;
}

static inline struct store_stats stats(struct gx *g)
{
	return fix_stats(g->f.srv->store);
}

static inline struct wire_req gx_plain(enum wire_op op, uint64_t instance)
{
	return (struct wire_req){.op = op, .dialect = DIALECT, .has_instance = true, .instance_id = instance};
}

#define UNTIL(condition)                                                              \
	do {                                                                          \
		int turns = 0;                                                        \
		for (; !(condition) && turns < WAIT_MS; turns++)                      \
			nanosleep(&(struct timespec){0, 1000000}, NULL);              \
		if (turns == WAIT_MS)                                                 \
			fail_msg("%s:%d: never: %s", __FILE__, __LINE__, #condition); \
	} while (0)

static inline void gx_threads(struct gx *g)
{
	struct server *srv = g->f.srv;
	struct why why = {0};
	char url[64];

	srv->conf.host = mem_strndup("127.0.0.1", 9);
	srv->conf.dialect = mem_strndup("D5", 2);
	srv->conf.max_message_mb = 16;
	srv->conf.max_gpu_workers = srv->conf.max_cpu_workers = 1;
	srv->conf.l1_write_ttl_seconds = 600;
	ok_or_fail(device_open(srv, &why), &why);
	ok_or_fail(workers_start(srv, &why), &why);
	ok_or_fail(control_start(srv, &why), &why);
	snprintf(url, sizeof(url), "tcp://127.0.0.1:%u", control_port(srv->control));
	ok_or_fail(ctl_client_open(url, DIALECT, MAX_TOKENS, &g->client, &why), &why);
}

static inline void gx_register(struct gx *g, struct gpu_pages *p, uint64_t instance)
{
	struct wire_req req = gx_registration(p, instance);
	uint32_t before = ctx_count(g->f.srv->contexts);

	gx_call(g, &req);
	assert_int_equal(ctx_count(g->f.srv->contexts), before + 1);
}

static inline void gx_open(struct gx *g)
{
	memset(g, 0, sizeof(*g));
	g->f.ids = calloc(MAX_TOKENS, sizeof(*g->f.ids));
	g->f.blocks = calloc(BLOCKS, sizeof(*g->f.blocks));
	assert_true(g->f.ids && g->f.blocks);
	for (uint32_t i = 0; i < BLOCKS; i++)
		g->f.blocks[i] = i;
	g->f.mem.shape =
		(struct engine_shape){.blocks = BLOCKS, .block_tokens = BLOCK, .heads = HEADS, .head_size = HEAD_SIZE};
	memset(g->event, 'c', sizeof(g->event));
	g->event_bytes = GPU_EVENT;
	fx_server(&g->f, CHASH_BLAKE3, CHUNK_TOKENS, 16);
	count_init(g->f.srv);
	g->f.srv->machine = gx_machine;
	if (gx_machine)
		place_ranges(g->f.srv);
	gx_threads(g);
	pages_open(&g->pages, "0");
	gx_register(g, &g->pages, INSTANCE);
}

/* As server.c stops; nothing may be left. */
static inline void gx_close(struct gx *g)
{
	struct server *srv = g->f.srv;

	ctl_client_close(g->client);
	atomic_store(&srv->stopping, true);
	control_quiesce(srv);
	assert_true(workers_stop(srv, WAIT_MS));
	assert_true(device_drain(srv, WAIT_MS));
	control_stop(srv);
	exec_destroy(g->f.e);
	sessions_destroy(srv->sessions);
	ctx_registry_destroy(srv->contexts);
	assert_true(device_close(srv, WAIT_MS));
	assert_int_equal(fix_stats(srv->store).locked, 0);
	assert_int_equal(fix_stats(srv->store).reserved, 0);
	assert_int_equal(fix_stats(srv->store).detached, 0);
	metrics_destroy(srv->metrics);
	prefix_destroy(srv->prefix);
	store_check(srv->store);
	store_destroy(srv->store);
	arena_destroy(srv->arena);
	mem_free(srv->conf.host);
	mem_free(srv->conf.dialect);
	mem_free(srv);
	pages_close(&g->pages);
	free(g->f.ids);
	free(g->f.blocks);
}

#endif
