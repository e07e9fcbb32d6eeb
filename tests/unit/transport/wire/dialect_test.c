/* Numbers and names of every dialect against the golden tables, and the probe. */
#include "tests/unit/transport/wire/golden.h"

static void test_01_names_parse_back(void **state)
{
	(void)state;
	for (unsigned i = 0; i < WIRE_DIALECT_COUNT; i++) {
		enum wire_dialect d;
		const char *name = wire_dialect_name((enum wire_dialect)i);

		assert_int_equal(wire_dialect_parse(slice_str(name), &d), 0);
		assert_int_equal(d, i);
	}
	enum wire_dialect d = WIRE_D1;
	assert_int_equal(wire_dialect_parse(slice_str("d4V3"), &d), 0);
	assert_int_equal(d, WIRE_D4V3);
	const char *bad[] = {"", "D", "D0", "D8", "D4v", "D4v33", " D4", "D3b "};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(wire_dialect_parse(slice_str(bad[i]), &d), -EINVAL);
	assert_string_equal(wire_dialect_name(WIRE_DIALECT_COUNT), "?");
}

static void test_02_golden_numbers(void **state)
{
	json_t *root = golden_load();
	const char *text;
	json_t *table;
	size_t dialects = 0;

	(void)state;
	json_object_foreach(json_object_get(root, "request_types"), text, table)
	{
		enum wire_dialect d;
		const char *name;
		json_t *number;
		uint64_t n = json_object_size(table);

		assert_int_equal(wire_dialect_parse(slice_str(text), &d), 0);
		json_object_foreach(table, name, number)
		{
			enum wire_op op = wire_dialect_op(d, (uint64_t)json_integer_value(number));

			if (op == WIRE_UNKNOWN)
				fail_msg("%s has no request %lld", text, (long long)json_integer_value(number));
			assert_string_equal(wire_dialect_op_name(d, op), name);
			assert_int_equal(wire_dialect_number(d, op), json_integer_value(number));
		}
		assert_int_equal(wire_dialect_op(d, 0), WIRE_UNKNOWN);
		assert_int_equal(wire_dialect_op(d, n + 1), WIRE_UNKNOWN);
		assert_int_equal(wire_dialect_op(d, UINT64_MAX), WIRE_UNKNOWN);
		dialects++;
	}
	assert_int_equal(dialects, WIRE_DIALECT_COUNT - 1); /* all but D1E */
	json_decref(root);
}

/* The early-March form, from the notes of section 4: no lookup-hits, no PING. */
static void test_03_early_d1(void **state)
{
	static const enum wire_op want[] = {
		WIRE_UNKNOWN,
		WIRE_REGISTER_KV_CACHE,
		WIRE_UNREGISTER_KV_CACHE,
		WIRE_STORE,
		WIRE_RETRIEVE,
		WIRE_LOOKUP,
		WIRE_QUERY_PREFETCH_STATUS,
		WIRE_FREE_LOOKUP_LOCKS,
		WIRE_END_SESSION,
		WIRE_CLEAR,
		WIRE_GET_CHUNK_SIZE,
		WIRE_NOOP,
		WIRE_CB_REGISTER_KV_CACHE,
		WIRE_CB_UNREGISTER_KV_CACHE,
		WIRE_CB_STORE_PRE_COMPUTED,
		WIRE_CB_LOOKUP_PRE_COMPUTED,
		WIRE_CB_RETRIEVE_PRE_COMPUTED,
		WIRE_CB_STORE_FINAL,
		WIRE_CB_LOOKUP_PRE_COMPUTED_V2,
		WIRE_CB_RETRIEVE_PRE_COMPUTED_V2,
		WIRE_UNKNOWN,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(wire_dialect_op(WIRE_D1E, i), want[i]);
	assert_int_equal(wire_dialect_number(WIRE_D1E, WIRE_PING), 0);
	assert_null(wire_dialect_op_name(WIRE_D1E, WIRE_PING));
}

static void test_04_blend_v3_under_an_old_name(void **state)
{
	(void)state;
	assert_int_equal(wire_dialect_op(WIRE_D6, 27), WIRE_CB_RETRIEVE_V3);
	assert_int_equal(wire_dialect_op(WIRE_D5, 29), WIRE_CB_RETRIEVE_PRE_COMPUTED);
	assert_int_equal(wire_dialect_number(WIRE_D6, WIRE_CB_RETRIEVE_PRE_COMPUTED), 0);
	assert_string_equal(wire_dialect_op_name(WIRE_D6, WIRE_CB_RETRIEVE_V3), "CB_RETRIEVE_PRE_COMPUTED");
	assert_string_equal(wire_dialect_op_name(WIRE_D5, WIRE_CB_RETRIEVE_V3), "CB_RETRIEVE_PRE_COMPUTED_V3");
	assert_string_equal(wire_op_name(WIRE_CB_RETRIEVE_V3), "CB_RETRIEVE_V3");
	assert_string_equal(wire_op_name(WIRE_OP_COUNT), "UNKNOWN");
}

static void test_05_probe(void **state)
{
	(void)state;
	assert_int_equal(wire_dialect_probe(10), 1u << WIRE_D1E);
	assert_int_equal(wire_dialect_probe(11), 1u << WIRE_D1 | 1u << WIRE_D2 | 1u << WIRE_D3);
	assert_int_equal(wire_dialect_probe(14), 1u << WIRE_D3B);
	assert_int_equal(wire_dialect_probe(17), 1u << WIRE_D4 | 1u << WIRE_D4V3);
	assert_int_equal(wire_dialect_probe(18), 1u << WIRE_D5A);
	assert_int_equal(wire_dialect_probe(21), 1u << WIRE_D5 | 1u << WIRE_D6 | 1u << WIRE_D7);
	for (uint64_t n = 0; n < 64; n++) {
		if (n != 10 && n != 11 && n != 14 && n != 17 && n != 18 && n != 21)
			assert_int_equal(wire_dialect_probe(n), 0);
	}
	assert_int_equal(wire_dialect_probe(UINT64_MAX), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_names_parse_back),
		cmocka_unit_test(test_02_golden_numbers),
		cmocka_unit_test(test_03_early_d1),
		cmocka_unit_test(test_04_blend_v3_under_an_old_name),
		cmocka_unit_test(test_05_probe),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
