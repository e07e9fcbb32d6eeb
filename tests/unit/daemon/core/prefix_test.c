/* The prefix cache with room for everything. */
#include "tests/unit/daemon/core/prefix_fixture.h"

static void test_01_known_after_the_first_time(void **state)
{
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct prompt *q = prompt_new();
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (uint32_t i = 0; i < 10; i++)
		prompt_add(q, 1000 + i, 0);
	assert_int_equal(ask(&r, q, 0), 0);
	assert_int_equal(stats(p).nodes, 2);
	assert_int_equal(stats(p).hashed_chunks, 2);
	assert_int_equal(ask(&r, q, 0), 2);
	assert_int_equal(stats(p).nodes, 2);
	assert_int_equal(stats(p).reused_chunks, 2);
	assert_int_equal(stats(p).hashed_chunks, 2);
	prompt_cut(q, 7); /* less of it */
	assert_int_equal(ask(&r, q, 0), 1);
	prompt_cut(q, 3);
	assert_int_equal(ask(&r, q, 0), 0);
	prompt_cut(q, 0);
	assert_int_equal(ask(&r, q, 0), 0);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* The bytes behind the tokens, which belong to the message's next fields, must never be taken for tokens. */
static void test_02_bytes_behind_the_list_are_not_tokens(void **state)
{
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct prompt *q = prompt_new();
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (uint32_t i = 0; i < 16; i++)
		prompt_add(q, i, 0);
	assert_int_equal(ask(&r, q, 0), 0);
	prompt_cut(q, 6);
	assert_int_equal(ask(&r, q, 10), 1); /* tokens 6 to 15 follow as bytes, but the list says six */
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* A chunked prefill sends a longer prompt each time: each chunk is hashed once in all. */
static void test_03_growing_prompt_is_hashed_once(void **state)
{
	struct chash h = hash_new(256);
	struct prefix *p = cache_new(&h, 64 << 20);
	struct prompt *q = prompt_new();
	struct rnd rnd = rnd_start("growing prompt");
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	while (q->n + 900 < MAX_TOKENS) {
		uint32_t before = q->n / 256;

		prompt_grow(q, &rnd, rnd_below(&rnd, 900));
		assert_int_equal(ask(&r, q, 0), before);
	}
	assert_int_equal(stats(p).hashed_chunks, q->n / 256);
	assert_int_equal(stats(p).nodes, q->n / 256);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* Conversations that share a system prompt: it is stored and hashed once. */
static void test_04_shared_system_prompt(void **state)
{
	struct chash h = hash_new(64);
	struct prefix *p = cache_new(&h, 64 << 20);
	struct prompt *q = prompt_new();
	struct rnd rnd = rnd_start("system prompt");
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	prompt_grow(q, &rnd, 64 * 10);
	for (uint32_t i = 0; i < 300; i++) {
		prompt_cut(q, 64 * 10);
		prompt_grow(q, &rnd, 64 * 3);
		assert_int_equal(ask(&r, q, 0), i ? 10 : 0);
	}
	assert_int_equal(stats(p).nodes, 10 + 300 * 3);
	assert_int_equal(stats(p).hashed_chunks, 10 + 300 * 3);
	assert_int_equal(stats(p).evicted, 0);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* Another writer may use longer forms for the same numbers: other bytes, the same hashes. */
static void test_05_widths_of_equal_tokens(void **state)
{
	static const uint32_t widths[] = {0, 2, 3, 5, 0};
	struct chash h = hash_new(8);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (size_t w = 0; w < 5; w++) {
		struct prompt *q = prompt_new();

		for (uint32_t i = 0; i < 80; i++)
			prompt_add(q, i * 3, widths[w]);
		assert_int_equal(ask(&r, q, 0), w == 4 ? 10 : 0);
		free(q);
	}
	assert_int_equal(stats(p).nodes, 40);
	reader_close(&r);
	prefix_destroy(p);
}

/* Any sequence of the four calls leaves the cache usable and the next answer right. */
static void test_06_probe_match_finish_abandon(void **state)
{
	struct chash h = hash_new(16);
	struct prefix *p = cache_new(&h, 1);
	struct prompt *q[2] = {prompt_new(), prompt_new()};
	struct rnd rnd = rnd_start("sequences");
	struct reader r;
	uint32_t skipped;
	size_t bytes;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	prompt_grow(q[0], &rnd, 300);
	prompt_grow(q[1], &rnd, 500);
	prefix_abandon(r.walk); /* nothing was begun */
	for (int i = 0; i < 20000; i++) {
		const struct prompt *x = q[rnd_below(&rnd, 2)];
		size_t known;

		switch (rnd_below(&rnd, 6)) {
		case 0:
			prefix_probe(r.walk, x->raw, x->at[x->n], x->n);
			break;
		case 1:
			prefix_match(r.walk, x->raw, x->at[x->n], x->n, &skipped, &bytes);
			break;
		case 2:
			prefix_abandon(r.walk);
			break;
		case 3: /* the probe's walk is what the match then says */
			known = prefix_probe(r.walk, x->raw, x->at[x->n], x->n);
			prefix_match(r.walk, x->raw, x->at[x->n], x->n, &skipped, &bytes);
			assert_int_equal(bytes, known);
			break;
		case 4: { /* a decoder that did not take the offer */
			struct wire_tokens t = decoded(&r, x, 0);
			prefix_match(r.walk, x->raw, x->at[x->n], x->n, &skipped, &bytes);
			prefix_finish(r.walk, &t);
			assert_true(right(&r, x));
			break;
		}
		default:
			ask(&r, x, 0);
		}
		if (i % 500 == 0) {
			uint32_t cut = rnd_below(&rnd, x->n);

			prefix_abandon(r.walk); /* what was probed is about to change */
			prompt_cut(q[x == q[1]], cut);
			prompt_grow(q[x == q[1]], &rnd, 600 - cut);
		}
	}
	stats(p);
	reader_close(&r);
	prefix_destroy(p);
	free(q[0]);
	free(q[1]);
}

/* The same address with other bytes, as when libzmq reuses a message's memory: a probe must not vouch for what came later. */
static void test_07_reused_message_memory(void **state)
{
	struct chash h = hash_new(4);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct prompt *q = prompt_new();
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (uint32_t i = 0; i < 16; i++)
		prompt_add(q, i, 0);
	ask(&r, q, 0);
	assert_int_equal(prefix_probe(r.walk, q->raw, q->at[q->n], q->n), 16);
	prefix_abandon(r.walk); /* the request went to a worker */
	prompt_cut(q, 0);
	for (uint32_t i = 0; i < 16; i++)
		prompt_add(q, 100 - i, 0);
	assert_int_equal(ask(&r, q, 0), 0);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* Random prompts over a small alphabet, grown, cut, diverging, with a cache of any size, against direct hashing (in ask). */
static void random_requests(uint32_t chunk, uint64_t budget, uint32_t alphabet, int rounds, struct rnd *rnd)
{
	struct chash h = hash_new(chunk);
	struct prefix *p = cache_new(&h, budget);
	struct prompt *q[8];
	struct reader r;

	reader_open(&r, &h, p, MAX_TOKENS);
	for (int i = 0; i < 8; i++)
		q[i] = prompt_new();
	for (int i = 0; i < rounds; i++) {
		struct prompt *x = q[rnd_below(rnd, 8)];
		uint32_t keep = rnd_below(rnd, x->n + 1), add = rnd_below(rnd, 6 * chunk + 2);

		if (rnd_below(rnd, 3) == 0)
			prompt_cut(x, keep);
		if (rnd_below(rnd, 16) == 0)
			memcpy(x, q[rnd_below(rnd, 8)], sizeof(*x));
		for (uint32_t k = 0; k < add && x->n < 60 * chunk && x->n < MAX_TOKENS; k++)
			prompt_add(x, alphabet ? rnd_below(rnd, alphabet) : some_id(rnd), rnd_below(rnd, 9) ? 0 : 5);
		if (x->n >= 60 * chunk)
			prompt_cut(x, rnd_below(rnd, x->n));
		ask(&r, x, rnd_below(rnd, 3));
		stats(p);
	}
	reader_close(&r);
	prefix_destroy(p);
	for (int i = 0; i < 8; i++)
		free(q[i]);
}

static void test_08_random_requests(void **state)
{
	static const uint32_t chunks[] = {1, 2, 3, 7, 16, 63, 64, 65, 256};
	struct rnd rnd = rnd_start("random requests");
	(void)state;

	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		random_requests(chunks[i], 8 << 20, 2, 300, &rnd);
		random_requests(chunks[i], 8 << 20, 0, 300, &rnd);
		random_requests(chunks[i], 1, 2, 600, &rnd); /* the smallest cache there is: 64 chunks */
		random_requests(chunks[i], 1, 0, 600, &rnd);
	}
}

static void test_09_the_largest_chunk(void **state)
{
	struct rnd rnd = rnd_start("large chunk");
	struct chash h = hash_new(8192);
	struct prefix *p = cache_new(&h, 1 << 20);
	struct prompt *q = prompt_new();
	struct reader r;
	(void)state;

	reader_open(&r, &h, p, MAX_TOKENS);
	while (q->n < MAX_TOKENS)
		prompt_add(q, some_id(&rnd), 5); /* as many bytes as a chunk can take */
	assert_int_equal(ask(&r, q, 0), 0);
	assert_int_equal(ask(&r, q, 0), 2);
	reader_close(&r);
	prefix_destroy(p);
	free(q);
}

/* Conversations that begin alike (a chat template) and part within their first chunk, or the second: however many there are,
 * each is found whole again, in any order. */
static void test_10_many_conversations_of_one_template(void **state)
{
	enum { CONVERSATIONS = 3000, TEMPLATE = 48, CHUNK = 64 };
	struct rnd rnd = rnd_start("one template");
	struct chash h = hash_new(CHUNK);

	(void)state;
	for (uint32_t shared = TEMPLATE; shared <= CHUNK + TEMPLATE; shared += CHUNK) {
		struct prefix *p = cache_new(&h, 64 << 20);
		struct prompt *q = prompt_new();
		struct reader r;
		uint32_t known = 0;

		reader_open(&r, &h, p, MAX_TOKENS);
		for (uint32_t turn = 0; turn < 2; turn++) {
			for (uint32_t i = 0; i < CONVERSATIONS; i++) {
				uint32_t who = turn ? rnd_below(&rnd, CONVERSATIONS) : i;

				prompt_cut(q, 0);
				for (uint32_t k = 0; k < 3 * CHUNK; k++)
					prompt_add(q, k < shared ? k : k == shared ? 100000 + who : k % 7, 0);
				known += ask(&r, q, 0) == 3 && turn;
			}
		}
		/* a bucket may hold a few others before the one wanted: MAX_TRIES bounds the walk, rarely at a cost */
		assert_true(known >= CONVERSATIONS * 995 / 1000);
		reader_close(&r);
		prefix_destroy(p);
		free(q);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_known_after_the_first_time),
		cmocka_unit_test(test_02_bytes_behind_the_list_are_not_tokens),
		cmocka_unit_test(test_03_growing_prompt_is_hashed_once),
		cmocka_unit_test(test_04_shared_system_prompt),
		cmocka_unit_test(test_05_widths_of_equal_tokens),
		cmocka_unit_test(test_06_probe_match_finish_abandon),
		cmocka_unit_test(test_07_reused_message_memory),
		cmocka_unit_test(test_08_random_requests),
		cmocka_unit_test(test_09_the_largest_chunk),
		cmocka_unit_test(test_10_many_conversations_of_one_template),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
