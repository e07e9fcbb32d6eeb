#include "daemon/base/mem.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Sanitizers end the process where libc returns NULL, unless they are told otherwise. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void)
{
	return "allocator_may_return_null=1";
}

static void test_1_calloc_is_zeroed(void **state)
{
	unsigned char *p = mem_calloc(100, 3);
	(void)state;

	assert_non_null(p);
	for (int i = 0; i < 300; i++)
		assert_int_equal(p[i], 0);
	mem_free(p);
	mem_free(NULL);
}

static void test_2_overflow_is_refused(void **state)
{
	volatile size_t half = SIZE_MAX / 2 + 2;
	(void)state;

	assert_null(mem_calloc(half, 2));
}

static void test_3_realloc_keeps_the_bytes(void **state)
{
	char *p = mem_realloc(NULL, 4);
	(void)state;

	assert_non_null(p);
	memcpy(p, "abc", 4);
	p = mem_realloc(p, 100000);
	assert_non_null(p);
	assert_string_equal(p, "abc");
	mem_free(p);
}

static void test_4_strndup_terminates(void **state)
{
	char *p = mem_strndup("abcdef", 3), *q = mem_strndup(NULL, 0);
	(void)state;

	assert_string_equal(p, "abc");
	assert_string_equal(q, "");
	mem_free(p);
	mem_free(q);
}

static void test_5_every_allocation_counts(void **state)
{
	uint64_t before = mem_thread_allocs();
	void *p = mem_calloc(1, 1);
	char *s;
	(void)state;

	p = mem_realloc(p, 100);
	s = mem_strndup("x", 1);
	assert_int_equal(mem_thread_allocs() - before, 3);
	mem_free(p);
	mem_free(s);
	assert_int_equal(mem_thread_allocs() - before, 3);
}

static void test_6_the_nth_fails_once(void **state)
{
	void *p[5];
	(void)state;

	for (uint64_t n = 1; n <= 5; n++) {
		mem_fail_at(n);
		for (uint64_t i = 0; i < 5; i++) {
			p[i] = mem_calloc(1, 8);
			assert_int_equal(p[i] == NULL, i + 1 == n);
		}
		for (int i = 0; i < 5; i++)
			mem_free(p[i]);
	}
	mem_fail_at(1);
	mem_fail_at(0);
	p[0] = mem_calloc(1, 8);
	assert_non_null(p[0]);
	mem_free(p[0]);
}

static void test_7_a_failed_realloc_leaves_the_old_block(void **state)
{
	char *p = mem_strndup("keep", 4);
	(void)state;

	mem_fail_at(1);
	assert_null(mem_realloc(p, 1000));
	assert_string_equal(p, "keep");
	mem_fail_at(1);
	assert_null(mem_strndup("x", 1));
	mem_free(p);
}

static void *other(void *arg)
{
	void *p = mem_calloc(1, 1);

	*(uint64_t *)arg = p ? mem_thread_allocs() : UINT64_MAX;
	mem_free(p);
	return NULL;
}

static void test_8_counter_and_fault_belong_to_the_thread(void **state)
{
	uint64_t before = mem_thread_allocs(), theirs = 0;
	pthread_t t;
	(void)state;

	mem_fail_at(1);
	assert_int_equal(pthread_create(&t, NULL, other, &theirs), 0);
	pthread_join(t, NULL);
	assert_int_equal(theirs, 1);
	assert_int_equal(mem_thread_allocs(), before);
	assert_null(mem_calloc(1, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_calloc_is_zeroed),
		cmocka_unit_test(test_2_overflow_is_refused),
		cmocka_unit_test(test_3_realloc_keeps_the_bytes),
		cmocka_unit_test(test_4_strndup_terminates),
		cmocka_unit_test(test_5_every_allocation_counts),
		cmocka_unit_test(test_6_the_nth_fails_once),
		cmocka_unit_test(test_7_a_failed_realloc_leaves_the_old_block),
		cmocka_unit_test(test_8_counter_and_fault_belong_to_the_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
