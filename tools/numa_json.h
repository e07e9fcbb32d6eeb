/* numa_json.h - a machine and its parts as JSON, for `numa show` and `numa explain`; docs/numa.md names the keys.
 *
 * Every function returns a new reference, NULL when out of memory. What is unknown is null, never 0. Threads: any.
 */
#ifndef TOOLS_NUMA_JSON_H
#define TOOLS_NUMA_JSON_H

#include "tools/numa_view.h"

json_t *numa_node_json(const struct machine *m, uint32_t node);
json_t *numa_device_json(const struct mach_device *d);
json_t *numa_machine_json(const struct machine *m);
const char *numa_confidence_name(enum confidence c);

#endif
