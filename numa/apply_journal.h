/* apply_journal.h - inside apply: the files it may touch, and the journal.
 *
 * The journal is a text file. Its first line names it, its second the boot it is of; each apply adds "run", one "set" line per
 * step before that step is done, and "end". A line counts once its newline is there, and it is there, synced, before the file
 * it speaks of is touched: so a torn last line speaks of nothing that happened.
 */
#ifndef NUMA_APPLY_JOURNAL_H
#define NUMA_APPLY_JOURNAL_H

#include "numa/apply.h"

#include <sys/types.h>

#define JOURNAL_MAX_BYTES (1u << 20)
#define JOURNAL_MAX_STEPS 4096u

/* True for the files that apply may write. Nothing else is ever opened. */
bool apply_path_ok(const char *path);
/* "kernel.numa_balancing" or a path into a path. -EINVAL when it does not fit. */
int apply_path_of(const char *name, char out[APPLY_PATH]);

/* The content, byte for byte. -EPERM (not a file of ours), -EMSGSIZE (longer than a value can be), -EBADMSG (binary), or what
 * the system says. */
int apply_file_read(const struct apply_conf *conf, const char *path, char out[APPLY_VALUE], struct why *why);
int apply_file_write(const struct apply_conf *conf, const char *path, const char *value, struct why *why);
/* Puts `content`, as read before, back. */
int apply_file_restore(const struct apply_conf *conf, const char *path, const char *content, struct why *why);
/* True when a file with this content is set to `value`: "[never]" among choices, or the whole, apart from white space. */
bool apply_value_is(const char *content, const char *value);
void apply_at(const struct apply_conf *conf, enum apply_point point, const char *path);

struct journal_step {
	char path[APPLY_PATH], found[APPLY_VALUE], wanted[APPLY_VALUE];
};

struct journal {
	int fd; /* -1: none there */
	const char *path;
	enum apply_journal state; /* never JOURNAL_UNREADABLE: that is an error of journal_open */
	bool stale;               /* of an earlier boot: its steps are void */
	char boot[64];            /* this boot */
	struct journal_step *steps;
	uint32_t nsteps, cap;
	off_t end; /* of its last whole line */
	off_t run; /* where this run began */
};

enum journal_mode { JOURNAL_LOOK, JOURNAL_CHANGE, JOURNAL_MAKE };

/* LOOK: reads it, no lock kept. CHANGE: locks it; without a file j->fd is -1. MAKE: also makes one. -EBUSY when another process
 * holds it; -EBADMSG when it is not a journal or others may write it. */
int journal_open(const struct apply_conf *conf, enum journal_mode mode, struct journal *j, struct why *why);
void journal_close(struct journal *j);
/* Each returns when the line is on disk. */
int journal_begin(struct journal *j, struct why *why);
int journal_set(struct journal *j, const struct apply_step *s, struct why *why);
int journal_end(struct journal *j, struct why *why);
/* Takes the lines of this run away, and the file when nothing else is in it. */
int journal_drop_run(struct journal *j, struct why *why);
int journal_remove(struct journal *j, struct why *why);

/* The text of a journal into steps; for journal_open and the fuzzer. `text` has n bytes and needs no terminator. */
int journal_parse(struct journal *j, const char *text, size_t n, struct why *why);

#endif
