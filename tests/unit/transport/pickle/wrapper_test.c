/* Wrappers put together by hand: kinds, modules, attribute orders and forms, bounds, handles, names. */
#include "tests/unit/transport/pickle/helpers.h"

#define H8      "01234567"
#define H64     H8 H8 H8 H8 H8 H8 H8 H8
#define BYTES64 "C\x40" H64
#define SHAPE   "K\x02K\x03\x86" /* (2, 3) */
#define STRIDE  "K\x03K\x01\x86"
#define BF16    "ctorch\nbfloat16\n"
#define UUID    "\x8c\x04uuid"
#define A_HANDLE             \
	"(K\0C\x42\x02"      \
	"c" H64 "K\x40K\x20" \
	"C\x02/xK\x05" BYTES64 "\x88t"

static const char custom[] = "lmcache.v1.multiprocess.custom_types", cuda[] = "lmcache.v1.platform.cuda.ipc_wrapper";

static struct spec spec_common(const char *module, const char *cls)
{
	struct spec s = {.module = module, .cls = cls};

	spec_set(&s, "dtype", LIT(BF16));
	spec_set(&s, "shape", LIT(SHAPE));
	spec_set(&s, "stride", LIT(STRIDE));
	spec_set(&s, "storage_offset", LIT("K\0"));
	spec_set(&s, "device_uuid", LIT(UUID));
	return s;
}

static struct spec spec_a(void)
{
	struct spec s = spec_common(custom, "CudaIPCWrapper");

	spec_set(&s, "handle", LIT(A_HANDLE));
	return s;
}

static struct spec spec_b(void)
{
	struct spec s = spec_common(cuda, "RawCudaIPCWrapper");

	spec_set(&s, "_ipc_handle_reserved", LIT(BYTES64));
	spec_set(&s, "_nbytes", LIT("K\x0c"));
	spec_set(&s, "handle", LIT("N"));
	return s;
}

static struct spec spec_c(const char *kind, size_t nkind)
{
	struct spec s = spec_common(cuda, "VmmCudaIPCWrapper");

	spec_set(&s, "_export_id", LIT("C\x10" H8 H8));
	spec_set(&s, "_kind", kind, nkind);
	spec_set(&s, "_fabric_blob", LIT(BYTES64));
	spec_set(&s, "_alloc_size", LIT("K\x20"));
	spec_set(&s, "_alloc_offset", LIT("K\x10"));
	spec_set(&s, "_nbytes", LIT("K\x0c"));
	return s;
}

static struct spec spec_d(void)
{
	struct spec s = spec_common("lmcache.v1.platform.cpu.shm", "CpuShmTensorWrapper");

	spec_set(&s, "shm_name", LIT("\x8c\x05/lm_1"));
	spec_set(&s, "nbytes", LIT("K\x0c"));
	return s;
}

static int parse_spec(struct pk_mem *m, const struct spec *s, struct pk_wrapper *w, struct why *why)
{
	static struct asm_out a; /* the result points into it */

	a.n = 0;
	asm_spec(&a, s);
	assert_int_equal(parse_copy(m, a.b, a.n, why), pk_wrapper_parse(slice_of(a.b, a.n), m, w, why));
	return pk_wrapper_parse(slice_of(a.b, a.n), m, w, why);
}

static void accept(struct pk_mem *m, const struct spec *s, struct pk_wrapper *w)
{
	struct why why = {0};

	if (parse_spec(m, s, w, &why) != 0)
		fail_msg("refused: %s", why.text);
}

static void refuse(struct pk_mem *m, const struct spec *s, int err, const char *needle)
{
	struct pk_wrapper w;
	struct why why = {0};

	assert_int_equal(parse_spec(m, s, &w, &why), err);
	assert_int_equal(why.err, err);
	assert_why(&why, needle);
}

static void test_05_handmade_kinds(void **state)
{
	struct pk_wrapper w;
	struct spec s = spec_a();

	accept(*state, &s, &w);
	assert_int_equal(w.handle_version, 2);
	assert_true(slice_is(w.mem_handle, H64));
	assert_int_equal(w.storage_bytes, 0x40);
	assert_int_equal(w.base_offset, 0x20);
	assert_int_equal(w.refcount_index, 5);
	assert_true(w.event_sync);
	s = spec_b();
	accept(*state, &s, &w);
	assert_int_equal(w.alloc_offset, 0);
	spec_set(&s, "_alloc_offset", LIT("K\x07"));
	accept(*state, &s, &w);
	assert_int_equal(w.alloc_offset, 7);
	s = spec_c(LIT("\x8c\x06"
		       "fabric"));
	accept(*state, &s, &w);
	assert_true(w.vmm_fabric);
	assert_true(slice_is(w.fabric_blob, H64));
	s = spec_c(LIT("\x8c\x08posix_fd"));
	spec_set(&s, "_fabric_blob", LIT("N"));
	accept(*state, &s, &w);
	assert_false(w.vmm_fabric);
	assert_true(slice_is(w.export_id, H8 H8));
	assert_false(w.has_fd);
	spec_set(&s, "_fd", LIT("N"));
	accept(*state, &s, &w);
	assert_false(w.has_fd);
	spec_set(&s, "_fd", LIT("K\x07"));
	accept(*state, &s, &w);
	assert_true(w.has_fd);
	assert_int_equal(w.fd, 7);
	spec_set(&s, "_fd", LIT("J\xff\xff\xff\xff"));
	refuse(*state, &s, -EPROTO, "_fd is negative");
	spec_set(&s, "_fd", LIT("\x8a\x05\0\0\0\x80\0"));
	refuse(*state, &s, -EPROTO, "_fd is no descriptor");
	s = spec_d();
	accept(*state, &s, &w);
	assert_true(slice_is(w.shm_name, "/lm_1"));
}

static void test_06_modules(void **state)
{
	static const struct {
		const char *module, *cls;
	} known[] = {
		{"lmcache.v1.multiprocess.custom_types", "RawCudaIPCWrapper"},
		{"lmcache.v1.platform.cuda.ipc_wrapper", "RawCudaIPCWrapper"},
		{"lmcache.v1.platform.devices.cuda.ipc_wrapper", "RawCudaIPCWrapper"},
	};
	struct pk_wrapper w;

	for (size_t i = 0; i < 3; i++) {
		struct spec b = spec_b(), a = spec_a();

		b.module = a.module = known[i].module;
		accept(*state, &b, &w);
		accept(*state, &a, &w);
	}
	struct spec d = spec_d();
	d.module = "lmcache.v1.platform.devices.cpu.shm";
	accept(*state, &d, &w);
	d.module = "lmcache.v1.elsewhere";
	refuse(*state, &d, -EOPNOTSUPP, "class CpuShmTensorWrapper is known, but its module lmcache.v1.elsewhere");
	d.cls = "CpuShmTensorWrapper2";
	refuse(*state, &d, -EOPNOTSUPP, "global lmcache.v1.elsewhere CpuShmTensorWrapper2 is not on the list");
}

static void test_07_any_order_and_unknown_attributes(void **state)
{
	struct spec s = spec_a();
	struct pk_wrapper w;

	for (size_t turn = 0; turn < s.nattr; turn++) {
		struct attr first = s.attr[0];

		memmove(&s.attr[0], &s.attr[1], (s.nattr - 1) * sizeof(s.attr[0]));
		s.attr[s.nattr - 1] = first;
		accept(*state, &s, &w);
		assert_int_equal(w.shape[1], 3);
	}
	spec_set(&s, "_new_map", LIT("}(K\x01]K\x02\x61\x8c\x01xNu"));
	spec_set(&s, "_new_list",
		 LIT("](K\x01\x88\x89"
		     "e"));
	spec_set(&s, "", LIT("N"));
	accept(*state, &s, &w);
	spec_set(&s, "_new_object", LIT("cos\nsystem\n"));
	refuse(*state, &s, -EOPNOTSUPP, "global os system is not on the list");
}

static void test_08_missing_attributes(void **state)
{
	static const char *const needed[4][9] = {
		{"dtype", "shape", "storage_offset", "device_uuid", "handle"},
		{"dtype", "shape", "storage_offset", "device_uuid", "_ipc_handle_reserved", "_nbytes"},
		{"dtype", "shape", "storage_offset", "device_uuid", "_export_id", "_kind", "_alloc_size",
		 "_alloc_offset", "_nbytes"},
		{"dtype", "shape", "storage_offset", "device_uuid", "shm_name", "nbytes"},
	};
	for (int k = 0; k < 4; k++) {
		for (int i = 0; i < 9 && needed[k][i]; i++) {
			struct spec s = k == 0   ? spec_a()
					: k == 1 ? spec_b()
					: k == 2 ? spec_c(LIT("\x8c\x06"
							      "fabric"))
						 : spec_d();
			char want[64];

			spec_drop(&s, needed[k][i]);
			snprintf(want, sizeof(want), "attribute %s is missing", needed[k][i]);
			refuse(*state, &s, -EPROTO, want);
			spec_set(&s, needed[k][i], LIT("]"));
			refuse(*state, &s, -EPROTO, s.cls); /* wrong type */
		}
	}
	struct spec s = spec_c(LIT("\x8c\x06"
				   "fabric"));
	spec_drop(&s, "_fabric_blob");
	refuse(*state, &s, -EPROTO, "attribute _fabric_blob is missing");
}

static void test_09_shape_forms(void **state)
{
	static const struct attr forms[] = {
		{"tuple", LIT("K\x02K\x03\x86")},
		{"marked tuple", LIT("(K\x02K\x03t")},
		{"list", LIT("](K\x02K\x03"
			     "e")},
		{"list, one by one", LIT("]K\x02"
					 "aK\x03"
					 "a")},
		{"Size by REDUCE", LIT("ctorch\nSize\nK\x02K\x03\x86\x85R")},
		{"Size by NEWOBJ", LIT("ctorch\nSize\nK\x02K\x03\x86\x85\x81")},
		{"other integers", LIT("M\x02\0\x8a\x01\x03\x86")},
		{"padded integers", LIT("\x8b\x0b\0\0\0\x02\0\0\0\0\0\0\0\0\0\0J\x03\0\0\0\x86")},
	};
	struct spec s = spec_d();
	struct pk_wrapper w;

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		spec_set(&s, "shape", forms[i].value, forms[i].n);
		accept(*state, &s, &w);
		assert_int_equal(w.ndim, 2);
		assert_int_equal(w.shape[0], 2);
		assert_int_equal(w.shape[1], 3);
	}
	spec_drop(&s, "stride");
	accept(*state, &s, &w);
	assert_int_equal(w.stride[0], 3);
	assert_int_equal(w.stride[1], 1);
	spec_set(&s, "shape", LIT("K\x01\x85"));
	spec_set(&s, "shape", LIT("(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t"));
	accept(*state, &s, &w);
	assert_int_equal(w.ndim, 8);
	spec_set(&s, "shape", LIT("K\x02K\0K\x03\x87"));
	accept(*state, &s, &w);
	assert_int_equal(w.stride[0], 3); /* torch counts an empty dimension as one */
}

static void test_10_bad_shapes(void **state)
{
	static const struct {
		const char *attr, *value;
		size_t n;
		int err;
		const char *why;
	} bad[] = {
		{"shape", LIT("(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t"), -E2BIG, "shape has 9 dimensions"},
		{"stride", LIT("(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t"), -E2BIG, "stride has 9 dimensions"},
		{"shape", LIT(")"), -EPROTO, "shape has 0 dimensions, stride has 2"},
		{"shape", LIT("K\x06\x85"), -EPROTO, "shape has 1 dimensions, stride has 2"},
		{"shape", LIT("J\xff\xff\xff\xffK\x03\x86"), -EPROTO, "shape is negative (-1)"},
		{"stride", LIT("J\xff\xff\xff\xffK\x01\x86"), -EPROTO, "stride is negative (-1)"},
		{"storage_offset", LIT("\x8a\x01\x80"), -EPROTO, "storage_offset is negative (-128)"},
		{"shape", LIT("\x88K\x03\x86"), -EPROTO, "shape is a bool"},
		{"shape", LIT("\x8a\x09\0\0\0\0\0\0\0\x80\0K\x03\x86"), -EPROTO, "shape is a long int"},
		{"shape", LIT("K\x02N\x86"), -EPROTO, "shape is None"},
		{"shape",
		 LIT("\x8c\x02"
		     "23"),
		 -EPROTO, "shape is a str"},
		{"shape", LIT("\x8a\x08\0\0\0\0\0\0\0\x40\x8a\x08\0\0\0\0\0\0\0\x40\x86"), -EPROTO, "shape overflows"},
		{"shape", LIT("\x8a\x08\0\0\0\0\0\0\0\x40K\0\x86"), -EPROTO, "overflow"},
		{"stride", LIT("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01\x86"), -EPROTO, "overflow"},
		{"storage_offset", LIT("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"), -EPROTO, "overflow"},
		{"stride", LIT("K\x04K\x01\x86"), -EPROTO, "reaches 14 bytes into its storage, nbytes is 12"},
		{"storage_offset", LIT("K\x01"), -EPROTO, "reaches 14 bytes into its storage, nbytes is 12"},
		{"nbytes", LIT("K\x0b"), -EPROTO, "reaches 12 bytes into its storage, nbytes is 11"},
		{"dtype", LIT("ctorch\nfloat32\n"), -EPROTO, "reaches 24 bytes"},
		{"dtype", LIT("ctorch\nSize\n"), -EPROTO, "dtype is not a torch dtype"},
		{"dtype", LIT("ctorch\ncomplex64\n"), -EOPNOTSUPP, "global torch complex64"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct spec s = spec_d();

		spec_set(&s, bad[i].attr, bad[i].value, bad[i].n);
		refuse(*state, &s, bad[i].err, bad[i].why);
	}
	struct spec s = spec_d();
	spec_set(&s, "shape", LIT(")"));
	spec_set(&s, "stride", LIT(")"));
	refuse(*state, &s, -EPROTO, "no dimensions");
	/* 2 * 2^62 + 2 * 2^62 is 0 in 64 bits. */
	spec_set(&s, "shape", LIT("K\x03K\x03\x86"));
	spec_set(&s, "stride", LIT("\x8a\x08\0\0\0\0\0\0\0\x40\x8a\x08\0\0\0\0\0\0\0\x40\x86"));
	refuse(*state, &s, -EPROTO, "overflow");
}

static void test_11_bounds_of_each_kind(void **state)
{
	struct spec s = spec_a();

	spec_set(&s, "handle",
		 LIT("(K\0" BYTES64 "K\x0cK\x20"
		     "C\x02/xK\x05" BYTES64 "\x89t"));
	accept(*state, &s, &(struct pk_wrapper){0});
	spec_set(&s, "handle",
		 LIT("(K\0" BYTES64 "K\x0bK\x20"
		     "C\x02/xK\x05" BYTES64 "\x89t"));
	refuse(*state, &s, -EPROTO, "CudaIPCWrapper: the tensor reaches 12 bytes into its storage, handle[2] is 11");
	spec_set(&s, "handle",
		 LIT("(K\0" BYTES64 "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01"
		     "C\x02/xK\x05" BYTES64 "\x89t"));
	refuse(*state, &s, -EPROTO, "handle[2] and handle[3] overflow");
	s = spec_b();
	spec_set(&s, "_nbytes", LIT("K\x0b"));
	refuse(*state, &s, -EPROTO, "_nbytes is 11");
	s = spec_b();
	spec_set(&s, "_alloc_offset", LIT("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"));
	refuse(*state, &s, -EPROTO, "_alloc_offset and _nbytes overflow");
	s = spec_c(LIT("\x8c\x08posix_fd"));
	spec_set(&s, "_alloc_size", LIT("K\x1b"));
	refuse(*state, &s, -EPROTO, "reach past _alloc_size");
	spec_set(&s, "_alloc_size", LIT("K\x1c"));
	accept(*state, &s, &(struct pk_wrapper){0});
	spec_set(&s, "_kind",
		 LIT("\x8c\x04"
		     "file"));
	refuse(*state, &s, -EPROTO, "_kind is file");
}

static void test_12_handles(void **state)
{
	static const struct {
		const char *value;
		size_t n;
		int err;
		const char *why;
	} bad[] = {
		{LIT("C\x42\x01"
		     "e" H64),
		 -EOPNOTSUPP, "expandable_segments"},
		{LIT("C\x0a\x03"
		     "e" H8),
		 -EOPNOTSUPP, "expandable_segments"},
		{LIT("C\x42\x04"
		     "c" H64),
		 -EPROTO, "starts with 0x04"},
		{LIT("C\x42\0c" H64), -EPROTO, "starts with 0x00"},
		{LIT("C\x42\x01"
		     "d" H64),
		 -EPROTO, "of kind 0x64"},
		{LIT("C\x43\x01"
		     "c" H64 "x"),
		 -EPROTO, "67 bytes"},
		{LIT("C\x0a\x01"
		     "c" H8),
		 -EPROTO, "10 bytes"},
		{LIT("C\0"), -EPROTO, "0 bytes"},
		{LIT("C\x01\x01"), -EPROTO, "1 bytes"},
		{LIT("\x8c\x40" H64), -EPROTO, "handle[1] is a str"},
	};
	char value[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		static const char head[] = "(K\0", tail[] = "K\x40K\x20"
							    "C\x02/xK\x05" BYTES64 "\x88t";
		size_t n = sizeof(head) - 1 + bad[i].n + sizeof(tail) - 1;
		struct spec s = spec_a();

		memcpy(value, head, sizeof(head) - 1);
		memcpy(value + sizeof(head) - 1, bad[i].value, bad[i].n);
		memcpy(value + sizeof(head) - 1 + bad[i].n, tail, sizeof(tail) - 1);
		spec_set(&s, "handle", value, n);
		refuse(*state, &s, bad[i].err, bad[i].why);
	}
}

static void test_13_handle_tuple(void **state)
{
	static const struct attr bad[] = {
		{"not a tuple of 8", LIT("N")},
		{"not a tuple of 8", LIT("(K\0" BYTES64 "K\x40K\x20"
					 "C\x02/xK\x05" BYTES64 "t")},
		{"not a tuple of 8", LIT("(K\0" BYTES64 "K\x40K\x20"
					 "C\x02/xK\x05" BYTES64 "\x88\x88t")},
		{"handle[0] is None", LIT("(N" BYTES64 "K\x40K\x20"
					  "C\x02/xK\x05" BYTES64 "\x88t")},
		{"handle[2] is None", LIT("(K\0" BYTES64 "NK\x20"
					  "C\x02/xK\x05" BYTES64 "\x88t")},
		{"handle[3] is negative", LIT("(K\0" BYTES64 "K\x40J\0\0\0\x80"
					      "C\x02/xK\x05" BYTES64 "\x88t")},
		{"handle[4] is a str", LIT("(K\0" BYTES64 "K\x40K\x20"
					   "\x8c\x02/xK\x05" BYTES64 "\x88t")},
		{"handle[4] contains byte 0x00", LIT("(K\0" BYTES64 "K\x40K\x20"
						     "C\x02\0xK\x05" BYTES64 "\x88t")},
		{"handle[5] is bytes", LIT("(K\0" BYTES64 "K\x40K\x20"
					   "C\x02/x"
					   "C\0" BYTES64 "\x88t")},
		{"handle[6] has 8 bytes", LIT("(K\0" BYTES64 "K\x40K\x20"
					      "C\x02/xK\x05"
					      "C\x08" H8 "\x88t")},
		{"handle[7] is an int", LIT("(K\0" BYTES64 "K\x40K\x20"
					    "C\x02/xK\x05" BYTES64 "K\x01t")},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct spec s = spec_a();

		spec_set(&s, "handle", bad[i].value, bad[i].n);
		refuse(*state, &s, -EPROTO, bad[i].name);
	}
}

static void test_14_names(void **state)
{
	static const struct attr bad[] = {
		{"shm_name", LIT("\x8c\x03"
				 "abc")},
		{"shm_name", LIT("\x8c\x01/")},
		{"shm_name", LIT("\x8c\x05/a/bc")},
		{"shm_name", LIT("\x8c\x03/a\0")},
		{"shm_name", LIT("\x8c\0")},
		{"shm_name", LIT("\x8c\x03/a\x1b")},
		{"shm_name", LIT("\x8c\x05/a\xff\xfe"
				 "b")},
		{"device_uuid", LIT("\x8c\0")},
		{"device_uuid", LIT("\x8c\x02\n\n")},
		{"device_uuid", LIT("\x8c\x41" H64 "x")},
		{"device_uuid", LIT("C\x03"
				    "cpu")},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct spec s = spec_d();

		spec_set(&s, bad[i].name, bad[i].value, bad[i].n);
		refuse(*state, &s, -EPROTO, bad[i].name);
	}
}

/* Python's rule: of two equal keys the last one counts. */
static void test_15_last_key_wins(void **state)
{
	struct spec s = spec_d();
	struct pk_wrapper w;

	s.attr[s.nattr++] = (struct attr){"shape", LIT("K\x01K\x01\x86")};
	accept(*state, &s, &w);
	assert_int_equal(w.shape[0], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_05_handmade_kinds),
		cmocka_unit_test(test_06_modules),
		cmocka_unit_test(test_07_any_order_and_unknown_attributes),
		cmocka_unit_test(test_08_missing_attributes),
		cmocka_unit_test(test_09_shape_forms),
		cmocka_unit_test(test_10_bad_shapes),
		cmocka_unit_test(test_11_bounds_of_each_kind),
		cmocka_unit_test(test_12_handles),
		cmocka_unit_test(test_13_handle_tuple),
		cmocka_unit_test(test_14_names),
		cmocka_unit_test(test_15_last_key_wins),
	};
	return cmocka_run_group_tests(tests, setup_mem, teardown_mem);
}
