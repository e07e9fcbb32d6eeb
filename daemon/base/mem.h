/* mem.h - heap allocation with a counter and a fault point.
 *
 * Everything of ours allocates through here, never on a hot path: the per-thread counter lets tests and the bench
 * show that a STORE or RETRIEVE makes no allocation, and mem_fail_at lets tests fail the n-th allocation.
 * Threads: any.
 */
#ifndef DAEMON_BASE_MEM_H
#define DAEMON_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory, or NULL (also when n * size overflows or the fault point fires). */
void *mem_calloc(size_t n, size_t size);
/* realloc; new bytes are not zeroed. On NULL the old block is untouched. */
void *mem_realloc(void *p, size_t bytes);
char *mem_strndup(const char *s, size_t n);
void mem_free(void *p);

/* Allocations made by this thread so far. */
uint64_t mem_thread_allocs(void);
/* Tests: the n-th allocation of this thread from now on fails (1 = the next one); 0 turns it off. */
void mem_fail_at(uint64_t n);

#endif
