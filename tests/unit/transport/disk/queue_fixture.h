/* queue_fixture.h - a disk above an engine worked by hand, and requests that count. */
#ifndef TESTS_QUEUE_FIXTURE_H
#define TESTS_QUEUE_FIXTURE_H

#include "tests/unit/transport/disk/fake_engine.h"

#include <errno.h>
#include <stdio.h>

#define MIB  (1ull << 20)
#define BASE ((uint8_t *)0x100000000ull) /* never touched by this engine */

struct req {
	struct disk_io io;
	uint32_t done, parts;
	uint64_t part_bytes;
	uint32_t order;
};

struct rig {
	struct fake f;
	struct disk *d;
	struct disk_buffer buffer;
	struct disk_conf conf;
	struct disk_facts facts;
};

static uint32_t ended; /* requests so far, for their order */

static inline void on_done(struct disk_io *io)
{
	struct req *r = io->owner;

	r->done++;
	r->order = ++ended;
}

static inline void on_part(struct disk_io *io, uint64_t at, uint32_t n)
{
	struct req *r = io->owner;

	assert_true(at + n <= io->bytes);
	r->parts++;
	r->part_bytes += n;
}

static inline int setup(void **state)
{
	struct rig *r = calloc(1, sizeof *r);

	r->f.room = FAKE_MAX;
	r->f.now = 1;
	r->buffer = (struct disk_buffer){.base = BASE, .bytes = 3ull << 30};
	r->conf = (struct disk_conf){.write = true, .buffers = &r->buffer, .nbuffers = 1};
	r->facts = (struct disk_facts){
		.bytes = 64ull << 30, .max_io_bytes = 4u << 20, .nr_requests = 256, .can_discard = true};
	*state = r;
	return 0;
}

static inline void start(struct rig *r)
{
	struct why why = {0};

	assert_int_equal(disk_open_engine(&r->conf, &r->facts, &fake_ops, &r->f, &r->d, &why), 0);
}

static inline int teardown(void **state)
{
	struct rig *r = *state;

	if (r->d)
		disk_close(r->d, 0);
	free(r);
	return 0;
}

static inline struct disk_stats stats_of(struct rig *r)
{
	struct disk_stats s;

	disk_stats(r->d, &s);
	return s;
}

static inline void put(struct rig *r, struct req *q, enum disk_op op, uint64_t offset, uint64_t bytes)
{
	bool urgent = q->io.urgent;

	*q = (struct req){.io = {.op = op,
				 .urgent = urgent,
				 .offset = offset,
				 .bytes = bytes,
				 .buf = BASE + offset,
				 .done = on_done,
				 .part = on_part,
				 .owner = q}};
	disk_submit(r->d, &q->io);
}

static inline void finish_all(struct rig *r)
{
	for (int i = 0; i < 10000 && stats_of(r).queued; i++) {
		disk_run(r->d, 0);
		if (r->f.n)
			fake_end_well(&r->f, 0);
	}
	assert_int_equal(stats_of(r).queued, 0);
	assert_int_equal(r->f.n, 0);
}

#endif
