/* cli.c - finding the command, and the help of everything above a single command. */
#include "tools/cli.h"

#include "daemon/conf/conf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PROGRAM   "lmcache-appliance"
#define HELP_COLS 24

const char *cli_version(void)
{
	return CONF_VERSION;
}

static bool is_server(const struct cli_cmd *c)
{
	return strcmp(c->group, "server") == 0;
}

static bool here(const struct cli_cmd *c)
{
	return c->run || is_server(c);
}

static void print_line(FILE *out, const struct cli_cmd *c)
{
	char name[64];
	snprintf(name, sizeof(name), "%s%s%s", c->group, c->name ? " " : "", c->name ? c->name : "");
	fprintf(out, "  %-*s %s\n", HELP_COLS, name, c->help);
}

/* `group` NULL: all. */
static void print_commands(FILE *out, const char *group, bool available, const char *title)
{
	bool first = true;
	for (size_t i = 0; i < cli_ncommands; i++) {
		const struct cli_cmd *c = &cli_commands[i];
		if (here(c) != available || (group && strcmp(group, c->group) != 0))
			continue;
		if (first)
			fprintf(out, "\n%s\n", title);
		first = false;
		print_line(out, c);
	}
}

static void print_help(FILE *out, const char *group)
{
	fprintf(out, "Usage: %s %s%s\n", PROGRAM, group ? group : "COMMAND", " [OPTION...]");
	print_commands(out, group, true, "Commands:");
	print_commands(out, group, false, "Not in this release:");
	fprintf(out, "\n'%s COMMAND --help' shows the options of a command.\n", PROGRAM);
	fprintf(out,
		"URLs: http://host:port and https://host:port are HTTP; host:port, tcp://host:port and ipc://path are "
		"ZMQ.\nExit codes: 0 fine, 1 failed, 2 usage.\n");
}

static bool is_help(const char *arg)
{
	return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0 || strcmp(arg, "-?") == 0;
}

static const struct cli_cmd *find(const char *group, const char *name, bool *group_exists)
{
	*group_exists = false;
	for (size_t i = 0; i < cli_ncommands; i++) {
		const struct cli_cmd *c = &cli_commands[i];
		if (strcmp(c->group, group) != 0)
			continue;
		*group_exists = true;
		if (!c->name || (name && strcmp(c->name, name) == 0))
			return c;
	}
	return NULL;
}

static int unknown(const char *group, const char *name, bool group_exists)
{
	if (!group_exists)
		fprintf(stderr, "%s: '%s' is no command\n", PROGRAM, group);
	else if (name)
		fprintf(stderr, "%s: '%s %s' is no command\n", PROGRAM, group, name);
	else
		fprintf(stderr, "%s: '%s' needs a second word\n", PROGRAM, group);
	print_help(stderr, group_exists ? group : NULL);
	return CLI_USAGE;
}

static int run(const struct cli_cmd *c, int argc, char **argv, cli_server_fn server)
{
	if (is_server(c))
		return server(argc, argv);
	if (!c->run) {
		cli_error(c, "not in this release (%s)", cli_version());
		return CLI_USAGE;
	}
	return c->run(c, argc, argv);
}

/* Upstream's old alias starts the server: a link of that name to this binary does so too. */
static bool called_as_server(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');
	return strcmp(slash ? slash + 1 : argv0, "lmcache_server") == 0;
}

int cli_main(int argc, char **argv, cli_server_fn server)
{
	if (argc > 0 && called_as_server(argv[0]))
		return server(argc, argv);
	if (argc < 2) {
		print_help(stderr, NULL);
		return CLI_USAGE;
	}
	if (is_help(argv[1])) {
		print_help(stdout, NULL);
		return CLI_OK;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("%s %s\n", PROGRAM, cli_version());
		return CLI_OK;
	}
	bool group_exists;
	const char *second = argc > 2 ? argv[2] : NULL;
	const struct cli_cmd *c = find(argv[1], second, &group_exists);
	if (!c && group_exists && second && is_help(second)) {
		print_help(stdout, argv[1]);
		return CLI_OK;
	}
	if (!c)
		return unknown(argv[1], second, group_exists);
	int words = c->name ? 2 : 1;
	return run(c, argc - words, argv + words, server);
}

/* ---- messages and results ------------------------------------------------------------------------------------ */

static void message(const struct cli_cmd *cmd, const char *fmt, va_list ap)
{
	fprintf(stderr, "%s %s%s%s: ", PROGRAM, cmd->group, cmd->name ? " " : "", cmd->name ? cmd->name : "");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void cli_error(const struct cli_cmd *cmd, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	message(cmd, fmt, ap);
	va_end(ap);
}

int cli_usage(const struct cli_cmd *cmd, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	message(cmd, fmt, ap);
	va_end(ap);
	return CLI_USAGE;
}

static int write_to(const struct cli_common *common, struct report *r)
{
	FILE *out = common->output ? fopen(common->output, "we") : stdout;
	if (!out)
		return -errno;
	int rc = report_write(r, (enum report_format)common->format, out);
	if (out != stdout && fclose(out) && !rc)
		rc = -errno;
	return rc;
}

int cli_finish(const struct cli_cmd *cmd, const struct cli_common *common, struct report *r, int code)
{
	int rc = !r ? -ENOMEM : common->quiet && !common->output ? 0 : write_to(common, r);
	if (rc)
		cli_error(cmd, "%s: %s", common->output ? common->output : "standard output", strerror(-rc));
	report_destroy(r);
	return rc && code == CLI_OK ? CLI_FAILED : code;
}
