/* mp_u32_run: token ids, 128 k of them per request, in mixed widths that no branch predictor can guess.
 *
 * The bottleneck of a plain loop is the chain "load first byte -> choose width -> next address", with a
 * misprediction whenever the width changes. Here the widths are found for every byte position of a window at once, with
 * vector compares, as if an integer started there; a second vector pass adds the width of the item that would follow. What
 * is left of the chain is one table load and one addition per pair of integers, without a branch on data.
 * Forms outside fixint/cc/cd/ce (9-byte and signed ones, errors) get width 0 and leave to the careful path.
 */
#include "transport/wire/measure_int.h"
#include "transport/wire/msgpack.h"

#include <endian.h>

#define WORTH_RUN 12 /* integers; below, measuring costs more than it saves */

#ifdef __x86_64__
#define LANES    32
#define TARGET   __attribute__((target("avx2")))
#define AS(name) name##_32
#include "transport/wire/measure_int.h"
#endif

static void measure(struct window *w, const uint8_t *p, size_t n)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2")) {
		measure_32(w, p, n);
		return;
	}
#endif
	measure_16(w, p, n);
}

/* The integer whose last byte is end[-1]. Reads four bytes, of which the width's mask keeps those that belong to it. */
static inline uint32_t ending_at(const uint8_t *end, unsigned width)
{
	static const uint32_t mask[LONGEST + 1] = {0, 0xff, 0xff, 0xffff, 0, 0xffffffff};
	uint32_t v;

	memcpy(&v, end - 4, sizeof(v));
	return be32toh(v) & mask[width];
}

static bool one_u32(struct mp_in *in, uint32_t *out)
{
	uint64_t v;

	if (!mp_uint(in, UINT32_MAX, &v))
		return false;
	*out = (uint32_t)v;
	return true;
}

/* Decodes pairs from the window while they lie in it whole; returns the number of integers done. */
static uint32_t run_pairs(const struct window *w, const uint8_t *base, size_t last, size_t *pos, uint32_t n,
			  uint32_t *out)
{
	size_t at = *pos;
	uint32_t i = 0;

	while (i + 2 <= n && at <= last) {
		unsigned two = w->two[at];
		unsigned one = w->one[at];

		if (two == 0)
			break;
		out[i] = ending_at(base + at + one, one);
		out[i + 1] = ending_at(base + at + two, two - one);
		at += two;
		i += 2;
	}
	*pos = at;
	return i;
}

/* One window's worth: at least one integer is decoded, or the reader has failed. */
static uint32_t run_window(struct mp_in *in, struct window *w, size_t size, uint32_t n, uint32_t *out)
{
	const uint8_t *base = in->p;
	size_t last = size - 2 * LONGEST; /* a pair that starts here or earlier lies in the window whole */
	size_t pos = 0;
	uint32_t done = 0;

	measure(w, base, size);
	while (done < n && pos <= last) {
		done += run_pairs(w, base, last, &pos, n - done, out + done);
		in->p = base + pos;
		if (done == n || pos > last)
			break;
		if (!one_u32(in, out + done))
			return done;
		done++;
		pos = (size_t)(in->p - base);
	}
	return done;
}

bool mp_u32_run(struct mp_in *in, uint32_t n, uint32_t *out)
{
	struct window w;
	const uint8_t *start = in->p;
	uint32_t done = 0;

	/* ending_at looks back four bytes, which the first integers do not have behind them. */
	while (done < n && in->p - start < 4) {
		if (!one_u32(in, out + done))
			return false;
		done++;
	}
	while (n - done >= WORTH_RUN) {
		size_t size = (size_t)(in->end - in->p) & ~(size_t)(GRAIN - 1);
		size_t need = ((size_t)(n - done) * LONGEST + GRAIN - 1) & ~(size_t)(GRAIN - 1);

		size = size < WINDOW ? size : WINDOW;
		size = size < need ? size : need;
		if (size < GRAIN)
			break;
		done += run_window(in, &w, size, n - done, out + done);
		if (in->err)
			return false;
	}
	for (; done < n; done++) {
		if (!one_u32(in, out + done))
			return false;
	}
	return !in->err;
}
