/* Contexts: who is registered, what it holds, who may use it. */
#include "tests/unit/daemon/core/context_fixture.h"

static void test_01_enter_get_drop(void **state)
{
	struct fix *f = *state;
	struct ctx *c;

	assert_null(ctx_get(f->r, 7));
	ctx_put(f->r, enter(f, 7, 1));
	ctx_put(f->r, enter(f, UINT64_MAX, 1));
	assert_int_equal(ctx_count(f->r), 2);
	c = ctx_get(f->r, 7);
	assert_string_equal(c->model, "m");
	assert_string_equal(c->engine_type, "vllm");
	assert_int_equal(c->pidfd, -1);
	ctx_put(f->r, c);
	assert_true(ctx_drop(f->r, 7, 1));
	assert_false(ctx_drop(f->r, 7, 1));
	assert_false(known(f, 7));
	assert_int_equal(ctx_count(f->r), 1);
	assert_int_equal(f->deaths, 0);
	ctx_put(f->r, NULL);
}

static void test_02_a_second_registration(void **state)
{
	struct fix *f = *state;
	struct ctx *first = enter(f, 7, 1), *second = make(7, 1), *third = make(7, 1);

	assert_int_equal(ctx_enter(f->r, second, false), -EEXIST);
	assert_int_equal(ctx_count(f->r), 1);
	ctx_put(f->r, second);
	assert_false(first->dropped);
	assert_int_equal(ctx_enter(f->r, third, true), 0);
	assert_true(first->dropped);
	assert_int_equal(ctx_count(f->r), 1);
	assert_string_equal(first->model, "m"); /* whoever still uses it may */
	ctx_put(f->r, first);
	assert_int_equal(f->deaths, 0);
}

static void test_03_used_after_it_was_dropped(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);
	struct ctx_pending *p = pending(f, 1, true, 0, 3, 1000);

	assert_true(ctx_drop(f->r, 7, 1));
	assert_int_equal(c->refs, 1);
	assert_int_equal(ctx_pending_add(f->r, c, p), -ENOENT); /* still the caller's */
	store_abort(f->store, p->objs, p->n);
	mem_free(p);
	assert_null(ctx_pending_take(f->r, c, 1, true));
	assert_false(ctx_drop_this(f->r, c));
	ctx_put(f->r, c);
}

static void test_04_what_it_held_goes_back(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);

	fix_put(f->store, "m", 1, 0, 100, 4, OBJECT);
	add(f, c, 1, true, 0, 3, 1000);
	add(f, c, 2, false, 100, 4, 1000);
	assert_int_equal(fix_stats(f->store).reserved, 3);
	assert_int_equal(fix_stats(f->store).locked, 4);
	assert_true(ctx_drop(f->r, 7, 1)); /* it said that it is done */
	assert_int_equal(fix_stats(f->store).reserved, 0);
	assert_int_equal(fix_stats(f->store).locked, 0);
	assert_int_equal(fix_stats(f->store).objects, 4);
	ctx_put(f->r, c);
}

static void test_05_pending_by_key_and_direction(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1), *other = enter(f, 8, 1);
	struct ctx_pending *p;

	fix_put(f->store, "m", 1, 0, 100, 8, OBJECT);
	add(f, c, 1, true, 0, 2, 1000);
	add(f, c, 1, false, 100, 2, 1000);
	add(f, c, 2, true, 10, 2, 1000);
	assert_null(ctx_pending_take(f->r, other, 1, true));
	assert_null(ctx_pending_take(f->r, c, 3, true));
	assert_null(ctx_pending_take(f->r, c, 2, false));
	p = ctx_pending_take(f->r, c, 1, true);
	assert_true(p->store && p->n == 2);
	assert_int_equal(store_commit(f->store, p->objs, p->n, 1000), 2);
	mem_free(p);
	assert_null(ctx_pending_take(f->r, c, 1, true));
	add(f, c, 1, false, 104, 4, 2000); /* the same retrieve again: the older one's locks go back */
	assert_int_equal(fix_stats(f->store).locked, 4);
	p = ctx_pending_take(f->r, c, 1, false);
	assert_int_equal(p->n, 4);
	store_unlock(f->store, p->objs, NULL, p->n, 0);
	mem_free(p);
	ctx_put(f->r, c);
	ctx_put(f->r, other);
}

static void test_06_pending_is_bounded(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);
	struct ctx_pending *p = NULL;

	for (uint32_t i = 0; i < CTX_PENDING_MAX; i++)
		add(f, c, i, true, 0, 0, 1000);
	p = pending(f, 99999, true, 0, 1, 1000);
	assert_int_equal(ctx_pending_add(f->r, c, p), -ENOSPC);
	mem_free(ctx_pending_take(f->r, c, 17, true));
	assert_int_equal(ctx_pending_add(f->r, c, p), 0);
	ctx_put(f->r, c);
}

/* ---- one id, two connections ----------------------------------------------------------------------------------------- */

static void test_07_the_newer_connection_is_served(void **state)
{
	struct fix *f = *state;
	struct ctx *old = enter(f, 7, 1), *new = make(7, 2);

	assert_true(served(f, 7, 1) && served(f, 7, 2)); /* nobody contests it: reconnected engines go on */
	fix_put(f->store, "m", 1, 0, 100, 4, OBJECT);
	add(f, old, 1, true, 0, 3, 1000);
	add(f, old, 2, false, 100, 4, 1000);
	assert_int_equal(ctx_enter(f->r, new, false), 0);
	assert_false(served(f, 7, 1));
	assert_true(served(f, 7, 2));
	assert_false(ctx_drop(f->r, 7, 1)); /* nor may the older one unregister it */
	assert_int_equal(fix_stats(f->store).locked, 0);
	assert_int_equal(fix_stats(f->store).reserved, 0); /* the keys are free, the slots are not */
	assert_int_equal(fix_stats(f->store).detached, 3);
	ctx_sweep(f->r, &limits, 1000 + limits.write_ttl_ms);
	assert_int_equal(fix_stats(f->store).detached, 3);
	atomic_store(&new->last_seen_ms, 1001 + limits.write_ttl_ms);
	ctx_sweep(f->r, &limits, 1001 + limits.write_ttl_ms);
	assert_int_equal(fix_stats(f->store).detached, 0);
	assert_true(ctx_drop(f->r, 7, 2));
	ctx_put(f->r, old);
}

/* Once contested, an id stays bound to its connection when that one registers again: the older must not slip back in and be
 * served with memory that is not its own. */
static void test_08_registering_again_does_not_open_the_door(void **state)
{
	struct fix *f = *state;

	ctx_put(f->r, enter(f, 7, 1));
	ctx_put(f->r, enter(f, 7, 2));
	assert_false(served(f, 7, 1));
	ctx_put(f->r, enter(f, 7, 2));
	assert_true(served(f, 7, 2));
	assert_false(served(f, 7, 1));
	ctx_put(f->r, enter(f, 7, 1)); /* but it may take it back by registering */
	assert_true(served(f, 7, 1));
	assert_false(served(f, 7, 2));
}

static void test_09_two_connections_of_one_process(void **state)
{
	struct fix *f = *state;
	struct ctx *a = make(7, 1), *b = make(7, 2);

	a->pidfd = open("/dev/null", O_RDONLY);
	b->pidfd = open("/dev/null", O_RDONLY);
	assert_int_equal(ctx_enter(f->r, a, true), 0);
	assert_int_equal(ctx_enter(f->r, b, false), 0);
	assert_true(served(f, 7, 1) && served(f, 7, 2) && served(f, 7, 3));
}

/* ---- limits, sizes, status -------------------------------------------------------------------------------------- */

static void test_10_limit(void **state)
{
	struct fix *f = *state;
	struct ctx *c;

	for (uint64_t i = 0; i < CTX_MAX; i++)
		ctx_put(f->r, enter(f, 1ull << 40 | i, 1));
	c = make(1, 1);
	assert_int_equal(ctx_enter(f->r, c, true), -ENOSPC);
	c->instance_id = 1ull << 40; /* replacing needs no room */
	assert_int_equal(ctx_enter(f->r, c, true), 0);
	assert_int_equal(ctx_count(f->r), CTX_MAX);
}

static void test_11_object_bytes_of_a_model(void **state)
{
	struct fix *f = *state;
	struct ctx *c = make(1, 1);

	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 1), 0);
	ctx_enter(f->r, c, true);
	ctx_put(f->r, enter(f, 2, 1));
	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 1), OBJECT);
	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 2), 0);
	assert_int_equal(ctx_object_bytes(f->r, slice_str("mm"), 1), 0);
	assert_int_equal(ctx_object_bytes(f->r, slice_of("", 0), 1), 0);
	c->object_bytes = 2 * OBJECT;
	for (uint64_t i = 10; i < 40; i++) /* whatever order they are found in */
		ctx_put(f->r, enter(f, i, 1));
	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 1), CTX_SIZES_DIFFER);
	ctx_drop(f->r, 1, 1);
	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 1), OBJECT);
	for (uint64_t i = 0; i < 40; i++)
		ctx_drop(f->r, i, 1);
	assert_int_equal(ctx_object_bytes(f->r, slice_str("m"), 1), 0);
}

static struct ctx *enter_form(struct fix *f, uint64_t instance, uint64_t owner, uint8_t form)
{
	struct ctx *c = make(instance, owner);

	c->object_form[0] = form;
	ctx_enter(f->r, c, true);
	return c;
}

/* What a lookup has to look for: each form once, those of the asker's own contexts first. */
static void test_13_forms_of_a_model(void **state)
{
	struct fix *f = *state;
	struct ctx_shape s;

	ctx_shape_of(f->r, slice_str("m"), 1, 5, &s);
	assert_true(s.nforms == 0 && s.nown == 0 && s.object_bytes == 0);
	for (uint64_t i = 0; i < 20; i++)
		enter_form(f, i, 1, (uint8_t)(i % 3));
	enter_form(f, 30, 5, 3);
	enter_form(f, 31, 5, 1);
	ctx_shape_of(f->r, slice_str("m"), 1, 5, &s);
	assert_true(s.nforms == 4 && s.nown == 2 && s.object_bytes == OBJECT);
	assert_int_equal(s.forms[0].layout[0] + s.forms[1].layout[0], 1 + 3);
	assert_int_equal(s.forms[2].layout[0] + s.forms[3].layout[0], 0 + 2);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(s.forms[i].object_bytes, OBJECT);
	ctx_shape_of(f->r, slice_str("m"), 1, 6, &s);
	assert_true(s.nforms == 4 && s.nown == 0);
	for (uint8_t i = 0; i < 20; i++)
		enter_form(f, 100u + i, 1, i);
	ctx_shape_of(f->r, slice_str("m"), 1, 6, &s);
	assert_int_equal(s.nforms, SESSION_FORMS);
	for (uint8_t i = 0; i < 5; i++)
		enter_form(f, 200u + i, 9, 50u + i);
	ctx_shape_of(f->r, slice_str("m"), 1, 9, &s);
	assert_true(s.nforms == SESSION_FORMS && s.nown == 5); /* its own are never left out */
	for (uint32_t i = 0; i < 5; i++)
		assert_in_range(s.forms[i].layout[0], 50, 54);
}

static void test_12_status(void **state)
{
	struct fix *f = *state;
	struct status s;
	uint64_t n;

	ctx_put(f->r, enter(f, 7, 1));
	ctx_put(f->r, enter(f, 8, 1));
	for (n = 1;; n++) {
		int err;

		memset(&s, 0, sizeof(s));
		s.chunk_size = 16;
		mem_fail_at(n);
		err = ctx_status(f->r, &s, 3500);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		status_free(&s);
	}
	assert_true(n >= 6);
	assert_int_equal(s.ncontexts, 2);
	for (uint32_t i = 0; i < 2; i++) {
		assert_string_equal(s.contexts[i].model_name, "m");
		assert_string_equal(s.contexts[i].engine_type, "vllm");
		assert_string_equal(s.contexts[i].liveness, "ping");
		assert_true(s.contexts[i].engine_driven && s.contexts[i].shm_mode);
		assert_int_equal(s.contexts[i].cache_size_per_token, OBJECT / 16);
		assert_true(s.contexts[i].last_seen_s == 2.5);
	}
	status_free(&s);
}

static void test_13_out_of_memory(void **state)
{
	struct ctx_registry *r;
	uint64_t n;
	struct ctx *c;
	(void)state;

	mem_fail_at(1);
	assert_int_equal(ctx_registry_create(NULL, on_dead, NULL, &r), -ENOMEM);
	for (n = 1;; n++) {
		mem_fail_at(n);
		c = ctx_create(1, CTX_BYTES, slice_str("m"), slice_of("", 0), 1);
		mem_fail_at(0);
		if (c)
			break;
	}
	assert_int_equal(n, 4);
	assert_string_equal(c->engine_type, "");
	ctx_put(NULL, c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_01_enter_get_drop),
		T(test_02_a_second_registration),
		T(test_03_used_after_it_was_dropped),
		T(test_04_what_it_held_goes_back),
		T(test_05_pending_by_key_and_direction),
		T(test_06_pending_is_bounded),
		T(test_07_the_newer_connection_is_served),
		T(test_08_registering_again_does_not_open_the_door),
		T(test_09_two_connections_of_one_process),
		T(test_10_limit),
		T(test_11_object_bytes_of_a_model),
		T(test_13_forms_of_a_model),
		T(test_12_status),
		cmocka_unit_test(test_13_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
