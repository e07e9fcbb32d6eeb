/* Imports of legacy handles: nothing is opened twice, everything is let go, whatever fails. */
#include "tests/unit/transport/cuda/import_fake.h"

#include <pthread.h>

#define ID 3u

static void test_01_a_view(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;

	counts(d, 0, 0, 0);
	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 512, 128);
	v = must(d, &f.w);
	assert_int_equal(gpu_view_address(v), FAKE_AT(ID) + 512);
	assert_int_equal(gpu_view_bytes(v), 128);
	assert_int_equal(gpu_view_gpu(v), 0);
	counts(d, 1, 1, 4 * MIB);
	assert_int_equal(fake.opens, 1);
	assert_int_equal(d->gpu[0].users, 1);
	json_t *status = imports_status(&d->gpu[0]);
	assert_int_equal(json_integer_value(json_object_get(status, "bytes")), 4 * MIB);
	assert_int_equal(json_integer_value(json_object_get(status, "views")), 1);
	assert_int_equal(json_object_size(status), 6);
	json_decref(status);
	gpu_view_put(v);
	gpu_view_put(NULL);
	counts(d, 0, 0, 0);
	assert_int_equal(fake.closes, 1);
	assert_int_equal(d->gpu[0].users, 0);
	/* Kind B, at its offset; the offset of the tensor in its storage is not in the address. */
	fake_raw(&f, ID, MIB, 160);
	f.w.storage_offset = 16;
	v = must(d, &f.w);
	assert_int_equal(gpu_view_address(v), FAKE_AT(ID) + MIB);
	assert_int_equal(gpu_view_bytes(v), 160);
	gpu_view_put(v);
}

static void test_02_one_handle_in_64_wrappers_is_opened_once(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v[64];

	fake_alloc(ID, 4 * MIB);
	for (uint32_t i = 0; i < 64; i++) {
		if (i % 2)
			fake_ipc(&f, ID, i * 128, 128);
		else
			fake_raw(&f, ID, i * 128, 128);
		v[i] = must(d, &f.w);
		assert_int_equal(gpu_view_address(v[i]), FAKE_AT(ID) + i * 128);
	}
	assert_int_equal(fake.opens, 1);
	counts(d, 64, 1, 4 * MIB);
	for (uint32_t i = 0; i < 64; i++) {
		assert_int_equal(fake.closes, 0);
		gpu_view_put(v[i * 37 % 64]);
	}
	assert_int_equal(fake.closes, 1);
	counts(d, 0, 0, 0);
	/* And again: what was closed is opened anew. */
	gpu_view_put(must(d, &f.w));
	assert_int_equal(fake.opens, 2);
}

static void test_03_two_engines_share(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper a, b, timeline;
	struct gpu_view *va, *vb;
	struct mapping *m, *again;

	fake_alloc(ID, 4 * MIB);
	fake_alloc(5, MIB);
	fake_ipc(&a, ID, 0, 128);
	fake_ipc(&b, ID, 0, 256);
	va = must(d, &a.w);
	vb = must(d, &b.w);
	assert_int_equal(fake.opens, 1);
	gpu_view_put(va);
	assert_int_equal(fake.closes, 0);
	/* Memory that is no view counts as well, whether it came first or last. */
	assert_int_equal(gpu_hold(&d->gpu[0], NULL), 0);
	assert_int_equal(mapping_open(&d->gpu[0], a.handle, &m, NULL), 0);
	assert_int_equal(mapping_base(m), FAKE_AT(ID));
	assert_int_equal(mapping_bytes(m), 4 * MIB);
	gpu_view_put(vb);
	assert_int_equal(fake.closes, 0);
	fake_raw(&timeline, 5, 0, 128);
	assert_int_equal(mapping_open(&d->gpu[0], timeline.handle, &again, NULL), 0);
	mapping_put(again);
	assert_int_equal(fake.closes, 1);
	va = must(d, &a.w);
	mapping_put(m);
	mapping_put(NULL);
	gpu_release(&d->gpu[0]);
	assert_int_equal(fake.closes, 1);
	gpu_view_put(va);
	assert_int_equal(fake.closes, 2);
}

static void test_04_a_thousand_cycles(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v[8];

	for (uint32_t i = 0; i < 8; i++)
		fake_alloc(i, MIB);
	for (uint32_t n = 0; n < 1000; n++) {
		for (uint32_t i = 0; i < 8; i++) {
			fake_ipc(&f, i / 2, i * 128, 128);
			v[i] = must(d, &f.w);
		}
		counts(d, 8, 4, 4 * MIB);
		for (uint32_t i = 0; i < 8; i++)
			gpu_view_put(v[i]);
	}
	counts(d, 0, 0, 0);
	assert_int_equal(fake.opens, 4000);
	assert_int_equal(fake.closes, 4000);
	assert_int_equal(d->gpu[0].users, 0);
}

/* The memory of a dead exporter stays as long as we hold it, and goes with the last view. */
static void test_05_the_exporter_dies(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v, *w;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	v = must(d, &f.w);
	fake.alloc[ID].there = false;
	w = must(d, &f.w); /* mapped already: no driver call */
	assert_int_equal(fake.opens, 1);
	gpu_view_put(v);
	gpu_view_put(w);
	assert_int_equal(fake.closes, 1);
	refused(d, &f.w, -EACCES, "gone");
}

/* A pid is given to another process, which exports a handle of the same bytes: not the old memory. */
static void test_06_recycled_pids(void **state)
{
	struct gpu_door *d = *state;
	struct exporter me = exporter_of((uint32_t)getpid()), none = exporter_of(0), gone = exporter_of(0x7ffffff0);
	struct fake_wrapper f;
	struct gpu_view *v, *w;
	struct why why = {0};

	assert_int_equal(me.pid, getpid());
	assert_true(me.start > 0 && me.uid == getuid());
	assert_true(none.pid == 0 && gone.pid == 0);
	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	assert_int_equal(gpu_import(d, &f.w, me.pid, &v, &why), 0);
	assert_int_equal(gpu_import(d, &f.w, me.pid, &w, &why), 0);
	gpu_view_put(w);
	v->map->from.start--; /* as if it had been an earlier process */
	assert_int_equal(gpu_import(d, &f.w, me.pid, &w, &why), -EACCES);
	assert_non_null(strstr(why.text, "earlier process"));
	assert_int_equal(gpu_import(d, &f.w, 0, &w, &why), 0); /* nobody knows */
	gpu_view_put(w);
	gpu_view_put(v);
	assert_int_equal(gpu_import(d, &f.w, me.pid, &v, &why), 0);
	gpu_view_put(v);
	assert_int_equal(fake.opens, 2);
}

/* What the driver does not close keeps the context, is not handed out again, and goes when it can. */
static void test_07_close_fails(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f, other;

	fake_alloc(ID, 4 * MIB);
	fake_alloc(5, MIB);
	fake_ipc(&f, ID, 0, 128);
	fake_ipc(&other, 5, 0, 128);
	fake.every_close = CUDA_ERROR_INVALID_VALUE;
	gpu_view_put(must(d, &f.w));
	assert_int_equal(d->gpu[0].users, 1);
	counts(d, 0, 1, 4 * MIB);
	refused(d, &f.w, -EACCES, "would not unmap");
	assert_int_equal(fake.opens, 1);
	fake.every_close = CUDA_SUCCESS;
	gpu_view_put(must(d, &other.w));
	assert_int_equal(d->gpu[0].users, 0);
	counts(d, 0, 0, 0);
	gpu_view_put(must(d, &f.w));
	/* At the end the door tries again. */
	fake.every_close = CUDA_ERROR_INVALID_VALUE;
	gpu_view_put(must(d, &f.w));
	assert_int_equal(d->gpu[0].users, 1);
	fake.every_close = CUDA_SUCCESS;
}

/* The exporter freed and made memory anew where the driver still has the old mapping: what nobody uses goes, and then it works. */
static void test_08_already_mapped(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	v = must(d, &f.w);
	fake.every_open = CUDA_ERROR_ALREADY_MAPPED;
	fake_ipc(&f, 5, 0, 128);
	refused(d, &f.w, -EACCES, "older memory of that engine is still mapped");
	fake.every_open = CUDA_SUCCESS;
	gpu_view_put(v);
	assert_int_equal(fake.closes, 1);
}

static void test_09_a_broken_context(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f, other;
	struct gpu_view *v;

	fake_alloc(ID, 4 * MIB);
	fake_alloc(5, MIB);
	fake_ipc(&f, ID, 0, 128);
	fake_ipc(&other, 5, 0, 128);
	v = must(d, &f.w);
	fake.broken = true;
	refused(d, &other.w, -ENODEV, "context of this GPU is lost");
	assert_true(d->gpu[0].lost);
	gpu_view_put(v); /* no call: it goes with the context */
	assert_int_equal(fake.closes, 0);
	assert_int_equal(d->gpu[0].users, 0);
	counts(d, 0, 0, 0);
	fake.broken = false;
	gpu_view_put(must(d, &other.w));
	/* What could not be unmapped does not keep the broken context alive. */
	fake.every_close = CUDA_ERROR_INVALID_VALUE;
	gpu_view_put(must(d, &f.w));
	assert_int_equal(d->gpu[0].users, 1);
	fake.every_close = CUDA_SUCCESS;
	d->gpu[0].lost = true;
	fake.alloc[ID].open = 0;
	gpu_view_put(must(d, &other.w));
	assert_int_equal(d->gpu[0].users, 0);
}

/* Every driver call fails once, every way; every allocation of memory, too. What is left is nothing. */
static void test_10_any_call_may_fail(void **state)
{
	static const CUresult how[] = {CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_UNKNOWN,
				       CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_NOT_SUPPORTED};
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	memcpy(f.event, "event", 5);
	f.w.event_sync = true;
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		int err = -1;

		fake.fail_rc = how[i];
		for (uint64_t n = 1; err; n++) {
			struct why why = {0};

			assert_true(n < 20);
			fake.fail_at = fake.calls + n;
			err = import(d, &f.w, &v, &why);
			fake.fail_at = 0;
			assert_int_equal(why.err, err);
			if (err)
				assert_true(why.text[0] != '\0' && !v);
		}
		gpu_view_put(v);
		counts(d, 0, 0, 0);
		assert_int_equal(fake.alloc[ID].open, 0);
		assert_int_equal(d->gpu[0].users, 0);
	}
}

static void test_11_no_memory(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;
	int err = -1;

	fake_alloc(ID, 4 * MIB);
	fake_ipc(&f, ID, 0, 128);
	for (uint64_t n = 1; err; n++) {
		struct why why = {0};

		assert_true(n < 10);
		mem_fail_at(n);
		err = import(d, &f.w, &v, &why);
		mem_fail_at(0);
		assert_true(err == 0 || (err == -ENOMEM && why.err == -ENOMEM));
	}
	gpu_view_put(v);
	assert_int_equal(fake.opens, 1);
	counts(d, 0, 0, 0);
}

struct hammer {
	struct gpu_door *d;
	uint32_t seed;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	struct gpu_view *v[4] = {0};
	uint32_t x = h->seed;

	for (uint32_t n = 0; n < 2000; n++) {
		struct fake_wrapper f;
		uint32_t i = (x = x * 1664525u + 1013904223u) >> 30;

		gpu_view_put(v[i]);
		fake_ipc(&f, x >> 24 & 3, 0, 128);
		v[i] = must(h->d, &f.w);
	}
	for (uint32_t i = 0; i < 4; i++)
		gpu_view_put(v[i]);
	return NULL;
}

static void test_12_many_threads(void **state)
{
	struct hammer h[4];
	pthread_t t[4];

	for (uint32_t i = 0; i < 4; i++)
		fake_alloc(i, MIB);
	for (uint32_t i = 0; i < 4; i++) {
		h[i] = (struct hammer){*state, i + 1};
		assert_int_equal(pthread_create(&t[i], NULL, hammer, &h[i]), 0);
	}
	for (uint32_t i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	counts(*state, 0, 0, 0);
	assert_int_equal(fake.closes, fake.opens);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_01_a_view, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_02_one_handle_in_64_wrappers_is_opened_once, fake_setup,
						fake_teardown),
		cmocka_unit_test_setup_teardown(test_03_two_engines_share, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_04_a_thousand_cycles, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_05_the_exporter_dies, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_06_recycled_pids, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_07_close_fails, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_08_already_mapped, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_09_a_broken_context, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_10_any_call_may_fail, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_11_no_memory, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_12_many_threads, fake_setup, fake_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
