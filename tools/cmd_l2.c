/* cmd_l2.c - `l2 format` and `l2 info`, and what all of `l2` share. */
#include "tools/cmd_l2.h"
#include "tools/cmd_numa.h"
#include "tools/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define L2_WIDTH 64

/* ---- shared ----------------------------------------------------------------------------------------------------------- */

int l2_parse(const struct cli_cmd *cmd, struct cli_spec *spec, int argc, char **argv, struct l2_options *o)
{
	spec->arg = spec->arg_max > 1 ? "PATH..." : "PATH";
	spec->arg_offset = offsetof(struct l2_options, path);
	int code = cli_parse(cmd, spec, argc, argv, &o->common);

	if (code >= 0)
		return code;
	if (o->json)
		o->common.format = REPORT_JSON;
	return o->path[0] ? -1 : cli_usage(cmd, "which device or file? give its path");
}

const char *l2_uuid(const uint8_t uuid[16], char text[L2_UUID_TEXT])
{
	char *at = text;

	for (unsigned i = 0; i < 16; i++)
		at += snprintf(at, 4, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
	return text;
}

const char *l2_hash(const struct store_hash *h, char text[L2_HASH_TEXT])
{
	for (unsigned i = 0; i < STORE_HASH_BYTES; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", h->b[i]);
	return text;
}

const char *l2_printable(struct slice s, char *text, size_t cap)
{
	const unsigned char *p = s.p;
	size_t n = s.n < cap - 1 ? s.n : cap - 1;

	for (size_t i = 0; i < n; i++)
		text[i] = (char)(p[i] >= 0x20 && p[i] < 0x7f ? p[i] : '?');
	text[n] = '\0';
	return text;
}

const char *l2_error(int error)
{
	switch (error) {
	case 0:
		return "ok";
	case -EBADMSG:
		return "header is not what was written";
	case -EILSEQ:
		return "payload is not what was written";
	default:
		return "cannot be read";
	}
}

static void show_size(struct report *r, const char *label, const char *key, uint64_t bytes)
{
	char text[24];

	report_both(r, label, key, json_integer((json_int_t)bytes), "%s", numa_size_text(bytes, text));
}

/* ---- format ----------------------------------------------------------------------------------------------------------- */

struct format_options {
	struct l2_options l2;
	const char *size, *segment;
	bool force, prewrite;
};

static const struct cli_opt format_rows[] = {
	{"size", 0, "SIZE", CLI_STR, offsetof(struct format_options, size), 0, 0, NULL,
	 "Capacity, as 100G or bytes (default: all of it; needed to make a file)"},
	{"segment-size", 0, "SIZE", CLI_STR, offsetof(struct format_options, segment), 0, 0, NULL,
	 "Bytes that are freed at a time, 64K to 1G (default 256M, or a 16th of a small device)"},
	{"force", 0, NULL, CLI_FLAG, offsetof(struct format_options, force), 0, 0, NULL,
	 "Overwrite another store, a file system or a partition table"},
	{"prewrite", 0, NULL, CLI_FLAG, offsetof(struct format_options, prewrite), 0, 0, NULL,
	 "Write all of a new file once; its blocks are reserved without that, too"},
	L2_ROW(struct format_options),
};

static int size_of(const struct cli_cmd *cmd, const char *option, const char *text, uint64_t *out)
{
	if (!text || (numa_size_parse(text, out) == 0 && *out))
		return -1;
	return cli_usage(cmd, "--%s %.64s: expected a size such as 100G", option, text);
}

static struct report *show_format(const char *path, const struct seg_info *i)
{
	char text[L2_UUID_TEXT];
	struct report *r = report_create("L2 Format", L2_WIDTH);

	if (!r)
		return NULL;
	report_text(r, "Path", "path", "%s", path);
	report_text(r, "UUID", "uuid", "%s", l2_uuid(i->uuid, text));
	show_size(r, "Capacity", "bytes", i->bytes);
	show_size(r, "Segment size", "segment_bytes", i->segment_bytes);
	report_int(r, "Segments", "segments", (long long)i->segments);
	return r;
}

int cmd_l2_format(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_spec spec = {
		.opts = format_rows,
		.nopts = sizeof(format_rows) / sizeof(format_rows[0]),
		.after = "What is on the device is lost. Refused without --force: file systems, partition tables, "
			 "members of RAID "
			 "arrays and volume groups, encrypted volumes, stores of LMCache and of ours. Refused always: "
			 "what is "
			 "mounted, or held by another process. A file that does not exist is made: all of its blocks "
			 "are reserved, "
			 "so that a full file system is met now and not later.",
	};
	struct format_options o = {0};
	struct seg_format_conf conf = {0};
	struct seg_info info;
	struct why why = {0};
	int code = l2_parse(cmd, &spec, argc, argv, &o.l2);

	if (code < 0)
		code = size_of(cmd, "size", o.size, &conf.bytes);
	if (code < 0)
		code = size_of(cmd, "segment-size", o.segment, &conf.segment_bytes);
	if (code >= 0)
		return code;
	conf.path = o.l2.path[0];
	conf.force = o.force;
	conf.prewrite = o.prewrite;
	if (seg_format(&conf, &why) || seg_probe(conf.path, &info, &why)) {
		cli_error(cmd, "%s", why.text);
		return CLI_FAILED;
	}
	return cli_finish(cmd, &o.l2.common, show_format(conf.path, &info), CLI_OK);
}

/* ---- info ------------------------------------------------------------------------------------------------------------- */

struct info_options {
	struct l2_options l2;
};

static const struct cli_opt info_rows[] = {L2_ROW(struct info_options)};

static void show_store(struct report *r, const struct seg_info *i)
{
	char text[L2_UUID_TEXT], when[32] = "";
	time_t created = (time_t)i->created_s;
	struct tm tm;

	report_int(r, "Format version", "version", i->version);
	if (i->segments == 0)
		return; /* another version: nothing else is known */
	report_text(r, "UUID", "uuid", "%s", l2_uuid(i->uuid, text));
	if (gmtime_r(&created, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
	report_text(r, "Created", "created", "%s", when);
	report_int(r, "Epoch", "epoch", (long long)i->epoch);
	report_int(r, "Good superblocks of 4", "good_superblocks", i->good_superblocks);
	show_size(r, "Capacity", "bytes", i->bytes);
	show_size(r, "Segment size", "segment_bytes", i->segment_bytes);
	report_int(r, "Segments", "segments", (long long)i->segments);
	report_int(r, "Sealed", "sealed", (long long)i->sealed);
	report_int(r, "Open", "open", (long long)i->open);
	report_int(r, "Free", "free", (long long)i->free_segments);
	report_int(r, "Records in sealed segments", "sealed_records", (long long)i->records);
}

static bool show_info(const struct cli_cmd *cmd, struct report *r, const char *path)
{
	static const char *const contents[] = {"nothing known", "store", "foreign"};
	struct seg_info i;
	struct why why = {0};

	if (seg_probe(path, &i, &why)) {
		cli_error(cmd, "%s", why.text);
		return false;
	}
	report_section(r, "devices", true, "%s", path);
	report_text(r, NULL, "path", "%s", path);
	if (i.content == SEG_FOREIGN)
		report_both(r, "Content", "content", json_string("foreign"), "%s", i.foreign);
	else
		report_text(r, "Content", "content", "%s", contents[i.content]);
	if (i.content == SEG_FOREIGN)
		report_text(r, NULL, "foreign", "%s", i.foreign);
	report_both(r, "In use", "in_use", json_boolean(i.in_use), "%s", i.in_use ? "yes" : "no");
	if (i.content == SEG_OURS)
		show_store(r, &i);
	return true;
}

int cmd_l2_info(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_spec spec = {
		.opts = info_rows,
		.nopts = 1,
		.arg_max = L2_PATHS,
		.after = "Reads only, and may be asked about a store in use; of open segments it does not count the "
			 "records.",
	};
	struct info_options o = {0};
	int code = l2_parse(cmd, &spec, argc, argv, &o.l2);

	if (code >= 0)
		return code;
	code = CLI_OK;
	struct report *r = report_create("L2 Info", L2_WIDTH);
	for (size_t i = 0; r && i < L2_PATHS && o.l2.path[i]; i++)
		if (!show_info(cmd, r, o.l2.path[i]))
			code = CLI_FAILED;
	return cli_finish(cmd, &o.l2.common, r, code);
}
