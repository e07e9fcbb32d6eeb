/* format.h - every byte that a segment store writes, and the functions that write and read it. Pure: no IO, no state, any thread.
 *
 * All integers little-endian. Every structure fills whole blocks of 4 KiB and ends with the crc32c of all that is before it in them. What
 * was read is hostile: a decoder returns -EBADMSG unless magic, version, uuid, place and checksum are right and every length and
 * count is within its block; only then is `out` filled. One exception: a superblock that is whole but of another version gives
 * -EPROTONOSUPPORT. docs/l2-format.md has the layout byte by byte.
 *
 *   0                superblock copy 0                 segment i at  start_of(i):
 *   1 MiB            superblock copy 1                   + 0      header  (written when the segment is opened; never again)
 *   2 MiB            segments 0 .. mid-1                 + 4 KiB  seal    (written when it is full: where the summary is)
 *   start_of(mid)-1M superblock copy 2                   + 8 KiB  records, one after another, 4 KiB aligned
 *   ...              segments mid .. n-1                 tail     summary: one entry per record, then the names it uses
 *   end - 1 MiB      superblock copy 3
 *
 * A record never crosses a segment. A segment is live when its header carries the store's uuid, the current epoch, and the segment's
 * own number. Its generation grows with every reuse, over the whole life of the store. Sequence numbers order all records of a
 * store: of two records with one key the higher one counts; a removal is a record, too.
 */
#ifndef DAEMON_SEG_FORMAT_H
#define DAEMON_SEG_FORMAT_H

#include "daemon/seg/names.h"
#include "daemon/store/store.h"

#include <stdbool.h>

#define FORMAT_BLOCK        4096u
#define FORMAT_VERSION      1u
#define FORMAT_SUPERS       4u
#define FORMAT_DATA         (2u << 20)          /* of the first segment */
#define FORMAT_RESERVED     (1u << 20)          /* around superblock copies 2 and 3 */
#define FORMAT_RECORDS      (2u * FORMAT_BLOCK) /* of the first record in its segment */
#define FORMAT_MAX_SUMS     512u                /* sub-blocks of a record */
#define FORMAT_REMOVALS     64u                 /* keys of one removal record */

#define FORMAT_FIXED        (FORMAT_DATA + 2u * FORMAT_RESERVED) /* what is beside the segments */
#define FORMAT_MIN_SEGMENTS 4u
#define FORMAT_MIN_SEGMENT  (64u << 10)
#define FORMAT_MAX_SEGMENT  (1u << 30)
#define FORMAT_MAX_BYTES    (1ull << 44) /* the index counts blocks in 32 bits */
#define FORMAT_MAX_COUNT \
	(1ull << 62) /* of epochs, generations, sequence numbers: counting on from what was read never wraps */
#define FORMAT_MAX_SUMMARY (4u << 20) /* a segment that would need more is full: recovery reads summaries whole */

struct format_super {
	uint8_t uuid[16];
	uint64_t epoch; /* grows with every clear and format */
	uint64_t bytes, segment_bytes;
	uint32_t segments, mid; /* mid: index of the first segment behind copy 2 */
	uint64_t created_s;     /* Unix time */
};

struct format_segment {
	uint8_t uuid[16];
	uint32_t id;
	uint64_t generation, epoch;
};

struct format_seal {
	uint8_t uuid[16];
	uint32_t id;
	uint64_t generation;
	uint64_t summary_at; /* from the segment's start */
	uint32_t summary_bytes, records, summary_crc;
};

enum format_kind { FORMAT_OBJECT = 1, FORMAT_REMOVAL = 2 };

struct format_record {
	uint8_t uuid[16];
	uint32_t segment;
	uint64_t generation, offset, sequence; /* offset: of this header on the device */
	enum format_kind kind;
	/* OBJECT */
	struct seg_name name; /* model and salt point into the block that was decoded */
	struct store_hash hash;
	uint64_t bytes;                 /* payload; on the medium rounded up to FORMAT_BLOCK */
	uint32_t sums[FORMAT_MAX_SUMS]; /* crc_blocks(bytes) */
	/* REMOVAL: digests of names and hashes; sequence kills older records only */
	uint32_t nremoved;
	struct {
		uint8_t name[SEG_DIGEST];
		struct store_hash hash;
	} removed[FORMAT_REMOVALS];
};

/* An entry of a summary: 96 bytes on the medium. */
struct format_entry {
	enum format_kind kind;
	uint32_t name; /* index into the summary's names; of a REMOVAL unused */
	struct store_hash hash;
	uint64_t at; /* of the record's header from the segment's start */
	uint64_t bytes, sequence;
	uint32_t crc; /* of the whole payload, crc32c_join */
};
#define FORMAT_ENTRY 96u

/* Where things are. Constant functions of the geometry. format_geometry fills in bytes, segment_bytes, segments and mid (the rest is
 * 0): 0, -EINVAL (too small for four segments, or a segment size that is no multiple of FORMAT_BLOCK within the limits above), -EFBIG
 * (more than FORMAT_MAX_BYTES). */
int format_geometry(uint64_t bytes, uint64_t segment_bytes, struct format_super *out);
uint64_t format_super_at(const struct format_super *s, uint32_t copy);
uint64_t format_segment_at(const struct format_super *s, uint32_t id);
/* Bytes a record takes, header and padding included. */
uint64_t format_record_bytes(uint64_t payload);
/* Bytes a summary takes, for so many records and names of so much text. */
uint64_t format_summary_bytes(uint32_t records, uint32_t names, uint64_t text);

/* Each fills one block of FORMAT_BLOCK bytes. */
void format_super_encode(const struct format_super *s, uint32_t copy, void *block);
int format_super_decode(const void *block, uint32_t copy, struct format_super *out);
/* The version of a whole superblock of any version; 0: it is none. */
uint32_t format_super_version(const void *block);
void format_segment_encode(const struct format_segment *s, void *block);
int format_segment_decode(const void *block, struct format_segment *out);
void format_seal_encode(const struct format_seal *s, void *block);
int format_seal_decode(const void *block, struct format_seal *out);
void format_record_encode(const struct format_record *r, void *block);
/* Cheap for blocks that are no record (payload): magic first. */
int format_record_decode(const void *block, const struct format_super *s, uint32_t segment, uint64_t offset,
			 struct format_record *out);

/* A summary under construction: entries are appended from the front, names are collected; `finish` puts it together. */
struct format_summary;
size_t format_summary_size(uint32_t max_records); /* bytes of the struct, for the caller to allocate */
void format_summary_start(struct format_summary *s, uint32_t max_records, const struct seg_names *names);
/* e->name is a number of the names table here. False: full (max_records, or FORMAT_MAX_SUMMARY). */
bool format_summary_add(struct format_summary *s, const struct format_entry *e);
uint32_t format_summary_count(const struct format_summary *s);
/* Bytes it will take, a multiple of FORMAT_BLOCK. */
uint64_t format_summary_need(const struct format_summary *s);
/* Writes it to `out` (format_summary_need bytes); uuid, id and generation of `seal` go into it, summary_bytes, records and
 * summary_crc are filled in. */
void format_summary_finish(const struct format_summary *s, void *out, struct format_seal *seal);

/* Reading one back: checks everything once, interning its names; then entries by number, e->name a number of the table (0: no
 * room for the name: the entry is not to be used). */
struct format_reader {
	const uint8_t *entries;
	uint32_t count, nnames;
	uint32_t *names; /* nnames numbers, the caller's array */
};
/* 0, -EBADMSG, -E2BIG (more than names_cap names). `p` must stay until the last entry was read. `names` NULL: numbers are 0. */
int format_summary_open(const void *p, uint64_t bytes, const struct format_seal *seal, const struct format_super *super,
			struct seg_names *names, uint32_t *numbers, uint32_t names_cap, struct format_reader *out);
/* 0 or -EBADMSG: the entry leaves its segment. */
int format_summary_entry(const struct format_reader *r, uint32_t i, const struct format_super *super,
			 struct format_entry *out);

#endif
