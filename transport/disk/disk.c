#include "transport/disk/disk_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define REAP        64u
#define TELL_BYTES  (512u << 10) /* told between two looks at the engine */
#define MORE        64u          /* of those looks in a turn */
#define REFUSALS    8
#define UNKNOWN_NR  128u /* requests of a queue that does not say */
#define BESIDE_DATA 2u   /* sub-IOs kept for flush and discard */

static uint32_t count_limit(const struct disk_facts *facts)
{
	uint32_t n = (facts->nr_requests ? facts->nr_requests : UNKNOWN_NR) / 2;

	if (n < 2)
		n = 2;
	return n < DISK_MAX_COUNT ? n : DISK_MAX_COUNT;
}

static uint32_t sub_limit(const struct disk_conf *conf, const struct disk_facts *facts)
{
	uint32_t n = DISK_SUB_MAX;

	if (conf->sub_io_bytes && conf->sub_io_bytes < n)
		n = conf->sub_io_bytes;
	if (facts->max_io_bytes && facts->max_io_bytes < n)
		n = facts->max_io_bytes;
	n &= ~(DISK_ALIGN - 1);
	return n ? n : DISK_ALIGN;
}

uint32_t disk_step(const struct disk_facts *facts, uint32_t sub_bytes, uint64_t page_bytes)
{
	uint64_t most = facts->max_segments * page_bytes;
	uint32_t n = DISK_ALIGN;

	if (!most || most >= sub_bytes)
		return sub_bytes;
	while ((uint64_t)n * 2 <= most) /* equal pieces of a sub-block, not one long and one short */
		n *= 2;
	return n;
}

int disk_make(const struct disk_conf *conf, const struct disk_facts *facts, struct disk **out, struct why *why)
{
	struct disk *d = mem_calloc(1, sizeof *d);
	uint32_t subs;

	if (!d)
		return why_set(why, -ENOMEM, "no memory for a disk");
	d->facts = *facts;
	d->write = conf->write;
	d->sub_bytes = sub_limit(conf, facts);
	d->loose_step = disk_step(facts, d->sub_bytes, DISK_ALIGN);
	d->max_count = count_limit(facts);
	subs = d->nsubs = 2 * (d->max_count + BESIDE_DATA); /* as many again came back and are not told yet */
	d->subs = mem_calloc(subs, sizeof *d->subs);
	if (!d->subs) {
		mem_free(d);
		return why_set(why, -ENOMEM, "no memory for %u sub-IOs", subs);
	}
	disk_queue_init(d, conf->window_bytes);
	disk_publish(d);
	*out = d;
	return 0;
}

void disk_free(struct disk *d)
{
	mem_free(d->subs);
	disk_fixed_drop(d);
	mem_free(d);
}

int disk_open_engine(const struct disk_conf *conf, const struct disk_facts *facts, const struct disk_engine_ops *ops,
		     void *engine, struct disk **out, struct why *why)
{
	struct disk *d = NULL;
	int rc = disk_make(conf, facts, &d, why);

	*out = NULL;
	if (!rc)
		rc = disk_fixed_make(d, conf, why);
	if (rc) {
		if (d)
			disk_free(d);
		ops->close(engine, false);
		return rc;
	}
	disk_attach(d, ops, engine);
	*out = d;
	return 0;
}

void disk_attach(struct disk *d, const struct disk_engine_ops *ops, void *engine)
{
	d->ops = ops;
	d->engine = engine;
	disk_fixed_begin(d);
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

static void tell_refused(struct disk *d)
{
	struct disk_io *io = d->failed, *next;

	/* Not those that callbacks add: they are told next time, so that this ends. */
	d->failed = NULL;
	d->failed_tail = &d->failed;
	for (; io; io = next) {
		next = io->next;
		disk_done(d, io);
	}
}

static uint64_t wait_limit(struct disk *d, uint64_t wait_ns)
{
	uint64_t due, now;

	if (d->done_now || (d->ready && !d->with_engine) || d->failed || !wait_ns)
		return 0;
	due = disk_retry_due(d);
	if (due > disk_fixed_due(d))
		due = disk_fixed_due(d);
	if (due == UINT64_MAX)
		return wait_ns;
	now = disk_now(d);
	due = due > now ? due - now : 0;
	return due < wait_ns ? due : wait_ns;
}

static uint32_t reap(struct disk *d, struct disk_sub **got, uint64_t wait_ns)
{
	uint32_t n;

	if (!wait_ns)
		return d->ops->reap(d->engine, got, REAP, 0);
	/* disk_wake sets `woken`, then looks at `asleep`; here it is the other way round, so one of the two sees the other. */
	atomic_store(&d->asleep, true);
	if (atomic_exchange(&d->woken, false))
		wait_ns = 0;
	n = d->ops->reap(d->engine, got, REAP, wait_ns);
	atomic_store(&d->asleep, false);
	atomic_store(&d->woken, false);
	return n;
}

static void take_back(struct disk *d, struct disk_sub **got, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		disk_back(d, got[i]);
}

/* Runs the callbacks of what came back. Those of parts may take as long as the device needs for the next ones: before the first and now
 * and then between them it gets what found room, so that it never waits for them. */
static void tell_all(struct disk *d)
{
	struct disk_sub *got[REAP];
	uint64_t since = TELL_BYTES;
	uint32_t more = MORE;

	while (d->back) {
		if (since >= TELL_BYTES && d->back->io->part) {
			since = 0;
			disk_issue(d);
			if (more && more--)
				take_back(d, got, d->ops->reap(d->engine, got, REAP, 0));
		}
		since += d->back->whole;
		disk_tell(d);
	}
}

uint32_t disk_run(struct disk *d, uint64_t wait_ns)
{
	struct disk_sub *got[REAP];
	uint32_t n;

	check(!d->running); /* not from a callback */
	d->running = true;
	d->done_now = 0;
	tell_refused(d);
	disk_issue(d);
	disk_fixed_grow(d); /* while the device works */
	disk_publish(d);
	n = reap(d, got, wait_limit(d, wait_ns));
	for (;;) {
		take_back(d, got, n);
		tell_all(d);
		if (n < REAP)
			break;
		n = d->ops->reap(d->engine, got, REAP, 0);
	}
	disk_issue(d); /* what found room; a ring tells the kernel at the next call, together with the wait */
	window_adapt(&d->window, disk_now(d));
	disk_publish(d);
	d->running = false;
	return d->done_now;
}

void disk_wake(struct disk *d)
{
	if (!atomic_exchange(&d->woken, true) && atomic_load(&d->asleep))
		d->ops->wake(d->engine);
}

uint64_t disk_now(const struct disk *d)
{
	return d->ops->now(d->engine);
}

void disk_write_share(struct disk *d, uint64_t bytes)
{
	d->write_share = bytes;
}

uint32_t disk_close(struct disk *d, uint32_t wait_ms)
{
	uint64_t end, now;
	uint32_t left;
	bool leak;

	if (!d)
		return 0;
	d->closing = true; /* callbacks that submit more are refused */
	now = disk_now(d);
	end = now + wait_ms * 1000000ull;
	while (d->pending && now < end) {
		disk_run(d, end - now);
		now = disk_now(d);
	}
	if (d->pending)
		disk_run(d, 0);
	for (int i = 0; i < REFUSALS && d->failed; i++) /* of what callbacks submitted; some never learn */
		disk_run(d, 0);
	left = (uint32_t)d->pending;
	leak = d->with_engine != 0;
	d->ops->close(d->engine, leak);
	if (leak && !d->ops->forgets)
		d->subs = NULL; /* threads that hang still write their results there */
	disk_free(d);
	return left;
}

/* ---- telling ------------------------------------------------------------------------------------------------------------- */

const struct disk_facts *disk_facts(const struct disk *d)
{
	return &d->facts;
}

/* "3.0 of 4.0 GiB", or MiB where that says more. */
static void amount(char *buf, size_t cap, uint64_t n, uint64_t of)
{
	bool small = of < 1ull << 30;
	double unit = (double)(1ull << (small ? 20 : 30));

	snprintf(buf, cap, "%.1f of %.1f %s", (double)n / unit, (double)of / unit, small ? "MiB" : "GiB");
}

void disk_describe(const struct disk *d, char *buf, size_t cap)
{
	const char *name = d->ops->text ? d->ops->text(d->engine) : d->ops->name;
	uint64_t window = atomic_load_explicit(&d->n.window_bytes, memory_order_relaxed);
	char fixed[64] = "no fixed buffers", text[48];

	if (d->asked_total) {
		amount(text, sizeof text, atomic_load_explicit(&d->n.fixed_memory, memory_order_relaxed),
		       d->asked_total);
		snprintf(fixed, sizeof fixed, "fixed buffers %s", text);
	}
	snprintf(buf, cap, "%s, %s, sub-IO %u KiB, window %llu MiB", name, fixed, d->sub_bytes >> 10,
		 (unsigned long long)(window >> 20));
}

void disk_stats(const struct disk *d, struct disk_stats *out)
{
	struct disk_engine_counts c = {0};
	uint64_t start = atomic_load_explicit(&d->n.oldest_start, memory_order_relaxed), now = start ? disk_now(d) : 0;
	uint64_t data = atomic_load_explicit(&d->n.oldest_data, memory_order_relaxed);

	if (d->ops->counts)
		d->ops->counts(d->engine, &c);
#define GET(field) atomic_load_explicit(&d->n.field, memory_order_relaxed)
	*out = (struct disk_stats){.reads = GET(reads),
				   .writes = GET(writes),
				   .flushes = GET(flushes),
				   .discards = GET(discards),
				   .read_bytes = GET(read_bytes),
				   .write_bytes = GET(write_bytes),
				   .sub_ios = GET(sub_ios),
				   .fixed_bytes = GET(fixed_bytes),
				   .loose_bytes = GET(loose_bytes),
				   .errors = GET(errors),
				   .short_ios = GET(short_ios),
				   .retries = GET(retries),
				   .fixed_memory = GET(fixed_memory),
				   .all_memory = d->asked_total,
				   .queued = GET(queued),
				   .in_flight = GET(in_flight),
				   .in_flight_bytes = GET(in_flight_bytes),
				   .window_bytes = GET(window_bytes),
				   .submit_calls = c.submit_calls,
				   .punts = c.punts,
				   .splits = c.splits,
				   .traced = c.traced,
				   .oldest_ns = now > start ? now - start : 0,
				   .oldest_data_ns = data && now > data ? now - data : 0};
#undef GET
}
