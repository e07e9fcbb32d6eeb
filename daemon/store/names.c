#include "daemon/store/names_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"
#include "daemon/store/varray_int.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 65536u

int names_create(struct names *t)
{
	memset(t, 0, sizeof(*t));
	if (getrandom(t->seed, sizeof(t->seed), 0) != (ssize_t)sizeof(t->seed))
		return -EIO;
	t->ns = varray_map(NAMES_MAX_NS + 1, sizeof(*t->ns));
	t->salt = varray_map(NAMES_MAX_SALTS + 1, sizeof(*t->salt));
	t->ns_bucket = varray_map(BUCKETS, sizeof(uint32_t));
	t->salt_bucket = varray_map(BUCKETS, sizeof(uint32_t));
	t->quota = mem_calloc(NAMES_MAX_QUOTA, sizeof(uint32_t));
	if (t->ns && t->salt && t->ns_bucket && t->salt_bucket && t->quota)
		return 0;
	names_destroy(t);
	return -ENOMEM;
}

void names_destroy(struct names *t)
{
	for (uint32_t i = 1; t->ns && i <= t->ns_hi; i++)
		mem_free(t->ns[i].model);
	for (uint32_t i = 1; t->salt && i <= t->salt_hi; i++)
		mem_free(t->salt[i].text);
	varray_unmap(t->ns, NAMES_MAX_NS + 1, sizeof(*t->ns));
	varray_unmap(t->salt, NAMES_MAX_SALTS + 1, sizeof(*t->salt));
	varray_unmap(t->ns_bucket, BUCKETS, sizeof(uint32_t));
	varray_unmap(t->salt_bucket, BUCKETS, sizeof(uint32_t));
	mem_free(t->quota);
	memset(t, 0, sizeof(*t));
}

/* ---- hashing --------------------------------------------------------------------------------------------------- */

static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash_text(const struct names *t, uint64_t h, struct slice text)
{
	const uint8_t *p = text.p;
	uint64_t w;

	for (size_t at = 0; at < text.n; at += 8) {
		w = 0;
		memcpy(&w, p + at, text.n - at < 8 ? text.n - at : 8);
		h = fold(h ^ w ^ t->seed[0], t->seed[1] | 1);
	}
	return fold(h ^ text.n ^ t->seed[1], t->seed[0] | 1);
}

static uint32_t ns_bucket(const struct names *t, struct slice model, const struct ns *n)
{
	uint64_t h = hash_text(t, ((uint64_t)n->kv_rank << 32) | n->object_group, model), w[2];

	memcpy(w, n->layout, sizeof(w));
	h = fold(h ^ w[0] ^ n->salt, t->seed[1] | 1);
	return (uint32_t)fold(h ^ w[1], t->seed[0] | 1) % BUCKETS;
}

static uint32_t salt_bucket(const struct names *t, struct slice text)
{
	return (uint32_t)hash_text(t, 0, text) % BUCKETS;
}

/* ---- salts ----------------------------------------------------------------------------------------------------- */

static uint32_t salt_find(const struct names *t, struct slice text)
{
	uint32_t id = t->salt_bucket[salt_bucket(t, text)];

	while (id && !slice_eq(slice_of(t->salt[id].text, t->salt[id].len), text))
		id = t->salt[id].chain;
	return id;
}

static uint32_t salt_make(struct names *t, struct slice text)
{
	uint32_t id = t->salt_unused, *head = &t->salt_bucket[salt_bucket(t, text)];
	char *copy = id || t->salt_hi < NAMES_MAX_SALTS ? mem_strndup(text.p, text.n) : NULL;

	if (!copy)
		return 0;
	if (id)
		t->salt_unused = t->salt[id].chain;
	else
		id = ++t->salt_hi;
	t->salt[id] = (struct salt){.chain = *head, .limit_bytes = UINT64_MAX, .len = (uint16_t)text.n, .text = copy};
	*head = id;
	return id;
}

static void salt_put(struct names *t, uint32_t id)
{
	struct salt *s = &t->salt[id];
	uint32_t *at = &t->salt_bucket[salt_bucket(t, slice_of(s->text, s->len))];

	if (--s->refs)
		return;
	check(s->used_bytes == 0 && s->lru.n == 0 && s->heap_at == 0);
	while (*at != id)
		at = &t->salt[*at].chain;
	*at = s->chain;
	mem_free(s->text);
	*s = (struct salt){.chain = t->salt_unused};
	t->salt_unused = id;
}

static void quota_forget(struct names *t, uint32_t id)
{
	uint32_t i = 0;

	while (t->quota[i] != id)
		i++;
	t->quota[i] = t->quota[--t->nquota];
	t->salt[id].limit_bytes = UINT64_MAX;
	salt_put(t, id);
}

int names_quota_set(struct names *t, struct slice salt, uint64_t bytes, uint32_t *salt_id)
{
	uint32_t id;

	*salt_id = 0;
	if (salt.n > NAMES_MAX_SALT)
		return -EINVAL;
	id = salt_find(t, salt);
	if (bytes == UINT64_MAX) {
		if (id && t->salt[id].limit_bytes != UINT64_MAX)
			quota_forget(t, id);
		*salt_id = id && t->salt[id].refs ? id : 0;
		return 0;
	}
	if (!id || t->salt[id].limit_bytes == UINT64_MAX) {
		if (t->nquota == NAMES_MAX_QUOTA || (!id && !(id = salt_make(t, salt))))
			return -ENOSPC;
		t->quota[t->nquota++] = id;
		t->salt[id].refs++;
	}
	t->salt[id].limit_bytes = bytes;
	*salt_id = id;
	return 0;
}

/* ---- namespaces ------------------------------------------------------------------------------------------------ */

static uint32_t ns_take(struct names *t)
{
	uint32_t id = t->ns_unused;

	if (id)
		t->ns_unused = t->ns[id].chain;
	else if (t->ns_hi < NAMES_MAX_NS)
		id = ++t->ns_hi;
	return id;
}

static void ns_put_back(struct names *t, uint32_t id)
{
	t->ns[id] = (struct ns){.chain = t->ns_unused};
	t->ns_unused = id;
}

static uint32_t ns_make(struct names *t, struct slice model, const struct ns *as, struct slice salt)
{
	uint32_t id = ns_take(t), salt_id = as->salt, *head;
	char *copy = id ? mem_strndup(model.p, model.n) : NULL;

	if (!copy) {
		if (id)
			ns_put_back(t, id);
		return 0;
	}
	if (!salt_id && !(salt_id = salt_make(t, salt))) {
		mem_free(copy);
		ns_put_back(t, id);
		return 0;
	}
	t->ns[id] = *as;
	t->ns[id].model = copy;
	t->ns[id].model_len = (uint32_t)model.n;
	t->ns[id].salt = salt_id;
	head = &t->ns_bucket[ns_bucket(t, model, &t->ns[id])];
	t->ns[id].chain = *head;
	*head = id;
	t->salt[salt_id].refs++;
	return id;
}

static bool is_named(const struct ns *n, struct slice model, const struct ns *as)
{
	return n->salt == as->salt && n->kv_rank == as->kv_rank && n->object_group == as->object_group &&
	       slice_eq(slice_of(n->model, n->model_len), model);
}

uint32_t names_ns(struct names *t, struct slice model, uint32_t kv_rank, uint32_t object_group, struct slice salt,
		  const uint8_t *layout, bool make)
{
	struct ns as = {.kv_rank = kv_rank, .object_group = object_group};
	uint32_t id = 0;

	if (model.n > NAMES_MAX_MODEL || salt.n > NAMES_MAX_SALT)
		return 0;
	if (layout)
		memcpy(as.layout, layout, sizeof(as.layout));
	as.salt = salt_find(t, salt);
	if (as.salt)
		id = t->ns_bucket[ns_bucket(t, model, &as)];
	for (; id; id = t->ns[id].chain) {
		const struct ns *n = &t->ns[id];
		if (memcmp(n->layout, as.layout, sizeof(as.layout)) == 0 && is_named(n, model, &as))
			return id;
	}
	return make ? ns_make(t, model, &as, salt) : 0;
}

uint32_t names_next(const struct names *t, struct slice model, uint32_t kv_rank, uint32_t object_group,
		    struct slice salt, uint32_t after)
{
	struct ns as = {.kv_rank = kv_rank, .object_group = object_group, .salt = salt_find(t, salt)};

	for (uint32_t id = after + 1; as.salt && id <= t->ns_hi; id++) {
		if (t->ns[id].model && is_named(&t->ns[id], model, &as))
			return id;
	}
	return 0;
}

void names_ns_release(struct names *t, uint32_t ns_id)
{
	struct ns *n = &t->ns[ns_id];
	uint32_t *at;

	if (n->refs || n->objects)
		return;
	at = &t->ns_bucket[ns_bucket(t, slice_of(n->model, n->model_len), n)];
	while (*at != ns_id)
		at = &t->ns[*at].chain;
	*at = n->chain;
	mem_free(n->model);
	salt_put(t, n->salt);
	ns_put_back(t, ns_id);
}

void names_check(const struct names *t)
{
	uint32_t refs = 0, uses = t->nquota, quotas = 0;

	for (uint32_t i = 1; i <= t->ns_hi; i++) {
		if (!t->ns[i].model)
			continue;
		uses++;
		check(t->ns[i].refs || t->ns[i].objects);
		check(t->salt[t->ns[i].salt].refs);
	}
	for (uint32_t i = 1; i <= t->salt_hi; i++) {
		refs += t->salt[i].refs;
		quotas += t->salt[i].refs && t->salt[i].limit_bytes != UINT64_MAX;
		check(t->salt[i].refs || t->salt[i].lru.n == 0);
	}
	check(refs == uses && quotas == t->nquota);
}
