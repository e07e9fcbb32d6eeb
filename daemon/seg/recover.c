/* recover.c - opening a store: the superblock, then header and seal of every segment, many at once. */
#include "daemon/seg/recover_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define WAIT_NS   (10u * 1000000u)
#define HANGS_NS  (30ull * 1000000000u) /* an open that waits longer than this for one IO gives up */
#define PAIR      (2u * FORMAT_BLOCK)   /* header and seal lie side by side */
#define FORMAT_ME "lmcache-appliance l2 format"

/* ---- single blocks, waiting ------------------------------------------------------------------------------------------- */

static void one_done(struct disk_io *io)
{
	((struct recovery *)io->owner)->one_done = true;
}

static int one(struct recovery *r, enum disk_op op, uint64_t offset, void *block)
{
	struct disk *d = r->s->disk;
	uint64_t since = disk_now(d);

	r->one = (struct disk_io){.op = op,
				  .urgent = true,
				  .offset = offset,
				  .bytes = op == DISK_FLUSH ? 0 : FORMAT_BLOCK,
				  .buf = block,
				  .done = one_done,
				  .owner = r};
	r->one_done = false;
	disk_submit(d, &r->one);
	while (!r->one_done) {
		disk_run(d, WAIT_NS);
		if (!r->one_done && disk_now(d) - since > HANGS_NS)
			return -ETIMEDOUT;
	}
	return r->one.result;
}

/* After an IO that hangs its buffer is not ours: no further one is tried. */
static int read_block(void *ctx, uint64_t offset, void *block)
{
	struct recovery *r = ctx;

	return r->one.op == DISK_READ && r->one.owner && !r->one_done ? -ETIMEDOUT : one(r, DISK_READ, offset, block);
}

/* Copies that are bad, or older than the one that counts, are written again: the next damage finds four. */
static void repair(struct recovery *r, const struct super_found *f)
{
	uint8_t *block = r->blocks + FORMAT_BLOCK;
	uint32_t n = 0;
	int rc = 0;

	for (uint32_t copy = 0; copy < FORMAT_SUPERS && !rc; copy++)
		if (!f->is_good[copy]) {
			format_super_encode(&f->super, copy, block);
			rc = one(r, DISK_WRITE, format_super_at(&f->super, copy), block);
			n += !rc;
		}
	if (n && !rc)
		rc = one(r, DISK_FLUSH, 0, NULL);
	if (rc && rc != -EBADF)
		log_warn("%s: superblock copies cannot be repaired: %s", disk_facts(r->s->disk)->path, strerror(-rc));
	else if (n)
		log_warn("%s: %u of %u superblock copies were damaged or old and have been written again",
			 disk_facts(r->s->disk)->path, n, FORMAT_SUPERS);
}

static int open_super(struct recovery *r, struct why *why)
{
	const struct disk_facts *facts = disk_facts(r->s->disk);
	struct super_found f;
	int rc = super_find(read_block, r, facts->bytes, r->blocks, &f);

	if (!r->one_done)
		return why_set(why, -ETIMEDOUT, "%s: the device does not answer", facts->path);
	if (rc == -ENOENT)
		return why_set(why, rc, "%s: there is no store on it; make one with '%s %s'", facts->path, FORMAT_ME,
			       facts->path);
	if (rc == -EPROTONOSUPPORT)
		return why_set(why, rc, "%s: its store is of another format version than %u", facts->path,
			       FORMAT_VERSION);
	if (rc)
		return why_set(why, rc, "%s: no superblock can be read: %s", facts->path, strerror(-rc));
	if (f.super.bytes > facts->bytes)
		return why_set(why, -EIO, "%s: the store has %" PRIu64 " bytes and the device only %" PRIu64,
			       facts->path, f.super.bytes, facts->bytes);
	if (!f.agreed)
		log_warn("%s: no two superblock copies agree; taking the newest that is whole, epoch %" PRIu64,
			 facts->path, f.super.epoch);
	r->s->super = f.super;
	if (f.good < FORMAT_SUPERS)
		repair(r, &f);
	return r->one_done ? 0 : why_set(why, -ETIMEDOUT, "%s: the device does not answer", facts->path);
}

/* ---- segment headers, many at once ------------------------------------------------------------------------------------ */

static bool ours(const struct seg *s, const uint8_t *uuid, uint32_t id, uint32_t expected)
{
	return memcmp(uuid, s->super.uuid, sizeof(s->super.uuid)) == 0 && id == expected;
}

static void take_header(struct recovery *r, uint32_t id, const uint8_t *pair)
{
	struct seg *s = r->s;
	struct segment *g = &s->segment[id];
	struct format_segment h;
	struct format_seal seal;

	*g = (struct segment){.state = SEGMENT_FREE};
	if (format_segment_decode(pair, &h) || !ours(s, h.uuid, h.id, id))
		return;
	g->generation = h.generation;
	if (h.generation > s->generation)
		s->generation = h.generation;
	if (h.epoch != s->super.epoch)
		return;
	g->state = SEGMENT_OPEN;
	if (format_seal_decode(pair + FORMAT_BLOCK, &seal) || !ours(s, seal.uuid, seal.id, id) ||
	    seal.generation != h.generation || seal.summary_at + seal.summary_bytes > s->super.segment_bytes)
		return;
	g->state = SEGMENT_SEALED;
	r->seal[id] = (struct seal_place){(uint32_t)(seal.summary_at / FORMAT_BLOCK), seal.summary_bytes, seal.records,
					  seal.summary_crc};
}

static void header_done(struct disk_io *io);

static void next_header(struct recovery *r, struct load *slot)
{
	const struct format_super *super = &r->s->super;

	slot->r = r;
	slot->segment = r->next_header++;
	slot->io = (struct disk_io){.op = DISK_READ,
				    .urgent = true,
				    .offset = format_segment_at(super, slot->segment),
				    .bytes = PAIR,
				    .buf = r->ring + (size_t)(slot - r->headers) * PAIR,
				    .done = header_done,
				    .owner = slot};
	disk_submit(r->s->disk, &slot->io);
}

static void header_done(struct disk_io *io)
{
	struct load *slot = io->owner;
	struct recovery *r = slot->r;

	if (io->result) {
		/* What it holds is unknown; nobody may write there before somebody has looked. */
		r->headers_bad++;
		*recover_segment(r, slot->segment) = (struct segment){.state = SEGMENT_SEALED, .suspect = true};
	} else {
		take_header(r, slot->segment, io->buf);
	}
	r->headers_left--;
	if (r->next_header < r->s->super.segments)
		next_header(r, slot);
}

static int read_headers(struct recovery *r, struct why *why)
{
	struct seg *s = r->s;
	uint32_t n = s->super.segments, last = n;
	uint64_t since = disk_now(s->disk);

	r->headers_left = n;
	for (uint32_t i = 0; i < HEADERS && i < n; i++)
		next_header(r, &r->headers[i]);
	while (r->headers_left) {
		disk_run(s->disk, WAIT_NS);
		if (r->headers_left != last)
			since = disk_now(s->disk);
		last = r->headers_left;
		if (last && disk_now(s->disk) - since > HANGS_NS)
			return why_set(why, -ETIMEDOUT, "%s: the device does not answer", disk_facts(s->disk)->path);
	}
	if (r->headers_bad == n)
		return why_set(why, -EIO, "%s: no segment can be read", disk_facts(s->disk)->path);
	if (r->headers_bad)
		log_warn("%s: %u of %u segment headers cannot be read", disk_facts(s->disk)->path, r->headers_bad, n);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static int allocate(struct recovery *r)
{
	uint32_t n = r->s->super.segments;

	r->s->segment = mem_calloc(n, sizeof(*r->s->segment));
	r->seal = mem_calloc(n, sizeof(*r->seal));
	r->order = mem_calloc(n, sizeof(*r->order));
	r->to_scan = mem_calloc(n, sizeof(*r->to_scan));
	r->headers = mem_calloc(HEADERS, sizeof(*r->headers));
	r->numbers = mem_calloc(SEG_NAMES_MAX, sizeof(*r->numbers));
	return r->s->segment && r->seal && r->order && r->to_scan && r->headers && r->numbers && scan_create(r) == 0
		       ? 0
		       : -ENOMEM;
}

int recover_open(struct seg *s, struct why *why)
{
	struct recovery *r = mem_calloc(1, sizeof(*r));

	if (!r)
		return why_set(why, -ENOMEM, "out of memory");
	s->recovery = r;
	r->s = s;
	r->started_ns = disk_now(s->disk);
	r->ring = s->conf.memory;
	r->windows = r->ring + LOAD_RING;
	r->blocks = r->windows + (size_t)SCAN_WINDOWS * DISK_SUB_MAX;
	r->one_done = true;
	int rc = open_super(r, why);
	if (rc)
		return rc;
	if (allocate(r))
		return why_set(why, -ENOMEM, "out of memory for %u segments", s->super.segments);
	return read_headers(r, why);
}

void recover_destroy(struct recovery *r)
{
	if (!r)
		return;
	for (uint32_t i = 0; i < r->nadopted; i++)
		mem_free(r->adopted[i].summary);
	scan_destroy(r);
	removed_free(&r->removed);
	mem_free(r->seal);
	mem_free(r->order);
	mem_free(r->to_scan);
	mem_free(r->headers);
	mem_free(r->numbers);
	mem_free(r);
}
