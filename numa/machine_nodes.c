/* Nodes, their memory and CPUs. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODE_DIR "/sys/devices/system/node"

/* Node sets use the CPU set's type: the same lists, and NODE_MAX is smaller. */
static bool read_list(struct facts *f, const char *path, struct cpu_set *out)
{
	char text[8192];

	*out = (struct cpu_set){0};
	return facts_read(f, text, sizeof(text), "%s", path) >= 0 && cpus_parse(text, out) == 0;
}

static void set_of_bitmap(hwloc_const_bitmap_t map, struct cpu_set *out)
{
	int i;

	*out = (struct cpu_set){0};
	if (!map)
		return;
	for (i = hwloc_bitmap_first(map); i >= 0 && i < (int)CPU_MAX; i = hwloc_bitmap_next(map, i))
		cpus_add(out, (uint32_t)i);
}

/* "Cpus_allowed_list:\t0-3" of /proc/self/status. */
static bool status_list(struct facts *f, const char *key, struct cpu_set *out)
{
	char *text = facts_text(f, "/proc/self/status"), *at = text ? strstr(text, key) : NULL;
	bool ok = false;

	*out = (struct cpu_set){0};
	if (at) {
		at += strlen(key);
		at += strspn(at, ": \t");
		at[strcspn(at, "\n")] = '\0';
		ok = cpus_parse(at, out) == 0;
	}
	mem_free(text);
	return ok;
}

static hwloc_obj_t hwloc_node(struct build *b, uint32_t os)
{
	return hwloc_get_numanode_obj_by_os_index(b->hw, os);
}

static int list_nodes(struct build *b)
{
	struct cpu_set ids, seen;
	hwloc_obj_t o = NULL;
	uint32_t n = 0;

	read_list(b->facts, NODE_DIR "/online", &ids);
	seen = (struct cpu_set){0};
	for (uint32_t i = 0; i < NODE_MAX; i++) {
		if (cpus_has(&ids, i))
			cpus_add(&seen, i);
	}
	/* hwloc leaves out nodes that it takes for a GPU's; sysfs has them all. */
	while ((o = hwloc_get_next_obj_by_type(b->hw, HWLOC_OBJ_NUMANODE, o))) {
		if (o->os_index < NODE_MAX)
			cpus_add(&seen, o->os_index);
	}
	b->m->nodes = mem_calloc(cpus_count(&seen) + 1, sizeof(*b->m->nodes));
	if (!b->m->nodes)
		return -ENOMEM;
	for (int i = cpus_next(&seen, 0); i >= 0; i = cpus_next(&seen, (uint32_t)i + 1)) {
		struct mach_node *node = &b->m->nodes[n++];

		node->id = node_of(i);
		node->package = UINT32_MAX;
		node->distance = mem_calloc(cpus_count(&seen), sizeof(*node->distance));
		b->m->nnodes = n;
		if (!node->distance)
			return -ENOMEM;
	}
	return 0;
}

/* "Node 0 MemTotal:   24684084 kB" */
static bool meminfo(const char *text, const char *key, uint64_t *out)
{
	const char *at = strstr(text, key);
	char *end;
	uint64_t kb;

	if (!at)
		return false;
	at += strlen(key);
	kb = strtoull(at, &end, 10);
	if (end == at || kb > UINT64_MAX >> 10)
		return false;
	*out = kb << 10;
	return true;
}

static void read_memory(struct build *b, struct mach_node *n)
{
	hwloc_obj_t o = hwloc_node(b, (uint32_t)n->id.os);
	char *text = facts_text(b->facts, NODE_DIR "/node%d/meminfo", n->id.os);

	if (text && meminfo(text, "MemTotal:", &n->memory_bytes)) {
		meminfo(text, "MemFree:", &n->free_bytes);
		snprintf(n->memory_where, sizeof(n->memory_where), NODE_DIR "/node%d/meminfo", n->id.os);
	} else if (o) {
		n->memory_bytes = o->attr->numanode.local_memory;
		snprintf(n->memory_where, sizeof(n->memory_where), "hwloc NUMANode P#%d", n->id.os);
	}
	mem_free(text);
}

static int by_page(const void *a, const void *b)
{
	const struct mach_hugepages *x = a, *y = b;

	return (x->page_bytes > y->page_bytes) - (x->page_bytes < y->page_bytes);
}

static void read_hugepages(struct build *b, struct mach_node *n)
{
	struct facts_dir d;

	if (facts_list(b->facts, &d, NODE_DIR "/node%d/hugepages", n->id.os))
		return;
	for (uint32_t i = 0; i < d.n && n->nhuge < MACH_PAGE_SIZES; i++) {
		struct mach_hugepages *h = &n->huge[n->nhuge];
		unsigned long long kb;
		int len = 0;

		if (sscanf(d.names[i], "hugepages-%15llukB%n", &kb, &len) != 1 || d.names[i][len] || kb == 0 ||
		    kb > 1ull << 40)
			continue;
		n->nhuge++;
		h->page_bytes = (uint64_t)kb << 10;
		h->known = facts_u64(b->facts, &h->total, NODE_DIR "/node%d/hugepages/%s/nr_hugepages", n->id.os,
				     d.names[i]) == 0 &&
			   facts_u64(b->facts, &h->free, NODE_DIR "/node%d/hugepages/%s/free_hugepages", n->id.os,
				     d.names[i]) == 0;
		if (facts_u64(b->facts, &h->surplus, NODE_DIR "/node%d/hugepages/%s/surplus_hugepages", n->id.os,
			      d.names[i]))
			h->surplus = 0;
	}
	facts_dir_free(&d);
	qsort(n->huge, n->nhuge, sizeof(n->huge[0]), by_page);
}

/* "10 21 31": one number per online node, in their order. */
static bool sysfs_distances(struct build *b, struct mach_node *n, const struct cpu_set *online)
{
	char text[8192], *at = text, *end;

	if (facts_read(b->facts, text, sizeof(text), NODE_DIR "/node%d/distance", n->id.os) < 0)
		return false;
	for (int os = cpus_next(online, 0); os >= 0; os = cpus_next(online, (uint32_t)os + 1)) {
		unsigned long v = strtoul(at, &end, 10);
		uint32_t i = machine_node_index(b->m, node_of(os));

		if (end == at || v > 255)
			return false;
		if (i < b->m->nnodes)
			n->distance[i] = (uint32_t)v;
		at = end;
	}
	return true;
}

static void hwloc_distances(struct build *b)
{
	struct hwloc_distances_s *d = NULL;
	unsigned n = 1;

	if (hwloc_distances_get_by_name(b->hw, "NUMALatency", &n, &d, 0) || n == 0 || !d)
		return;
	for (unsigned i = 0; i < d->nbobjs * d->nbobjs; i++) {
		hwloc_obj_t from = d->objs[i / d->nbobjs], to = d->objs[i % d->nbobjs];
		uint32_t a, z;

		if (!from || !to || from->os_index >= NODE_MAX || to->os_index >= NODE_MAX || d->values[i] > 255)
			continue;
		a = machine_node_index(b->m, node_of((int)from->os_index));
		z = machine_node_index(b->m, node_of((int)to->os_index));
		if (a < b->m->nnodes && z < b->m->nnodes)
			b->m->nodes[a].distance[z] = (uint32_t)d->values[i];
	}
	hwloc_distances_release(b->hw, d);
}

static void read_distances(struct build *b)
{
	struct cpu_set online;
	bool all = read_list(b->facts, NODE_DIR "/online", &online);

	for (uint32_t i = 0; all && i < b->m->nnodes; i++)
		all = sysfs_distances(b, &b->m->nodes[i], &online);
	if (all)
		return;
	for (uint32_t i = 0; i < b->m->nnodes; i++)
		memset(b->m->nodes[i].distance, 0, b->m->nnodes * sizeof(uint32_t));
	hwloc_distances(b);
}

/* hwloc gives a node without CPUs those near to it: of nodes with the same CPUs only the first has them. */
static void hwloc_cpus_of_node(struct build *b, struct mach_node *n)
{
	hwloc_obj_t o = hwloc_node(b, (uint32_t)n->id.os);

	if (!o || !o->cpuset || n->kind == NODE_GPU_MEMORY || n->kind == NODE_SLOW)
		return;
	for (const struct mach_node *k = b->m->nodes; k < n; k++) {
		hwloc_obj_t other = hwloc_node(b, (uint32_t)k->id.os);

		if (other && other->cpuset && hwloc_bitmap_intersects(other->cpuset, o->cpuset) &&
		    cpus_count(&k->all_cpus))
			return;
	}
	set_of_bitmap(o->cpuset, &n->all_cpus);
}

static void read_node_cpus(struct build *b, const struct cpu_set *online)
{
	for (uint32_t i = 0; i < b->m->nnodes; i++) {
		struct mach_node *n = &b->m->nodes[i];
		char path[96];

		snprintf(path, sizeof(path), NODE_DIR "/node%d/cpulist", n->id.os);
		if (!read_list(b->facts, path, &n->all_cpus))
			hwloc_cpus_of_node(b, n);
		cpus_and(&n->all_cpus, online);
	}
}

static uint32_t ancestor(struct build *b, hwloc_obj_t pu, hwloc_obj_type_t type)
{
	hwloc_obj_t o = hwloc_get_ancestor_obj_by_type(b->hw, type, pu);

	return o ? o->logical_index : UINT32_MAX;
}

static int by_os(const void *a, const void *b)
{
	const struct mach_cpu *x = a, *y = b;

	return (x->os > y->os) - (x->os < y->os);
}

static int list_cpus(struct build *b, struct cpu_set *online)
{
	int n = hwloc_get_nbobjs_by_type(b->hw, HWLOC_OBJ_PU);
	hwloc_obj_t o = NULL;

	*online = (struct cpu_set){0};
	b->m->cpus = mem_calloc((size_t)(n > 0 ? n : 0) + 1, sizeof(*b->m->cpus));
	if (!b->m->cpus)
		return -ENOMEM;
	while ((o = hwloc_get_next_obj_by_type(b->hw, HWLOC_OBJ_PU, o))) {
		struct mach_cpu *c = &b->m->cpus[b->m->ncpus];

		if (o->os_index >= CPU_MAX || cpus_has(online, o->os_index))
			continue;
		cpus_add(online, o->os_index);
		c->os = o->os_index;
		c->core = ancestor(b, o, HWLOC_OBJ_CORE);
		if (c->core == UINT32_MAX)
			c->core = o->logical_index;
		c->l3 = ancestor(b, o, HWLOC_OBJ_L3CACHE);
		c->package = ancestor(b, o, HWLOC_OBJ_PACKAGE);
		c->node = NODE_UNKNOWN;
		b->m->ncpus++;
	}
	qsort(b->m->cpus, b->m->ncpus, sizeof(*b->m->cpus), by_os);
	return 0;
}

static void read_offline(struct build *b, const struct cpu_set *online)
{
	struct cpu_set *off = &b->m->offline_cpus, present;

	if (read_list(b->facts, "/sys/devices/system/cpu/present", &present))
		*off = present;
	else
		set_of_bitmap(hwloc_topology_get_complete_cpuset(b->hw), off);
	for (uint32_t i = 0; i < CPU_MAX / 64; i++)
		off->w[i] &= ~online->w[i];
}

static void read_allowed(struct build *b)
{
	struct cpu_set cpus, mems, isolated;

	if (!status_list(b->facts, "Cpus_allowed_list", &cpus))
		set_of_bitmap(hwloc_topology_get_allowed_cpuset(b->hw), &cpus);
	if (!status_list(b->facts, "Mems_allowed_list", &mems))
		set_of_bitmap(hwloc_topology_get_allowed_nodeset(b->hw), &mems);
	read_list(b->facts, "/sys/devices/system/cpu/isolated", &isolated);
	for (uint32_t i = 0; i < b->m->ncpus; i++) {
		struct mach_cpu *c = &b->m->cpus[i];

		c->allowed = cpus_has(&cpus, c->os);
		c->isolated = cpus_has(&isolated, c->os);
		for (uint32_t k = 0; k < b->m->nnodes; k++) {
			struct mach_node *n = &b->m->nodes[k];

			if (!cpus_has(&n->all_cpus, c->os))
				continue;
			c->node = n->id;
			if (n->package == UINT32_MAX)
				n->package = c->package;
			if (c->allowed)
				cpus_add(&n->cpus, c->os);
		}
	}
	for (uint32_t k = 0; k < b->m->nnodes; k++) {
		struct mach_node *n = &b->m->nodes[k];
		hwloc_obj_t o = hwloc_node(b, (uint32_t)n->id.os);

		n->allowed = cpus_has(&mems, (uint32_t)n->id.os);
		if (n->package == UINT32_MAX && o)
			n->package = ancestor(b, o, HWLOC_OBJ_PACKAGE);
	}
}

int build_nodes(struct build *b)
{
	struct cpu_set online;
	int r = list_nodes(b);

	if (r == 0)
		r = list_cpus(b, &online);
	if (r)
		return r;
	for (uint32_t i = 0; i < b->m->nnodes; i++) {
		read_memory(b, &b->m->nodes[i]);
		read_hugepages(b, &b->m->nodes[i]);
	}
	read_distances(b);
	build_kinds(b);
	read_node_cpus(b, &online);
	read_offline(b, &online);
	read_allowed(b);
	return facts_oom(b->facts) ? -ENOMEM : 0;
}
