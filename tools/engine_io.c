/* engine_io.c - the requests of a pretended engine whose KV the server copies. */
#include "tools/engine_int.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define POLL_NS 200000

struct wire_req eng_request(const struct engine *e, enum wire_op op, const struct eng_prompt *p, int worker,
			    uint64_t start, uint64_t end)
{
	const struct km_model *m = e->conf.model;
	const struct eng_worker *w = worker < 0 ? NULL : &e->workers[worker];
	struct wire_req req = {.op = op,
			       .dialect = e->conf.dialect,
			       .tp_size = m->tp_size,
			       .has_instance = w != NULL,
			       .instance_id = w ? w->instance_id : 0,
			       .job_id = e->job_id,
			       .model = slice_str(m->full_name),
			       .world_size = m->world_size,
			       .event = slice_str(WIRE_STUB_EVENT),
			       .flat_blocks = e->conf.dialect <= WIRE_D3B};
	if (!p)
		return req;
	req.has_key = true;
	req.request_id = slice_str(p->request_id);
	req.key = (struct wire_key){.model = req.model,
				    .world_size = m->world_size,
				    .worker_id = w ? (int32_t)w->shard : -1,
				    .tokens = {.ids = p->ids, .count = p->count},
				    .start = start,
				    .end = end,
				    .request_id = req.request_id,
				    .has_salt = e->conf.dialect >= WIRE_D2};
	return req;
}

int eng_call(struct engine *e, struct ctl_client *c, const struct wire_req *req, struct wire_reply *reply,
	     struct why *why)
{
	return ctl_call(c, req, 0, e->conf.timeout_ms, reply, why);
}

/* ---- scheduler ----------------------------------------------------------------------------------------------- */

static int wait_status(struct engine *e, const struct eng_prompt *p, uint64_t *chunks_hit, struct why *why)
{
	uint64_t end = clock_ms() + (uint64_t)e->conf.timeout_ms;
	struct wire_req req = eng_request(e, WIRE_QUERY_PREFETCH_STATUS, p, -1, 0, 0);
	struct wire_reply reply;
	for (;;) {
		int rc = eng_call(e, e->scheduler, &req, &reply, why);
		if (rc)
			return rc;
		if (reply.kind != WIRE_REPLY_NONE)
			break;
		if (clock_ms() > end)
			return why_set(why, -ETIMEDOUT, "the lookup of %s does not finish", p->request_id);
		nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
	}
	if (reply.u > p->count / e->chunk_tokens)
		return why_set(why, -EPROTO, "%llu chunks found of a prompt that has %u", (unsigned long long)reply.u,
			       p->count / e->chunk_tokens);
	*chunks_hit = reply.u;
	return 0;
}

int eng_lookup(struct engine *e, const struct eng_prompt *p, uint64_t *chunks_hit, uint64_t *lookup_ns, struct why *why)
{
	struct wire_req req = eng_request(e, WIRE_LOOKUP, p, -1, 0, p->count / e->chunk_tokens * e->chunk_tokens);
	struct wire_reply reply;
	uint64_t start = clock_ns();
	int rc = eng_call(e, e->scheduler, &req, &reply, why);
	*lookup_ns = clock_ns() - start;
	if (rc)
		return rc;
	e->job_id = reply.u;
	return wait_status(e, p, chunks_hit, why);
}

int eng_free_locks(struct engine *e, const struct eng_prompt *p, uint64_t end, struct why *why)
{
	struct wire_req req = eng_request(e, WIRE_FREE_LOOKUP_LOCKS, p, -1, 0, end);
	uint64_t uid;
	return ctl_send(e->scheduler, &req, 0, &uid, why);
}

int eng_end_session(struct engine *e, const struct eng_prompt *p, struct why *why)
{
	struct wire_req req = eng_request(e, WIRE_END_SESSION, p, -1, 0, 0);
	uint64_t uid;
	return ctl_send(e->scheduler, &req, 0, &uid, why);
}

int eng_ping(struct engine *e, uint64_t *ns, struct why *why)
{
	for (uint32_t i = 0; i < e->nworkers; i++) {
		struct wire_req req = eng_request(e, WIRE_PING, NULL, (int)i, 0, 0);
		struct wire_reply reply;
		uint64_t start = clock_ns();
		int rc = eng_call(e, e->workers[i].client, &req, &reply, why);
		*ns = clock_ns() - start;
		if (rc)
			return rc;
		if (!reply.flag)
			return why_set(why, -EPROTO, "PING of rank %u is answered false", i);
	}
	return 0;
}

/* ---- workers ------------------------------------------------------------------------------------------------- */

static int wait_event(struct engine *e, struct eng_worker *w, enum wire_op op, struct why *why)
{
	struct ctl_reply got;
	struct wire_reply reply;
	do {
		int rc = ctl_recv(w->client, e->conf.timeout_ms, &got, why);
		if (rc)
			return rc;
	} while (got.uid != w->uid);
	int rc = ctl_decode(w->client, op, got.payload, &reply, why);
	if (!rc && w->gpu &&
	    (reply.flag || reply.bytes.n)) /* also when the answer is false: older engines open it always */
		rc = egpu_await(w->gpu, reply.bytes, why);
	if (!rc && !reply.flag)
		rc = why_set(why, -EIO, "the server answers false; its log says why");
	return rc;
}

/* All ranks send before the first answer is awaited, as workers of an engine do. */
static int transfer(struct engine *e, enum wire_op op, const struct eng_prompt *p, uint64_t start, uint64_t end,
		    uint64_t skip, const struct eng_blocks *b, struct why *why)
{
	int rc = 0;
	uint32_t sent = 0, bs = e->place.block_tokens;
	for (; sent < e->nworkers && !rc; sent++) {
		struct wire_req req = eng_request(e, op, p, (int)sent, start, end);
		req.skip_first_n_tokens = skip;
		req.nblock_groups = e->groups;
		for (uint32_t g = 0; g < e->groups; g++) {
			req.blocks[g].ids = b->ids[g] + start / bs;
			req.blocks[g].n = (uint32_t)((end - start) / bs);
		}
		if (e->workers[sent].gpu)
			rc = egpu_record(e->workers[sent].gpu, &req.event, why);
		if (!rc)
			rc = ctl_send(e->workers[sent].client, &req, 0, &e->workers[sent].uid, why);
	}
	for (uint32_t i = 0; i < sent && !rc; i++) {
		rc = wait_event(e, &e->workers[i], op, why);
		if (!rc && e->workers[i].gpu)
			rc = egpu_sync(e->workers[i].gpu, why);
		if (rc)
			why_prefix(why, "%s of tokens %llu to %llu, rank %u", wire_op_name(op),
				   (unsigned long long)start, (unsigned long long)end, i);
	}
	return rc;
}

int eng_store(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, const struct eng_blocks *b,
	      struct why *why)
{
	return transfer(e, WIRE_STORE, p, start, end, 0, b, why);
}

int eng_retrieve(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, uint64_t skip,
		 const struct eng_blocks *b, struct why *why)
{
	return transfer(e, WIRE_RETRIEVE, p, start, end, skip, b, why);
}
