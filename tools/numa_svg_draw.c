/* numa_svg_draw.c - boxes and texts of a picture, and how they are written. */
#include "tools/numa_svg.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

static const struct {
	const char *class, *css;
	int radius;
} looks[LOOKS] = {
	[LOOK_PAGE] = {"page", "fill:#f6f8fa", 0},
	[LOOK_PLAIN] = {NULL, NULL, 0},
	[LOOK_CARD] = {"card", "fill:#fff;stroke:#d0d7de", 10},
	[LOOK_CARD_UNKNOWN] = {"unknown", "fill:#fffbeb;stroke:#d97706;stroke-dasharray:6 4", 10},
	[LOOK_CARD_HIDDEN] = {"hidden", "fill:#f1f5f9;stroke:#cbd5e1;stroke-dasharray:6 4", 10},
	[LOOK_BAR] = {"bar", "fill:#e8edf2", 4},
	[LOOK_L1] = {"l1", "fill:#0d9488", 4},
	[LOOK_HUGE] = {"huge", "fill:#99d5cf", 4},
	[LOOK_USED] = {"used", "fill:#a8b3c2", 4},
	[LOOK_OURS] = {"ours", "fill:#effaf8;stroke:#b6e3dc", 8},
	[LOOK_PILL] = {"pill", "fill:#d5f2ed", 9},
	[LOOK_GROUP] = {"group", "fill:#f8fafc;stroke:#dde3ea", 8},
	[LOOK_TILE] = {"tile", "fill:#fff;stroke:#dde3ea", 6},
	[LOOK_GPU] = {"gpu", "fill:#16a34a", 2},
	[LOOK_RDMA] = {"rdma", "fill:#7c3aed", 2},
	[LOOK_NIC] = {"nic", "fill:#2563eb", 2},
	[LOOK_NVME] = {"nvme", "fill:#ea580c", 2},
	[LOOK_HEAT_0] = {"heat0", "fill:#ecfdf5", 3},
	[LOOK_HEAT_1] = {"heat1", "fill:#fef9c3", 3},
	[LOOK_HEAT_2] = {"heat2", "fill:#fde4c8", 3},
	[LOOK_HEAT_3] = {"heat3", "fill:#fbd0cf", 3},
	[LOOK_TEXT] = {"t", "fill:#1f2328", 0},
	[LOOK_BOLD] = {"b", "fill:#1f2328;font-weight:600", 0},
	[LOOK_DIM] = {"d", "fill:#5b6570", 0},
	[LOOK_TEXT_L1] = {"o", "fill:#0f6b62;font-weight:600", 0},
	[LOOK_WARN] = {"w", "fill:#a04a06", 0},
};

static bool is_bold(enum svg_look look)
{
	return look == LOOK_BOLD || look == LOOK_TEXT_L1;
}

/* ---- widths: in thousandths of the size, by the widest of the fonts in the style's list ------------------------------ */

static int char_width(char c)
{
	if (c == SVG_CUT || strchr("mMW@", c))
		return 1000;
	if (strchr("w%#+<=>~&OQ", c))
		return 840;
	if (strchr(" .,:;|'!Iijl/\\", c))
		return 345;
	if (strchr("-()[]frt`\"", c))
		return 465;
	if (c >= 'A' && c <= 'Z')
		return 775;
	return 645;
}

int svg_text_width(const char *text, int size, bool bold)
{
	long sum = 0;
	for (; *text; text++)
		sum += char_width(*text);
	return (int)ceil((double)sum * size * (bold ? 1.13 : 1) / 1000);
}

static void printable(char *text)
{
	size_t n = 0;
	for (const char *at = text; *at; at++)
		if (((unsigned char)*at & 0xc0) != 0x80)
			text[n++] = (char)(*at >= ' ' && *at <= '~' ? *at : '?');
	text[n] = '\0';
}

static int fit(char *text, int size, bool bold, int max)
{
	int w = svg_text_width(text, size, bold);
	for (size_t n = strlen(text); w > max && n; n--) {
		text[n] = '\0';
		text[n - 1] = n > 1 ? SVG_CUT : '\0';
		w = svg_text_width(text, size, bold);
	}
	return w;
}

/* ---- building -------------------------------------------------------------------------------------------------------- */

static void *grow(struct svg *s, void *list, uint32_t n, uint32_t *room, size_t each)
{
	if (n < *room || s->failed)
		return list;
	uint32_t more = *room ? *room * 2 : 64;
	void *bigger = mem_realloc(list, more * each);
	s->failed = !bigger;
	*room = bigger ? more : *room;
	return bigger ? bigger : list;
}

uint32_t svg_box(struct svg *s, uint32_t parent, enum svg_look look, int x, int y, int w, int h)
{
	s->boxes = grow(s, s->boxes, s->nboxes, &s->room_boxes, sizeof(*s->boxes));
	if (s->failed)
		return 0;
	s->boxes[s->nboxes] = (struct svg_box){x, y, w, h, parent, look};
	return s->nboxes++;
}

void svg_resize(struct svg *s, uint32_t box, int w, int h)
{
	if (s->failed)
		return;
	s->boxes[box].w = w;
	s->boxes[box].h = h;
}

int svg_text(struct svg *s, uint32_t box, enum svg_look look, int size, int x, int y, int max, const char *fmt, ...)
{
	s->texts = grow(s, s->texts, s->ntexts, &s->room_texts, sizeof(*s->texts));
	if (s->failed)
		return 0;
	struct svg_text *t = &s->texts[s->ntexts];
	*t = (struct svg_text){.x = x, .y = y, .size = size, .box = box, .look = look};
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(t->text, sizeof(t->text), fmt, ap);
	va_end(ap);
	printable(t->text);
	t->w = fit(t->text, size, is_bold(look), max);
	if (t->text[0])
		s->ntexts++;
	return t->w;
}

void svg_destroy(struct svg *s)
{
	if (!s)
		return;
	mem_free(s->boxes);
	mem_free(s->texts);
	mem_free(s);
}

/* ---- writing --------------------------------------------------------------------------------------------------------- */

static void write_escaped(const char *text, FILE *out)
{
	for (; *text; text++) {
		switch (*text) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case SVG_CUT:
			fputs("…", out);
			break;
		default:
			fputc(*text, out);
		}
	}
}

static void write_style(FILE *out)
{
	fputs("<style>\n"
	      "text{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",\"DejaVu "
	      "Sans\",sans-serif}\n",
	      out);
	for (size_t i = 0; i < LOOKS; i++)
		if (looks[i].class)
			fprintf(out, ".%s{%s}\n", looks[i].class, looks[i].css);
	fputs("</style>\n", out);
}

static void write_box(const struct svg_box *b, FILE *out)
{
	if (!looks[b->look].class || b->w <= 0 || b->h <= 0)
		return;
	int r = looks[b->look].radius, half = (b->w < b->h ? b->w : b->h) / 2;
	fprintf(out, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"", looks[b->look].class, b->x,
		b->y, b->w, b->h);
	if (r)
		fprintf(out, " rx=\"%d\"", r < half ? r : half);
	fputs("/>\n", out);
}

int svg_write(const struct svg *s, FILE *out)
{
	if (s->failed || !s->nboxes)
		return -ENOMEM;
	const struct svg_box *page = &s->boxes[0];
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
		"role=\"img\">\n<title>",
		page->w, page->h, page->w, page->h);
	write_escaped(s->title, out);
	fputs("</title>\n", out);
	write_style(out);
	for (uint32_t i = 0; i < s->nboxes; i++)
		write_box(&s->boxes[i], out);
	for (uint32_t i = 0; i < s->ntexts; i++) {
		const struct svg_text *t = &s->texts[i];
		fprintf(out, "<text class=\"%s\" x=\"%d\" y=\"%d\" font-size=\"%d\">", looks[t->look].class, t->x, t->y,
			t->size);
		write_escaped(t->text, out);
		fputs("</text>\n", out);
	}
	fputs("</svg>\n", out);
	return ferror(out) ? -EIO : 0;
}
