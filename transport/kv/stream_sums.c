#include "daemon/base/crc32c.h"
#include "daemon/base/crc32c_kernels.h"
#include "transport/kv/kv_int.h"
#include "transport/kv/stream_int.h"

/* Copied, then summed while it is in the first-level cache. */
#define PIECE (4 * PAGE)

static uint32_t plain_sums(uint32_t raw, uint8_t *d, const uint8_t *s, uint64_t n)
{
	memcpy(d, s, n);
	return ~crc32c(~raw, s, n);
}

/* Any CPU: piece by piece with the streamed copy there is. */
static uint32_t copy_sums_pieces(uint32_t raw, void *dst, const void *src, uint64_t n, const void *next)
{
	const struct stream_ops *ops = kv_stream_ops();
	uint8_t *d = dst;
	const uint8_t *s = src;

	for (uint64_t m; n > 0; n -= m, d += m, s += m) {
		m = n < PIECE ? n : PIECE;
		ops->copy(d, s, m, m < n ? s + m : next);
		raw = ~crc32c(~raw, s, m);
	}
	return raw;
}

#ifdef __x86_64__

#include "daemon/base/crc32c_vec.h"

#define S(n)             n##_avx512
#define S_TARGET         AVX512_TARGET
#define S_VEC            AVX512_VEC
#define S_LOAD(p)        AVX512_LOAD(p)
#define S_STREAM(p, v)   AVX512_STREAM(p, v)
#define S_CONST(k)       AVX512_CONST(k)
#define S_FIRST(x)       AVX512_FIRST(x)
#define S_CLMUL(a, b, w) AVX512_CLMUL(a, b, w)
#define S_XOR(a, b)      AVX512_XOR(a, b)
#define S_XOR3(a, b, c)  AVX512_XOR3(a, b, c)
#include "daemon/base/crc32c_fold.inc"
#include "transport/kv/stream_sums.inc"
#undef S
#undef S_TARGET
#undef S_VEC
#undef S_LOAD
#undef S_STREAM
#undef S_CONST
#undef S_FIRST
#undef S_CLMUL
#undef S_XOR
#undef S_XOR3

#define S(n)             n##_avx2
#define S_TARGET         AVX2_TARGET
#define S_VEC            AVX2_VEC
#define S_LOAD(p)        AVX2_LOAD(p)
#define S_STREAM(p, v)   AVX2_STREAM(p, v)
#define S_CONST(k)       AVX2_CONST(k)
#define S_FIRST(x)       AVX2_FIRST(x)
#define S_CLMUL(a, b, w) AVX2_CLMUL(a, b, w)
#define S_XOR(a, b)      AVX2_XOR(a, b)
#define S_XOR3(a, b, c)  AVX2_XOR3(a, b, c)
#include "daemon/base/crc32c_fold.inc"
#include "transport/kv/stream_sums.inc"

#endif

kv_sums_fn *kv_sums_copy(void)
{
#ifdef __x86_64__
	if (crc32c_has_fold_avx512())
		return copy_sums_avx512;
	if (crc32c_has_fold_avx2())
		return copy_sums_avx2;
#endif
	return copy_sums_pieces;
}
