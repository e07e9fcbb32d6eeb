/* System calls of a STORE and a RETRIEVE, counted by tracing a child (ptrace) between two marks: their number must not depend on
 * the number of chunks. Page faults are none; the clock is read without one (vDSO), or equally often.
 */
#include "tests/unit/daemon/core/server_fixture.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MARKS 24 /* intervals between two marks, at most */

/* A system call that nothing else makes here. */
static void mark(void)
{
	syscall(SYS_getppid);
}

struct counts {
	uint32_t n;
	uint32_t calls[MARKS];
	uint64_t last; /* number of the last call seen inside an interval */
	bool done;
};

static void one_call(struct counts *c, uint64_t nr, bool *inside)
{
	if (nr == SYS_getppid) {
		*inside = !*inside;
		assert_true(c->n < MARKS);
		if (*inside)
			c->calls[c->n] = 0;
		else
			c->n++;
	} else if (*inside) {
		c->calls[c->n]++;
		c->last = nr;
	}
}

/* Follows the child to its end. False when tracing is not allowed here. */
static bool follow(pid_t pid, struct counts *c)
{
	bool inside = false;
	int status, sig = 0;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status))
		return false;
	if (ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0)
		return false;
	for (;;) {
		struct __ptrace_syscall_info info; /* glibc's name for the kernel's struct */

		assert_int_equal(ptrace(PTRACE_SYSCALL, pid, 0, sig), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status)) {
			c->done = WEXITSTATUS(status) == 0;
			return WEXITSTATUS(status) != 77;
		}
		if (!WIFSTOPPED(status))
			return true;
		sig = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
		if (sig || ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) <= 0)
			continue;
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
			one_call(c, info.entry.nr, &inside);
	}
}

static bool run_marked(struct fx *f, enum wire_op op, const char *id, uint32_t chunks)
{
	struct wire_req req = fx_request(f, op, id, chunks, 0, chunks);

	fx_message(f, &req);
	mark();
	fx_run(f);
	mark();
	return fx_reply(f, op).flag;
}

static const uint32_t sizes[] = {1, 64, 256};

/* One call, then nine intervals: STORE of new chunks, STORE of known ones, RETRIEVE; of each size. */
static void child(struct fx *f)
{
	bool ok = true;
	char id[16];

	if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
		_exit(77);
	raise(SIGSTOP);
	mark();
	syscall(SYS_gettid); /* shows that the count counts */
	mark();
	for (int i = 0; i < 3; i++) {
		snprintf(id, sizeof(id), "r%d", i);
		ok &= run_marked(f, WIRE_STORE, id, sizes[i]);
		ok &= run_marked(f, WIRE_STORE, id, sizes[i]);
		ok &= fx_lookup(f, id, sizes[i]) == sizes[i];
		ok &= run_marked(f, WIRE_RETRIEVE, id, sizes[i]);
	}
	_exit(ok ? 0 : 1);
}

static void test_1_no_system_call_per_chunk(void **state)
{
	static const char *const what[] = {"STORE of new chunks", "STORE of known chunks", "RETRIEVE"};
	struct counts c = {0};
	struct fx f;
	pid_t pid;
	(void)state;

	if (UNDER_SANITIZER) {
		printf("# skip a sanitizer makes calls of its own\n");
		skip();
	}
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 256, 32);
	assert_true(fx_store(&f, "first", 2));
	assert_int_equal(fx_lookup(&f, "first", 2), 2);
	assert_true(fx_retrieve(&f, "first", 2));
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		child(&f);
	if (!follow(pid, &c)) {
		printf("# skip ptrace is not allowed here\n");
		fx_close(&f);
		skip();
	}
	assert_true(c.done);
	assert_int_equal(c.n, 10);
	assert_int_equal(c.calls[0], 1);
	for (uint32_t i = 0; i < 9; i++) {
		uint32_t calls = c.calls[1 + i], of_one = c.calls[1 + i % 3];

		printf("# %s, %u chunk(s): %u system calls\n", what[i % 3], sizes[i / 3], calls);
		if (calls != of_one)
			fail_msg("%s: %u system calls for %u chunks, %u for one (the last is number %llu)", what[i % 3],
				 calls, sizes[i / 3], of_one, (unsigned long long)c.last);
	}
	fx_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_no_system_call_per_chunk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
