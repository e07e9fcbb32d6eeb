/* op_lookup.c - LOOKUP, its queries, FREE_LOOKUP_LOCKS, END_SESSION.
 *
 * LOOKUP answers when the prefix that L1 has is locked, and never waits for more. Without a tier below, or when that has nothing more,
 * the result is final then; else the queries answer None (no payload) until the tier is done.
 */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>

#define MAX_LOCKS 128 /* upstream's bound on readers of one object */
#define MAX_WAIT  600 /* seconds; clients give up after 300 */

/* How many workers will read each object (protocol reference 5.5): the key says it outright in newer versions, else MLA is
 * recognised by more tensor-parallel ranks than shards. 0 = refuse. */
static uint16_t locks_wanted(const struct wire_req *r)
{
	int64_t ws = r->key.world_size, tp = r->tp_size > 1 ? r->tp_size : ws;
	int64_t n = r->key.num_kv_readers;

	if (!r->key.has_readers || n == 0)
		n = tp > ws ? tp : 1;
	if (n < 1)
		return 0;
	return (uint16_t)(n > MAX_LOCKS ? MAX_LOCKS : n);
}

/* What its engine's objects look like; `shape` stays as long as `l`. */
static void want_shape(const struct exec *e, struct session_lookup *l, struct ctx_shape *shape)
{
	ctx_shape_of(e->srv->contexts, l->model, l->world_size, e->owner, shape);
	if (!shape->object_bytes)
		return;
	l->object_bytes = shape->object_bytes;
	l->forms = shape->forms;
	l->nforms = shape->nforms;
	l->nown = shape->nown;
	l->node = shape->home;
}

void op_lookup(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct server *srv = e->srv;
	struct session_hits hits = {0};
	struct session_lookup l = {.request_id = r->key.request_id,
				   .model = r->key.model,
				   .salt = r->key.salt,
				   .owner = e->owner,
				   .world_size = r->key.world_size,
				   .locks = locks_wanted(r),
				   .hashes = e->walk->hashes,
				   .nchunks = e->walk->nchunks,
				   .now_ms = clock_ms()};
	struct ctx_shape shape;
	struct why why;
	int err;

	if (l.locks)
		want_shape(e, &l, &shape);
	err = sessions_lookup(srv->sessions, &l, &hits);
	if (err || !l.locks) {
		why_set(&why, err ? err : -EINVAL,
			l.locks ? "no memory, or the request id is too long" : "num_kv_readers below 1");
		refuse(srv, r, &why);
	}
	count_lookup(e, &l, &hits);
	o->answered = true;
	if (r->dialect <= WIRE_D1)
		o->reply = (struct wire_reply){.kind = WIRE_REPLY_UINT, .u = hits.job_id};
	else
		o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}

static void answer_hits(struct exec *e, const struct wire_req *r, bool take, struct outcome *o)
{
	struct sessions *s = e->srv->sessions;
	uint32_t hits = r->dialect <= WIRE_D1 ? sessions_query_job(s, r->job_id, take)
					      : sessions_query(s, r->request_id, e->owner, take);

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
	if (hits != SESSION_PENDING)
		o->reply = (struct wire_reply){.kind = WIRE_REPLY_UINT, .u = hits};
}

void op_query_status(struct exec *e, struct wire_req *r, struct outcome *o)
{
	answer_hits(e, r, true, o);
}

/* The control thread keeps what has to wait. */
void op_wait_status(struct exec *e, struct wire_req *r, struct outcome *o)
{
	double seconds = r->timeout_seconds;
	uint64_t job;
	uint32_t hits = sessions_wait(e->srv->sessions, r->request_id, e->owner, &job);

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_UINT, .u = hits};
	if (hits != SESSION_PENDING)
		return;
	o->wait_job = job;
	o->wait_ms = !(seconds > 0) ? 0 : seconds < MAX_WAIT ? (uint64_t)(seconds * 1000) : MAX_WAIT * 1000;
}

void op_query_hits(struct exec *e, struct wire_req *r, struct outcome *o)
{
	answer_hits(e, r, false, o);
}

/* Selected are chunks that begin at or after start and end at or before min(len, end) floored (reference 5.2). */
void op_free_lookup_locks(struct exec *e, struct wire_req *r, struct outcome *o)
{
	uint64_t cs = e->srv->chash.chunk_tokens, count = r->key.tokens.count;
	uint64_t first = (r->key.start + cs - 1) / cs;
	uint64_t last = (r->key.end < count ? r->key.end : count) / cs;

	struct session_range range = {.request_id = r->key.request_id, .owner = e->owner, .rank = -1};

	if (first < last && last <= UINT32_MAX) {
		range.first = (uint32_t)first;
		range.n = (uint32_t)(last - first);
		sessions_release(e->srv->sessions, &range, locks_wanted(r), clock_ms());
	}
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}

void op_end_session(struct exec *e, struct wire_req *r, struct outcome *o)
{
	if (!sessions_end(e->srv->sessions, r->request_id, e->owner, clock_ms()))
		log_debug("END_SESSION of unknown request '%.*s'", SLICE_FMT(r->request_id));
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}
