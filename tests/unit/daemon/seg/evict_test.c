/* evict_test.c - a full store: what goes, what stays, who is waited for, and that its capacity is never exceeded. */
#include "tests/unit/daemon/seg/box.h"

#include "daemon/base/mem.h"

static void used_is_exact(struct box *b)
{
	struct seg_stats st = box_stats(b);

	seg_check(b->s);
	assert_true(st.used_bytes <= st.capacity_bytes);
}

/* Ten turnovers of mixed sizes: nothing is refused, all that is found is right, the oldest went first. */
static void turnover(uint32_t segments, uint64_t segment_bytes, uint64_t largest)
{
	struct box b;
	uint64_t written = 0, x = 1;
	uint32_t n = 0, found = 0;
	uint32_t *size = calloc(100000, sizeof(*size));

	box_start(&b, segments, segment_bytes);
	while (written < 10 * segments * segment_bytes) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		size[n] = (uint32_t)(1 + (x >> 33) % largest);
		assert_int_equal(box_put(&b, n, size[n]), 0);
		written += size[n++];
		if (n % 16 == 0)
			used_is_exact(&b);
	}
	for (uint32_t turn = 0; turn < 2; turn++) {
		found = 0;
		for (uint32_t i = 0; i < n; i++) {
			if (!box_find(&b, i))
				continue;
			assert_int_equal(box_get(&b, i, size[i]), 0);
			found++;
		}
		assert_int_equal(found, box_stats(&b).objects);
		assert_true(found > 0 && box_find(&b, n - 1));
		if (turn)
			break;
		struct seg_stats st = box_stats(&b);
		assert_true(st.used_bytes > segments * segment_bytes / 2);
		assert_int_equal(st.dropped, 0);
		box_close(&b);
		box_open(&b);
		/* What was evicted but not yet overwritten may be found again, no more than that. */
		box_run(&b, 200);
		used_is_exact(&b);
	}
	free(size);
	box_end(&b);
}

static void turnovers(void **state)
{
	(void)state;
	turnover(4, 1 << 20, 200000);
	turnover(5, 1 << 20, 900000);
	turnover(8, 256 << 10, 60000);
	turnover(32, 256 << 10, 20000);
}

/* Objects that are looked up survive, one in each segment; the others do not. */
static void hot_ones_stay(void **state)
{
	struct box b;
	uint32_t cold = 0;

	(void)state;
	box_start(&b, 40, 1 << 20);
	for (uint32_t i = 0; i < 3000; i++) {
		assert_int_equal(box_put(&b, i, 60000), 0);
		if (i % 8 == 0)
			box_run(&b, 1); /* not faster than eviction can copy */
		for (uint32_t k = 0; k <= i && k < 200; k += 20)
			assert_int_equal(box_find(&b, k), 60000);
	}
	for (uint32_t k = 0; k < 200; k++)
		if (k % 20)
			cold += box_find(&b, k) != 0;
		else
			assert_int_equal(box_get(&b, k, 60000), 0);
	assert_int_equal(cold, 0);
	assert_true(box_stats(&b).readmitted_bytes > 0);
	used_is_exact(&b);
	box_end(&b);
}

/* At most conf.readmit of a segment is written again, however much of it was used. */
static void readmission_is_bounded(void **state)
{
	struct box b;
	struct seg_stats st;

	(void)state;
	box_start(&b, 10, 1 << 20);
	for (uint32_t i = 0; i < 500; i++) {
		assert_int_equal(box_put(&b, i, 30000), 0);
		for (uint32_t k = 0; k <= i; k++)
			box_find(&b, k);
	}
	st = box_stats(&b);
	assert_true(st.readmitted_bytes > 0);
	assert_true((double)st.readmitted_bytes <= 0.1 * (double)(1 << 20) * (double)st.evicted_segments);
	used_is_exact(&b);
	box_end(&b);
}

/* A reader of a segment that goes keeps its bytes; the segment is not used before the reader is done. */
static void readers_are_waited_for(void **state)
{
	struct box b;
	struct work *r[8], *w;
	struct disk_sim_faults hang = {.hang = 1};

	(void)state;
	box_start(&b, 6, 1 << 20);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(box_put(&b, i, 100000), 0);
	disk_sim_faults(b.sim, &hang);
	for (uint32_t i = 0; i < 8; i++)
		r[i] = work_start(&b, SEG_READ, i, 100000);
	box_run(&b, 1);
	disk_sim_faults(b.sim, NULL);
	for (uint32_t i = 100; i < 200; i++) {
		w = work_start(&b, SEG_WRITE, i, 100000);
		work_wait(&b, w);
		assert_true(w->op.result == 0 || w->op.result == -ENOSPC);
		work_end(w);
		seg_check(b.s);
	}
	assert_int_equal(box_find(&b, 0), 0); /* gone for new readers */
	for (uint32_t i = 0; i < 8; i++)
		assert_false(r[i]->done);
	disk_sim_release(b.sim);
	for (uint32_t i = 0; i < 8; i++) {
		work_wait(&b, r[i]);
		assert_int_equal(r[i]->op.result, 0);
		work_end(r[i]);
	}
	for (uint32_t i = 200; i < 240; i++)
		assert_int_equal(box_put(&b, i, 100000), 0);
	used_is_exact(&b);
	box_end(&b);
}

/* Nothing clean and nobody to make room: after a while writes are dropped, and taken again later. */
static void dropped_when_full(void **state)
{
	struct box b;
	struct work *r[4], *w[200];
	uint32_t dropped = 0;
	uint64_t before;

	(void)state;
	box_start(&b, 4, 1 << 20);
	for (uint32_t i = 0; i < 24; i++)
		assert_int_equal(box_put(&b, i, 100000), 0);
	disk_sim_faults(b.sim, &(struct disk_sim_faults){.hang = 1});
	uint32_t n = 0;
	for (uint32_t i = 0; i < 24 && n < 4; i++)
		if (box_find(&b, i) && (n == 0 || i > 8 * n))
			r[n++] = work_start(&b, SEG_READ, i, 100000);
	box_run(&b, 1);
	disk_sim_faults(b.sim, NULL);
	before = disk_now(seg_disk(b.s));
	for (uint32_t i = 0; i < 200; i++)
		w[i] = work_start(&b, SEG_WRITE, 1000 + i, 100000);
	for (uint32_t i = 0; i < 200; i++) {
		work_wait(&b, w[i]);
		assert_true(w[i]->op.result == 0 || w[i]->op.result == -ENOSPC);
		dropped += work_end(w[i]) != 0;
	}
	assert_true(disk_now(seg_disk(b.s)) - before < 5000000000u);
	assert_int_equal(box_stats(&b).dropped, dropped);
	disk_sim_release(b.sim);
	for (uint32_t i = 0; i < n; i++) {
		work_wait(&b, r[i]);
		work_end(r[i]);
	}
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(box_put(&b, 2000 + i, 100000), 0);
	used_is_exact(&b);
	box_end(&b);
}

/* max_objects is a limit like the medium's: the oldest make room. */
static void index_full(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 16, 1 << 20);
	box_close(&b);
	b.conf.max_objects = 700;
	box_open(&b);
	for (uint32_t i = 0; i < 3000; i++)
		assert_int_equal(box_put(&b, i, 4000), 0);
	assert_true(box_stats(&b).objects <= 700 && box_stats(&b).objects > 300);
	assert_int_equal(box_get(&b, 2999, 4000), 0);
	used_is_exact(&b);
	box_end(&b);
}

/* What was removed stays away, however segments come and go between, also after restarts. */
static void removed_stays_removed(void **state)
{
	struct box b;
	uint32_t next = 1000;
	bool gone[64] = {false};

	(void)state;
	box_start(&b, 12, 256 << 10);
	b.conf.readmit = 0.5;
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(box_put(&b, i, 3000), 0);
	for (uint32_t turn = 0; turn < 60; turn++) {
		/* Used again and again, so that their segment outlives the removals' ones. */
		for (uint32_t i = 0; i < 64; i++)
			for (uint32_t k = 0; k < 3; k++)
				box_find(&b, i);
		gone[turn] = true;
		int rc = box_remove(&b, turn);
		assert_true(rc == 0 || rc == -ENOENT);
		for (uint32_t i = 0; i < 12; i++)
			assert_int_equal(box_put(&b, next++, 30000), 0);
		if (turn % 3 == 2) {
			box_close(&b);
			box_open(&b);
		}
		for (uint32_t i = 0; i < 64; i++)
			if (gone[i])
				assert_int_equal(box_find(&b, i), 0);
		used_is_exact(&b);
	}
	box_end(&b);
}

/* The segment with the removals goes long before the one with what they removed. */
static void removals_are_carried(void **state)
{
	struct box b;
	uint32_t i, next = 1000, with_removals;

	(void)state;
	box_start(&b, 24, 256 << 10);
	for (i = 0; i < 150; i++)
		assert_int_equal(box_put(&b, i, 1000), 0);
	for (i = 0; i < 10; i++)
		assert_int_equal(box_put(&b, next++, 30000), 0);
	for (i = 120; i < 124; i++)
		assert_int_equal(box_remove(&b, i), 0);
	with_removals = seg_segment_of(b.s, (uint64_t)b.s->ix.e[b.s->ix.hi].at * FORMAT_BLOCK);
	for (i = 0; i < 10; i++)
		assert_int_equal(box_put(&b, next++, 30000), 0);
	assert_true(b.s->segment[with_removals].removed == 4);
	for (uint32_t round = 0; round < 2; round++) {
		uint64_t generation = b.s->segment[with_removals].generation;

		seg_give_up(b.s, with_removals, "the test wants it so");
		while (b.s->segment[with_removals].generation == generation) {
			assert_int_equal(box_put(&b, next++, 30000), 0);
			assert_true(next < 3000);
			/* The old ones stay, since they are used. */
			for (i = 0; i < 150; i++)
				for (uint32_t k = 0; k < 3; k++)
					box_find(&b, i);
		}
		for (with_removals = 0; !b.s->segment[with_removals].removed; with_removals++)
			assert_true(with_removals < 23);
		assert_int_equal(b.s->segment[with_removals].removed, 4);
		used_is_exact(&b);
	}
	assert_int_equal(box_find(&b, 124), 1000);
	box_close(&b);
	box_open(&b);
	for (i = 120; i < 124; i++)
		assert_int_equal(box_find(&b, i), 0);
	assert_int_equal(box_find(&b, 124), 1000);
	box_end(&b);
}

/* A medium that gives wrong bytes: each record is a miss once; three of them, and the segment goes before all others. */
static void bad_records(void **state)
{
	struct box b;
	uint32_t segment, n = 0;

	(void)state;
	box_start(&b, 12, 1 << 20);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(box_put(&b, i, 100000), 0);
	segment = 3;
	for (uint32_t i = 0; i < 60; i++) {
		struct seg_key key = {.name = b.name, .hash = image_hash(i)};
		uint64_t at = (uint64_t)b.s->ix.e[seg_index_find(&b.s->ix, &key)].at * FORMAT_BLOCK;

		if (seg_segment_of(b.s, at) != segment || n == 3)
			continue;
		disk_sim_medium(b.sim)[at + FORMAT_BLOCK + 777] ^= 0x10;
		assert_int_equal(box_get(&b, i, 100000), -EILSEQ);
		assert_int_equal(box_get(&b, i, 100000), -ENOENT);
		n++;
		assert_int_equal(box_stats(&b).bad_checksums, n);
		assert_int_equal(b.s->segment[segment].suspect, n == 3);
	}
	assert_int_equal(box_stats(&b).suspect_segments, 1);
	for (uint32_t i = 100; b.s->segment[segment].suspect; i++) {
		assert_int_equal(box_put(&b, i, 100000), 0);
		assert_true(i < 170);
	}
	assert_int_equal(box_stats(&b).suspect_segments, 0);
	for (uint32_t i = 0; i < 20; i++) /* older segments are still there */
		assert_int_equal(box_find(&b, i), 100000);
	used_is_exact(&b);
	box_end(&b);
}

/* Freed segments are discarded, one a second at most, and what is live never is. */
static void discards(void **state)
{
	struct box b;
	uint64_t before, now;
	uint32_t found = 0, i;

	(void)state;
	box_start(&b, 40, 256 << 10);
	box_close(&b);
	b.conf.discard = true;
	box_open(&b);
	now = disk_now(seg_disk(b.s));
	for (i = 0; i < 2000; i++) {
		assert_int_equal(box_put(&b, i, 20000), 0);
		before = box_stats(&b).discarded_bytes;
		seg_run(b.s, 5000000);
		assert_in_range(box_stats(&b).discarded_bytes - before, 0, 256 << 10);
	}
	before = (disk_now(seg_disk(b.s)) - now) / 1000000000u;
	assert_true(box_stats(&b).discarded_bytes > 0);
	assert_true(box_stats(&b).discarded_bytes <= (before + 1) * (256 << 10));
	for (i = 0; i < 10; i++)
		seg_run(b.s, 2000000000);
	assert_int_equal(box_stats(&b).dropped, 0);
	for (uint32_t turn = 0; turn < 2; turn++) {
		found = 0;
		for (i = 0; i < 2000; i++)
			if (box_find(&b, i)) {
				assert_int_equal(box_get(&b, i, 20000), 0);
				found++;
			}
		assert_true(found > 200);
		box_close(&b);
		box_open(&b);
		used_is_exact(&b);
	}
	box_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(turnovers),
		cmocka_unit_test(hot_ones_stay),
		cmocka_unit_test(readmission_is_bounded),
		cmocka_unit_test(readers_are_waited_for),
		cmocka_unit_test(dropped_when_full),
		cmocka_unit_test(index_full),
		cmocka_unit_test(removed_stays_removed),
		cmocka_unit_test(removals_are_carried),
		cmocka_unit_test(discards),
		cmocka_unit_test(bad_records),
	};

	return cmocka_run_group_tests_name("segment store, eviction", tests, NULL, NULL);
}
