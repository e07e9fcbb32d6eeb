/* http.h - the management door: health, status, metrics, clear, quota. Never on the data path.
 *
 * Routes are one table (routes.def): path, method, handler, generation, sentence; docs/http.md and the tests come from it.
 * Runs on libmicrohttpd's own threads (they block all signals); handlers read snapshots through the host's functions, which
 * any thread may call. Connections, headers, bodies and the time a request may take are bounded.
 * Source: shared surface reference section 2.
 */
#ifndef DAEMON_HTTP_HTTP_H
#define DAEMON_HTTP_HTTP_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "daemon/http/http_below.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct metrics;
struct status;
struct store_quota;

/* What the server lends to HTTP. Every function may be called from the HTTP thread at any time between start and stop. */
struct http_host {
	void *ctx;
	int (*status)(void *ctx, struct status *out);                   /* 0 or -errno; caller runs status_free */
	uint64_t (*clear)(void *ctx);                                   /* objects removed from L1 */
	bool (*end_session)(void *ctx, struct slice request_id);        /* false: unknown */
	void (*refresh_gauges)(void *ctx);                              /* before /metrics renders */
	int (*quota_set)(void *ctx, struct slice salt, uint64_t bytes); /* UINT64_MAX removes; 0 or -errno */
	uint32_t (*quota_list)(void *ctx, struct store_quota *out, uint32_t max);
	char *(*conf_json)(void *ctx); /* free() */
	bool (*ready)(void *ctx);      /* false: still starting, calls answer 503; NULL = always ready */
	struct http_below below;
	char instance_id[64];
};

struct http_conf {
	const char *host;
	uint16_t port;            /* 0 = any */
	bool metrics;             /* serve /metrics */
	uint32_t idle_seconds;    /* a connection without a byte is closed; 0 = 10 */
	uint32_t request_seconds; /* a request not answered in full is cut off; 0 = 30 */
};

struct http;

/* `host` is copied, `metrics` borrowed until http_stop. Returns 0; -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, -EINVAL (name),
 * -ENOMEM ... with `why`. */
int http_start(const struct http_conf *conf, const struct http_host *host, struct metrics *metrics, struct http **out,
	       struct why *why);
uint16_t http_port(const struct http *h);
/* Waits for requests being answered; afterwards no function of the host runs. NULL is ignored. */
void http_stop(struct http *h);

/* Writes docs/http.md from the table. */
void http_write_docs(FILE *out);

#endif
