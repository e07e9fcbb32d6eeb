/* Wrappers: golden vectors, truncated and damaged in every byte, and the emitter. */
#include "tests/unit/transport/pickle/helpers.h"

/* ---- golden vectors ---------------------------------------------------------------------------------------------- */

static struct slice json_bin(json_t *v, struct buf *keep)
{
	*keep = buf_hex(json_text(v, "bin"));
	return buf_slice(*keep);
}

static void check_bin(struct slice got, json_t *want)
{
	struct buf keep;

	assert_true(slice_eq(got, json_bin(want, &keep)));
	buf_free(&keep);
}

static uint64_t num(json_t *fields, const char *key)
{
	json_t *v = json_object_get(fields, key);

	return v ? json_uint(v) : 0;
}

static void check_handle(const struct pk_wrapper *w, json_t *handle)
{
	struct buf raw;
	struct slice h = json_bin(json_array_get(handle, 1), &raw);
	size_t skip = h.n - 64;

	assert_true(skip == 0 || skip == 2);
	assert_true(slice_eq(w->mem_handle, slice_of(raw.p + skip, 64)));
	assert_int_equal(w->handle_version, skip ? raw.p[0] : 0);
	assert_int_equal(w->storage_bytes, json_uint(json_array_get(handle, 2)));
	assert_int_equal(w->base_offset, json_uint(json_array_get(handle, 3)));
	check_bin(w->refcount_name, json_array_get(handle, 4));
	assert_int_equal(w->refcount_index, json_uint(json_array_get(handle, 5)));
	check_bin(w->event_handle, json_array_get(handle, 6));
	assert_int_equal(w->event_sync, json_is_true(json_array_get(handle, 7)));
	buf_free(&raw);
}

static void check_kind(const struct pk_wrapper *w, const char *cls, json_t *f)
{
	if (strcmp(cls, "CudaIPCWrapper") == 0) {
		assert_int_equal(w->kind, PK_CUDA_IPC);
		check_handle(w, json_object_get(f, "handle"));
	} else if (strcmp(cls, "RawCudaIPCWrapper") == 0) {
		assert_int_equal(w->kind, PK_RAW_CUDA_IPC);
		check_bin(w->mem_handle, json_object_get(f, "_ipc_handle_reserved"));
		assert_int_equal(w->alloc_offset, num(f, "_alloc_offset"));
		assert_int_equal(w->nbytes, num(f, "_nbytes"));
	} else if (strcmp(cls, "VmmCudaIPCWrapper") == 0) {
		assert_int_equal(w->kind, PK_VMM_CUDA_IPC);
		check_bin(w->export_id, json_object_get(f, "_export_id"));
		assert_int_equal(w->vmm_fabric, strcmp(json_text(f, "_kind"), "fabric") == 0);
		assert_int_equal(w->alloc_bytes, num(f, "_alloc_size"));
		assert_int_equal(w->alloc_offset, num(f, "_alloc_offset"));
		assert_int_equal(w->nbytes, num(f, "_nbytes"));
	} else {
		assert_string_equal(cls, "CpuShmTensorWrapper");
		assert_int_equal(w->kind, PK_CPU_SHM);
		assert_true(slice_is(w->shm_name, json_text(f, "shm_name")));
		assert_int_equal(w->nbytes, num(f, "nbytes"));
	}
}

static void check_fields(const struct pk_wrapper *w, json_t *vector)
{
	json_t *f = json_object_get(vector, "fields");
	json_t *shape = json_object_get(f, "shape"), *stride = json_object_get(f, "stride");
	const char *cls = strchr(json_text(vector, "class"), ' ') + 1;

	check_kind(w, cls, f);
	assert_int_equal(w->dtype, pk_dtype_parse(slice_str(json_text(f, "dtype"))));
	assert_int_not_equal(w->dtype, PK_DTYPE_NONE);
	assert_int_equal(w->ndim, json_array_size(shape));
	for (uint32_t i = 0; i < w->ndim; i++) {
		assert_int_equal(w->shape[i], json_uint(json_array_get(shape, i)));
		assert_int_equal(w->stride[i], json_uint(json_array_get(stride, i)));
	}
	assert_int_equal(w->storage_offset, num(f, "storage_offset"));
	assert_true(slice_is(w->device_uuid, json_text(f, "device_uuid")));
}

/* Calls fn for every golden wrapper in both protocols. */
static void each_vector(struct pk_mem *m, void (*fn)(struct pk_mem *m, struct buf b, json_t *vector))
{
	static const char *const protocol[] = {"protocol4", "protocol5"};
	json_t *root = golden_load(), *v;
	size_t i, seen = 0;

	json_array_foreach(json_object_get(root, "device_pickles"), i, v)
	{
		for (int p = 0; p < 2; p++) {
			struct buf b = buf_hex(json_text(v, protocol[p]));

			fn(m, b, v);
			buf_free(&b);
			seen++;
		}
	}
	assert_int_equal(seen, 16);
	json_decref(root);
}

static void parse_vector(struct pk_mem *m, struct buf b, json_t *v)
{
	uint64_t allocs = mem_thread_allocs();
	struct pk_wrapper w;
	struct why why = {0};

	if (pk_wrapper_parse(buf_slice(b), m, &w, &why) != 0)
		fail_msg("%s: %s", json_text(v, "name"), why.text);
	assert_int_equal(mem_thread_allocs(), allocs);
	assert_true(bounds_wrapper(&w, buf_slice(b)));
	check_fields(&w, v);
}

static void test_01_golden(void **state)
{
	each_vector(*state, parse_vector);
}

static void truncate_vector(struct pk_mem *m, struct buf b, json_t *v)
{
	(void)v;
	for (size_t n = 0; n < b.n; n++) {
		struct why why = {0};

		assert_int_equal(parse_copy(m, b.p, n, &why), -EPROTO);
		assert_int_equal(why.err, -EPROTO);
	}
	assert_int_equal(pk_wrapper_parse(slice_of(b.p, b.n), m, &(struct pk_wrapper){0}, NULL), 0);
}

static void test_02_truncated(void **state)
{
	each_vector(*state, truncate_vector);
}

/* Without its frame a truncated pickle gets further. */
static void truncate_unframed(struct pk_mem *m, struct buf b, json_t *v)
{
	(void)v;
	if (b.n < 11)
		fail_msg("no frame");
	memmove(b.p + 2, b.p + 11, b.n - 11);
	for (size_t n = 0; n < b.n - 9; n++)
		assert_int_equal(parse_copy(m, b.p, n, NULL), -EPROTO);
	assert_int_equal(parse_copy(m, b.p, b.n - 9, NULL), 0);
}

static void test_03_truncated_unframed(void **state)
{
	each_vector(*state, truncate_unframed);
}

/* Every value of every byte. What is still accepted must be within bounds (parse_copy checks). */
static void mutate_vector(struct pk_mem *m, struct buf b, json_t *v)
{
	size_t refused = 0;

	(void)v;
	for (size_t i = 0; i < b.n; i++) {
		uint8_t was = b.p[i];

		for (unsigned x = 0; x < 256; x++) {
			struct why why = {0};
			struct pk_wrapper w;
			int r;

			b.p[i] = (uint8_t)x;
			r = pk_wrapper_parse(buf_slice(b), m, &w, &why);
			assert_true(r == 0 ? bounds_wrapper(&w, buf_slice(b)) : r == why.err);
			assert_true(r == 0 || r == -EPROTO || r == -E2BIG || r == -EOPNOTSUPP);
			refused += r != 0;
		}
		b.p[i] = was;
	}
	assert_true(refused > b.n * 64);
}

static void test_04_mutated(void **state)
{
	each_vector(*state, mutate_vector);
}

/* ---- emitter ----------------------------------------------------------------------------------------------------- */

static void test_20_emit_is_golden(void **state)
{
	json_t *root = golden_load(), *v;
	size_t i, seen = 0;

	json_array_foreach(json_object_get(root, "device_pickles"), i, v)
	{
		struct buf want = buf_hex(json_text(v, "protocol4"));
		struct pk_wrapper w;
		uint8_t *got;

		if (pk_wrapper_parse(buf_slice(want), *state, &w, NULL) == 0 && w.kind == PK_CPU_SHM) {
			got = mem_calloc(want.n, 1);
			assert_int_equal(pk_wrapper_emit_shm(&w, "lmcache.v1.platform.cpu.shm", got, want.n), want.n);
			assert_memory_equal(got, want.p, want.n);
			for (size_t cap = 0; cap < want.n; cap++)
				assert_int_equal(pk_wrapper_emit_shm(&w, "lmcache.v1.platform.cpu.shm", got, cap),
						 -ENOSPC);
			mem_free(got);
			seen++;
		}
		buf_free(&want);
	}
	assert_int_equal(seen, 1);
	json_decref(root);
}

static void test_21_emit_parses_back(void **state)
{
	struct pk_wrapper w = {.kind = PK_CPU_SHM, .dtype = PK_FLOAT8_E5M2, .shm_name = slice_str("/pool_1")};
	struct pk_wrapper back;
	uint8_t b[1024];

	for (uint32_t nd = 1; nd <= PK_MAX_DIMS; nd++) {
		w.ndim = nd;
		w.shape[nd - 1] = nd + 1;
		w.stride[nd - 1] = nd == 1 ? 70000 : (int64_t)1 << (4 * nd);
		w.storage_offset = (uint64_t)1 << (5 * nd);
		w.nbytes = INT64_MAX;
		ssize_t n = pk_wrapper_emit_shm(&w, "lmcache.v1.platform.devices.cpu.shm", b, sizeof(b));

		assert_true(n > 0);
		assert_int_equal(pk_wrapper_parse(slice_of(b, (size_t)n), *state, &back, NULL), 0);
		assert_true(slice_is(back.device_uuid, "cpu"));
		assert_true(slice_is(back.shm_name, "/pool_1"));
		assert_int_equal(back.dtype, w.dtype);
		assert_int_equal(back.ndim, nd);
		assert_memory_equal(back.shape, w.shape, sizeof(w.shape));
		assert_memory_equal(back.stride, w.stride, sizeof(w.stride));
		assert_int_equal(back.storage_offset, w.storage_offset);
		assert_int_equal(back.nbytes, INT64_MAX);
	}
	w.ndim = PK_MAX_DIMS + 1;
	assert_int_equal(pk_wrapper_emit_shm(&w, "m", b, sizeof(b)), -EINVAL);
	w.ndim = 1;
	w.stride[0] = -1;
	assert_int_equal(pk_wrapper_emit_shm(&w, "m", b, sizeof(b)), -EINVAL);
	w.stride[0] = 1;
	w.dtype = PK_DTYPE_NONE;
	assert_int_equal(pk_wrapper_emit_shm(&w, "m", b, sizeof(b)), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_golden),
		cmocka_unit_test(test_02_truncated),
		cmocka_unit_test(test_03_truncated_unframed),
		cmocka_unit_test(test_04_mutated),
		cmocka_unit_test(test_20_emit_is_golden),
		cmocka_unit_test(test_21_emit_parses_back),
	};
	return cmocka_run_group_tests(tests, setup_mem, teardown_mem);
}
