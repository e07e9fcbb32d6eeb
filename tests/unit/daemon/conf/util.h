/* util.h - what the tests of daemon/conf share: a clean environment, captured output, golden files. */
#ifndef TESTS_UNIT_DAEMON_CONF_UTIL_H
#define TESTS_UNIT_DAEMON_CONF_UTIL_H

#include "daemon/conf/conf_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGS_MAX 16

/* Parses a NULL-terminated list of arguments. */
static inline int parse_list(struct conf *c, struct why *why, const char *const *args)
{
	char *argv[ARGS_MAX + 2] = {(char *)"prog"};
	int argc = 1;

	for (; args[argc - 1]; argc++) {
		assert_in_range(argc, 1, ARGS_MAX);
		argv[argc] = (char *)args[argc - 1];
	}
	memset(why, 0, sizeof(*why));
	return conf_parse(argc, argv, c, why);
}
#define parse(c, why, ...) parse_list(c, why, (const char *const[]){__VA_ARGS__, NULL})
#define REQUIRED           "--l1-size-gb", "100", "--eviction-policy", "LRU"

/* Removes every variable that conf reads. */
static inline void clean_environment(void)
{
	char buf[CONF_ENV_CAP];

	for (unsigned i = 0; i < CONF_OPTIONS; i++)
		unsetenv(conf_env_name(&conf_options[i], buf));
	for (unsigned i = 0; conf_absents[i].flag; i++) {
		unsetenv(conf_env_of_flag(conf_absents[i].flag, buf));
		if (conf_absents[i].env)
			unsetenv(conf_absents[i].env);
	}
}

/* Sends a file descriptor into a temporary file; capture_end gives what was written (free it). */
struct capture {
	int fd, saved, file;
};

static inline struct capture capture_begin(int fd)
{
	struct capture c = {.fd = fd};

	fflush(NULL);
	c.saved = dup(fd);
	c.file = fileno(tmpfile());
	assert_true(c.saved >= 0 && c.file >= 0);
	assert_int_equal(dup2(c.file, fd), fd);
	return c;
}

static inline char *capture_end(struct capture c)
{
	off_t len;
	char *text;

	fflush(NULL);
	assert_int_equal(dup2(c.saved, c.fd), c.fd);
	close(c.saved);
	len = lseek(c.file, 0, SEEK_END);
	assert_true(len >= 0);
	text = calloc(1, (size_t)len + 1);
	assert_non_null(text);
	assert_int_equal(pread(c.file, text, (size_t)len, 0), len);
	return text;
}

static inline unsigned count_of(const char *text, const char *part)
{
	unsigned n = 0;

	for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
		n++;
	return n;
}

/* The whole file, freed by the caller. */
static inline char *slurp(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = calloc(1, 1u << 20);

	if (!f)
		fail_msg("%s: cannot open; tests run from the repository root", path);
	assert_non_null(text);
	assert_true(fread(text, 1, (1u << 20) - 1, f) > 0);
	fclose(f);
	return text;
}

/* Compares with a checked-in file; LMCA_UPDATE_GOLDEN rewrites it instead. */
static inline void assert_golden(const char *path, const char *text)
{
	char *want;

	if (getenv("LMCA_UPDATE_GOLDEN")) {
		FILE *f = fopen(path, "we");
		assert_non_null(f);
		fputs(text, f);
		fclose(f);
	}
	want = slurp(path);
	assert_string_equal(text, want);
	free(want);
}

static inline void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

#endif
