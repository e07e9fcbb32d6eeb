/* numa_view.c - see numa_view.h. */
#include "tools/numa_view.h"

#include "daemon/base/mem.h"
#include "tools/cmd_numa.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void view_destroy(struct numa_view *v)
{
	if (!v)
		return;
	mem_free(v->pools);
	mem_free(v->threads);
	mem_free(v->devices);
	mem_free(v->order);
	mem_free(v->groups);
	mem_free(v->cores);
	mem_free(v->l3s);
	mem_free(v);
}

/* ---- words --------------------------------------------------------------------------------------------------- */

const char *view_pci(const char *pci)
{
	return strncmp(pci, "0000:", 5) == 0 ? pci + 5 : pci;
}

const char *view_page_text(uint64_t page_bytes, char buf[24])
{
	return numa_size_text(page_bytes, buf);
}

const char *view_node_marks(const struct mach_node *n, char buf[64])
{
	const char *kind = n->kind == NODE_GPU_MEMORY ? ", GPU memory"
			   : n->kind == NODE_SLOW     ? ", slow memory"
			   : n->kind == NODE_EMPTY    ? ", no memory"
						      : "";
	bool cpus = cpus_count(&n->all_cpus) > 0;
	snprintf(buf, 64, "%s%s%s", kind, cpus ? "" : ", no CPUs", n->allowed ? "" : ", hidden by our cpuset");
	if (buf[0])
		memmove(buf, buf + 2, strlen(buf + 2) + 1);
	return buf;
}

void view_device_text(const struct mach_device *d, char out[96])
{
	char size[24];
	const char *model = d->model;
	if (strncasecmp(model, "NVIDIA ", 7) == 0)
		model += 7;
	/* names of GPUs say how much memory they have */
	if (d->bytes && (d->kind != DEV_GPU || !model[0]))
		snprintf(out, 96, "%s%s%s", numa_size_text(d->bytes, size), model[0] ? " " : "", model);
	else
		snprintf(out, 96, "%s", model[0] ? model : mach_device_kind_name(d->kind));
}

const char *view_relation(const struct mach_device *a, const struct mach_device *b)
{
	if (a == b)
		return "X";
	if (a->bridge[0] && strcmp(a->bridge, b->bridge) == 0)
		return "PIX";
	if (a->root_complex != UINT32_MAX && a->root_complex == b->root_complex)
		return "PHB";
	if (!node_known(a->node) || !node_known(b->node))
		return "?";
	return node_same(a->node, b->node) ? "NODE" : "SYS";
}

bool view_is_empty(const struct numa_view *v, uint32_t node)
{
	const struct mach_node *n = &v->m->nodes[node];
	if (n->memory_bytes || cpus_count(&n->all_cpus))
		return false;
	for (uint32_t g = 0; g < v->ngroups; g++)
		if (v->groups[g].node == node)
			return false;
	return true;
}

/* ---- devices in groups --------------------------------------------------------------------------------------- */

/* What is sorted: node, then the switch or host bridge devices have in common, then the PCI address. */
struct sorting {
	const struct mach_device *d;
	uint32_t device, node;
	const char *relation;
	uint32_t leader; /* the first device of the group */
};

static int by_group(const void *a, const void *b)
{
	const struct sorting *x = a, *y = b;
	if (x->node != y->node)
		return x->node < y->node ? -1 : 1;
	if (x->leader != y->leader)
		return x->leader < y->leader ? -1 : 1;
	return x->device < y->device ? -1 : x->device > y->device;
}

static bool together(const struct sorting *a, const struct sorting *b, const char *relation)
{
	return a->node == b->node && a->d != b->d && strcmp(view_relation(a->d, b->d), relation) == 0;
}

/* The first device that shares a switch with i, or else a host bridge with it while neither shares a switch with others. */
static void lead(struct sorting *s, uint32_t n, const char *relation)
{
	for (uint32_t i = 0; i < n; i++) {
		if (s[i].relation[0])
			continue;
		for (uint32_t j = i + 1; j < n; j++) {
			if (s[j].relation[0] || !together(&s[i], &s[j], relation))
				continue;
			s[j].leader = i;
			s[j].relation = relation;
			s[i].relation = relation;
		}
	}
}

static int group_devices(struct numa_view *v)
{
	const struct machine *m = v->m;
	uint32_t n = m->ndevices;
	struct sorting *s = mem_calloc(n + 1, sizeof(*s));
	v->order = mem_calloc(n + 1, sizeof(*v->order));
	v->groups = mem_calloc(n + 1, sizeof(*v->groups));
	if (!s || !v->order || !v->groups) {
		mem_free(s);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++)
		s[i] = (struct sorting){&m->devices[i], i, machine_node_index(m, m->devices[i].node), "", i};
	lead(s, n, "PIX");
	lead(s, n, "PHB");
	qsort(s, n, sizeof(*s), by_group);
	for (uint32_t i = 0; i < n; i++) {
		v->order[i] = s[i].device;
		if (i == 0 || s[i].leader != s[i - 1].leader || s[i].node != s[i - 1].node)
			v->groups[v->ngroups++] = (struct view_group){s[i].relation, i, 0, s[i].node};
		v->groups[v->ngroups - 1].n++;
	}
	mem_free(s);
	return 0;
}

/* ---- nodes --------------------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static uint32_t distinct(uint32_t *list, uint32_t n)
{
	uint32_t k = 0;
	qsort(list, n, sizeof(*list), by_number);
	for (uint32_t i = 0; i < n; i++)
		if (list[i] != UINT32_MAX && (i == 0 || list[i] != list[i - 1]))
			k++;
	return k;
}

static int count_cores(struct numa_view *v)
{
	const struct machine *m = v->m;
	uint32_t *cores = mem_calloc(m->ncpus + 1ul, sizeof(*cores)), *l3s = mem_calloc(m->ncpus + 1ul, sizeof(*l3s));
	v->cores = mem_calloc(m->nnodes + 1ul, sizeof(*v->cores));
	v->l3s = mem_calloc(m->nnodes + 1ul, sizeof(*v->l3s));
	bool ok = cores && l3s && v->cores && v->l3s;
	for (uint32_t node = 0; ok && node < m->nnodes; node++) {
		uint32_t n = 0;
		for (uint32_t i = 0; i < m->ncpus; i++)
			if (node_same(m->cpus[i].node, m->nodes[node].id)) {
				cores[n] = m->cpus[i].core;
				l3s[n++] = m->cpus[i].l3;
			}
		v->cores[node] = distinct(cores, n);
		v->l3s[node] = distinct(l3s, n);
	}
	mem_free(cores);
	mem_free(l3s);
	return ok ? 0 : -ENOMEM;
}

static bool is_huge(enum plan_backing b)
{
	return b == BACK_HUGETLB;
}

struct view_memory view_memory(const struct numa_view *v, uint32_t node)
{
	const struct mach_node *n = &v->m->nodes[node];
	struct view_memory out = {.total = n->memory_bytes, .free_now = n->free_bytes ? n->free_bytes : UINT64_MAX};
	uint64_t huge = 0, ours_huge = 0, ours = 0;
	for (uint32_t i = 0; i < n->nhuge; i++)
		huge += n->huge[i].known ? n->huge[i].total * n->huge[i].page_bytes : 0;
	for (uint32_t i = 0; i < v->npools; i++)
		if (node_same(v->pools[i].node, n->id))
			*(v->pools[i].huge ? &ours_huge : &ours) += v->pools[i].bytes;
	uint64_t left = out.total;
	out.l1 = ours + ours_huge < left ? ours + ours_huge : left;
	left -= out.l1;
	/* pages a plan wants that are not reserved yet come out of free memory */
	out.huge = huge > ours_huge ? huge - ours_huge : 0;
	out.huge = out.huge < left ? out.huge : left;
	left -= out.huge;
	uint64_t taken = v->live ? 0 : ours + (ours_huge > huge ? ours_huge - huge : 0);
	out.free = n->free_bytes > taken ? n->free_bytes - taken : 0;
	out.free = out.free < left ? out.free : left;
	out.used = n->free_bytes ? left - out.free : 0;
	out.free = left - out.used;
	return out;
}

/* ---- threads ------------------------------------------------------------------------------------------------- */

static bool role_done(const struct numa_view *v, uint32_t upto, node_id node)
{
	for (uint32_t i = 0; i < upto; i++)
		if (strcmp(v->threads[i].role, v->threads[upto].role) == 0 && v->threads[i].node.os == node.os)
			return true;
	return false;
}

static size_t add(char *out, size_t cap, size_t at, const char *text)
{
	int n = at < cap ? snprintf(out + at, cap - at, "%s", text) : 0;
	return n > 0 ? at + (size_t)n : at;
}

/* "0-3,8" of one role on one node. */
static size_t add_indexes(const struct numa_view *v, uint32_t from, node_id node, char *out, size_t cap, size_t at)
{
	struct cpu_set set = {0};
	char list[128];
	for (uint32_t i = from; i < v->nthreads; i++)
		if (v->threads[i].node.os == node.os && strcmp(v->threads[i].role, v->threads[from].role) == 0)
			cpus_add(&set, v->threads[i].index);
	if (!cpus_count(&set))
		return at;
	cpus_format(&set, list, sizeof(list));
	at = add(out, cap, at, " ");
	return add(out, cap, at, list);
}

uint32_t view_threads(const struct numa_view *v, node_id node, char *out, size_t cap)
{
	uint32_t n = 0;
	size_t at = 0;
	out[0] = '\0';
	for (uint32_t i = 0; i < v->nthreads; i++) {
		if (v->threads[i].node.os != node.os)
			continue;
		n++;
		if (role_done(v, i, node))
			continue;
		at = add(out, cap, at, at ? ", " : "");
		at = add(out, cap, at, v->threads[i].role);
		at = add_indexes(v, i, node, out, cap, at);
	}
	return n;
}

/* ---- of a plan ----------------------------------------------------------------------------------------------- */

static void pool_what(struct view_pool *p, enum plan_backing backing, uint64_t page_bytes)
{
	char size[24];
	p->huge = is_huge(backing);
	if (backing == BACK_SHM_THP)
		snprintf(p->what, sizeof(p->what), "transparent huge pages");
	else
		snprintf(p->what, sizeof(p->what), "%s pages", view_page_text(page_bytes, size));
}

static bool single(const struct plan *p, enum plan_role role)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->nthreads; i++)
		n += p->threads[i].role == role;
	return n == 1 && role != ROLE_TRANSFER && role != ROLE_LOOKUP;
}

/* Where there is one node, memory that is bound to none is on it all the same. */
static void settle(struct numa_view *v, struct view_pool *p)
{
	if (!node_known(p->node) && v->m->nnodes == 1)
		p->node = v->m->nodes[0].id;
}

static int fill_plan(struct numa_view *v, const struct plan *p, const char *how)
{
	char size[24];
	v->pools = mem_calloc(p->npools + 1ul, sizeof(*v->pools));
	v->threads = mem_calloc(p->nthreads + 1ul, sizeof(*v->threads));
	v->devices = mem_calloc(v->m->ndevices + 1ul, sizeof(*v->devices));
	if (!v->pools || !v->threads || !v->devices)
		return -ENOMEM;
	for (v->npools = 0; v->npools < p->npools; v->npools++) {
		const struct plan_pool *from = &p->pools[v->npools];
		v->pools[v->npools].node = from->node;
		v->pools[v->npools].bytes = from->bytes;
		pool_what(&v->pools[v->npools], from->backing, from->page_bytes);
		settle(v, &v->pools[v->npools]);
	}
	for (v->nthreads = 0; v->nthreads < p->nthreads; v->nthreads++) {
		const struct plan_thread *from = &p->threads[v->nthreads];
		struct view_thread *t = &v->threads[v->nthreads];
		t->node = from->node;
		t->index = single(p, from->role) ? VIEW_NONE : from->index;
		snprintf(t->role, sizeof(t->role), "%s", plan_role_name(from->role));
	}
	for (uint32_t i = 0; i < v->m->ndevices; i++)
		v->devices[i].pool = i < p->ndevices && p->devices[i].pool < p->npools
					     ? p->pools[p->devices[i].pool].node
					     : NODE_UNKNOWN;
	snprintf(v->title, sizeof(v->title), "plan '%s': L1 %s%s%s", plan_policies[p->conf.policy].name,
		 numa_size_text(p->conf.l1_bytes, size), how[0] ? ", " : "", how);
	return 0;
}

static struct numa_view *view_create(const struct machine *m)
{
	struct numa_view *v = mem_calloc(1, sizeof(*v));
	if (!v)
		return NULL;
	v->m = m;
	if (!group_devices(v) && !count_cores(v))
		return v;
	view_destroy(v);
	return NULL;
}

int view_of_plan(const struct machine *m, const struct plan *p, const char *how, struct numa_view **out,
		 struct why *why)
{
	struct numa_view *v = view_create(m);
	if (!v || (p && fill_plan(v, p, how))) {
		view_destroy(v);
		return why_set(why, -ENOMEM, "out of memory");
	}
	*out = v;
	return 0;
}

/* ---- of a running server ------------------------------------------------------------------------------------- */

static uint64_t bytes_of(json_t *v)
{
	return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : 0;
}

/* Absent and null are unknown, as -1 is. */
static node_id node_in(json_t *v)
{
	json_int_t os = json_is_integer(v) ? json_integer_value(v) : -1;
	return os >= 0 && os < (json_int_t)NODE_MAX ? node_of((int)os) : NODE_UNKNOWN;
}

static int fill_pools(struct numa_view *v, json_t *list)
{
	size_t i;
	json_t *one;
	v->pools = mem_calloc(json_array_size(list) + 1, sizeof(*v->pools));
	if (!v->pools)
		return -ENOMEM;
	json_array_foreach(list, i, one)
	{
		struct view_pool *p = &v->pools[v->npools++];
		const char *backing = json_string_value(json_object_get(one, "backing"));
		uint64_t page = bytes_of(json_object_get(one, "page_bytes"));
		p->node = node_in(json_object_get(one, "node"));
		p->bytes = bytes_of(json_object_get(one, "bytes"));
		enum plan_backing b = BACK_SHM;
		for (enum plan_backing k = BACK_HUGETLB; k <= BACK_SHM; k++)
			if (backing && strcmp(backing, plan_backing_name(k)) == 0)
				b = k;
		pool_what(p, b, page ? page : 4096);
		settle(v, p);
	}
	return 0;
}

/* "transfer-3" is the third of its role; "control" the only one. */
static void split_name(const char *name, struct view_thread *t)
{
	size_t n = strlen(name), end = n;
	while (end && name[end - 1] >= '0' && name[end - 1] <= '9')
		end--;
	t->index = VIEW_NONE;
	if (end < n && end && n - end < 5)
		t->index = (uint32_t)strtoul(name + end, NULL, 10);
	else
		end = n;
	while (end > 1 && strchr("-_ ./", name[end - 1]))
		end--;
	snprintf(t->role, sizeof(t->role), "%.*s", (int)(end > 23 ? 23 : end), name);
}

static int fill_threads(struct numa_view *v, json_t *list)
{
	size_t i;
	json_t *one;
	v->threads = mem_calloc(json_array_size(list) + 1, sizeof(*v->threads));
	if (!v->threads)
		return -ENOMEM;
	json_array_foreach(list, i, one)
	{
		const char *name = json_string_value(json_object_get(one, "name"));
		if (!name)
			continue;
		v->threads[v->nthreads].node = node_in(json_object_get(one, "node"));
		split_name(name, &v->threads[v->nthreads++]);
	}
	return 0;
}

int view_of_status(const struct machine *m, json_t *status, const char *url, struct numa_view **out, struct why *why)
{
	json_t *numa = json_object_get(status, "numa"), *pools = json_object_get(numa, "pools");
	json_t *threads = json_object_get(numa, "threads");
	if (!json_is_array(pools) || !json_is_array(threads))
		return why_set(why, -EPROTO, "%.200s: /status has no 'numa': not a server of ours, or an older one",
			       url);
	struct numa_view *v = view_create(m);
	if (!v || fill_pools(v, pools) || fill_threads(v, threads)) {
		view_destroy(v);
		return why_set(why, -ENOMEM, "out of memory");
	}
	v->live = true;
	snprintf(v->title, sizeof(v->title), "server %.100s", url);
	*out = v;
	return 0;
}
