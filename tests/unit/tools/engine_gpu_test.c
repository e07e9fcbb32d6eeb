/* The engine's GPU memory as another process sees it: what is uploaded must lie where the layout says once the event has happened, and what that
 * process writes there must be what is downloaded. On the test driver, every layout, both wrappers, both forms of events. */
#include "tools/engine_gpu.h"

#include "transport/cuda/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCK  4u
#define BLOCKS 11u
#define USED   3u
#define PICKLE 1024u
#define MODULE "lmcache.v1.platform.cuda.ipc_wrapper"
#define SLOT   48u /* of the other process's timeline */

/* Descriptors that the other process has, too. */
enum { DESK = 100, TO_OTHER, OTHERS_END, FROM_OTHER, OUR_END };

static const struct km_model full = {"f", "f", 3, 2, 2, 8, BLOCK, 1, 1, 1, PK_BFLOAT16, 0};
static const struct km_model mla = {"m", "m", 3, 1, 1, 24, BLOCK, 1, 1, 1, PK_BFLOAT16, 0};
static const uint32_t blocks[USED] = {7, 2, 9}, elsewhere[USED] = {1, 10, 4};

/* Between the engine and the other process: memory of both. */
struct desk {
	uint32_t format;
	uint8_t pickle[KM_MAX_TENSORS][PICKLE], event[96], answer[96];
	size_t npickle[KM_MAX_TENSORS], nevent, nanswer;
	uint64_t wrong; /* runs that the other process found wrong */
	char trouble[256];
};

static struct desk *desk;
static pid_t other;
static char library[512], machine[] = "/dev/shm/lmca-engine-gpu-XXXXXX";

static uint64_t chain_at(uint32_t block, uint32_t t)
{
	return 1000u * block + t + 1;
}

static void chain_of(uint32_t salt, uint64_t out[BLOCK])
{
	for (uint32_t t = 0; t < BLOCK; t++)
		out[t] = chain_at(salt, t);
}

static void place_of(uint32_t format, struct km_place *p)
{
	struct why why = {0};
	if (km_place_init(p, km_format(format)->mla ? &mla : &full, format, BLOCK, BLOCKS, &why))
		abort();
}

/* ---- the other process: an importer as the server is one, by the driver alone -------------------------------------------- */

struct importer {
	struct cuda_driver cu;
	CUcontext ctx;
	CUstream stream;
	struct km_place place;
	CUipcMemHandle opened[KM_MAX_TENSORS];
	CUdeviceptr base[KM_MAX_TENSORS], tensor[KM_MAX_TENSORS];
	uint32_t nopened;
	uint8_t *copy[KM_MAX_TENSORS];
	CUevent event;
	CUdeviceptr slots;
};

#define MUST(call)                                                                                                  \
	do {                                                                                                        \
		CUresult must_rc = (call);                                                                          \
		if (must_rc) {                                                                                      \
			snprintf(desk->trouble, sizeof(desk->trouble), "line %d: %d %s", __LINE__, must_rc, #call); \
			return;                                                                                     \
		}                                                                                                   \
	} while (0)

static CUdeviceptr open_once(struct importer *im, const void *handle)
{
	CUipcMemHandle h;
	for (uint32_t i = 0; i < im->nopened; i++)
		if (memcmp(&im->opened[i], handle, 64) == 0)
			return im->base[i];
	memcpy(&h, handle, 64);
	if (im->cu.cuIpcOpenMemHandle(&im->base[im->nopened], h, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS))
		return 0;
	im->opened[im->nopened] = h;
	return im->base[im->nopened++];
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static void wait_for_engine(struct importer *im)
{
	CUipcEventHandle h;
	CUevent event;
	if (desk->nevent == 81) {
		CUdeviceptr theirs = open_once(im, desk->event + 1);
		MUST(im->cu.cuStreamWaitValue64(im->stream, theirs + be64(desk->event + 65), be64(desk->event + 73),
						CU_STREAM_WAIT_VALUE_GEQ));
		return;
	}
	memcpy(&h, desk->event, sizeof(h));
	MUST(im->cu.cuIpcOpenEventHandle(&event, h));
	MUST(im->cu.cuStreamWaitEvent(im->stream, event, 0));
	MUST(im->cu.cuEventDestroy(event));
}

static void answer(struct importer *im)
{
	CUipcMemHandle m;
	if (desk->nevent == 81) {
		MUST(im->cu.cuMemAlloc(&im->slots, 2 << 20));
		MUST(im->cu.cuMemsetD8Async(im->slots, 0, 2 << 20, im->stream));
		MUST(im->cu.cuStreamWriteValue64(im->stream, im->slots + SLOT, 77, CU_STREAM_WRITE_VALUE_DEFAULT));
		MUST(im->cu.cuIpcGetMemHandle(&m, im->slots));
		memset(desk->answer, 0, 81);
		desk->answer[0] = 1;
		memcpy(desk->answer + 1, &m, 64);
		desk->answer[72] = SLOT;
		desk->answer[80] = 77;
		desk->nanswer = 81;
		return;
	}
	CUipcEventHandle h;
	MUST(im->cu.cuEventCreate(&im->event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	MUST(im->cu.cuEventRecord(im->event, im->stream));
	MUST(im->cu.cuIpcGetEventHandle(&h, im->event));
	memcpy(desk->answer, &h, sizeof(h));
	desk->nanswer = sizeof(h);
}

static void import(struct importer *im)
{
	struct pk_mem *mem;
	struct why why = {0};
	if (pk_mem_create(&mem))
		abort();
	for (uint32_t i = 0; i < im->place.ntensors; i++) {
		struct pk_wrapper w;
		if (pk_wrapper_parse(slice_of(desk->pickle[i], desk->npickle[i]), mem, &w, &why)) {
			snprintf(desk->trouble, sizeof(desk->trouble), "%.250s", why.text);
			break;
		}
		im->tensor[i] = open_once(im, w.mem_handle.p);
		im->tensor[i] += w.kind == PK_CUDA_IPC ? w.base_offset : w.alloc_offset;
		im->copy[i] = calloc(1, im->place.tensor_bytes);
	}
	pk_mem_destroy(mem);
}

static void use_pages(struct importer *im)
{
	uint64_t chain[BLOCK];
	wait_for_engine(im);
	for (uint32_t i = 0; i < im->place.ntensors; i++)
		MUST(im->cu.cuMemcpyDtoHAsync(im->copy[i], im->tensor[i], im->place.tensor_bytes, im->stream));
	MUST(im->cu.cuStreamSynchronize(im->stream));
	for (uint32_t b = 0; b < USED; b++) {
		chain_of(b, chain);
		desk->wrong += km_check(&im->place, im->copy, blocks[b], chain, 0);
		chain_of(100 + b, chain);
		km_write(&im->place, im->copy, elsewhere[b], chain, 0);
	}
	for (uint32_t i = 0; i < im->place.ntensors; i++)
		MUST(im->cu.cuMemcpyHtoDAsync(im->tensor[i], im->copy[i], im->place.tensor_bytes, im->stream));
	answer(im);
}

static void be_the_other(void)
{
	char c;
	struct importer im = {.nopened = 0};
	struct why why = {0};
	CUdevice device;
	if (read(OTHERS_END, &c, 1) != 1 || c != 'g')
		_exit(0);
	place_of(desk->format, &im.place);
	if (cuda_driver_load(library, &im.cu, &why) || im.cu.cuDeviceGet(&device, 0) ||
	    im.cu.cuDevicePrimaryCtxRetain(&im.ctx, device) || im.cu.cuCtxSetCurrent(im.ctx) ||
	    im.cu.cuStreamCreateWithPriority(&im.stream, CU_STREAM_NON_BLOCKING, 0))
		snprintf(desk->trouble, sizeof(desk->trouble), "no GPU: %.200s", why.text);
	if (!desk->trouble[0])
		import(&im);
	if (!desk->trouble[0])
		use_pages(&im);
	if (write(FROM_OTHER, "a", 1) != 1 || read(OTHERS_END, &c, 1) != 1) /* the event lives until it was used */
		_exit(1);
	if (im.stream)
		im.cu.cuStreamSynchronize(im.stream);
	for (uint32_t i = 0; i < im.nopened; i++)
		im.cu.cuIpcCloseMemHandle(im.base[i]);
	_exit(0);
}

static void make_pipe(int read_end, int write_end)
{
	int fd[2];
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(dup2(fd[0], read_end), read_end);
	assert_int_equal(dup2(fd[1], write_end), write_end);
	close(fd[0]);
	close(fd[1]);
}

static void other_start(void)
{
	memset(desk, 0, sizeof(*desk));
	make_pipe(OTHERS_END, TO_OTHER);
	make_pipe(OUR_END, FROM_OTHER);
	other = fork();
	assert_true(other >= 0);
	if (other == 0) {
		close(TO_OTHER);
		close(OUR_END);
		execl("/proc/self/exe", "other", "other", (char *)NULL);
		_exit(127);
	}
	close(OTHERS_END);
	close(FROM_OTHER);
}

static void other_end(void)
{
	int status;
	assert_int_equal(write(TO_OTHER, "e", 1), 1);
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	close(TO_OTHER);
	close(OUR_END);
}

/* ---- the engine ------------------------------------------------------------------------------------------------------------- */

static void export_all(struct egpu *g, const struct km_place *p)
{
	for (uint32_t i = 0; i < p->ntensors; i++) {
		struct pk_wrapper w;
		egpu_wrap(g, i, &w);
		ssize_t n = pk_wrapper_emit_cuda(&w, MODULE, desk->pickle[i], PICKLE);
		assert_true(n > 0);
		desk->npickle[i] = (size_t)n;
	}
}

static void round_trip(struct egpu *g, const struct km_place *p)
{
	uint8_t *bases[KM_MAX_TENSORS];
	uint64_t chain[BLOCK];
	struct why why = {0};
	struct slice event;
	char c;
	const struct km_place *window = egpu_window(g);
	for (uint32_t i = 0; i < p->ntensors; i++)
		bases[i] = egpu_window_tensor(g, i);
	for (uint32_t b = 0; b < USED; b++) {
		chain_of(b, chain);
		km_write(window, bases, b, chain, 0);
	}
	assert_int_equal(egpu_upload(g, 0, blocks, 0, 1, &why), 0);
	assert_int_equal(egpu_upload(g, 0, blocks, 1, USED - 1, &why), 0);
	assert_int_equal(egpu_record(g, &event, &why), 0);
	memcpy(desk->event, event.p, event.n);
	desk->nevent = event.n;
	assert_int_equal(write(TO_OTHER, "g", 1), 1);
	assert_int_equal(read(OUR_END, &c, 1), 1);
	assert_string_equal(desk->trouble, "");
	assert_int_equal(desk->wrong, 0);
	if (egpu_await(g, slice_of(desk->answer, desk->nanswer), &why))
		fail_msg("%s", why.text);
	for (uint32_t i = 0; i < p->ntensors; i++)
		memset(bases[i], 0, window->tensor_bytes);
	assert_int_equal(egpu_download(g, 0, elsewhere, 0, USED, &why), 0);
	for (uint32_t b = 0; b < USED; b++) {
		chain_of(100 + b, chain);
		assert_int_equal(km_check(window, bases, b, chain, 0), 0);
		chain_of(101 + b, chain);
		assert_int_not_equal(km_check(window, bases, b, chain, 0), 0);
	}
}

static void one_case(uint32_t format, enum egpu_wrapper wrapper, enum egpu_events events)
{
	const struct egpu_conf conf = {
		.library = library, .ordinal = 0, .workers = 1, .wrapper = wrapper, .events = events};
	struct egpu_host *h;
	struct egpu *g;
	struct km_place p;
	struct why why = {0};
	uint64_t counters, kept;
	other_start();
	place_of(format, &p);
	if (egpu_host_open(&conf, &h, &why) || egpu_open(h, &p, USED, &g, &why))
		fail_msg("%s", why.text);
	desk->format = format;
	export_all(g, &p);
	round_trip(g, &p);
	assert_int_equal(egpu_download(g, 0, elsewhere, 1, USED, &why), -EINVAL); /* more than the window has */
	other_end();
	egpu_close(g, false);
	egpu_host_counters(h, &counters, &kept);
	assert_int_equal(counters + kept, 0);
	egpu_host_close(h);
}

static void t01_every_layout(void **state)
{
	(void)state;
	for (uint32_t f = 0; f < KV_FORMAT_COUNT; f++)
		one_case(f, f % 2 ? EGPU_RAW : EGPU_TORCH, EGPU_EVENT);
}

static void t02_timelines(void **state)
{
	(void)state;
	one_case(KV_NB_NL_TWO_BS_NH_HS, EGPU_RAW, EGPU_TIMELINE);
	one_case(KV_NL_X_TWO_NB_NH_BS_HS, EGPU_TORCH, EGPU_TIMELINE);
}

/* A server that had the memory and does not take its count back is found out; one that does is not. */
static void t03_counters(void **state)
{
	const struct egpu_conf conf = {.library = library, .ordinal = -1, .workers = 4};
	struct egpu_host *h;
	struct egpu *g[2];
	struct km_place p;
	struct pk_wrapper w;
	struct why why = {0};
	uint64_t counters, kept;
	char name[64];
	(void)state;
	place_of(KV_NL_X_TWO_NB_BS_NH_HS, &p);
	assert_int_equal(egpu_host_open(&conf, &h, &why), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(egpu_open(h, &p, 0, &g[i], &why), 0);
	for (uint32_t i = 0; i < p.ntensors; i++) {
		egpu_wrap(g[0], i, &w);
		snprintf(name, sizeof(name), "%.*s", SLICE_FMT(w.refcount_name));
		int fd = shm_open(name, O_RDWR, 0);
		assert_true(fd >= 0);
		int64_t one = 0;
		off_t at = 64 + 8 * (off_t)w.refcount_index;
		assert_int_equal(pread(fd, &one, 8, at), 8);
		assert_int_equal(one, 1);
		one = 0;
		assert_int_equal(pwrite(fd, &one, 8, at), 8);
		close(fd);
	}
	egpu_close(g[0], true);
	egpu_host_counters(h, &counters, &kept);
	assert_int_equal(counters, p.ntensors);
	assert_int_equal(kept, 0);
	egpu_close(g[1], true);
	egpu_host_counters(h, &counters, &kept);
	assert_int_equal(counters, 2 * p.ntensors);
	assert_int_equal(kept, p.ntensors);
	assert_int_equal(shm_open(name, O_RDWR, 0), -1);
	egpu_host_close(h);
}

static void t04_refused(void **state)
{
	struct egpu_conf conf = {.library = "/nonexistent/libcuda.so.1", .ordinal = 0, .workers = 1};
	struct egpu_host *h;
	struct egpu *g;
	struct km_place p;
	struct why why = {0};
	double to = 0, from = 0;
	char text[128];
	(void)state;
	assert_int_equal(egpu_host_open(&conf, &h, &why), -ENOENT);
	conf.library = library;
	conf.ordinal = 2;
	assert_int_equal(egpu_host_open(&conf, &h, &why), -ENODEV);
	assert_non_null(strstr(why.text, "there is no GPU 2: the driver sees 2"));
	conf.ordinal = 1;
	assert_int_equal(egpu_host_open(&conf, &h, &why), 0);
	egpu_host_describe(h, text, sizeof(text));
	assert_int_equal(strncmp(text, "cuda:1 ", 7), 0);
	assert_int_equal(egpu_host_limit(h, &to, &from, &why), 0);
	assert_true(to > 0 && from > 0);
	place_of(KV_NL_X_TWO_NB_BS_NH_HS, &p);
	assert_int_equal(egpu_open(h, &p, 0, &g, &why), 0);
	assert_int_equal(egpu_await(g, slice_str("stub_ipc_handle"), &why), -EPROTO);
	egpu_close(g, false);
	struct km_place huge;
	assert_int_equal(km_place_init(&huge, &full, KV_NL_X_TWO_NB_BS_NH_HS, BLOCK, 1ull << 26, &why), 0);
	assert_int_equal(egpu_open(h, &huge, 0, &g, &why), -ENOMEM);
	assert_non_null(strstr(why.text, "cuMemAlloc on GPU 1: CUDA_ERROR_OUT_OF_MEMORY"));
	egpu_host_close(h);
}

static void set_library(void)
{
	char self[256] = "", *unit;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n < 0 ? 0 : n] = '\0';
	unit = strstr(self, "/unit/");
	if (!unit)
		abort();
	snprintf(library, sizeof(library), "%.*s/fake/libcuda.so.1", (int)(unit - self), self);
}

static struct desk *map_desk(int fd)
{
	void *p = mmap(NULL, sizeof(struct desk), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	return p;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_every_layout),
		cmocka_unit_test(t02_timelines),
		cmocka_unit_test(t03_counters),
		cmocka_unit_test(t04_refused),
	};
	set_library();
	if (argc > 1) {
		desk = map_desk(DESK);
		be_the_other();
	}
	(void)argv;
	int fd = memfd_create("desk", 0);
	if (fd < 0 || ftruncate(fd, sizeof(struct desk)) || dup2(fd, DESK) != DESK || !mkdtemp(machine))
		abort();
	close(fd);
	desk = map_desk(DESK);
	setenv("LMCA_FAKE_CUDA_DIR", machine, 1);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(library, sizeof(library), "rm -rf %s", machine);
	return system(library) ? 1 : failed;
}
