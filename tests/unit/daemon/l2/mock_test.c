/* mock_test.c - mock and fault_inject. */
#include "tests/unit/daemon/l2/l2_fixture.h"

#define MIB (1u << 20)

static const struct l2_env env;

static void stores_and_loads(void **state)
{
	(void)state;
	struct l2 *a = fx_make("{\"type\": \"mock\", \"max_size_gb\": 0.0625, \"mock_bandwidth_gb\": 100}", &env);
	assert_int_equal(fx_load(a, fx_key(1, 1), 1, MIB), -ENOENT);
	assert_int_equal(fx_store(a, fx_key(1, 1), 1, MIB + 5), 0);
	assert_int_equal(fx_store(a, fx_key(1, 1), 1, MIB + 5), -EEXIST);
	assert_int_equal(fx_store(a, fx_key(2, 1), 9, 100), 0); /* another name, another object */
	assert_int_equal(fx_find(a, fx_key(1, 1)), MIB + 5);
	assert_int_equal(fx_find(a, fx_key(2, 1)), 100);
	assert_int_equal(fx_find(a, fx_key(3, 1)), 0);
	assert_int_equal(fx_load(a, fx_key(1, 1), 1, MIB + 5), 0);
	assert_int_equal(fx_load(a, fx_key(1, 1), 1, MIB), -EMSGSIZE);
	assert_int_equal(fx_load(a, fx_key(2, 1), 9, 100), 0);
	assert_int_equal(fx_stats(a).used_bytes, MIB + 105);
	assert_int_equal(fx_plain(a, a->ops->remove, fx_key(2, 1)), 0);
	assert_int_equal(fx_plain(a, a->ops->remove, fx_key(2, 1)), -ENOENT);
	assert_int_equal(fx_plain(a, a->ops->flush, fx_key(0, 0)), 0);
	assert_int_equal(fx_plain(a, a->ops->clear, fx_key(0, 0)), 0);
	struct l2_stats n = fx_stats(a);
	assert_int_equal(n.objects + n.used_bytes + n.queued, 0);
	assert_int_equal(n.loads, 2);
	assert_int_equal(n.load_misses, 1);
	assert_int_equal(n.present, 1);
	assert_string_equal(n.state, "ok");
	a->ops->close(a, 1000);
}

static void least_recently_used_goes(void **state)
{
	(void)state;
	struct l2 *a = fx_make("{\"type\": \"mock\", \"max_size_gb\": 0.0078125, \"mock_bandwidth_gb\": 100}",
			       &env); /* 8 MiB */
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(fx_store(a, fx_key(1, i), i, MIB), 0);
	assert_int_equal(fx_load(a, fx_key(1, 0), 0, MIB), 0);
	assert_int_equal(fx_store(a, fx_key(1, 8), 8, MIB), 0);
	assert_int_equal(fx_find(a, fx_key(1, 0)), MIB);
	assert_int_equal(fx_find(a, fx_key(1, 1)), 0);
	assert_int_equal(fx_store(a, fx_key(1, 9), 9, 8 * MIB), 0);
	assert_int_equal(fx_stats(a).objects, 1);
	assert_int_equal(fx_stats(a).used_bytes, 8 * MIB);
	assert_int_equal(fx_stats(a).evicted_objects, 9);
	a->ops->close(a, 1000);
	/* By watermark: at 0.75 of 8 MiB a third of what is used goes. */
	a = fx_make("{\"type\": \"mock\", \"max_size_gb\": 0.0078125, \"mock_bandwidth_gb\": 100, "
		    "\"eviction\": {\"trigger_watermark\": 0.75, \"eviction_ratio\": 0.34}}",
		    &env);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(fx_store(a, fx_key(1, i), i, MIB), 0);
	assert_int_equal(fx_stats(a).objects, 3);
	a->ops->close(a, 1000);
	a = fx_make("{\"type\": \"mock\", \"max_size_gb\": 0.0078125, \"mock_bandwidth_gb\": 100, "
		    "\"eviction\": {\"eviction_policy\": \"noop\"}}",
		    &env);
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(fx_store(a, fx_key(1, i), i, MIB), 0);
	assert_int_equal(fx_store(a, fx_key(1, 8), 8, MIB), -ENOSPC);
	assert_int_equal(fx_stats(a).dropped, 1);
	a->ops->close(a, 1000);
}

static void as_slow_as_told(void **state)
{
	(void)state;
	struct l2 *a =
		fx_make("{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 0.0625}", &env); /* 64 MiB/s */
	struct fx_io *x[8];
	uint64_t start = clock_ns();
	for (uint64_t i = 0; i < 8; i++) {
		x[i] = fx_new(MIB);
		fx_start_store(a, x[i], fx_key(1, i), i);
	}
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(fx_result(x[i]), 0);
		assert_true(x[i]->done_ns - start >= (i + 1) * 15600000);
		fx_free(x[i]);
	}
	assert_true(clock_ns() - start >= 125000000);
	/* Not the time of the line: close does not wait for all of it. */
	for (uint64_t i = 0; i < 8; i++) {
		x[i] = fx_new(FX_MAX_BYTES);
		fx_start_store(a, x[i], fx_key(1, 100 + i), i);
	}
	start = clock_ns();
	a->ops->close(a, 50);
	assert_true(clock_ns() - start < 900000000);
	for (uint64_t i = 0; i < 8; i++) {
		assert_true(x[i]->is_done);
		fx_free(x[i]);
	}
}

static void lists_all(void **state)
{
	(void)state;
	struct l2 *a = fx_make("{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 100}", &env);
	struct l2_list_entry e[3];
	uint64_t cursor = 0, told = 0;
	for (uint64_t i = 0; i < 10; i++)
		assert_int_equal(fx_store(a, fx_key(1, i), i, 10 + i), 0);
	do {
		uint32_t n = a->ops->list(a, &cursor, e, 3);
		for (uint32_t k = 0; k < n; k++, told++)
			assert_int_equal(e[k].bytes, 10 + told);
	} while (cursor);
	assert_int_equal(told, 10);
	a->ops->close(a, 1000);
}

/* ---- fault_inject --------------------------------------------------------------------------------------------------------- */

#define MOCK "{\"type\": \"mock\", \"max_size_gb\": 1, \"mock_bandwidth_gb\": 100}"

/* How 200 loads of one object go: one character each. */
static void pattern(const char *json, char *out)
{
	struct l2 *a = fx_make(json, &env);
	assert_true(a->ops->local);
	assert_int_equal(fx_store(a, fx_key(1, 1), 1, 100000), 0);
	for (int i = 0; i < 200; i++) {
		int rc = fx_load(a, fx_key(1, 1), 1, 100000);
		out[i] = rc == 0 ? '.' : rc == -EIO ? 'e' : rc == -EILSEQ ? 'c' : '?';
	}
	out[200] = 0;
	a->ops->close(a, 1000);
}

static uint32_t count(const char *s, char c)
{
	uint32_t n = 0;
	for (; *s; s++)
		n += *s == c;
	return n;
}

static void faults_by_seed(void **state)
{
	(void)state;
	char one[201], again[201], other[201];
	pattern("{\"type\": \"fault_inject\", \"adapter\": " MOCK
		", \"seed\": 7, \"load_error\": 0.2, \"corrupt\": 0.2}",
		one);
	pattern("{\"type\": \"fault_inject\", \"adapter\": " MOCK
		", \"seed\": 7, \"load_error\": 0.2, \"corrupt\": 0.2}",
		again);
	pattern("{\"type\": \"fault_inject\", \"adapter\": " MOCK
		", \"seed\": 8, \"load_error\": 0.2, \"corrupt\": 0.2}",
		other);
	assert_string_equal(one, again);
	assert_string_not_equal(one, other);
	assert_int_equal(count(one, '?'), 0);
	assert_in_range(count(one, 'e'), 20, 60);
	assert_in_range(count(one, 'c'), 15, 55);
}

static void stores_fail(void **state)
{
	(void)state;
	struct l2 *a = fx_make("{\"type\": \"fault_inject\", \"adapter\": " MOCK ", \"store_error\": 1}", &env);
	assert_int_equal(fx_store(a, fx_key(1, 1), 1, 1000), -EIO);
	assert_int_equal(fx_find(a, fx_key(1, 1)), 0);
	json_t *d = a->ops->describe(a);
	assert_int_equal(json_integer_value(json_object_get(d, "errors")), 1);
	assert_string_equal(json_string_value(json_object_get(json_object_get(d, "adapter"), "backend")), "memory");
	json_decref(d);
	a->ops->close(a, 1000);
}

static void late_and_never(void **state)
{
	(void)state;
	struct l2 *a = fx_make(
		"{\"type\": \"fault_inject\", \"adapter\": " MOCK ", \"latency\": 1, \"latency_ms\": 60}", &env);
	uint64_t start = clock_ns();
	assert_int_equal(fx_store(a, fx_key(1, 1), 1, 1000), 0);
	assert_true(clock_ns() - start >= 60000000);
	a->ops->close(a, 1000);
	a = fx_make("{\"type\": \"fault_inject\", \"adapter\": " MOCK ", \"hang\": 1}", &env);
	struct fx_io *x = fx_new(1000);
	fx_start_store(a, x, fx_key(1, 1), 1);
	assert_false(fx_wait(x, 100));
	start = clock_ns();
	a->ops->close(a, 50);
	assert_true(clock_ns() - start < 900000000);
	assert_true(x->is_done);
	assert_int_equal(x->io.result, -ECANCELED);
	fx_free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stores_and_loads), cmocka_unit_test(least_recently_used_goes),
		cmocka_unit_test(as_slow_as_told),  cmocka_unit_test(lists_all),
		cmocka_unit_test(faults_by_seed),   cmocka_unit_test(stores_fail),
		cmocka_unit_test(late_and_never),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
