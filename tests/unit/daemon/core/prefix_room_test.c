/* The prefix cache when room, memory or time to itself is short. */
#include "tests/unit/daemon/core/prefix_fixture.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

/* Far more different chunks than the cache holds: it stays at its size, answers right, and goes on remembering. */
static void test_1_eviction(void **state)
{
	struct rnd rnd = rnd_start("eviction");
	struct chash h = hash_new(8);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *hot = prompt_new(), *cold = prompt_new();
	struct reader r;
	uint64_t capacity = stats(p).capacity;
	uint32_t known = 0;
	(void)state;

	assert_int_equal(capacity, 64);
	reader_open(&r, &h, p, MAX_TOKENS);
	prompt_grow(hot, &rnd, 8 * 8);
	for (uint32_t i = 0; i < 2000; i++) {
		known += ask(&r, hot, 0) == 8;
		prompt_cut(cold, 0);
		prompt_grow(cold, &rnd, 8 * (1 + rnd_below(&rnd, 3)));
		ask(&r, cold, 0);
	}
	assert_int_equal(stats(p).nodes, capacity);
	assert_true(stats(p).evicted > 2500);
	assert_true(known > 1900); /* what is used all the time stays */
	reader_close(&r);
	prefix_destroy(p);
	free(hot);
	free(cold);
}

/* One prompt longer than the cache: its head is kept, the rest is hashed each time. */
static void test_2_prompt_longer_than_the_cache(void **state)
{
	struct rnd rnd = rnd_start("long prompt");
	struct chash h = hash_new(8);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *q = prompt_new();
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	prompt_grow(q, &rnd, 8 * 1000);
	for (int i = 0; i < 5; i++)
		assert_in_range(ask(&r, q, 0), i ? 32 : 0, 64);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* A pin left behind would keep its node for ever. After any history the cache can be turned over whole. */
static void test_3_no_pin_is_left_behind(void **state)
{
	struct rnd rnd = rnd_start("pins");
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *q = prompt_new();
	struct reader r[3];
	uint32_t skipped;
	size_t bytes;
	(void)state;

	for (int i = 0; i < 3; i++)
		reader_open(&r[i], &h, p, MAX_TOKENS);
	for (int i = 0; i < 5000; i++) {
		struct reader *x = &r[rnd_below(&rnd, 3)];

		prompt_cut(q, 0);
		prompt_grow(q, &rnd, 4 * (1 + rnd_below(&rnd, 8)));
		ask(x, q, 0);
		if (rnd_below(&rnd, 2))
			prefix_probe(x->walk, q->raw, q->at[q->n], q->n);
		if (rnd_below(&rnd, 2)) /* and never finished */
			prefix_match(x->walk, q->raw, q->at[q->n], q->n, &skipped, &bytes);
		else
			prefix_abandon(x->walk);
	}
	for (int i = 0; i < 3; i++)
		prefix_abandon(r[i].walk);
	for (int i = 0; i < 10; i++) { /* one prompt of exactly the cache's size must fit, every time */
		prompt_cut(q, 0);
		prompt_grow(q, &rnd, 4 * 64);
		ask(&r[0], q, 0);
		assert_int_equal(ask(&r[0], q, 0), 64);
	}
	for (int i = 0; i < 3; i++)
		reader_close(&r[i]);
	prefix_destroy(p);
	free(q);
}

/* More readers than nodes hold everything pinned: nothing can be remembered then, and everything is still right. */
static void test_4_everything_pinned(void **state)
{
	struct rnd rnd = rnd_start("everything pinned");
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *q = prompt_new();
	struct reader r, holder[64];
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (int i = 0; i < 64; i++) {
		reader_open(&holder[i], &h, p, MAX_TOKENS);
		prompt_cut(q, 0);
		prompt_grow(q, &rnd, 4);
		ask(&holder[i], q, 0);
		assert_int_equal(prefix_probe(holder[i].walk, q->raw, q->at[q->n], q->n), q->at[q->n]);
	}
	for (int i = 0; i < 50; i++) {
		prompt_cut(q, 0);
		prompt_grow(q, &rnd, 4 * 20);
		assert_int_equal(ask(&r, q, 0), 0);
		assert_int_equal(ask(&r, q, 0), 0);
	}
	assert_int_equal(stats(p).evicted, 0);
	for (int i = 0; i < 64; i++) {
		prefix_abandon(holder[i].walk);
		reader_close(&holder[i]);
	}
	ask(&r, q, 0);
	assert_int_equal(ask(&r, q, 0), 20);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* A list longer than the walk was made for: whole chunks up to its room, no byte beyond. */
static void test_5_more_tokens_than_the_walk_has_room_for(void **state)
{
	struct rnd rnd = rnd_start("small walk");
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct prompt *q = prompt_new();
	struct reader big, small;
	struct wire_tokens t;
	uint32_t skipped;
	size_t bytes;
	(void)state;

	reader_open(&big, &h, p, MAX_TOKENS);
	reader_open(&small, &h, p, 40);
	prompt_grow(q, &rnd, 4 * 50);
	ask(&big, q, 0);
	prefix_match(small.walk, q->raw, q->at[q->n], q->n, &skipped, &bytes);
	assert_in_range(skipped / 4, 1, small.walk->max_chunks);
	t = decoded(&small, q, skipped);
	prefix_finish(small.walk, &t);
	assert_int_equal(small.walk->nchunks, small.walk->max_chunks);
	assert_memory_equal(small.walk->hashes, big.walk->hashes, small.walk->nchunks * sizeof(struct store_hash));
	reader_close(&big);
	reader_close(&small);
	prefix_destroy(p);
	free(q);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

struct hammer {
	const struct chash *hash;
	struct prefix *prefix;
	uint64_t seed;
	int wrong;
};

/* No cmocka in here: it is not thread-safe. */
static void *hammer(void *arg)
{
	struct hammer *m = arg;
	struct prompt *q = calloc(1, sizeof(*q));
	struct rnd rnd = {m->seed};
	struct reader r = {.hash = m->hash};

	r.ids = calloc(MAX_TOKENS, sizeof(*r.ids));
	r.marks = calloc(MAX_TOKENS + 1, sizeof(*r.marks));
	m->wrong = !q || !r.ids || !r.marks || prefix_walk_create(m->prefix, MAX_TOKENS, &r.walk);
	for (int i = 0; i < 1500 && !m->wrong; i++) {
		uint32_t skipped = 0, n = rnd_below(&rnd, 8 * 30);
		struct wire_tokens t;
		size_t bytes = 0;

		q->n = 0;
		for (uint32_t k = 0; k < n; k++) { /* all threads share long prefixes and part somewhere */
			q->ids[k] = k < n / 2 ? k % 5 : rnd_below(&rnd, 3) + 200;
			q->at[k + 1] = q->at[k] + put_token(q->raw + q->at[k], q->ids[k], 0);
		}
		q->n = n;
		if (rnd_below(&rnd, 4) == 0)
			prefix_probe(r.walk, q->raw, q->at[n], n);
		prefix_match(r.walk, q->raw, q->at[n], n, &skipped, &bytes);
		if (rnd_below(&rnd, 8) == 0) {
			prefix_abandon(r.walk);
			continue;
		}
		t = decoded(&r, q, skipped);
		prefix_finish(r.walk, &t);
		m->wrong = bytes != q->at[skipped] || !right(&r, q);
	}
	if (r.walk)
		prefix_walk_destroy(r.walk);
	free(r.ids);
	free(r.marks);
	free(q);
	return NULL;
}

static void test_6_four_threads(void **state)
{
	static const uint64_t budgets[] = {1, 40000, 8 << 20};
	struct rnd rnd = rnd_start("threads");
	(void)state;

	for (size_t b = 0; b < 3; b++) {
		struct chash h = hash_new(8);
		struct prefix *p = cache_new(&h, budgets[b]);
		struct hammer m[4];
		pthread_t t[4];

		for (int i = 0; i < 4; i++) {
			m[i] = (struct hammer){&h, p, mix64(rnd.state++), 0};
			assert_int_equal(pthread_create(&t[i], NULL, hammer, &m[i]), 0);
		}
		for (int i = 0; i < 4; i++) {
			pthread_join(t[i], NULL);
			assert_int_equal(m[i].wrong, 0);
		}
		stats(p);
		prefix_destroy(p);
	}
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

/* A sanitizer's shadow needs more than any limit leaves. */
static void no_address_space(const struct chash *h)
{
	struct rlimit old, few;
	struct prefix *p;
	struct why why;
	int err;

	if (UNDER_SANITIZER)
		return;
	getrlimit(RLIMIT_AS, &old);
	few = old;
	few.rlim_cur = 1ull << 30;
	assert_int_equal(setrlimit(RLIMIT_AS, &few), 0);
	err = prefix_create(h, 1ull << 34, &p, &why);
	setrlimit(RLIMIT_AS, &old);
	assert_int_equal(err, -ENOMEM);
	assert_non_null(strstr(why.text, "address space"));
}

static void test_7_out_of_memory(void **state)
{
	struct chash h = hash_new(256);
	struct prefix *p = NULL;
	struct prefix_walk *w = NULL;
	struct why why = {0};
	(void)state;

	mem_fail_at(1);
	assert_int_equal(prefix_create(&h, 1 << 20, &p, &why), -ENOMEM);
	assert_non_null(strstr(why.text, "memory"));
	assert_int_equal(prefix_create(&h, 1 << 20, &p, &why), 0);
	mem_fail_at(1);
	assert_int_equal(prefix_walk_create(p, 1000, &w), -ENOMEM);
	mem_fail_at(0);
	prefix_destroy(p);
	no_address_space(&h);
	prefix_destroy(NULL);
	prefix_walk_destroy(NULL);
}

static void test_8_no_allocation_after_create(void **state)
{
	struct chash h = hash_new(16);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *q = prompt_new();
	struct rnd rnd = rnd_start("no allocation");
	struct reader r;
	uint64_t before;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	before = mem_thread_allocs();
	for (int i = 0; i < 50; i++) {
		prompt_cut(q, rnd_below(&rnd, q->n + 1));
		prompt_grow(q, &rnd, 100);
		ask(&r, q, 0);
	}
	assert_int_equal(mem_thread_allocs(), before);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

static double seconds_of(struct reader *r, const struct prompt *q)
{
	struct timespec a, b;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	ask(r, q, 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* A prompt that enters a full cache costs about what it costs in one with room: what must go is found in bounded steps, though
 * every node was used since the hand last passed. */
static void test_9_a_full_cache_is_not_slow(void **state)
{
	enum { ROUNDS = 31, CHUNK = 16, CHUNKS = 500 };
	struct rnd rnd = rnd_start("full cache");
	struct chash h = hash_new(CHUNK);
	struct prefix *roomy = cache_new(&h, 64 << 20), *full = cache_new(&h, 8 << 20);
	struct prompt *q = prompt_new();
	double with_room[ROUNDS], without[ROUNDS];
	struct reader a, b;
	(void)state;

	reader_open(&a, &h, roomy, MAX_TOKENS);
	reader_open(&b, &h, full, MAX_TOKENS);
	while (stats(full).evicted == 0) {
		prompt_cut(q, 0);
		prompt_grow(q, &rnd, CHUNK * CHUNKS);
		ask(&b, q, 0);
		ask(&b, q, 0); /* used again */
	}
	for (int i = 0; i < ROUNDS; i++) {
		prompt_cut(q, 0);
		prompt_grow(q, &rnd, CHUNK * CHUNKS);
		with_room[i] = seconds_of(&a, q);
		without[i] = seconds_of(&b, q);
	}
	qsort(with_room, ROUNDS, sizeof(double), by_value);
	qsort(without, ROUNDS, sizeof(double), by_value);
	assert_true(stats(full).evicted >= (ROUNDS - 1) * CHUNKS);
	if (!UNDER_SANITIZER && without[ROUNDS / 2] > 5 * with_room[ROUNDS / 2])
		fail_msg("%.0f us in a full cache, %.0f us in one with room", without[ROUNDS / 2] * 1e6,
			 with_room[ROUNDS / 2] * 1e6);
	reader_close(&a);
	reader_close(&b);
	prefix_destroy(roomy);
	prefix_destroy(full);
	free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_eviction),
		cmocka_unit_test(test_2_prompt_longer_than_the_cache),
		cmocka_unit_test(test_3_no_pin_is_left_behind),
		cmocka_unit_test(test_4_everything_pinned),
		cmocka_unit_test(test_5_more_tokens_than_the_walk_has_room_for),
		cmocka_unit_test(test_6_four_threads),
		cmocka_unit_test(test_7_out_of_memory),
		cmocka_unit_test(test_8_no_allocation_after_create),
		cmocka_unit_test(test_9_a_full_cache_is_not_slow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
