/* Captures, as machine_load reads them. What is accepted must be a machine that its users can walk: sorted nodes
 * and CPUs, conclusions that some fact supports, text that can be printed. */
#include "daemon/base/mem.h"
#include "numa/machine_build.h"
#include "tests/unit/numa/dump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_nodes(const struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		const struct mach_node *n = &m->nodes[i];

		must(node_known(n->id) && machine_node_index(m, n->id) == i && n->nhuge <= MACH_PAGE_SIZES);
		must(i == 0 || n->id.os > m->nodes[i - 1].id.os);
		for (int c = cpus_next(&n->cpus, 0); c >= 0; c = cpus_next(&n->cpus, (uint32_t)c + 1))
			must(cpus_has(&n->all_cpus, (uint32_t)c));
	}
	for (uint32_t i = 0; i < m->ncpus; i++) {
		must(m->cpus[i].os < CPU_MAX && (i == 0 || m->cpus[i].os > m->cpus[i - 1].os));
		must(!node_known(m->cpus[i].node) || machine_node(m, m->cpus[i].node));
	}
}

static void check_devices(const struct machine *m)
{
	must(m->ndevices <= MACH_DEVICES_MAX);
	for (uint32_t i = 0; i < m->ndevices; i++) {
		const struct mach_device *d = &m->devices[i];
		bool supported = false;

		must(d->nfacts <= MACH_FACTS && node_known(d->node) == (d->confidence != CONF_UNKNOWN));
		for (uint32_t k = 0; k < d->nfacts; k++)
			supported |= node_same(d->fact[k].node, d->node);
		must(!node_known(d->node) || (supported && machine_node(m, d->node)));
	}
}

static void check_text(const struct machine *m)
{
	char *text = dump_both(m);

	for (const char *c = text; *c; c++)
		must((*c >= ' ' && *c < 0x7f) || *c == '\n' || *c == '\t');
	free(text);
}

/* One topology for all inputs: hwloc's own reader of XML is not ours to fuzz (machine_load tries it in a child first). */
static hwloc_topology_t topology(void)
{
	static hwloc_topology_t hw;

	if (!hw) {
		must(hwloc_topology_init(&hw) == 0);
		must(hwloc_topology_set_synthetic(hw, "pack:2 [numa(memory=1073741824)] l3:1 core:4 pu:2") == 0);
		must(hwloc_topology_load(hw) == 0);
	}
	return hw;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	struct build b = {.hw = topology()};
	struct why why = {0};
	const char *xml;

	if (!root)
		return 0;
	if (capture_open(root, &b.facts, &xml, &why)) {
		must(why.err < 0 && why.text[0]);
		json_decref(root);
		return 0;
	}
	b.m = mem_calloc(1, sizeof(*b.m));
	must(b.m && xml && machine_fill(&b) == 0);
	check_nodes(b.m);
	check_devices(b.m);
	check_text(b.m);
	machine_destroy(b.m);
	facts_close(b.facts);
	json_decref(root);
	return 0;
}
