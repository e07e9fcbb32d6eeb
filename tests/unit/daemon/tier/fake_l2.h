/* fake_l2.h - an adapter that does what a test says: answers at once, when told, or from a thread of its own after a while and in any
 * order; fails, hangs, and remembers what it was given. Objects are kept as copies.
 */
#ifndef TESTS_UNIT_DAEMON_TIER_FAKE_L2_H
#define TESTS_UNIT_DAEMON_TIER_FAKE_L2_H

#include "daemon/base/clock.h"
#include "daemon/l2/l2.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAKE_CELLS 32768u

enum fake_mode { FAKE_INLINE, FAKE_MANUAL, FAKE_THREAD };

struct fake_object {
	struct seg_key key;
	uint64_t bytes;
	uint8_t *data; /* NULL: empty cell */
};

struct fake_l2 {
	struct l2 l2;
	struct l2_ops ops;
	_Atomic enum fake_mode mode;
	bool local;
	pthread_mutex_t m;
	pthread_cond_t c;
	struct fake_object *cell;
	struct l2_io *ios[8192];
	enum fake_kind { FAKE_LOAD, FAKE_STORE, FAKE_FLUSH } kind[8192];
	uint32_t nios;
	struct l2_find *finds[1024];
	uint32_t nfinds;
	/* script */
	_Atomic int load_error, store_error, flush_error;
	_Atomic uint32_t delay_us, error_every; /* thread: each n-th io fails with -EIO */
	_Atomic bool hang_loads, hang_stores, hang_finds, shuffle;
	/* seen */
	_Atomic uint64_t loads, stores, asked, flushes, most_load_bytes, load_bytes_now, with_sums;
	bool stop, started;
	pthread_t thread;
	uint64_t seed;
};

static inline struct fake_l2 *fake_of(struct l2 *a)
{
	return (struct fake_l2 *)a;
}

static inline struct fake_object *fake_cell(struct fake_l2 *f, const struct seg_key *k)
{
	uint64_t w;
	uint32_t at;

	memcpy(&w, k->hash.b, 8);
	at = (uint32_t)((w ^ k->name * 0x9e37u) * 0x9e3779b97f4a7c15u >> 40) % FAKE_CELLS;
	while (f->cell[at].data && memcmp(&f->cell[at].key, k, sizeof(*k)) != 0)
		at = (at + 1) % FAKE_CELLS;
	return &f->cell[at];
}

/* What the bytes of an object must be. */
static inline void fake_fill(uint8_t *p, uint64_t bytes, const struct store_hash *h)
{
	for (uint64_t i = 0; i < bytes; i++)
		p[i] = h->b[i % STORE_HASH_BYTES] ^ (uint8_t)(i / STORE_HASH_BYTES);
}

static inline bool fake_check(const uint8_t *p, uint64_t bytes, const struct store_hash *h)
{
	for (uint64_t i = 0; i < bytes; i += 61) {
		if (p[i] != (uint8_t)(h->b[i % STORE_HASH_BYTES] ^ (uint8_t)(i / STORE_HASH_BYTES)))
			return false;
	}
	return true;
}

static inline void fake_keep(struct fake_l2 *f, const struct seg_key *k, const void *data, uint64_t bytes)
{
	struct fake_object *o = fake_cell(f, k);

	free(o->data);
	*o = (struct fake_object){*k, bytes, malloc(bytes)};
	memcpy(o->data, data, bytes);
}

static inline void fake_put(struct fake_l2 *f, uint32_t name, const struct store_hash *h, uint64_t bytes)
{
	struct seg_key k = {name, *h};
	uint8_t *p = malloc(bytes);

	fake_fill(p, bytes, h);
	pthread_mutex_lock(&f->m);
	fake_keep(f, &k, p, bytes);
	pthread_mutex_unlock(&f->m);
	free(p);
}

static inline uint64_t fake_has(struct fake_l2 *f, uint32_t name, const struct store_hash *h)
{
	struct seg_key k = {name, *h};
	uint64_t bytes;

	pthread_mutex_lock(&f->m);
	bytes = fake_cell(f, &k)->data ? fake_cell(f, &k)->bytes : 0;
	pthread_mutex_unlock(&f->m);
	return bytes;
}

/* Under the mutex. */
static inline int fake_do(struct fake_l2 *f, struct l2_io *io, enum fake_kind kind)
{
	struct fake_object *o;

	if (kind == FAKE_FLUSH)
		return f->flush_error;
	if (kind == FAKE_STORE) {
		if (f->store_error)
			return f->store_error;
		f->with_sums += io->sums[0] != 0;
		if (fake_cell(f, &io->key)->data)
			return -EEXIST;
		if (!io->sums[0])
			crc32c_blocks(io->mem, io->bytes, io->sums);
		fake_keep(f, &io->key, io->mem, io->bytes);
		return 0;
	}
	f->load_bytes_now -= io->bytes;
	if (f->load_error)
		return f->load_error;
	o = fake_cell(f, &io->key);
	if (!o->data)
		return -ENOENT;
	if (o->bytes != io->bytes)
		return -EMSGSIZE;
	memcpy(io->mem, o->data, o->bytes);
	crc32c_blocks(io->mem, io->bytes, io->sums);
	return 0;
}

static inline void fake_submit(struct fake_l2 *f, struct l2_io *io, enum fake_kind kind)
{
	pthread_mutex_lock(&f->m);
	f->loads += kind == FAKE_LOAD;
	f->stores += kind == FAKE_STORE;
	f->flushes += kind == FAKE_FLUSH;
	if (kind == FAKE_LOAD) {
		f->load_bytes_now += io->bytes;
		if (f->load_bytes_now > f->most_load_bytes)
			f->most_load_bytes = f->load_bytes_now;
	}
	if (f->mode == FAKE_INLINE && !(kind == FAKE_LOAD ? f->hang_loads : f->hang_stores)) {
		io->result = fake_do(f, io, kind);
		pthread_mutex_unlock(&f->m);
		io->done(io);
		return;
	}
	f->kind[f->nios] = kind;
	f->ios[f->nios++] = io;
	if (f->nios == 8192)
		abort();
	pthread_cond_broadcast(&f->c);
	pthread_mutex_unlock(&f->m);
}

static inline void fake_load(struct l2 *a, struct l2_io *io)
{
	fake_submit(fake_of(a), io, FAKE_LOAD);
}

static inline void fake_store(struct l2 *a, struct l2_io *io)
{
	fake_submit(fake_of(a), io, FAKE_STORE);
}

static inline void fake_flush(struct l2 *a, struct l2_io *io)
{
	fake_submit(fake_of(a), io, FAKE_FLUSH);
}

static inline void fake_answer(struct fake_l2 *f, struct l2_find *q)
{
	pthread_mutex_lock(&f->m);
	for (uint32_t i = 0; i < q->n; i++) {
		const struct fake_object *o = fake_cell(f, &q->keys[i]);
		q->bytes[i] = o->data ? o->bytes : 0;
	}
	pthread_mutex_unlock(&f->m);
	q->done(q);
}

static inline void fake_find(struct l2 *a, struct l2_find *q)
{
	struct fake_l2 *f = fake_of(a);

	pthread_mutex_lock(&f->m);
	f->asked++;
	if (!f->local) {
		f->finds[f->nfinds++ & 1023] = q;
		pthread_cond_broadcast(&f->c);
		pthread_mutex_unlock(&f->m);
		return;
	}
	pthread_mutex_unlock(&f->m);
	fake_answer(f, q);
}

/* Takes io number i out of what is pending, under the mutex. */
static inline struct l2_io *fake_take(struct fake_l2 *f, uint32_t i, enum fake_kind *kind)
{
	struct l2_io *io = f->ios[i];

	*kind = f->kind[i];
	f->nios--;
	memmove(f->ios + i, f->ios + i + 1, (f->nios - i) * sizeof(f->ios[0]));
	memmove(f->kind + i, f->kind + i + 1, (f->nios - i) * sizeof(f->kind[0]));
	return io;
}

static inline void fake_finish(struct fake_l2 *f, struct l2_io *io, enum fake_kind kind, int error)
{
	pthread_mutex_lock(&f->m);
	io->result = error;
	if (!error)
		io->result = fake_do(f, io, kind);
	else if (kind == FAKE_LOAD)
		f->load_bytes_now -= io->bytes;
	pthread_mutex_unlock(&f->m);
	io->done(io);
}

/* Manual mode: completes pending io number i (in order of arrival), with an error when one is given. */
static inline void fake_complete(struct fake_l2 *f, uint32_t i, int error)
{
	enum fake_kind kind;
	struct l2_io *io;

	pthread_mutex_lock(&f->m);
	io = fake_take(f, i, &kind);
	pthread_mutex_unlock(&f->m);
	fake_finish(f, io, kind, error);
}

static inline uint32_t fake_pending(struct fake_l2 *f)
{
	uint32_t n;

	pthread_mutex_lock(&f->m);
	n = f->nios;
	pthread_mutex_unlock(&f->m);
	return n;
}

static inline struct l2_find *fake_next_find(struct fake_l2 *f)
{
	struct l2_find *q = NULL;

	pthread_mutex_lock(&f->m);
	if (f->nfinds)
		q = f->finds[--f->nfinds];
	pthread_mutex_unlock(&f->m);
	return q;
}

/* The first (or any) pending io that does not hang; under the mutex. */
static inline int fake_pick(struct fake_l2 *f)
{
	uint32_t from = 0;

	if (f->shuffle && f->nios) {
		f->seed = f->seed * 6364136223846793005u + 1442695040888963407u;
		from = (uint32_t)((f->seed >> 33) % f->nios);
	}
	for (uint32_t k = 0; k < f->nios; k++) {
		uint32_t i = (from + k) % f->nios;
		if (!(f->kind[i] == FAKE_LOAD ? f->hang_loads : f->hang_stores))
			return (int)i;
	}
	return -1;
}

static inline void *fake_run(void *arg)
{
	struct fake_l2 *f = arg;
	uint64_t n = 0;

	pthread_mutex_lock(&f->m);
	while (!f->stop) {
		int i = fake_pick(f);
		struct l2_find *q = f->nfinds && !f->hang_finds ? f->finds[--f->nfinds] : NULL;
		enum fake_kind kind;

		if (!q && i < 0) {
			pthread_cond_wait(&f->c, &f->m);
			continue;
		}
		if (q) {
			pthread_mutex_unlock(&f->m);
			fake_answer(f, q);
			pthread_mutex_lock(&f->m);
			continue;
		}
		struct l2_io *io = fake_take(f, (uint32_t)i, &kind);
		int error = f->error_every && ++n % f->error_every == 0 ? -EIO : 0;
		uint32_t delay = f->delay_us;
		pthread_mutex_unlock(&f->m);
		if (delay)
			usleep(delay);
		fake_finish(f, io, kind, error);
		pthread_mutex_lock(&f->m);
	}
	pthread_mutex_unlock(&f->m);
	return NULL;
}

/* Everything comes back, with -ECANCELED; questions with nothing. */
static inline void fake_close(struct l2 *a, uint32_t wait_ms)
{
	struct fake_l2 *f = fake_of(a);
	struct l2_find *q;

	(void)wait_ms;
	if (f->started) {
		pthread_mutex_lock(&f->m);
		f->stop = true;
		pthread_cond_broadcast(&f->c);
		pthread_mutex_unlock(&f->m);
		pthread_join(f->thread, NULL);
	}
	while (fake_pending(f))
		fake_complete(f, 0, -ECANCELED);
	while ((q = fake_next_find(f))) {
		memset(q->bytes, 0, q->n * sizeof(*q->bytes));
		q->done(q);
	}
	for (uint32_t i = 0; i < FAKE_CELLS; i++)
		free(f->cell[i].data);
	free(f->cell);
	pthread_mutex_destroy(&f->m);
	pthread_cond_destroy(&f->c);
	free(f);
}

static inline struct fake_l2 *fake_new(enum fake_mode mode, bool local)
{
	struct fake_l2 *f = calloc(1, sizeof(*f));

	f->ops = (struct l2_ops){.type = "fake",
				 .local = local,
				 .find = fake_find,
				 .load = fake_load,
				 .store = fake_store,
				 .flush = fake_flush,
				 .close = fake_close};
	f->l2.ops = &f->ops;
	f->mode = mode;
	f->local = local;
	f->cell = calloc(FAKE_CELLS, sizeof(*f->cell));
	f->seed = 1;
	pthread_mutex_init(&f->m, NULL);
	pthread_cond_init(&f->c, NULL);
	f->started = mode == FAKE_THREAD;
	if (f->started)
		pthread_create(&f->thread, NULL, fake_run, f);
	return f;
}

#endif
