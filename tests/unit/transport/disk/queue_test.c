/* The queue of a disk above an engine worked by hand: splitting, order, windows. */
#include "tests/unit/transport/disk/queue_fixture.h"

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

static void pieces_stay_within_a_registered_buffer(void **state)
{
	struct rig *r = *state;
	struct req q = {0};
	uint64_t at = DISK_FIXED - MIB / 2;

	start(r);
	put(r, &q, DISK_WRITE, at, 2 * MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 3);
	assert_int_equal(r->f.held[0]->bytes, MIB / 2);
	assert_int_equal(r->f.held[0]->fixed, 1);
	assert_int_equal(r->f.held[1]->bytes, MIB / 2); /* back on the grid of the request */
	assert_int_equal(r->f.held[1]->fixed, 2);
	assert_int_equal(r->f.held[2]->bytes, MIB);
	assert_int_equal(r->f.held[2]->fixed, 2);
	finish_all(r);
	put(r, &q, DISK_WRITE, 3ull << 30, MIB); /* behind the last buffer */
	disk_run(r->d, 0);
	assert_int_equal(r->f.held[0]->fixed, 0);
	finish_all(r);
	assert_int_equal(stats_of(r).loose_bytes, MIB);
	assert_int_equal(stats_of(r).fixed_bytes, 2 * MIB);
}

static void pieces_are_no_longer_than_the_device_takes(void **state)
{
	struct rig *r = *state;
	struct req q = {0};

	r->facts.max_io_bytes = 508 << 10;
	start(r);
	put(r, &q, DISK_READ, 0, MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 3);
	assert_int_equal(r->f.held[0]->bytes, 508 << 10);
	finish_all(r);
	disk_close(r->d, 0);
	/* 127 segments of single pages, as NVMe has: in equal parts of a power of two. */
	r->facts.max_io_bytes = 4u << 20;
	r->facts.max_segments = 127;
	start(r);
	put(r, &q, DISK_READ, 4ull << 30, MIB); /* memory nobody knows */
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 4);
	assert_int_equal(r->f.held[0]->bytes, 256 << 10);
	finish_all(r);
	disk_close(r->d, 0);
	r->conf.sub_io_bytes = 65536 + 100;
	start(r);
	put(r, &q, DISK_READ, 0, 131072);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 2);
	assert_int_equal(r->f.held[0]->bytes, 65536);
	finish_all(r);
}

static void reads_go_first_and_urgent_ones_before_them(void **state)
{
	struct rig *r = *state;
	struct req w = {0}, uw = {0}, rd = {0}, ur = {0}, fl = {0}, di = {0};

	start(r);
	disk_write_share(r->d, UINT64_MAX);
	uw.io.urgent = true;
	ur.io.urgent = true;
	put(r, &di, DISK_DISCARD, 0, 64 * MIB);
	put(r, &w, DISK_WRITE, 0, MIB);
	put(r, &uw, DISK_WRITE, MIB, MIB);
	put(r, &rd, DISK_READ, 2 * MIB, MIB);
	put(r, &ur, DISK_READ, 3 * MIB, MIB);
	put(r, &fl, DISK_FLUSH, 0, 0);
	disk_run(r->d, 0);
	struct disk_io *order[] = {&fl.io, &ur.io, &rd.io, &uw.io, &w.io, &di.io};
	assert_int_equal(r->f.n, 6);
	for (int i = 0; i < 6; i++)
		assert_ptr_equal(r->f.held[i]->io, order[i]);
	assert_int_equal(r->f.held[5]->bytes, 64 * MIB / DISK_ALIGN);
	finish_all(r);
	struct disk_stats s = stats_of(r);
	assert_int_equal(s.reads, 2);
	assert_int_equal(s.writes, 2);
	assert_int_equal(s.flushes, 1);
	assert_int_equal(s.discards, 1);
	assert_int_equal(s.queued, 0);
}

static void an_urgent_read_overtakes_a_half_started_one(void **state)
{
	struct rig *r = *state;
	struct req big = {0}, u = {0};

	r->conf.window_bytes = 4 * MIB;
	start(r);
	put(r, &big, DISK_READ, 0, 16 * MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 4);
	u.io.urgent = true;
	put(r, &u, DISK_READ, 20 * MIB, 4096);
	fake_end_well(&r->f, 0);
	disk_run(r->d, 0); /* takes it back */
	disk_run(r->d, 0); /* and fills the room */
	assert_ptr_equal(r->f.held[3]->io, &u.io);
	finish_all(r);
	assert_true(u.order < big.order);
	assert_int_equal(big.part_bytes, 16 * MIB);
}

/* What holds at any moment, with a crowd of requests of both kinds. */
static void windows_are_never_exceeded(void **state)
{
	enum { N = 200 };
	struct rig *r = *state;
	static struct req q[N];
	uint32_t seed = 5;

	r->conf.window_bytes = 8 * MIB;
	r->facts.nr_requests = 20; /* ten at once */
	start(r);
	for (int i = 0; i < N; i++) {
		seed = seed * 1664525 + 1013904223;
		q[i].io.urgent = seed >> 31;
		put(r, &q[i], seed >> 30 & 1 ? DISK_READ : DISK_WRITE, (uint64_t)i * 4 * MIB,
		    4096ull * (1 + (seed >> 8) % 700));
	}
	for (int spin = 0; spin < 100000 && (stats_of(r).queued || r->f.n); spin++) {
		disk_run(r->d, 0);
		assert_true(r->f.n <= 10);
		assert_true(fake_bytes(&r->f) <= 8 * MIB);
		seed = seed * 1664525 + 1013904223;
		if (r->f.n)
			fake_end_well(&r->f, (seed >> 10) % r->f.n);
	}
	assert_int_equal(r->f.most, 10);
	assert_true(r->f.most_bytes > 6 * MIB);
	for (int i = 0; i < N; i++) {
		assert_int_equal(q[i].done, 1);
		assert_int_equal(q[i].io.result, 0);
		assert_int_equal(q[i].part_bytes, q[i].io.op == DISK_READ ? q[i].io.bytes : 0);
	}
}

static uint64_t held_of(const struct rig *r, enum disk_op op)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < r->f.n; i++)
		sum += r->f.held[i]->op == op ? r->f.held[i]->bytes : 0;
	return sum;
}

static void beside_reads_writes_have_their_share_only(void **state)
{
	struct rig *r = *state;
	struct req rd[8] = {0}, w = {0};

	r->conf.window_bytes = 8 * MIB;
	start(r);
	put(r, &w, DISK_WRITE, 0, 8 * MIB);
	for (int i = 0; i < 8; i++)
		put(r, &rd[i], DISK_READ, (uint64_t)(i + 1) * 16 * MIB, 4 * MIB);
	disk_run(r->d, 0);
	assert_int_equal(held_of(r, DISK_READ), 7 * MIB); /* and room is left for the one */
	assert_int_equal(held_of(r, DISK_WRITE), MIB);
	for (int i = 0; i < 20; i++) {
		fake_end_well(&r->f, 0);
		disk_run(r->d, 0);
		assert_int_equal(held_of(r, DISK_WRITE), MIB);
	}
	while (held_of(r, DISK_READ)) {
		uint32_t at = 0;
		while (r->f.held[at]->op != DISK_READ)
			at++;
		fake_end_well(&r->f, at);
		disk_run(r->d, 0);
		disk_run(r->d, 0);
	}
	assert_true(held_of(r, DISK_WRITE) > 4 * MIB); /* alone they have it all */
	finish_all(r);
	assert_int_equal(w.done, 1);
}

static void no_share_means_no_write_until_reads_are_over(void **state)
{
	struct rig *r = *state;
	struct req rd = {0}, w = {0};

	start(r);
	disk_write_share(r->d, 0);
	put(r, &w, DISK_WRITE, 0, MIB);
	put(r, &rd, DISK_READ, MIB, MIB);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 1);
	assert_int_equal(r->f.held[0]->op, DISK_READ);
	fake_end_well(&r->f, 0);
	disk_run(r->d, 0);
	disk_run(r->d, 0);
	assert_int_equal(r->f.n, 1);
	assert_int_equal(r->f.held[0]->op, DISK_WRITE);
	finish_all(r);
}

static void a_wake_reaches_the_engine_only_while_it_waits(void **state)
{
	struct rig *r = *state;

	start(r);
	disk_wake(r->d);
	disk_wake(r->d);
	assert_int_equal(r->f.wakes, 0);
	disk_run(r->d, 1000);
	assert_int_equal(r->f.last_wait, 0); /* it was told before */
	disk_run(r->d, 1000);
	assert_int_equal(r->f.last_wait, 1000);
}

/* Runs load on a device whose rate is `rate` bytes per ns per byte in flight, until `ns` have passed. */
static void load(struct rig *r, struct req *q, uint32_t n, uint64_t ns, bool scales)
{
	uint64_t end = r->f.now + ns;

	while (r->f.now < end) {
		uint64_t flying, took;

		for (uint32_t i = 0; i < n; i++)
			if (q[i].done || !q[i].io.done)
				put(r, &q[i], DISK_READ, 0, 4 * MIB);
		disk_run(r->d, 0);
		flying = fake_bytes(&r->f);
		took = 0;
		while (r->f.n) {
			took += r->f.held[0]->bytes;
			fake_end_well(&r->f, 0);
		}
		/* Scaling: a round takes the same time however much is in flight. */
		r->f.now += scales ? 10000000 : took / 4;
		assert_true(flying <= r->conf.window_bytes || !r->conf.window_bytes);
	}
}

static void the_window_grows_while_that_pays(void **state)
{
	struct rig *r = *state;
	static struct req q[64];

	r->facts.nr_requests = 2000;
	memset(q, 0, sizeof q);
	start(r);
	assert_int_equal(stats_of(r).window_bytes, 32 * MIB);
	load(r, q, 64, 5000000000ull, true);
	assert_int_equal(stats_of(r).window_bytes, 128 * MIB);
	finish_all(r);
	disk_close(r->d, 0);
	memset(q, 0, sizeof q);
	start(r);
	load(r, q, 64, 5000000000ull, false);
	assert_int_equal(stats_of(r).window_bytes, 32 * MIB); /* it brought nothing */
	finish_all(r);
	disk_close(r->d, 0);
	memset(q, 0, sizeof q);
	r->conf.window_bytes = 16 * MIB;
	start(r);
	load(r, q, 64, 5000000000ull, true);
	assert_int_equal(stats_of(r).window_bytes, 16 * MIB); /* as asked for */
	finish_all(r);
}

static void no_memory_and_bad_buffers_are_refused(void **state)
{
	struct rig *r = *state;
	struct disk_buffer bad[] = {
		{.base = BASE + 1, .bytes = MIB}, {.base = BASE, .bytes = MIB + 1}, {.bytes = MIB}, {.base = BASE}};
	struct disk_buffer much = {.base = BASE, .bytes = 20000ull << 30};
	struct why why = {0};

	for (uint64_t at = 1; at <= 3; at++) {
		mem_fail_at(at);
		assert_int_equal(disk_open_engine(&r->conf, &r->facts, &fake_ops, &r->f, &r->d, &why), -ENOMEM);
		mem_fail_at(0);
		assert_null(r->d);
		assert_int_equal(r->f.closes, at); /* the engine was the disk's */
	}
	for (int i = 0; i < 4; i++) {
		r->conf.buffers = &bad[i];
		assert_int_equal(disk_open_engine(&r->conf, &r->facts, &fake_ops, &r->f, &r->d, &why), -EINVAL);
	}
	r->conf.buffers = &much;
	assert_int_equal(disk_open_engine(&r->conf, &r->facts, &fake_ops, &r->f, &r->d, &why), -E2BIG);
}

static void read_only_disks_do_not_write(void **state)
{
	static const enum disk_op ops[] = {DISK_WRITE, DISK_FLUSH, DISK_DISCARD};
	struct rig *r = *state;
	struct req q = {0};

	r->conf.write = false;
	start(r);
	for (int i = 0; i < 3; i++) {
		put(r, &q, ops[i], 0, 4096);
		disk_run(r->d, 0);
		assert_int_equal(q.io.result, -EBADF);
	}
	assert_int_equal(r->f.most, 0);
}

static void it_describes_itself(void **state)
{
	struct rig *r = *state;
	char text[128];

	start(r);
	disk_describe(r->d, text, sizeof text);
	assert_string_equal(text, "fake, fixed buffers 3.0 of 3.0 GiB, sub-IO 1024 KiB, window 32 MiB");
	disk_describe(r->d, text, 5);
	assert_string_equal(text, "fake");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(splits_into_pieces_on_the_grid),
		T(pieces_stay_within_a_registered_buffer),
		T(pieces_are_no_longer_than_the_device_takes),
		T(reads_go_first_and_urgent_ones_before_them),
		T(an_urgent_read_overtakes_a_half_started_one),
		T(windows_are_never_exceeded),
		T(beside_reads_writes_have_their_share_only),
		T(no_share_means_no_write_until_reads_are_over),
		T(a_wake_reaches_the_engine_only_while_it_waits),
		T(the_window_grows_while_that_pays),
		T(no_memory_and_bad_buffers_are_refused),
		T(read_only_disks_do_not_write),
		T(it_describes_itself),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
