/* numa.h - read this first: what the module is for, its headers, and who calls what.
 *
 * A server with several memory nodes is several small machines that share an address space. This module finds out what the
 * machine is, plans where memory, threads and device work go, gets the memory, and proves where it lies. Four steps, each a value
 * that the next one only reads:
 *
 *      machine_load         plan_make          arena_create          pages_count
 *   files, hwloc ------> machine ------> plan ------> arena ------> census
 *        |  (snapshot)     |   (pure)     |  (pages bound and        (the kernel's answer
 *     capture              |              |   populated, then named)   for each page)
 *     to replay            |              +-> apply (a person's act: writes /sys, can undo)
 *                          +-> measure (rates between nodes, which a plan may use)
 *
 *   node.h      a node's number that cannot be mistaken when it is unknown; sets of CPUs; pinning the calling thread
 *   machine.h   the snapshot: nodes, CPUs, devices, limits; every fact with its source. From this system, an XML or a capture
 *   plan.h      a pure function of a machine and wishes: pools, threads, devices, notes with remedies, and lines to execute
 *   arena.h     the L1 memory itself, one range per pool of the plan
 *   pages.h     where pages are, of this process or another
 *   procmap.h   a running daemon from outside: its mapping, and what the kernel says of it
 *   measure.h   copies between nodes and reads of drives
 *   apply.h     writes what a plan asks of the system, with a journal to go back
 *
 *   daemon/core           at start: machine_load(NULL), plan_make, arena_create; pins its threads by the plan; destroys in
 *                         reverse. Looks at pages in the background.
 *   tools (numa ...)      show, explain, plan, check: machine_load of whatever is named, plan_make. capture: machine_capture.
 *                         apply, undo, verify, measure: the header of that name. Nothing here needs root but apply and undo.
 *   tests                 captures of strange machines in tests/machines; nothing above needs the hardware it plans for.
 *
 * Rules that hold throughout. An unknown node is NODE_UNKNOWN and is compared with node_same, never with a number. A machine that
 * is not this system (this_system is false) is planned for and shown, but nothing is bound, pinned or written because of it:
 * hwloc would pretend success. PCI addresses are the identity of devices; mlx5_0 and nvme1n1 are labels of one boot. No header
 * here keeps global state; what a function allocates has a destroy or free of its own.
 *
 * Files that other modules must not include: facts.h, machine_build.h and *_int.h.
 */
#ifndef NUMA_NUMA_H
#define NUMA_NUMA_H

#include "numa/apply.h"
#include "numa/arena.h"
#include "numa/machine.h"
#include "numa/measure.h"
#include "numa/node.h"
#include "numa/pages.h"
#include "numa/plan.h"
#include "numa/procmap.h"

#endif
