/* status_numa.h - the "numa" part of /status: where L1 and the threads were planned, and where they are. Ours alone; upstream has
 * nothing like it. An unknown node is null, never a number. */
#ifndef DAEMON_HTTP_STATUS_NUMA_H
#define DAEMON_HTTP_STATUS_NUMA_H

#include "numa/node.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct status_pool {
	node_id node;
	uint64_t start, bytes, page_bytes, used_bytes, committed_bytes;
	const char *backing;
	bool bound, checked; /* unchecked: the counts say nothing */
	uint64_t pages, pages_looked, pages_on_node, pages_elsewhere, pages_absent;
	double checked_s; /* seconds ago */
};

struct status_place {
	char name[24];
	int tid;
	const char *role;
	bool planned;
	struct cpu_set planned_cpus;
	int cpu; /* where it ran last; -1 unknown */
	node_id node;
};

struct status_note {
	const char *severity, *text, *remedy; /* constant while the server lives */
};

struct status_numa {
	const char *policy; /* NULL: the server has no plan, and there is no "numa" in the payload */
	const char *bind;
	const char *source; /* of the facts: "this system" */
	bool this_system;
	uint32_t nodes, cpus, devices;
	struct status_pool *pools;   /* owned */
	struct status_place *places; /* owned */
	struct status_note *notes;   /* owned */
	uint32_t npools, nplaces, nnotes;
	uint64_t fallbacks;
};

void status_numa_free(struct status_numa *n);
/* New reference, NULL when out of memory. */
json_t *status_numa_json(const struct status_numa *n);

#endif
