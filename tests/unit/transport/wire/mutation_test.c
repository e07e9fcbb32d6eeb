/* Golden requests and replies, damaged: every truncation is refused; every change of one byte is refused or decodes into
 * something that survives being written and read again. Run under ASan, each frame is a heap block of its exact size. */
#include "tests/fuzz/request_equal.h"
#include "tests/unit/transport/wire/golden.h"

struct fixture {
	struct wire_scratch *scratch, *second;
	uint8_t out[1 << 17];
	struct wire_req req, again;
	struct wire_reply reply;
};

/* A message's frames, and what they are. */
struct subject {
	struct slice frames[GOLDEN_FRAMES];
	size_t n;
	enum wire_dialect dialect;
	enum wire_op op;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return !f || wire_scratch_create(4096, 4, &f->scratch) || wire_scratch_create(4096, 4, &f->second);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	wire_scratch_destroy(f->scratch);
	wire_scratch_destroy(f->second);
	free(f);
	return 0;
}

static int decode(struct fixture *f, const struct subject *s, struct slice *frames)
{
	struct why why = {0};
	int rc = wire_request_decode(s->dialect, s->op, frames + 2, s->n - 2, f->scratch, &f->req, &why);

	assert_true(rc == 0 || rc == -EPROTO || rc == -E2BIG);
	assert_int_equal(why.err, rc);
	assert_true(f->scratch->u32_used <= f->scratch->u32_cap);
	return rc;
}

/* What decoded must be stable: written in the newest shape of as many frames, it reads as the same request. */
static void check_stable(struct fixture *f, const struct subject *s)
{
	struct slice out[GOLDEN_FRAMES];
	size_t wanted = s->n == 2 ? WIRE_FRAMES_NONE : s->n - 2;

	assert_int_equal(wire_request_encode(s->dialect, 1, &f->req, wanted, f->out, sizeof(f->out), out), s->n);
	assert_int_equal(wire_request_decode(s->dialect, s->op, out + 2, s->n - 2, f->second, &f->again, NULL), 0);
	assert_true(same_request(&f->req, &f->again));
}

typedef void (*visit_fn)(struct fixture *f, struct subject *s);

static size_t each_request(struct fixture *f, visit_fn visit)
{
	json_t *root = golden_load();
	json_t *message;
	size_t i, visited = 0;

	json_array_foreach(json_object_get(root, "messages"), i, message)
	{
		json_t *type = json_object_get(message, "request_type");
		struct subject s = {.dialect = golden_dialect(message)};

		if (json_is_string(type))
			continue;
		s.op = wire_dialect_op(s.dialect, (uint64_t)json_integer_value(type));
		s.n = golden_frames(json_object_get(message, "request"), s.frames);
		visit(f, &s);
		golden_free_all(s.frames, s.n);
		visited++;
	}
	json_decref(root);
	return visited;
}

static void cut_everywhere(struct fixture *f, struct subject *s)
{
	for (size_t i = 2; i < s->n; i++) {
		struct slice whole = s->frames[i];

		for (size_t cut = 0; cut < whole.n; cut++) {
			uint8_t *part = malloc(cut ? cut : 1);

			memcpy(part, whole.p, cut);
			s->frames[i] = slice_of(part, cut);
			assert_int_not_equal(decode(f, s, s->frames), 0);
			free(part);
		}
		s->frames[i] = whole;
	}
	assert_int_equal(decode(f, s, s->frames), 0);
}

static void test_01_truncated(void **state)
{
	assert_int_equal(each_request(*state, cut_everywhere), 67);
}

static void extend_and_drop(struct fixture *f, struct subject *s)
{
	for (size_t i = 2; i < s->n; i++) {
		struct slice whole = s->frames[i];
		uint8_t *more = malloc(whole.n + 1);

		memcpy(more, whole.p, whole.n);
		more[whole.n] = 0xc0;
		s->frames[i] = slice_of(more, whole.n + 1);
		assert_int_not_equal(decode(f, s, s->frames), 0);
		s->frames[i] = slice_of("", 0);
		assert_int_not_equal(decode(f, s, s->frames), 0);
		s->frames[i] = (struct slice){0};
		assert_int_not_equal(decode(f, s, s->frames), 0);
		s->frames[i] = whole;
		free(more);
	}
}

static void test_02_bytes_behind_and_empty_frames(void **state)
{
	assert_int_equal(each_request(*state, extend_and_drop), 67);
}

/* Each frame replaced by an item of each type: nothing else than the declared types may pass. */
static void retype(struct fixture *f, struct subject *s)
{
	static const struct {
		const char *bytes;
		size_t n;
	} items[] = {{"\x01", 1},         {"\xff", 1},      {"\xc0", 1},          {"\xc3", 1},
		     {"\xca\0\0\0\0", 5}, {"\xa1x", 2},     {"\xc4\x01x", 3},     {"\x91\xa1x", 3},
		     {"\x80", 1},         {"\xd4\x01x", 3}, {"\x81\xa1x\x01", 4}, {"\xc1", 1}};

	for (size_t i = 2; i < s->n; i++) {
		struct slice whole = s->frames[i];
		unsigned passed = 0;

		for (size_t k = 0; k < sizeof(items) / sizeof(items[0]); k++) {
			s->frames[i] = slice_of(items[k].bytes, items[k].n);
			if (decode(f, s, s->frames) == 0) {
				check_stable(f, s);
				passed++;
			}
		}
		assert_true(passed <= 3); /* a number may be an int or a float, a map of options may be nil */
		s->frames[i] = whole;
	}
}

static void test_03_wrong_types(void **state)
{
	assert_int_equal(each_request(*state, retype), 67);
}

static void change_each_byte(struct fixture *f, struct subject *s)
{
	for (size_t i = 2; i < s->n; i++) {
		uint8_t *p = (uint8_t *)(uintptr_t)s->frames[i].p;

		for (size_t at = 0; at < s->frames[i].n; at++) {
			uint8_t was = p[at];

			for (unsigned x = 1; x < 256; x++) {
				p[at] = (uint8_t)(was ^ x);
				if (decode(f, s, s->frames) == 0)
					check_stable(f, s);
			}
			p[at] = was;
		}
	}
}

static void test_04_each_byte_changed(void **state)
{
	assert_int_equal(each_request(*state, change_each_byte), 67);
}

/* ---- replies --------------------------------------------------------------------------------------------------------- */

static int decode_reply(struct fixture *f, const struct subject *s, struct slice payload)
{
	struct why why = {0};
	int rc = wire_reply_decode(s->dialect, s->op, payload, f->scratch, &f->reply, &why);

	assert_true(rc == 0 || rc == -EPROTO || rc == -E2BIG);
	assert_int_equal(why.err, rc);
	if (rc == 0)
		assert_true(wire_reply_encode(&f->reply, f->out, sizeof(f->out)) >= 0);
	return rc;
}

static void damage_reply(struct fixture *f, const struct subject *s, struct slice payload)
{
	uint8_t *p = (uint8_t *)(uintptr_t)payload.p;

	for (size_t cut = 0; cut < payload.n; cut++) {
		uint8_t *part = malloc(cut ? cut : 1);

		memcpy(part, payload.p, cut);
		assert_int_not_equal(decode_reply(f, s, slice_of(part, cut)), 0);
		free(part);
	}
	for (size_t at = 0; at < payload.n; at++) {
		uint8_t was = p[at];

		for (unsigned x = 1; x < 256; x++) {
			p[at] = (uint8_t)(was ^ x);
			decode_reply(f, s, payload);
		}
		p[at] = was;
	}
	assert_int_equal(decode_reply(f, s, payload), 0);
}

static void test_05_replies(void **state)
{
	json_t *root = golden_load();
	json_t *message;
	size_t i, damaged = 0;

	json_array_foreach(json_object_get(root, "messages"), i, message)
	{
		json_t *type = json_object_get(message, "request_type");
		json_t *reply = json_object_get(message, "reply");
		struct subject s = {.dialect = golden_dialect(message)};

		if (json_is_string(type) || !json_is_object(reply))
			continue;
		s.op = wire_dialect_op(s.dialect, (uint64_t)json_integer_value(type));
		s.n = golden_frames(reply, s.frames);
		if (s.n == 3) {
			damage_reply(*state, &s, s.frames[2]);
			damaged++;
		}
		golden_free_all(s.frames, s.n);
	}
	assert_int_equal(damaged, 48);
	json_decref(root);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_01_truncated),   T(test_02_bytes_behind_and_empty_frames),
		T(test_03_wrong_types), T(test_04_each_byte_changed),
		T(test_05_replies),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
