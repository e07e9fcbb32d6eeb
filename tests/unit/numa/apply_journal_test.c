/* The journal as a file of foreign bytes. */
#include "numa/apply_journal.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAD  "lmcache-appliance numa journal 1\nboot =b\n"
#define HUGE0 "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
#define SET   "set " HUGE0 " =%2500%0A =64\n"

static int parse(const char *text, struct journal *j, struct why *why)
{
	*j = (struct journal){.fd = -1, .boot = "b"};
	return journal_parse(j, text, strlen(text), why);
}

static void test_1_good(void **state)
{
	struct journal j;
	(void)state;

	assert_int_equal(parse(HEAD "run\n" SET "end\nrun\n" SET, &j, NULL), 0);
	assert_int_equal(j.state, JOURNAL_HALF);
	assert_false(j.stale);
	assert_int_equal(j.nsteps, 2);
	assert_string_equal(j.steps[0].path, HUGE0);
	assert_string_equal(j.steps[0].found, "%00\n");
	assert_string_equal(j.steps[0].wanted, "64");
	journal_close(&j);
	assert_int_equal(parse(HEAD "run\n" SET "end\n", &j, NULL), 0);
	assert_int_equal(j.state, JOURNAL_COMPLETE);
	journal_close(&j);
	assert_int_equal(parse("", &j, NULL), 0);
	assert_int_equal(j.state, JOURNAL_NONE);
	assert_int_equal(parse("lmcache-appliance numa journal 1\nboot =c\n", &j, NULL), 0);
	assert_true(j.stale);
}

static void test_2_bad(void **state)
{
	static const char *const bad[] = {
		"x",
		"lmcache-appliance numa journal 2\n",
		"lmcache-appliance numa journal 1\nrun\n",
		HEAD "end\n",
		HEAD SET,
		HEAD "run\nrun\n",
		HEAD "run\n\n",
		HEAD "run\nset \n",
		HEAD "run\nset " HUGE0 "\n",
		HEAD "run\nset " HUGE0 " =1\n",
		HEAD "run\nset " HUGE0 " 1 2\n",
		HEAD "run\nset " HUGE0 " =%0 =2\n",
		HEAD "run\nset " HUGE0 " =%00 =2\n",
		HEAD "run\nset " HUGE0 " =%zz =2\n",
		HEAD "run\nset /proc/sys/kernel/core_pattern =core =|x\n",
		HEAD "run\nset /etc/passwd =1 =2\n",
		HEAD "run\nset " HUGE0 "/../nr_hugepages =1 =2\n",
	};
	struct journal j;
	struct why why;
	(void)state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why = (struct why){0};
		int rc = parse(bad[i], &j, &why);
		assert_true(rc == -EBADMSG || rc == -EPERM);
		assert_non_null(strstr(why.text, "line"));
		journal_close(&j);
	}
}

static void test_3_limits(void **state)
{
	char *text = malloc(64 + (JOURNAL_MAX_STEPS + 1) * sizeof(SET)), value[400], *at;
	struct journal j;
	(void)state;

	at = text + sprintf(text, "%srun\n", HEAD);
	for (unsigned i = 0; i < JOURNAL_MAX_STEPS; i++)
		at += sprintf(at, "%s", SET);
	assert_int_equal(parse(text, &j, NULL), 0);
	assert_int_equal(j.nsteps, JOURNAL_MAX_STEPS);
	journal_close(&j);
	sprintf(at, "%s", SET);
	assert_int_equal(parse(text, &j, NULL), -E2BIG);
	journal_close(&j);
	for (unsigned n = APPLY_VALUE - 2; n <= APPLY_VALUE + 1; n++) {
		memset(value, 'v', n);
		value[n] = '\0';
		sprintf(text, "%srun\nset %s =%s =1\n", HEAD, HUGE0, value);
		assert_int_equal(parse(text, &j, NULL), n < APPLY_VALUE ? 0 : -EBADMSG);
		journal_close(&j);
	}
	free(text);
}

/* Each beginning of a good journal is one that a kill could leave, and never more than it says. */
static void test_4_torn_anywhere(void **state)
{
	static const char whole[] = HEAD "run\n" SET SET "end\n";
	struct journal j;
	(void)state;

	for (size_t n = 0; n <= strlen(whole); n++) {
		j = (struct journal){.fd = -1, .boot = "b"};
		char *exact = malloc(n ? n : 1);
		memcpy(exact, whole, n);
		assert_int_equal(journal_parse(&j, exact, n, NULL), 0);
		assert_true(j.end <= (off_t)n);
		assert_true(n < strlen(HEAD "run\n" SET) ? j.nsteps == 0 : j.nsteps > 0);
		assert_true((j.state == JOURNAL_COMPLETE) == (n == strlen(whole)));
		journal_close(&j);
		free(exact);
	}
}

static void test_5_random_bytes(void **state)
{
	static const char whole[] = HEAD "run\n" SET SET "end\nrun\n" SET;
	(void)state;

	srand(7);
	for (unsigned round = 0; round < 50000; round++) {
		char *text = malloc(sizeof(whole));
		struct journal j = {.fd = -1, .boot = "b"};
		size_t n = (size_t)rand() % sizeof(whole);
		memcpy(text, whole, sizeof(whole));
		for (int i = rand() % 4; i >= 0; i--)
			text[(size_t)rand() % sizeof(whole)] = (char)(rand() % 3 ? rand() : "=% \n./"[rand() % 6]);
		journal_parse(&j, text, n, NULL);
		for (uint32_t i = 0; i < j.nsteps; i++)
			assert_true(apply_path_ok(j.steps[i].path));
		journal_close(&j);
		free(text);
	}
}

/* A journal in a folder of somebody else's must not make root write. */
static void test_6_whose_file(void **state)
{
	char folder[] = "/tmp/apply_journal.XXXXXX", path[64], other[64];
	struct journal j;
	struct why why = {0};
	(void)state;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/j", folder);
	snprintf(other, sizeof(other), "%s/k", folder);
	struct apply_conf conf = {.journal = path, .root = folder};
	FILE *f = fopen(path, "w");
	fputs("lmcache-appliance numa journal 1\nboot =unknown\nrun\n" SET, f);
	fclose(f);
	assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), 0);
	assert_int_equal(j.nsteps, 1);
	journal_close(&j);
	chmod(path, 0666);
	assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), -EBADMSG);
	assert_non_null(strstr(why.text, "nobody else may write"));
	chmod(path, 0644);
	if (geteuid() == 0) {
		assert_int_equal(chown(path, 12345, 0), 0);
		assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), -EBADMSG);
		assert_int_equal(chown(path, 0, 0), 0);
	}
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink(other, path), 0);
	assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), -ELOOP);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), -EBADMSG);
	unlink(path);
	f = fopen(path, "w");
	assert_int_equal(ftruncate(fileno(f), JOURNAL_MAX_BYTES + 1), 0);
	fclose(f);
	assert_int_equal(journal_open(&conf, JOURNAL_CHANGE, &j, &why), -EBADMSG);
	unlink(path);
	unlink(other);
	rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_good),         cmocka_unit_test(test_2_bad),
		cmocka_unit_test(test_3_limits),       cmocka_unit_test(test_4_torn_anywhere),
		cmocka_unit_test(test_5_random_bytes), cmocka_unit_test(test_6_whose_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
