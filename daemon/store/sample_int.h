/* sample_int.h - when the observed share of the objects came and was last used.
 *
 * A fixed table beside the records, so that objects nobody observes pay nothing. When it is full, further objects are
 * simply not observed. Threads: under the store's lock.
 */
#ifndef DAEMON_STORE_SAMPLE_INT_H
#define DAEMON_STORE_SAMPLE_INT_H

#include <stdbool.h>
#include <stdint.h>

struct sample {
	uint32_t obj; /* 0: empty */
	uint64_t created_ms, used_ms;
};

struct samples {
	struct sample *row;
	uint32_t mask, n;
	uint64_t threshold; /* keys whose mixed hash lies below are observed; 0: none */
};

/* 0 or -ENOMEM. `rate` is the share of up to max_objects objects. */
int samples_create(struct samples *t, double rate, uint32_t max_objects);
void samples_destroy(struct samples *t);
/* False when the table is full. */
bool samples_add(struct samples *t, uint32_t obj, uint64_t now_ms);
/* The row of an object that was added. */
struct sample *samples_get(struct samples *t, uint32_t obj);
void samples_remove(struct samples *t, uint32_t obj);

#endif
