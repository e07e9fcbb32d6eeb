/* conf_int.h - the tables of daemon/conf and the functions that share them. */
#ifndef DAEMON_CONF_CONF_INT_H
#define DAEMON_CONF_CONF_INT_H

#include "daemon/conf/conf.h"

/* Help groups; the titles are upstream's. */
enum conf_group { CONF_SERVER, CONF_HTTP, CONF_L1, CONF_TTL, CONF_EVICTION, CONF_L2, CONF_OBS, CONF_OURS, CONF_GROUPS };

enum conf_type {
	CONF_STR,
	CONF_U32,
	CONF_DOUBLE,
	CONF_FLAG, /* --x; in files and environment a boolean */
	CONF_PAIR, /* --x and --no-x */
	CONF_ENUM,
	CONF_LIST /* may be repeated */
};

/* Several texts may stand for one value; the first one is printed. */
struct conf_name {
	const char *text; /* NULL ends the list */
	int value;        /* CONF_NAME_ABSENT: a value of upstream's that this build does not have */
};
#define CONF_NAME_ABSENT (-1)

struct conf_option {
	const char *flag, *field;
	enum conf_type type;
	enum conf_group group;
	size_t offset, size;           /* of the field in struct conf */
	const char *def;               /* as a user would write it; NULL: NULL or 0 */
	const char *def_text;          /* what help says instead of .def */
	double min, max;               /* numbers, inclusive; .max of a string or list value: bytes, 0 = 4096 */
	bool zero_ok;                  /* 0 is allowed though it is below .min */
	bool pow2;                     /* a power of two */
	bool empty_ok;                 /* the empty string means something */
	bool required, not_in_file;    /* must be given by someone; has no config-file key */
	const struct conf_name *names; /* CONF_ENUM */
	const char *metavar, *env, *since, *text;
};

enum conf_index {
#define OPTION(field, ...) CONF_AT_##field,
#include "daemon/conf/options.def"
#undef OPTION
	CONF_OPTIONS
};

enum conf_kind { CONF_KIND_V, CONF_KIND_F, CONF_KIND_P };

struct conf_absent {
	const char *flag;
	enum conf_kind kind;
	const char *feature, *env;
};

struct conf_deprecated {
	const char *flag;
	enum conf_kind kind;
	const char *now, *text;
};

extern const struct conf_option conf_options[CONF_OPTIONS];
extern const struct conf_absent conf_absents[]; /* .flag NULL ends */
extern const struct conf_deprecated conf_deprecateds[];
extern const char *const conf_group_titles[CONF_GROUPS];

/* What a name without dashes ("port", "no-l1-use-lazy", "zmq_port") stands for. */
struct conf_match {
	enum { CONF_IS_UNKNOWN, CONF_IS_OPTION, CONF_IS_NEGATION, CONF_IS_ABSENT, CONF_IS_DEPRECATED } is;
	unsigned index;
	bool no; /* CONF_IS_ABSENT: the --no- form */
};
struct conf_match conf_match(const char *name, size_t len);
/* The known name that `name` may be a part or a misspelling of, or NULL. */
const char *conf_nearest(const char *name, size_t len);
bool conf_takes_value(struct conf_match m);

#define CONF_ENV_CAP 96
/* The environment name of an option or of any flag. */
const char *conf_env_name(const struct conf_option *o, char buf[CONF_ENV_CAP]);
const char *conf_env_of_flag(const char *flag, char buf[CONF_ENV_CAP]);

/* ---- value.c */

int conf_bool_parse(const char *text, bool *out);
/* Sets one field from text; a list gets one more, after those of the same source, or with those of an array in JSON (not from the
 * command line). `where` names the place for messages: "--port", "file:3: port". */
int conf_set(struct conf *c, unsigned option, const char *text, uint8_t source, const char *where, struct why *why);
void conf_list_free(struct conf_list *l);
/* "0 to 65535", "blake3, sha256_cbor, builtin", "" */
void conf_range_text(const struct conf_option *o, char *buf, size_t cap);
const char *conf_enum_text(const struct conf_option *o, const struct conf *c);

/* A name and text from file or environment: an option, a deprecated name, an absent one. Logs the deprecation warning. */
int conf_apply(struct conf *c, struct conf_match m, const char *text, uint8_t source, const char *where,
	       struct why *why);
/* One warning line; returns the option the name now stands for, or -1. */
int conf_warn_deprecated(unsigned index, const char *where);
int conf_refuse_absent(unsigned index, const char *where, struct why *why);

/* ---- placement.c */

/* "auto" or sizes from large to small. 0 or -EINVAL. */
int conf_pages_parse(const char *text, struct conf_pages *out, struct why *why);
/* "0=32G,1=512M" or "0,1"; either all have a size or none. 0 or -EINVAL. */
int conf_map_parse(const char *text, struct conf_map_node out[CONF_MAX_MAP], uint32_t *n, struct why *why);
/* Fills map and pages of the conf, and checks that the options fit each other. */
int conf_placement(struct conf *c, struct why *why);

/* ---- cli.c, file.c, env.c */

/* What the command line gave: the last text for each option (borrowed from argv), NULL where nothing was given. Of lists also those
 * before it, in `more`. */
struct conf_cli {
	const char *value[CONF_OPTIONS];
	struct conf_more {
		unsigned option;
		const char *text;
	} more[2 * CONF_LIST_MAX];
	unsigned nmore;
	bool help, version;
};
int conf_cli_parse(int argc, char **argv, struct conf_cli *out, struct why *why);
int conf_file_read(struct conf *c, const char *path, struct why *why);
/* The same on text in memory; `path` is for messages. */
int conf_file_parse(struct conf *c, const char *path, const char *text, size_t len, struct why *why);
int conf_env_read(struct conf *c, struct why *why);

#endif
