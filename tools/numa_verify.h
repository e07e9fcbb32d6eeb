/* numa_verify.h - is the running server where it was planned to be? Collected from its /status and from the kernel.
 *
 * What the server says of itself is only where to look: pages are asked of the kernel (move_pages of the server's process, else its
 * numa_maps; the server's own count is the last resort and is called that), threads' CPUs are read from /proc, interrupts from
 * /proc/irq. All bytes of /status are foreign and bounded.
 * Threads: main only.
 */
#ifndef TOOLS_NUMA_VERIFY_H
#define TOOLS_NUMA_VERIFY_H

#include "numa/machine.h"
#include "numa/pages.h"

#include <jansson.h>

#define VERIFY_MAX_POOLS   1024u
#define VERIFY_MAX_THREADS 16384u

enum verify_source { SEEN_NOT, SEEN_MOVE_PAGES, SEEN_NUMA_MAPS, SEEN_BY_SERVER };

struct verify_pool {
	node_id node; /* unknown: not bound, any is right */
	uint64_t start, bytes, committed, page_bytes;
	enum verify_source source;
	uint64_t pages, looked, on_node, elsewhere, absent;
	char where[96]; /* "node 0: 10, node 2: 1" of those elsewhere */
};

struct verify_thread {
	char name[32];
	int tid, cpu; /* cpu: where it ran last; -1 unknown */
	bool planned, seen;
	struct cpu_set want, may; /* planned; allowed by the kernel (when seen) */
	bool astray;
};

struct verify_device {
	const struct mach_device *device;
	uint32_t irqs, local; /* of interrupts whose affinity could be read: served on CPUs of the device's node only */
};

struct verify {
	int pid; /* 0: not visible from here */
	char why_not[160];
	struct verify_pool *pools;
	struct verify_thread *threads;
	struct verify_device *devices;
	char (*findings)[256];
	uint32_t npools, nthreads, ndevices, nfindings;
};

struct verify_conf {
	uint64_t max_pages; /* per pool to look at; 0 all */
};

/* `status` is the whole /status. -EBADMSG when it has no "numa" or a malformed one. */
int verify_collect(json_t *status, const struct machine *m, const struct verify_conf *conf, struct verify **out,
		   struct why *why);
void verify_destroy(struct verify *v);

json_t *verify_json(const struct verify *v);
/* At most 80 columns. */
void verify_print(const struct verify *v, FILE *out);

#endif
