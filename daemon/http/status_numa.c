#include "daemon/http/status_numa.h"

#include "daemon/base/mem.h"

void status_numa_free(struct status_numa *n)
{
	mem_free(n->pools);
	mem_free(n->places);
	mem_free(n->notes);
	n->pools = NULL;
	n->places = NULL;
	n->notes = NULL;
	n->npools = n->nplaces = n->nnotes = 0;
}

static json_t *num(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *node(node_id id)
{
	return node_known(id) ? json_integer(id.os) : json_null();
}

static json_t *counted(const struct status_pool *p, uint64_t pages)
{
	return p->checked ? num(pages) : json_null();
}

static json_t *pool(const struct status_pool *p)
{
	return json_pack("{s:o s:o s:o s:o s:s s:b s:o s:o s:o s:o s:o s:o s:o s:o}", "node", node(p->node), "start",
			 num(p->start), "bytes", num(p->bytes), "page_bytes", num(p->page_bytes), "backing", p->backing,
			 "bound", (int)p->bound, "used_bytes", num(p->used_bytes), "committed_bytes",
			 num(p->committed_bytes), "pages", counted(p, p->pages), "pages_looked_at",
			 counted(p, p->pages_looked), "pages_on_node", counted(p, p->pages_on_node), "pages_elsewhere",
			 counted(p, p->pages_elsewhere), "pages_absent", counted(p, p->pages_absent), "checked_s",
			 p->checked ? json_real((double)(int64_t)(p->checked_s * 1000) / 1000) : json_null());
}

static json_t *cpu_list(const struct cpu_set *s)
{
	size_t n = cpus_format(s, NULL, 0);
	char *text = mem_calloc(n + 1, 1);
	json_t *out = NULL;

	if (text) {
		cpus_format(s, text, n + 1);
		out = json_string(text);
	}
	mem_free(text);
	return out;
}

static json_t *place(const struct status_place *t)
{
	return json_pack("{s:s s:i s:s s:o s:o s:o}", "name", t->name, "tid", t->tid, "role", t->role, "planned_cpus",
			 t->planned ? cpu_list(&t->planned_cpus) : json_null(), "cpu",
			 t->cpu >= 0 ? json_integer(t->cpu) : json_null(), "node", node(t->node));
}

static json_t *note(const struct status_note *n)
{
	return json_pack("{s:s s:s s:s}", "severity", n->severity, "text", n->text, "remedy", n->remedy);
}

/* False when out of memory; a NULL value is one. */
static bool append(json_t *list, json_t *value)
{
	return json_array_append_new(list, value) == 0;
}

json_t *status_numa_json(const struct status_numa *n)
{
	json_t *pools = json_array(), *places = json_array(), *notes = json_array();
	bool ok = pools && places && notes;

	for (uint32_t i = 0; ok && i < n->npools; i++)
		ok = append(pools, pool(&n->pools[i]));
	for (uint32_t i = 0; ok && i < n->nplaces; i++)
		ok = append(places, place(&n->places[i]));
	for (uint32_t i = 0; ok && i < n->nnotes; i++)
		ok = append(notes, note(&n->notes[i]));
	if (!ok) {
		json_decref(pools);
		json_decref(places);
		json_decref(notes);
		return NULL;
	}
	return json_pack("{s:s s:s s:{s:s s:b s:i s:i s:i} s:o s:o s:o s:o}", "policy", n->policy, "bind", n->bind,
			 "this_machine", "source", n->source, "this_system", (int)n->this_system, "nodes",
			 (int)n->nodes, "cpus", (int)n->cpus, "devices", (int)n->devices, "pools", pools, "threads",
			 places, "fallbacks", num(n->fallbacks), "notes", notes);
}
