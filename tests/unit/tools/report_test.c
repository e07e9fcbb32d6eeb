/* Boxes and JSON, byte for byte. Source of the boxes: shared surface reference, section 4. */
#include "tools/report.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect(struct report *r, enum report_format format, const char *golden)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	assert_int_equal(report_write(r, format, f), 0);
	fclose(f);
	assert_string_equal(text, golden);
	free(text);
	report_destroy(r);
}

static struct report *ping(void)
{
	struct report *r = report_create("Ping KV Cache", 30);
	report_text(r, "Status", "status", "OK");
	report_real(r, "Round trip time (ms)", "round_trip_time_ms", 0.4199);
	return r;
}

static void t01_ping_box(void **state)
{
	(void)state;
	expect(ping(), REPORT_TERMINAL,
	       "======= Ping KV Cache ========\n"
	       "Status:                     OK\n"
	       "Round trip time (ms):     0.42\n"
	       "==============================\n");
}

static void t02_clear_box(void **state)
{
	(void)state;
	struct report *r = report_create("KV Cache Clear", 48);
	report_text(r, "Status", "status", "OK");
	expect(r, REPORT_TERMINAL,
	       "================ KV Cache Clear ================\n"
	       "Status:                                       OK\n"
	       "================================================\n");
}

static void t03_json(void **state)
{
	(void)state;
	expect(ping(), REPORT_JSON,
	       "{\n  \"title\": \"Ping KV Cache\",\n  \"metrics\": {\n    \"status\": \"OK\",\n"
	       "    \"round_trip_time_ms\": 0.42\n  }\n}\n");
}

static void t04_csv(void **state)
{
	(void)state;
	struct report *r = ping();
	report_text(r, "Note", "note", "a,\"b\"");
	report_section(r, "inner", false, "Inner");
	report_int(r, "Hidden", "hidden", 1);
	expect(r, REPORT_CSV, "status,round_trip_time_ms,note\nOK,0.42,\"a,\"\"b\"\"\"\n");
}

static void t05_sections(void **state)
{
	(void)state;
	struct report *r = report_create("T", 20);
	report_section(r, "models", true, "Model: %s", "a");
	report_int(r, "N", "n", 1);
	report_section(r, "models", true, "Model: %s", "bb");
	report_int(r, "N", "n", 2);
	report_section(r, "once", false, "Once");
	report_real(r, "X", "x", NAN);
	report_section(r, NULL, false, "Top");
	report_both(r, "Y", "y", json_integer(7), "%s", "seven");
	struct report *same = r;
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	assert_int_equal(report_write(same, REPORT_TERMINAL, f), 0);
	fclose(f);
	assert_string_equal(text, "======== T =========\n"
				  "----- Model: a -----\n"
				  "N:                 1\n"
				  "---- Model: bb -----\n"
				  "N:                 2\n"
				  "------- Once -------\n"
				  "X:               N/A\n"
				  "------- Top --------\n"
				  "Y:             seven\n"
				  "====================\n");
	free(text);
	expect(r, REPORT_JSON,
	       "{\n  \"title\": \"T\",\n  \"metrics\": {\n    \"models\": [\n      {\n        \"n\": 1\n      },\n"
	       "      {\n        \"n\": 2\n      }\n    ],\n    \"once\": {\n      \"x\": null\n    },\n"
	       "    \"y\": 7\n  }\n}\n");
}

static void t06_wide_and_hostile_values(void **state)
{
	(void)state;
	struct report *r = report_create("W", 12);
	report_text(r, "A", "a", "longer than the box");
	report_text(r, "B", "b", "\x1b[2J\n"); /* would clear the terminal */
	report_text(r, "C", "c", "\xc3\xa9");  /* one column */
	report_text(r, "D", "d", "\xff");      /* no UTF-8 */
	expect(r, REPORT_TERMINAL,
	       "==== W =====\n"
	       "A: longer than the box\n"
	       "B:     ?[2J?\n"
	       "C:         \xc3\xa9\n"
	       "D:         ?\n"
	       "============\n");
}

static void t07_out_of_memory(void **state)
{
	(void)state;
	bool done = false;
	for (uint64_t n = 1; !done; n++) {
		char *text = NULL;
		size_t size = 0;
		FILE *f = open_memstream(&text, &size);
		mem_fail_at(n);
		struct report *r = report_create("T", 30);
		if (r)
			report_text(r, "Row", "row", "value");
		int rc = r ? report_write(r, REPORT_TERMINAL, f) : -ENOMEM;
		mem_fail_at(0);
		report_destroy(r);
		fclose(f);
		free(text);
		assert_true(rc == 0 || rc == -ENOMEM);
		done = rc == 0;
		assert_true(n < 100);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_ping_box),      cmocka_unit_test(t02_clear_box),
		cmocka_unit_test(t03_json),          cmocka_unit_test(t04_csv),
		cmocka_unit_test(t05_sections),      cmocka_unit_test(t06_wide_and_hostile_values),
		cmocka_unit_test(t07_out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
