/* bench_tiers.h - what the server itself counted per tier during a bench: read from /metrics before and after. */
#ifndef TOOLS_BENCH_TIERS_H
#define TOOLS_BENCH_TIERS_H

#include "daemon/base/why.h"

#include <stdbool.h>

struct bench_tiers {
	double asked_tokens, l1_tokens, l2_tokens; /* of lookups */
	double l2_read_bytes, l2_write_bytes, l2_dropped;
};

/* `url`: http or https base. 0, or -errno with the reason (no metrics there, not HTTP). */
int bench_tiers_read(const char *url, double timeout_s, struct bench_tiers *out, struct why *why);
struct bench_tiers bench_tiers_since(const struct bench_tiers *before, const struct bench_tiers *after);

#endif
