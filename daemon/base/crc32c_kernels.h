/* crc32c_kernels.h - the kernels behind crc32c.h, one per instruction set, all giving the same values.
 *
 * For code that computes the value inside a loop of its own (the copy of transport/kv that sums what it copies) or compares the
 * kernels (tests, bench); everybody else calls crc32c.h. Such a loop is built from crc32c_fold.inc, with crc32c_vec.h for the width
 * of the vectors and the constants below.
 *
 * A kernel continues a raw register (already inverted; no inversion at the end), so that callers can chain them.
 *
 * Threads: any; nothing is shared. Nothing can fail, but a kernel may only run on a CPU that it is `usable` on.
 */
#ifndef DAEMON_BASE_CRC32C_KERNELS_H
#define DAEMON_BASE_CRC32C_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRC32C_POLY 0x82f63b78u /* bit-reflected: bit 31 is x^0 */

struct crc_kernel {
	const char *name;
	bool (*usable)(void); /* by this CPU */
	uint32_t (*run)(uint32_t raw, const uint8_t *p, size_t n);
};

/* Every kernel compiled in, fastest first; the last one ("table") needs nothing. */
const struct crc_kernel *crc32c_kernels(uint32_t *n);

/* ---- for crc32c_fold.inc's users -------------------------------------------------------------------------------------------- */

/* Multipliers that move a 128-bit lane some bits ahead, for its first and its second half: x^(bits+63) and x^(bits-1) modulo the
 * polynomial, reflected to 64 bits. The carry-less product of two reflected numbers is one power short, which the exponents make up
 * for. The test of the kernels recomputes them. */
#define CRC_FOLD(first, second) (UINT64_C(first) << 32), (UINT64_C(second) << 32)
#define CRC_FOLD_2048           CRC_FOLD(0xe9a5d8be, 0x1426a815)
#define CRC_FOLD_512            CRC_FOLD(0x1c19243b, 0x75bba45b)
#define CRC_FOLD_256            CRC_FOLD(0x33ccbbbc, 0xa2158b34)
#define CRC_FOLD_128            CRC_FOLD(0x3743f7bd, 0x3171d430)
/* Over one, two and three pages of 4 KiB. */
#define CRC_FOLD_1PAGE CRC_FOLD(0x40652ee7, 0x6bae74c4)
#define CRC_FOLD_2PAGE CRC_FOLD(0xb9c2ed31, 0x508c2ac8)
#define CRC_FOLD_3PAGE CRC_FOLD(0x59c8f2b0, 0x87ddf93e)
/* Moves a register 2048 bits back: x^(-2048-33), see crc32c_x86.c for the 33. */
#define CRC_BACK_2048 0xbe7257f3u

#ifdef __x86_64__
uint32_t crc32c_one_stream(uint32_t raw, const uint8_t *p, size_t n); /* SSE4.2 */
uint32_t crc32c_four_streams(uint32_t raw, const uint8_t *p, size_t n);
uint32_t crc32c_fold_avx2(uint32_t raw, const uint8_t *p, size_t n);
uint32_t crc32c_fold_avx512(uint32_t raw, const uint8_t *p, size_t n);
bool crc32c_has_sse42(void);
bool crc32c_has_pclmul(void);
bool crc32c_has_fold_avx2(void);
bool crc32c_has_fold_avx512(void);
#endif

#endif
