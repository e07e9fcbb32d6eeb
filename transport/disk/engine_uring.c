#include "transport/disk/engines.h"
#include "transport/disk/pool.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#define SPARE 4u /* entries beside the sub-IOs: the poll of the eventfd */

struct uring {
	struct io_uring ring;
	bool enabled, deferred, armed;
	int fd, event_fd;
	struct pool *discards; /* NULL: none possible */
	uint32_t discarding, in_ring;
	bool want_trace;
	struct disk_trace trace;
	_Atomic uint64_t calls;
	struct log_limit refused;
};

/* The address of this stands for the eventfd's poll among the completions. */
static const char wake_mark;

static int first_use(struct uring *u)
{
	if (u->enabled)
		return 0;
	/* The thread that enables a ring of one issuer is that issuer: the owner, who need not be the one who opened the disk.
	 * The call itself, since liburing 2.3 declares io_uring_enable_rings and forgets to export it. */
	if (syscall(SYS_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
		return -errno;
	u->enabled = true;
	if (u->want_trace)
		trace_open(&u->trace);
	return 0;
}

static void prepare(struct uring *u, struct io_uring_sqe *sqe, struct disk_sub *s)
{
	if (s->op == DISK_FLUSH)
		io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
	else if (s->op == DISK_READ && s->fixed)
		io_uring_prep_read_fixed(sqe, 0, s->buf, s->bytes, s->offset, (int)s->fixed - 1);
	else if (s->op == DISK_READ)
		io_uring_prep_read(sqe, 0, s->buf, s->bytes, s->offset);
	else if (s->fixed)
		io_uring_prep_write_fixed(sqe, 0, s->buf, s->bytes, s->offset, (int)s->fixed - 1);
	else
		io_uring_prep_write(sqe, 0, s->buf, s->bytes, s->offset);
	sqe->flags |= IOSQE_FIXED_FILE; /* file 0 of the ring: ours */
	io_uring_sqe_set_data(sqe, s);
	u->in_ring++;
}

static uint32_t uring_submit(void *engine, struct disk_sub **subs, uint32_t n)
{
	struct uring *u = engine;
	uint32_t i;

	for (i = 0; i < n; i++) {
		struct io_uring_sqe *sqe;

		if (subs[i]->op == DISK_DISCARD) {
			disk_add(&u->calls, pool_submit(u->discards, &subs[i], 1));
			u->discarding++;
			continue;
		}
		sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			break;
		prepare(u, sqe, subs[i]);
	}
	return i; /* the kernel hears of them in reap, together with the wait */
}

static void arm(struct uring *u)
{
	struct io_uring_sqe *sqe = u->armed ? NULL : io_uring_get_sqe(&u->ring);

	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, u->event_fd, POLLIN);
	io_uring_sqe_set_data(sqe, (void *)&wake_mark);
	u->armed = true;
}

static uint32_t collect(struct uring *u, struct disk_sub **out, uint32_t max)
{
	struct io_uring_cqe *cqe;
	uint64_t ignored;
	unsigned head;
	uint32_t n = 0, seen = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		if (cqe->user_data == (uintptr_t)&wake_mark) {
			u->armed = false;
			if (read(u->event_fd, &ignored, sizeof ignored) < 0)
				ignored = 0; /* nothing was in it: a poll may be early */
		} else {
			if (n == max)
				break;
			out[n] = (struct disk_sub *)(uintptr_t)cqe->user_data;
			out[n++]->result = cqe->res;
			u->in_ring--;
		}
		seen++;
	}
	io_uring_cq_advance(&u->ring, seen);
	return n;
}

/* Gives the kernel what is prepared, and waits. */
static void enter(struct uring *u, uint64_t wait_ns)
{
	struct __kernel_timespec ts = {.tv_sec = (int64_t)(wait_ns / 1000000000u),
				       .tv_nsec = (long long)(wait_ns % 1000000000u)};
	struct io_uring_cqe *cqe;
	uint64_t dropped;
	int rc;

	if (!wait_ns && !io_uring_sq_ready(&u->ring) && (!u->in_ring || !u->deferred))
		return; /* completions come without a call, or none is due */
	disk_add(&u->calls, 1);
	if (wait_ns)
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	else
		rc = io_uring_submit_and_get_events(&u->ring);
	if (rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY)
		return;
	/* Nothing gets through any more; the age of the oldest IO tells those above. */
	if (log_limit_pass(&u->refused, 60000, &dropped))
		log_error("a disk's ring refuses to work: io_uring_enter: %s (%llu times since the last line)",
			  strerror(-rc), (unsigned long long)dropped + 1);
	usleep(1000);
}

static uint32_t uring_reap(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns)
{
	struct uring *u = engine;
	uint32_t n = 0;
	int rc = first_use(u);
	uint64_t dropped;

	if (rc) {
		if (log_limit_pass(&u->refused, 60000, &dropped))
			log_error("a disk's ring cannot be enabled: %s", strerror(-rc));
		usleep(1000);
		return 0;
	}
	if (u->discarding) {
		n = pool_take(u->discards, out, max, wait_ns != 0);
		u->discarding -= n;
	}
	if (n)
		wait_ns = 0;
	if (wait_ns)
		arm(u);
	if (io_uring_cq_ready(&u->ring) && !io_uring_sq_ready(&u->ring))
		return n + collect(u, out + n, max - n);
	enter(u, wait_ns);
	n += collect(u, out + n, max - n);
	if (!n && u->discarding) {
		n = pool_take(u->discards, out, max, false);
		u->discarding -= n;
	}
	return n;
}

static void uring_wake(void *engine)
{
	struct uring *u = engine;
	uint64_t one = 1;

	if (write(u->event_fd, &one, sizeof one) < 0)
		return; /* only when its count is full: then it is readable anyway */
}

static uint64_t uring_now(void *engine)
{
	(void)engine;
	return clock_ns();
}

static void uring_counts(void *engine, struct disk_engine_counts *out)
{
	struct uring *u = engine;

	out->submit_calls = atomic_load_explicit(&u->calls, memory_order_relaxed);
	out->traced = trace_read(&u->trace, &out->punts, &out->splits);
}

static int why_not_fixed(int err, struct why *why)
{
	struct rlimit l = {0};
	char limit[32] = "unlimited";

	getrlimit(RLIMIT_MEMLOCK, &l);
	if (l.rlim_cur != RLIM_INFINITY)
		snprintf(limit, sizeof limit, "%llu KiB", (unsigned long long)l.rlim_cur >> 10);
	if (err == -ENOMEM)
		return why_set(why, err,
			       "the limit of locked memory is %s: raise it by LimitMEMLOCK=infinity, ulimit -l "
			       "unlimited or CAP_IPC_LOCK",
			       limit);
	return why_set(why, err, "%s", strerror(-err));
}

static int uring_fix(void *engine, uint32_t index, void *base, uint64_t bytes, struct why *why)
{
	struct uring *u = engine;
	struct iovec v = {base, bytes};
	int rc = io_uring_register_buffers_update_tag(&u->ring, index, &v, NULL, 1);

	return rc < 0 ? why_not_fixed(rc, why) : 0;
}

/* liburing maps and unmaps a ring by system calls of its own, which ThreadSanitizer does not see: a ring at the address where another
 * thread's was before looks to it like the same memory. The kernel gives an address away only after it got it back; that order is what
 * these two tell. */
#ifdef __SANITIZE_THREAD__
static char ring_addresses;
#define RING_MAPPED()   __tsan_acquire(&ring_addresses)
#define RING_UNMAPPED() __tsan_release(&ring_addresses)
#else
#define RING_MAPPED()   ((void)0)
#define RING_UNMAPPED() ((void)0)
#endif

static void unmap_ring(struct io_uring *ring)
{
	RING_UNMAPPED();
	io_uring_queue_exit(ring);
}

/* A ring is torn down some time after it was closed, and until then holds the files registered with it. Out of there first, so that
 * the disk can be opened again at once; where the caller is not the ring's issuer that is refused, and disk_open waits a bit. */
static void ring_exit(struct uring *u)
{
	io_uring_unregister_files(&u->ring);
	unmap_ring(&u->ring);
}

static void uring_close(void *engine, bool leak)
{
	struct uring *u = engine;

	if (u->discards)
		pool_close(u->discards, leak && u->discarding);
	trace_close(&u->trace);
	if (!leak) {
		ring_exit(u);
		close(u->event_fd);
		disk_close_fd(u->fd);
	} /* else the ring stays: its memory is the kernel's to write into, and it holds the pages of what is in flight */
	mem_free(u);
}

const struct disk_engine_ops uring_ops = {
	.name = "io_uring",
	.close = uring_close,
	.submit = uring_submit,
	.reap = uring_reap,
	.wake = uring_wake,
	.now = uring_now,
	.counts = uring_counts,
	.fix = uring_fix,
};

/* ---- making it ----------------------------------------------------------------------------------------------------------- */

static int why_refused(int err, struct why *why)
{
	char text[16] = "";
	FILE *f;

	if (err == -EPERM || err == -EACCES) {
		f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
		if (f) {
			if (!fgets(text, sizeof text, f))
				text[0] = 0;
			fclose(f);
		}
		text[strcspn(text, "\n")] = 0;
		if (text[0] && strcmp(text, "0") != 0)
			return why_set(why, err, "io_uring is forbidden: kernel.io_uring_disabled is %s", text);
		return why_set(why, err, "io_uring is forbidden, by a seccomp profile or a security module (%s)",
			       strerror(-err));
	}
	if (err == -ENOSYS)
		return why_set(why, err, "io_uring is hidden by a seccomp profile, or this kernel has none (%s)",
			       strerror(-err));
	return why_set(why, err, "io_uring_setup: %s", strerror(-err));
}

/* A profile may let a ring be made and forbid its use, which a disabled ring would show only on the data path. */
static int try_ring(struct why *why)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	int rc = io_uring_queue_init(2, &ring, 0);

	if (rc < 0)
		return why_refused(rc, why);
	RING_MAPPED();
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_nop(sqe);
	rc = io_uring_submit(&ring);
	if (rc == 1)
		rc = io_uring_wait_cqe(&ring, &cqe);
	unmap_ring(&ring);
	return rc < 0 ? why_refused(rc, why) : 0;
}

static int make_ring(struct uring *u, uint32_t entries, struct why *why)
{
	/* The best this kernel knows: 6.1, 6.0, 5.19, 5.11. */
	static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
					 IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_COOP_TASKRUN, 0};
	int rc = -EINVAL;

	for (size_t i = 0; rc == -EINVAL && i < sizeof flags / sizeof flags[0]; i++) {
		struct io_uring_params p = {.flags = flags[i] | IORING_SETUP_R_DISABLED};

		rc = io_uring_queue_init_params(entries, &u->ring, &p);
		if (rc)
			continue;
		RING_MAPPED();
		u->deferred = flags[i] != 0;
		if (!(p.features & IORING_FEAT_EXT_ARG)) {
			unmap_ring(&u->ring);
			return why_set(why, -EOPNOTSUPP, "this kernel's io_uring is too old: 5.11 or newer is needed");
		}
	}
	return rc ? why_refused(rc, why) : 0;
}

/* Empty at first: what a piece of memory is made of must be there before it is registered. */
static void make_table(struct uring *u, uint32_t n, struct why *soft)
{
	int rc = io_uring_register_buffers_sparse(&u->ring, n);

	if (rc == -EINVAL)
		why_set(soft, rc,
			"this kernel's io_uring has no table of fixed buffers that can grow: 5.19 or newer has");
	else if (rc < 0)
		why_set(soft, rc, "no table of %u fixed buffers: %s", n, strerror(-rc));
}

static int equip(struct uring *u, const struct engine_conf *c, struct why *soft, struct why *why)
{
	int rc = io_uring_register_files(&u->ring, &c->fd, 1);

	if (rc < 0)
		return why_set(why, rc, "the disk cannot be registered with its ring: %s", strerror(-rc));
	if (c->nfixed)
		make_table(u, c->nfixed, soft);
	u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->event_fd < 0)
		return why_set(why, -errno, "no eventfd for the disk: %s", strerror(errno));
	if (!c->write || !c->can_discard)
		return 0;
	rc = pool_create(c->fd, c->block, 1, u->event_fd, &u->discards, why);
	if (rc)
		close(u->event_fd);
	return rc;
}

int uring_create(const struct engine_conf *c, void **out, struct why *soft, struct why *why)
{
	struct uring *u;
	int rc = try_ring(why);

	if (rc)
		return rc;
	u = mem_calloc(1, sizeof *u);
	if (!u)
		return why_set(why, -ENOMEM, "no memory for a ring");
	trace_init(&u->trace);
	u->want_trace = c->trace;
	u->fd = c->fd;
	rc = make_ring(u, c->sub_ios + SPARE, why);
	if (!rc) {
		rc = equip(u, c, soft, why);
		if (rc)
			ring_exit(u);
	}
	if (rc) {
		mem_free(u);
		return rc;
	}
	*out = u;
	return 0;
}
