/* cmd_kvcache.c - `kvcache clear` and `kvcache end-session`. */
#include "tools/commands.h"

#include "tools/httpc.h"
#include "tools/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define KVCACHE_WIDTH 48

static int call_zmq(const struct cli_common *o, struct wire_req *req, struct why *why)
{
	struct ctl_client *c;
	struct wire_reply reply;
	uint32_t chunk;
	int timeout_ms = (int)(o->timeout_s * 1000);
	int rc = session_open(&o->url, SESSION_DIALECT, 1024, timeout_ms, &c, &chunk, why);
	if (rc)
		return rc;
	rc = ctl_call(c, req, 0, timeout_ms, &reply, why);
	ctl_client_close(c);
	return rc;
}

static int clear_http(const struct cli_common *o, long long *removed, struct why *why)
{
	static const char *const paths[] = {"/clear-cache", "/cache/clear", "/api/clear-cache", NULL};
	struct httpc_answer a;
	int rc = httpc_first(o->url.text, paths, "", o->timeout_s, &a, why);
	if (rc)
		return rc;
	rc = httpc_check(&a, why);
	if (!rc)
		*removed = a.removed;
	httpc_free(&a);
	return rc;
}

int cmd_kvcache_clear(const struct cli_cmd *cmd, int argc, char **argv)
{
	const struct cli_spec spec = {.default_url = CLI_DEFAULT_HTTP, .default_timeout_s = 30};
	struct cli_common o = {0};
	struct why why = {0};
	long long removed = -1;
	int code = cli_parse(cmd, &spec, argc, argv, &o);
	if (code >= 0)
		return code;
	struct wire_req req = {.op = WIRE_CLEAR};
	int rc = o.url.kind == URL_HTTP ? clear_http(&o, &removed, &why) : call_zmq(&o, &req, &why);
	if (rc)
		cli_error(cmd, "%s", why.text);
	struct report *r = report_create("KV Cache Clear", KVCACHE_WIDTH);
	if (r) {
		report_text(r, "Status", "status", "%s", rc ? "FAIL" : "OK");
		if (removed >= 0)
			report_int(r, "Objects removed", "objects_removed", removed);
	}
	return cli_finish(cmd, &o, r, rc ? CLI_FAILED : CLI_OK);
}

struct end_opts {
	struct cli_common common;
	const char *request_id;
};

/* A call of ours; upstream's servers have none and answer 404 without naming the request. */
static int end_http(const struct end_opts *o, struct why *why)
{
	char id[3 * WIRE_MAX_NAME + 1], path[sizeof(id) + 32];
	struct httpc_answer a;
	int rc = httpc_escape(o->request_id, id, sizeof(id));
	if (rc)
		return why_set(why, rc, "--request-id is too long");
	snprintf(path, sizeof(path), "/sessions/%s/end", id);
	rc = httpc_request(o->common.url.text, path, "", o->common.timeout_s, &a, why);
	if (rc)
		return rc;
	rc = httpc_check(&a, why);
	if (a.code == 404)
		rc = why_set(why, -ENOENT, "HTTP 404: no session of request '%.200s'", o->request_id);
	httpc_free(&a);
	return rc;
}

int cmd_kvcache_end_session(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const struct cli_opt rows[] = {
		{"request-id", 0, "ID", CLI_STR, offsetof(struct end_opts, request_id), 0, 0, NULL,
		 "Request whose session ends (required)"},
	};
	const struct cli_spec spec = {
		.opts = rows, .nopts = 1, .default_url = CLI_DEFAULT_HTTP, .default_timeout_s = 5};
	struct end_opts o = {0};
	struct why why = {0};
	int code = cli_parse(cmd, &spec, argc, argv, &o.common);
	if (code >= 0)
		return code;
	if (!o.request_id || !*o.request_id || strlen(o.request_id) > WIRE_MAX_NAME)
		return cli_usage(cmd, "--request-id is required (1 to %d bytes)", WIRE_MAX_NAME);
	struct wire_req req = {.op = WIRE_END_SESSION, .request_id = slice_str(o.request_id)};
	int rc = o.common.url.kind == URL_HTTP ? end_http(&o, &why) : call_zmq(&o.common, &req, &why);
	if (rc)
		cli_error(cmd, "%s", why.text);
	struct report *r = report_create("KV Cache End Session", KVCACHE_WIDTH);
	if (r) {
		report_text(r, "Status", "status", "%s", rc ? "FAIL" : "OK");
		report_text(r, "Request ID", "request_id", "%s", o.request_id);
	}
	return cli_finish(cmd, &o.common, r, rc ? CLI_FAILED : CLI_OK);
}
