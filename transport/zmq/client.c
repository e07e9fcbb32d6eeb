/* client.c - the DEALER side: encode into one reusable buffer, poll against deadlines, decode with one scratch.
 *
 * Normal path: wire_request_encode -> zmq_send per frame -> zmq_poll -> zmq_msg_recv per frame -> wire_reply_decode.
 * A reply is two or three frames (uid, type, payload or none); anything else from the peer is -EPROTO.
 * Source: shared protocol reference, section 2.
 */
#include "transport/zmq/client.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <zmq.h>

#define REPLY_FRAMES     3
#define FIRST_BUFFER     65536u
#define MAX_BUFFER       (2ull << 30) /* one request; above the largest pickle-mode COMMIT_STORE */
#define MAX_URL          512
#define HANDSHAKE_IVL_MS 10000

struct ctl_client {
	void *ctx, *sock;
	enum wire_dialect dialect;
	struct wire_scratch *scratch;
	uint64_t next_uid;
	uint8_t *buf;
	size_t cap;
	zmq_msg_t reply[REPLY_FRAMES +
			1]; /* of the last ctl_recv, lent to the caller; the last one is for what is too many */
	size_t nreply;
};

static int endpoint_of(const char *url, char out[MAX_URL], struct why *why)
{
	bool scheme = strstr(url, "://") != NULL;
	if (scheme && strncmp(url, "tcp://", 6) != 0 && strncmp(url, "ipc://", 6) != 0)
		return why_set(why, -EINVAL, "%.200s: only tcp://, ipc:// and host:port are ZMQ addresses", url);
	int n = snprintf(out, MAX_URL, "%s%s", scheme ? "" : "tcp://", url);
	if (n < 0 || n >= MAX_URL)
		return why_set(why, -EINVAL, "the ZMQ address is longer than %d bytes", MAX_URL - 1);
	return 0;
}

static int set_option(void *sock, int option, int value)
{
	return zmq_setsockopt(sock, option, &value, sizeof(value));
}

/* libzmq resolves names to IPv6 only, once ZMQ_IPV6 is on; servers bind 127.0.0.1 for "localhost". So only a literal
 * IPv6 address turns it on. */
static int open_socket(struct ctl_client *c, const char *endpoint, struct why *why)
{
	bool v6 = strncmp(endpoint, "tcp://[", 7) == 0;
	c->ctx = zmq_ctx_new();
	c->sock = c->ctx ? zmq_socket(c->ctx, ZMQ_DEALER) : NULL;
	if (!c->sock || set_option(c->sock, ZMQ_LINGER, 0) || set_option(c->sock, ZMQ_IPV6, v6) ||
	    set_option(c->sock, ZMQ_SNDHWM, 0) || set_option(c->sock, ZMQ_RCVHWM, 0) ||
	    set_option(c->sock, ZMQ_HANDSHAKE_IVL, HANDSHAKE_IVL_MS))
		return why_set(why, -zmq_errno(), "ZMQ socket: %s", zmq_strerror(zmq_errno()));
	if (zmq_connect(c->sock, endpoint) != 0)
		return why_set(why, -zmq_errno(), "%s: %s", endpoint, zmq_strerror(zmq_errno()));
	return 0;
}

int ctl_client_open(const char *url, enum wire_dialect dialect, uint32_t max_tokens, struct ctl_client **out,
		    struct why *why)
{
	char endpoint[MAX_URL];
	int rc = endpoint_of(url, endpoint, why);
	if (rc)
		return rc;
	struct ctl_client *c = mem_calloc(1, sizeof(*c));
	if (!c)
		return why_set(why, -ENOMEM, "no memory for a ZMQ client");
	c->dialect = dialect;
	c->cap = FIRST_BUFFER;
	c->buf = mem_calloc(1, c->cap);
	if (!c->buf || wire_scratch_create(max_tokens, 0, &c->scratch))
		rc = why_set(why, -ENOMEM, "no memory for a ZMQ client of %u tokens", max_tokens);
	if (!rc)
		rc = open_socket(c, endpoint, why);
	if (rc) {
		ctl_client_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

static void drop_reply(struct ctl_client *c)
{
	for (size_t i = 0; i < c->nreply; i++)
		zmq_msg_close(&c->reply[i]);
	c->nreply = 0;
}

void ctl_client_close(struct ctl_client *c)
{
	if (!c)
		return;
	drop_reply(c);
	if (c->sock)
		zmq_close(c->sock);
	if (c->ctx)
		zmq_ctx_term(c->ctx);
	if (c->scratch)
		wire_scratch_destroy(c->scratch);
	mem_free(c->buf);
	mem_free(c);
}

enum wire_dialect ctl_client_dialect(const struct ctl_client *c)
{
	return c->dialect;
}

static int grow_buffer(struct ctl_client *c, struct why *why)
{
	size_t cap = c->cap * 2;
	uint8_t *bigger = cap <= MAX_BUFFER ? mem_realloc(c->buf, cap) : NULL;
	if (!bigger)
		return why_set(why, -ENOMEM, "no memory for a request of more than %zu bytes", c->cap);
	c->buf = bigger;
	c->cap = cap;
	return 0;
}

static ssize_t encode(struct ctl_client *c, const struct wire_req *req, size_t nframes_wanted, struct slice *frames,
		      struct why *why)
{
	for (;;) {
		ssize_t n = wire_request_encode(c->dialect, c->next_uid, req, nframes_wanted, c->buf, c->cap, frames);
		if (n != -ENOSPC)
			return n >= 0 ? n
				      : why_set(why, (int)n, "%s cannot be sent as dialect %s", wire_op_name(req->op),
						wire_dialect_name(c->dialect));
		int rc = grow_buffer(c, why);
		if (rc)
			return rc;
	}
}

int ctl_send(struct ctl_client *c, const struct wire_req *req, size_t nframes_wanted, uint64_t *uid, struct why *why)
{
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2];
	ssize_t n = encode(c, req, nframes_wanted, frames, why);
	if (n < 0)
		return (int)n;
	for (ssize_t i = 0; i < n; i++) {
		int flags = ZMQ_DONTWAIT | (i + 1 < n ? ZMQ_SNDMORE : 0);
		if (zmq_send(c->sock, frames[i].p, frames[i].n, flags) < 0)
			return why_set(why, -zmq_errno(), "sending %s: %s", wire_op_name(req->op),
				       zmq_strerror(zmq_errno()));
	}
	*uid = c->next_uid++;
	return 0;
}

static int wait_readable(struct ctl_client *c, int timeout_ms, struct why *why)
{
	uint64_t end = clock_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
	for (;;) {
		uint64_t now = clock_ms();
		long left = timeout_ms < 0 ? -1 : now < end ? (long)(end - now) : 0;
		zmq_pollitem_t item = {.socket = c->sock, .events = ZMQ_POLLIN};
		int n = zmq_poll(&item, 1, left);
		if (n > 0)
			return 0;
		if (n < 0 && zmq_errno() != EINTR)
			return why_set(why, -zmq_errno(), "ZMQ poll: %s", zmq_strerror(zmq_errno()));
		if (n == 0 && timeout_ms >= 0)
			return why_set(why, -ETIMEDOUT, "no answer within %d ms", timeout_ms);
	}
}

/* All parts of one message; parts beyond the third are read and thrown away. Returns how many there were. */
static int recv_parts(struct ctl_client *c, struct why *why)
{
	int parts = 0, more = 1;
	while (more) {
		zmq_msg_t *m = &c->reply[c->nreply];
		zmq_msg_init(m);
		if (zmq_msg_recv(m, c->sock, 0) < 0) {
			zmq_msg_close(m);
			return why_set(why, -zmq_errno(), "receiving: %s", zmq_strerror(zmq_errno()));
		}
		more = zmq_msg_more(m);
		parts++;
		if (c->nreply == REPLY_FRAMES)
			zmq_msg_close(m);
		else
			c->nreply++;
	}
	return parts;
}

static struct slice part(struct ctl_client *c, size_t i)
{
	return slice_of(zmq_msg_data(&c->reply[i]), zmq_msg_size(&c->reply[i]));
}

int ctl_recv(struct ctl_client *c, int timeout_ms, struct ctl_reply *out, struct why *why)
{
	drop_reply(c);
	int rc = wait_readable(c, timeout_ms, why);
	if (rc)
		return rc;
	int parts = recv_parts(c, why);
	if (parts < 0)
		return parts;
	if (parts < 2 || parts > REPLY_FRAMES)
		return why_set(why, -EPROTO, "a reply of %d frames; the protocol has 2 or 3", parts);
	uint64_t number;
	struct slice name;
	if (wire_uid_decode(part(c, 0), &out->uid) || wire_type_decode(part(c, 1), &number, &name))
		return why_set(why, -EPROTO, "a reply without a readable uid and type: is this an LMCache MP server?");
	out->payload = parts == REPLY_FRAMES ? part(c, 2) : slice_of(NULL, 0);
	return 0;
}

int ctl_decode(struct ctl_client *c, enum wire_op op, struct slice payload, struct wire_reply *out, struct why *why)
{
	c->scratch->u32_used = 0;
	return wire_reply_decode(c->dialect, op, payload, c->scratch, out, why);
}

int ctl_call(struct ctl_client *c, const struct wire_req *req, size_t nframes_wanted, int timeout_ms,
	     struct wire_reply *out, struct why *why)
{
	uint64_t uid = 0, end = clock_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
	struct ctl_reply reply = {0};
	int rc = ctl_send(c, req, nframes_wanted, &uid, why);
	while (!rc) {
		uint64_t now = clock_ms();
		int left = timeout_ms < 0 ? -1 : now < end ? (int)(end - now) : 0;
		rc = ctl_recv(c, left, &reply, why);
		if (!rc && reply.uid == uid)
			return ctl_decode(c, req->op, reply.payload, out, why);
	}
	if (rc == -ETIMEDOUT)
		why_set(why, rc, "no answer to %s within %d ms", wire_op_name(req->op), timeout_ms);
	return rc;
}
