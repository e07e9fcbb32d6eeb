/* pool.h - threads that do one blocking call each: the fallback engine, and discards beside a ring.
 *
 * Threads: submit, take and close by one owner. A pool that is told to leak frees itself when its last thread comes back.
 */
#ifndef TRANSPORT_DISK_POOL_H
#define TRANSPORT_DISK_POOL_H

#include "transport/disk/disk_engine.h"

struct pool;

/* `event_fd` is written when something ends while the owner sleeps. fd and event_fd stay the caller's, and open while the pool
 * lives. */
int pool_create(int fd, bool block, uint32_t threads, int event_fd, struct pool **out, struct why *why);
void pool_close(struct pool *p, bool leak);
/* Takes all of them. Returns how many threads it woke. */
uint32_t pool_submit(struct pool *p, struct disk_sub **subs, uint32_t n);
/* Up to max ended ones. With `sleeping`, none: the next that ends writes event_fd. */
uint32_t pool_take(struct pool *p, struct disk_sub **out, uint32_t max, bool sleeping);

#endif
