/* plan_devices.c - which pool and thread each device works with. */
#include "numa/plan_int.h"

#include "daemon/base/mem.h"

#include <errno.h>

static uint32_t thread_of(const struct plan *p, const struct mach_device *d)
{
	for (uint32_t i = 0; i < p->nthreads; i++) {
		if (p->threads[i].device == d)
			return p->threads[i].index;
	}
	return NO_INDEX;
}

static void choose_pool(const struct planner *pl, const uint32_t *nodes, struct plan_device *pd)
{
	const struct plan *p = pl->p;
	const struct mach_device *d = pd->device;
	uint32_t from = plan_node_of(pl->m, d), to;
	char *reason = pd->line.reason;
	const size_t cap = sizeof(pd->line.reason);

	pd->pool = NO_INDEX;
	if (p->npools == 0) {
		plan_text(reason, cap, "there is no pool: see the shortage");
		return;
	}
	if (p->npools == 1) {
		pd->pool = 0;
		plan_text(reason, cap, "%s", "there is only one pool");
		if (from == NO_INDEX)
			plan_more(reason, cap, "; the device's node is unknown");
		else if (node_known(p->pools[0].node) && nodes[0] != from)
			plan_more(reason, cap, "; on node %d, the device is on node %d", p->pools[0].node.os,
				  d->node.os);
		return;
	}
	to = plan_nearest(pl->m, from, nodes, p->npools);
	if (to == NO_INDEX) {
		plan_text(reason, cap,
			  from == NO_INDEX ? "its node is unknown" : "no distance tells which pool is nearest");
		return;
	}
	for (uint32_t i = 0; i < p->npools; i++) {
		if (nodes[i] == to)
			pd->pool = i;
	}
	if (to == from)
		plan_text(reason, cap, "on node %d, as its pool", d->node.os);
	else
		plan_text(reason, cap, "node %d has no pool; that of node %d is the nearest (distance %u)", d->node.os,
			  pl->m->nodes[to].id.os, plan_distance(pl->m, from, to));
}

int plan_devices(struct planner *pl)
{
	struct plan *p = pl->p;
	uint32_t nodes[ARENA_MAX_RANGES];

	if (pl->m->ndevices == 0)
		return 0;
	p->devices = mem_calloc(pl->m->ndevices, sizeof(*p->devices));
	if (!p->devices)
		return -ENOMEM;
	p->ndevices = pl->m->ndevices;
	for (uint32_t i = 0; i < p->npools; i++)
		nodes[i] = machine_node_index(pl->m, p->pools[i].node);
	for (uint32_t i = 0; i < p->ndevices; i++) {
		struct plan_device *pd = &p->devices[i];

		pd->device = &pl->m->devices[i];
		pd->thread = thread_of(p, pd->device);
		choose_pool(pl, nodes, pd);
		plan_device_source(pd->device, pd->line.source, sizeof(pd->line.source));
	}
	return 0;
}
