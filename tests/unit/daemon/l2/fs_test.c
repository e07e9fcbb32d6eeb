/* fs_test.c - objects as files: names, other people's directories, limits. */
#include "tests/unit/daemon/l2/fs_fixture.h"

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

static void forgotten_over_a_restart(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1), files;
	struct l2 *a = open_fs("");
	for (uint64_t i = 0; i < 5; i++)
		assert_int_equal(store_number(a, name, i, 2000), 0);
	close_fs(a);
	a = open_fs("\"persist_enabled\": false, \"max_capacity_gb\": 0.0000095367431640625"); /* 10240 */
	assert_int_equal(stats_of(a).used_bytes, 10000);
	for (uint64_t i = 0; i < 5; i++) {
		assert_int_equal(find_one(a, key_of(name, i)), 0);
		assert_int_equal(load_number(a, name, i, 2000), -ENOENT);
	}
	assert_int_equal(store_number(a, name, 3, 2000), 0);
	assert_int_equal(load_number(a, name, 3, 2000), 0);
	assert_true(bytes_there(&files) == 10000 && files == 5);
	assert_int_equal(store_number(a, name, 9, 3000), 0);
	assert_int_equal(load_number(a, name, 3, 2000), 0);
	assert_true(bytes_there(&files) == 9000 && files == 4);
	close_fs(a);
}

/* A directory that the Python server wrote, and things that are not its. */
static void upstreams_directory(void **state)
{
	(void)state;
	uint32_t name = name_of("org/model", 0x02010201, 3, "", 1), old = name_of("org/model", 0x02010201, 0, "t", 1),
		 n;
	char newer[400], older[400];
	snprintf(newer, sizeof(newer), "%.399s", upstream_name("org-SEP-model@0x02010201@3", key_of(name, 1), ""));
	snprintf(older, sizeof(older), "%.399s", upstream_name("org-SEP-model@0x02010201", key_of(old, 2), "@t"));
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
		assert_true(stats_of(a).used_bytes <= 1u << 20); /* a directory that changes cannot be summed up */
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
		T("05 forgotten over a restart", forgotten_over_a_restart),
		T("06 upstream's directory", upstreams_directory),
		T("07 never above the cap", never_above_the_cap),
		T("08 oldest first", oldest_first),
		T("09 watermark and noop", watermark_and_noop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
