/* The device code as the driver takes it. PTX, made from kernels.cu by `make ptx`, which every driver translates for its GPUs; and, in
 * builds with FATBIN=1, nvcc's code for the GPUs it knows, which is tried first.
 */
#include "transport/cuda/copier.h"

#include <errno.h>

static const char ptx[] =
#include "transport/cuda/kernels_ptx.inc"
	;

#ifdef LMCA_FATBIN
__asm__(".section .rodata\n.balign 16\nlmca_fatbin:\n.incbin \"" LMCA_FATBIN "\"\n.balign 16\n.previous\n");
extern const char lmca_fatbin[];
#define FATBIN lmca_fatbin
#else
#define FATBIN NULL
#endif

const char *kernels_image(size_t *bytes)
{
	*bytes = sizeof(ptx);
	return ptx;
}

static CUresult load(const struct cuda_driver *cu, CUmodule *m)
{
	const char *fatbin = FATBIN;

	if (fatbin && !cu->cuModuleLoadDataEx(m, fatbin, 0, NULL, NULL))
		return CUDA_SUCCESS;
	return cu->cuModuleLoadDataEx(m, ptx, 0, NULL, NULL);
}

int kernels_load(struct gpu *g, struct kernels *k, struct why *why)
{
	const struct cuda_driver *cu = g->door->cu;
	CUresult rc = load(cu, &k->module);

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
