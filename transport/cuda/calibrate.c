/* Which way is best for a shape of pages on this GPU: short timed copies of each, with the engine's own geometry, at the registration.
 *
 * Its pages are only read. What is written goes to scratch memory whose blocks look like the engine's, but lie closer together. Block
 * ids are scattered: the worst case for single copies, and what engines have after some hours. Each way is tried once; how often again,
 * CAL_NS says.
 */
#include "transport/cuda/copier.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>

#define CAL_NS       150000000u
#define CAL_BYTES    (32u << 20)  /* per timed copy, about */
#define CAL_OBJECT   (256u << 20) /* larger ones are not measured: pinned memory costs too much */
#define CAL_CHUNKS   8u
#define CAL_RUNS     3u
#define CAL_SLOW_NS  20000000u /* copies that take longer are timed once */
#define CAL_OPS      4096u     /* more single copies per chunk are out of the question */
#define FIRST_BLOCKS 16u
#define GOOD_ENOUGH  0.97 /* of the best, for a way that costs the engine less */

struct trial {
	struct engine_tables *t;
	struct track *track;
	uint64_t until;
	/* what is copied */
	struct layout_table table; /* of the pages: the engine's, or scratch */
	struct kv_plane *planes;   /* of scratch */
	CUdeviceptr pages, planes_device;
	uint64_t num_blocks;
	uint32_t nchunks;
	uint8_t *host; /* one object, pinned */
	uint8_t *slots[CAL_CHUNKS];
	struct kv_blocks blocks[KV_MAX_ENGINE_GROUPS];
	uint32_t *ids;
	struct job *job;
};

/* ---- shapes ---------------------------------------------------------------------------------------------------------------------- */

static uint64_t power_of_two(uint64_t n)
{
	uint64_t p = 1;

	while (p < n && p < UINT64_MAX / 2)
		p *= 2;
	return p;
}

/* Of the group that has most of the bytes. */
static struct shape_key key_of(const struct layout_table *t)
{
	const struct group_table *most = &t->group[0];

	for (uint32_t i = 1; i < t->ngroups; i++)
		if (t->group[i].plane_bytes * t->group[i].kv.nplanes > most->plane_bytes * most->kv.nplanes)
			most = &t->group[i];
	return (struct shape_key){
		.run_bytes = power_of_two(most->kv.whole_blocks ? most->block_bytes : most->kv.row_bytes),
		.object_bytes = power_of_two(t->object_bytes),
		.word = most->word,
		.whole = most->kv.whole_blocks,
	};
}

static struct shape *find(struct copier *c, const struct shape_key *k)
{
	for (uint32_t i = 0; i < c->nshapes; i++) {
		const struct shape_key *o = &c->shape[i].key;

		if (o->run_bytes == k->run_bytes && o->object_bytes == k->object_bytes && o->word == k->word &&
		    o->whole == k->whole)
			return &c->shape[i];
	}
	return NULL;
}

/* ---- scratch pages ------------------------------------------------------------------------------------------------------------------ */

static uint64_t span_of(const struct group_table *g, const struct kv_plane *p)
{
	return (g->block_tokens - 1) * p->token_stride + (g->kv.rows - 1) * p->head_stride + g->kv.row_bytes;
}

/* Where blocks adjoin they do so in scratch, too. */
static uint64_t scratch_stride(const struct group_table *g, const struct kv_plane *p)
{
	uint64_t span = span_of(g, p);

	return p->block_stride == g->block_bytes ? span : (span + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
}

static uint64_t scratch_bytes(const struct layout_table *t, uint64_t *nplanes)
{
	uint64_t bytes = 0;

	*nplanes = 0;
	for (uint32_t i = 0; i < t->ngroups; i++) {
		const struct group_table *g = &t->group[i];

		for (uint32_t p = 0; p < g->kv.nplanes; p++)
			bytes += g->blocks * scratch_stride(g, &g->kv.planes[p]) + STAGING_ALIGN;
		*nplanes += g->kv.nplanes;
	}
	return bytes;
}

static void place_scratch(struct trial *x)
{
	struct kv_plane *out = x->planes;
	uint64_t at = x->pages;

	for (uint32_t i = 0; i < x->table.ngroups; i++) {
		struct group_table *g = &x->table.group[i];
		const struct kv_plane *from = g->kv.planes;

		g->kv.planes = out;
		g->kv.null_blocks = false;
		for (uint32_t p = 0; p < g->kv.nplanes; p++) {
			uint64_t stride = scratch_stride(g, &from[p]);

			*out++ = (struct kv_plane){(uint8_t *)(uintptr_t)at, stride, from[p].token_stride,
						   from[p].head_stride};
			at += (g->blocks * stride + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
		}
	}
}

static int make_scratch(struct trial *x)
{
	struct copier *c = x->t->copier;
	uint64_t nplanes, bytes = scratch_bytes(&x->table, &nplanes);
	CUresult rc;

	x->planes = mem_calloc(nplanes, sizeof(*x->planes));
	if (!x->planes)
		return -ENOMEM;
	rc = c->cu->cuMemAlloc(&x->pages, bytes);
	if (rc) {
		x->pages = 0;
		return gpu_result(c->gpu, rc);
	}
	place_scratch(x);
	return x->table.staged ? table_upload(c, &x->table, x->track->kernel, &x->planes_device) : 0;
}

/* ---- what is copied ------------------------------------------------------------------------------------------------------------------ */

static int make_ids(struct trial *x)
{
	const struct layout_table *t = &x->table;
	uint64_t n = 0;
	uint32_t *out;

	for (uint32_t g = 0; g < t->nengine; g++)
		n += (uint64_t)t->blocks[g] * x->nchunks;
	x->ids = out = mem_calloc(n, sizeof(*x->ids));
	if (!out)
		return -ENOMEM;
	for (uint32_t g = 0; g < t->nengine; g++) {
		uint32_t count = t->blocks[g] * x->nchunks;
		uint64_t there = x->planes ? t->blocks[g] : x->num_blocks;

		x->blocks[g] = (struct kv_blocks){.ids = out, .n = count};
		for (uint32_t i = 0; i < count; i++)
			*out++ = (uint32_t)((i * 7919ull + i / there) % there);
	}
	return 0;
}

static uint64_t fewest_blocks(const struct kv_layout *l)
{
	uint64_t fewest = UINT64_MAX;

	for (uint32_t i = 0; i < kv_layout_groups(l); i++) {
		struct kv_group_facts f;

		kv_layout_group(l, i, &f);
		if (f.num_blocks < fewest)
			fewest = f.num_blocks;
	}
	return fewest;
}

static int prepare(struct trial *x, struct engine_tables *t, uint32_t dir)
{
	struct copier *c = t->copier;
	void *host = NULL;
	CUresult err;
	int rc;

	x->t = t;
	x->track = &t->track[dir];
	rc = table_make(&x->table, t->engine->layout);
	if (rc)
		return rc;
	x->table.staged = t->table.staged;
	for (uint32_t i = 0; i < t->table.ngroups; i++)
		x->table.group[i].planes = t->table.group[i].planes;
	x->num_blocks = fewest_blocks(t->engine->layout);
	x->nchunks = (uint32_t)(CAL_BYTES / t->table.object_bytes);
	x->nchunks = x->nchunks < 1 ? 1 : x->nchunks > CAL_CHUNKS ? CAL_CHUNKS : x->nchunks;
	err = c->cu->cuMemAllocHost(&host, t->table.object_bytes);
	if (err)
		return gpu_result(c->gpu, err);
	x->host = host;
	for (uint32_t i = 0; i < x->nchunks; i++)
		x->slots[i] = x->host;
	rc = dir == TO_PAGES ? make_scratch(x) : 0;
	if (!rc)
		rc = make_ids(x);
	if (!rc)
		x->job = job_take(t);
	return rc ? rc : x->job ? 0 : -ENOMEM;
}

static void clear(struct trial *x)
{
	const struct cuda_driver *cu = x->t->copier->cu;

	if (x->job)
		job_leave(x->job);
	if (x->host)
		cu->cuMemFreeHost(x->host);
	if (x->pages)
		cu->cuMemFree(x->pages);
	if (x->planes_device)
		cu->cuMemFree(x->planes_device);
	mem_free(x->planes);
	mem_free(x->ids);
	table_free(&x->table);
}

/* ---- timing ------------------------------------------------------------------------------------------------------------------------ */

/* Nanoseconds of one copy, or an error. */
static int64_t once(struct trial *x)
{
	struct gpu_copy c = {.engine = x->t->engine,
			     .store = x->track->dir == TO_SLOTS,
			     .nchunks = x->nchunks,
			     .blocks = x->blocks,
			     .ngroups = x->table.nengine,
			     .slots = x->slots};
	uint64_t from = clock_ns();
	int rc;

	x->job->copy = NULL;
	rc = job_fill(x->job, &x->table, &c);
	if (rc)
		return rc;
	track_add(x->track, x->job);
	track_wait(x->track);
	return x->job->rc ? x->job->rc : (int64_t)(clock_ns() - from);
}

/* GB/s; 0: not measured. */
static double speed(struct trial *x, enum gpu_path path, uint32_t blocks)
{
	int64_t best = 0;

	x->track->path = path;
	x->track->blocks = blocks;
	for (uint32_t i = 0; i <= CAL_RUNS; i++) {
		int64_t ns;

		if (i > 0 && clock_ns() > x->until)
			break;
		ns = once(x);
		if (ns < 0)
			return 0;
		/* The first one warms up, but counts where there is no other. */
		if (i <= 1 || ns < best)
			best = ns;
		if (ns >= CAL_SLOW_NS)
			break;
	}
	return best ? (double)(x->nchunks * x->table.object_bytes) / (double)best : 0;
}

static uint64_t copies_per_chunk(struct trial *x, bool flat)
{
	struct copier *c = x->t->copier;
	const uint32_t *ids[KV_MAX_ENGINE_GROUPS];
	struct plan p = {.t = &x->table, .ids = ids, .slots = x->slots, .flat = flat, .end = 1};
	uint64_t n = 0;

	for (uint32_t g = 0; g < x->table.nengine; g++)
		ids[g] = x->blocks[g].ids;
	while (!plan_over(&p) && n <= 4 * CAL_OPS)
		n += plan_next(&p, c->batch_op, BATCH_MAX);
	return n;
}

/* What the link gives: the same bytes between pinned memory and one piece of the GPU's. */
static double limit(struct trial *x)
{
	struct copier *c = x->t->copier;
	struct track *l = x->track;
	uint64_t piece = l->slot_bytes < x->table.object_bytes ? l->slot_bytes : x->table.object_bytes, done = 0, from;
	CUresult rc = 0;

	if (!l->slot[0])
		return 0;
	from = clock_ns();
	for (; !rc && done < CAL_BYTES && (done == 0 || clock_ns() < x->until); done += piece)
		rc = l->dir == TO_SLOTS ? c->cu->cuMemcpyDtoHAsync(x->host, l->slot[0], piece, l->copy)
					: c->cu->cuMemcpyHtoDAsync(l->slot[0], x->host, piece, l->copy);
	if (c->cu->cuStreamSynchronize(l->copy) || rc)
		return 0;
	return done ? (double)done / (double)(clock_ns() - from) : 0;
}

/* The fewest thread blocks that are good enough, around those tried first. */
static int fewer_blocks(struct trial *x, struct measured *m)
{
	static const uint32_t fewer[] = {8, 4, 2};
	double first = m->gbps[GPU_STAGED], s;
	uint32_t i;

	if (clock_ns() > x->until)
		return x->track->broken;
	for (i = 0; i < sizeof(fewer) / sizeof(fewer[0]); i++) {
		s = speed(x, GPU_STAGED, fewer[i]);
		if (s < GOOD_ENOUGH * first)
			break;
		m->blocks = fewer[i];
		m->gbps[GPU_STAGED] = s;
		first = s > first ? s : first;
	}
	if (i == 0) {
		s = speed(x, GPU_STAGED, 2 * FIRST_BLOCKS);
		if (s * GOOD_ENOUGH > first) {
			m->blocks = 2 * FIRST_BLOCKS;
			m->gbps[GPU_STAGED] = s;
		}
	}
	return x->track->broken;
}

/* The cheapest for the engine first: single copies need no multiprocessor and no staging, batched ones no more than that. */
static void choose(struct measured *m)
{
	double best = 0;

	for (uint32_t p = GPU_DIRECT; p < GPU_PATHS; p++)
		best = m->gbps[p] > best ? m->gbps[p] : best;
	for (uint32_t p = GPU_DIRECT; best > 0 && p < GPU_PATHS; p++) {
		if (m->gbps[p] >= GOOD_ENOUGH * best) {
			m->path = p;
			return;
		}
	}
}

static int measure(struct trial *x, struct measured *m)
{
	struct copier *c = x->t->copier;
	uint32_t forced = c->gpu->door->conf.blocks;

	if (track_staging(x->track) == 0) {
		m->blocks = forced ? forced : FIRST_BLOCKS;
		m->gbps[GPU_STAGED] = speed(x, GPU_STAGED, m->blocks);
		m->limit_gbps = limit(x);
	}
	if (copies_per_chunk(x, false) <= CAL_OPS)
		m->gbps[GPU_DIRECT] = speed(x, GPU_DIRECT, 0);
	if (c->batch && copies_per_chunk(x, true) <= 4 * CAL_OPS) {
		m->gbps[GPU_BATCH] = speed(x, GPU_BATCH, 0);
		if (!c->batch)
			m->gbps[GPU_BATCH] = 0;
	}
	choose(m);
	if (m->path == GPU_STAGED && !forced)
		return fewer_blocks(x, m);
	return x->track->broken;
}

/* ---- the choice ------------------------------------------------------------------------------------------------------------------------ */

/* Where nothing is measured: single copies of large runs, else the kernels. */
static void by_rule(const struct copier *c, const struct layout_table *t, struct measured *m)
{
	const struct gpu_conf *conf = &c->gpu->door->conf;
	struct shape_key k = key_of(t);

	m->path = conf->path ? conf->path : k.run_bytes >= DIRECT_ENOUGH || !t->staged ? GPU_DIRECT : GPU_STAGED;
	m->blocks = conf->blocks ? conf->blocks : COPY_BLOCKS;
}

static int measure_all(struct engine_tables *t, struct shape *s)
{
	uint64_t from = clock_ns();

	for (uint32_t d = 0; d < DIRECTIONS; d++) {
		struct trial x = {.until = from + (d + 1) * (CAL_NS / DIRECTIONS)};
		int rc = prepare(&x, t, d);

		if (!rc)
			rc = measure(&x, &s->of[d]);
		clear(&x);
		if (t->track[d].broken || rc == -ENODEV)
			return rc;
	}
	s->calibrated = true;
	return 0;
}

static void tell(const struct copier *c, const struct shape *s)
{
	static const char *const name[GPU_PATHS] = {"", "single copies", "batched copies", "kernel and staging"};

	log_info("GPU %u: pages of %llu bytes in a row: store by %s, retrieve by %s%s", c->gpu->index,
		 (unsigned long long)s->key.run_bytes, name[s->of[TO_SLOTS].path], name[s->of[TO_PAGES].path],
		 s->calibrated ? " (measured)" : "");
}

static int shape_of(struct engine_tables *t, struct shape *out)
{
	struct copier *c = t->copier;
	struct shape *known, s = {.key = key_of(&t->table)};
	int rc = 0;

	known = find(c, &s.key);
	if (known) {
		*out = *known;
		return 0;
	}
	for (uint32_t d = 0; d < DIRECTIONS; d++)
		by_rule(c, &t->table, &s.of[d]);
	if (c->gpu->door->conf.path == GPU_AUTO && t->table.object_bytes <= CAL_OBJECT)
		rc = measure_all(t, &s);
	if (rc)
		return rc;
	lk_lock(&c->lk);
	c->shape[c->nshapes < SHAPES ? c->nshapes++ : SHAPES - 1] = s;
	lk_unlock(&c->lk);
	tell(c, &s);
	*out = s;
	return 0;
}

/* Batched copies were refused meanwhile: the next best way, between two copies. */
void track_without_batch(struct track *l)
{
	bool large = key_of(&l->tables->table).run_bytes >= DIRECT_ENOUGH;

	l->path = !large && track_staging(l) == 0 ? GPU_STAGED : GPU_DIRECT;
}

/* What was found may not be there for this engine: no memory for staging, batched copies that failed since. */
static void settle(struct track *l, const struct measured *m)
{
	struct copier *c = l->tables->copier;

	l->path = m->path;
	l->blocks = m->blocks;
	if (l->path == GPU_BATCH && !c->batch)
		track_without_batch(l);
	if (l->path != GPU_STAGED) {
		track_no_staging(l);
		return;
	}
	if (track_staging(l)) {
		if (l->tables->table.staged)
			log_warn("GPU %u: no memory for staging; an engine's pages are copied one by one",
				 c->gpu->index);
		l->path = GPU_DIRECT;
	}
}

int calibrate(struct engine_tables *t, struct why *why)
{
	struct copier *c = t->copier;
	struct shape s;
	int rc = shape_of(t, &s);

	if (rc)
		return why_set(why, rc, "GPU %u: copies fail", c->gpu->index);
	for (uint32_t d = 0; d < DIRECTIONS; d++)
		settle(&t->track[d], &s.of[d]);
	return atomic_load(&c->gpu->lost) ? why_set(why, -ENODEV, "the CUDA context of GPU %u broke", c->gpu->index)
					  : 0;
}
