/* plan_share.c - which nodes may carry pools, and in what proportion the policy wants them to. */
#include "numa/plan_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_nic(const struct mach_device *d)
{
	return d->kind == DEV_NIC || d->kind == DEV_RDMA;
}

static bool is_gpu(const struct mach_device *d)
{
	return d->kind == DEV_GPU;
}

static bool is_io(const struct mach_device *d)
{
	return d->kind != DEV_GPU;
}

/* An adapter shows as an RDMA device and as a network device, with one address. */
static bool counted_before(const struct machine *m, uint32_t i, bool (*match)(const struct mach_device *))
{
	const struct mach_device *d = &m->devices[i];

	for (uint32_t k = 0; d->pci[0] && k < i; k++) {
		if (match(&m->devices[k]) && strcmp(m->devices[k].pci, d->pci) == 0)
			return true;
	}
	return false;
}

/* Weighs each candidate by the devices on it, or nearest to it. The number of devices that found one. */
static uint32_t weigh_devices(struct planner *pl, struct share *s, uint32_t n, const uint32_t *nodes,
			      bool (*match)(const struct mach_device *))
{
	uint32_t total = 0;

	for (uint32_t i = 0; i < pl->m->ndevices; i++) {
		const struct mach_device *d = &pl->m->devices[i];
		uint32_t from, to;

		if (!match(d) || counted_before(pl->m, i, match))
			continue;
		from = plan_node_of(pl->m, d);
		to = plan_nearest(pl->m, from, nodes, n);
		if (from != NO_INDEX && to == NO_INDEX)
			pl->no_distance = true;
		for (uint32_t k = 0; k < n && to != NO_INDEX; k++) {
			if (s[k].node != to)
				continue;
			s[k].weight++;
			s[k].here++;
			if (!s[k].first)
				s[k].first = d;
			total++;
		}
	}
	pl->counted = total;
	return total;
}

static uint64_t weigh_memory(const struct planner *pl, struct share *s, uint32_t n, bool with_cpus)
{
	uint64_t total = 0;

	for (uint32_t k = 0; k < n; k++) {
		const struct mach_node *node = &pl->m->nodes[s[k].node];

		if (with_cpus && cpus_count(&node->cpus) == 0)
			continue;
		s[k].weight = node->memory_bytes / SHM_UNIT;
		total += s[k].weight;
	}
	return total;
}

static void weigh_even(struct share *s, uint32_t n)
{
	for (uint32_t k = 0; k < n; k++)
		s[k].weight = 1;
}

static void weigh_local(struct planner *pl, struct share *s, uint32_t n, const uint32_t *nodes)
{
	pl->basis = BY_GPUS;
	if (weigh_devices(pl, s, n, nodes, is_gpu))
		return;
	pl->basis = BY_DEVICES;
	if (weigh_devices(pl, s, n, nodes, is_io))
		return;
	pl->basis = BY_MEMORY;
	if (!weigh_memory(pl, s, n, true) && !weigh_memory(pl, s, n, false))
		weigh_even(s, n);
}

static void weigh_spread(struct planner *pl, struct share *s, uint32_t n, const uint32_t *nodes)
{
	if (weigh_devices(pl, s, n, nodes, is_nic)) {
		pl->basis = BY_NICS;
		for (uint32_t k = 0; k < n; k++)
			s[k].weight = s[k].weight > 0;
		return;
	}
	pl->basis = BY_EVEN;
	weigh_even(s, n);
}

/* The sum of the distances to all devices; a GPU counts as much as four others, for it moves the most. Without distances only
 * devices on the node itself tell; without devices, nodes with CPUs come first. */
static uint64_t nearness(const struct machine *m, uint32_t node)
{
	uint64_t sum = 0;
	bool any = false;

	for (uint32_t i = 0; i < m->ndevices; i++) {
		uint32_t from = plan_node_of(m, &m->devices[i]), d;

		if (from == NO_INDEX)
			continue;
		any = true;
		d = plan_distance(m, from, node);
		if (!d)
			d = from == node ? 10 : 255;
		sum += (uint64_t)d * (is_gpu(&m->devices[i]) ? 4 : 1);
	}
	return any ? sum : cpus_count(&m->nodes[node].cpus) == 0;
}

static void weigh_pack(struct planner *pl, struct share *s, uint32_t n, const uint32_t *nodes)
{
	uint32_t gpus = weigh_devices(pl, s, n, nodes, is_gpu), others = weigh_devices(pl, s, n, nodes, is_io);

	pl->basis = BY_NEARNESS;
	pl->counted = gpus + others;
	for (uint32_t k = 0; k < n; k++) {
		s[k].weight = 1;
		s[k].order = nearness(pl->m, s[k].node);
	}
}

static int weigh_manual(struct planner *pl, struct share *s, uint32_t *n)
{
	const struct plan_conf *c = &pl->p->conf;

	pl->basis = BY_HAND;
	*n = c->nmanual;
	for (uint32_t k = 0; k < *n; k++) {
		uint32_t at = machine_node_index(pl->m, c->manual[k].node);

		if (at == NO_INDEX)
			return why_set(pl->why, -EINVAL, "the map names node %d, which this machine does not have",
				       c->manual[k].node.os);
		if (!pl->m->nodes[at].allowed)
			return why_set(pl->why, -EINVAL,
				       "the map names node %d, which our cpuset (cpuset.mems) does not allow; to fix "
				       "it: leave it out of the map, or allow it (systemd: AllowedMemoryNodes=, "
				       "docker: --cpuset-mems)",
				       c->manual[k].node.os);
		if (pl->m->nodes[at].kind == NODE_EMPTY)
			return why_set(pl->why, -EINVAL, "the map names node %d, which has no memory",
				       c->manual[k].node.os);
		s[k].node = at;
		s[k].weight = c->manual[k].bytes ? c->manual[k].bytes / SHM_UNIT : 1;
	}
	return 0;
}

static int by_weight(const void *a, const void *b)
{
	const struct share *x = a, *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return x->node < y->node ? -1 : x->node > y->node;
}

static int by_node(const void *a, const void *b)
{
	const struct share *x = a, *y = b;

	return x->node < y->node ? -1 : x->node > y->node;
}

static int weigh(struct planner *pl, struct share *s, uint32_t *n, const uint32_t *nodes)
{
	switch (pl->p->conf.policy) {
	case PLAN_SPREAD:
		weigh_spread(pl, s, *n, nodes);
		return 0;
	case PLAN_PACK:
		weigh_pack(pl, s, *n, nodes);
		return 0;
	case PLAN_MANUAL:
		return weigh_manual(pl, s, n);
	default:
		weigh_local(pl, s, *n, nodes);
		return 0;
	}
}

static uint32_t candidates(const struct machine *m, struct share *s, uint32_t *nodes)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (m->nodes[i].kind != NODE_DRAM || !m->nodes[i].allowed)
			continue;
		s[n].node = nodes[n] = i;
		n++;
	}
	return n;
}

static bool no_memory_known(const struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (m->nodes[i].memory_bytes)
			return false;
	}
	return true;
}

/* The arena has room for so many ranges: the heaviest stay. */
static void keep(struct planner *pl, struct share *s, uint32_t n)
{
	qsort(s, n, sizeof(*s), by_weight);
	pl->nshares = n < ARENA_MAX_RANGES ? n : ARENA_MAX_RANGES;
	memcpy(pl->share, s, pl->nshares * sizeof(*s));
	qsort(pl->share, pl->nshares, sizeof(*s), by_node);
}

int plan_shares(struct planner *pl)
{
	/* A manual map may be longer than the machine has nodes; it is refused for that below, not by its length. */
	uint32_t room = (pl->m->nnodes > ARENA_MAX_RANGES ? pl->m->nnodes : ARENA_MAX_RANGES) + 1, n;
	struct share *s = mem_calloc(room, sizeof(*s));
	uint32_t *nodes = mem_calloc(room, sizeof(*nodes));
	int rc = -ENOMEM;

	if (s && nodes) {
		n = candidates(pl->m, s, nodes);
		pl->blind = no_memory_known(pl->m);
		pl->unbound = pl->p->conf.numa == WANT_NO || pl->m->nnodes <= 1 || pl->blind;
		rc = weigh(pl, s, &n, nodes);
		if (!rc)
			keep(pl, s, n);
	} else {
		why_set(pl->why, rc, "out of memory for a plan");
	}
	mem_free(s);
	mem_free(nodes);
	return rc;
}
