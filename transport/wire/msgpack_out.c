/* Writer: always the most compact form, as msgspec chooses it; floats always take 8 bytes. */
#include "transport/wire/msgpack.h"

/* Room for n bytes, or NULL: overflow sticks. */
static uint8_t *room(struct mp_out *out, size_t n)
{
	uint8_t *p = out->p;

	if (out->overflow || (size_t)(out->end - p) < n) {
		out->overflow = true;
		return NULL;
	}
	out->p += n;
	return p;
}

static void put_number(struct mp_out *out, uint8_t first, uint64_t v, unsigned width)
{
	uint8_t *p = room(out, 1 + width);

	if (!p)
		return;
	*p++ = first;
	for (unsigned i = width; i-- > 0;)
		*p++ = (uint8_t)(v >> (8 * i));
}

void mp_put_uint(struct mp_out *out, uint64_t v)
{
	if (v < 0x80)
		put_number(out, (uint8_t)v, 0, 0);
	else if (v <= UINT8_MAX)
		put_number(out, 0xcc, v, 1);
	else if (v <= UINT16_MAX)
		put_number(out, 0xcd, v, 2);
	else if (v <= UINT32_MAX)
		put_number(out, 0xce, v, 4);
	else
		put_number(out, 0xcf, v, 8);
}

void mp_put_int(struct mp_out *out, int64_t v)
{
	if (v >= 0)
		mp_put_uint(out, (uint64_t)v);
	else if (v >= -32)
		put_number(out, (uint8_t)v, 0, 0);
	else if (v >= INT8_MIN)
		put_number(out, 0xd0, (uint64_t)v, 1);
	else if (v >= INT16_MIN)
		put_number(out, 0xd1, (uint64_t)v, 2);
	else if (v >= INT32_MIN)
		put_number(out, 0xd2, (uint64_t)v, 4);
	else
		put_number(out, 0xd3, (uint64_t)v, 8);
}

void mp_put_bool(struct mp_out *out, bool v)
{
	put_number(out, v ? 0xc3 : 0xc2, 0, 0);
}

void mp_put_nil(struct mp_out *out)
{
	put_number(out, 0xc0, 0, 0);
}

void mp_put_double(struct mp_out *out, double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	put_number(out, 0xcb, bits, 8);
}

/* A length in the narrowest of the forms `first` (1 byte), first + 1 (2), first + 2 (4). */
static void put_length(struct mp_out *out, uint8_t first, size_t n)
{
	if (n <= UINT8_MAX)
		put_number(out, first, n, 1);
	else if (n <= UINT16_MAX)
		put_number(out, (uint8_t)(first + 1), n, 2);
	else if (n <= UINT32_MAX)
		put_number(out, (uint8_t)(first + 2), n, 4);
	else
		out->overflow = true;
}

void mp_put_raw(struct mp_out *out, struct slice s)
{
	uint8_t *p = room(out, s.n);

	if (p && s.n)
		memcpy(p, s.p, s.n);
}

void mp_put_str(struct mp_out *out, struct slice s)
{
	if (s.n < 32)
		put_number(out, (uint8_t)(0xa0 | s.n), 0, 0);
	else
		put_length(out, 0xd9, s.n);
	mp_put_raw(out, s);
}

void mp_put_cstr(struct mp_out *out, const char *s)
{
	mp_put_str(out, slice_str(s));
}

void mp_put_bin_head(struct mp_out *out, size_t n)
{
	put_length(out, 0xc4, n);
}

void mp_put_bin(struct mp_out *out, struct slice s)
{
	mp_put_bin_head(out, s.n);
	mp_put_raw(out, s);
}

void mp_put_ext(struct mp_out *out, int8_t code, struct slice s)
{
	uint8_t c = (uint8_t)code;

	if (s.n == 1 || s.n == 2 || s.n == 4 || s.n == 8 || s.n == 16)
		put_number(out, (uint8_t)(0xd4 + __builtin_ctz((unsigned)s.n)), 0, 0);
	else
		put_length(out, 0xc7, s.n);
	mp_put_raw(out, slice_of(&c, 1));
	mp_put_raw(out, s);
}

void mp_put_array(struct mp_out *out, uint32_t n)
{
	if (n < 16)
		put_number(out, (uint8_t)(0x90 | n), 0, 0);
	else if (n <= UINT16_MAX)
		put_number(out, 0xdc, n, 2);
	else
		put_number(out, 0xdd, n, 4);
}

void mp_put_map(struct mp_out *out, uint32_t n)
{
	if (n < 16)
		put_number(out, (uint8_t)(0x80 | n), 0, 0);
	else if (n <= UINT16_MAX)
		put_number(out, 0xde, n, 2);
	else
		put_number(out, 0xdf, n, 4);
}
