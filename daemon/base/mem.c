#include "daemon/base/mem.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local uint64_t allocs;
static _Thread_local uint64_t fail_at;

static int count_and_fail(void)
{
	allocs++;
	return fail_at != 0 && --fail_at == 0;
}

void *mem_calloc(size_t n, size_t size)
{
	return count_and_fail() ? NULL : calloc(n, size);
}

void *mem_realloc(void *p, size_t bytes)
{
	return count_and_fail() ? NULL : realloc(p, bytes);
}

char *mem_strndup(const char *s, size_t n)
{
	char *copy = mem_calloc(n + 1, 1);

	if (copy && n)
		memcpy(copy, s, n);
	return copy;
}

void mem_free(void *p)
{
	free(p);
}

uint64_t mem_thread_allocs(void)
{
	return allocs;
}

void mem_fail_at(uint64_t n)
{
	fail_at = n;
}
