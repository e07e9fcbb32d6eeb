/* Reader and writer against msgspec's primitives, their truncations, hostile headers and nesting. */
#include "tests/unit/transport/wire/golden.h"

#include <math.h>

/* The number behind `prefix`; SIZE_MAX when the text does not start so. */
static size_t text_size(const char *text, const char *prefix)
{
	size_t n = strlen(prefix);

	if (strncmp(text, prefix, n) != 0 || text[n] < '0' || text[n] > '9')
		return SIZE_MAX;
	return strtoul(text + n, NULL, 10);
}

static void put_filled(struct mp_out *out, void (*put)(struct mp_out *, struct slice), uint8_t fill, size_t n)
{
	uint8_t *p = malloc(n + 1);

	memset(p, fill, n);
	put(out, slice_of(p, n));
	free(p);
}

/* Writes what a primitive's text names. Returns false when the text is not understood. */
static bool put_text(struct mp_out *out, const char *t)
{
	static const uint8_t handle_step = 7;
	uint8_t handle[64];
	size_t n;

	if (strcmp(t, "null") == 0)
		mp_put_nil(out);
	else if (strcmp(t, "true") == 0 || strcmp(t, "false") == 0)
		mp_put_bool(out, t[0] == 't');
	else if (strncmp(t, "float ", 6) == 0)
		mp_put_double(out, atof(t + 6));
	else if (strcmp(t, "str \"\"") == 0)
		mp_put_cstr(out, "");
	else if ((n = text_size(t, "str of ")) != SIZE_MAX)
		put_filled(out, mp_put_str, 'a', n);
	else if ((n = text_size(t, "bin ")) != SIZE_MAX)
		put_filled(out, mp_put_bin, 0, n);
	else if (strcmp(t, "array 0") == 0)
		mp_put_array(out, 0);
	else if ((n = text_size(t, "array of ")) != SIZE_MAX) {
		mp_put_array(out, (uint32_t)n);
		while (n-- > 0)
			mp_put_uint(out, 0);
	} else if (strcmp(t, "map 0") == 0)
		mp_put_map(out, 0);
	else if (strcmp(t, "enum member with str value vllm") == 0)
		mp_put_cstr(out, "vllm");
	else if (strcmp(t, "tuple (empty bytes,false)") == 0) {
		mp_put_array(out, 2);
		mp_put_bin(out, slice_of("", 0));
		mp_put_bool(out, false);
	} else if (strcmp(t, "tuple (64-byte handle,true)") == 0) {
		for (size_t i = 0; i < sizeof(handle); i++)
			handle[i] = (uint8_t)(3 + handle_step * i);
		mp_put_array(out, 2);
		mp_put_bin(out, slice_of(handle, sizeof(handle)));
		mp_put_bool(out, true);
	} else
		return false;
	return true;
}

static void test_01_written_as_msgspec_writes(void **state)
{
	json_t *root = golden_load();
	json_t *list = json_object_get(root, "primitives");
	static uint8_t buf[70000];
	size_t i, done = 0;
	json_t *p;

	(void)state;
	json_array_foreach(list, i, p)
	{
		struct slice want = golden_hex(golden_str(p, "hex"));
		json_t *value = json_object_get(p, "value");
		struct mp_out out = mp_out(buf, sizeof(buf));
		const char *t = json_string_value(value);
		size_t n, keep = 0;

		if (json_is_integer(value))
			mp_put_int(&out, json_integer_value(value));
		else if (strcmp(t, GOLDEN_HUGE) == 0)
			mp_put_uint(&out, UINT64_MAX);
		else if ((n = text_size(t, "ext code 1, ")) != SIZE_MAX) {
			static uint8_t body[65536];
			mp_put_ext(&out, 1, slice_of(body, n));
			keep = want.n; /* only the header is shown */
			assert_int_equal(out.p - buf, want.n + n);
		} else
			assert_true(put_text(&out, t));
		assert_false(out.overflow);
		golden_same_bytes(want, slice_of(buf, keep ? keep : (size_t)(out.p - buf)), t ? t : "integer");
		golden_free(want);
		done++;
	}
	assert_int_equal(done, 51);
	json_decref(root);
}

/* Reads one primitive by its declared type and checks the value. False when the reader refused. */
static bool read_text(struct mp_in *in, const char *t)
{
	struct slice s;
	double f;
	bool b;
	uint32_t n;

	if (strcmp(t, "null") == 0)
		return mp_nil(in);
	if (strcmp(t, "true") == 0 || strcmp(t, "false") == 0)
		return mp_bool(in, &b) && b == (t[0] == 't');
	if (strncmp(t, "float ", 6) == 0)
		return mp_double(in, &f) && f == atof(t + 6);
	if (strncmp(t, "str ", 4) == 0 || strncmp(t, "enum", 4) == 0)
		return mp_str(in, 1000, &s) && (s.n == 0 || slice_is(s, "vllm") || ((const char *)s.p)[s.n - 1] == 'a');
	if (strncmp(t, "bin ", 4) == 0)
		return mp_bin(in, 1000, &s) && s.n == text_size(t, "bin ");
	if (strncmp(t, "array ", 6) == 0) {
		if (!mp_array(in, 16, &n) || (n != text_size(t, "array ") && n != text_size(t, "array of ")))
			return false;
		for (uint64_t v = 0; n > 0 && v == 0; n--)
			mp_uint(in, 0, &v);
		return !in->err;
	}
	if (strcmp(t, "map 0") == 0)
		return mp_map(in, 16, &n) && n == 0;
	return mp_array(in, 2, &n) && n == 2 && mp_bin(in, 64, &s) && mp_bool(in, &b) && b == (s.n == 64);
}

static bool read_primitive(struct mp_in *in, const json_t *value)
{
	uint64_t u;
	int64_t i;

	if (json_is_integer(value))
		return mp_int(in, &i) && i == json_integer_value(value);
	if (strcmp(json_string_value(value), GOLDEN_HUGE) == 0)
		return mp_uint(in, UINT64_MAX, &u) && u == UINT64_MAX;
	return read_text(in, json_string_value(value));
}

/* Every primitive reads back, every truncation of it is refused by the typed reader and by mp_skip. */
static void test_02_read_and_truncated(void **state)
{
	json_t *root = golden_load();
	json_t *list = json_object_get(root, "primitives");
	size_t i;
	json_t *p;

	(void)state;
	json_array_foreach(list, i, p)
	{
		struct slice whole = golden_hex(golden_str(p, "hex"));
		json_t *value = json_object_get(p, "value");

		if (json_is_string(value) && strncmp(json_string_value(value), "ext", 3) == 0) {
			golden_free(whole);
			continue;
		}
		for (size_t cut = 0; cut <= whole.n; cut++) {
			uint8_t *part = malloc(cut ? cut : 1);
			struct mp_in in = mp_in(slice_of(part, cut));
			struct mp_in skip = in;

			memcpy(part, whole.p, cut);
			assert_int_equal(read_primitive(&in, value) && mp_done(&in), cut == whole.n);
			assert_int_equal(mp_skip(&skip) && mp_done(&skip), cut == whole.n);
			free(part);
		}
		golden_free(whole);
	}
	json_decref(root);
}

static void test_03_ext(void **state)
{
	static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 255, 256, 65535, 65536};
	static uint8_t body[65536], buf[65600];

	(void)state;
	for (size_t k = 0; k < sizeof(body); k++)
		body[k] = (uint8_t)(k * 31);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct mp_out out = mp_out(buf, sizeof(buf));
		struct slice got;

		mp_put_ext(&out, 1, slice_of(body, sizes[i]));
		assert_false(out.overflow);
		struct slice frame = slice_of(buf, (size_t)(out.p - buf));
		struct mp_in in = mp_in(frame);
		assert_true(mp_ext(&in, 1, sizes[i], &got) && mp_done(&in));
		golden_same_bytes(slice_of(body, sizes[i]), got, "ext body");
		in = mp_in(frame);
		assert_true(mp_skip(&in) && mp_done(&in));
		in = mp_in(frame);
		assert_false(mp_ext(&in, 2, sizes[i], &got));
		if (sizes[i] > 0) {
			in = mp_in(frame);
			assert_false(mp_ext(&in, 1, sizes[i] - 1, &got));
			assert_ptr_equal(in.err, mp_err_bound);
		}
		in = mp_in(slice_of(buf, frame.n - 1));
		assert_false(mp_ext(&in, 1, sizes[i], &got));
	}
}

/* The same value in every form that can hold it. */
static void test_04_any_width(void **state)
{
	static const struct {
		const char *hex;
		int64_t value;
	} forms[] = {
		{"05", 5},
		{"cc05", 5},
		{"cd0005", 5},
		{"ce00000005", 5},
		{"cf0000000000000005", 5},
		{"d005", 5},
		{"d10005", 5},
		{"d200000005", 5},
		{"d30000000000000005", 5},
		{"ff", -1},
		{"d0ff", -1},
		{"d1ffff", -1},
		{"d2ffffffff", -1},
		{"d3ffffffffffffffff", -1},
		{"d38000000000000000", INT64_MIN},
		{"cf7fffffffffffffff", INT64_MAX},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		struct slice s = golden_hex(forms[i].hex);
		struct mp_in in = mp_in(s);
		int64_t v;
		uint64_t u;
		double f;

		assert_true(mp_int(&in, &v) && mp_done(&in));
		assert_int_equal(v, forms[i].value);
		in = mp_in(s);
		assert_int_equal(mp_uint(&in, UINT64_MAX, &u), forms[i].value >= 0);
		assert_true(forms[i].value < 0 || u == (uint64_t)forms[i].value);
		in = mp_in(s);
		assert_true(mp_double(&in, &f) && f == (double)forms[i].value);
		golden_free(s);
	}
	struct slice s = golden_hex("cf8000000000000000");
	struct mp_in in = mp_in(s);
	int64_t v;
	assert_false(mp_int(&in, &v));
	assert_ptr_equal(in.err, mp_err_bound);
	golden_free(s);
}

static void test_05_float32_and_strictness(void **state)
{
	struct slice s = golden_hex("ca41f00000");
	struct mp_in in = mp_in(s);
	double f;
	bool b;
	uint64_t u;
	struct slice t;

	(void)state;
	assert_true(mp_double(&in, &f) && mp_done(&in));
	assert_true(fabs(f - 30.0) < 1e-9);
	in = mp_in(s);
	assert_false(mp_uint(&in, UINT64_MAX, &u));
	golden_free(s);

	in = mp_in(slice_of("\x01", 1)); /* an int is no bool, nor the reverse */
	assert_false(mp_bool(&in, &b));
	in = mp_in(slice_of("\xc3", 1));
	assert_false(mp_uint(&in, 1, &u));
	in = mp_in(slice_of("\xc4\x01x", 3)); /* bytes are no text, nor the reverse */
	assert_false(mp_str(&in, 9, &t));
	in = mp_in(slice_of("\xa1x", 2));
	assert_false(mp_bin(&in, 9, &t));
	in = mp_in(slice_of("\x02", 1));
	assert_false(mp_uint(&in, 1, &u));
	assert_ptr_equal(in.err, mp_err_bound);
}

/* Errors stick: nothing is read after the first. */
static void test_06_sticky(void **state)
{
	struct mp_in in = mp_in(slice_of("\xc0\x05\x05", 3));
	uint64_t u = 77;
	uint32_t ids[2];
	struct slice s;
	bool b;

	(void)state;
	assert_false(mp_uint(&in, 9, &u));
	assert_false(mp_uint(&in, 9, &u));
	assert_int_equal(u, 77);
	const char *first = in.err;
	assert_false(mp_skip(&in) || mp_nil(&in) || mp_bool(&in, &b) || mp_str(&in, 9, &s) || mp_u32_run(&in, 0, ids));
	assert_false(mp_u32_run(&in, 2, ids) || mp_done(&in));
	assert_ptr_equal(in.err, first);
	assert_int_equal(mp_peek(&in), MP_END);
}

static void test_07_hostile_headers(void **state)
{
	static const char *const bad[] = {
		"dd7fffffff", "ddffffffff00", "dcffff0000", "df80000000",   "dfffffffff0000",
		"deffff",     "dbffffffff61", "c6ffffffff", "c9ffffffff01", "c8ffff01",
		"c7ff",       "d8",           "d801",       "c1",           "92c1c0",
		"91",         "81",           "8105",       "cb00",         "ca000000",
		"",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct slice s = golden_hex(bad[i]);
		struct mp_in in = mp_in(s);

		if (mp_skip(&in))
			fail_msg("%s was skipped", bad[i]);
		golden_free(s);
	}
}

/* MP_MAX_DEPTH containers inside one another pass, one more does not; a wide container costs no depth. */
static void test_08_depth(void **state)
{
	uint8_t buf[MP_MAX_DEPTH + 4];

	(void)state;
	for (unsigned depth = 1; depth <= MP_MAX_DEPTH + 1; depth++) {
		memset(buf, 0x91, depth);
		buf[depth] = 0x05;
		struct mp_in in = mp_in(slice_of(buf, depth + 1));
		assert_int_equal(mp_skip(&in) && mp_done(&in), depth <= MP_MAX_DEPTH);
	}
	static uint8_t wide[3 + 65535];
	memcpy(wide, "\xdc\xff\xff", 3);
	memset(wide + 3, 0x90, 65535); /* 65535 empty arrays */
	struct mp_in in = mp_in(slice_of(wide, sizeof(wide)));
	assert_true(mp_skip(&in) && mp_done(&in));
}

static void test_09_peek(void **state)
{
	(void)state;
	for (unsigned b = 0; b < 256; b++) {
		uint8_t byte = (uint8_t)b;
		struct mp_in in = mp_in(slice_of(&byte, 1));
		enum mp_type t = mp_peek(&in);
		enum mp_type want = b < 0x80    ? MP_UINT
				    : b < 0x90  ? MP_MAP
				    : b < 0xa0  ? MP_ARRAY
				    : b < 0xc0  ? MP_STR
				    : b == 0xc0 ? MP_NIL
				    : b == 0xc1 ? MP_BAD
				    : b < 0xc4  ? MP_BOOL
				    : b < 0xc7  ? MP_BIN
				    : b < 0xca  ? MP_EXT
				    : b < 0xcc  ? MP_FLOAT
				    : b < 0xd0  ? MP_UINT
				    : b < 0xd4  ? MP_INT
				    : b < 0xd9  ? MP_EXT
				    : b < 0xdc  ? MP_STR
				    : b < 0xde  ? MP_ARRAY
				    : b < 0xe0  ? MP_MAP
						: MP_INT;
		assert_int_equal(t, want);
	}
}

/* Nothing is written past the end, for any room that is too small. */
static void test_10_writer_overflow(void **state)
{
	(void)state;
	for (size_t cap = 0; cap < 40; cap++) {
		uint8_t *buf = malloc(cap ? cap : 1);
		struct mp_out out = mp_out(buf, cap);

		mp_put_array(&out, 4);
		mp_put_uint(&out, UINT64_MAX);
		mp_put_cstr(&out, "nine char");
		mp_put_bin(&out, slice_of("0123456789", 10));
		mp_put_ext(&out, 1, slice_of("0123", 4));
		assert_int_equal(out.overflow, cap < 1 + 9 + 10 + 12 + 6);
		mp_put_nil(&out); /* sticks, and stays inside */
		assert_true((size_t)(out.p - buf) <= cap);
		free(buf);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_written_as_msgspec_writes),
		cmocka_unit_test(test_02_read_and_truncated),
		cmocka_unit_test(test_03_ext),
		cmocka_unit_test(test_04_any_width),
		cmocka_unit_test(test_05_float32_and_strictness),
		cmocka_unit_test(test_06_sticky),
		cmocka_unit_test(test_07_hostile_headers),
		cmocka_unit_test(test_08_depth),
		cmocka_unit_test(test_09_peek),
		cmocka_unit_test(test_10_writer_overflow),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
