/* numa_picture.h - the machine as a picture for a terminal: at most 80 columns, a box per node.
 *
 * Left in a box what a node is and what we put on it, right the devices that hang on it. Devices no source gives a node have a
 * box of their own, with the source that was asked. Threads: any. What can fail: out of memory, and what `out` says.
 */
#ifndef TOOLS_NUMA_PICTURE_H
#define TOOLS_NUMA_PICTURE_H

#include "tools/numa_canvas.h"
#include "tools/numa_view.h"

#define PICTURE_WIDTH 80u

int picture_print(const struct numa_view *v, const struct canvas_style *style, FILE *out);

/* UTF-8 unless the locale in the environment is of another kind; colour when `out` is a terminal and NO_COLOR is not set. */
struct canvas_style picture_style(bool ascii, FILE *out);

#endif
