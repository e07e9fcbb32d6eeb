/* show, explain, plan and check of the captures, as people and programs see them: tests/golden/numa. LMCA_UPDATE_GOLDEN writes. */
#include "tools/cli.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const machines[] = {"asym",  "cgroup1", "cpuset", "cxl",     "dgx2",  "disputed", "epyc8",
				       "gh200", "gpu8",    "holes",  "offline", "plain", "vm"};
#define NMACHINES (sizeof(machines) / sizeof(machines[0]))

static char got[1 << 20], wanted[1 << 20];

static int no_server(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return -1;
}

static void read_file(const char *path, char *text, size_t cap)
{
	FILE *f = fopen(path, "re");
	text[f ? fread(text, 1, cap - 1, f) : 0] = '\0';
	if (f) {
		size_t n = (size_t)ftell(f);
		text[n < cap ? n : cap - 1] = '\0';
		fclose(f);
	}
}

/* The exit code; the output is in `got`. */
static int run(const char *command, const char *machine, const char *a, const char *b)
{
	char from[128], path[] = "/tmp/numa_golden_XXXXXX";
	int fd = mkstemp(path);
	close(fd);
	snprintf(from, sizeof(from), "tests/machines/%s.json", machine);
	const char *argv[12] = {"lmcache-appliance", "numa", command, "--from",    from,
				"--output",          path,   a,       a ? b : NULL};
	int argc = 7 + (a != NULL) + (a && b);
	int code = cli_main(argc, (char **)argv, no_server);
	read_file(path, got, sizeof(got));
	unlink(path);
	return code;
}

static void golden(const char *machine, const char *name)
{
	char path[128];
	snprintf(path, sizeof(path), "tests/golden/numa/%s-%s.txt", machine, name);
	if (getenv("LMCA_UPDATE_GOLDEN")) {
		FILE *f = fopen(path, "we");
		assert_non_null(f);
		fputs(got, f);
		fclose(f);
		return;
	}
	read_file(path, wanted, sizeof(wanted));
	if (strcmp(got, wanted) != 0)
		fail_msg("%s differs; make golden and look at the difference. Now:\n%s", path, got);
}

static void in_80_columns(bool ascii)
{
	unsigned col = 0;
	for (const char *at = got; *at; at++) {
		unsigned char c = (unsigned char)*at;
		col = c == '\n' ? 0 : col + ((c & 0xc0) != 0x80);
		assert_true(c == '\n' || (c >= ' ' && (!ascii || c < 0x7f)));
		if (col > 80)
			fail_msg("more than 80 columns:\n%s", got);
	}
}

static void t01_show(void **state)
{
	(void)state;
	for (size_t i = 0; i < NMACHINES; i++) {
		assert_int_equal(run("show", machines[i], "--plan", "--ascii"), CLI_OK);
		in_80_columns(true);
		golden(machines[i], "show");
		assert_int_equal(run("show", machines[i], "--plan", NULL), CLI_OK);
		in_80_columns(false);
	}
}

static void t02_explain(void **state)
{
	(void)state;
	for (size_t i = 0; i < NMACHINES; i++) {
		assert_int_equal(run("explain", machines[i], NULL, NULL), CLI_OK);
		in_80_columns(true);
		golden(machines[i], "explain");
	}
	assert_int_equal(run("explain", "gpu8", "gpu5", NULL), CLI_OK);
	assert_non_null(strstr(got, "PIX  to mlx5_5"));
	assert_non_null(strstr(got, "SYS  to gpu0"));
	assert_int_equal(run("explain", "gpu8", "node7", NULL), CLI_USAGE);
}

static void t03_plan_and_check(void **state)
{
	(void)state;
	for (size_t i = 0; i < NMACHINES; i++) {
		assert_int_equal(run("plan", machines[i], "--l1", "8G"), CLI_OK);
		in_80_columns(true);
		golden(machines[i], "plan");
		int code = run("check", machines[i], "--l1", "8G");
		in_80_columns(true);
		golden(machines[i], "check");
		assert_int_equal(code, strstr(got, "\nok\n") ? CLI_OK : CLI_FAILED);
	}
}

static void t04_json(void **state)
{
	(void)state;
	static const char *const commands[] = {"show", "explain", "plan", "check"};
	for (size_t i = 0; i < NMACHINES; i++)
		for (size_t k = 0; k < 4; k++) {
			assert_in_range(run(commands[k], machines[i], "--json", NULL), CLI_OK, CLI_FAILED);
			json_t *all = json_loads(got, 0, NULL);
			assert_true(json_is_object(all));
			json_decref(all);
		}
}

static void t05_unreadable_is_3(void **state)
{
	(void)state;
	assert_int_equal(run("show", "no-such-machine", NULL, NULL), CLI_UNREADABLE);
	assert_int_equal(run("plan", "no-such-machine", NULL, NULL), CLI_UNREADABLE);
	assert_int_equal(run("plan", "gpu8", "--l1", "64"), CLI_USAGE);
	assert_int_equal(run("plan", "gpu8", "--map", "0=1G,0=1G"), CLI_USAGE);
	assert_int_equal(run("plan", "gpu8", "--map", "0=8G,1=16G"), CLI_OK);
	assert_non_null(strstr(got, "16 GiB"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_show), cmocka_unit_test(t02_explain),         cmocka_unit_test(t03_plan_and_check),
		cmocka_unit_test(t04_json), cmocka_unit_test(t05_unreadable_is_3),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
