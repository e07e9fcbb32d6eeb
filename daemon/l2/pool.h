/* pool.h - threads that do blocking work for an adapter (files, connections), one operation each.
 *
 * Loads and finds go before control (remove, clear, flush), that before stores. The adapter's `run` works on a job, which is its own: the
 * caller's io is touched only under the pool's lock while it is still there. So close can give back what a thread hangs in, and
 * what the thread does later harms nobody (but the buffer, which the contract leaks).
 */
#ifndef DAEMON_L2_POOL_H
#define DAEMON_L2_POOL_H

#include "daemon/l2/l2_int.h"

enum l2_work { L2_WORK_LOAD, L2_WORK_STORE, L2_WORK_REMOVE, L2_WORK_CLEAR, L2_WORK_FLUSH, L2_WORK_FIND };

#define L2_POOL_FIND 128u /* keys of one call of `run` */

struct l2_job {
	enum l2_work kind;
	uint32_t worker;
	struct seg_key key;
	uint8_t digest
		[SEG_DIGEST]; /* the adapter's: of the name, so that a thread that hung needs no names when it wakes */
	void *mem;
	uint64_t bytes;
	uint32_t *sums; /* the worker's own: LOAD fills it in, STORE finds it filled in or fills it in */
	bool have_sums;
	uint32_t n; /* FIND */
	struct seg_key keys[L2_POOL_FIND];
	uint64_t found[L2_POOL_FIND];
};

struct l2_pool_conf {
	const struct l2_env *env;
	const char *name; /* of threads */
	uint32_t threads;
	uint32_t max_loads, max_stores; /* at once; 0 = as many as threads */
	uint64_t max_load_bytes;        /* at once; 0 = no limit. One load is always let through */
	bool hold_stores;               /* until l2_pool_release_stores */
	int (*run)(void *ctx, struct l2_job *job);
	void *ctx;
};

struct l2_pool;
int l2_pool_start(const struct l2_pool_conf *conf, struct l2_pool **out, struct why *why);
void l2_pool_io(struct l2_pool *p, enum l2_work kind, struct l2_io *io);
void l2_pool_find(struct l2_pool *p, struct l2_find *f);
/* An adapter that only hands its work on: its struct begins with this, and its l2_ops name these. */
struct l2_pooled {
	struct l2 l2;
	struct l2_pool *pool;
};
void l2_pooled_find(struct l2 *a, struct l2_find *f);
void l2_pooled_load(struct l2 *a, struct l2_io *io);
void l2_pooled_store(struct l2 *a, struct l2_io *io);
void l2_pooled_remove(struct l2 *a, struct l2_io *io);
void l2_pooled_clear(struct l2 *a, struct l2_io *io);
void l2_pooled_flush(struct l2 *a, struct l2_io *io);

void l2_pool_release_stores(struct l2_pool *p);
/* queued includes what is under way. */
void l2_pool_counts(struct l2_pool *p, uint64_t *loads, uint64_t *stores, uint64_t *queued);
bool l2_pool_stopping(struct l2_pool *p);
/* What is queued ends with -ECANCELED, what is under way has wait_ms to end. True: all threads are gone and the pool is freed. False: some
 * hang; their operations were given back with -ECANCELED, and pool and ctx must never be freed. */
bool l2_pool_stop(struct l2_pool *p, uint32_t wait_ms);
/* The same, but the pool stays where it is in any case: somebody else hangs who knows it. */
void l2_pool_abandon(struct l2_pool *p, uint32_t wait_ms);

#endif
