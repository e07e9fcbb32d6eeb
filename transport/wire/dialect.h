/* dialect.h - LMCache MP wire dialects D1..D7 as data.
 *
 * LMCache numbers its request types by declaration order, and every insertion renumbers what follows; nothing on
 * the wire names the version. So a dialect is a table (request number -> operation, accepted payload shapes), the
 * operations have one name each, and no handler ever looks at a number.
 * Source: shared protocol reference, sections 1, 1.1 and 4. Threads: any (constant data).
 */
#ifndef TRANSPORT_WIRE_DIALECT_H
#define TRANSPORT_WIRE_DIALECT_H

#include "daemon/base/slice.h"

#include <stdint.h>

/* Canonical operations. The second column is the newest upstream name, as in the golden vectors. */
#define WIRE_OPS(X)                                                                                    \
	X(REGISTER_KV_CACHE)                                                                           \
	X(UNREGISTER_KV_CACHE)                                                                         \
	X(REGISTER_Q_CACHE)                                                                            \
	X(UNREGISTER_Q_CACHE)                                                                          \
	X(STORE_Q)                                                                                     \
	X(STORE)                                                                                       \
	X(RETRIEVE)                                                                                    \
	X(LOOKUP)                                                                                      \
	X(QUERY_PREFETCH_STATUS)                                                                       \
	X(WAIT_PREFETCH_STATUS)                                                                        \
	X(QUERY_PREFETCH_LOOKUP_HITS)                                                                  \
	X(FREE_LOOKUP_LOCKS)                                                                           \
	X(END_SESSION)                                                                                 \
	X(REGISTER_CPU_CONTEXT) /* D3b request 10: positional fields */                                \
	X(STORE_CPU_CHUNKS)                                                                            \
	X(RETRIEVE_CPU_CHUNKS)                                                                         \
	X(REGISTER_ENGINE_DRIVEN) /* ..._NON_GPU_CONTEXT (D4), ..._ENGINE_DRIVEN_CONTEXT (later) */    \
	X(UNREGISTER_ENGINE_DRIVEN)                                                                    \
	X(PREPARE_STORE)                                                                               \
	X(COMMIT_STORE)                                                                                \
	X(PREPARE_RETRIEVE)                                                                            \
	X(COMMIT_RETRIEVE)                                                                             \
	X(CLEAR)                                                                                       \
	X(GET_CHUNK_SIZE)                                                                              \
	X(PING)                                                                                        \
	X(REPORT_BLOCK_ALLOCATION)                                                                     \
	X(NOOP)                                                                                        \
	X(CB_REGISTER_KV_CACHE)                                                                        \
	X(CB_UNREGISTER_KV_CACHE)                                                                      \
	X(CB_STORE_PRE_COMPUTED)                                                                       \
	X(CB_LOOKUP_PRE_COMPUTED)                                                                      \
	X(CB_RETRIEVE_PRE_COMPUTED) /* flat buffer, V1; in D6 this name is V3's: see CB_RETRIEVE_V3 */ \
	X(CB_STORE_FINAL)                                                                              \
	X(CB_LOOKUP_PRE_COMPUTED_V2)                                                                   \
	X(CB_RETRIEVE_PRE_COMPUTED_V2)                                                                 \
	X(CB_REGISTER_ROPE)                                                                            \
	X(CB_UNREGISTER_ROPE)                                                                          \
	X(CB_RETRIEVE_V3)                                                                              \
	X(CB_UNIFIED_LOOKUP)                                                                           \
	X(P2P_LOOKUP_AND_LOCK)                                                                         \
	X(P2P_QUERY_LOOKUP_RESULTS)                                                                    \
	X(P2P_UNLOCK_OBJECTS)                                                                          \
	X(GET_EXPERIMENTAL)                                                                            \
	X(CB_PROTOCOL_HANDSHAKE)

enum wire_op {
	WIRE_UNKNOWN = 0,
#define X(name) WIRE_##name,
	WIRE_OPS(X)
#undef X
		WIRE_OP_COUNT
};

/* In order of age. D1E is D1 of early March (no PING, no lookup-hits). */
enum wire_dialect {
	WIRE_D1E,
	WIRE_D1,
	WIRE_D2,
	WIRE_D3,
	WIRE_D3B,
	WIRE_D4,
	WIRE_D4V3,
	WIRE_D5A,
	WIRE_D5,
	WIRE_D6,
	WIRE_D7,
	WIRE_DIALECT_COUNT
};

/* Bit d set: dialect d is still possible for a peer. */
typedef uint32_t wire_dialect_set;
#define WIRE_DIALECT_ALL ((wire_dialect_set)((1u << WIRE_DIALECT_COUNT) - 1))

/* "D3b", "D4v3", ...; parsing ignores case and accepts exactly these names. 0 or -EINVAL. */
const char *wire_dialect_name(enum wire_dialect d);
int wire_dialect_parse(struct slice name, enum wire_dialect *out);

/* "STORE", ...: the canonical name above. */
const char *wire_op_name(enum wire_op op);

/* The operation of a request number, WIRE_UNKNOWN when the dialect has none; and back (0 when it has none). */
enum wire_op wire_dialect_op(enum wire_dialect d, uint64_t number);
uint32_t wire_dialect_number(enum wire_dialect d, enum wire_op op);

/* The name upstream used for `op` in dialect `d` ("REGISTER_KV_CACHE_NON_GPU_CONTEXT" in D4), NULL when absent. */
const char *wire_dialect_op_name(enum wire_dialect d, enum wire_op op);

/* Dialects in which `number` with no payload frames is GET_CHUNK_SIZE, every adapter's first request: the probe that
 * recognises a new peer. NOOP collisions are resolved in favour of GET_CHUNK_SIZE (no adapter sends NOOP first). */
wire_dialect_set wire_dialect_probe(uint64_t number);

#endif
