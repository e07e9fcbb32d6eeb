/* sim_faults_test.c - each fault of the simulated disk happens, is counted and does what it says. */
#include "tests/unit/transport/disk/sim_fixture.h"

struct strike {
	const char *what;
	struct disk_sim_faults faults;
	enum disk_sim_fault index;
	enum disk_op op;
	int result;
	bool damaged;
};

/* Probability 1: it happens at once; the counter moves by one; other operations are spared. */
static void each_fault_strikes(void **state)
{
	static const struct strike all[] = {
		{"read error", {.read_error = 1}, SIM_READ_ERROR, DISK_READ, -EIO, false},
		{"write error", {.write_error = 1}, SIM_WRITE_ERROR, DISK_WRITE, -EIO, true},
		{"flush error", {.flush_error = 1}, SIM_FLUSH_ERROR, DISK_FLUSH, -EIO, false},
		{"rot read", {.rot_read = 1}, SIM_ROT_READ, DISK_READ, 8 * BLOCK, false},
		{"rot write", {.rot_write = 1}, SIM_ROT_WRITE, DISK_WRITE, 8 * BLOCK, true},
		{"dropped", {.dropped = 1}, SIM_DROPPED, DISK_WRITE, 8 * BLOCK, true},
		{"misdirected", {.misdirected = 1}, SIM_MISDIRECTED, DISK_WRITE, 8 * BLOCK, true},
		{"torn", {.torn = 1}, SIM_TORN, DISK_WRITE, 8 * BLOCK, true},
		{"again", {.again = 1}, SIM_AGAIN, DISK_READ, -EAGAIN, false},
		{"gone", {.gone = true}, SIM_GONE, DISK_FLUSH, -ENODEV, false},
		{"lying flush", {.lying_flush = true}, SIM_LYING_FLUSH, DISK_FLUSH, 0, false},
	};
	uint8_t *a = page(8), *b = page(8);

	(void)state;
	for (uint32_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		const struct strike *t = &all[i];
		struct disk_sim *s = sim(40 + i, true);
		memset(a, 1, 8 * BLOCK);
		one(s, DISK_WRITE, 32, 8, a);
		memset(a, 2, 8 * BLOCK);
		disk_sim_faults(s, &t->faults);
		assert_int_equal(one(s, t->op, 32, 8, t->op == DISK_READ ? b : a), t->result);
		disk_sim_faults(s, NULL);
		for (uint32_t f = 0; f < SIM_FAULTS; f++)
			assert_int_equal(stats(s).injected[f], f == (uint32_t)t->index);
		assert_int_equal(disk_sim_damaged(s, 32 * BLOCK, 8 * BLOCK), t->damaged);
		assert_false(disk_sim_damaged(s, 1000 * BLOCK, 8 * BLOCK) && t->index != SIM_MISDIRECTED);
		if (t->damaged) /* a good write heals */
			one(s, DISK_WRITE, 32, 8, a);
		assert_false(disk_sim_damaged(s, 32 * BLOCK, 8 * BLOCK));
		end(s);
	}
	free(a);
	free(b);
}

static uint32_t differing_bits(const uint8_t *a, const uint8_t *b, uint32_t bytes)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < bytes; i++)
		n += (uint32_t)__builtin_popcount(a[i] ^ b[i]);
	return n;
}

static void rot_is_one_bit(void **state)
{
	struct disk_sim *s = sim(6, true);
	uint8_t *a = page(8), *b = page(8);

	(void)state;
	memset(a, 0x5a, 8 * BLOCK);
	disk_sim_faults(s, &(struct disk_sim_faults){.rot_write = 1});
	one(s, DISK_WRITE, 3, 8, a);
	assert_int_equal(differing_bits(a, disk_sim_medium(s) + 3 * BLOCK, 8 * BLOCK), 1);
	disk_sim_faults(s, NULL);
	one(s, DISK_WRITE, 3, 8, a);
	assert_memory_equal(a, disk_sim_medium(s) + 3 * BLOCK, 8 * BLOCK);
	disk_sim_faults(s, &(struct disk_sim_faults){.rot_read = 1});
	one(s, DISK_READ, 3, 8, b);
	assert_int_equal(differing_bits(a, b, 8 * BLOCK), 1);
	assert_memory_equal(a, disk_sim_medium(s) + 3 * BLOCK, 8 * BLOCK);
	free(a);
	free(b);
	end(s);
}

/* Where the acknowledged data is: nowhere, elsewhere, or in part. */
static void lost_and_misplaced_writes(void **state)
{
	uint8_t *a = page(8), *zero = page(8);
	uint32_t elsewhere = 0, torn = 0;

	(void)state;
	memset(a, 0xa5, 8 * BLOCK);
	memset(zero, 0, 8 * BLOCK);
	for (uint64_t seed = 0; seed < 50; seed++) {
		struct disk_sim *s = sim(seed, true);
		uint32_t n = 0;
		disk_sim_faults(s, &(struct disk_sim_faults){.dropped = 1});
		one(s, DISK_WRITE, 3, 8, a);
		assert_memory_equal(disk_sim_medium(s) + 3 * BLOCK, zero, 8 * BLOCK);
		disk_sim_faults(s, &(struct disk_sim_faults){.misdirected = 1});
		one(s, DISK_WRITE, 3, 8, a);
		for (uint32_t i = 0; i < BLOCKS; i++) {
			bool here = disk_sim_medium(s)[i * BLOCK] == 0xa5;
			n += here;
			assert_true(!here || disk_sim_damaged(s, i * BLOCK, BLOCK));
			elsewhere += here && (i < 3 || i >= 11);
		}
		assert_int_equal(n, 8);
		disk_sim_faults(s, &(struct disk_sim_faults){.torn = 1});
		memset(disk_sim_medium(s), 0, BYTES);
		one(s, DISK_WRITE, 3, 8, a);
		n = 0;
		for (uint32_t i = 0; i < 64; i++)
			n += disk_sim_medium(s)[3 * BLOCK + i * 512] == 0xa5;
		torn += n && n < 64;
		end(s);
	}
	assert_true(elsewhere > 300 && torn > 25);
	free(a);
	free(zero);
}

static void hang_and_release(void **state)
{
	struct disk_sim *s = sim(8, true);
	uint8_t *a = page(8);
	struct disk_sub w, r;

	(void)state;
	memset(a, 4, 8 * BLOCK);
	disk_sim_faults(s, &(struct disk_sim_faults){.hang = 1});
	send(s, &w, DISK_WRITE, 3, 8, a);
	disk_sim_faults(s, NULL);
	send(s, &r, DISK_READ, 64, 1, page(1));
	assert_int_equal(drain(s), 1); /* the other one is served */
	assert_int_equal(r.result, BLOCK);
	assert_int_equal(stats(s).hung, 1);
	assert_int_equal(stats(s).injected[SIM_HANG], 1);
	assert_int_equal(disk_sim_medium(s)[3 * BLOCK], 0);
	disk_sim_release(s);
	assert_int_equal(drain(s), 1);
	assert_int_equal(w.result, 8 * BLOCK);
	assert_int_equal(disk_sim_medium(s)[3 * BLOCK], 4);
	/* A crash overtakes what hangs. */
	disk_sim_faults(s, &(struct disk_sim_faults){.hang = 1});
	send(s, &w, DISK_WRITE, 3, 8, a);
	disk_sim_crash(s);
	assert_int_equal(drain(s), 1);
	assert_int_equal(w.result, -ENODEV);
	free(r.buf);
	free(a);
	end(s);
}

static void short_io_does_a_part(void **state)
{
	struct disk_sim *s = sim(8, true);
	uint8_t *a = page(8);
	int n;

	(void)state;
	memset(a, 4, 8 * BLOCK);
	disk_sim_faults(s, &(struct disk_sim_faults){.short_io = 1});
	n = one(s, DISK_WRITE, 3, 8, a);
	assert_in_range(n, BLOCK, 7 * BLOCK);
	assert_int_equal(n % BLOCK, 0);
	assert_int_equal(disk_sim_medium(s)[3 * BLOCK + n - 1], 4);
	assert_int_equal(disk_sim_medium(s)[3 * BLOCK + n], 0);
	assert_false(disk_sim_damaged(s, 3 * BLOCK, 8 * BLOCK));
	assert_int_equal(one(s, DISK_WRITE, 3, 1, a), BLOCK); /* one block is never short */
	free(a);
	end(s);
}

/* A flush that lies: acknowledged, and the data may still go. */
static void lying_flush_protects_nothing(void **state)
{
	uint8_t *a = page(1);
	uint32_t lost = 0;

	(void)state;
	memset(a, 9, BLOCK);
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct disk_sim *s = sim(seed, true);
		disk_sim_faults(s, &(struct disk_sim_faults){.lying_flush = true});
		one(s, DISK_WRITE, 1, 1, a);
		assert_int_equal(one(s, DISK_FLUSH, 0, 0, NULL), 0);
		disk_sim_crash(s);
		lost += disk_sim_medium(s)[BLOCK] != 9;
		end(s);
	}
	assert_in_range(lost, 20, 90);
	free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_fault_strikes),        cmocka_unit_test(rot_is_one_bit),
		cmocka_unit_test(lost_and_misplaced_writes), cmocka_unit_test(hang_and_release),
		cmocka_unit_test(short_io_does_a_part),      cmocka_unit_test(lying_flush_protects_nothing),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
