/* handlers.c - one function per row of routes.def. Bodies and error shapes follow upstream's FastAPI server.
 *
 * Nothing here waits: handlers call the host's functions, which copy a snapshot or do one short operation.
 */
#include "daemon/http/http_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/http/metrics.h"
#include "daemon/http/status.h"
#include "daemon/http/text_int.h"
#include "daemon/store/store.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>

#define GIB          1073741824.0
#define MAX_SALTS    65536u /* the store's namespaces: there cannot be more */
#define DEFAULT_SALT "_default"
#define NO_ENGINE    "{\"error\":\"engine not initialized\"}"

void http_reply_json(struct http_reply *reply, unsigned status, json_t *root)
{
	reply->status = status;
	reply->type = "application/json";
	reply->body = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
	reply->n = reply->body ? strlen(reply->body) : 0;
	json_decref(root);
}

void http_reply_detail(struct http_reply *reply, unsigned status, const char *text)
{
	http_reply_json(reply, status, json_pack("{s:s}", "detail", text));
}

bool http_ready(const struct http_call *call)
{
	return !call->h->host.ready || call->h->host.ready(call->h->host.ctx);
}

/* ---- root, health, status, configuration ----------------------------------------------------------------------- */

void http_do_root(const struct http_call *call, struct http_reply *reply)
{
	(void)call;
	http_reply_json_text(reply, MHD_HTTP_OK, "{\"status\":\"ok\",\"service\":\"LMCache HTTP API\"}");
}

void http_do_healthcheck(const struct http_call *call, struct http_reply *reply)
{
	if (http_ready(call))
		http_reply_json_text(reply, MHD_HTTP_OK, "{\"status\":\"healthy\"}");
	else
		http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE,
				     "{\"status\":\"unhealthy\",\"reason\":\"engine not initialized\"}");
}

void http_do_status(const struct http_call *call, struct http_reply *reply)
{
	struct status s = {0};
	int rc = http_ready(call) ? call->h->host.status(call->h->host.ctx, &s) : -EAGAIN;

	if (rc == 0) {
		http_reply_json(reply, MHD_HTTP_OK, status_json(&s));
		status_free(&s);
	} else if (rc != -ENOMEM) {
		http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NO_ENGINE);
	}
}

void http_do_conf(const struct http_call *call, struct http_reply *reply)
{
	char *text = http_ready(call) ? call->h->host.conf_json(call->h->host.ctx) : NULL;

	if (!text) {
		http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE, "{\"error\":\"configs not initialized\"}");
		return;
	}
	*reply = (struct http_reply){MHD_HTTP_OK, "application/json", text, strlen(text), NULL, 0, false};
}

/* ---- metrics ------------------------------------------------------------------------------------------------- */

static bool metrics_off(const struct http_call *call, struct http_reply *reply)
{
	if (call->h->serve_metrics)
		return false;
	http_reply_json_text(reply, MHD_HTTP_NOT_FOUND, "{\"detail\":\"Not Found\"}");
	return true;
}

void http_do_metrics(const struct http_call *call, struct http_reply *reply)
{
	if (metrics_off(call, reply))
		return;
	if (http_ready(call))
		call->h->host.refresh_gauges(call->h->host.ctx);
	reply->status = MHD_HTTP_OK;
	reply->type = "text/plain; version=0.0.4; charset=utf-8";
	reply->body = metrics_render(call->h->metrics, &reply->n);
}

void http_do_metrics_reset(const struct http_call *call, struct http_reply *reply)
{
	if (metrics_off(call, reply))
		return;
	metrics_reset(call->h->metrics);
	log_info("Metrics reset over HTTP");
	http_reply_text(reply, MHD_HTTP_OK, "text/plain; charset=utf-8", "ok");
}

/* ---- clear --------------------------------------------------------------------------------------------------- */

static void clear(const struct http_call *call, struct http_reply *reply)
{
	reply->removed = call->h->host.clear(call->h->host.ctx);
	reply->report_removed = true;
	log_info("Cache cleared over HTTP: %llu objects", (unsigned long long)reply->removed);
}

void http_do_clear_cache(const struct http_call *call, struct http_reply *reply)
{
	if (!http_ready(call)) {
		http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE,
				     "{\"status\":\"error\",\"reason\":\"engine not initialized\"}");
		return;
	}
	clear(call, reply);
	http_reply_json_text(reply, MHD_HTTP_OK, "{\"status\":\"ok\"}");
}

void http_unprocessable(struct http_reply *reply, const char *type, const char *field, const char *msg, json_t *input)
{
	json_t *loc = field ? json_pack("[s s]", "body", field) : json_pack("[s]", "body");

	http_reply_json(
		reply, MHD_HTTP_UNPROCESSABLE_CONTENT,
		json_pack("{s:[{s:s s:o s:s s:o}]}", "detail", "type", type, "loc", loc, "msg", msg, "input", input));
}

/* What FastAPI takes for a boolean. */
bool http_is_boolean(const json_t *v, bool *out)
{
	static const char *const words[] = {"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"};
	bool number = json_is_number(v) && (json_number_value(v) == 0 || json_number_value(v) == 1);

	*out = json_is_true(v) || (number && json_number_value(v) == 1);
	for (size_t i = 0; json_is_string(v) && i < sizeof words / sizeof *words; i++) {
		if (strcasecmp(json_string_value(v), words[i]) == 0) {
			*out = i % 2 == 0;
			return true;
		}
	}
	return json_is_boolean(v) || number;
}

json_t *http_object_body(const struct http_call *call, struct http_reply *reply)
{
	json_error_t error;
	json_t *body;

	if (!call->body.n) {
		http_unprocessable(reply, "missing", NULL, "Field required", json_null());
		return NULL;
	}
	body = json_loadb(call->body.p, call->body.n, JSON_DECODE_ANY, &error);
	if (!body) {
		http_reply_json(reply, MHD_HTTP_UNPROCESSABLE_CONTENT,
				json_pack("{s:[{s:s s:[s i] s:s s:{} s:{s:s}}]}", "detail", "type", "json_invalid",
					  "loc", "body", error.position, "msg", "JSON decode error", "input", "ctx",
					  "error", error.text));
		return NULL;
	}
	if (json_is_object(body))
		return body;
	http_unprocessable(reply, "model_attributes_type", NULL,
			   "Input should be a valid dictionary or object to extract fields from", body);
	return NULL;
}

/* The tiers a body names: 1 L1, 2 L2; 0: the reply is filled. */
static unsigned tiers_of(const json_t *tier, struct http_reply *reply)
{
	const char *name = tier ? json_string_value(tier) : "l1";

	if (strcmp(name, "l1") == 0)
		return 1;
	if (strcmp(name, "l2") == 0)
		return 2;
	if (strcmp(name, "all") == 0)
		return 3;
	http_reply_json_text(reply, MHD_HTTP_BAD_REQUEST, "{\"detail\":\"tier must be 'l1', 'l2' or 'all'\"}");
	return 0;
}

/* L2 last: what L1 had is not on its way down any more. */
static void clear_tiers(const struct http_call *call, unsigned tiers, struct http_reply *reply)
{
	static const char *const names[] = {"", "l1", "l2", "all"};
	int err = 0;

	if (tiers & 1)
		clear(call, reply);
	if (tiers & 2)
		err = http_l2_clear(call);
	if (err == -ENOENT && tiers == 3)
		err = 0;
	if (!err)
		http_reply_json(reply, MHD_HTTP_OK,
				json_pack("{s:s s:{s:s}}", "status", "ok", "cleared", "tier", names[tiers]));
	else if (err == -ENOENT)
		http_reply_detail(reply, MHD_HTTP_BAD_REQUEST, "there is no L2 adapter");
	else if (err == -EBUSY)
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, "L2 is busy with other requests of operators");
	else
		http_reply_detail(reply, err == -ETIMEDOUT ? MHD_HTTP_GATEWAY_TIMEOUT : MHD_HTTP_BAD_GATEWAY,
				  "an L2 adapter did not clear");
}

/* `force` false would spare locked objects: here a clear never harms one, so both do the same. */
void http_do_cache_clear(const struct http_call *call, struct http_reply *reply)
{
	json_t *body = http_object_body(call, reply), *tier, *force;
	unsigned tiers;
	bool yes;

	if (!body)
		return;
	tier = json_object_get(body, "tier");
	force = json_object_get(body, "force");
	if (tier && !json_is_string(tier)) {
		http_unprocessable(reply, "string_type", "tier", "Input should be a valid string", json_incref(tier));
	} else if (force && !http_is_boolean(force, &yes)) {
		http_unprocessable(reply, "bool_type", "force", "Input should be a valid boolean", json_incref(force));
	} else if ((tiers = tiers_of(tier, reply)) != 0) {
		if (http_ready(call))
			clear_tiers(call, tiers, reply);
		else
			http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, "server not initialized");
	}
	json_decref(body);
}

/* ---- quota --------------------------------------------------------------------------------------------------- */

static struct slice salt_of(const struct http_call *call)
{
	return slice_is(call->param, DEFAULT_SALT) ? slice_of("", 0) : call->param;
}

/* The salt as the path shows it: the empty one has a name. */
static json_t *shown(struct slice salt)
{
	char *clean = salt.n ? text_clean(salt.p, salt.n) : NULL;
	json_t *out = salt.n ? (clean ? json_string(clean) : NULL) : json_string(DEFAULT_SALT);

	mem_free(clean);
	return out;
}

/* Every salt of the store; *n is 0 and NULL returned when out of memory. The list may grow between the two calls: then the
 * newest are missing from this answer. */
static struct store_quota *all_quotas(const struct http_call *call, uint32_t *n)
{
	const struct http_host *host = &call->h->host;
	uint32_t max = host->quota_list(host->ctx, NULL, 0);
	struct store_quota *list;

	max = max < MAX_SALTS ? max + 16 : MAX_SALTS;
	list = mem_calloc(max, sizeof *list);
	*n = list ? host->quota_list(host->ctx, list, max) : 0;
	if (*n > max)
		*n = max;
	return list;
}

static bool quota_not_ready(const struct http_call *call, struct http_reply *reply)
{
	if (http_ready(call))
		return false;
	http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NO_ENGINE);
	return true;
}

void http_do_quota_list(const struct http_call *call, struct http_reply *reply)
{
	struct store_quota *list;
	json_t *users;
	bool ok = true;
	uint32_t n;

	if (quota_not_ready(call, reply))
		return;
	list = all_quotas(call, &n);
	users = list ? json_object() : NULL;
	for (uint32_t i = 0; users && i < n; i++) {
		json_t *salt = shown(slice_str(list[i].salt));

		if (list[i].limit_bytes != UINT64_MAX &&
		    json_object_set_new(users, salt ? json_string_value(salt) : "",
					json_pack("{s:f s:f}", "limit_gb", (double)list[i].limit_bytes / GIB,
						  "current_usage_gb", (double)list[i].used_bytes / GIB)))
			ok = false;
		ok = ok && salt;
		json_decref(salt);
	}
	mem_free(list);
	if (!ok) {
		json_decref(users);
		users = NULL;
	}
	http_reply_json(reply, MHD_HTTP_OK, json_pack("{s:o}", "users", users));
}

/* Limit and use of one salt; false when it has no limit. -ENOMEM in *rc when the list could not be had. */
static bool quota_find(const struct http_call *call, struct store_quota *out, int *rc)
{
	struct slice salt = salt_of(call);
	uint32_t n;
	struct store_quota *list = all_quotas(call, &n);

	*out = (struct store_quota){.limit_bytes = UINT64_MAX};
	*rc = list ? 0 : -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		if (slice_is(salt, list[i].salt))
			*out = list[i];
	mem_free(list);
	return out->limit_bytes != UINT64_MAX;
}

void http_do_quota_get(const struct http_call *call, struct http_reply *reply)
{
	struct store_quota q;
	bool exists;
	int rc;

	if (quota_not_ready(call, reply))
		return;
	exists = quota_find(call, &q, &rc);
	if (rc)
		return;
	http_reply_json(reply, MHD_HTTP_OK,
			json_pack("{s:o s:f s:f s:b}", "cache_salt", shown(salt_of(call)), "limit_gb",
				  exists ? (double)q.limit_bytes / GIB : 0.0, "current_usage_gb",
				  (double)q.used_bytes / GIB, "exists", exists));
}

/* The limit in GiB from the body, or the reason it is none. */
static const char *limit_of(const struct http_call *call, double *limit)
{
	json_t *body = json_loadb(call->body.p ? call->body.p : "", call->body.n, JSON_DECODE_INT_AS_REAL, NULL);
	json_t *v = json_object_get(body, "limit_gb");
	const char *wrong = NULL;

	*limit = json_number_value(v);
	if (!body)
		wrong = "{\"error\":\"invalid JSON body\"}";
	else if (!v)
		wrong = "{\"error\":\"body must be {'limit_gb': <float>}\"}";
	else if (!json_is_number(v))
		wrong = "{\"error\":\"limit_gb must be numeric\"}";
	else if (*limit < 0)
		wrong = "{\"error\":\"limit_gb must be non-negative\"}";
	else if (!isfinite(*limit) || *limit * GIB >= 0x1p63)
		wrong = "{\"error\":\"limit_gb must be finite\"}";
	json_decref(body);
	return wrong;
}

void http_do_quota_put(const struct http_call *call, struct http_reply *reply)
{
	const char *wrong;
	double limit;
	int rc;

	if (quota_not_ready(call, reply))
		return;
	wrong = limit_of(call, &limit);
	if (wrong) {
		http_reply_json_text(reply, MHD_HTTP_BAD_REQUEST, wrong);
		return;
	}
	rc = call->h->host.quota_set(call->h->host.ctx, salt_of(call), (uint64_t)(limit * GIB));
	if (rc == 0)
		http_reply_json(reply, MHD_HTTP_OK,
				json_pack("{s:o s:f s:s}", "cache_salt", shown(salt_of(call)), "limit_gb", limit,
					  "status", "ok"));
	else if (rc != -ENOMEM)
		http_reply_json_text(reply, MHD_HTTP_BAD_REQUEST, "{\"error\":\"invalid cache_salt\"}");
}

void http_do_quota_delete(const struct http_call *call, struct http_reply *reply)
{
	struct store_quota q;
	bool existed;
	int rc;

	if (quota_not_ready(call, reply))
		return;
	existed = quota_find(call, &q, &rc);
	if (rc)
		return;
	if (existed)
		existed = call->h->host.quota_set(call->h->host.ctx, salt_of(call), UINT64_MAX) == 0;
	http_reply_json(reply, MHD_HTTP_OK,
			json_pack("{s:o s:s}", "cache_salt", shown(salt_of(call)), "status",
				  existed ? "removed" : "not_found"));
}

/* ---- sessions ------------------------------------------------------------------------------------------------ */

void http_do_session_end(const struct http_call *call, struct http_reply *reply)
{
	bool known;

	if (quota_not_ready(call, reply))
		return;
	known = call->h->host.end_session(call->h->host.ctx, call->param);
	http_reply_json(reply, known ? MHD_HTTP_OK : MHD_HTTP_NOT_FOUND,
			json_pack("{s:s s:o}", "status", known ? "ok" : "not_found", "request_id", shown(call->param)));
}
