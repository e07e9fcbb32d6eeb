/* cells.c - working memory and the values in it. */
#include "transport/pickle/pickle_int.h"

#include "daemon/base/mem.h"

#include <errno.h>

static int space_create(struct pk_space *s, uint32_t stack, uint32_t memo, uint32_t cells)
{
	s->max_stack = stack;
	s->max_memo = memo;
	s->max_cells = cells;
	s->stack = mem_calloc(stack, sizeof(*s->stack));
	s->memo = mem_calloc(memo, sizeof(*s->memo));
	s->cells = mem_calloc(cells, sizeof(*s->cells));
	pk_space_reset(s);
	return s->stack && s->memo && s->cells ? 0 : -ENOMEM;
}

static void space_destroy(struct pk_space *s)
{
	mem_free(s->stack);
	mem_free(s->memo);
	mem_free(s->cells);
}

int pk_mem_create(struct pk_mem **out)
{
	struct pk_mem *m = mem_calloc(1, sizeof(*m));

	*out = NULL;
	if (!m)
		return -ENOMEM;
	if (space_create(&m->small, PK_SMALL_STACK, PK_SMALL_MEMO, PK_SMALL_CELLS) < 0 ||
	    space_create(&m->list, PK_LIST_STACK, PK_LIST_MEMO, PK_LIST_CELLS) < 0) {
		pk_mem_destroy(m);
		return -ENOMEM;
	}
	*out = m;
	return 0;
}

void pk_mem_destroy(struct pk_mem *m)
{
	if (!m)
		return;
	space_destroy(&m->small);
	space_destroy(&m->list);
	mem_free(m);
}

void pk_space_reset(struct pk_space *s)
{
	s->nstack = 0;
	s->nmemo = 0;
	s->memo_hi = 0;
	s->nmarks = 0;
	s->ncells = 1;
}

uint32_t pk_cells_take(struct pk_space *s, uint32_t n)
{
	uint32_t at = s->ncells;

	if (n > s->max_cells - s->ncells)
		return 0;
	s->ncells += n;
	return at;
}

uint32_t pk_head_new(struct pk_space *s)
{
	uint32_t at = pk_cells_take(s, 1);

	if (at)
		s->cells[at].head = (struct pk_head){0};
	return at;
}

static bool has_head(const struct pk_val *v)
{
	return v->kind == V_LIST || v->kind == V_DICT || v->kind == V_OBJ;
}

static uint8_t depth_of(const struct pk_space *s, const struct pk_val *v)
{
	return has_head(v) ? s->cells[v->u.at].head.depth : v->depth;
}

int pk_adopt(struct pk_space *s, const struct pk_val *child, uint8_t *depth, struct why *why)
{
	uint8_t d = (uint8_t)(depth_of(s, child) + 1);

	if (d > PK_MAX_NEST)
		return why_set(why, -E2BIG, "values nested deeper than %d", PK_MAX_NEST);
	if (d > *depth)
		*depth = d;
	if (has_head(child))
		s->cells[child->u.at].head.sealed = 1;
	return 0;
}

int pk_chain_add(struct pk_space *s, struct pk_head *head, const struct pk_val *v, uint32_t n, struct why *why)
{
	uint32_t at;

	if (n == 0)
		return 0;
	at = pk_cells_take(s, n + 1);
	if (!at)
		return why_set(why, -E2BIG, "more values than %u", s->max_cells);
	s->cells[at].batch = (struct pk_batch){.next = 0, .n = n};
	for (uint32_t i = 0; i < n; i++)
		s->cells[at + 1 + i].v = v[i];
	if (head->last)
		s->cells[head->last].batch.next = at;
	else
		head->first = at;
	head->last = at;
	return 0;
}

struct slice pk_bytes_of(const struct pk_val *v)
{
	if (v->tag == PK_WIDE)
		return slice_of(v->u.p + 8, pk_le64(v->u.p));
	return slice_of(v->u.p, v->n);
}

const struct pk_val *pk_items(const struct pk_space *s, const struct pk_val *tuple)
{
	return &s->cells[tuple->u.at].v; /* cells are a union: the array stride is that of the value */
}

const char *pk_kind_name(const struct pk_val *v)
{
	static const char *const names[] = {
		[V_VOID] = "nothing",
		[V_NONE] = "None",
		[V_BOOL] = "a bool",
		[V_INT] = "an int",
		[V_LONG] = "a long int",
		[V_BYTES] = "bytes",
		[V_STR] = "a str",
		[V_TUPLE] = "a tuple",
		[V_LIST] = "a list",
		[V_DICT] = "a dict",
		[V_OBJ] = "an object",
		[V_GLOBAL] = "a global",
		[V_HOOKS] = "an OrderedDict",
		[V_PERSID] = "a persistent id",
		[V_STORAGE] = "a storage",
		[V_TENSOR] = "a tensor",
	};

	return names[v->kind];
}

struct pk_walk pk_walk_start(const struct pk_space *s, const struct pk_val *list_or_dict)
{
	return (struct pk_walk){.s = s, .batch = s->cells[list_or_dict->u.at].head.first};
}

const struct pk_val *pk_walk_next(struct pk_walk *w)
{
	const struct pk_batch *b;

	if (!w->batch)
		return NULL;
	b = &w->s->cells[w->batch].batch;
	if (w->i == b->n) {
		w->batch = b->next;
		w->i = 0;
		if (!w->batch)
			return NULL;
	}
	return &w->s->cells[w->batch + 1 + w->i++].v;
}
_Static_assert(sizeof(union pk_cell) == sizeof(struct pk_val), "a tuple's cells must be an array of values");
