/* The arena on huge pages of one node: kinds and fallbacks, names by bind mount, what is left behind.
 * Needs root and a few huge pages of 2 MiB, which it reserves and gives back; without them its tests skip and say so. */
#include "tests/unit/numa/arena_tools.h"

#include "daemon/base/mem.h"

#include <linux/capability.h>

#define PAGES   8
#define HUGE_FS 0x958458f6

static struct reserved reserved;
static bool have, alone;

static int get_pages(void **state)
{
	(void)state;
	alone = stand_alone();
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

static void need_mounts(void)
{
	need_pages();
	/* Nothing is there to be unmounted; who may not unmount is told so first. */
	if (umount2("/dev/shm/lmca-no-such-mount", 0) != 0 && errno != EPERM)
		return;
	printf("# skip: mounting is not permitted here\n");
	skip();
}

static const char *name_of(const char *what)
{
	static char name[64];

	snprintf(name, sizeof(name), "lmca_huge_test_%d_%s", (int)getpid(), what);
	return name;
}

/* Mounts of hugetlbfs in sight. */
static int mounts(void)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, " hugetlbfs ") != NULL;
	if (f)
		fclose(f);
	return n;
}

/* ---- kinds --------------------------------------------------------------------------------------------------------- */

static void test_01_anonymous(void **state)
{
	struct arena_conf conf = huge_conf("", 8);
	long before = huge_free();
	struct arena_place p;
	struct arena *a;
	char text[256];
	(void)state;

	need_pages();
	conf.lazy = true; /* huge pages are taken whole all the same */
	conf.init_bytes = 1;
	conf.range[0].bytes += HUGE_PAGE - 1;
	a = open_ok(&conf);
	assert_int_equal(arena_backing(a), BACK_HUGETLB);
	assert_int_equal(arena_page_bytes(a), HUGE_PAGE);
	assert_int_equal(arena_bytes(a), 8 * HUGE_PAGE);
	assert_int_equal(arena_committed(a, 0), 8 * HUGE_PAGE);
	assert_int_equal(huge_free(), before - 8);
	assert_int_equal(arena_fallbacks(a), 0);
	assert_string_equal(arena_shm_name(a), "");
	assert_int_equal(arena_verify(a, 0, 0, &p, NULL), 0);
	assert_int_equal(p.page_bytes, HUGE_PAGE);
	assert_int_equal(p.on_node, 8);
	assert_int_equal(p.elsewhere + p.absent, 0);
	arena_place_text(arena_range(a, 0), &p, text, sizeof(text));
	assert_string_equal(text, "node 0: 8 of 8 pages of 2 MiB in place");
	arena_describe(a, text, sizeof(text));
	assert_string_equal(text, "huge pages of 2 MiB, bound to node 0, no name (engines cannot map it)");
	for (uint64_t at = 0; at < 8 * HUGE_PAGE; at += ARENA_PAGE)
		assert_int_equal(arena_base(a)[at], 0);
	arena_destroy(a);
	assert_int_equal(huge_free(), before);
}

static void see_by_name(void *arg)
{
	const struct arena *a = arg;
	char path[300];
	struct statfs fs;
	struct stat st;
	uint8_t *p;
	int fd;

	snprintf(path, sizeof(path), "/%s", arena_shm_name(a));
	fd = shm_open(path, O_RDWR, 0);
	EXPECT(fd >= 0 && fstat(fd, &st) == 0 && fstatfs(fd, &fs) == 0);
	EXPECT((uint32_t)fs.f_type == HUGE_FS);
	EXPECT(st.st_size == (off_t)arena_bytes(a));
	EXPECT((st.st_mode & 0777) == 0600);
	p = mmap(NULL, arena_bytes(a), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	EXPECT(p != MAP_FAILED);
	EXPECT(p[3 * MIB] == 11);
	p[2 * MIB] = 22;
	EXPECT(shm_unlink(path) != 0 && errno == EBUSY); /* clients that clean up after themselves do no harm */
}

static void test_02_engines_open_it_by_name(void **state)
{
	long before = huge_free();
	int mounted = mounts();
	struct arena *a;
	(void)state;

	need_mounts();
	struct arena_conf conf = huge_conf(name_of("seen"), 4);
	a = open_ok(&conf);
	assert_string_equal(arena_shm_name(a), conf.shm_name);
	assert_int_equal(mounts(), mounted + 1); /* the name; our own mount of hugetlbfs is gone again */
	arena_base(a)[3 * MIB] = 11;
	assert_int_equal(in_child(see_by_name, a), 0);
	assert_int_equal(arena_base(a)[2 * MIB], 22);
	assert_int_equal(in_child(client_sees_plan, &(struct client){a, true}), 0);
	arena_destroy(a);
	assert_false(exists(conf.shm_name));
	assert_int_equal(mounts(), mounted);
	assert_int_equal(huge_free(), before);
}

static void test_03_a_mount_of_the_operator_is_used(void **state)
{
	char dir[] = "/tmp/lmca_hugetlbfs_XXXXXX", path[128];
	struct arena *a;
	int mounted;
	(void)state;

	need_mounts();
	assert_non_null(mkdtemp(dir));
	mounted = mounts();
	assert_int_equal(mounted, 0);
	assert_int_equal(mount("none", dir, "hugetlbfs", 0, "pagesize=2M"), 0);
	/* A file of a daemon that was killed while it populated. */
	snprintf(path, sizeof(path), "%s/lmcache_l1_pool_1", dir);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0 && fchmod(fd, 01600) == 0);
	close(fd);
	/* And one that is not ours. */
	char other[128];
	snprintf(other, sizeof(other), "%s/lmcache_l1_pool_2", dir);
	fd = open(other, O_RDWR | O_CREAT, 0600);
	close(fd);
	struct arena_conf conf = huge_conf(name_of("mount"), 4);
	a = open_ok(&conf);
	assert_string_equal(arena_shm_name(a), conf.shm_name);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(access(other, F_OK), 0);
	snprintf(path, sizeof(path), "%s/%s", dir, conf.shm_name);
	assert_int_not_equal(access(path, F_OK), 0); /* its only name is the one below /dev/shm */
	assert_int_equal(mounts(), mounted + 2);
	arena_base(a)[3 * MIB] = 11;
	assert_int_equal(in_child(see_by_name, a), 0);
	arena_destroy(a);
	assert_int_equal(umount2(dir, 0), 0); /* nothing of it is in use any more */
	rmdir(dir);
	assert_int_equal(mounts(), mounted);
}

/* ---- owners -------------------------------------------------------------------------------------------------------- */

static pid_t holder(const char *name, int *leave)
{
	int up[2], down[2];
	char c = 'n';
	pid_t pid;

	assert_int_equal(pipe(up) | pipe(down), 0);
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct arena_conf conf = huge_conf(name, 2);
		struct arena *a;

		close(down[1]);
		c = arena_create(&conf, &a, NULL) == 0 ? 'y' : 'n';
		if (write(up[1], &c, 1) == 1 && read(down[0], &c, 1) == 1)
			arena_destroy(a);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	assert_int_equal(read(up[0], &c, 1), 1);
	close(up[0]);
	assert_int_equal(c, 'y');
	*leave = down[1];
	return pid;
}

static void test_04_a_living_owner_keeps_its_name(void **state)
{
	struct why why = {0};
	struct arena *a;
	int leave, status;
	(void)state;

	need_mounts();
	struct arena_conf conf = huge_conf(name_of("busy"), 2);
	pid_t pid = holder(conf.shm_name, &leave);
	assert_int_equal(arena_create(&conf, &a, &why), -EBUSY);
	says(&why, "in use by another process");
	assert_true(exists(conf.shm_name));
	assert_int_equal(write(leave, "d", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(leave);
	assert_false(exists(conf.shm_name));
	arena_destroy(open_ok(&conf));
}

static void test_05_a_killed_owner_is_succeeded_and_its_pages_return(void **state)
{
	static const char *const how[] = {"lmca_huge_test_dead", "lmcache_l1_pool_99999999"};
	long before = huge_free();
	int mounted = mounts(), leave, status;
	(void)state;

	need_mounts();
	for (int k = 0; k < 2; k++) {
		/* The same name is taken over; a derived name is cleaned by whoever starts next. */
		struct arena_conf conf = huge_conf(k ? name_of("next") : how[0], 2);
		pid_t pid = holder(how[k], &leave);

		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		close(leave);
		assert_true(exists(how[k]));
		assert_int_equal(huge_free(), before - 2);
		arena_destroy(open_ok(&conf));
		assert_false(exists(how[k]));
		assert_int_equal(mounts(), mounted);
		assert_int_equal(huge_free(), before);
	}
}

static void test_06_somebody_elses_mount_stays(void **state)
{
	struct why why = {0};
	struct arena *a;
	char path[300];
	(void)state;

	need_mounts();
	struct arena_conf conf = huge_conf(name_of("foreign"), 2);
	snprintf(path, sizeof(path), "/dev/shm/%s", conf.shm_name);
	char dir[] = "/tmp/lmca_hugetlbfs_XXXXXX", file[64];
	assert_non_null(mkdtemp(dir));
	assert_int_equal(mount("none", dir, "hugetlbfs", 0, "pagesize=2M"), 0);
	snprintf(file, sizeof(file), "%s/theirs", dir);
	close(open(file, O_RDWR | O_CREAT, 0600));
	close(open(path, O_RDWR | O_CREAT, 0600));
	assert_int_equal(mount(file, path, NULL, MS_BIND, NULL), 0);
	assert_int_equal(arena_create(&conf, &a, &why), -EBUSY);
	says(&why, "somebody's mount");
	assert_int_equal(umount2(path, 0), 0); /* it was still there */
	unlink(path);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

/* ---- fallbacks ----------------------------------------------------------------------------------------------------- */

struct wish {
	enum plan_want want;
	enum plan_backing got;
	uint32_t fallbacks;
};

static void fulfil(void *arg)
{
	struct wish *w = arg;
	struct arena_conf conf = huge_conf("", (uint64_t)huge_of_node(0, "free_hugepages") + 1);
	struct arena *a;

	conf.huge_2m = w->want;
	conf.lazy = true;
	conf.init_bytes = ARENA_PAGE;
	a = open_ok(&conf);
	w->got = arena_backing(a);
	w->fallbacks = arena_fallbacks(a);
	arena_destroy(a);
}

static void test_07_yes_try_no_with_too_few_pages(void **state)
{
	struct wish try = {.want = WANT_TRY}, no = {.want = WANT_NO};
	struct why why = {0};
	struct arena *a;
	char part[128];
	long before = huge_free(), there = huge_of_node(0, "free_hugepages");
	(void)state;

	need_pages();
	struct arena_conf conf = huge_conf(name_of("short"), (uint64_t)there + 5);
	assert_int_equal(arena_create(&conf, &a, &why), -ENOSPC);
	assert_int_equal(why.err, -ENOSPC);
	snprintf(part, sizeof(part), "node 0: %ld pages of 2 MiB wanted, %ld free of ", there + 5, there);
	says(&why, part);
	says(&why, " reserved: /sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages");
	says(&why, "more: echo ");
	assert_false(exists(conf.shm_name));
	assert_int_equal(warnings_of(fulfil, &try), 1);
	assert_int_equal(try.got, BACK_SHM);
	assert_int_equal(try.fallbacks, 1);
	assert_int_equal(warnings_of(fulfil, &no), 0);
	assert_int_equal(no.got, BACK_SHM);
	assert_int_equal(no.fallbacks, 0);
	assert_int_equal(huge_free(), before);
}

static void test_08_sizes_are_tried_in_order(void **state)
{
	struct arena_conf conf = huge_conf("", 4);
	struct why why = {0};
	struct arena *a;
	(void)state;

	need_pages();
	conf.huge_1g = WANT_TRY; /* 8 MiB are no page of 1 GiB */
	a = open_ok(&conf);
	assert_int_equal(arena_page_bytes(a), HUGE_PAGE);
	assert_int_equal(arena_fallbacks(a), 1);
	arena_destroy(a);
	conf.huge_1g = WANT_YES;
	assert_int_equal(arena_create(&conf, &a, &why), -EINVAL);
	says(&why, "below 1073741824");
	conf.range[0].bytes = 100000 * GIB;
	assert_int_equal(arena_create(&conf, &a, &why), -ENOSPC);
	says(&why, "100000 pages of 1 GiB wanted");
	says(&why, "or boot with hugepagesz=1G hugepages=0:100000");
}

static void test_09_a_limit_of_our_cgroup_is_named(void **state)
{
	char dir[] = "/tmp/lmca_cgroup_XXXXXX", max[64], cur[64], part[128];
	struct mach_limits limits = {.nhugetlb = 1, .hugetlb = {{.page_bytes = HUGE_PAGE, .rsvd_max = UINT64_MAX}}};
	struct arena_conf conf = huge_conf("", 4);
	struct why why = {0};
	struct arena *a;
	(void)state;

	need_pages();
	assert_non_null(mkdtemp(dir));
	snprintf(max, sizeof(max), "%s/hugetlb.2MB.max", dir);
	snprintf(cur, sizeof(cur), "%s/hugetlb.2MB.current", dir);
	int fd = open(cur, O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, "4194304\n", 8), 8);
	close(fd);
	limits.hugetlb[0].max = 5 * HUGE_PAGE;
	snprintf(limits.hugetlb[0].where, sizeof(limits.hugetlb[0].where), "%s", max);
	conf.limits = &limits;
	assert_int_equal(arena_create(&conf, &a, &why), -ENOSPC);
	says(&why, "our cgroup: 4 pages of 2 MiB wanted, 3 allowed (2 in use)");
	snprintf(part, sizeof(part), "more: echo %llu > %s", 6 * HUGE_PAGE, max);
	says(&why, part);
	limits.hugetlb[0].max = 6 * HUGE_PAGE;
	arena_destroy(open_ok(&conf));
	unlink(cur);
	rmdir(dir);
}

static void without_mounts(void *arg)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct cap[2] = {{0}};
	struct arena_conf conf = huge_conf(name_of("nomount"), 2);
	struct arena *a;
	(void)arg;

	EXPECT(syscall(SYS_capget, &head, cap) == 0);
	cap[0].effective &= ~(1u << CAP_SYS_ADMIN);
	EXPECT(syscall(SYS_capset, &head, cap) == 0);
	EXPECT(arena_create(&conf, &a, NULL) == 0);
	EXPECT(arena_backing(a) == BACK_HUGETLB);
	EXPECT(strcmp(arena_shm_name(a), "") == 0);
	EXPECT(!exists(conf.shm_name));
	arena_base(a)[0] = 1;
	arena_destroy(a);
}

static void count_without_mounts(void *arg)
{
	EXPECT(warnings_of(without_mounts, arg) == 1);
}

static void test_10_without_mounts_there_is_no_name(void **state)
{
	long before = huge_free();
	(void)state;

	need_mounts();
	assert_int_equal(in_child(count_without_mounts, NULL), 0);
	assert_int_equal(huge_free(), before);
}

static void test_11_out_of_memory(void **state)
{
	struct arena_conf conf = huge_conf(name_of("oom"), 2);
	struct arena *a = NULL;
	long before = huge_free();
	uint64_t n = 1;
	int err;
	(void)state;

	need_pages();
	do {
		struct why why = {0};

		mem_fail_at(n++);
		err = arena_create(&conf, &a, &why);
		mem_fail_at(0);
		if (err) {
			assert_int_equal(err, -ENOMEM);
			assert_string_not_equal(why.text, "");
			assert_int_equal(huge_free(), before);
		}
	} while (err);
	arena_destroy(a);
	assert_int_equal(huge_free(), before);
}

/* ---- transparent huge pages -------------------------------------------------------------------------------------------- */

/* Of ours, kB, as the kernel counts them in the mapping. */
static long pmd_mapped(const struct arena *a)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512], begin[32];
	bool inside = false;
	long kb = 0, sum = 0;

	snprintf(begin, sizeof(begin), "%lx-", (unsigned long)(uintptr_t)arena_base(a));
	while (f && fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && strstr(line, " rw"))
			inside = strncmp(line, begin, strlen(begin)) == 0;
		if (inside && sscanf(line, "ShmemPmdMapped: %ld", &kb) == 1)
			sum += kb;
	}
	if (f)
		fclose(f);
	return sum;
}

static void thp(void *arg)
{
	struct arena_conf conf = {.bytes = 32 * MIB, .shm_name = name_of("thp"), .thp = WANT_TRY};
	enum plan_backing *got = arg;
	struct arena *a = open_ok(&conf);

	*got = arena_backing(a);
	assert_int_equal(arena_fallbacks(a), *got == BACK_SHM);
	assert_int_equal(pmd_mapped(a), *got == BACK_SHM ? 0 : 32 * 1024);
	arena_destroy(a);
}

/* A tmpfs has them by its mount option, whatever shmem_enabled says (but for deny and force). */
static void test_12_transparent_huge_pages_of_dev_shm(void **state)
{
	struct arena_conf conf = {.bytes = 32 * MIB, .shm_name = name_of("thp"), .thp = WANT_YES};
	enum plan_backing got = BACK_HUGETLB;
	struct why why = {0};
	struct arena *a;
	char word[128] = "";
	(void)state;

	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
	if (!alone || !f || !fgets(word, sizeof(word), f) || strstr(word, "[force]") || strstr(word, "[deny]")) {
		printf("# skip: needs a /dev/shm of our own and a kernel with transparent huge pages\n");
		skip();
	}
	fclose(f);
	assert_int_equal(mount("none", "/dev/shm", NULL, MS_REMOUNT, "huge=never"), 0);
	assert_int_equal(arena_create(&conf, &a, &why), -EOPNOTSUPP);
	says(&why, "mount -o remount,huge=advise /dev/shm");
	assert_false(exists(conf.shm_name));
	assert_int_equal(warnings_of(thp, &got), 1);
	assert_int_equal(got, BACK_SHM);
	assert_int_equal(mount("none", "/dev/shm", NULL, MS_REMOUNT, "huge=advise"), 0);
	assert_int_equal(warnings_of(thp, &got), 0);
	assert_int_equal(got, BACK_SHM_THP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_anonymous),
		cmocka_unit_test(test_02_engines_open_it_by_name),
		cmocka_unit_test(test_03_a_mount_of_the_operator_is_used),
		cmocka_unit_test(test_04_a_living_owner_keeps_its_name),
		cmocka_unit_test(test_05_a_killed_owner_is_succeeded_and_its_pages_return),
		cmocka_unit_test(test_06_somebody_elses_mount_stays),
		cmocka_unit_test(test_07_yes_try_no_with_too_few_pages),
		cmocka_unit_test(test_08_sizes_are_tried_in_order),
		cmocka_unit_test(test_09_a_limit_of_our_cgroup_is_named),
		cmocka_unit_test(test_10_without_mounts_there_is_no_name),
		cmocka_unit_test(test_11_out_of_memory),
		cmocka_unit_test(test_12_transparent_huge_pages_of_dev_shm),
	};

	return cmocka_run_group_tests(tests, get_pages, put_pages);
}
