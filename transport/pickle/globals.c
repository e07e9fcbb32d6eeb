/* globals.c - dtypes, and the only names a pickle may mention. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

static const struct {
	const char *name;
	uint32_t size;
	const char *storage;
} dtypes[PK_DTYPE_COUNT] = {
	[PK_DTYPE_NONE] = {"none", 0, NULL},
	[PK_BFLOAT16] = {"bfloat16", 2, "BFloat16Storage"},
	[PK_FLOAT16] = {"float16", 2, "HalfStorage"},
	[PK_FLOAT32] = {"float32", 4, "FloatStorage"},
	[PK_FLOAT64] = {"float64", 8, "DoubleStorage"},
	[PK_UINT8] = {"uint8", 1, "ByteStorage"},
	[PK_INT8] = {"int8", 1, "CharStorage"},
	[PK_INT16] = {"int16", 2, "ShortStorage"},
	[PK_INT32] = {"int32", 4, "IntStorage"},
	[PK_INT64] = {"int64", 8, "LongStorage"},
	[PK_BOOL] = {"bool", 1, "BoolStorage"},
	[PK_FLOAT8_E4M3FN] = {"float8_e4m3fn", 1, NULL},
	[PK_FLOAT8_E5M2] = {"float8_e5m2", 1, NULL},
	[PK_FLOAT8_E4M3FNUZ] = {"float8_e4m3fnuz", 1, NULL},
	[PK_FLOAT8_E5M2FNUZ] = {"float8_e5m2fnuz", 1, NULL},
};

const char *pk_dtype_name(enum pk_dtype t)
{
	return t > PK_DTYPE_NONE && t < PK_DTYPE_COUNT ? dtypes[t].name : "none";
}

uint32_t pk_dtype_size(enum pk_dtype t)
{
	return t > PK_DTYPE_NONE && t < PK_DTYPE_COUNT ? dtypes[t].size : 0;
}

const char *pk_storage_name(enum pk_dtype t)
{
	return t > PK_DTYPE_NONE && t < PK_DTYPE_COUNT ? dtypes[t].storage : NULL;
}

enum pk_dtype pk_dtype_parse(struct slice name)
{
	static const char prefix[] = "torch.";
	const size_t n = sizeof(prefix) - 1;

	if (name.n > n && memcmp(name.p, prefix, n) == 0)
		name = slice_of((const char *)name.p + n, name.n - n);
	for (int t = PK_DTYPE_NONE + 1; t < PK_DTYPE_COUNT; t++) {
		if (slice_is(name, dtypes[t].name))
			return (enum pk_dtype)t;
	}
	return PK_DTYPE_NONE;
}

#define IN_TENSORS (PK_IN_WRAPPER | PK_IN_LIST)
#define CUSTOM     "lmcache.v1.multiprocess.custom_types"
#define CUDA       "lmcache.v1.platform.cuda.ipc_wrapper"
#define CUDA_DEV   "lmcache.v1.platform.devices.cuda.ipc_wrapper"
#define CPU        "lmcache.v1.platform.cpu.shm"
#define CPU_DEV    "lmcache.v1.platform.devices.cpu.shm"

/* Wrapper classes are listed once per module they have lived in (protocol reference 8.1): a class of the same name from
 * anywhere else is not trusted to have the same attributes. */
const struct pk_global pk_globals[] = {
	{CUSTOM, "CudaIPCWrapper", G_WRAPPER, PK_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA, "CudaIPCWrapper", G_WRAPPER, PK_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA_DEV, "CudaIPCWrapper", G_WRAPPER, PK_CUDA_IPC, PK_IN_WRAPPER},
	{CUSTOM, "RawCudaIPCWrapper", G_WRAPPER, PK_RAW_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA, "RawCudaIPCWrapper", G_WRAPPER, PK_RAW_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA_DEV, "RawCudaIPCWrapper", G_WRAPPER, PK_RAW_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA, "VmmCudaIPCWrapper", G_WRAPPER, PK_VMM_CUDA_IPC, PK_IN_WRAPPER},
	{CUDA_DEV, "VmmCudaIPCWrapper", G_WRAPPER, PK_VMM_CUDA_IPC, PK_IN_WRAPPER},
	{CPU, "CpuShmTensorWrapper", G_WRAPPER, PK_CPU_SHM, PK_IN_WRAPPER},
	{CPU_DEV, "CpuShmTensorWrapper", G_WRAPPER, PK_CPU_SHM, PK_IN_WRAPPER},
	{"torch", "bfloat16", G_DTYPE, PK_BFLOAT16, IN_TENSORS},
	{"torch", "float16", G_DTYPE, PK_FLOAT16, IN_TENSORS},
	{"torch", "float32", G_DTYPE, PK_FLOAT32, IN_TENSORS},
	{"torch", "float64", G_DTYPE, PK_FLOAT64, IN_TENSORS},
	{"torch", "uint8", G_DTYPE, PK_UINT8, IN_TENSORS},
	{"torch", "int8", G_DTYPE, PK_INT8, IN_TENSORS},
	{"torch", "int16", G_DTYPE, PK_INT16, IN_TENSORS},
	{"torch", "int32", G_DTYPE, PK_INT32, IN_TENSORS},
	{"torch", "int64", G_DTYPE, PK_INT64, IN_TENSORS},
	{"torch", "bool", G_DTYPE, PK_BOOL, IN_TENSORS},
	{"torch", "float8_e4m3fn", G_DTYPE, PK_FLOAT8_E4M3FN, IN_TENSORS},
	{"torch", "float8_e5m2", G_DTYPE, PK_FLOAT8_E5M2, IN_TENSORS},
	{"torch", "float8_e4m3fnuz", G_DTYPE, PK_FLOAT8_E4M3FNUZ, IN_TENSORS},
	{"torch", "float8_e5m2fnuz", G_DTYPE, PK_FLOAT8_E5M2FNUZ, IN_TENSORS},
	{"torch", "Size", G_SIZE, 0, IN_TENSORS},
	{"torch._utils", "_rebuild_tensor_v2", G_REBUILD, 6, PK_IN_LIST},
	{"torch._utils", "_rebuild_tensor_v3", G_REBUILD, 7, PK_IN_LIST},
	{"torch.storage", "_load_from_bytes", G_LOAD_STORAGE, 0, PK_IN_LIST},
	{"collections", "OrderedDict", G_HOOKS, 0, PK_IN_LIST},
	{"torch", "BFloat16Storage", G_STORAGE_TYPE, PK_BFLOAT16, PK_IN_STREAM},
	{"torch", "HalfStorage", G_STORAGE_TYPE, PK_FLOAT16, PK_IN_STREAM},
	{"torch", "FloatStorage", G_STORAGE_TYPE, PK_FLOAT32, PK_IN_STREAM},
	{"torch", "DoubleStorage", G_STORAGE_TYPE, PK_FLOAT64, PK_IN_STREAM},
	{"torch", "ByteStorage", G_STORAGE_TYPE, PK_UINT8, PK_IN_STREAM},
	{"torch", "CharStorage", G_STORAGE_TYPE, PK_INT8, PK_IN_STREAM},
	{"torch", "ShortStorage", G_STORAGE_TYPE, PK_INT16, PK_IN_STREAM},
	{"torch", "IntStorage", G_STORAGE_TYPE, PK_INT32, PK_IN_STREAM},
	{"torch", "LongStorage", G_STORAGE_TYPE, PK_INT64, PK_IN_STREAM},
	{"torch", "BoolStorage", G_STORAGE_TYPE, PK_BOOL, PK_IN_STREAM},
	/* torch writes and reads an untyped storage as one of uint8 (torch/serialization.py, _legacy_save). */
	{"torch.storage", "UntypedStorage", G_STORAGE_TYPE, PK_UINT8, PK_IN_STREAM},
	{"torch", "UntypedStorage", G_STORAGE_TYPE, PK_UINT8, PK_IN_STREAM},
};
#define NGLOBALS ((int)(sizeof(pk_globals) / sizeof(pk_globals[0])))

const char *pk_printable(struct slice s, char *buf, size_t cap)
{
	const uint8_t *p = s.p;
	size_t n = s.n < cap - 1 ? s.n : cap - 1;

	for (size_t i = 0; i < n; i++)
		buf[i] = p[i] > 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
	buf[n] = '\0';
	return buf;
}

int pk_global_find(struct slice module, struct slice name, enum pk_mode mode, struct why *why)
{
	bool known_class = false;
	char m[96], n[96];

	for (int i = 0; i < NGLOBALS; i++) {
		const struct pk_global *g = &pk_globals[i];

		if (!(g->modes & mode) || !slice_is(name, g->name))
			continue;
		if (slice_is(module, g->module))
			return i;
		known_class |= g->what == G_WRAPPER;
	}
	pk_printable(module, m, sizeof(m));
	pk_printable(name, n, sizeof(n));
	if (known_class)
		return why_set(why, -EOPNOTSUPP, "class %s is known, but its module %s is not on the list of modules",
			       n, m);
	return why_set(why, -EOPNOTSUPP, "global %s %s is not on the list", m, n);
}
