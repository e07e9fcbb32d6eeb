/* machine.h - what a machine is made of, with the source of every fact: an immutable snapshot.
 *
 * Facts come from hwloc and from sysfs/procfs, of this system, of a saved hwloc XML, or of a capture (one file that replays
 * everything offline: hwloc XML plus the files we read). Where two sources disagree both are kept. What no source says is
 * unknown, never node 0. PCI addresses are the identity of devices; names like gpu0 or nvme1n1 are labels.
 *
 * Threads: created by one, then constant and shared without a lock. hwloc's own topology is gone when machine_load returns.
 * What can fail: load (unreadable file, hwloc refuses: `why`). Missing facts are not failures.
 */
#ifndef NUMA_MACHINE_H
#define NUMA_MACHINE_H

#include "daemon/base/why.h"
#include "numa/node.h"

#include <stdint.h>
#include <stdio.h>

#define MACH_PAGE_SIZES 8u /* sizes of huge pages a kernel offers; x86-64 has two, arm64 up to four */
#define MACH_FACTS      4u

/* Where a fact is from, shown to operators. */
enum fact_source {
	FACT_NONE,     /* no source says */
	FACT_SYSFS,    /* a file below /sys or /proc; `where` names it */
	FACT_HWLOC,    /* an hwloc object; `where` names it */
	FACT_PARENT,   /* inherited from the PCI bridge or the network device it sits on; `where` names that */
	FACT_OVERRIDE, /* the operator's word: HWLOC_PCI_LOCALITY or an option */
	FACT_PROBE,    /* we tried it */
};

struct fact_node {
	enum fact_source source;
	node_id node; /* unknown when the source itself says so (-1) */
	char where[128];
};

/* How far a device's node can be trusted. */
enum confidence { CONF_UNKNOWN, CONF_DISPUTED, CONF_INHERITED, CONF_CERTAIN };

enum mach_node_kind {
	NODE_DRAM,       /* memory, with or without CPUs */
	NODE_GPU_MEMORY, /* a GPU's memory shown as a node (Grace Hopper): never for pools or threads */
	NODE_SLOW,       /* CXL, persistent memory: pools only by request */
	NODE_EMPTY,      /* no memory: CPUs only */
};

struct mach_hugepages {
	uint64_t page_bytes;
	uint64_t total, free, surplus; /* pages of this node */
	bool known;
};

struct mach_node {
	node_id id;
	enum mach_node_kind kind;
	bool allowed;                      /* by our cpuset's mems; hidden nodes are listed too */
	uint64_t memory_bytes, free_bytes; /* 0 = unknown */
	struct cpu_set cpus;               /* online CPUs of this node that we may use */
	struct cpu_set all_cpus;           /* all online CPUs of it */
	uint32_t package;                  /* index; UINT32_MAX unknown */
	struct mach_hugepages huge[MACH_PAGE_SIZES];
	uint32_t nhuge;
	uint32_t *distance;     /* to node i of the snapshot (SLIT, 10 = itself); 0 = unknown */
	char memory_where[128]; /* source of memory_bytes */
};

struct mach_cpu {
	uint32_t os;
	uint32_t core; /* index over the machine: hyper-threads share it */
	uint32_t l3;   /* index; UINT32_MAX unknown */
	uint32_t package;
	node_id node;
	bool allowed, isolated; /* by our cpuset; by isolcpus= (/sys/devices/system/cpu/isolated) */
};

enum mach_device_kind { DEV_GPU, DEV_RDMA, DEV_NIC, DEV_NVME };

struct mach_device {
	enum mach_device_kind kind;
	char pci[16];    /* "0000:17:00.0"; "" when it has none (soft-RoCE on a software device) */
	char name[32];   /* "gpu0", "mlx5_0", "eth0", "nvme0n1": labels of this boot */
	char netdev[32]; /* RDMA: the network device on the same function, "eth0"; "" none */
	char model[64];  /* "" unknown */
	char serial[64];
	char bridge[16];               /* topmost PCI bridge below the root it shares with siblings; "" unknown */
	uint32_t root_complex;         /* devices with the same number share a host bridge; UINT32_MAX unknown */
	double link_gbs, link_max_gbs; /* PCIe payload rate now and at best, GB/s; 0 unknown */
	uint64_t bytes;                /* capacity of a drive, memory of a GPU; 0 unknown */
	node_id node;                  /* the conclusion */
	enum confidence confidence;
	struct fact_node fact[MACH_FACTS]; /* what was consulted, best first */
	uint32_t nfacts;
};

/* What a container, cgroup, ulimit or seccomp profile lets this process do. */
struct mach_hugetlb_limit {
	uint64_t page_bytes;
	uint64_t max,
		used; /* bytes, of the cgroup that leaves least room (the innermost of equals); UINT64_MAX = none */
	uint64_t rsvd_max, rsvd_used; /* the same for reservations */
	char where[192];              /* the file that limits; a long name keeps its end */
	char rsvd_where[192];
};

enum probe { PROBE_UNKNOWN, PROBE_OK, PROBE_DENIED /* EPERM: seccomp */, PROBE_MISSING /* ENOSYS */ };

struct mach_limits {
	uint32_t cgroup_version; /* 0 unknown, 1, 2 */
	char cgroup[192];        /* our path in it */
	uint64_t memory_max;     /* the smallest on the way to the root; UINT64_MAX = none */
	char memory_where[192];
	struct mach_hugetlb_limit hugetlb[MACH_PAGE_SIZES];
	uint32_t nhugetlb;
	uint64_t memlock; /* RLIMIT_MEMLOCK, UINT64_MAX = none */
	bool cap_sys_nice, cap_ipc_lock, cap_sys_admin;
	uint32_t seccomp; /* /proc/self/status Seccomp: 0, 1, 2; UINT32_MAX unknown */
	enum probe mbind, set_mempolicy, move_pages, sched_setaffinity, io_uring;
	bool cpus_restricted, mems_restricted; /* our cpuset is smaller than what is online */
	bool numa_balancing;                   /* /proc/sys/kernel/numa_balancing */
	uint64_t shm_total, shm_free;          /* /dev/shm; 0 unknown */
	/* The bracketed word of transparent_hugepage/enabled; what holds for /dev/shm: its mount's huge= option, or shmem_enabled
	 * where that says deny or force. */
	char thp[16], shmem_thp[16];
	char hugetlbfs[4][128]; /* mount points; "" ends */
	uint64_t hugetlbfs_page[4];
};

struct machine {
	bool this_system; /* false: placements may be computed but never applied */
	char source[256]; /* "this system", "XML file x.xml", "capture y.json" */
	char host[64], kernel[96], board[96];
	struct mach_node *nodes; /* by OS number */
	uint32_t nnodes;
	struct mach_cpu *cpus; /* online ones, by OS number */
	uint32_t ncpus;
	struct cpu_set offline_cpus; /* present but switched off: not in `cpus` */
	struct mach_device
		*devices; /* GPUs, RDMA, NICs, NVMe; each by PCI address, so the order never depends on enumeration */
	uint32_t ndevices;
	struct mach_limits limits;
};

/* NULL `path`: this system. Else a capture, or an hwloc XML (v2; lstopo or hwloc writes it), told apart by content. What is
 * allowed is read of the process as it is now: load before threads are bound. An XML, also that of a capture, is loaded by a
 * child process first, since hwloc crashes on damaged ones; a program that ignores SIGCHLD cannot load files. */
int machine_load(const char *path, struct machine **out, struct why *why);
void machine_destroy(struct machine *m);

/* Writes a capture of this system: replayable by machine_load anywhere. It names the host, its drives' serial numbers and the
 * mounts this process sees; nothing of other processes. 0 or -errno with `why`. */
int machine_capture(FILE *out, struct why *why);

/* NULL when unknown or not there. */
const struct mach_node *machine_node(const struct machine *m, node_id id);
/* Index into nodes[]; UINT32_MAX when unknown. */
uint32_t machine_node_index(const struct machine *m, node_id id);
/* By name or PCI address (with or without domain). NULL when there is none. */
const struct mach_device *machine_device(const struct machine *m, const char *name);
/* "node 1", "node ?" */
const char *machine_node_text(node_id id, char buf[24]);
const char *mach_device_kind_name(enum mach_device_kind k);
const char *fact_source_name(enum fact_source s);

#endif
