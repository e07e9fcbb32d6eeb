/* fs_faults_test.c - objects as files: what goes wrong with files, with memory and between servers. */
#include "tests/unit/daemon/l2/fs_fixture.h"

#include "daemon/base/check.h"

#include <pthread.h>

/* ---- what goes wrong ------------------------------------------------------------------------------------------------------------ */

static void change_file(const char *file, uint64_t at)
{
	int fd = open(path_of(file), O_RDWR);
	uint8_t b;
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &b, 1, (off_t)at), 1);
	b ^= 0x10;
	assert_int_equal(pwrite(fd, &b, 1, (off_t)at), 1);
	close(fd);
}

static void changed_behind_our_back(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1), files;
	char file[8][400];
	struct l2 *a = open_fs("");
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(store_number(a, name, i, 10000), 0);
		snprintf(file[i], sizeof(file[i]), "%.399s", upstream_name("m@0x00000001@0", key_of(name, i), ""));
	}
	change_file(file[0], 9999);
	assert_int_equal(truncate(path_of(file[1]), 9999), 0);
	assert_int_equal(truncate(path_of(file[2]), 10001), 0);
	assert_int_equal(unlink(path_of(file[3])), 0);
	assert_int_equal(unlink(path_of(file[4])), 0);
	assert_int_equal(mkfifo(path_of(file[4]), 0644), 0);
	assert_int_equal(unlink(path_of(file[5])), 0);
	assert_int_equal(symlink(file[6], path_of(file[5])), 0);
	assert_int_equal(load_number(a, name, 0, 10000), -EILSEQ);
	assert_int_equal(load_number(a, name, 1, 10000), -EMSGSIZE);
	assert_int_equal(load_number(a, name, 2, 10000), -EMSGSIZE);
	for (uint64_t i = 3; i < 6; i++)
		assert_int_equal(load_number(a, name, i, 10000), -ENOENT);
	for (uint64_t i = 0; i < 6; i++) {
		assert_int_equal(find_one(a, key_of(name, i)), 0);
		assert_int_equal(load_number(a, name, i, 10000), -ENOENT);
		assert_false(exists(file[i]));
	}
	assert_int_equal(load_number(a, name, 6, 10000), 0);
	assert_int_equal(load_number(a, name, 7, 9000), -EMSGSIZE);
	assert_int_equal(stats_of(a).used_bytes, bytes_there(&files));
	assert_true(stats_of(a).bad_checksums == 1 && stats_of(a).load_errors == 3);
	close_fs(a);
}

static void rot_between_two_runs(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct l2 *a = open_fs("");
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(store_number(a, name, i, 50000), 0);
	close_fs(a);
	for (uint64_t i = 0; i < 20; i++)
		change_file(upstream_name("m@0x00000001@0", key_of(name, i), ""), i * 2500);
	/* a mark that is none, and one that lies about the length, are no marks */
	const char *file = path_of(upstream_name("m@0x00000001@0", key_of(name, 19), ""));
	bool marks = getxattr(file, FS_MARK, NULL, 0) > 0;
	if (!marks) {
		print_message("# no extended attributes here\n");
		return;
	}
	a = open_fs("");
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(load_number(a, name, i, 50000), -EILSEQ);
	assert_true(stats_of(a).bad_checksums == 20 && stats_of(a).objects == 0);
	assert_int_equal(store_number(a, name, 1, 4096), 0);
	close_fs(a);
	file = path_of(upstream_name("m@0x00000001@0", key_of(name, 1), ""));
	static const char *const junk[] = {"", "1", "2:00000000:0000000000001000:00000000000000000000000000000000",
					   "1:0000000g:0000000000001000:00000000000000000000000000000000",
					   "1:00000000:0000000000000fff:00000000000000000000000000000000"};
	for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
		assert_int_equal(setxattr(file, FS_MARK, junk[i], strlen(junk[i]), 0), 0);
		a = open_fs("");
		assert_int_equal(load_number(a, name, 1, 4096), 0);
		close_fs(a);
	}
}

static void left_by_a_crash(void **state)
{
	(void)state;
	uint32_t files;
	put_file(".lmca-0123456789abcdef-0.tmp", 1, 100, 0);
	put_file(".lmca-note", 1, 7, 0);
	assert_int_equal(mkdir(path_of("t"), 0755), 0);
	put_file("t/.lmca-0123456789abcdef-9.tmp", 1, 100, 0);
	struct l2 *a = open_fs("\"relative_tmp_dir\": \"t\"");
	assert_int_equal(bytes_there(&files), 7);
	assert_false(exists("t/.lmca-0123456789abcdef-9.tmp"));
	close_fs(a);
	/* where others write, too, a young one may be theirs */
	put_file(".lmca-0123456789abcdef-0.tmp", 1, 100, 0);
	put_file(".lmca-0123456789abcdef-1.tmp", 1, 100, time(NULL) - 3600);
	close_fs(open_fs("\"shared\": true"));
	assert_true(exists(".lmca-0123456789abcdef-0.tmp") && !exists(".lmca-0123456789abcdef-1.tmp"));
}

/* A child stores without end and is killed; whatever is found afterwards is right. */
static void killed_while_storing(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	uint64_t loaded = 0;
	int rounds = getenv("LMCA_SANITIZER") ? 6 : 25;
	for (int round = 0; round < rounds; round++) {
		pid_t pid = fork();
		if (pid == 0) {
			struct l2 *a = open_fs(round % 2 ? "\"use_odirect\": true, \"max_capacity_gb\": 0.01" : "");
			for (uint64_t i = (uint64_t)round * 1000;; i++)
				store_number(a, name, i, 20000 + i % 7 * 4096);
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000000 + round * 3000000}, NULL);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		struct l2 *a = open_fs("");
		uint32_t files;
		struct l2_stats n = stats_of(a);
		assert_true(n.used_bytes == bytes_there(&files) && n.objects == files);
		for (uint64_t i = (uint64_t)round * 1000; i < (uint64_t)round * 1000 + 999; i++)
			if (find_one(a, key_of(name, i))) {
				assert_int_equal(load_number(a, name, i, 20000 + i % 7 * 4096), 0);
				loaded++;
			}
		assert_true(stats_of(a).bad_checksums == 0 && stats_of(a).load_errors == 0);
		run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL);
		close_fs(a);
	}
	assert_true(loaded > 0);
}

/* A file system of 1 MiB that fills, and one that becomes read-only; needs a mount name space of our own. */
static void full_and_read_only(void **state)
{
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		    mount("lmca", dir, "tmpfs", 0, "size=1m"))
			_exit(77);
		struct l2 *a = open_fs("");
		uint32_t name = name_of("m", 1, 0, "", 1), files;
		for (uint64_t i = 0; i < 3; i++)
			assert_int_equal(store_number(a, name, i, 300000), 0);
		assert_int_equal(store_number(a, name, 3, 300000), -ENOSPC);
		assert_int_equal(bytes_there(&files), 900000); /* nothing half written stays */
		struct l2_stats n = stats_of(a);
		assert_true(!n.healthy && strstr(n.state, "No space") && n.used_bytes == 900000 && n.objects == 3);
		assert_int_equal(store_number(a, name, 4, 10), -EBUSY); /* for a second */
		assert_int_equal(load_number(a, name, 1, 300000), 0);
		assert_int_equal(run_io(a, a->ops->remove, key_of(name, 0), NULL, 0, NULL), 0);
		nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL);
		assert_int_equal(store_number(a, name, 4, 300000), 0);
		assert_true(stats_of(a).healthy);
		assert_int_equal(mount("lmca", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m"), 0);
		assert_int_equal(store_number(a, name, 5, 10), -EIO);
		n = stats_of(a);
		assert_true(!n.healthy && strstr(n.state, "Read-only"));
		assert_int_equal(load_number(a, name, 1, 300000), 0);
		close_fs(a);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("# no right to mount: skipped\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void three_errors_in_a_row(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct l2 *a = open_fs("\"relative_tmp_dir\": \"t\"");
	assert_int_equal(rmdir(path_of("t")), 0);
	for (uint64_t i = 0; i < 3; i++) {
		assert_true(stats_of(a).healthy);
		assert_int_equal(store_number(a, name, i, 10), -EIO);
	}
	assert_false(stats_of(a).healthy);
	assert_int_equal(store_number(a, name, 4, 10), -EBUSY);
	assert_true(stats_of(a).store_errors == 3 && stats_of(a).dropped == 1 && stats_of(a).used_bytes == 0);
	close_fs(a);
}

/* ---- others ---------------------------------------------------------------------------------------------------------------------- */

static void several_servers(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	char json[256];
	struct l2 *a = open_fs("");
	snprintf(json, sizeof(json), "{\"type\": \"fs\", \"base_path\": \"%s\"}", dir);
	assert_null(make_l2(json, -EBUSY, "in use by another server"));
	close_fs(a);
	a = open_fs("\"shared\": true");
	struct l2 *b = open_fs("\"shared\": true");
	assert_int_equal(store_number(a, name, 1, 5000), 0);
	assert_int_equal(find_one(b, key_of(name, 2)), 0);
	assert_int_equal(find_one(b, key_of(name, 1)), 5000);
	assert_int_equal(load_number(b, name, 1, 5000), 0);
	assert_int_equal(run_io(b, b->ops->remove, key_of(name, 1), NULL, 0, NULL), 0);
	assert_int_equal(load_number(a, name, 1, 5000), -ENOENT);
	close_fs(a);
	close_fs(b);
}

static void refused_at_start(void **state)
{
	(void)state;
	static const struct {
		const char *more, *says;
		int err;
	} bad[] = {
		{"\"relative_tmp_dir\": \"/tmp\"", "does not lie below", -EINVAL},
		{"\"relative_tmp_dir\": \"a/../../b\"", "does not lie below", -EINVAL},
		{"\"relative_tmp_dir\": \"..\"", "does not lie below", -EINVAL},
	};
	char json[400];
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(json, sizeof(json), "{\"type\": \"fs\", \"base_path\": \"%s\", %s}", dir, bad[i].more);
		assert_null(make_l2(json, bad[i].err, bad[i].says));
	}
	put_file("file", 1, 1, 0);
	snprintf(json, sizeof(json), "{\"type\": \"fs\", \"base_path\": \"%s/file\"}", dir);
	assert_null(make_l2(json, -ENOTDIR, "Not a directory"));
	snprintf(json, sizeof(json), "{\"type\": \"fs\", \"base_path\": \"%s/x/y/z\"}", dir);
	struct l2 *a = make_l2(json, 0, NULL);
	assert_string_equal(a->ops->type, "fs");
	close_fs(a);
	assert_true(exists("x/y/z"));
}

static void without_memory(void **state)
{
	(void)state;
	char json[256];
	struct why why;
	struct l2_conf *c = NULL;
	struct l2_env env = {.names = names};
	struct l2 *a = NULL;
	snprintf(json, sizeof(json), "{\"type\": \"fs\", \"base_path\": \"%s\"}", dir);
	assert_int_equal(l2_conf_parse(json, 0, &c, &why), 0);
	int rc = -ENOMEM;
	for (uint64_t i = 1; rc; i++) {
		assert_true(i < 50);
		mem_fail_at(i);
		rc = l2_create(c, &env, &a, &why);
		mem_fail_at(0);
		if (rc)
			assert_int_equal(rc, -ENOMEM);
	}
	close_fs(a);
	l2_conf_free(c);
}

static _Atomic uint32_t ended;

static void count_end(struct l2_io *io)
{
	assert_true(io->result == 0 || io->result == -ECANCELED);
	ended++;
}

/* Everything ends exactly once, however much is queued. */
static void closed_in_the_middle(void **state)
{
	enum { N = 100, BYTES = 200000 };
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	static struct l2_io io[N];
	static uint32_t sums[N][1];
	static uint8_t mem[BYTES];
	struct l2 *a = open_fs("\"fsync\": \"always\"");
	ended = 0;
	for (uint32_t i = 0; i < N; i++) {
		io[i] = (struct l2_io){
			.key = key_of(name, i), .mem = mem, .bytes = BYTES, .sums = sums[i], .done = count_end};
		sums[i][0] = 0;
		a->ops->store(a, &io[i]);
	}
	a->ops->close(a, 8000);
	assert_int_equal(ended, N);
}

struct crowd {
	struct l2 *a;
	uint32_t name;
	uint64_t seed;
	uint64_t loaded, stored;
	pthread_t thread;
};

static uint64_t next_of(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return *seed >> 33;
}

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	for (int i = 0; i < 400; i++) {
		uint64_t number = next_of(&c->seed) % 24, bytes = 3000 + number * 512, what = next_of(&c->seed) % 100;
		int rc;
		if (what < 45) {
			rc = store_number(c->a, c->name, number, bytes);
			check(rc == 0 || rc == -EEXIST || rc == -EBUSY || rc == -ENOSPC);
			c->stored += rc == 0;
		} else if (what < 85) {
			rc = load_number(c->a, c->name, number, bytes);
			check(rc == 0 || rc == -ENOENT);
			c->loaded += rc == 0;
		} else if (what < 97) {
			rc = run_io(c->a, c->a->ops->remove, key_of(c->name, number), NULL, 0, NULL);
			check(rc == 0 || rc == -ENOENT);
		} else {
			rc = run_io(c->a, what == 99 ? c->a->ops->clear : c->a->ops->flush, key_of(c->name, 0), NULL, 0,
				    NULL);
			check(rc == 0);
		}
	}
	return NULL;
}

/* Few keys, a small limit, everybody at them: nothing wrong is loaded, and the books are right at the end. */
static void everything_at_once(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1), files;
	uint64_t loaded = 0, stored = 0;
	struct crowd c[4];
	struct l2 *a = open_fs("\"max_capacity_gb\": 0.00005722045898437500"); /* 61440 */
	for (uint64_t i = 0; i < 4; i++) {
		c[i] = (struct crowd){.a = a, .name = name, .seed = i};
		assert_int_equal(pthread_create(&c[i].thread, NULL, crowd_main, &c[i]), 0);
	}
	for (int i = 0; i < 200; i++)
		assert_true(stats_of(a).used_bytes <= 61440);
	for (uint64_t i = 0; i < 4; i++) {
		pthread_join(c[i].thread, NULL);
		loaded += c[i].loaded;
		stored += c[i].stored;
	}
	struct l2_stats n = stats_of(a);
	assert_true(n.used_bytes == bytes_there(&files) && n.objects == files);
	assert_true(n.loads == loaded && n.stores == stored && loaded > 0 && stored > 0);
	assert_true(n.bad_checksums == 0 && n.load_errors == 0 && n.store_errors == 0);
	close_fs(a);
}

int main(void)
{
#define T(n, f)                                                \
	{                                                      \
		"daemon/l2: fs " n, f, set_up, tear_down, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("10 changed behind our back", changed_behind_our_back),
		T("11 rot between two runs", rot_between_two_runs),
		T("12 left by a crash", left_by_a_crash),
		T("13 killed while storing", killed_while_storing),
		T("14 full and read-only", full_and_read_only),
		T("15 three errors in a row", three_errors_in_a_row),
		T("16 several servers", several_servers),
		T("17 refused at start", refused_at_start),
		T("18 without memory", without_memory),
		T("19 closed in the middle", closed_in_the_middle),
		T("20 everything at once", everything_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
