/* Both real engines on a file: what is written is what is read, by others too; waking, flushing, refusing, closing. */
#include "tests/unit/transport/disk/file_fixture.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <pthread.h>

static const enum disk_engine engines[] = {DISK_URING, DISK_THREADS};

static void written_is_read(struct fix *f, enum disk_engine engine, uint8_t *mem, bool fixed)
{
	struct disk_buffer b = {.base = mem, .bytes = 8 * MIB};
	struct disk_conf c = {.write = true, .engine = engine, .buffers = &b, .nbuffers = fixed, .threads = 3};
	struct disk *d = fix_open(f, &c);
	struct disk_stats s;
	struct req r[4];
	uint8_t *back = malloc(4 * MIB);
	uint64_t allocs = mem_thread_allocs();

	fill(mem, 4 * MIB, engine + 7);
	put(d, &r[0], DISK_WRITE, 0, mem, MIB + 4096);
	put(d, &r[1], DISK_WRITE, 3 * MIB, mem + MIB + 4096, 3 * MIB - 4096);
	wait_all(d, r, 2);
	put(d, &r[2], DISK_FLUSH, 0, NULL, 0);
	wait_all(d, r + 2, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(r[i].io.result, 0);
	assert_int_equal(pread(f->fd, back, MIB + 4096, 0), MIB + 4096);
	assert_memory_equal(back, mem, MIB + 4096);
	assert_int_equal(pread(f->fd, back, 3 * MIB - 4096, 3 * MIB), 3 * MIB - 4096);
	assert_memory_equal(back, mem + MIB + 4096, 3 * MIB - 4096);
	memset(mem + 4 * MIB, 0, 4 * MIB);
	put(d, &r[0], DISK_READ, 3 * MIB, mem + 5 * MIB + 4096, 3 * MIB - 4096);
	put(d, &r[1], DISK_READ, 0, mem + 4 * MIB, MIB + 4096);
	r[1].io.urgent = true;
	wait_all(d, r, 2);
	assert_int_equal(r[0].io.result | r[1].io.result, 0);
	assert_memory_equal(mem + 4 * MIB, mem, 4 * MIB);
	assert_int_equal(r[0].part_bytes, 3 * MIB - 4096);
	assert_int_equal(r[1].part_bytes, MIB + 4096);
	assert_int_equal(mem_thread_allocs(), allocs); /* not one since the open */
	disk_stats(d, &s);
	assert_int_equal(s.read_bytes, 4 * MIB);
	assert_int_equal(s.write_bytes, 4 * MIB);
	assert_int_equal(s.flushes, 1);
	assert_int_equal(s.in_flight, 0);
	assert_int_equal(s.errors + s.short_ios, 0);
	assert_true(s.submit_calls > 0);
	assert_int_equal(s.fixed_bytes, fixed && engine == DISK_URING ? 8 * MIB : 0);
	assert_int_equal(s.fixed_bytes + s.loose_bytes, 8 * MIB);
	assert_int_equal(disk_close(d, 0), 0);
	free(back);
}

static void what_is_written_is_read(void **state)
{
	struct fix *f = *state;

	for (int e = 0; e < 2; e++)
		for (int fixed = 0; fixed < 2; fixed++)
			written_is_read(f, engines[e], f->mem, fixed);
}

static void huge_pages_too(void **state)
{
	uint8_t *mem = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (mem == MAP_FAILED) {
		print_message("no huge pages are free here\n");
		skip();
	}
	for (int e = 0; e < 2; e++)
		written_is_read(*state, engines[e], mem, true);
	munmap(mem, 8 * MIB);
}

static void *waker(void *arg)
{
	usleep(30000);
	disk_wake(arg);
	return NULL;
}

static void a_wake_ends_the_wait(void **state)
{
	for (int e = 0; e < 2; e++) {
		struct disk_conf c = {.engine = engines[e]};
		struct disk *d = fix_open(*state, &c);
		uint64_t t = clock_ns();
		pthread_t tid;

		disk_wake(d); /* before the wait: it does not happen */
		assert_int_equal(disk_run(d, 20000000000ull), 0);
		assert_true(clock_ns() - t < 10000000000ull);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(pthread_create(&tid, NULL, waker, d), 0);
			t = clock_ns();
			disk_run(d, 20000000000ull);
			t = clock_ns() - t;
			pthread_join(tid, NULL);
			disk_run(d, 0);
			assert_true(t < 10000000000ull);
		}
		t = clock_ns();
		disk_run(d, 20000000); /* and without one it lasts */
		assert_true(clock_ns() - t >= 19000000);
		assert_int_equal(disk_close(d, 0), 0);
	}
}

struct owner {
	struct disk *d;
	struct req r;
	uint8_t *mem;
};

static void *own(void *arg)
{
	struct owner *o = arg;

	put(o->d, &o->r, DISK_READ, 0, o->mem, MIB);
	wait_all(o->d, &o->r, 1);
	return NULL;
}

static void another_thread_may_own_it(void **state)
{
	struct fix *f = *state;

	for (int e = 0; e < 2; e++) {
		struct disk_conf c = {.engine = engines[e]};
		struct owner o = {.d = fix_open(f, &c), .mem = f->mem};
		struct disk_stats s;
		pthread_t tid;

		assert_int_equal(pthread_create(&tid, NULL, own, &o), 0);
		disk_stats(o.d, &s);
		pthread_join(tid, NULL);
		assert_int_equal(o.r.io.result, 0);
		assert_int_equal(disk_close(o.d, 0), 0);
	}
}

static void what_a_file_cannot_do_is_refused(void **state)
{
	struct fix *f = *state;

	for (int e = 0; e < 2; e++) {
		struct disk_conf c = {.engine = engines[e]}, w = {.engine = engines[e], .write = true};
		struct disk *d = fix_open(f, &c);
		struct req r[4];

		put(d, &r[0], DISK_WRITE, 0, f->mem, 4096);
		put(d, &r[1], DISK_FLUSH, 0, NULL, 0);
		put(d, &r[2], DISK_READ, FILE_BYTES - 4096, f->mem, 8192);
		assert_int_equal(r[0].done, 0); /* told by disk_run, never before */
		wait_all(d, r, 3);
		assert_int_equal(r[0].io.result, -EBADF);
		assert_int_equal(r[1].io.result, -EBADF);
		assert_int_equal(r[2].io.result, -EINVAL);
		disk_close(d, 0);
		d = fix_open(f, &w);
		put(d, &r[0], DISK_DISCARD, 0, NULL, MIB);
		wait_all(d, r, 1);
		assert_int_equal(r[0].io.result, -EOPNOTSUPP);
		disk_close(d, 0);
	}
}

static void the_end_of_a_file_that_shrank_is_an_error(void **state)
{
	struct fix *f = *state;

	for (int e = 0; e < 2; e++) {
		struct disk_conf c = {.engine = engines[e]};
		struct disk *d;
		struct req r;

		assert_int_equal(ftruncate(f->fd, FILE_BYTES), 0);
		d = fix_open(f, &c);
		assert_int_equal(ftruncate(f->fd, FILE_BYTES - MIB - 8192), 0);
		put(d, &r, DISK_READ, FILE_BYTES - 2 * MIB, f->mem, 2 * MIB);
		wait_all(d, &r, 1);
		assert_int_equal(r.io.result, -EIO);
		assert_int_equal(disk_close(d, 0), 0);
	}
}

/* Many of mixed sizes at once, each with bytes of its own. */
static void a_crowd_of_requests(void **state)
{
	enum { N = 48 };
	struct fix *f = *state;
	struct req r[N];

	for (int e = 0; e < 2; e++) {
		struct disk_buffer b = {.base = f->mem, .bytes = MEM_BYTES};
		struct disk_conf c = {
			.write = true, .engine = engines[e], .buffers = &b, .nbuffers = 1, .window_bytes = 3 * MIB};
		struct disk *d = fix_open(f, &c);
		uint64_t at = 0, len[N];
		uint8_t *copy = malloc(MEM_BYTES);

		fill(f->mem, MEM_BYTES, 99 + e);
		memcpy(copy, f->mem, MEM_BYTES);
		for (int i = 0; i < N; i++) {
			len[i] = 4096ull * (1 + (uint64_t)i * 37 % 80);
			put(d, &r[i], DISK_WRITE, at, f->mem + at, len[i]);
			at += len[i];
		}
		assert_true(at <= MEM_BYTES);
		wait_all(d, r, N);
		memset(f->mem, 0, at);
		at = 0;
		for (int i = 0; i < N; i++) {
			put(d, &r[i], DISK_READ, at, f->mem + at, len[i]);
			at += len[i];
		}
		wait_all(d, r, N);
		assert_memory_equal(f->mem, copy, at);
		free(copy);
		assert_int_equal(disk_close(d, 0), 0);
	}
}

static void closing_finishes_what_is_under_way(void **state)
{
	struct fix *f = *state;

	for (int e = 0; e < 2; e++) {
		struct disk_conf c = {.write = true, .engine = engines[e]};
		struct disk *d = fix_open(f, &c);
		struct req r[2];

		fill(f->mem, 8 * MIB, 3);
		put(d, &r[0], DISK_WRITE, 0, f->mem, 8 * MIB);
		put(d, &r[1], DISK_FLUSH, 0, NULL, 0);
		disk_run(d, 0);
		assert_int_equal(disk_close(d, 20000), 0);
		assert_int_equal(r[0].done, 1);
		assert_int_equal(r[1].done, 1);
		assert_int_equal(r[0].io.result, 0);
	}
}

static void no_memory_leaves_nothing(void **state)
{
	struct fix *f = *state;
	struct disk_buffer b = {.base = f->mem, .bytes = MEM_BYTES};

	for (int e = 0; e < 3; e++) {
		struct disk_conf c = {.path = f->path,
				      .write = true,
				      .engine = e < 2 ? engines[e] : DISK_AUTO,
				      .buffered = !f->direct,
				      .buffers = &b,
				      .nbuffers = 1,
				      .exclusive = true};
		uint32_t failed = 0;

		for (uint64_t at = 1; at < 20; at++) {
			struct why why = {0};
			struct disk *d = NULL;
			int rc;

			mem_fail_at(at);
			rc = disk_open(&c, &d, &why);
			mem_fail_at(0);
			if (!rc) {
				disk_close(d, 0);
				continue;
			}
			failed++;
			assert_int_equal(rc, -ENOMEM);
			assert_null(d);
			assert_true(why.text[0]);
		}
		assert_true(failed >= 3);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fix_setup, fix_teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_written_is_read),
		T(huge_pages_too),
		T(a_wake_ends_the_wait),
		T(another_thread_may_own_it),
		T(what_a_file_cannot_do_is_refused),
		T(the_end_of_a_file_that_shrank_is_an_error),
		T(a_crowd_of_requests),
		T(closing_finishes_what_is_under_way),
		T(no_memory_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
