/* The config file, both forms, and the sample that is installed. */
#include "tests/unit/daemon/conf/util.h"

#include <errno.h>

static int parse_text(struct conf *c, const char *text, struct why *why)
{
	memset(c, 0, sizeof(*c));
	memset(why, 0, sizeof(*why));
	c->source = calloc(CONF_OPTIONS, 1);
	return conf_file_parse(c, "t.conf", text, strlen(text), why);
}

static void lines_comments_and_quotes(void **state)
{
	static const char text[] = "# comment\n"
				   "\n"
				   "  port=7000   # why\r\n"
				   "\tl1_size_gb =  2.5\n"
				   "instance-id = \"a # b\"\n"
				   "shm-name =\n"
				   "state-dir = /var/lib/x#y\n"
				   "eviction-policy = LRU";
	struct conf c;
	struct why why;

	(void)state;
	if (parse_text(&c, text, &why) != 0)
		fail_msg("%s", why.text);
	assert_int_equal(c.port, 7000);
	assert_true(c.l1_size_gb == 2.5);
	assert_string_equal(c.instance_id, "a # b");
	assert_string_equal(c.shm_name, "");
	assert_string_equal(c.state_dir, "/var/lib/x#y");
	assert_int_equal(c.source[CONF_AT_eviction_policy], 'f');
	conf_free(&c);
}

static void json_values(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse_text(&c,
				    "\n {\"port\": 7000, \"l1_use_lazy\": false, \"l1-size-gb\": 2.5,"
				    " \"chunk-size\": \"64\", \"shm-name\": \"\"}",
				    &why),
			 0);
	assert_int_equal(c.port, 7000);
	assert_false(c.l1_use_lazy);
	assert_true(c.l1_size_gb == 2.5);
	assert_int_equal(c.chunk_size, 64);
	assert_string_equal(c.shm_name, "");
	conf_free(&c);
}

static void bad_files_name_the_line(void **state)
{
	static const struct {
		const char *text, *want;
	} cases[] = {
		{"port = 1\n\nprot = 2\n", "t.conf:3: prot: unknown key (did you mean port?)"},
		{"port 5\n", "t.conf:1: expected \"key = value\""},
		{"[server]\n", "t.conf:1: expected \"key = value\", there are no sections"},
		{"= 5\n", "t.conf:1: : unknown key"},
		{"port = 1\nport = 2\n", "t.conf:2: port: given before, on line 1"},
		{"port = 1\nchunk_size = 0\n", "t.conf:2: chunk_size 0: out of range (1 to 65536)"},
		{"port = \"1\n", "t.conf:1: quotes do not match"},
		{"port = \"1\"2\"\n", "t.conf:1: quotes do not match"},
		{"no-http = perhaps\n", "t.conf:1: no-http perhaps: neither true nor false"},
		{"no-l1-use-lazy = true\n", "t.conf:1: no-l1-use-lazy: unknown key (did you mean l1-use-lazy?)"},
		{"config = other\n", "t.conf:1: config: not a key of a config file"},
		{"l1-manager = {}\n",
		 "t.conf:1: l1-manager: this build does not have several L1 pools; remove the option"},
		{"l2-adapter =\n", "t.conf:1: l2-adapter \"\": must not be empty"},
		{"{\"l2-adapter\":\n 5, \"port\": {}}", "t.conf:2: port: expected a string, a number or a boolean"},
		{"{\"port\": 1,\n \"colour\": 2}", "t.conf:2: colour: unknown key"},
		{"{\"port\":\n\n [1]}", "t.conf:1: port: expected a string, a number or a boolean"},
		{"{\"port\": 1.5}", "t.conf:1: port 1.5: not a whole number (0 to 65535)"},
		{"{\"port\": -1}", "t.conf:1: port -1: not a whole number (0 to 65535)"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct conf c;
		struct why why;

		assert_true(parse_text(&c, cases[i].text, &why) < 0);
		assert_string_equal(why.text, cases[i].want);
		conf_free(&c);
	}
}

static void broken_json(void **state)
{
	static const char *const cases[] = {"{", "{\"port\": 1", "{\"port\": 1, \"port\": 2}", "{} x", "{\"port\": }"};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct conf c;
		struct why why;

		assert_int_equal(parse_text(&c, cases[i], &why), -EINVAL);
		assert_non_null(strstr(why.text, "t.conf:1: not valid JSON"));
		conf_free(&c);
	}
}

static void not_a_text_file(void **state)
{
	struct conf c = {0};
	struct why why;

	(void)state;
	assert_int_equal(conf_file_parse(&c, "t.conf", "po\0rt", 5, &why), -EINVAL);
	assert_non_null(strstr(why.text, "NUL"));
}

static void files_have_a_size_limit(void **state)
{
	char path[] = "/tmp/conf_file_test.XXXXXX";
	struct conf c = {0};
	struct why why;

	(void)state;
	close(mkstemp(path));
	assert_int_equal(truncate(path, (1 << 20) + 1), 0);
	assert_int_equal(conf_file_read(&c, path, &why), -EFBIG);
	unlink(path);
}

static void old_names_warn_with_the_line(void **state)
{
	struct capture cap = capture_begin(STDERR_FILENO);
	struct conf c;
	struct why why;
	int rc = parse_text(&c, "\ncpu_buffer_size = 5\n", &why);
	char *text = capture_end(cap);

	(void)state;
	assert_int_equal(rc, 0);
	assert_true(c.l1_size_gb == 5);
	assert_non_null(strstr(text, "t.conf:2: cpu_buffer_size is deprecated, use --l1-size-gb"));
	free(text);
	conf_free(&c);
}

static void the_sample_parses(void **state)
{
	char *text = slurp("config/lmcache-appliance.conf");
	struct conf c;
	struct why why;

	(void)state;
	clean_environment();
	if (parse(&c, &why, "--config", "config/lmcache-appliance.conf") != 0)
		fail_msg("%s", why.text);
	assert_string_equal(c.config, "config/lmcache-appliance.conf");
	assert_int_equal(c.source[CONF_AT_l1_size_gb], 'f');
	assert_int_equal(c.source[CONF_AT_eviction_policy], 'f');
	conf_free(&c);
	free(text);
}

/* Every line that is commented out in the sample is a valid setting, too. */
static void the_comments_of_the_sample_parse(void **state)
{
	char *text = slurp("config/lmcache-appliance.conf"), *rest = text;
	unsigned n = 0;

	(void)state;
	for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
		struct conf c;
		struct why why;

		if (line[0] != '#' || line[1] == ' ' || !strchr(line, '='))
			continue;
		n++;
		if (parse_text(&c, line + 1, &why) != 0)
			fail_msg("%s", why.text);
		conf_free(&c);
	}
	assert_in_range(n, 5, CONF_OPTIONS);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"01 lines, comments and quotes", lines_comments_and_quotes, NULL, NULL, NULL},
		{"02 JSON values", json_values, NULL, NULL, NULL},
		{"03 bad files name the line", bad_files_name_the_line, NULL, NULL, NULL},
		{"04 broken JSON", broken_json, NULL, NULL, NULL},
		{"05 not a text file", not_a_text_file, NULL, NULL, NULL},
		{"06 files have a size limit", files_have_a_size_limit, NULL, NULL, NULL},
		{"07 old names warn with the line", old_names_warn_with_the_line, NULL, NULL, NULL},
		{"08 the sample parses", the_sample_parses, NULL, NULL, NULL},
		{"09 the comments of the sample parse", the_comments_of_the_sample_parse, NULL, NULL, NULL},
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
