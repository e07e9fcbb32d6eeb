/* fs_fixture.h - a directory of its own per test, and an adapter in it. Included by one test file per binary. */
#ifndef TESTS_UNIT_DAEMON_L2_FS_FIXTURE_H
#define TESTS_UNIT_DAEMON_L2_FS_FIXTURE_H

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

static inline int set_up(void **state)
{
	(void)state;
	log_set_level(LOG_LVL_ERROR);
	memcpy(dir, "/tmp/lmca-fs-test-XXXXXX", 25);
	assert_non_null(mkdtemp(dir));
	return seg_names_create(&names);
}

static inline int remove_it(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline int tear_down(void **state)
{
	(void)state;
	seg_names_destroy(names);
	return nftw(dir, remove_it, 8, FTW_DEPTH | FTW_PHYS);
}

static inline struct l2 *open_fs(const char *more)
{
	char json[512];
	snprintf(json, sizeof(json), "{\"type\": \"fs_native\", \"base_path\": \"%s\"%s%s}", dir, *more ? ", " : "",
		 more);
	struct l2 *a = make_l2(json, 0, NULL);
	wait_state(a, "ok");
	return a;
}

static inline void close_fs(struct l2 *a)
{
	a->ops->close(a, 5000);
}

static char *path_of(const char *file)
{
	static char path[600];
	snprintf(path, sizeof(path), "%s/%.500s", dir, file);
	return path;
}

static inline bool exists(const char *file)
{
	struct stat st;
	return lstat(path_of(file), &st) == 0;
}

static inline void put_file(const char *file, uint64_t number, uint64_t bytes, time_t used)
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
static inline uint64_t bytes_there(uint32_t *n)
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

static inline const char *hex_of(struct store_hash h, uint32_t bytes)
{
	static char text[2 * STORE_HASH_BYTES + 1];
	for (uint32_t i = 0; i < bytes; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", h.b[i]);
	return text;
}

static inline const char *upstream_name(const char *head, struct seg_key key, const char *tail)
{
	static char text[512];
	snprintf(text, sizeof(text), "%s@%s%s.data", head, hex_of(key.hash, STORE_HASH_BYTES), tail);
	return text;
}

#endif
