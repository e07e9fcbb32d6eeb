/* conf_table.c - the tables of types and keys. */
#include "daemon/l2/l2_int.h"

#include <string.h>

const struct l2_type_row l2_types[L2_TYPES] = {
#define L2_TYPE(id, name, create, what) [L2_##id] = {name, what, create},
#define L2_UNSERVED(name, what)
#include "daemon/l2/types.def"
#undef L2_TYPE
#undef L2_UNSERVED
};

static const struct {
	const char *name, *why;
} unserved[] = {
#define L2_TYPE(id, name, create, what)
#define L2_UNSERVED(name, what) {name, what},
#include "daemon/l2/types.def"
#undef L2_TYPE
#undef L2_UNSERVED
};

#define ON_RAW   (1u << L2_RAW_BLOCK)
#define ON_FS    (1u << L2_FS | 1u << L2_FS_NATIVE)
#define ON_MOCK  (1u << L2_MOCK)
#define ON_FAULT (1u << L2_FAULT_INJECT)
#define ON_RESP  (1u << L2_RESP)
#define ON_ALL   ((1u << L2_TYPES) - 1)
#define REQ      L2_REQUIRED
#define SEC      L2_SECRET

const struct l2_key l2_keys[] = {
#define KEY(types, name, kind, def, min, max, use, flags, choices, what) \
	{types, name, L2_KIND_##kind, def, min, max, L2_KEY_##use, flags, choices, what},
#include "daemon/l2/keys.def"
#undef KEY
};
const uint32_t l2_nkeys = sizeof(l2_keys) / sizeof(l2_keys[0]);

const char *l2_unserved(const char *name)
{
	for (size_t i = 0; i < sizeof(unserved) / sizeof(unserved[0]); i++)
		if (strcmp(unserved[i].name, name) == 0)
			return unserved[i].why;
	return NULL;
}

const struct l2_key *l2_key_find(enum l2_type type, const char *name)
{
	for (uint32_t i = 0; i < l2_nkeys; i++)
		if (l2_keys[i].types >> type & 1 && strcmp(l2_keys[i].name, name) == 0)
			return &l2_keys[i];
	return NULL;
}
