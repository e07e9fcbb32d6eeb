/* The arena on a machine with several nodes and huge pages on each: run it in the lab. Elsewhere its tests skip. */
#include "tests/unit/numa/arena_tools.h"

#include <dirent.h>

#define POLICY_MOVE 2 /* MPOL_MF_MOVE */

static int node[64];
static uint32_t nnodes;

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int find_nodes(void **state)
{
	DIR *d = opendir("/sys/devices/system/node");
	struct dirent *de;
	(void)state;

	while (d && (de = readdir(d))) {
		if (strncmp(de->d_name, "node", 4) == 0 && de->d_name[4] >= '0' && de->d_name[4] <= '9' && nnodes < 64)
			node[nnodes++] = (int)strtol(de->d_name + 4, NULL, 10);
	}
	if (d)
		closedir(d);
	qsort(node, nnodes, sizeof(node[0]), by_number);
	return 0;
}

static void need_nodes(long pages)
{
	if (nnodes < 2) {
		printf("# skip: this machine has %u node(s); the lab has several\n", nnodes);
		skip();
	}
	for (uint32_t i = 0; i < nnodes; i++) {
		if (huge_of_node(node[i], "free_hugepages") < pages) {
			printf("# skip: node %d has fewer than %ld free huge pages of 2 MiB\n", node[i], pages);
			skip();
		}
	}
}

static const char *name_of(const char *what)
{
	static char name[64];

	snprintf(name, sizeof(name), "lmca_nodes_test_%d_%s", (int)getpid(), what);
	return name;
}

static struct arena_conf over_nodes(uint64_t bytes_each, const char *name)
{
	struct arena_conf conf = {.shm_name = name, .numa = WANT_YES, .nranges = nnodes};

	for (uint32_t i = 0; i < nnodes; i++) {
		conf.range[i].node = node_of(node[i]);
		conf.range[i].bytes = bytes_each;
	}
	return conf;
}

static void all_in_place(struct arena *a)
{
	for (uint32_t i = 0; i < arena_nranges(a); i++) {
		struct arena_place p;

		assert_int_equal(arena_verify(a, i, 0, &p, NULL), 0);
		assert_true(arena_range(a, i)->bound);
		assert_int_equal(p.pages, arena_committed(a, i) / arena_page_bytes(a));
		assert_int_equal(p.looked, p.pages);
		assert_int_equal(p.on_node, p.pages);
		assert_int_equal(p.elsewhere + p.absent, 0);
		assert_int_equal(p.nat, 1);
		assert_int_equal(p.at[0].node.os, arena_range(a, i)->node.os);
	}
}

/* Huge pages: the policy is the mapping's, not the file's, so whoever touches first decides. We do. */
static void test_01_every_huge_page_is_on_its_node_for_us_and_for_a_client(void **state)
{
	long before[64];
	struct arena *a;
	(void)state;

	need_nodes(8);
	for (uint32_t i = 0; i < nnodes; i++)
		before[i] = huge_of_node(node[i], "free_hugepages");
	struct arena_conf conf = over_nodes(8 * HUGE_PAGE, name_of("huge"));
	conf.huge_2m = WANT_YES;
	conf.threads = 2;
	a = open_ok(&conf);
	assert_int_equal(arena_backing(a), BACK_HUGETLB);
	assert_int_equal(arena_page_bytes(a), HUGE_PAGE);
	assert_int_equal(arena_fallbacks(a), 0);
	assert_string_equal(arena_shm_name(a), conf.shm_name);
	all_in_place(a);
	for (uint32_t i = 0; i < nnodes; i++)
		assert_int_equal(huge_of_node(node[i], "free_hugepages"), before[i] - 8);
	assert_int_equal(in_child(client_sees_plan, &(struct client){a, true}), 0);
	arena_destroy(a);
	for (uint32_t i = 0; i < nnodes; i++)
		assert_int_equal(huge_of_node(node[i], "free_hugepages"), before[i]);
}

/* 4 KiB pages of shared memory: here the policy is the file's, and an engine may touch first. */
static void test_02_small_pages_follow_the_file(void **state)
{
	struct arena *a;
	(void)state;

	need_nodes(0);
	struct arena_conf conf = over_nodes(20 * MIB, name_of("small"));
	conf.lazy = true;
	conf.init_bytes = MIB;
	a = open_ok(&conf);
	all_in_place(a);
	assert_true(arena_committed(a, 0) < 20 * MIB);
	assert_int_equal(in_child(client_sees_plan, &(struct client){a, true}), 0);
	assert_int_equal(arena_populate(a, arena_bytes(a), NULL, NULL), 0);
	all_in_place(a);
	arena_destroy(a);
}

static void test_03_pages_moved_behind_our_back_are_counted(void **state)
{
	struct arena_place p;
	struct arena *a;
	void *page[10];
	int to[10], status[10];
	char text[256], says[64];
	(void)state;

	need_nodes(0);
	struct arena_conf conf = over_nodes(16 * MIB, name_of("moved"));
	a = open_ok(&conf);
	all_in_place(a);
	for (int k = 0; k < 10; k++) {
		page[k] = arena_base(a) + arena_range(a, 1)->start + (uint64_t)(k * 37 + 5) * ARENA_PAGE;
		to[k] = node[0];
	}
	assert_int_equal(syscall(SYS_move_pages, 0, 10ul, page, to, status, POLICY_MOVE), 0);
	assert_int_equal(arena_verify(a, 1, 0, &p, NULL), 0);
	assert_int_equal(p.elsewhere, 10);
	assert_int_equal(p.on_node, 16 * MIB / ARENA_PAGE - 10);
	assert_int_equal(p.absent, 0);
	arena_place_text(arena_range(a, 1), &p, text, sizeof(text));
	snprintf(says, sizeof(says), "10 on node %d", node[0]);
	assert_non_null(strstr(text, says));
	assert_int_equal(arena_verify(a, 0, 0, &p, NULL), 0);
	assert_int_equal(p.elsewhere, 0);
	arena_destroy(a);
}

/* Looks at a tenth of the pages each time: ten looks see each page once. */
static void test_04_sampled_looks_see_all_in_the_end(void **state)
{
	struct arena *a;
	void *page[1];
	int to[1] = {node[0]}, status[1];
	uint64_t seen = 0, looked = 0;
	(void)state;

	need_nodes(0);
	struct arena_conf conf = over_nodes(4 * MIB, "");
	a = open_ok(&conf);
	page[0] = arena_base(a) + arena_range(a, 1)->start + 777ull * ARENA_PAGE;
	assert_int_equal(syscall(SYS_move_pages, 0, 1ul, page, to, status, POLICY_MOVE), 0);
	for (int k = 0; k < 10; k++) {
		struct arena_place p;

		assert_int_equal(arena_verify(a, 1, 103, &p, NULL), 0);
		assert_true(p.looked <= 103);
		seen += p.elsewhere;
		looked += p.looked;
	}
	assert_int_equal(looked, 1024);
	assert_int_equal(seen, 1);
	arena_destroy(a);
}

/* ---- shortages ----------------------------------------------------------------------------------------------------- */

struct shortage {
	struct arena_conf conf;
	int short_node; /* the first that lacks pages */
	long wanted, free;
	const char *size;
};

static uint64_t rnd(uint64_t *seed, uint64_t below)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % below;
}

/* Random ranges, of which at least one is too large for its node. */
static struct shortage random_shortage(uint64_t *seed)
{
	struct shortage s = {.conf = {.numa = WANT_YES, .threads = (uint32_t)rnd(seed, 4)}, .short_node = -1};
	bool giga = rnd(seed, 4) == 0;
	uint64_t page = giga ? GIB : HUGE_PAGE;
	uint32_t victim = (uint32_t)rnd(seed, nnodes);

	s.size = giga ? "1 GiB" : "2 MiB";
	s.conf.huge_1g = giga ? WANT_YES : WANT_NO;
	s.conf.huge_2m = giga ? WANT_NO : WANT_YES;
	s.conf.nranges = nnodes;
	for (uint32_t i = 0; i < nnodes; i++) {
		char path[128];
		long avail, want;

		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%llukB/free_hugepages", node[i],
			 (unsigned long long)(page >> 10));
		avail = read_long(path);
		avail = avail < 0 ? 0 : avail;
		want = 1 + (long)rnd(seed, (uint64_t)(avail > 1 ? avail : 1));
		if (i == victim)
			want = avail + 1 + (long)rnd(seed, 40);
		s.conf.range[i].node = node_of(node[i]);
		s.conf.range[i].bytes = (uint64_t)want * page;
		if (want > avail && s.short_node < 0) {
			s.short_node = node[i];
			s.wanted = want;
			s.free = avail;
		}
	}
	return s;
}

static void must_refuse(void *arg)
{
	struct shortage *s = arg;
	struct why why = {0};
	struct arena *a;
	char says[160];

	EXPECT(arena_create(&s->conf, &a, &why) == -ENOSPC);
	snprintf(says, sizeof(says), "node %d: %ld pages of %s wanted, %ld free of ", s->short_node, s->wanted, s->size,
		 s->free);
	EXPECT_SAYS(&why, says);
	EXPECT_SAYS(&why, " reserved: /sys/devices/system/node/node");
	EXPECT_SAYS(&why, "more: echo ");
	EXPECT_SAYS(&why, "nr_hugepages");
}

static void test_05_a_hundred_shortages_and_no_signal(void **state)
{
	uint64_t seed = 20260101;
	long before[64];
	(void)state;

	need_nodes(8);
	for (uint32_t i = 0; i < nnodes; i++)
		before[i] = huge_of_node(node[i], "free_hugepages");
	for (int k = 0; k < 100; k++) {
		struct shortage s = random_shortage(&seed);

		s.conf.shm_name = k % 2 ? "" : name_of("short");
		int status = in_child(must_refuse, &s);
		if (status)
			fail_msg("shortage %d: wait status %#x", k, status);
		for (uint32_t i = 0; i < nnodes; i++)
			assert_int_equal(huge_of_node(node[i], "free_hugepages"), before[i]);
	}
}

static void *steal(int from, long pages)
{
	unsigned long mask[16] = {0};
	uint64_t bytes = (uint64_t)pages * HUGE_PAGE;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE,
		       -1, 0);

	assert_true(p != MAP_FAILED);
	mask[from / 64] = 1ul << (from % 64);
	assert_int_equal(syscall(SYS_mbind, p, bytes, 2, mask, from + 2ul, 0), 0);
	assert_int_equal(madvise(p, bytes, 23), 0);
	return p;
}

static void fill_elsewhere(void *arg)
{
	struct arena_conf *conf = arg;
	struct arena *a;

	EXPECT(arena_create(conf, &a, NULL) == 0);
	EXPECT(arena_backing(a) == BACK_HUGETLB);
	arena_destroy(a);
}

/* Where the machine may make pages beyond those set aside, it makes them on any node when a file is mapped, and those that a
 * binding does not let us use stay behind: a bound range goes by what its node has. */
static void test_06_pages_that_could_be_made_do_not_count_for_a_node(void **state)
{
	long before[64];
	char text[24];
	(void)state;

	need_nodes(8);
	long had = read_long(HUGE_DIR "nr_overcommit_hugepages"), status = 0;
	if (!write_text(HUGE_DIR "nr_overcommit_hugepages", "100000")) {
		printf("# skip: nr_overcommit_hugepages is not writable\n");
		skip();
	}
	for (uint32_t i = 0; i < nnodes; i++)
		before[i] = huge_of_node(node[i], "free_hugepages");
	void *stolen = steal(node[1], before[1] - 2);
	struct shortage s = {
		.conf = over_nodes(4 * HUGE_PAGE, ""), .short_node = node[1], .wanted = 4, .free = 2, .size = "2 MiB"};
	s.conf.huge_2m = WANT_YES;
	status |= in_child(must_refuse, &s);
	s.conf.numa = WANT_NO;
	s.conf.range[1].bytes = (uint64_t)(huge_free() + 4) * HUGE_PAGE;
	status |= in_child(fill_elsewhere, &s.conf);
	munmap(stolen, (uint64_t)(before[1] - 2) * HUGE_PAGE);
	snprintf(text, sizeof(text), "%ld", had);
	assert_true(write_text(HUGE_DIR "nr_overcommit_hugepages", text));
	assert_int_equal(status, 0);
	for (uint32_t i = 0; i < nnodes; i++)
		assert_int_equal(huge_of_node(node[i], "free_hugepages"), before[i]);
}

static void test_07_try_falls_back_when_one_node_is_short(void **state)
{
	struct arena *a;
	(void)state;

	need_nodes(8);
	struct arena_conf conf = over_nodes(4 * HUGE_PAGE, name_of("fall"));
	conf.huge_2m = WANT_TRY;
	conf.range[1].bytes = (uint64_t)(huge_of_node(node[1], "free_hugepages") + 1) * HUGE_PAGE;
	a = open_ok(&conf);
	assert_int_equal(arena_backing(a), BACK_SHM);
	assert_int_equal(arena_fallbacks(a), 1);
	all_in_place(a);
	arena_destroy(a);
}

/* Under a binding the kernel kills rather than gives less: a node without room is refused before. */
static void test_08_a_node_without_room_for_small_pages(void **state)
{
	struct why why = {0};
	struct arena *a;
	char says[64];
	(void)state;

	need_nodes(0);
	struct arena_conf conf = over_nodes(16 * MIB, "");
	conf.range[1].bytes = 64 * GIB;
	conf.lazy = true;
	conf.init_bytes = 4 * MIB;
	assert_int_equal(arena_create(&conf, &a, &why), -ENOSPC);
	snprintf(says, sizeof(says), "node %d: 64 GiB of 4 KiB pages wanted", node[1]);
	assert_non_null(strstr(why.text, says));
	assert_non_null(strstr(why.text, "/meminfo"));
	conf.numa = WANT_TRY;
	a = open_ok(&conf);
	assert_int_equal(arena_fallbacks(a), 1);
	assert_true(arena_range(a, 0)->bound);
	assert_false(arena_range(a, 1)->bound);
	arena_destroy(a);
}

/* ---- what a container does to us ------------------------------------------------------------------------------------- */

#define CGROUP "/sys/fs/cgroup/lmca_arena_test"

static bool cgroup_with(const char *controller, const char *file, const char *value)
{
	char path[128], plus[32];

	snprintf(plus, sizeof(plus), "+%s", controller);
	(void)write_text("/sys/fs/cgroup/cgroup.subtree_control", plus);
	(void)mkdir(CGROUP, 0755);
	snprintf(path, sizeof(path), CGROUP "/%s", file);
	if (write_text(path, value))
		return true;
	rmdir(CGROUP);
	printf("# skip: no cgroup of ours with %s\n", file);
	return false;
}

static void join_cgroup(void)
{
	EXPECT(write_text(CGROUP "/cgroup.procs", "0"));
}

static void limited(void *arg)
{
	const char *says = arg;
	struct arena_conf conf = over_nodes(8 * HUGE_PAGE, "");
	struct mach_limits known = {.nhugetlb = 1,
				    .hugetlb = {{.page_bytes = HUGE_PAGE,
						 .max = 4 * HUGE_PAGE,
						 .rsvd_max = UINT64_MAX,
						 .where = CGROUP "/hugetlb.2MB.max"}}};
	struct why why = {0};
	struct arena *a;

	join_cgroup();
	conf.huge_2m = WANT_YES;
	EXPECT(arena_create(&conf, &a, &why) < 0); /* found by populating or mapping */
	EXPECT_SAYS(&why, says);
	EXPECT_SAYS(&why, " pages of 2 MiB wanted");
	conf.limits = &known;
	if (strstr(says, "rsvd"))
		return;
	EXPECT(arena_create(&conf, &a, &why) == -ENOSPC); /* and before */
	EXPECT_SAYS(&why, CGROUP "/hugetlb.2MB.max");
	EXPECT_SAYS(&why, "4 allowed (0 in use)");
}

static void hugetlb_limit(const char *file, const char *says)
{
	char text[32];
	long before = huge_free();

	need_nodes(8);
	snprintf(text, sizeof(text), "%llu", 4 * HUGE_PAGE);
	if (!cgroup_with("hugetlb", file, text))
		skip();
	int status = in_child(limited, (void *)says);
	rmdir(CGROUP);
	assert_int_equal(status, 0);
	assert_int_equal(huge_free(), before);
}

static void test_09_a_hugetlb_limit_of_the_cgroup(void **state)
{
	(void)state;
	hugetlb_limit("hugetlb.2MB.max", "hugetlb limit of our cgroup (hugetlb.*.max)");
}

static void test_10_a_reservation_limit_of_the_cgroup(void **state)
{
	(void)state;
	hugetlb_limit("hugetlb.2MB.rsvd.max", "hugetlb limit of our cgroup (hugetlb.*.rsvd.max)");
}

static void outside(void *arg)
{
	struct arena_conf conf = over_nodes(4 * MIB, "");
	struct why why = {0};
	struct arena *a;
	char says[64];
	(void)arg;

	join_cgroup();
	EXPECT(arena_create(&conf, &a, &why) == -EINVAL);
	snprintf(says, sizeof(says), "our cpuset allows memory of nodes %d only", node[0]);
	EXPECT_SAYS(&why, says);
	EXPECT_SAYS(&why, "cpuset.mems");
	conf.numa = WANT_TRY;
	EXPECT(arena_create(&conf, &a, &why) == 0);
	EXPECT(arena_fallbacks(a) == 1);
	EXPECT(arena_range(a, 0)->bound && !arena_range(a, 1)->bound);
	arena_destroy(a);
}

static void test_11_a_node_outside_our_cpuset(void **state)
{
	char first[16];
	(void)state;

	need_nodes(0);
	snprintf(first, sizeof(first), "%d", node[0]);
	if (!cgroup_with("cpuset", "cpuset.mems", first))
		skip();
	int status = in_child(outside, NULL);
	rmdir(CGROUP);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_every_huge_page_is_on_its_node_for_us_and_for_a_client),
		cmocka_unit_test(test_02_small_pages_follow_the_file),
		cmocka_unit_test(test_03_pages_moved_behind_our_back_are_counted),
		cmocka_unit_test(test_04_sampled_looks_see_all_in_the_end),
		cmocka_unit_test(test_05_a_hundred_shortages_and_no_signal),
		cmocka_unit_test(test_06_pages_that_could_be_made_do_not_count_for_a_node),
		cmocka_unit_test(test_07_try_falls_back_when_one_node_is_short),
		cmocka_unit_test(test_08_a_node_without_room_for_small_pages),
		cmocka_unit_test(test_09_a_hugetlb_limit_of_the_cgroup),
		cmocka_unit_test(test_10_a_reservation_limit_of_the_cgroup),
		cmocka_unit_test(test_11_a_node_outside_our_cpuset),
	};

	return cmocka_run_group_tests(tests, find_nodes, NULL);
}
