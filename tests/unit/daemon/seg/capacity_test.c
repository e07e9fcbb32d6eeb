/* capacity_test.c - ten full turnovers: never a byte beyond what was formatted, and what the device writes for what was admitted. */
#include "tests/unit/daemon/seg/world.h"

#define SEGMENT (8u << 20)
#define BYTES   (132u << 20)
#define BEHIND  (4u << 20) /* of the device, behind the store */

static uint64_t size_of(uint32_t key, uint64_t least, uint64_t most)
{
	return least + mix(key) % (most - least);
}

/* Writes ten times the capacity, reading some of it again; returns bytes written to the device per byte admitted, what was written again
 * left out and told by itself. */
static double turn_over(uint64_t least, uint64_t most, double readmit)
{
	struct disk_sim_conf dc = {
		.bytes = BYTES + BEHIND, .seed = least, .cache_bytes = 1 << 20, .write_ns = 10000, .flush_ns = 10000};
	struct seg_conf conf = {.max_objects = 1 << 16, .verify = true, .readmit = readmit, .discard = true};
	struct world *w = world_get();
	struct disk_sim_stats dev;
	uint64_t admitted = 0, dropped = 0;
	struct seg_stats st;
	uint32_t version;
	double again, ratio;

	w->rnd = most;
	w->ended = NULL;
	assert_int_equal(disk_sim_create(&dc, &w->sim), 0);
	world_names(w);
	world_format(w, BYTES, SEGMENT);
	memset(disk_sim_medium(w->sim) + BYTES, 0xc3, BEHIND);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	seg_stats(w->s, &st);
	for (uint32_t i = 0; admitted < 10 * st.capacity_bytes; i++) {
		int rc = world_write(w, i, 1, size_of(i, least, most));
		if (rc) {
			assert_int_equal(rc, -ENOSPC);
			dropped++;
			assert_true(dropped < 1000);
			seg_run(w->s, 10 * MS);
			continue;
		}
		admitted += size_of(i, least, most);
		if (i % 3 == 0) {
			rc = world_read(w, i > 20 ? i - (uint32_t)any_below(w, 20) : i, &version);
			assert_true(!rc || rc == -ENOENT);
		}
		if (i % 64 == 0) {
			struct seg_stats now;
			seg_stats(w->s, &now);
			assert_true(now.used_bytes <= now.capacity_bytes);
		}
	}
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	world_recount(w);
	seg_stats(w->s, &st);
	disk_sim_stats(w->sim, &dev);
	again = (double)st.readmitted_bytes / (double)admitted;
	ratio = (double)dev.written_bytes / (double)admitted - again;
	printf("# objects of %" PRIu64 " to %" PRIu64 " KiB: %" PRIu64 " MiB admitted into %" PRIu64 ", %" PRIu64
	       " segments freed, %" PRIu64 " writes dropped; device bytes per byte admitted %.4f, written again %.4f\n",
	       least >> 10, most >> 10, admitted >> 20, st.capacity_bytes >> 20, st.evicted_segments, dropped, ratio,
	       again);
	assert_true(dev.highest_byte <= BYTES);
	assert_true(st.evicted_segments >= 9 * (uint64_t)w->super.segments);
	for (uint32_t i = 0; i < BEHIND; i++)
		assert_int_equal(disk_sim_medium(w->sim)[BYTES + i], 0xc3);
	world_close(w, 1000);
	world_destroy(w);
	return ratio;
}

static void ten_turnovers(void **state)
{
	(void)state;
	assert_true(turn_over(128 << 10, 2000 << 10, 0) <= 1.10);
	assert_true(turn_over(128 << 10, 2000 << 10, 0.1) <= 1.10);
	assert_true(turn_over(48 << 10, 96 << 10, 0.1) <= 1.10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ten_turnovers),
	};
	int rc;

	world_seed = UINT64_MAX;
	log_set_level(LOG_LVL_ERROR + 1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	world_free();
	return rc;
}
