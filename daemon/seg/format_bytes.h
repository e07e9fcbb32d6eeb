/* format_bytes.h - little-endian numbers at fixed places of a block, and the checksum at its end. For format*.c. */
#ifndef DAEMON_SEG_FORMAT_BYTES_H
#define DAEMON_SEG_FORMAT_BYTES_H

#include "daemon/base/crc32c.h"
#include "daemon/seg/format.h"

#include <endian.h>
#include <string.h>

static inline void put16(uint8_t *at, uint16_t v)
{
	v = htole16(v);
	memcpy(at, &v, sizeof(v));
}

static inline void put32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, sizeof(v));
}

static inline void put64(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, sizeof(v));
}

static inline uint16_t get16(const uint8_t *at)
{
	uint16_t v;

	memcpy(&v, at, sizeof(v));
	return le16toh(v);
}

static inline uint32_t get32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return le32toh(v);
}

static inline uint64_t get64(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, sizeof(v));
	return le64toh(v);
}

#define BLOCK_SUM (FORMAT_BLOCK - 4) /* place of a block's checksum */

static inline uint8_t *block_start(void *block, const char magic[static 8])
{
	memset(block, 0, FORMAT_BLOCK);
	memcpy(block, magic, 8);
	put32((uint8_t *)block + 8, FORMAT_VERSION);
	return block;
}

static inline void block_finish(uint8_t *block)
{
	put32(block + BLOCK_SUM, crc32c(0, block, BLOCK_SUM));
}

/* Magic first: most blocks that are asked about are payload. */
static inline bool block_is(const uint8_t *block, const char magic[static 8])
{
	return memcmp(block, magic, 8) == 0 && get32(block + BLOCK_SUM) == crc32c(0, block, BLOCK_SUM);
}

static inline uint64_t round_up_block(uint64_t n)
{
	return (n + FORMAT_BLOCK - 1) / FORMAT_BLOCK * FORMAT_BLOCK;
}

#endif
