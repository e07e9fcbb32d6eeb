/* apply_file.c - the only files that apply and undo ever touch, and how.
 *
 * A plan is ours, but the journal is a file that waits on a disk, and undo runs as root: so paths are held against a list, every
 * folder on the way is opened without following a link, and on the real system the file must be on sysfs or procfs.
 */
#include "numa/apply_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* '#' stands for a number. */
static const char *const writable[] = {
	"/sys/devices/system/node/node#/hugepages/hugepages-#kB/nr_hugepages",
	"/sys/kernel/mm/hugepages/hugepages-#kB/nr_hugepages",
	"/sys/kernel/mm/hugepages/hugepages-#kB/nr_overcommit_hugepages",
	"/sys/kernel/mm/transparent_hugepage/enabled",
	"/sys/kernel/mm/transparent_hugepage/defrag",
	"/sys/kernel/mm/transparent_hugepage/shmem_enabled",
	"/sys/kernel/mm/transparent_hugepage/hugepages-#kB/enabled",
	"/sys/kernel/mm/transparent_hugepage/hugepages-#kB/shmem_enabled",
	"/sys/kernel/mm/numa/demotion_enabled",
	"/proc/sys/kernel/numa_balancing",
	"/proc/sys/vm/compaction_proactiveness",
	"/proc/sys/vm/max_map_count",
	"/proc/sys/vm/nr_hugepages",
	"/proc/sys/vm/nr_overcommit_hugepages",
	"/proc/sys/vm/swappiness",
	"/proc/sys/vm/zone_reclaim_mode",
};

#define MAX_DIGITS 10u

static bool fits(const char *pattern, const char *path)
{
	while (*pattern) {
		if (*pattern != '#') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size_t n = strspn(path, "0123456789");
		if (n == 0 || n > MAX_DIGITS)
			return false;
		path += n;
		pattern++;
	}
	return !*path;
}

bool apply_path_ok(const char *path)
{
	for (size_t i = 0; i < sizeof(writable) / sizeof(writable[0]); i++)
		if (fits(writable[i], path))
			return true;
	return false;
}

int apply_path_of(const char *name, char out[APPLY_PATH])
{
	int n = snprintf(out, APPLY_PATH, "%s%s", name[0] == '/' ? "" : "/proc/sys/", name);

	if (n < 0 || (size_t)n >= APPLY_PATH)
		return -EINVAL;
	if (name[0] != '/')
		for (char *at = out + strlen("/proc/sys/"); *at; at++)
			if (*at == '.')
				*at = '/';
	return 0;
}

void apply_at(const struct apply_conf *conf, enum apply_point point, const char *path)
{
	if (conf->hook)
		conf->hook->at(conf->hook->ctx, point, path);
}

static bool is_kernels(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == SYSFS_MAGIC || fs.f_type == PROC_SUPER_MAGIC);
}

/* Folder by folder, so that no link can lead elsewhere. A descriptor or -errno. */
static int open_below(const char *root, const char *path, int flags)
{
	bool real = !root || !*root;
	int dir = open(real ? "/" : root, O_PATH | O_DIRECTORY | O_CLOEXEC);

	while (dir >= 0) {
		char name[APPLY_PATH];
		size_t n = strcspn(++path, "/");
		bool last = !path[n];

		memcpy(name, path, n);
		name[n] = '\0';
		path += n;
		int fd = openat(dir, name, (last ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC);
		int err = errno;
		close(dir);
		errno = err;
		dir = fd;
		if (last)
			break;
	}
	if (dir < 0)
		return -errno;
	if (real && !is_kernels(dir)) {
		close(dir);
		return -EPERM;
	}
	return dir;
}

static int refuse(const char *path, struct why *why)
{
	return why_set(why, -EPERM, "%s is not a file that numa apply may write", path);
}

int apply_file_read(const struct apply_conf *conf, const char *path, char out[APPLY_VALUE], struct why *why)
{
	size_t n = 0;
	ssize_t got;

	if (!apply_path_ok(path))
		return refuse(path, why);
	int fd = open_below(conf->root, path, O_RDONLY);
	if (fd < 0)
		return why_set(why, fd, "cannot read %s: %s", path, strerror(-fd));
	while ((got = read(fd, out + n, APPLY_VALUE - n)) > 0)
		n += (size_t)got;
	int err = got < 0 ? -errno : 0;
	close(fd);
	if (err)
		return why_set(why, err, "cannot read %s: %s", path, strerror(-err));
	if (n == APPLY_VALUE)
		return why_set(why, -EMSGSIZE, "%s holds more than a setting", path);
	out[n] = '\0';
	if (strlen(out) != n)
		return why_set(why, -EBADMSG, "%s holds something else than text", path);
	return 0;
}

static int write_bytes(const struct apply_conf *conf, const char *path, const char *bytes, struct why *why)
{
	size_t n = strlen(bytes);

	if (!apply_path_ok(path))
		return refuse(path, why);
	int fd = open_below(conf->root, path, O_WRONLY | O_TRUNC);
	if (fd < 0)
		return why_set(why, fd, "cannot write %s: %s%s", path, strerror(-fd),
			       fd == -EACCES || fd == -EPERM || fd == -EROFS
				       ? " (numa apply and undo need root, outside of a container)"
				       : "");
	/* One write: the kernel takes a setting whole or not at all. */
	ssize_t put = write(fd, bytes, n);
	int err = put < 0 ? -errno : (size_t)put < n ? -EIO : 0;
	close(fd);
	return err ? why_set(why, err, "cannot write %s: %s", path, strerror(-err)) : 0;
}

int apply_file_write(const struct apply_conf *conf, const char *path, const char *value, struct why *why)
{
	char line[APPLY_VALUE + 1];

	snprintf(line, sizeof(line), "%s\n", value);
	return write_bytes(conf, path, line, why);
}

/* The word in brackets, "" when there is none. */
static void chosen(const char *content, char out[APPLY_VALUE])
{
	const char *from = strchr(content, '['), *to = from ? strchr(from, ']') : NULL;

	snprintf(out, APPLY_VALUE, "%.*s", to ? (int)(to - from - 1) : 0, to ? from + 1 : "");
}

int apply_file_restore(const struct apply_conf *conf, const char *path, const char *content, struct why *why)
{
	char word[APPLY_VALUE];

	chosen(content, word);
	return *word ? apply_file_write(conf, path, word, why) : write_bytes(conf, path, content, why);
}

static const char *skip_space(const char *s)
{
	return s + strspn(s, " \t\n");
}

bool apply_value_is(const char *content, const char *value)
{
	char word[APPLY_VALUE];

	chosen(content, word);
	const char *a = skip_space(*word ? word : content), *b = skip_space(value);
	while (*a && *b) {
		size_t n = strcspn(a, " \t\n"), m = strcspn(b, " \t\n");
		if (n != m || memcmp(a, b, n) != 0)
			return false;
		a = skip_space(a + n);
		b = skip_space(b + m);
	}
	return !*a && !*b;
}
