/* Registrations of GPU memory, on a driver that has whatever a handle asks for. The first byte picks: even = a wrapper's pickle follows;
 * odd = the fields of a wrapper, as no pickle may ever have them. Whatever is imported must lie within the allocation, and nothing may be
 * left of it after. */
#include "daemon/base/log.h"
#include "transport/cuda/import_int.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define GPU_BYTES (UINT64_C(1) << 36)
#define AT        UINT64_C(0x700000000000)

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- the driver: one allocation at a time, of the size that the last bytes of its handle say ------------------------------------------ */

static struct {
	uint64_t bytes, opens, closes, contexts, events, reserved, handles, maps;
} dev;

static CUresult retain(CUcontext *ctx, CUdevice d)
{
	(void)d;
	*ctx = (CUcontext)&dev;
	dev.contexts++;
	return CUDA_SUCCESS;
}

static CUresult release(CUdevice d)
{
	(void)d;
	dev.contexts--;
	return CUDA_SUCCESS;
}

static CUresult set_current(CUcontext ctx)
{
	(void)ctx;
	return CUDA_SUCCESS;
}

static CUresult info(size_t *f, size_t *t)
{
	*f = *t = GPU_BYTES;
	return CUDA_SUCCESS;
}

static void size_by(const void *handle)
{
	uint32_t n;

	memcpy(&n, (const char *)handle + 60, sizeof(n));
	dev.bytes = ((uint64_t)n % (GPU_BYTES >> 12) + 1) << 12;
}

static CUresult ipc_open(CUdeviceptr *p, CUipcMemHandle h, unsigned flags)
{
	must(flags == CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS && dev.opens == dev.closes);
	if (h.reserved[0] == 'x')
		return CUDA_ERROR_UNKNOWN;
	size_by(&h);
	dev.opens++;
	*p = AT;
	return CUDA_SUCCESS;
}

static CUresult ipc_close(CUdeviceptr p)
{
	must(p == AT && dev.opens == dev.closes + 1);
	dev.closes++;
	return CUDA_SUCCESS;
}

static CUresult range(CUdeviceptr *base, size_t *bytes, CUdeviceptr p)
{
	must(p == AT);
	*base = AT;
	*bytes = dev.bytes;
	return CUDA_SUCCESS;
}

static CUresult event_open(CUevent *e, CUipcEventHandle h)
{
	if (h.reserved[0] & 1)
		return CUDA_ERROR_INVALID_HANDLE;
	*e = (CUevent)&dev;
	dev.events++;
	return CUDA_SUCCESS;
}

static CUresult event_query(CUevent e)
{
	(void)e;
	return CUDA_SUCCESS;
}

static CUresult event_close(CUevent e)
{
	(void)e;
	dev.events--;
	return CUDA_SUCCESS;
}

static CUresult reserve(CUdeviceptr *p, size_t bytes, size_t align, CUdeviceptr at, unsigned long long flags)
{
	(void)align, (void)at, (void)flags;
	must(bytes <= GPU_BYTES);
	if (!bytes || bytes % 4096)
		return CUDA_ERROR_INVALID_VALUE;
	*p = AT;
	dev.reserved++;
	return CUDA_SUCCESS;
}

static CUresult unreserve(CUdeviceptr p, size_t bytes)
{
	must(p == AT && bytes);
	dev.reserved--;
	return CUDA_SUCCESS;
}

static CUresult import(CUmemGenericAllocationHandle *h, void *in, CUmemAllocationHandleType type)
{
	must(type == CU_MEM_HANDLE_TYPE_FABRIC); /* nobody's process is known */
	size_by(in);
	*h = 1;
	dev.handles++;
	return CUDA_SUCCESS;
}

static CUresult release_handle(CUmemGenericAllocationHandle h)
{
	must(h == 1);
	dev.handles--;
	return CUDA_SUCCESS;
}

static CUresult map(CUdeviceptr p, size_t bytes, size_t offset, CUmemGenericAllocationHandle h,
		    unsigned long long flags)
{
	must(p == AT && offset == 0 && h == 1 && flags == 0);
	if (bytes != dev.bytes)
		return CUDA_ERROR_INVALID_VALUE;
	dev.maps++;
	return CUDA_SUCCESS;
}

static CUresult unmap(CUdeviceptr p, size_t bytes)
{
	must(p == AT && bytes == dev.bytes);
	dev.maps--;
	return CUDA_SUCCESS;
}

static CUresult access_(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *who, size_t n)
{
	(void)p, (void)bytes, (void)who, (void)n;
	return CUDA_SUCCESS;
}

static CUresult name_of(CUresult rc, const char **name)
{
	*name = rc ? "CUDA_ERROR" : "CUDA_SUCCESS";
	return CUDA_SUCCESS;
}

static const struct cuda_driver cu = {
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

/* ---- one import ---------------------------------------------------------------------------------------------------------------------------- */

/* Element by element from the far end, in 128 bits, apart from how it is done in import.c. */
static void within(const struct pk_wrapper *w, const struct gpu_view *v)
{
	unsigned __int128 end = w->storage_offset;

	must(w->ndim > 0 && w->ndim <= PK_MAX_DIMS);
	for (uint32_t i = 0; i < w->ndim; i++) {
		must(w->shape[i] > 0 && w->stride[i] >= 0);
		end += (unsigned __int128)(w->shape[i] - 1) * (uint64_t)w->stride[i];
		must(end < (unsigned __int128)1 << 64);
	}
	end = (end + 1) * pk_dtype_size(w->dtype);
	must(end <= gpu_view_bytes(v));
	must(gpu_view_address(v) >= AT && gpu_view_address(v) - AT + gpu_view_bytes(v) <= dev.bytes);
}

static void try_import(struct gpu_door *d, const struct pk_wrapper *w)
{
	struct gpu *g = &d->gpu[0];
	size_t n = w->device_uuid.n < sizeof(g->facts.uuid) - 1 ? w->device_uuid.n : sizeof(g->facts.uuid) - 1;
	struct gpu_view *v = NULL, *again = NULL;
	struct why why = {0};

	memset(g->facts.uuid, 0, sizeof(g->facts.uuid));
	if (n)
		memcpy(g->facts.uuid, w->device_uuid.p, n);
	if (gpu_import(d, w, 0, &v, &why) == 0) {
		within(w, v);
		must(gpu_import(d, w, 0, &again, NULL) == 0 && gpu_view_address(again) == gpu_view_address(v));
		gpu_view_put(v);
		gpu_view_put(again);
	} else {
		must(!v && why.err < 0 && why.text[0] && memchr(why.text, '\0', sizeof(why.text)));
	}
	must(g->users == 0 && dev.contexts == 0 && dev.opens == dev.closes);
	must(!dev.events && !dev.reserved && !dev.handles && !dev.maps);
}

static void from_fields(struct gpu_door *d, const uint8_t *p, size_t n)
{
	struct pk_wrapper w = {.device_uuid = slice_str("3b1f3c52-0000-4000-8000-000000000007"),
			       .refcount_name = slice_str("/torch_none_here")};
	uint64_t fields[24] = {0};
	uint8_t handle[64] = {1};

	memcpy(fields, p, n < sizeof(fields) ? n : sizeof(fields));
	memcpy(handle + 60, fields, 4);
	w.kind = (enum pk_kind)(fields[0] >> 32 & 7);
	w.dtype = (enum pk_dtype)(fields[0] >> 40 & 31);
	w.ndim = (uint32_t)(fields[0] >> 48 & 15);
	w.vmm_fabric = fields[0] >> 56 & 1;
	w.event_sync = fields[0] >> 57 & 1;
	w.has_fd = fields[0] >> 58 & 1;
	w.mem_handle = w.fabric_blob = w.event_handle = slice_of(handle, 64);
	w.export_id = slice_of(handle, 16);
	for (uint32_t i = 0; i < PK_MAX_DIMS; i++) {
		w.shape[i] = fields[1 + i];
		w.stride[i] = (int64_t)fields[9 + i];
	}
	w.storage_offset = fields[17];
	w.base_offset = w.alloc_offset = fields[18];
	w.storage_bytes = w.nbytes = fields[19];
	w.alloc_bytes = fields[20];
	w.refcount_index = fields[21];
	try_import(d, &w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pk_mem *mem; /* one per process, as a server thread has it */
	static struct gpu_door *d;
	struct pk_wrapper w;

	if (!mem) {
		d = calloc(1, sizeof(*d));
		must(d && pk_mem_create(&mem) == 0);
		d->cu = &cu;
		d->ngpus = 1;
		d->gpu[0].door = d;
		lk_init(&d->gpu[0].lk, LK_GPU);
		d->gpu[0].facts = (struct gpu_facts){.bytes = GPU_BYTES, .vmm = true, .fabric = true};
		log_set_level(LOG_LVL_ERROR);
	}
	if (size == 0)
		return 0;
	if (data[0] & 1)
		from_fields(d, data + 1, size - 1);
	else if (pk_wrapper_parse(slice_of(data + 1, size - 1), mem, &w, NULL) == 0)
		try_import(d, &w);
	return 0;
}
