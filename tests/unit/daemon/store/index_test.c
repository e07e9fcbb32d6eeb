#include "tests/unit/daemon/store/fixture.h"

#include "daemon/store/index_int.h"

#define KEYS 20000u

static uint32_t insert(struct index *ix, store_ns ns, uint64_t i)
{
	struct store_hash h = key(i);
	uint32_t id = index_take(ix);

	assert_int_not_equal(id, 0);
	memcpy(ix->o[id].hash, h.b, sizeof(h.b));
	ix->o[id].ns = (uint16_t)(ns - 1);
	ix->o[id].flags |= OBJ_KEYED;
	ix->o[id].seq = 1;
	index_insert(ix, id, index_mix(ix, ns, &h));
	return id;
}

static void drop(struct index *ix, uint32_t id)
{
	index_remove(ix, id);
	index_put(ix, id);
}

static uint32_t find(const struct index *ix, store_ns ns, uint64_t i)
{
	struct store_hash h = key(i);
	struct index_key k = {&h, ns};

	return index_find(ix, &k, index_mix(ix, ns, &h));
}

static void test_1_finds_what_is_there_and_no_more(void **state)
{
	struct index ix;
	uint32_t a, b;
	(void)state;

	assert_int_equal(index_create(&ix, 10), 0);
	a = insert(&ix, 1, 7);
	b = insert(&ix, 65536, 7);
	assert_int_equal(find(&ix, 1, 7), a);
	assert_int_equal(find(&ix, 65536, 7), b);
	assert_int_equal(find(&ix, 2, 7), 0);
	assert_int_equal(find(&ix, 1, 8), 0);
	assert_int_equal(find(&ix, 0, 7), 0);
	ix.dead_seq = 1;
	assert_int_equal(find(&ix, 1, 7), 0);
	index_check(&ix);
	index_destroy(&ix);
}

static void test_2_records_run_out_and_come_back(void **state)
{
	struct index ix;
	(void)state;

	assert_int_equal(index_create(&ix, 3), 0);
	for (uint64_t i = 0; i < 3; i++)
		insert(&ix, 1, i);
	assert_int_equal(index_take(&ix), 0);
	drop(&ix, find(&ix, 1, 1));
	assert_int_not_equal(insert(&ix, 1, 9), 0);
	assert_int_equal(index_take(&ix), 0);
	index_check(&ix);
	index_destroy(&ix);
}

/* One bucket more or less per key: between half a bucket and two per key at every size. */
static void test_3_grows_and_shrinks_with_its_keys(void **state)
{
	struct index ix;
	(void)state;

	assert_int_equal(index_create(&ix, KEYS), 0);
	for (uint32_t i = 0; i < KEYS; i++) {
		insert(&ix, 1, i);
		assert_in_range(ix.nbuckets, i + 1 < 64 ? 64 : i + 1, i + 1 < 64 ? 64 : i + 1);
		if (i % 1000 == 0)
			index_check(&ix);
	}
	for (uint32_t i = 0; i < KEYS; i++)
		assert_int_not_equal(find(&ix, 1, i), 0);
	for (uint32_t i = 0; i < KEYS; i++) {
		drop(&ix, find(&ix, 1, i));
		assert_true(ix.nbuckets <= 64 || ix.nbuckets <= 2 * ix.count + 3);
		if (i % 1000 == 0)
			index_check(&ix);
	}
	assert_int_equal(ix.count, 0);
	assert_int_equal(ix.nbuckets, 64);
	index_check(&ix);
	index_destroy(&ix);
}

/* Hashes made to share all the low bits anybody could guess the bucket from still spread over the buckets. */
static void test_4_nobody_can_aim_at_a_bucket(void **state)
{
	struct index ix, other;
	uint32_t longest = 0, same = 0;
	struct store_hash h = {{0}};
	(void)state;

	assert_int_equal(index_create(&ix, 4096), 0);
	assert_int_equal(index_create(&other, 4096), 0);
	for (uint32_t i = 0; i < 4096; i++) {
		uint32_t id = index_take(&ix);
		memcpy(h.b + 5, &i, sizeof(i));
		memcpy(ix.o[id].hash, h.b, sizeof(h.b));
		ix.o[id].flags |= OBJ_KEYED;
		index_insert(&ix, id, index_mix(&ix, 1, &h));
		same += (index_mix(&ix, 1, &h) & 4095) == (index_mix(&other, 1, &h) & 4095);
	}
	for (uint32_t b = 0; b < ix.nbuckets; b++) {
		uint32_t n = 0;
		for (uint32_t id = ix.bucket[b]; id; id = ix.o[id].chain)
			n++;
		longest = n > longest ? n : longest;
	}
	assert_in_range(longest, 2, 16);
	assert_in_range(same, 0, 20); /* 1 expected by chance */
	index_destroy(&ix);
	index_destroy(&other);
}

/* Groups find the same as single searches: present and absent keys, several ranks, runs up and down, scattered ids. */
static void check_groups(const struct index *ix, struct rnd *r)
{
	static struct store_hash h[1000];
	static struct index_key k[1000];
	static uint32_t out[1000];
	uint32_t lag = 1 + rnd_below(r, 4), n = 1 + rnd_below(r, 999), base = rnd_below(r, KEYS), at, step;
	int dir = rnd_below(r, 2) ? 1 : -1;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t pos = i / lag;
		h[i] = key(base + (dir > 0 ? pos : n - pos));
		k[i] = (struct index_key){&h[i], rnd_below(r, 40) ? 1 + i % lag : 0};
	}
	for (at = 0; at < n; at += step) {
		step = 1 + rnd_below(r, INDEX_GROUP);
		step = step < n - at ? step : n - at;
		index_find_group(ix, k + at, step, lag, at, out + at);
	}
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(out[i], index_find(ix, &k[i], index_mix(ix, k[i].ns, k[i].hash)));
}

static void test_5_groups_agree_with_single_searches(void **state)
{
	struct rnd r = rnd_start("index groups");
	struct index ix;
	(void)state;

	assert_int_equal(index_create(&ix, 4 * KEYS), 0);
	for (store_ns ns = 1; ns <= 3; ns++) {
		for (uint32_t i = 0; i < KEYS; i++)
			insert(&ix, ns, ns == 2 ? KEYS - 1 - i : i);
	}
	for (int i = 0; i < 300; i++)
		check_groups(&ix, &r);
	/* Holes, and other keys in the records of the holes: what a stale neighbour must not be taken for. */
	for (uint32_t i = 0; i < KEYS; i++) {
		uint32_t id = find(&ix, 1 + i % 3, i);
		if (rnd_below(&r, 3))
			continue;
		index_remove(&ix, id);
		ix.o[id].flags &= ~(uint64_t)OBJ_KEYED;
		if (rnd_below(&r, 2))
			index_put(&ix, id);
	}
	index_check(&ix);
	for (uint32_t i = 0; i < 2000; i++)
		insert(&ix, 4, rnd_below(&r, 1u << 30));
	for (int i = 0; i < 1000; i++)
		check_groups(&ix, &r);
	index_destroy(&ix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_finds_what_is_there_and_no_more),
		cmocka_unit_test(test_2_records_run_out_and_come_back),
		cmocka_unit_test(test_3_grows_and_shrinks_with_its_keys),
		cmocka_unit_test(test_4_nobody_can_aim_at_a_bucket),
		cmocka_unit_test(test_5_groups_agree_with_single_searches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
