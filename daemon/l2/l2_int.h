/* l2_int.h - what the files of this module share.
 *
 *   types.def, keys.def   every type and every key, declared once
 *   conf_table.c          the tables, finding rows in them        conf.c      parsing and checking one --l2-adapter
 *   conf_get.c            values of a parsed one                  conf_doc.c  docs/l2-adapters.md
 *   l2.c                  creation                                delay.c     a thread that lets operations through when they are due
 *   raw*.c breaker.c      raw_block                               mock.c fault.c fs*.c resp*.c
 */
#ifndef DAEMON_L2_L2_INT_H
#define DAEMON_L2_L2_INT_H

#include "daemon/l2/l2.h"

#include <stddef.h>

/* ---- types and keys -------------------------------------------------------------------------------------------------- */

enum l2_type {
#define L2_TYPE(id, name, create, what) L2_##id,
#define L2_UNSERVED(name, what)
#include "daemon/l2/types.def"
#undef L2_TYPE
#undef L2_UNSERVED
	L2_TYPES
};

enum l2_kind { L2_KIND_BOOL, L2_KIND_INT, L2_KIND_REAL, L2_KIND_TEXT, L2_KIND_OBJECT, L2_KIND_LIST };
enum l2_use { L2_KEY_USED, L2_KEY_QUIET, L2_KEY_REFUSED };

struct l2_key {
	uint32_t types; /* 1 << enum l2_type */
	const char *name;
	enum l2_kind kind;
	const char *def;
	double min, max;
	enum l2_use use;
	uint32_t flags;
	const char *choices, *what;
};
#define L2_REQUIRED 1u
#define L2_SECRET   2u

extern const struct l2_key l2_keys[];
extern const uint32_t l2_nkeys;

typedef int (*l2_create_fn)(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);
struct l2_type_row {
	const char *name, *what;
	l2_create_fn create;
};
extern const struct l2_type_row l2_types[L2_TYPES];
/* Why a type of upstream's is not served; NULL: nobody knows it. */
const char *l2_unserved(const char *name);
/* The row of a key of a type; NULL: it has none. */
const struct l2_key *l2_key_find(enum l2_type type, const char *name);

int l2_raw_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);
int l2_mock_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);
int l2_fs_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);
int l2_resp_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);
int l2_fault_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why);

/* ---- a parsed configuration ----------------------------------------------------------------------------------------------- */

struct l2_conf {
	enum l2_type type;
	uint32_t index;
	json_t *given;         /* checked: kinds, ranges, choices */
	struct l2_conf *inner; /* fault_inject */
};

#define L2_CONF_MAX   (64u << 10) /* bytes of one --l2-adapter */
#define L2_CONF_DEPTH 8u

/* Checks an object that was parsed already; takes no reference of it. */
int l2_conf_from(json_t *object, uint32_t index, struct l2_conf **out, struct why *why);

/* Values, or the defaults of the table; "a.b" for key b of object a. The key must be in the table for this type, with that kind: that is
 * asserted. Texts live as long as the conf; NULL or 0 where there is neither value nor default. */
bool l2_conf_has(const struct l2_conf *c, const char *key); /* given, and not null */
bool l2_conf_bool(const struct l2_conf *c, const char *key);
int64_t l2_conf_int(const struct l2_conf *c, const char *key);
double l2_conf_real(const struct l2_conf *c, const char *key);
const char *l2_conf_text(const struct l2_conf *c, const char *key);
uint32_t l2_conf_count(const struct l2_conf *c, const char *key); /* of a list */
const char *l2_conf_item(const struct l2_conf *c, const char *key, uint32_t i);
/* A REAL key in GiB, as bytes. */
uint64_t l2_conf_gib(const struct l2_conf *c, const char *key);

/* ---- a thread that delays ----------------------------------------------------------------------------------------------------- */

/* Calls `due` for each io at its time, in order of time, on one thread; ios with UINT64_MAX only when it is stopped. Uses io->next and
 * io->priv[0]. */
struct l2_delay;
int l2_delay_start(const struct l2_env *env, const char *name, void (*due)(void *ctx, struct l2_io *io, bool cancelled),
		   void *ctx, struct l2_delay **out, struct why *why);
void l2_delay_put(struct l2_delay *d, struct l2_io *io, uint64_t at_ns);
/* What is left is called with `cancelled`, then the thread ends. No put may come later. */
void l2_delay_stop(struct l2_delay *d);

#endif
