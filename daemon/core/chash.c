/* SHA-256's context must live on the stack: the EVP interface allocates one per hash, in every request, and may fail. Its plain
 * interface is marked deprecated since OpenSSL 3.0 and stays.
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "daemon/core/chash.h"

#include <blake3.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define BATCH 256u /* tokens converted at a time: with the digest, the default chunk is one buffer */

const char *chash_name(enum chash_algorithm a)
{
	return a == CHASH_BLAKE3 ? "blake3" : "sha256_cbor";
}

/* Tokens are hashed big-endian. A byte swap of 256 numbers is worth vectors: it is a twentieth of the hashing itself. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#endif
static void
swap_tokens(uint8_t *restrict out, const uint32_t *restrict tokens, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t be = __builtin_bswap32(tokens[i]);
		memcpy(out + 4 * i, &be, 4);
	}
}

static void blake3_of(const void *prefix, size_t prefix_bytes, const uint32_t *tokens, size_t n, struct store_hash *out)
{
	uint8_t buf[STORE_HASH_BYTES + BATCH * 4];
	blake3_hasher hasher;
	size_t used = prefix_bytes;

	blake3_hasher_init(&hasher);
	memcpy(buf, prefix, prefix_bytes);
	do {
		size_t take = n < BATCH ? n : BATCH;
		swap_tokens(buf + used, tokens, take);
		blake3_hasher_update(&hasher, buf, used + 4 * take);
		tokens += take;
		n -= take;
		used = 0;
	} while (n > 0);
	blake3_hasher_finalize(&hasher, out->b, sizeof(out->b));
}

/* Shortest CBOR head (RFC 8949 section 4.2.1): major type in the top three bits. */
static size_t cbor_head(uint8_t *p, uint8_t major, uint64_t v)
{
	uint8_t m = (uint8_t)(major << 5);

	if (v < 24) {
		p[0] = (uint8_t)(m | v);
		return 1;
	}
	if (v <= 0xff) {
		p[0] = m | 24;
		p[1] = (uint8_t)v;
		return 2;
	}
	if (v <= 0xffff) {
		p[0] = m | 25;
		p[1] = (uint8_t)(v >> 8);
		p[2] = (uint8_t)v;
		return 3;
	}
	p[0] = m | 26;
	for (int i = 0; i < 4; i++)
		p[1 + i] = (uint8_t)(v >> (24 - 8 * i));
	return 5;
}

static void sha256_cbor_of(const void *prefix, size_t prefix_bytes, const uint32_t *tokens, size_t n,
			   struct store_hash *out)
{
	uint8_t buf[2048];
	size_t used = 0;
	SHA256_CTX ctx;

	SHA256_Init(&ctx);
	used += cbor_head(buf + used, 4, 3);
	used += cbor_head(buf + used, 2, prefix_bytes);
	memcpy(buf + used, prefix, prefix_bytes);
	used += prefix_bytes;
	used += cbor_head(buf + used, 4, n);
	for (size_t i = 0; i < n; i++) {
		if (used > sizeof(buf) - 8) {
			SHA256_Update(&ctx, buf, used);
			used = 0;
		}
		used += cbor_head(buf + used, 0, tokens[i]);
	}
	buf[used++] = 0xf6;
	SHA256_Update(&ctx, buf, used);
	SHA256_Final(out->b, &ctx);
}

void chash_of(const struct chash *h, const void *prefix, size_t prefix_bytes, const uint32_t *tokens, size_t n,
	      struct store_hash *out)
{
	if (prefix_bytes > STORE_HASH_BYTES)
		prefix_bytes = STORE_HASH_BYTES;
	if (h->algorithm == CHASH_BLAKE3)
		blake3_of(prefix, prefix_bytes, tokens, n, out);
	else
		sha256_cbor_of(prefix, prefix_bytes, tokens, n, out);
}

void chash_next(const struct chash *h, const struct store_hash *prev, const uint32_t *tokens, struct store_hash *out)
{
	chash_of(h, prev->b, sizeof(prev->b), tokens, h->chunk_tokens, out);
}

/* vLLM: SHA-256 of the CBOR text of PYTHONHASHSEED, else 32 random bytes. */
static int sha256_cbor_none(const char *seed, struct store_hash *none)
{
	uint8_t buf[300];
	size_t n;

	if (!seed)
		return getrandom(none->b, sizeof(none->b), 0) == (ssize_t)sizeof(none->b) ? 0 : -EIO;
	n = strlen(seed);
	if (n > sizeof(buf) - 8)
		return -EINVAL;
	size_t head = cbor_head(buf, 3, n);
	memcpy(buf + head, seed, n);
	return EVP_Digest(buf, head + n, none->b, NULL, EVP_sha256(), NULL) ? 0 : -EIO;
}

int chash_init(struct chash *h, enum chash_algorithm algorithm, uint32_t chunk_tokens, const char *seed,
	       struct why *why)
{
	static const uint8_t zero_prefix[8];
	static const uint32_t zero_token[1];
	int err = 0;

	if (chunk_tokens == 0 || chunk_tokens > CHASH_MAX_CHUNK)
		return why_set(why, -EINVAL, "chunk size %u is outside 1..%u", chunk_tokens, CHASH_MAX_CHUNK);
	h->algorithm = algorithm;
	h->chunk_tokens = chunk_tokens;
	if (algorithm == CHASH_BLAKE3)
		blake3_of(zero_prefix, sizeof(zero_prefix), zero_token, 1, &h->none);
	else
		err = sha256_cbor_none(seed, &h->none);
	return err ? why_set(why, err, "cannot derive the first hash of sha256_cbor from PYTHONHASHSEED") : 0;
}
