/* What the planner refuses, and absurd numbers. */
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

static void refused(const struct machine *m, struct plan_conf conf, const char *says)
{
	struct plan *p = (struct plan *)&conf;
	struct why why = {0};

	assert_int_equal(plan_make(m, &conf, &p, &why), -EINVAL);
	assert_null(p);
	if (!strstr(why.text, says))
		fail_msg("'%s' does not say '%s'", why.text, says);
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

static void test_01_refusals(void **state)
{
	struct machine *m = plain(3);
	struct plan_conf c = wish(PLAN_MANUAL, 8 * GIB), d;
	(void)state;

	m->nodes[1].allowed = false;
	m->nodes[2].kind = NODE_EMPTY;
	refused(m, c, "needs a map");
	c.nmanual = 1;
	c.manual[0].node = node_of(7);
	refused(m, c, "node 7, which this machine does not have");
	c.manual[0].node = node_of(1);
	refused(m, c, "node 1, which our cpuset (cpuset.mems) does not allow");
	c.manual[0].node = node_of(2);
	refused(m, c, "node 2, which has no memory");
	c.manual[0].node = NODE_UNKNOWN;
	refused(m, c, "unknown node");
	c.manual[0].node = node_of(0);
	c.manual[0].bytes = 2 * GIB;
	refused(m, c, "2.00 GiB in all, L1 is 8.00 GiB");
	c.manual[0].bytes = 2ull << 60;
	refused(m, c, "more than 1 EiB");
	c.manual[0].bytes = 0;
	c.nmanual = 2;
	c.manual[1].node = node_of(0);
	refused(m, c, "node 0 twice");
	c.manual[1].bytes = GIB;
	refused(m, c, "every node a size, or none");
	c.nmanual = 65;
	refused(m, c, "out of range");
	c.nmanual = 1;
	d = c;
	d.policy = PLAN_SPREAD;
	refused(m, d, "the policy is spread, not manual");
	d = c;
	d.numa = WANT_NO;
	refused(m, d, "numa=no");
	d = wish(PLAN_LOCAL, 8 * GIB);
	d.huge_1g = d.huge_2m = WANT_YES;
	refused(m, d, "more than one page size");
	refused(m, wish(PLAN_LOCAL, MIB), "2 MiB to 1 EiB");
	refused(m, wish(PLAN_LOCAL, UINT64_MAX), "2 MiB to 1 EiB");
	refused(m, wish((enum plan_policy)9, GIB), "out of range");
	d = wish(PLAN_LOCAL, GIB / 2);
	d.huge_1g = WANT_YES;
	refused(m, d, "less than one page");
	machine_destroy(m);
}

static void test_02_no_cpus(void **state)
{
	struct machine *m = fix_machine(1);
	struct plan_conf c = wish(PLAN_LOCAL, GIB);
	struct plan *p;
	struct why why = {0};
	(void)state;

	fix_memory(m, 0, 8 * GIB);
	assert_int_equal(plan_make(m, &c, &p, &why), -ENODEV);
	assert_non_null(strstr(why.text, "no CPU that we may use"));
	machine_destroy(m);
}

/* Numbers come from files that anyone may have written. */
static void test_03_absurd_numbers(void **state)
{
	static const uint64_t values[] = {0, 1, UINT64_MAX / 2, UINT64_MAX};
	(void)state;

	for (uint32_t i = 0; i < 1024; i++) {
		struct machine *m = plain(2);
		struct plan_conf c = wish((enum plan_policy)(i % 3), i & 64 ? 1ull << 60 : 7 * GIB);
		struct mach_hugetlb_limit *h = &m->limits.hugetlb[0];
		struct plan *p;
		json_t *j;

		c.huge_2m = c.huge_1g = WANT_TRY;
		m->nodes[0].memory_bytes = values[i % 4];
		m->nodes[1].memory_bytes = m->nodes[1].free_bytes = values[i / 4 % 4];
		reserve(m, 0, 0, values[i / 16 % 4], values[i / 2 % 4]);
		reserve(m, 1, 1, values[i / 64 % 4], values[i / 8 % 4]);
		m->nodes[0].distance[1] = (uint32_t)values[i / 32 % 4];
		m->limits.memory_max = values[3 - i / 256 % 4];
		m->limits.nhugetlb = 1;
		h->page_bytes = PAGE_2M;
		h->max = values[i / 128 % 4];
		h->used = values[i / 4 % 4];
		h->rsvd_max = h->rsvd_used = values[i / 16 % 4];
		p = make(m, c);
		for (uint32_t k = 0; k < p->npools; k++) {
			uint32_t at = machine_node_index(m, p->pools[k].node);

			assert_true(p->pools[k].bytes <= c.l1_bytes);
			assert_true(at == UINT32_MAX || p->pools[k].backing == BACK_HUGETLB ||
				    p->pools[k].bytes <= m->nodes[at].memory_bytes);
		}
		assert_true(p->shortage_bytes <= c.l1_bytes);
		j = plan_json(p);
		assert_non_null(j);
		json_decref(j);
		end(m, p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_refusals),
		cmocka_unit_test(test_02_no_cpus),
		cmocka_unit_test(test_03_absurd_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
