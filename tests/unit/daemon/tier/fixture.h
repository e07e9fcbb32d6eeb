/* fixture.h - what the tier's tests share: a store over a fake arena, a tier with fake adapters, and a listener that writes down what
 * it hears. At the end of a test nothing may be locked or reserved.
 */
#ifndef TESTS_UNIT_DAEMON_TIER_FIXTURE_H
#define TESTS_UNIT_DAEMON_TIER_FIXTURE_H

#include "daemon/tier/tier.h"
#include "tests/unit/daemon/store/fixture.h"
#include "tests/unit/daemon/tier/fake_l2.h"

#define NAME    7u /* of all objects, but where it says otherwise */
#define JOBS    64u
#define OBJECTS 1024u

struct heard {
	bool over, asked, taken;
	struct tier_result r;
	uint32_t found;
	store_obj objs[OBJECTS];
	uint64_t at_ns;
};

struct tfix {
	struct fix f;
	struct tier *t;
	struct fake_l2 *l2[TIER_MAX_ADAPTERS];
	struct tier_conf conf;
	struct l2 *adapters[TIER_MAX_ADAPTERS];
	pthread_mutex_t m;
	pthread_cond_t c;
	bool refuse; /* what is heard */
	struct heard h[JOBS];
	uint16_t locks;
	uint64_t bytes;
};

static inline void heard_found(void *ctx, uint64_t id, uint32_t found)
{
	struct tfix *x = ctx;

	pthread_mutex_lock(&x->m);
	assert_false(x->h[id].asked);
	assert_false(x->h[id].over);
	x->h[id].asked = true;
	x->h[id].found = found;
	pthread_cond_broadcast(&x->c);
	pthread_mutex_unlock(&x->m);
}

static inline bool heard_loaded(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs)
{
	struct tfix *x = ctx;
	struct heard *h = &x->h[id];

	pthread_mutex_lock(&x->m);
	assert_false(h->over);
	h->over = true;
	h->r = *r;
	h->taken = !x->refuse;
	h->at_ns = clock_ns();
	memcpy(h->objs, objs, r->objects * sizeof(*objs));
	pthread_cond_broadcast(&x->c);
	pthread_mutex_unlock(&x->m);
	return !x->refuse; /* set before the start */
}

/* Before tx_open the test may change conf and adapters. */
static inline void tx_conf(struct tfix *x, uint32_t units)
{
	memset(x, 0, sizeof(*x));
	fix_units(&x->f, units, STORE_LRU);
	pthread_mutex_init(&x->m, NULL);
	pthread_cond_init(&x->c, NULL);
	x->locks = 1;
	x->bytes = UNIT;
	x->conf = (struct tier_conf){.store = x->f.s,
				     .adapters = x->adapters,
				     .max_jobs = 8,
				     .max_load_bytes = 1 << 20,
				     .max_dirty_bytes = 1 << 20,
				     .load_timeout_ms = 5000,
				     .stall_ms = 5000,
				     .prefetch_policy = TIER_PREFETCH_RETAIN,
				     .listener = {x, heard_found, heard_loaded}};
}

static inline struct fake_l2 *tx_adapter(struct tfix *x, enum fake_mode mode, bool local)
{
	struct fake_l2 *f = fake_new(mode, local);

	x->l2[x->conf.nadapters] = f;
	x->adapters[x->conf.nadapters++] = &f->l2;
	return f;
}

static inline void tx_open(struct tfix *x)
{
	struct why why;

	if (tier_create(&x->conf, &x->t, &why))
		fail_msg("%s", why.text);
}

/* `leaked` reservations are what adapters were closed with. */
static inline void tx_close(struct tfix *x, uint64_t leaked)
{
	struct store_stats st;

	if (x->t)
		tier_destroy(x->t, 200);
	st = stats(&x->f);
	assert_int_equal(st.locked, 0);
	assert_int_equal(st.reserved, leaked);
	assert_int_equal(st.detached, 0);
	fix_close(&x->f);
	pthread_mutex_destroy(&x->m);
	pthread_cond_destroy(&x->c);
}

static inline struct tier_stats tstats(struct tfix *x)
{
	struct tier_stats st;

	tier_stats(x->t, &st);
	return st;
}

/* ---- storing ----------------------------------------------------------------------------------------------------------- */

/* Puts objects of keys first.. into L1, locked for the tier, and hands them over. */
static inline void tx_store(struct tfix *x, uint64_t first, uint32_t n)
{
	struct store_hash h[OBJECTS];
	store_obj o[OBJECTS];

	keys(h, first, n);
	assert_int_equal(store_reserve(x->f.s, x->f.ns, h, n, x->bytes, NODE_UNKNOWN, 0, o).reserved, n);
	for (uint32_t i = 0; i < n; i++)
		fake_fill(store_ptr(x->f.s, o[i]), x->bytes, &h[i]);
	assert_int_equal(store_commit_locked(x->f.s, o, n, 1, false, 0), n);
	tier_store(x->t, NAME, h, o, n);
}

#define EVENTUALLY(cond)                                          \
	do {                                                      \
		uint64_t until_ = clock_ms() + 20000;             \
		bool ok_;                                         \
		while (!(ok_ = (cond)) && clock_ms() < until_)    \
			usleep(200);                              \
		if (!ok_)                                         \
			fail_msg("never became true: %s", #cond); \
	} while (0)

static inline void tx_drain(struct tfix *x)
{
	EVENTUALLY(tstats(x).dirty_objects == 0);
}

/* ---- prefetching ------------------------------------------------------------------------------------------------------- */

static inline int tx_prefetch_world(struct tfix *x, uint64_t id, uint64_t first_key, uint32_t chunks, uint32_t world,
				    const store_ns *ns, uint32_t first)
{
	struct store_hash h[OBJECTS];
	uint32_t names[8];
	struct tier_want w = {.id = id,
			      .world_size = world,
			      .ns = ns,
			      .names = names,
			      .hashes = h,
			      .nchunks = chunks,
			      .first = first,
			      .object_bytes = x->bytes,
			      .locks = x->locks,
			      .node = NODE_UNKNOWN};

	for (uint32_t r = 0; r < world; r++)
		names[r] = NAME + r;
	keys(h, first_key, chunks);
	return tier_prefetch(x->t, &w);
}

static inline int tx_prefetch(struct tfix *x, uint64_t id, uint64_t first_key, uint32_t n)
{
	store_ns ns = store_ns_get(x->f.s, slice_str("model"), 0x01000100, 0, slice_str(""), NULL);

	return tx_prefetch_world(x, id, first_key, n, 1, &ns, 0);
}

static inline void tx_on_l2(struct tfix *x, uint32_t adapter, uint64_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct store_hash h = key(first + i);
		fake_put(x->l2[adapter], NAME, &h, x->bytes);
	}
}

static inline const struct heard *tx_wait(struct tfix *x, uint64_t id)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	pthread_mutex_lock(&x->m);
	while (!x->h[id].over) {
		if (pthread_cond_timedwait(&x->c, &x->m, &until))
			fail_msg("job %d never ended", (int)id);
	}
	pthread_mutex_unlock(&x->m);
	return &x->h[id];
}

static inline bool tx_over(struct tfix *x, uint64_t id)
{
	bool over;

	pthread_mutex_lock(&x->m);
	over = x->h[id].over;
	pthread_mutex_unlock(&x->m);
	return over;
}

static inline bool tx_asked(struct tfix *x, uint64_t id)
{
	bool asked;

	pthread_mutex_lock(&x->m);
	asked = x->h[id].asked;
	pthread_mutex_unlock(&x->m);
	return asked;
}

/* The listener's locks go back; the bytes must be right. */
static inline void tx_release(struct tfix *x, uint64_t id, uint64_t first_key)
{
	struct heard *h = &x->h[id];

	if (!h->taken)
		return;
	for (uint32_t i = 0; i < h->r.objects; i++) {
		struct store_hash k = key(first_key + i);
		assert_int_equal(store_bytes(x->f.s, h->objs[i]), x->bytes);
		assert_true(fake_check(store_ptr(x->f.s, h->objs[i]), x->bytes, &k));
		store_unlock(x->f.s, &h->objs[i], &x->locks, 1, 0);
	}
	h->taken = false;
}

#endif
