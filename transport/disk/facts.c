#include "transport/disk/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* What a device's folder in sysfs says. Everything may be absent; then the field stays as it is. */

static bool text_of(const char *dir, const char *file, char *out, size_t cap)
{
	char path[PATH_MAX + 64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, out, cap - 1);
	close(fd);
	if (n < 0)
		return false;
	while (n > 0 && strchr(" \n\t", out[n - 1]))
		n--;
	out[n] = 0;
	return true;
}

static bool number_of(const char *dir, const char *file, uint64_t *out)
{
	char text[32], *end;
	unsigned long long v;

	if (!text_of(dir, file, text, sizeof text) || !text[0])
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end)
		return false;
	*out = v;
	return true;
}

static void into_u32(const char *dir, const char *file, uint32_t *out)
{
	uint64_t v;

	if (number_of(dir, file, &v) && v <= UINT32_MAX)
		*out = (uint32_t)v;
}

/* "none [mq-deadline] kyber" is mq-deadline. */
static void scheduler_of(const char *dir, char *out, size_t cap)
{
	char text[256], *from, *to;

	if (!text_of(dir, "queue/scheduler", text, sizeof text))
		return;
	from = strchr(text, '[');
	to = from ? strchr(from, ']') : NULL;
	if (to) {
		*to = 0;
		snprintf(out, cap, "%s", from + 1);
	} else {
		snprintf(out, cap, "%.*s", (int)strcspn(text, " "), text);
	}
}

static void limits_of(const char *disk, struct disk_facts *f)
{
	char cache[32] = "";
	uint64_t v;

	into_u32(disk, "queue/logical_block_size", &f->logical_block);
	if (number_of(disk, "queue/dma_alignment", &v) && v < UINT32_MAX)
		f->dma_align = (uint32_t)v + 1; /* sysfs shows a mask */
	if (number_of(disk, "queue/max_sectors_kb", &v) && v && v <= UINT32_MAX >> 10)
		f->max_io_bytes = (uint32_t)v << 10;
	into_u32(disk, "queue/max_segments", &f->max_segments);
	into_u32(disk, "queue/nr_requests", &f->nr_requests);
	if (text_of(disk, "queue/write_cache", cache, sizeof cache))
		f->volatile_cache = strcmp(cache, "write through") != 0;
	f->rotational = number_of(disk, "queue/rotational", &v) && v;
	f->can_discard = f->block && number_of(disk, "queue/discard_max_bytes", &v) && v;
	scheduler_of(disk, f->scheduler, sizeof f->scheduler);
}

/* The disk under a device-mapper or md device: the first of those it is made of, and so on down. */
static void physical_of(char dir[PATH_MAX])
{
	char path[PATH_MAX + 300], real[PATH_MAX];

	for (int depth = 0; depth < 8; depth++) {
		snprintf(path, sizeof path, "%s/slaves", dir);
		if (!disk_first_entry(path, path, sizeof path) || !realpath(path, real))
			return;
		memcpy(dir, real, sizeof real);
		disk_whole(dir);
	}
}

/* The nearest folder above that says which node its device is on: of NVMe the PCI function. */
static node_id node_above(const char *dir)
{
	char up[PATH_MAX], text[32];

	snprintf(up, sizeof up, "%s", dir);
	while (strlen(up) > strlen("/sys/devices")) {
		char *slash = strrchr(up, '/');

		if (text_of(up, "numa_node", text, sizeof text)) {
			char *end;
			long v = strtol(text, &end, 10);
			return *end || end == text || v < 0 || v > INT_MAX ? NODE_UNKNOWN : node_of((int)v);
		}
		if (!slash)
			break;
		*slash = 0;
	}
	return NODE_UNKNOWN;
}

static void hardware_of(const char *disk, struct disk_facts *f)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof dir, "%s", disk);
	physical_of(dir);
	text_of(dir, "device/model", f->model, sizeof f->model);
	if (!text_of(dir, "device/serial", f->serial, sizeof f->serial))
		text_of(dir, "serial", f->serial, sizeof f->serial);
	f->node = node_above(dir);
}

static int look_in_sysfs(dev_t dev, struct disk_facts *f, struct why *why)
{
	char link[64], disk[PATH_MAX];
	uint64_t start = 0, sectors = 0;

	snprintf(link, sizeof link, "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (!realpath(link, disk))
		return 0; /* a file system without one device below it */
	if (f->block) {
		number_of(disk, "size", &sectors);
		number_of(disk, "start", &start);
		f->bytes = sectors * 512 / DISK_ALIGN * DISK_ALIGN;
		if (start * 512 % DISK_ALIGN)
			return why_set(why, -EINVAL,
				       "%s: the partition begins at sector %llu, which is not at a step of 4 KiB",
				       f->path, (unsigned long long)start);
	}
	disk_whole(disk);
	limits_of(disk, f);
	hardware_of(disk, f);
	return 0;
}

static int refuse_coarse(const struct disk_facts *f, struct why *why)
{
	if (f->logical_block > DISK_ALIGN || f->dma_align > DISK_ALIGN)
		return why_set(why, -EINVAL, "%s takes IO only in steps of %u bytes from addresses of %u, ours are %u",
			       f->path, f->logical_block, f->dma_align, DISK_ALIGN);
	if (!f->bytes)
		return why_set(why, -ENOSPC, "%s has no room: %s", f->path,
			       f->block ? "no medium" : "preallocate the file first");
	return 0;
}

int disk_probe(const char *path, struct disk_facts *f, struct why *why)
{
	struct stat st;
	int rc;

	*f = (struct disk_facts){.node = NODE_UNKNOWN, .logical_block = 512, .dma_align = 512, .volatile_cache = true};
	if (!path || strlen(path) >= sizeof f->path)
		return why_set(why, -ENAMETOOLONG, "the path of a disk has at most %zu bytes", sizeof f->path - 1);
	snprintf(f->path, sizeof f->path, "%s", path);
	if (stat(path, &st))
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return why_set(why, -ENOTBLK, "%s is neither a block device nor a regular file", path);
	f->block = S_ISBLK(st.st_mode);
	if (!f->block)
		f->bytes = (uint64_t)st.st_size / DISK_ALIGN * DISK_ALIGN;
	rc = look_in_sysfs(f->block ? st.st_rdev : st.st_dev, f, why);
	return rc ? rc : refuse_coarse(f, why);
}

int disk_facts_of_fd(int fd, struct disk_facts *f, struct why *why)
{
	uint64_t bytes = 0;
	struct stat st;
	int block = 0;

	if (fstat(fd, &st))
		return why_set(why, -errno, "%s: %s", f->path, strerror(errno));
	if (f->block != S_ISBLK(st.st_mode))
		return why_set(why, -ESTALE, "%s was replaced while it was opened", f->path);
	if (f->block) {
		if (ioctl(fd, BLKGETSIZE64, &bytes) || ioctl(fd, BLKSSZGET, &block))
			return why_set(why, -errno, "%s: %s", f->path, strerror(errno));
		if (block > 0)
			f->logical_block = (uint32_t)block;
		f->device = st.st_rdev;
	} else {
		bytes = (uint64_t)st.st_size;
#ifdef STATX_DIOALIGN
		struct statx sx;
		if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && sx.stx_mask & STATX_DIOALIGN &&
		    sx.stx_dio_mem_align) {
			f->dma_align = sx.stx_dio_mem_align;
			f->logical_block = sx.stx_dio_offset_align;
		}
#endif
	}
	f->bytes = bytes / DISK_ALIGN * DISK_ALIGN;
	return refuse_coarse(f, why);
}

bool disk_left(const struct disk_facts *f)
{
	char path[64];

	snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(f->device), minor(f->device));
	return f->device && access(path, F_OK) && errno == ENOENT && !access("/sys/dev/block", F_OK);
}
