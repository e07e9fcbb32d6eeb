/* httpc.h - one HTTP request of a CLI command, with a time-out and a bounded answer, over libcurl.
 *
 * Only http and https, no redirects, no proxy for loopback. Threads: one request at a time per process (curl's global
 * state is set up on first use).
 */
#ifndef TOOLS_HTTPC_H
#define TOOLS_HTTPC_H

#include "daemon/base/why.h"

#include <jansson.h>
#include <stddef.h>

#define HTTPC_MAX_BODY (16u << 20)

struct httpc_answer {
	long code;         /* HTTP status */
	char *body;        /* NUL-terminated; mem_free through httpc_free */
	size_t n;          /* without the NUL */
	long long removed; /* header X-LMCache-Objects-Removed of our clear calls; -1 = none */
	double seconds;    /* request written to answer complete, without connecting */
};

/* `body` NULL: GET; else a POST of that JSON text ("" = an empty body). 0 when any HTTP answer came; else -errno and
 * "Cannot connect to <URL>: <reason>". */
int httpc_request(const char *base, const char *path, const char *body, double timeout_s, struct httpc_answer *out,
		  struct why *why);
void httpc_free(struct httpc_answer *a);

/* Tries `paths` (NULL-terminated: the same call in several upstream generations) until one is not a 404. */
int httpc_first(const char *base, const char *const *paths, const char *body, double timeout_s,
		struct httpc_answer *out, struct why *why);

/* Percent-encodes one path segment into out. -E2BIG when it does not fit. */
int httpc_escape(const char *segment, char *out, size_t cap);

/* 0 for 2xx; else -EIO and "HTTP <code>: <reason>", the reason taken from the body's reason, error or detail. */
int httpc_check(const struct httpc_answer *a, struct why *why);

/* The body as a JSON object. New reference, or NULL with the reason. */
json_t *httpc_json(const struct httpc_answer *a, struct why *why);

#endif
