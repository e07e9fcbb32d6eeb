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

static const char files_note[] =
	"\n**Files.** One per object, named as upstream names them: "
	"`<model, / as -SEP->@0x<kv_rank>@<object group, hex>@<hash, hex>[@<salt>].data`; the older form\n"
	"without the group is read, too. The file is the payload and nothing else, so upstream reads ours and we read "
	"its. A "
	"model or salt that makes no\n"
	"file name ('/' in a salt, over 255 bytes) is not stored. Files of other names are left alone.\n\n"
	"**Start.** The directory is read in the background, by age of last use; with a capacity, stores wait until "
	"that is done, "
	"so the limit holds from\n"
	"the first byte. Half written files of a crash are removed. A directory belongs to one server (it is locked), "
	"unless "
	"`shared` says otherwise;\n"
	"then files of others are found when they are asked for, and each server counts and limits what it knows "
	"of.\n\n"
	"**Checks.** What we write is remembered with its checksum, and the extended attribute `user.lmca.crc32c` "
	"keeps "
	"checksum, length and a digest of\n"
	"model, rank, salt and layout beside the file (`1:<crc32c>:<bytes>:<digest>`). A load compares: other bytes, "
	"another "
	"length or a vanished file is a\n"
	"miss, and the file goes; another layout is a miss, and the file stays until it is stored again. A file "
	"without the "
	"attribute (upstream's, or on\n"
	"a file system that has none) is checked by its length only, and its layout is taken on trust.\n\n"
	"**Durability.** A file gets its name when it is complete. kill -9 loses nothing that was stored; after a "
	"power cut, "
	"`fsync` decides: `always`\n"
	"loses nothing, `flush` nothing before the last flush. A file that a power cut emptied or tore is caught by "
	"length and "
	"checksum; on a file system\n"
	"without attributes only by its length, so take `always` there.\n\n"
	"**Failing.** A full or read-only file system, or three errors in a row, close the adapter for stores: they "
	"are dropped and "
	"counted for a second, then\n"
	"for twice as long each time up to a minute; loads go on. The state stands in `/status`.\n";

static const char resp_note[] =
	"\n**Keys.** `<model>@<kv_rank>@<object group>@<hash>[@<salt>]`, as upstream's, the value the bare payload. "
	"Beside it "
	"`lmca:mark:<key>` keeps checksum,\n"
	"length and a digest of model, rank, salt and layout, in the same packet. A load compares them, and what does "
	"not fit is a "
	"miss; where the mark is\n"
	"missing (upstream stored the value, or the server evicted the mark) the length decides.\n\n"
	"**Connections.** One per worker, opened when needed; hiredis connects. A value leaves from its slot of L1 and "
	"arrives in it "
	"without a copy; an\n"
	"answer of another length than was asked for is an error and never memory. A lookup asks for up to 128 lengths "
	"in one "
	"packet. A connection that\n"
	"fails is opened again after 0.1 s, then twice that, up to 10 s; until then stores are dropped and loads fail "
	"at once. "
	"`timeout_ms` is for each\n"
	"answer, with one more second per 8 MB of value. There is no TLS: a `scheme://` in `host` is refused; use a "
	"tunnel.\n\n"
	"**Limits.** `max_capacity_gb` counts what this server stored since it started; for the whole store set the "
	"server's "
	"`maxmemory` and a policy.\n"
	"Clearing removes every key of the forms above, with `shared` only what this server stored since it started. A "
	"flush does "
	"nothing: what\n"
	"survives is the server's affair.\n";

static const char *const notes[L2_TYPES] = {
	[L2_FS] = files_note,
	[L2_FS_NATIVE] = "\nEverything said of `fs` holds.\n",
	[L2_RESP] = resp_note,
};

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
		fputs(notes[t] ? notes[t] : "", out);
	}
	unserved(out);
}
