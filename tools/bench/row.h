/* row.h - one line of `make bench`: what was measured, the limit measured in the same run, their ratio and the goal. */
#ifndef TOOLS_BENCH_ROW_H
#define TOOLS_BENCH_ROW_H

#include <stdbool.h>
#include <stdio.h>

/* `ratio` is ours/limit in whatever sense the goal states; `ok` whether the goal is met. Returns ok. */
static inline bool bench_row(const char *name, double ours, double limit, const char *unit, const char *limit_name,
			     double ratio, const char *goal, bool ok)
{
	printf("%-44s %10.3f %10.3f %-8s %6.2f  %-14s %-4s (%s)\n", name, ours, limit, unit, ratio, goal,
	       ok ? "ok" : "MISS", limit_name);
	fflush(stdout);
	return ok;
}

static inline void bench_head(const char *title)
{
	printf("\n-- %s\n%-44s %10s %10s %-8s %6s  %-14s\n", title, "what", "ours", "limit", "unit", "ratio", "goal");
}

#endif
