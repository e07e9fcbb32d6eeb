/* cmd_numa_measure.c - `numa measure`: what distance costs on this machine. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include "numa/measure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MIB (1ull << 20)

struct measure_options {
	struct numa_options numa;
	double seconds;
	uint32_t threads;
	uint64_t mib;
	bool no_drives;
};

static const struct cli_opt rows[] = {
	{"json", 0, NULL, CLI_FLAG, offsetof(struct numa_options, json), 0, 0, NULL, "The same as --format json"},
	{"seconds", 0, "S", CLI_REAL, offsetof(struct measure_options, seconds), 0.01, 60, NULL,
	 "For each pair of nodes, and each drive and node (default 0.5)"},
	{"threads", 0, "N", CLI_U32, offsetof(struct measure_options, threads), 1, 256, NULL,
	 "Per node, at most one per CPU (default 4)"},
	{"buffer-mib", 0, "N", CLI_U64, offsetof(struct measure_options, mib), 4, 16384, NULL,
	 "Size of what each thread copies; more than the caches hold (default 64)"},
	{"no-drives", 0, NULL, CLI_FLAG, offsetof(struct measure_options, no_drives), 0, 0, NULL, "Do not read drives"},
};

static void show_cell(void *ctx, const struct measure_cell *c)
{
	char a[24], b[24];

	fprintf(ctx, "  threads on %s, memory of %s\n", machine_node_text(c->cpu, a), machine_node_text(c->memory, b));
}

static void show_drive(void *ctx, const struct measure_drive *d)
{
	char a[24];

	fprintf(ctx, "  %s read from %s\n", d->name[0] ? d->name : d->pci, machine_node_text(d->cpu, a));
}

/* What can be measured is; what cannot says so in its own line. */
static int store(const struct cli_cmd *cmd, const struct measure_options *o, const struct measure *r)
{
	const char *path = o->numa.common.output ? o->numa.common.output : MEASURE_FILE;
	struct why why = {0};
	int rc = measure_write(r, path, &why);

	if (rc == 0 && !o->numa.common.quiet)
		fprintf(stderr, "Stored in %s\n", path);
	/* Nobody asked for the default file: looking is for everybody, storing for who may. */
	if (rc && !o->numa.common.output && (rc == -EACCES || rc == -EROFS || rc == -ENOENT)) {
		fprintf(stderr, "Not stored: %s (--output FILE stores it elsewhere)\n", why.text);
		return CLI_OK;
	}
	if (rc)
		cli_error(cmd, "%s", why.text);
	return rc ? CLI_FAILED : CLI_OK;
}

static int show(const struct cli_cmd *cmd, const struct measure_options *o, const struct measure *r, int code)
{
	struct numa_options shown = o->numa;

	shown.common.output = NULL; /* that is where the measurements are stored */
	if (shown.common.format == REPORT_JSON)
		return numa_finish_json(cmd, &shown, measure_json(r), code);
	FILE *out = numa_open(cmd, &shown);
	if (!out)
		return CLI_FAILED;
	measure_print(r, out);
	return numa_close(cmd, &shown, out, code);
}

int cmd_numa_measure(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.after = "Drives are only read. The result is stored as JSON in --output, " MEASURE_FILE
			 " unless it is given.",
	};
	struct measure_options o = {.numa = NUMA_OPTIONS_DEFAULT, .seconds = 0.5, .threads = 4, .mib = 64};
	struct machine *m = NULL;
	struct measure *r = NULL;
	struct why why = {0};
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	code = numa_load(cmd, &o.numa, &m);
	if (code >= 0)
		return code;
	const struct measure_conf conf = {
		.bytes = o.mib * MIB, .threads = o.threads, .seconds = o.seconds, .drives = !o.no_drives};
	const struct measure_watch watch = {.cell = show_cell, .drive = show_drive, .ctx = stderr};
	int rc = measure_run(m, &conf, o.numa.common.quiet ? NULL : &watch, &r, &why);
	if (rc)
		cli_error(cmd, "%s", why.text);
	code = rc == -EXDEV ? CLI_UNREADABLE : rc ? CLI_FAILED : show(cmd, &o, r, store(cmd, &o, r));
	measure_destroy(r);
	machine_destroy(m);
	return code;
}
