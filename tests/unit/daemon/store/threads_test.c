/* threads_test.c - eight threads at once; run under TSan as well.
 *
 * Every writer fills its slot with the key's number before it commits, and every reader checks it while it holds a lock:
 * a slot given away too early, or a key that points to the wrong slot, is seen as wrong bytes.
 */
#include "tests/unit/daemon/store/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS 8
#define PROMPT  32
#define PROMPTS 40

struct shared {
	struct fix f;
	_Atomic uint64_t wrong, read;
	_Atomic bool stop;
	uint32_t rounds;
};

struct worker {
	struct shared *sh;
	struct rnd r;
	pthread_t thread;
};

static uint64_t bytes_of(uint32_t prompt)
{
	return prompt % 3 == 0 ? UNIT : prompt % 3 == 1 ? 3 * UNIT - 100 : 7 * UNIT;
}

static void fill(const struct store *s, store_obj o, uint64_t value)
{
	uint64_t *p = store_ptr(s, o);

	for (uint64_t at = 0; at + 8 <= store_bytes(s, o); at += 512)
		p[at / 8] = value;
}

static bool verify(const struct store *s, store_obj o, uint64_t value)
{
	const uint64_t *p = store_ptr(s, o);

	for (uint64_t at = 0; at + 8 <= store_bytes(s, o); at += 512) {
		if (p[at / 8] != value)
			return false;
	}
	return true;
}

static void write_prompt(struct worker *w, uint32_t prompt, uint32_t n)
{
	struct fix *f = &w->sh->f;
	struct store_hash h[PROMPT];
	store_obj o[PROMPT];

	keys(h, prompt * PROMPT, n);
	store_reserve(f->s, f->ns, h, n, bytes_of(prompt), node_of((int)rnd_below(&w->r, 2)), 0, o);
	for (uint32_t i = 0; i < n; i++) {
		if (o[i])
			fill(f->s, o[i], prompt * PROMPT + i);
	}
	if (rnd_below(&w->r, 16) == 0)
		store_disown(f->s, o, n / 2);
	if (rnd_below(&w->r, 16) == 0)
		store_abort(f->s, o, n);
	else
		store_commit(f->s, o, n, 0);
}

static void read_prompt(struct worker *w, uint32_t prompt, uint32_t n)
{
	struct fix *f = &w->sh->f;
	struct store_hash h[PROMPT];
	store_obj o[PROMPT];
	uint32_t got;

	keys(h, prompt * PROMPT, n);
	got = store_lock_prefix(f->s, &f->ns, 1, h, n, 1, bytes_of(prompt), 0, o);
	for (uint32_t i = 0; i < got; i++)
		w->sh->wrong += !verify(f->s, o[i], prompt * PROMPT + i);
	w->sh->read += got;
	store_unlock(f->s, o, NULL, got, 0);
	if (store_lock_all(f->s, f->ns, h, n, 0, 0, o, NULL) == 0)
		store_unlock(f->s, o, NULL, n, 0);
}

static void keep_house(struct worker *w)
{
	struct fix *f = &w->sh->f;
	struct store_quota quota[4];
	struct store_stats st;
	struct store_hash h = key(rnd_below(&w->r, PROMPTS * PROMPT));

	store_tick(f->s, 0);
	store_stats(f->s, &st);
	store_delete(f->s, f->ns, &h, rnd_below(&w->r, 2));
	store_quota_set(f->s, slice_str("t"), rnd_below(&w->r, 2) ? UINT64_MAX : 1000);
	store_quota_list(f->s, quota, 4);
	store_ns_put(f->s, store_ns_get(f->s, slice_str("m"), rnd_below(&w->r, 4), 0, slice_str("t"), NULL));
	if (rnd_below(&w->r, 200) == 0)
		store_clear(f->s);
	if (rnd_below(&w->r, 50) == 0)
		store_check(f->s);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (uint32_t i = 0; i < w->sh->rounds; i++) {
		uint32_t prompt = rnd_below(&w->r, PROMPTS), n = 1 + rnd_below(&w->r, PROMPT);
		struct store_hash h[PROMPT];
		switch (rnd_below(&w->r, 8)) {
		case 0:
			keep_house(w);
			break;
		case 1:
			keys(h, prompt * PROMPT, n);
			store_touch(w->sh->f.s, &w->sh->f.ns, 1, h, n, 0);
			store_peek_prefix(w->sh->f.s, &w->sh->f.ns, 1, h, n, 0);
			break;
		case 2:
		case 3:
		case 4:
			write_prompt(w, prompt, n);
			break;
		default:
			read_prompt(w, prompt, n);
		}
	}
	return NULL;
}

static void hammer(enum store_policy policy, uint32_t rounds)
{
	static struct worker w[THREADS];
	static struct shared sh;
	struct store_conf conf = fix_conf(fake_arena(2, 800 * UNIT, 100 * UNIT, 50 * UNIT));
	struct rnd r = rnd_start("threads");

	memset(&sh, 0, sizeof(sh));
	conf.policy = policy;
	conf.trigger_watermark = 0.9;
	conf.sample_rate = 0.5;
	fix_open(&sh.f, &conf);
	sh.rounds = rounds;
	for (uint32_t i = 0; i < THREADS; i++) {
		w[i].sh = &sh;
		w[i].r.state = mix64(r.state + i);
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
	assert_int_equal(sh.wrong, 0);
	assert_true(sh.read > rounds);
	assert_true(stats(&sh.f).evicted_objects > 0);
	assert_int_equal(stats(&sh.f).locked + stats(&sh.f).reserved + stats(&sh.f).detached, 0);
	printf("# %llu objects read\n", (unsigned long long)sh.read);
	fix_close(&sh.f);
}

static void test_1_hammer_lru(void **state)
{
	(void)state;
	hammer(STORE_LRU, 3000);
}

static void test_2_hammer_isolated(void **state)
{
	(void)state;
	hammer(STORE_ISOLATED_LRU, 3000);
}

struct clearer {
	struct fix *f;
	_Atomic bool go, done;
};

static void *clear_all(void *arg)
{
	struct clearer *c = arg;

	c->go = true;
	assert_int_equal(store_clear(c->f->s), 100000);
	c->done = true;
	return NULL;
}

/* While a large clear goes on nothing old is found, and others get their turn long before it ends. */
static void test_3_clear_lets_others_in(void **state)
{
	struct fix f;
	struct clearer c = {.f = &f};
	struct store_hash h[16];
	uint32_t turns = 0;
	pthread_t t;
	(void)state;

	fix_units(&f, 200000, STORE_LRU);
	for (uint64_t i = 0; i < 100; i++)
		put(&f, 1000 * i, 1000, UNIT);
	keys(h, 99000, 16);
	assert_int_equal(pthread_create(&t, NULL, clear_all, &c), 0);
	while (!c.go)
		;
	while (stats(&f).objects == 100000)
		; /* it has begun */
	while (!c.done) {
		assert_int_equal(store_peek_prefix(f.s, &f.ns, 1, h, 16, 0), 0);
		turns++;
	}
	pthread_join(t, NULL);
	assert_true(turns > 10);
	assert_int_equal(stats(&f).used_bytes, 0);
	fix_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_hammer_lru),
		cmocka_unit_test(test_2_hammer_isolated),
		cmocka_unit_test(test_3_clear_lets_others_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
