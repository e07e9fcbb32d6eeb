/* handlers_l2.c - what operators may ask of L2: its keys, removing them, clearing, flushing; and how full everything is. */
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/http/below_wait.h"
#include "daemon/http/status.h"
#include "daemon/http/text_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define MAX_KEYS    10000u
#define MAX_PAGE    5000
#define USUAL_PAGE  500u
#define MAX_LAYOUTS 64u
#define LIST_ROUNDS 64u /* looks into an adapter for one page, when a filter drops nearly all */
#define NOT_STARTED "server not initialized"
#define NO_ADAPTER  "there is no L2 adapter"

static struct http_below *below(const struct http_call *call)
{
	return &call->h->host.below;
}

static bool not_there(const struct http_call *call, struct http_reply *reply)
{
	if (!http_ready(call))
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NOT_STARTED);
	else if (!below(call)->tier)
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NO_ADAPTER);
	else
		return false;
	return true;
}

/* By type or number; the first for an empty name. NULL: unknown. */
static struct l2 *find_adapter(const struct http_call *call, const char *name)
{
	struct tier *t = below(call)->tier;
	char number[12];

	for (uint32_t i = 0; i < tier_adapters(t); i++) {
		struct l2 *a = tier_adapter(t, i);

		snprintf(number, sizeof number, "%u", i);
		if (!*name || strcmp(name, a->ops->type) == 0 || strcmp(name, number) == 0)
			return a;
	}
	return NULL;
}

static json_t *string_of(struct slice s)
{
	char *clean = text_clean(s.p, s.n);
	json_t *out = clean ? json_string(clean) : NULL;

	mem_free(clean);
	return out;
}

/* ---- listing ----------------------------------------------------------------------------------------------------- */

static json_t *encoded_key(const struct seg_name *n, const struct store_hash *h)
{
	char hex[2 * STORE_HASH_BYTES + 1];

	for (size_t i = 0; i < STORE_HASH_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", h->b[i]);
	return json_pack("{s:s s:o s:I s:I s:o}", "chunk_hash_hex", hex, "model_name", string_of(n->model), "kv_rank",
			 (json_int_t)n->kv_rank, "object_group_id", (json_int_t)n->object_group, "cache_salt",
			 string_of(n->salt));
}

struct page {
	const char *model; /* NULL: all */
	uint32_t size;
	uint64_t cursor;
};

static bool wanted(const struct http_call *call, const struct page *p, uint32_t name)
{
	return !p->model || slice_is(seg_name_of(below(call)->names, name)->model, p->model);
}

/* Up to p->size entries; p->cursor is where the next page begins, 0 when there is none. */
static json_t *list_page(const struct http_call *call, struct l2 *a, struct page *p)
{
	struct l2_list_entry *e = mem_calloc(p->size, sizeof *e);
	json_t *out = e ? json_array() : NULL;

	for (uint32_t round = 0; out && round < LIST_ROUNDS; round++) {
		uint32_t room = p->size - (uint32_t)json_array_size(out), n = a->ops->list(a, &p->cursor, e, room);

		for (uint32_t i = 0; i < n; i++) {
			const struct seg_name *name = seg_name_of(below(call)->names, e[i].key.name);

			if (wanted(call, p, e[i].key.name) &&
			    json_array_append_new(out, json_pack("{s:o s:I}", "key", encoded_key(name, &e[i].key.hash),
								 "size_bytes", (json_int_t)e[i].bytes)))
				round = LIST_ROUNDS;
		}
		if (!p->cursor || json_array_size(out) >= p->size)
			break;
	}
	mem_free(e);
	return out;
}

/* False: the reply says what is wrong. */
static bool page_of(const struct http_call *call, char model[HTTP_ARG], struct page *p, struct http_reply *reply)
{
	char text[HTTP_ARG], *end = text;
	int has = http_arg(call, "page_size", text);
	long size = has == 1 ? strtol(text, &end, 10) : (long)USUAL_PAGE;

	*p = (struct page){0};
	if (has < 0 || (has && (!*text || *end)) || size < 1 || size > MAX_PAGE) {
		http_unprocessable(reply, "int_range", "page_size", "Input should be 1 to 5000", json_null());
		return false;
	}
	p->size = (uint32_t)size;
	has = http_arg(call, "page_token", text);
	if (has == 1)
		p->cursor = strtoull(text, &end, 10);
	if (has < 0 || (has && (!*text || *end || *text == '-'))) {
		http_reply_detail(reply, MHD_HTTP_BAD_REQUEST, "page_token is not one of this server's");
		return false;
	}
	has = http_arg(call, "model_name", model);
	if (has < 0) {
		http_unprocessable(reply, "string_too_long", "model_name", "String is too long", json_null());
		return false;
	}
	p->model = has ? model : NULL;
	return true;
}

void http_do_l2_keys(const struct http_call *call, struct http_reply *reply)
{
	char model[HTTP_ARG], name[HTTP_ARG] = "", token[24];
	struct page p;
	struct l2 *a;
	json_t *entries;

	if (not_there(call, reply) || !page_of(call, model, &p, reply))
		return;
	a = http_arg(call, "adapter", name) < 0 ? NULL : find_adapter(call, name);
	if (!a) {
		http_reply_detail(reply, MHD_HTTP_NOT_FOUND, "no such adapter");
	} else if (!a->ops->list) {
		http_reply_detail(reply, MHD_HTTP_NOT_IMPLEMENTED, "this adapter cannot list its keys");
	} else {
		entries = list_page(call, a, &p);
		snprintf(token, sizeof token, "%" PRIu64, p.cursor);
		http_reply_json(reply, MHD_HTTP_OK,
				json_pack("{s:s s:o s:o}", "adapter", a->ops->type, "entries", entries,
					  "next_page_token", p.cursor ? json_string(token) : json_null()));
	}
}

/* ---- keys from outside ------------------------------------------------------------------------------------------------ */

struct wanted_key {
	struct slice model, salt; /* borrowed from the body */
	uint32_t kv_rank, group;
	struct store_hash hash;
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Shorter hashes are padded with zeros, as everywhere. */
static bool hash_of(const char *hex, struct store_hash *out)
{
	size_t n = strlen(hex);

	*out = (struct store_hash){0};
	if (!n || n % 2 || n > 2 * STORE_HASH_BYTES)
		return false;
	for (size_t i = 0; i < n; i++) {
		int d = hex_digit(hex[i]);

		if (d < 0)
			return false;
		out->b[i / 2] = (uint8_t)(out->b[i / 2] << 4 | d);
	}
	return true;
}

static bool u32_of(const json_t *v, bool optional, uint32_t *out)
{
	json_int_t n = json_integer_value(v);

	*out = (uint32_t)n;
	return (!v && optional) || (json_is_integer(v) && n >= 0 && n <= UINT32_MAX);
}

static bool key_of(const json_t *v, struct wanted_key *out)
{
	const json_t *hex = json_object_get(v, "chunk_hash_hex"), *model = json_object_get(v, "model_name"),
		     *salt = json_object_get(v, "cache_salt");

	if (!json_is_string(hex) || !hash_of(json_string_value(hex), &out->hash) || !json_is_string(model) ||
	    (salt && !json_is_string(salt)) || !u32_of(json_object_get(v, "kv_rank"), false, &out->kv_rank) ||
	    !u32_of(json_object_get(v, "object_group_id"), true, &out->group))
		return false;
	out->model = slice_of(json_string_value(model), json_string_length(model));
	out->salt = salt ? slice_of(json_string_value(salt), json_string_length(salt)) : slice_of("", 0);
	return true;
}

/* NULL: the reply says what is wrong. */
static struct wanted_key *keys_of(const json_t *body, uint32_t *n, struct http_reply *reply)
{
	json_t *list = json_object_get(body, "keys");
	struct wanted_key *out;

	*n = (uint32_t)json_array_size(list);
	if (!json_is_array(list)) {
		http_unprocessable(reply, list ? "list_type" : "missing", "keys",
				   list ? "Input should be a valid list" : "Field required",
				   list ? json_incref(list) : json_null());
		return NULL;
	}
	if (json_array_size(list) > MAX_KEYS) {
		http_reply_detail(reply, MHD_HTTP_BAD_REQUEST, "at most 10000 keys");
		return NULL;
	}
	out = mem_calloc(*n ? *n : 1, sizeof *out);
	for (uint32_t i = 0; out && i < *n; i++) {
		json_t *one = json_array_get(list, i);

		if (!key_of(one, &out[i])) {
			mem_free(out);
			http_unprocessable(reply, "value_error", "keys", "Not an encoded object key", json_incref(one));
			return NULL;
		}
	}
	return out;
}

/* ---- removing ---------------------------------------------------------------------------------------------------------- */

static bool named_alike(const struct seg_name *n, const struct wanted_key *k)
{
	return n->kv_rank == k->kv_rank && n->object_group == k->group && slice_eq(n->model, k->model) &&
	       slice_eq(n->salt, k->salt);
}

/* Names of a key in all layouts: it is not part of what operators write. Keys of one model follow each other. */
struct layouts {
	const struct wanted_key *of;
	uint32_t name[MAX_LAYOUTS], n;
};

static void layouts_of(struct seg_names *names, const struct wanted_key *k, struct layouts *l)
{
	uint32_t count = seg_names_count(names);

	if (l->of && l->of->kv_rank == k->kv_rank && l->of->group == k->group && slice_eq(l->of->model, k->model) &&
	    slice_eq(l->of->salt, k->salt))
		return;
	l->of = k;
	l->n = 0;
	for (uint32_t id = 1; id <= count && l->n < MAX_LAYOUTS; id++) {
		if (named_alike(seg_name_of(names, id), k))
			l->name[l->n++] = id;
	}
}

/* 0 or the first error of the waiting; what was there and what was not is added to `sum`. */
static int remove_from(const struct http_call *call, struct l2 *a, const struct wanted_key *keys, uint32_t n,
		       struct below_result *sum)
{
	struct seg_key batch[BELOW_BATCH];
	struct layouts l = {0};
	uint32_t m = 0;
	int err = 0;

	for (uint32_t i = 0; !err && i < n; i++) {
		layouts_of(below(call)->names, &keys[i], &l);
		sum->missing += l.n == 0;
		for (uint32_t k = 0; !err && k < l.n; k++) {
			batch[m++] = (struct seg_key){l.name[k], keys[i].hash};
			if (m < BELOW_BATCH)
				continue;
			err = below_each(a, a->ops->remove, batch, m, sum);
			m = 0;
		}
	}
	return !err && m ? below_each(a, a->ops->remove, batch, m, sum) : err;
}

static int remove_l2(const struct http_call *call, struct l2 *only, const struct wanted_key *keys, uint32_t n,
		     struct below_result *sum)
{
	struct tier *t = below(call)->tier;
	int err = 0;

	if (!below_enter(call))
		return -EBUSY;
	for (uint32_t i = 0; !err && t && i < tier_adapters(t); i++) {
		struct l2 *a = tier_adapter(t, i);

		if (!only || a == only)
			err = remove_from(call, a, keys, n, sum);
	}
	below_leave(call);
	return err;
}

static const char *text_of(int err)
{
	switch (err) {
	case -EBUSY:
		return "L2 is busy with other requests of operators";
	case -ETIMEDOUT:
		return "an L2 adapter did not answer in time";
	case -ENOMEM:
		return "out of memory";
	default:
		return "an L2 adapter failed";
	}
}

void http_do_l2_delete(const struct http_call *call, struct http_reply *reply)
{
	struct below_result sum = {0};
	struct wanted_key *keys;
	json_t *body, *out;
	uint32_t n;
	int err;

	if (not_there(call, reply))
		return;
	body = http_object_body(call, reply);
	keys = body ? keys_of(body, &n, reply) : NULL;
	if (keys) {
		err = remove_l2(call, NULL, keys, n, &sum);
		if (!err && sum.failed)
			err = -EIO;
		out = json_pack("{s:i s:s s:b}", "requested", (int)n, "adapter",
				tier_adapter(below(call)->tier, 0)->ops->type, "ok", err == 0);
		if (err && out)
			json_object_set_new(out, "error", json_string(text_of(err)));
		http_reply_json(reply, MHD_HTTP_OK, out);
	}
	mem_free(keys);
	json_decref(body);
}

/* Locked objects are skipped unless forced; then their bytes live on until the last lock goes. */
static void remove_l1(const struct http_call *call, const struct wanted_key *keys, uint32_t n, bool force,
		      struct below_result *sum)
{
	struct store *s = below(call)->store;

	for (uint32_t i = 0; i < n; i++) {
		store_ns ns[MAX_LAYOUTS];
		uint32_t layouts = store_ns_layouts(s, keys[i].model, keys[i].kv_rank, keys[i].group, keys[i].salt, ns,
						    MAX_LAYOUTS),
			 gone = 0;

		for (uint32_t k = 0; k < layouts; k++) {
			gone += store_delete(s, ns[k], &keys[i].hash, force) == 0;
			store_ns_put(s, ns[k]);
		}
		sum->ok += gone;
		sum->missing += gone == 0;
	}
}

struct removal {
	unsigned tiers; /* 1 L1, 2 L2 */
	bool force;
	struct l2 *adapter; /* NULL: all */
};

static bool removal_of(const struct http_call *call, const json_t *body, struct removal *r, struct http_reply *reply)
{
	json_t *tier = json_object_get(body, "tier"), *force = json_object_get(body, "force"),
	       *adapter = json_object_get(body, "adapter");
	const char *name = tier ? json_string_value(tier) : "l2";

	*r = (struct removal){0};
	if (!name || (strcmp(name, "l1") != 0 && strcmp(name, "l2") != 0 && strcmp(name, "all") != 0))
		http_reply_detail(reply, MHD_HTTP_BAD_REQUEST, "tier must be 'l1', 'l2' or 'all'");
	else if (force && !http_is_boolean(force, &r->force))
		http_unprocessable(reply, "bool_type", "force", "Input should be a valid boolean", json_incref(force));
	else if (adapter && !json_is_null(adapter) && !json_is_string(adapter))
		http_unprocessable(reply, "string_type", "adapter", "Input should be a valid string",
				   json_incref(adapter));
	else if (strcmp(name, "l2") == 0 && !below(call)->tier)
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NO_ADAPTER);
	else if (json_is_string(adapter) &&
		 (!below(call)->tier || !(r->adapter = find_adapter(call, json_string_value(adapter)))))
		http_reply_detail(reply, MHD_HTTP_NOT_FOUND, "no such adapter");
	else
		r->tiers = strcmp(name, "l1") == 0 ? 1 : strcmp(name, "l2") == 0 ? 2 : 3;
	return r->tiers != 0;
}

void http_do_objects_delete(const struct http_call *call, struct http_reply *reply)
{
	struct below_result sum = {0};
	struct wanted_key *keys = NULL;
	struct removal r;
	json_t *body, *out;
	uint32_t n = 0;
	int err = 0;

	if (!http_ready(call)) {
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NOT_STARTED);
		return;
	}
	body = http_object_body(call, reply);
	if (body && removal_of(call, body, &r, reply))
		keys = keys_of(body, &n, reply);
	if (keys) {
		if (r.tiers & 1)
			remove_l1(call, keys, n, r.force, &sum);
		if (r.tiers & 2)
			err = remove_l2(call, r.adapter, keys, n, &sum);
		if (!err && sum.failed)
			err = -EIO;
		out = json_pack("{s:i s:i s:b}", "deleted", (int)sum.ok, "skipped", (int)(sum.missing + sum.failed),
				"ok", err == 0);
		if (err && out)
			json_object_set_new(out, "error", json_string(text_of(err)));
		http_reply_json(reply, MHD_HTTP_OK, out);
	}
	mem_free(keys);
	json_decref(body);
}

int http_l2_clear(const struct http_call *call)
{
	struct tier *t = below(call)->tier;
	struct below_result sum = {0};
	int err = 0;

	if (!t)
		return -ENOENT;
	if (!below_enter(call))
		return -EBUSY;
	for (uint32_t i = 0; i < tier_adapters(t); i++) {
		struct l2 *a = tier_adapter(t, i);
		int one = below_each(a, a->ops->clear, NULL, 1, &sum);

		err = err ? err : one;
	}
	below_leave(call);
	log_info("L2 cleared over HTTP%s", err || sum.failed ? ", with errors" : "");
	return err ? err : sum.failed ? -EIO : 0;
}

/* ---- flush ------------------------------------------------------------------------------------------------------------- */

void http_do_l2_flush(const struct http_call *call, struct http_reply *reply)
{
	struct tier_stats t;
	int err;

	if (not_there(call, reply))
		return;
	err = -EBUSY;
	if (below_enter(call)) {
		err = below_flush(below(call)->tier);
		below_leave(call);
	}
	if (err == -EBUSY || err == -EAGAIN) {
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, text_of(-EBUSY));
	} else if (err == -ETIMEDOUT) {
		http_reply_detail(reply, MHD_HTTP_GATEWAY_TIMEOUT, "not durable yet");
	} else if (err != -ENOMEM) {
		tier_stats(below(call)->tier, &t);
		http_reply_json(reply, MHD_HTTP_OK,
				json_pack("{s:s s:I s:I s:I}", "status", err ? "incomplete" : "ok", "dropped",
					  (json_int_t)t.store_dropped, "failed", (json_int_t)t.store_failed, "stored",
					  (json_int_t)t.stored_objects));
	}
}

/* ---- adapters, pressure ----------------------------------------------------------------------------------------------- */

void http_do_config_adapters(const struct http_call *call, struct http_reply *reply)
{
	struct tier *t = below(call)->tier;
	json_t *list = json_array();

	if (!http_ready(call)) {
		json_decref(list);
		http_reply_json_text(reply, MHD_HTTP_SERVICE_UNAVAILABLE, "{\"error\":\"configs not initialized\"}");
		return;
	}
	for (uint32_t i = 0; list && t && i < tier_adapters(t); i++) {
		json_t *one =
			json_pack("{s:i s:s s:s s:b s:b}", "index", (int)i, "type_name", tier_adapter(t, i)->ops->type,
				  "tier", "l2", "primary", i == 0, "reconfigurable", 0);

		if (json_array_append_new(list, one)) {
			json_decref(list);
			list = NULL;
		}
	}
	http_reply_json(reply, MHD_HTTP_OK, json_pack("{s:o}", "adapters", list));
}

enum level { NORMAL, HIGH, CRITICAL };
static const char *const level_names[] = {"normal", "high", "critical"};

static enum level level_of(uint64_t used, uint64_t capacity, double watermark)
{
	double ratio = capacity ? (double)used / (double)capacity : 0;

	return ratio >= 1 ? CRITICAL : ratio >= watermark ? HIGH : NORMAL;
}

static json_t *pressure(const char *tier, const char *id, const char *type, uint64_t used, uint64_t capacity,
			double watermark, const char *policy, bool healthy, enum level *worst)
{
	enum level l = level_of(used, capacity, watermark);

	*worst = l > *worst ? l : *worst;
	return json_pack("{s:s s:s s:s s:I s:I s:f s:f s:s s:s s:s s:[]}", "tier", tier, "adapter_id", id,
			 "backend_type", type, "used_bytes", (json_int_t)used, "capacity_bytes", (json_int_t)capacity,
			 "used_ratio", capacity ? (double)used / (double)capacity : 0.0, "trigger_watermark", watermark,
			 "eviction_policy", policy, "health", healthy ? "healthy" : "unhealthy", "level",
			 level_names[l], "collection_errors");
}

static json_t *adapter_pressure(const struct status_adapter *a, uint32_t index, enum level *worst)
{
	const json_t *e = json_object_get(a->conf, "eviction"), *mark = json_object_get(e, "trigger_watermark");
	char id[12];

	snprintf(id, sizeof id, "%u", index);
	return pressure("l2", id, a->type, a->stats.used_bytes, a->stats.capacity_bytes,
			json_is_number(mark) ? json_number_value(mark) : 1.0, json_is_object(e) ? "LRU" : "",
			a->stats.healthy, worst);
}

void http_do_memory_pressure(const struct http_call *call, struct http_reply *reply)
{
	struct status s = {0};
	enum level worst = NORMAL;
	json_t *tiers;
	struct timespec now;

	if (!http_ready(call) || call->h->host.status(call->h->host.ctx, &s)) {
		http_reply_detail(reply, MHD_HTTP_SERVICE_UNAVAILABLE, NOT_STARTED);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	tiers = json_pack("[o]", pressure("l1", "l1", s.arena_backing ? "arena" : "", s.used_bytes, s.total_bytes,
					  s.trigger_watermark, s.eviction_policy ? s.eviction_policy : "", s.is_healthy,
					  &worst));
	for (uint32_t i = 0; tiers && i < s.below.n; i++) {
		if (json_array_append_new(tiers, adapter_pressure(&s.below.adapters[i], i, &worst))) {
			json_decref(tiers);
			tiers = NULL;
		}
	}
	http_reply_json(reply, MHD_HTTP_OK,
			json_pack("{s:s s:I s:s s:b s:o}", "instance_id", call->h->host.instance_id, "timestamp_ms",
				  (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, "overall_level",
				  level_names[worst], "complete", 1, "tiers", tiers));
	status_free(&s);
}
