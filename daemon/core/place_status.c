/* place_status.c - for /status and /metrics: the plan beside what is. Threads are read from /proc, libraries' own too, so that what
 * is shown is where the kernel runs them and not what was asked for. */
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"
#include "daemon/core/place.h"
#include "daemon/http/status.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_THREADS (MAX_THREADS + 64u)

/* ---- threads --------------------------------------------------------------------------------------------------- */

/* Whose work a thread does, by its name; libzmq's and libmicrohttpd's carry theirs. */
struct role_name {
	const char *prefix;
	enum plan_role role;
	bool planned;
	const char *shown;
};

static const struct role_name role_names[] = {
	{"lmca-xfer-", ROLE_TRANSFER, true, "transfer"}, {"lmca-look-", ROLE_LOOKUP, true, "lookup"},
	{"lmca-control", ROLE_CONTROL, true, "control"}, {"ZMQbg/", ROLE_CONTROL, true, "zmq"},
	{"lmca-http", ROLE_HTTP, true, "http"},          {"MHD-", ROLE_HTTP, true, "http"},
	{"lmca-l1", ROLE_POPULATE, false, "l1"},         {"lmca-gpu", ROLE_TRANSFER, false, "gpu"},
	{"lmca-admit-", ROLE_LOOKUP, false, "register"},
};

static void set_role(const struct server *srv, struct status_place *t)
{
	const struct plan_thread *p = NULL;

	t->role = t->tid == getpid() ? "main" : "other";
	for (size_t i = 0; i < sizeof(role_names) / sizeof(role_names[0]); i++) {
		const struct role_name *r = &role_names[i];
		size_t n = strlen(r->prefix);

		if (strncmp(t->name, r->prefix, n) != 0)
			continue;
		t->role = r->shown;
		if (r->planned)
			p = plan_thread_of(srv->plan, r->role,
					   r->role <= ROLE_LOOKUP ? (uint32_t)strtoul(t->name + n, NULL, 10) : 0);
	}
	if (!p || !place_pins(srv))
		return;
	t->planned = true;
	t->planned_cpus = p->cpus;
}

/* proc(5): name in parentheses, which may contain anything, then fields 3 and on; field 39 is the processor. */
static bool parse_stat(const char *text, struct status_place *t)
{
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	size_t n;

	if (!open || !close || close < open)
		return false;
	n = (size_t)(close - open) - 1;
	if (n >= sizeof(t->name))
		n = sizeof(t->name) - 1;
	memcpy(t->name, open + 1, n);
	t->name[n] = '\0';
	t->cpu = -1;
	for (int field = 2; (close = strchr(close, ' ')); close++) {
		if (++field == 39) {
			t->cpu = (int)strtol(close + 1, NULL, 10);
			break;
		}
	}
	return true;
}

static bool read_thread(const char *tid, struct status_place *t)
{
	char path[64], text[1024];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	t->tid = (int)strtol(tid, NULL, 10);
	return parse_stat(text, t);
}

static node_id node_of_cpu(const struct machine *m, int cpu)
{
	for (uint32_t i = 0; cpu >= 0 && i < m->ncpus; i++) {
		if (m->cpus[i].os == (uint32_t)cpu)
			return m->cpus[i].node;
	}
	return NODE_UNKNOWN;
}

static int by_tid(const void *a, const void *b)
{
	const struct status_place *x = a, *y = b;

	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

static int add_places(const struct server *srv, struct status_numa *out)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *de;

	out->places = mem_calloc(MOST_THREADS, sizeof(*out->places));
	if (!out->places) {
		if (dir)
			closedir(dir);
		return -ENOMEM;
	}
	while (dir && out->nplaces < MOST_THREADS && (de = readdir(dir))) {
		struct status_place *t = &out->places[out->nplaces];

		if (de->d_name[0] < '0' || de->d_name[0] > '9' || !read_thread(de->d_name, t))
			continue;
		t->node = node_of_cpu(srv->machine, t->cpu);
		set_role(srv, t);
		out->nplaces++;
	}
	if (dir)
		closedir(dir);
	qsort(out->places, out->nplaces, sizeof(*out->places), by_tid);
	return 0;
}

/* ---- pools and notes ------------------------------------------------------------------------------------------- */

static void fill_pool(struct server *srv, uint32_t i, uint64_t used, struct status_pool *p)
{
	const struct arena_range *r = arena_range(srv->arena, i);
	struct arena_place place;

	*p = (struct status_pool){.node = r->node,
				  .start = r->start,
				  .bytes = r->bytes,
				  .page_bytes = arena_page_bytes(srv->arena),
				  .used_bytes = used,
				  .committed_bytes = arena_committed(srv->arena, i),
				  .backing = plan_backing_name(arena_backing(srv->arena)),
				  .bound = r->bound};
	p->checked = l1_thread_place(srv, i, &place, &p->checked_s);
	if (!p->checked)
		return;
	p->pages = place.pages;
	p->pages_looked = place.looked;
	p->pages_on_node = place.on_node;
	p->pages_elsewhere = place.elsewhere;
	p->pages_absent = place.absent;
}

static int add_pools(struct server *srv, struct status_numa *out)
{
	uint64_t used[ARENA_MAX_RANGES];
	uint32_t n = store_range_used(srv->store, used, ARENA_MAX_RANGES);

	out->pools = mem_calloc(n, sizeof(*out->pools));
	if (!out->pools)
		return -ENOMEM;
	for (; out->npools < n; out->npools++)
		fill_pool(srv, out->npools, used[out->npools], &out->pools[out->npools]);
	return 0;
}

static int add_notes(const struct server *srv, struct status_numa *out)
{
	static const char *const names[] = {
		[PLAN_NOTICE] = "notice", [PLAN_WARNING] = "warning", [PLAN_SHORTAGE] = "shortage"};
	const struct plan *p = srv->plan;

	out->notes = mem_calloc(p->nnotes ? p->nnotes : 1, sizeof(*out->notes));
	if (!out->notes)
		return -ENOMEM;
	for (; out->nnotes < p->nnotes; out->nnotes++) {
		const struct plan_note *n = &p->notes[out->nnotes];

		out->notes[out->nnotes] = (struct status_note){names[n->severity], n->text, n->remedy};
	}
	return 0;
}

static bool has_pages(const struct machine *m, uint64_t page_bytes)
{
	for (uint32_t i = 0; i < m->nnodes; i++)
		for (uint32_t k = 0; k < m->nodes[i].nhuge; k++)
			if (m->nodes[i].huge[k].page_bytes == page_bytes && m->nodes[i].huge[k].total)
				return true;
	return false;
}

/* Huge pages that are wanted and there, but too few, so that the plan took smaller ones: the plan's warning is the line in the
 * log. The arena, which would count a fallback, is not asked for them. */
static uint32_t smaller_pages(const struct server *srv)
{
	const struct plan *p = srv->plan;
	const struct plan_pool *pool = &p->pools[0];
	uint64_t got = pool->backing == BACK_HUGETLB ? pool->page_bytes : 0;

	return (p->conf.huge_1g && got < 1ull << 30 && has_pages(srv->machine, 1ull << 30)) +
	       (p->conf.huge_2m && got < 2ull << 20 && has_pages(srv->machine, 2ull << 20));
}

static uint64_t fallbacks(const struct server *srv)
{
	return (uint64_t)arena_fallbacks(srv->arena) + (srv->unplaced ? 1 : 0) + smaller_pages(srv) +
	       place_unbindable(srv);
}

int place_status(struct server *srv, struct status *out)
{
	static const char *const binds[] = {[CONF_WANT_NO] = "no", [CONF_WANT_TRY] = "try", [CONF_WANT_YES] = "yes"};
	struct status_numa *n = &out->numa;
	int err;

	if (!srv->plan)
		return 0;
	n->policy = plan_policies[srv->plan->conf.policy].name;
	n->bind = binds[srv->conf.numa];
	n->source = srv->machine->source;
	n->this_system = srv->machine->this_system;
	n->nodes = srv->machine->nnodes;
	n->cpus = srv->machine->ncpus;
	n->devices = srv->machine->ndevices;
	n->fallbacks = fallbacks(srv);
	err = add_pools(srv, n);
	if (!err)
		err = add_places(srv, n);
	if (!err)
		err = add_notes(srv, n);
	return err;
}

/* ---- metrics --------------------------------------------------------------------------------------------------- */

void place_refresh(struct server *srv)
{
	uint64_t used[ARENA_MAX_RANGES];
	uint32_t n = store_range_used(srv->store, used, ARENA_MAX_RANGES);

	metric_set(srv->metrics, M_NUMA_FALLBACKS, (double)fallbacks(srv));
	for (uint32_t i = 0; i < n; i++) {
		struct arena_place place;
		double age;

		metric_series_set(srv->metrics, srv->node_used[i], (double)used[i]);
		if (l1_thread_place(srv, i, &place, &age))
			metric_series_set(srv->metrics, srv->node_misplaced[i], (double)place.elsewhere);
	}
}
