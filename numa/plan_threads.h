/* plan_threads.h - what plan_threads.c and plan_cores.c share: the nodes where threads can live, and their cores. Not for others. */
#ifndef NUMA_PLAN_THREADS_H
#define NUMA_PLAN_THREADS_H

#include "numa/plan_int.h"

#define PLAN_ROLES (ROLE_NVME + 1)

/* A node with CPUs that we may use. */
struct home {
	uint32_t node;          /* index */
	struct cpu_set usable;  /* without isolated ones, unless there are no others */
	bool isolated;          /* there are no others */
	uint32_t core0, ncores; /* in crew.cores */
	uint32_t taken;         /* cores that have a thread of their own */
	bool full;              /* a role did not fit: it and all later ones share the rest */
	struct cpu_set rest;    /* usable ones of cores not taken; all when none is left */
};

struct core {
	uint32_t home, core, l3, cpu, rank; /* rank: how many cores of the same cache are before it */
};

struct crew {
	struct planner *pl;
	bool bound; /* pools are on nodes */
	struct home *homes;
	uint32_t *nodes; /* of the homes */
	uint32_t nhomes;
	struct core *cores;
	uint32_t ncores;
	struct cpu_set any; /* of all homes */
	uint64_t *weight;   /* per home, and one slot for "any" */
	uint32_t *given;    /* the same */
	uint32_t count[PLAN_ROLES];
};

int crew_homes(struct crew *c);
void crew_cpus(struct crew *c);
void crew_free(struct crew *c);

#endif
