#include "tools/httpc.h"

#include "daemon/base/mem.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t take_body(char *p, size_t size, size_t count, void *ctx)
{
	struct httpc_answer *a = ctx;
	size_t n = size * count;
	if (n > HTTPC_MAX_BODY - a->n)
		return 0; /* curl ends the transfer with a write error */
	char *bigger = mem_realloc(a->body, a->n + n + 1);
	if (!bigger)
		return 0;
	memcpy(bigger + a->n, p, n);
	a->body = bigger;
	a->n += n;
	a->body[a->n] = '\0';
	return n;
}

static void set_up(CURL *c, const char *url, const char *body, double timeout_s, struct httpc_answer *out, char *reason)
{
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(timeout_s * 1000));
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, out);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, reason);
	if (!body)
		return;
	curl_easy_setopt(c, CURLOPT_POST, 1L);
	curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
}

static long long removed_header(CURL *c)
{
	struct curl_header *h;
	if (curl_easy_header(c, "X-LMCache-Objects-Removed", 0, CURLH_HEADER, -1, &h) != CURLHE_OK)
		return -1;
	char *end;
	long long n = strtoll(h->value, &end, 10);
	return *h->value && !*end && n >= 0 ? n : -1;
}

static int finish(CURL *c, CURLcode rc, const char *base, const char *reason, struct httpc_answer *out, struct why *why)
{
	double total = 0, connected = 0, secured = 0;
	long os_error = 0;
	curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &out->code);
	curl_easy_getinfo(c, CURLINFO_TOTAL_TIME, &total);
	curl_easy_getinfo(c, CURLINFO_CONNECT_TIME, &connected);
	curl_easy_getinfo(c, CURLINFO_APPCONNECT_TIME, &secured);
	curl_easy_getinfo(c, CURLINFO_OS_ERRNO, &os_error);
	out->seconds = total - (secured > connected ? secured : connected);
	out->removed = removed_header(c);
	if (rc == CURLE_OK)
		return 0;
	if (rc == CURLE_WRITE_ERROR)
		return why_set(why, -E2BIG, "%s answered more than %u bytes", base, HTTPC_MAX_BODY);
	if (rc == CURLE_UNSUPPORTED_PROTOCOL || rc == CURLE_WEIRD_SERVER_REPLY)
		return why_set(why, -EPROTO,
			       "Cannot connect to %s: what answers there is no HTTP server; ZMQ ports are given as "
			       "host:port, without http://",
			       base);
	const char *said = rc == CURLE_COULDNT_CONNECT && os_error ? strerror((int)os_error)
			   : *reason                               ? reason
								   : curl_easy_strerror(rc);
	return why_set(why, rc == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -ECONNREFUSED, "Cannot connect to %s: %s",
		       base, said);
}

int httpc_request(const char *base, const char *path, const char *body, double timeout_s, struct httpc_answer *out,
		  struct why *why)
{
	char url[1024], reason[CURL_ERROR_SIZE] = "";
	memset(out, 0, sizeof(*out));
	snprintf(url, sizeof(url), "%s%s", base, path);
	CURL *c = curl_easy_init();
	if (!c)
		return why_set(why, -ENOMEM, "Cannot connect to %s: curl does not start", base);
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	set_up(c, url, body, timeout_s, out, reason);
	if (body && *body)
		curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	int rc = finish(c, curl_easy_perform(c), base, reason, out, why);
	curl_slist_free_all(headers);
	curl_easy_cleanup(c);
	if (rc)
		httpc_free(out);
	return rc;
}

void httpc_free(struct httpc_answer *a)
{
	mem_free(a->body);
	a->body = NULL;
	a->n = 0;
}

int httpc_first(const char *base, const char *const *paths, const char *body, double timeout_s,
		struct httpc_answer *out, struct why *why)
{
	for (;; paths++) {
		int rc = httpc_request(base, *paths, body, timeout_s, out, why);
		if (rc || out->code != 404 || !paths[1])
			return rc;
		httpc_free(out);
	}
}

int httpc_escape(const char *segment, char *out, size_t cap)
{
	char *escaped = curl_easy_escape(NULL, segment, 0);
	size_t n = escaped ? strlen(escaped) : cap;
	if (n < cap)
		memcpy(out, escaped, n + 1);
	curl_free(escaped);
	return n < cap ? 0 : -E2BIG;
}

static const char *standard_reason(long code)
{
	switch (code) {
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 422:
		return "Unprocessable Entity";
	case 500:
		return "Internal Server Error";
	case 501:
		return "Not Implemented";
	case 503:
		return "Service Unavailable";
	default:
		return "no reason given";
	}
}

int httpc_check(const struct httpc_answer *a, struct why *why)
{
	if (a->code >= 200 && a->code < 300)
		return 0;
	json_t *body = a->body ? json_loadb(a->body, a->n, 0, NULL) : NULL;
	const char *reason = NULL, *keys[] = {"reason", "error", "detail"};
	for (size_t i = 0; i < 3 && !reason; i++)
		reason = json_string_value(json_object_get(body, keys[i]));
	int rc = why_set(why, -EIO, "HTTP %ld: %s", a->code, reason ? reason : standard_reason(a->code));
	json_decref(body);
	return rc;
}

json_t *httpc_json(const struct httpc_answer *a, struct why *why)
{
	json_error_t err;
	json_t *body = json_loadb(a->body ? a->body : "", a->n, 0, &err);
	if (!json_is_object(body)) {
		json_decref(body);
		why_set(why, -EPROTO, "the answer is no JSON object: %s", body ? "another type" : err.text);
		return NULL;
	}
	return body;
}
