/* cmd_numa_check.c - `numa check`: what stands between this system and the plan, each with its remedy. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "tools/numa_check.h"

#include "numa/apply.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct check_options {
	struct numa_options numa;
	const char *journal;
};

static const struct cli_opt rows[] = {
	NUMA_ROWS,
	NUMA_PLAN_ROWS,
	{"journal", 0, "FILE", CLI_STR, offsetof(struct check_options, journal), 0, 0, NULL,
	 "Journal of numa apply (default " APPLY_JOURNAL ")"},
};

static int show(const struct cli_cmd *cmd, const struct numa_options *o, const struct plan_conf *conf, const char *how,
		json_t *findings)
{
	uint32_t n = check_count(findings);
	int code = n ? CLI_FAILED : CLI_OK;
	char size[24];

	if (o->common.format == REPORT_JSON)
		return numa_finish_json(cmd, o,
					json_pack("{s:i s:b s:I s:O}", "schema", 1, "ok", n == 0, "l1_bytes",
						  (json_int_t)conf->l1_bytes, "findings", findings),
					code);
	FILE *out = numa_open(cmd, o);
	if (!out)
		return CLI_FAILED;
	fprintf(out, "plan '%s': L1 %s%s%s\n", plan_policies[conf->policy].name, numa_size_text(conf->l1_bytes, size),
		how[0] ? ", " : "", how);
	check_print(findings, out);
	fprintf(out, n ? "%u finding%s\n" : "ok\n", n, n == 1 ? "" : "s");
	return numa_close(cmd, o, out, code);
}

/* Wishes that this machine cannot meet are a finding here, and the others are still worth saying. */
static int check(const struct cli_cmd *cmd, const struct check_options *o, const struct machine *m)
{
	struct plan_conf conf;
	struct why why = {0};
	struct plan *p = NULL;
	char how[128], cmdline[4096] = "";
	int code = numa_plan_conf(cmd, &o->numa, m, &conf, how);

	if (code >= 0)
		return code;
	int rc = plan_make(m, &conf, &p, &why);
	FILE *f = m->this_system ? fopen("/proc/cmdline", "re") : NULL;
	if (f) {
		cmdline[fread(cmdline, 1, sizeof(cmdline) - 1, f)] = '\0';
		fclose(f);
	}
	const struct check_in in = {.machine = m,
				    .plan = p,
				    .conf = &conf,
				    .why_not = why.text,
				    .status = o->numa.status,
				    .server = o->numa.common.url.text,
				    .journal = o->journal,
				    .cmdline = cmdline};
	json_t *findings = rc == -ENOMEM ? NULL : check_findings(&in);
	if (findings)
		code = show(cmd, &o->numa, &conf, how, findings);
	else
		cli_error(cmd, "%s", strerror(ENOMEM));
	json_decref(findings);
	plan_destroy(p);
	return findings ? code : CLI_FAILED;
}

int cmd_numa_check(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.default_timeout_s = 10,
		.after = "Run it as the user, and in the container or unit, that the server runs in: limits are those "
			 "of "
			 "this process. With --url, the server there is compared with the plan as well. Exit code 0: "
			 "fine, or notices only; 1: findings; 3: the machine, or the server of --url, cannot be read.",
	};
	struct check_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct machine *m = NULL;
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	code = numa_ask(cmd, &o.numa);
	if (code < 0)
		code = numa_load(cmd, &o.numa, &m);
	if (code < 0)
		code = check(cmd, &o, m);
	machine_destroy(m);
	json_decref(o.numa.status);
	return code;
}
