#include "numa/node.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static void test_1_unknown_is_not_zero(void **state)
{
	(void)state;
	assert_false(node_known(NODE_UNKNOWN));
	assert_false(node_known(node_of(-1)));
	assert_false(node_known(node_of((int)NODE_MAX)));
	assert_true(node_known(node_of(0)));
	assert_true(node_known(node_of((int)NODE_MAX - 1)));
	assert_false(node_same(NODE_UNKNOWN, node_of(0)));
	assert_false(node_same(node_of(0), NODE_UNKNOWN));
	assert_false(node_same(NODE_UNKNOWN, NODE_UNKNOWN));
	assert_true(node_same(node_of(70), node_of(70)));
}

static void round_trip(const char *text, const char *back, uint32_t count)
{
	char buf[256];
	struct cpu_set s;

	assert_int_equal(cpus_parse(text, &s), 0);
	assert_int_equal(cpus_count(&s), count);
	assert_int_equal(cpus_format(&s, buf, sizeof(buf)), strlen(back));
	assert_string_equal(buf, back);
}

static void test_2_lists_as_the_kernel_writes_them(void **state)
{
	(void)state;
	round_trip("", "", 0);
	round_trip("\n", "", 0);
	round_trip("0", "0", 1);
	round_trip("0-3,8\n", "0-3,8", 5);
	round_trip("3,1,2,0", "0-3", 4);
	round_trip("63-64,127-128", "63-64,127-128", 4);
	round_trip("0-4095", "0-4095", 4096);
	round_trip("1,3,5,7", "1,3,5,7", 4);
}

static void test_3_what_is_no_list(void **state)
{
	static const char *const bad[] = {"x",   "-1",  "1-",    "1,,2", "1,", ",1",
					  "3-1", "1 2", "1-2-3", "0\n1", " 1", "1-2,x"};
	struct cpu_set s, before;

	(void)state;
	memset(&s, 0xa5, sizeof(s));
	before = s;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cpus_parse(bad[i], &s), -EINVAL);
	assert_int_equal(cpus_parse("4096", &s), -ERANGE);
	assert_int_equal(cpus_parse("0-4096", &s), -ERANGE);
	assert_int_equal(cpus_parse("99999999999999999999", &s), -ERANGE);
	assert_true(cpus_equal(&s, &before)); /* untouched */
}

static void test_4_a_short_buffer_is_terminated_and_says_the_length(void **state)
{
	struct cpu_set s;
	char buf[16];

	(void)state;
	assert_int_equal(cpus_parse("0-3,8,10-12", &s), 0);
	for (size_t cap = 1; cap < sizeof(buf); cap++) {
		memset(buf, 'x', sizeof(buf));
		assert_int_equal(cpus_format(&s, buf, cap), 11);
		assert_true(strlen(buf) < cap);
		assert_int_equal(strncmp("0-3,8,10-12", buf, strlen(buf)), 0);
		for (size_t i = cap; i < sizeof(buf); i++)
			assert_int_equal(buf[i], 'x');
	}
	assert_int_equal(cpus_format(&s, NULL, 0), 11);
}

static void test_5_walking_and_combining(void **state)
{
	struct cpu_set a, b;

	(void)state;
	assert_int_equal(cpus_parse("0,64,4095", &a), 0);
	assert_int_equal(cpus_next(&a, 0), 0);
	assert_int_equal(cpus_next(&a, 1), 64);
	assert_int_equal(cpus_next(&a, 65), 4095);
	assert_int_equal(cpus_next(&a, 4096), -1);
	assert_int_equal(cpus_next(&a, UINT32_MAX), -1);
	assert_int_equal(cpus_parse("64-70", &b), 0);
	cpus_or(&b, &a);
	assert_int_equal(cpus_count(&b), 9);
	cpus_and(&b, &a);
	assert_true(cpus_equal(&a, &b));
	cpus_drop(&b, 64);
	assert_false(cpus_has(&b, 64));
	assert_false(cpus_equal(&a, &b));
	cpus_add(&b, CPU_MAX); /* out of range: nothing happens */
	assert_int_equal(cpus_count(&b), 2);
	assert_false(cpus_has(&b, CPU_MAX));
}

static void *pin_and_look(void *arg)
{
	struct cpu_set *want = arg, seen, other;

	assert_int_equal(cpus_pin_self(want), 0);
	assert_int_equal(cpus_of_thread(0, 0, &seen), 0);
	assert_true(cpus_equal(want, &seen));
	assert_int_equal(cpus_of_thread(getpid(), (int)syscall(SYS_gettid), &other), 0);
	assert_true(cpus_equal(&other, &seen));
	assert_int_equal(cpus_of_thread(0, (int)syscall(SYS_gettid), &other), 0);
	assert_true(cpus_equal(&other, &seen));
	return NULL;
}

static void test_6_pins_one_thread_and_sees_it(void **state)
{
	struct cpu_set before, one = {0}, none = {0}, after;
	pthread_t th;

	(void)state;
	assert_int_equal(cpus_of_thread(0, 0, &before), 0);
	assert_true(cpus_count(&before) > 0);
	for (int cpu = cpus_next(&before, 0); cpu >= 0; cpu = cpus_next(&before, (uint32_t)cpu + 1)) {
		one = none;
		cpus_add(&one, (uint32_t)cpu);
		assert_int_equal(pthread_create(&th, NULL, pin_and_look, &one), 0);
		pthread_join(th, NULL);
	}
	assert_int_equal(cpus_of_thread(0, 0, &after), 0);
	assert_true(cpus_equal(&before, &after));
	assert_int_equal(cpus_pin_self(&none), -EINVAL);
	assert_int_equal(cpus_of_thread(getpid(), 0x7fffffff, &after), -ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_unknown_is_not_zero),
		cmocka_unit_test(test_2_lists_as_the_kernel_writes_them),
		cmocka_unit_test(test_3_what_is_no_list),
		cmocka_unit_test(test_4_a_short_buffer_is_terminated_and_says_the_length),
		cmocka_unit_test(test_5_walking_and_combining),
		cmocka_unit_test(test_6_pins_one_thread_and_sees_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
