/* arena_verify.c - asks the kernel on which node pages are: move_pages without a destination moves nothing and tells.
 *
 * Normal path: batches of addresses, each answered with a node or an error. Sampled looks take evenly spread pages and begin at
 * another one each time, so that repeated looks see every page in the end.
 * Failure paths: EPERM or ENOSYS (seccomp, a kernel without NUMA) and then nothing is known.
 */
#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "numa/arena_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH 1024u

struct batch {
	void *page[BATCH];
	int status[BATCH];
};

static void count_at(struct arena_place *p, node_id node)
{
	uint32_t k = 0;

	while (k < p->nat && !node_same(p->at[k].node, node))
		k++;
	if (k == ARENA_PLACES)
		return;
	if (k == p->nat) {
		p->at[k].node = node;
		p->at[k].pages = 0;
		p->nat++;
	}
	p->at[k].pages++;
}

static void count(struct arena_place *p, node_id planned, int status)
{
	node_id node = node_of(status);

	p->looked++;
	if (!node_known(node)) {
		p->absent++;
		return;
	}
	if (!node_known(planned) || node_same(node, planned))
		p->on_node++;
	else
		p->elsewhere++;
	count_at(p, node);
}

static int ask(struct batch *b, uint32_t n, struct why *why)
{
	if (syscall(SYS_move_pages, 0, (unsigned long)n, b->page, NULL, b->status, 0) >= 0)
		return 0;
	return why_set(why, -errno,
		       errno == EPERM
			       ? "where pages are cannot be seen: move_pages is not permitted (a seccomp profile; "
				 "CAP_SYS_NICE or seccomp=unconfined allows it)"
			       : "where pages are cannot be seen: move_pages: %s",
		       strerror(errno));
}

int arena_verify_map(const void *base, uint64_t bytes, uint64_t page_bytes, node_id planned, uint64_t max_pages,
		     uint64_t first, struct arena_place *out, struct why *why)
{
	struct batch *b = mem_calloc(1, sizeof(*b));
	uint64_t stride;
	uint32_t n = 0;
	int err = 0;

	if (!b)
		return why_set(why, -ENOMEM, "out of memory");
	memset(out, 0, sizeof(*out));
	out->page_bytes = page_bytes;
	out->pages = bytes / page_bytes;
	stride = max_pages && out->pages > max_pages ? (out->pages + max_pages - 1) / max_pages : 1;
	for (uint64_t k = first % stride; !err && k < out->pages; k += stride) {
		b->page[n++] = (void *)((uintptr_t)base + k * page_bytes);
		if (n < BATCH && out->pages - k > stride)
			continue;
		err = ask(b, n, why);
		for (uint32_t j = 0; !err && j < n; j++)
			count(out, planned, b->status[j]);
		n = 0;
	}
	mem_free(b);
	return err;
}

int arena_verify(struct arena *a, uint32_t i, uint64_t max_pages, struct arena_place *out, struct why *why)
{
	uint64_t page = a->backing == BACK_HUGETLB ? a->page_bytes : (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t pass = max_pages ? atomic_fetch_add(&a->verify_pass, 1) : 0;

	check(i < a->nranges);
	return arena_verify_map(a->base + a->range[i].start, arena_committed(a, i), page, a->range[i].node, max_pages,
				pass, out, why);
}

struct text {
	char *buf;
	size_t cap, at;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *fmt, ...)
{
	size_t left = t->cap - t->at;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->at, left, fmt, ap);
	va_end(ap);
	t->at += n < 0 ? 0 : (size_t)n < left ? (size_t)n : left - 1;
}

void arena_place_text(const struct arena_range *r, const struct arena_place *p, char *buf, size_t cap)
{
	struct text t = {buf, cap, 0};
	char size[24];

	if (node_known(r->node))
		add(&t, "node %d: ", r->node.os);
	else
		add(&t, "no planned node: ");
	add(&t, "%llu of %llu pages of %s in place", (unsigned long long)p->on_node, (unsigned long long)p->looked,
	    arena_size_text(p->page_bytes, size));
	if (p->looked < p->pages)
		add(&t, " (sampled of %llu)", (unsigned long long)p->pages);
	for (uint32_t k = 0; p->elsewhere && k < p->nat; k++) {
		if (!node_same(p->at[k].node, r->node))
			add(&t, ", %llu on node %d", (unsigned long long)p->at[k].pages, p->at[k].node.os);
	}
	if (p->absent)
		add(&t, ", %llu absent", (unsigned long long)p->absent);
}
