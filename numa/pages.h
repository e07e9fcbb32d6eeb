/* pages.h - on which node pages are: the kernel's own answers, for this process or another.
 *
 * Threads: any. What can fail: the kernel may not tell (-EPERM: another user's process or a seccomp profile, -ENOSYS).
 */
#ifndef NUMA_PAGES_H
#define NUMA_PAGES_H

#include "numa/node.h"

#define PAGES_NODES 64u

struct pages_census {
	uint64_t looked, absent; /* absent: in no memory now */
	struct {
		node_id node;
		uint64_t pages;
	} at[PAGES_NODES]; /* by number */
	uint32_t nat;
	uint64_t others; /* on nodes for which at[] had no room */
};

/* Binds a mapping of this process, before it is touched. 0, -EINVAL (no such node, or not in our cpuset; also an unknown one),
 * -EPERM, -ENOSYS. */
int pages_bind(void *base, uint64_t bytes, node_id node);
/* Adds the pages of [base, base + bytes) of process `pid` (0: this one) to `out`. */
int pages_count(int pid, uint64_t base, uint64_t bytes, uint64_t page_bytes, struct pages_census *out);
uint64_t pages_on(const struct pages_census *c, node_id node);

#endif
