#include "transport/disk/disk_sim_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define DEFAULT_QUEUE 128u
#define DEFAULT_CACHE (8u << 20)
#define NS_SECOND     1000000000u

/* ---- in the device ---------------------------------------------------------------------------------------------------------- */

static bool sooner(const struct flight *a, const struct flight *b)
{
	return a->due != b->due ? a->due < b->due : a->tie < b->tie;
}

static void heap_push(struct disk_sim *s, struct flight f)
{
	uint32_t i = s->nheap++;

	for (; i && sooner(&f, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = f;
}

static struct flight heap_pop(struct disk_sim *s)
{
	struct flight top = s->heap[0], last = s->heap[--s->nheap];
	uint32_t i = 0;

	for (uint32_t c; (c = 2 * i + 1) < s->nheap; i = c) {
		if (c + 1 < s->nheap && sooner(&s->heap[c + 1], &s->heap[c]))
			c++;
		if (!sooner(&s->heap[c], &last))
			break;
		s->heap[i] = s->heap[c];
	}
	s->heap[i] = last;
	return top;
}

static enum disk_sim_fault draw_fault(struct disk_sim *s, const struct disk_sub *sub)
{
	const struct disk_sim_faults *p = &s->faults;
	const double of[] = {
		[SIM_READ_ERROR] = sub->op == DISK_READ ? p->read_error : 0,
		[SIM_WRITE_ERROR] = sub->op == DISK_WRITE ? p->write_error : 0,
		[SIM_FLUSH_ERROR] = sub->op == DISK_FLUSH ? p->flush_error : 0,
		[SIM_HANG] = p->hang,
		[SIM_ROT_READ] = sub->op == DISK_READ ? p->rot_read : 0,
		[SIM_ROT_WRITE] = sub->op == DISK_WRITE ? p->rot_write : 0,
		[SIM_DROPPED] = sub->op == DISK_WRITE ? p->dropped : 0,
		[SIM_MISDIRECTED] = sub->op == DISK_WRITE ? p->misdirected : 0,
		[SIM_TORN] = sub->op == DISK_WRITE ? p->torn : 0,
		[SIM_SHORT_IO] = sub->op <= DISK_WRITE && sub->bytes > DISK_ALIGN ? p->short_io : 0,
		[SIM_AGAIN] = sub->op <= DISK_WRITE ? p->again : 0,
	};

	for (uint32_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		if (!sim_strikes(s, CHANCE_FAULT, of[i]))
			continue;
		s->n.injected[i]++;
		return (enum disk_sim_fault)i;
	}
	return NO_FAULT;
}

static uint64_t due_time(struct disk_sim *s, const struct disk_sub *sub)
{
	uint64_t service = sub->op == DISK_READ    ? s->conf.read_ns
			   : sub->op == DISK_WRITE ? s->conf.write_ns
						   : s->conf.flush_ns;
	uint64_t due = s->now + service / 2 + sim_below(s, CHANCE_TIME, service + 1);

	if (s->conf.bytes_per_ns > 0 && sub->op <= DISK_WRITE) {
		if (s->pipe_free < s->now)
			s->pipe_free = s->now;
		s->pipe_free += (uint64_t)(sub->bytes / s->conf.bytes_per_ns);
		if (due < s->pipe_free)
			due = s->pipe_free;
	}
	if (!s->conf.reorder && due < s->last_due)
		due = s->last_due;
	s->last_due = due;
	return due;
}

static void must_fit(const struct disk_sim *s, const struct disk_sub *sub)
{
	uint64_t bytes = sim_bytes(sub);

	check(sub->op <= DISK_DISCARD);
	if (sub->op == DISK_FLUSH)
		return;
	check(bytes && bytes <= s->conf.bytes && sub->offset <= s->conf.bytes - bytes);
	check(sub->offset % DISK_ALIGN == 0 && bytes % DISK_ALIGN == 0);
	check(sub->op == DISK_DISCARD || (bytes <= DISK_SUB_MAX && (uintptr_t)sub->buf % DISK_ALIGN == 0));
}

static uint32_t sim_submit(void *engine, struct disk_sub **subs, uint32_t n)
{
	struct disk_sim *s = engine;
	uint32_t i = 0;

	for (; i < n && s->nheap + s->nhung + s->ndead < s->conf.queue; i++) {
		struct flight f = {.sub = subs[i], .covers = s->writes, .fault = NO_FAULT};
		must_fit(s, f.sub);
		if (s->down) {
			s->dead[s->ndead++] = f;
			continue;
		}
		f.fault = draw_fault(s, f.sub);
		f.due = due_time(s, f.sub);
		f.tie = s->conf.reorder ? sim_chance(s, CHANCE_TIME) : s->submitted;
		s->submitted++;
		if (f.fault == SIM_HANG)
			s->hung[s->nhung++] = f;
		else
			heap_push(s, f);
	}
	return i;
}

static void finish_read(struct disk_sim *s, const struct flight *f)
{
	struct disk_sub *sub = f->sub;
	uint8_t *to = sub->buf;

	memcpy(to, s->medium + sub->offset, (size_t)sub->result);
	if (f->fault == SIM_ROT_READ)
		to[sim_below(s, CHANCE_FAULT, (uint64_t)sub->result)] ^= (uint8_t)(1u << sim_below(s, CHANCE_FAULT, 8));
	s->n.reads++;
	s->n.read_bytes += (uint64_t)sub->result;
}

static void finish_write(struct disk_sim *s, struct flight *f)
{
	struct disk_sub *sub = f->sub, part = *sub;

	part.bytes = (uint32_t)sub->result;
	f->sub = &part;
	sim_store(s, f, !s->conf.write_through);
	f->sub = sub;
	s->n.writes++;
	s->n.written_bytes += (uint64_t)sub->result;
}

static void finish_flush(struct disk_sim *s, const struct flight *f)
{
	if (s->faults.lying_flush)
		s->n.injected[SIM_LYING_FLUSH]++;
	else
		sim_settle(s, f->covers);
	s->n.flushes++;
}

static void finish(struct disk_sim *s, struct flight *f)
{
	struct disk_sub *sub = f->sub;
	bool error = f->fault == SIM_READ_ERROR || f->fault == SIM_WRITE_ERROR || f->fault == SIM_FLUSH_ERROR;

	if (s->faults.gone || f->fault == SIM_AGAIN) {
		s->n.injected[SIM_GONE] += f->fault != SIM_AGAIN;
		sub->result = f->fault == SIM_AGAIN ? -EAGAIN : -ENODEV;
		return;
	}
	if (error) {
		if (sub->op == DISK_WRITE)
			sim_store(s, f, !s->conf.write_through);
		sub->result = -EIO;
		return;
	}
	sub->result = sub->op <= DISK_WRITE ? (int32_t)sub->bytes : 0;
	if (f->fault == SIM_SHORT_IO)
		sub->result = (int32_t)(DISK_ALIGN * (1 + sim_below(s, CHANCE_FAULT, sub->bytes / DISK_ALIGN - 1)));
	if (sub->op == DISK_READ)
		finish_read(s, f);
	else if (sub->op == DISK_WRITE)
		finish_write(s, f);
	else if (sub->op == DISK_FLUSH)
		finish_flush(s, f);
	else
		sim_discard(s, sub);
}

static uint32_t reap_dead(struct disk_sim *s, struct disk_sub **out, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && s->ndead) {
		out[n] = s->dead[--s->ndead].sub;
		out[n++]->result = -ENODEV;
	}
	return n;
}

static uint32_t sim_reap(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns)
{
	struct disk_sim *s = engine;
	uint64_t wait = wait_ns > NS_SECOND ? NS_SECOND
					    : wait_ns; /* without end: it returns now and then, as the real one may */
	uint32_t n = 0;

	s->now += SIM_POLL_NS;
	if (s->down) {
		s->now += s->ndead ? 0 : wait;
		return reap_dead(s, out, max);
	}
	if (s->woken)
		wait = 0;
	s->woken = false;
	if (!s->nheap || s->heap[0].due > s->now + wait)
		s->now += wait;
	else if (s->heap[0].due > s->now)
		s->now = s->heap[0].due;
	while (n < max && s->nheap && s->heap[0].due <= s->now) {
		struct flight f = heap_pop(s);
		finish(s, &f);
		out[n++] = f.sub;
	}
	return n;
}

static void sim_wake(void *engine)
{
	((struct disk_sim *)engine)->woken = true;
}

static uint64_t sim_now(void *engine)
{
	return ((struct disk_sim *)engine)->now;
}

/* With `leak` the disk keeps its sub-IOs for ever, but nothing of ours will touch them. */
static void sim_close(void *engine, bool leak)
{
	struct disk_sim *s = engine;

	check(leak || s->nheap + s->nhung + s->ndead == 0);
	if (!s->down)
		disk_sim_kill(s);
	s->ndead = 0;
	s->open = false;
}

const struct disk_engine_ops disk_sim_ops = {
	.name = "simulator",
	.close = sim_close,
	.submit = sim_submit,
	.reap = sim_reap,
	.wake = sim_wake,
	.now = sim_now,
	.forgets = true,
};

/* ---- what tests call --------------------------------------------------------------------------------------------------------- */

int disk_sim_create(const struct disk_sim_conf *conf, struct disk_sim **out)
{
	struct disk_sim *s = mem_calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	check(conf->bytes && conf->bytes % DISK_ALIGN == 0);
	s->conf = *conf;
	s->conf.queue = conf->queue ? conf->queue : DEFAULT_QUEUE;
	s->conf.cache_bytes = conf->cache_bytes ? conf->cache_bytes : DEFAULT_CACHE;
	s->now = NS_SECOND;
	for (uint32_t i = 0; i < CHANCES; i++) {
		s->rnd[i] = conf->seed + i;
		s->rnd[i] = sim_chance(s, i); /* neighbouring seeds far apart */
	}
	s->heap = mem_calloc(s->conf.queue, sizeof(*s->heap));
	s->hung = mem_calloc(s->conf.queue, sizeof(*s->hung));
	s->dead = mem_calloc(s->conf.queue, sizeof(*s->dead));
	if (sim_medium_create(s) || !s->heap || !s->hung || !s->dead) {
		disk_sim_destroy(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void disk_sim_destroy(struct disk_sim *s)
{
	if (!s)
		return;
	check(!s->open);
	sim_medium_destroy(s);
	mem_free(s->heap);
	mem_free(s->hung);
	mem_free(s->dead);
	mem_free(s);
}

void disk_sim_facts(const struct disk_sim *s, struct disk_facts *out)
{
	*out = (struct disk_facts){
		.path = "simulated",
		.block = true,
		.bytes = s->conf.bytes,
		.logical_block = 512,
		.dma_align = 4,
		.max_io_bytes = DISK_SUB_MAX,
		.nr_requests = s->conf.queue,
		.volatile_cache = !s->conf.write_through,
		.can_discard = true,
		.node = NODE_UNKNOWN,
		.model = "simulated",
		.scheduler = "none",
	};
}

int disk_sim_open(struct disk_sim *s, const struct disk_conf *conf, struct disk **out, struct why *why)
{
	struct disk_conf c = *conf;
	struct disk_facts facts;

	check(!s->open);
	s->open = true;
	s->down = false;
	s->woken = false;
	if (!c.path)
		c.path = "simulated";
	disk_sim_facts(s, &facts);
	return disk_open_engine(&c, &facts, &disk_sim_ops, s, out, why);
}

void disk_sim_faults(struct disk_sim *s, const struct disk_sim_faults *f)
{
	s->faults = f ? *f : (struct disk_sim_faults){0};
}

/* Everything in the device is given back as dead; `arrives` decides which writes reach the medium before. */
static void go_down(struct disk_sim *s, double arrives)
{
	for (uint32_t i = 0; i < s->nheap + s->nhung; i++) {
		struct flight *f = i < s->nheap ? &s->heap[i] : &s->hung[i - s->nheap];
		bool stored = f->sub->op == DISK_WRITE && f->fault != SIM_AGAIN && !s->faults.gone &&
			      sim_strikes(s, CHANCE_CRASH, arrives);
		if (stored)
			sim_store(s, f, true);
		else
			s->n.lost_writes += f->sub->op == DISK_WRITE;
		s->dead[s->ndead++] = *f;
	}
	s->nheap = s->nhung = 0;
	s->down = true;
}

void disk_sim_crash(struct disk_sim *s)
{
	static const double kept[] = {0, 0.2, 0.5, 0.9, 1};

	go_down(s, kept[sim_below(s, CHANCE_CRASH, 5)]);
	sim_lose(s);
	s->n.crashes++;
}

void disk_sim_kill(struct disk_sim *s)
{
	static const double kept[] = {0, 0.5, 1};

	go_down(s, kept[sim_below(s, CHANCE_CRASH, 3)]);
	if (s->conf.write_through)
		sim_settle(s, s->writes);
	s->n.kills++;
}

void disk_sim_release(struct disk_sim *s)
{
	for (uint32_t i = 0; i < s->nhung; i++) {
		s->hung[i].due = s->now;
		s->hung[i].fault = NO_FAULT;
		heap_push(s, s->hung[i]);
	}
	s->nhung = 0;
}

uint64_t disk_sim_now(const struct disk_sim *s)
{
	return s->now;
}

void disk_sim_stats(const struct disk_sim *s, struct disk_sim_stats *out)
{
	*out = s->n;
	out->hung = s->nhung;
	out->in_flight = s->nheap + s->nhung;
	out->volatile_writes = s->undo_end - s->undo_first;
	for (uint64_t i = s->undo_first; i != s->undo_end; i++)
		out->volatile_bytes += s->undo[i % s->undo_cap].bytes;
}
