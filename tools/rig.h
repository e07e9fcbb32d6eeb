/* rig.h - what end-to-end measurements need besides an engine: the daemon as a child, a bare ZMQ echo as another child, and a
 * DEALER that sends requests encoded beforehand, so that only the round trip is timed.
 *
 * The echo is the floor: a ROUTER in a process of its own, as the daemon's is, that decodes nothing and answers at once with
 * the reply frames the daemon would send. Threads: one per link; the rest from main.
 */
#ifndef TOOLS_RIG_H
#define TOOLS_RIG_H

#include "daemon/base/why.h"
#include "tools/url.h"
#include "transport/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- children ------------------------------------------------------------------------------------------------ */

struct rig_daemon {
	pid_t pid;
	struct url url;
	char zmq[64], log[96], state[64];
};

/* Starts `binary server` on free ports of the loopback with `l1_gb` and `workers`, and waits until it answers. Its output goes
 * to d->log. */
int rig_daemon_start(const char *binary, double l1_gb, unsigned workers, struct rig_daemon *d, struct why *why);
/* SIGTERM, then waits; removes log and state. Returns its exit code, -1 when it had to be killed. */
int rig_daemon_stop(struct rig_daemon *d);

struct rig_echo {
	pid_t pid;
	struct url url;
};
/* Forks: call before the process has threads or sockets. */
int rig_echo_start(struct rig_echo *e, struct why *why);
void rig_echo_stop(struct rig_echo *e);

/* ---- links and messages -------------------------------------------------------------------------------------- */

struct rig_message {
	uint8_t *buf;
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2];
	size_t n;
};

int rig_encode(enum wire_dialect d, uint64_t uid, const struct wire_req *req, struct rig_message *out, struct why *why);
void rig_message_free(struct rig_message *m);

struct rig_link;

int rig_link_open(const struct url *url, int timeout_ms, struct rig_link **out, struct why *why);
void rig_link_close(struct rig_link *l);
int rig_send(struct rig_link *l, const struct rig_message *m, struct why *why);
/* One reply: its uid and payload (p NULL = none), borrowed until the next rig_recv. */
int rig_recv(struct rig_link *l, uint64_t *uid, struct slice *payload, struct why *why);
/* Send and wait for the next reply; *ns is the round trip. Only when nothing else is under way. */
int rig_round_trip(struct rig_link *l, const struct rig_message *m, uint64_t *ns, struct slice *payload,
		   struct why *why);

enum rig_answer { RIG_NO_PAYLOAD, RIG_PAYLOAD, RIG_EVERYTHING };
/* Tells the echo how to answer requests whose type frame equals that of `like`. */
int rig_echo_teach(struct rig_link *l, const struct rig_message *like, enum rig_answer how, struct slice payload,
		   struct why *why);

/* Median; sorts v. 0 of nothing. */
double rig_median(double *v, size_t n);

#endif
