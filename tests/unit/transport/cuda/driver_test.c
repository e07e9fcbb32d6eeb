/* Loading a driver by name, and what its errors mean. */
#include "transport/cuda/driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static void no_library(void **state)
{
	struct cuda_driver cu;
	struct why why = {0};

	(void)state;
	memset(&cu, 0xff, sizeof cu);
	assert_int_equal(cuda_driver_load("libthere-is-no-such.so.7", &cu, &why), -ENOENT);
	assert_non_null(strstr(why.text, "libthere-is-no-such.so.7"));
	assert_null(cu.cuInit);
}

static void not_a_driver(void **state)
{
	struct cuda_driver cu;
	struct why why = {0};

	(void)state;
	assert_int_equal(cuda_driver_load("libm.so.6", &cu, &why), -ENOSYS);
	assert_non_null(strstr(why.text, "libm.so.6"));
	assert_non_null(strstr(why.text, "cuGetProcAddress_v2"));
	assert_null(cu.cuInit);
}

static void errors(void **state)
{
	static const struct {
		CUresult rc;
		int err;
		bool sticky;
	} rows[] = {
		{CUDA_SUCCESS, 0, false},
		{CUDA_ERROR_INVALID_VALUE, -EINVAL, false},
		{CUDA_ERROR_OUT_OF_MEMORY, -ENOMEM, false},
		{CUDA_ERROR_INVALID_HANDLE, -EACCES, false},
		{CUDA_ERROR_MAP_FAILED, -EACCES, false},
		{CUDA_ERROR_NOT_SUPPORTED, -EOPNOTSUPP, false},
		{CUDA_ERROR_INVALID_CONTEXT, -EIO, false},
		{CUDA_ERROR_ILLEGAL_ADDRESS, -ENODEV, true},
		{CUDA_ERROR_ECC_UNCORRECTABLE, -ENODEV, true},
		{CUDA_ERROR_LAUNCH_FAILED, -ENODEV, true},
		{CUDA_ERROR_LAUNCH_TIMEOUT, -ENODEV, true},
		{12345, -EIO, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_int_equal(cuda_errno(rows[i].rc), rows[i].err);
		assert_int_equal(cuda_sticky(rows[i].rc), rows[i].sticky);
	}
}

static CUresult name_of(CUresult rc, const char **name)
{
	*name = rc == 1 ? "CUDA_ERROR_INVALID_VALUE" : NULL;
	return rc == 1 ? 0 : CUDA_ERROR_INVALID_VALUE;
}

static void names(void **state)
{
	struct cuda_driver cu = {0};

	(void)state;
	assert_non_null(cuda_error(&cu, 1)); /* nothing is loaded yet */
	cu.cuGetErrorName = name_of;
	assert_string_equal(cuda_error(&cu, 1), "CUDA_ERROR_INVALID_VALUE");
	assert_non_null(cuda_error(&cu, 4711));
}

/* ---- on the test driver, which reads its options once per process -------------------------------------------------------------- */

static char library[600];

struct result {
	int rc, version;
	bool batch, again;
	struct why why;
};

static void load_once(const char *option, const char *value, const char *fault, struct result *r)
{
	struct cuda_driver cu, second;
	int (*control)(const char *commands);
	char dir[] = "/dev/shm/lmca-driver-test-XXXXXX", command[100];
	void *lib, *fn;

	if (!mkdtemp(dir))
		return;
	setenv("LMCA_FAKE_CUDA_DIR", dir, 1);
	setenv(option, value, 1);
	lib = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	fn = lib ? dlsym(lib, "fake_cuda_control") : NULL;
	memcpy(&control, &fn, sizeof(fn));
	if (fn && !control(fault)) {
		r->rc = cuda_driver_load(library, &cu, &r->why);
		r->version = cu.version;
		r->batch = cu.cuMemcpyBatchAsync != NULL;
		r->again = !r->rc && !cuda_driver_load(library, &second, NULL) && !memcmp(&cu, &second, sizeof cu);
	}
	snprintf(command, sizeof command, "rm -rf %s", dir);
	if (system(command))
		r->rc = 1;
}

static struct result loaded(const char *option, const char *value, const char *fault)
{
	struct result r = {.rc = 1};
	int p[2];
	pid_t pid;

	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		load_once(option, value, fault, &r);
		_exit(write(p[1], &r, sizeof r) != sizeof r);
	}
	close(p[1]);
	assert_int_equal(read(p[0], &r, sizeof r), sizeof r);
	close(p[0]);
	waitpid(pid, NULL, 0);
	return r;
}

static void on_the_test_driver(void **state)
{
	struct result r;

	(void)state;
	r = loaded("LMCA_FAKE_CUDA_GPUS", "1", "clear");
	assert_int_equal(r.rc, 0);
	assert_int_equal(r.version, 12080);
	assert_true(r.batch && r.again);
	/* older: without what it may lack */
	r = loaded("LMCA_FAKE_CUDA_VERSION", "12040", "clear");
	assert_int_equal(r.rc, 0);
	assert_int_equal(r.version, 12040);
	assert_false(r.batch);
	/* too old: the first missing function is named */
	r = loaded("LMCA_FAKE_CUDA_VERSION", "10020", "clear");
	assert_int_equal(r.rc, -ENOSYS);
	assert_non_null(strstr(r.why.text, "too old"));
	r = loaded("LMCA_FAKE_CUDA_GPUS", "0", "clear");
	assert_int_equal(r.rc, -ENODEV);
	r = loaded("LMCA_FAKE_CUDA_GPUS", "1", "fail cuInit error=802 count=9");
	assert_int_equal(r.rc, -EIO);
	assert_non_null(strstr(r.why.text, "fabric manager"));
	r = loaded("LMCA_FAKE_CUDA_GPUS", "1", "fail cuInit error=1 count=9");
	assert_int_equal(r.rc, -EIO);
	assert_non_null(strstr(r.why.text, "CUDA_ERROR_INVALID_VALUE"));
	/* a function is missing that may be, and one that may not */
	r = loaded("LMCA_FAKE_CUDA_GPUS", "1", "fail cuMemcpyBatchAsync error=500");
	assert_int_equal(r.rc, 0);
	assert_false(r.batch);
	r = loaded("LMCA_FAKE_CUDA_GPUS", "1", "fail cuMemHostRegister error=500");
	assert_int_equal(r.rc, -ENOSYS);
	assert_non_null(strstr(r.why.text, "cuMemHostRegister"));
}

static int find_library(void **state)
{
	ssize_t n = readlink("/proc/self/exe", library, sizeof(library) - 64);
	char *tests;

	(void)state;
	library[n > 0 ? n : 0] = 0;
	tests = strstr(library, "/tests/unit/");
	return tests ? snprintf(tests, 64, "/tests/fake/libcuda.so.1") < 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_library), cmocka_unit_test(not_a_driver),       cmocka_unit_test(errors),
		cmocka_unit_test(names),      cmocka_unit_test(on_the_test_driver),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, find_library, NULL);
}
