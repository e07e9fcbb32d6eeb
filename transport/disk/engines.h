/* engines.h - inside transport/disk: the engines that drive a real descriptor, and the counters of the kernel's slow paths. */
#ifndef TRANSPORT_DISK_ENGINES_H
#define TRANSPORT_DISK_ENGINES_H

#include "transport/disk/disk_int.h"

/* ---- trace.c: tracepoints of a ring's slow paths ------------------------------------------------------------------------------ */

#define TRACE_CPUS 256u

struct disk_trace {
	_Atomic bool on;
	/* Perf descriptors, -1 = none: requests handed to kernel threads; requests split by the owner itself; and split by those kernel
	 * threads, which perf's own inheritance does not reach. They are known by their name, on each CPU. */
	int punts, splits, by_workers[TRACE_CPUS];
};

void trace_init(struct disk_trace *t);
/* Counts, from now on, block:block_split, and io_uring:io_uring_queue_async_work of reads and writes (an fsync is always handed to a
 * kernel thread; that is no fault), of the calling thread. All or nothing; false: not permitted, or no tracefs. */
bool trace_open(struct disk_trace *t);
void trace_close(struct disk_trace *t);
/* Any thread. False: nothing is counted. */
bool trace_read(struct disk_trace *t, uint64_t *punts, uint64_t *splits);

/* ---- the engines --------------------------------------------------------------------------------------------------------- */

struct engine_conf {
	int fd; /* the engine's on success */
	bool block, write, can_discard, trace;
	uint32_t sub_ios; /* held at once, at most */
	uint32_t threads;
	uint32_t nfixed; /* pieces that may be registered */
};

/* Where the kernel has no table for nfixed buffers, `soft` says so. Fails where io_uring cannot be used at all. */
int uring_create(const struct engine_conf *conf, void **out, struct why *soft, struct why *why);
extern const struct disk_engine_ops uring_ops;

int threads_create(const struct engine_conf *conf, void **out, struct why *why);
extern const struct disk_engine_ops threads_ops;

/* sysfs.c: a partition's folder becomes that of the whole disk. */
void disk_whole(char *dir);
/* The path of the first entry of a folder by name; `out` may be `dir`. */
bool disk_first_entry(const char *dir, char *out, size_t cap);

/* facts.c: completes what disk_probe found by what the open descriptor says, and refuses what cannot be driven at DISK_ALIGN. */
int disk_facts_of_fd(int fd, struct disk_facts *f, struct why *why);

/* open.c: gives up the lock, too, whoever else still holds the file. */
void disk_close_fd(int fd);

#endif
