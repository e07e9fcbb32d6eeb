/* Jobs: what a copy borrows of its caller, kept until it is over. From a pool of the engine, so that copies allocate nothing. */
#include "transport/cuda/copier.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

/* Kept for the next copies; more than are under way at a time with any engine known. */
#define POOLED 64u

static void job_free(struct job *j)
{
	mem_free(j->slots);
	mem_free(j->ids);
	mem_free(j->group_ids);
	mem_free(j);
}

static struct job *job_new(struct engine_tables *t)
{
	struct job *j = mem_calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	j->tables = t;
	j->group_ids = mem_calloc(t->table.nengine, sizeof(*j->group_ids));
	if (!j->group_ids) {
		mem_free(j);
		return NULL;
	}
	return j;
}

struct job *job_take(struct engine_tables *t)
{
	struct job *j;

	lk_lock(&t->lk);
	j = t->pool;
	if (j) {
		t->pool = j->next;
		t->pooled--;
	}
	lk_unlock(&t->lk);
	return j ? j : job_new(t);
}

void job_leave(struct job *j)
{
	struct engine_tables *t = j->tables;
	bool keep;

	lk_lock(&t->lk);
	keep = t->pooled < POOLED;
	if (keep) {
		j->next = t->pool;
		t->pool = j;
		t->pooled++;
	}
	lk_unlock(&t->lk);
	if (!keep)
		job_free(j);
}

void jobs_free(struct engine_tables *t)
{
	while (t->pool) {
		struct job *j = t->pool;

		t->pool = j->next;
		job_free(j);
	}
	t->pooled = 0;
}

static int grow(void **p, uint64_t *cap, uint64_t n, size_t each)
{
	void *more;

	if (n <= *cap)
		return 0;
	more = mem_realloc(*p, n * each);
	if (!more)
		return -ENOMEM;
	*p = more;
	*cap = n;
	return 0;
}

/* A chunk that is left out, or whose tokens are all skipped, does not take part. */
static bool takes_part(const struct gpu_copy *c, const struct layout_table *t, uint32_t i)
{
	return c->slots[i] && (c->store || ((uint64_t)i + 1) * t->chunk_tokens > c->skip_tokens);
}

static void fill_ids(struct job *j, const struct layout_table *t, const struct gpu_copy *c)
{
	uint32_t *out = j->ids;

	for (uint32_t g = 0; g < t->nengine; g++) {
		uint32_t n = t->blocks[g];

		j->group_ids[g] = out;
		for (uint32_t i = 0; n && i < c->nchunks; i++) {
			if (!takes_part(c, t, i))
				continue;
			memcpy(out, c->blocks[g].ids + (uint64_t)i * n, n * sizeof(*out));
			out += n;
		}
	}
	j->nids = (uint32_t)(out - j->ids);
}

static void fill_slots(struct job *j, const struct layout_table *t, const struct gpu_copy *c)
{
	uint32_t n = 0;

	j->plan = (struct plan){.t = t, .ids = j->group_ids, .to_pages = !c->store};
	for (uint32_t i = 0; i < c->nchunks; i++) {
		uint64_t first = (uint64_t)i * t->chunk_tokens;

		if (!takes_part(c, t, i))
			continue;
		/* Only the first chunk that takes part can be skipped in part. */
		if (n == 0 && !c->store && c->skip_tokens > first)
			j->plan.skip_tokens = (uint32_t)(c->skip_tokens - first);
		j->slots[n++] = c->slots[i];
	}
	j->nchunks = n;
	j->plan.slots = j->slots;
}

int job_fill(struct job *j, const struct layout_table *t, const struct gpu_copy *c)
{
	uint64_t present = 0, each = 0;
	int rc;

	for (uint32_t i = 0; i < c->nchunks; i++)
		present += takes_part(c, t, i);
	for (uint32_t g = 0; g < t->nengine; g++)
		each += t->blocks[g];
	if (c->event.n > sizeof(j->event) || present * each > UINT32_MAX / sizeof(uint32_t))
		return -EINVAL;
	rc = grow((void **)&j->slots, &j->slots_cap, present + 1, sizeof(*j->slots));
	if (!rc)
		rc = grow((void **)&j->ids, &j->ids_cap, present * each + 1, sizeof(*j->ids));
	if (rc)
		return rc;
	j->t = t;
	fill_ids(j, t, c);
	fill_slots(j, t, c);
	j->event_bytes = (uint32_t)c->event.n;
	if (c->event.n)
		memcpy(j->event, c->event.p, c->event.n);
	j->begun = j->open = j->queued = j->over = j->told = j->window = false;
	j->rc = 0;
	return 0;
}

int copier_take(struct gpu_copy *copy)
{
	struct engine_tables *t = copy->engine->tables;
	struct job *j = job_take(t);
	int rc;

	if (!j)
		return -ENOMEM;
	j->copy = copy;
	rc = job_fill(j, &t->table, copy);
	if (rc) {
		job_leave(j);
		return rc;
	}
	copy->inner = j;
	copy->event = slice_of(j->event, j->event_bytes);
	return 0;
}

void copier_leave(struct gpu_copy *copy)
{
	struct job *j = copy->inner;

	copy->inner = NULL;
	if (j)
		job_leave(j);
}
