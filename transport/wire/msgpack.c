/* Reader. Every function checks what is left before it looks, so a truncated frame ends in "truncated", not in a fault. */
#include "transport/wire/msgpack.h"

const char mp_err_bound[] = "over its bound";
static const char truncated[] = "truncated";

static size_t left(const struct mp_in *in)
{
	return (size_t)(in->end - in->p);
}

bool mp_fail(struct mp_in *in, const char *err)
{
	if (!in->err)
		in->err = err;
	return false;
}

static uint64_t big_endian(const uint8_t *p, unsigned width)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < width; i++)
		v = v << 8 | p[i];
	return v;
}

/* The first byte of the next item, not consumed. */
static bool first_byte(struct mp_in *in, uint8_t *b)
{
	if (in->err)
		return false;
	if (in->p == in->end) {
		mp_fail(in, truncated);
		return false;
	}
	*b = *in->p;
	return true;
}

/* Consumes the first byte and a big-endian number of `width` bytes behind it. */
static bool take_number(struct mp_in *in, unsigned width, uint64_t *v)
{
	if (left(in) < 1 + (size_t)width) {
		mp_fail(in, truncated);
		return false;
	}
	*v = big_endian(in->p + 1, width);
	in->p += 1 + width;
	return true;
}

static bool take_bytes(struct mp_in *in, uint64_t n, size_t max, struct slice *out)
{
	if (n > left(in))
		return mp_fail(in, truncated);
	if (n > max)
		return mp_fail(in, mp_err_bound);
	*out = slice_of(in->p, (size_t)n);
	in->p += n;
	return true;
}

enum mp_type mp_peek(const struct mp_in *in)
{
	static const uint8_t high[32] = {
		MP_NIL,   MP_BAD,  MP_BOOL, MP_BOOL, MP_BIN,  MP_BIN, MP_BIN,   MP_EXT,   MP_EXT, MP_EXT, MP_FLOAT,
		MP_FLOAT, MP_UINT, MP_UINT, MP_UINT, MP_UINT, MP_INT, MP_INT,   MP_INT,   MP_INT, MP_EXT, MP_EXT,
		MP_EXT,   MP_EXT,  MP_EXT,  MP_STR,  MP_STR,  MP_STR, MP_ARRAY, MP_ARRAY, MP_MAP, MP_MAP,
	};
	uint8_t b;

	if (in->err || in->p == in->end)
		return MP_END;
	b = *in->p;
	if (b < 0x80)
		return MP_UINT;
	if (b < 0x90)
		return MP_MAP;
	if (b < 0xa0)
		return MP_ARRAY;
	if (b < 0xc0)
		return MP_STR;
	if (b >= 0xe0)
		return MP_INT;
	return (enum mp_type)high[b - 0xc0];
}

/* Any integer form: the value as 64 bits of two's complement, and whether it is negative. */
static bool take_integer(struct mp_in *in, uint64_t *v, bool *negative)
{
	static const uint64_t sign[4] = {1u << 7, 1u << 15, 1u << 31, (uint64_t)1 << 63};
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	*negative = false;
	if (b < 0x80 || b >= 0xe0) {
		in->p++;
		*negative = b >= 0xe0;
		*v = (uint64_t)(int64_t)(int8_t)b;
		return true;
	}
	if (b < 0xcc || b > 0xd3)
		return mp_fail(in, "not an integer");
	if (!take_number(in, 1u << (b & 3), v))
		return false;
	if (b >= 0xd0) {
		*negative = (*v & sign[b & 3]) != 0;
		*v = (*v ^ sign[b & 3]) - sign[b & 3];
	}
	return true;
}

bool mp_uint(struct mp_in *in, uint64_t max, uint64_t *out)
{
	uint64_t v;
	bool negative;

	if (!take_integer(in, &v, &negative))
		return false;
	if (negative)
		return mp_fail(in, "negative integer");
	if (v > max)
		return mp_fail(in, mp_err_bound);
	*out = v;
	return true;
}

bool mp_int(struct mp_in *in, int64_t *out)
{
	uint64_t v;
	bool negative;

	if (!take_integer(in, &v, &negative))
		return false;
	if (!negative && v > INT64_MAX)
		return mp_fail(in, mp_err_bound);
	*out = (int64_t)v;
	return true;
}

bool mp_bool(struct mp_in *in, bool *out)
{
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	if (b != 0xc2 && b != 0xc3)
		return mp_fail(in, "not a bool");
	in->p++;
	*out = b == 0xc3;
	return true;
}

bool mp_nil(struct mp_in *in)
{
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	if (b != 0xc0)
		return mp_fail(in, "not nil");
	in->p++;
	return true;
}

bool mp_double(struct mp_in *in, double *out)
{
	uint64_t v;
	bool negative;
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	if (b == 0xca) {
		float f;
		if (!take_number(in, 4, &v))
			return false;
		uint32_t bits = (uint32_t)v;
		memcpy(&f, &bits, sizeof(f));
		*out = (double)f;
		return true;
	}
	if (b == 0xcb) {
		if (!take_number(in, 8, &v))
			return false;
		memcpy(out, &v, sizeof(*out));
		return true;
	}
	if (!take_integer(in, &v, &negative)) {
		if (in->err != truncated)
			in->err = "not a number";
		return false;
	}
	*out = negative ? (double)(int64_t)v : (double)v;
	return true;
}

bool mp_str(struct mp_in *in, size_t max, struct slice *out)
{
	uint8_t b;
	uint64_t n;

	if (!first_byte(in, &b))
		return false;
	if (b >= 0xa0 && b < 0xc0) {
		in->p++;
		n = b & 0x1f;
	} else if (b >= 0xd9 && b <= 0xdb) {
		if (!take_number(in, 1u << (b - 0xd9), &n))
			return false;
	} else {
		return mp_fail(in, "not a string");
	}
	return take_bytes(in, n, max, out);
}

bool mp_bin(struct mp_in *in, size_t max, struct slice *out)
{
	uint8_t b;
	uint64_t n;

	if (!first_byte(in, &b))
		return false;
	if (b < 0xc4 || b > 0xc6)
		return mp_fail(in, "not bytes");
	return take_number(in, 1u << (b - 0xc4), &n) && take_bytes(in, n, max, out);
}

/* Header of an ext item: its body length; the code byte is consumed. */
static bool take_ext_head(struct mp_in *in, uint64_t *n, int8_t *code)
{
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	if (b >= 0xd4 && b <= 0xd8) {
		in->p++;
		*n = 1u << (b - 0xd4);
	} else if (b >= 0xc7 && b <= 0xc9) {
		if (!take_number(in, 1u << (b - 0xc7), n))
			return false;
	} else {
		return mp_fail(in, "not an ext item");
	}
	if (left(in) < 1)
		return mp_fail(in, truncated);
	*code = (int8_t)*in->p++;
	return true;
}

bool mp_ext(struct mp_in *in, int8_t code, size_t max, struct slice *out)
{
	uint64_t n;
	int8_t got;

	if (!take_ext_head(in, &n, &got))
		return false;
	if (got != code)
		return mp_fail(in, "ext item of another type code");
	return take_bytes(in, n, max, out);
}

/* Count of a container whose short forms start at `fix` and whose long forms are `wide` (2 bytes) and wide + 1 (4). */
static bool take_count(struct mp_in *in, uint8_t fix, uint8_t wide, const char *wrong, uint64_t *n)
{
	uint8_t b;

	if (!first_byte(in, &b))
		return false;
	if ((b & 0xf0) == fix) {
		in->p++;
		*n = b & 0x0f;
		return true;
	}
	if (b != wide && b != wide + 1)
		return mp_fail(in, wrong);
	return take_number(in, b == wide ? 2 : 4, n);
}

bool mp_array(struct mp_in *in, uint32_t max, uint32_t *out)
{
	uint64_t n;

	if (!take_count(in, 0x90, 0xdc, "not an array", &n))
		return false;
	if (n > max)
		return mp_fail(in, mp_err_bound);
	if (n > left(in))
		return mp_fail(in, "more elements declared than bytes left");
	*out = (uint32_t)n;
	return true;
}

bool mp_map(struct mp_in *in, uint32_t max, uint32_t *out)
{
	uint64_t n;

	if (!take_count(in, 0x80, 0xde, "not a map", &n))
		return false;
	if (n > max)
		return mp_fail(in, mp_err_bound);
	if (2 * n > left(in))
		return mp_fail(in, "more elements declared than bytes left");
	*out = (uint32_t)n;
	return true;
}

/* Consumes a scalar, or the header of a container, whose number of items to come is added to *items. */
static bool skip_head(struct mp_in *in, uint64_t *items)
{
	uint32_t n = 0;
	uint64_t v;
	struct slice s;
	int8_t code;

	*items = 0;
	switch (mp_peek(in)) {
	case MP_UINT:
	case MP_INT: {
		bool negative;
		return take_integer(in, &v, &negative);
	}
	case MP_BOOL:
	case MP_NIL:
		in->p++;
		return true;
	case MP_FLOAT:
		return take_number(in, *in->p == 0xca ? 4 : 8, &v);
	case MP_STR:
		return mp_str(in, SIZE_MAX, &s);
	case MP_BIN:
		return mp_bin(in, SIZE_MAX, &s);
	case MP_EXT:
		return take_ext_head(in, &v, &code) && take_bytes(in, v, SIZE_MAX, &s);
	case MP_ARRAY:
		if (!mp_array(in, UINT32_MAX, &n))
			return false;
		*items = n;
		return true;
	case MP_MAP:
		if (!mp_map(in, UINT32_MAX, &n))
			return false;
		*items = 2 * (uint64_t)n;
		return true;
	case MP_END:
		return mp_fail(in, truncated);
	case MP_BAD:
		break;
	}
	return mp_fail(in, "byte c1 is no item");
}

bool mp_skip(struct mp_in *in)
{
	uint64_t todo[MP_MAX_DEPTH + 1] = {1};
	unsigned depth = 0;

	for (;;) {
		uint64_t items;

		while (todo[depth] == 0) {
			if (depth == 0)
				return true;
			depth--;
		}
		todo[depth]--;
		if (!skip_head(in, &items))
			return false;
		if (items) {
			if (depth == MP_MAX_DEPTH)
				return mp_fail(in, "nested too deeply");
			todo[++depth] = items;
		}
	}
}

bool mp_done(struct mp_in *in)
{
	if (in->err)
		return false;
	if (in->p != in->end)
		return mp_fail(in, "bytes behind the item");
	return true;
}
