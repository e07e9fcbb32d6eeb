/* plan_cores.c - the nodes where threads can live and their cores; and which CPUs each thread gets.
 *
 * A thread of its own core gets all hardware threads of it, so that no other of ours is its sibling. Cores are handed out one
 * cache after the other. Where a role does not fit into the cores left on a node, it and the roles after it share those.
 */
#include "numa/plan_threads.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>

static const struct mach_cpu *find_cpu(const struct machine *m, uint32_t os)
{
	uint32_t lo = 0, hi = m->ncpus;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (m->cpus[mid].os == os)
			return &m->cpus[mid];
		if (m->cpus[mid].os < os)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* The CPUs of `from` that we may use; isolated ones only when there are no others. */
static struct cpu_set usable(const struct machine *m, const struct cpu_set *from, bool *isolated)
{
	struct cpu_set allowed = *from, quiet;

	for (int cpu = cpus_next(from, 0); cpu >= 0; cpu = cpus_next(from, (uint32_t)cpu + 1)) {
		const struct mach_cpu *c = find_cpu(m, (uint32_t)cpu);

		if (c && !c->allowed)
			cpus_drop(&allowed, (uint32_t)cpu);
	}
	quiet = allowed;
	for (uint32_t i = 0; i < m->ncpus; i++) {
		if (m->cpus[i].isolated)
			cpus_drop(&quiet, m->cpus[i].os);
	}
	*isolated = cpus_count(&quiet) == 0;
	return *isolated ? allowed : quiet;
}

static int by_core(const void *a, const void *b)
{
	const struct core *x = a, *y = b;

	if (x->home != y->home)
		return x->home < y->home ? -1 : 1;
	if (x->core != y->core)
		return x->core < y->core ? -1 : 1;
	return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static int by_cache(const void *a, const void *b)
{
	const struct core *x = a, *y = b;

	if (x->home != y->home)
		return x->home < y->home ? -1 : 1;
	if (x->l3 != y->l3)
		return x->l3 < y->l3 ? -1 : 1;
	return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static int by_rank(const void *a, const void *b)
{
	const struct core *x = a, *y = b;

	if (x->home != y->home)
		return x->home < y->home ? -1 : 1;
	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static void list_cpus(struct crew *c)
{
	const struct machine *m = c->pl->m;

	for (uint32_t h = 0; h < c->nhomes; h++) {
		const struct cpu_set *s = &c->homes[h].usable;

		for (int cpu = cpus_next(s, 0); cpu >= 0; cpu = cpus_next(s, (uint32_t)cpu + 1)) {
			const struct mach_cpu *mc = find_cpu(m, (uint32_t)cpu);

			if (mc && c->ncores < m->ncpus)
				c->cores[c->ncores++] = (struct core){h, mc->core, mc->l3, (uint32_t)cpu, 0};
		}
	}
}

/* One entry per core, in the order in which they are handed out. */
static void list_cores(struct crew *c)
{
	uint32_t n = 0;

	list_cpus(c);
	qsort(c->cores, c->ncores, sizeof(*c->cores), by_core);
	for (uint32_t i = 0; i < c->ncores; i++) {
		if (n == 0 || c->cores[i].home != c->cores[n - 1].home || c->cores[i].core != c->cores[n - 1].core)
			c->cores[n++] = c->cores[i];
	}
	c->ncores = n;
	qsort(c->cores, n, sizeof(*c->cores), by_cache);
	for (uint32_t i = 1; i < n; i++) {
		if (c->cores[i].home == c->cores[i - 1].home && c->cores[i].l3 == c->cores[i - 1].l3)
			c->cores[i].rank = c->cores[i - 1].rank + 1;
	}
	qsort(c->cores, n, sizeof(*c->cores), by_rank);
	for (uint32_t i = n; i-- > 0;) {
		c->homes[c->cores[i].home].core0 = i;
		c->homes[c->cores[i].home].ncores++;
	}
}

static void find_any(struct crew *c)
{
	const struct machine *m = c->pl->m;
	struct cpu_set all = {0};
	bool isolated;

	for (uint32_t i = 0; i < m->ncpus; i++)
		cpus_add(&all, m->cpus[i].os);
	for (uint32_t i = 0; i < m->nnodes; i++)
		cpus_or(&all, &m->nodes[i].cpus);
	c->any = usable(m, &all, &isolated);
}

int crew_homes(struct crew *c)
{
	const struct machine *m = c->pl->m;

	c->homes = mem_calloc(m->nnodes + 1, sizeof(*c->homes));
	c->nodes = mem_calloc(m->nnodes + 1, sizeof(*c->nodes));
	c->weight = mem_calloc(m->nnodes + 1, sizeof(*c->weight));
	c->given = mem_calloc(m->nnodes + 1, sizeof(*c->given));
	c->cores = mem_calloc(m->ncpus + 1, sizeof(*c->cores));
	if (!c->homes || !c->nodes || !c->weight || !c->given || !c->cores)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->nnodes; i++) {
		struct home *h = &c->homes[c->nhomes];

		h->usable = usable(m, &m->nodes[i].cpus, &h->isolated);
		h->node = c->nodes[c->nhomes] = i;
		if (cpus_count(&h->usable))
			c->nhomes++;
	}
	find_any(c);
	list_cores(c);
	for (uint32_t i = 0; i < c->nhomes; i++)
		c->homes[i].rest = c->homes[i].usable;
	return 0;
}

static struct home *home_at(struct crew *c, node_id node)
{
	for (uint32_t i = 0; i < c->nhomes; i++) {
		if (node_same(c->pl->m->nodes[c->homes[i].node].id, node))
			return &c->homes[i];
	}
	return NULL;
}

static struct cpu_set core_cpus(const struct crew *c, const struct home *h, uint32_t core)
{
	struct cpu_set s = {0};

	for (int cpu = cpus_next(&h->usable, 0); cpu >= 0; cpu = cpus_next(&h->usable, (uint32_t)cpu + 1)) {
		const struct mach_cpu *mc = find_cpu(c->pl->m, (uint32_t)cpu);

		if (mc && mc->core == core)
			cpus_add(&s, (uint32_t)cpu);
	}
	return s;
}

static void take_core(const struct crew *c, struct home *h, struct plan_thread *t)
{
	const struct core *core = &c->cores[h->core0 + h->taken++];

	t->cpus = core_cpus(c, h, core->core);
	for (size_t i = 0; i < sizeof(h->rest.w) / sizeof(h->rest.w[0]); i++)
		h->rest.w[i] &= ~t->cpus.w[i];
	plan_more(t->line.reason, sizeof(t->line.reason), "; a core of its own");
}

static void own_cores(struct crew *c, enum plan_role role)
{
	struct plan *p = c->pl->p;
	/* Control and lookups leave a core to those that share; what moves bytes may have them all. */
	uint32_t *need = c->given, spare = role == ROLE_CONTROL || role == ROLE_LOOKUP;

	for (uint32_t i = 0; i < c->nhomes; i++)
		need[i] = 0;
	for (uint32_t i = 0; i < p->nthreads; i++) {
		struct home *h = p->threads[i].role == role ? home_at(c, p->threads[i].node) : NULL;

		if (h)
			need[h - c->homes]++;
	}
	for (uint32_t i = 0; i < c->nhomes; i++) {
		struct home *h = &c->homes[i];

		h->full = h->full || (need[i] && h->taken + need[i] + spare > h->ncores);
	}
	for (uint32_t i = 0; i < p->nthreads; i++) {
		struct plan_thread *t = &p->threads[i];
		struct home *h = t->role == role ? home_at(c, t->node) : NULL;

		if (h && !h->full)
			take_core(c, h, t);
	}
}

static void share_cpus(struct crew *c, struct plan_thread *t)
{
	const struct home *h = home_at(c, t->node);

	if (!h)
		t->cpus = c->any;
	else if (t->role == ROLE_POPULATE)
		t->cpus = h->usable; /* the others wait for it anyway */
	else
		t->cpus = cpus_count(&h->rest) ? h->rest : h->usable;
	if (h && h->full && t->role != ROLE_POPULATE && t->role != ROLE_HTTP)
		plan_more(t->line.reason, sizeof(t->line.reason), "; too few cores here: shares CPUs");
}

void crew_cpus(struct crew *c)
{
	static const enum plan_role order[] = {ROLE_NIC, ROLE_NVME, ROLE_TRANSFER, ROLE_CONTROL, ROLE_LOOKUP};
	struct plan *p = c->pl->p;

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		own_cores(c, order[i]);
	for (uint32_t i = 0; i < p->nthreads; i++) {
		struct plan_thread *t = &p->threads[i];
		const struct home *h = home_at(c, t->node);

		if (cpus_count(&t->cpus) == 0)
			share_cpus(c, t);
		if (h && h->isolated)
			plan_more(t->line.reason, sizeof(t->line.reason), "; all CPUs here are isolated");
	}
}

void crew_free(struct crew *c)
{
	mem_free(c->homes);
	mem_free(c->nodes);
	mem_free(c->weight);
	mem_free(c->given);
	mem_free(c->cores);
}
