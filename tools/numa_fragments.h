/* numa_fragments.h - the lines of a plan as files for boot and systemd, in the form of the samples in config/.
 *
 * Four files, whatever the plan needs, so that nothing of an earlier plan stays: one that is not needed says so in a comment.
 * Nothing is installed; the operator reads and copies them. Threads: any. What can fail: out of memory, a folder that cannot be
 * written.
 */
#ifndef TOOLS_NUMA_FRAGMENTS_H
#define TOOLS_NUMA_FRAGMENTS_H

#include "numa/plan.h"

#define FRAGMENTS 4u

struct fragment {
	enum plan_action_kind kind;
	const char *file;    /* below the folder */
	const char *install; /* where it belongs */
	const char *then;    /* what makes it take effect now; "" = the next boot does */
};
extern const struct fragment fragments[FRAGMENTS];

/* How many lines of this kind the plan has. */
uint32_t fragment_lines(const struct plan *p, enum plan_action_kind kind);
/* The text of one file. free(); NULL when out of memory. */
char *fragment_text(const struct plan *p, const struct fragment *f);
/* All of them below `folder`, which is made if it is the only one missing. 0 or -errno with `why`. */
int fragments_write(const struct plan *p, const char *folder, struct why *why);

#endif
