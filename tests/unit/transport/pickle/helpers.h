/* helpers.h - golden vectors, exact-size copies (so that AddressSanitizer sees every overread), and a small assembler of
 * wrapper pickles. */
#ifndef TESTS_UNIT_TRANSPORT_PICKLE_HELPERS_H
#define TESTS_UNIT_TRANSPORT_PICKLE_HELPERS_H

#include "daemon/base/mem.h"
#include "tests/unit/transport/pickle/bounds.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <jansson.h>

/* A string literal with its length, NUL bytes included. */
#define LIT(s) (s), (sizeof(s) - 1)

struct buf {
	uint8_t *p;
	size_t n;
};

static inline struct slice buf_slice(struct buf b)
{
	return slice_of(b.p, b.n);
}

static inline struct buf buf_copy(const void *p, size_t n)
{
	struct buf b = {mem_calloc(n ? n : 1, 1), n};

	assert_non_null(b.p);
	if (n)
		memcpy(b.p, p, n);
	return b;
}

static inline void buf_free(struct buf *b)
{
	mem_free(b->p);
	b->p = NULL;
}

static inline struct buf buf_hex(const char *hex)
{
	size_t n = strlen(hex) / 2;
	struct buf b = {mem_calloc(n ? n : 1, 1), n};

	assert_non_null(b.p);
	for (size_t i = 0; i < n; i++) {
		char two[3] = {hex[2 * i], hex[2 * i + 1], 0}, *end;

		b.p[i] = (uint8_t)strtoul(two, &end, 16);
		assert_true(*end == '\0');
	}
	return b;
}

/* As reals: one number elsewhere in the file is beyond int64, and all that are used here are exact in a double. */
static inline json_t *golden_load(void)
{
	json_error_t e;
	json_t *root = json_load_file("tests/golden/messages.json", JSON_DECODE_INT_AS_REAL, &e);

	if (!root)
		fail_msg("tests/golden/messages.json:%d: %s", e.line, e.text);
	return root;
}

static inline const char *json_text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (!s)
		fail_msg("golden vector without %s", key);
	return s;
}

static inline int setup_mem(void **state)
{
	struct pk_mem *m;

	if (pk_mem_create(&m) < 0)
		return -1;
	*state = m;
	return 0;
}

static inline int teardown_mem(void **state)
{
	pk_mem_destroy(*state);
	return 0;
}

static inline uint64_t json_uint(json_t *v)
{
	assert_true(json_is_number(v) && json_number_value(v) >= 0 && json_number_value(v) < 0x1p53);
	return (uint64_t)json_number_value(v);
}

/* Parses an exact-size copy; the result's slices are dead afterwards. */
static inline int parse_copy(struct pk_mem *m, const void *p, size_t n, struct why *why)
{
	struct buf b = buf_copy(p, n);
	struct pk_wrapper w;
	int r = pk_wrapper_parse(buf_slice(b), m, &w, why);

	if (r == 0 && !bounds_wrapper(&w, buf_slice(b)))
		fail_msg("accepted a wrapper whose bounds do not hold");
	buf_free(&b);
	return r;
}

static inline ssize_t parse_list_copy(struct pk_mem *m, const void *p, size_t n, struct why *why)
{
	struct buf b = buf_copy(p, n);
	struct pk_tensor t[4];
	ssize_t r = pk_tensors_parse(buf_slice(b), m, t, 4, why);

	for (ssize_t i = 0; i < r && i < 4; i++) {
		if (!bounds_tensor(&t[i], buf_slice(b)))
			fail_msg("accepted a tensor whose bounds do not hold");
	}
	buf_free(&b);
	return r;
}

static inline void assert_why(const struct why *why, const char *needle)
{
	if (!strstr(why->text, needle))
		fail_msg("'%s' does not say '%s'", why->text, needle);
	for (const char *c = why->text; *c; c++) {
		if (*c < 0x20 || *c > 0x7e)
			fail_msg("the reason contains byte 0x%02x", (unsigned char)*c);
	}
}

/* ---- assembler: class, then attributes whose values are given as opcodes ------------------------------------------ */

struct attr {
	const char *name;
	const char *value;
	size_t n;
};

struct spec {
	const char *module, *cls;
	struct attr attr[24];
	size_t nattr;
};

/* Replaces or adds. */
static inline void spec_set(struct spec *s, const char *name, const char *value, size_t n)
{
	size_t i = 0;

	while (i < s->nattr && strcmp(s->attr[i].name, name) != 0)
		i++;
	if (i == s->nattr)
		s->nattr++;
	assert_true(s->nattr <= 24);
	s->attr[i] = (struct attr){name, value, n};
}

static inline void spec_drop(struct spec *s, const char *name)
{
	for (size_t i = 0; i < s->nattr; i++) {
		if (strcmp(s->attr[i].name, name) == 0) {
			memmove(&s->attr[i], &s->attr[i + 1], (s->nattr - i - 1) * sizeof(s->attr[0]));
			s->nattr--;
			return;
		}
	}
	fail_msg("no attribute %s to drop", name);
}

struct asm_out {
	uint8_t b[1 << 17];
	size_t n;
};

static inline void asm_put(struct asm_out *a, const void *p, size_t n)
{
	assert_true(n <= sizeof(a->b) - a->n);
	if (n)
		memcpy(a->b + a->n, p, n);
	a->n += n;
}

static inline void asm_str(struct asm_out *a, const char *s)
{
	uint8_t head[2] = {0x8c, (uint8_t)strlen(s)};

	asm_put(a, head, 2);
	asm_put(a, s, strlen(s));
}

static inline void asm_spec(struct asm_out *a, const struct spec *s)
{
	asm_put(a, LIT("\x80\x04"));
	asm_str(a, s->module);
	asm_str(a, s->cls);
	asm_put(a, LIT("\x93)\x81}("));
	for (size_t i = 0; i < s->nattr; i++) {
		asm_str(a, s->attr[i].name);
		asm_put(a, s->attr[i].value, s->attr[i].n);
	}
	asm_put(a, LIT("ub."));
}

#endif
