/* plan_threads.c - which threads there are and on which node each runs. plan_cores.c gives them their CPUs. */
#include "numa/plan_threads.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define MOST_TRANSFER 64u
#define MOST_LOOKUP   8u
#define MOST_POPULATE 16u

static struct plan_thread *add(struct crew *c, enum plan_role role, uint32_t home)
{
	struct plan *p = c->pl->p;
	struct plan_thread *threads = plan_grow(c->pl, p->threads, &p->nthreads, sizeof(*threads)), *t;

	if (!threads)
		return NULL;
	p->threads = threads;
	t = &threads[p->nthreads - 1];
	t->role = role;
	t->pool = NO_INDEX;
	t->index = c->count[role]++;
	t->node = home == NO_INDEX ? NODE_UNKNOWN : c->pl->m->nodes[c->homes[home].node].id;
	return t;
}

static uint32_t home_of(const struct crew *c, uint32_t node)
{
	uint32_t at = plan_nearest(c->pl->m, node, c->nodes, c->nhomes);

	for (uint32_t i = 0; i < c->nhomes && at != NO_INDEX; i++) {
		if (c->nodes[i] == at)
			return i;
	}
	return NO_INDEX;
}

/* Why a thread of node `from` runs at `home`: nothing to say when that is the node. */
static void say_moved(const struct crew *c, uint32_t from, uint32_t home, struct plan_line *line)
{
	const struct machine *m = c->pl->m;

	if (from == NO_INDEX)
		return;
	if (home == NO_INDEX)
		plan_more(line->reason, sizeof(line->reason),
			  "; node %d has no CPUs for us and no distance tells the nearest: any CPU",
			  m->nodes[from].id.os);
	else if (c->homes[home].node != from)
		plan_more(line->reason, sizeof(line->reason), "; node %d has no CPUs for us, node %d is the nearest%s",
			  m->nodes[from].id.os, m->nodes[c->homes[home].node].id.os,
			  plan_distance(m, from, c->homes[home].node) ? "" : " as the only one with any");
}

static void say_cpus(const struct crew *c, uint32_t home, struct plan_line *line)
{
	if (home != NO_INDEX)
		plan_more(line->source, sizeof(line->source), "%shwloc: CPUs of node %d", line->source[0] ? "; " : "",
			  c->pl->m->nodes[c->homes[home].node].id.os);
	else
		plan_more(line->source, sizeof(line->source), "%shwloc: CPUs that our cpuset allows",
			  line->source[0] ? "; " : "");
}

/* Weights of homes for work on L1: the share of the pools; the last slot is for pools without a nearest home. */
static void weigh_homes(const struct crew *c, uint64_t *weight)
{
	const struct plan *p = c->pl->p;
	const struct machine *m = c->pl->m;
	uint64_t sum = 0;

	for (uint32_t i = 0; i < p->npools; i++) {
		uint32_t home = home_of(c, machine_node_index(m, p->pools[i].node));

		if (node_known(p->pools[i].node))
			weight[home == NO_INDEX ? c->nhomes : home] += p->pools[i].bytes / SHM_UNIT;
	}
	for (uint32_t i = 0; i <= c->nhomes; i++)
		sum += weight[i];
	/* Memory of no particular node: by the GPUs, else by the cores. */
	for (uint32_t i = 0; i < m->ndevices && !sum; i++) {
		uint32_t home = home_of(c, plan_node_of(m, &m->devices[i]));

		if (m->devices[i].kind == DEV_GPU && home != NO_INDEX)
			weight[home]++;
	}
	for (uint32_t i = 0; i <= c->nhomes; i++)
		sum += weight[i];
	for (uint32_t i = 0; i < c->nhomes && !sum; i++)
		weight[i] = c->homes[i].ncores ? c->homes[i].ncores : 1;
	if (c->nhomes == 0)
		weight[0] = 1;
}

/* The slot whose turn it is: every one with weight once, then by weight over what it has (D'Hondt). */
static uint32_t next_slot(const uint64_t *weight, const uint32_t *given, uint32_t n)
{
	uint32_t best = NO_INDEX;

	for (uint32_t i = 0; i < n; i++) {
		bool first;

		if (!weight[i])
			continue;
		first = best != NO_INDEX && !given[i] && given[best];
		if (best == NO_INDEX || first ||
		    (!given[i] == !given[best] && weight[i] * (given[best] + 1) > weight[best] * (given[i] + 1)))
			best = i;
	}
	return best;
}

/* `count` threads over the homes by weight; in node order, so that neighbours in number are neighbours in place. */
static void add_workers(struct crew *c, enum plan_role role, uint32_t count)
{
	const struct machine *m = c->pl->m;
	uint64_t *weight = c->weight;
	uint32_t *given = c->given;

	memset(given, 0, (c->nhomes + 1) * sizeof(*given));
	for (uint32_t k = 0; k < count; k++)
		given[next_slot(weight, given, c->nhomes + 1)]++;
	for (uint32_t slot = 0; slot <= c->nhomes; slot++) {
		uint32_t home = slot < c->nhomes ? slot : NO_INDEX;

		for (uint32_t k = 0; k < given[slot]; k++) {
			struct plan_thread *t = add(c, role, home);

			if (!t)
				return;
			if (home == NO_INDEX)
				plan_text(t->line.reason, sizeof(t->line.reason),
					  "no CPUs are known to be near its pool: any CPU");
			else if (c->bound)
				plan_text(t->line.reason, sizeof(t->line.reason),
					  "%u of %u here, in proportion to the pools nearest to node %d", given[slot],
					  count, m->nodes[c->homes[home].node].id.os);
			else
				plan_text(t->line.reason, sizeof(t->line.reason),
					  "%u of %u here, by GPUs or cores, for L1 is bound to no node", given[slot],
					  count);
			plan_text(t->line.source, sizeof(t->line.source), "the pools of this plan");
			say_cpus(c, home, &t->line);
		}
	}
}

/* Control and HTTP run where most of L1 is: they move no bytes, but their queues live there. */
static void add_front(struct crew *c, enum plan_role role)
{
	uint32_t slot = 0, home;
	struct plan_thread *t;

	for (uint32_t i = 1; i <= c->nhomes; i++) {
		if (c->weight[i] > c->weight[slot])
			slot = i;
	}
	home = slot < c->nhomes ? slot : NO_INDEX;
	t = add(c, role, home);
	if (!t)
		return;
	if (home == NO_INDEX)
		plan_text(t->line.reason, sizeof(t->line.reason), "no node is known to be the best: any CPU");
	else
		plan_text(t->line.reason, sizeof(t->line.reason),
			  c->bound ? "node %d is nearest to most of L1" : "node %d has the most GPUs or cores",
			  c->pl->m->nodes[c->homes[home].node].id.os);
	say_cpus(c, home, &t->line);
}

static void add_populate(struct crew *c, uint32_t index)
{
	const struct plan_pool *pool = &c->pl->p->pools[index];
	const struct machine *m = c->pl->m;
	uint32_t from = machine_node_index(m, pool->node), home;
	uint64_t n = (pool->bytes + GIB - 1) / GIB, cores;
	char amount[32];

	if (from == NO_INDEX && m->nnodes == 1)
		from = 0;
	home = home_of(c, from);
	cores = home == NO_INDEX ? c->ncores : c->homes[home].ncores;
	if (n > cores)
		n = cores;
	if (n > MOST_POPULATE)
		n = MOST_POPULATE;
	for (uint64_t k = 0; k < (n ? n : 1); k++) {
		struct plan_thread *t = add(c, ROLE_POPULATE, home);

		if (!t)
			return;
		t->pool = index;
		if (node_known(pool->node))
			plan_text(t->line.reason, sizeof(t->line.reason),
				  "faults the %s of node %d in, from CPUs near it", plan_bytes(pool->bytes, amount),
				  pool->node.os);
		else
			plan_text(t->line.reason, sizeof(t->line.reason), "faults the %s of the pool in",
				  plan_bytes(pool->bytes, amount));
		say_moved(c, from, home, &t->line);
		plan_text(t->line.source, sizeof(t->line.source), "the pools of this plan");
		say_cpus(c, home, &t->line);
	}
}

static void add_device(struct crew *c, enum plan_role role, const struct mach_device *d)
{
	uint32_t from = plan_node_of(c->pl->m, d), home = home_of(c, from);
	struct plan_thread *t;
	const char *name = d->name[0] ? d->name : d->pci;

	t = add(c, role, home);
	if (!t)
		return;
	t->device = d;
	if (from == NO_INDEX && node_known(d->node))
		plan_text(t->line.reason, sizeof(t->line.reason),
			  "%s is on node %d, which is not in the machine: any CPU", name, d->node.os);
	else if (from == NO_INDEX)
		plan_text(t->line.reason, sizeof(t->line.reason), "%s is on an unknown node: any CPU", name);
	else
		plan_text(t->line.reason, sizeof(t->line.reason), "%s is on node %d", name, d->node.os);
	say_moved(c, from, home, &t->line);
	plan_device_source(d, t->line.source, sizeof(t->line.source));
	say_cpus(c, home, &t->line);
}

static uint32_t choose_transfer(const struct crew *c)
{
	uint32_t gpus = 0, slots = 0, n;

	for (uint32_t i = 0; i < c->pl->m->ndevices; i++)
		gpus += c->pl->m->devices[i].kind == DEV_GPU;
	for (uint32_t i = 0; i <= c->nhomes; i++)
		slots += c->weight[i] > 0;
	n = gpus ? gpus : c->ncores / 8;
	if (n > c->ncores / 2)
		n = c->ncores / 2;
	if (n > MOST_TRANSFER)
		n = MOST_TRANSFER;
	if (n < slots)
		n = slots;
	return n ? n : 1;
}

static void add_all(struct crew *c)
{
	const struct plan *p = c->pl->p;
	const struct machine *m = c->pl->m;
	uint32_t transfer = p->conf.transfer_workers, lookup = p->conf.lookup_workers;

	weigh_homes(c, c->weight);
	if (!transfer)
		transfer = choose_transfer(c);
	if (!lookup)
		lookup = transfer / 2 > MOST_LOOKUP ? MOST_LOOKUP : (transfer + 1) / 2;
	add_workers(c, ROLE_TRANSFER, transfer);
	add_workers(c, ROLE_LOOKUP, lookup);
	add_front(c, ROLE_CONTROL);
	add_front(c, ROLE_HTTP);
	for (uint32_t i = 0; i < p->npools; i++)
		add_populate(c, i);
	for (uint32_t i = 0; i < m->ndevices; i++) {
		if (m->devices[i].kind == DEV_RDMA)
			add_device(c, ROLE_NIC, &m->devices[i]);
	}
	for (uint32_t i = 0; i < m->ndevices; i++) {
		if (m->devices[i].kind == DEV_NVME)
			add_device(c, ROLE_NVME, &m->devices[i]);
	}
}

int plan_threads(struct planner *pl)
{
	struct crew c = {.pl = pl, .bound = !pl->unbound && pl->p->npools > 0};
	int rc = crew_homes(&c);

	if (!rc) {
		add_all(&c);
		if (!pl->out_of_memory)
			crew_cpus(&c);
	}
	crew_free(&c);
	return rc || pl->out_of_memory ? -ENOMEM : 0;
}
