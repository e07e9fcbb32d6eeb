/* sim_test.c - the simulated disk itself: time, order, what a crash may take and what it may not; one seed, one history. */
#include "tests/unit/transport/disk/sim_fixture.h"

static void reads_what_was_written(void **state)
{
	struct disk_sim *s = sim(1, true);
	uint8_t *a = page(4), *b = page(4);

	(void)state;
	memset(a, 5, 4 * BLOCK);
	assert_int_equal(one(s, DISK_WRITE, 7, 4, a), 4 * BLOCK);
	assert_int_equal(one(s, DISK_READ, 7, 4, b), 4 * BLOCK);
	assert_memory_equal(a, b, 4 * BLOCK);
	assert_memory_equal(disk_sim_medium(s) + 7 * BLOCK, a, 4 * BLOCK);
	assert_int_equal(stats(s).volatile_bytes, 4 * BLOCK);
	assert_int_equal(one(s, DISK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(stats(s).volatile_bytes, 0);
	assert_int_equal(stats(s).flushes, 1);
	assert_int_equal(stats(s).highest_byte, 11 * BLOCK);
	assert_int_equal(one(s, DISK_DISCARD, 7, 4, NULL), 0);
	assert_int_equal(stats(s).discarded_bytes, 4 * BLOCK);
	free(a);
	free(b);
	end(s);
}

/* Time passes only as told, and completions come when they are due. */
static void time_is_its_own(void **state)
{
	struct disk_sim *s = sim(2, false);
	struct disk_sub subs[8], *out[8];
	uint8_t *a = page(1);
	uint64_t t0 = disk_sim_now(s);

	(void)state;
	send(s, &subs[0], DISK_READ, 0, 1, a);
	assert_int_equal(disk_sim_ops.reap(s, out, 8, 0), 0);
	assert_int_equal(disk_sim_now(s), t0 + SIM_POLL_NS);
	assert_int_equal(disk_sim_ops.reap(s, out, 8, UINT64_MAX), 1);
	assert_in_range(disk_sim_now(s) - t0, 40000, 120000 + 1500);
	t0 = disk_sim_now(s);
	assert_int_equal(disk_sim_ops.reap(s, out, 8, 5000000), 0);
	assert_int_equal(disk_sim_now(s), t0 + SIM_POLL_NS + 5000000);
	/* In order, whatever each took. */
	for (uint32_t i = 0; i < 8; i++)
		send(s, &subs[i], i & 1 ? DISK_WRITE : DISK_READ, i, 1, a);
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(disk_sim_ops.reap(s, out, 1, UINT64_MAX), 1);
		assert_ptr_equal(out[0], &subs[i]);
	}
	/* A wake ends a wait at once, and only one. */
	disk_sim_ops.wake(s);
	t0 = disk_sim_now(s);
	assert_int_equal(disk_sim_ops.reap(s, out, 8, 5000000), 0);
	assert_int_equal(disk_sim_now(s), t0 + SIM_POLL_NS);
	free(a);
	end(s);
}

static void full_queue_takes_no_more(void **state)
{
	struct disk_sim_conf conf = {.bytes = BYTES, .seed = 3, .queue = 4};
	struct disk_sub subs[6], *p[6];
	uint8_t *a = page(1);
	struct disk_sim *s;

	(void)state;
	assert_int_equal(disk_sim_create(&conf, &s), 0);
	for (uint32_t i = 0; i < 6; i++) {
		subs[i] = (struct disk_sub){.op = DISK_READ, .offset = i * BLOCK, .bytes = BLOCK, .buf = a};
		p[i] = &subs[i];
	}
	assert_int_equal(disk_sim_ops.submit(s, p, 6), 4);
	assert_int_equal(drain(s), 4);
	assert_int_equal(disk_sim_ops.submit(s, p + 4, 2), 2);
	assert_int_equal(drain(s), 2);
	free(a);
	end(s);
}

/* Only writes that had completed when the flush was submitted are covered by it. */
static void flush_covers_what_completed_before(void **state)
{
	uint8_t *a = page(1);
	uint32_t lost = 0;

	(void)state;
	memset(a, 9, BLOCK);
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct disk_sim *s = sim(seed, true);
		struct disk_sub w, f;
		one(s, DISK_WRITE, 1, 1, a);
		send(s, &w, DISK_WRITE, 2, 1, a);
		send(s, &f, DISK_FLUSH, 0, 0, NULL);
		drain(s);
		disk_sim_crash(s);
		assert_int_equal(disk_sim_medium(s)[BLOCK], 9);
		lost += disk_sim_medium(s)[2 * BLOCK] != 9;
		end(s);
	}
	assert_in_range(lost, 40, 180);
	free(a);
}

/* After many overlapping writes and a crash every sector holds a content it had since the last flush, at the earliest the flushed. */
static void crash_keeps_any_subset(void **state)
{
	uint8_t *a = page(8);
	uint32_t old = 0, middle = 0, newest = 0, torn512 = 0, torn_writes = 0, lost_writes = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct disk_sim *s = sim(1000 + seed, true);
		for (uint8_t v = 1; v <= 4; v++) { /* 1 is flushed */
			memset(a, v, 8 * BLOCK);
			assert_int_equal(one(s, DISK_WRITE, 16, 8, a), 8 * BLOCK);
			if (v == 1)
				one(s, DISK_FLUSH, 0, 0, NULL);
		}
		disk_sim_crash(s);
		const uint8_t *m = disk_sim_medium(s) + 16 * BLOCK;
		for (uint32_t i = 0; i < 8 * BLOCK; i += 512) {
			assert_in_range(m[i], 1, 4);
			for (uint32_t j = 1; j < 512; j++)
				assert_int_equal(m[i + j], m[i]);
			old += m[i] == 1;
			middle += m[i] == 2 || m[i] == 3;
			newest += m[i] == 4;
			torn512 += i % BLOCK && m[i] != m[i - 512];
		}
		torn_writes += (uint32_t)stats(s).torn_writes;
		lost_writes += (uint32_t)stats(s).lost_writes;
		assert_int_equal(stats(s).crashes, 1);
		assert_int_equal(stats(s).volatile_writes, 0);
		end(s);
	}
	assert_true(old > 500 && middle > 500 && newest > 500 && torn512 > 200);
	assert_true(torn_writes > 50 && lost_writes > 100);
	free(a);
}

static void crash_in_flight(void **state)
{
	uint8_t *a = page(8), *b = page(1);
	uint32_t whole = 0, none = 0, part = 0;

	(void)state;
	memset(a, 6, 8 * BLOCK);
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct disk_sim *s = sim(seed, true);
		struct disk_sub w, r;
		uint32_t n = 0;
		send(s, &w, DISK_WRITE, 16, 8, a);
		disk_sim_crash(s);
		/* The dead disk gives back what it had and what still comes, untouched. */
		send(s, &r, DISK_READ, 16, 1, b);
		assert_int_equal(drain(s), 2);
		assert_int_equal(w.result, -ENODEV);
		assert_int_equal(r.result, -ENODEV);
		for (uint32_t i = 0; i < 8 * BLOCK; i += 512)
			n += disk_sim_medium(s)[16 * BLOCK + i] == 6;
		whole += n == 64;
		none += n == 0;
		part += n && n < 64;
		/* On again: what the medium has is what is read. */
		power_on(s);
		assert_int_equal(one(s, DISK_READ, 16, 1, b), BLOCK);
		assert_memory_equal(b, disk_sim_medium(s) + 16 * BLOCK, BLOCK);
		end(s);
	}
	assert_true(whole > 15 && none > 50 && part > 15);
	free(a);
	free(b);
}

static void kill_keeps_what_completed(void **state)
{
	uint8_t *a = page(8);
	uint32_t arrived = 0;

	(void)state;
	memset(a, 6, 8 * BLOCK);
	for (uint64_t seed = 0; seed < 200; seed++) {
		struct disk_sim *s = sim(seed, true);
		struct disk_sub w;
		uint32_t n = 0;
		one(s, DISK_WRITE, 0, 8, a);
		send(s, &w, DISK_WRITE, 16, 8, a);
		disk_sim_kill(s);
		assert_memory_equal(disk_sim_medium(s), a, 8 * BLOCK);
		for (uint32_t i = 0; i < 8 * BLOCK; i++)
			n += disk_sim_medium(s)[16 * BLOCK + i] == 6;
		assert_true(n == 0 || n == 8 * BLOCK);
		arrived += n != 0;
		assert_int_equal(stats(s).kills, 1);
		/* The cache is still volatile: the power may fail later. */
		assert_true(stats(s).volatile_writes >= 1);
		end(s);
	}
	assert_in_range(arrived, 40, 160);
	free(a);
}

static void write_through_is_durable_at_once(void **state)
{
	struct disk_sim_conf conf = {.bytes = BYTES, .seed = 5, .write_through = true};
	struct disk_facts facts;
	uint8_t *a = page(8);
	struct disk_sim *s;

	(void)state;
	memset(a, 3, 8 * BLOCK);
	assert_int_equal(disk_sim_create(&conf, &s), 0);
	disk_sim_facts(s, &facts);
	assert_false(facts.volatile_cache);
	one(s, DISK_WRITE, 0, 8, a);
	disk_sim_crash(s);
	assert_memory_equal(disk_sim_medium(s), a, 8 * BLOCK);
	free(a);
	end(s);
}

/* A cache of 64 KiB holds back no more than that. */
static void full_cache_writes_out_its_oldest(void **state)
{
	struct disk_sim_conf conf = {.bytes = BYTES, .seed = 5, .cache_bytes = 64 << 10};
	uint8_t *a = page(256);
	struct disk_sim *s;

	(void)state;
	assert_int_equal(disk_sim_create(&conf, &s), 0);
	for (uint32_t i = 0; i < 3 * BLOCKS / 256; i++)
		one(s, DISK_WRITE, i * 256 % BLOCKS, 256, a);
	assert_in_range(stats(s).volatile_bytes, 1 << 20, 2 << 20);
	free(a);
	end(s);
}

/* A hash over everything that can be seen of a history. */
static uint64_t history(uint64_t seed)
{
	static const struct disk_sim_faults faults = {.read_error = 0.02,
						      .write_error = 0.02,
						      .flush_error = 0.05,
						      .hang = 0.01,
						      .rot_read = 0.02,
						      .rot_write = 0.02,
						      .dropped = 0.02,
						      .misdirected = 0.02,
						      .torn = 0.02,
						      .short_io = 0.02,
						      .again = 0.02};
	struct disk_sim *s = sim(seed, true);
	struct disk_sub subs[400], *out[16];
	uint8_t *a = page(8), *b = page(8);
	uint64_t h = 14695981039346656037u;
	uint32_t n;

	disk_sim_faults(s, &faults);
	memset(b, 0, 8 * BLOCK);
	for (uint32_t i = 0; i < 400; i++) {
		memset(a, (int)i, 8 * BLOCK);
		send(s, &subs[i],
		     i % 10 == 9 ? DISK_FLUSH
		     : i % 3     ? DISK_WRITE
				 : DISK_READ,
		     i * 37 % (BLOCKS - 8), 1 + i % 8, i % 3 ? a : b);
		n = disk_sim_ops.reap(s, out, 16, 30000);
		for (uint32_t j = 0; j < n; j++)
			h = (h ^ (uint64_t)(out[j] - subs) ^ (uint64_t)(uint32_t)out[j]->result << 32) * 1099511628211u;
		h = (h ^ disk_sim_now(s)) * 1099511628211u;
	}
	disk_sim_crash(s);
	for (uint32_t i = 0; i < BYTES; i += 64)
		h = (h ^ disk_sim_medium(s)[i]) * 1099511628211u;
	end(s);
	free(a);
	free(b);
	return h;
}

static void one_seed_one_history(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 20; seed++)
		assert_int_equal(history(seed), history(seed));
	assert_int_not_equal(history(1), history(2));
}

/* ---- below the real queue -------------------------------------------------------------------------------------------------- */

static uint32_t told, told_bad;

static void count_done(struct disk_io *io)
{
	told++;
	told_bad += io->result != 0;
}

static struct disk_io *submit(struct disk *d, struct disk_io *io, enum disk_op op, uint64_t block, uint32_t blocks,
			      void *buf)
{
	*io = (struct disk_io){
		.op = op, .offset = block * BLOCK, .bytes = (uint64_t)blocks * BLOCK, .buf = buf, .done = count_done};
	disk_submit(d, io);
	return io;
}

/* Short IOs and requests to repeat stay below the disk: its caller sees whole requests and right bytes. */
static void disk_hides_short_ios(void **state)
{
	struct disk_sim *s = sim(21, true);
	uint8_t *a = page(BLOCKS / 2), *b = page(BLOCKS / 2);
	struct disk_io w[2], r[16];
	struct disk *d;
	struct why why;

	(void)state;
	for (uint32_t i = 0; i < BLOCKS / 2 * BLOCK / 4; i++)
		((uint32_t *)(void *)a)[i] = i * 2654435761u;
	assert_int_equal(disk_sim_open(s, &(struct disk_conf){.write = true, .sub_io_bytes = 128 << 10}, &d, &why), 0);
	disk_sim_faults(s, &(struct disk_sim_faults){.short_io = 0.3, .again = 0.3});
	told = told_bad = 0;
	submit(d, &w[0], DISK_WRITE, 0, BLOCKS / 2, a);
	submit(d, &w[1], DISK_WRITE, BLOCKS / 2, BLOCKS / 2, a);
	while (told < 2)
		disk_run(d, 1000000);
	for (uint32_t i = 0; i < 16; i++)
		submit(d, &r[i], DISK_READ, BLOCKS / 4 + i * BLOCKS / 32, BLOCKS / 32,
		       b + (size_t)i * BLOCKS / 32 * BLOCK);
	while (told < 18)
		disk_run(d, 1000000);
	assert_int_equal(told_bad, 0);
	assert_memory_equal(b, disk_sim_medium(s) + BLOCKS / 4 * BLOCK, BLOCKS / 2 * BLOCK);
	assert_memory_equal(disk_sim_medium(s), a, BLOCKS / 2 * BLOCK);
	assert_true(stats(s).injected[SIM_SHORT_IO] > 5 && stats(s).injected[SIM_AGAIN] > 5);
	assert_int_equal(disk_close(d, 0), 0);
	disk_sim_destroy(s);
	free(a);
	free(b);
}

/* Whatever is under way at a crash ends, so that the disk can be closed; the medium opens again with what it kept. */
static void disk_survives_crashes(void **state)
{
	struct disk_sim *s = sim(22, true);
	uint8_t *a = page(256);
	struct disk_io io[40];
	struct disk *d;
	struct why why;

	(void)state;
	memset(a, 1, 256 * BLOCK);
	for (uint32_t round = 0; round < 20; round++) {
		assert_int_equal(disk_sim_open(s, &(struct disk_conf){.write = true}, &d, &why), 0);
		disk_sim_faults(s, &(struct disk_sim_faults){.hang = 0.05});
		told = 0;
		for (uint32_t i = 0; i < 40; i++)
			submit(d, &io[i], i % 8 == 7 ? DISK_FLUSH : DISK_WRITE, i * 16, i % 8 == 7 ? 0 : 256, a);
		for (uint32_t i = 0; i < round; i++)
			disk_run(d, 100000);
		if (round & 1)
			disk_sim_crash(s);
		else
			disk_sim_kill(s);
		assert_int_equal(disk_close(d, 10), 0);
		assert_int_equal(told, 40);
	}
	assert_int_equal(stats(s).crashes, 10);
	assert_int_equal(stats(s).kills, 10);
	disk_sim_destroy(s);
	free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_was_written),
		cmocka_unit_test(time_is_its_own),
		cmocka_unit_test(full_queue_takes_no_more),
		cmocka_unit_test(flush_covers_what_completed_before),
		cmocka_unit_test(crash_keeps_any_subset),
		cmocka_unit_test(crash_in_flight),
		cmocka_unit_test(kill_keeps_what_completed),
		cmocka_unit_test(write_through_is_durable_at_once),
		cmocka_unit_test(full_cache_writes_out_its_oldest),
		cmocka_unit_test(one_seed_one_history),
		cmocka_unit_test(disk_hides_short_ios),
		cmocka_unit_test(disk_survives_crashes),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
