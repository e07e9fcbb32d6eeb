/* cmd_query.c - `query kvcache`: how much of a prompt is cached.
 *
 * Normal path: LOOKUP, QUERY_PREFETCH_STATUS until it is no longer None, then FREE_LOOKUP_LOCKS and END_SESSION, so that
 * asking leaves nothing locked. When the status never comes, the locks are given back all the same.
 */
#include "tools/commands.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/session.h"
#include "tools/tokens.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUERY_WIDTH 48
#define POLL_US     2000

struct query_opts {
	struct cli_common common;
	const char *token_ids, *tokens_file, *model, *salt;
	uint32_t world_size;
};

#define FIELD(f) offsetof(struct query_opts, f)

static const struct cli_opt rows[] = {
	{"token-ids", 0, "N,N,...", CLI_STR, FIELD(token_ids), 0, 0, NULL, "Token ids of the prompt"},
	{"tokens-file", 0, "FILE", CLI_STR, FIELD(tokens_file), 0, 0, NULL,
	 "File with token ids: numbers in text, or u32 little-endian"},
	{"model", 0, "NAME", CLI_STR, FIELD(model), 0, 0, NULL, "Model name as the engine registers it (required)"},
	{"world-size", 0, "N", CLI_U32, FIELD(world_size), 1, 255, NULL, "KV shards of the engine (default 1)"},
	{"cache-salt", 0, "SALT", CLI_STR, FIELD(salt), 0, 0, NULL, "Cache salt of the tenant"},
	{"prompt", 0, "TEXT", CLI_REFUSED, 0, 0, 0, NULL, ""},
	{"round-trip", 0, "X", CLI_REFUSED, 0, 0, 0, NULL, ""},
};

struct query {
	struct ctl_client *client;
	uint32_t chunk_tokens, *ids, count;
	int timeout_ms;
	char request_id[64];
	uint64_t chunks_hit;
};

static struct wire_req base_request(const struct query *q, const struct query_opts *o, enum wire_op op)
{
	struct wire_req req = {.op = op, .has_key = true, .tp_size = 1};
	req.request_id = slice_str(q->request_id);
	req.key = (struct wire_key){
		.model = slice_str(o->model),
		.world_size = o->world_size,
		.worker_id = -1,
		.tokens = {.ids = q->ids, .count = q->count},
		.end = q->count / q->chunk_tokens * (uint64_t)q->chunk_tokens,
		.request_id = slice_str(q->request_id),
		.salt = slice_str(o->salt),
		.has_salt = true,
	};
	return req;
}

static int call(struct query *q, const struct query_opts *o, enum wire_op op, struct wire_reply *reply, struct why *why)
{
	struct wire_req req = base_request(q, o, op);
	return ctl_call(q->client, &req, 0, q->timeout_ms, reply, why);
}

static int wait_hits(struct query *q, const struct query_opts *o, struct why *why)
{
	uint64_t end = clock_ms() + (uint64_t)q->timeout_ms;
	struct wire_reply reply;
	for (;;) {
		int rc = call(q, o, WIRE_QUERY_PREFETCH_STATUS, &reply, why);
		if (rc)
			return rc;
		if (reply.kind != WIRE_REPLY_NONE) {
			q->chunks_hit = reply.u;
			return 0;
		}
		if (clock_ms() >= end)
			return why_set(why, -ETIMEDOUT, "the lookup is not finished after %d ms", q->timeout_ms);
		usleep(POLL_US);
	}
}

static int look_up(struct query *q, const struct query_opts *o, struct why *why)
{
	struct wire_reply reply;
	int rc = call(q, o, WIRE_LOOKUP, &reply, why);
	if (rc)
		return rc;
	rc = wait_hits(q, o, why);
	int freed = call(q, o, WIRE_FREE_LOOKUP_LOCKS, &reply, rc ? NULL : why);
	int ended = call(q, o, WIRE_END_SESSION, &reply, rc || freed ? NULL : why);
	return rc ? rc : freed ? freed : ended;
}

static struct report *show(const struct query *q)
{
	struct report *r = report_create("Query KV Cache Result", QUERY_WIDTH);
	uint64_t chunks = q->count / q->chunk_tokens, hit = q->chunks_hit < chunks ? q->chunks_hit : chunks;
	double share = chunks ? (double)hit / (double)chunks : 0;
	const char *status = hit == 0 ? "MISS" : hit == chunks ? "HIT (full)" : "HIT (partial)";
	if (!r)
		return NULL;
	report_int(r, "Prompt tokens", "prompt_tokens", q->count);
	report_both(r, "Cached chunks", "cached_chunks", json_integer((json_int_t)hit), "%llu/%llu (%.1f%%)",
		    (unsigned long long)hit, (unsigned long long)chunks, share * 100);
	report_int(r, NULL, "total_chunks", (long long)chunks);
	report_int(r, "Cached tokens", "cached_tokens", (long long)(hit * q->chunk_tokens));
	report_text(r, "Cache status", "cache_status", "%s", status);
	return r;
}

/* Characters of UTF-8: every byte that continues none. */
static size_t chars(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static int check(const struct cli_cmd *cmd, const struct query_opts *o)
{
	if (!o->model || !*o->model || strlen(o->model) > WIRE_MAX_NAME)
		return cli_usage(
			cmd, "--model is required: the name under which the engine registered (see describe kvcache)");
	if (!o->token_ids == !o->tokens_file)
		return cli_usage(cmd, "give the prompt by one of --token-ids and --tokens-file");
	if (chars(o->salt) > WIRE_MAX_SALT)
		return cli_usage(cmd, "--cache-salt: at most %d characters", WIRE_MAX_SALT);
	if (o->common.url.kind == URL_HTTP)
		return cli_usage(cmd, "lookups go over ZMQ: give host:port, tcp://host:port or ipc://path");
	return -1;
}

int cmd_query_kvcache(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.opts = rows,
				      .nopts = sizeof(rows) / sizeof(rows[0]),
				      .default_url = CLI_DEFAULT_ZMQ,
				      .default_timeout_s = 5};
	struct query_opts o = {.world_size = 1, .salt = ""};
	struct query q = {0};
	struct why why = {0};
	int code = cli_parse(cmd, &spec, argc, argv, &o.common);
	if (code < 0)
		code = check(cmd, &o);
	if (code >= 0)
		return code;
	int rc = o.token_ids ? tokens_parse(o.token_ids, strlen(o.token_ids), &q.ids, &q.count, &why)
			     : tokens_load(o.tokens_file, &q.ids, &q.count, &why);
	if (rc)
		return cli_usage(cmd, "%s", why.text);
	q.timeout_ms = (int)(o.common.timeout_s * 1000);
	snprintf(q.request_id, sizeof(q.request_id), "query-%d-%016llx", (int)getpid(),
		 (unsigned long long)session_random());
	rc = session_open(&o.common.url, SESSION_DIALECT, q.count, q.timeout_ms, &q.client, &q.chunk_tokens, &why);
	if (!rc)
		rc = look_up(&q, &o, &why);
	ctl_client_close(q.client);
	code = CLI_FAILED;
	if (rc)
		cli_error(cmd, "%s", why.text);
	else
		code = cli_finish(cmd, &o.common, show(&q), CLI_OK);
	mem_free(q.ids);
	return code;
}
