/* Two processes: memory, events, values and virtual memory between them, and what a death leaves. */
#include "tests/unit/fake/libcuda/fake_test.h"

#include <sys/socket.h>

#define MB 1048576u

/* ---- the peer ------------------------------------------------------------------------------------------------------------------ */

struct offer {
	CUipcMemHandle memory, small;
	CUipcEventHandle event;
	CUmemFabricHandle fabric;
	CUdeviceptr address;
	int fd; /* of virtual memory, in the peer */
};

struct exporter {
	CUdeviceptr p, small;
	CUstream s;
	CUevent e;
	struct offer o;
};

static void offer_vmm(struct offer *o)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
				    .requestedHandleTypes = (CUmemAllocationHandleType)9,
				    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
	CUmemAccessDesc who = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle h;
	CUdeviceptr va;

	MUST(cuMemCreate(&h, 2 * MB, &prop, 0));
	MUST(cuMemAddressReserve(&va, 2 * MB, 0, 0, 0));
	MUST(cuMemMap(va, 2 * MB, 0, h, 0));
	MUST(cuMemSetAccess(va, 2 * MB, &who, 1));
	MUST(cuMemsetD8(va, 0x77, 2 * MB));
	MUST(cuMemExportToShareableHandle(&o->fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	MUST(cuMemExportToShareableHandle(&o->fabric, h, CU_MEM_HANDLE_TYPE_FABRIC, 0));
}

static int64_t answer(struct exporter *x, char command, uint64_t value)
{
	unsigned char b = 0;
	char text[64];
	CUdeviceptr p;

	switch (command) {
	case 'f': /* free the big one */
		return cu.cuMemFree(x->p);
	case 'a': /* allocate again, most likely at the same address */
		MUST(cuMemAlloc(&x->p, MB));
		return cu.cuIpcGetMemHandle(&x->o.memory, x->p) || (peer_tell(&x->o.memory, 64), x->p != x->o.address);
	case 'r': /* write all of it, then record */
		MUST(cuMemsetD8Async(x->p, (unsigned char)value, MB, x->s));
		return cu.cuEventRecord(x->e, x->s);
	case 'd':
		return cu.cuEventDestroy(x->e);
	case 'b': /* a byte of it */
		MUST(cuMemcpyDtoH(&b, x->p + value, 1));
		return b;
	case 'w': /* write a value that somebody waits for */
		return cu.cuStreamWriteValue64(x->s, x->small + 8, value, 0);
	case 'o': /* one's own handle */
		return cu.cuIpcOpenMemHandle(&p, x->o.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	case 't': /* nothing of this process begins any more */
		snprintf(text, sizeof(text), "stick gpu=0 pid=%d", (int)getpid());
		return cu.control(text);
	default:
		return -1;
	}
}

static int run_exporter(void)
{
	unsigned char *h = malloc(MB);
	struct exporter x = {0};
	uint64_t m[2];

	peer_context(0);
	fake_fill(h, MB, 42);
	MUST(cuMemAlloc(&x.p, MB));
	MUST(cuMemAlloc(&x.small, 64));
	MUST(cuMemcpyHtoD(x.p, h, MB));
	MUST(cuMemsetD8(x.small, 0, 64));
	MUST(cuStreamCreate(&x.s, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&x.e, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
	MUST(cuIpcGetMemHandle(&x.o.memory, x.p));
	MUST(cuIpcGetMemHandle(&x.o.small, x.small));
	MUST(cuIpcGetEventHandle(&x.o.event, x.e));
	x.o.address = x.p;
	offer_vmm(&x.o);
	peer_tell(&x.o, sizeof(x.o));
	while (fd_read(3, m, sizeof(m))) {
		int64_t a = answer(&x, (char)m[0], m[1]);

		peer_tell(&a, sizeof(a));
	}
	free(h);
	return 0;
}

/* Of a process that was told to be as newer drivers are: the same address for the same handle, counted. */
static int run_reopener(bool hidden)
{
	CUipcMemHandle h;
	CUdeviceptr a = 0, b = 0;

	if (!fd_read(3, &h, sizeof(h)))
		return 1;
	peer_context(0);
	if (hidden)
		return cu.cuIpcOpenMemHandle(&a, h, 1) == CUDA_ERROR_INVALID_DEVICE ? 0 : 4;
	MUST(cuIpcOpenMemHandle(&a, h, 1));
	MUST(cuIpcOpenMemHandle(&b, h, 1));
	if (a != b)
		return 2;
	MUST(cuIpcCloseMemHandle(a));
	MUST(cuMemsetD8(b, 1, MB));
	MUST(cuIpcCloseMemHandle(b));
	return cu.cuMemsetD8(b, 1, MB) == CUDA_ERROR_INVALID_VALUE ? 0 : 3;
}

/* Waits for an event and tells how long that lasts: at most 200 ms. */
static int run_waiter(void)
{
	CUipcEventHandle h;
	CUstream s;
	CUevent e;
	int64_t rc = 0;
	uint64_t m[2];

	if (!fd_read(3, &h, sizeof(h)))
		return 1;
	peer_context(0);
	MUST(cuStreamCreate(&s, 1));
	MUST(cuIpcOpenEventHandle(&e, h));
	MUST(cuStreamWaitEvent(s, e, 0));
	peer_tell(&rc, sizeof(rc));
	if (!fd_read(3, m, sizeof(m)))
		return 1;
	fake_sleep_ms(200);
	cu.control("reap");
	fake_sleep_ms(20);
	rc = cu.cuStreamQuery(s);
	peer_tell(&rc, sizeof(rc));
	return 0;
}

/* ---- the tests: this process imports --------------------------------------------------------------------------------------------- */

static struct peer other;
static struct offer offer;

static int setup(void **state)
{
	(void)state;
	other = peer_start("exporter");
	peer_get(&other, &offer, sizeof(offer));
	fake_context(0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(cu.control("clear\nrelease gpu=0\nslow gpu=0"), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	if (other.pid)
		peer_end(&other, 0);
	assert_int_equal(fake_count("memories", 0), 0);
	assert_int_equal(fake_count("ipc_events", 0), 0);
	return 0;
}

static void kill_peer(void)
{
	peer_end(&other, SIGKILL);
	other.pid = 0;
}

static CUdeviceptr import(void)
{
	CUdeviceptr p = 0;

	assert_int_equal(cu.cuIpcOpenMemHandle(&p, offer.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), 0);
	return p;
}

static void test_01_bytes_go_both_ways(void **state)
{
	unsigned char *want = malloc(MB), *got = malloc(MB);
	CUdeviceptr p = import(), base;
	size_t bytes;

	(void)state;
	assert_true(p != offer.address); /* addresses are each process's own */
	assert_int_equal(cu.cuMemGetAddressRange(&base, &bytes, p + 1000), 0);
	assert_true(base == p && bytes == MB);
	fake_fill(want, MB, 42);
	assert_int_equal(cu.cuMemcpyDtoH(got, p, MB), 0);
	assert_memory_equal(got, want, MB);
	assert_int_equal(cu.cuMemsetD8(p + 4000, 0xee, 1), 0);
	assert_int_equal(peer_ask(&other, 'b', 4000), 0xee);
	assert_int_equal(cu.cuMemcpyDtoH(got, p + 1, MB), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemFree(p), CUDA_ERROR_INVALID_VALUE); /* not ours to free */
	assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
	assert_int_equal(cu.cuIpcCloseMemHandle(p), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(cu.cuMemcpyDtoH(got, p, MB), CUDA_ERROR_INVALID_VALUE);
	free(want);
	free(got);
}

static void test_02_a_handle_is_opened_once(void **state)
{
	CUdeviceptr p = import(), q;

	(void)state;
	assert_int_equal(cu.cuIpcOpenMemHandle(&q, offer.memory, 1), CUDA_ERROR_ALREADY_MAPPED);
	fake_context(1); /* nor by another context of this process */
	assert_int_equal(cu.cuIpcOpenMemHandle(&q, offer.memory, 1), CUDA_ERROR_ALREADY_MAPPED);
	assert_int_equal(cu.cuDevicePrimaryCtxReset(1), 0);
	fake_context(0);
	assert_int_equal(cu.cuIpcOpenMemHandle(&q, offer.memory, 0),
			 CUDA_ERROR_INVALID_VALUE); /* that flag is a must */
	assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
	p = import();
	assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
	assert_int_equal(peer_ask(&other, 'o', 0), CUDA_ERROR_INVALID_CONTEXT); /* the exporter may not */
}

static void test_03_forged_handles_are_refused(void **state)
{
	CUipcMemHandle h;
	CUipcEventHandle e;
	CUdeviceptr p;
	CUevent ev;

	(void)state;
	for (size_t i = 0; i < sizeof(h); i++) {
		h = offer.memory;
		h.reserved[i] ^= 1;
		assert_int_equal(cu.cuIpcOpenMemHandle(&p, h, 1), CUDA_ERROR_INVALID_VALUE);
		e = offer.event;
		e.reserved[i] ^= 1;
		assert_int_not_equal(cu.cuIpcOpenEventHandle(&ev, e), 0);
	}
	memcpy(&e, &offer.memory, sizeof(e));
	assert_int_equal(cu.cuIpcOpenEventHandle(&ev, e), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(fake_count("imports", getpid()), 0);
}

static void test_04_freed_memory_has_no_handle_and_a_new_one_is_another(void **state)
{
	CUipcMemHandle again;
	CUdeviceptr p;
	uint64_t m[2] = {'a', 0};
	int64_t moved;

	(void)state;
	assert_int_equal(peer_ask(&other, 'f', 0), 0);
	assert_int_equal(cu.cuIpcOpenMemHandle(&p, offer.memory, 1), CUDA_ERROR_INVALID_HANDLE);
	fd_write(other.out, m, sizeof(m));
	peer_get(&other, &again, sizeof(again));
	peer_get(&other, &moved, sizeof(moved));
	assert_int_equal(moved, 0); /* the address was given out again */
	assert_memory_not_equal(&again, &offer.memory, sizeof(again));
	assert_int_equal(cu.cuIpcOpenMemHandle(&p, offer.memory, 1), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuIpcOpenMemHandle(&p, again, 1), 0);
	assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
}

static void test_05_an_import_outlives_its_exporter(void **state)
{
	unsigned char *want = malloc(MB), *got = malloc(MB);
	CUdeviceptr p = import(), q;
	size_t before, after, total;

	(void)state;
	fake_fill(want, MB, 42);
	kill(other.pid, SIGKILL);
	fake_sleep_ms(50);
	/* Dead, though nobody has waited for it. */
	assert_int_equal(cu.cuIpcOpenMemHandle(&q, offer.small, 1), CUDA_ERROR_INVALID_HANDLE);
	kill_peer();
	assert_int_equal(cu.cuMemcpyDtoH(got, p, MB), 0);
	assert_memory_equal(got, want, MB);
	assert_int_equal(cu.cuIpcOpenMemHandle(&q, offer.small, 1),
			 CUDA_ERROR_INVALID_HANDLE); /* too late for that one */
	assert_int_equal(fake_count("memories", 0), 1);
	assert_int_equal(cu.cuMemGetInfo(&before, &total), 0);
	assert_int_equal(before, total - MB); /* pinned until it is closed here */
	assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
	assert_int_equal(cu.cuMemGetInfo(&after, &total), 0);
	assert_int_equal(after, total);
	free(want);
	free(got);
}

static void test_06_events_order_work_of_two_processes(void **state)
{
	CUdeviceptr p = import();
	unsigned char b = 0;
	CUstream s;
	CUevent e;

	(void)state;
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), 0);
	for (int i = 1; i <= 10; i++) {
		assert_int_equal(cu.control("slow gpu=0 latency_us=20000"), 0);
		assert_int_equal(peer_ask(&other, 'r', (uint64_t)i), 0);
		assert_int_equal(cu.cuStreamWaitEvent(s, e, 0), 0);
		assert_int_equal(cu.cuMemcpyDtoHAsync(&b, p + MB - 1, 1, s), 0);
		assert_int_equal(b, i);
	}
	/* Recorded here, it is the same event there. */
	assert_int_equal(cu.control("stick gpu=0"), 0);
	assert_int_equal(cu.cuEventRecord(e, s), 0);
	assert_int_equal(cu.cuEventQuery(e), CUDA_ERROR_NOT_READY);
	assert_int_equal(cu.control("release gpu=0"), 0);
	assert_int_equal(cu.cuEventSynchronize(e), 0);
	assert_int_equal(cu.cuEventDestroy(e), 0);
}

static void test_07_an_event_must_live_until_it_is_opened(void **state)
{
	CUevent e, mine;
	CUipcEventHandle h;

	(void)state;
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&mine, offer.event), 0); /* twice is no mistake */
	assert_int_equal(cu.cuEventDestroy(mine), 0);
	assert_int_equal(peer_ask(&other, 'd', 0), 0);
	assert_int_equal(cu.cuEventQuery(e), 0); /* opened in time */
	assert_int_equal(fake_count("ipc_events", 0), 1);
	assert_int_equal(cu.cuIpcOpenEventHandle(&mine, offer.event), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuEventDestroy(e), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), CUDA_ERROR_INVALID_HANDLE);
	assert_int_equal(cu.cuEventCreate(&mine, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING), 0);
	assert_int_equal(cu.cuIpcGetEventHandle(&h, mine), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, h), CUDA_ERROR_INVALID_CONTEXT); /* one's own */
}

static void test_08_the_dead_reach_their_records(void **state)
{
	char command[64];
	CUstream s;
	CUevent e;

	(void)state;
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), 0);
	snprintf(command, sizeof(command), "stick gpu=0 pid=%d", (int)other.pid);
	assert_int_equal(cu.control(command), 0);
	assert_int_equal(peer_ask(&other, 'r', 1), 0);
	assert_int_equal(cu.cuStreamWaitEvent(s, e, 0), 0);
	fake_sleep_ms(30);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	kill_peer();
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
	assert_int_equal(cu.cuEventQuery(e), 0);
	assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), CUDA_ERROR_INVALID_HANDLE);
}

static void test_09_values_reach_the_other_process(void **state)
{
	CUdeviceptr p;
	CUstream s;

	(void)state;
	assert_int_equal(cu.cuIpcOpenMemHandle(&p, offer.small, 1), 0);
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuStreamWaitValue64(s, p + 8, 1234, CU_STREAM_WAIT_VALUE_GEQ), 0);
	fake_sleep_ms(20);
	assert_int_equal(cu.cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	assert_int_equal(peer_ask(&other, 'w', 1234), 0);
	assert_int_equal(cu.cuStreamSynchronize(s), 0);
}

/* A context that goes does not wait for what will never come. */
static void test_10_a_reset_gives_up_waiting(void **state)
{
	CUdeviceptr p;
	CUstream s;

	(void)state;
	assert_int_equal(cu.cuIpcOpenMemHandle(&p, offer.small, 1), 0);
	assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
	assert_int_equal(cu.cuStreamWaitValue64(s, p + 8, 1, CU_STREAM_WAIT_VALUE_GEQ), 0);
	assert_int_equal(cu.cuMemsetD8Async(p + 16, 1, 8, s), 0);
	fake_sleep_ms(20); /* it waits by now */
	assert_int_equal(cu.cuDevicePrimaryCtxReset(0), 0);
	assert_int_equal(fake_count("imports", getpid()), 0);
	assert_int_equal(fake_count("streams", getpid()), 0);
	fake_context(0);
}

static void test_13_a_handle_can_be_opened_again_where_it_is_allowed(void **state)
{
	struct peer p;

	(void)state;
	setenv("LMCA_FAKE_CUDA_REOPEN", "1", 1);
	p = peer_start("reopener");
	unsetenv("LMCA_FAKE_CUDA_REOPEN");
	fd_write(p.out, &offer.memory, sizeof(offer.memory));
	peer_end(&p, 0);
}

static void test_14_a_gpu_that_is_hidden_has_no_handles(void **state)
{
	struct peer p;

	(void)state;
	setenv("CUDA_VISIBLE_DEVICES", "1", 1);
	p = peer_start("hidden");
	unsetenv("CUDA_VISIBLE_DEVICES");
	fd_write(p.out, &offer.memory, sizeof(offer.memory));
	peer_end(&p, 0);
}

/* On a machine where nobody reaches the records of the dead. */
static void test_15_the_dead_can_be_waited_for_in_vain(void **state)
{
	char dir[160], command[200];
	struct peer dead, waiter;
	struct offer o;
	int64_t rc = -1;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/stuck", fake_dir);
	setenv("LMCA_FAKE_CUDA_DIR", dir, 1);
	setenv("LMCA_FAKE_CUDA_DEAD_STUCK", "1", 1);
	dead = peer_start("exporter");
	waiter = peer_start("waiter");
	setenv("LMCA_FAKE_CUDA_DIR", fake_dir, 1);
	unsetenv("LMCA_FAKE_CUDA_DEAD_STUCK");
	peer_get(&dead, &o, sizeof(o));
	assert_int_equal(peer_ask(&dead, 't', 0), 0);
	assert_int_equal(peer_ask(&dead, 'r', 1), 0);
	fd_write(waiter.out, &o.event, sizeof(o.event));
	peer_get(&waiter, &rc, sizeof(rc));
	peer_end(&dead, SIGKILL);
	assert_int_equal(peer_ask(&waiter, 'q', 0), CUDA_ERROR_NOT_READY);
	peer_end(&waiter, 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

static int take_fd(pid_t pid, int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

static CUdeviceptr map_vmm(CUmemGenericAllocationHandle h)
{
	CUmemAccessDesc who = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr va;

	assert_int_equal(cu.cuMemAddressReserve(&va, 2 * MB, 0, 0, 0), 0);
	assert_int_equal(cu.cuMemMap(va, 2 * MB, 0, h, 0), 0);
	assert_int_equal(cu.cuMemSetAccess(va, 2 * MB, &who, 1), 0);
	return va;
}

static void test_11_virtual_memory_travels_as_a_descriptor(void **state)
{
	CUmemGenericAllocationHandle h, f;
	unsigned char b = 0;
	CUdeviceptr va;
	int fd, sock[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	assert_int_equal(cu.cuMemImportFromShareableHandle(&h, (void *)(intptr_t)sock[0],
							   CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
			 CUDA_ERROR_INVALID_VALUE);
	close(sock[0]);
	close(sock[1]);
	fd = take_fd(other.pid, offer.fd);
	assert_true(fd >= 0);
	assert_int_equal(cu.cuMemImportFromShareableHandle(&f, &offer.fabric, CU_MEM_HANDLE_TYPE_FABRIC), 0);
	assert_int_equal(cu.cuMemRelease(f), 0);
	kill_peer();
	assert_int_equal(fake_count("memories", 0), 0);
	/* The descriptor alone keeps it. */
	assert_int_equal(
		cu.cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
		0);
	close(fd);
	va = map_vmm(h);
	assert_int_equal(cu.cuMemRelease(h), 0);
	assert_int_equal(cu.cuMemcpyDtoH(&b, va + 2 * MB - 1, 1), 0);
	assert_int_equal(b, 0x77);
	assert_int_equal(cu.cuMemUnmap(va, 2 * MB), 0);
	assert_int_equal(cu.cuMemAddressFree(va, 2 * MB), 0);
	offer.fabric.data[20] ^= 1;
	assert_int_equal(cu.cuMemImportFromShareableHandle(&f, &offer.fabric, CU_MEM_HANDLE_TYPE_FABRIC),
			 CUDA_ERROR_INVALID_VALUE);
}

static long open_files(void)
{
	char command[64], text[32] = "";
	FILE *f;

	snprintf(command, sizeof(command), "ls /proc/%d/fd | wc -l", (int)getpid());
	f = popen(command, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return strtol(text, NULL, 10);
}

static long mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	long n = 0;
	int c;

	while ((c = fgetc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void test_12_a_thousand_times_leaves_nothing(void **state)
{
	long files = 0, maps = 0;
	size_t room = 0, now, total;
	CUstream s;
	CUevent e;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		CUdeviceptr p = import();

		assert_int_equal(cu.cuIpcOpenEventHandle(&e, offer.event), 0);
		assert_int_equal(cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING), 0);
		assert_int_equal(cu.cuMemsetD8Async(p, 1, 4096, s), 0);
		assert_int_equal(cu.cuStreamDestroy(s), 0);
		assert_int_equal(cu.cuIpcCloseMemHandle(p), 0);
		assert_int_equal(cu.cuEventDestroy(e), 0);
		if (i == 20) {
			files = open_files();
			maps = mappings();
			assert_int_equal(cu.cuMemGetInfo(&room, &total), 0);
		}
	}
	assert_int_equal(cu.cuMemGetInfo(&now, &total), 0);
	assert_int_equal(now, room);
	assert_true(open_files() <= files + 2); /* a stream may be looking something up */
	assert_true(mappings() <= maps + 40);   /* stacks of threads that just ended */
	assert_int_equal(fake_count("imports", getpid()), 0);
	assert_int_equal(fake_count("event_imports", getpid()), 0);
	assert_int_equal(fake_count("streams", getpid()), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_01_bytes_go_both_ways),
		TEST(test_02_a_handle_is_opened_once),
		TEST(test_03_forged_handles_are_refused),
		TEST(test_04_freed_memory_has_no_handle_and_a_new_one_is_another),
		TEST(test_05_an_import_outlives_its_exporter),
		TEST(test_06_events_order_work_of_two_processes),
		TEST(test_07_an_event_must_live_until_it_is_opened),
		TEST(test_08_the_dead_reach_their_records),
		TEST(test_09_values_reach_the_other_process),
		TEST(test_10_a_reset_gives_up_waiting),
		TEST(test_11_virtual_memory_travels_as_a_descriptor),
		TEST(test_12_a_thousand_times_leaves_nothing),
		TEST(test_13_a_handle_can_be_opened_again_where_it_is_allowed),
		TEST(test_14_a_gpu_that_is_hidden_has_no_handles),
		TEST(test_15_the_dead_can_be_waited_for_in_vain),
	};
	int rc;

	if (argc > 1 && strcmp(argv[1], "exporter") == 0)
		return run_exporter();
	if (argc > 1)
		return strcmp(argv[1], "waiter") == 0 ? run_waiter() : run_reopener(strcmp(argv[1], "hidden") == 0);
	fake_machine();
	fake_load();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	fake_machine_remove();
	return rc;
}
