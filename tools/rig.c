/* rig.c - links: a DEALER with requests encoded beforehand. Children are in rig_children.c. */
#include "tools/rig.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define MAX_PARTS 3

struct rig_link {
	void *ctx, *sock;
	zmq_msg_t parts[MAX_PARTS + 1]; /* the last one is for what is too many */
	size_t nparts;
};

static int zmq_failed(struct why *why, const char *doing)
{
	return why_set(why, -zmq_errno(), "%s: %s", doing, zmq_strerror(zmq_errno()));
}

int rig_encode(enum wire_dialect d, uint64_t uid, const struct wire_req *req, struct rig_message *out, struct why *why)
{
	for (size_t cap = 4096 + req->key.tokens.count * 5ull;; cap *= 2) {
		memset(out, 0, sizeof(*out));
		out->buf = mem_calloc(1, cap);
		if (!out->buf)
			return why_set(why, -ENOMEM, "no memory for a request of %zu bytes", cap);
		ssize_t n = wire_request_encode(d, uid, req, 0, out->buf, cap, out->frames);
		if (n > 0) {
			out->n = (size_t)n;
			return 0;
		}
		rig_message_free(out);
		if (n != -ENOSPC)
			return why_set(why, (int)n, "encoding %s failed", wire_op_name(req->op));
	}
}

void rig_message_free(struct rig_message *m)
{
	mem_free(m->buf);
	m->buf = NULL;
}

int rig_link_open(const struct url *url, int timeout_ms, struct rig_link **out, struct why *why)
{
	int zero = 0;
	struct rig_link *l = mem_calloc(1, sizeof(*l));
	if (!l)
		return why_set(why, -ENOMEM, "no memory for a link");
	l->ctx = zmq_ctx_new();
	l->sock = l->ctx ? zmq_socket(l->ctx, ZMQ_DEALER) : NULL;
	if (!l->sock || zmq_setsockopt(l->sock, ZMQ_LINGER, &zero, sizeof(zero)) ||
	    zmq_setsockopt(l->sock, ZMQ_RCVTIMEO, &timeout_ms, sizeof(timeout_ms)) ||
	    zmq_setsockopt(l->sock, ZMQ_SNDHWM, &zero, sizeof(zero)) ||
	    zmq_setsockopt(l->sock, ZMQ_RCVHWM, &zero, sizeof(zero)) || zmq_connect(l->sock, url->text)) {
		int rc = zmq_failed(why, url->text);
		rig_link_close(l);
		return rc;
	}
	*out = l;
	return 0;
}

static void drop(struct rig_link *l)
{
	for (size_t i = 0; i < l->nparts; i++)
		zmq_msg_close(&l->parts[i]);
	l->nparts = 0;
}

void rig_link_close(struct rig_link *l)
{
	if (!l)
		return;
	drop(l);
	if (l->sock)
		zmq_close(l->sock);
	if (l->ctx)
		zmq_ctx_term(l->ctx);
	mem_free(l);
}

static int send_frame(struct rig_link *l, struct slice f, bool more, struct why *why)
{
	return zmq_send(l->sock, f.p, f.n, more ? ZMQ_SNDMORE : 0) < 0 ? zmq_failed(why, "sending") : 0;
}

int rig_send(struct rig_link *l, const struct rig_message *m, struct why *why)
{
	int rc = 0;
	for (size_t i = 0; i < m->n && !rc; i++)
		rc = send_frame(l, m->frames[i], i + 1 < m->n, why);
	return rc;
}

int rig_recv(struct rig_link *l, uint64_t *uid, struct slice *payload, struct why *why)
{
	int more = 1;
	drop(l);
	while (more) {
		zmq_msg_t *m = &l->parts[l->nparts];
		zmq_msg_init(m);
		if (zmq_msg_recv(m, l->sock, 0) < 0)
			return zmq_failed(why, "waiting for a reply");
		more = zmq_msg_more(m);
		if (l->nparts == MAX_PARTS)
			zmq_msg_close(m);
		else
			l->nparts++;
	}
	if (l->nparts < 2 || wire_uid_decode(slice_of(zmq_msg_data(&l->parts[0]), zmq_msg_size(&l->parts[0])), uid))
		return why_set(why, -EPROTO, "a reply without uid and type");
	*payload = slice_of(NULL, 0);
	if (l->nparts > 2)
		*payload = slice_of(zmq_msg_data(&l->parts[2]), zmq_msg_size(&l->parts[2]));
	return 0;
}

int rig_round_trip(struct rig_link *l, const struct rig_message *m, uint64_t *ns, struct slice *payload,
		   struct why *why)
{
	uint64_t uid, start = clock_ns();
	int rc = rig_send(l, m, why);
	if (!rc)
		rc = rig_recv(l, &uid, payload, why);
	*ns = clock_ns() - start;
	return rc;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

double rig_median(double *v, size_t n)
{
	if (n == 0)
		return 0;
	qsort(v, n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Four frames to the echo: the word, the type frame, how, and the payload. It answers with the first two. */
int rig_echo_teach(struct rig_link *l, const struct rig_message *like, enum rig_answer how, struct slice payload,
		   struct why *why)
{
	uint8_t kind = (uint8_t)how;
	uint64_t uid;
	struct slice answer;
	int rc = send_frame(l, slice_of("\x00TEACH", 6), true, why);
	if (!rc)
		rc = send_frame(l, like->frames[1], true, why);
	if (!rc)
		rc = send_frame(l, slice_of(&kind, 1), true, why);
	if (!rc)
		rc = send_frame(l, payload.p ? payload : slice_of("", 0), false, why);
	return rc ? rc : rig_recv(l, &uid, &answer, why);
}
