/* What a test can make go wrong, and what it can ask. */
#include "tests/unit/fake/libcuda/fake_test.h"

#include <pthread.h>
#include <stdatomic.h>

#define MB 1048576u

/* A process that holds a bit of everything, and may be killed anywhere. */
static int run_holder(void)
{
	CUdeviceptr p[8];
	CUevent e;
	CUstream s;
	int64_t zero = 0;
	uint64_t m[2];

	peer_context(0);
	MUST(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&e, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	MUST(cuMemAlloc(&p[0], MB));
	peer_tell(&zero, sizeof(zero));
	if (getenv("HOLDER_BUSY"))
		for (;;) { /* killed at any point of any of these */
			for (int i = 1; i < 8; i++)
				MUST(cuMemAlloc(&p[i], 65536));
			MUST(cuMemsetD8Async(p[3], 1, 65536, s));
			MUST(cuEventRecord(e, s));
			for (int i = 1; i < 8; i++)
				MUST(cuMemFree(p[i]));
		}
	while (fd_read(3, m, sizeof(m))) {
		int64_t rc = cu.cuMemsetD8Async(p[0], (unsigned char)m[1], MB, s);

		peer_tell(&rc, sizeof(rc));
	}
	return 0;
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
	return 0;
}

static void test_01_the_nth_call_fails(void **state)
{
	CUdeviceptr p;

	(void)state;
	assert_int_equal(cu.control("# a word about it\n\nfail cuMemAlloc error=2 after=2 count=2"), 0);
	for (int i = 0; i < 6; i++) {
		CUresult rc = cu.cuMemAlloc(&p, 4096);

		assert_int_equal(rc, i == 2 || i == 3 ? CUDA_ERROR_OUT_OF_MEMORY : 0);
	}
	assert_int_equal(cu.control("fail cuMemAlloc error=2 pid=1"), 0); /* somebody else's */
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_int_equal(cu.control("fail cuMemAlloc error=304 count=1000"), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), CUDA_ERROR_OPERATING_SYSTEM);
	assert_int_equal(cu.cuMemsetD8(p, 0, 16), 0);
	assert_int_equal(cu.control("clear"), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_true(cu.control("fly to the moon") < 0);
	assert_true(cu.control("lose gpu=7") < 0);
}

static void test_02_a_sticky_fault_breaks_the_context(void **state)
{
	CUdeviceptr p;

	(void)state;
	assert_int_equal(cu.control("fail * error=719 sticky=1"), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), CUDA_ERROR_LAUNCH_FAILED);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), CUDA_ERROR_LAUNCH_FAILED);
	assert_int_equal(cu.cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
}

static atomic_bool entered;

static void *sync_stream(void *arg)
{
	CUcontext c = NULL;
	CUresult rc = cu.cuDevicePrimaryCtxRetain(&c, 0);

	rc = rc ? rc : cu.cuCtxSetCurrent(c);
	atomic_store(&entered, true);
	return (void *)(uintptr_t)(unsigned)(rc ? rc : cu.cuStreamSynchronize(arg));
}

static void test_03_a_lost_device_ends_everything_on_it(void **state)
{
	CUdeviceptr p;
	CUcontext c;
	CUstream s;
	pthread_t t;
	void *rc;

	(void)state;
	assert_int_equal(cu.cuStreamCreate(&s, 1), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
	assert_int_equal(cu.control("stick gpu=0"), 0);
	assert_int_equal(cu.cuMemsetD8Async(p, 1, 4096, s), 0);
	assert_int_equal(pthread_create(&t, NULL, sync_stream, s), 0);
	while (!atomic_load(&entered))
		fake_sleep_ms(1);
	fake_sleep_ms(20);
	assert_int_equal(cu.control("lose gpu=0"), 0);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_UNKNOWN);
	pthread_join(t, &rc); /* who waits comes back */
	assert_int_equal((uintptr_t)rc, CUDA_ERROR_UNKNOWN);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRetain(&c, 0), 46); /* CUDA_ERROR_DEVICE_UNAVAILABLE */
	fake_context(1);
	assert_int_equal(cu.cuDevicePrimaryCtxRelease(1), 0);
	assert_int_equal(cu.control("restore gpu=0\nrelease gpu=0"), 0);
	fake_context(0);
	assert_int_equal(cu.cuMemAlloc(&p, 4096), 0);
}

static void test_04_a_gpu_can_be_slow(void **state)
{
	uint64_t begin;
	CUdeviceptr p;
	CUstream s;
	void *h;

	(void)state;
	assert_int_equal(cu.cuStreamCreate(&s, 1), 0);
	assert_int_equal(cu.cuMemAlloc(&p, 4 * MB), 0);
	assert_int_equal(cu.cuMemAllocHost(&h, 4 * MB), 0);
	assert_int_equal(cu.control("slow gpu=0 bytes_per_s=10485760"), 0); /* 10 MiB/s: 400 ms */
	begin = fake_ms();
	assert_int_equal(cu.cuMemcpyHtoDAsync(p, h, 4 * MB, s), 0);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_true(fake_ms() - begin >= 399);
	assert_int_equal(cu.cuMemFreeHost(h), 0);
}

static void test_05_a_file_commands_as_well(void **state)
{
	struct peer p = peer_start("holder");
	char path[160];
	int64_t ready;
	FILE *f;

	(void)state;
	peer_get(&p, &ready, sizeof(ready));
	assert_int_equal(peer_ask(&p, 'x', 1), 0);
	snprintf(path, sizeof(path), "%s/control", fake_dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "fail cuMemsetD8Async error=801 count=2 pid=%d\n", (int)p.pid);
	fclose(f);
	fake_sleep_ms(5);
	assert_int_equal(peer_ask(&p, 'x', 1), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(peer_ask(&p, 'x', 1), CUDA_ERROR_NOT_SUPPORTED); /* the file was read once */
	assert_int_equal(peer_ask(&p, 'x', 1), 0);
	unlink(path);
	peer_end(&p, 0);
}

static long memory_files(void)
{
	char command[200], text[32] = "";
	FILE *f;

	snprintf(command, sizeof(command), "ls %s | grep -c memory", fake_dir);
	f = popen(command, "r");
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return strtol(text, NULL, 10);
}

static void test_06_the_report_tells_of_every_process(void **state)
{
	struct peer p = peer_start("holder");
	int64_t ready;

	(void)state;
	peer_get(&p, &ready, sizeof(ready));
	assert_int_equal(fake_count("allocations", p.pid), 1);
	assert_int_equal(fake_count("allocated_bytes", p.pid), MB);
	assert_int_equal(fake_count("streams", p.pid), 1);
	assert_int_equal(fake_count("events", p.pid), 1);
	assert_int_equal(fake_count("contexts", p.pid), 1);
	assert_int_equal(fake_count("contexts", getpid()), 1);
	assert_int_equal(fake_count("allocations", getpid()), 0);
	assert_int_equal(memory_files(), 1);
	peer_end(&p, 0); /* ends in order: nothing stays, also before the next one looks */
	assert_int_equal(memory_files(), 0);
	assert_int_equal(fake_count("contexts", p.pid), -1);
	assert_int_equal(fake_count("memories", 0), 0);
	assert_int_equal(fake_count("ipc_events", 0), 0);
}

static void test_07_the_killed_leave_nothing(void **state)
{
	size_t room, total;

	(void)state;
	setenv("HOLDER_BUSY", "1", 1);
	for (int i = 0; i < 25; i++) {
		struct peer p = peer_start("holder");
		int64_t ready;

		peer_get(&p, &ready, sizeof(ready));
		fake_sleep_ms(i % 7);
		peer_end(&p, SIGKILL);
	}
	unsetenv("HOLDER_BUSY");
	assert_int_equal(fake_count("memories", 0), 0);
	assert_int_equal(fake_count("ipc_events", 0), 0);
	assert_int_equal(cu.cuMemGetInfo(&room, &total), 0);
	assert_int_equal(room, total);
	assert_int_equal(memory_files(), 0);
}

static int odd_memory(void)
{
	void *h = aligned_alloc(4096, 8192);
	CUdeviceptr d = 0;

	MUST(cuMemHostRegister(h, 8192, 0));
	MUST(cuMemHostGetDevicePointer(&d, h, 0));
	MUST(cuMemHostUnregister(h));
	if (d != (uint64_t)(uintptr_t)h)
		return 4;
	free(h);
	/* What breaks stays broken until the process ends. */
	cu.control("fail * error=700 sticky=1");
	if (cu.cuCtxSynchronize() != CUDA_ERROR_ILLEGAL_ADDRESS)
		return 5;
	MUST(cuDevicePrimaryCtxReset(0));
	fake_context(0);
	return cu.cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS ? 0 : 6;
}

/* As another machine: the settings are those of whoever makes it. */
static int run_odd(void)
{
	CUipcMemHandle h;
	CUdeviceptr p;
	char name[96];
	int n;

	peer_context(0);
	MUST(cuDeviceGetCount(&n));
	MUST(cuDeviceGetName(name, sizeof(name), 0));
	MUST(cuMemAlloc(&p, 4096));
	if (n != 2 || !strstr(name, "MIG") || cu.cuIpcGetMemHandle(&h, p) != CUDA_ERROR_NOT_SUPPORTED)
		return 1;
	if (cu.cuStreamWaitValue64(NULL, p, 0, 0) != CUDA_ERROR_NOT_SUPPORTED)
		return 2;
	if (fake_function("cuMemcpyBatchAsync", 12080)) /* a driver of 12.4 */
		return 3;
	return odd_memory();
}

static void test_08_a_machine_can_be_of_another_kind(void **state)
{
	char dir[160], command[200];
	struct peer p;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/odd", fake_dir);
	setenv("LMCA_FAKE_CUDA_DIR", dir, 1);
	setenv("LMCA_FAKE_CUDA_GPUS", "3", 1);
	setenv("LMCA_FAKE_CUDA_MIG", "1,2", 1);
	setenv("LMCA_FAKE_CUDA_VERSION", "12040", 1);
	setenv("LMCA_FAKE_CUDA_VALUE_OPS", "0", 1);
	setenv("LMCA_FAKE_CUDA_HOST_SAME", "1", 1);
	setenv("LMCA_FAKE_CUDA_PROCESS_STICKY", "1", 1);
	setenv("CUDA_VISIBLE_DEVICES", "2,GPU-6c6d6361-2d74-6573-742d-677075400000,nonsense,0", 1);
	p = peer_start("odd");
	peer_end(&p, 0);
	unsetenv("LMCA_FAKE_CUDA_GPUS");
	unsetenv("LMCA_FAKE_CUDA_MIG");
	unsetenv("LMCA_FAKE_CUDA_VERSION");
	unsetenv("LMCA_FAKE_CUDA_VALUE_OPS");
	unsetenv("LMCA_FAKE_CUDA_HOST_SAME");
	unsetenv("LMCA_FAKE_CUDA_PROCESS_STICKY");
	unsetenv("CUDA_VISIBLE_DEVICES");
	setenv("LMCA_FAKE_CUDA_DIR", fake_dir, 1);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_01_the_nth_call_fails),
		TEST(test_02_a_sticky_fault_breaks_the_context),
		TEST(test_03_a_lost_device_ends_everything_on_it),
		TEST(test_04_a_gpu_can_be_slow),
		TEST(test_05_a_file_commands_as_well),
		TEST(test_06_the_report_tells_of_every_process),
		TEST(test_07_the_killed_leave_nothing),
		TEST(test_08_a_machine_can_be_of_another_kind),
	};
	int rc;

	if (argc > 1)
		return strcmp(argv[1], "holder") == 0 ? run_holder() : run_odd();
	fake_machine();
	fake_load();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	fake_machine_remove();
	return rc;
}
