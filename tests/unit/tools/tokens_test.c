#include "tools/tokens.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void good(const char *text, uint32_t n, const uint32_t *expected)
{
	uint32_t *ids, count;
	struct why why = {0};
	int rc = tokens_parse(text, strlen(text), &ids, &count, &why);
	if (rc)
		fail_msg("'%s': %s", text, why.text);
	assert_int_equal(count, n);
	assert_memory_equal(ids, expected, n * sizeof(*ids));
	mem_free(ids);
}

static void t01_lists(void **state)
{
	(void)state;
	const uint32_t three[] = {1, 2, 3}, edge[] = {0, 4294967295u};
	good("1,2,3", 3, three);
	good(" [1, 2,\n3]\n", 3, three);
	good("[ 1 2 3 ]", 3, three);
	good("1\t2\r\n3", 3, three);
	good("0,4294967295", 2, edge);
	good("7", 1, (const uint32_t[]){7});
	good("007", 1, (const uint32_t[]){7});
}

static void t02_refused(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int err;
	} cases[] = {
		{"", -EINVAL},
		{" ", -EINVAL},
		{"[]", -EINVAL},
		{"[ ]", -EINVAL},
		{"1,", -EINVAL},
		{",1", -EINVAL},
		{"1,,2", -EINVAL},
		{"1, ,2", -EINVAL},
		{"-1", -EINVAL},
		{"1.5", -EINVAL},
		{"0x10", -EINVAL},
		{"[1", -EINVAL},
		{"1]", -EINVAL},
		{"[1]2", -EINVAL},
		{"]", -EINVAL},
		{"1 a", -EINVAL},
		{"1;2", -EINVAL},
		{"4294967296", -ERANGE},
		{"99999999999999999999999999", -ERANGE},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t *ids = NULL, count = 0;
		struct why why = {0};
		int rc = tokens_parse(cases[i].text, strlen(cases[i].text), &ids, &count, &why);
		if (rc != cases[i].err)
			fail_msg("'%s': %d", cases[i].text, rc);
		assert_null(ids);
	}
}

static int load(const void *bytes, size_t n, uint32_t **ids, uint32_t *count)
{
	char path[] = "/tmp/tokens_test_XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	close(fd);
	struct why why = {0};
	int rc = tokens_load(path, ids, count, &why);
	unlink(path);
	return rc;
}

static void t03_files(void **state)
{
	(void)state;
	uint32_t *ids, count;
	assert_int_equal(load("10\n20\n", 6, &ids, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(ids[1], 20);
	mem_free(ids);
	const uint8_t binary[] = {1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF};
	assert_int_equal(load(binary, sizeof(binary), &ids, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(ids[0], 1);
	assert_int_equal(ids[1], 0xFFFFFFFFu);
	mem_free(ids);
	assert_int_equal(load(binary, 7, &ids, &count), -EINVAL);
	assert_int_equal(load("", 0, &ids, &count), -EINVAL);
	assert_int_equal(load("12 abc", 6, &ids, &count), -EINVAL); /* no text of numbers, and not 4n bytes */
	struct why why = {0};
	assert_int_equal(tokens_load("/nonexistent/tokens", &ids, &count, &why), -ENOENT);
	assert_int_equal(tokens_load("/dev/zero", &ids, &count, &why), -EINVAL);
	assert_int_equal(tokens_load("/tmp", &ids, &count, &why), -EINVAL);
}

static void t04_random_bytes(void **state)
{
	(void)state;
	static const char alphabet[] = "0123456789,, \n[]-x";
	srandom(1);
	for (int i = 0; i < 20000; i++) {
		char text[24];
		size_t n = (size_t)random() % sizeof(text);
		for (size_t k = 0; k < n; k++)
			text[k] = alphabet[(size_t)random() % (sizeof(alphabet) - 1)];
		uint32_t *ids = NULL, count = 0;
		struct why why = {0};
		if (tokens_parse(text, n, &ids, &count, &why) == 0) {
			assert_in_range(count, 1, n);
			mem_free(ids);
		} else {
			assert_true(why.text[0] != '\0');
		}
	}
}

static void t05_document(void **state)
{
	(void)state;
	const char *text = "The quick brown fox, 1234567 times; internationalisation.\n";
	uint32_t *a, *b, na, nb;
	struct why why = {0};
	assert_int_equal(tokens_of_document(text, strlen(text), 128256, &a, &na, &why), 0);
	assert_int_equal(tokens_of_document(text, strlen(text), 128256, &b, &nb, &why), 0);
	assert_int_equal(na, nb);
	assert_memory_equal(a, b, na * sizeof(*a));
	assert_in_range(na, strlen(text) / 6, strlen(text));
	/* Fixed for ever: bench results and stored objects of two builds must match. */
	const uint32_t first[] = {9838, 113017, 26529}; /* "The", " quick", " brown" */
	assert_memory_equal(a, first, sizeof(first));
	mem_free(a);
	mem_free(b);
	assert_int_equal(tokens_of_document("", 0, 128256, &a, &na, &why), -EINVAL);
	assert_int_equal(tokens_of_document("x", 1, 0, &a, &na, &why), -EINVAL);
}

static void t06_ids_spread(void **state)
{
	(void)state;
	char *text;
	size_t n;
	uint32_t *ids, count, quarter[4] = {0};
	struct why why = {0};
	if (tokens_read_file("/usr/share/common-licenses/GPL-3", 1 << 20, &text, &n, &why))
		skip();
	assert_int_equal(tokens_of_document(text, n, 128256, &ids, &count, &why), 0);
	for (uint32_t i = 0; i < count; i++) {
		assert_in_range(ids[i], 0, 128255);
		quarter[ids[i] / 32064]++;
	}
	for (int i = 0; i < 4; i++)
		assert_true(quarter[i] > count / 16);
	mem_free(ids);
	mem_free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_lists),        cmocka_unit_test(t02_refused),  cmocka_unit_test(t03_files),
		cmocka_unit_test(t04_random_bytes), cmocka_unit_test(t05_document), cmocka_unit_test(t06_ids_spread),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
