/* The arena over the real /dev/shm. Objects are a few MiB, and each test removes its own. */
#include "numa/arena.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB  (1ull << 20)
#define STEP (16 * MIB)

static const char *name_of(const char *what)
{
	static char name[64];

	snprintf(name, sizeof(name), "lmca_arena_test_%d_%s", (int)getpid(), what);
	return name;
}

static bool exists(const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "/dev/shm/%s", name);
	return access(path, F_OK) == 0;
}

static struct arena *open_ok(const struct arena_conf *conf)
{
	struct arena *a = NULL;
	struct why why = {0};

	if (arena_create(conf, &a, &why))
		fail_msg("%s", why.text);
	return a;
}

static void test_01_anonymous(void **state)
{
	struct arena_conf conf = {.bytes = 4 * MIB + 12345, .shm_name = ""};
	struct arena *a = open_ok(&conf);
	(void)state;

	assert_int_equal(arena_bytes(a), 4 * MIB);
	assert_string_equal(arena_shm_name(a), "");
	assert_int_equal(arena_nranges(a), 1);
	assert_int_equal(arena_range(a, 0)->node.os, -1);
	assert_int_equal(arena_range(a, 0)->start, 0);
	assert_int_equal(arena_range(a, 0)->bytes, 4 * MIB);
	assert_int_equal(arena_committed(a, 0), 4 * MIB);
	assert_int_equal((uintptr_t)arena_base(a) % ARENA_PAGE, 0);
	for (uint64_t i = 0; i < 4 * MIB; i += ARENA_PAGE)
		assert_int_equal(arena_base(a)[i], 0);
	arena_base(a)[0] = arena_base(a)[4 * MIB - 1] = 7;
	arena_destroy(a);
	arena_destroy(NULL);
}

static void test_02_named_is_seen_through_the_name(void **state)
{
	char name[64], slashed[80];
	struct arena *a;
	struct stat st;
	uint8_t *p;
	int fd;
	(void)state;

	snprintf(name, sizeof(name), "%s", name_of("seen"));
	snprintf(slashed, sizeof(slashed), "/%s", name);
	a = open_ok(&(struct arena_conf){.bytes = 4 * MIB, .shm_name = slashed});
	assert_string_equal(arena_shm_name(a), name);
	fd = shm_open(slashed, O_RDWR, 0);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	assert_int_equal(st.st_size, 4 * MIB);
	assert_int_equal(st.st_mode & 0777, 0600);
	p = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	arena_base(a)[3 * MIB] = 11;
	p[2 * MIB] = 22;
	assert_int_equal(p[3 * MIB], 11);
	assert_int_equal(arena_base(a)[2 * MIB], 22);
	arena_destroy(a);
	assert_false(exists(name));
	assert_int_equal(p[3 * MIB], 11); /* who mapped it keeps the bytes */
	munmap(p, 4 * MIB);
	close(fd);
}

static void test_03_derived_name(void **state)
{
	struct arena *a = open_ok(&(struct arena_conf){.bytes = 2 * MIB});
	char want[64];
	(void)state;

	snprintf(want, sizeof(want), "lmcache_l1_pool_%d", (int)getpid());
	assert_string_equal(arena_shm_name(a), want);
	assert_true(exists(want));
	arena_destroy(a);
	assert_false(exists(want));
}

/* A child that holds the name until it is told to leave. kill: it dies without cleaning up. */
struct holder {
	pid_t pid;
	int ready, leave;
};

static struct holder hold(const char *name, uint64_t bytes)
{
	struct holder h;
	int up[2], down[2];
	char c = 0;

	assert_int_equal(pipe(up), 0);
	assert_int_equal(pipe(down), 0);
	fflush(NULL);
	h.pid = fork();
	assert_true(h.pid >= 0);
	if (h.pid == 0) {
		struct arena *a;
		struct arena_conf conf = {.bytes = bytes, .shm_name = name};

		close(down[1]);
		c = arena_create(&conf, &a, NULL) == 0 ? 'y' : 'n';
		if (c == 'y')
			memset(arena_base(a), 0xee, bytes);
		if (write(up[1], &c, 1) == 1 && read(down[0], &c, 1) == 1 && c == 'k')
			_exit(0); /* as if killed: no destroy */
		arena_destroy(a);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	h.ready = up[0];
	h.leave = down[1];
	assert_int_equal(read(h.ready, &c, 1), 1);
	assert_int_equal(c, 'y');
	return h;
}

static void let_go(struct holder *h, char how)
{
	int status;

	assert_int_equal(write(h->leave, &how, 1), 1);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	assert_int_equal(status, 0);
	close(h->ready);
	close(h->leave);
}

static void test_04_a_living_owner_keeps_its_name(void **state)
{
	char name[64];
	struct arena *a;
	struct why why;
	struct holder h;
	(void)state;

	snprintf(name, sizeof(name), "%s", name_of("busy"));
	h = hold(name, 2 * MIB);
	assert_int_equal(arena_create(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = name}, &a, &why), -EBUSY);
	assert_int_equal(why.err, -EBUSY);
	assert_non_null(strstr(why.text, name));
	assert_non_null(strstr(why.text, "in use by another process"));
	assert_non_null(strstr(why.text, "--shm-name"));
	assert_true(exists(name)); /* and nothing was taken from it */
	let_go(&h, 'd');
	assert_false(exists(name));
	a = open_ok(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = name});
	arena_destroy(a);
}

static void test_05_not_even_twice_in_one_process(void **state)
{
	char name[64];
	struct arena *a, *b;
	(void)state;

	snprintf(name, sizeof(name), "%s", name_of("twice"));
	a = open_ok(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = name});
	assert_int_equal(arena_create(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = name}, &b, NULL), -EBUSY);
	arena_destroy(a);
}

static void test_06_a_dead_owner_is_succeeded(void **state)
{
	char name[64];
	struct arena *a;
	struct holder h;
	(void)state;

	snprintf(name, sizeof(name), "%s", name_of("dead"));
	h = hold(name, 4 * MIB);
	let_go(&h, 'k');
	assert_true(exists(name));
	a = open_ok(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = name});
	assert_int_equal(arena_base(a)[0], 0); /* new memory, not what it left */
	assert_int_equal(arena_base(a)[2 * MIB - 1], 0);
	arena_destroy(a);
	assert_false(exists(name));
}

/* ---- several at once ---------------------------------------------------------------------------------------------- */

#define RACERS 6

static void race_once(const char *name, int start, int result, int leave, uint8_t me)
{
	struct arena_conf conf = {.bytes = 2 * MIB, .shm_name = name, .lazy = true, .init_bytes = ARENA_PAGE};
	struct arena *a;
	uint8_t said;
	char c;

	if (read(start, &c, 1) != 1)
		_exit(1);
	said = arena_create(&conf, &a, NULL) == 0 ? me : 0;
	if (said)
		arena_base(a)[0] = me;
	if (write(result, &said, 1) != 1 || read(leave, &c, 1) != 1)
		_exit(1);
	if (said)
		arena_destroy(a);
	_exit(0);
}

/* The byte behind the name now. */
static uint8_t owner_of(const char *name)
{
	char path[100];
	uint8_t b = 0;
	int fd;

	snprintf(path, sizeof(path), "/%s", name);
	fd = shm_open(path, O_RDONLY, 0);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, 0), 1);
	close(fd);
	return b;
}

/* Winners of one round, of which the last is left in *winner. */
static int round_of_racers(const char *name, uint8_t *winner)
{
	int start[2], result[2], leave[2], wins = 0, status;
	char go[RACERS] = {0};
	uint8_t said;

	assert_int_equal(pipe(start) | pipe(result) | pipe(leave), 0);
	fflush(NULL);
	for (uint8_t i = 1; i <= RACERS; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0)
			race_once(name, start[0], result[1], leave[0], i);
	}
	assert_int_equal(write(start[1], go, RACERS), RACERS);
	for (int i = 0; i < RACERS; i++) {
		assert_int_equal(read(result[0], &said, 1), 1);
		wins += said != 0;
		*winner = said ? said : *winner;
	}
	said = wins ? owner_of(name) : 0;
	assert_int_equal(write(leave[1], go, RACERS), RACERS);
	for (int i = 0; i < RACERS; i++) {
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	for (int i = 0; i < 2; i++)
		close(start[i]), close(result[i]), close(leave[i]);
	if (wins == 1)
		assert_int_equal(said, *winner);
	return wins;
}

/* Daemons started at the same moment under one name: exactly one may have it, and the name leads to its memory. */
static void test_07_of_many_starting_at_once_one_wins(void **state)
{
	char name[64], path[80];
	uint8_t winner = 0;
	(void)state;

	snprintf(name, sizeof(name), "%s", name_of("race"));
	snprintf(path, sizeof(path), "/%s", name);
	for (int i = 0; i < 150; i++) {
		if (i % 2) { /* every other time over a name left behind */
			int fd = shm_open(path, O_RDWR | O_CREAT, 0600);

			assert_true(fd >= 0);
			close(fd);
		}
		int wins = round_of_racers(name, &winner);
		if (wins != 1)
			fail_msg("round %d: %d daemons own the same name", i, wins);
		assert_false(exists(name));
	}
}

/* ---- refusals -------------------------------------------------------------------------------------------------- */

static void test_08_more_than_there_is(void **state)
{
	struct statvfs fs;
	struct arena *a;
	struct why why;
	char name[64];
	uint64_t free_bytes;
	(void)state;

	assert_int_equal(statvfs("/dev/shm", &fs), 0);
	if (fs.f_blocks == 0) {
		printf("# skip /dev/shm has no limit\n");
		skip();
	}
	snprintf(name, sizeof(name), "%s", name_of("big"));
	free_bytes = (uint64_t)fs.f_blocks * fs.f_frsize + (8ull << 30);
	assert_int_equal(arena_create(&(struct arena_conf){.bytes = free_bytes, .shm_name = name}, &a, &why), -ENOSPC);
	assert_int_equal(why.err, -ENOSPC);
	assert_non_null(strstr(why.text, "--l1-size-gb"));
	assert_non_null(strstr(why.text, "mount -o remount,size="));
	assert_non_null(strstr(why.text, "/dev/shm"));
	assert_non_null(strstr(why.text, "--shm-size"));
	assert_false(exists(name));
}

static void refused(const struct arena_conf *conf, int err, const char *says)
{
	struct arena *a = NULL;
	struct why why = {0};

	assert_int_equal(arena_create(conf, &a, &why), err);
	assert_int_equal(why.err, err);
	if (!strstr(why.text, says))
		fail_msg("'%s' does not say '%s'", why.text, says);
}

static void test_09_bad_configurations(void **state)
{
	struct arena_conf many = {.shm_name = "", .nranges = ARENA_MAX_RANGES + 1};
	struct arena_conf small = {.shm_name = "", .nranges = 2, .range = {{{0}, 2 * MIB, {{0}}}, {{1}, MIB, {{0}}}}};
	char longer[300];
	(void)state;

	memset(longer, 'n', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	refused(&(struct arena_conf){.bytes = MIB, .shm_name = ""}, -EINVAL, "range 0");
	refused(&(struct arena_conf){.bytes = 0, .shm_name = ""}, -EINVAL, "range 0");
	refused(&many, -EINVAL, "at most 64");
	refused(&small, -EINVAL, "range 1");
	refused(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = "a/b"}, -EINVAL, "one path component");
	refused(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = "/a/b"}, -EINVAL, "one path component");
	refused(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = "../x"}, -EINVAL, "one path component");
	refused(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = longer}, -EINVAL, "200 bytes");
	refused(&(struct arena_conf){.bytes = 2 * MIB, .shm_name = "/"}, -EINVAL, "/dev/shm");
	refused(&(struct arena_conf){.bytes = 1ull << 56, .shm_name = ""}, -ENOMEM, "cannot map");
}

/* ---- growth ---------------------------------------------------------------------------------------------------- */

static void test_10_lazy_grows_by_steps(void **state)
{
	struct arena_conf conf = {.bytes = 2 * STEP + 6 * MIB, .shm_name = "", .lazy = true, .init_bytes = MIB};
	struct arena *a = open_ok(&conf);
	(void)state;

	assert_int_equal(arena_committed(a, 0), STEP);
	assert_int_equal(arena_commit(a, 0, 1), 0);
	assert_int_equal(arena_commit(a, 0, STEP), 0);
	assert_int_equal(arena_committed(a, 0), STEP);
	assert_int_equal(arena_commit(a, 0, STEP + 1), 0);
	assert_int_equal(arena_committed(a, 0), 2 * STEP);
	assert_int_equal(arena_commit(a, 0, 2 * STEP + 6 * MIB), 0);
	assert_int_equal(arena_committed(a, 0), 2 * STEP + 6 * MIB);
	arena_base(a)[2 * STEP + 6 * MIB - 1] = 1;
	arena_destroy(a);

	conf.init_bytes = 0;
	a = open_ok(&conf);
	assert_int_equal(arena_committed(a, 0), 0);
	assert_int_equal(arena_commit(a, 0, 0), 0);
	assert_int_equal(arena_committed(a, 0), 0);
	arena_destroy(a);
}

/* Committed means that pages are there: the kernel counts them as resident. */
static void test_11_committed_memory_is_resident(void **state)
{
	struct arena_conf conf = {.bytes = STEP + 4 * MIB, .shm_name = "", .lazy = true, .init_bytes = 1};
	struct arena *a = open_ok(&conf);
	uint64_t pages = (STEP + 4 * MIB) / ARENA_PAGE;
	unsigned char *in = malloc(pages);
	(void)state;

	assert_non_null(in);
	assert_int_equal(mincore(arena_base(a), STEP + 4 * MIB, in), 0);
	for (uint64_t i = 0; i < STEP / ARENA_PAGE; i++)
		assert_true(in[i] & 1);
	for (uint64_t i = STEP / ARENA_PAGE; i < pages; i++)
		assert_false(in[i] & 1);
	free(in);
	arena_destroy(a);
}

struct grower {
	struct arena *a;
	uint64_t seed;
	int err;
};

static void *grow(void *arg)
{
	struct grower *g = arg;

	for (int i = 0; i < 64 && !g->err; i++) {
		g->seed = g->seed * 6364136223846793005ull + 1442695040888963407ull;
		uint32_t r = (uint32_t)(g->seed >> 33) % 2;
		uint64_t upto = (g->seed >> 34) % arena_range(g->a, r)->bytes + 1;

		g->err = arena_commit(g->a, r, upto);
		if (!g->err && arena_committed(g->a, r) < upto)
			g->err = -EDOM;
		if (!g->err) {
			_Atomic uint8_t *p =
				(_Atomic uint8_t *)arena_base(g->a) + arena_range(g->a, r)->start + upto - 1;

			atomic_fetch_add_explicit(p, 1, memory_order_relaxed);
		}
	}
	return NULL;
}

static void test_12_threads_grow_it_together(void **state)
{
	struct arena_conf conf = {
		.shm_name = "",
		.lazy = true,
		.nranges = 2,
		.range = {{NODE_UNKNOWN, STEP + 20 * MIB, {{0}}}, {NODE_UNKNOWN, STEP + 2 * MIB, {{0}}}}};
	struct arena *a = open_ok(&conf);
	struct grower g[4];
	pthread_t t[4];
	(void)state;

	for (uint64_t i = 0; i < 4; i++) {
		g[i] = (struct grower){a, 1000 + i, 0};
		assert_int_equal(pthread_create(&t[i], NULL, grow, &g[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(g[i].err, 0);
	}
	for (uint32_t r = 0; r < 2; r++)
		assert_true(arena_committed(a, r) == STEP || arena_committed(a, r) == arena_range(a, r)->bytes);
	arena_destroy(a);
}

/* ---- ranges ---------------------------------------------------------------------------------------------------- */

static void test_13_ranges_lie_one_after_another(void **state)
{
	struct arena_conf conf = {
		.shm_name = "",
		.nranges = 3,
		.range = {{{5}, 2 * MIB + 777, {{0}}}, {NODE_UNKNOWN, 6 * MIB, {{0}}}, {{0}, 4 * MIB, {{0}}}}};
	struct arena *a = open_ok(&conf);
	static const uint64_t start[] = {0, 2 * MIB, 8 * MIB, 12 * MIB};
	static const int node[] = {5, -1, 0};
	(void)state;

	assert_int_equal(arena_nranges(a), 3);
	assert_int_equal(arena_bytes(a), 12 * MIB);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(arena_range(a, i)->start, start[i]);
		assert_int_equal(arena_range(a, i)->bytes, start[i + 1] - start[i]);
		assert_int_equal(arena_range(a, i)->node.os, node[i]);
		assert_int_equal(arena_range_of(a, start[i]), i);
		assert_int_equal(arena_range_of(a, start[i + 1] - 1), i);
	}
	arena_destroy(a);
}

/* Nodes need not be of one size: not lazy means all of each. */
static void test_14_uneven_ranges_are_committed_whole(void **state)
{
	struct arena_conf conf = {.shm_name = "",
				  .nranges = 2,
				  .range = {{NODE_UNKNOWN, 2 * MIB, {{0}}}, {NODE_UNKNOWN, STEP + 60 * MIB, {{0}}}}};
	struct arena *a = open_ok(&conf);
	(void)state;

	assert_int_equal(arena_committed(a, 0), 2 * MIB);
	assert_int_equal(arena_committed(a, 1), STEP + 60 * MIB);
	arena_destroy(a);
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

static void test_15_out_of_memory(void **state)
{
	struct arena_conf conf = {.bytes = 2 * MIB, .shm_name = name_of("oom")};
	struct arena *a = NULL;
	uint64_t n = 1;
	(void)state;

	for (;; n++) {
		struct why why = {0};
		int err;

		mem_fail_at(n);
		err = arena_create(&conf, &a, &why);
		mem_fail_at(0);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_string_not_equal(why.text, "");
		assert_false(exists(conf.shm_name));
	}
	assert_int_equal(n, 2); /* the one there is */
	arena_destroy(a);
}

/* What /dev/shm really has left may be less than it said: commit tells, and what was there stays usable. */
static void test_16_commit_beyond_what_the_object_has(void **state)
{
	struct arena_conf conf = {
		.bytes = STEP + 64 * MIB, .shm_name = name_of("cut"), .lazy = true, .init_bytes = ARENA_PAGE};
	struct arena *a = open_ok(&conf);
	char path[80];
	int fd;
	(void)state;

	snprintf(path, sizeof(path), "/%s", conf.shm_name);
	fd = shm_open(path, O_RDWR, 0);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)STEP), 0); /* touching beyond would be SIGBUS */
	close(fd);
	assert_int_equal(arena_commit(a, 0, STEP + 1), -ENOSPC);
	assert_int_equal(arena_committed(a, 0), STEP);
	arena_base(a)[STEP - 1] = 1;
	arena_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_anonymous),
		cmocka_unit_test(test_02_named_is_seen_through_the_name),
		cmocka_unit_test(test_03_derived_name),
		cmocka_unit_test(test_04_a_living_owner_keeps_its_name),
		cmocka_unit_test(test_05_not_even_twice_in_one_process),
		cmocka_unit_test(test_06_a_dead_owner_is_succeeded),
		cmocka_unit_test(test_07_of_many_starting_at_once_one_wins),
		cmocka_unit_test(test_08_more_than_there_is),
		cmocka_unit_test(test_09_bad_configurations),
		cmocka_unit_test(test_10_lazy_grows_by_steps),
		cmocka_unit_test(test_11_committed_memory_is_resident),
		cmocka_unit_test(test_12_threads_grow_it_together),
		cmocka_unit_test(test_13_ranges_lie_one_after_another),
		cmocka_unit_test(test_14_uneven_ranges_are_committed_whole),
		cmocka_unit_test(test_15_out_of_memory),
		cmocka_unit_test(test_16_commit_beyond_what_the_object_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
