/* recover_int.h - what the files of recovery share, and the superblock's finder, which the tools use, too.
 *
 *   recover_super.c  which superblock counts         recover_scan.c     a segment without a summary, block by block
 *   recover.c        opening: headers and seals      recover_removed.c  removals that were met before what they remove
 *   recover_load.c   summaries, newest first; turns
 */
#ifndef DAEMON_SEG_RECOVER_INT_H
#define DAEMON_SEG_RECOVER_INT_H

#include "daemon/seg/seg_int.h"

/* ---- recover_super.c ------------------------------------------------------------------------------------------------- */

/* Reads one block; 0 or -errno. */
typedef int (*super_read)(void *ctx, uint64_t offset, void *block);

struct super_found {
	struct format_super super; /* the one that counts */
	uint32_t good;             /* how many copies say the same */
	bool is_good[FORMAT_SUPERS];
	bool agreed;            /* two at least */
	uint64_t newest;        /* highest epoch that any copy of this store has */
	uint32_t other_version; /* with -EPROTONOSUPPORT: which */
};

/* `block`: FORMAT_BLOCK bytes to read into. 0; -ENOENT: no store; -EPROTONOSUPPORT: one of another version; -EIO: nothing could be read. */
int super_find(super_read read, void *ctx, uint64_t device_bytes, void *block, struct super_found *out);

/* ---- recover_removed.c: keys and the sequence number of their removal -------------------------------------------------- */

struct removed_slot {
	uint64_t key, sequence; /* key 0 = empty; two keys that mix alike cost an object, no more */
	uint64_t offset;        /* of the removal's record on the device */
};
struct removed {
	struct removed_slot *slot;
	uint32_t n, cap, dropped; /* dropped: no room any more */
};
#define REMOVED_MAX (1u << 20)

void removed_add(struct removed *t, const uint8_t *name, const struct store_hash *hash, uint64_t sequence,
		 uint64_t offset);
/* The removal, when the key was removed after `sequence`; else NULL. */
const struct removed_slot *removed_after(const struct removed *t, const uint8_t *name, const struct store_hash *hash,
					 uint64_t sequence);
void removed_free(struct removed *t);

/* ---- recovery ------------------------------------------------------------------------------------------------------------ */

/* Of SEG_MEMORY, while recovery has it. */
#define LOAD_RING    (24u << 20) /* summaries under way */
#define SCAN_WINDOWS 8u          /* of DISK_SUB_MAX each */
#define REMOVALS     64u         /* removal records under way, a block each */
#define LOADS        64u         /* summaries under way */
#define HEADERS      512u        /* segment headers under way, two blocks each (in LOAD_RING) */
#define ADOPTED_MAX  64u         /* open segments that are sealed; of a sane store there are a few */
_Static_assert(LOAD_RING + SCAN_WINDOWS * DISK_SUB_MAX + (REMOVALS + 1) * FORMAT_BLOCK <= SEG_MEMORY, "it fits");
_Static_assert(HEADERS * 2 * FORMAT_BLOCK <= LOAD_RING && FORMAT_MAX_SUMMARY <= LOAD_RING / 2, "it fits");

struct load {
	struct disk_io io;
	struct recovery *r;
	uint32_t segment;
	uint32_t taken; /* bytes of the ring, those skipped at its end included */
	bool done, opened;
	struct format_reader reader;
	uint32_t next; /* entry */
};

struct removal {
	struct disk_io io;
	struct recovery *r;
	uint32_t segment;
	uint64_t generation;
};

struct window {
	struct disk_io io;
	struct recovery *r;
	uint32_t at, bytes; /* within the segment */
	uint32_t piece;     /* reading it again in pieces: where, in the window */
	bool done, pieces;
};

struct scan {
	bool active, sealed; /* sealed: its summary was bad */
	uint32_t segment;
	struct window window[SCAN_WINDOWS];
	uint32_t reads, head; /* windows asked for and looked at, counted from the segment's start */
	uint64_t pos;         /* next block to look at; in a payload: of its next byte */
	/* the record whose payload is passing by */
	struct format_record *record;
	uint8_t header[FORMAT_BLOCK]; /* its header: the texts of its name */
	bool inside, torn;
	uint64_t left;
	uint32_t crc, sub;
	/* what was found */
	struct format_summary *summary; /* NULL: sealed, or no memory */
	uint32_t records;
	uint64_t end;
};

struct adopted {
	uint32_t segment;
	struct format_summary *summary;
	uint64_t end;
};

struct seal_place {
	uint32_t at_blocks, bytes, records, crc;
};

struct recovery {
	struct seg *s;
	uint64_t started_ns;
	uint8_t *ring, *windows, *blocks;
	/* open */
	struct disk_io one; /* of the superblocks */
	bool one_done;
	struct load *headers; /* HEADERS, only their io and segment */
	uint32_t next_header, headers_left, headers_bad;
	struct seal_place *seal; /* of every segment */
	/* sealed segments: FIFO of loads, ring of memory */
	uint32_t *order, norder, next;
	struct load load[LOADS];
	uint32_t load_head, load_tail;
	uint64_t ring_head, ring_tail;
	uint32_t *numbers; /* SEG_NAMES_MAX */
	/* segments to scan */
	uint32_t *to_scan, nscan, scanned;
	struct scan scan;
	struct adopted adopted[ADOPTED_MAX];
	uint32_t nadopted;
	/* removals */
	struct removal removal[REMOVALS];
	uint64_t removal_busy; /* bit per slot */
	struct removed removed;
	struct format_record *keys; /* the removal record being looked at */
	uint32_t bad_summaries, torn;
	uint64_t objects, segments; /* taken so far; published once a turn */
};

static inline struct segment *recover_segment(struct recovery *r, uint32_t id)
{
	return &r->s->segment[id];
}

/* recover_load.c, for the scan: takes note of a record that was found good. */
void recover_object(struct recovery *r, uint32_t segment, const struct format_entry *e);
void recover_keys(struct recovery *r, uint32_t segment, const struct format_record *removal);

/* recover_scan.c: one turn; false when there is nothing left to scan. */
bool scan_turn(struct recovery *r);
/* A turn now would do something without waiting for the device; where all is scanned, too. */
bool scan_ready(const struct recovery *r);
int scan_create(struct recovery *r);
void scan_destroy(struct recovery *r);

#endif
