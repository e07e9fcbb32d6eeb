/* below_int.h - between below.c (making and storing), below_hear.c (lookups, the tier's listener) and below_show.c (operators). */
#ifndef DAEMON_CORE_BELOW_INT_H
#define DAEMON_CORE_BELOW_INT_H

#include "daemon/core/core_int.h"
#include "daemon/tier/tier.h"

struct tier_listener below_listener(struct server *srv);
/* The sessions use the tier from now on. */
void below_use(struct server *srv);
/* Metric series of the adapters; the tier tells how fast they are. */
void below_meter(struct server *srv);
/* A model or salt that cannot be named below L1: said once. */
void below_nameless(struct server *srv);

#endif
