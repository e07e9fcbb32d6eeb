#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/seg/seg_int.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define MIN_BUCKETS 64u
#define BATCH       64u /* entries or keys handled in one hold of the lock */
#define MAX_USES    3u

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* Address space for all there may ever be; memory comes with the first touch, so that records never move. */
static void *reserve(size_t bytes)
{
	void *probe = mem_calloc(1, 1), *p; /* the heap's fault point stands for the kernel's refusal, too */

	if (!probe)
		return NULL;
	mem_free(probe);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE); /* refusal costs speed only */
	return p;
}

static size_t entry_bytes(const struct seg_index *ix)
{
	return ((size_t)ix->max + 1) * sizeof(struct entry);
}

static size_t bucket_bytes(const struct seg_index *ix)
{
	return ((size_t)ix->max + MIN_BUCKETS) * sizeof(uint32_t);
}

int seg_index_create(struct seg_index *ix, uint32_t max_objects)
{
	memset(ix, 0, sizeof(*ix));
	if (getrandom(&ix->seed, sizeof(ix->seed), 0) != (ssize_t)sizeof(ix->seed))
		return -EIO;
	ix->max = max_objects;
	ix->nbuckets = MIN_BUCKETS;
	ix->e = reserve(entry_bytes(ix));
	ix->bucket = reserve(bucket_bytes(ix));
	if (ix->e && ix->bucket)
		return 0;
	seg_index_destroy(ix);
	return -ENOMEM;
}

void seg_index_destroy(struct seg_index *ix)
{
	if (ix->e)
		munmap(ix->e, entry_bytes(ix));
	if (ix->bucket)
		munmap(ix->bucket, bucket_bytes(ix));
	memset(ix, 0, sizeof(*ix));
}

/* ---- hashing: linear, one more bucket per entry, so that growth never stops anybody ----------------------------------- */

/* The hash of a chunk is a good one already; keyed multiplications make its bucket unpredictable. */
static uint64_t mix(const struct seg_index *ix, const uint8_t *hash, uint32_t name)
{
	uint64_t w[2];
	unsigned __int128 m;

	memcpy(w, hash, sizeof(w));
	m = (unsigned __int128)(w[0] ^ ix->seed) * ((w[1] ^ (name * 0x9e3779b97f4a7c15u)) | 1);
	m = (unsigned __int128)((uint64_t)m ^ (uint64_t)(m >> 64)) * (ix->seed | 1);
	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint32_t bucket_of(const struct seg_index *ix, uint64_t h)
{
	uint32_t top = 1u << (31 - __builtin_clz(ix->nbuckets)); /* largest power of two not above it */
	uint32_t b = (uint32_t)h & (2 * top - 1);

	return b < ix->nbuckets ? b : b - top;
}

static void grow(struct seg_index *ix)
{
	uint32_t to = ix->nbuckets, from = to - (1u << (31 - __builtin_clz(to)));
	uint32_t *keep = &ix->bucket[from], *move = &ix->bucket[to], id = *keep;

	ix->nbuckets++;
	for (; id; id = ix->e[id].chain) {
		struct entry *e = &ix->e[id];
		uint32_t **end = bucket_of(ix, mix(ix, e->hash, e->name)) == to ? &move : &keep;

		**end = id;
		*end = &e->chain;
	}
	*keep = 0;
	*move = 0;
}

static bool is_key(const struct entry *e, const struct seg_key *key)
{
	return e->name == key->name && memcmp(e->hash, key->hash.b, STORE_HASH_BYTES) == 0;
}

/* The entry of a key, object or removal. */
static uint32_t look(const struct seg_index *ix, const struct seg_key *key)
{
	uint32_t id = ix->bucket[bucket_of(ix, mix(ix, key->hash.b, key->name))];

	while (id && !is_key(&ix->e[id], key))
		id = ix->e[id].chain;
	return id;
}

uint32_t seg_index_find(const struct seg_index *ix, const struct seg_key *key)
{
	uint32_t id = look(ix, key);

	return id && !(ix->e[id].flags & ENTRY_REMOVED) ? id : 0;
}

void seg_index_expect(struct seg_index *ix, uint64_t n)
{
	if (ix->used == 0 && n > ix->nbuckets)
		ix->nbuckets = n < ix->max ? (uint32_t)n : ix->max;
}

void seg_index_warm_bucket(const struct seg_index *ix, const struct seg_key *key)
{
	__builtin_prefetch(&ix->bucket[bucket_of(ix, mix(ix, key->hash.b, key->name))]);
}

void seg_index_warm_entry(const struct seg_index *ix, const struct seg_key *key)
{
	__builtin_prefetch(&ix->e[ix->bucket[bucket_of(ix, mix(ix, key->hash.b, key->name))]]);
}

static uint32_t take(struct seg_index *ix)
{
	uint32_t id = ix->unused;

	if (id)
		ix->unused = ix->e[id].chain;
	else if (ix->hi < ix->max)
		id = ++ix->hi;
	if (id)
		ix->used++;
	return id;
}

static void put(struct seg_index *ix, uint32_t id)
{
	ix->e[id] = (struct entry){.chain = ix->unused};
	ix->unused = id;
	ix->used--;
}

/* ---- entering and forgetting: under the lock -------------------------------------------------------------------------- */

uint32_t seg_segment_of(const struct seg *s, uint64_t device_offset)
{
	uint64_t behind = format_segment_at(&s->super, s->super.mid);

	if (device_offset >= behind)
		return s->super.mid + (uint32_t)((device_offset - behind) / s->super.segment_bytes);
	return (uint32_t)((device_offset - FORMAT_DATA) / s->super.segment_bytes);
}

static struct segment *segment_of(struct seg *s, const struct entry *e)
{
	return &s->segment[seg_segment_of(s, (uint64_t)e->at * FORMAT_BLOCK)];
}

/* Takes the entry out of its bucket and out of all sums; it stays in its segment's list. */
static void kill_entry(struct seg *s, uint32_t id)
{
	struct entry *e = &s->ix.e[id];
	struct segment *g = segment_of(s, e);
	uint32_t *at = &s->ix.bucket[bucket_of(&s->ix, mix(&s->ix, e->hash, e->name))];
	uint64_t record = format_record_bytes(e->bytes);

	while (*at != id)
		at = &s->ix.e[*at].chain;
	*at = e->chain;
	e->chain = 0;
	if (e->flags & ENTRY_REMOVED) {
		g->removed--;
	} else {
		g->live--;
		g->live_bytes -= record;
		g->heat -= record * e->uses;
		s->n.objects--;
		s->n.object_bytes -= e->bytes;
		s->n.used_bytes -= record;
	}
	e->uses = 0;
	e->flags = ENTRY_DEAD;
}

static void note_sequence(struct seg *s, struct segment *g, uint64_t sequence)
{
	if (g->sequence < sequence)
		g->sequence = sequence;
	if (s->sequence < sequence)
		s->sequence = sequence;
}

static uint32_t new_entry(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t sequence)
{
	struct segment *g = &s->segment[seg_segment_of(s, device_offset)];
	uint32_t id = take(&s->ix), *bucket;
	struct entry *e;

	if (!id)
		return 0;
	if (s->ix.nbuckets < s->ix.used && s->ix.nbuckets < s->ix.max)
		grow(&s->ix);
	e = &s->ix.e[id];
	bucket = &s->ix.bucket[bucket_of(&s->ix, mix(&s->ix, key->hash.b, key->name))];
	*e = (struct entry){.sequence = sequence,
			    .at = (uint32_t)(device_offset / FORMAT_BLOCK),
			    .chain = *bucket,
			    .next = g->first,
			    .name = (uint16_t)key->name};
	memcpy(e->hash, key->hash.b, STORE_HASH_BYTES);
	*bucket = id;
	g->first = id;
	return id;
}

static bool enter(struct seg *s, const struct seg_key *key, const struct entry *as, uint64_t device_offset)
{
	struct segment *g = &s->segment[seg_segment_of(s, device_offset)];
	uint32_t old = look(&s->ix, key), id;
	uint64_t record = format_record_bytes(as->bytes);
	struct entry *e;

	note_sequence(s, g, as->sequence);
	if (old && s->ix.e[old].sequence >= as->sequence)
		return false;
	if (old)
		kill_entry(s, old);
	id = new_entry(s, key, device_offset, as->sequence);
	if (!id)
		return false;
	e = &s->ix.e[id];
	e->flags = as->flags;
	if (as->flags & ENTRY_REMOVED) {
		g->removed++;
		return true;
	}
	e->bytes = as->bytes;
	e->crc = as->crc;
	g->live++;
	g->live_bytes += record;
	s->n.objects++;
	s->n.object_bytes += as->bytes;
	s->n.used_bytes += record;
	return true;
}

bool seg_enter(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t bytes, uint32_t crc,
	       uint64_t sequence)
{
	struct entry as = {.bytes = (uint32_t)bytes, .crc = crc, .sequence = sequence};
	bool entered;

	lk_lock(&s->lk);
	entered = enter(s, key, &as, device_offset);
	lk_unlock(&s->lk);
	return entered;
}

bool seg_enter_removal(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t sequence)
{
	struct entry as = {.flags = ENTRY_REMOVED, .sequence = sequence};
	bool known;

	lk_lock(&s->lk);
	known = enter(s, key, &as, device_offset) || look(&s->ix, key);
	lk_unlock(&s->lk);
	return known;
}

bool seg_forget(struct seg *s, const struct seg_key *key, uint64_t sequence)
{
	uint32_t id;
	bool there;

	lk_lock(&s->lk);
	id = seg_index_find(&s->ix, key);
	there = id && (s->ix.e[id].sequence < sequence || sequence == UINT64_MAX);
	if (there)
		kill_entry(s, id);
	lk_unlock(&s->lk);
	return there;
}

uint32_t seg_forget_segment(struct seg *s, uint32_t segment)
{
	struct segment *g = &s->segment[segment];
	uint32_t id, objects = 0;

	do {
		lk_lock(&s->lk);
		for (uint32_t i = 0; i < BATCH && (id = g->first); i++) {
			struct entry *e = &s->ix.e[id];

			objects += !e->flags;
			if (!(e->flags & ENTRY_DEAD))
				kill_entry(s, id);
			g->first = e->next;
			put(&s->ix, id);
		}
		id = g->first;
		lk_unlock(&s->lk);
	} while (id);
	return objects;
}

void seg_age_segment(struct seg *s, uint32_t segment)
{
	struct segment *g = &s->segment[segment];
	uint32_t id = g->first;

	while (id) {
		lk_lock(&s->lk);
		for (uint32_t i = 0; i < BATCH && id; i++) {
			struct entry *e = &s->ix.e[id];

			g->heat -= format_record_bytes(e->bytes) * (e->uses - e->uses / 2);
			e->uses /= 2;
			id = e->next;
		}
		lk_unlock(&s->lk);
	}
}

void seg_set_state(struct seg *s, uint32_t segment, enum segment_state state)
{
	struct segment *g = &s->segment[segment];

	lk_lock(&s->lk);
	s->n.free_segments -= g->state == SEGMENT_FREE;
	s->n.open_segments -= g->state == SEGMENT_OPEN;
	s->n.free_segments += state == SEGMENT_FREE;
	s->n.open_segments += state == SEGMENT_OPEN;
	g->state = state;
	lk_unlock(&s->lk);
}

/* ---- any thread ---------------------------------------------------------------------------------------------------------- */

/* The lines that a batch will need are asked for before any of them is: memory is the cost of a lookup. */
static void find_batch(struct seg *s, const struct seg_key *keys, uint32_t n, uint64_t *bytes)
{
	uint32_t bucket[BATCH];

	for (uint32_t i = 0; i < n; i++) {
		bucket[i] = bucket_of(&s->ix, mix(&s->ix, keys[i].hash.b, keys[i].name));
		__builtin_prefetch(&s->ix.bucket[bucket[i]]);
	}
	for (uint32_t i = 0; i < n; i++)
		__builtin_prefetch(&s->ix.e[s->ix.bucket[bucket[i]]], 1);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t id = s->ix.bucket[bucket[i]];
		struct entry *e;

		while (id && !is_key(&s->ix.e[id], &keys[i]))
			id = s->ix.e[id].chain;
		e = &s->ix.e[id];
		bytes[i] = id && !e->flags ? e->bytes : 0;
		if (bytes[i] && e->uses < MAX_USES) {
			e->uses++;
			segment_of(s, e)->heat += format_record_bytes(e->bytes);
		}
	}
}

void seg_find(struct seg *s, const struct seg_key *keys, uint32_t n, uint64_t *bytes)
{
	for (uint32_t at = 0; at < n; at += BATCH) {
		lk_lock(&s->lk);
		find_batch(s, keys + at, n - at < BATCH ? n - at : BATCH, bytes + at);
		lk_unlock(&s->lk);
	}
}

/* By number of the entry, a bounded stretch per hold of the lock. */
uint32_t seg_list(struct seg *s, uint64_t *cursor, struct seg_key *keys, uint64_t *bytes, uint32_t max)
{
	uint32_t n = 0;
	uint64_t id = *cursor, end;

	do {
		lk_lock(&s->lk);
		end = id + BATCH < s->ix.hi ? id + BATCH : s->ix.hi;
		while (id < end && n < max) {
			const struct entry *e = &s->ix.e[++id];

			if (!e->name || e->flags)
				continue;
			keys[n].name = e->name;
			memcpy(keys[n].hash.b, e->hash, STORE_HASH_BYTES);
			bytes[n++] = e->bytes;
		}
		end = s->ix.hi;
		lk_unlock(&s->lk);
	} while (id < end && n < max);
	*cursor = id < end ? id : 0;
	return n;
}

/* ---- every invariant --------------------------------------------------------------------------------------------------- */

static void check_segment(struct seg *s, uint32_t number, struct seg_stats *sum, uint32_t *entries)
{
	const struct segment *g = &s->segment[number];
	uint64_t live_bytes = 0, heat = 0;
	uint32_t live = 0, removals = 0;

	for (uint32_t id = g->first; id; id = s->ix.e[id].next) {
		const struct entry *e = &s->ix.e[id];
		struct seg_key key = {.name = e->name};

		check(e->name && seg_segment_of(s, (uint64_t)e->at * FORMAT_BLOCK) == number);
		check(++*entries <= s->ix.used);
		memcpy(key.hash.b, e->hash, STORE_HASH_BYTES);
		check((look(&s->ix, &key) == id) == !(e->flags & ENTRY_DEAD));
		removals += (e->flags & ENTRY_REMOVED) != 0;
		if (e->flags)
			continue;
		check(e->sequence <= g->sequence && e->bytes && e->uses <= MAX_USES);
		live++;
		live_bytes += format_record_bytes(e->bytes);
		heat += format_record_bytes(e->bytes) * e->uses;
		sum->object_bytes += e->bytes;
	}
	check(live == g->live && live_bytes == g->live_bytes && removals == g->removed && heat == g->heat);
	check(live_bytes <= s->super.segment_bytes - FORMAT_RECORDS);
	check(g->state != SEGMENT_FREE || !g->first);
	sum->objects += live;
	sum->used_bytes += live_bytes;
	sum->free_segments += g->state == SEGMENT_FREE;
	sum->open_segments += g->state == SEGMENT_OPEN;
}

void seg_index_check(struct seg *s)
{
	struct seg_stats sum = {0};
	uint32_t entries = 0, chained = 0, unused = 0;

	lk_lock(&s->lk);
	for (uint32_t i = 0; i < s->super.segments; i++)
		check_segment(s, i, &sum, &entries);
	for (uint32_t b = 0; b < s->ix.nbuckets; b++)
		for (uint32_t id = s->ix.bucket[b]; id; id = s->ix.e[id].chain)
			chained += !(s->ix.e[id].flags & ENTRY_DEAD);
	for (uint32_t id = s->ix.unused; id; id = s->ix.e[id].chain)
		unused++;
	check(entries == s->ix.used && entries + unused == s->ix.hi && chained <= entries);
	check(sum.objects == s->n.objects && sum.object_bytes == s->n.object_bytes &&
	      sum.used_bytes == s->n.used_bytes);
	check(sum.free_segments == s->n.free_segments && sum.open_segments == s->n.open_segments);
	lk_unlock(&s->lk);
}
