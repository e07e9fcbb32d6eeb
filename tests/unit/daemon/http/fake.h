/* fake.h - a server made of a few counters behind the real HTTP door, and a small raw client. */
#ifndef TESTS_UNIT_DAEMON_HTTP_FAKE_H
#define TESTS_UNIT_DAEMON_HTTP_FAKE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/http/http.h"
#include "daemon/http/metrics.h"
#include "daemon/http/status.h"
#include "daemon/store/store.h"

/* ---- the fake server ------------------------------------------------------------------------------------------- */

#define FAKE_SALTS 4

struct fake {
	struct http *http;
	struct metrics *metrics;
	atomic_bool ready;
	atomic_uint clears, refreshes;
	int status_rc;
	char ended[600];
	size_t ended_n;
	struct store_quota quota[FAKE_SALTS];
	uint32_t nquota;
};

static inline int fake_status(void *ctx, struct status *out)
{
	struct fake *f = ctx;

	*out = (struct status){.is_healthy = true, .chunk_size = 256, .version = "test"};
	return f->status_rc;
}

static inline uint64_t fake_clear(void *ctx)
{
	struct fake *f = ctx;

	atomic_fetch_add(&f->clears, 1);
	return 42;
}

static inline bool fake_end_session(void *ctx, struct slice id)
{
	struct fake *f = ctx;

	f->ended_n = id.n < sizeof f->ended ? id.n : 0;
	memcpy(f->ended, id.p, f->ended_n);
	return id.n < 3 || memcmp(id.p, "no-", 3) != 0;
}

static inline void fake_refresh(void *ctx)
{
	struct fake *f = ctx;

	metric_set(f->metrics, M_PEERS, atomic_fetch_add(&f->refreshes, 1) + 1);
}

static inline int fake_quota_set(void *ctx, struct slice salt, uint64_t bytes)
{
	struct fake *f = ctx;

	if (memchr(salt.p, '@', salt.n) || memchr(salt.p, '\0', salt.n))
		return -EINVAL;
	for (uint32_t i = 0; i < f->nquota; i++) {
		if (slice_is(salt, f->quota[i].salt)) {
			f->quota[i].limit_bytes = bytes;
			return 0;
		}
	}
	if (f->nquota == FAKE_SALTS || salt.n >= sizeof f->quota[0].salt)
		return -EINVAL;
	memcpy(f->quota[f->nquota].salt, salt.p, salt.n);
	f->quota[f->nquota++].limit_bytes = bytes;
	return 0;
}

static inline uint32_t fake_quota_list(void *ctx, struct store_quota *out, uint32_t max)
{
	struct fake *f = ctx;

	for (uint32_t i = 0; i < f->nquota && i < max; i++)
		out[i] = f->quota[i];
	return f->nquota;
}

static inline char *fake_conf(void *ctx)
{
	(void)ctx;
	return strdup("{\"mp\":{\"port\":5555}}");
}

static inline bool fake_ready(void *ctx)
{
	struct fake *f = ctx;

	return atomic_load(&f->ready);
}

static inline struct fake *fake_start_with(struct http_conf conf)
{
	struct fake *f = calloc(1, sizeof *f);
	struct http_host host = {.ctx = f,
				 .status = fake_status,
				 .clear = fake_clear,
				 .end_session = fake_end_session,
				 .refresh_gauges = fake_refresh,
				 .quota_set = fake_quota_set,
				 .quota_list = fake_quota_list,
				 .conf_json = fake_conf,
				 .ready = fake_ready,
				 .instance_id = "test"};
	struct why why = {0};

	assert_non_null(f);
	atomic_store(&f->ready, true);
	assert_int_equal(metrics_create("test", true, &f->metrics), 0);
	if (http_start(&conf, &host, f->metrics, &f->http, &why))
		fail_msg("http_start: %s", why.text);
	assert_int_not_equal(http_port(f->http), 0);
	return f;
}

static inline struct fake *fake_start(void)
{
	return fake_start_with((struct http_conf){.host = "127.0.0.1", .metrics = true});
}

static inline void fake_stop(struct fake *f)
{
	http_stop(f->http);
	metrics_destroy(f->metrics);
	free(f);
}

/* ---- a small client -------------------------------------------------------------------------------------------- */

struct answer {
	int status; /* 0: closed without one */
	char head[2048];
	char *body;
	size_t n;
};

static inline int dial(const struct fake *f)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_port(f->http))};
	struct timeval limit = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

/* False when the server has closed. */
static inline bool send_bytes(int fd, const void *p, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t rc = send(fd, (const char *)p + at, n - at, MSG_NOSIGNAL);

		if (rc <= 0)
			return false;
		at += (size_t)rc;
	}
	return true;
}

static inline void send_text(int fd, const char *text)
{
	assert_true(send_bytes(fd, text, strlen(text)));
}

/* Reads the head byte by byte, then as many bytes as it announces (none after HEAD). */
static inline struct answer read_answer(int fd, bool head_only)
{
	struct answer a = {0};
	size_t n = 0;
	const char *length;

	while (n < sizeof a.head - 1 && !strstr(a.head, "\r\n\r\n")) {
		if (recv(fd, a.head + n, 1, 0) != 1)
			return a;
		a.head[++n] = '\0';
	}
	assert_int_equal(sscanf(a.head, "HTTP/1.1 %d", &a.status), 1);
	length = strcasestr(a.head, "Content-Length:");
	a.n = length && !head_only ? strtoull(length + 15, NULL, 10) : 0;
	a.body = calloc(1, a.n + 1);
	for (size_t at = 0; at < a.n;) {
		ssize_t rc = recv(fd, a.body + at, a.n - at, 0);

		if (rc <= 0)
			fail_msg("answer cut off after %zu of %zu bytes", at, a.n);
		at += (size_t)rc;
	}
	return a;
}

static inline struct answer ask(const struct fake *f, const char *method, const char *path, const char *body)
{
	char request[4096];
	int fd = dial(f);
	struct answer a;

	assert_true(snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
			     method, path, strlen(body), body) < (int)sizeof request);
	send_text(fd, request);
	a = read_answer(fd, strcmp(method, "HEAD") == 0);
	close(fd);
	return a;
}

static inline void assert_head(const struct answer *a, const char *line)
{
	if (!strcasestr(a->head, line))
		fail_msg("no \"%s\" in %s", line, a->head);
}

/* One request whose status and whole body are known. */
static inline void expect(const struct fake *f, const char *method, const char *path, const char *body, int status,
			  const char *want)
{
	struct answer a = ask(f, method, path, body);

	if (a.status != status || strcmp(a.body ? a.body : "", want) != 0)
		fail_msg("%s %s %s: %d %s, not %d %s", method, path, body, a.status, a.body, status, want);
	assert_head(&a, "\r\nContent-Type: application/json\r\n");
	free(a.body);
}

#endif
