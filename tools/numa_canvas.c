/* numa_canvas.c - see numa_canvas.h. */
#include "tools/numa_canvas.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define MAX_ROWS 4096u
#define MAX_TEXT 1024u

struct cell {
	uint8_t what, ink;
};

struct canvas {
	unsigned width, rows, room;
	struct cell *cells;
	bool failed;
};

static const struct {
	const char *utf8;
	char ascii;
} glyphs[GLYPH_END - 128] = {
	[GLYPH_H - 128] = {"─", '-'},        [GLYPH_V - 128] = {"│", '|'},        [GLYPH_TL - 128] = {"┌", '+'},
	[GLYPH_TR - 128] = {"┐", '+'},       [GLYPH_BL - 128] = {"└", '+'},       [GLYPH_BR - 128] = {"┘", '+'},
	[GLYPH_T_DOWN - 128] = {"┬", '+'},   [GLYPH_T_UP - 128] = {"┴", '+'},     [GLYPH_T_RIGHT - 128] = {"├", '+'},
	[GLYPH_T_LEFT - 128] = {"┤", '+'},   [GLYPH_ELLIPSIS - 128] = {"…", '~'}, [GLYPH_BAR_L1 - 128] = {"█", '#'},
	[GLYPH_BAR_HUGE - 128] = {"▓", '%'}, [GLYPH_BAR_USED - 128] = {"░", '='}, [GLYPH_BAR_FREE - 128] = {"·", '.'},
};

static const char *const inks[INKS] = {
	[INK_PLAIN] = "0", [INK_DIM] = "2", [INK_BOLD] = "1", [INK_L1] = "32", [INK_WARN] = "33"};

struct canvas *canvas_create(unsigned width)
{
	struct canvas *c = mem_calloc(1, sizeof(*c));
	if (c)
		c->width = width;
	return c;
}

void canvas_destroy(struct canvas *c)
{
	if (c)
		mem_free(c->cells);
	mem_free(c);
}

unsigned canvas_rows(const struct canvas *c)
{
	return c->rows;
}

/* Makes `row` exist. */
static bool reach(struct canvas *c, unsigned row)
{
	if (row < c->rows)
		return true;
	if (row >= MAX_ROWS || c->failed) {
		c->failed = true;
		return false;
	}
	if (row >= c->room) {
		unsigned room = row + 64;
		struct cell *cells = mem_realloc(c->cells, (size_t)room * c->width * sizeof(*cells));
		if (!cells) {
			c->failed = true;
			return false;
		}
		c->cells = cells;
		c->room = room;
	}
	for (size_t i = (size_t)c->rows * c->width; i < (size_t)(row + 1) * c->width; i++)
		c->cells[i] = (struct cell){.what = ' ', .ink = INK_PLAIN};
	c->rows = row + 1;
	return true;
}

void canvas_put(struct canvas *c, unsigned row, unsigned col, uint8_t what, enum ink ink)
{
	if (col >= c->width || !reach(c, row))
		return;
	bool fits = (what >= ' ' && what <= '~') || (what >= GLYPH_H && what < GLYPH_END);
	c->cells[(size_t)row * c->width + col] = (struct cell){.what = fits ? what : '?', .ink = (uint8_t)ink};
}

void canvas_run(struct canvas *c, unsigned row, unsigned col, unsigned n, uint8_t what, enum ink ink)
{
	for (unsigned i = 0; i < n; i++)
		canvas_put(c, row, col + i, what, ink);
}

/* One '?' for a character of several bytes: the rest of it is left out. */
static size_t printable(char *text)
{
	size_t n = 0;
	for (const char *at = text; *at; at++)
		if (((unsigned char)*at & 0xc0) != 0x80)
			text[n++] = (char)(*at >= ' ' && *at <= '~' ? *at : '?');
	text[n] = '\0';
	return n;
}

static unsigned draw(struct canvas *c, unsigned row, unsigned col, unsigned max, enum ink ink, const char *text,
		     size_t n)
{
	unsigned take = n > max ? max : (unsigned)n;
	for (unsigned i = 0; i < take; i++)
		canvas_put(c, row, col + i, (uint8_t)text[i], ink);
	if (n > max && max)
		canvas_put(c, row, col + max - 1, GLYPH_ELLIPSIS, ink);
	return take;
}

unsigned canvas_text(struct canvas *c, unsigned row, unsigned col, unsigned max, enum ink ink, const char *fmt, ...)
{
	char text[MAX_TEXT];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return draw(c, row, col, max, ink, text, printable(text));
}

/* How much of `text` goes on one row: up to the last comma that fits, or else the last blank. */
static size_t row_of(const char *text, size_t n, unsigned max)
{
	if (n <= max)
		return n;
	for (size_t i = max; i > 0; i--)
		if (text[i - 1] == ',')
			return i;
	for (size_t i = max; i > 0; i--)
		if (text[i] == ' ')
			return i;
	return max;
}

unsigned canvas_wrap(struct canvas *c, unsigned row, unsigned col, unsigned max, enum ink ink, const char *text)
{
	char copy[MAX_TEXT];
	snprintf(copy, sizeof(copy), "%s", text);
	size_t n = printable(copy), at = 0;
	unsigned rows = 0;
	while (max && (at < n || !rows)) {
		size_t take = row_of(copy + at, n - at, max);
		reach(c, row + rows);
		draw(c, row + rows++, col, max, ink, copy + at, take);
		at += take;
		while (at < n && copy[at] == ' ')
			at++;
	}
	return rows;
}

void canvas_box(struct canvas *c, unsigned top, unsigned left, unsigned bottom, unsigned right)
{
	canvas_run(c, top, left + 1, right - left - 1, GLYPH_H, INK_DIM);
	canvas_run(c, bottom, left + 1, right - left - 1, GLYPH_H, INK_DIM);
	for (unsigned row = top + 1; row < bottom; row++) {
		canvas_put(c, row, left, GLYPH_V, INK_DIM);
		canvas_put(c, row, right, GLYPH_V, INK_DIM);
	}
	canvas_put(c, top, left, GLYPH_TL, INK_DIM);
	canvas_put(c, top, right, GLYPH_TR, INK_DIM);
	canvas_put(c, bottom, left, GLYPH_BL, INK_DIM);
	canvas_put(c, bottom, right, GLYPH_BR, INK_DIM);
}

/* ---- output -------------------------------------------------------------------------------------------------- */

static void write_cell(struct cell cell, const struct canvas_style *style, unsigned *ink, FILE *out)
{
	if (style->colour && cell.ink != *ink) {
		fprintf(out, "\033[0;%sm", inks[cell.ink]);
		*ink = cell.ink;
	}
	if (cell.what < GLYPH_H)
		fputc(cell.what, out);
	else if (style->ascii)
		fputc(glyphs[cell.what - GLYPH_H].ascii, out);
	else
		fputs(glyphs[cell.what - GLYPH_H].utf8, out);
}

int canvas_write(const struct canvas *c, const struct canvas_style *style, FILE *out)
{
	if (c->failed)
		return -ENOMEM;
	for (unsigned row = 0; row < c->rows; row++) {
		const struct cell *cells = c->cells + (size_t)row * c->width;
		unsigned end = c->width, ink = INK_PLAIN;
		while (end && cells[end - 1].what == ' ')
			end--;
		for (unsigned col = 0; col < end; col++)
			write_cell(cells[col], style, &ink, out);
		fputs(ink != INK_PLAIN ? "\033[0m\n" : "\n", out);
	}
	return ferror(out) ? -EIO : 0;
}
