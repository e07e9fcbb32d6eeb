/* Registrations: every number in them comes from outside. What is refused must leave no mapping and no memory behind. */
#include "daemon/core/context.h"

#include "tests/unit/daemon/core/engine_fixture.h"

#include <jansson.h>

#define CHUNK 16u

static const struct engine_shape small = {.layers = 2, .blocks = 8, .block_tokens = 4, .heads = 2, .head_size = 8};

struct fix {
	struct engine_memory mem;
	struct pk_mem *pk;
	struct wire_req req;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(pk_mem_create(&f->pk), 0);
	engine_open(&f->mem, &small);
	f->req = engine_registration(&f->mem, 77);
	*state = f;
	return 0;
}

/* Times the engine's objects are mapped in this process. */
static int mappings(const struct fix *f)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[600];
	int n = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		for (uint32_t i = 0; i < f->mem.shape.layers; i++)
			n += strstr(line, f->mem.name[i]) != NULL;
	}
	fclose(maps);
	return n;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	assert_int_equal(mappings(f), small.layers); /* the engine's own */
	engine_close(&f->mem);
	pk_mem_destroy(f->pk);
	free(f);
	return 0;
}

static int create(struct fix *f, uint32_t chunk, struct ctx **out, struct why *why)
{
	struct ctx_paged_conf conf = {.chunk_tokens = chunk, .null_block = 0, .pk = f->pk};

	return ctx_paged_create(&f->req, &conf, out, why);
}

static void refused(struct fix *f, int err, const char *says)
{
	struct ctx *c = NULL;
	struct why why = {0};
	int got = create(f, CHUNK, &c, &why);

	if (got != err || !strstr(why.text, says))
		fail_msg("%d '%s', want %d '%s'", got, why.text, err, says);
	assert_null(c);
	assert_int_equal(mappings(f), small.layers);
}

static void test_01_a_good_one(void **state)
{
	struct fix *f = *state;
	struct ctx *c;
	struct why why;

	if (create(f, CHUNK, &c, &why))
		fail_msg("%s", why.text);
	assert_int_equal(c->kind, CTX_PAGED);
	assert_int_equal(c->instance_id, 77);
	assert_int_equal(c->object_bytes, engine_object_bytes(&small, CHUNK));
	assert_int_equal(c->nmaps, 2);
	assert_int_equal(c->num_layers, 2);
	assert_int_equal(c->block_size, 4);
	assert_int_equal(c->hidden, 16);
	assert_int_equal(c->dtype, PK_BFLOAT16);
	assert_false(c->use_mla);
	assert_false(ctx_faulted(c));
	assert_string_equal(c->model, "m");
	f->mem.base[1][5] = 99; /* the same memory */
	assert_int_equal(shmx_base(c->maps[1])[5], 99);
	assert_int_equal(mappings(f), 4);
	ctx_put(NULL, c);
}

static void test_02_number_of_tensors(void **state)
{
	struct fix *f = *state;

	f->req.nwrappers = 0;
	refused(f, -EINVAL, "0 tensors");
	f->req.nwrappers = KV_MAX_TENSORS + 1; /* the array is not looked at */
	refused(f, -EINVAL, "4097 tensors");
	f->req.nwrappers = UINT32_MAX;
	refused(f, -EINVAL, "4294967295 tensors");
}

static void spoil(struct fix *f, const struct pk_wrapper *w, int err, const char *says)
{
	struct pk_wrapper good = f->mem.w[1];

	f->mem.w[1] = *w; /* the second one, so that there is something to give back */
	engine_wrap(&f->mem);
	refused(f, err, says);
	f->mem.w[1] = good;
	engine_wrap(&f->mem);
}

static void test_03_names(void **state)
{
	static const char *const paths[] = {"..", ".", "/../etc/passwd", "../../etc/passwd", "/a/b", "/", ""};
	struct fix *f = *state;

	struct pk_wrapper w = f->mem.w[1];

	w.shm_name = slice_str("/lmca_core_test_nobody_has_this");
	spoil(f, &w, -ENOENT, "tensor 1");
	w.shm_name = slice_str("/..");
	spoil(f, &w, -EINVAL, "tensor 1");
	w.shm_name = slice_str("/.");
	spoil(f, &w, -EINVAL, "tensor 1");
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		w.shm_name = slice_str(paths[i]);
		spoil(f, &w, -EPROTO, "tensor 1");
	}
}

static void test_04_sizes(void **state)
{
	struct fix *f = *state;
	struct pk_wrapper w = f->mem.w[1];

	w.nbytes = f->mem.bytes + 1; /* more than the object has */
	spoil(f, &w, -ERANGE, "tensor 1");
	w.nbytes = 1ull << 62;
	spoil(f, &w, -ERANGE, "tensor 1");
	w.nbytes = f->mem.bytes - 1; /* less than the shape needs */
	spoil(f, &w, -EPROTO, "tensor 1");
	w.nbytes = 0;
	spoil(f, &w, -EPROTO, "tensor 1");
	w = f->mem.w[1];
	w.storage_offset = 1;
	spoil(f, &w, -EPROTO, "tensor 1");
	w.storage_offset = UINT64_MAX / 2;
	spoil(f, &w, -EPROTO, "tensor 1");
	w = f->mem.w[1];
	w.stride[1] = INT64_MAX / 2;
	spoil(f, &w, -EPROTO, "tensor 1");
	w = f->mem.w[1];
	w.shape[0] = w.shape[1] = 1ull << 33;
	spoil(f, &w, -EPROTO, "tensor 1");
	w = f->mem.w[1];
	w.shape[3] = 0;
	spoil(f, &w, -EINVAL, "");
}

/* Bytes that are in bounds but mean nothing. */
static void test_05_layouts_nobody_knows(void **state)
{
	struct fix *f = *state;
	struct pk_wrapper w = f->mem.w[1];

	w.ndim = 1;
	w.shape[0] = f->mem.bytes / 2;
	engine_contiguous(&w);
	spoil(f, &w, -EINVAL, "");
	w.ndim = 8;
	for (int d = 0; d < 8; d++)
		w.shape[d] = 2;
	engine_contiguous(&w);
	spoil(f, &w, -EINVAL, "");
	w = f->mem.w[1];
	w.stride[2] = 0; /* tokens on top of each other */
	spoil(f, &w, -EINVAL, "");
	f->req.hints.kv_layout = slice_str("XYZ");
	refused(f, -EINVAL, "");
	f->req.hints.kv_layout = slice_of("", 0);
	f->req.hints.tokens_per_block = 5;
	refused(f, -EINVAL, "");
}

static void test_06_groups(void **state)
{
	static const uint32_t twice[] = {0, 0}, beyond[] = {0, 2}, huge[] = {UINT32_MAX, 1};
	static const uint32_t *const bad[] = {twice, beyond, huge};
	struct fix *f = *state;

	f->req.has_groups = true;
	f->req.ngroups = 1;
	for (int i = 0; i < 3; i++) {
		f->req.groups[0] = (struct wire_group_info){.layer_indices = bad[i], .nlayers = 2};
		refused(f, -EINVAL, "");
	}
	f->req.groups[0] = (struct wire_group_info){.layer_indices = twice, .nlayers = 1}; /* layer 1 is in no group */
	refused(f, -EINVAL, "");
}

static void test_07_chunks_that_do_not_fit_the_blocks(void **state)
{
	static const uint32_t bad[] = {1, 2, 3, 5, 6, 17, 65535};
	struct fix *f = *state;
	struct ctx *c;
	struct why why;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(create(f, bad[i], &c, &why), -EINVAL);
		assert_string_not_equal(why.text, "");
	}
	assert_int_equal(create(f, 4, &c, &why), 0);
	ctx_put(NULL, c);
}

static void test_08_objects_of_more_than_four_gib(void **state)
{
	struct engine_shape wide = {.layers = 1, .blocks = 2, .block_tokens = 2, .heads = 128, .head_size = 1024};
	struct fix *f = *state;
	struct engine_memory mem;
	struct wire_req keep = f->req;
	struct ctx *c;
	struct why why;

	engine_close(&f->mem);
	engine_open(&mem, &wide);
	f->req = engine_registration(&mem, 1);
	assert_int_equal(create(f, 65536, &c, &why), -ERANGE);
	assert_non_null(strstr(why.text, "bytes"));
	assert_int_equal(create(f, 2, &c, &why), 0);
	ctx_put(NULL, c);
	engine_close(&mem);
	engine_open(&f->mem, &small);
	f->req = keep;
}

/* Every way a message can end too early or be wrong in one byte: refused or understood, never a crash, nothing left behind. */
static void test_09_broken_pickles(void **state)
{
	struct rnd r = rnd_start("broken pickles");
	struct fix *f = *state;
	uint8_t good[1024], *exact;
	size_t n = f->mem.wrappers[1].n;
	int accepted = 0;
	struct ctx *c;

	memcpy(good, f->mem.pickle[1], n);
	for (size_t cut = 0; cut < n; cut++) {
		exact = malloc(cut ? cut : 1);
		memcpy(exact, good, cut);
		f->mem.wrappers[1] = slice_of(exact, cut);
		refused(f, -EPROTO, "tensor 1");
		free(exact);
	}
	for (int i = 0; i < 3000; i++) {
		exact = malloc(n);
		memcpy(exact, good, n);
		for (uint32_t k = rnd_below(&r, 3) + 1; k-- > 0;)
			exact[rnd_below(&r, (uint32_t)n)] = (uint8_t)rnd_below(&r, 256);
		f->mem.wrappers[1] = slice_of(exact, n);
		c = NULL;
		if (create(f, CHUNK, &c, NULL) == 0) {
			accepted++;
			assert_in_range(c->object_bytes, 1, 4ull << 30);
			ctx_put(NULL, c);
		} else {
			assert_null(c);
		}
		free(exact);
	}
	assert_true(accepted > 0 && accepted < 3000);
	f->mem.wrappers[1] = slice_of(f->mem.pickle[1], n);
}

/* A handle of a device: this server has no door for it, and says what to do. */
static void test_10_device_handles(void **state)
{
	json_t *root = json_load_file("tests/golden/messages.json", JSON_DECODE_INT_AS_REAL, NULL);
	const json_t *list = json_object_get(root, "device_pickles"), *p;
	struct fix *f = *state;
	uint8_t buf[4096];
	size_t i, devices = 0;

	json_array_foreach(list, i, p)
	{
		const char *cls = json_string_value(json_object_get(p, "class"));
		size_t n = from_hex(json_string_value(json_object_get(p, "protocol4")), buf, sizeof(buf));

		if (strstr(cls, "Shm"))
			continue;
		f->mem.wrappers[0] = slice_of(buf, n);
		refused(f, -EOPNOTSUPP, "tensor 0: a CUDA handle");
		devices++;
	}
	assert_true(devices >= 4);
	json_decref(root);
}

static void test_11_memory_that_vanished(void **state)
{
	struct fix *f = *state;
	struct kv_blocks blocks = {(uint32_t[]){0, 1, 2, 3}, 4};
	struct ctx *c;
	struct why why;
	uint8_t *object = calloc(1, engine_object_bytes(&small, CHUNK));

	assert_int_equal(shmx_init(&why), 0); /* in here: cmocka sets handlers of its own around each test */
	assert_int_equal(create(f, CHUNK, &c, NULL), 0);
	assert_int_equal(kv_blocks_check(c->layout, &blocks, 1, 1, &why), 0);
	kv_gather(c->layout, &blocks, 0, object);
	assert_false(ctx_faulted(c));
	engine_resize(&f->mem, 1, 0);
	kv_gather(c->layout, &blocks, 0, object);
	assert_true(ctx_faulted(c));
	ctx_put(NULL, c);
	engine_resize(&f->mem, 1, f->mem.bytes);
	assert_int_equal(create(f, CHUNK, &c, NULL), 0); /* registering again heals it */
	assert_false(ctx_faulted(c));
	ctx_put(NULL, c);
	free(object);
}

static void test_12_out_of_memory(void **state)
{
	struct fix *f = *state;
	struct ctx *c;
	uint64_t n;

	for (n = 1;; n++) {
		struct why why = {0};
		int err;

		c = NULL;
		mem_fail_at(n);
		err = create(f, CHUNK, &c, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_string_not_equal(why.text, "");
		assert_null(c);
		assert_int_equal(mappings(f), small.layers);
	}
	assert_true(n >= 6);
	ctx_put(NULL, c);
}

/* ---- engine-driven -------------------------------------------------------------------------------------------------- */

static struct wire_req driven(void)
{
	return (struct wire_req){
		.op = WIRE_REGISTER_ENGINE_DRIVEN,
		.instance_id = 5,
		.model = slice_str("m"),
		.world_size = 2,
		.engine_type = slice_of("", 0),
		.ed = {.block_size = 16, .num_layers = 32, .hidden_dim_size = 1024, .dtype = slice_str("bfloat16")}};
}

static void test_13_engine_driven(void **state)
{
	struct wire_req req = driven();
	struct ctx *c;
	struct why why;
	(void)state;

	assert_int_equal(ctx_engine_driven_create(&req, 256, true, &c, &why), 0);
	assert_int_equal(c->kind, CTX_SLOTS);
	assert_int_equal(c->object_bytes, 2ull * 32 * 256 * 1024 * 2);
	assert_int_equal(c->ndim, 4);
	assert_true(c->shape[0] == 2 && c->shape[1] == 32 && c->shape[2] == 256 && c->shape[3] == 1024);
	ctx_put(NULL, c);
	req.ed.use_mla = true;
	req.ed.dtype = slice_str("float8_e4m3fn");
	assert_int_equal(ctx_engine_driven_create(&req, 256, false, &c, &why), 0);
	assert_int_equal(c->kind, CTX_BYTES);
	assert_int_equal(c->object_bytes, 32ull * 256 * 1024);
	assert_int_equal(c->ndim, 3);
	assert_true(c->shape[0] == 32 && c->shape[1] == 256 && c->shape[2] == 1024);
	ctx_put(NULL, c);
}

static void not_driven(const struct wire_req *req, int err, const char *says)
{
	struct ctx *c;
	struct why why = {0};

	assert_int_equal(ctx_engine_driven_create(req, 256, true, &c, &why), err);
	if (!strstr(why.text, says))
		fail_msg("'%s' does not say '%s'", why.text, says);
}

static void test_14_engine_driven_refusals(void **state)
{
	struct wire_req req = driven();
	(void)state;

	req.ed.dtype = slice_str("complex64");
	not_driven(&req, -EINVAL, "complex64");
	req.ed.dtype = slice_of("", 0);
	not_driven(&req, -EINVAL, "dtype");
	req = driven();
	req.ed.num_layers = 0;
	not_driven(&req, -EINVAL, "layers 0");
	req = driven();
	req.ed.hidden_dim_size = 0;
	not_driven(&req, -EINVAL, "hidden size 0");
	req = driven();
	req.ed.block_size = 0;
	not_driven(&req, -EINVAL, "block size 0");
	req.ed.block_size = 17;
	not_driven(&req, -EINVAL, "block size 17");
	req.ed.block_size = 512;
	not_driven(&req, -EINVAL, "block size 512");
	req = driven();
	req.ed.num_layers = req.ed.hidden_dim_size = UINT32_MAX; /* wraps in 64 bits */
	not_driven(&req, -ERANGE, "more than");
	req.ed.num_layers = 1u << 31;
	req.ed.hidden_dim_size = 1u << 24; /* 2 * 2^31 * 256 * 2^24 * 2 is 0 modulo 2^64 */
	not_driven(&req, -ERANGE, "more than");
}

static void test_15_engine_driven_out_of_memory(void **state)
{
	struct wire_req req = driven();
	struct ctx *c;
	struct why why = {0};
	uint64_t n;
	(void)state;

	for (n = 1;; n++) {
		int err;

		mem_fail_at(n);
		err = ctx_engine_driven_create(&req, 256, true, &c, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	assert_int_equal(n, 4);
	ctx_put(NULL, c);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_01_a_good_one),
		T(test_02_number_of_tensors),
		T(test_03_names),
		T(test_04_sizes),
		T(test_05_layouts_nobody_knows),
		T(test_06_groups),
		T(test_07_chunks_that_do_not_fit_the_blocks),
		T(test_08_objects_of_more_than_four_gib),
		T(test_09_broken_pickles),
		T(test_10_device_handles),
		T(test_11_memory_that_vanished),
		T(test_12_out_of_memory),
		cmocka_unit_test(test_13_engine_driven),
		cmocka_unit_test(test_14_engine_driven_refusals),
		cmocka_unit_test(test_15_engine_driven_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
