/* disk_sim.h - a simulated disk for tests: one seed decides everything, time is its own, and it lies as real disks do.
 *
 * The medium is memory. Writes go to a volatile cache first; a flush makes those completed before it durable. A crash keeps durable
 * data and any subset of the rest, whole or torn at 512 bytes or 4 KiB, in any order. Faults strike by probability or by list:
 * errors, hangs, bit rot in what is read or stored, writes that are dropped or land elsewhere although they were acknowledged.
 * The medium outlives the disks opened on it, so a test opens it again after a crash.
 *
 * Threads: one. Time advances only in disk_run (to the next completion, or by wait_ns).
 */
#ifndef TRANSPORT_DISK_DISK_SIM_H
#define TRANSPORT_DISK_DISK_SIM_H

#include "transport/disk/disk.h"

struct disk_sim; /* the medium */

struct disk_sim_conf {
	uint64_t bytes;
	uint64_t seed;
	uint64_t read_ns, write_ns, flush_ns; /* service time of a sub-IO, varied by half up or down; 0 = at once */
	double bytes_per_ns;                  /* 0 = unlimited */
	bool reorder;                         /* completions in any order; else as submitted */
	bool write_through;                   /* no volatile cache */
};

/* Probability of each fault per sub-IO, 0 to 1. */
struct disk_sim_faults {
	double read_error, write_error, flush_error; /* -EIO */
	double hang;                                 /* never completes, until disk_sim_release */
	double rot_read;                             /* a bit of what is returned is wrong, the medium is right */
	double rot_write;                            /* a bit of what is stored is wrong */
	double dropped;                              /* acknowledged, never stored */
	double misdirected;                          /* stored at another aligned place of the medium */
	double torn;                                 /* only a part is stored, although acknowledged */
	bool gone;                                   /* every IO: -ENODEV */
	bool lying_flush;                            /* a flush is acknowledged and does nothing */
};

int disk_sim_create(const struct disk_sim_conf *conf, struct disk_sim **out);
void disk_sim_destroy(struct disk_sim *s);
/* A disk on the medium; one at a time. conf->path may be NULL. */
int disk_sim_open(struct disk_sim *s, const struct disk_conf *conf, struct disk **out, struct why *why);

void disk_sim_faults(struct disk_sim *s, const struct disk_sim_faults *f); /* NULL: none */
/* Power loss now: the open disk must be closed after it (disk_close(d, 0)); what was in flight or not flushed is kept, torn or lost. */
void disk_sim_crash(struct disk_sim *s);
/* The process dies now, the disk stays powered: what is in flight may or may not arrive, all else is kept. */
void disk_sim_kill(struct disk_sim *s);
void disk_sim_release(struct disk_sim *s); /* what hangs completes */

/* The medium itself, as a later read would find it (cache included): for tests that corrupt it. */
uint8_t *disk_sim_medium(struct disk_sim *s);
uint64_t disk_sim_now(const struct disk_sim *s);

struct disk_sim_stats {
	uint64_t injected[8]; /* by the order of the fields of disk_sim_faults */
	uint64_t crashes, lost_writes, torn_writes, flushes;
};
void disk_sim_stats(const struct disk_sim *s, struct disk_sim_stats *out);

#endif
