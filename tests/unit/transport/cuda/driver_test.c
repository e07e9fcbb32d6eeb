/* Loading a driver by name, and what its errors mean. */
#include "transport/cuda/driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_library),
		cmocka_unit_test(not_a_driver),
		cmocka_unit_test(errors),
		cmocka_unit_test(names),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
