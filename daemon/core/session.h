/* session.h - state of one request: its chunk hashes, the lookup locks it holds, its prefetch job.
 *
 * With a tier below L1 (sessions_use) a lookup that finds less than it asked for in L1 starts a job there and is pending until the tier
 * calls sessions_loaded; what was loaded by then is locked like the rest. The job ends with the session's interest in it: a new
 * LOOKUP, END_SESSION, the death of the engine, the read TTL, or another session's need of room cancel it.
 *
 * A LOOKUP locks the hit prefix on behalf of its session; RETRIEVE, FREE_LOOKUP_LOCKS, END_SESSION, a second LOOKUP and the
 * read TTL give the locks back. The session remembers exactly which locks are still its own (per object a small count), so
 * nobody's unlock can release another request's lock.
 *
 * Engines choose request ids, and two engines may choose alike (TRT-LLM and vLLM's offline mode count from 0). A session
 * therefore belongs to the connection that looked up, its owner: the owner's requests mean its own session, and only when it has
 * none (its connection came back, or a worker asks on a connection of its own) another one of that id. A worker's RETRIEVE means
 * the session that holds the locks of the very objects it reads.
 *
 * Threads: any. Lock: LK_SESSIONS; the store's lock is taken inside. Memory: bounded by SESSIONS_MAX and the totals in
 * session_int.h; the session unused longest gives way. Memory of a session is reused by the next.
 */
#ifndef DAEMON_CORE_SESSION_H
#define DAEMON_CORE_SESSION_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "daemon/store/store.h"
#include "daemon/tier/tier.h"

#include <stdbool.h>
#include <stdint.h>

struct sessions;

#define SESSIONS_MAX 262144u

int sessions_create(struct store *store, uint64_t read_ttl_ms, struct sessions **out);
void sessions_destroy(struct sessions *s);

/* One kind of objects: their layout, which implies their size. */
struct session_form {
	uint64_t object_bytes;
	uint8_t layout[SEG_DIGEST];
};
#define SESSION_FORMS 8u

struct session_lookup {
	struct slice request_id, model, salt;
	uint64_t owner;      /* who asked: serial of the peer */
	uint32_t world_size; /* 1 to 255 */
	uint16_t locks;      /* per object: 1 + extra readers */
#define SESSION_ANY_SIZE UINT64_MAX
	uint64_t object_bytes; /* of a hit; SESSION_ANY_SIZE; 0 = no instance registered: no hits */
	/* What the objects may be: one form, or several that share the name (pipeline stages of unequal depth; engines that have nothing in common
	 * but a name). Of several each rank gets one, once for the whole lookup: the first of the asker's own (the first nown) of which there
	 * is anything, else that with the longest hit prefix in L1, else the first of which there is something below. None: objects
	 * without a layout (all zero), and nothing is looked for below. */
	const struct session_form *forms;
	uint32_t nforms, nown;
	const struct store_hash *hashes;
	uint32_t nchunks;
	uint64_t now_ms;
	node_id node; /* where what is loaded should go */
};
struct session_hits {
	uint32_t chunks;  /* whole chunks found on all ranks; in L1, when more is pending */
	uint32_t objects; /* objects found, including those of an incomplete chunk */
	uint64_t job_id;  /* D1 */
	bool pending;     /* the tier below is asked for the rest */
};
/* Locks the hit prefix, at most SESSION_LOOKUP_OBJECTS objects. 0, -ENOMEM, -ENOSPC (the id is too long). */
#define SESSION_LOOKUP_OBJECTS (1u << 18)
int sessions_lookup(struct sessions *s, const struct session_lookup *l, struct session_hits *out);

/* QUERY_PREFETCH_STATUS (take: the job is removed, unless it is pending) and QUERY_PREFETCH_LOOKUP_HITS (not removed; while objects
 * are loaded, what was found). Chunks; 0 when unknown; SESSION_PENDING. */
#define SESSION_PENDING UINT32_MAX
uint32_t sessions_query(struct sessions *s, struct slice request_id, uint64_t owner, bool take);
uint32_t sessions_query_job(struct sessions *s, uint64_t job_id, bool take);
/* WAIT_PREFETCH_STATUS: as sessions_query with take; when pending also the job to ask for later. */
uint32_t sessions_wait(struct sessions *s, struct slice request_id, uint64_t owner, uint64_t *job_id);

/* Chunks [first, first+n) of one rank, or of all (rank < 0), as a request names them. `objs`: what they are, n of them, when a
 * worker knows (then rank >= 0), else NULL. */
struct session_range {
	struct slice request_id;
	uint64_t owner;
	uint32_t first, n;
	int rank;
	const store_obj *objs;
};

/* Gives back up to `count` locks per object. Returns the number of objects that gave one back. */
uint32_t sessions_release(struct sessions *s, const struct session_range *r, uint16_t count, uint64_t now_ms);

/* True when a session of that id still holds a lock on each of `objs`: what RETRIEVE requires (protocol reference 7.6). A chunk
 * that was cleared and stored anew is another object. */
bool sessions_holds(struct sessions *s, const struct session_range *r);

/* Remembers how far a request's tokens reach (STORE), so that END_SESSION can renew the whole prompt. */
void sessions_extend(struct sessions *s, struct slice request_id, const struct store_hash *hashes, uint32_t nchunks);

/* END_SESSION: gives back what is left, renews the age of the prompt. owner 0: all sessions of that id. False when unknown. */
bool sessions_end(struct sessions *s, struct slice request_id, uint64_t owner, uint64_t now_ms);

/* An engine died: gives back the locks of requests its connection asked for (owner), and, when model is not empty, of every
 * request for that model and world size (its last instance is gone, so nobody can retrieve them). Returns sessions affected. */
uint32_t sessions_orphan(struct sessions *s, uint64_t owner, struct slice model, uint32_t world_size, uint64_t now_ms);

/* Expires locks older than the read TTL and sessions idle for 600 s. Returns how many sessions lost locks. */
uint32_t sessions_sweep(struct sessions *s, uint64_t now_ms);

/* ---- the tier below L1 -------------------------------------------------------------------------------------------- */

/* How a pending lookup ended, for the metrics. */
struct session_done {
	struct slice model, salt;
	uint32_t world_size, l1_chunks, chunks; /* whole chunks of L1 alone, and in all */
	struct tier_result result;
};

/* What the sessions need of the tier. Called with LK_SESSIONS held: quick, and only locks of a higher rank. Any of the first four as in
 * tier.h. */
struct sessions_tier {
	void *ctx;
	bool (*may_have)(void *ctx, const struct seg_key *first, uint64_t bytes);
	int (*prefetch)(void *ctx, const struct tier_want *w);
	void (*cancel)(void *ctx, uint64_t id);
	/* NULL: nobody wants to know of hits. */
	void (*touched)(void *ctx, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n);
	/* The number of these objects in the names table; 0: they have none, so nothing is there. */
	uint32_t (*name)(void *ctx, struct slice model, uint32_t kv_rank, struct slice salt, const uint8_t *layout);
	/* A job is not pending any more; d is NULL when it was cancelled. */
	void (*done)(void *ctx, const struct session_done *d);
};
/* Before the first lookup; and with NULL before the tier goes: ends every job. Copied. */
void sessions_use(struct sessions *s, const struct sessions_tier *tier);
/* The tier's listener (tier.h), on its thread. */
void sessions_found(struct sessions *s, uint64_t job_id, uint32_t found);
bool sessions_loaded(struct sessions *s, uint64_t job_id, const struct tier_result *r, const store_obj *objs,
		     uint64_t now_ms);

struct sessions_stats {
	uint64_t active, jobs, pending, locks_expired;
};
void sessions_stats(struct sessions *s, struct sessions_stats *out);

#endif
