/* wire.h - requests and replies of the LMCache MP protocol, both directions, all dialects.
 *
 * One pair of structs serves every dialect: `wire_req` is the union of what requests carry, `wire_reply` of what
 * replies carry. The shapes (which field stands in which payload frame, by dialect and frame count) are tables in
 * shape.c; decoding and encoding walk the same tables, so they cannot disagree.
 *
 * Who owns what: a decoded request borrows from the payload frames and from the scratch it was given; both must
 * live as long as the request is used. Nothing here allocates except wire_scratch_create.
 * Threads: any; a scratch belongs to one request at a time.
 * What can fail: anything from outside. Decoders return 0 or -EPROTO (malformed, wrong type, wrong frame count),
 * -E2BIG (over a bound), -EOPNOTSUPP (operation without a known shape), and say why.
 * Source of all facts: shared protocol reference, sections 2, 3, 5, 7; golden vectors in tests/golden.
 */
#ifndef TRANSPORT_WIRE_WIRE_H
#define TRANSPORT_WIRE_WIRE_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "transport/wire/dialect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Bounds on what one request may carry. */
#define WIRE_MAX_PAYLOAD_FRAMES 12
#define WIRE_MAX_TENSORS        4096  /* wrappers in kv_caches */
#define WIRE_MAX_WRAPPER        65536 /* bytes of one ext body */
#define WIRE_MAX_GROUPS         64    /* engine groups */
#define WIRE_MAX_NAME           1024  /* model name, request id: bytes */
#define WIRE_MAX_WORLD          255
#define WIRE_MAX_SALT           128 /* characters, as the reference counts: up to four bytes each */
#define WIRE_MAX_SALT_BYTES     (4 * WIRE_MAX_SALT)
#define WIRE_MAX_HASH           64
#define WIRE_MAX_RECORDS        65536      /* records, ranges, matches, object keys of one request */
#define WIRE_MAX_EVENT          256        /* event handles: 64, 81 or the stub's 15 bytes */
#define WIRE_MAX_TOKENS         (8u << 20) /* tokens of one key; also bounded by the scratch */
#define WIRE_STUB_EVENT         "stub_ipc_handle"

/* ---- scratch ------------------------------------------------------------------------------------------------- */

/* Called while a key is decoded, before any token is: `raw` is the first byte of the first token, `avail` the bytes up to
 * the end of the frame, `count` the number of tokens. May declare that the first *tokens tokens, which take *bytes bytes,
 * are known already; they are then not decoded (the prefix cache of daemon/core compares raw bytes). 0/0 = none. */
typedef void (*wire_prefix_fn)(void *ctx, const uint8_t *raw, size_t avail, uint32_t count, uint32_t *tokens,
			       size_t *bytes);

/* Reusable memory for decoding one request: token ids, block ids, slices. Capacity is virtual (mmap, touched on use). */
struct wire_scratch {
	uint32_t *u32;  /* token ids first, then block ids and layer indices */
	size_t u32_cap; /* elements */
	size_t u32_used;
	struct slice *items; /* wrapper bodies; WIRE_MAX_TENSORS */
	uint32_t mark_every; /* chunk size in tokens; 0 = no marks */
	uint32_t *marks;     /* marks[k] = byte offset, from `raw`, of token (k+1)*mark_every; see wire_tokens */
	size_t marks_cap;
	wire_prefix_fn prefix; /* may be NULL */
	void *prefix_ctx;
	uint32_t max_tokens; /* as created, at most WIRE_MAX_TOKENS */
	size_t map_bytes;
};

/* 0 or -ENOMEM. `max_tokens` (at most WIRE_MAX_TOKENS, else that) bounds token ids and, separately, block ids. Every decode
 * starts the scratch anew, so what an earlier decode put there is gone. */
int wire_scratch_create(uint32_t max_tokens, uint32_t mark_every, struct wire_scratch **out);
void wire_scratch_destroy(struct wire_scratch *s);

/* ---- requests ------------------------------------------------------------------------------------------------ */

struct wire_tokens {
	const uint8_t *raw; /* first byte of token 0 in the frame (just behind the array header) */
	size_t raw_bytes;   /* bytes of all tokens */
	uint32_t count;     /* all tokens */
	uint32_t skipped;   /* leading tokens the prefix hook knew; 0 without a hook */
	size_t skipped_bytes;
	const uint32_t *ids;   /* count - skipped ids */
	const uint32_t *marks; /* one per complete chunk not skipped: byte offset from raw of the end of chunk
	                          skipped/mark_every + k. `skipped` must be a multiple of mark_every. */
	uint32_t nmarks;
};

struct wire_key {
	struct slice model;
	uint32_t world_size;
	int32_t worker_id; /* -1 = None: all ranks */
	struct wire_tokens tokens;
	uint64_t start, end; /* tokens, [start, end) */
	struct slice request_id;
	struct slice salt; /* empty when absent */
	bool has_salt;     /* key map had cache_salt: D2 or later */
	bool has_readers;
	int64_t num_kv_readers; /* 0 when absent */
};

struct wire_blocks {
	const uint32_t *ids;
	uint32_t n;
};

struct wire_hints {
	struct slice kv_layout;      /* "NHD", "HND", aliases; empty = absent */
	struct slice kv_list_layout; /* "k_v" */
	uint32_t num_kv_heads, tokens_per_block, head_dim, logical_block_size; /* 0 = absent */
};

struct wire_group_info {
	uint32_t engine_group_id;
	const uint32_t *layer_indices;
	uint32_t nlayers;
	uint32_t tokens_per_block; /* 0 = absent */
	int64_t sw_size_tokens;    /* 0 or negative = no sliding window */
};

/* REGISTER_ENGINE_DRIVEN (one map) and REGISTER_CPU_CONTEXT (positional, D3b). */
struct wire_engine_driven {
	uint32_t block_size, num_layers, hidden_dim_size;
	struct slice dtype; /* "bfloat16", no "torch." */
	bool use_mla;
};

struct wire_object_key { /* P2P */
	struct slice chunk_hash, model, salt;
	uint32_t kv_rank, object_group_id;
};

struct wire_match { /* CBMatchResult */
	uint64_t old_st, old_ed, cur_st, cur_ed;
	struct slice hash;
};

struct wire_range {
	uint64_t start, end;
};

struct wire_rope { /* CB_REGISTER_ROPE; the last two are raw frames */
	uint32_t head_size;
	bool style;
	struct slice group_to_cache, group_rot;
};

struct wire_req {
	enum wire_op op;
	enum wire_dialect dialect;
	bool has_key, has_instance;
	struct wire_key key;
	uint64_t instance_id;    /* a pid, or a random 63-bit number */
	struct slice request_id; /* where it is a frame of its own; else key.request_id */
	uint64_t job_id;         /* D1 QUERY_*; P2P task id; handshake version */
	int64_t tp_size;         /* LOOKUP, FREE_LOOKUP_LOCKS, CB_UNIFIED_LOOKUP */
	uint64_t skip_first_n_tokens;
	uint64_t offset; /* CB_*: offset in the flat buffer */
	double timeout_seconds;
	struct slice event; /* 64, 81 or 15 bytes */
	struct slice data;  /* STORE_CPU_CHUNKS, COMMIT_STORE: a tensor-list pickle, or empty */
	struct wire_blocks blocks[WIRE_MAX_GROUPS];
	uint32_t nblock_groups;
	bool flat_blocks; /* up to D3b: one flat array (blocks[0]) */
	/* registration */
	const struct slice *wrappers; /* ext-1 bodies: pickles */
	uint32_t nwrappers;
	struct slice model;
	uint32_t world_size;
	struct slice engine_type;
	struct wire_hints hints;
	struct wire_group_info groups[WIRE_MAX_GROUPS];
	uint32_t ngroups;
	bool has_groups;
	struct wire_engine_driven ed;
	/* REPORT_BLOCK_ALLOCATION: validated and counted */
	uint32_t nrecords;
	uint64_t record_blocks, record_tokens;
	struct slice records; /* the raw frame */
	/* CB_*, P2P: validated; the raw frame is kept for the engines that will serve them */
	struct slice matches, ranges, object_keys, layouts;
	uint32_t nmatches, nranges, nobject_keys;
	struct wire_rope rope;
};

/* Decodes payload frames of operation `op` as dialect `d` declares them. */
int wire_request_decode(enum wire_dialect d, enum wire_op op, const struct slice *payload, size_t nframes,
			struct wire_scratch *scratch, struct wire_req *out, struct why *why);

/* uid (any unsigned int) and request type (unsigned int, or D7's string): 0 or -EPROTO. */
int wire_uid_decode(struct slice frame, uint64_t *uid);
int wire_type_decode(struct slice frame, uint64_t *number, struct slice *name); /* name.p NULL when a number */

/* Client side: writes uid, type and payload frames of `req` into buf, one after another; frames[] receive the slices.
 * Returns the number of frames (>= 2), -ENOSPC when buf is too small, -EOPNOTSUPP when the dialect lacks the operation.
 * For keys, key.tokens.ids/count (skipped = 0) are the tokens. Optional trailing payload (PING's instance, early forms of
 * REGISTER) follows the newest shape of the dialect, except that has_instance = false makes PING send None where the
 * dialect carries an instance; `nframes_wanted` (0 = newest) picks an older shape by payload frame count; WIRE_FRAMES_NONE
 * asks for the one without payload (PING before June 2026, in a dialect that has both). */
#define WIRE_FRAMES_NONE SIZE_MAX
ssize_t wire_request_encode(enum wire_dialect d, uint64_t uid, const struct wire_req *req, size_t nframes_wanted,
			    void *buf, size_t cap, struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2]);

/* ---- replies ------------------------------------------------------------------------------------------------- */

enum wire_reply_kind {
	WIRE_REPLY_NONE,             /* two frames, no payload */
	WIRE_REPLY_UINT,             /* chunk size, job id, hits */
	WIRE_REPLY_BOOL,             /* PING, COMMIT_*, STORE_CPU_CHUNKS */
	WIRE_REPLY_STR,              /* NOOP: "OK" */
	WIRE_REPLY_EVENT,            /* STORE, RETRIEVE: [bytes, bool] */
	WIRE_REPLY_BOOL_BYTES,       /* RETRIEVE_CPU_CHUNKS: [bool, bytes] */
	WIRE_REPLY_POOL,             /* REGISTER_ENGINE_DRIVEN: {shm_name, pool_size} */
	WIRE_REPLY_PREPARE_STORE,    /* {context: {} | {slots, chunk_indices}} */
	WIRE_REPLY_PREPARE_RETRIEVE, /* {success, data, context: {} | {slots}} */
	WIRE_REPLY_STRS,             /* GET_EXPERIMENTAL */
	WIRE_REPLY_INT_BOOL,         /* CB_PROTOCOL_HANDSHAKE: [int, bool] */
	WIRE_REPLY_RANGES,           /* CB_LOOKUP_PRE_COMPUTED */
	WIRE_REPLY_MATCHES,          /* CB_LOOKUP_PRE_COMPUTED_V2 */
	WIRE_REPLY_P2P_RESULTS,      /* array of {offset int, size} */
};

/* One slot of an engine-driven transfer; all slots of a reply share shape and dtype. */
struct wire_slot {
	uint64_t offset, length;
};

struct wire_slots {
	bool shm; /* false: the empty context of pickle mode (or of a miss) */
	const struct wire_slot *v;
	const uint32_t *chunk_indices; /* PREPARE_STORE only */
	uint32_t n;
	uint64_t shape[4];
	uint32_t ndim;
	struct slice dtype;
};

struct wire_reply {
	enum wire_reply_kind kind;
	uint64_t u;
	bool flag;
	struct slice bytes; /* EVENT, BOOL_BYTES, PREPARE_RETRIEVE.data, STR */
	struct slice shm_name;
	uint64_t pool_size;
	struct wire_slots slots;
	const struct slice *strs;
	uint32_t nstrs;
	const struct wire_range *ranges;
	const struct wire_match *matches;
	const struct wire_slot *p2p; /* offset is signed there: a miss is (uint64_t)-1 */
	uint32_t nitems;
};

/* Writes the payload frame. Returns its size, 0 for WIRE_REPLY_NONE, -ENOSPC when `cap` is too small. */
ssize_t wire_reply_encode(const struct wire_reply *reply, void *buf, size_t cap);
/* An upper bound of what wire_reply_encode writes. */
size_t wire_reply_bound(const struct wire_reply *reply);

/* Client side. `payload.p` NULL = no payload frame. Arrays (slots, indices, ...) are placed in `scratch`. The kind in `out` is
 * the declared one, except WIRE_REPLY_NONE where the reply may be None, and WIRE_REPLY_UINT for a PING answered with an
 * int (u = the int, flag = it is not 2, "unknown here"). -EPROTO, -E2BIG, -EOPNOTSUPP as for requests. */
int wire_reply_decode(enum wire_dialect d, enum wire_op op, struct slice payload, struct wire_scratch *scratch,
		      struct wire_reply *out, struct why *why);

#endif
