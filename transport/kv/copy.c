#include "daemon/base/crc32c.h"
#include "transport/kv/kv_int.h"
#include "transport/kv/stream_int.h"

/* The first touch of a page walks the page tables, and for scattered blocks the walk itself misses the caches. Begun three
 * blocks early it is free: blocks of 8 KiB are gathered at 1.2 of a plain memcpy instead of 0.97. */
#define TOUCH_BLOCKS 3u
#define TOUCH_BYTES  65536u

/* One chunk, one layer group. The pages are `page`, the object's part of this group `object`. */
struct job {
	const struct stream_ops *ops;
	const struct layer_group *g;
	const uint32_t *ids; /* of this chunk */
	uint32_t first, nblocks;
	uint64_t block_bytes, plane_bytes; /* in the object */
	uint8_t *object;
	bool scatter;
	struct sums *sums; /* K's and V's, which take turns in rows; NULL: none wanted */
};

static struct job job_of(const struct kv_layout *l, const struct layer_group *g, const struct kv_blocks *blocks,
			 uint32_t j, const void *object)
{
	uint32_t n = l->chunk_tokens / g->facts.block_size;
	return (struct job){
		.ops = l->ops,
		.g = g,
		.ids = blocks[g->facts.engine_group].ids + (uint64_t)j * n,
		.nblocks = n,
		.block_bytes = g->token_bytes * g->facts.block_size,
		.plane_bytes = g->token_bytes * l->chunk_tokens,
		.object = (uint8_t *)object + g->facts.object_offset,
	};
}

static bool is_null(const struct layer_group *g, uint32_t id)
{
	return g->null_blocks && id == g->null_block;
}

/* How many blocks from `b` on lie one behind the other in the pages, too. */
static uint32_t run_length(const struct job *job, const struct kv_plane *p, uint32_t b)
{
	uint32_t n = 1;
	if (p->block_stride != job->block_bytes)
		return 1;
	while (b + n < job->nblocks && job->ids[b + n] == job->ids[b] + n && !is_null(job->g, job->ids[b + n]))
		n++;
	return n;
}

/* Where block `b` of plane `p` will be read from. What comes after the last block is the first one of the next plane, and
 * after the last plane the last block again: it is only ever prefetched, and then already in the cache. */
static const uint8_t *source(const struct job *job, uint64_t p, uint32_t b)
{
	const struct layer_group *g = job->g;
	if (b >= job->nblocks) {
		bool more = (p + 1) % g->facts.nlayers != 0;
		b = more ? b - job->nblocks + job->first : job->nblocks - 1;
		p += more;
		if (b >= job->nblocks)
			b = job->nblocks - 1;
	}
	if (job->scatter)
		return job->object + p * job->plane_bytes + b * job->block_bytes;
	return g->planes[p].base + job->ids[b] * g->planes[p].block_stride;
}

static void touch_pages(const uint8_t *at, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes && i < TOUCH_BYTES; i += PAGE)
		__builtin_prefetch(at + i, 0, 2);
}

static void zero_block(const struct job *job, uint32_t k, uint8_t *mine)
{
	if (job->scatter)
		return;
	memset(mine, 0, job->block_bytes);
	if (job->sums)
		kv_sums_skip(&job->sums[k], mine, job->block_bytes);
}

static void copy_plane(const struct job *job, uint64_t plane)
{
	const struct kv_plane *p = &job->g->planes[plane];
	uint8_t *object = job->object + plane * job->plane_bytes;
	for (uint32_t b = job->first, n; b < job->nblocks; b += n) {
		uint8_t *mine = object + b * job->block_bytes;
		uint8_t *page = p->base + job->ids[b] * p->block_stride;
		n = 1;
		if (is_null(job->g, job->ids[b])) {
			zero_block(job, 0, mine);
			continue;
		}
		n = run_length(job, p, b);
		touch_pages(source(job, plane, b + n - 1 + TOUCH_BLOCKS), job->block_bytes);
		if (job->sums)
			kv_sums_add(job->sums, mine, page, n * job->block_bytes, source(job, plane, b + n));
		else
			job->ops->copy(job->scatter ? page : mine, job->scatter ? mine : page, n * job->block_bytes,
				       source(job, plane, b + n));
	}
}

static void copy_rows(const struct job *job, uint64_t plane, uint32_t b)
{
	const struct layer_group *g = job->g;
	const struct kv_plane *p = &g->planes[plane];
	uint8_t *mine = job->object + plane * job->plane_bytes + b * job->block_bytes;
	uint8_t *page = p->base + job->ids[b] * p->block_stride;
	struct row_copy r = {.outer = g->facts.block_size, .inner = g->rows, .row = g->row_bytes};
	r.next = source(job, plane, b + 1);
	touch_pages(source(job, plane, b + TOUCH_BLOCKS), job->block_bytes);
	if (job->scatter) {
		r.dst = page;
		r.src = mine;
		r.dst_outer = p->token_stride;
		r.dst_inner = p->head_stride;
		r.src_outer = g->token_bytes;
		r.src_inner = g->row_bytes;
	} else {
		r.dst = mine;
		r.src = page;
		r.dst_outer = g->token_bytes;
		r.dst_inner = g->row_bytes;
		r.src_outer = p->token_stride;
		r.src_inner = p->head_stride;
	}
	if (job->sums)
		kv_sums_rows(&job->sums[plane / g->facts.nlayers], &r);
	else
		job->ops->rows(&r);
}

/* Block by block, K and V of one block together: in fused layouts they share cache lines and pages. */
static void copy_layer_rows(const struct job *job, uint32_t layer)
{
	const struct layer_group *g = job->g;
	for (uint32_t b = job->first; b < job->nblocks; b++) {
		for (uint32_t k = 0; k < g->facts.kv_size; k++) {
			uint64_t plane = (uint64_t)k * g->facts.nlayers + layer;
			if (!is_null(g, job->ids[b]))
				copy_rows(job, plane, b);
			else
				zero_block(job, k, job->object + plane * job->plane_bytes + b * job->block_bytes);
		}
	}
}

static void run_job(const struct job *job)
{
	const struct layer_group *g = job->g;
	if (g->span == SPAN_BLOCK) {
		for (uint64_t p = 0; p < (uint64_t)g->facts.kv_size * g->facts.nlayers; p++)
			copy_plane(job, p);
		return;
	}
	for (uint32_t l = 0; l < g->facts.nlayers; l++)
		copy_layer_rows(job, l);
}

void kv_gather(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, void *object)
{
	for (uint32_t i = 0; i < l->ngroups; i++) {
		struct job job = job_of(l, &l->groups[i], blocks, j, object);
		run_job(&job);
	}
	l->ops->fence();
}

void kv_gather_sums(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, void *object, uint32_t *sums)
{
	memset(sums, 0, crc_blocks(l->object_bytes) * sizeof *sums);
	for (uint32_t i = 0; i < l->ngroups; i++) {
		const struct layer_group *g = &l->groups[i];
		struct job job = job_of(l, g, blocks, j, object);
		struct sums part[2];
		uint32_t n = g->span == SPAN_BLOCK ? 1 : g->facts.kv_size;
		for (uint32_t k = 0; k < n; k++)
			kv_sums_begin(&part[k], object, l->object_bytes,
				      g->facts.object_offset + k * g->facts.nlayers * job.plane_bytes, sums);
		job.sums = part;
		run_job(&job);
		for (uint32_t k = 0; k < n; k++)
			kv_sums_end(&part[k]);
	}
	l->ops->fence();
}

void kv_scatter(const struct kv_layout *l, const struct kv_blocks *blocks, uint32_t j, uint32_t skip_tokens,
		const void *object)
{
	for (uint32_t i = 0; i < l->ngroups; i++) {
		struct job job = job_of(l, &l->groups[i], blocks, j, object);
		job.scatter = true;
		job.first = skip_tokens / l->groups[i].facts.block_size;
		run_job(&job);
	}
	l->ops->fence();
}

void kv_copy(void *dst, const void *src, size_t n)
{
	const struct stream_ops *ops = kv_stream_ops();
	ops->copy(dst, src, n, (const uint8_t *)src + n);
	ops->fence();
}

void kv_copy_sums(void *dst, const void *src, size_t n, uint32_t *sums)
{
	struct sums part;
	memset(sums, 0, crc_blocks(n) * sizeof *sums);
	kv_sums_begin(&part, dst, n, 0, sums);
	kv_sums_add(&part, dst, src, n, (const uint8_t *)src + n);
	kv_sums_end(&part);
	kv_stream_ops()->fence();
}

const char *kv_copy_name(void)
{
	return kv_stream_ops()->name;
}
