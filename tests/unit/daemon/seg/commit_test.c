/* commit_test.c - what written and durable mean: group commit, failing writes and flushes, power loss, the death of the process. */
#include "tests/unit/daemon/seg/box.h"

#define SIZE 70000u

static void crash_and_open(struct box *b)
{
	disk_sim_crash(b->sim);
	seg_close(b->s, 0);
	box_open(b);
}

static void kill_and_open(struct box *b)
{
	disk_sim_kill(b->sim);
	seg_close(b->s, 0);
	box_open(b);
}

/* The store flushes by itself 50 ms after a write, and not while there is nothing to flush. */
static void by_itself(void **state)
{
	struct box b;
	uint64_t flushes;

	(void)state;
	box_start(&b, 8, 1 << 20);
	assert_int_equal(box_put(&b, 1, SIZE), 0);
	assert_int_equal(box_stats(&b).durable_writes, 0);
	box_run(&b, 20);
	flushes = box_stats(&b).flushes;
	assert_true(flushes > 0);
	assert_int_equal(box_stats(&b).durable_writes, 1);
	box_run(&b, 100);
	assert_int_equal(box_stats(&b).flushes, flushes);
	crash_and_open(&b);
	assert_int_equal(box_get(&b, 1, SIZE), 0);
	box_end(&b);
}

/* By bytes, too. */
static void by_bytes(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 8, 1 << 20);
	box_close(&b);
	b.conf.flush_bytes = 300000;
	b.conf.flush_ms = 100000;
	box_open(&b);
	for (uint32_t i = 0; i < 40; i++)
		assert_true(box_put(&b, i, 50000) == 0 && (box_run(&b, 1), true));
	assert_in_range(box_stats(&b).flushes, 5, 20);
	box_end(&b);
}

static void write_through(void **state)
{
	struct box b;
	struct disk_sim_conf sim = {.bytes = 12 << 20, .seed = 3, .write_ns = 1000, .write_through = true};

	(void)state;
	box_make(&b, &sim, 1 << 20);
	box_open(&b);
	for (uint32_t i = 0; i < 30; i++)
		assert_int_equal(box_put(&b, i, SIZE), 0);
	assert_int_equal(box_flush(&b), 0);
	assert_int_equal(box_stats(&b).durable_writes, 30);
	assert_int_equal(box_stats(&b).flushes, 0);
	crash_and_open(&b);
	assert_int_equal(box_get(&b, 29, SIZE), 0);
	box_end(&b);
}

/* Whatever was done before a flush that succeeded survives power loss; what was done at all survives kill -9. No wrong byte ever. */
static void survives(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct box b;
		struct disk_sim_conf sim = {.bytes = 36 << 20,
					    .seed = seed,
					    .read_ns = 50000,
					    .write_ns = 30000,
					    .flush_ns = 200000,
					    .reorder = true};
		struct work *w[40];
		uint32_t durable = 10 + (uint32_t)(seed * 7 % 40), after = durable + 40;
		bool done[100] = {false};

		box_make(&b, &sim, 1 << 20);
		box_open(&b);
		for (uint32_t i = 0; i < durable; i++)
			assert_int_equal(box_put(&b, i, SIZE + i), 0);
		assert_int_equal(box_remove(&b, 3), 0);
		assert_int_equal(box_flush(&b), 0);
		for (uint32_t i = durable; i < after; i++)
			w[i - durable] = work_start(&b, SEG_WRITE, i, SIZE + i);
		for (uint32_t i = 0; i < seed % 17; i++)
			seg_run(b.s, 20000);
		for (uint32_t i = durable; i < after; i++)
			done[i] = w[i - durable]->done && !w[i - durable]->op.result;
		if (seed % 2)
			crash_and_open(&b);
		else
			kill_and_open(&b);
		for (uint32_t i = 0; i < after; i++) {
			bool must = i < durable ? i != 3 : done[i] && seed % 2 == 0;
			int rc = box_get(&b, i, SIZE + i);

			assert_true(rc == 0 || (!must && (rc == -ENOENT || rc == -EILSEQ)));
			assert_true(i != 3 || rc == -ENOENT);
		}
		seg_check(b.s);
		/* Those that were under way are not told any more; their memory is ours again, since the disk is gone. */
		for (uint32_t i = 0; i < 40; i++) {
			free(w[i]->op.mem);
			free(w[i]);
		}
		assert_int_equal(box_put(&b, 999, SIZE), 0);
		box_end(&b);
	}
}

/* A write that failed is told so and not visible; others go on elsewhere. After a restart it may be found where the device stored it
 * nevertheless: then every byte is right. */
static void failing_writes(void **state)
{
	struct box b;
	uint32_t failed = 0, found = 0;
	bool ok[300];

	(void)state;
	box_start(&b, 30, 1 << 20);
	for (uint32_t i = 0; i < 300; i++) {
		disk_sim_faults(b.sim, i % 10 == 5 ? &(struct disk_sim_faults){.write_error = 0.6} : NULL);
		int rc = box_put(&b, i, SIZE);
		assert_true(rc == 0 || rc == -EIO);
		ok[i] = rc == 0;
		failed += rc != 0;
		assert_int_equal(box_find(&b, i), ok[i] ? SIZE : 0);
		disk_sim_faults(b.sim, NULL);
		seg_check(b.s);
	}
	assert_in_range(failed, 10, 30);
	assert_true(box_stats(&b).write_errors >= failed);
	assert_true(box_stats(&b).suspect_segments + box_stats(&b).evicted_segments > 0);
	assert_int_equal(box_flush(&b), 0);
	crash_and_open(&b);
	for (uint32_t i = 0; i < 300; i++) {
		int rc = box_get(&b, i, SIZE);

		assert_true(rc == 0 || rc == -ENOENT || (!ok[i] && rc == -EILSEQ));
		found += rc == 0;
	}
	assert_true(found > 100);
	box_end(&b);
}

/* Who asked before a flush failed is told so, or else the next one; once. */
static void failing_flush(void **state)
{
	struct box b;
	struct disk_sim_faults bad = {.flush_error = 1};

	(void)state;
	box_start(&b, 30, 1 << 20);
	assert_int_equal(box_put(&b, 1, SIZE), 0);
	disk_sim_faults(b.sim, &bad);
	assert_int_equal(box_flush(&b), -EIO);
	disk_sim_faults(b.sim, NULL);
	assert_int_equal(box_flush(&b), 0);
	assert_int_equal(box_stats(&b).durable_writes, 0);
	assert_int_equal(box_get(&b, 1, SIZE), 0); /* still there, as far as anybody can tell */

	disk_sim_faults(b.sim, &bad);
	assert_int_equal(box_put(&b, 2, SIZE), 0);
	box_run(&b, 20); /* nobody waits for this flush */
	disk_sim_faults(b.sim, NULL);
	assert_int_equal(box_put(&b, 3, SIZE), 0);
	assert_int_equal(box_flush(&b), -EIO);
	assert_int_equal(box_flush(&b), 0);
	assert_int_equal(box_put(&b, 4, SIZE), 0);
	assert_int_equal(box_flush(&b), 0);
	crash_and_open(&b);
	assert_int_equal(box_get(&b, 4, SIZE), 0);
	box_end(&b);
}

/* A clear is all or nothing, whenever power fails; one that cannot be written leaves a store that takes nothing more. */
static void clear_survives(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct box b;
		struct disk_sim_conf sim = {
			.bytes = 20 << 20, .seed = seed, .write_ns = 30000, .flush_ns = 90000, .reorder = true};
		struct work *c;
		uint32_t found = 0;
		bool done;

		box_make(&b, &sim, 1 << 20);
		box_open(&b);
		for (uint32_t i = 0; i < 20; i++)
			assert_int_equal(box_put(&b, i, SIZE), 0);
		assert_int_equal(box_flush(&b), 0);
		c = work_start(&b, SEG_CLEAR, 0, 0);
		for (uint32_t i = 0; i < seed && !c->done; i++)
			seg_run(b.s, 10000);
		done = c->done;
		crash_and_open(&b);
		for (uint32_t i = 0; i < 20; i++)
			found += box_get(&b, i, SIZE) == 0;
		assert_true(found == 0 || (found == 20 && !done));
		free(c);
		assert_int_equal(box_put(&b, 100, SIZE), 0);
		box_end(&b);
	}
}

static void clear_fails(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 8, 1 << 20);
	assert_int_equal(box_put(&b, 1, SIZE), 0);
	disk_sim_faults(b.sim, &(struct disk_sim_faults){.write_error = 1});
	assert_int_equal(box_clear(&b), -EIO);
	disk_sim_faults(b.sim, NULL);
	assert_int_equal(box_find(&b, 1), 0);
	assert_int_equal(box_put(&b, 2, SIZE), -EROFS);
	box_close(&b);
	box_open(&b);
	assert_int_equal(box_get(&b, 1, SIZE), 0); /* the old epoch: nothing said that it was cleared */
	assert_int_equal(box_put(&b, 2, SIZE), 0);
	assert_int_equal(box_clear(&b), 0);
	box_end(&b);
}

static void device_gone(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 8, 1 << 20);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(box_put(&b, i, SIZE), 0);
	disk_sim_faults(b.sim, &(struct disk_sim_faults){.gone = true});
	assert_int_equal(box_get(&b, 1, SIZE), -ENODEV);
	assert_int_equal(box_find(&b, 1), SIZE); /* kept: it may come back */
	assert_int_equal(box_put(&b, 50, SIZE), -ENODEV);
	assert_int_equal(box_put(&b, 51, SIZE), -ENODEV);
	disk_sim_faults(b.sim, NULL);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(box_get(&b, i, SIZE), 0);
	assert_int_equal(box_put(&b, 52, SIZE), 0);
	box_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_itself),      cmocka_unit_test(by_bytes),       cmocka_unit_test(write_through),
		cmocka_unit_test(survives),       cmocka_unit_test(failing_writes), cmocka_unit_test(failing_flush),
		cmocka_unit_test(clear_survives), cmocka_unit_test(clear_fails),    cmocka_unit_test(device_gone),
	};

	return cmocka_run_group_tests_name("written and durable", tests, NULL, NULL);
}
