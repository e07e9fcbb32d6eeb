/* cmd_l2.h - what the commands of `l2` share: a path, --json, and names that came from a medium as text. */
#ifndef TOOLS_CMD_L2_H
#define TOOLS_CMD_L2_H

#include "daemon/seg/seg.h"
#include "tools/cli.h"

#define L2_PATHS 64

struct l2_options {
	struct cli_common common;
	const char *path[L2_PATHS];
	bool json;
};
#define L2_ROW(type)                                                                                        \
	{                                                                                                   \
		"json", 0, NULL, CLI_FLAG, offsetof(type, l2.json), 0, 0, NULL, "The same as --format json" \
	}

/* cli_parse, and that there is a path. spec->arg_max says how many are allowed. */
int l2_parse(const struct cli_cmd *cmd, struct cli_spec *spec, int argc, char **argv, struct l2_options *o);

#define L2_UUID_TEXT 37
const char *l2_uuid(const uint8_t uuid[16], char text[L2_UUID_TEXT]);
/* Hexadecimal of a chunk hash. */
#define L2_HASH_TEXT (2 * STORE_HASH_BYTES + 1)
const char *l2_hash(const struct store_hash *h, char text[L2_HASH_TEXT]);
/* A text of a medium, made printable; at most cap - 1 bytes. */
const char *l2_printable(struct slice s, char *text, size_t cap);
/* "header is not what was written", by seg_record.error. */
const char *l2_error(int error);

#endif
