/* The queue of a disk above an engine worked by hand: errors, short IO, retries, refusals, closing. */
#include "tests/unit/transport/disk/queue_fixture.h"

static void the_first_error_ends_a_request_and_starts_no_more_of_it(void **state)
{
	struct rig *r = *state;
	struct req a = {0}, b = {0};

	r->conf.window_bytes = 4 * MIB;
	start(r);
	put(r, &a, DISK_WRITE, 0, 32 * MIB);
	put(r, &b, DISK_WRITE, 64 * MIB, MIB);
	disk_run(r->d, 0);
	fake_end(&r->f, 2, -ENOSPC);
	disk_run(r->d, 0);
	assert_int_equal(a.done, 0); /* three are still under way: the memory is not the caller's yet */
	fake_end(&r->f, 0, -EIO);
	disk_run(r->d, 0);
	assert_ptr_equal(r->f.held[r->f.n - 1]->io, &b.io);
	finish_all(r);
	assert_int_equal(a.done, 1);
	assert_int_equal(a.io.result, -ENOSPC);
	assert_int_equal(b.io.result, 0);
	assert_int_equal(stats_of(r).errors, 1);
	assert_int_equal(stats_of(r).sub_ios, 5);
	assert_int_equal(stats_of(r).write_bytes, MIB);
}

/* Neighbours that a device's queue would join are not handed over together; where it cannot join them, order is kept. */
static void two_reads_take_turns(void **state)
{
	struct rig *r = *state;
	struct req a = {0}, b = {0}, c = {0};

	r->conf.window_bytes = 4 * MIB;
	start(r);
	put(r, &a, DISK_READ, 0, 32 * MIB);
	put(r, &b, DISK_READ, 64 * MIB, 32 * MIB);
	put(r, &c, DISK_READ, 128 * MIB, MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 4);
	for (uint32_t i = 0; i < 4; i++)
		assert_ptr_equal(r->f.held[i]->io, i % 2 ? &b.io : &a.io);
	fake_end(&r->f, 1, -EIO); /* b is the second in the queue, and half started */
	disk_run(r->d, 0);
	fake_end(&r->f, 0, -EIO); /* a is the first */
	disk_run(r->d, 0);
	finish_all(r);
	assert_int_equal(a.done + b.done + c.done, 3);
	assert_int_equal(a.io.result, -EIO);
	assert_int_equal(b.io.result, -EIO);
	assert_int_equal(c.io.result, 0);
	disk_close(r->d, 0);
	r->facts.max_io_bytes = MIB;
	start(r);
	put(r, &a, DISK_READ, 0, 3 * MIB);
	put(r, &b, DISK_READ, 64 * MIB, MIB);
	disk_run(r->d, 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_ptr_equal(r->f.held[i]->io, &a.io);
	finish_all(r);
}

static void a_short_read_is_continued(void **state)
{
	struct rig *r = *state;
	struct req q = {0};

	start(r);
	put(r, &q, DISK_READ, 0, MIB);
	disk_run(r->d, 0);
	fake_end(&r->f, 0, 8192 + 512); /* 512 cannot be continued from */
	disk_run(r->d, 0);
	disk_run(r->d, 0);
	assert_int_equal(q.parts, 0);
	assert_int_equal(r->f.held[0]->offset, 8192);
	assert_int_equal(r->f.held[0]->bytes, MIB - 8192);
	assert_ptr_equal(r->f.held[0]->buf, BASE + 8192);
	fake_end_well(&r->f, 0);
	disk_run(r->d, 0);
	assert_int_equal(q.parts, 1);
	assert_int_equal(q.part_bytes, MIB);
	assert_int_equal(q.io.result, 0);
	assert_int_equal(stats_of(r).short_ios, 1);
}

static void nothing_again_and_again_is_an_error(void **state)
{
	struct rig *r = *state;
	struct req q = {0};
	int spins = 0;

	start(r);
	put(r, &q, DISK_READ, 0, MIB);
	for (; !q.done && spins < 100; spins++) {
		disk_run(r->d, 1000000);
		if (r->f.n)
			fake_end(&r->f, 0, 0);
	}
	assert_int_equal(q.io.result, -EIO);
	assert_true(spins < 20);
	put(r, &q, DISK_READ, 0, MIB);
	disk_run(r->d, 0);
	fake_end(&r->f, 0, (int32_t)MIB + 1); /* more than was asked for: the engine is not to be believed */
	disk_run(r->d, 0);
	assert_int_equal(q.io.result, -EIO);
}

static void what_the_kernel_asks_to_repeat_is_repeated_with_pauses(void **state)
{
	static const int errors[] = {-EAGAIN, -EINTR, -EBUSY};
	struct rig *r = *state;
	struct req q = {0};
	uint64_t begin;

	start(r);
	put(r, &q, DISK_WRITE, 0, 4096);
	disk_run(r->d, 0);
	for (int i = 0; i < 3; i++) {
		fake_end(&r->f, 0, errors[i]);
		disk_run(r->d, 0);
		disk_run(r->d, 0);
		assert_int_equal(r->f.n, 1); /* at once */
	}
	fake_end(&r->f, 0, -EAGAIN);
	disk_run(r->d, 0);
	begin = r->f.now;
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 0); /* from now on after a pause */
	disk_run(r->d, 10000000000ull);
	assert_true(r->f.now - begin < 10000000); /* which a long wait does not prolong */
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 1);
	fake_end_well(&r->f, 0);
	disk_run(r->d, 0);
	assert_int_equal(q.io.result, 0);
	assert_int_equal(stats_of(r).retries, 4);
	put(r, &q, DISK_WRITE, 0, 4096);
	for (int i = 0; i < 1000 && !q.done; i++) {
		disk_run(r->d, 1000000000);
		if (r->f.n)
			fake_end(&r->f, 0, -EAGAIN);
	}
	assert_int_equal(q.io.result, -EAGAIN); /* not for ever */
}

static void a_full_engine_gets_the_rest_later_in_order(void **state)
{
	struct rig *r = *state;
	struct req q = {0};

	r->f.room = 3;
	start(r);
	put(r, &q, DISK_READ, 0, 8 * MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 3);
	disk_run(r->d, 1000);
	assert_int_equal(r->f.last_wait, 1000); /* it waits for one to come back, and does not spin */
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(r->f.held[0]->offset, i * MIB);
		fake_end_well(&r->f, 0);
		disk_run(r->d, 0);
		disk_run(r->d, 0);
	}
	assert_int_equal(q.done, 1);
	assert_int_equal(q.part_bytes, 8 * MIB);
}

static void what_cannot_be_done_is_refused(void **state)
{
	struct rig *r = *state;
	struct {
		enum disk_op op;
		uint64_t offset, bytes;
		int result;
	} t[] = {
		{DISK_READ, 512, 4096, -EINVAL},
		{DISK_READ, 0, 4095, -EINVAL},
		{DISK_READ, 0, 0, -EINVAL},
		{DISK_READ, 64ull << 30, 4096, -EINVAL},
		{DISK_WRITE, (64ull << 30) - 4096, 8192, -EINVAL},
		{DISK_WRITE, UINT64_MAX - 4095, 8192, -EINVAL},
		{DISK_WRITE, 0, UINT64_MAX - 4095, -EINVAL},
		{DISK_DISCARD, 4096, 4097, -EINVAL},
		{(enum disk_op)77, 0, 4096, -EINVAL},
	};
	struct req q = {0};

	start(r);
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
		put(r, &q, t[i].op, t[i].offset, t[i].bytes);
		assert_int_equal(q.done, 0);
		assert_int_equal(disk_run(r->d, 1000000000), 1);
		assert_int_equal(q.done, 1);
		assert_int_equal(q.io.result, t[i].result);
	}
	put(r, &q, DISK_READ, 0, 4096);
	disk_run(r->d, 0);
	finish_all(r);
	q = (struct req){.io = {.op = DISK_READ, .bytes = 4096, .buf = BASE + 512, .done = on_done, .owner = &q}};
	disk_submit(r->d, &q.io);
	disk_run(r->d, 0);
	assert_int_equal(q.io.result, -EINVAL);
	assert_int_equal(r->f.now, 1); /* and nobody waited */
}

static void the_oldest_is_known(void **state)
{
	struct rig *r = *state;
	struct req q[3] = {0};

	start(r);
	assert_int_equal(stats_of(r).oldest_ns, 0);
	for (int i = 0; i < 3; i++) {
		r->f.now = 1000 * (uint64_t)(i + 1);
		put(r, &q[i], DISK_READ, 0, 4096);
		disk_run(r->d, 0);
	}
	r->f.now = 10000;
	assert_int_equal(stats_of(r).oldest_ns, 9000);
	fake_end_well(&r->f, 1);
	disk_run(r->d, 0);
	assert_int_equal(stats_of(r).oldest_ns, 9000);
	fake_end_well(&r->f, 0);
	disk_run(r->d, 0);
	assert_int_equal(stats_of(r).oldest_ns, 7000);
	assert_int_equal(q[2].io.started_ns, 3000);
	assert_int_equal(q[2].io.submitted_ns, 3000);
	finish_all(r);
	assert_int_equal(stats_of(r).oldest_ns, 0);
}

static void just_end(struct disk_io *io)
{
	(void)io;
}

/* Puts itself up again, once. */
static void again(struct disk_io *io)
{
	struct rig *r = io->owner;

	io->done = just_end;
	disk_submit(r->d, io);
}

static void closing_abandons_what_hangs(void **state)
{
	struct rig *r = *state;
	struct req q[3] = {0};
	uint64_t before;

	r->conf.window_bytes = 2 * MIB;
	start(r);
	for (int i = 0; i < 3; i++)
		put(r, &q[i], DISK_READ, (uint64_t)i * 4 * MIB, 2 * MIB);
	disk_run(r->d, 0);
	before = r->f.now;
	assert_int_equal(disk_close(r->d, 50), 3);
	r->d = NULL;
	assert_true(r->f.now - before >= 50000000 && r->f.now - before < 60000000);
	assert_int_equal(r->f.closes, 1);
	assert_true(r->f.leaked);
	assert_int_equal(q[0].done + q[1].done + q[2].done, 0);
}

static void closing_refuses_more(void **state)
{
	struct rig *r = *state;
	struct req q = {0};

	start(r);
	put(r, &q, DISK_READ, 0, 4096);
	q.io.done = again;
	q.io.owner = r;
	q.io.part = NULL;
	disk_run(r->d, 0);
	fake_end_well(&r->f, 0);
	assert_int_equal(disk_close(r->d, 0), 0);
	r->d = NULL;
	assert_int_equal(q.io.result, -ESHUTDOWN);
	assert_false(r->f.leaked);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_first_error_ends_a_request_and_starts_no_more_of_it),
		T(two_reads_take_turns),
		T(a_short_read_is_continued),
		T(nothing_again_and_again_is_an_error),
		T(what_the_kernel_asks_to_repeat_is_repeated_with_pauses),
		T(a_full_engine_gets_the_rest_later_in_order),
		T(what_cannot_be_done_is_refused),
		T(the_oldest_is_known),
		T(closing_abandons_what_hangs),
		T(closing_refuses_more),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
