/* plan_notes.c - what an operator should know about a plan: what is unknown, in the way, or missing, each with its remedy. */
#include "numa/plan_int.h"

#include <string.h>

struct words {
	char text[256], remedy[256], where[192];
};

#define MEMS    "/proc/self/status: Mems_allowed_list"
#define SECCOMP "/proc/self/status: Seccomp"

static void add(struct planner *pl, enum plan_severity severity, const struct words *w)
{
	plan_note_add(pl, severity, w->text, w->remedy, w->where);
}

static const char *name_of(const struct mach_device *d)
{
	return d->name[0] ? d->name : d->pci;
}

/* The file that says how much a node has; -1: all nodes. */
static void where_memory(const struct layout *l, int node, struct words *w)
{
	char id[16] = "*";

	if (node >= 0)
		plan_text(id, sizeof(id), "%d", node);
	if (l->kind.backing == BACK_HUGETLB)
		plan_text(w->where, sizeof(w->where),
			  "/sys/devices/system/node/node%s/hugepages/hugepages-%llukB/free_hugepages", id,
			  (unsigned long long)(l->kind.page / 1024));
	else
		plan_text(w->where, sizeof(w->where), "/sys/devices/system/node/node%s/meminfo", id);
}

static void note_shortage(struct planner *pl)
{
	const struct layout *l = &pl->chosen;
	struct words w = {0};
	uint64_t placed = l->placed * l->kind.unit;
	char missing[32], all[32], page[32], fits[32];

	if (!pl->p->shortage_bytes)
		return;
	plan_text(w.text, sizeof(w.text), "%s of %s of L1 found no place with %s%s pages",
		  plan_bytes(pl->p->shortage_bytes, missing), plan_bytes(pl->p->conf.l1_bytes, all),
		  l->kind.backing == BACK_HUGETLB ? "huge " : "", plan_bytes(l->kind.page, page));
	where_memory(l, -1, &w);
	if (l->limit != UNLIMITED && l->placed >= l->limit) {
		plan_text(w.where, sizeof(w.where), "%s", l->limit_where);
		plan_more(w.text, sizeof(w.text), ": %s allows %s%s", l->limit_where[0] ? l->limit_where : "the cgroup",
			  plan_bytes(l->limit * l->kind.unit, fits),
			  l->kind.backing == BACK_HUGETLB ? "" : " after a reserve for the process");
		plan_text(w.remedy, sizeof(w.remedy), "raise %s by %llu bytes, or make L1 smaller",
			  l->limit_where[0] ? l->limit_where : "the limit of our cgroup",
			  (unsigned long long)pl->p->shortage_bytes);
	} else if (pl->nshares == 0) {
		plan_text(w.where, sizeof(w.where), MEMS);
		plan_more(w.text, sizeof(w.text), ": no node of ordinary memory is allowed to us");
		plan_text(w.remedy, sizeof(w.remedy), "allow a node with memory: cpuset.mems of our cgroup");
	} else if (l->kind.backing == BACK_HUGETLB) {
		plan_more(w.text, sizeof(w.text), ": the nodes have no more free ones");
		plan_text(w.remedy, sizeof(w.remedy),
			  "reserve more pages by the lines of `numa plan`, or make L1 smaller: %s fit",
			  plan_bytes(placed, fits));
	} else {
		plan_more(w.text, sizeof(w.text), ": the nodes have no more, less a reserve for the system");
		plan_text(w.remedy, sizeof(w.remedy), "make L1 smaller: %s fit", plan_bytes(placed, fits));
	}
	add(pl, PLAN_SHORTAGE, &w);
}

static void note_rounding(struct planner *pl)
{
	const struct layout *l = &pl->chosen;
	struct words w = {0};
	uint64_t lost = pl->p->conf.l1_bytes - l->asked * l->kind.unit;
	char a[32], b[32], c[32];

	if (lost < SHM_UNIT)
		return;
	plan_text(w.text, sizeof(w.text), "L1 is rounded down to whole pages of %s: %s of %s",
		  plan_bytes(l->kind.page, a), plan_bytes(l->asked * l->kind.unit, b),
		  plan_bytes(pl->p->conf.l1_bytes, c));
	add(pl, PLAN_NOTICE, &w);
}

static void note_spill(struct planner *pl)
{
	const struct layout *l = &pl->chosen;

	for (uint32_t i = 0; l->spilled && pl->basis != BY_NEARNESS && i < pl->nshares; i++) {
		struct words w = {0};
		int from = pl->m->nodes[pl->share[i].node].id.os;
		char over[32], fits[32];

		if (l->want[i] <= l->cap[i])
			continue;
		where_memory(l, from, &w);
		plan_text(w.text, sizeof(w.text),
			  "node %d: %s more wanted than the %s that fit; they go to other nodes", from,
			  plan_bytes((l->want[i] - l->cap[i]) * l->kind.unit, over),
			  plan_bytes(l->cap[i] * l->kind.unit, fits));
		if (l->kind.backing == BACK_HUGETLB)
			plan_text(w.remedy, sizeof(w.remedy),
				  "reserve more huge pages on node %d, by the lines of `numa plan`", from);
		else
			plan_text(w.remedy, sizeof(w.remedy), "make L1 smaller, or share it out by hand");
		add(pl, PLAN_WARNING, &w);
	}
}

static void note_unknown(struct planner *pl)
{
	const struct machine *m = pl->m;
	struct words w = {0};
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->ndevices; i++)
		n += plan_node_of(m, &m->devices[i]) == NO_INDEX;
	/* With one node there is nothing to be near to. */
	if (n == 0 || m->nnodes < 2)
		return;
	plan_text(w.where, sizeof(w.where), "/sys/bus/pci/devices/*/numa_node");
	plan_text(w.text, sizeof(w.text), "the node of %u device%s is unknown, so any CPU and any pool serve:", n,
		  n == 1 ? "" : "s");
	for (uint32_t i = 0; i < m->ndevices; i++) {
		if (plan_node_of(m, &m->devices[i]) == NO_INDEX)
			plan_more(w.text, sizeof(w.text), " %s", name_of(&m->devices[i]));
	}
	plan_text(w.remedy, sizeof(w.remedy),
		  "update the firmware (it does not say), or tell hwloc: HWLOC_PCI_LOCALITY (`numa explain` shows what "
		  "was asked)");
	add(pl, PLAN_WARNING, &w);
}

static void note_disputed(struct planner *pl)
{
	for (uint32_t i = 0; i < pl->m->ndevices; i++) {
		const struct mach_device *d = &pl->m->devices[i];
		struct words w = {0};
		char node[24];

		if (d->confidence != CONF_DISPUTED)
			continue;
		plan_device_source(d, w.where, sizeof(w.where));
		plan_text(w.text, sizeof(w.text), "%s: sources disagree, %s is taken:", name_of(d),
			  machine_node_text(d->node, node));
		for (uint32_t k = 0; k < d->nfacts && k < MACH_FACTS; k++)
			plan_more(w.text, sizeof(w.text), "%s %s says %s", k ? "," : "",
				  d->fact[k].where[0] ? d->fact[k].where : fact_source_name(d->fact[k].source),
				  machine_node_text(d->fact[k].node, node));
		plan_text(w.remedy, sizeof(w.remedy),
			  "lmcache-appliance numa explain %s; then set HWLOC_PCI_LOCALITY to what is true", name_of(d));
		add(pl, PLAN_WARNING, &w);
	}
}

static bool device_on(const struct machine *m, uint32_t node)
{
	for (uint32_t i = 0; i < m->ndevices; i++) {
		if (plan_node_of(m, &m->devices[i]) == node)
			return true;
	}
	return false;
}

static void note_hidden(struct planner *pl)
{
	const struct machine *m = pl->m;
	struct words w = {0};
	bool any = false, devices = false;

	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (m->nodes[i].allowed || m->nodes[i].kind != NODE_DRAM)
			continue;
		if (!any)
			plan_text(w.text, sizeof(w.text), "our cpuset hides the memory of node");
		plan_more(w.text, sizeof(w.text), "%s %d", any ? "," : "", m->nodes[i].id.os);
		any = true;
		devices = devices || device_on(m, i);
	}
	if (!any)
		return;
	plan_text(w.where, sizeof(w.where), MEMS);
	if (devices)
		plan_more(w.text, sizeof(w.text), "; devices sit there, their data goes to other nodes");
	plan_text(w.remedy, sizeof(w.remedy),
		  "widen cpuset.mems of cgroup %s (docker: --cpuset-mems, systemd: AllowedMemoryNodes=)",
		  m->limits.cgroup[0] ? m->limits.cgroup : "(unknown)");
	add(pl, devices ? PLAN_WARNING : PLAN_NOTICE, &w);
}

static void note_binding(struct planner *pl)
{
	const struct mach_limits *lim = &pl->m->limits;
	bool yes = pl->p->conf.numa == WANT_YES;
	struct words w = {0};

	if (pl->p->conf.numa == WANT_NO || (pl->unbound && !pl->blind))
		return;
	plan_text(w.where, sizeof(w.where), SECCOMP);
	if (pl->blind) {
		plan_text(w.where, sizeof(w.where), "/sys/devices/system/node");
		plan_text(w.text, sizeof(w.text), "no node's memory is known (%s), so L1 is bound to none",
			  pl->m->source);
		plan_text(w.remedy, sizeof(w.remedy), "mount /sys, or state numa=no");
	} else if (lim->mbind == PROBE_DENIED) {
		plan_text(w.text, sizeof(w.text), "mbind is denied (EPERM, a seccomp profile): %s",
			  yes ? "numa=yes cannot be met"
			      : "memory goes where the thread runs that touches it first, and nothing holds it there");
		plan_text(w.remedy, sizeof(w.remedy),
			  "docker run --cap-add SYS_NICE, or a seccomp profile that allows mbind, set_mempolicy and "
			  "move_pages");
	} else if (lim->mbind == PROBE_MISSING) {
		plan_text(w.where, sizeof(w.where), "mbind: ENOSYS");
		plan_text(w.text, sizeof(w.text), "the kernel has no mbind: memory cannot be bound to nodes");
		plan_text(w.remedy, sizeof(w.remedy), "a kernel with CONFIG_NUMA, or state numa=no");
	} else {
		return;
	}
	add(pl, yes ? PLAN_SHORTAGE : PLAN_WARNING, &w);
}

static void note_pinning(struct planner *pl)
{
	struct words w = {0};

	if (pl->p->conf.numa == WANT_NO || pl->m->limits.sched_setaffinity != PROBE_DENIED)
		return;
	plan_text(w.where, sizeof(w.where), SECCOMP);
	plan_text(w.text, sizeof(w.text),
		  "sched_setaffinity is denied (EPERM): threads run wherever the kernel puts them");
	plan_text(w.remedy, sizeof(w.remedy), "a seccomp profile that allows sched_setaffinity");
	add(pl, pl->p->conf.numa == WANT_YES ? PLAN_SHORTAGE : PLAN_WARNING, &w);
}

static void note_thp(struct planner *pl)
{
	enum plan_want thp = pl->p->conf.thp;
	const char *word = pl->m->limits.shmem_thp;
	struct words w = {0};

	if (thp == WANT_NO || plan_thp_works(pl->m) || pl->chosen.kind.backing == BACK_HUGETLB)
		return;
	if (thp == WANT_TRY && !word[0])
		return;
	plan_text(w.where, sizeof(w.where), "%s",
		  strcmp(word, "deny") == 0 ? SHMEM_PATH : "/proc/self/mountinfo: huge= of /dev/shm");
	plan_text(w.text, sizeof(w.text), "transparent huge pages for /dev/shm are %s%s%s: L1 has pages of 4 KiB",
		  word[0] ? "off (" : "not known to work", word, word[0] ? ")" : "");
	plan_text(w.remedy, sizeof(w.remedy), "%smount -o remount,huge=advise /dev/shm",
		  strcmp(word, "deny") == 0 ? "echo never > " SHMEM_PATH "; " : "");
	add(pl, thp == WANT_YES ? PLAN_SHORTAGE : PLAN_NOTICE, &w);
}

/* Free space of /dev/shm, with what a daemon of ours has there. */
static uint64_t shm_room(const struct planner *pl)
{
	const struct plan_conf *c = &pl->p->conf;
	uint64_t room = pl->m->limits.shm_free;

	for (uint32_t i = 0; i < c->nheld; i++) {
		if (c->held[i].page_bytes == ARENA_PAGE)
			room += c->held[i].pages * ARENA_PAGE;
	}
	return room < pl->m->limits.shm_total ? room : pl->m->limits.shm_total;
}

static void note_shm(struct planner *pl)
{
	const struct mach_limits *lim = &pl->m->limits;
	uint64_t bytes = pl->chosen.placed * pl->chosen.kind.unit, room = shm_room(pl), gib;
	struct words w = {0};
	char a[32], b[32];

	if (pl->chosen.kind.backing == BACK_HUGETLB || lim->shm_total == 0 || room >= bytes)
		return;
	gib = (lim->shm_total - room + bytes + GIB - 1) / GIB;
	plan_text(w.where, sizeof(w.where), "/dev/shm");
	plan_text(w.text, sizeof(w.text), "/dev/shm has room for %s, L1 needs %s", plan_bytes(room, a),
		  plan_bytes(bytes, b));
	plan_text(w.remedy, sizeof(w.remedy), "mount -o remount,size=%lluG /dev/shm (docker: --shm-size=%llug)",
		  (unsigned long long)gib, (unsigned long long)gib);
	add(pl, PLAN_WARNING, &w);
}

static void note_free(struct planner *pl)
{
	const struct layout *l = &pl->chosen;

	for (uint32_t i = 0; i < pl->nshares && l->kind.backing != BACK_HUGETLB && !pl->unbound; i++) {
		const struct mach_node *n = &pl->m->nodes[pl->share[i].node];
		struct words w = {0};
		char a[32], b[32];

		if (!n->free_bytes || l->got[i] * l->kind.unit <= n->free_bytes)
			continue;
		where_memory(l, n->id.os, &w);
		plan_text(w.text, sizeof(w.text),
			  "node %d: %s of L1, but only %s are free now; the page cache may give way", n->id.os,
			  plan_bytes(l->got[i] * l->kind.unit, a), plan_bytes(n->free_bytes, b));
		plan_text(w.remedy, sizeof(w.remedy), "sync; echo 1 > /proc/sys/vm/drop_caches");
		add(pl, PLAN_NOTICE, &w);
	}
}

static void note_odd_nodes(struct planner *pl)
{
	static const char *const kinds[] = {[NODE_GPU_MEMORY] = "a GPU's memory", [NODE_SLOW] = "slow memory"};
	struct words w = {0};

	for (uint32_t i = 0; i < pl->nshares; i++) {
		const struct mach_node *n = &pl->m->nodes[pl->share[i].node];

		if (n->kind != NODE_GPU_MEMORY && n->kind != NODE_SLOW)
			continue;
		plan_text(w.where, sizeof(w.where), "%s", n->memory_where);
		plan_text(w.text, sizeof(w.text), "node %d is %s; it has a pool because the map names it", n->id.os,
			  kinds[n->kind]);
		add(pl, PLAN_WARNING, &w);
	}
	if (!pl->no_distance)
		return;
	plan_text(w.where, sizeof(w.where), "/sys/devices/system/node/node*/distance");
	plan_text(
		w.text, sizeof(w.text),
		"devices sit on nodes without a pool, and no distance between nodes is known: they count for no node");
	plan_text(w.remedy, sizeof(w.remedy), "share L1 out by hand (policy manual)");
	add(pl, PLAN_WARNING, &w);
}

void plan_notes(struct planner *pl)
{
	note_shortage(pl);
	note_rounding(pl);
	note_spill(pl);
	note_binding(pl);
	note_pinning(pl);
	note_hidden(pl);
	note_odd_nodes(pl);
	note_unknown(pl);
	note_disputed(pl);
	note_thp(pl);
	note_shm(pl);
	note_free(pl);
}
