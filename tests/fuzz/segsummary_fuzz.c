/* Summaries of segments, as they come from a medium: every entry that is taken lies within its segment and has a name that exists.
 *
 * Byte 0: bit 0 puts the checksum right, bit 1 magic, version and place. Bytes 1-4: what the seal says of the number of records. The rest:
 * the summary, padded with zeros to whole blocks.
 */
#include "daemon/seg/format.h"

#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/seg/seg.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_BYTES (64u << 10)

static uint8_t p[MAX_BYTES];
static uint32_t numbers[1024];

static void put(uint32_t at, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[at + i] = (uint8_t)(v >> 8 * i);
}

static void look(const struct format_super *super, const struct format_seal *seal, uint64_t bytes)
{
	struct seg_names *names;
	struct format_reader r;
	struct format_entry e;

	check(seg_names_create(&names) == 0);
	if (format_summary_open(p, bytes, seal, super, names, numbers, sizeof(numbers) / sizeof(numbers[0]), &r) == 0) {
		check(r.count == seal->records && r.nnames <= r.count);
		for (uint32_t i = 0; i < r.nnames; i++)
			check(r.names[i] && seg_name_of(names, r.names[i])->model.n <= SEG_MAX_MODEL);
		for (uint32_t i = 0; i <= r.count; i++) {
			if (format_summary_entry(&r, i, super, &e))
				continue;
			check(i < r.count && e.at >= FORMAT_RECORDS && e.at % FORMAT_BLOCK == 0);
			check(e.at + format_record_bytes(e.bytes) <= super->segment_bytes);
			check(e.kind == FORMAT_REMOVAL || (e.name && e.bytes && e.bytes <= SEG_MAX_BYTES));
		}
	}
	seg_names_destroy(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct format_super super;
	struct format_seal seal = {.id = 3, .generation = 9};

	if (size < 6 || size - 5 > MAX_BYTES)
		return 0;
	uint64_t bytes = (size - 5 + FORMAT_BLOCK - 1) / FORMAT_BLOCK * FORMAT_BLOCK;
	check(format_geometry(64u << 20, 1u << 20, &super) == 0);
	memset(super.uuid, 0x5a, sizeof(super.uuid));
	memcpy(&seal.records, data + 1, 4);
	memset(p, 0, bytes);
	memcpy(p, data + 5, size - 5);
	if (data[0] & 2) {
		memcpy(p, "LMCASUMM", 8);
		put(8, FORMAT_VERSION, 4);
		put(12, seal.id, 4);
		memcpy(p + 16, super.uuid, 16);
		put(32, seal.generation, 8);
		put(40, seal.records, 4);
	}
	seal.summary_bytes = (uint32_t)bytes;
	seal.summary_crc = crc32c(0, p, bytes) ^ (data[0] & 1 ? 0 : 1);
	look(&super, &seal, bytes);
	return 0;
}
