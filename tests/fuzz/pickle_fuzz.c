/* Pickles from the wire. The first byte picks the reader: even = a wrapper, odd = a list of tensors. Whatever is accepted
 * must keep the bounds its users rely on, and a wrapper of shared memory must survive being written and read again. */
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

static void write_and_read(const struct pk_wrapper *w)
{
	uint8_t buf[2048];
	struct pk_wrapper back;
	ssize_t n = pk_wrapper_emit_shm(w, "lmcache.v1.platform.cpu.shm", buf, sizeof(buf));

	must(n > 0);
	must(pk_wrapper_parse(slice_of(buf, (size_t)n), mem, &back, NULL) == 0);
	must(back.kind == PK_CPU_SHM && same_geometry(w, &back));
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
	if (w.kind == PK_CPU_SHM)
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
