#include "daemon/base/crc32c.h"

#include <string.h>

#define POLY 0x82f63b78u /* reflected */

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

static uint32_t crc_bits(uint32_t crc, const uint8_t *p, size_t n)
{
	for (; n; n--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (POLY & (0 - (crc & 1)));
	}
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p, size_t n)
{
	uint64_t c = crc, word;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&word, p, 8);
		c = __builtin_ia32_crc32di(c, word);
	}
	for (; n; n--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
	return (uint32_t)c;
}
#endif

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
	crc = ~crc;
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_sse42(crc, p, n);
#endif
	return ~crc_bits(crc, p, n);
}

const char *crc32c_name(void)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return "sse4.2";
#endif
	return "table";
}

/* ---- joining ------------------------------------------------------------------------------------------------------- */

/* Product of two polynomials modulo POLY, both bit-reflected: bit 31 is x^0. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
		if (a & bit)
			product ^= b;
		b = b >> 1 ^ (POLY & (0 - (b & 1)));
	}
	return product;
}

/* x^(8 * bytes) modulo POLY, by squaring. */
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
