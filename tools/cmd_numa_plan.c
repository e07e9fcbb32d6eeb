/* cmd_numa_plan.c - `numa plan` and `numa check`: what should be, and what is not. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "numa/apply.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct plan_options {
	struct numa_options numa;
	const char *write, *journal;
};

/* ---- fragments: the actions of a plan as files that outlive a boot ------------------------------------------------- */

static const struct fragment {
	enum plan_action_kind kind;
	const char *name, *head;
} fragments[] = {
	{ACT_SYSFS, "tmpfiles.conf",
	 "# For /etc/tmpfiles.d/lmcache-appliance.conf. The kernel may grant fewer pages: see numa check.\n"},
	{ACT_SYSCTL, "sysctl.conf", "# For /etc/sysctl.d/60-lmcache-appliance.conf\n"},
	{ACT_KERNEL_ARG, "kernel-command-line.cfg",
	 "# For /etc/default/grub.d/lmcache-appliance.cfg, then update-grub\n"},
	{ACT_UNIT, "service.conf",
	 "# For /etc/systemd/system/lmcache-appliance.service.d/numa.conf, then systemctl daemon-reload\n[Service]\n"},
};

/* kernel.numa_balancing of /proc/sys/kernel/numa_balancing */
static void sysctl_line(const struct plan_action *a, FILE *out)
{
	const char *at = a->path + (strncmp(a->path, "/proc/sys/", 10) == 0 ? 10 : 0);
	for (; *at; at++)
		fputc(*at == '/' ? '.' : *at, out);
	fprintf(out, " = %s\n", a->value);
}

static void action_line(const struct plan_action *a, FILE *out)
{
	fprintf(out, "# %s\n", a->line.reason);
	if (a->kind == ACT_SYSFS)
		fprintf(out, "w %s - - - - %s\n", a->path, a->value);
	else if (a->kind == ACT_SYSCTL)
		sysctl_line(a, out);
	else if (a->kind == ACT_KERNEL_ARG)
		fprintf(out, "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX %s\"\n", a->value);
	else
		fprintf(out, "%s\n", a->value);
}

static int write_fragment(int dir, const struct fragment *f, const struct plan *p)
{
	int fd = openat(dir, f->name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (!out) {
		int rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	fputs(f->head, out);
	uint32_t n = 0;
	for (uint32_t i = 0; i < p->nactions; i++)
		if (p->actions[i].kind == f->kind) {
			action_line(&p->actions[i], out);
			n++;
		}
	if (!n)
		fputs("# this plan needs nothing here\n", out);
	bool failed = ferror(out);
	return fclose(out) || failed ? -EIO : 0;
}

/* -1 or an exit code. */
static int write_all(const struct cli_cmd *cmd, const char *path, const struct plan *p)
{
	int rc = mkdir(path, 0755) && errno != EEXIST ? -errno : 0;
	int dir = rc ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const char *name = "";
	if (!rc && dir < 0)
		rc = -errno;
	for (size_t i = 0; !rc && i < sizeof(fragments) / sizeof(fragments[0]); i++) {
		name = fragments[i].name;
		rc = write_fragment(dir, &fragments[i], p);
	}
	if (dir >= 0)
		close(dir);
	if (rc)
		cli_error(cmd, "%s/%s: %s", path, name, strerror(-rc));
	return rc ? CLI_FAILED : -1;
}

static int print_plan(const struct cli_cmd *cmd, const struct plan_options *o, const struct plan *p, const char *how)
{
	if (o->write) {
		int code = write_all(cmd, o->write, p);
		if (code >= 0)
			return code;
	}
	if (o->numa.common.format == REPORT_JSON)
		return numa_finish_json(cmd, &o->numa, plan_json(p), CLI_OK);
	FILE *out = numa_open(cmd, &o->numa);
	if (!out)
		return CLI_FAILED;
	char size[24];
	if (how[0])
		fprintf(out, "L1: %s, %s; --l1 says otherwise\n\n", numa_size_text(p->conf.l1_bytes, size), how);
	plan_print(p, out);
	return numa_close(cmd, &o->numa, out, CLI_OK);
}

/* ---- check ----------------------------------------------------------------------------------------------------------- */

static const char *severity_name(enum plan_severity s)
{
	static const char *const names[] = {
		[PLAN_NOTICE] = "notice", [PLAN_WARNING] = "warning", [PLAN_SHORTAGE] = "shortage"};
	return names[s];
}

struct check_list {
	json_t *json; /* or: */
	FILE *out;
	uint32_t findings; /* notices do not count */
};

/* Text in lines of at most 80 columns, those after the first indented. */
static void print_wrapped(FILE *out, const char *label, const char *text)
{
	size_t left = strlen(text);
	fprintf(out, "%-10s", label);
	while (left > 70) {
		size_t n = 70;
		while (n > 1 && text[n] != ' ')
			n--;
		n = n > 1 ? n : 70;
		fprintf(out, "%.*s\n%10s", (int)n, text, "");
		text += n + (text[n] == ' ');
		left = strlen(text);
	}
	fprintf(out, "%s\n", text);
}

static void found(struct check_list *l, enum plan_severity severity, const char *text, const char *remedy)
{
	l->findings += severity != PLAN_NOTICE;
	if (l->json) {
		json_array_append_new(l->json, json_pack("{s:s s:s s:s}", "severity", severity_name(severity), "text",
							 text, "remedy", remedy));
		return;
	}
	print_wrapped(l->out, severity_name(severity), text);
	if (remedy[0])
		print_wrapped(l->out, "  remedy", remedy);
}

static void check_journal(struct check_list *l, const char *journal)
{
	struct apply_conf conf = {.journal = journal};
	char step[256] = "", text[512];
	enum apply_journal state = apply_journal_state(&conf, step);
	if (state == JOURNAL_HALF) {
		snprintf(text, sizeof(text), "an earlier numa apply stopped half done, at %s", step);
		found(l, PLAN_WARNING, text, "lmcache-appliance numa undo");
	} else if (state == JOURNAL_UNREADABLE) {
		snprintf(text, sizeof(text), "the journal of numa apply cannot be read: %s", step);
		found(l, PLAN_NOTICE, text, "look as root");
	}
}

static void check_all(struct check_list *l, const struct plan_options *o, const struct machine *m, const struct plan *p)
{
	for (uint32_t i = 0; i < p->nnotes; i++)
		found(l, p->notes[i].severity, p->notes[i].text, p->notes[i].remedy);
	if (m->limits.move_pages == PROBE_DENIED)
		found(l, PLAN_WARNING, "move_pages is denied (EPERM, a seccomp profile): placement cannot be verified",
		      "docker run --cap-add SYS_NICE, or a seccomp profile that allows move_pages");
	if (m->this_system)
		check_journal(l, o->journal);
}

static int run_check(const struct cli_cmd *cmd, const struct plan_options *o, const struct machine *m,
		     const struct plan *p, const char *how)
{
	struct check_list l = {0};
	char size[24];
	if (o->numa.common.format == REPORT_JSON) {
		l.json = json_array();
		check_all(&l, o, m, p);
		json_t *all = json_pack("{s:i s:b s:I s:o}", "schema", 1, "ok", (int)!l.findings, "l1_bytes",
					(json_int_t)p->conf.l1_bytes, "findings", l.json);
		return numa_finish_json(cmd, &o->numa, all, l.findings ? CLI_FAILED : CLI_OK);
	}
	l.out = numa_open(cmd, &o->numa);
	if (!l.out)
		return CLI_FAILED;
	fprintf(l.out, "plan '%s': L1 %s%s%s\n", plan_policies[p->conf.policy].name,
		numa_size_text(p->conf.l1_bytes, size), how[0] ? ", " : "", how);
	check_all(&l, o, m, p);
	fprintf(l.out, l.findings ? "%u finding%s\n" : "ok\n", l.findings, l.findings == 1 ? "" : "s");
	return numa_close(cmd, &o->numa, l.out, l.findings ? CLI_FAILED : CLI_OK);
}

/* ---- both ------------------------------------------------------------------------------------------------------------ */

static int run_both(const struct cli_cmd *cmd, const struct cli_spec *spec, int argc, char **argv, bool checking)
{
	struct plan_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct machine *m = NULL;
	struct plan *p = NULL;
	char how[128] = "";
	int code = numa_parse(cmd, spec, argc, argv, &o.numa);
	if (code >= 0)
		return code;
	code = numa_load(cmd, &o.numa, &m);
	if (code >= 0)
		return code;
	code = numa_plan(cmd, &o.numa, m, &p, how);
	if (code < 0)
		code = checking ? run_check(cmd, &o, m, p, how) : print_plan(cmd, &o, p, how);
	plan_destroy(p);
	machine_destroy(m);
	return code;
}

int cmd_numa_plan(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {
		NUMA_ROWS,
		NUMA_PLAN_ROWS,
		{"write", 0, "DIR", CLI_STR, offsetof(struct plan_options, write), 0, 0, NULL,
		 "Write what survives a boot: tmpfiles, sysctl, kernel command line, systemd drop-in"},
	};
	const struct cli_spec spec = {.opts = rows, .nopts = sizeof(rows) / sizeof(rows[0]), .default_timeout_s = 10};
	return run_both(cmd, &spec, argc, argv, false);
}

int cmd_numa_check(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {
		NUMA_ROWS,
		NUMA_PLAN_ROWS,
		{"journal", 0, "FILE", CLI_STR, offsetof(struct plan_options, journal), 0, 0, NULL,
		 "Journal of numa apply (default " APPLY_JOURNAL ")"},
	};
	const struct cli_spec spec = {.opts = rows, .nopts = sizeof(rows) / sizeof(rows[0]), .default_timeout_s = 10};
	return run_both(cmd, &spec, argc, argv, true);
}
