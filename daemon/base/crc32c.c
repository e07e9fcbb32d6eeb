#include "daemon/base/crc32c.h"
#include "daemon/base/crc32c_kernels.h"

#include <string.h>

#ifdef __aarch64__
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

static bool always(void)
{
	return true;
}

/* Eight table look-ups per eight bytes. An entry is the sum of those of its single bits, so that is all that is written down: what
 * bit b of a byte has become after k more bytes; the compiler makes the tables. */
#define B1(n, b, v) ((n) & (1u << (b)) ? (v) : 0u)
#define E(n, a, b, c, d, e, f, g, h) \
	(B1(n, 0, a) ^ B1(n, 1, b) ^ B1(n, 2, c) ^ B1(n, 3, d) ^ B1(n, 4, e) ^ B1(n, 5, f) ^ B1(n, 6, g) ^ B1(n, 7, h))
#define E4(n, ...)  E((n), __VA_ARGS__), E((n) + 1, __VA_ARGS__), E((n) + 2, __VA_ARGS__), E((n) + 3, __VA_ARGS__)
#define E16(n, ...) E4((n), __VA_ARGS__), E4((n) + 4, __VA_ARGS__), E4((n) + 8, __VA_ARGS__), E4((n) + 12, __VA_ARGS__)
#define E64(n, ...) \
	E16((n), __VA_ARGS__), E16((n) + 16, __VA_ARGS__), E16((n) + 32, __VA_ARGS__), E16((n) + 48, __VA_ARGS__)
#define E256(...)                                                                                       \
	{                                                                                               \
		E64(0, __VA_ARGS__), E64(64, __VA_ARGS__), E64(128, __VA_ARGS__), E64(192, __VA_ARGS__) \
	}

// NOLINTBEGIN(misc-redundant-expression)
static const uint32_t table[8][256] = {
	E256(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
	E256(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
	E256(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
	E256(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
	E256(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
	E256(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
	E256(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
	E256(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};
// NOLINTEND(misc-redundant-expression)

static uint32_t run_table(uint32_t raw, const uint8_t *p, size_t n)
{
	for (; n >= 8; n -= 8, p += 8) {
		raw ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
		raw = table[7][raw & 255] ^ table[6][raw >> 8 & 255] ^ table[5][raw >> 16 & 255] ^ table[4][raw >> 24] ^
		      table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
	}
	for (; n; n--)
		raw = raw >> 8 ^ table[0][(raw ^ *p++) & 255];
	return raw;
}

#ifdef __aarch64__
static bool has_armv8(void)
{
	return getauxval(AT_HWCAP) & (1u << 7); /* HWCAP_CRC32 */
}

__attribute__((target("+crc"))) static uint32_t run_armv8(uint32_t raw, const uint8_t *p, size_t n)
{
	uint64_t word;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, sizeof word);
		raw = __crc32cd(raw, word);
	}
	for (; n; n--)
		raw = __crc32cb(raw, *p++);
	return raw;
}
#endif

const struct crc_kernel *crc32c_kernels(uint32_t *n)
{
	static const struct crc_kernel kernels[] = {
#ifdef __x86_64__
		{"vpclmulqdq", crc32c_has_fold_avx512, crc32c_fold_avx512},
		{"vpclmulqdq-avx2", crc32c_has_fold_avx2, crc32c_fold_avx2},
		{"sse4.2", crc32c_has_pclmul, crc32c_four_streams},
		{"sse4.2-plain", crc32c_has_sse42, crc32c_one_stream},
#endif
#ifdef __aarch64__
		{"armv8", has_armv8, run_armv8},
#endif
		{"table", always, run_table},
	};
	*n = sizeof kernels / sizeof *kernels;
	return kernels;
}

/* The compiler's run-time library asked the CPU once, before main; what is left are tests of a word in memory. */
static const struct crc_kernel *best(void)
{
	uint32_t n;
	const struct crc_kernel *k = crc32c_kernels(&n);

	while (!k->usable())
		k++;
	return k;
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	return ~best()->run(~crc, p, n);
}

const char *crc32c_name(void)
{
	return best()->name;
}

/* ---- joining ------------------------------------------------------------------------------------------------------- */

/* Product of two polynomials modulo CRC32C_POLY, both bit-reflected: bit 31 is x^0. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
		if (a & bit)
			product ^= b;
		b = b >> 1 ^ (CRC32C_POLY & (0 - (b & 1)));
	}
	return product;
}

/* x^(8 * bytes) modulo CRC32C_POLY, by squaring. */
static uint32_t shift_of(uint64_t bytes)
{
	uint32_t power = 1u << 23, result = 1u << 31; /* x^8, x^0 */

	for (; bytes; bytes >>= 1) {
		if (bytes & 1)
			result = multiply(result, power);
		power = multiply(power, power);
	}
	return result;
}

uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t bytes)
{
	return multiply(first, shift_of(bytes)) ^ second;
}

void crc32c_blocks(const void *p, uint64_t n, uint32_t *out)
{
	const uint8_t *at = p;

	for (; n; at += CRC_BLOCK, n -= n < CRC_BLOCK ? n : CRC_BLOCK)
		*out++ = crc32c(0, at, n < CRC_BLOCK ? n : CRC_BLOCK);
}

uint32_t crc32c_join(const uint32_t *blocks, uint64_t bytes)
{
	uint32_t whole = shift_of(CRC_BLOCK), crc = 0;

	for (; bytes > CRC_BLOCK; bytes -= CRC_BLOCK)
		crc = multiply(crc, whole) ^ *blocks++;
	return bytes ? crc32c_combine(crc, *blocks, bytes) : crc;
}
