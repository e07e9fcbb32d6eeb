/* legacy.c - plain names whose functions have a later version. A program that looks them up by these gets what it gets from the real
 * driver: pointers of 32 bits and contexts of another kind. No header of ours is included, which would rename them. */
#define OLD(name)                                              \
	__attribute__((visibility("default"))) int name(void); \
	int name(void)                                         \
	{                                                      \
		return 201; /* CUDA_ERROR_INVALID_CONTEXT */   \
	}

OLD(cuMemAlloc)
OLD(cuMemFree)
OLD(cuMemAllocHost)
OLD(cuMemGetInfo)
OLD(cuMemGetAddressRange)
OLD(cuMemHostGetDevicePointer)
OLD(cuMemcpyHtoD)
OLD(cuMemcpyDtoH)
OLD(cuMemcpyHtoDAsync)
OLD(cuMemcpyDtoHAsync)
OLD(cuMemcpyDtoDAsync)
OLD(cuMemsetD8)
OLD(cuDeviceTotalMem)
OLD(cuIpcOpenMemHandle)
OLD(cuStreamWaitValue64)
OLD(cuStreamWriteValue64)
