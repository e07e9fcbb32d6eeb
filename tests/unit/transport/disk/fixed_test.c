/* Memory that comes by and by: what is there becomes fixed buffers, what is not yet works without, and nothing is committed for it. */
#include "tests/unit/transport/disk/queue_fixture.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE (64 * MIB)
#define MS    1000000ull

/* The engine's side, by hand. */
static struct {
	uint64_t there;
	uint32_t asked, fixes, fail_at;
	uint64_t cost_ns;
	uint8_t *last;
} m;

static uint64_t there(void *ctx, uint32_t index)
{
	assert_ptr_equal(ctx, &m);
	assert_int_equal(index, 7);
	m.asked++;
	return m.there;
}

static int fake_fix(void *engine, uint32_t index, void *base, uint64_t bytes, struct why *why)
{
	struct fake *f = engine;

	assert_ptr_equal(base, BASE + index * PIECE); /* each once, in order, and only what is there */
	assert_true(m.last ? (uint8_t *)base == m.last + PIECE : base == BASE);
	assert_true((uint64_t)((uint8_t *)base - BASE) + bytes <= m.there);
	f->now += m.cost_ns;
	if (++m.fixes == m.fail_at)
		return why_set(why, -ENOMEM, "no more, says the test");
	m.last = base;
	return 0;
}

static struct disk_engine_ops ops;

static void grow_from(struct rig *r, uint64_t at_first)
{
	struct why why = {0};

	memset(&m, 0, sizeof m);
	m.there = at_first;
	ops = fake_ops;
	ops.fix = fake_fix;
	r->buffer = (struct disk_buffer){.base = BASE, .bytes = 3ull << 30, .there = there, .ctx = &m, .index = 7};
	assert_int_equal(disk_open_engine(&r->conf, &r->facts, &ops, &r->f, &r->d, &why), 0);
	assert_int_equal(m.fixes, 0); /* opening waits for nothing */
}

/* Reads, and returns how many of its bytes went through fixed buffers. */
static uint64_t fixed_of_read(struct rig *r, uint64_t at, uint64_t bytes)
{
	struct disk_stats a = stats_of(r), b;
	struct req q = {0};

	put(r, &q, DISK_READ, at, bytes);
	finish_all(r);
	assert_int_equal(q.io.result, 0);
	assert_int_equal(q.part_bytes, bytes);
	b = stats_of(r);
	assert_int_equal(b.fixed_bytes + b.loose_bytes - a.fixed_bytes - a.loose_bytes, bytes);
	return b.fixed_bytes - a.fixed_bytes;
}

static void what_is_there_becomes_fixed(void **state)
{
	struct rig *r = *state;
	uint32_t asked;

	grow_from(r, 10 * MIB);
	assert_int_equal(fixed_of_read(r, 0, 4 * MIB), 0); /* part of a piece */
	m.there = PIECE + 5 * MIB;
	disk_run(r->d, 0);
	assert_int_equal(m.fixes, 1);
	assert_int_equal(stats_of(r).fixed_memory, PIECE);
	assert_int_equal(stats_of(r).all_memory, 3ull << 30);
	assert_int_equal(fixed_of_read(r, 8 * MIB, 4 * MIB), 4 * MIB);
	assert_int_equal(fixed_of_read(r, PIECE - MIB - 4096, 4 * MIB), MIB + 4096); /* no sub-IO lies in two */
	m.there = 3ull << 30;
	while (stats_of(r).fixed_memory < 3ull << 30)
		disk_run(r->d, MS);
	assert_int_equal(m.fixes, 48);
	assert_int_equal(fixed_of_read(r, PIECE - MIB - 4096, 4 * MIB), 4 * MIB);
	assert_int_equal(fixed_of_read(r, (3ull << 30) - 4 * MIB, 4 * MIB), 4 * MIB);
	asked = m.asked;
	disk_run(r->d, 5 * MS);
	assert_int_equal(m.asked, asked); /* and that is it */
	assert_int_equal(r->f.last_wait, 5 * MS);
}

static void io_goes_on_meanwhile(void **state)
{
	struct rig *r = *state;
	struct req q = {0};
	uint64_t spent = 0, begin;

	grow_from(r, 0);
	m.there = 3ull << 30;
	m.cost_ns = MS / 4;
	put(r, &q, DISK_READ, 0, 4096);
	begin = r->f.now;
	while (m.fixes < 48) {
		uint32_t n = m.fixes;

		disk_run(r->d, MS); /* the read hangs */
		assert_true(m.fixes - n <= 4);
		spent += (m.fixes - n) * m.cost_ns;
	}
	assert_true(spent * 3 <= r->f.now - begin); /* a quarter of the time, the first slice aside */
	assert_true(spent * 5 > r->f.now - begin);
	finish_all(r);
}

static void without_io_it_goes_fast_and_an_idle_disk_sleeps(void **state)
{
	struct rig *r = *state;
	uint64_t begin;

	grow_from(r, 0);
	m.there = 3ull << 30;
	m.cost_ns = MS / 4;
	begin = r->f.now;
	while (m.fixes < 48)
		disk_run(r->d, MS); /* waits in the last turn only */
	assert_true(r->f.now - begin < 48 * m.cost_ns + 2 * MS);
	disk_close(r->d, 0);
	grow_from(r, PIECE);
	begin = r->f.now;
	r->f.waits = 0;
	while (r->f.now - begin < 60000 * MS)
		disk_run(r->d, 60000 * MS);
	assert_in_range(r->f.waits, 2, 75); /* once a second in the end */
	m.there += PIECE;
	disk_run(r->d, 0); /* whoever wakes the disk makes it look */
	assert_int_equal(m.fixes, 2);
}

static void a_refusal_is_the_end_of_it(void **state)
{
	struct rig *r = *state;

	grow_from(r, 0);
	m.there = 3ull << 30;
	m.fail_at = 3;
	for (int i = 0; i < 10; i++)
		disk_run(r->d, MS);
	assert_int_equal(m.fixes, 3);
	assert_int_equal(stats_of(r).fixed_memory, 2 * PIECE);
	assert_int_equal(fixed_of_read(r, PIECE, 4 * MIB), 4 * MIB);
	assert_int_equal(fixed_of_read(r, 2 * PIECE, 4 * MIB), 0);
}

/* ---- a ring ------------------------------------------------------------------------------------------------------------------ */

static _Atomic uint64_t real_there;

static uint64_t really_there(void *ctx, uint32_t index)
{
	(void)ctx;
	(void)index;
	return atomic_load(&real_there);
}

static uint64_t resident(uint8_t *p, uint64_t bytes)
{
	unsigned char *v = malloc(bytes / 4096);
	uint64_t n = 0;

	assert_int_equal(mincore(p, bytes, v), 0);
	for (uint64_t i = 0; i < bytes / 4096; i++)
		n += (v[i] & 1) * 4096u;
	free(v);
	return n;
}

static void there_and_back(struct disk *d, uint8_t *p)
{
	struct req q[2] = {0};

	for (int i = 0; i < 2; i++) {
		memset(p, i ? 0 : 0x5a, MIB);
		q[i].io = (struct disk_io){
			.op = i ? DISK_READ : DISK_WRITE, .bytes = MIB, .buf = p, .done = on_done, .owner = &q[i]};
		disk_submit(d, &q[i].io);
		while (!q[i].done)
			disk_run(d, 100 * MS);
		assert_int_equal(q[i].io.result, 0);
	}
	for (uint64_t i = 0; i < MIB; i++)
		assert_int_equal(p[i], 0x5a);
}

static void a_ring_takes_what_comes(void **state)
{
	char path[] = "build/disk_fixed_XXXXXX";
	uint64_t all = 2 * PIECE + 8 * MIB;
	uint8_t *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct disk_buffer b = {.base = p, .bytes = all, .there = really_there};
	struct disk_conf c = {.path = path, .write = true, .engine = DISK_URING, .buffers = &b, .nbuffers = 1};
	struct why why = {0};
	struct disk_stats n;
	struct disk *d;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0 && p != MAP_FAILED);
	assert_int_equal(posix_fallocate(fd, 0, 4 * MIB), 0);
	close(fd);
	madvise(p, all, MADV_NOHUGEPAGE);
	if (disk_open(&c, &d, &why)) {
		print_message("%s\n", why.text);
		unlink(path);
		skip();
	}
	there_and_back(d, p);
	disk_stats(d, &n);
	assert_int_equal(n.loose_bytes, 2 * MIB);
	assert_in_range(resident(p, all), MIB, 2 * MIB); /* what was used and nothing else */
	for (uint64_t at = PIECE; at <= all; at = at == PIECE ? all : all + 1) {
		memset(p, 1, at);
		atomic_store(&real_there, at);
		for (int i = 0; i < 2000 && n.fixed_memory < at; i++) {
			disk_run(d, MS);
			disk_stats(d, &n);
		}
		assert_int_equal(n.fixed_memory, at);
	}
	there_and_back(d, p + 5 * MIB);
	there_and_back(d, p + PIECE - MIB / 2);
	there_and_back(d, p + all - MIB);
	disk_stats(d, &n);
	assert_int_equal(n.loose_bytes, 2 * MIB);
	assert_int_equal(n.fixed_bytes, 6 * MIB);
	assert_int_equal(disk_close(d, 1000), 0);
	munmap(p, all);
	unlink(path);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_there_becomes_fixed),
		T(io_goes_on_meanwhile),
		T(without_io_it_goes_fast_and_an_idle_disk_sleeps),
		T(a_refusal_is_the_end_of_it),
		cmocka_unit_test(a_ring_takes_what_comes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
