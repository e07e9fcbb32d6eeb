/* plan.c - the planner's order of work, and looking things up in a plan. */
#include "numa/plan_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define LARGEST_L1 (1ull << 60)
/* A size in GiB as people type it does not always add up to whole pages. */
#define MAP_SLACK (2 * MIB)

const struct plan_policy_row plan_policies[PLAN_POLICIES] = {
	[PLAN_LOCAL] = {"local", "each GPU's share of L1 on the GPU's own node (without GPUs: by NICs and drives)"},
	[PLAN_SPREAD] = {"spread", "even shares over the nodes that have NICs (without NICs: over all nodes)"},
	[PLAN_PACK] = {"pack", "as few nodes as hold it, those nearest to the devices first"},
	[PLAN_MANUAL] = {"manual", "what the map of nodes says, and nothing elsewhere"},
};

static int check_map(struct plan_conf *c, struct why *why)
{
	uint64_t sum = 0, off;

	if (c->policy != PLAN_MANUAL)
		return c->nmanual == 0
			       ? 0
			       : why_set(why, -EINVAL, "a map of nodes is given, but the policy is %s, not manual",
					 plan_policies[c->policy].name);
	if (c->nmanual == 0)
		return why_set(why, -EINVAL, "policy manual needs a map: what each node gets");
	if (c->numa == WANT_NO)
		return why_set(why, -EINVAL, "policy manual names nodes, but numa=no binds to none");
	for (uint32_t i = 0; i < c->nmanual; i++) {
		if (!node_known(c->manual[i].node))
			return why_set(why, -EINVAL, "the map names an unknown node");
		if (!c->manual[i].bytes != !c->manual[0].bytes)
			return why_set(why, -EINVAL, "the map must give every node a size, or none");
		for (uint32_t k = 0; k < i; k++) {
			if (node_same(c->manual[k].node, c->manual[i].node))
				return why_set(why, -EINVAL, "the map names node %d twice", c->manual[i].node.os);
		}
		if (c->manual[i].bytes > LARGEST_L1)
			return why_set(why, -EINVAL, "the map gives node %d more than 1 EiB", c->manual[i].node.os);
		sum += c->manual[i].bytes;
	}
	off = sum > c->l1_bytes ? sum - c->l1_bytes : c->l1_bytes - sum;
	if (sum == 0)
		return 0;
	if (c->l1_bytes && off > MAP_SLACK * c->nmanual)
		return why_set(why, -EINVAL, "the map gives %.2f GiB in all, L1 is %.2f GiB", (double)sum / (double)GIB,
			       (double)c->l1_bytes / (double)GIB);
	c->l1_bytes = sum;
	return 0;
}

static int check_conf(struct plan_conf *c, struct why *why)
{
	const uint32_t most = sizeof(c->manual) / sizeof(c->manual[0]);
	int rc;

	if ((uint32_t)c->policy >= PLAN_POLICIES || c->nmanual > most || c->nheld > most ||
	    c->transfer_workers > CPU_MAX || c->lookup_workers > CPU_MAX)
		return why_set(why, -EINVAL, "a wish is out of range (policy, map, or more than %u workers)", CPU_MAX);
	if ((c->huge_1g == WANT_YES) + (c->huge_2m == WANT_YES) + (c->thp == WANT_YES) > 1)
		return why_set(why, -EINVAL, "more than one page size is demanded, but all of L1 has one");
	rc = check_map(c, why);
	if (rc)
		return rc;
	if (c->l1_bytes < SHM_UNIT || c->l1_bytes > LARGEST_L1)
		return why_set(why, -EINVAL, "L1 must have 2 MiB to 1 EiB");
	return 0;
}

static int check_machine(const struct machine *m, struct why *why)
{
	for (uint32_t i = 0; i < m->ncpus; i++) {
		if (m->cpus[i].allowed && m->cpus[i].os < CPU_MAX)
			return 0;
	}
	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (cpus_count(&m->nodes[i].cpus))
			return 0;
	}
	return why_set(why, -ENODEV, "%.100s: there is no CPU that we may use", m->source);
}

/* The gravest first, else in the order in which they were written. */
static void sort_notes(struct plan *p)
{
	for (uint32_t i = 1; i < p->nnotes; i++) {
		struct plan_note n = p->notes[i];
		uint32_t k = i;

		for (; k > 0 && p->notes[k - 1].severity < n.severity; k--)
			p->notes[k] = p->notes[k - 1];
		p->notes[k] = n;
	}
}

static int work(struct planner *pl)
{
	int rc = plan_shares(pl);

	if (rc)
		return rc;
	plan_choose(pl);
	if (pl->chosen.asked == 0)
		return why_set(pl->why, -EINVAL, "L1 of %llu bytes is less than one page of %llu",
			       (unsigned long long)pl->p->conf.l1_bytes, (unsigned long long)pl->chosen.kind.unit);
	rc = plan_pools(pl);
	if (!rc)
		rc = plan_threads(pl);
	if (!rc)
		rc = plan_devices(pl);
	if (!rc) {
		plan_notes(pl);
		plan_actions(pl);
		sort_notes(pl->p);
	}
	if (rc || pl->out_of_memory)
		return why_set(pl->why, -ENOMEM, "out of memory for a plan");
	return 0;
}

int plan_make(const struct machine *m, const struct plan_conf *conf, struct plan **out, struct why *why)
{
	struct planner pl = {.m = m, .why = why};
	struct plan_conf c = *conf;
	int rc = check_conf(&c, why);

	*out = NULL;
	if (!rc)
		rc = check_machine(m, why);
	if (rc)
		return rc;
	pl.p = mem_calloc(1, sizeof(*pl.p));
	if (!pl.p)
		return why_set(why, -ENOMEM, "out of memory for a plan");
	pl.p->machine = m;
	pl.p->conf = c;
	rc = work(&pl);
	if (rc) {
		plan_destroy(pl.p);
		return rc;
	}
	*out = pl.p;
	return 0;
}

void plan_destroy(struct plan *p)
{
	if (!p)
		return;
	mem_free(p->pools);
	mem_free(p->threads);
	mem_free(p->devices);
	mem_free(p->notes);
	mem_free(p->actions);
	mem_free(p);
}

uint32_t plan_pool_of(const struct plan *p, node_id node)
{
	for (uint32_t i = 0; i < p->npools; i++) {
		if (node_same(p->pools[i].node, node))
			return i;
	}
	return NO_INDEX;
}

const struct plan_thread *plan_thread_of(const struct plan *p, enum plan_role role, uint32_t i)
{
	for (uint32_t k = 0; k < p->nthreads; k++) {
		if (p->threads[k].role == role && p->threads[k].index == i)
			return &p->threads[k];
	}
	return NULL;
}

const char *plan_role_name(enum plan_role r)
{
	static const char *const names[] = {
		[ROLE_TRANSFER] = "transfer", [ROLE_LOOKUP] = "lookup",     [ROLE_CONTROL] = "control",
		[ROLE_HTTP] = "http",         [ROLE_POPULATE] = "populate", [ROLE_NIC] = "nic",
		[ROLE_NVME] = "nvme"};

	return (size_t)r < sizeof(names) / sizeof(names[0]) ? names[r] : "?";
}

const char *plan_backing_name(enum plan_backing b)
{
	static const char *const names[] = {
		[BACK_HUGETLB] = "hugetlb", [BACK_SHM_THP] = "shm with THP", [BACK_SHM] = "shm"};

	return (size_t)b < sizeof(names) / sizeof(names[0]) ? names[b] : "?";
}
