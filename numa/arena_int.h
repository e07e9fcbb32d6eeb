/* arena_int.h - what the arena's files share. Nobody outside numa/arena*.c includes it. */
#ifndef NUMA_ARENA_INT_H
#define NUMA_ARENA_INT_H

#include "daemon/base/lock.h"
#include "numa/arena.h"

#define POOL_MODE   01600              /* the sticky bit means nothing on a file: our mark */
#define POOL_PREFIX "lmcache_l1_pool_" /* upstream's name, followed by the pid */
#define RANGE_ALIGN (2ull << 20)       /* a huge page never straddles two nodes */
#define COMMIT_STEP (16ull << 20)      /* a request that must wait for one step waits a few milliseconds */
#define HUGE_STEP   (64ull << 20)

struct arena_grow {
	struct lk lock;
	pthread_cond_t moved;
	uint64_t next;      /* the next step begins here */
	uint64_t failed_at; /* a step of this round failed; UINT64_MAX: none */
	int err;            /* why */
	uint32_t busy;      /* threads with a step in hand */
	_Atomic uint64_t committed;
};

struct arena {
	uint8_t *base;
	uint64_t bytes;
	int fd;      /* the memory; -1 when it is plain anonymous. Keeps the flock that says that it is in use */
	int name_fd; /* the file that holds the place in /dev/shm when the memory is a hugetlbfs file; -1 */
	char name[256];
	bool mounted;        /* name is a bind mount */
	bool claimed;        /* name is ours */
	char huge_path[320]; /* of the hugetlbfs file until it has its name; "" */
	char huge_dir[64];   /* our own mount until then; "" */
	int huge_dir_fd;
	char nameless[160]; /* why a hugetlb file cannot get a name */
	enum plan_backing backing;
	enum plan_want numa;
	uint64_t page_bytes; /* 4096, or of a hugetlb page */
	uint32_t threads;
	uint32_t fallbacks;
	_Atomic uint64_t verify_pass;     /* sampled looks begin at another page each time */
	const struct mach_limits *limits; /* of the caller of create; NULL afterwards */
	uint32_t nranges;
	struct arena_range range[ARENA_MAX_RANGES];
	bool bindable[ARENA_MAX_RANGES]; /* binding is wanted, the node is there and our cpuset has it */
	struct cpu_set cpus[ARENA_MAX_RANGES];
	struct arena_grow grow[ARENA_MAX_RANGES];
};

/* ---- arena_name.c: names below /dev/shm ------------------------------------------------------------------------- */

/* Checks the name and takes it: fd is then the empty file that holds it. Without a name does nothing. */
int arena_name_claim(struct arena *a, const char *shm_name, struct why *why);
/* Gives a populated hugetlbfs file its name. Where that is not permitted the arena has none and one warning says so. */
void arena_name_offer(struct arena *a);
void arena_name_release(struct arena *a);
/* Removes path if it carries our mark and nobody's lock. */
void arena_name_reap(const char *path, bool in_shm);
/* fd is what the path leads to now. */
bool arena_name_leads_to(const char *path, int fd);
/* Calls `each` for the names in `dir` that begin with `prefix`. */
void arena_name_scan(const char *dir, const char *prefix, void (*each)(const char *path));

/* ---- arena_huge.c: files of huge pages -------------------------------------------------------------------------- */

/* -ENOSPC etc. before anything is taken, as far as that can be known before. */
int arena_huge_check(const struct arena *a, struct why *why);
/* Opens and locks a->fd. */
int arena_huge_open(struct arena *a, struct why *why);
/* After the name was offered, or instead of it. The memory itself lives by its descriptor and mounts. */
void arena_huge_unlink(struct arena *a);
/* Why mmap (range UINT32_MAX) or populating range i failed with `err`. */
int arena_huge_why(const struct arena *a, uint32_t i, int err, struct why *why);
/* Removes what daemons that were killed left on hugetlbfs. */
void arena_huge_reap(void);
const char *arena_size_text(uint64_t bytes, char buf[24]);

/* ---- arena_place.c: policies ------------------------------------------------------------------------------------- */

/* Which ranges can be bound; an error when one cannot that must. */
int arena_place_check(struct arena *a, struct why *why);
int arena_place_bind(struct arena *a, struct why *why);
/* After populating: are the pages where they should be? */
int arena_place_prove(struct arena *a, struct why *why);
/* False: the node of range i cannot give `bytes` of 4 KiB pages; under a binding the kernel would kill us rather than say so. */
bool arena_place_room(const struct arena *a, uint32_t i, uint64_t bytes);
/* A number from a file of sysfs or cgroupfs; "max" is UINT64_MAX. False: not there. */
bool arena_read_u64(const char *path, uint64_t *out);

/* ---- arena_grow.c ------------------------------------------------------------------------------------------------ */

void arena_grow_init(struct arena *a);
void arena_grow_destroy(struct arena *a);

#endif
