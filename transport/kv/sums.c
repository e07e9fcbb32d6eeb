#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "transport/kv/kv_int.h"
#include "transport/kv/stream_int.h"

/* Rows are put together here, in the first-level cache, and leave as one run. */
#define BOUNCE (2 * PAGE)

void kv_sums_begin(struct sums *s, void *object, uint64_t bytes, uint64_t at, uint32_t *out)
{
	*s = (struct sums){kv_sums_copy(), object, bytes, at, at, ~0u, out};
}

/* What came of this sub-block since `from`, moved to where it ends. */
static void sub_block_done(struct sums *s)
{
	uint64_t block = (s->at - 1) / CRC_BLOCK, end = (block + 1) * CRC_BLOCK;

	if (end > s->bytes)
		end = s->bytes;
	s->out[block] ^= crc32c_combine(~s->raw, 0, end - s->at);
	s->from = s->at;
	s->raw = ~0u;
}

static uint64_t room(const struct sums *s, uint64_t n)
{
	uint64_t left = CRC_BLOCK - s->at % CRC_BLOCK;
	return n < left ? n : left;
}

static void advance(struct sums *s, uint64_t n)
{
	s->at += n;
	if (s->at % CRC_BLOCK == 0)
		sub_block_done(s);
}

void kv_sums_add(struct sums *s, uint8_t *d, const uint8_t *src, uint64_t n, const uint8_t *next)
{
	check(d == s->object + s->at && n <= s->bytes - s->at);
	for (uint64_t m; n > 0; n -= m, d += m, src += m) {
		m = room(s, n);
		s->raw = s->copy(s->raw, d, src, m, m < n ? src + m : next);
		advance(s, m);
	}
}

void kv_sums_skip(struct sums *s, const uint8_t *d, uint64_t n)
{
	check(d == s->object + s->at && n <= s->bytes - s->at);
	for (uint64_t m; n > 0; n -= m, d += m) {
		m = room(s, n);
		s->raw = ~crc32c(~s->raw, d, m);
		advance(s, m);
	}
}

void kv_sums_end(struct sums *s)
{
	if (s->at != s->from)
		sub_block_done(s);
}

struct bounce {
	_Alignas(LINE) uint8_t b[BOUNCE];
	uint64_t n;
};

static void bounce_out(struct sums *s, struct bounce *bounce)
{
	kv_sums_add(s, s->object + s->at, bounce->b, bounce->n, bounce->b);
	bounce->n = 0;
}

static void bounce_row(struct sums *s, struct bounce *bounce, const uint8_t *src, uint64_t row, const uint8_t *next)
{
	for (uint64_t i = 0; i < row; i += LINE)
		__builtin_prefetch(next + i, 0, PREFETCH_LEVEL);
	for (uint64_t m; row > 0; row -= m, src += m) {
		m = row < BOUNCE - bounce->n ? row : BOUNCE - bounce->n;
		memcpy(bounce->b + bounce->n, src, m);
		bounce->n += m;
		if (bounce->n == BOUNCE)
			bounce_out(s, bounce);
	}
}

void kv_sums_rows(struct sums *s, const struct row_copy *r)
{
	struct bounce bounce;

	bounce.n = 0;
	check(r->dst == s->object + s->at && r->dst_inner == r->row && r->dst_outer == r->inner * r->row);
	for (uint32_t o = 0; o < r->outer; o++)
		for (uint32_t i = 0; i < r->inner; i++)
			bounce_row(s, &bounce, r->src + o * r->src_outer + i * r->src_inner, r->row,
				   r->next + o * r->src_outer + i * r->src_inner);
	bounce_out(s, &bounce);
}
