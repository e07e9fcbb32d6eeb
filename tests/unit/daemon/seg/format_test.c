/* Blocks of the medium: their bytes are a promise to every later release, and no flipped bit may go unseen. */
#include "daemon/seg/format.h"

#include "daemon/base/crc32c.h"
#include "daemon/seg/seg.h"

#include <errno.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static struct format_super small(void)
{
	struct format_super s;

	assert_int_equal(format_geometry(64u << 20, 4u << 20, &s), 0);
	for (unsigned i = 0; i < 16; i++)
		s.uuid[i] = (uint8_t)(0xa0 + i);
	s.epoch = 0x1122334455667788;
	s.created_s = 1790000000;
	return s;
}

static struct format_record *object_of(const struct format_super *s)
{
	struct format_record *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	memcpy(r->uuid, s->uuid, 16);
	r->segment = 9;
	r->generation = 77;
	r->offset = format_segment_at(s, 9) + 16 * FORMAT_BLOCK;
	r->sequence = 0x0102030405060708;
	r->kind = FORMAT_OBJECT;
	r->name = (struct seg_name){slice_str("llama"), slice_str("tenant"), 3, 2, {0xd0, 0xd1, 0xd2}};
	for (unsigned i = 0; i < STORE_HASH_BYTES; i++)
		r->hash.b[i] = (uint8_t)(i + 1);
	r->bytes = 2 * CRC_BLOCK + 5;
	r->sums[0] = 0x11111111;
	r->sums[1] = 0x22222222;
	r->sums[2] = 0x33333333;
	return r;
}

static struct format_record *removal_of(const struct format_super *s, uint32_t n)
{
	struct format_record *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	memcpy(r->uuid, s->uuid, 16);
	r->segment = 0;
	r->generation = 5;
	r->offset = format_segment_at(s, 0) + FORMAT_RECORDS;
	r->sequence = 99;
	r->kind = FORMAT_REMOVAL;
	r->nremoved = n;
	for (uint32_t i = 0; i < n; i++) {
		memset(r->removed[i].name, (int)(0x40 + i), SEG_DIGEST);
		memset(r->removed[i].hash.b, (int)(0x80 + i), STORE_HASH_BYTES);
	}
	return r;
}

/* ---- golden bytes -------------------------------------------------------------------------------------------------- */

/* Pieces of a block; what they do not cover is zero. */
struct piece {
	uint32_t at;
	const char *hex;
};

static void assert_block(const uint8_t *block, const struct piece *p, size_t n)
{
	uint8_t expected[FORMAT_BLOCK] = {0};

	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; p[i].hex[2 * k]; k++) {
			unsigned byte;

			assert_int_equal(sscanf(p[i].hex + 2 * k, "%2x", &byte), 1);
			expected[p[i].at + k] = (uint8_t)byte;
		}
	assert_memory_equal(block, expected, FORMAT_BLOCK);
}
#define assert_golden(block, ...)                                \
	assert_block(block, (const struct piece[]){__VA_ARGS__}, \
		     sizeof((const struct piece[]){__VA_ARGS__}) / sizeof(struct piece))

#define UUID "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"

static void golden_super(void **state)
{
	(void)state;
	struct format_super s = small(), back;
	uint8_t b[FORMAT_BLOCK];

	format_super_encode(&s, 2, b);
	assert_golden(b,
		      {0, "4c4d434153555052"
			  "01000000"
			  "02000000" UUID},
		      {32, "8877665544332211"},
		      {40, "0000000400000000"
			   "0000400000000000"
			   "0f000000"
			   "07000000"},
		      {64, "803bb16a00000000"}, {4092, "6f61bdba"});
	assert_int_equal(format_super_decode(b, 2, &back), 0);
	assert_memory_equal(&s, &back, sizeof(s));
	assert_int_equal(format_super_decode(b, 1, &back), -EBADMSG);
}

static void golden_segment(void **state)
{
	(void)state;
	struct format_super s = small();
	struct format_segment h = {.id = 9, .generation = 77, .epoch = s.epoch}, back;
	struct format_seal seal = {.id = 9,
				   .generation = 77,
				   .summary_at = 0x3f0000,
				   .summary_bytes = 0x2000,
				   .records = 60,
				   .summary_crc = 0xdeadbeef},
			   seal_back;
	uint8_t b[FORMAT_BLOCK];

	memcpy(h.uuid, s.uuid, 16);
	memcpy(seal.uuid, s.uuid, 16);
	format_segment_encode(&h, b);
	assert_golden(b,
		      {0, "4c4d43415345474d"
			  "01000000"
			  "09000000" UUID},
		      {32, "4d00000000000000"}, {40, "8877665544332211"}, {4092, "7cead7ca"});
	assert_int_equal(format_segment_decode(b, &back), 0);
	assert_memory_equal(&h, &back, sizeof(h));
	assert_int_equal(format_seal_decode(b, &seal_back), -EBADMSG);

	format_seal_encode(&seal, b);
	assert_golden(b,
		      {0, "4c4d43415345414c"
			  "01000000"
			  "09000000" UUID},
		      {32, "4d00000000000000"},
		      {40, "00003f0000000000"
			   "00200000"
			   "3c000000"
			   "efbeadde"},
		      {4092, "f6fd6fb5"});
	assert_int_equal(format_seal_decode(b, &seal_back), 0);
	assert_memory_equal(&seal, &seal_back, sizeof(seal));
	assert_int_equal(format_segment_decode(b, &back), -EBADMSG);
}

static void golden_object(void **state)
{
	(void)state;
	struct format_super s = small();
	struct format_record *r = object_of(&s), *back = calloc(1, sizeof(*back));
	uint8_t b[FORMAT_BLOCK];

	assert_non_null(back);
	format_record_encode(r, b);
	assert_golden(b,
		      {0, "4c4d434152454344"
			  "01000000"
			  "01000000" UUID},
		      {32, "09000000"
			   "03000000"},
		      {40, "4d00000000000000"}, {48, "0000710200000000"}, {56, "0807060504030201"},
		      {64, "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"},
		      {96, "0500200000000000"},
		      {104, "03000000"
			    "02000000"},
		      {112, "d0d1d2"},
		      {128, "0500"
			    "0600"},
		      {136, "11111111"
			    "22222222"
			    "33333333"},
		      {2184, "6c6c616d61"}, {3208, "74656e616e74"}, {4092, "f761bc99"});
	assert_int_equal(format_record_decode(b, &s, 9, r->offset, back), 0);
	assert_true(slice_is(back->name.model, "llama") && slice_is(back->name.salt, "tenant"));
	assert_int_equal(back->name.kv_rank, 3);
	assert_int_equal(back->name.object_group, 2);
	assert_memory_equal(back->name.layout, r->name.layout, SEG_DIGEST);
	assert_memory_equal(&back->hash, &r->hash, sizeof(r->hash));
	assert_memory_equal(back->sums, r->sums, 12);
	assert_true(back->kind == FORMAT_OBJECT && back->bytes == r->bytes && back->sequence == r->sequence &&
		    back->generation == 77 && back->segment == 9 && back->offset == r->offset);
	free(r);
	free(back);
}

static void golden_removal(void **state)
{
	(void)state;
	struct format_super s = small();
	struct format_record *r = removal_of(&s, 2), *back = calloc(1, sizeof(*back));
	uint8_t b[FORMAT_BLOCK];

	assert_non_null(back);
	format_record_encode(r, b);
	assert_golden(b,
		      {0, "4c4d434152454344"
			  "01000000"
			  "02000000" UUID},
		      {32, "00000000"
			   "02000000"},
		      {40, "0500000000000000"
			   "0020200000000000"
			   "6300000000000000"},
		      {64, "40404040404040404040404040404040"},
		      {80, "8080808080808080808080808080808080808080808080808080808080808080"},
		      {112, "41414141414141414141414141414141"},
		      {128, "8181818181818181818181818181818181818181818181818181818181818181"}, {4092, "49707a7f"});
	assert_int_equal(format_record_decode(b, &s, 0, r->offset, back), 0);
	assert_int_equal(back->nremoved, 2);
	assert_memory_equal(back->removed, r->removed, 2 * sizeof(r->removed[0]));
	free(r);
	free(back);
}

/* ---- damage --------------------------------------------------------------------------------------------------------- */

enum block_kind { SUPER, SEGMENT, SEAL, OBJECT, REMOVAL };

static int decode(enum block_kind kind, const uint8_t *b, struct format_record *r)
{
	struct format_super s = small(), super;
	struct format_segment h;
	struct format_seal seal;

	switch (kind) {
	case SUPER:
		return format_super_decode(b, 0, &super);
	case SEGMENT:
		return format_segment_decode(b, &h);
	case SEAL:
		return format_seal_decode(b, &seal);
	case OBJECT:
		return format_record_decode(b, &s, 9, format_segment_at(&s, 9) + 16 * FORMAT_BLOCK, r);
	default:
		return format_record_decode(b, &s, 0, format_segment_at(&s, 0) + FORMAT_RECORDS, r);
	}
}

static void encode(enum block_kind kind, uint8_t *b)
{
	struct format_super s = small();
	struct format_segment h = {.id = 1, .generation = 2, .epoch = 3};
	struct format_seal seal = {
		.id = 1, .generation = 2, .summary_at = 0x10000, .summary_bytes = 0x1000, .records = 3};
	struct format_record *r = kind == OBJECT ? object_of(&s) : removal_of(&s, FORMAT_REMOVALS);

	if (kind == SUPER)
		format_super_encode(&s, 0, b);
	else if (kind == SEGMENT)
		format_segment_encode(&h, b);
	else if (kind == SEAL)
		format_seal_encode(&seal, b);
	else
		format_record_encode(r, b);
	free(r);
}

static void every_bit_counts(void **state)
{
	(void)state;
	struct format_record *r = calloc(1, sizeof(*r));
	uint8_t b[FORMAT_BLOCK];

	assert_non_null(r);
	for (int kind = SUPER; kind <= REMOVAL; kind++) {
		encode((enum block_kind)kind, b);
		assert_int_equal(decode((enum block_kind)kind, b, r), 0);
		for (uint32_t bit = 0; bit < 8 * FORMAT_BLOCK; bit++) {
			b[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (decode((enum block_kind)kind, b, r) != -EBADMSG)
				fail_msg("kind %d: bit %u flipped and not seen", kind, bit);
			b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	free(r);
}

static void seal_block(uint8_t *b)
{
	uint32_t crc = crc32c(0, b, FORMAT_BLOCK - 4);

	for (unsigned i = 0; i < 4; i++)
		b[FORMAT_BLOCK - 4 + i] = (uint8_t)(crc >> 8 * i);
}

/* A block whose checksum is right but whose field at `at` says `value`: hostile, not rotten. */
static int patched(enum block_kind kind, uint32_t at, uint64_t value, unsigned width, struct format_record *r)
{
	uint8_t b[FORMAT_BLOCK];

	encode(kind, b);
	for (unsigned i = 0; i < width; i++)
		b[at + i] = (uint8_t)(value >> 8 * i);
	seal_block(b);
	return decode(kind, b, r);
}

static void hostile_fields_are_refused(void **state)
{
	(void)state;
	struct format_record *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	assert_int_equal(patched(SUPER, 8, 2, 4, r), -EPROTONOSUPPORT);
	assert_int_equal(patched(SUPER, 12, 1, 4, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 40, 1ull << 50, 8, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 40, (64u << 20) + 1, 8, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 48, 0, 8, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 56, 16, 4, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 60, 8, 4, r), -EBADMSG);
	assert_int_equal(patched(SEGMENT, 8, 2, 4, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 40, 4096, 8, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 40, 8193, 8, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 40, ~0ull << 12, 8, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 48, 0, 4, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 48, 0xfffff000, 4, r), -EBADMSG);
	assert_int_equal(patched(SEAL, 52, 0x40000000, 4, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 12, 3, 4, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 16, 0, 1, r), -EBADMSG); /* another store */
	assert_int_equal(patched(OBJECT, 32, 8, 4, r), -EBADMSG); /* another segment */
	assert_int_equal(patched(OBJECT, 36, 4, 4, r), -EBADMSG); /* more checksums than sub-blocks */
	assert_int_equal(patched(OBJECT, 48, 0, 8, r), -EBADMSG); /* another place */
	assert_int_equal(patched(OBJECT, 96, 0, 8, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 96, ~0ull, 8, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 128, SEG_MAX_MODEL + 1, 2, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 130, SEG_MAX_SALT + 1, 2, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 128, SEG_MAX_MODEL, 2, r), 0);
	assert_int_equal(patched(OBJECT, 56, FORMAT_MAX_COUNT + 1, 8, r), -EBADMSG);
	assert_int_equal(patched(OBJECT, 40, FORMAT_MAX_COUNT + 1, 8, r), -EBADMSG);
	assert_int_equal(patched(SEGMENT, 32, FORMAT_MAX_COUNT + 1, 8, r), -EBADMSG);
	assert_int_equal(patched(SEGMENT, 40, UINT64_MAX, 8, r), -EBADMSG);
	assert_int_equal(patched(SUPER, 32, UINT64_MAX, 8, r), -EBADMSG);
	assert_int_equal(patched(REMOVAL, 36, FORMAT_REMOVALS + 1, 4, r), -EBADMSG);
	assert_int_equal(patched(REMOVAL, 36, 0, 4, r), -EBADMSG);
	assert_int_equal(patched(REMOVAL, 40, 6, 8, r), 0); /* the generation is for the reader to compare */
	assert_int_equal(r->generation, 6);
	free(r);
}

/* The last object that fits its segment is one; a block more is not. */
static void records_end_with_their_segment(void **state)
{
	(void)state;
	struct format_super s = small();
	struct format_record *r = object_of(&s), *back = calloc(1, sizeof(*back));
	uint8_t b[FORMAT_BLOCK];
	uint64_t room = s.segment_bytes - 17 * FORMAT_BLOCK;

	assert_non_null(back);
	for (int more = 0; more < 2; more++) {
		r->bytes = room + (uint64_t)more;
		format_record_encode(r, b);
		assert_int_equal(format_record_decode(b, &s, 9, r->offset, back), more ? -EBADMSG : 0);
	}
	r->bytes = FORMAT_BLOCK;
	const uint64_t at[] = {format_segment_at(&s, 9),
			       format_segment_at(&s, 9) + FORMAT_BLOCK,
			       format_segment_at(&s, 10),
			       r->offset + 1,
			       0,
			       UINT64_MAX - 4095};
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		r->offset = at[i];
		format_record_encode(r, b);
		assert_int_equal(format_record_decode(b, &s, 9, at[i], back), -EBADMSG);
	}
	assert_int_equal(format_record_decode(b, &s, s.segments, r->offset, back), -EBADMSG);
	assert_int_equal(format_record_bytes(1), 2 * FORMAT_BLOCK);
	assert_int_equal(format_record_bytes(FORMAT_BLOCK + 1), 3 * FORMAT_BLOCK);
	free(r);
	free(back);
}

/* ---- geometry ------------------------------------------------------------------------------------------------------ */

static void assert_geometry(uint64_t bytes, uint64_t segment)
{
	struct format_super s;
	uint64_t last = 0;

	assert_int_equal(format_geometry(bytes, segment, &s), 0);
	assert_true(s.segments >= FORMAT_MIN_SEGMENTS && s.mid > 0 && s.mid < s.segments);
	assert_true(bytes - s.bytes < FORMAT_BLOCK && s.bytes % FORMAT_BLOCK == 0);
	/* Segments and the blocks of the copies do not touch each other, and all lie within. */
	for (uint32_t i = 0; i < s.segments; i++) {
		uint64_t at = format_segment_at(&s, i);

		assert_true(at >= last && at % FORMAT_BLOCK == 0);
		last = at + s.segment_bytes;
		for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
			uint64_t copy = format_super_at(&s, c);

			assert_true(copy + FORMAT_BLOCK <= at || copy >= last);
		}
	}
	assert_true(last <= format_super_at(&s, 3) && format_super_at(&s, 3) + FORMAT_BLOCK <= s.bytes);
	assert_true(format_super_at(&s, 0) < format_super_at(&s, 1) &&
		    format_super_at(&s, 1) < format_super_at(&s, 2) && format_super_at(&s, 2) < format_super_at(&s, 3));
	/* Nothing but less than a segment is left over. */
	assert_true(s.bytes - FORMAT_RESERVED - last < s.segment_bytes);
}

static void geometry(void **state)
{
	(void)state;
	struct format_super s;

	assert_geometry(8u << 20, 1u << 20);
	assert_geometry((8u << 20) + 4095, 1u << 20);
	assert_geometry((4u << 20) + (256u << 10), 64u << 10);
	assert_geometry(100u << 20, 12u << 20);
	assert_geometry(1ull << 40, 256u << 20);
	assert_geometry((3ull << 40) + 12345678, 1u << 30);
	assert_geometry(FORMAT_MAX_BYTES, 256u << 20);
	assert_int_equal(format_geometry(FORMAT_MAX_BYTES + 1, 256u << 20, &s), -EFBIG);
	assert_int_equal(format_geometry((8u << 20) - 1, 1u << 20, &s), -EINVAL);
	assert_int_equal(format_geometry(0, 1u << 20, &s), -EINVAL);
	assert_int_equal(format_geometry(1ull << 40, (1u << 20) + 1, &s), -EINVAL);
	assert_int_equal(format_geometry(1ull << 40, (1u << 30) + 4096, &s), -EINVAL);
	assert_int_equal(format_geometry(1ull << 40, 4096, &s), -EINVAL);
	/* The last block of the largest store is one that an index of 32 bits can name. */
	assert_int_equal(format_geometry(FORMAT_MAX_BYTES, 1u << 30, &s), 0);
	assert_true((format_segment_at(&s, s.segments - 1) + s.segment_bytes) / FORMAT_BLOCK <= UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_super),
		cmocka_unit_test(golden_segment),
		cmocka_unit_test(golden_object),
		cmocka_unit_test(golden_removal),
		cmocka_unit_test(every_bit_counts),
		cmocka_unit_test(hostile_fields_are_refused),
		cmocka_unit_test(records_end_with_their_segment),
		cmocka_unit_test(geometry),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
