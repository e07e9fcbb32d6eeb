/* raw_device.c - one device's thread: takes what is in the inbox, keeps limits, lets the store work. */
#include "daemon/l2/raw_int.h"

#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"

#include <errno.h>
#include <stdio.h>

uint64_t raw_now(const struct raw_device *d)
{
	return d->seg ? disk_now(seg_disk(d->seg)) : clock_ns();
}

/* ---- the inbox --------------------------------------------------------------------------------------------------------- */

void raw_wake(struct raw_device *d)
{
	lk_lock(&d->lk);
	if (d->seg)
		disk_wake(seg_disk(d->seg));
	else
		pthread_cond_signal(&d->wake);
	lk_unlock(&d->lk);
}

void raw_push(struct raw_device *d, struct l2_io *io)
{
	struct l2_io *top = atomic_load_explicit(&d->inbox, memory_order_relaxed);
	do
		io->next = top;
	while (!atomic_compare_exchange_weak(&d->inbox, &top, io));
	if (!top)
		raw_wake(d);
}

static void append(struct raw_list *l, struct l2_io *io)
{
	io->next = NULL;
	*l->tail = io;
	l->tail = &io->next;
	l->n++;
}

static struct l2_io *pop(struct raw_list *l)
{
	struct l2_io *io = l->head;
	if (io) {
		l->head = io->next;
		if (!l->head)
			l->tail = &l->head;
		l->n--;
	}
	return io;
}

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

/* The first error counts; a removal succeeds where one device had the object. */
static void merge(struct l2_io *io, enum seg_op_kind kind, int result)
{
	if (kind == SEG_REMOVE && result == -ENOENT)
		return;
	if (io->result == 0 || (kind == SEG_REMOVE && io->result == -ENOENT))
		io->result = result;
}

struct raw_device *raw_next(struct raw *r, uint32_t from, struct l2_io *io)
{
	for (uint32_t i = from; i < r->ndevices; i++) {
		if (atomic_load_explicit(&r->device[i].reads, memory_order_relaxed))
			return &r->device[i];
		merge(io, io->op.kind, -EBUSY);
	}
	return NULL;
}

void raw_answer(struct raw_device *d, struct l2_io *io, int result)
{
	enum seg_op_kind kind = io->op.kind;
	struct raw_device *next = NULL;
	if (kind == SEG_READ || kind == SEG_WRITE) {
		io->result = result;
	} else {
		merge(io, kind, result);
		if (!atomic_load(&d->stop))
			next = raw_next(d->raw, d->index + 1, io);
		else if (d->index + 1 < d->raw->ndevices)
			merge(io, kind, -ECANCELED);
	}
	if (next)
		raw_push(next, io);
	else
		io->done(io);
}

static void drop_store(struct raw_device *d, struct l2_io *io, int result)
{
	atomic_fetch_add_explicit(&d->dropped, 1, memory_order_relaxed);
	raw_answer(d, io, result);
}

void raw_release_stores(struct raw_device *d, int result)
{
	struct l2_io *io;
	while ((io = pop(&d->stores))) {
		atomic_fetch_sub(&d->queued_bytes, io->bytes);
		drop_store(d, io, result);
	}
}

void raw_release(struct raw_device *d, int result)
{
	struct l2_io *io;
	raw_release_stores(d, result);
	while ((io = pop(&d->loads)))
		raw_answer(d, io, result);
	while ((io = pop(&d->others)))
		raw_answer(d, io, result);
	/* Those that own no buffer need not wait for a device that hangs. */
	for (uint32_t i = 0; i < RAW_SLOTS; i++) {
		struct raw_slot *s = &d->slots[i];
		if (s->io && s->op == &s->own) {
			io = s->io;
			s->io = NULL;
			raw_answer(d, io, result);
		}
	}
}

/* ---- limits ------------------------------------------------------------------------------------------------------------------ */

static bool may_write(struct raw_device *d, uint64_t bytes)
{
	if (d->tokens_ns <= 0)
		return true;
	uint64_t now = raw_now(d);
	d->tokens += (double)(now - d->tokens_at) * d->tokens_ns;
	d->tokens_at = now;
	if (d->tokens > d->tokens_max)
		d->tokens = d->tokens_max;
	if (d->tokens < (double)bytes)
		return false;
	d->tokens -= (double)bytes;
	return true;
}

static void accept_store(struct raw_device *d, struct l2_io *io)
{
	if (!d->breaker.writes || atomic_load(&d->queued_bytes) + io->bytes > d->raw->queue_bytes ||
	    !may_write(d, io->bytes)) {
		drop_store(d, io, -EBUSY);
		return;
	}
	atomic_fetch_add(&d->queued_bytes, io->bytes);
	append(&d->stores, io);
}

/* Takes the whole inbox, turned round: it is a stack. */
static void accept_all(struct raw_device *d)
{
	struct l2_io *io = atomic_exchange(&d->inbox, NULL), *list = NULL, *next;
	for (; io; io = next) {
		next = io->next;
		io->next = list;
		list = io;
	}
	for (io = list; io; io = next) {
		next = io->next;
		if (io->op.kind == SEG_WRITE)
			accept_store(d, io);
		else if (!d->breaker.reads)
			raw_answer(d, io, -EBUSY);
		else
			append(io->op.kind == SEG_READ ? &d->loads : &d->others, io);
	}
}

/* ---- into the store ------------------------------------------------------------------------------------------------------------ */

static void tell_too_large(struct raw_device *d, uint64_t bytes)
{
	uint64_t dropped;
	if (log_limit_pass(&d->too_large, 60000, &dropped))
		log_warn("L2 device %s: objects of %.1f MiB do not fit into its segments and are not stored (%llu "
			 "more); format it with "
			 "larger ones: lmcache-appliance l2 format --force --segment-size",
			 d->path, (double)bytes / (1 << 20), (unsigned long long)dropped);
}

/* Said once for the size, and again for a larger one: what does not fit behind the last object of a segment is not used. */
static void tell_wasteful(struct raw_device *d, uint64_t bytes)
{
	struct seg_stats n;
	uint64_t segment, each;

	if (bytes <= d->wasteful)
		return;
	seg_stats(d->seg, &n);
	segment = n.segments ? n.capacity_bytes / n.segments : 0;
	if (bytes <= segment / 4 || bytes > segment) {
		d->wasteful = segment / 4;
		return;
	}
	d->wasteful = bytes;
	each = segment / bytes;
	log_warn("L2 device %s: objects of %.1f MiB fit %llu times into a segment of %.1f MiB and leave %llu %% of it "
		 "unused; larger segments hold them better: lmcache-appliance l2 format --force --segment-size %lluM",
		 d->path, (double)bytes / (1 << 20), (unsigned long long)each, (double)segment / (1 << 20),
		 (unsigned long long)((segment - each * bytes) * 100 / segment),
		 (unsigned long long)(bytes > 128ull << 20 ? 1024 : (bytes * 8 + (1 << 20) - 1) >> 20));
}

static void op_done(struct seg_op *op)
{
	struct raw_slot *s = op->owner;
	struct raw_device *d = s->d;
	struct l2_io *io = s->io;
	raw_note(d, op);
	d->active--;
	if (op->kind == SEG_WRITE)
		d->active_stores--;
	s->io = NULL;
	s->op = NULL;
	s->next = d->unused;
	d->unused = s;
	if (op->result == -EFBIG)
		tell_too_large(d, op->bytes);
	else if (op->kind == SEG_WRITE)
		tell_wasteful(d, op->bytes);
	if (io && op->kind == SEG_WRITE && (op->result == -ENOSPC || op->result == -EROFS || op->result == -EFBIG))
		drop_store(d, io, op->result);
	else if (io)
		raw_answer(d, io, op->result);
}

static void start(struct raw_device *d, struct l2_io *io)
{
	struct raw_slot *s = d->unused;
	enum seg_op_kind kind = io->op.kind;
	d->unused = s->next;
	s->io = io;
	s->op = kind == SEG_READ || kind == SEG_WRITE ? &io->op : &s->own;
	*s->op = (struct seg_op){.kind = kind,
				 .key = io->key,
				 .mem = io->mem,
				 .bytes = io->bytes,
				 .sums = io->sums,
				 .done = op_done,
				 .owner = s};
	d->active++;
	d->active_stores += kind == SEG_WRITE;
	seg_submit(d->seg, s->op);
}

static void start_all(struct raw_device *d)
{
	struct l2_io *io;
	while (d->unused && (io = pop(&d->others)))
		start(d, io);
	while (d->unused && (io = pop(&d->loads)))
		start(d, io);
	while (d->unused && d->active_stores < RAW_STORES && (io = pop(&d->stores))) {
		atomic_fetch_sub(&d->queued_bytes, io->bytes);
		start(d, io);
	}
}

static void publish(struct raw_device *d)
{
	atomic_store_explicit(&d->in_flight_stores, d->active_stores, memory_order_relaxed);
	atomic_store_explicit(&d->in_flight_loads, d->active - d->active_stores, memory_order_relaxed);
	atomic_store_explicit(&d->queued, d->loads.n + d->stores.n + d->others.n, memory_order_relaxed);
}

/* ---- the thread ----------------------------------------------------------------------------------------------------------------- */

/* Without a disk: until somebody pushes, or it is time to look for the device. */
static void wait_without_disk(struct raw_device *d, uint64_t wait_ns)
{
	uint64_t until = clock_ns() + wait_ns;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
	lk_lock(&d->lk);
	if (!atomic_load(&d->inbox) && !atomic_load(&d->stop))
		pthread_cond_timedwait(&d->wake, &d->lk.m, &t);
	lk_unlock(&d->lk);
}

static void turns(struct raw_device *d)
{
	while (!atomic_load(&d->stop)) {
		accept_all(d);
		uint64_t wait_ns = raw_tick(d);
		if (d->seg && d->breaker.reads)
			start_all(d);
		publish(d);
		if (d->seg)
			seg_run(d->seg, wait_ns);
		else
			wait_without_disk(d, wait_ns);
	}
}

/* Buffers that the device still owns are not answered for by the store; their owners hear it from here. */
static void finish(struct raw_device *d, uint32_t wait_ms)
{
	accept_all(d);
	raw_release(d, -ECANCELED);
	if (d->seg)
		raw_close_store(d, wait_ms);
	for (uint32_t i = 0; i < RAW_SLOTS; i++) {
		struct l2_io *io = d->slots[i].io;
		d->slots[i].io = NULL;
		if (io)
			raw_answer(d, io, -ECANCELED);
	}
}

static void tell_opened(struct raw_device *d, int rc)
{
	struct raw *r = d->raw;
	lk_lock(&r->started_lk);
	d->opened = rc;
	pthread_cond_broadcast(&r->started);
	lk_unlock(&r->started_lk);
}

void *raw_device_run(void *device)
{
	struct raw_device *d = device;
	const struct l2_env *env = &d->raw->env;
	char name[16];
	struct disk_facts facts = {.node = NODE_UNKNOWN};
	snprintf(name, sizeof(name), "lmca-disk%u", d->index);
	/* Near the device before memory is touched and the ring is made. */
	disk_probe(d->path, &facts, NULL);
	if (env->enter)
		env->enter(env->ctx, facts.node, name);
	int rc = raw_open(d, &d->why);
	tell_opened(d, rc);
	if (rc == 0) {
		turns(d);
		finish(d, atomic_load(&d->raw->close_ms));
	}
	if (env->leave)
		env->leave(env->ctx);
	return NULL;
}
