/* status_below.h - the part of GET /status about what is below L1: tier and adapters. */
#ifndef DAEMON_HTTP_STATUS_BELOW_H
#define DAEMON_HTTP_STATUS_BELOW_H

#include "daemon/tier/tier.h"

#include <jansson.h>

struct status_adapter {
	const char *type;
	struct l2_stats stats;
	json_t *about; /* the adapter's own words, or NULL */
	json_t *conf;  /* as configured, without secrets */
};

struct status_below {
	uint32_t max_in_flight;
	struct tier_stats tier; /* zeros without adapters */
	struct status_adapter *adapters;
	uint32_t n;
};

void status_below_free(struct status_below *b);

/* Members of storage_manager. New references; NULL when out of memory. */
json_t *status_store_controller(const struct status_below *b);
json_t *status_prefetch_controller(const struct status_below *b);
json_t *status_l2_eviction_controller(const struct status_below *b);
json_t *status_l2_adapters(const struct status_below *b);
/* Ours: what the tier counted. */
json_t *status_tier(const struct status_below *b);

#endif
