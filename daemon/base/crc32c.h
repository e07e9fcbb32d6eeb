/* crc32c.h - CRC-32C (Castagnoli, RFC 3720 appendix B.4) of whole buffers and of their sub-blocks.
 *
 * A KV object is guarded by one value per sub-block of CRC_BLOCK bytes (the last may be shorter): a sub-block is what L2 reads at
 * once, so it can be checked while the next one is under way. The value of the whole follows from them (crc32c_join).
 *
 * Threads: any; nothing here is shared but a choice of kernel made once. Nothing can fail.
 */
#ifndef DAEMON_BASE_CRC32C_H
#define DAEMON_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#define CRC_BLOCK (1u << 20)

/* Continues `crc`, the value of what came before (0 at the start), over n more bytes. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
/* The value of two pieces one after the other, from their own values; `bytes` is the length of the second. */
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t bytes);

static inline uint32_t crc_blocks(uint64_t bytes)
{
	return (uint32_t)((bytes + CRC_BLOCK - 1) / CRC_BLOCK);
}
/* Values of the crc_blocks(n) sub-blocks of p. */
void crc32c_blocks(const void *p, uint64_t n, uint32_t *out);
/* The value of an object of `bytes` from those of its sub-blocks. */
uint32_t crc32c_join(const uint32_t *blocks, uint64_t bytes);

/* The kernel this CPU uses: "vpclmulqdq" (vectors of 64 bytes), "vpclmulqdq-avx2" (32), "sse4.2" (four streams), "sse4.2-plain" (one),
 * "armv8", "table". */
const char *crc32c_name(void);

#endif
