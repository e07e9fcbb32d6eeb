/* plan_json.c - a plan for programs. Keys come in the order written here. */
#include "numa/plan_int.h"

static const char *want_name(enum plan_want w)
{
	return w == WANT_YES ? "yes" : w == WANT_TRY ? "try" : "no";
}

/* Counts of a machine are as large as its files say. */
static json_int_t number(uint64_t v)
{
	return v > INT64_MAX ? INT64_MAX : (json_int_t)v;
}

static json_t *node_json(node_id n)
{
	return node_known(n) ? json_integer(n.os) : json_null();
}

static json_t *index_json(uint32_t i)
{
	return i == NO_INDEX ? json_null() : json_integer(i);
}

/* Names are bytes of somebody else's file: only printable ones make a JSON string for sure. */
static json_t *text_json(const char *text)
{
	char clean[512];

	plan_text(clean, sizeof(clean), "%s", text);
	return json_string(clean);
}

static json_t *pool_json(const struct plan *plan, uint32_t i)
{
	const struct plan_pool *p = &plan->pools[i];
	return json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:s, s:s}", "node", node_json(p->node), "backing",
			 plan_backing_name(p->backing), "page_bytes", number(p->page_bytes), "bytes", number(p->bytes),
			 "pages", number(p->pages), "pages_free", number(p->pages_free), "reason", p->line.reason,
			 "source", p->line.source);
}

static json_t *thread_json(const struct plan *plan, uint32_t i)
{
	const struct plan_thread *t = &plan->threads[i];
	char cpus[CPU_MAX * 5 + 1];
	const struct mach_device *d = t->device;

	cpus_format(&t->cpus, cpus, sizeof(cpus));
	return json_pack("{s:s, s:I, s:o, s:s, s:o, s:o, s:s, s:s}", "role", plan_role_name(t->role), "index",
			 number(t->index), "node", node_json(t->node), "cpus", cpus, "device",
			 d ? text_json(d->name[0] ? d->name : d->pci) : json_null(), "pool", index_json(t->pool),
			 "reason", t->line.reason, "source", t->line.source);
}

static json_t *device_json(const struct plan *plan, uint32_t i)
{
	const struct plan_device *d = &plan->devices[i];
	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:s}", "kind", mach_device_kind_name(d->device->kind),
			 "name", text_json(d->device->name), "pci", text_json(d->device->pci), "node",
			 node_json(d->device->node), "pool", index_json(d->pool), "thread", index_json(d->thread),
			 "reason", d->line.reason, "source", d->line.source);
}

static json_t *note_json(const struct plan *plan, uint32_t i)
{
	const struct plan_note *n = &plan->notes[i];
	static const char *const names[] = {"notice", "warning", "shortage"};

	return json_pack("{s:s, s:s, s:s, s:s}", "severity", names[n->severity], "text", n->text, "where", n->where,
			 "remedy", n->remedy);
}

static json_t *action_json(const struct plan *plan, uint32_t i)
{
	const struct plan_action *a = &plan->actions[i];
	static const char *const names[] = {"sysfs", "sysctl", "kernel_argument", "systemd"};

	return json_pack("{s:s, s:s, s:s, s:s, s:s}", "kind", names[a->kind], "path", a->path, "value", a->value,
			 "reason", a->line.reason, "source", a->line.source);
}

static json_t *wishes_json(const struct plan_conf *c)
{
	json_t *map = json_array();

	for (uint32_t i = 0; map && i < c->nmanual; i++) {
		if (json_array_append_new(map, json_pack("{s:o, s:I}", "node", node_json(c->manual[i].node), "bytes",
							 number(c->manual[i].bytes)))) {
			json_decref(map);
			map = NULL;
		}
	}
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "policy", plan_policies[c->policy].name,
			 "l1_bytes", number(c->l1_bytes), "numa", want_name(c->numa), "huge_1g", want_name(c->huge_1g),
			 "huge_2m", want_name(c->huge_2m), "thp", want_name(c->thp), "transfer_workers",
			 number(c->transfer_workers), "lookup_workers", number(c->lookup_workers), "map", map);
}

typedef json_t *element(const struct plan *p, uint32_t i);

static int add_list(json_t *root, const char *key, const struct plan *p, uint32_t n, element *one)
{
	json_t *list = json_array();

	for (uint32_t i = 0; list && i < n; i++) {
		if (json_array_append_new(list, one(p, i))) {
			json_decref(list);
			list = NULL;
		}
	}
	return json_object_set_new(root, key, list);
}

json_t *plan_json(const struct plan *p)
{
	uint64_t placed = 0;
	json_t *root;

	for (uint32_t i = 0; i < p->npools; i++)
		placed += p->pools[i].bytes;
	root = json_pack("{s:o, s:o, s:b, s:I, s:I}", "wishes", wishes_json(&p->conf), "machine",
			 text_json(p->machine->source), "this_system", p->machine->this_system, "placed_bytes",
			 number(placed), "shortage_bytes", number(p->shortage_bytes));
	if (root && !add_list(root, "pools", p, p->npools, pool_json) &&
	    !add_list(root, "threads", p, p->nthreads, thread_json) &&
	    !add_list(root, "devices", p, p->ndevices, device_json) &&
	    !add_list(root, "notes", p, p->nnotes, note_json) &&
	    !add_list(root, "actions", p, p->nactions, action_json))
		return root;
	json_decref(root);
	return NULL;
}
