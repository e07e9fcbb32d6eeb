/* measure.h - what copies cost between nodes, and reads from drives: measured, stored, read again.
 *
 * A copy is made by threads pinned on one node, in memory bound to a node and proven there by the kernel's answer for each page;
 * rates are of bytes copied, in 10^9 per second. Drives are only ever read. What could not be measured says why.
 *
 * Threads: measure_run starts its own and waits for them. What can fail: -EXDEV (the machine is not this system), -ENOMEM,
 * and reading a file that is not one of ours (-EBADMSG).
 */
#ifndef NUMA_MEASURE_H
#define NUMA_MEASURE_H

#include "numa/machine.h"

#include <jansson.h>

#define MEASURE_FILE      "/var/lib/lmcache-appliance/numa-measure.json"
#define MEASURE_MAX_BYTES (4u << 20)
#define MEASURE_MAX_CELLS 16384u

struct measure_conf {
	uint64_t bytes;   /* of the buffer each thread copies from, and of the one it copies to */
	uint32_t threads; /* per node, at most as many as it has CPUs */
	double seconds;   /* for each cell */
	bool drives;
};

struct measure_cell {
	node_id cpu, memory;
	double gbs; /* 0: not measured */
	uint32_t threads;
	uint64_t pages, misplaced; /* of the buffers; misplaced: on another node than `memory` */
	char reason[128];          /* why it was not measured, or what is doubtful */
};

struct measure_drive {
	char pci[16], name[32];
	node_id device, cpu; /* where it is, and where the threads and their memory were */
	double gbs;
	char reason[128];
};

struct measure {
	char host[64], kernel[96];
	struct measure_cell *cells; /* by CPU node, then by memory node */
	struct measure_drive *drives;
	uint32_t ncells, ndrives;
};

/* Sees each result as it comes; may be NULL. */
struct measure_watch {
	void (*cell)(void *ctx, const struct measure_cell *c);
	void (*drive)(void *ctx, const struct measure_drive *d);
	void *ctx;
};

int measure_run(const struct machine *m, const struct measure_conf *conf, const struct measure_watch *watch,
		struct measure **out, struct why *why);
void measure_destroy(struct measure *m);

/* Copy rate of threads on `cpu` in memory of `memory`; 0 when it is not known. */
double measure_gbs(const struct measure *m, node_id cpu, node_id memory);
/* The same as a share of what `cpu` reaches in its own memory (the best it reaches when it has none); 0 not known. */
double measure_ratio(const struct measure *m, node_id cpu, node_id memory);

/* New reference, NULL when out of memory. */
json_t *measure_json(const struct measure *m);
/* At most 80 columns. */
void measure_print(const struct measure *m, FILE *out);
/* Replaces the file in one step; makes its folder if only that is missing. */
int measure_write(const struct measure *m, const char *path, struct why *why);
/* -ENOENT when there is none. Everything in it is bounded; -EBADMSG when it is not what measure_write wrote. */
int measure_read(const char *path, struct measure **out, struct why *why);

#endif
