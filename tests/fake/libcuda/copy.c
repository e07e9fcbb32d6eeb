/* copy.c - copies and sets as clients ask for them: checked, then put in a stream. */
#include "tests/fake/libcuda/fake.h"

#include <stdlib.h>
#include <string.h>

#define SMALL_PAGEABLE 65536u

/* A range of the host that is registered in part is no place to copy to: neither pinned nor pageable. */
static CUresult host_side(const void *p, uint64_t bytes, bool *pageable)
{
	enum pinned how;

	if (!p || is_device((uintptr_t)p))
		return CUDA_ERROR_INVALID_VALUE;
	how = host_pinned(p, bytes);
	*pageable = how == PAGEABLE;
	return how == PINNED_PARTLY ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static uint64_t extent(uint64_t width, uint64_t height, uint64_t pitch)
{
	return height ? (height - 1) * pitch + width : 0;
}

static CUresult check(const struct copy *c, bool *pageable)
{
	uint64_t dst = extent(c->width, c->height, c->dst_pitch), src = extent(c->width, c->height, c->src_pitch);
	CUresult rc = CUDA_SUCCESS;
	bool page[2] = {false, false};

	if (!c->width || !c->height)
		return rc;
	if (c->dst_host)
		rc = host_side((void *)(uintptr_t)c->dst, dst, &page[0]);
	else if (!device_range(c->dst, dst))
		rc = CUDA_ERROR_INVALID_VALUE;
	if (!rc && c->src_host)
		rc = host_side((void *)(uintptr_t)c->src, src, &page[1]);
	else if (!rc && !device_range(c->src, src))
		rc = CUDA_ERROR_INVALID_VALUE;
	*pageable = page[0] || page[1];
	return rc;
}

/* Pageable memory: small sources are taken at once, all else is done when the call returns. */
static CUresult push_copy(struct stream *s, const struct copy *c, bool wait)
{
	struct op op = {.kind = OP_COPY, .copy = *c};
	bool pageable = false;
	CUresult rc = check(c, &pageable);
	uint64_t seq = 0;

	if (rc || !c->width || !c->height)
		return rc;
	if (pageable && c->src_host && !c->dst_host && c->height == 1 && c->width <= SMALL_PAGEABLE) {
		op.staged = malloc(c->width);
		if (!op.staged)
			return CUDA_ERROR_OUT_OF_MEMORY;
		memcpy(op.staged, (const void *)(uintptr_t)c->src, c->width);
		op.copy.src = (uint64_t)(uintptr_t)op.staged;
		pageable = false;
	}
	rc = stream_push(s, &op, &seq);
	if (!rc && (wait || pageable)) {
		stream_join(s, seq);
		rc = atomic_load(&s->ctx->error);
	}
	return rc;
}

static CUresult copy_on(const char *name, CUstream stream, const struct copy *c, bool wait)
{
	CUresult rc = enter_ctx(name);
	struct stream *s = rc ? NULL : stream_find(stream, &rc);

	if (!s)
		return rc;
	rc = push_copy(s, c, wait);
	stream_put(s);
	return rc;
}

static struct copy linear(uint64_t dst, bool dst_host, uint64_t src, bool src_host, size_t bytes)
{
	return (struct copy){dst, src, dst_host, src_host, bytes, 1, bytes, bytes};
}

FAKE_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *s, size_t bytes, CUstream stream)
{
	struct copy c = linear(d, false, (uint64_t)(uintptr_t)s, true, bytes);

	return copy_on("cuMemcpyHtoDAsync", stream, &c, false);
}

FAKE_API CUresult cuMemcpyDtoHAsync_v2(void *d, CUdeviceptr s, size_t bytes, CUstream stream)
{
	struct copy c = linear((uint64_t)(uintptr_t)d, true, s, false, bytes);

	return copy_on("cuMemcpyDtoHAsync", stream, &c, false);
}

FAKE_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr s, size_t bytes, CUstream stream)
{
	struct copy c = linear(d, false, s, false, bytes);

	return copy_on("cuMemcpyDtoDAsync", stream, &c, false);
}

FAKE_API CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *s, size_t bytes)
{
	struct copy c = linear(d, false, (uint64_t)(uintptr_t)s, true, bytes);

	return copy_on("cuMemcpyHtoD", NULL, &c, true);
}

FAKE_API CUresult cuMemcpyDtoH_v2(void *d, CUdeviceptr s, size_t bytes)
{
	struct copy c = linear((uint64_t)(uintptr_t)d, true, s, false, bytes);

	return copy_on("cuMemcpyDtoH", NULL, &c, true);
}

FAKE_API CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t bytes)
{
	struct copy c = linear(d, false, s, false, bytes);

	return copy_on("cuMemcpyDtoD", NULL, &c, true);
}

/* ---- 2D ------------------------------------------------------------------------------------------------------------------------- */

static bool side(CUmemorytype type, const void *host, CUdeviceptr device, uint64_t *at, bool *is_host)
{
	*is_host = type == CU_MEMORYTYPE_HOST;
	*at = *is_host ? (uint64_t)(uintptr_t)host : device;
	if (type == CU_MEMORYTYPE_UNIFIED)
		*is_host = !is_device(device);
	return type == CU_MEMORYTYPE_HOST || type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_UNIFIED;
}

static CUresult copy_2d(const char *name, const CUDA_MEMCPY2D *a, CUstream stream, bool wait)
{
	struct copy c = {0};

	if (!a)
		return CUDA_ERROR_INVALID_VALUE;
	c.width = a->WidthInBytes;
	c.height = a->Height;
	c.dst_pitch = a->dstPitch ? a->dstPitch : a->WidthInBytes;
	c.src_pitch = a->srcPitch ? a->srcPitch : a->WidthInBytes;
	if (!side(a->srcMemoryType, a->srcHost, a->srcDevice, &c.src, &c.src_host) ||
	    !side(a->dstMemoryType, a->dstHost, a->dstDevice, &c.dst, &c.dst_host) || c.width > c.dst_pitch ||
	    c.width > c.src_pitch || c.dst_pitch > INT32_MAX || c.src_pitch > INT32_MAX)
		return CUDA_ERROR_INVALID_VALUE;
	c.src += a->srcY * c.src_pitch + a->srcXInBytes;
	c.dst += a->dstY * c.dst_pitch + a->dstXInBytes;
	return copy_on(name, stream, &c, wait);
}

FAKE_API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *a, CUstream stream)
{
	return copy_2d("cuMemcpy2DAsync", a, stream, false);
}

FAKE_API CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *a)
{
	return copy_2d("cuMemcpy2D", a, NULL, true);
}

/* ---- many at once ---------------------------------------------------------------------------------------------------------------- */

static bool attributes(const CUmemcpyAttributes *attrs, const size_t *at, size_t n, size_t count)
{
	if (!attrs || !at || !n || n > count || at[0])
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned)attrs[i].srcAccessOrder - 1 > 2 || (i && at[i] <= at[i - 1]) || at[i] >= count)
			return false;
	return true;
}

static struct copy *batch(const CUdeviceptr *dsts, const CUdeviceptr *srcs, const size_t *sizes, size_t count,
			  bool *pageable, CUresult *rc)
{
	struct copy *list = calloc(count, sizeof(*list));

	*rc = list ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	for (size_t i = 0; i < count && !*rc; i++) {
		bool slow = false;

		list[i] = linear(dsts[i], !is_device(dsts[i]), srcs[i], !is_device(srcs[i]), sizes[i]);
		*rc = sizes[i] ? check(&list[i], &slow) : CUDA_ERROR_INVALID_VALUE;
		*pageable |= slow;
	}
	if (*rc) {
		free(list);
		return NULL;
	}
	return list;
}

static CUresult push_batch(struct stream *s, struct copy *list, size_t count, bool wait)
{
	struct op op = {.kind = OP_BATCH, .batch = list, .nbatch = count};
	uint64_t seq = 0;
	CUresult rc = stream_push(s, &op, &seq);

	if (!rc && wait) {
		stream_join(s, seq);
		rc = atomic_load(&s->ctx->error);
	}
	return rc;
}

FAKE_API CUresult cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
				     CUmemcpyAttributes *attrs, size_t *attr_at, size_t nattrs, size_t *failed,
				     CUstream stream)
{
	CUresult rc = enter_ctx("cuMemcpyBatchAsync");
	bool wait = false;
	struct copy *list;
	struct stream *s;

	if (rc)
		return rc;
	if (failed)
		*failed = SIZE_MAX;
	/* The default stream is not taken. */
	if (!dsts || !srcs || !sizes || !count || (uintptr_t)stream <= 2 || !attributes(attrs, attr_at, nattrs, count))
		return CUDA_ERROR_INVALID_VALUE;
	s = stream_find(stream, &rc);
	if (!s)
		return rc;
	if (count > self.m->batch_cap) { /* where some drivers crash */
		context_break(current, CUDA_ERROR_LAUNCH_FAILED);
		stream_put(s);
		return CUDA_ERROR_LAUNCH_FAILED;
	}
	for (size_t i = 0; i < nattrs; i++)
		wait |= attrs[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
	list = batch(dsts, srcs, sizes, count, &wait, &rc);
	if (list)
		rc = push_batch(s, list, count, wait);
	stream_put(s);
	return rc;
}

/* CUDA 13's: without the index of what failed. */
FAKE_API CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
					CUmemcpyAttributes *attrs, size_t *attr_at, size_t nattrs, CUstream stream)
{
	return cuMemcpyBatchAsync(dsts, srcs, sizes, count, attrs, attr_at, nattrs, NULL, stream);
}

/* ---- sets and values --------------------------------------------------------------------------------------------------------------- */

static CUresult push_simple(const char *name, CUstream stream, const struct op *op, uint64_t bytes, bool wait)
{
	CUresult rc = enter_ctx(name);
	struct stream *s = rc ? NULL : stream_find(stream, &rc);
	uint64_t seq = 0;

	if (!s)
		return rc;
	if (!device_range(op->va, bytes))
		rc = CUDA_ERROR_INVALID_VALUE;
	else
		rc = stream_push(s, op, &seq);
	if (!rc && wait) {
		stream_join(s, seq);
		rc = atomic_load(&s->ctx->error);
	}
	stream_put(s);
	return rc;
}

FAKE_API CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char value, size_t n, CUstream stream)
{
	struct op op = {.kind = OP_SET, .va = d, .value = value, .n = n};

	return n ? push_simple("cuMemsetD8Async", stream, &op, n, false) : enter_ctx("cuMemsetD8Async");
}

FAKE_API CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char value, size_t n)
{
	struct op op = {.kind = OP_SET, .va = d, .value = value, .n = n};

	return n ? push_simple("cuMemsetD8", NULL, &op, n, true) : enter_ctx("cuMemsetD8");
}

static CUresult value_op(const char *name, enum op_kind kind, CUstream stream, CUdeviceptr p, uint64_t value,
			 unsigned flags)
{
	struct op op = {.kind = kind, .va = p, .value = value, .flags = flags};

	if (p % 8 || flags > (kind == OP_WAIT_VALUE ? 1u : 0u))
		return CUDA_ERROR_INVALID_VALUE;
	if (self.m && !self.m->value_ops)
		return CUDA_ERROR_NOT_SUPPORTED;
	return push_simple(name, stream, &op, 8, false);
}

FAKE_API CUresult cuStreamWaitValue64_v2(CUstream s, CUdeviceptr p, uint64_t value, unsigned flags)
{
	return value_op("cuStreamWaitValue64", OP_WAIT_VALUE, s, p, value, flags);
}

FAKE_API CUresult cuStreamWriteValue64_v2(CUstream s, CUdeviceptr p, uint64_t value, unsigned flags)
{
	return value_op("cuStreamWriteValue64", OP_WRITE_VALUE, s, p, value, flags);
}
