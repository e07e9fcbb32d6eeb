/* failing_test.c - the disk hangs, goes away, or fails every write, read or flush: the store answers with errors, goes on where it can,
 * and never waits for ever or ends the program.
 */
#include "daemon/base/mem.h"
#include "tests/unit/daemon/seg/world.h"

#define BYTES   (24u << 20)
#define SEGMENT (1u << 20)
#define OBJECT  20000u
#define OBJECTS 40u

static const struct seg_conf conf = {.max_objects = 4096, .verify = true, .readmit = 0.1};

static struct world *with_objects(uint64_t seed)
{
	struct world *w = world_get();
	struct disk_sim_conf dc = {.bytes = BYTES,
				   .seed = seed,
				   .read_ns = 80000,
				   .write_ns = 20000,
				   .flush_ns = 400000,
				   .bytes_per_ns = 3,
				   .reorder = true};

	w->rnd = seed;
	w->ended = NULL;
	world_create(w, &dc, SEGMENT);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	for (uint32_t i = 0; i < OBJECTS; i++)
		assert_int_equal(world_write(w, i, 1, OBJECT), 0);
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	return w;
}

static void end(struct world *w)
{
	disk_sim_faults(w->sim, NULL);
	disk_sim_release(w->sim);
	if (w->s)
		world_close(w, 10000);
	world_destroy(w);
}

static uint32_t readable(struct world *w)
{
	uint32_t n = 0, version;

	for (uint32_t i = 0; i < OBJECTS; i++)
		n += world_read(w, i, &version) == 0;
	return n;
}

/* One read never comes back: everything else does, and it does, too, when the device wakes up. */
static void one_read_hangs(void **state)
{
	struct world *w = with_objects(1);
	struct slot *hung = world_slot(w);

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.hang = 1});
	world_start(w, hung, SEG_READ, 0, OBJECT);
	seg_run(w->s, MS);
	disk_sim_faults(w->sim, NULL);
	for (uint32_t i = 1; i < OBJECTS; i++)
		assert_int_equal(world_do(w, world_slot(w), SEG_READ, i, OBJECT), 0);
	assert_int_equal(world_write(w, 1000, 1, OBJECT), 0);
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	assert_int_equal(world_do(w, world_slot(w), SEG_REMOVE, 7, 0), 0);
	assert_int_equal(world_size(w, 0), OBJECT); /* still known */
	assert_true(hung->busy);
	disk_sim_release(w->sim);
	while (hung->busy)
		seg_run(w->s, MS);
	assert_int_equal(hung->op.result, 0);
	world_recount(w);
	end(w);
}

/* All of the device hangs: nothing is told, nothing is lost, lookups answer, a close returns in time and tells what it leaves behind. */
static void everything_hangs(void **state)
{
	struct world *w = with_objects(2);
	uint64_t t0;

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.hang = 1});
	for (uint32_t i = 0; i < 8; i++) {
		struct slot *p = world_slot(w);
		if (i & 1)
			content(500 + i, 1, OBJECT, p->mem);
		world_start(w, p, i & 1 ? SEG_WRITE : SEG_READ, i & 1 ? 500 + i : i, OBJECT);
	}
	world_start(w, world_slot(w), SEG_FLUSH, 0, 0);
	world_start(w, world_slot(w), SEG_REMOVE, 3, 0);
	for (uint32_t i = 0; i < 5000; i++)
		seg_run(w->s, MS);
	assert_true(w->busy >= 8);
	for (uint32_t i = 4; i < OBJECTS; i++)
		assert_int_equal(world_size(w, i), OBJECT);
	disk_sim_faults(w->sim, NULL);
	disk_sim_release(w->sim);
	for (uint32_t i = 0; i < 1000 && w->busy; i++)
		seg_run(w->s, MS);
	assert_int_equal(w->busy, 0);
	assert_int_equal(readable(w), OBJECTS - 1);
	world_recount(w);

	disk_sim_faults(w->sim, &(struct disk_sim_faults){.hang = 1});
	for (uint32_t i = 8; i < 12; i++)
		world_start(w, world_slot(w), SEG_READ, i, OBJECT);
	seg_run(w->s, MS);
	t0 = disk_sim_now(w->sim);
	assert_in_range(seg_close(w->s, 100), 4, 6); /* and maybe a flush of the store */
	assert_true(disk_sim_now(w->sim) - t0 < 1000ull * MS);
	assert_int_equal(w->busy, 4); /* never told: their memory is the device's */
	for (uint32_t i = 0; i < WORLD_SLOTS; i++)
		w->slot[i].busy = false;
	w->s = NULL;
	/* The device is plugged in again: everything is there. */
	disk_sim_faults(w->sim, NULL);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	w->busy = 0;
	assert_int_equal(readable(w), OBJECTS - 1);
	end(w);
}

static void expect_errors(struct world *w)
{
	struct slot *p;
	int rc;

	for (uint32_t i = 0; i < 12; i++) {
		rc = world_do(w, world_slot(w), SEG_READ, i, OBJECT);
		assert_true(rc == -ENODEV || rc == -EIO || rc == -ENOENT);
		rc = world_write(w, 600 + i, 1, OBJECT);
		assert_true(rc == -ENODEV || rc == -EIO || rc == -EROFS || rc == -ENOSPC);
		rc = world_do(w, world_slot(w), SEG_REMOVE, 20 + i, 0);
		assert_true(rc == -ENODEV || rc == -EIO || rc == -EROFS || rc == -ENOSPC || rc == -ENOENT);
	}
	p = world_slot(w);
	rc = world_do(w, p, SEG_CLEAR, 0, 0);
	assert_true(rc == -ENODEV || rc == -EIO || rc == -EROFS);
	seg_check(w->s);
}

/* The device is gone: every operation ends with an error, at once or soon; a store cannot be opened on it, and is whole when it is back. */
static void device_gone(void **state)
{
	struct world *w = with_objects(3);

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.gone = true});
	expect_errors(w);
	world_close(w, 1000);
	assert_true(world_open(w, &conf, 0) < 0);
	disk_sim_faults(w->sim, NULL);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	assert_int_equal(readable(w), OBJECTS);
	assert_int_equal(world_write(w, 700, 1, OBJECT), 0);
	end(w);
}

static void gone_with_requests_under_way(void **state)
{
	struct world *w = with_objects(4);

	(void)state;
	for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
		struct slot *p = world_slot(w);
		content(500 + i, 1, OBJECT, p->mem);
		world_start(w, p, i % 3 ? SEG_WRITE : SEG_READ, i % 3 ? 500 + i : i, OBJECT);
	}
	seg_run(w->s, 0);
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.gone = true});
	for (uint32_t i = 0; i < 10000 && w->busy; i++)
		seg_run(w->s, MS);
	assert_int_equal(w->busy, 0);
	seg_check(w->s);
	world_close(w, 1000);
	disk_sim_faults(w->sim, NULL);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	assert_int_equal(readable(w), OBJECTS);
	end(w);
}

/* Writes fail, reads do not: what is there stays readable, and when the device is well again writes go on. */
static void writes_fail(void **state)
{
	struct world *w = with_objects(5);
	int rc = -1;

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.write_error = 1});
	for (uint32_t i = 0; i < 60; i++) {
		rc = world_write(w, 600 + i, 1, OBJECT);
		assert_true(rc == -EIO || rc == -ENOSPC || rc == -EROFS);
		assert_int_equal(world_size(w, 600 + i), 0);
	}
	world_recount(w);
	assert_int_equal(readable(w), OBJECTS);
	disk_sim_faults(w->sim, NULL);
	for (uint32_t i = 0; rc && i < 60; i++)
		rc = world_write(w, 700 + i, 1, OBJECT);
	assert_int_equal(rc, 0);
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	assert_true(readable(w) > 0);
	world_recount(w);
	end(w);
}

/* Reads fail: errors, never bytes; what cannot be read is forgotten, and new objects come and go. */
static void reads_fail(void **state)
{
	struct world *w = with_objects(6);
	uint32_t version;

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.read_error = 1});
	for (uint32_t i = 0; i < OBJECTS / 2; i++) {
		int rc = world_read(w, i, &version);
		assert_int_equal(rc, -EIO);
	}
	disk_sim_faults(w->sim, NULL);
	assert_int_equal(readable(w), OBJECTS / 2);
	assert_int_equal(world_write(w, 1, 2, OBJECT), 0);
	assert_int_equal(world_read(w, 1, &version), 0);
	assert_int_equal(version, 2);
	world_recount(w);
	end(w);
}

static void flushes_fail(void **state)
{
	struct world *w = with_objects(7);

	(void)state;
	disk_sim_faults(w->sim, &(struct disk_sim_faults){.flush_error = 1});
	for (uint32_t i = 0; i < 6; i++) {
		int rc = world_write(w, 600 + i, 1, OBJECT);
		assert_true(rc == 0 || rc == -ENOSPC || rc == -EIO);
		if (!rc)
			assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), -EIO);
	}
	disk_sim_faults(w->sim, NULL);
	assert_int_equal(readable(w), OBJECTS);
	assert_int_equal(world_write(w, 700, 1, OBJECT), 0);
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	disk_sim_crash(w->sim);
	world_close(w, 1000);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	assert_int_equal(readable(w), OBJECTS);
	assert_int_equal(world_size(w, 700), OBJECT);
	end(w);
}

/* Recovery of a device that fails now and then, or all the time: it ends, and what it says is right. */
static void recovery_on_a_bad_device(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 40; seed++) {
		struct world *w = with_objects(100 + seed);
		world_close(w, 1000);
		disk_sim_faults(w->sim, &(struct disk_sim_faults){.read_error = seed % 4 ? 0.1 * (double)(seed % 4) : 1,
								  .write_error = 0.3});
		if (world_open(w, &conf, 0) == 0) {
			assert_true(world_recover(w));
			world_recount(w);
			assert_true(readable(w) <= OBJECTS);
			world_close(w, 1000);
		}
		disk_sim_faults(w->sim, NULL);
		assert_int_equal(world_open(w, &conf, 0), 0);
		assert_true(world_recover(w));
		assert_true(readable(w) > 0);
		end(w);
	}
}

/* Every allocation of an opening fails once: a reason, no crash, no leak (the sanitizer looks), and the next one succeeds. */
static void no_memory(void **state)
{
	struct world *w = with_objects(8);
	uint32_t failed = 0;

	(void)state;
	world_close(w, 1000);
	for (uint64_t n = 1; n < 200; n++) {
		int rc;
		mem_fail_at(n);
		rc = world_open(w, &conf, 0);
		if (!rc)
			world_recover(w);
		mem_fail_at(0);
		if (!rc) {
			seg_check(w->s);
			world_close(w, 1000);
			continue;
		}
		assert_int_equal(rc, -ENOMEM);
		failed++;
	}
	assert_true(failed > 5);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	assert_int_equal(readable(w), OBJECTS);
	end(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_read_hangs), cmocka_unit_test(everything_hangs),
		cmocka_unit_test(device_gone),    cmocka_unit_test(gone_with_requests_under_way),
		cmocka_unit_test(writes_fail),    cmocka_unit_test(reads_fail),
		cmocka_unit_test(flushes_fail),   cmocka_unit_test(recovery_on_a_bad_device),
		cmocka_unit_test(no_memory),
	};
	int rc;

	world_seed = UINT64_MAX;
	log_set_level(LOG_LVL_ERROR + 1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	world_free();
	return rc;
}
