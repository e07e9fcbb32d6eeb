/* ipc.c - allocations, and their handles between processes. */
#include "tests/fake/libcuda/fake.h"

#include <string.h>

/* ---- allocations ------------------------------------------------------------------------------------------------------------ */

void range_release(struct range *r)
{
	machine_lock();
	if (r->memory && r->memory->id == r->memory_id) {
		if (r->kind == RANGE_ALLOC)
			memory_disown(r->memory);
		memory_drop(r->memory, self.slot);
	}
	machine_unlock();
	if (r->kind == RANGE_ALLOC) {
		atomic_fetch_sub(&self.p->allocations, 1);
		atomic_fetch_sub(&self.p->allocated_bytes, (int64_t)r->bytes);
	} else {
		atomic_fetch_sub(&self.p->imports, 1);
		atomic_fetch_sub(&self.p->imported_bytes, (int64_t)r->bytes);
	}
	range_remove(r);
}

/* The bytes of `mem`, which this process holds, get addresses. */
static CUresult map_memory(struct memory *mem, enum range_kind kind, struct range **out)
{
	uint64_t mapped, va = va_take(mem->bytes, GRANULE);
	char *host = va ? memory_map(mem, &mapped) : NULL;
	struct range *r = host ? range_add(va, mem->bytes, kind) : NULL;

	if (!r)
		return kind == RANGE_ALLOC ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_MAP_FAILED;
	r->host = host;
	r->mapped = mapped;
	r->memory = mem;
	r->memory_id = mem->id;
	r->ctx = current;
	r->gpu = mem->gpu;
	r->access = true;
	r->opens = 1;
	*out = r;
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t bytes)
{
	CUresult rc = enter_ctx("cuMemAlloc");
	struct range *r;
	struct memory *mem;

	if (rc)
		return rc;
	if (!p || !bytes)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	machine_lock();
	mem = memory_make(current->gpu, bytes, MEMORY_PLAIN, 0, &rc);
	if (mem)
		rc = map_memory(mem, RANGE_ALLOC, &r);
	if (mem && rc) {
		memory_disown(mem);
		memory_drop(mem, self.slot);
	}
	machine_unlock();
	if (!rc) {
		*p = r->va;
		atomic_fetch_add(&self.p->allocations, 1);
		atomic_fetch_add(&self.p->allocated_bytes, (int64_t)bytes);
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* Both wait for what the GPU is doing, as the real ones do. */
static CUresult give_up(CUdeviceptr p, enum range_kind kind)
{
	struct context *c = NULL;
	CUresult rc = CUDA_SUCCESS;
	struct range *r;

	pthread_mutex_lock(&self.lk);
	r = range_at(p);
	if (r && r->kind == kind && r->va == p)
		c = r->ctx;
	pthread_mutex_unlock(&self.lk);
	if (!c)
		return CUDA_ERROR_INVALID_VALUE;
	rc = context_sync(c);
	pthread_mutex_lock(&self.lk);
	r = range_at(p);
	if (!r || r->kind != kind || r->va != p)
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (--r->opens == 0)
		range_release(r);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemFree_v2(CUdeviceptr p)
{
	CUresult rc = enter_ctx("cuMemFree");

	return rc || !p ? rc : give_up(p, RANGE_ALLOC);
}

FAKE_API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	CUresult rc = enter_ctx("cuMemGetAddressRange");
	struct range *r;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	r = range_at(p);
	if (!r || r->kind == RANGE_HOST) {
		rc = CUDA_ERROR_NOT_FOUND;
	} else {
		if (base)
			*base = r->va;
		if (bytes)
			*bytes = r->bytes;
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* ---- handles ------------------------------------------------------------------------------------------------------------------ */

struct memory_handle {
	uint64_t magic, id, owner, owner_started;
	uint64_t proof[4];
};
_Static_assert(sizeof(struct memory_handle) == sizeof(CUipcMemHandle), "64 bytes");
#define HANDLE_MAGIC 0x4d454d43504c0001ull

static void fill(struct memory_handle *h, const struct memory *mem)
{
	*h = (struct memory_handle){HANDLE_MAGIC, mem->id, mem->owner, mem->owner_started, {0}};
	for (uint32_t i = 0; i < 4; i++)
		h->proof[i] = machine_hash(h->id * 4 + i, machine_hash(h->owner_started, h->owner));
}

static bool genuine(const struct memory_handle *h)
{
	if (h->magic != HANDLE_MAGIC || h->owner >= PROCESSES || !h->owner_started)
		return false;
	for (uint32_t i = 0; i < 4; i++)
		if (h->proof[i] != machine_hash(h->id * 4 + i, machine_hash(h->owner_started, h->owner)))
			return false;
	return true;
}

FAKE_API CUresult cuIpcGetMemHandle(CUipcMemHandle *out, CUdeviceptr p)
{
	CUresult rc = enter_ctx("cuIpcGetMemHandle");
	struct memory_handle h;
	struct range *r;

	if (rc)
		return rc;
	if (!out)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	r = range_at(p);
	/* Also of the middle of an allocation: it is the handle of the whole. Virtual memory and imports have none. */
	if (!r || r->kind != RANGE_ALLOC)
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (self.m->gpu[r->gpu].mig)
		rc = CUDA_ERROR_NOT_SUPPORTED;
	if (!rc) {
		machine_lock();
		fill(&h, r->memory);
		machine_unlock();
		memcpy(out, &h, sizeof(h));
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

static bool visible(uint32_t gpu)
{
	for (uint32_t i = 0; i < self.ndevices; i++)
		if (self.visible[i] == gpu)
			return true;
	return false;
}

static CUresult open_handle(const struct memory_handle *h, CUdeviceptr *out)
{
	struct memory *mem;
	struct range *r;
	CUresult rc;

	if (!genuine(h))
		return CUDA_ERROR_INVALID_VALUE;
	if (h->owner == self.slot && h->owner_started == self.started)
		return CUDA_ERROR_INVALID_CONTEXT; /* one's own */
	for (uint32_t i = 0; i < self.nranges; i++) {
		r = self.range[i];
		if (r->kind != RANGE_IMPORT || r->memory_id != h->id)
			continue;
		if (!self.reopen_same || r->ctx != current)
			return CUDA_ERROR_ALREADY_MAPPED;
		r->opens++;
		*out = r->va;
		return CUDA_SUCCESS;
	}
	mem = memory_by_id(h->id);
	if (!mem || mem->owner != h->owner || mem->owner_started != h->owner_started ||
	    !process_alive(mem->owner, mem->owner_started))
		return CUDA_ERROR_INVALID_HANDLE; /* freed, or its process is gone */
	if (!visible(mem->gpu))
		return CUDA_ERROR_INVALID_DEVICE;
	memory_hold(mem, self.slot);
	rc = map_memory(mem, RANGE_IMPORT, &r);
	if (rc) {
		memory_drop(mem, self.slot);
		return rc;
	}
	*out = r->va;
	atomic_fetch_add(&self.p->imports, 1);
	atomic_fetch_add(&self.p->imported_bytes, (int64_t)mem->bytes);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *p, CUipcMemHandle handle, unsigned flags)
{
	CUresult rc = enter_ctx("cuIpcOpenMemHandle");
	struct memory_handle h;

	if (rc)
		return rc;
	if (!p || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
		return CUDA_ERROR_INVALID_VALUE;
	memcpy(&h, &handle, sizeof(h));
	pthread_mutex_lock(&self.lk);
	machine_lock();
	rc = self.m->gpu[current->gpu].mig ? CUDA_ERROR_NOT_SUPPORTED : open_handle(&h, p);
	machine_unlock();
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuIpcCloseMemHandle(CUdeviceptr p)
{
	CUresult rc = enter_ctx("cuIpcCloseMemHandle");

	return rc ? rc : give_up(p, RANGE_IMPORT);
}
