#include "tools/numa_facts.h"

#include "tools/cmd_numa.h"

#include <stdarg.h>
#include <string.h>

#define NODE_DIR "/sys/devices/system/node"
#define PCI_DIR  "/sys/bus/pci/devices"

struct teller {
	fact_fn *tell;
	void *ctx;
	char source[256];
};

static void clean(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static void tell(struct teller *t, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void tell(struct teller *t, const char *name, const char *fmt, ...)
{
	char value[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	clean(value);
	clean(t->source);
	t->tell(t->ctx, name, value[0] ? value : "?", t->source[0] ? t->source : "no source");
}

static struct teller *from(struct teller *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static struct teller *from(struct teller *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->source, sizeof(t->source), fmt, ap);
	va_end(ap);
	return t;
}

/* An hwloc XML brings no files: what is known of it is hwloc's word. */
static bool has_files(const struct machine *m)
{
	return strncmp(m->source, "XML file", 8) != 0;
}

static const char *limit_text(uint64_t v, char buf[24])
{
	return v == UINT64_MAX ? "no limit" : v ? numa_size_text(v, buf) : "0";
}

/* ---- a node ---------------------------------------------------------------------------------------------------------- */

static void tell_huge(struct teller *t, const struct mach_node *n)
{
	char size[24];

	for (uint32_t i = 0; i < n->nhuge; i++) {
		const struct mach_hugepages *h = &n->huge[i];

		numa_size_text(h->page_bytes, size);
		from(t, NODE_DIR "/node%d/hugepages/hugepages-%llukB", n->id.os,
		     (unsigned long long)(h->page_bytes >> 10));
		if (h->known)
			tell(t, "huge pages", "%s: %llu free of %llu, %llu surplus", size, (unsigned long long)h->free,
			     (unsigned long long)h->total, (unsigned long long)h->surplus);
		else
			tell(t, "huge pages", "%s: ?", size);
	}
	if (!n->nhuge)
		tell(from(t, "%s", ""), "huge pages", "?");
}

/* Cores of a node count by what hwloc found: CPUs that share one are hardware threads of it. */
static void tell_cores(struct teller *t, const struct machine *m, const struct mach_node *n)
{
	uint32_t cores = 0, cpus = 0;

	for (uint32_t i = 0; i < m->ncpus; i++) {
		bool first = node_same(m->cpus[i].node, n->id);

		cpus += first;
		for (uint32_t k = 0; k < i && first; k++)
			first = m->cpus[k].core != m->cpus[i].core;
		cores += first;
	}
	if (!cpus)
		return;
	from(t, "hwloc Core and Package");
	if (n->package == UINT32_MAX)
		tell(t, "cores", "%u (%u CPUs), package ?", cores, cpus);
	else
		tell(t, "cores", "%u (%u CPUs), package %u", cores, cpus, n->package);
}

static void tell_distances(struct teller *t, const struct machine *m, const struct mach_node *n, bool files)
{
	char value[1800] = "";
	size_t at = 0;

	for (uint32_t i = 0; i < m->nnodes && at + 32 < sizeof(value); i++) {
		uint32_t d = n->distance ? n->distance[i] : 0;
		int got = snprintf(value + at, sizeof(value) - at, d ? "%snode %d: %u" : "%snode %d: ?", at ? ", " : "",
				   m->nodes[i].id.os, d);

		at += got > 0 ? (size_t)got : 0;
	}
	if (files)
		from(t, NODE_DIR "/node%d/distance", n->id.os);
	else
		from(t, "hwloc NUMALatency");
	tell(t, "distances", "%s", value);
}

static void tell_cpus(struct teller *t, const struct mach_node *n, bool files)
{
	char list[1800];

	cpus_format(&n->all_cpus, list, sizeof(list));
	if (files)
		from(t, NODE_DIR "/node%d/cpulist", n->id.os);
	else
		from(t, "hwloc NUMANode P#%d", n->id.os);
	tell(t, "CPUs", "%s", list[0] ? list : "none");
	if (cpus_equal(&n->cpus, &n->all_cpus))
		return;
	cpus_format(&n->cpus, list, sizeof(list));
	tell(from(t, "/proc/self/status: Cpus_allowed_list"), "ours", "%s", list[0] ? list : "none");
}

void facts_of_node(const struct machine *m, uint32_t node, fact_fn *fn, void *ctx)
{
	const struct mach_node *n = &m->nodes[node];
	struct teller t = {.tell = fn, .ctx = ctx};
	bool files = has_files(m) && strncmp(n->memory_where, "hwloc", 5) != 0;
	char total[24], left[24];

	from(&t, "%s", n->memory_where);
	if (n->kind == NODE_EMPTY)
		tell(&t, "memory", "none");
	else
		tell(&t, "memory", "%s, %s free", n->memory_bytes ? numa_size_text(n->memory_bytes, total) : "?",
		     n->free_bytes ? numa_size_text(n->free_bytes, left) : "?");
	tell_huge(&t, n);
	tell_cpus(&t, n, files);
	tell_cores(&t, m, n);
	if (!n->allowed)
		tell(from(&t, "/proc/self/status: Mems_allowed_list"), "allowed", "no: our cpuset hides its memory");
	tell_distances(&t, m, n, files);
}

/* ---- a device -------------------------------------------------------------------------------------------------------- */

static void tell_drive(struct teller *t, const struct mach_device *d, bool files)
{
	int ctrl = (int)strcspn(d->name + (strncmp(d->name, "nvme", 4) == 0 ? 4 : 0), "n") + 4;
	char size[24];

	if (files)
		from(t, "/sys/class/nvme/%.*s/model", ctrl, d->name);
	else
		from(t, "hwloc: Block");
	if (d->model[0])
		tell(t, "model", "%s", d->model);
	if (files)
		from(t, "/sys/class/nvme/%.*s/serial", ctrl, d->name);
	if (d->serial[0])
		tell(t, "serial", "%s", d->serial);
	if (files)
		from(t, "/sys/class/block/%s/size", d->name);
	if (d->bytes)
		tell(t, "capacity", "%s", numa_size_text(d->bytes, size));
}

static void tell_gpu(struct teller *t, const struct mach_device *d)
{
	char size[24];

	if (d->model[0])
		tell(from(t, "the driver below /proc/driver, else hwloc"), "model", "%s", d->model);
	if (d->bytes)
		tell(from(t, "mem_info_vram_total, or the node that its memory is"), "memory", "%s",
		     numa_size_text(d->bytes, size));
}

void facts_of_device(const struct machine *m, const struct mach_device *d, fact_fn *fn, void *ctx)
{
	struct teller t = {.tell = fn, .ctx = ctx};
	bool files = has_files(m);

	if (d->kind == DEV_NVME)
		tell_drive(&t, d, files);
	else if (d->kind == DEV_GPU)
		tell_gpu(&t, d);
	else if (d->model[0])
		tell(from(&t, "hwloc: PCIDevice"), "model", "%s", d->model);
	if (d->netdev[0])
		tell(from(&t, "/sys/class/infiniband/%s", d->name), "network", "%s", d->netdev);
	if (files && d->pci[0])
		from(&t, PCI_DIR "/%s/{current,max}_link_{speed,width}", d->pci);
	else
		from(&t, "hwloc: PCI link speed");
	if (d->link_max_gbs > 0)
		tell(&t, "link", "%.1f GB/s of %.1f at best%s", d->link_gbs, d->link_max_gbs,
		     d->link_gbs < d->link_max_gbs * 0.99 ? ": SLOWER than it could be" : "");
	else if (d->link_gbs > 0)
		tell(&t, "link", "%.1f GB/s", d->link_gbs);
	from(&t, "%s/%s, its place in the tree", PCI_DIR, d->pci);
	if (d->bridge[0])
		tell(&t, "switch", "%s", d->bridge);
}

/* ---- the machine ----------------------------------------------------------------------------------------------------- */

static const char *probe_text(enum probe p)
{
	static const char *const words[] = {[PROBE_UNKNOWN] = "?",
					    [PROBE_OK] = "allowed",
					    [PROBE_DENIED] = "DENIED (EPERM)",
					    [PROBE_MISSING] = "not in this kernel"};
	return words[p];
}

static void tell_cgroup(struct teller *t, const struct mach_limits *l)
{
	char a[24], b[24], size[24];

	from(t, "/proc/self/cgroup");
	if (l->cgroup_version)
		tell(t, "cgroup", "version %u, %s", l->cgroup_version, l->cgroup);
	else
		tell(t, "cgroup", "?");
	from(t, "%s", l->memory_where[0] ? l->memory_where : "no cgroup limits it");
	tell(t, "memory", "%s", limit_text(l->memory_max, a));
	for (uint32_t i = 0; i < l->nhugetlb && i < MACH_PAGE_SIZES; i++) {
		const struct mach_hugetlb_limit *h = &l->hugetlb[i];

		numa_size_text(h->page_bytes, size);
		from(t, "%s", h->where[0] ? h->where : "no cgroup limits it");
		tell(t, "huge pages", "%s: %s, %s used", size, limit_text(h->max, a), limit_text(h->used, b));
		from(t, "%s", h->rsvd_where);
		if (h->rsvd_max != UINT64_MAX)
			tell(t, "reserved", "%s: %s, %s used", size, limit_text(h->rsvd_max, a),
			     limit_text(h->rsvd_used, b));
	}
}

static void tell_process(struct teller *t, const struct mach_limits *l)
{
	char a[24];

	tell(from(t, "/proc/self/limits: Max locked memory"), "memlock", "%s", limit_text(l->memlock, a));
	tell(from(t, "/proc/self/status: CapEff"), "capable", "SYS_NICE %s, IPC_LOCK %s, SYS_ADMIN %s",
	     l->cap_sys_nice ? "yes" : "no", l->cap_ipc_lock ? "yes" : "no", l->cap_sys_admin ? "yes" : "no");
	from(t, "/proc/self/status: Seccomp");
	if (l->seccomp == UINT32_MAX)
		tell(t, "seccomp", "?");
	else
		tell(t, "seccomp", "%u%s", l->seccomp, l->seccomp ? ": calls are filtered" : ": off");
	from(t, "tried, in a way that changes nothing");
	tell(t, "calls", "mbind %s, move_pages %s, set_mempolicy %s, sched_setaffinity %s, io_uring %s",
	     probe_text(l->mbind), probe_text(l->move_pages), probe_text(l->set_mempolicy),
	     probe_text(l->sched_setaffinity), probe_text(l->io_uring));
}

static void tell_kernel(struct teller *t, const struct mach_limits *l)
{
	char a[24], b[24];

	tell(from(t, "/proc/sys/kernel/numa_balancing"), "balancing", "%s", l->numa_balancing ? "on" : "off");
	tell(from(t, "/sys/kernel/mm/transparent_hugepage/enabled"), "THP", "%s", l->thp);
	tell(from(t, "mount of /dev/shm, transparent_hugepage/shmem_enabled"), "THP in shm", "%s", l->shmem_thp);
	if (l->shm_total)
		tell(from(t, "statvfs /dev/shm"), "/dev/shm", "%s, %s free", numa_size_text(l->shm_total, a),
		     limit_text(l->shm_free, b));
	for (uint32_t i = 0; i < 4 && l->hugetlbfs[i][0]; i++)
		tell(from(t, "/proc/self/mountinfo"), "hugetlbfs", "%s, pages of %s", l->hugetlbfs[i],
		     numa_size_text(l->hugetlbfs_page[i], a));
}

static void tell_special_cpus(struct teller *t, const struct machine *m)
{
	struct cpu_set isolated = {0};
	char list[1800];

	for (uint32_t i = 0; i < m->ncpus; i++)
		if (m->cpus[i].isolated)
			cpus_add(&isolated, m->cpus[i].os);
	cpus_format(&m->offline_cpus, list, sizeof(list));
	if (list[0])
		tell(from(t, "/sys/devices/system/cpu/present, less those online"), "offline", "CPUs %s", list);
	cpus_format(&isolated, list, sizeof(list));
	if (list[0])
		tell(from(t, "/sys/devices/system/cpu/isolated"), "isolated", "CPUs %s", list);
}

void facts_of_machine(const struct machine *m, fact_fn *fn, void *ctx)
{
	struct teller t = {.tell = fn, .ctx = ctx};
	bool files = has_files(m);

	tell(from(&t, files ? "/proc/sys/kernel/hostname" : "hwloc HostName"), "host", "%s", m->host);
	tell(from(&t, files ? "/proc/sys/kernel/osrelease" : "hwloc OSRelease"), "kernel", "%s", m->kernel);
	tell(from(&t, files ? "/sys/class/dmi/id, else hwloc" : "hwloc DMI"), "board", "%s", m->board);
	tell_special_cpus(&t, m);
	if (!files)
		return;
	tell_cgroup(&t, &m->limits);
	tell_process(&t, &m->limits);
	tell_kernel(&t, &m->limits);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------- */

static void collect(void *ctx, const char *name, const char *value, const char *source)
{
	bool nothing = strcmp(value, "?") == 0, known = !nothing && value[0] != '?' && !strstr(value, ": ?");

	json_array_append_new(ctx, json_pack("{s:s, s:o, s:s, s:s}", "name", name, "value",
					     nothing ? json_null() : json_string(value), "source", source, "confidence",
					     known ? "certain" : "unknown"));
}

json_t *facts_json(const struct machine *m, uint32_t node, const struct mach_device *device)
{
	json_t *list = json_array();

	if (device)
		facts_of_device(m, device, collect, list);
	else if (node < m->nnodes)
		facts_of_node(m, node, collect, list);
	else
		facts_of_machine(m, collect, list);
	return list;
}
