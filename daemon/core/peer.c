#include "daemon/core/peer.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 16384u

struct peers {
	struct peer *bucket[BUCKETS];
	struct peer *oldest, *youngest;
	uint32_t count;
	uint64_t next_serial, seed;
};

int peers_create(struct peers **out)
{
	struct peers *p = mem_calloc(1, sizeof(*p));

	*out = p;
	if (!p)
		return -ENOMEM;
	if (getrandom(&p->seed, sizeof(p->seed), 0) == sizeof(p->seed))
		return 0;
	peers_destroy(p);
	*out = NULL;
	return -EIO;
}

/* A client may choose its identity, so the bucket depends on a secret. */
static uint32_t bucket_of(const struct peers *t, struct slice id)
{
	const uint8_t *p = id.p;
	uint64_t h = t->seed;

	for (size_t i = 0; i < id.n; i++)
		h = (h ^ p[i]) * 0x100000001b3ull;
	return (uint32_t)((h * 0x9e3779b97f4a7c15ull) >> 40) % BUCKETS;
}

static void age_unlink(struct peers *p, struct peer *x)
{
	*(x->older ? &x->older->younger : &p->oldest) = x->younger;
	*(x->younger ? &x->younger->older : &p->youngest) = x->older;
}

static void age_append(struct peers *p, struct peer *x)
{
	x->older = p->youngest;
	x->younger = NULL;
	*(p->youngest ? &p->youngest->younger : &p->oldest) = x;
	p->youngest = x;
}

static void drop(struct peers *p, struct peer *x)
{
	struct peer **link = &p->bucket[bucket_of(p, slice_of(x->id, x->id_bytes))];

	while (*link != x)
		link = &(*link)->next;
	*link = x->next;
	age_unlink(p, x);
	p->count--;
	mem_free(x);
}

/* The oldest peer without requests in flight; looks at a bounded number. */
static bool make_room(struct peers *p)
{
	struct peer *x = p->oldest;

	for (int i = 0; x && i < 4096; i++, x = x->younger) {
		if (!x->pending[LANE_LOOKUP] && !x->pending[LANE_TRANSFER]) {
			drop(p, x);
			return true;
		}
	}
	return false;
}

struct peer *peers_get(struct peers *p, struct slice id)
{
	uint32_t b = bucket_of(p, id);
	struct peer *x = p->bucket[b];

	while (x && !(x->id_bytes == id.n && memcmp(x->id, id.p, id.n) == 0))
		x = x->next;
	if (x) {
		if (x != p->youngest) {
			age_unlink(p, x);
			age_append(p, x);
		}
		return x;
	}
	if (id.n == 0 || id.n > sizeof(x->id) || (p->count >= PEERS_MAX && !make_room(p)))
		return NULL;
	x = mem_calloc(1, sizeof(*x));
	if (!x)
		return NULL;
	memcpy(x->id, id.p, id.n);
	x->id_bytes = (uint8_t)id.n;
	x->serial = ++p->next_serial;
	x->affinity = (uint32_t)x->serial;
	x->transfer_worker = x->next_worker = WORKER_NONE;
	x->next = p->bucket[b];
	p->bucket[b] = x;
	age_append(p, x);
	p->count++;
	return x;
}

uint32_t peer_transfer_worker(struct peer *p, uint32_t n)
{
	if (p->next_worker != WORKER_NONE && p->pending[LANE_TRANSFER] == 0) {
		p->transfer_worker = p->next_worker;
		p->next_worker = WORKER_NONE;
	}
	return p->transfer_worker != WORKER_NONE ? p->transfer_worker : p->affinity % n;
}

static bool is_engine(const struct peer *p, struct ctx_registry *contexts)
{
	bool found = false;

	for (uint32_t i = 0; i < p->ninstances && !found; i++) {
		struct ctx *x = ctx_get_for(contexts, p->instance[i], p->serial);

		found = x != NULL;
		ctx_put(contexts, x);
	}
	return found;
}

void peers_count_engines(const struct peers *t, struct ctx_registry *contexts, uint32_t n, uint32_t *engines)
{
	for (const struct peer *p = t->oldest; p; p = p->younger) {
		uint32_t w = p->next_worker != WORKER_NONE ? p->next_worker : p->transfer_worker;

		if (w < n && is_engine(p, contexts))
			engines[w]++;
	}
}

uint32_t peers_count(const struct peers *p)
{
	return p->count;
}

void peers_destroy(struct peers *p)
{
	if (!p)
		return;
	while (p->oldest)
		drop(p, p->oldest);
	mem_free(p);
}
