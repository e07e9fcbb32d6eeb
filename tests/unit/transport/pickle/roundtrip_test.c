/* Against CPython itself: what its pickle module writes is read here, what is emitted here is read by it. The Python side
 * is roundtrip.py with a stand-in for torch. */
#include "tests/unit/transport/pickle/helpers.h"

#include <unistd.h>

#define SCRIPT "/usr/bin/python3 -B tests/unit/transport/pickle/roundtrip.py"

struct ctx {
	struct pk_mem *mem;
	char dir[64];
};

static int setup(void **state)
{
	static struct ctx c;

	snprintf(c.dir, sizeof(c.dir), "/tmp/pickle-test-XXXXXX");
	*state = &c;
	return mkdtemp(c.dir) ? pk_mem_create(&c.mem) : -1;
}

static int teardown(void **state)
{
	struct ctx *c = *state;
	char cmd[128];

	pk_mem_destroy(c->mem);
	snprintf(cmd, sizeof(cmd), "rm -r %s", c->dir);
	return system(cmd);
}

static void run(const char *args, const char *dir, const char *more)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), SCRIPT " %s %s%s", args, dir, more);
	if (system(cmd) != 0)
		fail_msg("failed: %s", cmd);
}

static json_t *load_json(const char *dir, const char *name)
{
	char path[256];
	json_error_t e;
	json_t *root;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	root = json_load_file(path, 0, &e);
	if (!root)
		fail_msg("%s: %s", path, e.text);
	return root;
}

static struct buf load_file(const char *dir, const char *name)
{
	char path[256];
	struct buf b;
	FILE *f;
	long n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_int_equal(fseek(f, 0, SEEK_END), 0);
	n = ftell(f);
	assert_true(n > 0);
	rewind(f);
	b = (struct buf){mem_calloc((size_t)n, 1), (size_t)n};
	assert_non_null(b.p);
	assert_int_equal(fread(b.p, 1, b.n, f), b.n);
	fclose(f);
	return b;
}

static void check_dims(json_t *want, uint32_t ndim, const uint64_t *got)
{
	assert_int_equal(ndim, json_array_size(want));
	for (uint32_t i = 0; i < ndim; i++)
		assert_int_equal(got[i], json_integer_value(json_array_get(want, i)));
}

static void check_strides(json_t *want, uint32_t ndim, const int64_t *got)
{
	assert_int_equal(ndim, json_array_size(want));
	for (uint32_t i = 0; i < ndim; i++)
		assert_int_equal(got[i], json_integer_value(json_array_get(want, i)));
}

static void check_tensor(const struct pk_tensor *t, json_t *want)
{
	struct buf storage = buf_hex(json_text(want, "storage"));

	assert_string_equal(pk_dtype_name(t->dtype), json_text(want, "dtype"));
	check_dims(json_object_get(want, "shape"), t->ndim, t->shape);
	check_strides(json_object_get(want, "stride"), t->ndim, t->stride);
	assert_int_equal(t->storage_offset, json_integer_value(json_object_get(want, "offset")));
	assert_true(slice_eq(t->storage, buf_slice(storage)));
	buf_free(&storage);
}

static void check_list(struct pk_mem *m, struct buf b, json_t *want, const char *file)
{
	struct pk_tensor *t = mem_calloc(PK_MAX_TENSORS, sizeof(*t));
	uint64_t allocs = mem_thread_allocs();
	struct why why = {0};
	ssize_t n;

	assert_non_null(t);
	n = pk_tensors_parse(buf_slice(b), m, t, PK_MAX_TENSORS, &why);
	if (n < 0)
		fail_msg("%s: %s", file, why.text);
	assert_int_equal(mem_thread_allocs(), allocs);
	assert_int_equal(n, json_array_size(want));
	for (ssize_t i = 0; i < n; i++) {
		assert_true(bounds_tensor(&t[i], buf_slice(b)));
		check_tensor(&t[i], json_array_get(want, (size_t)i));
	}
	mem_free(t);
}

static void check_wrapper(struct pk_mem *m, struct buf b, json_t *want, const char *file)
{
	struct pk_wrapper w;
	struct why why = {0};

	if (pk_wrapper_parse(buf_slice(b), m, &w, &why) < 0)
		fail_msg("%s: %s", file, why.text);
	assert_true(bounds_wrapper(&w, buf_slice(b)));
	assert_int_equal(w.kind, json_integer_value(json_object_get(want, "kind")));
	assert_string_equal(pk_dtype_name(w.dtype), json_text(want, "dtype"));
	check_dims(json_object_get(want, "shape"), w.ndim, w.shape);
	check_strides(json_object_get(want, "stride"), w.ndim, w.stride);
	assert_int_equal(w.storage_offset, json_integer_value(json_object_get(want, "offset")));
	assert_int_equal(w.kind == PK_CUDA_IPC ? w.storage_bytes : w.nbytes,
			 json_integer_value(json_object_get(want, "bytes")));
	assert_true(slice_is(w.device_uuid, json_text(want, "uuid")));
	assert_true(slice_is(w.shm_name, json_text(want, "shm")));
}

/* 400 wrappers and 57 lists in protocols 3 to 5, attributes in random order, views, several batches, large bodies. */
static void test_01_read_cpython(void **state)
{
	struct ctx *c = *state;
	size_t i, wrappers = 0, lists = 0;
	json_t *index, *e;

	run("make", c->dir, "");
	index = load_json(c->dir, "index.json");
	json_array_foreach(index, i, e)
	{
		const char *file = json_text(e, "file");
		struct buf b = load_file(c->dir, file);

		if (json_object_get(e, "wrapper")) {
			check_wrapper(c->mem, b, json_object_get(e, "wrapper"), file);
			wrappers++;
		} else {
			check_list(c->mem, b, json_object_get(e, "tensors"), file);
			lists++;
		}
		buf_free(&b);
	}
	json_decref(index);
	assert_int_equal(wrappers, 400);
	assert_int_equal(lists, 57);
}

static void fill(void *ctx, size_t i, void *dst, size_t bytes)
{
	uint8_t *p = dst;

	(void)ctx;
	for (size_t k = 0; k < bytes; k++)
		p[k] = (uint8_t)(k * 7 + k / 251 + i * 31);
}

static void check_loaded(struct ctx *c, enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n)
{
	json_t *list = load_json(c->dir, "loaded.json"), *t;
	size_t bytes = pk_dtype_size(dtype), i;
	uint8_t *want;

	for (uint32_t d = 0; d < ndim; d++)
		bytes *= shape[d];
	want = mem_calloc(bytes + 1, 1);
	assert_int_equal(json_array_size(list), n);
	json_array_foreach(list, i, t)
	{
		struct buf got = buf_hex(json_text(t, "elements"));

		assert_string_equal(json_text(t, "dtype"), pk_dtype_name(dtype));
		check_dims(json_object_get(t, "shape"), ndim, shape);
		fill(NULL, i, want, bytes);
		assert_int_equal(got.n, bytes);
		assert_memory_equal(got.p, want, bytes);
		buf_free(&got);
	}
	mem_free(want);
	json_decref(list);
}

static void emit_and_load(struct ctx *c, enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n)
{
	size_t cap = pk_tensors_bound(dtype, shape, ndim, n);
	struct buf b = {mem_calloc(cap, 1), cap};
	char path[128], more[256];
	FILE *f;

	assert_non_null(b.p);
	assert_int_equal(pk_tensors_emit(dtype, shape, ndim, n, fill, NULL, b.p, b.n), cap);
	snprintf(path, sizeof(path), "%s/emitted", c->dir);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
	assert_int_equal(fclose(f), 0);
	buf_free(&b);
	snprintf(more, sizeof(more), "/emitted >%s/loaded.json", c->dir);
	run("load", c->dir, more);
	check_loaded(c, dtype, shape, ndim, n);
}

static void test_02_cpython_reads_every_dtype(void **state)
{
	const uint64_t shape[] = {2, 1, 4, 3};

	for (int t = PK_DTYPE_NONE + 1; t < PK_DTYPE_COUNT; t++)
		emit_and_load(*state, (enum pk_dtype)t, shape, 4, 2);
}

static void test_03_cpython_reads_every_rank(void **state)
{
	const uint64_t shape[] = {2, 3, 1, 2, 300, 2, 1, 2};

	for (uint32_t nd = 0; nd <= PK_MAX_DIMS; nd++)
		emit_and_load(*state, PK_INT16, shape, nd, nd % 3);
	emit_and_load(*state, PK_UINT8, (const uint64_t[]){70000, 2}, 2, 3);
	emit_and_load(*state, PK_FLOAT32, (const uint64_t[]){5, 0, 2}, 3, 2);
	emit_and_load(*state, PK_FLOAT8_E4M3FN, (const uint64_t[]){256}, 1, 1);
	emit_and_load(*state, PK_UINT8, (const uint64_t[]){1}, 1, 3000);
}

/* What CPython wrote, read and written again: not a byte may differ, and no buffer that is too short is overrun. */
static void test_04_cuda_wrappers_as_cpython_writes_them(void **state)
{
	struct ctx *c = *state;
	size_t i, kinds[PK_CPU_SHM + 1] = {0};
	json_t *index, *e;

	run("cuda", c->dir, "");
	index = load_json(c->dir, "cuda.json");
	json_array_foreach(index, i, e)
	{
		struct buf b = load_file(c->dir, json_text(e, "file")), got = {mem_calloc(b.n, 1), b.n};
		const char *module = json_text(e, "module");
		struct pk_wrapper w;
		struct why why = {0};

		assert_non_null(got.p);
		if (pk_wrapper_parse(buf_slice(b), c->mem, &w, &why) < 0)
			fail_msg("%s: %s", json_text(e, "file"), why.text);
		assert_true(bounds_wrapper(&w, buf_slice(b)));
		assert_int_equal(pk_wrapper_emit_cuda(&w, module, got.p, got.n), b.n);
		assert_memory_equal(got.p, b.p, b.n);
		for (size_t cap = 0; cap < b.n; cap += 7)
			assert_int_equal(pk_wrapper_emit_cuda(&w, module, got.p, cap), -ENOSPC);
		kinds[w.kind]++;
		buf_free(&got);
		buf_free(&b);
	}
	json_decref(index);
	assert_int_equal(kinds[PK_CUDA_IPC], 100);
	assert_int_equal(kinds[PK_RAW_CUDA_IPC], 100);
	assert_int_equal(kinds[PK_VMM_CUDA_IPC], 200);
}

static void test_05_what_cannot_be_emitted(void **state)
{
	static const uint8_t h[64];
	struct pk_wrapper good = {.kind = PK_CUDA_IPC,
				  .dtype = PK_FLOAT16,
				  .ndim = 1,
				  .shape = {2},
				  .stride = {1},
				  .mem_handle = slice_of(h, 64),
				  .event_handle = slice_of(h, 64),
				  .storage_bytes = 4},
			  w = good;
	uint8_t b[1024];

	(void)state;
	assert_true(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)) > 0);
	w.mem_handle.n = 63;
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
	w = good;
	w.handle_version = 4;
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
	w = good;
	w.stride[0] = -1;
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
	w = good;
	w.kind = PK_CPU_SHM;
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
	w.kind = PK_VMM_CUDA_IPC;
	w.export_id = slice_of(h, 15);
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
	w.export_id.n = 16;
	w.vmm_fabric = true;
	assert_int_equal(pk_wrapper_emit_cuda(&w, "m", b, sizeof(b)), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_read_cpython),
		cmocka_unit_test(test_02_cpython_reads_every_dtype),
		cmocka_unit_test(test_03_cpython_reads_every_rank),
		cmocka_unit_test(test_04_cuda_wrappers_as_cpython_writes_them),
		cmocka_unit_test(test_05_what_cannot_be_emitted),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
