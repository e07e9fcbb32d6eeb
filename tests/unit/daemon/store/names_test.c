#include "tests/unit/daemon/store/fixture.h"

#include "daemon/base/mem.h"
#include "daemon/store/names_int.h"

#include <errno.h>

static uint32_t get_as(struct names *t, uint8_t layout)
{
	uint8_t digest[STORE_LAYOUT_BYTES] = {0};
	uint32_t ns;

	digest[STORE_LAYOUT_BYTES - 1] = layout;
	ns = names_ns(t, slice_str("m"), 1, 0, slice_str("s"), digest, true);
	if (ns)
		t->ns[ns].refs++;
	return ns;
}

static uint32_t get(struct names *t, const char *model, uint32_t rank, uint32_t group, const char *salt)
{
	uint32_t ns = names_ns(t, slice_str(model), rank, group, slice_str(salt), NULL, true);

	if (ns)
		t->ns[ns].refs++;
	return ns;
}

static void put_ns(struct names *t, uint32_t ns)
{
	t->ns[ns].refs--;
	names_ns_release(t, ns);
}

static void test_1_every_part_of_the_name_counts(void **state)
{
	struct names t;
	uint32_t a, b, c, d, e;
	(void)state;

	assert_int_equal(names_create(&t), 0);
	a = get(&t, "m", 1, 0, "");
	b = get(&t, "m", 2, 0, "");
	c = get(&t, "m", 1, 1, "");
	d = get(&t, "m", 1, 0, "s");
	e = get(&t, "n", 1, 0, "");
	assert_true(a && b && c && d && e);
	assert_true(a != b && a != c && a != d && a != e && b != c && d != e);
	assert_int_equal(get(&t, "m", 1, 0, ""), a);
	assert_int_equal(t.ns[a].salt, t.ns[b].salt);
	assert_int_not_equal(t.ns[a].salt, t.ns[d].salt);
	names_check(&t);
	names_destroy(&t);
}

/* Bytes of another layout are another object, of the same tenant. */
static void test_8_the_layout_counts(void **state)
{
	struct names t;
	uint32_t id[100], other, at = 0;
	(void)state;

	assert_int_equal(names_create(&t), 0);
	other = get(&t, "m", 2, 0, "s");
	for (uint32_t i = 0; i < 100; i++)
		id[i] = get_as(&t, (uint8_t)i);
	assert_int_equal(get(&t, "m", 1, 0, "s"), id[0]); /* no layout is one of zeros */
	put_ns(&t, id[0]);
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(get_as(&t, (uint8_t)i), id[i]);
		put_ns(&t, id[i]);
		assert_true(i == 0 || id[i] != id[i - 1]);
		assert_int_equal(t.ns[id[i]].salt, t.ns[other].salt);
		at = names_next(&t, slice_str("m"), 1, 0, slice_str("s"), at);
		assert_int_equal(at, id[i]);
	}
	assert_int_equal(names_next(&t, slice_str("m"), 1, 0, slice_str("s"), at), 0);
	assert_int_equal(names_next(&t, slice_str("m"), 1, 0, slice_str("t"), 0), 0);
	assert_int_equal(names_next(&t, slice_str("m"), 2, 0, slice_str("s"), 0), other);
	names_check(&t);
	for (uint32_t i = 0; i < 100; i++)
		put_ns(&t, id[i]);
	assert_int_equal(names_next(&t, slice_str("m"), 1, 0, slice_str("s"), 0), 0);
	names_check(&t);
	names_destroy(&t);
}

static void test_2_a_namespace_goes_with_its_last_user(void **state)
{
	struct names t;
	uint32_t a, b;
	(void)state;

	assert_int_equal(names_create(&t), 0);
	a = get(&t, "m", 1, 0, "x");
	b = get(&t, "m", 1, 0, "x");
	assert_int_equal(a, b);
	put_ns(&t, a);
	assert_int_equal(names_ns(&t, slice_str("m"), 1, 0, slice_str("x"), NULL, false), a);
	t.ns[a].objects = 1;
	put_ns(&t, a);
	assert_int_equal(names_ns(&t, slice_str("m"), 1, 0, slice_str("x"), NULL, false), a);
	t.ns[a].objects = 0;
	names_ns_release(&t, a);
	assert_int_equal(names_ns(&t, slice_str("m"), 1, 0, slice_str("x"), NULL, false), 0);
	names_check(&t);
	assert_int_equal(get(&t, "other", 1, 0, ""), a); /* its number is used again */
	names_check(&t);
	names_destroy(&t);
}

static void test_3_long_texts_are_refused(void **state)
{
	static char big[NAMES_MAX_MODEL + 1];
	struct slice none = slice_of(NULL, 0);
	struct names t;
	uint32_t salt;
	(void)state;

	memset(big, 'a', sizeof(big));
	assert_int_equal(names_create(&t), 0);
	assert_int_equal(names_ns(&t, slice_of(big, sizeof(big)), 0, 0, none, NULL, true), 0);
	assert_int_equal(names_ns(&t, none, 0, 0, slice_of(big, NAMES_MAX_SALT + 1), NULL, true), 0);
	assert_int_equal(names_quota_set(&t, slice_of(big, NAMES_MAX_SALT + 1), 1, &salt), -EINVAL);
	assert_int_not_equal(
		names_ns(&t, slice_of(big, sizeof(big) - 1), 0, 0, slice_of(big, NAMES_MAX_SALT), NULL, true), 0);
	t.ns[1].refs = 1;
	for (size_t i = 0; i < NAMES_MAX_SALT; i += 4) /* 128 characters of four bytes are a salt like any other */
		memcpy(big + i, "\xf0\x9f\x94\x91", 4);
	assert_int_equal(names_quota_set(&t, slice_of(big, NAMES_MAX_SALT), 1, &salt), 0);
	assert_int_not_equal(salt, 0);
	assert_memory_equal(t.salt[salt].text, big, NAMES_MAX_SALT);
	names_check(&t);
	names_destroy(&t);
}

static void test_4_the_table_has_an_end(void **state)
{
	struct names t;
	char salt[16];
	(void)state;

	assert_int_equal(names_create(&t), 0);
	for (uint32_t i = 0; i < NAMES_MAX_NS; i++) {
		snprintf(salt, sizeof(salt), "%u", i);
		assert_int_not_equal(get(&t, "m", 1, 0, salt), 0);
	}
	assert_int_equal(get(&t, "m", 1, 0, "one more"), 0);
	assert_int_not_equal(get(&t, "m", 1, 0, "77"), 0);
	names_check(&t);
	put_ns(&t, names_ns(&t, slice_str("m"), 1, 0, slice_str("5"), NULL, false));
	assert_int_not_equal(get(&t, "m", 1, 0, "one more"), 0);
	names_check(&t);
	names_destroy(&t);
}

static void test_5_quotas_keep_their_salt(void **state)
{
	struct names t;
	uint32_t salt, again, ns;
	(void)state;

	assert_int_equal(names_create(&t), 0);
	assert_int_equal(names_quota_set(&t, slice_str("a"), 100, &salt), 0);
	assert_int_equal(names_quota_set(&t, slice_str("a"), 200, &again), 0);
	assert_int_equal(salt, again);
	assert_int_equal(t.salt[salt].limit_bytes, 200);
	ns = get(&t, "m", 1, 0, "a");
	assert_int_equal(t.ns[ns].salt, salt);
	names_check(&t);
	assert_int_equal(names_quota_set(&t, slice_str("a"), UINT64_MAX, &again), 0);
	assert_int_equal(again, salt);
	put_ns(&t, ns);
	names_check(&t);
	assert_int_equal(names_quota_set(&t, slice_str("a"), UINT64_MAX, &again), 0);
	assert_int_equal(again, 0);
	assert_int_equal(names_quota_set(&t, slice_str("never seen"), UINT64_MAX, &again), 0);
	names_check(&t);
	names_destroy(&t);
}

static void test_6_quotas_are_bounded(void **state)
{
	struct names t;
	char text[16];
	uint32_t salt;
	(void)state;

	assert_int_equal(names_create(&t), 0);
	for (uint32_t i = 0; i < NAMES_MAX_QUOTA; i++) {
		snprintf(text, sizeof(text), "%u", i);
		assert_int_equal(names_quota_set(&t, slice_str(text), i, &salt), 0);
	}
	assert_int_equal(names_quota_set(&t, slice_str("x"), 1, &salt), -ENOSPC);
	assert_int_equal(names_quota_set(&t, slice_str("7"), 1, &salt), 0);
	assert_int_equal(names_quota_set(&t, slice_str("8"), UINT64_MAX, &salt), 0);
	assert_int_equal(names_quota_set(&t, slice_str("x"), 1, &salt), 0);
	names_check(&t);
	names_destroy(&t);
}

static void test_7_allocation_failures(void **state)
{
	struct names t;
	int n, err;
	(void)state;

	for (n = 1;; n++) {
		mem_fail_at((uint64_t)n);
		err = names_create(&t);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	assert_true(n > 3);
	mem_fail_at(1);
	assert_int_equal(names_ns(&t, slice_str("m"), 1, 0, slice_str("s"), NULL, true), 0);
	mem_fail_at(0);
	names_check(&t);
	assert_int_not_equal(get(&t, "m", 1, 0, "s"), 0);
	names_check(&t);
	names_destroy(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_every_part_of_the_name_counts),
		cmocka_unit_test(test_2_a_namespace_goes_with_its_last_user),
		cmocka_unit_test(test_3_long_texts_are_refused),
		cmocka_unit_test(test_4_the_table_has_an_end),
		cmocka_unit_test(test_5_quotas_keep_their_salt),
		cmocka_unit_test(test_6_quotas_are_bounded),
		cmocka_unit_test(test_7_allocation_failures),
		cmocka_unit_test(test_8_the_layout_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
