#include "transport/kv/kv_int.h"
#include "transport/kv/stream_int.h"

#if defined(__x86_64__)

#include <immintrin.h>

static void sfence(void)
{
	_mm_sfence();
}

#define S(n)           n##_avx512
#define S_TARGET       __attribute__((target("avx512f")))
#define S_VEC          __m512i
#define S_LOAD(p)      _mm512_loadu_si512(p)
#define S_STREAM(p, v) _mm512_stream_si512((void *)(p), v)
#include "transport/kv/stream.inc"
#undef S
#undef S_TARGET
#undef S_VEC
#undef S_LOAD
#undef S_STREAM

#define S(n)           n##_avx2
#define S_TARGET       __attribute__((target("avx2")))
#define S_VEC          __m256i
#define S_LOAD(p)      _mm256_loadu_si256((const void *)(p))
#define S_STREAM(p, v) _mm256_stream_si256((void *)(p), v)
#include "transport/kv/stream.inc"
#undef S
#undef S_TARGET
#undef S_VEC
#undef S_LOAD
#undef S_STREAM

#define S(n) n##_sse2
#define S_TARGET
#define S_VEC          __m128i
#define S_LOAD(p)      _mm_loadu_si128((const void *)(p))
#define S_STREAM(p, v) _mm_stream_si128((void *)(p), v)
#include "transport/kv/stream.inc"

const struct stream_ops *kv_stream_ops(void)
{
	static const struct stream_ops avx512 = {"avx512", copy_avx512, rows_avx512, sfence};
	static const struct stream_ops avx2 = {"avx2", copy_avx2, rows_avx2, sfence};
	static const struct stream_ops sse2 = {"sse2", copy_sse2, rows_sse2, sfence};
	/* The compiler's run-time library asked the CPU once, before main; these are tests of a word in memory. */
	if (__builtin_cpu_supports("avx512f"))
		return &avx512;
	return __builtin_cpu_supports("avx2") ? &avx2 : &sse2;
}

#else

static void copy_plain(void *dst, const void *src, uint64_t n, const void *next)
{
	(void)next;
	memcpy(dst, src, n);
}

static void rows_plain(const struct row_copy *r)
{
	for (uint32_t o = 0; o < r->outer; o++) {
		for (uint32_t i = 0; i < r->inner; i++)
			memcpy(r->dst + o * r->dst_outer + i * r->dst_inner,
			       r->src + o * r->src_outer + i * r->src_inner, r->row);
	}
}

static void fence_plain(void)
{
}

const struct stream_ops *kv_stream_ops(void)
{
	static const struct stream_ops plain = {"memcpy", copy_plain, rows_plain, fence_plain};
	return &plain;
}

#endif
