/* Threads, devices and notes of the planner; running out of memory in it; its JSON. */
#include "tests/unit/numa/machine_fixture.h"
#include "numa/plan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define GIB FIX_GIB

static struct plan *make(const struct machine *m, enum plan_policy policy, uint32_t transfer, uint32_t lookup)
{
	struct plan_conf c = {.policy = policy,
			      .l1_bytes = 8 * GIB,
			      .numa = WANT_TRY,
			      .thp = WANT_TRY,
			      .transfer_workers = transfer,
			      .lookup_workers = lookup};
	struct plan *p = NULL;
	struct why why = {0};

	if (plan_make(m, &c, &p, &why))
		fail_msg("refused: %s", why.text);
	return p;
}

static struct machine *nodes_of_cores(uint32_t nodes, uint32_t with_cpus, uint32_t cores)
{
	static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct machine *m = fix_machine(nodes);

	for (uint32_t i = 0; i < nodes; i++)
		fix_memory(m, i, 64 * GIB);
	fix_cpus(m, all, with_cpus, cores, 2, 4);
	return m;
}

static void end(struct machine *m, struct plan *p)
{
	plan_destroy(p);
	machine_destroy(m);
}

static uint32_t count_on(const struct plan *p, enum plan_role role, int node)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->nthreads; i++)
		n += p->threads[i].role == role && node_same(p->threads[i].node, node_of(node));
	return n;
}

static void runs_on(const struct plan *p, enum plan_role role, uint32_t index, const char *cpus)
{
	const struct plan_thread *t = plan_thread_of(p, role, index);
	char text[256];

	assert_non_null(t);
	cpus_format(&t->cpus, text, sizeof(text));
	assert_string_equal(text, cpus);
}

static bool reason_has(const struct plan_thread *t, const char *text)
{
	return t && strstr(t->line.reason, text);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void test_01_by_the_pools(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 8);
	struct plan *p;
	(void)state;

	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){0}, 1, 3);
	fix_devices(m, DEV_GPU, "more", (uint32_t[]){1}, 1, 1);
	p = make(m, PLAN_LOCAL, 4, 2);
	assert_int_equal(count_on(p, ROLE_TRANSFER, 0), 3);
	assert_int_equal(count_on(p, ROLE_TRANSFER, 1), 1);
	assert_int_equal(count_on(p, ROLE_LOOKUP, 0), 1);
	assert_int_equal(count_on(p, ROLE_LOOKUP, 1), 1);
	assert_null(plan_thread_of(p, ROLE_TRANSFER, 4));
	plan_destroy(p);
	p = make(m, PLAN_LOCAL, 1, 1);
	assert_int_equal(count_on(p, ROLE_TRANSFER, 0), 1);
	plan_destroy(p);
	p = make(m, PLAN_LOCAL, 0, 0);
	assert_int_equal(count_on(p, ROLE_TRANSFER, 0) + count_on(p, ROLE_TRANSFER, 1), 4);
	end(m, p);
}

static void test_02_cores_of_their_own(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 4);
	struct plan *p;
	(void)state;

	/* CPUs 0-3 and 8-11 are the two threads of each core of node 0. Caches take turns, siblings stay together. */
	fix_device(m, DEV_NVME, "nvme0n1", "0000:01:00.0", node_of(0));
	p = make(m, PLAN_SPREAD, 2, 1);
	runs_on(p, ROLE_NVME, 0, "0,8");
	runs_on(p, ROLE_TRANSFER, 0, "1,9");
	runs_on(p, ROLE_TRANSFER, 1, "4,12");
	runs_on(p, ROLE_CONTROL, 0, "2,10");
	runs_on(p, ROLE_LOOKUP, 0, "3,11"); /* shares the last core with HTTP */
	runs_on(p, ROLE_HTTP, 0, "3,11");
	runs_on(p, ROLE_POPULATE, 0, "0-3,8-11");
	plan_destroy(p);
	/* More workers than cores: nobody gets one of his own, rather than two on the same. */
	p = make(m, PLAN_SPREAD, 20, 1);
	runs_on(p, ROLE_TRANSFER, 0, "1-3,9-11");
	runs_on(p, ROLE_TRANSFER, 9, "1-3,9-11");
	runs_on(p, ROLE_TRANSFER, 10, "4-7,12-15");
	assert_true(reason_has(plan_thread_of(p, ROLE_TRANSFER, 0), "too few cores here: shares CPUs"));
	end(m, p);
}

static void test_03_caches_take_turns(void **state)
{
	struct machine *m = nodes_of_cores(1, 1, 8);
	struct plan *p = make(m, PLAN_LOCAL, 3, 1);
	(void)state;

	runs_on(p, ROLE_TRANSFER, 0, "0,8");
	runs_on(p, ROLE_TRANSFER, 1, "4,12");
	runs_on(p, ROLE_TRANSFER, 2, "1,9");
	end(m, p);
}

static void test_04_isolated_and_forbidden(void **state)
{
	struct machine *m = nodes_of_cores(1, 1, 4);
	struct plan *p;
	(void)state;

	m->cpus[0].isolated = m->cpus[4].isolated = true;
	m->cpus[5].allowed = false;
	cpus_drop(&m->nodes[0].cpus, 5);
	p = make(m, PLAN_LOCAL, 1, 1);
	runs_on(p, ROLE_TRANSFER, 0, "1");
	runs_on(p, ROLE_POPULATE, 0, "1-3,6-7");
	plan_destroy(p);
	for (uint32_t i = 0; i < m->ncpus; i++)
		m->cpus[i].isolated = true;
	p = make(m, PLAN_LOCAL, 1, 1);
	runs_on(p, ROLE_POPULATE, 0, "0-4,6-7");
	assert_true(reason_has(plan_thread_of(p, ROLE_POPULATE, 0), "all CPUs here are isolated"));
	end(m, p);
}

static void test_05_nodes_without_cpus(void **state)
{
	struct machine *m = nodes_of_cores(4, 2, 4);
	struct plan *p;
	(void)state;

	fix_distance(m, 3, 1, 15);
	fix_devices(m, DEV_NVME, "nvme", (uint32_t[]){3}, 1, 1);
	p = make(m, PLAN_LOCAL, 2, 1);
	assert_int_equal(p->npools, 1);
	assert_int_equal(p->pools[0].node.os, 3);
	assert_int_equal(count_on(p, ROLE_TRANSFER, 1), 2);
	assert_int_equal(count_on(p, ROLE_NVME, 1), 1);
	assert_true(reason_has(plan_thread_of(p, ROLE_NVME, 0), "node 3 has no CPUs for us, node 1 is the nearest"));
	assert_true(reason_has(plan_thread_of(p, ROLE_POPULATE, 0), "node 1 is the nearest"));
	assert_int_equal(plan_thread_of(p, ROLE_POPULATE, 0)->pool, 0);
	plan_destroy(p);
	/* No distances: any CPU, not those of node 0. */
	for (uint32_t i = 0; i < 4; i++)
		memset(m->nodes[i].distance, 0, 4 * sizeof(uint32_t));
	p = make(m, PLAN_LOCAL, 2, 1);
	assert_false(node_known(plan_thread_of(p, ROLE_NVME, 0)->node));
	runs_on(p, ROLE_NVME, 0, "0-15");
	runs_on(p, ROLE_TRANSFER, 1, "0-15");
	end(m, p);
}

static void test_06_unknown_stays_unknown(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 4);
	struct plan *p;
	(void)state;

	fix_device(m, DEV_GPU, "gpu0", "0000:01:00.0", NODE_UNKNOWN);
	fix_device(m, DEV_RDMA, "mlx5_0", "0000:02:00.0", NODE_UNKNOWN);
	fix_device(m, DEV_NVME, "nvme0n1", "0000:03:00.0", node_of(77));
	p = make(m, PLAN_LOCAL, 2, 1);
	assert_int_equal(p->npools, 2);
	assert_int_equal(p->pools[0].bytes, p->pools[1].bytes);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(p->devices[i].pool, UINT32_MAX);
	assert_false(node_known(plan_thread_of(p, ROLE_NIC, 0)->node));
	runs_on(p, ROLE_NIC, 0, "0-15");
	runs_on(p, ROLE_NVME, 0, "0-15");
	assert_string_equal(plan_thread_of(p, ROLE_NIC, 0)->line.reason, "mlx5_0 is on an unknown node: any CPU");
	assert_true(reason_has(plan_thread_of(p, ROLE_NVME, 0), "node 77, which is not in the machine"));
	end(m, p);
}

static void test_07_devices_find_pools(void **state)
{
	struct machine *m = nodes_of_cores(4, 4, 4);
	struct plan *p;
	(void)state;

	fix_distance(m, 3, 1, 15);
	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){0, 1}, 2, 1);
	fix_devices(m, DEV_RDMA, "mlx5_", (uint32_t[]){3, 1}, 2, 1);
	fix_device(m, DEV_NIC, "eth0", "0000:77:00.0", node_of(0));
	p = make(m, PLAN_LOCAL, 2, 1);
	assert_int_equal(p->npools, 2);
	assert_int_equal(p->devices[0].pool, 0);
	assert_int_equal(p->devices[1].pool, 1);
	assert_int_equal(p->devices[2].pool, 1);
	assert_non_null(
		strstr(p->devices[2].line.reason, "node 3 has no pool; that of node 1 is the nearest (distance 15)"));
	assert_int_equal(p->devices[2].thread, 0);
	assert_int_equal(p->devices[3].thread, 1);
	assert_int_equal(p->devices[4].thread, UINT32_MAX);
	assert_int_equal(p->devices[4].pool, 0);
	assert_string_equal(p->devices[2].line.source, "/sys/bus/pci/devices/0000:03:00.0/numa_node");
	end(m, p);
}

/* ---- notes ------------------------------------------------------------------------------------------------------ */

struct trouble {
	void (*make)(struct machine *m);
	enum plan_want numa;
	enum plan_severity severity;
	const char *text, *remedy;
};

static void t_mbind(struct machine *m)
{
	m->limits.mbind = PROBE_DENIED;
}
static void t_old_kernel(struct machine *m)
{
	m->limits.mbind = PROBE_MISSING;
}
static void t_pinning(struct machine *m)
{
	m->limits.sched_setaffinity = PROBE_DENIED;
}
static void t_balancing(struct machine *m)
{
	m->limits.numa_balancing = true;
}
static void t_memlock(struct machine *m)
{
	m->limits.memlock = 8 * FIX_MIB;
}
static void t_memlock_rdma(struct machine *m)
{
	m->limits.memlock = 8 * FIX_MIB;
	fix_device(m, DEV_RDMA, "mlx5_0", "0000:01:00.0", node_of(0));
}
static void t_shm(struct machine *m)
{
	m->limits.shm_total = 4 * GIB;
	m->limits.shm_free = 3 * GIB;
}
static void t_hidden(struct machine *m)
{
	m->nodes[1].allowed = false;
}
static void t_disputed(struct machine *m)
{
	struct mach_device *d = fix_device(m, DEV_GPU, "gpu0", "0000:01:00.0", node_of(1));

	d->confidence = CONF_DISPUTED;
	d->nfacts = 2;
	d->fact[1] = (struct fact_node){FACT_HWLOC, node_of(0), "hwloc PCI"};
}
static void t_unknown(struct machine *m)
{
	fix_device(m, DEV_GPU, "gpu0", "0000:01:00.0", NODE_UNKNOWN);
}
static void t_free(struct machine *m)
{
	m->nodes[0].free_bytes = GIB;
}

static const struct trouble troubles[] = {
	{t_mbind, WANT_TRY, PLAN_WARNING, "mbind is denied (EPERM", "--cap-add SYS_NICE"},
	{t_mbind, WANT_YES, PLAN_SHORTAGE, "numa=yes cannot be met", "--cap-add SYS_NICE"},
	{t_old_kernel, WANT_YES, PLAN_SHORTAGE, "the kernel has no mbind", "CONFIG_NUMA"},
	{t_pinning, WANT_TRY, PLAN_WARNING, "sched_setaffinity is denied", "seccomp"},
	{t_balancing, WANT_TRY, PLAN_WARNING, "automatic NUMA balancing is on", "sysctl -w kernel.numa_balancing=0"},
	{t_memlock, WANT_TRY, PLAN_NOTICE, "up to 8 MiB (ulimit -l)", "LimitMEMLOCK=infinity"},
	{t_memlock_rdma, WANT_TRY, PLAN_WARNING, "up to 8 MiB (ulimit -l)", "LimitMEMLOCK=infinity"},
	{t_shm, WANT_TRY, PLAN_WARNING, "/dev/shm has room for 3 GiB, L1 needs 8 GiB", "remount,size=9G /dev/shm"},
	{t_hidden, WANT_TRY, PLAN_NOTICE, "our cpuset hides the memory of node 1", "cpuset.mems"},
	{t_disputed, WANT_TRY, PLAN_WARNING,
	 "gpu0: sources disagree, node 1 is taken: /sys/bus/pci/devices/0000:01:00.0/numa_node says node 1, hwloc PCI "
	 "says node 0",
	 "numa explain gpu0"},
	{t_unknown, WANT_TRY, PLAN_WARNING, "the node of 1 device is unknown, so any CPU and any pool serve: gpu0",
	 "HWLOC_PCI_LOCALITY"},
	{t_free, WANT_TRY, PLAN_NOTICE, "node 0: 4 GiB of L1, but only 1 GiB are free now", "drop_caches"},
};

static void test_10_notes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(troubles) / sizeof(troubles[0]); i++) {
		const struct trouble *t = &troubles[i];
		struct machine *m = nodes_of_cores(2, 2, 4);
		struct plan_conf c = {.l1_bytes = 8 * GIB, .numa = t->numa, .thp = WANT_TRY};
		struct plan *p = NULL;
		struct why why = {0};
		const struct plan_note *n = NULL;

		assert_int_equal(plan_make(m, &c, &p, &why), 0);
		assert_int_equal(p->nnotes, 0); /* nothing is wrong with the machine itself */
		plan_destroy(p);
		t->make(m);
		assert_int_equal(plan_make(m, &c, &p, &why), 0);
		for (uint32_t k = 0; k < p->nnotes; k++) {
			if (strstr(p->notes[k].text, t->text))
				n = &p->notes[k];
		}
		if (!n)
			fail_msg("no note says '%s' but: %s", t->text, p->nnotes ? p->notes[0].text : "nothing");
		assert_int_equal(n->severity, t->severity);
		if (!strstr(n->remedy, t->remedy))
			fail_msg("'%s': the remedy is '%s'", n->text, n->remedy);
		assert_int_equal(p->nnotes, 1);
		end(m, p);
	}
}

static void test_11_actions_of_limits(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 4);
	struct plan *p;
	(void)state;

	t_balancing(m);
	t_memlock_rdma(m);
	p = make(m, PLAN_LOCAL, 1, 1);
	assert_int_equal(p->nactions, 2);
	assert_int_equal(p->actions[0].kind, ACT_SYSCTL);
	assert_string_equal(p->actions[0].path, "/proc/sys/kernel/numa_balancing");
	assert_string_equal(p->actions[0].value, "0");
	assert_int_equal(p->actions[1].kind, ACT_UNIT);
	assert_string_equal(p->actions[1].value, "LimitMEMLOCK=infinity");
	end(m, p);
}

/* ---- memory and JSON -------------------------------------------------------------------------------------------- */

static void test_20_out_of_memory(void **state)
{
	struct machine *m = fix_8gpu();
	struct plan_conf c = {.l1_bytes = 64 * GIB, .numa = WANT_TRY, .huge_2m = WANT_TRY, .thp = WANT_TRY};
	uint32_t failed = 0;
	(void)state;

	m->limits.memlock = 0;
	m->devices[0].node = NODE_UNKNOWN;
	for (uint64_t n = 1;; n++) {
		struct plan *p = (struct plan *)&c;
		struct why why = {0};
		int rc;

		mem_fail_at(n);
		rc = plan_make(m, &c, &p, &why);
		mem_fail_at(0);
		if (rc == 0) {
			plan_destroy(p);
			break;
		}
		assert_int_equal(rc, -ENOMEM);
		assert_int_equal(why.err, -ENOMEM);
		assert_null(p);
		failed++;
		assert_true(n < 1000);
	}
	/* The plan, two lists of nodes, five of the crew, and the plan's own lists. */
	assert_true(failed >= 12);
	machine_destroy(m);
}

static uint64_t json_left;

static void *json_malloc(size_t bytes)
{
	return json_left && --json_left == 0 ? NULL : malloc(bytes);
}

static void test_21_json_out_of_memory(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 2);
	struct plan *p;
	uint32_t failed = 0;
	(void)state;

	fix_device(m, DEV_NVME, "nvme0n1", "0000:01:00.0", node_of(1));
	m->limits.memlock = 0;
	p = make(m, PLAN_LOCAL, 1, 1);
	json_set_alloc_funcs(json_malloc, free);
	for (uint64_t n = 1;; n++) {
		json_t *j;

		json_left = n;
		j = plan_json(p);
		json_left = 0;
		if (j) {
			json_decref(j);
			break;
		}
		failed++;
	}
	json_set_alloc_funcs(malloc, free);
	assert_true(failed > 100);
	end(m, p);
}

static void test_22_json_says_the_same(void **state)
{
	struct machine *m = nodes_of_cores(2, 2, 4);
	struct plan *p;
	json_t *j, *pool, *thread, *device;
	const char *key, *order[] = {"wishes", "machine", "this_system", "placed_bytes", "shortage_bytes",
				     "pools",  "threads", "devices",     "notes",        "actions"};
	json_t *value;
	size_t i = 0;
	(void)state;

	fix_device(m, DEV_GPU, "gpu0", "0000:01:00.0", node_of(1));
	fix_device(m, DEV_RDMA, "a\x1b[31m\xff", "", NODE_UNKNOWN);
	p = make(m, PLAN_LOCAL, 1, 1);
	j = plan_json(p);
	assert_non_null(j);
	json_object_foreach(j, key, value) assert_string_equal(key, order[i++]);
	assert_int_equal(i, sizeof(order) / sizeof(order[0]));
	assert_int_equal(json_integer_value(json_object_get(j, "placed_bytes")), 8 * GIB);
	pool = json_array_get(json_object_get(j, "pools"), 0);
	assert_int_equal(json_integer_value(json_object_get(pool, "node")), 1);
	assert_string_equal(json_string_value(json_object_get(pool, "backing")), "shm with THP");
	thread = json_array_get(json_object_get(j, "threads"), p->nthreads - 1);
	assert_string_equal(json_string_value(json_object_get(thread, "role")), "nic");
	assert_true(json_is_null(json_object_get(thread, "node")));
	assert_string_equal(json_string_value(json_object_get(thread, "device")), "a?[31m?");
	device = json_array_get(json_object_get(j, "devices"), 1);
	assert_true(json_is_null(json_object_get(device, "node")));
	assert_int_equal(json_integer_value(json_object_get(device, "thread")), 0);
	json_decref(j);
	end(m, p);
}

static void test_23_names(void **state)
{
	(void)state;
	assert_string_equal(plan_role_name(ROLE_TRANSFER), "transfer");
	assert_string_equal(plan_role_name(ROLE_NVME), "nvme");
	assert_string_equal(plan_role_name((enum plan_role)99), "?");
	assert_string_equal(plan_backing_name(BACK_SHM), "shm");
	assert_string_equal(plan_backing_name((enum plan_backing)99), "?");
	for (int i = 0; i < PLAN_POLICIES; i++)
		assert_true(plan_policies[i].name && plan_policies[i].help);
	plan_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_by_the_pools),
		cmocka_unit_test(test_02_cores_of_their_own),
		cmocka_unit_test(test_03_caches_take_turns),
		cmocka_unit_test(test_04_isolated_and_forbidden),
		cmocka_unit_test(test_05_nodes_without_cpus),
		cmocka_unit_test(test_06_unknown_stays_unknown),
		cmocka_unit_test(test_07_devices_find_pools),
		cmocka_unit_test(test_10_notes),
		cmocka_unit_test(test_11_actions_of_limits),
		cmocka_unit_test(test_20_out_of_memory),
		cmocka_unit_test(test_21_json_out_of_memory),
		cmocka_unit_test(test_22_json_says_the_same),
		cmocka_unit_test(test_23_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
