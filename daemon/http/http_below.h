/* http_below.h - what the server lends to the routes about L2: constant from before the first request until http_stop. */
#ifndef DAEMON_HTTP_HTTP_BELOW_H
#define DAEMON_HTTP_HTTP_BELOW_H

#include "daemon/seg/names.h"
#include "daemon/store/store.h"
#include "daemon/tier/tier.h"

struct http_below {
	struct tier *tier; /* NULL: there is no adapter */
	struct seg_names *names;
	struct store *store; /* L1 */
};

#endif
