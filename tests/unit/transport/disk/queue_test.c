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
	for (int i = 0; i < 10000 && stats_of(r).queued; i++) {
		disk_run(r->d, 0);
		if (r->f.n)
			fake_end_well(&r->f, 0);
	}
	assert_int_equal(stats_of(r).queued, 0);
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
	struct disk_buffer bad[] = {{BASE + 1, MIB}, {BASE, MIB + 1}, {NULL, MIB}, {BASE, 0}};
	struct disk_buffer much = {BASE, 20000ull << 30};
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
		T(the_first_error_ends_a_request_and_starts_no_more_of_it),
		T(a_short_read_is_continued),
		T(nothing_again_and_again_is_an_error),
		T(what_the_kernel_asks_to_repeat_is_repeated_with_pauses),
		T(a_full_engine_gets_the_rest_later_in_order),
		T(what_cannot_be_done_is_refused),
		T(the_oldest_is_known),
		T(closing_abandons_what_hangs),
		T(closing_refuses_more),
		T(a_wake_reaches_the_engine_only_while_it_waits),
		T(the_window_grows_while_that_pays),
		T(no_memory_and_bad_buffers_are_refused),
		T(read_only_disks_do_not_write),
		T(it_describes_itself),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
