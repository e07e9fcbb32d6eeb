/* toy.h - a driver in one process, for tests of single files: a table of functions over malloc, where the test says what happens when.
 * The real test driver is tests/fake/libcuda. Here every call can be made to fail, and a stream moves only when it may.
 *
 * Also here: views, mappings and a copier that are as simple as can be, in place of the module's own.
 */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_TOY_H
#define TESTS_UNIT_TRANSPORT_CUDA_TOY_H

#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define TOY_EVENTS 8192u
#define TOY_GPUS   3u

struct CUevent_st {
	uint64_t recorded, reached; /* numbers of a stream's work */
	struct CUstream_st *stream;
	bool imported;
};
struct CUstream_st {
	uint64_t last, done; /* numbers of work asked for, and done */
};

static struct toy {
	pthread_mutex_t m;
	int streams, events, allocs, hosts, registered, contexts, resets, gpus;
	uint64_t registered_bytes, calls, fail_at;
	CUresult fail_with, register_fails;
	bool broken, stuck;  /* sticky; streams do not move */
	bool client_pending; /* imported events have not happened */
	bool bad_event;      /* they cannot be opened */
	bool no_init, mig;
	uint64_t slot[8]; /* a client's timeline */
	int mapped;
	int views[TOY_GPUS];
	/* the toy copier */
	int copiers, started, slow;
} toy = {.m = PTHREAD_MUTEX_INITIALIZER};

static int toy_context[TOY_GPUS];

/* All counted calls begin with it. */
static CUresult toy_call(void)
{
	CUresult rc = 0;

	pthread_mutex_lock(&toy.m);
	toy.calls++;
	if (toy.fail_at && toy.calls == toy.fail_at)
		rc = toy.fail_with;
	if (toy.broken)
		rc = CUDA_ERROR_ILLEGAL_ADDRESS;
	if (rc == CUDA_ERROR_ILLEGAL_ADDRESS)
		toy.broken = true;
	pthread_mutex_unlock(&toy.m);
	return rc;
}
#define CALL()                             \
	do {                               \
		CUresult rc_ = toy_call(); \
		if (rc_)                   \
			return rc_;        \
	} while (0)
#define LOCKED(code)                          \
	do {                                  \
		pthread_mutex_lock(&toy.m);   \
		code;                         \
		pthread_mutex_unlock(&toy.m); \
	} while (0)

static CUresult toy_init(unsigned flags)
{
	return flags ? CUDA_ERROR_INVALID_VALUE : toy.no_init ? CUDA_ERROR_NO_DEVICE : 0;
}
static CUresult toy_name_of_error(CUresult rc, const char **name)
{
	*name = rc == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
		: rc == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
						 : NULL;
	return *name ? 0 : CUDA_ERROR_INVALID_VALUE;
}
static CUresult toy_count(int *n)
{
	CALL();
	*n = toy.gpus;
	return 0;
}
static CUresult toy_get(CUdevice *device, int ordinal)
{
	CALL();
	*device = ordinal;
	return 0;
}
static CUresult toy_name(char *name, int cap, CUdevice device)
{
	CALL();
	snprintf(name, (size_t)cap, toy.mig && device == 1 ? "Toy T%d MIG 1g.5gb" : "Toy T%d", device);
	return 0;
}
static CUresult toy_uuid(CUuuid *uuid, CUdevice device)
{
	CALL();
	for (int i = 0; i < 16; i++)
		uuid->bytes[i] = (char)(0xa0 + i);
	uuid->bytes[15] = (char)device;
	return 0;
}
static CUresult toy_attribute(int *value, CUdevice_attribute which, CUdevice device)
{
	(void)device;
	CALL();
	*value = which == CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT     ? 3
		 : which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 132
								     : 1;
	return 0;
}
static CUresult toy_pci(char *id, int cap, CUdevice device)
{
	CALL();
	snprintf(id, (size_t)cap, "0000:%02X:00.0", 0x3b + device);
	return 0;
}
static CUresult toy_total(size_t *bytes, CUdevice device)
{
	(void)device;
	CALL();
	*bytes = 80ull << 30;
	return 0;
}
static CUresult toy_retain(CUcontext *ctx, CUdevice device)
{
	CALL();
	LOCKED(toy.contexts++);
	*ctx = (CUcontext)&toy_context[device];
	return 0;
}
static CUresult toy_release(CUdevice device)
{
	(void)device;
	LOCKED(toy.contexts--);
	return 0;
}
static CUresult toy_reset(CUdevice device)
{
	(void)device;
	LOCKED(toy.resets++; toy.broken = false; toy.registered = 0; toy.registered_bytes = 0);
	return 0;
}
static CUresult toy_current(CUcontext ctx)
{
	if (!ctx)
		return 0;
	CALL();
	return 0;
}
static CUresult toy_info(size_t *f, size_t *t)
{
	CALL();
	*f = *t = 1;
	return 0;
}
static CUresult toy_alloc(CUdeviceptr *p, size_t bytes)
{
	CALL();
	*p = (CUdeviceptr)(uintptr_t)malloc(bytes);
	LOCKED(toy.allocs++);
	return 0;
}
static CUresult toy_free(CUdeviceptr p)
{
	free((void *)(uintptr_t)p);
	LOCKED(toy.allocs--);
	return 0;
}
static CUresult toy_alloc_host(void **p, size_t bytes)
{
	CALL();
	*p = calloc(1, bytes);
	LOCKED(toy.hosts++);
	return 0;
}
static CUresult toy_free_host(void *p)
{
	free(p);
	LOCKED(toy.hosts--);
	return 0;
}
static CUresult toy_register(void *p, size_t bytes, unsigned flags)
{
	CALL();
	if (!p || flags != 3)
		return CUDA_ERROR_INVALID_VALUE;
	if (toy.register_fails && toy.registered >= 1)
		return toy.register_fails;
	LOCKED(toy.registered++; toy.registered_bytes += bytes);
	return 0;
}
static CUresult toy_unregister(void *p)
{
	(void)p;
	LOCKED(toy.registered--);
	return 0;
}
static CUresult toy_mem_handle(CUipcMemHandle *h, CUdeviceptr p)
{
	CALL();
	memset(h, 0x5a, sizeof(*h));
	memcpy(h, &p, sizeof(p));
	return 0;
}
static CUresult toy_stream(CUstream *s, unsigned flags, int priority)
{
	(void)priority;
	CALL();
	if (flags != CU_STREAM_NON_BLOCKING)
		return CUDA_ERROR_INVALID_VALUE;
	*s = calloc(1, sizeof(**s));
	LOCKED(toy.streams++);
	return 0;
}
static CUresult toy_stream_destroy(CUstream s)
{
	free(s);
	LOCKED(toy.streams--);
	return 0;
}
static CUresult toy_query(CUstream s)
{
	CALL();
	(void)s;
	return 0;
}
static CUresult toy_event(CUevent *e, unsigned flags)
{
	CALL();
	(void)flags;
	*e = calloc(1, sizeof(**e));
	LOCKED(toy.events++);
	return 0;
}
static CUresult toy_event_destroy(CUevent e)
{
	free(e);
	LOCKED(toy.events--);
	return 0;
}
static CUresult toy_record(CUevent e, CUstream s)
{
	CALL();
	(void)s;
	LOCKED(e->recorded++; e->reached = toy.stuck ? e->reached : e->recorded);
	return 0;
}
static CUresult toy_event_query(CUevent e)
{
	bool reached;

	CALL();
	LOCKED(if (e->imported) reached = !toy.client_pending; else {
		if (!toy.stuck)
			e->reached = e->recorded;
		reached = e->reached == e->recorded;
	});
	return reached ? 0 : CUDA_ERROR_NOT_READY;
}
static CUresult toy_event_handle(CUipcEventHandle *h, CUevent e)
{
	CALL();
	memset(h, 0, sizeof(*h));
	memcpy(h, &e, sizeof(e));
	return 0;
}
static CUresult toy_event_open(CUevent *e, CUipcEventHandle h)
{
	(void)h;
	CALL();
	if (toy.bad_event)
		return CUDA_ERROR_INVALID_HANDLE;
	*e = calloc(1, sizeof(**e));
	(*e)->imported = true;
	LOCKED(toy.events++);
	return 0;
}
static CUresult toy_to_host(void *d, CUdeviceptr s, size_t bytes, CUstream stream)
{
	(void)stream;
	CALL();
	if (bytes == 8) { /* as the bus does it: at once */
		uint64_t v = __atomic_load_n((uint64_t *)(uintptr_t)s, __ATOMIC_SEQ_CST);
		__atomic_store_n((uint64_t *)d, v, __ATOMIC_SEQ_CST);
	} else {
		memcpy(d, (void *)(uintptr_t)s, bytes);
	}
	return 0;
}
static CUresult toy_memset(CUdeviceptr d, unsigned char value, size_t n, CUstream s)
{
	(void)s;
	CALL();
	memset((void *)(uintptr_t)d, value, n);
	return 0;
}
static CUresult toy_write(CUstream s, CUdeviceptr p, uint64_t value, unsigned flags)
{
	(void)s, (void)flags;
	CALL();
	*(uint64_t *)(uintptr_t)p = value;
	return 0;
}

static const struct cuda_driver toy_table = {
	.version = 12080,
	.cuInit = toy_init,
	.cuGetErrorName = toy_name_of_error,
	.cuDeviceGetCount = toy_count,
	.cuDeviceGet = toy_get,
	.cuDeviceGetName = toy_name,
	.cuDeviceGetUuid = toy_uuid,
	.cuDeviceGetAttribute = toy_attribute,
	.cuDeviceGetPCIBusId = toy_pci,
	.cuDeviceTotalMem = toy_total,
	.cuDevicePrimaryCtxRetain = toy_retain,
	.cuDevicePrimaryCtxRelease = toy_release,
	.cuDevicePrimaryCtxReset = toy_reset,
	.cuCtxSetCurrent = toy_current,
	.cuMemGetInfo = toy_info,
	.cuMemAlloc = toy_alloc,
	.cuMemFree = toy_free,
	.cuMemAllocHost = toy_alloc_host,
	.cuMemFreeHost = toy_free_host,
	.cuMemHostRegister = toy_register,
	.cuMemHostUnregister = toy_unregister,
	.cuIpcGetMemHandle = toy_mem_handle,
	.cuIpcGetEventHandle = toy_event_handle,
	.cuIpcOpenEventHandle = toy_event_open,
	.cuStreamCreateWithPriority = toy_stream,
	.cuStreamDestroy = toy_stream_destroy,
	.cuStreamSynchronize = toy_query,
	.cuStreamQuery = toy_query,
	.cuStreamWriteValue64 = toy_write,
	.cuEventCreate = toy_event,
	.cuEventDestroy = toy_event_destroy,
	.cuEventRecord = toy_record,
	.cuEventQuery = toy_event_query,
	.cuMemcpyDtoHAsync = toy_to_host,
	.cuMemsetD8Async = toy_memset,
};

static void toy_begin(int gpus)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;

	toy = (struct toy){.gpus = gpus, .m = m, .fail_with = CUDA_ERROR_OUT_OF_MEMORY};
	log_set_level(LOG_LVL_ERROR);
}

static void toy_nothing_left(void)
{
	assert_int_equal(toy.streams, 0);
	assert_int_equal(toy.events, 0);
	assert_int_equal(toy.allocs, 0);
	assert_int_equal(toy.hosts, 0);
	assert_int_equal(toy.registered, 0);
	assert_int_equal(toy.contexts, 0);
	assert_int_equal(toy.mapped, 0);
	assert_int_equal(toy.views[0] + toy.views[1] + toy.views[2], 0);
	assert_int_equal(toy.copiers, 0);
}

static inline bool toy_get_flag(const bool *flag)
{
	bool v;

	LOCKED(v = *flag);
	return v;
}

static inline void toy_set(bool *flag, bool v)
{
	LOCKED(*flag = v);
}

static inline void toy_sleep_ms(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

/* Waits up to five seconds for `cond`. */
#define toy_until(cond)                              \
	do {                                         \
		uint64_t end_ = clock_ms() + 5000;   \
		while (!(cond) && clock_ms() < end_) \
			toy_sleep_ms(1);             \
		assert_true(cond);                   \
	} while (0)

/* ---- in place of the module's own --------------------------------------------------------------------------------------- */

struct gpu_view {
	struct gpu *gpu;
};
struct mapping {
	CUdeviceptr base;
	uint64_t bytes;
};

static inline struct gpu_view *toy_view(struct gpu_door *d, uint32_t gpu)
{
	struct gpu_view *v = calloc(1, sizeof(*v));

	v->gpu = &d->gpu[gpu];
	if (gpu_hold(v->gpu, NULL)) {
		free(v);
		return NULL;
	}
	LOCKED(toy.views[gpu]++);
	return v;
}
void gpu_view_put(struct gpu_view *v)
{
	LOCKED(toy.views[v->gpu->index]--);
	gpu_release(v->gpu);
	free(v);
}
uint32_t gpu_view_gpu(const struct gpu_view *v)
{
	return v->gpu->index;
}
#include "tests/unit/transport/cuda/toy_imports.h"

/* ---- a copier: one event per copy ----------------------------------------------------------------------------------------- */

#define TOY_OBJECT 4096u

struct copier {
	struct gpu *gpu;
	CUstream stream;
};
struct engine_tables {
	CUdeviceptr memory;
};
struct toy_inner {
	CUevent event;
	uint8_t handle[GPU_EVENT_MAX];
};

uint64_t kv_object_bytes(const struct kv_layout *l)
{
	(void)l;
	return TOY_OBJECT;
}
int copier_take(struct gpu_copy *c)
{
	struct toy_inner *in = mem_calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	memcpy(in->handle, c->event.p ? c->event.p : "", c->event.n);
	c->event.p = in->handle;
	c->inner = in;
	return 0;
}
void copier_leave(struct gpu_copy *c)
{
	struct toy_inner *in = c->inner;

	if (in && in->event)
		c->engine->gpu->door->cu->cuEventDestroy(in->event);
	mem_free(in);
	c->inner = NULL;
}
int copier_create(struct gpu *g, struct copier **out, struct why *why)
{
	struct copier *c = calloc(1, sizeof(*c));
	int rc;

	c->gpu = g;
	rc = gpu_result(g, g->door->cu->cuStreamCreateWithPriority(&c->stream, CU_STREAM_NON_BLOCKING, 0));
	if (rc) {
		free(c);
		return why_set(why, rc, "toy copier");
	}
	LOCKED(toy.copiers++);
	*out = c;
	return 0;
}
void copier_destroy(struct copier *c)
{
	c->gpu->door->cu->cuStreamDestroy(c->stream);
	LOCKED(toy.copiers--);
	free(c);
}
int copier_engine(struct copier *c, struct gpu_engine *e, struct why *why)
{
	struct engine_tables *t = calloc(1, sizeof(*t));
	int rc = gpu_result(c->gpu, c->gpu->door->cu->cuMemAlloc(&t->memory, 64));

	if (rc) {
		free(t);
		return why_set(why, rc, "toy tables");
	}
	e->tables = t;
	return 0;
}
void copier_engine_drop(struct copier *c, struct gpu_engine *e)
{
	c->gpu->door->cu->cuMemFree(e->tables->memory);
	free(e->tables);
}
int copier_start(struct copier *c, struct gpu_copy *copy)
{
	const struct cuda_driver *cu = c->gpu->door->cu;
	struct toy_inner *in = copy->inner;
	uint8_t out[GPU_EVENT_MAX];
	uint32_t n = 0;
	int rc = gpu_result(c->gpu, cu->cuEventCreate(&in->event, 0));

	if (!rc)
		rc = gpu_result(c->gpu, cu->cuEventRecord(in->event, c->stream));
	if (!rc)
		rc = events_record(copy->engine->events, c->stream,
				   copy->event.n == GPU_TIMELINE ? GPU_TIMELINE : GPU_EVENT, out, &n);
	if (rc) {
		copier_leave(copy);
		return rc;
	}
	LOCKED(toy.started++);
	if (copy->submitted)
		copy->submitted(copy, 0, out, n);
	return 0;
}
int copier_poll(struct copier *c, struct gpu_copy *copy)
{
	struct toy_inner *in = copy->inner;
	int rc = gpu_result(c->gpu, c->gpu->door->cu->cuEventQuery(in->event));

	if (rc == -EAGAIN)
		return 0;
	copier_leave(copy);
	return rc ? rc : 1;
}
json_t *copier_status(struct copier *c)
{
	return json_pack("{s:i}", "toy", (int)c->gpu->index);
}

#endif
