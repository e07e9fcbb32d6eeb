/* url.h - what --url may look like: http:// and https:// mean HTTP; tcp://host:port, ipc://path and host:port mean ZMQ.
 *
 * Source: shared surface reference, section 4.2. Threads: any. Nothing is owned by anybody: fixed buffers.
 */
#ifndef TOOLS_URL_H
#define TOOLS_URL_H

#include "daemon/base/why.h"

#include <stdint.h>

#define URL_MAX 512

enum url_kind { URL_HTTP, URL_TCP, URL_IPC };

struct url {
	enum url_kind kind;
	char text[URL_MAX]; /* as shown: without trailing slashes, host:port with "tcp://" before it */
	char host[256];     /* URL_TCP: name or address, IPv6 without brackets */
	char port[8];       /* URL_TCP */
};

/* 0 or -EINVAL with the reason. */
int url_parse(const char *text, struct url *out, struct why *why);

/* Tries to connect to a ZMQ endpoint, so that a wrong address is reported at once and by name: libzmq itself
 * retries silently. 0 or -errno (ECONNREFUSED, ETIMEDOUT, ENOENT, EHOSTUNREACH for a name that does not resolve). */
int url_reach(const struct url *u, int timeout_ms, struct why *why);

#endif
