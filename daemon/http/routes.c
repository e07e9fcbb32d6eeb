/* routes.c - the table of paths: matching, and docs/http.md. */
#include "daemon/http/http_int.h"

#include "daemon/base/mem.h"

#include <stdio.h>

static const struct route {
	const char *method, *path;
	http_handler *handler;
	const char *since, *text;
} routes[] = {
#define ROUTE(method, path, handler, since, text) {method, path, http_do_##handler, since, text},
#include "daemon/http/routes.def"
#undef ROUTE
};

#define NROUTES (sizeof routes / sizeof *routes)

void http_reply_text(struct http_reply *reply, unsigned status, const char *type, const char *text)
{
	reply->status = status;
	reply->type = type;
	reply->n = strlen(text);
	reply->body = mem_strndup(text, reply->n);
}

void http_reply_json_text(struct http_reply *reply, unsigned status, const char *json)
{
	http_reply_text(reply, status, "application/json", json);
}

/* ---- matching ------------------------------------------------------------------------------------------------ */

/* Whether the pattern fits; *raw is what stands for its "{...}". */
static bool fits(const char *pattern, const char *path, struct slice *raw)
{
	*raw = slice_of(NULL, 0);
	for (;; pattern++, path++) {
		if (*pattern == '{') {
			*raw = slice_of(path, strcspn(path, "/"));
			if (!raw->n)
				return false;
			path += raw->n - 1;
			pattern += strcspn(pattern, "}");
		} else if (*pattern != *path) {
			return false;
		} else if (!*pattern) {
			return true;
		}
	}
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A "%" that starts no escape stands for itself, as it does upstream. False when the result is too long. */
static bool percent_decode(struct slice raw, char *out, struct slice *decoded)
{
	const char *p = raw.p;
	size_t n = 0;

	for (size_t i = 0; i < raw.n; i++) {
		if (n == HTTP_MAX_PARAM)
			return false;
		if (p[i] == '%' && i + 2 < raw.n && hex(p[i + 1]) >= 0 && hex(p[i + 2]) >= 0) {
			out[n++] = (char)(hex(p[i + 1]) * 16 + hex(p[i + 2]));
			i += 2;
		} else {
			out[n++] = p[i];
		}
	}
	*decoded = slice_of(out, n);
	return true;
}

int http_arg(const struct http_call *call, const char *name, char out[HTTP_ARG])
{
	const char *raw = call->conn ? MHD_lookup_connection_value(call->conn, MHD_GET_ARGUMENT_KIND, name) : NULL;
	struct slice got;

	if (!raw)
		return 0;
	if (!percent_decode(slice_str(raw), out, &got))
		return -1;
	out[got.n] = '\0';
	return strlen(out) == got.n ? 1 : -1;
}

static bool method_fits(const char *want, const char *have)
{
	return strcmp(want, have) == 0 || (strcmp(want, "GET") == 0 && strcmp(have, "HEAD") == 0);
}

/* The methods of one path, in the words of the Allow header: those some path here has together. */
static const char *allowed(const char *methods)
{
	bool get = strstr(methods, "GET"), put = strstr(methods, "PUT"), del = strstr(methods, "DELETE");

	if (get)
		return put ? "GET, HEAD, PUT, DELETE" : del ? "GET, HEAD, DELETE" : "GET, HEAD";
	return del ? "DELETE" : "POST";
}

http_handler *http_route(const char *method, const char *path, char *param, struct slice *out, struct http_reply *reply)
{
	char methods[64] = "";
	struct slice raw;

	for (size_t i = 0; i < NROUTES; i++) {
		if (!fits(routes[i].path, path, &raw))
			continue;
		if (!method_fits(routes[i].method, method)) {
			snprintf(methods + strlen(methods), sizeof methods - strlen(methods), " %s", routes[i].method);
			continue;
		}
		if (percent_decode(raw, param, out))
			return routes[i].handler;
		http_reply_json_text(reply, MHD_HTTP_BAD_REQUEST, "{\"detail\":\"Path parameter too long\"}");
		return NULL;
	}
	if (!*methods) {
		http_reply_json_text(reply, MHD_HTTP_NOT_FOUND, "{\"detail\":\"Not Found\"}");
		return NULL;
	}
	http_reply_json_text(reply, MHD_HTTP_METHOD_NOT_ALLOWED, "{\"detail\":\"Method Not Allowed\"}");
	reply->allow = allowed(methods);
	return NULL;
}

/* ---- docs/http.md -------------------------------------------------------------------------------------------- */

void http_write_docs(FILE *out)
{
	fprintf(out,
		"# HTTP\n\n"
		"Written from `daemon/http/routes.def`; do not edit. The management door: `--http-host` (127.0.0.1), "
		"`--http-port` (8080),\n`--no-http` for none. It is never on the data path and has no password: keep "
		"it on "
		"loopback or behind one.\n\n"
		"* Answers are JSON except `/metrics` and `/metrics/reset`. HEAD is answered wherever GET is.\n"
		"* Unknown path: 404 `{\"detail\":\"Not Found\"}`. Wrong method: 405 `{\"detail\":\"Method Not "
		"Allowed\"}` "
		"with `Allow`.\n"
		"  A body of the wrong shape: 422 "
		"`{\"detail\":[{\"type\":..,\"loc\":[..],\"msg\":..,\"input\":..}]}`.\n"
		"* The clear calls tell how many objects went in the header `X-LMCache-Objects-Removed`; their bodies "
		"are "
		"upstream's.\n"
		"* `/status` has upstream's keys of all generations side by side (`gpu_context_meta` and "
		"`cache_context_meta`,\n  `eviction_controller` and `l1_eviction_controller`, flat layout keys and "
		"`kernel_groups`), and ours: `uptime_seconds`,\n  `zmq_endpoint`, `http_endpoint`, `version`, "
		"`threads`, "
		"`peers`, `copy_kernel`, `arena`.\n"
		"* `/run_script` and `/env` of upstream do not exist here: remote code execution and leaked secrets.\n"
		"* Limits: %u connections, %u of one address; %u KiB of headers, 1 MiB of body (413 beyond); a "
		"connection "
		"idle for %u s,\n  or a request not through after %u s, is closed.\n\n"
		"| Method | Path | Since | What |\n|---|---|---|---|\n",
		HTTP_CONNECTIONS, HTTP_PER_IP, HTTP_MEMORY / 1024, HTTP_IDLE_SECONDS, HTTP_REQUEST_SECONDS);
	for (size_t i = 0; i < NROUTES; i++)
		fprintf(out, "| %s | `%s` | %s | %s |\n", routes[i].method, routes[i].path, routes[i].since,
			routes[i].text);
}
