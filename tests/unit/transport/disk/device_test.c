/* A disk as it is driven in earnest: all of it written and read again through fixed buffers, the kernel's slow paths counted.
 *
 * LMCA_TEST_DISK names a block device whose content may be destroyed (the lab's NVMe drive); then no punt and no split is allowed,
 * and discard and refusals of a device are tried, too. Else it is a file, where the file system may have its own reasons to punt.
 */
#include "tests/unit/transport/disk/file_fixture.h"

#include "transport/disk/engines.h"

#include <sys/wait.h>

#define OBJECT (4 * MIB + 4096) /* a header and a payload */
#define N      4u

static const char *device(void)
{
	return getenv("LMCA_TEST_DISK");
}

static uint8_t *memory(bool huge)
{
	void *p = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB : 0),
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static struct disk *open_it(struct fix *f, struct disk_conf *c)
{
	struct why why = {0};
	struct disk *d = NULL;

	if (!device())
		return fix_open(f, c);
	c->path = device();
	c->exclusive = true;
	if (disk_open(c, &d, &why))
		fail_msg("disk_open: %s", why.text);
	return d;
}

static void nothing_slow(const struct disk *d, const char *what)
{
	struct disk_stats s;

	disk_stats(d, &s);
	print_message("%s: %llu sub-IOs, %llu MiB fixed, %llu MiB not, traced %d, punts %llu, splits %llu\n", what,
		      (unsigned long long)s.sub_ios, (unsigned long long)(s.fixed_bytes / MIB),
		      (unsigned long long)(s.loose_bytes / MIB), s.traced, (unsigned long long)s.punts,
		      (unsigned long long)s.splits);
	assert_int_equal(s.loose_bytes, 0);
	assert_int_equal(s.fixed_bytes, 2 * N * OBJECT);
	if (!device())
		return;
	assert_true(s.traced);
	assert_int_equal(s.punts, 0);
	assert_int_equal(s.splits, 0);
}

static void objects_there_and_back(struct fix *f, bool huge)
{
	uint8_t *mem = memory(huge), *copy;
	struct disk_buffer b = {.base = mem, .bytes = MEM_BYTES};
	struct disk_conf c = {.write = true, .engine = DISK_URING, .buffers = &b, .nbuffers = 1, .trace = true};
	struct req r[N];
	struct disk *d;
	char text[200];

	if (!mem) {
		print_message("no huge pages are free here\n");
		skip();
	}
	d = open_it(f, &c);
	disk_describe(d, text, sizeof text);
	print_message("%s: %s\n", disk_facts(d)->path, text);
	copy = malloc(OBJECT);
	for (uint64_t i = 0; i < N; i++) {
		/* one after the other at the same memory, so that nothing but the medium can know them */
		fill(mem, OBJECT, i + 1);
		put(d, &r[i], DISK_WRITE, i * 5 * MIB, mem, OBJECT);
		wait_all(d, &r[i], 1);
		assert_int_equal(r[i].io.result, 0);
	}
	memset(mem, 0, OBJECT);
	for (uint64_t i = 0; i < N; i++) {
		put(d, &r[i], DISK_READ, i * 5 * MIB, mem + 2 * MIB + i * 4096, OBJECT);
		wait_all(d, &r[i], 1);
		assert_int_equal(r[i].io.result, 0);
		assert_int_equal(r[i].part_bytes, OBJECT);
		fill(copy, OBJECT, i + 1);
		assert_memory_equal(mem + 2 * MIB + i * 4096, copy, OBJECT);
	}
	nothing_slow(d, huge ? "huge pages" : "pages of 4 KiB");
	assert_int_equal(disk_close(d, 0), 0);
	free(copy);
	munmap(mem, MEM_BYTES);
}

/* The control of the two zeros above: an IO that the drive does not take whole, given to the engine past the disk, is counted. */
static void what_is_slow_is_counted(void **state)
{
	struct engine_conf c = {.block = true, .trace = true, .sub_ios = 4};
	struct disk_engine_counts n = {0};
	struct disk_sub sub = {.op = DISK_READ}, *subs[] = {&sub};
	struct disk_facts x;
	struct why why = {0};
	void *engine;

	(void)state;
	if (!device()) {
		print_message("only on a device\n");
		skip();
	}
	assert_int_equal(disk_probe(device(), &x, &why), 0);
	c.fd = open(device(), O_RDONLY | O_DIRECT | O_CLOEXEC);
	assert_true(c.fd >= 0);
	sub.bytes = x.max_io_bytes * 2;
	sub.buf = memory(false);
	memset(sub.buf, 1, sub.bytes);
	assert_int_equal(uring_create(&c, &engine, &why, &why), 0);
	assert_int_equal(uring_ops.reap(engine, subs, 1, 1000000), 0); /* counting begins with the first use */
	assert_int_equal(uring_ops.submit(engine, subs, 1), 1);
	assert_int_equal(uring_ops.reap(engine, subs, 1, 20000000000ull), 1);
	assert_int_equal(sub.result, sub.bytes);
	uring_ops.counts(engine, &n);
	assert_true(n.traced);
	assert_true(n.punts >= 1);
	assert_true(n.splits >= 1);
	uring_ops.close(engine, false);
	munmap(sub.buf, MEM_BYTES);
}

static void from_pages_of_4_kib(void **state)
{
	objects_there_and_back(*state, false);
}

static void from_huge_pages(void **state)
{
	objects_there_and_back(*state, true);
}

static void flush_and_discard(void **state)
{
	uint8_t *mem = memory(false);
	struct disk_conf c = {.write = true, .engine = DISK_URING};
	struct disk *d = open_it(*state, &c);
	struct req r[2];

	fill(mem, MIB, 1);
	put(d, &r[0], DISK_WRITE, 0, mem, MIB);
	wait_all(d, r, 1);
	put(d, &r[0], DISK_FLUSH, 0, NULL, 0);
	put(d, &r[1], DISK_DISCARD, 0, NULL, 2 * MIB);
	wait_all(d, r, 2);
	assert_int_equal(r[0].io.result, 0);
	assert_int_equal(r[1].io.result, disk_facts(d)->can_discard ? 0 : -EOPNOTSUPP);
	put(d, &r[0], DISK_READ, 0, mem, MIB); /* whatever is there now, reading works */
	wait_all(d, r, 1);
	assert_int_equal(r[0].io.result, 0);
	assert_int_equal(disk_close(d, 0), 0);
	munmap(mem, MEM_BYTES);
}

static void one_at_a_time(void **state)
{
	struct disk_conf c = {.write = true, .exclusive = true}, other = {.exclusive = true};
	struct disk *d = open_it(*state, &c), *second = NULL;
	struct fix *f = *state;
	struct why why = {0};

	other.path = device() ? device() : f->path;
	other.buffered = c.buffered;
	assert_int_equal(disk_open(&other, &second, &why), -EBUSY);
	assert_non_null(strstr(why.text, "in use"));
	assert_non_null(strstr(why.text, other.path));
	assert_int_equal(disk_close(d, 0), 0);
	assert_int_equal(disk_open(&other, &second, &why), 0); /* given up at once */
	assert_int_equal(disk_close(second, 0), 0);
}

static void a_killed_owner_gives_it_up(void **state)
{
	struct disk_conf c = {.write = true, .exclusive = true};
	int ready[2], status;
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		struct fix *f = *state;
		struct disk *d;
		struct req r;

		c.path = device() ? device() : f->path;
		c.buffered = !device() && !f->direct;
		if (disk_open(&c, &d, NULL))
			_exit(1);
		put(d, &r, DISK_WRITE, 0, f->mem, MEM_BYTES);
		disk_run(d, 0);
		if (write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_int_equal(disk_close(open_it(*state, &c), 0), 0);
	close(ready[0]);
}

static void what_is_known_of_it(void **state)
{
	struct fix *f = *state;
	const char *path = device() ? device() : f->path;
	struct disk_facts x;
	struct why why = {0};

	assert_int_equal(disk_probe(path, &x, &why), 0);
	print_message("%s: block %d, %llu bytes, logical %u, dma %u, max IO %u KiB, %u segments, %u requests, volatile "
		      "cache %d, discard %d, "
		      "node %d, model '%s', serial '%s', scheduler '%s'\n",
		      x.path, x.block, (unsigned long long)x.bytes, x.logical_block, x.dma_align, x.max_io_bytes >> 10,
		      x.max_segments, x.nr_requests, x.volatile_cache, x.can_discard, x.node.os, x.model, x.serial,
		      x.scheduler);
	assert_string_equal(x.path, path);
	assert_true(x.block == (device() != NULL));
	assert_true(x.bytes > 0 && x.bytes % DISK_ALIGN == 0);
	assert_true(x.logical_block >= 512 && x.logical_block <= DISK_ALIGN);
	if (device()) {
		assert_true(x.max_io_bytes && x.nr_requests && x.max_segments);
	} else {
		assert_int_equal(x.bytes, FILE_BYTES);
	}
}

static void what_is_no_disk(void **state)
{
	struct fix *f = *state;
	struct disk_facts x;
	char longer[400], dir[] = "/tmp";
	struct why why = {0};

	memset(longer, 'x', sizeof longer - 1);
	longer[sizeof longer - 1] = 0;
	assert_int_equal(disk_probe("/nowhere/at/all", &x, &why), -ENOENT);
	assert_int_equal(disk_probe(dir, &x, &why), -ENOTBLK);
	assert_int_equal(disk_probe("/dev/null", &x, &why), -ENOTBLK);
	assert_int_equal(disk_probe(longer, &x, &why), -ENAMETOOLONG);
	assert_int_equal(disk_probe(NULL, &x, &why), -ENAMETOOLONG);
	assert_int_equal(ftruncate(f->fd, 4095), 0);
	assert_int_equal(disk_probe(f->path, &x, &why), -ENOSPC);
	assert_non_null(strstr(why.text, "preallocate"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fix_setup, fix_teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_known_of_it), T(from_pages_of_4_kib),     T(from_huge_pages), T(flush_and_discard),
		T(one_at_a_time),       T(what_is_slow_is_counted), T(what_is_no_disk), T(a_killed_owner_gives_it_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
