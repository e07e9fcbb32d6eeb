/* The arena where the system refuses: calls that a seccomp profile answers, limits of the process, memory that ends while many
 * threads populate. Those on huge pages need root and a few pages of 2 MiB, reserved and given back; else they skip and say so. */
#include "tests/unit/numa/arena_tools.h"

#include <sys/resource.h>

#define PAGES    8
#define POPULATE 23 /* MADV_POPULATE_WRITE */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAY_LIMIT_SPACE false /* their shadow does not fit */
#else
#define MAY_LIMIT_SPACE true
#endif

static struct reserved reserved;
static bool have;

static int get_pages(void **state)
{
	(void)state;
	stand_alone();
	have = reserve_huge(&reserved, PAGES);
	return 0;
}

static int put_pages(void **state)
{
	(void)state;
	give_back_huge(&reserved);
	return 0;
}

static void need_pages(void)
{
	if (!have)
		skip();
}

static const char *name_of(const char *what)
{
	static char name[64];

	snprintf(name, sizeof(name), "lmca_refused_test_%d_%s", (int)getpid(), what);
	return name;
}

/* ---- system calls that are refused ------------------------------------------------------------------------------------ */

/* The kernel says EFAULT where a touch would be SIGBUS. */
static void populate_fails(void *arg)
{
	struct arena_conf conf = huge_conf(name_of("efault"), 4);
	struct why why = {0};
	struct arena *a;
	long before = huge_free();
	(void)arg;

	EXPECT(refuse(SYS_madvise, EFAULT, POPULATE));
	EXPECT(arena_create(&conf, &a, &why) == -ENOSPC);
	EXPECT_SAYS(&why, "node 0: 4 pages of 2 MiB wanted");
	EXPECT_SAYS(&why, "hugetlb limit of our cgroup");
	EXPECT(huge_free() == before);
	EXPECT(!exists(conf.shm_name));
	conf.huge_2m = WANT_TRY;
	EXPECT(arena_create(&conf, &a, &why) == -ENOSPC); /* small pages cannot be populated either */
	EXPECT_SAYS(&why, "cannot populate L1 memory of node 0");
	EXPECT(huge_free() == before);
}

static void test_01_populating_fails_and_nothing_stays(void **state)
{
	long before = huge_free();
	(void)state;

	need_pages();
	assert_int_equal(in_child(populate_fails, NULL), 0);
	assert_int_equal(huge_free(), before);
}

static void populate_unknown(void *arg)
{
	struct arena_conf conf = huge_conf("", 4);
	struct arena_place p;
	struct arena *a;
	(void)arg;

	EXPECT(refuse(SYS_madvise, EINVAL, POPULATE));
	EXPECT(arena_create(&conf, &a, NULL) == 0);
	EXPECT(arena_verify(a, 0, 0, &p, NULL) == 0 && p.on_node == 4);
	arena_destroy(a);
	conf.huge_2m = WANT_NO;
	EXPECT(arena_create(&conf, &a, NULL) == 0);
	EXPECT(arena_verify(a, 0, 0, &p, NULL) == 0 && p.on_node == 4 * HUGE_PAGE / ARENA_PAGE);
	arena_destroy(a);
}

/* Kernels before 5.14, and there a file that is cut under us: the same fault, still no signal. */
static void test_02_without_the_call_that_populates(void **state)
{
	(void)state;
	need_pages();
	assert_int_equal(in_child(populate_unknown, NULL), 0);
}

static void try_unbound(void *arg)
{
	struct arena_conf *conf = arg;
	struct arena *a;

	EXPECT(arena_create(conf, &a, NULL) == 0);
	EXPECT(arena_fallbacks(a) == 1);
	for (uint32_t i = 0; i < arena_nranges(a); i++)
		EXPECT(!arena_range(a, i)->bound && arena_range(a, i)->node.os == 0);
	memset(arena_base(a), 1, arena_bytes(a));
	arena_destroy(a);
}

static void bind_refused(void *arg)
{
	struct arena_conf conf = huge_conf("", 2);
	struct why why = {0};
	struct arena *a;

	conf.nranges = 3;
	conf.range[1] = conf.range[2] = conf.range[0];
	conf.huge_2m = *(const enum plan_want *)arg;
	EXPECT(refuse(SYS_mbind, EPERM, -1));
	EXPECT(arena_create(&conf, &a, &why) == -EPERM);
	EXPECT_SAYS(&why, "node 0: mbind is not permitted (a seccomp profile)");
	EXPECT_SAYS(&why, "CAP_SYS_NICE");
	conf.numa = WANT_TRY;
	EXPECT(warnings_of(try_unbound, &conf) == 1); /* one for all ranges */
	conf.numa = WANT_NO;
	EXPECT(arena_create(&conf, &a, &why) == 0 && arena_fallbacks(a) == 0);
	arena_destroy(a);
}

static void test_03_binding_is_refused(void **state)
{
	enum plan_want no = WANT_NO, yes = WANT_YES;
	long before = huge_free();
	(void)state;

	assert_int_equal(in_child(bind_refused, &no), 0);
	need_pages();
	assert_int_equal(in_child(bind_refused, &yes), 0);
	assert_int_equal(huge_free(), before);
}

static void looking_refused(void *arg)
{
	struct arena_conf conf = huge_conf("", 2);
	struct why why = {0};
	struct arena_place p;
	struct arena *a;
	(void)arg;

	EXPECT(refuse(SYS_move_pages, EPERM, -1));
	conf.huge_2m = WANT_NO;
	EXPECT(arena_create(&conf, &a, &why) == 0); /* the kernel's yes or no for the whole range is still there */
	EXPECT(arena_range(a, 0)->bound);
	EXPECT(arena_verify(a, 0, 0, &p, &why) == -EPERM);
	EXPECT_SAYS(&why, "move_pages is not permitted");
	arena_destroy(a);
}

static void test_04_looking_is_refused(void **state)
{
	(void)state;
	assert_int_equal(in_child(looking_refused, NULL), 0);
}

static void no_such_node(void *arg)
{
	struct arena_conf conf = huge_conf("", 2);
	struct why why = {0};
	struct arena *a;
	(void)arg;

	conf.huge_2m = WANT_NO;
	conf.range[0].node = node_of(1000);
	EXPECT(arena_create(&conf, &a, &why) == -EINVAL);
	EXPECT_SAYS(&why, "node 1000: there is no such node");
	EXPECT_SAYS(&why, "/sys/devices/system/node/node1000");
	conf.range[0].node = NODE_UNKNOWN; /* nothing to bind, and never node 0 */
	EXPECT(arena_create(&conf, &a, &why) == 0);
	EXPECT(!arena_range(a, 0)->bound && arena_fallbacks(a) == 0);
	arena_destroy(a);
}

static void test_05_a_node_that_is_not_there(void **state)
{
	(void)state;
	assert_int_equal(in_child(no_such_node, NULL), 0);
}

/* ---- limits of the process ---------------------------------------------------------------------------------------- */

static void small_files(void *arg)
{
	struct rlimit lim = {MIB, MIB};
	struct arena_conf conf = {.bytes = 4 * MIB, .shm_name = name_of("fsize")};
	struct why why = {0};
	struct arena *a;
	(void)arg;

	EXPECT(setrlimit(RLIMIT_FSIZE, &lim) == 0);
	EXPECT(arena_create(&conf, &a, &why) == -EFBIG);
	EXPECT_SAYS(&why, "ulimit -f");
	EXPECT(!exists(conf.shm_name));
}

static void small_space(void *arg)
{
	struct rlimit lim = {GIB, GIB};
	struct arena_conf conf = {.bytes = 2 * GIB, .shm_name = "", .lazy = true};
	struct why why = {0};
	struct arena *a;
	(void)arg;

	EXPECT(setrlimit(RLIMIT_AS, &lim) == 0);
	EXPECT(arena_create(&conf, &a, &why) == -ENOMEM);
	EXPECT_SAYS(&why, "ulimit -v");
}

static void test_06_limits_of_the_process(void **state)
{
	(void)state;
	assert_int_equal(in_child(small_files, NULL), 0);
	if (MAY_LIMIT_SPACE)
		assert_int_equal(in_child(small_space, NULL), 0);
}

/* ---- populating ----------------------------------------------------------------------------------------------------- */

static void test_07_many_threads_populate_each_byte(void **state)
{
	struct arena_conf conf = {.shm_name = "", .lazy = true, .threads = 5, .nranges = 3};
	struct arena *a;
	(void)state;

	for (uint32_t i = 0; i < 3; i++) {
		conf.range[i].node = NODE_UNKNOWN;
		conf.range[i].bytes = (40 + 33 * i) * MIB;
		cpus_add(&conf.range[i].cpus, 0);
	}
	a = open_ok(&conf);
	assert_int_equal(arena_populate(a, arena_bytes(a) / 2, NULL, NULL), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_true(arena_committed(a, i) >= arena_range(a, i)->bytes / 2);
	assert_int_equal(arena_populate(a, UINT64_MAX, NULL, NULL), 0);
	for (uint32_t i = 0; i < 3; i++) {
		struct arena_place p;

		assert_int_equal(arena_committed(a, i), arena_range(a, i)->bytes);
		assert_int_equal(arena_verify(a, i, 0, &p, NULL), 0);
		assert_int_equal(p.absent, 0);
		assert_int_equal(p.on_node, arena_range(a, i)->bytes / ARENA_PAGE); /* none planned: any will do */
	}
	arena_destroy(a);
}

static void test_08_populating_stops_when_told(void **state)
{
	struct arena_conf conf = {.bytes = 256 * MIB, .shm_name = "", .lazy = true};
	struct arena *a = open_ok(&conf);
	_Atomic bool stop = true;
	struct why why = {0};
	(void)state;

	assert_int_equal(arena_populate(a, arena_bytes(a), &stop, &why), -ECANCELED);
	assert_int_equal(arena_committed(a, 0), 0);
	arena_destroy(a);
}

/* A file that is cut: threads of all ranges stop, what was there stays usable, and a later call may succeed. */
static void test_09_populating_beyond_the_file(void **state)
{
	struct arena_conf conf = {.bytes = 128 * MIB, .shm_name = name_of("cut"), .lazy = true, .threads = 4};
	struct arena *a = open_ok(&conf);
	struct why why = {0};
	char path[80];
	(void)state;

	snprintf(path, sizeof(path), "/%s", conf.shm_name);
	int fd = shm_open(path, O_RDWR, 0);
	assert_true(fd >= 0 && ftruncate(fd, 48 * MIB) == 0);
	assert_int_equal(arena_populate(a, arena_bytes(a), NULL, &why), -ENOSPC);
	says(&why, "cannot populate L1 memory beyond");
	says(&why, "--l1-size-gb");
	assert_int_equal(arena_committed(a, 0), 48 * MIB);
	assert_int_equal(ftruncate(fd, 128 * MIB), 0);
	close(fd);
	assert_int_equal(arena_populate(a, arena_bytes(a), NULL, &why), 0);
	assert_int_equal(arena_committed(a, 0), 128 * MIB);
	arena_base(a)[128 * MIB - 1] = 1;
	arena_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_populating_fails_and_nothing_stays),
		cmocka_unit_test(test_02_without_the_call_that_populates),
		cmocka_unit_test(test_03_binding_is_refused),
		cmocka_unit_test(test_04_looking_is_refused),
		cmocka_unit_test(test_05_a_node_that_is_not_there),
		cmocka_unit_test(test_06_limits_of_the_process),
		cmocka_unit_test(test_07_many_threads_populate_each_byte),
		cmocka_unit_test(test_08_populating_stops_when_told),
		cmocka_unit_test(test_09_populating_beyond_the_file),
	};

	return cmocka_run_group_tests(tests, get_pages, put_pages);
}
