#include "tools/report.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#define LINE_MAX_BYTES 1024

struct report {
	unsigned width;
	char *title;
	char *text; /* the rows of the box, without title and footer */
	size_t used, cap;
	json_t *metrics, *section; /* section: borrowed from metrics, NULL = top level */
	bool failed;
};

/* Characters of UTF-8: every byte that does not continue one. */
static size_t columns(const char *s)
{
	size_t n = 0;
	for (; *s; s++)
		n += ((unsigned char)*s & 0xC0) != 0x80;
	return n;
}

struct report *report_create(const char *title, unsigned width)
{
	struct report *r = mem_calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->width = width;
	r->title = mem_strndup(title, strlen(title));
	r->metrics = json_object();
	if (r->title && r->metrics)
		return r;
	report_destroy(r);
	return NULL;
}

void report_destroy(struct report *r)
{
	if (!r)
		return;
	json_decref(r->metrics);
	mem_free(r->title);
	mem_free(r->text);
	mem_free(r);
}

static void append(struct report *r, const char *s, size_t n)
{
	if (n == 0)
		return;
	if (r->used + n > r->cap) {
		size_t cap = (r->used + n) * 2;
		char *bigger = mem_realloc(r->text, cap);
		if (!bigger) {
			r->failed = true;
			return;
		}
		r->text = bigger;
		r->cap = cap;
	}
	memcpy(r->text + r->used, s, n);
	r->used += n;
}

static void append_fill(struct report *r, char c, size_t n)
{
	while (n--)
		append(r, &c, 1);
}

static void append_centred(struct report *r, const char *text, char pad)
{
	size_t taken = columns(text) + 2, free_cols = r->width > taken ? r->width - taken : 0;
	append_fill(r, pad, free_cols / 2);
	append(r, " ", 1);
	append(r, text, strlen(text));
	append(r, " ", 1);
	append_fill(r, pad, free_cols - free_cols / 2);
	append(r, "\n", 1);
}

static void append_row(struct report *r, const char *label, const char *value)
{
	size_t taken = columns(label) + 1 + columns(value);
	append(r, label, strlen(label));
	append(r, ":", 1);
	append_fill(r, ' ', taken < r->width ? r->width - taken : 1);
	append(r, value, strlen(value));
	append(r, "\n", 1);
}

static void set_json(struct report *r, json_t *object, const char *key, json_t *value)
{
	if (!value || json_object_set_new(object, key, value))
		r->failed = true;
}

static json_t *new_element(struct report *r, const char *key)
{
	json_t *array = json_object_get(r->metrics, key), *element = json_object();
	if (!array) {
		array = json_array();
		set_json(r, r->metrics, key, array);
	}
	if (!array || json_array_append_new(array, element)) {
		r->failed = true;
		return NULL;
	}
	return element;
}

/* Values come from servers: control characters would reach the terminal, and broken UTF-8 has no JSON. */
static void sanitise(char *text)
{
	json_t *valid = json_string(text);
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if (*p < 0x20 || *p == 0x7F || (!valid && *p >= 0x80))
			*p = '?';
	json_decref(valid);
}

void report_section(struct report *r, const char *key, bool repeated, const char *title_fmt, ...)
{
	char title[LINE_MAX_BYTES];
	va_list ap;
	va_start(ap, title_fmt);
	vsnprintf(title, sizeof(title), title_fmt, ap);
	va_end(ap);
	sanitise(title);
	append_centred(r, title, '-');
	r->section = NULL;
	if (key && repeated) {
		r->section = new_element(r, key);
	} else if (key) {
		r->section = json_object();
		set_json(r, r->metrics, key, r->section);
	}
}

static void row(struct report *r, const char *label, const char *key, json_t *value, const char *text)
{
	if (label)
		append_row(r, label, text);
	if (key)
		set_json(r, r->section ? r->section : r->metrics, key, value);
	else
		json_decref(value);
}

void report_text(struct report *r, const char *label, const char *key, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	sanitise(text);
	row(r, label, key, key ? json_string(text) : NULL, text);
}

void report_int(struct report *r, const char *label, const char *key, long long value)
{
	char text[32];
	snprintf(text, sizeof(text), "%lld", value);
	row(r, label, key, key ? json_integer(value) : NULL, text);
}

void report_real(struct report *r, const char *label, const char *key, double value)
{
	char text[64] = "N/A";
	bool known = isfinite(value);
	if (known)
		snprintf(text, sizeof(text), "%.2f", value);
	row(r, label, key, !key ? NULL : known ? json_real(round(value * 100) / 100) : json_null(), text);
}

void report_both(struct report *r, const char *label, const char *key, json_t *value, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	sanitise(text);
	row(r, label, key, value, text);
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

static int write_box(struct report *r, FILE *out)
{
	struct report frame = {.width = r->width};
	append_centred(&frame, r->title, '=');
	append(&frame, r->text, r->used);
	append_fill(&frame, '=', r->width);
	append(&frame, "\n", 1);
	if (!frame.failed)
		fwrite(frame.text, 1, frame.used, out);
	mem_free(frame.text);
	return frame.failed ? -ENOMEM : 0;
}

static int write_json(struct report *r, FILE *out)
{
	json_t *whole = json_pack("{s:s, s:O}", "title", r->title, "metrics", r->metrics);
	int rc = whole ? json_dumpf(whole, out, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : -1;
	json_decref(whole);
	fputc('\n', out);
	return rc ? -ENOMEM : 0;
}

static void write_csv_cell(FILE *out, const char *s)
{
	if (!strpbrk(s, ",\"\r\n")) {
		fputs(s, out);
		return;
	}
	fputc('"', out);
	for (; *s; s++)
		fprintf(out, *s == '"' ? "\"\"" : "%c", *s);
	fputc('"', out);
}

static void write_csv_value(FILE *out, const json_t *v)
{
	if (json_is_string(v))
		write_csv_cell(out, json_string_value(v));
	else if (json_is_integer(v))
		fprintf(out, "%lld", (long long)json_integer_value(v));
	else if (json_is_real(v))
		fprintf(out, "%.2f", json_real_value(v));
}

static int write_csv(struct report *r, FILE *out)
{
	for (int values = 0; values < 2; values++) {
		const char *key, *sep = "";
		json_t *v;
		json_object_foreach(r->metrics, key, v)
		{
			if (json_is_object(v) || json_is_array(v))
				continue;
			fputs(sep, out);
			if (values)
				write_csv_value(out, v);
			else
				write_csv_cell(out, key);
			sep = ",";
		}
		fputc('\n', out);
	}
	return 0;
}

int report_write(struct report *r, enum report_format format, FILE *out)
{
	if (r->failed)
		return -ENOMEM;
	int rc = format == REPORT_JSON  ? write_json(r, out)
		 : format == REPORT_CSV ? write_csv(r, out)
					: write_box(r, out);
	if (!rc && (fflush(out) || ferror(out)))
		rc = errno ? -errno : -EIO;
	return rc;
}
