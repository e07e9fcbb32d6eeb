/* plan_actions.c - the exact lines that lead to a better plan, and the notes that name them: huge pages, sysctls, limits. */
#include "numa/plan_int.h"

#include <string.h>

#define MOST_NOTES 16u

static struct plan_action *add(struct planner *pl, enum plan_action_kind kind)
{
	struct plan_action *actions = plan_grow(pl, pl->p->actions, &pl->p->nactions, sizeof(*actions)), *a;

	if (!actions)
		return NULL;
	pl->p->actions = actions;
	a = &actions[pl->p->nactions - 1];
	a->kind = kind;
	return a;
}

static bool offered(const struct planner *pl, uint64_t page)
{
	for (uint32_t i = 0; i < pl->nshares; i++) {
		if (plan_huge(&pl->m->nodes[pl->share[i].node], page))
			return true;
	}
	return false;
}

/* The huge pages worth reserving; false: none are wanted, or there are enough. */
static bool target(const struct planner *pl, struct kind *out)
{
	const struct plan_conf *c = &pl->p->conf;
	const struct layout *l = &pl->chosen;

	*out = l->kind;
	if (l->kind.backing == BACK_HUGETLB)
		return l->spilled || l->placed < l->asked;
	if (c->huge_2m != WANT_NO && offered(pl, 2 * MIB))
		*out = plan_kind(BACK_HUGETLB, 2 * MIB);
	else if (c->huge_1g != WANT_NO && offered(pl, GIB))
		*out = plan_kind(BACK_HUGETLB, GIB);
	return out->backing == BACK_HUGETLB;
}

/* Pages a node must have in all, so that `got` are free for us. */
static uint64_t needed(const struct planner *pl, const struct mach_node *n, uint64_t page, uint64_t got)
{
	const struct mach_hugepages *h = plan_huge(n, page);

	return (h ? h->total - plan_huge_free(pl, n, page) : 0) + got;
}

static void pages_path(const struct mach_node *n, uint64_t page, char *out, size_t cap)
{
	plan_text(out, cap, "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/nr_hugepages", n->id.os,
		  (unsigned long long)(page / 1024));
}

static void note_pages(struct planner *pl, const struct mach_node *n, struct kind kind, uint64_t got, uint64_t need)
{
	/* Only a YES leaves L1 short of huge pages. */
	bool demanded = pl->chosen.kind.backing == BACK_HUGETLB && pl->chosen.placed < pl->chosen.asked;
	const struct mach_hugepages *h = plan_huge(n, kind.page);
	char text[256], remedy[256], path[160], page[32];

	pages_path(n, kind.page, path, sizeof(path));
	plan_text(text, sizeof(text), "node %d: %llu huge pages of %s wanted, %llu of %llu are free", n->id.os,
		  (unsigned long long)got, plan_bytes(kind.page, page),
		  (unsigned long long)plan_huge_free(pl, n, kind.page), (unsigned long long)h->total);
	if (kind.page >= GIB)
		plan_more(text, sizeof(text), "; this size is practically only had at boot");
	if (kind.page >= GIB && pl->m->nnodes > 1)
		plan_text(remedy, sizeof(remedy),
			  "kernel command line: hugepagesz=1G hugepages=%d:%llu (all nodes: `numa plan`)", n->id.os,
			  (unsigned long long)need);
	else if (kind.page >= GIB)
		plan_text(remedy, sizeof(remedy), "kernel command line: hugepagesz=1G hugepages=%llu",
			  (unsigned long long)need);
	else
		plan_text(remedy, sizeof(remedy), "echo %llu > %s", (unsigned long long)need, path);
	plan_note_add(pl, demanded ? PLAN_SHORTAGE : h->total ? PLAN_WARNING : PLAN_NOTICE, text, remedy, path);
}

static void reserve_now(struct planner *pl, const struct mach_node *n, struct kind kind, uint64_t got, uint64_t need)
{
	struct plan_action *a = add(pl, ACT_SYSFS);
	char bytes[32];

	if (!a)
		return;
	pages_path(n, kind.page, a->path, sizeof(a->path));
	plan_text(a->value, sizeof(a->value), "%llu", (unsigned long long)need);
	plan_text(a->line.reason, sizeof(a->line.reason), "%s of L1 on node %d", plan_bytes(got * kind.unit, bytes),
		  n->id.os);
	if (need > got)
		plan_more(a->line.reason, sizeof(a->line.reason), ", and %llu pages that others use",
			  (unsigned long long)(need - got));
	plan_text(a->line.source, sizeof(a->line.source),
		  "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/free_hugepages", n->id.os,
		  (unsigned long long)(kind.page / 1024));
}

static uint64_t got_on(const struct planner *pl, const struct layout *ideal, uint32_t node)
{
	for (uint32_t i = 0; i < pl->nshares; i++) {
		if (pl->share[i].node == node)
			return ideal->got[i];
	}
	return 0;
}

/* One argument for all nodes, since the kernel takes only one per page size. Pages that are there for others stay. */
static void reserve_at_boot(struct planner *pl, const struct layout *ideal)
{
	struct plan_action *a = add(pl, ACT_KERNEL_ARG);
	uint64_t page = ideal->kind.page;
	const char *separator = "";

	if (!a)
		return;
	plan_text(a->value, sizeof(a->value), "hugepagesz=%s hugepages=", page == GIB ? "1G" : "2M");
	for (uint32_t i = 0; i < pl->m->nnodes; i++) {
		const struct mach_node *n = &pl->m->nodes[i];
		const struct mach_hugepages *h = plan_huge(n, page);
		uint64_t need = needed(pl, n, page, got_on(pl, ideal, i));

		if (h && h->total > need)
			need = h->total;
		if (need == 0)
			continue;
		if (pl->m->nnodes == 1)
			plan_more(a->value, sizeof(a->value), "%llu", (unsigned long long)need);
		else
			plan_more(a->value, sizeof(a->value), "%s%d:%llu", separator, n->id.os,
				  (unsigned long long)need);
		separator = ",";
	}
	plan_text(a->line.reason, sizeof(a->line.reason),
		  page == GIB
			  ? "pages of 1 GiB are had at boot, before memory is fragmented; read back what each node got"
			  : "the same after a reboot (per node: kernel 5.17 or later)");
	plan_text(a->line.source, sizeof(a->line.source),
		  "Documentation/admin-guide/kernel-parameters.txt: hugepages=; free pages of each node");
	/* An argument that was cut must not reach a boot loader. */
	if (strstr(a->value, "..."))
		pl->p->nactions--;
}

static uint64_t left(uint64_t max, uint64_t used)
{
	return max == UNLIMITED ? max : max > used ? max - used : 0;
}

static void note_hugetlb_limit(struct planner *pl, const struct layout *ideal)
{
	const struct mach_limits *lim = &pl->m->limits;
	uint64_t bytes = ideal->placed * ideal->kind.unit;
	bool short_of = pl->chosen.kind.backing == BACK_HUGETLB && pl->chosen.placed < pl->chosen.asked;

	for (uint32_t i = 0; i < lim->nhugetlb && i < MACH_PAGE_SIZES; i++) {
		const struct mach_hugetlb_limit *h = &lim->hugetlb[i];
		bool rsvd = left(h->rsvd_max, h->rsvd_used) < left(h->max, h->used);
		uint64_t max = rsvd ? h->rsvd_max : h->max, used = rsvd ? h->rsvd_used : h->used;
		const char *where = rsvd ? h->rsvd_where : h->where;
		char text[256], remedy[256], a[32], b[32], c[32];

		if (h->page_bytes != ideal->kind.page || left(max, used) >= bytes)
			continue;
		plan_text(text, sizeof(text), "%s allows %s of huge pages, %s are used, and L1 wants %s more", where,
			  plan_bytes(max, a), plan_bytes(used, b), plan_bytes(bytes, c));
		plan_text(remedy, sizeof(remedy), "echo %llu > %s (Kubernetes: limits hugepages-%s)",
			  (unsigned long long)(used + bytes), where, h->page_bytes == GIB ? "1Gi" : "2Mi");
		plan_note_add(pl, short_of ? PLAN_SHORTAGE : PLAN_WARNING, text, remedy, where);
	}
}

/* Pages that node `i` of the shares must have in all; 0: it has them. */
static uint64_t lacks(const struct planner *pl, const struct layout *ideal, uint32_t i)
{
	const struct mach_node *n = &pl->m->nodes[pl->share[i].node];
	const struct mach_hugepages *h = plan_huge(n, ideal->kind.page);
	uint64_t need = needed(pl, n, ideal->kind.page, ideal->got[i]);

	return h && need > h->total ? need : 0;
}

/* On a machine of many nodes a line for each would drown the others. */
static void note_many(struct planner *pl, const struct layout *ideal, uint32_t nodes)
{
	bool demanded = pl->chosen.kind.backing == BACK_HUGETLB && pl->chosen.placed < pl->chosen.asked;
	char text[256], page[32];

	plan_text(text, sizeof(text), "%u nodes lack huge pages of %s: %llu are wanted in all", nodes,
		  plan_bytes(ideal->kind.page, page), (unsigned long long)ideal->placed);
	plan_note_add(pl, demanded ? PLAN_SHORTAGE : PLAN_NOTICE, text,
		      ideal->kind.page < GIB
			      ? "lmcache-appliance numa apply, or the lines of lmcache-appliance numa plan"
			      : "the kernel argument of lmcache-appliance numa plan",
		      "/sys/devices/system/node/node*/hugepages");
}

static void reserve_pages(struct planner *pl)
{
	struct layout ideal;
	struct kind kind;
	uint32_t nodes = 0;

	if (!target(pl, &kind))
		return;
	plan_ideal(pl, kind, &ideal);
	note_hugetlb_limit(pl, &ideal);
	for (uint32_t i = 0; i < pl->nshares; i++)
		nodes += lacks(pl, &ideal, i) > 0;
	if (nodes > MOST_NOTES)
		note_many(pl, &ideal, nodes);
	for (uint32_t i = 0; i < pl->nshares; i++) {
		const struct mach_node *n = &pl->m->nodes[pl->share[i].node];
		uint64_t need = lacks(pl, &ideal, i);

		if (need && nodes <= MOST_NOTES)
			note_pages(pl, n, kind, ideal.got[i], need);
		if (need && kind.page < GIB)
			reserve_now(pl, n, kind, ideal.got[i], need);
	}
	if (nodes)
		reserve_at_boot(pl, &ideal);
}

static void stop_balancing(struct planner *pl)
{
	static const char path[] = "/proc/sys/kernel/numa_balancing";
	struct plan_action *a;

	if (!pl->m->limits.numa_balancing || pl->chosen.kind.backing == BACK_HUGETLB || pl->m->nnodes < 2)
		return;
	plan_note_add(
		pl, PLAN_WARNING,
		"automatic NUMA balancing is on: it moves pages that are not huge behind our back, and costs faults",
		"sysctl -w kernel.numa_balancing=0", path);
	a = add(pl, ACT_SYSCTL);
	if (!a)
		return;
	plan_text(a->path, sizeof(a->path), "%s", path);
	plan_text(a->value, sizeof(a->value), "0");
	plan_text(a->line.reason, sizeof(a->line.reason), "L1 is placed by this plan; the kernel must not move it");
	plan_text(a->line.source, sizeof(a->line.source), "%s", path);
}

static void raise_memlock(struct planner *pl)
{
	const struct mach_limits *lim = &pl->m->limits;
	uint64_t bytes = pl->chosen.placed * pl->chosen.kind.unit;
	bool registers = false;
	struct plan_action *a;
	char text[256], have[32], want[32];

	for (uint32_t i = 0; i < pl->m->ndevices; i++)
		registers = registers || pl->m->devices[i].kind == DEV_RDMA || pl->m->devices[i].kind == DEV_NVME;
	if (lim->memlock >= bytes || lim->cap_ipc_lock)
		return;
	plan_text(text, sizeof(text), "memory may be locked up to %s (ulimit -l); registering L1 with %s takes %s",
		  plan_bytes(lim->memlock, have), registers ? "RDMA or NVMe" : "a device", plan_bytes(bytes, want));
	plan_note_add(pl, registers ? PLAN_WARNING : PLAN_NOTICE, text,
		      "LimitMEMLOCK=infinity in the systemd unit (docker: --ulimit memlock=-1)",
		      "/proc/self/limits: Max locked memory");
	a = add(pl, ACT_UNIT);
	if (!a)
		return;
	plan_text(a->path, sizeof(a->path), "%s", PLAN_UNIT);
	plan_text(a->value, sizeof(a->value), "LimitMEMLOCK=infinity");
	plan_text(a->line.reason, sizeof(a->line.reason), "devices register all of L1, which locks it");
	plan_text(a->line.source, sizeof(a->line.source), "RLIMIT_MEMLOCK of this process");
}

void plan_actions(struct planner *pl)
{
	reserve_pages(pl);
	stop_balancing(pl);
	raise_memlock(pl);
}
