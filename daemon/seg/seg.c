#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/seg/seg_int.h"

#include <errno.h>
#include <string.h>

#define BAD_RECORDS  3u          /* of a segment that is not trusted any more */
#define IDLE_NS      1000000000u /* discards want a turn now and then */
#define USUAL_OBJECT (1u << 16)  /* bytes, for the size of the index */

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

static uint32_t index_size(const struct seg *s)
{
	uint64_t n = s->conf.max_objects ? s->conf.max_objects : s->super.bytes / USUAL_OBJECT;

	if (!s->conf.max_objects && n < 1000000)
		n = 1000000;
	return n < (1u << 31) ? (uint32_t)n : 1u << 31;
}

static void free_all(struct seg *s)
{
	recover_destroy(s->recovery);
	writer_destroy(s->writer);
	evictor_destroy(s->evictor);
	seg_index_destroy(&s->ix);
	mem_free(s->segment);
	lk_destroy(&s->lk);
	mem_free(s);
}

static void count_states(struct seg *s)
{
	uint64_t free_ones = 0, open = 0;

	for (uint32_t i = 0; i < s->super.segments; i++) {
		free_ones += s->segment[i].state == SEGMENT_FREE;
		open += s->segment[i].state == SEGMENT_OPEN;
	}
	lk_lock(&s->lk);
	s->n.free_segments = free_ones;
	s->n.open_segments = open;
	lk_unlock(&s->lk);
}

static void limits(struct seg *s)
{
	struct seg_conf *c = &s->conf;

	c->flush_ms = c->flush_ms ? c->flush_ms : 50;
	c->flush_bytes = c->flush_bytes ? c->flush_bytes : SEG_BYTES_USUAL;
	c->readmit = c->readmit > 0 ? c->readmit : 0;
	c->readmit = c->readmit < 0.5 ? c->readmit : 0.5; /* freeing must gain room */
}

static int start(struct seg *s, struct why *why)
{
	int rc = recover_open(s, why);

	if (rc)
		return rc;
	s->n.segments = s->super.segments;
	s->n.capacity_bytes = s->super.segments * (s->super.segment_bytes - FORMAT_RECORDS);
	count_states(s);
	rc = seg_index_create(&s->ix, index_size(s));
	if (!rc)
		rc = writer_create(s);
	if (!rc)
		rc = evictor_create(s);
	if (!rc)
		rc = recover_start(s);
	return rc ? why_set(why, rc, "segment store: %s", strerror(-rc)) : 0;
}

int seg_open(const struct seg_conf *conf, struct seg **out, struct why *why)
{
	struct seg *s = mem_calloc(1, sizeof(*s));
	int rc;

	if (!s) {
		disk_close(conf->disk, 0);
		return why_set(why, -ENOMEM, "segment store: no memory");
	}
	check(conf->memory && ((uintptr_t)conf->memory & (DISK_ALIGN - 1)) == 0);
	lk_init(&s->lk, LK_SEG);
	s->conf = *conf;
	s->disk = conf->disk;
	s->names = conf->names;
	s->done_end = &s->done;
	s->write_through = !disk_facts(s->disk)->volatile_cache;
	limits(s);
	rc = start(s, why);
	if (rc) {
		disk_close(s->disk, 1000);
		free_all(s);
		return rc;
	}
	*out = s;
	return 0;
}

struct disk *seg_disk(struct seg *s)
{
	return s->disk;
}

bool seg_recovered(const struct seg *s)
{
	return s->recovered;
}

/* ---- results: told by seg_run only, so that no callback runs in the middle of anything ------------------------------------ */

void seg_finish(struct seg *s, struct seg_op *op, int result)
{
	op->result = result;
	op->next = NULL;
	*s->done_end = op;
	s->done_end = &op->next;
}

static uint32_t tell(struct seg *s)
{
	uint32_t n = 0;

	while (s->done) {
		struct seg_op *op = s->done;

		s->done = op->next;
		if (!s->done)
			s->done_end = &s->done;
		n += !op->inner;
		op->done(op);
	}
	return n;
}

void seg_count(struct seg *s, uint64_t *counter, uint64_t by)
{
	lk_lock(&s->lk);
	*counter += by;
	lk_unlock(&s->lk);
}

void seg_give_up(struct seg *s, uint32_t segment, const char *because)
{
	static struct log_limit limit;
	uint64_t dropped;

	if (s->segment[segment].suspect)
		return;
	s->segment[segment].suspect = true;
	seg_count(s, &s->n.suspect_segments, 1);
	if (log_limit_pass(&limit, 10000, &dropped))
		log_warn("L2 %s: segment %u will be freed early: %s (%llu more not told)", disk_facts(s->disk)->path,
			 segment, because, (unsigned long long)dropped);
}

/* ---- reads ---------------------------------------------------------------------------------------------------------------- */

/* Several readers may find the same record bad; it counts once. */
static void bad_record(struct seg *s, struct seg_op *op)
{
	seg_count(s, &s->n.bad_checksums, 1);
	if (seg_forget(s, &op->key, op->sequence + 1) && ++s->segment[op->segment].bad == BAD_RECORDS)
		seg_give_up(s, op->segment, "three records were wrong");
}

/* A sub-block is summed up when all of it is there. Until then its place in `sums` counts its bytes. */
static void read_part(struct disk_io *io, uint64_t at, uint32_t n)
{
	struct seg_op *op = io->owner;
	uint64_t end = at + n < op->bytes ? at + n : op->bytes;

	while (at < end) {
		uint32_t b = (uint32_t)(at / CRC_BLOCK);
		uint64_t from = (uint64_t)b * CRC_BLOCK, to = from + CRC_BLOCK;

		to = to < op->bytes ? to : op->bytes;
		uint64_t piece = (end < to ? end : to) - at;
		op->sums[b] += (uint32_t)piece;
		at += piece;
		if (op->sums[b] != to - from)
			continue;
		op->sums[b] = crc32c(0, (uint8_t *)op->mem + from, to - from);
		op->crc_left--;
	}
}

static int judge(struct seg *s, struct seg_op *op)
{
	int rc = op->io.result;

	if (rc)
		return rc;
	if (!s->conf.verify && !op->inner)
		return 0;
	if (op->crc_left)
		crc32c_blocks(op->mem, op->bytes, op->sums);
	return crc32c_join(op->sums, op->bytes) == op->crc ? 0 : -EILSEQ;
}

static void read_done(struct disk_io *io)
{
	struct seg_op *op = io->owner;
	struct seg *s = op->store;
	int rc = judge(s, op);

	lk_lock(&s->lk);
	s->segment[op->segment].readers--;
	s->n.in_flight--;
	if (!op->inner && !rc) {
		s->n.reads++;
		s->n.read_bytes += op->bytes;
	}
	s->n.read_errors += rc && rc != -EILSEQ;
	lk_unlock(&s->lk);
	if (rc == -EILSEQ)
		bad_record(s, op);
	else if (rc == -EIO)
		seg_forget(s, &op->key, op->sequence + 1);
	seg_finish(s, op, rc);
}

/* Where the object is; counts a reader of its segment. */
static int find_place(struct seg *s, struct seg_op *op)
{
	const struct entry *e;
	uint32_t id;
	int rc = 0;

	lk_lock(&s->lk);
	id = seg_index_find(&s->ix, &op->key);
	e = &s->ix.e[id];
	if (!id)
		rc = -ENOENT;
	else if (e->bytes != op->bytes)
		rc = -EMSGSIZE;
	if (rc) {
		s->n.read_misses++;
	} else {
		op->offset = (uint64_t)e->at * FORMAT_BLOCK;
		op->crc = e->crc;
		op->sequence = e->sequence;
		op->segment = seg_segment_of(s, op->offset);
		s->segment[op->segment].readers++;
		s->n.in_flight++;
	}
	lk_unlock(&s->lk);
	return rc;
}

void seg_read(struct seg *s, struct seg_op *op)
{
	int rc = find_place(s, op);
	bool verify = s->conf.verify || op->inner;

	if (rc) {
		seg_finish(s, op, rc);
		return;
	}
	op->crc_left = crc_blocks(op->bytes);
	memset(op->sums, 0, op->crc_left * sizeof(*op->sums));
	op->io = (struct disk_io){.op = DISK_READ,
				  .offset = op->offset + FORMAT_BLOCK,
				  .bytes = format_record_bytes(op->bytes) - FORMAT_BLOCK,
				  .buf = op->mem,
				  .part = verify ? read_part : NULL,
				  .done = read_done,
				  .owner = op};
	disk_submit(s->disk, &op->io);
}

/* ---- turns ---------------------------------------------------------------------------------------------------------------- */

void seg_submit(struct seg *s, struct seg_op *op)
{
	op->store = s;
	op->next = NULL;
	op->inner = false;
	op->parts = 0;
	if (s->closing)
		seg_finish(s, op, -ECANCELED);
	else if (op->kind == SEG_READ)
		seg_read(s, op);
	else
		writer_submit(s, op);
}

static void step(struct seg *s)
{
	if (!s->recovered) {
		if (!recover_step(s))
			return;
		count_states(s);
		lk_lock(&s->lk);
		s->recovered = true;
		lk_unlock(&s->lk);
		evictor_start(s);
	}
	evictor_step(s);
	writer_step(s);
	evictor_step(s); /* what the writer took is missed at once */
}

uint32_t seg_run(struct seg *s, uint64_t wait_ns)
{
	uint64_t due;
	uint32_t n;

	step(s);
	n = tell(s);
	due = writer_due(s);
	due = due < IDLE_NS ? due : IDLE_NS;
	if (n || (!s->recovered && recover_ready(s)))
		wait_ns = 0;
	else if (s->recovered && due < wait_ns)
		wait_ns = due;
	disk_run(s->disk, wait_ns);
	step(s);
	return n + tell(s);
}

uint32_t seg_close(struct seg *s, uint32_t wait_ms)
{
	uint64_t end = disk_now(s->disk) + wait_ms * 1000000ull;
	uint32_t lost;

	s->closing = true;
	while (disk_now(s->disk) < end && (s->n.in_flight || s->done || !writer_idle(s) || !evictor_idle(s)))
		seg_run(s, 1000000);
	writer_cancel(s);
	tell(s);
	lost = disk_close(s->disk, wait_ms < 100 ? wait_ms : 100);
	tell(s);
	free_all(s);
	return lost;
}

/* ---- figures --------------------------------------------------------------------------------------------------------------- */

void seg_stats(struct seg *s, struct seg_stats *out)
{
	lk_lock(&s->lk);
	*out = s->n;
	out->index_bytes = s->ix.hi * sizeof(struct entry) + s->ix.nbuckets * sizeof(uint32_t);
	out->recovered = s->recovered;
	lk_unlock(&s->lk);
}

void seg_check(struct seg *s)
{
	seg_index_check(s);
	if (s->recovered) {
		writer_check(s);
		evictor_check(s);
	}
}
