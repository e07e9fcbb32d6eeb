/* apply.h - does what a plan asks of the system, and takes it back: a person's act, never the daemon's.
 *
 * Each action is a value written to a file below /sys or /proc and read back; the kernel may grant less than was written
 * (hugepages). A journal (one file, written and synced before each step) says what was found, so that a partial result is rolled
 * back, `undo` restores byte for byte, and a run that was killed is named by the next check and repaired by undo.
 * Applying twice writes nothing the second time.
 *
 * Only files of a short list are ever written, whatever a plan or a journal says: per-node and kernel-wide hugepage settings and
 * a handful of sysctls, reached without following a link. A journal that others may write, or of another boot, is not obeyed.
 *
 * Threads: one process at a time (the journal is locked). What can fail, all with `why`: -EXDEV (the plan is of another machine),
 * -EACCES and -EPERM, -EBUSY (another apply runs), -EUCLEAN (an earlier one was killed: undo first), -EBADMSG (the journal is
 * not ours), -ECANCELED (the system gave less: rolled back).
 */
#ifndef NUMA_APPLY_H
#define NUMA_APPLY_H

#include "numa/plan.h"

#define APPLY_JOURNAL "/var/lib/lmcache-appliance/numa.journal"
#define APPLY_PATH    160u
#define APPLY_VALUE   128u

/* Tests: called at each point where a killed process would leave a state of its own. */
enum apply_point {
	APPLY_AT_BEGUN,
	APPLY_AT_RECORDED,
	APPLY_AT_WRITTEN,
	APPLY_AT_READ,
	APPLY_AT_RESTORED,
	APPLY_AT_ENDED
};
struct apply_hook {
	void (*at)(void *ctx, enum apply_point point, const char *path);
	void *ctx;
};

struct apply_conf {
	const char *journal;           /* NULL: APPLY_JOURNAL */
	const char *root;              /* "" or a directory that stands for / (tests) */
	bool dry_run;                  /* says what would be written */
	const struct apply_hook *hook; /* NULL except in tests */
};

enum apply_state {
	APPLY_SAME,     /* was so already */
	APPLY_PLANNED,  /* not written: a dry run, or an earlier step failed */
	APPLY_WRITTEN,  /* and read back */
	APPLY_SHORT,    /* the system made something else of it: `got` */
	APPLY_FAILED,   /* could not be read or written */
	APPLY_RESTORED, /* what was found is there again */
};
/* Of an undo: `found` is what was there before it, `wanted` what the journal says to restore. */
struct apply_step {
	char path[APPLY_PATH], found[APPLY_VALUE], wanted[APPLY_VALUE], got[APPLY_VALUE];
	enum apply_state state;
};
struct apply_result {
	struct apply_step *steps;
	uint32_t nsteps, writes;
	bool rolled_back;
};

/* `out` is filled on failure too, as far as it went; the caller frees it. */
int apply_plan(const struct plan *p, const struct apply_conf *conf, struct apply_result *out, struct why *why);
/* 0 also when there is nothing to undo. */
int apply_undo(const struct apply_conf *conf, struct apply_result *out, struct why *why);
void apply_result_free(struct apply_result *r);
const char *apply_state_name(enum apply_state s);

/* What the journal says: nothing there (or of an earlier boot), complete, or half done (then `step` names where it stopped). */
enum apply_journal { JOURNAL_NONE, JOURNAL_COMPLETE, JOURNAL_HALF, JOURNAL_UNREADABLE };
enum apply_journal apply_journal_state(const struct apply_conf *conf, char step[256]);

#endif
