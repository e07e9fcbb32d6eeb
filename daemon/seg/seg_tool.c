/* seg_tool.c - opening a device for the tools, and what is on it. */
#include "daemon/seg/tool_int.h"

#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---------------------------------------------------------------------------------------------------------- */

static bool names_file(const char *path, const struct stat *st)
{
	struct stat other;

	return stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

/* First word of each line of `from` names a file. */
static bool listed(const char *from, const struct stat *st)
{
	FILE *f = fopen(from, "re");
	char line[4096];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, " \t\n")] = '\0';
		found = line[0] == '/' && names_file(line, st);
	}
	if (f)
		fclose(f);
	return found;
}

/* Users of a file that take no lock: swap, and loop devices. */
static const char *kernel_uses(const struct stat *st)
{
	glob_t g;
	bool loop = false;

	if (listed("/proc/swaps", st))
		return "it is swap space";
	if (glob("/sys/block/loop*/loop/backing_file", 0, NULL, &g) == 0)
		for (size_t i = 0; i < g.gl_pathc && !loop; i++)
			loop = listed(g.gl_pathv[i], st);
	globfree(&g);
	return loop ? "a loop device is made of it" : NULL;
}

static int take_lock(struct tool *t, enum tool_lock lock, const struct stat *st, struct why *why)
{
	const char *user = t->block ? NULL : kernel_uses(st);

	if (user)
		return why_set(why, -EBUSY, "%s is in use: %s", t->path, user);
	if (flock(t->fd, (lock == TOOL_SHARED ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? why_set(why, -EBUSY, "%s is in use: another process has it locked", t->path)
				    : why_set(why, -errno, "%s: lock: %s", t->path, strerror(errno));
}

static int open_path(struct tool *t, enum tool_lock lock, bool block, struct why *why)
{
	int flags = (lock == TOOL_EXCLUSIVE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

	if (block && lock != TOOL_LOOK)
		flags |= O_EXCL; /* without O_CREAT: refuses what is mounted or claimed */
	t->fd = open(t->path, flags | O_DIRECT);
	if (t->fd < 0 && errno == EINVAL)
		t->fd = open(t->path, flags);
	if (t->fd >= 0)
		return 0;
	return errno == EBUSY ? why_set(why, -EBUSY, "%s is in use: mounted, or claimed by another process", t->path)
			      : why_set(why, -errno, "%s: %s", t->path, strerror(errno));
}

int tool_open(struct tool *t, const char *path, enum tool_lock lock, struct why *why)
{
	struct stat st;

	*t = (struct tool){.path = path, .fd = -1};
	if (stat(path, &st))
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return why_set(why, -EINVAL, "%s is neither a block device nor a regular file", path);
	t->block = S_ISBLK(st.st_mode);
	int rc = open_path(t, lock, t->block, why);
	/* What was opened counts, not what the path named a moment ago. */
	if (!rc && (fstat(t->fd, &st) || S_ISBLK(st.st_mode) != t->block))
		rc = why_set(why, -EAGAIN, "%s changed while it was opened", path);
	if (!rc && lock != TOOL_LOOK)
		rc = take_lock(t, lock, &st, why);
	if (rc)
		return rc;
	t->bytes = (uint64_t)st.st_size;
	if (t->block && ioctl(t->fd, BLKGETSIZE64, &t->bytes))
		return why_set(why, -errno, "%s: size: %s", path, strerror(errno));
	t->buf = aligned_alloc(DISK_ALIGN, TOOL_BUFFER);
	return t->buf ? 0 : why_set(why, -ENOMEM, "out of memory");
}

void tool_close(struct tool *t)
{
	if (t->fd >= 0)
		close(t->fd);
	free(t->buf);
	t->fd = -1;
	t->buf = NULL;
}

int tool_read(const struct tool *t, uint64_t offset, void *buf, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t n = pread(t->fd, (uint8_t *)buf + at, bytes - at, (off_t)(offset + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EIO;
		at += (size_t)n;
	}
	return 0;
}

int tool_write(const struct tool *t, uint64_t offset, const void *buf, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t n = pwrite(t->fd, (const uint8_t *)buf + at, bytes - at, (off_t)(offset + at));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += (size_t)n;
	}
	return 0;
}

/* ---- a store of ours -------------------------------------------------------------------------------------------------- */

static int read_block(void *ctx, uint64_t offset, void *block)
{
	return tool_read(ctx, offset, block, FORMAT_BLOCK);
}

int tool_super(struct tool *t)
{
	return super_find(read_block, t, t->bytes, t->buf, &t->found);
}

int tool_segment(const struct tool *t, uint32_t id, struct tool_segment *out)
{
	const struct format_super *super = &t->found.super;
	struct format_segment h;
	struct format_seal *seal = &out->seal;

	*out = (struct tool_segment){.state = SEGMENT_FREE};
	int rc = tool_read(t, format_segment_at(super, id), t->buf, 2ul * FORMAT_BLOCK);
	if (rc)
		return rc;
	if (format_segment_decode(t->buf, &h) || memcmp(h.uuid, super->uuid, sizeof(h.uuid)) != 0 || h.id != id ||
	    h.epoch != super->epoch)
		return 0;
	out->state = SEGMENT_OPEN;
	out->generation = h.generation;
	if (format_seal_decode(t->buf + FORMAT_BLOCK, seal) == 0 &&
	    memcmp(seal->uuid, super->uuid, sizeof(h.uuid)) == 0 && seal->id == id &&
	    seal->generation == h.generation && seal->summary_at + seal->summary_bytes <= super->segment_bytes)
		out->state = SEGMENT_SEALED;
	return 0;
}

/* ---- what else there may be ------------------------------------------------------------------------------------------- */

/* Upstream's raw_block: a metadata area in two halves, then slots; its size is an option, 256 MiB unless said otherwise. */
static bool is_raw_block(const struct tool *t)
{
	for (uint64_t at = 0; at + FORMAT_BLOCK <= t->bytes; at = at ? at * 2 : TOOL_BUFFER) {
		if (tool_read(t, at, t->buf, FORMAT_BLOCK))
			return false;
		if (memcmp(t->buf, "LMCIDX01", 8) == 0 || (at && memcmp(t->buf, "LMCBLK01", 8) == 0))
			return true;
		if (at >= 1ull << 40)
			break;
	}
	return false;
}

static const char *value_of(blkid_probe pr, const char *name)
{
	const char *v = NULL;

	return blkid_probe_lookup_value(pr, name, &v, NULL) == 0 ? v : NULL;
}

static void tell(blkid_probe pr, int found, char *text, size_t cap)
{
	const char *type = value_of(pr, "TYPE"), *table = value_of(pr, "PTTYPE"), *usage = value_of(pr, "USAGE");

	if (found == -2)
		snprintf(text, cap, "signatures of several kinds");
	else if (type && usage && strcmp(usage, "filesystem") == 0)
		snprintf(text, cap, "%s file system", type);
	else if (type && usage && strcmp(usage, "raid") == 0)
		snprintf(text, cap, "%s (RAID or volume group member)", type);
	else if (type && usage && strcmp(usage, "crypto") == 0)
		snprintf(text, cap, "%s encrypted volume", type);
	else if (type)
		snprintf(text, cap, "%s signature", type);
	else if (table)
		snprintf(text, cap, "%s partition table", table);
	else
		snprintf(text, cap, "signature without a name");
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

int tool_foreign(const struct tool *t, char *text, size_t cap, struct why *why)
{
	text[0] = '\0';
	if (is_raw_block(t)) {
		snprintf(text, cap, "LMCache raw_block store");
		return 0;
	}
	/* libblkid reads in sizes of its own, which a descriptor for direct IO refuses. */
	int fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	blkid_probe pr = fd >= 0 ? blkid_new_probe() : NULL;
	int found = -1;
	if (pr && blkid_probe_set_device(pr, fd, 0, 0) == 0) {
		blkid_probe_enable_superblocks(pr, 1);
		blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
		blkid_probe_enable_partitions(pr, 1);
		found = blkid_do_safeprobe(pr);
		if (found == 0 || found == -2)
			tell(pr, found, text, cap);
	}
	blkid_free_probe(pr);
	if (fd >= 0)
		close(fd);
	if (found == -1)
		return why_set(why, -EIO, "%s: what is on it cannot be found out", t->path);
	/* A drive may hold whatever it held before; a file with contents is somebody's. */
	if (found == 1 && !t->block && t->bytes >= FORMAT_BLOCK && tool_read(t, 0, t->buf, FORMAT_BLOCK) == 0 &&
	    !all_zero(t->buf, FORMAT_BLOCK))
		snprintf(text, cap, "file with other contents");
	return 0;
}

/* ---- probe -------------------------------------------------------------------------------------------------------------- */

static bool in_use(const char *path)
{
	struct tool t;
	int rc = tool_open(&t, path, TOOL_SHARED, NULL);

	tool_close(&t);
	return rc == -EBUSY;
}

static int count_segments(const struct tool *t, struct seg_info *out)
{
	struct tool_segment g;

	for (uint32_t id = 0; id < t->found.super.segments; id++) {
		int rc = tool_segment(t, id, &g);

		if (rc)
			return rc;
		out->sealed += g.state == SEGMENT_SEALED;
		out->open += g.state == SEGMENT_OPEN;
		out->free_segments += g.state == SEGMENT_FREE;
		out->records += g.state == SEGMENT_SEALED ? g.seal.records : 0;
	}
	return 0;
}

static int probe(struct tool *t, struct seg_info *out, struct why *why)
{
	int rc = tool_super(t);

	if (rc == -EPROTONOSUPPORT) {
		out->content = SEG_OURS;
		out->version = t->found.other_version;
		return 0;
	}
	if (rc == -EIO && t->bytes >= FORMAT_DATA)
		return why_set(why, rc, "%s: read error", t->path);
	if (rc) {
		rc = tool_foreign(t, out->foreign, sizeof(out->foreign), why);
		out->content = out->foreign[0] ? SEG_FOREIGN : SEG_EMPTY;
		return rc;
	}
	const struct format_super *s = &t->found.super;
	out->content = SEG_OURS;
	out->version = FORMAT_VERSION;
	memcpy(out->uuid, s->uuid, sizeof(out->uuid));
	out->epoch = s->epoch;
	out->bytes = s->bytes;
	out->segment_bytes = s->segment_bytes;
	out->segments = s->segments;
	out->created_s = s->created_s;
	out->good_superblocks = t->found.good;
	rc = count_segments(t, out);
	return rc ? why_set(why, rc, "%s: a segment header cannot be read", t->path) : 0;
}

int seg_probe(const char *path, struct seg_info *out, struct why *why)
{
	struct tool t;
	int rc = tool_open(&t, path, TOOL_LOOK, why);

	*out = (struct seg_info){0};
	if (!rc)
		rc = probe(&t, out, why);
	tool_close(&t);
	if (!rc)
		out->in_use = in_use(path);
	return rc;
}
