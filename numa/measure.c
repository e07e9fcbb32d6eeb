/* measure.c - the measuring itself. One cell: threads pinned on a node, each with two buffers bound to a node, copying from one
 * to the other until time is up. */
#include "numa/measure.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "numa/measure_int.h"
#include "numa/pages.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* linux/mman.h, since 5.14 */
#endif

#define PIECE (4ull << 20) /* copied between two looks at the clock */

/* Bound memory. NULL with the reason. Where there is one node only, binding is not needed and may be refused. */
void *measure_memory(uint64_t bytes, node_id node, bool must_bind, char reason[128])
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char text[24];

	if (p == MAP_FAILED) {
		snprintf(reason, 128, "no address space for %llu bytes: %s", (unsigned long long)bytes,
			 strerror(errno));
		return NULL;
	}
	int rc = must_bind ? pages_bind(p, bytes, node) : 0;
	if (rc)
		snprintf(reason, 128, "mbind to %s: %s%s", machine_node_text(node, text), strerror(-rc),
			 rc == -EPERM    ? " (seccomp profile; needs CAP_SYS_NICE there)"
			 : rc == -EINVAL ? " (not in this process's cpuset)"
					 : "");
	madvise(p, bytes, MADV_HUGEPAGE); /* as L1 has them; not every kernel does */
	if (rc == 0 && madvise(p, bytes, MADV_POPULATE_WRITE) != 0) {
		rc = -errno;
		/* Before 5.14. Bound memory that runs out is the out-of-memory killer's, so only where it is not bound. */
		if (rc == -EINVAL && !must_bind)
			rc = (memset(p, 1, bytes), 0);
		if (rc)
			snprintf(reason, 128, "no %llu MiB free on %s: %s", (unsigned long long)(bytes >> 20),
				 machine_node_text(node, text), strerror(-rc));
	}
	if (rc == 0)
		return p;
	munmap(p, bytes);
	return NULL;
}

struct copier {
	const struct measure_conf *conf;
	struct measure_gate *gate;
	const struct cpu_set *cpus;
	node_id memory;
	bool bind;
	pthread_t thread;
	uint64_t copied, ns, pages, misplaced;
	bool looked;
	char reason[128];
};

static void look(struct copier *c, const void *p, uint64_t bytes)
{
	struct pages_census census = {0};
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	c->looked = pages_count(0, (uintptr_t)p, bytes, page, &census) == 0;
	if (!c->looked)
		return;
	c->pages = census.looked;
	c->misplaced = c->bind ? census.looked - pages_on(&census, c->memory) : 0;
}

static void copy(struct copier *c, char *p)
{
	uint64_t half = c->conf->bytes, at = 0, start = clock_ns(), end = start;

	while (end - start < (uint64_t)(c->conf->seconds * 1e9)) {
		uint64_t n = half - at < PIECE ? half - at : PIECE;
		memcpy(p + half + at, p + at, n);
		at = at + n == half ? 0 : at + n;
		c->copied += n;
		end = clock_ns();
	}
	c->ns = end - start;
}

static void *copier(void *arg)
{
	struct copier *c = arg;
	uint64_t bytes = 2 * c->conf->bytes;
	char *p = NULL;
	int rc = cpus_pin_self(c->cpus);

	if (rc)
		snprintf(c->reason, sizeof(c->reason), "cannot run there: %s", strerror(-rc));
	else
		p = measure_memory(bytes, c->memory, c->bind, c->reason);
	if (p)
		look(c, p, bytes);
	/* All begin together, or none: one that cannot must not leave the others the whole bus. */
	if (measure_gate_pass(c->gate, p != NULL) && p)
		copy(c, p);
	if (p)
		munmap(p, bytes);
	return NULL;
}

/* ---- the gate: threads begin together, if all can -------------------------------------------------------------------- */

void measure_gate_init(struct measure_gate *g, uint32_t n)
{
	*g = (struct measure_gate){.wanted = n, .ok = true};
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->open, NULL);
}

void measure_gate_destroy(struct measure_gate *g)
{
	pthread_cond_destroy(&g->open);
	pthread_mutex_destroy(&g->lock);
}

bool measure_gate_pass(struct measure_gate *g, bool ok)
{
	pthread_mutex_lock(&g->lock);
	g->ok &= ok;
	g->here++;
	if (g->here >= g->wanted)
		pthread_cond_broadcast(&g->open);
	while (g->here < g->wanted)
		pthread_cond_wait(&g->open, &g->lock);
	bool go = g->ok;
	pthread_mutex_unlock(&g->lock);
	return go;
}

void measure_gate_shrink(struct measure_gate *g, uint32_t n)
{
	pthread_mutex_lock(&g->lock);
	g->wanted = n;
	g->ok = false;
	pthread_cond_broadcast(&g->open);
	pthread_mutex_unlock(&g->lock);
}

/* ---- cells ---------------------------------------------------------------------------------------------------------- */

static void sum_up(struct measure_cell *cell, const struct copier *c, uint32_t n, bool *looked)
{
	*looked = true;
	for (uint32_t i = 0; i < n; i++) {
		cell->gbs += c[i].ns ? (double)c[i].copied / (double)c[i].ns : 0;
		cell->pages += c[i].pages;
		cell->misplaced += c[i].misplaced;
		*looked &= c[i].looked;
		if (c[i].reason[0] && !cell->reason[0])
			memcpy(cell->reason, c[i].reason, sizeof(cell->reason));
	}
}

static int measure_cell(const struct measure_conf *conf, const struct mach_node *node, bool bind,
			struct measure_cell *cell)
{
	uint32_t want = cpus_count(&node->cpus) < conf->threads ? cpus_count(&node->cpus) : conf->threads, n = 0;
	struct copier *c = mem_calloc(want, sizeof(*c));
	struct measure_gate gate;
	bool looked;

	if (!c)
		return -ENOMEM;
	measure_gate_init(&gate, want);
	for (; n < want; n++) {
		c[n] = (struct copier){
			.conf = conf, .gate = &gate, .cpus = &node->cpus, .memory = cell->memory, .bind = bind};
		if (pthread_create(&c[n].thread, NULL, copier, &c[n]) != 0)
			break;
	}
	if (n < want)
		measure_gate_shrink(&gate, n);
	for (uint32_t i = 0; i < n; i++)
		pthread_join(c[i].thread, NULL);
	measure_gate_destroy(&gate);
	cell->threads = n;
	sum_up(cell, c, n, &looked);
	mem_free(c);
	if (n < want)
		snprintf(cell->reason, sizeof(cell->reason), "cannot start %u threads", want);
	else if (cell->gbs > 0 && bind && !looked)
		snprintf(cell->reason, sizeof(cell->reason), "not proven: move_pages is not permitted here");
	return 0;
}

static bool has_memory(const struct mach_node *n)
{
	return n->allowed && (n->kind == NODE_DRAM || n->kind == NODE_SLOW);
}

static int run_cells(const struct machine *m, const struct measure_conf *conf, const struct measure_watch *watch,
		     struct measure *out)
{
	uint32_t from = 0, to = 0;

	for (uint32_t i = 0; i < m->nnodes; i++) {
		from += cpus_count(&m->nodes[i].cpus) > 0;
		to += has_memory(&m->nodes[i]);
	}
	if ((uint64_t)from * to > MEASURE_MAX_CELLS)
		return -E2BIG;
	out->cells = mem_calloc((size_t)from * to + 1, sizeof(*out->cells));
	if (!out->cells)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->nnodes; i++) {
		for (uint32_t k = 0; k < m->nnodes && cpus_count(&m->nodes[i].cpus) > 0; k++) {
			if (!has_memory(&m->nodes[k]))
				continue;
			struct measure_cell *c = &out->cells[out->ncells];
			*c = (struct measure_cell){.cpu = m->nodes[i].id, .memory = m->nodes[k].id};
			int rc = measure_cell(conf, &m->nodes[i], m->nnodes > 1, c);
			if (rc)
				return rc;
			out->ncells++;
			if (watch && watch->cell)
				watch->cell(watch->ctx, c);
		}
	}
	return 0;
}

int measure_run(const struct machine *m, const struct measure_conf *conf, const struct measure_watch *watch,
		struct measure **out, struct why *why)
{
	if (!m->this_system)
		return why_set(why, -EXDEV, "%s is not this system: nothing can be measured there", m->source);
	if (conf->bytes < PIECE || conf->threads == 0 || !(conf->seconds > 0))
		return why_set(why, -EINVAL, "measure: buffers of at least 4 MiB, a thread and some time are needed");
	struct measure *r = mem_calloc(1, sizeof(*r));
	if (!r)
		return why_set(why, -ENOMEM, "measure: out of memory");
	snprintf(r->host, sizeof(r->host), "%s", m->host);
	snprintf(r->kernel, sizeof(r->kernel), "%s", m->kernel);
	int rc = run_cells(m, conf, watch, r);
	if (rc == 0 && conf->drives)
		rc = measure_drives(m, conf, watch, r);
	if (rc) {
		measure_destroy(r);
		return why_set(why, rc, "measure: %s", strerror(-rc));
	}
	*out = r;
	return 0;
}

void measure_destroy(struct measure *m)
{
	if (!m)
		return;
	mem_free(m->cells);
	mem_free(m->drives);
	mem_free(m);
}

double measure_gbs(const struct measure *m, node_id cpu, node_id memory)
{
	for (uint32_t i = 0; i < m->ncells; i++)
		if (node_same(m->cells[i].cpu, cpu) && node_same(m->cells[i].memory, memory))
			return m->cells[i].gbs;
	return 0;
}

double measure_ratio(const struct measure *m, node_id cpu, node_id memory)
{
	double base = measure_gbs(m, cpu, cpu), it = measure_gbs(m, cpu, memory);

	for (uint32_t i = 0; i < m->ncells && measure_gbs(m, cpu, cpu) <= 0; i++)
		if (node_same(m->cells[i].cpu, cpu) && m->cells[i].gbs > base)
			base = m->cells[i].gbs;
	return base > 0 ? it / base : 0;
}
