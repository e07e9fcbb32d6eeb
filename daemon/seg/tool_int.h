/* tool_int.h - a store that is not in operation, seen by the tools: plain reads of one thread. */
#ifndef DAEMON_SEG_TOOL_INT_H
#define DAEMON_SEG_TOOL_INT_H

#include "daemon/seg/recover_int.h"

#define TOOL_BUFFER (1u << 20)

struct tool {
	const char *path;
	int fd;
	bool block;     /* a block device; else a regular file */
	uint64_t bytes; /* of the device */
	uint8_t *buf;   /* TOOL_BUFFER, aligned */
	struct super_found found;
};

enum tool_lock { TOOL_LOOK, TOOL_SHARED, TOOL_EXCLUSIVE };

/* TOOL_LOOK takes no lock. SHARED reads, EXCLUSIVE writes; -EBUSY when somebody uses it. Call tool_close after a failure, too. */
int tool_open(struct tool *t, const char *path, enum tool_lock lock, struct why *why);
void tool_close(struct tool *t);
/* Whole or -EIO (also behind the end). */
int tool_read(const struct tool *t, uint64_t offset, void *buf, size_t bytes);
int tool_write(const struct tool *t, uint64_t offset, const void *buf, size_t bytes);
/* The superblock, into t->found: as super_find. */
int tool_super(struct tool *t);

/* Header and seal of a segment, checked. */
struct tool_segment {
	enum segment_state state; /* FREE, OPEN, SEALED */
	uint64_t generation;
	struct format_seal seal;
};
int tool_segment(const struct tool *t, uint32_t id, struct tool_segment *out);

/* The geometry of a store that is to be made on `bytes`. -EINVAL, -EFBIG. */
int tool_geometry(const struct seg_format_conf *conf, uint64_t bytes, struct format_super *out, struct why *why);

/* What there is besides a store of ours; text[0] = 0: nothing known. 0 or -errno. */
int tool_foreign(const struct tool *t, char *text, size_t cap, struct why *why);

#endif
