/* What kind of memory a node has. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODE_DIR "/sys/devices/system/node"
#define TIERS    "/sys/devices/virtual/memory_tiering"

static void mark(struct build *b, unsigned long os, enum mach_node_kind kind)
{
	uint32_t i = os < NODE_MAX ? machine_node_index(b->m, node_of((int)os)) : UINT32_MAX;

	if (i < b->m->nnodes && (b->m->nodes[i].kind == NODE_DRAM || kind == NODE_GPU_MEMORY))
		b->m->nodes[i].kind = kind;
}

static bool has_cpus(struct build *b, const struct mach_node *n)
{
	char text[8192];

	return facts_read(b->facts, text, sizeof(text), NODE_DIR "/node%d/cpulist", n->id.os) > 0;
}

/* The driver of NVIDIA says which node a GPU's memory is: "Node: 1". */
static void gpu_memory(struct build *b)
{
	struct facts_dir d;
	char text[1024], *at;

	if (facts_list(b->facts, &d, "/proc/driver/nvidia/gpus"))
		return;
	for (uint32_t i = 0; i < d.n; i++) {
		char *end;
		unsigned long os;

		if (facts_read(b->facts, text, sizeof(text), "/proc/driver/nvidia/gpus/%s/numa_status", d.names[i]) < 0)
			continue;
		at = strstr(text, "Node:");
		if (!at)
			continue;
		at += 5;
		os = strtoul(at, &end, 10);
		if (end != at && at[strspn(at, " \t")] != '-')
			mark(b, os, NODE_GPU_MEMORY);
	}
	facts_dir_free(&d);
}

static bool one_of(const char *text, const char *const *words, size_t n)
{
	for (size_t i = 0; text && i < n; i++) {
		if (strcmp(text, words[i]) == 0)
			return true;
	}
	return false;
}

static void hwloc_kinds(struct build *b)
{
	static const char *const slow[] = {"NVM", "NVDIMM", "CXL-DRAM", "CXL-NVM", "CXLMemory", "PMEM"};
	hwloc_obj_t o = NULL;

	while ((o = hwloc_get_next_obj_by_type(b->hw, HWLOC_OBJ_NUMANODE, o))) {
		if (o->subtype && strcmp(o->subtype, "GPUMemory") == 0)
			mark(b, o->os_index, NODE_GPU_MEMORY);
		else if (one_of(o->subtype, slow, sizeof(slow) / sizeof(slow[0])) ||
			 hwloc_obj_get_info_by_name(o, "DAXDevice") || hwloc_obj_get_info_by_name(o, "CXLDevice"))
			mark(b, o->os_index, NODE_SLOW);
	}
}

/* Which tier each node is in, a lower number being faster; false when the kernel has none. */
static bool tiers(struct build *b, uint32_t *tier)
{
	struct facts_dir d;
	bool any = false;

	if (facts_list(b->facts, &d, TIERS))
		return false;
	for (uint32_t i = 0; i < d.n; i++) {
		char list[4096];
		struct cpu_set nodes;
		unsigned t;
		int len = 0;

		if (sscanf(d.names[i], "memory_tier%9u%n", &t, &len) != 1 || d.names[i][len] ||
		    facts_read(b->facts, list, sizeof(list), TIERS "/%s/nodelist", d.names[i]) < 0 ||
		    cpus_parse(list, &nodes))
			continue;
		for (uint32_t k = 0; k < b->m->nnodes; k++) {
			if (cpus_has(&nodes, (uint32_t)b->m->nodes[k].id.os)) {
				tier[k] = t;
				any = true;
			}
		}
	}
	facts_dir_free(&d);
	return any;
}

/* Slower than the slowest memory that has CPUs beside it. */
static bool slow_by_tier(struct build *b)
{
	uint32_t tier[NODE_MAX], base = 0;

	memset(tier, 0xff, sizeof(tier));
	if (!tiers(b, tier))
		return false;
	for (uint32_t k = 0; k < b->m->nnodes; k++) {
		if (tier[k] != UINT32_MAX && tier[k] > base && has_cpus(b, &b->m->nodes[k]))
			base = tier[k];
	}
	for (uint32_t k = 0; base && k < b->m->nnodes; k++) {
		if (tier[k] != UINT32_MAX && tier[k] > base)
			mark(b, (unsigned long)b->m->nodes[k].id.os, NODE_SLOW);
	}
	return base != 0;
}

static void slow_by_dax(struct build *b)
{
	struct facts_dir d;
	uint64_t os;

	if (facts_list(b->facts, &d, "/sys/bus/dax/devices"))
		return;
	for (uint32_t i = 0; i < d.n; i++) {
		if (facts_u64(b->facts, &os, "/sys/bus/dax/devices/%s/target_node", d.names[i]) == 0)
			mark(b, os, NODE_SLOW);
	}
	facts_dir_free(&d);
}

/* MB/s of its best initiator, from the firmware's HMAT; 0 unknown. */
static uint64_t bandwidth(struct build *b, const struct mach_node *n)
{
	uint64_t mbs;

	return facts_u64(b->facts, &mbs, NODE_DIR "/node%d/access0/initiators/read_bandwidth", n->id.os) ? 0 : mbs;
}

/* Without CPUs of its own and with less than half the bandwidth of the memory that has some: not for pools. */
static void slow_by_bandwidth(struct build *b)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t k = 0; k < b->m->nnodes; k++) {
		uint64_t bw = bandwidth(b, &b->m->nodes[k]);

		if (bw && bw < least && has_cpus(b, &b->m->nodes[k]))
			least = bw;
	}
	for (uint32_t k = 0; least != UINT64_MAX && k < b->m->nnodes; k++) {
		uint64_t bw = bandwidth(b, &b->m->nodes[k]);

		if (bw && bw < least / 2 && !has_cpus(b, &b->m->nodes[k]))
			mark(b, (unsigned long)b->m->nodes[k].id.os, NODE_SLOW);
	}
}

void build_kinds(struct build *b)
{
	for (uint32_t i = 0; i < b->m->nnodes; i++) {
		struct mach_node *n = &b->m->nodes[i];

		n->kind = n->memory_where[0] && n->memory_bytes == 0 ? NODE_EMPTY : NODE_DRAM;
	}
	gpu_memory(b);
	hwloc_kinds(b);
	if (!slow_by_tier(b))
		slow_by_dax(b);
	slow_by_bandwidth(b);
}
