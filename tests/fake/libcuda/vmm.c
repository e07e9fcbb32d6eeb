/* vmm.c - virtual memory: bytes, addresses and access apart from each other. No context is needed for it. */
#include "tests/fake/libcuda/fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

FAKE_API CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop, int option)
{
	CUresult rc = enter("cuMemGetAllocationGranularity");

	if (rc)
		return rc;
	if (!bytes || !prop || option < 0 || option > 1)
		return CUDA_ERROR_INVALID_VALUE;
	*bytes = GRANULE;
	return rc;
}

static CUresult publish(struct memory *mem, CUmemGenericAllocationHandle *out)
{
	struct vmm_handle *h = calloc(1, sizeof(*h));

	if (!h)
		return CUDA_ERROR_OUT_OF_MEMORY;
	h->memory = mem;
	h->memory_id = mem->id;
	*out = handle_make(OBJ_VMM, h);
	atomic_fetch_add(&self.p->vmm_handles, 1);
	return CUDA_SUCCESS;
}

/* self.lk and the machine's: gives it back when no handle and no mapping of this process needs it. */
static void unhold(struct memory *mem, uint64_t id)
{
	for (uint32_t i = 0; i < self.nhandles; i++)
		if (self.handle[i].kind == OBJ_VMM && ((struct vmm_handle *)self.handle[i].object)->memory_id == id)
			return;
	for (uint32_t i = 0; i < self.nranges; i++)
		if (self.range[i]->kind == RANGE_VMM && self.range[i]->memory_id == id)
			return;
	if (mem->id == id) {
		memory_disown(mem);
		memory_drop(mem, self.slot);
	}
}

FAKE_API CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t bytes, const CUmemAllocationProp *prop,
			      unsigned long long flags)
{
	CUresult rc = enter("cuMemCreate");
	struct memory *mem;
	unsigned types;

	if (rc)
		return rc;
	if (!out || !prop || flags || !bytes || bytes % GRANULE || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
	    prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_INVALID_VALUE;
	if (prop->location.id < 0 || (uint32_t)prop->location.id >= self.ndevices)
		return CUDA_ERROR_INVALID_DEVICE;
	types = prop->requestedHandleTypes;
	if (types & ~9u || (types & CU_MEM_HANDLE_TYPE_FABRIC && !self.m->fabric) || !self.m->vmm)
		return CUDA_ERROR_NOT_SUPPORTED;
	pthread_mutex_lock(&self.lk);
	machine_lock();
	mem = memory_make(self.visible[prop->location.id], bytes, MEMORY_VMM, types, &rc);
	if (mem)
		rc = publish(mem, out);
	machine_unlock();
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
	CUresult rc = enter("cuMemRelease");
	struct vmm_handle *h;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	h = handle_find(OBJ_VMM, (void *)(uintptr_t)handle);
	if (h) {
		handle_free((void *)(uintptr_t)handle);
		atomic_fetch_sub(&self.p->vmm_handles, 1);
		machine_lock();
		unhold(h->memory, h->memory_id);
		machine_unlock();
		free(h);
	}
	pthread_mutex_unlock(&self.lk);
	return h ? rc : CUDA_ERROR_INVALID_VALUE;
}

/* ---- sharing it ------------------------------------------------------------------------------------------------------------------ */

struct fabric_handle {
	uint64_t magic, id, proof[6];
};
_Static_assert(sizeof(struct fabric_handle) == sizeof(CUmemFabricHandle), "64 bytes");
#define FABRIC_MAGIC 0x4341424149524246ull

static void fill_fabric(struct fabric_handle *f, uint64_t id)
{
	f->magic = FABRIC_MAGIC;
	f->id = id;
	for (uint32_t i = 0; i < 6; i++)
		f->proof[i] = machine_hash(id, 1000 + i);
}

FAKE_API CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
					       CUmemAllocationHandleType type, unsigned long long flags)
{
	CUresult rc = enter("cuMemExportToShareableHandle");
	struct fabric_handle f;
	struct vmm_handle *h;
	int fd;

	if (rc)
		return rc;
	if (!out || flags)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	h = handle_find(OBJ_VMM, (void *)(uintptr_t)handle);
	/* What it can be exported as was settled when it was made. */
	if (!h || !(h->memory->handle_types & (unsigned)type)) {
		rc = CUDA_ERROR_INVALID_VALUE;
	} else if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
		fd = memory_open(h->memory);
		rc = fd < 0 ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_SUCCESS;
		if (!rc)
			memcpy(out, &fd, sizeof(fd));
	} else {
		fill_fabric(&f, h->memory_id);
		memcpy(out, &f, sizeof(f));
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

static struct memory *find_shared(void *in, CUmemAllocationHandleType type)
{
	struct fabric_handle f, want;
	struct memory *mem;

	if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return memory_of_fd((int)(intptr_t)in);
	memcpy(&f, in, sizeof(f));
	fill_fabric(&want, f.id);
	mem = memcmp(&f, &want, sizeof(f)) == 0 ? memory_by_id(f.id) : NULL;
	return mem && mem->handle_types & CU_MEM_HANDLE_TYPE_FABRIC ? mem : NULL;
}

FAKE_API CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *out, void *in,
						 CUmemAllocationHandleType type)
{
	CUresult rc = enter("cuMemImportFromShareableHandle");
	struct memory *mem;

	if (rc)
		return rc;
	if (!out || (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && type != CU_MEM_HANDLE_TYPE_FABRIC) ||
	    (type == CU_MEM_HANDLE_TYPE_FABRIC && !in))
		return CUDA_ERROR_INVALID_VALUE;
	if (type == CU_MEM_HANDLE_TYPE_FABRIC && !self.m->fabric)
		return CUDA_ERROR_NOT_SUPPORTED;
	pthread_mutex_lock(&self.lk);
	machine_lock();
	mem = find_shared(in, type);
	rc = mem ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
	if (mem) {
		memory_hold(mem, self.slot);
		rc = publish(mem, out);
		if (rc)
			unhold(mem, mem->id);
	}
	machine_unlock();
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* ---- addresses ------------------------------------------------------------------------------------------------------------------- */

FAKE_API CUresult cuMemAddressReserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr at,
				      unsigned long long flags)
{
	CUresult rc = enter("cuMemAddressReserve");
	uint64_t va;

	if (rc)
		return rc;
	(void)at; /* a wish */
	if (!p || flags || !bytes || bytes % GRANULE || (align & (align - 1)))
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	va = va_take(bytes, align > GRANULE ? align : GRANULE);
	if (va && self.nreservations == self.reservations_cap) {
		uint32_t cap = self.reservations_cap ? self.reservations_cap * 2 : 16;
		struct reservation *bigger = realloc(self.reservation, cap * sizeof(*bigger));

		self.reservation = bigger ? bigger : self.reservation;
		self.reservations_cap = bigger ? cap : self.reservations_cap;
		va = bigger ? va : 0;
	}
	if (va) {
		self.reservation[self.nreservations++] = (struct reservation){va, bytes};
		atomic_fetch_add(&self.p->reservations, 1);
		*p = va;
	}
	pthread_mutex_unlock(&self.lk);
	return va ? rc : CUDA_ERROR_OUT_OF_MEMORY;
}

FAKE_API CUresult cuMemAddressFree(CUdeviceptr p, size_t bytes)
{
	CUresult rc = enter("cuMemAddressFree");
	struct reservation *v;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	v = reservation_at(p);
	if (!v || v->va != p || v->bytes != bytes)
		rc = CUDA_ERROR_INVALID_VALUE;
	for (uint32_t i = 0; i < self.nranges && !rc; i++)
		if (self.range[i]->va >= p && self.range[i]->va < p + bytes)
			rc = CUDA_ERROR_INVALID_VALUE; /* something is mapped there */
	if (!rc) {
		*v = self.reservation[--self.nreservations];
		atomic_fetch_sub(&self.p->reservations, 1);
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

static bool free_between(uint64_t va, uint64_t bytes)
{
	for (uint32_t i = 0; i < self.nranges; i++)
		if (self.range[i]->va < va + bytes && va < self.range[i]->va + self.range[i]->bytes)
			return false;
	return true;
}

static CUresult map(uint64_t va, uint64_t bytes, struct vmm_handle *h)
{
	uint64_t mapped;
	struct range *r;
	char *host = memory_map(h->memory, &mapped);

	r = host ? range_add(va, bytes, RANGE_VMM) : NULL;
	if (!r) {
		if (host)
			munmap(host, mapped);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	r->host = host;
	r->mapped = mapped;
	r->memory = h->memory;
	r->memory_id = h->memory_id;
	r->gpu = h->memory->gpu;
	atomic_fetch_add(&self.p->vmm_maps, 1);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemMap(CUdeviceptr p, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
			   unsigned long long flags)
{
	CUresult rc = enter("cuMemMap");
	struct reservation *v;
	struct vmm_handle *h;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	v = reservation_at(p);
	h = handle_find(OBJ_VMM, (void *)(uintptr_t)handle);
	if (!v || !h || flags || offset || p % GRANULE || bytes != h->memory->bytes || p + bytes > v->va + v->bytes ||
	    !free_between(p, bytes))
		rc = CUDA_ERROR_INVALID_VALUE;
	else
		rc = map(p, bytes, h);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemUnmap(CUdeviceptr p, size_t bytes)
{
	CUresult rc = enter("cuMemUnmap");
	uint64_t at = p;

	if (rc)
		return rc;
	for (uint32_t i = 0; i < self.ndevices; i++)
		if (atomic_load(&self.ctx[i].active))
			context_sync(&self.ctx[i]);
	pthread_mutex_lock(&self.lk);
	while (at < p + bytes && !rc) { /* whole mappings only */
		struct range *r = range_at(at);

		rc = r && r->kind == RANGE_VMM && r->va == at && at + r->bytes <= p + bytes ? CUDA_SUCCESS
											    : CUDA_ERROR_INVALID_VALUE;
		at += rc ? 0 : r->bytes;
	}
	for (at = p; at < p + bytes && !rc;) {
		struct range *r = range_at(at);
		struct memory *mem = r->memory;
		uint64_t id = r->memory_id;

		at += r->bytes;
		range_remove(r);
		atomic_fetch_sub(&self.p->vmm_maps, 1);
		machine_lock();
		unhold(mem, id);
		machine_unlock();
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

static void set_access(struct range *r, const CUmemAccessDesc *who, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t bit = 1u << self.visible[who[i].location.id];

		r->gpus = who[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? r->gpus | bit : r->gpus & ~bit;
	}
	r->access = r->gpus != 0;
}

FAKE_API CUresult cuMemSetAccess(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *who, size_t n)
{
	CUresult rc = enter("cuMemSetAccess");
	uint64_t at = p;

	if (rc)
		return rc;
	if (!who || !n || !bytes)
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < n; i++)
		if (who[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || who[i].location.id < 0 ||
		    (uint32_t)who[i].location.id >= self.ndevices || (unsigned)who[i].flags > 3)
			return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	for (int pass = 0; pass < 2 && !rc; pass++) {
		for (at = p; at < p + bytes && !rc;) {
			struct range *r = range_at(at);

			if (!r || r->kind != RANGE_VMM || r->va != at || at + r->bytes > p + bytes)
				rc = CUDA_ERROR_INVALID_VALUE;
			else if (pass)
				set_access(r, who, n);
			at += r ? r->bytes : 0;
		}
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}
