/* The command line. argp splits it; names are checked before, because getopt accepts abbreviations (a script with --l1-s would
 * break with the next option of that start) and cannot say why an option is refused. */
#include "daemon/conf/conf_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <argp.h>
#include <errno.h>
#include <string.h>

/* argp keys: option i, its negation, deprecated name i. Above every character, so that none gets a short form. */
enum { KEY_OPTION = 0x1000, KEY_NO = 0x2000, KEY_OLD = 0x3000, KEY_VERSION = 0x4000 };

#define TABLE_ROWS (2 * CONF_OPTIONS + CONF_GROUPS + 64)

struct table {
	struct argp_option argp[TABLE_ROWS];
	char no[CONF_OPTIONS][64];
};

static struct argp_option *fill_option(struct table *t, struct argp_option *at, unsigned i)
{
	const struct conf_option *o = &conf_options[i];
	bool flag = o->type == CONF_FLAG || o->type == CONF_PAIR;

	*at++ = (struct argp_option){.name = o->flag, .key = KEY_OPTION + (int)i, .arg = flag ? NULL : "VALUE"};
	if (o->type == CONF_PAIR) {
		snprintf(t->no[i], sizeof(t->no[i]), "no-%s", o->flag);
		*at++ = (struct argp_option){.name = t->no[i], .key = KEY_NO + (int)i};
	}
	return at;
}

static void fill(struct table *t)
{
	struct argp_option *at = t->argp;

	for (unsigned i = 0; i < CONF_OPTIONS; i++)
		at = fill_option(t, at, i);
	for (unsigned i = 0; conf_deprecateds[i].flag; i++) {
		check(at < t->argp + TABLE_ROWS - 3);
		*at++ = (struct argp_option){.name = conf_deprecateds[i].flag,
					     .key = KEY_OLD + (int)i,
					     .arg = conf_deprecateds[i].kind == CONF_KIND_V ? "VALUE" : NULL};
	}
	*at++ = (struct argp_option){.name = "help", .key = 'h'};
	*at++ = (struct argp_option){.name = "version", .key = KEY_VERSION};
	*at = (struct argp_option){0};
}

/* Of a list all are kept; what is more than there is room for is too much anyway and is refused when it is set. */
static void take(struct conf_cli *cli, unsigned i, const char *text)
{
	if (conf_options[i].type == CONF_LIST && cli->value[i] && cli->nmore < sizeof(cli->more) / sizeof(cli->more[0]))
		cli->more[cli->nmore++] = (struct conf_more){i, cli->value[i]};
	cli->value[i] = text;
}

static error_t on_option(int key, char *arg, struct argp_state *state)
{
	struct conf_cli *cli = state->input;
	char where[64];

	if (key == 'h')
		cli->help = true;
	else if (key == KEY_VERSION)
		cli->version = true;
	else if (key >= KEY_OPTION && key < KEY_OPTION + CONF_OPTIONS)
		take(cli, (unsigned)(key - KEY_OPTION), arg ? arg : "true");
	else if (key >= KEY_NO && key < KEY_NO + CONF_OPTIONS)
		cli->value[key - KEY_NO] = "false";
	else if (key >= KEY_OLD && key < KEY_VERSION) {
		int now;
		snprintf(where, sizeof(where), "--%s", conf_deprecateds[key - KEY_OLD].flag);
		now = conf_warn_deprecated((unsigned)(key - KEY_OLD), where);
		if (now >= 0)
			cli->value[now] = arg ? arg : "true";
	} else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

/* ---- names, before argp sees them ------------------------------------------------------------------------------- */

static int unknown(const char *name, size_t len, struct why *why)
{
	const char *near = conf_nearest(name, len);

	return why_set(why, -EINVAL, "--%.*s: unknown option%s%s%s", (int)(len > 80 ? 80 : len), name,
		       near ? " (did you mean --" : "", near ? near : "", near ? "?)" : "");
}

/* One long option, at argv[*at]; steps over its value. */
static int check_long(int argc, char **argv, int *at, struct why *why)
{
	const char *name = argv[*at] + 2, *equals = strchr(name, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(name);
	struct conf_match m = conf_match(name, len);
	char where[96];

	snprintf(where, sizeof(where), "--%.*s", (int)(len > 80 ? 80 : len), name);
	if ((len == 4 && strncmp(name, "help", 4) == 0) || (len == 7 && strncmp(name, "version", 7) == 0))
		return equals ? why_set(why, -EINVAL, "%s takes no value", where) : 0;
	if (m.is == CONF_IS_UNKNOWN || memchr(name, '_', len))
		return unknown(name, len, why);
	if (m.is == CONF_IS_ABSENT && !m.no)
		return conf_refuse_absent(m.index, where, why);
	if (!conf_takes_value(m))
		return equals ? why_set(why, -EINVAL, "%s takes no value", where) : 0;
	if (equals)
		return 0;
	if (*at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0)
		return why_set(why, -EINVAL, "%s needs a value", where);
	++*at;
	return 0;
}

/* Drops --no-x of features this build does not have: that is how it works anyway. Returns the new argc. */
static int copy_known(int argc, char **argv, char **out)
{
	int n = 0;

	for (int i = 0; i < argc; i++) {
		struct conf_match m = {CONF_IS_UNKNOWN, 0, false};

		if (i > 0 && strncmp(argv[i], "--", 2) == 0)
			m = conf_match(argv[i] + 2, strcspn(argv[i] + 2, "="));
		if (m.is != CONF_IS_ABSENT)
			out[n++] = argv[i];
	}
	out[n] = NULL;
	return n;
}

static int check_names(int argc, char **argv, struct why *why)
{
	for (int i = 1; i < argc; i++) {
		int rc = 0;

		if (strncmp(argv[i], "--", 2) == 0 && argv[i][2])
			rc = check_long(argc, argv, &i, why);
		else if (strcmp(argv[i], "-h") != 0)
			rc = why_set(why, -EINVAL, "unexpected argument \"%.80s\"", argv[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static error_t run_argp(int argc, char **argv, struct conf_cli *out)
{
	struct table *t = mem_calloc(1, sizeof(*t));
	struct argp argp;
	error_t rc;

	if (!t)
		return ENOMEM;
	fill(t);
	argp = (struct argp){.options = t->argp, .parser = on_option};
	rc = argp_parse(&argp, argc, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, out);
	mem_free(t);
	return rc;
}

int conf_cli_parse(int argc, char **argv, struct conf_cli *out, struct why *why)
{
	char **copy;
	error_t rc;
	int err = check_names(argc, argv, why);

	memset(out, 0, sizeof(*out));
	if (err)
		return err;
	/* argp reorders what it reads. */
	copy = mem_calloc((size_t)argc + 1, sizeof(*copy));
	if (!copy)
		return why_set(why, -ENOMEM, "out of memory");
	rc = run_argp(copy_known(argc, argv, copy), copy, out);
	mem_free(copy);
	if (rc)
		return why_set(why, -(int)rc, "command line: %s", rc == ENOMEM ? "out of memory" : strerror(rc));
	return 0;
}
