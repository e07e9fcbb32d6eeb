/* The client against a ROUTER in a thread of the test that answers from a script. */
#include "transport/zmq/client.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#define MAX_FRAMES 16

struct script {
	const char *what; /* which answer */
	void *ctx, *router;
	char url[64];
	pthread_t thread;
	_Atomic size_t last_bytes; /* of the last request's largest frame */
	_Atomic int last_frames;
};

static void answer(struct script *s, const uint8_t *id, size_t nid, const uint8_t *uid, size_t nuid,
		   const uint8_t *type, size_t ntype, const void *payload, size_t n)
{
	zmq_send(s->router, id, nid, ZMQ_SNDMORE);
	zmq_send(s->router, uid, nuid, ZMQ_SNDMORE);
	zmq_send(s->router, type, ntype, payload ? ZMQ_SNDMORE : 0);
	if (payload)
		zmq_send(s->router, payload, n, 0);
}

static void play(struct script *s, zmq_msg_t *m)
{
	const uint8_t *id = zmq_msg_data(&m[0]), *uid = zmq_msg_data(&m[1]), *type = zmq_msg_data(&m[2]);
	size_t nid = zmq_msg_size(&m[0]), nuid = zmq_msg_size(&m[1]), ntype = zmq_msg_size(&m[2]);
	static const uint8_t stranger[] = {0xCD, 0x7F, 0xFF};
	if (strcmp(s->what, "chunk size") == 0) {
		answer(s, id, nid, uid, nuid, type, ntype, "\xcd\x01\x00", 3);
	} else if (strcmp(s->what, "none") == 0) {
		answer(s, id, nid, uid, nuid, type, ntype, NULL, 0);
	} else if (strcmp(s->what, "strangers first") == 0) {
		answer(s, id, nid, stranger, sizeof(stranger), type, ntype, "\x05", 1);
		answer(s, id, nid, uid, nuid, type, ntype, "\xcd\x01\x00", 3);
	} else if (strcmp(s->what, "wrong type") == 0) {
		answer(s, id, nid, uid, nuid, type, ntype, "\xa1x", 2);
	} else if (strcmp(s->what, "garbage uid") == 0) {
		answer(s, id, nid, (const uint8_t *)"\xc1", 1, type, ntype, "\x05", 1);
	} else if (strcmp(s->what, "one frame") == 0) {
		zmq_send(s->router, id, nid, ZMQ_SNDMORE);
		zmq_send(s->router, "x", 1, 0);
	} else if (strcmp(s->what, "many frames") == 0) {
		zmq_send(s->router, id, nid, ZMQ_SNDMORE);
		for (int i = 0; i < 40; i++)
			zmq_send(s->router, "\x01", 1, i < 39 ? ZMQ_SNDMORE : 0);
	}
}

static void *serve(void *arg)
{
	struct script *s = arg;
	for (;;) {
		zmq_msg_t m[MAX_FRAMES];
		int n = 0, more = 1;
		while (more && n < MAX_FRAMES) {
			zmq_msg_init(&m[n]);
			if (zmq_msg_recv(&m[n], s->router, 0) < 0) {
				for (int i = 0; i <= n; i++)
					zmq_msg_close(&m[i]);
				zmq_close(s->router);
				return NULL;
			}
			more = zmq_msg_more(&m[n]);
			if (zmq_msg_size(&m[n]) > s->last_bytes)
				s->last_bytes = zmq_msg_size(&m[n]);
			n++;
		}
		s->last_frames = n;
		play(s, m);
		for (int i = 0; i < n; i++)
			zmq_msg_close(&m[i]);
	}
}

static void start(struct script *s, const char *what)
{
	size_t len = sizeof(s->url);
	memset(s, 0, sizeof(*s));
	s->what = what;
	s->ctx = zmq_ctx_new();
	s->router = zmq_socket(s->ctx, ZMQ_ROUTER);
	assert_int_equal(zmq_bind(s->router, "tcp://127.0.0.1:*"), 0);
	assert_int_equal(zmq_getsockopt(s->router, ZMQ_LAST_ENDPOINT, s->url, &len), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stop(struct script *s)
{
	zmq_ctx_shutdown(s->ctx);
	pthread_join(s->thread, NULL);
	zmq_ctx_term(s->ctx);
}

static int ask(const char *what, enum wire_op op, int timeout_ms, struct wire_reply *reply, struct why *why)
{
	struct script s;
	struct ctl_client *c;
	struct wire_req req = {.op = op, .request_id = slice_str("r")};
	start(&s, what);
	assert_int_equal(ctl_client_open(s.url, WIRE_D6, 1024, &c, why), 0);
	int rc = ctl_call(c, &req, 0, timeout_ms, reply, why);
	ctl_client_close(c);
	stop(&s);
	return rc;
}

static void t01_round_trip(void **state)
{
	(void)state;
	struct wire_reply reply;
	struct why why = {0};
	assert_int_equal(ask("chunk size", WIRE_GET_CHUNK_SIZE, 5000, &reply, &why), 0);
	assert_int_equal(reply.kind, WIRE_REPLY_UINT);
	assert_int_equal(reply.u, 256);
}

static void t02_two_frames_are_none(void **state)
{
	(void)state;
	struct wire_reply reply;
	struct why why = {0};
	assert_int_equal(ask("none", WIRE_QUERY_PREFETCH_STATUS, 5000, &reply, &why), 0);
	assert_int_equal(reply.kind, WIRE_REPLY_NONE);
}

static void t03_other_uids_are_dropped(void **state)
{
	(void)state;
	struct wire_reply reply;
	struct why why = {0};
	assert_int_equal(ask("strangers first", WIRE_GET_CHUNK_SIZE, 5000, &reply, &why), 0);
	assert_int_equal(reply.u, 256);
}

static void t04_time_out(void **state)
{
	(void)state;
	struct wire_reply reply;
	struct why why = {0};
	uint64_t before = clock_ms();
	assert_int_equal(ask("silence", WIRE_NOOP, 200, &reply, &why), -ETIMEDOUT);
	assert_in_range(clock_ms() - before, 195, 3000);
	assert_string_equal(why.text, "no answer to NOOP within 200 ms");
}

static void t05_hostile_replies(void **state)
{
	(void)state;
	static const char *const scripts[] = {"wrong type", "garbage uid", "one frame", "many frames"};
	for (size_t i = 0; i < 4; i++) {
		struct wire_reply reply;
		struct why why = {0};
		assert_int_equal(ask(scripts[i], WIRE_GET_CHUNK_SIZE, 5000, &reply, &why), -EPROTO);
		assert_int_equal(why.err, -EPROTO);
	}
}

static void t06_large_request_grows_the_buffer(void **state)
{
	(void)state;
	struct script s;
	struct ctl_client *c;
	struct wire_reply reply;
	struct why why = {0};
	uint32_t n = 200000, *ids = malloc(n * sizeof(*ids));
	for (uint32_t i = 0; i < n; i++)
		ids[i] = 100000 + i;
	struct wire_req req = {.op = WIRE_LOOKUP, .has_key = true, .tp_size = 1};
	req.key = (struct wire_key){.model = slice_str("m"),
				    .world_size = 1,
				    .worker_id = -1,
				    .tokens = {.ids = ids, .count = n},
				    .request_id = slice_str("r"),
				    .has_salt = true};
	start(&s, "none");
	assert_int_equal(ctl_client_open(s.url, WIRE_D6, n, &c, &why), 0);
	assert_int_equal(ctl_call(c, &req, 0, 5000, &reply, &why), 0);
	assert_int_equal(s.last_frames, 5);
	assert_in_range(s.last_bytes, n * 5, n * 5 + 256);
	assert_int_equal(ctl_client_dialect(c), WIRE_D6);
	ctl_client_close(c);
	stop(&s);
	free(ids);
}

static void t07_pipelined(void **state)
{
	(void)state;
	struct script s;
	struct ctl_client *c;
	struct why why = {0};
	struct wire_req req = {.op = WIRE_GET_CHUNK_SIZE};
	uint64_t uid[50], seen = 0;
	start(&s, "chunk size");
	assert_int_equal(ctl_client_open(s.url, WIRE_D6, 16, &c, &why), 0);
	for (int i = 0; i < 50; i++)
		assert_int_equal(ctl_send(c, &req, 0, &uid[i], &why), 0);
	for (int i = 0; i < 50; i++) {
		struct ctl_reply r;
		assert_int_equal(ctl_recv(c, 5000, &r, &why), 0);
		assert_int_equal(uid[r.uid], r.uid);
		seen |= 1ull << r.uid;
	}
	assert_int_equal(seen, (1ull << 50) - 1);
	ctl_client_close(c);
	stop(&s);
}

static void t08_addresses(void **state)
{
	(void)state;
	static const struct {
		const char *url;
		int rc;
	} cases[] = {
		{"127.0.0.1:1", 0},
		{"tcp://127.0.0.1:1", 0},
		{"ipc:///tmp/nobody.sock", 0},
		{"http://x:1", -EINVAL},
		{"inproc://x", -EINVAL},
		{"tcp://127.0.0.1", -EINVAL},
		{"[::1]:1", 0},
		{"", -EINVAL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ctl_client *c = NULL;
		struct why why = {0};
		int rc = ctl_client_open(cases[i].url, WIRE_D2, 16, &c, &why);
		if (rc != cases[i].rc)
			fail_msg("%s: %d (%s)", cases[i].url, rc, why.text);
		ctl_client_close(c);
	}
}

static void t09_operation_the_dialect_lacks(void **state)
{
	(void)state;
	struct ctl_client *c;
	struct why why = {0};
	struct wire_req req = {.op = WIRE_PREPARE_STORE};
	uint64_t uid;
	assert_int_equal(ctl_client_open("127.0.0.1:1", WIRE_D2, 16, &c, &why), 0);
	assert_int_equal(ctl_send(c, &req, 0, &uid, &why), -EOPNOTSUPP);
	assert_string_equal(why.text, "PREPARE_STORE cannot be sent as dialect D2");
	ctl_client_close(c);
}

static void t10_out_of_memory(void **state)
{
	(void)state;
	int rc = -ENOMEM;
	for (uint64_t n = 1; rc; n++) {
		struct ctl_client *c = NULL;
		struct why why = {0};
		mem_fail_at(n);
		rc = ctl_client_open("127.0.0.1:1", WIRE_D2, 16, &c, &why);
		mem_fail_at(0);
		ctl_client_close(c);
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_true(n < 20);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_round_trip),
		cmocka_unit_test(t02_two_frames_are_none),
		cmocka_unit_test(t03_other_uids_are_dropped),
		cmocka_unit_test(t04_time_out),
		cmocka_unit_test(t05_hostile_replies),
		cmocka_unit_test(t06_large_request_grows_the_buffer),
		cmocka_unit_test(t07_pipelined),
		cmocka_unit_test(t08_addresses),
		cmocka_unit_test(t09_operation_the_dialect_lacks),
		cmocka_unit_test(t10_out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
