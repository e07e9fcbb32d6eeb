/* api.h - the functions as they are exported: their real names, of the versions that symbols.def asks for. */
#ifndef TESTS_FAKE_LIBCUDA_API_H
#define TESTS_FAKE_LIBCUDA_API_H

#include "transport/cuda/cuda_api.h"

#define FAKE_API __attribute__((visibility("default")))

/* Our own declarations say which version each name means: the functions are held to them. */
#define cuDeviceGetUuid               cuDeviceGetUuid_v2
#define cuDeviceTotalMem              cuDeviceTotalMem_v2
#define cuDevicePrimaryCtxRelease     cuDevicePrimaryCtxRelease_v2
#define cuDevicePrimaryCtxReset       cuDevicePrimaryCtxReset_v2
#define cuMemGetInfo                  cuMemGetInfo_v2
#define cuMemAlloc                    cuMemAlloc_v2
#define cuMemFree                     cuMemFree_v2
#define cuMemAllocHost                cuMemAllocHost_v2
#define cuMemHostRegister             cuMemHostRegister_v2
#define cuMemHostGetDevicePointer     cuMemHostGetDevicePointer_v2
#define cuMemGetAddressRange          cuMemGetAddressRange_v2
#define cuIpcOpenMemHandle            cuIpcOpenMemHandle_v2
#define cuStreamDestroy               cuStreamDestroy_v2
#define cuStreamWaitValue64           cuStreamWaitValue64_v2
#define cuStreamWriteValue64          cuStreamWriteValue64_v2
#define cuEventDestroy                cuEventDestroy_v2
#define cuMemcpyHtoDAsync             cuMemcpyHtoDAsync_v2
#define cuMemcpyDtoHAsync             cuMemcpyDtoHAsync_v2
#define cuMemcpyDtoDAsync             cuMemcpyDtoDAsync_v2
#define cuMemcpy2DAsync               cuMemcpy2DAsync_v2

#define CU(name, version, need, args) FAKE_API CUresult name args;
#include "transport/cuda/symbols.def"
#undef CU

/* What clients use besides. */
#define FAKE_MORE(X)                                                                                     \
	X("cuGetErrorString", 6000, cuGetErrorString, (CUresult, const char **))                         \
	X("cuDeviceCanAccessPeer", 4000, cuDeviceCanAccessPeer, (int *, CUdevice, CUdevice))             \
	X("cuCtxGetCurrent", 4000, cuCtxGetCurrent, (CUcontext *))                                       \
	X("cuCtxGetDevice", 2000, cuCtxGetDevice, (CUdevice *))                                          \
	X("cuCtxSynchronize", 2000, cuCtxSynchronize, (void))                                            \
	X("cuMemHostAlloc", 2020, cuMemHostAlloc, (void **, size_t, unsigned))                           \
	X("cuStreamCreate", 2000, cuStreamCreate, (CUstream *, unsigned))                                \
	X("cuStreamGetPriority", 5050, cuStreamGetPriority, (CUstream, int *))                           \
	X("cuLaunchHostFunc", 10000, cuLaunchHostFunc, (CUstream, void (*)(void *), void *))             \
	X("cuMemcpyHtoD", 3020, cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                    \
	X("cuMemcpyDtoH", 3020, cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                          \
	X("cuMemcpyDtoD", 3020, cuMemcpyDtoD_v2, (CUdeviceptr, CUdeviceptr, size_t))                     \
	X("cuMemcpy2D", 3020, cuMemcpy2D_v2, (const CUDA_MEMCPY2D *))                                    \
	X("cuMemsetD8", 3020, cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))                       \
	X("cuModuleLoadData", 2000, cuModuleLoadData, (CUmodule *, const void *))                        \
	X("cuGetProcAddress", 12000, cuGetProcAddress_v2, (const char *, void **, int, uint64_t, int *)) \
	X("cuMemcpyBatchAsync", 13000, cuMemcpyBatchAsync_v2,                                            \
	  (CUdeviceptr *, CUdeviceptr *, size_t *, size_t, CUmemcpyAttributes *, size_t *, size_t, CUstream))
#define FAKE_DECLARE(name, version, fn, args) FAKE_API CUresult fn args;
FAKE_MORE(FAKE_DECLARE)

#endif
