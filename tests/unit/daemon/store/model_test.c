/* model_test.c - random calls against a model that is nothing but arrays.
 *
 * The model knows every key's state, every owner's reservations and locks, and the order of ages. With slots of one size
 * it predicts each eviction; with mixed sizes it looks which keys went and requires that they could and had to.
 */
#include "tests/unit/daemon/store/fixture.h"

#define NS     3
#define PROMPT 40 /* chunks per prompt */
#define KEYS   (6 * PROMPT)
#define OWNED  64

enum state { ABSENT, RESERVED, READABLE };

struct mkey {
	enum state state;
	store_obj obj;
	uint64_t bytes, age;
	uint32_t locks;
};

struct owned { /* a reservation, or locks on one object */
	store_obj obj;
	int ns;
	uint32_t key;
	uint32_t locks; /* 0: a reservation */
	uint64_t bytes;
	bool detached;
};

struct model {
	struct fix f;
	struct rnd r;
	bool uniform, noop;
	store_ns ns[NS];
	struct mkey k[NS][KEYS];
	struct owned own[OWNED];
	uint32_t nown;
	uint64_t clock, evicted;
};

static uint64_t slot_bytes(uint64_t bytes)
{
	return (bytes + UNIT - 1) / UNIT * UNIT;
}

static bool evictable(const struct mkey *k)
{
	return k->state == READABLE && k->locks == 0;
}

static void detach_owned(struct model *m, int ns, uint32_t key)
{
	for (uint32_t i = 0; i < m->nown; i++) {
		if (m->own[i].ns == ns && m->own[i].key == key)
			m->own[i].detached = true;
	}
}

static void own(struct model *m, int ns, uint32_t key, uint32_t locks)
{
	struct mkey *k = &m->k[ns][key];

	m->own[m->nown++] = (struct owned){k->obj, ns, key, locks, k->bytes, false};
}

static uint64_t detached_objects(const struct model *m, uint64_t *bytes)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < m->nown; i++) {
		bool first = m->own[i].detached;
		for (uint32_t j = 0; first && j < i; j++)
			first = !(m->own[j].detached && m->own[j].obj == m->own[i].obj);
		n += first;
		*bytes += first ? slot_bytes(m->own[i].bytes) : 0;
	}
	return n;
}

static void compare_stats(struct model *m)
{
	struct store_stats st = stats(&m->f);
	uint64_t reserved = 0, readable = 0, locked = 0, bytes = 0;

	for (int n = 0; n < NS; n++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			const struct mkey *k = &m->k[n][i];
			reserved += k->state == RESERVED;
			readable += k->state == READABLE;
			locked += k->state == READABLE && k->locks > 0;
			bytes += k->state == ABSENT ? 0 : slot_bytes(k->bytes);
		}
	}
	assert_int_equal(st.detached, detached_objects(m, &bytes));
	assert_int_equal(st.reserved, reserved);
	assert_int_equal(st.readable, readable);
	assert_int_equal(st.locked, locked);
	assert_int_equal(st.objects, reserved + readable);
	assert_int_equal(st.used_bytes, bytes);
}

static struct mkey *oldest(struct model *m)
{
	struct mkey *best = NULL;

	for (int n = 0; n < NS; n++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			struct mkey *k = &m->k[n][i];
			if (evictable(k) && (!best || k->age < best->age))
				best = k;
		}
	}
	return best;
}

static bool really_there(struct model *m, int ns, uint32_t key_no)
{
	struct store_hash h = key(key_no);

	return store_peek_prefix(m->f.s, &m->ns[ns], 1, &h, 1, 0) == 1;
}

/* What the store evicted, the model evicts too, if it was allowed to go. */
static void follow_evictions(struct model *m)
{
	uint64_t gone = stats(&m->f).evicted_objects - m->evicted;

	m->evicted += gone;
	assert_true(!gone || !m->noop);
	if (m->uniform) {
		for (; gone; gone--) {
			struct mkey *k = oldest(m);
			assert_non_null(k);
			k->state = ABSENT;
		}
		return;
	}
	for (int n = 0; gone && n < NS; n++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			struct mkey *k = &m->k[n][i];
			if (k->state != READABLE || really_there(m, n, i))
				continue;
			assert_int_equal(k->locks, 0);
			k->state = ABSENT;
			gone--;
		}
	}
	assert_int_equal(gone, 0);
}

/* ---- calls -------------------------------------------------------------------------------------------------------- */

static uint32_t pick_run(struct model *m, uint32_t *first)
{
	*first = rnd_below(&m->r, 6) * PROMPT;
	return 1 + rnd_below(&m->r, PROMPT);
}

static uint64_t pick_bytes(struct model *m)
{
	return m->uniform ? UNIT - 5 : 1 + rnd_below(&m->r, rnd_below(&m->r, 8) ? 4 * UNIT : 40 * UNIT);
}

static bool will_replace(const struct mkey *k, uint64_t bytes)
{
	return k->state == READABLE && k->bytes != bytes;
}

/* The old object of a key stored again with another size was replaced, unless it was evicted just before to make room:
 * then the store has counted one eviction more than keys have vanished elsewhere. */
static void follow_replacement(struct model *m, int ns, uint32_t i)
{
	uint64_t gone = stats(&m->f).evicted_objects - m->evicted, others = 0;
	struct mkey *k = &m->k[ns][i];

	if (k->locks)
		detach_owned(m, ns, i);
	k->state = ABSENT;
	for (int n = 0; n < NS; n++) {
		for (uint32_t j = 0; j < KEYS; j++)
			others += m->k[n][j].state == READABLE && !really_there(m, n, j);
	}
	assert_true(gone == others || (gone == others + 1 && !k->locks));
	m->evicted += gone - others;
}

static void do_reserve(struct model *m)
{
	uint32_t first, n = pick_run(m, &first);
	uint64_t bytes = pick_bytes(m);
	int ns = (int)rnd_below(&m->r, NS);

	for (uint32_t i = first; i < first + n && m->nown < OWNED; i++) {
		struct store_hash h = key(i);
		struct mkey *k = &m->k[ns][i];
		bool present = k->state != ABSENT && !will_replace(k, bytes);
		store_obj o;
		struct store_reserve_result r =
			store_reserve(m->f.s, m->ns[ns], &h, 1, bytes, NODE_UNKNOWN, m->clock, &o);
		assert_int_equal(r.present, present);
		assert_int_equal(r.present + r.refused + r.reserved, 1);
		if (r.reserved && k->state == READABLE)
			follow_replacement(m, ns, i);
		follow_evictions(m);
		if (r.refused)
			break;
		if (!r.reserved)
			continue;
		*k = (struct mkey){RESERVED, o, bytes, 0, 0};
		own(m, ns, i, 0);
	}
}

/* Several reservations are committed in one call, last first: that is the order of their ages. */
static void do_commit(struct model *m)
{
	store_obj objs[OWNED];
	uint32_t n = 0, want = 0;

	for (uint32_t i = m->nown; i-- > 0;) {
		struct owned w = m->own[i];
		if (w.locks || rnd_below(&m->r, 3) == 0)
			continue;
		objs[n++] = w.obj;
		if (!w.detached) {
			m->k[w.ns][w.key].state = READABLE;
			want++;
		}
		m->own[i] = m->own[--m->nown];
	}
	for (uint32_t i = n; i-- > 0;) {
		for (int ns = 0; ns < NS; ns++) {
			for (uint32_t k = 0; k < KEYS; k++) {
				struct mkey *mk = &m->k[ns][k];
				if (mk->state == READABLE && mk->obj == objs[i] && mk->age == 0)
					mk->age = ++m->clock;
			}
		}
	}
	assert_int_equal(store_commit(m->f.s, objs, n, m->clock), want);
}

static void do_give_up(struct model *m)
{
	bool disown = rnd_below(&m->r, 2);

	for (uint32_t i = m->nown; i-- > 0;) {
		struct owned *w = &m->own[i];
		if (w->locks || rnd_below(&m->r, 4))
			continue;
		if (!w->detached)
			m->k[w->ns][w->key].state = ABSENT;
		if (disown) {
			store_disown(m->f.s, &w->obj, 1);
			w->detached = true;
		} else {
			store_abort(m->f.s, &w->obj, 1);
			*w = m->own[--m->nown];
		}
	}
}

static uint32_t model_prefix(const struct model *m, const int *ns, uint32_t nranks, uint32_t first, uint32_t n,
			     uint64_t bytes)
{
	uint32_t i;

	for (i = 0; i < n * nranks; i++) {
		const struct mkey *k = &m->k[ns[i % nranks]][first + i / nranks];
		if (k->state != READABLE || (bytes && k->bytes != bytes))
			break;
	}
	return i;
}

static void do_lock_prefix(struct model *m)
{
	uint32_t first, n = pick_run(m, &first), nranks = 1 + rnd_below(&m->r, NS), got, want;
	uint64_t bytes = rnd_below(&m->r, 2) ? pick_bytes(m) : 0;
	uint16_t count = (uint16_t)(1 + rnd_below(&m->r, 3));
	struct store_hash h[PROMPT];
	store_obj out[NS * PROMPT];
	store_ns ids[NS];
	int ns[NS];

	for (uint32_t r = 0; r < nranks; r++) {
		ns[r] = (int)((r + first) % NS);
		ids[r] = m->ns[ns[r]];
	}
	keys(h, first, n);
	want = model_prefix(m, ns, nranks, first, n, bytes);
	assert_int_equal(store_peek_prefix(m->f.s, ids, nranks, h, n, bytes), want);
	if (want > OWNED - m->nown)
		return;
	got = store_lock_prefix(m->f.s, ids, nranks, h, n, count, bytes, m->clock, out);
	assert_int_equal(got, want);
	for (uint32_t i = 0; i < got; i++) {
		struct mkey *k = &m->k[ns[i % nranks]][first + i / nranks];
		assert_int_equal(out[i], k->obj);
		assert_int_equal(store_bytes(m->f.s, out[i]), k->bytes);
		k->locks += count;
		own(m, ns[i % nranks], first + i / nranks, count);
	}
}

static void do_lock_all(struct model *m)
{
	uint32_t first, n = pick_run(m, &first), want, missing = UINT32_MAX;
	int ns = (int)rnd_below(&m->r, NS);
	struct store_hash h[PROMPT];
	store_obj out[PROMPT];

	keys(h, first, n);
	want = model_prefix(m, &ns, 1, first, n, 0);
	if (n > OWNED - m->nown)
		return;
	if (store_lock_all(m->f.s, m->ns[ns], h, n, 0, m->clock, out, &missing)) {
		assert_int_equal(missing, want);
		return;
	}
	assert_int_equal(want, n);
	for (uint32_t i = 0; i < n; i++) {
		m->k[ns][first + i].locks++;
		own(m, ns, first + i, 1);
	}
}

static void do_unlock(struct model *m)
{
	for (uint32_t i = m->nown; i-- > 0;) {
		struct owned w = m->own[i];
		uint16_t give;
		if (!w.locks || rnd_below(&m->r, 3) == 0)
			continue;
		give = (uint16_t)(1 + rnd_below(&m->r, w.locks));
		store_unlock(m->f.s, &w.obj, &give, 1, m->clock);
		if (!w.detached) {
			struct mkey *k = &m->k[w.ns][w.key];
			k->locks -= give;
			k->age = k->locks ? k->age : ++m->clock;
		}
		m->own[i].locks -= give;
		if (!m->own[i].locks)
			m->own[i] = m->own[--m->nown];
	}
}

static void do_touch(struct model *m)
{
	uint32_t first, n = pick_run(m, &first);
	struct store_hash h[PROMPT];

	keys(h, first, n);
	store_touch(m->f.s, m->ns, NS, h, n, m->clock);
	for (uint32_t i = n * NS; i-- > 0;) {
		struct mkey *k = &m->k[i % NS][first + i / NS];
		if (evictable(k))
			k->age = ++m->clock;
	}
}

static void do_delete(struct model *m)
{
	uint32_t i = rnd_below(&m->r, KEYS);
	int ns = (int)rnd_below(&m->r, NS), err;
	bool force = rnd_below(&m->r, 2);
	struct mkey *k = &m->k[ns][i];
	struct store_hash h = key(i);

	err = store_delete(m->f.s, m->ns[ns], &h, force);
	assert_int_equal(err, k->state == ABSENT ? -ENOENT : !force && !evictable(k) ? -EBUSY : 0);
	if (err)
		return;
	detach_owned(m, ns, i);
	k->state = ABSENT;
	k->locks = 0;
}

static void do_clear(struct model *m)
{
	uint64_t dropped = 0;

	for (int n = 0; n < NS; n++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			dropped += m->k[n][i].state != ABSENT;
			if (m->k[n][i].state != ABSENT)
				detach_owned(m, n, i);
			m->k[n][i] = (struct mkey){0};
		}
	}
	assert_int_equal(store_clear(m->f.s), dropped);
}

static void do_tick(struct model *m)
{
	struct store_stats before = stats(&m->f), after;
	uint64_t freed = store_tick(m->f.s, m->clock);

	after = stats(&m->f);
	assert_int_equal(before.used_bytes - after.used_bytes, freed);
	if (m->noop || before.used_bytes < 0.85 * (double)before.total_bytes)
		assert_int_equal(freed, 0);
	follow_evictions(m);
}

/* References come and go; while objects or the test's own reference are there the number stays. */
static void do_names(struct model *m)
{
	int n = (int)rnd_below(&m->r, NS);
	char model[8];

	snprintf(model, sizeof(model), "m%d", n);
	assert_int_equal(store_ns_get(m->f.s, slice_str(model), 1, 0, slice_str("salt"), NULL), m->ns[n]);
	store_ns_put(m->f.s, m->ns[n]);
	store_ns_put(m->f.s,
		     store_ns_get(m->f.s, slice_str("passing"), rnd_below(&m->r, 50), 0, slice_str(model), NULL));
}

static void step(struct model *m)
{
	uint32_t what = rnd_below(&m->r, 1000);

	if (what < 220)
		do_reserve(m);
	else if (what < 420)
		do_commit(m);
	else if (what < 450)
		do_give_up(m);
	else if (what < 600)
		do_lock_prefix(m);
	else if (what < 650)
		do_lock_all(m);
	else if (what < 850)
		do_unlock(m);
	else if (what < 920)
		do_touch(m);
	else if (what < 960)
		do_delete(m);
	else if (what < 962)
		do_clear(m);
	else if (what < 980)
		do_tick(m);
	else
		do_names(m);
}

static void run(const char *name, bool uniform, enum store_policy policy, uint32_t units, uint32_t steps)
{
	static struct model m;
	struct store_conf conf = fix_conf(fake_arena_full((uint64_t)units * UNIT));

	memset(&m, 0, sizeof(m));
	m.r = rnd_start(name);
	m.uniform = uniform;
	m.noop = policy == STORE_NOOP;
	conf.policy = policy;
	conf.trigger_watermark = 0.85;
	conf.sample_rate = 0.3;
	fix_open(&m.f, &conf);
	for (int n = 0; n < NS; n++) {
		char model[8];
		snprintf(model, sizeof(model), "m%d", n);
		m.ns[n] = store_ns_get(m.f.s, slice_str(model), 1, 0, slice_str("salt"), NULL);
	}
	for (uint32_t i = 0; i < steps; i++) {
		step(&m);
		if (i % 16 == 0)
			compare_stats(&m);
		if (i % 64 == 0)
			store_check(m.f.s);
	}
	printf("# %llu evicted, %llu refused, %llu present, %llu hits\n",
	       (unsigned long long)stats(&m.f).evicted_objects, (unsigned long long)stats(&m.f).reserve_refused,
	       (unsigned long long)stats(&m.f).reserve_present, (unsigned long long)stats(&m.f).hits);
	assert_true(m.noop || stats(&m.f).evicted_objects > steps / 20);
	assert_true(stats(&m.f).hits > steps / 200);
	fix_close(&m.f);
}

static void test_1_one_size_every_eviction_predicted(void **state)
{
	(void)state;
	run("model, one size", true, STORE_LRU, 200, 200000);
}

static void test_2_mixed_sizes(void **state)
{
	(void)state;
	run("model, mixed sizes", false, STORE_LRU, 200, 100000);
}

static void test_3_isolated_without_quotas_behaves_as_lru(void **state)
{
	(void)state;
	run("model, isolated", true, STORE_ISOLATED_LRU, 200, 50000);
}

/* So small that everything is often in use and reservations are refused. */
static void test_4_cramped(void **state)
{
	(void)state;
	run("model, cramped", true, STORE_LRU, 50, 50000);
	run("model, cramped, mixed sizes", false, STORE_LRU, 60, 50000);
}

static void test_5_noop(void **state)
{
	(void)state;
	run("model, noop", false, STORE_NOOP, 200, 50000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_one_size_every_eviction_predicted),
		cmocka_unit_test(test_2_mixed_sizes),
		cmocka_unit_test(test_3_isolated_without_quotas_behaves_as_lru),
		cmocka_unit_test(test_4_cramped),
		cmocka_unit_test(test_5_noop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
