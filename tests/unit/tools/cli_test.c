/* Dispatch, options and messages, by what a user sees: exit codes, standard output, standard error. */
#include "tools/cli.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ARGS 16

struct seen {
	int code;
	char out[16384], err[16384];
};

static int fake_server(int argc, char **argv)
{
	printf("server %d %s", argc, argc > 1 ? argv[1] : "");
	return 7;
}

static void read_back(int fd, char *text, size_t cap)
{
	ssize_t n = pread(fd, text, cap - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	close(fd);
}

/* Runs `words` (split at blanks) with both outputs in files. */
static void run(struct seen *s, const char *words)
{
	char copy[512], *argv[MAX_ARGS + 1] = {NULL};
	char out_path[] = "/tmp/cli_test_out_XXXXXX", err_path[] = "/tmp/cli_test_err_XXXXXX";
	int argc = 0, out = mkstemp(out_path), err = mkstemp(err_path), old_out = dup(1), old_err = dup(2);
	snprintf(copy, sizeof(copy), "%s", words);
	for (char *w = strtok(copy, " "); w && argc < MAX_ARGS; w = strtok(NULL, " "))
		argv[argc++] = w;
	fflush(NULL);
	dup2(out, 1);
	dup2(err, 2);
	s->code = cli_main(argc, argv, fake_server);
	fflush(NULL);
	dup2(old_out, 1);
	dup2(old_err, 2);
	close(old_out);
	close(old_err);
	read_back(out, s->out, sizeof(s->out));
	read_back(err, s->err, sizeof(s->err));
	unlink(out_path);
	unlink(err_path);
}

static void expect(const char *words, int code, const char *on_out, const char *on_err)
{
	static struct seen s;
	run(&s, words);
	if (s.code != code)
		fail_msg("'%s': exit code %d, expected %d\n%s%s", words, s.code, code, s.out, s.err);
	if (on_out && !strstr(s.out, on_out))
		fail_msg("'%s': standard output lacks '%s':\n%s", words, on_out, s.out);
	if (on_err && !strstr(s.err, on_err))
		fail_msg("'%s': standard error lacks '%s':\n%s", words, on_err, s.err);
}

static void t01_version_and_help(void **state)
{
	(void)state;
	expect("x --version", 0, "lmcache-appliance ", NULL);
	expect("x --help", 0, "  bench kvcache            Load and verify", NULL);
	expect("x --help", 0, "\nNot in this release:\n", NULL);
	expect("x", 2, NULL, "Usage: lmcache-appliance COMMAND [OPTION...]");
	expect("x ping --help", 0, "  ping kvcache", NULL);
	expect("x ping", 2, NULL, "'ping' needs a second word");
	expect("x ping nothing", 2, NULL, "'ping nothing' is no command");
	expect("x nothing", 2, NULL, "'nothing' is no command");
}

static void t02_every_command_has_help(void **state)
{
	(void)state;
	for (size_t i = 0; i < cli_ncommands; i++) {
		const struct cli_cmd *c = &cli_commands[i];
		char words[128];
		if (!c->run)
			continue;
		snprintf(words, sizeof(words), "x %s %s --help", c->group, c->name);
		expect(words, 0, "--url=URL", NULL);
		expect(words, 0, c->help, NULL);
	}
}

static void t03_later_commands_by_name(void **state)
{
	(void)state;
	int later = 0;
	for (size_t i = 0; i < cli_ncommands; i++) {
		const struct cli_cmd *c = &cli_commands[i];
		char words[128];
		if (c->run || strcmp(c->group, "server") == 0)
			continue;
		snprintf(words, sizeof(words), "x %s %s --whatever 1", c->group, c->name ? c->name : "");
		expect(words, 2, NULL, "not in this release");
		later++;
	}
	assert_true(later >= 10);
}

static void t04_server(void **state)
{
	(void)state;
	expect("x server --port 1", 7, "server 3 --port", NULL);
	expect("/usr/bin/lmcache_server --port 1", 7, "server 3 --port", NULL);
}

static void t05_usage_errors(void **state)
{
	(void)state;
	expect("x ping kvcache --url nonsense", 2, NULL, "'nonsense' is no URL");
	expect("x ping kvcache --format xml", 2, NULL, "--format xml: expected terminal|json|csv");
	expect("x describe kvcache --format csv", 2, NULL, "expected terminal|json");
	expect("x describe kvcache --url localhost:5555", 2, NULL, "give the HTTP URL");
	expect("x ping engine --url localhost:5555", 2, NULL, "an engine answers HTTP");
	expect("x ping kvcache --timeout 0", 2, NULL, "--timeout 0: expected a number from 0.001");
	expect("x ping kvcache --timeout nan", 2, NULL, "--timeout nan");
	expect("x ping kvcache extra", 2, NULL, "'extra' is not expected here");
	expect("x ping kvcache --frob", 2, NULL, "unrecognized option");
	expect("x ping kvcache --url", 2, NULL, "requires an argument");
	expect("x kvcache end-session", 2, NULL, "--request-id is required");
	expect("x query kvcache --token-ids 1", 2, NULL, "--model is required");
	expect("x query kvcache --model m", 2, NULL, "one of --token-ids and --tokens-file");
	expect("x query kvcache --model m --token-ids 1 --tokens-file f", 2, NULL, "one of");
	expect("x query kvcache --model m --token-ids 1,x", 2, NULL, "token ids");
	expect("x query kvcache --model m --tokens-file /nonexistent", 2, NULL, "No such file");
	expect("x query kvcache --model m --token-ids 1 --url http://a:1", 2, NULL, "lookups go over ZMQ");
	expect("x query kvcache --model m --token-ids 1 --world-size 0", 2, NULL, "from 1 to 255");
	expect("x query kvcache --round-trip", 2, NULL, "--round-trip is not in this release");
	expect("x bench kvcache --model gpt", 2, NULL, "--model gpt: expected llama-3.1-8b");
	expect("x bench kvcache --dialect D99", 2, NULL, "--dialect D99");
	expect("x bench kvcache --mode engine-driven --dialect D2", 2, NULL, "from dialect D4 on");
	expect("x bench kvcache --mode handle --format-id 3", 2, NULL, "is for MLA");
	expect("x bench kvcache --device gpu", 2, NULL, "--device gpu: expected cpu, cuda or cuda:N");
	expect("x bench kvcache --device cuda:x", 2, NULL, "--device cuda:x: expected");
	expect("x bench kvcache --device cuda --mode pickle", 2, NULL, "--mode must be handle");
	expect("x bench kvcache --wrapper raw", 2, NULL, "belong to --device cuda");
	expect("x bench kvcache --device cuda --cuda-library /nonexistent.so", 1, NULL,
	       "no NVIDIA driver: /nonexistent.so");
	expect("x bench kvcache --clients -1", 2, NULL, "--clients -1: expected a whole number");
	expect("x bench kvcache --verify-only --no-verify", 2, NULL, "exclude each other");
}

static void t06_nobody_there(void **state)
{
	(void)state;
	expect("x ping kvcache --url http://127.0.0.1:1", 1, "Status:                   FAIL\n",
	       "lmcache-appliance ping kvcache: Cannot connect to http://127.0.0.1:1: Connection refused\n");
	expect("x ping kvcache --url 127.0.0.1:1", 1, "Round trip time (ms):      N/A\n",
	       "Cannot connect to tcp://127.0.0.1:1: Connection refused\n");
	expect("x describe kvcache --url http://127.0.0.1:1", 1, NULL, "Cannot connect to http://127.0.0.1:1: ");
	expect("x kvcache clear --url http://127.0.0.1:1", 1, "Status:                                     FAIL\n",
	       NULL);
	expect("x query kvcache --model m --token-ids 1,2 --url ipc:///nonexistent/s", 1, NULL,
	       "No such file or directory");
	expect("x bench kvcache --url 127.0.0.1:1 --verify-only", 1, "Errors:", "Connection refused");
}

static void t07_quiet_and_output(void **state)
{
	(void)state;
	static struct seen s;
	char path[] = "/tmp/cli_test_file_XXXXXX", words[128], text[512] = "";
	close(mkstemp(path));
	run(&s, "x ping kvcache -q --url http://127.0.0.1:1");
	assert_string_equal(s.out, "");
	snprintf(words, sizeof(words), "x ping kvcache --format csv --output %s --url http://127.0.0.1:1", path);
	run(&s, words);
	assert_int_equal(s.code, 1);
	assert_string_equal(s.out, "");
	read_back(open(path, O_RDONLY), text, sizeof(text));
	assert_string_equal(text, "status,round_trip_time_ms\nFAIL,\n");
	unlink(path);
	expect("x ping kvcache --output /nonexistent/x --url http://127.0.0.1:1", 1, NULL,
	       "/nonexistent/x: No such file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_version_and_help),       cmocka_unit_test(t02_every_command_has_help),
		cmocka_unit_test(t03_later_commands_by_name), cmocka_unit_test(t04_server),
		cmocka_unit_test(t05_usage_errors),           cmocka_unit_test(t06_nobody_there),
		cmocka_unit_test(t07_quiet_and_output),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
