/* Imports of virtual memory: fabric handles, and descriptors fetched from the process that has them. */
#include "tests/unit/transport/cuda/import_fake.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define ID    3u
#define ALLOC (4 * MIB)

static struct gpu_view *must_of(struct gpu_door *d, const struct pk_wrapper *w, uint32_t pid)
{
	struct gpu_view *v = NULL;
	struct why why = {0};

	if (gpu_import(d, w, pid, &v, &why) != 0)
		fail_msg("refused: %s", why.text);
	return v;
}

static void refused_of(struct gpu_door *d, const struct pk_wrapper *w, uint32_t pid, int err, const char *words)
{
	struct gpu_view *v = NULL;
	struct why why = {0};

	assert_int_equal(gpu_import(d, w, pid, &v, &why), err);
	assert_null(v);
	assert_int_equal(why.err, err);
	if (!strstr(why.text, words))
		fail_msg("'%s' does not say '%s'", why.text, words);
	assert_int_equal(d->gpu[0].users, 0);
	assert_int_equal(fake.reserved + fake.handles + fake.maps, 0);
}

/* A process with the descriptor of allocation ID. */
struct exporter_process {
	pid_t pid;
	uint32_t fd;
};

static struct exporter_process start_exporter(void)
{
	struct exporter_process e;
	uint32_t id = ID;
	int ready[2], fd = memfd_create("vmm", MFD_CLOEXEC);

	assert_true(fd >= 0 && write(fd, &id, sizeof(id)) == sizeof(id));
	assert_int_equal(pipe(ready), 0);
	e.pid = fork();
	assert_true(e.pid >= 0);
	if (e.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (dup2(fd, 77) == 77 && write(ready[1], "x", 1) == 1)
			pause();
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &id, 1), 1);
	close(ready[0]);
	close(fd);
	e.fd = 77;
	return e;
}

static void kill_exporter(struct exporter_process *e)
{
	kill(e->pid, SIGKILL);
	waitpid(e->pid, NULL, 0);
}

static int open_files(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_01_fabric(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	struct gpu_view *v, *w;
	uint64_t views, allocations, bytes;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, MIB, 128);
	v = must_of(d, &f.w, 0);
	assert_int_equal(gpu_view_address(v), fake.alloc[ID].at + MIB);
	assert_int_equal(gpu_view_bytes(v), 128);
	/* The same blob: one mapping, whatever the export id. */
	f.id[15] = 1;
	f.w.alloc_offset = 2 * MIB;
	w = must_of(d, &f.w, 0);
	assert_int_equal(fake.opens, 1);
	assert_int_equal(gpu_view_address(w), fake.alloc[ID].at + 2 * MIB);
	imports_count(&d->gpu[0], &views, &allocations, &bytes);
	assert_true(views == 2 && allocations == 1 && bytes == ALLOC);
	gpu_view_put(v);
	assert_int_equal(fake.maps, 1);
	gpu_view_put(w);
	assert_int_equal(fake.maps + fake.handles + fake.reserved, 0);
}

static void test_02_bounds(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;
	uint64_t calls;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, ALLOC - 128, 128);
	gpu_view_put(must_of(d, &f.w, 0));
	/* Against its own claim, and the GPU: nothing is called. */
	calls = fake.calls;
	fake_vmm(&f, ID, ALLOC, ALLOC - 127, 128);
	refused_of(d, &f.w, 0, -ERANGE, "into an allocation of 4194304");
	fake_vmm(&f, ID, GPU_MEM + 2 * MIB, 0, 128);
	refused_of(d, &f.w, 0, -ERANGE, "the GPU has");
	fake_vmm(&f, ID, UINT64_MAX, 0, 128);
	refused_of(d, &f.w, 0, -ERANGE, "the GPU has");
	f.w.fabric_blob.n = 63;
	refused_of(d, &f.w, 0, -EINVAL, "63 bytes");
	fake_vmm(&f, ID, ALLOC, 0, 128);
	f.w.vmm_fabric = false;
	f.w.export_id.n = 15;
	refused_of(d, &f.w, 0, -EINVAL, "15 bytes");
	assert_int_equal(fake.calls, calls);
	/* A size that is none is refused before the import, a size that is too large by the driver. */
	fake_vmm(&f, ID, ALLOC - 1, 0, 128);
	calls = fake.opens;
	refused_of(d, &f.w, 0, -EINVAL, "no allocation has the size");
	assert_int_equal(fake.opens, calls);
	fake_vmm(&f, ID, 2 * ALLOC, ALLOC, 128);
	refused_of(d, &f.w, 0, -ERANGE, "has not the 8388608 bytes");
	/* Beside a mapping that claims less. */
	fake_vmm(&f, ID, ALLOC / 2, 0, 128);
	struct gpu_view *v = must_of(d, &f.w, 0), *w = NULL;
	fake_vmm(&f, ID, ALLOC, ALLOC / 2, 128);
	assert_int_equal(gpu_import(d, &f.w, 0, &w, NULL), -ERANGE);
	gpu_view_put(v);
}

static void test_03_what_is_not_there(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_vmm(&f, ID, ALLOC, 0, 128); /* no such allocation */
	refused_of(d, &f.w, 0, -EACCES, "the fabric handle (CUDA_ERROR_UNKNOWN)");
	assert_false(d->gpu[0].lost);
	fake_alloc(ID, ALLOC);
	d->gpu[0].facts.fabric = false;
	refused_of(d, &f.w, 0, -EOPNOTSUPP, "IMEX");
	d->gpu[0].facts.vmm = false;
	refused_of(d, &f.w, 0, -EOPNOTSUPP, "sleep mode");
	d->gpu[0].facts.vmm = true;
	struct cuda_driver old = fake_cu;
	old.cuMemMap = NULL;
	d->cu = &old;
	refused_of(d, &f.w, 0, -EOPNOTSUPP, "virtual-memory interface");
	d->cu = &fake_cu;
}

static void test_04_a_descriptor_is_fetched(void **state)
{
	struct gpu_door *d = *state;
	struct exporter_process e = start_exporter();
	struct fake_wrapper f;
	struct gpu_view *v, *w;
	int files = open_files();

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, 512, 128);
	f.w.vmm_fabric = false;
	f.w.has_fd = true;
	f.w.fd = e.fd;
	v = must_of(d, &f.w, (uint32_t)e.pid);
	assert_int_equal(gpu_view_address(v), fake.alloc[ID].at + 512);
	assert_int_equal(open_files(), files); /* the driver has its own */
	w = must_of(d, &f.w, (uint32_t)e.pid);
	assert_int_equal(fake.opens, 1);
	kill_exporter(&e); /* the memory outlives it here */
	gpu_view_put(w);
	assert_int_equal(fake.maps, 1);
	gpu_view_put(v);
	assert_int_equal(fake.maps, 0);
	assert_int_equal(open_files(), files);
}

static void test_05_a_descriptor_that_cannot_be_fetched(void **state)
{
	struct gpu_door *d = *state;
	struct exporter_process e = start_exporter();
	struct fake_wrapper f;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, 0, 128);
	f.w.vmm_fabric = false;
	refused_of(d, &f.w, (uint32_t)e.pid, -EOPNOTSUPP, "was not sent along");
	f.w.has_fd = true;
	f.w.fd = e.fd;
	refused_of(d, &f.w, 0, -EOPNOTSUPP, "the engine's process is not known");
	f.w.fd = 78;
	refused_of(d, &f.w, (uint32_t)e.pid, -EACCES, "no such descriptor");
	f.w.fd = INT32_MAX;
	refused_of(d, &f.w, (uint32_t)e.pid, -EACCES, "no such descriptor");
	f.w.fd = 0; /* there, but not of an allocation */
	refused_of(d, &f.w, (uint32_t)e.pid, -EACCES, "the descriptor (CUDA_ERROR_UNKNOWN)");
	kill_exporter(&e);
	f.w.fd = e.fd;
	refused_of(d, &f.w, (uint32_t)e.pid, -EOPNOTSUPP, "is not known");
}

/* An export id is what the client says: of another process it is another allocation. */
static void test_06_export_ids_of_two_processes(void **state)
{
	struct gpu_door *d = *state;
	struct exporter_process a = start_exporter(), b = start_exporter();
	struct fake_wrapper f;
	struct gpu_view *v, *w;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, 0, 128);
	f.w.vmm_fabric = false;
	f.w.has_fd = true;
	f.w.fd = a.fd;
	v = must_of(d, &f.w, (uint32_t)a.pid);
	w = must_of(d, &f.w, (uint32_t)b.pid);
	assert_int_equal(fake.opens, 2);
	assert_true(gpu_view_address(v) != gpu_view_address(w));
	fake.alloc[ID].at = gpu_view_address(v); /* the fake remembers one address */
	gpu_view_put(v);
	fake.alloc[ID].at = gpu_view_address(w);
	gpu_view_put(w);
	kill_exporter(&a);
	kill_exporter(&b);
}

static void test_07_any_call_may_fail(void **state)
{
	static const CUresult how[] = {CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_UNKNOWN};
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, 0, 128);
	for (size_t i = 0; i < sizeof(how) / sizeof(how[0]); i++) {
		struct gpu_view *v = NULL;
		int err = -1;

		fake.fail_rc = how[i];
		for (uint64_t n = 1; err; n++) {
			struct why why = {0};

			assert_true(n < 20);
			fake.fail_at = fake.calls + n;
			err = gpu_import(d, &f.w, 0, &v, &why);
			fake.fail_at = 0;
			assert_int_equal(why.err, err);
			if (err)
				assert_int_equal(fake.reserved + fake.handles + fake.maps + d->gpu[0].users, 0);
		}
		gpu_view_put(v);
		assert_int_equal(fake.reserved + fake.handles + fake.maps + d->gpu[0].users, 0);
	}
}

/* Unmapping fails at each of its steps: the rest is done later, nothing twice. */
static void test_08_unmapping_fails(void **state)
{
	struct gpu_door *d = *state;
	struct fake_wrapper f;

	fake_alloc(ID, ALLOC);
	fake_vmm(&f, ID, ALLOC, 0, 128);
	fake.fail_rc = CUDA_ERROR_INVALID_VALUE;
	for (uint64_t n = 1; n <= 4; n++) { /* the context, the mapping, its addresses, the handle */
		struct gpu_view *v = must_of(d, &f.w, 0);

		fake.fail_at = fake.calls + n;
		gpu_view_put(v);
		fake.fail_at = 0;
		assert_int_equal(d->gpu[0].users, 1);
		assert_int_equal(fake.handles, 1);
		gpu_view_put(must_of(d, &f.w, 0)); /* tried again, then opened anew */
		assert_int_equal(fake.reserved + fake.handles + fake.maps + d->gpu[0].users, 0);
	}
	/* Failing to map and failing to undo it: context (2), addresses, import, map, and then the access. */
	fake.every_close = CUDA_ERROR_INVALID_VALUE;
	fake.fail_at = fake.calls + 6;
	assert_true(gpu_import(d, &f.w, 0, &(struct gpu_view *){NULL}, NULL) < 0);
	assert_int_equal(fake.maps, 1);
	fake.every_close = CUDA_SUCCESS;
	gpu_view_put(must_of(d, &f.w, 0));
	assert_int_equal(fake.reserved + fake.handles + fake.maps + d->gpu[0].users, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_01_fabric, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_02_bounds, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_03_what_is_not_there, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_04_a_descriptor_is_fetched, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_05_a_descriptor_that_cannot_be_fetched, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_06_export_ids_of_two_processes, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_07_any_call_may_fail, fake_setup, fake_teardown),
		cmocka_unit_test_setup_teardown(test_08_unmapping_fails, fake_setup, fake_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
