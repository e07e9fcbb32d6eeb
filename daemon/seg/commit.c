/* commit.c - what makes written records last: group commit, the seal of a full segment, and the new epoch of a clear. */
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/seg/write_int.h"

#include <errno.h>
#include <string.h>

/* ---- group commit ------------------------------------------------------------------------------------------------------------ */

void commit_written(struct writer *w, uint64_t bytes)
{
	w->written++;
	if (!w->dirty_bytes)
		w->dirty_since_ns = disk_now(w->s->disk);
	w->dirty_bytes += bytes;
}

static void count_durable(struct writer *w)
{
	seg_count(w->s, &w->s->n.durable_writes, w->objects_covered - w->objects_durable);
	w->objects_durable = w->objects_covered;
}

/* Nobody can say what of the unflushed writes is on the medium, and a later flush would not prove it either. So whoever asked is told
 * (or, as with fsync, the next one that asks), and what was being written is left to recovery to look through. */
static void flush_failed(struct writer *w, uint64_t durable)
{
	bool told = false;

	while (w->flushing.first && w->flushing.first->sequence <= w->covers) {
		struct seg_op *op = queue_take(&w->flushing);
		bool lost = op->sequence > durable;

		seg_finish(w->s, op, lost ? -EIO : 0);
		told = told || lost;
	}
	w->flush_error = w->flush_error || !told;
	if (!w->first_durable)
		w->first_mark = 0; /* its segment is given up below: the next one's header is the first */
	w->objects_durable = w->objects_covered;
	for (uint32_t i = 0; i < WRITE_STREAMS; i++)
		if (w->stream[i].used && w->stream[i].own >= 0)
			w->stream[i].failed = w->stream[i].full = true;
}

static void flush_done(struct disk_io *io)
{
	struct writer *w = io->owner;
	uint64_t durable = w->durable;

	w->flush_busy = false;
	w->durable = w->covers;
	if (io->result) {
		seg_count(w->s, &w->s->n.write_errors, 1);
		flush_failed(w, durable);
		return;
	}
	seg_count(w->s, &w->s->n.flushes, 1);
	count_durable(w);
}

static uint64_t flush_due_ns(const struct writer *w)
{
	const struct seg *s = w->s;
	uint64_t waited, most = s->conf.flush_ms * 1000000ull;

	if (s->write_through || w->flush_busy || w->durable == w->written)
		return UINT64_MAX;
	if (w->flushing.first || w->wanted > w->durable || w->dirty_bytes >= s->conf.flush_bytes || s->closing)
		return 0;
	waited = disk_now(s->disk) - w->dirty_since_ns;
	return waited < most ? most - waited : 0;
}

uint64_t commit_due(const struct writer *w)
{
	return flush_due_ns(w);
}

static void flush_step(struct writer *w)
{
	struct seg *s = w->s;

	if (s->write_through) {
		w->durable = w->written;
		w->objects_covered = w->objects_written;
		if (w->objects_covered != w->objects_durable)
			count_durable(w);
	} else if (flush_due_ns(w) == 0) {
		w->covers = w->written;
		w->objects_covered = w->objects_written;
		w->dirty_bytes = 0;
		w->flush_busy = true;
		w->flush = (struct disk_io){.op = DISK_FLUSH, .done = flush_done, .owner = w};
		disk_submit(s->disk, &w->flush);
	}
	while (w->flushing.first && w->flushing.first->sequence <= w->durable) {
		seg_finish(s, queue_take(&w->flushing), w->flush_error ? -EIO : 0);
		w->flush_error = false;
	}
}

uint64_t writer_written(const struct seg *s)
{
	return s->writer->written;
}

bool writer_durable(const struct seg *s, uint64_t mark)
{
	struct writer *w = s->writer;

	if (w->wanted < mark)
		w->wanted = mark;
	return s->write_through || w->durable >= mark;
}

/* ---- seal --------------------------------------------------------------------------------------------------------------------- */

/* Records first, then the summary, then the block that says where it is, each only when the one before is there: so a seal that
 * is found is right, and where none is found recovery looks at every record. */
static void release(struct writer *w, struct stream *st)
{
	if (st->own >= 0) {
		w->summary_used[st->own] = false;
	} else {
		mem_free(st->summary);
		w->s->segment[st->segment].readers--; /* see writer_adopt */
	}
	if (w->open == st)
		w->open = NULL;
	*st = (struct stream){.w = w, .block = st->block};
}

static void close_stream(struct writer *w, struct stream *st)
{
	struct seg *s = w->s;
	uint32_t id = st->segment;

	if (st->own >= 0 && !st->ready) {
		release(w, st);
		evictor_free(s, id); /* its header could not be written: nothing is in it */
		return;
	}
	if (st->own >= 0)
		seg_set_state(s, id, SEGMENT_SEALED);
	if (st->failed)
		seg_give_up(s, id, "a write to it failed");
	release(w, st);
}

static void seal_done(struct disk_io *io)
{
	struct writer *w = io->owner;

	w->seal_busy = false;
	if (io->result) {
		seg_count(w->s, &w->s->n.write_errors, 1);
		w->sealing->failed = true;
	} else {
		commit_written(w, io->bytes);
	}
}

static void seal_write(struct writer *w, uint64_t at, void *buf, uint64_t bytes)
{
	w->seal = (struct disk_io){.op = DISK_WRITE,
				   .offset = format_segment_at(&w->s->super, w->sealing->segment) + at,
				   .bytes = bytes,
				   .buf = buf,
				   .done = seal_done,
				   .owner = w};
	w->seal_busy = true;
	disk_submit(w->s->disk, &w->seal);
}

static void seal_summary(struct writer *w)
{
	struct seg *s = w->s;
	struct stream *st = w->sealing;
	uint64_t need = format_summary_need(st->summary);
	struct format_seal seal = {.id = st->segment, .generation = st->generation};
	uint8_t *out = (uint8_t *)s->conf.memory + SEG_SUMMARY_AT;

	seal.summary_at = s->super.segment_bytes - need;
	memcpy(seal.uuid, s->super.uuid, sizeof(seal.uuid));
	format_summary_finish(st->summary, out, &seal);
	format_seal_encode(&seal, st->block);
	seal_write(w, seal.summary_at, out, need);
}

static bool can_seal(const struct seg *s, const struct stream *st)
{
	uint64_t need = format_summary_need(st->summary);

	return !st->failed && need <= FORMAT_MAX_SUMMARY && st->end + need <= s->super.segment_bytes;
}

/* The oldest first: the order of places says nothing, and one of them might wait for ever. */
static void seal_start(struct writer *w)
{
	struct stream *next = NULL;

	for (uint32_t i = 0; i < WRITE_STREAMS; i++) {
		struct stream *st = &w->stream[i];

		if (!st->used || !st->full || st->in_flight)
			continue;
		if (!can_seal(w->s, st))
			close_stream(w, st);
		else if (!next || st->generation < next->generation)
			next = st;
	}
	w->sealing = next;
	w->seal_step = next ? SEAL_FLUSH : SEAL_NONE;
	w->seal_mark = w->written;
}

static void seal_step(struct writer *w)
{
	if (!w->sealing)
		seal_start(w);
	if (!w->sealing || w->seal_busy)
		return;
	if (w->sealing->failed || w->seal_step == SEAL_BLOCK) {
		close_stream(w, w->sealing);
		w->sealing = NULL;
		w->seal_step = SEAL_NONE;
	} else if (w->seal_step == SEAL_SUMMARY) {
		w->seal_step = SEAL_BLOCK;
		seal_write(w, FORMAT_BLOCK, w->sealing->block, FORMAT_BLOCK);
	} else if (writer_durable(w->s, w->seal_mark)) {
		w->seal_step = SEAL_SUMMARY;
		seal_summary(w);
	}
}

/* Counted as a reader meanwhile, so that the segment is not given to somebody else. */
void writer_adopt(struct seg *s, uint32_t segment, struct format_summary *summary, uint64_t end)
{
	struct writer *w = s->writer;

	seg_set_state(s, segment, SEGMENT_SEALED);
	for (uint32_t i = 0; i < WRITE_STREAMS; i++) {
		struct stream *st = &w->stream[i];

		if (st->used)
			continue;
		*st = (struct stream){.w = w,
				      .used = true,
				      .ready = true,
				      .full = true,
				      .own = -1,
				      .segment = segment,
				      .generation = s->segment[segment].generation,
				      .end = end,
				      .summary = summary,
				      .block = st->block};
		s->segment[segment].readers++;
		return;
	}
	mem_free(summary); /* left unsealed: recovery looks through it again next time */
}

/* ---- clear: a new epoch ------------------------------------------------------------------------------------------------------- */

/* Two copies are rewritten and flushed, then the other two: at any moment two copies of the old epoch or two of the new are whole. */
static void clear_write_done(struct disk_io *io)
{
	struct writer *w = io->owner;

	w->clear_busy--;
	if (io->result)
		w->clear_result = io->result;
}

static void clear_write(struct writer *w, uint32_t first)
{
	struct seg *s = w->s;
	struct format_super super = s->super;

	super.epoch++;
	w->clear_busy = 2;
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *block = write_block(s, WRITE_SUPERS + first + i);

		format_super_encode(&super, first + i, block);
		w->super[i] = (struct disk_io){.op = DISK_WRITE,
					       .urgent = true,
					       .offset = format_super_at(&super, first + i),
					       .bytes = FORMAT_BLOCK,
					       .buf = block,
					       .done = clear_write_done,
					       .owner = w};
		disk_submit(s->disk, &w->super[i]);
	}
}

static void clear_sync(struct writer *w)
{
	if (w->s->write_through)
		return;
	w->clear_busy = 1;
	w->clear_flush = (struct disk_io){.op = DISK_FLUSH, .done = clear_write_done, .owner = w};
	disk_submit(w->s->disk, &w->clear_flush);
}

static void forget_all(struct writer *w)
{
	struct seg *s = w->s;

	for (uint32_t i = 0; i < WRITE_STREAMS; i++)
		if (w->stream[i].used)
			release(w, &w->stream[i]);
	w->sealing = NULL;
	w->seal_step = SEAL_NONE;
	w->short_since_ns = 0;
	for (uint32_t i = 0; i < s->super.segments; i++)
		seg_forget_segment(s, i);
	evictor_reset(s);
}

static void clear_end(struct writer *w, int result)
{
	struct seg_op *op = w->clear;

	w->clear = NULL;
	w->clear_step = CLEAR_NONE;
	if (result) {
		/* Which epoch will be found is not known: what is written now might be lost. */
		w->s->read_only = true;
		log_error("L2 %s: cannot write its superblocks (%s): nothing is stored there until it is opened again",
			  disk_facts(w->s->disk)->path, strerror(-result));
	}
	seg_finish(w->s, op, result ? -EIO : 0);
}

void commit_clear(struct writer *w, struct seg_op *op)
{
	w->clear = op;
	w->clear_step = CLEAR_REST;
	w->clear_result = 0;
	w->clear_busy = 0;
}

bool writer_clearing(const struct seg *s)
{
	return s->writer->clear != NULL;
}

static void clear_step(struct writer *w)
{
	if (!w->clear || w->clear_busy)
		return;
	switch (w->clear_step) {
	case CLEAR_REST:
		if (write_in_flight(w) || w->seal_busy || w->again.first || !evictor_idle(w->s))
			return;
		forget_all(w);
		clear_write(w, 0);
		w->clear_step = CLEAR_FIRST;
		break;
	case CLEAR_FIRST:
		if (w->clear_result) {
			clear_end(w, w->clear_result);
			return;
		}
		clear_sync(w);
		w->clear_step = CLEAR_FLUSH_FIRST;
		break;
	case CLEAR_FLUSH_FIRST:
		if (w->clear_result) {
			clear_end(w, w->clear_result);
			return;
		}
		clear_write(w, 2);
		w->clear_step = CLEAR_SECOND;
		break;
	case CLEAR_SECOND:
		w->s->super.epoch++; /* two good copies are enough */
		clear_sync(w);
		w->clear_step = CLEAR_FLUSH_SECOND;
		break;
	case CLEAR_FLUSH_SECOND:
	case CLEAR_NONE:
		clear_end(w, 0);
		break;
	}
}

void commit_step(struct writer *w)
{
	seal_step(w);
	clear_step(w);
	flush_step(w);
}
