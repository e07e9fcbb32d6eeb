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
/* tier_meter.counted: the series of the name's salt or model. Made before the tier, gone after it. */
int below_count_create(struct server *srv);
void below_count_destroy(struct server *srv);
void below_counted(void *ctx, enum tier_count what, uint32_t name, uint32_t n);
/* A model or salt that cannot be named below L1: said once. */
void below_nameless(struct server *srv);

#endif
