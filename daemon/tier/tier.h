/* tier.h - between L1 and the adapters below it: what is written down, what is brought up, and when to give up.
 *
 * One thread (lmca-l2) owns all jobs; requests and completions reach it by queues. It holds L1 locks on what is being written and
 * reservations on what is being loaded, so that eviction never touches bytes under IO.
 *
 * Store: every object that becomes readable in L1 is written to every adapter (policy default), then stays in L1 or leaves it (skip_l1).
 * Never a wait for an engine: when more than dirty_bytes wait, or an adapter is full or broken, the copy is dropped and counted.
 * Prefetch: a lookup's missing objects, in prefix order, from L1 (locked) or the first adapter that has them (loaded and then
 * locked), within a budget of bytes and of jobs. A job ends at the first object that is nowhere or failed, or at its deadline; what
 * arrived by then, as a prefix, is the result. A late buffer stays reserved until its IO is back and is then an ordinary object.
 * Two jobs that want one object load it once.
 *
 * Threads: any, except that the listener is called on the tier's thread without locks held. Own lock LK_TIER (queues only).
 */
#ifndef DAEMON_TIER_TIER_H
#define DAEMON_TIER_TIER_H

#include "daemon/l2/l2.h"
#include "daemon/store/store.h"

struct tier;

#define TIER_MAX_ADAPTERS 16u

enum tier_store_policy { TIER_STORE_DEFAULT, TIER_STORE_SKIP_L1 };
enum tier_prefetch_policy { TIER_PREFETCH_DEFAULT, TIER_PREFETCH_RETAIN }; /* loaded objects are temporary, or stay */
enum tier_admission { TIER_ADMIT_ALL, TIER_ADMIT_SECOND_TOUCH };

/* How a job went, in objects in prefix order from want.first. */
struct tier_result {
	uint32_t objects; /* the longest run that is locked now */
	uint32_t from_l2; /* of them: loaded */
	uint32_t found;   /* what L1 and L2 had when they were asked */
	enum tier_end {
		TIER_COMPLETE,  /* all that was found */
		TIER_LATE,      /* deadline */
		TIER_FAILED,    /* a load failed */
		TIER_NO_ROOM,   /* L1 could not make room: l1_oom */
		TIER_CONTENDED, /* somebody else was writing an object of it until the deadline */
	} end;
};

struct tier_listener {
	void *ctx;
	/* The adapters have been asked; objects[0, found) of the job exist. At most once, before `loaded`. */
	void (*found)(void *ctx, uint64_t id, uint32_t found);
	/* The job is over. objs: r->objects objects, each with want.locks locks that become the listener's if it returns true. */
	bool (*loaded)(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs);
};

struct tier_conf {
	struct store *store;
	struct seg_names *names;
	struct l2 **
		adapters; /* in flag order, copied; the adapters are the tier's once it exists (closed by tier_destroy) */
	uint32_t nadapters;
	enum tier_store_policy store_policy;
	enum tier_prefetch_policy prefetch_policy;
	enum tier_admission admission;
	uint32_t max_jobs; /* prefetches loading at once; others wait their turn */
	uint64_t
		max_load_bytes; /* bytes being loaded at once, of all jobs; a job larger than that loads piece by piece */
	uint64_t max_dirty_bytes; /* bytes waiting to be written; beyond, copies are dropped */
	uint64_t load_timeout_ms; /* of a job from its start; 0: no total limit ... */
	uint64_t stall_ms;        /* ... but at most so long without any progress of that job */
	struct tier_listener listener;
};

int tier_create(const struct tier_conf *conf, struct tier **out, struct why *why);
/* Stops accepting, lets stores in flight finish for up to wait_ms, ends jobs, closes adapters. */
void tier_destroy(struct tier *t, uint32_t wait_ms);

/* ---- storing ----------------------------------------------------------------------------------------------------------- */

/* objs[i] (0 skipped) are readable and locked once for the tier, which gives the lock back; at once, and counted as dropped, when too
 * much is waiting already. name: seg name of these objects. */
void tier_store(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n);
/* A lookup hit these, which it holds locked: with second-touch admission some are written now. Nothing otherwise. */
void tier_touched(struct tier *t, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n);

/* Calls done(ctx, result) on the tier's thread when everything handed over before is durable in every adapter (0), or as far as that
 * is possible (-EIO: something failed or was dropped since the last flush). -EAGAIN when too many are waiting. */
int tier_flush(struct tier *t, void (*done)(void *ctx, int result), void *ctx);

/* ---- prefetching -------------------------------------------------------------------------------------------------------- */

struct tier_want {
	uint64_t id;           /* the caller's */
	uint32_t world_size;   /* objects per chunk */
	const store_ns *ns;    /* per rank, of L1, each a reference that becomes the tier's, also when this fails */
	const uint32_t *names; /* per rank, of the names table */
	const struct store_hash *hashes; /* of the chunks, copied */
	uint32_t nchunks;
	uint32_t first; /* object (chunk * world_size + rank) the job starts at; those before are the caller's */
	uint64_t object_bytes;
	const uint64_t *
		rank_bytes; /* instead of object_bytes: per rank, as pipeline stages may differ; copied. NULL: all alike */
	uint16_t locks;
	node_id node; /* where to put what is loaded */
};

/* Quick: false when it is certain, from memory, that no adapter has the first missing object; then no job is needed. */
bool tier_may_have(struct tier *t, const struct seg_key *first, uint64_t bytes);
/* Takes the job; the listener hears of it. 0, or -ENOMEM, -EAGAIN (too many jobs waiting): then there is no job. */
int tier_prefetch(struct tier *t, const struct tier_want *w);
/* The request is gone: locks go back, loads finish into ordinary objects, the listener hears nothing more but a call of it that runs
 * already on the tier's thread. */
void tier_cancel(struct tier *t, uint64_t id);

/* ---- for operators -------------------------------------------------------------------------------------------------------- */

/* stored_objects to store_present: copies, that is objects times adapters. */
struct tier_stats {
	uint64_t store_requests, store_objects, store_bytes; /* handed over */
	uint64_t stored_objects, store_failed, store_dropped, store_present, not_admitted;
	uint64_t jobs, lookup_objects, hit_objects, load_objects, loaded_objects, load_failed;
	uint64_t no_room, not_found, contended, late_jobs, coalesced;
	uint64_t dirty_objects, dirty_bytes, loading_bytes, jobs_waiting, jobs_loading, quarantined_bytes;
	double last_progress_s;
	int cpu;
};
void tier_stats(struct tier *t, struct tier_stats *out);
uint32_t tier_adapters(const struct tier *t);
struct l2 *tier_adapter(const struct tier *t, uint32_t i);
/* What is counted of the objects of one name; HIT includes what L1 had after the first missing one. */
enum tier_count {
	TIER_COUNT_STORE, /* handed over */
	TIER_COUNT_STORED,
	TIER_COUNT_LOOKUP,
	TIER_COUNT_HIT,
	TIER_COUNT_LOAD,
	TIER_COUNT_LOADED,
	TIER_COUNT_NO_ROOM, /* this and the following: why an object was not brought up */
	TIER_COUNT_NOT_FOUND,
	TIER_COUNT_CONTENDED,
	TIER_COUNT_FAILED,
	TIER_COUNTS
};

/* Per adapter and object: bytes stored or loaded and the time it took, for metrics: called on the tier's thread. NULL: none. */
struct tier_meter {
	void *ctx;
	void (*stored)(void *ctx, uint32_t adapter, uint64_t bytes, uint64_t ns);
	void (*loaded)(void *ctx, uint32_t adapter, uint64_t bytes, uint64_t ns);
	/* n objects of that number in the names table. NULL: not wanted. Any thread that calls the tier, with its locks held. */
	void (*counted)(void *ctx, enum tier_count what, uint32_t name, uint32_t n);
};
void tier_meter(struct tier *t, const struct tier_meter *m); /* before the first request */

#endif
