/* numa_check.h - what is not as the plan wants it: the plan's notes, limits of this process, the boot line, the journal of
 * numa apply, and a running server; each finding with where it was seen and its remedy.
 *
 * Threads: any. What can fail: out of memory only.
 */
#ifndef TOOLS_NUMA_CHECK_H
#define TOOLS_NUMA_CHECK_H

#include "numa/plan.h"

#include <stdio.h>

struct check_in {
	const struct machine *machine;
	const struct plan *plan;      /* NULL: there is none, `why_not` says why */
	const struct plan_conf *conf; /* the wishes, also when they cannot be met */
	const char *why_not;
	const json_t *status; /* of a running server, NULL */
	const char *server;   /* its URL */
	const char *journal;  /* NULL: APPLY_JOURNAL */
	const char *cmdline;  /* text of /proc/cmdline; NULL: not known */
};

/* A list of {severity, what, where, remedy}, worst first; severity is error, shortage, warning or notice. NULL: out of memory. */
json_t *check_findings(const struct check_in *in);
/* How many are more than a notice. */
uint32_t check_count(const json_t *findings);
/* At most 80 columns. */
void check_print(const json_t *findings, FILE *out);

#endif
