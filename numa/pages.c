#include "numa/pages.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MPOL_BIND_MODE 2 /* linux/mempolicy.h; no libnuma for two calls */
#define LONG_BITS      (8 * sizeof(unsigned long))
#define BATCH          1024u

int pages_bind(void *base, uint64_t bytes, node_id node)
{
	unsigned long mask[NODE_MAX / LONG_BITS] = {0};

	if (!node_known(node))
		return -EINVAL;
	mask[(unsigned)node.os / LONG_BITS] |= 1ul << ((unsigned)node.os % LONG_BITS);
	/* The kernel takes one bit less than it is told. */
	return syscall(SYS_mbind, base, bytes, MPOL_BIND_MODE, mask, NODE_MAX + 1ul, 0) ? -errno : 0;
}

static void add(struct pages_census *c, int node)
{
	uint32_t i = 0;

	while (i < c->nat && c->at[i].node.os < node)
		i++;
	if (i < c->nat && c->at[i].node.os == node) {
		c->at[i].pages++;
		return;
	}
	if (c->nat == PAGES_NODES) {
		c->others++;
		return;
	}
	for (uint32_t k = c->nat++; k > i; k--)
		c->at[k] = c->at[k - 1];
	c->at[i].node = node_of(node);
	c->at[i].pages = 1;
}

int pages_count(int pid, uint64_t base, uint64_t bytes, uint64_t page_bytes, struct pages_census *out)
{
	void *pages[BATCH];
	int status[BATCH];

	if (page_bytes == 0)
		return -EINVAL;
	for (uint64_t at = 0; at < bytes;) {
		unsigned long n = 0;
		for (; n < BATCH && at < bytes; at += page_bytes)
			pages[n++] = (void *)(uintptr_t)(base + at);
		if (syscall(SYS_move_pages, pid, n, pages, NULL, status, 0) < 0)
			return -errno;
		for (unsigned long i = 0; i < n; i++) {
			out->looked++;
			if (status[i] < 0)
				out->absent++;
			else
				add(out, status[i]);
		}
	}
	return 0;
}

uint64_t pages_on(const struct pages_census *c, node_id node)
{
	for (uint32_t i = 0; i < c->nat; i++)
		if (node_same(c->at[i].node, node))
			return c->at[i].pages;
	return 0;
}
