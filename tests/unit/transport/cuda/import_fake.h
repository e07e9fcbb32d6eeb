/* import_fake.h - what importing asks of a CUDA driver, by hand: allocations of other processes that may be freed, one open per
 * allocation, and every call can be made to fail. Counts what is open, so that a leak or a second open shows. */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_IMPORT_FAKE_H
#define TESTS_UNIT_TRANSPORT_CUDA_IMPORT_FAKE_H

#include "transport/cuda/import_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#define ALLOCS  128
#define MIB     (UINT64_C(1) << 20)
#define GPU_MEM (UINT64_C(80) << 30)
#define UUID    "3b1f3c52-0000-4000-8000-000000000007"

/* An allocation of another process. Its address here is FAKE_AT(id). */
struct fake_alloc {
	bool there, ours, fabric;
	uint64_t bytes;
	uint32_t open;  /* handles opened, or imported */
	CUdeviceptr at; /* virtual memory: mapped here; 0: nowhere */
};
#define FAKE_AT(id) (UINT64_C(0x700000000000) + ((uint64_t)(id) << 34))

struct fake {
	struct fake_alloc alloc[ALLOCS];
	_Atomic uint64_t calls, contexts;
	uint64_t fail_at, opens, closes, double_opens, events, event_polls, reserved, handles, maps;
	CUresult fail_rc, every_open, every_close;
	bool broken; /* the context: every call fails */
	CUdeviceptr next;
	uint64_t event_ready_after; /* polls */
};
static struct fake fake;

#define FAKE static __attribute__((unused))

/* The context that is current in this thread: without it no call is allowed. */
static _Thread_local CUcontext fake_current;
#define FAKE_CONTEXT ((CUcontext)&fake)

/* Every call comes through here; `memory`: it needs a context. */
FAKE CUresult fake_call(bool memory)
{
	fake.calls++;
	if (memory && (!fake.contexts || fake_current != FAKE_CONTEXT))
		fail_msg("a driver call without a context");
	if (fake.broken && memory)
		return CUDA_ERROR_ILLEGAL_ADDRESS;
	return fake.fail_at && fake.calls == fake.fail_at ? fake.fail_rc : CUDA_SUCCESS;
}

#define FAKE_CALL_(memory)                             \
	do {                                           \
		CUresult fake_rc_ = fake_call(memory); \
		if (fake_rc_)                          \
			return fake_rc_;               \
	} while (0)
#define FAKE_CALL FAKE_CALL_(true)

/* ---- the device and its context --------------------------------------------------------------------------------------------------- */

FAKE CUresult fake_device(CUdevice *device, int ordinal)
{
	*device = 7 + ordinal;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_device_name(char *out, int cap, CUdevice device)
{
	snprintf(out, (size_t)cap, "fake %d", device);
	return CUDA_SUCCESS;
}

FAKE CUresult fake_pci(char *out, int cap, CUdevice device)
{
	snprintf(out, (size_t)cap, "0000:%02d:00.0", device);
	return CUDA_SUCCESS;
}

FAKE CUresult fake_uuid(CUuuid *u, CUdevice device)
{
	static const uint8_t bytes[16] = {0x3b, 0x1f, 0x3c, 0x52, 0, 0, 0x40, 0, 0x80};

	memcpy(u->bytes, bytes, sizeof(bytes));
	u->bytes[15] = (char)device;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_attribute(int *value, CUdevice_attribute which, CUdevice device)
{
	(void)which, (void)device;
	*value = 1;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_total(size_t *bytes, CUdevice device)
{
	(void)device;
	*bytes = GPU_MEM;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_retain(CUcontext *ctx, CUdevice device)
{
	assert_int_equal(device, 7);
	FAKE_CALL_(false);
	fake.contexts++;
	*ctx = FAKE_CONTEXT;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_release(CUdevice device)
{
	assert_int_equal(device, 7);
	assert_true(fake.contexts > 0);
	fake.contexts--;
	for (uint32_t i = 0; i < ALLOCS; i++) {
		if (!fake.broken && fake.alloc[i].open)
			fail_msg("the context goes, and a mapping is left");
	}
	return fake_call(false);
}

/* All that was in it goes with it. */
FAKE CUresult fake_context_reset(CUdevice device)
{
	assert_int_equal(device, 7);
	fake.broken = false;
	fake.reserved = fake.handles = fake.maps = fake.events = 0;
	for (uint32_t i = 0; i < ALLOCS; i++)
		fake.alloc[i].open = 0;
	return fake_call(false);
}

FAKE CUresult fake_set(CUcontext ctx)
{
	FAKE_CALL_(false);
	fake_current = ctx;
	return CUDA_SUCCESS;
}

/* ---- memory by handles --------------------------------------------------------------------------------------------------------- */

FAKE struct fake_alloc *fake_of(const void *handle)
{
	uint32_t id;

	memcpy(&id, (const char *)handle + 8, sizeof(id));
	return memcmp(handle, "alloc", 5) == 0 && id < ALLOCS ? &fake.alloc[id] : NULL;
}

FAKE CUresult fake_ipc_open(CUdeviceptr *p, CUipcMemHandle h, unsigned flags)
{
	struct fake_alloc *a = fake_of(&h);

	assert_int_equal(flags, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	fake.opens++;
	FAKE_CALL;
	if (fake.every_open)
		return fake.every_open;
	if (!a || !a->there)
		return CUDA_ERROR_INVALID_HANDLE;
	if (a->ours)
		return CUDA_ERROR_INVALID_CONTEXT;
	if (a->open) {
		fake.double_opens++;
		return CUDA_ERROR_ALREADY_MAPPED;
	}
	a->open = 1;
	*p = FAKE_AT(a - fake.alloc);
	return CUDA_SUCCESS;
}

FAKE CUresult fake_ipc_close(CUdeviceptr p)
{
	uint64_t id = (p - FAKE_AT(0)) >> 34;

	FAKE_CALL;
	if (fake.every_close)
		return fake.every_close;
	if (id >= ALLOCS || p != FAKE_AT(id) || !fake.alloc[id].open)
		fail_msg("closed what is not open");
	fake.alloc[id].open = 0;
	fake.closes++;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_range(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	FAKE_CALL;
	for (uint32_t i = 0; i < ALLOCS; i++) {
		CUdeviceptr at = fake.alloc[i].at ? fake.alloc[i].at : FAKE_AT(i);

		if (fake.alloc[i].open && p >= at && p - at < fake.alloc[i].bytes) {
			*base = at;
			*bytes = fake.alloc[i].bytes;
			return CUDA_SUCCESS;
		}
	}
	return CUDA_ERROR_INVALID_VALUE;
}

/* ---- events: a handle of "event" ------------------------------------------------------------------------------------------------- */

FAKE CUresult fake_event_open(CUevent *e, CUipcEventHandle h)
{
	FAKE_CALL;
	if (memcmp(&h, "event", 5) != 0)
		return CUDA_ERROR_INVALID_HANDLE;
	fake.events++;
	*e = (CUevent)&fake;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_event_query(CUevent e)
{
	assert_ptr_equal(e, &fake);
	FAKE_CALL;
	return fake.event_polls++ < fake.event_ready_after ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

FAKE CUresult fake_event_destroy(CUevent e)
{
	assert_ptr_equal(e, &fake);
	fake.events--;
	FAKE_CALL;
	return CUDA_SUCCESS;
}

/* ---- virtual memory: a handle is the allocation's number + 1 ------------------------------------------------------------------------ */

FAKE CUresult fake_reserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr at, unsigned long long flags)
{
	FAKE_CALL;
	assert_true(align == 0 && at == 0 && flags == 0);
	if (bytes % (2 * MIB))
		return CUDA_ERROR_INVALID_VALUE;
	*p = fake.next += UINT64_C(1) << 40;
	fake.reserved++;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_unreserve(CUdeviceptr p, size_t bytes)
{
	(void)p;
	FAKE_CALL;
	assert_true(bytes > 0 && fake.reserved > 0);
	fake.reserved--;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_import(CUmemGenericAllocationHandle *h, void *in, CUmemAllocationHandleType type)
{
	uint32_t id = ALLOCS;
	struct fake_alloc *a;

	fake.opens++;
	FAKE_CALL;
	if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
		a = fake_of(in);
	} else {
		a = pread((int)(intptr_t)in, &id, sizeof(id), 0) == sizeof(id) && id < ALLOCS ? &fake.alloc[id] : NULL;
	}
	if (!a || !a->there)
		return CUDA_ERROR_UNKNOWN;
	a->open++;
	fake.handles++;
	*h = (CUmemGenericAllocationHandle)(a - fake.alloc) + 1;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_free(CUmemGenericAllocationHandle h)
{
	FAKE_CALL;
	assert_true(h > 0 && h <= ALLOCS && fake.alloc[h - 1].open > 0);
	fake.alloc[h - 1].open--;
	fake.handles--;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_map(CUdeviceptr p, size_t bytes, size_t offset, CUmemGenericAllocationHandle h,
		       unsigned long long flags)
{
	FAKE_CALL;
	assert_true(offset == 0 && flags == 0);
	if (bytes > fake.alloc[h - 1].bytes)
		return CUDA_ERROR_INVALID_VALUE;
	fake.alloc[h - 1].at = p;
	fake.maps++;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_unmap(CUdeviceptr p, size_t bytes)
{
	(void)bytes;
	FAKE_CALL;
	if (fake.every_close)
		return fake.every_close;
	for (uint32_t i = 0; i < ALLOCS; i++) {
		if (fake.alloc[i].at == p) {
			fake.alloc[i].at = 0;
			fake.maps--;
			return CUDA_SUCCESS;
		}
	}
	return CUDA_ERROR_INVALID_VALUE;
}

FAKE CUresult fake_access(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *who, size_t n)
{
	(void)p, (void)bytes;
	FAKE_CALL;
	assert_true(n == 1 && who->location.type == CU_MEM_LOCATION_TYPE_DEVICE && who->location.id == 7);
	return CUDA_SUCCESS;
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------------- */

FAKE CUresult fake_info(size_t *f, size_t *t)
{
	*f = *t = GPU_MEM;
	FAKE_CALL;
	return CUDA_SUCCESS;
}

FAKE CUresult fake_name(CUresult rc, const char **name)
{
	static const struct {
		CUresult rc;
		const char *name;
	} names[] = {{CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
		     {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
		     {CUDA_ERROR_MAP_FAILED, "CUDA_ERROR_MAP_FAILED"},
		     {CUDA_ERROR_ALREADY_MAPPED, "CUDA_ERROR_ALREADY_MAPPED"},
		     {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (names[i].rc == rc) {
			*name = names[i].name;
			return CUDA_SUCCESS;
		}
	}
	return CUDA_ERROR_INVALID_VALUE;
}

static struct cuda_driver fake_cu = {
	.cuDeviceGet = fake_device,
	.cuDeviceGetName = fake_device_name,
	.cuDeviceGetPCIBusId = fake_pci,
	.cuDeviceGetUuid = fake_uuid,
	.cuDeviceGetAttribute = fake_attribute,
	.cuDeviceTotalMem = fake_total,
	.cuDevicePrimaryCtxRetain = fake_retain,
	.cuDevicePrimaryCtxRelease = fake_release,
	.cuDevicePrimaryCtxReset = fake_context_reset,
	.cuCtxSetCurrent = fake_set,
	.cuGetErrorName = fake_name,
	.cuMemGetInfo = fake_info,
	.cuIpcOpenMemHandle = fake_ipc_open,
	.cuIpcCloseMemHandle = fake_ipc_close,
	.cuMemGetAddressRange = fake_range,
	.cuIpcOpenEventHandle = fake_event_open,
	.cuEventQuery = fake_event_query,
	.cuEventDestroy = fake_event_destroy,
	.cuMemImportFromShareableHandle = fake_import,
	.cuMemAddressReserve = fake_reserve,
	.cuMemAddressFree = fake_unreserve,
	.cuMemMap = fake_map,
	.cuMemUnmap = fake_unmap,
	.cuMemSetAccess = fake_access,
	.cuMemRelease = fake_free,
};

/* ---- a door with one GPU: what of it importing uses, without its thread -------------------------------------------------------------- */

FAKE int fake_setup(void **state)
{
	struct gpu_door *d = mem_calloc(1, sizeof(*d));

	assert_non_null(d);
	memset(fake.alloc, 0, sizeof(fake.alloc));
	fake.calls = fake.fail_at = fake.contexts = fake.opens = fake.closes = fake.double_opens = 0;
	fake.event_polls = fake.event_ready_after = 0;
	fake.every_open = fake.every_close = fake.fail_rc = CUDA_SUCCESS;
	fake.broken = false;
	d->cu = &fake_cu;
	d->ngpus = 1;
	assert_int_equal(gpu_init(d, 0, NULL), 0);
	assert_string_equal(d->gpu[0].facts.uuid, UUID);
	assert_true(d->gpu[0].facts.vmm && d->gpu[0].facts.fabric && !d->gpu[0].facts.mig);
	*state = d;
	return 0;
}

/* Everything must have been given back. */
FAKE int fake_teardown(void **state)
{
	struct gpu_door *d = *state;

	gpu_fini(&d->gpu[0]);
	assert_int_equal(d->gpu[0].users, 0);
	assert_int_equal(fake.contexts, 0);
	assert_int_equal(fake.double_opens, 0);
	assert_int_equal(fake.events, 0);
	assert_int_equal(fake.reserved, 0);
	assert_int_equal(fake.handles, 0);
	assert_int_equal(fake.maps, 0);
	for (uint32_t i = 0; i < ALLOCS; i++)
		assert_int_equal(fake.alloc[i].open, 0);
	mem_free(d);
	return 0;
}

FAKE void fake_alloc(uint32_t id, uint64_t bytes)
{
	fake.alloc[id] = (struct fake_alloc){.there = true, .bytes = bytes};
}

/* ---- wrappers ------------------------------------------------------------------------------------------------------------------- */

struct fake_wrapper {
	struct pk_wrapper w;
	uint8_t handle[64], event[64], id[16];
	char name[64];
};

/* Kind A of allocation `id`: [16, 4] float16 at `offset`. Slices point into the struct: do not copy it. */
FAKE void fake_ipc(struct fake_wrapper *f, uint32_t id, uint64_t offset, uint64_t bytes)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->handle, "alloc", 5);
	memcpy(f->handle + 8, &id, sizeof(id));
	f->w = (struct pk_wrapper){.kind = PK_CUDA_IPC,
				   .dtype = PK_FLOAT16,
				   .ndim = 2,
				   .shape = {16, 4},
				   .stride = {4, 1},
				   .device_uuid = slice_str(UUID),
				   .mem_handle = slice_of(f->handle, 64),
				   .event_handle = slice_of(f->event, 64),
				   .refcount_name = slice_of(f->name, 0),
				   .base_offset = offset,
				   .storage_bytes = bytes};
}

FAKE void fake_raw(struct fake_wrapper *f, uint32_t id, uint64_t offset, uint64_t bytes)
{
	fake_ipc(f, id, 0, 0);
	f->w.kind = PK_RAW_CUDA_IPC;
	f->w.base_offset = f->w.storage_bytes = 0;
	f->w.event_handle = slice_of(NULL, 0);
	f->w.alloc_offset = offset;
	f->w.nbytes = bytes;
}

FAKE void fake_vmm(struct fake_wrapper *f, uint32_t id, uint64_t alloc_bytes, uint64_t offset, uint64_t bytes)
{
	fake_raw(f, id, offset, bytes);
	f->w.kind = PK_VMM_CUDA_IPC;
	f->w.vmm_fabric = true;
	f->w.fabric_blob = f->w.mem_handle;
	f->w.mem_handle = slice_of(NULL, 0);
	memcpy(f->id, "export", 6);
	memcpy(f->id + 8, &id, sizeof(id));
	f->w.export_id = slice_of(f->id, 16);
	f->w.alloc_bytes = alloc_bytes;
}

/* ---- what tests do ------------------------------------------------------------------------------------------------------------------- */

FAKE int import(struct gpu_door *d, const struct pk_wrapper *w, struct gpu_view **out, struct why *why)
{
	*out = NULL;
	return gpu_import(d, w, 0, out, why);
}

FAKE struct gpu_view *must(struct gpu_door *d, const struct pk_wrapper *w)
{
	struct gpu_view *v;
	struct why why = {0};

	if (import(d, w, &v, &why) != 0)
		fail_msg("refused: %s", why.text);
	return v;
}

FAKE void refused(struct gpu_door *d, const struct pk_wrapper *w, int err, const char *words)
{
	struct gpu_view *v;
	struct why why = {0};

	assert_int_equal(import(d, w, &v, &why), err);
	assert_null(v);
	assert_int_equal(why.err, err);
	if (!strstr(why.text, words))
		fail_msg("'%s' does not say '%s'", why.text, words);
}

/* Refused before the driver hears of it. */
FAKE void refused_unopened(struct gpu_door *d, const struct pk_wrapper *w, int err, const char *words)
{
	uint64_t calls = fake.calls;

	refused(d, w, err, words);
	assert_int_equal(fake.calls, calls);
	assert_int_equal(d->gpu[0].users, 0);
}

FAKE void counts(struct gpu_door *d, uint64_t views, uint64_t allocations, uint64_t bytes)
{
	uint64_t v, a, b;

	imports_count(&d->gpu[0], &v, &a, &b);
	assert_int_equal(v, views);
	assert_int_equal(a, allocations);
	assert_int_equal(b, bytes);
}

#endif
