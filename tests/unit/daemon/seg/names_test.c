/* names_test.c - names of what is below L1: one number each, bounded, digests that differ. */
#include "daemon/seg/names.h"

#include "daemon/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static struct seg_name name(const char *model, const char *salt, uint32_t rank)
{
	return (struct seg_name){.model = slice_str(model), .salt = slice_str(salt), .kv_rank = rank};
}

static void one_number_each(void **state)
{
	struct seg_names *t;
	struct seg_name n[6] = {name("ab", "c", 0), name("a", "bc", 0), name("abc", "", 0),
				name("", "abc", 0), name("ab", "c", 1), name("ab", "c", 0)};

	(void)state;
	n[5].layout[15] = 1;
	assert_int_equal(seg_names_create(&t), 0);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(seg_name_find(t, &n[i]), 0);
		assert_int_equal(seg_name_get(t, &n[i]), i + 1);
	}
	for (uint32_t i = 0; i < 6; i++) {
		const struct seg_name *is = seg_name_of(t, i + 1);

		assert_int_equal(seg_name_get(t, &n[i]), i + 1);
		assert_int_equal(seg_name_find(t, &n[i]), i + 1);
		assert_int_equal(seg_name_by_digest(t, seg_name_digest(t, i + 1)), i + 1);
		assert_true(slice_eq(is->model, n[i].model) && slice_eq(is->salt, n[i].salt));
		assert_int_equal(is->kv_rank, n[i].kv_rank);
		for (uint32_t k = 0; k < i; k++)
			assert_memory_not_equal(seg_name_digest(t, i + 1), seg_name_digest(t, k + 1), SEG_DIGEST);
	}
	seg_names_destroy(t);
}

/* The digest is on media: it must not change. */
static void digest_is_fixed(void **state)
{
	static const uint8_t right[4] = {0x64, 0x93, 0xbd, 0x11};
	struct seg_names *t;
	struct seg_name n = name("meta-llama/Llama-3.1-8B", "salt", 3);

	(void)state;
	assert_int_equal(seg_names_create(&t), 0);
	assert_memory_equal(seg_name_digest(t, seg_name_get(t, &n)), right, sizeof(right));
	seg_names_destroy(t);
}

static void bounded(void **state)
{
	static char text[SEG_MAX_MODEL + 2];
	struct seg_names *t;
	struct seg_name n = name("", "", 0);

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	assert_int_equal(seg_names_create(&t), 0);
	n.model = slice_of(text, SEG_MAX_MODEL + 1);
	assert_int_equal(seg_name_get(t, &n), 0);
	n.model = slice_of(text, SEG_MAX_MODEL);
	n.salt = slice_of(text, SEG_MAX_SALT + 1);
	assert_int_equal(seg_name_get(t, &n), 0);
	n.salt = slice_of(text, SEG_MAX_SALT);
	assert_int_equal(seg_name_get(t, &n), 1);
	n = name("m", "", 0);
	for (uint32_t i = 2; i <= SEG_NAMES_MAX; i++) {
		n.object_group = i;
		assert_int_equal(seg_name_get(t, &n), i);
	}
	n.object_group = 0;
	assert_int_equal(seg_name_get(t, &n), 0);
	n.object_group = 77;
	assert_int_equal(seg_name_get(t, &n), 77);
	seg_names_destroy(t);
}

static void no_memory(void **state)
{
	struct seg_names *t;
	struct seg_name n = name("model", "", 0);

	(void)state;
	mem_fail_at(1);
	assert_true(seg_names_create(&t) < 0);
	mem_fail_at(0);
	assert_int_equal(seg_names_create(&t), 0);
	for (uint64_t i = 1; i <= 2; i++) {
		mem_fail_at(1);
		assert_int_equal(seg_name_get(t, &n), 0);
		mem_fail_at(i == 1 ? 2 : 0);
		if (i == 1)
			assert_int_equal(seg_name_get(t, &n), 0);
	}
	mem_fail_at(0);
	assert_int_equal(seg_name_get(t, &n), 1);
	seg_names_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_number_each),
		cmocka_unit_test(digest_is_fixed),
		cmocka_unit_test(bounded),
		cmocka_unit_test(no_memory),
	};

	return cmocka_run_group_tests_name("names below L1", tests, NULL, NULL);
}
