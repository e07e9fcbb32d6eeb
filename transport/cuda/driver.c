#include "transport/cuda/driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

/* The one function that is looked up by name: plain names of the others have the ABI of their first version. */
typedef CUresult (*get_proc)(const char *name, void **fn, int version, uint64_t flags, int *status);

enum { NEEDED, MAY };
static const struct {
	const char *name;
	int version, need;
	size_t at;
} symbols[] = {
#define CU(name, version, need, args) {#name, version, need, offsetof(struct cuda_driver, name)},
#include "transport/cuda/symbols.def"
#undef CU
};

static int find_all(get_proc get, struct cuda_driver *cu, struct why *why)
{
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		void *fn = NULL;
		CUresult rc = get(symbols[i].name, &fn, symbols[i].version, 0, NULL);

		if ((rc || !fn) && symbols[i].need == NEEDED)
			return why_set(why, -ENOSYS, "this driver has no %s of CUDA %d.%d: it is too old",
				       symbols[i].name, symbols[i].version / 1000, symbols[i].version % 1000 / 10);
		memcpy((char *)cu + symbols[i].at, &fn, sizeof(fn));
	}
	return 0;
}

/* What an operator can do about the usual reasons. */
static const char *remedy(CUresult rc)
{
	switch (rc) {
	case CUDA_ERROR_SYSTEM_NOT_READY:
		return ": is the fabric manager running?";
	case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
		return ": the kernel module and libcuda are of different releases; load the module again, or restart";
	case CUDA_ERROR_UNKNOWN:
		return ": are the devices /dev/nvidia* there, nvidia-uvm too?";
	default:
		return "";
	}
}

static int start(struct cuda_driver *cu, struct why *why)
{
	CUresult rc = cu->cuInit(0);

	if (rc == CUDA_ERROR_NO_DEVICE)
		return why_set(why, -ENODEV, "the driver sees no GPU");
	if (rc)
		return why_set(why, -EIO, "cuInit: %s%s", cuda_error(cu, rc), remedy(rc));
	rc = cu->cuDriverGetVersion(&cu->version);
	return rc ? why_set(why, -EIO, "cuDriverGetVersion: %s", cuda_error(cu, rc)) : 0;
}

int cuda_driver_load(const char *library, struct cuda_driver *out, struct why *why)
{
	get_proc get = NULL;
	void *lib, *fn;
	int rc;

	*out = (struct cuda_driver){0};
	library = library && *library ? library : LIBRARY;
	lib = dlopen(library, RTLD_NOW | RTLD_LOCAL);

	if (!lib) /* the loader names the library */
		return why_set(why, -ENOENT, "no NVIDIA driver: %s", dlerror());
	fn = dlsym(lib, "cuGetProcAddress_v2");
	memcpy(&get, &fn, sizeof(get));
	rc = get ? find_all(get, out, why)
		 : why_set(why, -ENOSYS, "%s has no cuGetProcAddress_v2: a driver of CUDA 12 or newer is needed",
			   library);
	if (!rc)
		rc = start(out, why);
	return rc; /* never closed: its threads run on */
}

/* ---- errors --------------------------------------------------------------------------------------------------------------- */

const char *cuda_error(const struct cuda_driver *cu, CUresult rc)
{
	const char *name = NULL;

	if (!cu->cuGetErrorName || cu->cuGetErrorName(rc, &name) || !name)
		name = "an error that the driver has no name for";
	return name;
}

int cuda_errno(CUresult rc)
{
	if (!rc)
		return 0;
	if (cuda_sticky(rc))
		return -ENODEV;
	switch (rc) {
	case CUDA_ERROR_INVALID_VALUE:
		return -EINVAL;
	case CUDA_ERROR_OUT_OF_MEMORY:
		return -ENOMEM;
	case CUDA_ERROR_INVALID_HANDLE:
	case CUDA_ERROR_MAP_FAILED:
	case CUDA_ERROR_ALREADY_MAPPED:
	case CUDA_ERROR_PEER_ACCESS_UNSUPPORTED:
	case CUDA_ERROR_NOT_PERMITTED:
	case CUDA_ERROR_OPERATING_SYSTEM:
		return -EACCES;
	case CUDA_ERROR_NOT_SUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

bool cuda_sticky(CUresult rc)
{
	switch (rc) {
	case CUDA_ERROR_DEINITIALIZED:
	case CUDA_ERROR_ECC_UNCORRECTABLE:
	case CUDA_ERROR_ILLEGAL_ADDRESS:
	case CUDA_ERROR_LAUNCH_TIMEOUT:
	case CUDA_ERROR_CONTEXT_IS_DESTROYED:
	case CUDA_ERROR_HARDWARE_STACK_ERROR:
	case CUDA_ERROR_ILLEGAL_INSTRUCTION:
	case CUDA_ERROR_MISALIGNED_ADDRESS:
	case CUDA_ERROR_INVALID_ADDRESS_SPACE:
	case CUDA_ERROR_INVALID_PC:
	case CUDA_ERROR_LAUNCH_FAILED:
	case CUDA_ERROR_MPS_CLIENT_TERMINATED:
	case CUDA_ERROR_EXTERNAL_DEVICE:
	case CUDA_ERROR_UNKNOWN:
		return true;
	default:
		return false;
	}
}
