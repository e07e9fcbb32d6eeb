/* arena_name.c - the arena's name below /dev/shm: taken, given to a file of huge pages, released, cleaned of dead owners.
 *
 * A living owner holds a flock on what its name leads to, and files of ours carry POOL_MODE. So what has the mark and lacks the lock
 * belongs to a daemon that was killed. A hugetlbfs file gets its name by a bind mount over an empty file (shm_open refuses
 * symbolic links), and its own name goes then: memory lives no longer than that mount and its users.
 * Failure paths: a name in use (-EBUSY), /dev/shm not writable, a bind mount not permitted (then there is no name).
 */
#include "numa/arena_int.h"

#include "daemon/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGETLBFS_MAGIC 0x958458f6 /* linux/magic.h */
#define CLAIM_ATTEMPTS  16         /* each one lost to a daemon that starts at the same moment */
#define SHM_DIR         "/dev/shm"

/* Between opening a file and locking it others may have removed it: then its name is not ours to use or to remove. */
bool arena_name_leads_to(const char *path, int fd)
{
	struct stat there, ours;

	return stat(path, &there) == 0 && fstat(fd, &ours) == 0 && there.st_dev == ours.st_dev &&
	       there.st_ino == ours.st_ino;
}

static bool on_hugetlbfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC;
}

static bool is_marked(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 07777) == POOL_MODE;
}

/* ---- dead owners --------------------------------------------------------------------------------------------------- */

/* True when something went: below a mount there may be the file that held its place. */
static bool reap_once(const char *path, bool in_shm)
{
	int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	bool gone = false;

	if (fd < 0)
		return false;
	if (is_marked(fd) && flock(fd, LOCK_EX | LOCK_NB) == 0 && arena_name_leads_to(path, fd)) {
		if (in_shm && on_hugetlbfs(fd))
			gone = umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
		else
			gone = unlink(path) == 0;
	}
	close(fd);
	return gone;
}

/* A daemon that was killed leaves its pool, gigabytes of memory nobody can reach. Reference servers use the same names without a
 * lock, and their pids mean nothing in another pid namespace, so anything unmarked stays. */
void arena_name_reap(const char *path, bool in_shm)
{
	bool gone = reap_once(path, in_shm);

	while (gone && reap_once(path, in_shm))
		;
	if (gone)
		log_info("removed %s, left behind by a daemon that was killed", path);
}

void arena_name_scan(const char *dir, const char *prefix, void (*each)(const char *path))
{
	DIR *d = opendir(dir);
	struct dirent *de;
	char path[512];

	while (d && (de = readdir(d))) {
		int n = snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);

		if (strncmp(de->d_name, prefix, strlen(prefix)) == 0 && n > 0 && (size_t)n < sizeof(path))
			each(path);
	}
	if (d)
		closedir(d);
}

static void reap_shm(const char *path)
{
	arena_name_reap(path, true);
}

/* ---- taking a name --------------------------------------------------------------------------------------------------- */

/* What the name leads to has no owner: it goes. 0 = try again. */
static int succeed(const char *path, int fd, struct why *why)
{
	if (!arena_name_leads_to(path, fd))
		return 0;
	if (!on_hugetlbfs(fd)) {
		unlink(path);
		return 0;
	}
	if (!is_marked(fd))
		return why_set(why, -EBUSY, "%s is somebody's mount; choose another --shm-name", path);
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
		return why_set(why, -errno, "%s is the mount of a daemon that was killed: %s; as root: umount %s", path,
			       strerror(errno), path);
	log_info("removed the mount %s, left behind by a daemon that was killed", path);
	return 0;
}

/* One attempt: 1 = taken, 0 = try again, negative = cannot be had. */
static int claim_once(struct arena *a, const char *path, struct why *why)
{
	char slashed[264];
	int fd, err;

	snprintf(slashed, sizeof(slashed), "/%s", a->name);
	fd = shm_open(slashed, O_RDWR | O_CREAT | O_EXCL, 0600);
	bool created = fd >= 0;
	if (!created && errno == EEXIST) {
		fd = shm_open(slashed, O_RDWR, 0);
		if (fd < 0 && errno == ENOENT)
			return 0;
	}
	if (fd < 0)
		return why_set(why, -errno, "cannot create %s: %s (is /dev/shm mounted and writable?)", path,
			       strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		close(fd);
		return why_set(why, -EBUSY, "%s is in use by another process; choose another --shm-name", path);
	}
	if (created && arena_name_leads_to(path, fd)) {
		a->fd = fd;
		a->claimed = true;
		fchmod(fd, POOL_MODE);
		return 1;
	}
	err = succeed(path, fd, why);
	close(fd);
	return err;
}

static void path_of(const struct arena *a, char path[300])
{
	snprintf(path, 300, SHM_DIR "/%s", a->name);
}

int arena_name_claim(struct arena *a, const char *shm_name, struct why *why)
{
	char path[300];
	int got = 0;

	if (shm_name && shm_name[0] == '\0')
		return 0;
	if (shm_name && (strchr(shm_name + 1, '/') || strlen(shm_name) > 200))
		return why_set(why, -EINVAL, "--shm-name must be one path component of at most 200 bytes");
	if (shm_name)
		snprintf(a->name, sizeof(a->name), "%s", shm_name + (shm_name[0] == '/'));
	else
		snprintf(a->name, sizeof(a->name), POOL_PREFIX "%d", (int)getpid());
	arena_name_scan(SHM_DIR, POOL_PREFIX, reap_shm);
	path_of(a, path);
	for (int attempt = 0; !got && attempt < CLAIM_ATTEMPTS; attempt++)
		got = claim_once(a, path, why);
	if (!got)
		return why_set(why, -EEXIST, "%s keeps coming back; choose another --shm-name", path);
	return got < 0 ? got : 0;
}

/* ---- giving and removing it ------------------------------------------------------------------------------------------- */

static void drop(struct arena *a)
{
	char path[300];

	path_of(a, path);
	if (a->mounted && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
		log_warn("cannot unmount %s: %s; as root: umount %s", path, strerror(errno), path);
	a->mounted = false;
	if (a->claimed)
		unlink(path);
	a->claimed = false;
	if (a->name_fd >= 0)
		close(a->name_fd);
	a->name_fd = -1;
}

void arena_name_offer(struct arena *a)
{
	char path[300], reason[512];

	if (a->backing != BACK_HUGETLB || !a->name[0])
		return;
	path_of(a, path);
	snprintf(reason, sizeof(reason), "%s", a->nameless);
	if (a->huge_path[0]) {
		a->mounted = mount(a->huge_path, path, NULL, MS_BIND, NULL) == 0;
		snprintf(reason, sizeof(reason), "mount --bind onto %s: %s%s", path, strerror(errno),
			 errno == EPERM ? " (CAP_SYS_ADMIN allows it)" : "");
	}
	arena_huge_unlink(a);
	if (a->mounted)
		return;
	log_warn("L1: engines cannot open huge pages by name, shared-memory slots are off: %s", reason);
	drop(a);
	a->name[0] = '\0';
}

void arena_name_release(struct arena *a)
{
	drop(a);
}
