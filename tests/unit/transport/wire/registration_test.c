/* Requests that register something, and block reports: limits and forms no golden message shows. */
#include "tests/unit/transport/wire/golden.h"

struct fixture {
	struct wire_scratch *scratch;
	struct wire_req req;
	struct why why;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return f ? wire_scratch_create(4096, 4, &f->scratch) : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	wire_scratch_destroy(f->scratch);
	free(f);
	return 0;
}

static void test_01_cpu_context_is_positional(void **state)
{
	static const char *const hex[] = {"cd1092", "a16d", "02", "a4766c6c6d",       "81a96b765f6c61796f7574a3484e44",
					  "10",     "20",   "40", "a7666c6f61743136", "c2"};
	struct fixture *f = *state;
	struct slice frames[10], out[GOLDEN_FRAMES];
	uint8_t buf[256];

	for (size_t i = 0; i < 10; i++)
		frames[i] = golden_hex(hex[i]);
	assert_int_equal(
		wire_request_decode(WIRE_D3B, WIRE_REGISTER_CPU_CONTEXT, frames, 10, f->scratch, &f->req, &f->why), 0);
	assert_int_equal(f->req.instance_id, 4242);
	assert_int_equal(f->req.world_size, 2);
	assert_true(slice_is(f->req.hints.kv_layout, "HND"));
	assert_int_equal(f->req.ed.block_size, 16);
	assert_int_equal(f->req.ed.num_layers, 32);
	assert_int_equal(f->req.ed.hidden_dim_size, 64);
	assert_true(slice_is(f->req.ed.dtype, "float16"));
	assert_int_equal(wire_request_encode(WIRE_D3B, 1, &f->req, 0, buf, sizeof(buf), out), 12);
	for (size_t i = 0; i < 10; i++)
		golden_same_bytes(frames[i], out[i + 2], hex[i]);
	golden_free_all(frames, 10);
}

static int register_d4(struct fixture *f, const char *wrappers, const char *hints, const char *groups)
{
	struct slice frames[7] = {slice_of("\x05", 1), golden_hex(wrappers),    slice_of("\xa1m", 2),
				  slice_of("\x01", 1), slice_of("\xa4vllm", 5), golden_hex(hints),
				  golden_hex(groups)};
	int rc = wire_request_decode(WIRE_D4, WIRE_REGISTER_KV_CACHE, frames, 7, f->scratch, &f->req, &f->why);

	golden_free(frames[1]);
	golden_free(frames[5]);
	golden_free(frames[6]);
	return rc;
}

static void test_02_registration_limits(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(register_d4(f, "90", "80", "90"), 0);
	assert_int_equal(register_d4(f, "dc1001", "80", "90"), -E2BIG);            /* 4097 tensors */
	assert_int_equal(register_d4(f, "91d40200", "80", "90"), -EPROTO);         /* another ext code */
	assert_int_equal(register_d4(f, "91c40100", "80", "90"), -EPROTO);         /* bytes for ext */
	assert_int_equal(register_d4(f, "91c9000100010100", "80", "90"), -EPROTO); /* 65537 bytes, not there */
	assert_int_equal(register_d4(f, "90", "90", "90"), -EPROTO);
	assert_int_equal(register_d4(f, "90", "c0", "c0"), 0);
	assert_int_equal(register_d4(f, "90", "80",
				     "91"
				     "82"
				     "af656e67696e655f67726f75705f696401"
				     "ad6c617965725f696e646963657392cd012c02"),
			 0);
	assert_int_equal(f->req.ngroups, 1);
	assert_int_equal(f->req.groups[0].engine_group_id, 1);
	assert_int_equal(f->req.groups[0].nlayers, 2);
	assert_int_equal(f->req.groups[0].layer_indices[0], 300);
	assert_int_equal(register_d4(f, "90", "80",
				     "91"
				     "81"
				     "af656e67696e655f67726f75705f696401"),
			 -EPROTO);
	assert_int_equal(register_d4(f, "90", "80", "dc0041"), -E2BIG); /* 65 groups */
	/* later fields: tokens_per_block 16, sw_size_tokens -1, a tag of unknown type */
	assert_int_equal(register_d4(f, "90", "80",
				     "91"
				     "85"
				     "af656e67696e655f67726f75705f696400"
				     "b0746f6b656e735f7065725f626c6f636b10"
				     "ae73775f73697a655f746f6b656e73ff"
				     "b665787472615f6f626a6563745f67726f75705f746167a178"
				     "ad6c617965725f696e646963657390"),
			 0);
	assert_int_equal(f->req.groups[0].tokens_per_block, 16);
	assert_int_equal(f->req.groups[0].sw_size_tokens, -1);
}

static void test_03_wrapper_size_limit(void **state)
{
	struct fixture *f = *state;
	static uint8_t body[WIRE_MAX_WRAPPER + 1], frame[WIRE_MAX_WRAPPER + 64];

	for (size_t extra = 0; extra < 2; extra++) {
		struct mp_out out = mp_out(frame, sizeof(frame));

		mp_put_array(&out, 1);
		mp_put_ext(&out, 1, slice_of(body, WIRE_MAX_WRAPPER + extra));
		struct slice frames[4] = {slice_of("\x05", 1), slice_of(frame, (size_t)(out.p - frame)),
					  slice_of("\xa1m", 2), slice_of("\x01", 1)};
		int rc = wire_request_decode(WIRE_D1, WIRE_REGISTER_KV_CACHE, frames, 4, f->scratch, &f->req, NULL);
		assert_int_equal(rc, extra ? -E2BIG : 0);
	}
}

static void test_04_records(void **state)
{
	struct fixture *f = *state;
	struct slice frames[3] = {slice_of("\x05", 1), slice_of("\xa1m", 2), {0}};
	static const struct {
		const char *hex;
		int rc;
		uint32_t n;
		uint64_t blocks, tokens;
	} cases[] = {
		{"90", 0, 0, 0, 0},
		{"92"
		 "83a67265715f6964a161ad6e65775f626c6f636b5f696473920102ad6e65775f746f6b656e5f69647393010203"
		 "83a67265715f6964a162ad6e65775f626c6f636b5f69647390ad6e65775f746f6b656e5f69647391cd0fff",
		 0, 2, 2, 4},
		{"91"
		 "82a67265715f6964a161ad6e65775f626c6f636b5f69647390",
		 -EPROTO, 1, 0, 0},
		{"91"
		 "83a67265715f696401ad6e65775f626c6f636b5f69647390ad6e65775f746f6b656e5f69647390",
		 -EPROTO, 1, 0, 0},
		{"91"
		 "83a67265715f6964a161ad6e65775f626c6f636b5f69647391c0ad6e65775f746f6b656e5f69647390",
		 -EPROTO, 1, 0, 0},
		{"dd00010001", -E2BIG, 0, 0, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		frames[2] = golden_hex(cases[i].hex);
		assert_int_equal(wire_request_decode(WIRE_D2, WIRE_REPORT_BLOCK_ALLOCATION, frames, 3, f->scratch,
						     &f->req, &f->why),
				 cases[i].rc);
		if (cases[i].rc == 0) {
			assert_int_equal(f->req.nrecords, cases[i].n);
			assert_int_equal(f->req.record_blocks, cases[i].blocks);
			assert_int_equal(f->req.record_tokens, cases[i].tokens);
		}
		golden_free(frames[2]);
	}
}

/* CB_REGISTER_ROPE has no golden message. */
static void test_05_rope(void **state)
{
	static const char *const hex[] = {"07", "91d40100", "cc80", "c3", "9200ff", "929091c3"};
	struct fixture *f = *state;
	struct slice frames[6], out[GOLDEN_FRAMES];
	uint8_t buf[64];

	for (size_t i = 0; i < 6; i++)
		frames[i] = golden_hex(hex[i]);
	for (size_t n = 5; n <= 6; n++) {
		assert_int_equal(
			wire_request_decode(WIRE_D6, WIRE_CB_REGISTER_ROPE, frames, n, f->scratch, &f->req, &f->why),
			0);
		assert_int_equal(f->req.rope.head_size, 128);
		assert_int_equal(wire_request_encode(WIRE_D6, 9, &f->req, n, buf, sizeof(buf), out), n + 2);
		for (size_t i = 0; i < n; i++)
			golden_same_bytes(frames[i], out[i + 2], hex[i]);
	}
	golden_free_all(frames, 6);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_01_cpu_context_is_positional),
		T(test_02_registration_limits),
		T(test_03_wrapper_size_limit),
		T(test_04_records),
		T(test_05_rope),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
