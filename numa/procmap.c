#include "numa/procmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LINE_CAP 4608 /* a path of PATH_MAX and what stands before it */

struct vma {
	uint64_t start, end, offset, inode;
	unsigned major, minor;
	bool shared;
	const char *name;
};

static bool parse(char *line, struct vma *v)
{
	char mode[5];
	int at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &v->start, &v->end, mode,
		   &v->offset, &v->major, &v->minor, &v->inode, &at) < 7 ||
	    v->end <= v->start)
		return false;
	v->shared = mode[3] == 's';
	line[strcspn(line, "\n")] = '\0';
	v->name = line + at;
	return true;
}

/* The rest of a line that did not fit. */
static void skip_rest(FILE *f, const char *line)
{
	int c = 0;

	if (!strchr(line, '\n'))
		while (c != '\n' && c != EOF)
			c = fgetc(f);
}

struct best {
	uint64_t base;
	uint32_t named, others;
};

static void consider(struct best *b, uint64_t base, bool named)
{
	if (named && b->named++ == 0)
		b->base = base;
	if (!named && b->others++ == 0 && !b->named)
		b->base = base;
}

int procmap_find(FILE *maps, const char *name, uint64_t bytes, uint64_t *base)
{
	struct best best = {0};
	struct vma run = {0}, v;
	char line[LINE_CAP];
	bool counted = true, named = false;

	while (fgets(line, sizeof(line), maps)) {
		skip_rest(maps, line);
		if (!parse(line, &v) || !v.shared || v.inode == 0)
			continue;
		bool goes_on = v.start == run.end && v.inode == run.inode && v.major == run.major &&
			       v.minor == run.minor && v.offset == run.offset + (run.end - run.start);
		if (goes_on) {
			run.end = v.end;
		} else if (v.offset == 0) {
			run = v;
			counted = false;
			named = *name && strstr(v.name, name);
		} else {
			run = (struct vma){0};
			counted = true;
		}
		if (!counted && run.end - run.start >= bytes) {
			counted = true;
			consider(&best, run.start, named);
		}
	}
	if (best.named > 1 || (!best.named && best.others > 1))
		return -ENOTUNIQ;
	*base = best.base;
	return best.named || best.others ? 0 : -ENOENT;
}

static void add_node(struct pages_census *c, node_id node, uint64_t pages)
{
	uint32_t i = 0;

	c->looked += pages;
	while (i < c->nat && c->at[i].node.os != node.os)
		i++;
	if (i == PAGES_NODES || !node_known(node)) {
		c->others += pages;
		return;
	}
	if (i == c->nat) {
		c->at[i].node = node;
		c->at[i].pages = 0;
		c->nat++;
	}
	c->at[i].pages += pages;
}

int procmap_count(FILE *numa_maps, uint64_t base, uint64_t bytes, struct pages_census *out, uint64_t *page_bytes)
{
	char line[LINE_CAP];
	int rc = -ENOENT;

	while (fgets(line, sizeof(line), numa_maps)) {
		char *end, *save = NULL;
		uint64_t start = strtoull(line, &end, 16);
		skip_rest(numa_maps, line);
		if (end == line || *end != ' ' || start < base || start - base >= bytes)
			continue;
		rc = 0;
		for (char *w = strtok_r(end, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
			unsigned node;
			uint64_t n;
			int used = 0;
			if (sscanf(w, "N%u=%" SCNu64 "%n", &node, &n, &used) == 2 && !w[used])
				add_node(out, node < NODE_MAX ? node_of((int)node) : NODE_UNKNOWN, n);
			else if (sscanf(w, "kernelpagesize_kB=%" SCNu64 "%n", &n, &used) == 1 && !w[used] &&
				 n < 1ull << 40)
				*page_bytes = n * 1024;
		}
	}
	return rc;
}
