#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/seg/write_int.h"

#include <errno.h>
#include <string.h>

#define SPACE_WAIT_NS 1000000000u /* a write waits so long for a clean segment, then it is dropped */
#define FAILING_NS    10000000u   /* since the last write error */
#define NO_SEGMENT    UINT32_MAX
#define SUM_BYTES     (1u << 20) /* summed up in one step, and the rest of the last object */

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

uint8_t *write_block(const struct seg *s, uint32_t i)
{
	return (uint8_t *)s->conf.memory + SEG_BLOCKS_AT + (size_t)i * FORMAT_BLOCK;
}

/* What a segment of one record needs beside the record: header, seal, and a summary of one entry and one name. */
static uint64_t largest_record(const struct seg *s)
{
	uint64_t around = FORMAT_RECORDS + format_summary_bytes(1, 1, SEG_MAX_MODEL + SEG_MAX_SALT) + FORMAT_BLOCK;

	return s->super.segment_bytes > around ? s->super.segment_bytes - around : 0;
}

int writer_create(struct seg *s)
{
	struct writer *w = mem_calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	s->writer = w;
	w->s = s;
	/* What a process that died had written and not flushed is found by recovery, and still only in the device's cache. */
	w->written = 1;
	w->dirty_bytes = FORMAT_BLOCK;
	w->dirty_since_ns = disk_now(s->disk);
	w->waiting.end = &w->waiting.first;
	w->again.end = &w->again.first;
	w->flushing.end = &w->flushing.first;
	w->max_record_bytes = largest_record(s);
	w->max_records = (uint32_t)(s->super.segment_bytes / (2ull * FORMAT_BLOCK));
	for (uint32_t i = 0; i < WRITE_OWN; i++) {
		w->summary[i] = mem_calloc(1, format_summary_size(w->max_records));
		if (!w->summary[i])
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < WRITE_SLOTS; i++) {
		w->slot[i].w = w;
		w->slot[i].block = write_block(s, i);
		w->free_slot[w->nfree++] = (uint16_t)(WRITE_SLOTS - 1 - i);
	}
	for (uint32_t i = 0; i < WRITE_STREAMS; i++)
		w->stream[i] = (struct stream){.w = w, .block = write_block(s, WRITE_SLOTS + i)};
	return 0;
}

void writer_destroy(struct writer *w)
{
	if (!w)
		return;
	for (uint32_t i = 0; i < WRITE_STREAMS; i++)
		if (w->stream[i].used && w->stream[i].own < 0)
			mem_free(w->stream[i].summary);
	for (uint32_t i = 0; i < WRITE_OWN; i++)
		mem_free(w->summary[i]);
	mem_free(w);
}

uint32_t write_in_flight(const struct writer *w)
{
	uint32_t n = WRITE_SLOTS - w->nfree;

	for (uint32_t i = 0; i < WRITE_STREAMS; i++)
		n += w->stream[i].used && !w->stream[i].ready;
	return n;
}

/* ---- open segments ---------------------------------------------------------------------------------------------------------- */

static void fail_waiting(struct writer *w, int result)
{
	while (w->waiting.first && w->waiting.first->kind != SEG_CLEAR) {
		seg_count(w->s, &w->s->n.queued, (uint64_t)-1);
		seg_finish(w->s, queue_take(&w->waiting), result);
	}
}

int write_error(int result)
{
	return result == -ENOSPC ? -EIO : result;
}

/* Records follow only when the header is there: what counts as written must be found by recovery. */
static void header_done(struct disk_io *io)
{
	struct stream *st = io->owner;

	st->in_flight--;
	if (!io->result) {
		st->ready = true;
		commit_written(st->w, FORMAT_BLOCK);
		if (!st->w->first_mark)
			st->w->first_mark = st->w->written;
		return;
	}
	st->failed = st->full = true;
	st->w->failed_ns = disk_now(st->w->s->disk);
	seg_count(st->w->s, &st->w->s->n.write_errors, 1);
	fail_waiting(st->w, write_error(io->result));
	while (st->w->again.first) /* or each would ask for a segment at once, for as long as the device fails */
		seg_finish(st->w->s, queue_take(&st->w->again), -EIO);
}

static struct stream *free_stream(struct writer *w)
{
	int own = -1;

	for (int i = 0; i < (int)WRITE_OWN && own < 0; i++)
		own = w->summary_used[i] ? -1 : i;
	for (uint32_t i = 0; own >= 0 && i < WRITE_STREAMS; i++) {
		struct stream *st = &w->stream[i];

		if (st->used)
			continue;
		*st = (struct stream){.w = w, .own = own, .summary = w->summary[own], .block = st->block};
		return st;
	}
	return NULL;
}

static void run_short(struct writer *w)
{
	if (!w->short_since_ns)
		w->short_since_ns = disk_now(w->s->disk) + 1; /* 0 says that there is room */
}

static uint64_t short_for(const struct writer *w)
{
	return disk_now(w->s->disk) + 1 - w->short_since_ns;
}

uint64_t writer_room(const struct seg *s)
{
	const struct stream *st = s->writer->open;

	return st && !st->full ? s->super.segment_bytes - st->end - format_summary_need(st->summary) : 0;
}

static void send_header(struct writer *w, struct stream *st)
{
	struct seg *s = w->s;
	struct format_segment head = {.id = st->segment, .generation = st->generation, .epoch = s->super.epoch};

	memcpy(head.uuid, s->super.uuid, sizeof(head.uuid));
	format_segment_encode(&head, st->block);
	st->io = (struct disk_io){.op = DISK_WRITE,
				  .urgent = true,
				  .offset = format_segment_at(&s->super, st->segment),
				  .bytes = FORMAT_BLOCK,
				  .buf = st->block,
				  .done = header_done,
				  .owner = st};
	st->in_flight = 1;
	disk_submit(s->disk, &st->io);
}

static void open_stream(struct writer *w)
{
	struct seg *s = w->s;
	struct stream *st = free_stream(w);
	uint32_t id = st ? evictor_take(s) : NO_SEGMENT;

	if (st && id == NO_SEGMENT)
		run_short(w);
	if (id == NO_SEGMENT)
		return;
	w->open = st;
	w->summary_used[st->own] = true;
	st->used = true;
	st->segment = id;
	st->generation = ++s->generation;
	st->end = FORMAT_RECORDS;
	format_summary_start(st->summary, w->max_records, s->names);
	s->segment[id].generation = st->generation;
	s->segment[id].sequence = 0;
	s->segment[id].removals = 0;
	seg_set_state(s, id, SEGMENT_OPEN);
	send_header(w, st);
}

/* The summary may grow by an entry and a name: never more than a block. */
static bool fits(const struct writer *w, const struct stream *st, uint64_t record)
{
	return st->end + record + format_summary_need(st->summary) + FORMAT_BLOCK <= w->s->super.segment_bytes;
}

/* The first header of a life is made durable before a record follows. Recovery goes on counting generations from the highest it finds:
 * if a power cut took all of a life's headers, the next life would give out the same numbers, and records of the lost one would count. */
static bool counting_is_safe(struct writer *w)
{
	if (!w->first_durable)
		w->first_durable = writer_durable(w->s, w->first_mark);
	return w->first_durable;
}

struct stream *write_stream(struct writer *w, struct format_entry *e, uint64_t record)
{
	struct stream *st = w->open;

	if (st && !st->full && (!st->ready || !counting_is_safe(w)))
		return NULL; /* the header first */
	if (st && !st->full) {
		e->at = st->end;
		if (fits(w, st, record) && format_summary_add(st->summary, e))
			return st;
		st->full = true;
	}
	w->open = NULL;
	open_stream(w);
	return NULL;
}

/* ---- slots ------------------------------------------------------------------------------------------------------------------ */

static uint64_t tag_of(const struct seg_key *key)
{
	uint64_t t;

	memcpy(&t, key->hash.b, sizeof(t));
	return (t ^ key->name * 0x9e3779b97f4a7c15u) | 1;
}

static bool same_key(const struct seg_key *a, const struct seg_key *b)
{
	return a->name == b->name && memcmp(a->hash.b, b->hash.b, STORE_HASH_BYTES) == 0;
}

bool writer_has(const struct seg *s, const struct seg_key *key)
{
	const struct writer *w = s->writer;
	uint64_t tag = tag_of(key);

	for (uint32_t i = 0; i < WRITE_SLOTS; i++)
		if (w->tag[i] == tag && same_key(&w->slot[i].ops->key, key))
			return true;
	return false;
}

struct slot *write_take_slot(struct writer *w, struct stream *st, uint64_t record)
{
	struct slot *slot = &w->slot[w->free_slot[--w->nfree]];

	slot->stream = st;
	slot->ops = NULL;
	st->end += record;
	st->in_flight++;
	w->short_since_ns = 0;
	seg_count(w->s, &w->s->n.in_flight, 1);
	return slot;
}

void write_put_slot(struct slot *slot, int result, uint64_t bytes)
{
	struct writer *w = slot->w;
	struct stream *st = slot->stream;
	uint32_t i = (uint32_t)(slot - w->slot);

	st->in_flight--;
	if (result) {
		st->failed = st->full = true;
		w->failed_ns = disk_now(w->s->disk);
	} else {
		commit_written(w, bytes);
	}
	w->tag[i] = 0;
	slot->stream = NULL;
	slot->ops = NULL;
	w->free_slot[w->nfree++] = (uint16_t)i;
	lk_lock(&w->s->lk);
	w->s->n.in_flight--;
	w->s->n.write_errors += result != 0;
	lk_unlock(&w->s->lk);
}

/* ---- objects ---------------------------------------------------------------------------------------------------------------- */

static void object_done(struct disk_io *io)
{
	struct seg_op *op = io->owner;
	struct seg *s = op->store;
	struct writer *w = s->writer;

	if (io->result && !op->result)
		op->result = io->result;
	if (--op->parts)
		return;
	write_put_slot(&w->slot[op->slot], op->result, format_record_bytes(op->bytes));
	if (op->result) {
		seg_finish(s, op, write_error(op->result));
		return;
	}
	/* A removal that came after it wins: then it is not entered. */
	seg_enter(s, &op->key, op->offset, op->bytes, op->crc, op->sequence);
	w->objects_written += !op->inner;
	lk_lock(&s->lk);
	if (op->inner) {
		s->n.readmitted_bytes += op->bytes;
	} else {
		s->n.writes++;
		s->n.written_bytes += op->bytes;
	}
	lk_unlock(&s->lk);
	seg_finish(s, op, 0);
}

static void encode_object(struct writer *w, const struct seg_op *op, uint64_t generation, void *block)
{
	struct format_record *r = &w->record;

	memcpy(r->uuid, w->s->super.uuid, sizeof(r->uuid));
	r->segment = op->segment;
	r->generation = generation;
	r->offset = op->offset;
	r->sequence = op->sequence;
	r->kind = FORMAT_OBJECT;
	r->name = *seg_name_of(w->s->names, op->key.name);
	r->hash = op->key.hash;
	r->bytes = op->bytes;
	r->nremoved = 0;
	memcpy(r->sums, op->sums, crc_blocks(op->bytes) * sizeof(*r->sums));
	format_record_encode(r, block);
}

static void send_object(struct writer *w, struct seg_op *op, struct stream *st, uint64_t record)
{
	struct slot *slot;

	op->segment = st->segment;
	op->offset = format_segment_at(&w->s->super, st->segment) + st->end;
	op->sequence = ++w->s->sequence;
	slot = write_take_slot(w, st, record);
	slot->ops = op;
	op->slot = (uint32_t)(slot - w->slot);
	w->tag[op->slot] = tag_of(&op->key);
	op->result = 0;
	encode_object(w, op, st->generation, slot->block);
	op->head = (struct disk_io){.op = DISK_WRITE,
				    .offset = op->offset,
				    .bytes = FORMAT_BLOCK,
				    .buf = slot->block,
				    .done = object_done,
				    .owner = op};
	op->io = (struct disk_io){.op = DISK_WRITE,
				  .offset = op->offset + FORMAT_BLOCK,
				  .bytes = record - FORMAT_BLOCK,
				  .buf = op->mem,
				  .done = object_done,
				  .owner = op};
	disk_submit(w->s->disk, &op->head);
	disk_submit(w->s->disk, &op->io);
}

bool write_index_room(struct writer *w, uint32_t n)
{
	const struct seg_index *ix = &w->s->ix;
	uint64_t used = (uint64_t)ix->used + (WRITE_SLOTS - w->nfree) + n;

	if (used <= ix->max)
		return true;
	run_short(w);
	return false;
}

static bool still_counts(const struct seg *s, const struct seg_op *op)
{
	uint32_t id = seg_index_find(&s->ix, &op->key);

	return id && s->ix.e[id].sequence == op->sequence;
}

/* False: it has to wait. */
static bool start_write(struct writer *w, struct seg_op *op)
{
	struct seg *s = w->s;
	uint64_t record = format_record_bytes(op->bytes);
	struct format_entry e = {.kind = FORMAT_OBJECT, .name = op->key.name, .hash = op->key.hash, .bytes = op->bytes};
	struct stream *st;
	bool there = seg_index_find(&s->ix, &op->key) || writer_has(s, &op->key);

	if (op->inner ? !still_counts(s, op) : there) {
		seg_count(s, &s->n.present, !op->inner);
		seg_finish(s, op, op->inner ? -ENOENT : -EEXIST);
		return true;
	}
	if (!w->nfree || !write_index_room(w, 1))
		return false;
	if (!op->parts) {
		if (!op->sums[0]) {
			if (w->summed >= SUM_BYTES)
				return false; /* next turn: first the device hears of those before */
			crc32c_blocks(op->mem, op->bytes, op->sums);
			w->summed += op->bytes;
		}
		op->crc = crc32c_join(op->sums, op->bytes);
		op->parts = 2; /* not again, if it has to wait */
	}
	e.crc = op->crc;
	e.sequence = s->sequence + 1;
	st = write_stream(w, &e, record);
	if (st)
		send_object(w, op, st, record);
	return st;
}

/* ---- queues ----------------------------------------------------------------------------------------------------------------- */

static int refuse(const struct writer *w, const struct seg_op *op)
{
	if (w->s->read_only && op->kind != SEG_FLUSH)
		return -EROFS;
	if ((op->kind == SEG_WRITE || op->kind == SEG_REMOVE) && (!op->key.name || op->key.name > SEG_NAMES_MAX))
		return -EINVAL;
	if (op->kind != SEG_WRITE)
		return 0;
	if (!op->bytes || !op->sums || ((uintptr_t)op->mem & (DISK_ALIGN - 1)))
		return -EINVAL;
	return op->bytes > SEG_MAX_BYTES || format_record_bytes(op->bytes) > w->max_record_bytes ? -EFBIG : 0;
}

void writer_submit(struct seg *s, struct seg_op *op)
{
	struct writer *w = s->writer;
	int rc = refuse(w, op);

	if (rc) {
		seg_finish(s, op, rc);
	} else if (op->kind == SEG_FLUSH) {
		op->sequence = w->written;
		queue_put(&w->flushing, op);
	} else {
		queue_put(&w->waiting, op);
		seg_count(s, &s->n.queued, 1);
	}
}

void writer_again(struct seg *s, struct seg_op *op)
{
	op->parts = 0;
	queue_put(&s->writer->again, op);
}

static void start_again(struct writer *w)
{
	while (w->again.first) {
		struct seg_op *op = queue_take(&w->again);

		if (start_write(w, op))
			continue;
		if (!w->short_since_ns) {
			queue_put_back(&w->again, op);
			return;
		}
		seg_finish(w->s, op, -ENOSPC);
	}
}

static bool start_first(struct writer *w)
{
	struct seg_op *op = w->waiting.first;

	if (w->s->read_only) { /* since a clear failed that was before it */
		seg_count(w->s, &w->s->n.queued, (uint64_t)-1);
		seg_finish(w->s, queue_take(&w->waiting), -EROFS);
		return true;
	}
	if (op->kind == SEG_REMOVE)
		return removals_start(w);
	queue_take(&w->waiting);
	if (op->kind == SEG_CLEAR) {
		commit_clear(w, op);
	} else if (!start_write(w, op)) {
		queue_put_back(&w->waiting, op);
		return false;
	}
	seg_count(w->s, &w->s->n.queued, (uint64_t)-1);
	return true;
}

static void drop_waiting(struct writer *w)
{
	struct seg *s = w->s;

	while (w->waiting.first && w->waiting.first->kind != SEG_CLEAR) {
		struct seg_op *op = queue_take(&w->waiting);

		if (op->kind == SEG_REMOVE)
			seg_forget(s, &op->key, UINT64_MAX);
		lk_lock(&s->lk);
		s->n.queued--;
		s->n.dropped += op->kind == SEG_WRITE;
		lk_unlock(&s->lk);
		seg_finish(s, op, -ENOSPC);
	}
}

static void start_waiting(struct writer *w)
{
	while (w->waiting.first && !w->clear && start_first(w))
		;
	if (!w->waiting.first && !w->again.first)
		w->short_since_ns = 0;
	if (w->short_since_ns && short_for(w) >= SPACE_WAIT_NS)
		drop_waiting(w);
}

void writer_step(struct seg *s)
{
	struct writer *w = s->writer;

	w->summed = 0;
	if (s->recovered) {
		start_again(w);
		start_waiting(w);
	}
	commit_step(w);
}

bool writer_idle(const struct seg *s)
{
	const struct writer *w = s->writer;

	return !w->waiting.first && !w->again.first && !w->flushing.first && !w->clear && !w->seal_busy &&
	       w->nfree == WRITE_SLOTS && w->durable == w->written;
}

bool writer_failing(const struct seg *s)
{
	return s->writer->failed_ns && disk_now(s->disk) - s->writer->failed_ns < FAILING_NS;
}

bool writer_in_need(const struct seg *s)
{
	return s->writer->short_since_ns != 0;
}

void writer_cancel(struct seg *s)
{
	struct writer *w = s->writer;
	struct queue *q[] = {&w->again, &w->waiting, &w->flushing};

	for (uint32_t i = 0; i < 3; i++)
		while (q[i]->first)
			seg_finish(s, queue_take(q[i]), -ECANCELED);
}

uint64_t writer_due(const struct seg *s)
{
	const struct writer *w = s->writer;
	uint64_t due = w->summed >= SUM_BYTES ? 0 : commit_due(w), waited = short_for(w);

	if (w->short_since_ns && due > SPACE_WAIT_NS - waited)
		due = waited < SPACE_WAIT_NS ? SPACE_WAIT_NS - waited : 0;
	return due;
}

void writer_check(struct seg *s)
{
	const struct writer *w = s->writer;
	uint32_t in_flight = 0, busy = 0;

	for (uint32_t i = 0; i < WRITE_STREAMS; i++) {
		const struct stream *st = &w->stream[i];

		if (!st->used)
			continue;
		in_flight += st->ready ? st->in_flight : 0;
		check(st->end <= s->super.segment_bytes);
		/* Eviction may have chosen one that a crash left open. */
		check((s->segment[st->segment].state == SEGMENT_OPEN) == (st->own >= 0));
	}
	for (uint32_t i = 0; i < WRITE_SLOTS; i++)
		busy += w->slot[i].stream != NULL;
	check(busy == WRITE_SLOTS - w->nfree && busy == in_flight);
	check(w->durable <= w->written && w->covers <= w->written);
}
