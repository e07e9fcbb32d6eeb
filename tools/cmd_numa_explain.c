/* cmd_numa_explain.c - `numa explain`: every fact with its source, and where sources disagree. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "tools/numa_canvas.h"
#include "tools/numa_facts.h"
#include "tools/numa_json.h"
#include "tools/numa_picture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct explain_options {
	struct numa_options numa;
	const char *what;
};

struct teller {
	struct canvas *c;
	const struct machine *m;
	unsigned row;
};

static void fact(struct teller *t, const char *name, const char *value, const char *source)
{
	canvas_text(t->c, t->row, 2, 12, INK_DIM, "%s", name);
	t->row += canvas_wrap(t->c, t->row, 14, PICTURE_WIDTH - 14, INK_PLAIN, value);
	if (!source)
		return;
	canvas_text(t->c, t->row, 14, 5, INK_DIM, "from");
	t->row += canvas_wrap(t->c, t->row, 19, PICTURE_WIDTH - 19, INK_DIM, source[0] ? source : "no source");
}

static void told(void *t, const char *name, const char *value, const char *source)
{
	fact(t, name, value, source);
}

/* ---- a node ---------------------------------------------------------------------------------------------------------- */

static void tell_node(struct teller *t, uint32_t node)
{
	const struct mach_node *n = &t->m->nodes[node];
	char marks[64];
	view_node_marks(n, marks);
	canvas_text(t->c, t->row++, 0, PICTURE_WIDTH, INK_BOLD, "node %d%s%s", n->id.os, marks[0] ? ", " : "", marks);
	facts_of_node(t->m, node, told, t);
}

/* ---- a device -------------------------------------------------------------------------------------------------------- */

static void tell_facts(struct teller *t, const struct mach_device *d)
{
	char value[64], source[192];
	for (uint32_t i = 0; i < d->nfacts && i < MACH_FACTS; i++) {
		const struct fact_node *f = &d->fact[i];
		if (node_known(f->node))
			snprintf(value, sizeof(value), "says node %d", f->node.os);
		else
			snprintf(value, sizeof(value), "does not know");
		snprintf(source, sizeof(source), "%s: %s", fact_source_name(f->source), f->where);
		fact(t, i ? "" : "asked", value, source);
	}
	if (!d->nfacts)
		fact(t, "asked", "nobody", "");
}

static void tell_device(struct teller *t, const struct mach_device *d, bool relations)
{
	char value[160], what[96], node[24];
	view_device_text(d, what);
	canvas_text(t->c, t->row++, 0, PICTURE_WIDTH, INK_BOLD, "%s  %s  %s, %s", d->name[0] ? d->name : "?",
		    d->pci[0] ? d->pci : "no PCI", mach_device_kind_name(d->kind), what);
	snprintf(value, sizeof(value), "%s, %s", machine_node_text(d->node, node), numa_confidence_name(d->confidence));
	fact(t, "node", value, NULL);
	tell_facts(t, d);
	facts_of_device(t->m, d, told, t);
	for (uint32_t i = 0; relations && i < t->m->ndevices; i++) {
		const struct mach_device *other = &t->m->devices[i];
		if (other == d)
			continue;
		snprintf(value, sizeof(value), "%-4s to %s (%s)", view_relation(d, other), other->name,
			 other->pci[0] ? other->pci : "no PCI");
		fact(t, "relation", value, NULL);
	}
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

/* "node1", which "node 1" has become; VIEW_NONE when it is not a node of the machine. */
static uint32_t find_node(const struct machine *m, const char *what)
{
	char *end;
	if (strncmp(what, "node", 4) != 0 || what[4] < '0' || what[4] > '9')
		return VIEW_NONE;
	unsigned long os = strtoul(what + 4, &end, 10);
	return *end || os >= NODE_MAX ? VIEW_NONE : machine_node_index(m, node_of((int)os));
}

static int tell(const struct cli_cmd *cmd, const struct explain_options *o, const struct machine *m, uint32_t node,
		const struct mach_device *device)
{
	struct teller t = {.c = canvas_create(PICTURE_WIDTH), .m = m};
	if (!t.c) {
		cli_error(cmd, "out of memory");
		return CLI_FAILED;
	}
	if (!o->what) {
		canvas_text(t.c, t.row++, 0, PICTURE_WIDTH, INK_BOLD, "the machine, and what limits us: %s", m->source);
		facts_of_machine(m, told, &t);
	}
	for (uint32_t i = 0; i < m->nnodes; i++)
		if (node == i || !o->what)
			tell_node(&t, i);
	if (device)
		tell_device(&t, device, true);
	for (uint32_t i = 0; i < m->ndevices && !o->what; i++)
		tell_device(&t, &m->devices[i], false);
	FILE *out = numa_open(cmd, &o->numa);
	int rc = 0;
	if (out) {
		struct canvas_style style = picture_style(true, out);
		rc = canvas_write(t.c, &style, out);
	}
	canvas_destroy(t.c);
	if (rc == -ENOMEM)
		cli_error(cmd, "out of memory");
	return out ? numa_close(cmd, &o->numa, out, rc ? CLI_FAILED : CLI_OK) : CLI_FAILED;
}

/* What `numa show --json` has, and in `details` every fact in words with its source. */
static json_t *node_json(const struct machine *m, uint32_t node)
{
	json_t *o = numa_node_json(m, node);
	json_object_set_new(o, "details", facts_json(m, node, NULL));
	return o;
}

static json_t *device_json(const struct machine *m, const struct mach_device *d)
{
	json_t *o = numa_device_json(d);
	json_object_set_new(o, "details", facts_json(m, VIEW_NONE, d));
	return o;
}

static json_t *everything(const struct machine *m)
{
	json_t *o = numa_machine_json(m), *nodes = json_array(), *devices = json_array();
	for (uint32_t i = 0; i < m->nnodes; i++)
		json_array_append_new(nodes, node_json(m, i));
	for (uint32_t i = 0; i < m->ndevices; i++)
		json_array_append_new(devices, device_json(m, &m->devices[i]));
	json_object_set_new(o, "details", facts_json(m, VIEW_NONE, NULL));
	json_object_set_new(o, "nodes", nodes);
	json_object_set_new(o, "devices", devices);
	return o;
}

static int explain(const struct cli_cmd *cmd, const struct explain_options *o, const struct machine *m)
{
	uint32_t node = o->what ? find_node(m, o->what) : VIEW_NONE;
	const struct mach_device *device = o->what && node == VIEW_NONE ? machine_device(m, o->what) : NULL;
	if (o->what && node == VIEW_NONE && !device) {
		cli_error(cmd,
			  "'%.64s' is no node (node0) and no device by name or PCI address; 'numa show' lists them",
			  o->what);
		return CLI_USAGE;
	}
	if (o->numa.common.format != REPORT_JSON)
		return tell(cmd, o, m, node, device);
	json_t *all = !o->what ? everything(m) : device ? device_json(m, device) : node_json(m, node);
	if (all)
		json_object_set_new(all, "schema", json_integer(1));
	return numa_finish_json(cmd, &o->numa, all, CLI_OK);
}

/* "node 1" is one word too, so that what other commands print can be copied. */
static int join_node(int argc, char **argv, char *word, size_t cap)
{
	for (int i = 1; i + 1 < argc; i++) {
		const char *number = argv[i + 1];
		if (strcmp(argv[i], "node") != 0 || !*number || number[strspn(number, "0123456789")])
			continue;
		snprintf(word, cap, "node%s", number);
		argv[i] = word;
		memmove(&argv[i + 1], &argv[i + 2], (size_t)(argc - i - 1) * sizeof(*argv));
		return argc - 1;
	}
	return argc;
}

int cmd_numa_explain(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {NUMA_ROWS};
	const struct cli_spec spec = {.opts = rows,
				      .nopts = sizeof(rows) / sizeof(rows[0]),
				      .default_timeout_s = 10,
				      .arg = "[DEVICE|PCI-ADDRESS|nodeN]",
				      .after = "Every fact with the file or object that says it; where sources "
					       "disagree, all of them. Without a word: everything.",
				      .arg_offset = offsetof(struct explain_options, what)};
	struct explain_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct machine *m = NULL;
	char word[32];
	argc = join_node(argc, argv, word, sizeof(word));
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);
	if (code >= 0)
		return code;
	code = numa_load(cmd, &o.numa, &m);
	if (code >= 0)
		return code;
	code = explain(cmd, &o, m);
	machine_destroy(m);
	return code;
}
