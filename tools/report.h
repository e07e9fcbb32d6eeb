/* report.h - what a command prints: one list of sections and rows, shown as a box, as JSON or as CSV.
 *
 * Box: title and section lines are " Text " centred in '=' and '-' (the odd pad character goes right), a row is
 * "Label:" with the value flush right, the last line is full of '='. Widths count characters, not bytes.
 * JSON: {"title": ..., "metrics": {...}}, indent 2; a section is an object, a repeated section an array of objects.
 * CSV: the names and values of the rows outside sections.
 * Source: shared surface reference, section 4.2.
 *
 * Threads: one per report. Running out of memory is remembered and reported by report_write.
 */
#ifndef TOOLS_REPORT_H
#define TOOLS_REPORT_H

#include "daemon/base/why.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum report_format { REPORT_TERMINAL, REPORT_JSON, REPORT_CSV };

struct report;

struct report *report_create(const char *title, unsigned width); /* NULL when out of memory */
void report_destroy(struct report *r);

/* Rows that follow belong to this section. `key` NULL: its rows stay at the top level of the JSON. `repeated`: one more
 * element of the array `key`. */
void report_section(struct report *r, const char *key, bool repeated, const char *title_fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* One row. `key` NULL: not in the JSON. `label` NULL: only in the JSON. */
void report_text(struct report *r, const char *label, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void report_int(struct report *r, const char *label, const char *key, long long value);
/* Two decimals, "N/A" and null when not finite. */
void report_real(struct report *r, const char *label, const char *key, double value);
/* A text on the terminal, another value in the JSON; takes the reference of `value`. */
void report_both(struct report *r, const char *label, const char *key, json_t *value, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* 0 or -errno (memory, or what `out` said). */
int report_write(struct report *r, enum report_format format, FILE *out);

#endif
