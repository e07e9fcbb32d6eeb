/* Policies, page sizes, limits and refusals of the planner, one machine by hand each. */
#include "tests/unit/numa/machine_fixture.h"
#include "numa/plan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define GIB     FIX_GIB
#define MIB     FIX_MIB
#define PAGE_2M (2 * FIX_MIB)

static struct plan_conf wish(enum plan_policy policy, uint64_t bytes)
{
	return (struct plan_conf){.policy = policy, .l1_bytes = bytes, .numa = WANT_TRY, .thp = WANT_TRY};
}

static struct plan *make(const struct machine *m, struct plan_conf conf)
{
	struct plan *p = NULL;
	struct why why = {0};

	if (plan_make(m, &conf, &p, &why))
		fail_msg("refused: %s", why.text);
	return p;
}

static uint64_t bytes_on(const struct plan *p, int node)
{
	uint32_t i = plan_pool_of(p, node_of(node));

	return i == UINT32_MAX ? 0 : p->pools[i].bytes;
}

static const struct plan_note *note(const struct plan *p, const char *text)
{
	for (uint32_t i = 0; i < p->nnotes; i++) {
		if (strstr(p->notes[i].text, text))
			return &p->notes[i];
	}
	return NULL;
}

static void says(const struct plan *p, enum plan_severity severity, const char *text, const char *remedy)
{
	const struct plan_note *n = note(p, text);

	if (!n)
		fail_msg("no note says '%s'", text);
	assert_int_equal(n->severity, severity);
	if (!strstr(n->remedy, remedy))
		fail_msg("'%s': the remedy '%s' does not name '%s'", n->text, n->remedy, remedy);
}

static const struct plan_action *action(const struct plan *p, enum plan_action_kind kind, const char *path)
{
	for (uint32_t i = 0; i < p->nactions; i++) {
		if (p->actions[i].kind == kind && strstr(p->actions[i].path, path))
			return &p->actions[i];
	}
	return NULL;
}

static void end(struct machine *m, struct plan *p)
{
	plan_destroy(p);
	machine_destroy(m);
}

/* `nodes` nodes of 64 GiB and 8 cores each, all with huge pages of 2 MiB that nobody has reserved. */
static struct machine *plain(uint32_t nodes)
{
	uint32_t all[16];
	struct machine *m = fix_machine(nodes);

	for (uint32_t i = 0; i < nodes; i++) {
		all[i] = i;
		fix_memory(m, i, 64 * GIB);
		fix_huge(m, i, PAGE_2M, 0, 0);
		fix_huge(m, i, GIB, 0, 0);
	}
	fix_cpus(m, all, nodes, 8, 2, 8);
	return m;
}

static void reserve(struct machine *m, uint32_t node, uint32_t size, uint64_t total, uint64_t free)
{
	m->nodes[node].huge[size].total = total;
	m->nodes[node].huge[size].free = free;
}

/* ---- policies --------------------------------------------------------------------------------------------------- */

static void test_01_local_follows_gpus(void **state)
{
	struct machine *m = plain(2);
	struct plan *p;
	(void)state;

	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){0}, 1, 3);
	fix_device(m, DEV_GPU, "gpu3", "0000:40:00.0", node_of(1));
	fix_device(m, DEV_GPU, "gpu4", "0000:41:00.0", NODE_UNKNOWN);
	p = make(m, wish(PLAN_LOCAL, 16 * GIB));
	assert_int_equal(bytes_on(p, 0), 12 * GIB);
	assert_int_equal(bytes_on(p, 1), 4 * GIB);
	assert_string_equal(p->pools[0].line.reason, "local: nearest to 3 of 4 GPUs: gpu0 gpu1 gpu2");
	assert_int_equal(p->shortage_bytes, 0);
	end(m, p);
}

static void test_02_local_without_gpus(void **state)
{
	struct machine *m = plain(2);
	struct plan *p;
	(void)state;

	/* An adapter is one device, though it shows twice. */
	fix_device(m, DEV_RDMA, "mlx5_0", "0000:01:00.0", node_of(0));
	fix_device(m, DEV_NIC, "eth0", "0000:01:00.0", node_of(0));
	fix_device(m, DEV_NVME, "nvme0n1", "0000:02:00.0", node_of(1));
	p = make(m, wish(PLAN_LOCAL, 16 * GIB));
	assert_int_equal(bytes_on(p, 0), 8 * GIB);
	assert_int_equal(bytes_on(p, 1), 8 * GIB);
	end(m, p);
	/* Nothing known: by memory, where there are CPUs. */
	m = plain(3);
	fix_memory(m, 1, 32 * GIB);
	m->nodes[2].cpus = (struct cpu_set){0};
	p = make(m, wish(PLAN_LOCAL, 48 * GIB));
	assert_int_equal(bytes_on(p, 0), 32 * GIB);
	assert_int_equal(bytes_on(p, 1), 16 * GIB);
	assert_int_equal(bytes_on(p, 2), 0);
	end(m, p);
}

static void test_03_hidden_node_of_a_gpu(void **state)
{
	struct machine *m = plain(3);
	struct plan *p;
	(void)state;

	m->nodes[0].allowed = false;
	fix_distance(m, 0, 2, 15);
	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){0}, 1, 2);
	p = make(m, wish(PLAN_LOCAL, 16 * GIB));
	assert_int_equal(bytes_on(p, 2), 16 * GIB);
	assert_int_equal(p->npools, 1);
	says(p, PLAN_WARNING, "our cpuset hides the memory of node 0", "cpuset.mems");
	assert_int_equal(p->devices[0].pool, 0);
	plan_destroy(p);
	/* Without distances nobody can say which node is near, and none is guessed. */
	for (uint32_t i = 0; i < 3; i++)
		memset(m->nodes[i].distance, 0, 3 * sizeof(uint32_t));
	p = make(m, wish(PLAN_LOCAL, 16 * GIB));
	assert_int_equal(bytes_on(p, 1), 8 * GIB);
	assert_int_equal(bytes_on(p, 2), 8 * GIB);
	assert_int_equal(p->devices[0].pool, UINT32_MAX);
	says(p, PLAN_WARNING, "no distance between nodes is known", "manual");
	end(m, p);
}

static void test_04_spread(void **state)
{
	struct machine *m = plain(4);
	struct plan *p;
	(void)state;

	fix_devices(m, DEV_RDMA, "mlx5_", (uint32_t[]){1}, 1, 3);
	fix_devices(m, DEV_NIC, "eth", (uint32_t[]){3}, 1, 1);
	p = make(m, wish(PLAN_SPREAD, 16 * GIB));
	assert_int_equal(p->npools, 2);
	assert_int_equal(bytes_on(p, 1), 8 * GIB);
	assert_int_equal(bytes_on(p, 3), 8 * GIB);
	end(m, p);
	m = plain(4);
	m->nodes[2].kind = NODE_SLOW;
	p = make(m, wish(PLAN_SPREAD, 12 * GIB));
	assert_int_equal(p->npools, 3);
	assert_int_equal(bytes_on(p, 2), 0);
	assert_int_equal(bytes_on(p, 3), 4 * GIB);
	plan_destroy(p);
	/* Five pages for three nodes: the remainder goes to the first ones. */
	p = make(m, wish(PLAN_SPREAD, 5 * PAGE_2M + 4096));
	assert_int_equal(bytes_on(p, 0), 2 * PAGE_2M);
	assert_int_equal(bytes_on(p, 1), 2 * PAGE_2M);
	assert_int_equal(bytes_on(p, 3), PAGE_2M);
	assert_int_equal(p->shortage_bytes, 0);
	end(m, p);
}

static void test_05_pack(void **state)
{
	struct machine *m = plain(4);
	struct plan *p;
	(void)state;

	fix_device(m, DEV_GPU, "gpu0", "0000:01:00.0", node_of(2));
	fix_distance(m, 2, 3, 12);
	p = make(m, wish(PLAN_PACK, 60 * GIB));
	assert_int_equal(p->npools, 1);
	assert_int_equal(bytes_on(p, 2), 60 * GIB);
	plan_destroy(p);
	/* 4 GiB of the 64 stay for the system. */
	p = make(m, wish(PLAN_PACK, 70 * GIB));
	assert_int_equal(bytes_on(p, 2), 60 * GIB);
	assert_int_equal(bytes_on(p, 3), 10 * GIB);
	assert_int_equal(p->npools, 2);
	end(m, p);
}

static void test_06_manual(void **state)
{
	struct machine *m = plain(3);
	struct plan_conf c = wish(PLAN_MANUAL, 0);
	struct plan *p;
	(void)state;

	m->nodes[2].kind = NODE_SLOW;
	c.nmanual = 2;
	c.manual[0].node = node_of(2);
	c.manual[0].bytes = 3 * GIB + 12345;
	c.manual[1].node = node_of(0);
	c.manual[1].bytes = 5 * GIB;
	p = make(m, c);
	assert_int_equal(bytes_on(p, 0), 5 * GIB);
	assert_int_equal(bytes_on(p, 2), 3 * GIB);
	says(p, PLAN_WARNING, "node 2 is slow memory", "");
	plan_destroy(p);
	/* What was named does not go elsewhere. */
	c.manual[1].bytes = 70 * GIB;
	p = make(m, c);
	assert_int_equal(bytes_on(p, 0), 60 * GIB);
	assert_int_equal(bytes_on(p, 1), 0);
	assert_int_equal(p->shortage_bytes, 10 * GIB);
	says(p, PLAN_SHORTAGE, "10 GiB of 73.0 GiB of L1 found no place", "63 GiB fit");
	plan_destroy(p);
	c.manual[0].bytes = c.manual[1].bytes = 0;
	c.l1_bytes = 8 * GIB;
	p = make(m, c);
	assert_int_equal(bytes_on(p, 0), 4 * GIB);
	assert_int_equal(bytes_on(p, 2), 4 * GIB);
	end(m, p);
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static void test_10_best_pages_that_hold_all(void **state)
{
	struct machine *m = plain(2);
	struct plan_conf c = wish(PLAN_SPREAD, 16 * GIB);
	struct plan *p;
	(void)state;

	c.huge_1g = c.huge_2m = WANT_TRY;
	reserve(m, 0, 1, 8, 8);
	reserve(m, 1, 1, 8, 8);
	reserve(m, 0, 0, 4096, 4096);
	reserve(m, 1, 0, 4096, 4096);
	p = make(m, c);
	assert_int_equal(p->pools[1].page_bytes, GIB);
	assert_int_equal(p->pools[1].pages, 8);
	assert_int_equal(p->nactions, 0);
	plan_destroy(p);
	/* Rounding would lose too much. */
	c.l1_bytes = 17 * GIB - MIB;
	p = make(m, c);
	assert_int_equal(p->pools[0].page_bytes, GIB);
	plan_destroy(p);
	c.l1_bytes = 2 * GIB - MIB;
	p = make(m, c);
	assert_int_equal(p->pools[0].page_bytes, PAGE_2M);
	plan_destroy(p);
	/* Three pages for two nodes are not even shares. */
	c.l1_bytes = 3 * GIB;
	p = make(m, c);
	assert_int_equal(p->pools[0].page_bytes, PAGE_2M);
	assert_int_equal(bytes_on(p, 1), 3 * GIB / 2);
	plan_destroy(p);
	c.l1_bytes = 16 * GIB;
	m->nodes[1].huge[1].free = 7;
	p = make(m, c);
	assert_int_equal(p->pools[0].page_bytes, PAGE_2M);
	plan_destroy(p);
	m->nodes[1].huge[0].free = 4095;
	p = make(m, c);
	assert_int_equal(p->pools[0].backing, BACK_SHM_THP);
	assert_int_equal(p->pools[0].page_bytes, 4096);
	says(p, PLAN_WARNING, "node 1: 4096 huge pages of 2 MiB wanted, 4095 of 4096 are free", "echo 4097 > /sys/");
	plan_destroy(p);
	snprintf(m->limits.shmem_thp, sizeof(m->limits.shmem_thp), "never");
	p = make(m, c);
	assert_int_equal(p->pools[0].backing, BACK_SHM);
	says(p, PLAN_NOTICE, "for /dev/shm are off (never)", "mount -o remount,huge=advise /dev/shm");
	plan_destroy(p);
	c.huge_2m = c.huge_1g = WANT_NO;
	c.thp = WANT_YES;
	p = make(m, c);
	assert_int_equal(p->pools[0].backing, BACK_SHM_THP);
	says(p, PLAN_SHORTAGE, "for /dev/shm are off (never)", "mount -o remount,huge=advise /dev/shm");
	end(m, p);
}

static void test_11_demanded_pages(void **state)
{
	struct machine *m = plain(2);
	struct plan_conf c = wish(PLAN_SPREAD, 16 * GIB);
	struct plan *p;
	(void)state;

	c.huge_2m = WANT_YES;
	reserve(m, 0, 0, 1024, 1000);
	p = make(m, c);
	assert_int_equal(p->npools, 1);
	assert_int_equal(p->pools[0].backing, BACK_HUGETLB);
	assert_int_equal(p->pools[0].pages, 1000);
	assert_int_equal(p->shortage_bytes, 16 * GIB - 1000 * PAGE_2M);
	says(p, PLAN_SHORTAGE, "found no place with huge 2 MiB pages", "reserve more pages");
	/* 24 pages of node 0 are in use by others. */
	says(p, PLAN_SHORTAGE, "node 0: 4096 huge", "echo 4120 > ");
	assert_string_equal(action(p, ACT_SYSFS, "node0/hugepages/hugepages-2048kB/nr_hugepages")->value, "4120");
	assert_string_equal(action(p, ACT_SYSFS, "node1/hugepages/hugepages-2048kB/nr_hugepages")->value, "4096");
	assert_string_equal(action(p, ACT_KERNEL_ARG, "")->value, "hugepagesz=2M hugepages=0:4120,1:4096");
	plan_destroy(p);
	/* None at all: there is no pool, and that is said. */
	reserve(m, 0, 0, 0, 0);
	p = make(m, c);
	assert_int_equal(p->npools, 0);
	assert_int_equal(p->shortage_bytes, 16 * GIB);
	assert_null(plan_thread_of(p, ROLE_POPULATE, 0));
	plan_destroy(p);
	/* 1 GiB pages are had at boot. */
	c.huge_2m = WANT_NO;
	c.huge_1g = WANT_YES;
	p = make(m, c);
	says(p, PLAN_SHORTAGE, "node 1: 8 huge pages of 1 GiB", "hugepagesz=1G hugepages=1:8");
	assert_string_equal(action(p, ACT_KERNEL_ARG, "")->value, "hugepagesz=1G hugepages=0:8,1:8");
	assert_null(action(p, ACT_SYSFS, "nr_hugepages"));
	end(m, p);
}

static void test_12_spill(void **state)
{
	struct machine *m = plain(3);
	struct plan_conf c = wish(PLAN_LOCAL, 8 * GIB);
	struct plan *p;
	(void)state;

	c.huge_2m = WANT_TRY;
	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){0}, 1, 1);
	fix_distance(m, 0, 2, 12);
	reserve(m, 0, 0, 3072, 3072);
	reserve(m, 1, 0, 3072, 3072);
	reserve(m, 2, 0, 3072, 3072);
	p = make(m, c);
	assert_int_equal(p->pools[0].backing, BACK_HUGETLB);
	assert_int_equal(bytes_on(p, 0), 6 * GIB);
	assert_int_equal(bytes_on(p, 2), 2 * GIB);
	assert_string_equal(p->pools[1].line.reason, "takes 2 GiB that did not fit on node 0");
	says(p, PLAN_WARNING, "node 0: 2 GiB more wanted than the 6 GiB that fit", "on node 0");
	assert_string_equal(action(p, ACT_SYSFS, "node0")->value, "4096");
	assert_int_equal(p->shortage_bytes, 0);
	end(m, p);
}

static void test_13_cgroup_limits(void **state)
{
	struct machine *m = plain(2);
	struct plan_conf c = wish(PLAN_SPREAD, 8 * GIB);
	struct mach_hugetlb_limit *h = &m->limits.hugetlb[0];
	struct plan *p;
	(void)state;

	c.huge_2m = WANT_TRY;
	reserve(m, 0, 0, 4096, 4096);
	reserve(m, 1, 0, 4096, 4096);
	m->limits.nhugetlb = 1;
	h->page_bytes = PAGE_2M;
	h->max = 8 * GIB;
	h->used = 2 * GIB;
	h->rsvd_max = UINT64_MAX;
	snprintf(h->where, sizeof(h->where), "/sys/fs/cgroup/a/hugetlb.2MB.max");
	snprintf(h->rsvd_where, sizeof(h->rsvd_where), "/sys/fs/cgroup/a/hugetlb.2MB.rsvd.max");
	p = make(m, c);
	assert_int_equal(p->pools[0].backing, BACK_SHM_THP);
	says(p, PLAN_WARNING, "/sys/fs/cgroup/a/hugetlb.2MB.max allows 8 GiB of huge pages, 2 GiB are used",
	     "echo 10737418240 > /sys/fs/cgroup/a/hugetlb.2MB.max");
	plan_destroy(p);
	c.huge_2m = WANT_YES;
	h->rsvd_max = 5 * GIB;
	h->rsvd_used = GIB;
	p = make(m, c);
	assert_int_equal(bytes_on(p, 0) + bytes_on(p, 1), 4 * GIB);
	assert_int_equal(p->shortage_bytes, 4 * GIB);
	says(p, PLAN_SHORTAGE, "hugetlb.2MB.rsvd.max allows 4 GiB", "raise /sys/fs/cgroup/a/hugetlb.2MB.rsvd.max");
	plan_destroy(p);
	c.huge_2m = WANT_NO;
	m->limits.memory_max = 4 * GIB;
	snprintf(m->limits.memory_where, sizeof(m->limits.memory_where), "/sys/fs/cgroup/a/memory.max");
	p = make(m, c);
	assert_int_equal(bytes_on(p, 0) + bytes_on(p, 1), 4 * GIB - 256 * MIB);
	says(p, PLAN_SHORTAGE, "/sys/fs/cgroup/a/memory.max allows 3.75 GiB",
	     "raise /sys/fs/cgroup/a/memory.max by 4563402752");
	end(m, p);
}

static void test_14_not_bound(void **state)
{
	struct machine *m = plain(2);
	struct plan_conf c = wish(PLAN_LOCAL, 100 * GIB);
	struct plan *p;
	(void)state;

	c.numa = WANT_NO;
	p = make(m, c);
	assert_int_equal(p->npools, 1);
	assert_false(node_known(p->pools[0].node));
	assert_int_equal(p->pools[0].bytes, 100 * GIB);
	plan_destroy(p);
	/* No memory known: a pool nevertheless, on no node. */
	c.numa = WANT_TRY;
	m->nodes[0].memory_bytes = m->nodes[1].memory_bytes = 0;
	p = make(m, c);
	assert_int_equal(p->npools, 1);
	assert_false(node_known(p->pools[0].node));
	assert_int_equal(p->pools[0].bytes, 100 * GIB);
	says(p, PLAN_WARNING, "no node's memory is known", "");
	plan_destroy(p);
	c.numa = WANT_YES;
	p = make(m, c);
	says(p, PLAN_SHORTAGE, "no node's memory is known", "");
	end(m, p);
	m = plain(1);
	c.l1_bytes = 8 * GIB;
	p = make(m, c);
	assert_int_equal(p->npools, 1);
	assert_false(node_known(p->pools[0].node));
	assert_int_equal(p->nnotes, 0);
	end(m, p);
}

static void test_15_what_we_hold_is_free(void **state)
{
	struct machine *m = plain(2);
	struct plan_conf c = wish(PLAN_SPREAD, 8 * GIB);
	struct plan *p;
	(void)state;

	c.huge_2m = WANT_YES;
	reserve(m, 0, 0, 2048, 0);
	reserve(m, 1, 0, 2048, 100);
	c.nheld = 2;
	c.held[0].node = node_of(0);
	c.held[1].node = node_of(1);
	c.held[0].page_bytes = c.held[1].page_bytes = PAGE_2M;
	c.held[0].pages = 2048;
	c.held[1].pages = 1948;
	p = make(m, c);
	assert_int_equal(p->shortage_bytes, 0);
	assert_int_equal(p->nactions, 0);
	assert_int_equal(p->pools[1].pages_free, 2048);
	end(m, p);
}

/* A kernel argument lists the pages that are there already, too: the next boot must not take them away. */
static void test_16_boot_line_keeps_others(void **state)
{
	struct machine *m = plain(3);
	struct plan_conf c = wish(PLAN_LOCAL, 4 * GIB);
	struct plan *p;
	(void)state;

	fix_devices(m, DEV_GPU, "gpu", (uint32_t[]){1}, 1, 1);
	reserve(m, 2, 0, 77, 0);
	c.huge_2m = WANT_TRY;
	p = make(m, c);
	assert_string_equal(action(p, ACT_KERNEL_ARG, "")->value, "hugepagesz=2M hugepages=1:2048,2:77");
	end(m, p);
	m = plain(1);
	p = make(m, c);
	assert_string_equal(action(p, ACT_KERNEL_ARG, "")->value, "hugepagesz=2M hugepages=2048");
	end(m, p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_local_follows_gpus),
		cmocka_unit_test(test_02_local_without_gpus),
		cmocka_unit_test(test_03_hidden_node_of_a_gpu),
		cmocka_unit_test(test_04_spread),
		cmocka_unit_test(test_05_pack),
		cmocka_unit_test(test_06_manual),
		cmocka_unit_test(test_10_best_pages_that_hold_all),
		cmocka_unit_test(test_11_demanded_pages),
		cmocka_unit_test(test_12_spill),
		cmocka_unit_test(test_13_cgroup_limits),
		cmocka_unit_test(test_14_not_bound),
		cmocka_unit_test(test_15_what_we_hold_is_free),
		cmocka_unit_test(test_16_boot_line_keeps_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
