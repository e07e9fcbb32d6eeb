/* Lookups of a name that engines of several layouts share: which form each rank gets, in L1 and below, and whose objects are locked. */
#include "tests/unit/daemon/core/session_fixture.h"

#define A 0u
#define B 1u
#define C 2u

/* C's objects are larger: a stage with more layers. */
static const struct session_form forms[] = {{UNIT, {1}}, {UNIT, {2}}, {2 * UNIT, {3}}};

struct fake_tier {
	struct fix *f;
	bool has[3][2]; /* by form and rank */
	uint32_t jobs, world_size, names[2], first;
	uint64_t bytes[2];
	store_ns ns[2];
};

static bool fake_may_have(void *ctx, const struct seg_key *first, uint64_t bytes)
{
	struct fake_tier *t = ctx;
	uint32_t form = first->name / 10 - 1, rank = first->name % 10;

	assert_int_equal(bytes, forms[form].object_bytes);
	return t->has[form][rank];
}

static int fake_prefetch(void *ctx, const struct tier_want *w)
{
	struct fake_tier *t = ctx;

	t->jobs++;
	t->world_size = w->world_size;
	t->first = w->first;
	for (uint32_t r = 0; r < w->world_size; r++) {
		t->ns[r] = w->ns[r];
		t->names[r] = w->names[r];
		t->bytes[r] = w->rank_bytes[r];
	}
	return 0;
}

static void fake_cancel(void *ctx, uint64_t id)
{
	struct fake_tier *t = ctx;

	(void)id;
	for (uint32_t r = 0; r < t->world_size; r++)
		store_ns_put(t->f->store, t->ns[r]);
	t->world_size = 0;
}

static uint32_t fake_name(void *ctx, struct slice model, uint32_t kv_rank, struct slice salt, const uint8_t *layout)
{
	(void)ctx;
	assert_true(slice_is(model, MODEL) && salt.n == 0);
	return layout[0] * 10u + (kv_rank & 0xff);
}

static void fake_done(void *ctx, const struct session_done *d)
{
	(void)ctx;
	(void)d;
}

static void use(struct fix *f, struct fake_tier *t)
{
	struct sessions_tier st = {t, fake_may_have, fake_prefetch, fake_cancel, NULL, fake_name, fake_done};

	*t = (struct fake_tier){.f = f};
	sessions_use(f->s, &st);
}

static void put(struct fix *f, uint32_t form, uint32_t ws, uint32_t rank, uint32_t n)
{
	fix_layout = forms[form].layout;
	fix_put(f->store, MODEL, ws, rank, 0, n, forms[form].object_bytes);
	fix_layout = NULL;
}

/* Forms in that order, the first nown of them the asker's. */
static struct session_hits ask(struct fix *f, const char *id, uint32_t ws, const uint32_t *order, uint32_t n,
			       uint32_t nown)
{
	struct session_lookup l = want(f, id, 4, ws, 1, 0);
	struct session_form list[SESSION_FORMS];
	struct session_hits hits;

	for (uint32_t i = 0; i < n; i++)
		list[i] = forms[order[i]];
	l.object_bytes = n > 1 ? SESSION_ANY_SIZE : list[0].object_bytes;
	l.forms = list;
	l.nforms = n;
	l.nown = nown;
	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	return hits;
}

/* What a worker of that form would read: its own objects, if the session has locked them. */
static bool reads(struct fix *f, const char *id, uint32_t form, uint32_t ws, uint32_t rank, uint32_t n)
{
	store_ns ns =
		store_ns_find(f->store, slice_str(MODEL), kv_rank(ws, rank), 0, slice_of("", 0), forms[form].layout);
	store_obj objs[4];
	uint32_t missing;
	bool ok;

	if (!ns || store_lock_all(f->store, ns, f->h, n, forms[form].object_bytes, 0, objs, &missing))
		return false;
	ok = holds(f->s, id, 0, n, (int)rank, objs);
	store_unlock(f->store, objs, NULL, n, 0);
	return ok;
}

static void test_01_one_form_sees_only_its_own(void **state)
{
	struct fix *f = *state;

	put(f, A, 1, 0, 4);
	put(f, B, 1, 0, 2);
	assert_int_equal(ask(f, "a", 1, (uint32_t[]){A}, 1, 0).chunks, 4);
	assert_int_equal(ask(f, "b", 1, (uint32_t[]){B}, 1, 0).chunks, 2);
	assert_int_equal(ask(f, "c", 1, (uint32_t[]){C}, 1, 0).chunks, 0);
	assert_true(reads(f, "a", A, 1, 0, 4) && reads(f, "b", B, 1, 0, 2));
	assert_false(reads(f, "a", B, 1, 0, 2) || reads(f, "b", A, 1, 0, 2));
	sessions_end(f->s, slice_str("a"), 1, 0);
	sessions_end(f->s, slice_str("b"), 1, 0);
}

static void test_02_the_longest_of_several(void **state)
{
	struct fix *f = *state;

	put(f, B, 1, 0, 2);
	for (uint32_t i = 0; i < 2; i++) { /* the only one that is there, in both orders */
		assert_int_equal(ask(f, "r", 1, i ? (uint32_t[]){A, B} : (uint32_t[]){B, A}, 2, 0).chunks, 2);
		assert_true(reads(f, "r", B, 1, 0, 2));
	}
	put(f, A, 1, 0, 3);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(ask(f, "r", 1, i ? (uint32_t[]){A, B} : (uint32_t[]){B, A}, 2, 0).chunks, 3);
		assert_true(reads(f, "r", A, 1, 0, 3));
		assert_false(reads(f, "r", B, 1, 0, 2));
	}
	sessions_end(f->s, slice_str("r"), 1, 0);
}

static void test_03_the_askers_own_first(void **state)
{
	struct fix *f = *state;

	put(f, A, 1, 0, 4);
	assert_int_equal(ask(f, "r", 1, (uint32_t[]){B, A}, 2, 1).chunks, 4); /* there is nothing of its own */
	put(f, B, 1, 0, 1);
	assert_int_equal(ask(f, "r", 1, (uint32_t[]){B, A}, 2, 1).chunks, 1);
	assert_true(reads(f, "r", B, 1, 0, 1));
	assert_int_equal(ask(f, "r", 1, (uint32_t[]){A, B}, 2, 1).chunks, 4);
	assert_true(reads(f, "r", A, 1, 0, 4));
	sessions_end(f->s, slice_str("r"), 1, 0);
}

/* Stages of unequal depth: each rank has its own form, and the prompt is complete where both have it. */
static void test_04_each_rank_its_own(void **state)
{
	struct fix *f = *state;

	put(f, A, 2, 0, 4);
	put(f, C, 2, 1, 3);
	for (uint32_t i = 0; i < 4; i++) {
		const uint32_t *order = i & 1 ? (uint32_t[]){A, C} : (uint32_t[]){C, A};
		assert_int_equal(ask(f, "r", 2, order, 2, i / 2).chunks, 3);
		assert_true(reads(f, "r", A, 2, 0, 3) && reads(f, "r", C, 2, 1, 3));
	}
	assert_int_equal(locked(f), 6);
	sessions_end(f->s, slice_str("r"), 1, 0);
	assert_int_equal(locked(f), 0);
}

static void test_05_below(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;

	use(f, &t);
	t.has[B][0] = true;
	assert_true(ask(f, "r", 1, (uint32_t[]){A, B}, 2, 0).pending);
	assert_int_equal(t.names[0], 20);
	put(f, A, 1, 0, 1); /* L1 first: of a stranger's forms the one with hits there ... */
	assert_int_equal(ask(f, "r", 1, (uint32_t[]){A, B}, 2, 0).chunks, 1);
	assert_int_equal(t.jobs, 1);
	assert_true(ask(f, "r", 1, (uint32_t[]){B, A}, 2, 1).pending); /* ... but one's own, wherever it is */
	assert_int_equal(t.names[0], 20);
	t.has[A][0] = true;
	assert_true(ask(f, "r", 1, (uint32_t[]){A, B}, 2, 1).pending); /* from where L1 ends */
	assert_int_equal(t.names[0], 10);
	assert_int_equal(t.first, 1);
	sessions_end(f->s, slice_str("r"), 1, 0);
}

static void test_06_below_each_rank_its_own_size(void **state)
{
	struct fix *f = *state;
	struct fake_tier t;

	use(f, &t);
	t.has[A][0] = t.has[C][1] = true;
	assert_true(ask(f, "r", 2, (uint32_t[]){A, C}, 2, 0).pending);
	assert_true(t.names[0] == 10 && t.names[1] == 31);
	assert_true(t.bytes[0] == UNIT && t.bytes[1] == 2 * UNIT);
	put(f, A, 2, 0, 4); /* then only rank 1 is missing */
	assert_true(ask(f, "r", 2, (uint32_t[]){C, A}, 2, 0).pending);
	assert_int_equal(t.first, 1);
	assert_true(t.names[0] == 10 && t.names[1] == 31);
	sessions_end(f->s, slice_str("r"), 1, 0);
	assert_int_equal(locked(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_01_one_form_sees_only_its_own),
		T(test_02_the_longest_of_several),
		T(test_03_the_askers_own_first),
		T(test_04_each_rank_its_own),
		T(test_05_below),
		T(test_06_below_each_rank_its_own_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
