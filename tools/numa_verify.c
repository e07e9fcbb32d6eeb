/* numa_verify.c - collecting: from /status where to look, from the kernel what is there. */
#include "tools/numa_verify.h"

#include "daemon/base/mem.h"
#include "numa/procmap.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FINDINGS 256u
#define MAX_BYTES    (1ull << 47)
#define NO_SERVER    "the server's /status "

static void finding(struct verify *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void finding(struct verify *v, const char *fmt, ...)
{
	va_list args;

	if (v->nfindings == MAX_FINDINGS)
		return;
	va_start(args, fmt);
	vsnprintf(v->findings[v->nfindings++], sizeof(v->findings[0]), fmt, args);
	va_end(args);
}

/* The first line of a small file, "" when there is none. */
static const char *read_line(char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static const char *read_line(char *buf, size_t cap, const char *fmt, ...)
{
	char path[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(path, sizeof(path), fmt, args);
	va_end(args);
	FILE *f = fopen(path, "re");
	if (!f || !fgets(buf, (int)cap, f))
		buf[0] = '\0';
	if (f)
		fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

/* ---- what the server says ------------------------------------------------------------------------------------------- */

/* False: not a number from 0 to `max`. */
static bool take(json_t *o, const char *key, uint64_t max, uint64_t *out)
{
	json_t *v = json_object_get(o, key);
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;

	*out = n >= 0 ? (uint64_t)n : 0;
	return n >= 0 && (uint64_t)n <= max;
}

static bool take_node(json_t *o, node_id *out)
{
	json_t *v = json_object_get(o, "node");
	uint64_t n = 0;
	bool number = take(o, "node", NODE_MAX - 1, &n);

	*out = number ? node_of((int)n) : NODE_UNKNOWN;
	return number || json_is_null(v);
}

static bool take_pool(json_t *o, struct verify_pool *p)
{
	if (!take_node(o, &p->node) || !take(o, "start", MAX_BYTES, &p->start) ||
	    !take(o, "bytes", MAX_BYTES, &p->bytes) || !take(o, "page_bytes", 1ull << 40, &p->page_bytes) ||
	    p->page_bytes < 4096 || (p->page_bytes & (p->page_bytes - 1)) != 0)
		return false;
	if (!take(o, "committed_bytes", p->bytes, &p->committed))
		p->committed = p->bytes;
	/* Its own last count; all or nothing. */
	if (take(o, "pages_looked_at", MAX_BYTES, &p->looked) && take(o, "pages_on_node", p->looked, &p->on_node) &&
	    take(o, "pages_elsewhere", p->looked, &p->elsewhere) && take(o, "pages_absent", p->looked, &p->absent))
		p->source = SEEN_BY_SERVER;
	p->pages = p->committed / p->page_bytes;
	return true;
}

/* Printed: what is not plain text becomes '?'. */
static void take_name(json_t *o, char *out, size_t cap)
{
	const char *s = json_string_value(json_object_get(o, "name"));

	snprintf(out, cap, "%s", s ? s : "?");
	for (char *c = out; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

static bool take_thread(json_t *o, struct verify_thread *t)
{
	const char *cpus = json_string_value(json_object_get(o, "planned_cpus"));
	uint64_t tid, cpu;

	if (!json_is_object(o) || !take(o, "tid", 1u << 30, &tid))
		return false;
	take_name(o, t->name, sizeof(t->name));
	t->tid = (int)tid;
	t->cpu = take(o, "cpu", CPU_MAX - 1, &cpu) ? (int)cpu : -1;
	t->planned = cpus && cpus_parse(cpus, &t->want) == 0;
	return !cpus || t->planned;
}

static int take_status(json_t *numa, struct verify *v)
{
	json_t *pools = json_object_get(numa, "pools"), *threads = json_object_get(numa, "threads");

	if (!json_is_array(pools) || !json_is_array(threads) || json_array_size(pools) > VERIFY_MAX_POOLS ||
	    json_array_size(threads) > VERIFY_MAX_THREADS)
		return -EBADMSG;
	v->pools = mem_calloc(json_array_size(pools) + 1, sizeof(*v->pools));
	v->threads = mem_calloc(json_array_size(threads) + 1, sizeof(*v->threads));
	if (!v->pools || !v->threads)
		return -ENOMEM;
	for (size_t i = 0; i < json_array_size(pools); i++)
		if (!take_pool(json_array_get(pools, i), &v->pools[v->npools++]))
			return -EBADMSG;
	for (size_t i = 0; i < json_array_size(threads); i++)
		if (!take_thread(json_array_get(threads, i), &v->threads[v->nthreads++]))
			return -EBADMSG;
	return 0;
}

/* ---- the process ---------------------------------------------------------------------------------------------------- */

/* A thread id of another pid namespace may be somebody else's here: the name must be the same. */
static bool is_thread(const struct verify_thread *t)
{
	char name[64];

	return t->tid > 0 && strcmp(read_line(name, sizeof(name), "/proc/%d/comm", t->tid), t->name) == 0;
}

static int process_of(int tid)
{
	char path[64], line[256];
	int pid = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	FILE *f = fopen(path, "re");
	while (f && !pid && fgets(line, sizeof(line), f))
		if (sscanf(line, "Tgid: %d", &pid) != 1)
			pid = 0;
	if (f)
		fclose(f);
	return pid;
}

static void find_process(struct verify *v)
{
	for (uint32_t i = 0; i < v->nthreads && !v->pid; i++)
		if (is_thread(&v->threads[i]))
			v->pid = process_of(v->threads[i].tid);
	if (!v->pid)
		snprintf(v->why_not, sizeof(v->why_not), "%s",
			 "its process is not visible from here (another host, container or pid namespace)");
}

static void look_at_thread(struct verify *v, struct verify_thread *t)
{
	char want[64], may[64];

	t->seen = v->pid && is_thread(t) && cpus_of_thread(v->pid, t->tid, &t->may) == 0;
	if (!t->planned)
		return;
	cpus_format(&t->want, want, sizeof(want));
	if (t->seen) {
		struct cpu_set both = t->may;
		cpus_and(&both, &t->want);
		t->astray = !cpus_equal(&both, &t->may);
		cpus_format(&t->may, may, sizeof(may));
		if (t->astray)
			finding(v, "thread %s (%d) may run on CPUs %.40s; planned: %.40s. Remedy: taskset -cp %.40s %d",
				t->name, t->tid, may, want, want, t->tid);
	} else if (t->cpu >= 0 && !cpus_has(&t->want, (uint32_t)t->cpu)) {
		t->astray = true;
		finding(v, "thread %s (%d) ran on CPU %d; planned: %.40s", t->name, t->tid, t->cpu, want);
	}
}

/* ---- pages ---------------------------------------------------------------------------------------------------------- */

static void count(struct verify_pool *p, const struct pages_census *c, enum verify_source source)
{
	size_t at = 0;
	char node[24];

	p->source = source;
	p->looked = c->looked;
	p->absent = c->absent;
	p->on_node = node_known(p->node) ? pages_on(c, p->node) : c->looked - c->absent;
	p->elsewhere = p->looked - p->absent - p->on_node;
	p->where[0] = '\0';
	for (uint32_t i = 0; i < c->nat && node_known(p->node); i++) {
		if (node_same(c->at[i].node, p->node))
			continue;
		int n = snprintf(p->where + at, sizeof(p->where) - at, "%s%llu on %s", at ? ", " : "",
				 (unsigned long long)c->at[i].pages, machine_node_text(c->at[i].node, node));
		if (n < 0 || at + (size_t)n >= sizeof(p->where))
			break;
		at += (size_t)n;
	}
}

static int by_move_pages(const struct verify *v, const struct verify_conf *conf, struct verify_pool *p, uint64_t base)
{
	struct pages_census c = {0};
	uint64_t stride =
		conf->max_pages && p->pages > conf->max_pages ? (p->pages + conf->max_pages - 1) / conf->max_pages : 1;
	int rc = pages_count(v->pid, base + p->start, p->committed, p->page_bytes * stride, &c);

	if (rc == 0)
		count(p, &c, SEEN_MOVE_PAGES);
	return rc;
}

static int by_numa_maps(const struct verify *v, struct verify_pool *p, uint64_t base)
{
	struct pages_census c = {0};
	uint64_t page = p->page_bytes;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/numa_maps", v->pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	int rc = procmap_count(f, base + p->start, p->bytes, &c, &page);
	fclose(f);
	if (rc == 0) {
		p->page_bytes = page;
		p->pages = p->committed / page;
		count(p, &c, SEEN_NUMA_MAPS);
	}
	return rc;
}

static int find_base(struct verify *v, const char *name, uint64_t *base)
{
	uint64_t bytes = 0;
	char path[64];
	int rc;

	for (uint32_t i = 0; i < v->npools; i++)
		if (v->pools[i].start + v->pools[i].bytes > bytes)
			bytes = v->pools[i].start + v->pools[i].bytes;
	if (!v->pid)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/maps", v->pid);
	FILE *f = fopen(path, "re");
	rc = f ? procmap_find(f, name, bytes, base) : -errno;
	if (f)
		fclose(f);
	if (rc)
		snprintf(v->why_not, sizeof(v->why_not), "L1 is not found in %s: %s%s", path,
			 rc == -ENOTUNIQ ? "several mappings of that size" : strerror(-rc),
			 rc == -EACCES || rc == -EPERM ? " (be the server's user, or root)" : "");
	return rc;
}

static void judge(struct verify *v, uint32_t i)
{
	const struct verify_pool *p = &v->pools[i];
	char node[24];

	machine_node_text(p->node, node);
	if (p->source == SEEN_NOT)
		finding(v, "pool %u (%s): nobody could say where its pages are: %s", i, node, v->why_not);
	else if (p->elsewhere)
		finding(v,
			"pool %u: %llu of %llu pages are not on %s%s%s. Remedy: restart the server, or migratepages %d",
			i, (unsigned long long)p->elsewhere, (unsigned long long)p->looked, node,
			p->where[0] ? " but " : "", p->where, v->pid);
	if (p->absent)
		finding(v, "pool %u (%s): %llu of %llu pages are in no memory (swapped out, or never populated)", i,
			node, (unsigned long long)p->absent, (unsigned long long)p->looked);
}

static void look_at_pools(struct verify *v, json_t *status, const struct verify_conf *conf)
{
	const char *name = json_string_value(json_object_get(json_object_get(status, "arena"), "backing"));
	uint64_t base = 0;
	int rc = find_base(v, name ? name : "", &base);

	for (uint32_t i = 0; i < v->npools; i++) {
		struct verify_pool *p = &v->pools[i];
		int one = rc ? rc : by_move_pages(v, conf, p, base);
		if (!rc && one && by_numa_maps(v, p, base) != 0)
			snprintf(v->why_not, sizeof(v->why_not), "move_pages of process %d: %s%s", v->pid,
				 strerror(-one),
				 one == -EPERM
					 ? " (needs the server's user, CAP_SYS_NICE, and no seccomp profile against it)"
					 : "");
		judge(v, i);
	}
}

/* ---- interrupts ----------------------------------------------------------------------------------------------------- */

static bool irq_is_local(const char *irq, const struct cpu_set *cpus, bool *known)
{
	char text[1024];
	struct cpu_set at, both;

	read_line(text, sizeof(text), "/proc/irq/%s/effective_affinity_list", irq);
	if (!text[0])
		read_line(text, sizeof(text), "/proc/irq/%s/smp_affinity_list", irq);
	*known = cpus_parse(text, &at) == 0 && cpus_count(&at) > 0;
	if (!*known)
		return false;
	both = at;
	cpus_and(&both, cpus);
	return cpus_equal(&both, &at);
}

static void look_at_device(struct verify *v, const struct machine *m, struct verify_device *d)
{
	const struct mach_node *node = machine_node(m, d->device->node);
	char path[128], text[24], cpus[64];
	struct dirent *e;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/msi_irqs", d->device->pci);
	DIR *dir = node && d->device->pci[0] ? opendir(path) : NULL;
	while (dir && (e = readdir(dir))) {
		bool known, numeric = e->d_name[strspn(e->d_name, "0123456789")] == '\0';
		bool local = numeric && irq_is_local(e->d_name, &node->all_cpus, &known);
		d->irqs += numeric && known;
		d->local += local;
	}
	if (dir)
		closedir(dir);
	if (!d->irqs || cpus_count(&node->all_cpus) == 0)
		return;
	cpus_format(&node->all_cpus, cpus, sizeof(cpus));
	/* A drive has a queue for every CPU and the kernel spreads them; it is only wrong when none is near. */
	if (d->device->kind == DEV_NVME ? d->local == 0 : d->local < d->irqs)
		finding(v,
			"%s: %u of %u interrupts are not served on %s, where it is. Remedy: echo %.40s to "
			"/proc/irq/N/smp_affinity_list for those in %s (and keep irqbalance off them)",
			d->device->name, d->irqs - d->local, d->irqs, machine_node_text(d->device->node, text), cpus,
			path);
}

static int look_at_devices(struct verify *v, const struct machine *m)
{
	v->devices = mem_calloc(m->ndevices + 1u, sizeof(*v->devices));
	if (!v->devices)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->ndevices; i++) {
		if (m->devices[i].kind == DEV_GPU)
			continue;
		v->devices[v->ndevices].device = &m->devices[i];
		look_at_device(v, m, &v->devices[v->ndevices++]);
	}
	return 0;
}

/* ---- all ------------------------------------------------------------------------------------------------------------ */

static int collect(json_t *status, const struct machine *m, const struct verify_conf *conf, struct verify *v)
{
	v->findings = mem_calloc(MAX_FINDINGS, sizeof(v->findings[0]));
	int rc = v->findings ? take_status(json_object_get(status, "numa"), v) : -ENOMEM;

	if (rc)
		return rc;
	find_process(v);
	look_at_pools(v, status, conf);
	for (uint32_t i = 0; i < v->nthreads; i++)
		look_at_thread(v, &v->threads[i]);
	return look_at_devices(v, m);
}

int verify_collect(json_t *status, const struct machine *m, const struct verify_conf *conf, struct verify **out,
		   struct why *why)
{
	if (!json_is_object(json_object_get(status, "numa")))
		return why_set(why, -EBADMSG, NO_SERVER "has no \"numa\": it is another server, or an older one");
	struct verify *v = mem_calloc(1, sizeof(*v));
	int rc = v ? collect(status, m, conf, v) : -ENOMEM;
	if (rc == 0) {
		*out = v;
		return 0;
	}
	verify_destroy(v);
	return why_set(why, rc, rc == -ENOMEM ? "verify: out of memory" : NO_SERVER "is not what it should be: numa");
}

void verify_destroy(struct verify *v)
{
	if (!v)
		return;
	mem_free(v->pools);
	mem_free(v->threads);
	mem_free(v->devices);
	mem_free(v->findings);
	mem_free(v);
}
