/* dump.h - a struct machine as text and as JSON, every field of it, in an order that never depends on anything else. */
#ifndef TESTS_UNIT_NUMA_DUMP_H
#define TESTS_UNIT_NUMA_DUMP_H

#include "numa/machine.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const dump_kinds[] = {"memory", "GPU memory", "slow memory", "no memory"};
static const char *const dump_confidence[] = {"unknown", "disputed", "inherited", "certain"};
static const char *const dump_probes[] = {"unknown", "ok", "denied", "missing"};

static inline char *dump_cpus(const struct cpu_set *s)
{
	size_t n = cpus_format(s, NULL, 0) + 1;
	char *text = malloc(n);

	if (!text)
		abort();
	cpus_format(s, text, n);
	return text;
}

static inline const char *dump_limit(uint64_t v, char buf[32])
{
	snprintf(buf, 32, "%" PRIu64, v);
	return v == UINT64_MAX ? "none" : buf;
}

static inline const char *dump_index(uint32_t v, char buf[32])
{
	snprintf(buf, 32, "%" PRIu32, v);
	return v == UINT32_MAX ? "?" : buf;
}

static inline void dump_node(const struct machine *m, const struct mach_node *n, FILE *out)
{
	char *all = dump_cpus(&n->all_cpus), *mine = dump_cpus(&n->cpus), name[24], package[32];

	fprintf(out, "%s: %s%s, package %s\n", machine_node_text(n->id, name), dump_kinds[n->kind],
		n->allowed ? "" : ", not allowed", dump_index(n->package, package));
	fprintf(out, "  memory %" PRIu64 " free %" PRIu64 " by %s\n", n->memory_bytes, n->free_bytes, n->memory_where);
	fprintf(out, "  cpus %s of %s\n", mine[0] ? mine : "-", all[0] ? all : "-");
	fprintf(out, "  distance");
	for (uint32_t i = 0; i < m->nnodes; i++)
		fprintf(out, " %" PRIu32, n->distance[i]);
	fputc('\n', out);
	for (uint32_t i = 0; i < n->nhuge; i++)
		fprintf(out, "  pages of %" PRIu64 ": %s total %" PRIu64 " free %" PRIu64 " surplus %" PRIu64 "\n",
			n->huge[i].page_bytes, n->huge[i].known ? "known" : "unknown", n->huge[i].total,
			n->huge[i].free, n->huge[i].surplus);
	free(all);
	free(mine);
}

static inline void dump_device(const struct mach_device *d, FILE *out)
{
	char node[24], root[32];

	fprintf(out, "%s %s %s: %s, %s\n", mach_device_kind_name(d->kind), d->pci[0] ? d->pci : "-", d->name,
		machine_node_text(d->node, node), dump_confidence[d->confidence]);
	fprintf(out, "  model '%s' serial '%s' netdev '%s' bytes %" PRIu64 "\n", d->model, d->serial, d->netdev,
		d->bytes);
	fprintf(out, "  bridge %s root %s link %.2f of %.2f GB/s\n", d->bridge[0] ? d->bridge : "?",
		dump_index(d->root_complex, root), d->link_gbs, d->link_max_gbs);
	for (uint32_t i = 0; i < d->nfacts; i++)
		fprintf(out, "  %s: %s (%s)\n", fact_source_name(d->fact[i].source),
			machine_node_text(d->fact[i].node, node), d->fact[i].where);
}

static inline void dump_limits(const struct mach_limits *l, FILE *out)
{
	char a[32], b[32];

	fprintf(out, "cgroup v%" PRIu32 " %s memory %s %s\n", l->cgroup_version, l->cgroup,
		dump_limit(l->memory_max, a), l->memory_where);
	for (uint32_t i = 0; i < l->nhugetlb; i++) {
		const struct mach_hugetlb_limit *h = &l->hugetlb[i];

		fprintf(out, "hugetlb %" PRIu64 " max %s used %" PRIu64 " %s\n", h->page_bytes, dump_limit(h->max, a),
			h->used, h->where);
		fprintf(out, "hugetlb %" PRIu64 " reserved max %s used %" PRIu64 " %s\n", h->page_bytes,
			dump_limit(h->rsvd_max, a), h->rsvd_used, h->rsvd_where);
	}
	fprintf(out, "memlock %s seccomp %s nice %d lock %d admin %d\n", dump_limit(l->memlock, a),
		dump_index(l->seccomp, b), l->cap_sys_nice, l->cap_ipc_lock, l->cap_sys_admin);
	fprintf(out, "mbind %s set_mempolicy %s move_pages %s sched_setaffinity %s io_uring %s\n",
		dump_probes[l->mbind], dump_probes[l->set_mempolicy], dump_probes[l->move_pages],
		dump_probes[l->sched_setaffinity], dump_probes[l->io_uring]);
	fprintf(out, "cpus restricted %d mems restricted %d balancing %d\n", l->cpus_restricted, l->mems_restricted,
		l->numa_balancing);
	fprintf(out, "shm %" PRIu64 " free %" PRIu64 " thp '%s' shmem '%s'\n", l->shm_total, l->shm_free, l->thp,
		l->shmem_thp);
	for (uint32_t i = 0; i < 4 && l->hugetlbfs[i][0]; i++)
		fprintf(out, "hugetlbfs %s %" PRIu64 "\n", l->hugetlbfs[i], l->hugetlbfs_page[i]);
}

/* Runs of CPUs that differ in their number only would be one line; all are written, for nothing may hide. */
static inline void dump_text(const struct machine *m, FILE *out)
{
	char *off = dump_cpus(&m->offline_cpus), l3[32], package[32], node[24];

	fprintf(out, "%s\nhost %s\nkernel %s\nboard %s\nthis system %d\n", m->source, m->host, m->kernel, m->board,
		m->this_system);
	for (uint32_t i = 0; i < m->nnodes; i++)
		dump_node(m, &m->nodes[i], out);
	for (uint32_t i = 0; i < m->ncpus; i++) {
		const struct mach_cpu *c = &m->cpus[i];

		fprintf(out, "cpu %" PRIu32 " core %" PRIu32 " l3 %s package %s %s%s%s\n", c->os, c->core,
			dump_index(c->l3, l3), dump_index(c->package, package), machine_node_text(c->node, node),
			c->allowed ? "" : " not allowed", c->isolated ? " isolated" : "");
	}
	fprintf(out, "offline %s\n", off[0] ? off : "-");
	for (uint32_t i = 0; i < m->ndevices; i++)
		dump_device(&m->devices[i], out);
	dump_limits(&m->limits, out);
	free(off);
}

/* ---- JSON ---- */

static inline json_t *dump_os(node_id n)
{
	return node_known(n) ? json_integer(n.os) : json_null();
}

static inline json_t *dump_maybe(uint64_t v, uint64_t none)
{
	return v == none ? json_null() : json_integer((json_int_t)v);
}

static inline json_t *dump_set(const struct cpu_set *s)
{
	char *text = dump_cpus(s);
	json_t *j = json_string(text);

	free(text);
	return j;
}

static inline json_t *dump_json_node(const struct machine *m, const struct mach_node *n)
{
	json_t *huge = json_array(), *dist = json_array();

	for (uint32_t i = 0; i < n->nhuge; i++)
		json_array_append_new(huge, json_pack("{sI sb sI sI sI}", "page", (json_int_t)n->huge[i].page_bytes,
						      "known", n->huge[i].known, "total", (json_int_t)n->huge[i].total,
						      "free", (json_int_t)n->huge[i].free, "surplus",
						      (json_int_t)n->huge[i].surplus));
	for (uint32_t i = 0; i < m->nnodes; i++)
		json_array_append_new(dist, json_integer(n->distance[i]));
	return json_pack("{so ss sb sI sI ss so so so so so}", "node", dump_os(n->id), "kind", dump_kinds[n->kind],
			 "allowed", n->allowed, "memory", (json_int_t)n->memory_bytes, "free",
			 (json_int_t)n->free_bytes, "source", n->memory_where, "cpus", dump_set(&n->cpus), "all_cpus",
			 dump_set(&n->all_cpus), "package", dump_maybe(n->package, UINT32_MAX), "distance", dist,
			 "hugepages", huge);
}

static inline json_t *dump_json_device(const struct mach_device *d)
{
	json_t *facts = json_array();

	for (uint32_t i = 0; i < d->nfacts; i++)
		json_array_append_new(facts, json_pack("{ss so ss}", "source", fact_source_name(d->fact[i].source),
						       "node", dump_os(d->fact[i].node), "where", d->fact[i].where));
	return json_pack("{ss ss ss ss ss ss ss so sf sf sI so ss so}", "kind", mach_device_kind_name(d->kind), "pci",
			 d->pci, "name", d->name, "netdev", d->netdev, "model", d->model, "serial", d->serial, "bridge",
			 d->bridge, "root_complex", dump_maybe(d->root_complex, UINT32_MAX), "link_gbs", d->link_gbs,
			 "link_max_gbs", d->link_max_gbs, "bytes", (json_int_t)d->bytes, "node", dump_os(d->node),
			 "confidence", dump_confidence[d->confidence], "facts", facts);
}

static inline json_t *dump_json_limits(const struct mach_limits *l)
{
	json_t *huge = json_array(), *mounts = json_array(), *out;

	for (uint32_t i = 0; i < l->nhugetlb; i++) {
		const struct mach_hugetlb_limit *h = &l->hugetlb[i];

		json_array_append_new(huge,
				      json_pack("{sI so sI ss so sI ss}", "page", (json_int_t)h->page_bytes, "max",
						dump_maybe(h->max, UINT64_MAX), "used", (json_int_t)h->used, "where",
						h->where, "rsvd_max", dump_maybe(h->rsvd_max, UINT64_MAX), "rsvd_used",
						(json_int_t)h->rsvd_used, "rsvd_where", h->rsvd_where));
	}
	for (uint32_t i = 0; i < 4 && l->hugetlbfs[i][0]; i++)
		json_array_append_new(
			mounts, json_pack("{ss sI}", "at", l->hugetlbfs[i], "page", (json_int_t)l->hugetlbfs_page[i]));
	out = json_pack("{si ss so ss so so so sb sb sb so sb sb sb sI sI ss ss}", "cgroup_version",
			(int)l->cgroup_version, "cgroup", l->cgroup, "memory_max",
			dump_maybe(l->memory_max, UINT64_MAX), "memory_where", l->memory_where, "hugetlb", huge,
			"hugetlbfs", mounts, "memlock", dump_maybe(l->memlock, UINT64_MAX), "cap_sys_nice",
			l->cap_sys_nice, "cap_ipc_lock", l->cap_ipc_lock, "cap_sys_admin", l->cap_sys_admin, "seccomp",
			dump_maybe(l->seccomp, UINT32_MAX), "cpus_restricted", l->cpus_restricted, "mems_restricted",
			l->mems_restricted, "numa_balancing", l->numa_balancing, "shm_total", (json_int_t)l->shm_total,
			"shm_free", (json_int_t)l->shm_free, "thp", l->thp, "shmem_thp", l->shmem_thp);
	json_object_set_new(out, "mbind", json_string(dump_probes[l->mbind]));
	json_object_set_new(out, "set_mempolicy", json_string(dump_probes[l->set_mempolicy]));
	json_object_set_new(out, "move_pages", json_string(dump_probes[l->move_pages]));
	json_object_set_new(out, "sched_setaffinity", json_string(dump_probes[l->sched_setaffinity]));
	json_object_set_new(out, "io_uring", json_string(dump_probes[l->io_uring]));
	return out;
}

/* New reference. */
static inline json_t *dump_json(const struct machine *m)
{
	json_t *nodes = json_array(), *cpus = json_array(), *devices = json_array();

	for (uint32_t i = 0; i < m->nnodes; i++)
		json_array_append_new(nodes, dump_json_node(m, &m->nodes[i]));
	for (uint32_t i = 0; i < m->ncpus; i++) {
		const struct mach_cpu *c = &m->cpus[i];

		json_array_append_new(cpus, json_pack("[i i o o o b b]", (int)c->os, (int)c->core,
						      dump_maybe(c->l3, UINT32_MAX), dump_maybe(c->package, UINT32_MAX),
						      dump_os(c->node), c->allowed, c->isolated));
	}
	for (uint32_t i = 0; i < m->ndevices; i++)
		json_array_append_new(devices, dump_json_device(&m->devices[i]));
	return json_pack("{ss ss ss ss sb so so so so so}", "source", m->source, "host", m->host, "kernel", m->kernel,
			 "board", m->board, "this_system", m->this_system, "nodes", nodes, "cpus", cpus, "offline_cpus",
			 dump_set(&m->offline_cpus), "devices", devices, "limits", dump_json_limits(&m->limits));
}

/* malloc'ed; both forms one after the other, which is what two equal machines share. */
static inline char *dump_both(const struct machine *m)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	json_t *j = dump_json(m);

	if (!f || !j)
		abort();
	dump_text(m, f);
	if (json_dumpf(j, f, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(6)))
		abort();
	fclose(f);
	json_decref(j);
	return text;
}

#endif
