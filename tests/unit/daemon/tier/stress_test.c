/* stress_test.c - all at once for some seconds: engines that store, lookups that prefetch, read, are cancelled or late, clears, an L1 far too
 * small, adapters that fail, reorder and are slow. Every byte that is delivered is checked, and at the end nothing may be left
 * behind. Run under TSan and ASan as well.
 */
#include "daemon/tier/room_int.h"
#include "tests/unit/daemon/tier/fixture.h"

#define THREADS 6u
#define KEYS    2000u
#define SLOTS   256u

enum { FREE, WAITS, DELIVERING, DELIVERED, CANCELLED };

struct slot {
	_Atomic int state; /* FREE ... */
	_Atomic uint64_t id;
	_Atomic uint32_t objects;
	store_obj objs[32];
	uint64_t first;
};

struct stress {
	struct tfix x;
	struct slot slot[SLOTS];
	_Atomic bool stop;
	_Atomic uint64_t delivered, from_l2, jobs, partial, founds, cancelled;
	bool clears;
};

struct actor {
	struct stress *s;
	struct rnd r;
	uint32_t n;
	pthread_t thread;
};

static uint64_t object_bytes(uint64_t k)
{
	return UNIT * (1 + k / 100 % 3) - (k / 100 % 2) * 100; /* by prompt */
}

static void on_found(void *ctx, uint64_t id, uint32_t found)
{
	struct stress *s = ctx;

	(void)id;
	s->founds += found;
}

static bool on_loaded(void *ctx, uint64_t id, const struct tier_result *r, const store_obj *objs)
{
	struct stress *s = ctx;
	struct slot *l = &s->slot[id % SLOTS];

	int waits = WAITS;

	s->from_l2 += r->from_l2;
	s->partial += r->objects < r->found;
	/* A call that ran when its job was cancelled. */
	if (l->id != id || !atomic_compare_exchange_strong(&l->state, &waits, DELIVERING))
		return false;
	if (l->id != id) { /* its slot went to the next job between the two */
		l->state = WAITS;
		return false;
	}
	for (uint32_t i = 0; i < r->objects; i++) {
		struct store_hash h = key(l->first + i);
		if (!fake_check(store_ptr(s->x.f.s, objs[i]), store_bytes(s->x.f.s, objs[i]), &h) ||
		    store_bytes(s->x.f.s, objs[i]) != object_bytes(l->first))
			abort();
	}
	memcpy(l->objs, objs, r->objects * sizeof(*objs));
	l->objects = r->objects;
	l->state = DELIVERED;
	return true;
}

static void prefetch(struct actor *a, uint32_t slot)
{
	struct stress *s = a->s;
	struct slot *l = &s->slot[slot];
	struct store_hash h[32];
	uint32_t name = NAME;
	store_ns ns;
	struct tier_want w = {.id = l->id + SLOTS, .world_size = 1, .ns = &ns, .names = &name, .hashes = h, .locks = 2};

	l->first = rnd_below(&a->r, KEYS / 100) * 100;
	w.nchunks = 1 + rnd_below(&a->r, 32);
	w.object_bytes = object_bytes(l->first);
	w.node = node_of((int)rnd_below(&a->r, 2));
	keys(h, l->first, w.nchunks);
	ns = store_ns_get(s->x.f.s, slice_str("model"), 0x01000100, 0, slice_str(""), NULL);
	l->id = w.id;
	l->state = WAITS;
	if (tier_prefetch(s->x.t, &w))
		l->state = FREE;
	else
		s->jobs++;
}

static void take(struct actor *a, struct slot *l)
{
	struct stress *s = a->s;
	uint16_t two[32];

	for (uint32_t i = 0; i < l->objects; i++) {
		struct store_hash h = key(l->first + i);
		two[i] = 2;
		if (!fake_check(store_ptr(s->x.f.s, l->objs[i]), store_bytes(s->x.f.s, l->objs[i]), &h))
			abort();
	}
	s->delivered += l->objects;
	store_unlock(s->x.f.s, l->objs, two, l->objects, 0);
	l->objects = 0;
	l->state = FREE;
}

/* Each actor has its own slots, so that only the tier's thread is there besides. */
static void look(struct actor *a)
{
	uint32_t slot = a->n + THREADS * rnd_below(&a->r, SLOTS / THREADS);
	struct slot *l = &a->s->slot[slot];

	int waits = WAITS;

	switch (l->state) {
	case CANCELLED:
	case FREE:
		prefetch(a, slot);
		break;
	case WAITS:
		if (rnd_below(&a->r, 20) == 0 && atomic_compare_exchange_strong(&l->state, &waits, CANCELLED)) {
			tier_cancel(a->s->x.t, l->id);
			a->s->cancelled++;
		}
		break;
	case DELIVERED:
		take(a, l);
		break;
	default:
		break;
	}
}

static void store_some(struct actor *a)
{
	struct stress *s = a->s;
	uint64_t first = rnd_below(&a->r, KEYS / 100) * 100;
	uint32_t n = 1 + rnd_below(&a->r, 32);
	struct store_hash h[32];
	store_obj o[32];

	keys(h, first, n);
	store_reserve(s->x.f.s, s->x.f.ns, h, n, object_bytes(first), NODE_UNKNOWN, 0, o);
	for (uint32_t i = 0; i < n; i++) {
		if (o[i])
			fake_fill(store_ptr(s->x.f.s, o[i]), object_bytes(first), &h[i]);
	}
	if (rnd_below(&a->r, 10) == 0) {
		store_abort(s->x.f.s, o, n);
	} else if (tier_accepts(s->x.t, n, object_bytes(first))) {
		store_commit_locked(s->x.f.s, o, n, 1, false, 0);
		tier_store(s->x.t, NAME, h, o, n);
	} else {
		store_commit(s->x.f.s, o, n, 0);
	}
}

static void no_flush(void *ctx, int result)
{
	(void)ctx;
	(void)result;
}

static void *act(void *arg)
{
	struct actor *a = arg;
	struct stress *s = a->s;

	while (!s->stop) {
		uint32_t what = rnd_below(&a->r, 100);
		if (what < 70)
			look(a);
		else if (what < 95)
			store_some(a);
		else if (what < 97)
			tier_flush(s->x.t, no_flush, NULL);
		else if (what == 97 && s->clears)
			store_clear(s->x.f.s);
		else
			usleep(300);
	}
	return NULL;
}

static void run_stress(struct stress *s, const char *name, double seconds)
{
	struct rnd r = rnd_start(name);
	struct actor a[THREADS];

	s->x.conf.listener = (struct tier_listener){s, on_found, on_loaded};
	tx_open(&s->x);
	for (uint32_t i = 0; i < THREADS; i++) {
		a[i] = (struct actor){.s = s, .r = {r.state + 1000 * i}, .n = i};
		pthread_create(&a[i].thread, NULL, act, &a[i]);
	}
	for (int i = 0; i < (int)(seconds * 20); i++) {
		struct tier_stats st = tstats(&s->x);
		assert_true(st.loading_bytes <= s->x.conf.max_load_bytes);
		assert_true(st.dirty_bytes <= s->x.conf.max_dirty_bytes);
		usleep(50000);
	}
	s->stop = true;
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(a[i].thread, NULL);
	store_check(s->x.f.s);
	tier_destroy(s->x.t, 20000);
	s->x.t = NULL;
	for (uint32_t i = 0; i < SLOTS; i++) {
		if (s->slot[i].state == DELIVERED)
			take(&a[0], &s->slot[i]);
	}
	printf("# %llu jobs, %llu objects delivered, %llu from L2, %llu jobs cut short, %llu cancelled\n",
	       (unsigned long long)s->jobs, (unsigned long long)s->delivered, (unsigned long long)s->from_l2,
	       (unsigned long long)s->partial, (unsigned long long)s->cancelled);
	assert_true(s->delivered > 0 && s->from_l2 > 0);
	tx_close(&s->x, 0);
}

static struct stress *stress_new(void)
{
	struct stress *s = calloc(1, sizeof(*s));

	for (uint64_t i = 0; i < SLOTS; i++)
		s->slot[i].id = i;
	/* L1 has room for a tenth. */
	tx_conf(&s->x, KEYS / 5);
	s->x.conf.max_load_bytes = 48 * UNIT;
	s->x.conf.max_dirty_bytes = 64 * UNIT;
	s->x.conf.load_timeout_ms = 30;
	s->x.conf.stall_ms = 20;
	s->x.conf.max_jobs = 4;
	return s;
}

static double seconds(void)
{
	return getenv("LMCA_SECONDS") ? atof(getenv("LMCA_SECONDS")) : 2;
}

static void test_1_two_bad_adapters(void **state)
{
	struct stress *s = stress_new();
	struct fake_l2 *f;
	(void)state;

	f = tx_adapter(&s->x, FAKE_THREAD, true);
	f->shuffle = true;
	f->error_every = 50;
	f->delay_us = 30;
	f = tx_adapter(&s->x, FAKE_THREAD, false);
	f->shuffle = true;
	f->error_every = 17;
	s->clears = true;
	run_stress(s, "two bad adapters", seconds());
	free(s);
}

static void test_2_skip_l1_and_temporary(void **state)
{
	struct stress *s = stress_new();
	(void)state;

	tx_adapter(&s->x, FAKE_THREAD, true)->shuffle = true;
	s->x.conf.store_policy = TIER_STORE_SKIP_L1;
	s->x.conf.prefetch_policy = TIER_PREFETCH_DEFAULT;
	run_stress(s, "skip_l1", seconds());
	free(s);
}

static void test_3_answers_at_once(void **state)
{
	struct stress *s = stress_new();
	(void)state;

	tx_adapter(&s->x, FAKE_INLINE, true);
	s->x.conf.load_timeout_ms = 2000;
	s->x.conf.stall_ms = 2000;
	s->x.conf.admission = TIER_ADMIT_SECOND_TOUCH;
	run_stress(s, "at once", seconds());
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_two_bad_adapters),
		cmocka_unit_test(test_2_skip_l1_and_temporary),
		cmocka_unit_test(test_3_answers_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
