/* The three ways bytes take, one step at a time. Order on the GPU comes from streams and events alone; nothing here waits.
 *
 *   staged, store:     kernel stream: wait for the slot, gather | copy stream: slot to host
 *   staged, retrieve:  copy stream: wait for the slot, host to slot | kernel stream: scatter
 *   direct, batch:     copy stream alone
 */
#include "transport/cuda/copy_int.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <string.h>

static CUstream last_stream(const struct track *l)
{
	return l->path == GPU_STAGED && l->dir == TO_PAGES ? l->kernel : l->copy;
}

static void count(struct track *l, enum gpu_path path, uint64_t bytes, bool unregistered)
{
	struct gpu *g = l->tables->copier->gpu;

	atomic_fetch_add(&g->n.path_bytes[path], bytes);
	if (unregistered)
		atomic_fetch_add(&g->n.unregistered_bytes, bytes);
}

/* ---- the beginning ------------------------------------------------------------------------------------------------------------- */

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
static int ids_take(struct track *l, struct job *j)
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

static int ids_upload(struct track *l, struct job *j)
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

static int begin(struct track *l, struct job *j)
{
	bool staged = l->path == GPU_STAGED;
	int rc = 1;

	j->plan.flat = l->path == GPU_BATCH && l->tables->copier->batch;
	if (staged)
		rc = ids_take(l, j);
	if (rc <= 0)
		return rc;
	rc = staged ? ids_upload(l, j) : 0;
	j->begun = !rc;
	return rc ? rc : 1;
}

/* ---- the end ------------------------------------------------------------------------------------------------------------------- */

/* Behind the last step: the client's event, then ours. */
static int finish_step(struct track *l, struct job *j, bool last, struct step step)
{
	int rc = 0;

	if (last && j->copy) {
		uint32_t like = j->event_bytes == GPU_TIMELINE ? GPU_TIMELINE : GPU_EVENT;

		j->open = true;
		rc = events_record(l->tables->engine->events, last_stream(l), like, j->event, &j->handle_bytes);
	}
	step.ends = last ? j : NULL;
	if (!rc)
		rc = track_step(l, last_stream(l), step);
	if (rc)
		return rc;
	if (step.bounce)
		j->bounce = false;
	j->queued = last;
	return 1;
}

/* ---- memory that is not registered yet ------------------------------------------------------------------------------------------ */

static bool covered(const struct track *l, const struct job *j, uint32_t chunk)
{
	const struct pinned *p = l->tables->copier->gpu->door->pinned;
	const uint8_t *at = j->slots[chunk];
	uint64_t left = j->t->object_bytes, run;

	if (!j->copy)
		return true;
	while (left) {
		run = pinned_run(p, at);
		if (run == 0)
			return false;
		if (run >= left)
			return true;
		at += run;
		left -= run;
	}
	return true;
}

/* How much of [host, host + n) one copy may touch: it must not reach from one registered slice into the next. */
static uint64_t piece_of(const struct track *l, const struct job *j, const void *host, uint64_t n)
{
	uint64_t run = j->copy ? pinned_run(l->tables->copier->gpu->door->pinned, host) : 0;

	return run && run < n ? run : n;
}

static CUresult copy_run(struct track *l, const struct job *j, CUdeviceptr device, uint8_t *host, uint64_t n)
{
	struct copier *c = l->tables->copier;
	CUresult rc = 0;

	for (uint64_t at = 0, piece; !rc && at < n; at += piece) {
		piece = piece_of(l, j, host + at, n - at);
		if (l->dir == TO_SLOTS)
			rc = c->cu->cuMemcpyDtoHAsync(host + at, device + at, piece, l->copy);
		else
			rc = c->cu->cuMemcpyHtoDAsync(device + at, host + at, piece, l->copy);
	}
	return rc;
}

/* 1: the bounce buffer is the job's. 0: it is in use. Without one the driver stages by itself, and this thread may wait for it. */
static int bounce_take(struct track *l, struct job *j, bool *mine)
{
	*mine = false;
	if (l->bounce_busy)
		return 0;
	if (!l->bounce && !l->bounce_refused && track_bounce(l))
		l->bounce_refused = true;
	if (!l->bounce)
		return 1;
	l->bounce_busy = j->bounce = *mine = true;
	return 1;
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
		if (!covered(l, j, j->plan.chunk + x->n))
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
		rc = copy_run(l, j, slot + i * x->stride, host, n * x->bytes);
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

static int staged_step(struct track *l, struct job *j)
{
	struct extent x = {.covered = covered(l, j, j->plan.chunk)};
	uint8_t *slot = j->slots[j->plan.chunk];
	int rc;

	if (j->t->stride <= l->slot_bytes)
		extent_chunks(l, j, &x);
	else
		extent_planes(l, j, &x);
	if (!track_room(l, x.parts + x.n + 6))
		return 0;
	if (!x.covered && bounce_take(l, j, &x.bounced) == 0)
		return 0;
	if (x.bounced && l->dir == TO_PAGES)
		kv_copy(l->bounce, slot + x.start, x.bytes);
	rc = staged_queue(l, j, &x);
	if (rc)
		return rc;
	rc = finish_step(l, j, x.last,
			 (struct step){.cost = x.parts + x.n + 6,
				       .bounce = x.bounced,
				       .to = x.bounced && l->dir == TO_SLOTS ? slot + x.start : NULL,
				       .bytes = x.bytes});
	if (rc < 0)
		return rc;
	count(l, GPU_STAGED, x.n * x.bytes, !x.covered);
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

/* ---- direct and batch ---------------------------------------------------------------------------------------------------------- */

/* The plan goes over chunks of one kind at a time: those in registered memory, or one of another. 0: must wait. */
static int window_open(struct track *l, struct job *j)
{
	struct plan *p = &j->plan;
	bool mine = false;

	if (j->window)
		return 1;
	p->instead = NULL;
	p->end = p->chunk;
	while (p->end < j->nchunks && covered(l, j, p->end))
		p->end++;
	if (p->end == p->chunk) {
		if (bounce_take(l, j, &mine) == 0)
			return 0;
		p->end = p->chunk + 1;
		j->stray = true;
	} else {
		j->stray = false;
	}
	if (mine) {
		p->instead = l->bounce;
		if (l->dir == TO_PAGES)
			kv_copy(l->bounce, j->slots[p->chunk], j->t->object_bytes);
	}
	j->window = true;
	return 1;
}

static CUresult copy_rows(struct track *l, const struct plan_op *op)
{
	struct copier *c = l->tables->copier;
	CUDA_MEMCPY2D m = {.WidthInBytes = op->bytes, .Height = op->rows};

	if (l->dir == TO_SLOTS) {
		m.srcMemoryType = CU_MEMORYTYPE_DEVICE;
		m.srcDevice = op->page;
		m.srcPitch = op->page_pitch;
		m.dstMemoryType = CU_MEMORYTYPE_HOST;
		m.dstHost = op->object;
		m.dstPitch = op->object_pitch;
	} else {
		m.srcMemoryType = CU_MEMORYTYPE_HOST;
		m.srcHost = op->object;
		m.srcPitch = op->object_pitch;
		m.dstMemoryType = CU_MEMORYTYPE_DEVICE;
		m.dstDevice = op->page;
		m.dstPitch = op->page_pitch;
	}
	return c->cu->cuMemcpy2DAsync(&m, l->copy);
}

static uint64_t host_span(const struct plan_op *op)
{
	return (op->rows - 1) * op->object_pitch + op->bytes;
}

static CUresult copy_one(struct track *l, const struct job *j, const struct plan_op *op)
{
	CUresult rc = 0;

	if (op->rows > 1 && piece_of(l, j, op->object, host_span(op)) == host_span(op))
		return copy_rows(l, op);
	for (uint32_t i = 0; !rc && i < op->rows; i++)
		rc = copy_run(l, j, op->page + i * op->page_pitch, op->object + i * op->object_pitch, op->bytes);
	return rc;
}

/* Blocks that hold nothing: their part of the object is written here, no copy under way comes near it. The rest moves to the front. */
static uint32_t drop_zeros(struct plan_op *ops, uint32_t n)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (ops[i].rows == 0)
			memset(ops[i].object, 0, ops[i].bytes);
		else
			ops[kept++] = ops[i];
	}
	return kept;
}

static int one_by_one(struct track *l, struct job *j, const struct plan_op *ops, uint32_t n)
{
	struct copier *c = l->tables->copier;
	CUresult rc = 0;

	j->open |= n > 0;
	for (uint32_t i = 0; !rc && i < n; i++)
		rc = copy_one(l, j, &ops[i]);
	return gpu_result(c->gpu, rc);
}

static void batch_off(struct copier *c, CUresult rc)
{
	bool was;

	lk_lock(&c->lk);
	was = c->batch;
	c->batch = false;
	lk_unlock(&c->lk);
	if (was)
		log_warn("GPU %u: the driver refuses batched copies (%s); single copies are used instead",
			 c->gpu->index, cuda_error(c->cu, rc));
}

static int at_once(struct track *l, struct job *j, const struct plan_op *ops, uint32_t n)
{
	struct copier *c = l->tables->copier;
	CUmemcpyAttributes attr = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
	size_t attr_at = 0, failed = 0, count = 0;
	CUresult rc = 0;

	j->open |= n > 0;
	for (uint32_t i = 0; !rc && i < n; i++) {
		CUdeviceptr host = (CUdeviceptr)(uintptr_t)ops[i].object;

		if (piece_of(l, j, ops[i].object, ops[i].bytes) < ops[i].bytes) {
			rc = copy_one(l, j, &ops[i]);
			continue;
		}
		c->batch_dst[count] = l->dir == TO_SLOTS ? host : ops[i].page;
		c->batch_src[count] = l->dir == TO_SLOTS ? ops[i].page : host;
		c->batch_bytes[count++] = ops[i].bytes;
	}
	if (rc || count == 0)
		return gpu_result(c->gpu, rc);
	rc = c->cu->cuMemcpyBatchAsync(c->batch_dst, c->batch_src, c->batch_bytes, count, &attr, &attr_at, 1, &failed,
				       l->copy);
	if (!rc)
		return 0;
	if (cuda_sticky(rc))
		return gpu_result(c->gpu, rc);
	/* What of it was copied all the same is copied again: the same bytes to the same place. */
	batch_off(c, rc);
	return one_by_one(l, j, ops, n);
}

static int planned_step(struct track *l, struct job *j)
{
	struct copier *c = l->tables->copier;
	bool batch = l->path == GPU_BATCH && c->batch, closes, last;
	struct plan_op *ops = batch ? c->batch_op : c->op;
	uint32_t cap = batch ? BATCH_MAX : DIRECT_STEP, cost = batch ? BATCH_COST : DIRECT_STEP, n;
	uint64_t bytes = 0;
	uint32_t chunk;
	int rc;

	if (!track_room(l, cost + 3) || window_open(l, j) == 0)
		return 0;
	chunk = j->plan.end - 1;
	n = drop_zeros(ops, plan_next(&j->plan, ops, cap));
	for (uint32_t i = 0; i < n; i++)
		bytes += ops[i].bytes * ops[i].rows;
	rc = batch ? at_once(l, j, ops, n) : one_by_one(l, j, ops, n);
	if (rc)
		return rc;
	closes = plan_over(&j->plan);
	last = closes && j->plan.end == j->nchunks;
	j->window = !closes;
	rc = finish_step(l, j, last,
			 (struct step){.cost = (batch ? BATCH_COST : n) + 3,
				       .bounce = closes && j->bounce,
				       .to = j->plan.instead && l->dir == TO_SLOTS ? j->slots[chunk] : NULL,
				       .bytes = j->t->object_bytes});
	if (rc < 0)
		return rc;
	count(l, batch ? GPU_BATCH : GPU_DIRECT, bytes, j->stray);
	return 1;
}

int path_step(struct track *l, struct job *j)
{
	if (!track_room(l, 4))
		return 0;
	if (!j->begun) {
		int rc = begin(l, j);

		if (rc <= 0)
			return rc;
	}
	if (j->nchunks == 0)
		return finish_step(l, j, true, (struct step){.cost = 2});
	return l->path == GPU_STAGED ? staged_step(l, j) : planned_step(l, j);
}
