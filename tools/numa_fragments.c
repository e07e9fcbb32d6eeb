#include "tools/numa_fragments.h"

#include "tools/cmd_numa.h"
#include "numa/replace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct fragment fragments[FRAGMENTS] = {
	{ACT_SYSFS, "tmpfiles.d/lmcache-appliance.conf", "/etc/tmpfiles.d/lmcache-appliance.conf",
	 "systemd-tmpfiles --create, or `numa apply`"},
	{ACT_SYSCTL, "sysctl.d/60-lmcache-appliance.conf", "/etc/sysctl.d/60-lmcache-appliance.conf",
	 "sysctl --system, or `numa apply`"},
	{ACT_KERNEL_ARG, "kernel-command-line.cfg", "/etc/default/grub.d/lmcache-appliance.cfg",
	 "update-grub and a reboot"},
	{ACT_UNIT, "lmcache-appliance.service.d/numa.conf", "/etc/systemd/system/lmcache-appliance.service.d/numa.conf",
	 "systemctl daemon-reload, and a restart of the service"},
};

uint32_t fragment_lines(const struct plan *p, enum plan_action_kind kind)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->nactions; i++)
		n += p->actions[i].kind == kind;
	return n;
}

/* A name of the operator's or of a file: it must stay within its comment. */
static void comment(FILE *out, const char *text)
{
	for (; *text; text++)
		fputc(*text < ' ' || *text > '~' ? '?' : *text, out);
}

/* "/proc/sys/kernel/numa_balancing" is kernel.numa_balancing; a dot within a name changes places with the slash. */
static void sysctl_name(const char *path, FILE *out)
{
	static const char top[] = "/proc/sys/";

	for (path += strncmp(path, top, sizeof(top) - 1) == 0 ? sizeof(top) - 1 : 0; *path; path++)
		fputc(*path == '/' ? '.' : *path == '.' ? '/' : *path, out);
}

static void line(const struct plan_action *a, FILE *out)
{
	fprintf(out, "# %s\n", a->line.reason);
	switch (a->kind) {
	case ACT_SYSFS:
		fprintf(out, "w     %s -    -    -     -   %s\n", a->path, a->value);
		break;
	case ACT_SYSCTL:
		sysctl_name(a->path, out);
		fprintf(out, " = %s\n", a->value);
		break;
	case ACT_KERNEL_ARG:
		fprintf(out, "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX %s\"\n", a->value);
		break;
	default:
		fprintf(out, "%s\n", a->value);
	}
}

char *fragment_text(const struct plan *p, const struct fragment *f)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	fputs("# Written by `lmcache-appliance numa plan --write` for ", out);
	comment(out, p->machine->source);
	fprintf(out, ".\n# Belongs to %s\n# Then: %s.\n# `numa check` looks at what it got.\n", f->install, f->then);
	if (!fragment_lines(p, f->kind))
		fputs("# The plan needs nothing here.\n", out);
	else if (f->kind == ACT_UNIT)
		fputs("[Service]\n", out);
	for (uint32_t i = 0; i < p->nactions; i++)
		if (p->actions[i].kind == f->kind)
			line(&p->actions[i], out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

int fragments_write(const struct plan *p, const char *folder, struct why *why)
{
	int rc = 0;

	if (mkdir(folder, 0755) && errno != EEXIST)
		return why_set(why, -errno, "cannot make %s: %s", folder, strerror(errno));
	for (uint32_t i = 0; i < FRAGMENTS && !rc; i++) {
		char path[4096], *text = fragment_text(p, &fragments[i]);

		if (!text)
			rc = why_set(why, -ENOMEM, "%s: out of memory", folder);
		else if (snprintf(path, sizeof(path), "%s/%s", folder, fragments[i].file) >= (int)sizeof(path))
			rc = why_set(why, -ENAMETOOLONG, "%.64s...: a long name", folder);
		else
			rc = replace_file(path, 0644, text, strlen(text), why);
		free(text);
	}
	return rc;
}
