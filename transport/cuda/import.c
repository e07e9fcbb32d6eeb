/* import.c - views: what an engine says of its KV memory, held against itself and the GPU before anything is opened, and against the allocation
 * after.
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "transport/cuda/import_int.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* ---- what the wrapper says --------------------------------------------------------------------------------------------------- */

/* The part of the allocation that the view takes. */
struct claim {
	uint64_t offset, bytes;
};

/* Bytes from the storage's beginning to the end of the last element; UINT64_MAX when it is no size. */
static uint64_t extent_of(const struct pk_wrapper *w)
{
	unsigned __int128 last = w->storage_offset, bytes;

	for (uint32_t i = 0; i < w->ndim; i++) {
		if (w->shape[i] == 0 || w->stride[i] < 0)
			return UINT64_MAX;
		last += (unsigned __int128)(w->shape[i] - 1) * (uint64_t)w->stride[i];
		if (last > INT64_MAX)
			return UINT64_MAX;
	}
	bytes = (last + 1) * pk_dtype_size(w->dtype);
	return bytes > INT64_MAX ? UINT64_MAX : (uint64_t)bytes;
}

static int check_claim(const struct pk_wrapper *w, struct claim *c, struct why *why)
{
	uint64_t extent;

	if (w->ndim == 0 || w->ndim > PK_MAX_DIMS || !pk_dtype_size(w->dtype))
		return why_set(why, -EINVAL, "the KV tensor has %u dimensions of %s", w->ndim, pk_dtype_name(w->dtype));
	extent = extent_of(w);
	if (extent == UINT64_MAX)
		return why_set(why, -EINVAL, "shape and stride of the KV tensor are empty, negative or overflow");
	c->offset = w->kind == PK_CUDA_IPC ? w->base_offset : w->alloc_offset;
	c->bytes = w->kind == PK_CUDA_IPC ? w->storage_bytes : w->nbytes;
	if (c->offset > INT64_MAX || c->bytes > INT64_MAX - c->offset)
		return why_set(why, -EINVAL, "offset and size of the KV storage overflow");
	if (extent > c->bytes)
		return why_set(why, -ERANGE, "the KV tensor reaches %llu bytes into a storage of %llu",
			       (unsigned long long)extent, (unsigned long long)c->bytes);
	if (w->kind == PK_VMM_CUDA_IPC && c->offset + c->bytes > w->alloc_bytes)
		return why_set(why, -ERANGE, "the KV storage ends %llu bytes into an allocation of %llu",
			       (unsigned long long)(c->offset + c->bytes), (unsigned long long)w->alloc_bytes);
	return 0;
}

static bool all_zero(struct slice s)
{
	const uint8_t *p = s.p;

	while (s.n > 0 && p[s.n - 1] == 0)
		s.n--;
	return s.n == 0;
}

static int check_handle(const struct pk_wrapper *w, struct map_what *what, struct why *why)
{
	switch (w->kind) {
	case PK_CUDA_IPC:
	case PK_RAW_CUDA_IPC:
		*what = (struct map_what){.kind = MAP_IPC, .key = w->mem_handle};
		break;
	case PK_VMM_CUDA_IPC:
		*what = (struct map_what){.kind = w->vmm_fabric ? MAP_FABRIC : MAP_FD,
					  .key = w->vmm_fabric ? w->fabric_blob : w->export_id,
					  .alloc_bytes = w->alloc_bytes,
					  .has_fd = w->has_fd,
					  .fd = w->fd};
		break;
	case PK_CPU_SHM:
	default:
		return why_set(why, -EINVAL, "not a wrapper of GPU memory");
	}
	if (what->key.n != (what->kind == MAP_FD ? 16 : IMPORT_KEY) || all_zero(what->key))
		return why_set(why, -EINVAL, "the handle of the KV memory has %zu bytes or is all zeros", what->key.n);
	if (w->kind == PK_CUDA_IPC && w->event_sync && (w->event_handle.n != GPU_EVENT || all_zero(w->event_handle)))
		return why_set(why, -EINVAL, "the KV memory has to wait for an event whose handle is all zeros");
	return 0;
}

/* ---- which GPU ------------------------------------------------------------------------------------------------------------------ */

static int no_gpu(struct gpu_door *d, struct slice uuid, struct why *why)
{
	const char *cuda = getenv("CUDA_VISIBLE_DEVICES");

	if (cuda)
		return why_set(
			why, -ENODEV,
			"no such GPU here: %.*s. CUDA_VISIBLE_DEVICES=%.100s leaves this server %u GPUs: unset it "
			"for the server, or add that GPU",
			SLICE_FMT(uuid), cuda, d->ngpus);
	return why_set(why, -ENODEV,
		       "no such GPU here: %.*s. This server sees %u GPUs: give its container the GPUs of its engines "
		       "(--gpus, NVIDIA_VISIBLE_DEVICES). Instances of MIG share no memory",
		       SLICE_FMT(uuid), d->ngpus);
}

static int which_gpu(struct gpu_door *d, const struct pk_wrapper *w, const struct claim *c, struct gpu **out,
		     struct why *why)
{
	struct slice uuid = w->device_uuid;
	struct gpu *g = gpu_by_uuid(d, uuid);
	uint64_t end = w->kind == PK_VMM_CUDA_IPC ? w->alloc_bytes : c->offset + c->bytes;

	if ((uuid.n >= 4 && strncasecmp(uuid.p, "MIG-", 4) == 0) || (g && g->facts.mig))
		return why_set(why, -EOPNOTSUPP,
			       "the KV memory lies on an instance of MIG, %.*s: there is no CUDA IPC between MIG "
			       "instances. Give engine and server whole GPUs",
			       SLICE_FMT(uuid));
	if (!g)
		return no_gpu(d, uuid, why);
	if (end > g->facts.bytes)
		return why_set(why, -ERANGE, "the KV storage ends %llu bytes into its allocation; the GPU has %llu",
			       (unsigned long long)end, (unsigned long long)g->facts.bytes);
	*out = g;
	return 0;
}

/* ---- the event of a torch handle ---------------------------------------------------------------------------------------------------- */

static int wait_for(struct gpu *g, CUevent e, uint32_t wait_ms, struct why *why)
{
	const struct timespec nap = {.tv_nsec = 500000};
	uint64_t until = clock_ns() + wait_ms * UINT64_C(1000000);
	CUresult rc;

	while ((rc = g->door->cu->cuEventQuery(e)) == CUDA_ERROR_NOT_READY) {
		if (clock_ns() > until)
			return why_set(
				why, -ETIMEDOUT,
				"the engine's GPU has not finished in %u ms what it was doing when the memory was "
				"shared: register again",
				wait_ms);
		nanosleep(&nap, NULL);
	}
	return rc ? map_refused(g, rc, "the event of the memory handle", why) : 0;
}

static int wait_event(struct imports *im, const struct pk_wrapper *w, struct why *why)
{
	struct gpu *g = im->gpu;
	CUipcEventHandle h;
	CUevent e;
	CUresult rc;
	int err;

	if (w->kind != PK_CUDA_IPC || !w->event_sync)
		return 0;
	memcpy(&h, w->event_handle.p, sizeof(h));
	rc = g->door->cu->cuIpcOpenEventHandle(&e, h);
	if (rc)
		return map_refused(g, rc, "the event of the memory handle", why);
	err = wait_for(g, e, im->wait_ms, why);
	rc = g->door->cu->cuEventDestroy(e);
	return !err && rc ? map_refused(g, rc, "the event of the memory handle", why) : err;
}

/* ---- views ------------------------------------------------------------------------------------------------------------------------------- */

static void view_add(struct imports *im, struct gpu_view *v)
{
	lk_lock(&im->lk);
	v->at = &im->views;
	v->next = im->views;
	if (v->next)
		v->next->at = &v->next;
	im->views = v;
	im->nviews++;
	lk_unlock(&im->lk);
}

/* Two registrations of the same pickle have one counter: the last one counts down. */
static bool view_remove(struct imports *im, struct gpu_view *v)
{
	bool alone = v->torch.name[0] != '\0';

	lk_lock(&im->lk);
	*v->at = v->next;
	if (v->next)
		v->next->at = v->at;
	im->nviews--;
	for (struct gpu_view *o = im->views; o && alone; o = o->next)
		alone = !torch_counter_same(&v->torch, &o->torch);
	lk_unlock(&im->lk);
	return alone;
}

static int check_mapping(const struct mapping *m, const struct claim *c, struct why *why)
{
	if (c->offset > m->bytes || c->bytes > m->bytes - c->offset)
		return why_set(why, -ERANGE, "the KV storage ends %llu bytes into an allocation of %llu",
			       (unsigned long long)(c->offset + c->bytes), (unsigned long long)m->bytes);
	return 0;
}

/* What the driver would not unmap keeps a context that broke from being made anew: it goes first. */
static int hold(struct imports *im, struct why *why)
{
	if (atomic_load(&im->gpu->lost))
		map_retry(im);
	return gpu_hold(im->gpu, why);
}

/* The context is held. */
static int view_map(struct imports *im, const struct pk_wrapper *w, const struct map_what *what, const struct claim *c,
		    struct gpu_view *v, struct why *why)
{
	int err = map_take(im, what, &v->map, why);

	if (err)
		return err;
	err = check_mapping(v->map, c, why);
	if (!err)
		err = wait_event(im, w, why);
	if (err) {
		mapping_put(v->map);
		return err;
	}
	v->address = v->map->base + c->offset;
	v->bytes = c->bytes;
	torch_counter_init(&v->torch, w->refcount_name, w->refcount_index, &what->from);
	view_add(im, v);
	return 0;
}

int gpu_import(struct gpu_door *d, const struct pk_wrapper *w, uint32_t peer_pid, struct gpu_view **out,
	       struct why *why)
{
	struct map_what what = {0};
	struct imports *im;
	struct gpu_view *v;
	struct claim c = {0};
	struct gpu *g = NULL;
	int err = check_handle(w, &what, why);

	if (!err)
		err = check_claim(w, &c, why);
	if (!err)
		err = which_gpu(d, w, &c, &g, why);
	if (err)
		return err;
	what.from = exporter_of(peer_pid);
	im = imports_of(g);
	v = im ? mem_calloc(1, sizeof(*v)) : NULL;
	if (!v)
		return why_set(why, -ENOMEM, "out of memory");
	v->gpu = g;
	err = hold(im, why);
	if (!err) {
		err = view_map(im, w, &what, &c, v, why);
		if (err)
			gpu_release(g);
	}
	if (err) {
		mem_free(v);
		return err;
	}
	*out = v;
	return 0;
}

void gpu_view_put(struct gpu_view *v)
{
	struct imports *im;
	bool count;

	if (!v)
		return;
	im = v->gpu->imports;
	count = view_remove(im, v);
	mapping_put(v->map);
	/* Only now: at 0 the engine may free the block. */
	if (count)
		atomic_fetch_add(torch_counter_down(&v->torch) ? &im->torch_told : &im->torch_missed, 1);
	gpu_release(v->gpu);
	mem_free(v);
}

uint64_t gpu_view_address(const struct gpu_view *v)
{
	return v->address;
}

uint64_t gpu_view_bytes(const struct gpu_view *v)
{
	return v->bytes;
}

uint32_t gpu_view_gpu(const struct gpu_view *v)
{
	return v->gpu->index;
}
