/* cmd_numa_plan.c - `numa plan`: where everything should go, why, and the lines to get there. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "tools/numa_fragments.h"

#include <stdio.h>
#include <string.h>

struct plan_options {
	struct numa_options numa;
	const char *write;
};

static const struct cli_opt rows[] = {
	NUMA_ROWS,
	NUMA_PLAN_ROWS,
	{"write", 0, "DIR", CLI_STR, offsetof(struct plan_options, write), 0, 0, NULL,
	 "Also write the lines as files for tmpfiles.d, sysctl.d, the kernel command line and systemd"},
};

static void print_after(const struct plan *p, const struct plan_options *o, FILE *out)
{
	char text[512];

	if (p->nactions && !o->write)
		fputc('\n', out);
	if (p->nactions && !o->write)
		plan_wrap(out, 0, 2, "For good, over restarts: `numa plan --write DIR` writes these lines as files.");
	for (uint32_t i = 0; o->write && i < FRAGMENTS; i++) {
		const struct fragment *f = &fragments[i];

		if (!fragment_lines(p, f->kind))
			continue;
		snprintf(text, sizeof(text), "to %s, then %s", f->install, f->then);
		fprintf(out, "\n%s/%s\n  ", o->write, f->file);
		plan_wrap(out, 2, 2, text);
	}
}

static json_t *files_json(const struct plan *p, const char *folder)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < FRAGMENTS; i++) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/%s", folder, fragments[i].file);
		json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "file", path, "install", fragments[i].install,
						      "lines", (int)fragment_lines(p, fragments[i].kind)));
	}
	return list;
}

static int show(const struct cli_cmd *cmd, const struct plan_options *o, const struct plan *p, const char *how)
{
	char bytes[24];

	if (o->numa.common.format == REPORT_JSON) {
		json_t *root = plan_json(p);

		json_object_set_new(root, "l1_from", how[0] ? json_string(how) : json_null());
		if (o->write)
			json_object_set_new(root, "written", files_json(p, o->write));
		return numa_finish_json(cmd, &o->numa, root, CLI_OK);
	}
	FILE *out = numa_open(cmd, &o->numa);
	if (!out)
		return CLI_FAILED;
	if (how[0])
		fprintf(out, "L1: %s, %s; --l1 says otherwise\n\n", numa_size_text(p->conf.l1_bytes, bytes), how);
	plan_print(p, out);
	print_after(p, o, out);
	return numa_close(cmd, &o->numa, out, CLI_OK);
}

static int write_then_show(const struct cli_cmd *cmd, const struct plan_options *o, const struct plan *p,
			   const char *how)
{
	struct why why = {0};

	if (o->write && fragments_write(p, o->write, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	return show(cmd, o, p, how);
}

int cmd_numa_plan(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.default_timeout_s = 10,
		.after = "Nothing is changed: `numa apply` does that. With --url, pages that the server there holds "
			 "count as free. Exit code 3: "
			 "the machine, or the server of --url, cannot be read.",
	};
	struct plan_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct machine *m = NULL;
	struct plan *p = NULL;
	char how[128] = "";
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	code = numa_ask(cmd, &o.numa);
	if (code < 0)
		code = numa_load(cmd, &o.numa, &m);
	if (code < 0)
		code = numa_plan(cmd, &o.numa, m, &p, how);
	if (code < 0)
		code = write_then_show(cmd, &o, p, how);
	plan_destroy(p);
	machine_destroy(m);
	json_decref(o.numa.status);
	return code;
}
