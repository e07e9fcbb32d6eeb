/* The reader of files: below a root, recorded, and replayed. */
#include "numa/facts.h"

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

static void put(const char *root, const char *name, const char *text, size_t n)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	fclose(f);
}

static void make_tree(char root[32])
{
	char path[256], *big = malloc(FACTS_TEXT_MAX + 10);

	snprintf(root, 32, "/tmp/lmca-facts-XXXXXX");
	assert_non_null(mkdtemp(root));
	put(root, "number", "42\n", 3);
	put(root, "hex", "0x10de\n", 7);
	put(root, "minus", "-1\n", 3);
	put(root, "huge", "18446744073709551616", 20);
	put(root, "odd", "a\x01\xff\0b\n\n", 7);
	put(root, "empty", "", 0);
	memset(big, 'y', FACTS_TEXT_MAX + 10);
	put(root, "big", big, FACTS_TEXT_MAX + 10);
	free(big);
	snprintf(path, sizeof(path), "%s/link", root);
	assert_int_equal(symlink("../../devices/pci0000:00/x", path), 0);
	snprintf(path, sizeof(path), "%s/dir", root);
	assert_int_equal(mkdir(path, 0700), 0);
	put(root, "dir/b", "", 0);
	put(root, "dir/a", "", 0);
	put(root, "dir/with blank", "", 0);
	put(root, "dir/.hidden", "", 0);
}

static void drop_tree(const char *root)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -r %s", root);
	assert_int_equal(system(command), 0);
}

/* The same questions, whatever the origin. */
static void ask(struct facts *f)
{
	char buf[64], *text;
	struct facts_dir d;
	uint64_t v = 7;

	assert_int_equal(facts_u64(f, &v, "/number"), 0);
	assert_int_equal(v, 42);
	assert_int_equal(facts_u64(f, &v, "/%s", "hex"), 0);
	assert_int_equal(v, 0x10de);
	assert_int_equal(facts_u64(f, &v, "/minus"), -EINVAL);
	assert_int_equal(facts_u64(f, &v, "/huge"), -ERANGE);
	assert_int_equal(facts_u64(f, &v, "/empty"), -EINVAL);
	assert_int_equal(facts_u64(f, &v, "/none"), -ENOENT);
	assert_int_equal(facts_read(f, buf, sizeof(buf), "/number"), 2);
	assert_string_equal(buf, "42");
	assert_int_equal(facts_read(f, buf, 2, "/number"), -E2BIG);
	assert_string_equal(buf, "");
	assert_int_equal(facts_read(f, buf, sizeof(buf), "/odd"), 5);
	assert_string_equal(buf, "a???b");
	assert_int_equal(facts_read(f, buf, sizeof(buf), "/empty"), 0);
	assert_true(facts_read(f, buf, sizeof(buf), "/dir") < 0);
	assert_int_equal(facts_read(f, buf, sizeof(buf), "/%01500d", 1), -ENOENT); /* no shorter name instead */
	text = facts_text(f, "/big");
	assert_int_equal(strlen(text), FACTS_TEXT_MAX);
	mem_free(text);
	assert_null(facts_text(f, "/none"));
	assert_true(facts_link(f, buf, sizeof(buf), "/link") > 0);
	assert_string_equal(buf, "../../devices/pci0000:00/x");
	assert_int_equal(facts_link(f, buf, 4, "/link"), -E2BIG);
	assert_true(facts_link(f, buf, sizeof(buf), "/number") < 0);
	assert_int_equal(facts_list(f, &d, "/dir"), 0);
	assert_int_equal(d.n, 2);
	assert_string_equal(d.names[0], "a");
	assert_string_equal(d.names[1], "b");
	facts_dir_free(&d);
	assert_true(facts_list(f, &d, "/none") < 0);
	assert_false(facts_live(f));
	assert_false(facts_oom(f));
}

static void test_1_below_a_root_and_replayed(void **state)
{
	struct facts *f, *replay;
	json_t *capture = json_object();
	char root[32], buf[16];

	(void)state;
	make_tree(root);
	assert_int_equal(facts_open(root, true, &f, NULL), 0);
	ask(f);
	facts_note(f, "key", "value");
	assert_int_equal(facts_save(f, capture), 0);
	facts_close(f);
	drop_tree(root);

	assert_int_equal(facts_replay(capture, &replay, NULL), 0);
	ask(replay);
	assert_int_equal(facts_value(replay, "key", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "value");
	assert_int_equal(facts_value(replay, "key", buf, 3), -ENOENT);
	assert_int_equal(facts_value(replay, "other", buf, sizeof(buf)), -ENOENT);
	facts_close(replay);
	json_decref(capture);
}

static void test_2_no_files_at_all(void **state)
{
	struct facts *f;
	struct facts_dir d;
	char buf[16];

	(void)state;
	assert_int_equal(facts_open(NULL, false, &f, NULL), 0);
	assert_int_equal(facts_read(f, buf, sizeof(buf), "/proc/self/status"), -ENOENT);
	assert_int_equal(facts_list(f, &d, "/proc"), -ENOENT);
	assert_int_equal(facts_link(f, buf, sizeof(buf), "/proc/self"), -ENOENT);
	facts_close(f);
}

static void test_3_memory_that_runs_out_is_remembered(void **state)
{
	struct facts *f;
	struct facts_dir d;

	(void)state;
	mem_fail_at(1);
	assert_int_equal(facts_open("", false, &f, NULL), -ENOMEM);
	mem_fail_at(0);
	assert_int_equal(facts_open("", false, &f, NULL), 0);
	assert_true(facts_live(f));
	mem_fail_at(2);
	assert_int_equal(facts_list(f, &d, "/proc/self"), -ENOMEM);
	mem_fail_at(0);
	assert_int_equal(d.n, 0);
	assert_true(facts_oom(f));
	facts_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_below_a_root_and_replayed),
		cmocka_unit_test(test_2_no_files_at_all),
		cmocka_unit_test(test_3_memory_that_runs_out_is_remembered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
