#include "transport/kv/kv_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>

/* Everything creation needs and a finished layout does not. */
struct build {
	const struct kv_layout_in *in;
	struct norm *norm;       /* [ntensors] */
	struct layer_form *form; /* [nlayers] */
	uint32_t *engine_of;     /* [nlayers] engine group */
	uint32_t *group_of;      /* [nlayers] layer group */
	enum arrangement arr;
};

#define NO_GROUP UINT32_MAX

const char *kv_format_name(enum kv_format f)
{
	static const char *const name[KV_FORMAT_COUNT] = {
		[KV_NB_NL_TWO_BS_NH_HS] = "NB_NL_TWO_BS_NH_HS",
		[KV_NL_X_TWO_NB_BS_NH_HS] = "NL_X_TWO_NB_BS_NH_HS",
		[KV_NL_X_NB_TWO_BS_NH_HS] = "NL_X_NB_TWO_BS_NH_HS",
		[KV_NL_X_NB_BS_HS] = "NL_X_NB_BS_HS",
		[KV_TWO_X_NL_X_NBBS_NH_HS] = "TWO_X_NL_X_NBBS_NH_HS",
		[KV_NL_X_NBBS_ONE_HS] = "NL_X_NBBS_ONE_HS",
		[KV_NL_X_TWO_NB_NH_BS_HS] = "NL_X_TWO_NB_NH_BS_HS",
		[KV_NL_X_NB_TWO_NH_BS_HS] = "NL_X_NB_TWO_NH_BS_HS",
		[KV_NB_NL_TWO_NH_BS_HS] = "NB_NL_TWO_NH_BS_HS",
		[KV_TWO_X_NL_X_NB_BS_NH_HS] = "TWO_X_NL_X_NB_BS_NH_HS",
		[KV_NL_X_NB_NH_BS_TWO_HS] = "NL_X_NB_NH_BS_TWO_HS",
	};
	return (unsigned)f < KV_FORMAT_COUNT ? name[f] : "unknown";
}

/* ---- engine groups --------------------------------------------------------------------------------------------------- */

static int assign_layers(const struct kv_layout_in *in, uint32_t g, uint32_t nlayers, uint32_t *engine_of,
			 struct why *why)
{
	const struct kv_engine_group *eg = &in->groups[g];
	for (uint32_t i = 0; i < eg->nlayers; i++) {
		uint32_t l = eg->layer_indices[i];
		if (l >= nlayers)
			return why_set(why, -EINVAL, "engine group %u names layer %u of %u", g, l, nlayers);
		if (engine_of[l] != NO_GROUP)
			return why_set(why, -EINVAL, "layer %u is in engine groups %u and %u", l, engine_of[l], g);
		engine_of[l] = g;
	}
	return 0;
}

static int map_engine_groups(struct build *b, uint32_t nlayers, struct why *why)
{
	const struct kv_layout_in *in = b->in;
	for (uint32_t l = 0; l < nlayers; l++)
		b->engine_of[l] = in->ngroups == 0 ? 0 : NO_GROUP;
	for (uint32_t g = 0; g < in->ngroups; g++) {
		int rc = assign_layers(in, g, nlayers, b->engine_of, why);
		if (rc < 0)
			return rc;
	}
	for (uint32_t l = 0; l < nlayers; l++) {
		if (b->engine_of[l] == NO_GROUP)
			return why_set(why, -EINVAL, "layer %u of %u is in no engine group", l, nlayers);
	}
	return 0;
}

static bool skips_null_blocks(const struct kv_layout_in *in, uint32_t g)
{
	return in->has_null_block && in->ngroups > 0 && in->groups[g].sw_size_tokens > 0;
}

static int recognise_layers(struct build *b, struct kv_layout *l, struct why *why)
{
	for (uint32_t i = 0; i < l->nlayers; i++) {
		uint32_t g = b->engine_of[i];
		uint32_t stated = b->in->ngroups > 0 ? b->in->groups[g].tokens_per_block : 0;
		struct layer_form *f = &b->form[i];
		int rc = kv_recognise(b->in, b->norm, b->arr, i, l->nlayers, stated, f, why);
		if (rc < 0)
			return rc;
		struct engine_group *eg = &l->engine[g];
		if (eg->num_blocks != 0 && eg->block_size != f->block_size)
			return why_set(why, -EINVAL,
				       "layer %u has blocks of %u tokens, other layers of engine group %u have %u", i,
				       f->block_size, g, eg->block_size);
		if (l->chunk_tokens % f->block_size != 0)
			return why_set(why, -EINVAL,
				       "layer %u: a chunk of %u tokens is not a whole number of blocks of %u", i,
				       l->chunk_tokens, f->block_size);
		if (eg->num_blocks == 0 || f->num_blocks < eg->num_blocks)
			eg->num_blocks = f->num_blocks;
		eg->block_size = f->block_size;
	}
	return 0;
}

/* ---- layer groups ---------------------------------------------------------------------------------------------------- */

static bool same_group(const struct kv_group_facts *g, const struct layer_form *f, uint32_t engine)
{
	return g->kv_size == f->kv_size && g->num_heads == f->num_heads && g->head_size == f->head_size &&
	       g->block_size == f->block_size && g->engine_group == engine && g->dtype == f->dtype &&
	       g->element_size == f->element_size;
}

static void start_group(struct kv_layout *l, const struct layer_form *f, uint32_t engine)
{
	l->groups[l->ngroups++].facts = (struct kv_group_facts){
		.format = f->format,
		.engine_group = engine,
		.kv_size = f->kv_size,
		.num_heads = f->num_heads,
		.head_size = f->head_size,
		.block_size = f->block_size,
		.element_size = f->element_size,
		.dtype = f->dtype,
		.num_blocks = f->num_blocks,
	};
}

static void group_layers(struct build *b, struct kv_layout *l)
{
	for (uint32_t i = 0; i < l->nlayers; i++) {
		const struct layer_form *f = &b->form[i];
		uint32_t g = 0;
		while (g < l->ngroups && !same_group(&l->groups[g].facts, f, b->engine_of[i]))
			g++;
		if (g == l->ngroups)
			start_group(l, f, b->engine_of[i]);
		struct kv_group_facts *facts = &l->groups[g].facts;
		facts->nlayers++;
		if (f->num_blocks < facts->num_blocks)
			facts->num_blocks = f->num_blocks;
		b->group_of[i] = g;
	}
}

static void list_layers(struct build *b, struct kv_layout *l)
{
	uint32_t *next = l->layers;
	for (uint32_t g = 0; g < l->ngroups; g++) {
		l->groups[g].facts.layers = next;
		for (uint32_t i = 0; i < l->nlayers; i++) {
			if (b->group_of[i] == g)
				*next++ = i;
		}
	}
}

/* Heads that adjoin in every layer of the group are copied as one row per token, tokens that adjoin as one block. */
static void choose_span(const struct build *b, struct layer_group *g)
{
	uint64_t head = (uint64_t)g->facts.head_size * g->facts.element_size;
	bool heads_adjoin = true, tokens_adjoin = true;
	g->token_bytes = head * g->facts.num_heads;
	for (uint32_t i = 0; i < g->facts.nlayers; i++) {
		const struct layer_form *f = &b->form[g->facts.layers[i]];
		heads_adjoin &= f->num_heads == 1 || f->head_stride == head;
		tokens_adjoin &= f->block_size == 1 || f->token_stride == g->token_bytes;
	}
	g->span = heads_adjoin && tokens_adjoin ? SPAN_BLOCK : SPAN_ROWS;
	g->rows = heads_adjoin ? 1 : g->facts.num_heads;
	g->row_bytes = heads_adjoin ? g->token_bytes : head;
}

static void place_planes(const struct build *b, struct layer_group *g, struct kv_plane *planes)
{
	g->planes = planes;
	for (uint32_t k = 0; k < g->facts.kv_size; k++) {
		for (uint32_t i = 0; i < g->facts.nlayers; i++) {
			const struct layer_form *f = &b->form[g->facts.layers[i]];
			*planes++ = (struct kv_plane){f->base[k], f->block_stride, f->token_stride, f->head_stride};
		}
	}
}

static int place_groups(const struct build *b, struct kv_layout *l, struct why *why)
{
	struct kv_plane *planes = l->planes;
	uint64_t at = 0;
	for (uint32_t i = 0; i < l->ngroups; i++) {
		struct layer_group *g = &l->groups[i];
		uint64_t bytes;
		choose_span(b, g);
		place_planes(b, g, planes);
		planes += g->facts.kv_size * g->facts.nlayers;
		g->null_blocks = skips_null_blocks(b->in, g->facts.engine_group);
		g->null_block = b->in->null_block;
		g->facts.object_offset = at;
		if (__builtin_mul_overflow(g->token_bytes, (uint64_t)l->chunk_tokens, &bytes) ||
		    __builtin_mul_overflow(bytes, (uint64_t)g->facts.kv_size * g->facts.nlayers, &bytes) ||
		    __builtin_add_overflow(at, bytes, &at))
			return why_set(why, -EINVAL, "an object of %u tokens is too large for this machine",
				       l->chunk_tokens);
	}
	l->object_bytes = at;
	return 0;
}

/* ---- creation -------------------------------------------------------------------------------------------------------- */

static int check_in(const struct kv_layout_in *in, struct why *why)
{
	if (in->ntensors == 0 || in->ntensors > KV_MAX_TENSORS)
		return why_set(why, -EINVAL, "%u tensors (1 to %d are understood)", in->ntensors, KV_MAX_TENSORS);
	if (in->ngroups > KV_MAX_ENGINE_GROUPS)
		return why_set(why, -EINVAL, "%u engine groups (at most %d)", in->ngroups, KV_MAX_ENGINE_GROUPS);
	if (in->chunk_tokens == 0)
		return why_set(why, -EINVAL, "a chunk of 0 tokens");
	return 0;
}

/* The tables whose size is known once the number of layers is. There are at most as many layer groups as layers. */
static int alloc_tables(struct build *b, struct kv_layout *l, struct why *why)
{
	l->nengine = b->in->ngroups > 0 ? b->in->ngroups : 1;
	l->engine = mem_calloc(l->nengine, sizeof *l->engine);
	l->groups = mem_calloc(l->nlayers, sizeof *l->groups);
	l->planes = mem_calloc(2u * l->nlayers, sizeof *l->planes);
	l->layers = mem_calloc(l->nlayers, sizeof *l->layers);
	l->tensors = mem_calloc(b->in->ntensors, sizeof *l->tensors);
	b->form = mem_calloc(l->nlayers, sizeof *b->form);
	b->engine_of = mem_calloc(l->nlayers, sizeof *b->engine_of);
	b->group_of = mem_calloc(l->nlayers, sizeof *b->group_of);
	if (!l->engine || !l->groups || !l->planes || !l->layers || !l->tensors || !b->form || !b->engine_of ||
	    !b->group_of)
		return why_set(why, -ENOMEM, "no memory for the layout of %u layers", l->nlayers);
	l->ntensors = b->in->ntensors;
	memcpy(l->tensors, b->in->tensors, l->ntensors * sizeof *l->tensors);
	return 0;
}

static void describe_engine_groups(const struct build *b, struct kv_layout *l)
{
	for (uint32_t g = 0; g < l->nengine; g++) {
		/* A group without layers (its state is not paged KV) still has a list of ids in every request. */
		if (l->engine[g].num_blocks == 0)
			l->engine[g].block_size = b->in->groups[g].tokens_per_block;
		l->engine[g].null_blocks = skips_null_blocks(b->in, g);
	}
}

static int normalise_all(struct build *b, struct why *why)
{
	b->norm = mem_calloc(b->in->ntensors, sizeof *b->norm);
	if (b->norm == NULL)
		return why_set(why, -ENOMEM, "no memory for %u tensors", b->in->ntensors);
	for (uint32_t i = 0; i < b->in->ntensors; i++) {
		int rc = kv_normalise(&b->in->tensors[i], i, &b->norm[i], why);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int build_layout(struct build *b, struct kv_layout *l, struct why *why)
{
	int rc = normalise_all(b, why);
	if (rc == 0)
		rc = kv_arrange(b->in, b->norm, &b->arr, &l->nlayers, why);
	if (rc == 0)
		rc = alloc_tables(b, l, why);
	if (rc == 0)
		rc = map_engine_groups(b, l->nlayers, why);
	if (rc == 0)
		rc = recognise_layers(b, l, why);
	if (rc < 0)
		return rc;
	group_layers(b, l);
	list_layers(b, l);
	describe_engine_groups(b, l);
	return place_groups(b, l, why);
}

int kv_layout_create(const struct kv_layout_in *in, struct kv_layout **out, struct why *why)
{
	int rc = check_in(in, why);
	if (rc < 0)
		return rc;
	struct kv_layout *l = mem_calloc(1, sizeof *l);
	if (l == NULL)
		return why_set(why, -ENOMEM, "no memory for a layout");
	l->chunk_tokens = in->chunk_tokens;
	l->null_block = in->null_block;
	l->ops = kv_stream_ops();
	struct build b = {.in = in};
	rc = build_layout(&b, l, why);
	mem_free(b.norm);
	mem_free(b.form);
	mem_free(b.engine_of);
	mem_free(b.group_of);
	if (rc < 0) {
		kv_layout_destroy(l);
		return rc;
	}
	*out = l;
	return 0;
}

void kv_layout_destroy(struct kv_layout *l)
{
	if (l == NULL)
		return;
	mem_free(l->engine);
	mem_free(l->groups);
	mem_free(l->planes);
	mem_free(l->layers);
	mem_free(l->tensors);
	mem_free(l);
}

/* ---- facts ----------------------------------------------------------------------------------------------------------- */

uint64_t kv_object_bytes(const struct kv_layout *l)
{
	return l->object_bytes;
}

uint32_t kv_layout_groups(const struct kv_layout *l)
{
	return l->ngroups;
}

void kv_layout_group(const struct kv_layout *l, uint32_t i, struct kv_group_facts *out)
{
	check(i < l->ngroups);
	*out = l->groups[i].facts;
}

uint32_t kv_layout_engine_groups(const struct kv_layout *l)
{
	return l->nengine;
}

uint32_t kv_layout_block_size(const struct kv_layout *l, uint32_t engine_group)
{
	check(engine_group < l->nengine);
	return l->engine[engine_group].block_size;
}

uint32_t kv_layout_num_layers(const struct kv_layout *l)
{
	return l->nlayers;
}

void kv_layout_group_copy(const struct kv_layout *l, uint32_t i, struct kv_group_copy *out)
{
	const struct layer_group *g = &l->groups[i];

	*out = (struct kv_group_copy){.planes = g->planes,
				      .nplanes = g->facts.kv_size * g->facts.nlayers,
				      .rows = g->rows,
				      .row_bytes = g->row_bytes,
				      .token_bytes = g->token_bytes,
				      .whole_blocks = g->span == SPAN_BLOCK,
				      .null_blocks = g->null_blocks,
				      .null_block = g->null_block};
}

uint32_t kv_layout_chunk_tokens(const struct kv_layout *l)
{
	return l->chunk_tokens;
}

const struct kv_tensor *kv_layout_tensor(const struct kv_layout *l, uint32_t i)
{
	check(i < l->ntensors);
	return &l->tensors[i];
}

/* ---- block ids ------------------------------------------------------------------------------------------------------- */

static int check_list(const struct kv_layout *l, uint32_t g, const struct kv_blocks *b, uint32_t nchunks,
		      struct why *why)
{
	const struct engine_group *eg = &l->engine[g];
	if (eg->num_blocks == 0)
		return 0;
	uint64_t want = (uint64_t)(l->chunk_tokens / eg->block_size) * nchunks;
	if (b->n != want)
		return why_set(why, -EINVAL, "engine group %u: %u block ids for %u chunks of %u tokens, expected %llu",
			       g, b->n, nchunks, l->chunk_tokens, (unsigned long long)want);
	for (uint32_t i = 0; i < b->n; i++) {
		if (b->ids[i] >= eg->num_blocks && !(eg->null_blocks && b->ids[i] == l->null_block))
			return why_set(why, -ERANGE, "engine group %u: block id %u at %u, there are %llu blocks", g,
				       b->ids[i], i, (unsigned long long)eg->num_blocks);
	}
	return 0;
}

int kv_blocks_check(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t ngroups, uint32_t nchunks,
		    struct why *why)
{
	if (ngroups != l->nengine)
		return why_set(why, -EINVAL, "block ids for %u engine groups, registered are %u", ngroups, l->nengine);
	for (uint32_t g = 0; g < ngroups; g++) {
		int rc = check_list(l, g, &blocks[g], nchunks, why);
		if (rc < 0)
			return rc;
	}
	return 0;
}
