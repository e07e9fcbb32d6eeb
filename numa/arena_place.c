/* arena_place.c - binds each range to its node, and proves after populating that its pages are there.
 *
 * Normal path: mbind(MPOL_BIND) over each whole range before any page of it exists.
 * Failure paths: no such node, a node outside our cpuset, a seccomp profile, a node without room. Binding that is wanted (yes) fails
 * with what to change; binding that is tried leaves the range to the kernel, with one warning for all ranges.
 */
#include "numa/arena_int.h"

#include "daemon/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/mempolicy.h; no libnuma for one call */
#define POLICY_PREFERRED 1
#define POLICY_BIND      2
#define POLICY_STRICT    1u

#define ROOM_MARGIN      (32ull << 20) /* what the kernel and others on the node keep */
#define SHM_SAMPLE       16384u
#define LONG_BITS        (8 * sizeof(long))
#define MEMS_ALLOWED     "Mems_allowed_list:"

static int set_policy(const struct arena *a, uint32_t i, int policy, unsigned flags)
{
	unsigned long mask[NODE_MAX / LONG_BITS] = {0};
	const struct arena_range *r = &a->range[i];
	unsigned node = (unsigned)r->node.os;

	mask[node / LONG_BITS] = 1ul << (node % LONG_BITS);
	/* The kernel takes one bit less than it is told. */
	return syscall(SYS_mbind, a->base + r->start, r->bytes, policy, mask, node + 2ul, flags) == 0 ? 0 : -errno;
}

bool arena_read_u64(const char *path, uint64_t *out)
{
	char text[32];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	if (strncmp(text, "max", 3) == 0) {
		*out = UINT64_MAX;
		return true;
	}
	char *end;
	*out = strtoull(text, &end, 10);
	return end != text;
}

/* ---- room on a node ---------------------------------------------------------------------------------------------- */

/* What the kernel can give out or drop without asking anybody. False: the node's file says nothing. */
static bool node_room(node_id node, uint64_t *out)
{
	static const char *const counted[] = {"MemFree:", "Active(file):", "Inactive(file):", "SReclaimable:"};
	char path[64], line[128], name[48];
	unsigned long long kb;
	uint64_t sum = 0;
	bool any = false;

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", node.os);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Node %*d %47s %llu", name, &kb) != 2)
			continue;
		for (size_t k = 0; k < sizeof(counted) / sizeof(counted[0]); k++) {
			if (strcmp(name, counted[k]) == 0) {
				sum += kb << 10;
				any = true;
			}
		}
	}
	if (f)
		fclose(f);
	*out = sum;
	return any;
}

bool arena_place_room(const struct arena *a, uint32_t i, uint64_t bytes)
{
	uint64_t room;

	if (a->backing == BACK_HUGETLB || !a->range[i].bound)
		return true;
	return !node_room(a->range[i].node, &room) || room >= bytes + ROOM_MARGIN;
}

/* All ranges of this node together. */
static uint64_t wanted_of(const struct arena *a, node_id node)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < a->nranges; i++)
		sum += node_same(a->range[i].node, node) ? a->range[i].bytes : 0;
	return sum;
}

static int check_room(const struct arena *a, uint32_t i, struct why *why)
{
	node_id node = a->range[i].node;
	uint64_t room, want = wanted_of(a, node);
	char buf[24], other[24];

	if (a->backing == BACK_HUGETLB || !node_room(node, &room) || room >= want + ROOM_MARGIN)
		return 0;
	return why_set(
		why, -ENOSPC,
		"node %d: %s of 4 KiB pages wanted, %s can be had there: /sys/devices/system/node/node%d/meminfo; "
		"lower --l1-size-gb or give this node less of it",
		node.os, arena_size_text(want, buf), arena_size_text(room, other), node.os);
}

/* ---- binding ------------------------------------------------------------------------------------------------------- */

static bool node_exists(node_id node)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d", node.os);
	return access(path, F_OK) == 0;
}

/* The list as the kernel writes it, "" when it does not say. */
static void mems_allowed(char list[128])
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];

	list[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, MEMS_ALLOWED, strlen(MEMS_ALLOWED)) == 0)
			sscanf(line + strlen(MEMS_ALLOWED), "%127s", list);
	}
	if (f)
		fclose(f);
}

/* EINVAL has two reasons that need different people. */
static int bind_why(node_id node, int err, struct why *why)
{
	char allowed[128];

	mems_allowed(allowed);
	if (err == -EPERM)
		return why_set(
			why, err,
			"node %d: mbind is not permitted (a seccomp profile); allow it: CAP_SYS_NICE (containers: "
			"--cap-add SYS_NICE) or --security-opt seccomp=unconfined",
			node.os);
	if (err == -ENOSYS)
		return why_set(why, err, "node %d: this kernel has no mbind (built without NUMA)", node.os);
	if (err == -EINVAL && !node_exists(node))
		return why_set(
			why, err,
			"node %d: there is no such node: /sys/devices/system/node/node%d does not exist (lmcache-"
			"appliance numa show lists them)",
			node.os, node.os);
	if (err == -EINVAL)
		return why_set(why, err,
			       "node %d: our cpuset allows memory of nodes %s only (Mems_allowed_list in "
			       "/proc/self/status); add it to cpuset.mems (containers: --cpuset-mems, systemd: "
			       "AllowedMemoryNodes=)",
			       node.os, allowed[0] ? allowed : "?");
	return why_set(why, err, "node %d: mbind: %s", node.os, strerror(-err));
}

/* Unknown lists allow everything: mbind will tell. */
static bool is_allowed(node_id node)
{
	struct cpu_set nodes;
	char allowed[128];

	mems_allowed(allowed);
	return !allowed[0] || cpus_parse(allowed, &nodes) != 0 || cpus_has(&nodes, (uint32_t)node.os);
}

int arena_place_check(struct arena *a, struct why *why)
{
	for (uint32_t i = 0; i < a->nranges; i++) {
		node_id node = a->range[i].node;

		a->bindable[i] = false;
		if (a->numa == WANT_NO || !node_known(node))
			continue;
		a->bindable[i] = node_exists(node) && is_allowed(node);
		if (!a->bindable[i] && a->numa == WANT_YES)
			return bind_why(node, -EINVAL, why);
	}
	return 0;
}

static int bind_one(struct arena *a, uint32_t i, struct why *why)
{
	struct arena_range *r = &a->range[i];
	int err;

	if (!a->bindable[i])
		return bind_why(r->node, -EINVAL, why);
	err = check_room(a, i, why);
	if (err) { /* no binding: the kernel kills a process for which a bound node has no page */
		if (a->numa == WANT_TRY)
			set_policy(a, i, POLICY_PREFERRED, 0);
		return err;
	}
	err = set_policy(a, i, POLICY_BIND, 0);
	r->bound = !err;
	return err ? bind_why(r->node, err, why) : 0;
}

int arena_place_bind(struct arena *a, struct why *why)
{
	struct why first = {0}, w = {0};
	uint32_t failed = 0;

	for (uint32_t i = 0; i < a->nranges; i++) {
		a->range[i].bound = false;
		if (a->numa == WANT_NO || !node_known(a->range[i].node) || bind_one(a, i, &w) == 0)
			continue;
		if (a->numa == WANT_YES)
			return why_set(why, w.err, "%s", w.text);
		if (failed++ == 0)
			first = w;
	}
	if (failed) {
		log_warn("L1: %u of %u ranges not bound to their node: %s", failed, a->nranges, first.text);
		a->fallbacks++;
	}
	return 0;
}

/* ---- proof --------------------------------------------------------------------------------------------------------- */

/* Where we may not ask for each page, the kernel still says yes or no for a whole range. */
static int prove_one(struct arena *a, uint32_t i, struct why *why)
{
	uint64_t sample = a->backing == BACK_HUGETLB ? 0 : SHM_SAMPLE;
	struct arena_place p;
	char text[256];

	if (arena_verify(a, i, sample, &p, NULL) == 0) {
		if (p.elsewhere == 0 && (p.absent == 0 || a->backing != BACK_HUGETLB))
			return 0;
		arena_place_text(&a->range[i], &p, text, sizeof(text));
		return why_set(why, -EXDEV, "after populating, %s", text);
	}
	if (set_policy(a, i, POLICY_BIND, POLICY_STRICT) != -EIO)
		return 0;
	return why_set(why, -EXDEV, "after populating, not all pages of node %d's range are on it",
		       a->range[i].node.os);
}

int arena_place_prove(struct arena *a, struct why *why)
{
	struct why w = {0};

	for (uint32_t i = 0; i < a->nranges; i++) {
		if (!a->range[i].bound || prove_one(a, i, &w) == 0)
			continue;
		if (a->numa == WANT_YES)
			return why_set(why, w.err, "%s", w.text);
		log_warn("L1: %s", w.text);
		a->fallbacks++;
	}
	return 0;
}
