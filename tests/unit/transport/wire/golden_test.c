/* Every golden message in both directions: frames -> fields -> the vectors' JSON, and fields -> frames, byte for byte. */
#include "tests/unit/transport/wire/golden.h"

/* Payload items in the order of reference section 7, one letter each; written down here a second time on purpose. */
static const struct {
	enum wire_op op;
	enum wire_dialect from;
	const char *items[2]; /* by age; the one with as many letters as the message has frames */
} shapes[] = {
	{WIRE_REGISTER_KV_CACHE, WIRE_D1, {"IWMwH", NULL}},
	{WIRE_REGISTER_KV_CACHE, WIRE_D3, {"IWMwEH", NULL}},
	{WIRE_REGISTER_KV_CACHE, WIRE_D4, {"IWMwEHG", NULL}},
	{WIRE_UNREGISTER_KV_CACHE, WIRE_D1, {"I", NULL}},
	{WIRE_STORE, WIRE_D1, {"KIBe", NULL}},
	{WIRE_STORE, WIRE_D4, {"KIbe", NULL}},
	{WIRE_RETRIEVE, WIRE_D1, {"KIBes", NULL}},
	{WIRE_RETRIEVE, WIRE_D4, {"KIbes", NULL}},
	{WIRE_LOOKUP, WIRE_D1, {"Kt", NULL}},
	{WIRE_QUERY_PREFETCH_STATUS, WIRE_D1, {"j", NULL}},
	{WIRE_QUERY_PREFETCH_STATUS, WIRE_D2, {"R", NULL}},
	{WIRE_QUERY_PREFETCH_LOOKUP_HITS, WIRE_D2, {"R", NULL}},
	{WIRE_WAIT_PREFETCH_STATUS, WIRE_D5A, {"RT", NULL}},
	{WIRE_FREE_LOOKUP_LOCKS, WIRE_D1, {"Kt", NULL}},
	{WIRE_END_SESSION, WIRE_D1, {"R", NULL}},
	{WIRE_STORE_CPU_CHUNKS, WIRE_D3B, {"KID", NULL}},
	{WIRE_RETRIEVE_CPU_CHUNKS, WIRE_D3B, {"KI", NULL}},
	{WIRE_REGISTER_ENGINE_DRIVEN, WIRE_D4, {"d", NULL}},
	{WIRE_UNREGISTER_ENGINE_DRIVEN, WIRE_D4, {"I", NULL}},
	{WIRE_PREPARE_STORE, WIRE_D4, {"KI", NULL}},
	{WIRE_COMMIT_STORE, WIRE_D4, {"KID", NULL}},
	{WIRE_PREPARE_RETRIEVE, WIRE_D4, {"KI", NULL}},
	{WIRE_COMMIT_RETRIEVE, WIRE_D4, {"KI", NULL}},
	{WIRE_CLEAR, WIRE_D1, {"", NULL}},
	{WIRE_GET_CHUNK_SIZE, WIRE_D1, {"", NULL}},
	{WIRE_PING, WIRE_D1, {"", NULL}},
	{WIRE_PING, WIRE_D4, {"", "p"}},
	{WIRE_REPORT_BLOCK_ALLOCATION, WIRE_D2, {"IMA", NULL}},
	{WIRE_NOOP, WIRE_D1, {"", NULL}},
	{WIRE_CB_REGISTER_KV_CACHE, WIRE_D1, {"IWMw", NULL}},
	{WIRE_CB_UNREGISTER_KV_CACHE, WIRE_D1, {"I", NULL}},
	{WIRE_CB_STORE_PRE_COMPUTED, WIRE_D1, {"KoIe", NULL}},
	{WIRE_CB_LOOKUP_PRE_COMPUTED, WIRE_D1, {"K", NULL}},
	{WIRE_CB_RETRIEVE_PRE_COMPUTED, WIRE_D1, {"KaoIe", NULL}},
	{WIRE_CB_STORE_FINAL, WIRE_D1, {"KoIe", NULL}},
	{WIRE_CB_LOOKUP_PRE_COMPUTED_V2, WIRE_D1, {"K", NULL}},
	{WIRE_CB_RETRIEVE_PRE_COMPUTED_V2, WIRE_D1, {"KmoIe", NULL}},
	{WIRE_CB_PROTOCOL_HANDSHAKE, WIRE_D6, {"j", NULL}},
	{WIRE_P2P_LOOKUP_AND_LOCK, WIRE_D4V3, {"OL", NULL}},
	{WIRE_P2P_QUERY_LOOKUP_RESULTS, WIRE_D4V3, {"j", NULL}},
	{WIRE_P2P_UNLOCK_OBJECTS, WIRE_D4V3, {"O", NULL}},
	{WIRE_GET_EXPERIMENTAL, WIRE_D5, {"", NULL}},
};

static const char *items_of(enum wire_dialect d, enum wire_op op, size_t frames)
{
	const char *found = NULL;

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		for (size_t k = 0; k < 2 && shapes[i].op == op && shapes[i].from <= d; k++) {
			if (shapes[i].items[k] && strlen(shapes[i].items[k]) == frames)
				found = shapes[i].items[k];
		}
	}
	if (!found)
		fail_msg("no shape of %s with %zu frames in the test", wire_op_name(op), frames);
	return found;
}

static json_t *u32s_json(const uint32_t *v, uint32_t n)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(list, golden_int(v[i]));
	return list;
}

static json_t *key_json(const struct wire_key *k)
{
	json_t *o = json_object();

	json_object_set_new(o, "model_name", golden_text(k->model));
	json_object_set_new(o, "world_size", golden_int(k->world_size));
	json_object_set_new(o, "worker_id", k->worker_id < 0 ? json_null() : golden_int((uint64_t)k->worker_id));
	json_object_set_new(o, "token_ids", u32s_json(k->tokens.ids, k->tokens.count));
	json_object_set_new(o, "start", golden_int(k->start));
	json_object_set_new(o, "end", golden_int(k->end));
	json_object_set_new(o, "request_id", golden_text(k->request_id));
	if (k->has_salt)
		json_object_set_new(o, "cache_salt", golden_text(k->salt));
	if (k->has_readers) {
		json_object_set_new(o, "request_configs", json_null());
		json_object_set_new(o, "num_kv_readers", json_integer(k->num_kv_readers));
		json_object_set_new(o, "null_chunk_mask", json_null());
	}
	return o;
}

static json_t *hints_json(const struct wire_hints *h)
{
	json_t *o = json_object();

	if (h->kv_layout.n)
		json_object_set_new(o, "kv_layout", golden_text(h->kv_layout));
	if (h->num_kv_heads)
		json_object_set_new(o, "num_kv_heads", golden_int(h->num_kv_heads));
	if (h->tokens_per_block)
		json_object_set_new(o, "tokens_per_block", golden_int(h->tokens_per_block));
	if (h->head_dim)
		json_object_set_new(o, "head_dim", golden_int(h->head_dim));
	return o;
}

static json_t *groups_json(const struct wire_req *r)
{
	json_t *list = json_array();

	assert_true(r->has_groups);
	for (uint32_t i = 0; i < r->ngroups; i++) {
		const struct wire_group_info *g = &r->groups[i];
		json_array_append_new(list, json_pack("{s:I,s:o}", "engine_group_id", (json_int_t)g->engine_group_id,
						      "layer_indices", u32s_json(g->layer_indices, g->nlayers)));
	}
	return list;
}

/* The vectors show of a wrapper only its class: the count is what can be compared (bytes are, when written again). */
static json_t *wrappers_json(const struct wire_req *r, const json_t *want)
{
	for (uint32_t i = 0; i < r->nwrappers; i++)
		assert_memory_equal(r->wrappers[i].p, "\x80\x04", 2); /* a pickle of protocol 4 */
	assert_int_equal(r->nwrappers, json_array_size(want));
	return json_deep_copy(want);
}

static json_t *blocks_json(const struct wire_req *r)
{
	json_t *list = json_array();

	assert_false(r->flat_blocks);
	for (uint32_t i = 0; i < r->nblock_groups; i++)
		json_array_append_new(list, u32s_json(r->blocks[i].ids, r->blocks[i].n));
	return list;
}

static json_t *engine_driven_json(const struct wire_req *r)
{
	return json_pack("{s:I,s:o,s:I,s:I,s:I,s:I,s:o,s:b}", "instance_id", (json_int_t)r->instance_id, "model_name",
			 golden_text(r->model), "world_size", (json_int_t)r->world_size, "block_size",
			 (json_int_t)r->ed.block_size, "num_layers", (json_int_t)r->ed.num_layers, "hidden_dim_size",
			 (json_int_t)r->ed.hidden_dim_size, "dtype_str", golden_text(r->ed.dtype), "use_mla",
			 (int)r->ed.use_mla);
}

static json_t *item_json(char letter, const struct wire_req *r, const json_t *want)
{
	switch (letter) {
	case 'K':
		assert_true(r->has_key);
		return key_json(&r->key);
	case 'I':
		assert_true(r->has_instance);
		return golden_int(r->instance_id);
	case 'p':
		return r->has_instance ? golden_int(r->instance_id) : json_null();
	case 'W':
		return wrappers_json(r, want);
	case 'M':
		return golden_text(r->model);
	case 'w':
		return golden_int(r->world_size);
	case 'E':
		return golden_text(r->engine_type);
	case 'H':
		return hints_json(&r->hints);
	case 'G':
		return groups_json(r);
	case 'B':
		assert_true(r->flat_blocks);
		assert_int_equal(r->nblock_groups, 1);
		return u32s_json(r->blocks[0].ids, r->blocks[0].n);
	case 'b':
		return blocks_json(r);
	case 'e':
		return golden_bin(r->event);
	case 's':
		return golden_int(r->skip_first_n_tokens);
	case 't':
		return json_integer(r->tp_size);
	case 'j':
		return golden_int(r->job_id);
	case 'R':
		return golden_text(r->request_id);
	case 'T':
		return json_real(r->timeout_seconds);
	case 'D':
		return golden_bin(r->data);
	case 'o':
		return golden_int(r->offset);
	case 'd':
		return engine_driven_json(r);
	case 'A':
		assert_int_equal(r->nrecords, json_array_size(want));
		return golden_raw(r->records);
	case 'a':
		assert_int_equal(r->nranges, json_array_size(want));
		return golden_raw(r->ranges);
	case 'm':
		assert_int_equal(r->nmatches, json_array_size(want));
		return golden_raw(r->matches);
	case 'O':
		assert_int_equal(r->nobject_keys, json_array_size(want));
		return golden_raw(r->object_keys);
	case 'L':
		return golden_raw(r->layouts);
	default:
		fail_msg("letter %c", letter);
		return NULL;
	}
}

static void check_fields(const struct wire_req *r, const json_t *payload)
{
	const char *items = items_of(r->dialect, r->op, json_array_size(payload));

	for (size_t i = 0; items[i]; i++) {
		const json_t *want = json_array_get(payload, i);
		golden_same(want, item_json(items[i], r, want), wire_op_name(r->op));
	}
}

static void check_written(const struct wire_req *r, uint64_t uid, const struct slice *want, size_t n)
{
	static uint8_t buf[1 << 20];
	struct slice got[GOLDEN_FRAMES];
	size_t wanted = n == 2 ? WIRE_FRAMES_NONE : n - 2;
	ssize_t count = wire_request_encode(r->dialect, uid, r, wanted, buf, sizeof(buf), got);
	size_t total = 0;

	assert_int_equal(count, n);
	for (size_t i = 0; i < n; i++) {
		golden_same_bytes(want[i], got[i], wire_op_name(r->op));
		total += got[i].n;
	}
	assert_int_equal(wire_request_encode(r->dialect, uid, r, wanted, buf, total, got), n);
	assert_int_equal(wire_request_encode(r->dialect, uid, r, wanted, buf, total - 1, got), -ENOSPC);
}

static void check_request(const json_t *message, struct wire_scratch *scratch)
{
	struct slice frames[GOLDEN_FRAMES], name;
	size_t n = golden_frames(json_object_get(message, "request"), frames);
	enum wire_dialect d = golden_dialect(message);
	uint64_t uid, number;
	struct wire_req req;
	struct why why = {0};

	assert_int_equal(wire_uid_decode(frames[0], &uid), 0);
	assert_int_equal(uid, json_integer_value(json_object_get(message, "uid")));
	assert_int_equal(wire_type_decode(frames[1], &number, &name), 0);
	if (json_is_string(json_object_get(message, "request_type"))) {
		assert_true(slice_is(name, golden_str(message, "request_type")));
	} else {
		assert_null(name.p);
		assert_int_equal(number, json_integer_value(json_object_get(message, "request_type")));
		enum wire_op op = wire_dialect_op(d, number);
		assert_string_equal(wire_dialect_op_name(d, op), golden_str(message, "name"));
		if (wire_request_decode(d, op, frames + 2, n - 2, scratch, &req, &why))
			fail_msg("%s", why.text);
		check_fields(&req, json_object_get(json_object_get(message, "request"), "payload"));
		check_written(&req, uid, frames, n);
	}
	golden_free_all(frames, n);
}

static void test_01_requests(void **state)
{
	json_t *root = golden_load();
	struct wire_scratch *scratch;
	json_t *message;
	size_t i;

	(void)state;
	assert_int_equal(wire_scratch_create(100000, 4, &scratch), 0);
	json_array_foreach(json_object_get(root, "messages"), i, message) check_request(message, scratch);
	assert_int_equal(i, 68);
	wire_scratch_destroy(scratch);
	json_decref(root);
}

/* ---- replies --------------------------------------------------------------------------------------------------------- */

static json_t *slots_json(const struct wire_slots *s, bool with_indices)
{
	json_t *o = json_object();
	json_t *list = json_array();

	if (!s->shm) {
		json_decref(list);
		return o;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		json_t *shape = json_array();
		for (uint32_t k = 0; k < s->ndim; k++)
			json_array_append_new(shape, golden_int(s->shape[k]));
		json_array_append_new(list, json_pack("{s:I,s:I,s:o,s:o}", "offset", (json_int_t)s->v[i].offset,
						      "length", (json_int_t)s->v[i].length, "shape", shape, "dtype",
						      golden_text(s->dtype)));
	}
	json_object_set_new(o, "slots", list);
	if (with_indices)
		json_object_set_new(o, "chunk_indices", u32s_json(s->chunk_indices, s->n));
	return o;
}

static json_t *list_json(const struct wire_reply *r)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < (r->kind == WIRE_REPLY_STRS ? r->nstrs : r->nitems); i++) {
		json_t *v;
		if (r->kind == WIRE_REPLY_STRS)
			v = golden_text(r->strs[i]);
		else if (r->kind == WIRE_REPLY_RANGES)
			v = json_pack("[I,I]", (json_int_t)r->ranges[i].start, (json_int_t)r->ranges[i].end);
		else if (r->kind == WIRE_REPLY_P2P_RESULTS)
			v = json_pack("{s:I,s:I}", "offset", (json_int_t)r->p2p[i].offset, "size",
				      (json_int_t)r->p2p[i].length);
		else
			v = json_pack("{s:I,s:I,s:I,s:I,s:o}", "old_st", (json_int_t)r->matches[i].old_st, "old_ed",
				      (json_int_t)r->matches[i].old_ed, "cur_st", (json_int_t)r->matches[i].cur_st,
				      "cur_ed", (json_int_t)r->matches[i].cur_ed, "hash",
				      golden_bin(r->matches[i].hash));
		json_array_append_new(list, v);
	}
	return list;
}

static json_t *reply_json(const struct wire_reply *r)
{
	switch (r->kind) {
	case WIRE_REPLY_NONE:
		return json_null();
	case WIRE_REPLY_UINT:
		return golden_int(r->u);
	case WIRE_REPLY_BOOL:
		return json_boolean(r->flag);
	case WIRE_REPLY_STR:
		return golden_text(r->bytes);
	case WIRE_REPLY_EVENT:
		return json_pack("[o,b]", golden_bin(r->bytes), (int)r->flag);
	case WIRE_REPLY_BOOL_BYTES:
		return json_pack("[b,o]", (int)r->flag, golden_bin(r->bytes));
	case WIRE_REPLY_POOL:
		return json_pack("{s:o,s:I}", "shm_name", golden_text(r->shm_name), "pool_size",
				 (json_int_t)r->pool_size);
	case WIRE_REPLY_PREPARE_STORE:
		return json_pack("{s:o}", "context", slots_json(&r->slots, true));
	case WIRE_REPLY_PREPARE_RETRIEVE:
		return json_pack("{s:b,s:o,s:o}", "success", (int)r->flag, "data", golden_bin(r->bytes), "context",
				 slots_json(&r->slots, false));
	case WIRE_REPLY_INT_BOOL:
		return json_pack("[I,b]", (json_int_t)r->u, (int)r->flag);
	default:
		return list_json(r);
	}
}

/* Returns whether the message has a reply. */
static bool check_reply(const json_t *message, struct wire_scratch *scratch)
{
	json_t *side = json_object_get(message, "reply");
	json_t *type = json_object_get(message, "request_type");
	struct slice frames[GOLDEN_FRAMES], payload;
	static uint8_t buf[1 << 16];
	struct wire_reply reply;
	struct why why = {0};

	if (!json_is_object(side) || json_is_string(type))
		return false;
	size_t n = golden_frames(side, frames);
	payload = n == 3 ? frames[2] : (struct slice){0};
	enum wire_dialect d = golden_dialect(message);
	enum wire_op op = wire_dialect_op(d, (uint64_t)json_integer_value(type));
	if (wire_reply_decode(d, op, payload, scratch, &reply, &why))
		fail_msg("%s", why.text);
	golden_same(json_object_get(side, "value"), reply_json(&reply), wire_op_name(op));
	assert_true(wire_reply_bound(&reply) >= payload.n);
	assert_int_equal(wire_reply_encode(&reply, buf, sizeof(buf)), payload.n);
	golden_same_bytes(payload, slice_of(buf, payload.n), wire_op_name(op));
	assert_int_equal(wire_reply_encode(&reply, buf, payload.n), payload.n);
	if (payload.n)
		assert_int_equal(wire_reply_encode(&reply, buf, payload.n - 1), -ENOSPC);
	golden_free_all(frames, n);
	return true;
}

static void test_02_replies(void **state)
{
	json_t *root = golden_load();
	struct wire_scratch *scratch;
	json_t *message;
	size_t i, replies = 0;

	(void)state;
	assert_int_equal(wire_scratch_create(1000, 0, &scratch), 0);
	json_array_foreach(json_object_get(root, "messages"), i, message) replies += check_reply(message, scratch);
	assert_int_equal(replies, 66); /* one STORE stays unanswered, one D7 name has no operation */
	wire_scratch_destroy(scratch);
	json_decref(root);
}

/* ---- a key of 1000 tokens --------------------------------------------------------------------------------------------- */

static void check_marks(const struct wire_tokens *t, uint32_t every)
{
	assert_int_equal(t->nmarks, every ? t->count / every : 0);
	for (uint32_t k = 0; k < t->nmarks; k++) {
		struct mp_in in = mp_in(slice_of(t->raw, t->raw_bytes));
		uint64_t v = 0;

		for (uint32_t i = 0; i < (k + 1) * every; i++)
			assert_true(mp_uint(&in, UINT32_MAX, &v));
		assert_int_equal(in.p - t->raw, t->marks[k]);
		assert_int_equal(v, t->ids[(k + 1) * every - 1]);
	}
}

static void test_03_large_key(void **state)
{
	static const uint32_t steps[] = {0, 1, 3, 16, 256, 999, 1000, 1001};
	json_t *root = golden_load();
	struct slice frame[2] = {golden_hex(golden_str(json_object_get(root, "large_key_frame"), "hex")),
				 slice_of("\x01", 1)};
	struct slice out[GOLDEN_FRAMES];
	static uint8_t buf[8192];

	(void)state;
	assert_int_equal(frame[0].n, 4105);
	for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
		struct wire_scratch *scratch;
		struct wire_req req;

		assert_int_equal(wire_scratch_create(1000, steps[s], &scratch), 0);
		assert_int_equal(wire_request_decode(WIRE_D2, WIRE_LOOKUP, frame, 2, scratch, &req, NULL), 0);
		assert_int_equal(req.key.tokens.count, 1000);
		for (uint32_t i = 0; i < 1000; i++)
			assert_int_equal(req.key.tokens.ids[i], (9906 + 7919 * i) % 128256);
		assert_true(slice_is(req.key.request_id, "cmpl-big-0"));
		assert_int_equal(req.key.end, 768);
		check_marks(&req.key.tokens, steps[s]);
		assert_int_equal(wire_request_encode(WIRE_D2, 0, &req, 0, buf, sizeof(buf), out), 4);
		golden_same_bytes(frame[0], out[2], "large key");
		wire_scratch_destroy(scratch);
	}
	golden_free(frame[0]);
	json_decref(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_requests),
		cmocka_unit_test(test_02_replies),
		cmocka_unit_test(test_03_large_key),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
