/* op_engine.c - transfers the engine drives itself: slots in the arena it maps (PREPARE, COMMIT), or bytes in messages.
 *
 * Slots: PREPARE_STORE reserves, the engine writes through its own mapping, COMMIT_STORE makes the chunks readable; PREPARE_
 * RETRIEVE locks, the engine reads, COMMIT_RETRIEVE unlocks. What lies between is kept in the context (ctx_pending), so an
 * engine that dies or forgets gives everything back. Bytes: pickled tensor lists, parsed as data, never executed.
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

/* Pickled replies that a client does not read pile up here: bounded for one client and for all. In messages of the largest size. */
#define UNREAD_CLIENT 2u
#define UNREAD_ALL    8u
#define PICKLED_HEAD  64u /* of the buffer, before the frame: keeps its alignment */

_Static_assert(sizeof(void *) * 4 <= PICKLED_HEAD, "the head fits");

static struct ctx *engine_ctx(struct exec *e, const struct wire_req *r, struct range *g, struct why *why)
{
	struct ctx *c = ctx_get_for(e->srv->contexts, r->instance_id, e->owner);

	if (!c) {
		why_set(why, -ENOENT, "unknown instance");
		return NULL;
	}
	if (range_check(e, r, g, why))
		goto put;
	if (c->kind == CTX_PAGED) {
		why_set(why, -EINVAL, "the instance registered paged memory, not engine-driven transfer");
		goto put;
	}
	if (c->world_size != r->key.world_size || !slice_is(r->key.model, c->model)) {
		why_set(why, -EINVAL, "key of another model or world size than registered");
		goto put;
	}
	return c;
put:
	ctx_put(e->srv->contexts, c);
	return NULL;
}

static struct ctx_pending *new_pending(const struct exec *e, uint64_t id, bool store, uint32_t n)
{
	struct ctx_pending *p = mem_calloc(1, sizeof(*p) + n * sizeof(p->objs[0]));

	if (!p)
		return NULL;
	p->key_id = id;
	p->store = store;
	p->since_ms = clock_ms();
	p->n = n;
	memcpy(p->objs, e->objs, n * sizeof(p->objs[0]));
	return p;
}

/* Lists the slots of e->objs[0..n) that are reserved or locked. */
static void list_slots(struct exec *e, const struct ctx *c, uint32_t n, struct wire_slots *out)
{
	uint32_t k = 0;

	for (uint32_t j = 0; j < n; j++) {
		if (!e->objs[j])
			continue;
		e->slots[k] = (struct wire_slot){store_offset(e->srv->store, e->objs[j]), c->object_bytes};
		e->indices[k++] = j;
	}
	*out = (struct wire_slots){.shm = true,
				   .v = e->slots,
				   .chunk_indices = e->indices,
				   .n = k,
				   .ndim = c->ndim,
				   .dtype = slice_str(pk_dtype_name(c->dtype))};
	memcpy(out->shape, c->shape, sizeof(out->shape));
}

static uint32_t reserve(struct exec *e, const struct wire_req *r, const struct ctx *c, const struct range *g)
{
	struct server *srv = e->srv;
	store_ns ns = range_ns_get(e, r, c);
	struct store_reserve_result res = {0};

	memset(e->objs, 0, g->n * sizeof(e->objs[0]));
	if (!ns)
		return 0;
	metric_add(srv->metrics, M_SM_WRITE_REQUESTS, 1);
	range_touch(e, r, ns);
	res = store_reserve(srv->store, ns, e->walk->hashes + g->first, g->n, c->object_bytes, c->home, clock_ms(),
			    e->objs);
	metric_add(srv->metrics, M_SM_WRITE_SUCCEED_KEYS, res.reserved);
	metric_add(srv->metrics, M_SM_WRITE_FAILED_KEYS, res.present + res.refused);
	count_no_room(srv, slice_str(c->model), res.refused);
	store_ns_put(srv->store, ns); /* the reserved objects keep it alive */
	return res.reserved;
}

static void commit(struct exec *e, const struct wire_req *r, const struct ctx *c, const struct range *g,
		   store_obj *objs, uint32_t n, uint32_t *readable)
{
	store_ns ns;

	*readable = below_commit(e->srv, c, &r->key, rank_of(&r->key), e->walk->hashes + g->first, objs, n);
	metric_add(e->srv->metrics, M_L1_WRITE_CHUNKS, *readable);
	ns = range_ns_find(e, r, c);
	if (ns)
		range_touch(e, r, ns);
}

void op_prepare_store(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);
	struct wire_slots *slots = &o->reply.slots;
	struct ctx_pending *p;

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_PREPARE_STORE};
	slots->shm = e->srv->slots;
	if (!c) {
		refuse(e->srv, r, &why);
		return;
	}
	slots->shm = c->kind == CTX_SLOTS;
	if (c->kind == CTX_SLOTS && reserve(e, r, c, &g)) {
		p = new_pending(e, key_id(e, r, &g), true, g.n);
		if (p && ctx_pending_add(e->srv->contexts, c, p) == 0) {
			list_slots(e, c, g.n, slots);
		} else {
			store_abort(e->srv->store, e->objs, g.n);
			mem_free(p);
		}
	}
	ctx_put(e->srv->contexts, c);
}

static uint32_t count_taken(const store_obj *objs, uint32_t n)
{
	uint32_t k = 0;

	for (uint32_t i = 0; i < n; i++)
		k += objs[i] != 0;
	return k;
}

static bool commit_slots(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g)
{
	uint64_t id = key_id(e, r, g);
	uint32_t readable, missed = 0, pending = 0;
	struct ctx_pending *p;

	/* more than one when the first PREPARE found room for a part only */
	for (; (p = ctx_pending_take(e->srv->contexts, c, id, true)); pending++) {
		locality_count(e->srv, c, LOCALITY_STORE, p->objs, p->n);
		missed += count_taken(p->objs, p->n);
		commit(e, r, c, g, p->objs, p->n, &readable);
		missed -= readable;
		mem_free(p);
	}
	return pending && !missed;
}

/* An engine that was offered slots and sends bytes could not map them: it will not write there. */
static void abort_slots(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g)
{
	struct ctx_pending *p;

	while ((p = ctx_pending_take(e->srv->contexts, c, key_id(e, r, g), true))) {
		store_abort(e->srv->store, p->objs, p->n);
		mem_free(p);
	}
}

/* A tensor of a chunk must be exactly the chunk's contiguous array. */
static bool fits(const struct pk_tensor *t, const struct ctx *c)
{
	uint64_t count = 1, expect = c->object_bytes / pk_dtype_size(c->dtype);
	int64_t stride = 1;

	for (uint32_t d = t->ndim; d-- > 0;) {
		if (t->shape[d] != 1 && t->stride[d] != stride)
			return false;
		if (t->shape[d] == 0 || t->shape[d] > expect / count)
			return false;
		stride *= (int64_t)t->shape[d];
		count *= t->shape[d];
	}
	return count == expect && t->dtype == c->dtype;
}

static void copy_in(struct exec *e, store_obj o, const void *src, uint64_t bytes)
{
	struct store *s = e->srv->store;

	if (!below_wants_sums(e->srv)) {
		kv_copy(store_ptr(s, o), src, bytes);
		return;
	}
	kv_copy_sums(store_ptr(s, o), src, bytes, e->sums);
	store_sums_set(s, o, e->sums);
}

static bool store_bytes_of(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g)
{
	uint32_t reserved, readable;
	struct why why;
	ssize_t n = pk_tensors_parse(r->data, e->pk, e->tensors, e->max_chunks, &why);

	if (n < 0 || (uint32_t)n != g->n) {
		if (n >= 0)
			why_set(&why, -EINVAL, "%zd tensors for %u chunks", n, g->n);
		refuse(e->srv, r, &why);
		return false;
	}
	for (uint32_t j = 0; j < g->n; j++) {
		if (!fits(&e->tensors[j], c)) {
			why_set(&why, -EINVAL, "tensor %u is not a contiguous chunk of the registered layout", j);
			refuse(e->srv, r, &why);
			return false;
		}
	}
	abort_slots(e, r, c, g);
	reserved = reserve(e, r, c, g);
	for (uint32_t j = 0; j < g->n; j++) {
		const struct pk_tensor *t = &e->tensors[j];

		if (e->objs[j])
			copy_in(e, e->objs[j],
				(const uint8_t *)t->storage.p + t->storage_offset * pk_dtype_size(t->dtype),
				c->object_bytes);
	}
	metric_add(e->srv->metrics, M_STORE_BYTES, reserved * c->object_bytes);
	locality_count(e->srv, c, LOCALITY_STORE, e->objs, g->n);
	commit(e, r, c, g, e->objs, g->n, &readable);
	return readable == reserved && store_peek_prefix(e->srv->store, (store_ns[]){range_ns_find(e, r, c)}, 1,
							 e->walk->hashes + g->first, g->n, c->object_bytes) == g->n;
}

void op_commit_store(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);
	bool ok = false;

	if (!c)
		refuse(e->srv, r, &why);
	else if (c->kind == CTX_SLOTS && r->data.n == 0)
		ok = commit_slots(e, r, c, &g);
	else
		ok = store_bytes_of(e, r, c, &g);
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_BOOL, .flag = ok};
	ctx_put(e->srv->contexts, c);
}

void op_store_cpu_chunks(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);
	bool ok = c && store_bytes_of(e, r, c, &g);

	if (!c)
		refuse(e->srv, r, &why);
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_BOOL, .flag = ok};
	ctx_put(e->srv->contexts, c);
}

/* Locks the range's chunks: 0 or -ENOENT. */
static int lock_range(struct exec *e, const struct wire_req *r, const struct ctx *c, const struct range *g)
{
	uint32_t missing;
	store_ns ns;
	int err;

	if (g->n == 0)
		return 0;
	if (!range_ns_find(e, r, c))
		return -ENOENT;
	ns = range_ns_get(e, r, c); /* counted: an id must not become another tenant's before its objects are locked */
	if (!ns)
		return -ENOENT;
	err = store_lock_all(e->srv->store, ns, e->walk->hashes + g->first, g->n, c->object_bytes, clock_ms(), e->objs,
			     &missing);
	store_ns_put(e->srv->store, ns);
	return err;
}

/* The lookup's lock on these chunks has done its work. `objs` NULL: they were not found. */
static void release_lookup(struct exec *e, const struct wire_req *r, const struct range *g, const store_obj *objs)
{
	struct session_range held = range_held(e, r, g, objs);

	sessions_release(e->srv->sessions, &held, 1, clock_ms());
}

struct fill_args {
	struct exec *e;
};

static void fill_chunk(void *arg, size_t i, void *dst, size_t bytes)
{
	struct exec *e = ((struct fill_args *)arg)->e;

	kv_copy(dst, store_ptr(e->srv->store, e->objs[i]), bytes);
}

/* A frame that libzmq owns, and whose account it burdens. */
struct pickled {
	struct server *srv;
	struct ctx *ctx; /* a reference */
	uint64_t bytes;
};

/* Called by libzmq when the frame is sent or its client is gone, on a thread of its own. */
static void drop_frame(void *data, void *hint)
{
	struct pickled *p = hint;

	(void)data;
	atomic_fetch_sub(&p->srv->unread, p->bytes);
	atomic_fetch_sub(&p->ctx->unread, p->bytes);
	ctx_put(p->srv->contexts, p->ctx);
	mem_free(p);
}

static bool may_pickle(struct exec *e, struct ctx *c, const struct range *g)
{
	uint64_t bytes = pk_tensors_bound(c->dtype, c->shape, c->ndim, g->n);
	uint64_t most = (uint64_t)e->srv->conf.max_message_mb << 20;

	return bytes && bytes <= most && atomic_load(&c->unread) + bytes <= UNREAD_CLIENT * most &&
	       atomic_load(&e->srv->unread) + bytes <= UNREAD_ALL * most;
}

/* Pickles the locked chunks into one buffer. NULL when out of memory. */
static void *pickle_range(struct exec *e, const struct ctx *c, const struct range *g, size_t *bytes)
{
	size_t cap = pk_tensors_bound(c->dtype, c->shape, c->ndim, g->n);
	struct fill_args args = {e};
	void *buf = mem_realloc(NULL, cap); /* not zeroed: it is written whole */
	ssize_t n = buf ? pk_tensors_emit(c->dtype, c->shape, c->ndim, g->n, fill_chunk, &args, buf, cap) : -1;

	if (n < 0) {
		mem_free(buf);
		return NULL;
	}
	*bytes = (size_t)n;
	return buf;
}

/* Encodes `reply`, whose bytes are `pickle`, as the payload frame and frees the pickle. */
static void answer_big(struct exec *e, struct ctx *c, struct outcome *o, void *pickle)
{
	size_t cap = wire_reply_bound(&o->reply);
	uint8_t *buf = mem_realloc(NULL, PICKLED_HEAD + cap);
	struct pickled *p = (void *)buf;
	ssize_t n = buf ? wire_reply_encode(&o->reply, buf + PICKLED_HEAD, cap) : -1;

	mem_free(pickle);
	if (n > 0 && zmq_msg_init_data(&o->big, buf + PICKLED_HEAD, (size_t)n, drop_frame, buf) == 0) {
		*p = (struct pickled){e->srv, c, (uint64_t)n};
		atomic_fetch_add(&c->refs, 1);
		atomic_fetch_add(&c->unread, p->bytes);
		atomic_fetch_add(&e->srv->unread, p->bytes);
		o->has_big = true;
		return;
	}
	mem_free(buf);
	o->reply.flag = false;
	o->reply.bytes = slice_of("", 0);
}

/* The chunks as bytes in the message: [success, pickle] in either reply form. */
static bool answer_bytes(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g,
			 struct outcome *o)
{
	bool found = false;
	size_t bytes = 0;
	void *pickle = NULL;

	if (!may_pickle(e, c, g)) {
		struct why why;

		why_set(&why, -ENOBUFS, "%u chunks are more than --max-message-mb, or the client does not read", g->n);
		refuse(e->srv, r, &why);
	} else if (lock_range(e, r, c, g) == 0) {
		found = true;
		pickle = pickle_range(e, c, g, &bytes);
		locality_count(e->srv, c, LOCALITY_RETRIEVE, e->objs, g->n);
		store_unlock(e->srv->store, e->objs, NULL, g->n, clock_ms());
		metric_add(e->srv->metrics, M_RETRIEVE_BYTES, g->n * c->object_bytes);
		metric_add(e->srv->metrics, M_L1_READ_CHUNKS, g->n);
	}
	release_lookup(e, r, g, found ? e->objs : NULL);
	if (!pickle)
		return false;
	o->reply.flag = true;
	o->reply.bytes = slice_of(pickle, bytes);
	answer_big(e, c, o, pickle);
	return o->has_big;
}

static bool prepare_slots(struct exec *e, const struct wire_req *r, struct ctx *c, const struct range *g,
			  struct outcome *o)
{
	struct ctx_pending *p;

	if (lock_range(e, r, c, g)) {
		release_lookup(e, r, g, NULL);
		return false;
	}
	p = new_pending(e, key_id(e, r, g), false, g->n);
	if (!p || ctx_pending_add(e->srv->contexts, c, p)) {
		release_lookup(e, r, g, e->objs);
		store_unlock(e->srv->store, e->objs, NULL, g->n, clock_ms());
		mem_free(p);
		return false;
	}
	list_slots(e, c, g->n, &o->reply.slots);
	return true;
}

void op_prepare_retrieve(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);
	bool ok = false;

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_PREPARE_RETRIEVE, .bytes = slice_of("", 0)};
	if (!c)
		refuse(e->srv, r, &why);
	else if (c->kind == CTX_SLOTS)
		ok = prepare_slots(e, r, c, &g, o);
	else
		ok = answer_bytes(e, r, c, &g, o);
	if (c && !ok)
		count_read_failure(e->srv, slice_str(c->model));
	o->reply.flag = ok;
	ctx_put(e->srv->contexts, c);
}

void op_retrieve_cpu_chunks(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_BOOL_BYTES, .bytes = slice_of("", 0)};
	if (!c)
		refuse(e->srv, r, &why);
	else if (!answer_bytes(e, r, c, &g, o))
		count_read_failure(e->srv, slice_str(c->model));
	ctx_put(e->srv->contexts, c);
}

void op_commit_retrieve(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct range g = {0};
	struct why why;
	struct ctx *c = engine_ctx(e, r, &g, &why);
	struct ctx_pending *p;
	bool ok = c != NULL;

	if (!c) {
		refuse(e->srv, r, &why);
	} else if (c->kind == CTX_SLOTS) {
		p = ctx_pending_take(e->srv->contexts, c, key_id(e, r, &g), false);
		ok = p != NULL;
		if (p) {
			release_lookup(e, r, &g, p->objs);
			locality_count(e->srv, c, LOCALITY_RETRIEVE, p->objs, p->n);
			store_unlock(e->srv->store, p->objs, NULL, p->n, clock_ms());
			metric_add(e->srv->metrics, M_L1_READ_CHUNKS, p->n);
			mem_free(p);
		}
	}
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_BOOL, .flag = ok};
	ctx_put(e->srv->contexts, c);
}
