/* The range key (reference section 5.1): a map whose fields came over the years. cache_salt is what separates D1 from
 * its successors, so its presence has to agree with the dialect. */
#include "transport/wire/wire_int.h"

#define AT(field) offsetof(struct wire_key, field)

static bool salt_expected(enum wire_dialect d)
{
	return d > WIRE_D1;
}

bool wire_get_model(struct wire_cur *c, struct slice *out)
{
	if (!wire_get_name(c, WIRE_MAX_NAME, out))
		return false;
	return !wire_has_any(*out, "@") || mp_fail(&c->in, "holds '@' or NUL");
}

static bool get_model(struct wire_cur *c, void *obj)
{
	struct wire_key *key = obj;

	return wire_get_model(c, &key->model);
}

static void put_model(struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	mp_put_str(&pen->out, key->model);
}

static bool get_worker(struct wire_cur *c, void *obj)
{
	struct wire_key *key = obj;
	uint64_t v;

	if (mp_peek(&c->in) == MP_NIL) {
		key->worker_id = -1;
		return mp_nil(&c->in);
	}
	if (!mp_uint(&c->in, WIRE_MAX_WORLD - 1, &v))
		return false;
	key->worker_id = (int32_t)v;
	return true;
}

static void put_worker(struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	if (key->worker_id < 0)
		mp_put_nil(&pen->out);
	else
		mp_put_uint(&pen->out, (uint64_t)key->worker_id);
}

bool wire_get_salt(struct wire_cur *c, struct slice *out)
{
	size_t chars;

	if (!mp_str(&c->in, WIRE_MAX_SALT_BYTES, out))
		return false;
	if (!wire_utf8(*out, &chars))
		return mp_fail(&c->in, "not UTF-8");
	if (chars > WIRE_MAX_SALT)
		return mp_fail(&c->in, mp_err_bound);
	return !wire_has_any(*out, "@/\\") || mp_fail(&c->in, "holds '@', '/', '\\' or NUL");
}

static bool get_salt(struct wire_cur *c, void *obj)
{
	struct wire_key *key = obj;

	key->has_salt = true;
	return wire_get_salt(c, &key->salt);
}

static void put_salt(struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	mp_put_str(&pen->out, key->salt);
}

static bool has_salt(const struct wire_pen *pen, const void *obj)
{
	(void)obj;
	return salt_expected(pen->dialect);
}

static bool get_readers(struct wire_cur *c, void *obj)
{
	struct wire_key *key = obj;

	key->has_readers = true;
	return mp_int(&c->in, &key->num_kv_readers);
}

static void put_readers(struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	mp_put_int(&pen->out, key->num_kv_readers);
}

static bool has_readers(const struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	(void)pen;
	return key->has_readers;
}

/* request_configs and null_chunk_mask: any value goes by; written as None. */
static bool get_ignored(struct wire_cur *c, void *obj)
{
	(void)obj;
	return mp_skip(&c->in);
}

static void put_ignored(struct wire_pen *pen, const void *obj)
{
	(void)obj;
	mp_put_nil(&pen->out);
}

/* Asks the prefix hook, and believes it only when what it says can be true. */
static void skip_known(const struct wire_cur *c, struct wire_tokens *t)
{
	const struct wire_scratch *s = c->scratch;
	size_t avail = (size_t)(c->in.end - c->in.p);
	uint32_t tokens = 0;
	size_t bytes = 0;

	if (!s->prefix)
		return;
	s->prefix(s->prefix_ctx, c->in.p, avail, t->count, &tokens, &bytes);
	if (tokens > t->count || bytes > avail || bytes < tokens || (tokens == 0 && bytes != 0))
		return;
	if (s->mark_every && tokens % s->mark_every != 0)
		return;
	t->skipped = tokens;
	t->skipped_bytes = bytes;
}

/* Decodes the ids chunk by chunk, noting where each complete chunk ends. */
static bool get_ids(struct wire_cur *c, struct wire_tokens *t, uint32_t *ids)
{
	struct wire_scratch *s = c->scratch;
	uint32_t n = t->count - t->skipped;
	uint32_t step = s->mark_every ? s->mark_every : n;
	uint32_t done = 0;

	while (done < n) {
		uint32_t run = n - done < step ? n - done : step;

		if (!mp_u32_run(&c->in, run, ids + done))
			return false;
		done += run;
		if (s->mark_every && run == s->mark_every)
			s->marks[t->nmarks++] = (uint32_t)(c->in.p - t->raw);
	}
	return true;
}

static bool get_tokens(struct wire_cur *c, void *obj)
{
	struct wire_tokens *t = &((struct wire_key *)obj)->tokens;
	uint32_t *ids;

	if (!mp_array(&c->in, c->scratch->max_tokens, &t->count))
		return false;
	t->raw = c->in.p;
	skip_known(c, t);
	ids = wire_take(c, t->count - t->skipped, sizeof(*ids));
	if (!ids)
		return false;
	c->in.p += t->skipped_bytes;
	t->ids = ids;
	t->marks = c->scratch->marks;
	if (!get_ids(c, t, ids))
		return false;
	t->raw_bytes = (size_t)(c->in.p - t->raw);
	return true;
}

static void put_tokens(struct wire_pen *pen, const void *obj)
{
	const struct wire_key *key = obj;

	wire_put_u32s(pen, key->tokens.ids, key->tokens.count);
}

static const struct wire_item items[] = {
	{"model_name", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_model, put_model, NULL},
	{"world_size", KIND_U32, ITEM_REQUIRED | ITEM_NONZERO, AT(world_size), WIRE_MAX_WORLD, NULL, NULL, NULL},
	{"worker_id", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_worker, put_worker, NULL},
	{"token_ids", KIND_CUSTOM, ITEM_REQUIRED, 0, 0, get_tokens, put_tokens, NULL},
	{"start", KIND_U64, ITEM_REQUIRED, AT(start), INT64_MAX, NULL, NULL, NULL},
	{"end", KIND_U64, ITEM_REQUIRED, AT(end), INT64_MAX, NULL, NULL, NULL},
	{"request_id", KIND_NAME, ITEM_REQUIRED, AT(request_id), WIRE_MAX_NAME, NULL, NULL, NULL},
	{"cache_salt", KIND_CUSTOM, 0, 0, 0, get_salt, put_salt, has_salt},
	{"request_configs", KIND_CUSTOM, 0, 0, 0, get_ignored, put_ignored, has_readers},
	{"num_kv_readers", KIND_CUSTOM, 0, 0, 0, get_readers, put_readers, has_readers},
	{"null_chunk_mask", KIND_CUSTOM, 0, 0, 0, get_ignored, put_ignored, has_readers},
};

#define NITEMS (sizeof(items) / sizeof(items[0]))

static bool check_salt(struct wire_cur *c, const struct wire_key *key)
{
	if (key->has_salt == salt_expected(c->dialect))
		return true;
	c->at = "cache_salt";
	return mp_fail(&c->in, key->has_salt ? "unknown to this dialect" : "missing");
}

bool wire_get_key(struct wire_cur *c, void *obj)
{
	struct wire_req *req = obj;
	struct wire_key *key = &req->key;

	if (!wire_get_map(c, items, NITEMS, key, NULL) || !check_salt(c, key))
		return false;
	if (key->worker_id >= (int32_t)key->world_size) {
		c->at = "worker_id";
		return mp_fail(&c->in, "not below world_size");
	}
	if (key->start > key->end) {
		c->at = "start";
		return mp_fail(&c->in, "behind end");
	}
	req->has_key = true;
	return true;
}

void wire_put_key(struct wire_pen *pen, const void *obj)
{
	wire_put_map(pen, items, NITEMS, &((const struct wire_req *)obj)->key);
}
