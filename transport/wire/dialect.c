/* The numbers of every dialect, in declaration order: index = request number. Upstream numbers contiguously from 1. */
#include "transport/wire/wire_int.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define KV_CACHE       WIRE_REGISTER_KV_CACHE, WIRE_UNREGISTER_KV_CACHE
#define Q_CACHE        WIRE_REGISTER_Q_CACHE, WIRE_UNREGISTER_Q_CACHE, WIRE_STORE_Q
#define STORE_TO_QUERY WIRE_STORE, WIRE_RETRIEVE, WIRE_LOOKUP, WIRE_QUERY_PREFETCH_STATUS
#define FREE_AND_END   WIRE_FREE_LOOKUP_LOCKS, WIRE_END_SESSION
#define HITS_TO_END    WIRE_QUERY_PREFETCH_LOOKUP_HITS, FREE_AND_END
#define CPU_CHUNKS     WIRE_REGISTER_CPU_CONTEXT, WIRE_STORE_CPU_CHUNKS, WIRE_RETRIEVE_CPU_CHUNKS
#define ENGINE_DRIVEN                                                                                      \
	WIRE_REGISTER_ENGINE_DRIVEN, WIRE_UNREGISTER_ENGINE_DRIVEN, WIRE_PREPARE_STORE, WIRE_COMMIT_STORE, \
		WIRE_PREPARE_RETRIEVE, WIRE_COMMIT_RETRIEVE
#define CLEAR_TO_PING WIRE_CLEAR, WIRE_GET_CHUNK_SIZE, WIRE_PING
#define CLEAR_TO_NOOP CLEAR_TO_PING, WIRE_REPORT_BLOCK_ALLOCATION, WIRE_NOOP
#define BLEND_V1_V2                                                                              \
	WIRE_CB_REGISTER_KV_CACHE, WIRE_CB_UNREGISTER_KV_CACHE, WIRE_CB_STORE_PRE_COMPUTED,      \
		WIRE_CB_LOOKUP_PRE_COMPUTED, WIRE_CB_RETRIEVE_PRE_COMPUTED, WIRE_CB_STORE_FINAL, \
		WIRE_CB_LOOKUP_PRE_COMPUTED_V2, WIRE_CB_RETRIEVE_PRE_COMPUTED_V2
#define BLEND_V3 WIRE_CB_REGISTER_ROPE, WIRE_CB_UNREGISTER_ROPE, WIRE_CB_RETRIEVE_V3, WIRE_CB_UNIFIED_LOOKUP
#define P2P      WIRE_P2P_LOOKUP_AND_LOCK, WIRE_P2P_QUERY_LOOKUP_RESULTS, WIRE_P2P_UNLOCK_OBJECTS

static const uint8_t d1e[] = {0,         KV_CACHE,   STORE_TO_QUERY, FREE_AND_END, WIRE_CLEAR, WIRE_GET_CHUNK_SIZE,
			      WIRE_NOOP, BLEND_V1_V2};
static const uint8_t d1[] = {0, KV_CACHE, STORE_TO_QUERY, HITS_TO_END, CLEAR_TO_PING, WIRE_NOOP, BLEND_V1_V2};
static const uint8_t d2[] = {0, KV_CACHE, STORE_TO_QUERY, HITS_TO_END, CLEAR_TO_NOOP, BLEND_V1_V2};
static const uint8_t d3b[] = {0, KV_CACHE, STORE_TO_QUERY, HITS_TO_END, CPU_CHUNKS, CLEAR_TO_NOOP, BLEND_V1_V2};
static const uint8_t d4[] = {0, KV_CACHE, STORE_TO_QUERY, HITS_TO_END, ENGINE_DRIVEN, CLEAR_TO_NOOP, BLEND_V1_V2};
static const uint8_t d4v3[] = {
	0, KV_CACHE, STORE_TO_QUERY, HITS_TO_END, ENGINE_DRIVEN, CLEAR_TO_NOOP, BLEND_V1_V2, BLEND_V3, P2P};
static const uint8_t d5a[] = {0,
			      KV_CACHE,
			      STORE_TO_QUERY,
			      WIRE_WAIT_PREFETCH_STATUS,
			      HITS_TO_END,
			      ENGINE_DRIVEN,
			      CLEAR_TO_NOOP,
			      BLEND_V1_V2,
			      BLEND_V3,
			      P2P};
static const uint8_t d5[] = {0,
			     KV_CACHE,
			     Q_CACHE,
			     STORE_TO_QUERY,
			     WIRE_WAIT_PREFETCH_STATUS,
			     HITS_TO_END,
			     ENGINE_DRIVEN,
			     CLEAR_TO_NOOP,
			     BLEND_V1_V2,
			     BLEND_V3,
			     P2P,
			     WIRE_GET_EXPERIMENTAL};
static const uint8_t d6[] = {0,
			     KV_CACHE,
			     Q_CACHE,
			     STORE_TO_QUERY,
			     WIRE_WAIT_PREFETCH_STATUS,
			     HITS_TO_END,
			     ENGINE_DRIVEN,
			     CLEAR_TO_NOOP,
			     BLEND_V3,
			     P2P,
			     WIRE_GET_EXPERIMENTAL,
			     WIRE_CB_PROTOCOL_HANDSHAKE};

struct table {
	const char *name;
	const uint8_t *ops;
	uint32_t n; /* entries, number 0 included */
};

#define TABLE(text, ops)                         \
	{                                        \
		text, ops, (uint32_t)sizeof(ops) \
	}

static const struct table tables[WIRE_DIALECT_COUNT] = {
	[WIRE_D1E] = TABLE("D1E", d1e), [WIRE_D1] = TABLE("D1", d1), [WIRE_D2] = TABLE("D2", d2),
	[WIRE_D3] = TABLE("D3", d2), /* differs from D2 in shapes only */
	[WIRE_D3B] = TABLE("D3b", d3b), [WIRE_D4] = TABLE("D4", d4), [WIRE_D4V3] = TABLE("D4v3", d4v3),
	[WIRE_D5A] = TABLE("D5a", d5a), [WIRE_D5] = TABLE("D5", d5), [WIRE_D6] = TABLE("D6", d6),
	[WIRE_D7] = TABLE("D7", d6), /* integers are frozen; newer operations travel by name */
};

/* Names that differ from the canonical one, by the dialects that used them. */
static const struct {
	uint8_t op;
	wire_dialect_set in;
	const char *name;
} renamed[] = {
	{WIRE_REGISTER_CPU_CONTEXT, 1u << WIRE_D3B, "REGISTER_KV_CACHE_NON_GPU_CONTEXT"},
	{WIRE_REGISTER_ENGINE_DRIVEN, 1u << WIRE_D4, "REGISTER_KV_CACHE_NON_GPU_CONTEXT"},
	{WIRE_UNREGISTER_ENGINE_DRIVEN, 1u << WIRE_D4, "UNREGISTER_KV_CACHE_NON_GPU_CONTEXT"},
	{WIRE_REGISTER_ENGINE_DRIVEN, WIRE_SINCE(WIRE_D4V3), "REGISTER_KV_CACHE_ENGINE_DRIVEN_CONTEXT"},
	{WIRE_UNREGISTER_ENGINE_DRIVEN, WIRE_SINCE(WIRE_D4V3), "UNREGISTER_KV_CACHE_ENGINE_DRIVEN_CONTEXT"},
	{WIRE_CB_REGISTER_ROPE, WIRE_UPTO(WIRE_D5), "CB_REGISTER_ROPE_V3"},
	{WIRE_CB_UNREGISTER_ROPE, WIRE_UPTO(WIRE_D5), "CB_UNREGISTER_ROPE_V3"},
	{WIRE_CB_RETRIEVE_V3, WIRE_UPTO(WIRE_D5), "CB_RETRIEVE_PRE_COMPUTED_V3"},
	{WIRE_CB_RETRIEVE_V3, WIRE_SINCE(WIRE_D6), "CB_RETRIEVE_PRE_COMPUTED"},
};

static const char *const op_names[WIRE_OP_COUNT] = {[WIRE_UNKNOWN] = "UNKNOWN",
#define X(name) [WIRE_##name] = #name,
						    WIRE_OPS(X)
#undef X
};

const char *wire_dialect_name(enum wire_dialect d)
{
	return (unsigned)d < WIRE_DIALECT_COUNT ? tables[d].name : "?";
}

int wire_dialect_parse(struct slice name, enum wire_dialect *out)
{
	for (unsigned d = 0; d < WIRE_DIALECT_COUNT; d++) {
		if (strlen(tables[d].name) == name.n && strncasecmp(tables[d].name, name.p, name.n) == 0) {
			*out = (enum wire_dialect)d;
			return 0;
		}
	}
	return -EINVAL;
}

const char *wire_op_name(enum wire_op op)
{
	return (unsigned)op < WIRE_OP_COUNT ? op_names[op] : op_names[WIRE_UNKNOWN];
}

enum wire_op wire_dialect_op(enum wire_dialect d, uint64_t number)
{
	if ((unsigned)d >= WIRE_DIALECT_COUNT || number >= tables[d].n)
		return WIRE_UNKNOWN;
	return (enum wire_op)tables[d].ops[number];
}

uint32_t wire_dialect_number(enum wire_dialect d, enum wire_op op)
{
	if ((unsigned)d >= WIRE_DIALECT_COUNT || op == WIRE_UNKNOWN)
		return 0;
	for (uint32_t i = 1; i < tables[d].n; i++) {
		if (tables[d].ops[i] == op)
			return i;
	}
	return 0;
}

const char *wire_dialect_op_name(enum wire_dialect d, enum wire_op op)
{
	if (wire_dialect_number(d, op) == 0)
		return NULL;
	for (size_t i = 0; i < sizeof(renamed) / sizeof(renamed[0]); i++) {
		if (renamed[i].op == op && (renamed[i].in >> d & 1))
			return renamed[i].name;
	}
	return op_names[op];
}

wire_dialect_set wire_dialect_probe(uint64_t number)
{
	wire_dialect_set set = 0;

	for (unsigned d = 0; d < WIRE_DIALECT_COUNT; d++) {
		if (wire_dialect_op((enum wire_dialect)d, number) == WIRE_GET_CHUNK_SIZE)
			set |= 1u << d;
	}
	return set;
}
