#include "daemon/http/text_int.h"

#include "daemon/base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct text *t, size_t more)
{
	size_t cap = t->cap ? t->cap : 4096;
	char *p;

	if (t->failed || more > SIZE_MAX / 4 - t->n) {
		t->failed = true;
		return false;
	}
	while (cap < t->n + more + 1)
		cap *= 2;
	if (cap == t->cap)
		return true;
	p = mem_realloc(t->p, cap);
	if (!p) {
		t->failed = true;
		return false;
	}
	t->p = p;
	t->cap = cap;
	return true;
}

void text_put(struct text *t, const char *p, size_t n)
{
	if (!make_room(t, n))
		return;
	memcpy(t->p + t->n, p, n);
	t->n += n;
	t->p[t->n] = '\0';
}

void text_fmt(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (!make_room(t, 255))
		return;
	va_start(ap, fmt);
	n = vsnprintf(t->p + t->n, t->cap - t->n, fmt, ap);
	va_end(ap);
	if (n < 0) {
		t->failed = true;
		return;
	}
	if ((size_t)n >= t->cap - t->n) {
		if (!make_room(t, (size_t)n))
			return;
		va_start(ap, fmt);
		vsnprintf(t->p + t->n, t->cap - t->n, fmt, ap);
		va_end(ap);
	}
	t->n += (size_t)n;
}

void text_double(struct text *t, double v)
{
	char buf[40];

	if (isnan(v)) {
		text_put(t, "NaN", 3);
		return;
	}
	if (isinf(v)) {
		text_put(t, v > 0 ? "+Inf" : "-Inf", 4);
		return;
	}
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(buf, sizeof buf, "%.*g", digits, v);
		if (strtod(buf, NULL) == v)
			break;
	}
	text_put(t, buf, strlen(buf));
}

static bool is_tail(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

size_t text_utf8_len(const char *p, size_t n)
{
	const unsigned char *s = (const unsigned char *)p;

	if (n == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		return n >= 2 && is_tail(s[1]) ? 2 : 0;
	if ((s[0] & 0xf0) == 0xe0) {
		if (n < 3 || !is_tail(s[1]) || !is_tail(s[2]))
			return 0;
		return (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ? 0 : 3;
	}
	if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		if (n < 4 || !is_tail(s[1]) || !is_tail(s[2]) || !is_tail(s[3]))
			return 0;
		return (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ? 0 : 4;
	}
	return 0;
}

char *text_clean(const char *p, size_t n)
{
	struct text t = {0};
	size_t step;

	text_put(&t, "", 0);
	for (; n; p += step, n -= step) {
		step = text_utf8_len(p, n);
		if (step == 0 || *p == '\0') {
			step = 1;
			text_put(&t, TEXT_REPLACEMENT, 3);
		} else {
			text_put(&t, p, step);
		}
	}
	if (t.failed) {
		mem_free(t.p);
		return NULL;
	}
	return t.p;
}
