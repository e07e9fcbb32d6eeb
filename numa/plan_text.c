/* plan_text.c - the planner's words: bounded, printable, and the lists they go to. */
#include "numa/plan_int.h"

#include "daemon/base/mem.h"

#include <stdarg.h>
#include <string.h>

static void put(char *out, size_t cap, const char *fmt, va_list ap)
{
	int n;

	if (cap == 0)
		return;
	n = vsnprintf(out, cap, fmt, ap);
	if (n < 0)
		out[0] = 0;
	else if ((size_t)n >= cap && cap > 3)
		memcpy(out + cap - 4, "...", 4);
	/* Names of devices come from files that anyone may have written. */
	for (char *p = out; *p; p++) {
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
}

void plan_text(char *out, size_t cap, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(out, cap, fmt, ap);
	va_end(ap);
}

void plan_more(char *out, size_t cap, const char *fmt, ...)
{
	size_t len = strlen(out);
	va_list ap;

	/* What was cut already gets nothing after the dots. */
	if (len + 5 > cap)
		return;
	va_start(ap, fmt);
	put(out + len, cap - len, fmt, ap);
	va_end(ap);
}

const char *plan_bytes(uint64_t bytes, char buf[32])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
	int u = 0;
	double v = (double)bytes / 1024;

	while (u < 3 && v >= 1024) {
		v /= 1024;
		u++;
	}
	if (v == (double)(uint64_t)v)
		snprintf(buf, 32, "%.0f %s", v, units[u]);
	else
		snprintf(buf, 32, "%.*f %s", v < 10 ? 2 : 1, v, units[u]);
	return buf;
}

void plan_device_source(const struct mach_device *d, char *out, size_t cap)
{
	for (uint32_t i = 0; i < d->nfacts && i < MACH_FACTS; i++) {
		const struct fact_node *f = &d->fact[i];

		if (f->source == FACT_NONE || (node_known(d->node) && !node_same(f->node, d->node)))
			continue;
		plan_text(out, cap, "%s%s%s", f->where[0] ? f->where : fact_source_name(f->source),
			  node_known(d->node) ? "" : " says ", node_known(d->node) ? "" : "-1");
		return;
	}
	if (node_known(d->node))
		plan_text(out, cap, "machine: %s %s is on node %d", mach_device_kind_name(d->kind), d->name,
			  d->node.os);
	else
		plan_text(out, cap, "no source says on which node %s is", d->pci[0] ? d->pci : d->name);
}

void *plan_grow(struct planner *pl, void *array, uint32_t *n, size_t size)
{
	/* Eight, then doubled at powers of two, so the count alone tells the capacity. */
	if (*n == 0 || (*n >= 8 && (*n & (*n - 1)) == 0)) {
		void *more = mem_realloc(array, (*n ? (size_t)*n * 2 : 8) * size);

		if (!more) {
			pl->out_of_memory = true;
			return NULL;
		}
		array = more;
	}
	memset((char *)array + (size_t)*n * size, 0, size);
	(*n)++;
	return array;
}

void plan_note_add(struct planner *pl, enum plan_severity severity, const char *text, const char *remedy,
		   const char *where)
{
	struct plan_note *notes = plan_grow(pl, pl->p->notes, &pl->p->nnotes, sizeof(*notes)), *n;

	if (!notes)
		return;
	pl->p->notes = notes;
	n = &notes[pl->p->nnotes - 1];
	n->severity = severity;
	plan_text(n->text, sizeof(n->text), "%s", text);
	plan_text(n->remedy, sizeof(n->remedy), "%s", remedy);
	plan_text(n->where, sizeof(n->where), "%s", where);
}
