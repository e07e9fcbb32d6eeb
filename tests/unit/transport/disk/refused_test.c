/* Where the system forbids what the disk would like: io_uring by a seccomp profile, locked memory by a limit. Each is one line that
 * says why, and the disk works all the same. */
#include "tests/unit/transport/disk/file_fixture.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static bool forbid(long nr, int err)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {.len = sizeof f / sizeof f[0], .filter = f};

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

static bool little_memlock(long ignored, int ignored2)
{
	struct rlimit l = {65536, 65536};
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct c[2] = {{0}};

	(void)ignored;
	(void)ignored2;
	return !setrlimit(RLIMIT_MEMLOCK, &l) && !syscall(SYS_capset, &h, c);
}

/* In a child: restricts itself, opens the disk, writes and reads. What it logged is in `log`. 0 = all went well. */
static int in_a_child(struct fix *f, bool (*restrict_me)(long, int), long nr, int err, enum disk_engine engine,
		      char *log, size_t cap)
{
	int out[2], status = 0;
	size_t n = 0;
	ssize_t k;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	if (!pid) {
		struct disk_buffer b = {.base = f->mem, .bytes = MEM_BYTES};
		struct disk_conf c = {.path = f->path,
				      .write = true,
				      .engine = engine,
				      .buffered = !f->direct,
				      .buffers = &b,
				      .nbuffers = 1};
		struct why why = {0};
		struct disk *d;
		struct req r;
		char text[200];

		dup2(out[1], 2);
		if (!restrict_me(nr, err))
			_exit(2);
		if (disk_open(&c, &d, &why)) {
			fprintf(stderr, "%s", why.text);
			_exit(3);
		}
		fill(f->mem, MIB, 5);
		put(d, &r, DISK_WRITE, 0, f->mem, MIB);
		for (int i = 0; i < 100 && !r.done; i++)
			disk_run(d, 100000000);
		put(d, &r, DISK_READ, 0, f->mem + MIB, MIB);
		for (int i = 0; i < 100 && !r.done; i++)
			disk_run(d, 100000000);
		disk_describe(d, text, sizeof text);
		fprintf(stderr, "%s", text);
		_exit(r.done && !r.io.result && !memcmp(f->mem, f->mem + MIB, MIB) && !disk_close(d, 0) ? 0 : 4);
	}
	close(out[1]);
	while (n < cap - 1 && (k = read(out[0], log + n, cap - 1 - n)) > 0)
		n += (size_t)k;
	log[n] = 0;
	close(out[0]);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint32_t lines_with(const char *log, const char *word)
{
	uint32_t n = 0;

	for (const char *p = log; (p = strstr(p, word)); p++)
		n++;
	return n;
}

static void no_ring_means_threads_and_one_line(void **state)
{
	static const struct {
		long nr;
		int err;
		const char *says;
	} t[] = {
		{SYS_io_uring_setup, EPERM, "seccomp"},
		{SYS_io_uring_setup, ENOSYS, "seccomp"},
		{SYS_io_uring_enter, EPERM, "seccomp"}, /* a ring may be made, but not used */
	};
	char log[2048];

	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
		assert_int_equal(in_a_child(*state, forbid, t[i].nr, t[i].err, DISK_AUTO, log, sizeof log), 0);
		assert_int_equal(lines_with(log, "pread/pwrite instead"), 1);
		assert_int_equal(lines_with(log, "16 threads of pread/pwrite, fixed buffers 0.0 of 16.0 MiB"), 1);
		assert_true(lines_with(log, t[i].says) == 1);
	}
	assert_int_equal(in_a_child(*state, forbid, SYS_io_uring_setup, EPERM, DISK_URING, log, sizeof log), 3);
	assert_non_null(strstr(log, "io_uring is forbidden"));
	assert_int_equal(in_a_child(*state, forbid, SYS_io_uring_setup, EPERM, DISK_THREADS, log, sizeof log), 0);
	assert_int_equal(lines_with(log, "instead"), 0); /* as it was asked for: nothing to say */
}

static void too_little_locked_memory_means_no_fixed_buffers(void **state)
{
	char log[2048];

	assert_int_equal(in_a_child(*state, little_memlock, 0, 0, DISK_AUTO, log, sizeof log), 0);
	assert_int_equal(lines_with(log, "LimitMEMLOCK=infinity"), 1);
	assert_int_equal(lines_with(log, "64 KiB"), 1);
	assert_int_equal(lines_with(log, "io_uring, fixed buffers 0.0 of 16.0 MiB"), 1);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fix_setup, fix_teardown)
	const struct CMUnitTest tests[] = {
		T(no_ring_means_threads_and_one_line),
		T(too_little_locked_memory_means_no_fixed_buffers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
