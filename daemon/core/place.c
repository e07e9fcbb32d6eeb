/* place.c - from the options and the machine to a plan, and from the plan to the arena's ranges and the threads' CPUs.
 *
 * Nothing here is on a data path. What a plan could not grant is a line of the log; it stops the start only where it was
 * demanded (--numa yes, a page size as the last word of --l1-pages, a map with sizes).
 */
#include "daemon/core/place.h"

#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MOST_NOTICES 4u /* logged; /status has all */

static const enum plan_policy policies[] = {[CONF_NUMA_LOCAL] = PLAN_LOCAL,
					    [CONF_NUMA_SPREAD] = PLAN_SPREAD,
					    [CONF_NUMA_PACK] = PLAN_PACK,
					    [CONF_NUMA_MANUAL] = PLAN_MANUAL};
static const enum plan_want wants[] = {
	[CONF_WANT_NO] = WANT_NO, [CONF_WANT_TRY] = WANT_TRY, [CONF_WANT_YES] = WANT_YES};

static uint32_t at_most(uint32_t n, uint32_t most)
{
	return n < most ? n : most;
}

static void wishes(const struct conf *c, struct plan_conf *out)
{
	*out = (struct plan_conf){.policy = policies[c->numa_policy],
				  .l1_bytes = (uint64_t)(c->l1_size_gb * (double)(1ull << 30)),
				  .numa = wants[c->numa],
				  .huge_1g = wants[c->pages.huge_1g],
				  .huge_2m = wants[c->pages.huge_2m],
				  .thp = wants[c->pages.thp],
				  .transfer_workers = at_most(c->max_gpu_workers, MAX_THREADS / 2),
				  .lookup_workers = at_most(c->max_cpu_workers, MAX_THREADS / 2),
				  .nmanual = c->nmap};
	for (uint32_t i = 0; i < c->nmap; i++) {
		out->manual[i].node = node_of((int)c->map[i].node);
		out->manual[i].bytes = c->map[i].bytes;
	}
}

static bool demanded(const struct plan_conf *w)
{
	return w->numa == WANT_YES || w->huge_1g == WANT_YES || w->huge_2m == WANT_YES || w->thp == WANT_YES ||
	       w->policy == PLAN_MANUAL;
}

/* Which node lacks which pages, in as much as fits: the plan says it in notes of their own, with the line to write. */
static void add_details(const struct plan *p, uint32_t after, struct why *why)
{
	size_t at = strlen(why->text);

	for (uint32_t i = after + 1; i < p->nnotes; i++) {
		const struct plan_note *n = &p->notes[i];
		size_t room = sizeof(why->text) - at;

		if (n->severity != PLAN_SHORTAGE || strlen(n->text) + strlen(n->remedy) + 4 > room)
			continue;
		at += (size_t)snprintf(why->text + at, room, "; %s: %s", n->text, n->remedy);
	}
}

/* The plan's own words where it has some. */
static int refuse_shortage(const struct plan *p, struct why *why)
{
	for (uint32_t i = 0; i < p->nnotes; i++) {
		const struct plan_note *n = &p->notes[i];

		if (n->severity != PLAN_SHORTAGE)
			continue;
		why_set(why, -ENOSPC, "%s", n->text);
		add_details(p, i, why);
		if (why->text[strlen(n->text)] == '\0' && n->remedy[0])
			why_set(why, -ENOSPC, "%s; to fix it: %s", n->text, n->remedy);
		return -ENOSPC;
	}
	if (p->shortage_bytes)
		return why_set(
			why, -ENOSPC,
			"L1 of %.2f GiB does not fit: %.2f GiB find no place; lower --l1-size-gb (`numa plan` shows "
			"what each node can hold)",
			(double)p->conf.l1_bytes / (1 << 30), (double)p->shortage_bytes / (1 << 30));
	return 0;
}

static void log_notes(const struct plan *p)
{
	uint32_t notices = 0;

	for (uint32_t i = 0; i < p->nnotes; i++) {
		const struct plan_note *n = &p->notes[i];

		if (n->severity != PLAN_NOTICE)
			log_warn("NUMA: %s%s%s", n->text, n->remedy[0] ? "; to fix it: " : "", n->remedy);
		else if (notices++ < MOST_NOTICES)
			log_info("NUMA: %s%s%s", n->text, n->remedy[0] ? "; to get it: " : "", n->remedy);
	}
}

/* Nodes that hold a part of L1 and have CPUs to copy with. */
static uint32_t nodes_to_serve(const struct plan *p)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->npools; i++) {
		const struct mach_node *node = machine_node(p->machine, p->pools[i].node);

		n += node && cpus_next(&node->cpus, 0) >= 0;
	}
	return at_most(n, MAX_THREADS / 2);
}

/* One worker for all nodes, upstream's default, would copy across nodes: where the operator left it open each node gets its own. */
static int plan_again(struct server *srv, struct plan_conf *w, struct why *why)
{
	uint32_t n = nodes_to_serve(srv->plan);

	if (!srv->conf.workers_open || n <= srv->conf.max_gpu_workers)
		return 0;
	srv->conf.max_gpu_workers = srv->conf.max_cpu_workers = w->transfer_workers = w->lookup_workers = n;
	plan_destroy(srv->plan);
	srv->plan = NULL;
	return plan_make(srv->machine, w, &srv->plan, why);
}

int place_open(struct server *srv, struct why *why)
{
	struct plan_conf w;
	int err = machine_load(NULL, &srv->machine, why);

	if (err)
		return err;
	wishes(&srv->conf, &w);
	err = plan_make(srv->machine, &w, &srv->plan, why);
	if (!err)
		err = plan_again(srv, &w, why);
	/* a smaller cache than the operator sized the machine for would be found out too late */
	if (!err && (demanded(&w) || srv->plan->shortage_bytes))
		err = refuse_shortage(srv->plan, why);
	if (!err && srv->plan->npools == 0)
		err = why_set(why, -ENOSPC, "no node of this machine has memory for L1");
	if (!err)
		log_notes(srv->plan);
	return err;
}

void place_close(struct server *srv)
{
	plan_destroy(srv->plan);
	machine_destroy(srv->machine);
	srv->plan = NULL;
	srv->machine = NULL;
}

/* ---- the arena ------------------------------------------------------------------------------------------------- */

static void populate_cpus(const struct plan *p, uint32_t pool, struct cpu_set *out)
{
	for (uint32_t i = 0; i < p->nthreads; i++) {
		const struct plan_thread *t = &p->threads[i];

		if (t->role == ROLE_POPULATE && t->pool == pool)
			cpus_or(out, &t->cpus);
	}
}

/* The arena tries page sizes by itself; what the plan has ruled out already it need not try, and not warn about again. */
static void ask_pages(const struct plan *p, struct arena_conf *out)
{
	const struct plan_pool *pool = &p->pools[0]; /* all are of one kind: the arena is one file */
	bool huge = pool->backing == BACK_HUGETLB;

	if (huge && pool->page_bytes >= 1ull << 30)
		out->huge_1g = p->conf.huge_1g;
	if (huge)
		out->huge_2m = p->conf.huge_2m;
	/* the plan knows about shared memory; anonymous memory has a switch of its own */
	if (pool->backing != BACK_SHM || (out->shm_name && !out->shm_name[0]))
		out->thp = p->conf.thp;
}

bool place_unbindable(const struct server *srv)
{
	enum probe mbind = srv->machine->limits.mbind;
	bool known = false;

	for (uint32_t i = 0; i < srv->plan->npools; i++)
		known |= node_known(srv->plan->pools[i].node);
	return known && srv->plan->conf.numa == WANT_TRY && (mbind == PROBE_DENIED || mbind == PROBE_MISSING);
}

void place_arena(const struct server *srv, struct arena_conf *out)
{
	const struct plan *p = srv->plan;

	/* the arena would find out by failing, and warn a second time */
	out->numa = place_unbindable(srv) ? WANT_NO : p->conf.numa;
	out->limits = &srv->machine->limits;
	ask_pages(p, out);
	for (uint32_t i = 0; i < p->npools && out->nranges < ARENA_MAX_RANGES; i++) {
		struct arena_range_conf *r = &out->range[out->nranges++];

		r->node = p->pools[i].node;
		r->bytes = p->pools[i].bytes;
		populate_cpus(p, i, &r->cpus);
	}
}

static void log_pool(const struct server *srv, uint32_t i)
{
	const struct arena_range *r = arena_range(srv->arena, i);
	uint32_t pool = plan_pool_of(srv->plan, r->node), workers = 0;
	struct cpu_set cpus = {0};
	char text[128];

	for (uint32_t k = 0; k < srv->plan->nthreads; k++) {
		const struct plan_thread *t = &srv->plan->threads[k];

		if (t->role == ROLE_TRANSFER && node_same(t->node, r->node)) {
			workers++;
			cpus_or(&cpus, &t->cpus);
		}
	}
	cpus_format(&cpus, text, sizeof(text));
	log_info("L1 on node %d: %.2f GiB%s, %u transfer worker(s)%s%s; %s", r->node.os, (double)r->bytes / (1 << 30),
		 r->bound ? "" : " (not bound)", workers, text[0] ? " on CPUs " : "", text,
		 pool == UINT32_MAX ? "" : srv->plan->pools[pool].line.reason);
}

void place_log_pools(const struct server *srv)
{
	uint32_t n = arena_nranges(srv->arena);
	char text[256];

	arena_describe(srv->arena, text, sizeof(text));
	log_info("L1: %.2f GiB in %u node range(s), %s, copies by %s", (double)arena_bytes(srv->arena) / (1 << 30), n,
		 text, kv_copy_name());
	for (uint32_t i = 0; n > 1 && i < n; i++)
		log_pool(srv, i);
	if (n > srv->plan->conf.transfer_workers)
		log_info("L1 is on %u nodes but there is 1 transfer worker for %u of them: --max-gpu-workers %u gives "
			 "each "
			 "node its own",
			 n, (n + srv->plan->conf.transfer_workers - 1) / srv->plan->conf.transfer_workers, n);
}

/* As the machine states it; 0 = unknown. */
static uint32_t distance(const struct machine *m, node_id from, node_id to)
{
	const struct mach_node *n = machine_node(m, from);
	uint32_t at = machine_node_index(m, to);

	return n && n->distance && at != UINT32_MAX ? n->distance[at] : 0;
}

void place_distances(const struct server *srv, uint32_t *out)
{
	uint32_t n = arena_nranges(srv->arena);

	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < n; j++)
			out[i * n + j] = distance(srv->machine, arena_range(srv->arena, i)->node,
						  arena_range(srv->arena, j)->node);
	}
}

node_id locality_home(const struct server *srv, node_id node)
{
	node_id best = NODE_UNKNOWN;
	uint32_t best_distance = 0;

	for (uint32_t i = 0; node_known(node) && srv->machine && i < arena_nranges(srv->arena); i++) {
		node_id there = arena_range(srv->arena, i)->node;
		uint32_t d = distance(srv->machine, node, there);

		if (node_same(there, node))
			return node;
		if (node_known(there) && d && (!best_distance || d < best_distance)) {
			best = there;
			best_distance = d;
		}
	}
	return best;
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

node_id place_node_of(const struct server *srv, enum plan_role role, uint32_t index)
{
	const struct plan_thread *t = srv->plan ? plan_thread_of(srv->plan, role, index) : NULL;

	return t ? t->node : NODE_UNKNOWN;
}

node_id place_node_of_pci(const struct server *srv, const char *pci)
{
	const struct mach_device *d = srv->machine && *pci ? machine_device(srv->machine, pci) : NULL;

	return d ? d->node : NODE_UNKNOWN;
}

/* One node: threads may run on all of its CPUs, as the kernel likes, for engines run there too. */
bool place_pins(const struct server *srv)
{
	return srv->plan && srv->conf.numa != CONF_WANT_NO && srv->machine->nnodes > 1;
}

/* Main takes on the thread's CPUs for the moment: also a library's threads inherit them, and a refusal is known before the
 * thread exists. */
int place_enter(struct server *srv, enum plan_role role, uint32_t index, const char *name, struct why *why)
{
	const struct plan_thread *t = place_pins(srv) ? plan_thread_of(srv->plan, role, index) : NULL;
	char list[64];
	int err;

	srv->placing = false;
	if (!t || cpus_of_thread(0, 0, &srv->own_cpus) || cpus_equal(&srv->own_cpus, &t->cpus))
		return 0;
	err = cpus_pin_self(&t->cpus);
	if (!err) {
		srv->placing = true;
		return 0;
	}
	cpus_format(&t->cpus, list, sizeof(list));
	srv->unplaced++;
	if (srv->conf.numa == CONF_WANT_YES)
		return why_set(why, err, "%s cannot be bound to CPUs %s: %s (--numa yes; a seccomp profile or cpuset?)",
			       name, list, strerror(-err));
	if (srv->unplaced == 1 && srv->machine->limits.sched_setaffinity != PROBE_DENIED) /* else the plan said it */
		log_warn("%s cannot be bound to CPUs %s: %s; threads run wherever the kernel puts them", name, list,
			 strerror(-err));
	return 0;
}

void place_leave(struct server *srv)
{
	if (srv->placing && cpus_pin_self(&srv->own_cpus))
		log_warn("the main thread stays on the CPUs of a worker");
	srv->placing = false;
}
