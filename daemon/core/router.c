/* router.c - opening and closing the ROUTER socket. */
#include "daemon/core/core_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void bare_host(const char *text, char *out, size_t cap)
{
	size_t n = strlen(text);

	if (strcmp(text, "*") == 0)
		snprintf(out, cap, "0.0.0.0");
	else if (n > 2 && text[0] == '[' && text[n - 1] == ']')
		snprintf(out, cap, "%.*s", (int)n - 2, text + 1);
	else
		snprintf(out, cap, "%s", text);
}

/* IPv4 where a name has it: clients' libzmq asks for nothing else unless told to. */
static int resolve(const char *host, struct addrinfo **ai)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};

	/* known also where nothing resolves names, as in a bare container (RFC 6761, 6.3) */
	if (strcmp(host, "localhost") == 0)
		host = "127.0.0.1";
	if (getaddrinfo(host, NULL, &hints, ai) == 0)
		return 0;
	hints.ai_family = AF_INET6;
	return getaddrinfo(host, NULL, &hints, ai);
}

static bool is_loopback(const struct sockaddr *addr)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	if (addr->sa_family == AF_INET6) {
		memcpy(&v6, addr, sizeof(v6));
		return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
	}
	memcpy(&v4, addr, sizeof(v4));
	return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
}

/* libzmq binds to numeric addresses only. Beyond loopback needs the operator's word: there is no authentication yet. */
static int endpoint_of(struct server *srv, char *out, size_t cap, bool *v6, struct why *why)
{
	char host[256], ip[INET6_ADDRSTRLEN], port[16] = "*";
	struct addrinfo *ai = NULL;
	bool local;
	int rc;

	bare_host(srv->conf.host, host, sizeof(host));
	rc = resolve(host, &ai);
	if (rc)
		return why_set(why, -EINVAL, "--host %s: %s", srv->conf.host, gai_strerror(rc));
	*v6 = ai->ai_family == AF_INET6;
	rc = getnameinfo(ai->ai_addr, ai->ai_addrlen, ip, sizeof(ip), NULL, 0, NI_NUMERICHOST);
	local = is_loopback(ai->ai_addr);
	freeaddrinfo(ai);
	if (rc)
		return why_set(why, -EINVAL, "--host %s: %s", srv->conf.host, gai_strerror(rc));
	if (!local && !srv->conf.insecure_allow_remote)
		return why_set(why, -EPERM,
			       "--host %s is reachable from other machines and the protocol has no authentication; "
			       "add --insecure-allow-remote if the network is trusted",
			       srv->conf.host);
	if (srv->conf.port)
		snprintf(port, sizeof(port), "%u", srv->conf.port);
	snprintf(out, cap, *v6 ? "tcp://[%s]:%s" : "tcp://%s:%s", ip, port);
	return 0;
}

static void *wait_for_all(void *barrier)
{
	pthread_mutex_lock(barrier);
	pthread_mutex_unlock(barrier);
	return NULL;
}

/* libzmq starts two threads, and where it cannot (no address space, a limit of processes) it aborts the whole process: so we
 * try first. One more than it needs, for what its threads allocate. */
static int threads_can_start(struct why *why)
{
	pthread_mutex_t hold = PTHREAD_MUTEX_INITIALIZER;
	pthread_t t[3];
	int n = 0, err = 0;

	pthread_mutex_lock(&hold);
	while (n < 3 && !(err = pthread_create(&t[n], NULL, wait_for_all, &hold)))
		n++;
	pthread_mutex_unlock(&hold);
	while (n--)
		pthread_join(t[n], NULL);
	return err ? why_set(why, -err, "cannot start threads: %s (see ulimit -u and -v, and pids.max of the cgroup)",
			     strerror(err))
		   : 0;
}

/* libzmq starts its I/O thread with the first socket, and the thread inherits the priority of whoever makes it: messages must
 * get through while every core copies. Needs privilege; without it the workers' nice value still helps. */
static void *open_router(void *zmq)
{
	int before = getpriority(PRIO_PROCESS, 0);
	void *socket;

	setpriority(PRIO_PROCESS, 0, ROUTER_NICE);
	socket = zmq_socket(zmq, ZMQ_ROUTER);
	setpriority(PRIO_PROCESS, 0, before);
	return socket;
}

int router_open(struct server *srv, struct router *r, struct why *why)
{
	int linger = 300, hwm = 10000, send_hwm = 100000, on = 1;
	int64_t max = (int64_t)srv->conf.max_message_mb << 20;
	char endpoint[128], bound[256];
	size_t n = sizeof(bound), fd_bytes;
	bool v6 = false;
	int err = endpoint_of(srv, endpoint, sizeof(endpoint), &v6, why);

	if (!err)
		err = threads_can_start(why);
	if (err)
		return err;
	r->zmq = zmq_ctx_new();
	r->socket = r->zmq ? open_router(r->zmq) : NULL;
	if (!r->socket)
		return why_set(why, -ENOMEM, "cannot create a ZMQ socket: %s", zmq_strerror(zmq_errno()));
	zmq_setsockopt(r->socket, ZMQ_LINGER, &linger, sizeof(linger));
	zmq_setsockopt(r->socket, ZMQ_RCVHWM, &hwm, sizeof(hwm));
	zmq_setsockopt(r->socket, ZMQ_SNDHWM, &send_hwm, sizeof(send_hwm));
	zmq_setsockopt(r->socket, ZMQ_MAXMSGSIZE, &max, sizeof(max));
	zmq_setsockopt(r->socket, ZMQ_TCP_KEEPALIVE, &on, sizeof(on));
	if (v6)
		zmq_setsockopt(r->socket, ZMQ_IPV6, &on, sizeof(on));
	if (zmq_bind(r->socket, endpoint) != 0)
		return why_set(why, -zmq_errno(), "cannot bind %s: %s%s", endpoint, zmq_strerror(zmq_errno()),
			       zmq_errno() == EADDRINUSE ? "; stop the other server, or choose another --port" : "");
	fd_bytes = sizeof(r->fd);
	if (zmq_getsockopt(r->socket, ZMQ_FD, &r->fd, &fd_bytes) != 0)
		return why_set(why, -EIO, "no descriptor of the ZMQ socket: %s", zmq_strerror(zmq_errno()));
	if (zmq_getsockopt(r->socket, ZMQ_LAST_ENDPOINT, bound, &n) == 0 && strrchr(bound, ':'))
		r->port = (uint32_t)strtoul(strrchr(bound, ':') + 1, NULL, 10);
	return 0;
}

void router_close(struct router *r)
{
	if (r->socket)
		zmq_close(r->socket);
	if (r->zmq)
		zmq_ctx_term(r->zmq);
}
