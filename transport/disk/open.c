#include "transport/disk/engines.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define THREADS      16u
#define BUSY_MS      1000u
#define BUSY_EACH_US 2000u
#define MOST_THREADS 256u

static int why_not_opened(const char *path, const struct disk_conf *c, int err, struct why *why)
{
	if (err == EBUSY)
		return why_set(why, -err, "%s is in use: mounted, or held by another process", path);
	if (err == EINVAL && !c->buffered)
		return why_set(why, -err, "%s: its file system has no direct IO (O_DIRECT)", path);
	return why_set(why, -err, "%s: %s", path, strerror(err));
}

void disk_close_fd(int fd)
{
	flock(fd, LOCK_UN);
	close(fd);
}

/* The descriptor, or -errno. */
static int open_and_lock(const char *path, int flags, bool lock)
{
	int fd = open(path, flags), err;

	if (fd < 0)
		return -errno;
	if (!lock || !flock(fd, LOCK_EX | LOCK_NB))
		return fd;
	err = errno == EWOULDBLOCK ? EBUSY : errno;
	close(fd);
	return -err;
}

static int open_fd(const struct disk_conf *c, const struct disk_facts *f, int *out, struct why *why)
{
	int flags = O_CLOEXEC | (c->write ? O_RDWR : O_RDONLY) | (c->buffered ? 0 : O_DIRECT);
	uint64_t end = clock_ms() + BUSY_MS;
	int fd;

	if (c->exclusive && f->block)
		flags |= O_EXCL; /* without O_CREAT: refuses what is mounted or claimed */
	/* The kernel tears down the ring of a process that was killed after the process is gone, and a ring holds its files. */
	while ((fd = open_and_lock(f->path, flags, c->exclusive)) == -EBUSY && clock_ms() < end)
		usleep(BUSY_EACH_US); /* a restart waits for it */
	if (fd < 0)
		return why_not_opened(f->path, c, -fd, why);
	if (c->buffered)
		log_warn("%s is read and written through the page cache: its speed and its memory are not ours to "
			 "promise",
			 f->path);
	*out = fd;
	return 0;
}

static int use_threads(struct disk *d, const struct disk_conf *c, struct engine_conf *e, struct why *why)
{
	void *engine;
	int rc;

	disk_fixed_drop(d);
	d->loose_step = d->sub_bytes; /* a thread may block where a ring would be punted */
	e->threads = c->threads ? c->threads : THREADS;
	if (e->threads > MOST_THREADS)
		e->threads = MOST_THREADS;
	rc = threads_create(e, &engine, why);
	if (!rc)
		disk_attach(d, &threads_ops, engine);
	return rc;
}

static int use_ring(struct disk *d, struct engine_conf *e, struct why *why)
{
	struct why soft = {0};
	void *engine;
	int rc;

	e->nfixed = d->nfixed;
	rc = uring_create(e, &engine, &soft, why);
	if (rc)
		return rc;
	if (soft.err) {
		disk_fixed_drop(d);
		log_warn("%s: %s; its IO goes without", d->facts.path, soft.text);
	}
	disk_attach(d, &uring_ops, engine);
	return 0;
}

static int use_engine(struct disk *d, const struct disk_conf *c, int fd, struct why *why)
{
	struct why refused = {0};
	struct engine_conf e = {.fd = fd,
				.block = d->facts.block,
				.write = c->write,
				.can_discard = d->facts.can_discard,
				.trace = c->trace,
				.sub_ios = d->nsubs};
	int rc;

	if (c->engine == DISK_THREADS)
		return use_threads(d, c, &e, why);
	rc = use_ring(d, &e, c->engine == DISK_URING ? why : &refused);
	if (!rc || c->engine == DISK_URING)
		return rc;
	rc = use_threads(d, c, &e, why);
	if (!rc)
		log_warn("%s: %s; %u threads of pread/pwrite instead", d->facts.path, refused.text, e.threads);
	return rc;
}

int disk_open(const struct disk_conf *c, struct disk **out, struct why *why)
{
	struct disk_facts facts;
	struct disk *d = NULL;
	int fd = -1, rc = disk_probe(c->path, &facts, why);

	*out = NULL;
	if (rc)
		return rc;
	rc = open_fd(c, &facts, &fd, why);
	if (rc)
		return rc;
	rc = disk_facts_of_fd(fd, &facts, why);
	if (!rc)
		rc = disk_make(c, &facts, &d, why);
	if (!rc)
		rc = disk_fixed_make(d, c, why);
	if (!rc)
		rc = use_engine(d, c, fd, why);
	if (rc) {
		if (d)
			disk_free(d);
		disk_close_fd(fd);
		return rc;
	}
	*out = d;
	return 0;
}
