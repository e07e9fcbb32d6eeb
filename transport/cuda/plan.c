/* The planner: which bytes of pages and objects adjoin, as single copies, in the order of the object. Knows no driver. */
#include "transport/cuda/copier.h"

#include "daemon/base/mem.h"

#include <errno.h>

/* ---- layouts as tables ------------------------------------------------------------------------------------------------------ */

/* The widest word that divides all of it. */
static uint32_t word_of(uint64_t all)
{
	uint32_t word = 16;

	while (all % word)
		word /= 2;
	return word;
}

static void group_make(struct group_table *g, const struct kv_layout *l, uint32_t i)
{
	struct kv_group_facts facts;
	const struct kv_group_copy *kv = &g->kv;
	uint64_t all;

	kv_layout_group(l, i, &facts);
	kv_layout_group_copy(l, i, &g->kv);
	g->object_offset = facts.object_offset;
	g->engine_group = facts.engine_group;
	g->block_tokens = facts.block_size;
	g->blocks = kv_layout_chunk_tokens(l) / facts.block_size;
	g->block_bytes = kv->token_bytes * g->block_tokens;
	g->plane_bytes = g->block_bytes * g->blocks;
	g->pitched = true;
	all = g->object_offset | kv->row_bytes;
	for (uint32_t p = 0; p < kv->nplanes; p++) {
		const struct kv_plane *at = &kv->planes[p];

		all |= (uint64_t)(uintptr_t)at->base | at->block_stride;
		all |= (g->block_tokens > 1 ? at->token_stride : 0) | (kv->rows > 1 ? at->head_stride : 0);
		g->pitched &= at->token_stride <= PITCH_MAX && at->head_stride <= PITCH_MAX &&
			      at->block_stride <= PITCH_MAX && kv->token_bytes <= PITCH_MAX;
	}
	g->word = word_of(all);
}

/* The kernels count pieces of one chunk, and words of one block, in 32 bits. */
static bool kernels_can(const struct layout_table *t)
{
	for (uint32_t i = 0; i < t->ngroups; i++) {
		const struct group_table *g = &t->group[i];
		uint64_t words = g->block_bytes / g->word, pieces = words / KERNEL_PIECE_WORDS + 1, all;

		if (words > KERNEL_ITEMS || (g->kv.null_blocks && g->kv.null_block == KERNEL_NO_NULL) ||
		    __builtin_mul_overflow(pieces, (uint64_t)g->blocks, &all) ||
		    __builtin_mul_overflow(all, (uint64_t)g->kv.nplanes, &all) || all > KERNEL_ITEMS)
			return false;
	}
	return true;
}

int table_make(struct layout_table *t, const struct kv_layout *l)
{
	*t = (struct layout_table){.ngroups = kv_layout_groups(l),
				   .nengine = kv_layout_engine_groups(l),
				   .chunk_tokens = kv_layout_chunk_tokens(l),
				   .object_bytes = kv_object_bytes(l)};
	t->group = mem_calloc(t->ngroups, sizeof(*t->group));
	t->blocks = mem_calloc(t->nengine, sizeof(*t->blocks));
	if (!t->group || !t->blocks) {
		table_free(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < t->ngroups; i++) {
		struct group_table *g = &t->group[i];

		group_make(g, l, i);
		t->blocks[g->engine_group] = g->blocks;
		if (g->plane_bytes > t->plane_bytes_max)
			t->plane_bytes_max = g->plane_bytes;
	}
	t->stride = (t->object_bytes + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
	t->staged = kernels_can(t);
	return 0;
}

void table_free(struct layout_table *t)
{
	mem_free(t->group);
	mem_free(t->blocks);
	t->group = NULL;
	t->blocks = NULL;
}

/* ---- planning --------------------------------------------------------------------------------------------------------------- */

struct out {
	struct plan_op *op;
	uint32_t n, cap;
};

/* Bytes that adjoin the operation before on both sides belong to it. False: no room. */
static bool put(struct out *o, uint64_t page, uint8_t *object, uint64_t bytes)
{
	struct plan_op *next = o->op + o->n, *last = next - 1;

	if (o->n > 0 && last->rows == 1 && last->page + last->bytes == page && last->object + last->bytes == object) {
		last->bytes += bytes;
		return true;
	}
	if (o->n == o->cap)
		return false;
	*next = (struct plan_op){.page = page, .object = object, .bytes = bytes, .rows = 1};
	o->n++;
	return true;
}

static bool put_rows(struct out *o, struct plan_op op)
{
	if (op.rows == 1)
		return put(o, op.page, op.object, op.bytes);
	if (o->n == o->cap)
		return false;
	o->op[o->n++] = op;
	return true;
}

static bool put_zeros(struct out *o, uint8_t *object, uint64_t bytes)
{
	struct plan_op *next = o->op + o->n, *last = next - 1;

	if (o->n > 0 && last->rows == 0 && last->object + last->bytes == object) {
		last->bytes += bytes;
		return true;
	}
	if (o->n == o->cap)
		return false;
	*next = (struct plan_op){.object = object, .bytes = bytes};
	o->n++;
	return true;
}

static bool is_null(const struct group_table *g, uint32_t id)
{
	return g->kv.null_blocks && id == g->kv.null_block;
}

/* Where the plan stands. */
struct place {
	const struct group_table *g;
	const struct kv_plane *plane;
	const uint32_t *ids; /* of the chunk */
	uint8_t *object;     /* of the plane */
};

static struct place place_of(const struct plan *p)
{
	struct place at;
	uint8_t *chunk = p->instead ? p->instead : p->slots[p->chunk];

	at.g = &p->t->group[p->group];
	at.plane = &at.g->kv.planes[p->plane];
	at.ids = p->ids[at.g->engine_group] + (uint64_t)p->chunk * at.g->blocks;
	at.object = chunk + at.g->object_offset + p->plane * at.g->plane_bytes;
	return at;
}

static uint64_t page_of(const struct place *at, uint32_t block)
{
	return (uint64_t)(uintptr_t)at->plane->base + at->ids[block] * at->plane->block_stride;
}

/* Blocks from b on whose ids are consecutive. */
static uint32_t consecutive(const struct place *at, uint32_t b)
{
	uint32_t n = 1;

	while (b + n < at->g->blocks && at->ids[b + n] == at->ids[b] + n && !is_null(at->g, at->ids[b + n]))
		n++;
	return n;
}

static bool plan_blocks(struct plan *p, const struct place *at, struct out *o)
{
	const struct group_table *g = at->g;
	uint32_t n = consecutive(at, p->block);
	uint64_t page = page_of(at, p->block);
	uint8_t *object = at->object + p->block * g->block_bytes;
	bool adjoin = at->plane->block_stride == g->block_bytes, ok;

	if (!adjoin && (p->flat || !g->pitched || n == 1 || at->plane->block_stride < g->block_bytes))
		n = 1;
	if (adjoin || n == 1)
		ok = put(o, page, object, n * g->block_bytes);
	else
		ok = put_rows(o, (struct plan_op){.page = page,
						  .object = object,
						  .bytes = g->block_bytes,
						  .page_pitch = at->plane->block_stride,
						  .object_pitch = g->block_bytes,
						  .rows = n});
	if (ok)
		p->block += n;
	return ok;
}

/* The rows of a block, one after another. */
static bool plan_flat_rows(struct plan *p, const struct place *at, struct out *o)
{
	const struct kv_group_copy *kv = &at->g->kv;
	uint64_t page = page_of(at, p->block);
	uint8_t *object = at->object + p->block * at->g->block_bytes;
	uint32_t all = kv->rows * at->g->block_tokens;

	for (; p->unit < all; p->unit++) {
		uint32_t token = p->unit / kv->rows, row = p->unit % kv->rows;
		uint64_t from = page + token * at->plane->token_stride + row * at->plane->head_stride;

		if (!put(o, from, object + p->unit * kv->row_bytes, kv->row_bytes))
			return false;
	}
	p->unit = 0;
	p->block++;
	return true;
}

/* The rows of a block as 2D copies: the tokens of each head, or the heads of each token, whichever are fewer copies. */
static bool plan_rows(struct plan *p, const struct place *at, struct out *o)
{
	const struct kv_group_copy *kv = &at->g->kv;
	uint64_t page = page_of(at, p->block);
	uint8_t *object = at->object + p->block * at->g->block_bytes;
	bool by_head = kv->rows <= at->g->block_tokens;
	uint32_t all = by_head ? kv->rows : at->g->block_tokens;

	for (; p->unit < all; p->unit++) {
		struct plan_op op = {.bytes = kv->row_bytes};

		if (by_head) {
			op.page = page + p->unit * at->plane->head_stride;
			op.object = object + p->unit * kv->row_bytes;
			op.page_pitch = at->plane->token_stride;
			op.object_pitch = kv->token_bytes;
			op.rows = at->g->block_tokens;
		} else {
			op.page = page + p->unit * at->plane->token_stride;
			op.object = object + p->unit * kv->token_bytes;
			op.page_pitch = at->plane->head_stride;
			op.object_pitch = kv->row_bytes;
			op.rows = kv->rows;
		}
		if (!put_rows(o, op))
			return false;
	}
	p->unit = 0;
	p->block++;
	return true;
}

static bool plan_plane(struct plan *p, struct out *o)
{
	const struct place at = place_of(p);
	const struct group_table *g = at.g;
	bool ok = true;

	while (ok && p->block < g->blocks) {
		if (is_null(g, at.ids[p->block])) {
			ok = p->to_pages || put_zeros(o, at.object + p->block * g->block_bytes, g->block_bytes);
			p->block += ok;
		} else if (g->kv.whole_blocks) {
			ok = plan_blocks(p, &at, o);
		} else if (p->flat || !g->pitched) {
			ok = plan_flat_rows(p, &at, o);
		} else {
			ok = plan_rows(p, &at, o);
		}
	}
	return ok;
}

/* Blocks at the front of the chunk that are not written. */
static uint32_t skipped(const struct plan *p)
{
	return p->to_pages && p->chunk == 0 ? p->skip_tokens / p->t->group[p->group].block_tokens : 0;
}

uint32_t plan_next(struct plan *p, struct plan_op *ops, uint32_t cap)
{
	struct out o = {.op = ops, .cap = cap};

	while (!plan_over(p)) {
		if (p->block < skipped(p))
			p->block = skipped(p);
		if (!plan_plane(p, &o))
			return o.n;
		p->block = 0;
		if (++p->plane < p->t->group[p->group].kv.nplanes)
			continue;
		p->plane = 0;
		if (++p->group < p->t->ngroups)
			continue;
		p->group = 0;
		p->chunk++;
	}
	return o.n;
}
