/* stream_int.h - the copy loops, written once and compiled once per vector width by stream.c, which defines
 *
 *   S(name)            the name with the set's suffix         S_TARGET   the function attribute that permits the set
 *   S_VEC              the vector type                        S_LOAD(p)  unaligned load
 *   S_STREAM(p, v)     non-temporal store, p aligned
 *
 * No include guard: it is included several times.
 */

#define LINE 64u

/* `n` bytes, a multiple of LINE, to an aligned `d`. */
S_TARGET static inline void S(lines)(uint8_t *d, const uint8_t *s, uint64_t n)
{
	const uint64_t w = sizeof(S_VEC);
	for (; n >= 4 * LINE; n -= 4 * LINE, d += 4 * LINE, s += 4 * LINE) {
		S_VEC v[4 * LINE / sizeof(S_VEC)];
		for (uint64_t i = 0; i < 4 * LINE / w; i++)
			v[i] = S_LOAD(s + i * w);
		for (uint64_t i = 0; i < 4 * LINE / w; i++)
			S_STREAM(d + i * w, v[i]);
	}
	for (; n > 0; n -= w, d += w, s += w)
		S_STREAM(d, S_LOAD(s));
}

S_TARGET static void S(copy)(void *dst, const void *src, uint64_t n)
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
	S(lines)(d, s, body);
	memcpy(d + body, s + body, n - body);
}

S_TARGET static void S(rows)(const struct row_copy *r)
{
	/* Rows that fill whole lines are streamed; others would leave every line half written, which costs more than the
	 * caches do. */
	bool whole = (((uintptr_t)r->dst | r->dst_outer | r->dst_inner | r->row) & (LINE - 1)) == 0;
	for (uint32_t o = 0; o < r->outer; o++) {
		uint8_t *d = r->dst + o * r->dst_outer;
		const uint8_t *s = r->src + o * r->src_outer;
		for (uint32_t i = 0; i < r->inner; i++, d += r->dst_inner, s += r->src_inner) {
			if (whole)
				S(lines)(d, s, r->row);
			else
				memcpy(d, s, r->row);
		}
	}
}

#undef LINE
