/* The ways bytes take, one step at a time: what they share, and the two that go from pages to the host at once, on the copy stream alone.
 * Order on the GPU comes from streams and events; nothing here waits.
 */
#include "transport/cuda/copier.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <string.h>

static CUstream last_stream(const struct track *l)
{
	return l->path == GPU_STAGED && l->dir == TO_PAGES ? l->kernel : l->copy;
}

void path_count(struct track *l, enum gpu_path path, uint64_t bytes, bool unregistered)
{
	struct gpu *g = l->tables->copier->gpu;

	atomic_fetch_add(&g->n.path_bytes[path], bytes);
	if (unregistered)
		atomic_fetch_add(&g->n.unregistered_bytes, bytes);
}

/* ---- the beginning ------------------------------------------------------------------------------------------------------------- */

static int begin(struct track *l, struct job *j)
{
	bool staged = l->path == GPU_STAGED;
	int rc = 1;

	j->plan.flat = l->path == GPU_BATCH && l->tables->copier->batch;
	if (staged)
		rc = staged_ids_take(l, j);
	if (rc <= 0)
		return rc;
	rc = staged ? ids_upload(l, j) : 0;
	j->begun = !rc;
	return rc ? rc : 1;
}

/* ---- the end ------------------------------------------------------------------------------------------------------------------- */

/* Behind the last step: the client's event, then ours. */
int path_finish(struct track *l, struct job *j, bool last, struct step step)
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

bool path_covered(const struct track *l, const struct job *j, uint32_t chunk)
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

CUresult path_run(struct track *l, const struct job *j, CUdeviceptr device, uint8_t *host, uint64_t n)
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
int path_bounce(struct track *l, struct job *j, bool *mine)
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
	while (p->end < j->nchunks && path_covered(l, j, p->end))
		p->end++;
	if (p->end == p->chunk) {
		if (path_bounce(l, j, &mine) == 0)
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
		rc = path_run(l, j, op->page + i * op->page_pitch, op->object + i * op->object_pitch, op->bytes);
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
	uint32_t cap = batch ? BATCH_MAX : DIRECT_STEP, n;
	uint64_t bytes = 0;
	uint32_t chunk;
	int rc;

	if (!track_room(l, DIRECT_STEP + 3) || window_open(l, j) == 0)
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
	rc = path_finish(l, j, last,
			 (struct step){.cost = (batch ? DIRECT_STEP : n) + 3,
				       .bounce = closes && j->bounce,
				       .to = j->plan.instead && l->dir == TO_SLOTS ? j->slots[chunk] : NULL,
				       .bytes = j->t->object_bytes});
	if (rc < 0)
		return rc;
	path_count(l, batch && c->batch ? GPU_BATCH : GPU_DIRECT, bytes, j->stray);
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
		return path_finish(l, j, true, (struct step){.cost = 2});
	return l->path == GPU_STAGED ? staged_step(l, j) : planned_step(l, j);
}
