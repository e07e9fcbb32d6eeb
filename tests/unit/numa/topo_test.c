#include "numa/topo.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int setup(void **state)
{
	struct topo *t;
	struct why why;

	if (topo_create(&t, &why)) {
		printf("# %s\n", why.text);
		return -1;
	}
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	topo_destroy(*state);
	return 0;
}

static uint64_t memory_of_node(int os_index)
{
	char path[100], line[200];
	unsigned long long kb = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", os_index);
	f = fopen(path, "r");
	while (f && kb == 0 && fgets(line, sizeof(line), f))
		sscanf(line, "Node %*d MemTotal: %llu kB", &kb);
	if (f)
		fclose(f);
	return kb * 1024;
}

static void test_1_what_the_kernel_says(void **state)
{
	const struct topo *t = *state;
	uint32_t cpus = 0;
	cpu_set_t allowed;

	assert_in_range(topo_nnodes(t), 1, TOPO_MAX_NODES);
	for (uint32_t i = 0; i < topo_nnodes(t); i++) {
		const struct topo_node *n = topo_node(t, i);
		uint64_t kernel = memory_of_node(n->os_index);

		assert_true(n->os_index >= 0);
		if (kernel)
			assert_int_equal(n->memory_bytes, kernel);
		for (uint32_t k = 0; k < i; k++)
			assert_int_not_equal(topo_node(t, k)->os_index, n->os_index);
		cpus += n->ncpus;
	}
	assert_int_equal(cpus, topo_ncpus(t));
	assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
	assert_true(topo_ncpus(t) >= (uint32_t)CPU_COUNT(&allowed));
}

struct pin {
	const struct topo *t;
	uint32_t node;
	int rc;
	cpu_set_t cpus;
};

static void *pin(void *arg)
{
	struct pin *p = arg;

	p->rc = topo_pin_self(p->t, p->node);
	CPU_ZERO(&p->cpus);
	sched_getaffinity(0, sizeof(p->cpus), &p->cpus);
	return NULL;
}

static void test_2_pins_the_calling_thread_only(void **state)
{
	const struct topo *t = *state;
	cpu_set_t before, after;

	sched_getaffinity(0, sizeof(before), &before);
	for (uint32_t i = 0; i < topo_nnodes(t); i++) {
		struct pin p = {.t = t, .node = i};
		pthread_t th;

		assert_int_equal(pthread_create(&th, NULL, pin, &p), 0);
		pthread_join(th, NULL);
		if (topo_node(t, i)->ncpus == 0) {
			assert_int_equal(p.rc, -EINVAL);
			continue;
		}
		assert_int_equal(p.rc, 0);
		assert_int_equal(CPU_COUNT(&p.cpus), topo_node(t, i)->ncpus);
	}
	sched_getaffinity(0, sizeof(after), &after);
	assert_true(CPU_EQUAL(&before, &after));
}

static void test_3_an_unknown_node_is_refused(void **state)
{
	const struct topo *t = *state;

	assert_int_equal(topo_pin_self(t, topo_nnodes(t)), -EINVAL);
	assert_int_equal(topo_pin_self(t, UINT32_MAX), -EINVAL);
}

static void test_4_out_of_memory(void **state)
{
	struct topo *t;
	struct why why = {0};
	(void)state;

	mem_fail_at(1);
	assert_int_equal(topo_create(&t, &why), -ENOMEM);
	mem_fail_at(0);
	assert_non_null(strstr(why.text, "memory"));
	topo_destroy(NULL);
}

/* Two nodes as hwloc can be told to see: no thread may be pinned by a picture of another machine. */
static void test_5_another_machine(void **state)
{
	struct topo *t;
	(void)state;

	setenv("HWLOC_SYNTHETIC", "numa:2(memory=1073741824) pu:3", 1);
	assert_int_equal(topo_create(&t, NULL), 0);
	unsetenv("HWLOC_SYNTHETIC");
	assert_int_equal(topo_nnodes(t), 2);
	assert_int_equal(topo_ncpus(t), 6);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(topo_node(t, i)->os_index, i);
		assert_int_equal(topo_node(t, i)->ncpus, 3);
		assert_int_equal(topo_node(t, i)->memory_bytes, 1073741824);
		assert_int_equal(topo_pin_self(t, i), -EXDEV);
	}
	topo_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_1_what_the_kernel_says, setup, teardown),
		cmocka_unit_test_setup_teardown(test_2_pins_the_calling_thread_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_3_an_unknown_node_is_refused, setup, teardown),
		cmocka_unit_test(test_4_out_of_memory),
		cmocka_unit_test(test_5_another_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
