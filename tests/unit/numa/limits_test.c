/* What a process is allowed: cgroup trees as captures, and this process under real restrictions in a child. */
#include "daemon/base/mem.h"
#include "numa/machine.h"

#include <errno.h>
#include <jansson.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define CG   "/sys/fs/cgroup"
#define NONE UINT64_MAX

static struct machine *load_json(json_t *root)
{
	char path[] = "/tmp/lmca-limits-XXXXXX";
	struct machine *m = NULL;
	struct why why = {0};
	int fd = mkstemp(path);
	FILE *f = fdopen(fd, "w");

	assert_non_null(f);
	assert_int_equal(json_dumpf(root, f, JSON_COMPACT), 0);
	fclose(f);
	if (machine_load(path, &m, &why))
		fail_msg("%s", why.text);
	unlink(path);
	json_decref(root);
	return m;
}

struct entry {
	const char *path, *text;
};

/* The desktop, with these files instead of or beside its own. */
static struct machine *with(const struct entry *e, size_t n)
{
	json_t *root = json_load_file("tests/machines/plain.json", 0, NULL);

	assert_non_null(root);
	for (size_t i = 0; i < n; i++)
		json_object_set_new(json_object_get(root, "files"), e[i].path, json_string(e[i].text));
	return load_json(root);
}

#define WITH(...) \
	with((const struct entry[]){__VA_ARGS__}, sizeof((const struct entry[]){__VA_ARGS__}) / sizeof(struct entry))

static const struct mach_hugetlb_limit *hugetlb(const struct machine *m, uint64_t page)
{
	for (uint32_t i = 0; i < m->limits.nhugetlb; i++) {
		if (m->limits.hugetlb[i].page_bytes == page)
			return &m->limits.hugetlb[i];
	}
	fail_msg("no limits of pages of %llu bytes", (unsigned long long)page);
	return NULL;
}

#define MIB2 (2ull << 20)
#define GIB1 (1ull << 30)

static void test_1_nothing_limits(void **state)
{
	struct machine *m = with(NULL, 0);
	const struct mach_hugetlb_limit *h = hugetlb(m, MIB2);

	(void)state;
	assert_int_equal(m->limits.cgroup_version, 2);
	assert_string_equal(m->limits.cgroup, "/system.slice/lmcache.service");
	assert_true(m->limits.memory_max == NONE && h->max == NONE && h->rsvd_max == NONE);
	assert_string_equal(h->where, "");
	assert_int_equal(m->limits.nhugetlb, 2);
	machine_destroy(m);
}

static void test_2_the_tightest_on_the_way_up(void **state)
{
	struct machine *m = WITH({"/proc/self/cgroup", "0::/a/b/c"}, {CG "/a/b/c/hugetlb.2MB.max", "8388608"},
				 {CG "/a/b/c/hugetlb.2MB.current", "0"}, {CG "/a/b/hugetlb.2MB.max", "max"},
				 {CG "/a/hugetlb.2MB.max", "41943040"}, {CG "/a/hugetlb.2MB.current", "37748736"},
				 {CG "/a/b/hugetlb.1GB.rsvd.max", "0"}, {CG "/memory.max", "5368709120"},
				 {CG "/a/memory.max", "5368709120"}, {CG "/a/b/c/memory.max", "9999999999"});
	const struct mach_hugetlb_limit *h = hugetlb(m, MIB2);

	(void)state;
	/* The outer limit is larger but nearly used up: 4 MiB of room against 8. */
	assert_int_equal(h->max, 40ull << 20);
	assert_int_equal(h->used, 36ull << 20);
	assert_string_equal(h->where, CG "/a/hugetlb.2MB.max");
	assert_true(h->rsvd_max == NONE);
	h = hugetlb(m, GIB1);
	assert_int_equal(h->rsvd_max, 0);
	assert_string_equal(h->rsvd_where, CG "/a/b/hugetlb.1GB.rsvd.max");
	assert_true(h->max == NONE);
	assert_int_equal(m->limits.memory_max, 5ull << 30); /* equal ones: the innermost is named */
	assert_string_equal(m->limits.memory_where, CG "/a/memory.max");
	machine_destroy(m);
}

static void test_3_in_the_root_of_a_namespace(void **state)
{
	struct machine *m =
		WITH({"/proc/self/cgroup", "0::/"}, {CG "/hugetlb.2MB.max", "2097152"}, {CG "/memory.max", "1048576"});

	(void)state;
	assert_int_equal(hugetlb(m, MIB2)->max, 2097152);
	assert_string_equal(hugetlb(m, MIB2)->where, CG "/hugetlb.2MB.max");
	assert_string_equal(m->limits.memory_where, CG "/memory.max");
	machine_destroy(m);
	/* More used than allowed, as after the limit was lowered: no room, and no wrap-around. */
	m = WITH({"/proc/self/cgroup", "0::/x"}, {CG "/x/hugetlb.2MB.max", "2097152"},
		 {CG "/x/hugetlb.2MB.current", "4194304"}, {CG "/hugetlb.2MB.max", "4294967296"},
		 {CG "/hugetlb.2MB.current", "0"});
	assert_string_equal(hugetlb(m, MIB2)->where, CG "/x/hugetlb.2MB.max");
	machine_destroy(m);
}

/* The other way round: the inner one is larger but nearly full. */
static void test_3b_room_counts_not_the_limit(void **state)
{
	struct machine *m = WITH({"/proc/self/cgroup", "0::/x"}, {CG "/x/hugetlb.2MB.max", "41943040"},
				 {CG "/x/hugetlb.2MB.current", "37748736"}, {CG "/hugetlb.2MB.max", "8388608"},
				 {CG "/hugetlb.2MB.current", "0"});

	(void)state;
	assert_string_equal(hugetlb(m, MIB2)->where, CG "/x/hugetlb.2MB.max");
	assert_int_equal(hugetlb(m, MIB2)->used, 37748736);
	machine_destroy(m);
}

static void test_4_version_1_and_both(void **state)
{
	static const char mounts[] = "30 1 0:26 / " CG "/unified rw - cgroup2 cgroup2 rw\n"
				     "31 1 0:27 / " CG "/memory rw shared:4 master:1 - cgroup cgroup rw,memory\n"
				     "32 1 0:28 / " CG "/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
	struct machine *m = WITH({"/proc/self/mountinfo", mounts},
				 {"/proc/self/cgroup", "4:memory:/job/7\n3:cpu,cpuacct:/x\n0::/user.slice"},
				 {CG "/memory/job/memory.limit_in_bytes", "1073741824"},
				 {CG "/memory/job/7/memory.limit_in_bytes", "9223372036854771712"},
				 {CG "/unified/user.slice/hugetlb.2MB.max", "6291456"});

	(void)state;
	assert_int_equal(m->limits.cgroup_version, 1);
	assert_string_equal(m->limits.cgroup, "/job/7");
	assert_int_equal(m->limits.memory_max, 1ull << 30);
	assert_string_equal(m->limits.memory_where, CG "/memory/job/memory.limit_in_bytes");
	assert_int_equal(hugetlb(m, MIB2)->max, 6291456); /* the controller that version 1 does not have */
	machine_destroy(m);
}

static void test_5_strange_text(void **state)
{
	static const char *const cgroups[] = {
		"", "0", "0::", "0::relative", "::", "0::/../../..", "nonsense\n\n:::", "1:a:b:c:/", "0::/\n0::/b"};
	static const char *const mounts[] = {"",
					     "x",
					     " - ",
					     "1 2 3 / - cgroup2",
					     "1 2 3 / / rw - cgroup2 c rw",
					     "1 2 3 /\\040x /\\777\\0 rw - cgroup2 c rw"};
	char deep[2000] = "0::", *status;
	struct machine *m;

	(void)state;
	for (size_t i = 0; i < sizeof(cgroups) / sizeof(cgroups[0]); i++) {
		for (size_t k = 0; k < sizeof(mounts) / sizeof(mounts[0]); k++)
			machine_destroy(WITH({"/proc/self/cgroup", cgroups[i]}, {"/proc/self/mountinfo", mounts[k]}));
	}
	for (int i = 0; i < 120; i++)
		strcat(deep, "/x");
	machine_destroy(WITH({"/proc/self/cgroup", deep})); /* ends */
	for (int i = 0; i < 800; i++)
		strcat(deep, "x");
	m = WITH({"/proc/self/cgroup", deep},
		 {CG "/memory.max", "4096"}); /* too long to follow: unknown, not half of it */
	assert_string_equal(m->limits.cgroup, "");
	assert_true(m->limits.memory_max == NONE);
	machine_destroy(m);
	m = WITH({"/proc/self/cgroup", "0::/../../elsewhere"}, {CG "/memory.max", "4096"});
	assert_int_equal(m->limits.memory_max, 4096);
	machine_destroy(m);
	status = calloc(1, 100000);
	memset(status, ':', 99999);
	machine_destroy(WITH({"/proc/self/status", status}, {"/proc/self/limits", status}));
	free(status);
}

static void test_6_a_long_name_keeps_its_end(void **state)
{
	char path[260] = "0::/", file[400], name[128];
	struct machine *m;

	(void)state;
	memset(name, 'k', 100);
	name[100] = '\0';
	snprintf(path, sizeof(path), "0::/%s/%s", name, name);
	snprintf(file, sizeof(file), CG "/%s/%s/hugetlb.2MB.max", name, name);
	m = WITH({"/proc/self/cgroup", path}, {file, "2097152"});
	assert_int_equal(hugetlb(m, MIB2)->max, 2097152);
	assert_int_equal(strlen(hugetlb(m, MIB2)->where), sizeof(m->limits.hugetlb[0].where) - 1);
	assert_int_equal(strncmp(hugetlb(m, MIB2)->where, "...", 3), 0);
	assert_non_null(strstr(hugetlb(m, MIB2)->where, "k/hugetlb.2MB.max"));
	machine_destroy(m);
}

static void test_7_status_mounts_and_settings(void **state)
{
	struct machine *m =
		WITH({"/proc/self/status", "CapEff:\t0000000000a04000\nSeccomp:\t2\nSeccomp_filters:\t1\nCpus_allowed_"
					   "list:\t0-3\nMems_allowed_list:\t0"},
		     {"/proc/self/limits", "Max locked memory         65536                unlimited            bytes"},
		     {"/proc/meminfo", "MemTotal: 1 kB\nHugepagesize:       2048 kB"},
		     {"/proc/sys/kernel/numa_balancing", "2"},
		     {"/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"},
		     {"/sys/kernel/mm/transparent_hugepage/shmem_enabled", "always"},
		     {"/proc/self/mountinfo",
		      "1 2 3 / /a rw - hugetlbfs none rw\n1 2 3 / /b rw - hugetlbfs none rw,pagesize=1G\n"
		      "1 2 3 / /c\\040d rw - hugetlbfs none rw,pagesize=64K"});

	(void)state;
	assert_true(m->limits.cap_ipc_lock && m->limits.cap_sys_admin && m->limits.cap_sys_nice);
	assert_int_equal(m->limits.seccomp, 2);
	assert_int_equal(m->limits.memlock, 65536);
	assert_true(m->limits.cpus_restricted && !m->limits.mems_restricted && m->limits.numa_balancing);
	assert_string_equal(m->limits.thp, "always");
	assert_string_equal(m->limits.shmem_thp, "");
	assert_string_equal(m->limits.hugetlbfs[0], "/a");
	assert_int_equal(m->limits.hugetlbfs_page[0], MIB2);
	assert_int_equal(m->limits.hugetlbfs_page[1], GIB1);
	assert_string_equal(m->limits.hugetlbfs[2], "/c d");
	assert_int_equal(m->limits.hugetlbfs_page[2], 65536);
	assert_string_equal(m->limits.hugetlbfs[3], "");
	machine_destroy(m);
}

/* ---- this process ---- */

/* Runs in a child: restrictions do not come off again. */
static void in_child(bool (*restrict_and_look)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(restrict_and_look() ? 0 : 1);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static bool unrestricted(void)
{
	struct machine *m;

	if (machine_load(NULL, &m, NULL))
		return false;
	return m->limits.mbind != PROBE_UNKNOWN && m->limits.io_uring != PROBE_UNKNOWN &&
	       m->limits.sched_setaffinity == PROBE_OK && m->limits.shm_total > 0 && m->limits.seccomp <= 2;
}

static bool little_memlock(void)
{
	struct rlimit r = {.rlim_cur = 131072, .rlim_max = 131072};
	struct machine *m;

	return setrlimit(RLIMIT_MEMLOCK, &r) == 0 && machine_load(NULL, &m, NULL) == 0 && m->limits.memlock == 131072;
}

static bool one_cpu(void)
{
	struct cpu_set all, one = {0};
	struct machine *m;

	if (cpus_of_thread(0, 0, &all))
		return false;
	cpus_add(&one, (uint32_t)cpus_next(&all, 0));
	if (cpus_pin_self(&one) || machine_load(NULL, &m, NULL))
		return false;
	if (m->limits.cpus_restricted != (m->ncpus > 1))
		return false;
	for (uint32_t i = 0; i < m->ncpus; i++) {
		if (m->cpus[i].allowed != cpus_has(&one, m->cpus[i].os))
			return false;
	}
	return true;
}

/* As container runtimes do it: some calls are refused, one is said not to exist. */
static bool filter(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_set_mempolicy, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 2, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	};
	struct sock_fprog p = {.len = sizeof(f) / sizeof(f[0]), .filter = f};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0;
}

static bool filtered(void)
{
	struct machine *m;

	return filter() && machine_load(NULL, &m, NULL) == 0 && m->limits.seccomp == 2 &&
	       m->limits.mbind == PROBE_DENIED && m->limits.set_mempolicy == PROBE_DENIED &&
	       m->limits.move_pages == PROBE_DENIED && m->limits.io_uring == PROBE_MISSING &&
	       m->limits.sched_setaffinity == PROBE_OK;
}

static void test_8_this_process(void **state)
{
	(void)state;
	in_child(unrestricted);
	in_child(little_memlock);
	in_child(one_cpu);
	in_child(filtered);
}

static void test_09_transparent_huge_pages_of_dev_shm(void **state)
{
	static const struct {
		const char *word, *mounts, *thp;
	} c[] = {
		{"always [never] deny", "1 2 3 / /dev/shm rw - tmpfs none rw,size=1k,huge=advise\n", "advise"},
		{"[always] never deny", "1 2 3 / /dev/shm rw - tmpfs none rw\n", "never"},
		{"always never [deny]", "1 2 3 / /dev/shm rw - tmpfs none rw,huge=always\n", "deny"},
		{"never [force]", "1 2 3 / /dev/shm rw - tmpfs none rw\n", "force"},
		{"[always] never", "1 2 3 / /dev rw - tmpfs none rw,huge=never\n", "always"},
		{"[never]",
		 "1 2 3 / /dev/shm rw - tmpfs none rw\n1 2 3 / /dev/shm rw - tmpfs none rw,huge=within_size,uid=3\n",
		 "within_size"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct machine *m = WITH({"/sys/kernel/mm/transparent_hugepage/shmem_enabled", c[i].word},
					 {"/proc/self/mountinfo", c[i].mounts});

		assert_string_equal(m->limits.shmem_thp, c[i].thp);
		machine_destroy(m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_nothing_limits),
		cmocka_unit_test(test_2_the_tightest_on_the_way_up),
		cmocka_unit_test(test_3_in_the_root_of_a_namespace),
		cmocka_unit_test(test_3b_room_counts_not_the_limit),
		cmocka_unit_test(test_4_version_1_and_both),
		cmocka_unit_test(test_5_strange_text),
		cmocka_unit_test(test_6_a_long_name_keeps_its_end),
		cmocka_unit_test(test_7_status_mounts_and_settings),
		cmocka_unit_test(test_8_this_process),
		cmocka_unit_test(test_09_transparent_huge_pages_of_dev_shm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
