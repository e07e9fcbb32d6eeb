/* Imports of another process's memory, on the test driver: the program starts itself again as the exporter, which does what an engine
 * does, as it is told through a pipe. */
#include "transport/cuda/import_int.h"

#include "daemon/base/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>

#define BYTES (4u << 20)

static char library[512], dir[64];

/* ---- the exporter -------------------------------------------------------------------------------------------------------------- */

enum order { MAKE_ALLOC, FREE_ALLOC, MAKE_VMM, FREE_VMM, MAKE_EVENT, FILL, PEEK };
struct told {
	enum order order;
	uint8_t value;
};
struct answer {
	CUresult rc;
	int32_t fd;
	uint8_t handle[64], fabric[64], event[64], value;
};

struct engine {
	struct cuda_driver cu;
	CUstream stream;
	CUdeviceptr alloc;
	CUmemGenericAllocationHandle vmm;
	CUevent event;
	int fd;
};

#define TRY(call)                        \
	do {                             \
		CUresult try_rc_ = call; \
		if (try_rc_)             \
			return try_rc_;  \
	} while (0)

static CUresult make_vmm(struct engine *e, struct answer *a)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
				    .requestedHandleTypes =
					    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | CU_MEM_HANDLE_TYPE_FABRIC,
				    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};

	TRY(e->cu.cuMemCreate(&e->vmm, BYTES, &prop, 0));
	TRY(e->cu.cuMemExportToShareableHandle(&e->fd, e->vmm, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	a->fd = e->fd;
	return e->cu.cuMemExportToShareableHandle(a->fabric, e->vmm, CU_MEM_HANDLE_TYPE_FABRIC, 0);
}

static CUresult make_event(struct engine *e, struct answer *a)
{
	CUipcEventHandle h;

	TRY(e->cu.cuEventCreate(&e->event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
	TRY(e->cu.cuIpcGetEventHandle(&h, e->event));
	memcpy(a->event, &h, sizeof(h));
	return e->cu.cuEventRecord(e->event, e->stream);
}

static CUresult obey(struct engine *e, const struct told *t, struct answer *a)
{
	CUipcMemHandle h;

	switch (t->order) {
	case MAKE_ALLOC:
		TRY(e->cu.cuMemAlloc(&e->alloc, BYTES));
		TRY(e->cu.cuIpcGetMemHandle(&h, e->alloc));
		memcpy(a->handle, &h, sizeof(h));
		return 0;
	case FREE_ALLOC:
		return e->cu.cuMemFree(e->alloc);
	case MAKE_VMM:
		return make_vmm(e, a);
	case FREE_VMM:
		close(e->fd);
		return e->cu.cuMemRelease(e->vmm);
	case MAKE_EVENT:
		return make_event(e, a);
	case FILL:
		TRY(e->cu.cuMemsetD8Async(e->alloc, t->value, BYTES, e->stream));
		return e->cu.cuStreamSynchronize(e->stream);
	case PEEK:
		TRY(e->cu.cuMemcpyDtoHAsync(&a->value, e->alloc + BYTES - 1, 1, e->stream));
		return e->cu.cuStreamSynchronize(e->stream);
	}
	return CUDA_ERROR_INVALID_VALUE;
}

static int exporter(void)
{
	struct engine e = {0};
	struct told t;
	CUcontext ctx;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cuda_driver_load(getenv("LMCA_TEST_LIBRARY"), &e.cu, NULL) || e.cu.cuDevicePrimaryCtxRetain(&ctx, 0) ||
	    e.cu.cuCtxSetCurrent(ctx) || e.cu.cuStreamCreateWithPriority(&e.stream, CU_STREAM_NON_BLOCKING, 0))
		return 1;
	while (read(0, &t, sizeof(t)) == sizeof(t)) {
		struct answer a = {.fd = -1};

		a.rc = obey(&e, &t, &a);
		if (write(3, &a, sizeof(a)) != sizeof(a))
			return 1;
	}
	return e.cu.cuStreamDestroy(e.stream) != 0;
}

struct child {
	pid_t pid;
	int in, out;
};

static struct child start_exporter(void)
{
	int in[2], out[2];
	struct child c;

	assert_true(pipe(in) == 0 && pipe(out) == 0);
	c.pid = fork();
	if (c.pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 3);
		for (int fd = 4; fd < 64; fd++)
			close(fd);
		execl("/proc/self/exe", "exporter", (char *)NULL);
		_exit(127);
	}
	assert_true(c.pid > 0);
	close(in[0]);
	close(out[1]);
	c.in = in[1];
	c.out = out[0];
	return c;
}

static struct answer tell(struct child *c, enum order order, uint8_t value)
{
	struct told t;
	struct answer a;

	memset(&t, 0, sizeof(t));
	t.order = order;
	t.value = value;
	assert_int_equal(write(c->in, &t, sizeof(t)), sizeof(t));
	assert_int_equal(read(c->out, &a, sizeof(a)), sizeof(a));
	assert_int_equal(a.rc, 0);
	return a;
}

static void stop(struct child *c, int signal)
{
	close(c->in);
	if (signal)
		kill(c->pid, signal);
	waitpid(c->pid, NULL, 0);
	close(c->out);
}

/* ---- the server ---------------------------------------------------------------------------------------------------------------------- */

static struct gpu_door door;

/* A figure of this process, or of the machine. */
static int64_t figure(const char *name)
{
	static char text[65536];
	void *lib = dlopen(library, RTLD_NOW | RTLD_NOLOAD), *fn = dlsym(lib, "fake_cuda_report");
	int (*report)(char *buf, size_t cap);
	json_t *root, *p, *v;
	int64_t got = -1;
	size_t i;

	memcpy(&report, &fn, sizeof(fn));
	assert_true(fn && report(text, sizeof(text)) > 0);
	root = json_loads(text, 0, NULL);
	assert_non_null(root);
	v = json_object_get(root, name);
	json_array_foreach(json_object_get(root, "processes"), i, p)
	{
		if (json_integer_value(json_object_get(p, "pid")) == getpid() && !v)
			v = json_object_get(p, name);
	}
	got = v ? json_integer_value(v) : -1;
	json_decref(root);
	dlclose(lib);
	return got;
}

static void nothing_left(void)
{
	static const char *const names[] = {"contexts", "imports",      "imported_bytes", "vmm_handles",
					    "vmm_maps", "reservations", "event_imports",  "events"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (figure(names[i]) != 0)
			fail_msg("%s: %lld are left", names[i], (long long)figure(names[i]));
	}
}

static void wrapper_of(struct pk_wrapper *w, const struct answer *a, enum pk_kind kind, uint64_t offset)
{
	*w = (struct pk_wrapper){.kind = kind,
				 .dtype = PK_UINT8,
				 .ndim = 1,
				 .shape = {4096},
				 .stride = {1},
				 .device_uuid = slice_str(door.gpu[0].facts.uuid),
				 .nbytes = 4096,
				 .storage_bytes = 4096};
	if (kind == PK_VMM_CUDA_IPC) {
		w->fabric_blob = slice_of(a->fabric, 64);
		w->export_id = slice_of(a->fabric + 16, 16);
		w->alloc_bytes = BYTES;
		w->has_fd = true;
		w->fd = (uint32_t)a->fd;
	} else {
		w->mem_handle = slice_of(a->handle, 64);
		w->event_handle = slice_of(a->event, 64);
	}
	w->base_offset = w->alloc_offset = offset;
}

static struct gpu_view *must(const struct pk_wrapper *w, pid_t pid)
{
	struct gpu_view *v = NULL;
	struct why why = {0};

	if (gpu_import(&door, w, (uint32_t)pid, &v, &why) != 0)
		fail_msg("refused: %s", why.text);
	return v;
}

static void refused(const struct pk_wrapper *w, pid_t pid, int err, const char *words)
{
	struct gpu_view *v = NULL;
	struct why why = {0};

	assert_int_equal(gpu_import(&door, w, (uint32_t)pid, &v, &why), err);
	if (!strstr(why.text, words))
		fail_msg("'%s' does not say '%s'", why.text, words);
}

/* The view's last byte; writes another there. */
static uint8_t swap(const struct gpu_view *v, uint8_t value)
{
	const struct cuda_driver *cu = door.cu;
	CUdeviceptr at = gpu_view_address(v) + gpu_view_bytes(v) - 1;
	uint8_t was = 0;
	CUstream s;

	assert_int_equal(gpu_enter(&door.gpu[0]), 0);
	assert_int_equal(cu->cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, 0), 0);
	assert_int_equal(cu->cuMemcpyDtoHAsync(&was, at, 1, s), 0);
	assert_int_equal(cu->cuStreamSynchronize(s), 0);
	assert_int_equal(cu->cuMemcpyHtoDAsync(at, &value, 1, s), 0);
	assert_int_equal(cu->cuStreamSynchronize(s), 0);
	assert_int_equal(cu->cuStreamDestroy(s), 0);
	return was;
}

static void test_01_the_same_bytes(void **state)
{
	struct child c = start_exporter();
	struct answer a = tell(&c, MAKE_ALLOC, 0);
	struct pk_wrapper w;
	struct gpu_view *v[2];

	(void)state;
	tell(&c, FILL, 0x5a);
	for (int kind = PK_CUDA_IPC; kind <= PK_RAW_CUDA_IPC; kind++) {
		wrapper_of(&w, &a, (enum pk_kind)kind, BYTES - 4096);
		v[kind - 1] = must(&w, c.pid);
		assert_int_equal(figure("imports"), 1);
	}
	assert_int_equal(swap(v[0], 0xa5), 0x5a);
	assert_int_equal(tell(&c, PEEK, 0).value, 0xa5);
	assert_int_equal(swap(v[1], 1), 0xa5);
	wrapper_of(&w, &a, PK_RAW_CUDA_IPC, BYTES - 4095);
	refused(&w, c.pid, -ERANGE, "into an allocation of 4194304");
	gpu_view_put(v[0]);
	assert_int_equal(figure("imports"), 1);
	gpu_view_put(v[1]);
	nothing_left();
	stop(&c, 0);
}

static void test_02_the_exporter_is_killed(void **state)
{
	struct child c = start_exporter();
	struct answer a = tell(&c, MAKE_ALLOC, 0);
	int64_t before = figure("memories");
	struct pk_wrapper w;
	struct gpu_view *v;

	(void)state;
	tell(&c, FILL, 0x11);
	wrapper_of(&w, &a, PK_CUDA_IPC, 0);
	v = must(&w, c.pid);
	stop(&c, SIGKILL);
	assert_int_equal(swap(v, 0x22), 0x11);
	assert_int_equal(figure("memories"), before); /* we keep it alive */
	gpu_view_put(must(&w, 0));
	gpu_view_put(v);
	assert_int_equal(figure("memories"), before - 1);
	refused(&w, 0, -EACCES, "is gone");
	nothing_left();
}

/* The handle of what was freed is refused, that of what came after it is other memory, also while we hold the first. */
static void test_03_freed_and_made_anew(void **state)
{
	struct child c = start_exporter();
	struct answer a = tell(&c, MAKE_ALLOC, 0), b;
	struct pk_wrapper first, second;
	struct gpu_view *v, *u;

	(void)state;
	tell(&c, FILL, 1);
	wrapper_of(&first, &a, PK_CUDA_IPC, 0);
	v = must(&first, c.pid);
	tell(&c, FREE_ALLOC, 0);
	b = tell(&c, MAKE_ALLOC, 0);
	tell(&c, FILL, 2);
	wrapper_of(&second, &b, PK_CUDA_IPC, 0);
	u = must(&second, c.pid);
	assert_int_equal(swap(v, 3), 1);
	assert_int_equal(swap(u, 4), 2);
	gpu_view_put(v);
	refused(&first, c.pid, -EACCES, "has freed that memory");
	assert_int_equal(swap(u, 5), 4);
	gpu_view_put(u);
	nothing_left();
	stop(&c, 0);
}

static void test_04_our_own_memory(void **state)
{
	const struct cuda_driver *cu = door.cu;
	struct pk_wrapper w;
	struct answer a;
	CUipcMemHandle h;
	CUdeviceptr p;

	(void)state;
	assert_int_equal(gpu_hold(&door.gpu[0], NULL), 0);
	assert_int_equal(cu->cuMemAlloc(&p, BYTES), 0);
	assert_int_equal(cu->cuIpcGetMemHandle(&h, p), 0);
	memcpy(a.handle, &h, sizeof(h));
	wrapper_of(&w, &a, PK_RAW_CUDA_IPC, 0);
	refused(&w, 0, -EACCES, "of this very process");
	assert_int_equal(gpu_enter(&door.gpu[0]), 0);
	assert_int_equal(cu->cuMemFree(p), 0);
	gpu_release(&door.gpu[0]);
	nothing_left();
}

static void test_05_virtual_memory(void **state)
{
	struct child c = start_exporter();
	struct answer a = tell(&c, MAKE_VMM, 0);
	struct pk_wrapper fabric, fd;
	struct gpu_view *v, *u;

	(void)state;
	wrapper_of(&fabric, &a, PK_VMM_CUDA_IPC, BYTES - 4096);
	fabric.vmm_fabric = true;
	wrapper_of(&fd, &a, PK_VMM_CUDA_IPC, BYTES - 4096);
	v = must(&fabric, 0);
	u = must(&fd, c.pid);
	swap(v, 7);
	assert_int_equal(swap(u, 8), 7);
	assert_int_equal(swap(v, 9), 8);
	fd.alloc_bytes *= 2;
	fd.export_id = slice_of(a.fabric, 16); /* not the one that is mapped */
	refused(&fd, c.pid, -ERANGE, "has not the 8388608 bytes");
	fd.alloc_bytes = BYTES + 1;
	refused(&fd, c.pid, -EINVAL, "no allocation has the size");
	gpu_view_put(v);
	/* The memory outlives the exporter. */
	stop(&c, SIGKILL);
	assert_int_equal(swap(u, 10), 9);
	gpu_view_put(u);
	nothing_left(); /* also notices who is dead */
	refused(&fabric, 0, -EACCES, "the fabric handle");
}

static void test_06_the_event_of_a_torch_handle(void **state)
{
	struct child c = start_exporter();
	struct answer a = tell(&c, MAKE_ALLOC, 0), e = tell(&c, MAKE_EVENT, 0);
	struct pk_wrapper w;

	(void)state;
	memcpy(a.event, e.event, sizeof(a.event));
	wrapper_of(&w, &a, PK_CUDA_IPC, 0);
	w.event_sync = true;
	gpu_view_put(must(&w, c.pid));
	a.event[20] ^= 1;
	refused(&w, c.pid, -EACCES, "the event of the memory handle");
	nothing_left();
	stop(&c, 0);
}

/* Engines come, register, and are killed or go: nothing of it is left, here or on the machine. */
static void test_07_a_thousand_cycles(void **state)
{
	struct child c = start_exporter();
	int64_t before;

	(void)state;
	tell(&c, MAKE_ALLOC, 0);
	tell(&c, FREE_ALLOC, 0);
	before = figure("memories");
	log_set_level(LOG_LVL_WARNING);
	for (uint32_t n = 0; n < 1000; n++) {
		struct answer a = tell(&c, MAKE_ALLOC, 0), m = tell(&c, MAKE_VMM, 0);
		struct pk_wrapper w;
		struct gpu_view *v[4];

		for (int i = 0; i < 4; i++) {
			wrapper_of(&w, i < 2 ? &a : &m, i < 2 ? (enum pk_kind)(i + 1) : PK_VMM_CUDA_IPC,
				   (uint64_t)i * 8192);
			w.vmm_fabric = i == 2;
			v[i] = must(&w, c.pid);
		}
		tell(&c, FREE_VMM, 0);
		for (int i = 0; i < 4; i++)
			gpu_view_put(v[(i + n) % 4]);
		tell(&c, FREE_ALLOC, 0);
		if (n % 100 == 99) { /* and a kill in between */
			a = tell(&c, MAKE_ALLOC, 0);
			wrapper_of(&w, &a, PK_CUDA_IPC, 0);
			v[0] = must(&w, c.pid);
			stop(&c, SIGKILL);
			gpu_view_put(v[0]);
			c = start_exporter();
			tell(&c, MAKE_ALLOC, 0);
			tell(&c, FREE_ALLOC, 0);
		}
	}
	nothing_left();
	assert_int_equal(figure("memories"), before);
	stop(&c, 0);
}

static int setup(void **state)
{
	const char *build = getenv("BUILD");

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/lmca-import-test-XXXXXX");
	snprintf(library, sizeof(library), "%s/tests/fake/libcuda.so.1", build ? build : "build");
	if (!mkdtemp(dir) || setenv("LMCA_FAKE_CUDA_DIR", dir, 1) || setenv("LMCA_TEST_LIBRARY", library, 1) ||
	    cuda_driver_load(library, &door.driver, NULL))
		return -1;
	door.cu = &door.driver;
	door.ngpus = 1;
	return gpu_init(&door, 0, NULL);
}

static int teardown(void **state)
{
	char cmd[128];

	(void)state;
	gpu_fini(&door.gpu[0]);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_the_same_bytes),      cmocka_unit_test(test_02_the_exporter_is_killed),
		cmocka_unit_test(test_03_freed_and_made_anew), cmocka_unit_test(test_04_our_own_memory),
		cmocka_unit_test(test_05_virtual_memory),      cmocka_unit_test(test_06_the_event_of_a_torch_handle),
		cmocka_unit_test(test_07_a_thousand_cycles),
	};

	if (argc > 0 && strcmp(argv[0], "exporter") == 0)
		return exporter();
	return cmocka_run_group_tests(tests, setup, teardown);
}
