/* disk_engine.h - what lies below a disk: takes sub-IOs, gives completions. For engines only; users want disk.h.
 *
 * All calls come from the disk's owner thread, except `wake`. A sub-IO is at most disk_facts.max_io_bytes long and aligned. The engine
 * keeps the pointer until it has returned the sub-IO by `reap`. It may complete in any order, and must complete every one,
 * if need be never (a device that hangs).
 */
#ifndef TRANSPORT_DISK_DISK_ENGINE_H
#define TRANSPORT_DISK_DISK_ENGINE_H

#include "transport/disk/disk.h"

struct disk_sub {
	enum disk_op op;
	int32_t result; /* bytes done, or negative errno; set by the engine */
	uint64_t offset;
	uint32_t bytes; /* DISCARD: in units of DISK_ALIGN */
	uint32_t fixed; /* index + 1 of the registered buffer that holds it; 0 = none */
	void *buf;
	struct disk_io *io;
	uint64_t started_ns;
	struct disk_sub *next; /* free list of the disk, or a list of the engine */
	/* the disk's own */
	struct disk_sub *older, *newer; /* of those with the engine, by start */
	uint64_t at;                    /* where the whole sub-IO begins in its request, and its length: a short one */
	uint32_t whole, tries;          /* is continued, not begun again */
	uint64_t due_ns;
};

struct disk_engine_counts {
	uint64_t submit_calls; /* io_uring_enter, wake-ups of threads */
	uint64_t punts, splits;
	bool traced;
};

struct disk_engine_ops {
	const char *name;
	void (*close)(void *engine, bool leak); /* leak: IOs are still under way; keep what the kernel may touch */
	/* Takes up to n sub-IOs; returns how many. Fewer: its queue is full, try after the next reap. */
	uint32_t (*submit)(void *engine, struct disk_sub **subs, uint32_t n);
	/* Up to `max` completed ones; waits up to wait_ns for the first. */
	uint32_t (*reap)(void *engine, struct disk_sub **out, uint32_t max, uint64_t wait_ns);
	void (*wake)(void *engine);    /* any thread */
	uint64_t (*now)(void *engine); /* the real ones: any thread */
	/* The rest may be left out. */
	/* Makes memory that is there the fixed buffer `index`, which no sub-IO has named yet. Left out: nothing is to be done for it. */
	int (*fix)(void *engine, uint32_t index, void *base, uint64_t bytes, struct why *why);
	void (*counts)(void *engine, struct disk_engine_counts *out); /* any thread */
	const char *(*text)(void *engine);                            /* for disk_describe, instead of the name */
	bool forgets; /* once closed it uses no disk_sub, not even those that never came back */
};

/* A disk over an engine that the caller made; `facts` as the engine has them; buffers are fixed as far as
 * they are there. The disk owns the
 * engine from here on, also on failure. conf->path is not opened; conf->engine, threads, exclusive, buffered and trace mean nothing. */
int disk_open_engine(const struct disk_conf *conf, const struct disk_facts *facts, const struct disk_engine_ops *ops,
		     void *engine, struct disk **out, struct why *why);

#endif
