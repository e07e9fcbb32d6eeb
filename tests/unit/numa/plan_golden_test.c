/* Plans of machines built by hand, as people read them. LMCA_UPDATE_GOLDEN=1 rewrites the texts. */
#include "tests/unit/numa/machine_fixture.h"
#include "numa/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static void golden(struct machine *m, enum plan_policy policy, uint64_t gib, const char *name)
{
	struct plan_conf conf = {.policy = policy,
				 .l1_bytes = gib * FIX_GIB,
				 .numa = WANT_TRY,
				 .huge_1g = WANT_TRY,
				 .huge_2m = WANT_TRY,
				 .thp = WANT_TRY};
	char path[200], *text = NULL, *want = NULL;
	size_t len = 0, cap = 0;
	struct plan *p = NULL;
	struct why why = {0};
	FILE *f;

	if (plan_make(m, &conf, &p, &why))
		fail_msg("%s: %s", name, why.text);
	f = open_memstream(&text, &len);
	assert_non_null(f);
	plan_print(p, f);
	fclose(f);
	for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
		if (strcspn(line, "\n") > 80)
			fail_msg("%s: more than 80 columns: %.*s", name, (int)strcspn(line, "\n"), line);
	}
	snprintf(path, sizeof(path), "tests/unit/numa/golden/plan-%s.txt", name);
	if (getenv("LMCA_UPDATE_GOLDEN")) {
		f = fopen(path, "we");
		assert_non_null(f);
		fputs(text, f);
		assert_int_equal(fclose(f), 0);
	}
	f = fopen(path, "re");
	if (!f)
		fail_msg("%s: cannot open; tests run from the repository root", path);
	assert_true(getdelim(&want, &cap, 0, f) > 0);
	fclose(f);
	assert_string_equal(text, want);
	free(want);
	free(text);
	plan_destroy(p);
	machine_destroy(m);
}

static void test_01_eight_gpus(void **state)
{
	(void)state;
	golden(fix_8gpu(), PLAN_LOCAL, 256, "8gpu-local");
}

static void test_02_eight_gpus_with_pages(void **state)
{
	struct machine *m = fix_8gpu();
	(void)state;

	for (uint32_t i = 0; i < 2; i++)
		m->nodes[i].huge[0].total = m->nodes[i].huge[0].free = 65536 + i * 1000;
	golden(m, PLAN_LOCAL, 256, "8gpu-reserved");
}

static void test_03_one_node(void **state)
{
	(void)state;
	golden(fix_one_node(), PLAN_LOCAL, 4, "one-node");
}

static void test_04_grace_hopper(void **state)
{
	(void)state;
	golden(fix_gh200(), PLAN_LOCAL, 100, "gh200");
}

static void test_05_epyc_spread(void **state)
{
	(void)state;
	golden(fix_epyc(), PLAN_SPREAD, 128, "epyc-spread");
}

static void test_06_epyc_pack(void **state)
{
	(void)state;
	golden(fix_epyc(), PLAN_PACK, 128, "epyc-pack");
}

/* Everything that can be in the way at once. */
static void test_07_troubled(void **state)
{
	struct machine *m = fix_8gpu();
	struct mach_hugetlb_limit *h = &m->limits.hugetlb[0];
	(void)state;

	m->devices[3].node = NODE_UNKNOWN;
	m->devices[3].fact[0].node = NODE_UNKNOWN;
	m->devices[8].confidence = CONF_DISPUTED;
	m->devices[8].nfacts = 2;
	m->devices[8].fact[1] = (struct fact_node){FACT_HWLOC, node_of(1), "hwloc: PCI 0000:09:00.0"};
	m->limits.numa_balancing = true;
	m->limits.memlock = 8 * FIX_MIB;
	m->limits.mbind = PROBE_DENIED;
	m->limits.shm_total = m->limits.shm_free = 64 * FIX_MIB;
	snprintf(m->limits.shmem_thp, sizeof(m->limits.shmem_thp), "never");
	m->limits.memory_max = 100 * FIX_GIB;
	snprintf(m->limits.memory_where, sizeof(m->limits.memory_where), "/sys/fs/cgroup/docker/4f2a/memory.max");
	h->page_bytes = 2 * FIX_MIB;
	h->max = 4 * FIX_GIB;
	h->rsvd_max = UINT64_MAX;
	snprintf(h->where, sizeof(h->where), "/sys/fs/cgroup/docker/4f2a/hugetlb.2MB.max");
	m->limits.nhugetlb = 1;
	golden(m, PLAN_LOCAL, 256, "troubled");
}

/* Machines as captures: what machine_load makes of files, planned for. */
static const struct {
	const char *file;
	enum plan_policy policy;
	uint64_t gib;
} captures[] = {
	{"asym.json", PLAN_LOCAL, 32},   {"cgroup1.json", PLAN_LOCAL, 32}, {"cpuset.json", PLAN_LOCAL, 32},
	{"cxl.json", PLAN_SPREAD, 32},   {"dgx2.json", PLAN_LOCAL, 512},   {"disputed.json", PLAN_LOCAL, 32},
	{"epyc8.json", PLAN_SPREAD, 64}, {"gh200.json", PLAN_LOCAL, 64},   {"gpu8.json", PLAN_LOCAL, 256},
	{"holes.json", PLAN_LOCAL, 16},  {"many.json", PLAN_SPREAD, 64},   {"offline.json", PLAN_PACK, 16},
	{"plain.json", PLAN_LOCAL, 4},   {"vm.json", PLAN_LOCAL, 8},       {"lab.json", PLAN_LOCAL, 1},
	{"lstopo.xml", PLAN_LOCAL, 4},
};

static void test_10_captures(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(captures) / sizeof(captures[0]); i++) {
		char path[128], name[64];
		struct machine *m = NULL;
		struct why why = {0};

		snprintf(path, sizeof(path), "tests/machines/%s", captures[i].file);
		if (machine_load(path, &m, &why))
			fail_msg("%s: %s", path, why.text);
		snprintf(name, sizeof(name), "capture-%.*s", (int)strcspn(captures[i].file, "."), captures[i].file);
		golden(m, captures[i].policy, captures[i].gib, name);
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* The largest captures: what hwloc takes to load them, and what the plan takes. */
static void test_11_time(void **state)
{
	static const char *const files[] = {"tests/machines/dgx2.json", "tests/machines/many.json"};
	struct plan_conf conf = {.l1_bytes = 64 * FIX_GIB, .numa = WANT_TRY, .huge_2m = WANT_TRY, .thp = WANT_TRY};
	(void)state;

	for (size_t i = 0; i < 2; i++) {
		struct machine *m = NULL;
		struct plan *p = NULL;
		struct why why = {0};
		double start = now(), loaded, planned;

		assert_int_equal(machine_load(files[i], &m, &why), 0);
		loaded = now();
		assert_int_equal(plan_make(m, &conf, &p, &why), 0);
		planned = now();
		print_message("# %s, %u nodes, %u CPUs, %u devices: load %.2f ms, plan %.2f ms\n", files[i], m->nnodes,
			      m->ncpus, m->ndevices, loaded - start, planned - loaded);
		assert_true(planned - loaded < 200);
		plan_destroy(p);
		machine_destroy(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_eight_gpus),  cmocka_unit_test(test_02_eight_gpus_with_pages),
		cmocka_unit_test(test_03_one_node),    cmocka_unit_test(test_04_grace_hopper),
		cmocka_unit_test(test_05_epyc_spread), cmocka_unit_test(test_06_epyc_pack),
		cmocka_unit_test(test_07_troubled),    cmocka_unit_test(test_10_captures),
		cmocka_unit_test(test_11_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
