/* numa_json.c - see numa_json.h. */
#include "tools/numa_json.h"

#include <string.h>

/* Text of a capture may be any bytes; JSON has to be UTF-8. */
static json_t *text(const char *s)
{
	char copy[512];
	size_t n = 0;
	for (; *s && n + 1 < sizeof(copy); s++)
		if (((unsigned char)*s & 0xc0) != 0x80)
			copy[n++] = (char)(*s >= ' ' && *s <= '~' ? *s : '?');
	copy[n] = '\0';
	return json_string(copy);
}

static json_t *known_text(const char *s)
{
	return s[0] ? text(s) : json_null();
}

static json_t *node_number(node_id id)
{
	return node_known(id) ? json_integer(id.os) : json_null();
}

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)(v > INT64_MAX ? INT64_MAX : v));
}

static json_t *known(uint64_t v)
{
	return v ? number(v) : json_null();
}

static json_t *index_or_null(uint32_t v)
{
	return v == UINT32_MAX ? json_null() : json_integer(v);
}

static json_t *cpu_list(const struct cpu_set *s)
{
	char list[4096];
	cpus_format(s, list, sizeof(list));
	return json_string(list);
}

const char *numa_confidence_name(enum confidence c)
{
	static const char *const names[] = {[CONF_UNKNOWN] = "unknown",
					    [CONF_DISPUTED] = "disputed",
					    [CONF_INHERITED] = "inherited",
					    [CONF_CERTAIN] = "certain"};
	return names[c];
}

static json_t *huge_json(const struct mach_hugepages *h)
{
	return json_pack("{s:o s:o s:o s:o}", "page_bytes", number(h->page_bytes), "total",
			 h->known ? number(h->total) : json_null(), "free", h->known ? number(h->free) : json_null(),
			 "surplus", h->known ? number(h->surplus) : json_null());
}

json_t *numa_node_json(const struct machine *m, uint32_t node)
{
	static const char *const kinds[] = {[NODE_DRAM] = "dram",
					    [NODE_GPU_MEMORY] = "gpu_memory",
					    [NODE_SLOW] = "slow",
					    [NODE_EMPTY] = "no_memory"};
	const struct mach_node *n = &m->nodes[node];
	json_t *huge = json_array(), *distances = json_object();
	for (uint32_t i = 0; i < n->nhuge; i++)
		json_array_append_new(huge, huge_json(&n->huge[i]));
	for (uint32_t i = 0; i < m->nnodes; i++) {
		char key[24];
		snprintf(key, sizeof(key), "%d", m->nodes[i].id.os);
		json_object_set_new(distances, key, known(n->distance ? n->distance[i] : 0));
	}
	return json_pack("{s:i s:s s:b s:o s:o s:o s:o s:o s:o s:o s:o}", "node", n->id.os, "kind", kinds[n->kind],
			 "allowed", (int)n->allowed, "memory_bytes", known(n->memory_bytes), "free_bytes",
			 known(n->free_bytes), "memory_source", known_text(n->memory_where), "cpus",
			 cpu_list(&n->all_cpus), "our_cpus", cpu_list(&n->cpus), "package", index_or_null(n->package),
			 "huge_pages", huge, "distances", distances);
}

json_t *numa_device_json(const struct mach_device *d)
{
	json_t *facts = json_array();
	for (uint32_t i = 0; i < d->nfacts && i < MACH_FACTS; i++)
		json_array_append_new(facts,
				      json_pack("{s:s s:o s:o}", "source", fact_source_name(d->fact[i].source), "where",
						text(d->fact[i].where), "node", node_number(d->fact[i].node)));
	return json_pack("{s:s s:o s:o s:o s:o s:o s:o s:o s:s s:o}", "kind", mach_device_kind_name(d->kind), "name",
			 known_text(d->name), "pci", known_text(d->pci), "model", known_text(d->model), "bytes",
			 known(d->bytes), "bridge", known_text(d->bridge), "root_complex",
			 index_or_null(d->root_complex), "node", node_number(d->node), "confidence",
			 numa_confidence_name(d->confidence), "facts", facts);
}

json_t *numa_machine_json(const struct machine *m)
{
	json_t *nodes = json_array(), *devices = json_array();
	for (uint32_t i = 0; i < m->nnodes; i++)
		json_array_append_new(nodes, numa_node_json(m, i));
	for (uint32_t i = 0; i < m->ndevices; i++)
		json_array_append_new(devices, numa_device_json(&m->devices[i]));
	return json_pack("{s:o s:o s:o s:b s:i s:o s:o}", "host", known_text(m->host), "kernel", known_text(m->kernel),
			 "source", text(m->source), "this_system", (int)m->this_system, "cpus", (int)m->ncpus, "nodes",
			 nodes, "devices", devices);
}
