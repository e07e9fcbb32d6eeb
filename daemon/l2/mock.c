/* mock.c - a second tier in memory, as slow as it is told to be. For tests and for trying out policies. */
#include "daemon/l2/l2_int.h"

#include "daemon/base/check.h"
#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096u

enum mock_kind { MOCK_LOAD, MOCK_STORE, MOCK_REMOVE, MOCK_CLEAR, MOCK_FLUSH };

struct object {
	struct seg_key key;
	uint64_t bytes, number; /* number: order of arrival, for list */
	struct object *chain;
	struct object *older, *newer; /* by use */
	uint8_t data[];
};

struct mock {
	struct l2 l2;
	struct lk lk; /* LK_L2: everything below */
	struct l2_delay *line;
	double ns_per_byte;
	uint64_t capacity, free_at_ns, arrivals;
	double watermark, ratio; /* watermark 0: nothing goes before it must */
	bool noop, closing;
	struct object *bucket[BUCKETS];
	struct object *oldest, *newest;
	struct l2_stats n;
};

static struct mock *of(struct l2 *a)
{
	return (struct mock *)a;
}

/* ---- objects: the lock is held ------------------------------------------------------------------------------------------ */

static struct object **place(struct mock *m, const struct seg_key *key)
{
	uint64_t h;
	memcpy(&h, key->hash.b, sizeof(h));
	struct object **at = &m->bucket[(h ^ key->name * 0x9e3779b97f4a7c15u) % BUCKETS];
	while (*at && ((*at)->key.name != key->name || memcmp((*at)->key.hash.b, key->hash.b, STORE_HASH_BYTES) != 0))
		at = &(*at)->chain;
	return at;
}

static void unlist(struct mock *m, struct object *o)
{
	*(o->older ? &o->older->newer : &m->oldest) = o->newer;
	*(o->newer ? &o->newer->older : &m->newest) = o->older;
}

static void list_newest(struct mock *m, struct object *o)
{
	o->older = m->newest;
	o->newer = NULL;
	*(o->older ? &o->older->newer : &m->oldest) = o;
	m->newest = o;
}

static void drop(struct mock *m, struct object *o)
{
	struct object **at = place(m, &o->key);
	check(*at == o);
	*at = o->chain;
	unlist(m, o);
	m->n.objects--;
	m->n.used_bytes -= o->bytes;
	mem_free(o);
}

static void evict_to(struct mock *m, uint64_t bytes)
{
	while (m->n.used_bytes > bytes && m->oldest) {
		m->n.evicted_objects++;
		m->n.evicted_bytes += m->oldest->bytes;
		drop(m, m->oldest);
	}
}

static int do_store(struct mock *m, struct l2_io *io)
{
	struct object *o;
	if (*place(m, &io->key))
		return -EEXIST;
	if (io->bytes > m->capacity || (m->noop && io->bytes > m->capacity - m->n.used_bytes))
		return -ENOSPC;
	evict_to(m, m->capacity - io->bytes);
	o = mem_realloc(NULL, sizeof(*o) + io->bytes); /* not zeroed */
	if (!o)
		return -ENOSPC;
	*o = (struct object){.key = io->key, .bytes = io->bytes, .number = ++m->arrivals};
	memcpy(o->data, io->mem, io->bytes);
	*place(m, &io->key) = o; /* eviction may have changed the chain */
	list_newest(m, o);
	m->n.objects++;
	m->n.used_bytes += o->bytes;
	if (m->watermark > 0 && !m->noop && (double)m->n.used_bytes >= m->watermark * (double)m->capacity)
		evict_to(m, m->n.used_bytes - (uint64_t)(m->ratio * (double)m->n.used_bytes));
	return 0;
}

static int do_load(struct mock *m, struct l2_io *io)
{
	struct object *o = *place(m, &io->key);
	if (!o)
		return -ENOENT;
	if (o->bytes != io->bytes)
		return -EMSGSIZE;
	memcpy(io->mem, o->data, o->bytes);
	unlist(m, o);
	list_newest(m, o);
	return 0;
}

/* ---- operations ------------------------------------------------------------------------------------------------------------ */

static void count(struct mock *m, enum mock_kind kind, const struct l2_io *io)
{
	if (kind == MOCK_LOAD) {
		m->n.in_flight_loads--;
		m->n.loads += io->result == 0;
		m->n.load_bytes += io->result == 0 ? io->bytes : 0;
		m->n.load_misses += io->result == -ENOENT;
		m->n.load_errors += io->result == -EMSGSIZE;
	} else if (kind == MOCK_STORE) {
		m->n.in_flight_stores--;
		m->n.stores += io->result == 0;
		m->n.store_bytes += io->result == 0 ? io->bytes : 0;
		m->n.present += io->result == -EEXIST;
		m->n.dropped += io->result == -ENOSPC;
	} else if (kind == MOCK_REMOVE) {
		m->n.removed += io->result == 0;
	}
}

static int perform(struct mock *m, enum mock_kind kind, struct l2_io *io)
{
	switch (kind) {
	case MOCK_LOAD:
		return do_load(m, io);
	case MOCK_STORE:
		return do_store(m, io);
	case MOCK_REMOVE:
		if (!*place(m, &io->key))
			return -ENOENT;
		drop(m, *place(m, &io->key));
		return 0;
	case MOCK_CLEAR:
		while (m->oldest)
			drop(m, m->oldest);
		return 0;
	case MOCK_FLUSH:
		return 0;
	}
	return -EINVAL;
}

static void due(void *ctx, struct l2_io *io, bool cancelled)
{
	struct mock *m = ctx;
	enum mock_kind kind = (enum mock_kind)(uintptr_t)io->priv[1];
	lk_lock(&m->lk);
	io->result = cancelled ? -ECANCELED : perform(m, kind, io);
	count(m, kind, io);
	lk_unlock(&m->lk);
	bool wants_sums = kind == MOCK_LOAD || (kind == MOCK_STORE && io->bytes && io->sums[0] == 0);
	if (io->result == 0 && wants_sums)
		crc32c_blocks(io->mem, io->bytes, io->sums);
	io->done(io);
}

/* One line for all: each operation ends when its bytes have passed. */
static void put(struct l2 *a, struct l2_io *io, enum mock_kind kind, uint64_t bytes)
{
	struct mock *m = of(a);
	uint64_t now = clock_ns();
	lk_lock(&m->lk);
	m->free_at_ns = (m->free_at_ns > now ? m->free_at_ns : now) + (uint64_t)((double)bytes * m->ns_per_byte);
	m->n.in_flight_loads += kind == MOCK_LOAD;
	m->n.in_flight_stores += kind == MOCK_STORE;
	uint64_t at = m->free_at_ns;
	lk_unlock(&m->lk);
	io->submitted_ns = now;
	io->priv[1] = (void *)(uintptr_t)kind;
	l2_delay_put(m->line, io, at);
}

static void mock_load(struct l2 *a, struct l2_io *io)
{
	put(a, io, MOCK_LOAD, io->bytes);
}

static void mock_store(struct l2 *a, struct l2_io *io)
{
	put(a, io, MOCK_STORE, io->bytes);
}

static void mock_remove(struct l2 *a, struct l2_io *io)
{
	put(a, io, MOCK_REMOVE, 0);
}

static void mock_clear(struct l2 *a, struct l2_io *io)
{
	put(a, io, MOCK_CLEAR, 0);
}

static void mock_flush(struct l2 *a, struct l2_io *io)
{
	put(a, io, MOCK_FLUSH, 0);
}

static void mock_find(struct l2 *a, struct l2_find *f)
{
	struct mock *m = of(a);
	lk_lock(&m->lk);
	for (uint32_t i = 0; i < f->n; i++) {
		const struct object *o = *place(m, &f->keys[i]);
		f->bytes[i] = o ? o->bytes : 0;
	}
	lk_unlock(&m->lk);
	f->done(f);
}

static int by_number(const void *a, const void *b)
{
	const struct object *x = *(const struct object *const *)a, *y = *(const struct object *const *)b;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* In order of arrival; the cursor is the number of the last one told. Sorts them all each time: a mock is small. */
static uint32_t mock_list(struct l2 *a, uint64_t *cursor, struct l2_list_entry *out, uint32_t max)
{
	struct mock *m = of(a);
	uint32_t n = 0, all = 0;
	lk_lock(&m->lk);
	struct object **sorted = mem_calloc(m->n.objects ? m->n.objects : 1, sizeof(*sorted));
	for (struct object *o = m->oldest; sorted && o; o = o->newer)
		sorted[all++] = o;
	if (all > 1)
		qsort((void *)sorted, all, sizeof(*sorted), by_number);
	uint64_t after = *cursor;
	*cursor = 0;
	for (uint32_t i = 0; i < all; i++) {
		if (sorted[i]->number <= after)
			continue;
		if (n == max) {
			*cursor = after;
			break;
		}
		out[n++] = (struct l2_list_entry){sorted[i]->key, sorted[i]->bytes};
		after = sorted[i]->number;
	}
	lk_unlock(&m->lk);
	mem_free((void *)sorted);
	return n;
}

static void mock_stats(struct l2 *a, struct l2_stats *out)
{
	struct mock *m = of(a);
	lk_lock(&m->lk);
	*out = m->n;
	lk_unlock(&m->lk);
	out->queued = out->in_flight_loads + out->in_flight_stores;
	out->capacity_bytes = m->capacity;
	out->healthy = true;
	memcpy(out->state, "ok", 3);
}

static json_t *mock_describe(struct l2 *a)
{
	struct mock *m = of(a);
	return json_pack("{s:s, s:f}", "backend", "memory", "bandwidth_gb", 1e9 / m->ns_per_byte / (double)(1u << 30));
}

static void mock_close(struct l2 *a, uint32_t wait_ms)
{
	struct mock *m = of(a);
	uint64_t until = clock_ms() + wait_ms;
	struct l2_stats n;
	for (mock_stats(a, &n); n.queued && clock_ms() < until; mock_stats(a, &n))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	l2_delay_stop(m->line);
	while (m->oldest)
		drop(m, m->oldest);
	lk_destroy(&m->lk);
	mem_free(m);
}

static const struct l2_ops mock_ops = {
	.type = "mock",
	.local = true,
	.find = mock_find,
	.load = mock_load,
	.store = mock_store,
	.remove = mock_remove,
	.clear = mock_clear,
	.flush = mock_flush,
	.list = mock_list,
	.stats = mock_stats,
	.describe = mock_describe,
	.close = mock_close,
};

int l2_mock_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	struct mock *m = mem_calloc(1, sizeof(*m));
	if (!m)
		return why_set(why, -ENOMEM, "out of memory");
	m->l2.ops = &mock_ops;
	m->capacity = l2_conf_gib(c, "max_size_gb");
	m->ns_per_byte = 1e9 / (l2_conf_real(c, "mock_bandwidth_gb") * (double)(1u << 30));
	m->noop = strcmp(l2_conf_text(c, "eviction.eviction_policy"), "noop") == 0;
	if (l2_conf_has(c, "eviction")) {
		m->watermark = l2_conf_real(c, "eviction.trigger_watermark");
		m->ratio = l2_conf_real(c, "eviction.eviction_ratio");
	}
	lk_init(&m->lk, LK_L2);
	int rc = l2_delay_start(env, "lmca-mock", due, m, &m->line, why);
	if (rc) {
		lk_destroy(&m->lk);
		mem_free(m);
		return rc;
	}
	*out = &m->l2;
	return 0;
}
