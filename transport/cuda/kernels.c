/* The device code as the driver takes it: PTX, which every driver translates for its GPUs. Made from kernels.cu by `make ptx`. */
#include "transport/cuda/copy_int.h"

#include <errno.h>

static const char ptx[] =
#include "transport/cuda/kernels_ptx.inc"
	;

const char *kernels_image(size_t *bytes)
{
	*bytes = sizeof(ptx);
	return ptx;
}

int kernels_load(struct gpu *g, struct kernels *k, struct why *why)
{
	const struct cuda_driver *cu = g->door->cu;
	CUresult rc = cu->cuModuleLoadDataEx(&k->module, ptx, 0, NULL, NULL);

	if (rc) {
		k->module = NULL;
		return why_set(why, gpu_result(g, rc), "GPU %u does not take the copy kernels: %s", g->index,
			       cuda_error(cu, rc));
	}
	rc = cu->cuModuleGetFunction(&k->gather, k->module, KERNEL_GATHER);
	if (!rc)
		rc = cu->cuModuleGetFunction(&k->scatter, k->module, KERNEL_SCATTER);
	if (rc) {
		kernels_unload(g, k);
		return why_set(why, gpu_result(g, rc), "GPU %u: no copy kernels in the module: %s", g->index,
			       cuda_error(cu, rc));
	}
	return 0;
}

void kernels_unload(struct gpu *g, struct kernels *k)
{
	if (k->module)
		g->door->cu->cuModuleUnload(k->module);
	*k = (struct kernels){0};
}
