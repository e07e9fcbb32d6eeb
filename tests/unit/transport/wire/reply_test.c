/* Replies that the golden messages do not show, and the strictness of the client side. */
#include "tests/unit/transport/wire/golden.h"

struct fixture {
	struct wire_scratch *scratch;
	struct wire_reply reply;
	struct why why;
	struct slice payload; /* of the last decode: replies borrow from it */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return f ? wire_scratch_create(1000, 0, &f->scratch) : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	wire_scratch_destroy(f->scratch);
	golden_free(f->payload);
	free(f);
	return 0;
}

static int decode(struct fixture *f, enum wire_dialect d, enum wire_op op, const char *hex)
{
	golden_free(f->payload);
	f->payload = hex ? golden_hex(hex) : (struct slice){0};
	memset(&f->why, 0, sizeof(f->why));
	return wire_reply_decode(d, op, f->payload, f->scratch, &f->reply, &f->why);
}

static void test_01_kind_by_dialect(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(decode(f, WIRE_D1, WIRE_LOOKUP, "07"), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_UINT);
	assert_int_equal(decode(f, WIRE_D1, WIRE_LOOKUP, NULL), -EPROTO);
	assert_int_equal(decode(f, WIRE_D2, WIRE_LOOKUP, NULL), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_NONE);
	assert_int_equal(decode(f, WIRE_D2, WIRE_LOOKUP, "07"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D2, WIRE_LOOKUP, "c0"), -EPROTO); /* None is no payload, never nil */
	assert_int_equal(decode(f, WIRE_D4, WIRE_QUERY_PREFETCH_STATUS, NULL), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_NONE);
	assert_int_equal(decode(f, WIRE_D4, WIRE_QUERY_PREFETCH_STATUS, "ff"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_GET_CHUNK_SIZE, NULL), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_STORE_CPU_CHUNKS, "c3"), -EOPNOTSUPP);
	assert_int_equal(decode(f, WIRE_D5, WIRE_STORE_Q, "c3"), -EOPNOTSUPP);
}

static void test_02_strict_bool(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(decode(f, WIRE_D4, WIRE_COMMIT_STORE, "c2"), 0);
	assert_false(f->reply.flag);
	assert_int_equal(decode(f, WIRE_D4, WIRE_COMMIT_STORE, "01"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_STORE, "92c40001"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_STORE, "92a0c3"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_STORE, "93c400c3c3"), -E2BIG);
	assert_int_equal(decode(f, WIRE_D4, WIRE_STORE, "91c400"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D4, WIRE_NOOP, "c4024f4b"), -EPROTO);
}

/* Newer servers answer PING with a number: 2 says "not known here". */
static void test_03_ping_number(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(decode(f, WIRE_D6, WIRE_PING, "c3"), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_BOOL);
	assert_true(f->reply.flag);
	assert_int_equal(decode(f, WIRE_D6, WIRE_PING, "01"), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_UINT);
	assert_true(f->reply.flag);
	assert_int_equal(decode(f, WIRE_D6, WIRE_PING, "02"), 0);
	assert_false(f->reply.flag);
	assert_int_equal(decode(f, WIRE_D6, WIRE_PING, "a0"), -EPROTO);
}

static void test_04_later_fields_are_skipped(void **state)
{
	struct fixture *f = *state;

	/* {pool_size: 5, error: nil, shm_name: "x", scratch_offset: 7} */
	assert_int_equal(decode(f, WIRE_D5, WIRE_REGISTER_ENGINE_DRIVEN,
				"84a9706f6f6c5f73697a6505a56572726f72c0a873686d5f6e616d65a178"
				"ae736372617463685f6f666673657407"),
			 0);
	assert_true(slice_is(f->reply.shm_name, "x"));
	assert_int_equal(f->reply.pool_size, 5);
	assert_int_equal(decode(f, WIRE_D5, WIRE_REGISTER_ENGINE_DRIVEN, "81a9706f6f6c5f73697a6505"), -EPROTO);
	assert_int_equal(decode(f, WIRE_D5, WIRE_PREPARE_STORE, "80"), -EPROTO);
}

static void test_05_slots(void **state)
{
	struct fixture *f = *state;
	static uint8_t buf[1 << 20];
	enum { N = 500 };
	static struct wire_slot v[N];
	static uint32_t indices[N];
	struct wire_reply out = {.kind = WIRE_REPLY_PREPARE_STORE};

	for (uint32_t i = 0; i < N; i++) {
		v[i] = (struct wire_slot){(uint64_t)i << 33, 1u << 20};
		indices[i] = 3 * i;
	}
	out.slots = (struct wire_slots){true, v, indices, N, {2, 32, 256, 4096}, 4, slice_str("bfloat16")};
	ssize_t n = wire_reply_encode(&out, buf, sizeof(buf));
	assert_true(n > 0 && (size_t)n <= wire_reply_bound(&out));
	struct slice payload = slice_of(buf, (size_t)n);
	assert_int_equal(wire_reply_decode(WIRE_D5, WIRE_PREPARE_STORE, payload, f->scratch, &f->reply, NULL), 0);
	assert_int_equal(f->reply.slots.n, N);
	assert_memory_equal(f->reply.slots.v, v, sizeof(v));
	assert_memory_equal(f->reply.slots.chunk_indices, indices, sizeof(indices));
	assert_int_equal(f->reply.slots.shape[3], 4096);
	assert_int_equal(wire_reply_decode(WIRE_D5, WIRE_PREPARE_RETRIEVE, payload, f->scratch, &f->reply, NULL),
			 -EPROTO);
	/* one slot, no index */
	assert_int_equal(decode(f, WIRE_D5, WIRE_PREPARE_STORE,
				"81a7636f6e7465787482a5736c6f74739184a66f666673657400a66c656e67746801a5736861706590"
				"a56474797065a0ad6368756e6b5f696e646963657390"),
			 -EPROTO);
	assert_non_null(strstr(f->why.text, "chunk_indices"));
	/* two slots that differ in shape */
	assert_int_equal(decode(f, WIRE_D5, WIRE_PREPARE_STORE,
				"81a7636f6e7465787482a5736c6f747392"
				"84a66f666673657400a66c656e67746801a573686170659101a56474797065a0"
				"84a66f666673657401a66c656e67746801a573686170659102a56474797065a0"
				"ad6368756e6b5f696e6469636573920001"),
			 -EPROTO);
	assert_non_null(strstr(f->why.text, "different shape"));
}

/* Bounds hold for every kind with the longest integers, and nothing is written when room is short by one byte. */
static void test_06_bound_and_room(void **state)
{
	const struct slice strs[2] = {slice_str("one"), slice_str("")};
	const struct wire_range ranges[2] = {{0, UINT64_MAX}, {INT64_MAX, INT64_MAX}};
	const struct wire_match match = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, slice_str("0123456789abcdef")};
	const struct wire_slot p2p[2] = {{(uint64_t)-1, 0}, {UINT64_MAX / 2, UINT64_MAX}};
	const struct wire_slot slot = {UINT64_MAX, UINT64_MAX};
	const uint32_t index = UINT32_MAX;
	const struct wire_slots slots = {true,
					 &slot,
					 &index,
					 1,
					 {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX},
					 4,
					 slice_str("float8_e4m3fn")};
	const struct wire_reply all[] = {
		{.kind = WIRE_REPLY_UINT, .u = UINT64_MAX},
		{.kind = WIRE_REPLY_BOOL, .flag = true},
		{.kind = WIRE_REPLY_STR, .bytes = slice_str("OK")},
		{.kind = WIRE_REPLY_EVENT, .bytes = slice_str(WIRE_STUB_EVENT), .flag = true},
		{.kind = WIRE_REPLY_BOOL_BYTES, .bytes = slice_str("x")},
		{.kind = WIRE_REPLY_POOL, .shm_name = slice_str("pool"), .pool_size = UINT64_MAX},
		{.kind = WIRE_REPLY_PREPARE_STORE, .slots = slots},
		{.kind = WIRE_REPLY_PREPARE_RETRIEVE, .slots = slots, .bytes = slice_str("data")},
		{.kind = WIRE_REPLY_STRS, .strs = strs, .nstrs = 2},
		{.kind = WIRE_REPLY_INT_BOOL, .u = UINT64_MAX},
		{.kind = WIRE_REPLY_RANGES, .ranges = ranges, .nitems = 2},
		{.kind = WIRE_REPLY_MATCHES, .matches = &match, .nitems = 1},
		{.kind = WIRE_REPLY_P2P_RESULTS, .p2p = p2p, .nitems = 2},
	};
	uint8_t buf[1024];

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		ssize_t n = wire_reply_encode(&all[i], buf, sizeof(buf));

		assert_true(n > 0 && (size_t)n <= wire_reply_bound(&all[i]));
		for (ssize_t cap = 0; cap <= n; cap++) {
			uint8_t *exact = malloc((size_t)cap + 1);
			assert_int_equal(wire_reply_encode(&all[i], exact, (size_t)cap), cap < n ? -ENOSPC : n);
			free(exact);
		}
	}
	struct wire_reply none = {.kind = WIRE_REPLY_NONE};
	assert_int_equal(wire_reply_encode(&none, NULL, 0), 0);
}

static void test_07_p2p_miss(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(decode(f, WIRE_D6, WIRE_P2P_QUERY_LOOKUP_RESULTS, "9182a66f6666736574ffa473697a6500"), 0);
	assert_true(f->reply.p2p[0].offset == (uint64_t)-1);
	assert_int_equal(decode(f, WIRE_D6, WIRE_P2P_QUERY_LOOKUP_RESULTS, NULL), 0);
	assert_int_equal(f->reply.kind, WIRE_REPLY_NONE);
	assert_int_equal(decode(f, WIRE_D6, WIRE_P2P_QUERY_LOOKUP_RESULTS, "dd7fffffff"), -E2BIG);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_01_kind_by_dialect), T(test_02_strict_bool),
		T(test_03_ping_number),     T(test_04_later_fields_are_skipped),
		T(test_05_slots),           T(test_06_bound_and_room),
		T(test_07_p2p_miss),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
