#include "transport/shm/shm_int.h"

#include "daemon/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Writes "/component" to `path`. The rule is stricter than the kernel's: a name is one component of /dev/shm, or nothing. */
static int name_to_path(struct slice name, char path[NAME_MAX + 2], struct why *why)
{
	const char *p = name.p;
	size_t n = name.n;
	if (n > 0 && p[0] == '/') {
		p++;
		n--;
	}
	if (n == 0 || n > NAME_MAX)
		return why_set(why, -EINVAL, "shared memory name of %zu bytes (1 to %d allowed)", n, NAME_MAX);
	if (memchr(p, '/', n) != NULL || memchr(p, '\0', n) != NULL)
		return why_set(why, -EINVAL, "shared memory name '%.*s' contains '/' or NUL", (int)n, p);
	if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
		return why_set(why, -EINVAL, "shared memory name '%.*s' is a directory", (int)n, p);
	path[0] = '/';
	memcpy(path + 1, p, n);
	path[n + 1] = '\0';
	return 0;
}

static int open_error(const char *path, int err, struct why *why)
{
	if (err == EISDIR || err == ELOOP || err == ENXIO)
		return why_set(why, -EINVAL, "shared memory %s is no regular file", path);
	if (err == EPERM)
		err = EACCES;
	return why_set(why, -err, "cannot open shared memory %s: %s", path, strerror(err));
}

/* Opens and checks; the descriptor, or a negative errno. */
static int open_checked(const char *path, uint64_t bytes, struct stat *st, struct why *why)
{
	/* O_NONBLOCK: a FIFO of that name must not stop us. */
	int fd = shm_open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
	if (fd < 0)
		return open_error(path, errno, why);
	int rc = 0;
	if (fstat(fd, st) != 0)
		rc = why_set(why, -errno, "cannot stat shared memory %s: %s", path, strerror(errno));
	else if (!S_ISREG(st->st_mode))
		rc = why_set(why, -EINVAL, "shared memory %s is no regular file", path);
	else if (st->st_size < 0 || (uint64_t)st->st_size < bytes)
		rc = why_set(why, -ERANGE, "shared memory %s has %lld bytes, the client claims %llu", path,
			     (long long)st->st_size, (unsigned long long)bytes);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

/* Whole pages of the file system the object lives in: a hugetlbfs file may be bind-mounted below /dev/shm. */
static uint64_t span_of(int fd, uint64_t bytes)
{
	struct statfs fs;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	if (fstatfs(fd, &fs) == 0 && (unsigned long)fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0)
		page = (uint64_t)fs.f_bsize;
	return (bytes + page - 1) / page * page;
}

/* A mapping that already serves: same object, long enough, and never faulted (whoever registers again after the object
 * was cut and restored gets a fresh one). */
static struct shmx_map *find_same(const struct stat *st, uint64_t bytes)
{
	uint32_t used = atomic_load(&shm_table.used);
	for (uint32_t i = 0; i < used; i++) {
		struct shmx_map *m = &shm_table.slot[i];
		if (m->owned && m->dev == st->st_dev && m->ino == st->st_ino && m->bytes >= bytes &&
		    !atomic_load(&m->faulted))
			return m;
	}
	return NULL;
}

static int map_new(int fd, const struct stat *st, uint64_t bytes, struct shmx_map **out, struct why *why)
{
	uint64_t span = span_of(fd, bytes);
	void *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return why_set(why, errno == EACCES ? -EACCES : -ENOMEM, "cannot map %llu bytes of shared memory: %s",
			       (unsigned long long)bytes, strerror(errno));
	struct shmx_map *m = shm_slot_take(p, span);
	if (m == NULL) {
		munmap(p, span);
		return why_set(why, -EMFILE, "more than %d shared memory mappings", SHMX_MAX_MAPPINGS);
	}
	m->bytes = bytes;
	m->dev = st->st_dev;
	m->ino = st->st_ino;
	m->owned = true;
	*out = m;
	return 0;
}

int shmx_open(struct slice name, uint64_t bytes, struct shmx_map **out, struct why *why)
{
	char path[NAME_MAX + 2];
	struct stat st = {0};
	int rc = name_to_path(name, path, why);
	if (rc < 0)
		return rc;
	if (bytes == 0 || bytes > (uint64_t)INT64_MAX)
		return why_set(why, -EINVAL, "shared memory %s: a size of %llu bytes makes no sense", path,
			       (unsigned long long)bytes);
	int fd = open_checked(path, bytes, &st, why);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&shm_table.mutex);
	struct shmx_map *m = find_same(&st, bytes);
	rc = m != NULL ? 0 : map_new(fd, &st, bytes, &m, why);
	if (rc == 0) {
		m->refs++;
		*out = m;
	}
	pthread_mutex_unlock(&shm_table.mutex);
	close(fd);
	return rc;
}

int shmx_guard(void *base, uint64_t bytes, struct shmx_map **out, struct why *why)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	if (base == NULL || bytes == 0 || bytes > (uint64_t)INT64_MAX || (uintptr_t)base % page != 0)
		return why_set(why, -EINVAL, "%llu bytes at %p are no mapping to guard", (unsigned long long)bytes,
			       base);
	pthread_mutex_lock(&shm_table.mutex);
	struct shmx_map *m = shm_slot_take(base, (bytes + page - 1) / page * page);
	if (m != NULL) {
		m->bytes = bytes;
		m->owned = false;
		m->refs = 1;
		*out = m;
	}
	pthread_mutex_unlock(&shm_table.mutex);
	if (m == NULL)
		return why_set(why, -EMFILE, "more than %d shared memory mappings", SHMX_MAX_MAPPINGS);
	return 0;
}

void shmx_put(struct shmx_map *m)
{
	if (m == NULL)
		return;
	pthread_mutex_lock(&shm_table.mutex);
	check(m->refs > 0);
	if (--m->refs == 0) {
		void *start = (void *)atomic_load(&m->start);
		uint64_t span = atomic_load(&m->span);
		/* Out of the table first: the addresses may be somebody else's the moment they are unmapped. */
		shm_slot_free(m);
		if (m->owned)
			munmap(start, span);
		m->owned = false;
	}
	pthread_mutex_unlock(&shm_table.mutex);
}

uint8_t *shmx_base(const struct shmx_map *m)
{
	return (uint8_t *)atomic_load_explicit(&m->start, memory_order_relaxed);
}

uint64_t shmx_bytes(const struct shmx_map *m)
{
	return m->bytes;
}

bool shmx_faulted(const struct shmx_map *m)
{
	return atomic_load(&m->faulted);
}
