/* numa_picture.c - see numa_picture.h. */
#include "tools/numa_picture.h"

#include "tools/cmd_numa.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define LABEL    2u /* first column of labels, then of values; both halves of a box */
#define VALUE    10u
#define MIDDLE   34u /* the line between the halves */
#define RIGHT    (MIDDLE + 2)
#define LAST     (PICTURE_WIDTH - 1)
#define LEFT_W   (MIDDLE - 1 - VALUE)
#define RIGHT_W  (LAST - 1 - RIGHT)
#define BAR      (LEFT_W - 1)
#define MAX_NAME 16u
#define MATRIX   12u /* nodes whose distances fit as a table */

struct pen {
	struct canvas *c;
	const struct numa_view *v;
	unsigned row;
};

/* ---- left half: what the node is, and what we put there ------------------------------------------------------------ */

static void label(struct pen *p, const char *name)
{
	canvas_text(p->c, p->row, LABEL, VALUE - LABEL, INK_DIM, "%s", name);
}

static unsigned segment(struct pen *p, unsigned col, unsigned end, uint64_t part, uint64_t total, enum glyph glyph,
			enum ink ink)
{
	unsigned n = total ? (unsigned)((double)part / (double)total * BAR + 0.5) : 0;
	n = part && !n ? 1 : n; /* what is there is seen */
	n = n > end - col ? end - col : n;
	canvas_run(p->c, p->row, col, n, (uint8_t)glyph, ink);
	return col + n;
}

static void draw_memory(struct pen *p, uint32_t node)
{
	struct view_memory mem = view_memory(p->v, node);
	char total[24], left[24];
	label(p, "memory");
	if (!mem.total) {
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%s",
			    p->v->m->nodes[node].kind == NODE_EMPTY ? "none" : "?");
		return;
	}
	if (mem.free_now == UINT64_MAX)
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%s", numa_size_text(mem.total, total));
	else
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%s, %s free", numa_size_text(mem.total, total),
			    numa_size_text(mem.free_now, left));
	if (mem.free_now == UINT64_MAX && !mem.l1)
		return;
	unsigned end = VALUE + BAR, col = VALUE;
	col = segment(p, col, end, mem.l1, mem.total, GLYPH_BAR_L1, INK_L1);
	col = segment(p, col, end, mem.huge, mem.total, GLYPH_BAR_HUGE, INK_PLAIN);
	col = segment(p, col, end, mem.used, mem.total, GLYPH_BAR_USED, INK_PLAIN);
	canvas_run(p->c, p->row++, col, end - col, GLYPH_BAR_FREE, INK_DIM);
}

static void draw_cpus(struct pen *p, uint32_t node)
{
	const struct mach_node *n = &p->v->m->nodes[node];
	char list[256];
	uint32_t all = cpus_count(&n->all_cpus), ours = cpus_count(&n->cpus);
	label(p, "CPUs");
	if (!all) {
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "none");
		return;
	}
	cpus_format(&n->all_cpus, list, sizeof(list));
	p->row += canvas_wrap(p->c, p->row, VALUE, LEFT_W, INK_PLAIN, list);
	if (ours != all) {
		cpus_format(&n->cpus, list, sizeof(list));
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_WARN, "ours: %s", ours ? list : "none");
	}
	label(p, "cores");
	if (p->v->l3s[node])
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%u, %u L3", p->v->cores[node], p->v->l3s[node]);
	else
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%u", p->v->cores[node]);
}

/* Sizes the kernel offers and this node has none of say nothing, but for the last: "none" says it of all. */
static void draw_huge(struct pen *p, uint32_t node)
{
	const struct mach_node *n = &p->v->m->nodes[node];
	char size[24];
	bool any = false, known = false;
	for (uint32_t i = 0; i < n->nhuge; i++) {
		const struct mach_hugepages *h = &n->huge[i];
		known |= h->known;
		if (!h->known || !h->total)
			continue;
		if (!any)
			label(p, "huge");
		any = true;
		canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%s: %llu/%llu free",
			    view_page_text(h->page_bytes, size), (unsigned long long)h->free,
			    (unsigned long long)h->total);
	}
	if (any || !n->memory_bytes)
		return;
	label(p, "huge");
	canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_PLAIN, "%s", known ? "none" : "?");
}

static void draw_pool(struct pen *p, const struct view_pool *pool)
{
	char size[24];
	canvas_text(p->c, p->row, LABEL, VALUE - LABEL, INK_L1, "L1");
	canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_L1, "%s", numa_size_text(pool->bytes, size));
	canvas_text(p->c, p->row++, VALUE, LEFT_W, INK_L1, "%s", pool->what);
}

static void draw_ours(struct pen *p, uint32_t node)
{
	node_id id = p->v->m->nodes[node].id;
	char list[512];
	for (uint32_t i = 0; i < p->v->npools; i++)
		if (node_same(p->v->pools[i].node, id))
			draw_pool(p, &p->v->pools[i]);
	if (!view_threads(p->v, id, list, sizeof(list)))
		return;
	canvas_text(p->c, p->row, LABEL, VALUE - LABEL, INK_L1, "threads");
	p->row += canvas_wrap(p->c, p->row, VALUE, LEFT_W, INK_L1, list);
}

/* ---- right half: devices ------------------------------------------------------------------------------------------- */

static unsigned name_width(const struct numa_view *v, uint32_t node)
{
	size_t w = 6;
	for (uint32_t g = 0; g < v->ngroups; g++)
		for (uint32_t i = 0; v->groups[g].node == node && i < v->groups[g].n; i++) {
			size_t n = strlen(v->m->devices[v->order[v->groups[g].first + i]].name);
			w = n > w ? n : w;
		}
	return w > MAX_NAME ? MAX_NAME : (unsigned)w;
}

/* A device whose bytes go to another node says so instead of its model. */
static void draw_device(struct pen *p, unsigned row, unsigned col, unsigned width, uint32_t device)
{
	const struct mach_device *d = &p->v->m->devices[device];
	char what[96];
	unsigned pci = col + width + 1, rest = pci + 8;
	canvas_text(p->c, row, col, width, INK_BOLD, "%s", d->name[0] ? d->name : "?");
	if (strlen(view_pci(d->pci)) > 7)
		rest = pci + 13;
	canvas_text(p->c, row, pci, rest - pci, INK_DIM, "%s", view_pci(d->pci));
	if (d->confidence == CONF_DISPUTED) {
		canvas_text(p->c, row, rest, LAST - 1 - rest, INK_WARN, "disputed");
		return;
	}
	view_device_text(d, what);
	node_id pool = p->v->devices ? p->v->devices[device].pool : NODE_UNKNOWN;
	if (node_known(pool) && node_known(d->node) && !node_same(pool, d->node))
		canvas_text(p->c, row, rest, LAST - 1 - rest, INK_WARN, "L1 on node %d", pool.os);
	else
		canvas_text(p->c, row, rest, LAST - 1 - rest, INK_PLAIN, "%s", what);
}

static void branch(struct pen *p, unsigned row, const struct view_group *g, uint32_t i)
{
	enum glyph glyph = g->n == 1 ? GLYPH_H : i == 0 ? GLYPH_T_DOWN : i + 1 == g->n ? GLYPH_BL : GLYPH_T_RIGHT;
	if (i == 0)
		canvas_text(p->c, row, RIGHT, 3, INK_DIM, "%s", g->relation);
	canvas_put(p->c, row, RIGHT + 4, (uint8_t)glyph, INK_DIM);
}

static unsigned draw_devices(struct pen *p, unsigned row, uint32_t node)
{
	unsigned width = name_width(p->v, node), from = row;
	for (uint32_t g = 0; g < p->v->ngroups; g++) {
		const struct view_group *group = &p->v->groups[g];
		for (uint32_t i = 0; group->node == node && i < group->n; i++) {
			branch(p, row, group, i);
			draw_device(p, row++, RIGHT + 6, width, p->v->order[group->first + i]);
		}
	}
	if (row == from)
		canvas_text(p->c, row++, RIGHT, RIGHT_W, INK_DIM, "no GPU, RDMA, NIC or NVMe");
	return row;
}

/* ---- boxes --------------------------------------------------------------------------------------------------------- */

static unsigned title(struct pen *p, unsigned row, const char *text, enum ink ink)
{
	unsigned n = canvas_text(p->c, row, 3, LAST - 6, ink, "%s", text);
	canvas_put(p->c, row, 2, ' ', INK_PLAIN);
	canvas_put(p->c, row, 3 + n, ' ', INK_PLAIN);
	return 4 + n;
}

static void draw_node(struct pen *p, uint32_t node)
{
	const struct mach_node *n = &p->v->m->nodes[node];
	unsigned top = p->row++;
	char marks[64], package[32] = "", text[160];
	draw_memory(p, node);
	draw_huge(p, node);
	draw_cpus(p, node);
	draw_ours(p, node);
	unsigned end = draw_devices(p, top + 1, node);
	unsigned bottom = end > p->row ? end : p->row;
	canvas_box(p->c, top, 0, bottom, LAST);
	for (unsigned row = top + 1; row < bottom; row++)
		canvas_put(p->c, row, MIDDLE, GLYPH_V, INK_DIM);
	canvas_put(p->c, top, MIDDLE, GLYPH_T_DOWN, INK_DIM);
	canvas_put(p->c, bottom, MIDDLE, GLYPH_T_UP, INK_DIM);
	if (n->package != UINT32_MAX)
		snprintf(package, sizeof(package), ", package %u", n->package);
	view_node_marks(n, marks);
	snprintf(text, sizeof(text), "node %d%s%s%s", n->id.os, package, marks[0] ? ", " : "", marks);
	title(p, top, text, n->allowed ? INK_BOLD : INK_WARN);
	p->row = bottom + 1;
}

static void draw_empty(struct pen *p, uint32_t first, uint32_t last)
{
	char text[96];
	if (first == last)
		snprintf(text, sizeof(text), "node %d", p->v->m->nodes[first].id.os);
	else
		snprintf(text, sizeof(text), "%u nodes, %d to %d", last - first + 1, p->v->m->nodes[first].id.os,
			 p->v->m->nodes[last].id.os);
	canvas_box(p->c, p->row, 0, p->row + 2, LAST);
	canvas_text(p->c, p->row + 1, LABEL, LAST - 3, INK_DIM, "no memory, no CPUs, no devices");
	title(p, p->row, text, INK_BOLD);
	p->row += 3;
}

/* What the best source said, its file's end in sight. */
static void source_text(const struct mach_device *d, unsigned max, char out[160])
{
	const struct fact_node *f = &d->fact[0];
	char said[16] = "nothing";
	if (!d->nfacts || !f->where[0]) {
		snprintf(out, 160, "no source");
		return;
	}
	if (node_known(f->node))
		snprintf(said, sizeof(said), "%d", f->node.os);
	else if (f->source == FACT_SYSFS)
		snprintf(said, sizeof(said), "-1");
	size_t n = strlen(f->where), room = max > strlen(said) + 2 ? max - strlen(said) - 2 : 8;
	snprintf(out, 160, "%s%s: %s", n > room ? ".." : "", n > room ? f->where + n - room + 2 : f->where, said);
}

static void draw_unknown(struct pen *p)
{
	unsigned top = p->row++, width = name_width(p->v, VIEW_NONE);
	bool any = false;
	for (uint32_t g = 0; g < p->v->ngroups; g++)
		for (uint32_t i = 0; p->v->groups[g].node == VIEW_NONE && i < p->v->groups[g].n; i++) {
			const struct mach_device *d = &p->v->m->devices[p->v->order[p->v->groups[g].first + i]];
			char source[160], what[96];
			unsigned pci = LABEL + width + 1, kind = pci + 13, from = kind + 15;
			any = true;
			view_device_text(d, what);
			source_text(d, LAST - 1 - from, source);
			canvas_text(p->c, p->row, LABEL, width, INK_BOLD, "%s", d->name[0] ? d->name : "?");
			canvas_text(p->c, p->row, pci, 12, INK_DIM, "%s", d->pci[0] ? d->pci : "no PCI");
			canvas_text(p->c, p->row, kind, 14, INK_PLAIN, "%s", what);
			canvas_text(p->c, p->row++, from, LAST - 1 - from, INK_WARN, "%s", source);
		}
	if (!any) {
		p->row = top;
		return;
	}
	canvas_box(p->c, top, 0, p->row, LAST);
	title(p, top, "node ?, devices whose node no source says", INK_WARN);
	p->row++;
}

/* Pools that are not bound and threads that may run anywhere. */
static void draw_unbound(struct pen *p)
{
	char list[512], size[24];
	for (uint32_t i = 0; i < p->v->npools; i++)
		if (!node_known(p->v->pools[i].node))
			canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_L1, "L1 %s on %s, bound to no node",
				    numa_size_text(p->v->pools[i].bytes, size), p->v->pools[i].what);
	if (!view_threads(p->v, NODE_UNKNOWN, list, sizeof(list)))
		return;
	unsigned col = canvas_text(p->c, p->row, 0, PICTURE_WIDTH, INK_L1, "threads on any node: ");
	p->row += canvas_wrap(p->c, p->row, col, PICTURE_WIDTH - col, INK_L1, list);
}

/* ---- below and above the boxes --------------------------------------------------------------------------------------- */

static void draw_matrix(struct pen *p)
{
	const struct machine *m = p->v->m;
	canvas_text(p->c, p->row, 0, 10, INK_DIM, "distances");
	for (uint32_t i = 0; i < m->nnodes; i++)
		canvas_text(p->c, p->row, 12 + 5 * i, 5, INK_DIM, "%4d", m->nodes[i].id.os);
	p->row++;
	for (uint32_t i = 0; i < m->nnodes; i++, p->row++) {
		canvas_text(p->c, p->row, 2, 10, INK_DIM, "node %d", m->nodes[i].id.os);
		for (uint32_t k = 0; k < m->nnodes; k++) {
			uint32_t d = m->nodes[i].distance ? m->nodes[i].distance[k] : 0;
			if (d)
				canvas_text(p->c, p->row, 12 + 5 * k, 5, INK_PLAIN, "%4u", d);
			else
				canvas_text(p->c, p->row, 12 + 5 * k, 5, INK_WARN, "   ?");
		}
	}
}

/* Many nodes: from the first one's view how far the others are, and that the table is elsewhere. */
static void draw_farthest(struct pen *p)
{
	const struct machine *m = p->v->m;
	uint32_t near = UINT32_MAX, far = 0;
	for (uint32_t i = 0; i < m->nnodes; i++)
		for (uint32_t k = 0; k < m->nnodes; k++) {
			uint32_t d = m->nodes[i].distance && i != k ? m->nodes[i].distance[k] : 0;
			near = d && d < near ? d : near;
			far = d > far ? d : far;
		}
	if (far)
		canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_PLAIN,
			    "distances   %u to %u between nodes; 'numa explain nodeN' has those of a node", near, far);
	else
		canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_WARN, "distances   ?");
}

static bool has_relation(const struct numa_view *v, const char *relation)
{
	for (uint32_t g = 0; g < v->ngroups; g++)
		if (v->groups[g].node != VIEW_NONE && strcmp(v->groups[g].relation, relation) == 0)
			return true;
	return false;
}

static void draw_legend(struct pen *p)
{
	unsigned col = 0;
	static const struct {
		enum glyph glyph;
		enum ink ink;
		const char *text;
	} rows[] = {{GLYPH_BAR_L1, INK_L1, "L1"},
		    {GLYPH_BAR_HUGE, INK_PLAIN, "huge pages kept for others"},
		    {GLYPH_BAR_USED, INK_PLAIN, "in use"},
		    {GLYPH_BAR_FREE, INK_DIM, "free"}};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		canvas_put(p->c, p->row, col, (uint8_t)rows[i].glyph, rows[i].ink);
		col += 2;
		col += canvas_text(p->c, p->row, col, 40, INK_DIM, "%s", rows[i].text) + 3;
	}
	p->row++;
	if (has_relation(p->v, "PIX"))
		canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_DIM,
			    "PIX below one PCIe switch, or a chain of them (PXB)");
	if (has_relation(p->v, "PHB"))
		canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_DIM, "PHB below one PCIe host bridge");
}

static unsigned count_kind(const struct machine *m, enum mach_device_kind kind)
{
	unsigned n = 0;
	for (uint32_t i = 0; i < m->ndevices; i++)
		n += m->devices[i].kind == kind;
	return n;
}

static const char *plural(unsigned n)
{
	return n == 1 ? "" : "s";
}

static void draw_head(struct pen *p)
{
	const struct machine *m = p->v->m;
	uint64_t memory = 0;
	unsigned cores = 0;
	char size[24];
	for (uint32_t i = 0; i < m->nnodes; i++) {
		memory += m->nodes[i].memory_bytes;
		cores += p->v->cores[i];
	}
	unsigned gpus = count_kind(m, DEV_GPU), nics = count_kind(m, DEV_NIC);
	unsigned n = canvas_text(p->c, p->row, 0, 60, INK_BOLD, "%s", m->host[0] ? m->host : "this machine");
	canvas_text(p->c, p->row++, n + 2, PICTURE_WIDTH - n - 2, INK_DIM, "%s%s%s", m->source,
		    m->kernel[0] ? ", Linux " : "", m->kernel);
	canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_PLAIN,
		    "%u node%s, %u core%s, %u CPU%s, %s; %u GPU%s, %u RDMA, %u NIC%s, %u NVMe", m->nnodes,
		    plural(m->nnodes), cores, plural(cores), m->ncpus, plural(m->ncpus), numa_size_text(memory, size),
		    gpus, plural(gpus), count_kind(m, DEV_RDMA), nics, plural(nics), count_kind(m, DEV_NVME));
	if (p->v->title[0])
		canvas_text(p->c, p->row++, 0, PICTURE_WIDTH, INK_L1, "%s", p->v->title);
}

static void draw_all(struct pen *p)
{
	const struct machine *m = p->v->m;
	draw_head(p);
	for (uint32_t i = 0; i < m->nnodes; i++) {
		uint32_t last = i;
		if (!view_is_empty(p->v, i)) {
			draw_node(p, i);
			continue;
		}
		while (last + 1 < m->nnodes && view_is_empty(p->v, last + 1))
			last++;
		draw_empty(p, i, last);
		i = last;
	}
	draw_unknown(p);
	draw_unbound(p);
	if (m->nnodes > 1 && m->nnodes <= MATRIX)
		draw_matrix(p);
	else if (m->nnodes > 1)
		draw_farthest(p);
	draw_legend(p);
}

int picture_print(const struct numa_view *v, const struct canvas_style *style, FILE *out)
{
	struct pen p = {.c = canvas_create(PICTURE_WIDTH), .v = v};
	if (!p.c)
		return -ENOMEM;
	draw_all(&p);
	int rc = canvas_write(p.c, style, out);
	canvas_destroy(p.c);
	return rc;
}

struct canvas_style picture_style(bool ascii, FILE *out)
{
	static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *locale = getenv(names[i]);
		if (!locale || !locale[0])
			continue;
		ascii |= !strcasestr(locale, "UTF-8") && !strcasestr(locale, "UTF8");
		break;
	}
	return (struct canvas_style){.ascii = ascii, .colour = isatty(fileno(out)) && !getenv("NO_COLOR")};
}
