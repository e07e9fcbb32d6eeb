/* arena.h - the L1 memory: one mapping, one address space of 64-bit offsets, one contiguous range per NUMA node.
 *
 * node = range of an offset. The memory is a POSIX shared-memory object that engines without a GPU open by name
 * (lmcache_l1_pool_<pid> unless told otherwise), or anonymous when the name is empty. Memory is committed (space
 * reserved with fallocate and pages populated) before a slot may use it, so that a full /dev/shm is an error message
 * and never a SIGBUS.
 *
 * Threads: create/destroy by main; arena_commit from any thread (it locks); everything else is constant.
 * What can fail: create (no space, no permission: `why` says what to change) and commit (-ENOSPC).
 */
#ifndef NUMA_ARENA_H
#define NUMA_ARENA_H

#include "daemon/base/why.h"

#include <stdbool.h>
#include <stdint.h>

#define ARENA_MAX_RANGES 64
#define ARENA_PAGE       4096u

struct arena_conf {
	uint64_t bytes;       /* rounded down to 2 MiB per node range */
	const char *shm_name; /* NULL: lmcache_l1_pool_<pid>; "": anonymous, engines cannot map it */
	bool lazy;            /* commit init_bytes now and the rest on demand */
	uint64_t init_bytes;
	uint32_t nranges; /* 0 = one range, node unknown */
	struct {
		int node; /* OS index; -1 = unknown */
		uint64_t bytes;
	} range[ARENA_MAX_RANGES];
};

struct arena_range {
	int node;
	uint64_t start, bytes;
};

struct arena;

int arena_create(const struct arena_conf *conf, struct arena **out, struct why *why);
/* Unmaps and unlinks the shared-memory name. */
void arena_destroy(struct arena *a);

uint8_t *arena_base(const struct arena *a);
uint64_t arena_bytes(const struct arena *a);
/* The name without a leading slash; "" when anonymous. */
const char *arena_shm_name(const struct arena *a);
uint32_t arena_nranges(const struct arena *a);
const struct arena_range *arena_range(const struct arena *a, uint32_t i);
uint32_t arena_range_of(const struct arena *a, uint64_t offset);

/* Bytes of range i, from its start, that may be used now. */
uint64_t arena_committed(const struct arena *a, uint32_t i);
/* Makes at least the first `upto` bytes of range i usable, rounded up to the growth step. 0 or -ENOSPC/-ENOMEM.
 * Returns at once when they are already. */
int arena_commit(struct arena *a, uint32_t i, uint64_t upto);

#endif
