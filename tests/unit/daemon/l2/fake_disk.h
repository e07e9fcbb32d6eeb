/* fake_disk.h - a disk over a file, in real time, which fails, hangs, slows down or goes away when the test says so. */
#ifndef TESTS_FAKE_DISK_H
#define TESTS_FAKE_DISK_H

#include "daemon/base/clock.h"
#include "transport/disk/disk_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKE_QUEUE 4096u

struct fake_disk {
	/* the test's */
	char path[128];
	_Atomic bool hang, gone, read_error, write_error, rot;
	_Atomic uint64_t delay_ns;
	_Atomic uint64_t reads, writes, opens;
	/* its own */
	pthread_mutex_t m;
	pthread_cond_t work, done;
	pthread_t thread;
	struct {
		struct disk_sub *s;
		uint64_t due;
	} queue[FAKE_QUEUE];
	uint64_t in, out;
	struct disk_sub *ready[FAKE_QUEUE];
	uint32_t nready;
	bool woken, stop, running, left; /* left: closed while it hung; its thread goes on */
	int fd;
};

/* What a disk gives up on purpose when it is closed while it hangs: known here, so it is not taken for a leak. */
static struct disk_sub *volatile fake_given_up;

static inline int fake_serve(struct fake_disk *f, struct disk_sub *s)
{
	if (f->gone)
		return -ENODEV;
	switch (s->op) {
	case DISK_READ:
		atomic_fetch_add(&f->reads, 1);
		if (f->read_error)
			return -EIO;
		if (pread(f->fd, s->buf, s->bytes, (off_t)s->offset) != (ssize_t)s->bytes)
			return -EIO;
		if (f->rot)
			((uint8_t *)s->buf)[s->bytes / 2] ^= 4;
		return (int)s->bytes;
	case DISK_WRITE:
		atomic_fetch_add(&f->writes, 1);
		if (f->write_error)
			return -EIO;
		return pwrite(f->fd, s->buf, s->bytes, (off_t)s->offset) == (ssize_t)s->bytes ? (int)s->bytes : -EIO;
	case DISK_FLUSH:
		return f->write_error ? -EIO : 0;
	case DISK_DISCARD:
		return f->write_error ? -EIO : (int)s->bytes;
	}
	return -EINVAL;
}

static inline void *fake_run(void *p)
{
	struct fake_disk *f = p;
	pthread_mutex_lock(&f->m);
	while (!f->stop || f->in != f->out) {
		if (f->in == f->out || (f->hang && !f->stop)) {
			/* hang is set without the lock: look again now and then */
			struct timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			t.tv_nsec += 2000000;
			if (t.tv_nsec >= 1000000000)
				t.tv_sec++, t.tv_nsec -= 1000000000;
			pthread_cond_timedwait(&f->work, &f->m, &t);
			continue;
		}
		struct disk_sub *s = f->queue[f->out % FAKE_QUEUE].s;
		uint64_t due = f->queue[f->out % FAKE_QUEUE].due, now;
		f->out++;
		pthread_mutex_unlock(&f->m);
		now = clock_ns();
		if (due > now)
			nanosleep(&(struct timespec){.tv_sec = (time_t)((due - now) / 1000000000),
						     .tv_nsec = (long)((due - now) % 1000000000)},
				  NULL);
		int result = fake_serve(f, s);
		pthread_mutex_lock(&f->m);
		s->result = result;
		if (f->left)
			fake_given_up = s;
		f->ready[f->nready++] = s;
		pthread_cond_signal(&f->done);
	}
	pthread_mutex_unlock(&f->m);
	return NULL;
}

static inline uint32_t fake_submit(void *engine, struct disk_sub **subs, uint32_t n)
{
	struct fake_disk *f = engine;
	uint64_t due = clock_ns() + f->delay_ns;
	pthread_mutex_lock(&f->m);
	for (uint32_t i = 0; i < n; i++) {
		f->queue[f->in % FAKE_QUEUE].s = subs[i];
		f->queue[f->in++ % FAKE_QUEUE].due = due;
	}
	pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->m);
	return n;
}

static inline uint32_t fake_reap(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns)
{
	struct fake_disk *f = engine;
	struct timespec t;
	uint32_t n = 0;
	clock_gettime(CLOCK_REALTIME, &t);
	wait_ns += (uint64_t)t.tv_nsec;
	t.tv_sec += (time_t)(wait_ns / 1000000000u);
	t.tv_nsec = (long)(wait_ns % 1000000000u);
	pthread_mutex_lock(&f->m);
	while (!f->nready && !f->woken && pthread_cond_timedwait(&f->done, &f->m, &t) == 0)
		;
	f->woken = false;
	while (n < max && f->nready)
		out[n++] = f->ready[--f->nready];
	pthread_mutex_unlock(&f->m);
	return n;
}

static inline void fake_wake(void *engine)
{
	struct fake_disk *f = engine;
	pthread_mutex_lock(&f->m);
	f->woken = true;
	pthread_cond_signal(&f->done);
	pthread_mutex_unlock(&f->m);
}

static inline void fake_end(struct fake_disk *f)
{
	pthread_mutex_lock(&f->m);
	f->stop = true;
	pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->m);
	pthread_join(f->thread, NULL);
	close(f->fd);
	f->running = false;
}

static inline void fake_close(void *engine, bool leak)
{
	struct fake_disk *f = engine;
	f->left = leak;
	if (!leak)
		fake_end(f);
}

static inline uint64_t fake_now(void *engine)
{
	(void)engine;
	return clock_ns();
}

static const struct disk_engine_ops fake_ops = {
	.name = "fake",
	.close = fake_close,
	.submit = fake_submit,
	.reap = fake_reap,
	.wake = fake_wake,
	.now = fake_now,
};

static inline int fake_open(struct fake_disk *f, const struct disk_conf *conf, struct disk **out, struct why *why)
{
	struct stat st;
	struct disk_facts facts = {.logical_block = 512,
				   .dma_align = 512,
				   .max_io_bytes = 1 << 20,
				   .nr_requests = 128,
				   .node = NODE_UNKNOWN};
	*out = NULL;
	if (f->gone || f->running)
		return why_set(why, f->running ? -EBUSY : -ENODEV, "%s: not there", f->path);
	f->fd = open(f->path, O_RDWR | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st))
		return why_set(why, -errno, "%s: cannot open", f->path);
	facts.bytes = (uint64_t)st.st_size;
	snprintf(facts.path, sizeof(facts.path), "%s", f->path);
	f->stop = f->woken = f->left = false;
	f->in = f->out = 0;
	f->nready = 0;
	f->running = true;
	atomic_fetch_add(&f->opens, 1);
	pthread_create(&f->thread, NULL, fake_run, f);
	return disk_open_engine(conf, &facts, &fake_ops, f, out, why);
}

static inline void fake_init(struct fake_disk *f, const char *path)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->path, sizeof(f->path), "%s", path);
	pthread_mutex_init(&f->m, NULL);
	pthread_cond_init(&f->work, NULL);
	pthread_cond_init(&f->done, NULL);
}

/* After the adapter has been closed. */
static inline void fake_finish(struct fake_disk *f)
{
	f->hang = false;
	if (f->running)
		fake_end(f);
	unlink(f->path);
}

#endif
