#include "transport/disk/disk_int.h"

#include "daemon/base/check.h"

#include <errno.h>
#include <string.h>

#define BATCH         64u
#define TRIES         20u /* of a sub-IO that the kernel asks to repeat */
#define TRIES_AT_ONCE 3u

void disk_queue_init(struct disk *d, uint64_t window_bytes)
{
	for (uint32_t i = 0; i < Q_COUNT; i++)
		d->q[i].tail = &d->q[i].head;
	d->failed_tail = &d->failed;
	d->ready_tail = &d->ready;
	d->back_tail = &d->back;
	for (uint32_t i = 0; i < d->nsubs; i++) {
		d->subs[i].next = d->free;
		d->free = &d->subs[i];
	}
	window_init(&d->window, window_bytes, d->sub_bytes);
	d->write_share = d->sub_bytes;
}

/* ---- making sub-IOs ------------------------------------------------------------------------------------------------------ */

static const struct disk_fixed *fixed_of(const struct disk *d, const uint8_t *p)
{
	uint32_t lo = 0, hi = d->nfixed;

	while (lo < hi) { /* the last that begins at or before p */
		uint32_t mid = lo + (hi - lo) / 2;
		if (d->fixed[mid].base <= p)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && d->fixed[lo - 1].registered && p < d->fixed[lo - 1].base + d->fixed[lo - 1].bytes
		       ? &d->fixed[lo - 1]
		       : NULL;
}

/* The next sub-IO of a request: within one registered buffer, or in none. */
static uint32_t next_piece(const struct disk *d, const struct disk_io *io, uint32_t *fixed)
{
	const uint8_t *p = (const uint8_t *)io->buf + io->issued;
	const struct disk_fixed *f = fixed_of(d, p);
	uint32_t step = f ? f->step : d->loose_step;
	/* Back on the grid of the request after a piece that a buffer's end cut short. */
	uint64_t n = step - io->issued % step, left = io->bytes - io->issued;

	if (n > left)
		n = left;
	*fixed = f ? (uint32_t)(f - d->fixed) + 1 : 0;
	if (f && n > (uint64_t)(f->base + f->bytes - p))
		n = (uint64_t)(f->base + f->bytes - p);
	return (uint32_t)n;
}

static uint64_t in_flight_bytes(const struct disk *d)
{
	return d->read_bytes + d->write_bytes;
}

static bool queued(const struct disk *d, int which)
{
	return d->q[which].head != NULL;
}

/* What reads leave free so that waiting writes get their share, and the other way round nothing: reads are first. */
static uint64_t kept_for_writes(const struct disk *d)
{
	uint64_t share = d->write_share;

	if (!share || (!queued(d, Q_WRITE) && !queued(d, Q_WRITE_URGENT)))
		return 0;
	if (share > d->window.bytes / 2)
		share = d->window.bytes / 2;
	return share > d->write_bytes ? share - d->write_bytes : 0;
}

static bool room_for(struct disk *d, bool write, uint32_t n)
{
	uint64_t kept = write ? 0 : kept_for_writes(d);
	bool reading = d->reads || queued(d, Q_READ) || queued(d, Q_READ_URGENT);

	if (d->reads + d->writes + (kept && d->max_count > 1) >= d->max_count)
		return false;
	if (write && reading && d->write_bytes + n > d->write_share && (d->writes || !d->write_share))
		return false;
	if (in_flight_bytes(d) + n + kept > d->window.bytes && (in_flight_bytes(d) || n > d->window.bytes)) {
		d->window.limited = true;
		return false;
	}
	return true;
}

static void pop(struct disk_queue *q)
{
	q->head = q->head->next;
	if (!q->head)
		q->tail = &q->head;
}

static void account(struct disk *d, const struct disk_sub *s, int sign)
{
	uint64_t bytes = sign > 0 ? s->whole : -(uint64_t)s->whole;
	uint32_t one = sign > 0 ? 1 : UINT32_MAX;

	d->count += one;
	switch (s->op) {
	case DISK_READ:
		d->reads += one;
		d->read_bytes += bytes;
		break;
	case DISK_WRITE:
		d->writes += one;
		d->write_bytes += bytes;
		break;
	case DISK_FLUSH:
		d->flushes += one;
		break;
	case DISK_DISCARD:
		d->discards += one;
		break;
	}
}

static void make_sub(struct disk *d, struct disk_io *io, uint32_t n, uint32_t fixed)
{
	struct disk_sub *s = d->free;

	d->free = s->next;
	*s = (struct disk_sub){.op = io->op,
			       .offset = io->offset + io->issued,
			       .bytes = n,
			       .whole = n,
			       .at = io->issued,
			       .fixed = fixed,
			       .io = io,
			       .buf = io->buf ? (uint8_t *)io->buf + io->issued : NULL};
	io->in_flight++;
	account(d, s, 1);
	*d->ready_tail = s;
	d->ready_tail = &s->next;
}

static bool data(enum disk_op op)
{
	return op == DISK_READ || op == DISK_WRITE;
}

/* Where the device's queue takes more than a sub-IO, neighbours handed over together become one large request, and fewer, larger
 * requests are slower (0.92 for 8 of 4 MiB against 32 of 1 MiB, fio as well as ours): two reads take turns. */
static void take_turns(struct disk *d, struct disk_queue *q)
{
	struct disk_io *first = q->head, *second = first->next;

	if (!second || first->op != DISK_READ || d->facts.max_io_bytes < 2 * d->sub_bytes)
		return;
	first->next = second->next;
	second->next = first;
	q->head = second;
	if (!first->next)
		q->tail = &first->next;
}

/* One sub-IO of the request at the head of a queue. False: not now. */
static bool make_from(struct disk *d, int which)
{
	struct disk_io *io = d->q[which].head;
	uint32_t n, fixed = 0;

	if (!d->free)
		return false;
	if (data(io->op)) {
		n = next_piece(d, io, &fixed);
		if (!room_for(d, io->op == DISK_WRITE, n))
			return false;
		make_sub(d, io, n, fixed);
		io->issued += n;
	} else {
		if (io->op == DISK_DISCARD && d->discards)
			return false; /* one at a time: a drive may be slow at it */
		make_sub(d, io, (uint32_t)(io->op == DISK_DISCARD ? io->bytes / DISK_ALIGN : 0), 0);
		io->issued = io->bytes;
	}
	if (io->issued == io->bytes)
		pop(&d->q[which]);
	else
		take_turns(d, &d->q[which]);
	return true;
}

/* ---- to the engine ------------------------------------------------------------------------------------------------------- */

static void started(struct disk *d, struct disk_sub *s, uint64_t now)
{
	if (!s->io->started_ns)
		s->io->started_ns = now;
	if (!s->started_ns)
		s->started_ns = now;
	s->older = d->newest;
	s->newer = NULL;
	if (d->newest)
		d->newest->newer = s;
	else
		d->oldest = s;
	d->newest = s;
	d->with_engine++;
	disk_add(&d->n.sub_ios, 1);
}

/* True when the engine took all of it. */
static bool hand_over(struct disk *d)
{
	struct disk_sub *batch[BATCH], *s;
	uint64_t now = d->ready ? disk_now(d) : 0;

	while (d->ready) {
		uint32_t n = 0, took;

		for (s = d->ready; s && n < BATCH; s = s->next)
			batch[n++] = s;
		s = batch[n - 1]->next;
		/* Linked before the call: an engine may use `next` for its own lists. */
		for (uint32_t i = 0; i < n; i++)
			batch[i]->next = NULL;
		took = d->ops->submit(d->engine, batch, n);
		check(took <= n);
		for (uint32_t i = 0; i < took; i++)
			started(d, batch[i], now);
		for (uint32_t i = took; i < n; i++)
			batch[i]->next = i + 1 < n ? batch[i + 1] : s;
		d->ready = took < n ? batch[took] : s;
		if (took < n)
			return false;
	}
	d->ready_tail = &d->ready;
	return true;
}

static void take_due_retries(struct disk *d)
{
	uint64_t now = d->retry ? disk_now(d) : 0;

	for (struct disk_sub **p = &d->retry; *p;) {
		struct disk_sub *s = *p;

		if (s->due_ns > now) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		s->next = NULL;
		*d->ready_tail = s;
		d->ready_tail = &s->next;
	}
}

uint64_t disk_retry_due(const struct disk *d)
{
	uint64_t due = UINT64_MAX;

	for (const struct disk_sub *s = d->retry; s; s = s->next)
		if (s->due_ns < due)
			due = s->due_ns;
	return due;
}

void disk_issue(struct disk *d)
{
	take_due_retries(d);
	if (!hand_over(d))
		return;
	for (int which = 0; which < Q_COUNT; which++)
		while (d->q[which].head)
			if (!make_from(d, which))
				break;
	hand_over(d);
}

/* ---- back from it -------------------------------------------------------------------------------------------------------- */

static void leave_order(struct disk *d, struct disk_sub *s)
{
	if (s->older)
		s->older->newer = s->newer;
	else
		d->oldest = s->newer;
	if (s->newer)
		s->newer->older = s->older;
	else
		d->newest = s->older;
	d->with_engine--;
}

void disk_done(struct disk *d, struct disk_io *io)
{
	if (io->result)
		disk_add(&d->n.errors, 1);
	switch (io->op) {
	case DISK_READ:
		disk_add(&d->n.reads, 1);
		disk_add(&d->n.read_bytes, io->result ? 0 : io->bytes);
		break;
	case DISK_WRITE:
		disk_add(&d->n.writes, 1);
		disk_add(&d->n.write_bytes, io->result ? 0 : io->bytes);
		break;
	case DISK_FLUSH:
		disk_add(&d->n.flushes, 1);
		break;
	case DISK_DISCARD:
		disk_add(&d->n.discards, 1);
		break;
	}
	d->pending--;
	d->done_now++;
	io->done(io); /* the caller's again: not touched after this */
}

static struct disk_queue *queue_of(struct disk *d, const struct disk_io *io)
{
	switch (io->op) {
	case DISK_READ:
		return &d->q[io->urgent ? Q_READ_URGENT : Q_READ];
	case DISK_WRITE:
		return &d->q[io->urgent ? Q_WRITE_URGENT : Q_WRITE];
	case DISK_FLUSH:
		return &d->q[Q_FLUSH];
	default:
		return &d->q[Q_DISCARD];
	}
}

/* What was not started of a failed request never will be. Half started can be the first two of a queue. */
static void fail_request(struct disk *d, struct disk_io *io, int err)
{
	struct disk_queue *q = queue_of(d, io);

	if (!io->result)
		io->result = err;
	if (io->issued < io->bytes) {
		if (q->head != io) { /* the second, then */
			check(q->head && q->head->next == io);
			q->head->next = io->next;
			if (!io->next)
				q->tail = &q->head->next;
		} else {
			pop(q);
		}
	}
	io->issued = io->bytes;
}

static void try_again(struct disk *d, struct disk_sub *s)
{
	uint32_t shift = s->tries < TRIES_AT_ONCE ? 0 : s->tries - TRIES_AT_ONCE;

	s->due_ns = 0;
	if (s->tries >= TRIES_AT_ONCE)
		s->due_ns = disk_now(d) + (100000ull << (shift < 10 ? shift : 10));
	s->tries++;
	s->next = d->retry;
	d->retry = s;
	disk_add(&d->n.retries, 1);
}

static bool wants_repeat(int result)
{
	return result == -EAGAIN || result == -EINTR || result == -EBUSY;
}

/* 0 = all of it is there; 1 = the rest was put up again; else a negative errno. */
static int outcome(struct disk *d, struct disk_sub *s)
{
	uint32_t got;

	if (wants_repeat(s->result) && s->tries < TRIES && !d->closing) {
		try_again(d, s);
		return 1;
	}
	if (s->result < 0)
		return s->result;
	if (!data(s->op))
		return 0;
	if ((uint32_t)s->result > s->bytes)
		return -EIO;
	if ((uint32_t)s->result == s->bytes)
		return 0;
	/* Less than asked for. What direct IO can continue from is a multiple of DISK_ALIGN; no progress means the end of the
	 * medium, or a kernel that cannot. */
	disk_add(&d->n.short_ios, 1);
	got = (uint32_t)s->result & ~(DISK_ALIGN - 1);
	if ((!got && s->tries >= TRIES_AT_ONCE) || d->closing)
		return -EIO;
	s->offset += got;
	s->buf = (uint8_t *)s->buf + got;
	s->bytes -= got;
	if (got)
		s->tries = 0;
	try_again(d, s);
	return 1;
}

void disk_back(struct disk *d, struct disk_sub *s)
{
	int rc;

	leave_order(d, s);
	rc = outcome(d, s);
	if (rc == 1)
		return;
	account(d, s, -1);
	if (data(s->op)) {
		d->window.done += s->whole;
		disk_add(s->fixed ? &d->n.fixed_bytes : &d->n.loose_bytes, s->whole);
	}
	if (rc < 0)
		fail_request(d, s->io, rc);
	s->next = NULL;
	*d->back_tail = s;
	d->back_tail = &s->next;
}

void disk_tell(struct disk *d)
{
	struct disk_sub *s = d->back;
	struct disk_io *io = s->io;

	d->back = s->next;
	if (!d->back)
		d->back_tail = &d->back;
	io->in_flight--;
	if (io->op == DISK_READ && io->part && !io->result)
		io->part(io, s->at, s->whole);
	s->next = d->free;
	d->free = s;
	if (!io->in_flight && io->issued == io->bytes)
		disk_done(d, io);
}

void disk_publish(struct disk *d)
{
	uint64_t start = d->oldest ? d->oldest->started_ns : 0;
	const struct disk_sub *data = d->oldest;

	while (data && data->op != DISK_READ && data->op != DISK_WRITE) /* few are anything else */
		data = data->newer;
	atomic_store_explicit(&d->n.oldest_data, data ? data->started_ns : 0, memory_order_relaxed);
	atomic_store_explicit(&d->n.oldest_start, start, memory_order_relaxed);
	atomic_store_explicit(&d->n.queued, d->pending, memory_order_relaxed);
	atomic_store_explicit(&d->n.in_flight, d->count, memory_order_relaxed);
	atomic_store_explicit(&d->n.in_flight_bytes, in_flight_bytes(d), memory_order_relaxed);
	atomic_store_explicit(&d->n.window_bytes, d->window.bytes, memory_order_relaxed);
}

/* ---- submission ---------------------------------------------------------------------------------------------------------- */

static int refusal(const struct disk *d, const struct disk_io *io)
{
	if (d->closing)
		return -ESHUTDOWN;
	if (io->op != DISK_READ && !d->write)
		return -EBADF;
	if (io->op == DISK_FLUSH)
		return 0;
	if (io->op != DISK_READ && io->op != DISK_WRITE && io->op != DISK_DISCARD)
		return -EINVAL;
	if (!io->bytes || (io->offset | io->bytes) % DISK_ALIGN || io->bytes > d->facts.bytes ||
	    io->offset > d->facts.bytes - io->bytes)
		return -EINVAL;
	if (io->op == DISK_DISCARD) {
		if (io->bytes / DISK_ALIGN > UINT32_MAX)
			return -EINVAL;
		return d->facts.can_discard ? 0 : -EOPNOTSUPP;
	}
	return !io->buf || (uintptr_t)io->buf % DISK_ALIGN ? -EINVAL : 0;
}

void disk_submit(struct disk *d, struct disk_io *io)
{
	struct disk_queue *q;

	io->result = refusal(d, io);
	io->submitted_ns = disk_now(d);
	io->started_ns = 0;
	io->issued = 0;
	io->in_flight = 0;
	io->next = NULL;
	d->pending++;
	atomic_store_explicit(&d->n.queued, d->pending, memory_order_relaxed);
	if (io->result) { /* told by disk_run, as everything */
		*d->failed_tail = io;
		d->failed_tail = &io->next;
		return;
	}
	if (io->op == DISK_FLUSH)
		io->bytes = 0;
	q = queue_of(d, io);
	*q->tail = io;
	q->tail = &io->next;
}
