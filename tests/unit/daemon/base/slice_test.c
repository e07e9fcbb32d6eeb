#include "daemon/base/slice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_1_equality(void **state)
{
	char a[] = {'a', 'b', 'c'}, b[] = {'a', 'b', 'c', 'd'};
	(void)state;

	assert_true(slice_eq(slice_of(a, 3), slice_of(b, 3)));
	assert_false(slice_eq(slice_of(a, 3), slice_of(b, 4)));
	b[2] = 'C';
	assert_false(slice_eq(slice_of(a, 3), slice_of(b, 3)));
	assert_true(slice_eq(slice_of(a, 0), slice_of(b, 0)));
}

static void test_2_empty_needs_no_memory(void **state)
{
	(void)state;
	assert_true(slice_eq(slice_of(NULL, 0), slice_of("x", 0)));
	assert_true(slice_is(slice_of(NULL, 0), ""));
	assert_false(slice_is(slice_of(NULL, 0), "x"));
}

static void test_3_bytes_not_text(void **state)
{
	(void)state;
	assert_false(slice_eq(slice_of("a\0b", 3), slice_of("a\0c", 3)));
	assert_true(slice_is(slice_of("abc", 2), "ab"));
	assert_false(slice_is(slice_of("abc", 3), "ab"));
	assert_false(slice_is(slice_of("ab\0", 3), "ab"));
	assert_int_equal(slice_str("four").n, 4);
}

/* Not terminated, and bounded however long it is. */
static void test_4_printing(void **state)
{
	char out[2000];
	char *big = malloc(3000), *tight = malloc(2);
	(void)state;

	memset(big, 'x', 3000);
	memcpy(tight, "ab", 2);
	assert_int_equal(snprintf(out, sizeof(out), "%.*s", SLICE_FMT(slice_of(big, 3000))), 1024);
	snprintf(out, sizeof(out), "<%.*s>", SLICE_FMT(slice_of(tight, 2)));
	assert_string_equal(out, "<ab>");
	snprintf(out, sizeof(out), "<%.*s>", SLICE_FMT(slice_of(NULL, 0)));
	assert_string_equal(out, "<>");
	free(big);
	free(tight);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_equality),
		cmocka_unit_test(test_2_empty_needs_no_memory),
		cmocka_unit_test(test_3_bytes_not_text),
		cmocka_unit_test(test_4_printing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
