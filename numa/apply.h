/* apply.h - does what a plan asks of the system, and takes it back: a person's act, never the daemon's.
 *
 * Each action is a value written to a file below /sys or /proc and read back; the kernel may grant less than was written
 * (hugepages). A journal (one file, written and synced before each step) says what was found, so that a partial result is rolled
 * back, `undo` restores byte for byte, and a run that was killed is named by the next check and repaired by undo.
 * Applying twice writes nothing the second time.
 *
 * Threads: one process at a time (the journal is locked). What can fail: -EXDEV (the plan is of another machine), -EPERM, -EBUSY
 * (another apply runs), -ECANCELED (the system gave less: rolled back), all with `why`.
 */
#ifndef NUMA_APPLY_H
#define NUMA_APPLY_H

#include "numa/plan.h"

#define APPLY_JOURNAL "/var/lib/lmcache-appliance/numa.journal"

struct apply_conf {
	const char *journal; /* NULL: APPLY_JOURNAL */
	const char *root;    /* "" or a directory that stands for / (tests) */
	bool dry_run;        /* says what would be written */
};

enum apply_state { APPLY_SAME, APPLY_WRITTEN, APPLY_SHORT, APPLY_FAILED, APPLY_RESTORED };
struct apply_step {
	char path[160], found[128], wanted[128], got[128];
	enum apply_state state;
};
struct apply_result {
	struct apply_step *steps;
	uint32_t nsteps, writes;
	bool rolled_back;
};

int apply_plan(const struct plan *p, const struct apply_conf *conf, struct apply_result *out, struct why *why);
/* 0 also when there is nothing to undo. */
int apply_undo(const struct apply_conf *conf, struct apply_result *out, struct why *why);
void apply_result_free(struct apply_result *r);

/* What the journal says: nothing there, complete, or half done (then `step` names where it stopped). */
enum apply_journal { JOURNAL_NONE, JOURNAL_COMPLETE, JOURNAL_HALF, JOURNAL_UNREADABLE };
enum apply_journal apply_journal_state(const struct apply_conf *conf, char step[256]);

#endif
