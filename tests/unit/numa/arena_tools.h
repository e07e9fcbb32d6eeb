/* arena_tools.h - what the arena's tests share: huge pages to play with, children that may die, system calls that are refused. */
#ifndef TESTS_UNIT_NUMA_ARENA_TOOLS_H
#define TESTS_UNIT_NUMA_ARENA_TOOLS_H

#include "numa/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB       (1ull << 20)
#define GIB       (1ull << 30)
#define HUGE_PAGE (2 * MIB)
#define HUGE_DIR  "/sys/kernel/mm/hugepages/hugepages-2048kB/"

/* ---- counts of the kernel ----------------------------------------------------------------------------------------- */

static inline long read_long(const char *path)
{
	char text[32];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

static inline bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

static inline long huge_of_node(int node, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/%s", node, file);
	return read_long(path);
}

static inline long huge_free(void)
{
	return read_long(HUGE_DIR "free_hugepages");
}

/* Pages that nothing else uses while the tests run: `found` are there again afterwards. */
struct reserved {
	long found;
	int lock;
};

/* False: they cannot be had, and the reason is printed. */
static inline bool reserve_huge(struct reserved *r, long pages)
{
	char text[24];

	r->lock = open("/proc/sys/vm/nr_hugepages", O_RDONLY | O_CLOEXEC);
	if (r->lock >= 0)
		flock(r->lock, LOCK_EX); /* others of our programs that set this number */
	r->found = read_long(HUGE_DIR "nr_hugepages");
	if (huge_free() >= pages)
		return true;
	snprintf(text, sizeof(text), "%ld", r->found + pages);
	if (r->found >= 0 && write_text(HUGE_DIR "nr_hugepages", text) && huge_free() >= pages)
		return true;
	printf("# %ld huge pages of 2 MiB cannot be reserved here (%s, %ld free)\n", pages,
	       geteuid() ? "not root" : "the kernel gives fewer", huge_free());
	return false;
}

static inline void give_back_huge(struct reserved *r)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", r->found);
	if (r->found >= 0 && read_long(HUGE_DIR "nr_hugepages") != r->found)
		(void)write_text(HUGE_DIR "nr_hugepages", text);
	if (r->lock >= 0)
		close(r->lock);
}

/* ---- children ------------------------------------------------------------------------------------------------------ */

/* In a child: cmocka's assertions would go on with the parent's next test. */
#define EXPECT(cond)                                                                  \
	do {                                                                          \
		if (!(cond)) {                                                        \
			printf("# %s:%d: not true: %s\n", __FILE__, __LINE__, #cond); \
			fflush(NULL);                                                 \
			_exit(1);                                                     \
		}                                                                     \
	} while (0)

#define EXPECT_SAYS(why, part)                                                                              \
	do {                                                                                                \
		if (!strstr((why)->text, part)) {                                                           \
			printf("# %s:%d: '%s' does not say '%s'\n", __FILE__, __LINE__, (why)->text, part); \
			fflush(NULL);                                                                       \
			_exit(1);                                                                           \
		}                                                                                           \
	} while (0)

/* The wait status of a child that ran fn; 0 = all was well. */
static inline int in_child(void (*fn)(void *arg), void *arg)
{
	int status = -1;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		signal(SIGBUS, SIG_DFL);
		signal(SIGSEGV, SIG_DFL);
		fn(arg);
		fflush(NULL);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

/* Warnings that fn logs, which is run here with stderr going to a file. */
static inline int warnings_of(void (*fn)(void *arg), void *arg)
{
	FILE *f = tmpfile();
	int keep = dup(2), n = 0;
	char line[1024];

	if (!f || keep < 0)
		return -1;
	fflush(NULL);
	dup2(fileno(f), 2);
	fn(arg);
	dup2(keep, 2);
	close(keep);
	rewind(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "WARNING") != NULL;
	fclose(f);
	return n;
}

/* From now on the system call `nr` fails with `err`, if arg2 >= 0 only when its third argument is that. */
static inline bool refuse(long nr, int err, long arg2)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | (arg2 >= 0 ? BPF_JEQ : BPF_JGE) | BPF_K, arg2 >= 0 ? (unsigned)arg2 : 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof(code) / sizeof(code[0]), code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

/* ---- set-up -------------------------------------------------------------------------------------------------------- */

/* Mounts and names of our own, so that daemons of other tests neither see nor clean them. */
static inline bool stand_alone(void)
{
	char line[1024], dir[256];

	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("none", "/dev/shm", "tmpfs", 0, "size=2G") != 0)
		return false; /* tests that need mounts will say so */
	FILE *f = fopen("/proc/self/mounts", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (strstr(line, " hugetlbfs ") && sscanf(line, "%*s %255s", dir) == 1)
			umount2(dir, MNT_DETACH);
	}
	if (f)
		fclose(f);
	return true;
}

static inline bool exists(const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "/dev/shm/%s", name);
	return access(path, F_OK) == 0;
}

static inline struct arena_conf huge_conf(const char *name, uint64_t pages)
{
	struct arena_conf conf = {.shm_name = name,
				  .huge_2m = WANT_YES,
				  .numa = WANT_YES,
				  .nranges = 1,
				  .range = {{((node_id){0}), pages * HUGE_PAGE, {{0}}}}};

	return conf;
}

static inline struct arena *open_ok(const struct arena_conf *conf)
{
	struct arena *a = NULL;
	struct why why = {0};

	if (arena_create(conf, &a, &why))
		fail_msg("%s", why.text);
	return a;
}

static inline void says(const struct why *why, const char *part)
{
	if (!strstr(why->text, part))
		fail_msg("'%s' does not say '%s'", why->text, part);
}

/* ---- a client -------------------------------------------------------------------------------------------------------- */

struct client {
	const struct arena *a;
	bool touch; /* write each page first, as an engine does */
};

/* Maps the arena by name and finds every committed page where the plan says. */
static inline void client_sees_plan(void *arg)
{
	const struct client *c = arg;
	char path[300];
	uint64_t bytes = arena_bytes(c->a), page = arena_page_bytes(c->a);
	uint8_t *p;
	int fd;

	snprintf(path, sizeof(path), "/%s", arena_shm_name(c->a));
	fd = shm_open(path, O_RDWR, 0);
	EXPECT(fd >= 0);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	EXPECT(p != MAP_FAILED && p != arena_base(c->a));
	for (uint64_t at = 0; c->touch && at < bytes; at += page)
		((volatile uint8_t *)p)[at] = 1;
	for (uint32_t i = 0; i < arena_nranges(c->a); i++) {
		const struct arena_range *r = arena_range(c->a, i);
		struct arena_place place;

		EXPECT(arena_verify_map(p + r->start, r->bytes, page, r->node, 0, 0, &place, NULL) == 0);
		EXPECT(place.on_node == r->bytes / page && place.elsewhere == 0 && place.absent == 0);
	}
}

#endif
