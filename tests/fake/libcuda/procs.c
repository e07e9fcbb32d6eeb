/* procs.c - the functions by name and version, and the names of errors. */
#include "tests/fake/libcuda/fake.h"

#include <string.h>

/* A pointer to a function is one to data here, as dlsym has it. */
#define CU(name, version, need, args)  {#name, version, (void *)name},
#define NAMED(name, version, fn, args) {name, version, (void *)fn},
static const struct {
	const char *name;
	int version;
	void *fn;
} functions[] = {
#include "transport/cuda/symbols.def"
	FAKE_MORE(NAMED)};
#undef CU
#undef NAMED

FAKE_API CUresult cuGetProcAddress_v2(const char *name, void **fn, int version, uint64_t flags, int *status)
{
	enum { FOUND, NO_SYMBOL, TOO_OLD };
	int best = -1, known = NO_SYMBOL, machine = 0;
	CUresult rc = cuDriverGetVersion(&machine);

	(void)flags;
	if (rc)
		return rc;
	if (!name || !fn)
		return CUDA_ERROR_INVALID_VALUE;
	*fn = NULL;
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		if (strcmp(functions[i].name, name) != 0)
			continue;
		known = TOO_OLD;
		if (functions[i].version <= version && functions[i].version <= machine && functions[i].version > best) {
			best = functions[i].version;
			*fn = functions[i].fn;
		}
	}
	if (fault_check(name, NULL) == CUDA_ERROR_NOT_FOUND) /* a test that takes a function away */
		*fn = NULL;
	if (status)
		*status = *fn ? FOUND : known;
	return *fn ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* The whole list of the header would say no more. */
static const struct {
	CUresult code;
	const char *name;
} errors[] = {
#define E(name)             \
	{                   \
		name, #name \
	}
	E(CUDA_SUCCESS),
	E(CUDA_ERROR_INVALID_VALUE),
	E(CUDA_ERROR_OUT_OF_MEMORY),
	E(CUDA_ERROR_NOT_INITIALIZED),
	E(CUDA_ERROR_DEINITIALIZED),
	E(CUDA_ERROR_DEVICE_UNAVAILABLE),
	E(CUDA_ERROR_NO_DEVICE),
	E(CUDA_ERROR_INVALID_DEVICE),
	E(CUDA_ERROR_INVALID_IMAGE),
	E(CUDA_ERROR_INVALID_CONTEXT),
	E(CUDA_ERROR_MAP_FAILED),
	E(CUDA_ERROR_ALREADY_MAPPED),
	E(CUDA_ERROR_NOT_MAPPED),
	E(CUDA_ERROR_ECC_UNCORRECTABLE),
	E(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED),
	E(CUDA_ERROR_INVALID_PTX),
	E(CUDA_ERROR_UNSUPPORTED_PTX_VERSION),
	E(CUDA_ERROR_OPERATING_SYSTEM),
	E(CUDA_ERROR_INVALID_HANDLE),
	E(CUDA_ERROR_NOT_FOUND),
	E(CUDA_ERROR_NOT_READY),
	E(CUDA_ERROR_ILLEGAL_ADDRESS),
	E(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
	E(CUDA_ERROR_LAUNCH_TIMEOUT),
	E(CUDA_ERROR_CONTEXT_IS_DESTROYED),
	E(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
	E(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
	E(CUDA_ERROR_HARDWARE_STACK_ERROR),
	E(CUDA_ERROR_ILLEGAL_INSTRUCTION),
	E(CUDA_ERROR_MISALIGNED_ADDRESS),
	E(CUDA_ERROR_INVALID_ADDRESS_SPACE),
	E(CUDA_ERROR_INVALID_PC),
	E(CUDA_ERROR_LAUNCH_FAILED),
	E(CUDA_ERROR_NOT_PERMITTED),
	E(CUDA_ERROR_NOT_SUPPORTED),
	E(CUDA_ERROR_MPS_CLIENT_TERMINATED),
	E(CUDA_ERROR_EXTERNAL_DEVICE),
	E(CUDA_ERROR_UNKNOWN),
#undef E
};

FAKE_API CUresult cuGetErrorName(CUresult error, const char **name)
{
	if (!name)
		return CUDA_ERROR_INVALID_VALUE;
	*name = NULL;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].code == error)
			*name = errors[i].name;
	return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuGetErrorString(CUresult error, const char **text)
{
	return cuGetErrorName(error, text);
}
