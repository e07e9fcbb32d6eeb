/* snapshot.c - what HTTP may know: values copied under short locks, never a lock held while rendering. */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "daemon/core/core_int.h"
#include "daemon/core/server.h"
#include "daemon/http/status.h"
#include "transport/kv/kv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STUCK_MS 30000u /* busy on one request for so long: unhealthy */

static const char *const policy_names[] = {"LRU", "noop", "IsolatedLRU"};

static void add_thread(struct status *s, const char *name, int cpu, int node, uint32_t depth, uint64_t since_ms,
		       bool busy)
{
	struct status_thread *t = &s->threads[s->nthreads++];
	uint64_t now = clock_ms(), age = now > since_ms ? now - since_ms : 0;

	snprintf(t->name, sizeof(t->name), "%s", name);
	t->cpu = cpu;
	t->node = node;
	t->queue_depth = depth;
	t->last_progress_s = busy ? (double)age / 1000.0 : 0;
	t->busy = busy;
	t->healthy = !busy || age < STUCK_MS;
	s->is_healthy &= t->healthy;
}

static int add_threads(struct server *srv, struct status *s)
{
	uint32_t nworkers = srv->ntransfer + srv->nlookup + srv->nadmit;
	uint64_t progress;
	int cpu;

	s->threads = mem_calloc(nworkers + 3, sizeof(*s->threads));
	if (!s->threads)
		return -ENOMEM;
	control_progress(srv->control, &progress, &cpu);
	add_thread(s, "lmca-control", cpu, -1, 0, progress, true);               /* it wakes at least once a second */
	add_thread(s, "lmca-main", -1, -1, 0, atomic_load(&srv->tick_ms), true); /* time limits, eviction */
	if (srv->tier)
		add_thread(s, "lmca-l2", s->below.tier.cpu, -1, (uint32_t)s->below.tier.jobs_waiting,
			   clock_ms() - (uint64_t)(s->below.tier.last_progress_s * 1000), true);
	for (uint32_t i = 0; i < nworkers; i++) {
		struct worker *w = &srv->worker[i];
		lk_lock(&w->lk);
		uint32_t depth = w->depth;
		lk_unlock(&w->lk);
		add_thread(s, w->name, atomic_load(&w->cpu), w->node.os, depth, atomic_load(&w->progress_ms),
			   atomic_load(&w->busy));
	}
	return 0;
}

static void add_store(struct server *srv, struct status *s)
{
	struct store_stats st;

	store_stats(srv->store, &st);
	s->objects = st.objects;
	s->write_locked = st.reserved;
	s->read_locked = st.locked;
	s->temporary = st.temporary;
	s->detached = st.detached;
	s->used_bytes = st.used_bytes;
	s->total_bytes = st.total_bytes;
	s->committed_bytes = st.committed_bytes;
	s->write_ttl_s = srv->conf.l1_write_ttl_seconds;
	s->read_ttl_s = srv->conf.l1_read_ttl_seconds;
	s->eviction_policy = policy_names[srv->conf.eviction_policy];
	s->trigger_watermark = srv->conf.eviction_trigger_watermark;
	s->eviction_ratio = srv->conf.eviction_ratio;
}

static void add_endpoints(struct server *srv, struct status *s)
{
	snprintf(s->zmq_endpoint, sizeof(s->zmq_endpoint), "tcp://%.200s:%u", srv->conf.host,
		 control_port(srv->control));
	if (atomic_load(&srv->http_ready))
		snprintf(s->http_endpoint, sizeof(s->http_endpoint), "http://%.200s:%u", srv->conf.http_host,
			 http_port(srv->http));
	snprintf(s->version, sizeof(s->version), "%s", CONF_VERSION);
	s->copy_kernel = kv_copy_name();
	s->arena_backing = srv->slots ? arena_shm_name(srv->arena) : "anonymous";
}

static int host_status(void *ctx, struct status *s)
{
	struct server *srv = ctx;
	struct sessions_stats ss;
	int err;

	memset(s, 0, sizeof(*s));
	s->is_healthy = !shmx_faulted(srv->arena_guard);
	s->uptime_s = (double)(clock_ms() - srv->started_ms) / 1000.0;
	s->hash_algorithm = chash_name(srv->chash.algorithm);
	s->chunk_size = srv->chash.chunk_tokens;
	add_endpoints(srv, s);
	add_store(srv, s);
	sessions_stats(srv->sessions, &ss);
	s->active_sessions = ss.active;
	s->active_prefetch_jobs = ss.pending;
	control_counts(srv->control, &s->peers.peers, &s->peers.dropped_messages, &s->peers.bad_messages);
	err = ctx_status(srv->contexts, s, clock_ms());
	if (!err)
		err = below_status(srv, s);
	s->gpu = device_status(srv);
	snprintf(s->no_gpu, sizeof(s->no_gpu), "%s", srv->no_gpu);
	if (!err)
		err = add_threads(srv, s);
	if (!err)
		err = place_status(srv, s);
	if (err)
		status_free(s);
	return err;
}

static uint64_t host_clear(void *ctx)
{
	return store_clear(((struct server *)ctx)->store);
}

static bool host_end_session(void *ctx, struct slice request_id)
{
	return sessions_end(((struct server *)ctx)->sessions, request_id, 0, clock_ms());
}

/* Counters kept elsewhere are brought up to date by difference. */
static void catch_up(struct metrics *m, enum metric_id id, uint64_t value)
{
	uint64_t have = metric_value(m, id);

	if (value > have)
		metric_add(m, id, value - have);
}

static void host_refresh(void *ctx)
{
	struct server *srv = ctx;
	struct metrics *m = srv->metrics;
	struct store_stats st;
	struct sessions_stats ss;
	struct prefix_stats ps;
	uint64_t peers, dropped, bad;

	store_stats(srv->store, &st);
	sessions_stats(srv->sessions, &ss);
	prefix_stats(srv->prefix, &ps);
	control_counts(srv->control, &peers, &dropped, &bad);
	metric_set(m, M_L1_MEMORY_USAGE_BYTES, (double)st.used_bytes);
	metric_set(m, M_L1_USAGE_RATIO, st.total_bytes ? (double)st.used_bytes / (double)st.total_bytes : 0);
	metric_set(m, M_L1_OBJECTS, (double)st.objects);
	metric_set(m, M_PEERS, (double)peers);
	metric_set(m, M_CONTEXTS, ctx_count(srv->contexts));
	metric_set(m, M_SESSIONS, (double)ss.active);
	metric_set(m, M_ACTIVE_PREFETCH_JOBS, (double)ss.pending);
	below_refresh(srv);
	place_refresh(srv);
	device_refresh(srv);
	catch_up(m, M_L1_EVICTED_CHUNKS, st.evicted_objects);
	catch_up(m, M_L1_EVICTION_LOOP_TICKS, st.evict_ticks);
	catch_up(m, M_L1_EVICTION_LOOP_TRIGGERED, st.evict_triggered);
	catch_up(m, M_L1_SPILL_BYTES, st.spill_bytes);
	catch_up(m, M_SESSION_LOCKS_EXPIRED, ss.locks_expired);
	catch_up(m, M_PREFIX_CACHE_HITS, ps.reused_chunks);
	catch_up(m, M_PREFIX_CACHE_MISSES, ps.hashed_chunks);
	catch_up(m, M_REUSED_TOKENS, ps.reused_chunks * srv->chash.chunk_tokens);
	catch_up(m, M_HASHED_TOKENS, ps.hashed_chunks * srv->chash.chunk_tokens);
}

static int host_quota_set(void *ctx, struct slice salt, uint64_t bytes)
{
	return store_quota_set(((struct server *)ctx)->store, salt, bytes);
}

static uint32_t host_quota_list(void *ctx, struct store_quota *out, uint32_t max)
{
	return store_quota_list(((struct server *)ctx)->store, out, max);
}

static char *host_conf_json(void *ctx)
{
	struct server *srv = ctx;
	json_t *adapters = below_conf_json(srv);
	char *text = adapters ? conf_json_http(&srv->conf, adapters) : NULL;

	json_decref(adapters);
	return text;
}

void snapshot_host(struct server *srv, struct http_host *out)
{
	*out = (struct http_host){.ctx = srv,
				  .status = host_status,
				  .clear = host_clear,
				  .end_session = host_end_session,
				  .refresh_gauges = host_refresh,
				  .quota_set = host_quota_set,
				  .quota_list = host_quota_list,
				  .conf_json = host_conf_json};
	below_http(srv, &out->below);
	snprintf(out->instance_id, sizeof(out->instance_id), "%s", srv->instance_id);
}
