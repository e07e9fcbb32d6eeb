#include "numa/topo.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <hwloc.h>
#include <string.h>

struct topo {
	hwloc_topology_t hw;
	uint32_t nnodes, ncpus;
	struct topo_node node[TOPO_MAX_NODES];
	hwloc_obj_t obj[TOPO_MAX_NODES];
};

static void read_nodes(struct topo *t)
{
	hwloc_obj_t o = NULL;

	while (t->nnodes < TOPO_MAX_NODES && (o = hwloc_get_next_obj_by_type(t->hw, HWLOC_OBJ_NUMANODE, o))) {
		struct topo_node *n = &t->node[t->nnodes];

		n->os_index = (int)o->os_index;
		n->memory_bytes = o->attr->numanode.local_memory;
		n->ncpus = o->cpuset ? (uint32_t)hwloc_bitmap_weight(o->cpuset) : 0;
		t->obj[t->nnodes++] = o;
	}
	t->ncpus = (uint32_t)hwloc_get_nbobjs_by_type(t->hw, HWLOC_OBJ_PU);
}

int topo_create(struct topo **out, struct why *why)
{
	struct topo *t = mem_calloc(1, sizeof(*t));

	if (!t)
		return why_set(why, -ENOMEM, "topology: out of memory");
	if (hwloc_topology_init(&t->hw) != 0) {
		mem_free(t);
		return why_set(why, -ENOMEM, "hwloc_topology_init failed");
	}
	if (hwloc_topology_load(t->hw) != 0) {
		hwloc_topology_destroy(t->hw);
		mem_free(t);
		return why_set(why, -EIO, "hwloc cannot read this machine's topology");
	}
	read_nodes(t);
	*out = t;
	return 0;
}

void topo_destroy(struct topo *t)
{
	if (!t)
		return;
	hwloc_topology_destroy(t->hw);
	mem_free(t);
}

uint32_t topo_nnodes(const struct topo *t)
{
	return t->nnodes;
}

const struct topo_node *topo_node(const struct topo *t, uint32_t i)
{
	check(i < t->nnodes);
	return &t->node[i];
}

uint32_t topo_ncpus(const struct topo *t)
{
	return t->ncpus;
}

int topo_pin_self(const struct topo *t, uint32_t i)
{
	if (i >= t->nnodes || t->node[i].ncpus == 0)
		return -EINVAL;
	/* hwloc pretends success on a topology that is not this machine's. */
	if (!hwloc_topology_is_thissystem(t->hw))
		return -EXDEV;
	return hwloc_set_cpubind(t->hw, t->obj[i]->cpuset, HWLOC_CPUBIND_THREAD) == 0 ? 0 : -errno;
}
