/* arena_huge.c - files of huge pages: is there enough, where can one be opened, and which limit stopped us.
 *
 * Normal path: count free pages of each node and room in our cgroup; then a file on a hugetlbfs mount of that page size, or on a
 * mount of our own, or (nobody can open that by name) a memfd.
 * The kernel reserves huge pages for the whole machine, never for a node, so a mapping succeeds where a node is short; the counts
 * here give the words, and populating before use keeps it an error.
 * Failure paths: every shortage names node, page size, wanted, free, reserved, the limiting file and the command that helps.
 */
#include "numa/arena_int.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGETLBFS_MAGIC 0x958458f6 /* linux/magic.h */
#define OWN_DIR         "/run"
#define OWN_PREFIX      "lmcache-appliance-huge-"
#define SIZE_SHIFT      26 /* MFD_HUGE_*: log2 of the page size from this bit on */

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif

const char *arena_size_text(uint64_t bytes, char buf[24])
{
	if (bytes >> 30 && bytes % (1ull << 30) == 0)
		snprintf(buf, 24, "%llu GiB", (unsigned long long)(bytes >> 30));
	else if (bytes >> 30)
		snprintf(buf, 24, "%.2f GiB", (double)bytes / (1 << 30));
	else if (bytes >> 20)
		snprintf(buf, 24, "%llu MiB", (unsigned long long)(bytes >> 20));
	else
		snprintf(buf, 24, "%llu KiB", (unsigned long long)(bytes >> 10));
	return buf;
}

/* ---- what there is ---------------------------------------------------------------------------------------------- */

#define PATH 128

/* A file of one page size, of a node or (unknown) of the whole machine. */
static void huge_path(node_id node, uint64_t page, const char *file, char path[PATH])
{
	if (node_known(node))
		snprintf(path, PATH, "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/%s", node.os,
			 (unsigned long long)(page >> 10), file);
	else
		snprintf(path, PATH, "/sys/kernel/mm/hugepages/hugepages-%llukB/%s", (unsigned long long)(page >> 10),
			 file);
}

static uint64_t huge_count(node_id node, uint64_t page, const char *file)
{
	char path[PATH];
	uint64_t n = 0;

	huge_path(node, page, file, path);
	return arena_read_u64(path, &n) ? n : 0;
}

/* Pages the kernel may make beyond those that were set aside. Not for bound ranges: it makes them when the file is mapped, on any
 * node, populating then makes others on the right one, and the first stay in the pool for nobody. */
static uint64_t huge_overcommit(const struct arena *a)
{
	uint64_t max = huge_count(NODE_UNKNOWN, a->page_bytes, "nr_overcommit_hugepages");
	uint64_t used = huge_count(NODE_UNKNOWN, a->page_bytes, "surplus_hugepages");

	for (uint32_t i = 0; i < a->nranges; i++) {
		if (a->bindable[i])
			return 0;
	}
	return max > used ? max - used : 0;
}

static bool counts(const struct arena *a, uint32_t i, node_id node)
{
	return !node_known(node) || (a->bindable[i] && node_same(a->range[i].node, node));
}

/* Of the ranges of this node, or of all when it is unknown. */
static uint64_t pages_wanted(const struct arena *a, node_id node)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < a->nranges; i++)
		sum += counts(a, i, node) ? a->range[i].bytes / a->page_bytes : 0;
	return sum;
}

static int shortage(node_id node, uint64_t page, uint64_t want, uint64_t avail, struct why *why)
{
	uint64_t total = huge_count(node, page, "nr_hugepages");
	uint64_t resv = huge_count(NODE_UNKNOWN, page, "resv_hugepages");
	char size[24], name[24] = "this machine", limit[PATH], fix[PATH], boot[80] = "";

	if (node_known(node))
		snprintf(name, sizeof(name), "node %d", node.os);
	huge_path(node, page, "free_hugepages", limit);
	huge_path(node, page, "nr_hugepages", fix);
	uint64_t enough = total + (want > avail ? want - avail : 0);
	if (page >> 30 && node_known(node))
		snprintf(boot, sizeof(boot), ", or boot with hugepagesz=1G hugepages=%d:%llu", node.os,
			 (unsigned long long)enough);
	return why_set(why, -ENOSPC,
		       "%s: %llu pages of %s wanted, %llu free of %llu, %llu reserved: %s; more: echo %llu > %s%s",
		       name, (unsigned long long)want, arena_size_text(page, size), (unsigned long long)avail,
		       (unsigned long long)total, (unsigned long long)resv, limit, (unsigned long long)enough, fix,
		       boot);
}

/* ---- our cgroup --------------------------------------------------------------------------------------------------- */

static const struct mach_hugetlb_limit *limit_of(const struct arena *a)
{
	for (uint32_t k = 0; a->limits && k < a->limits->nhugetlb; k++) {
		if (a->limits->hugetlb[k].page_bytes == a->page_bytes)
			return &a->limits->hugetlb[k];
	}
	return NULL;
}

/* The counter beside a limit: "x.max" has "x.current", "x.limit_in_bytes" has "x.usage_in_bytes". */
static uint64_t used_beside(const char *limit_file, uint64_t otherwise)
{
	static const char *const pair[][2] = {{".max", ".current"}, {".limit_in_bytes", ".usage_in_bytes"}};
	size_t n = strlen(limit_file);
	char path[256];
	uint64_t used;

	for (size_t k = 0; k < 2; k++) {
		size_t tail = strlen(pair[k][0]);

		if (n <= tail || strcmp(limit_file + n - tail, pair[k][0]) != 0)
			continue;
		snprintf(path, sizeof(path), "%.*s%s", (int)(n - tail), limit_file, pair[k][1]);
		if (arena_read_u64(path, &used))
			return used;
	}
	return otherwise;
}

static int check_limit(const struct arena *a, uint64_t max, const char *where, uint64_t used, struct why *why)
{
	uint64_t want = pages_wanted(a, NODE_UNKNOWN), room;
	char size[24];

	if (max == UINT64_MAX || !where[0])
		return 0;
	used = used_beside(where, used);
	room = max > used ? (max - used) / a->page_bytes : 0;
	if (room >= want)
		return 0;
	return why_set(why, -ENOSPC,
		       "our cgroup: %llu pages of %s wanted, %llu allowed (%llu in use): %s; more: echo %llu > %s "
		       "(Kubernetes: the hugepages limit of the pod)",
		       (unsigned long long)want, arena_size_text(a->page_bytes, size), (unsigned long long)room,
		       (unsigned long long)(used / a->page_bytes), where,
		       (unsigned long long)(used + want * a->page_bytes), where);
}

static int check_cgroup(const struct arena *a, struct why *why)
{
	const struct mach_hugetlb_limit *l = limit_of(a);
	int err;

	if (!l)
		return 0;
	err = check_limit(a, l->max, l->where, l->used, why);
	return err ? err : check_limit(a, l->rsvd_max, l->rsvd_where, l->rsvd_used, why);
}

int arena_huge_check(const struct arena *a, struct why *why)
{
	uint64_t page = a->page_bytes, extra = huge_overcommit(a);
	char path[PATH], size[24];

	huge_path(NODE_UNKNOWN, page, "nr_hugepages", path);
	if (access(path, F_OK) != 0)
		return why_set(why, -EOPNOTSUPP, "this machine has no huge pages of %s: %s does not exist",
			       arena_size_text(page, size), path);
	for (uint32_t i = 0; i < a->nranges; i++) {
		node_id node = a->range[i].node;
		uint64_t want = pages_wanted(a, node), avail = huge_count(node, page, "free_hugepages");

		if (a->bindable[i] && want > avail)
			return shortage(node, page, want, avail, why);
	}
	uint64_t avail = huge_count(NODE_UNKNOWN, page, "free_hugepages");
	uint64_t resv = huge_count(NODE_UNKNOWN, page, "resv_hugepages");
	uint64_t want = pages_wanted(a, NODE_UNKNOWN);
	avail = avail > resv ? avail - resv : 0;
	if (want > avail + extra)
		return shortage(NODE_UNKNOWN, page, want, avail, why);
	return check_cgroup(a, why);
}

/* A mapping is refused as a whole; the words are about the node that lacks pages, if one does. */
static node_id node_in_question(const struct arena *a, uint32_t i)
{
	if (i < a->nranges)
		return a->range[i].bound ? a->range[i].node : NODE_UNKNOWN;
	for (uint32_t k = 0; k < a->nranges; k++) {
		node_id node = a->range[k].node;

		if (a->bindable[k] && pages_wanted(a, node) > huge_count(node, a->page_bytes, "free_hugepages"))
			return node;
	}
	return NODE_UNKNOWN;
}

/* The pages we got count as used now, so what is free plus ours was there. When mapping fails none is ours yet, and what is
 * reserved is not free. */
int arena_huge_why(const struct arena *a, uint32_t i, int err, struct why *why)
{
	bool mapping = i >= a->nranges;
	node_id node = node_in_question(a, i);
	uint64_t want = pages_wanted(a, node), avail = huge_count(node, a->page_bytes, "free_hugepages"), ours = 0;
	uint64_t resv = mapping && !node_known(node) ? huge_count(node, a->page_bytes, "resv_hugepages") : 0;
	const struct mach_hugetlb_limit *l = limit_of(a);
	char size[24], name[24] = "this machine", path[PATH];

	if (err != -ENOSPC && err != -ENOMEM)
		return why_set(why, err, "cannot populate pages of %s: %s", arena_size_text(a->page_bytes, size),
			       strerror(-err));
	avail = avail > resv ? avail - resv : 0;
	for (uint32_t k = 0; !mapping && k < a->nranges; k++)
		ours += counts(a, k, node) ? arena_committed(a, k) / a->page_bytes : 0;
	if (avail == 0 || avail + ours < want)
		return shortage(node, a->page_bytes, want, avail + ours, why);
	if (node_known(node))
		snprintf(name, sizeof(name), "node %d", node.os);
	huge_path(node, a->page_bytes, "free_hugepages", path);
	const char *kind = mapping ? " (hugetlb.*.rsvd.max)" : " (hugetlb.*.max)", *where = "";
	if (l)
		where = mapping ? l->rsvd_where : l->where;
	return why_set(
		why, err,
		"%s: %llu pages of %s wanted, %llu free (%s), yet the kernel gives no more after %llu: a hugetlb "
		"limit of our cgroup%s%s; raise it, or lower --l1-size-gb",
		name, (unsigned long long)want, arena_size_text(a->page_bytes, size), (unsigned long long)avail, path,
		(unsigned long long)ours, where[0] ? ": " : kind, where);
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

static bool is_hugetlbfs(const char *dir, uint64_t page, uint64_t bytes)
{
	struct statfs fs;

	if (statfs(dir, &fs) != 0 || (uint32_t)fs.f_type != HUGETLBFS_MAGIC || (uint64_t)fs.f_bsize != page)
		return false;
	/* 0 or -1: a mount without a size limit. */
	return fs.f_blocks == 0 || (int64_t)fs.f_blocks < 0 || (uint64_t)fs.f_bavail >= bytes / page;
}

static int open_in(struct arena *a, const char *dir)
{
	int n = snprintf(a->huge_path, sizeof(a->huge_path), "%s/%s", dir, a->name), fd;

	if (n < 0 || (size_t)n >= sizeof(a->huge_path)) {
		a->huge_path[0] = '\0';
		return -ENAMETOOLONG;
	}
	arena_name_reap(a->huge_path, false);
	fd = open(a->huge_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		a->huge_path[0] = '\0';
		return -errno;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fchmod(fd, POOL_MODE) != 0 || !arena_name_leads_to(a->huge_path, fd)) {
		close(fd);
		a->huge_path[0] = '\0';
		return -EBUSY;
	}
	a->fd = fd;
	return 0;
}

/* The first mount of this page size where we may write. -ENOENT: none. */
static int open_on_mount(struct arena *a)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent m;
	char buf[4096];
	int err = -ENOENT;

	while (f && err && getmntent_r(f, &m, buf, sizeof(buf))) {
		struct stat st;

		/* Files that stand below /dev/shm are pools with a name, not places for files; the mounts of other daemons go
		 * away under us. */
		if (strcmp(m.mnt_type, "hugetlbfs") == 0 && stat(m.mnt_dir, &st) == 0 && S_ISDIR(st.st_mode) &&
		    strncmp(m.mnt_dir, OWN_DIR "/" OWN_PREFIX, strlen(OWN_DIR "/" OWN_PREFIX)) != 0 &&
		    is_hugetlbfs(m.mnt_dir, a->page_bytes, a->bytes) && open_in(a, m.mnt_dir) == 0)
			err = 0;
	}
	if (f)
		endmntent(f);
	return err;
}

static void close_own_mount(struct arena *a)
{
	if (!a->huge_dir[0])
		return;
	umount2(a->huge_dir, MNT_DETACH | UMOUNT_NOFOLLOW);
	rmdir(a->huge_dir);
	a->huge_dir[0] = '\0';
	if (a->huge_dir_fd >= 0)
		close(a->huge_dir_fd);
	a->huge_dir_fd = -1;
}

/* Its lock tells the next daemon that this mount is in use. It goes as soon as the file has its name. */
static int open_on_own_mount(struct arena *a)
{
	char options[48];
	int err;

	snprintf(a->huge_dir, sizeof(a->huge_dir), OWN_DIR "/" OWN_PREFIX "XXXXXX");
	if (!mkdtemp(a->huge_dir)) {
		a->huge_dir[0] = '\0';
		return -errno;
	}
	snprintf(options, sizeof(options), "pagesize=%lluK,mode=0700", (unsigned long long)(a->page_bytes >> 10));
	if (mount("lmcache-appliance", a->huge_dir, "hugetlbfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) != 0) {
		err = -errno;
		rmdir(a->huge_dir);
		a->huge_dir[0] = '\0';
		return err;
	}
	a->huge_dir_fd = open(a->huge_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (a->huge_dir_fd < 0 || flock(a->huge_dir_fd, LOCK_EX | LOCK_NB) != 0 ||
	    !is_hugetlbfs(a->huge_dir, a->page_bytes, a->bytes))
		err = -EBUSY;
	else
		err = open_in(a, a->huge_dir);
	if (err)
		close_own_mount(a);
	return err;
}

static int open_memfd(struct arena *a, struct why *why)
{
	unsigned log2 = (unsigned)__builtin_ctzll(a->page_bytes);
	char size[24];

	a->fd = memfd_create("lmcache-l1", MFD_CLOEXEC | MFD_HUGETLB | log2 << SIZE_SHIFT);
	if (a->fd >= 0)
		return 0;
	return why_set(why, -errno, "cannot open a file of huge pages of %s: %s", arena_size_text(a->page_bytes, size),
		       strerror(errno));
}

int arena_huge_open(struct arena *a, struct why *why)
{
	char size[24];
	int err = -ENOENT;

	a->nameless[0] = '\0';
	if (!a->name[0])
		return open_memfd(a, why);
	if (open_on_mount(a) == 0 || (err = open_on_own_mount(a)) == 0)
		return 0;
	snprintf(a->nameless, sizeof(a->nameless),
		 "no hugetlbfs mount of %s pages is writable and one of our own failed: %s",
		 arena_size_text(a->page_bytes, size), strerror(-err));
	return open_memfd(a, why);
}

void arena_huge_unlink(struct arena *a)
{
	if (a->huge_path[0])
		unlink(a->huge_path);
	a->huge_path[0] = '\0';
	close_own_mount(a);
}

/* ---- what killed daemons left -------------------------------------------------------------------------------------- */

static void reap_file(const char *path)
{
	arena_name_reap(path, false);
}

static void reap_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct statfs fs;

	if (fd < 0)
		return;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC &&
		    umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
			log_info("removed the mount %s, left behind by a daemon that was killed", path);
		rmdir(path);
	}
	close(fd);
}

void arena_huge_reap(void)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent m;
	char buf[4096];

	while (f && getmntent_r(f, &m, buf, sizeof(buf))) {
		if (strcmp(m.mnt_type, "hugetlbfs") == 0)
			arena_name_scan(m.mnt_dir, POOL_PREFIX, reap_file);
	}
	if (f)
		endmntent(f);
	arena_name_scan(OWN_DIR, OWN_PREFIX, reap_dir);
}
