/* Pickles from the wire. The first byte picks the reader: even = a wrapper, odd = a list of tensors. Whatever is accepted
 * must keep the bounds its users rely on, and every wrapper must survive being written and read again. */
#include "tests/unit/transport/pickle/bounds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_OUT 256 /* tensors looked at */

static struct pk_mem *mem; /* one per process, as a server thread has it */

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool same_geometry(const struct pk_wrapper *a, const struct pk_wrapper *b)
{
	return a->dtype == b->dtype && a->ndim == b->ndim && a->storage_offset == b->storage_offset &&
	       a->nbytes == b->nbytes && memcmp(a->shape, b->shape, sizeof(a->shape)) == 0 &&
	       memcmp(a->stride, b->stride, sizeof(a->stride)) == 0;
}

static bool same_gpu_memory(const struct pk_wrapper *a, const struct pk_wrapper *b)
{
	return a->ordinal == b->ordinal && slice_eq(a->mem_handle, b->mem_handle) &&
	       a->handle_version == b->handle_version && a->storage_bytes == b->storage_bytes &&
	       a->base_offset == b->base_offset && slice_eq(a->refcount_name, b->refcount_name) &&
	       a->refcount_index == b->refcount_index && slice_eq(a->event_handle, b->event_handle) &&
	       a->event_sync == b->event_sync && a->alloc_offset == b->alloc_offset &&
	       a->alloc_bytes == b->alloc_bytes && slice_eq(a->export_id, b->export_id) &&
	       slice_eq(a->fabric_blob, b->fabric_blob) && a->vmm_fabric == b->vmm_fabric && a->has_fd == b->has_fd &&
	       a->fd == b->fd;
}

static void write_and_read(const struct pk_wrapper *w)
{
	static const char *const module[] = {[PK_CUDA_IPC] = "lmcache.v1.multiprocess.custom_types",
					     [PK_RAW_CUDA_IPC] = "lmcache.v1.platform.cuda.ipc_wrapper",
					     [PK_VMM_CUDA_IPC] = "lmcache.v1.platform.devices.cuda.ipc_wrapper",
					     [PK_CPU_SHM] = "lmcache.v1.platform.cpu.shm"};
	uint8_t buf[2048];
	struct pk_wrapper back;
	ssize_t n = w->kind == PK_CPU_SHM ? pk_wrapper_emit_shm(w, module[w->kind], buf, sizeof(buf))
					  : pk_wrapper_emit_cuda(w, module[w->kind], buf, sizeof(buf));

	must(n > 0);
	must(pk_wrapper_parse(slice_of(buf, (size_t)n), mem, &back, NULL) == 0);
	must(back.kind == w->kind && same_geometry(w, &back) && same_gpu_memory(w, &back));
	must(slice_eq(w->shm_name, back.shm_name) && slice_eq(w->device_uuid, back.device_uuid));
}

static void check_error(ssize_t r, const struct why *why)
{
	must(r == -EPROTO || r == -E2BIG || r == -EOPNOTSUPP);
	must(why->err == r && why->text[0] && memchr(why->text, '\0', sizeof(why->text)));
	for (const char *c = why->text; *c; c++)
		must(*c >= 0x20 && *c < 0x7f);
}

static void fuzz_wrapper(struct slice in)
{
	struct pk_wrapper w;
	struct why why = {0};
	int r = pk_wrapper_parse(in, mem, &w, &why);

	if (r < 0) {
		check_error(r, &why);
		return;
	}
	must(bounds_wrapper(&w, in));
	write_and_read(&w);
}

static void fill(void *ctx, size_t i, void *dst, size_t bytes)
{
	const struct pk_tensor *t = ctx;

	(void)i;
	memcpy(dst, t->storage.p, bytes);
}

/* A list of this tensor alone, where it is contiguous and small enough to copy. */
static void emit_and_read(const struct pk_tensor *t)
{
	static uint8_t buf[1 << 20];
	size_t n = pk_tensors_bound(t->dtype, t->shape, t->ndim, 1);
	struct pk_tensor back;
	uint64_t bytes = pk_dtype_size(t->dtype);

	for (uint32_t i = 0; i < t->ndim; i++)
		bytes *= t->shape[i];
	if (n == 0 || n > sizeof(buf) || bytes > t->storage.n)
		return;
	must(pk_tensors_emit(t->dtype, t->shape, t->ndim, 1, fill, (void *)(uintptr_t)t, buf, n) == (ssize_t)n);
	must(pk_tensors_parse(slice_of(buf, n), mem, &back, 1, NULL) == 1);
	must(back.dtype == t->dtype && back.ndim == t->ndim && memcmp(back.shape, t->shape, sizeof(t->shape)) == 0);
	must(back.storage.n == bytes && memcmp(back.storage.p, t->storage.p, bytes) == 0);
}

static void fuzz_list(struct slice in)
{
	static struct pk_tensor t[MAX_OUT];
	struct why why = {0};
	ssize_t n = pk_tensors_parse(in, mem, t, MAX_OUT, &why);

	if (n < 0) {
		check_error(n, &why);
		return;
	}
	must(n <= PK_MAX_TENSORS);
	for (ssize_t i = 0; i < n && i < MAX_OUT; i++) {
		must(bounds_tensor(&t[i], in));
		emit_and_read(&t[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!mem && pk_mem_create(&mem) < 0)
		abort();
	if (size == 0)
		return 0;
	if (data[0] & 1)
		fuzz_list(slice_of(data + 1, size - 1));
	else
		fuzz_wrapper(slice_of(data + 1, size - 1));
	return 0;
}
