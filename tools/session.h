/* session.h - a CLI command's connection to a cache server over ZMQ.
 *
 * As every upstream adapter does, the first request is GET_CHUNK_SIZE: its number tells the server our dialect, and
 * its answer that there is a server. Threads: one per connection.
 */
#ifndef TOOLS_SESSION_H
#define TOOLS_SESSION_H

#include "daemon/base/why.h"
#include "tools/url.h"
#include "transport/zmq/client.h"

#include <stdint.h>

#define SESSION_DIALECT WIRE_D6

/* Connects and asks for the chunk size. 0, or -errno with "Cannot connect to <URL>: <reason>". */
int session_open(const struct url *url, enum wire_dialect dialect, uint32_t max_tokens, int timeout_ms,
		 struct ctl_client **out, uint32_t *chunk_tokens, struct why *why);

/* A 64-bit random number (getrandom). */
uint64_t session_random(void);

#endif
