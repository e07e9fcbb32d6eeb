/* http.c - the listening socket, libmicrohttpd's callbacks, and the limits.
 *
 * libmicrohttpd closes connections that are silent, not those that drip a byte now and then. The reaper thread looks at
 * every open connection twice a second and shuts down those whose request took too long; libmicrohttpd then sees the end
 * of the stream and closes them itself. A descriptor cannot be reused under the reaper: the slot is freed, under its
 * lock, in the notification that precedes the close.
 */
#include "daemon/http/http_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAPER_MS 500

/* A request being received. */
struct incoming {
	http_handler *handler;
	bool too_large;
	char *body;
	size_t n, cap, seen;
	struct slice param;
	char param_bytes[HTTP_MAX_PARAM];
};

/* ---- connections and their deadlines --------------------------------------------------------------------------- */

static uint64_t deadline_from_now(const struct http *h)
{
	return clock_ms() + (uint64_t)h->request_s * 1000;
}

static void conn_opened(struct http *h, struct MHD_Connection *c, void **slot)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);

	lk_lock(&h->conns_lock);
	for (uint32_t i = 0; info && i < HTTP_CONNECTIONS; i++) {
		if (h->conns[i].fd >= 0)
			continue;
		h->conns[i] = (struct http_conn){info->connect_fd, deadline_from_now(h)};
		*slot = &h->conns[i];
		break;
	}
	lk_unlock(&h->conns_lock);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **slot, enum MHD_ConnectionNotificationCode what)
{
	struct http *h = cls;
	struct http_conn *conn = *slot;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		conn_opened(h, c, slot);
	} else if (conn) {
		lk_lock(&h->conns_lock);
		conn->fd = -1;
		lk_unlock(&h->conns_lock);
	}
}

/* The next request of a connection has its time from here. */
static void on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode how)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct http_conn *conn = info ? info->socket_context : NULL;
	struct incoming *in = *state;
	struct http *h = cls;

	(void)how;
	if (in)
		mem_free(in->body);
	mem_free(in);
	*state = NULL;
	if (!conn)
		return;
	lk_lock(&h->conns_lock);
	conn->deadline_ms = deadline_from_now(h);
	lk_unlock(&h->conns_lock);
}

static void *reaper(void *arg)
{
	struct http *h = arg;
	struct pollfd stop = {.fd = h->stop_fd, .events = POLLIN};

	pthread_setname_np(pthread_self(), "lmca-http");
	while (poll(&stop, 1, REAPER_MS) <= 0) {
		uint64_t now = clock_ms();

		lk_lock(&h->conns_lock);
		for (uint32_t i = 0; i < HTTP_CONNECTIONS; i++)
			if (h->conns[i].fd >= 0 && now >= h->conns[i].deadline_ms)
				shutdown(h->conns[i].fd, SHUT_RDWR);
		lk_unlock(&h->conns_lock);
	}
	return NULL;
}

/* ---- one request --------------------------------------------------------------------------------------------- */

static void set_headers(struct MHD_Response *r, const struct http_reply *reply)
{
	char count[24];

	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, reply->type);
	if (reply->allow)
		MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, reply->allow);
	if (reply->report_removed) {
		snprintf(count, sizeof count, "%llu", (unsigned long long)reply->removed);
		MHD_add_response_header(r, "X-LMCache-Objects-Removed", count);
	}
}

/* Takes the reply's body. MHD_NO closes the connection. */
static enum MHD_Result send_reply(struct MHD_Connection *c, struct http_reply *reply)
{
	static char sorry[] = "Internal Server Error";
	struct MHD_Response *r;
	enum MHD_Result rc;

	if (reply->body) {
		r = MHD_create_response_from_buffer_with_free_callback(reply->n, reply->body, mem_free);
		if (!r)
			mem_free(reply->body);
	} else {
		*reply = (struct http_reply){.status = MHD_HTTP_INTERNAL_SERVER_ERROR,
					     .type = "text/plain; charset=utf-8"};
		r = MHD_create_response_from_buffer(sizeof sorry - 1, sorry, MHD_RESPMEM_PERSISTENT);
	}
	if (!r)
		return MHD_NO;
	set_headers(r, reply);
	rc = MHD_queue_response(c, reply->status, r);
	MHD_destroy_response(r);
	return rc;
}

static enum MHD_Result send_too_large(struct MHD_Connection *c)
{
	struct http_reply reply = {0};

	http_reply_json_text(&reply, MHD_HTTP_CONTENT_TOO_LARGE, "{\"detail\":\"Request body too large\"}");
	return send_reply(c, &reply);
}

static bool announces_too_much(struct MHD_Connection *c)
{
	const char *text = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

	return text && strtoull(text, NULL, 10) > HTTP_MAX_BODY;
}

/* The headers are in: what can be refused is refused before the body. */
static enum MHD_Result begin(struct MHD_Connection *c, const char *method, const char *path, struct incoming **state)
{
	struct http_reply reply = {0};
	struct incoming *in = mem_calloc(1, sizeof *in);

	if (!in)
		return MHD_NO;
	*state = in;
	in->handler = http_route(method, path, in->param_bytes, &in->param, &reply);
	if (!in->handler)
		return send_reply(c, &reply);
	return announces_too_much(c) ? send_too_large(c) : MHD_YES;
}

/* Collects the body. What is too large is read on a little, so that the client gets to read its 413. */
static enum MHD_Result append(struct incoming *in, const char *data, size_t n)
{
	in->seen += n;
	if (in->seen > HTTP_MAX_BODY) {
		in->too_large = true;
		return in->seen > HTTP_MAX_DISCARD ? MHD_NO : MHD_YES;
	}
	if (in->n + n > in->cap) {
		size_t cap = in->cap ? in->cap * 2 : 1024;
		char *p;

		while (cap < in->n + n)
			cap *= 2;
		p = mem_realloc(in->body, cap);
		if (!p)
			return MHD_NO;
		in->body = p;
		in->cap = cap;
	}
	memcpy(in->body + in->n, data, n);
	in->n += n;
	return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path, const char *method,
				  const char *version, const char *data, size_t *ndata, void **state)
{
	struct incoming *in = *state;
	struct http_reply reply = {0};
	struct http_call call;
	enum MHD_Result rc;

	(void)version;
	if (!in)
		return begin(c, method, path, (struct incoming **)state);
	if (*ndata) {
		rc = append(in, data, *ndata);
		*ndata = 0;
		return rc;
	}
	if (in->too_large)
		return send_too_large(c);
	call = (struct http_call){cls, in->param, slice_of(in->body, in->n), c};
	in->handler(&call, &reply);
	return send_reply(c, &reply);
}

/* Paths stay percent-encoded until they are taken apart: a %2F in a request id is no separator, a %00 no end. */
static size_t keep_encoded(void *cls, struct MHD_Connection *c, char *s)
{
	(void)cls;
	(void)c;
	return strlen(s);
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	char line[256];

	(void)cls;
	if (log_get_level() > LOG_LVL_DEBUG)
		return;
	vsnprintf(line, sizeof line, fmt, ap);
	line[strcspn(line, "\r\n")] = '\0';
	log_debug("HTTP: %s", line);
}

/* ---- start and stop ------------------------------------------------------------------------------------------ */

static int listen_on(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol), one = 1, err;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* The first address of the name that can be bound. */
static int open_socket(const struct http_conf *conf, struct why *why)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
	const char *host = conf->host && *conf->host ? conf->host : "127.0.0.1";
	int fd = -EINVAL, rc, n = (int)strlen(host), bracket = n > 2 && host[0] == '[' && host[n - 1] == ']';
	char port[8], bare[256];

	snprintf(port, sizeof port, "%u", conf->port);
	snprintf(bare, sizeof bare, "%.*s", n - 2 * bracket, host + bracket);
	rc = getaddrinfo(bare, port, &hints, &list);
	if (rc)
		return why_set(why, -EINVAL, "--http-host %s: %s", host, gai_strerror(rc));
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = listen_on(a);
	freeaddrinfo(list);
	if (fd < 0)
		why_set(why, fd, "HTTP cannot listen on %s port %u: %s%s", host, conf->port, strerror(-fd),
			fd == -EADDRINUSE ? "; stop the other server, or choose another --http-port" : "");
	return fd;
}

static uint16_t port_of(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a = {0};
	socklen_t n = sizeof a;

	if (getsockname(fd, &a.any, &n))
		return 0;
	return ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

/* On success the socket belongs to the daemon. */
static int start_daemon(struct http *h, int fd, struct why *why)
{
	h->daemon = MHD_start_daemon(
		MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
		MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE,
		HTTP_THREADS, MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
		HTTP_PER_IP, MHD_OPTION_CONNECTION_TIMEOUT, h->idle_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)HTTP_MEMORY, MHD_OPTION_UNESCAPE_CALLBACK, keep_encoded, NULL, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_END);
	return h->daemon ? 0 : why_set(why, -EAGAIN, "HTTP threads could not be started: %s", strerror(errno));
}

static int start_reaper(struct http *h, struct why *why)
{
	int rc;

	h->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (h->stop_fd < 0)
		return why_set(why, -errno, "HTTP event descriptor: %s", strerror(errno));
	rc = pthread_create(&h->reaper, NULL, reaper, h);
	if (rc)
		return why_set(why, -rc, "HTTP reaper thread: %s", strerror(rc));
	h->reaper_runs = true;
	return 0;
}

static struct http *http_new(const struct http_conf *conf, const struct http_host *host, struct metrics *metrics)
{
	struct http *h = mem_calloc(1, sizeof *h);

	if (!h)
		return NULL;
	h->host = *host;
	h->metrics = metrics;
	h->serve_metrics = conf->metrics && metrics;
	h->idle_s = conf->idle_seconds ? conf->idle_seconds : HTTP_IDLE_SECONDS;
	h->request_s = conf->request_seconds ? conf->request_seconds : HTTP_REQUEST_SECONDS;
	h->stop_fd = -1;
	lk_init(&h->conns_lock, LK_METRICS); /* a leaf: nothing is called with it held */
	for (uint32_t i = 0; i < HTTP_CONNECTIONS; i++)
		h->conns[i].fd = -1;
	return h;
}

int http_start(const struct http_conf *conf, const struct http_host *host, struct metrics *metrics, struct http **out,
	       struct why *why)
{
	struct http *h = http_new(conf, host, metrics);
	sigset_t all, before;
	int fd, rc;

	if (!h)
		return why_set(why, -ENOMEM, "out of memory");
	fd = open_socket(conf, why);
	if (fd < 0) {
		http_stop(h);
		return fd;
	}
	h->port = port_of(fd);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* threads inherit it */
	rc = start_reaper(h, why);
	if (rc == 0)
		rc = start_daemon(h, fd, why);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		if (fcntl(fd, F_GETFD) >= 0) /* libmicrohttpd closes it in some of its failures only */
			close(fd);
		http_stop(h);
		return rc;
	}
	*out = h;
	return 0;
}

uint16_t http_port(const struct http *h)
{
	return h->port;
}

void http_stop(struct http *h)
{
	uint64_t one = 1;

	if (!h)
		return;
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	if (h->reaper_runs) {
		while (write(h->stop_fd, &one, sizeof one) < 0 && errno == EINTR)
			;
		pthread_join(h->reaper, NULL);
	}
	if (h->stop_fd >= 0)
		close(h->stop_fd);
	lk_destroy(&h->conns_lock);
	mem_free(h);
}
