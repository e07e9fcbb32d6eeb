/* numa plan, explain, check and capture, by what an operator sees: exit codes, files, standard output and standard error. */
#include "tools/cmd_numa.h"
#include "tools/numa_check.h"
#include "tools/numa_fragments.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ARGS 16

static char out[1 << 20], err[1 << 16], folder[] = "/tmp/numa_cmd_test_XXXXXX";

static int no_server(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return -1;
}

static void read_back(int fd, char *text, size_t cap)
{
	ssize_t n = pread(fd, text, cap - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	close(fd);
}

/* Runs "numa WORDS" (split at blanks) with both outputs in files. */
static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *fmt, ...)
{
	char words[1024], *argv[MAX_ARGS + 1] = {(char *)"lmcache-appliance", (char *)"numa"};
	char out_path[] = "/tmp/numa_cmd_out_XXXXXX", err_path[] = "/tmp/numa_cmd_err_XXXXXX";
	int argc = 2, o = mkstemp(out_path), e = mkstemp(err_path), old_out = dup(1), old_err = dup(2);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(words, sizeof(words), fmt, ap);
	va_end(ap);
	for (char *w = strtok(words, " "); w && argc < MAX_ARGS; w = strtok(NULL, " "))
		argv[argc++] = w;
	fflush(NULL);
	dup2(o, 1);
	dup2(e, 2);
	int code = cli_main(argc, argv, no_server);
	fflush(NULL);
	dup2(old_out, 1);
	dup2(old_err, 2);
	close(old_out);
	close(old_err);
	read_back(o, out, sizeof(out));
	read_back(e, err, sizeof(err));
	unlink(out_path);
	unlink(err_path);
	return code;
}

static void slurp(const char *path, char *text, size_t cap)
{
	FILE *f = fopen(path, "re");

	if (!f)
		fail_msg("no %s", path);
	text[fread(text, 1, cap - 1, f)] = '\0';
	fclose(f);
}

static void spit(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static json_t *parsed(void)
{
	json_t *o = json_loads(out, 0, NULL);

	if (!json_is_object(o))
		fail_msg("not a JSON object: %.500s", out);
	return o;
}

static const char *word(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	if (!text)
		fail_msg("no text '%s'", key);
	return text;
}

/* ---- capture --------------------------------------------------------------------------------------------------------- */

static void test_01_capture_is_private_and_whole(void **state)
{
	char path[128];
	struct stat st;
	(void)state;

	snprintf(path, sizeof(path), "%s/here.capture", folder);
	spit(path, "an older one that everybody may read");
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(run("capture %s", path), CLI_OK);
	assert_string_equal(out, "");
	assert_non_null(strstr(err, "names the host"));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(run("capture --output %s --json", path), CLI_OK);
	json_t *o = parsed();
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(json_integer_value(json_object_get(o, "bytes")), (json_int_t)st.st_size);
	assert_true(json_integer_value(json_object_get(o, "files")) > 0);
	json_decref(o);
	/* nothing but the capture is left there */
	snprintf(path, sizeof(path), "test \"$(ls -A %s)\" = here.capture", folder);
	assert_int_equal(system(path), 0);
}

static void test_02_capture_replays(void **state)
{
	static const char *const kinds[] = {"pools", "threads", "devices"};
	char path[128];
	(void)state;

	snprintf(path, sizeof(path), "%s/here.capture", folder);
	assert_int_equal(run("capture"), CLI_OK);
	spit(path, out);
	/* A size that asks for no more than there is, so that memory which goes meanwhile changes nothing. */
	assert_int_equal(run("plan --l1 64M --pages 4k --json"), CLI_OK);
	json_t *here = parsed();
	assert_int_equal(run("plan --l1 64M --pages 4k --json --from %s", path), CLI_OK);
	json_t *there = parsed();
	for (size_t i = 0; i < 3; i++)
		assert_true(json_equal(json_object_get(here, kinds[i]), json_object_get(there, kinds[i])));
	assert_true(json_is_true(json_object_get(here, "this_system")));
	assert_true(json_is_false(json_object_get(there, "this_system")));
	json_decref(here);
	json_decref(there);
}

static void test_03_capture_refuses(void **state)
{
	(void)state;
	assert_int_equal(run("capture --from x.json"), CLI_USAGE);
	assert_non_null(strstr(err, "x.json is one already"));
	assert_int_equal(run("capture a --output b"), CLI_USAGE);
	assert_int_equal(run("capture /proc/no/such/file"), CLI_FAILED);
	assert_non_null(strstr(err, "/proc/no/such/file"));
	assert_int_equal(run("capture %s", folder), CLI_FAILED); /* a folder is not replaced */
}

/* ---- plan ------------------------------------------------------------------------------------------------------------ */

/* Every action is in the file of its kind, and in no other. */
static void test_04_fragments(void **state)
{
	char path[256], text[4][8192];
	uint32_t kinds[FRAGMENTS] = {0};
	(void)state;

	for (int again = 0; again < 2; again++)
		assert_int_equal(run("plan --from tests/machines/disputed.json --l1 8G --json --write %s/plan", folder),
				 CLI_OK);
	for (uint32_t i = 0; i < FRAGMENTS; i++) {
		snprintf(path, sizeof(path), "%s/plan/%s", folder, fragments[i].file);
		slurp(path, text[i], sizeof(text[i]));
		assert_non_null(strstr(text[i], fragments[i].install));
		assert_null(strstr(text[i], "needs nothing"));
	}
	json_t *o = parsed(), *actions = json_object_get(o, "actions");
	assert_true(json_array_size(actions) >= 4);
	for (size_t i = 0; i < json_array_size(actions); i++) {
		static const char *const names[] = {"sysfs", "sysctl", "kernel_argument", "systemd"};
		const json_t *a = json_array_get(actions, i);
		uint32_t k = 0;

		while (strcmp(names[k], word(a, "kind")) != 0)
			k++;
		kinds[k]++;
		assert_non_null(strstr(text[k], word(a, "value")));
		if (k == ACT_SYSFS)
			assert_non_null(strstr(text[k], word(a, "path")));
	}
	for (uint32_t i = 0; i < FRAGMENTS; i++)
		assert_int_equal(kinds[i], json_integer_value(json_object_get(
						   json_array_get(json_object_get(o, "written"), i), "lines")));
	assert_non_null(strstr(text[1], "\nkernel.numa_balancing = 0\n"));
	assert_non_null(strstr(text[3], "\n[Service]\n"));
	json_decref(o);
	/* A plan without wishes of the system leaves nothing of the one before. */
	assert_int_equal(run("plan --from tests/machines/gpu8.json --l1 8G --write %s/plan", folder), CLI_OK);
	slurp(path, text[0], sizeof(text[0]));
	assert_non_null(strstr(text[0], "needs nothing"));
	assert_null(strstr(text[0], "[Service]"));
	assert_int_equal(run("plan --from tests/machines/gpu8.json --write /proc/no/such"), CLI_FAILED);
}

static void test_05_every_line_has_reason_and_source(void **state)
{
	static const char *const machines[] = {"asym", "cxl", "dgx2", "disputed", "epyc8", "gh200", "gpu8", "vm"};
	static const char *const kinds[] = {"pools", "threads", "devices", "actions"};
	(void)state;

	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		assert_int_equal(run("plan --from tests/machines/%s.json --json", machines[i]), CLI_OK);
		json_t *o = parsed();
		for (size_t k = 0; k < 4; k++)
			for (size_t n = 0; n < json_array_size(json_object_get(o, kinds[k])); n++) {
				const json_t *line = json_array_get(json_object_get(o, kinds[k]), n);
				assert_true(word(line, "reason")[0] && word(line, "source")[0]);
			}
		assert_true(word(o, "l1_from")[0]);
		json_decref(o);
	}
}

static void test_06_server_to_ask(void **state)
{
	(void)state;
	assert_int_equal(run("plan --url http://127.0.0.1:1"), CLI_UNREADABLE);
	assert_int_equal(run("check --url http://127.0.0.1:1"), CLI_UNREADABLE);
	assert_int_equal(run("plan --url tcp://127.0.0.1:1"), CLI_USAGE);
	assert_int_equal(run("check --url http://127.0.0.1:1 --from tests/machines/gpu8.json"), CLI_USAGE);
}

static void test_07_held(void **state)
{
	struct plan_conf conf = {0};
	json_t *status = json_loads("{\"numa\":{\"pools\":["
				    "{\"node\":1,\"bytes\":8388608,\"committed_bytes\":4194304,\"page_bytes\":2097152},"
				    "{\"node\":null,\"bytes\":4096,\"committed_bytes\":4096,\"page_bytes\":4096},"
				    "{\"node\":-5,\"bytes\":-1,\"committed_bytes\":4096,\"page_bytes\":4096},"
				    "{\"node\":5000,\"committed_bytes\":4096,\"page_bytes\":4096},"
				    "{\"node\":2,\"committed_bytes\":4096,\"page_bytes\":0},"
				    "{\"node\":2,\"committed_bytes\":\"much\",\"page_bytes\":4096}, 7, null]}}",
				    0, NULL);
	(void)state;

	assert_non_null(status);
	numa_held(status, &conf);
	assert_int_equal(conf.nheld, 2);
	assert_int_equal(conf.held[0].node.os, 1);
	assert_int_equal(conf.held[0].pages, 2);
	assert_false(node_known(conf.held[1].node));
	assert_int_equal(numa_l1_of(status), 8388608 + 4096);
	json_decref(status);
	numa_held(NULL, &conf);
	assert_int_equal(conf.nheld, 2);
	assert_int_equal(numa_l1_of(NULL), 0);
}

/* ---- explain --------------------------------------------------------------------------------------------------------- */

static void test_08_explain(void **state)
{
	(void)state;
	assert_int_equal(run("explain node 1 --from tests/machines/gpu8.json"), CLI_OK);
	assert_memory_equal(out, "node 1\n", 7);
	assert_null(strstr(out, "node0/"));
	assert_int_equal(run("explain node 7 --from tests/machines/gpu8.json"), CLI_USAGE);
	/* sources that disagree are all there */
	assert_int_equal(run("explain 11:00.0 --from tests/machines/disputed.json"), CLI_OK);
	assert_non_null(strstr(out, "node 0, disputed"));
	assert_non_null(strstr(out, "says node 1"));
	assert_non_null(strstr(out, "hwloc Package L#1"));
	/* a saved XML has no files, so none is named as a source */
	assert_int_equal(run("explain --from tests/machines/lstopo.xml"), CLI_OK);
	assert_null(strstr(out, "from /sys/devices"));
	assert_null(strstr(out, "from /proc"));
}

static void details(const json_t *o)
{
	const json_t *list = json_object_get(o, "details");

	assert_true(json_array_size(list) > 0);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *f = json_array_get(list, i);
		bool nothing = json_is_null(json_object_get(f, "value"));

		assert_true(word(f, "name")[0] && word(f, "source")[0]);
		assert_true(nothing || word(f, "value")[0]);
		assert_true(!nothing || strcmp(word(f, "confidence"), "unknown") == 0);
	}
}

static void test_09_explain_json(void **state)
{
	(void)state;
	assert_int_equal(run("explain --json --from tests/machines/disputed.json"), CLI_OK);
	json_t *o = parsed();
	details(o);
	for (size_t i = 0; i < 2; i++)
		details(json_array_get(json_object_get(o, i ? "devices" : "nodes"), 0));
	json_decref(o);
	assert_int_equal(run("explain node1 --json --from tests/machines/disputed.json"), CLI_OK);
	o = parsed();
	assert_int_equal(json_integer_value(json_object_get(o, "node")), 1);
	details(o);
	json_decref(o);
}

/* ---- check ----------------------------------------------------------------------------------------------------------- */

static int rank(const char *severity)
{
	static const char *const ranks[] = {"error", "shortage", "warning", "notice"};

	for (int i = 0; i < 4; i++)
		if (strcmp(ranks[i], severity) == 0)
			return i;
	fail_msg("'%s' is no severity", severity);
	return -1;
}

/* Worst first, all four keys, and the exit code says whether there is more than notices. */
static void test_10_check_json(void **state)
{
	static const char *const machines[] = {"asym",  "cgroup1", "cpuset", "cxl",     "dgx2",  "disputed", "epyc8",
					       "gh200", "gpu8",    "holes",  "offline", "plain", "lab",      "vm"};
	(void)state;

	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		int code = run("check --json --l1 8G --from tests/machines/%s.json", machines[i]), last = 0;
		json_t *o = parsed(), *list = json_object_get(o, "findings");
		bool more = false;

		for (size_t k = 0; k < json_array_size(list); k++) {
			const json_t *f = json_array_get(list, k);
			int r = rank(word(f, "severity"));

			assert_true(r >= last);
			last = r;
			more = more || r < 3;
			assert_true(word(f, "what")[0]);
			word(f, "remedy");
			if (!word(f, "where")[0] && !strstr(word(f, "what"), "rounded"))
				fail_msg("%s: nowhere: %s", machines[i], word(f, "what"));
		}
		assert_int_equal(code, more ? CLI_FAILED : CLI_OK);
		assert_int_equal(json_is_true(json_object_get(o, "ok")), !more);
		json_decref(o);
	}
}

static void test_11_wishes_that_cannot_be_met(void **state)
{
	(void)state;
	assert_int_equal(run("check --map 0=1G,1=1G --from tests/machines/cpuset.json"), CLI_FAILED);
	assert_non_null(strstr(out, "error     the map names node 0"));
	assert_non_null(strstr(out, "Mems_allowed_list"));
	assert_non_null(strstr(out, "cpuset.mems"));
	assert_non_null(strstr(out, "move_pages")); /* the rest is said all the same */
	assert_int_equal(run("check --map 77=1G --from tests/machines/gpu8.json"), CLI_FAILED);
	assert_non_null(strstr(out, "node 77"));
	assert_int_equal(run("check --map 77=x --from tests/machines/gpu8.json"), CLI_USAGE);
}

static json_t *findings(const char *machine, const char *cmdline, const char *status)
{
	struct plan_conf conf = {.l1_bytes = 8ull << 30, .numa = WANT_TRY};
	struct machine *m;
	struct plan *p;
	json_t *s = status ? json_loads(status, 0, NULL) : NULL;

	assert_int_equal(machine_load(machine, &m, NULL), 0);
	assert_int_equal(plan_make(m, &conf, &p, NULL), 0);
	const struct check_in in = {.machine = m,
				    .plan = p,
				    .conf = &conf,
				    .why_not = "",
				    .status = s,
				    .server = "http://server",
				    .cmdline = cmdline};
	assert_true(!status || s);
	json_t *list = check_findings(&in);
	assert_non_null(list);
	plan_destroy(p);
	machine_destroy(m);
	json_decref(s);
	return list;
}

/* How many findings say `what`. */
static unsigned said(json_t *list, const char *what)
{
	unsigned n = 0;

	for (size_t i = 0; i < json_array_size(list); i++)
		n += strstr(word(json_array_get(list, i), "what"), what) != NULL;
	json_decref(list);
	return n;
}

/* Asked at boot, and not got: the kernel says nothing about it. */
static void test_12_boot_line(void **state)
{
	static const char *const machine = "tests/machines/gpu8.json";
	(void)state;

	assert_int_equal(said(findings(machine, "root=/dev/vda quiet", NULL), "boot line"), 0);
	assert_int_equal(said(findings(machine, "hugepagesz=1G hugepages=0:9999,1:0", NULL),
			      "9999 huge pages of 1 GiB on node 0, which has "),
			 1);
	assert_int_equal(said(findings(machine, "hugepagesz=1G hugepages=0:1,1:99999,9:1 x", NULL), "boot line"), 2);
	assert_int_equal(
		said(findings(machine, "hugepages=0:9999999 hugepagesz=1G hugepages=0:9999\n", NULL), "boot line"), 2);
	assert_int_equal(said(findings(machine, "hugepagesz=1G hugepages=99999", NULL), "the machine has "), 1);
	/* what no kernel would take */
	assert_int_equal(said(findings(machine,
				       "hugepages= hugepages=:: hugepages=,1 hugepagesz= hugepages=0:1 hugepagesz=x "
				       "hugepages=5 hugepages",
				       NULL),
			      "boot line"),
			 0);
	assert_int_equal(
		said(findings(machine, "hugepages=99999999999999999999:1,0:99999999999999999999,", NULL), "boot line"),
		2);
}

static void test_13_running_server(void **state)
{
	static const char *const machine = "tests/machines/gpu8.json";
	(void)state;

	assert_int_equal(said(findings(machine, NULL, "{}"), "does not say where L1 is"), 1);
	assert_int_equal(said(findings(machine, NULL, "{\"numa\":{\"pools\":[]}}"), "the server no pool"), 2);
	static const char fine[] = "{\"numa\":{\"fallbacks\":0,\"pools\":["
				   "{\"node\":0,\"page_bytes\":4096,\"bytes\":4294967296,\"pages_elsewhere\":0},"
				   "{\"node\":1,\"page_bytes\":4096,\"bytes\":4294967296,\"pages_elsewhere\":null}]}}";
	json_t *list = findings(machine, NULL, fine);
	for (size_t i = 0; i < json_array_size(list); i++)
		assert_string_not_equal(word(json_array_get(list, i), "where"), "http://server");
	json_decref(list);
	static const char astray[] =
		"{\"numa\":{\"fallbacks\":3,\"pools\":["
		"{\"node\":0,\"page_bytes\":2097152,\"bytes\":4294967296,\"pages_elsewhere\":7,\"pages_looked_at\":9},"
		"{\"node\":1,\"page_bytes\":4096,\"bytes\":4096,\"pages_elsewhere\":0}, 7]}}";
	assert_int_equal(said(findings(machine, NULL, astray), "the server pages of 2 MiB"), 1);
	assert_int_equal(said(findings(machine, NULL, astray), "7 of 9 pages of L1 are on another node"), 1);
	assert_int_equal(said(findings(machine, NULL, astray), "fall back 3 times"), 1);
	assert_int_equal(said(findings(machine, NULL, astray), "node 1: the plan has 4 GiB of L1, the server 4 KiB"),
			 1);
}

static void test_14_apply_that_was_killed(void **state)
{
	char path[128], boot[64], text[512];
	(void)state;

	snprintf(path, sizeof(path), "%s/journal", folder);
	slurp("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
	boot[strcspn(boot, "\n")] = '\0';
	for (int ended = 0; ended < 2; ended++) {
		snprintf(text, sizeof(text),
			 "lmcache-appliance numa journal 1\nboot =%s\nrun\n"
			 "set /proc/sys/kernel/numa_balancing =1%%0A =0\n%s",
			 boot, ended ? "end\n" : "");
		spit(path, text);
		int code = run("check --l1 64M --journal %s", path);
		assert_int_equal(strstr(out, "error     an earlier numa apply was killed") != NULL, !ended);
		if (ended)
			break;
		assert_int_equal(code, CLI_FAILED);
		assert_non_null(strstr(out, "kernel/numa_balancing"));
		assert_non_null(strstr(out, path));
		assert_non_null(strstr(out, "remedy  lmcache-appliance numa undo"));
	}
	spit(path, "not a journal");
	run("check --l1 64M --journal %s", path);
	assert_non_null(strstr(out, "journal"));
}

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	char command[128];
	(void)state;

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_capture_is_private_and_whole),
		cmocka_unit_test(test_02_capture_replays),
		cmocka_unit_test(test_03_capture_refuses),
		cmocka_unit_test(test_04_fragments),
		cmocka_unit_test(test_05_every_line_has_reason_and_source),
		cmocka_unit_test(test_06_server_to_ask),
		cmocka_unit_test(test_07_held),
		cmocka_unit_test(test_08_explain),
		cmocka_unit_test(test_09_explain_json),
		cmocka_unit_test(test_10_check_json),
		cmocka_unit_test(test_11_wishes_that_cannot_be_met),
		cmocka_unit_test(test_12_boot_line),
		cmocka_unit_test(test_13_running_server),
		cmocka_unit_test(test_14_apply_that_was_killed),
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
