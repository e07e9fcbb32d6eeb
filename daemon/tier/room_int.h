/* room_int.h - whether the tier would take more to write now (requests.c); apart, so that tests can ask it. */
#ifndef DAEMON_TIER_ROOM_INT_H
#define DAEMON_TIER_ROOM_INT_H

#include "daemon/tier/tier.h"

/* Any of n objects of `bytes`, as things are this moment. */
bool tier_accepts(struct tier *t, uint32_t n, uint64_t bytes);

#endif
