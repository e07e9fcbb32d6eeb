/* machine_fixture.h - machines built by hand, for tests of what reads a struct machine. machine_destroy frees them. */
#ifndef TESTS_UNIT_NUMA_MACHINE_FIXTURE_H
#define TESTS_UNIT_NUMA_MACHINE_FIXTURE_H

#include "daemon/base/mem.h"
#include "numa/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FIX_GIB (1ull << 30)
#define FIX_MIB (1ull << 20)
#define FIX_CPU UINT32_MAX

/* Nodes 0 to n - 1 of DRAM, allowed, without memory or CPUs, 10 from themselves and 21 from others; nothing is limited. */
static inline struct machine *fix_machine(uint32_t nnodes)
{
	struct machine *m = mem_calloc(1, sizeof(*m));

	m->this_system = true;
	snprintf(m->source, sizeof(m->source), "a machine by hand");
	snprintf(m->host, sizeof(m->host), "fixture");
	m->nodes = mem_calloc(nnodes ? nnodes : 1, sizeof(*m->nodes));
	m->nnodes = nnodes;
	for (uint32_t i = 0; i < nnodes; i++) {
		struct mach_node *n = &m->nodes[i];

		n->id = node_of((int)i);
		n->kind = NODE_DRAM;
		n->allowed = true;
		n->package = i;
		n->distance = mem_calloc(nnodes, sizeof(*n->distance));
		for (uint32_t k = 0; k < nnodes; k++)
			n->distance[k] = i == k ? 10 : 21;
	}
	m->limits.memory_max = m->limits.memlock = UINT64_MAX;
	m->limits.seccomp = 0;
	snprintf(m->limits.shmem_thp, sizeof(m->limits.shmem_thp), "advise");
	snprintf(m->limits.thp, sizeof(m->limits.thp), "madvise");
	return m;
}

static inline void fix_memory(struct machine *m, uint32_t i, uint64_t bytes)
{
	struct mach_node *n = &m->nodes[i];

	n->memory_bytes = bytes;
	snprintf(n->memory_where, sizeof(n->memory_where), "/sys/devices/system/node/node%d/meminfo", n->id.os);
}

static inline void fix_distance(struct machine *m, uint32_t a, uint32_t b, uint32_t d)
{
	m->nodes[a].distance[b] = m->nodes[b].distance[a] = d;
}

/* The same number of cores on each node listed in `on` (indexes); numbered as on servers: first all first threads of all cores,
 * then all second ones. `l3` cores share a cache. */
static inline void fix_cpus(struct machine *m, const uint32_t *on, uint32_t non, uint32_t cores, uint32_t smt,
			    uint32_t l3)
{
	uint32_t all = non * cores;

	m->ncpus = all * smt;
	m->cpus = mem_calloc(m->ncpus ? m->ncpus : 1, sizeof(*m->cpus));
	for (uint32_t i = 0; i < m->ncpus; i++) {
		struct mach_cpu *c = &m->cpus[i];
		struct mach_node *n = &m->nodes[on[i % all / cores]];

		c->os = i;
		c->core = i % all;
		c->l3 = c->core / l3;
		c->package = n->package;
		c->node = n->id;
		c->allowed = true;
		cpus_add(&n->cpus, i);
		cpus_add(&n->all_cpus, i);
	}
}

static inline void fix_huge(struct machine *m, uint32_t i, uint64_t page, uint64_t total, uint64_t free)
{
	struct mach_node *n = &m->nodes[i];

	n->huge[n->nhuge++] =
		(struct mach_hugepages){.page_bytes = page, .total = total, .free = free, .surplus = 0, .known = true};
}

static inline struct mach_device *fix_device(struct machine *m, enum mach_device_kind kind, const char *name,
					     const char *pci, node_id node)
{
	struct mach_device *d;

	m->devices = mem_realloc(m->devices, (m->ndevices + 1) * sizeof(*m->devices));
	d = &m->devices[m->ndevices++];
	memset(d, 0, sizeof(*d));
	d->kind = kind;
	d->root_complex = UINT32_MAX;
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->pci, sizeof(d->pci), "%s", pci);
	d->node = node;
	d->confidence = node_known(node) ? CONF_CERTAIN : CONF_UNKNOWN;
	d->nfacts = 1;
	d->fact[0].source = FACT_SYSFS;
	d->fact[0].node = node;
	snprintf(d->fact[0].where, sizeof(d->fact[0].where), "/sys/bus/pci/devices/%s/numa_node", d->pci);
	return d;
}

/* Devices name0, name1, ... with addresses of their own, `per_node` on each node listed. */
static inline void fix_devices(struct machine *m, enum mach_device_kind kind, const char *name, const uint32_t *on,
			       uint32_t non, uint32_t per_node)
{
	for (uint32_t i = 0; i < non * per_node; i++) {
		char label[32], pci[16];

		snprintf(label, sizeof(label), "%s%u", name, i);
		snprintf(pci, sizeof(pci), "0000:%02x:00.0", (m->ndevices + 1) & 0xff);
		fix_device(m, kind, label, pci, m->nodes[on[i / per_node]].id);
	}
}

/* Two sockets of 32 cores, 512 GiB each, 8 GPUs, 8 RDMA NICs, 8 drives: the usual inference server. */
static inline struct machine *fix_8gpu(void)
{
	static const uint32_t both[] = {0, 1};
	struct machine *m = fix_machine(2);

	fix_memory(m, 0, 512 * FIX_GIB);
	fix_memory(m, 1, 512 * FIX_GIB);
	fix_cpus(m, both, 2, 32, 2, 8);
	for (uint32_t i = 0; i < 2; i++) {
		fix_huge(m, i, 2 * FIX_MIB, 0, 0);
		fix_huge(m, i, FIX_GIB, 0, 0);
	}
	fix_devices(m, DEV_GPU, "gpu", both, 2, 4);
	fix_devices(m, DEV_RDMA, "mlx5_", both, 2, 4);
	fix_devices(m, DEV_NVME, "nvme", both, 2, 4);
	return m;
}

/* A desktop or a VM: one node. */
static inline struct machine *fix_one_node(void)
{
	static const uint32_t only[] = {0};
	struct machine *m = fix_machine(1);

	fix_memory(m, 0, 32 * FIX_GIB);
	fix_cpus(m, only, 1, 8, 2, 8);
	fix_huge(m, 0, 2 * FIX_MIB, 0, 0);
	fix_devices(m, DEV_NVME, "nvme0n", only, 1, 1);
	return m;
}

/* One node with CPUs and memory, and eight of a GPU's memory: what Grace Hopper with MIG shows. */
static inline struct machine *fix_gh200(void)
{
	static const uint32_t grace[] = {0};
	struct machine *m = fix_machine(9);

	fix_memory(m, 0, 480 * FIX_GIB);
	fix_cpus(m, grace, 1, 72, 1, 72);
	fix_huge(m, 0, 2 * FIX_MIB, 0, 0);
	for (uint32_t i = 1; i < 9; i++) {
		m->nodes[i].kind = NODE_GPU_MEMORY;
		fix_memory(m, i, i == 1 ? 96 * FIX_GIB : 0);
		m->nodes[i].package = UINT32_MAX;
		for (uint32_t k = 0; k < 9; k++)
			fix_distance(m, i, k, i == k ? 10 : k == 0 ? 80 : 255);
	}
	fix_devices(m, DEV_GPU, "gpu", grace, 1, 1);
	fix_devices(m, DEV_RDMA, "mlx5_", grace, 1, 2);
	return m;
}

/* Two sockets in NPS4: eight nodes of 8 cores, NICs on the odd ones. */
static inline struct machine *fix_epyc(void)
{
	static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7}, odd[] = {1, 3, 5, 7};
	struct machine *m = fix_machine(8);

	for (uint32_t i = 0; i < 8; i++) {
		fix_memory(m, i, 96 * FIX_GIB);
		fix_huge(m, i, 2 * FIX_MIB, 0, 0);
		for (uint32_t k = 0; k < 8; k++)
			fix_distance(m, i, k, i == k ? 10 : i / 4 == k / 4 ? 12 : 32);
	}
	fix_cpus(m, all, 8, 8, 2, 4);
	fix_devices(m, DEV_RDMA, "mlx5_", odd, 4, 1);
	return m;
}

#endif
