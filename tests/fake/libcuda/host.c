/* host.c - pinned memory of the host. */
#include "tests/fake/libcuda/fake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ull

static struct pin *pin_of(const void *p)
{
	for (uint32_t i = 0; i < self.npins; i++)
		if ((const char *)p >= self.pin[i].p && (const char *)p < self.pin[i].p + self.pin[i].bytes)
			return &self.pin[i];
	return NULL;
}

enum pinned host_pinned(const void *p, uint64_t bytes)
{
	const char *a = p;
	enum pinned found = PAGEABLE;

	pthread_mutex_lock(&self.lk);
	for (uint32_t i = 0; i < self.npins && !found; i++) {
		const struct pin *n = &self.pin[i];

		/* Registered for one context only, it is like any memory for the others. */
		if (n->ctx != current && !n->range->portable)
			continue;
		if (a >= n->p && a + bytes <= n->p + n->bytes)
			found = PINNED;
		else if (a < n->p + n->bytes && a + bytes > n->p)
			found = PINNED_PARTLY;
	}
	pthread_mutex_unlock(&self.lk);
	return found;
}

bool host_made(const void *p, uint64_t bytes)
{
	struct pin *n;
	bool made;

	pthread_mutex_lock(&self.lk);
	n = pin_of(p);
	made = n && (n->made || self.host_same) && (const char *)p + bytes <= n->p + n->bytes;
	pthread_mutex_unlock(&self.lk);
	return made;
}

static CUresult pin_add(char *p, uint64_t bytes, bool made, unsigned flags)
{
	char *from = (char *)((uintptr_t)p / PAGE * PAGE);
	uint64_t va, n = ((uint64_t)(p - from) + bytes + PAGE - 1) / PAGE * PAGE;
	struct range *r;

	for (uint32_t i = 0; i < self.npins; i++)
		if (from < self.pin[i].p + self.pin[i].bytes && from + n > self.pin[i].p)
			return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	if (self.npins == self.pins_cap) {
		uint32_t cap = self.pins_cap ? self.pins_cap * 2 : 64;
		struct pin *bigger = realloc(self.pin, cap * sizeof(*bigger));

		if (!bigger)
			return CUDA_ERROR_OUT_OF_MEMORY;
		self.pin = bigger;
		self.pins_cap = cap;
	}
	va = va_take(n, GRANULE);
	r = va ? range_add(va, n, RANGE_HOST) : NULL;
	if (!r)
		return CUDA_ERROR_OUT_OF_MEMORY;
	r->host = from;
	r->ctx = current;
	r->access = true;
	r->gpu = current->gpu;
	r->portable = made || flags & CU_MEMHOSTREGISTER_PORTABLE;
	self.pin[self.npins++] = (struct pin){from, n, r, current, made, flags};
	atomic_fetch_add(&self.p->host_registrations, 1);
	atomic_fetch_add(&self.p->host_bytes, (int64_t)n);
	return CUDA_SUCCESS;
}

static void pin_drop(struct pin *n)
{
	atomic_fetch_sub(&self.p->host_registrations, 1);
	atomic_fetch_sub(&self.p->host_bytes, (int64_t)n->bytes);
	if (n->made) {
		n->range->mapped = n->bytes; /* unmapped when no copy uses it any more */
	}
	range_remove(n->range);
	*n = self.pin[--self.npins];
}

void pins_drop(struct context *c)
{
	for (uint32_t i = 0; i < self.npins;) {
		if (self.pin[i].ctx == c)
			pin_drop(&self.pin[i]);
		else
			i++;
	}
}

/* mincore tells what is not mapped at all. */
static bool mapped(const char *p, uint64_t bytes)
{
	char *from = (char *)((uintptr_t)p / PAGE * PAGE);
	uint64_t n = (uint64_t)(p - from) + bytes;
	unsigned char seen[1024];

	while (n) {
		uint64_t k = n < sizeof(seen) * PAGE ? n : sizeof(seen) * PAGE;

		if (mincore(from, k, seen))
			return false;
		from += k;
		n -= k;
	}
	return true;
}

FAKE_API CUresult cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
	CUresult rc = enter_ctx("cuMemHostRegister");

	if (rc)
		return rc;
	if (!p || !bytes || flags & ~15u || is_device((uintptr_t)p) || !mapped(p, bytes))
		return CUDA_ERROR_INVALID_VALUE;
	if (flags & 4) /* device memory of others; needs privilege */
		return CUDA_ERROR_NOT_PERMITTED;
	pthread_mutex_lock(&self.lk);
	rc = pin_add(p, bytes, false, flags);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemHostUnregister(void *p)
{
	CUresult rc = enter_ctx("cuMemHostUnregister");
	struct pin *n;

	if (rc)
		return rc;
	rc = context_sync(current);
	pthread_mutex_lock(&self.lk);
	n = pin_of(p);
	if (!n || n->made || (uintptr_t)p / PAGE * PAGE != (uintptr_t)n->p)
		rc = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
	else
		pin_drop(n);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
	CUresult rc = enter_ctx("cuMemHostAlloc");
	void *p;

	if (rc)
		return rc;
	if (!out || !bytes || flags & ~7u)
		return CUDA_ERROR_INVALID_VALUE;
	bytes = (bytes + PAGE - 1) / PAGE * PAGE;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_lock(&self.lk);
	rc = pin_add(p, bytes, true, flags);
	pthread_mutex_unlock(&self.lk);
	if (rc)
		munmap(p, bytes);
	else
		*out = p;
	return rc;
}

FAKE_API CUresult cuMemAllocHost_v2(void **out, size_t bytes)
{
	CUresult rc = enter_ctx("cuMemAllocHost");

	return rc ? rc : cuMemHostAlloc(out, bytes, 0);
}

FAKE_API CUresult cuMemFreeHost(void *p)
{
	CUresult rc = enter_ctx("cuMemFreeHost");
	struct pin *n;

	if (rc)
		return rc;
	rc = context_sync(current);
	pthread_mutex_lock(&self.lk);
	n = pin_of(p);
	if (!n || !n->made || p != n->p)
		rc = CUDA_ERROR_INVALID_VALUE;
	else
		pin_drop(n);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *d, void *p, unsigned flags)
{
	CUresult rc = enter_ctx("cuMemHostGetDevicePointer");
	struct pin *n;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	n = pin_of(p);
	if (!n || !d || flags)
		rc = CUDA_ERROR_INVALID_VALUE;
	else if (n->made || self.host_same)
		*d = (uint64_t)(uintptr_t)p;
	else
		*d = n->range->va + (uint64_t)((char *)p - n->p);
	pthread_mutex_unlock(&self.lk);
	return rc;
}
