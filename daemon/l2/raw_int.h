/* raw_int.h - raw_block: segment stores on several devices behind one adapter.
 *
 *   raw.c         the adapter: which device, stripes, figures      raw_create.c  configuration, formatting, start
 *   raw_device.c  one device's thread: queue, limits, turns        raw_health.c  breaker, probe, a device that comes back
 *
 * An operation is pushed to its device's inbox (a stack that the thread takes as a whole) and belongs to that thread until its done. Removals, flushes and
 * clears visit all devices, one after another. Nobody but the thread touches the disk.
 */
#ifndef DAEMON_L2_RAW_INT_H
#define DAEMON_L2_RAW_INT_H

#include "daemon/base/lock.h"
#include "daemon/base/log.h"
#include "daemon/l2/breaker.h"
#include "daemon/l2/l2_int.h"
#include "daemon/seg/format.h"

#include <stdatomic.h>

#define RAW_DEVICES  64u
#define RAW_SLOTS    1024u                     /* operations in the store of one device */
#define RAW_STORES   256u                      /* of them, stores: so that loads always find room */
#define RAW_MEMORY   (SEG_MEMORY + (2u << 20)) /* of a device: the store's, and the probe's block behind it */
#define RAW_SCRATCH  4096u                     /* bytes of the probe */
#define RAW_PROBE_AT (FORMAT_RESERVED / 2)     /* between superblock copies 0 and 1, where nothing else lies */

/* One operation inside a store. Removals, flushes and clears use `own` and not the caller's op: when the device hangs, their caller
 * is let go and the slot waits alone. */
struct raw_slot {
	struct raw_device *d;
	struct l2_io *io; /* NULL: unused, or its caller has been let go */
	struct seg_op *op;
	struct raw_slot *next;
	struct seg_op own;
};

struct raw_list {
	struct l2_io *head, **tail;
	uint64_t n;
};

/* What others may see of the thread's state; under `lk`. */
struct raw_view {
	struct breaker breaker;
	struct disk_facts facts;
	char engine[160];
	uint64_t now_ns;
	int last_error;
};

struct raw_device {
	struct raw *raw;
	uint32_t index;
	char *path;
	pthread_t thread;
	bool started;
	struct lk lk; /* LK_L2: seg (the pointer), view; `wake` while there is no disk to wake */
	pthread_cond_t wake;
	struct seg *seg; /* changed by the thread under lk; NULL while the device is away */
	struct raw_view view;
	_Atomic(struct l2_io *) inbox;
	_Atomic bool reads, writes, stop; /* as the breaker allows */
	_Atomic uint64_t p99_ns;
	_Atomic uint64_t in_flight_loads, in_flight_stores, queued, queued_bytes, dropped;
	/* the thread's own */
	struct breaker breaker;
	struct raw_list loads, stores, others; /* waiting */
	struct raw_slot *slots, *unused;
	uint32_t active, active_stores;
	uint8_t *memory; /* SEG_MEMORY, then the probe's block */
	struct disk_io probe;
	bool probe_reads, probe_sent;
	uint64_t probes;
	double tokens, tokens_max, tokens_ns; /* bytes; tokens_ns per ns, 0: no limit */
	uint64_t tokens_at, tick_at;
	struct log_limit too_large;
	uint64_t wasteful; /* bytes of the largest object that was said to be large for a segment, or that are not */
	bool told_reads, told_writes;
	enum breaker_cause told_cause;
	int last_error, opened; /* opened: of the start, 1 while it is under way */
	struct why why;
};

/* How devices are opened; tests put their own below. */
struct raw_opener {
	void *ctx;
	int (*open)(void *ctx, uint32_t index, const struct disk_conf *conf, struct disk **out, struct why *why);
};

struct raw {
	struct l2 l2;
	struct l2_env env; /* its buffers are ours: a device that comes back is opened with them again */
	struct raw_opener opener;
	/* from the configuration */
	enum disk_engine engine;
	bool buffered, verify, discard, trace;
	uint64_t window_bytes, queue_bytes, write_rate;
	double readmit, dwpd;
	uint32_t flush_ms, max_objects;
	_Atomic uint32_t close_ms; /* how long devices may take to finish */
	_Atomic uint32_t turn;     /* device of the next store */
	struct lk started_lk;      /* LK_QUEUE: opened of the devices */
	pthread_cond_t started;
	uint32_t ndevices;
	struct raw_device device[];
};

/* As l2_raw_create, over devices of the opener's; those are formatted already. */
int l2_raw_create_with(const struct l2_conf *c, const struct l2_env *env, const struct raw_opener *opener,
		       struct l2 **out, struct why *why);

/* raw.c, raw_create.c */
extern const struct l2_ops raw_ops;
void raw_free(struct raw *r);

/* raw_device.c */
void *raw_device_run(void *device);
void raw_push(struct raw_device *d, struct l2_io *io);
void raw_wake(struct raw_device *d);
uint64_t raw_now(const struct raw_device *d);
/* Answers everything that has not reached the store, or only the stores of it. */
void raw_release(struct raw_device *d, int result);
void raw_release_stores(struct raw_device *d, int result);
/* The first device from `from` on that works, for an operation that visits all; those passed over count as busy. NULL: none. */
struct raw_device *raw_next(struct raw *r, uint32_t from, struct l2_io *io);
/* Answers, or sends on to the next device. */
void raw_answer(struct raw_device *d, struct l2_io *io, int result);

/* raw_health.c */
int raw_open(struct raw_device *d, struct why *why);
/* Closes the store; returns how many requests the disk kept. */
uint32_t raw_close_store(struct raw_device *d, uint32_t wait_ms);
/* What an operation's result says about the device. */
void raw_note(struct raw_device *d, const struct seg_op *op);
/* Bytes of the window that writes may fill beside reads: one sub-IO, and from a second on that the oldest store waits more, up to a
 * quarter of the window after four. */
uint64_t raw_write_share(uint64_t waited_ns, uint64_t window);
/* Once per turn. Returns how long the next wait may be. */
uint64_t raw_tick(struct raw_device *d);

#endif
