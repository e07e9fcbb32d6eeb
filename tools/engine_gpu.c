/* engine_gpu.c - GPUs of this process, and the paged KV of one worker: allocations, handles, window. */
#include "tools/engine_gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define TENSORS_PER_ALLOCATION 4u   /* so that several wrappers name the same allocation, as torch's allocator has it */
#define ALIGN                  512u /* of tensors within an allocation, as torch's */
#define COUNTERS_AT            64u  /* torch's count of the file's mappings comes first */
#define COUNTERS_WAIT_MS       2000
#define LIMIT_BYTES            (64u << 20)
#define LIMIT_ROUNDS           5

int egpu_result(const struct egpu *g, CUresult rc, const char *call, struct why *why)
{
	return rc ? why_set(why, cuda_errno(rc), "%s on GPU %u: %s", call, g->device->ordinal, cuda_error(g->cu, rc))
		  : 0;
}

int egpu_enter(struct egpu *g, struct why *why)
{
	return egpu_result(g, g->cu->cuCtxSetCurrent(g->device->ctx), "cuCtxSetCurrent", why);
}

/* ---- GPUs ------------------------------------------------------------------------------------------------------ */

static void write_uuid(const CUuuid *u, char out[40])
{
	char *p = out;
	for (int i = 0; i < 16; i++)
		p += snprintf(p, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u->bytes[i] & 0xff);
}

static int open_device(const struct cuda_driver *cu, uint32_t ordinal, struct egpu_device *d, struct why *why)
{
	CUuuid uuid;
	const char *call = "cuDeviceGet";
	d->ordinal = ordinal;
	CUresult rc = cu->cuDeviceGet(&d->device, (int)ordinal);
	if (!rc) {
		call = "cuDeviceGetName";
		rc = cu->cuDeviceGetName(d->name, sizeof(d->name), d->device);
	}
	if (!rc) {
		call = "cuDeviceGetUuid";
		rc = cu->cuDeviceGetUuid(&uuid, d->device);
	}
	if (!rc) {
		write_uuid(&uuid, d->uuid);
		call = "cuDevicePrimaryCtxRetain";
		rc = cu->cuDevicePrimaryCtxRetain(&d->ctx, d->device);
	}
	if (rc) {
		d->ctx = NULL;
		return why_set(why, cuda_errno(rc), "%s of GPU %u: %s", call, ordinal, cuda_error(cu, rc));
	}
	return 0;
}

static int open_devices(struct egpu_host *h, struct why *why)
{
	int count = 0, rc;
	CUresult cu_rc = h->cu.cuDeviceGetCount(&count);
	if (cu_rc)
		return why_set(why, cuda_errno(cu_rc), "cuDeviceGetCount: %s", cuda_error(&h->cu, cu_rc));
	if (count < 1 || h->conf.ordinal >= count)
		return why_set(why, -ENODEV, "there is no GPU %d: the driver sees %d",
			       h->conf.ordinal < 0 ? 0 : h->conf.ordinal, count);
	uint32_t n = h->conf.ordinal >= 0 || h->conf.workers <= 1 ? 1
		     : (uint32_t)count < h->conf.workers          ? (uint32_t)count
								  : h->conf.workers;
	h->devices = mem_calloc(n, sizeof(*h->devices));
	if (!h->devices)
		return why_set(why, -ENOMEM, "no memory for %u GPUs", n);
	for (rc = 0; h->ndevices < n && !rc; h->ndevices++)
		rc = open_device(&h->cu, h->conf.ordinal >= 0 ? (uint32_t)h->conf.ordinal : h->ndevices,
				 &h->devices[h->ndevices], why);
	return rc;
}

int egpu_host_open(const struct egpu_conf *conf, struct egpu_host **out, struct why *why)
{
	struct egpu_host *h = mem_calloc(1, sizeof(*h));
	if (!h)
		return why_set(why, -ENOMEM, "no memory for GPUs");
	h->conf = *conf;
	int rc = cuda_driver_load(conf->library, &h->cu, why);
	if (!rc)
		rc = open_devices(h, why);
	if (rc) {
		egpu_host_close(h);
		return rc;
	}
	*out = h;
	return 0;
}

void egpu_host_close(struct egpu_host *h)
{
	if (!h)
		return;
	for (uint32_t i = 0; i < h->ndevices; i++)
		if (h->devices[i].ctx)
			h->cu.cuDevicePrimaryCtxRelease(h->devices[i].device);
	mem_free(h->devices);
	mem_free(h);
}

void egpu_host_describe(const struct egpu_host *h, char *buf, size_t cap)
{
	if (h->ndevices == 1)
		snprintf(buf, cap, "cuda:%u %s", h->devices[0].ordinal, h->devices[0].name);
	else
		snprintf(buf, cap, "cuda: %u x %s", h->ndevices, h->devices[0].name);
}

struct limit {
	CUstream stream;
	CUdeviceptr gpu;
	void *host;
};

static double best_of(const struct cuda_driver *cu, const struct limit *l, bool to_gpu)
{
	double best = 0;
	for (int i = 0; i < LIMIT_ROUNDS; i++) {
		uint64_t t0 = clock_ns();
		CUresult rc = to_gpu ? cu->cuMemcpyHtoDAsync(l->gpu, l->host, LIMIT_BYTES, l->stream)
				     : cu->cuMemcpyDtoHAsync(l->host, l->gpu, LIMIT_BYTES, l->stream);
		if (!rc)
			rc = cu->cuStreamSynchronize(l->stream);
		uint64_t ns = clock_ns() - t0;
		double rate = rc || ns == 0 ? 0 : (double)LIMIT_BYTES / (double)ns;
		best = rate > best ? rate : best;
	}
	return best;
}

int egpu_host_limit(struct egpu_host *h, double *to_gpu, double *from_gpu, struct why *why)
{
	struct limit l = {0};
	CUresult rc = h->cu.cuCtxSetCurrent(h->devices[0].ctx);
	if (!rc)
		rc = h->cu.cuStreamCreateWithPriority(&l.stream, CU_STREAM_NON_BLOCKING, 0);
	if (!rc)
		rc = h->cu.cuMemAlloc(&l.gpu, LIMIT_BYTES);
	if (!rc)
		rc = h->cu.cuMemAllocHost(&l.host, LIMIT_BYTES);
	if (!rc) {
		memset(l.host, 1, LIMIT_BYTES);
		*to_gpu = best_of(&h->cu, &l, true);
		*from_gpu = best_of(&h->cu, &l, false);
	}
	if (l.host)
		h->cu.cuMemFreeHost(l.host);
	if (l.gpu)
		h->cu.cuMemFree(l.gpu);
	if (l.stream)
		h->cu.cuStreamDestroy(l.stream);
	h->cu.cuCtxSetCurrent(NULL);
	return rc ? why_set(why, cuda_errno(rc), "a copy of %u MiB on GPU %u: %s", LIMIT_BYTES >> 20,
			    h->devices[0].ordinal, cuda_error(&h->cu, rc))
		  : 0;
}

void egpu_host_counters(const struct egpu_host *h, uint64_t *counters, uint64_t *kept)
{
	*counters = atomic_load(&h->counters);
	*kept = atomic_load(&h->kept);
}

/* ---- torch's reference counters ---------------------------------------------------------------------------------- */

/* The producer counts one for each storage that it sends; the consumer takes it back when it lets go. */
static int open_counters(struct egpu *g, struct why *why)
{
	uint64_t bytes = COUNTERS_AT + 8ull * g->place.ntensors;
	snprintf(g->counter_name, sizeof(g->counter_name), "/torch_%d_%llx_0", (int)getpid(),
		 (unsigned long long)(session_random() >> 16));
	int fd = shm_open(g->counter_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return why_set(why, -errno, "creating %s: %s", g->counter_name, strerror(errno));
	int err = posix_fallocate(fd, 0, (off_t)bytes);
	void *p = err ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED) {
		shm_unlink(g->counter_name);
		return why_set(why, -ENOMEM, "%s: %s", g->counter_name, strerror(err ? err : errno));
	}
	g->counter_file = p;
	g->counter_bytes = bytes;
	*(int32_t *)p = 1;
	for (uint32_t i = 0; i < g->place.ntensors; i++)
		((int64_t *)(g->counter_file + COUNTERS_AT))[i] = 1;
	return 0;
}

static uint64_t counters_kept(const struct egpu *g)
{
	_Atomic int64_t *v = (_Atomic int64_t *)(g->counter_file + COUNTERS_AT);
	uint64_t kept = 0;
	for (uint32_t i = 0; i < g->place.ntensors; i++)
		kept += atomic_load(&v[i]) != 0;
	return kept;
}

static void close_counters(struct egpu *g, bool registered)
{
	if (!g->counter_file)
		return;
	uint64_t end = clock_ms() + COUNTERS_WAIT_MS, kept = 0;
	while (registered && (kept = counters_kept(g)) != 0 && clock_ms() < end)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	atomic_fetch_add(&g->host->counters, registered ? g->place.ntensors : 0);
	atomic_fetch_add(&g->host->kept, kept);
	munmap(g->counter_file, g->counter_bytes);
	shm_unlink(g->counter_name);
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

static int allocate(struct egpu *g, struct why *why)
{
	const struct km_place *p = &g->place;
	uint32_t per = p->ntensors < TENSORS_PER_ALLOCATION ? p->ntensors : TENSORS_PER_ALLOCATION;
	uint32_t n = (p->ntensors + per - 1) / per;
	g->per_allocation = per;
	g->tensor_step = (p->tensor_bytes + ALIGN - 1) / ALIGN * ALIGN;
	g->allocations = mem_calloc(n, sizeof(*g->allocations));
	g->handles = mem_calloc(n, sizeof(*g->handles));
	if (!g->allocations || !g->handles)
		return why_set(why, -ENOMEM, "no memory for %u allocations", n);
	for (; g->nallocations < n; g->nallocations++) {
		uint32_t i = g->nallocations;
		uint64_t bytes = (g->tensor_step * per + EGPU_GRAIN - 1) / EGPU_GRAIN * EGPU_GRAIN;
		int rc = egpu_result(g, g->cu->cuMemAlloc(&g->allocations[i], bytes), "cuMemAlloc", why);
		if (rc) {
			why_prefix(why, "%u of %u times %llu bytes", i + 1, n, (unsigned long long)bytes);
			return rc;
		}
		rc = egpu_result(g, g->cu->cuIpcGetMemHandle(&g->handles[i], g->allocations[i]), "cuIpcGetMemHandle",
				 why);
		if (rc) {
			g->cu->cuMemFree(g->allocations[i]);
			return rc;
		}
	}
	return 0;
}

static int open_window(struct egpu *g, uint64_t blocks, struct why *why)
{
	const struct km_place *p = &g->place;
	void *memory = NULL;
	if (!blocks)
		return 0;
	int rc = km_place_init(&g->window, p->model, p->format, p->block_tokens, blocks, why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuMemAllocHost(&memory, g->window.tensor_bytes * p->ntensors),
				 "cuMemAllocHost", why);
	g->window_memory = memory;
	return rc;
}

static int set_up(struct egpu *g, uint64_t window_blocks, struct why *why)
{
	int least = 0, greatest = 0;
	int rc = egpu_enter(g, why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuCtxGetStreamPriorityRange(&least, &greatest),
				 "cuCtxGetStreamPriorityRange", why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuStreamCreateWithPriority(&g->stream, CU_STREAM_NON_BLOCKING, least),
				 "cuStreamCreateWithPriority", why);
	if (!rc)
		rc = allocate(g, why);
	if (!rc)
		rc = open_window(g, window_blocks, why);
	if (!rc && g->host->conf.wrapper == EGPU_TORCH)
		rc = open_counters(g, why);
	return rc ? rc : egpu_events_open(g, why);
}

int egpu_open(struct egpu_host *h, const struct km_place *place, uint64_t window_blocks, struct egpu **out,
	      struct why *why)
{
	struct egpu *g = mem_calloc(1, sizeof(*g));
	if (!g)
		return why_set(why, -ENOMEM, "no memory for a worker");
	g->host = h;
	g->cu = &h->cu;
	g->device = &h->devices[atomic_fetch_add(&h->turn, 1) % h->ndevices];
	g->place = *place;
	int rc = set_up(g, window_blocks, why);
	if (rc) {
		egpu_close(g, false);
		return rc;
	}
	*out = g;
	return 0;
}

void egpu_close(struct egpu *g, bool registered)
{
	if (!g)
		return;
	close_counters(g, registered);
	if (g->stream && egpu_enter(g, NULL) == 0) {
		g->cu->cuStreamSynchronize(g->stream);
		egpu_events_close(g);
		for (uint32_t i = 0; i < g->nallocations; i++)
			g->cu->cuMemFree(g->allocations[i]);
		if (g->window_memory)
			g->cu->cuMemFreeHost(g->window_memory);
		g->cu->cuStreamDestroy(g->stream);
		g->cu->cuCtxSetCurrent(NULL);
	}
	mem_free(g->allocations);
	mem_free(g->handles);
	mem_free(g);
}

void egpu_wrap(const struct egpu *g, uint32_t i, struct pk_wrapper *out)
{
	static const uint8_t no_event[64];
	const struct km_place *p = &g->place;
	bool torch = g->host->conf.wrapper == EGPU_TORCH;
	uint64_t offset = i % g->per_allocation * g->tensor_step;
	int64_t stride = 1;
	*out = (struct pk_wrapper){.kind = torch ? PK_CUDA_IPC : PK_RAW_CUDA_IPC,
				   .dtype = p->model->dtype,
				   .ndim = p->ndim,
				   .device_uuid = slice_str(g->device->uuid),
				   .mem_handle = slice_of(&g->handles[i / g->per_allocation], 64),
				   .handle_version = torch ? 2 : 0,
				   .storage_bytes = p->tensor_bytes,
				   .base_offset = offset,
				   .refcount_name = slice_str(g->counter_name),
				   .refcount_index = i,
				   .event_handle = slice_of(no_event, sizeof(no_event)),
				   .alloc_offset = offset,
				   .nbytes = p->tensor_bytes};
	for (uint32_t d = p->ndim; d-- > 0;) {
		out->shape[d] = p->shape[d];
		out->stride[d] = stride;
		stride *= (int64_t)p->shape[d];
	}
}

/* ---- copies ----------------------------------------------------------------------------------------------------------- */

const struct km_place *egpu_window(const struct egpu *g)
{
	return &g->window;
}

uint8_t *egpu_window_tensor(const struct egpu *g, uint32_t i)
{
	return g->window_memory + g->window.tensor_bytes * i;
}

/* What of one block lies together: all dimensions after the block's. Those before it (K and V) are planes. */
static int copy_tensor(struct egpu *g, uint32_t t, const uint32_t *blocks, uint64_t first, uint64_t n, bool up,
		       struct why *why)
{
	uint64_t run = g->place.stride_b, planes = g->place.tensor_bytes / (run * g->place.num_blocks);
	CUdeviceptr pages = g->allocations[t / g->per_allocation] + t % g->per_allocation * g->tensor_step;
	uint8_t *window = egpu_window_tensor(g, t);
	for (uint64_t k = 0; k < planes; k++)
		for (uint64_t i = first; i < first + n; i++) {
			CUdeviceptr at = pages + (k * g->place.num_blocks + blocks[i]) * run;
			uint8_t *host = window + (k * g->window.num_blocks + i) * run;
			CUresult rc = up ? g->cu->cuMemcpyHtoDAsync(at, host, run, g->stream)
					 : g->cu->cuMemcpyDtoHAsync(host, at, run, g->stream);
			if (rc)
				return egpu_result(g, rc, up ? "cuMemcpyHtoDAsync" : "cuMemcpyDtoHAsync", why);
		}
	return 0;
}

static int copy_blocks(struct egpu *g, uint32_t group, const uint32_t *blocks, uint64_t first, uint64_t n, bool up,
		       struct why *why)
{
	uint32_t step = km_groups(g->place.model, g->place.format); /* more than one: tensor i is layer i */
	int rc = first + n <= g->window.num_blocks
			 ? egpu_enter(g, why)
			 : why_set(why, -EINVAL, "%llu blocks do not fit the window", (unsigned long long)(first + n));
	for (uint32_t t = group; t < g->place.ntensors && !rc; t += step)
		rc = copy_tensor(g, t, blocks, first, n, up, why);
	return rc;
}

int egpu_upload(struct egpu *g, uint32_t group, const uint32_t *blocks, uint64_t first, uint64_t n, struct why *why)
{
	return copy_blocks(g, group, blocks, first, n, true, why);
}

int egpu_download(struct egpu *g, uint32_t group, const uint32_t *blocks, uint64_t first, uint64_t n, struct why *why)
{
	int rc = copy_blocks(g, group, blocks, first, n, false, why);
	return rc ? rc : egpu_sync(g, why);
}
