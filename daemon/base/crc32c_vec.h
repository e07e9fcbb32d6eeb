/* crc32c_vec.h - what crc32c_fold.inc needs to know of the two vector widths, for the files that include it. */
#ifndef DAEMON_BASE_CRC32C_VEC_H
#define DAEMON_BASE_CRC32C_VEC_H

#ifdef __x86_64__

#include <immintrin.h>

#define AVX512_TARGET         __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))
#define AVX512_VEC            __m512i
#define AVX512_LOAD(p)        _mm512_loadu_si512(p)
#define AVX512_STREAM(p, v)   _mm512_stream_si512((void *)(p), v)
#define AVX512_CONST(k)       _mm512_broadcast_i32x4(k)
#define AVX512_FIRST(x)       _mm512_zextsi128_si512(x)
#define AVX512_CLMUL(a, b, w) _mm512_clmulepi64_epi128(a, b, w)
#define AVX512_XOR(a, b)      _mm512_xor_si512(a, b)
#define AVX512_XOR3(a, b, c)  _mm512_ternarylogic_epi64(a, b, c, 0x96)

#define AVX2_TARGET           __attribute__((target("avx2,vpclmulqdq,pclmul,sse4.2")))
#define AVX2_VEC              __m256i
#define AVX2_LOAD(p)          _mm256_loadu_si256((const void *)(p))
#define AVX2_STREAM(p, v)     _mm256_stream_si256((void *)(p), v)
#define AVX2_CONST(k)         _mm256_broadcastsi128_si256(k)
#define AVX2_FIRST(x)         _mm256_zextsi128_si256(x)
#define AVX2_CLMUL(a, b, w)   _mm256_clmulepi64_epi128(a, b, w)
#define AVX2_XOR(a, b)        _mm256_xor_si256(a, b)
#define AVX2_XOR3(a, b, c)    _mm256_xor_si256(_mm256_xor_si256(a, b), c)

#endif

#endif
