#include "daemon/seg/names.h"

#include "daemon/base/check.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <blake3.h>
#include <errno.h>
#include <sys/random.h>

#define BUCKETS 16384u
#define SLAB    256u /* names are made in slabs, which never move: readers need no lock */

struct name {
	struct seg_name n;
	uint8_t digest[SEG_DIGEST];
	uint32_t by_text, by_digest; /* next of the same bucket */
};

struct seg_names {
	struct lk lk;
	uint32_t used;
	uint64_t seed[2];
	struct name *_Atomic slab[(SEG_NAMES_MAX + SLAB) / SLAB];
	uint32_t text[BUCKETS], digest[BUCKETS];
};

int seg_names_create(struct seg_names **out)
{
	struct seg_names *t = mem_calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	if (getrandom(t->seed, sizeof(t->seed), 0) != (ssize_t)sizeof(t->seed)) {
		mem_free(t);
		return -EIO;
	}
	lk_init(&t->lk, LK_NAMES);
	*out = t;
	return 0;
}

static struct name *name_at(const struct seg_names *t, uint32_t id)
{
	return &t->slab[id / SLAB][id % SLAB];
}

void seg_names_destroy(struct seg_names *t)
{
	if (!t)
		return;
	for (uint32_t id = 1; id <= t->used; id++)
		mem_free((void *)name_at(t, id)->n.model.p);
	for (uint32_t i = 0; i < (SEG_NAMES_MAX + SLAB) / SLAB; i++)
		mem_free(t->slab[i]);
	lk_destroy(&t->lk);
	mem_free(t);
}

/* ---- hashing ----------------------------------------------------------------------------------------------------- */

static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Keyed, since clients choose the texts. */
static uint64_t mix_bytes(const struct seg_names *t, uint64_t h, const void *p, size_t n)
{
	const uint8_t *b = p;
	uint64_t w;

	for (size_t at = 0; at < n; at += 8) {
		w = 0;
		memcpy(&w, b + at, n - at < 8 ? n - at : 8);
		h = fold(h ^ w ^ t->seed[0], t->seed[1] | 1);
	}
	return fold(h ^ n ^ t->seed[1], t->seed[0] | 1);
}

static uint32_t text_bucket(const struct seg_names *t, const struct seg_name *n)
{
	uint64_t h = mix_bytes(t, (uint64_t)n->kv_rank << 32 | n->object_group, n->model.p, n->model.n);

	h = mix_bytes(t, h, n->salt.p, n->salt.n);
	return (uint32_t)(mix_bytes(t, h, n->layout, SEG_DIGEST) % BUCKETS);
}

static uint32_t digest_bucket(const struct seg_names *t, const uint8_t digest[SEG_DIGEST])
{
	return (uint32_t)(mix_bytes(t, 0, digest, SEG_DIGEST) % BUCKETS);
}

static void hash_u32(blake3_hasher *h, uint32_t v)
{
	uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};

	blake3_hasher_update(h, b, sizeof(b));
}

/* Lengths go before texts, so that no two names give the same bytes. */
static void digest_of(const struct seg_name *n, uint8_t out[SEG_DIGEST])
{
	static const char what[] = "lmcache-appliance name 1";
	blake3_hasher h;

	blake3_hasher_init(&h);
	blake3_hasher_update(&h, what, sizeof(what));
	hash_u32(&h, (uint32_t)n->model.n);
	blake3_hasher_update(&h, n->model.p, n->model.n);
	hash_u32(&h, (uint32_t)n->salt.n);
	blake3_hasher_update(&h, n->salt.p, n->salt.n);
	hash_u32(&h, n->kv_rank);
	hash_u32(&h, n->object_group);
	blake3_hasher_update(&h, n->layout, SEG_DIGEST);
	blake3_hasher_finalize(&h, out, SEG_DIGEST);
}

/* ---- finding and entering --------------------------------------------------------------------------------------------- */

static bool same(const struct seg_name *a, const struct seg_name *b)
{
	return a->kv_rank == b->kv_rank && a->object_group == b->object_group &&
	       memcmp(a->layout, b->layout, SEG_DIGEST) == 0 && slice_eq(a->model, b->model) &&
	       slice_eq(a->salt, b->salt);
}

static uint32_t find(const struct seg_names *t, const struct seg_name *n, uint32_t bucket)
{
	uint32_t id = t->text[bucket];

	while (id && !same(&name_at(t, id)->n, n))
		id = name_at(t, id)->by_text;
	return id;
}

/* One block holds both texts. */
static bool copy_texts(struct seg_name *to, const struct seg_name *from)
{
	char *p = mem_calloc(1, from->model.n + from->salt.n + 1);

	if (!p)
		return false;
	*to = *from;
	if (from->model.n)
		memcpy(p, from->model.p, from->model.n);
	if (from->salt.n)
		memcpy(p + from->model.n, from->salt.p, from->salt.n);
	to->model = slice_of(p, from->model.n);
	to->salt = slice_of(p + from->model.n, from->salt.n);
	return true;
}

static uint32_t enter(struct seg_names *t, const struct seg_name *n, uint32_t bucket)
{
	uint32_t id = t->used + 1, d;
	struct name *e;

	if (id > SEG_NAMES_MAX)
		return 0;
	if (!t->slab[id / SLAB])
		t->slab[id / SLAB] = mem_calloc(SLAB, sizeof(struct name));
	if (!t->slab[id / SLAB])
		return 0;
	e = name_at(t, id);
	if (!copy_texts(&e->n, n))
		return 0;
	digest_of(&e->n, e->digest);
	d = digest_bucket(t, e->digest);
	e->by_text = t->text[bucket];
	e->by_digest = t->digest[d];
	t->text[bucket] = t->digest[d] = t->used = id;
	return id;
}

static bool fits(const struct seg_name *n)
{
	return n->model.n <= SEG_MAX_MODEL && n->salt.n <= SEG_MAX_SALT;
}

static uint32_t find_or_enter(struct seg_names *t, const struct seg_name *n, bool make)
{
	uint32_t bucket, id;

	if (!fits(n))
		return 0;
	bucket = text_bucket(t, n);
	lk_lock(&t->lk);
	id = find(t, n, bucket);
	if (!id && make)
		id = enter(t, n, bucket);
	lk_unlock(&t->lk);
	return id;
}

uint32_t seg_name_get(struct seg_names *t, const struct seg_name *name)
{
	return find_or_enter(t, name, true);
}

uint32_t seg_name_find(struct seg_names *t, const struct seg_name *name)
{
	return find_or_enter(t, name, false);
}

uint32_t seg_name_by_digest(struct seg_names *t, const uint8_t digest[SEG_DIGEST])
{
	uint32_t id;

	lk_lock(&t->lk);
	id = t->digest[digest_bucket(t, digest)];
	while (id && memcmp(name_at(t, id)->digest, digest, SEG_DIGEST) != 0)
		id = name_at(t, id)->by_digest;
	lk_unlock(&t->lk);
	return id;
}

uint32_t seg_names_count(struct seg_names *t)
{
	uint32_t n;

	lk_lock(&t->lk);
	n = t->used;
	lk_unlock(&t->lk);
	return n;
}

const struct seg_name *seg_name_of(const struct seg_names *t, uint32_t id)
{
	check(id && id <= SEG_NAMES_MAX && t->slab[id / SLAB]);
	return &name_at(t, id)->n;
}

const uint8_t *seg_name_digest(const struct seg_names *t, uint32_t id)
{
	check(id && id <= SEG_NAMES_MAX && t->slab[id / SLAB]);
	return name_at(t, id)->digest;
}
