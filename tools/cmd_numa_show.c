/* cmd_numa_show.c - `numa show`: the machine as a picture, as JSON, as SVG. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "tools/numa_json.h"
#include "tools/numa_picture.h"
#include "tools/numa_svg.h"

#include <errno.h>
#include <string.h>

struct show_options {
	struct numa_options numa;
	bool ascii, plan;
	const char *svg;
};

static const struct cli_opt rows[] = {
	NUMA_ROWS,
	NUMA_PLAN_ROWS,
	{"plan", 0, NULL, CLI_FLAG, offsetof(struct show_options, plan), 0, 0, NULL,
	 "Draw the plan's pools and threads in; --l1, --policy and --map imply it"},
	{"ascii", 0, NULL, CLI_FLAG, offsetof(struct show_options, ascii), 0, 0, NULL, "Nothing but ASCII characters"},
	{"svg", 0, "FILE", CLI_STR, offsetof(struct show_options, svg), 0, 0, NULL, "Write an SVG picture to a file"},
};

static int write_svg(const struct cli_cmd *cmd, const char *path, const struct numa_view *v)
{
	struct svg *s;
	struct why why = {0};
	if (svg_layout(v, &s, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	FILE *out = fopen(path, "we");
	int rc = out ? svg_write(s, out) : -errno;
	if (out && fclose(out) && !rc)
		rc = -errno;
	svg_destroy(s);
	if (rc)
		cli_error(cmd, "%s: %s", path, strerror(-rc));
	return rc ? CLI_FAILED : CLI_OK;
}

static int output(const struct cli_cmd *cmd, const struct show_options *o, const struct numa_view *v,
		  const struct plan *p, json_t *status)
{
	int code = o->svg ? write_svg(cmd, o->svg, v) : CLI_OK;
	if (code != CLI_OK)
		return code;
	if (o->numa.common.format == REPORT_JSON) {
		json_t *plan = p ? plan_json(p) : json_null(), *server = json_object_get(status, "numa");
		json_t *all = json_pack("{s:i s:o s:o s:O}", "schema", 1, "machine", numa_machine_json(v->m), "plan",
					plan, "server", server ? server : json_null());
		return numa_finish_json(cmd, &o->numa, all, code);
	}
	FILE *out = numa_open(cmd, &o->numa);
	if (!out)
		return CLI_FAILED;
	struct canvas_style style = picture_style(o->ascii, out);
	if (picture_print(v, &style, out) == -ENOMEM) {
		cli_error(cmd, "out of memory");
		code = CLI_FAILED;
	}
	return numa_close(cmd, &o->numa, out, code);
}

static int show(const struct cli_cmd *cmd, const struct show_options *o, const struct machine *m)
{
	bool planned = o->plan || o->numa.l1 || o->numa.map || o->numa.policy != PLAN_LOCAL;
	struct plan *p = NULL;
	struct numa_view *v = NULL;
	struct why why = {0};
	json_t *status = NULL;
	char how[128] = "";
	int code = o->numa.common.url_text ? numa_status(cmd, &o->numa.common, &status)
		   : planned               ? numa_plan(cmd, &o->numa, m, &p, how)
					   : -1;
	if (code < 0) {
		int rc = status ? view_of_status(m, status, o->numa.common.url.text, &v, &why)
				: view_of_plan(m, p, how, &v, &why);
		if (rc)
			cli_error(cmd, "%s", why.text);
		code = rc == -EPROTO ? CLI_UNREADABLE : rc ? CLI_FAILED : output(cmd, o, v, p, status);
	}
	view_destroy(v);
	plan_destroy(p);
	json_decref(status);
	return code;
}

int cmd_numa_show(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.opts = rows, .nopts = sizeof(rows) / sizeof(rows[0]), .default_timeout_s = 10};
	struct show_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct machine *m = NULL;
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);
	if (code >= 0)
		return code;
	if (o.numa.common.url_text && o.numa.common.url.kind != URL_HTTP)
		return cli_usage(cmd, "--url: /status is read over HTTP: give the HTTP URL, such as %s",
				 CLI_DEFAULT_HTTP);
	if (o.numa.common.url_text && o.numa.from)
		return cli_usage(cmd, "--url and --from contradict each other: a server runs on this system");
	code = numa_load(cmd, &o.numa, &m);
	if (code >= 0)
		return code;
	code = show(cmd, &o, m);
	machine_destroy(m);
	return code;
}
