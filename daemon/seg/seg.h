/* seg.h - the objects of one device: a log of segments that describes itself and is recovered from the medium alone.
 *
 * On the medium (format.h has every byte): superblock copies; segments, written once from front to back and freed as a whole;
 * records (4 KiB header with own offset, generation, full key, checksums; then the payload); at the end of a sealed segment a summary of
 * its records. Free space is derived, never stored. Capacity is fixed by the format.
 *
 * In memory: an index of at most 64 bytes per object, which holds the checksum of the payload beside its place, so that a read costs one
 * IO and wrong bytes of whatever origin (rot, torn, dropped, misdirected, stale) are a miss and never an answer.
 *
 * Two acknowledgements: `done` of a write says it is written (it survives the death of the process); SEG_FLUSH done says that
 * everything written before is durable (it survives power loss). Writes that were not flushed within 50 ms or 256 MiB are flushed by
 * the store itself.
 *
 * Eviction frees the segment that is worth least (recency-weighted bytes, oldest among equals) before clean segments run out; records used
 * since the last pass are written again, up to a tenth of the segment. A segment that is being read waits for its readers.
 *
 * Threads: one owner thread (the one of the disk) for everything but seg_find, seg_stats and seg_list, which any thread may call; own
 * lock (LK_SEG) around the index, never held during IO. After seg_open recovery goes on inside seg_run; objects are found as their
 * segments load, writes wait until it is complete.
 * What can fail: open (no store, another version, foreign data, in use); operations (result).
 */
#ifndef DAEMON_SEG_SEG_H
#define DAEMON_SEG_SEG_H

#include "daemon/seg/names.h"
#include "daemon/store/store.h"
#include "transport/disk/disk.h"

#include <stdio.h>

struct seg;

#define SEG_MEMORY      (40u << 20) /* bytes of its own buffers: headers, summaries, records on the move */
#define SEG_MAX_BYTES   (512u << 20)
#define SEG_BYTES_USUAL (256u << 20)

struct seg_key {
	uint32_t name; /* of the names table */
	struct store_hash hash;
};

/* ---- making and looking at one (seg_tool.c); any thread, the device not in use ------------------------------------------ */

struct seg_format_conf {
	const char *path;       /* a device, or a file: created when `bytes` is given, its blocks reserved */
	uint64_t bytes;         /* 0 = all of it; else the capacity, of a device its first bytes */
	uint64_t segment_bytes; /* 0 = SEG_BYTES_USUAL at most, smaller for small devices */
	bool prewrite;          /* writes all of a new file once; else it is as large as that, but not written */
	bool force; /* over a foreign file system, partition table, or another store; never over one in use */
};
int seg_format(const struct seg_format_conf *conf, struct why *why);

enum seg_content { SEG_EMPTY, SEG_OURS, SEG_FOREIGN };
struct seg_info {
	enum seg_content content;
	char foreign[128]; /* "ext4 file system", "LMCache raw_block store", "partition table" */
	uint8_t uuid[16];
	uint32_t version;
	uint64_t epoch, bytes, segment_bytes, segments, sealed, open, free_segments;
	uint32_t good_superblocks; /* of four */
	bool in_use;
	uint64_t created_s; /* Unix time */
	uint64_t records;   /* of sealed segments, as their seals say */
};
int seg_probe(const char *path, struct seg_info *out, struct why *why);

/* What verify and dump tell about each record; return false to stop. */
struct seg_record {
	struct seg_name name;
	struct store_hash hash;
	uint64_t offset, bytes, sequence, generation;
	uint32_t segment;
	bool removed; /* a removal, not an object */
	int error;    /* verify: 0, -EBADMSG (header), -EILSEQ (payload), -EIO */
};
typedef bool (*seg_visit)(void *ctx, const struct seg_record *r);
struct seg_verify_result {
	uint64_t records, bytes, bad_headers, bad_payloads, io_errors, bad_summaries, bad_segments;
	uint64_t
		unfinished; /* torn records of segments that are not sealed: what a crash leaves, left out by recovery; not bad */
	uint64_t segments; /* that hold records */
	uint32_t good_superblocks;
};
/* Reads every record of every segment (payload: its bytes, too). 0, or -errno when it could not be done at all. */
int seg_verify(const char *path, bool payload, seg_visit visit, void *ctx, struct seg_verify_result *out,
	       struct why *why);

/* ---- a store in operation -------------------------------------------------------------------------------------------------- */

struct seg_conf {
	struct disk *disk; /* the store's from here on, also when open fails */
	void *memory; /* SEG_MEMORY bytes, DISK_ALIGN aligned, better among the disk's buffers; borrowed until seg_close */
	struct seg_names *names; /* borrowed */
	uint32_t max_objects;    /* 0 = by size: capacity / 64 KiB, at least a million, at most 2^31 */
	bool verify;             /* checksum of payloads on every read (default policy); headers and summaries always */
	bool discard;            /* freed segments are discarded, at most one per second */
	double readmit;          /* share of a segment that may be written again when it is freed; 0.1 usual */
	uint32_t flush_ms;       /* group commit; 0 = 50 */
	uint64_t flush_bytes;    /* 0 = 256 MiB */
};

int seg_open(const struct seg_conf *conf, struct seg **out, struct why *why);
/* Lets what is queued finish for up to wait_ms and seals nothing: recovery handles open segments. Closes the disk. Operations that were
 * not started by then end with -ECANCELED. Returns how many requests the disk did not give back: their operations' `done` is never called,
 * and their `mem`, and conf.memory, must not be used again. */
uint32_t seg_close(struct seg *s, uint32_t wait_ms);

/* One turn of the owner thread: starts, waits up to wait_ns, completes. Returns how many operations were done. */
uint32_t seg_run(struct seg *s, uint64_t wait_ns);
struct disk *seg_disk(struct seg *s);
/* False while recovery goes on. */
bool seg_recovered(const struct seg *s);

enum seg_op_kind {
	SEG_READ, /* key, mem, bytes: -ENOENT, -EILSEQ (checksum; the key is forgotten), -EMSGSIZE (other size), -EIO */
	SEG_WRITE,  /* key, mem, bytes: -EEXIST, -ENOSPC (no clean segment: dropped), -EFBIG, -EROFS */
	SEG_REMOVE, /* key: -ENOENT; durable with the next flush */
	SEG_CLEAR,  /* everything, by a new epoch; durable when done */
	SEG_FLUSH,  /* all writes done before are durable */
};

/* The caller's until seg_submit and again from `done` on, as are `mem` and `sums`. The device moves whole blocks: `mem` is aligned to
 * DISK_ALIGN, and memory up to the next multiple of it behind `bytes` is the operation's, too (a READ writes there, a WRITE stores what is
 * there). `done` is called inside seg_run only. */
struct seg_op {
	enum seg_op_kind kind;
	struct seg_key key;
	void *mem;
	uint64_t bytes;
	/* crc_blocks(bytes) values. READ: filled in (zeros without conf.verify). WRITE: taken when sums[0] is not 0, else computed and filled in. Not NULL. */
	uint32_t *sums;
	int result;
	void (*done)(struct seg_op *op);
	void *owner;
	/* the store's own */
	struct seg *store;
	struct seg_op *next;
	struct disk_io io, head;
	uint32_t segment, slot, parts, crc_left, crc;
	uint64_t offset, sequence;
	bool inner;
};
void seg_submit(struct seg *s, struct seg_op *op);

/* Any thread: bytes[i] = size of the object, 0 when it is not there. Marks what it finds as used. */
void seg_find(struct seg *s, const struct seg_key *keys, uint32_t n, uint64_t *bytes);
/* Any thread: fills up to `max` keys in an order that survives insertions; *cursor 0 at first, 0 again at the end. What eviction
 * writes again meanwhile may be left out or told twice. */
uint32_t seg_list(struct seg *s, uint64_t *cursor, struct seg_key *keys, uint64_t *bytes, uint32_t max);

struct seg_stats {
	uint64_t objects, object_bytes; /* live payload */
	uint64_t used_bytes;            /* of the medium: live records with headers and padding */
	uint64_t capacity_bytes;        /* what all segments can hold */
	uint64_t segments, free_segments, open_segments;
	uint64_t reads, read_bytes, read_misses, read_errors, bad_checksums;
	uint64_t writes, written_bytes, durable_writes, write_errors, dropped, present;
	uint64_t removed, evicted_objects, evicted_bytes, evicted_segments, readmitted_bytes, discarded_bytes;
	uint64_t flushes, queued, in_flight, suspect_segments, index_bytes;
	uint64_t recovered_objects, recovered_segments, scanned_segments, recovery_ns; /* recovery_ns: so far */
	bool recovered;
};
void seg_stats(struct seg *s, struct seg_stats *out);

/* Walks every invariant (tests; asserts). Owner thread. */
void seg_check(struct seg *s);

#endif
