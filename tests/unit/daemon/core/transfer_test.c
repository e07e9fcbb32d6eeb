/* STORE and RETRIEVE as messages, in this thread: what they cost whatever the number of chunks, and what they leave behind when
 * they are refused.
 */
#include "tests/unit/daemon/core/mallocs.h"
#include "tests/unit/daemon/core/server_fixture.h"

#include <jansson.h>

static void fill(struct fx *f, uint8_t salt)
{
	for (uint32_t l = 0; l < f->mem.shape.layers; l++) {
		for (uint64_t i = 0; i < f->mem.bytes; i++)
			f->mem.base[l][i] = (uint8_t)(mix64(i * 8 + l) + salt);
	}
}

static bool filled(struct fx *f, uint8_t salt)
{
	for (uint32_t l = 0; l < f->mem.shape.layers; l++) {
		for (uint64_t i = 0; i < f->mem.bytes; i++) {
			if (f->mem.base[l][i] != (uint8_t)(mix64(i * 8 + l) + salt))
				return false;
		}
	}
	return true;
}

static void test_01_what_was_stored_comes_back(void **state)
{
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 64, 16);
	fill(&f, 1);
	assert_true(fx_store(&f, "a", 64));
	assert_int_equal(fix_stats(f.srv->store).readable, 64);
	assert_false(fx_retrieve(&f, "a", 64)); /* nobody looked up */
	fill(&f, 99);
	assert_int_equal(fx_lookup(&f, "a", 64), 64);
	assert_true(filled(&f, 99));
	assert_true(fx_retrieve(&f, "a", 64));
	assert_true(filled(&f, 1));
	assert_int_equal(fix_stats(f.srv->store).locked, 0);
	assert_false(fx_retrieve(&f, "a", 64)); /* its locks are used up */
	assert_int_equal(fx_lookup(&f, "b", 64), 0);
	fx_close(&f);
}

/* ---- what a request costs ------------------------------------------------------------------------------------------- */

struct cost {
	uint64_t ours, libc;
};

static struct cost cost_of(struct fx *f, const struct wire_req *req)
{
	struct cost c;

	fx_message(f, req);
	c = (struct cost){mem_thread_allocs(), libc_mallocs};
	fx_run(f);
	c = (struct cost){mem_thread_allocs() - c.ours, libc_mallocs - c.libc};
	assert_true(fx_reply(f, req->op).flag);
	return c;
}

static void no_cost(struct fx *f, enum wire_op op, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, op, id, chunks, 0, chunks);
	struct cost c = cost_of(f, &req);

	if (c.ours || c.libc)
		fail_msg("%s of %u chunks: %llu allocations of ours, %llu of libc", wire_op_name(op), chunks,
			 (unsigned long long)c.ours, (unsigned long long)c.libc);
}

static void test_02_no_allocation(void **state)
{
	static const uint32_t sizes[] = {1, 64, 256};
	(void)state;

	for (int a = CHASH_BLAKE3; a <= CHASH_SHA256_CBOR; a++) {
		struct fx f;

		fx_open(&f, (enum chash_algorithm)a, CHUNK_TOKENS, 256, 32);
		assert_true(fx_store(&f, "first", 2)); /* the namespace, and whatever libraries set up once */
		assert_int_equal(fx_lookup(&f, "first", 2), 2);
		assert_true(fx_retrieve(&f, "first", 2));
		for (int i = 0; i < 3; i++) {
			char id[16];

			snprintf(id, sizeof(id), "r%d", i);
			no_cost(&f, WIRE_STORE, id, sizes[i]); /* all of it new: decoded, hashed, copied */
			no_cost(&f, WIRE_STORE, id, sizes[i]); /* nothing new */
			assert_int_equal(fx_lookup(&f, id, sizes[i]), sizes[i]);
			no_cost(&f, WIRE_STORE, id, sizes[i]); /* with a session */
			no_cost(&f, WIRE_RETRIEVE, id, sizes[i]);
		}
		fx_close(&f);
	}
}

/* Under eviction, too: each of these stores pushes out the one before. */
static void test_03_no_allocation_under_eviction(void **state)
{
	char id[16];
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 256, 2);
	assert_true(fx_store(&f, "first", 256));
	assert_true(fx_store(&f, "second", 256));
	for (int i = 0; i < 10; i++) {
		snprintf(id, sizeof(id), "r%d", i);
		no_cost(&f, WIRE_STORE, id, 200);
	}
	assert_true(fix_stats(f.srv->store).evicted_objects > 1000);
	fx_close(&f);
}

/* A prompt that grew beyond what was looked up: the session's memory of it may grow, once, not with each chunk. */
static void test_04_a_grown_prompt(void **state)
{
	struct wire_req req;
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 256, 32);
	assert_true(fx_store(&f, "p", 40));
	assert_int_equal(fx_lookup(&f, "p", 40), 40);
	req = fx_request(&f, WIRE_STORE, "p", 256, 40, 216);
	assert_in_range(cost_of(&f, &req).libc, 0, 1);
	fx_close(&f);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void refused(struct fx *f, const struct wire_req *req)
{
	struct store_stats before = fix_stats(f->srv->store), after;

	assert_false(fx_call(f, req).flag);
	after = fix_stats(f->srv->store);
	assert_int_equal(after.objects, before.objects);
	assert_int_equal(after.reserved, 0);
	assert_int_equal(after.locked, 0);
}

static void test_05_requests_that_make_no_sense(void **state)
{
	static const enum wire_op ops[] = {WIRE_STORE, WIRE_RETRIEVE};
	uint32_t beyond;
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 16, 4);
	assert_true(fx_store(&f, "stored", 8));
	for (int i = 0; i < 2; i++) {
		struct wire_req good = fx_request(&f, ops[i], "a", 8, 2, 4), r = good;

		r.instance_id++;
		refused(&f, &r);
		r = good;
		r.key.model = slice_str("another");
		refused(&f, &r);
		r = good;
		r.key.world_size = 2;
		refused(&f, &r);
		r = good;
		r.key.worker_id = -1;
		refused(&f, &r);
		r = good;
		r.key.start++;
		refused(&f, &r);
		r = good;
		r.key.end--;
		refused(&f, &r);
		r = good;
		r.key.end = 9 * CHUNK_TOKENS; /* the prompt has eight chunks */
		refused(&f, &r);
		r = good;
		r.key.end = UINT64_MAX / CHUNK_TOKENS * CHUNK_TOKENS;
		refused(&f, &r);
		r = good;
		r.key.start = 7 * CHUNK_TOKENS; /* behind the end */
		refused(&f, &r);
		r = good;
		r.blocks[0].n--;
		refused(&f, &r);
		r = good;
		r.nblock_groups = 0;
		refused(&f, &r);
		r = good;
		r.blocks[1] = r.blocks[0];
		r.nblock_groups = 2;
		refused(&f, &r);
		beyond = f.blocks[3];
		f.blocks[3] = f.mem.shape.blocks;
		refused(&f, &good);
		f.blocks[3] = UINT32_MAX;
		refused(&f, &good);
		f.blocks[3] = beyond;
	}
	fx_close(&f);
}

static void test_06_memory_that_vanishes(void **state)
{
	struct why why;
	struct fx f;
	(void)state;

	ok_or_fail(shmx_init(&why), &why); /* in here: cmocka sets handlers of its own around each test */
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 16, 4);
	assert_true(fx_store(&f, "before", 16));
	assert_int_equal(fx_lookup(&f, "before", 16), 16);
	engine_resize(&f.mem, 1, 0);
	assert_false(fx_store(&f, "a", 16));
	assert_int_equal(fix_stats(f.srv->store).objects, 16); /* what was half copied is nobody's */
	assert_int_equal(fix_stats(f.srv->store).reserved, 0);
	assert_false(fx_retrieve(&f, "before", 16));
	assert_false(fx_store(&f, "b", 16)); /* known to be gone */
	assert_int_equal(fix_stats(f.srv->store).locked, 0);
	assert_int_equal(fx_lookup(&f, "before", 16), 16); /* of a memory known to be gone: its locks go back, too */
	assert_false(fx_retrieve(&f, "before", 16));
	assert_int_equal(fix_stats(f.srv->store).locked, 0);
	assert_true(sessions_end(f.srv->sessions, slice_str("before"), PEER_OWNER, 0));
	assert_int_equal(fix_stats(f.srv->store).locked, 0);
	engine_resize(&f.mem, 1, f.mem.bytes);
	fx_close(&f);
}

/* The leading tokens of a RETRIEVE that the engine has already are other requests' blocks: never written. */
static void test_07_skipped_tokens_are_not_written(void **state)
{
	uint64_t per_block = 8 * 2 * 16 * 2; /* bytes of a block in K or V: tokens, heads, head size, bfloat16 */
	struct wire_req req;
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 4, 4);
	fill(&f, 1);
	assert_true(fx_store(&f, "a", 4));
	for (uint32_t skip = 0; skip <= 4 * CHUNK_TOKENS; skip += 8) {
		uint64_t from = skip / 8 * per_block;

		fill(&f, 50);
		assert_int_equal(fx_lookup(&f, "a", 4), 4);
		req = fx_request(&f, WIRE_RETRIEVE, "a", 4, 0, 4);
		req.skip_first_n_tokens = skip;
		assert_true(fx_call(&f, &req).flag);
		for (uint64_t i = 0; i < f.mem.bytes; i++) {
			bool old = i % (f.mem.bytes / 2) < from;

			if (f.mem.base[1][i] != (uint8_t)(mix64(i * 8 + 1) + (old ? 50 : 1)))
				fail_msg("skip %u: byte %llu", skip, (unsigned long long)i);
		}
	}
	fx_close(&f);
}

/* ---- FREE_LOOKUP_LOCKS ------------------------------------------------------------------------------------------------ */

/* Which chunks a range selects, by the golden vectors: exactly those give their locks back. */
static void free_case(struct fx *f, const json_t *c)
{
	uint32_t tokens = (uint32_t)json_integer_value(json_object_get(c, "num_tokens"));
	uint32_t cs = (uint32_t)json_integer_value(json_object_get(c, "chunk_size")), chunks = tokens / cs;
	const json_t *starts = json_object_get(c, "chunk_starts");
	struct wire_req req = fx_request(f, WIRE_FREE_LOOKUP_LOCKS, "a", 4, 0, 4);
	struct ctx *ctx = ctx_get(f->srv->contexts, INSTANCE);
	store_ns ns = range_ns_find(f->e, &req, ctx);

	ctx_put(f->srv->contexts, ctx);
	assert_int_equal(f->srv->chash.chunk_tokens, cs);
	assert_int_equal(fx_lookup(f, "a", chunks), chunks);
	req.key.tokens.count = tokens;
	req.key.start = (uint64_t)json_integer_value(json_object_get(c, "start"));
	req.key.end = (uint64_t)json_integer_value(json_object_get(c, "end"));
	fx_call(f, &req);
	assert_int_equal(fix_stats(f->srv->store).locked, chunks - json_array_size(starts));
	for (uint32_t k = 0; k < chunks; k++) {
		struct store_hash h = f->e->walk->hashes[k];
		bool freed = false;

		for (size_t i = 0; i < json_array_size(starts); i++)
			freed |= json_integer_value(json_array_get(starts, i)) == (json_int_t)k * cs;
		if (!freed)
			assert_int_equal(store_delete(f->srv->store, ns, &h, false), -EBUSY);
	}
	sessions_end(f->srv->sessions, slice_str("a"), PEER_OWNER, 0);
}

static void test_08_free_lookup_locks(void **state)
{
	json_t *root = json_load_file("tests/golden/token-hash.json", 0, NULL);
	const json_t *cases = json_object_get(json_object_get(root, "range_selection"), "cases"), *c;
	struct fx f;
	size_t i;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, 256, 4, 4);
	assert_true(fx_store(&f, "a", 4));
	json_array_foreach(cases, i, c) free_case(&f, c);
	assert_int_equal(i, 7);
	json_decref(root);
	fx_close(&f);
}

/* ---- faults ---------------------------------------------------------------------------------------------------------- */

static void test_09_exec_out_of_memory(void **state)
{
	struct exec *e = NULL;
	struct fx f;
	uint64_t n;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 4, 4);
	for (n = 1;; n++) {
		struct why why = {0};
		int err;

		mem_fail_at(n);
		err = exec_create(f.srv, &e, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_string_not_equal(why.text, "");
	}
	assert_true(n >= 3);
	exec_destroy(e);
	exec_destroy(NULL);
	fx_close(&f);
}

/* Whichever allocation of a request fails: an answer, and nothing kept. */
static void test_10_requests_out_of_memory(void **state)
{
	static const enum wire_op ops[] = {WIRE_LOOKUP, WIRE_STORE, WIRE_RETRIEVE, WIRE_REGISTER_KV_CACHE};
	struct fx f;
	(void)state;

	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 16, 4);
	assert_true(fx_store(&f, "a", 16));
	for (size_t i = 0; i < 4; i++) {
		for (uint64_t n = 1; n <= 12; n++) {
			struct wire_req req = fx_request(&f, ops[i], "a", 16, 0, 16);

			if (ops[i] == WIRE_REGISTER_KV_CACHE) {
				req = engine_registration(&f.mem, INSTANCE + n);
				req.dialect = DIALECT;
			}
			fx_message(&f, &req);
			mem_fail_at(n);
			fx_run(&f);
			mem_fail_at(0);
			fx_reply(&f, ops[i]);
			sessions_end(f.srv->sessions, slice_str("a"), PEER_OWNER, 0);
			assert_int_equal(fix_stats(f.srv->store).locked, 0);
			assert_int_equal(fix_stats(f.srv->store).reserved, 0);
		}
	}
	fx_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_what_was_stored_comes_back),
		cmocka_unit_test(test_02_no_allocation),
		cmocka_unit_test(test_03_no_allocation_under_eviction),
		cmocka_unit_test(test_04_a_grown_prompt),
		cmocka_unit_test(test_05_requests_that_make_no_sense),
		cmocka_unit_test(test_06_memory_that_vanishes),
		cmocka_unit_test(test_07_skipped_tokens_are_not_written),
		cmocka_unit_test(test_08_free_lookup_locks),
		cmocka_unit_test(test_09_exec_out_of_memory),
		cmocka_unit_test(test_10_requests_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
