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

void plan_wrap(FILE *out, size_t at, size_t indent, const char *text)
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

void plan_item(FILE *out, size_t indent, size_t column, const char *head, const char *text)
{
	size_t len = indent + strlen(head);

	if (len + 1 > column) {
		fprintf(out, "%*s%s\n%*s", (int)indent, "", head, (int)column, "");
	} else {
		fprintf(out, "%*s%s%*s", (int)indent, "", head, (int)(column - len), "");
	}
	if (*text)
		plan_wrap(out, column, column, text);
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
	plan_text(line, sizeof(line), "Plan for %s: %s of L1.",
		  p->machine->source[0] ? p->machine->source : "this machine", plan_bytes(p->conf.l1_bytes, bytes));
	plan_wrap(out, 0, 2, line);
	plan_text(line, sizeof(line), "Policy %s: %s.", plan_policies[p->conf.policy].name,
		  plan_policies[p->conf.policy].help);
	plan_wrap(out, 0, 2, line);
	fputs("A node is a group of CPUs with memory of its own; other memory is farther away.\n\n", out);
	plan_text(line, sizeof(line), "MEMORY POOLS: none");
	if (p->npools)
		plan_text(line, sizeof(line), "MEMORY POOLS: %s, %s", plan_bytes(placed, bytes),
			  pages_text(&p->pools[0], pages));
	plan_wrap(out, 0, 2, line);
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
			plan_more(text, sizeof(text), " = %llu page%s, of %llu that are free there",
				  (unsigned long long)pool->pages, pool->pages == 1 ? "" : "s",
				  (unsigned long long)pool->pages_free);
		plan_item(out, 2, 13, head, text);
		plan_item(out, 4, 13, "because", pool->line.reason);
		plan_item(out, 4, 13, "from", pool->line.source);
	}
}

static const char *name_of(const struct mach_device *d)
{
	return d->name[0] ? d->name : d->pci;
}

/* The reason without the device's name, with which it begins. */
static const char *tail(const struct plan_thread *t)
{
	size_t len = t->device ? strlen(name_of(t->device)) : 0;

	return strlen(t->line.reason) > len ? t->line.reason + len : t->line.reason;
}

static bool alike(const struct plan_thread *a, const struct plan_thread *b)
{
	return a->role == b->role && (node_same(a->node, b->node) || (!node_known(a->node) && !node_known(b->node))) &&
	       strcmp(tail(a), tail(b)) == 0;
}

static void thread_reason(const struct plan_thread *t, uint32_t n, char *out, size_t cap)
{
	if (n == 1 || !t->device) {
		plan_text(out, cap, "%s", t->line.reason);
		return;
	}
	out[0] = 0;
	for (uint32_t i = 0; i < n; i++)
		plan_more(out, cap, "%s%s", i ? " " : "", name_of(t[i].device));
	plan_more(out, cap, ": each%s", tail(t));
}

static void print_threads(const struct plan *p, FILE *out)
{
	fputs("\nTHREADS\n", out);
	for (uint32_t i = 0; i < p->nthreads;) {
		const struct plan_thread *t = &p->threads[i];
		char head[48], text[CPU_MAX * 5 + 64], cpus[CPU_MAX * 5 + 1], node[24] = "any node", reason[2048];
		struct cpu_set all = t->cpus;
		uint32_t n = 1;

		for (; i + n < p->nthreads && alike(t, &p->threads[i + n]); n++)
			cpus_or(&all, &p->threads[i + n].cpus);
		cpus_format(&all, cpus, sizeof(cpus));
		plan_text(head, sizeof(head), "%s %u", plan_role_name(t->role), t->index);
		if (n > 1)
			plan_more(head, sizeof(head), "-%u", t->index + n - 1);
		if (node_known(t->node))
			plan_text(node, sizeof(node), "node %d", t->node.os);
		plan_text(text, sizeof(text), "%s, CPU%s %s", node, cpus_count(&all) > 1 ? "s" : "", cpus);
		thread_reason(t, n, reason, sizeof(reason));
		plan_item(out, 2, 17, head, text);
		plan_item(out, 4, 17, "because", reason);
		i += n;
	}
}

/* Devices of one kind that go to the same pool for the same reason share a row, as long as the names fit. */
static uint32_t row_of(const struct plan *p, uint32_t i, char *names, size_t cap)
{
	const struct plan_device *d = &p->devices[i];
	uint32_t n = 1;

	plan_text(names, cap, "%s", name_of(d->device));
	for (; i + n < p->ndevices; n++) {
		const struct plan_device *next = &p->devices[i + n];

		if (next->device->kind != d->device->kind || next->pool != d->pool ||
		    (d->thread != NO_INDEX && next->thread != d->thread + n) ||
		    strcmp(next->line.reason, d->line.reason) != 0 ||
		    strlen(names) + strlen(name_of(next->device)) > 60)
			break;
		plan_more(names, cap, " %s", name_of(next->device));
	}
	return n;
}

static void print_devices(const struct plan *p, FILE *out)
{
	if (p->ndevices)
		fputs("\nDEVICES\n", out);
	for (uint32_t i = 0; i < p->ndevices;) {
		const struct plan_device *d = &p->devices[i];
		char names[128], text[320];
		uint32_t n = row_of(p, i, names, sizeof(names));

		if (d->pool == NO_INDEX)
			plan_text(text, sizeof(text), "any pool");
		else if (node_known(p->pools[d->pool].node))
			plan_text(text, sizeof(text), "pool of node %d", p->pools[d->pool].node.os);
		else
			plan_text(text, sizeof(text), "the pool");
		if (d->thread != NO_INDEX)
			plan_more(text, sizeof(text), ", thread%s %s %u", n > 1 ? "s" : "",
				  plan_role_name(d->device->kind == DEV_NVME ? ROLE_NVME : ROLE_NIC), d->thread);
		if (d->thread != NO_INDEX && n > 1)
			plan_more(text, sizeof(text), "-%u", d->thread + n - 1);
		plan_more(text, sizeof(text), ": %s", d->line.reason);
		plan_item(out, 2, 17, names, text);
		i += n;
	}
}

/* Is it what an action below says again? */
static bool said_below(const struct plan *p, const char *remedy)
{
	for (uint32_t i = 0; i < p->nactions; i++) {
		const struct plan_action *a = &p->actions[i];
		char command[sizeof(a->path) + sizeof(a->value) + 16];

		snprintf(command, sizeof(command), "echo %s > %s", a->value, a->path);
		if (strcmp(command, remedy) == 0)
			return true;
	}
	return false;
}

static void print_notes(const struct plan *p, FILE *out)
{
	static const char *const names[] = {"note", "WARNING", "SHORTAGE"};

	if (p->nnotes)
		fputs("\nTO KNOW\n", out);
	for (uint32_t i = 0; i < p->nnotes; i++) {
		const struct plan_note *n = &p->notes[i];

		plan_item(out, 2, 12, names[n->severity], n->text);
		if (n->remedy[0])
			plan_item(out, 4, 12, "remedy", said_below(p, n->remedy) ? "the line for it below" : n->remedy);
	}
}

static void print_action(const struct plan_action *a, FILE *out)
{
	switch (a->kind) {
	case ACT_KERNEL_ARG:
		fputs("  add to the kernel command line (boot loader):\n      ", out);
		plan_wrap(out, 6, 6, a->value);
		break;
	case ACT_UNIT:
		fprintf(out, "  add to %s:\n      [Service]\n      ", a->path);
		plan_wrap(out, 6, 6, a->value);
		break;
	default:
		fprintf(out, "  echo %s > ", a->value);
		/* A path that does not fit goes on in the next line, in a way that a shell takes. */
		if (strlen(a->value) + strlen(a->path) + 10 > WIDTH)
			fputs("\\\n  ", out);
		fprintf(out, "%s\n", a->path);
	}
	plan_item(out, 4, 12, "why", a->line.reason);
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
