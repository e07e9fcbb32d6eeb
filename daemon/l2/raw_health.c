/* raw_health.c - opening a device, the breaker beside it, the probe, and a device that went away and comes back. */
#include "daemon/l2/raw_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MS          1000000ull
#define TICK_NS     (100 * MS)
#define PATIENCE_NS (1000ull * MS) /* of a store beside reads, before writes get more of the window */
#define IDLE_NS     (1000 * MS)
#define HUGE        (2ull << 20)
#define BUCKET_S    60.0 /* the bucket of written bytes holds so many seconds */
#define BUCKET_MIN  (64.0 * (1 << 20))

/* ---- opening ---------------------------------------------------------------------------------------------------------- */

/* On whole large pages: a fixed buffer of small ones is slower than none. */
static uint8_t *get_memory(void)
{
	uint8_t *p = mmap(NULL, RAW_MEMORY + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	uint8_t *at = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	if (at != p)
		munmap(p, (size_t)(at - p));
	munmap(at + RAW_MEMORY, HUGE - (size_t)(at - p));
	madvise(at, RAW_MEMORY, MADV_HUGEPAGE);
	return at;
}

static int open_disk(struct raw_device *d, struct disk **out, struct why *why)
{
	struct raw *r = d->raw;
	uint32_t n = r->env.nbuffers;
	struct disk_buffer *buffers = mem_calloc(n + 1, sizeof(*buffers));
	if (!buffers)
		return why_set(why, -ENOMEM, "out of memory");
	if (n)
		memcpy(buffers, r->env.buffers, n * sizeof(*buffers));
	buffers[n] = (struct disk_buffer){.base = d->memory, .bytes = RAW_MEMORY};
	struct disk_conf conf = {.path = d->path,
				 .write = true,
				 .exclusive = true,
				 .buffered = r->buffered,
				 .engine = r->engine,
				 .window_bytes = r->window_bytes,
				 .buffers = buffers,
				 .nbuffers = n + 1,
				 .trace = r->trace};
	int rc = r->opener.open ? r->opener.open(r->opener.ctx, d->index, &conf, out, why) : disk_open(&conf, out, why);
	mem_free(buffers);
	return rc;
}

static void set_limit(struct raw_device *d)
{
	struct seg_stats n;
	seg_stats(d->seg, &n);
	double rate = (double)d->raw->write_rate, by_day = d->raw->dwpd * (double)n.capacity_bytes / 86400;
	if (by_day > 0 && (rate <= 0 || by_day < rate))
		rate = by_day;
	d->tokens_ns = rate / 1e9;
	d->tokens_max = rate * BUCKET_S > BUCKET_MIN ? rate * BUCKET_S : BUCKET_MIN;
	d->tokens = d->tokens_max;
	d->tokens_at = raw_now(d);
}

int raw_open(struct raw_device *d, struct why *why)
{
	struct raw *r = d->raw;
	struct disk *disk = NULL;
	struct seg *seg = NULL;
	if (!d->memory && !(d->memory = get_memory()))
		return why_set(why, -ENOMEM, "%s: no memory for its buffers", d->path);
	int rc = open_disk(d, &disk, why);
	if (rc)
		return rc;
	struct raw_view view = {.facts = *disk_facts(disk)};
	disk_describe(disk, view.engine, sizeof(view.engine));
	struct seg_conf conf = {.disk = disk,
				.memory = d->memory,
				.names = r->env.names,
				.max_objects = r->max_objects,
				.verify = r->verify,
				.discard = r->discard,
				.readmit = r->readmit,
				.flush_ms = r->flush_ms};
	rc = seg_open(&conf, &seg, why);
	if (rc) {
		why_prefix(why, "%s", d->path);
		return rc;
	}
	lk_lock(&d->lk);
	d->seg = seg;
	view.breaker = d->breaker;
	d->view = view;
	lk_unlock(&d->lk);
	set_limit(d);
	log_info("L2 device %s: %s", d->path, view.engine);
	return 0;
}

uint32_t raw_close_store(struct raw_device *d, uint32_t wait_ms)
{
	struct seg *seg = d->seg;
	lk_lock(&d->lk);
	d->seg = NULL;
	lk_unlock(&d->lk);
	uint32_t kept = seg_close(seg, wait_ms);
	if (kept) {
		/* The device may still write there. */
		log_warn("L2 device %s: %u requests never came back; their memory is given up", d->path, kept);
		d->memory = NULL;
	}
	return kept;
}

/* ---- what results say ------------------------------------------------------------------------------------------------------ */

void raw_note(struct raw_device *d, const struct seg_op *op)
{
	uint64_t now = raw_now(d), ns = 0;
	bool write = op->kind != SEG_READ;
	int err = op->result;
	switch (err) {
	case -ENOENT: /* answered from memory */
	case -EEXIST:
	case -EMSGSIZE:
	case -ENOSPC:
	case -EFBIG:
	case -EBUSY:
	case -ECANCELED:
	case -ENOMEM:
	case -EINVAL:
		return;
	case -EILSEQ: /* the device read what it has */
		err = 0;
		break;
	default:
		break;
	}
	if (err)
		d->last_error = err;
	if (!err && op->kind == SEG_READ && op->io.started_ns && now > op->io.started_ns)
		ns = (now - op->io.started_ns) / crc_blocks(op->bytes ? op->bytes : 1);
	if (err || op->kind == SEG_READ || op->kind == SEG_WRITE)
		breaker_done(&d->breaker, now, write, err, ns);
}

/* ---- the probe ---------------------------------------------------------------------------------------------------------------- */

static uint64_t *scratch(struct raw_device *d)
{
	return (uint64_t *)(void *)(d->memory + SEG_MEMORY);
}

static void probe_done(struct disk_io *io)
{
	struct raw_device *d = io->owner;
	uint64_t now = raw_now(d);
	if (io->result == 0 && io->op == DISK_WRITE && d->seg) {
		memset(scratch(d), 0, RAW_SCRATCH);
		io->op = DISK_READ;
		disk_submit(seg_disk(d->seg), io);
		return;
	}
	d->probe_sent = false;
	/* Kernel 6.1 answers plain -EIO for a drive that was pulled out. */
	if (io->result == -ENODEV || io->result == -ENXIO ||
	    (io->result && d->seg && disk_left(disk_facts(seg_disk(d->seg)))))
		breaker_gone(&d->breaker, now);
	if (io->result)
		d->last_error = io->result;
	breaker_probed(&d->breaker, now,
		       io->result == 0 && scratch(d)[0] == d->probes && scratch(d)[511] == ~d->probes);
}

static void send_probe(struct raw_device *d)
{
	uint64_t *block = scratch(d);
	memset(block, 0, RAW_SCRATCH);
	block[0] = ++d->probes;
	block[RAW_SCRATCH / 8 - 1] = ~d->probes;
	d->probe = (struct disk_io){.op = DISK_WRITE,
				    .urgent = true,
				    .offset = RAW_PROBE_AT,
				    .bytes = RAW_SCRATCH,
				    .buf = block,
				    .done = probe_done,
				    .owner = d};
	d->probe_sent = true;
	disk_submit(seg_disk(d->seg), &d->probe);
}

/* A device that was pulled out and put back is another one to the kernel, under the same path. Only a store of ours is taken. */
static void open_again(struct raw_device *d)
{
	struct why why = {0};
	uint64_t now;
	if (d->seg)
		raw_close_store(d, 0);
	int rc = raw_open(d, &why);
	now = raw_now(d);
	if (rc) {
		d->last_error = rc;
		log_debug("L2 device %s: still away: %s", d->path, why.text);
	}
	breaker_probed(&d->breaker, now, rc == 0);
}

static void try_device(struct raw_device *d)
{
	struct disk_stats n = {0};
	if (d->seg)
		disk_stats(seg_disk(d->seg), &n);
	if (!d->seg || (d->breaker.cause == BREAKER_GONE && !d->active && !n.in_flight && !n.queued))
		open_again(d);
	else
		send_probe(d);
}

/* ---- the breaker --------------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* The median of the other devices' p99, the lower one of two: 0 when none is known. */
static uint64_t peers_p99(const struct raw_device *d)
{
	uint64_t v[RAW_DEVICES], ns;
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->raw->ndevices; i++)
		if (i != d->index && (ns = atomic_load_explicit(&d->raw->device[i].p99_ns, memory_order_relaxed)))
			v[n++] = ns;
	if (!n)
		return 0;
	qsort(v, n, sizeof(v[0]), by_value);
	return v[(n - 1) / 2];
}

/* One line when something changes for those who use it; tries that fail are no change. */
static void tell(struct raw_device *d)
{
	const struct breaker *b = &d->breaker;
	if (b->reads == d->told_reads && b->writes == d->told_writes && b->cause == d->told_cause)
		return;
	if (b->reads && b->writes)
		log_warn("L2 device %s: in use again", d->path);
	else
		log_error("L2 device %s: %s%s%s; %s until a probe succeeds", d->path, breaker_cause_text(b->cause),
			  d->last_error ? ": " : "", d->last_error ? strerrordesc_np(-d->last_error) : "",
			  b->reads ? "no writes" : "not used");
	d->told_reads = b->reads;
	d->told_writes = b->writes;
	d->told_cause = b->cause;
}

static void publish(struct raw_device *d, uint64_t now)
{
	const struct breaker *b = &d->breaker;
	atomic_store(&d->reads, b->reads);
	atomic_store(&d->writes, b->writes);
	atomic_store_explicit(&d->p99_ns, b->p99_ns, memory_order_relaxed);
	lk_lock(&d->lk);
	d->view.breaker = *b;
	d->view.now_ns = now;
	d->view.last_error = d->last_error;
	if (d->seg)
		disk_describe(seg_disk(d->seg), d->view.engine, sizeof(d->view.engine));
	lk_unlock(&d->lk);
}

/* Reads are before writes, but a store must not wait for ever beside them: every byte of it stays locked in L1 meanwhile. */
uint64_t raw_write_share(uint64_t waited_ns, uint64_t window)
{
	uint64_t most = window / 4 > DISK_SUB_MAX ? window / 4 : DISK_SUB_MAX;

	if (waited_ns <= PATIENCE_NS)
		return DISK_SUB_MAX;
	waited_ns -= PATIENCE_NS;
	if (waited_ns >= 3 * PATIENCE_NS)
		return most;
	return DISK_SUB_MAX + (most - DISK_SUB_MAX) / 16 * (waited_ns * 16 / (3 * PATIENCE_NS));
}

static void balance(struct raw_device *d, uint64_t window)
{
	uint64_t now = clock_ns(), oldest = d->stores.head ? d->stores.head->submitted_ns : now;

	for (uint32_t i = 0; d->active_stores && i < RAW_SLOTS; i++) {
		const struct raw_slot *s = &d->slots[i];
		if (s->io && s->op == &s->io->op && s->op->kind == SEG_WRITE && s->io->submitted_ns < oldest)
			oldest = s->io->submitted_ns;
	}
	disk_write_share(seg_disk(d->seg), raw_write_share(now - oldest, window));
}

uint64_t raw_tick(struct raw_device *d)
{
	struct breaker *b = &d->breaker;
	struct disk_stats n = {0};
	uint64_t now = raw_now(d), changes = d->view.breaker.changes;
	bool due = now - d->tick_at >= TICK_NS;
	if (due) {
		d->tick_at = now;
		if (d->seg) {
			disk_stats(seg_disk(d->seg), &n);
			balance(d, n.window_bytes);
		}
		breaker_tick(b, now, n.oldest_data_ns, peers_p99(d));
		if (b->state != BREAKER_CLOSED && !d->probe_sent && breaker_probe(b, now))
			try_device(d);
	}
	if (due || b->changes != changes) {
		tell(d);
		publish(d, now);
	}
	if (!b->reads)
		raw_release(d, -EBUSY);
	else if (!b->writes)
		raw_release_stores(d, -EBUSY);
	return d->active || b->state != BREAKER_CLOSED ? TICK_NS : IDLE_NS;
}
