/* below_hear.c - between sessions and the tier: what a lookup asks, what it is told, and what is counted of it. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/core/below_int.h"

#include <string.h>

/* ---- from the sessions: LK_SESSIONS is held ------------------------------------------------------------------------- */

static bool may_have(void *ctx, const struct seg_key *first, uint64_t bytes)
{
	return tier_may_have(((struct server *)ctx)->tier, first, bytes);
}

static int prefetch(void *ctx, const struct tier_want *w)
{
	return tier_prefetch(((struct server *)ctx)->tier, w);
}

static void cancel(void *ctx, uint64_t id)
{
	tier_cancel(((struct server *)ctx)->tier, id);
}

static void touched(void *ctx, uint32_t name, const struct store_hash *hashes, const store_obj *objs, uint32_t n)
{
	tier_touched(((struct server *)ctx)->tier, name, hashes, objs, n);
}

static uint32_t name(void *ctx, struct slice model, uint32_t kv_rank, struct slice salt, const uint8_t *layout)
{
	struct server *srv = ctx;
	struct seg_name n = {.model = model, .salt = salt, .kv_rank = kv_rank};

	memcpy(n.layout, layout, sizeof(n.layout));
	return srv->l2_learns ? seg_name_get(srv->names, &n) : seg_name_find(srv->names, &n);
}

/* The L1 part was counted when LOOKUP was answered. */
static void count_found(struct server *srv, const struct session_done *d)
{
	const struct slice labels[] = {d->model, d->salt};
	uint64_t chunks = d->chunks > d->l1_chunks ? d->chunks - d->l1_chunks : 0,
		 tokens = chunks * srv->chash.chunk_tokens;
	struct metrics *m = srv->metrics;

	if (!chunks)
		return;
	metric_series_add(m, metric_series_get(m, M_LOOKUP_HIT_TOKENS, labels, 2), tokens);
	metric_series_add(m, metric_series_get(m, M_LOOKUP_HIT_L2_TOKENS, labels, 2), tokens);
	metric_series_add(m, metric_series_get(m, M_LOOKUP_HIT_L2_KEYS, labels, 2), chunks * d->world_size);
}

static void done(void *ctx, const struct session_done *d)
{
	struct server *srv = ctx;

	if (d)
		count_found(srv, d);
	if (srv->control)
		control_job_done(srv->control);
}

void below_use(struct server *srv)
{
	struct sessions_tier t = {
		.ctx = srv, .may_have = may_have, .prefetch = prefetch, .cancel = cancel, .name = name, .done = done};

	if (srv->conf.l2_admission == CONF_L2_ADMIT_SECOND_TOUCH)
		t.touched = touched;
	sessions_use(srv->sessions, &t);
}

/* ---- from the tier's thread ------------------------------------------------------------------------------------------ */

static void on_found(void *ctx, uint64_t id, uint32_t found)
{
	struct server *srv = ctx;

	if (found)
		metric_add(srv->metrics, M_L2_PREFETCH_LOAD_SUBMITTED_REQUESTS, 1);
	sessions_found(srv->sessions, id, found);
}

static bool on_loaded(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs)
{
	return sessions_loaded(((struct server *)ctx)->sessions, id, r, objs, clock_ms());
}

struct tier_listener below_listener(struct server *srv)
{
	return (struct tier_listener){srv, on_found, on_loaded};
}

void below_nameless(struct server *srv)
{
	static struct log_limit limit;
	uint64_t dropped;

	(void)srv;
	if (log_limit_pass(&limit, 60000, &dropped))
		log_warn("objects are not written to L2: their model or salt is too long, or there are more than %u of "
			 "them",
			 SEG_NAMES_MAX);
}
