/* Properties that hold for every plan, on machines and wishes at random; and how long the largest machine takes. */
#include "tests/unit/numa/machine_fixture.h"
#include "numa/plan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define MACHINES 10000u
#define PAGE_2M  (2 * FIX_MIB)
#define ROLES    7

static uint64_t rng;

static uint64_t roll(uint64_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return n ? (rng >> 11) % n : 0;
}

static bool chance(uint32_t percent)
{
	return roll(100) < percent;
}

static void random_node(struct machine *m, uint32_t i, int *os)
{
	struct mach_node *n = &m->nodes[i];
	static const uint64_t sizes[] = {FIX_GIB / 2, FIX_GIB, 8 * FIX_GIB, 64 * FIX_GIB, 512 * FIX_GIB};

	*os += 1 + (chance(20) ? (int)roll(9) : 0);
	n->id = node_of(*os);
	n->kind = chance(75) ? NODE_DRAM : (enum mach_node_kind)roll(4);
	n->allowed = chance(85);
	n->package = chance(80) ? i / 2 : UINT32_MAX;
	fix_memory(m, i, n->kind == NODE_EMPTY || chance(5) ? 0 : sizes[roll(5)] - roll(4) * FIX_MIB * 77);
	if (chance(30))
		n->free_bytes = roll(n->memory_bytes + 1);
	if (chance(70)) {
		uint64_t total = chance(50) ? roll(n->memory_bytes / PAGE_2M + 1) : 0;
		fix_huge(m, i, PAGE_2M, total, roll(total + 1));
	}
	if (chance(60)) {
		uint64_t total = chance(50) ? roll(n->memory_bytes / FIX_GIB + 1) : 0;
		fix_huge(m, i, FIX_GIB, total, roll(total + 1));
	}
	for (uint32_t k = 0; k < m->nnodes; k++)
		n->distance[k] = chance(90) ? (k == i ? 10 : 11 + (uint32_t)roll(60)) : 0;
	if (chance(5)) {
		mem_free(n->distance);
		n->distance = NULL;
	}
}

static void random_cpus(struct machine *m)
{
	uint32_t cores = 1 + (uint32_t)roll(24), smt = 1 + (uint32_t)roll(2), blind = chance(5);

	m->ncpus = cores * smt;
	m->cpus = mem_calloc(m->ncpus, sizeof(*m->cpus));
	for (uint32_t i = 0; i < m->ncpus; i++) {
		struct mach_cpu *c = &m->cpus[i];
		struct mach_node *n = m->nnodes && !blind ? &m->nodes[i % cores * 7 % m->nnodes] : NULL;

		c->os = i + (i > 5 ? 3 : 0); /* a hole: CPUs that are offline */
		c->core = i % cores;
		c->l3 = chance(5) ? UINT32_MAX : c->core / 3;
		c->allowed = chance(85);
		c->isolated = chance(10);
		c->node = n ? n->id : NODE_UNKNOWN;
		if (!n || n->kind == NODE_GPU_MEMORY || n->kind == NODE_SLOW)
			continue;
		cpus_add(&n->all_cpus, c->os);
		if (c->allowed)
			cpus_add(&n->cpus, c->os);
	}
}

static void random_devices(struct machine *m)
{
	static const char *const names[] = {"gpu", "mlx5_", "eth", "nvme"};
	uint32_t n = (uint32_t)roll(24);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t kind = (uint32_t)roll(4);
		char name[32], pci[16];
		node_id node = m->nnodes && chance(80) ? m->nodes[roll(m->nnodes)].id : NODE_UNKNOWN;

		if (chance(3))
			node = node_of(900); /* a node that is not there */
		snprintf(name, sizeof(name), chance(3) ? "\x1b[2J%s\xff%u" : "%s%u", names[kind], i);
		snprintf(pci, sizeof(pci), "0000:%02x:00.0", kind == DEV_NIC && i ? i - 1 : i);
		fix_device(m, (enum mach_device_kind)kind, name, chance(5) ? "" : pci, node);
		if (chance(5))
			m->devices[m->ndevices - 1].confidence = CONF_DISPUTED;
		if (chance(5))
			m->devices[m->ndevices - 1].nfacts = 0;
	}
}

static struct machine *random_machine(void)
{
	struct machine *m = fix_machine(chance(2) ? 65 + (uint32_t)roll(8) : chance(25) ? 1 : 1 + (uint32_t)roll(9));
	struct mach_limits *lim = &m->limits;
	int os = chance(70) ? -1 : (int)roll(30);

	for (uint32_t i = 0; i < m->nnodes; i++)
		random_node(m, i, &os);
	random_cpus(m);
	random_devices(m);
	if (chance(20))
		lim->memory_max = roll(64) * FIX_GIB + 1;
	for (uint32_t i = 0; i < 2 && chance(30); i++) {
		struct mach_hugetlb_limit *h = &lim->hugetlb[lim->nhugetlb++];
		h->page_bytes = i ? FIX_GIB : PAGE_2M;
		h->max = chance(50) ? UINT64_MAX : roll(64) * FIX_GIB;
		h->rsvd_max = chance(50) ? UINT64_MAX : roll(64) * FIX_GIB;
		h->used = roll(8) * PAGE_2M;
		h->rsvd_used = roll(8) * PAGE_2M;
		snprintf(h->where, sizeof(h->where), "/sys/fs/cgroup/x/hugetlb.max");
		snprintf(h->rsvd_where, sizeof(h->rsvd_where), "/sys/fs/cgroup/x/hugetlb.rsvd.max");
	}
	lim->numa_balancing = chance(30);
	lim->mbind = (enum probe)roll(4);
	lim->sched_setaffinity = (enum probe)roll(4);
	lim->memlock = chance(50) ? UINT64_MAX : 8 * FIX_MIB;
	lim->shm_total = chance(50) ? 64 * FIX_MIB + roll(64) * FIX_GIB : 0;
	lim->shm_free = roll(lim->shm_total + 1);
	if (chance(40))
		snprintf(lim->shmem_thp, sizeof(lim->shmem_thp), chance(50) ? "never" : "");
	return m;
}

static void random_wishes(const struct machine *m, struct plan_conf *c)
{
	uint32_t yes = (uint32_t)roll(6); /* 0 to 2: this one is demanded */
	uint64_t memory = 0;

	memset(c, 0, sizeof(*c));
	c->policy = (enum plan_policy)roll(4);
	for (uint32_t i = 0; i < m->nnodes; i++)
		memory += m->nodes[i].memory_bytes;
	c->l1_bytes = PAGE_2M + roll(chance(10) ? FIX_GIB : chance(5) ? 1ull << 59 : memory / 3);
	c->numa = chance(10) ? WANT_NO : chance(50) ? WANT_TRY : WANT_YES;
	c->huge_1g = yes == 0 ? WANT_YES : (enum plan_want)roll(2);
	c->huge_2m = yes == 1 ? WANT_YES : (enum plan_want)roll(2);
	c->thp = yes == 2 ? WANT_YES : (enum plan_want)roll(2);
	c->transfer_workers = chance(50) ? (uint32_t)roll(40) : 0;
	c->lookup_workers = chance(50) ? (uint32_t)roll(10) : 0;
	if (c->policy != PLAN_MANUAL)
		return;
	for (uint32_t i = 0; i < m->nnodes && i < 64; i++) {
		if (chance(50) && m->nodes[i].allowed && m->nodes[i].kind != NODE_EMPTY)
			c->manual[c->nmanual++].node = m->nodes[i].id;
	}
	if (c->nmanual == 0 || c->numa == WANT_NO)
		c->policy = PLAN_LOCAL, c->nmanual = 0;
	else if (chance(50))
		c->l1_bytes = 0;
	for (uint32_t i = 0; i < c->nmanual && c->l1_bytes == 0; i++)
		c->manual[i].bytes = PAGE_2M + roll(40 * FIX_GIB);
}

#define MUST(what)                                                 \
	do {                                                       \
		if (!(what))                                       \
			fail_msg("machine %u: %s", number, #what); \
	} while (0)

static bool printable(const char *s)
{
	for (; *s; s++) {
		if (*s < ' ' || *s > '~')
			return false;
	}
	return true;
}

static void check_line(uint32_t number, const struct plan_line *l)
{
	MUST(l->reason[0] && l->source[0]);
	MUST(printable(l->reason) && printable(l->source));
	MUST(strcmp(l->source, "...") != 0);
}

static bool any_memory_known(const struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		if (m->nodes[i].memory_bytes)
			return true;
	}
	return false;
}

static uint64_t huge_bytes(const struct mach_node *n)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < n->nhuge; i++)
		sum += n->huge[i].total * n->huge[i].page_bytes;
	return sum;
}

static void check_pool_on_node(uint32_t number, const struct plan *p, const struct plan_pool *pool)
{
	const struct mach_node *n = machine_node(p->machine, pool->node);

	MUST(n && n->allowed);
	MUST(p->conf.policy == PLAN_MANUAL || n->kind == NODE_DRAM);
	if (pool->backing != BACK_HUGETLB) {
		MUST(pool->bytes + huge_bytes(n) < n->memory_bytes);
		return;
	}
	for (uint32_t i = 0; i < n->nhuge; i++) {
		if (n->huge[i].page_bytes == pool->page_bytes) {
			MUST(pool->pages <= n->huge[i].free && pool->pages_free == n->huge[i].free);
			return;
		}
	}
	MUST(!"huge pages on a node that has none of this size");
}

static void check_limits(uint32_t number, const struct plan *p, uint64_t sum)
{
	const struct mach_limits *lim = &p->machine->limits;

	if (p->pools[0].backing != BACK_HUGETLB) {
		MUST(sum < lim->memory_max);
		return;
	}
	for (uint32_t i = 0; i < lim->nhugetlb; i++) {
		const struct mach_hugetlb_limit *h = &lim->hugetlb[i];

		if (h->page_bytes != p->pools[0].page_bytes)
			continue;
		MUST(h->max == UINT64_MAX || sum + h->used <= h->max);
		MUST(h->rsvd_max == UINT64_MAX || sum + h->rsvd_used <= h->rsvd_max);
	}
}

static bool has_note(const struct plan *p, enum plan_severity severity)
{
	for (uint32_t i = 0; i < p->nnotes; i++) {
		if (p->notes[i].severity == severity)
			return true;
	}
	return false;
}

static void check_pools(uint32_t number, const struct plan *p)
{
	const struct machine *m = p->machine;
	uint64_t sum = 0, unit = PAGE_2M, asked = p->conf.l1_bytes;

	MUST(p->npools <= 64);
	for (uint32_t i = 0; i < p->npools; i++) {
		const struct plan_pool *pool = &p->pools[i];

		check_line(number, &pool->line);
		MUST(pool->backing == p->pools[0].backing && pool->page_bytes == p->pools[0].page_bytes);
		MUST(pool->bytes && pool->bytes % pool->page_bytes == 0 && pool->bytes % PAGE_2M == 0);
		MUST(pool->pages == (pool->backing == BACK_HUGETLB ? pool->bytes / pool->page_bytes : 0));
		sum += pool->bytes;
		if (node_known(pool->node)) {
			MUST(i == 0 || p->pools[i - 1].node.os < pool->node.os);
			MUST(plan_pool_of(p, pool->node) == i);
			check_pool_on_node(number, p, pool);
		} else {
			MUST(p->npools == 1);
			MUST(p->conf.numa == WANT_NO || m->nnodes == 1 || !any_memory_known(m));
		}
	}
	if (p->npools && p->pools[0].page_bytes > unit)
		unit = p->pools[0].page_bytes;
	if (p->npools)
		check_limits(number, p, sum);
	else if (p->conf.huge_1g == WANT_YES)
		unit = FIX_GIB;
	/* By hand each node is rounded. */
	if (p->conf.nmanual)
		unit *= p->conf.nmanual;
	MUST(sum + p->shortage_bytes <= asked && asked - sum - p->shortage_bytes < unit);
	MUST(!p->shortage_bytes || has_note(p, PLAN_SHORTAGE));
}

static void check_own_cores(uint32_t number, const struct plan *p)
{
	struct cpu_set taken = {0};

	for (uint32_t i = 0; i < p->nthreads; i++) {
		const struct plan_thread *t = &p->threads[i];
		struct cpu_set both = t->cpus;

		if (!strstr(t->line.reason, "; a core of its own"))
			continue;
		cpus_and(&both, &taken);
		MUST(cpus_count(&both) == 0);
		cpus_or(&taken, &t->cpus);
	}
}

static void check_cpus(uint32_t number, const struct machine *m, const struct plan_thread *t)
{
	const struct mach_node *n = machine_node(m, t->node);
	bool isolated = false, quiet = false;

	MUST(cpus_count(&t->cpus) > 0);
	MUST(!node_known(t->node) || (n && cpus_count(&n->cpus)));
	for (uint32_t i = 0; i < m->ncpus; i++) {
		const struct mach_cpu *c = &m->cpus[i];
		bool here = !n || cpus_has(&n->cpus, c->os);

		quiet = quiet || (here && c->allowed && !c->isolated);
		if (!cpus_has(&t->cpus, c->os))
			continue;
		MUST(c->allowed && here);
		isolated = isolated || c->isolated;
	}
	MUST(!isolated || !quiet);
}

static void check_threads(uint32_t number, const struct plan *p)
{
	const struct machine *m = p->machine;
	uint32_t count[ROLES] = {0}, nics = 0, drives = 0;

	for (uint32_t i = 0; i < p->nthreads; i++) {
		const struct plan_thread *t = &p->threads[i];

		check_line(number, &t->line);
		MUST(t->index == count[t->role]++);
		MUST(plan_thread_of(p, t->role, t->index) == t);
		MUST(!t->device == (t->role != ROLE_NIC && t->role != ROLE_NVME));
		MUST(!t->device || node_known(t->device->node) || !node_known(t->node));
		check_cpus(number, m, t);
	}
	for (uint32_t i = 0; i < m->ndevices; i++) {
		nics += m->devices[i].kind == DEV_RDMA;
		drives += m->devices[i].kind == DEV_NVME;
	}
	MUST(count[ROLE_NIC] == nics && count[ROLE_NVME] == drives);
	MUST(count[ROLE_CONTROL] == 1 && count[ROLE_HTTP] == 1);
	MUST(p->conf.transfer_workers ? count[ROLE_TRANSFER] == p->conf.transfer_workers : count[ROLE_TRANSFER] > 0);
	MUST(p->conf.lookup_workers ? count[ROLE_LOOKUP] == p->conf.lookup_workers : count[ROLE_LOOKUP] > 0);
	MUST(!p->npools == !count[ROLE_POPULATE]);
	check_own_cores(number, p);
}

static void check_devices(uint32_t number, const struct plan *p)
{
	MUST(p->ndevices == p->machine->ndevices);
	for (uint32_t i = 0; i < p->ndevices; i++) {
		const struct plan_device *d = &p->devices[i];
		const struct plan_thread *t = NULL;
		uint32_t home = plan_pool_of(p, d->device->node);

		check_line(number, &d->line);
		MUST(d->device == &p->machine->devices[i]);
		MUST(d->pool == UINT32_MAX || d->pool < p->npools);
		MUST(home == UINT32_MAX || d->pool == home);
		MUST(node_known(d->device->node) || p->npools <= 1 || d->pool == UINT32_MAX);
		MUST(p->npools != 1 || d->pool == 0);
		if (d->device->kind == DEV_RDMA)
			t = plan_thread_of(p, ROLE_NIC, d->thread);
		else if (d->device->kind == DEV_NVME)
			t = plan_thread_of(p, ROLE_NVME, d->thread);
		else
			MUST(d->thread == UINT32_MAX);
		MUST(!t || t->device == d->device);
		MUST((d->device->kind == DEV_RDMA || d->device->kind == DEV_NVME) == (t != NULL));
	}
}

static void check_rest(uint32_t number, const struct plan *p)
{
	for (uint32_t i = 0; i < p->nnotes; i++) {
		MUST(p->notes[i].text[0] && printable(p->notes[i].text) && printable(p->notes[i].remedy));
		MUST(i == 0 || p->notes[i - 1].severity >= p->notes[i].severity);
	}
	for (uint32_t i = 0; i < p->nactions; i++) {
		const struct plan_action *a = &p->actions[i];

		check_line(number, &a->line);
		MUST(a->value[0] && printable(a->value) && !strstr(a->value, "..."));
		MUST(a->kind != ACT_SYSFS || strncmp(a->path, "/sys/", 5) == 0);
		MUST(a->kind != ACT_SYSCTL || strncmp(a->path, "/proc/sys/", 10) == 0);
		MUST((a->kind == ACT_KERNEL_ARG) == !a->path[0]);
	}
}

static void check_reasons(uint32_t number, const json_t *root, const char *key)
{
	const json_t *list = json_object_get(root, key), *one;
	size_t i;

	MUST(json_is_array(list));
	json_array_foreach(list, i, one)
	{
		const char *reason = json_string_value(json_object_get(one, "reason"));
		const char *source = json_string_value(json_object_get(one, "source"));

		if (!reason || !*reason || !source || !*source)
			fail_msg("machine %u: %s %zu has no reason or no source", number, key, i);
	}
}

static char *json_text(const struct plan *p)
{
	json_t *j = plan_json(p);
	char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;

	json_decref(j);
	assert_non_null(text);
	return text;
}

static void check_texts(uint32_t number, const struct plan *p, const struct plan *again)
{
	static const char *const lists[] = {"pools", "threads", "devices", "actions"};
	char *a = json_text(p), *b = json_text(again), *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	json_t *root = json_loads(a, 0, NULL);

	MUST(strcmp(a, b) == 0);
	MUST(root);
	for (size_t i = 0; i < 4; i++)
		check_reasons(number, root, lists[i]);
	json_decref(root);
	plan_print(p, f);
	fclose(f);
	for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
		MUST(strcspn(line, "\n") <= 80);
	free(text);
	free(a);
	free(b);
}

#define SAME(list, n) ((n) == 0 || memcmp(p->list, again->list, (n) * sizeof(*p->list)) == 0)

static void check_plan(uint32_t number, const struct plan *p, const struct plan *again)
{
	check_pools(number, p);
	check_threads(number, p);
	check_devices(number, p);
	check_rest(number, p);
	MUST(p->npools == again->npools && SAME(pools, p->npools));
	MUST(p->nthreads == again->nthreads && SAME(threads, p->nthreads));
	MUST(p->ndevices == again->ndevices && SAME(devices, p->ndevices));
	MUST(p->nnotes == again->nnotes && SAME(notes, p->nnotes));
	MUST(p->nactions == again->nactions && SAME(actions, p->nactions));
	if (number % 8 == 0)
		check_texts(number, p, again);
}

/* Refused for a reason that the wishes or the machine give. */
static void check_refusal(uint32_t number, const struct machine *m, const struct plan_conf *c, int rc,
			  const struct why *why)
{
	bool any = false;

	MUST(why->err == rc && why->text[0]);
	for (uint32_t i = 0; i < m->ncpus; i++)
		any = any || m->cpus[i].allowed;
	if (rc == -ENODEV)
		MUST(!any);
	else
		MUST(rc == -EINVAL && c->huge_1g == WANT_YES && (c->l1_bytes < FIX_GIB || c->nmanual));
}

/* Of this process, so that others on the machine do not fail the test. */
static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void test_01_ten_thousand(void **state)
{
	uint32_t refused = 0, bound = 0, hugetlb = 0, shortages = 0;
	double start = now(), took;
	(void)state;

	for (uint32_t number = 0; number < MACHINES; number++) {
		struct plan_conf conf;
		struct plan *p = NULL, *again = NULL;
		struct why why = {0};
		struct machine *m;
		int rc;

		rng = 0x9e3779b97f4a7c15ull * (number + 1);
		m = random_machine();
		random_wishes(m, &conf);
		rc = plan_make(m, &conf, &p, &why);
		if (rc) {
			MUST(p == NULL);
			check_refusal(number, m, &conf, rc, &why);
			refused++;
		} else {
			MUST(plan_make(m, &conf, &again, &why) == 0);
			check_plan(number, p, again);
			bound += p->npools > 1;
			hugetlb += p->npools && p->pools[0].backing == BACK_HUGETLB;
			shortages += p->shortage_bytes > 0;
		}
		plan_destroy(p);
		plan_destroy(again);
		machine_destroy(m);
	}
	took = now() - start;
	print_message(
		"# %u machines in %.2f s of CPU time: %u refused, %u on several nodes, %u with huge pages, %u short\n",
		MACHINES, took, refused, bound, hugetlb, shortages);
	/* The draw must reach what it is about. */
	assert_true(refused < MACHINES / 10 && bound > MACHINES / 4 && hugetlb > MACHINES / 10 &&
		    shortages > MACHINES / 20);
	if (!getenv("LMCA_SANITIZER") || strcmp(getenv("LMCA_SANITIZER"), "thread") != 0)
		assert_true(took < 10);
}

/* 8 nodes, 512 CPUs, 16 GPUs, 16 NICs, 16 drives. */
static void test_02_largest_server(void **state)
{
	static const uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
	struct machine *m = fix_machine(8);
	struct plan_conf conf = {.l1_bytes = 2048 * FIX_GIB, .numa = WANT_TRY, .huge_2m = WANT_TRY, .thp = WANT_TRY};
	struct plan *p = NULL;
	struct why why = {0};
	double start, took;
	(void)state;

	for (uint32_t i = 0; i < 8; i++) {
		fix_memory(m, i, 384 * FIX_GIB);
		fix_huge(m, i, PAGE_2M, 150000, 140000);
	}
	fix_cpus(m, all, 8, 32, 2, 8);
	fix_devices(m, DEV_GPU, "gpu", all, 8, 2);
	fix_devices(m, DEV_RDMA, "mlx5_", all, 8, 2);
	fix_devices(m, DEV_NVME, "nvme", all, 8, 2);
	start = now();
	assert_int_equal(plan_make(m, &conf, &p, &why), 0);
	took = now() - start;
	print_message("# plan for %u nodes, %u CPUs, %u devices: %.2f ms\n", m->nnodes, m->ncpus, m->ndevices,
		      took * 1e3);
	assert_true(took < 0.2);
	assert_int_equal(p->npools, 8);
	assert_int_equal(p->pools[0].backing, BACK_HUGETLB);
	check_plan(0, p, p);
	plan_destroy(p);
	machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_ten_thousand),
		cmocka_unit_test(test_02_largest_server),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
