/* seg_int.h - a segment store's own state, and what its files ask of each other.
 *
 *   format*.c   bytes of the medium                     seg_tool.c  format, probe, verify
 *   index.c     key -> entry, entries of a segment      recover.c   from the medium to index and segment table
 *   seg.c       life, turn of the owner thread, reads   write.c     open segments, records (remove.c: removals)
 *                                                       commit.c    seal, group commit, clear
 *   evict.c     which segment goes, writing records again, discard
 */
#ifndef DAEMON_SEG_SEG_INT_H
#define DAEMON_SEG_SEG_INT_H

#include "daemon/base/lock.h"
#include "daemon/seg/format.h"
#include "daemon/seg/seg.h"

/* One object: a cache line. Guarded by the store's lock. */
struct entry {
	uint8_t hash[STORE_HASH_BYTES];
	uint64_t sequence;
	uint32_t at;    /* of the record's header on the device, in FORMAT_BLOCK: up to 16 TiB a device */
	uint32_t bytes; /* payload, at most SEG_MAX_BYTES */
	uint32_t crc;   /* of the whole payload */
	uint32_t chain; /* next in the bucket */
	uint32_t next;  /* next of its segment */
	uint16_t name;  /* 0: not in use */
	uint8_t uses;   /* since the last pass of eviction, saturating at 3 */
	uint8_t flags;
};
_Static_assert(sizeof(struct entry) == 64, "one cache line");

/* What a record on the medium was good for is gone, or another one counts: in no bucket any more, but in the list of its segment
 * until that is freed, since such a list cannot be left in its middle. So there are as many entries as records. */
#define ENTRY_DEAD 1u
/* A removal that older records on the medium may still need: found by nobody, but in its bucket and its segment's list. */
#define ENTRY_REMOVED 2u

enum segment_state { SEGMENT_FREE, SEGMENT_OPEN, SEGMENT_SEALED, SEGMENT_FREEING };

struct segment {
	enum segment_state state;
	bool suspect;        /* a write to it failed, or three of its records were bad */
	uint64_t generation; /* the last one used */
	uint64_t sequence;   /* highest of its records */
	uint64_t live_bytes; /* format_record_bytes of its entries */
	uint32_t live, bad;  /* entries; records found bad */
	uint32_t readers;    /* reads in flight: reuse waits */
	uint32_t first;      /* entry list: objects, removals, dead ones */
	uint32_t removals;   /* removal records in it */
	uint32_t removed;    /* ENTRY_REMOVED entries of it */
	uint64_t heat;       /* sum of live record bytes times uses */
};

struct seg_index {
	struct entry *e; /* by number, 0 unused; reserved address space, touched as it fills */
	uint32_t *bucket;
	uint32_t max, used, hi, unused, nbuckets;
	uint64_t seed;
};

int seg_index_create(struct seg_index *ix, uint32_t max_objects);
void seg_index_destroy(struct seg_index *ix);
/* Number of the object's entry, 0: none (or removed). Under the lock, or on the owner thread. */
uint32_t seg_index_find(const struct seg_index *ix, const struct seg_key *key);
/* Of an empty index: `n` objects will come soon, so that it need not grow step by step. */
void seg_index_expect(struct seg_index *ix, uint64_t n);
/* Brings what entering a key will touch closer: its bucket, then (once that is there) the first entry in it. */
void seg_index_warm_bucket(const struct seg_index *ix, const struct seg_key *key);
void seg_index_warm_entry(const struct seg_index *ix, const struct seg_key *key);

struct recovery; /* recover.c */
struct writer;   /* write.c: open segments, group commit */
struct evictor;  /* evict.c */

struct seg {
	struct lk lk; /* LK_SEG: index, segment table's counters, stats. Only the owner thread changes them */
	struct disk *disk;
	struct seg_conf conf;
	struct format_super super;
	struct seg_names *names;
	struct seg_index ix;
	struct segment *segment;       /* super.segments of them; made by recover_open, freed by seg_close */
	uint64_t sequence, generation; /* highest used */
	bool recovered, closing, read_only, write_through;
	struct recovery *recovery;
	struct writer *writer;
	struct evictor *evictor;
	struct seg_stats n;
	struct seg_op *done, **done_end; /* results that their owners have not been told yet: seg_run does it */
};

/* ---- index.c: owner thread; each takes the lock itself ------------------------------------------------------------- */

/* Enters an object, unless one with a higher sequence number is there; an older one of the same key is forgotten.
 * False when it was not entered (older, or max_objects reached). */
bool seg_enter(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t bytes, uint32_t crc,
	       uint64_t sequence);
/* Forgets the key's object if its sequence number is below `sequence` (UINT64_MAX: whatever it is). */
bool seg_forget(struct seg *s, const struct seg_key *key, uint64_t sequence);
/* A removal of `sequence` whose record is at device_offset: forgets the key's object if it is older, and keeps older records of the
 * key from being entered for as long as the removal's segment lives. Any order with seg_enter. False when max_objects is reached
 * (the object is forgotten all the same). */
bool seg_enter_removal(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t sequence);
/* All entries of a segment; returns how many objects. The lock is let go now and then. */
uint32_t seg_forget_segment(struct seg *s, uint32_t segment);
/* Halves `uses` of a segment's entries. */
void seg_age_segment(struct seg *s, uint32_t segment);
void seg_set_state(struct seg *s, uint32_t segment, enum segment_state state);
void seg_index_check(struct seg *s);
uint32_t seg_segment_of(const struct seg *s, uint64_t device_offset);

/* ---- recover.c ---------------------------------------------------------------------------------------------------------- */

/* Until recover_step has returned true, recovery has all of conf.memory to itself. What it relies upon: within one generation of a segment
 * no space is written twice, and records lie one directly behind the other. */

/* Finds the superblock and reads segment headers and seals, waiting for the disk: fills s->super, the segment table (states, generations)
 * and s->generation. Makes s->segment (mem_calloc; the store's to free). Segments of
 * an earlier epoch are FREE, but their generation counts. A segment whose header cannot be read counts as sealed and
 * suspect. 0, -ENOENT (no store), -EPROTONOSUPPORT (version), -EIO, -ETIMEDOUT (the disk hangs), -ENOMEM; after a failure close the disk,
 * then call recover_destroy(s->recovery). */
int recover_open(struct seg *s, struct why *why);
/* Starts loading; the rest happens in callbacks of disk_run and in recover_step. Sealed segments by their summaries, newest first; open
 * ones, and those whose summary is bad, by looking for a record at every block and checking its payload. */
int recover_start(struct seg *s);
/* Called every turn until it returns true: all is loaded, s->recovered may be set, `recovery` is freed. Open segments that were found are
 * closed for writing (sealed with a summary as soon as writing starts, or left as they are when empty: then free). */
bool recover_step(struct seg *s);
/* Another turn is worth it now, without waiting for the device. */
bool recover_ready(const struct seg *s);
void recover_destroy(struct recovery *r);

/* ---- seg.c ---------------------------------------------------------------------------------------------------------------- */

/* Callbacks of the disk change state only; what follows from it is started by the steps. */
void seg_finish(struct seg *s, struct seg_op *op, int result);
void seg_read(struct seg *s, struct seg_op *op);
/* Under the lock for a moment: *counter (of s->n) changes by `by`. */
void seg_count(struct seg *s, uint64_t *counter, uint64_t by);
void seg_give_up(struct seg *s, uint32_t segment, const char *because);

/* ---- write.c, commit.c ----------------------------------------------------------------------------------------------------- */

/* Use of conf.memory. */
#define SEG_BLOCKS_AT  0u         /* heads of records, headers, seals, superblocks */
#define SEG_SUMMARY_AT (2u << 20) /* FORMAT_MAX_SUMMARY */
#define SEG_BOUNCE_AT  (6u << 20) /* records on the move */

int writer_create(struct seg *s);
void writer_destroy(struct writer *w);
void writer_submit(struct seg *s, struct seg_op *op); /* WRITE, REMOVE, CLEAR, FLUSH */
void writer_step(struct seg *s);                      /* timers, waiting operations */
bool writer_idle(const struct seg *s);
void writer_cancel(struct seg *s);            /* what waits ends with -ECANCELED */
uint64_t writer_due(const struct seg *s);     /* ns until a timer wants a turn; UINT64_MAX: none */
bool writer_failing(const struct seg *s);     /* a write failed a moment ago: work of our own waits */
bool writer_in_need(const struct seg *s);     /* something waits for a clean segment or an entry */
bool writer_clearing(const struct seg *s);    /* eviction must come to rest */
uint64_t writer_written(const struct seg *s); /* a mark for writer_durable: all writes that are done */
bool writer_durable(const struct seg *s, uint64_t mark);
void writer_check(struct seg *s);
/* Seals a segment that recovery found open: entries are in the index already. Takes `summary` over (mem_free). `end`: behind the last
 * record, from the segment's start. Called from recover_step, in its last turn. */
void writer_adopt(struct seg *s, uint32_t segment, struct format_summary *summary, uint64_t end);
/* Appends a record on behalf of eviction; the payload is in `op->mem`, op->sequence is that of the old record. Ends with -ENOENT when
 * that does not count any more, with -ENOSPC rather than wait for a segment. */
void writer_again(struct seg *s, struct seg_op *op);
/* Writes a removal of these (at most FORMAT_REMOVALS) once more; evictor_carried is called. False: no room. */
bool writer_carry(struct seg *s, const struct seg_key *keys, uint32_t n);
/* Bytes that the open segment still has. */
uint64_t writer_room(const struct seg *s);
/* A write of this key is under way. */
bool writer_has(const struct seg *s, const struct seg_key *key);

/* ---- evict.c --------------------------------------------------------------------------------------------------------------- */

int evictor_create(struct seg *s);
void evictor_destroy(struct evictor *e);
void evictor_start(struct seg *s); /* recovery is complete: which segments are free */
void evictor_step(struct seg *s);
bool evictor_idle(const struct seg *s);             /* no IO of its own under way */
void evictor_reset(struct seg *s);                  /* everything was forgotten: all segments are free */
void evictor_free(struct seg *s, uint32_t segment); /* it holds nothing: clean from now on */
void evictor_carried(struct seg *s, int result);
void evictor_check(struct seg *s);
/* A clean segment, or UINT32_MAX (then one is being made, if any can). */
uint32_t evictor_take(struct seg *s);

#endif
