/* numa_canvas.h - a grid of characters with ink: pictures for a terminal that never leave their columns.
 *
 * A cell holds one printable ASCII character or one glyph (lines, bars, an ellipsis), so that every picture has a plain ASCII
 * form and foreign text (a model name out of a capture) can neither move nor colour the terminal. What does not fit its
 * columns ends in an ellipsis. Rows appear as they are drawn on.
 *
 * Threads: one per canvas. Running out of memory is remembered and reported by canvas_write.
 */
#ifndef TOOLS_NUMA_CANVAS_H
#define TOOLS_NUMA_CANVAS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum glyph {
	GLYPH_H = 128, /* lines */
	GLYPH_V,
	GLYPH_TL, /* corners: top left ... */
	GLYPH_TR,
	GLYPH_BL,
	GLYPH_BR,
	GLYPH_T_DOWN, /* a line with a branch down ... */
	GLYPH_T_UP,
	GLYPH_T_RIGHT,
	GLYPH_T_LEFT,
	GLYPH_ELLIPSIS,
	GLYPH_BAR_L1, /* bars */
	GLYPH_BAR_HUGE,
	GLYPH_BAR_USED,
	GLYPH_BAR_FREE,
	GLYPH_END
};

enum ink { INK_PLAIN, INK_DIM, INK_BOLD, INK_L1, INK_WARN, INKS };

struct canvas;

struct canvas *canvas_create(unsigned width); /* NULL when out of memory */
void canvas_destroy(struct canvas *c);
unsigned canvas_rows(const struct canvas *c);

void canvas_put(struct canvas *c, unsigned row, unsigned col, uint8_t what, enum ink ink);
/* `n` times the same to the right. */
void canvas_run(struct canvas *c, unsigned row, unsigned col, unsigned n, uint8_t what, enum ink ink);
/* Text in at most `max` columns; returns how many it took. Bytes that are not printable ASCII become '?'. */
unsigned canvas_text(struct canvas *c, unsigned row, unsigned col, unsigned max, enum ink ink, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* Text broken at blanks into rows of `max` columns; returns the rows it took (at least one). */
unsigned canvas_wrap(struct canvas *c, unsigned row, unsigned col, unsigned max, enum ink ink, const char *text);
/* The frame of a box; rows and columns from corner to corner, both included. */
void canvas_box(struct canvas *c, unsigned top, unsigned left, unsigned bottom, unsigned right);

struct canvas_style {
	bool ascii, colour;
};

/* Rows without blanks at their end. 0 or -errno. */
int canvas_write(const struct canvas *c, const struct canvas_style *style, FILE *out);

#endif
