/* disk_sim_int.h - the simulated disk's own state: disk_sim.c is the device, disk_sim_medium.c what it has stored. */
#ifndef TRANSPORT_DISK_DISK_SIM_INT_H
#define TRANSPORT_DISK_DISK_SIM_INT_H

#include "transport/disk/disk_engine.h"
#include "transport/disk/disk_sim.h"

#define NO_FAULT SIM_FAULTS

/* A sub-IO in the device. */
struct flight {
	struct disk_sub *sub;
	uint64_t due, tie; /* completion order */
	uint64_t covers;   /* FLUSH: number of the last write that had completed when it was submitted */
	enum disk_sim_fault fault;
};

/* A write that is not durable: what it replaced, so that a crash can take it back. The old bytes and the old damage marks (one per
 * block) lie in the ring of undo bytes. */
struct undo {
	uint64_t offset, at, number;
	uint32_t bytes;
};

/* Each kind of chance has its own generator, so that turning one fault on leaves the timing as it was. */
enum chance { CHANCE_TIME, CHANCE_FAULT, CHANCE_CRASH, CHANCES };

struct disk_sim {
	struct disk_sim_conf conf;
	struct disk_sim_faults faults;
	struct disk_sim_stats n;
	uint64_t rnd[CHANCES];
	uint64_t now, pipe_free, last_due, submitted;
	uint8_t *medium;
	uint8_t *damage; /* one byte per block */
	/* the volatile cache: a ring of entries over a ring of bytes; positions only grow */
	struct undo *undo;
	uint32_t undo_cap;
	uint64_t undo_first, undo_end;
	uint8_t *ring;
	uint64_t ring_bytes, ring_end;
	uint64_t writes; /* number of the last one completed */
	/* in the device: a heap by (due, tie); those that hang; those that a crash overtook */
	struct flight *heap, *hung, *dead;
	uint32_t nheap, nhung, ndead;
	bool open, down;
	_Atomic bool woken; /* by any thread */
};

uint64_t sim_chance(struct disk_sim *s, enum chance which);
uint64_t sim_below(struct disk_sim *s, enum chance which, uint64_t n);
bool sim_strikes(struct disk_sim *s, enum chance which, double p);

static inline uint64_t sim_bytes(const struct disk_sub *sub)
{
	return sub->op == DISK_DISCARD ? (uint64_t)sub->bytes * DISK_ALIGN : sub->bytes;
}

/* For a test that drives the device without a disk above it: the engine is the disk_sim. */
extern const struct disk_engine_ops disk_sim_ops;

int sim_medium_create(struct disk_sim *s);
void sim_medium_destroy(struct disk_sim *s);
/* A write arrives, as its fault says; `cached`: a crash may take it back. */
void sim_store(struct disk_sim *s, const struct flight *f, bool cached);
void sim_discard(struct disk_sim *s, const struct disk_sub *sub);
/* The writes up to number `last` become durable. */
void sim_settle(struct disk_sim *s, uint64_t last);
/* Power loss, for what is not durable. */
void sim_lose(struct disk_sim *s);

#endif
