/* prefix_fixture.h - token lists as clients write them, and a reader that holds the prefix cache to its contract: what it hands
 * out must equal hashes computed directly, whatever it remembers, forgets or was asked before.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_PREFIX_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_PREFIX_FIXTURE_H

#include "daemon/core/prefix.h"

#include "tests/unit/daemon/core/fixture.h"

#define MAX_TOKENS 16384u

/* A token list as the client writes it, with the ids it means. */
struct prompt {
	uint32_t n;
	uint32_t ids[MAX_TOKENS];
	uint8_t raw[MAX_TOKENS * 5];
	size_t at[MAX_TOKENS + 1]; /* where token i begins */
};

/* One thread's view: what wire decoding would hold. */
struct reader {
	const struct chash *hash;
	struct prefix_walk *walk;
	uint32_t *ids, *marks;
};

static inline size_t put_token(uint8_t *p, uint32_t id, uint32_t width)
{
	if (width == 1 || (width == 0 && id < 128)) {
		p[0] = (uint8_t)id;
		return 1;
	}
	size_t bytes = width ? width - 1 : id < 256 ? 1 : id < 65536 ? 2 : 4;
	p[0] = bytes == 1 ? 0xcc : bytes == 2 ? 0xcd : 0xce;
	for (size_t i = 0; i < bytes; i++)
		p[1 + i] = (uint8_t)(id >> (8 * (bytes - 1 - i)));
	return 1 + bytes;
}

/* width 0: the shortest form; else 2, 3 or 5 bytes where the id fits. */
static inline void prompt_add(struct prompt *p, uint32_t id, uint32_t width)
{
	assert_true(p->n < MAX_TOKENS);
	if ((width == 2 && id > 255) || (width == 3 && id > 65535))
		width = 0;
	p->ids[p->n] = id;
	p->at[p->n + 1] = p->at[p->n] + put_token(p->raw + p->at[p->n], id, width);
	p->n++;
}

static inline void prompt_cut(struct prompt *p, uint32_t n)
{
	p->n = n < p->n ? n : p->n;
}

/* Ids of all widths, mostly those of a vocabulary. */
static inline uint32_t some_id(struct rnd *r)
{
	switch (rnd_below(r, 8)) {
	case 0:
		return rnd_below(r, 128);
	case 1:
		return 128 + rnd_below(r, 128);
	case 2:
		return 0xffffffffu - rnd_below(r, 3);
	default:
		return rnd_below(r, 151936);
	}
}

static inline void prompt_grow(struct prompt *p, struct rnd *r, uint32_t n)
{
	while (n-- > 0)
		prompt_add(p, some_id(r), 0);
}

static inline struct prompt *prompt_new(void)
{
	struct prompt *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	return p;
}

static inline struct prefix *cache_new(const struct chash *h, uint64_t budget)
{
	struct prefix *p;
	struct why why;

	if (prefix_create(h, budget, &p, &why))
		fail_msg("%s", why.text);
	return p;
}

static inline struct chash hash_new(uint32_t chunk)
{
	struct chash h;

	assert_int_equal(chash_init(&h, CHASH_BLAKE3, chunk, NULL, NULL), 0);
	return h;
}

static inline void reader_open(struct reader *r, const struct chash *h, struct prefix *p, uint32_t max_tokens)
{
	r->hash = h;
	r->ids = calloc(MAX_TOKENS, sizeof(*r->ids));
	r->marks = calloc(MAX_TOKENS + 1, sizeof(*r->marks));
	assert_true(r->ids && r->marks);
	assert_int_equal(prefix_walk_create(p, max_tokens, &r->walk), 0);
}

static inline void reader_close(struct reader *r)
{
	prefix_walk_destroy(r->walk);
	free(r->ids);
	free(r->marks);
}

/* What decoding puts into wire_tokens once the hook has said how much is known. */
static inline struct wire_tokens decoded(struct reader *r, const struct prompt *p, uint32_t skipped)
{
	uint32_t cs = r->hash->chunk_tokens, n = 0;

	for (uint32_t i = skipped; i < p->n; i++) {
		r->ids[i - skipped] = p->ids[i];
		if ((i + 1) % cs == 0)
			r->marks[n++] = (uint32_t)p->at[i + 1];
	}
	return (struct wire_tokens){.raw = p->raw,
				    .raw_bytes = p->at[p->n],
				    .count = p->n,
				    .skipped = skipped,
				    .skipped_bytes = p->at[skipped],
				    .ids = r->ids,
				    .marks = r->marks,
				    .nmarks = n};
}

static inline bool right(const struct reader *r, const struct prompt *p)
{
	uint32_t cs = r->hash->chunk_tokens, chunks = p->n / cs;
	struct store_hash prev = r->hash->none;

	if (r->walk->nchunks != chunks)
		return false;
	for (uint32_t k = 0; k < chunks; k++) {
		chash_next(r->hash, &prev, p->ids + (size_t)k * cs, &prev);
		if (memcmp(prev.b, r->walk->hashes[k].b, sizeof(prev.b)) != 0)
			return false;
	}
	return true;
}

/* One request, with `junk` bytes of the message behind the tokens. Returns how many chunks were known. */
static inline uint32_t ask(struct reader *r, const struct prompt *p, size_t junk)
{
	uint32_t skipped = 0, cs = r->hash->chunk_tokens;
	struct wire_tokens t;
	size_t bytes = 0;

	prefix_match(r->walk, p->raw, p->at[p->n] + junk, p->n, &skipped, &bytes);
	if (skipped % cs || skipped > p->n || bytes != p->at[skipped])
		fail_msg("%u tokens of %u in %zu bytes cannot be known", skipped, p->n, bytes);
	t = decoded(r, p, skipped);
	prefix_finish(r->walk, &t);
	if (!right(r, p))
		fail_msg("wrong hashes: %u tokens, %u skipped", p->n, skipped);
	return skipped / cs;
}

static inline struct prefix_stats stats(struct prefix *p)
{
	struct prefix_stats st;

	prefix_stats(p, &st);
	assert_true(st.nodes <= st.capacity);
	return st;
}

#endif
