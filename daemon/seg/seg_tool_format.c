/* seg_tool_format.c - making a store. The superblocks are written last, so a format that is interrupted leaves no store. */
#include "daemon/seg/tool_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ENOUGH_SEGMENTS 16u /* eviction frees a segment at a time, and keeps one clean: few would make it coarse */
#define LEAST_SEGMENT   (1u << 20)
#define SEGMENT_STEP    (64u << 10) /* what is left over behind the last one is small */

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80 /* linux/falloc.h, since 6.17 */
#endif

/* At most the usual size, which up to seven objects of 32 MiB fill but for an eighth; smaller where there would be few. */
static uint64_t usual_segment(uint64_t bytes)
{
	uint64_t room = bytes > FORMAT_FIXED ? bytes - FORMAT_FIXED : 0;
	uint64_t n = (room + SEG_BYTES_USUAL - 1) / SEG_BYTES_USUAL, segment;

	n = n < ENOUGH_SEGMENTS ? ENOUGH_SEGMENTS : n;
	segment = room / n / SEGMENT_STEP * SEGMENT_STEP;
	return segment < LEAST_SEGMENT ? LEAST_SEGMENT : segment;
}

int tool_geometry(const struct seg_format_conf *conf, uint64_t bytes, struct format_super *out, struct why *why)
{
	uint64_t segment = conf->segment_bytes ? conf->segment_bytes : usual_segment(bytes);
	int rc = format_geometry(bytes, segment, out);

	if (rc == -EFBIG)
		return why_set(why, rc,
			       "%s has %" PRIu64 " bytes; a store has at most 16 TiB (%llu): give a smaller size",
			       conf->path, bytes, FORMAT_MAX_BYTES);
	if (rc && segment >= FORMAT_MIN_SEGMENT && segment <= FORMAT_MAX_SEGMENT && segment % FORMAT_BLOCK == 0)
		return why_set(why, rc,
			       "%s: %" PRIu64 " bytes are too few for %u segments of %" PRIu64 " and 4 MiB beside them",
			       conf->path, bytes, FORMAT_MIN_SEGMENTS, segment);
	return rc ? why_set(why, rc, "segment size %" PRIu64 ": expected %u to %u in steps of %u", segment,
			    FORMAT_MIN_SEGMENT, FORMAT_MAX_SEGMENT, FORMAT_BLOCK)
		  : 0;
}

/* ---- what is there already -------------------------------------------------------------------------------------------- */

/* The epoch goes on from an older store's, so that "newest" has a meaning when both left copies. */
static int look_before(struct tool *t, const struct seg_format_conf *conf, uint64_t *epoch, struct why *why)
{
	char text[128];
	int rc = t->bytes >= FORMAT_DATA ? tool_super(t) : -ENOENT;

	*epoch = rc ? 1 : t->found.newest + 1;
	if (rc == -EIO)
		return why_set(why, rc, "%s: read error", t->path);
	if (conf->force)
		return 0;
	if (rc == 0 || rc == -EPROTONOSUPPORT)
		return why_set(why, -EEXIST, "%s holds a store already; --force overwrites it", t->path);
	rc = tool_foreign(t, text, sizeof(text), why);
	if (rc)
		return rc;
	return text[0] ? why_set(why, -EEXIST, "%s is not empty: %s; --force overwrites it", t->path, text) : 0;
}

/* ---- room ------------------------------------------------------------------------------------------------------------- */

static int zero(const struct tool *t, uint64_t from, uint64_t to, struct why *why)
{
	int rc = 0;

	memset(t->buf, 0, TOOL_BUFFER);
	while (from < to && !rc) {
		size_t n = to - from < TOOL_BUFFER ? (size_t)(to - from) : TOOL_BUFFER;

		rc = tool_write(t, from, t->buf, n);
		from += n;
	}
	return rc ? why_set(why, rc, "%s: write: %s", t->path, strerror(-rc)) : 0;
}

/* Blocks of a file are taken now: a cache that meets a full file system later would be a cache that fails. What is new of it is only
 * reserved, or zeroed by the drive itself where both can do that. 1: neither is possible here, zeros must be written. */
static int allocate(struct tool *t, uint64_t bytes, struct why *why)
{
	int rc;

	if (bytes > t->bytes)
		(void)fallocate(t->fd, FALLOC_FL_WRITE_ZEROES, (off_t)t->bytes, (off_t)(bytes - t->bytes));
	/* Also where that was done: what was there before may have holes. */
	rc = fallocate(t->fd, 0, 0, (off_t)bytes) ? -errno : 0;
	if (rc == -EOPNOTSUPP || rc == -ENOSYS)
		rc = 1;
	if (rc < 0)
		return why_set(why, rc, "%s: %" PRIu64 " bytes cannot be preallocated: %s", t->path, bytes,
			       strerror(-rc));
	if (bytes > t->bytes)
		t->bytes = bytes;
	return rc;
}

/* A first write to blocks that were only reserved changes the file system's records, too: some percent of the first pass, and not worth a
 * start that writes the whole file. */
static int make_room(struct tool *t, const struct format_super *s, bool prewrite, struct why *why)
{
	uint64_t range[2] = {0, s->bytes}, old_bytes = t->bytes;
	int rc;

	if (!t->block) {
		rc = allocate(t, s->bytes, why);
		if (rc < 0 || (rc == 0 && !prewrite))
			return rc;
		/* What was there may have holes that nobody could fill but by writing; with allocation there are none. */
		return zero(t, rc ? 0 : old_bytes - old_bytes % FORMAT_BLOCK, s->bytes, why);
	}
	/* A drive that is told what is free writes faster; one that cannot be told does without. */
	(void)ioctl(t->fd, BLKDISCARD, range);
	return 0;
}

static int write_store(struct tool *t, struct format_super *s, struct why *why)
{
	int rc = zero(t, 0, FORMAT_DATA, why);

	/* Signatures that other systems keep at the end would make two owners of one device. */
	if (!rc)
		rc = zero(t, format_super_at(s, 2), format_super_at(s, 2) + FORMAT_RESERVED, why);
	if (!rc)
		rc = zero(t, format_super_at(s, 3), s->bytes, why);
	if (!rc && fsync(t->fd))
		rc = why_set(why, -errno, "%s: flush: %s", t->path, strerror(errno));
	for (uint32_t copy = 0; copy < FORMAT_SUPERS && !rc; copy++) {
		format_super_encode(s, copy, t->buf);
		rc = tool_write(t, format_super_at(s, copy), t->buf, FORMAT_BLOCK);
		if (rc)
			return why_set(why, rc, "%s: write: %s", t->path, strerror(-rc));
	}
	if (!rc && fsync(t->fd))
		rc = why_set(why, -errno, "%s: flush: %s", t->path, strerror(errno));
	return rc;
}

static int format(struct tool *t, const struct seg_format_conf *conf, bool created, struct why *why)
{
	struct format_super s;
	uint64_t epoch = 1;
	int rc = created ? 0 : look_before(t, conf, &epoch, why);

	if (!rc && conf->bytes > t->bytes && t->block)
		rc = why_set(why, -ENOSPC, "%s has only %" PRIu64 " bytes", t->path, t->bytes);
	if (!rc)
		rc = tool_geometry(conf, conf->bytes ? conf->bytes : t->bytes, &s, why);
	if (!rc)
		rc = make_room(t, &s, conf->prewrite, why);
	if (rc)
		return rc;
	if (getrandom(s.uuid, sizeof(s.uuid), 0) != (ssize_t)sizeof(s.uuid))
		return why_set(why, -EIO, "no random numbers");
	s.epoch = epoch;
	s.created_s = (uint64_t)time(NULL);
	return write_store(t, &s, why);
}

/* 1: a new file was made. */
static int create_file(const struct seg_format_conf *conf, struct why *why)
{
	struct stat st;

	if (stat(conf->path, &st) == 0)
		return 0;
	if (errno != ENOENT)
		return why_set(why, -errno, "%s: %s", conf->path, strerror(errno));
	if (!conf->bytes)
		return why_set(why, -ENOENT, "%s does not exist; give a size to make a file", conf->path);
	/* A name in /dev that is no device is a slip, and the file would eat memory. */
	if (strncmp(conf->path, "/dev/", 5) == 0 && strncmp(conf->path, "/dev/shm/", 9) != 0)
		return why_set(why, -ENOENT, "%s: there is no such device", conf->path);
	struct format_super s;
	int rc = tool_geometry(conf, conf->bytes, &s, why);
	if (rc)
		return rc;
	int fd = open(conf->path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return why_set(why, -errno, "%s: %s", conf->path, strerror(errno));
	close(fd);
	return 1;
}

int seg_format(const struct seg_format_conf *conf, struct why *why)
{
	struct tool t;
	int created = create_file(conf, why);

	if (created < 0)
		return created;
	int rc = tool_open(&t, conf->path, TOOL_EXCLUSIVE, why);
	if (!rc)
		rc = format(&t, conf, created, why);
	tool_close(&t);
	if (rc && created)
		unlink(conf->path);
	return rc;
}
