/* job.c - memory of prefetches. A few are kept with their buffers, so that in the long run a prefetch allocates nothing. */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/tier/tier_int.h"

#include <string.h>

#define MOST_OBJECTS (1u << 24)
#define SPARE_BYTES  (1u << 20) /* larger buffers are not kept */

static uint32_t spares(const struct tier *t)
{
	return 2 * t->c.max_jobs + 8;
}

/* Memory for `bytes`, what was there before is lost. */
static bool ensure(void **mem, size_t *cap, size_t bytes)
{
	if (*cap >= bytes)
		return true;
	mem_free(*mem);
	*mem = mem_calloc(1, bytes + bytes / 2);
	*cap = *mem ? bytes + bytes / 2 : 0;
	return *mem != NULL;
}

static void *cut(char **p, size_t bytes)
{
	void *at = *p;

	*p += (bytes + 7) & ~(size_t)7;
	return at;
}

static bool lay_out(struct job *j, uint32_t nchunks)
{
	size_t n = j->total, w = j->world;
	size_t bytes = n * sizeof(*j->load) + nchunks * sizeof(*j->hashes) + w * sizeof(*j->ns) +
		       w * (sizeof(*j->names) + sizeof(*j->bytes)) + n * sizeof(*j->objs) + 2 * n + 64;
	char *p;

	if (!ensure(&j->mem, &j->cap, bytes))
		return false;
	p = j->mem;
	j->load = cut(&p, n * sizeof(struct load *));
	j->hashes = cut(&p, nchunks * sizeof(*j->hashes));
	j->ns = cut(&p, w * sizeof(*j->ns));
	j->bytes = cut(&p, w * sizeof(*j->bytes));
	j->names = cut(&p, w * sizeof(*j->names));
	j->objs = cut(&p, n * sizeof(*j->objs));
	j->spot = cut(&p, n);
	j->source = cut(&p, n);
	memset(j->spot, SPOT_NONE, n);
	memset(j->source, 0, n);
	return true;
}

static struct job *take_spare(struct tier *t)
{
	struct job *j;

	lk_lock(&t->lk);
	j = t->spare_jobs;
	if (j) {
		t->spare_jobs = j->next;
		t->nspare_jobs--;
	}
	lk_unlock(&t->lk);
	return j ? j : mem_calloc(1, sizeof(*j));
}

static uint64_t size_of(const struct tier_want *w, uint32_t rank)
{
	return w->rank_bytes ? w->rank_bytes[rank] : w->object_bytes;
}

static bool has_sizes(const struct tier_want *w)
{
	uint32_t r = 0;

	while (r < w->world_size && size_of(w, r))
		r++;
	return r == w->world_size;
}

static void take_sizes(struct job *j, const struct tier_want *w)
{
	j->any_bytes = size_of(w, 0);
	for (uint32_t r = 0; r < j->world; r++) {
		j->bytes[r] = size_of(w, r);
		if (j->bytes[r] != j->bytes[0])
			j->any_bytes = 0;
	}
}

struct job *job_make(struct tier *t, const struct tier_want *w)
{
	uint64_t all = (uint64_t)w->nchunks * w->world_size, first = w->first < all ? w->first : all;
	uint32_t chunk0 = w->world_size ? (uint32_t)(first / w->world_size) : 0;
	struct job *j;

	if (!w->world_size || !w->locks || !has_sizes(w) || all - first > MOST_OBJECTS || all > UINT32_MAX)
		return NULL;
	j = take_spare(t);
	if (!j)
		return NULL;
	*j = (struct job){.mem = j->mem,
			  .cap = j->cap,
			  .id = w->id,
			  .world = w->world_size,
			  .locks = w->locks,
			  .node = w->node,
			  .total = (uint32_t)(all - first),
			  .rank0 = (uint32_t)(first % w->world_size),
			  .start_ns = clock_ns()};
	if (!lay_out(j, w->nchunks - chunk0)) {
		job_free(t, j);
		return NULL;
	}
	j->find = find_make(t, j->total);
	if (!j->find) {
		job_free(t, j);
		return NULL;
	}
	j->find->job = j;
	j->progress_ns = j->start_ns;
	j->limit = j->total;
	if (w->nchunks > chunk0)
		memcpy(j->hashes, w->hashes + chunk0, (w->nchunks - chunk0) * sizeof(*j->hashes));
	memcpy(j->ns, w->ns, j->world * sizeof(*j->ns));
	memcpy(j->names, w->names, j->world * sizeof(*j->names));
	take_sizes(j, w);
	return j;
}

void tally_job(struct tier *t, const struct job *j, enum tier_count what, uint32_t from, uint32_t to)
{
	uint32_t n = to - from, whole = n / j->world, more = n % j->world;

	for (uint32_t k = 0; k < j->world && k < n; k++)
		tally(t, what, j->names[(j->rank0 + from + k) % j->world], whole + (k < more));
}

void job_free(struct tier *t, struct job *j)
{
	if (j->find)
		find_free(t, j->find);
	j->find = NULL;
	lk_lock(&t->lk);
	if (t->nspare_jobs < spares(t) && j->cap <= SPARE_BYTES && !t->stopping) {
		j->next = t->spare_jobs;
		t->spare_jobs = j;
		t->nspare_jobs++;
		j = NULL;
	}
	lk_unlock(&t->lk);
	if (j)
		mem_free(j->mem);
	mem_free(j);
}

struct find *find_make(struct tier *t, uint32_t n)
{
	size_t na = t->c.nadapters, bytes = n * (sizeof(struct seg_key) + sizeof(uint32_t) + na * 8) + 64;
	struct find *f;
	char *p;

	lk_lock(&t->lk);
	f = t->spare_finds;
	if (f) {
		t->spare_finds = f->next;
		t->nspare_finds--;
	}
	lk_unlock(&t->lk);
	if (!f && !(f = mem_calloc(1, sizeof(*f))))
		return NULL;
	f->t = t;
	f->job = NULL;
	f->n = f->open = f->answered = 0;
	if (!ensure(&f->mem, &f->cap, bytes)) {
		find_free(t, f);
		return NULL;
	}
	p = f->mem;
	f->bytes = cut(&p, n * na * sizeof(*f->bytes));
	f->keys = cut(&p, n * sizeof(*f->keys));
	f->at = cut(&p, n * sizeof(*f->at));
	return f;
}

void find_free(struct tier *t, struct find *f)
{
	lk_lock(&t->lk);
	if (t->nspare_finds < spares(t) && f->cap <= SPARE_BYTES && !t->stopping) {
		f->next = t->spare_finds;
		t->spare_finds = f;
		t->nspare_finds++;
		f = NULL;
	}
	lk_unlock(&t->lk);
	if (f)
		mem_free(f->mem);
	mem_free(f);
}

void job_list_add(struct job_list *l, struct job *j)
{
	j->next = NULL;
	j->prev = l->tail;
	if (l->tail)
		l->tail->next = j;
	else
		l->head = j;
	l->tail = j;
	l->n++;
	j->list = l;
}

void job_list_remove(struct job *j)
{
	struct job_list *l = j->list;

	if (j->prev)
		j->prev->next = j->next;
	else
		l->head = j->next;
	if (j->next)
		j->next->prev = j->prev;
	else
		l->tail = j->prev;
	l->n--;
	j->list = NULL;
}
