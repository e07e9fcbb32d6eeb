/* hist.h - a latency histogram of fixed size: 64 steps per power of two, so percentiles are right within 1.6 %.
 *
 * Threads: one writer; merge after it has ended. Zeroed memory is an empty histogram.
 */
#ifndef TOOLS_HIST_H
#define TOOLS_HIST_H

#include <stdint.h>

#define HIST_STEPS   64u
#define HIST_BUCKETS (HIST_STEPS * 42) /* up to 2^47 ns, 39 hours; longer counts as that */

struct hist {
	uint64_t count, sum, max;
	uint32_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t ns);
void hist_merge(struct hist *to, const struct hist *from);
/* The value below or at which `share` (0..1) of all values lie: the upper end of its bucket, never above the maximum. 0 when
 * empty. */
uint64_t hist_percentile(const struct hist *h, double share);

#endif
