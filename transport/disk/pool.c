#include "transport/disk/pool.h"

#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct pool {
	struct lk lk; /* all below */
	pthread_cond_t work;
	struct disk_sub *todo, **todo_tail, *ended, **ended_tail;
	bool stop, leak, owner_sleeps;
	uint32_t idle, threads, refs; /* refs: threads, and the owner */
	int fd, event_fd;
	bool block;
	pthread_t tid[];
};

static int discard(const struct pool *p, const struct disk_sub *s)
{
	uint64_t range[2] = {s->offset, (uint64_t)s->bytes * DISK_ALIGN};

	/* Of a file it would give away the space that was reserved for it. */
	if (!p->block)
		return -EOPNOTSUPP;
	return ioctl(p->fd, BLKDISCARD, range) ? -errno : 0;
}

static int32_t do_io(const struct pool *p, const struct disk_sub *s)
{
	ssize_t n = 0;

	switch (s->op) {
	case DISK_READ:
		n = pread(p->fd, s->buf, s->bytes, (off_t)s->offset);
		break;
	case DISK_WRITE:
		n = pwrite(p->fd, s->buf, s->bytes, (off_t)s->offset);
		break;
	case DISK_FLUSH:
		n = fdatasync(p->fd);
		break;
	case DISK_DISCARD:
		return discard(p, s);
	}
	return n < 0 ? -errno : (int32_t)n;
}

static void end(struct pool *p, struct disk_sub *s)
{
	uint64_t one = 1;

	s->next = NULL;
	*p->ended_tail = s;
	p->ended_tail = &s->next;
	if (p->owner_sleeps && !p->leak) {
		p->owner_sleeps = false;
		if (write(p->event_fd, &one, sizeof one) < 0)
			return; /* only when its count is full: then it is readable anyway */
	}
}

/* With the lock; gives it up. */
static void unref(struct pool *p)
{
	bool last = --p->refs == 0;

	lk_unlock(&p->lk);
	if (!last)
		return;
	pthread_cond_destroy(&p->work);
	lk_destroy(&p->lk);
	mem_free(p);
}

static void *worker(void *arg)
{
	struct pool *p = arg;
	struct disk_sub *s;

	lk_lock(&p->lk);
	for (;;) {
		while (!p->todo && !p->stop) {
			p->idle++;
			pthread_cond_wait(&p->work, &p->lk.m);
			p->idle--;
		}
		if (p->stop)
			break;
		s = p->todo;
		p->todo = s->next;
		if (!p->todo)
			p->todo_tail = &p->todo;
		lk_unlock(&p->lk);
		s->result = do_io(p, s);
		lk_lock(&p->lk);
		end(p, s);
	}
	unref(p);
	return NULL;
}

int pool_create(int fd, bool block, uint32_t threads, int event_fd, struct pool **out, struct why *why)
{
	struct pool *p = mem_calloc(1, sizeof *p + threads * sizeof p->tid[0]);
	int rc;

	if (!p)
		return why_set(why, -ENOMEM, "no memory for %u threads", threads);
	lk_init(&p->lk, LK_QUEUE);
	pthread_cond_init(&p->work, NULL);
	p->todo_tail = &p->todo;
	p->ended_tail = &p->ended;
	p->fd = fd;
	p->block = block;
	p->event_fd = event_fd;
	p->refs = 1;
	for (; p->threads < threads; p->threads++) {
		lk_lock(&p->lk);
		p->refs++;
		lk_unlock(&p->lk);
		rc = pthread_create(&p->tid[p->threads], NULL, worker, p);
		if (rc) {
			why_set(why, -rc, "thread %u of the disk cannot be started: %s", p->threads, strerror(rc));
			lk_lock(&p->lk);
			p->refs--;
			lk_unlock(&p->lk);
			pool_close(p, false);
			return -rc;
		}
		pthread_setname_np(p->tid[p->threads], "disk-io");
	}
	*out = p;
	return 0;
}

void pool_close(struct pool *p, bool leak)
{
	uint32_t n;
	pthread_t tid[1];

	lk_lock(&p->lk);
	p->stop = true;
	p->leak = leak;
	n = p->threads;
	pthread_cond_broadcast(&p->work);
	lk_unlock(&p->lk);
	/* The table of threads lives as long as our own reference. */
	for (uint32_t i = 0; i < n; i++) {
		tid[0] = p->tid[i];
		if (leak)
			pthread_detach(tid[0]);
		else
			pthread_join(tid[0], NULL);
	}
	lk_lock(&p->lk);
	unref(p);
}

uint32_t pool_submit(struct pool *p, struct disk_sub **subs, uint32_t n)
{
	uint32_t woken;

	lk_lock(&p->lk);
	for (uint32_t i = 0; i < n; i++) {
		subs[i]->next = NULL;
		*p->todo_tail = subs[i];
		p->todo_tail = &subs[i]->next;
	}
	woken = p->idle < n ? p->idle : n;
	for (uint32_t i = 0; i < woken; i++)
		pthread_cond_signal(&p->work);
	lk_unlock(&p->lk);
	return woken;
}

uint32_t pool_take(struct pool *p, struct disk_sub **out, uint32_t max, bool sleeping)
{
	uint32_t n = 0;

	lk_lock(&p->lk);
	while (n < max && p->ended) {
		out[n++] = p->ended;
		p->ended = p->ended->next;
	}
	if (!p->ended)
		p->ended_tail = &p->ended;
	p->owner_sleeps = sleeping && !n;
	lk_unlock(&p->lk);
	return n;
}
