/* torch's reference counters: counted down once, in a file that is torch's and long enough, and nowhere else. */
#include "tests/unit/transport/cuda/import_fake.h"
#include "transport/shm/shmx.h"

#include <sys/stat.h>

#define ID         3u
#define HEADER     64u
#define FILE_BYTES (HEADER + 10000u * 8u)

static char name[64];

/* torch's file: 10000 counters of `each`. */
static int make_file(const char *path, uint64_t bytes, int64_t each)
{
	int fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	for (uint64_t at = HEADER; at + 8 <= bytes; at += 8)
		assert_int_equal(pwrite(fd, &each, 8, (off_t)at), 8);
	return fd;
}

static int64_t counter(int fd, uint64_t i)
{
	int64_t c;

	assert_int_equal(pread(fd, &c, 8, (off_t)(HEADER + i * 8)), 8);
	return c;
}

static void wrapper(struct fake_wrapper *f, const char *path, uint64_t index)
{
	fake_alloc(ID, 4 * MIB);
	fake_ipc(f, ID, 0, 128);
	snprintf(f->name, sizeof(f->name), "%s", path);
	f->w.refcount_name = slice_of(f->name, strlen(f->name));
	f->w.refcount_index = index;
}

static void cycle(struct gpu_door *d, const char *path, uint64_t index)
{
	struct fake_wrapper f;
	struct gpu_view *v = NULL;

	wrapper(&f, path, index);
	assert_int_equal(gpu_import(d, &f.w, (uint32_t)getpid(), &v, NULL), 0);
	gpu_view_put(v);
}

static void told(struct gpu_door *d, uint64_t n, uint64_t missed)
{
	assert_int_equal(d->gpu[0].imports->torch_told, n);
	assert_int_equal(d->gpu[0].imports->torch_missed, missed);
}

static int setup(void **state)
{
	snprintf(name, sizeof(name), "/torch_%d_1234_0", (int)getpid());
	shm_unlink(name);
	return fake_setup(state);
}

static int teardown(void **state)
{
	shm_unlink(name);
	return fake_teardown(state);
}

static void test_01_counted_down_when_the_memory_is_let_go(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;
	int fd = make_file(name, FILE_BYTES, 1);

	wrapper(&f, name, 5);
	assert_int_equal(gpu_import(d, &f.w, 0, &v, NULL), 0);
	assert_int_equal(counter(fd, 5), 1);
	gpu_view_put(v);
	assert_int_equal(counter(fd, 5), 0);
	assert_int_equal(counter(fd, 4), 1);
	assert_int_equal(counter(fd, 6), 1);
	told(d, 1, 0);
	/* Never below 0. */
	cycle(d, name, 5);
	assert_int_equal(counter(fd, 5), 0);
	told(d, 1, 1);
	/* The first, the last, one on the next page; without a slash. */
	cycle(d, name, 0);
	cycle(d, name, 9999);
	cycle(d, name + 1, 1000);
	assert_true(counter(fd, 0) == 0 && counter(fd, 9999) == 0 && counter(fd, 1000) == 0);
	told(d, 4, 1);
	close(fd);
}

static void test_02_beyond_the_file(void **state)
{
	static const uint64_t beyond[] = {10000, 10001, UINT64_MAX, UINT64_MAX / 8, INT64_MAX, UINT64_C(1) << 61};
	struct gpu_door *d = *state;
	int fd = make_file(name, FILE_BYTES, 1);
	struct stat st;

	for (size_t i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++)
		cycle(d, name, beyond[i]);
	told(d, 0, sizeof(beyond) / sizeof(beyond[0]));
	assert_true(fstat(fd, &st) == 0 && st.st_size == FILE_BYTES);
	for (uint64_t i = 0; i < 10000; i++)
		assert_int_equal(counter(fd, i), 1);
	/* A file without counters, and one that ends within one. */
	assert_int_equal(ftruncate(fd, HEADER - 1), 0);
	cycle(d, name, 0);
	assert_int_equal(ftruncate(fd, HEADER + 7), 0);
	cycle(d, name, 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	cycle(d, name, 0);
	told(d, 0, 9);
	close(fd);
}

static void test_03_only_files_of_torch(void **state)
{
	static const char *const names[] = {"/lmcache_l1_pool", "/torch",    "/torch_",   "/torch_../x",
					    "/torch_a/b",       "/xtorch_1", "//torch_1", "/torch_1 ",
					    "torch-1",          "/TORCH_1",  ".",         "/.."};
	struct gpu_door *d = *state;
	struct torch_counter t;
	struct exporter none = {0};
	char path[64];
	int fd;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		torch_counter_init(&t, slice_str(names[i]), 0, &none);
		assert_string_equal(t.name, "");
		assert_false(torch_counter_down(&t));
		assert_false(torch_counter_same(&t, &t));
	}
	torch_counter_init(&t, slice_of("/torch_1\0x", 10), 0, &none);
	assert_string_equal(t.name, "");
	/* One of ours with another name is not touched. */
	snprintf(path, sizeof(path), "/lmca_torch_%d", (int)getpid());
	fd = make_file(path, FILE_BYTES, 1);
	cycle(d, path, 0);
	assert_int_equal(counter(fd, 0), 1);
	shm_unlink(path);
	close(fd);
	told(d, 0, 0);
}

static void test_04_what_is_no_file_or_not_theirs(void **state)
{
	struct gpu_door *d = *state;
	char path[96], target[96];
	int fd;

	cycle(d, name, 0); /* absent */
	told(d, 0, 1);
	snprintf(path, sizeof(path), "/dev/shm%s", name);
	assert_int_equal(mkfifo(path, 0600), 0);
	cycle(d, name, 0);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	cycle(d, name, 0);
	rmdir(path);
	snprintf(target, sizeof(target), "/torch_%d_target", (int)getpid());
	fd = make_file(target, FILE_BYTES, 1);
	snprintf(target, sizeof(target), "/dev/shm/torch_%d_target", (int)getpid());
	assert_int_equal(symlink(target, path), 0);
	cycle(d, name, 0);
	assert_int_equal(counter(fd, 0), 1);
	unlink(path);
	unlink(target);
	close(fd);
	told(d, 0, 4);
	if (geteuid() == 0) { /* somebody else's */
		struct fake_wrapper f;
		struct gpu_view *v = NULL;

		fd = make_file(name, FILE_BYTES, 1);
		assert_int_equal(fchown(fd, 12345, 12345), 0);
		cycle(d, name, 0);
		assert_int_equal(counter(fd, 0), 1);
		told(d, 0, 5);
		/* ... unless it is the exporter's. */
		wrapper(&f, name, 0);
		assert_int_equal(gpu_import(d, &f.w, (uint32_t)getpid(), &v, NULL), 0);
		v->torch.uid = 12345;
		gpu_view_put(v);
		assert_int_equal(counter(fd, 0), 0);
		told(d, 1, 5);
		close(fd);
	}
}

/* The same pickle registered twice has one counter. */
static void test_05_counted_once(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f, other;
	struct gpu_view *a, *b, *c;
	int fd = make_file(name, FILE_BYTES, 2);

	wrapper(&f, name, 5);
	wrapper(&other, name + 1, 6);
	assert_int_equal(gpu_import(d, &f.w, 0, &a, NULL), 0);
	assert_int_equal(gpu_import(d, &other.w, 0, &c, NULL), 0);
	assert_int_equal(gpu_import(d, &f.w, 0, &b, NULL), 0);
	gpu_view_put(a);
	assert_int_equal(counter(fd, 5), 2);
	gpu_view_put(c);
	assert_int_equal(counter(fd, 6), 1);
	gpu_view_put(b);
	assert_int_equal(counter(fd, 5), 1);
	told(d, 2, 0);
	close(fd);
}

/* An import that is refused leaves the counter alone: the engine keeps its block. */
static void test_06_refused_imports_count_nothing(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v;
	int fd = make_file(name, FILE_BYTES, 1);

	wrapper(&f, name, 0);
	f.w.storage_bytes = 8 * MIB;
	assert_int_equal(gpu_import(d, &f.w, 0, &v, NULL), -ERANGE);
	assert_int_equal(counter(fd, 0), 1);
	told(d, 0, 0);
	close(fd);
}

/* Whoever cuts the file while we count does not kill us. cmocka sets its own handler of SIGBUS around every test: ours goes in here. */
static void test_07_cut_under_our_hands(void **state)
{
	struct gpu_door *d = *state;
	struct shmx_map *guard;
	struct why why = {0};
	int fd = make_file(name, FILE_BYTES, 1);
	_Atomic int64_t *page;

	assert_int_equal(shmx_init(&why), 0);
	/* As down_at does it, with the cut in between. */
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8192);
	assert_true(page != MAP_FAILED);
	assert_int_equal(shmx_guard((void *)page, 4096, &guard, &why), 0);
	assert_int_equal(ftruncate(fd, 100), 0);
	assert_int_equal(atomic_load(page), 0);
	assert_true(shmx_faulted(guard));
	shmx_put(guard);
	munmap((void *)page, 4096);
	cycle(d, name, 2000);
	told(d, 0, 1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_01_counted_down_when_the_memory_is_let_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_02_beyond_the_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_03_only_files_of_torch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_04_what_is_no_file_or_not_theirs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_05_counted_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_06_refused_imports_count_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_07_cut_under_our_hands, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
