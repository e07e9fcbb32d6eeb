/* The generic walk over items: one value, one map. */
#include "transport/wire/wire_int.h"

#include <errno.h>

int wire_in_error(const struct mp_in *in)
{
	return in->err == mp_err_bound ? -E2BIG : -EPROTO;
}

/* Length of the UTF-8 sequence that starts at p, 0 when it is not one. Table 3-7 of the Unicode standard. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xbf; /* range of the second byte */
	size_t n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if ((p[0] & 0xf0) == 0xe0)
		n = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		n = 4;
	else
		return 0;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	if (left < n || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

bool wire_utf8(struct slice s, size_t *chars)
{
	const uint8_t *p = s.p;
	size_t count = 0;

	for (size_t i = 0; i < s.n; count++) {
		size_t n = utf8_sequence(p + i, s.n - i);
		if (n == 0)
			return false;
		i += n;
	}
	if (chars)
		*chars = count;
	return true;
}

bool wire_has_any(struct slice s, const char *set)
{
	const char *p = s.p;

	for (size_t i = 0; i < s.n; i++) {
		if (strchr(set, p[i])) /* finds the NUL that ends `set`, too */
			return true;
	}
	return false;
}

bool wire_get_name(struct wire_cur *c, size_t max, struct slice *out)
{
	if (!mp_str(&c->in, max, out))
		return false;
	return wire_utf8(*out, NULL) || mp_fail(&c->in, "not UTF-8");
}

static bool get_u32(struct wire_cur *c, const struct wire_item *item, uint32_t *out)
{
	uint64_t v;

	if (!mp_uint(&c->in, item->max ? item->max : UINT32_MAX, &v))
		return false;
	if (v == 0 && (item->flags & ITEM_NONZERO))
		return mp_fail(&c->in, "zero");
	*out = (uint32_t)v;
	return true;
}

static bool get_double(struct wire_cur *c, double *out)
{
	if (!mp_double(&c->in, out))
		return false;
	return *out == *out || mp_fail(&c->in, "not a number");
}

bool wire_get_item(struct wire_cur *c, const struct wire_item *item, void *obj)
{
	void *field = (char *)obj + item->off;

	c->at = item->name;
	if ((item->flags & ITEM_NIL_OK) && mp_peek(&c->in) == MP_NIL)
		return mp_nil(&c->in);
	switch (item->kind) {
	case KIND_U32:
		return get_u32(c, item, field);
	case KIND_U64:
		return mp_uint(&c->in, item->max ? item->max : UINT64_MAX, field);
	case KIND_I64:
		return mp_int(&c->in, field);
	case KIND_BOOL:
		return mp_bool(&c->in, field);
	case KIND_DOUBLE:
		return get_double(c, field);
	case KIND_NAME:
		return wire_get_name(c, (size_t)item->max, field);
	case KIND_BIN:
		return mp_bin(&c->in, item->max ? (size_t)item->max : SIZE_MAX, field);
	case KIND_CUSTOM:
		break;
	}
	return item->get(c, obj);
}

void wire_put_item(struct wire_pen *pen, const struct wire_item *item, const void *obj)
{
	const void *field = (const char *)obj + item->off;

	switch (item->kind) {
	case KIND_U32:
		mp_put_uint(&pen->out, *(const uint32_t *)field);
		break;
	case KIND_U64:
		mp_put_uint(&pen->out, *(const uint64_t *)field);
		break;
	case KIND_I64:
		mp_put_int(&pen->out, *(const int64_t *)field);
		break;
	case KIND_BOOL:
		mp_put_bool(&pen->out, *(const bool *)field);
		break;
	case KIND_DOUBLE:
		mp_put_double(&pen->out, *(const double *)field);
		break;
	case KIND_NAME:
		mp_put_str(&pen->out, *(const struct slice *)field);
		break;
	case KIND_BIN:
		mp_put_bin(&pen->out, *(const struct slice *)field);
		break;
	case KIND_CUSTOM:
		item->put(pen, obj);
		break;
	}
}

static size_t find(const struct wire_item *items, size_t n, struct slice name)
{
	size_t i = 0;

	while (i < n && !slice_is(name, items[i].name))
		i++;
	return i;
}

static bool get_entry(struct wire_cur *c, const struct wire_item *items, size_t n, void *obj, uint32_t *seen)
{
	struct slice name;
	size_t i;

	if (!mp_str(&c->in, WIRE_MAX_NAME, &name))
		return false;
	i = find(items, n, name);
	if (i == n)
		return mp_skip(&c->in);
	if (*seen >> i & 1) {
		c->at = items[i].name;
		return mp_fail(&c->in, "twice in one map");
	}
	*seen |= 1u << i;
	return wire_get_item(c, &items[i], obj);
}

bool wire_get_map(struct wire_cur *c, const struct wire_item *items, size_t n, void *obj, uint32_t *seen)
{
	const char *at = c->at;
	uint32_t got = 0;
	uint32_t pairs;

	if (!mp_map(&c->in, WIRE_MAX_PAIRS, &pairs))
		return false;
	for (uint32_t i = 0; i < pairs; i++) {
		c->at = at;
		if (!get_entry(c, items, n, obj, &got))
			return false;
	}
	for (size_t i = 0; i < n; i++) {
		if ((items[i].flags & ITEM_REQUIRED) && !(got >> i & 1)) {
			c->at = items[i].name;
			return mp_fail(&c->in, "missing");
		}
	}
	c->at = at;
	if (seen)
		*seen = got;
	return true;
}

static bool is_zero(const struct wire_item *item, const void *obj)
{
	const void *field = (const char *)obj + item->off;

	switch (item->kind) {
	case KIND_U32:
		return *(const uint32_t *)field == 0;
	case KIND_U64:
	case KIND_I64:
		return *(const uint64_t *)field == 0;
	case KIND_NAME:
	case KIND_BIN:
		return ((const struct slice *)field)->n == 0;
	case KIND_BOOL:
	case KIND_DOUBLE:
	case KIND_CUSTOM:
		break;
	}
	return false;
}

static bool is_written(const struct wire_pen *pen, const struct wire_item *item, const void *obj)
{
	if (item->has)
		return item->has(pen, obj);
	return !(item->flags & ITEM_OMIT) || !is_zero(item, obj);
}

void wire_put_map(struct wire_pen *pen, const struct wire_item *items, size_t n, const void *obj)
{
	uint32_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += is_written(pen, &items[i], obj);
	mp_put_map(&pen->out, count);
	for (size_t i = 0; i < n; i++) {
		if (!is_written(pen, &items[i], obj))
			continue;
		mp_put_cstr(&pen->out, items[i].name);
		wire_put_item(pen, &items[i], obj);
	}
}
