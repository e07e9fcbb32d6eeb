/* What a GPU and an engine need before the first copy: kernels, streams, events, staging, the layout's tables on the GPU. */
#include "transport/cuda/copier.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

static const char *const path_name[GPU_PATHS] = {
	[GPU_AUTO] = "auto", [GPU_DIRECT] = "direct", [GPU_BATCH] = "batch", [GPU_STAGED] = "staged"};

/* ---- staging and bounce buffer ---------------------------------------------------------------------------------------------------- */

static uint64_t staging_wanted(const struct copier *c, const struct layout_table *t)
{
	uint64_t want = c->gpu->door->conf.staging_bytes ? c->gpu->door->conf.staging_bytes : STAGING_BYTES;

	if (want < t->plane_bytes_max)
		want = t->plane_bytes_max;
	if (t->stride <= want)
		want -= want % t->stride;
	return (want + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
}

/* A GPU that engines have filled has little left: half of it will do, down to a plane of a chunk. */
int track_staging(struct track *l)
{
	struct copier *c = l->tables->copier;
	const struct layout_table *t = &l->tables->table;
	uint64_t bytes = staging_wanted(c, t);
	CUresult rc;

	if (l->slot[0])
		return 0;
	if (!c->kernels.module || !t->staged)
		return -EOPNOTSUPP;
	for (;;) {
		rc = c->cu->cuMemAlloc(&l->slot[0], 2 * bytes);
		if (rc != CUDA_ERROR_OUT_OF_MEMORY || bytes / 2 < t->plane_bytes_max)
			break;
		bytes = (bytes / 2 + STAGING_ALIGN - 1) / STAGING_ALIGN * STAGING_ALIGN;
	}
	if (rc) {
		l->slot[0] = 0;
		return gpu_result(c->gpu, rc);
	}
	l->slot[1] = l->slot[0] + bytes;
	l->slot_bytes = bytes;
	lk_lock(&c->lk);
	c->staging_bytes += 2 * bytes;
	lk_unlock(&c->lk);
	return 0;
}

void track_no_staging(struct track *l)
{
	struct copier *c = l->tables->copier;

	if (!l->slot[0])
		return;
	if (!atomic_load(&c->gpu->lost))
		c->cu->cuMemFree(l->slot[0]);
	lk_lock(&c->lk);
	c->staging_bytes -= 2 * l->slot_bytes;
	lk_unlock(&c->lk);
	l->slot[0] = l->slot[1] = 0;
}

int track_bounce(struct track *l)
{
	struct copier *c = l->tables->copier;
	uint64_t bytes = l->tables->table.object_bytes;
	void *p = NULL;
	CUresult rc;

	if (l->path == GPU_STAGED && bytes > l->slot_bytes)
		bytes = l->slot_bytes;
	rc = c->cu->cuMemAllocHost(&p, bytes);
	if (rc)
		return gpu_result(c->gpu, rc);
	l->bounce = p;
	return 0;
}

/* ---- tracks ---------------------------------------------------------------------------------------------------------------------------- */

static int track_open(struct track *l, struct engine_tables *t, uint32_t dir, struct why *why)
{
	struct copier *c = t->copier;
	const struct cuda_driver *cu = c->cu;
	CUresult rc;

	l->tables = t;
	l->dir = dir;
	l->tail = &l->head;
	rc = cu->cuStreamCreateWithPriority(&l->kernel, CU_STREAM_NON_BLOCKING, c->priority);
	if (!rc)
		rc = cu->cuStreamCreateWithPriority(&l->copy, CU_STREAM_NON_BLOCKING, c->priority);
	if (!rc)
		rc = cu->cuEventCreate(&l->full[0], CU_EVENT_DISABLE_TIMING);
	if (!rc)
		rc = cu->cuEventCreate(&l->full[1], CU_EVENT_DISABLE_TIMING);
	if (!rc)
		rc = cu->cuEventCreate(&l->join, CU_EVENT_DISABLE_TIMING);
	for (uint32_t i = 0; !rc && i < STEPS; i++)
		rc = cu->cuEventCreate(&l->event[i], CU_EVENT_DISABLE_TIMING);
	if (!rc)
		return 0;
	return why_set(why, gpu_result(c->gpu, rc), "GPU %u: no streams and events for copies: %s", c->gpu->index,
		       cuda_error(cu, rc));
}

static void event_free(const struct cuda_driver *cu, CUevent e)
{
	if (e)
		cu->cuEventDestroy(e);
}

static void track_close(struct track *l)
{
	struct copier *c = l->tables->copier;
	const struct cuda_driver *cu = c->cu;

	track_no_staging(l);
	/* A context that broke takes all of it along when it is reset. */
	if (atomic_load(&c->gpu->lost))
		return;
	if (l->kernel)
		cu->cuStreamDestroy(l->kernel);
	if (l->copy)
		cu->cuStreamDestroy(l->copy);
	event_free(cu, l->full[0]);
	event_free(cu, l->full[1]);
	event_free(cu, l->join);
	for (uint32_t i = 0; i < STEPS; i++)
		event_free(cu, l->event[i]);
	if (l->ids) {
		cu->cuMemFreeHost(l->ids);
		cu->cuMemFree(l->ids_device);
	}
	if (l->bounce)
		cu->cuMemFreeHost(l->bounce);
}

/* ---- the layout's tables on the GPU -------------------------------------------------------------------------------------------------- */

static void fill_planes(const struct layout_table *t, struct kernel_plane *out)
{
	for (uint32_t i = 0; i < t->ngroups; i++) {
		const struct kv_group_copy *kv = &t->group[i].kv;

		for (uint32_t p = 0; p < kv->nplanes; p++)
			*out++ = (struct kernel_plane){.base = (uint64_t)(uintptr_t)kv->planes[p].base,
						       .block_stride = kv->planes[p].block_stride,
						       .token_stride = kv->planes[p].token_stride,
						       .head_stride = kv->planes[p].head_stride};
	}
}

/* `planes` receives the memory, the groups their parts of it. Waits: at a registration only. */
int table_upload(struct copier *c, struct layout_table *t, CUstream s, CUdeviceptr *planes)
{
	struct kernel_plane *host;
	CUdeviceptr at;
	uint64_t n = 0;
	CUresult rc;

	for (uint32_t i = 0; i < t->ngroups; i++)
		n += t->group[i].kv.nplanes;
	host = mem_calloc(n, sizeof(*host));
	if (!host)
		return -ENOMEM;
	fill_planes(t, host);
	rc = c->cu->cuMemAlloc(planes, n * sizeof(*host));
	if (rc) {
		*planes = 0;
	} else {
		rc = c->cu->cuMemcpyHtoDAsync(*planes, host, n * sizeof(*host), s);
		if (!rc)
			rc = c->cu->cuStreamSynchronize(s);
	}
	mem_free(host);
	at = *planes;
	for (uint32_t i = 0; i < t->ngroups; i++) {
		t->group[i].planes = at;
		at += t->group[i].kv.nplanes * sizeof(*host);
	}
	return gpu_result(c->gpu, rc);
}

/* ---- engines ---------------------------------------------------------------------------------------------------------------------------- */

static int tables_fill(struct engine_tables *t, struct why *why)
{
	struct copier *c = t->copier;
	int rc = table_make(&t->table, t->engine->layout);

	if (rc)
		return why_set(why, rc, "no memory for the tables of a layout");
	for (uint32_t d = 0; d < DIRECTIONS; d++) {
		rc = track_open(&t->track[d], t, d, why);
		if (rc)
			return rc;
	}
	if (!c->kernels.module)
		t->table.staged = false;
	if (!t->table.staged)
		return 0;
	rc = table_upload(c, &t->table, t->track[TO_SLOTS].kernel, &t->planes);
	return rc ? why_set(why, rc, "GPU %u: the tables of a layout cannot be copied there", c->gpu->index) : 0;
}

static void tables_free(struct engine_tables *t)
{
	struct copier *c = t->copier;

	for (uint32_t d = 0; d < DIRECTIONS; d++)
		if (t->track[d].tables)
			track_close(&t->track[d]);
	if (t->planes && !atomic_load(&c->gpu->lost))
		c->cu->cuMemFree(t->planes);
	jobs_free(t);
	lk_destroy(&t->lk);
	table_free(&t->table);
	mem_free(t);
}

int copier_engine(struct copier *c, struct gpu_engine *e, struct why *why)
{
	struct engine_tables *t = mem_calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return why_set(why, -ENOMEM, "no memory for an engine's tables");
	t->copier = c;
	t->engine = e;
	lk_init(&t->lk, LK_QUEUE);
	rc = tables_fill(t, why);
	if (!rc)
		rc = calibrate(t, why);
	if (rc) {
		tables_free(t);
		return rc;
	}
	e->tables = t;
	return 0;
}

void copier_engine_drop(struct copier *c, struct gpu_engine *e)
{
	(void)c;
	if (e->tables)
		tables_free(e->tables);
	e->tables = NULL;
}

/* ---- the copier -------------------------------------------------------------------------------------------------------------------------- */

static void remember(struct copier *c)
{
	struct gpu *g = c->gpu;

	if (!g->known)
		g->known = mem_calloc(1, sizeof(*g->known));
	if (!g->known)
		return;
	g->known->n = c->nshapes;
	memcpy(g->known->shape, c->shape, sizeof(c->shape));
}

static void recall(struct copier *c)
{
	const struct known_shapes *known = c->gpu->known;

	if (!known)
		return;
	c->nshapes = known->n;
	memcpy(c->shape, known->shape, sizeof(c->shape));
}

int copier_create(struct gpu *g, struct copier **out, struct why *why)
{
	struct copier *c = mem_calloc(1, sizeof(*c));
	struct why kernels;
	int greatest = 0;
	CUresult rc;

	if (!c)
		return why_set(why, -ENOMEM, "no memory for the copies of GPU %u", g->index);
	c->gpu = g;
	c->cu = g->door->cu;
	lk_init(&c->lk, LK_QUEUE);
	recall(c);
	c->batch = c->cu->cuMemcpyBatchAsync != NULL;
	rc = c->cu->cuCtxGetStreamPriorityRange(&c->priority, &greatest);
	if (rc) {
		int err = gpu_result(g, rc);

		copier_destroy(c);
		return why_set(why, err, "GPU %u: no streams: %s", g->index, cuda_error(g->door->cu, rc));
	}
	if (kernels_load(g, &c->kernels, &kernels))
		log_warn("%s; pages are copied one by one", kernels.text);
	*out = c;
	return 0;
}

void copier_destroy(struct copier *c)
{
	if (!c)
		return;
	if (!atomic_load(&c->gpu->lost))
		kernels_unload(c->gpu, &c->kernels);
	remember(c);
	lk_destroy(&c->lk);
	mem_free(c);
}

/* ---- /status ------------------------------------------------------------------------------------------------------------------------------- */

static json_t *measured_status(const struct measured *m)
{
	json_t *o = json_pack("{s:s}", "path", path_name[m->path]);

	if (!o)
		return NULL;
	if (m->path == GPU_STAGED)
		json_object_set_new(o, "thread_blocks", json_integer(m->blocks));
	if (m->limit_gbps > 0)
		json_object_set_new(o, "one_large_copy_gb_per_second", json_real(m->limit_gbps));
	for (uint32_t p = GPU_DIRECT; p < GPU_PATHS; p++) {
		char name[48];

		snprintf(name, sizeof(name), "%s_gb_per_second", path_name[p]);
		if (m->gbps[p] > 0)
			json_object_set_new(o, name, json_real(m->gbps[p]));
	}
	return o;
}

json_t *copier_status(struct copier *c)
{
	json_t *o, *shapes = json_array();

	lk_lock(&c->lk);
	o = json_pack("{s:b, s:b, s:I}", "kernels", c->kernels.module != NULL, "batched_copies", c->batch,
		      "staging_bytes", (json_int_t)c->staging_bytes);
	for (uint32_t i = 0; i < c->nshapes; i++) {
		const struct shape *s = &c->shape[i];
		json_t *one = json_pack("{s:I, s:I, s:b}", "run_bytes", (json_int_t)s->key.run_bytes, "object_bytes",
					(json_int_t)s->key.object_bytes, "measured", s->calibrated);

		json_object_set_new(one, "store", measured_status(&s->of[TO_SLOTS]));
		json_object_set_new(one, "retrieve", measured_status(&s->of[TO_PAGES]));
		json_array_append_new(shapes, one);
	}
	lk_unlock(&c->lk);
	json_object_set_new(o, "shapes", shapes);
	return o;
}
