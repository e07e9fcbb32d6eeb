/* The door: what it finds, what it says, and that it makes no context for it. */
#include "tests/unit/transport/cuda/toy.h"

static void what_there_is(void **state)
{
	struct gpu_conf conf = {0};
	struct gpu_door *d = NULL;
	struct gpu_facts f;
	char text[64];

	(void)state;
	toy_begin(2);
	toy.mig = true;
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	assert_int_equal(gpu_count(d), 2);
	gpu_describe(d, text, sizeof text);
	assert_string_equal(text, "12.8, 2 GPUs");
	gpu_facts(d, 1, &f);
	assert_string_equal(f.uuid, "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae01");
	assert_string_equal(f.pci, "0000:3c:00.0");
	assert_string_equal(f.name, "Toy T1 MIG 1g.5gb");
	assert_int_equal(f.bytes, 80ull << 30);
	assert_int_equal(f.copy_engines, 3);
	assert_int_equal(f.sms, 132);
	assert_true(f.mig);
	assert_true(f.timeline);
	assert_false(f.vmm); /* the table has no such functions */
	assert_false(f.fabric);
	gpu_facts(d, 0, &f);
	assert_false(f.mig);
	assert_int_equal(toy.contexts, 0);
	gpu_door_close(d, 0);
	toy_nothing_left();
}

static void by_uuid(void **state)
{
	struct gpu_conf conf = {0};
	struct gpu_door *d = NULL;
	char big[5000];

	(void)state;
	toy_begin(2);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	assert_ptr_equal(gpu_by_uuid(d, slice_str("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae01")), &d->gpu[1]);
	assert_ptr_equal(gpu_by_uuid(d, slice_str("GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae00")), &d->gpu[0]);
	assert_ptr_equal(gpu_by_uuid(d, slice_str("gpu-A0A1A2A3-A4A5-A6A7-A8A9-AAABACADAE00")), &d->gpu[0]);
	assert_ptr_equal(gpu_by_uuid(d, slice_str("MIG-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae00")), &d->gpu[0]);
	assert_null(gpu_by_uuid(d, slice_str("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae0")));
	assert_null(gpu_by_uuid(d, slice_str("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae000")));
	assert_null(gpu_by_uuid(d, slice_str("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae02")));
	assert_null(gpu_by_uuid(d, slice_str("GPU-")));
	assert_null(gpu_by_uuid(d, slice_of(NULL, 0)));
	memset(big, 'a', sizeof big);
	assert_null(gpu_by_uuid(d, slice_of(big, sizeof big)));
	gpu_door_close(d, 0);
}

static void no_gpu(void **state)
{
	struct gpu_conf conf = {.library = "libthere-is-no-such.so.7"};
	struct gpu_door *d = NULL;
	struct why why = {0};

	(void)state;
	toy_begin(0);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, &why), -ENODEV);
	assert_null(d);
	assert_int_equal(gpu_door_open(&conf, &d, &why), -ENOENT);
	assert_non_null(strstr(why.text, "no NVIDIA driver"));
	gpu_door_close(NULL, 0);
}

/* Any call fails, any allocation: nothing stays. */
static void opening_fails(void **state)
{
	uint8_t arena[4096];
	struct gpu_memory memory = {.base = arena, .bytes = sizeof arena};
	struct gpu_conf conf = {.memory = &memory, .nmemory = 1};
	struct gpu_door *d = NULL;
	bool done = false;
	uint32_t failures = 0;

	(void)state;
	for (uint64_t n = 1; !done; n++) {
		toy_begin(3);
		toy.fail_at = n;
		if (!gpu_door_open_on(&toy_table, &conf, &d, NULL)) {
			done = toy.calls < n;
			gpu_door_close(d, 0);
		} else {
			failures++;
		}
		toy_nothing_left();
	}
	assert_true(failures > 10);
	for (uint64_t n = 1; n < 10; n++) {
		struct why why = {0};

		toy_begin(1);
		mem_fail_at(n);
		if (gpu_door_open_on(&toy_table, &conf, &d, &why) == 0) {
			mem_fail_at(0);
			assert_true(n > 3);
			gpu_door_close(d, 0);
		} else {
			assert_int_equal(why.err, -ENOMEM);
		}
	}
	mem_fail_at(0);
}

static void status(void **state)
{
	struct gpu_conf conf = {0};
	struct gpu_door *d = NULL;
	struct gpu_engine *e = NULL;
	struct gpu_view *v;
	json_t *s, *g;

	(void)state;
	toy_begin(2);
	assert_int_equal(gpu_door_open_on(&toy_table, &conf, &d, NULL), 0);
	s = gpu_status(d);
	g = json_array_get(json_object_get(s, "gpus"), 1);
	assert_string_equal(json_string_value(json_object_get(s, "driver")), "12.8");
	assert_string_equal(json_string_value(json_object_get(g, "state")), "not in use");
	assert_null(json_object_get(g, "copier"));
	json_decref(s);
	v = toy_view(d, 1);
	assert_int_equal(gpu_engine_create(d, NULL, &v, 1, &e, NULL), 0);
	s = gpu_status(d);
	g = json_array_get(json_object_get(s, "gpus"), 1);
	assert_string_equal(json_string_value(json_object_get(g, "state")), "in use");
	assert_int_equal(json_integer_value(json_object_get(g, "engines")), 1);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(g, "copier"), "toy")), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(s, "gpus"), 0), "state")),
			    "not in use");
	json_decref(s);
	gpu_engine_put(e, NULL, NULL);
	gpu_door_close(d, 1000);
	toy_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_there_is), cmocka_unit_test(by_uuid), cmocka_unit_test(no_gpu),
		cmocka_unit_test(opening_fails), cmocka_unit_test(status),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
