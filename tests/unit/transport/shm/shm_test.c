#include "transport/shm/shmx.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define PAGE 4096u

static char obj[64];
static char obj2[64];

static int object_of(const char *name, off_t bytes)
{
	int fd = shm_open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	return fd;
}

static int setup(void **state)
{
	(void)state;
	snprintf(obj, sizeof obj, "/shmx_test_%d", (int)getpid());
	snprintf(obj2, sizeof obj2, "/shmx_test_%d_b", (int)getpid());
	return 0;
}

/* cmocka puts its own SIGBUS handler around every test function: ours goes in from inside. */
static void guard_on(void)
{
	struct why why = {0};
	assert_int_equal(shmx_init(&why), 0);
}

static int teardown(void **state)
{
	(void)state;
	char path[128];
	shm_unlink(obj);
	shm_unlink(obj2);
	snprintf(path, sizeof path, "/dev/shm%s_dir", obj);
	rmdir(path);
	snprintf(path, sizeof path, "/dev/shm%s_link", obj);
	unlink(path);
	snprintf(path, sizeof path, "/dev/shm%s_fifo", obj);
	unlink(path);
	return 0;
}

static void maps_and_shares_bytes(void **state)
{
	(void)state;
	struct why why = {0};
	int fd = object_of(obj, 3 * PAGE + 10);
	struct shmx_map *m;
	assert_int_equal(shmx_open(slice_str(obj), 3 * PAGE + 10, &m, &why), 0);
	assert_int_equal(shmx_bytes(m), 3 * PAGE + 10);
	assert_false(shmx_faulted(m));
	shmx_base(m)[3 * PAGE + 9] = 77;
	uint8_t seen = 0;
	assert_int_equal(pread(fd, &seen, 1, 3 * PAGE + 9), 1);
	assert_int_equal(seen, 77);
	shmx_put(m);
	shmx_put(NULL);
	/* without the slash, and a part of the object */
	assert_int_equal(shmx_open(slice_str(obj + 1), PAGE, &m, &why), 0);
	assert_int_equal(shmx_bytes(m), PAGE);
	shmx_put(m);
	close(fd);
}

static void the_same_object_is_one_mapping(void **state)
{
	(void)state;
	int fd = object_of(obj, 4 * PAGE);
	char path[128], path2[128];
	snprintf(path, sizeof path, "/dev/shm%s", obj);
	snprintf(path2, sizeof path2, "/dev/shm%s", obj2);
	assert_int_equal(link(path, path2), 0);
	struct shmx_map *a, *b, *c;
	assert_int_equal(shmx_open(slice_str(obj), 2 * PAGE, &a, NULL), 0);
	assert_int_equal(shmx_open(slice_str(obj2), PAGE, &b, NULL), 0); /* another name, the same inode */
	assert_ptr_equal(a, b);
	assert_int_equal(shmx_open(slice_str(obj), 4 * PAGE, &c, NULL), 0); /* more than is mapped: anew */
	assert_ptr_not_equal(a, c);
	shmx_put(b);
	shmx_base(a)[0] = 5; /* one reference is left */
	assert_int_equal(shmx_base(c)[0], 5);
	shmx_put(a);
	shmx_put(c);
	/* unlinked and made again: a different object */
	assert_int_equal(shmx_open(slice_str(obj), PAGE, &a, NULL), 0);
	shm_unlink(obj);
	shm_unlink(obj2);
	int fd2 = object_of(obj, PAGE);
	assert_int_equal(shmx_open(slice_str(obj), PAGE, &b, NULL), 0);
	assert_ptr_not_equal(a, b);
	shmx_put(a);
	shmx_put(b);
	close(fd);
	close(fd2);
}

static void refuse(const char *name, size_t n, uint64_t bytes, int err)
{
	struct shmx_map *m = NULL;
	struct why why = {0};
	int rc = shmx_open(slice_of(name, n), bytes, &m, &why);
	if (rc != err)
		print_message("name '%.*s': %d, not %d (%s)\n", (int)n, name, rc, err, why.text);
	assert_int_equal(rc, err);
	assert_int_equal(why.err, err);
	assert_true(why.text[0] != '\0');
	assert_null(m);
}

static void wrong_names_are_refused(void **state)
{
	(void)state;
	char longest[300];
	memset(longest, 'x', sizeof longest);
	static const char *const bad[] = {"",    "/", "//a", "a/b",           "/a/b", "..",
					  "/..", ".", "/.",  "../etc/passwd", "/a/"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		refuse(bad[i], strlen(bad[i]), PAGE, -EINVAL);
	refuse("/a\0b", 4, PAGE, -EINVAL);
	refuse("\0", 1, PAGE, -EINVAL);
	refuse(longest, 256, PAGE, -EINVAL);
	refuse(longest, 255, PAGE, -ENOENT);
	longest[0] = '/';
	refuse(longest, 256, PAGE, -ENOENT);
	refuse(longest, 257, PAGE, -EINVAL);
	refuse(NULL, 0, PAGE, -EINVAL);
}

static void wrong_objects_are_refused(void **state)
{
	(void)state;
	char path[128];
	int fd = object_of(obj, 2 * PAGE);
	refuse(obj, strlen(obj), 0, -EINVAL);
	refuse(obj, strlen(obj), 2 * PAGE + 1, -ERANGE);
	refuse(obj, strlen(obj), UINT64_MAX, -EINVAL);
	refuse(obj, strlen(obj), (uint64_t)INT64_MAX, -ERANGE);
	refuse(obj2, strlen(obj2), PAGE, -ENOENT);
	snprintf(path, sizeof path, "/dev/shm%s_dir", obj);
	assert_int_equal(mkdir(path, 0700), 0);
	refuse(path + 8, strlen(path + 8), PAGE, -EINVAL);
	snprintf(path, sizeof path, "/dev/shm%s_link", obj);
	assert_int_equal(symlink(obj + 1, path), 0);
	refuse(path + 8, strlen(path + 8), PAGE, -EINVAL);
	snprintf(path, sizeof path, "/dev/shm%s_fifo", obj);
	assert_int_equal(mkfifo(path, 0600), 0);
	refuse(path + 8, strlen(path + 8), PAGE, -EINVAL);
	assert_int_equal(ftruncate(fd, 0), 0);
	refuse(obj, strlen(obj), 1, -ERANGE);
	close(fd);
}

static void no_permission_is_told(void **state)
{
	(void)state;
	int fd = object_of(obj, PAGE);
	assert_int_equal(fchmod(fd, 0400), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct shmx_map *m;
		if (getuid() == 0 && seteuid(65534) != 0)
			_exit(2);
		_exit(shmx_open(slice_str(obj), PAGE, &m, NULL) == -EACCES ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(fd);
}

static void truncation_reads_zeroes(void **state)
{
	(void)state;
	guard_on();
	int fd = object_of(obj, 4 * PAGE);
	struct shmx_map *m;
	assert_int_equal(shmx_open(slice_str(obj), 4 * PAGE, &m, NULL), 0);
	memset(shmx_base(m), 9, 4 * PAGE);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	errno = 123;
	volatile uint8_t *p = shmx_base(m);
	assert_int_equal(p[2 * PAGE + 5], 0);
	assert_int_equal(errno, 123);
	assert_true(shmx_faulted(m));
	assert_int_equal(p[PAGE - 1], 9); /* what is still there stays as it is */
	assert_int_equal(p[4 * PAGE - 1], 0);
	shmx_put(m);
	close(fd);
}

static void truncation_swallows_writes(void **state)
{
	(void)state;
	guard_on();
	int fd = object_of(obj, 2 * PAGE);
	struct shmx_map *m, *fresh;
	assert_int_equal(shmx_open(slice_str(obj), 2 * PAGE, &m, NULL), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	volatile uint8_t *p = shmx_base(m);
	p[0] = 1;
	p[PAGE + 1] = 2;
	assert_true(shmx_faulted(m));
	assert_int_equal(p[PAGE + 1], 2);
	/* the object grows back: the old mapping stays bad, a new registration gets a good one */
	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	assert_int_equal(p[PAGE + 1], 2);
	assert_int_equal(shmx_open(slice_str(obj), 2 * PAGE, &fresh, NULL), 0);
	assert_ptr_not_equal(fresh, m);
	assert_int_equal(shmx_base(fresh)[PAGE + 1], 0);
	assert_false(shmx_faulted(fresh));
	shmx_put(m);
	shmx_put(fresh);
	/* a reused slot starts unfaulted */
	assert_int_equal(shmx_open(slice_str(obj), PAGE, &m, NULL), 0);
	assert_false(shmx_faulted(m));
	shmx_put(m);
	close(fd);
}

static void only_the_shrunk_one_is_faulted(void **state)
{
	(void)state;
	guard_on();
	int fd = object_of(obj, 2 * PAGE), fd2 = object_of(obj2, 2 * PAGE);
	struct shmx_map *a, *b;
	assert_int_equal(shmx_open(slice_str(obj), 2 * PAGE, &a, NULL), 0);
	assert_int_equal(shmx_open(slice_str(obj2), 2 * PAGE, &b, NULL), 0);
	memset(shmx_base(b), 3, 2 * PAGE);
	assert_int_equal(ftruncate(fd, 0), 0);
	memcpy(shmx_base(b), shmx_base(a), PAGE); /* a copy across both, as a STORE does */
	assert_true(shmx_faulted(a));
	assert_false(shmx_faulted(b));
	assert_int_equal(shmx_base(b)[0], 0);
	assert_int_equal(shmx_base(b)[PAGE], 3);
	shmx_put(a);
	shmx_put(b);
	close(fd);
	close(fd2);
}

#define TOUCHERS      4
#define TOUCHER_PAGES 64u

struct toucher {
	struct shmx_map *m;
	unsigned id;
	pthread_barrier_t *go;
};

/* Threads share pages (different bytes), so several fault on one page at once. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	_Atomic uint8_t *p = (_Atomic uint8_t *)shmx_base(t->m);
	pthread_barrier_wait(t->go);
	for (unsigned i = 0; i < TOUCHER_PAGES; i++)
		atomic_fetch_add(&p[i * PAGE + t->id], 1);
	return NULL;
}

/* Meanwhile the table changes under the handlers. */
static void *churn(void *arg)
{
	struct toucher *t = arg;
	pthread_barrier_wait(t->go);
	for (unsigned i = 0; i < 300; i++) {
		struct shmx_map *m;
		if (shmx_open(slice_str(obj2), PAGE, &m, NULL) != 0)
			return (void *)1;
		shmx_base(m)[1] = 1;
		if (shmx_faulted(m))
			return (void *)2;
		shmx_put(m);
	}
	return NULL;
}

static void threads_fault_together(void **state)
{
	(void)state;
	guard_on();
	int fd = object_of(obj, TOUCHER_PAGES * PAGE), fd2 = object_of(obj2, PAGE);
	struct shmx_map *m;
	pthread_barrier_t go;
	for (int round = 0; round < 20; round++) {
		assert_int_equal(ftruncate(fd, TOUCHER_PAGES * PAGE), 0);
		assert_int_equal(shmx_open(slice_str(obj), TOUCHER_PAGES * PAGE, &m, NULL), 0);
		assert_int_equal(ftruncate(fd, 0), 0);
		pthread_t th[TOUCHERS + 1];
		struct toucher arg[TOUCHERS + 1];
		pthread_barrier_init(&go, NULL, TOUCHERS + 1);
		for (unsigned i = 0; i <= TOUCHERS; i++) {
			arg[i] = (struct toucher){m, i, &go};
			assert_int_equal(pthread_create(&th[i], NULL, i < TOUCHERS ? touch : churn, &arg[i]), 0);
		}
		for (unsigned i = 0; i <= TOUCHERS; i++) {
			void *r;
			pthread_join(th[i], &r);
			assert_null(r);
		}
		pthread_barrier_destroy(&go);
		assert_true(shmx_faulted(m));
		shmx_put(m);
	}
	close(fd);
	close(fd2);
}

static void guarded_memory_of_our_own(void **state)
{
	(void)state;
	guard_on();
	int fd = object_of(obj, 2 * PAGE);
	struct shmx_map *g;
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(shmx_guard(p, 2 * PAGE, &g, NULL), 0);
	assert_ptr_equal(shmx_base(g), p);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(((volatile uint8_t *)p)[PAGE], 0);
	assert_true(shmx_faulted(g));
	shmx_put(g);
	assert_int_equal(p[PAGE], 0); /* still mapped: a guard does not own the memory */
	assert_int_equal(munmap(p, 2 * PAGE), 0);
	assert_int_equal(shmx_guard(NULL, PAGE, &g, NULL), -EINVAL);
	assert_int_equal(shmx_guard((void *)PAGE, 0, &g, NULL), -EINVAL);
	assert_int_equal(shmx_guard((void *)(uintptr_t)(PAGE + 1), 5, &g, NULL), -EINVAL);
	close(fd);
}

static void a_full_table_says_so(void **state)
{
	(void)state;
	guard_on();
	static struct shmx_map *all[SHMX_MAX_MAPPINGS];
	struct why why = {0};
	struct shmx_map *m;
	int fd = object_of(obj, 2 * PAGE);
	uintptr_t at = (uintptr_t)1 << 40; /* never touched: a guard is only an entry */
	for (uint32_t i = 0; i < SHMX_MAX_MAPPINGS; i++)
		assert_int_equal(shmx_guard((void *)(at + (uintptr_t)i * PAGE), PAGE, &all[i], &why), 0);
	assert_int_equal(shmx_guard((void *)at, PAGE, &m, &why), -EMFILE);
	assert_int_equal(shmx_open(slice_str(obj), PAGE, &m, &why), -EMFILE);
	assert_int_equal(why.err, -EMFILE);
	/* the very last slot is still found by the handler */
	shmx_put(all[SHMX_MAX_MAPPINGS - 1]);
	assert_int_equal(shmx_open(slice_str(obj), PAGE, &m, &why), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(((volatile uint8_t *)shmx_base(m))[0], 0);
	assert_true(shmx_faulted(m));
	shmx_put(m);
	for (uint32_t i = 0; i + 1 < SHMX_MAX_MAPPINGS; i++)
		shmx_put(all[i]);
	close(fd);
}

/* How a child ends that does `what`; core dumps off. */
static int child_status(void (*what)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		what();
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void touch_unguarded(void)
{
	int fd = shm_open(obj, O_RDWR, 0600);
	volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED || ftruncate(fd, 0) != 0)
		_exit(3);
	p[0] = 1;
}

static void send_to_self(void)
{
	kill(getpid(), SIGBUS);
}

static void touch_after_put(void)
{
	struct shmx_map *m;
	int fd = shm_open(obj, O_RDWR, 0600);
	uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED || shmx_guard(p, PAGE, &m, NULL) != 0 || ftruncate(fd, 0) != 0)
		_exit(3);
	shmx_put(m);
	*(volatile uint8_t *)p = 1;
}

static void a_fault_elsewhere_still_kills(void **state)
{
	(void)state;
	guard_on();
	void (*const how[])(void) = {touch_unguarded, send_to_self, touch_after_put};
	for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
		int fd = object_of(obj, PAGE);
		int status = child_status(how[i]);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGBUS);
		close(fd);
	}
}

/* Needs reserved huge pages; without them there is nothing to show. */
static void huge_pages_are_patched_whole(void **state)
{
	(void)state;
	guard_on();
	const size_t huge = 2u << 20;
	int fd = memfd_create("shmx_huge", MFD_HUGETLB | MFD_HUGE_2MB);
	if (fd < 0 || ftruncate(fd, (off_t)(2 * huge)) != 0)
		skip();
	uint8_t *p = mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		skip();
	struct shmx_map *g;
	assert_int_equal(shmx_guard(p, 2 * huge, &g, NULL), 0);
	p[0] = 7;
	assert_int_equal(ftruncate(fd, (off_t)huge), 0);
	assert_int_equal(((volatile uint8_t *)p)[huge + 12345], 0);
	assert_true(shmx_faulted(g));
	assert_int_equal(p[0], 7);
	shmx_put(g);
	munmap(p, 2 * huge);
	close(fd);
}

int main(void)
{
#define T(n, f)                                               \
	{                                                     \
		"transport/shm: " n, f, setup, teardown, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("01 maps and shares bytes", maps_and_shares_bytes),
		T("02 the same object is one mapping", the_same_object_is_one_mapping),
		T("03 wrong names are refused", wrong_names_are_refused),
		T("04 wrong objects are refused", wrong_objects_are_refused),
		T("05 no permission is told", no_permission_is_told),
		T("10 truncation reads zeroes", truncation_reads_zeroes),
		T("11 truncation swallows writes", truncation_swallows_writes),
		T("12 only the shrunk one is faulted", only_the_shrunk_one_is_faulted),
		T("13 threads fault together", threads_fault_together),
		T("14 guarded memory of our own", guarded_memory_of_our_own),
		T("15 a fault elsewhere still kills", a_fault_elsewhere_still_kills),
		T("16 huge pages are patched whole", huge_pages_are_patched_whole),
		T("20 a full table says so", a_full_table_says_so),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
