/* ids_int.h - which record numbers are free.
 *
 * A bitmap under a bitmap under a bitmap, so that the next free number at or after a place is found in a few steps.
 * Numbers are handed out in ascending order from where the last one was: after many objects went at once, the next prompt
 * gets a stretch of neighbours again (see index_int.h), which a free list would lose. Numbers never used before come last,
 * so that memory is touched only when needed. One bit per number.
 * Threads: under the store's lock.
 */
#ifndef DAEMON_STORE_IDS_INT_H
#define DAEMON_STORE_IDS_INT_H

#include <stdbool.h>
#include <stdint.h>

#define IDS_LEVELS 6 /* 64^6 numbers */

struct ids {
	uint64_t *map[IDS_LEVELS]; /* bit set: returned and free, or something below is */
	uint64_t words[IDS_LEVELS];
	uint32_t levels;
	uint32_t max, hi; /* numbers 1..hi were in use at some time */
	uint32_t next;    /* where to look first */
};

/* Numbers 1 to max. 0 or -ENOMEM. */
int ids_create(struct ids *t, uint32_t max);
void ids_destroy(struct ids *t);
/* 0 when all are in use. */
uint32_t ids_take(struct ids *t);
void ids_put(struct ids *t, uint32_t id);
bool ids_is_free(const struct ids *t, uint32_t id);

#endif
