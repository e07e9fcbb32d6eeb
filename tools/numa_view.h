/* numa_view.h - a machine with the pools and threads of a plan or of a running server drawn in: what both pictures show.
 *
 * A view borrows its machine and, when it is of a plan, that plan. Threads: one per view. What can fail: out of memory, and a
 * /status that is not one.
 */
#ifndef TOOLS_NUMA_VIEW_H
#define TOOLS_NUMA_VIEW_H

#include "numa/plan.h"

#define VIEW_NONE UINT32_MAX

struct view_pool {
	node_id node;
	char what[48]; /* "1 GiB pages", "shared memory, 4 KiB pages" */
	uint64_t bytes;
	bool huge; /* out of the node's reserved huge pages */
};

struct view_thread {
	char role[24];
	uint32_t index; /* within the role; VIEW_NONE: the only one */
	node_id node;
};

struct view_device {
	node_id pool; /* where its bytes go; unknown: any */
};

/* Devices of a node that reach each other without leaving a PCIe switch (PIX) or host bridge (PHB); one that does neither is
 * alone in its group. */
struct view_group {
	const char *relation; /* "PIX", "PHB", "" */
	uint32_t first, n;    /* in `order` */
	uint32_t node;        /* index; VIEW_NONE: no source says */
};

struct numa_view {
	const struct machine *m;
	bool live; /* of a running server: its bytes are among those in use */
	char title[160];
	struct view_pool *pools;
	uint32_t npools;
	struct view_thread *threads;
	uint32_t nthreads;
	struct view_device *devices; /* as machine's; NULL: no plan */
	uint32_t *order;             /* devices, sorted by group */
	struct view_group *groups;   /* sorted by node, unknown last */
	uint32_t ngroups;
	uint32_t *cores, *l3s; /* per node */
};

/* `p` NULL: the machine alone. `how`: where the size of L1 is from, "" when it was given. */
int view_of_plan(const struct machine *m, const struct plan *p, const char *how, struct numa_view **out,
		 struct why *why);
/* Of a server's /status. Pools and threads it does not tell are not drawn. */
int view_of_status(const struct machine *m, json_t *status, const char *url, struct numa_view **out, struct why *why);
void view_destroy(struct numa_view *v);

/* Memory of a node in parts that add up to its whole; all zero when that is unknown. */
struct view_memory {
	uint64_t total, l1, huge, used, free; /* huge: reserved as huge pages and not ours */
	uint64_t free_now;                    /* as the kernel says, before the plan; UINT64_MAX unknown */
};
struct view_memory view_memory(const struct numa_view *v, uint32_t node);

/* "control, http, transfer 0-3" of the threads on a node (unknown: of those that may run anywhere). Returns their number. */
uint32_t view_threads(const struct numa_view *v, node_id node, char *out, size_t cap);
/* Neither memory nor CPUs nor devices: several in a row are drawn as one. */
bool view_is_empty(const struct numa_view *v, uint32_t node);

/* "PIX", "PHB", "NODE", "SYS" as nvidia-smi topo says; "X" for the same one, "?" when a node is unknown. */
const char *view_relation(const struct mach_device *a, const struct mach_device *b);
/* "17:00.0": without a domain of zeros. */
const char *view_pci(const char *pci);
/* Size and model, as far as they are known. */
void view_device_text(const struct mach_device *d, char out[96]);
/* "", "no CPUs", "GPU memory", "slow memory", "hidden by our cpuset": what sets a node apart, with commas. */
const char *view_node_marks(const struct mach_node *n, char buf[64]);
/* "1 GiB" or "2 MiB". */
const char *view_page_text(uint64_t page_bytes, char buf[24]);

#endif
