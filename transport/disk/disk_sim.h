/* disk_sim.h - a simulated disk for tests: one seed decides everything, time is its own, and it lies as real disks do.
 *
 * The medium is memory. Writes go to a volatile cache first; a flush makes those completed before it durable, and a full cache makes its
 * oldest durable by itself. A crash keeps durable data and any subset of the rest, whole or torn at 512 bytes or 4 KiB, in any order. Faults
 * strike by probability: errors, hangs, bit rot in what is read or stored, writes that are dropped or land elsewhere although they
 * were acknowledged. The medium outlives the disks opened on it, so a test opens it again after a crash.
 *
 * An access that leaves the medium or is not aligned ends the program: that is what the tests are to find.
 *
 * Threads: one. Time advances only in disk_run (to the next completion, or by wait_ns; by SIM_POLL_NS when it need not wait).
 */
#ifndef TRANSPORT_DISK_DISK_SIM_H
#define TRANSPORT_DISK_DISK_SIM_H

#include "transport/disk/disk.h"

#define SIM_POLL_NS 200u

struct disk_sim; /* the medium */

struct disk_sim_conf {
	uint64_t bytes;
	uint64_t seed;
	uint64_t read_ns, write_ns, flush_ns; /* service time of a sub-IO, varied by half up or down; 0 = at once */
	double bytes_per_ns;                  /* 0 = unlimited */
	bool reorder;                         /* completions in any order; else as submitted */
	bool write_through;                   /* no volatile cache */
	uint32_t queue;                       /* sub-IOs it takes at once; 0 = 128 */
	uint64_t cache_bytes;                 /* of the volatile cache; 0 = 8 MiB, more when a single write is larger */
};

/* Probability of each fault per sub-IO, 0 to 1. */
struct disk_sim_faults {
	double read_error, write_error, flush_error; /* -EIO; of a write any part may have been stored */
	double hang;                                 /* never completes, until disk_sim_release */
	double rot_read;                             /* a bit of what is returned is wrong, the medium is right */
	double rot_write;                            /* a bit of what is stored is wrong */
	double dropped;                              /* acknowledged, never stored */
	double misdirected;                          /* stored at another aligned place of the medium */
	double torn;                                 /* only a part is stored, although acknowledged */
	double short_io;                             /* fewer bytes done than asked for */
	double again;                                /* -EAGAIN, nothing done */
	bool gone;                                   /* every IO: -ENODEV */
	bool lying_flush;                            /* a flush is acknowledged and does nothing */
};

/* Indexes of disk_sim_stats.injected, in the order of the fields above. */
enum disk_sim_fault {
	SIM_READ_ERROR,
	SIM_WRITE_ERROR,
	SIM_FLUSH_ERROR,
	SIM_HANG,
	SIM_ROT_READ,
	SIM_ROT_WRITE,
	SIM_DROPPED,
	SIM_MISDIRECTED,
	SIM_TORN,
	SIM_SHORT_IO,
	SIM_AGAIN,
	SIM_GONE,
	SIM_LYING_FLUSH,
	SIM_FAULTS,
};

int disk_sim_create(const struct disk_sim_conf *conf, struct disk_sim **out);
void disk_sim_destroy(struct disk_sim *s);
/* A disk on the medium; one at a time. conf->path may be NULL. */
int disk_sim_open(struct disk_sim *s, const struct disk_conf *conf, struct disk **out, struct why *why);
/* What disk_sim_open tells the disk: a block device with a volatile cache unless it writes through. */
void disk_sim_facts(const struct disk_sim *s, struct disk_facts *out);

void disk_sim_faults(struct disk_sim *s, const struct disk_sim_faults *f); /* NULL: none */
/* Power loss now: what was in flight or not flushed is kept, torn or lost. The open disk lives on only to be closed: what was in flight
 * and whatever is submitted from here on ends with -ENODEV and touches nothing. */
void disk_sim_crash(struct disk_sim *s);
/* The process dies now, the disk stays powered: what is in flight may or may not arrive, all else is kept. The open disk as above. */
void disk_sim_kill(struct disk_sim *s);
void disk_sim_release(struct disk_sim *s); /* what hangs completes */

/* The medium itself, as a later read would find it (cache included): for tests that corrupt it. */
uint8_t *disk_sim_medium(struct disk_sim *s);
uint64_t disk_sim_now(const struct disk_sim *s);
/* True when a block of the range holds something else than the last write to it that was acknowledged, because of a fault
 * (rot_write, dropped, misdirected from or to there, torn). What a crash took does not count. */
bool disk_sim_damaged(const struct disk_sim *s, uint64_t offset, uint64_t bytes);
/* A range that a test is about to corrupt through disk_sim_medium. */
void disk_sim_mark_damaged(struct disk_sim *s, uint64_t offset, uint64_t bytes);

struct disk_sim_stats {
	uint64_t injected[SIM_FAULTS];
	uint64_t crashes, kills, lost_writes, torn_writes, flushes; /* lost, torn: by crashes and kills */
	uint64_t reads, writes, discards, read_bytes, written_bytes, discarded_bytes; /* completed sub-IOs */
	uint64_t volatile_writes, volatile_bytes, hung, in_flight;                    /* now */
	uint64_t highest_byte;                                                        /* behind the last one written */
};
void disk_sim_stats(const struct disk_sim *s, struct disk_sim_stats *out);

#endif
