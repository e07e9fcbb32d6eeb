/* router.c - opening and closing the ROUTER socket. */
#include "daemon/core/core_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* libzmq binds to numeric addresses only. Beyond loopback needs the operator's word: there is no authentication yet. */
static int endpoint_of(struct server *srv, char *out, size_t cap, struct why *why)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *ai;
	const char *host = srv->conf.host;
	char ip[INET_ADDRSTRLEN], port[16] = "*";
	struct sockaddr_in in;

	if (strcmp(host, "*") == 0)
		host = "0.0.0.0";
	if (getaddrinfo(host, NULL, &hints, &ai) != 0)
		return why_set(why, -EINVAL, "--host %s does not resolve to an IPv4 address", host);
	memcpy(&in, ai->ai_addr, sizeof(in));
	freeaddrinfo(ai);
	if ((ntohl(in.sin_addr.s_addr) >> 24) != 127 && !srv->conf.insecure_allow_remote)
		return why_set(why, -EPERM,
			       "--host %s is reachable from other machines and the protocol has no authentication; "
			       "add --insecure-allow-remote if the network is trusted",
			       srv->conf.host);
	inet_ntop(AF_INET, &in.sin_addr, ip, sizeof(ip));
	if (srv->conf.port)
		snprintf(port, sizeof(port), "%u", srv->conf.port);
	snprintf(out, cap, "tcp://%s:%s", ip, port);
	return 0;
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
	int err = endpoint_of(srv, endpoint, sizeof(endpoint), why);

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
	if (zmq_bind(r->socket, endpoint) != 0)
		return why_set(why, -zmq_errno(), "cannot bind %s: %s", endpoint, zmq_strerror(zmq_errno()));
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
