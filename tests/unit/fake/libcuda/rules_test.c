/* What a process alone may and may not do. */
#include "tests/unit/fake/libcuda/fake_test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define MB (1u << 20)

static void test_01_nothing_works_before_init(void **state)
{
	CUcontext c;
	int n;

	(void)state;
	assert_int_equal(cu.cuDeviceGetCount(&n), CUDA_ERROR_NOT_INITIALIZED);
	assert_int_equal(cu.cuDevicePrimaryCtxRetain(&c, 0), CUDA_ERROR_NOT_INITIALIZED);
	assert_int_equal(cu.cuInit(1), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuInit(0), 0);
	assert_int_equal(cu.cuDeviceGetCount(&n), 0);
	assert_int_equal(n, 2);
}

static void test_02_every_function_of_our_table_is_there(void **state)
{
	int status = 0;
	void *fn;

	(void)state;
#define CU(name, version, need, args) assert_non_null(cu.name);
#include "transport/cuda/symbols.def"
#undef CU
	assert_int_equal(cu.get("cuMemcpyBatchAsync", &fn, 12070, 0, &status), CUDA_ERROR_NOT_FOUND);
	assert_null(fn);
	assert_int_equal(status, 2); /* of a later version */
	assert_int_equal(cu.get("cuNoSuchThing", &fn, 12080, 0, &status), CUDA_ERROR_NOT_FOUND);
	assert_int_equal(status, 1);
	/* The driver says it is 12.8: of 13 it has nothing. */
	assert_int_equal(cu.get("cuMemcpyBatchAsync", &fn, 13000, 0, &status), 0);
	assert_ptr_equal(fn, cu.cuMemcpyBatchAsync);
	/* The plain name is the first version's, which no caller of today can use. */
	assert_int_equal(((int (*)(void *, size_t))fake_symbol("cuMemAlloc"))(&fn, 4096), CUDA_ERROR_INVALID_CONTEXT);
	assert_ptr_equal(fake_symbol("cuMemAlloc_v2"), cu.cuMemAlloc);
}

static void test_03_devices_differ_and_have_names(void **state)
{
	char name[64], id[16], other[16];
	CUuuid a, b;
	int v;

	(void)state;
	assert_int_equal(cu.cuDeviceGetUuid(&a, 0), 0);
	assert_int_equal(cu.cuDeviceGetUuid(&b, 1), 0);
	assert_int_not_equal(memcmp(&a, &b, sizeof(a)), 0);
	assert_int_equal(cu.cuDeviceGetUuid(&b, 2), CUDA_ERROR_INVALID_DEVICE);
	assert_int_equal(cu.cuDeviceGetName(name, sizeof(name), 0), 0);
	assert_true(strlen(name) > 0);
	assert_int_equal(cu.cuDeviceGetPCIBusId(id, sizeof(id), 0), 0);
	assert_int_equal(cu.cuDeviceGetPCIBusId(other, sizeof(other), 1), 0);
	assert_string_not_equal(id, other);
	assert_int_equal(cu.cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 0), 0);
	assert_int_equal(v, 1);
}

static void *without_context(void *arg)
{
	CUdeviceptr p;

	*(CUresult *)arg = cu.cuMemAlloc(&p, 4096);
	return NULL;
}

static void test_04_a_context_is_current_in_one_thread(void **state)
{
	CUdeviceptr p;
	CUresult rc = 0;
	pthread_t t;

	(void)state;
	assert_int_equal(cu.cuMemAlloc(&p, 4096), CUDA_ERROR_INVALID_CONTEXT);
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_int_equal(pthread_create(&t, NULL, without_context, &rc), 0);
	pthread_join(t, NULL);
	assert_int_equal(rc, CUDA_ERROR_INVALID_CONTEXT);
	assert_int_equal(cu.cuMemFree(p), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
}

static void test_05_a_primary_context_lives_until_its_last_release(void **state)
{
	CUcontext a, b;
	CUdeviceptr p;
	unsigned flags;
	int active;

	(void)state;
	a = fake_context(0);
	b = fake_context(0);
	assert_ptr_equal(a, b);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
	assert_int_equal(cu.cuMemsetD8(p, 1, MB), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxGetState(0, &flags, &active), 0);
	assert_int_equal(active, 0);
	assert_int_equal(cu.cuMemsetD8(p, 1, MB), CUDA_ERROR_CONTEXT_IS_DESTROYED);
	assert_int_equal(cu.cuCtxSetCurrent(a), CUDA_ERROR_CONTEXT_IS_DESTROYED);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), CUDA_ERROR_INVALID_CONTEXT);
	assert_int_equal(fake_count("memories", 0), 0); /* its memory went with it */
	/* A new life of the same context is not the old one: a thread that has the old one must make it current again. */
	assert_int_equal(cu.cuDevicePrimaryCtxRetain(&b, 0), 0);
	assert_int_equal(cu.cuMemAlloc(&p, MB), CUDA_ERROR_CONTEXT_IS_DESTROYED);
	assert_int_equal(cu.cuCtxSetCurrent(b), 0);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	assert_int_equal(fake_count("memories", 0), 0);
}

static void test_06_memory_has_its_real_size_and_an_end(void **state)
{
	size_t bytes = 0, room = 0, total = 0, before = 0;
	CUdeviceptr p, q, base = 0;

	(void)state;
	fake_context(0);
	assert_int_equal(cu.cuMemGetInfo(&before, &total), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 1000001), 0);
	assert_int_equal(cu.cuMemGetAddressRange(&base, &bytes, p + 77777), 0);
	assert_true(base == p);
	assert_int_equal(bytes, 1000001);
	assert_int_equal(cu.cuMemGetAddressRange(&base, &bytes, p + 1000001), CUDA_ERROR_NOT_FOUND);
	assert_int_equal(cu.cuMemGetInfo(&room, &total), 0);
	assert_int_equal(before - room, 1000001);
	assert_int_equal(cu.cuMemAlloc(&q, total), CUDA_ERROR_OUT_OF_MEMORY);
	assert_int_equal(cu.cuMemAlloc(&q, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemFree(p + 4096), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemFree(p), 0);
	assert_int_equal(cu.cuMemFree(p), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemFree(0), 0);
	assert_int_equal(cu.cuMemGetInfo(&room, &total), 0);
	assert_int_equal(room, before);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
}

static void test_07_the_cpu_cannot_follow_a_device_address(void **state)
{
	CUdeviceptr p;
	int fd[2];

	(void)state;
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_int_equal(pipe(fd), 0);
	/* The kernel's reading is as good as ours, and nobody dies. */
	assert_int_equal(syscall(SYS_write, fd[1], (void *)(uintptr_t)p, 1), -1);
	assert_int_equal(errno, EFAULT);
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
}

static void test_08_a_forked_child_has_no_driver(void **state)
{
	int status, n;
	pid_t pid = fork();

	(void)state;
	if (!pid)
		_exit(cu.cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED && cu.cuInit(0) != 0 ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_09_copies_stay_within_their_memory(void **state)
{
	CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_HOST, .dstMemoryType = CU_MEMORYTYPE_DEVICE};
	unsigned char *a = malloc(MB), *b = malloc(MB);
	CUdeviceptr p, q;
	CUstream s;

	(void)state;
	fake_context(0);
	fake_fill(a, MB, 1);
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuMemAlloc(&p, MB), 0);
	assert_int_equal(cu.cuMemAlloc(&q, MB), 0);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, a, MB, s), 0);
	assert_int_equal(cu.cuMemcpyDtoDAsync(q, p, MB, s), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(b, q, MB, s), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_memory_equal(a, b, MB);
	assert_int_equal(cu.cuMemcpyHtoDAsync(p + 1, a, MB, s), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyDtoHAsync(b, p - 1, 2, s), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyDtoDAsync(q, p + MB - 1, 2, s), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemsetD8Async(p + MB - 1, 0, 2, s), CUDA_ERROR_INVALID_VALUE);
	/* A device address is no host address. */
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, (void *)(uintptr_t)q, 16, s), CUDA_ERROR_INVALID_VALUE);
	/* The last row ends where the memory ends; one byte more does not fit. */
	c.srcHost = a;
	c.dstDevice = p;
	c.srcPitch = 512;
	c.dstPitch = 1024;
	c.WidthInBytes = 512;
	c.Height = MB / 1024;
	assert_int_equal(cu.cuMemsetD8Async(p, 0, MB, s), 0);
	assert_int_equal(cu.cuMemcpy2DAsync(&c, s), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(b, p, MB, s), 0);
	assert_memory_equal(b + 1024 * 5, a + 512 * 5, 512);
	assert_int_equal(b[1024 * 5 + 512], 0);
	c.dstXInBytes = 513;
	assert_int_equal(cu.cuMemcpy2DAsync(&c, s), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
	free(a);
	free(b);
}

static void test_10_host_memory_is_registered_once(void **state)
{
	char *p = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CUdeviceptr d, alias;
	void *made, *gone;

	(void)state;
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&d, 16 * 4096), 0);
	assert_int_equal(cu.cuMemHostRegister(p, 4 * 4096, 1), 0);
	assert_int_equal(cu.cuMemHostRegister(p, 4 * 4096, 1), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
	assert_int_equal(cu.cuMemHostRegister(p + 3 * 4096, 4096 * 2, 1), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
	assert_int_equal(cu.cuMemHostRegister(p + 4 * 4096, 4096, 1), 0);
	/* Half in one registration and half in none, or in the next: neither pinned nor pageable. */
	assert_int_equal(cu.cuMemcpyHtoD(d, p + 3 * 4096, 8192), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyHtoD(d, p + 4 * 4096, 8192), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyHtoD(d, p, 4 * 4096), 0);
	assert_int_equal(cu.cuMemHostGetDevicePointer(&alias, p, 0), 0);
	assert_true(alias != (uint64_t)(uintptr_t)p); /* as on machines where they differ */
	assert_int_equal(cu.cuMemHostUnregister(p + 4096), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	assert_int_equal(cu.cuMemHostUnregister(p), 0);
	assert_int_equal(cu.cuMemHostUnregister(p), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	assert_int_equal(cu.cuMemHostGetDevicePointer(&alias, p, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemAllocHost(&made, 10000), 0);
	assert_int_equal(cu.cuMemHostGetDevicePointer(&alias, made, 0), 0);
	assert_true(alias == (uint64_t)(uintptr_t)made);
	assert_int_equal(cu.cuMemHostUnregister(made), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
	assert_int_equal(cu.cuMemFreeHost(p), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(fake_count("host_registrations", getpid()), 2);
	assert_int_equal(cu.cuMemFreeHost(made), 0);
	gone = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(gone, 8192);
	assert_int_equal(cu.cuMemHostRegister(gone, 8192, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
	assert_int_equal(fake_count("host_registrations", getpid()), 0);
	munmap(p, 16 * 4096);
}

static CUmemcpyAttributes in_order = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};

static void test_11_batches_have_a_cap_and_one_list_of_attributes(void **state)
{
	unsigned char a[256], b[256] = {0};
	CUdeviceptr p, dst[16], src[16];
	size_t size[16], at = 0, failed = 0, wrong = 1;
	CUstream s;

	(void)state;
	fake_context(0);
	fake_fill(a, sizeof(a), 3);
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	for (int i = 0; i < 16; i++) {
		dst[i] = p + (uint64_t)i * 16;
		src[i] = (uint64_t)(uintptr_t)a + (uint64_t)(15 - i) * 16;
		size[i] = 16;
	}
	assert_int_equal(cu.cuMemcpyBatchAsync(dst, src, size, 16, &in_order, &at, 1, &failed, s), 0);
	assert_int_equal(cu.cuMemcpyDtoHAsync(b, p, 256, s), 0);
	for (size_t i = 0; i < 16; i++)
		assert_memory_equal(b + i * 16, a + (15 - i) * 16, 16);
	assert_int_equal(cu.cuMemcpyBatchAsync(dst, src, size, 16, &in_order, &at, 1, &failed, NULL),
			 CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyBatchAsync(dst, src, size, 16, &in_order, &wrong, 1, &failed, s),
			 CUDA_ERROR_INVALID_VALUE);
	dst[3] = p + 4090;
	assert_int_equal(cu.cuMemcpyBatchAsync(dst, src, size, 16, &in_order, &at, 1, &failed, s),
			 CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.control("batch_cap 8"), 0);
	assert_int_equal(cu.cuMemcpyBatchAsync(dst, src, size, 16, &in_order, &at, 1, &failed, s),
			 CUDA_ERROR_LAUNCH_FAILED);
	assert_int_equal(cu.cuStreamSynchronize(s), CUDA_ERROR_LAUNCH_FAILED); /* for good */
	assert_int_equal(cu.control("batch_cap 32768"), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
}

static void test_12_virtual_memory_needs_all_its_steps(void **state)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
				    .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
				    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
	CUmemAccessDesc who = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle h[2];
	unsigned char a[64], b[64] = {0};
	CUmemFabricHandle fabric;
	CUipcMemHandle ipc;
	CUdeviceptr va;
	size_t g;

	(void)state;
	fake_context(0);
	fake_fill(a, sizeof(a), 9);
	assert_int_equal(cu.cuMemGetAllocationGranularity(&g, &prop, 0), 0);
	assert_int_equal(cu.cuMemCreate(&h[0], g + 1, &prop, 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemCreate(&h[0], g, &prop, 0), 0);
	assert_int_equal(cu.cuMemCreate(&h[1], g, &prop, 0), 0);
	assert_int_equal(cu.cuMemAddressReserve(&va, 2 * g, 0, 0, 0), 0);
	assert_int_equal(cu.cuMemMap(va + 2 * g, g, 0, h[0], 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemMap(va, g, 0, h[0], 0), 0);
	assert_int_equal(cu.cuMemMap(va, g, 0, h[1], 0), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemMap(va + g, g, 0, h[1], 0), 0);
	assert_int_equal(cu.cuMemcpyHtoD(va, a, sizeof(a)), CUDA_ERROR_INVALID_VALUE); /* no access yet */
	assert_int_equal(cu.cuMemSetAccess(va, 2 * g, &who, 1), 0);
	assert_int_equal(cu.cuMemcpyHtoD(va + g - 32, a, sizeof(a)), 0); /* over both */
	assert_int_equal(cu.cuMemcpyDtoH(b, va + g - 32, sizeof(b)), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(cu.cuIpcGetMemHandle(&ipc, va), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemExportToShareableHandle(&fabric, h[0], CU_MEM_HANDLE_TYPE_FABRIC, 0),
			 CUDA_ERROR_INVALID_VALUE); /* not asked for when it was made */
	assert_int_equal(cu.cuMemRelease(h[0]), 0);
	assert_int_equal(cu.cuMemRelease(h[0]), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyDtoH(b, va, 32), 0); /* mapped memory stays */
	assert_int_equal(cu.cuMemUnmap(va, g / 2), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemAddressFree(va, 2 * g), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemUnmap(va, 2 * g), 0);
	assert_int_equal(cu.cuMemcpyDtoH(b, va, 32), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemAddressFree(va, 2 * g), 0);
	assert_int_equal(fake_count("memories", 0), 1);
	assert_int_equal(cu.cuMemRelease(h[1]), 0);
	assert_int_equal(fake_count("memories", 0), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_nothing_works_before_init),
		cmocka_unit_test(test_02_every_function_of_our_table_is_there),
		cmocka_unit_test(test_03_devices_differ_and_have_names),
		cmocka_unit_test(test_04_a_context_is_current_in_one_thread),
		cmocka_unit_test(test_05_a_primary_context_lives_until_its_last_release),
		cmocka_unit_test(test_06_memory_has_its_real_size_and_an_end),
		cmocka_unit_test(test_07_the_cpu_cannot_follow_a_device_address),
		cmocka_unit_test(test_08_a_forked_child_has_no_driver),
		cmocka_unit_test(test_09_copies_stay_within_their_memory),
		cmocka_unit_test(test_10_host_memory_is_registered_once),
		cmocka_unit_test(test_11_batches_have_a_cap_and_one_list_of_attributes),
		cmocka_unit_test(test_12_virtual_memory_needs_all_its_steps),
	};
	int rc;

	fake_machine();
	fake_load();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	fake_machine_remove();
	return rc;
}
