/* disk_int.h - inside transport/disk: the disk's own state, and how the real engines are made. */
#ifndef TRANSPORT_DISK_DISK_INT_H
#define TRANSPORT_DISK_DISK_INT_H

#include "transport/disk/disk_engine.h"

#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#define DISK_MAX_FIXED 16384u /* buffers a ring takes */
#define DISK_MAX_COUNT 1024u  /* sub-IOs in flight, whatever the device allows */

/* A registered piece of memory, and the longest sub-IO that the kernel takes whole from memory of this kind. */
struct disk_fixed {
	uint8_t *base;
	uint64_t bytes;
	uint32_t step;
	bool registered;
};

/* A buffer whose pieces [next, end) are to be registered. */
struct disk_growing {
	struct disk_buffer buffer;
	bool small; /* pieces: it was not there as a whole at first */
	uint32_t next, end;
};

struct disk_queue {
	struct disk_io *head, **tail;
};

/* In the order they are served. */
enum { Q_FLUSH, Q_READ_URGENT, Q_READ, Q_WRITE_URGENT, Q_WRITE, Q_DISCARD, Q_COUNT };

/* Finds out how many bytes in flight are of use. */
struct disk_window {
	uint64_t bytes, max; /* now, and never above */
	uint64_t good;       /* the last size that was worth its bytes; 0 = not known yet */
	double good_rate;    /* bytes per ns then */
	uint64_t since_ns;   /* of this measurement */
	uint64_t done;       /* bytes completed in it */
	uint64_t hold_ns;    /* no growth before */
	bool limited;        /* the window held something back */
};

struct disk {
	struct disk_facts facts;
	const struct disk_engine_ops *ops;
	void *engine;
	bool write, closing, running;
	uint32_t sub_bytes, loose_step, max_count, nfixed, nsubs;
	uint64_t asked_total;     /* bytes given to be registered */
	struct disk_fixed *fixed; /* by address */
	struct disk_growing *growing;
	uint32_t ngrowing;
	uint64_t fix_at, look_at,
		look_ns; /* no piece before; look for one then at the latest; and so long after that */
	struct disk_sub *subs, *free;
	struct disk_queue q[Q_COUNT];
	struct disk_io *failed, **failed_tail; /* refused by disk_submit */
	struct disk_sub *ready, **ready_tail;  /* made, not yet taken by the engine */
	struct disk_sub *retry;                /* not before due_ns */
	struct disk_sub *back, **back_tail;    /* came back, their requests not told yet */
	struct disk_sub *oldest, *newest;      /* with the engine, by start */
	struct disk_window window;
	uint64_t write_share;
	uint32_t count; /* sub-IOs made: ready, retry or with the engine */
	uint32_t with_engine;
	uint64_t read_bytes, write_bytes; /* of those in flight */
	uint32_t reads, writes;           /* sub-IOs in flight */
	uint32_t flushes, discards;
	uint64_t pending; /* requests submitted, not done */
	uint32_t done_now;
	_Atomic bool woken, asleep;
	struct {
		_Atomic uint64_t reads, writes, flushes, discards, read_bytes, write_bytes, sub_ios, fixed_bytes,
			loose_bytes, errors, short_ios, retries, queued, in_flight, in_flight_bytes, window_bytes,
			oldest_start, oldest_data, fixed_memory;
	} n;
};

/* disk.c: a disk without an engine or fixed buffers. */
int disk_make(const struct disk_conf *conf, const struct disk_facts *facts, struct disk **out, struct why *why);
void disk_free(struct disk *d);
void disk_attach(struct disk *d, const struct disk_engine_ops *ops, void *engine);
/* Longest sub-IO that is one request of the device, from pages of this size. */
uint32_t disk_step(const struct disk_facts *facts, uint32_t sub_bytes, uint64_t page_bytes);

/* disk_queue.c */
void disk_queue_init(struct disk *d, uint64_t window_bytes);
/* Hands to the engine what the window allows. */
void disk_issue(struct disk *d);
/* A sub-IO came back: its room is free, and it waits in `back`. */
void disk_back(struct disk *d, struct disk_sub *s);
/* The first of `back` is told to its request. Runs callbacks. */
void disk_tell(struct disk *d);
void disk_publish(struct disk *d);
void disk_done(struct disk *d, struct disk_io *io);
/* When the first retry is due; UINT64_MAX: none waits. */
uint64_t disk_retry_due(const struct disk *d);

/* disk_window.c */
void window_init(struct disk_window *w, uint64_t asked, uint64_t sub_bytes);
void window_adapt(struct disk_window *w, uint64_t now);

/* fixed.c: the table of pieces of conf->buffers, none of them registered. */
int disk_fixed_make(struct disk *d, const struct disk_conf *conf, struct why *why);
void disk_fixed_drop(struct disk *d);
/* With the engine attached: registers what is there. Where that is not possible, one warning, and IO goes without. */
void disk_fixed_begin(struct disk *d);
/* Owner: a slice of what came since. */
void disk_fixed_grow(struct disk *d);
/* When disk_fixed_grow wants to be called again; UINT64_MAX: need not be. */
uint64_t disk_fixed_due(const struct disk *d);

static inline void disk_add(_Atomic uint64_t *c, uint64_t n)
{
	/* one writer: no locked instruction */
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

#endif
