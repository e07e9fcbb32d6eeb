#include "daemon/base/log.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LINE_MAX_BYTES 2048

/* stderr goes into a file while a test runs. */
struct capture {
	FILE *f;
	int saved;
};

static void begin(struct capture *c)
{
	fflush(stderr);
	c->f = tmpfile();
	assert_non_null(c->f);
	c->saved = dup(STDERR_FILENO);
	assert_true(c->saved >= 0 && dup2(fileno(c->f), STDERR_FILENO) >= 0);
}

static char *end(struct capture *c)
{
	long n;
	char *text;

	dup2(c->saved, STDERR_FILENO);
	close(c->saved);
	assert_int_equal(fseek(c->f, 0, SEEK_END), 0);
	n = ftell(c->f);
	text = calloc(1, (size_t)n + 1);
	assert_non_null(text);
	rewind(c->f);
	assert_int_equal(fread(text, 1, (size_t)n, c->f), n);
	fclose(c->f);
	return text;
}

static bool matches(const char *text, const char *pattern)
{
	regex_t re;
	int rc;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	rc = regexec(&re, text, 0, NULL, 0);
	regfree(&re);
	return rc == 0;
}

#define STAMP "^\\[[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2},[0-9]{3}\\] "

static void test_01_the_line_operators_know(void **state)
{
	struct capture c;
	char *text;
	(void)state;

	begin(&c);
	log_line(LOG_LVL_INFO, "daemon/core/control.c", 123, "text %d", 7);
	text = end(&c);
	assert_true(matches(text, STAMP "LMCache INFO: text 7 \\(control\\.c:123:daemon\\.core\\)\n$"));
	free(text);
}

static void test_02_every_level_has_its_word(void **state)
{
	struct capture c;
	char *text;
	(void)state;

	begin(&c);
	log_line(LOG_LVL_DEBUG, "x.c", 1, "a");
	log_line(LOG_LVL_WARNING, "x.c", 1, "b");
	log_line(LOG_LVL_ERROR, "x.c", 1, "c");
	text = end(&c);
	assert_non_null(strstr(text, "] LMCache DEBUG: a (x.c:1:)\n"));
	assert_non_null(strstr(text, "] LMCache WARNING: b (x.c:1:)\n"));
	assert_non_null(strstr(text, "] LMCache ERROR: c (x.c:1:)\n"));
	free(text);
}

static void test_03_the_threshold(void **state)
{
	enum log_level before = log_get_level();
	struct capture c;
	char *text;
	(void)state;

	begin(&c);
	log_set_level(LOG_LVL_WARNING);
	log_debug("one");
	log_info("two");
	log_warn("three");
	log_error("four");
	log_set_level(LOG_LVL_DEBUG);
	log_debug("five");
	log_set_level(before);
	text = end(&c);
	assert_null(strstr(text, "one"));
	assert_null(strstr(text, "two"));
	assert_non_null(strstr(text, "three"));
	assert_non_null(strstr(text, "four"));
	assert_non_null(strstr(text, "five"));
	assert_non_null(strstr(text, "(log_test.c:"));
	free(text);
}

static int touch(int *n)
{
	return ++*n;
}

static void test_04_arguments_below_the_threshold_cost_nothing(void **state)
{
	int n = 0;
	(void)state;

	log_set_level(LOG_LVL_ERROR);
	log_info("%d", touch(&n));
	log_set_level(LOG_LVL_INFO);
	assert_int_equal(n, 0);
}

static void test_05_names_of_levels(void **state)
{
	enum log_level l;
	(void)state;

	for (int i = 0; i < 4; i++) {
		assert_int_equal(log_level_parse(log_level_name((enum log_level)i), &l), 0);
		assert_int_equal(l, i);
	}
	assert_int_equal(log_level_parse("warning", &l), 0);
	assert_int_equal(l, LOG_LVL_WARNING);
	assert_int_equal(log_level_parse("", &l), -EINVAL);
	assert_int_equal(log_level_parse("INFOX", &l), -EINVAL);
	assert_int_equal(log_level_parse("INF", &l), -EINVAL);
}

/* A request id may hold anything. It must neither end the line nor drive the terminal that shows it. */
static void test_06_control_bytes_are_defused(void **state)
{
	struct capture c;
	char foreign[64], *text;
	size_t n = 0;
	(void)state;

	for (int b = 1; b < 0x20; b++)
		foreign[n++] = (char)b;
	foreign[n++] = 0x7f;
	foreign[n] = '\0';
	begin(&c);
	log_line(LOG_LVL_INFO, "x.c", 1, "|%s|", foreign);
	text = end(&c);
	assert_non_null(strstr(text, "|????????????????????????????????|"));
	assert_int_equal(strcspn(text, "\n"), strlen(text) - 1);
	for (const char *s = text; s[1]; s++)
		assert_true((unsigned char)*s >= 0x20 && *s != 0x7f);
	free(text);
}

/* U+0080 to U+009F are control characters, too: U+009B begins a terminal's escape sequence like ESC [ does. */
static void test_07_c1_controls_are_defused_and_letters_are_not(void **state)
{
	struct capture c;
	char *text;
	(void)state;

	begin(&c);
	log_line(LOG_LVL_INFO, "x.c", 1, "|\xc2\x9b|\xc2\x80|\xc3\xa9\xe2\x82\xac|\xc2\xa0|\xc2");
	text = end(&c);
	assert_non_null(strstr(text, "|??|??|\xc3\xa9\xe2\x82\xac|\xc2\xa0|\xc2 (x.c:1:)\n"));
	free(text);
}

/* Every length around the end of the buffer: the line ends once, with its place, and no byte is read or written beyond. */
static void test_08_long_texts_are_cut(void **state)
{
	char big[LINE_MAX_BYTES + 200];
	struct capture c;
	(void)state;

	for (size_t n = LINE_MAX_BYTES - 250; n < sizeof(big); n += 3) {
		char *text;

		memset(big, 'x', n);
		big[n] = '\0';
		begin(&c);
		log_line(LOG_LVL_INFO, "daemon/http/metrics_render.c", 12345, "%s", big);
		text = end(&c);
		assert_true(strlen(text) < LINE_MAX_BYTES);
		assert_true(matches(text, STAMP "LMCache INFO: x+ \\(metrics_render\\.c:12345:daemon\\.http\\)\n$"));
		free(text);
	}
}

static void test_09_long_paths_are_cut(void **state)
{
	char path[700], big[LINE_MAX_BYTES];
	struct capture c;
	char *text;
	(void)state;

	memset(path, 'p', sizeof(path));
	path[300] = '/';
	path[sizeof(path) - 1] = '\0';
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	begin(&c);
	log_line(LOG_LVL_INFO, path, 1, "%s", big);
	text = end(&c);
	assert_in_range(strlen(text), 1, LINE_MAX_BYTES);
	assert_int_equal(strcspn(text, "\n"), strlen(text) - 1);
	free(text);
}

static void test_10_one_line_per_period(void **state)
{
	struct log_limit limit = {0};
	uint64_t dropped = 99, t0;
	int passed = 0;
	(void)state;

	assert_true(log_limit_pass(&limit, 100000, &dropped));
	assert_int_equal(dropped, 0);
	for (int i = 0; i < 50; i++)
		passed += log_limit_pass(&limit, 100000, &dropped);
	assert_int_equal(passed, 0);
	limit.next_ms = 0;
	assert_true(log_limit_pass(&limit, 20, &dropped));
	assert_int_equal(dropped, 50);
	t0 = clock_ms();
	while (!log_limit_pass(&limit, 20, &dropped))
		;
	assert_in_range(clock_ms() - t0, 18, 5000);
	assert_true(dropped > 0);
}

struct racer {
	struct log_limit *limit;
	uint64_t passed, dropped;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < 20000; i++) {
		uint64_t dropped = 0;

		if (log_limit_pass(r->limit, 1, &dropped)) {
			r->passed++;
			r->dropped += dropped;
		}
	}
	return NULL;
}

/* However threads race: every call either passes or is told of by a later one. */
static void test_11_nothing_is_lost_between_threads(void **state)
{
	struct log_limit limit = {0};
	struct racer r[4] = {{0}};
	uint64_t passed = 0, told = 0;
	pthread_t t[4];
	(void)state;

	for (int i = 0; i < 4; i++) {
		r[i].limit = &limit;
		assert_int_equal(pthread_create(&t[i], NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		passed += r[i].passed;
		told += r[i].dropped;
	}
	assert_true(passed >= 1);
	assert_int_equal(passed + told + limit.dropped, 4 * 20000);
}

static void *shout(void *arg)
{
	for (int i = 0; i < 200; i++)
		log_line(LOG_LVL_INFO, "x.c", 1, "thread %c says the same thing again", *(char *)arg);
	return NULL;
}

static void test_12_lines_of_threads_do_not_mix(void **state)
{
	char names[] = "abcd", *text, *line, *save = NULL;
	struct capture c;
	pthread_t t[4];
	int n = 0;
	(void)state;

	begin(&c);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, shout, &names[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	text = end(&c);
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), n++)
		assert_true(
			matches(line, STAMP "LMCache INFO: thread [abcd] says the same thing again \\(x\\.c:1:\\)$"));
	assert_int_equal(n, 800);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_the_line_operators_know),
		cmocka_unit_test(test_02_every_level_has_its_word),
		cmocka_unit_test(test_03_the_threshold),
		cmocka_unit_test(test_04_arguments_below_the_threshold_cost_nothing),
		cmocka_unit_test(test_05_names_of_levels),
		cmocka_unit_test(test_06_control_bytes_are_defused),
		cmocka_unit_test(test_07_c1_controls_are_defused_and_letters_are_not),
		cmocka_unit_test(test_08_long_texts_are_cut),
		cmocka_unit_test(test_09_long_paths_are_cut),
		cmocka_unit_test(test_10_one_line_per_period),
		cmocka_unit_test(test_11_nothing_is_lost_between_threads),
		cmocka_unit_test(test_12_lines_of_threads_do_not_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
