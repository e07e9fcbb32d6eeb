/* plan_near.c - which node is near, without ever guessing: what no source says has no nearest node. */
#include "numa/plan_int.h"

uint32_t plan_distance(const struct machine *m, uint32_t from, uint32_t to)
{
	if (from >= m->nnodes || to >= m->nnodes || !m->nodes[from].distance)
		return 0;
	return m->nodes[from].distance[to];
}

uint32_t plan_node_of(const struct machine *m, const struct mach_device *d)
{
	return node_known(d->node) ? machine_node_index(m, d->node) : NO_INDEX;
}

uint32_t plan_nearest(const struct machine *m, uint32_t from, const uint32_t *nodes, uint32_t n)
{
	uint32_t best = NO_INDEX, best_distance = 0;

	if (from == NO_INDEX || n == 0)
		return NO_INDEX;
	if (n == 1)
		return nodes[0];
	for (uint32_t i = 0; i < n; i++) {
		uint32_t d = plan_distance(m, from, nodes[i]);

		if (nodes[i] == from)
			return from;
		if (d && (best == NO_INDEX || d < best_distance)) {
			best = nodes[i];
			best_distance = d;
		}
	}
	return best;
}
