/* below.c - making the tier below L1 and its adapters, and handing it what requests store and look up. */
#include "daemon/core/below.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/core/below_int.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define DRAIN_MS 5000u

/* ---- start ------------------------------------------------------------------------------------------------------- */

int below_parse(struct server *srv, struct why *why)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < srv->conf.l2_adapter.n; i++) {
		err = l2_conf_parse(srv->conf.l2_adapter.v[i], i, &srv->l2_conf[i], why);
		srv->nl2 += !err;
	}
	return err;
}

/* The plan has a thread for every drive it saw; the CPUs of one on the drive's node will do for any there. Called by the thread itself,
 * so that nothing of main's is touched. */
static int near_node(void *ctx, node_id node, const char *name)
{
	const struct server *srv = ctx;
	const struct plan_thread *t = NULL;

	if (name)
		pthread_setname_np(pthread_self(), name);
	if (!node_known(node) || !place_pins(srv))
		return 0;
	for (uint32_t i = 0; (t = plan_thread_of(srv->plan, ROLE_NVME, i)) && !node_same(t->node, node); i++)
		;
	return t ? cpus_pin_self(&t->cpus) : 0;
}

/* L1 grows after the start; the disks follow it. */
static uint64_t committed(void *arena, uint32_t range)
{
	return arena_committed(arena, range);
}

static uint32_t arena_buffers(const struct server *srv, struct disk_buffer *out)
{
	uint32_t n = arena_nranges(srv->arena);

	for (uint32_t i = 0; i < n; i++) {
		const struct arena_range *r = arena_range(srv->arena, i);

		out[i] = (struct disk_buffer){.base = arena_base(srv->arena) + r->start,
					      .bytes = r->bytes,
					      .there = committed,
					      .ctx = srv->arena,
					      .index = i};
	}
	return n;
}

/* Adapters that were opened before one failed are closed again. */
static int open_adapters(struct server *srv, struct l2 **out, struct why *why)
{
	struct disk_buffer buffers[ARENA_MAX_RANGES];
	struct l2_env env = {.names = srv->names,
			     .buffers = buffers,
			     .nbuffers = arena_buffers(srv, buffers),
			     .chunk_tokens = srv->chash.chunk_tokens,
			     .ctx = srv,
			     .enter = near_node};
	uint32_t n;
	int err = 0;

	for (n = 0; !err && n < srv->nl2; n += !err) {
		err = l2_create(srv->l2_conf[n], &env, &out[n], why);
	}
	while (err && n-- > 0)
		out[n]->ops->close(out[n], 0);
	return err;
}

/* Names of raw_block and mock are all in the table; others may hold objects of names nobody has used since the start. */
static bool learns_names(const struct server *srv)
{
	for (uint32_t i = 0; i < srv->nl2; i++) {
		const char *type = l2_conf_type(srv->l2_conf[i]);

		if (strcmp(type, "raw_block") != 0 && strcmp(type, "mock") != 0)
			return true;
	}
	return false;
}

static int start_tier(struct server *srv, struct l2 **adapters, struct why *why)
{
	const struct conf *c = &srv->conf;
	struct tier_conf tc = {
		.store = srv->store,
		.names = srv->names,
		.adapters = adapters,
		.nadapters = srv->nl2,
		.store_policy = c->l2_store_policy == CONF_L2_STORE_SKIP_L1 ? TIER_STORE_SKIP_L1 : TIER_STORE_DEFAULT,
		.prefetch_policy =
			c->l2_prefetch_policy == CONF_L2_PREFETCH_RETAIN ? TIER_PREFETCH_RETAIN : TIER_PREFETCH_DEFAULT,
		.admission = c->l2_admission == CONF_L2_ADMIT_SECOND_TOUCH ? TIER_ADMIT_SECOND_TOUCH : TIER_ADMIT_ALL,
		.max_jobs = c->l2_prefetch_max_in_flight,
		.max_load_bytes = (uint64_t)c->l2_prefetch_max_mb << 20,
		.max_dirty_bytes = arena_bytes(srv->arena) / 100 * c->l2_dirty_max_percent,
		.load_timeout_ms = (uint64_t)(c->l2_prefetch_load_timeout * 1000),
		.stall_ms = (uint64_t)(c->l2_prefetch_stall_seconds * 1000)};

	tc.listener = below_listener(srv);
	if (c->l2_prefetch_load_timeout > 0 && !tc.load_timeout_ms)
		tc.load_timeout_ms = 1;
	return tier_create(&tc, &srv->tier, why);
}

int below_open(struct server *srv, struct why *why)
{
	struct l2 *adapters[CONF_LIST_MAX];
	int err;

	if (!srv->nl2)
		return 0;
	if (srv->chash.algorithm == CHASH_SHA256_CBOR && !getenv("PYTHONHASHSEED"))
		log_warn("--hash-algorithm sha256_cbor without PYTHONHASHSEED: hashes are others after every start, so "
			 "nothing in "
			 "L2 will be found again");
	err = seg_names_create(&srv->names);
	if (!err)
		err = below_count_create(srv);
	if (err)
		return why_set(why, err, "out of memory");
	err = open_adapters(srv, adapters, why);
	if (!err) {
		err = start_tier(srv, adapters, why);
		for (uint32_t i = 0; err && i < srv->nl2; i++)
			adapters[i]->ops->close(adapters[i], 0);
	}
	if (err)
		return err;
	srv->l2_learns = learns_names(srv);
	below_meter(srv);
	below_use(srv);
	for (uint32_t i = 0; i < srv->nl2; i++)
		log_info("L2 adapter %u: %s", i, l2_conf_type(srv->l2_conf[i]));
	return 0;
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

static void pause_ms(long ms)
{
	struct timespec t = {0, ms * 1000000l};

	nanosleep(&t, NULL);
}

/* What L1 alone has is written as far as time allows; the rest is only missing in L2, never wrong. */
static uint32_t drain(struct server *srv)
{
	uint64_t t0 = clock_ms(), until = t0 + DRAIN_MS;
	struct tier_stats st;

	tier_stats(srv->tier, &st);
	if (!st.dirty_objects)
		return 0;
	log_info("L2: %llu objects (%.1f MiB) are still to be written: waiting up to %u s",
		 (unsigned long long)st.dirty_objects, (double)st.dirty_bytes / (1 << 20), DRAIN_MS / 1000);
	while (st.dirty_objects && clock_ms() < until) {
		pause_ms(10);
		tier_stats(srv->tier, &st);
	}
	if (st.dirty_objects)
		log_warn("L2: %llu objects (%.1f MiB) were not written", (unsigned long long)st.dirty_objects,
			 (double)st.dirty_bytes / (1 << 20));
	else
		log_info("L2: all is written, after %llu ms", (unsigned long long)(clock_ms() - t0));
	return (uint32_t)(clock_ms() - t0);
}

void below_close(struct server *srv)
{
	uint32_t ms;

	if (!srv->tier)
		return;
	sessions_use(srv->sessions, NULL);
	ms = drain(srv);
	tier_destroy(srv->tier, ms < DRAIN_MS ? DRAIN_MS - ms : 0);
	srv->tier = NULL;
}

void below_free(struct server *srv)
{
	for (uint32_t i = 0; i < srv->nl2; i++)
		l2_conf_free(srv->l2_conf[i]);
	srv->nl2 = 0;
	seg_names_destroy(srv->names);
	srv->names = NULL;
	below_count_destroy(srv);
}

/* ---- STORE ------------------------------------------------------------------------------------------------------- */

static uint32_t name_to_write(struct server *srv, const struct ctx *c, const struct wire_key *key, uint32_t rank)
{
	struct seg_name name = {.model = key->model, .salt = key->salt, .kv_rank = rank};

	memcpy(name.layout, c->object_form, sizeof(name.layout));
	return seg_name_get(srv->names, &name);
}

uint32_t below_commit(struct server *srv, const struct ctx *c, const struct wire_key *key, uint32_t rank,
		      const struct store_hash *hashes, store_obj *objs, uint32_t n)
{
	uint32_t name, done;

	if (!srv->tier)
		return store_commit(srv->store, objs, n, clock_ms());
	name = name_to_write(srv, c, key, rank);
	if (!name) {
		below_nameless(srv);
		return store_commit(srv->store, objs, n, clock_ms());
	}
	done = store_commit_locked(srv->store, objs, n, 1, false, clock_ms());
	if (done)
		tier_store(srv->tier, name, hashes, objs, n);
	return done;
}

bool below_wants_sums(const struct server *srv)
{
	return srv->tier != NULL;
}
