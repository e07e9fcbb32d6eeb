#include "daemon/store/index_int.h"

#include "daemon/base/check.h"
#include "daemon/store/varray_int.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define MIN_BUCKETS 64u
/* Records ahead of a run that are brought into the first cache, and into the second (measured: index_bench). */
#define RUN_AHEAD     8u
#define RUN_FAR_AHEAD 64u

/* At most one bucket per object is ever wanted beyond the first few. */
static size_t bucket_cap(const struct index *ix)
{
	return (size_t)ix->max_objects + MIN_BUCKETS;
}

int index_create(struct index *ix, uint32_t max_objects)
{
	memset(ix, 0, sizeof(*ix));
	if (getrandom(ix->seed, sizeof(ix->seed), 0) != (ssize_t)sizeof(ix->seed))
		return -EIO;
	ix->max_objects = max_objects;
	ix->nbuckets = MIN_BUCKETS;
	ix->mask = MIN_BUCKETS - 1;
	ix->o = varray_map((size_t)max_objects + 1, sizeof(*ix->o));
	ix->bucket = varray_map(bucket_cap(ix), sizeof(*ix->bucket));
	if (ix->o && ix->bucket && !ids_create(&ix->ids, max_objects))
		return 0;
	index_destroy(ix);
	return -ENOMEM;
}

void index_destroy(struct index *ix)
{
	varray_unmap(ix->o, (size_t)ix->max_objects + 1, sizeof(*ix->o));
	varray_unmap(ix->bucket, bucket_cap(ix), sizeof(*ix->bucket));
	ids_destroy(&ix->ids);
	memset(ix, 0, sizeof(*ix));
}

uint32_t index_take(struct index *ix)
{
	uint32_t id = ids_take(&ix->ids);

	if (id) {
		ix->o[id] = (struct obj){.flags = OBJ_USED};
		ix->used++;
	}
	return id;
}

void index_put(struct index *ix, uint32_t id)
{
	ix->o[id].flags = 0;
	ids_put(&ix->ids, id);
	ix->used--;
}

/* ---- hashing --------------------------------------------------------------------------------------------------- */

/* The chunk hash is a good hash already (or, for 8-byte hashes, its first word is): a keyed multiplication is enough to
 * make the bucket unpredictable. */
uint64_t index_mix(const struct index *ix, store_ns ns, const struct store_hash *hash)
{
	uint64_t w[2];
	unsigned __int128 m;

	memcpy(w, hash->b, sizeof(w));
	m = (unsigned __int128)(w[0] ^ ix->seed[0]) * (w[1] ^ ix->seed[1] ^ (ns * 0x9e3779b97f4a7c15u));
	m = (unsigned __int128)((uint64_t)m ^ (uint64_t)(m >> 64)) * (ix->seed[2] | 1);
	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline uint32_t bucket_of(const struct index *ix, uint64_t mix)
{
	uint32_t b = (uint32_t)mix & ix->mask;

	return b < ix->nbuckets ? b : b & (ix->mask >> 1);
}

static inline bool same_hash(const struct obj *o, const struct store_hash *hash)
{
	uint64_t a[4], b[4];

	memcpy(a, o->hash, sizeof(a));
	memcpy(b, hash->b, sizeof(b));
	return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0;
}

static inline bool is_key(const struct index *ix, const struct obj *o, const struct index_key *key)
{
	return same_hash(o, key->hash) && o->ns + 1u == key->ns && o->seq > ix->dead_seq;
}

uint32_t index_find(const struct index *ix, const struct index_key *key, uint64_t mix)
{
	uint32_t id = key->ns ? ix->bucket[bucket_of(ix, mix)] : 0;

	while (id && !is_key(ix, &ix->o[id], key))
		id = ix->o[id].chain;
	return id;
}

void index_warm_group(const struct index *ix, const struct index_key *keys, uint32_t n, uint64_t *mix)
{
	for (uint32_t i = 0; i < n; i++) {
		mix[i] = index_mix(ix, keys[i].ns, keys[i].hash);
		__builtin_prefetch(&ix->bucket[bucket_of(ix, mix[i])]);
	}
	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(&ix->o[ix->bucket[bucket_of(ix, mix[i])]]);
}

/* One step along each chain that has not ended; returns how many go on, compacted at the front of `todo`. */
static uint32_t step_chains(const struct index *ix, const struct index_key *keys, uint8_t *todo, uint32_t n,
			    uint32_t *out)
{
	uint32_t left = 0;

	for (uint32_t t = 0; t < n; t++) {
		uint32_t i = todo[t];
		const struct obj *o = &ix->o[out[i]];

		if (is_key(ix, o, &keys[i]))
			continue;
		out[i] = o->chain;
		__builtin_prefetch(&ix->o[o->chain]);
		todo[left] = (uint8_t)i;
		left += o->chain != 0;
	}
	return left;
}

static void find_by_hash(const struct index *ix, const struct index_key *keys, uint32_t n, uint32_t *out)
{
	uint32_t at[INDEX_GROUP], left = 0;
	uint8_t todo[INDEX_GROUP];

	_Static_assert(INDEX_GROUP <= 256, "todo[] holds positions in a byte");
	for (uint32_t i = 0; i < n; i++) {
		at[i] = bucket_of(ix, index_mix(ix, keys[i].ns, keys[i].hash));
		__builtin_prefetch(&ix->bucket[at[i]]);
	}
	for (uint32_t i = 0; i < n; i++) {
		out[i] = keys[i].ns ? ix->bucket[at[i]] : 0;
		__builtin_prefetch(&ix->o[out[i]]);
		todo[left] = (uint8_t)i;
		left += out[i] != 0;
	}
	while (left)
		left = step_chains(ix, keys, todo, left, out);
}

/* By how much the records of the last two keys differ if they are neighbours, else 0. */
static inline uint32_t run_step(const uint32_t *out, uint32_t lag)
{
	uint32_t step = *(out - lag) - *(out - 2 * (size_t)lag);

	return step == 1 || step == UINT32_MAX ? step : 0;
}

/* How many keys are found by going on along runs of neighbouring records. */
static uint32_t follow_runs(const struct index *ix, const struct index_key *keys, uint32_t n, uint32_t lag,
			    uint32_t have, uint32_t *out)
{
	uint32_t i = 0;

	if (have < 2 * (uint64_t)lag)
		return 0;
	for (; i < n; i++) {
		uint32_t step = run_step(out + i, lag), id = out[(int64_t)i - lag] + step;
		const struct obj *o = &ix->o[id];
		__builtin_prefetch(&ix->o[(uint32_t)(id + RUN_AHEAD * step)]);
		__builtin_prefetch(&ix->o[(uint32_t)(id + RUN_FAR_AHEAD * step)], 0, 2);
		if (!step || id > ix->ids.hi || !(o->flags & OBJ_KEYED) || !is_key(ix, o, &keys[i]))
			break;
		out[i] = id;
	}
	return i;
}

/* The walk of a prompt begins with misses nothing can hide. The first key's bucket mostly leads straight to its record:
 * fetch what follows it along with it. */
static void warm_start(const struct index *ix, const struct index_key *key)
{
	uint32_t id = ix->bucket[bucket_of(ix, index_mix(ix, key->ns, key->hash))];

	for (uint32_t k = 0; id && k < 2 * RUN_AHEAD; k++)
		__builtin_prefetch(&ix->o[(size_t)id + k]);
}

void index_find_group(const struct index *ix, const struct index_key *keys, uint32_t n, uint32_t lag, uint32_t have,
		      uint32_t *out)
{
	/* After a run has ended: enough to see the next one. */
	uint32_t first = lag < INDEX_GROUP / 2 ? 2 * lag + 2 : INDEX_GROUP, at = 0, step = 0, got;

	if (!have)
		warm_start(ix, &keys[0]);
	while (at < n) {
		got = follow_runs(ix, keys + at, n - at, lag, have + at, out + at);
		at += got;
		/* The more often no run is found, the more keys are hashed at once. */
		step = got || !step ? first : 2 * step;
		step = step < INDEX_GROUP ? step : INDEX_GROUP;
		step = step < n - at ? step : n - at;
		find_by_hash(ix, keys + at, step, out + at);
		at += step;
	}
}

/* ---- linear hashing -------------------------------------------------------------------------------------------- */

static uint64_t mix_of(const struct index *ix, uint32_t id)
{
	return index_mix(ix, ix->o[id].ns + 1u, (const struct store_hash *)ix->o[id].hash);
}

/* The next bucket to come takes over its share of the one it splits from. */
static void split_one(struct index *ix)
{
	uint32_t to = ix->nbuckets, from, id, keep = 0, move = 0;

	if (to > ix->mask)
		ix->mask = ix->mask * 2 + 1;
	from = to & (ix->mask >> 1);
	ix->nbuckets++;
	for (id = ix->bucket[from]; id;) {
		uint32_t next = ix->o[id].chain;
		uint32_t *list = bucket_of(ix, mix_of(ix, id)) == to ? &move : &keep;
		ix->o[id].chain = *list;
		*list = id;
		id = next;
	}
	ix->bucket[from] = keep;
	ix->bucket[to] = move;
	/* The bucket whose turn comes a few insertions later will be in the cache by then. */
	__builtin_prefetch(&ix->o[ix->bucket[(from + 4) & ix->mask]]);
	__builtin_prefetch(&ix->bucket[to + 16], 1);
}

static void merge_one(struct index *ix)
{
	uint32_t last = --ix->nbuckets, to, *end;

	if (ix->nbuckets <= ix->mask >> 1)
		ix->mask >>= 1;
	to = bucket_of(ix, last);
	for (end = &ix->bucket[to]; *end; end = &ix->o[*end].chain)
		;
	*end = ix->bucket[last];
	ix->bucket[last] = 0;
}

void index_insert(struct index *ix, uint32_t id, uint64_t mix)
{
	uint32_t b = bucket_of(ix, mix);

	ix->o[id].chain = ix->bucket[b];
	ix->bucket[b] = id;
	if (++ix->count > ix->nbuckets && ix->nbuckets < bucket_cap(ix))
		split_one(ix);
}

void index_remove(struct index *ix, uint32_t id)
{
	uint32_t *at = &ix->bucket[bucket_of(ix, mix_of(ix, id))];

	while (*at != id) {
		check(*at != 0);
		at = &ix->o[*at].chain;
	}
	*at = ix->o[id].chain;
	ix->count--;
	/* Two at a time, so that a shrinking index never has more than two buckets per key. */
	for (int i = 0; i < 2 && ix->count < ix->nbuckets / 2 && ix->nbuckets > MIN_BUCKETS; i++)
		merge_one(ix);
}

void index_check(const struct index *ix)
{
	uint32_t keys = 0, used = 0;

	check(ix->nbuckets <= ix->mask + 1 && ix->nbuckets > ix->mask >> 1);
	for (uint32_t b = 0; b < ix->nbuckets; b++) {
		for (uint32_t id = ix->bucket[b]; id; id = ix->o[id].chain, keys++) {
			check(id <= ix->ids.hi && (ix->o[id].flags & (OBJ_USED | OBJ_KEYED)) == (OBJ_USED | OBJ_KEYED));
			check(bucket_of(ix, mix_of(ix, id)) == b);
		}
	}
	check(keys == ix->count);
	for (uint32_t id = 1; id <= ix->ids.hi; id++)
		used += ix->o[id].flags & OBJ_USED;
	for (uint32_t id = 1; id <= ix->ids.hi; id++)
		check(ids_is_free(&ix->ids, id) == !(ix->o[id].flags & OBJ_USED));
	check(used == ix->used);
}
