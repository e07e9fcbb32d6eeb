/* write_int.h - what write.c (records), remove.c (removals) and commit.c (flush, seal, clear) share. */
#ifndef DAEMON_SEG_WRITE_INT_H
#define DAEMON_SEG_WRITE_INT_H

#include "daemon/seg/seg_int.h"

#define WRITE_SLOTS   256u /* records in flight at most */
#define WRITE_STREAMS 8u   /* segments that are not sealed: three of ours, the others left open by a crash */
#define WRITE_OWN     3u
#define WRITE_SUPERS  (WRITE_SLOTS + WRITE_STREAMS) /* blocks of the superblock copies */

struct writer;

/* A segment from its header to its seal. */
struct stream {
	struct writer *w;
	bool used;
	bool ready; /* its header is on the medium: records may follow */
	bool full;  /* nothing more is appended */
	bool failed; /* a write to it, or the flush of one, failed: it is never sealed, so recovery looks at every record */
	uint32_t segment;
	uint32_t in_flight; /* header and records */
	uint64_t generation, end;
	struct format_summary *summary;
	int own; /* which of the writer's summaries; -1: adopted, to be freed */
	struct disk_io io;
	uint8_t *block;
};

/* A record in flight. */
struct slot {
	struct writer *w;
	struct seg_op *ops;    /* WRITE: one; REMOVE: all whose keys are in the record; of a carried one none */
	struct stream *stream; /* NULL: not in use */
	struct disk_io io;     /* of a removal */
	uint8_t *block;
};

enum seal_step { SEAL_NONE, SEAL_FLUSH, SEAL_SUMMARY, SEAL_BLOCK };
enum clear_step { CLEAR_NONE, CLEAR_REST, CLEAR_FIRST, CLEAR_FLUSH_FIRST, CLEAR_SECOND, CLEAR_FLUSH_SECOND };

struct queue {
	struct seg_op *first, **end;
};

struct writer {
	struct seg *s;
	struct queue waiting, again, flushing; /* in order; of eviction; FLUSH operations */
	struct stream stream[WRITE_STREAMS], *open;
	struct format_summary *summary[WRITE_OWN];
	bool summary_used[WRITE_OWN];
	uint32_t max_records;
	uint64_t max_record_bytes;

	struct slot slot[WRITE_SLOTS];
	uint64_t tag[WRITE_SLOTS]; /* of the key in the slot, 0: none; apart, so that looking through them is quick */
	uint16_t free_slot[WRITE_SLOTS];
	uint32_t nfree;

	/* group commit: marks count writes that are done */
	uint64_t written, durable, covers, wanted;
	uint64_t objects_written, objects_covered, objects_durable;
	uint64_t dirty_bytes, dirty_since_ns;
	bool flush_busy, flush_error;
	uint64_t first_mark; /* the first segment header of this life; 0: not written */
	bool first_durable;
	uint64_t failed_ns; /* when a write failed last; 0: never */
	struct disk_io flush;

	enum seal_step seal_step;
	struct stream *sealing;
	struct disk_io seal;
	uint64_t seal_mark;
	bool seal_busy;

	enum clear_step clear_step;
	struct seg_op *clear;
	struct disk_io super[2], clear_flush;
	uint32_t clear_busy;
	int clear_result;

	uint64_t short_since_ns;     /* no clean segment since then; 0: there is one */
	uint64_t summed;             /* bytes whose checksums were computed in this step */
	struct format_record record; /* being encoded */
};

static inline void queue_put(struct queue *q, struct seg_op *op)
{
	op->next = NULL;
	*q->end = op;
	q->end = &op->next;
}

static inline struct seg_op *queue_take(struct queue *q)
{
	struct seg_op *op = q->first;

	q->first = op->next;
	if (!q->first)
		q->end = &q->first;
	return op;
}

static inline void queue_put_back(struct queue *q, struct seg_op *op)
{
	op->next = q->first;
	q->first = op;
	if (!op->next)
		q->end = &op->next;
}

/* write.c */
uint32_t write_in_flight(const struct writer *w); /* records and headers */
/* A block of conf.memory, zeroed by its encoder. */
uint8_t *write_block(const struct seg *s, uint32_t i);

/* Where the next record goes, entered into its segment's summary (e->at is filled in). NULL: not now. */
struct stream *write_stream(struct writer *w, struct format_entry *e, uint64_t record);
/* Takes the space of a record that write_stream gave, and one of the slots (w->nfree). */
struct slot *write_take_slot(struct writer *w, struct stream *st, uint64_t record);
/* The record is done: acknowledgement and visibility wait for all of it. */
void write_put_slot(struct slot *slot, int result, uint64_t bytes);
/* An entry for each record that is under way must be there when it is done. */
bool write_index_room(struct writer *w, uint32_t n);
int write_error(int result); /* -ENOSPC of a device: ours says that a write was dropped */

/* remove.c: the removals at the head of the queue; false: they have to wait. */
bool removals_start(struct writer *w);

/* commit.c */
void commit_written(struct writer *w, uint64_t bytes); /* a write of so many bytes is done */
void commit_step(struct writer *w);                    /* seal, clear, flush */
void commit_clear(struct writer *w, struct seg_op *op);
uint64_t commit_due(const struct writer *w);

#endif
