/* docs/options.md, from the tables. */
#include "daemon/conf/conf_int.h"

#include <string.h>

static const char intro[] =
	"# Options of `lmcache-appliance server`\n"
	"\n"
	"Written by `make docs` from `daemon/conf/*.def`; do not edit.\n"
	"\n"
	"A value comes from, in this order: the flag, the environment variable, the config file (`--config`), the "
	"default. "
	"The config-file key is the flag without its dashes, with `-` or `_`:\n"
	"\n"
	"```\n"
	"# comment\n"
	"l1-size-gb = 64\n"
	"eviction-policy = LRU\n"
	"shm-name = \"\"\n"
	"```\n"
	"\n"
	"A file that begins with `{` is one flat JSON object with the same keys. Flags and `--no-` flags are booleans "
	"there: "
	"`no-http = true`, `l1-use-lazy = false`. An unknown key, a value out of range or a key given twice stops the "
	"start "
	"with exit code 2 and a message that names the line. Long options cannot be abbreviated.\n"
	"\n"
	"*Since* is the stage of LMCache that introduced the name (S0 to S4: March to November 2026).\n";

static void write_range(FILE *out, const struct conf_option *o)
{
	char range[256];

	conf_range_text(o, range, sizeof(range));
	if (o->type == CONF_STR)
		fputs("text", out);
	else if (o->type == CONF_LIST)
		fputs("JSON, repeatable", out);
	else if (o->type == CONF_FLAG || o->type == CONF_PAIR)
		fputs("boolean", out);
	else
		fputs(range, out);
}

static void write_default(FILE *out, const struct conf_option *o)
{
	if (o->required)
		fputs("**required**", out);
	else if (o->def_text)
		fputs(o->def_text, out);
	else if (o->def)
		fprintf(out, "`%s`", o->def);
	else
		fputs("none", out);
}

static void write_option(FILE *out, const struct conf_option *o)
{
	char env[CONF_ENV_CAP];

	fprintf(out, "| `--%s`", o->flag);
	if (o->type == CONF_PAIR)
		fprintf(out, "<br>`--no-%s`", o->flag);
	fputs(" | ", out);
	write_range(out, o);
	fputs(" | ", out);
	write_default(out, o);
	fprintf(out, " | %s | `%s` | %s |\n", o->text, conf_env_name(o, env), o->since);
}

void conf_write_docs(FILE *out)
{
	fputs(intro, out);
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		if (i == 0 || conf_options[i].group != conf_options[i - 1].group)
			fprintf(out,
				"\n## %s\n\n| Flag | Value | Default | Meaning | Environment | Since |\n"
				"|---|---|---|---|---|---|\n",
				conf_group_titles[conf_options[i].group]);
		write_option(out, &conf_options[i]);
	}
	fputs("\n## Old names\n\nAccepted with one warning line.\n\n| Old | Now |\n|---|---|\n", out);
	for (const struct conf_deprecated *d = conf_deprecateds; d->flag; d++)
		fprintf(out, d->now ? "| `--%s` | `--%s` |\n" : "| `--%s` | no effect: %s |\n", d->flag,
			d->now ? d->now : d->text);
	fputs("\n## Not in this build\n\nRefused by name on the command line, in the config file and in the "
	      "environment: "
	      "nothing that LMCache's server would do is silently left out.\n\n| Flag | Feature |\n|---|---|\n",
	      out);
	for (const struct conf_absent *a = conf_absents; a->flag; a++)
		fprintf(out, "| `--%s` | %s |\n", a->flag, a->feature);
	fputs("\nAlso refused: `--engine-type blend` and `blend_legacy`, `--transport grpc`, `--eviction-policy "
	      "ARC`.\n",
	      out);
}
