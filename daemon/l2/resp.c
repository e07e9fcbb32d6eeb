/* resp.c - the adapter for Redis and Valkey. */
#include "daemon/l2/resp_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static struct resp *of(struct l2 *a)
{
	return (struct resp *)a;
}

/* ---- operations ---------------------------------------------------------------------------------------------------------- */

/* What was stored since the start, in the order of the index's slots; the cursor is the last one told. */
static uint32_t list(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max)
{
	struct resp *r = of(a);
	uint32_t n = 0;

	lk_lock(&r->lk);
	uint64_t id = *cursor + 1;
	for (; id <= r->index.used && n < max; id++) {
		const struct fs_entry *e = fs_entry_at(&r->index, (uint32_t)id);
		if (e->state == FS_READY)
			out[n++] = (struct l2_list_entry){{e->stem, e->hash}, e->bytes};
	}
	*cursor = id <= r->index.used ? id - 1 : 0;
	lk_unlock(&r->lk);
	return n;
}

static void stats(struct l2 *a, struct l2_stats *out)
{
	struct resp *r = of(a);

	lk_lock(&r->lk);
	*out = r->n;
	out->used_bytes = r->used;
	out->capacity_bytes = r->capacity;
	out->healthy = !r->failed;
	snprintf(out->state, sizeof(out->state), "%s",
		 r->failed      ? r->error
		 : r->connected ? "ok"
				: "not connected yet");
	lk_unlock(&r->lk);
	l2_pool_counts(r->on.pool, &out->in_flight_loads, &out->in_flight_stores, &out->queued);
}

static json_t *describe(struct l2 *a)
{
	struct resp *r = of(a);

	return json_pack("{s:s, s:s, s:i, s:i, s:b}", "backend", "resp", "host", r->server.host, "port", r->server.port,
			 "connections", (int)r->nworkers, "shared", r->shared);
}

static void destroy(struct resp *r)
{
	for (uint32_t i = 0; i < r->nworkers; i++) {
		resp_close(&r->w[i].conn);
		mem_free(r->w[i].text.p);
	}
	for (uint32_t i = 0; i < 3; i++)
		mem_free(r->texts[i]);
	fs_index_free(&r->index);
	lk_destroy(&r->lk);
	mem_free(r);
}

static void do_close(struct l2 *a, uint32_t wait_ms)
{
	struct resp *r = of(a);
	uint64_t until = clock_ms() + wait_ms,
		 drained = until - wait_ms / 4; /* the rest is for what is under way then */
	struct l2_stats n;

	for (stats(a, &n); n.queued && clock_ms() < drained; stats(a, &n))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	uint64_t now = clock_ms();
	if (l2_pool_stop(r->on.pool, now + 100 < until ? (uint32_t)(until - now) : 100))
		destroy(r);
}

static const struct l2_ops resp_ops = {
	.type = "resp",
	.local = false,
	.find = l2_pooled_find,
	.load = l2_pooled_load,
	.store = l2_pooled_store,
	.remove = l2_pooled_remove,
	.clear = l2_pooled_clear,
	.flush = l2_pooled_flush,
	.list = list,
	.stats = stats,
	.describe = describe,
	.close = do_close,
};

/* ---- starting ------------------------------------------------------------------------------------------------------------- */

static char *text_of(const struct l2_conf *c, const char *key)
{
	const char *t = l2_conf_text(c, key);

	return mem_strndup(t ? t : "", t ? strlen(t) : 0);
}

static int read_conf(struct resp *r, const struct l2_conf *c, struct why *why)
{
	r->texts[0] = text_of(c, "host");
	r->texts[1] = text_of(c, "username");
	r->texts[2] = text_of(c, "password");
	if (!r->texts[0] || !r->texts[1] || !r->texts[2])
		return why_set(why, -ENOMEM, "out of memory");
	if (strstr(r->texts[0], "://"))
		return why_set(why, -ENOTSUP,
			       "host: a name, an address or the path of a socket, without a scheme; TLS is not in this "
			       "build: use a tunnel (stunnel) and its local port");
	r->server = (struct resp_server){.host = r->texts[0],
					 .port = (int)l2_conf_int(c, "port"),
					 .username = r->texts[1],
					 .password = r->texts[2],
					 .timeout_ms = (uint32_t)l2_conf_int(c, "timeout_ms")};
	if (*r->texts[0] != '/' && r->server.port == 0)
		return why_set(why, -EINVAL, "port: 0 is for the path of a socket");
	r->shared = l2_conf_bool(c, "shared");
	r->capacity = l2_conf_gib(c, "max_capacity_gb");
	r->noop = strcmp(l2_conf_text(c, "eviction.eviction_policy"), "noop") == 0;
	if (l2_conf_has(c, "eviction") && r->capacity && !r->noop) {
		r->watermark = l2_conf_real(c, "eviction.trigger_watermark");
		r->ratio = l2_conf_real(c, "eviction.eviction_ratio");
	}
	return 0;
}

static int prepare(struct resp *r, const struct l2_conf *c, struct why *why)
{
	uint64_t seed;
	int rc = read_conf(r, c, why);

	if (rc)
		return rc;
	if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		return why_set(why, -EIO, "no random numbers");
	if (fs_index_init(&r->index, seed))
		return why_set(why, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < r->nworkers; i++) {
		r->w[i].text = (struct resp_text){.p = mem_calloc(1, RESP_SCRATCH), .room = RESP_SCRATCH};
		if (!r->w[i].text.p)
			return why_set(why, -ENOMEM, "out of memory");
	}
	return 0;
}

int l2_resp_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	uint32_t n = (uint32_t)l2_conf_int(c, "num_workers");
	struct resp *r = mem_calloc(1, sizeof(*r) + n * sizeof(r->w[0]));

	if (!r)
		return why_set(why, -ENOMEM, "out of memory");
	lk_init(&r->lk, LK_L2);
	r->on.l2.ops = &resp_ops;
	r->names = env->names;
	r->nworkers = n;
	int rc = prepare(r, c, why);
	if (!rc) {
		const struct l2_pool_conf p = {
			.env = env, .name = "lmca-resp", .threads = n, .run = resp_run, .ctx = r};
		rc = l2_pool_start(&p, &r->on.pool, why);
	}
	if (rc) {
		destroy(r);
		return rc;
	}
	*out = &r->on.l2;
	return 0;
}
