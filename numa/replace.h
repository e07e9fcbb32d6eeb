/* replace.h - a file that is there whole, or as it was before: what commands write for other programs to read.
 *
 * Threads: any. What can fail: everything a file system can, with `why`; then nothing is left behind.
 */
#ifndef NUMA_REPLACE_H
#define NUMA_REPLACE_H

#include "daemon/base/why.h"

#include <stddef.h>

/* Makes or replaces a file as a whole: under another name first, synced, then renamed. Its folder is made if that is the only
 * one missing. 0 or -errno with `why`. */
int replace_file(const char *path, unsigned mode, const char *text, size_t len, struct why *why);

#endif
