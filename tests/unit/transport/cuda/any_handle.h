/* any_handle.h - a driver that maps whatever a handle asks for, one allocation at a time, and a door with one GPU on it: for fuzzing
 * imports. It aborts when it is not used as it should be. */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_ANY_HANDLE_H
#define TESTS_UNIT_TRANSPORT_CUDA_ANY_HANDLE_H

#include "transport/cuda/import_int.h"

#include <stdlib.h>
#include <string.h>

#define GPU_BYTES (UINT64_C(1) << 36)
#define AT        UINT64_C(0x700000000000)

static inline void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- the driver: one allocation at a time, of the size that the last bytes of its handle say ------------------------------------------ */

static struct {
	uint64_t bytes, opens, closes, contexts, events, reserved, handles, maps;
} dev;

static inline CUresult retain(CUcontext *ctx, CUdevice d)
{
	(void)d;
	*ctx = (CUcontext)&dev;
	dev.contexts++;
	return CUDA_SUCCESS;
}

static inline CUresult release(CUdevice d)
{
	(void)d;
	dev.contexts--;
	return CUDA_SUCCESS;
}

static inline CUresult set_current(CUcontext ctx)
{
	(void)ctx;
	return CUDA_SUCCESS;
}

static inline CUresult info(size_t *f, size_t *t)
{
	*f = *t = GPU_BYTES;
	return CUDA_SUCCESS;
}

static inline void size_by(const void *handle)
{
	uint32_t n;

	memcpy(&n, (const char *)handle + 60, sizeof(n));
	dev.bytes = ((uint64_t)n % (GPU_BYTES >> 12) + 1) << 12;
}

static inline CUresult ipc_open(CUdeviceptr *p, CUipcMemHandle h, unsigned flags)
{
	must(flags == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS && dev.opens == dev.closes);
	if (h.reserved[0] == 'x')
		return CUDA_ERROR_UNKNOWN;
	size_by(&h);
	dev.opens++;
	*p = AT;
	return CUDA_SUCCESS;
}

static inline CUresult ipc_close(CUdeviceptr p)
{
	must(p == AT && dev.opens == dev.closes + 1);
	dev.closes++;
	return CUDA_SUCCESS;
}

static inline CUresult range(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	must(p == AT);
	*base = AT;
	*bytes = dev.bytes;
	return CUDA_SUCCESS;
}

static inline CUresult event_open(CUevent *e, CUipcEventHandle h)
{
	if (h.reserved[0] & 1)
		return CUDA_ERROR_INVALID_HANDLE;
	*e = (CUevent)&dev;
	dev.events++;
	return CUDA_SUCCESS;
}

static inline CUresult event_query(CUevent e)
{
	(void)e;
	return CUDA_SUCCESS;
}

static inline CUresult event_close(CUevent e)
{
	(void)e;
	dev.events--;
	return CUDA_SUCCESS;
}

static inline CUresult reserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr at, unsigned long long flags)
{
	(void)align, (void)at, (void)flags;
	must(bytes <= GPU_BYTES);
	if (!bytes || bytes % 4096)
		return CUDA_ERROR_INVALID_VALUE;
	*p = AT;
	dev.reserved++;
	return CUDA_SUCCESS;
}

static inline CUresult unreserve(CUdeviceptr p, size_t bytes)
{
	must(p == AT && bytes);
	dev.reserved--;
	return CUDA_SUCCESS;
}

static inline CUresult import(CUmemGenericAllocationHandle *h, void *in, CUmemAllocationHandleType type)
{
	must(type == CU_MEM_HANDLE_TYPE_FABRIC); /* nobody's process is known */
	size_by(in);
	*h = 1;
	dev.handles++;
	return CUDA_SUCCESS;
}

static inline CUresult release_handle(CUmemGenericAllocationHandle h)
{
	must(h == 1);
	dev.handles--;
	return CUDA_SUCCESS;
}

static inline CUresult map(CUdeviceptr p, size_t bytes, size_t offset, CUmemGenericAllocationHandle h,
			   unsigned long long flags)
{
	must(p == AT && offset == 0 && h == 1 && flags == 0);
	if (bytes != dev.bytes)
		return CUDA_ERROR_INVALID_VALUE;
	dev.maps++;
	return CUDA_SUCCESS;
}

static inline CUresult unmap(CUdeviceptr p, size_t bytes)
{
	must(p == AT && bytes == dev.bytes);
	dev.maps--;
	return CUDA_SUCCESS;
}

static inline CUresult access_(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *who, size_t n)
{
	(void)p, (void)bytes, (void)who, (void)n;
	return CUDA_SUCCESS;
}

static inline CUresult name_of(CUresult rc, const char **name)
{
	*name = rc ? "CUDA_ERROR" : "CUDA_SUCCESS";
	return CUDA_SUCCESS;
}

static const struct cuda_driver any_handle = {
	.cuGetErrorName = name_of,
	.cuDevicePrimaryCtxRetain = retain,
	.cuDevicePrimaryCtxRelease = release,
	.cuCtxSetCurrent = set_current,
	.cuMemGetInfo = info,
	.cuIpcOpenMemHandle = ipc_open,
	.cuIpcCloseMemHandle = ipc_close,
	.cuMemGetAddressRange = range,
	.cuIpcOpenEventHandle = event_open,
	.cuEventQuery = event_query,
	.cuEventDestroy = event_close,
	.cuMemAddressReserve = reserve,
	.cuMemAddressFree = unreserve,
	.cuMemImportFromShareableHandle = import,
	.cuMemRelease = release_handle,
	.cuMemMap = map,
	.cuMemUnmap = unmap,
	.cuMemSetAccess = access_,
};

static inline struct gpu_door *any_handle_door(void)
{
	struct gpu_door *d = calloc(1, sizeof(*d));

	must(d != NULL);
	d->cu = &any_handle;
	d->ngpus = 1;
	d->gpu[0].door = d;
	lk_init(&d->gpu[0].lk, LK_GPU);
	d->gpu[0].facts = (struct gpu_facts){.bytes = GPU_BYTES, .vmm = true, .fabric = true};
	return d;
}

/* The GPU is the one that the next wrapper names. */
static inline void any_handle_name(struct gpu_door *d, struct slice uuid)
{
	struct gpu_facts *f = &d->gpu[0].facts;

	memset(f->uuid, 0, sizeof(f->uuid));
	if (uuid.n)
		memcpy(f->uuid, uuid.p, uuid.n < sizeof(f->uuid) ? uuid.n : sizeof(f->uuid) - 1);
}

static inline void any_handle_nothing_left(const struct gpu_door *d)
{
	must(d->gpu[0].users == 0 && dev.contexts == 0 && dev.opens == dev.closes);
	must(!dev.events && !dev.reserved && !dev.handles && !dev.maps);
}

#endif
