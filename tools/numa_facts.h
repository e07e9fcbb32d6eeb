/* numa_facts.h - every fact we know about a machine, a node or a device as words, each with the file or object that says it.
 *
 * A fact that no source says has the value "?". Text is printable ASCII. Threads: any. Nothing fails.
 */
#ifndef TOOLS_NUMA_FACTS_H
#define TOOLS_NUMA_FACTS_H

#include "numa/machine.h"

#include <jansson.h>

/* `value` and `source` are the caller's for the time of the call. */
typedef void fact_fn(void *ctx, const char *name, const char *value, const char *source);

/* Host, CPUs that are off or set aside, and what limits this process. */
void facts_of_machine(const struct machine *m, fact_fn *fn, void *ctx);
void facts_of_node(const struct machine *m, uint32_t node, fact_fn *fn, void *ctx);
/* Without its node: mach_device.fact has who was asked about that. */
void facts_of_device(const struct machine *m, const struct mach_device *d, fact_fn *fn, void *ctx);

/* A list of {name, value, source, confidence}: a value is "certain" or "unknown". `device` NULL: of the node; `node` UINT32_MAX
 * as well: of the machine. NULL: out of memory. */
json_t *facts_json(const struct machine *m, uint32_t node, const struct mach_device *device);

#endif
