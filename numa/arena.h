/* arena.h - the L1 memory: one file, one mapping, one address space of 64-bit offsets, one contiguous range per NUMA node.
 *
 * node = range of an offset. The file is made of huge pages (hugetlbfs) or is a POSIX shared-memory object; engines without a
 * GPU open it by name (lmcache_l1_pool_<pid> unless told otherwise), or it is anonymous when the name is empty. A hugetlbfs file
 * is made visible below /dev/shm by a bind mount; where that is not permitted the arena has no name.
 *
 * Memory is committed before a slot may use it: populated by threads of the range's node through our own bound mapping, so that
 * a short node, a full /dev/shm or a cgroup limit is an error message and never a SIGBUS, and so that no engine's first touch
 * decides where a page lies. Huge pages are all populated and verified before the name exists.
 *
 * Threads: create/destroy by main; commit, populate and verify from any thread; everything else is constant.
 * What can fail: create (no space, no permission, name in use: `why` says what to change), commit and populate (-ENOSPC).
 */
#ifndef NUMA_ARENA_H
#define NUMA_ARENA_H

#include "daemon/base/why.h"
#include "numa/plan.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define ARENA_MAX_RANGES 64
#define ARENA_PAGE       4096u
#define ARENA_THREADS    8u /* populate threads of one range at most */

struct arena_range_conf {
	node_id node; /* unknown: not bound */
	uint64_t bytes;
	struct cpu_set cpus; /* where its populate threads run; empty: anywhere */
};

struct arena_conf {
	uint64_t bytes;       /* without ranges; rounded down to 2 MiB or one huge page, as each range is */
	const char *shm_name; /* NULL: lmcache_l1_pool_<pid>; "": anonymous, engines cannot map it */
	/* Commit init_bytes now and the rest on demand or by arena_populate. Huge pages are always committed whole. */
	bool lazy;
	uint64_t init_bytes;
	/* Tried in this order; plain 4 KiB pages are the last, unless thp is WANT_YES. All WANT_NO: 4 KiB. */
	enum plan_want huge_1g, huge_2m, thp;
	enum plan_want numa; /* bind ranges whose node is known */
	const struct mach_limits
		*limits;  /* hugetlb limits of our cgroup, looked at before; NULL: found out by failing */
	uint32_t threads; /* populate threads per range; 0: one per CPU of the range, at most ARENA_THREADS */
	uint32_t nranges; /* 0 = one range, node unknown */
	struct arena_range_conf range[ARENA_MAX_RANGES];
};

struct arena_range {
	node_id node; /* the planned one */
	uint64_t start, bytes;
	bool bound; /* the kernel holds its pages on `node`; false: best effort */
};

struct arena;

/* Fallbacks of what is wanted by WANT_TRY are logged as one warning each and counted. On failure nothing is left behind. */
int arena_create(const struct arena_conf *conf, struct arena **out, struct why *why);
/* Unmaps, and removes the shared-memory name. */
void arena_destroy(struct arena *a);

uint8_t *arena_base(const struct arena *a);
uint64_t arena_bytes(const struct arena *a);
/* The name without a leading slash; "" when engines cannot open it. */
const char *arena_shm_name(const struct arena *a);
uint32_t arena_nranges(const struct arena *a);
const struct arena_range *arena_range(const struct arena *a, uint32_t i);
uint32_t arena_range_of(const struct arena *a, uint64_t offset);

enum plan_backing arena_backing(const struct arena *a);
/* Of a hugetlb page; 4096 otherwise (transparent huge pages come and go). */
uint64_t arena_page_bytes(const struct arena *a);
/* How many wishes were not met: a page size, binding, or pages that lie on another node. A metric. */
uint32_t arena_fallbacks(const struct arena *a);
/* "2 MiB huge pages, bound to nodes 0-1, /dev/shm/NAME": for the log and /status. Always terminated. */
void arena_describe(const struct arena *a, char *buf, size_t cap);

/* Bytes of range i, from its start, that may be used now. */
uint64_t arena_committed(const struct arena *a, uint32_t i);
/* Makes at least the first `upto` bytes of range i usable, rounded up to the growth step. 0 or -ENOSPC/-ENOMEM.
 * Returns at once when they are already. */
int arena_commit(struct arena *a, uint32_t i, uint64_t upto);
/* Commits `bytes` of the arena, each range its share, by threads of each node in parallel. *stop (may be NULL) ends it early:
 * -ECANCELED. What was committed before a failure stays. */
int arena_populate(struct arena *a, uint64_t bytes, const _Atomic bool *stop, struct why *why);

/* ---- where pages are (arena_verify.c) ---------------------------------------------------------------------------- */

#define ARENA_PLACES 16u

struct arena_place {
	uint64_t page_bytes;
	uint64_t pages;                      /* of the committed part */
	uint64_t looked;                     /* at so many; fewer than `pages` when sampled */
	uint64_t on_node, elsewhere, absent; /* of those looked at; absent: in no memory now. Their sum is `looked` */
	struct {
		node_id node;
		uint64_t pages;
	} at[ARENA_PLACES]; /* where they are; a node beyond the array counts as elsewhere only */
	uint32_t nat;
};

/* Looks at the committed part of range i: at every page (max_pages 0), or at no more than max_pages evenly spread ones, other
 * ones at every call. A range whose node is unknown counts all present pages as on_node. 0, or -EPERM/-ENOSYS when the kernel
 * does not tell (seccomp), -ENOMEM. */
int arena_verify(struct arena *a, uint32_t i, uint64_t max_pages, struct arena_place *out, struct why *why);
/* The same for any mapping of this process, for a client that checks its own. Pages it has not touched are absent. */
int arena_verify_map(const void *base, uint64_t bytes, uint64_t page_bytes, node_id planned, uint64_t max_pages,
		     uint64_t first, struct arena_place *out, struct why *why);
/* "node 1: 1024 of 1024 pages of 2 MiB in place" or "..., 10 on node 0, 2 absent". Always terminated. */
void arena_place_text(const struct arena_range *r, const struct arena_place *p, char *buf, size_t cap);

#endif
