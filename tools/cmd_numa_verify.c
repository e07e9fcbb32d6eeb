/* cmd_numa_verify.c - `numa verify`: the running server against its plan. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "tools/numa_verify.h"

struct verify_options {
	struct numa_options numa;
	uint64_t max_pages;
};

static const struct cli_opt rows[] = {
	{"json", 0, NULL, CLI_FLAG, offsetof(struct numa_options, json), 0, 0, NULL, "The same as --format json"},
	{"max-pages", 0, "N", CLI_U64, offsetof(struct verify_options, max_pages), 0, 1e12, NULL,
	 "Look at that many pages of each pool, evenly spread; 0 is all (default 1048576)"},
};

static int show(const struct cli_cmd *cmd, const struct numa_options *o, const struct verify *v)
{
	int code = v->nfindings ? CLI_FAILED : CLI_OK;

	if (o->common.format == REPORT_JSON)
		return numa_finish_json(cmd, o, verify_json(v), code);
	FILE *out = numa_open(cmd, o);
	if (!out)
		return CLI_FAILED;
	verify_print(v, out);
	return numa_close(cmd, o, out, code);
}

int cmd_numa_verify(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.default_url = CLI_DEFAULT_HTTP,
		.default_timeout_s = 10,
		.after = "Asks the server's HTTP port where things should be and the kernel where they are. Run it on "
			 "the server's host, as "
			 "its user or root. Exit code 1: there are findings; 3: there is no such server.",
	};
	struct verify_options o = {.numa = NUMA_OPTIONS_DEFAULT, .max_pages = 1u << 20};
	struct machine *m = NULL;
	struct verify *v = NULL;
	struct why why = {0};
	json_t *status = NULL;
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	if (o.numa.common.url.kind != URL_HTTP)
		return cli_usage(cmd, "--url: the HTTP port is needed, such as " CLI_DEFAULT_HTTP);
	code = numa_status(cmd, &o.numa.common, &status);
	if (code < 0)
		code = numa_load(cmd, &o.numa, &m);
	if (code < 0) {
		const struct verify_conf conf = {.max_pages = o.max_pages};
		int rc = verify_collect(status, m, &conf, &v, &why);
		if (rc)
			cli_error(cmd, "%s", why.text);
		code = rc ? CLI_UNREADABLE : show(cmd, &o.numa, v);
	}
	verify_destroy(v);
	machine_destroy(m);
	json_decref(status);
	return code;
}
