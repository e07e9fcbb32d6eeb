#include "daemon/base/why.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* On the heap and exactly as large as it is, so that AddressSanitizer sees a byte too many. */
static struct why *exact(void)
{
	struct why *why = malloc(sizeof(*why));

	assert_non_null(why);
	memset(why, 0x5a, sizeof(*why));
	return why;
}

static void test_1_set_returns_the_error(void **state)
{
	struct why *why = exact();
	(void)state;

	assert_int_equal(why_set(why, -ENOENT, "no %s at %d", "file", 7), -ENOENT);
	assert_int_equal(why->err, -ENOENT);
	assert_string_equal(why->text, "no file at 7");
	free(why);
}

static void test_2_null_is_allowed(void **state)
{
	(void)state;
	assert_int_equal(why_set(NULL, -EBUSY, "%s", "x"), -EBUSY);
	why_prefix(NULL, "%s", "x");
}

static void test_3_prefix(void **state)
{
	struct why *why = exact();
	(void)state;

	why_set(why, -EINVAL, "inner");
	why_prefix(why, "tensor %u", 3u);
	why_prefix(why, "%s", "outer");
	assert_string_equal(why->text, "outer: tensor 3: inner");
	assert_int_equal(why->err, -EINVAL);
	free(why);
}

static void test_4_long_texts_are_cut(void **state)
{
	struct why *why = exact();
	char longer[1000];
	(void)state;

	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	why_set(why, -E2BIG, "%s", longer);
	assert_int_equal(strlen(why->text), sizeof(why->text) - 1);
	why_prefix(why, "who");
	assert_int_equal(strncmp(why->text, "who: xxx", 8), 0);
	assert_int_equal(strlen(why->text), sizeof(why->text) - 1);
	free(why);
}

/* Around the end of the buffer the separator and the old text have 0, 1, 2, ... bytes left. */
static void test_5_prefix_of_every_length(void **state)
{
	char prefix[600];
	(void)state;

	for (size_t n = 0; n < sizeof(prefix); n++) {
		struct why *why = exact();
		size_t cap = sizeof(why->text) - 1;

		memset(prefix, 'p', n);
		prefix[n] = '\0';
		why_set(why, -EIO, "inner text");
		why_prefix(why, "%s", prefix);
		assert_non_null(memchr(why->text, '\0', sizeof(why->text)));
		assert_int_equal(strncmp(why->text, prefix, n < cap ? n : cap), 0);
		if (n + strlen(": inner text") <= cap)
			assert_string_equal(why->text + n, ": inner text");
		else
			assert_in_range(strlen(why->text), cap - 3, cap);
		free(why);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_set_returns_the_error),
		cmocka_unit_test(test_2_null_is_allowed),
		cmocka_unit_test(test_3_prefix),
		cmocka_unit_test(test_4_long_texts_are_cut),
		cmocka_unit_test(test_5_prefix_of_every_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
