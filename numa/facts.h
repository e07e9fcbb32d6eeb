/* facts.h - inside this module: where files below /sys and /proc are read from.
 *
 * One reader, three origins: this system (or a directory that stands for its root), a capture that holds the files' text, and
 * none at all (an hwloc XML brings no files). What is read of a live system may be recorded; the record is what a capture holds,
 * so a replay asks exactly the questions that were asked live. What an origin does not hold is -ENOENT. Text is foreign: bytes
 * that are not printable ASCII, newline or tab become '?', and trailing white space goes.
 *
 * Threads: one at a time. What can fail: every read; callers treat any failure as "unknown".
 */
#ifndef NUMA_FACTS_H
#define NUMA_FACTS_H

#include "daemon/base/why.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FACTS_TEXT_MAX ((size_t)256 << 10) /* of one file; the rest is not looked at */
#define FACTS_NAMES    4096u               /* entries of one directory */

struct facts;

/* `root`: "" = this system, a directory = its files below that; NULL = no files. */
int facts_open(const char *root, bool record, struct facts **out, struct why *why);
/* From "files", "dirs", "links" and "values" of a capture; takes a reference. Refuses what is not of that shape. */
int facts_replay(json_t *capture, struct facts **out, struct why *why);
void facts_close(struct facts *f);
/* Really this system: system calls may be asked, and their answers noted. */
bool facts_live(const struct facts *f);
/* Some answer was lost for want of memory: what was read so far is not the whole truth. */
bool facts_oom(const struct facts *f);
/* Puts what was recorded into `capture`. -ENOMEM. */
int facts_save(const struct facts *f, json_t *capture);

/* A small file: its length, or -errno. Always terminated. -E2BIG when it is longer than cap - 1. */
ssize_t facts_read(struct facts *f, char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A file of any size up to FACTS_TEXT_MAX; NULL when there is none. mem_free(). */
char *facts_text(struct facts *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A file that is one number, decimal or 0x. */
int facts_u64(struct facts *f, uint64_t *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The target of a symbolic link, as it is written. */
ssize_t facts_link(struct facts *f, char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

struct facts_dir {
	char **names; /* sorted */
	uint32_t n;
};
int facts_list(struct facts *f, struct facts_dir *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void facts_dir_free(struct facts_dir *d);

/* Answers of system calls, by name. */
int facts_value(const struct facts *f, const char *key, char *buf, size_t cap);
void facts_note(struct facts *f, const char *key, const char *text);

/* One line of printable text, without blanks around it, cut to fit; NULL is empty. */
void facts_copy(char *out, size_t cap, const char *text);

#endif
