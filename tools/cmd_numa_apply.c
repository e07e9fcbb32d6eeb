/* cmd_numa_apply.c - `numa apply` and `numa undo`: each setting as it was found, wanted and got. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "numa/apply.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct apply_options {
	struct numa_options numa;
	const char *journal;
	bool dry_run;
};

#define ROW_DRY_RUN                                                                                \
	{                                                                                          \
		"dry-run", 0, NULL, CLI_FLAG, offsetof(struct apply_options, dry_run), 0, 0, NULL, \
			"Say what would be written, and write nothing"                             \
	}
#define ROW_JOURNAL                                                                                 \
	{                                                                                           \
		"journal", 0, "FILE", CLI_STR, offsetof(struct apply_options, journal), 0, 0, NULL, \
			"Where what was found is kept (default " APPLY_JOURNAL ")"                  \
	}
#define ROW_JSON                                                                            \
	{                                                                                   \
		"json", 0, NULL, CLI_FLAG, offsetof(struct numa_options, json), 0, 0, NULL, \
			"The same as --format json"                                         \
	}

/* ---- output --------------------------------------------------------------------------------------------------------- */

/* Without the newline that a file ends with. */
static const char *trimmed(const char *value, char buf[APPLY_VALUE])
{
	snprintf(buf, APPLY_VALUE, "%.*s", (int)strcspn(value, "\n"), value);
	return buf;
}

static bool is_left(const struct plan_action *a)
{
	return a->kind != ACT_SYSFS && a->kind != ACT_SYSCTL;
}

static json_t *result_json(const struct plan *p, const struct apply_result *r, const struct why *why, bool dry_run)
{
	json_t *steps = json_array(), *left = json_array();
	char found[APPLY_VALUE], wanted[APPLY_VALUE], got[APPLY_VALUE];

	for (uint32_t i = 0; i < r->nsteps; i++) {
		const struct apply_step *s = &r->steps[i];
		json_array_append_new(steps,
				      json_pack("{s:s, s:s, s:s, s:s, s:s}", "path", s->path, "found",
						trimmed(s->found, found), "wanted", trimmed(s->wanted, wanted), "got",
						trimmed(s->got, got), "state", apply_state_name(s->state)));
	}
	for (uint32_t i = 0; p && i < p->nactions; i++)
		if (is_left(&p->actions[i]))
			json_array_append_new(left, json_pack("{s:s, s:s}", "path", p->actions[i].path, "value",
							      p->actions[i].value));
	json_t *o = json_pack("{s:o, s:I, s:b, s:b, s:o}", "steps", steps, "writes", (json_int_t)r->writes,
			      "rolled_back", (int)r->rolled_back, "dry_run", (int)dry_run, "left_to_you", left);
	if (o && why->err)
		json_object_set_new(o, "error", json_string(why->text));
	return o;
}

static void print_step(const struct apply_step *s, bool undoing, FILE *out)
{
	static const char *const words[] = {"is so already",          "not written", "written",
					    "NOT WHAT WAS ASKED FOR", "FAILED",      "written, then put back"};
	char found[APPLY_VALUE], wanted[APPLY_VALUE], got[APPLY_VALUE];
	const char *word = undoing && s->state == APPLY_RESTORED ? "put back" : words[s->state];

	fprintf(out, "  %s\n    found %s, wanted %s", s->path, trimmed(s->found, found), trimmed(s->wanted, wanted));
	if (s->state == APPLY_WRITTEN || s->state == APPLY_SHORT || s->state == APPLY_RESTORED)
		fprintf(out, ", got %s", trimmed(s->got, got));
	fprintf(out, ": %s\n", word);
}

static void print_result(const struct plan *p, const struct apply_result *r, bool dry_run, FILE *out)
{
	uint32_t left = 0;

	fprintf(out, "%s%u setting%s, %u write%s%s\n", dry_run ? "Dry run: " : "", r->nsteps, r->nsteps == 1 ? "" : "s",
		r->writes, r->writes == 1 ? "" : "s", r->rolled_back ? ", rolled back to what was found" : "");
	for (uint32_t i = 0; i < r->nsteps; i++)
		print_step(&r->steps[i], !p, out);
	for (uint32_t i = 0; p && i < p->nactions; i++)
		left += is_left(&p->actions[i]);
	if (left)
		fprintf(out, "Left to you: %u line%s for boot or systemd, see `numa plan`\n", left,
			left == 1 ? "" : "s");
}

static int finish(const struct cli_cmd *cmd, const struct apply_options *o, const struct plan *p,
		  const struct apply_result *r, const struct why *why, int code)
{
	if (why->err)
		cli_error(cmd, "%s", why->text);
	if (o->numa.common.format == REPORT_JSON)
		return numa_finish_json(cmd, &o->numa, result_json(p, r, why, o->dry_run), code);
	FILE *out = numa_open(cmd, &o->numa);
	if (!out)
		return CLI_FAILED;
	/* A refusal before anything was looked at has said what it has to say. */
	if (r->nsteps || !why->err)
		print_result(p, r, o->dry_run, out);
	return numa_close(cmd, &o->numa, out, code);
}

/* ---- commands ------------------------------------------------------------------------------------------------------- */

static int exit_code(int rc, const struct apply_result *r)
{
	return rc == 0 ? CLI_OK : rc == -EXDEV ? CLI_UNREADABLE : r->rolled_back ? CLI_ROLLED_BACK : CLI_FAILED;
}

int cmd_numa_apply(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {NUMA_ROWS, NUMA_PLAN_ROWS, ROW_DRY_RUN, ROW_JOURNAL};
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.after = "Each write is recorded before it is done and read back. If the system gives less than asked, "
			 "everything is put "
			 "back and the exit code is 4; 3: the plan is of another machine. `numa undo` takes all of it "
			 "back.",
	};
	struct apply_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct apply_result r = {0};
	struct machine *m = NULL;
	struct plan *p = NULL;
	struct why why = {0};
	char how[128];
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	code = numa_load(cmd, &o.numa, &m);
	if (code >= 0)
		return code;
	code = numa_plan(cmd, &o.numa, m, &p, how);
	if (code < 0) {
		const struct apply_conf conf = {.journal = o.journal, .dry_run = o.dry_run};
		int rc = apply_plan(p, &conf, &r, &why);
		if (how[0] && o.numa.common.format != REPORT_JSON && !o.numa.common.quiet)
			fprintf(stderr, "L1 is %llu MiB: %s\n", (unsigned long long)(p->conf.l1_bytes >> 20), how);
		code = finish(cmd, &o, p, &r, &why, exit_code(rc, &r));
	}
	apply_result_free(&r);
	plan_destroy(p);
	machine_destroy(m);
	return code;
}

int cmd_numa_undo(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {ROW_JSON, ROW_DRY_RUN, ROW_JOURNAL};
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.after = "Also repairs an apply that was killed. After a restart of the system there is nothing to "
			 "undo.",
	};
	struct apply_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct apply_result r = {0};
	struct why why = {0};
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	const struct apply_conf conf = {.journal = o.journal, .dry_run = o.dry_run};
	int rc = apply_undo(&conf, &r, &why);
	code = finish(cmd, &o, NULL, &r, &why, exit_code(rc, &r));
	apply_result_free(&r);
	return code;
}
