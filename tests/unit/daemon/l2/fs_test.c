/* fs_test.c - objects as files: names, other people's directories, limits, and what goes wrong with files. */
#include "tests/unit/daemon/l2/l2_sync.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/l2/fs_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static char dir[64];

static int set_up(void **state)
{
	(void)state;
	log_set_level(LOG_LVL_ERROR);
	memcpy(dir, "/tmp/lmca-fs-test-XXXXXX", 25);
	assert_non_null(mkdtemp(dir));
	return seg_names_create(&names);
}

static int remove_it(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int tear_down(void **state)
{
	(void)state;
	seg_names_destroy(names);
	return nftw(dir, remove_it, 8, FTW_DEPTH | FTW_PHYS);
}

static struct l2 *open_fs(const char *more)
{
	char json[512];
	snprintf(json, sizeof(json), "{\"type\": \"fs_native\", \"base_path\": \"%s\"%s%s}", dir, *more ? ", " : "",
		 more);
	struct l2 *a = make_l2(json, 0, NULL);
	wait_state(a, "ok");
	return a;
}

static void close_fs(struct l2 *a)
{
	a->ops->close(a, 5000);
}

static char *path_of(const char *file)
{
	static char path[600];
	snprintf(path, sizeof(path), "%s/%.500s", dir, file);
	return path;
}

static bool exists(const char *file)
{
	struct stat st;
	return lstat(path_of(file), &st) == 0;
}

static void put_file(const char *file, uint64_t number, uint64_t bytes, time_t used)
{
	uint8_t *p = malloc(bytes + 1);
	content(p, bytes, number);
	FILE *f = fopen(path_of(file), "w");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, bytes, f), bytes);
	fclose(f);
	free(p);
	if (used) {
		const struct timespec t[2] = {{.tv_sec = used}, {.tv_sec = used}};
		assert_int_equal(utimensat(AT_FDCWD, path_of(file), t, 0), 0);
	}
}

/* Bytes of all files in the directory, temporary ones, too; *n of them. */
static uint64_t bytes_there(uint32_t *n)
{
	uint64_t bytes = 0;
	struct stat st;
	DIR *d = opendir(dir);
	*n = 0;
	for (struct dirent *e; (e = readdir(d));)
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode)) {
			bytes += (uint64_t)st.st_size;
			++*n;
		}
	closedir(d);
	return bytes;
}

static const char *hex_of(struct store_hash h, uint32_t bytes)
{
	static char text[2 * STORE_HASH_BYTES + 1];
	for (uint32_t i = 0; i < bytes; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", h.b[i]);
	return text;
}

static const char *upstream_name(const char *head, struct seg_key key, const char *tail)
{
	static char text[512];
	snprintf(text, sizeof(text), "%s@%s%s.data", head, hex_of(key.hash, STORE_HASH_BYTES), tail);
	return text;
}

/* ---- names --------------------------------------------------------------------------------------------------------------- */

static void upstreams_names(void **state)
{
	(void)state;
	struct l2 *a = open_fs("");
	uint32_t plain = name_of("meta-llama/Llama-3.1-8B", 0x04020402, 0, "", 1);
	uint32_t salted = name_of("m", 0x01000100, 10, "tenant-1", 1);
	struct seg_key key = key_of(plain, 1), shorter = key_of(plain, 2), in_salt = key_of(salted, 3);
	assert_int_equal(store_number(a, plain, 1, 5000), 0);
	assert_int_equal(store_number(a, salted, 3, 100), 0);
	memset(shorter.hash.b + 8, 0, STORE_HASH_BYTES - 8);
	uint8_t byte[3] = "xyz";
	assert_int_equal(run_io(a, a->ops->store, shorter, byte, 3, NULL), 0);
	assert_true(exists(upstream_name("meta-SEP-llama", key, "")) == false);
	assert_true(exists(upstream_name("meta-llama-SEP-Llama-3.1-8B@0x04020402@0", key, "")));
	assert_true(exists(upstream_name("m@0x01000100@a", in_salt, "@tenant-1")));
	char eight[128];
	snprintf(eight, sizeof(eight), "meta-llama-SEP-Llama-3.1-8B@0x04020402@0@%s.data", hex_of(shorter.hash, 8));
	assert_true(exists(eight));
	assert_int_equal(load_number(a, plain, 1, 5000), 0);
	assert_int_equal(load_number(a, salted, 3, 100), 0);
	assert_int_equal(load_number(a, salted, 1, 5000), -ENOENT);
	close_fs(a);
}

static void names_that_are_no_files(void **state)
{
	(void)state;
	struct l2 *a = open_fs("");
	uint32_t n;
	char longer[300];
	memset(longer, 'm', 180);
	longer[180] = 0;
	const uint32_t bad[] = {
		name_of("m", 1, 0, "../../etc/passwd", 1),
		name_of("m", 1, 0, "a/b", 1),
		name_of(longer, 1, 0, "", 1),
		name_of("a@0x00000001@0@b", 1, 0, "", 1),
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(store_number(a, bad[i], 1, 10), -EINVAL);
		assert_int_equal(find_one(a, key_of(bad[i], 1)), 0);
		assert_int_equal(load_number(a, bad[i], 1, 10), -ENOENT);
	}
	assert_int_equal(bytes_there(&n), 0);
	assert_int_equal(n, 0);
	/* dots do no harm inside a name */
	assert_int_equal(store_number(a, name_of("..", 1, 0, "..", 1), 1, 10), 0);
	assert_int_equal(bytes_there(&n), 10);
	assert_int_equal(stats_of(a).dropped, 4);
	close_fs(a);
}

static void parsing(void **state)
{
	(void)state;
#define H "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	static const struct {
		const char *file;
		bool ours;
	} files[] = {
		{"m@0x00000001@0@" H ".data", true},
		{"m@0x00000001@" H ".data", true},
		{"m@0x00000001@ffffffff@" H "@s@t.data", true},
		{"m@0x00000001@0@0123456789abcdef.data", true},
		{"@0x00000001@0@" H ".data", true},
		{"m@0x0000001@0@" H ".data", false},
		{"m@0x000000001@0@" H ".data", false},
		{"m@0x00000001@0@" H ".dat", false},
		{"m@0x00000001@0@" H "@.data", false},
		{"m@0x00000001@0@" H "x.data", false},
		{"m@0x00000001@0@" H "00.data", false},
		{"m@0x00000001@123456789@" H ".data", false},
		{"m@0x00000001@0@0123456789ABCDEF.data", false},
		{"m@0x00000001@0@0123456789abcdef000000000000000000000000000000000000000000000000.data", false},
		{"m@0x00000001@@" H ".data", false},
		{"m@0x00000001@0.data", false},
		{".data", false},
		{"", false},
		{"m", false},
	};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct fs_parsed p;
		if (fs_parse(files[i].file, &p) != files[i].ours)
			fail_msg("%s", files[i].file);
	}
}

/* ---- storing and loading -------------------------------------------------------------------------------------------------- */

static void comes_back(struct l2 *a, uint32_t name)
{
	static const uint64_t bytes[] = {1, 4095, 4096, 8192, CRC_BLOCK, CRC_BLOCK + 4096, 3 * CRC_BLOCK + 17};
	for (uint64_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
		assert_int_equal(find_one(a, key_of(name, i)), 0);
		assert_int_equal(load_number(a, name, i, bytes[i]), -ENOENT);
		assert_int_equal(store_number(a, name, i, bytes[i]), 0);
		assert_int_equal(store_number(a, name, i, bytes[i]), -EEXIST);
		assert_int_equal(find_one(a, key_of(name, i)), bytes[i]);
		assert_int_equal(load_number(a, name, i, bytes[i]), 0);
	}
	assert_int_equal(run_io(a, a->ops->remove, key_of(name, 3), NULL, 0, NULL), 0);
	assert_int_equal(run_io(a, a->ops->remove, key_of(name, 3), NULL, 0, NULL), -ENOENT);
	assert_int_equal(find_one(a, key_of(name, 3)), 0);
	assert_int_equal(run_io(a, a->ops->flush, key_of(name, 0), NULL, 0, NULL), 0);
	struct l2_stats n = stats_of(a);
	uint32_t files;
	assert_int_equal(n.objects, 6);
	assert_int_equal(n.used_bytes, bytes_there(&files));
	assert_int_equal(files, 6);
	assert_true(n.stores == 7 && n.present == 7 && n.loads == 7 && n.load_misses == 7 && n.removed == 1 &&
		    n.healthy);
	struct l2_list_entry e[4];
	uint64_t cursor = 0, seen = 0;
	do {
		uint32_t k = a->ops->list(a, &cursor, e, 4);
		for (uint32_t i = 0; i < k; i++)
			assert_true(e[i].key.name == name && find_one(a, e[i].key) == e[i].bytes);
		seen += k;
	} while (cursor);
	assert_int_equal(seen, 6);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	assert_int_equal(bytes_there(&files), 0);
	assert_int_equal(stats_of(a).used_bytes, 0);
	assert_int_equal(store_number(a, name, 0, 0), -EFBIG);
}

static void stored_and_loaded(void **state)
{
	static const char *const with[] = {"",
					   "\"use_odirect\": true",
					   "\"fsync\": \"always\"",
					   "\"fsync\": \"never\"",
					   "\"relative_tmp_dir\": \"a/b\"",
					   "\"num_workers\": 1, \"read_io_depth\": 3",
					   "\"read_max_bytes_in_flight\": 1",
					   "\"shared\": true"};
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	for (size_t i = 0; i < sizeof(with) / sizeof(with[0]); i++) {
		struct l2 *a = open_fs(with[i]);
		assert_true(a->ops->local == (strstr(with[i], "shared") == NULL));
		comes_back(a, name);
		json_t *d = a->ops->describe(a);
		assert_string_equal(json_string_value(json_object_get(d, "base_path")), dir);
		json_decref(d);
		close_fs(a);
	}
}

static void kept_over_a_restart(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "s", 1), other = name_of("m", 1, 0, "s", 2);
	struct l2 *a = open_fs("");
	bool marks = true;
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(store_number(a, name, i, 1000 + i), 0);
	json_t *d = a->ops->describe(a);
	marks = json_is_true(json_object_get(d, "checksums_kept"));
	json_decref(d);
	close_fs(a);
	a = open_fs("");
	assert_int_equal(stats_of(a).objects, 50);
	assert_int_equal(stats_of(a).used_bytes, 50 * 1000 + 49 * 25);
	for (uint64_t i = 0; i < 50; i++) {
		assert_int_equal(find_one(a, key_of(name, i)), 1000 + i);
		assert_int_equal(load_number(a, name, i, 1000 + i), 0);
		assert_int_equal(find_one(a, key_of(other, i)), marks ? 0 : 1000 + i);
	}
	close_fs(a);
	if (!marks) {
		print_message("# no extended attributes here\n");
		return;
	}
	/* another layout: the first load finds out, a store takes the place */
	a = open_fs("");
	assert_int_equal(load_number(a, other, 7, 1007), -ENOENT);
	assert_int_equal(find_one(a, key_of(other, 7)), 0);
	assert_int_equal(stats_of(a).bad_checksums, 0);
	assert_int_equal(store_number(a, other, 7, 1007), 0);
	assert_int_equal(load_number(a, other, 7, 1007), 0);
	assert_int_equal(load_number(a, name, 7, 1007), -ENOENT);
	assert_int_equal(stats_of(a).objects, 50);
	close_fs(a);
}

/* A directory that the Python server wrote, and things that are not its. */
static void upstreams_directory(void **state)
{
	(void)state;
	uint32_t name = name_of("org/model", 0x02010201, 3, "", 1), old = name_of("org/model", 0x02010201, 0, "t", 1),
		 n;
	char newer[400], older[400];
	snprintf(newer, sizeof(newer), "%s", upstream_name("org-SEP-model@0x02010201@3", key_of(name, 1), ""));
	snprintf(older, sizeof(older), "%s", upstream_name("org-SEP-model@0x02010201", key_of(old, 2), "@t"));
	put_file(newer, 1, 70000, 0);
	put_file(older, 2, 8192, 0);
	put_file("README.data", 3, 10, 0);
	put_file("somebody.tmp", 3, 10, 0);
	assert_int_equal(mkdir(path_of(upstream_name("dir@0x00000001@0", key_of(name, 9), "")), 0755), 0);
	assert_int_equal(
		symlink("/etc/passwd", path_of(upstream_name("org-SEP-model@0x02010201@3", key_of(name, 5), ""))), 0);
	struct l2 *a = open_fs("\"max_capacity_gb\": 1");
	assert_int_equal(stats_of(a).objects, 2);
	assert_int_equal(stats_of(a).used_bytes, 78192);
	assert_int_equal(find_one(a, key_of(name, 1)), 70000);
	assert_int_equal(find_one(a, key_of(name, 5)), 0);
	assert_int_equal(load_number(a, name, 1, 70000), 0);
	assert_int_equal(load_number(a, old, 2, 8192), 0);
	assert_int_equal(store_number(a, old, 2, 8192), -EEXIST);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	assert_false(exists(newer) || exists(older));
	assert_int_equal(bytes_there(&n), 20); /* others' files stay */
	close_fs(a);
}

/* ---- limits ------------------------------------------------------------------------------------------------------------------ */

static void never_above_the_cap(void **state)
{
	(void)state;
	/* 1 MiB; ten times over, objects of all sizes, four at once */
	struct l2 *a = open_fs("\"max_capacity_gb\": 0.0009765625");
	uint32_t name = name_of("m", 1, 0, "", 1), files;
	static uint8_t mem[4][300000];
	sem_t sem;
	sem_init(&sem, 0, 0);
	for (uint64_t i = 0, total = 0; total < 11u << 20; i += 4) {
		struct l2_io io[4];
		uint32_t sums[4][SYNC_SUMS] = {{0}};
		for (uint32_t k = 0; k < 4; k++) {
			uint64_t bytes = 1 + (i + k) * 7919 % sizeof(mem[0]);
			io[k] = (struct l2_io){
				.key = key_of(name, i + k), .mem = mem[k], .bytes = bytes, .sums = sums[k]};
			io[k].done = io_posted;
			io[k].owner = &sem;
			content(mem[k], bytes, i + k);
			a->ops->store(a, &io[k]);
			total += bytes;
		}
		assert_true(bytes_there(&files) <= 1u << 20);
		for (uint32_t k = 0; k < 4; k++)
			while (sem_wait(&sem))
				;
		for (uint32_t k = 0; k < 4; k++) {
			assert_int_equal(io[k].result, 0);
			assert_int_equal(sums[k][0], crc32c(0, mem[k], io[k].bytes));
		}
		assert_true(bytes_there(&files) <= 1u << 20);
		assert_true(stats_of(a).used_bytes == bytes_there(&files) && stats_of(a).objects == files);
	}
	assert_true(stats_of(a).evicted_bytes > 9u << 20);
	assert_int_equal(store_number(a, name, 1u << 20, (1u << 20) + 1), -ENOSPC); /* larger than everything */
	close_fs(a);
	sem_destroy(&sem);
	/* a smaller limit holds as soon as the files are counted */
	a = open_fs("\"max_capacity_gb\": 0.00048828125");
	assert_true(bytes_there(&files) <= 512u << 10 && files > 0);
	assert_int_equal(stats_of(a).used_bytes, bytes_there(&files));
	close_fs(a);
}

static void oldest_first(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	time_t now = time(NULL);
	for (uint64_t i = 0; i < 8; i++) /* 3, 0, 5, 2, 7, 4, 1, 6 from old to young */
		put_file(upstream_name("m@0x00000001@0", key_of(name, i), ""), i, 1000,
			 now - 1000 + (time_t)((i * 3 + 7) % 8) * 10);
	struct l2 *a = open_fs("\"max_capacity_gb\": 0.00000745058059692383"); /* 8000 bytes */
	uint64_t order[8], n = 0;
	for (time_t t = 0; t < 8; t++)
		for (uint64_t i = 0; i < 8; i++)
			if ((i * 3 + 7) % 8 == (uint64_t)t)
				order[n++] = i;
	assert_int_equal(load_number(a, name, order[0], 1000), 0); /* the oldest is used and becomes the youngest */
	for (uint64_t i = 1; i < 8; i++) {
		assert_int_equal(find_one(a, key_of(name, order[i])), 1000);
		assert_int_equal(store_number(a, name, 100 + i, 1000), 0);
		assert_int_equal(find_one(a, key_of(name, order[i])), 0);
		assert_int_equal(find_one(a, key_of(name, order[0])), 1000);
	}
	close_fs(a);
}

static void watermark_and_noop(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct l2 *a = open_fs(
		"\"max_capacity_gb\": 0.0000095367431640625, \"eviction\": "
		"{\"eviction_policy\": \"LRU\", \"trigger_watermark\": 0.5, \"eviction_ratio\": 0.4}"); /* 10240 */
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(store_number(a, name, i, 1200), 0);
	assert_int_equal(stats_of(a).evicted_objects, 0);
	assert_int_equal(store_number(a, name, 4, 1200), 0); /* 6000 of 10240: down to 3600 */
	assert_int_equal(stats_of(a).used_bytes, 3600);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	close_fs(a);
	a = open_fs("\"max_capacity_gb\": 0.0000095367431640625, \"eviction\": {\"eviction_policy\": \"noop\"}");
	for (uint64_t i = 0; i < 12; i++)
		assert_int_equal(store_number(a, name, i, 1000), i < 10 ? 0 : -ENOSPC);
	assert_true(stats_of(a).dropped == 2 && stats_of(a).evicted_objects == 0 && stats_of(a).used_bytes == 10000);
	close_fs(a);
}

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
		snprintf(file[i], sizeof(file[i]), "%s", upstream_name("m@0x00000001@0", key_of(name, i), ""));
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
	enum { N = 300, BYTES = 200000 };
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
	a->ops->close(a, 1);
	assert_int_equal(ended, N);
}

int main(void)
{
#define T(n, f)                                                \
	{                                                      \
		"daemon/l2: fs " n, f, set_up, tear_down, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("01 upstream's names", upstreams_names),
		T("02 names that are no files", names_that_are_no_files),
		T("03 parsing", parsing),
		T("04 stored and loaded", stored_and_loaded),
		T("05 kept over a restart", kept_over_a_restart),
		T("06 upstream's directory", upstreams_directory),
		T("07 never above the cap", never_above_the_cap),
		T("08 oldest first", oldest_first),
		T("09 watermark and noop", watermark_and_noop),
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
