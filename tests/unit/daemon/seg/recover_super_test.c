/* Superblocks at the start of a store: which copy counts, which are written again, and what is refused. */
#include "tests/unit/daemon/seg/recover_fixture.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#define MIB 1048576u

static void expect_epoch(struct rig *g, uint64_t epoch)
{
	struct why why = {0};
	struct format_super s;

	if (rig_open(g, &why))
		fail_msg("%s", why.text);
	assert_int_equal(g->s.super.epoch, epoch);
	rig_load(g);
	rig_close(g);
	/* All four say so now. */
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
		assert_int_equal(format_super_decode(g->im.m + format_super_at(&g->im.super, c), c, &s), 0);
		assert_int_equal(s.epoch, epoch);
	}
}

static void write_copies(struct rig *g, const int epochs[4])
{
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
		struct format_super s = g->im.super;
		uint8_t *at = g->im.m + format_super_at(&s, c);

		s.epoch = (uint64_t)epochs[c];
		format_super_encode(&s, c, at);
		if (epochs[c] == 0)
			memset(at, 0xff, 100);
	}
}

static void superblocks(void **state)
{
	(void)state;
	static const struct {
		int epochs[4], expected; /* 0: damaged */
	} cases[] = {
		{{5, 5, 5, 5}, 5}, {{0, 5, 5, 5}, 5}, {{0, 0, 5, 5}, 5}, {{0, 0, 0, 5}, 5}, {{0, 0, 5, 0}, 5},
		{{5, 0, 0, 0}, 5}, {{0, 5, 0, 0}, 5}, {{6, 5, 5, 5}, 5}, {{6, 6, 5, 5}, 6}, {{6, 0, 5, 5}, 5},
		{{6, 0, 0, 5}, 6}, {{6, 7, 8, 9}, 9}, {{5, 5, 0, 9}, 5}, {{4, 4, 5, 5}, 5}, {{0, 6, 0, 5}, 6},
	};
	struct rig g;

	/* 1 MiB: a power of two, so that copy 2 can be found alone; and one that is none, where copy 3 leads to it. */
	for (uint32_t kib = 1024; kib <= 1300; kib += 276) {
		rig_start(&g, 16 * MIB, (uint64_t)kib << 10);
		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			bool lone_copy_2 =
				cases[i].epochs[2] && !cases[i].epochs[0] && !cases[i].epochs[1] && !cases[i].epochs[3];

			if (kib != 1024 && lone_copy_2)
				continue;
			write_copies(&g, cases[i].epochs);
			expect_epoch(&g, (uint64_t)cases[i].expected);
		}
		rig_end(&g);
	}
}

static void refused(void **state)
{
	(void)state;
	struct rig g;
	struct why why = {0};
	static const int none[4] = {0};

	rig_start(&g, 8 * MIB, MIB);
	write_copies(&g, none);
	assert_int_equal(rig_open(&g, &why), -ENOENT);
	assert_non_null(strstr(why.text, "l2 format"));
	rig_close(&g);
	/* Another version: whole, and not ours to read. */
	image_supers(&g.im);
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
		uint8_t *b = g.im.m + format_super_at(&g.im.super, c);
		b[8] = 2;
		uint32_t crc = crc32c(0, b, 4092);
		memcpy(b + 4092, &crc, 4);
	}
	assert_int_equal(rig_open(&g, &why), -EPROTONOSUPPORT);
	rig_close(&g);
	/* A store larger than the device: it was cut. */
	struct format_super big = g.im.super;
	assert_int_equal(format_geometry(16 * MIB, MIB, &big), 0);
	memcpy(big.uuid, g.im.super.uuid, 16);
	for (uint32_t c = 0; c < 2; c++)
		format_super_encode(&big, c, g.im.m + format_super_at(&big, c));
	assert_int_equal(rig_open(&g, &why), -EIO);
	rig_close(&g);
	/* A device that is gone, and one that hangs: an answer, not a wait for ever. */
	image_supers(&g.im);
	struct disk_sim_faults faults = {.gone = true};
	disk_sim_faults(g.sim, &faults);
	assert_int_equal(rig_open(&g, &why), -EIO);
	rig_close(&g);
	faults = (struct disk_sim_faults){.hang = 1};
	disk_sim_faults(g.sim, &faults);
	assert_int_equal(rig_open(&g, &why), -ETIMEDOUT);
	rig_close(&g);
	rig_end(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(superblocks),
		cmocka_unit_test(refused),
	};
	log_set_level(LOG_LVL_ERROR);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
