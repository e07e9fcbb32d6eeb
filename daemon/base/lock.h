/* lock.h - mutexes with a rank, so that lock order is checked instead of remembered.
 *
 * A thread may only take a lock of a higher rank than every lock it holds; lk_lock asserts it. The ranks are this
 * one enum. `lk_held` lets a function state "needs lock X" as an assertion.
 */
#ifndef DAEMON_BASE_LOCK_H
#define DAEMON_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>

enum lk_rank {
	LK_NONE = 0,
	LK_CONTEXTS, /* registry of engine contexts (daemon/core) */
	LK_SESSIONS, /* sessions and their prefetch jobs (daemon/core) */
	LK_PREFIX,   /* prefix cache of hashed token lists (daemon/core) */
	LK_COPIES,   /* copies of GPU engines under way (daemon/core) */
	LK_TIER,     /* queues between requests and the tier's thread (daemon/tier) */
	LK_STORE,    /* index, slots, eviction lists (daemon/store) */
	LK_ARENA,    /* growth of the arena (numa) */
	LK_L2,       /* an adapter's own tables (daemon/l2) */
	LK_SEG,      /* index of a segment store (daemon/seg) */
	LK_NAMES,    /* names of what is below L1 (daemon/seg) */
	LK_GPU_DOOR, /* arena slices being registered with CUDA (transport/cuda) */
	LK_GPU_MAP,  /* memory of engines mapped on one GPU: held while the driver maps (transport/cuda) */
	LK_GPU,      /* one GPU: context, mappings, inbox (transport/cuda) */
	LK_QUEUE,    /* a worker's or the control thread's queue */
	LK_METRICS,  /* label tables of metrics (daemon/http) */
	LK_RANKS
};

struct lk {
	pthread_mutex_t m;
	enum lk_rank rank;
};

void lk_init(struct lk *lk, enum lk_rank rank);
void lk_destroy(struct lk *lk);
void lk_lock(struct lk *lk);
void lk_unlock(struct lk *lk);
/* True when the calling thread holds a lock of this rank. */
bool lk_held(const struct lk *lk);

#endif
