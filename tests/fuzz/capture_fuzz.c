/* Captures and hwloc's XML, as machine_load reads them. What is accepted must be a machine that its users can walk: sorted nodes
 * and CPUs, conclusions that some fact supports, text that can be printed. */
#include "numa/machine_build.h"
#include "tests/unit/numa/dump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

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

/* hwloc reports what it refuses on stderr, once per input. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	setenv("HWLOC_HIDE_ERRORS", "2", 1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct machine *m = NULL;
	struct why why = {0};
	int r;

	must(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	r = machine_load_text(text, size, "fuzz", &m, &why);
	free(text);
	if (r) {
		must(!m && why.err == r && why.text[0]);
		return 0;
	}
	check_nodes(m);
	check_devices(m);
	check_text(m);
	must(!m->this_system);
	machine_destroy(m);
	return 0;
}
