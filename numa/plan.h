/* plan.h - where L1's pools, our threads and each device's work go, and why.
 *
 * A pure function: the same machine and wishes give the same plan, byte for byte; no system call, no clock, no global. Every
 * line has a reason and names the source of the fact it rests on. Never more pages than a node has, no thread on a node
 * without CPUs, no pool on a node of slow or GPU memory unless it is named by hand; what does not fit is a stated shortage.
 *
 * Ordinary pages keep a reserve for the rest of the system on each node: a sixteenth of it, 256 MiB to 16 GiB, never more than
 * a quarter. Huge pages are bounded by the free ones of the node and by the hugetlb cgroup; nothing is kept of them.
 *
 * Threads: any. What can fail: plan_make (-EINVAL wishes that contradict themselves or the machine, -ENODEV a machine without a
 * CPU we may use, -ENOMEM).
 */
#ifndef NUMA_PLAN_H
#define NUMA_PLAN_H

#include "numa/machine.h"

#include <jansson.h>

enum plan_policy { PLAN_LOCAL, PLAN_SPREAD, PLAN_PACK, PLAN_MANUAL, PLAN_POLICIES };
struct plan_policy_row {
	const char *name, *help; /* one line */
};
extern const struct plan_policy_row plan_policies[PLAN_POLICIES];

/* yes: or fail; try: or fall back with one line and a metric; no: do not. As UCX words it. */
enum plan_want { WANT_NO, WANT_TRY, WANT_YES };

enum plan_backing { BACK_HUGETLB, BACK_SHM_THP, BACK_SHM };

struct plan_conf {
	enum plan_policy policy;
	uint64_t l1_bytes;   /* rounded down to whole pages, of at least 2 MiB */
	enum plan_want numa; /* bind pools to nodes */
	/* Tried from the largest to the smallest; all pools get the same, for the arena is one file. A size with TRY is taken
	 * when all of L1 fits and rounding to it changes no share by more than a sixteenth. YES ends the list: nothing smaller
	 * is taken, and what does not fit is a shortage. */
	enum plan_want huge_1g, huge_2m, thp;
	uint32_t transfer_workers, lookup_workers; /* in all; 0 = the plan chooses */
	/* manual: what each node gets; bytes 0 with all nodes listed = even */
	struct {
		node_id node;
		uint64_t bytes;
	} manual[64];
	uint32_t nmanual;
	/* What a running daemon of ours holds already; it counts as free. Pages of 4096 are those in /dev/shm. */
	struct {
		node_id node;
		uint64_t page_bytes, pages;
	} held[64];
	uint32_t nheld;
};

struct plan_line { /* why, and by which fact */
	char reason[160], source[160];
};

struct plan_pool {
	node_id node; /* unknown: not bound (one node, or binding is not wanted) */
	enum plan_backing backing;
	uint64_t page_bytes; /* 4096 with both shm backings: THP is a hope, not a promise */
	uint64_t bytes;
	uint64_t pages, pages_free; /* hugetlb: wanted by this pool, and free on the node when looked at */
	struct plan_line line;
};

enum plan_role { ROLE_TRANSFER, ROLE_LOOKUP, ROLE_CONTROL, ROLE_HTTP, ROLE_POPULATE, ROLE_NIC, ROLE_NVME };

struct plan_thread {
	enum plan_role role;
	uint32_t index;                   /* within the role */
	node_id node;                     /* unknown: any of `cpus` */
	struct cpu_set cpus;              /* never empty */
	const struct mach_device *device; /* ROLE_NIC, ROLE_NVME */
	uint32_t pool; /* ROLE_POPULATE: index of the pool, which may be on another node; else UINT32_MAX */
	struct plan_line line;
};

struct plan_device { /* one per device of the machine, in its order */
	const struct mach_device *device;
	uint32_t pool;   /* index; UINT32_MAX: any */
	uint32_t thread; /* number of its ROLE_NIC or ROLE_NVME thread within the role; UINT32_MAX none */
	struct plan_line line;
};

enum plan_severity { PLAN_NOTICE, PLAN_WARNING, PLAN_SHORTAGE };

struct plan_note {
	enum plan_severity severity;
	char text[256], remedy[256]; /* the command or line that would fix it; "" none */
	char where[192];             /* the file or call it was seen in; "" the wishes themselves */
};

/* A line an operator may execute to get there. */
enum plan_action_kind {
	ACT_SYSFS,      /* write `value` to `path`; numa apply does these */
	ACT_SYSCTL,     /* the same; `path` is below /proc/sys */
	ACT_KERNEL_ARG, /* `value` for the kernel command line, at the next boot; `path` is "" */
	ACT_UNIT        /* `value` is a line for section [Service] of the systemd drop-in `path` */
};
struct plan_action {
	enum plan_action_kind kind;
	char path[160], value[1024]; /* a sysfs value is short; a kernel argument lists nodes */
	struct plan_line line;
};

struct plan {
	const struct machine *machine; /* borrowed */
	struct plan_conf conf;
	struct plan_pool *pools; /* at most ARENA_MAX_RANGES, by node; none when a YES cannot be met at all */
	struct plan_thread *threads;
	struct plan_device *devices;
	struct plan_note *notes;
	struct plan_action *actions;
	uint32_t npools, nthreads, ndevices, nnotes, nactions;
	uint64_t shortage_bytes; /* of l1_bytes, that found no place */
};

int plan_make(const struct machine *m, const struct plan_conf *conf, struct plan **out, struct why *why);
void plan_destroy(struct plan *p);

/* The pool of a node; UINT32_MAX when it has none. */
uint32_t plan_pool_of(const struct plan *p, node_id node);
/* Thread i of a role; NULL when there is none. */
const struct plan_thread *plan_thread_of(const struct plan *p, enum plan_role role, uint32_t i);
const char *plan_role_name(enum plan_role r);
const char *plan_backing_name(enum plan_backing b);

/* New reference, NULL when out of memory. */
json_t *plan_json(const struct plan *p);
/* At most 80 columns. */
void plan_print(const struct plan *p, FILE *out);
/* Words as a plan shows them: `text` from column `at`, going on at `indent`; `head` at `indent`, then text that hangs at `column`. */
void plan_wrap(FILE *out, size_t at, size_t indent, const char *text);
void plan_item(FILE *out, size_t indent, size_t column, const char *head, const char *text);

#endif
