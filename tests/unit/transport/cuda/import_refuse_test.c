/* What imports are refused, and in which words: most of it before the driver is asked. */
#include "tests/unit/transport/cuda/import_fake.h"

#include "daemon/base/clock.h"

#define ID 3u

static void test_01_hostile_geometry_is_not_opened(void **state)
{
	static const struct {
		uint64_t shape[2];
		int64_t stride[2];
		uint64_t storage_offset, offset, bytes;
		uint32_t ndim;
		int err;
		const char *words;
	} bad[] = {
		{{16, 4}, {4, 1}, 0, 0, 128, 0, -EINVAL, "0 dimensions"},
		{{16, 4}, {4, 1}, 0, 0, 128, 9, -EINVAL, "9 dimensions"},
		{{0, 4}, {4, 1}, 0, 0, 128, 2, -EINVAL, "empty"},
		{{16, 4}, {-4, 1}, 0, 0, 128, 2, -EINVAL, "negative"},
		{{16, 4}, {4, 1}, 0, 0, 127, 2, -ERANGE, "reaches 128 bytes into a storage of 127"},
		{{16, 4}, {4, 1}, 1, 0, 128, 2, -ERANGE, "reaches 130 bytes"},
		{{16, 4}, {5, 1}, 0, 0, 128, 2, -ERANGE, "reaches 158 bytes"},
		{{17, 4}, {4, 1}, 0, 0, 128, 2, -ERANGE, "reaches 136 bytes"},
		{{16, 4}, {INT64_MAX, 1}, 0, 0, 128, 2, -EINVAL, "overflow"},
		{{UINT64_MAX, 4}, {4, 1}, 0, 0, 128, 2, -EINVAL, "overflow"},
		{{UINT64_MAX, UINT64_MAX}, {INT64_MAX, INT64_MAX}, 0, 0, 128, 2, -EINVAL, "overflow"},
		{{3, 3}, {INT64_C(1) << 62, INT64_C(1) << 62}, 0, 0, 128, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, UINT64_MAX, 0, 128, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, UINT64_C(1) << 62, 0, 128, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, 0, UINT64_MAX, 128, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, 0, INT64_MAX, 128, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, 0, 128, UINT64_MAX, 2, -EINVAL, "overflow"},
		{{16, 4}, {4, 1}, 0, GPU_MEM, 128, 2, -ERANGE, "the GPU has"},
		{{16, 4}, {4, 1}, 0, 0, GPU_MEM + 1, 2, -ERANGE, "the GPU has"},
	};
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, 4 * MIB);
	for (size_t i = 0; i < 2 * sizeof(bad) / sizeof(bad[0]); i++) {
		size_t k = i / 2;

		if (i % 2)
			fake_raw(&f, ID, bad[k].offset, bad[k].bytes);
		else
			fake_ipc(&f, ID, bad[k].offset, bad[k].bytes);
		memcpy(f.w.shape, bad[k].shape, sizeof(bad[k].shape));
		memcpy(f.w.stride, bad[k].stride, sizeof(bad[k].stride));
		f.w.storage_offset = bad[k].storage_offset;
		f.w.ndim = bad[k].ndim;
		refused_unopened(d, &f.w, bad[k].err, bad[k].words);
	}
	/* Eight times 2^63 * 2^62 is 0 in 128 bits. */
	fake_ipc(&f, ID, 0, 128);
	f.w.ndim = PK_MAX_DIMS;
	for (uint32_t i = 0; i < PK_MAX_DIMS; i++) {
		f.w.shape[i] = (UINT64_C(1) << 63) + 1;
		f.w.stride[i] = INT64_C(1) << 62;
	}
	refused_unopened(d, &f.w, -EINVAL, "overflow");
	fake_ipc(&f, ID, 0, 128);
	f.w.dtype = PK_DTYPE_COUNT;
	refused_unopened(d, &f.w, -EINVAL, "none");
	f.w.dtype = PK_DTYPE_NONE;
	refused_unopened(d, &f.w, -EINVAL, "none");
	assert_int_equal(fake.opens, 0);
}

static void test_02_hostile_handles_are_not_opened(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	f.w.mem_handle.n = 63;
	refused_unopened(d, &f.w, -EINVAL, "63 bytes");
	f.w.mem_handle.n = 0;
	refused_unopened(d, &f.w, -EINVAL, "0 bytes");
	f.w.mem_handle = slice_of(f.event, 64);
	refused_unopened(d, &f.w, -EINVAL, "all zeros");
	fake_ipc(&f, ID, 0, 128);
	f.w.event_sync = true;
	refused_unopened(d, &f.w, -EINVAL, "event whose handle is all zeros");
	f.w.event_handle.n = 0;
	refused_unopened(d, &f.w, -EINVAL, "event");
	f.w.kind = PK_CPU_SHM;
	refused_unopened(d, &f.w, -EINVAL, "not a wrapper of GPU memory");
	f.w.kind = 99;
	refused_unopened(d, &f.w, -EINVAL, "not a wrapper of GPU memory");
}

static void test_03_gpus_are_named_by_uuid(void **state)
{
	static const struct {
		const char *uuid;
		int err;
		const char *words;
	} names[] = {
		{UUID, 0, ""},
		{"GPU-" UUID, 0, ""},
		{"3B1F3C52-0000-4000-8000-000000000007", 0, ""},
		{"gpu-3B1F3C52-0000-4000-8000-000000000007", 0, ""},
		{"3b1f3c52-0000-4000-8000-000000000008", -ENODEV,
		 "no such GPU here: 3b1f3c52-0000-4000-8000-000000000008"},
		{"3b1f3c52", -ENODEV, "no such GPU"},
		{"GPU-", -ENODEV, "--gpus"},
		{"0", -ENODEV, "no such GPU"},
		{"cpu", -ENODEV, "no such GPU"},
		{"MIG-3b1f3c52-0000-4000-8000-000000000007", -EOPNOTSUPP, "no CUDA IPC between MIG instances"},
		{"mig-gpu-0/1/0", -EOPNOTSUPP, "MIG"},
	};
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	unsetenv("CUDA_VISIBLE_DEVICES");
	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		f.w.device_uuid = slice_str(names[i].uuid);
		if (names[i].err)
			refused_unopened(d, &f.w, names[i].err, names[i].words);
		else
			gpu_view_put(must(d, &f.w));
	}
	f.w.device_uuid = slice_str("other");
	setenv("CUDA_VISIBLE_DEVICES", "1,2", 1);
	refused_unopened(d, &f.w, -ENODEV, "CUDA_VISIBLE_DEVICES=1,2 leaves this server 1 GPUs");
	unsetenv("CUDA_VISIBLE_DEVICES");
	f.w.device_uuid = slice_str(UUID);
	d->gpu[0].facts.mig = true;
	refused_unopened(d, &f.w, -EOPNOTSUPP, "an instance of MIG");
}

static void test_04_views_must_lie_within_the_real_allocation(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, 4096);
	fake_ipc(&f, ID, 4096 - 128, 128);
	gpu_view_put(must(d, &f.w));
	fake_ipc(&f, ID, 4096 - 127, 128);
	refused(d, &f.w, -ERANGE, "ends 4097 bytes into an allocation of 4096");
	fake_ipc(&f, ID, 1 << 20, 128);
	refused(d, &f.w, -ERANGE, "into an allocation of 4096");
	/* The storage is more than the tensor: it has to be there all the same. */
	fake_ipc(&f, ID, 0, 4097);
	refused(d, &f.w, -ERANGE, "ends 4097");
	fake_raw(&f, ID, 4000, 128);
	refused(d, &f.w, -ERANGE, "ends 4128");
	assert_int_equal(fake.closes, fake.opens);
	counts(d, 0, 0, 0);
	/* Beside a view that holds the allocation. */
	fake_ipc(&f, ID, 0, 128);
	struct gpu_view *v = must(d, &f.w);
	fake_ipc(&f, ID, 4096, 128);
	refused(d, &f.w, -ERANGE, "into an allocation of 4096");
	counts(d, 1, 1, 4096);
	gpu_view_put(v);
}

static void test_05_what_the_driver_says_and_what_to_do(void **state)
{
	static const struct {
		CUresult rc;
		int err;
		const char *words;
	} says[] = {
		{CUDA_ERROR_INVALID_HANDLE, -EACCES,
		 "(CUDA_ERROR_INVALID_HANDLE): the engine has freed that memory or is gone"},
		{CUDA_ERROR_INVALID_HANDLE, -EACCES, "--ipc=host"},
		{CUDA_ERROR_INVALID_VALUE, -EACCES, "is gone"},
		{CUDA_ERROR_INVALID_CONTEXT, -EACCES, "the same pid in another container"},
		{CUDA_ERROR_INVALID_CONTEXT, -EACCES, "of this very process"},
		{CUDA_ERROR_MAP_FAILED, -EACCES, "CUDA_ERROR_MAP_FAILED"},
		{CUDA_ERROR_MAP_FAILED, -EACCES, "NVIDIA_VISIBLE_DEVICES"},
		{CUDA_ERROR_ALREADY_MAPPED, -EACCES, "made it anew"},
		{CUDA_ERROR_OPERATING_SYSTEM, -EACCES, "same user"},
		{CUDA_ERROR_NOT_SUPPORTED, -EOPNOTSUPP, "MIG"},
		{CUDA_ERROR_UNKNOWN, -EACCES, "CUDA_ERROR_UNKNOWN"},
		{CUDA_ERROR_OUT_OF_MEMORY, -ENOMEM, "no room"},
		{CUDA_ERROR_NO_DEVICE, -EIO, "no name for"},
	};
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	for (size_t i = 0; i < sizeof(says) / sizeof(says[0]); i++) {
		fake.every_open = says[i].rc;
		refused(d, &f.w, says[i].err, says[i].words);
		assert_false(d->gpu[0].lost);
	}
	fake.every_open = CUDA_SUCCESS;
	fake.alloc[ID].ours = true;
	refused(d, &f.w, -EACCES, "of this very process");
	fake.alloc[ID].ours = false;
	fake_ipc(&f, 99, 0, 128);
	refused(d, &f.w, -EACCES, "CUDA_ERROR_INVALID_HANDLE");
	fake_ipc(&f, ID, 0, 128);
	gpu_view_put(must(d, &f.w));
}

static void test_06_the_event_of_a_torch_handle(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;
	uint64_t t;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	memcpy(f.event, "event", 5);
	gpu_view_put(must(d, &f.w));
	assert_int_equal(fake.event_polls, 0); /* none asked for */
	f.w.event_sync = true;
	fake.event_ready_after = 3;
	v = must(d, &f.w);
	assert_int_equal(fake.event_polls, 4);
	gpu_view_put(v);
	fake.event_polls = 0;
	fake.event_ready_after = UINT64_MAX;
	d->gpu[0].imports->wait_ms = 30;
	t = clock_ms();
	refused(d, &f.w, -ETIMEDOUT, "has not finished in 30 ms");
	assert_true(clock_ms() - t >= 30 && clock_ms() - t < 5000);
	memcpy(f.event, "other", 5);
	refused(d, &f.w, -EACCES, "the event of the memory handle (CUDA_ERROR_INVALID_HANDLE)");
	counts(d, 0, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_01_hostile_geometry_is_not_opened, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_02_hostile_handles_are_not_opened, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_03_gpus_are_named_by_uuid, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_04_views_must_lie_within_the_real_allocation, fake_setup,
						fake_teardown),
		cmocka_unit_test_setup_teardown(test_05_what_the_driver_says_and_what_to_do, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_06_the_event_of_a_torch_handle, fake_setup, fake_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
