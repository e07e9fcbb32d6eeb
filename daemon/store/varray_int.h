/* varray_int.h - arrays that are as large as they may ever get, in address space; memory comes with the first touch.
 *
 * So records never move, growth never stalls a request, and an index is a pointer plus a number. Threads: any.
 */
#ifndef DAEMON_STORE_VARRAY_INT_H
#define DAEMON_STORE_VARRAY_INT_H

#include <stddef.h>

/* Zeroed array of n elements, aligned to 2 MiB and in huge pages where the kernel gives them; NULL when refused. */
void *varray_map(size_t n, size_t size);
/* `p` may be NULL. */
void varray_unmap(void *p, size_t n, size_t size);

#endif
