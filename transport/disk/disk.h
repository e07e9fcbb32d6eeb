/* disk.h - a block device, partition or preallocated file, driven at its full speed by one thread.
 *
 * A request reads or writes any length at 4 KiB steps; the disk splits it into sub-IOs that the kernel takes whole (never more than
 * the queue's limit, at most 1 MiB: finding 2 of the notes), keeps a sliding window of bytes and of IOs in flight, and starts reads
 * before writes. Behind that is an engine, one small table (disk_engine.h): io_uring with the caller's memory as fixed buffers, threads
 * of pread/pwrite where io_uring is forbidden, or a simulator (disk_sim.h). Everything above the table is the same code for all three.
 *
 * Threads: one owner thread calls everything but disk_wake; callbacks run on it, inside disk_run. Memory: a request belongs to
 * its caller before disk_submit and again from its `done` on; its buffer stays with the disk until then, whatever deadline
 * passed. Nothing is allocated after disk_open.
 * What can fail: open (absent, no permission, in use, misaligned, memlock); requests (result of `done`, negative errno).
 */
#ifndef TRANSPORT_DISK_DISK_H
#define TRANSPORT_DISK_DISK_H

#include "daemon/base/why.h"
#include "numa/node.h"

#include <stdbool.h>
#include <stdint.h>

#define DISK_ALIGN   4096u      /* offsets, lengths and addresses: multiples of it */
#define DISK_SUB_MAX (1u << 20) /* bytes of a sub-IO at most */
#define DISK_FIXED   (1u << 30) /* bytes of one registered buffer at most (kernel limit) */

struct disk;

/* ---- what is known about it ---------------------------------------------------------------------------------------- */

struct disk_facts {
	char path[256]; /* as opened */
	bool block;     /* a block device; else a regular file */
	uint64_t bytes; /* whole DISK_ALIGN steps */
	uint32_t logical_block, dma_align;
	uint32_t max_io_bytes; /* queue/max_sectors_kb of the device; of a file: of the device below it */
	uint32_t max_segments; /* 0: unknown */
	uint32_t nr_requests;  /* 0: unknown */
	bool volatile_cache;   /* queue/write_cache says write back (or nothing): durable only after a flush */
	bool can_discard;
	bool rotational;
	uint64_t device; /* its number while it is open, if a block device; 0: not known */
	node_id node;    /* of the controller; unknown where nothing says it */
	char model[64], serial[64], scheduler[32];
};

/* Looks without opening for IO. 0 or -errno. */
int disk_probe(const char *path, struct disk_facts *f, struct why *why);

/* True when the block device that was opened has left the machine: what is read from it fails with whatever error the kernel likes. Two
 * system calls. */
bool disk_left(const struct disk_facts *f);

/* ---- opening --------------------------------------------------------------------------------------------------------- */

enum disk_engine { DISK_AUTO, DISK_URING, DISK_THREADS };

struct disk_buffer {
	void *base;
	uint64_t bytes; /* any length: split into entries of DISK_FIXED at most */
	/* How many bytes from `base` on are there by now: a number that only grows, asked for by the owner now and then until it is `bytes`.
	 * NULL: all are there. Registering a page commits it, so what is not there yet is not registered yet. */
	uint64_t (*there)(void *ctx, uint32_t index);
	void *ctx;
	uint32_t index;
};

struct disk_conf {
	const char *path;
	bool write;              /* else read only: write, discard and flush fail with -EBADF */
	bool exclusive;          /* O_EXCL on a device, a lock on a file: -EBUSY when somebody else uses it */
	bool buffered;           /* no O_DIRECT: for file systems without it; one warning */
	enum disk_engine engine; /* AUTO: io_uring, else threads and one clear line */
	uint32_t threads;        /* of the fallback; 0 = 16 */
	uint32_t sub_io_bytes;   /* 0 = min(max_io_bytes, DISK_SUB_MAX) */
	uint64_t window_bytes;   /* bytes in flight at most; 0 = 32 MiB, raised while throughput grows, to 128 MiB */
	/* Memory that requests point into (the arena, headers). What is there is registered by disk_open, what comes later by disk_run, in
	 * slices of a millisecond. Other memory works, too, but not as fixed buffers, and is counted. */
	const struct disk_buffer *buffers;
	uint32_t nbuffers;
	/* Count by tracepoints, where permitted, what should never happen (tests, bench): reads and writes of the owner thread that
	 * io_uring handed to a kernel thread, and requests that the block layer split in it or in those kernel threads. Not of the
	 * fallback. */
	bool trace;
};

int disk_open(const struct disk_conf *conf, struct disk **out, struct why *why);
/* Called by the owner. Waits up to wait_ms for all that was submitted (more is refused: -ESHUTDOWN); what does not come back in time leaks with its ring, since the kernel may still write
 * into its buffers. Returns how many requests were abandoned; their `done` is not called. */
uint32_t disk_close(struct disk *d, uint32_t wait_ms);

const struct disk_facts *disk_facts(const struct disk *d);
/* "io_uring, fixed buffers 4.0 of 4.0 GiB, sub-IO 1024 KiB, window 32 MiB", for the log and /status. */
void disk_describe(const struct disk *d, char *buf, size_t cap);

/* ---- requests ---------------------------------------------------------------------------------------------------------- */

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD };

struct disk_io {
	enum disk_op op;
	bool urgent; /* before others of its kind: headers of segments, probes */
	uint64_t offset, bytes;
	void *buf;
	/* READ, may be NULL: sub-IO [at, at + n) of the request is there, in any order; other sub-IOs are still under way. */
	void (*part)(struct disk_io *io, uint64_t at, uint32_t n);
	void (*done)(struct disk_io *io);
	void *owner; /* the caller's */
	int result; /* 0; -EIO, -ENODEV, -EROFS, -ENOSPC ... the first sub-IO's error; -EINVAL for what is misaligned or outside */
	uint64_t submitted_ns, started_ns; /* to the disk; first sub-IO to the kernel */
	/* the disk's own */
	struct disk_io *next;
	uint64_t issued;
	uint32_t in_flight;
};

/* Queues it; disk_run starts it. FLUSH covers all writes whose `done` ran before it was submitted. */
void disk_submit(struct disk *d, struct disk_io *io);

/* Starts what the window allows, waits up to wait_ns (0: not at all) when nothing is ready, and runs callbacks. Returns how many
 * requests were done. Callbacks may submit more. */
uint32_t disk_run(struct disk *d, uint64_t wait_ns);
/* Any thread: makes a waiting disk_run return. */
void disk_wake(struct disk *d);

/* Clock of the engine in ns: CLOCK_MONOTONIC, or the simulator's own time. All time limits above a disk use it. */
uint64_t disk_now(const struct disk *d);

/* Share of the window writes may fill while reads are waiting or in flight: one sub-IO at a time by default (the notes, C1f). 0 = no
 * writes then; UINT64_MAX = no distinction. */
void disk_write_share(struct disk *d, uint64_t bytes);

struct disk_stats {
	uint64_t reads, writes, flushes, discards; /* requests done */
	uint64_t read_bytes, write_bytes;
	uint64_t sub_ios, fixed_bytes, loose_bytes; /* payload through fixed buffers, and not */
	uint64_t errors, short_ios, retries;        /* EAGAIN, EINTR, EBUSY are retried */
	uint64_t punts, splits;                     /* with disk_conf.trace; else 0 */
	bool traced;
	uint64_t submit_calls;             /* io_uring_enter and the like */
	uint64_t fixed_memory, all_memory; /* bytes registered as fixed buffers so far, and given to be */
	uint64_t queued, in_flight, in_flight_bytes, window_bytes;
	uint64_t oldest_ns;      /* age of the oldest sub-IO in flight; 0 = none */
	uint64_t oldest_data_ns; /* of the oldest read or write: flush and discard may rightly take long */
};
void disk_stats(const struct disk *d, struct disk_stats *out); /* any thread; figures may be a moment old */

#endif
