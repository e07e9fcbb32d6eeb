/* node.h - a NUMA node's number as a type of its own, and sets of CPUs.
 *
 * An unknown node stays unknown: it has no number that could be taken for node 0 (what most code makes of the kernel's -1).
 * Node numbers may have holes and exceed 64. CPU sets hold CPUs 0 to CPU_MAX - 1, in a fixed array, so they copy by value.
 * Threads: any; nothing is shared.
 */
#ifndef NUMA_NODE_H
#define NUMA_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_MAX 1024u /* OS numbers below this */
#define CPU_MAX  4096u

typedef struct {
	int os; /* negative: unknown */
} node_id;

#define NODE_UNKNOWN ((node_id){-1})

static inline node_id node_of(int os)
{
	return os < 0 || os >= (int)NODE_MAX ? NODE_UNKNOWN : (node_id){os};
}

static inline bool node_known(node_id n)
{
	return n.os >= 0;
}

/* Unknown is not the same as anything, not even as unknown. */
static inline bool node_same(node_id a, node_id b)
{
	return a.os >= 0 && a.os == b.os;
}

struct cpu_set {
	uint64_t w[CPU_MAX / 64];
};

static inline void cpus_add(struct cpu_set *s, uint32_t cpu)
{
	if (cpu < CPU_MAX)
		s->w[cpu / 64] |= 1ull << (cpu % 64);
}

static inline void cpus_drop(struct cpu_set *s, uint32_t cpu)
{
	if (cpu < CPU_MAX)
		s->w[cpu / 64] &= ~(1ull << (cpu % 64));
}

static inline bool cpus_has(const struct cpu_set *s, uint32_t cpu)
{
	return cpu < CPU_MAX && (s->w[cpu / 64] >> (cpu % 64) & 1);
}

uint32_t cpus_count(const struct cpu_set *s);
/* The first CPU at or after `from`; -1 = none. */
int cpus_next(const struct cpu_set *s, uint32_t from);
bool cpus_equal(const struct cpu_set *a, const struct cpu_set *b);
void cpus_and(struct cpu_set *into, const struct cpu_set *with);
void cpus_or(struct cpu_set *into, const struct cpu_set *with);
/* "0-3,8", the kernel's list format (Documentation/admin-guide/cputopology.rst); "" when empty. Always terminated; returns the
 * length it would need. */
size_t cpus_format(const struct cpu_set *s, char *out, size_t cap);
/* 0, or -EINVAL (not a list), -ERANGE (a CPU of CPU_MAX or above). */
int cpus_parse(const char *text, struct cpu_set *out);

/* Binds the calling thread. 0 or -errno. The caller has made sure that the machine is this one (machine.h). */
int cpus_pin_self(const struct cpu_set *s);
/* Where a thread may run now, from /proc/<pid>/task/<tid>/status or for tid 0 the caller. 0 or -errno. */
int cpus_of_thread(int pid, int tid, struct cpu_set *out);

#endif
