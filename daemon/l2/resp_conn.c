/* resp_conn.c - one connection to a Redis or Valkey server. */
#include "daemon/l2/resp_int.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define SKIPPED (1 << 20)
#define SLOWEST 8192u /* bytes per millisecond that a large value must come at */

static void give_time(struct resp_conn *c, const struct resp_server *s, uint64_t bytes)
{
	c->until_ns = clock_ns() + (s->timeout_ms + bytes / SLOWEST) * UINT64_C(1000000);
}

static int wait_for(struct resp_conn *c, short events)
{
	struct pollfd p = {.fd = c->ctx->fd, .events = events};
	uint64_t now = clock_ns();

	if (now >= c->until_ns)
		return -ETIMEDOUT;
	int k = poll(&p, 1, (int)((c->until_ns - now) / 1000000u + 1));
	return k < 0 && errno != EINTR ? -errno : 0; /* at the end of the time the next turn says so */
}

/* ---- sending ------------------------------------------------------------------------------------------------------------- */

int resp_send(struct resp_conn *c, const struct resp_server *s, struct iovec *iov, int n, uint64_t bytes)
{
	give_time(c, s, bytes);
	c->heard = false;
	while (n > 0) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
		ssize_t k = sendmsg(c->ctx->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (k < 0 && errno == EAGAIN) {
			int rc = wait_for(c, POLLOUT);
			if (rc)
				return rc;
			continue;
		}
		if (k < 0 && errno != EINTR)
			return -errno;
		for (size_t left = k < 0 ? 0 : (size_t)k; n > 0 && (left > 0 || iov->iov_len == 0);) {
			size_t part = left < iov->iov_len ? left : iov->iov_len;
			iov->iov_base = (uint8_t *)iov->iov_base + part;
			iov->iov_len -= part;
			left -= part;
			if (iov->iov_len == 0) {
				iov++;
				n--;
			}
		}
	}
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

static int receive(struct resp_conn *c, void *p, size_t room, size_t *got)
{
	for (;;) {
		ssize_t k = recv(c->ctx->fd, p, room, MSG_DONTWAIT);
		if (k > 0) {
			*got = (size_t)k;
			c->heard = true;
			return 0;
		}
		if (k == 0)
			return -ECONNRESET;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		int rc = wait_for(c, POLLIN);
		if (rc)
			return rc;
	}
}

static int next_byte(struct resp_conn *c, char *out)
{
	if (c->at == c->end) {
		size_t got = 0;
		int rc = receive(c, c->buf, sizeof(c->buf), &got);
		if (rc)
			return rc;
		c->at = 0;
		c->end = (uint32_t)got;
	}
	*out = (char)c->buf[c->at++];
	return 0;
}

/* A line without its end, cut to the room there is when `cut`. An error text is a whole answer. */
static int read_line(struct resp_conn *c, char *out, size_t room, bool cut)
{
	size_t n = 0;

	for (uint32_t all = 0; all < 65536; all++) {
		char b;
		int rc = next_byte(c, &b);
		if (rc)
			return rc;
		if (b == '\n') {
			if (n == 0 || out[n - 1] != '\r')
				return cut && n + 1 == room ? (out[n] = 0, 0) : -EPROTO;
			out[n - 1] = 0;
			return 0;
		}
		if (n + 1 < room)
			out[n++] = b;
		else if (!cut)
			return -EPROTO;
	}
	return -EPROTO;
}

/* The type and the rest of the first line. */
static int read_head(struct resp_conn *c, char type, char *line, size_t room)
{
	char b;
	int rc = next_byte(c, &b);

	if (rc)
		return rc;
	if (b == '-') {
		rc = read_line(c, c->error, sizeof(c->error), true);
		for (char *p = c->error; *p; p++) /* it goes to the log */
			*p = *p >= ' ' && *p <= '~' ? *p : '?';
		return rc ? rc : RESP_REFUSED;
	}
	if (b != type)
		return -EPROTO;
	return read_line(c, line, room, false);
}

/* -1 is what nil is called. */
static int read_count(struct resp_conn *c, char type, int64_t *out)
{
	char line[24];
	int rc = read_head(c, type, line, sizeof(line));

	if (rc)
		return rc;
	if (strcmp(line, "-1") == 0) {
		*out = -1;
		return 0;
	}
	size_t n = strspn(line, "0123456789");
	if (n == 0 || n > 18 || line[n])
		return -EPROTO;
	*out = 0;
	for (size_t i = 0; i < n; i++)
		*out = *out * 10 + (line[i] - '0');
	return 0;
}

int resp_read_ok(struct resp_conn *c)
{
	char line[RESP_LINE];
	int rc = read_head(c, '+', line, sizeof(line));

	return rc ? rc : strcmp(line, "OK") == 0 ? 0 : -EPROTO;
}

int resp_read_number(struct resp_conn *c, uint64_t *out)
{
	int64_t n = 0;
	int rc = read_count(c, ':', &n);

	if (!rc && n < 0)
		rc = -EPROTO;
	*out = rc ? 0 : (uint64_t)n;
	return rc;
}

int resp_read_list(struct resp_conn *c, uint64_t *n)
{
	int64_t k = 0;
	int rc = read_count(c, '*', &k);

	if (!rc && k < 0)
		rc = -EPROTO;
	*n = rc ? 0 : (uint64_t)k;
	return rc;
}

static int read_payload(struct resp_conn *c, uint8_t *p, uint64_t n)
{
	uint64_t have = c->end - c->at < n ? c->end - c->at : n;

	memcpy(p, c->buf + c->at, have);
	c->at += (uint32_t)have;
	while (have < n) {
		size_t got = 0;
		int rc = receive(c, p + have, n - have, &got);
		if (rc)
			return rc;
		have += got;
	}
	return 0;
}

/* Too long for where it should go, and read past. */
static int skip_payload(struct resp_conn *c, uint64_t n)
{
	char b;

	for (n += 2; n > 0; n--) {
		int rc = next_byte(c, &b);
		if (rc)
			return rc;
	}
	return -ENOBUFS;
}

int resp_read_bulk(struct resp_conn *c, void *mem, uint64_t bytes, uint64_t *got, bool most)
{
	int64_t n = 0;
	char end[2];
	int rc = read_count(c, '$', &n);

	*got = 0;
	if (rc)
		return rc;
	if (n < 0)
		return -ENOENT;
	if (most && (uint64_t)n > bytes && n < SKIPPED)
		return skip_payload(c, (uint64_t)n);
	if (most ? (uint64_t)n > bytes : (uint64_t)n != bytes)
		return -EMSGSIZE;
	rc = read_payload(c, mem, (uint64_t)n);
	for (int i = 0; i < 2 && !rc; i++)
		rc = next_byte(c, &end[i]);
	if (!rc && (end[0] != '\r' || end[1] != '\n'))
		rc = -EPROTO;
	if (!rc)
		*got = (uint64_t)n;
	return rc;
}

/* ---- connecting ------------------------------------------------------------------------------------------------------------ */

static int authenticate(struct resp_conn *c, const struct resp_server *s)
{
	char head[96], middle[64];
	size_t user = strlen(s->username), pass = strlen(s->password);
	struct iovec iov[5];
	int n = 0;

	if (pass == 0 && user == 0)
		return 0;
	snprintf(head, sizeof(head), "*%d\r\n$4\r\nAUTH\r\n", user ? 3 : 2);
	iov[n++] = (struct iovec){head, strlen(head)};
	if (user) {
		snprintf(head + strlen(head), sizeof(head) - strlen(head), "$%zu\r\n", user);
		iov[0].iov_len = strlen(head);
		iov[n++] = (struct iovec){(void *)s->username, user};
	}
	snprintf(middle, sizeof(middle), "%s$%zu\r\n", user ? "\r\n" : "", pass);
	iov[n++] = (struct iovec){middle, strlen(middle)};
	iov[n++] = (struct iovec){(void *)s->password, pass};
	iov[n++] = (struct iovec){(void *)"\r\n", 2};
	int rc = resp_send(c, s, iov, n, 0);
	return rc ? rc : resp_read_ok(c);
}

int resp_open(struct resp_conn *c, const struct resp_server *s, struct why *why)
{
	const struct timeval t = {.tv_sec = s->timeout_ms / 1000,
				  .tv_usec = (suseconds_t)(s->timeout_ms % 1000) * 1000};
	int one = 1;

	c->at = c->end = 0;
	c->error[0] = 0;
	c->ctx = *s->host == '/' ? redisConnectUnixWithTimeout(s->host, t)
				 : redisConnectWithTimeout(s->host, s->port, t);
	if (!c->ctx)
		return why_set(why, -ENOMEM, "out of memory");
	if (c->ctx->err) {
		why_set(why, -ECONNREFUSED, "%s: %s", s->host, c->ctx->errstr);
		resp_close(c);
		return -ECONNREFUSED;
	}
	if (*s->host != '/')
		setsockopt(c->ctx->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	int rc = authenticate(c, s);
	if (rc) {
		why_set(why, rc, "%s: no access: %s", s->host, rc == RESP_REFUSED ? c->error : strerror(-rc));
		resp_close(c);
	}
	return rc;
}

void resp_close(struct resp_conn *c)
{
	if (c->ctx)
		redisFree(c->ctx);
	c->ctx = NULL;
}
