/* Blocks of a segment store, as they come from a medium. What a decoder takes must be within bounds, and written again it must be the
 * same.
 *
 * Byte 0: which block. Byte 1: what is put right, so that the fields behind a checksum are reached at all: bit 0 checksum, bit 1 magic,
 * version and uuid, bit 2 place. The rest: the block.
 */
#include "daemon/seg/format.h"

#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/seg/seg.h"

#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SEGMENT 5u
#define AT      (FORMAT_RECORDS + 3 * FORMAT_BLOCK)

static struct format_super super;
static uint8_t block[FORMAT_BLOCK], again[FORMAT_BLOCK];

static void put(uint32_t at, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		block[at + i] = (uint8_t)(v >> 8 * i);
}

static void take(const uint8_t *data, size_t size, uint64_t place)
{
	static const char magics[4][9] = {"LMCASUPR", "LMCASEGM", "LMCASEAL", "LMCARECD"};

	memset(block, 0, sizeof(block));
	memcpy(block, data + 2, size - 2 < sizeof(block) ? size - 2 : sizeof(block));
	if (data[1] & 2) {
		memcpy(block, magics[data[0] % 4], 8);
		put(8, FORMAT_VERSION, 4);
		memcpy(block + 16, super.uuid, 16);
	}
	if (data[1] & 4 && data[0] % 4 == 3) {
		put(32, SEGMENT, 4);
		put(48, place, 8);
	}
	if (data[1] & 1)
		put(FORMAT_BLOCK - 4, crc32c(0, block, FORMAT_BLOCK - 4), 4);
}

static void fuzz_super(void)
{
	struct format_super s, back;

	for (uint32_t copy = 0; copy < FORMAT_SUPERS; copy++) {
		if (format_super_decode(block, copy, &s))
			continue;
		check(s.segments >= FORMAT_MIN_SEGMENTS && s.mid < s.segments && s.bytes <= FORMAT_MAX_BYTES);
		check(format_segment_at(&s, s.segments - 1) + s.segment_bytes <= format_super_at(&s, 3));
		format_super_encode(&s, copy, again);
		check(format_super_decode(again, copy, &back) == 0 && memcmp(&s, &back, sizeof(s)) == 0);
	}
}

static void fuzz_segment(void)
{
	struct format_segment h;
	struct format_seal seal;

	if (format_segment_decode(block, &h) == 0)
		check(h.generation <= FORMAT_MAX_COUNT && h.epoch <= FORMAT_MAX_COUNT);
	if (format_seal_decode(block, &seal) == 0)
		check(seal.summary_bytes <= FORMAT_MAX_SUMMARY && seal.summary_at >= FORMAT_RECORDS &&
		      seal.summary_at + seal.summary_bytes <= FORMAT_MAX_SEGMENT &&
		      (uint64_t)seal.records * FORMAT_ENTRY <= seal.summary_bytes);
}

static bool within(struct slice s, size_t max)
{
	const uint8_t *p = s.p;

	return s.n <= max && p >= block && p + s.n <= block + FORMAT_BLOCK;
}

static void fuzz_record(uint64_t place)
{
	static struct format_record r, back;

	if (format_record_decode(block, &super, SEGMENT, place, &r))
		return;
	check(r.offset == place && r.segment == SEGMENT && r.sequence <= FORMAT_MAX_COUNT);
	check(AT + format_record_bytes(r.bytes) <= super.segment_bytes);
	if (r.kind == FORMAT_OBJECT) {
		check(r.bytes && r.bytes <= SEG_MAX_BYTES && crc_blocks(r.bytes) <= FORMAT_MAX_SUMS);
		check(within(r.name.model, SEG_MAX_MODEL) && within(r.name.salt, SEG_MAX_SALT));
	} else {
		check(r.kind == FORMAT_REMOVAL && r.nremoved && r.nremoved <= FORMAT_REMOVALS);
	}
	format_record_encode(&r, again);
	check(format_record_decode(again, &super, SEGMENT, place, &back) == 0);
	check(back.sequence == r.sequence && back.bytes == r.bytes && back.nremoved == r.nremoved &&
	      back.kind == r.kind);
	if (r.kind == FORMAT_OBJECT)
		check(slice_eq(back.name.model, r.name.model) && slice_eq(back.name.salt, r.name.salt) &&
		      memcmp(back.sums, r.sums, 4ul * crc_blocks(r.bytes)) == 0);
	else
		check(memcmp(back.removed, r.removed, r.nremoved * sizeof(r.removed[0])) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	check(format_geometry(1u << 30, 16u << 20, &super) == 0);
	memset(super.uuid, 0x5a, sizeof(super.uuid));
	uint64_t place = format_segment_at(&super, SEGMENT) + AT;
	take(data, size, place);
	fuzz_super();
	fuzz_segment();
	fuzz_record(place);
	return 0;
}
