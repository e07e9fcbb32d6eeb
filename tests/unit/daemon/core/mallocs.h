/* mallocs.h - counts libc's allocations of the calling thread, whoever asks for them (our code, libzmq, libcrypto). Included by
 * one file of a test binary: it puts functions of its own before libc's. Under a sanitizer, which has put its own there
 * already, the sanitizer's hook counts.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_MALLOCS_H
#define TESTS_UNIT_DAEMON_CORE_MALLOCS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static _Thread_local uint64_t libc_mallocs;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

void __sanitizer_malloc_hook(const volatile void *p, size_t n);

void __sanitizer_malloc_hook(const volatile void *p, size_t n)
{
	(void)p;
	(void)n;
	libc_mallocs++;
}

#else

/* glibc's own, for those who take the place of malloc; memory from here is freed by the ordinary free. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

void *malloc(size_t n)
{
	libc_mallocs++;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
	libc_mallocs++;
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
	libc_mallocs++;
	return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
	libc_mallocs++;
	return __libc_memalign(align, n);
}

#endif
#endif
