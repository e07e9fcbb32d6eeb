/* store_test.c - a segment store in operation: what is written is read, by size, by key, after removal, clear and restart. */
#include "tests/unit/daemon/seg/box.h"

#include "daemon/base/mem.h"

static const uint64_t sizes[] = {1,        4095,           4096,    4097,    65536, (1u << 20) - 1,
				 1u << 20, (1u << 20) + 1, 3333333, 5u << 20};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void round_trip(void **state)
{
	struct box b;

	(void)state;
	box_start(&b, 8, 16 << 20);
	for (uint32_t i = 0; i < SIZES; i++)
		assert_int_equal(box_put(&b, i, sizes[i]), 0);
	for (uint32_t turn = 0; turn < 2; turn++) {
		for (uint32_t i = 0; i < SIZES; i++) {
			assert_int_equal(box_find(&b, i), sizes[i]);
			assert_int_equal(box_get(&b, i, sizes[i]), 0);
			assert_int_equal(box_get(&b, i, sizes[i] + 1), -EMSGSIZE);
			assert_int_equal(box_put(&b, i, sizes[i]), -EEXIST);
		}
		assert_int_equal(box_get(&b, 99, 4096), -ENOENT);
		assert_int_equal(box_find(&b, 99), 0);
		assert_int_equal(box_stats(&b).objects, SIZES);
		box_close(&b);
		box_open(&b);
	}
	box_end(&b);
}

static void refused(void **state)
{
	struct box b;
	struct work *w;

	(void)state;
	box_start(&b, 4, 1 << 20);
	assert_int_equal(box_put(&b, 1, 1 << 20), -EFBIG);
	assert_int_equal(box_put(&b, 1, (1 << 20) - 8 * 4096), 0);
	w = work_new(&b, SEG_WRITE, 2, 5000);
	w->op.bytes = 0;
	seg_submit(b.s, &w->op);
	assert_false(w->done); /* never inside seg_submit */
	work_wait(&b, w);
	assert_int_equal(work_end(w), -EINVAL);
	w = work_new(&b, SEG_WRITE, 2, 5000);
	w->op.key.name = 0;
	seg_submit(b.s, &w->op);
	work_wait(&b, w);
	assert_int_equal(work_end(w), -EINVAL);
	box_end(&b);
}

/* The caller's checksums are taken as they are: wrong ones are found out by the first read. */
static void given_sums(void **state)
{
	struct box b;
	struct work *w;

	(void)state;
	box_start(&b, 4, 4 << 20);
	w = work_new(&b, SEG_WRITE, 1, 2500000);
	crc32c_blocks(w->op.mem, w->op.bytes, w->sums);
	seg_submit(b.s, &w->op);
	work_wait(&b, w);
	assert_int_equal(work_end(w), 0);
	assert_int_equal(box_get(&b, 1, 2500000), 0);
	w = work_new(&b, SEG_WRITE, 2, 70000);
	w->sums[0] = 1;
	seg_submit(b.s, &w->op);
	work_wait(&b, w);
	assert_int_equal(work_end(w), 0);
	assert_int_equal(box_get(&b, 2, 70000), -EILSEQ);
	assert_int_equal(box_get(&b, 2, 70000), -ENOENT);
	box_end(&b);
}

/* Many at once, with two writes of each key: one is stored, the other told so. */
static void at_once(void **state)
{
	struct box b;
	struct work *w[600];
	uint32_t there = 0;

	(void)state;
	box_start(&b, 16, 4 << 20);
	for (uint32_t i = 0; i < 600; i++)
		w[i] = work_start(&b, SEG_WRITE, i / 2, 1000 + i / 2 * 100);
	for (uint32_t i = 0; i < 600; i++) {
		work_wait(&b, w[i]);
		int rc = work_end(w[i]);
		assert_true(rc == 0 || rc == -EEXIST);
		there += rc == -EEXIST;
	}
	assert_int_equal(there, 300);
	assert_int_equal(box_stats(&b).present, 300);
	seg_check(b.s);
	for (uint32_t i = 0; i < 600; i++)
		w[i] = work_start(&b, SEG_READ, i / 2, 1000 + i / 2 * 100);
	for (uint32_t i = 0; i < 600; i++) {
		work_wait(&b, w[i]);
		assert_int_equal(work_end(w[i]), 0);
	}
	box_end(&b);
}

static void removal(void **state)
{
	struct box b;
	struct work *w[200], *r[200];

	(void)state;
	box_start(&b, 8, 4 << 20);
	assert_int_equal(box_remove(&b, 1), -ENOENT);
	for (uint32_t i = 0; i < 200; i++)
		assert_int_equal(box_put(&b, i, 5000), 0);
	for (uint32_t i = 0; i < 200; i += 2)
		r[i] = work_start(&b, SEG_REMOVE, i, 0);
	for (uint32_t i = 0; i < 200; i += 2) {
		work_wait(&b, r[i]);
		assert_int_equal(work_end(r[i]), 0);
	}
	assert_int_equal(box_remove(&b, 0), -ENOENT);
	assert_int_equal(box_put(&b, 0, 7000), 0); /* again, another size */
	for (uint32_t turn = 0; turn < 3; turn++) {
		assert_int_equal(box_stats(&b).objects, 101);
		for (uint32_t i = 1; i < 200; i++)
			assert_int_equal(box_find(&b, i), i % 2 ? 5000 : 0);
		assert_int_equal(box_get(&b, 0, 7000), 0);
		box_close(&b);
		box_open(&b);
	}
	/* A removal overtakes a write that is under way. */
	w[0] = work_start(&b, SEG_WRITE, 500, 50000);
	r[0] = work_start(&b, SEG_REMOVE, 500, 0);
	work_wait(&b, w[0]);
	work_wait(&b, r[0]);
	assert_int_equal(work_end(w[0]), 0);
	assert_int_equal(work_end(r[0]), 0);
	assert_int_equal(box_find(&b, 500), 0);
	seg_check(b.s);
	box_close(&b);
	box_open(&b);
	assert_int_equal(box_find(&b, 500), 0);
	box_end(&b);
}

static void clear(void **state)
{
	struct box b;
	uint64_t epoch;

	(void)state;
	box_start(&b, 8, 1 << 20);
	epoch = b.s->super.epoch;
	for (uint32_t turn = 0; turn < 5; turn++) {
		struct work *w[40], *c;

		for (uint32_t i = 0; i < 20; i++)
			w[i] = work_start(&b, SEG_WRITE, i, 100000);
		c = work_start(&b, SEG_CLEAR, 0, 0);
		for (uint32_t i = 20; i < 40; i++)
			w[i] = work_start(&b, SEG_WRITE, i, 100000);
		work_wait(&b, c);
		assert_int_equal(work_end(c), 0);
		for (uint32_t i = 0; i < 40; i++) {
			work_wait(&b, w[i]);
			assert_int_equal(work_end(w[i]), 0);
			assert_int_equal(box_find(&b, i), i < 20 ? 0 : 100000);
		}
		assert_int_equal(b.s->super.epoch, epoch + turn + 1);
		seg_check(b.s);
		box_close(&b);
		box_open(&b);
		assert_int_equal(b.s->super.epoch, epoch + turn + 1);
		assert_int_equal(box_stats(&b).objects, 20);
		for (uint32_t i = 20; i < 40; i++)
			assert_int_equal(box_get(&b, i, 100000), 0);
		assert_int_equal(box_clear(&b), 0);
		epoch++;
	}
	box_end(&b);
}

static void listing(void **state)
{
	struct box b;
	struct seg_key keys[7];
	uint64_t bytes[7], cursor = 0, sum = 0;
	uint32_t n, all = 0;

	(void)state;
	box_start(&b, 8, 4 << 20);
	for (uint32_t i = 0; i < 500; i++)
		assert_int_equal(box_put(&b, i, i + 1), 0);
	for (uint32_t i = 0; i < 500; i += 5)
		assert_int_equal(box_remove(&b, i), 0);
	do {
		n = seg_list(b.s, &cursor, keys, bytes, 7);
		for (uint32_t i = 0; i < n; i++)
			sum += bytes[i];
		all += n;
		if (all == 70)
			assert_int_equal(box_put(&b, 1000, 1), 0);
	} while (cursor);
	assert_true(all == 400 || (all == 401 && sum--));
	assert_int_equal(sum, 500 * 501 / 2 - 100 * (1 + 496) / 2);
	box_end(&b);
}

/* What waits while recovery goes on is done after it. */
static void early(void **state)
{
	struct box b;
	struct work *w, *f, *r;

	(void)state;
	box_start(&b, 8, 1 << 20);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(box_put(&b, i, 200000), 0);
	box_close(&b);
	assert_int_equal(box_try_open(&b), 0);
	assert_false(seg_recovered(b.s));
	w = work_start(&b, SEG_WRITE, 77, 1234);
	f = work_start(&b, SEG_FLUSH, 0, 0);
	r = work_start(&b, SEG_READ, 88, 1234);
	assert_int_equal(box_stats(&b).queued, 1);
	work_wait(&b, w);
	work_wait(&b, f);
	work_wait(&b, r);
	assert_true(seg_recovered(b.s));
	assert_int_equal(work_end(w), 0);
	assert_int_equal(work_end(f), 0);
	assert_int_equal(work_end(r), -ENOENT);
	assert_int_equal(box_get(&b, 77, 1234), 0);
	box_end(&b);
}

/* An owner that has nothing else to do waits long in each turn; recovery must not sleep through that, neither between summaries nor at the
 * end of a segment that is read whole. */
static void recovery_never_sleeps(void **state)
{
	struct box b;
	uint64_t begin;

	(void)state;
	/* All that is asked for is there at the same moment: several turns of work, and nothing left to wait for. */
	struct disk_sim_conf sim = {
		.bytes = 140 << 20, .seed = 1, .read_ns = 80000, .write_ns = 1000, .bytes_per_ns = 1000000};
	box_make(&b, &sim, 32 << 20);
	box_open(&b);
	for (uint32_t i = 0; i < 1500; i++)
		assert_int_equal(box_put(&b, i, 8000), 0);
	assert_int_equal(box_flush(&b), 0);
	disk_sim_kill(b.sim);
	assert_int_equal(seg_close(b.s, 0), 0);
	for (int life = 0; life < 2; life++) { /* with open segments, and without */
		assert_int_equal(box_try_open(&b), 0);
		begin = disk_now(b.conf.disk);
		while (!seg_recovered(b.s))
			seg_run(b.s, 1000000000);
		assert_true(disk_now(b.conf.disk) - begin < 100000000);
		assert_int_equal(box_stats(&b).objects, 1500);
		assert_int_equal(box_stats(&b).scanned_segments != 0, life == 0);
		box_close(&b);
	}
	box_end(&b);
}

static void close_at_once(void **state)
{
	struct box b;
	struct work *w[50];
	uint32_t stored = 0, canceled = 0;

	(void)state;
	box_start(&b, 8, 4 << 20);
	for (uint32_t i = 0; i < 50; i++)
		w[i] = work_start(&b, i % 10 ? SEG_WRITE : SEG_FLUSH, i, i % 10 ? 300000 : 0);
	seg_close(b.s, 0);
	b.s = NULL;
	for (uint32_t i = 0; i < 50; i++) {
		assert_true(w[i]->done);
		assert_true(w[i]->op.result == 0 || w[i]->op.result == -ECANCELED);
		canceled += work_end(w[i]) != 0;
	}
	assert_true(canceled > 0);
	box_open(&b);
	for (uint32_t i = 0; i < 50; i++)
		w[i] = work_start(&b, SEG_WRITE, 100 + i, 100000);
	assert_int_equal(seg_close(b.s, 1000), 0);
	b.s = NULL;
	for (uint32_t i = 0; i < 50; i++)
		stored += work_end(w[i]) == 0;
	assert_int_equal(stored, 50);
	box_open(&b);
	assert_int_equal(box_stats(&b).objects, 50);
	box_end(&b);
}

static void no_memory(void **state)
{
	struct box b;
	int rc;

	(void)state;
	box_start(&b, 16, 1 << 20);
	assert_int_equal(box_put(&b, 1, 5000), 0);
	box_close(&b);
	for (uint64_t n = 1;; n++) {
		mem_fail_at(n);
		rc = box_try_open(&b);
		mem_fail_at(0);
		if (!rc)
			break;
		assert_int_equal(rc, -ENOMEM);
		assert_true(n < 1000);
	}
	seg_close(b.s, 0);
	/* A turn that lacks memory for a summary leaves the segment unsealed, no more. */
	for (uint64_t n = 1; n < 10; n++) {
		assert_int_equal(box_try_open(&b), 0);
		mem_fail_at(n);
		for (uint32_t i = 0; i < 1000 && !seg_recovered(b.s); i++)
			seg_run(b.s, 1000000);
		mem_fail_at(0);
		assert_true(seg_recovered(b.s));
		assert_int_equal(box_get(&b, 1, 5000), 0);
		assert_int_equal(box_put(&b, 100 + n, 5000), 0);
		box_close(&b);
	}
	box_end(&b);
}

/* Operations and their IO are where they are: nothing is allocated for them. */
static void no_allocation(void **state)
{
	struct box b;
	struct work *w[100];
	uint64_t before;

	(void)state;
	box_start(&b, 8, 1 << 20);
	for (uint32_t i = 0; i < 100; i++)
		w[i] = work_new(&b, SEG_WRITE, i, 100000); /* more than fits: eviction runs, too */
	before = mem_thread_allocs();
	for (uint32_t i = 0; i < 100; i++) {
		seg_submit(b.s, &w[i]->op);
		work_wait(&b, w[i]);
		assert_int_equal(w[i]->op.result, 0);
	}
	assert_int_equal(mem_thread_allocs(), before);
	assert_true(box_stats(&b).evicted_segments > 0);
	for (uint32_t i = 0; i < 100; i++)
		work_end(w[i]);
	box_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(refused),       cmocka_unit_test(given_sums),
		cmocka_unit_test(at_once),    cmocka_unit_test(removal),       cmocka_unit_test(clear),
		cmocka_unit_test(listing),    cmocka_unit_test(early),         cmocka_unit_test(close_at_once),
		cmocka_unit_test(no_memory),  cmocka_unit_test(no_allocation), cmocka_unit_test(recovery_never_sleeps),
	};

	return cmocka_run_group_tests_name("segment store", tests, NULL, NULL);
}
