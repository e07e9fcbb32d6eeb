/* numa_machines.h - machines made by hand, for pictures: from one bare node to eight nodes with sixteen GPUs. */
#ifndef TESTS_UNIT_TOOLS_NUMA_MACHINES_H
#define TESTS_UNIT_TOOLS_NUMA_MACHINES_H

#include "daemon/base/mem.h"
#include "numa/machine.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define GIB (1ull << 30)
#define MIB (1ull << 20)

static struct machine *hand_create(const char *host, uint32_t nodes, uint32_t cpus_per_node, uint64_t memory)
{
	struct machine *m = mem_calloc(1, sizeof(*m));
	m->nnodes = nodes;
	m->ncpus = nodes * cpus_per_node;
	m->nodes = mem_calloc(nodes + 1, sizeof(*m->nodes));
	m->cpus = mem_calloc(m->ncpus + 1, sizeof(*m->cpus));
	m->devices = mem_calloc(65, sizeof(*m->devices));
	snprintf(m->host, sizeof(m->host), "%s", host);
	snprintf(m->source, sizeof(m->source), "made by hand");
	snprintf(m->kernel, sizeof(m->kernel), "6.8.0");
	m->limits.memory_max = m->limits.memlock = UINT64_MAX;
	for (uint32_t i = 0; i < nodes; i++) {
		struct mach_node *n = &m->nodes[i];
		n->id = node_of((int)i);
		n->allowed = true;
		n->memory_bytes = memory;
		n->free_bytes = memory / 8 * 5;
		n->package = i;
		n->nhuge = 2;
		n->huge[0] = (struct mach_hugepages){2 * MIB, 0, 0, 0, true};
		n->huge[1] = (struct mach_hugepages){GIB, memory / GIB / 4, memory / GIB / 4, 0, true};
		n->distance = mem_calloc(nodes, sizeof(*n->distance));
		for (uint32_t k = 0; k < nodes; k++)
			n->distance[k] = k == i ? 10 : k / 4 == i / 4 ? 12 + 9 * (nodes == 2) : 32;
		snprintf(n->memory_where, sizeof(n->memory_where), "/sys/devices/system/node/node%u/meminfo", i);
		for (uint32_t c = 0; c < cpus_per_node; c++) {
			uint32_t os = i * cpus_per_node + c;
			cpus_add(&n->cpus, os);
			cpus_add(&n->all_cpus, os);
			m->cpus[os] = (struct mach_cpu){os, os, os / 8, i, n->id, true, false};
		}
	}
	return m;
}

static void hand_destroy(struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++)
		mem_free(m->nodes[i].distance);
	mem_free(m->nodes);
	mem_free(m->cpus);
	mem_free(m->devices);
	mem_free(m);
}

static struct mach_device *hand_device(struct machine *m, enum mach_device_kind kind, int node, const char *name,
				       const char *model, const char *bridge)
{
	struct mach_device *d = &m->devices[m->ndevices];
	uint32_t n = m->ndevices++;
	d->kind = kind;
	d->node = node_of(node);
	d->confidence = node < 0 ? CONF_UNKNOWN : CONF_CERTAIN;
	d->root_complex = bridge[0] ? UINT32_MAX : node < 0 ? UINT32_MAX : (uint32_t)node;
	d->bytes = kind == DEV_NVME ? 3840ull * 1000 * 1000 * 1000 : kind == DEV_GPU ? 80 * GIB : 0;
	snprintf(d->pci, sizeof(d->pci), "0000:%02x:00.0", 0x10 + n);
	snprintf(d->name, sizeof(d->name), "%s", name);
	snprintf(d->model, sizeof(d->model), "%s", model);
	snprintf(d->bridge, sizeof(d->bridge), "%s", bridge);
	d->nfacts = 1;
	d->fact[0].source = FACT_SYSFS;
	d->fact[0].node = d->node;
	snprintf(d->fact[0].where, sizeof(d->fact[0].where), "/sys/bus/pci/devices/%s/numa_node", d->pci);
	return d;
}

static struct machine *hand_1node(void)
{
	return hand_create("plain", 1, 8, 32 * GIB);
}

/* Switches with a GPU, an RDMA NIC and an NVMe drive each, as machines of this class are built. */
static struct machine *hand_gpus(const char *host, uint32_t nodes, uint32_t gpus)
{
	struct machine *m = hand_create(host, nodes, 32, 1024 * GIB);
	for (uint32_t i = 0; i < gpus; i++) {
		char name[32], bridge[16];
		int node = (int)(i * nodes / gpus);
		snprintf(bridge, sizeof(bridge), "0000:%02x:01.0", 0x80 + i);
		snprintf(name, sizeof(name), "gpu%u", i);
		hand_device(m, DEV_GPU, node, name, "NVIDIA H100 80GB HBM3", bridge);
		snprintf(name, sizeof(name), "mlx5_%u", i);
		hand_device(m, DEV_RDMA, node, name, "ConnectX-7", bridge);
		snprintf(name, sizeof(name), "nvme%un1", i);
		hand_device(m, DEV_NVME, node, name, "PM1743", bridge);
	}
	hand_device(m, DEV_NIC, 0, "enp129s0f0np0", "BCM57416 NetXtreme-E", "");
	hand_device(m, DEV_NIC, 0, "enp129s0f1np1", "BCM57416 NetXtreme-E", "");
	return m;
}

/* What machines have that pictures are not made for. */
static struct machine *hand_odd(void)
{
	struct machine *m = hand_create("odd-\xc3\xa9\x1b[31m<&\">", 4, 4, 16 * GIB);
	struct mach_device *d = hand_device(m, DEV_NIC, -1, "eth0", "Virtio network device", "");
	hand_device(m, DEV_NVME, -1, "nvme0n1", "", "")->nfacts = 0;
	hand_device(m, DEV_RDMA, -1, "rxe0", "", "")->pci[0] = '\0';
	d = hand_device(m, DEV_GPU, 1, "gpu0",
			"A model name that is much longer than any box is wide, and has <tags> & \"quotes\"",
			"0001:00:01.0");
	snprintf(d->pci, sizeof(d->pci), "10ab:00:01.0");
	hand_device(m, DEV_GPU, 1, "gpu-with-a-very-long-name-of-31", "", "0001:00:01.0")->confidence = CONF_DISPUTED;
	m->nodes[1].kind = NODE_SLOW;
	m->nodes[1].allowed = false;
	m->nodes[1].free_bytes = 0;
	m->nodes[1].nhuge = 0;
	m->nodes[1].package = UINT32_MAX;
	for (uint32_t i = 2; i < 4; i++) {
		m->nodes[i].id = node_of((int)(i * 100));
		m->nodes[i].kind = NODE_EMPTY;
		m->nodes[i].memory_bytes = m->nodes[i].free_bytes = 0;
		memset(&m->nodes[i].cpus, 0, sizeof(struct cpu_set));
		memset(&m->nodes[i].all_cpus, 0, sizeof(struct cpu_set));
	}
	for (uint32_t i = 8; i < m->ncpus; i++)
		m->cpus[i].node = NODE_UNKNOWN;
	memset(m->nodes[0].distance, 0, 4 * sizeof(uint32_t));
	return m;
}

/* Pools and threads over the nodes with CPUs, as a plan would give them. */
#include "tools/numa_view.h"

static void hand_pools(struct numa_view *v)
{
	v->pools = mem_calloc(v->m->nnodes + 1, sizeof(*v->pools));
	v->threads = mem_calloc(v->m->nnodes * 8 + 3, sizeof(*v->threads));
	snprintf(v->title, sizeof(v->title), "plan 'local': L1 by hand");
	for (uint32_t i = 0; i < v->m->nnodes; i++) {
		const struct mach_node *n = &v->m->nodes[i];
		if (!cpus_count(&n->cpus))
			continue;
		v->pools[v->npools] = (struct view_pool){.node = n->id, .bytes = n->memory_bytes / 4, .huge = true};
		snprintf(v->pools[v->npools++].what, sizeof(v->pools[0].what), "1 GiB pages");
		for (uint32_t t = 0; t < 8; t++) {
			struct view_thread *to = &v->threads[v->nthreads++];
			*to = (struct view_thread){.node = n->id, .index = t < 6 ? i * 6 + t : i * 2 + t - 6};
			snprintf(to->role, sizeof(to->role), t < 6 ? "transfer" : "lookup");
		}
	}
	v->threads[v->nthreads] = (struct view_thread){"control", VIEW_NONE, v->m->nodes[0].id};
	v->threads[v->nthreads + 1] = (struct view_thread){"http", VIEW_NONE, v->m->nodes[0].id};
	v->nthreads += 2;
}

#endif
