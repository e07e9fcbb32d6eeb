/* numa_svg.h - the machine as an SVG picture: what numa_picture.h shows, with room.
 *
 * Two steps: svg_layout makes boxes and texts with their places, svg_write prints them. A box lies inside its parent and
 * beside its siblings, a text inside its box; texts are cut by a width no usual sans-serif font exceeds. Coordinates are
 * whole units, pixels at 100 %.
 *
 * Threads: any. What can fail: out of memory, and what `out` says.
 */
#ifndef TOOLS_NUMA_SVG_H
#define TOOLS_NUMA_SVG_H

#include "tools/numa_view.h"

#include <stdio.h>

#define SVG_NONE UINT32_MAX

enum svg_look { /* the class of an element; svg_looks has their colours */
		LOOK_PAGE,
		LOOK_PLAIN, /* a box that is not seen */
		LOOK_CARD,
		LOOK_CARD_UNKNOWN,
		LOOK_CARD_HIDDEN,
		LOOK_BAR,
		LOOK_L1,
		LOOK_HUGE,
		LOOK_USED,
		LOOK_OURS,
		LOOK_PILL,
		LOOK_GROUP,
		LOOK_TILE,
		LOOK_GPU, /* in the order of enum mach_device_kind */
		LOOK_RDMA,
		LOOK_NIC,
		LOOK_NVME,
		LOOK_HEAT_0, /* distances, near to far */
		LOOK_HEAT_1,
		LOOK_HEAT_2,
		LOOK_HEAT_3,
		LOOK_TEXT, /* texts from here */
		LOOK_BOLD,
		LOOK_DIM,
		LOOK_TEXT_L1,
		LOOK_WARN,
		LOOKS
};

struct svg_box {
	int x, y, w, h;
	uint32_t parent; /* index; SVG_NONE: the page */
	enum svg_look look;
};

struct svg_text {
	int x, y, size, w; /* left end of the baseline, font size, width at most */
	uint32_t box;
	enum svg_look look;
	char text[128]; /* printable ASCII, but for a last byte SVG_CUT that stands for an ellipsis */
};
#define SVG_CUT '\x01'

struct svg {
	struct svg_box *boxes;
	uint32_t nboxes, room_boxes;
	struct svg_text *texts;
	uint32_t ntexts, room_texts;
	bool failed; /* out of memory */
	char title[200];
};

/* An upper bound of what a text takes. */
int svg_text_width(const char *text, int size, bool bold);

int svg_layout(const struct numa_view *v, struct svg **out, struct why *why);
int svg_write(const struct svg *s, FILE *out);
void svg_destroy(struct svg *s);

/* ---- inside: numa_svg_draw.c -------------------------------------------------------------------------------------- */

/* Index of the new box; places are of the page. */
uint32_t svg_box(struct svg *s, uint32_t parent, enum svg_look look, int x, int y, int w, int h);
void svg_resize(struct svg *s, uint32_t box, int w, int h);
/* Cuts to `max` units and returns the width it may take. */
int svg_text(struct svg *s, uint32_t box, enum svg_look look, int size, int x, int y, int max, const char *fmt, ...)
	__attribute__((format(printf, 8, 9)));

#endif
