/* shmx.h - POSIX shared memory of engines, mapped into the daemon without trusting it.
 *
 * A client names an object, claims a size, and may shrink it at any later moment: the next touch would be SIGBUS. Every
 * mapping is therefore entered in a small table the SIGBUS handler reads; the handler replaces the page by zeroes, marks
 * the mapping as faulted and lets the copy run to its end. Callers ask shmx_faulted after a copy and then answer
 * "failed". A SIGBUS outside the table is not ours and kills the process as usual.
 *
 * Threads: init by main before any other; the rest from any thread. Mappings are counted references. A thread that touches
 * a mapping must not have SIGBUS blocked: the kernel kills the process rather than deliver a blocked fault.
 */
#ifndef TRANSPORT_SHM_SHMX_H
#define TRANSPORT_SHM_SHMX_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>

#define SHMX_MAX_MAPPINGS 65536

/* Installs the SIGBUS handler. Once. */
int shmx_init(struct why *why);

struct shmx_map;

/* Opens the object `name` ("/x" or "x": one path component under /dev/shm; anything else is refused) and maps its first
 * `bytes` bytes read-write. The real size must be at least `bytes`. The same object (device and inode) mapped twice is
 * one mapping with a count, grown if the second asks for more only when nobody else holds it (else mapped anew).
 * 0, -EINVAL (name, size 0), -ENOENT, -EACCES, -ERANGE (smaller than claimed), -ENOMEM, -EMFILE (table full). */
int shmx_open(struct slice name, uint64_t bytes, struct shmx_map **out, struct why *why);
void shmx_put(struct shmx_map *m); /* NULL is allowed; the last one unmaps */

uint8_t *shmx_base(const struct shmx_map *m);
uint64_t shmx_bytes(const struct shmx_map *m);
bool shmx_faulted(const struct shmx_map *m);

/* Puts memory of our own (the arena) under the same guard; the put does not unmap it. `base` lies on a page boundary.
 * 0, -EINVAL, -EMFILE (table full). */
int shmx_guard(void *base, uint64_t bytes, struct shmx_map **out, struct why *why);

#endif
