/* exec.c - an execution environment, and running one task in it: decode by the peer's dialect, run, encode the reply. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"
#include "transport/wire/msgpack.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Virtual memory, touched on use: a request of a few chunks costs a few pages. */
static void *map_array(size_t n, size_t element)
{
	void *p = mmap(NULL, n * element, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap_array(void *p, size_t n, size_t element)
{
	if (p)
		munmap(p, n * element);
}

int exec_create(struct server *srv, struct exec **out, struct why *why)
{
	struct exec *e = mem_calloc(1, sizeof(*e));
	uint32_t max_tokens = srv->conf.max_tokens;

	if (!e)
		return why_set(why, -ENOMEM, "out of memory");
	e->srv = srv;
	e->max_chunks = max_tokens / srv->chash.chunk_tokens + 1;
	e->objs = map_array(e->max_chunks, sizeof(*e->objs));
	e->slots = map_array(e->max_chunks, sizeof(*e->slots));
	e->indices = map_array(e->max_chunks, sizeof(*e->indices));
	e->tensors = map_array(e->max_chunks, sizeof(*e->tensors));
	e->slots_at = map_array(e->max_chunks, sizeof(*e->slots_at));
	if (!e->objs || !e->slots || !e->indices || !e->tensors || !e->slots_at ||
	    wire_scratch_create(max_tokens, srv->chash.chunk_tokens, &e->scratch) ||
	    prefix_walk_create(srv->prefix, max_tokens, &e->walk) || pk_mem_create(&e->pk)) {
		exec_destroy(e);
		return why_set(why, -ENOMEM, "cannot reserve a thread's working memory");
	}
	e->scratch->prefix = prefix_match;
	e->scratch->prefix_ctx = e->walk;
	*out = e;
	return 0;
}

void exec_destroy(struct exec *e)
{
	if (!e)
		return;
	unmap_array(e->objs, e->max_chunks, sizeof(*e->objs));
	unmap_array(e->slots, e->max_chunks, sizeof(*e->slots));
	unmap_array(e->indices, e->max_chunks, sizeof(*e->indices));
	unmap_array(e->tensors, e->max_chunks, sizeof(*e->tensors));
	unmap_array(e->slots_at, e->max_chunks, sizeof(*e->slots_at));
	wire_scratch_destroy(e->scratch);
	prefix_walk_destroy(e->walk);
	pk_mem_destroy(e->pk);
	mem_free(e);
}

bool key_find_tokens(struct slice key, const uint8_t **raw, uint32_t *count)
{
	struct mp_in in = mp_in(key);
	struct slice name;
	uint32_t n;

	if (!mp_map(&in, 64, &n))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!mp_str(&in, 64, &name))
			return false;
		if (slice_is(name, "token_ids")) {
			if (!mp_array(&in, WIRE_MAX_TOKENS, count))
				return false;
			*raw = in.p;
			return true;
		}
		if (!mp_skip(&in))
			return false;
	}
	return false;
}

static bool try_dialect(struct exec *e, struct task *t, enum wire_dialect d, struct wire_req *r, struct why *why)
{
	uint64_t number;
	struct slice name;
	enum wire_op op;

	if (wire_type_decode(slice_of(zmq_msg_data(&t->type), zmq_msg_size(&t->type)), &number, &name) || name.p)
		return false;
	op = wire_dialect_op(d, number);
	if (op == WIRE_UNKNOWN || !op_def(op) || op_def(op)->lane != t->def->lane)
		return false;
	e->scratch->u32_used = 0;
	if (wire_request_decode(d, op, t->frames, t->nframes, e->scratch, r, why)) {
		prefix_abandon(e->walk);
		return false;
	}
	t->dialect = d;
	t->def = op_def(op);
	return true;
}

/* The peer's best guess first, then whatever else is still possible. A failure proves nothing (the message may be bad); a key
 * with a cache salt proves that the peer is past D1, whose LOOKUP is answered differently. */
static bool decode(struct exec *e, struct task *t, struct wire_req *r, struct why *why)
{
	enum wire_dialect first = t->dialect;
	struct why other;

	if (try_dialect(e, t, first, r, why))
		return true;
	for (uint32_t d = 0; d < WIRE_DIALECT_COUNT; d++) {
		if (d == first || !(t->candidates >> d & 1))
			continue;
		if (try_dialect(e, t, (enum wire_dialect)d, r, &other))
			return true;
	}
	return false;
}

#define SMALL_REPLY 4096u

/* One frame of exactly the encoded size: clients see the frame's length. */
static int frame_of(zmq_msg_t *msg, const void *buf, ssize_t n)
{
	if (n < 0 || zmq_msg_init_size(msg, (size_t)n))
		return -ENOMEM;
	memcpy(zmq_msg_data(msg), buf, (size_t)n);
	return 0;
}

void task_answer(struct task *t, const struct wire_reply *reply)
{
	uint8_t small[SMALL_REPLY];

	t->has_reply = frame_of(&t->reply, small, wire_reply_encode(reply, small, sizeof(small))) == 0;
}

void task_later(struct exec *e, struct task *t)
{
	t->srv = e->srv;
	t->early = true;
}

void task_ready(struct task *t, const struct wire_reply *reply)
{
	task_answer(t, reply);
	control_reply_ready(t->srv->control, t);
}

static void encode(struct task *t, struct outcome *o)
{
	uint8_t small[SMALL_REPLY];
	size_t cap = wire_reply_bound(&o->reply);
	void *buf = o->has_big || cap <= sizeof(small) ? small : mem_realloc(NULL, cap);

	if (o->has_big) {
		t->reply = o->big;
		t->has_reply = true;
	} else if (buf) {
		t->has_reply = frame_of(&t->reply, buf, wire_reply_encode(&o->reply, buf, cap)) == 0;
	}
	if (buf != small)
		mem_free(buf);
}

/* A CPU client checks that its stub comes back, also from a request that could not be read. The event is frame 3 of STORE and
 * RETRIEVE in every dialect. */
static void negative_event(const struct task *t, struct wire_reply *reply)
{
	struct mp_in in = mp_in(t->nframes > 3 ? t->frames[3] : slice_of("", 0));
	struct slice event;

	if (reply->kind == WIRE_REPLY_EVENT && mp_bin(&in, WIRE_MAX_EVENT, &event) && slice_is(event, WIRE_STUB_EVENT))
		reply->bytes = event;
}

static void log_bad(struct server *srv, const struct task *t, const struct why *why)
{
	static struct log_limit limit;
	uint64_t dropped;
	char peer[16];
	const uint8_t *id = zmq_msg_data((zmq_msg_t *)&t->id);
	size_t n = zmq_msg_size(&t->id);

	count(srv, COUNT_ERROR_UNREADABLE, 1);
	if (!log_limit_pass(&limit, 200, &dropped))
		return;
	peer[0] = '\0';
	for (size_t i = 0; i < n && i < 5; i++)
		snprintf(peer + 2 * i, sizeof(peer) - 2 * i, "%02x", id[i]);
	log_warn("%s from peer %s (%s) cannot be read: %s%s", wire_op_name(t->def->op), peer,
		 wire_dialect_name(t->dialect), why->text, dropped ? " (and more)" : "");
}

void exec_remember(struct exec *e)
{
	if (e->walk->node || e->walk->fresh)
		prefix_remember(e->walk, &e->tokens);
}

/* Its slots are at its home: a worker there has them, and the pool's threads, near. */
static void note_registration(struct server *srv, struct task *t, uint64_t instance_id)
{
	struct ctx *c = ctx_get_for(srv->contexts, instance_id, t->owner);

	t->registered_instance = instance_id;
	t->registered_node = c ? c->home : NODE_UNKNOWN;
	ctx_put(srv->contexts, c);
}

void task_run(struct exec *e, struct task *t)
{
	struct wire_req req; /* filled by the decoder, whole */
	struct outcome out;
	struct why why = {0};

	out.answered = out.has_big = out.later = false;
	out.wait_job = 0;
	e->owner = t->owner;
	e->task = t;
	t->decoded = decode(e, t, &req, &why);
	if (t->decoded) {
		if (req.has_key && req.key.has_salt)
			t->candidates &= ~(1u << WIRE_D1E | 1u << WIRE_D1);
		if (req.has_key)
			prefix_hash(e->walk, &req.key.tokens);
		e->tokens = req.key.tokens;
		t->def->run(e, &req, &out);
		if (req.op == WIRE_REGISTER_KV_CACHE || req.op == WIRE_REGISTER_ENGINE_DRIVEN ||
		    req.op == WIRE_REGISTER_CPU_CONTEXT)
			note_registration(e->srv, t, req.instance_id);
	} else {
		log_bad(e->srv, t, &why);
		out.answered = t->bound && op_negative(e->srv, t->dialect, t->def->op, &out.reply);
		if (out.answered)
			negative_event(t, &out.reply);
	}
	if (out.later) /* the task is another thread's already */
		return;
	t->wait_job = out.wait_job;
	if (out.wait_job)
		t->wait_until_ms = clock_ms() + out.wait_ms;
	else if (out.answered)
		encode(t, &out);
	if (t->decoded && req.has_instance && t->def->lane == LANE_TRANSFER) {
		struct ctx *c = ctx_get(e->srv->contexts, req.instance_id);
		if (c)
			ctx_seen(c, clock_ms(), false);
		ctx_put(e->srv->contexts, c);
	}
}
