/* op_register.c - engines come and go. A refused registration is answered at once, with one clear log line: an engine that
 * waits 300 s for an answer it never gets helps nobody. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/core_int.h"

#include <errno.h>
#include <string.h>

/* Engines come by the dozen, hostile or broken clients by the thousand. */
static bool may_log(void)
{
	static struct log_limit limit;
	uint64_t dropped;

	if (!log_burst_pass(&limit, 1000, 50, &dropped))
		return false;
	if (dropped)
		log_warn("%llu lines about registrations were suppressed", (unsigned long long)dropped);
	return true;
}

static void log_entered(const struct ctx *c, const struct wire_req *r, int err)
{
	unsigned long long id = c->instance_id;

	if (!may_log())
		return;
	if (err == -EEXIST)
		log_warn("instance %llu is registered already: the second registration is ignored", id);
	else if (err)
		log_error("instance %llu refused: %d instances are registered, the most this server takes", id,
			  CTX_MAX);
	else
		log_info("Registered KV cache for GPU ID %llu with %u layers (model '%.*s', world size %u, %s, %llu "
			 "bytes per chunk)",
			 id, c->num_layers, SLICE_FMT(r->model), r->world_size,
			 c->gpu                 ? c->device
			 : c->kind == CTX_PAGED ? "shared-memory pages"
						: "engine-driven",
			 (unsigned long long)c->object_bytes);
}

/* 0 also when the registration is ignored because there is one already; -ENOSPC. */
static int enter(struct exec *e, struct ctx *c, const struct wire_req *r)
{
	struct server *srv = e->srv;
	bool replace = r->dialect < WIRE_D4; /* from D4 on a second registration is ignored */
	int err;

	count_of_context(srv, c);
	ctx_layout_digest(c, &srv->chash);
	c->owner = e->owner;
	c->created_ms = clock_ms();
	ctx_seen(c, c->created_ms, false);
	liveness_open(srv, c, e->task->from);
	locality_find(srv, c);
	atomic_fetch_add(&c->refs, 1); /* the table takes one, this function keeps one */
	err = ctx_enter(srv->contexts, c, replace);
	log_entered(c, r, err);
	if (err)
		ctx_put(srv->contexts, c);
	else
		liveness_watch(srv, c);
	ctx_put(srv->contexts, c);
	return err == -EEXIST ? 0 : err;
}

static void refuse_instance(struct server *srv, const struct wire_req *r, const struct why *why)
{
	count(srv, COUNT_ERROR_REGISTRATION, 1);
	if (may_log())
		log_error("registration of instance %llu (model '%.*s') refused: %s",
			  (unsigned long long)r->instance_id, SLICE_FMT(r->model), why->text);
}

void op_register_kv_cache(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct server *srv = e->srv;
	struct ctx_paged_conf conf = {.chunk_tokens = srv->chash.chunk_tokens,
				      .null_block = srv->conf.null_block_id,
				      .pk = e->pk,
				      .arena_name = arena_shm_name(srv->arena),
				      .gpu = srv->gpu,
				      .no_gpu = srv->no_gpu,
				      .engines = &srv->engines,
				      .pid = liveness_pid,
				      .ctx = srv};
	struct ctx *c;
	struct why why;
	int err;

	if (srv->conf.supported_transfer_mode == CONF_TRANSFER_ENGINE_DRIVEN)
		err = why_set(&why, -EOPNOTSUPP, "--supported-transfer-mode is engine_driven");
	else
		err = ctx_paged_create(r, &conf, &c, &why);
	if (err)
		refuse_instance(srv, r, &why);
	else
		enter(e, c, r);
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}

static int enter_engine_driven(struct exec *e, struct wire_req *r, bool slots)
{
	struct server *srv = e->srv;
	struct ctx *c;
	struct why why;
	int err;

	if (srv->conf.supported_transfer_mode == CONF_TRANSFER_LMCACHE_DRIVEN)
		err = why_set(&why, -EOPNOTSUPP, "--supported-transfer-mode is lmcache_driven");
	else
		err = ctx_engine_driven_create(r, srv->chash.chunk_tokens, slots, &c, &why);
	if (err)
		refuse_instance(srv, r, &why);
	else
		err = enter(e, c, r);
	return err;
}

void op_register_engine_driven(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct server *srv = e->srv;
	int err = enter_engine_driven(e, r, srv->slots);

	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_POOL, .shm_name = slice_of("", 0)};
	if (!err && srv->slots) {
		o->reply.shm_name = slice_str(arena_shm_name(srv->arena));
		o->reply.pool_size = arena_bytes(srv->arena);
	}
}

/* D3b: bytes in messages only. */
void op_register_cpu_context(struct exec *e, struct wire_req *r, struct outcome *o)
{
	enter_engine_driven(e, r, false);
	o->answered = true;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
}

/* Whoever unregisters frees its memory next: the answer comes when it is not mapped any more, behind the copies under way. */
static void farewell(void *task)
{
	const struct wire_reply none = {.kind = WIRE_REPLY_NONE};

	task_ready(task, &none);
}

void op_unregister(struct exec *e, struct wire_req *r, struct outcome *o)
{
	struct ctx *c = ctx_take(e->srv->contexts, r->instance_id, e->owner);

	if (may_log()) {
		if (c)
			log_info("instance %llu unregistered", (unsigned long long)r->instance_id);
		else
			log_warn("instance %llu asked to be unregistered but is not known",
				 (unsigned long long)r->instance_id);
	}
	o->later = c && c->gpu;
	o->answered = !o->later;
	o->reply = (struct wire_reply){.kind = WIRE_REPLY_NONE};
	if (o->later) {
		task_later(e, e->task);
		c->farewell = farewell;
		c->farewell_arg = e->task;
	}
	ctx_let_go(e->srv->contexts, c);
}
