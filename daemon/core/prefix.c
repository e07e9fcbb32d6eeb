/* prefix.c - a trie of token chunks over fixed-size nodes.
 *
 * A child is found through its parent's guess (the child that matched last: a growing prompt hits it at every level), else
 * through a hash table over (parent, raw bytes of the chunk). Where a chunk ends is unknown before decoding, so a walk that
 * misses the guess first measures it, integer by integer; that happens where prompts branch, once or twice a request. A walk
 * compares at most MAX_TRIES nodes per level; a chunk it does not find is merely hashed again.
 */
#include "daemon/core/prefix.h"

#include "daemon/base/check.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define MAX_STEPS 4096u /* nodes the clock looks at for one new node, while the lock is held */
#define MAX_NODES (1u << 26)
#define MAX_TRIES 8u /* nodes compared per level before giving up: bounds what an adversary can make us do */

struct node {
	struct store_hash hash;
	uint32_t parent, bucket_next;
	uint32_t bucket; /* of the table, to unlink without hashing again */
	uint32_t children, pins;
	uint32_t raw_bytes;
	uint32_t last_child; /* guess: the child that matched last */
	uint8_t used, live;  /* clock bit; in the trie */
	uint8_t pad[2];
	uint8_t raw[]; /* up to 5 bytes per token as clients write them */
};

struct prefix {
	struct lk lk;
	const struct chash *hash;
	uint8_t *nodes; /* virtual array of node_bytes each; node 0 is the root */
	size_t node_bytes, map_bytes;
	uint32_t max_raw, capacity, top, hand; /* top: nodes ever used */
	uint32_t next_victim;                  /* 0: none */
	uint32_t *buckets;
	uint32_t mask;
	uint64_t seed;
	struct prefix_stats stats;
};

static struct node *node_at(const struct prefix *p, uint32_t i)
{
	return (struct node *)(void *)(p->nodes + (size_t)i * p->node_bytes);
}

static void *map_virtual(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

int prefix_create(const struct chash *hash, uint64_t budget_bytes, struct prefix **out, struct why *why)
{
	struct prefix *p = mem_calloc(1, sizeof(*p));
	uint32_t buckets = 1024;

	if (!p)
		return why_set(why, -ENOMEM, "prefix cache: out of memory");
	lk_init(&p->lk, LK_PREFIX);
	p->hash = hash;
	p->max_raw = hash->chunk_tokens * 5;
	p->node_bytes = (sizeof(struct node) + p->max_raw + 63) / 64 * 64;
	p->capacity = (uint32_t)(budget_bytes / p->node_bytes < MAX_NODES ? budget_bytes / p->node_bytes : MAX_NODES);
	if (p->capacity < 64)
		p->capacity = 64;
	while (buckets < p->capacity)
		buckets *= 2;
	p->mask = buckets - 1;
	p->map_bytes = p->node_bytes * (p->capacity + 1ul);
	p->nodes = map_virtual(p->map_bytes);
	p->buckets = map_virtual(buckets * sizeof(uint32_t));
	/* walks touch a node per 1.4 KB: small pages would cost a TLB miss each, and a fault per three new nodes */
	if (p->nodes)
		madvise(p->nodes, p->map_bytes, MADV_HUGEPAGE);
	if (!p->nodes || !p->buckets || getrandom(&p->seed, sizeof(p->seed), 0) != sizeof(p->seed)) {
		prefix_destroy(p);
		return why_set(why, -ENOMEM, "prefix cache: cannot reserve address space");
	}
	p->top = 1;
	p->stats.capacity = p->capacity;
	node_at(p, 0)->hash = hash->none;
	node_at(p, 0)->live = 1;
	*out = p;
	return 0;
}

void prefix_populate(struct prefix *p)
{
	madvise(p->nodes, p->map_bytes, MADV_POPULATE_WRITE);
}

void prefix_destroy(struct prefix *p)
{
	if (!p)
		return;
	if (p->nodes)
		munmap(p->nodes, p->map_bytes);
	if (p->buckets)
		munmap(p->buckets, (p->mask + 1ul) * sizeof(uint32_t));
	lk_destroy(&p->lk);
	mem_free(p);
}

int prefix_walk_create(struct prefix *p, uint32_t max_tokens, struct prefix_walk **out)
{
	struct prefix_walk *w = mem_calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->prefix = p;
	w->max_chunks = max_tokens / p->hash->chunk_tokens + 1;
	w->hashes = map_virtual(w->max_chunks * sizeof(*w->hashes));
	if (!w->hashes) {
		mem_free(w);
		return -ENOMEM;
	}
	*out = w;
	return 0;
}

void prefix_walk_destroy(struct prefix_walk *w)
{
	if (!w)
		return;
	munmap(w->hashes, w->max_chunks * sizeof(*w->hashes));
	mem_free(w);
}

/* Clients choose the bytes, so the bucket depends on a secret. */
static uint32_t bucket_of(const struct prefix *p, uint32_t parent, const uint8_t *raw, size_t n)
{
	uint64_t h = p->seed ^ ((uint64_t)parent * 0x9e3779b97f4a7c15ull), v;

	for (size_t i = 0; i + 8 <= n; i += 8) {
		memcpy(&v, raw + i, 8);
		h = (h ^ v) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	v = 0;
	memcpy(&v, n < 8 ? raw : raw + n - 8, n < 8 ? n : 8);
	h = (h ^ v ^ n) * 0xff51afd7ed558ccdull;
	h ^= h >> 29;
	return (uint32_t)(h >> 7) & p->mask;
}

/* Bytes of the next chunk's integers; 0 when it is not all there or not written as clients write it. */
static size_t chunk_bytes(const struct prefix *p, const uint8_t *raw, size_t avail)
{
	size_t at = 0;

	for (uint32_t i = 0; i < p->hash->chunk_tokens; i++) {
		if (at >= avail)
			return 0;
		if (raw[at] < 0x80)
			at += 1; /* positive fixint */
		else if (raw[at] >= 0xcc && raw[at] <= 0xce)
			at += 1 + (1u << (raw[at] - 0xcc)); /* uint 8, 16, 32 */
		else
			return 0;
	}
	return at <= avail ? at : 0;
}

static bool matches(const struct node *n, uint32_t parent, const uint8_t *raw, size_t avail)
{
	return n->live && n->parent == parent && n->raw_bytes <= avail && memcmp(n->raw, raw, n->raw_bytes) == 0;
}

static uint32_t find_child(struct prefix *p, uint32_t parent, const uint8_t *raw, size_t avail)
{
	const struct node *from = node_at(p, parent);
	uint32_t guess = from->last_child, i, tries = 0;
	size_t bytes;

	if (guess && matches(node_at(p, guess), parent, raw, avail))
		return guess;
	if (from->children == (guess != 0))
		return 0; /* no child but the one just compared */
	bytes = chunk_bytes(p, raw, avail);
	if (!bytes)
		return 0;
	for (i = p->buckets[bucket_of(p, parent, raw, bytes)]; i && tries < MAX_TRIES; tries++) {
		struct node *n = node_at(p, i);

		if (matches(n, parent, raw, avail)) {
			node_at(p, parent)->last_child = i;
			return i;
		}
		i = n->bucket_next;
	}
	return 0;
}

static void unpin(struct prefix *p, uint32_t i)
{
	if (i)
		node_at(p, i)->pins--;
}

static void walk(struct prefix_walk *w, const uint8_t *raw, size_t avail, uint32_t count)
{
	struct prefix *p = w->prefix;
	uint32_t max = count / p->hash->chunk_tokens;

	if (max > w->max_chunks)
		max = w->max_chunks;
	lk_lock(&p->lk);
	unpin(p, w->node);
	w->node = w->known = 0;
	w->known_bytes = 0;
	while (w->known < max) {
		uint32_t i = find_child(p, w->node, raw + w->known_bytes, avail - w->known_bytes);
		struct node *n = node_at(p, i);

		if (!i)
			break;
		n->used = 1;
		w->hashes[w->known++] = n->hash;
		w->known_bytes += n->raw_bytes;
		w->node = i;
	}
	if (w->node)
		node_at(p, w->node)->pins++;
	p->stats.reused_chunks += w->known;
	lk_unlock(&p->lk);
}

size_t prefix_probe(struct prefix_walk *w, const uint8_t *raw, size_t avail, uint32_t count)
{
	walk(w, raw, avail, count);
	w->probed = raw;
	w->probed_count = count;
	return w->known_bytes;
}

void prefix_match(void *ctx, const uint8_t *raw, size_t avail, uint32_t count, uint32_t *tokens, size_t *bytes)
{
	struct prefix_walk *w = ctx;

	if (w->probed != raw || w->probed_count != count)
		walk(w, raw, avail, count);
	w->probed = NULL;
	*tokens = w->known * w->prefix->hash->chunk_tokens;
	*bytes = w->known_bytes;
}

static void unlink_node(struct prefix *p, uint32_t i)
{
	struct node *n = node_at(p, i), *parent = node_at(p, n->parent);
	uint32_t *link = &p->buckets[n->bucket];

	while (*link != i)
		link = &node_at(p, *link)->bucket_next;
	*link = n->bucket_next;
	parent->children--;
	if (parent->last_child == i)
		parent->last_child = 0;
	n->live = 0;
	p->stats.nodes--;
	p->stats.evicted++;
}

static bool evictable(const struct node *n)
{
	return !n->live || (!n->children && !n->pins && !n->used);
}

static uint32_t evict(struct prefix *p, uint32_t i)
{
	if (node_at(p, i)->live) {
		p->next_victim = node_at(p, i)->parent;
		unlink_node(p, i);
	}
	return i;
}

/* A free node, or a leaf nobody used since the hand last passed; its parent, now perhaps a leaf, is the next to go, so that one
 * find pays for a whole forgotten prompt. 0 when nothing was found in a bounded number of steps. */
static uint32_t take_node(struct prefix *p)
{
	uint32_t next = p->next_victim;

	if (p->top <= p->capacity)
		return p->top++;
	p->next_victim = 0;
	if (next && evictable(node_at(p, next)))
		return evict(p, next);
	for (uint32_t step = 0; step < MAX_STEPS; step++) {
		p->hand = p->hand % p->capacity + 1;
		if (evictable(node_at(p, p->hand)))
			return evict(p, p->hand);
		node_at(p, p->hand)->used = 0;
	}
	return 0;
}

/* Adds a child of w->node and moves the pin to it. False when the cache is full of chunks in use. */
static bool remember(struct prefix_walk *w, const struct store_hash *hash, const uint8_t *raw, size_t bytes)
{
	struct prefix *p = w->prefix;
	uint32_t parent = w->node, i = find_child(p, parent, raw, bytes);
	struct node *n;

	if (!i) {
		if (bytes > p->max_raw || !(i = take_node(p)))
			return false;
		n = node_at(p, i);
		*n = (struct node){.hash = *hash, .parent = parent, .raw_bytes = (uint32_t)bytes, .live = 1, .used = 1};
		memcpy(n->raw, raw, bytes);
		n->bucket = bucket_of(p, parent, raw, bytes);
		n->bucket_next = p->buckets[n->bucket];
		p->buckets[n->bucket] = i;
		node_at(p, parent)->children++;
		node_at(p, parent)->last_child = i;
		p->stats.nodes++;
	}
	node_at(p, i)->pins++;
	unpin(p, parent);
	w->node = i;
	return true;
}

static void remember_all(struct prefix_walk *w, const struct wire_tokens *t, uint32_t from, uint32_t n)
{
	struct prefix *p = w->prefix;
	size_t at = t->skipped_bytes;

	lk_lock(&p->lk);
	p->stats.hashed_chunks += n;
	for (uint32_t k = 0; k < n; k++) {
		if (!remember(w, &w->hashes[from + k], t->raw + at, t->marks[k] - at))
			break;
		at = t->marks[k];
	}
	lk_unlock(&p->lk);
}

void prefix_hash(struct prefix_walk *w, const struct wire_tokens *t)
{
	const struct chash *h = w->prefix->hash;
	uint32_t from = t->skipped / h->chunk_tokens;
	const struct store_hash *prev;

	/* A decoder that did not take the walk's offer starts from the root. */
	if (from == 0 && w->node)
		prefix_abandon(w);
	w->nchunks = t->count / h->chunk_tokens;
	if (w->nchunks > w->max_chunks)
		w->nchunks = w->max_chunks;
	check(t->nmarks >= w->nchunks - from);
	prev = from ? &w->hashes[from - 1] : &h->none;
	for (uint32_t i = from; i < w->nchunks; i++) {
		chash_next(h, prev, t->ids + (size_t)(i - from) * h->chunk_tokens, &w->hashes[i]);
		prev = &w->hashes[i];
	}
	w->fresh = w->nchunks - from;
}

void prefix_remember(struct prefix_walk *w, const struct wire_tokens *t)
{
	if (w->fresh)
		remember_all(w, t, w->nchunks - w->fresh, w->fresh);
	w->fresh = 0;
	prefix_abandon(w);
}

void prefix_finish(struct prefix_walk *w, const struct wire_tokens *t)
{
	prefix_hash(w, t);
	prefix_remember(w, t);
}

void prefix_abandon(struct prefix_walk *w)
{
	w->probed = NULL;
	if (!w->node)
		return;
	lk_lock(&w->prefix->lk);
	unpin(w->prefix, w->node);
	lk_unlock(&w->prefix->lk);
	w->node = w->known = 0;
	w->known_bytes = 0;
}

void prefix_stats(struct prefix *p, struct prefix_stats *out)
{
	lk_lock(&p->lk);
	*out = p->stats;
	lk_unlock(&p->lk);
}
