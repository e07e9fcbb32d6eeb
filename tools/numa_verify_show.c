/* numa_verify_show.c - what was found, as tables and as JSON. */
#include "tools/numa_verify.h"

#include <stdio.h>
#include <string.h>

static const char *const sources[] = {NULL, "move_pages", "numa_maps", "server"};

static json_t *node_json(node_id n)
{
	return node_known(n) ? json_integer(n.os) : json_null();
}

/* Long lists are cut: `cap` may be small. */
static json_t *cpus_json(bool there, const struct cpu_set *s)
{
	char text[1024];

	if (!there)
		return json_null();
	cpus_format(s, text, sizeof(text));
	return json_string(text);
}

static json_t *pool_json(const struct verify_pool *p)
{
	return json_pack("{s:o, s:I, s:I, s:I, s:s?, s:I, s:I, s:I, s:I, s:I, s:s}", "node", node_json(p->node),
			 "start", (json_int_t)p->start, "bytes", (json_int_t)p->bytes, "page_bytes",
			 (json_int_t)p->page_bytes, "source", sources[p->source], "pages", (json_int_t)p->pages,
			 "looked_at", (json_int_t)p->looked, "on_node", (json_int_t)p->on_node, "elsewhere",
			 (json_int_t)p->elsewhere, "absent", (json_int_t)p->absent, "where", p->where);
}

static json_t *thread_json(const struct verify_thread *t)
{
	return json_pack("{s:s, s:i, s:o, s:o, s:o, s:b}", "name", t->name, "tid", t->tid, "planned_cpus",
			 cpus_json(t->planned, &t->want), "allowed_cpus", cpus_json(t->seen, &t->may), "cpu",
			 t->cpu >= 0 ? json_integer(t->cpu) : json_null(), "astray", (int)t->astray);
}

static json_t *device_json(const struct verify_device *d)
{
	return json_pack("{s:s, s:s, s:o, s:i, s:i}", "name", d->device->name, "pci", d->device->pci, "node",
			 node_json(d->device->node), "interrupts", (int)d->irqs, "local_interrupts", (int)d->local);
}

json_t *verify_json(const struct verify *v)
{
	json_t *pools = json_array(), *threads = json_array(), *devices = json_array(), *findings = json_array();
	bool bad = false;

	for (uint32_t i = 0; i < v->npools; i++)
		bad |= json_array_append_new(pools, pool_json(&v->pools[i])) != 0;
	for (uint32_t i = 0; i < v->nthreads; i++)
		bad |= json_array_append_new(threads, thread_json(&v->threads[i])) != 0;
	for (uint32_t i = 0; i < v->ndevices; i++)
		bad |= json_array_append_new(devices, device_json(&v->devices[i])) != 0;
	for (uint32_t i = 0; i < v->nfindings; i++)
		bad |= json_array_append_new(findings, json_string(v->findings[i])) != 0;
	json_t *o =
		json_pack("{s:o, s:s, s:o, s:o, s:o, s:o}", "pid", v->pid ? json_integer(v->pid) : json_null(), "note",
			  v->why_not, "pools", pools, "threads", threads, "devices", devices, "findings", findings);
	if (!bad || !o)
		return o;
	json_decref(o);
	return NULL;
}

static const char *size_text(uint64_t bytes, char buf[24])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
	unsigned u = 0;
	double v = (double)bytes / 1024;

	for (; u < 3 && v >= 1024; u++)
		v /= 1024;
	snprintf(buf, 24, "%.4g %s", v, units[u]);
	return buf;
}

static void print_pools(const struct verify *v, FILE *out)
{
	char node[24], size[24], page[24];

	fprintf(out, "%-6s%-10s%10s %9s %10s %10s %9s %7s\n", "POOL", "NODE", "SIZE", "PAGE", "LOOKED AT", "IN PLACE",
		"ELSEWHERE", "ABSENT");
	for (uint32_t i = 0; i < v->npools; i++) {
		const struct verify_pool *p = &v->pools[i];
		fprintf(out, "%-6u%-10s%10s %9s ", i, node_known(p->node) ? machine_node_text(p->node, node) : "any",
			size_text(p->bytes, size), size_text(p->page_bytes, page));
		if (p->source == SEEN_NOT)
			fputs("         ?          ?         ?       ?\n", out);
		else
			fprintf(out, "%10llu %10llu %9llu %7llu\n", (unsigned long long)p->looked,
				(unsigned long long)p->on_node, (unsigned long long)p->elsewhere,
				(unsigned long long)p->absent);
	}
	if (v->npools)
		fprintf(out, "  asked: %s\n",
			v->pools[0].source == SEEN_MOVE_PAGES  ? "the kernel, by move_pages"
			: v->pools[0].source == SEEN_NUMA_MAPS ? "the kernel, by numa_maps"
			: v->pools[0].source == SEEN_BY_SERVER ? "only the server itself"
							       : "nobody");
	if (v->why_not[0])
		fprintf(out, "  note: %s\n", v->why_not);
}

static const char *cut(bool there, const struct cpu_set *s, char buf[21])
{
	char text[1024];

	if (!there)
		return "-";
	cpus_format(s, text, sizeof(text));
	snprintf(buf, 21, strlen(text) > 20 ? "%.17s..." : "%.20s", text);
	return buf;
}

static void print_threads(const struct verify *v, FILE *out)
{
	char want[21], may[21], cpu[16];

	fprintf(out, "\n%-18s%8s  %-21s%-21s%6s\n", "THREAD", "TID", "PLANNED CPUS", "ALLOWED CPUS", "LAST");
	for (uint32_t i = 0; i < v->nthreads; i++) {
		const struct verify_thread *t = &v->threads[i];
		snprintf(cpu, sizeof(cpu), "%d", t->cpu);
		fprintf(out, "%-18.17s%8d  %-21s%-21s%6s%s\n", t->name, t->tid,
			t->planned ? cut(true, &t->want, want) : "any", t->seen ? cut(true, &t->may, may) : "?",
			t->cpu < 0 ? "?" : cpu, t->astray ? " !" : "");
	}
}

static void print_devices(const struct verify *v, FILE *out)
{
	char node[24];

	fprintf(out, "\n%-18s%-16s%-10s%12s %10s\n", "DEVICE", "PCI", "NODE", "INTERRUPTS", "LOCAL");
	for (uint32_t i = 0; i < v->ndevices; i++) {
		const struct verify_device *d = &v->devices[i];
		fprintf(out, "%-18.17s%-16s%-10s", d->device->name, d->device->pci,
			machine_node_text(d->device->node, node));
		if (d->irqs)
			fprintf(out, "%12u %10u\n", d->irqs, d->local);
		else
			fprintf(out, "%12s %10s\n", node_known(d->device->node) ? "none" : "?", "-");
	}
}

/* Wrapped at blanks; a word that is longer than a line stays whole, so that it can be copied. */
static void print_wrapped(const char *text, FILE *out)
{
	size_t column = 2;

	fputs("- ", out);
	for (const char *at = text; *at;) {
		size_t n = strcspn(at, " ");
		if (column > 2 && column + n > 79) {
			fputs("\n  ", out);
			column = 2;
		}
		fprintf(out, "%.*s%s", (int)n, at, at[n] ? " " : "");
		column += n + 1;
		at += n + (at[n] != '\0');
	}
	fputc('\n', out);
}

void verify_print(const struct verify *v, FILE *out)
{
	print_pools(v, out);
	print_threads(v, out);
	if (v->ndevices)
		print_devices(v, out);
	fprintf(out, "\n%u finding%s\n", v->nfindings, v->nfindings == 1 ? "" : "s");
	for (uint32_t i = 0; i < v->nfindings; i++)
		print_wrapped(v->findings[i], out);
}
