/* measure_int.h - inside measure. */
#ifndef NUMA_MEASURE_INT_H
#define NUMA_MEASURE_INT_H

#include "numa/measure.h"

#include <pthread.h>

/* Threads wait at it until all are there; then all may go, or none when one could not. */
struct measure_gate {
	pthread_mutex_t lock;
	pthread_cond_t open;
	uint32_t wanted, here;
	bool ok;
};
void measure_gate_init(struct measure_gate *g, uint32_t n);
void measure_gate_destroy(struct measure_gate *g);
bool measure_gate_pass(struct measure_gate *g, bool ok);
/* Only n threads could be started: those go home. */
void measure_gate_shrink(struct measure_gate *g, uint32_t n);

/* Populated memory on a node; munmap. NULL with the reason. */
void *measure_memory(uint64_t bytes, node_id node, bool must_bind, char reason[128]);

int measure_drives(const struct machine *m, const struct measure_conf *conf, const struct measure_watch *watch,
		   struct measure *out);

#endif
