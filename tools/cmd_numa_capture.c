/* cmd_numa_capture.c - `numa capture`: this machine as one file, with a word on what is in it. */
#include "tools/cmd_numa.h"
#include "tools/commands.h"
#include "numa/replace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct capture_options {
	struct numa_options numa;
	const char *file;
};

static const struct cli_opt rows[] = {
	{"json", 0, NULL, CLI_FLAG, offsetof(struct numa_options, json), 0, 0, NULL, "The same as --format json"},
	{"from", 0, "FILE", CLI_STR, offsetof(struct numa_options, from), 0, 0, NULL,
	 "Refused: a capture is of this system"},
};

#define HOLDS                                                                                                    \
	"It holds hwloc's topology and files below /sys and /proc on nodes, CPUs, devices and our limits. Judge" \
	" before you send it: it names the host, its board, serial numbers, hardware addresses of network"       \
	" devices, all mounts (with file servers) and our cgroup. It has no passwords, no keys, no data of"      \
	" engines, and of the environment only HWLOC_PCI_LOCALITY."

/* On stderr, so that standard output may be the capture. */
static void tell(const struct capture_options *o, const json_t *capture, size_t len)
{
	char text[640];

	if (o->numa.common.quiet)
		return;
	snprintf(text, sizeof(text), "%.200s: %zu KiB, %zu files, %zu folders, %zu answers of system calls.",
		 o->file ? o->file : "Standard output", (len + 1023) / 1024,
		 json_object_size(json_object_get(capture, "files")),
		 json_object_size(json_object_get(capture, "dirs")),
		 json_object_size(json_object_get(capture, "values")));
	plan_wrap(stderr, 0, 2, text);
	plan_wrap(stderr, 0, 2, HOLDS);
}

static json_t *summary(const struct capture_options *o, const json_t *capture, size_t len)
{
	return json_pack("{s:s, s:I, s:i, s:i, s:i, s:s}", "file", o->file, "bytes", (json_int_t)len, "files",
			 (int)json_object_size(json_object_get(capture, "files")), "dirs",
			 (int)json_object_size(json_object_get(capture, "dirs")), "values",
			 (int)json_object_size(json_object_get(capture, "values")), "holds", HOLDS);
}

static int store(const struct cli_cmd *cmd, struct capture_options *o, const char *text, size_t len)
{
	json_t *capture = json_loadb(text, len, 0, NULL);
	struct why why = {0};
	int code = CLI_OK;

	if (o->file && replace_file(o->file, 0600, text, len, &why)) {
		cli_error(cmd, "%s", why.text);
		code = CLI_FAILED;
	} else if (!o->file && (fwrite(text, 1, len, stdout) != len || fflush(stdout))) {
		cli_error(cmd, "standard output: %s", strerror(errno));
		code = CLI_FAILED;
	} else if (o->file && o->numa.common.format == REPORT_JSON) {
		o->numa.common.output = NULL; /* that is where the capture went */
		code = numa_finish_json(cmd, &o->numa, summary(o, capture, len), CLI_OK);
	} else {
		tell(o, capture, len);
	}
	json_decref(capture);
	return code;
}

int cmd_numa_capture(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {
		.opts = rows,
		.nopts = sizeof(rows) / sizeof(rows[0]),
		.arg = "[FILE]",
		.arg_offset = offsetof(struct capture_options, file),
		.after = "FILE (the same as --output FILE) is readable by its owner only, and is replaced as a whole; "
			 "without one the capture goes to standard output. " HOLDS,
	};
	struct capture_options o = {.numa = NUMA_OPTIONS_DEFAULT};
	struct why why = {0};
	char *text = NULL;
	size_t len = 0;
	int code = numa_parse(cmd, &spec, argc, argv, &o.numa);

	if (code >= 0)
		return code;
	if (o.numa.from)
		return cli_usage(cmd, "--from: a capture is of this system; %.64s is one already", o.numa.from);
	if (o.file && o.numa.common.output)
		return cli_usage(cmd, "FILE and --output mean the same; leave one away");
	o.file = o.file ? o.file : o.numa.common.output;
	FILE *memory = open_memstream(&text, &len);
	int rc = memory ? machine_capture(memory, &why) : why_set(&why, -ENOMEM, "out of memory");
	if (memory && fclose(memory) && !rc)
		rc = why_set(&why, -ENOMEM, "out of memory");
	if (rc)
		cli_error(cmd, "%s", why.text);
	code = rc ? CLI_UNREADABLE : store(cmd, &o, text, len);
	free(text);
	return code;
}
