/* format.c - geometry, and the blocks: superblock, segment header, seal, record. */
#include "daemon/seg/format.h"

#include "daemon/seg/format_bytes.h"
#include "daemon/seg/seg.h"

#include <errno.h>

static const char super_magic[8] = {'L', 'M', 'C', 'A', 'S', 'U', 'P', 'R'};
static const char segment_magic[8] = {'L', 'M', 'C', 'A', 'S', 'E', 'G', 'M'};
static const char seal_magic[8] = {'L', 'M', 'C', 'A', 'S', 'E', 'A', 'L'};
static const char record_magic[8] = {'L', 'M', 'C', 'A', 'R', 'E', 'C', 'D'};

/* ---- geometry --------------------------------------------------------------------------------------------------------- */

int format_geometry(uint64_t bytes, uint64_t segment_bytes, struct format_super *out)
{
	const uint64_t fixed = FORMAT_FIXED;

	if (bytes > FORMAT_MAX_BYTES)
		return -EFBIG;
	if (segment_bytes < FORMAT_MIN_SEGMENT || segment_bytes > FORMAT_MAX_SEGMENT || segment_bytes % FORMAT_BLOCK)
		return -EINVAL;
	bytes -= bytes % FORMAT_BLOCK;
	if (bytes < fixed + FORMAT_MIN_SEGMENTS * segment_bytes)
		return -EINVAL;
	uint32_t n = (uint32_t)((bytes - fixed) / segment_bytes);
	*out = (struct format_super){.bytes = bytes, .segment_bytes = segment_bytes, .segments = n, .mid = n / 2};
	return 0;
}

uint64_t format_segment_at(const struct format_super *s, uint32_t id)
{
	return FORMAT_DATA + id * s->segment_bytes + (id >= s->mid ? FORMAT_RESERVED : 0);
}

uint64_t format_super_at(const struct format_super *s, uint32_t copy)
{
	switch (copy) {
	case 0:
		return 0;
	case 1:
		return FORMAT_DATA / 2;
	case 2:
		return format_segment_at(s, s->mid) - FORMAT_RESERVED;
	default:
		return s->bytes - FORMAT_RESERVED;
	}
}

uint64_t format_record_bytes(uint64_t payload)
{
	return FORMAT_BLOCK + round_up_block(payload);
}

/* ---- superblock --------------------------------------------------------------------------------------------------------- */

void format_super_encode(const struct format_super *s, uint32_t copy, void *block)
{
	uint8_t *b = block_start(block, super_magic);

	put32(b + 12, copy);
	memcpy(b + 16, s->uuid, 16);
	put64(b + 32, s->epoch);
	put64(b + 40, s->bytes);
	put64(b + 48, s->segment_bytes);
	put32(b + 56, s->segments);
	put32(b + 60, s->mid);
	put64(b + 64, s->created_s);
	block_finish(b);
}

int format_super_decode(const void *block, uint32_t copy, struct format_super *out)
{
	const uint8_t *b = block;
	struct format_super s;

	if (!block_is(b, super_magic))
		return -EBADMSG;
	if (get32(b + 8) != FORMAT_VERSION)
		return -EPROTONOSUPPORT;
	if (get32(b + 12) != copy || format_geometry(get64(b + 40), get64(b + 48), &s) || s.bytes != get64(b + 40) ||
	    s.segments != get32(b + 56) || s.mid != get32(b + 60) || get64(b + 32) > FORMAT_MAX_COUNT)
		return -EBADMSG;
	memcpy(s.uuid, b + 16, 16);
	s.epoch = get64(b + 32);
	s.created_s = get64(b + 64);
	*out = s;
	return 0;
}

uint32_t format_super_version(const void *block)
{
	return block_is(block, super_magic) ? get32((const uint8_t *)block + 8) : 0;
}

/* ---- segment header and seal ---------------------------------------------------------------------------------------- */

void format_segment_encode(const struct format_segment *s, void *block)
{
	uint8_t *b = block_start(block, segment_magic);

	put32(b + 12, s->id);
	memcpy(b + 16, s->uuid, 16);
	put64(b + 32, s->generation);
	put64(b + 40, s->epoch);
	block_finish(b);
}

int format_segment_decode(const void *block, struct format_segment *out)
{
	const uint8_t *b = block;

	if (!block_is(b, segment_magic) || get32(b + 8) != FORMAT_VERSION || get64(b + 32) > FORMAT_MAX_COUNT ||
	    get64(b + 40) > FORMAT_MAX_COUNT)
		return -EBADMSG;
	*out = (struct format_segment){.id = get32(b + 12), .generation = get64(b + 32), .epoch = get64(b + 40)};
	memcpy(out->uuid, b + 16, 16);
	return 0;
}

void format_seal_encode(const struct format_seal *s, void *block)
{
	uint8_t *b = block_start(block, seal_magic);

	put32(b + 12, s->id);
	memcpy(b + 16, s->uuid, 16);
	put64(b + 32, s->generation);
	put64(b + 40, s->summary_at);
	put32(b + 48, s->summary_bytes);
	put32(b + 52, s->records);
	put32(b + 56, s->summary_crc);
	block_finish(b);
}

int format_seal_decode(const void *block, struct format_seal *out)
{
	const uint8_t *b = block;

	if (!block_is(b, seal_magic) || get32(b + 8) != FORMAT_VERSION)
		return -EBADMSG;
	uint64_t at = get64(b + 40);
	uint32_t bytes = get32(b + 48), records = get32(b + 52);
	if (at < FORMAT_RECORDS || at % FORMAT_BLOCK || at > FORMAT_MAX_SEGMENT || bytes == 0 || bytes % FORMAT_BLOCK ||
	    bytes > FORMAT_MAX_SUMMARY || at + bytes > FORMAT_MAX_SEGMENT || records > bytes / FORMAT_ENTRY)
		return -EBADMSG;
	*out = (struct format_seal){.id = get32(b + 12),
				    .generation = get64(b + 32),
				    .summary_at = at,
				    .summary_bytes = bytes,
				    .records = records,
				    .summary_crc = get32(b + 56)};
	memcpy(out->uuid, b + 16, 16);
	return 0;
}

/* ---- record ----------------------------------------------------------------------------------------------------------- */

enum {
	RECORD_COUNT = 36,
	RECORD_BODY = 64,
	OBJECT_BYTES = RECORD_BODY + STORE_HASH_BYTES,
	OBJECT_NAME = OBJECT_BYTES + 8,
	OBJECT_LAYOUT = OBJECT_NAME + 8,
	OBJECT_TEXTS = OBJECT_LAYOUT + SEG_DIGEST,
	OBJECT_SUMS = OBJECT_TEXTS + 8,
	OBJECT_MODEL = OBJECT_SUMS + 4 * FORMAT_MAX_SUMS,
	OBJECT_SALT = OBJECT_MODEL + SEG_MAX_MODEL,
	OBJECT_END = OBJECT_SALT + SEG_MAX_SALT,
	REMOVAL_ENTRY = SEG_DIGEST + STORE_HASH_BYTES,
	REMOVAL_END = RECORD_BODY + FORMAT_REMOVALS * REMOVAL_ENTRY,
};
_Static_assert(OBJECT_END <= BLOCK_SUM && REMOVAL_END <= BLOCK_SUM, "a record header is one block");
_Static_assert(FORMAT_MAX_SUMS == SEG_MAX_BYTES / CRC_BLOCK, "every object has room for its checksums");

static void put_object(const struct format_record *r, uint8_t *b)
{
	uint32_t n = crc_blocks(r->bytes);

	put32(b + RECORD_COUNT, n);
	memcpy(b + RECORD_BODY, r->hash.b, STORE_HASH_BYTES);
	put64(b + OBJECT_BYTES, r->bytes);
	put32(b + OBJECT_NAME, r->name.kv_rank);
	put32(b + OBJECT_NAME + 4, r->name.object_group);
	memcpy(b + OBJECT_LAYOUT, r->name.layout, SEG_DIGEST);
	put16(b + OBJECT_TEXTS, (uint16_t)r->name.model.n);
	put16(b + OBJECT_TEXTS + 2, (uint16_t)r->name.salt.n);
	for (uint32_t i = 0; i < n && i < FORMAT_MAX_SUMS; i++)
		put32(b + OBJECT_SUMS + 4 * (size_t)i, r->sums[i]);
	if (r->name.model.n)
		memcpy(b + OBJECT_MODEL, r->name.model.p, r->name.model.n);
	if (r->name.salt.n)
		memcpy(b + OBJECT_SALT, r->name.salt.p, r->name.salt.n);
}

static void put_removal(const struct format_record *r, uint8_t *b)
{
	put32(b + RECORD_COUNT, r->nremoved);
	for (uint32_t i = 0; i < r->nremoved; i++) {
		uint8_t *at = b + RECORD_BODY + (size_t)i * REMOVAL_ENTRY;

		memcpy(at, r->removed[i].name, SEG_DIGEST);
		memcpy(at + SEG_DIGEST, r->removed[i].hash.b, STORE_HASH_BYTES);
	}
}

void format_record_encode(const struct format_record *r, void *block)
{
	uint8_t *b = block_start(block, record_magic);

	put32(b + 12, (uint32_t)r->kind);
	memcpy(b + 16, r->uuid, 16);
	put32(b + 32, r->segment);
	put64(b + 40, r->generation);
	put64(b + 48, r->offset);
	put64(b + 56, r->sequence);
	if (r->kind == FORMAT_OBJECT)
		put_object(r, b);
	else
		put_removal(r, b);
	block_finish(b);
}

static int get_object(const uint8_t *b, struct format_record *out)
{
	uint32_t n = get32(b + RECORD_COUNT);
	size_t model = get16(b + OBJECT_TEXTS), salt = get16(b + OBJECT_TEXTS + 2);

	out->bytes = get64(b + OBJECT_BYTES);
	if (out->bytes == 0 || out->bytes > SEG_MAX_BYTES || n != crc_blocks(out->bytes) || model > SEG_MAX_MODEL ||
	    salt > SEG_MAX_SALT)
		return -EBADMSG;
	memcpy(out->hash.b, b + RECORD_BODY, STORE_HASH_BYTES);
	out->name.kv_rank = get32(b + OBJECT_NAME);
	out->name.object_group = get32(b + OBJECT_NAME + 4);
	memcpy(out->name.layout, b + OBJECT_LAYOUT, SEG_DIGEST);
	out->name.model = slice_of(b + OBJECT_MODEL, model);
	out->name.salt = slice_of(b + OBJECT_SALT, salt);
	for (uint32_t i = 0; i < n; i++)
		out->sums[i] = get32(b + OBJECT_SUMS + 4 * (size_t)i);
	return 0;
}

static int get_removal(const uint8_t *b, struct format_record *out)
{
	uint32_t n = get32(b + RECORD_COUNT);

	if (n == 0 || n > FORMAT_REMOVALS)
		return -EBADMSG;
	out->nremoved = n;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *at = b + RECORD_BODY + (size_t)i * REMOVAL_ENTRY;

		memcpy(out->removed[i].name, at, SEG_DIGEST);
		memcpy(out->removed[i].hash.b, at + SEG_DIGEST, STORE_HASH_BYTES);
	}
	return 0;
}

/* The fields of `out` that its kind does not have are left as they are: clearing 6 KiB for every record would cost more than decoding it.
 * `out` counts as filled only when 0 is returned. */
int format_record_decode(const void *block, const struct format_super *s, uint32_t segment, uint64_t offset,
			 struct format_record *out)
{
	const uint8_t *b = block;
	uint64_t start, inside;

	if (memcmp(b, record_magic, 8) != 0 || segment >= s->segments)
		return -EBADMSG;
	start = format_segment_at(s, segment);
	inside = offset - start;
	if (offset < start || inside < FORMAT_RECORDS || inside % FORMAT_BLOCK || inside >= s->segment_bytes ||
	    !block_is(b, record_magic) || get32(b + 8) != FORMAT_VERSION || memcmp(b + 16, s->uuid, 16) != 0 ||
	    get32(b + 32) != segment || get64(b + 40) > FORMAT_MAX_COUNT || get64(b + 48) != offset ||
	    get64(b + 56) > FORMAT_MAX_COUNT)
		return -EBADMSG;
	uint32_t kind = get32(b + 12);
	out->bytes = 0;
	out->nremoved = 0;
	int rc = kind == FORMAT_OBJECT ? get_object(b, out) : kind == FORMAT_REMOVAL ? get_removal(b, out) : -EBADMSG;
	if (rc || format_record_bytes(out->bytes) > s->segment_bytes - inside)
		return -EBADMSG;
	memcpy(out->uuid, b + 16, 16);
	out->kind = (enum format_kind)kind;
	out->segment = segment;
	out->generation = get64(b + 40);
	out->offset = offset;
	out->sequence = get64(b + 56);
	return 0;
}
