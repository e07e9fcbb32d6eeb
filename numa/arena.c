/* arena.c - one shared-memory object, mapped once, committed step by step.
 *
 * Normal path: create the object under a name nobody else holds, size it, map it, and populate it with
 * MADV_POPULATE_WRITE. That call reports a full /dev/shm as an error, where a plain touch would raise SIGBUS.
 * Failure paths: a name in use by a living daemon (-EBUSY), no space (-ENOSPC, the text says what to change).
 */
#include "numa/arena.h"

#include "daemon/base/check.h"
#include "daemon/base/lock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* linux/mman.h, since 5.14 */
#endif

#define POOL_MODE      01600              /* the sticky bit means nothing on a file: our mark */
#define POOL_PREFIX    "lmcache_l1_pool_" /* upstream's name, followed by the pid */
#define RANGE_ALIGN    (2ull << 20)       /* a huge page never straddles two nodes */
#define COMMIT_STEP    (16ull << 20)      /* a request that must wait for one step waits a few milliseconds */
#define MPOL_BIND_MODE 2                  /* linux/mempolicy.h; no libnuma for one call */

struct arena {
	uint8_t *base;
	uint64_t bytes;
	int fd; /* -1 when anonymous; keeps the flock that says the name is in use */
	char name[256];
	uint32_t nranges;
	struct arena_range range[ARENA_MAX_RANGES];
	_Atomic uint64_t committed[ARENA_MAX_RANGES];
	struct lk grow;
};

static int lay_out(struct arena *a, const struct arena_conf *conf, struct why *why)
{
	uint32_t n = conf->nranges ? conf->nranges : 1;

	if (n > ARENA_MAX_RANGES)
		return why_set(why, -EINVAL, "arena: %u node ranges, at most %d", n, ARENA_MAX_RANGES);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t want = conf->nranges ? conf->range[i].bytes : conf->bytes;
		struct arena_range *r = &a->range[i];

		r->node = conf->nranges ? conf->range[i].node : NODE_UNKNOWN;
		r->start = a->bytes;
		r->bytes = want / RANGE_ALIGN * RANGE_ALIGN;
		if (r->bytes == 0)
			return why_set(why, -EINVAL, "arena: range %u of %llu bytes is below %llu", i,
				       (unsigned long long)want, RANGE_ALIGN);
		a->bytes += r->bytes;
	}
	a->nranges = n;
	return 0;
}

/* Between opening a file and locking it others may have removed it: then its name is not ours to use or to remove. */
static bool is_named(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

#define CLAIM_ATTEMPTS 16 /* each one lost to a daemon that starts at the same moment */

/* A name left by a dead daemon is taken over; one whose owner still holds the flock is refused. */
static int claim_name(struct arena *a, struct why *why)
{
	char path[300];

	snprintf(path, sizeof(path), "/%s", a->name);
	for (int attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++) {
		int fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		bool created = fd >= 0;

		if (!created && errno == EEXIST) {
			fd = shm_open(path, O_RDWR, 0);
			if (fd < 0 && errno == ENOENT)
				continue;
		}
		if (fd < 0)
			return why_set(why, -errno, "cannot create /dev/shm%s: %s (is /dev/shm mounted and writable?)",
				       path, strerror(errno));
		if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
			close(fd);
			return why_set(why, -EBUSY,
				       "/dev/shm%s is in use by another process; choose another --shm-name", path);
		}
		if (created && is_named(fd)) {
			a->fd = fd;
			fchmod(fd, POOL_MODE);
			return 0;
		}
		if (is_named(fd))
			shm_unlink(path);
		close(fd);
	}
	return why_set(why, -EEXIST, "/dev/shm%s keeps coming back; choose another --shm-name", path);
}

/* A daemon that was killed leaves its pool, gigabytes of memory nobody can reach. Ours has POOL_MODE and holds a flock while it
 * lives: what has the one and lacks the other belongs to nobody. Reference servers use the same names without a lock, and their
 * pids mean nothing in another pid namespace, so anything unmarked stays. */
static void reap_pool(const char *name)
{
	char path[300];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "/%s", name);
	fd = shm_open(path, O_RDWR, 0);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && (st.st_mode & 07777) == POOL_MODE && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
	    is_named(fd) && shm_unlink(path) == 0)
		log_info("removed /dev/shm%s, left behind by a daemon that was killed", path);
	close(fd);
}

static void reap_dead_pools(void)
{
	DIR *dir = opendir("/dev/shm");
	struct dirent *de;

	while (dir && (de = readdir(dir))) {
		if (strncmp(de->d_name, POOL_PREFIX, strlen(POOL_PREFIX)) == 0)
			reap_pool(de->d_name);
	}
	if (dir)
		closedir(dir);
}

static int check_space(struct arena *a, struct why *why)
{
	struct statvfs fs;

	if (fstatvfs(a->fd, &fs) != 0 || fs.f_blocks == 0)
		return 0; /* unlimited tmpfs or no answer: commit will tell */
	uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (free_bytes >= a->bytes)
		return 0;
	return why_set(why, -ENOSPC,
		       "L1 wants %.2f GiB but /dev/shm has %.2f GiB free; lower --l1-size-gb, or grow it: mount -o "
		       "remount,size=%lluG /dev/shm (containers: --shm-size or --ipc host)",
		       (double)a->bytes / (1 << 30), (double)free_bytes / (1 << 30),
		       (unsigned long long)((a->bytes >> 30) + 2));
}

static int open_backing(struct arena *a, const struct arena_conf *conf, struct why *why)
{
	int err;

	a->fd = -1;
	if (conf->shm_name && conf->shm_name[0] == '\0')
		return 0;
	if (conf->shm_name && (strchr(conf->shm_name + 1, '/') || strlen(conf->shm_name) > 200))
		return why_set(why, -EINVAL, "--shm-name must be one path component of at most 200 bytes");
	if (conf->shm_name)
		snprintf(a->name, sizeof(a->name), "%s", conf->shm_name + (conf->shm_name[0] == '/'));
	else
		snprintf(a->name, sizeof(a->name), POOL_PREFIX "%d", (int)getpid());
	reap_dead_pools();
	err = claim_name(a, why);
	if (err)
		return err;
	err = check_space(a, why);
	if (err)
		return err;
	if (ftruncate(a->fd, (off_t)a->bytes) != 0)
		return why_set(why, -errno, "cannot size /dev/shm/%s: %s", a->name, strerror(errno));
	return 0;
}

/* Best effort here: which node a page really is on is proven by the planner, not by this call. */
static void bind_ranges(struct arena *a)
{
	for (uint32_t i = 0; a->nranges > 1 && i < a->nranges; i++) {
		unsigned long mask[16] = {0};
		int node = a->range[i].node.os;

		if (node < 0 || node >= (int)(sizeof(mask) * 8))
			continue;
		mask[node / 64] = 1ul << (node % 64);
		syscall(SYS_mbind, a->base + a->range[i].start, a->range[i].bytes, MPOL_BIND_MODE, mask,
			sizeof(mask) * 8, 0);
	}
}

static int map_all(struct arena *a, struct why *why)
{
	int flags = a->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	void *p = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, a->fd, 0);

	if (p == MAP_FAILED)
		return why_set(why, -errno, "cannot map %.2f GiB for L1: %s", (double)a->bytes / (1 << 30),
			       strerror(errno));
	a->base = p;
	madvise(p, a->bytes, MADV_HUGEPAGE);
	madvise(p, a->bytes, MADV_DONTDUMP);
	bind_ranges(a);
	return 0;
}

int arena_create(const struct arena_conf *conf, struct arena **out, struct why *why)
{
	struct arena *a = mem_calloc(1, sizeof(*a));
	uint64_t first;
	int err;

	if (!a)
		return why_set(why, -ENOMEM, "arena: out of memory");
	a->fd = -1;
	lk_init(&a->grow, LK_ARENA);
	err = lay_out(a, conf, why);
	if (!err)
		err = open_backing(a, conf, why);
	if (!err)
		err = map_all(a, why);
	first = conf->lazy ? conf->init_bytes : a->bytes;
	for (uint32_t i = 0; !err && i < a->nranges; i++) {
		uint64_t share = (uint64_t)((unsigned __int128)first * a->range[i].bytes / a->bytes);

		err = arena_commit(a, i, share < a->range[i].bytes ? share : a->range[i].bytes);
		if (err)
			why_set(why, err, "cannot populate L1 memory: %s", strerror(-err));
	}
	if (err) {
		arena_destroy(a);
		return err;
	}
	*out = a;
	return 0;
}

void arena_destroy(struct arena *a)
{
	char path[300];

	if (!a)
		return;
	if (a->base)
		munmap(a->base, a->bytes);
	if (a->fd >= 0) {
		snprintf(path, sizeof(path), "/%s", a->name);
		shm_unlink(path);
		close(a->fd);
	}
	lk_destroy(&a->grow);
	mem_free(a);
}

uint8_t *arena_base(const struct arena *a)
{
	return a->base;
}

uint64_t arena_bytes(const struct arena *a)
{
	return a->bytes;
}

const char *arena_shm_name(const struct arena *a)
{
	return a->name;
}

uint32_t arena_nranges(const struct arena *a)
{
	return a->nranges;
}

const struct arena_range *arena_range(const struct arena *a, uint32_t i)
{
	check(i < a->nranges);
	return &a->range[i];
}

uint32_t arena_range_of(const struct arena *a, uint64_t offset)
{
	uint32_t i = 0;

	check(offset < a->bytes);
	while (offset >= a->range[i].start + a->range[i].bytes)
		i++;
	return i;
}

uint64_t arena_committed(const struct arena *a, uint32_t i)
{
	check(i < a->nranges);
	return atomic_load_explicit(&a->committed[i], memory_order_acquire);
}

/* Kernels before 5.14 have no MADV_POPULATE_WRITE: reserve the file space, after which touching cannot fail. */
static int populate_by_hand(struct arena *a, uint8_t *p, uint64_t n)
{
	if (a->fd >= 0 && fallocate(a->fd, 0, p - a->base, (off_t)n) != 0)
		return -errno;
	for (uint64_t i = 0; i < n; i += ARENA_PAGE)
		((volatile uint8_t *)p)[i] = 0;
	return 0;
}

static int populate(struct arena *a, uint8_t *p, uint64_t n)
{
	int err;

	do {
		err = madvise(p, n, MADV_POPULATE_WRITE) == 0 ? 0 : -errno;
	} while (err == -EINTR || err == -EAGAIN);
	if (err == -EINVAL)
		return populate_by_hand(a, p, n);
	return err == -EFAULT ? -ENOSPC : err; /* EFAULT = a touch would have raised SIGBUS */
}

int arena_commit(struct arena *a, uint32_t i, uint64_t upto)
{
	int err = 0;

	check(i < a->nranges && upto <= a->range[i].bytes);
	while (!err && arena_committed(a, i) < upto) {
		lk_lock(&a->grow);
		uint64_t have = arena_committed(a, i);
		uint64_t step = a->range[i].bytes - have < COMMIT_STEP ? a->range[i].bytes - have : COMMIT_STEP;
		if (have < upto) {
			err = populate(a, a->base + a->range[i].start + have, step);
			if (!err)
				atomic_store_explicit(&a->committed[i], have + step, memory_order_release);
		}
		lk_unlock(&a->grow);
	}
	return err;
}
