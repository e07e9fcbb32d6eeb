#include "transport/disk/engines.h"
#include "transport/disk/pool.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct threads {
	struct pool *pool;
	int fd, event_fd;
	_Atomic uint64_t calls;
	char text[48];
};

static uint32_t threads_submit(void *engine, struct disk_sub **subs, uint32_t n)
{
	struct threads *t = engine;

	disk_add(&t->calls, pool_submit(t->pool, subs, n));
	return n;
}

static uint32_t threads_reap(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns)
{
	struct threads *t = engine;
	uint32_t n = pool_take(t->pool, out, max, wait_ns != 0);
	struct pollfd p = {.fd = t->event_fd, .events = POLLIN};
	struct timespec ts = {.tv_sec = (time_t)(wait_ns / 1000000000u), .tv_nsec = (long)(wait_ns % 1000000000u)};
	uint64_t ignored;

	if (n || !wait_ns)
		return n;
	if (ppoll(&p, 1, &ts, NULL) > 0 && read(t->event_fd, &ignored, sizeof ignored) < 0)
		return 0; /* somebody else's signal came first: the caller comes again */
	return pool_take(t->pool, out, max, false);
}

static void threads_wake(void *engine)
{
	struct threads *t = engine;
	uint64_t one = 1;

	if (write(t->event_fd, &one, sizeof one) < 0)
		return; /* only when its count is full: then it is readable anyway */
}

static uint64_t threads_now(void *engine)
{
	(void)engine;
	return clock_ns();
}

static void threads_counts(void *engine, struct disk_engine_counts *out)
{
	struct threads *t = engine;

	out->submit_calls = atomic_load_explicit(&t->calls, memory_order_relaxed);
}

static const char *threads_text(void *engine)
{
	return ((struct threads *)engine)->text;
}

static void threads_close(void *engine, bool leak)
{
	struct threads *t = engine;

	pool_close(t->pool, leak);
	if (!leak) { /* else a thread is still in a call on them */
		close(t->event_fd);
		disk_close_fd(t->fd);
	}
	mem_free(t);
}

const struct disk_engine_ops threads_ops = {
	.name = "threads",
	.close = threads_close,
	.submit = threads_submit,
	.reap = threads_reap,
	.wake = threads_wake,
	.now = threads_now,
	.counts = threads_counts,
	.text = threads_text,
};

int threads_create(const struct engine_conf *conf, void **out, struct why *why)
{
	struct threads *t = mem_calloc(1, sizeof *t);
	int rc;

	if (!t)
		return why_set(why, -ENOMEM, "no memory for a disk");
	t->fd = conf->fd;
	snprintf(t->text, sizeof t->text, "%u threads of pread/pwrite", conf->threads);
	t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->event_fd < 0) {
		rc = why_set(why, -errno, "no eventfd for the disk: %s", strerror(errno));
		mem_free(t);
		return rc;
	}
	rc = pool_create(conf->fd, conf->block, conf->threads, t->event_fd, &t->pool, why);
	if (rc) {
		close(t->event_fd);
		mem_free(t);
		return rc;
	}
	*out = t;
	return 0;
}
