/* wire_int.h - how messages are described inside this module.
 *
 * An `item` says how one value travels (its kind), where it lives in a struct, and its bound. A payload frame is one
 * item; a map is an array of items with names. Decoder and encoder both walk these tables.
 */
#ifndef TRANSPORT_WIRE_WIRE_INT_H
#define TRANSPORT_WIRE_WIRE_INT_H

#include "transport/wire/msgpack.h"
#include "transport/wire/wire.h"

/* Sets of dialects. */
#define WIRE_SINCE(d)   (WIRE_DIALECT_ALL & ~((1u << (d)) - 1))
#define WIRE_UPTO(d)    ((1u << ((d) + 1)) - 1)
#define WIRE_SPAN(a, b) (WIRE_SINCE(a) & WIRE_UPTO(b))

/* State of one decode. `at` names the value being read, for the error text. */
struct wire_cur {
	struct mp_in in;
	const char *at;
	struct wire_scratch *scratch;
	enum wire_dialect dialect;
};

/* State of one encode. */
struct wire_pen {
	struct mp_out out;
	enum wire_dialect dialect;
};

enum wire_kind {
	KIND_U32,
	KIND_U64,
	KIND_I64,
	KIND_BOOL,
	KIND_DOUBLE,
	KIND_NAME, /* UTF-8 text, `max` bytes */
	KIND_BIN,
	KIND_CUSTOM,
};

#define ITEM_REQUIRED 1u /* in a map: must be there */
#define ITEM_NIL_OK   2u /* nil counts as absent: the field keeps its zero */
#define ITEM_NONZERO  4u /* 0 is refused */
#define ITEM_OMIT     8u /* in a map: not written when zero or empty */

struct wire_item {
	const char *name;
	enum wire_kind kind;
	unsigned flags;
	size_t off;   /* of the field in the struct the item belongs to; KIND_CUSTOM: unused */
	uint64_t max; /* value, or bytes */
	bool (*get)(struct wire_cur *c, void *obj);
	void (*put)(struct wire_pen *pen, const void *obj);
	bool (*has)(const struct wire_pen *pen, const void *obj); /* in a map: written at all? NULL = yes */
};

#define WIRE_MAX_MEMBERS 32   /* items of one map description */
#define WIRE_MAX_PAIRS   1024 /* entries of one map received, unknown ones included */

bool wire_get_item(struct wire_cur *c, const struct wire_item *item, void *obj);
void wire_put_item(struct wire_pen *pen, const struct wire_item *item, const void *obj);

/* A map: entries by name in any order, unknown ones skipped, a known one twice refused. *seen (may be NULL) receives
 * bit i for items[i]. */
bool wire_get_map(struct wire_cur *c, const struct wire_item *items, size_t n, void *obj, uint32_t *seen);
void wire_put_map(struct wire_pen *pen, const struct wire_item *items, size_t n, const void *obj);

/* UTF-8 without overlong forms and surrogates; *chars (may be NULL) receives the number of code points. */
bool wire_utf8(struct slice s, size_t *chars);
/* A str that is UTF-8, at most `max` bytes. */
bool wire_get_name(struct wire_cur *c, size_t max, struct slice *out);
/* True when `s` holds one of the bytes of `set` or NUL. */
bool wire_has_any(struct slice s, const char *set);

/* n integers into the scratch. */
bool wire_get_u32s(struct wire_cur *c, uint32_t n, const uint32_t **out);
/* Room of n * size bytes in the scratch, 8-byte aligned; NULL (and the reader failed) when it is full. */
void *wire_take(struct wire_cur *c, size_t n, size_t size);
void wire_scratch_reset(struct wire_scratch *s);
void wire_put_u32s(struct wire_pen *pen, const uint32_t *v, uint32_t n);

/* -E2BIG or -EPROTO for a failed reader. */
int wire_in_error(const struct mp_in *in);

/* Parts of messages that live in files of their own. */
extern const struct wire_item wire_match_items[];
#define WIRE_MATCH_ITEMS 5
bool wire_get_range(struct wire_cur *c, struct wire_range *out);
bool wire_get_key(struct wire_cur *c, void *obj);
void wire_put_key(struct wire_pen *pen, const void *obj);
bool wire_get_model(struct wire_cur *c, struct slice *out);
bool wire_get_salt(struct wire_cur *c, struct slice *out);

/* Payload fields: key.c, field.c, blend.c. */
#define WIRE_FIELDS(X)    \
	X(KEY)            \
	X(INSTANCE)       \
	X(INSTANCE_OPT)   \
	X(WRAPPERS)       \
	X(MODEL)          \
	X(WORLD)          \
	X(ENGINE)         \
	X(HINTS)          \
	X(GROUPS)         \
	X(BLOCKS_FLAT)    \
	X(BLOCKS)         \
	X(EVENT)          \
	X(SKIP)           \
	X(REQUEST_ID)     \
	X(JOB_ID)         \
	X(TP_SIZE)        \
	X(TIMEOUT)        \
	X(DATA)           \
	X(OFFSET)         \
	X(RANGES)         \
	X(MATCHES)        \
	X(RECORDS)        \
	X(ENGINE_DRIVEN)  \
	X(BLOCK_SIZE)     \
	X(NUM_LAYERS)     \
	X(HIDDEN)         \
	X(DTYPE)          \
	X(USE_MLA)        \
	X(OBJECT_KEYS)    \
	X(LAYOUTS)        \
	X(HEAD_SIZE)      \
	X(ROPE_STYLE)     \
	X(GROUP_TO_CACHE) \
	X(GROUP_ROT)

enum wire_field {
	F_END = 0,
#define X(name) F_##name,
	WIRE_FIELDS(X)
#undef X
		F_COUNT
};
const struct wire_item *wire_field_item(enum wire_field f);

/* One payload shape of an operation, in one or more dialects, and the type of its reply. */
struct wire_shape {
	wire_dialect_set dialects;
	uint8_t op;
	uint8_t reply;                           /* enum wire_reply_kind */
	bool reply_maybe;                        /* the reply may be None as well */
	uint8_t fields[WIRE_MAX_PAYLOAD_FRAMES]; /* enum wire_field, F_END ends */
};

size_t wire_shape_frames(const struct wire_shape *s);
/* The shape with `nframes` payload frames, the newest one. NULL when the dialect has none. */
const struct wire_shape *wire_shape_find(enum wire_dialect d, enum wire_op op, size_t nframes);
const struct wire_shape *wire_shape_newest(enum wire_dialect d, enum wire_op op);

#endif
