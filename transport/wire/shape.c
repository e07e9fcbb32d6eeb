/* The payload shapes (reference section 7). Rows of one operation stand in order of age: the last that fits is the newest. */
#include "transport/wire/wire_int.h"

#define ALL WIRE_DIALECT_ALL

#define SHAPE(op, dialects, reply, maybe, ...)                  \
	{                                                       \
		dialects, WIRE_##op, WIRE_REPLY_##reply, maybe, \
		{                                               \
			__VA_ARGS__                             \
		}                                               \
	}

static const struct wire_shape shapes[] = {
	SHAPE(REGISTER_KV_CACHE, WIRE_UPTO(WIRE_D1), NONE, false, F_INSTANCE, F_WRAPPERS, F_MODEL, F_WORLD),
	SHAPE(REGISTER_KV_CACHE, WIRE_SPAN(WIRE_D1, WIRE_D2), NONE, false, F_INSTANCE, F_WRAPPERS, F_MODEL, F_WORLD,
	      F_HINTS),
	SHAPE(REGISTER_KV_CACHE, WIRE_SPAN(WIRE_D3, WIRE_D4), NONE, false, F_INSTANCE, F_WRAPPERS, F_MODEL, F_WORLD,
	      F_ENGINE, F_HINTS),
	SHAPE(REGISTER_KV_CACHE, WIRE_SINCE(WIRE_D4), NONE, false, F_INSTANCE, F_WRAPPERS, F_MODEL, F_WORLD, F_ENGINE,
	      F_HINTS, F_GROUPS),
	SHAPE(UNREGISTER_KV_CACHE, ALL, NONE, false, F_INSTANCE),

	SHAPE(STORE, WIRE_UPTO(WIRE_D3B), EVENT, false, F_KEY, F_INSTANCE, F_BLOCKS_FLAT, F_EVENT),
	SHAPE(STORE, WIRE_SINCE(WIRE_D4), EVENT, false, F_KEY, F_INSTANCE, F_BLOCKS, F_EVENT),
	SHAPE(RETRIEVE, WIRE_UPTO(WIRE_D3B), EVENT, false, F_KEY, F_INSTANCE, F_BLOCKS_FLAT, F_EVENT, F_SKIP),
	SHAPE(RETRIEVE, WIRE_SINCE(WIRE_D4), EVENT, false, F_KEY, F_INSTANCE, F_BLOCKS, F_EVENT, F_SKIP),

	SHAPE(LOOKUP, WIRE_UPTO(WIRE_D1), UINT, false, F_KEY, F_TP_SIZE),
	SHAPE(LOOKUP, WIRE_SINCE(WIRE_D2), NONE, false, F_KEY, F_TP_SIZE),
	SHAPE(QUERY_PREFETCH_STATUS, WIRE_UPTO(WIRE_D1), UINT, true, F_JOB_ID),
	SHAPE(QUERY_PREFETCH_STATUS, WIRE_SINCE(WIRE_D2), UINT, true, F_REQUEST_ID),
	SHAPE(WAIT_PREFETCH_STATUS, ALL, UINT, true, F_REQUEST_ID, F_TIMEOUT),
	SHAPE(QUERY_PREFETCH_LOOKUP_HITS, WIRE_UPTO(WIRE_D1), UINT, true, F_JOB_ID),
	SHAPE(QUERY_PREFETCH_LOOKUP_HITS, WIRE_SINCE(WIRE_D2), UINT, true, F_REQUEST_ID),
	SHAPE(FREE_LOOKUP_LOCKS, ALL, NONE, false, F_KEY, F_TP_SIZE),
	SHAPE(END_SESSION, ALL, NONE, false, F_REQUEST_ID),

	SHAPE(REGISTER_CPU_CONTEXT, ALL, NONE, false, F_INSTANCE, F_MODEL, F_WORLD, F_ENGINE, F_HINTS, F_BLOCK_SIZE,
	      F_NUM_LAYERS, F_HIDDEN, F_DTYPE, F_USE_MLA),
	SHAPE(STORE_CPU_CHUNKS, ALL, BOOL, false, F_KEY, F_INSTANCE, F_DATA),
	SHAPE(RETRIEVE_CPU_CHUNKS, ALL, BOOL_BYTES, false, F_KEY, F_INSTANCE),

	SHAPE(REGISTER_ENGINE_DRIVEN, ALL, POOL, false, F_ENGINE_DRIVEN),
	SHAPE(UNREGISTER_ENGINE_DRIVEN, ALL, NONE, false, F_INSTANCE),
	SHAPE(PREPARE_STORE, ALL, PREPARE_STORE, false, F_KEY, F_INSTANCE),
	SHAPE(COMMIT_STORE, ALL, BOOL, false, F_KEY, F_INSTANCE, F_DATA),
	SHAPE(PREPARE_RETRIEVE, ALL, PREPARE_RETRIEVE, false, F_KEY, F_INSTANCE),
	SHAPE(COMMIT_RETRIEVE, ALL, BOOL, false, F_KEY, F_INSTANCE),

	SHAPE(CLEAR, ALL, NONE, false, F_END),
	SHAPE(GET_CHUNK_SIZE, ALL, UINT, false, F_END),
	SHAPE(PING, WIRE_UPTO(WIRE_D7), BOOL, false, F_END),
	SHAPE(PING, WIRE_SINCE(WIRE_D4), BOOL, false, F_INSTANCE_OPT),
	SHAPE(REPORT_BLOCK_ALLOCATION, ALL, NONE, false, F_INSTANCE, F_MODEL, F_RECORDS),
	SHAPE(NOOP, ALL, STR, false, F_END),

	SHAPE(CB_REGISTER_KV_CACHE, ALL, NONE, false, F_INSTANCE, F_WRAPPERS, F_MODEL, F_WORLD),
	SHAPE(CB_UNREGISTER_KV_CACHE, ALL, NONE, false, F_INSTANCE),
	SHAPE(CB_STORE_PRE_COMPUTED, ALL, EVENT, false, F_KEY, F_OFFSET, F_INSTANCE, F_EVENT),
	SHAPE(CB_LOOKUP_PRE_COMPUTED, ALL, RANGES, false, F_KEY),
	SHAPE(CB_RETRIEVE_PRE_COMPUTED, ALL, EVENT, false, F_KEY, F_RANGES, F_OFFSET, F_INSTANCE, F_EVENT),
	SHAPE(CB_STORE_FINAL, ALL, EVENT, false, F_KEY, F_OFFSET, F_INSTANCE, F_EVENT),
	SHAPE(CB_LOOKUP_PRE_COMPUTED_V2, ALL, MATCHES, false, F_KEY),
	SHAPE(CB_RETRIEVE_PRE_COMPUTED_V2, ALL, EVENT, false, F_KEY, F_MATCHES, F_OFFSET, F_INSTANCE, F_EVENT),
	SHAPE(CB_REGISTER_ROPE, ALL, NONE, false, F_INSTANCE, F_WRAPPERS, F_HEAD_SIZE, F_ROPE_STYLE, F_GROUP_TO_CACHE),
	SHAPE(CB_REGISTER_ROPE, ALL, NONE, false, F_INSTANCE, F_WRAPPERS, F_HEAD_SIZE, F_ROPE_STYLE, F_GROUP_TO_CACHE,
	      F_GROUP_ROT),
	SHAPE(CB_UNREGISTER_ROPE, ALL, NONE, false, F_INSTANCE),
	SHAPE(CB_RETRIEVE_V3, ALL, EVENT, false, F_KEY, F_MATCHES, F_BLOCKS, F_INSTANCE, F_EVENT),
	SHAPE(CB_UNIFIED_LOOKUP, ALL, NONE, false, F_KEY, F_TP_SIZE), /* or a map, which only Blend sends */
	SHAPE(CB_PROTOCOL_HANDSHAKE, ALL, INT_BOOL, false, F_JOB_ID),

	SHAPE(P2P_LOOKUP_AND_LOCK, ALL, UINT, false, F_OBJECT_KEYS, F_LAYOUTS),
	SHAPE(P2P_QUERY_LOOKUP_RESULTS, ALL, P2P_RESULTS, true, F_JOB_ID),
	SHAPE(P2P_UNLOCK_OBJECTS, ALL, NONE, false, F_OBJECT_KEYS),
	SHAPE(GET_EXPERIMENTAL, ALL, STRS, false, F_END),
};

size_t wire_shape_frames(const struct wire_shape *s)
{
	size_t n = 0;

	while (n < WIRE_MAX_PAYLOAD_FRAMES && s->fields[n] != F_END)
		n++;
	return n;
}

/* `nframes` NULL: any number. */
static const struct wire_shape *find(enum wire_dialect d, enum wire_op op, const size_t *nframes)
{
	const struct wire_shape *found = NULL;

	if (wire_dialect_number(d, op) == 0)
		return NULL;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		const struct wire_shape *s = &shapes[i];

		if (s->op == op && (s->dialects >> d & 1) && (!nframes || wire_shape_frames(s) == *nframes))
			found = s;
	}
	return found;
}

const struct wire_shape *wire_shape_find(enum wire_dialect d, enum wire_op op, size_t nframes)
{
	return find(d, op, &nframes);
}

const struct wire_shape *wire_shape_newest(enum wire_dialect d, enum wire_op op)
{
	return find(d, op, NULL);
}
