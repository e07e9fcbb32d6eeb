/* GPUs, network cards and drives: which PCI functions are one, and what they are called. */
#include "numa/machine_build.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCI_DIR  "/sys/bus/pci/devices"
#define FUNC_MAX 8192u

/* A name of this boot and the PCI function behind it. */
struct alias {
	char name[32], pci[16], netdev[32];
};
struct aliases {
	struct alias *a;
	uint32_t n;
};

struct func {
	char pci[16];
	hwloc_obj_t obj; /* NULL: hwloc does not show it */
};

struct scan {
	struct build *b;
	struct aliases net, rdma, nvme;
	struct func *func;
	uint32_t nfunc;
};

static bool fits_name(const char *s)
{
	return strlen(s) < sizeof(((struct alias *)0)->name);
}

static const struct alias *alias_of(const struct aliases *l, const char *pci)
{
	for (uint32_t i = 0; pci[0] && i < l->n; i++) {
		if (strcmp(l->a[i].pci, pci) == 0)
			return &l->a[i];
	}
	return NULL;
}

/* /sys/class/X: every entry is a link that leads through the PCI function, if there is one. */
static int read_class(struct build *b, const char *cls, struct aliases *out)
{
	struct facts_dir d;
	char path[512];

	if (facts_list(b->facts, &d, "/sys/class/%s", cls))
		return 0;
	out->a = mem_calloc(d.n + 1, sizeof(*out->a));
	for (uint32_t i = 0; out->a && i < d.n; i++) {
		struct alias *a = &out->a[out->n];

		if (!fits_name(d.names[i]) ||
		    facts_link(b->facts, path, sizeof(path), "/sys/class/%s/%s", cls, d.names[i]) < 0)
			continue;
		snprintf(a->name, sizeof(a->name), "%s", d.names[i]);
		pci_in_path(path, a->pci);
		out->n++;
	}
	facts_dir_free(&d);
	return out->a ? 0 : -ENOMEM;
}

/* A software RDMA device has no device of its own; it names the network device it runs on. */
static void find_netdevs(struct scan *s)
{
	for (uint32_t i = 0; i < s->rdma.n; i++) {
		struct alias *r = &s->rdma.a[i];
		char name[64];

		if (r->pci[0])
			continue;
		if (facts_read(s->b->facts, name, sizeof(name), "/sys/class/infiniband/%s/parent", r->name) <= 0 &&
		    facts_read(s->b->facts, name, sizeof(name), "/sys/class/infiniband/%s/ports/1/gid_attrs/ndevs/0",
			       r->name) <= 0)
			continue;
		if (!fits_name(name))
			continue;
		snprintf(r->netdev, sizeof(r->netdev), "%.31s", name);
		for (uint32_t k = 0; k < s->net.n; k++) {
			if (strcmp(s->net.a[k].name, name) == 0)
				memcpy(r->pci, s->net.a[k].pci, sizeof(r->pci));
		}
	}
}

static int by_pci(const void *a, const void *b)
{
	return pci_compare(((const struct func *)a)->pci, ((const struct func *)b)->pci);
}

static int list_functions(struct scan *s)
{
	hwloc_obj_t o = NULL;
	struct facts_dir d = {0};
	uint32_t n = 0, hw;

	facts_list(s->b->facts, &d, PCI_DIR);
	while ((o = hwloc_get_next_pcidev(s->b->hw, o)) && n < FUNC_MAX)
		n++;
	s->func = mem_calloc(n + d.n + 1, sizeof(*s->func));
	while (s->func && s->nfunc < n && (o = hwloc_get_next_pcidev(s->b->hw, o))) {
		const struct hwloc_pcidev_attr_s *a = &o->attr->pcidev;
		char text[32];

		snprintf(text, sizeof(text), "%04x:%02x:%02x.%x", (unsigned)a->domain, a->bus, a->dev, a->func);
		s->func[s->nfunc].obj = o;
		if (pci_spelled(text, strlen(text), s->func[s->nfunc].pci))
			s->nfunc++;
		else
			n--;
	}
	hw = s->nfunc;
	if (s->func)
		qsort(s->func, hw, sizeof(*s->func), by_pci);
	for (uint32_t i = 0; s->func && i < d.n; i++) {
		struct func *f = &s->func[s->nfunc];

		if (pci_spelled(d.names[i], strlen(d.names[i]), f->pci) &&
		    !bsearch(f, s->func, hw, sizeof(*f), by_pci)) {
			f->obj = NULL;
			s->nfunc++;
		}
	}
	facts_dir_free(&d);
	if (!s->func)
		return -ENOMEM;
	qsort(s->func, s->nfunc, sizeof(*s->func), by_pci);
	return 0;
}

/* Base class and subclass; 0 unknown. */
static uint32_t class_of(struct scan *s, const struct func *f)
{
	uint64_t v;

	if (facts_u64(s->b->facts, &v, PCI_DIR "/%s/class", f->pci) == 0)
		return (uint32_t)(v >> 8) & 0xffff;
	return f->obj ? f->obj->attr->pcidev.class_id : 0;
}

static uint32_t vendor_of(struct scan *s, const struct func *f)
{
	uint64_t v;

	if (facts_u64(s->b->facts, &v, PCI_DIR "/%s/vendor", f->pci) == 0)
		return (uint32_t)v & 0xffff;
	return f->obj ? f->obj->attr->pcidev.vendor_id : 0;
}

/* The first operating-system device of that type below a function. */
static hwloc_obj_t os_device(const struct func *f, hwloc_obj_osdev_type_t type)
{
	for (hwloc_obj_t o = f->obj ? f->obj->io_first_child : NULL; o; o = o->next_sibling) {
		if (o->type == HWLOC_OBJ_OS_DEVICE && o->attr->osdev.type == type && o->name)
			return o;
	}
	return NULL;
}

/* Display controllers that compute: NVIDIA's and AMD's, not the server's screen chip. */
static bool is_gpu(uint32_t cls, uint32_t vendor)
{
	bool nvidia = vendor == 0x10de, amd = vendor == 0x1002, intel = vendor == 0x8086;

	return cls == 0x0302 || (cls == 0x0300 && (nvidia || amd)) ||
	       ((cls == 0x0380 || cls == 0x1200) && (amd || intel));
}

static bool kind_of(struct scan *s, const struct func *f, enum mach_device_kind *out)
{
	uint32_t cls = class_of(s, f);
	bool gpu = (cls >> 8 == 0x03 || cls == 0x1200) && is_gpu(cls, vendor_of(s, f));
	char pf[256];

	if (!gpu && cls >> 8 != 0x02 && cls != 0x0108)
		return false;
	/* A virtual function on its host is a slice of a card that is listed already. */
	if (facts_link(s->b->facts, pf, sizeof(pf), PCI_DIR "/%s/physfn", f->pci) > 0)
		return false;
	*out = gpu ? DEV_GPU : cls == 0x0108 ? DEV_NVME : DEV_NIC;
	if (*out == DEV_NIC &&
	    (cls == 0x0207 || alias_of(&s->rdma, f->pci) || os_device(f, HWLOC_OBJ_OSDEV_OPENFABRICS)))
		*out = DEV_RDMA;
	return true;
}

static void copy_info(char *out, size_t cap, hwloc_obj_t o, const char *key)
{
	const char *v = o ? hwloc_obj_get_info_by_name(o, key) : NULL;

	if (!out[0] && v)
		facts_copy(out, cap, v);
}

static void name_network(struct scan *s, struct mach_device *d, const struct func *f, char *via, size_t cap)
{
	const struct alias *net = alias_of(&s->net, d->pci), *rdma = alias_of(&s->rdma, d->pci);
	hwloc_obj_t on = os_device(f, HWLOC_OBJ_OSDEV_NETWORK), oi = os_device(f, HWLOC_OBJ_OSDEV_OPENFABRICS);
	const char *netdev = net ? net->name : on ? on->name : "";

	if (rdma && rdma->netdev[0])
		snprintf(via, cap, "%s on %s", rdma->name, rdma->netdev);
	if (d->kind == DEV_RDMA) {
		facts_copy(d->name, sizeof(d->name), rdma ? rdma->name : oi ? oi->name : netdev);
		facts_copy(d->netdev, sizeof(d->netdev), netdev);
	} else {
		facts_copy(d->name, sizeof(d->name), netdev);
	}
}

/* "nvme0c1n1" is a path of "nvme0n1" when a drive has several. */
static bool namespace_name(const char *entry, const char *ctrl, char *out, size_t cap)
{
	unsigned head, path, ns;
	int n = 0;

	if (sscanf(entry, "nvme%9un%9u%n", &head, &ns, &n) == 2 && !entry[n] &&
	    strncmp(entry, ctrl, strlen(ctrl)) == 0 && entry[strlen(ctrl)] == 'n')
		return snprintf(out, cap, "%s", entry) < (int)cap;
	n = 0;
	if (sscanf(entry, "nvme%9uc%9un%9u%n", &head, &path, &ns, &n) == 3 && !entry[n])
		return snprintf(out, cap, "nvme%un%u", head, ns) < (int)cap;
	return false;
}

static void name_drive(struct scan *s, struct mach_device *d, const struct func *f)
{
	const struct alias *c = alias_of(&s->nvme, d->pci);
	hwloc_obj_t o = os_device(f, HWLOC_OBJ_OSDEV_BLOCK);
	struct facts *facts = s->b->facts;
	struct facts_dir dir;
	char text[128];
	uint64_t sectors;

	if (c) {
		facts_copy(d->name, sizeof(d->name), c->name);
		if (facts_read(facts, text, sizeof(text), "/sys/class/nvme/%s/model", c->name) > 0)
			facts_copy(d->model, sizeof(d->model), text);
		if (facts_read(facts, text, sizeof(text), "/sys/class/nvme/%s/serial", c->name) > 0)
			facts_copy(d->serial, sizeof(d->serial), text);
		if (facts_list(facts, &dir, "/sys/class/nvme/%s", c->name) == 0) {
			bool found = false;

			for (uint32_t i = 0; i < dir.n && !found; i++)
				found = namespace_name(dir.names[i], c->name, d->name, sizeof(d->name));
			facts_dir_free(&dir);
		}
		if (facts_u64(facts, &sectors, "/sys/class/block/%s/size", d->name) == 0 && sectors < UINT64_MAX >> 9)
			d->bytes = sectors << 9;
	} else if (o) {
		const char *kib = hwloc_obj_get_info_by_name(o, "Size");

		facts_copy(d->name, sizeof(d->name), o->name);
		d->bytes = kib ? strtoull(kib, NULL, 10) << 10 : 0;
	}
	copy_info(d->model, sizeof(d->model), o, "Model");
	copy_info(d->serial, sizeof(d->serial), o, "SerialNumber");
}

/* A GPU whose memory is a node says how much there is: through its driver, or through hwloc. */
static uint64_t memory_as_node(struct build *b, const char *pci)
{
	char text[1024], *at;
	const struct mach_node *n;

	if (facts_read(b->facts, text, sizeof(text), "/proc/driver/nvidia/gpus/%s/numa_status", pci) > 0 &&
	    (at = strstr(text, "Node:"))) {
		n = machine_node(b->m, node_of((int)strtol(at + 5, NULL, 10)));
		if (n && n->kind == NODE_GPU_MEMORY)
			return n->memory_bytes;
	}
	for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(b->hw, HWLOC_OBJ_NUMANODE, o));) {
		const char *id = hwloc_obj_get_info_by_name(o, "PCIBusID");
		char spelled[16];

		if (id && pci_spelled(id, strlen(id), spelled) && strcmp(spelled, pci) == 0)
			return o->attr->numanode.local_memory;
	}
	return 0;
}

static void describe_gpu(struct scan *s, struct mach_device *d, const struct func *f)
{
	struct facts *facts = s->b->facts;
	char *text = facts_text(facts, "/proc/driver/nvidia/gpus/%s/information", d->pci);
	char *at = text ? strstr(text, "Model:") : NULL;

	if (at) {
		at += 6;
		at += strspn(at, " \t");
		at[strcspn(at, "\n")] = '\0';
		facts_copy(d->model, sizeof(d->model), at);
	}
	mem_free(text);
	if (facts_u64(facts, &d->bytes, PCI_DIR "/%s/mem_info_vram_total", d->pci))
		d->bytes = memory_as_node(s->b, d->pci);
	copy_info(d->model, sizeof(d->model), f->obj, "PCIDevice");
}

static void add_device(struct scan *s, const struct func *f, enum mach_device_kind kind, struct pci_place *place)
{
	struct mach_device *d = &s->b->m->devices[s->b->m->ndevices++];
	char via[96] = "";

	d->kind = kind;
	memcpy(d->pci, f->pci, sizeof(d->pci));
	pci_place_of(s->b, d->pci, f->obj, place);
	if (place->nchain)
		memcpy(d->bridge, place->chain[0], sizeof(d->bridge));
	if (kind == DEV_GPU)
		describe_gpu(s, d, f);
	else if (kind == DEV_NVME)
		name_drive(s, d, f);
	else
		name_network(s, d, f, via, sizeof(via));
	copy_info(d->model, sizeof(d->model), f->obj, "PCIDevice");
	pci_link_speed(s->b, d, f->obj);
	pci_locality(s->b, d, f->obj, place, via);
}

/* RDMA on a network device that is no PCI function (a bridge, a tunnel): it has no place, and that is what we say. */
static void add_placeless(struct scan *s)
{
	for (uint32_t i = 0; i < s->rdma.n && s->b->m->ndevices < MACH_DEVICES_MAX; i++) {
		const struct alias *r = &s->rdma.a[i];
		struct mach_device *d;

		if (r->pci[0])
			continue;
		d = &s->b->m->devices[s->b->m->ndevices++];
		d->kind = DEV_RDMA;
		d->node = NODE_UNKNOWN;
		d->root_complex = UINT32_MAX;
		facts_copy(d->name, sizeof(d->name), r->name);
		facts_copy(d->netdev, sizeof(d->netdev), r->netdev);
	}
}

/* Same host bridge, same number; numbered in the order of addresses. */
static void number_roots(struct machine *m, char (*root)[16], uint32_t n)
{
	uint32_t next = 0;

	for (uint32_t i = 0; i < n; i++) {
		m->devices[i].root_complex = root[i][0] ? next : UINT32_MAX;
		for (uint32_t k = 0; root[i][0] && k < i; k++) {
			if (strcmp(root[k], root[i]) == 0) {
				m->devices[i].root_complex = m->devices[k].root_complex;
				break;
			}
		}
		if (m->devices[i].root_complex == next)
			next++;
	}
}

static int add_all(struct scan *s)
{
	struct machine *m = s->b->m;
	char(*root)[16] = mem_calloc(MACH_DEVICES_MAX, sizeof(*root));
	uint32_t gpus = 0;

	m->devices = mem_calloc(MACH_DEVICES_MAX, sizeof(*m->devices));
	if (!root || !m->devices) {
		mem_free(root);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < s->nfunc && m->ndevices < MACH_DEVICES_MAX; i++) {
		enum mach_device_kind kind;
		struct pci_place place;

		if (!kind_of(s, &s->func[i], &kind))
			continue;
		add_device(s, &s->func[i], kind, &place);
		memcpy(root[m->ndevices - 1], place.root, sizeof(place.root));
		if (kind == DEV_GPU)
			snprintf(m->devices[m->ndevices - 1].name, sizeof(m->devices[0].name), "gpu%u", gpus++);
	}
	number_roots(m, root, m->ndevices);
	mem_free(root);
	add_placeless(s);
	return 0;
}

int build_devices(struct build *b)
{
	struct scan s = {.b = b};
	int r = read_class(b, "net", &s.net);

	if (r == 0)
		r = read_class(b, "infiniband", &s.rdma);
	if (r == 0)
		r = read_class(b, "nvme", &s.nvme);
	if (r == 0)
		r = list_functions(&s);
	if (r == 0) {
		find_netdevs(&s);
		r = add_all(&s);
	}
	mem_free(s.net.a);
	mem_free(s.rdma.a);
	mem_free(s.nvme.a);
	mem_free(s.func);
	return r ? r : facts_oom(b->facts) ? -ENOMEM : 0;
}
