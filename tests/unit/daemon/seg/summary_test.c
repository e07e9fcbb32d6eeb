/* Summaries: their bytes, what fits, and that nothing damaged or lying is taken. */
#include "daemon/seg/format.h"

#include "daemon/base/crc32c.h"
#include "daemon/seg/seg.h"
#include "tests/unit/daemon/seg/image.h"

#include <errno.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <cmocka.h>

#define MIB 1048576u

struct bench {
	struct format_super super;
	struct seg_names *names;
	struct format_summary *s;
	struct format_seal seal;
	uint8_t *out;
};

static void start(struct bench *b, uint32_t max)
{
	assert_int_equal(format_geometry(1ull << 32, 256 * MIB, &b->super), 0);
	memset(b->super.uuid, 0xa5, 16);
	assert_int_equal(seg_names_create(&b->names), 0);
	b->s = calloc(1, format_summary_size(max));
	b->out = malloc(FORMAT_MAX_SUMMARY);
	assert_true(b->s && b->out);
	b->seal = (struct format_seal){.id = 4, .generation = 0x0807060504030201, .summary_at = 16 * MIB};
	memcpy(b->seal.uuid, b->super.uuid, 16);
	format_summary_start(b->s, max, b->names);
}

static void end(struct bench *b)
{
	seg_names_destroy(b->names);
	free(b->s);
	free(b->out);
}

static uint32_t number_of(struct bench *b, struct seg_name n)
{
	uint32_t number = seg_name_get(b->names, &n);

	assert_true(number);
	return number;
}

static struct format_entry object(uint32_t name, uint64_t i)
{
	return (struct format_entry){.kind = FORMAT_OBJECT,
				     .name = name,
				     .hash = image_hash(i),
				     .at = FORMAT_RECORDS + i * 8192,
				     .bytes = 100 + i,
				     .sequence = 1000 + i,
				     .crc = (uint32_t)(77 * i)};
}

static int open_with(struct bench *b, struct seg_names *names, uint32_t *numbers, uint32_t cap, struct format_reader *r)
{
	return format_summary_open(b->out, b->seal.summary_bytes, &b->seal, &b->super, names, numbers, cap, r);
}

static void hex(const uint8_t *p, size_t n, const char *expected)
{
	char text[513];

	assert_true(n <= 256);
	for (size_t i = 0; i < n; i++)
		snprintf(text + 2 * i, 3, "%02x", p[i]);
	assert_string_equal(text, expected);
}

static void golden(void **state)
{
	(void)state;
	struct bench b;

	start(&b, 10);
	struct seg_name name = {slice_str("ab"), slice_str("c"), 3, 1, {0xd0}};
	struct format_entry e = object(number_of(&b, name), 0),
			    removal = {.kind = FORMAT_REMOVAL, .at = 0x4000, .sequence = 9};
	memset(e.hash.b, 0xee, sizeof(e.hash.b));
	e.crc = 0x04030201;
	assert_true(format_summary_add(b.s, &e) && format_summary_add(b.s, &removal));
	assert_int_equal(format_summary_need(b.s), FORMAT_BLOCK);
	memset(b.out, 0xff, FORMAT_BLOCK);
	format_summary_finish(b.s, b.out, &b.seal);
	hex(b.out, 96,
	    "4c4d434153554d4d"
	    "01000000"
	    "04000000"
	    "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5"
	    "0102030405060708"
	    "02000000"
	    "01000000"
	    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000");
	hex(b.out + 96, 96,
	    "01000000"
	    "00000000"
	    "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
	    "0020000000000000"
	    "6400000000000000"
	    "e803000000000000"
	    "01020304"
	    "00000000000000000000000000000000000000000000000000000000");
	hex(b.out + 192, 72,
	    "02000000"
	    "00000000"
	    "0000000000000000000000000000000000000000000000000000000000000000"
	    "0040000000000000"
	    "0000000000000000"
	    "0900000000000000"
	    "00000000"
	    "00000000");
	hex(b.out + 288, 35,
	    "03000000"
	    "01000000"
	    "d0000000000000000000000000000000"
	    "0200"
	    "0100"
	    "616263"
	    "00000000");
	for (uint32_t i = 288 + 31; i < FORMAT_BLOCK; i++)
		assert_int_equal(b.out[i], 0);
	assert_int_equal(b.seal.summary_bytes, FORMAT_BLOCK);
	assert_int_equal(b.seal.records, 2);
	assert_int_equal(b.seal.summary_crc, crc32c(0, b.out, FORMAT_BLOCK));
	end(&b);
}

/* Read back into another table, whose numbers differ. */
static void round_trip(void **state)
{
	(void)state;
	struct bench b;
	struct seg_names *other;
	uint32_t numbers[8], mine[8];
	struct format_reader r;

	start(&b, 5000);
	assert_int_equal(seg_names_create(&other), 0);
	for (uint32_t m = 8; m-- > 0;) {
		struct seg_name n = image_name(m);

		(void)seg_name_get(other, &n);
	}
	for (uint32_t m = 0; m < 8; m++)
		mine[m] = number_of(&b, image_name(m));
	for (uint64_t i = 0; i < 5000; i++) {
		struct format_entry e = object(mine[i * i % 7], i);

		assert_true(format_summary_add(b.s, &e));
	}
	assert_int_equal(format_summary_count(b.s), 5000);
	struct format_entry more = object(mine[0], 1);
	assert_false(format_summary_add(b.s, &more));
	uint64_t need = format_summary_need(b.s);
	format_summary_finish(b.s, b.out, &b.seal);
	assert_int_equal(b.seal.summary_bytes, need);
	assert_int_equal(open_with(&b, other, numbers, 8, &r), 0);
	assert_int_equal(r.count, 5000);
	assert_int_equal(r.nnames, 4); /* squares modulo 7 are four */
	for (uint64_t i = 0; i < 5000; i++) {
		struct format_entry e, was = object(0, i);
		struct seg_name n = image_name((uint32_t)(i * i % 7));

		assert_int_equal(format_summary_entry(&r, (uint32_t)i, &b.super, &e), 0);
		assert_int_equal(e.name, seg_name_find(other, &n));
		assert_true(e.kind == FORMAT_OBJECT && memcmp(&e.hash, &was.hash, sizeof(e.hash)) == 0 &&
			    e.at == was.at && e.bytes == was.bytes && e.sequence == was.sequence && e.crc == was.crc);
	}
	struct format_entry beyond;
	assert_int_equal(format_summary_entry(&r, 5000, &b.super, &beyond), -EBADMSG);
	assert_int_equal(open_with(&b, other, numbers, 3, &r), -E2BIG);
	assert_int_equal(open_with(&b, NULL, numbers, 8, &r), 0);
	assert_int_equal(numbers[0], 0);
	seg_names_destroy(other);
	end(&b);
}

/* However many records and long names: never more than recovery reads. */
static void bounded(void **state)
{
	(void)state;
	struct bench b;
	char model[SEG_MAX_MODEL];
	uint32_t n = 0, numbers = 0;

	start(&b, UINT32_MAX);
	memset(model, 'm', sizeof(model));
	for (;; n++) {
		struct seg_name name = {slice_of(model, sizeof(model)), slice_of(model, SEG_MAX_SALT), n / 3, 0, {0}};
		struct format_entry e = object(number_of(&b, name), n % 100);

		if (!format_summary_add(b.s, &e))
			break;
		numbers = n / 3;
	}
	assert_true(format_summary_need(b.s) <= FORMAT_MAX_SUMMARY);
	assert_true(format_summary_need(b.s) > FORMAT_MAX_SUMMARY - 2 * FORMAT_BLOCK);
	assert_true(numbers > 2000);
	format_summary_finish(b.s, b.out, &b.seal);
	uint32_t *got = calloc(SEG_NAMES_MAX, sizeof(*got));
	struct format_reader r;
	assert_int_equal(open_with(&b, b.names, got, SEG_NAMES_MAX, &r), 0);
	assert_int_equal(r.count, n);
	free(got);
	/* One name: as many records as fit. */
	format_summary_start(b.s, UINT32_MAX, b.names);
	for (n = 0;; n++) {
		struct format_entry e = object(1, n % 100);

		if (!format_summary_add(b.s, &e))
			break;
	}
	assert_true(n > 43000 && format_summary_need(b.s) <= FORMAT_MAX_SUMMARY);
	end(&b);
}

static void damage(void **state)
{
	(void)state;
	struct bench b;
	uint32_t numbers[4];
	struct format_reader r;

	start(&b, 20);
	for (uint64_t i = 0; i < 20; i++) {
		struct format_entry e = object(number_of(&b, image_name(i % 2)), i);

		assert_true(format_summary_add(b.s, &e));
	}
	format_summary_finish(b.s, b.out, &b.seal);
	assert_int_equal(open_with(&b, b.names, numbers, 4, &r), 0);
	for (uint32_t bit = 0; bit < 8 * FORMAT_BLOCK; bit++) {
		b.out[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
		b.out[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	/* A whole summary, of something else. */
	struct format_seal right = b.seal;
	b.seal.id++;
	assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
	b.seal = right;
	b.seal.generation++;
	assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
	b.seal = right;
	b.seal.records--;
	assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
	b.seal = right;
	b.super.uuid[0] ^= 1;
	assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
	b.super.uuid[0] ^= 1;
	/* Checksum right, contents not: names that leave the summary, more names than records. */
	static const struct {
		uint32_t at;
		uint8_t value;
	} lies[] = {{96 * 21 + 25, 0x40}, {96 * 21 + 27, 0xff}, {44, 21}, {47, 0xff}, {40, 19}, {0, 'X'}, {8, 2}};
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		uint8_t was = b.out[lies[i].at];

		b.out[lies[i].at] = lies[i].value;
		b.seal.summary_crc = crc32c(0, b.out, b.seal.summary_bytes);
		assert_int_equal(open_with(&b, b.names, numbers, 4, &r), -EBADMSG);
		b.out[lies[i].at] = was;
	}
	end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden),
		cmocka_unit_test(round_trip),
		cmocka_unit_test(bounded),
		cmocka_unit_test(damage),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
