/* stream_int.h - the copy loops, written once and compiled once per vector width by stream.c, which defines
 *
 *   S(name)            the name with the set's suffix         S_TARGET   the function attribute that permits the set
 *   S_VEC              the vector type                        S_LOAD(p)  unaligned load
 *   S_STREAM(p, v)     non-temporal store, p aligned
 *
 * No include guard: it is included several times.
 */

/* One step of the loop: 4 lines to an aligned `d`, and the 4 lines at `ahead` on their way into the cache. */
S_TARGET static inline void S(step)(uint8_t *d, const uint8_t *s, const uint8_t *ahead)
{
	const uint64_t w = sizeof(S_VEC), n = STEP / sizeof(S_VEC);
	S_VEC v[STEP / sizeof(S_VEC)];
	for (uint64_t i = 0; i < STEP; i += LINE)
		__builtin_prefetch(ahead + i, 0, PREFETCH_LEVEL);
	for (uint64_t i = 0; i < n; i++)
		v[i] = S_LOAD(s + i * w);
	for (uint64_t i = 0; i < n; i++)
		S_STREAM(d + i * w, v[i]);
}

/* STREAMS pages side by side. */
S_TARGET static inline void S(pages)(uint8_t *d, const uint8_t *s, const uint8_t *ahead)
{
	for (uint64_t at = 0; at < PAGE; at += STEP) {
		for (uint64_t page = 0; page < STREAMS * PAGE; page += PAGE)
			S(step)(d + page + at, s + page + at, ahead + page + at);
	}
}

/* `n` bytes, a multiple of LINE, to an aligned `d`; `next` is what will be read after these. */
S_TARGET static inline void S(lines)(uint8_t *d, const uint8_t *s, uint64_t n, const uint8_t *next)
{
	const uint64_t w = sizeof(S_VEC), wide = STREAMS * PAGE;
	for (; n >= wide; n -= wide, d += wide, s += wide)
		S(pages)(d, s, n >= 2 * wide ? s + wide : next);
	for (; n >= AHEAD + STEP; n -= STEP, d += STEP, s += STEP)
		S(step)(d, s, s + AHEAD);
	for (; n >= STEP; n -= STEP, d += STEP, s += STEP, next += STEP)
		S(step)(d, s, next);
	for (; n > 0; n -= w, d += w, s += w)
		S_STREAM(d, S_LOAD(s));
}

S_TARGET static void S(copy)(void *dst, const void *src, uint64_t n, const void *next)
{
	uint8_t *d = dst;
	const uint8_t *s = src;
	if (n < SHORT_COPY) {
		memcpy(d, s, n);
		return;
	}
	uint64_t head = -(uintptr_t)d & (LINE - 1);
	memcpy(d, s, head);
	d += head;
	s += head;
	n -= head;
	uint64_t body = n & ~(uint64_t)(LINE - 1);
	S(lines)(d, s, body, next);
	memcpy(d + body, s + body, n - body);
}

S_TARGET static void S(rows)(const struct row_copy *r)
{
	/* Rows that fill whole lines are streamed; others would leave every line half written, which costs more than the
	 * caches do. */
	bool whole = (((uintptr_t)r->dst | r->dst_outer | r->dst_inner | r->row) & (LINE - 1)) == 0;
	for (uint32_t o = 0; o < r->outer; o++) {
		uint8_t *d = r->dst + o * r->dst_outer;
		const uint8_t *s = r->src + o * r->src_outer, *next = r->next + o * r->src_outer;
		for (uint32_t i = 0; i < r->inner; i++, d += r->dst_inner, s += r->src_inner, next += r->src_inner) {
			if (whole)
				S(lines)(d, s, r->row, next);
			else
				memcpy(d, s, r->row);
		}
	}
}
