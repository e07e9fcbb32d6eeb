/* chash.h - chained chunk hashes: chash(i) = H(chash(i-1), tokens of chunk i), chash(-1) = NONE_HASH.
 *
 * blake3: BLAKE3-256 over the previous digest and the tokens as 4-byte big-endian numbers; NONE_HASH is fixed (BLAKE3 of twelve
 * zero bytes). sha256_cbor: SHA-256 over canonical CBOR of [previous, [tokens], null]; NONE_HASH depends on PYTHONHASHSEED.
 * The choice never reaches a client; it matters only among servers that share a persistent tier.
 * Source: shared protocol reference section 6. Threads: any (constant after create).
 */
#ifndef DAEMON_CORE_CHASH_H
#define DAEMON_CORE_CHASH_H

#include "daemon/base/why.h"
#include "daemon/store/store.h"

#include <stdint.h>

enum chash_algorithm { CHASH_BLAKE3, CHASH_SHA256_CBOR };

struct chash {
	enum chash_algorithm algorithm;
	uint32_t chunk_tokens;
	struct store_hash none;
};

#define CHASH_MAX_CHUNK 65536u

/* `seed`: the value of PYTHONHASHSEED or NULL (then sha256_cbor's NONE_HASH is random). 0 or -EINVAL/-EIO. */
int chash_init(struct chash *h, enum chash_algorithm algorithm, uint32_t chunk_tokens, const char *seed,
	       struct why *why);

/* One chunk of h->chunk_tokens tokens. */
void chash_next(const struct chash *h, const struct store_hash *prev, const uint32_t *tokens, struct store_hash *out);

/* Any number of tokens (tests, NONE_HASH). */
void chash_of(const struct chash *h, const void *prefix, size_t prefix_bytes, const uint32_t *tokens, size_t n,
	      struct store_hash *out);

const char *chash_name(enum chash_algorithm a);

#endif
