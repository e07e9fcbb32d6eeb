/* analyzer.h - included before everything else by clang-tidy only: tells it what it cannot see across files.
 *
 * why_set returns the error it is given, and that is negative; without knowing that, the analyzer follows every failed call as if it
 * had succeeded, into variables that were never set.
 */
#ifndef TOOLS_LINT_ANALYZER_H
#define TOOLS_LINT_ANALYZER_H

#include "daemon/base/why.h"

#define why_set(why, err, ...) ((void)why_set((why), (err), __VA_ARGS__), (err) < 0 ? (err) : -1)

#endif
