#include "tools/url.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int refuse(const char *text, struct why *why)
{
	return why_set(why, -EINVAL,
		       "'%.200s' is no URL: expected http://host:port, https://host:port, host:port, tcp://host:port "
		       "or ipc://path",
		       text);
}

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool port_valid(const char *port)
{
	size_t n = strlen(port);
	if (n < 1 || n > 5 || strspn(port, "0123456789") != n)
		return false;
	unsigned long v = strtoul(port, NULL, 10);
	return v >= 1 && v <= 65535;
}

/* "host:port" or "[v6]:port". */
static int split_host_port(const char *text, const char *authority, struct url *out, struct why *why)
{
	const char *colon = strrchr(authority, ':');
	if (!colon || colon == authority || !port_valid(colon + 1))
		return refuse(text, why);
	const char *first = authority, *last = colon;
	if (*first == '[') {
		if (last[-1] != ']')
			return refuse(text, why);
		first++;
		last--;
	} else if (memchr(first, ':', (size_t)(last - first))) {
		return refuse(text, why); /* IPv6 needs brackets */
	}
	size_t n = (size_t)(last - first);
	if (n < 1 || n >= sizeof(out->host) || strcspn(first, "/?#@ ") < n)
		return refuse(text, why);
	memcpy(out->host, first, n);
	out->host[n] = '\0';
	memcpy(out->port, colon + 1, strlen(colon + 1) + 1);
	return 0;
}

static int parse_http(const char *text, size_t scheme, struct url *out, struct why *why)
{
	size_t n = strlen(text);
	while (n > scheme && text[n - 1] == '/')
		n--;
	if (n == scheme || strcspn(text, " \t\r\n") < n)
		return refuse(text, why);
	out->kind = URL_HTTP;
	memcpy(out->text, text, n);
	out->text[n] = '\0';
	return 0;
}

int url_parse(const char *text, struct url *out, struct why *why)
{
	memset(out, 0, sizeof(*out));
	if (strlen(text) > URL_MAX - 8)
		return why_set(why, -EINVAL, "a URL of more than %d bytes", URL_MAX - 8);
	if (has_prefix(text, "http://"))
		return parse_http(text, strlen("http://"), out, why);
	if (has_prefix(text, "https://"))
		return parse_http(text, strlen("https://"), out, why);
	if (has_prefix(text, "ipc://")) {
		out->kind = URL_IPC;
		snprintf(out->text, sizeof(out->text), "%s", text);
		return text[strlen("ipc://")] ? 0 : refuse(text, why);
	}
	size_t n;
	const char *authority = has_prefix(text, "tcp://") ? text + strlen("tcp://") : text;
	if (strstr(authority, "://"))
		return refuse(text, why);
	out->kind = URL_TCP;
	n = strlen(authority);
	while (n && authority[n - 1] == '/')
		n--;
	snprintf(out->text, sizeof(out->text), "tcp://%.*s", (int)n, authority);
	authority = out->text + strlen("tcp://");
	return split_host_port(text, authority, out, why);
}

/* ---- reaching ------------------------------------------------------------------------------------------------ */

static int connect_in_time(int fd, const struct sockaddr *addr, socklen_t len, int timeout_ms)
{
	if (connect(fd, addr, len) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int n = poll(&p, 1, timeout_ms);
	if (n <= 0)
		return n == 0 ? -ETIMEDOUT : -errno;
	int err = 0;
	socklen_t size = sizeof(err);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size);
	return -err;
}

static int try_address(int family, const struct sockaddr *addr, socklen_t len, int timeout_ms)
{
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int rc = connect_in_time(fd, addr, len, timeout_ms);
	close(fd);
	return rc;
}

static int reach_ipc(const struct url *u, int timeout_ms, struct why *why)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const char *path = u->text + strlen("ipc://");
	size_t n = strlen(path);
	if (n >= sizeof(addr.sun_path))
		return why_set(why, -EINVAL, "%s: the path is too long for a socket", u->text);
	memcpy(addr.sun_path, path, n + 1);
	socklen_t len = sizeof(addr);
	if (path[0] == '@') { /* abstract, as libzmq reads it */
		addr.sun_path[0] = '\0';
		len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	}
	int rc = try_address(AF_UNIX, (const struct sockaddr *)&addr, len, timeout_ms);
	return rc ? why_set(why, rc, "%s", strerror(-rc)) : 0;
}

static int reach_tcp(const struct url *u, int timeout_ms, struct why *why)
{
	/* IPv4 for names, as libzmq does it: see transport/zmq/client.c. */
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = strchr(u->host, ':') ? AF_INET6 : AF_INET};
	struct addrinfo *list;
	int gai = getaddrinfo(u->host, u->port, &hints, &list);
	if (gai)
		return why_set(why, -EHOSTUNREACH, "%s", gai_strerror(gai));
	int rc = -EHOSTUNREACH;
	for (struct addrinfo *a = list; a && rc; a = a->ai_next)
		rc = try_address(a->ai_family, a->ai_addr, a->ai_addrlen, timeout_ms);
	freeaddrinfo(list);
	return rc ? why_set(why, rc, "%s", strerror(-rc)) : 0;
}

int url_reach(const struct url *u, int timeout_ms, struct why *why)
{
	return u->kind == URL_IPC ? reach_ipc(u, timeout_ms, why) : reach_tcp(u, timeout_ms, why);
}
