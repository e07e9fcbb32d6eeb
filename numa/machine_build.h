/* machine_build.h - inside this module: the parts of machine_load.
 *
 * Each fills its part of the snapshot from hwloc's topology and from files. Files win over hwloc where both speak, because an
 * hwloc topology is itself made of these files, of another day when it comes from a saved XML.
 */
#ifndef NUMA_MACHINE_BUILD_H
#define NUMA_MACHINE_BUILD_H

#include "numa/facts.h"
#include "numa/machine.h"

#include <hwloc.h>

#define MACH_DEVICES_MAX 1024u

struct build {
	struct machine *m;
	struct facts *facts;
	hwloc_topology_t hw;
};

/* In this order. 0 or -ENOMEM. */
int build_nodes(struct build *b);
void build_kinds(struct build *b);
int build_devices(struct build *b);
int build_limits(struct facts *facts, const struct machine *m, struct mach_limits *out);

/* Above a PCI function: bridges from the host bridge down, not the function itself. */
struct pci_place {
	char root[16]; /* "0000:17": domain and bus of the host bridge; "" unknown */
	char chain[8][16];
	uint32_t nchain;
};
/* "0000:17:00.0" in its one spelling (lower case, four digits of domain or more); false when it is none. */
bool pci_spelled(const char *text, size_t n, char out[16]);
/* Orders by number, so that domain 10000 comes after ffff. */
int pci_compare(const char *a, const char *b);
/* The last PCI function in a path of sysfs; false when there is none. */
bool pci_in_path(const char *path, char out[16]);
void pci_place_of(struct build *b, const char *pci, hwloc_obj_t obj, struct pci_place *out);
/* Consults all sources on the node of d->pci, and concludes. `via`: "" or the netdev between ("rxe0 on eth1"). */
void pci_locality(struct build *b, struct mach_device *d, hwloc_obj_t obj, const struct pci_place *place,
		  const char *via);
void pci_link_speed(struct build *b, struct mach_device *d, hwloc_obj_t obj);

/* The whole-machine text of a capture that is read: hwloc's XML is put into `xml`, borrowed from `root`. */
int capture_open(json_t *root, struct facts **out, const char **xml, struct why *why);

/* The text of a file called `path`; a byte of 0 follows it. */
int machine_load_text(const char *text, size_t bytes, const char *path, struct machine **out, struct why *why);
int machine_fill(struct build *b);
int machine_hwloc_load(const char *xml, size_t bytes, hwloc_topology_t *out, struct why *why);

#endif
