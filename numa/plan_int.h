/* plan_int.h - what the files of the planner share. Not for others.
 *
 * The planner works on indexes into machine.nodes and on units: whole pages of at least 2 MiB.
 */
#ifndef NUMA_PLAN_INT_H
#define NUMA_PLAN_INT_H

#include "numa/arena.h"
#include "numa/plan.h"

#define NO_INDEX   UINT32_MAX
#define MIB        (1ull << 20)
#define GIB        (1ull << 30)
#define SHM_UNIT   (2 * MIB)
#define UNLIMITED  UINT64_MAX
#define PLAN_UNIT  "/etc/systemd/system/lmcache-appliance.service.d/numa.conf"
#define SHMEM_PATH "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* By what the pools were shared out. */
enum basis { BY_GPUS, BY_DEVICES, BY_MEMORY, BY_NICS, BY_EVEN, BY_NEARNESS, BY_HAND, BY_NOTHING };

/* A node that may carry a pool. */
struct share {
	uint32_t node;   /* index */
	uint64_t weight; /* by the policy; 0: takes only what spills */
	uint32_t here;   /* devices that count here, on the node or nearest to it */
	const struct mach_device *first;
	uint64_t order; /* pack: smaller fills first */
};

/* Page size and backing to be tried. */
struct kind {
	enum plan_backing backing;
	uint64_t page, unit;
};

/* What sharing out with one kind of pages gives; units. */
struct layout {
	struct kind kind;
	uint64_t asked, placed, spilled;
	uint64_t limit; /* by cgroups, over all nodes; UNLIMITED */
	char limit_where[192];
	/* per share */
	uint64_t cap[ARENA_MAX_RANGES], want[ARENA_MAX_RANGES], got[ARENA_MAX_RANGES];
	uint32_t donor[ARENA_MAX_RANGES]; /* the share whose spill it took; NO_INDEX */
};

struct planner {
	const struct machine *m;
	struct plan *p;
	struct why *why;
	enum basis basis;
	bool unbound;     /* one pool, on no particular node */
	bool blind;       /* no node's memory is known: nothing bounds the pool but its limits */
	bool no_distance; /* a nearest node was wanted and could not be told */
	uint32_t counted; /* devices behind the weights */
	struct share share[ARENA_MAX_RANGES];
	uint32_t nshares;
	struct layout chosen;
	bool out_of_memory; /* sticky: an append failed */
};

/* plan_text.c */
/* printf whose bytes are all printable ASCII afterwards, ending in "..." when it did not fit. */
void plan_text(char *out, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Appends, by the same rules. */
void plan_more(char *out, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "32 GiB", "1.5 GiB", "512 MiB" */
const char *plan_bytes(uint64_t bytes, char buf[32]);
/* Where a device's node is from: the file or object that says it, or why it is unknown. */
void plan_device_source(const struct mach_device *d, char *out, size_t cap);
void plan_note_add(struct planner *pl, enum plan_severity severity, const char *text, const char *remedy,
		   const char *where);
/* Grows an array of the plan by one zeroed element. NULL: out of memory, and the planner knows. */
void *plan_grow(struct planner *pl, void *array, uint32_t *n, size_t size);

/* plan_near.c */
/* 0 unknown. */
uint32_t plan_distance(const struct machine *m, uint32_t from, uint32_t to);
/* The index of a device's node; NO_INDEX when unknown or not in the machine. */
uint32_t plan_node_of(const struct machine *m, const struct mach_device *d);
/* The nearest of `nodes`: `from` itself, else by distance, ties to the first. NO_INDEX when distances do not tell and there is a
 * choice. */
uint32_t plan_nearest(const struct machine *m, uint32_t from, const uint32_t *nodes, uint32_t n);

/* plan_share.c */
int plan_shares(struct planner *pl);
/* plan_layout.c */
void plan_choose(struct planner *pl);
/* As if pages of `kind` could be reserved wherever there is memory; shares by memory when the pool is unbound. */
void plan_ideal(const struct planner *pl, struct kind kind, struct layout *out);
struct kind plan_kind(enum plan_backing backing, uint64_t page);
uint64_t plan_reserve(uint64_t memory_bytes);
const struct mach_hugepages *plan_huge(const struct mach_node *n, uint64_t page);
/* Pages free on a node, with those that a daemon of ours holds. */
uint64_t plan_huge_free(const struct planner *pl, const struct mach_node *n, uint64_t page);
bool plan_thp_works(const struct machine *m);
/* plan_pools.c */
int plan_pools(struct planner *pl);
/* plan_threads.c */
int plan_threads(struct planner *pl);
/* plan_devices.c */
int plan_devices(struct planner *pl);
/* plan_notes.c */
void plan_notes(struct planner *pl);
/* plan_actions.c: notes of missing huge pages too, for they name the same lines */
void plan_actions(struct planner *pl);

#endif
