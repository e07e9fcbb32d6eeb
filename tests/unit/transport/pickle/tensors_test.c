/* Lists of CPU tensors: golden lists, the fixed template, bounds, damaged streams, sizes beyond 4 GiB. */
#include "tests/unit/transport/pickle/helpers.h"

#include <sys/mman.h>

static void each_golden(struct pk_mem *m, void (*fn)(struct pk_mem *m, struct buf b, json_t *vector))
{
	json_t *root = golden_load(), *v;
	size_t i, seen = 0;

	json_array_foreach(json_object_get(root, "tensor_list_pickles"), i, v)
	{
		struct buf b = buf_hex(json_text(v, "hex"));

		fn(m, b, v);
		buf_free(&b);
		seen++;
	}
	assert_int_equal(seen, 3);
	json_decref(root);
}

static void check_tensor(const struct pk_tensor *t, json_t *want)
{
	json_t *shape = json_object_get(want, "shape"), *stride = json_object_get(want, "stride");
	struct buf data = buf_hex(json_text(want, "data"));

	assert_int_equal(t->dtype, pk_dtype_parse(slice_str(json_text(want, "dtype"))));
	assert_int_equal(t->ndim, json_array_size(shape));
	for (uint32_t d = 0; d < t->ndim; d++) {
		assert_int_equal(t->shape[d], json_uint(json_array_get(shape, d)));
		assert_int_equal(t->stride[d], json_uint(json_array_get(stride, d)));
	}
	assert_int_equal(t->storage_offset, 0);
	assert_true(slice_eq(t->storage, buf_slice(data)));
	buf_free(&data);
}

static void parse_golden(struct pk_mem *m, struct buf b, json_t *v)
{
	json_t *tensors = json_object_get(v, "tensors");
	uint64_t allocs = mem_thread_allocs();
	struct pk_tensor t[4];
	struct why why = {0};
	ssize_t n = pk_tensors_parse(buf_slice(b), m, t, 4, &why);

	if (n < 0)
		fail_msg("%s: %s", json_text(v, "name"), why.text);
	assert_int_equal(mem_thread_allocs(), allocs);
	assert_int_equal(n, json_array_size(tensors));
	for (size_t i = 0; i < (size_t)n; i++) {
		assert_true(bounds_tensor(&t[i], buf_slice(b)));
		check_tensor(&t[i], json_array_get(tensors, i));
	}
}

static void test_01_golden(void **state)
{
	each_golden(*state, parse_golden);
}

static void truncate_golden(struct pk_mem *m, struct buf b, json_t *v)
{
	(void)v;
	for (size_t n = 0; n < b.n; n++)
		assert_int_equal(parse_list_copy(m, b.p, n, NULL), -EPROTO);
	if (b.n < 11)
		fail_msg("no frame");
	memmove(b.p + 2, b.p + 11, b.n - 11); /* without the frame it gets further */
	for (size_t n = 0; n < b.n - 9; n++)
		assert_int_equal(parse_list_copy(m, b.p, n, NULL), -EPROTO);
	assert_true(parse_list_copy(m, b.p, b.n - 9, NULL) > 0);
}

static void test_02_truncated(void **state)
{
	each_golden(*state, truncate_golden);
}

static void mutate(struct pk_mem *m, struct buf b, json_t *v)
{
	size_t refused = 0;

	(void)v;
	for (size_t i = 0; i < b.n; i++) {
		uint8_t was = b.p[i];

		for (unsigned x = 0; x < 256; x++) {
			struct why why = {0};
			struct pk_tensor t[4];
			ssize_t r;

			b.p[i] = (uint8_t)x;
			r = pk_tensors_parse(buf_slice(b), m, t, 4, &why);
			assert_true(r >= 0 ? r <= 4 : r == why.err);
			assert_true(r >= 0 || r == -EPROTO || r == -E2BIG || r == -EOPNOTSUPP);
			for (ssize_t k = 0; k < r; k++)
				assert_true(bounds_tensor(&t[k], buf_slice(b)));
			refused += r < 0;
		}
		b.p[i] = was;
	}
	assert_true(refused > b.n * 64);
}

static void test_03_mutated(void **state)
{
	each_golden(*state, mutate);
}

/* ---- emitter ----------------------------------------------------------------------------------------------------- */

struct source {
	const uint8_t *p; /* tensor i gets the bytes at i * step */
	size_t step;
	size_t calls;
};

static void fill(void *ctx, size_t i, void *dst, size_t bytes)
{
	struct source *s = ctx;

	assert_int_equal(i, s->calls);
	s->calls++;
	if (s->p)
		memcpy(dst, s->p + i * s->step, bytes);
}

static void test_10_emit_is_golden(void **state)
{
	json_t *root = golden_load();
	json_t *list = json_array_get(json_object_get(root, "tensor_list_pickles"), 1);
	json_t *tensor = json_array_get(json_object_get(list, "tensors"), 0);
	struct buf want = buf_hex(json_text(json_object_get(root, "tensor_list_pickle_emitted"), "hex"));
	struct buf data = buf_hex(json_text(tensor, "data")), got = buf_copy(want.p, want.n);
	const uint64_t shape[] = {2, 1, 2, 2};
	struct source src = {data.p, 0, 0};
	struct pk_tensor t[2];

	assert_string_equal(json_text(list, "name"), "float16 two chunks");
	assert_int_equal(pk_tensors_bound(PK_FLOAT16, shape, 4, 2), want.n);
	memset(got.p, 0xee, got.n);
	assert_int_equal(pk_tensors_emit(PK_FLOAT16, shape, 4, 2, fill, &src, got.p, got.n), want.n);
	assert_int_equal(src.calls, 2);
	assert_memory_equal(got.p, want.p, want.n);
	for (size_t cap = 0; cap < want.n; cap++)
		assert_int_equal(pk_tensors_emit(PK_FLOAT16, shape, 4, 2, fill, &src, got.p, cap), -ENOSPC);
	assert_int_equal(pk_tensors_parse(buf_slice(want), *state, t, 2, NULL), 2);
	check_tensor(&t[0], tensor);
	check_tensor(&t[1], tensor);
	buf_free(&want);
	buf_free(&data);
	buf_free(&got);
	json_decref(root);
}

static void emit_and_parse(struct pk_mem *m, enum pk_dtype dtype, const uint64_t *shape, uint32_t ndim, size_t n)
{
	size_t cap = pk_tensors_bound(dtype, shape, ndim, n), bytes = pk_dtype_size(dtype);
	struct buf b = {mem_calloc(cap, 1), cap}, data;
	struct pk_tensor *t = mem_calloc(n + 1, sizeof(*t));
	struct source src;
	struct why why = {0};

	for (uint32_t d = 0; d < ndim; d++)
		bytes *= shape[d];
	data = (struct buf){mem_calloc(n * bytes + 1, 1), n * bytes};
	for (size_t i = 0; i < data.n; i++)
		data.p[i] = (uint8_t)(i * 13 + i / 255);
	src = (struct source){data.p, bytes, 0};
	assert_int_equal(pk_tensors_emit(dtype, shape, ndim, n, fill, &src, b.p, b.n), cap);
	if (pk_tensors_parse(buf_slice(b), m, t, n, &why) != (ssize_t)n)
		fail_msg("%s, %u dimensions, %zu tensors: %s", pk_dtype_name(dtype), ndim, n, why.text);
	for (size_t i = 0; i < n; i++) {
		assert_true(bounds_tensor(&t[i], buf_slice(b)));
		assert_int_equal(t[i].dtype, dtype);
		assert_int_equal(t[i].ndim, ndim);
		assert_memory_equal(t[i].shape, shape, ndim * sizeof(shape[0]));
		assert_true(slice_eq(t[i].storage, slice_of(data.p + i * bytes, bytes)));
	}
	buf_free(&b);
	buf_free(&data);
	mem_free(t);
}

static void test_11_every_dtype_and_rank(void **state)
{
	const uint64_t shape[] = {2, 1, 300, 2, 1, 3, 2, 1};

	for (int t = PK_DTYPE_NONE + 1; t < PK_DTYPE_COUNT; t++) {
		for (uint32_t nd = 0; nd <= PK_MAX_DIMS; nd++)
			emit_and_parse(*state, (enum pk_dtype)t, shape, nd, nd % 4);
	}
	emit_and_parse(*state, PK_BFLOAT16, (const uint64_t[]){3, 0, 70000}, 3, 2);
	emit_and_parse(*state, PK_INT8, (const uint64_t[]){70000}, 1, 2);
}

static void test_12_largest_list(void **state)
{
	const uint64_t shape[] = {1, 1, 1, 1, 1, 1, 1, 1};

	emit_and_parse(*state, PK_FLOAT8_E5M2, shape, 8, PK_MAX_TENSORS);
	assert_int_equal(pk_tensors_bound(PK_UINT8, shape, 1, PK_MAX_TENSORS + 1), 0);
	assert_int_equal(pk_tensors_emit(PK_UINT8, shape, 1, PK_MAX_TENSORS + 1, fill, NULL, NULL, SIZE_MAX), -EINVAL);
}

static void test_13_bad_arguments(void **state)
{
	const uint64_t one[PK_MAX_DIMS + 1] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, huge[] = {UINT64_MAX, 2},
					 wide[] = {1ull << 62};

	(void)state;
	assert_int_equal(pk_tensors_bound(PK_DTYPE_NONE, one, 1, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_DTYPE_COUNT, one, 1, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_UINT8, one, 9, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_UINT8, huge, 2, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_UINT8, huge, 1, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_INT64, wide, 1, 1), 0);
	assert_int_equal(pk_tensors_bound(PK_UINT8, wide, 1, 4), 0);
	assert_true(pk_tensors_bound(PK_UINT8, wide, 1, 1) > 1ull << 62);
	assert_int_equal(pk_tensors_emit(PK_UINT8, one, 9, 1, fill, NULL, NULL, SIZE_MAX), -EINVAL);
	assert_int_equal(pk_tensors_emit(PK_INT64, wide, 1, 1, fill, NULL, NULL, SIZE_MAX), -EINVAL);
}

static void fill_ends(void *ctx, size_t i, void *dst, size_t bytes)
{
	(void)ctx;
	(void)i;
	((uint8_t *)dst)[0] = 0x5a;
	((uint8_t *)dst)[bytes - 1] = 0xa5;
}

/* Two tensors of 4 GiB + 2 bytes: BINBYTES8. Only the pages at their ends are ever touched. */
static void test_14_beyond_4_gib(void **state)
{
	const uint64_t shape[] = {(1ull << 31) + 1};
	size_t cap = pk_tensors_bound(PK_BFLOAT16, shape, 1, 2);
	uint8_t *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct pk_tensor t[2];
	struct why why = {0};

	assert_true(p != MAP_FAILED);
	assert_int_equal(pk_tensors_emit(PK_BFLOAT16, shape, 1, 2, fill_ends, NULL, p, cap), cap);
	assert_int_equal(p[1], 4);
	if (pk_tensors_parse(slice_of(p, cap), *state, t, 2, &why) != 2)
		fail_msg("%s", why.text);
	for (int i = 0; i < 2; i++) {
		const uint8_t *b = t[i].storage.p;

		assert_int_equal(t[i].storage.n, (1ull << 32) + 2);
		assert_int_equal(t[i].shape[0], shape[0]);
		assert_int_equal(b[0], 0x5a);
		assert_int_equal(b[t[i].storage.n - 1], 0xa5);
	}
	assert_true(pk_tensors_parse(slice_of(p, cap - 3), *state, t, 2, &why) < 0);
	munmap(p, cap);
}

/* Around the switch to BINBYTES8 nothing is off by one. */
static void test_15_switch_to_wide(void **state)
{
	for (uint64_t n = UINT32_MAX - 420; n < UINT32_MAX; n += 12) {
		size_t cap = pk_tensors_bound(PK_UINT8, &n, 1, 1);
		uint8_t *p =
			mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		struct pk_tensor t;

		assert_true(p != MAP_FAILED);
		assert_int_equal(pk_tensors_emit(PK_UINT8, &n, 1, 1, fill_ends, NULL, p, cap), cap);
		assert_int_equal(pk_tensors_parse(slice_of(p, cap), *state, &t, 1, NULL), 1);
		assert_int_equal(t.storage.n, n);
		munmap(p, cap);
	}
}

static void test_16_max_is_respected(void **state)
{
	const uint64_t shape[] = {2};
	uint8_t b[4096];
	struct pk_tensor t[4];
	struct source src = {0};
	ssize_t n = pk_tensors_emit(PK_UINT8, shape, 1, 4, fill, &src, b, sizeof(b));

	assert_true(n > 0);
	memset(t, 0xee, sizeof(t));
	assert_int_equal(pk_tensors_parse(slice_of(b, (size_t)n), *state, t, 3, NULL), 4);
	assert_int_equal(t[2].dtype, PK_UINT8);
	assert_int_equal(*(uint8_t *)&t[3], 0xee);
	assert_int_equal(pk_tensors_parse(slice_of(b, (size_t)n), *state, NULL, 0, NULL), 4);
}

/* ---- streams and arguments taken apart ----------------------------------------------------------------------------- */

#define S_MAGIC "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#define S_PROTO "\x80\x02M\xe9\x03."
#define S_INFO  "\x80\x02}X\x0d\0\0\0little_endian\x88s."
#define S_ID                                                          \
	"\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\0" \
	"0X\x03\0\0\0cpuK\x02NtQ."
#define S_KEYS                 \
	"\x80\x02]X\x01\0\0\0" \
	"0a."
#define S_DATA  "\x02\0\0\0\0\0\0\0abcd"
#define S_ALL   S_MAGIC S_PROTO S_INFO S_ID S_KEYS S_DATA
#define T_V2    "ctorch._utils\n_rebuild_tensor_v2\n("
#define T_V3    "ctorch._utils\n_rebuild_tensor_v3\n("
#define T_HOOKS "ccollections\nOrderedDict\n)R"
#define T_ARGS  "K\0K\x02\x85K\x01\x85\x89" T_HOOKS

static struct asm_out prog;

static void asm_storage(const char *stream, size_t n)
{
	uint8_t len[] = {(uint8_t)n, (uint8_t)(n >> 8), 0, 0};

	asm_put(&prog, LIT("ctorch.storage\n_load_from_bytes\nB"));
	asm_put(&prog, len, 4);
	asm_put(&prog, stream, n);
	asm_put(&prog, LIT("\x85R"));
}

/* A list of one tensor: fn, storage, arguments. */
static ssize_t parse_parts(struct pk_mem *m, const char *fn, const char *stream, size_t nstream, const char *args,
			   size_t nargs, struct why *why)
{
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x02]"));
	asm_put(&prog, fn, strlen(fn));
	asm_storage(stream, nstream);
	asm_put(&prog, args, nargs);
	asm_put(&prog, LIT("tRa."));
	return parse_list_copy(m, prog.b, prog.n, why);
}

struct part {
	const char *p;
	size_t n;
	int err; /* 0: accepted */
	const char *why;
};

static void test_20_streams(void **state)
{
	static const struct part parts[] = {
		{LIT(S_ALL), 0, ""},
		{LIT(""), -EPROTO, "not a pickle"},
		{LIT("PK\x03\x04 zip archive of torch.save"), -EPROTO, "not a pickle"},
		{LIT("\x80\x02K\x05."), -EPROTO, "wrong magic number"},
		{LIT("\x80\x02\x8a\x0a\x6d\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." S_PROTO), -EPROTO, "wrong magic"},
		{LIT(S_MAGIC "\x80\x02M\xe8\x03."), -EPROTO, "not torch stream protocol 1001"},
		{LIT(S_MAGIC S_PROTO "\x80\x02}X\x0d\0\0\0little_endian\x89s." S_ID), -EPROTO, "little-endian"},
		{LIT(S_MAGIC S_PROTO "\x80\x02}X\x0d\0\0\0little_endianK\x01s." S_ID), -EPROTO, "little-endian"},
		{LIT(S_MAGIC S_PROTO "\x80\x02}." S_ID), -EPROTO, "little-endian"},
		{LIT(S_MAGIC S_PROTO "\x80\x02]." S_ID), -EPROTO, "system info is a list"},
		{LIT(S_MAGIC S_PROTO S_INFO), -EPROTO, "not a pickle"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02N."), -EPROTO, "the stream's object is None"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02)Q."), -EPROTO, "the stream's object is a persistent id"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02X\x01\0\0\0"
					    "0Q."),
		 -EPROTO, "a str as a persistent id"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02P0\n."), -EPROTO, "opcode 0x50"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02"
					    "cos\nsystem\n."),
		 -EOPNOTSUPP, "global os system"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02"
					    "ctorch.storage\n_load_from_bytes\n."),
		 -EOPNOTSUPP, "not on the list"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\0"
					    "0X\x06\0\0\0"
					    "cuda:0K\x02NtQ."),
		 -EPROTO, "not on the CPU"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\0"
					    "0X\x03\0\0\0cpuK\x02)tQ."),
		 -EOPNOTSUPP, "a view of another"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02(X\x06\0\0\0modulectorch\nHalfStorage\nX\x01\0\0\0"
					    "0X\x03\0\0\0cpuK\x02NtQ."),
		 -EPROTO, "names no storage"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\0"
					    "0X\x03\0\0\0cpuJ\xff\xff\xff\xffNtQ."),
		 -EPROTO, "the number of elements is negative"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID "\x80\x02]X\x01\0\0\0"
						 "1a." S_DATA),
		 -EPROTO, "not the one storage"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID "\x80\x02]." S_DATA), -EPROTO, "not the one storage"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID "\x80\x02](X\x01\0\0\0"
						 "0X\x01\0\0\0"
						 "0e." S_DATA),
		 -EPROTO, "not the one"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID "\x80\x02}." S_DATA), -EPROTO, "the storage keys are a dict"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID S_KEYS "\x02\0\0\0\0\0\0"), -EPROTO, "ends before the element count"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID S_KEYS "\x03\0\0\0\0\0\0\0abcdef"), -EPROTO,
		 "two element counts: 2 and 3"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID S_KEYS "\x02\0\0\0\0\0\0\0abc"), -EPROTO, "but 3 bytes of data"},
		{LIT(S_MAGIC S_PROTO S_INFO S_ID S_KEYS "\x02\0\0\0\0\0\0\0abcde"), -EPROTO, "but 5 bytes of data"},
		{LIT(S_MAGIC S_PROTO S_INFO "\x80\x02(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\0"
					    "0X\x03\0\0\0cpu"
					    "\x8a\x08\0\0\0\0\0\0\0\x40NtQ." S_KEYS "\0\0\0\0\0\0\0\x40"),
		 -EPROTO, "4611686018427387904 elements of float16, but 0 bytes"},
	};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct why why = {0};
		ssize_t r = parse_parts(*state, T_V2, parts[i].p, parts[i].n, LIT(T_ARGS), &why);

		if (r != (parts[i].err ? parts[i].err : 1))
			fail_msg("stream %zu: %zd: %s", i, r, why.text);
		if (r < 0) {
			assert_why(&why, "storage at byte ");
			assert_why(&why, parts[i].why);
		}
	}
}

static void test_21_arguments(void **state)
{
	static const struct part parts[] = {
		{LIT(T_ARGS), 0, ""},
		{LIT("K\0K\x02\x85K\x01\x85\x88" T_HOOKS), 0, ""},
		{LIT(T_ARGS "N"), 0, ""},
		{LIT("K\0](K\x01K\x02"
		     "e](K\x02K\x01"
		     "e\x89" T_HOOKS),
		 0, ""},
		{LIT("K\x01))\x89" T_HOOKS), 0, ""},
		{LIT("K\x02K\0\x85K\x01\x85\x89" T_HOOKS), 0, ""},
		{LIT(T_ARGS "}"), -EOPNOTSUPP, "tensor metadata (a dict)"},
		{LIT(T_ARGS "NN"), -EPROTO, "_rebuild_tensor_v2 with 8 arguments"},
		{LIT("K\0K\x02\x85K\x01\x85\x89"), -EPROTO, "_rebuild_tensor_v2 with 5 arguments"},
		{LIT("K\0K\x02\x85K\x01\x85N" T_HOOKS), -EPROTO, "requires_grad is None"},
		{LIT("K\0K\x02\x85K\x01\x85\x89N"), -EPROTO, "the backward hooks are None"},
		{LIT("K\0K\x02\x85K\x01\x85\x89}"), -EPROTO, "the backward hooks are a dict"},
		{LIT("K\0K\x02\x85K\x01\x85\x89"
		     "ccollections\nOrderedDict\n]\x85R"),
		 -EPROTO, "not empty"},
		{LIT("K\0K\x02\x85K\x01\x85\x89" T_HOOKS "K\x01Ns"), -EPROTO, "SETITEM to an OrderedDict"},
		{LIT("K\0K\x03\x85K\x01\x85\x89" T_HOOKS), -EPROTO, "tensor 0: the tensor reaches 6 bytes"},
		{LIT("K\x01K\x02\x85K\x01\x85\x89" T_HOOKS), -EPROTO,
		 "reaches 6 bytes into its storage, the storage is 4"},
		{LIT("K\0K\x02\x85K\x02\x85\x89" T_HOOKS), -EPROTO, "reaches 6 bytes"},
		{LIT("K\x03K\0\x85K\x01\x85\x89" T_HOOKS), -EPROTO, "reaches 6 bytes"},
		{LIT("NK\x02\x85K\x01\x85\x89" T_HOOKS), -EPROTO, "the storage offset is None"},
		{LIT("K\0K\x02K\x01\x85\x89" T_HOOKS), -EPROTO, "shape is an int"},
		{LIT("K\0K\x02\x85)\x89" T_HOOKS), -EPROTO, "stride has 0"},
	};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct why why = {0};
		ssize_t r = parse_parts(*state, T_V2, LIT(S_ALL), parts[i].p, parts[i].n, &why);

		if (r != (parts[i].err ? parts[i].err : 1))
			fail_msg("arguments %zu: %zd: %s", i, r, why.text);
		if (r < 0)
			assert_why(&why, parts[i].why);
	}
}

static void test_22_v3(void **state)
{
	static const struct part parts[] = {
		{LIT(T_ARGS "ctorch\nfloat8_e4m3fn\n"), 0, ""},
		{LIT(T_ARGS "ctorch\nfloat8_e4m3fn\nN"), 0, ""},
		{LIT("K\0K\x04\x85K\x01\x85\x89" T_HOOKS "ctorch\nfloat8_e4m3fn\n"), 0, ""},
		{LIT("K\0K\x05\x85K\x01\x85\x89" T_HOOKS "ctorch\nfloat8_e4m3fn\n"), -EPROTO, "reaches 5 bytes"},
		{LIT(T_ARGS "ctorch\nfloat32\n"), -EPROTO, "reaches 8 bytes"},
		{LIT(T_ARGS "N"), -EPROTO, "the dtype is None"},
		{LIT(T_ARGS "ctorch\nSize\n"), -EPROTO, "the dtype is a global"},
		{LIT(T_ARGS "ctorch\nfloat8_e4m3fn\n}"), -EOPNOTSUPP, "metadata"},
		{LIT(T_ARGS), -EPROTO, "_rebuild_tensor_v3 with 6 arguments"},
	};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct why why = {0};
		ssize_t r = parse_parts(*state, T_V3, LIT(S_ALL), parts[i].p, parts[i].n, &why);

		if (r != (parts[i].err ? parts[i].err : 1))
			fail_msg("arguments %zu: %zd: %s", i, r, why.text);
		if (r < 0)
			assert_why(&why, parts[i].why);
	}
}

/* Things in a list that are no tensors, or in a tensor that are no storage. */
static void test_23_wrong_places(void **state)
{
	static const struct part bad[] = {
		{LIT("\x80\x02)."), -EPROTO, "the pickle is a tuple, not a list"},
		{LIT("\x80\x02]]a."), -EPROTO, "element 0 is a list"},
		{LIT("\x80\x02]C\x01xa."), -EPROTO, "element 0 is bytes"},
		{LIT("\x80\x02]" T_V2 "NK\0))\x89" T_HOOKS "tRa."), -EPROTO, "the storage is None"},
		{LIT("\x80\x02]" T_V2 "C\0K\0))\x89" T_HOOKS "tRa."), -EPROTO, "the storage is bytes"},
		{LIT("\x80\x02]ctorch.storage\n_load_from_bytes\n)Ra."), -EPROTO, "anything but one bytes object"},
		{LIT("\x80\x02]ctorch.storage\n_load_from_bytes\nX\0\0\0\0\x85Ra."), -EPROTO, "anything but one bytes"},
		{LIT("\x80\x02]ctorch._utils\n_rebuild_tensor_v2\n)\x81"
		     "a."),
		 -EOPNOTSUPP, "NEWOBJ of torch._utils _rebuild_tensor_v2"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct why why = {0};

		assert_int_equal(parse_list_copy(*state, bad[i].p, bad[i].n, &why), bad[i].err);
		assert_why(&why, bad[i].why);
	}
	assert_int_equal(parse_list_copy(*state, LIT("\x80\x02]."), NULL), 0);
}

/* One storage under several tensors, through the memo of the list. */
static void test_24_shared_storage(void **state)
{
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x02](" T_V2));
	asm_storage(LIT(S_ALL));
	asm_put(&prog, LIT("q\x05" T_ARGS "tRq\x06" T_V2 "h\x05K\x01K\x01\x85K\x01\x85\x89" T_HOOKS "tRh\x06"
			   "e."));
	struct pk_tensor t[3];

	assert_int_equal(pk_tensors_parse(slice_of(prog.b, prog.n), *state, t, 3, NULL), 3);
	assert_ptr_equal(t[0].storage.p, t[1].storage.p);
	assert_int_equal(t[1].storage_offset, 1);
	assert_int_equal(t[1].shape[0], 1);
	assert_memory_equal(&t[0], &t[2], sizeof(t[0]));
	assert_true(slice_is(t[1].storage, "abcd"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_golden),
		cmocka_unit_test(test_02_truncated),
		cmocka_unit_test(test_03_mutated),
		cmocka_unit_test(test_10_emit_is_golden),
		cmocka_unit_test(test_11_every_dtype_and_rank),
		cmocka_unit_test(test_12_largest_list),
		cmocka_unit_test(test_13_bad_arguments),
		cmocka_unit_test(test_14_beyond_4_gib),
		cmocka_unit_test(test_15_switch_to_wide),
		cmocka_unit_test(test_16_max_is_respected),
		cmocka_unit_test(test_20_streams),
		cmocka_unit_test(test_21_arguments),
		cmocka_unit_test(test_22_v3),
		cmocka_unit_test(test_23_wrong_places),
		cmocka_unit_test(test_24_shared_storage),
	};
	return cmocka_run_group_tests(tests, setup_mem, teardown_mem);
}
