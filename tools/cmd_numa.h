/* cmd_numa.h - what the commands of `numa` share: options, the machine, the plan, where the result is written.
 *
 * A command's options begin with struct numa_options (or are it); its rows begin with NUMA_ROWS and, when it plans,
 * NUMA_PLAN_ROWS. Functions that return an exit code have said on stderr what is wrong; -1 means go on.
 * Threads: main only.
 */
#ifndef TOOLS_CMD_NUMA_H
#define TOOLS_CMD_NUMA_H

#include "numa/plan.h"
#include "tools/cli.h"

enum numa_pages { PAGES_AUTO, PAGES_1G, PAGES_2M, PAGES_THP, PAGES_4K };

struct numa_options {
	struct cli_common common;
	bool json;        /* the same as --format json */
	const char *from; /* capture or hwloc XML; NULL: this system */
	const char *l1, *map;
	uint32_t policy, pages, strict; /* enum plan_policy, numa_pages, plan_want */
	uint32_t transfer_workers, lookup_workers;
	json_t *status; /* of a running server (numa_status): what it holds counts as free; NULL: nothing is known of one */
};

#define NUMA_OPTIONS_DEFAULT                                                  \
	{                                                                     \
		.policy = PLAN_LOCAL, .pages = PAGES_AUTO, .strict = WANT_TRY \
	}

#define NUMA_ROWS                                                                                                  \
	{"json", 0, NULL, CLI_FLAG, offsetof(struct numa_options, json), 0, 0, NULL, "The same as --format json"}, \
	{                                                                                                          \
		"from", 0, "FILE", CLI_STR, offsetof(struct numa_options, from), 0, 0, NULL,                       \
			"Read the machine from a capture or an hwloc XML file instead of this system"              \
	}

#define NUMA_PLAN_ROWS                                                                                           \
	{"l1",                                                                                                   \
	 0,                                                                                                      \
	 "SIZE",                                                                                                 \
	 CLI_STR,                                                                                                \
	 offsetof(struct numa_options, l1),                                                                      \
	 0,                                                                                                      \
	 0,                                                                                                      \
	 NULL,                                                                                                   \
	 "Size of L1, such as 64G or 1.5T (default: from the machine; it is said what)"},                        \
		{"policy",                                                                                       \
		 0,                                                                                              \
		 "POLICY",                                                                                       \
		 CLI_CHOICE,                                                                                     \
		 offsetof(struct numa_options, policy),                                                          \
		 0,                                                                                              \
		 0,                                                                                              \
		 "local|spread|pack|manual",                                                                     \
		 "Where L1 goes"},                                                                               \
		{"map",                                                                                          \
		 0,                                                                                              \
		 "MAP",                                                                                          \
		 CLI_STR,                                                                                        \
		 offsetof(struct numa_options, map),                                                             \
		 0,                                                                                              \
		 0,                                                                                              \
		 NULL,                                                                                           \
		 "What each node gets, such as 0=32G,1=32G; means --policy manual and gives --l1"},              \
		{"pages",                                                                                        \
		 0,                                                                                              \
		 "PAGES",                                                                                        \
		 CLI_CHOICE,                                                                                     \
		 offsetof(struct numa_options, pages),                                                           \
		 0,                                                                                              \
		 0,                                                                                              \
		 "auto|1g|2m|thp|4k",                                                                            \
		 "Pages of L1; auto takes the largest there are"},                                               \
		{"strict",                                                                                       \
		 0,                                                                                              \
		 "WANT",                                                                                         \
		 CLI_CHOICE,                                                                                     \
		 offsetof(struct numa_options, strict),                                                          \
		 0,                                                                                              \
		 0,                                                                                              \
		 "no|try|yes",                                                                                   \
		 "Binding of L1 to nodes: not at all, where possible, or nothing else will do"},                 \
		{"transfer-workers",                                                                             \
		 0,                                                                                              \
		 "N",                                                                                            \
		 CLI_U32,                                                                                        \
		 offsetof(struct numa_options, transfer_workers),                                                \
		 0,                                                                                              \
		 1024,                                                                                           \
		 NULL,                                                                                           \
		 "Transfer workers in all; 0 lets the plan choose"},                                             \
	{                                                                                                        \
		"lookup-workers", 0, "N", CLI_U32, offsetof(struct numa_options, lookup_workers), 0, 1024, NULL, \
			"Lookup workers in all; 0 lets the plan choose"                                          \
	}

/* "64G", "1.5T", "512M" (KiB, MiB, GiB, TiB behind them; "GiB" and "GB" mean the same). 0 or -EINVAL, -ERANGE. */
int numa_size_parse(const char *text, uint64_t *out);
/* "64 GiB", "1.5 TiB", "512 KiB": at most one digit behind the point. */
const char *numa_size_text(uint64_t bytes, char buf[24]);

/* L1 when nobody says: free huge pages, of the size there is most of, on nodes we may use, else half of their free memory; whole GiB when it is over one.
 * `how` says which in words. */
uint64_t numa_default_l1(const struct machine *m, char how[128]);

/* cli_parse, and --json. */
int numa_parse(const struct cli_cmd *cmd, const struct cli_spec *spec, int argc, char **argv, struct numa_options *o);
/* --from or this system. -1 with *m, else CLI_UNREADABLE. */
int numa_load(const struct cli_cmd *cmd, const struct numa_options *o, struct machine **m);
/* The server's /status from --url, a new reference. -1, else CLI_UNREADABLE. */
int numa_status(const struct cli_cmd *cmd, const struct cli_common *o, json_t **status);
/* The same into o->status when --url is given, which must be HTTP and goes without --from. -1, else an exit code. */
int numa_ask(const struct cli_cmd *cmd, struct numa_options *o);
/* Pages of L1's pools as /status has them go to `conf`; what is not of that shape is left out. */
void numa_held(const json_t *status, struct plan_conf *conf);
/* L1 of the server, all pools; 0: it does not say. */
uint64_t numa_l1_of(const json_t *status);
/* The options as wishes, and what a server holds. -1, else CLI_USAGE. `how` says where the size of L1 is from; "" when it was given. */
int numa_plan_conf(const struct cli_cmd *cmd, const struct numa_options *o, const struct machine *m,
		   struct plan_conf *conf, char how[128]);
/* numa_plan_conf and plan_make. -1 with *p, else an exit code. */
int numa_plan(const struct cli_cmd *cmd, const struct numa_options *o, const struct machine *m, struct plan **p,
	      char how[128]);

/* Where --output and --quiet say; NULL with a message. numa_close gives the exit code: `code`, or CLI_FAILED with a message
 * when not everything could be written. */
FILE *numa_open(const struct cli_cmd *cmd, const struct numa_options *o);
int numa_close(const struct cli_cmd *cmd, const struct numa_options *o, FILE *out, int code);
/* Writes `json` (its reference is taken; NULL counts as out of memory), indented by two, and closes. */
int numa_finish_json(const struct cli_cmd *cmd, const struct numa_options *o, json_t *json, int code);

#endif
