/* driver.h - libcuda.so.1, loaded by name: one table of functions, each at the ABI version we were written against.
 *
 * Any thread; the table is the caller's and constant once filled. The library is never unloaded (its threads may outlive us).
 */
#ifndef TRANSPORT_CUDA_DRIVER_H
#define TRANSPORT_CUDA_DRIVER_H

#include "daemon/base/why.h"
#include "transport/cuda/cuda_api.h"

#include <stdbool.h>

struct cuda_driver {
#define CU(name, version, need, args) CUresult(*name) args;
#include "transport/cuda/symbols.def"
#undef CU
	int version; /* 12080 */
};

/* Fills the table; loading a library again costs nothing, the loader knows it. 0; -ENOENT (no such library), -ENOSYS (a function is missing: `why` names it),
 * -ENODEV (cuInit: no GPU), -EIO (cuInit failed: `why` has the error's name). `library` NULL: libcuda.so.1. */
int cuda_driver_load(const char *library, struct cuda_driver *out, struct why *why);
/* "CUDA_ERROR_INVALID_VALUE"; never NULL. */
const char *cuda_error(const struct cuda_driver *cu, CUresult rc);
/* As errno: -ENOMEM, -EACCES (handles), -ENODEV (context lost), -EINVAL, -EIO; 0 for success. */
int cuda_errno(CUresult rc);
/* After it nothing in that context works any more. */
bool cuda_sticky(CUresult rc);

#endif
