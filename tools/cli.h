/* cli.h - the command table, and options of a command as data.
 *
 * One table (commands.c) names every command, ours and those of the upstream tree which this release does not have; help
 * texts and dispatch come from it. A command declares its options as rows of `struct cli_opt`; parsing, range checks and
 * --help (argp) come from them.
 * Exit codes: 0 fine, 1 failed, 2 usage. `numa` has two more. Source: shared surface reference, section 4.
 * Threads: main only.
 */
#ifndef TOOLS_CLI_H
#define TOOLS_CLI_H

#include "daemon/base/why.h"
#include "tools/report.h"
#include "tools/url.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLI_OK             0
#define CLI_FAILED         1
#define CLI_USAGE          2
#define CLI_UNREADABLE     3 /* numa: what was to be read is not there or not what it should be, or not this system */
#define CLI_ROLLED_BACK    4 /* numa apply: the system gave less, everything is as before */

#define CLI_DEFAULT_HTTP   "http://localhost:8080"
#define CLI_DEFAULT_ZMQ    "tcp://localhost:5555"
#define CLI_DEFAULT_ENGINE "http://localhost:8000"

struct cli_cmd {
	const char *group; /* "ping" */
	const char *name;  /* "kvcache"; NULL when the group is the command */
	const char *help;  /* one sentence */
	int (*run)(const struct cli_cmd *cmd, int argc, char **argv); /* NULL: not in this release */
};

extern const struct cli_cmd cli_commands[];
extern const size_t cli_ncommands;

typedef int (*cli_server_fn)(int argc, char **argv);

/* The whole tool. `server` runs the daemon: main passes server_main, tests pass their own. Returns the exit code. */
int cli_main(int argc, char **argv, cli_server_fn server);

/* ---- options ------------------------------------------------------------------------------------------------- */

enum cli_type {
	CLI_STR,    /* const char * */
	CLI_U32,    /* uint32_t, min..max */
	CLI_U64,    /* uint64_t, min..max */
	CLI_REAL,   /* double, min..max */
	CLI_FLAG,   /* bool, set to true */
	CLI_CHOICE, /* uint32_t: index in `choices` ("a|b|c") */
	CLI_REFUSED /* known upstream, not in this release */
};

struct cli_opt {
	const char *name;
	char letter; /* 0 = none */
	const char *arg;
	enum cli_type type;
	size_t offset; /* of the field */
	double min, max;
	const char *choices;
	const char *help;
};

/* Every command's options start with these. */
struct cli_common {
	const char *url_text;
	struct url url;
	double timeout_s;
	uint32_t format; /* enum report_format */
	const char *output;
	bool quiet;
};

/* What a command takes: its rows and the defaults of the common part. */
struct cli_spec {
	const struct cli_opt *opts;
	size_t nopts;
	const char *default_url; /* NULL: the command needs no server, url_text stays NULL when --url is absent */
	double default_timeout_s;
	bool csv;          /* --format csv exists */
	const char *arg;   /* one word without dashes may follow: its name in --help; NULL = none */
	size_t arg_offset; /* of its const char *, or of an array of arg_max of them */
	size_t arg_max;    /* how many such words may follow; 0 counts as 1 */
	const char *after; /* what --help says below the options; NULL = nothing */
};

/* Parses into `common` and the struct it is the first member of (offsets count from `common`), which the caller has
 * filled with defaults. Returns -1 to go on, else the exit code (--help: 0, usage error: 2, already reported). */
int cli_parse(const struct cli_cmd *cmd, const struct cli_spec *spec, int argc, char **argv, struct cli_common *common);

/* "lmcache-appliance ping kvcache: text" on stderr. */
void cli_error(const struct cli_cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_usage(const struct cli_cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Writes the report where --output, --format and --quiet say, destroys it, and returns `code`, or CLI_FAILED with a message
 * when it cannot be written. `r` NULL counts as out of memory. */
int cli_finish(const struct cli_cmd *cmd, const struct cli_common *common, struct report *r, int code);

const char *cli_version(void);

#endif
