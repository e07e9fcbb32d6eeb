/* numa_svg.c - where everything of the SVG picture goes: a card per node, below them distances and legend. */
#include "tools/numa_svg.h"

#include "daemon/base/mem.h"
#include "tools/cmd_numa.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MARGIN   28
#define GAP      20
#define PAD      16
#define CARD_W   580
#define INNER_W  (CARD_W - 2 * PAD)
#define TILES    3
#define TILE_GAP 8
#define TILE_H   58
#define GROUP_P  10 /* inside a group's frame */
#define HEAT_MAX 16u
#define CELL_W   38
#define CELL_H   24

struct desk {
	struct svg *s;
	const struct numa_view *v;
};

/* ---- parts of a card; each takes the y it begins at and returns the y it ends at ---------------------------------- */

static int put_bar(struct desk *d, uint32_t card, uint32_t node, int x, int y)
{
	static const enum svg_look part_looks[] = {LOOK_L1, LOOK_HUGE, LOOK_USED};
	struct view_memory mem = view_memory(d->v, node);
	if (!mem.total || (mem.free_now == UINT64_MAX && !mem.l1))
		return y;
	uint32_t bar = svg_box(d->s, card, LOOK_BAR, x, y, INNER_W, 14);
	uint64_t parts[] = {mem.l1, mem.huge, mem.used};
	int at = x;
	for (int i = 0; i < 3; i++) {
		int w = (int)((double)parts[i] / (double)mem.total * INNER_W + 0.5);
		w = parts[i] && w < 3 ? 3 : w;
		w = w > x + INNER_W - at ? x + INNER_W - at : w;
		if (w > 0)
			svg_box(d->s, bar, part_looks[i], at, y, w, 14);
		at += w;
	}
	return y + 14 + 10;
}

/* A label and what belongs to it, in one of two columns. */
static void put_fact(struct desk *d, uint32_t card, int x, int y, int w, const char *label, const char *value)
{
	uint32_t box = svg_box(d->s, card, LOOK_PLAIN, x, y, w, 20);
	svg_text(d->s, box, LOOK_DIM, 12, x, y + 14, 60, "%s", label);
	svg_text(d->s, box, LOOK_TEXT, 13, x + 64, y + 14, w - 64, "%s", value);
}

static void memory_text(const struct desk *d, uint32_t node, char out[64])
{
	struct view_memory mem = view_memory(d->v, node);
	char total[24], left[24];
	if (!mem.total)
		snprintf(out, 64, "%s", d->v->m->nodes[node].kind == NODE_EMPTY ? "none" : "?");
	else if (mem.free_now == UINT64_MAX)
		snprintf(out, 64, "%s", numa_size_text(mem.total, total));
	else
		snprintf(out, 64, "%s, %s free", numa_size_text(mem.total, total), numa_size_text(mem.free_now, left));
}

/* The i-th size of which the node has pages; without any, "none" or "?" as the first. */
static bool huge_text(const struct mach_node *n, uint32_t i, char out[64])
{
	char size[24];
	bool known = false;
	uint32_t seen = 0;
	for (uint32_t k = 0; k < n->nhuge; k++) {
		const struct mach_hugepages *h = &n->huge[k];
		known |= h->known;
		if (!h->known || !h->total || seen++ != i)
			continue;
		snprintf(out, 64, "%s: %llu of %llu free", view_page_text(h->page_bytes, size),
			 (unsigned long long)h->free, (unsigned long long)h->total);
		return true;
	}
	snprintf(out, 64, "%s", known ? "none" : "?");
	return i == 0 && !seen && n->memory_bytes;
}

static void cpus_text(const struct desk *d, uint32_t node, char cpus[256], char cores[64])
{
	const struct mach_node *n = &d->v->m->nodes[node];
	uint32_t all = cpus_count(&n->all_cpus), ours = cpus_count(&n->cpus);
	cpus_format(&n->all_cpus, cpus, 256);
	if (!all)
		snprintf(cpus, 256, "none");
	if (!all)
		cores[0] = '\0';
	else if (d->v->l3s[node])
		snprintf(cores, 64, "%u, %u L3", d->v->cores[node], d->v->l3s[node]);
	else
		snprintf(cores, 64, "%u", d->v->cores[node]);
	if (all && ours != all) {
		size_t at = strlen(cores);
		snprintf(cores + at, 64 - at, "; %u of %u CPUs ours", ours, all);
	}
}

static int put_facts(struct desk *d, uint32_t card, uint32_t node, int x, int y)
{
	char cpus[256], cores[64], memory[64], huge[64];
	int w = (INNER_W - GAP) / 2, right = x + w + GAP;
	cpus_text(d, node, cpus, cores);
	memory_text(d, node, memory);
	put_fact(d, card, x, y, w, "memory", memory);
	put_fact(d, card, right, y, w, "CPUs", cpus);
	y += 22;
	bool first = huge_text(&d->v->m->nodes[node], 0, huge);
	if (first)
		put_fact(d, card, x, y, w, "huge", huge);
	if (cores[0])
		put_fact(d, card, right, y, w, "cores", cores);
	y += first || cores[0] ? 22 : 0;
	for (uint32_t i = 1; i < MACH_PAGE_SIZES && huge_text(&d->v->m->nodes[node], i, huge); i++, y += 22)
		put_fact(d, card, x, y, w, "", huge);
	return y;
}

/* One pill per role, "transfer 0-3". */
static int put_pills(struct desk *d, uint32_t box, const char *list, int left, int right, int y)
{
	int x = left;
	for (const char *at = list; *at;) {
		char one[64];
		const char *end = strstr(at, ", ");
		size_t n = end ? (size_t)(end - at) : strlen(at);
		snprintf(one, sizeof(one), "%.*s", (int)n, at);
		int w = svg_text_width(one, 12, false) + 18;
		w = w > right - left ? right - left : w;
		if (x + w > right) {
			x = left;
			y += 26;
		}
		uint32_t pill = svg_box(d->s, box, LOOK_PILL, x, y, w, 20);
		svg_text(d->s, pill, LOOK_TEXT, 12, x + 9, y + 14, w - 18, "%s", one);
		x += w + 8;
		at += n + (end ? 2 : 0);
	}
	return y + 20;
}

/* L1 and threads of a node; unknown: those bound to none. */
static int put_ours(struct desk *d, uint32_t parent, node_id id, int x, int y, int width)
{
	char list[512], size[24];
	uint32_t pools = 0, threads = view_threads(d->v, id, list, sizeof(list));
	for (uint32_t i = 0; i < d->v->npools; i++)
		pools += d->v->pools[i].node.os == id.os;
	if (!pools && !threads)
		return y;
	uint32_t box = svg_box(d->s, parent, LOOK_OURS, x, y, width, 0);
	int top = y;
	y += 8;
	for (uint32_t i = 0; i < d->v->npools; i++) {
		const struct view_pool *p = &d->v->pools[i];
		if (p->node.os != id.os)
			continue;
		uint32_t line = svg_box(d->s, box, LOOK_PLAIN, x + 12, y, width - 24, 22);
		int w = svg_text(d->s, line, LOOK_TEXT_L1, 14, x + 12, y + 16, width / 2, "L1  %s",
				 numa_size_text(p->bytes, size));
		svg_text(d->s, line, LOOK_TEXT, 13, x + 12 + w + 10, y + 16, width - 24 - w - 10, "on %s%s", p->what,
			 node_known(id) ? "" : ", bound to no node");
		y += 24;
	}
	if (threads && !node_known(id)) {
		uint32_t line = svg_box(d->s, box, LOOK_PLAIN, x + 12, y, width - 24, 20);
		svg_text(d->s, line, LOOK_DIM, 12, x + 12, y + 14, width - 24, "threads that may run on any node");
		y += 22;
	}
	if (threads)
		y = put_pills(d, box, list, x + 12, x + width - 12, y + 2) + 4;
	svg_resize(d->s, box, width, y + 6 - top);
	return y + 6 + 12;
}

/* ---- devices ------------------------------------------------------------------------------------------------------- */

static void put_tile(struct desk *d, uint32_t parent, uint32_t device, int x, int y, int w)
{
	const struct mach_device *dev = &d->v->m->devices[device];
	char what[96];
	uint32_t tile = svg_box(d->s, parent, LOOK_TILE, x, y, w, TILE_H);
	svg_box(d->s, tile, LOOK_GPU + (enum svg_look)dev->kind, x + 6, y + 8, 4, TILE_H - 16);
	node_id pool = d->v->devices ? d->v->devices[device].pool : NODE_UNKNOWN;
	view_device_text(dev, what);
	svg_text(d->s, tile, LOOK_BOLD, 13, x + 17, y + 18, w - 24, "%s", dev->name[0] ? dev->name : "?");
	svg_text(d->s, tile, LOOK_DIM, 11, x + 17, y + 34, w - 24, "%s", dev->pci[0] ? view_pci(dev->pci) : "no PCI");
	if (dev->confidence == CONF_DISPUTED)
		svg_text(d->s, tile, LOOK_WARN, 11, x + 17, y + 49, w - 24, "sources disagree");
	else if (node_known(pool) && node_known(dev->node) && !node_same(pool, dev->node))
		svg_text(d->s, tile, LOOK_WARN, 11, x + 17, y + 49, w - 24, "L1 on node %d", pool.os);
	else
		svg_text(d->s, tile, LOOK_DIM, 11, x + 17, y + 49, w - 24, "%s", what);
}

static int put_tiles(struct desk *d, uint32_t parent, const uint32_t *devices, uint32_t n, int x, int y, int width)
{
	int w = (width - (TILES - 1) * TILE_GAP) / TILES;
	for (uint32_t i = 0; i < n; i++)
		put_tile(d, parent, devices[i], x + (int)(i % TILES) * (w + TILE_GAP),
			 y + (int)(i / TILES) * (TILE_H + TILE_GAP), w);
	uint32_t rows = (n + TILES - 1) / TILES;
	return y + (int)rows * (TILE_H + TILE_GAP) - TILE_GAP;
}

static int put_group(struct desk *d, uint32_t card, const struct view_group *g, int x, int y)
{
	const struct mach_device *first = &d->v->m->devices[d->v->order[g->first]];
	bool pix = strcmp(g->relation, "PIX") == 0;
	uint32_t box = svg_box(d->s, card, LOOK_GROUP, x, y, INNER_W, 0);
	uint32_t head = svg_box(d->s, box, LOOK_PLAIN, x + GROUP_P, y + 6, INNER_W - 2 * GROUP_P, 18);
	int w = svg_text(d->s, head, LOOK_BOLD, 11, x + GROUP_P, y + 19, 40, "%s", g->relation);
	svg_text(d->s, head, LOOK_DIM, 11, x + GROUP_P + w + 6, y + 19, 400, "%s %s",
		 pix ? "PCIe switch" : "PCIe host bridge", pix ? view_pci(first->bridge) : "");
	int end = put_tiles(d, box, d->v->order + g->first, g->n, x + GROUP_P, y + 28, INNER_W - 2 * GROUP_P);
	svg_resize(d->s, box, INNER_W, end + GROUP_P - y);
	return end + GROUP_P + 8;
}

static int put_devices(struct desk *d, uint32_t card, uint32_t node, int x, int y)
{
	int top = y;
	for (uint32_t i = 0; i < d->v->ngroups; i++)
		if (d->v->groups[i].node == node && d->v->groups[i].n > 1)
			y = put_group(d, card, &d->v->groups[i], x, y);
	/* what shares nothing stands in rows of its own */
	for (uint32_t i = 0; i < d->v->ngroups; i++) {
		uint32_t n = 0, row[TILES];
		for (; i < d->v->ngroups && n < TILES; i++)
			if (d->v->groups[i].node == node && d->v->groups[i].n == 1)
				row[n++] = d->v->order[d->v->groups[i].first];
		i--;
		if (n)
			y = put_tiles(d, card, row, n, x + GROUP_P, y, INNER_W - 2 * GROUP_P) + 8;
	}
	if (y > top)
		return y - 8;
	uint32_t box = svg_box(d->s, card, LOOK_PLAIN, x, y, INNER_W, 20);
	svg_text(d->s, box, LOOK_DIM, 12, x, y + 14, INNER_W, "no GPU, RDMA NIC, NIC or NVMe drive");
	return y + 20;
}

/* ---- cards --------------------------------------------------------------------------------------------------------- */

/* Nodes first..last in one card: several only when they are empty. Returns the card. */
static uint32_t put_card(struct desk *d, uint32_t first, uint32_t last, int x, int y)
{
	const struct mach_node *n = &d->v->m->nodes[first];
	char marks[64];
	uint32_t card = svg_box(d->s, 0, n->allowed ? LOOK_CARD : LOOK_CARD_HIDDEN, x, y, CARD_W, 0);
	uint32_t head = svg_box(d->s, card, LOOK_PLAIN, x + PAD, y + 10, INNER_W, 28);
	int top = y;
	y += 46;
	if (view_is_empty(d->v, first)) {
		int w = first == last
				? svg_text(d->s, head, LOOK_BOLD, 17, x + PAD, top + 30, 200, "node %d", n->id.os)
				: svg_text(d->s, head, LOOK_BOLD, 17, x + PAD, top + 30, 260, "%u nodes, %d to %d",
					   last - first + 1, n->id.os, d->v->m->nodes[last].id.os);
		svg_text(d->s, head, LOOK_DIM, 12, x + PAD + w + 12, top + 30, INNER_W - w - 12,
			 "no memory, no CPUs, no devices");
		svg_resize(d->s, card, CARD_W, y - top);
		return card;
	}
	int w = svg_text(d->s, head, LOOK_BOLD, 17, x + PAD, top + 30, 200, "node %d", n->id.os) + 12;
	if (n->package != UINT32_MAX)
		w += svg_text(d->s, head, LOOK_DIM, 12, x + PAD + w, top + 30, 120, "package %u", n->package) + 12;
	view_node_marks(n, marks);
	svg_text(d->s, head, LOOK_WARN, 12, x + PAD + w, top + 30, INNER_W - w, "%s", marks);
	y = put_bar(d, card, first, x + PAD, y);
	y = put_facts(d, card, first, x + PAD, y) + 6;
	y = put_ours(d, card, n->id, x + PAD, y, INNER_W);
	y = put_devices(d, card, first, x + PAD, y);
	svg_resize(d->s, card, CARD_W, y + PAD - top);
	return card;
}

static uint32_t columns(const struct numa_view *v)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < v->m->nnodes; i++)
		n += !view_is_empty(v, i) || i == 0 || !view_is_empty(v, i - 1);
	return n <= 1 ? 1 : n <= 8 ? 2 : n <= 24 ? 3 : 4;
}

/* All cards of a row get the height of the tallest. */
static int level(struct desk *d, const uint32_t *row, uint32_t n, int y)
{
	int h = 0;
	for (uint32_t i = 0; i < n && !d->s->failed; i++)
		h = d->s->boxes[row[i]].h > h ? d->s->boxes[row[i]].h : h;
	for (uint32_t i = 0; i < n; i++)
		svg_resize(d->s, row[i], CARD_W, h);
	return y + h + GAP;
}

static int put_nodes(struct desk *d, uint32_t across, int y)
{
	uint32_t row[4], n = 0;
	for (uint32_t i = 0; i < d->v->m->nnodes; i++) {
		uint32_t last = i;
		while (view_is_empty(d->v, i) && last + 1 < d->v->m->nnodes && view_is_empty(d->v, last + 1))
			last++;
		row[n] = put_card(d, i, last, MARGIN + (int)n * (CARD_W + GAP), y);
		i = last;
		if (++n == across) {
			y = level(d, row, n, y);
			n = 0;
		}
	}
	return n ? level(d, row, n, y) : y;
}

/* ---- devices of no known node -------------------------------------------------------------------------------------- */

static void said(const struct mach_device *dev, char out[160])
{
	const struct fact_node *f = &dev->fact[0];
	if (!dev->nfacts || !f->where[0])
		snprintf(out, 160, "no source to ask");
	else if (node_known(f->node))
		snprintf(out, 160, "%s: %d", f->where, f->node.os);
	else
		snprintf(out, 160, "%s: %s", f->where, f->source == FACT_SYSFS ? "-1" : "nothing");
}

static void put_unknown_tile(struct desk *d, uint32_t card, uint32_t device, int x, int y, int w)
{
	const struct mach_device *dev = &d->v->m->devices[device];
	char what[96], source[160];
	uint32_t tile = svg_box(d->s, card, LOOK_TILE, x, y, w, TILE_H);
	svg_box(d->s, tile, LOOK_GPU + (enum svg_look)dev->kind, x + 6, y + 8, 4, TILE_H - 16);
	view_device_text(dev, what);
	said(dev, source);
	svg_text(d->s, tile, LOOK_BOLD, 13, x + 17, y + 18, w - 24, "%s", dev->name[0] ? dev->name : "?");
	svg_text(d->s, tile, LOOK_DIM, 11, x + 17, y + 34, w - 24, "%s  %s",
		 dev->pci[0] ? view_pci(dev->pci) : "no PCI", what);
	svg_text(d->s, tile, LOOK_WARN, 11, x + 17, y + 49, w - 24, "%s", source);
}

static int put_unknown(struct desk *d, uint32_t across, int y)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < d->v->ngroups; i++)
		n += d->v->groups[i].node == VIEW_NONE ? d->v->groups[i].n : 0;
	if (!n)
		return y;
	int width = (int)across * (CARD_W + GAP) - GAP, top = y;
	int w = (width - 2 * PAD - (int)(across - 1) * TILE_GAP) / (int)across;
	uint32_t card = svg_box(d->s, 0, LOOK_CARD_UNKNOWN, MARGIN, y, width, 0);
	uint32_t head = svg_box(d->s, card, LOOK_PLAIN, MARGIN + PAD, y + 10, width - 2 * PAD, 28);
	int used = svg_text(d->s, head, LOOK_BOLD, 17, MARGIN + PAD, y + 30, 200, "node ?") + 12;
	svg_text(d->s, head, LOOK_WARN, 12, MARGIN + PAD + used, y + 30, width - 2 * PAD - used,
		 "devices whose node no source says");
	y += 46;
	n = 0;
	for (uint32_t i = 0; i < d->v->ngroups; i++)
		for (uint32_t k = 0; d->v->groups[i].node == VIEW_NONE && k < d->v->groups[i].n; k++, n++)
			put_unknown_tile(d, card, d->v->order[d->v->groups[i].first + k],
					 MARGIN + PAD + (int)(n % across) * (w + TILE_GAP),
					 y + (int)(n / across) * (TILE_H + TILE_GAP), w);
	y += (int)((n + across - 1) / across) * (TILE_H + TILE_GAP) - TILE_GAP + PAD;
	svg_resize(d->s, card, width, y - top);
	return y + GAP;
}

/* ---- distances and legend -------------------------------------------------------------------------------------------- */

static enum svg_look heat(uint32_t distance)
{
	return distance <= 10 ? LOOK_HEAT_0 : distance <= 16 ? LOOK_HEAT_1 : distance <= 24 ? LOOK_HEAT_2 : LOOK_HEAT_3;
}

static void put_cell(struct desk *d, uint32_t card, int x, int y, uint32_t distance)
{
	char text[16] = "?";
	uint32_t cell = svg_box(d->s, card, distance ? heat(distance) : LOOK_BAR, x, y, CELL_W, CELL_H);
	if (distance)
		snprintf(text, sizeof(text), "%u", distance);
	int w = svg_text_width(text, 12, false);
	w = w < CELL_W - 4 ? w : CELL_W - 4;
	svg_text(d->s, cell, LOOK_TEXT, 12, x + (CELL_W - w) / 2, y + 16, CELL_W - 4, "%s", text);
}

static int put_distances(struct desk *d, int x, int y, int *right)
{
	const struct machine *m = d->v->m;
	int top = y, w = 2 * PAD + 62 + (int)m->nnodes * (CELL_W + 3) - 3;
	*right = x;
	if (m->nnodes < 2 || m->nnodes > HEAT_MAX)
		return y;
	uint32_t card = svg_box(d->s, 0, LOOK_CARD, x, y, w, 0);
	uint32_t head = svg_box(d->s, card, LOOK_PLAIN, x + PAD, y + 10, w - 2 * PAD, 20);
	svg_text(d->s, head, LOOK_BOLD, 13, x + PAD, y + 24, w - 2 * PAD, "distances");
	y += 34;
	for (uint32_t k = 0; k < m->nnodes; k++) {
		int left = x + PAD + 62 + (int)k * (CELL_W + 3);
		uint32_t cell = svg_box(d->s, card, LOOK_PLAIN, left, y, CELL_W, 18);
		svg_text(d->s, cell, LOOK_DIM, 11, left + 10, y + 13, CELL_W - 10, "%d", m->nodes[k].id.os);
	}
	y += 20;
	for (uint32_t i = 0; i < m->nnodes; i++, y += CELL_H + 3) {
		uint32_t cell = svg_box(d->s, card, LOOK_PLAIN, x + PAD, y, 58, CELL_H);
		svg_text(d->s, cell, LOOK_DIM, 11, x + PAD, y + 16, 58, "node %d", m->nodes[i].id.os);
		for (uint32_t k = 0; k < m->nnodes; k++)
			put_cell(d, card, x + PAD + 62 + (int)k * (CELL_W + 3), y,
				 m->nodes[i].distance ? m->nodes[i].distance[k] : 0);
	}
	y += PAD - 3;
	svg_resize(d->s, card, w, y - top);
	*right = x + w + GAP;
	return y + GAP;
}

static int put_legend(struct desk *d, int x, int y, int end)
{
	static const struct {
		enum svg_look look;
		const char *text;
	} keys[] = {{LOOK_L1, "L1"},
		    {LOOK_HUGE, "huge pages kept for others"},
		    {LOOK_USED, "memory in use"},
		    {LOOK_BAR, "free"},
		    {LOOK_GPU, "GPU"},
		    {LOOK_RDMA, "RDMA NIC"},
		    {LOOK_NIC, "NIC"},
		    {LOOK_NVME, "NVMe drive"}};
	static const char *const words[] = {"PIX: below one PCIe switch, or a chain of them (PXB)",
					    "PHB: below one PCIe host bridge; other devices of a node: NODE",
					    "SYS: devices of different nodes"};
	int top = y, w = end - x, at = x + PAD;
	uint32_t card = svg_box(d->s, 0, LOOK_CARD, x, y, w, 0);
	y += 12;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		int need = 18 + svg_text_width(keys[i].text, 12, false);
		if (at + need > end - PAD) {
			at = x + PAD;
			y += 24;
		}
		uint32_t key = svg_box(d->s, card, LOOK_PLAIN, at, y, need, 20);
		svg_box(d->s, key, keys[i].look, at, y + 4, 12, 12);
		svg_text(d->s, key, LOOK_DIM, 12, at + 18, y + 14, need - 18, "%s", keys[i].text);
		at += need + 16;
	}
	y += 26;
	for (size_t i = 0; d->v->m->ndevices > 1 && i < sizeof(words) / sizeof(words[0]); i++, y += 20) {
		uint32_t line = svg_box(d->s, card, LOOK_PLAIN, x + PAD, y, w - 2 * PAD, 18);
		svg_text(d->s, line, LOOK_DIM, 12, x + PAD, y + 13, w - 2 * PAD, "%s", words[i]);
	}
	svg_resize(d->s, card, w, y + 8 - top);
	return y + 8 + GAP;
}

/* ---- the page -------------------------------------------------------------------------------------------------------- */

static int put_head(struct desk *d, int width, int y)
{
	const struct machine *m = d->v->m;
	char size[24];
	uint64_t memory = 0;
	uint32_t cores = 0, kinds[4] = {0};
	for (uint32_t i = 0; i < m->nnodes; i++) {
		memory += m->nodes[i].memory_bytes;
		cores += d->v->cores[i];
	}
	for (uint32_t i = 0; i < m->ndevices; i++)
		kinds[m->devices[i].kind & 3]++;
	uint32_t head = svg_box(d->s, 0, LOOK_PLAIN, MARGIN, y, width, 30);
	int w = svg_text(d->s, head, LOOK_BOLD, 21, MARGIN, y + 22, width / 2, "%s",
			 m->host[0] ? m->host : "this machine");
	svg_text(d->s, head, LOOK_DIM, 12, MARGIN + w + 12, y + 22, width - w - 12, "%s%s%s", m->source,
		 m->kernel[0] ? ", Linux " : "", m->kernel);
	y += 32;
	uint32_t line = svg_box(d->s, 0, LOOK_PLAIN, MARGIN, y, width, 22);
	svg_text(d->s, line, LOOK_TEXT, 13, MARGIN, y + 16, width,
		 "%u node%s, %u cores, %u CPUs, %s; GPU: %u, RDMA: %u, NIC: %u, NVMe: %u", m->nnodes,
		 m->nnodes == 1 ? "" : "s", cores, m->ncpus, numa_size_text(memory, size), kinds[DEV_GPU],
		 kinds[DEV_RDMA], kinds[DEV_NIC], kinds[DEV_NVME]);
	y += 24;
	if (d->v->title[0]) {
		line = svg_box(d->s, 0, LOOK_PLAIN, MARGIN, y, width, 22);
		svg_text(d->s, line, LOOK_TEXT_L1, 13, MARGIN, y + 16, width, "%s", d->v->title);
		y += 24;
	}
	return y + 8;
}

int svg_layout(const struct numa_view *v, struct svg **out, struct why *why)
{
	struct svg *s = mem_calloc(1, sizeof(*s));
	if (!s)
		return why_set(why, -ENOMEM, "out of memory");
	struct desk d = {s, v};
	uint32_t across = columns(v);
	int width = (int)across * (CARD_W + GAP) - GAP, right;
	snprintf(s->title, sizeof(s->title), "NUMA nodes of a machine");
	svg_box(s, SVG_NONE, LOOK_PAGE, 0, 0, width + 2 * MARGIN, 0);
	int y = put_head(&d, width, MARGIN - 6);
	y = put_nodes(&d, across, y);
	y = put_unknown(&d, across, y);
	if (v->npools || v->nthreads)
		y = put_ours(&d, 0, NODE_UNKNOWN, MARGIN, y, width);
	int low = put_distances(&d, MARGIN, y, &right);
	bool beside = MARGIN + width - right >= 320;
	int end = put_legend(&d, beside ? right : MARGIN, beside ? y : low, MARGIN + width);
	svg_resize(s, 0, width + 2 * MARGIN, (end > low ? end : low) - GAP + MARGIN);
	if (s->failed) {
		svg_destroy(s);
		return why_set(why, -ENOMEM, "out of memory");
	}
	*out = s;
	return 0;
}
