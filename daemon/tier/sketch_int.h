/* sketch_int.h - how often a key was touched lately, roughly: a count-min sketch that forgets.
 *
 * Never too few (but for what was forgotten), sometimes too many. All counters are halved once as many touches were counted as
 * half of the cells, so that what was popular last week is not written for it. A megabyte, whatever the number of keys.
 * Threads: any; counts of two threads at once may be lost, which only makes a key wait for its next touch.
 */
#ifndef DAEMON_TIER_SKETCH_INT_H
#define DAEMON_TIER_SKETCH_INT_H

#include "daemon/store/store.h"

struct sketch;

struct sketch *sketch_create(void); /* NULL: no memory */
void sketch_destroy(struct sketch *s);
/* Counts one touch and returns how many there were with it. */
uint32_t sketch_touch(struct sketch *s, uint32_t name, const struct store_hash *hash);

#endif
