/* --help, from the table. Not argp's own: its layout breaks on our longer names, sorts by alphabet, and differs between
 * versions of the C library. */
#include "daemon/conf/conf_int.h"

#include <string.h>

#define TEXT_COLUMN 29
#define WIDTH       79

static const char help_top[] =
	"KV cache server for LLM engines; speaks the protocol of LMCache's multiprocess server.\n";
static const char help_bottom[] = "\n"
				  "Precedence: flag, environment variable (the names in capitals), config file,\n"
				  "default. The config-file key is the flag without dashes: \"port = 5555\".\n"
				  "Flags of LMCache's server that this build does not serve are refused by name;\n"
				  "docs/options.md lists them.\n";

/* Words of `text` from column `at` on, wrapped, continued at TEXT_COLUMN; returns the column reached. */
static size_t wrap(FILE *out, const char *text, size_t at)
{
	while (*text) {
		size_t len = strcspn(text, " ");

		if (at > TEXT_COLUMN && at + 1 + len > WIDTH) {
			fprintf(out, "\n%*s", TEXT_COLUMN, "");
			at = TEXT_COLUMN;
		} else if (at > TEXT_COLUMN) {
			fputc(' ', out);
			at++;
		}
		fwrite(text, 1, len, out);
		at += len;
		text += len + (text[len] == ' ');
	}
	return at;
}

/* "1 to 65536; default 256;" and the environment name. */
static void facts(const struct conf_option *o, char *buf, size_t cap)
{
	char env[CONF_ENV_CAP], range[160];
	const char *def = o->def_text ? o->def_text : o->def;

	conf_range_text(o, range, sizeof(range));
	if (o->type == CONF_ENUM && !strchr(range, ','))
		range[0] = '\0';
	if (o->type == CONF_FLAG)
		def = NULL;
	if (o->type == CONF_PAIR)
		def = strcmp(o->def, "true") == 0 ? "on" : "off";
	snprintf(buf, cap, "(%s%s%s%s%s%s%s)", range, range[0] ? "; " : "", o->required ? "required; " : "",
		 def ? "default " : "", def ? def : "", def ? "; " : "", conf_env_name(o, env));
}

static void write_option(FILE *out, const struct conf_option *o)
{
	char left[96], right[320];
	int len;

	if (o->type == CONF_FLAG)
		len = snprintf(left, sizeof(left), "  --%s", o->flag);
	else if (o->type == CONF_PAIR)
		len = snprintf(left, sizeof(left), "  --%s, --no-%s", o->flag, o->flag);
	else
		len = snprintf(left, sizeof(left), "  --%s %s", o->flag, o->metavar ? o->metavar : "NAME");
	fputs(left, out);
	if (len >= TEXT_COLUMN - 1) {
		fputc('\n', out);
		len = 0;
	}
	fprintf(out, "%*s", TEXT_COLUMN - len, "");
	facts(o, right, sizeof(right));
	wrap(out, right, wrap(out, o->text, TEXT_COLUMN));
	fputc('\n', out);
}

void conf_write_help(FILE *out, const char *program)
{
	fprintf(out, "Usage: %s [OPTION...]\n%s", program, help_top);
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		if (i == 0 || conf_options[i].group != conf_options[i - 1].group)
			fprintf(out, "\n%s:\n", conf_group_titles[conf_options[i].group]);
		write_option(out, &conf_options[i]);
	}
	fprintf(out, "\n  -h, --help%*sPrint this text\n", TEXT_COLUMN - 12, "");
	fprintf(out, "  --version%*sPrint the version\n", TEXT_COLUMN - 11, "");
	fputs(help_bottom, out);
}
