/* peer.h - what the control thread knows of each ZMQ peer: its dialect, its queued requests, its instances.
 *
 * A peer is a ROUTER identity, which libzmq invents per connection; nothing tells when one is gone, so the table is bounded and
 * the one unused longest gives way. Threads: control only.
 */
#ifndef DAEMON_CORE_PEER_H
#define DAEMON_CORE_PEER_H

#include "daemon/base/slice.h"
#include "daemon/core/core_int.h"

#define PEERS_MAX      16384u
#define PEER_INSTANCES 8u

struct peer {
	struct peer *next, *older, *younger;
	uint8_t id[255];
	uint8_t id_bytes;
	bool bound; /* recognised by its first request or by an override */
	wire_dialect_set candidates;
	enum wire_dialect dialect; /* best guess among candidates */
	uint32_t pending[LANES];
	uint32_t admitting, admitter; /* of pending[LANE_TRANSFER]: with a thread that registers, and with which */
	uint32_t affinity;
	uint32_t transfer_worker; /* its own from the first registration on; WORKER_NONE: by affinity */
	uint32_t next_worker;     /* to move to once nothing of its lane is in flight; WORKER_NONE */
	uint64_t serial;          /* never reused */
	uint64_t instance[PEER_INSTANCES];
	uint32_t ninstances;
	uint64_t seen_ms;
	uint32_t warned; /* unknown requests logged */
};

/* To a worker of the task's lane. The reply is there, or has been sent: the peer's next may go. */
void lane_send(struct server *srv, struct task *t);
void lane_answered(struct server *srv, struct task *t);

struct peers;
int peers_create(struct peers **out);
void peers_destroy(struct peers *p);
/* Finds or makes it; NULL when out of memory or when every peer has requests in flight. */
struct peer *peers_get(struct peers *p, struct slice id);
uint32_t peers_count(const struct peers *p);
/* Which of n transfer workers has the peer's next request. Its transfers stay in order because one worker has them all: it moves
 * to `next_worker` once, and only while nothing of that lane is in flight. */
uint32_t peer_transfer_worker(struct peer *p, uint32_t n);
/* Adds to engines[w], for each of n workers, the peers that have it and an instance that is registered still. */
void peers_count_engines(const struct peers *t, struct ctx_registry *contexts, uint32_t n, uint32_t *engines);

/* Makes sure the peer's dialect is known well enough to act on this request; false: drop it. */
bool recognise(struct server *srv, struct exec *e, struct peer *p, const struct task *t, uint64_t number);

#endif
