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

/* ---- loading ---- */

int machine_hwloc_load(const char *xml, size_t bytes, hwloc_topology_t *out, struct why *why)
{
	hwloc_topology_t hw;

	if (hwloc_topology_init(&hw))
		return why_set(why, -ENOMEM, "machine: hwloc cannot start: out of memory");
	/* Nodes and CPUs that our cpuset hides are listed too: "hidden" and "absent" are different answers. */
	if ((xml && hwloc_topology_set_xmlbuffer(hw, xml, (int)bytes)) ||
	    hwloc_topology_set_flags(hw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) ||
	    hwloc_topology_set_io_types_filter(hw, HWLOC_TYPE_FILTER_KEEP_ALL) || hwloc_topology_load(hw)) {
		hwloc_topology_destroy(hw);
		if (xml)
			return why_set(why, -EPROTO,
				       "machine: hwloc does not accept this XML (it must be of version 2: lstopo of "
				       "hwloc 2, or lstopo --export-xml-flags v2)");
		return why_set(why, -EIO, "machine: hwloc cannot read this system's topology");
	}
	*out = hw;
	return 0;
}

static void read_names(struct build *b)
{
	struct machine *m = b->m;
	char vendor[48], product[48], release[64];
	hwloc_obj_t root = hwloc_get_root_obj(b->hw);
	const char *arch = hwloc_obj_get_info_by_name(root, "Architecture");
	const char *host = hwloc_obj_get_info_by_name(root, "HostName");

	if (facts_read(b->facts, m->host, sizeof(m->host), "/proc/sys/kernel/hostname") <= 0)
		snprintf(m->host, sizeof(m->host), "%s", host ? host : "");
	if (facts_read(b->facts, release, sizeof(release), "/proc/sys/kernel/osrelease") <= 0) {
		const char *r = hwloc_obj_get_info_by_name(root, "OSRelease");

		snprintf(release, sizeof(release), "%s", r ? r : "");
	}
	snprintf(m->kernel, sizeof(m->kernel), "%s%s%.24s", release, release[0] && arch ? " " : "", arch ? arch : "");
	facts_read(b->facts, vendor, sizeof(vendor), "/sys/class/dmi/id/sys_vendor");
	facts_read(b->facts, product, sizeof(product), "/sys/class/dmi/id/product_name");
	if (!product[0]) {
		const char *v = hwloc_obj_get_info_by_name(root, "DMISysVendor");
		const char *p = hwloc_obj_get_info_by_name(root, "DMIProductName");

		snprintf(vendor, sizeof(vendor), "%s", v ? v : "");
		snprintf(product, sizeof(product), "%s", p ? p : "");
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
