/* topo.h - what this machine is made of, as far as placement needs it today: NUMA nodes with memory and CPUs.
 *
 * Facts come from hwloc and respect the cpuset the process was started with. A node without CPUs gets no threads; an unknown
 * node is -1, never 0. Threads: create by main; pinning by the thread itself.
 */
#ifndef NUMA_TOPO_H
#define NUMA_TOPO_H

#include "daemon/base/why.h"

#include <stdint.h>

#define TOPO_MAX_NODES 64

struct topo_node {
	int os_index;
	uint64_t memory_bytes; /* local memory; 0 = unknown */
	uint32_t ncpus;        /* allowed CPUs of this node */
};

struct topo;

int topo_create(struct topo **out, struct why *why);
void topo_destroy(struct topo *t);
uint32_t topo_nnodes(const struct topo *t);
const struct topo_node *topo_node(const struct topo *t, uint32_t i);
uint32_t topo_ncpus(const struct topo *t);

/* Binds the calling thread to the allowed CPUs of node i (an index, not an OS index). 0 or -errno; a node without CPUs is
 * -EINVAL. */
int topo_pin_self(const struct topo *t, uint32_t i);

#endif
