/* Where a PCI function sits, and which node that is. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCI_DIR "/sys/bus/pci/devices"

static uint32_t hex_digits(const char *p, size_t n)
{
	uint32_t i = 0;

	while (i < n && ((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f') || (p[i] >= 'A' && p[i] <= 'F')))
		i++;
	return i;
}

struct addr {
	uint32_t domain, bus, dev, fn;
};

static bool split(const char *p, size_t n, struct addr *out)
{
	uint32_t d = hex_digits(p, n);
	char text[16];

	/* domain:bb:dd.f; more than 15 characters would not fit where it goes */
	if (d < 4 || n != d + 8 || n > 15 || p[d] != ':' || p[d + 3] != ':' || p[d + 6] != '.' ||
	    hex_digits(p + d + 1, 2) != 2 || hex_digits(p + d + 4, 2) != 2 || p[d + 7] < '0' || p[d + 7] > '7')
		return false;
	memcpy(text, p, n);
	text[n] = '\0';
	return sscanf(text, "%x:%x:%x.%x", &out->domain, &out->bus, &out->dev, &out->fn) == 4 && out->dev < 32;
}

bool pci_spelled(const char *text, size_t n, char out[16])
{
	struct addr a;

	if (!split(text, n, &a))
		return false;
	return snprintf(out, 16, "%04x:%02x:%02x.%x", a.domain, a.bus, a.dev, a.fn) < 16;
}

int pci_compare(const char *a, const char *b)
{
	struct addr x = {0}, y = {0};
	uint64_t m, n;

	if (!a[0] || !b[0])
		return (a[0] == '\0') - (b[0] == '\0');
	split(a, strlen(a), &x);
	split(b, strlen(b), &y);
	m = (uint64_t)x.domain << 32 | x.bus << 16 | x.dev << 8 | x.fn;
	n = (uint64_t)y.domain << 32 | y.bus << 16 | y.dev << 8 | y.fn;
	return (m > n) - (m < n);
}

/* Calls back for each component; stops when that says so. */
#define for_components(path, at, n) \
	for (const char *at = (path) + strspn(path, "/"); (n = strcspn(at, "/")) != 0; at += n, at += strspn(at, "/"))

bool pci_in_path(const char *path, char out[16])
{
	bool found = false;
	size_t n;

	for_components(path, at, n)
	{
		char pci[16];

		if (pci_spelled(at, n, pci)) {
			memcpy(out, pci, sizeof(pci));
			found = true;
		}
	}
	return found;
}

/* "../../../devices/pci0000:16/0000:16:01.0/0000:17:00.0" */
static bool place_by_path(struct build *b, const char *pci, struct pci_place *out)
{
	char path[512];
	size_t n;

	if (facts_link(b->facts, path, sizeof(path), PCI_DIR "/%s", pci) < 0)
		return false;
	for_components(path, at, n)
	{
		char up[16];

		if (n > 3 && n < 16 && strncmp(at, "pci", 3) == 0 && hex_digits(at + 3, n - 3) >= 4) {
			/* the innermost host bridge: drives behind a volume manager have a second one */
			memcpy(out->root, at + 3, n - 3);
			out->root[n - 3] = '\0';
			out->nchain = 0;
		} else if (pci_spelled(at, n, up) && strcmp(up, pci) != 0 && out->nchain < 8) {
			memcpy(out->chain[out->nchain++], up, sizeof(up));
		}
	}
	return out->root[0] != '\0';
}

static void place_by_hwloc(hwloc_obj_t obj, struct pci_place *out)
{
	char up[8][16];
	uint32_t n = 0;

	for (hwloc_obj_t o = obj ? obj->parent : NULL; o && o->type == HWLOC_OBJ_BRIDGE; o = o->parent) {
		const struct hwloc_bridge_attr_s *a = &o->attr->bridge;

		if (a->upstream_type == HWLOC_OBJ_BRIDGE_HOST) {
			snprintf(out->root, sizeof(out->root), "%04x:%02x", (unsigned)a->downstream.pci.domain & 0xffff,
				 a->downstream.pci.secondary_bus);
			break;
		}
		if (n < 8)
			snprintf(up[n++], sizeof(up[0]), "%04x:%02x:%02x.%x", (unsigned)a->upstream.pci.domain & 0xffff,
				 a->upstream.pci.bus, a->upstream.pci.dev & 0x1f, a->upstream.pci.func & 7u);
	}
	while (n)
		memcpy(out->chain[out->nchain++], up[--n], sizeof(up[0]));
}

void pci_place_of(struct build *b, const char *pci, hwloc_obj_t obj, struct pci_place *out)
{
	*out = (struct pci_place){0};
	if (!place_by_path(b, pci, out)) {
		*out = (struct pci_place){0};
		place_by_hwloc(obj, out);
	}
}

/* ---- sources ---- */

static void add_fact(struct mach_device *d, enum fact_source source, node_id node, const char *where)
{
	struct fact_node *f = &d->fact[d->nfacts];

	if (d->nfacts == MACH_FACTS)
		return;
	d->nfacts++;
	f->source = source;
	f->node = node;
	snprintf(f->where, sizeof(f->where), "%s", where);
}

/* False when there is no such file; true with an unknown node when it says -1. */
static bool node_file(struct build *b, const char *pci, node_id *out)
{
	char text[16], *end;
	long v;

	if (facts_read(b->facts, text, sizeof(text), PCI_DIR "/%s/numa_node", pci) <= 0)
		return false;
	v = strtol(text, &end, 10);
	if (end == text || *end)
		return false;
	*out = v < 0 || v >= (long)NODE_MAX ? NODE_UNKNOWN : node_of((int)v);
	return true;
}

/* The only node of these that has ordinary memory and CPUs. hwloc's local nodes include CPU-less neighbours, which are not
 * where the device is. */
static node_id only_node(struct build *b, hwloc_const_bitmap_t nodes)
{
	node_id found = NODE_UNKNOWN;

	for (uint32_t i = 0; i < b->m->nnodes; i++) {
		const struct mach_node *n = &b->m->nodes[i];

		if (!nodes || !hwloc_bitmap_isset(nodes, (unsigned)n->id.os) || cpus_next(&n->all_cpus, 0) < 0 ||
		    n->kind == NODE_SLOW || n->kind == NODE_GPU_MEMORY)
			continue;
		if (node_known(found))
			return NODE_UNKNOWN;
		found = n->id;
	}
	return found;
}

static bool by_hwloc(struct build *b, hwloc_obj_t obj, node_id *node, char *where, size_t cap)
{
	hwloc_obj_t up = obj ? hwloc_get_non_io_ancestor_obj(b->hw, obj) : NULL;
	char type[64];

	if (!up)
		return false;
	/* Attached to the whole machine is how hwloc says that it does not know. */
	if (!up->parent) {
		*node = NODE_UNKNOWN;
		snprintf(where, cap, "hwloc: attached to the whole machine");
		return true;
	}
	*node = only_node(b, up->nodeset);
	hwloc_obj_type_snprintf(type, sizeof(type), up, 0);
	snprintf(where, cap, "hwloc %s L#%u", type, up->logical_index);
	return true;
}

static bool by_parent(struct build *b, const struct pci_place *place, node_id *node, char *where, size_t cap)
{
	for (uint32_t i = place->nchain; i-- > 0;) {
		if (node_file(b, place->chain[i], node) && node_known(*node)) {
			snprintf(where, cap, PCI_DIR "/%s/numa_node", place->chain[i]);
			return true;
		}
	}
	return false;
}

/* One "0000:20-3f 0xff" of HWLOC_PCI_LOCALITY; a domain alone or a single bus are allowed as well. */
static bool locality_entry(const char *entry, const struct addr *a, hwloc_bitmap_t cpus)
{
	unsigned domain, first, last;
	char set[2048];
	int n = 0;

	if (sscanf(entry, " %8x:%2x-%2x%n", &domain, &first, &last, &n) == 3) {
		if (a->bus < first || a->bus > last)
			return false;
	} else if (sscanf(entry, " %8x:%2x%n", &domain, &first, &n) == 2) {
		if (a->bus != first)
			return false;
	} else if (sscanf(entry, " %8x%n", &domain, &n) != 1) {
		return false;
	}
	return domain == a->domain && sscanf(entry + n, " %2047s", set) == 1 && hwloc_bitmap_sscanf(cpus, set) == 0;
}

/* The operator's word, from the variable hwloc knows too: entries between semicolons or line ends. */
static bool by_override(struct build *b, const char *pci, node_id *node)
{
	char text[8192], *save = NULL;
	hwloc_bitmap_t cpus;
	struct addr a;
	bool found = false;

	if (facts_value(b->facts, "env:HWLOC_PCI_LOCALITY", text, sizeof(text)) || !split(pci, strlen(pci), &a))
		return false;
	cpus = hwloc_bitmap_alloc();
	for (char *e = cpus ? strtok_r(text, ";\n", &save) : NULL; e && !found; e = strtok_r(NULL, ";\n", &save)) {
		hwloc_bitmap_t nodes = hwloc_bitmap_alloc();

		found = nodes && locality_entry(e, &a, cpus);
		for (uint32_t i = 0; found && i < b->m->nnodes; i++) {
			const struct mach_node *n = &b->m->nodes[i];

			for (int c = cpus_next(&n->all_cpus, 0); c >= 0; c = cpus_next(&n->all_cpus, (uint32_t)c + 1)) {
				if (hwloc_bitmap_isset(cpus, (unsigned)c)) {
					hwloc_bitmap_set(nodes, (unsigned)n->id.os);
					break;
				}
			}
		}
		if (found)
			*node = only_node(b, nodes);
		hwloc_bitmap_free(nodes);
	}
	hwloc_bitmap_free(cpus);
	return found && node_known(*node);
}

/* ---- conclusion ---- */

static const struct fact_node *fact_of(const struct mach_device *d, enum fact_source s)
{
	for (uint32_t i = 0; i < d->nfacts; i++) {
		if (d->fact[i].source == s)
			return &d->fact[i];
	}
	return NULL;
}

/* The first fact that knows is the node. The operator's word ends the discussion; two sources that name different nodes, or
 * hwloc naming one where the kernel knows none and no bridge explains it, are a dispute. */
static void conclude(struct build *b, struct mach_device *d, bool through_netdev)
{
	const struct fact_node *hw = fact_of(d, FACT_HWLOC), *first = NULL;
	bool kernel_silent = false;

	d->node = NODE_UNKNOWN;
	d->confidence = CONF_UNKNOWN;
	for (uint32_t i = 0; i < d->nfacts && !first; i++) {
		if (node_known(d->fact[i].node))
			first = &d->fact[i];
		else if (d->fact[i].source == FACT_SYSFS)
			kernel_silent = true;
	}
	if (!first || !machine_node(b->m, first->node))
		return;
	d->node = first->node;
	d->confidence = CONF_CERTAIN;
	if (first->source == FACT_OVERRIDE)
		return;
	if (through_netdev || first->source == FACT_PARENT)
		d->confidence = CONF_INHERITED;
	for (uint32_t i = 0; i < d->nfacts; i++) {
		if (node_known(d->fact[i].node) && !node_same(d->fact[i].node, first->node))
			d->confidence = CONF_DISPUTED;
	}
	if (d->confidence == CONF_CERTAIN && kernel_silent && first == hw)
		d->confidence = fact_of(d, FACT_PARENT) ? CONF_INHERITED : CONF_DISPUTED;
}

void pci_locality(struct build *b, struct mach_device *d, hwloc_obj_t obj, const struct pci_place *place,
		  const char *via)
{
	char where[128];
	node_id node;

	if (by_override(b, d->pci, &node))
		add_fact(d, FACT_OVERRIDE, node, "HWLOC_PCI_LOCALITY");
	if (node_file(b, d->pci, &node)) {
		if (via[0])
			snprintf(where, sizeof(where), "%s: " PCI_DIR "/%s/numa_node", via, d->pci);
		else
			snprintf(where, sizeof(where), PCI_DIR "/%s/numa_node", d->pci);
		add_fact(d, FACT_SYSFS, node, where);
	}
	if (by_hwloc(b, obj, &node, where, sizeof(where)))
		add_fact(d, FACT_HWLOC, node, where);
	if (by_parent(b, place, &node, where, sizeof(where)))
		add_fact(d, FACT_PARENT, node, where);
	conclude(b, d, via[0] != '\0');
}

/* ---- speed ---- */

/* GB/s of payload after line coding: "16.0 GT/s PCIe" times lanes. */
static double rate(struct build *b, const char *pci, const char *which)
{
	char speed[32], *end;
	uint64_t lanes;
	double gts;

	if (facts_read(b->facts, speed, sizeof(speed), PCI_DIR "/%s/%s_link_speed", pci, which) <= 0 ||
	    facts_u64(b->facts, &lanes, PCI_DIR "/%s/%s_link_width", pci, which) || lanes == 0 || lanes > 64)
		return 0;
	gts = strtod(speed, &end);
	if (end == speed || !(gts > 0 && gts < 1000))
		return 0;
	if (gts < 6)
		return gts * (double)lanes * 0.8 / 8; /* 8 of 10 bits */
	return gts * (double)lanes * (gts > 40 ? 242.0 / 256 : 128.0 / 130) / 8;
}

void pci_link_speed(struct build *b, struct mach_device *d, hwloc_obj_t obj)
{
	d->link_gbs = rate(b, d->pci, "current");
	d->link_max_gbs = rate(b, d->pci, "max");
	if (d->link_gbs <= 0 && obj) {
		double gbs = (double)obj->attr->pcidev.linkspeed;

		d->link_gbs = gbs > 0 && gbs < 10000 ? gbs : 0;
	}
}
