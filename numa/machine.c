#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	for (uint32_t i = 0; i < m->nnodes; i++)
		mem_free(m->nodes[i].distance);
	mem_free(m->nodes);
	mem_free(m->cpus);
	mem_free(m->devices);
	mem_free(m);
}

uint32_t machine_node_index(const struct machine *m, node_id id)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (node_same(m->nodes[i].id, id))
			return i;
	}
	return UINT32_MAX;
}

const struct mach_node *machine_node(const struct machine *m, node_id id)
{
	uint32_t i = machine_node_index(m, id);

	return i < m->nnodes ? &m->nodes[i] : NULL;
}

const struct mach_device *machine_device(const struct machine *m, const char *name)
{
	char pci[32];

	if (!name || !name[0])
		return NULL;
	snprintf(pci, sizeof(pci), "0000:%.20s", name);
	for (uint32_t i = 0; i < m->ndevices; i++) {
		const struct mach_device *d = &m->devices[i];

		if (strcmp(d->name, name) == 0 || (d->pci[0] && strcasecmp(d->pci, name) == 0))
			return d;
	}
	for (uint32_t i = 0; i < m->ndevices; i++) {
		const struct mach_device *d = &m->devices[i];

		if ((d->pci[0] && strcasecmp(d->pci, pci) == 0) || strcmp(d->netdev, name) == 0)
			return d;
	}
	return NULL;
}

const char *machine_node_text(node_id id, char buf[24])
{
	if (node_known(id))
		snprintf(buf, 24, "node %d", id.os);
	else
		snprintf(buf, 24, "node ?");
	return buf;
}

const char *mach_device_kind_name(enum mach_device_kind k)
{
	static const char *const names[] = {"GPU", "RDMA", "NIC", "NVMe"};

	return (size_t)k < sizeof(names) / sizeof(names[0]) ? names[k] : "?";
}

const char *fact_source_name(enum fact_source s)
{
	static const char *const names[] = {"unknown", "sysfs", "hwloc", "parent", "override", "probe"};

	return (size_t)s < sizeof(names) / sizeof(names[0]) ? names[s] : "?";
}

/* ---- filling ---- */

static void read_names(struct build *b)
{
	struct machine *m = b->m;
	char vendor[48], product[48], release[64], machine[24];
	hwloc_obj_t root = hwloc_get_root_obj(b->hw);
	const char *host = hwloc_obj_get_info_by_name(root, "HostName");

	if (facts_read(b->facts, m->host, sizeof(m->host), "/proc/sys/kernel/hostname") <= 0)
		facts_copy(m->host, sizeof(m->host), host);
	if (facts_read(b->facts, release, sizeof(release), "/proc/sys/kernel/osrelease") <= 0)
		facts_copy(release, sizeof(release), hwloc_obj_get_info_by_name(root, "OSRelease"));
	facts_copy(machine, sizeof(machine), hwloc_obj_get_info_by_name(root, "Architecture"));
	snprintf(m->kernel, sizeof(m->kernel), "%s%s%s", release, release[0] && machine[0] ? " " : "", machine);
	facts_read(b->facts, vendor, sizeof(vendor), "/sys/class/dmi/id/sys_vendor");
	facts_read(b->facts, product, sizeof(product), "/sys/class/dmi/id/product_name");
	if (!product[0]) {
		facts_copy(vendor, sizeof(vendor), hwloc_obj_get_info_by_name(root, "DMISysVendor"));
		facts_copy(product, sizeof(product), hwloc_obj_get_info_by_name(root, "DMIProductName"));
	}
	snprintf(m->board, sizeof(m->board), "%s%s%s", vendor, vendor[0] && product[0] ? " " : "", product);
}

/* Answers that are not in files. */
static void note_environment(struct build *b)
{
	const char *locality = getenv("HWLOC_PCI_LOCALITY");
	char *text;

	if (!facts_live(b->facts) || !locality || !locality[0])
		return;
	/* Either the entries themselves or, as for hwloc, a file that has them. */
	text = locality[0] == '/' ? facts_text(b->facts, "%s", locality) : NULL;
	facts_note(b->facts, "env:HWLOC_PCI_LOCALITY", text ? text : locality);
	mem_free(text);
}

int machine_fill(struct build *b)
{
	int r;

	note_environment(b);
	read_names(b);
	r = build_nodes(b);
	if (r == 0)
		r = build_devices(b);
	if (r == 0)
		r = build_limits(b->facts, b->m, &b->m->limits);
	return r;
}
