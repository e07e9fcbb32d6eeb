/* Work that runs later: order, what waits for what, pinned and pageable memory, kernels, contexts that break. */
#include "tests/unit/fake/libcuda/fake_test.h"

#include "transport/cuda/kernel_abi.h"

#include <stdatomic.h>
#include <sys/mman.h>

#define MB (1u << 20)

static CUstream stream_of(unsigned flags)
{
	CUstream s = NULL;

	assert_int_equal(cu.cuStreamCreate(&s, flags), 0);
	return s;
}

static unsigned char *pinned(size_t bytes)
{
	void *p = NULL;

	assert_int_equal(cu.cuMemAllocHost(&p, bytes), 0);
	return p;
}

static int setup(void **state)
{
	(void)state;
	fake_context(0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(cu.control("clear\nrelease gpu=0\nrestore gpu=0\nslow gpu=0"), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	assert_int_equal(fake_count("streams", getpid()), 0);
	assert_int_equal(fake_count("events", getpid()), 0);
	assert_int_equal(fake_count("memories", 0), 0);
	return 0;
}

static void test_01_work_runs_later_and_pinned_memory_is_read_then(void **state)
{
	unsigned char *h = pinned(MB), *back = pinned(MB);
	CUdeviceptr p;
	CUstream s;

	(void)state;
	s = stream_of(CU_STREAM_NON_BLOCKING);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.control("stick gpu=0"), 0);
	memset(h, 1, MB);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, h, MB, s), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(back, p, MB, s), 0);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	memset(h, 2, MB); /* too early: the copy has not been made */
	assert_int_equal(back[0], 0);
	assert_int_equal(cu.control("release gpu=0"), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_int_equal(cu.cuStreamQuery(s), 0);
	assert_int_equal(back[0], 2);
	assert_int_equal(back[MB - 1], 2);
}

static atomic_int stage;
static void release_soon(void *arg)
{
	(void)arg;
	atomic_fetch_add(&stage, 1);
}

static void test_02_pageable_memory_is_taken_or_waited_for(void **state)
{
	unsigned char *h = malloc(MB), small[4096], back[4096];
	CUdeviceptr p;
	CUstream s;

	(void)state;
	s = stream_of(CU_STREAM_NON_BLOCKING);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.control("stick gpu=0"), 0);
	memset(small, 1, sizeof(small));
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, small, sizeof(small), s), 0);
	memset(small, 2, sizeof(small)); /* it was taken already */
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.control("release gpu=0"), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(back, p, sizeof(back), s), 0);
	assert_int_equal(back[17], 1); /* such a copy is over when the call returns */
	assert_int_equal(cu.cuStreamQuery(s), 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=50000"), 0);
	memset(h, 3, MB);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, h, MB, s), 0);
	assert_int_equal(cu.cuStreamQuery(s), 0);
	free(h);
}

static void test_03_streams_are_in_order_and_wait_for_events(void **state)
{
	unsigned char *h = pinned(64);
	CUstream a = stream_of(CU_STREAM_NON_BLOCKING), b = stream_of(CU_STREAM_NON_BLOCKING);
	CUdeviceptr p;
	CUevent e;

	(void)state;
	assert_int_equal(cu.cuMemAlloc(&p, 64), 0);
	assert_int_equal(cu.cuEventCreate(&e, CU_EVENT_DISABLE_TIMING), 0);
	/* One that was never recorded is no wait. */
	assert_int_equal(cu.cuEventQuery(e), 0);
	assert_int_equal(cu.cuStreamWaitEvent(b, e, 0), 0);
	assert_int_equal(cu.cuStreamSynchronize(b), 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=2000"), 0);
	for (int i = 1; i <= 20; i++) {
		assert_int_equal(cu.cuMemsetD8Async(p, (unsigned char)(2 * i), 64, a), 0);
		assert_int_equal(cu.cuEventRecord(e, a), 0);
		assert_int_equal(cu.cuStreamWaitEvent(b, e, 0), 0);
		assert_int_equal(cu.cuMemcpyDtoHAsync(h, p, 64, b), 0);
		assert_int_equal(cu.cuStreamSynchronize(b), 0);
		assert_int_equal(h[5], 2 * i);
	}
	/* A wait is for the record before it, not for later ones. */
	assert_int_equal(cu.cuEventRecord(e, a), 0);
	assert_int_equal(cu.cuStreamWaitEvent(b, e, 0), 0);
	assert_int_equal(cu.cuStreamSynchronize(a), 0);
	assert_int_equal(cu.control("stick gpu=0"), 0);
	assert_int_equal(cu.cuEventRecord(e, a), 0);
	assert_int_equal(cu.cuEventQuery(e), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.control("release gpu=0"), 0);
	assert_int_equal(cu.cuEventSynchronize(e), 0);
	/* Destroyed while waited for: the wait holds. */
	assert_int_equal(cu.cuEventDestroy(e), 0);
	assert_int_equal(cu.cuEventDestroy(e), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuEventRecord(e, a), CUDA_ERROR_INVALID_HANDLE);
}

static void test_04_the_default_stream_waits_for_the_others(void **state)
{
	CUstream blocking = stream_of(0), apart = stream_of(CU_STREAM_NON_BLOCKING);
	unsigned char h[64];
	CUdeviceptr p;

	(void)state;
	atomic_store(&stage, 0);
	assert_int_equal(cu.cuMemAlloc(&p, 64), 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=10000"), 0);
	for (int i = 2; i <= 7; i++)
		assert_int_equal(cu.cuMemsetD8Async(p, (unsigned char)i, 64, blocking), 0);
	assert_int_equal(cu.cuLaunchHostFunc(apart, release_soon, NULL), 0);
	assert_int_equal(cu.cuMemcpyDtoH(h, p, 64), 0); /* default stream */
	assert_int_equal(h[0], 7);
	for (int i = 3; i <= 8; i++)
		assert_int_equal(cu.cuMemsetD8Async(p, (unsigned char)i, 64, NULL), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(h, p, 64, blocking), 0);
	assert_int_equal(h[0], 8);
	assert_int_equal(cu.cuCtxSynchronize(), 0);
	assert_int_equal(atomic_load(&stage), 1);
}

static void test_05_a_stream_that_is_destroyed_ends_its_work(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);

	(void)state;
	atomic_store(&stage, 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=5000"), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(cu.cuLaunchHostFunc(s, release_soon, NULL), 0);
	assert_int_equal(cu.cuStreamDestroy(s), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuStreamDestroy(s), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuCtxSynchronize(), 0);
	assert_int_equal(atomic_load(&stage), 5);
}

static void test_06_events_keep_their_flags(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING), other;
	CUevent a, b, quiet, e;
	float ms = -1;
	CUipcEventHandle h;

	(void)state;
	assert_int_equal(cu.cuEventCreate(&e, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuEventCreate(&a, 0), 0);
	assert_int_equal(cu.cuEventCreate(&b, CU_EVENT_BLOCKING_SYNC), 0);
	assert_int_equal(cu.cuEventCreate(&quiet, CU_EVENT_DISABLE_TIMING), 0);
	assert_int_equal(cu.cuIpcGetEventHandle(&h, quiet), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuEventElapsedTime(&ms, a, b), CUDA_ERROR_INVALID_HANDLE); /* never recorded */
	assert_int_equal(cu.cuEventRecord(a, s), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_int_equal(cu.control("stick gpu=0"), 0);
	assert_int_equal(cu.cuEventRecord(quiet, s), 0);
	assert_int_equal(cu.cuEventRecord(b, s), 0);
	assert_int_equal(cu.cuEventElapsedTime(&ms, a, b), CUDA_ERROR_NOT_READY);
	fake_sleep_ms(30);
	assert_int_equal(cu.control("release gpu=0"), 0);
	assert_int_equal(cu.cuEventSynchronize(b), 0);
	assert_int_equal(cu.cuEventElapsedTime(&ms, a, b), 0);
	assert_true(ms >= 30 && ms < 5000);
	assert_int_equal(cu.cuEventElapsedTime(&ms, a, quiet), CUDA_ERROR_INVALID_HANDLE);
	/* An event belongs to its context: a stream of another GPU cannot record it. */
	fake_context(1);
	other = stream_of(0);
	assert_int_equal(cu.cuEventRecord(a, other), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuStreamWaitEvent(other, a, 0), 0);
	assert_int_equal(cu.cuStreamSynchronize(other), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(1), 0);
	fake_context(0);
}

static void test_07_freeing_waits_for_the_gpu(void **state)
{
	unsigned char *h = pinned(MB);
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);
	CUdeviceptr p;

	(void)state;
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.cuMemsetD8Async(p, 5, MB, s), 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=20000"), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(h, p, MB, s), 0);
	assert_int_equal(cu.cuMemFree(p), 0);
	assert_int_equal(h[MB - 1], 5);
	assert_int_equal(cu.cuStreamQuery(s), 0);
}

static void test_08_values_in_device_memory_order_streams(void **state)
{
	CUstream a = stream_of(CU_STREAM_NON_BLOCKING), b = stream_of(CU_STREAM_NON_BLOCKING);
	CUdeviceptr p;

	(void)state;
	assert_int_equal(cu.cuMemAlloc(&p, 64), 0);
	assert_int_equal(cu.cuMemsetD8(p, 0, 64), 0);
	assert_int_equal(cu.cuStreamWaitValue64(a, p + 4, 1, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuStreamWaitValue64(a, p + 64, 1, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuStreamWaitValue64(a, p + 8, 5, CU_STREAM_WAIT_VALUE_GEQ), 0);
	fake_sleep_ms(20);
	assert_int_equal(cu.cuStreamQuery(a), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.cuStreamWriteValue64(b, p + 8, 4, 0), 0);
	fake_sleep_ms(20);
	assert_int_equal(cu.cuStreamQuery(a), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.cuStreamWriteValue64(b, p + 8, 6, 0), 0);
	assert_int_equal(cu.cuStreamSynchronize(a), 0);
	/* GEQ is of the signed difference: it goes on after the number wrapped. */
	assert_int_equal(cu.cuStreamWaitValue64(a, p + 8, (uint64_t)-3, CU_STREAM_WAIT_VALUE_GEQ), 0);
	assert_int_equal(cu.cuStreamSynchronize(a), 0);
}

/* ---- kernels ------------------------------------------------------------------------------------------------------------------ */

static const char image[] =
	".version 6.0\n.target sm_70\n.address_size 64\n.visible .entry lmca_gather(\n.param .align 8 .b8 "
	"args[88]\n)\n{\nret;\n}\n";

static CUfunction gather_of(CUmodule *m)
{
	CUfunction f = NULL;

	assert_int_equal(cu.cuModuleLoadDataEx(m, image, 0, NULL, NULL), 0);
	assert_int_equal(cu.cuModuleGetFunction(&f, *m, KERNEL_SCATTER), CUDA_ERROR_NOT_FOUND); /* not in this image */
	assert_int_equal(cu.cuModuleGetFunction(&f, *m, KERNEL_GATHER), 0);
	return f;
}

/* One plane of 4 blocks, 2 tokens each, 16 bytes a token; chunks of 2 blocks. */
struct paged {
	CUdeviceptr pages, table, ids, object;
	struct kernel_args args;
};

static void make_paged(struct paged *k)
{
	struct kernel_plane plane = {.block_stride = 64, .token_stride = 32, .head_stride = 16};
	kabi_u32 ids[2] = {3, 1};
	unsigned char h[256];

	fake_fill(h, sizeof(h), 4);
	assert_int_equal(cu.cuMemAlloc(&k->pages, 256), 0);
	assert_int_equal(cu.cuMemAlloc(&k->table, sizeof(plane)), 0);
	assert_int_equal(cu.cuMemAlloc(&k->ids, sizeof(ids)), 0);
	assert_int_equal(cu.cuMemAlloc(&k->object, 64), 0);
	plane.base = k->pages;
	assert_int_equal(cu.cuMemcpyHtoD(k->pages, h, sizeof(h)), 0);
	assert_int_equal(cu.cuMemcpyHtoD(k->table, &plane, sizeof(plane)), 0);
	assert_int_equal(cu.cuMemcpyHtoD(k->ids, ids, sizeof(ids)), 0);
	k->args = (struct kernel_args){.plane = k->table,
				       .ids = k->ids,
				       .object = k->object,
				       .object_stride = 64,
				       .row_bytes = 16,
				       .rows = 1,
				       .planes = 1,
				       .chunks = 1,
				       .chunk_tokens = 4,
				       .block_tokens = 2,
				       .null_block = KERNEL_NO_NULL,
				       .word = 16};
}

static void test_09_kernels_run_on_the_cpu_in_stream_order(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);
	unsigned char h[256], out[64];
	struct paged k;
	CUmodule m;
	CUfunction f = gather_of(&m);
	void *args[] = {&k.args};

	(void)state;
	make_paged(&k);
	fake_fill(h, sizeof(h), 4);
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 2048, 1, 1, 0, s, args, NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuLaunchKernel(f, 0, 1, 1, 32, 1, 1, 0, s, args, NULL), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuLaunchKernel(f, 2, 1, 1, 64, 1, 1, 0, s, args, NULL), 0);
	memset(&k.args, 0xff, sizeof(k.args)); /* they were taken */
	assert_int_equal(cu.cuMemcpyDtoHAsync(out, k.object, 64, s), 0);
	assert_memory_equal(out, h + 3 * 64, 16);
	assert_memory_equal(out + 16, h + 3 * 64 + 32, 16);
	assert_memory_equal(out + 32, h + 64, 16);
	assert_int_equal(cu.cuModuleUnload(m), 0);
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuModuleLoadDataEx(&m, "hello", 0, NULL, NULL), 200); /* CUDA_ERROR_INVALID_IMAGE */
	assert_int_equal(cu.cuModuleLoadDataEx(&m, ".entry lmca_gather(", 0, NULL, NULL), CUDA_ERROR_INVALID_PTX);
}

static void test_10_a_kernel_that_leaves_its_memory_breaks_the_context(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);
	kabi_u32 ids[2] = {4, 1}; /* one block too far */
	struct paged k;
	CUdeviceptr p;
	CUmodule m;
	CUfunction f = gather_of(&m);
	void *args[] = {&k.args};
	CUevent e;

	(void)state;
	make_paged(&k);
	assert_int_equal(cu.cuEventCreate(&e, CU_EVENT_DISABLE_TIMING), 0);
	assert_int_equal(cu.cuMemcpyHtoD(k.ids, ids, sizeof(ids)), 0);
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
	/* For good, and everywhere in this context. */
	assert_int_equal(cu.cuMemAlloc(&p, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cu.cuEventRecord(e, s), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cu.cuMemFree(k.pages), CUDA_ERROR_ILLEGAL_ADDRESS);
	fake_context(1); /* the other GPU's is well */
	assert_int_equal(cu.cuMemAlloc(&p, 64), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(1), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 64), 0);
	/* An address that the word does not divide is a fault of another name. */
	make_paged(&k);
	f = gather_of(&m);
	s = stream_of(CU_STREAM_NON_BLOCKING);
	k.args.object += 8;
	k.args.object_stride = 0;
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_MISALIGNED_ADDRESS);
}

static void test_11_kernels_read_registered_memory_at_its_device_address(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);
	unsigned char *h = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct paged k;
	CUdeviceptr d;
	CUmodule m;
	CUfunction f = gather_of(&m);
	void *args[] = {&k.args};

	(void)state;
	make_paged(&k);
	assert_int_equal(cu.cuMemHostRegister(h, 4096, CU_MEMHOSTREGISTER_DEVICEMAP), 0);
	assert_int_equal(cu.cuMemHostGetDevicePointer(&d, h, 0), 0);
	k.args.object = d + 128;
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_int_equal(h[128], (unsigned char)(192 * 131 + 4));
	assert_int_equal(cu.cuMemHostUnregister(h), 0);
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
	munmap(h, 4096);
}

static void test_13_a_gpu_reaches_its_own_memory(void **state)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
				    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
	CUmemAccessDesc who = {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle h;
	CUdeviceptr elsewhere, va;
	struct paged k;
	CUmodule m;
	CUfunction f;
	CUstream s;
	void *args[] = {&k.args};

	(void)state;
	fake_context(1);
	assert_int_equal(cu.cuMemAlloc(&elsewhere, 64), 0);
	fake_context(0);
	make_paged(&k);
	f = gather_of(&m);
	s = stream_of(CU_STREAM_NON_BLOCKING);
	/* Copies go between GPUs; kernels do not, unless they were allowed to. */
	assert_int_equal(cu.cuMemcpyDtoDAsync(elsewhere, k.pages, 64, s), 0);
	k.args.object = elsewhere;
	assert_int_equal(cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, args, NULL), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(1), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	fake_context(0);
	assert_int_equal(cu.cuMemCreate(&h, 2 * MB, &prop, 0), 0);
	assert_int_equal(cu.cuMemAddressReserve(&va, 2 * MB, 0, 0, 0), 0);
	assert_int_equal(cu.cuMemMap(va, 2 * MB, 0, h, 0), 0);
	assert_int_equal(cu.cuMemSetAccess(va, 2 * MB, &who, 1), 0); /* for the other GPU */
	assert_int_equal(cu.cuMemsetD8(va, 0, 64), CUDA_ERROR_INVALID_VALUE);
	who.location.id = 0;
	assert_int_equal(cu.cuMemSetAccess(va, 2 * MB, &who, 1), 0);
	assert_int_equal(cu.cuMemsetD8(va, 0, 64), 0);
	assert_int_equal(cu.cuMemUnmap(va, 2 * MB), 0);
	assert_int_equal(cu.cuMemRelease(h), 0);
	assert_int_equal(cu.cuMemAddressFree(va, 2 * MB), 0);
}

static void test_14_registrations_are_of_a_context_or_portable(void **state)
{
	unsigned char *h = mmap(NULL, 8 * MB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CUdeviceptr p;
	CUstream s;

	(void)state;
	assert_int_equal(cu.cuMemHostRegister(h, 4 * MB, 0), 0);
	assert_int_equal(cu.cuMemHostRegister(h + 4 * MB, 4 * MB, CU_MEMHOSTREGISTER_PORTABLE), 0);
	fake_context(1);
	s = stream_of(CU_STREAM_NON_BLOCKING);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.control("stick gpu=1"), 0);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, h + 4 * MB, MB, s), 0);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.control("release gpu=1\nslow gpu=1 latency_us=20000"), 0);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, h, MB, s), 0); /* pageable here: done when it returns */
	assert_int_equal(cu.cuStreamQuery(s), 0);
	assert_int_equal(cu.control("slow gpu=1"), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(1), 0);
	fake_context(0);
	munmap(h, 8 * MB);
}

static void test_12_a_full_queue_makes_the_caller_wait(void **state)
{
	CUstream s = stream_of(CU_STREAM_NON_BLOCKING);
	uint64_t begin = fake_ms();

	(void)state;
	atomic_store(&stage, 0);
	assert_int_equal(cu.control("slow gpu=0 latency_us=1000"), 0);
	for (int i = 0; i < 1100; i++) /* depth 1024 */
		assert_int_equal(cu.cuLaunchHostFunc(s, release_soon, NULL), 0);
	assert_true(fake_ms() - begin >= 60);
	assert_true(atomic_load(&stage) >= 1100 - 1025);
	assert_int_equal(cu.control("slow gpu=0"), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_int_equal(atomic_load(&stage), 1100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_01_work_runs_later_and_pinned_memory_is_read_then),
		TEST(test_02_pageable_memory_is_taken_or_waited_for),
		TEST(test_03_streams_are_in_order_and_wait_for_events),
		TEST(test_04_the_default_stream_waits_for_the_others),
		TEST(test_05_a_stream_that_is_destroyed_ends_its_work),
		TEST(test_06_events_keep_their_flags),
		TEST(test_07_freeing_waits_for_the_gpu),
		TEST(test_08_values_in_device_memory_order_streams),
		TEST(test_09_kernels_run_on_the_cpu_in_stream_order),
		TEST(test_10_a_kernel_that_leaves_its_memory_breaks_the_context),
		TEST(test_11_kernels_read_registered_memory_at_its_device_address),
		TEST(test_12_a_full_queue_makes_the_caller_wait),
		TEST(test_13_a_gpu_reaches_its_own_memory),
		TEST(test_14_registrations_are_of_a_context_or_portable),
	};
	int rc;

	fake_machine();
	fake_load();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	fake_machine_remove();
	return rc;
}
