/* apply and undo on a folder that stands for /, with a hook that plays the kernel and the kill. */
#include "numa/apply.h"

#include "daemon/base/mem.h"
#include "numa/apply_journal.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HUGE0   "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
#define HUGE1   "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
#define HUGE1G  "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages"
#define SHMEM   "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define BALANCE "/proc/sys/kernel/numa_balancing"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define STEPS   4u

static const char *const files[][2] = {
	{HUGE0, "3\n"},
	{HUGE1, "0\n"},
	{HUGE1G, "0\n"},
	{SHMEM, "always within_size advise [never] deny force\n"},
	{BALANCE, "1\n"},
	{"/proc/sys/kernel/core_pattern", "core\n"},
	{BOOT_ID, "11111111-2222\n"},
};
#define NFILES (sizeof(files) / sizeof(files[0]))

struct fake {
	char root[64], journal[128];
	struct apply_conf conf;
	struct apply_hook hook;
	struct machine machine;
	struct plan plan;
	struct plan_action actions[8];
	unsigned at, kill_at;   /* SIGKILL to ourselves at the n-th point; 0 = never */
	const char *short_path; /* the kernel grants at most this there */
	unsigned short_max;
	bool stuck; /* and never lets go of it */
};

static void put(const struct fake *f, const char *path, const char *content)
{
	char full[300];

	snprintf(full, sizeof(full), "%s%s", f->root, path);
	for (char *s = full + strlen(f->root) + 1; (s = strchr(s, '/')); *s++ = '/') {
		*s = '\0';
		mkdir(full, 0755);
	}
	FILE *out = fopen(full, "w");
	assert_non_null(out);
	fputs(content, out);
	fclose(out);
}

static const char *get(const struct fake *f, const char *path, char buf[256])
{
	char full[300];

	snprintf(full, sizeof(full), "%s%s", f->root, path);
	FILE *in = fopen(full, "r");
	assert_non_null(in);
	buf[fread(buf, 1, 255, in)] = '\0';
	fclose(in);
	return buf;
}

/* What the kernel makes of a write: brackets around a word, fewer pages than were asked for. */
static void as_kernel(struct fake *f, const char *path)
{
	char now[256], text[300] = "";

	get(f, path, now);
	if (strcmp(path, SHMEM) == 0) {
		static const char *const words[] = {"always", "within_size", "advise", "never", "deny", "force"};
		now[strcspn(now, "\n")] = '\0';
		for (unsigned i = 0; i < 6; i++) {
			bool chosen = strcmp(words[i], now) == 0;
			size_t n = strlen(text);
			snprintf(text + n, sizeof(text) - n, "%s%s%s%s%s", i ? " " : "", chosen ? "[" : "", words[i],
				 chosen ? "]" : "", i == 5 ? "\n" : "");
		}
		put(f, path, text);
	}
	if (f->short_path && strcmp(path, f->short_path) == 0 && ((unsigned)atoi(now) > f->short_max || f->stuck)) {
		snprintf(text, sizeof(text), "%u\n", f->short_max);
		put(f, path, text);
	}
}

static void at(void *ctx, enum apply_point point, const char *path)
{
	struct fake *f = ctx;

	if (point == APPLY_AT_WRITTEN || point == APPLY_AT_RESTORED)
		as_kernel(f, path);
	if (++f->at == f->kill_at)
		kill(getpid(), SIGKILL);
}

static void want(struct fake *f, enum plan_action_kind kind, const char *path, const char *value)
{
	struct plan_action *a = &f->actions[f->plan.nactions++];

	a->kind = kind;
	snprintf(a->path, sizeof(a->path), "%s", path);
	snprintf(a->value, sizeof(a->value), "%s", value);
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));

	snprintf(f->root, sizeof(f->root), "/tmp/apply_test.XXXXXX");
	assert_non_null(mkdtemp(f->root));
	snprintf(f->journal, sizeof(f->journal), "%s/state/numa.journal", f->root);
	for (size_t i = 0; i < NFILES; i++)
		put(f, files[i][0], files[i][1]);
	f->hook = (struct apply_hook){.at = at, .ctx = f};
	f->conf = (struct apply_conf){.journal = f->journal, .root = f->root, .hook = &f->hook};
	f->machine.this_system = true;
	snprintf(f->machine.source, sizeof(f->machine.source), "capture x.json");
	f->plan.machine = &f->machine;
	f->plan.actions = f->actions;
	want(f, ACT_SYSFS, HUGE0, "32");
	want(f, ACT_KERNEL_ARG, "hugepages", "1:1");
	want(f, ACT_SYSFS, HUGE1, "64");
	want(f, ACT_SYSFS, SHMEM, "advise");
	want(f, ACT_SYSCTL, "kernel.numa_balancing", "0");
	*state = f;
	return 0;
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct fake *f = *state;

	nftw(f->root, drop, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static void assert_tree(const struct fake *f, const char *h0, const char *h1, const char *shmem, const char *balance)
{
	char buf[256];

	assert_string_equal(get(f, HUGE0, buf), h0);
	assert_string_equal(get(f, HUGE1, buf), h1);
	assert_string_equal(get(f, HUGE1G, buf), "0\n");
	assert_string_equal(get(f, SHMEM, buf), shmem);
	assert_string_equal(get(f, BALANCE, buf), balance);
	assert_string_equal(get(f, "/proc/sys/kernel/core_pattern", buf), "core\n");
}

#define NEVER  "always within_size advise [never] deny force\n"
#define ADVISE "always within_size [advise] never deny force\n"

static void assert_as_found(const struct fake *f)
{
	assert_tree(f, "3\n", "0\n", NEVER, "1\n");
}

static void assert_applied(const struct fake *f)
{
	assert_tree(f, "32\n", "64\n", ADVISE, "0\n");
}

static enum apply_journal journal_of(const struct fake *f)
{
	char step[256];

	return apply_journal_state(&f->conf, step);
}

/* As the tests below call it: the result is looked at and freed. */
static int apply(struct fake *f, uint32_t *writes, bool *rolled_back, struct why *why)
{
	struct apply_result r;
	int rc = apply_plan(&f->plan, &f->conf, &r, why);

	*writes = r.writes;
	*rolled_back = r.rolled_back;
	apply_result_free(&r);
	return rc;
}

static int undo(struct fake *f, uint32_t *writes, struct why *why)
{
	struct apply_result r;
	int rc = apply_undo(&f->conf, &r, why);

	*writes = r.writes;
	apply_result_free(&r);
	return rc;
}

static void test_1_apply_then_again_then_undo(void **state)
{
	struct fake *f = *state;
	struct apply_result r;
	struct why why = {0};
	uint32_t writes;
	bool back;

	assert_int_equal(apply_plan(&f->plan, &f->conf, &r, &why), 0);
	assert_int_equal(r.nsteps, STEPS);
	assert_int_equal(r.writes, STEPS);
	assert_false(r.rolled_back);
	assert_string_equal(r.steps[0].found, "3\n");
	assert_string_equal(r.steps[0].wanted, "32");
	assert_string_equal(r.steps[0].got, "32\n");
	assert_string_equal(r.steps[3].path, BALANCE);
	for (uint32_t i = 0; i < STEPS; i++)
		assert_int_equal(r.steps[i].state, APPLY_WRITTEN);
	apply_result_free(&r);
	assert_applied(f);
	assert_int_equal(journal_of(f), JOURNAL_COMPLETE);

	assert_int_equal(apply(f, &writes, &back, &why), 0);
	assert_int_equal(writes, 0);
	assert_int_equal(journal_of(f), JOURNAL_COMPLETE);

	assert_int_equal(undo(f, &writes, &why), 0);
	assert_int_equal(writes, STEPS);
	assert_as_found(f);
	assert_int_equal(journal_of(f), JOURNAL_NONE);
	assert_int_equal(access(f->journal, F_OK), -1);
	assert_int_equal(undo(f, &writes, &why), 0);
	assert_int_equal(writes, 0);
}

static void test_2_nothing_to_do_needs_no_journal(void **state)
{
	struct fake *f = *state;
	uint32_t writes;
	bool back;

	put(f, HUGE0, "32\n");
	put(f, HUGE1, "64\n");
	put(f, SHMEM, ADVISE);
	put(f, BALANCE, "0\n");
	assert_int_equal(apply(f, &writes, &back, NULL), 0);
	assert_int_equal(writes, 0);
	assert_int_equal(access(f->journal, F_OK), -1);
}

static void test_2_dry_run(void **state)
{
	struct fake *f = *state;
	struct apply_result r;

	f->conf.dry_run = true;
	put(f, HUGE1, "64\n");
	assert_int_equal(apply_plan(&f->plan, &f->conf, &r, NULL), 0);
	assert_int_equal(r.writes, 0);
	assert_int_equal(r.steps[0].state, APPLY_PLANNED);
	assert_int_equal(r.steps[1].state, APPLY_SAME);
	apply_result_free(&r);
	put(f, HUGE1, "0\n");
	assert_as_found(f);
	assert_int_equal(access(f->journal, F_OK), -1);
}

static void test_3_a_plan_of_another_machine(void **state)
{
	struct fake *f = *state;
	struct why why = {0};
	uint32_t writes;
	bool back;

	f->machine.this_system = false;
	assert_int_equal(apply(f, &writes, &back, &why), -EXDEV);
	assert_non_null(strstr(why.text, "capture x.json"));
	assert_int_equal(writes, 0);
	assert_as_found(f);
}

static void test_4_less_than_asked_is_rolled_back(void **state)
{
	struct fake *f = *state;
	struct apply_result r;
	struct why why = {0};

	f->short_path = HUGE0; /* the later steps are tried all the same: their answers are of interest too */
	f->short_max = 7;
	assert_int_equal(apply_plan(&f->plan, &f->conf, &r, &why), -ECANCELED);
	assert_true(r.rolled_back);
	assert_int_equal(r.steps[0].state, APPLY_SHORT);
	assert_string_equal(r.steps[0].got, "7\n");
	assert_int_equal(r.steps[1].state, APPLY_RESTORED);
	assert_string_equal(r.steps[1].got, "64\n");
	assert_non_null(strstr(why.text, HUGE0 ": asked for 32, got 7"));
	assert_non_null(strstr(why.text, "rolled back"));
	apply_result_free(&r);
	assert_as_found(f);
	assert_int_equal(access(f->journal, F_OK), -1);
}

/* The second apply falls short: back to what it found, which is what the first made; undo still knows the beginning. */
static void test_4_a_second_apply_is_rolled_back_to_the_first(void **state)
{
	struct fake *f = *state;
	struct why why = {0};
	uint32_t writes;
	bool back;

	assert_int_equal(apply(f, &writes, &back, &why), 0);
	snprintf(f->actions[2].value, sizeof(f->actions[2].value), "128");
	want(f, ACT_SYSFS, HUGE1G, "1");
	f->short_path = HUGE1G;
	assert_int_equal(apply(f, &writes, &back, &why), -ECANCELED);
	assert_true(back);
	assert_applied(f);
	assert_int_equal(journal_of(f), JOURNAL_COMPLETE);
	f->short_path = NULL;
	assert_int_equal(apply(f, &writes, &back, &why), 0);
	assert_int_equal(writes, 2);
	assert_int_equal(undo(f, &writes, &why), 0);
	assert_as_found(f);
}

static void test_5_what_does_not_go_back_is_said(void **state)
{
	struct fake *f = *state;
	struct why why = {0};
	uint32_t writes;
	bool back;

	f->short_path = HUGE1;
	f->short_max = 5;
	f->stuck = true;
	assert_int_equal(apply(f, &writes, &back, &why), -ECANCELED);
	assert_false(back);
	assert_non_null(strstr(why.text, "not rolled back"));
	assert_tree(f, "3\n", "5\n", NEVER, "1\n");
	assert_int_equal(journal_of(f), JOURNAL_HALF);
	assert_int_equal(undo(f, &writes, &why), -EIO);
	assert_non_null(strstr(why.text, "does not go back to 0"));
	f->stuck = false;
	assert_int_equal(undo(f, &writes, &why), 0);
	assert_as_found(f);
}

static void test_5_a_missing_node(void **state)
{
	struct fake *f = *state;
	struct why why = {0};
	uint32_t writes;
	bool back;

	want(f, ACT_SYSFS, "/sys/devices/system/node/node7/hugepages/hugepages-2048kB/nr_hugepages", "1");
	assert_int_equal(apply(f, &writes, &back, &why), -ENOENT);
	assert_non_null(strstr(why.text, "node7"));
	assert_int_equal(writes, 0);
	assert_as_found(f);
}

static void test_6_only_files_of_the_list(void **state)
{
	static const char *const bad[] = {
		"/proc/sys/kernel/core_pattern",
		"kernel.core_pattern",
		"/sys/devices/system/node/node0/../node1/hugepages/hugepages-2048kB/nr_hugepages",
		"/sys/devices/system/node/node/hugepages/hugepages-2048kB/nr_hugepages",
		"/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages/",
		"/sys/devices/system/node/node0/hugepages/hugepages-12345678901kB/nr_hugepages",
		"/etc/passwd",
		"../etc/passwd",
		"",
		"/",
	};
	struct fake *f = *state;
	struct why why = {0};
	uint32_t writes;
	bool back;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		f->plan.nactions = 1;
		want(f, ACT_SYSFS, bad[i], "1");
		assert_int_equal(apply(f, &writes, &back, &why), -EPERM);
		assert_int_equal(writes, 0);
	}
	f->plan.nactions = 1;
	want(f, ACT_SYSFS, HUGE0, "33"); /* contradicts the first */
	assert_int_equal(apply(f, &writes, &back, &why), -EINVAL);
	f->plan.nactions = 0;
	want(f, ACT_SYSFS, HUGE0, "3\n4");
	assert_int_equal(apply(f, &writes, &back, &why), -EINVAL);
	assert_as_found(f);
}

static void test_6_no_link_is_followed(void **state)
{
	char from[300], to[300], buf[256];
	struct fake *f = *state;
	uint32_t writes;
	bool back;

	put(f, "/secret", "s\n");
	snprintf(from, sizeof(from), "%s%s", f->root, HUGE1);
	snprintf(to, sizeof(to), "%s/secret", f->root);
	assert_int_equal(unlink(from), 0);
	assert_int_equal(symlink(to, from), 0);
	assert_int_equal(apply(f, &writes, &back, NULL), -ELOOP);
	assert_string_equal(get(f, "/secret", buf), "s\n");
	/* And a folder on the way. */
	snprintf(from, sizeof(from), "%s/sys/devices/system/node/node0", f->root);
	snprintf(to, sizeof(to), "%s/sys/devices/system/node/node5", f->root);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(symlink("node5", from), 0);
	assert_int_not_equal(apply(f, &writes, &back, NULL), 0);
	assert_int_equal(writes, 0);
}

static void test_7_one_at_a_time(void **state)
{
	char step[256];
	struct fake *f = *state;
	struct journal j;
	struct why why = {0};
	uint32_t writes;
	bool back;

	assert_int_equal(journal_open(&f->conf, JOURNAL_MAKE, &j, &why), 0);
	assert_int_equal(apply(f, &writes, &back, &why), -EBUSY);
	assert_int_equal(undo(f, &writes, &why), -EBUSY);
	assert_int_equal(apply_journal_state(&f->conf, step), JOURNAL_HALF);
	assert_non_null(strstr(step, "another"));
	journal_close(&j);
	assert_int_equal(apply(f, &writes, &back, &why), 0);
	assert_applied(f);
}

static void in_child(struct fake *f, unsigned kill_at, bool undoing, bool *done)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct apply_result r;
		f->at = 0;
		f->kill_at = kill_at;
		_exit((undoing ? apply_undo(&f->conf, &r, NULL) : apply_plan(&f->plan, &f->conf, &r, NULL)) != 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	*done = WIFEXITED(status);
	assert_true(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
}

/* Killed at each point of apply, with and without a shortage; then killed at each point of the undo that repairs it. */
static void test_8_kill_at_every_point(void **state)
{
	struct fake *f = *state;
	struct why why = {0};
	unsigned kills = 0, halves = 0;
	uint32_t writes;
	bool done, undone, back;

	for (unsigned round = 0; round < 2; round++) {
		f->short_path = round ? HUGE1 : NULL;
		f->short_max = 5;
		done = false;
		for (unsigned k = 1; !done; k++) {
			undone = false;
			for (unsigned u = 1; !undone; u++) {
				in_child(f, k, false, &done);
				if (!done && journal_of(f) == JOURNAL_HALF) {
					halves++;
					assert_int_equal(apply(f, &writes, &back, &why), -EUCLEAN);
					assert_int_equal(writes, 0);
				}
				in_child(f, u, true, &undone);
				kills += !done + !undone;
				assert_int_equal(undo(f, &writes, &why), 0);
				assert_as_found(f);
				assert_int_equal(journal_of(f), JOURNAL_NONE);
			}
		}
	}
	printf("# %u kills, %u half-done journals\n", kills, halves);
	assert_true(kills > 80 && halves > 40);
}

static void test_8_the_half_done_step_is_named(void **state)
{
	char step[256];
	struct fake *f = *state;
	bool done;

	in_child(f, 6, false, &done); /* 1 begun, three points a step: the second file is written */
	assert_false(done);
	assert_int_equal(apply_journal_state(&f->conf, step), JOURNAL_HALF);
	assert_non_null(strstr(step, HUGE1 " to 64"));
}

static void test_9_another_boot(void **state)
{
	struct fake *f = *state;
	uint32_t writes;
	bool back;

	assert_int_equal(apply(f, &writes, &back, NULL), 0);
	put(f, BOOT_ID, "33333333\n");
	put(f, HUGE0, "100\n"); /* what this boot has is its own */
	assert_int_equal(journal_of(f), JOURNAL_NONE);
	assert_int_equal(undo(f, &writes, NULL), 0);
	assert_int_equal(writes, 0);
	assert_tree(f, "100\n", "64\n", ADVISE, "0\n");
	assert_int_equal(access(f->journal, F_OK), -1);

	assert_int_equal(apply(f, &writes, &back, NULL), 0);
	put(f, BOOT_ID, "44444444\n");
	put(f, HUGE0, "9\n");
	assert_int_equal(apply(f, &writes, &back, NULL), 0);
	assert_int_equal(undo(f, &writes, NULL), 0);
	assert_tree(f, "9\n", "64\n", ADVISE, "0\n");
}

static void test_9_out_of_memory(void **state)
{
	struct fake *f = *state;
	uint32_t writes;
	bool back;
	int rc = -1;

	for (unsigned n = 1; rc; n++) {
		mem_fail_at(n);
		rc = apply(f, &writes, &back, NULL);
		mem_fail_at(0);
		assert_true(rc == 0 || rc == -ENOMEM);
		if (rc)
			assert_as_found(f);
	}
	rc = -1;
	for (unsigned n = 1; rc; n++) {
		mem_fail_at(n);
		rc = undo(f, &writes, NULL);
		mem_fail_at(0);
		assert_true(rc == 0 || rc == -ENOMEM);
	}
	assert_as_found(f);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_1_apply_then_again_then_undo),
		T(test_2_nothing_to_do_needs_no_journal),
		T(test_2_dry_run),
		T(test_3_a_plan_of_another_machine),
		T(test_4_less_than_asked_is_rolled_back),
		T(test_4_a_second_apply_is_rolled_back_to_the_first),
		T(test_5_what_does_not_go_back_is_said),
		T(test_5_a_missing_node),
		T(test_6_only_files_of_the_list),
		T(test_6_no_link_is_followed),
		T(test_7_one_at_a_time),
		T(test_8_kill_at_every_point),
		T(test_8_the_half_done_step_is_named),
		T(test_9_another_boot),
		T(test_9_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
