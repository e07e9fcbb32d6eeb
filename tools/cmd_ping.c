/* cmd_ping.c - `ping kvcache` and `ping engine`: one request, and how long the network took for it.
 *
 * Over ZMQ the connection is made by GET_CHUNK_SIZE first, and the NOOP behind it is what is timed.
 */
#include "tools/commands.h"

#include "daemon/base/clock.h"
#include "tools/httpc.h"
#include "tools/session.h"

#include <errno.h>
#include <math.h>

#define PING_WIDTH 30

static int ping_zmq(const struct cli_common *o, double *ms, struct why *why)
{
	struct ctl_client *c;
	uint32_t chunk;
	int timeout_ms = (int)(o->timeout_s * 1000);
	int rc = session_open(&o->url, SESSION_DIALECT, 1024, timeout_ms, &c, &chunk, why);
	if (rc)
		return rc;
	struct wire_req req = {.op = WIRE_NOOP};
	struct wire_reply reply;
	uint64_t start = clock_ns();
	rc = ctl_call(c, &req, 0, timeout_ms, &reply, why);
	*ms = (double)(clock_ns() - start) / 1e6;
	if (rc)
		why_prefix(why, "Cannot connect to %s", o->url.text);
	else if (!slice_is(reply.bytes, "OK"))
		rc = why_set(why, -EPROTO, "the server answered NOOP with something else than OK");
	ctl_client_close(c);
	return rc;
}

static int ping_http(const struct cli_common *o, const char *const *paths, double *ms, struct why *why)
{
	struct httpc_answer a;
	int rc = httpc_first(o->url.text, paths, NULL, o->timeout_s, &a, why);
	if (rc)
		return rc;
	*ms = a.seconds * 1000;
	rc = httpc_check(&a, why);
	httpc_free(&a);
	return rc;
}

static int finish(const struct cli_cmd *cmd, const struct cli_common *o, const char *title, int rc, double ms,
		  const struct why *why)
{
	struct report *r = report_create(title, PING_WIDTH);
	if (r) {
		report_text(r, "Status", "status", "%s", rc ? "FAIL" : "OK");
		report_real(r, "Round trip time (ms)", "round_trip_time_ms", rc ? NAN : ms);
	}
	if (rc)
		cli_error(cmd, "%s", why->text);
	return cli_finish(cmd, o, r, rc ? CLI_FAILED : CLI_OK);
}

static int ping(const struct cli_cmd *cmd, int argc, char **argv, const char *title, const char *default_url,
		const char *const *paths, bool zmq)
{
	const struct cli_spec spec = {.default_url = default_url, .default_timeout_s = 10, .csv = true};
	struct cli_common o = {0};
	struct why why = {0};
	double ms = NAN;
	int code = cli_parse(cmd, &spec, argc, argv, &o);
	if (code >= 0)
		return code;
	if (o.url.kind != URL_HTTP && !zmq)
		return cli_usage(cmd, "an engine answers HTTP: give http://host:port");
	int rc = o.url.kind == URL_HTTP ? ping_http(&o, paths, &ms, &why) : ping_zmq(&o, &ms, &why);
	return finish(cmd, &o, title, rc, ms, &why);
}

int cmd_ping_kvcache(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const char *const paths[] = {"/healthcheck", "/api/healthcheck", NULL};
	return ping(cmd, argc, argv, "Ping KV Cache", CLI_DEFAULT_HTTP, paths, true);
}

int cmd_ping_engine(const struct cli_cmd *cmd, int argc, char **argv)
{
	static const char *const paths[] = {"/health", NULL};
	return ping(cmd, argc, argv, "Ping Engine", CLI_DEFAULT_ENGINE, paths, false);
}
