/* device.h - GPU engines: the CUDA door, and STOREs and RETRIEVEs that go on when their worker has turned to the next request.
 *
 * A worker checks, hashes, reserves or locks, hands the copy to its GPU's thread and goes on. That thread calls back twice: `submitted`,
 * when the copies are queued, sends the reply, whose event covers them; `done`, when the bytes are there, makes objects readable or
 * gives locks back. Until then a record here owns the slots, the namespace and a reference to the context: nobody's time limit, CLEAR,
 * UNREGISTER or death frees a slot that CUDA may still touch.
 *
 * What a client sees, as with the reference server: the objects of a STORE are there when its event has happened, not when its reply
 * has come. A LOOKUP in between finds what is readable by then. A RETRIEVE follows the STORE whose objects it wants without more ado: it
 * needs the locks of a LOOKUP, which gives them for readable objects only.
 *
 * Threads: open, drain and close by main; the rest from any. Lock: LK_COPIES guards the records; the store's lock is taken inside.
 * Memory: records are kept for reuse; a copy allocates only when all are in use or its prompt is longer than those before.
 */
#ifndef DAEMON_CORE_DEVICE_H
#define DAEMON_CORE_DEVICE_H

#include "daemon/base/why.h"
#include "transport/cuda/gpu.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct server;
struct exec;
struct ctx;
struct moved;
struct wire_req;

/* Of one GPU: copies handed over and not queued yet, whose clients wait for an answer; and all that are not done. */
#define DEVICE_WAITING_MAX 256u
#define DEVICE_COPIES_MAX  1024u

/* Engines of the door: all, and those that are let go but still have copies or mappings. */
struct device_engines {
	_Atomic uint32_t all, leaving;
};

/* As --cuda says: without a driver or a GPU there is no door, which is one line of the log, or an error when it is required. */
int device_open(struct server *srv, struct why *why);
/* The workers have ended: lets all engines go, so that what waits for their events is given up, and waits until no copy is under way and no engine is leaving. False: something still is after `ms`, and the memory
 * of L1 and whatever callbacks use must stay. */
bool device_drain(struct server *srv, uint32_t ms);
/* After the last context. False as above. */
bool device_close(struct server *srv, uint32_t ms);
/* From time to time, by main: keys of copies that take longer than the write TTL are freed for others; contexts whose GPU lost its CUDA
 * context are dropped. */
void device_tick(struct server *srv, uint64_t now_ms);

/* Hands over the copy of what m holds, which is the record's from then on, and so is the answer to e's task: DEVICE_TAKEN. Else
 * nothing was taken: -EAGAIN (too many under way), -ENOMEM, -ENODEV (context lost), -ENOENT (dropped meanwhile), -EINVAL (event). */
#define DEVICE_TAKEN 1
int device_copy(struct exec *e, const struct wire_req *r, const struct moved *m, const struct kv_blocks *blocks,
		bool store);
/* An event for a negative answer to a request with `r`'s event: one of c's GPU that has happened, for a context unknown (NULL) of any
 * GPU in use; none when there is none. Points into e. */
struct slice device_idle_event(struct exec *e, const struct wire_req *r, struct ctx *c);

/* True once for each instance that was dropped because its GPU lost its CUDA context: its next PING is answered false, and clients that
 * see the server come back register again. */
bool device_was_lost(struct server *srv, uint64_t instance_id);

/* "cuda:0": as upstream labels it. */
void device_name(uint32_t gpu, char out[16]);
/* A new reference, or NULL: there is no door. */
json_t *device_status(struct server *srv);
/* Counters and gauges, before they are rendered. */
void device_refresh(struct server *srv);

#endif
