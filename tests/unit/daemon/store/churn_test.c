/* churn_test.c - how much of the arena stays usable under slots of mixed sizes, and that age order does not pay for it.
 * tools/bench/index_bench.c runs the same for longer.
 */
#include "tests/unit/daemon/store/fixture.h"

#include <math.h>

static uint64_t chunk_size(struct rnd *r, bool real)
{
	static const uint32_t kib[] = {512, 1024, 2048, 4608, 8192, 9216, 16384, 18432, 20480, 32768, 36864};

	if (real)
		return (uint64_t)kib[rnd_below(r, 11)] << 10;
	return (uint64_t)(UNIT * exp((double)rnd_below(r, 1u << 30) * 0x1p-30 * log(9216)));
}

static void idle_sum(void *ctx, double lifetime_s, double idle_s)
{
	uint32_t *buckets = ctx; /* of 100 operations */

	(void)lifetime_s;
	buckets[idle_s * 10 < 999 ? (int)(idle_s * 10) : 999]++;
}

/* The age at eviction, in operations, below which a share of the victims lies. */
static uint32_t percentile(const uint32_t *buckets, double share)
{
	uint64_t n = 0, all = 0;

	for (int i = 0; i < 1000; i++)
		all += buckets[i];
	for (uint32_t i = 0; i < 1000; i++) {
		n += buckets[i];
		if ((double)n > share * (double)all)
			return 100 * i;
	}
	return 100000;
}

static void churn(bool real, uint32_t touches)
{
	static uint32_t ages[1000];
	struct rnd r = rnd_start(real ? "churn, real sizes" : "churn, any size");
	struct store_conf conf = fix_conf(fake_arena_full((uint64_t)8 << 30));
	struct store_stats st, before;
	struct fix f;
	uint64_t ops = 60000, evictions = 0;
	double sum = 0, least = 1;

	memset(ages, 0, sizeof(ages));
	conf.sample_rate = 0.5;
	conf.observer = (struct store_observer){ages, idle_sum, NULL};
	fix_open(&f, &conf);
	for (uint64_t i = 0; i < ops; i++) {
		struct store_hash h = key(i);
		store_obj o;
		before = stats(&f);
		assert_int_equal(store_reserve(f.s, f.ns, &h, 1, chunk_size(&r, real), NODE_UNKNOWN, i, &o).reserved,
				 1);
		store_commit(f.s, &o, 1, i);
		st = stats(&f);
		if (i > ops / 2 && st.evicted_objects != before.evicted_objects) {
			double share = (double)before.used_bytes / (double)before.total_bytes;
			sum += share;
			evictions++;
			least = share < least ? share : least;
		}
		if (rnd_below(&r, 100) < touches) {
			h = key(i - rnd_below(&r, i < 2000 ? (uint32_t)i + 1 : 2000));
			store_touch(f.s, &f.ns, 1, &h, 1, i);
		}
	}
	printf("# usable %.3f on average, %.3f at least; victims' idle operations 1 %%: %u, half: %u\n",
	       sum / (double)evictions, least, percentile(ages, 0.01), percentile(ages, 0.5));
	assert_true(sum / (double)evictions >= 0.93 && least >= 0.90);
	/* LRU in spite of it: hardly anything young goes */
	assert_true(percentile(ages, 0.01) * (touches ? 4 : 2) >= percentile(ages, 0.5));
	fix_close(&f);
}

static void test_1_churn_of_real_sizes(void **state)
{
	(void)state;
	churn(true, 0);
}

static void test_2_churn_of_any_size(void **state)
{
	(void)state;
	churn(false, 0);
}

static void test_3_churn_with_reuse(void **state)
{
	(void)state;
	churn(true, 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_churn_of_real_sizes),
		cmocka_unit_test(test_2_churn_of_any_size),
		cmocka_unit_test(test_3_churn_with_reuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
