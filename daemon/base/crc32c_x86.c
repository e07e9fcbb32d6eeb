#include "daemon/base/crc32c_kernels.h"

#include <string.h>

#ifdef __x86_64__

#include "daemon/base/crc32c_vec.h"

/* How far ahead the folds prefetch; also says that they are wanted as whole functions. */
#define FOLD_KERNEL 4096u

bool crc32c_has_sse42(void)
{
	return __builtin_cpu_supports("sse4.2");
}

bool crc32c_has_pclmul(void)
{
	return crc32c_has_sse42() && __builtin_cpu_supports("pclmul");
}

bool crc32c_has_fold_avx2(void)
{
	return crc32c_has_pclmul() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq");
}

bool crc32c_has_fold_avx512(void)
{
	return crc32c_has_fold_avx2() && __builtin_cpu_supports("avx512f");
}

/* ---- the CPU's own instruction ----------------------------------------------------------------------------------------- */

__attribute__((target("sse4.2"))) static inline uint64_t one_word(uint64_t c, const uint8_t *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof word);
	return _mm_crc32_u64(c, word);
}

__attribute__((target("sse4.2"))) uint32_t crc32c_one_stream(uint32_t raw, const uint8_t *p, size_t n)
{
	uint64_t c = raw;

	for (; n >= 8; n -= 8, p += 8)
		c = one_word(c, p);
	for (; n; n--)
		c = _mm_crc32_u8((uint32_t)c, *p++);
	return (uint32_t)c;
}

/* The instruction takes three cycles but one may begin every cycle: four streams side by side keep it busy, and are joined by
 * multiplying with x^(8 * what follows - 33), the 33 being what a product of two reflected numbers and the last step add. */
#define LONG_STREAM  4096u
#define SHORT_STREAM 256u

struct stream_keys {
	uint32_t three, two, one; /* streams that follow */
};

__attribute__((target("sse4.2,pclmul"))) static inline uint64_t moved(uint64_t c, uint32_t key)
{
	__m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)c), _mm_cvtsi64_si128(key), 0);
	return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

__attribute__((target("sse4.2,pclmul"))) static inline uint64_t four(uint64_t c, const uint8_t *p, size_t each,
								     struct stream_keys k)
{
	uint64_t c1 = 0, c2 = 0, c3 = 0;

	for (size_t i = 0; i < each; i += 8) {
		__builtin_prefetch(p + i + 4 * each);
		c = one_word(c, p + i);
		c1 = one_word(c1, p + each + i);
		c2 = one_word(c2, p + 2 * each + i);
		c3 = one_word(c3, p + 3 * each + i);
	}
	return moved(c, k.three) ^ moved(c1, k.two) ^ moved(c2, k.one) ^ c3;
}

uint32_t crc32c_four_streams(uint32_t raw, const uint8_t *p, size_t n)
{
	static const struct stream_keys long_keys = {0xc1f19ee1, 0x54a86326, 0x82f89c77};
	static const struct stream_keys short_keys = {0xd7a4825c, 0xdd7e3b0c, 0xb9e02b86};
	uint64_t c = raw;

	for (; n >= 4 * LONG_STREAM; n -= 4 * LONG_STREAM, p += 4 * LONG_STREAM)
		c = four(c, p, LONG_STREAM, long_keys);
	for (; n >= 4 * SHORT_STREAM; n -= 4 * SHORT_STREAM, p += 4 * SHORT_STREAM)
		c = four(c, p, SHORT_STREAM, short_keys);
	return crc32c_one_stream((uint32_t)c, p, n);
}

/* ---- carry-less multiplication of whole vectors --------------------------------------------------------------------------- */

#define S(n)             n##_avx512
#define S_TARGET         AVX512_TARGET
#define S_VEC            AVX512_VEC
#define S_LOAD(p)        AVX512_LOAD(p)
#define S_CONST(k)       AVX512_CONST(k)
#define S_FIRST(x)       AVX512_FIRST(x)
#define S_CLMUL(a, b, w) AVX512_CLMUL(a, b, w)
#define S_XOR(a, b)      AVX512_XOR(a, b)
#define S_XOR3(a, b, c)  AVX512_XOR3(a, b, c)
#include "daemon/base/crc32c_fold.inc"
#undef S
#undef S_TARGET
#undef S_VEC
#undef S_LOAD
#undef S_CONST
#undef S_FIRST
#undef S_CLMUL
#undef S_XOR
#undef S_XOR3

#define S(n)             n##_avx2
#define S_TARGET         AVX2_TARGET
#define S_VEC            AVX2_VEC
#define S_LOAD(p)        AVX2_LOAD(p)
#define S_CONST(k)       AVX2_CONST(k)
#define S_FIRST(x)       AVX2_FIRST(x)
#define S_CLMUL(a, b, w) AVX2_CLMUL(a, b, w)
#define S_XOR(a, b)      AVX2_XOR(a, b)
#define S_XOR3(a, b, c)  AVX2_XOR3(a, b, c)
#include "daemon/base/crc32c_fold.inc"

#endif
