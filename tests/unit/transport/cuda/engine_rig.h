/* engine_rig.h - an engine in another process, for tests of the whole door on the test driver.
 *
 * The program starts itself again as the engine, which does what it is told through a pipe: shares its KV, its events and its timelines,
 * writes and reads its memory. Here is also the server's side: a door, an engine registered there, copies. Included by one test file
 * per binary, hence the static functions.
 */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_ENGINE_RIG_H
#define TESTS_UNIT_TRANSPORT_CUDA_ENGINE_RIG_H

#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define LAYERS      2u
#define BLOCKS      32u
#define BLOCK       16u /* tokens */
#define CHUNK       64u
#define CHUNKS      3u
#define LAYER_BYTES (2u * BLOCKS * BLOCK * 2 * 64 * 2)
#define KV_BYTES    (4u << 20)
#define OBJECT      (2u * LAYERS * CHUNK * 2 * 64 * 2)
#define ARENA       (1u << 20)
#define READ        (arena + ARENA / 2) /* retrieves have slots and blocks of their own: they may run beside stores */

static char library[512], dir[64];
static uint8_t *arena;

/* ---- the engine --------------------------------------------------------------------------------------------------------------- */

enum order { MAKE_KV, MAKE_EVENT, MAKE_TIMELINE, WRITE, FILL, PEEK, AWAIT };
struct told {
	enum order order;
	uint32_t at, n;
	uint8_t value, handle[GPU_EVENT_MAX];
};
struct answer {
	CUresult rc;
	uint8_t handle[64], value;
};

struct engine {
	struct cuda_driver cu;
	CUstream stream;
	CUdeviceptr kv, timeline, ours;
};

#define TRY(call)                        \
	do {                             \
		CUresult try_rc_ = call; \
		if (try_rc_)             \
			return try_rc_;  \
	} while (0)

static CUresult share(struct engine *e, CUdeviceptr *p, size_t bytes, struct answer *a)
{
	CUipcMemHandle h;

	TRY(e->cu.cuMemAlloc(p, bytes));
	TRY(e->cu.cuMemsetD8Async(*p, 0, bytes, e->stream));
	TRY(e->cu.cuIpcGetMemHandle(&h, *p));
	memcpy(a->handle, &h, sizeof(h));
	return e->cu.cuStreamSynchronize(e->stream);
}

static CUresult make_event(struct engine *e, struct answer *a)
{
	CUipcEventHandle h;
	CUevent event;

	TRY(e->cu.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
	TRY(e->cu.cuIpcGetEventHandle(&h, event));
	memcpy(a->handle, &h, sizeof(h));
	return e->cu.cuEventRecord(event, e->stream);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

/* As engines wait for the event of a reply. */
static CUresult await(struct engine *e, const struct told *t)
{
	CUipcEventHandle h;
	CUipcMemHandle m;
	CUevent event;

	if (t->n == GPU_EVENT) {
		memcpy(&h, t->handle, sizeof(h));
		TRY(e->cu.cuIpcOpenEventHandle(&event, h));
		TRY(e->cu.cuStreamWaitEvent(e->stream, event, 0));
		TRY(e->cu.cuStreamSynchronize(e->stream));
		return e->cu.cuEventDestroy(event);
	}
	memcpy(&m, t->handle + 1, sizeof(m));
	if (!e->ours)
		TRY(e->cu.cuIpcOpenMemHandle(&e->ours, m, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
	TRY(e->cu.cuStreamWaitValue64(e->stream, e->ours + be64(t->handle + 65), be64(t->handle + 73),
				      CU_STREAM_WAIT_VALUE_GEQ));
	return e->cu.cuStreamSynchronize(e->stream);
}

static CUresult obey(struct engine *e, const struct told *t, struct answer *a)
{
	switch (t->order) {
	case MAKE_KV:
		return share(e, &e->kv, KV_BYTES, a);
	case MAKE_TIMELINE:
		return share(e, &e->timeline, 2u << 20, a);
	case MAKE_EVENT:
		return make_event(e, a);
	case WRITE:
		return e->cu.cuStreamWriteValue64(e->stream, e->timeline + t->at, t->n, 0);
	case FILL:
		TRY(e->cu.cuMemsetD8Async(e->kv, t->value, KV_BYTES, e->stream));
		return e->cu.cuStreamSynchronize(e->stream);
	case PEEK:
		TRY(e->cu.cuMemcpyDtoHAsync(&a->value, e->kv + t->at, 1, e->stream));
		return e->cu.cuStreamSynchronize(e->stream);
	case AWAIT:
		return await(e, t);
	}
	return CUDA_ERROR_INVALID_VALUE;
}

static int engine_main(void)
{
	static struct engine e;
	struct told t;
	CUcontext ctx;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cuda_driver_load(getenv("LMCA_TEST_LIBRARY"), &e.cu, NULL) || e.cu.cuDevicePrimaryCtxRetain(&ctx, 0) ||
	    e.cu.cuCtxSetCurrent(ctx) || e.cu.cuStreamCreateWithPriority(&e.stream, CU_STREAM_NON_BLOCKING, 0))
		return 1;
	while (read(0, &t, sizeof(t)) == sizeof(t)) {
		struct answer a = {0};

		a.rc = obey(&e, &t, &a);
		if (write(3, &a, sizeof(a)) != sizeof(a))
			return 1;
	}
	return 0;
}

struct child {
	pid_t pid;
	int in, out;
	uint8_t kv[64];
};

static struct answer tell(struct child *c, struct told t)
{
	struct answer a = {0};

	assert_int_equal(write(c->in, &t, sizeof(t)), sizeof(t));
	assert_int_equal(read(c->out, &a, sizeof(a)), sizeof(a));
	assert_int_equal(a.rc, 0);
	return a;
}

static struct child start_engine(void)
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
		execl("/proc/self/exe", "engine", (char *)NULL);
		_exit(127);
	}
	assert_true(c.pid > 0);
	close(in[0]);
	close(out[1]);
	c.in = in[1];
	c.out = out[0];
	memcpy(c.kv, tell(&c, (struct told){.order = MAKE_KV}).handle, 64);
	return c;
}

static void stop_engine(struct child *c, int signal)
{
	close(c->in);
	if (signal)
		kill(c->pid, signal);
	waitpid(c->pid, NULL, 0);
	close(c->out);
}

/* ---- the test driver's controls -------------------------------------------------------------------------------------------------- */

static void *hidden(const char *name)
{
	void *lib = dlopen(library, RTLD_NOW | RTLD_NOLOAD), *fn = lib ? dlsym(lib, name) : NULL;

	assert_non_null(fn);
	dlclose(lib);
	return fn;
}

static void control(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void control(const char *fmt, ...)
{
	void *fn = hidden("fake_cuda_control");
	int (*f)(const char *commands);
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	memcpy(&f, &fn, sizeof fn);
	assert_int_equal(f(text), 0);
}

/* What this process has of the driver, all in one line. */
static void figures(char *out, size_t cap)
{
	static const char *const names[] = {"contexts",           "allocations", "allocated_bytes", "imports",
					    "imported_bytes",     "streams",     "events",          "event_imports",
					    "host_registrations", "modules",     "host_bytes"};
	static char text[65536];
	void *fn = hidden("fake_cuda_report");
	int (*report)(char *buf, size_t size);
	json_t *root, *p;
	size_t i, n = 0;

	memcpy(&report, &fn, sizeof fn);
	assert_true(report(text, sizeof text) > 0);
	root = json_loads(text, 0, NULL);
	assert_non_null(root);
	*out = 0;
	json_array_foreach(json_object_get(root, "processes"), i, p)
	{
		if (json_integer_value(json_object_get(p, "pid")) != getpid())
			continue;
		for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
			assert_non_null(json_object_get(p, names[k]));
			n += (size_t)snprintf(out + n, cap - n, "%s %lld, ", names[k],
					      (long long)json_integer_value(json_object_get(p, names[k])));
		}
	}
	json_decref(root);
}

static void nothing_left(void)
{
	char now[500] = "";

	for (int i = 0; i < 2000; i++) { /* the arena is unregistered in the background */
		figures(now, sizeof now);
		if (!strpbrk(now, "123456789"))
			return;
		usleep(1000);
	}
	fail_msg("left: %s", now);
}

/* ---- the server -------------------------------------------------------------------------------------------------------------------- */

static struct gpu_door *door(enum gpu_path path)
{
	struct gpu_memory memory = {.base = arena, .bytes = ARENA};
	struct gpu_conf conf = {
		.library = library, .memory = &memory, .nmemory = 1, .path = path, .slice_bytes = ARENA / 4};
	struct gpu_door *d = NULL;
	struct why why = {0};

	if (gpu_door_open(&conf, &d, &why))
		fail_msg("%s", why.text);
	return d;
}

static struct kv_layout *layout_of(struct gpu_view **views)
{
	struct kv_tensor t[LAYERS];
	struct kv_layout_in in = {
		.engine_type = slice_str("vllm"), .tensors = t, .ntensors = LAYERS, .chunk_tokens = CHUNK};
	struct kv_layout *l = NULL;
	struct why why = {0};

	for (uint32_t i = 0; i < LAYERS; i++)
		t[i] = (struct kv_tensor){.base = (uint8_t *)(uintptr_t)gpu_view_address(views[i]),
					  .bytes = LAYER_BYTES,
					  .element_size = 2,
					  .dtype = PK_BFLOAT16,
					  .ndim = 5,
					  .shape = {2, BLOCKS, BLOCK, 2, 64},
					  .stride = {BLOCKS * BLOCK * 128, BLOCK * 128, 128, 64, 1}};
	if (kv_layout_create(&in, &l, &why))
		fail_msg("%s", why.text);
	assert_int_equal(kv_object_bytes(l), OBJECT);
	return l;
}

struct served {
	struct gpu_engine *engine;
	struct kv_layout *layout;
	_Atomic int gone;
};

static void went(void *arg)
{
	struct served *s = arg;

	atomic_store(&s->gone, 1);
}

/* 0, or what refused it: nothing of it is left then. */
static int serve(struct gpu_door *d, const struct child *c, struct served *s, struct why *why)
{
	struct gpu_view *v[LAYERS] = {0};
	int rc = 0;

	*s = (struct served){0};
	for (uint32_t i = 0; !rc && i < LAYERS; i++) {
		struct pk_wrapper w = {.kind = PK_RAW_CUDA_IPC,
				       .dtype = PK_BFLOAT16,
				       .ndim = 5,
				       .shape = {2, BLOCKS, BLOCK, 2, 64},
				       .stride = {BLOCKS * BLOCK * 128, BLOCK * 128, 128, 64, 1},
				       .device_uuid = slice_str(d->gpu[0].facts.uuid),
				       .mem_handle = slice_of(c->kv, 64),
				       .alloc_offset = i * LAYER_BYTES,
				       .nbytes = LAYER_BYTES};

		rc = gpu_import(d, &w, (uint32_t)c->pid, &v[i], why);
	}
	if (rc) {
		for (uint32_t i = 0; i < LAYERS; i++)
			gpu_view_put(v[i]);
		return rc;
	}
	s->layout = layout_of(v);
	rc = gpu_engine_create(d, s->layout, v, LAYERS, &s->engine, why);
	if (rc)
		kv_layout_destroy(s->layout);
	return rc;
}

static void must_serve(struct gpu_door *d, const struct child *c, struct served *s)
{
	struct why why = {0};

	if (serve(d, c, s, &why))
		fail_msg("%s", why.text);
}

static void wait_gone(struct served *s, uint32_t ms)
{
	uint64_t until = clock_ms() + ms;

	while (!atomic_load(&s->gone)) {
		if (clock_ms() > until)
			fail_msg("the engine is not gone after %u ms", ms);
		usleep(200);
	}
	kv_layout_destroy(s->layout);
}

static void leave(struct served *s)
{
	gpu_engine_put(s->engine, went, s);
	wait_gone(s, 5000);
}

struct job {
	struct gpu_copy c;
	struct kv_blocks blocks;
	uint32_t ids[CHUNKS * CHUNK / BLOCK];
	uint8_t *slots[CHUNKS];
	uint8_t event[GPU_EVENT_MAX], reply[GPU_EVENT_MAX];
	_Atomic int submitted, done, rc;
	uint32_t reply_bytes;
};

static void on_submitted(struct gpu_copy *c, int rc, const uint8_t *event, uint32_t bytes)
{
	struct job *j = c->owner;

	if (!rc)
		memcpy(j->reply, event, bytes);
	j->reply_bytes = bytes;
	atomic_fetch_add(&j->submitted, 1);
}

static void on_done(struct gpu_copy *c, int rc)
{
	struct job *j = c->owner;

	atomic_store(&j->rc, rc);
	atomic_fetch_add(&j->done, 1);
}

static int submit(struct served *s, struct job *j, bool store, const uint8_t *event, uint32_t bytes)
{
	memset(j, 0, sizeof *j);
	for (uint32_t i = 0; i < sizeof j->ids / sizeof j->ids[0]; i++)
		j->ids[i] = (store ? BLOCKS : BLOCKS / 2) - 1 - i;
	for (uint32_t i = 0; i < CHUNKS; i++)
		j->slots[i] = (store ? arena : READ) + i * OBJECT;
	j->blocks = (struct kv_blocks){j->ids, sizeof j->ids / sizeof j->ids[0]};
	if (bytes)
		memcpy(j->event, event, bytes);
	j->c = (struct gpu_copy){.engine = s->engine,
				 .store = store,
				 .nchunks = CHUNKS,
				 .blocks = &j->blocks,
				 .ngroups = 1,
				 .slots = j->slots,
				 .event = slice_of(j->event, bytes),
				 .submitted = on_submitted,
				 .done = on_done,
				 .owner = j};
	return gpu_submit(&j->c);
}

#define wait_for(flag)                                            \
	do {                                                      \
		uint64_t until_ = clock_ms() + 10000;             \
		while (!atomic_load(flag) && clock_ms() < until_) \
			usleep(100);                              \
		assert_true(atomic_load(flag));                   \
	} while (0)

static bool all_are(uint8_t value)
{
	for (uint32_t i = 0; i < CHUNKS * OBJECT; i++)
		if (arena[i] != value)
			return false;
	return true;
}

/* Of what a retrieve writes: the last token's block is the one with the lowest id. */
static uint32_t last_byte(void)
{
	return (BLOCKS / 2 - CHUNKS * CHUNK / BLOCK + 1) * BLOCK * 256 - 1;
}

/* ---- a group's setup and teardown: the test driver finds its machine once per process ------------------------------------------------ */

static int machine(void **state)
{
	ssize_t n = readlink("/proc/self/exe", library, sizeof(library) - 64);
	char *tests;

	(void)state;
	library[n > 0 ? n : 0] = 0;
	tests = strstr(library, "/tests/unit/");
	if (!tests)
		return -1;
	snprintf(tests, 64, "/tests/fake/libcuda.so.1");
	snprintf(dir, sizeof dir, "/dev/shm/lmca-engine-test-XXXXXX");
	arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	log_set_level(LOG_LVL_ERROR);
	setenv("LMCA_FAKE_CUDA_DEAD_STUCK", "1", 1); /* events of a killed engine never come */
	return mkdtemp(dir) && arena != MAP_FAILED && !setenv("LMCA_FAKE_CUDA_DIR", dir, 1)
		       ? setenv("LMCA_TEST_LIBRARY", library, 1)
		       : -1;
}

static int no_machine(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

#endif
