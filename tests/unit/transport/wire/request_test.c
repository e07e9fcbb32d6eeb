/* The rules of decoding that the golden messages do not show: frame counts, key rules, limits, the prefix hook. */
#include "tests/unit/transport/wire/golden.h"

#define CAP 4096

struct fixture {
	struct wire_scratch *scratch;
	uint8_t key[CAP], other[CAP];
	struct wire_req req;
	struct why why;
};

/* What a key map is made of; a test changes one thing. */
struct recipe {
	const char *model;
	int world, worker; /* worker -1 = None */
	uint32_t ntokens;
	const char *token; /* written instead of the array of token ids */
	int64_t start, end;
	const char *request_id;
	const char *salt; /* NULL = no such entry */
	size_t salt_len;  /* 0 = strlen */
	const char *extra;
	uint32_t nextra; /* raw entries appended */
	const char *without;
};

static const struct recipe good = {
	.model = "meta/llama", .world = 2, .worker = 1, .ntokens = 10, .end = 8, .request_id = "r1", .salt = ""};

static void put_name(struct mp_out *out, uint32_t *left, const struct recipe *r, const char *name, bool *on)
{
	*on = !r->without || strcmp(r->without, name) != 0;
	if (*on) {
		mp_put_cstr(out, name);
		(*left)--;
	}
}

static void put_tokens(struct mp_out *out, const struct recipe *r)
{
	if (r->token) {
		struct slice raw = golden_hex(r->token);
		mp_put_raw(out, raw);
		golden_free(raw);
		return;
	}
	mp_put_array(out, r->ntokens);
	for (uint32_t i = 0; i < r->ntokens; i++)
		mp_put_uint(out, i * 9973 % 128256);
}

static struct slice bake(const struct recipe *r, uint8_t *buf)
{
	struct mp_out out = mp_out(buf, CAP);
	uint32_t n = 7 + (r->salt != NULL) + r->nextra - (r->without != NULL), left = n;
	bool on;

	mp_put_map(&out, n);
	if (r->extra) { /* first, so that what follows is still found */
		struct slice raw = golden_hex(r->extra);
		mp_put_raw(&out, raw);
		golden_free(raw);
		left -= r->nextra;
	}
	if (put_name(&out, &left, r, "request_id", &on), on)
		mp_put_cstr(&out, r->request_id);
	if (put_name(&out, &left, r, "end", &on), on)
		mp_put_int(&out, r->end);
	if (put_name(&out, &left, r, "token_ids", &on), on)
		put_tokens(&out, r);
	if (put_name(&out, &left, r, "worker_id", &on), on && r->worker < 0)
		mp_put_nil(&out);
	else if (on)
		mp_put_int(&out, r->worker);
	if (r->salt) {
		mp_put_cstr(&out, "cache_salt");
		mp_put_str(&out, slice_of(r->salt, r->salt_len ? r->salt_len : strlen(r->salt)));
		left--;
	}
	if (put_name(&out, &left, r, "start", &on), on)
		mp_put_int(&out, r->start);
	if (put_name(&out, &left, r, "world_size", &on), on)
		mp_put_int(&out, r->world);
	if (put_name(&out, &left, r, "model_name", &on), on)
		mp_put_cstr(&out, r->model);
	assert_false(out.overflow);
	assert_int_equal(left, 0);
	return slice_of(buf, (size_t)(out.p - buf));
}

static int lookup_as(struct fixture *f, enum wire_dialect d, const struct recipe *r)
{
	struct slice frames[2] = {bake(r, f->key), slice_of("\x01", 1)};

	memset(&f->why, 0, sizeof(f->why));
	return wire_request_decode(d, WIRE_LOOKUP, frames, 2, f->scratch, &f->req, &f->why);
}

static void refuse(struct fixture *f, const struct recipe *r, int rc, const char *word)
{
	assert_int_equal(lookup_as(f, WIRE_D4, r), rc);
	if (!strstr(f->why.text, word))
		fail_msg("reason '%s' does not name %s", f->why.text, word);
	assert_int_equal(f->why.err, rc);
}

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

static void test_01_any_order(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(lookup_as(f, WIRE_D4, &good), 0);
	assert_true(f->req.has_key);
	assert_int_equal(f->req.key.tokens.count, 10);
	assert_int_equal(f->req.key.tokens.nmarks, 2);
	assert_int_equal(f->req.key.worker_id, 1);
	assert_int_equal(f->req.key.world_size, 2);
	assert_int_equal(f->req.tp_size, 1);
	assert_true(slice_is(f->req.key.model, "meta/llama"));
	struct recipe none = good;
	none.worker = -1;
	assert_int_equal(lookup_as(f, WIRE_D4, &none), 0);
	assert_int_equal(f->req.key.worker_id, -1);
}

static void test_02_salt_tells_d1_from_d2(void **state)
{
	struct fixture *f = *state;
	struct recipe old = good;

	old.salt = NULL;
	for (unsigned d = 0; d < WIRE_DIALECT_COUNT; d++) {
		assert_int_equal(lookup_as(f, (enum wire_dialect)d, &good), d <= WIRE_D1 ? -EPROTO : 0);
		assert_int_equal(lookup_as(f, (enum wire_dialect)d, &old), d <= WIRE_D1 ? 0 : -EPROTO);
	}
}

static void test_03_required_fields(void **state)
{
	static const char *const names[] = {"model_name", "world_size", "worker_id", "token_ids",
					    "start",      "end",        "request_id"};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct recipe r = good;
		r.without = names[i];
		refuse(f, &r, -EPROTO, names[i]);
		refuse(f, &r, -EPROTO, "missing");
	}
}

static void test_04_values_refused(void **state)
{
	struct fixture *f = *state;
	struct recipe r;

#define REFUSE(field, value, rc, word) \
	r = good;                      \
	r.field = value;               \
	refuse(f, &r, rc, word)
	REFUSE(world, 0, -EPROTO, "world_size");
	REFUSE(world, -1, -EPROTO, "world_size");
	REFUSE(world, 256, -E2BIG, "world_size");
	REFUSE(worker, 2, -EPROTO, "worker_id");
	REFUSE(worker, 255, -E2BIG, "worker_id");
	REFUSE(start, 9, -EPROTO, "start");
	REFUSE(start, -1, -EPROTO, "start");
	REFUSE(end, -1, -EPROTO, "end");
	REFUSE(model, "a@b", -EPROTO, "model_name");
	REFUSE(model, "\xff", -EPROTO, "UTF-8");
	REFUSE(model, "\xc0\x80", -EPROTO, "UTF-8");
	REFUSE(model, "\xed\xa0\x80", -EPROTO, "UTF-8");
	REFUSE(model, "\xf4\x90\x80\x80", -EPROTO, "UTF-8");
	REFUSE(model, "\xe2\x82", -EPROTO, "UTF-8");
	REFUSE(request_id, "\x80", -EPROTO, "request_id");
	REFUSE(salt, "a@b", -EPROTO, "cache_salt");
	REFUSE(salt, "a/b", -EPROTO, "cache_salt");
	REFUSE(salt, "a\\b", -EPROTO, "cache_salt");
	REFUSE(salt, "\xc3(", -EPROTO, "cache_salt");
#undef REFUSE
	r = good;
	r.salt = "a\0b";
	r.salt_len = 3;
	refuse(f, &r, -EPROTO, "cache_salt");
}

static void test_05_salt_length_in_characters(void **state)
{
	struct fixture *f = *state;
	char ascii[130], wide[2 * 129 + 1] = "";
	struct recipe r = good;

	memset(ascii, 'x', sizeof(ascii));
	for (size_t i = 0; i < 129; i++)
		memcpy(wide + 2 * i, "\xc3\xa9", 2);
	r.salt = ascii;
	r.salt_len = 128;
	assert_int_equal(lookup_as(f, WIRE_D4, &r), 0);
	r.salt_len = 129;
	refuse(f, &r, -E2BIG, "cache_salt");
	r.salt = wide;
	r.salt_len = 2 * 128;
	assert_int_equal(lookup_as(f, WIRE_D4, &r), 0);
	assert_int_equal(f->req.key.salt.n, 256);
	r.salt_len = 2 * 129;
	refuse(f, &r, -E2BIG, "cache_salt");
}

static void test_06_unknown_and_repeated_entries(void **state)
{
	struct fixture *f = *state;
	struct recipe r = good;

	/* "zz": [1, {"a": nil}], "y": ext */
	r.extra = "a27a7a920181a161c0a179d40105";
	r.nextra = 2;
	assert_int_equal(lookup_as(f, WIRE_D4, &r), 0);
	r.extra = "a3656e6401"; /* "end": 1, and "end" again */
	r.nextra = 1;
	refuse(f, &r, -EPROTO, "twice");
	r.extra = "0101"; /* an integer as map key */
	refuse(f, &r, -EPROTO, "not a string");
	r.extra = "a17991919191919191919191919191919191919191c0"; /* nested 20 deep */
	refuse(f, &r, -EPROTO, "nested");
	r.extra = "ae6e756d5f6b765f7265616465727302"; /* num_kv_readers: 2 */
	assert_int_equal(lookup_as(f, WIRE_D6, &r), 0);
	assert_true(f->req.key.has_readers);
	assert_int_equal(f->req.key.num_kv_readers, 2);
	r.extra = "af6e756c6c5f6368756e6b5f6d61736b9192c3c2"; /* null_chunk_mask: [[true, false]] */
	assert_int_equal(lookup_as(f, WIRE_D6, &r), 0);
}

static void test_07_tokens(void **state)
{
	struct fixture *f = *state;
	struct recipe r = good;

	r.token = "90";
	assert_int_equal(lookup_as(f, WIRE_D4, &r), 0);
	assert_int_equal(f->req.key.tokens.count, 0);
	r.token = "dd00001001"; /* 4097 tokens, one more than the scratch takes */
	refuse(f, &r, -E2BIG, "token_ids");
	r.token = "ddffffffff";
	refuse(f, &r, -E2BIG, "token_ids");
	r.token = "dc0fff"; /* more than the frame has bytes */
	refuse(f, &r, -EPROTO, "token_ids");
	r.token = "9301ff02"; /* -1 */
	refuse(f, &r, -EPROTO, "token_ids");
	r.token = "92cf000000010000000001"; /* 2^32 */
	refuse(f, &r, -E2BIG, "token_ids");
	r.token = "91c3";
	refuse(f, &r, -EPROTO, "token_ids");
	r.token = "9101";
	assert_int_equal(lookup_as(f, WIRE_D4, &r), 0);
	assert_int_equal(f->req.key.tokens.ids[0], 1);
}

/* ---- frame counts ------------------------------------------------------------------------------------------------------ */

static void test_08_register_by_dialect(void **state)
{
	static const char *const hex[] = {"05", "91d40100", "a16d", "01", "a4766c6c6d", "80", "90"};
	/* which frames make each of the documented forms */
	static const uint8_t forms[4][7] = {{0, 1, 2, 3}, {0, 1, 2, 3, 5}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5, 6}};
	static const wire_dialect_set fits[4] = {1u << WIRE_D1E | 1u << WIRE_D1, 1u << WIRE_D1 | 1u << WIRE_D2,
						 1u << WIRE_D3 | 1u << WIRE_D3B | 1u << WIRE_D4,
						 WIRE_DIALECT_ALL & ~((1u << WIRE_D4) - 1)};
	struct fixture *f = *state;

	for (size_t form = 0; form < 4; form++) {
		struct slice frames[7];

		for (size_t i = 0; i < form + 4; i++)
			frames[i] = golden_hex(hex[forms[form][i]]);
		for (unsigned d = 0; d < WIRE_DIALECT_COUNT; d++) {
			int rc = wire_request_decode((enum wire_dialect)d, WIRE_REGISTER_KV_CACHE, frames, form + 4,
						     f->scratch, &f->req, &f->why);
			assert_int_equal(rc, fits[form] >> d & 1 ? 0 : -EPROTO);
			assert_int_equal(f->req.has_groups, rc == 0 && form == 3);
		}
		golden_free_all(frames, form + 4);
	}
}

static void test_09_ping_and_block_ids(void **state)
{
	struct fixture *f = *state;
	struct slice pid = slice_of("\x07", 1), nil = slice_of("\xc0", 1);

	for (unsigned i = WIRE_D1; i < WIRE_DIALECT_COUNT; i++) {
		enum wire_dialect d = (enum wire_dialect)i;
		int one = d >= WIRE_D4 ? 0 : -EPROTO;

		assert_int_equal(wire_request_decode(d, WIRE_PING, NULL, 0, f->scratch, &f->req, NULL), 0);
		assert_false(f->req.has_instance);
		assert_int_equal(wire_request_decode(d, WIRE_PING, &pid, 1, f->scratch, &f->req, NULL), one);
		assert_int_equal(f->req.has_instance, one == 0);
		assert_int_equal(wire_request_decode(d, WIRE_PING, &nil, 1, f->scratch, &f->req, NULL), one);
		assert_false(f->req.has_instance);
	}
	assert_int_equal(wire_request_decode(WIRE_D1E, WIRE_PING, NULL, 0, f->scratch, &f->req, &f->why), -EOPNOTSUPP);

	struct slice store[4] = {bake(&good, f->key), pid, slice_of("\x92\x01\x02", 3), slice_of("\xc4\x00", 2)};
	assert_int_equal(wire_request_decode(WIRE_D3, WIRE_STORE, store, 4, f->scratch, &f->req, NULL), 0);
	assert_true(f->req.flat_blocks);
	assert_int_equal(wire_request_decode(WIRE_D4, WIRE_STORE, store, 4, f->scratch, &f->req, NULL), -EPROTO);
	store[2] = slice_of("\x92\x91\x01\x92\x02\x03", 6);
	assert_int_equal(wire_request_decode(WIRE_D3, WIRE_STORE, store, 4, f->scratch, &f->req, NULL), -EPROTO);
	assert_int_equal(wire_request_decode(WIRE_D4, WIRE_STORE, store, 4, f->scratch, &f->req, NULL), 0);
	assert_int_equal(f->req.nblock_groups, 2);
	assert_int_equal(f->req.blocks[1].ids[1], 3);
	assert_int_equal(f->req.key.tokens.ids[1], 9973); /* token ids are untouched by what came later */
}

static void test_10_no_shape(void **state)
{
	struct fixture *f = *state;
	struct slice many[100];

	for (size_t i = 0; i < 100; i++)
		many[i] = slice_of("\x01", 1);
	assert_int_equal(wire_request_decode(WIRE_D5, WIRE_STORE_Q, many, 4, f->scratch, &f->req, &f->why),
			 -EOPNOTSUPP);
	assert_int_equal(wire_request_decode(WIRE_D5, WIRE_REGISTER_Q_CACHE, many, 1, f->scratch, &f->req, NULL),
			 -EOPNOTSUPP);
	assert_int_equal(wire_request_decode(WIRE_D2, WIRE_PREPARE_STORE, many, 2, f->scratch, &f->req, NULL),
			 -EOPNOTSUPP);
	assert_int_equal(wire_request_decode(WIRE_D2, WIRE_UNKNOWN, many, 0, f->scratch, &f->req, NULL), -EOPNOTSUPP);
	for (size_t n = 0; n <= 100; n++) {
		int rc = wire_request_decode(WIRE_D6, WIRE_UNREGISTER_KV_CACHE, many, n, f->scratch, &f->req, &f->why);
		assert_int_equal(rc, n == 1 ? 0 : -EPROTO);
	}
	assert_non_null(strstr(f->why.text, "100 payload frames"));
	/* every operation that has a number has a shape, but for the Q-cache, whose payload nobody has published */
	for (unsigned d = 0; d < WIRE_DIALECT_COUNT; d++) {
		for (uint64_t number = 1; wire_dialect_op((enum wire_dialect)d, number); number++) {
			enum wire_op op = wire_dialect_op((enum wire_dialect)d, number);
			bool q = op == WIRE_REGISTER_Q_CACHE || op == WIRE_UNREGISTER_Q_CACHE || op == WIRE_STORE_Q;
			int rc = wire_request_decode((enum wire_dialect)d, op, many, 100, f->scratch, &f->req, NULL);
			assert_int_equal(rc, q ? -EOPNOTSUPP : -EPROTO);
		}
	}
}

/* ---- the prefix hook ---------------------------------------------------------------------------------------------------- */

struct claim {
	uint32_t tokens;
	size_t bytes;
	uint32_t count; /* as the hook saw it */
};

static void claim_prefix(void *ctx, const uint8_t *raw, size_t avail, uint32_t count, uint32_t *tokens, size_t *bytes)
{
	struct claim *c = ctx;

	assert_true(avail >= count);
	assert_int_equal(raw[0], 0); /* token 0 is 0 */
	c->count = count;
	*tokens = c->tokens;
	*bytes = c->bytes;
}

static void test_11_prefix_hook(void **state)
{
	struct fixture *f = *state;
	struct wire_tokens all;
	uint32_t ids[10], marks[2];
	struct claim claim = {0};

	assert_int_equal(lookup_as(f, WIRE_D4, &good), 0);
	all = f->req.key.tokens;
	memcpy(ids, all.ids, sizeof(ids));
	memcpy(marks, all.marks, sizeof(marks));
	f->scratch->prefix = claim_prefix;
	f->scratch->prefix_ctx = &claim;
	for (uint32_t chunks = 0; chunks <= 2; chunks++) {
		claim = (struct claim){4 * chunks, chunks ? marks[chunks - 1] : 0, 0};
		assert_int_equal(lookup_as(f, WIRE_D4, &good), 0);
		const struct wire_tokens *t = &f->req.key.tokens;
		assert_int_equal(claim.count, 10);
		assert_int_equal(t->skipped, 4 * chunks);
		assert_int_equal(t->skipped_bytes, claim.bytes);
		assert_int_equal(t->count, 10);
		assert_int_equal(t->raw_bytes, all.raw_bytes);
		assert_int_equal(t->nmarks, 2 - chunks);
		assert_memory_equal(t->ids, ids + 4 * chunks, (10 - 4 * chunks) * sizeof(*ids));
		assert_memory_equal(t->marks, marks + chunks, (2 - chunks) * sizeof(*marks));
	}
	const struct claim lies[] = {{5, 9, 0}, {12, 20, 0}, {4, SIZE_MAX, 0}, {4, 3, 0}, {0, 1, 0}, {4, CAP, 0}};
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		claim = lies[i];
		assert_int_equal(lookup_as(f, WIRE_D4, &good), 0);
		assert_int_equal(f->req.key.tokens.skipped, 0);
		assert_memory_equal(f->req.key.tokens.ids, ids, sizeof(ids));
	}
	f->scratch->prefix = NULL;
}

/* Block ids of 64 groups may not use the scratch up beyond its end: refused, not written behind it. */
static void test_12_scratch_is_bounded(void **state)
{
	struct fixture *f = *state;
	enum { N = 4096, GROUPS = 64 };
	uint8_t *frame = malloc(GROUPS * (N + 3) + 8);
	struct mp_out out = mp_out(frame, GROUPS * (N + 3) + 8);

	mp_put_array(&out, GROUPS);
	for (int g = 0; g < GROUPS; g++) {
		mp_put_array(&out, N);
		memset(out.p, 1, N);
		out.p += N;
	}
	struct slice store[4] = {bake(&good, f->key), slice_of("\x07", 1), slice_of(frame, (size_t)(out.p - frame)),
				 slice_of("\xc4\x00", 2)};
	assert_int_equal(wire_request_decode(WIRE_D4, WIRE_STORE, store, 4, f->scratch, &f->req, &f->why), -E2BIG);
	assert_true(f->scratch->u32_used <= f->scratch->u32_cap);
	free(frame);
}

static void test_13_uid_and_type(void **state)
{
	uint64_t v;
	struct slice name;

	(void)state;
	assert_int_equal(wire_uid_decode(slice_of("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9), &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(wire_uid_decode(slice_of("", 0), &v), -EPROTO);
	assert_int_equal(wire_uid_decode(slice_of("\xff", 1), &v), -EPROTO);
	assert_int_equal(wire_uid_decode(slice_of("\x01\x01", 2), &v), -EPROTO);
	assert_int_equal(wire_uid_decode(slice_of("\xa1x", 2), &v), -EPROTO);
	assert_int_equal(wire_type_decode(slice_of("\xa4ping", 5), &v, &name), 0);
	assert_true(slice_is(name, "ping"));
	assert_int_equal(wire_type_decode(slice_of("\xa4pin", 4), &v, &name), -EPROTO);
	assert_int_equal(wire_type_decode(slice_of("\xa1\xff", 2), &v, &name), -EPROTO);
	assert_null(name.p);
	assert_int_equal(wire_type_decode(slice_of("\xc0", 1), &v, &name), -EPROTO);
	assert_int_equal(wire_type_decode(slice_of("\x05", 1), &v, &name), 0);
	assert_null(name.p);
	assert_int_equal(v, 5);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_01_any_order),
		T(test_02_salt_tells_d1_from_d2),
		T(test_03_required_fields),
		T(test_04_values_refused),
		T(test_05_salt_length_in_characters),
		T(test_06_unknown_and_repeated_entries),
		T(test_07_tokens),
		T(test_08_register_by_dialect),
		T(test_09_ping_and_block_ids),
		T(test_10_no_shape),
		T(test_11_prefix_hook),
		T(test_12_scratch_is_bounded),
		cmocka_unit_test(test_13_uid_and_type),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
