/* format, probe and verify on files: what is refused, what is found, what is told. */
#include "daemon/seg/seg.h"
#include "daemon/seg/tool_int.h"

#include "tests/unit/daemon/seg/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB 1048576u

static char path[128];

static int setup(void **state)
{
	(void)state;
	const char *dir = getenv("TMPDIR");

	snprintf(path, sizeof(path), "%.80s/seg-tool-%d", dir ? dir : "/tmp", (int)getpid());
	unlink(path);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static int format(uint64_t bytes, uint64_t segment, bool force, struct why *why)
{
	const struct seg_format_conf conf = {.path = path, .bytes = bytes, .segment_bytes = segment, .force = force};

	return seg_format(&conf, why);
}

static void write_at(off_t at, const void *p, size_t n)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, p, n, at), (ssize_t)n);
	close(fd);
}

/* A file of zeros of its own. */
static void blank(off_t bytes)
{
	unlink(path);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static struct seg_info info(void)
{
	struct seg_info i;
	struct why why = {0};

	if (seg_probe(path, &i, &why))
		fail_msg("%s", why.text);
	return i;
}

/* ---- format ----------------------------------------------------------------------------------------------------------- */

static void new_file(void **state)
{
	(void)state;
	struct why why = {0};
	struct stat st;

	assert_int_equal(format(0, 0, false, &why), -ENOENT);
	assert_int_equal(format(4 * MIB, 0, false, &why), -EINVAL);
	assert_int_equal(format((1ull << 44) + 1, 0, false, &why), -EFBIG);
	assert_non_null(strstr(why.text, "16 TiB"));
	assert_int_equal(format(64 * MIB, 1000, false, &why), -EINVAL);
	assert_int_equal(access(path, F_OK), -1); /* nothing is left behind */

	assert_int_equal(format(40 * MIB, 0, false, &why), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 40 * MIB);
	assert_true((uint64_t)st.st_blocks * 512 >= 40 * MIB); /* no holes */
	assert_int_equal(st.st_mode & 0777, 0600);
	struct seg_info i = info();
	assert_int_equal(i.content, SEG_OURS);
	assert_true(i.version == FORMAT_VERSION && i.epoch == 1 && i.bytes == 40 * MIB &&
		    i.segment_bytes == 36 * MIB / 16);
	assert_true(i.segments == 16 && i.free_segments == 16 && i.sealed == 0 && i.open == 0);
	assert_true(i.good_superblocks == 4 && !i.in_use && i.created_s > 1700000000);

	/* Again: only by force, as another store whose epoch is newer. */
	assert_int_equal(format(0, 0, false, &why), -EEXIST);
	assert_non_null(strstr(why.text, "--force"));
	assert_int_equal(format(0, 2 * MIB, true, &why), 0);
	struct seg_info j = info();
	assert_true(j.epoch == 2 && j.segment_bytes == 2 * MIB && memcmp(i.uuid, j.uuid, 16) != 0);
	/* A file may grow, and a store may take less than all of it. */
	assert_int_equal(format(50 * MIB, 0, true, &why), 0);
	assert_int_equal(info().bytes, 50 * MIB);
	assert_int_equal(format(20 * MIB, 0, true, &why), 0);
	assert_int_equal(info().bytes, 20 * MIB);
	assert_int_equal(info().epoch, 4);
	assert_int_equal(info().good_superblocks, 4);
}

/* Capacity, objects of 32 MiB that fit, and what they leave unused of it. */
static void usual_segments(void **state)
{
	static const struct {
		uint64_t mib, segments, objects;
	} t[] = {
		{20, 16, 0},              /* segments of 1 MiB */
		{512, 16, 0},             /* of 31 */
		{1024, 16, 16},           /* of 63: one each */
		{2048, 16, 48},           /* of 127 */
		{4096, 16, 112},          /* of 255: 7 each, 12.5 % */
		{5000, 20, 140},          /* not 19 and a rest */
		{64 << 10, 256, 1792},    /* 12.5 % */
		{7 << 20, 28678, 200746}, /* the steps add up to six more */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const struct seg_format_conf conf = {.path = path, .bytes = t[i].mib * MIB};
		struct why why = {0};
		struct format_super s;

		assert_int_equal(tool_geometry(&conf, conf.bytes, &s, &why), 0);
		assert_int_equal(s.segments, t[i].segments);
		assert_in_range(s.segments * s.segment_bytes, (t[i].mib - 4) * MIB * 99 / 100, (t[i].mib - 4) * MIB);
		assert_int_equal(s.segments * ((s.segment_bytes - FORMAT_RECORDS - 2 * FORMAT_BLOCK) /
					       format_record_bytes(32 * MIB)),
				 t[i].objects);
	}
}

/* Nothing but superblocks is written of a new file, unless that is asked for. */
static void written_once(void **state)
{
	struct why why = {0};
	struct stat st;
	double s[2];

	(void)state;
	for (int prewrite = 0; prewrite < 2; prewrite++) {
		const struct seg_format_conf conf = {.path = path, .bytes = 256 * MIB, .prewrite = prewrite};
		struct timespec a, b;
		uint8_t byte = 1;

		unlink(path);
		clock_gettime(CLOCK_MONOTONIC, &a);
		assert_int_equal(seg_format(&conf, &why), 0);
		clock_gettime(CLOCK_MONOTONIC, &b);
		s[prewrite] = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
		assert_int_equal(stat(path, &st), 0);
		assert_true((uint64_t)st.st_blocks * 512 >= 256 * MIB); /* no holes either way */
		int fd = open(path, O_RDONLY);
		assert_int_equal(pread(fd, &byte, 1, 100 * MIB), 1);
		assert_int_equal(byte, 0);
		close(fd);
	}
	print_message("256 MiB formatted in %.3f s, written once in %.3f s\n", s[0], s[1]);
}

static void no_device(void **state)
{
	(void)state;
	struct why why = {0};
	struct seg_format_conf conf = {.path = "/dev/no-such-drive-0", .bytes = 8 * MIB};
	struct seg_info i;

	assert_int_equal(seg_format(&conf, &why), -ENOENT);
	assert_int_equal(access(conf.path, F_OK), -1);
	conf.path = "/dev/null";
	assert_int_equal(seg_format(&conf, &why), -EINVAL);
	conf.path = "/tmp";
	assert_int_equal(seg_format(&conf, &why), -EINVAL);
	assert_int_equal(seg_probe("/nowhere/at/all", &i, &why), -ENOENT);
}

static void assert_foreign(const char *what)
{
	struct why why = {0};
	struct seg_info i = info();

	assert_int_equal(i.content, SEG_FOREIGN);
	if (!strstr(i.foreign, what))
		fail_msg("'%s', expected '%s'", i.foreign, what);
	assert_int_equal(format(0, 0, false, &why), -EEXIST);
	assert_non_null(strstr(why.text, what));
	assert_int_equal(info().content, SEG_FOREIGN);
	assert_int_equal(format(0, 0, true, &why), 0);
	assert_int_equal(info().content, SEG_OURS);
}

static void foreign_contents(void **state)
{
	(void)state;
	uint8_t swap[4096] = {0}, mbr[512] = {0}, lvm[512] = {0};
	static const uint8_t luks[] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};

	blank(16 * MIB);
	assert_int_equal(info().content, SEG_EMPTY);

	swap[1024] = 1;
	swap[1028] = 0xff;
	memcpy(swap + 4086, "SWAPSPACE2", 10);
	write_at(0, swap, sizeof(swap));
	assert_foreign("swap");

	blank(16 * MIB);
	write_at(0, "LMCIDX01", 8);
	assert_foreign("LMCache raw_block store");
	/* The container of an odd sequence number lies behind the first, and the slots behind both. */
	blank(16 * MIB);
	write_at(4 * MIB, "LMCIDX01", 8);
	assert_foreign("LMCache raw_block store");
	blank(16 * MIB);
	write_at(8 * MIB, "LMCBLK01", 8);
	assert_foreign("LMCache raw_block store");

	blank(16 * MIB);
	mbr[446] = 0x80;
	mbr[450] = 0x83;
	mbr[454] = 1;
	mbr[459] = 0x10;
	mbr[510] = 0x55;
	mbr[511] = 0xaa;
	write_at(0, mbr, sizeof(mbr));
	assert_foreign("dos partition table");

	blank(16 * MIB);
	write_at(0, luks, sizeof(luks));
	assert_foreign("LUKS");

	blank(16 * MIB);
	memcpy(lvm, "LABELONE", 8);
	lvm[8] = 1;
	lvm[20] = 32;
	memcpy(lvm + 24, "LVM2 001", 8);
	write_at(512, lvm, sizeof(lvm));
	struct seg_info i = info();
	/* Its checksum is not computed here; a libblkid that insists on it takes the file for one with contents. */
	assert_int_equal(i.content == SEG_FOREIGN || i.content == SEG_EMPTY, 1);

	blank(16 * MIB);
	write_at(0, "a letter to a friend", 20);
	assert_foreign("file with other contents");
}

static void in_use(void **state)
{
	(void)state;
	struct why why = {0};
	struct seg_verify_result r;

	assert_int_equal(format(8 * MIB, 0, false, &why), 0);
	int fd = open(path, O_RDWR);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(format(0, 0, false, &why), -EBUSY);
	assert_int_equal(format(0, 0, true, &why), -EBUSY);
	assert_non_null(strstr(why.text, "in use"));
	assert_int_equal(seg_verify(path, true, NULL, NULL, &r, &why), -EBUSY);
	struct seg_info i = info(); /* looking is safe */
	assert_true(i.in_use && i.content == SEG_OURS && i.epoch == 1);
	close(fd);
	assert_false(info().in_use);
	assert_int_equal(format(0, 0, true, &why), 0);
}

/* ---- verify ------------------------------------------------------------------------------------------------------------ */

struct seen {
	struct seg_record r[64];
	char model[64][16];
	uint32_t n, stop_at;
};

static bool note(void *ctx, const struct seg_record *r)
{
	struct seen *s = ctx;

	assert_true(s->n < 64);
	s->r[s->n] = *r;
	snprintf(s->model[s->n], sizeof(s->model[0]), "%.*s", SLICE_FMT(r->name.model));
	return ++s->n != s->stop_at;
}

/* Two sealed segments of five and three objects and a removal, an open one of two objects. */
static uint8_t *store_file(struct image *im)
{
	struct why why = {0};

	assert_int_equal(format(16 * MIB, 0, true, &why), 0);
	int fd = open(path, O_RDWR);
	uint8_t *m = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	assert_ptr_not_equal(m, MAP_FAILED);
	image_start(im, m, 16 * MIB, MIB);
	image_open(im, 2);
	for (uint64_t k = 0; k < 5; k++)
		image_put(im, 0, k, 5000 + k, k);
	image_seal(im);
	image_open(im, 7);
	for (uint64_t k = 5; k < 8; k++)
		image_put(im, 1, k, 500000 / (k - 3), k);
	image_remove(im, 0, 3, 4);
	image_seal(im);
	image_open(im, 9);
	image_put(im, 2, 8, 10000, 8);
	image_put(im, 2, 9, 10000, 9);
	return m;
}

static struct seg_verify_result verify(bool payload, struct seen *seen)
{
	struct seg_verify_result r;
	struct why why = {0};

	if (seen)
		*seen = (struct seen){0};
	if (seg_verify(path, payload, seen ? note : NULL, seen, &r, &why))
		fail_msg("%s", why.text);
	return r;
}

static void verify_sound(void **state)
{
	(void)state;
	struct image im;
	struct seen *seen = calloc(1, sizeof(*seen));
	uint8_t *m = store_file(&im);

	assert_non_null(seen);
	for (int payload = 0; payload < 2; payload++) {
		struct seg_verify_result r = verify(payload, seen);

		assert_int_equal(r.records, 11);
		assert_true(r.bad_headers + r.bad_payloads + r.io_errors + r.bad_summaries + r.bad_segments +
				    r.unfinished ==
			    0);
		assert_true(r.segments == 3 && r.good_superblocks == 4);
		assert_int_equal(seen->n, 12); /* the removal has two keys */
		for (uint32_t i = 0; i < seen->n; i++)
			assert_true(seen->r[i].error == 0);
		assert_string_equal(seen->model[0], "llama");
		assert_string_equal(seen->model[5], "qwen");
		assert_true(seen->r[8].removed && seen->r[9].removed && !seen->r[10].removed);
		assert_string_equal(seen->model[8], "llama");
		assert_int_equal(seen->r[4].bytes, 5004);
		assert_int_equal(seen->r[5].segment, 7);
		assert_int_equal(seen->r[5].offset, format_segment_at(&im.super, 7) + FORMAT_RECORDS);
	}
	seen->n = 0;
	seen->stop_at = 3;
	struct seg_verify_result r;
	assert_int_equal(seg_verify(path, false, note, seen, &r, NULL), 0);
	assert_int_equal(seen->n, 3);
	struct seg_info i = info();
	assert_true(i.sealed == 2 && i.open == 1 && i.free_segments == i.segments - 3 && i.records == 9);
	free(seen);
	munmap(m, 16 * MIB);
	image_end(&im);
}

static void verify_damaged(void **state)
{
	(void)state;
	struct image im;
	struct seen *seen = calloc(1, sizeof(*seen));
	uint8_t *m = store_file(&im), *two = image_segment(&im, 2), *nine = image_segment(&im, 9);

	assert_non_null(seen);
	two[FORMAT_RECORDS + 3 * FORMAT_BLOCK + 50] ^= 1;                  /* header of object 1 */
	two[FORMAT_RECORDS + 6 * FORMAT_BLOCK + FORMAT_BLOCK + 5001] ^= 1; /* payload of object 2, its last byte */
	nine[im.at - 2 * FORMAT_BLOCK] ^= 1;                               /* of the last record of the open segment */
	memset(m + format_super_at(&im.super, 1), 0, FORMAT_BLOCK);
	struct seg_verify_result r = verify(true, seen);
	assert_int_equal(r.bad_headers, 1);
	assert_int_equal(r.bad_payloads, 1);
	assert_int_equal(r.unfinished, 1);
	assert_int_equal(r.records, 10);
	assert_int_equal(r.good_superblocks, 3);
	assert_true(seen->r[1].error == -EBADMSG && seen->r[2].error == -EILSEQ);
	assert_string_equal(seen->model[1], "llama"); /* as the summary has it */
	assert_int_equal(seen->r[1].bytes, 5001);
	assert_int_equal(seen->r[2].bytes, 5002);
	r = verify(false, seen);
	assert_true(r.bad_headers == 1 && r.bad_payloads == 0);
	/* Without a summary each record is looked for. */
	two[MIB - FORMAT_BLOCK + 500] ^= 1;
	r = verify(true, seen);
	assert_true(r.bad_summaries == 1 && r.records == 9 && r.bad_payloads == 1);
	/* A summary that says other than the record. */
	image_open(&im, 2);
	image_put(&im, 0, 1, 100, 1);
	image_seal(&im);
	im.at = FORMAT_RECORDS;
	image_put(&im, 0, 1, 100, 2);
	r = verify(true, seen);
	assert_int_equal(r.bad_headers, 1);
	free(seen);
	munmap(m, 16 * MIB);
	image_end(&im);
}

static void verify_refused(void **state)
{
	(void)state;
	struct seg_verify_result r;
	struct why why = {0};

	blank(16 * MIB);
	assert_int_equal(seg_verify(path, true, NULL, NULL, &r, &why), -ENOENT);
	assert_int_equal(format(0, 0, false, &why), 0);
	assert_int_equal(truncate(path, 12 * MIB), 0);
	assert_int_equal(seg_verify(path, true, NULL, NULL, &r, &why), -EIO);
	blank(16 * MIB);
	assert_int_equal(format(0, 0, false, &why), 0);
	uint8_t version = 9;
	struct seg_info i = info();
	struct format_super s = {.bytes = i.bytes, .segment_bytes = i.segment_bytes};
	assert_int_equal(format_geometry(i.bytes, i.segment_bytes, &s), 0);
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++) {
		uint8_t b[FORMAT_BLOCK];
		format_super_encode(&s, c, b);
		b[8] = version;
		uint32_t crc = crc32c(0, b, FORMAT_BLOCK - 4);
		memcpy(b + FORMAT_BLOCK - 4, &crc, 4);
		write_at((off_t)format_super_at(&s, c), b, sizeof(b));
	}
	assert_int_equal(seg_verify(path, true, NULL, NULL, &r, &why), -EPROTONOSUPPORT);
	assert_non_null(strstr(why.text, "version 9"));
	assert_int_equal(info().version, 9);
	assert_int_equal(format(0, 0, false, &why), -EEXIST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(new_file, setup, teardown),
		cmocka_unit_test_setup_teardown(usual_segments, setup, teardown),
		cmocka_unit_test_setup_teardown(written_once, setup, teardown),
		cmocka_unit_test_setup_teardown(no_device, setup, teardown),
		cmocka_unit_test_setup_teardown(foreign_contents, setup, teardown),
		cmocka_unit_test_setup_teardown(in_use, setup, teardown),
		cmocka_unit_test_setup_teardown(verify_sound, setup, teardown),
		cmocka_unit_test_setup_teardown(verify_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(verify_refused, setup, teardown),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
