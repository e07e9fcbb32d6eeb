/* msgpack_fuzz - the reader against itself: mp_skip against typed reads, mp_u32_run against a loop of mp_uint, and what the
 * writer makes of a value against what was read. Input: two bytes of count (little-endian), then the document. */
#include "daemon/base/check.h"
#include "transport/wire/msgpack.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A number that was read is written in its compact form and read again. */
static void check_number(const struct mp_in *before, const struct mp_in *after)
{
	uint8_t buf[9];
	struct mp_out out = mp_out(buf, sizeof(buf));
	struct mp_in in = *before;
	uint64_t u;
	int64_t i;

	if (mp_uint(&in, UINT64_MAX, &u)) {
		mp_put_uint(&out, u);
	} else {
		in = *before;
		check(mp_int(&in, &i));
		mp_put_int(&out, i);
	}
	check(in.p == after->p && !out.overflow);
	check((size_t)(out.p - buf) <= (size_t)(after->p - before->p)); /* compact */
	struct mp_in again = mp_in(slice_of(buf, (size_t)(out.p - buf)));
	int64_t j;
	uint64_t v;
	if (i = 0, in = *before, mp_int(&in, &i))
		check(mp_int(&again, &j) && i == j && mp_done(&again));
	else
		check(mp_uint(&again, UINT64_MAX, &v) && v == u && mp_done(&again));
}

/* The type code the item says it has, or 0 when the header is cut. */
static int8_t ext_code(const struct mp_in *in)
{
	size_t at = *in->p >= 0xd4 ? 1 : (size_t)1 + (1u << (*in->p - 0xc7));

	return at < (size_t)(in->end - in->p) ? (int8_t)in->p[at] : 0;
}

static bool walk(struct mp_in *in, unsigned depth);

static bool walk_container(struct mp_in *in, bool map, unsigned depth)
{
	uint32_t n;
	uint64_t items;

	if (!(map ? mp_map(in, UINT32_MAX, &n) : mp_array(in, UINT32_MAX, &n)))
		return false;
	items = map ? 2 * (uint64_t)n : n;
	if (items && depth == MP_MAX_DEPTH)
		return mp_fail(in, "deep");
	for (; items > 0; items--) {
		if (!walk(in, depth + 1))
			return false;
	}
	return true;
}

/* One item by the readers of its type. */
static bool walk(struct mp_in *in, unsigned depth)
{
	struct mp_in before = *in;
	struct slice s;
	uint64_t u;
	double f;
	bool b;

	switch (mp_peek(in)) {
	case MP_UINT:
	case MP_INT: {
		int64_t i;
		if (!mp_uint(in, UINT64_MAX, &u)) {
			*in = before;
			if (!mp_int(in, &i))
				return false;
		}
		check_number(&before, in);
		return true;
	}
	case MP_BOOL:
		return mp_bool(in, &b);
	case MP_NIL:
		return mp_nil(in);
	case MP_FLOAT:
		return mp_double(in, &f);
	case MP_STR:
		return mp_str(in, SIZE_MAX, &s);
	case MP_BIN:
		return mp_bin(in, SIZE_MAX, &s);
	case MP_EXT:
		return mp_ext(in, ext_code(in), SIZE_MAX, &s);
	case MP_ARRAY:
	case MP_MAP:
		return walk_container(in, mp_peek(in) == MP_MAP, depth);
	default:
		return mp_fail(in, "nothing");
	}
}

static void check_skip(struct slice s)
{
	struct mp_in skipped = mp_in(s), walked = skipped;

	for (;;) {
		bool a = mp_skip(&skipped), b = walk(&walked, 0);

		check(a == b);
		check(skipped.p <= skipped.end && walked.p <= walked.end);
		if (!a)
			return;
		check(skipped.p == walked.p);
	}
}

static void check_run(struct slice s, uint32_t n)
{
	uint32_t *fast = malloc((n + 1) * sizeof(*fast));
	struct mp_in run = mp_in(s), loop = run;
	bool ok;
	uint64_t v;

	fast[n] = 0xa5a5a5a5;
	ok = mp_u32_run(&run, n, fast);
	for (uint32_t i = 0; i < n; i++) {
		if (!mp_uint(&loop, UINT32_MAX, &v))
			break;
		if (ok)
			check(fast[i] == v);
	}
	check(ok == !loop.err && ok == !run.err);
	if (ok)
		check(run.p == loop.p);
	else
		check(run.err == loop.err);
	check(fast[n] == 0xa5a5a5a5);
	free(fast);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	struct slice document = slice_of(data + 2, size - 2);
	uint32_t n = (uint32_t)data[0] | (uint32_t)data[1] << 8;

	check_skip(document);
	check_run(document, n);
	return 0;
}
