/* prefix.h - the prefix cache: chunk hashes of token lists seen before, found by comparing raw message bytes.
 *
 * Every request carries its whole prompt, so a server that decodes and hashes what it is sent does quadratic work over a
 * chunked prefill. Here each chunk of tokens ever hashed is a node of a trie: the msgpack bytes of its tokens, and its chunk
 * hash. A new request walks from the root, comparing bytes (memcmp speed); only what lies beyond the deepest node is decoded
 * and hashed. Equal bytes mean equal tokens, so the walk also proves that a list really extends the old one. The cache knows
 * nothing of sessions: a system prompt shared by many requests is stored and hashed once.
 *
 * Threads: any; one mutex (rank LK_PREFIX). Memory: a fixed budget, reserved virtually; leaves that were not used lately are
 * replaced (clock), so it never grows and never allocates after create.
 */
#ifndef DAEMON_CORE_PREFIX_H
#define DAEMON_CORE_PREFIX_H

#include "daemon/base/why.h"
#include "daemon/core/chash.h"
#include "transport/wire/wire.h"

#include <stdint.h>

struct prefix;

int prefix_create(const struct chash *hash, uint64_t budget_bytes, struct prefix **out, struct why *why);
void prefix_destroy(struct prefix *p);
/* Touches the whole budget, so that no request pays for page faults. Any thread, best effort. */
void prefix_populate(struct prefix *p);

/* One request's chunk hashes. Belongs to one thread; reused from request to request. */
struct prefix_walk {
	struct prefix *prefix;
	struct store_hash *hashes; /* capacity max_chunks */
	uint32_t max_chunks;
	uint32_t known;        /* chunks found by the walk */
	size_t known_bytes;    /* their raw bytes */
	uint32_t node;         /* deepest node, pinned until prefix_remember; 0 = root */
	uint32_t nchunks;      /* after prefix_hash: all whole chunks */
	uint32_t fresh;        /* of which hashed just now */
	const uint8_t *probed; /* token bytes the walk belongs to, while a probe waits for its match */
	uint32_t probed_count;
};

/* 0 or -ENOMEM. Memory is virtual, touched on use. */
int prefix_walk_create(struct prefix *p, uint32_t max_tokens, struct prefix_walk **out);
void prefix_walk_destroy(struct prefix_walk *w);

/* How many bytes of the token list are known already; the walk is kept and reused by prefix_match on the same bytes. */
size_t prefix_probe(struct prefix_walk *w, const uint8_t *raw, size_t avail, uint32_t count);

/* The wire decoder's hook (wire_prefix_fn); ctx is the prefix_walk. */
void prefix_match(void *ctx, const uint8_t *raw, size_t avail, uint32_t count, uint32_t *tokens, size_t *bytes);

/* After decoding: hashes the rest. w->hashes[0..w->nchunks) are valid until the next walk. */
void prefix_hash(struct prefix_walk *w, const struct wire_tokens *tokens);
/* Then, perhaps after the reply is on its way: remembers what was hashed. The message must still be there. */
void prefix_remember(struct prefix_walk *w, const struct wire_tokens *tokens);
/* Both. */
void prefix_finish(struct prefix_walk *w, const struct wire_tokens *tokens);
/* When decoding failed: gives the pin back. */
void prefix_abandon(struct prefix_walk *w);

struct prefix_stats {
	uint64_t nodes, capacity, reused_chunks, hashed_chunks, evicted;
};
void prefix_stats(struct prefix *p, struct prefix_stats *out);

#endif
