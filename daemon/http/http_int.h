/* http_int.h - between the connection half (http.c), the table (routes.c) and the handlers (handlers.c). */
#ifndef DAEMON_HTTP_HTTP_INT_H
#define DAEMON_HTTP_HTTP_INT_H

#include "daemon/base/lock.h"
#include "daemon/http/http.h"

#include <jansson.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define HTTP_THREADS         4u   /* one slow scrape does not hold up a probe */
#define HTTP_CONNECTIONS     256u /* the oldest wait in the kernel's backlog beyond it */
#define HTTP_PER_IP          128u
#define HTTP_MEMORY          32768u /* per connection: request line, headers, answer's headers */
#define HTTP_MAX_BODY        1048576u
#define HTTP_MAX_DISCARD     4194304u /* read and dropped to be able to say 413 */
#define HTTP_MAX_PARAM       512u
#define HTTP_IDLE_SECONDS    10u
#define HTTP_REQUEST_SECONDS 30u

/* A connection being served, as the reaper sees it. */
struct http_conn {
	int fd; /* -1: free */
	uint64_t deadline_ms;
};

struct http {
	struct http_host host;
	struct metrics *metrics;
	bool serve_metrics;
	uint16_t port;
	uint32_t idle_s, request_s;
	struct MHD_Daemon *daemon;
	struct lk conns_lock;
	struct http_conn conns[HTTP_CONNECTIONS];
	int stop_fd; /* eventfd: ends the reaper */
	pthread_t reaper;
	bool reaper_runs;
	_Atomic uint32_t waiting; /* handlers that wait for L2 */
};

/* What a handler gets: the path's parameter decoded, the whole body. */
struct http_call {
	struct http *h;
	struct slice param;
	struct slice body;
	struct MHD_Connection *conn; /* for http_arg; NULL in tests of handlers alone */
};

/* A query argument, percent-decoded and terminated. 1: it is there; 0: it is not; -1: too long. */
#define HTTP_ARG (HTTP_MAX_PARAM + 1)
int http_arg(const struct http_call *call, const char *name, char out[HTTP_ARG]);

struct http_reply {
	unsigned status;
	const char *type; /* content type */
	char *body;       /* mem_free or free; NULL = out of memory, becomes a 500 */
	size_t n;
	const char *allow; /* for 405 */
	uint64_t removed;  /* X-LMCache-Objects-Removed */
	bool report_removed;
};

typedef void http_handler(const struct http_call *call, struct http_reply *reply);

/* Finds the handler of a raw (still percent-encoded) path and decodes its parameter into param[HTTP_MAX_PARAM]. NULL: `reply`
 * holds the 404, 405 or 400. */
http_handler *http_route(const char *method, const char *path, char *param, struct slice *out,
			 struct http_reply *reply);

/* Replies. The text is copied; JSON text is taken as it is. */
void http_reply_text(struct http_reply *reply, unsigned status, const char *type, const char *text);
void http_reply_json_text(struct http_reply *reply, unsigned status, const char *json);
/* Takes `root`. */
void http_reply_json(struct http_reply *reply, unsigned status, json_t *root);
/* {"detail": text} */
void http_reply_detail(struct http_reply *reply, unsigned status, const char *text);
bool http_ready(const struct http_call *call);
/* A JSON object, or the reply is filled and NULL returned. */
json_t *http_object_body(const struct http_call *call, struct http_reply *reply);
/* One validation error in FastAPI's shape. `input` is taken. */
void http_unprocessable(struct http_reply *reply, const char *type, const char *field, const char *msg, json_t *input);
bool http_is_boolean(const json_t *v, bool *out);

/* handlers_l2.c: clears every adapter. 0, -ENOENT (there is none), -EBUSY, -ETIMEDOUT, -EIO. */
int http_l2_clear(const struct http_call *call);

#define ROUTE(method, path, handler, since, text) http_handler http_do_##handler;
#include "daemon/http/routes.def"
#undef ROUTE

#endif
