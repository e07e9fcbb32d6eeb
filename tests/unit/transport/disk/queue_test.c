/* The queue of a disk above an engine worked by hand: splitting, order, windows, errors, retries, closing. */
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

static void on_done(struct disk_io *io)
{
	struct req *r = io->owner;

	r->done++;
	r->order = ++ended;
}

static void on_part(struct disk_io *io, uint64_t at, uint32_t n)
{
	struct req *r = io->owner;

	assert_true(at + n <= io->bytes);
	r->parts++;
	r->part_bytes += n;
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof *r);

	r->f.room = FAKE_MAX;
	r->f.now = 1;
	r->buffer = (struct disk_buffer){BASE, 3ull << 30};
	r->conf = (struct disk_conf){.write = true, .buffers = &r->buffer, .nbuffers = 1};
	r->facts = (struct disk_facts){
		.bytes = 64ull << 30, .max_io_bytes = 4u << 20, .nr_requests = 256, .can_discard = true};
	*state = r;
	return 0;
}

static void start(struct rig *r)
{
	struct why why = {0};

	assert_int_equal(disk_open_engine(&r->conf, &r->facts, &fake_ops, &r->f, &r->d, &why), 0);
}

static int teardown(void **state)
{
	struct rig *r = *state;

	if (r->d)
		disk_close(r->d, 0);
	free(r);
	return 0;
}

static struct disk_stats stats_of(struct rig *r)
{
	struct disk_stats s;

	disk_stats(r->d, &s);
	return s;
}

static void put(struct rig *r, struct req *q, enum disk_op op, uint64_t offset, uint64_t bytes)
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

static void finish_all(struct rig *r)
{
	for (int i = 0; i < 10000 && r->f.n; i++) {
		fake_end_well(&r->f, 0);
		disk_run(r->d, 0);
	}
	assert_int_equal(r->f.n, 0);
}

static void splits_into_pieces_on_the_grid(void **state)
{
	struct rig *r = *state;
	struct req q = {0};

	start(r);
	put(r, &q, DISK_READ, 8192, 5 * MIB + 4096);
	assert_int_equal(disk_run(r->d, 0), 0);
	assert_int_equal(r->f.n, 6);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(r->f.held[i]->offset, 8192 + i * MIB);
		assert_int_equal(r->f.held[i]->bytes, i < 5 ? MIB : 4096);
		assert_ptr_equal(r->f.held[i]->buf, BASE + 8192 + i * MIB);
		assert_int_equal(r->f.held[i]->fixed, 1);
		assert_int_equal(r->f.held[i]->op, DISK_READ);
	}
	finish_all(r);
	assert_int_equal(q.done, 1);
	assert_int_equal(q.io.result, 0);
	assert_int_equal(q.parts, 6);
	assert_int_equal(q.part_bytes, 5 * MIB + 4096);
	assert_int_equal(stats_of(r).sub_ios, 6);
	assert_int_equal(stats_of(r).fixed_bytes, 5 * MIB + 4096);
	assert_int_equal(stats_of(r).loose_bytes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(splits_into_pieces_on_the_grid, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
