/* The staged way: a kernel between pages and a staging slot on the GPU, one large copy between that and the host.
 *
 *   store:     kernel stream: wait for the slot, gather | copy stream: slot to host
 *   retrieve:  copy stream: wait for the slot, host to slot | kernel stream: scatter
 *
 * With two slots the kernel of one step and the copy of another run at the same time.
 */
#include "transport/cuda/copier.h"

#include <errno.h>
#include <string.h>

/* ---- block ids ------------------------------------------------------------------------------------------------------------- */

/* Room for n ids in one piece; *span: what is given back later. UINT32_MAX: not now. */
static uint32_t ids_room(const struct track *l, uint32_t n, uint32_t *span)
{
	uint64_t at = (uint64_t)l->ids_begin + l->ids_used;

	*span = n;
	if (at < l->ids_cap && at + n <= l->ids_cap)
		return (uint32_t)at;
	if (at < l->ids_cap) {
		*span = n + (uint32_t)(l->ids_cap - at);
		at = l->ids_cap;
	}
	return (uint64_t)l->ids_used + *span <= l->ids_cap ? (uint32_t)(at - l->ids_cap) : UINT32_MAX;
}

static int ids_grow(struct track *l, uint32_t n)
{
	struct copier *c = l->tables->copier;
	uint64_t cap = l->ids_cap ? l->ids_cap : IDS_RING;
	CUdeviceptr device = 0;
	void *host = NULL;
	CUresult rc;

	while (cap < n)
		cap *= 2;
	rc = c->cu->cuMemAllocHost(&host, cap * sizeof(*l->ids));
	if (!rc)
		rc = c->cu->cuMemAlloc(&device, cap * sizeof(*l->ids));
	if (rc) {
		if (host)
			c->cu->cuMemFreeHost(host);
		return gpu_result(c->gpu, rc);
	}
	if (l->ids) {
		c->cu->cuMemFreeHost(l->ids);
		c->cu->cuMemFree(l->ids_device);
	}
	l->ids = host;
	l->ids_device = device;
	l->ids_cap = (uint32_t)cap;
	l->ids_begin = 0;
	return 0;
}

/* 1 there, 0 not now. */
int staged_ids_take(struct track *l, struct job *j)
{
	uint32_t at, span;

	if (j->nids == 0)
		return 1;
	if (l->ids_used == 0)
		l->ids_begin = 0;
	if (j->nids > l->ids_cap) {
		int rc = l->ids_used ? 0 : ids_grow(l, j->nids);

		if (rc || l->ids_used)
			return rc;
	}
	at = ids_room(l, j->nids, &span);
	if (at == UINT32_MAX)
		return 0;
	j->ids_at = at;
	j->ids_span = span;
	l->ids_used += span;
	memcpy(l->ids + at, j->ids, j->nids * sizeof(*l->ids));
	return 1;
}

int ids_upload(struct track *l, struct job *j)
{
	struct copier *c = l->tables->copier;
	CUresult rc;

	if (j->nids == 0)
		return 0;
	j->open = true;
	rc = c->cu->cuMemcpyHtoDAsync(l->ids_device + j->ids_at * sizeof(*l->ids), l->ids + j->ids_at,
				      j->nids * sizeof(*l->ids), l->kernel);
	return gpu_result(c->gpu, rc);
}

/* ---- staged -------------------------------------------------------------------------------------------------------------------- */

/* What one staging slot takes: n whole chunks, or planes of one chunk from (group, plane) up to (group_end, plane_end). */
struct extent {
	uint32_t n, group, plane, group_end, plane_end;
	uint64_t start, bytes; /* in the object, of each chunk */
	uint64_t stride;
	bool covered, bounced, last;
	uint32_t parts;
};

static void extent_chunks(const struct track *l, const struct job *j, struct extent *x)
{
	const struct layout_table *t = j->t;
	uint64_t fit = l->slot_bytes / t->stride;

	x->stride = t->stride;
	x->bytes = t->object_bytes;
	x->group_end = t->ngroups;
	x->parts = t->ngroups;
	for (x->n = 1; x->covered && x->n < fit && j->plan.chunk + x->n < j->nchunks; x->n++)
		if (!path_covered(l, j, j->plan.chunk + x->n))
			break;
	x->last = j->plan.chunk + x->n == j->nchunks;
}

static void extent_planes(const struct track *l, const struct job *j, struct extent *x)
{
	const struct layout_table *t = j->t;
	uint32_t g = j->plan.group, p = j->plan.plane;

	x->n = 1;
	x->group = g;
	x->plane = p;
	x->start = t->group[g].object_offset + p * t->group[g].plane_bytes;
	while (g < t->ngroups) {
		const struct group_table *group = &t->group[g];
		uint64_t fit = (l->slot_bytes - x->bytes) / group->plane_bytes;
		uint32_t n = group->kv.nplanes - p;

		n = n < fit ? n : (uint32_t)fit;
		x->parts += n > 0;
		x->bytes += n * group->plane_bytes;
		p += n;
		if (p < group->kv.nplanes)
			break;
		p = 0;
		g++;
	}
	x->group_end = g;
	x->plane_end = p;
	x->last = g == t->ngroups && j->plan.chunk + 1 == j->nchunks;
}

static int launch(struct track *l, const struct job *j, const struct extent *x, uint32_t g, uint32_t p0, uint32_t p1)
{
	struct copier *c = l->tables->copier;
	const struct group_table *t = &j->t->group[g];
	uint64_t into = t->object_offset + p0 * t->plane_bytes - x->start;
	uint64_t ids = (uint64_t)(j->group_ids[t->engine_group] - j->ids) + (uint64_t)j->plan.chunk * t->blocks;
	struct kernel_args a = {
		.plane = t->planes + p0 * sizeof(struct kernel_plane),
		.ids = l->ids_device + (j->ids_at + ids) * sizeof(kabi_u32),
		.object = l->slot[l->next_slot] + into,
		.object_stride = x->stride,
		.row_bytes = t->kv.row_bytes,
		.rows = t->kv.rows,
		.planes = p1 - p0,
		.chunks = x->n,
		.chunk_tokens = j->t->chunk_tokens,
		.block_tokens = t->block_tokens,
		.skip_tokens = l->dir == TO_PAGES && j->plan.chunk == 0 ? j->plan.skip_tokens : 0,
		.null_block = t->kv.null_blocks ? t->kv.null_block : KERNEL_NO_NULL,
		.word = t->word,
	};
	void *args[] = {&a};
	uint64_t warps, blocks;

	while (into % a.word || x->stride % a.word)
		a.word /= 2;
	warps = (t->block_bytes / a.word + KERNEL_PIECE_WORDS - 1) / KERNEL_PIECE_WORDS * t->blocks * a.planes * x->n;
	blocks = (warps + KERNEL_THREADS / 32 - 1) / (KERNEL_THREADS / 32);
	if (blocks > l->blocks)
		blocks = l->blocks;
	return gpu_result(c->gpu, c->cu->cuLaunchKernel(l->dir == TO_PAGES ? c->kernels.scatter : c->kernels.gather,
							(unsigned)blocks, 1, 1, KERNEL_THREADS, 1, 1, 0, l->kernel,
							args, NULL));
}

static int launches(struct track *l, const struct job *j, const struct extent *x)
{
	int rc = 0;

	for (uint32_t g = x->group; !rc && g < j->t->ngroups && g <= x->group_end; g++) {
		uint32_t p0 = g == x->group ? x->plane : 0;
		uint32_t p1 = g == x->group_end ? x->plane_end : j->t->group[g].kv.nplanes;

		if (p1 > p0)
			rc = launch(l, j, x, g, p0, p1);
	}
	return rc;
}

/* Between a staging slot and the host. Chunks that are neighbours on both sides go at once. */
static int slot_copies(struct track *l, const struct job *j, const struct extent *x)
{
	struct copier *c = l->tables->copier;
	CUdeviceptr slot = l->slot[l->next_slot];
	CUresult rc = 0;

	for (uint32_t i = 0, n; !rc && i < x->n; i += n) {
		uint8_t *host = x->bounced ? l->bounce : j->slots[j->plan.chunk + i] + x->start;

		for (n = 1; i + n < x->n && x->stride == x->bytes; n++)
			if (j->slots[j->plan.chunk + i + n] != host + n * x->bytes)
				break;
		rc = path_run(l, j, slot + i * x->stride, host, n * x->bytes);
	}
	return gpu_result(c->gpu, rc);
}

/* `then` goes on where `first` has come to. */
static int hand_over(struct track *l, CUstream first, CUstream then)
{
	struct copier *c = l->tables->copier;
	CUevent full = l->full[l->next_slot];
	CUresult rc = c->cu->cuEventRecord(full, first);

	if (!rc)
		rc = c->cu->cuStreamWaitEvent(then, full, 0);
	return gpu_result(c->gpu, rc);
}

static int wait_for_slot(struct track *l, CUstream s)
{
	struct copier *c = l->tables->copier;
	uint64_t step = l->slot_step[l->next_slot];

	if (step <= l->nretired)
		return 0;
	return gpu_result(c->gpu, c->cu->cuStreamWaitEvent(s, l->event[(step - 1) % STEPS], 0));
}

static int staged_queue(struct track *l, struct job *j, const struct extent *x)
{
	CUstream first = l->dir == TO_SLOTS ? l->kernel : l->copy;
	CUstream then = l->dir == TO_SLOTS ? l->copy : l->kernel;
	int rc = wait_for_slot(l, first);

	j->open = true;
	if (!rc)
		rc = l->dir == TO_SLOTS ? launches(l, j, x) : slot_copies(l, j, x);
	if (!rc)
		rc = hand_over(l, first, then);
	if (!rc)
		rc = l->dir == TO_SLOTS ? slot_copies(l, j, x) : launches(l, j, x);
	return rc;
}

int staged_step(struct track *l, struct job *j)
{
	struct extent x = {.covered = path_covered(l, j, j->plan.chunk)};
	uint8_t *slot = j->slots[j->plan.chunk];
	int rc;

	if (j->t->stride <= l->slot_bytes)
		extent_chunks(l, j, &x);
	else
		extent_planes(l, j, &x);
	if (!track_room(l, x.parts + x.n + 6))
		return 0;
	if (!x.covered && path_bounce(l, j, &x.bounced) == 0)
		return 0;
	if (x.bounced && l->dir == TO_PAGES)
		kv_copy(l->bounce, slot + x.start, x.bytes);
	rc = staged_queue(l, j, &x);
	if (rc)
		return rc;
	rc = path_finish(l, j, x.last,
			 (struct step){.cost = x.parts + x.n + 6,
				       .bounce = x.bounced,
				       .to = x.bounced && l->dir == TO_SLOTS ? slot + x.start : NULL,
				       .bytes = x.bytes});
	if (rc < 0)
		return rc;
	path_count(l, GPU_STAGED, x.n * x.bytes, !x.covered);
	l->slot_step[l->next_slot] = l->nqueued;
	l->next_slot ^= 1;
	if (x.group_end == j->t->ngroups) {
		j->plan.chunk += x.n;
		j->plan.group = j->plan.plane = 0;
	} else {
		j->plan.group = x.group_end;
		j->plan.plane = x.plane_end;
	}
	return 1;
}
