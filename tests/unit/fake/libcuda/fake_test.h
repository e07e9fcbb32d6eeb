/* fake_test.h - the test driver's tests: loading it, asking it, and a second process.
 *
 * A child of a process that used CUDA has no CUDA. So a peer is this same program, started anew with the name of a role; it and the test
 * send each other small records through pipes. */
#ifndef TESTS_UNIT_FAKE_LIBCUDA_FAKE_TEST_H
#define TESTS_UNIT_FAKE_LIBCUDA_FAKE_TEST_H

#include "transport/cuda/cuda_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

struct api {
#define CU(name, version, need, args) CUresult(*name) args;
#include "transport/cuda/symbols.def"
#undef CU
	CUresult (*get)(const char *, void **, int, uint64_t, int *);
	CUresult (*cuCtxSynchronize)(void);
	CUresult (*cuMemcpyHtoD)(CUdeviceptr, const void *, size_t);
	CUresult (*cuMemcpyDtoH)(void *, CUdeviceptr, size_t);
	CUresult (*cuMemsetD8)(CUdeviceptr, unsigned char, size_t);
	CUresult (*cuStreamCreate)(CUstream *, unsigned);
	CUresult (*cuLaunchHostFunc)(CUstream, void (*)(void *), void *);
	int (*control)(const char *);
	int (*report)(char *, size_t);
	void *lib;
};

static struct api cu;
static char fake_dir[128];

static inline void *fake_symbol(const char *name)
{
	void *p = dlsym(cu.lib, name);

	if (!p) {
		printf("# the test driver has no %s\n", name);
		exit(1);
	}
	return p;
}

static inline void *fake_function(const char *name, int version)
{
	void *p = NULL;

	if (cu.get(name, &p, version, 0, NULL))
		p = NULL;
	return p;
}

/* The driver of this build lies beside this program: build/tests/unit/fake/libcuda/x_test, build/tests/fake/libcuda.so.1. */
static inline void fake_load(void)
{
	char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);

	assert_true(n > 0);
	path[n] = 0;
	for (int up = 0; up < 4; up++)
		*strrchr(path, '/') = 0;
	strcat(path, "/fake/libcuda.so.1");
	cu.lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!cu.lib) {
		printf("# %s\n", dlerror());
		exit(1);
	}
	*(void **)&cu.get = fake_symbol("cuGetProcAddress_v2");
	*(void **)&cu.control = fake_symbol("fake_cuda_control");
	*(void **)&cu.report = fake_symbol("fake_cuda_report");
#define CU(name, version, need, args) *(void **)&cu.name = fake_function(#name, version);
#include "transport/cuda/symbols.def"
#undef CU
	*(void **)&cu.cuCtxSynchronize = fake_function("cuCtxSynchronize", 2000);
	*(void **)&cu.cuMemcpyHtoD = fake_function("cuMemcpyHtoD", 3020);
	*(void **)&cu.cuMemcpyDtoH = fake_function("cuMemcpyDtoH", 3020);
	*(void **)&cu.cuMemsetD8 = fake_function("cuMemsetD8", 3020);
	*(void **)&cu.cuStreamCreate = fake_function("cuStreamCreate", 2000);
	*(void **)&cu.cuLaunchHostFunc = fake_function("cuLaunchHostFunc", 10000);
}

static inline void fake_machine(void)
{
	snprintf(fake_dir, sizeof(fake_dir), "/dev/shm/lmca-fake-test-%d", (int)getpid());
	setenv("LMCA_FAKE_CUDA_DIR", fake_dir, 1);
	setenv("LMCA_FAKE_CUDA_MEMORY", "1g", 1);
}

static inline void fake_machine_remove(void)
{
	char command[256];

	if (fake_dir[0]) {
		snprintf(command, sizeof(command), "rm -rf %s", fake_dir);
		assert_int_equal(system(command), 0);
	}
}

static inline CUcontext fake_context(int device)
{
	CUcontext c = NULL;

	assert_int_equal(cu.cuInit(0), 0);
	assert_int_equal(cu.cuDevicePrimaryCtxRetain(&c, device), 0);
	assert_int_equal(cu.cuCtxSetCurrent(c), 0);
	return c;
}

/* A number of the report: of process `pid`, or of the machine when it is 0. */
static inline long long fake_count(const char *what, int pid)
{
	static char text[65536];
	char key[64], *p = text;

	assert_true(cu.report(text, sizeof(text)) > 0);
	if (pid) {
		snprintf(key, sizeof(key), "{\"pid\":%d,", pid);
		p = strstr(text, key);
		if (!p)
			return -1;
	}
	snprintf(key, sizeof(key), "\"%s\":", what);
	p = strstr(p, key);
	assert_non_null(p);
	return strtoll(p + strlen(key), NULL, 10);
}

static inline void fake_sleep_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static inline uint64_t fake_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline void fake_fill(unsigned char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)(i * 131 + (i >> 8) + seed);
}

/* ---- a second process -------------------------------------------------------------------------------------------------------- */

struct peer {
	pid_t pid;
	int in, out; /* ours to read, ours to write */
};

extern char **environ;

static inline struct peer peer_start(const char *role)
{
	posix_spawn_file_actions_t a;
	char *argv[] = {"peer", (char *)(uintptr_t)role, NULL};
	int to[2], from[2];
	struct peer p;

	assert_int_equal(pipe2(to, O_CLOEXEC) | pipe2(from, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&a);
	posix_spawn_file_actions_adddup2(&a, to[0], 3);
	posix_spawn_file_actions_adddup2(&a, from[1], 4);
	assert_int_equal(posix_spawn(&p.pid, "/proc/self/exe", &a, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&a);
	close(to[0]);
	close(from[1]);
	p.in = from[0];
	p.out = to[1];
	return p;
}

static inline bool fd_read(int fd, void *p, size_t n)
{
	char *at = p;

	while (n) {
		ssize_t k = read(fd, at, n);

		if (k <= 0)
			return false;
		at += k;
		n -= (size_t)k;
	}
	return true;
}

static inline void fd_write(int fd, const void *p, size_t n)
{
	if (write(fd, p, n) != (ssize_t)n)
		exit(1);
}

static inline void peer_get(struct peer *p, void *to, size_t n)
{
	assert_true(fd_read(p->in, to, n));
}

/* Sends a command of one letter and a number; the answer is a number. */
static inline int64_t peer_ask(struct peer *p, char command, uint64_t value)
{
	uint64_t m[2] = {(uint64_t)command, value};
	int64_t answer = 0;

	fd_write(p->out, m, sizeof(m));
	peer_get(p, &answer, sizeof(answer));
	return answer;
}

static inline void peer_end(struct peer *p, int sig)
{
	int status = 0;

	if (sig)
		kill(p->pid, sig);
	close(p->out);
	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	close(p->in);
	if (sig)
		assert_true(WIFSIGNALED(status));
	else
		assert_int_equal(status, 0);
}

/* In the peer: */
static inline void peer_tell(const void *p, size_t n)
{
	fd_write(4, p, n);
}

static inline void peer_must(CUresult rc, const char *what)
{
	if (rc) {
		printf("# peer: %s: %d\n", what, rc);
		fflush(stdout);
		_exit(1);
	}
}
#define MUST(call) peer_must(cu.call, #call)

static inline void peer_context(int device)
{
	CUcontext c = NULL;

	fake_load();
	MUST(cuInit(0));
	MUST(cuDevicePrimaryCtxRetain(&c, device));
	MUST(cuCtxSetCurrent(c));
}

#endif
