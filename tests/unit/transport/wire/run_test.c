/* mp_u32_run against the plain loop: widths, lengths, ends of the buffer, forms off the fast path. */
#include "tests/unit/transport/wire/golden.h"

static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 32);
}

/* A value of a width chosen at random, so that all four forms alternate. */
static uint32_t mixed(uint64_t *state)
{
	uint32_t shift = next_random(state) % 32;

	return next_random(state) >> shift;
}

/* Writes v in one of the forms that can hold it; `form` 0 = the compact one. */
static void put_form(struct mp_out *out, uint32_t v, unsigned form)
{
	static const uint8_t first[] = {0, 0xce, 0xcf, 0xd3, 0xd2, 0xcd, 0xd1};
	static const unsigned width[] = {0, 4, 8, 8, 4, 2, 2};
	uint8_t raw[9] = {first[form]};

	if (form == 0 || (form == 4 && v > INT32_MAX) || (form >= 5 && v > INT16_MAX)) {
		mp_put_uint(out, v);
		return;
	}
	for (unsigned i = 0; i < width[form]; i++)
		raw[1 + i] = (uint8_t)((uint64_t)v >> (8 * (width[form] - 1 - i)));
	mp_put_raw(out, slice_of(raw, 1 + width[form]));
}

static void check_run(const uint32_t *want, uint32_t n, struct slice s, size_t behind)
{
	struct mp_in in = mp_in(s);
	uint32_t *got = malloc((n + 1) * sizeof(*got));

	got[n] = 0xdeadbeef;
	assert_true(mp_u32_run(&in, n, got));
	assert_memory_equal(got, want, n * sizeof(*got));
	assert_int_equal(got[n], 0xdeadbeef);
	assert_int_equal(in.end - in.p, behind);
	free(got);
}

static void test_01_each_boundary(void **state)
{
	static const uint32_t v[] = {0,     1,     127,    128,        255,        256,
				     65535, 65536, 128255, 0x7fffffff, 0x80000000, 0xffffffff};
	uint32_t want[64];

	(void)state;
	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		uint8_t buf[5 * 64];
		struct mp_out out = mp_out(buf, sizeof(buf));

		for (size_t k = 0; k < 64; k++) {
			want[k] = v[i];
			mp_put_uint(&out, v[i]);
		}
		check_run(want, 64, slice_of(buf, (size_t)(out.p - buf)), 0);
	}
}

/* Every count from 0 to 200, buffers that end exactly behind the last integer and buffers that go on. */
static void test_02_every_length(void **state)
{
	uint64_t seed = 1;

	(void)state;
	for (uint32_t n = 0; n < 200; n++) {
		for (size_t behind = 0; behind < 24; behind += 7) {
			uint8_t big[5 * 200 + 32];
			uint32_t want[200];
			struct mp_out out = mp_out(big, sizeof(big));

			for (uint32_t i = 0; i < n; i++) {
				want[i] = mixed(&seed);
				mp_put_uint(&out, want[i]);
			}
			size_t bytes = (size_t)(out.p - big) + behind;
			memset(out.p, 0xc1, behind);
			uint8_t *exact = malloc(bytes ? bytes : 1);
			memcpy(exact, big, bytes);
			check_run(want, n, slice_of(exact, bytes), behind);
			free(exact);
		}
	}
}

static void test_03_all_forms(void **state)
{
	enum { N = 5000 };
	static uint8_t buf[9 * N];
	static uint32_t want[N];
	uint64_t seed = 99;

	(void)state;
	for (unsigned rare = 1; rare <= 64; rare *= 4) {
		struct mp_out out = mp_out(buf, sizeof(buf));

		for (uint32_t i = 0; i < N; i++) {
			want[i] = mixed(&seed);
			put_form(&out, want[i], next_random(&seed) % rare ? 0 : next_random(&seed) % 7);
		}
		check_run(want, N, slice_of(buf, (size_t)(out.p - buf)), 0);
	}
}

/* An element that is no integer below 2^32, at every place of a run: refused, and nothing behind it is read. */
static void test_04_bad_element(void **state)
{
	static const char *const bad[] = {"c1",         "c0",         "c3", "ff", "a161", "cf0000000100000000",
					  "d0ff",       "d2ffffffff", "91", "80", "e0",   "d3ffffffffffffffff",
					  "ca00000000", "c400"};
	enum { N = 150 };

	(void)state;
	for (size_t b = 0; b < sizeof(bad) / sizeof(bad[0]); b++) {
		struct slice junk = golden_hex(bad[b]);

		for (uint32_t at = 0; at < N; at++) {
			uint8_t buf[5 * N + 16];
			uint32_t got[N];
			struct mp_out out = mp_out(buf, sizeof(buf));

			for (uint32_t i = 0; i < N; i++) {
				if (i == at)
					mp_put_raw(&out, junk);
				else
					mp_put_uint(&out, i * 997 % 70000);
			}
			struct mp_in in = mp_in(slice_of(buf, (size_t)(out.p - buf)));
			assert_false(mp_u32_run(&in, N, got));
			assert_non_null(in.err);
			for (uint32_t i = 0; i < at; i++)
				assert_int_equal(got[i], i * 997 % 70000);
		}
		golden_free(junk);
	}
}

/* Cut anywhere, in a block of exactly that size: refused without a read behind it. */
static void test_05_truncated(void **state)
{
	enum { N = 120 };
	uint8_t buf[5 * N];
	uint32_t got[N];
	uint64_t seed = 7;
	struct mp_out out = mp_out(buf, sizeof(buf));

	(void)state;
	for (uint32_t i = 0; i < N; i++)
		mp_put_uint(&out, mixed(&seed));
	for (size_t cut = 0; cut < (size_t)(out.p - buf); cut++) {
		uint8_t *part = malloc(cut ? cut : 1);
		struct mp_in in = mp_in(slice_of(part, cut));

		memcpy(part, buf, cut);
		assert_false(mp_u32_run(&in, N, got));
		free(part);
	}
}

/* Long runs of random token ids, in steps as the key decoder takes them. */
static void test_06_steps(void **state)
{
	enum { N = 20000 };
	static const uint32_t steps[] = {1, 3, 16, 17, 256, 1000};
	static uint8_t buf[5 * N];
	static uint32_t want[N], got[N];
	uint64_t seed = 5;
	struct mp_out out = mp_out(buf, sizeof(buf));

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		want[i] = next_random(&seed) % 128256;
		mp_put_uint(&out, want[i]);
	}
	for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
		struct mp_in in = mp_in(slice_of(buf, (size_t)(out.p - buf)));

		memset(got, 0, sizeof(got));
		for (uint32_t i = 0; i < N; i += steps[k])
			assert_true(mp_u32_run(&in, steps[k] < N - i ? steps[k] : N - i, got + i));
		assert_true(mp_done(&in));
		assert_memory_equal(got, want, sizeof(got));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_each_boundary), cmocka_unit_test(test_02_every_length),
		cmocka_unit_test(test_03_all_forms),     cmocka_unit_test(test_04_bad_element),
		cmocka_unit_test(test_05_truncated),     cmocka_unit_test(test_06_steps),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
