/* Pictures of machines for a terminal: width, plain ASCII, what must be seen; and the canvas they are drawn on. */
#include "tools/numa_picture.h"

#include "daemon/base/mem.h"
#include "tests/unit/tools/numa_machines.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static char text[262144];

static const char *print(struct machine *m, bool pools, bool ascii, bool colour)
{
	struct numa_view *v;
	struct canvas_style style = {ascii, colour};
	assert_int_equal(view_of_plan(m, NULL, "", &v, NULL), 0);
	if (pools)
		hand_pools(v);
	FILE *out = fmemopen(text, sizeof(text), "w");
	assert_int_equal(picture_print(v, &style, out), 0);
	fclose(out);
	view_destroy(v);
	if (getenv("LMCA_SHOW"))
		fputs(text, stderr);
	return text;
}

/* Characters, not bytes; nothing but printable ones; ASCII has one byte each. */
static void in_80_columns(const char *at, bool ascii)
{
	unsigned col = 0;
	for (; *at; at++) {
		unsigned char c = (unsigned char)*at;
		if (c == '\n') {
			col = 0;
			continue;
		}
		assert_true(c >= ' ' && c != 0x7f && (!ascii || c < 0x7f));
		col += (c & 0xc0) != 0x80;
		assert_in_range(col, 1, 80);
	}
}

static void t01_every_machine_fits(void **state)
{
	(void)state;
	struct machine *all[] = {hand_1node(),
				 hand_gpus("eight", 2, 8),
				 hand_gpus("sixteen", 8, 16),
				 hand_gpus("four", 4, 8),
				 hand_create("many", 40, 2, GIB),
				 hand_odd()};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		for (int k = 0; k < 4; k++)
			in_80_columns(print(all[i], k & 1, k & 2, false), k & 2);
		hand_destroy(all[i]);
	}
}

static void has(const char *words)
{
	if (!strstr(text, words))
		fail_msg("'%s' is not in\n%s", words, text);
}

static void t02_shows_what_is_there(void **state)
{
	(void)state;
	struct machine *m = hand_gpus("eight", 2, 8);
	print(m, true, true, false);
	has("eight");
	has("2 nodes, 64 cores, 64 CPUs, 2 TiB; 8 GPUs, 8 RDMA, 2 NICs, 8 NVMe");
	has("+- node 1, package 1 -");
	has("1 TiB, 640 GiB free");
	has("1 GiB: 256/256 free");
	has("256 GiB");
	has("transfer 0-5,");
	has("PIX +");
	has("enp129s0f0np0");
	has("node 1      21   10");
	hand_destroy(m);
}

static void t03_unknown_is_a_question_mark_with_its_source(void **state)
{
	(void)state;
	struct machine *m = hand_odd();
	print(m, false, true, false);
	has("+- node ?, devices whose node no source says -");
	has("/numa_node: -1");
	has("no source");
	has("dispu");
	has("hidden by our cpuset");
	has("2 nodes, 200 to 300");
	has("no memory, no CPUs, no devices");
	assert_null(strchr(text, '\033'));
	hand_destroy(m);
}

static void t04_colour_only_by_request(void **state)
{
	(void)state;
	struct machine *m = hand_1node();
	assert_null(strchr(print(m, true, false, false), '\033'));
	print(m, true, false, true);
	has("\033[0;32m");
	assert_int_equal(strcmp(text + strlen(text) - 1, "\n"), 0);
	hand_destroy(m);
}

static void t05_canvas_clips_and_wraps(void **state)
{
	(void)state;
	struct canvas *c = canvas_create(10);
	struct canvas_style ascii = {true, false};
	assert_int_equal(canvas_text(c, 0, 2, 5, INK_PLAIN, "%s", "abcdefgh"), 5);
	assert_int_equal(canvas_text(c, 0, 8, 5, INK_PLAIN, "xyz"), 3);
	assert_int_equal(canvas_wrap(c, 1, 0, 6, INK_PLAIN, "ab cd efghijklm"), 3);
	assert_int_equal(canvas_wrap(c, 4, 0, 6, INK_PLAIN, "0-3,8-11"), 2);
	assert_int_equal(canvas_wrap(c, 6, 0, 6, INK_PLAIN, ""), 1);
	FILE *out = fmemopen(text, sizeof(text), "w");
	assert_int_equal(canvas_write(c, &ascii, out), 0);
	fclose(out);
	assert_string_equal(text, "  abcd~ xy\nab cd\nefghij\nklm\n0-3,\n8-11\n\n");
	canvas_destroy(c);
}

static void t06_out_of_memory_is_an_error(void **state)
{
	(void)state;
	struct machine *m = hand_gpus("eight", 2, 8);
	struct canvas_style style = {0};
	uint32_t failed = 0;
	for (uint64_t i = 1; i < 100; i++) {
		struct numa_view *v = NULL;
		struct why why = {0};
		FILE *out = fmemopen(text, sizeof(text), "w");
		mem_fail_at(i);
		int rc = view_of_plan(m, NULL, "", &v, &why);
		if (!rc)
			rc = picture_print(v, &style, out);
		mem_fail_at(0);
		view_destroy(v);
		fclose(out);
		if (!rc)
			break;
		assert_int_equal(rc, -ENOMEM);
		failed++;
	}
	assert_in_range(failed, 7, 20);
	hand_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_every_machine_fits),
		cmocka_unit_test(t02_shows_what_is_there),
		cmocka_unit_test(t03_unknown_is_a_question_mark_with_its_source),
		cmocka_unit_test(t04_colour_only_by_request),
		cmocka_unit_test(t05_canvas_clips_and_wraps),
		cmocka_unit_test(t06_out_of_memory_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
