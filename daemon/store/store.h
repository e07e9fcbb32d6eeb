/* store.h - the L1 tier: slots in the arena, the chunk index, locks, eviction.
 *
 * An object is one chunk of one KV rank. Its key is (namespace, chunk hash), where a namespace interns (model, kv_rank,
 * object group, cache salt, layout digest: what the bytes mean, so that nobody is given bytes that he would read as others). States: absent -> reserved (invisible to lookups, bytes being written) -> readable
 * (counted locks) -> gone; a readable object that is cleared, deleted or replaced while locked becomes detached: its key
 * vanishes at once, its bytes live until the last lock goes.
 *
 * Locks are owned by whoever took them (a session, a transfer): the store counts, the owner remembers and enforces its
 * time limit. An object id (store_obj) stays valid while its owner holds a reservation or a lock on it, and not longer.
 *
 * Threads: any. One mutex (rank LK_STORE) guards index, slots and eviction lists; every call is a batch, so it is taken once
 * per request and never during a copy. Calls cost no allocation and no system call, except store_ns_get for a new
 * namespace and growth of a lazy arena (arena_commit is called without the lock held).
 * Eviction: by bytes, on demand when a reservation finds no room, and by watermark from store_tick. Never a locked or
 * reserved object. Within one touched batch the tail goes before the head. In age order; among slots of mixed sizes objects
 * of about that age that lie together, so that what is freed fits (window.c), down to at worst 5 % of the arena lying idle.
 * Memory beside the slot: at most 96 bytes per object (record 64, slot 12, bucket 4 to 8, free blocks 24 each); once checksums are
 * used, at most 4 bytes per `align` bytes of the arena for them.
 */
#ifndef DAEMON_STORE_STORE_H
#define DAEMON_STORE_STORE_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "numa/node.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

#define STORE_HASH_BYTES   32
#define STORE_LAYOUT_BYTES 16

typedef uint32_t store_obj; /* 0 = none */
typedef uint32_t store_ns;  /* 0 = none */

struct store_hash {
	uint8_t b[STORE_HASH_BYTES]; /* shorter hashes are zero-padded */
};

/* When the node a writer asks for is full: take the nearest that has room, or evict at home first. */
enum store_spill { STORE_SPILL_NEAR, STORE_SPILL_EVICT };

enum store_policy { STORE_LRU, STORE_NOOP, STORE_ISOLATED_LRU };

/* Told about life-cycle facts of sampled objects; called with the store's lock held: must be quick and not call back. */
struct store_observer {
	void *ctx;
	void (*evicted)(void *ctx, double lifetime_s, double idle_s);
	void (*reused)(void *ctx, double gap_s);
};

struct store_conf {
	struct arena *arena; /* borrowed until store_destroy */
	enum store_policy policy;
	double trigger_watermark; /* of the arena's bytes; 0 < w <= 1 */
	double eviction_ratio;    /* share of the used bytes evicted per triggered tick */
	uint32_t align;           /* slot alignment and granularity: a power of two >= 4096 */
	uint32_t max_objects;     /* 0 = arena bytes / align, at most 2^31 */
	enum store_spill spill;
	/* Distance from range i to range j of the arena at [i * nranges + j], 0 = unknown (comes last); copied. NULL: all alike. */
	const uint32_t *distance;
	double sample_rate; /* share of objects observed, chosen by key */
	struct store_observer observer;
};

struct store;

int store_create(const struct store_conf *conf, struct store **out, struct why *why);
void store_destroy(struct store *s);

/* ---- namespaces ---------------------------------------------------------------------------------------------- */

/* `layout` is STORE_LAYOUT_BYTES of digest; NULL: all zero, for objects of which only one form exists.
 * Finds or makes the namespace and takes a reference; 0 when the table is full (65536), memory is out, or a text is too long
 * (model 4096 bytes, salt 512). A namespace goes away with its last reference and last object. Its salt groups it with others
 * for IsolatedLRU. */
store_ns store_ns_get(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		      const uint8_t *layout);
/* As above without making one: 0 when unknown (then no object can exist). */
store_ns store_ns_find(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		       const uint8_t *layout);
/* Those of all layouts, up to `max`, each with a reference; returns how many it filled in. Looks at every namespace: for operators. */
uint32_t store_ns_layouts(struct store *s, struct slice model, uint32_t kv_rank, uint32_t object_group,
			  struct slice salt, store_ns *out, uint32_t max);
void store_ns_put(struct store *s, store_ns ns);

/* ---- writing ------------------------------------------------------------------------------------------------- */

/* Reserves `bytes` for each of n new objects, in order, on the arena range of `node` (unknown, or without a range: where there is
 * most room). When that is full: in the nearest range with room, else by eviction; with STORE_SPILL_EVICT by eviction at
 * home first. A readable object of another size than `bytes` would be a miss for ever, so it is
 * replaced (detached while locked). out[i] = 0 for a key that is present or being written by someone else (counted in
 * `present`), or for which no room could be found even after eviction (counted in `refused`; when one is refused all later
 * ones are too). */
struct store_reserve_result {
	uint32_t reserved, present, refused;
};
struct store_reserve_result store_reserve(struct store *s, store_ns ns, const struct store_hash *hashes, uint32_t n,
					  uint64_t bytes, node_id node, uint64_t now_ms, store_obj *out);

/* The slot of an object the caller has reserved or locked. */
uint64_t store_offset(const struct store *s, store_obj o);
uint64_t store_bytes(const struct store *s, store_obj o);
void *store_ptr(const struct store *s, store_obj o);

/* Reserved -> readable (zeros are skipped); or given back. After either the caller no longer owns them. A reservation whose
 * key was cleared meanwhile is freed by commit, too. Returns how many became readable. */
uint32_t store_commit(struct store *s, const store_obj *objs, uint32_t n, uint64_t now_ms);
void store_abort(struct store *s, const store_obj *objs, uint32_t n);
/* As store_commit, and each that became readable is locked `count` times in the same step, so that eviction cannot come between;
 * the others become 0 in objs. `temporary`: gone with its last lock, unless somebody tries to store (reserves) it before. */
uint32_t store_commit_locked(struct store *s, store_obj *objs, uint32_t n, uint16_t count, bool temporary,
			     uint64_t now_ms);
/* Takes the key away from reservations (write TTL passed): others may store it; the slots stay until commit or abort, since
 * an engine may still be writing into them. A later commit then frees them and returns 0. */
void store_disown(struct store *s, const store_obj *objs, uint32_t n);

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* Locks (adds `count` to each) the longest prefix of objects in expansion order: chunk 0 rank 0, chunk 0 rank 1, ...;
 * ns[r] = 0 is a miss. Only readable objects whose size is `bytes` (0 = any) count. out[] receives the locked objects;
 * what was locked of an incomplete chunk is included. Returns the number of objects locked. Renews their age. */
uint32_t store_lock_prefix(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			   uint32_t nchunks, uint16_t count, uint64_t bytes, uint64_t now_ms, store_obj *out);
/* Locks (adds `count` to each) what is there of the n objects from position `first` in expansion order on: readable and of that
 * size; out[i] = 0 for the others. Returns how many. Not counted as lookups. */
uint32_t store_lock_present(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			    uint32_t first, uint32_t n, uint16_t count, uint64_t bytes, uint64_t now_ms,
			    store_obj *out);
/* All or nothing, one namespace, count 1: 0, or -ENOENT with the index of the first missing in *missing. */
int store_lock_all(struct store *s, store_ns ns, const struct store_hash *hashes, uint32_t n, uint64_t bytes,
		   uint64_t now_ms, store_obj *out, uint32_t *missing);
/* Gives back `counts[i]` locks of objs[i] (counts NULL = 1 each; zero objects are skipped). Objects that become free are put
 * at the young end, tail first. */
void store_unlock(struct store *s, const store_obj *objs, const uint16_t *counts, uint32_t n, uint64_t now_ms);
/* As store_unlock with one lock each; they leave L1 with that, or with the last lock of others (the policy that keeps no copy once
 * an object is written below). */
void store_unlock_drop(struct store *s, const store_obj *objs, uint32_t n, uint64_t now_ms);
/* One more lock on objects the caller holds locked; objs[i] becomes 0 where that is not possible. Returns how many got it. */
uint32_t store_lock_more(struct store *s, store_obj *objs, uint32_t n);
/* Checksums of the object's sub-blocks (daemon/base/crc32c.h), one per CRC_BLOCK; for the owner of a reservation or lock, any number of
 * them at once: what they set is the same. False while they are not known (or the first one happens to be 0). No lock. */
void store_sums_set(struct store *s, store_obj o, const uint32_t *sums);
bool store_sums_get(const struct store *s, store_obj o, uint32_t *sums);
/* Renews the age of what is there of a chain, so that a whole prompt ages together, head last. */
void store_touch(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
		 uint32_t nchunks, uint64_t now_ms);
/* How many leading objects a lock_prefix would find; takes nothing. */
uint32_t store_peek_prefix(struct store *s, const store_ns *ns, uint32_t nranks, const struct store_hash *hashes,
			   uint32_t nchunks, uint64_t bytes);

/* ---- housekeeping -------------------------------------------------------------------------------------------- */

/* Drops every key; locked and reserved objects are detached. Returns the number of keys dropped. */
uint64_t store_clear(struct store *s);
/* 0, -ENOENT, -EBUSY (locked or being written, and not forced: then it is detached). */
int store_delete(struct store *s, store_ns ns, const struct store_hash *hash, bool force);
/* Watermark eviction and quotas; call about once a second. Returns the bytes freed. */
uint64_t store_tick(struct store *s, uint64_t now_ms);

/* 0, -EINVAL (salt longer than 512 bytes), -ENOSPC (more than 4096 quotas, or no memory).
 * IsolatedLRU: soft limits per salt. A salt over its limit is cut back to it at the next tick; under pressure salts without
 * a quota, then those furthest over theirs, give way first. bytes = UINT64_MAX removes the quota. */
int store_quota_set(struct store *s, struct slice salt, uint64_t bytes);
struct store_quota {
	char salt[516];
	uint64_t limit_bytes; /* UINT64_MAX = none */
	uint64_t used_bytes;
};
/* Fills up to `max` salts that have a quota or objects; returns how many there are. */
uint32_t store_quota_list(struct store *s, struct store_quota *out, uint32_t max);

/* Arena range of an object the caller has reserved or locked. */
uint32_t store_range_of(const struct store *s, store_obj o);
/* Bytes of slots in use in each range; fills up to `max`, returns how many ranges there are. */
uint32_t store_range_used(struct store *s, uint64_t *out, uint32_t max);

struct store_stats {
	uint64_t objects, readable, reserved, locked, detached; /* objects = keys present (reserved + readable) */
	uint64_t temporary;                                     /* go with their last lock */
	uint64_t used_bytes, total_bytes, committed_bytes, largest_free_bytes;
	uint64_t short_bytes; /* not committed because the last try failed; store_tick tries again when room is short */
	uint64_t lookups, hits; /* objects asked for by the two lock calls, and leading ones found */
	uint64_t reserves, reserve_present, reserve_refused, commits, aborts, reads_finished;
	uint64_t evicted_objects, evicted_bytes, evict_ticks, evict_triggered, cleared;
	uint64_t spill_bytes; /* reserved on another node than asked for */
	uint64_t index_bytes; /* memory of index and slot records in use */
};
void store_stats(struct store *s, struct store_stats *out);

/* Walks every internal invariant (tests; asserts). */
void store_check(struct store *s);

#endif
