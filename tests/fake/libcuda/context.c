#include "tests/fake/libcuda/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Thread_local struct context *current;
_Thread_local uint32_t current_epoch;

#define CONTEXT_BITS 0x5c00000000000001ull

CUresult enter(const char *function)
{
	if (!atomic_load(&self.ready) || self.pid != getpid()) /* a forked child has no driver */
		return CUDA_ERROR_NOT_INITIALIZED;
	control_poll();
	return fault_check(function, NULL);
}

CUresult enter_ctx(const char *function)
{
	struct context *c = current;

	if (!atomic_load(&self.ready) || self.pid != getpid())
		return CUDA_ERROR_NOT_INITIALIZED;
	control_poll();
	if (!c)
		return CUDA_ERROR_INVALID_CONTEXT;
	if (!atomic_load(&c->active) || atomic_load(&c->epoch) != current_epoch)
		return CUDA_ERROR_CONTEXT_IS_DESTROYED;
	if (atomic_load(&self.m->gpu[c->gpu].lost))
		context_break(c, CUDA_ERROR_UNKNOWN);
	if (atomic_load(&c->error))
		return atomic_load(&c->error);
	return fault_check(function, c);
}

void context_break(struct context *c, CUresult error)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&c->error, &none, error))
		machine_tick();
}

/* ---- the driver and its devices ----------------------------------------------------------------------------------------------- */

FAKE_API CUresult cuInit(unsigned flags)
{
	CUresult rc;

	if (flags)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	rc = self.pid && self.pid != getpid() ? CUDA_ERROR_NOT_INITIALIZED : machine_attach();
	if (!rc)
		rc = fault_check("cuInit", NULL);
	if (!rc && !self.ndevices)
		rc = CUDA_ERROR_NO_DEVICE;
	if (!rc)
		atomic_store(&self.ready, true);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuDriverGetVersion(int *version)
{
	CUresult rc = CUDA_SUCCESS;

	if (!version)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	rc = machine_attach();
	*version = rc ? 0 : self.m->version;
	pthread_mutex_unlock(&self.lk);
	return rc;
}

static struct gpu_state *gpu_of(CUdevice d, CUresult *rc)
{
	if (d < 0 || (uint32_t)d >= self.ndevices) {
		*rc = CUDA_ERROR_INVALID_DEVICE;
		return NULL;
	}
	return &self.m->gpu[self.visible[d]];
}

FAKE_API CUresult cuDeviceGetCount(int *n)
{
	CUresult rc = enter("cuDeviceGetCount");

	if (!rc && !n)
		rc = CUDA_ERROR_INVALID_VALUE;
	if (!rc)
		*n = (int)self.ndevices;
	return rc;
}

FAKE_API CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	CUresult rc = enter("cuDeviceGet");

	if (!rc && (!device || !gpu_of(ordinal, &rc)))
		rc = rc ? rc : CUDA_ERROR_INVALID_VALUE;
	if (!rc)
		*device = ordinal;
	return rc;
}

static CUresult text(const char *from, char *to, int cap)
{
	if (!to || cap < 1)
		return CUDA_ERROR_INVALID_VALUE;
	snprintf(to, (size_t)cap, "%s", from);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuDeviceGetName(char *name, int cap, CUdevice device)
{
	CUresult rc = enter("cuDeviceGetName");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);

	return g ? text(g->name, name, cap) : rc;
}

FAKE_API CUresult cuDeviceGetPCIBusId(char *id, int cap, CUdevice device)
{
	CUresult rc = enter("cuDeviceGetPCIBusId");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);

	return g ? text(g->pci, id, cap) : rc;
}

FAKE_API CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	CUresult rc = enter("cuDeviceGetUuid");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);

	if (g && uuid)
		memcpy(uuid->bytes, g->uuid, 16);
	return !rc && !uuid ? CUDA_ERROR_INVALID_VALUE : rc;
}

FAKE_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
	CUresult rc = enter("cuDeviceTotalMem");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);

	if (g && bytes)
		*bytes = g->bytes;
	return !rc && !bytes ? CUDA_ERROR_INVALID_VALUE : rc;
}

static int attribute(const struct gpu_state *g, CUdevice_attribute which)
{
	const struct machine *m = self.m;

	switch (which) {
	case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
		return g->mig ? 16 : 132;
	case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
		return 3;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
		return m->cc / 10;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
		return m->cc % 10;
	case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
		return m->value_ops;
	case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
	case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
		return m->vmm;
	case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
		return m->vmm && m->fabric;
	case CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED:
		return !g->mig;
	case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
	case CU_DEVICE_ATTRIBUTE_INTEGRATED:
	case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
	case CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED:
		return 0;
	}
	return -1;
}

FAKE_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
	enum { MAX_THREADS_PER_BLOCK = 1, WARP_SIZE = 10, UNIFIED_ADDRESSING = 41 };
	CUresult rc = enter("cuDeviceGetAttribute");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);
	int v;

	if (rc)
		return rc;
	if (!value)
		return CUDA_ERROR_INVALID_VALUE;
	v = attribute(g, which);
	if (v < 0)
		v = (int)which == MAX_THREADS_PER_BLOCK ? 1024
		    : (int)which == WARP_SIZE           ? 32
		    : (int)which == UNIFIED_ADDRESSING  ? 1
							: 0;
	if ((int)which < 1 || (int)which > 150)
		return CUDA_ERROR_INVALID_VALUE;
	*value = v;
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuDeviceCanAccessPeer(int *can, CUdevice a, CUdevice b)
{
	CUresult rc = enter("cuDeviceCanAccessPeer");

	if (rc || !gpu_of(a, &rc) || !gpu_of(b, &rc))
		return rc;
	*can = a != b;
	return rc;
}

/* ---- contexts ----------------------------------------------------------------------------------------------------------------- */

static struct context *find_context(CUcontext ctx)
{
	uint64_t h = (uint64_t)(uintptr_t)ctx - CONTEXT_BITS;

	return h < self.ndevices ? &self.ctx[h] : NULL;
}

static CUcontext handle_of(const struct context *c)
{
	return c ? (CUcontext)(uintptr_t)(CONTEXT_BITS + (uint64_t)c->device) : NULL;
}

FAKE_API CUresult cuDevicePrimaryCtxRetain(CUcontext *ctx, CUdevice device)
{
	CUresult rc = enter("cuDevicePrimaryCtxRetain");
	struct gpu_state *g = rc ? NULL : gpu_of(device, &rc);
	struct context *c;

	if (rc)
		return rc;
	if (!ctx)
		return CUDA_ERROR_INVALID_VALUE;
	if (atomic_load(&g->lost))
		return CUDA_ERROR_DEVICE_UNAVAILABLE;
	c = &self.ctx[device];
	pthread_mutex_lock(&self.lk);
	if (atomic_load(&c->dying)) {
		rc = CUDA_ERROR_INVALID_CONTEXT;
	} else if (c->retains++ == 0) {
		if (!self.process_sticky)
			atomic_store(&c->error, 0);
		atomic_fetch_add(&c->epoch, 1);
		atomic_store(&c->active, true);
		atomic_fetch_add(&self.p->contexts, 1);
	}
	if (!rc)
		*ctx = handle_of(c);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* Everything that was made in it goes. */
static void destroy(struct context *c)
{
	atomic_store(&c->dying, true);
	atomic_store(&c->active, false);
	machine_tick();
	streams_end(c);
	for (uint32_t i = 0; i < self.nranges;) {
		struct range *r = self.range[i];

		if (r->ctx == c && r->kind != RANGE_VMM && r->kind != RANGE_HOST)
			range_release(r);
		else
			i++;
	}
	pins_drop(c);
	events_of_context(c);
	modules_of_context(c);
	atomic_store(&c->dying, false);
	atomic_fetch_sub(&self.p->contexts, 1);
}

FAKE_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	CUresult rc = enter("cuDevicePrimaryCtxRelease");
	struct context *c;

	if (rc || !gpu_of(device, &rc))
		return rc;
	c = &self.ctx[device];
	pthread_mutex_lock(&self.lk);
	if (!c->retains || atomic_load(&c->dying))
		rc = CUDA_ERROR_INVALID_CONTEXT;
	else if (--c->retains == 0)
		destroy(c);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
	CUresult rc = enter("cuDevicePrimaryCtxReset");
	struct context *c;

	if (rc || !gpu_of(device, &rc))
		return rc;
	c = &self.ctx[device];
	pthread_mutex_lock(&self.lk);
	if (atomic_load(&c->dying)) {
		rc = CUDA_ERROR_INVALID_CONTEXT;
	} else if (atomic_load(&c->active)) {
		c->retains = 0;
		destroy(c);
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
	CUresult rc = enter("cuDevicePrimaryCtxGetState");

	if (rc || !gpu_of(device, &rc))
		return rc;
	if (!flags || !active)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = self.ctx[device].flags;
	*active = atomic_load(&self.ctx[device].active);
	return rc;
}

FAKE_API CUresult cuCtxSetCurrent(CUcontext ctx)
{
	CUresult rc = enter("cuCtxSetCurrent");
	struct context *c = find_context(ctx);

	if (rc)
		return rc;
	if (ctx && (!c || !atomic_load(&c->active)))
		return c ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT;
	current = ctx ? c : NULL;
	current_epoch = ctx ? atomic_load(&c->epoch) : 0;
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuCtxGetCurrent(CUcontext *ctx)
{
	CUresult rc = enter("cuCtxGetCurrent");

	if (!rc && ctx)
		*ctx = handle_of(current);
	return !rc && !ctx ? CUDA_ERROR_INVALID_VALUE : rc;
}

FAKE_API CUresult cuCtxGetDevice(CUdevice *device)
{
	CUresult rc = enter_ctx("cuCtxGetDevice");

	if (!rc)
		*device = current->device;
	return rc;
}

FAKE_API CUresult cuCtxSynchronize(void)
{
	CUresult rc = enter_ctx("cuCtxSynchronize");

	return rc ? rc : context_sync(current);
}

FAKE_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	CUresult rc = enter_ctx("cuCtxGetStreamPriorityRange");

	if (rc)
		return rc;
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	return rc;
}

FAKE_API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
	CUresult rc = enter_ctx("cuMemGetInfo");
	struct gpu_state *g;

	if (rc)
		return rc;
	machine_lock();
	machine_reap();
	machine_unlock();
	g = &self.m->gpu[current->gpu];
	*free_bytes = g->bytes - (uint64_t)atomic_load(&g->used);
	*total = g->bytes;
	return rc;
}
