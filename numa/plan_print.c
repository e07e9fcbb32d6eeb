/* plan_print.c - a plan for people: at most 80 columns, what is alike said once. */
#include "numa/plan_int.h"

#include <string.h>

#define WIDTH 80u

/* How much of `text` goes on a line of `room`: to a space, else after a comma or a slash, else as much as fits. */
static size_t fitting(const char *text, size_t room)
{
	static const char *const breaks[] = {" ", ",", "/"};
	size_t len = strlen(text);

	if (len <= room)
		return len;
	for (size_t b = 0; b < sizeof(breaks) / sizeof(breaks[0]); b++) {
		for (size_t n = room; n > room / 3; n--) {
			if (b == 0 ? text[n] == ' ' : text[n - 1] == breaks[b][0])
				return n;
		}
	}
	return room;
}

/* Writes `text` from column `at`, going on at `indent`. */
static void wrap(FILE *out, size_t at, size_t indent, const char *text)
{
	for (size_t n = 0; *text; at = indent) {
		n = fitting(text, WIDTH - at);
		fprintf(out, "%.*s\n", (int)n, text);
		text += n;
		text += strspn(text, " ");
		if (*text)
			fprintf(out, "%*s", (int)indent, "");
	}
}

/* "  head" padded to `column`, then text that hangs there. */
static void item(FILE *out, size_t indent, size_t column, const char *head, const char *text)
{
	size_t len = indent + strlen(head);

	if (len + 1 > column) {
		fprintf(out, "%*s%s\n%*s", (int)indent, "", head, (int)column, "");
		len = column;
	} else {
		fprintf(out, "%*s%s%*s", (int)indent, "", head, (int)(column - len), "");
	}
	if (*text)
		wrap(out, column, column, text);
	else
		fputc('\n', out);
}

static const char *pages_text(const struct plan_pool *p, char buf[80])
{
	char page[32];

	switch (p->backing) {
	case BACK_HUGETLB:
		plan_text(buf, 80, "huge pages of %s (hugetlb)", plan_bytes(p->page_bytes, page));
		break;
	case BACK_SHM_THP:
		plan_text(buf, 80, "shared memory, huge pages where the kernel finds them (THP)");
		break;
	default:
		plan_text(buf, 80, "shared memory with pages of %s", plan_bytes(p->page_bytes, page));
	}
	return buf;
}

static void print_head(const struct plan *p, FILE *out)
{
	char line[512], bytes[32], pages[80];
	uint64_t placed = 0;

	for (uint32_t i = 0; i < p->npools; i++)
		placed += p->pools[i].bytes;
	plan_text(line, sizeof(line), "Plan for %s: %s of L1, policy %s (%s).",
		  p->machine->source[0] ? p->machine->source : "this machine", plan_bytes(p->conf.l1_bytes, bytes),
		  plan_policies[p->conf.policy].name, plan_policies[p->conf.policy].help);
	wrap(out, 0, 0, line);
	fputs("A node is a group of CPUs with memory of its own; other memory is farther away.\n\n", out);
	fputs("MEMORY POOLS", out);
	if (p->npools)
		fprintf(out, ": %s in %s", plan_bytes(placed, bytes), pages_text(&p->pools[0], pages));
	fputs(p->npools ? "\n" : ": none\n", out);
}

static void print_pools(const struct plan *p, FILE *out)
{
	for (uint32_t i = 0; i < p->npools; i++) {
		const struct plan_pool *pool = &p->pools[i];
		char head[24], text[160], bytes[32];

		if (node_known(pool->node))
			plan_text(head, sizeof(head), "node %d", pool->node.os);
		else
			plan_text(head, sizeof(head), "any node");
		plan_text(text, sizeof(text), "%s", plan_bytes(pool->bytes, bytes));
		if (pool->backing == BACK_HUGETLB)
			plan_more(text, sizeof(text), " = %llu pages, of %llu that are free there",
				  (unsigned long long)pool->pages, (unsigned long long)pool->pages_free);
		item(out, 2, 13, head, text);
		item(out, 4, 13, "because", pool->line.reason);
		item(out, 4, 13, "from", pool->line.source);
	}
}

static bool alike(const struct plan_thread *a, const struct plan_thread *b)
{
	return a->role == b->role && (node_same(a->node, b->node) || (!node_known(a->node) && !node_known(b->node))) &&
	       strcmp(a->line.reason, b->line.reason) == 0;
}

static void print_threads(const struct plan *p, FILE *out)
{
	fputs("\nTHREADS\n", out);
	for (uint32_t i = 0; i < p->nthreads;) {
		const struct plan_thread *t = &p->threads[i];
		char head[48], text[CPU_MAX * 5 + 64], cpus[CPU_MAX * 5 + 1], node[24];
		struct cpu_set all = t->cpus;
		uint32_t n = 1;

		for (; i + n < p->nthreads && alike(t, &p->threads[i + n]); n++)
			cpus_or(&all, &p->threads[i + n].cpus);
		cpus_format(&all, cpus, sizeof(cpus));
		if (n > 1)
			plan_text(head, sizeof(head), "%s %u-%u", plan_role_name(t->role), t->index, t->index + n - 1);
		else
			plan_text(head, sizeof(head), "%s %u", plan_role_name(t->role), t->index);
		if (node_known(t->node))
			plan_text(node, sizeof(node), "node %d", t->node.os);
		else
			plan_text(node, sizeof(node), "any node");
		plan_text(text, sizeof(text), "%s, CPU%s %s", node, cpus_count(&all) > 1 ? "s" : "", cpus);
		item(out, 2, 17, head, text);
		item(out, 4, 17, "because", t->line.reason);
		i += n;
	}
}

static void device_text(const struct plan *p, const struct plan_device *d, char *text, size_t cap)
{
	char node[24];

	if (d->pool == NO_INDEX)
		plan_text(text, cap, "any pool");
	else if (node_known(p->pools[d->pool].node))
		plan_text(text, cap, "pool of node %d", p->pools[d->pool].node.os);
	else
		plan_text(text, cap, "the pool");
	plan_more(text, cap, ", %s", machine_node_text(d->device->node, node));
	if (d->thread != NO_INDEX)
		plan_more(text, cap, ", thread %s %u", d->device->kind == DEV_NVME ? "nvme" : "nic", d->thread);
}

static void print_devices(const struct plan *p, FILE *out)
{
	if (p->ndevices)
		fputs("\nDEVICES\n", out);
	for (uint32_t i = 0; i < p->ndevices;) {
		const struct plan_device *d = &p->devices[i], *next;
		char head[64], text[320], other[320];
		uint32_t n = 1;

		device_text(p, d, text, sizeof(text));
		plan_text(head, sizeof(head), "%s", d->device->name[0] ? d->device->name : d->device->pci);
		/* A row per kind, pool and reason; names join while they fit. */
		for (; i + n < p->ndevices; n++) {
			next = &p->devices[i + n];
			device_text(p, next, other, sizeof(other));
			if (next->device->kind != d->device->kind || strcmp(text, other) != 0 ||
			    strcmp(next->line.reason, d->line.reason) != 0 || strlen(head) > 40)
				break;
			plan_more(head, sizeof(head), " %s",
				  next->device->name[0] ? next->device->name : next->device->pci);
		}
		plan_more(text, sizeof(text), ": %s", d->line.reason);
		item(out, 2, 17, head, text);
		i += n;
	}
}

static void print_notes(const struct plan *p, FILE *out)
{
	static const char *const names[] = {"note", "WARNING", "SHORTAGE"};

	if (p->nnotes)
		fputs("\nTO KNOW\n", out);
	for (uint32_t i = 0; i < p->nnotes; i++) {
		const struct plan_note *n = &p->notes[i];

		item(out, 2, 12, names[n->severity], n->text);
		if (n->remedy[0])
			item(out, 4, 12, "remedy", n->remedy);
	}
}

static void print_action(const struct plan_action *a, FILE *out)
{
	switch (a->kind) {
	case ACT_KERNEL_ARG:
		fputs("  add to the kernel command line (boot loader):\n      ", out);
		wrap(out, 6, 6, a->value);
		break;
	case ACT_UNIT:
		fprintf(out, "  add to %s:\n      [Service]\n      ", a->path);
		wrap(out, 6, 6, a->value);
		break;
	default:
		fprintf(out, "  echo %s > \\\n  ", a->value);
		wrap(out, 2, 2, a->path);
	}
	item(out, 4, 12, "why", a->line.reason);
}

void plan_print(const struct plan *p, FILE *out)
{
	print_head(p, out);
	print_pools(p, out);
	print_threads(p, out);
	print_devices(p, out);
	print_notes(p, out);
	if (p->nactions)
		fputs("\nTO GET THERE (`lmcache-appliance numa apply` does the echo lines)\n", out);
	for (uint32_t i = 0; i < p->nactions; i++)
		print_action(&p->actions[i], out);
}
