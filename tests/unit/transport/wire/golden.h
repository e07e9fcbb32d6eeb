/* golden.h - reading tests/golden/messages.json: frames as bytes, msgpack as JSON. For the tests of transport/wire. */
#ifndef TESTS_UNIT_TRANSPORT_WIRE_GOLDEN_H
#define TESTS_UNIT_TRANSPORT_WIRE_GOLDEN_H

#include "transport/wire/msgpack.h"
#include "transport/wire/wire.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define GOLDEN_FRAMES (WIRE_MAX_PAYLOAD_FRAMES + 2)

/* The vectors' one integer above INT64_MAX, which jansson refuses to read; it arrives as text instead. */
#define GOLDEN_HUGE "18446744073709551615"

static inline json_t *golden_load(void)
{
	FILE *f = fopen("tests/golden/messages.json", "r");
	size_t cap = 1 << 20, n;
	char *text = calloc(1, cap), *huge;
	json_error_t err = {.text = "cannot be opened (run from the repository root)"};
	json_t *root = NULL;

	assert_non_null(text);
	if (f) {
		n = fread(text, 1, cap - 3, f);
		fclose(f);
		huge = strstr(text, ": " GOLDEN_HUGE);
		assert_non_null(huge);
		huge += 2;
		memmove(huge + sizeof(GOLDEN_HUGE) + 1, huge + sizeof(GOLDEN_HUGE) - 1,
			n - (size_t)(huge - text) - sizeof(GOLDEN_HUGE) + 1);
		memcpy(huge, "\"" GOLDEN_HUGE "\"", sizeof(GOLDEN_HUGE) + 1);
		root = json_loads(text, 0, &err);
	}
	free(text);
	if (!root)
		fail_msg("tests/golden/messages.json: %s", err.text);
	return root;
}

static inline const char *golden_str(const json_t *obj, const char *name)
{
	const char *s = json_string_value(json_object_get(obj, name));

	assert_non_null(s);
	return s;
}

/* Exactly as many bytes as the text holds, in a block of their own: a read past the end is a read past the block. */
static inline struct slice golden_hex(const char *hex)
{
	size_t n = strlen(hex) / 2;
	uint8_t *p = malloc(n ? n : 1);

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		unsigned v;
		assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
		p[i] = (uint8_t)v;
	}
	return slice_of(p, n);
}

static inline void golden_free(struct slice s)
{
	free((void *)(uintptr_t)s.p);
}

/* The frames of a request or reply; returns how many. */
static inline size_t golden_frames(const json_t *side, struct slice out[GOLDEN_FRAMES])
{
	const json_t *list = json_object_get(side, "frames");
	size_t n = json_array_size(list);

	assert_in_range(n, 0, GOLDEN_FRAMES);
	for (size_t i = 0; i < n; i++)
		out[i] = golden_hex(json_string_value(json_array_get(list, i)));
	return n;
}

static inline void golden_free_all(struct slice *frames, size_t n)
{
	for (size_t i = 0; i < n; i++)
		golden_free(frames[i]);
}

static inline enum wire_dialect golden_dialect(const json_t *message)
{
	enum wire_dialect d;

	assert_int_equal(wire_dialect_parse(slice_str(golden_str(message, "dialect")), &d), 0);
	return d;
}

/* The vectors write bytes as {"bin": hex}, long ones as {"bin_len": n}. */
static inline json_t *golden_bin(struct slice s)
{
	char hex[2 * 64 + 1] = "";

	if (s.n > 64)
		return json_pack("{s:I}", "bin_len", (json_int_t)s.n);
	for (size_t i = 0; i < s.n; i++)
		snprintf(hex + 2 * i, 3, "%02x", ((const uint8_t *)s.p)[i]);
	return json_pack("{s:s}", "bin", hex);
}

static inline json_t *golden_text(struct slice s)
{
	return json_stringn(s.p ? s.p : "", s.n);
}

static inline json_t *golden_int(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* Any msgpack item as the vectors' JSON; map keys that are integers become text. */
static inline json_t *golden_json(struct mp_in *in)
{
	json_t *out;
	uint32_t n;
	uint64_t u;
	int64_t i;
	double f;
	bool b;
	struct slice s;

	switch (mp_peek(in)) {
	case MP_UINT:
		return mp_uint(in, INT64_MAX, &u) ? golden_int(u) : NULL;
	case MP_INT:
		return mp_int(in, &i) ? json_integer(i) : NULL;
	case MP_BOOL:
		return mp_bool(in, &b) ? json_boolean(b) : NULL;
	case MP_NIL:
		return mp_nil(in) ? json_null() : NULL;
	case MP_FLOAT:
		return mp_double(in, &f) ? json_real(f) : NULL;
	case MP_STR:
		return mp_str(in, SIZE_MAX, &s) ? golden_text(s) : NULL;
	case MP_BIN:
		return mp_bin(in, SIZE_MAX, &s) ? golden_bin(s) : NULL;
	case MP_ARRAY:
		assert_true(mp_array(in, UINT32_MAX, &n));
		out = json_array();
		while (n-- > 0)
			json_array_append_new(out, golden_json(in));
		return out;
	case MP_MAP:
		assert_true(mp_map(in, UINT32_MAX, &n));
		out = json_object();
		while (n-- > 0) {
			json_t *key = golden_json(in);
			char text[64];
			if (json_is_integer(key))
				snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(key));
			else
				snprintf(text, sizeof(text), "%s", json_string_value(key));
			json_decref(key);
			json_object_set_new(out, text, golden_json(in));
		}
		return out;
	default:
		return NULL;
	}
}

static inline json_t *golden_raw(struct slice frame)
{
	struct mp_in in = mp_in(frame);
	json_t *v = golden_json(&in);

	assert_true(mp_done(&in));
	return v;
}

static inline void golden_same(const json_t *want, json_t *got, const char *what)
{
	if (!json_equal(want, got)) {
		char *w = json_dumps(want, JSON_COMPACT | JSON_ENCODE_ANY);
		char *g = json_dumps(got, JSON_COMPACT | JSON_ENCODE_ANY);
		fail_msg("%s: want %s, got %s", what, w, g);
	}
	json_decref(got);
}

static inline void golden_same_bytes(struct slice want, struct slice got, const char *what)
{
	if (slice_eq(want, got))
		return;
	size_t i = 0;
	while (i < want.n && i < got.n && ((const uint8_t *)want.p)[i] == ((const uint8_t *)got.p)[i])
		i++;
	fail_msg("%s: %zu bytes, want %zu; first difference at byte %zu", what, got.n, want.n, i);
}

#endif
