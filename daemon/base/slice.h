/* slice.h - borrowed bytes: a pointer and a length, no ownership, not NUL-terminated.
 *
 * Every text or blob that comes from outside is handled as a slice of the message it arrived in and is
 * valid exactly as long as that message.
 */
#ifndef DAEMON_BASE_SLICE_H
#define DAEMON_BASE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
	const void *p;
	size_t n;
};

static inline struct slice slice_of(const void *p, size_t n)
{
	return (struct slice){p, n};
}

static inline struct slice slice_str(const char *s)
{
	return (struct slice){s, strlen(s)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool slice_is(struct slice a, const char *s)
{
	return slice_eq(a, slice_str(s));
}

/* For "%.*s": SLICE_FMT(s) gives the two arguments. */
#define SLICE_FMT(s) (int)((s).n > 1024 ? 1024 : (s).n), (const char *)((s).p ? (s).p : "")

#endif
