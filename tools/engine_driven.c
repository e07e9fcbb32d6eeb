/* engine_driven.c - transfers in which the engine copies: slots in the server's arena, or tensors in messages.
 *
 * Store: PREPARE_STORE gives slots for the chunks that are new (or nothing, in pickle mode), the engine writes them,
 * COMMIT_STORE makes them visible. Retrieve: PREPARE_RETRIEVE gives slots (or the bytes), COMMIT_RETRIEVE releases the locks.
 * D3b has one request for each direction, with pickles. Source: protocol reference 7.15, 7.16.
 */
#include "tools/engine_int.h"

#include <errno.h>
#include <string.h>

struct chunk_writer {
	const struct engine *e;
	const uint64_t *chain; /* of the first chunk */
	uint32_t shard;
	bool verify;
};

static void write_chunk(const struct chunk_writer *w, uint64_t chunk, uint8_t *at)
{
	if (w->verify)
		km_write(&w->e->object, (uint8_t *const[]){at}, 0, w->chain + chunk * w->e->chunk_tokens, w->shard);
}

static bool chunk_is_right(const struct chunk_writer *w, uint64_t chunk, const uint8_t *at)
{
	uint8_t *base = (uint8_t *)(uintptr_t)at; /* km_check only reads */
	return km_check(&w->e->object, &base, 0, w->chain + chunk * w->e->chunk_tokens, w->shard) == 0;
}

static void fill_tensor(void *ctx, size_t i, void *dst, size_t bytes)
{
	const struct chunk_writer *w = ctx;
	if (w->verify)
		write_chunk(w, i, dst);
	else
		memset(dst, 0x5A, bytes);
}

static int check_slot(const struct engine *e, const struct eng_worker *w, const struct wire_slot *s, struct why *why)
{
	uint64_t bytes = e->object.tensor_bytes;
	if (!w->pool || s->length != bytes || s->offset > w->pool_bytes || w->pool_bytes - s->offset < bytes)
		return why_set(why, -EPROTO, "a slot of %llu bytes at %llu; a chunk has %llu bytes, the pool %llu",
			       (unsigned long long)s->length, (unsigned long long)s->offset, (unsigned long long)bytes,
			       (unsigned long long)w->pool_bytes);
	return 0;
}

/* ---- store --------------------------------------------------------------------------------------------------- */

static int write_slots(const struct engine *e, const struct eng_worker *w, const struct chunk_writer *cw,
		       const struct wire_slots *slots, uint64_t nchunks, struct why *why)
{
	for (uint32_t i = 0; i < slots->n; i++) {
		int rc = check_slot(e, w, &slots->v[i], why);
		if (!rc && slots->chunk_indices[i] >= nchunks)
			rc = why_set(why, -EPROTO, "a slot for chunk %u of %llu", slots->chunk_indices[i],
				     (unsigned long long)nchunks);
		if (rc)
			return rc;
		write_chunk(cw, slots->chunk_indices[i], w->pool + slots->v[i].offset);
	}
	return 0;
}

static int emit_message(struct engine *e, struct chunk_writer *cw, uint64_t nchunks, struct slice *out, struct why *why)
{
	const struct km_place *o = &e->object;
	uint64_t mla_shape[] = {o->shape[1], o->shape[2], o->shape[3]};
	bool mla = o->model->kv_size == 1;
	ssize_t n = pk_tensors_emit(o->model->dtype, mla ? mla_shape : o->shape, mla ? 3 : 4, nchunks, fill_tensor, cw,
				    e->message, e->message_cap);
	if (n < 0)
		return why_set(why, (int)n, "a message of %llu chunks does not fit", (unsigned long long)nchunks);
	*out = slice_of(e->message, (size_t)n);
	return 0;
}

static int commit(struct engine *e, struct eng_worker *w, struct wire_req *req, enum wire_op op, struct why *why)
{
	struct wire_reply reply;
	req->op = op;
	int rc = eng_call(e, w->client, req, &reply, why);
	if (!rc && !reply.flag)
		rc = why_set(why, -EIO, "%s is answered false", wire_op_name(op));
	return rc;
}

static int push_one(struct engine *e, uint32_t i, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify,
		    struct why *why)
{
	struct eng_worker *w = &e->workers[i];
	uint64_t nchunks = (end - start) / e->chunk_tokens;
	struct chunk_writer cw = {e, p->chain + start, w->shard, verify};
	struct wire_req req = eng_request(e, WIRE_PREPARE_STORE, p, (int)i, start, end);
	struct wire_reply reply = {0};
	bool first_form = e->conf.dialect == WIRE_D3B;
	int rc = first_form ? 0 : eng_call(e, w->client, &req, &reply, why);
	if (rc)
		return rc;
	if (e->conf.mode == ENG_DRIVEN) {
		if (!reply.slots.shm)
			return why_set(why, -EPROTO, "PREPARE_STORE without slots in shared-memory mode");
		if (reply.slots.n == 0)
			return 0; /* everything is cached */
		rc = write_slots(e, w, &cw, &reply.slots, nchunks, why);
	} else {
		rc = emit_message(e, &cw, nchunks, &req.data, why);
	}
	return rc ? rc : commit(e, w, &req, first_form ? WIRE_STORE_CPU_CHUNKS : WIRE_COMMIT_STORE, why);
}

int eng_push(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify, struct why *why)
{
	int rc = 0;
	for (uint32_t i = 0; i < e->nworkers && !rc; i++)
		if (i == 0 || e->workers[i].shard != e->workers[i - 1].shard) /* MLA: one rank stores */
			rc = push_one(e, i, p, start, end, verify, why);
	return rc;
}

/* ---- retrieve ------------------------------------------------------------------------------------------------ */

static int read_slots(const struct engine *e, const struct eng_worker *w, const struct chunk_writer *cw,
		      const struct wire_slots *slots, uint64_t nchunks, uint64_t *right, uint64_t *wrong,
		      struct why *why)
{
	if (!slots->shm || slots->n != nchunks)
		return why_set(why, -EPROTO, "PREPARE_RETRIEVE gives %u slots for %llu chunks", slots->n,
			       (unsigned long long)nchunks);
	for (uint32_t i = 0; i < slots->n; i++) {
		int rc = check_slot(e, w, &slots->v[i], why);
		if (rc)
			return rc;
		if (!cw->verify)
			continue;
		bool ok = chunk_is_right(cw, i, w->pool + slots->v[i].offset);
		*right += ok;
		*wrong += !ok;
	}
	return 0;
}

static int read_message(struct engine *e, const struct chunk_writer *cw, struct slice data, uint64_t nchunks,
			uint64_t *right, uint64_t *wrong, struct why *why)
{
	struct pk_tensor t[64];
	uint64_t bytes = e->object.tensor_bytes;
	if (nchunks > sizeof(t) / sizeof(t[0]))
		return why_set(why, -EINVAL, "pickle mode retrieves at most 64 chunks at once");
	ssize_t n = pk_tensors_parse(data, e->pickle, t, nchunks, why);
	if (n < 0 || (uint64_t)n != nchunks)
		return n < 0 ? (int)n
			     : why_set(why, -EPROTO, "%zd tensors for %llu chunks", n, (unsigned long long)nchunks);
	for (uint64_t i = 0; i < nchunks && cw->verify; i++) {
		bool ok = t[i].storage.n == bytes && t[i].storage_offset == 0 && t[i].dtype == e->conf.model->dtype &&
			  chunk_is_right(cw, i, t[i].storage.p);
		*right += ok;
		*wrong += !ok;
	}
	return 0;
}

static int pull_one(struct engine *e, uint32_t i, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify,
		    uint64_t *right, uint64_t *wrong, struct why *why)
{
	struct eng_worker *w = &e->workers[i];
	uint64_t nchunks = (end - start) / e->chunk_tokens;
	struct chunk_writer cw = {e, p->chain + start, w->shard, verify};
	bool first_form = e->conf.dialect == WIRE_D3B;
	struct wire_req req =
		eng_request(e, first_form ? WIRE_RETRIEVE_CPU_CHUNKS : WIRE_PREPARE_RETRIEVE, p, (int)i, start, end);
	struct wire_reply reply;
	int rc = eng_call(e, w->client, &req, &reply, why);
	if (!rc && !reply.flag)
		rc = why_set(why, -EIO, "%s of chunks that the lookup had locked is a miss", wire_op_name(req.op));
	if (rc)
		return rc;
	rc = e->conf.mode == ENG_DRIVEN ? read_slots(e, w, &cw, &reply.slots, nchunks, right, wrong, why)
					: read_message(e, &cw, reply.bytes, nchunks, right, wrong, why);
	return rc || first_form ? rc : commit(e, w, &req, WIRE_COMMIT_RETRIEVE, why);
}

int eng_pull(struct engine *e, const struct eng_prompt *p, uint64_t start, uint64_t end, bool verify, uint64_t *right,
	     uint64_t *wrong, struct why *why)
{
	int rc = 0;
	for (uint32_t i = 0; i < e->nworkers && !rc; i++)
		rc = pull_one(e, i, p, start, end, verify, right, wrong, why);
	return rc;
}
