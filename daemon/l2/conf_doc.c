/* conf_doc.c - docs/l2-adapters.md, from the tables. */
#include "daemon/l2/l2_int.h"

#include <string.h>

static const char intro[] =
	"# Adapters of the second tier\n\n"
	"Written by `make docs` from `daemon/l2/*.def`; do not edit.\n\n"
	"`--l2-adapter JSON` names one adapter; given several times, the order counts: a lookup takes an object from "
	"the first that\n"
	"has it, a store goes to all. Keys and types are those of LMCache; where this server knows better or cannot "
	"follow, the\n"
	"table says so. A key that is in no table of its type is refused, as is a value of the wrong kind or out of "
	"range.\n\n"
	"```\n"
	"lmcache-appliance server --l1-size-gb 64 --eviction-policy LRU \\\n"
	"  --l2-adapter '{\"type\": \"raw_block\", \"device_paths\": [\"/dev/nvme1n1\", \"/dev/nvme2n1\"]}' \\\n"
	"  --l2-adapter '{\"type\": \"fs_native\", \"base_path\": \"/srv/kv\", \"max_capacity_gb\": 500}'\n"
	"```\n\n"
	"*Here* is one of: **used**; **no effect** (accepted, with the reason in the log); **refused** (only the "
	"default may be given).\n"
	"Sizes that end in `_gb` are GiB, in `_mb` MiB. `null` is the same as leaving a key out. Passwords are shown "
	"nowhere.\n";

static const char *const kinds[] = {
	[L2_KIND_BOOL] = "true, false", [L2_KIND_INT] = "integer",   [L2_KIND_REAL] = "number",
	[L2_KIND_TEXT] = "text",        [L2_KIND_OBJECT] = "object", [L2_KIND_LIST] = "list of texts",
};
static const char *const uses[] = {[L2_KEY_USED] = "used", [L2_KEY_QUIET] = "no effect", [L2_KEY_REFUSED] = "refused"};

/* A table's cell: '|' would end it. */
static void cell(FILE *out, const char *text)
{
	for (; *text; text++)
		fputs(*text == '|' ? ", " : (char[2]){*text, 0}, out);
}

static void row(FILE *out, const struct l2_key *k)
{
	fprintf(out, "| `%s`%s | ", k->name, k->flags & L2_REQUIRED ? " (required)" : "");
	if (k->choices)
		cell(out, k->choices);
	else if ((k->kind == L2_KIND_INT || k->kind == L2_KIND_REAL) && k->max > 0)
		fprintf(out, "%.15g to %.15g", k->min, k->max);
	else
		fputs(kinds[k->kind], out);
	if (k->def && *k->def)
		fprintf(out, " | `%s`", k->def);
	else
		fputs(k->def ? " | empty" : " | none", out);
	fprintf(out, " | %s | ", uses[k->use]);
	cell(out, k->what);
	fputs(" |\n", out);
}

static void unserved(FILE *out)
{
	fputs("\n## Types that are refused\n\n| Type | Why |\n|---|---|\n", out);
#define L2_TYPE(id, name, create, what)
#define L2_UNSERVED(name, what) fprintf(out, "| `%s` | %s |\n", name, what);
#include "daemon/l2/types.def"
#undef L2_TYPE
#undef L2_UNSERVED
}

void l2_conf_write_docs(FILE *out)
{
	fputs(intro, out);
	for (uint32_t t = 0; t < L2_TYPES; t++) {
		fprintf(out, "\n## %s\n\n", l2_types[t].name);
		cell(out, l2_types[t].what);
		fputs(".\n\n| Key | Value | Default | Here | Meaning |\n|---|---|---|---|---|\n", out);
		for (uint32_t i = 0; i < l2_nkeys; i++)
			if (l2_keys[i].types >> t & 1 && strcmp(l2_keys[i].name, "type") != 0)
				row(out, &l2_keys[i]);
	}
	unserved(out);
}
