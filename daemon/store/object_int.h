/* object_int.h - the record of one object: one cache line, so that a lookup touches its bucket and this and no more.
 *
 * Everything is guarded by the store's lock, except that the owner of a reservation or lock may read `units` and `tail`
 * without it: they do not change while the object lives.
 */
#ifndef DAEMON_STORE_OBJECT_INT_H
#define DAEMON_STORE_OBJECT_INT_H

#include "daemon/store/store.h"

#define OBJ_USED      0x01u /* not on the free list */
#define OBJ_KEYED     0x02u /* in the index; without it the object is detached */
#define OBJ_READABLE  0x04u /* written; without it the object is a reservation */
#define OBJ_LISTED    0x08u /* on an eviction list: keyed, readable and unlocked */
#define OBJ_SAMPLED   0x10u /* has a row in the sample table */
#define OBJ_TEMP      0x20u /* goes with its last lock; readable and locked */

#define OBJ_MAX_LOCKS UINT16_MAX
/* Slot links use the top bit of an id, so object ids have 31. */
#define OBJ_MAX_ID 0x7fffffffu

struct obj {
	uint8_t hash[STORE_HASH_BYTES];
	uint32_t chain;          /* next in the bucket */
	uint32_t older, younger; /* eviction list */
	uint32_t units;          /* slot size in units of the store's alignment */
	uint32_t tail;           /* bytes at the end of the slot that are not used */
	uint16_t ns;             /* namespace - 1 */
	uint16_t locks;
	/* Recency, on a clock that counts the units put at the young end: the difference of two is how much has been used
	 * in between. Also tells what a clear has killed. */
	uint64_t seq : 56;
	uint64_t flags : 8;
};

_Static_assert(sizeof(struct obj) == 64, "one cache line");

#endif
