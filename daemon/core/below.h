/* below.h - what is below L1: the adapters of --l2-adapter, the tier that works for them, and what requests need of both.
 *
 * Without an adapter there is neither: every function here is then a test of one pointer.
 * Threads: parse, open, drain and close by main; the rest from any.
 */
#ifndef DAEMON_CORE_BELOW_H
#define DAEMON_CORE_BELOW_H

#include "daemon/base/why.h"
#include "daemon/core/context.h"
#include "daemon/store/store.h"
#include "transport/wire/wire.h"

#include <jansson.h>

struct server;
struct status;
struct http_below;

/* Checks every --l2-adapter, touching nothing yet. 0, or -EINVAL with the text for exit code 2. */
int below_parse(struct server *srv, struct why *why);
/* Opens adapters and starts the tier, after the sessions and before any request. */
int below_open(struct server *srv, struct why *why);
/* Requests have ended: jobs are given up, objects still to be written get 5 seconds. Then nothing of it is left but the names. */
void below_close(struct server *srv);
void below_free(struct server *srv);

/* store_commit of n objects of a range (hashes[i] is that of objs[i]), which also go below. `rank`: kv_rank. Clears objs that are not
 * readable. Returns how many became readable. */
uint32_t below_commit(struct server *srv, const struct ctx *c, const struct wire_key *key, uint32_t rank,
		      const struct store_hash *hashes, store_obj *objs, uint32_t n);
/* Whether sums are worth having while objects are copied. */
bool below_wants_sums(const struct server *srv);

/* ---- for operators ------------------------------------------------------------------------------------------------ */

void below_http(struct server *srv, struct http_below *out);
/* An array of adapters as configured, without secrets. New reference. */
json_t *below_conf_json(const struct server *srv);
int below_status(struct server *srv, struct status *out);
/* Counters and gauges, before they are rendered. */
void below_refresh(struct server *srv);

#endif
