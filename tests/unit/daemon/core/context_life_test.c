/* Contexts over time: late writers and readers, silence, death; and many threads at once. */
#include "tests/unit/daemon/core/context_fixture.h"

#include <pthread.h>

/* ---- time ------------------------------------------------------------------------------------------------------------ */

/* The key is free for others at once, the slot when the writer is done with it: what it commits then is thrown away. */
static void test_1_a_late_writer(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);
	struct store_hash h = hash_no(0);
	struct ctx_pending *p;
	store_obj again;

	c->pidfd = open("/dev/null", O_RDONLY);
	c->watched = true;
	add(f, c, 1, true, 0, 3, 1000);
	assert_int_equal(ctx_sweep(f->r, &limits, 1000 + limits.write_ttl_ms), 0);
	assert_int_equal(fix_stats(f->store).reserved, 3);
	ctx_sweep(f->r, &limits, 1001 + limits.write_ttl_ms);
	ctx_sweep(f->r, &limits, 1002 + 10 * limits.write_ttl_ms); /* only once */
	assert_int_equal(fix_stats(f->store).reserved, 0);
	assert_int_equal(fix_stats(f->store).detached, 3);
	assert_int_equal(store_reserve(f->store, f->ns, &h, 1, OBJECT, NODE_UNKNOWN, 0, &again).reserved, 1);
	assert_int_equal(store_commit(f->store, &again, 1, 0), 1);
	p = ctx_pending_take(f->r, c, 1, true);
	assert_true(p && p->disowned);
	assert_int_equal(store_commit(f->store, p->objs, p->n, 0), 0);
	mem_free(p);
	assert_int_equal(fix_stats(f->store).objects, 1);
	assert_int_equal(fix_stats(f->store).detached, 0);
	ctx_put(f->r, c);
}

static void test_2_a_late_reader(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);

	fix_put(f->store, "m", 1, 0, 0, 4, OBJECT);
	c->last_seen_ms = 1000 + limits.read_ttl_ms;
	add(f, c, 1, false, 0, 2, 1000);
	add(f, c, 2, false, 2, 2, 2000);
	ctx_sweep(f->r, &limits, 1000 + limits.read_ttl_ms);
	assert_int_equal(fix_stats(f->store).locked, 4);
	ctx_sweep(f->r, &limits, 1001 + limits.read_ttl_ms);
	assert_int_equal(fix_stats(f->store).locked, 2);
	assert_null(ctx_pending_take(f->r, c, 1, false));
	assert_true(known(f, 7));
	ctx_put(f->r, c);
}

/* The sweeper's "now" may be older than what it finds. */
static void test_3_a_sweep_from_the_past(void **state)
{
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);

	fix_put(f->store, "m", 1, 0, 100, 2, OBJECT);
	c->last_seen_ms = 50001;
	add(f, c, 1, true, 0, 2, 50001);
	add(f, c, 2, false, 100, 2, 50001);
	assert_int_equal(ctx_sweep(f->r, &limits, 50000), 0);
	assert_int_equal(ctx_sweep(f->r, &limits, 0), 0);
	assert_int_equal(fix_stats(f->store).reserved, 2);
	assert_int_equal(fix_stats(f->store).locked, 2);
	ctx_put(f->r, c);
}

static void test_4_silence(void **state)
{
	struct fix *f = *state;
	struct ctx *pinged = enter(f, 1, 1), *quiet = enter(f, 2, 1), *watched = enter(f, 3, 1);
	struct ctx_limits off = limits;

	ctx_seen(pinged, 2000, true);
	ctx_seen(quiet, 2000, false);
	watched->pidfd = open("/dev/null", O_RDONLY);
	watched->watched = true;
	off.reap_ms = 0;
	assert_int_equal(ctx_sweep(f->r, &off, 1ull << 50), 0);
	assert_int_equal(ctx_sweep(f->r, &limits, 2000 + limits.reap_ms), 0);
	assert_int_equal(ctx_sweep(f->r, &limits, 2001 + limits.reap_ms), 1);
	assert_int_equal(f->deaths, 1);
	assert_int_equal(f->last_dead, 1);
	assert_false(known(f, 1));
	assert_int_equal(ctx_sweep(f->r, &limits, 2000 + limits.grace_ms), 0);
	assert_int_equal(ctx_sweep(f->r, &limits, 2001 + limits.grace_ms), 1);
	assert_int_equal(f->last_dead, 2);
	assert_int_equal(ctx_sweep(f->r, &limits, 1ull << 50), 0); /* a living process is never judged by its age */
	assert_true(known(f, 3));
	ctx_put(f->r, pinged);
	ctx_put(f->r, quiet);
	ctx_put(f->r, watched);
}

/* Many at once, several in one bucket. */
static void test_5_all_silent_ones_go_in_one_sweep(void **state)
{
	struct fix *f = *state;

	for (uint64_t i = 0; i < 3000; i++)
		ctx_put(f->r, enter(f, i * 977, 1));
	assert_int_equal(ctx_sweep(f->r, &limits, 1001 + limits.grace_ms), 3000);
	assert_int_equal(f->deaths, 3000);
	assert_int_equal(ctx_count(f->r), 0);
}

/* Silence proves nothing: slots it may still write into stay taken for one more write TTL, their keys are free. */
static void test_6_slots_of_a_silent_engine(void **state)
{
	uint64_t t = 1001 + limits.grace_ms;
	struct fix *f = *state;
	struct ctx *c = enter(f, 7, 1);

	fix_put(f->store, "m", 1, 0, 100, 4, OBJECT);
	add(f, c, 1, true, 0, 3, t - 1);
	add(f, c, 2, true, 10, 2, 1000); /* disowned before */
	add(f, c, 3, false, 100, 4, t - 1);
	assert_int_equal(ctx_sweep(f->r, &limits, t), 1);
	assert_int_equal(fix_stats(f->store).locked, 0);
	assert_int_equal(fix_stats(f->store).reserved, 0);
	assert_int_equal(fix_stats(f->store).detached, 5);
	ctx_sweep(f->r, &limits, t + limits.write_ttl_ms);
	assert_int_equal(fix_stats(f->store).detached, 5);
	ctx_sweep(f->r, &limits, t + 1 + limits.write_ttl_ms);
	assert_int_equal(fix_stats(f->store).detached, 0);
	assert_int_equal(fix_stats(f->store).objects, 4);
	ctx_put(f->r, c);
}

static void test_7_death_is_told_once_and_of_the_right_one(void **state)
{
	struct fix *f = *state;
	struct ctx *old = enter(f, 7, 1), *new;

	add(f, old, 1, true, 0, 3, 1000);
	assert_true(ctx_drop_this(f->r, old));
	assert_int_equal(fix_stats(f->store).reserved, 0); /* the process is gone: nobody writes */
	assert_false(ctx_drop_this(f->r, old));
	assert_int_equal(f->deaths, 1);
	new = enter(f, 7, 1);
	assert_false(ctx_drop_this(f->r, old)); /* a late pidfd must not hit the successor */
	assert_true(known(f, 7));
	assert_int_equal(f->deaths, 1);
	ctx_put(f->r, old);
	ctx_put(f->r, new);
}

/* ---- threads ------------------------------------------------------------------------------------------------------ */

struct user {
	struct fix *f;
	uint64_t seed;
};

static void some_pending(struct fix *f, struct ctx *c, struct rnd *r)
{
	struct ctx_pending *p = mem_calloc(1, sizeof(*p) + sizeof(p->objs[0]));
	struct store_hash h = hash_no(rnd_below(r, 64));

	p->key_id = rnd_below(r, 4);
	p->store = rnd_below(r, 2);
	p->n = 1;
	p->since_ms = rnd_below(r, 1000);
	if (p->store)
		store_reserve(f->store, f->ns, &h, 1, OBJECT, NODE_UNKNOWN, 0, p->objs);
	else if (store_lock_all(f->store, f->ns, &h, 1, OBJECT, 0, p->objs, NULL))
		p->objs[0] = 0;
	if (ctx_pending_add(f->r, c, p)) {
		p->store ? store_abort(f->store, p->objs, 1) : store_unlock(f->store, p->objs, NULL, 1, 0);
		mem_free(p);
	}
}

static void some_commit(struct fix *f, struct ctx *c, struct rnd *r)
{
	struct ctx_pending *p = ctx_pending_take(f->r, c, rnd_below(r, 4), rnd_below(r, 2));

	if (!p)
		return;
	p->store ? (void)store_commit(f->store, p->objs, p->n, 0) : store_unlock(f->store, p->objs, NULL, p->n, 0);
	mem_free(p);
}

static void *use(void *arg)
{
	struct user *u = arg;
	struct rnd r = {u->seed};
	struct ctx_limits quick = {.write_ttl_ms = 100, .read_ttl_ms = 100, .reap_ms = 400, .grace_ms = 900};

	for (int i = 0; i < 4000; i++) {
		uint64_t id = rnd_below(&r, 5), owner = rnd_below(&r, 3), now = rnd_below(&r, 1500);
		struct ctx *c = NULL;

		if (rnd_below(&r, 8) == 0) {
			c = ctx_create(id, CTX_SLOTS, slice_str("m"), slice_of("", 0), 1);
			c->owner = owner;
			c->object_bytes = OBJECT;
			ctx_seen(c, now, rnd_below(&r, 2));
			if (ctx_enter(u->f->r, c, rnd_below(&r, 2)))
				ctx_put(u->f->r, c);
		} else if (rnd_below(&r, 16) == 0) {
			ctx_sweep(u->f->r, &quick, now);
		} else if (rnd_below(&r, 16) == 0) {
			ctx_drop(u->f->r, id, owner);
		} else if ((c = ctx_get_for(u->f->r, id, owner))) {
			ctx_seen(c, now, true);
			if (rnd_below(&r, 32) == 0)
				ctx_drop_this(u->f->r, c);
			some_pending(u->f, c, &r);
			some_commit(u->f, c, &r);
			ctx_put(u->f->r, c);
		}
		ctx_object_bytes(u->f->r, slice_str("m"), 1);
	}
	return NULL;
}

static void never(void *arg, const struct ctx *c)
{
	(void)arg;
	(void)c;
}

/* The teardown then finds every lock and reservation given back, and the sanitizers every reference. */
static void test_8_four_threads(void **state)
{
	struct rnd r = rnd_start("threads");
	struct fix *f = *state;
	struct user u[4];
	pthread_t t[4];

	ctx_registry_destroy(f->r);
	assert_int_equal(ctx_registry_create(f->store, never, NULL, &f->r), 0);
	for (int i = 0; i < 4; i++) {
		u[i] = (struct user){f, mix64(r.state++)};
		assert_int_equal(pthread_create(&t[i], NULL, use, &u[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_in_range(ctx_count(f->r), 0, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_1_a_late_writer),
		T(test_2_a_late_reader),
		T(test_3_a_sweep_from_the_past),
		T(test_4_silence),
		T(test_5_all_silent_ones_go_in_one_sweep),
		T(test_6_slots_of_a_silent_engine),
		T(test_7_death_is_told_once_and_of_the_right_one),
		T(test_8_four_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
