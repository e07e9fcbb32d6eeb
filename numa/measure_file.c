/* measure_file.c - measurements as JSON, as a table, and back. The file is read by later runs: its bytes are foreign. */
#include "numa/measure.h"

#include "daemon/base/mem.h"
#include "numa/measure_int.h"
#include "numa/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1
#define MAX_GBS 1e5

/* ---- JSON ----------------------------------------------------------------------------------------------------------- */

static json_t *node_json(node_id n)
{
	return node_known(n) ? json_integer(n.os) : json_null();
}

static json_t *rate_json(double gbs)
{
	return gbs > 0 ? json_real(round(gbs * 1000) / 1000) : json_null();
}

static json_t *cell_json(const struct measure *m, const struct measure_cell *c)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:I}", "cpu_node", node_json(c->cpu), "memory_node",
			      node_json(c->memory), "gb_per_s", rate_json(c->gbs), "ratio_to_local",
			      rate_json(measure_ratio(m, c->cpu, c->memory)), "threads", (json_int_t)c->threads,
			      "pages", (json_int_t)c->pages, "misplaced_pages", (json_int_t)c->misplaced);
	if (o && c->reason[0])
		json_object_set_new(o, "reason", json_string(c->reason));
	return o;
}

static json_t *drive_json(const struct measure_drive *d)
{
	json_t *o = json_pack("{s:s, s:s, s:o, s:o, s:o}", "pci", d->pci, "name", d->name, "device_node",
			      node_json(d->device), "cpu_node", node_json(d->cpu), "read_gb_per_s", rate_json(d->gbs));
	if (o && d->reason[0])
		json_object_set_new(o, "reason", json_string(d->reason));
	return o;
}

json_t *measure_json(const struct measure *m)
{
	json_t *copies = json_array(), *drives = json_array();
	bool bad = false;

	for (uint32_t i = 0; i < m->ncells; i++)
		bad |= json_array_append_new(copies, cell_json(m, &m->cells[i])) != 0;
	for (uint32_t i = 0; i < m->ndrives; i++)
		bad |= json_array_append_new(drives, drive_json(&m->drives[i])) != 0;
	json_t *o = json_pack("{s:i, s:s, s:s, s:o, s:o, s:s}", "version", VERSION, "host", m->host, "kernel",
			      m->kernel, "memcpy", copies, "nvme", drives, "gpu", "no GPU driver");
	if (!bad || !o)
		return o;
	json_decref(o);
	return NULL;
}

/* ---- table ---------------------------------------------------------------------------------------------------------- */

#define BLOCK 4u /* columns that fit a terminal */

static void print_block(const struct measure *m, uint32_t columns, uint32_t from, FILE *out)
{
	uint32_t to = from + BLOCK < columns ? from + BLOCK : columns;
	char text[24];

	fprintf(out, "  %-12s", "memory on");
	for (uint32_t k = from; k < to; k++)
		fprintf(out, " %15s", machine_node_text(m->cells[k].memory, text));
	for (uint32_t i = 0; i + columns <= m->ncells; i += columns) {
		fprintf(out, "\n  %-12s", machine_node_text(m->cells[i].cpu, text));
		for (uint32_t k = from; k < to; k++) {
			const struct measure_cell *c = &m->cells[i + k];
			if (c->gbs > 0)
				fprintf(out, " %8.2f (%3.0f%%)", c->gbs, 100 * measure_ratio(m, c->cpu, c->memory));
			else
				fprintf(out, " %15s", "-");
		}
	}
	fputc('\n', out);
}

static void print_matrix(const struct measure *m, FILE *out)
{
	uint32_t columns = 1; /* there is a cell */

	while (columns < m->ncells && node_same(m->cells[columns].cpu, m->cells[0].cpu))
		columns++;
	fputs("Copies, GB/s (share of local)\n", out);
	for (uint32_t from = 0; from < columns; from += BLOCK)
		print_block(m, columns, from, out);
}

void measure_print(const struct measure *m, FILE *out)
{
	char a[24], b[24];

	if (m->ncells)
		print_matrix(m, out);
	for (uint32_t i = 0; i < m->ncells; i++) {
		const struct measure_cell *c = &m->cells[i];
		if (c->reason[0])
			fprintf(out, "  %s, memory of %s: %s\n", machine_node_text(c->cpu, a),
				machine_node_text(c->memory, b), c->reason);
		if (c->misplaced)
			fprintf(out, "  %s, memory of %s: %llu of %llu pages are elsewhere\n",
				machine_node_text(c->cpu, a), machine_node_text(c->memory, b),
				(unsigned long long)c->misplaced, (unsigned long long)c->pages);
	}
	fputs(m->ndrives ? "NVMe reads, GB/s\n" : "NVMe reads: no drive\n", out);
	for (uint32_t i = 0; i < m->ndrives; i++) {
		const struct measure_drive *d = &m->drives[i];
		if (d->reason[0])
			fprintf(out, "  %-8s %s: %s\n", d->name, d->pci, d->reason);
		else
			fprintf(out, "  %-8s %s on %s, threads on %s: %7.2f\n", d->name, d->pci,
				machine_node_text(d->device, a), machine_node_text(d->cpu, b), d->gbs);
	}
	fputs("GPU copies: no GPU driver\n", out);
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

/* null is unknown. False: something else than a node. */
static bool take_node(json_t *o, const char *key, node_id *out)
{
	json_t *v = json_object_get(o, key);
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;

	*out = n >= 0 && n < (json_int_t)NODE_MAX ? node_of((int)n) : NODE_UNKNOWN;
	return json_is_null(v) || node_known(*out);
}

static bool take_rate(json_t *o, const char *key, double *out)
{
	json_t *v = json_object_get(o, key);

	*out = json_is_number(v) ? json_number_value(v) : 0;
	return json_is_null(v) || (json_is_number(v) && isfinite(*out) && *out >= 0 && *out <= MAX_GBS);
}

static bool take_count(json_t *o, const char *key, uint64_t max, uint64_t *out)
{
	json_t *v = json_object_get(o, key);
	json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;

	*out = n >= 0 ? (uint64_t)n : 0;
	return n >= 0 && (uint64_t)n <= max;
}

/* Absent is "". Printed on terminals: no control characters. */
static bool take_text(json_t *o, const char *key, char *out, size_t cap)
{
	json_t *v = json_object_get(o, key);
	const char *s = v ? json_string_value(v) : "";
	size_t n = s ? strlen(s) : 0;

	if (!s || n >= cap)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
			return false;
	memcpy(out, s, n + 1);
	return true;
}

static bool take_cell(json_t *o, struct measure_cell *c)
{
	uint64_t threads;
	bool good = take_node(o, "cpu_node", &c->cpu) && take_node(o, "memory_node", &c->memory) &&
		    node_known(c->cpu) && node_known(c->memory) && take_rate(o, "gb_per_s", &c->gbs) &&
		    take_count(o, "threads", CPU_MAX, &threads) && take_count(o, "pages", 1ull << 52, &c->pages) &&
		    take_count(o, "misplaced_pages", c->pages, &c->misplaced) &&
		    take_text(o, "reason", c->reason, sizeof(c->reason));
	if (good)
		c->threads = (uint32_t)threads;
	return good;
}

static bool take_drive(json_t *o, struct measure_drive *d)
{
	return take_text(o, "pci", d->pci, sizeof(d->pci)) && take_text(o, "name", d->name, sizeof(d->name)) &&
	       take_node(o, "device_node", &d->device) && take_node(o, "cpu_node", &d->cpu) &&
	       take_rate(o, "read_gb_per_s", &d->gbs) && take_text(o, "reason", d->reason, sizeof(d->reason));
}

/* 0, -EBADMSG, -ENOMEM */
static int take_all(json_t *o, struct measure *m)
{
	json_t *copies = json_object_get(o, "memcpy"), *drives = json_object_get(o, "nvme");

	if (json_integer_value(json_object_get(o, "version")) != VERSION || !json_is_array(copies) ||
	    !json_is_array(drives) || json_array_size(copies) > MEASURE_MAX_CELLS ||
	    json_array_size(drives) > MEASURE_MAX_CELLS || !take_text(o, "host", m->host, sizeof(m->host)) ||
	    !take_text(o, "kernel", m->kernel, sizeof(m->kernel)))
		return -EBADMSG;
	m->cells = mem_calloc(json_array_size(copies) + 1, sizeof(*m->cells));
	m->drives = mem_calloc(json_array_size(drives) + 1, sizeof(*m->drives));
	if (!m->cells || !m->drives)
		return -ENOMEM;
	for (size_t i = 0; i < json_array_size(copies); i++)
		if (!take_cell(json_array_get(copies, i), &m->cells[m->ncells++]))
			return -EBADMSG;
	for (size_t i = 0; i < json_array_size(drives); i++)
		if (!take_drive(json_array_get(drives, i), &m->drives[m->ndrives++]))
			return -EBADMSG;
	return 0;
}

static char *read_text(const char *path, size_t *n, struct why *why)
{
	struct stat st;
	char *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st) != 0) {
		why_set(why, -errno, "%s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode) || st.st_size > (off_t)MEASURE_MAX_BYTES) {
		why_set(why, -EBADMSG, "%s is no file of measurements", path);
	} else if (!(text = mem_calloc(1, (size_t)st.st_size + 1))) {
		why_set(why, -ENOMEM, "%s: out of memory", path);
	} else {
		ssize_t got = pread(fd, text, (size_t)st.st_size, 0);
		*n = got > 0 ? (size_t)got : 0;
	}
	if (fd >= 0)
		close(fd);
	return text;
}

int measure_read(const char *path, struct measure **out, struct why *why)
{
	struct why own = {0};
	json_error_t e;
	size_t n = 0;

	why = why ? why : &own;
	char *text = read_text(path, &n, why);
	if (!text)
		return why->err;
	json_t *o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	struct measure *m = mem_calloc(1, sizeof(*m));
	int rc = !m ? -ENOMEM : json_is_object(o) ? take_all(o, m) : -EBADMSG;
	mem_free(text);
	json_decref(o);
	if (rc == 0) {
		*out = m;
		return 0;
	}
	measure_destroy(m);
	return why_set(why, rc, rc == -ENOMEM ? "%s: out of memory" : "%s is no file of measurements", path);
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

int measure_write(const struct measure *m, const char *path, struct why *why)
{
	json_t *o = measure_json(m);
	char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	size_t n = text ? strlen(text) : 0;
	int rc = 0;

	if (text) {
		text[n] = '\n'; /* a text file's last line ends; its length goes along, so the zero is not missed */
		rc = replace_file(path, 0644, text, n + 1, why);
	} else {
		rc = why_set(why, -ENOMEM, "%s: out of memory", path);
	}
	free(text);
	json_decref(o);
	return rc;
}
