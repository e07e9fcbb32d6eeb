/* session_fixture.h - sessions over a real store, and requests as owner 1 makes them. */
#ifndef TESTS_UNIT_DAEMON_CORE_SESSION_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_SESSION_FIXTURE_H

#include "daemon/core/session.h"

#include "tests/unit/daemon/core/fixture.h"

#define MODEL   "model/a"
#define TTL_MS  5000u
#define IDLE_MS 600000u

struct fix {
	struct fix_store fs;
	struct store *store;
	struct sessions *s;
	struct store_hash h[64]; /* hash_no(0) and following */
};

static inline int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	fix_store_open(&f->fs, 4);
	f->store = f->fs.store;
	hashes_from(f->h, 0, 64);
	assert_int_equal(sessions_create(f->store, TTL_MS, &f->s), 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fix *f = *state;

	sessions_destroy(f->s);
	assert_int_equal(fix_stats(f->store).locked, 0);
	fix_store_close(&f->fs);
	free(f);
	return 0;
}

static inline struct session_lookup want(struct fix *f, const char *id, uint32_t nchunks, uint32_t world_size,
					 uint16_t locks, uint64_t now_ms)
{
	return (struct session_lookup){.request_id = slice_str(id),
				       .model = slice_str(MODEL),
				       .salt = slice_of("", 0),
				       .owner = 1,
				       .world_size = world_size,
				       .locks = locks,
				       .object_bytes = UNIT,
				       .hashes = f->h,
				       .nchunks = nchunks,
				       .now_ms = now_ms};
}

static inline struct session_hits look(struct fix *f, const char *id, uint32_t nchunks, uint32_t world_size,
				       uint16_t locks, uint64_t now_ms)
{
	struct session_lookup l = want(f, id, nchunks, world_size, locks, now_ms);
	struct session_hits hits;

	assert_int_equal(sessions_lookup(f->s, &l, &hits), 0);
	return hits;
}

/* As the connection that looked up. */
static inline uint32_t release(struct sessions *s, const char *id, uint32_t first, uint32_t n, int rank, uint16_t count,
			       uint64_t now_ms)
{
	struct session_range r = {.request_id = slice_str(id), .owner = 1, .first = first, .n = n, .rank = rank};

	return sessions_release(s, &r, count, now_ms);
}

static inline bool holds(struct sessions *s, const char *id, uint32_t first, uint32_t n, int rank,
			 const store_obj *objs)
{
	struct session_range r = {slice_str(id), 1, first, n, rank, objs};

	return sessions_holds(s, &r);
}

static inline uint64_t locked(struct fix *f)
{
	return fix_stats(f->store).locked;
}

static inline struct sessions_stats counts(struct fix *f)
{
	struct sessions_stats st;

	sessions_stats(f->s, &st);
	return st;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
