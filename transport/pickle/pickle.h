/* pickle.h - Python pickles as data: device-memory wrappers and lists of CPU tensors.
 *
 * LMCache clients send handles of their KV memory as pickled Python objects, and reference servers unpickle them with
 * full trust. This module interprets the opcodes as data: a small stack machine with an allow-list of globals that never
 * calls, imports or executes anything. Unknown opcodes and globals are refused by name.
 *
 * Who owns what: results borrow from the pickle bytes; the caller provides the working memory (`struct pk_mem`); no heap.
 * Threads: any, one pk_mem per thread. What can fail: everything; 0 or -EPROTO / -E2BIG / -EOPNOTSUPP (a global that is
 * not on the list; `why` names module and name).
 * Source: shared protocol reference section 8; CPython's Lib/pickletools.py for opcode semantics.
 */
#ifndef TRANSPORT_PICKLE_PICKLE_H
#define TRANSPORT_PICKLE_PICKLE_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PK_MAX_DIMS    8
#define PK_MAX_WRAPPER 65536 /* bytes of one wrapper pickle */
#define PK_MAX_TENSORS 65536 /* tensors of one list */

/* Element types, with torch's names. */
enum pk_dtype {
	PK_DTYPE_NONE,
	PK_BFLOAT16,
	PK_FLOAT16,
	PK_FLOAT32,
	PK_FLOAT64,
	PK_UINT8,
	PK_INT8,
	PK_INT16,
	PK_INT32,
	PK_INT64,
	PK_BOOL,
	PK_FLOAT8_E4M3FN,
	PK_FLOAT8_E5M2,
	PK_FLOAT8_E4M3FNUZ,
	PK_FLOAT8_E5M2FNUZ,
	PK_DTYPE_COUNT
};
/* "bfloat16" (no "torch."); bytes per element; parse accepts an optional "torch." prefix. */
const char *pk_dtype_name(enum pk_dtype t);
uint32_t pk_dtype_size(enum pk_dtype t);
enum pk_dtype pk_dtype_parse(struct slice name); /* PK_DTYPE_NONE when unknown */

/* Working memory of the interpreter: value stack, memo, cells. Create once per thread: about 44 MiB of address space,
 * sized for the largest tensor list, of which only what a parse uses is ever touched. 0 or -ENOMEM. A later parse with
 * the same memory does not disturb the results of an earlier one: they point into the pickle. */
struct pk_mem;
int pk_mem_create(struct pk_mem **out);
void pk_mem_destroy(struct pk_mem *m);

enum pk_kind { PK_CUDA_IPC = 1, PK_RAW_CUDA_IPC, PK_VMM_CUDA_IPC, PK_CPU_SHM }; /* kinds A, B, C, D */

struct pk_wrapper {
	enum pk_kind kind;
	enum pk_dtype dtype;
	uint32_t ndim;
	uint64_t shape[PK_MAX_DIMS];
	int64_t stride[PK_MAX_DIMS]; /* elements; filled in as contiguous when the pickle has none */
	uint64_t storage_offset;     /* elements */
	struct slice device_uuid;
	/* A */
	uint32_t ordinal;           /* tuple[0]: the exporter's own count of GPUs, of no use to anybody else */
	struct slice mem_handle;    /* 64 bytes of cudaIpcMemHandle_t, prefix already removed */
	uint8_t handle_version;     /* 0 = old torch without prefix, else 1..3 */
	uint64_t storage_bytes;     /* tuple[2] */
	uint64_t base_offset;       /* tuple[3], bytes within the base allocation */
	struct slice refcount_name; /* tuple[4] */
	uint64_t
		refcount_index; /* int64 [index] at byte 64 of that file: torch's count of the file's mappings lies before it */
	struct slice event_handle; /* 64 bytes */
	bool event_sync;
	/* B, C */
	uint64_t alloc_offset, alloc_bytes;
	struct slice export_id, fabric_blob;
	bool vmm_fabric; /* else posix_fd */
	bool has_fd; /* posix_fd: the number of the descriptor in the exporter was sent, too (LMCache's own clients send None) */
	uint32_t fd;
	/* D */
	struct slice shm_name;
	/* B, C, D: declared size of the tensor's storage */
	uint64_t nbytes;
};

/* One ext-1 body. Checks field presence, types, dims <= 8, products and strides against overflow, and for kind A that
 * offset and extent stay within tuple[2]; B, C, D against nbytes. */
int pk_wrapper_parse(struct slice pickle, struct pk_mem *m, struct pk_wrapper *out, struct why *why);

/* Client side (bench, tests): writes the pickle of a CpuShmTensorWrapper, byte for byte what CPython's protocol 4
 * writes. `module` is the class's module. Bytes written, -ENOSPC, or -EINVAL (no dtype, more than PK_MAX_DIMS, names over
 * 255 bytes, negative stride). */
ssize_t pk_wrapper_emit_shm(const struct pk_wrapper *w, const char *module, void *buf, size_t cap);
/* The same for kinds A, B and C, with the attributes in the order of LMCache's classes. Also -EINVAL when a handle, blob or id has
 * not the length of its kind. */
ssize_t pk_wrapper_emit_cuda(const struct pk_wrapper *w, const char *module, void *buf, size_t cap);

struct pk_tensor {
	enum pk_dtype dtype;
	uint32_t ndim;
	uint64_t shape[PK_MAX_DIMS];
	int64_t stride[PK_MAX_DIMS];
	uint64_t storage_offset; /* elements */
	struct slice storage;    /* the storage's bytes, inside the pickle */
};

/* A pickled list of CPU tensors (legacy torch storage streams). Every tensor's extent is checked against its storage;
 * strides may be 0 or overlap, so shape alone says nothing about storage.n.
 * Writes at most `max` tensors; returns how many the list has, or a negative error. */
ssize_t pk_tensors_parse(struct slice pickle, struct pk_mem *m, struct pk_tensor *out, size_t max, struct why *why);

/* Emits a list of contiguous tensors that all have the same dtype and shape. The head of tensor i and the list's tail
 * are small; `data` is copied by `fill` (called once per tensor with the place of its bytes, in order), so that slots are
 * gathered straight into the message. pk_tensors_bound gives the exact size needed, 0 when the arguments are not valid
 * (no dtype, more than PK_MAX_DIMS or PK_MAX_TENSORS, overflow). Bytes written, -ENOSPC or -EINVAL. 8-bit floats, which
 * have no storage class in torch, are written as _rebuild_tensor_v3 over an untyped storage. */
size_t pk_tensors_bound(enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n);
ssize_t pk_tensors_emit(enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n,
			void (*fill)(void *ctx, size_t i, void *dst, size_t bytes), void *ctx, void *buf, size_t cap);

#endif
