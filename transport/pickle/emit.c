/* emit.c - writes pickles: wrappers, as clients send them, and lists of tensors. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>
#include <stdio.h>

/* Counts everything, stores what fits. */
struct out {
	uint8_t *p;
	size_t n, cap;
};

static void put(struct out *o, const void *p, size_t n)
{
	if (n > 0 && o->n <= o->cap && n <= o->cap - o->n)
		memcpy(o->p + o->n, p, n);
	o->n += n;
}

static void put_u8(struct out *o, uint8_t b)
{
	put(o, &b, 1);
}

static void put_le(struct out *o, uint64_t x, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		put_u8(o, (uint8_t)(x >> (8 * i)));
}

static void put_str(struct out *o, const char *s)
{
	put(o, s, strlen(s));
}

/* A non-negative int in the form CPython picks. */
static void put_int(struct out *o, uint64_t x)
{
	if (x <= UINT8_MAX) {
		put_u8(o, 'K');
		put_le(o, x, 1);
	} else if (x <= UINT16_MAX) {
		put_u8(o, 'M');
		put_le(o, x, 2);
	} else if (x <= INT32_MAX) {
		put_u8(o, 'J');
		put_le(o, x, 4);
	} else {
		uint8_t n = (uint8_t)((64 - __builtin_clzll(x)) / 8 + 1); /* room for the sign bit */

		put_u8(o, 0x8a);
		put_u8(o, n);
		put_le(o, x, n < 8 ? n : 8);
		if (n > 8)
			put_u8(o, 0);
	}
}

/* ---- wrappers, as CPython's protocol 4 writes them ---------------------------------------------------------------- */

#define MEMOIZE 0x94

static void put_text(struct out *o, struct slice s)
{
	put_u8(o, 0x8c);
	put_u8(o, (uint8_t)s.n);
	put(o, s.p, s.n);
	put_u8(o, MEMOIZE);
}

static void put_global(struct out *o, const char *module, const char *name)
{
	put_text(o, slice_str(module));
	put_text(o, slice_str(name));
	put_u8(o, 0x93);
	put_u8(o, MEMOIZE);
}

static void put_tuple(struct out *o, const uint64_t *x, uint32_t n)
{
	static const uint8_t op[] = {')', 0x85, 0x86, 0x87};

	if (n > 3)
		put_u8(o, '(');
	for (uint32_t i = 0; i < n; i++)
		put_int(o, x[i]);
	put_u8(o, n > 3 ? 't' : op[n]);
	if (n > 0)
		put_u8(o, MEMOIZE);
}

static void put_object(struct out *o, const char *module, const char *name)
{
	put_global(o, module, name);
	put(o, ")\x81\x94}\x94(", 6);
}

static void put_name(struct out *o, const char *name)
{
	put_text(o, slice_str(name));
}

static void put_uint(struct out *o, const char *name, uint64_t x)
{
	put_name(o, name);
	put_int(o, x);
}

static void put_none(struct out *o, const char *name)
{
	put_name(o, name);
	put_u8(o, 'N');
}

static void put_bytes(struct out *o, struct slice s)
{
	put_u8(o, 'C');
	put_u8(o, (uint8_t)s.n);
	put(o, s.p, s.n);
	put_u8(o, MEMOIZE);
}

/* dtype, shape, stride, storage_offset: in this order in every kind. */
static void put_geometry(struct out *o, const struct pk_wrapper *w)
{
	uint64_t stride[PK_MAX_DIMS];

	for (uint32_t i = 0; i < w->ndim; i++)
		stride[i] = (uint64_t)w->stride[i];
	put_name(o, "dtype");
	put_global(o, "torch", pk_dtype_name(w->dtype));
	put_name(o, "shape");
	put_tuple(o, w->shape, w->ndim);
	put_name(o, "stride");
	put_tuple(o, stride, w->ndim);
	put_uint(o, "storage_offset", w->storage_offset);
}

static void put_uuid(struct out *o, const struct pk_wrapper *w)
{
	put_name(o, "device_uuid");
	put_text(o, w->device_uuid);
}

static void put_shm(struct out *o, const struct pk_wrapper *w)
{
	put_name(o, "shm_name");
	put_text(o, w->shm_name);
	put_uint(o, "nbytes", w->nbytes);
	put_none(o, "handle");
	put_geometry(o, w);
	put_name(o, "device_uuid");
	put_text(o, w->device_uuid.n ? w->device_uuid : slice_str("cpu"));
}

static void put_cuda(struct out *o, const struct pk_wrapper *w)
{
	uint8_t prefixed[2 + HANDLE_BYTES] = {w->handle_version, 'c'};

	memcpy(prefixed + 2, w->mem_handle.p, HANDLE_BYTES);
	put_name(o, "handle");
	put_u8(o, '(');
	put_int(o, w->ordinal);
	put_bytes(o, w->handle_version ? slice_of(prefixed, sizeof(prefixed)) : w->mem_handle);
	put_int(o, w->storage_bytes);
	put_int(o, w->base_offset);
	put_bytes(o, w->refcount_name);
	put_int(o, w->refcount_index);
	put_bytes(o, w->event_handle);
	put_u8(o, w->event_sync ? 0x88 : 0x89);
	put_u8(o, 't');
	put_u8(o, MEMOIZE);
	put_geometry(o, w);
	put_uuid(o, w);
}

static void put_raw(struct out *o, const struct pk_wrapper *w)
{
	put_name(o, "_ipc_handle_reserved");
	put_bytes(o, w->mem_handle);
	put_uint(o, "_alloc_offset", w->alloc_offset);
	put_uint(o, "_nbytes", w->nbytes);
	put_none(o, "handle");
	put_geometry(o, w);
	put_uint(o, "_opens", 0);
	put_uuid(o, w);
}

#define EXPORT_ID_MEMO 6 /* module, class name, class, object, state, "_export_id", and then its value */

static void put_vmm(struct out *o, const struct pk_wrapper *w)
{
	put_name(o, "_export_id");
	put_bytes(o, w->export_id);
	put_name(o, "_kind");
	put_text(o, slice_str(w->vmm_fabric ? "fabric" : "posix_fd"));
	put_name(o, "_fabric_blob");
	if (w->vmm_fabric)
		put_bytes(o, w->fabric_blob);
	else
		put_u8(o, 'N');
	if (w->has_fd)
		put_uint(o, "_fd", w->fd);
	else
		put_none(o, "_fd");
	put_uint(o, "_alloc_size", w->alloc_bytes);
	put_uint(o, "_alloc_offset", w->alloc_offset);
	put_uint(o, "_nbytes", w->nbytes);
	put_name(o, "handle"); /* the same object as _export_id */
	put_u8(o, 'h');
	put_u8(o, EXPORT_ID_MEMO);
	put_geometry(o, w);
	put_uuid(o, w);
	put_uint(o, "_opens", 0);
}

static bool lengths_fit(const struct pk_wrapper *w)
{
	switch (w->kind) {
	case PK_CUDA_IPC:
		return w->mem_handle.n == HANDLE_BYTES && w->event_handle.n == HANDLE_BYTES && w->handle_version <= 3 &&
		       w->refcount_name.n <= UINT8_MAX;
	case PK_RAW_CUDA_IPC:
		return w->mem_handle.n == HANDLE_BYTES;
	case PK_VMM_CUDA_IPC:
		return w->export_id.n == EXPORT_ID && (!w->vmm_fabric || w->fabric_blob.n == FABRIC_BYTES);
	case PK_CPU_SHM:
		return w->shm_name.n <= UINT8_MAX;
	}
	return false;
}

static ssize_t emit_wrapper(const struct pk_wrapper *w, const char *module, const char *class,
			    void (*body)(struct out *o, const struct pk_wrapper *w), struct out o)
{
	struct out frame;

	if (w->ndim > PK_MAX_DIMS || !pk_dtype_size(w->dtype) || strlen(module) > UINT8_MAX ||
	    w->device_uuid.n > UINT8_MAX || !lengths_fit(w))
		return -EINVAL;
	for (uint32_t i = 0; i < w->ndim; i++) {
		if (w->stride[i] < 0)
			return -EINVAL;
	}
	put(&o, "\x80\x04\x95", 3);
	frame = o;
	put_le(&o, 0, 8);
	put_object(&o, module, class);
	body(&o, w);
	put_str(&o, "ub.");
	if (o.n > o.cap)
		return -ENOSPC;
	put_le(&frame, o.n - frame.n - 8, 8);
	return (ssize_t)o.n;
}

ssize_t pk_wrapper_emit_shm(const struct pk_wrapper *w, const char *module, void *buf, size_t cap)
{
	struct pk_wrapper d = *w;

	d.kind = PK_CPU_SHM;
	return emit_wrapper(&d, module, "CpuShmTensorWrapper", put_shm, (struct out){.p = buf, .cap = cap});
}

ssize_t pk_wrapper_emit_cuda(const struct pk_wrapper *w, const char *module, void *buf, size_t cap)
{
	struct out o = {.p = buf, .cap = cap};

	switch (w->kind) {
	case PK_CUDA_IPC:
		return emit_wrapper(w, module, "CudaIPCWrapper", put_cuda, o);
	case PK_RAW_CUDA_IPC:
		return emit_wrapper(w, module, "RawCudaIPCWrapper", put_raw, o);
	case PK_VMM_CUDA_IPC:
		return emit_wrapper(w, module, "VmmCudaIPCWrapper", put_vmm, o);
	case PK_CPU_SHM:
		break;
	}
	return -EINVAL;
}

/* ---- lists of tensors: a fixed template without memo and frames ------------------------------------------------- */

#define GLOBAL_V2    "ctorch._utils\n_rebuild_tensor_v2\n"
#define GLOBAL_V3    "ctorch._utils\n_rebuild_tensor_v3\n"
#define GLOBAL_LOAD  "ctorch.storage\n_load_from_bytes\n"
#define GLOBAL_HOOKS "ccollections\nOrderedDict\n"
#define LIST_HEAD    6 /* PROTO n, EMPTY_LIST, MARK, APPENDS, STOP */

/* What surrounds the bytes of each tensor; `data` bytes lie between. */
struct template
{
	uint8_t head[384], tail[256];
	size_t nhead, ntail;
	uint64_t data;
	bool wide; /* BINBYTES8, which needs protocol 4 */
};

static void put_stream_head(struct out *o, enum pk_dtype dtype, uint64_t numel)
{
	static const uint8_t before[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
					"\x80\x02M\xe9\x03."
					"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\x0d\0\0\0little_endian\x88"
					"X\x0a\0\0\0type_sizes}(X\x05\0\0\0shortK\x02X\x03\0\0\0intK\x04"
					"X\x04\0\0\0longK\x04uu."
					"\x80\x02(X\x07\0\0\0storagec";
	static const uint8_t after[] = "NtQ.\x80\x02](X\x01\0\0\0"
				       "0e.";
	const char *name = pk_storage_name(dtype);

	put(o, before, sizeof(before) - 1);
	put_str(o, name ? "torch\n" : "torch.storage\n");
	put_str(o, name ? name : "UntypedStorage");
	put(o,
	    "\nX\x01\0\0\0"
	    "0X\x03\0\0\0cpu",
	    15);
	put_int(o, numel);
	put(o, after, sizeof(after) - 1);
	put_le(o, numel, 8);
}

static void put_dims(struct out *o, const uint64_t *x, uint32_t n)
{
	put_u8(o, '(');
	for (uint32_t i = 0; i < n; i++)
		put_int(o, x[i]);
	put_u8(o, 't');
}

static void put_head(struct out *o, enum pk_dtype dtype, uint64_t numel, struct template *t)
{
	struct out len;
	size_t stream;

	put_str(o, pk_storage_name(dtype) ? GLOBAL_V2 : GLOBAL_V3);
	put_u8(o, '(');
	put_str(o, GLOBAL_LOAD);
	put_u8(o, t->wide ? 0x8e : 'B');
	len = *o;
	put_le(o, 0, t->wide ? 8 : 4);
	stream = o->n;
	put_stream_head(o, dtype, numel);
	put_le(&len, o->n - stream + t->data, t->wide ? 8 : 4);
}

static void put_tail(struct out *o, enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, const int64_t *strides)
{
	uint64_t stride[PK_MAX_DIMS];

	for (uint32_t i = 0; i < ndim; i++)
		stride[i] = (uint64_t)strides[i];
	put_str(o, "\x85RK");
	put_u8(o, 0);
	put_dims(o, shape, ndim);
	put_dims(o, stride, ndim);
	put_u8(o, 0x89);
	put_str(o, GLOBAL_HOOKS ")R");
	if (!pk_storage_name(dtype)) {
		put_str(o, "ctorch\n");
		put_str(o, pk_dtype_name(dtype));
		put_u8(o, '\n');
	}
	put_str(o, "tR");
}

static int make_template(enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, struct template *t)
{
	struct out head = {.p = t->head, .cap = sizeof(t->head)}, tail = {.p = t->tail, .cap = sizeof(t->tail)};
	int64_t stride[PK_MAX_DIMS];
	uint64_t numel = 1;

	if (!pk_dtype_size(dtype) || ndim > PK_MAX_DIMS || pk_contiguous(shape, ndim, stride, NULL) < 0)
		return -EINVAL;
	for (uint32_t i = 0; i < ndim; i++)
		numel *= shape[i]; /* pk_contiguous has shown that this fits int64 */
	if (__builtin_mul_overflow(numel, pk_dtype_size(dtype), &t->data) || t->data > INT64_MAX)
		return -EINVAL;
	t->wide = t->data > UINT32_MAX - sizeof(t->head);
	put_head(&head, dtype, numel, t);
	put_tail(&tail, dtype, shape, ndim, stride);
	t->nhead = head.n;
	t->ntail = tail.n;
	return head.n <= head.cap && tail.n <= tail.cap ? 0 : -EINVAL;
}

static size_t list_bytes(const struct template *t, size_t n)
{
	size_t each, all;

	if (__builtin_add_overflow(t->data, t->nhead + t->ntail, &each) || __builtin_mul_overflow(each, n, &all) ||
	    __builtin_add_overflow(all, LIST_HEAD, &all) || all > INT64_MAX)
		return 0;
	return all;
}

size_t pk_tensors_bound(enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n)
{
	struct template t = {0};

	return n > PK_MAX_TENSORS || make_template(dtype, shape, ndim, &t) < 0 ? 0 : list_bytes(&t, n);
}

ssize_t pk_tensors_emit(enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n,
			void (*fill)(void *ctx, size_t i, void *dst, size_t bytes), void *ctx, void *buf, size_t cap)
{
	uint8_t *p = buf;
	struct template t = {0};
	size_t total;

	if (n > PK_MAX_TENSORS || make_template(dtype, shape, ndim, &t) < 0)
		return -EINVAL;
	total = list_bytes(&t, n);
	if (total == 0)
		return -EINVAL;
	if (total > cap)
		return -ENOSPC;
	*p++ = 0x80;
	*p++ = t.wide ? 4 : 3;
	*p++ = ']';
	*p++ = '(';
	for (size_t i = 0; i < n; i++) {
		memcpy(p, t.head, t.nhead);
		p += t.nhead;
		fill(ctx, i, p, t.data);
		p += t.data;
		memcpy(p, t.tail, t.ntail);
		p += t.ntail;
	}
	*p++ = 'e';
	*p++ = '.';
	return (ssize_t)total;
}
