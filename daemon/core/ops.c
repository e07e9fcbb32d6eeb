/* ops.c - the table of operations, their negative answers, and those that need no more than a line. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

static void none(struct outcome *o)
{
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}

static void op_get_chunk_size(struct exec *e, struct wire_req *r, struct outcome *o)
{
	(void)r;
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_UINT, .u = e->srv->chash.chunk_tokens};
}

/* True in every dialect up to D6; newer clients still accept it. */
static void op_ping(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct ctx *c = r->has_instance ? ctx_get(e->srv->contexts, r->instance_id) : NULL;

	if (c)
		ctx_seen(c, clock_ms(), true);
	ctx_put(e->srv->contexts, c);
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_BOOL, .flag = true};
	if (!c && r->has_instance)
		o->reply.flag = !device_was_lost(e->srv, r->instance_id);
}

static void op_noop(struct exec *e, struct wire_req *r, struct outcome *o)
{
	(void)e;
	(void)r;
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_STR, .bytes = slice_str("OK")};
}

static void op_clear(struct exec *e, struct wire_req *r, struct outcome *o)
{
	static struct log_limit limit;
	uint64_t n = store_clear(e->srv->store), dropped;

	(void)r;
	if (log_burst_pass(&limit, 20, 200, &dropped))
		log_info("CLEAR: %llu objects removed from L1%s", (unsigned long long)n, dropped ? " (and more)" : "");
	none(o);
}

static void op_report(struct exec *e, struct wire_req *r, struct outcome *o)
{
	(void)e;
	(void)r;
	none(o);
}

static void op_experimental(struct exec *e, struct wire_req *r, struct outcome *o)
{
	(void)e;
	(void)r;
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_STRS};
}

#define ROW(op_, lane_, heavy_, keyed_, run_) [WIRE_##op_] = {WIRE_##op_, lane_, heavy_, keyed_, run_}
static const struct op_def ops[WIRE_OP_COUNT] = {
	ROW(GET_CHUNK_SIZE, LANE_CONTROL, false, false, op_get_chunk_size),
	ROW(PING, LANE_CONTROL, false, false, op_ping),
	ROW(NOOP, LANE_CONTROL, false, false, op_noop),
	ROW(REPORT_BLOCK_ALLOCATION, LANE_CONTROL, false, false, op_report),
	ROW(GET_EXPERIMENTAL, LANE_CONTROL, false, false, op_experimental),
	ROW(CLEAR, LANE_LOOKUP, true, false, op_clear), /* milliseconds for millions of objects */
	ROW(LOOKUP, LANE_LOOKUP, false, true, op_lookup),
	ROW(QUERY_PREFETCH_STATUS, LANE_LOOKUP, false, false, op_query_status),
	ROW(WAIT_PREFETCH_STATUS, LANE_LOOKUP, false, false, op_wait_status),
	ROW(QUERY_PREFETCH_LOOKUP_HITS, LANE_LOOKUP, false, false, op_query_hits),
	ROW(FREE_LOOKUP_LOCKS, LANE_LOOKUP, false, true, op_free_lookup_locks),
	ROW(END_SESSION, LANE_LOOKUP, false, false, op_end_session),
	/* mapping, unmapping, reading /proc: tens of milliseconds for large caches */
	ROW(REGISTER_KV_CACHE, LANE_TRANSFER, true, false, op_register_kv_cache),
	ROW(UNREGISTER_KV_CACHE, LANE_TRANSFER, true, false, op_unregister),
	ROW(REGISTER_CPU_CONTEXT, LANE_TRANSFER, true, false, op_register_cpu_context),
	ROW(REGISTER_ENGINE_DRIVEN, LANE_TRANSFER, true, false, op_register_engine_driven),
	ROW(UNREGISTER_ENGINE_DRIVEN, LANE_TRANSFER, true, false, op_unregister),
	ROW(STORE, LANE_TRANSFER, true, true, op_store),
	ROW(RETRIEVE, LANE_TRANSFER, true, true, op_retrieve),
	ROW(STORE_CPU_CHUNKS, LANE_TRANSFER, true, true, op_store_cpu_chunks),
	ROW(RETRIEVE_CPU_CHUNKS, LANE_TRANSFER, true, true, op_retrieve_cpu_chunks),
	ROW(PREPARE_STORE, LANE_TRANSFER, false, true, op_prepare_store),
	ROW(COMMIT_STORE, LANE_TRANSFER, false, true, op_commit_store),
	ROW(PREPARE_RETRIEVE, LANE_TRANSFER, false, true, op_prepare_retrieve),
	ROW(COMMIT_RETRIEVE, LANE_TRANSFER, false, true, op_commit_retrieve),
};

const struct op_def *op_def(enum wire_op op)
{
	return op < WIRE_OP_COUNT && ops[op].run ? &ops[op] : NULL;
}

bool op_negative(struct server *srv, enum wire_dialect d, enum wire_op op, struct wire_reply *out)
{
	*out = (struct wire_reply){.kind = WIRE_REPLY_NONE, .bytes = slice_of("", 0)};
	switch (op) {
	case WIRE_STORE:
	case WIRE_RETRIEVE:
		out->kind = WIRE_REPLY_EVENT;
		return true;
	case WIRE_LOOKUP:
		out->kind = d <= WIRE_D1 ? WIRE_REPLY_UINT : WIRE_REPLY_NONE; /* job 0 is never given out: 0 hits */
		return true;
	case WIRE_QUERY_PREFETCH_STATUS:
	case WIRE_WAIT_PREFETCH_STATUS:
	case WIRE_QUERY_PREFETCH_LOOKUP_HITS:
		out->kind = WIRE_REPLY_UINT;
		return true;
	case WIRE_STORE_CPU_CHUNKS:
	case WIRE_COMMIT_STORE:
	case WIRE_COMMIT_RETRIEVE:
		out->kind = WIRE_REPLY_BOOL;
		return true;
	case WIRE_RETRIEVE_CPU_CHUNKS:
		out->kind = WIRE_REPLY_BOOL_BYTES;
		return true;
	case WIRE_PREPARE_STORE:
		out->kind = WIRE_REPLY_PREPARE_STORE;
		out->slots.shm = srv->slots;
		return true;
	case WIRE_PREPARE_RETRIEVE:
		out->kind = WIRE_REPLY_PREPARE_RETRIEVE;
		return true;
	case WIRE_REGISTER_ENGINE_DRIVEN:
		out->kind = WIRE_REPLY_POOL;
		return true;
	case WIRE_REGISTER_KV_CACHE:
	case WIRE_REGISTER_CPU_CONTEXT:
	case WIRE_UNREGISTER_KV_CACHE:
	case WIRE_UNREGISTER_ENGINE_DRIVEN:
	case WIRE_FREE_LOOKUP_LOCKS:
	case WIRE_END_SESSION:
	case WIRE_REPORT_BLOCK_ALLOCATION:
		return true;
	default:
		return false;
	}
}
