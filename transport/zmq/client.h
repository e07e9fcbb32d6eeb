/* client.h - a DEALER that speaks LMCache MP: used by the CLI, the bench and tests of ours.
 *
 * One client = one connection, as an engine's. Requests may be pipelined: ctl_send gives a uid, ctl_recv returns replies in
 * any order. ctl_call does one round trip. Not thread-safe: one client per thread.
 * What can fail: -ETIMEDOUT, -ECONNREFUSED-like conditions appear as time-outs (ZMQ reconnects silently), -EPROTO.
 */
#ifndef TRANSPORT_ZMQ_CLIENT_H
#define TRANSPORT_ZMQ_CLIENT_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "transport/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

struct ctl_client;

/* `url`: "tcp://host:port", "ipc://path", "host:port". `max_tokens` sizes the scratch. */
int ctl_client_open(const char *url, enum wire_dialect dialect, uint32_t max_tokens, struct ctl_client **out,
		    struct why *why);
void ctl_client_close(struct ctl_client *c);
enum wire_dialect ctl_client_dialect(const struct ctl_client *c);

/* Encodes and sends; the uid is returned through *uid. `nframes_wanted`: see wire_request_encode (0 = newest shape). */
int ctl_send(struct ctl_client *c, const struct wire_req *req, size_t nframes_wanted, uint64_t *uid, struct why *why);

/* The next reply. `op` is what was sent under that uid (the caller knows). The reply borrows from the client until the next
 * ctl_recv. timeout_ms < 0 waits for ever. */
struct ctl_reply {
	uint64_t uid;
	struct slice payload; /* p NULL: two-frame None */
};
int ctl_recv(struct ctl_client *c, int timeout_ms, struct ctl_reply *out, struct why *why);

/* Send, wait for this uid (other replies are dropped), decode. */
int ctl_call(struct ctl_client *c, const struct wire_req *req, size_t nframes_wanted, int timeout_ms,
	     struct wire_reply *out, struct why *why);
/* Decodes with the client's scratch. */
int ctl_decode(struct ctl_client *c, enum wire_op op, struct slice payload, struct wire_reply *out, struct why *why);

#endif
