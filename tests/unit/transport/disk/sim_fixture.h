/* sim_fixture.h - a simulated disk driven without a disk above it. */
#ifndef TESTS_UNIT_TRANSPORT_DISK_SIM_FIXTURE_H
#define TESTS_UNIT_TRANSPORT_DISK_SIM_FIXTURE_H

#include "transport/disk/disk_sim_int.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES  (4u << 20)
#define BLOCK  DISK_ALIGN
#define BLOCKS (BYTES / BLOCK)

static inline uint8_t *page(uint32_t blocks)
{
	uint8_t *p = aligned_alloc(BLOCK, (size_t)blocks * BLOCK);

	assert_non_null(p);
	return p;
}

static inline struct disk_sim *sim(uint64_t seed, bool reorder)
{
	struct disk_sim_conf conf = {.bytes = BYTES,
				     .seed = seed,
				     .read_ns = 80000,
				     .write_ns = 20000,
				     .flush_ns = 400000,
				     .bytes_per_ns = 3,
				     .reorder = reorder};
	struct disk_sim *s;

	assert_int_equal(disk_sim_create(&conf, &s), 0);
	return s;
}

static inline void send(struct disk_sim *s, struct disk_sub *sub, enum disk_op op, uint64_t block, uint32_t blocks,
			void *buf)
{
	*sub = (struct disk_sub){.op = op,
				 .offset = block * BLOCK,
				 .bytes = op == DISK_FLUSH     ? 0
					  : op == DISK_DISCARD ? blocks
							       : blocks * BLOCK,
				 .buf = buf,
				 .result = 77};
	assert_int_equal(disk_sim_ops.submit(s, &sub, 1), 1);
}

/* Until nothing completes any more for a second. */
static inline uint32_t drain(struct disk_sim *s)
{
	struct disk_sub *out[16];
	uint32_t n = 0, got;

	while ((got = disk_sim_ops.reap(s, out, 16, 1000000000u)))
		n += got;
	return n;
}

static inline int one(struct disk_sim *s, enum disk_op op, uint64_t block, uint32_t blocks, void *buf)
{
	struct disk_sub sub;

	send(s, &sub, op, block, blocks, buf);
	assert_int_equal(drain(s), 1);
	return sub.result;
}

static inline struct disk_sim_stats stats(struct disk_sim *s)
{
	struct disk_sim_stats st;

	disk_sim_stats(s, &st);
	return st;
}

static inline void end(struct disk_sim *s)
{
	drain(s);
	disk_sim_ops.close(s, false);
	disk_sim_destroy(s);
}

/* The machine is on again. */
static inline void power_on(struct disk_sim *s)
{
	drain(s);
	disk_sim_ops.close(s, false);
	s->down = false;
}

#endif
