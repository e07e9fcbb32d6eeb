/* plan_pools.c - the pools of the chosen layout, each with its reason. */
#include "numa/plan_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

/* Those that count for this node: on it, or nearest to it. */
static void list_gpus(const struct planner *pl, uint32_t node, char *out, size_t cap)
{
	uint32_t nodes[ARENA_MAX_RANGES];

	for (uint32_t i = 0; i < pl->nshares; i++)
		nodes[i] = pl->share[i].node;
	for (uint32_t i = 0; i < pl->m->ndevices; i++) {
		const struct mach_device *d = &pl->m->devices[i];

		if (d->kind == DEV_GPU && plan_nearest(pl->m, plan_node_of(pl->m, d), nodes, pl->nshares) == node)
			plan_more(out, cap, " %s", d->name[0] ? d->name : d->pci);
	}
}

static uint32_t weighted(const struct planner *pl)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < pl->nshares; i++)
		n += pl->share[i].weight > 0;
	return n;
}

static void reason_by_policy(const struct planner *pl, const struct share *s, char *out, size_t cap)
{
	char mine[32];

	switch (pl->basis) {
	case BY_GPUS:
		plan_text(out, cap, "local: nearest to %u of %u GPUs:", s->here, pl->counted);
		list_gpus(pl, s->node, out, cap);
		break;
	case BY_DEVICES:
		plan_text(out, cap, "local: no GPU's node is known; nearest to %u of %u NICs and drives", s->here,
			  pl->counted);
		break;
	case BY_MEMORY:
		plan_text(out, cap, "local: no device's node is known; in proportion to memory, %s here",
			  plan_bytes(pl->m->nodes[s->node].memory_bytes, mine));
		break;
	case BY_NICS:
		plan_text(out, cap, "spread: even over the %u node%s with NICs (%u here)", weighted(pl),
			  weighted(pl) == 1 ? "" : "s", s->here);
		break;
	case BY_EVEN:
		plan_text(out, cap, "spread: no NIC's node is known; even over %u nodes", weighted(pl));
		break;
	case BY_NEARNESS:
		plan_text(out, cap, "pack: filled in order of nearness to the %u devices", pl->counted);
		break;
	default:
		plan_text(out, cap, "manual: named by hand");
	}
}

static void reason(const struct planner *pl, uint32_t i, char *out, size_t cap)
{
	const struct layout *l = &pl->chosen;
	const struct share *s = &pl->share[i];
	char amount[32];
	uint32_t donor = l->donor[i];

	out[0] = 0;
	if (l->want[i])
		reason_by_policy(pl, s, out, cap);
	if (donor == NO_INDEX || pl->basis == BY_NEARNESS)
		return;
	plan_more(out, cap, "%stakes %s that did not fit on node %d", out[0] ? "; " : "",
		  plan_bytes((l->got[i] - (l->want[i] < l->cap[i] ? l->want[i] : l->cap[i])) * l->kind.unit, amount),
		  pl->m->nodes[pl->share[donor].node].id.os);
}

static void capacity_source(const struct planner *pl, uint32_t node, char *out, size_t cap)
{
	const struct mach_node *n = &pl->m->nodes[node];

	if (pl->chosen.kind.backing == BACK_HUGETLB)
		plan_more(out, cap, "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/free_hugepages",
			  n->id.os, (unsigned long long)(pl->chosen.kind.page / 1024));
	else if (n->memory_where[0])
		plan_more(out, cap, "%s", n->memory_where);
	else
		plan_more(out, cap, "memory of node %d as the machine states it", n->id.os);
}

static void source(const struct planner *pl, uint32_t i, char *out, size_t cap)
{
	const struct share *s = &pl->share[i];

	out[0] = 0;
	if (s->first && pl->chosen.want[i] && pl->basis != BY_NEARNESS) {
		plan_device_source(s->first, out, cap);
		plan_more(out, cap, "; ");
	} else if (pl->basis == BY_HAND) {
		plan_text(out, cap, "the map of nodes; ");
	}
	capacity_source(pl, s->node, out, cap);
}

static struct plan_pool *add_pool(struct planner *pl, node_id node, uint64_t units)
{
	const struct kind *k = &pl->chosen.kind;
	struct plan_pool *pools = plan_grow(pl, pl->p->pools, &pl->p->npools, sizeof(*pools)), *pool;

	if (!pools)
		return NULL;
	pl->p->pools = pools;
	pool = &pools[pl->p->npools - 1];
	pool->node = node;
	pool->backing = k->backing;
	pool->page_bytes = k->page;
	pool->bytes = units * k->unit;
	if (k->backing == BACK_HUGETLB)
		pool->pages = units;
	return pool;
}

static void one_pool(struct planner *pl)
{
	const struct layout *l = &pl->chosen;
	struct plan_pool *pool = l->placed ? add_pool(pl, NODE_UNKNOWN, l->placed) : NULL;
	struct plan_line *line;

	if (!pool)
		return;
	for (uint32_t i = 0; i < pl->nshares && l->kind.backing == BACK_HUGETLB; i++)
		pool->pages_free += l->cap[i];
	line = &pool->line;
	if (pl->p->conf.numa == WANT_NO)
		plan_text(line->reason, sizeof(line->reason),
			  "numa=no: not bound, the kernel takes memory of any node");
	else if (pl->m->nnodes == 1)
		plan_text(line->reason, sizeof(line->reason), "the machine has one node: there is nothing to bind to");
	else
		plan_text(line->reason, sizeof(line->reason), "no node's memory is known: not bound");
	if (pl->nshares && !pl->blind)
		capacity_source(pl, pl->share[0].node, line->source, sizeof(line->source));
	else
		plan_text(line->source, sizeof(line->source), "%s", pl->m->source[0] ? pl->m->source : "the machine");
}

int plan_pools(struct planner *pl)
{
	const struct layout *l = &pl->chosen;

	pl->p->shortage_bytes = (l->asked - l->placed) * l->kind.unit;
	if (pl->unbound)
		one_pool(pl);
	for (uint32_t i = 0; i < pl->nshares && !pl->unbound; i++) {
		struct plan_pool *pool = l->got[i] ? add_pool(pl, pl->m->nodes[pl->share[i].node].id, l->got[i]) : NULL;

		if (!pool)
			continue;
		if (l->kind.backing == BACK_HUGETLB)
			pool->pages_free = l->cap[i];
		reason(pl, i, pool->line.reason, sizeof(pool->line.reason));
		source(pl, i, pool->line.source, sizeof(pool->line.source));
	}
	return pl->out_of_memory ? -ENOMEM : 0;
}
