/* cli_options.c - options from rows of struct cli_opt, through argp. */
#include "tools/cli.h"

#include "daemon/base/check.h"

#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS  48
#define FIRST_KEY 0x1000

#define FIELD(f)  offsetof(struct cli_common, f)

static const struct cli_opt common_rows[] = {
	{"url", 0, "URL", CLI_STR, FIELD(url_text), 0, 0, NULL, "Server to talk to"},
	{"timeout", 0, "SECONDS", CLI_REAL, FIELD(timeout_s), 0.001, 86400, NULL, "Give up after this long"},
	{"format", 0, "FORMAT", CLI_CHOICE, FIELD(format), 0, 0, "terminal|json|csv", "How to print the result"},
	{"output", 0, "PATH", CLI_STR, FIELD(output), 0, 0, NULL, "Write the result to a file"},
	{"quiet", 'q', NULL, CLI_FLAG, FIELD(quiet), 0, 0, NULL, "Print nothing but errors"},
};
#define NCOMMON (sizeof(common_rows) / sizeof(common_rows[0]))

struct parse {
	const struct cli_cmd *cmd;
	const struct cli_spec *spec;
	void *out;
	const struct cli_opt *rows[MAX_ROWS];
	char help[MAX_ROWS][192];
	size_t nrows;
	int code; /* -1 = go on */
};

static void bad_value(struct parse *p, const struct cli_opt *o, const char *text, const char *expected)
{
	p->code = cli_usage(p->cmd, "--%s %.64s: expected %s", o->name, text, expected);
}

static void set_number(struct parse *p, const struct cli_opt *o, const char *text, void *field)
{
	char expected[96], *end;
	errno = 0;
	if (o->type == CLI_REAL) {
		double v = strtod(text, &end);
		snprintf(expected, sizeof(expected), "a number from %g to %g", o->min, o->max);
		if (end == text || *end || !isfinite(v) || v < o->min || v > o->max)
			bad_value(p, o, text, expected);
		else
			*(double *)field = v;
		return;
	}
	unsigned long long v = strtoull(text, &end, 10);
	snprintf(expected, sizeof(expected), "a whole number from %.0f to %.0f", o->min, o->max);
	if (end == text || *end || errno || *text == '-' || (double)v < o->min || (double)v > o->max)
		bad_value(p, o, text, expected);
	else if (o->type == CLI_U32)
		*(uint32_t *)field = (uint32_t)v;
	else
		*(uint64_t *)field = v;
}

static void set_choice(struct parse *p, const struct cli_opt *o, const char *text, void *field)
{
	uint32_t index = 0;
	for (const char *at = o->choices;; at++, index++) {
		size_t n = strcspn(at, "|");
		if (strlen(text) == n && memcmp(at, text, n) == 0) {
			*(uint32_t *)field = index;
			return;
		}
		at += n;
		if (!*at)
			break;
	}
	bad_value(p, o, text, o->choices);
}

static void set_value(struct parse *p, const struct cli_opt *o, const char *text)
{
	void *field = (char *)p->out + o->offset;
	switch (o->type) {
	case CLI_STR:
		*(const char **)field = text;
		break;
	case CLI_FLAG:
		*(bool *)field = true;
		break;
	case CLI_CHOICE:
		set_choice(p, o, text, field);
		break;
	case CLI_REFUSED:
		p->code = cli_usage(p->cmd, "--%s is not in this release (%s)", o->name, cli_version());
		break;
	default:
		set_number(p, o, text, field);
	}
}

/* The first place for a word that is still free; NULL: there is none. */
static const char **arg_field(struct parse *p)
{
	const char **word = (const char **)(void *)((char *)p->out + p->spec->arg_offset);
	size_t n = p->spec->arg_max ? p->spec->arg_max : 1;

	for (size_t i = 0; p->spec->arg && i < n; i++)
		if (!word[i])
			return &word[i];
	return NULL;
}

static error_t parse_key(int key, char *arg, struct argp_state *state)
{
	struct parse *p = state->input;
	for (size_t i = 0; i < p->nrows && p->code < 0; i++)
		if (key == (p->rows[i]->letter ? p->rows[i]->letter : FIRST_KEY + (int)i)) {
			set_value(p, p->rows[i], arg);
			return 0;
		}
	if (key == '?') {
		argp_state_help(state, stdout, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK);
		p->code = CLI_OK;
	} else if (key == ARGP_KEY_ARG && p->code < 0 && arg_field(p)) {
		*arg_field(p) = arg;
	} else if (key == ARGP_KEY_ARG && p->code < 0) {
		p->code = cli_usage(p->cmd, "'%.64s' is not expected here", arg);
	} else if (key != ARGP_KEY_ARG && key >= FIRST_KEY + MAX_ROWS) {
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static void add_row(struct parse *p, struct argp_option *to, const struct cli_opt *o)
{
	check(p->nrows < MAX_ROWS - 2);
	size_t i = p->nrows++;
	p->rows[i] = o;
	const char *text = o->help;
	if (o->type == CLI_CHOICE) {
		bool no_csv = strcmp(o->name, "format") == 0 && !p->spec->csv;
		snprintf(p->help[i], sizeof(p->help[i]), "%s: %s", o->help, no_csv ? "terminal|json" : o->choices);
		text = p->help[i];
	} else if (strcmp(o->name, "url") == 0) {
		snprintf(p->help[i], sizeof(p->help[i]), "%s (default %s)", o->help,
			 p->spec->default_url ? p->spec->default_url : "none");
		text = p->help[i];
	}
	to[i] = (struct argp_option){.name = o->name,
				     .key = o->letter ? o->letter : FIRST_KEY + (int)i,
				     .arg = o->arg,
				     .flags = o->type == CLI_REFUSED ? OPTION_HIDDEN | OPTION_ARG_OPTIONAL : 0,
				     .doc = text,
				     .group = (int)i + 1};
}

static int check_common(struct parse *p, struct cli_common *common)
{
	struct why why;
	if (common->format == REPORT_CSV && !p->spec->csv)
		return cli_usage(p->cmd, "--format csv: expected terminal|json");
	if (common->url_text && url_parse(common->url_text, &common->url, &why))
		return cli_usage(p->cmd, "--url: %s", why.text);
	return -1;
}

int cli_parse(const struct cli_cmd *cmd, const struct cli_spec *spec, int argc, char **argv, struct cli_common *common)
{
	struct argp_option options[MAX_ROWS + 1] = {{0}};
	struct parse p = {.cmd = cmd, .spec = spec, .out = common, .code = -1};
	char name[96];
	snprintf(name, sizeof(name), "lmcache-appliance %s %s", cmd->group, cmd->name);
	common->url_text = spec->default_url;
	common->timeout_s = spec->default_timeout_s;
	for (size_t i = 0; i < spec->nopts; i++)
		add_row(&p, options, &spec->opts[i]);
	for (size_t i = 0; i < NCOMMON; i++)
		add_row(&p, options, &common_rows[i]);
	options[p.nrows] =
		(struct argp_option){.name = "help", .key = '?', .doc = "Print this help", .group = MAX_ROWS};
	char doc[1024];
	snprintf(doc, sizeof(doc), "%s%s%s", cmd->help, spec->after ? "\v" : "", spec->after ? spec->after : "");
	const struct argp argp = {.options = options, .parser = parse_key, .args_doc = spec->arg, .doc = doc};
	char *saved = argc > 0 ? argv[0] : NULL, *none[] = {name, NULL};
	char **args = argc > 0 ? argv : none;
	args[0] = name;
	error_t err = argp_parse(&argp, argc > 0 ? argc : 1, args, ARGP_NO_HELP | ARGP_NO_EXIT, NULL, &p);
	if (argc > 0)
		argv[0] = saved;
	if (p.code >= 0)
		return p.code;
	return err ? CLI_USAGE : check_common(&p, common);
}
