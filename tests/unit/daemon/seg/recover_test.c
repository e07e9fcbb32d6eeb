/* Recovery: everything that is whole is found, whatever lies around it; nothing that is stale, torn or foreign is. */
#include "tests/unit/daemon/seg/recover_fixture.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <cmocka.h>

#define MIB 1048576u

/* Keys from `first` on, of three names and mixed sizes, as long as they leave room for the summary. */
static uint64_t fill(struct rig *g, uint64_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t key = first + i, bytes = 1 + key * 7919 % 30000;

		if (g->im.at + format_record_bytes(bytes) + format_summary_need(g->im.summary) + FORMAT_BLOCK >
		    g->im.super.segment_bytes)
			return key;
		image_put(&g->im, (uint32_t)(key % 3), key, bytes, key);
	}
	return first + n;
}

static void recover(struct rig *g)
{
	struct why why = {0};

	if (rig_open(g, &why))
		fail_msg("%s", why.text);
	rig_load(g);
}

static void assert_keys(struct rig *g, uint64_t first, uint64_t last)
{
	for (uint64_t k = first; k < last; k++)
		if (!rig_has(g, (uint32_t)(k % 3), k, k))
			fail_msg("object %lu is missing or wrong", (unsigned long)k);
}

static void finds_all(void **state)
{
	(void)state;
	struct rig g;
	uint64_t key = 0;

	rig_start(&g, 24 * MIB, 2 * MIB);
	for (uint32_t id = 0; id < 5; id++) {
		image_open(&g.im, (id * 3) % 8); /* in no order of place */
		key = fill(&g, key, 1000);
		if (id < 4)
			image_seal(&g.im);
	}
	recover(&g);
	assert_int_equal(g.n, key);
	assert_keys(&g, 0, key);
	assert_int_equal(g.s.sequence, g.im.sequence);
	assert_true(g.s.generation > 5 + 1000); /* none is given out twice */
	assert_int_equal(g.s.n.recovered_objects, key);
	assert_int_equal(g.s.n.recovered_segments, 5);
	assert_int_equal(g.s.n.scanned_segments, 1);
	assert_int_equal(g.adopted, 1);
	assert_int_equal(g.adopted_segment, 4);
	assert_int_equal(g.adopted_end, g.im.at);
	assert_int_equal(g.adopted_records, format_summary_count(g.im.summary));
	uint32_t sealed = 0, is_free = 0;
	for (uint32_t id = 0; id < g.s.super.segments; id++) {
		sealed += g.s.segment[id].state == SEGMENT_SEALED;
		is_free += g.s.segment[id].state == SEGMENT_FREE;
	}
	assert_int_equal(sealed, 4);
	assert_int_equal(is_free, g.s.super.segments - 5);
	assert_null(g.s.recovery);
	rig_close(&g);
	rig_end(&g);
}

static void empty_store(void **state)
{
	(void)state;
	struct rig g;

	rig_start(&g, 8 * MIB, MIB);
	image_open(&g.im, 2); /* opened and nothing written: free again */
	recover(&g);
	assert_int_equal(g.n, 0);
	assert_int_equal(g.adopted, 0);
	for (uint32_t id = 0; id < 4; id++)
		assert_int_equal(g.s.segment[id].state, SEGMENT_FREE);
	assert_int_equal(g.s.segment[2].generation, 1);
	assert_true(g.s.generation > 1);
	rig_close(&g);
	rig_end(&g);
}

/* The newer record of a key counts wherever it lies: in an older segment too, since two are open at a time. */
static void highest_sequence_counts(void **state)
{
	(void)state;
	struct rig g;

	rig_start(&g, 16 * MIB, MIB);
	image_open(&g.im, 0);
	g.im.sequence = 100;
	image_put(&g.im, 0, 1, 5000, 11);
	image_put(&g.im, 0, 2, 5000, 21);
	image_seal(&g.im);
	image_open(&g.im, 1);
	g.im.sequence = 50;
	image_put(&g.im, 0, 1, 6000, 12);
	image_seal(&g.im);
	image_open(&g.im, 2);
	g.im.sequence = 200;
	image_put(&g.im, 0, 2, 7000, 22);
	image_put(&g.im, 0, 3, 7000, 31);
	image_put(&g.im, 0, 3, 7000, 32);
	recover(&g);
	assert_int_equal(g.n, 3);
	assert_true(rig_has(&g, 0, 1, 11) && rig_has(&g, 0, 2, 22) && rig_has(&g, 0, 3, 32));
	rig_close(&g);
	rig_end(&g);
}

static void removals(void **state)
{
	(void)state;
	struct rig g;

	rig_start(&g, 16 * MIB, MIB);
	image_open(&g.im, 0);
	for (uint64_t k = 0; k < 30; k++)
		image_put(&g.im, 1, k, 100, k);
	image_seal(&g.im);
	image_open(&g.im, 1);
	image_remove(&g.im, 1, 0, 9);    /* what an older segment has */
	image_put(&g.im, 1, 5, 100, 77); /* stored again */
	image_put(&g.im, 2, 40, 100, 40);
	image_remove(&g.im, 2, 40, 40); /* in the same segment */
	image_remove(&g.im, 0, 10, 12); /* the same hashes of another name */
	image_seal(&g.im);
	image_open(&g.im, 2);
	image_remove(&g.im, 1, 20, 29); /* in an open one, which is looked at last */
	image_put(&g.im, 1, 21, 100, 78);
	recover(&g);
	for (uint64_t k = 0; k < 30; k++)
		if (k == 5)
			assert_true(rig_has(&g, 1, 5, 77));
		else if (k == 21)
			assert_true(rig_has(&g, 1, 21, 78));
		else
			assert_int_equal(rig_has(&g, 1, k, k), k >= 10 && k < 20);
	assert_null(rig_find(&g, 2, 40));
	assert_int_equal(g.n, 12);
	assert_int_equal(g.adopted_records, 2);
	assert_int_equal(g.s.segment[1].removals, 3);
	assert_int_equal(g.s.segment[2].removals, 1);
	rig_close(&g);
	rig_end(&g);
}

/* More removal records than are read at a time. */
static void many_removals(void **state)
{
	(void)state;
	struct rig g;

	rig_start(&g, 64 * MIB, 8 * MIB);
	image_open(&g.im, 3);
	for (uint64_t k = 0; k < 400; k++)
		image_put(&g.im, 0, k, 10, k);
	image_seal(&g.im);
	image_open(&g.im, 1);
	for (uint64_t k = 0; k < 400; k += 2)
		image_remove(&g.im, 0, k, k);
	image_seal(&g.im);
	recover(&g);
	assert_int_equal(g.n, 200);
	for (uint64_t k = 0; k < 400; k++)
		assert_int_equal(rig_has(&g, 0, k, k), k % 2);
	rig_close(&g);
	rig_end(&g);
}

/* ---- damage ------------------------------------------------------------------------------------------------------- */

static void torn_records_hide_nothing(void **state)
{
	(void)state;
	struct rig g;
	uint64_t at[6];

	rig_start(&g, 32 * MIB, 4 * MIB);
	image_open(&g.im, 0);
	for (uint64_t k = 0; k < 6; k++)
		at[k] = image_put(&g.im, 0, k, k == 2 ? 2 * MIB + 12345 : 20000, k);
	uint8_t *segment = image_segment(&g.im, 0);
	segment[at[0] + 100] ^= 1;                                       /* header rotten */
	memset(segment + at[2] + FORMAT_BLOCK + MIB + 70000, 0, 100000); /* payload torn in its second sub-block */
	segment[at[4] + FORMAT_BLOCK + 19999] ^= 0x80;                   /* the very last byte */
	recover(&g);
	assert_int_equal(g.n, 3);
	assert_true(rig_has(&g, 0, 1, 1) && rig_has(&g, 0, 3, 3) && rig_has(&g, 0, 5, 5));
	assert_int_equal(g.adopted_records, 3);
	rig_close(&g);
	rig_end(&g);
}

/* Every block boundary as the place of a cut: what was whole before it is found, nothing else. */
static void cut_anywhere(void **state)
{
	(void)state;
	struct rig g;
	uint64_t end[20];

	rig_start(&g, 8 * MIB, MIB);
	image_open(&g.im, 0);
	for (uint64_t k = 0; k < 20; k++) {
		image_put(&g.im, 0, k, 3000 + k * 1500, k);
		end[k] = g.im.at;
	}
	uint8_t *segment = image_segment(&g.im, 0);
	for (uint64_t cut = g.im.at - 512; cut >= FORMAT_RECORDS; cut -= 512) {
		uint32_t whole = 0;

		memset(segment + cut, 0xee, 512);
		recover(&g);
		/* Padding behind a payload is of no account. */
		for (uint64_t k = 0; k < 20; k++)
			whole += end[k] <= cut || (rig_find(&g, 0, k) && rig_has(&g, 0, k, k));
		assert_int_equal(g.n, whole);
		rig_close(&g);
	}
	rig_end(&g);
}

static void stale_and_foreign_is_ignored(void **state)
{
	(void)state;
	struct rig g;
	uint64_t at;

	rig_start(&g, 16 * MIB, MIB);
	/* A segment used before: its old records lie behind the new one's, of another generation. */
	image_open(&g.im, 0);
	image_put(&g.im, 0, 1, 4000, 1);
	image_put(&g.im, 0, 2, 4000, 2);
	image_put(&g.im, 0, 3, 4000, 3);
	image_seal(&g.im);
	image_open(&g.im, 0); /* and its old seal and summary are still there */
	image_put(&g.im, 0, 4, 4000, 4);
	/* Of an older epoch: free, its generation counts. */
	g.im.super.epoch--;
	image_open(&g.im, 1);
	image_put(&g.im, 0, 5, 4000, 5);
	image_seal(&g.im);
	/* Of another store. */
	g.im.super.epoch++;
	g.im.super.uuid[3] ^= 1;
	g.im.generation = 1000;
	image_open(&g.im, 2);
	image_put(&g.im, 0, 6, 4000, 6);
	image_seal(&g.im);
	/* A record that landed elsewhere, header and all. */
	g.im.super.uuid[3] ^= 1;
	g.im.generation = 50;
	image_open(&g.im, 3);
	at = image_put(&g.im, 0, 7, 4000, 7);
	memcpy(image_segment(&g.im, 3) + at + 10 * FORMAT_BLOCK, image_segment(&g.im, 3) + at, 2 * FORMAT_BLOCK);
	memset(image_segment(&g.im, 3) + at, 0, FORMAT_BLOCK);
	/* A segment header that landed elsewhere. */
	image_open(&g.im, 5);
	image_put(&g.im, 0, 8, 4000, 8);
	memcpy(image_segment(&g.im, 6), image_segment(&g.im, 5), MIB);
	recover(&g);
	assert_int_equal(g.n, 2);
	assert_true(rig_has(&g, 0, 4, 4) && rig_has(&g, 0, 8, 8));
	assert_true(g.s.generation > 52 + 1000);
	assert_int_equal(g.s.segment[1].state, SEGMENT_FREE);
	assert_int_equal(g.s.segment[1].generation, 3);
	assert_int_equal(g.s.segment[2].state, SEGMENT_FREE);
	assert_int_equal(g.s.segment[2].generation, 0);
	assert_int_equal(g.s.segment[6].state, SEGMENT_FREE);
	rig_close(&g);
	rig_end(&g);
}

static void bad_summary_means_scan(void **state)
{
	(void)state;
	struct rig g;
	uint64_t key[4] = {0};

	rig_start(&g, 16 * MIB, MIB);
	for (uint32_t id = 0; id < 3; id++) {
		image_open(&g.im, id);
		key[id + 1] = fill(&g, key[id], 20);
		image_seal(&g.im);
	}
	image_segment(&g.im, 1)[MIB - 4096 + 77] ^= 4;
	recover(&g);
	assert_int_equal(g.n, key[3]);
	assert_keys(&g, 0, key[3]);
	assert_int_equal(g.s.n.scanned_segments, 1);
	assert_int_equal(g.adopted, 0);
	assert_int_equal(g.s.segment[1].state, SEGMENT_SEALED);
	rig_close(&g);
	rig_end(&g);
}

/* Entries of a summary whose checksum is right and whose contents lie. */
static void lying_summary(void **state)
{
	(void)state;
	static const struct {
		uint32_t at;
		uint64_t value;
	} lies[] = {{0, 9},  {4, 1},    {40, 4096},  {40, 8193}, {40, MIB}, {40, ~0ull << 12},
		    {48, 0}, {48, MIB}, {48, ~0ull}, {56, ~0ull}};
	struct rig g;

	rig_start(&g, 8 * MIB, MIB);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct format_seal seal;
		uint8_t *segment = image_segment(&g.im, 0), *entry = segment + MIB - FORMAT_BLOCK + FORMAT_ENTRY;

		image_open(&g.im, 0);
		image_put(&g.im, 0, 1, 1000, 1);
		image_put(&g.im, 0, 2, 1000, 2);
		image_seal(&g.im);
		for (unsigned b = 0; b < (lies[i].at < 8 ? 4 : 8); b++)
			entry[lies[i].at + b] = (uint8_t)(lies[i].value >> 8 * b);
		assert_int_equal(format_seal_decode(segment + FORMAT_BLOCK, &seal), 0);
		seal.summary_crc = crc32c(0, segment + seal.summary_at, seal.summary_bytes);
		format_seal_encode(&seal, segment + FORMAT_BLOCK);
		recover(&g);
		assert_int_equal(g.n, 1);
		assert_true(rig_has(&g, 0, 2, 2));
		rig_close(&g);
	}
	rig_end(&g);
}

static void read_errors(void **state)
{
	(void)state;
	struct rig g;
	uint64_t key = 0, most = 0;

	rig_start(&g, 32 * MIB, 2 * MIB);
	for (uint32_t id = 0; id < 10; id++) {
		image_open(&g.im, id);
		key = fill(&g, key, 60);
		if (id % 3)
			image_seal(&g.im);
	}
	for (int i = 0; i < 30; i++) {
		const struct disk_sim_faults faults = {.read_error = i % 3 ? 0.3 : 0.01, .rot_read = i % 2 ? 0.1 : 0};
		struct why why = {0};

		disk_sim_faults(g.sim, &faults);
		if (rig_open(&g, &why) == 0) {
			rig_load(&g);
			disk_sim_faults(g.sim, NULL);
			for (uint32_t k = 0; k < g.n; k++) {
				const struct listed *l = &g.list[k];

				assert_true(l->crc == crc32c(0, g.im.m + l->offset + FORMAT_BLOCK, l->bytes));
			}
			most = g.n > most ? g.n : most;
		}
		rig_close(&g);
	}
	assert_true(most > key / 2);
	rig_end(&g);
}

/* ---- limits ------------------------------------------------------------------------------------------------------------- */

static void no_memory(void **state)
{
	(void)state;
	struct rig g;
	struct why why = {0};
	int rc = -ENOMEM;
	uint64_t n = 0;

	rig_start(&g, 16 * MIB, MIB);
	image_open(&g.im, 0);
	fill(&g, 0, 10);
	struct disk_conf conf = {.write = true};
	assert_int_equal(seg_names_create(&g.names), 0);
	for (n = 1; rc == -ENOMEM; n++) {
		memset(&g.s, 0, sizeof(g.s));
		assert_int_equal(disk_sim_open(g.sim, &conf, &g.s.disk, &why), 0);
		lk_init(&g.s.lk, LK_SEG);
		g.s.names = g.names;
		g.s.conf = (struct seg_conf){.disk = g.s.disk, .memory = g.memory, .names = g.names};
		mem_fail_at(n);
		rc = recover_open(&g.s, &why);
		mem_fail_at(0);
		if (rc) {
			disk_close(g.s.disk, 0);
			recover_destroy(g.s.recovery);
			mem_free(g.s.segment);
			lk_destroy(&g.s.lk);
		}
	}
	assert_int_equal(rc, 0);
	assert_true(n > 5);
	/* Without memory for its summary an open segment is served, and not sealed. */
	assert_int_equal(recover_start(&g.s), 0);
	mem_fail_at(1);
	while (!recover_step(&g.s))
		disk_run(g.s.disk, 1000000);
	mem_fail_at(0);
	assert_int_equal(g.adopted, 0);
	assert_int_equal(g.n, 10);
	assert_int_equal(g.s.segment[0].state, SEGMENT_SEALED);
	rig_close(&g);
	rig_end(&g);
}

/* More segments than headers are read at a time, more open ones than are adopted, and summaries that go round the ring. */
static void many_segments(void **state)
{
	(void)state;
	struct rig g;
	uint64_t key = 0;

	rig_start(&g, 96 * MIB, 64u << 10);
	assert_true(g.im.super.segments > HEADERS * 2);
	for (uint32_t id = 0; id < g.im.super.segments; id++) {
		image_open(&g.im, id);
		key = fill(&g, key, 2);
		if (id % 10)
			image_seal(&g.im);
	}
	recover(&g);
	assert_int_equal(g.n, key);
	assert_int_equal(g.adopted, ADOPTED_MAX);
	assert_int_equal(g.s.n.recovered_segments, g.im.super.segments);
	rig_close(&g);
	rig_end(&g);
}

/* Removals beyond what is kept in mind are counted, not followed; below that none is lost. */
static void removals_in_mind(void **state)
{
	(void)state;
	struct removed t = {0};
	const uint8_t name[SEG_DIGEST] = {1}, other[SEG_DIGEST] = {2};

	for (uint64_t k = 0; k < REMOVED_MAX; k++) {
		struct store_hash h = image_hash(k);

		removed_add(&t, name, &h, k + 10, 0);
	}
	assert_true(t.dropped > 0 && t.n == REMOVED_MAX - t.dropped && t.n >= REMOVED_MAX / 2);
	for (uint64_t k = 0; k < t.n; k++) {
		struct store_hash h = image_hash(k);

		assert_true(removed_after(&t, name, &h, k + 9) && !removed_after(&t, name, &h, k + 10) &&
			    !removed_after(&t, other, &h, 0));
	}
	removed_free(&t);
	mem_fail_at(1);
	struct store_hash h = image_hash(1);
	removed_add(&t, name, &h, 1, 0);
	mem_fail_at(0);
	assert_int_equal(t.dropped, 1);
	assert_false(removed_after(&t, name, &h, 0));
	removed_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_all),
		cmocka_unit_test(empty_store),
		cmocka_unit_test(highest_sequence_counts),
		cmocka_unit_test(removals),
		cmocka_unit_test(many_removals),
		cmocka_unit_test(torn_records_hide_nothing),
		cmocka_unit_test(cut_anywhere),
		cmocka_unit_test(stale_and_foreign_is_ignored),
		cmocka_unit_test(bad_summary_means_scan),
		cmocka_unit_test(lying_summary),
		cmocka_unit_test(read_errors),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(many_segments),
		cmocka_unit_test(removals_in_mind),
	};
	log_set_level(LOG_LVL_ERROR);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
