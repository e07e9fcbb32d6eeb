/* bounds.h - what must hold of everything transport/pickle accepts, computed in 128 bits and independently of it.
 * For the unit tests and the fuzz target. */
#ifndef TESTS_UNIT_TRANSPORT_PICKLE_BOUNDS_H
#define TESTS_UNIT_TRANSPORT_PICKLE_BOUNDS_H

#include "transport/pickle/pickle.h"

static inline bool bounds_inside(struct slice part, struct slice whole)
{
	const uint8_t *p = part.p, *w = whole.p;

	return part.n == 0 || (p >= w && part.n <= whole.n && (size_t)(p - w) <= whole.n - part.n);
}

/* Every element lies within `limit` bytes. */
static inline bool bounds_extent(enum pk_dtype dtype, uint32_t ndim, const uint64_t *shape, const int64_t *stride,
				 uint64_t offset, uint64_t limit)
{
	unsigned __int128 last = offset, all = pk_dtype_size(dtype);
	bool empty = false;

	if (!pk_dtype_size(dtype) || ndim > PK_MAX_DIMS)
		return false;
	for (uint32_t i = 0; i < ndim; i++) {
		if (stride[i] < 0)
			return false;
		empty |= shape[i] == 0;
		all *= shape[i] ? shape[i] : 1;
		if (all > INT64_MAX)
			return false;
		last += shape[i] ? (unsigned __int128)(shape[i] - 1) * (uint64_t)stride[i] : 0;
	}
	return (last + !empty) * pk_dtype_size(dtype) <= limit || empty;
}

static inline bool bounds_wrapper(const struct pk_wrapper *w, struct slice in)
{
	uint64_t limit = w->kind == PK_CUDA_IPC ? w->storage_bytes : w->nbytes;
	bool cuda = w->kind == PK_CUDA_IPC || w->kind == PK_RAW_CUDA_IPC;

	return w->kind >= PK_CUDA_IPC && w->kind <= PK_CPU_SHM && w->ndim > 0 &&
	       bounds_extent(w->dtype, w->ndim, w->shape, w->stride, w->storage_offset, limit) &&
	       bounds_inside(w->device_uuid, in) && w->device_uuid.n > 0 && bounds_inside(w->mem_handle, in) &&
	       w->mem_handle.n == (cuda ? 64u : 0u) && bounds_inside(w->refcount_name, in) &&
	       bounds_inside(w->event_handle, in) && w->event_handle.n == (w->kind == PK_CUDA_IPC ? 64u : 0u) &&
	       bounds_inside(w->export_id, in) && w->export_id.n == (w->kind == PK_VMM_CUDA_IPC ? 16u : 0u) &&
	       bounds_inside(w->fabric_blob, in) && w->fabric_blob.n == (w->vmm_fabric ? 64u : 0u) &&
	       bounds_inside(w->shm_name, in) && (w->kind == PK_CPU_SHM) == (w->shm_name.n > 0) &&
	       (w->kind != PK_VMM_CUDA_IPC || w->alloc_offset + w->nbytes <= w->alloc_bytes);
}

static inline bool bounds_tensor(const struct pk_tensor *t, struct slice in)
{
	return bounds_inside(t->storage, in) &&
	       bounds_extent(t->dtype, t->ndim, t->shape, t->stride, t->storage_offset, t->storage.n);
}

#endif
