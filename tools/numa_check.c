#include "tools/numa_check.h"

#include "tools/cmd_numa.h"

#include "numa/apply.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define RANKS 4

static const char *const ranks[RANKS] = {"error", "shortage", "warning", "notice"};

struct checker {
	const struct check_in *in;
	json_t *list[RANKS];
	bool out_of_memory;
};

/* Names of devices and folders are bytes of somebody else's. */
static json_t *printable(const char *text)
{
	char clean[640];
	size_t n = 0;

	for (; text[n] && n + 1 < sizeof(clean); n++)
		clean[n] = (char)(text[n] < ' ' || text[n] > '~' ? '?' : text[n]);
	clean[n] = '\0';
	return json_string(clean);
}

static void add(struct checker *c, const char *severity, const char *where, const char *remedy, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

static void add(struct checker *c, const char *severity, const char *where, const char *remedy, const char *fmt, ...)
{
	char what[640];
	int rank = 0;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	while (rank < RANKS - 1 && strcmp(ranks[rank], severity) != 0)
		rank++;
	json_t *one = json_pack("{s:s, s:o, s:o, s:o}", "severity", ranks[rank], "what", printable(what), "where",
				printable(where), "remedy", printable(remedy));
	if (json_array_append_new(c->list[rank], one))
		c->out_of_memory = true;
}

/* ---- the plan ------------------------------------------------------------------------------------------------------- */

static bool names_hidden_node(const struct check_in *in)
{
	for (uint32_t i = 0; i < in->conf->nmanual; i++) {
		const struct mach_node *n = machine_node(in->machine, in->conf->manual[i].node);

		if (n && !n->allowed)
			return true;
	}
	return false;
}

static void check_plan(struct checker *c)
{
	static const char *const names[] = {
		[PLAN_NOTICE] = "notice", [PLAN_WARNING] = "warning", [PLAN_SHORTAGE] = "shortage"};
	const struct plan *p = c->in->plan;
	const char *cgroup = c->in->machine->limits.cgroup;

	if (!p && names_hidden_node(c->in)) {
		char remedy[320];

		snprintf(remedy, sizeof(remedy),
			 "widen cpuset.mems of cgroup %s (docker: --cpuset-mems, systemd: AllowedMemoryNodes=), or "
			 "leave the node out of --map",
			 cgroup[0] ? cgroup : "(unknown)");
		add(c, "error", "/proc/self/status: Mems_allowed_list", remedy, "%s", c->in->why_not);
	} else if (!p) {
		add(c, "error", "the wishes: --map, --l1, --policy",
		    "wish for what the machine has: `numa show` lists it", "%s", c->in->why_not);
	}
	for (uint32_t i = 0; p && i < p->nnotes; i++)
		add(c, names[p->notes[i].severity], p->notes[i].where, p->notes[i].remedy, "%s", p->notes[i].text);
}

/* ---- what this process may do --------------------------------------------------------------------------------------- */

static void check_calls(struct checker *c)
{
	const struct mach_limits *l = &c->in->machine->limits;
	static const char where[] = "/proc/self/status: Seccomp";

	if (l->move_pages == PROBE_DENIED)
		add(c, "warning", where, "docker run --cap-add SYS_NICE, or a seccomp profile that allows move_pages",
		    "move_pages is denied (EPERM, a seccomp profile): placement cannot be verified page by page");
}

static void check_cpus(struct checker *c)
{
	const struct machine *m = c->in->machine;
	uint32_t ours = 0;

	for (uint32_t i = 0; i < m->ncpus; i++)
		ours += m->cpus[i].allowed;
	if (m->limits.cpus_restricted)
		add(c, "notice", "/proc/self/status: Cpus_allowed_list",
		    "if that is not meant: taskset, systemd AllowedCPUs=, docker --cpuset-cpus",
		    "we may use %u of %u CPUs; the plan keeps to them", ours, m->ncpus);
}

static bool hugetlb(const struct plan *p)
{
	return p && p->npools && p->pools[0].backing == BACK_HUGETLB;
}

static void check_balancing(struct checker *c)
{
	const struct machine *m = c->in->machine;

	/* With other pages the plan has a warning about it. */
	if (m->limits.numa_balancing && m->nnodes > 1 && hugetlb(c->in->plan))
		add(c, "notice", "/proc/sys/kernel/numa_balancing", "sysctl -w kernel.numa_balancing=0",
		    "automatic NUMA balancing is on: L1's huge pages stay, other memory of the server is moved about");
}

static void check_hugetlbfs(struct checker *c)
{
	const struct mach_limits *l = &c->in->machine->limits;
	char remedy[128], size[24];

	if (!hugetlb(c->in->plan) || l->cap_sys_admin)
		return;
	uint64_t page = c->in->plan->pools[0].page_bytes;
	for (uint32_t i = 0; i < 4 && l->hugetlbfs[i][0]; i++)
		if (l->hugetlbfs_page[i] == page)
			return;
	snprintf(remedy, sizeof(remedy),
		 "mount -t hugetlbfs -o pagesize=%lluM none /dev/hugepages, or run it as the unit does",
		 (unsigned long long)(page >> 20));
	add(c, "notice", "/proc/self/mountinfo", remedy,
	    "no hugetlbfs of %s pages is mounted, and this user may not mount one (CAP_SYS_ADMIN)",
	    numa_size_text(page, size));
}

/* ---- the boot line: what was asked of each node, and what it has ------------------------------------------------------ */

static uint64_t page_of(const char *text)
{
	uint64_t bytes = 0;
	char word[24];

	snprintf(word, sizeof(word), "%.*s", (int)strcspn(text, " \n"), text);
	return numa_size_parse(word, &bytes) ? 0 : bytes;
}

static void check_boot_node(struct checker *c, uint64_t page, node_id id, uint64_t asked)
{
	const struct mach_node *n = machine_node(c->in->machine, id);
	char node[24], size[24];
	uint64_t has = 0;

	for (uint32_t i = 0; n && i < n->nhuge; i++)
		if (n->huge[i].page_bytes == page && !n->huge[i].known)
			return;
		else if (n->huge[i].page_bytes == page)
			has = n->huge[i].total;
	if (has < asked)
		add(c, "warning", "/proc/cmdline: hugepages=",
		    "dmesg | grep -i hugetlb; ask for fewer there, and count again after the boot",
		    "the boot line asks for %llu huge pages of %s on %s, which has %llu%s", (unsigned long long)asked,
		    numa_size_text(page, size), machine_node_text(id, node), (unsigned long long)has,
		    n ? "" : ": there is no such node");
}

/* "16" is of the whole machine, "0:8,1:8" of nodes. */
static void check_boot_pages(struct checker *c, uint64_t page, const char *text)
{
	const struct machine *m = c->in->machine;
	uint64_t has = 0;
	char *end, size[24];

	for (const char *at = text; *at >= '0' && *at <= '9';) {
		unsigned long long first = strtoull(at, &end, 10);

		if (*end != ':') {
			for (uint32_t i = 0; i < m->nnodes; i++)
				for (uint32_t k = 0; k < m->nodes[i].nhuge; k++)
					has += m->nodes[i].huge[k].page_bytes == page ? m->nodes[i].huge[k].total : 0;
			if (has < first)
				add(c, "warning", "/proc/cmdline: hugepages=",
				    "dmesg | grep -i hugetlb; ask for fewer there, and count again after the boot",
				    "the boot line asks for %llu huge pages of %s, the machine has %llu", first,
				    numa_size_text(page, size), (unsigned long long)has);
			return;
		}
		unsigned long long pages = strtoull(end + 1, &end, 10);
		check_boot_node(c, page, first < NODE_MAX ? node_of((int)first) : NODE_UNKNOWN, pages);
		at = *end == ',' ? end + 1 : end;
	}
}

static void check_boot(struct checker *c)
{
	uint64_t page = 2ull << 20; /* what x86 and arm64 have unless the line says otherwise */

	for (const char *at = c->in->cmdline; at && *at; at += strcspn(at, " \n")) {
		at += strspn(at, " \n");
		if (strncmp(at, "hugepagesz=", 11) == 0 || strncmp(at, "default_hugepagesz=", 19) == 0)
			page = page_of(strchr(at, '=') + 1);
		else if (strncmp(at, "hugepages=", 10) == 0 && page)
			check_boot_pages(c, page, at + 10);
	}
}

/* ---- the journal ----------------------------------------------------------------------------------------------------- */

static void check_journal(struct checker *c)
{
	struct apply_conf conf = {.journal = c->in->journal};
	const char *path = conf.journal ? conf.journal : APPLY_JOURNAL;
	char step[256] = "";

	switch (apply_journal_state(&conf, step)) {
	case JOURNAL_HALF:
		add(c, "error", path, "lmcache-appliance numa undo", "%s", step);
		break;
	case JOURNAL_UNREADABLE:
		add(c, "notice", path, "look as root", "the journal of numa apply cannot be read: %s", step);
		break;
	default:
		break;
	}
}

/* ---- a running server ------------------------------------------------------------------------------------------------ */

static uint64_t count(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static const json_t *pool_on(const json_t *pools, node_id node)
{
	for (size_t i = 0; i < json_array_size(pools); i++) {
		const json_t *p = json_array_get(pools, i), *n = json_object_get(p, "node");

		if (json_is_integer(n) ? json_integer_value(n) == node.os : !node_known(node))
			return p;
	}
	return NULL;
}

/* A pool of an unknown node is bound to none. */
static const char *pool_name(node_id node, char buf[24])
{
	return node_known(node) ? machine_node_text(node, buf) : "any node";
}

static void check_planned_pool(struct checker *c, const json_t *pools, const struct plan_pool *want)
{
	const json_t *is = pool_on(pools, want->node);
	static const char remedy[] = "start the server again: it makes its plan at start only";
	char buf[24], a[24], b[24];
	const char *node = pool_name(want->node, buf);

	if (!is) {
		add(c, "warning", c->in->server, remedy, "%s: the plan has %s of L1 here, the server no pool", node,
		    numa_size_text(want->bytes, a));
		return;
	}
	if (count(is, "page_bytes") != want->page_bytes)
		add(c, "warning", c->in->server, remedy, "%s: the plan has pages of %s, the server pages of %s", node,
		    numa_size_text(want->page_bytes, a), numa_size_text(count(is, "page_bytes"), b));
	if (count(is, "bytes") != want->bytes)
		add(c, "notice", c->in->server, remedy, "%s: the plan has %s of L1, the server %s", node,
		    numa_size_text(want->bytes, a), numa_size_text(count(is, "bytes"), b));
}

static void check_server(struct checker *c)
{
	const json_t *numa = json_object_get(c->in->status, "numa"), *pools = json_object_get(numa, "pools");
	const struct plan *p = c->in->plan;
	char node[24];

	if (!c->in->status)
		return;
	if (!json_is_array(pools)) {
		add(c, "warning", c->in->server, "a server of this release", "the server does not say where L1 is");
		return;
	}
	for (uint32_t i = 0; p && i < p->npools; i++)
		check_planned_pool(c, pools, &p->pools[i]);
	for (size_t i = 0; i < json_array_size(pools); i++) {
		const json_t *is = json_array_get(pools, i), *n = json_object_get(is, "node");
		json_int_t os = json_is_integer(n) ? json_integer_value(n) : -1;

		if (count(is, "pages_elsewhere"))
			add(c, "warning", c->in->server,
			    "lmcache-appliance numa verify says where; start the server again",
			    "%s: %llu of %llu pages of L1 are on another node",
			    pool_name(os >= 0 && os < (json_int_t)NODE_MAX ? node_of((int)os) : NODE_UNKNOWN, node),
			    (unsigned long long)count(is, "pages_elsewhere"),
			    (unsigned long long)count(is, "pages_looked_at"));
	}
	if (count(numa, "fallbacks"))
		add(c, "warning", c->in->server, "the server's log says which, and why",
		    "the server had to fall back %llu times: what it was told to try was refused",
		    (unsigned long long)count(numa, "fallbacks"));
}

/* ---- all of it ------------------------------------------------------------------------------------------------------- */

json_t *check_findings(const struct check_in *in)
{
	struct checker c = {.in = in};
	json_t *all = json_array();

	for (int i = 0; i < RANKS; i++)
		c.list[i] = json_array();
	check_plan(&c);
	check_calls(&c);
	check_cpus(&c);
	check_balancing(&c);
	check_hugetlbfs(&c);
	check_boot(&c);
	if (in->machine->this_system)
		check_journal(&c);
	check_server(&c);
	for (int i = 0; i < RANKS; i++) {
		if (json_array_extend(all, c.list[i]))
			c.out_of_memory = true;
		json_decref(c.list[i]);
	}
	if (!c.out_of_memory)
		return all;
	json_decref(all);
	return NULL;
}

uint32_t check_count(const json_t *findings)
{
	uint32_t n = 0;

	for (size_t i = 0; i < json_array_size(findings); i++)
		n += strcmp(json_string_value(json_object_get(json_array_get(findings, i), "severity")), "notice") != 0;
	return n;
}

/* A command is copied: what does not fit goes on in a way that a shell takes. */
static void print_remedy(const char *remedy, FILE *out)
{
	const char *path = strncmp(remedy, "echo ", 5) == 0 ? strstr(remedy, " > /") : NULL;
	size_t len = path ? strcspn(path + 3, " ") : 0;

	if (!path || strlen(remedy) <= 70 || len > 78) {
		plan_item(out, 2, 10, "remedy", remedy);
		return;
	}
	fprintf(out, "  remedy  %.*s \\\n  %.*s\n", (int)(path + 2 - remedy), remedy, (int)len, path + 3);
	if (path[3 + len])
		plan_item(out, 0, 10, "", path + 3 + len + 1);
}

void check_print(const json_t *findings, FILE *out)
{
	for (size_t i = 0; i < json_array_size(findings); i++) {
		const json_t *f = json_array_get(findings, i);
		const char *where = json_string_value(json_object_get(f, "where"));
		const char *remedy = json_string_value(json_object_get(f, "remedy"));

		plan_item(out, 0, 10, json_string_value(json_object_get(f, "severity")),
			  json_string_value(json_object_get(f, "what")));
		if (where[0])
			plan_item(out, 2, 10, "at", where);
		if (remedy[0])
			print_remedy(remedy, out);
	}
}
