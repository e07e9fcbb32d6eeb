/* shm_int.h - the table of guarded mappings, shared by shm.c (who fills it) and guard.c (the SIGBUS handler who reads it).
 *
 * A signal handler can be given no context, so this table is the one piece of process-wide state of the module. A slot's
 * range is written under the mutex and read by the handler without it: `seq` is odd while the range changes, and a handler
 * that sees it move skips the slot, because the slot of the address that faulted cannot change while it is being touched.
 */
#ifndef TRANSPORT_SHM_SHM_INT_H
#define TRANSPORT_SHM_SHM_INT_H

#include "transport/shm/shmx.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

struct shmx_map {
	_Atomic uint32_t seq;
	_Atomic bool faulted;
	_Atomic uintptr_t start; /* 0 = slot not in use */
	_Atomic uint64_t span;   /* bytes guarded: the mapping, rounded up to whole pages */

	/* Below: under the mutex. */
	uint64_t bytes; /* bytes the owner may touch */
	uint64_t refs;
	dev_t dev;
	ino_t ino;
	bool owned; /* mapped by us: the last put unmaps */
};

struct shm_table {
	pthread_mutex_t mutex;
	_Atomic uint32_t used; /* slots at and above this were never used */
	uint32_t first_free;   /* no free slot below this one */
	struct shmx_map slot[SHMX_MAX_MAPPINGS];
};
extern struct shm_table shm_table;

/* Both under the mutex. NULL when every slot is taken. */
struct shmx_map *shm_slot_take(void *start, uint64_t span);
void shm_slot_free(struct shmx_map *m);

#endif
