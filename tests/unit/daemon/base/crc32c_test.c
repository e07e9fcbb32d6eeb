/* Every kernel this CPU can run is forced in turn and held against the definition, bit by bit. */
#include "daemon/base/crc32c.h"
#include "daemon/base/crc32c_kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LENGTHS = 1100, ALIGN = 64, BIG = 3 * CRC_BLOCK + 12345 };

static uint32_t bitwise(uint32_t raw, const uint8_t *p, size_t n)
{
	for (; n; n--) {
		raw ^= *p++;
		for (int i = 0; i < 8; i++)
			raw = raw & 1 ? raw >> 1 ^ 0x82f63b78u : raw >> 1;
	}
	return raw;
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++, seed = seed * 1664525u + 1013904223u)
		p[i] = (uint8_t)(seed >> 24);
}

static void vectors(void **state)
{
	static const uint8_t read_pdu[48] = {0x01, 0xc0, 0, 0, 0, 0, 0,    0, 0,    0, 0, 0,    0, 0, 0, 0,
					     0x14, 0,    0, 0, 0, 0, 0x04, 0, 0,    0, 0, 0x14, 0, 0, 0, 0x18,
					     0x28, 0,    0, 0, 0, 0, 0,    0, 0x02, 0, 0, 0,    0, 0, 0, 0};
	uint8_t v[32];
	(void)state;

	memset(v, 0, sizeof v);
	assert_int_equal(crc32c(0, v, 32), 0x8a9136aa);
	memset(v, 0xff, sizeof v);
	assert_int_equal(crc32c(0, v, 32), 0x62a8ab43);
	for (uint8_t i = 0; i < 32; i++)
		v[i] = i;
	assert_int_equal(crc32c(0, v, 32), 0x46dd794e);
	for (uint8_t i = 0; i < 32; i++)
		v[i] = (uint8_t)(31 - i);
	assert_int_equal(crc32c(0, v, 32), 0x113fdb5c);
	assert_int_equal(crc32c(0, read_pdu, sizeof read_pdu), 0xd9963a56);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(0, NULL, 0), 0);
}

static void kernel_lengths(const struct crc_kernel *k, const uint8_t *p)
{
	for (size_t from = 0; from < ALIGN; from++) {
		uint32_t start = (uint32_t)(0x9e3779b9u * (from + 1)), want = start;
		for (size_t n = 0; n <= LENGTHS; n++) {
			if (k->run(start, p + from, n) != want)
				fail_msg("%s: %zu bytes from %zu", k->name, n, from);
			want = bitwise(want, p + from + n, 1);
		}
	}
}

/* Around everything a kernel has a loop for: steps, streams, pages. */
static void kernel_long(const struct crc_kernel *k, const uint8_t *p)
{
	static const size_t around[] = {1024, 2048, 4096, 8192, 16384, 32768, 65536, 65536 + 1024, 200000, CRC_BLOCK};
	for (size_t i = 0; i < sizeof around / sizeof *around; i++)
		for (size_t n = around[i] - 9; n < around[i] + 10; n += 3)
			if (k->run(~0u, p + i, n) != bitwise(~0u, p + i, n))
				fail_msg("%s: %zu bytes", k->name, n);
}

static void every_kernel(void **state)
{
	uint32_t n, ran = 0;
	const struct crc_kernel *k = crc32c_kernels(&n);
	uint8_t *p = malloc(CRC_BLOCK + 4096);
	(void)state;

	fill(p, CRC_BLOCK + 4096, 1);
	for (uint32_t i = 0; i < n; i++) {
		if (!k[i].usable()) {
			print_message("# %s: not on this CPU\n", k[i].name);
			continue;
		}
		if (!ran++)
			assert_string_equal(crc32c_name(), k[i].name);
		kernel_lengths(&k[i], p);
		kernel_long(&k[i], p);
	}
	assert_true(ran >= 1 && k[n - 1].usable());
	free(p);
}

static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;
	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
		product ^= a & bit ? b : 0;
		b = b & 1 ? b >> 1 ^ 0x82f63b78u : b >> 1;
	}
	return product;
}

static uint32_t power_of_x(uint32_t n)
{
	uint32_t r = 1u << 31;
	while (n--)
		r = multiply(r, 1u << 30);
	return r;
}

static void check_fold(uint32_t bits, uint64_t first, uint64_t second)
{
	assert_int_equal(first >> 32, power_of_x(bits + 63));
	assert_int_equal(second >> 32, power_of_x(bits - 1));
	assert_int_equal((first | second) & UINT32_MAX, 0);
}

static void multipliers(void **state)
{
	(void)state;
	check_fold(2048, CRC_FOLD_2048);
	check_fold(512, CRC_FOLD_512);
	check_fold(256, CRC_FOLD_256);
	check_fold(128, CRC_FOLD_128);
	check_fold(8 * 4096, CRC_FOLD_1PAGE);
	check_fold(8 * 8192, CRC_FOLD_2PAGE);
	check_fold(8 * 12288, CRC_FOLD_3PAGE);
}

static void continues(void **state)
{
	uint8_t p[2048];
	(void)state;

	fill(p, sizeof p, 2);
	uint32_t whole = crc32c(0, p, sizeof p);
	for (size_t n = 0; n <= sizeof p; n += 7) {
		uint32_t first = crc32c(0, p, n), second = crc32c(0, p + n, sizeof p - n);
		assert_int_equal(crc32c(first, p + n, sizeof p - n), whole);
		assert_int_equal(crc32c_combine(first, second, sizeof p - n), whole);
	}
	/* the value of a part, moved by nothing added */
	assert_int_equal(crc32c_combine(whole, 0, 0), whole);
}

static void blocks_and_join(void **state)
{
	static const uint64_t bytes[] = {1, 4096, CRC_BLOCK - 1, CRC_BLOCK, CRC_BLOCK + 1, 2 * CRC_BLOCK, BIG};
	uint8_t *p = malloc(BIG);
	uint32_t sums[4];
	(void)state;

	fill(p, BIG, 3);
	for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
		uint32_t n = crc_blocks(bytes[i]);
		memset(sums, 0, sizeof sums);
		crc32c_blocks(p, bytes[i], sums);
		for (uint32_t b = 0; b < n; b++) {
			uint64_t rest = bytes[i] - (uint64_t)b * CRC_BLOCK;
			assert_int_equal(sums[b],
					 ~bitwise(~0u, p + (size_t)b * CRC_BLOCK, rest < CRC_BLOCK ? rest : CRC_BLOCK));
		}
		assert_int_equal(crc32c_join(sums, bytes[i]), crc32c(0, p, bytes[i]));
		p[bytes[i] / 2] ^= 1;
		crc32c_blocks(p, bytes[i], sums);
		p[bytes[i] / 2] ^= 1;
		assert_int_not_equal(crc32c_join(sums, bytes[i]), crc32c(0, p, bytes[i]));
	}
	assert_int_equal(crc_blocks(0), 0);
	assert_int_equal(crc32c_join(sums, 0), 0);
	free(p);
}

int main(void)
{
#define T(n, f)                                        \
	{                                              \
		"daemon/base: " n, f, NULL, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("crc32c 1 vectors of RFC 3720", vectors),
		T("crc32c 2 multipliers", multipliers),
		T("crc32c 3 every kernel, every length and alignment", every_kernel),
		T("crc32c 4 continues and combines", continues),
		T("crc32c 5 blocks and join", blocks_and_join),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
