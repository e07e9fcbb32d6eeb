#include "daemon/core/peer.h"

#include "tests/unit/daemon/core/fixture.h"

struct fix {
	struct peers *p;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	*state = f;
	return peers_create(&f->p);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	peers_destroy(f->p);
	free(f);
	return 0;
}

/* libzmq's identities: a zero byte and four that count. */
static struct peer *get(struct fix *f, uint32_t i)
{
	uint8_t id[5] = {0, (uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};

	return peers_get(f->p, slice_of(id, sizeof(id)));
}

static void test_1_one_peer_per_identity(void **state)
{
	struct fix *f = *state;
	struct peer *a = get(f, 1), *b = get(f, 2);

	assert_true(a && b && a != b);
	assert_ptr_equal(get(f, 1), a);
	assert_ptr_equal(get(f, 2), b);
	assert_int_equal(peers_count(f->p), 2);
	assert_int_not_equal(a->serial, 0);
	assert_int_not_equal(a->serial, b->serial);
	assert_false(a->bound);
	assert_int_equal(a->candidates, 0);
}

static void test_2_identities_of_any_bytes(void **state)
{
	struct fix *f = *state;
	uint8_t id[256] = {0};
	struct peer *seen[256];

	assert_null(peers_get(f->p, slice_of(id, 0)));
	assert_null(peers_get(f->p, slice_of(id, 256)));
	for (size_t n = 1; n <= 255; n++) { /* prefixes of each other, all zeros */
		seen[n] = peers_get(f->p, slice_of(id, n));
		assert_non_null(seen[n]);
	}
	assert_int_equal(peers_count(f->p), 255);
	for (size_t n = 1; n <= 255; n++)
		assert_ptr_equal(peers_get(f->p, slice_of(id, n)), seen[n]);
	id[254] = 1;
	assert_ptr_not_equal(peers_get(f->p, slice_of(id, 255)), seen[255]);
}

/* Nothing tells when a peer is gone, so the one unused longest gives way. */
static void test_3_bounded(void **state)
{
	struct fix *f = *state;
	struct peer *first = get(f, 0);
	uint64_t last = 0;

	for (uint32_t i = 1; i < 3 * PEERS_MAX; i++) {
		struct peer *x = get(f, i);

		assert_non_null(x);
		assert_true(x->serial > last); /* never used again, whatever memory it has */
		last = x->serial;
		if (i % 1000 == 0)
			assert_ptr_equal(get(f, 0), first); /* used, hence never the oldest */
	}
	assert_int_equal(peers_count(f->p), PEERS_MAX);
	assert_true(get(f, 3 * PEERS_MAX - 10000)->serial < last);
	assert_true(get(f, 5)->serial > last); /* a stranger by now */
}

static void test_4_who_has_requests_in_flight_stays(void **state)
{
	struct fix *f = *state;
	struct peer *busy[2] = {get(f, 0), get(f, 1)};

	busy[0]->pending[LANE_LOOKUP] = 1;
	busy[1]->pending[LANE_TRANSFER] = 1;
	for (uint32_t i = 2; i < 2 * PEERS_MAX; i++)
		assert_non_null(get(f, i));
	assert_ptr_equal(get(f, 0), busy[0]);
	assert_ptr_equal(get(f, 1), busy[1]);
	assert_int_equal(peers_count(f->p), PEERS_MAX);
}

static void test_5_everybody_busy(void **state)
{
	struct fix *f = *state;

	for (uint32_t i = 0; i < PEERS_MAX; i++)
		get(f, i)->pending[LANE_LOOKUP] = 1;
	assert_null(get(f, PEERS_MAX));
	assert_non_null(get(f, 7)); /* those who are known go on */
	get(f, 0)->pending[LANE_LOOKUP] = 0;
	get(f, 1)->pending[LANE_LOOKUP] = 0;
	for (uint32_t i = 2; i < PEERS_MAX; i++)
		get(f, i);
	assert_non_null(get(f, PEERS_MAX)); /* took the place of 0, the oldest idle one */
	assert_int_equal(peers_count(f->p), PEERS_MAX);
}

static void test_6_out_of_memory(void **state)
{
	struct fix *f = *state;
	struct peers *p;

	mem_fail_at(1);
	assert_int_equal(peers_create(&p), -ENOMEM);
	mem_fail_at(1);
	assert_null(get(f, 1));
	mem_fail_at(0);
	assert_int_equal(peers_count(f->p), 0);
	assert_non_null(get(f, 1));
	peers_destroy(NULL);
}

static void test_7_random_against_a_list(void **state)
{
	struct rnd r = rnd_start("random peers");
	struct fix *f = *state;
	struct peer *known[500] = {0};

	for (int i = 0; i < 20000; i++) {
		uint32_t k = rnd_below(&r, 500);
		struct peer *x = get(f, k * 7919);

		if (known[k])
			assert_ptr_equal(x, known[k]);
		known[k] = x;
	}
	assert_int_equal(peers_count(f->p), 500);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_1_one_peer_per_identity),
		T(test_2_identities_of_any_bytes),
		T(test_3_bounded),
		T(test_4_who_has_requests_in_flight_stays),
		T(test_5_everybody_busy),
		T(test_6_out_of_memory),
		T(test_7_random_against_a_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
