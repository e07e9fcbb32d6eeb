/* locality.c - the node an engine's bytes come from.
 *
 * An engine on a GPU is where that GPU is. Of the others shared memory says it best: pages of the engine's tensors that are in memory are looked up (mincore tells which, without
 * bringing any in), touched once so that our page table has them, and asked for their node. An engine that has not filled its
 * memory yet, or has none that we map, is on the node of the CPUs it may use, if they are all of one. Else it is unknown, and
 * stays so.
 */
#include "daemon/core/core_int.h"
#include "daemon/core/place.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SAMPLES 64u
#define PAGE    4096u

/* Addresses of up to SAMPLES pages of the context's memory that are present, evenly spread. */
static uint32_t pick_pages(const struct ctx *c, void **out)
{
	uint32_t n = 0, per_map = c->nmaps ? SAMPLES / c->nmaps : 0;

	if (per_map == 0)
		per_map = 1;
	for (uint32_t i = 0; i < c->nmaps && n < SAMPLES; i++) {
		uint8_t *base = shmx_base(c->maps[i]);
		uint64_t pages = shmx_bytes(c->maps[i]) / PAGE;

		for (uint64_t k = 0; k < per_map && k < pages && n < SAMPLES; k++) {
			uint8_t *p = base + pages * k / (per_map < pages ? per_map : pages) * PAGE;
			unsigned char present = 0;

			if (mincore(p, PAGE, &present) == 0 && (present & 1))
				out[n++] = p;
		}
	}
	return n;
}

static node_id majority(const int *status, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t same = 0;

		for (uint32_t k = 0; k < n; k++)
			same += status[k] == status[i];
		if (status[i] >= 0 && same * 2 > n)
			return node_of(status[i]);
	}
	return NODE_UNKNOWN;
}

/* A page that was shrunk away meanwhile is caught by the guard of shmx. */
static node_id node_of_pages(const struct ctx *c)
{
	void *page[SAMPLES];
	int status[SAMPLES];
	uint32_t n = pick_pages(c, page), present = 0;

	for (uint32_t i = 0; i < n; i++)
		(void)*(volatile uint8_t *)page[i];
	if (n == 0 || syscall(SYS_move_pages, 0, (unsigned long)n, page, NULL, status, 0) != 0)
		return NODE_UNKNOWN;
	for (uint32_t i = 0; i < n; i++) {
		if (status[i] >= 0)
			status[present++] = status[i];
	}
	return majority(status, present);
}

static node_id node_of_cpus(const struct machine *m, int pid)
{
	node_id node = NODE_UNKNOWN;
	struct cpu_set may;

	if (cpus_of_thread(pid, pid, &may))
		return NODE_UNKNOWN;
	for (uint32_t i = 0; i < m->ncpus; i++) {
		if (!cpus_has(&may, m->cpus[i].os))
			continue;
		if (!node_known(m->cpus[i].node) || (node_known(node) && !node_same(node, m->cpus[i].node)))
			return NODE_UNKNOWN;
		node = m->cpus[i].node;
	}
	return node;
}

static node_id node_of_gpu(struct server *srv, const struct ctx *c)
{
	struct gpu_facts f;

	if (!c->gpu || !srv->gpu)
		return NODE_UNKNOWN;
	gpu_facts(srv->gpu, c->gpu_index, &f);
	return place_node_of_pci(srv, f.pci);
}

void locality_find(struct server *srv, struct ctx *c)
{
	c->node = c->home = NODE_UNKNOWN;
	c->node_source = CTX_NODE_UNKNOWN;
	if (!srv->machine)
		return;
	c->node = node_of_gpu(srv, c);
	if (node_known(c->node)) {
		c->node_source = CTX_NODE_GPU;
		c->home = locality_home(srv, c->node);
		return;
	}
	c->node = node_of_pages(c);
	if (node_known(c->node)) {
		c->node_source = CTX_NODE_PAGES;
	} else if (c->pidfd >= 0) { /* proven to be a process of this machine */
		c->node = node_of_cpus(srv->machine, (int)c->pid);
		c->node_source = node_known(c->node) ? CTX_NODE_CPUS : CTX_NODE_UNKNOWN;
	}
	c->home = locality_home(srv, c->node);
}

/* ---- what crosses nodes ------------------------------------------------------------------------------------------ */

void locality_count(struct server *srv, const struct ctx *c, enum locality_op op, const store_obj *objs, uint32_t n)
{
	uint64_t chunks[LOCALITIES] = {0};

	for (uint32_t i = 0; i < n; i++) {
		node_id there;

		if (!objs[i])
			continue;
		there = srv->range_node[store_range_of(srv->store, objs[i])];
		if (!node_known(c->node) || !node_known(there))
			chunks[LOCALITY_UNKNOWN]++;
		else
			chunks[node_same(c->node, there) ? LOCALITY_LOCAL : LOCALITY_REMOTE]++;
	}
	for (int l = 0; l < LOCALITIES; l++) {
		if (chunks[l])
			metric_series_add(srv->metrics, srv->numa_bytes[op][l], chunks[l] * c->object_bytes);
	}
}

/* The only node with memory is where everything is, bound or not. */
static node_id only_node(const struct machine *m)
{
	node_id only = NODE_UNKNOWN;

	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (m->nodes[i].kind == NODE_EMPTY)
			continue;
		if (node_known(only))
			return NODE_UNKNOWN;
		only = m->nodes[i].id;
	}
	return only;
}

void place_ranges(struct server *srv)
{
	static const char *const ops[] = {"store", "retrieve"}, *const where[] = {"local", "remote", "unknown"};

	for (uint32_t i = 0; i < ARENA_MAX_RANGES; i++)
		srv->range_node[i] = NODE_UNKNOWN;
	for (uint32_t i = 0; i < arena_nranges(srv->arena); i++) {
		srv->range_node[i] = arena_range(srv->arena, i)->node;
		if (!node_known(srv->range_node[i]))
			srv->range_node[i] = only_node(srv->machine);
	}
	for (uint32_t i = 0; i < arena_nranges(srv->arena); i++) {
		char node[16];
		struct slice label = slice_of(node, 0);

		if (node_known(srv->range_node[i]))
			label.n = (size_t)snprintf(node, sizeof(node), "%d", srv->range_node[i].os);
		srv->node_used[i] = metric_series_get(srv->metrics, M_L1_NODE_USED_BYTES, &label, 1);
		srv->node_misplaced[i] = metric_series_get(srv->metrics, M_L1_PAGES_MISPLACED, &label, 1);
	}
	for (int op = 0; op < LOCALITY_OPS; op++) {
		for (int l = 0; l < LOCALITIES; l++)
			srv->numa_bytes[op][l] =
				metric_series_get(srv->metrics, M_NUMA_BYTES,
						  (struct slice[]){slice_str(ops[op]), slice_str(where[l])}, 2);
	}
}
