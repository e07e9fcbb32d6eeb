/* text_int.h - a growing text, and UTF-8 from outside made safe for JSON and for the metrics page. */
#ifndef DAEMON_HTTP_TEXT_INT_H
#define DAEMON_HTTP_TEXT_INT_H

#include <stdbool.h>
#include <stddef.h>

#define TEXT_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

struct text {
	char *p; /* mem_free; NUL-terminated once something was put */
	size_t n, cap;
	bool failed; /* out of memory: what follows is ignored */
};

void text_put(struct text *t, const char *p, size_t n);
void text_fmt(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The shortest decimal that reads back as v; +Inf, -Inf, NaN as Prometheus spells them. */
void text_double(struct text *t, double v);

/* Bytes of the UTF-8 character at p, 0 when it is not one (truncated, overlong, surrogate, beyond U+10FFFF). */
size_t text_utf8_len(const char *p, size_t n);

/* A copy with every invalid byte, and every NUL, replaced by U+FFFD; mem_free. NULL when out of memory. */
char *text_clean(const char *p, size_t n);

#endif
