/* procmap.h - a running process from outside: where its big shared mapping is, and what numa_maps says of it.
 *
 * Both read the kernel's text of any process; the text is taken from a FILE so that tests and captures can stand in.
 * Threads: any. What can fail: said below; a line that cannot be understood is passed over.
 */
#ifndef NUMA_PROCMAP_H
#define NUMA_PROCMAP_H

#include "numa/pages.h"

#include <stdio.h>

/* In /proc/<pid>/maps: the start of the file that is mapped shared in `bytes` bytes or more, in one piece from its beginning (policies
 * split a mapping into several lines). One whose file name contains `name` comes first; else there must be only one. -ENOENT,
 * -ENOTUNIQ. */
int procmap_find(FILE *maps, const char *name, uint64_t bytes, uint64_t *base);

/* /proc/<pid>/numa_maps: adds the pages of the mappings that begin in [base, base + bytes), in units of their own page size;
 * `page_bytes` is that of the last one. -ENOENT when there is none. */
int procmap_count(FILE *numa_maps, uint64_t base, uint64_t bytes, struct pages_census *out, uint64_t *page_bytes);

#endif
