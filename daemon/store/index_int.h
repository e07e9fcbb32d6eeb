/* index_int.h - finds objects by (namespace, hash).
 *
 * Records are numbered cells of one large array; a hash table of bucket heads chains them. The table grows by linear
 * hashing: one bucket splits per insertion (and up to two merge per removal), so no request ever waits for a rehash, and there
 * is about one bucket per object. The bucket of a key depends on a random seed: clients choose tokens and thereby
 * hashes, but nobody can aim many at one bucket.
 * A search touches two to three cold cache lines. Searches come in groups whose cache misses overlap. And since the
 * objects of a prompt are reserved together, their records mostly lie side by side: where the last two keys of a rank were
 * neighbours the next record is tried first, without hashing, and the walk is sequential. Both together keep the cost
 * flat when the index outgrows the caches.
 * Threads: under the store's lock.
 */
#ifndef DAEMON_STORE_INDEX_INT_H
#define DAEMON_STORE_INDEX_INT_H

#include "daemon/store/ids_int.h"
#include "daemon/store/object_int.h"

/* Keys per group: enough to hide the misses, few enough for the first-level cache. */
#define INDEX_GROUP 128

struct index {
	struct obj *o; /* by id, 0 is not used */
	uint32_t *bucket;
	uint32_t max_objects;
	struct ids ids;
	uint32_t used;           /* records in use, detached ones included */
	uint32_t count;          /* keys present */
	uint32_t nbuckets, mask; /* mask: the power of two above, less one */
	uint64_t seed[3];
	uint64_t dead_seq; /* keys last touched at or before this are gone (see store_clear) */
};

struct index_key {
	const struct store_hash *hash;
	store_ns ns; /* 0: never found */
};

/* 0 or -errno. */
int index_create(struct index *ix, uint32_t max_objects);
void index_destroy(struct index *ix);

/* A record, zeroed but for OBJ_USED; 0 when all are in use. */
uint32_t index_take(struct index *ix);
void index_put(struct index *ix, uint32_t id);

uint64_t index_mix(const struct index *ix, store_ns ns, const struct store_hash *hash);
uint32_t index_find(const struct index *ix, const struct index_key *key, uint64_t mix);
/* Finds n keys; out[i] = 0 where there is none. Key i is the neighbour of key i - lag in a prompt (lag: the number of ranks);
 * `have` results of earlier keys lie before out[0]. */
void index_find_group(const struct index *ix, const struct index_key *keys, uint32_t n, uint32_t lag, uint32_t have,
		      uint32_t *out);
/* Brings the cache lines that index_find and index_insert of these keys will want; mix[] receives their hashes. */
void index_warm_group(const struct index *ix, const struct index_key *keys, uint32_t n, uint64_t *mix);

/* Record `id` has its key, ns and hash, set. */
void index_insert(struct index *ix, uint32_t id, uint64_t mix);
void index_remove(struct index *ix, uint32_t id);

/* Walks buckets and records. */
void index_check(const struct index *ix);

#endif
