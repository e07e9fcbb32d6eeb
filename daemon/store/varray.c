#include "daemon/store/varray_int.h"

#include "daemon/base/mem.h"

#include <stdint.h>
#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)

static size_t whole_pages(size_t n, size_t size)
{
	return (n * size + HUGE - 1) & ~(HUGE - 1);
}

/* Address space cannot be asked for at a 2 MiB boundary: take more and give the ends back. */
static void *map_aligned(size_t bytes)
{
	char *p = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = (HUGE - ((uintptr_t)p & (HUGE - 1))) & (HUGE - 1);
	if (before)
		munmap(p, before);
	munmap(p + before + bytes, HUGE - before);
	return p + before;
}

void *varray_map(size_t n, size_t size)
{
	void *probe, *p;

	if (n == 0 || n > (SIZE_MAX - 2 * HUGE) / size)
		return NULL;
	/* The heap's fault point stands for the kernel's refusal as well, so that tests can sweep both. */
	probe = mem_calloc(1, 1);
	if (!probe)
		return NULL;
	mem_free(probe);
	p = map_aligned(whole_pages(n, size));
	if (p)
		madvise(p, whole_pages(n, size), MADV_HUGEPAGE); /* refusal costs speed only */
	return p;
}

void varray_unmap(void *p, size_t n, size_t size)
{
	if (p)
		munmap(p, whole_pages(n, size));
}
