/* --l1-pages, --numa-map and the rules between the options of placement. */
#include "tests/unit/daemon/conf/util.h"

static void pages(void **state)
{
	static const struct {
		const char *text;
		struct conf_pages want;
	} good[] = {
		{"auto", {CONF_WANT_TRY, CONF_WANT_TRY, CONF_WANT_TRY}},
		{"1g,2m,thp,4k", {CONF_WANT_TRY, CONF_WANT_TRY, CONF_WANT_TRY}},
		{"2M", {CONF_WANT_NO, CONF_WANT_YES, CONF_WANT_NO}},
		{"1g,2m", {CONF_WANT_TRY, CONF_WANT_YES, CONF_WANT_NO}},
		{"1g,4k", {CONF_WANT_TRY, CONF_WANT_NO, CONF_WANT_NO}},
		{"2m,thp", {CONF_WANT_NO, CONF_WANT_TRY, CONF_WANT_YES}},
		{"4k", {CONF_WANT_NO, CONF_WANT_NO, CONF_WANT_NO}},
	};
	static const char *const wrong[] = {"",       ",",  "2m,", ",2m",   "2m,2m",  "4k,2m",
					    "thp,1g", "8k", "2",   "2m 4k", "auto,4k"};
	struct conf_pages p;
	struct why why;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(conf_pages_parse(good[i].text, &p, &why), 0);
		assert_int_equal(p.huge_1g, good[i].want.huge_1g);
		assert_int_equal(p.huge_2m, good[i].want.huge_2m);
		assert_int_equal(p.thp, good[i].want.thp);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(conf_pages_parse(wrong[i], &p, &why), -EINVAL);
		assert_non_null(strstr(why.text, "--l1-pages"));
	}
}

static void maps(void **state)
{
	static const char *const wrong[] = {
		"",
		"0=",
		"=1G",
		"0=1",
		"0=1K",
		"0=1GB",
		"0=0G",
		"0=1G,",
		"0=1G,0=1G",
		"0,0",
		"0=1G,1",
		"0,1=1G",
		"-1=1G",
		"0=-1G",
		"1024",
		"0 = 1G",
		"0=1048577G",
		"?=1G",
		"node0",
		"99999999999999999999=1G",
		"0=99999999999999999999G",
		"0;1",
	};
	struct conf_map_node m[CONF_MAX_MAP];
	char many[512] = "";
	struct why why;
	uint32_t n;

	(void)state;
	assert_int_equal(conf_map_parse("0=32G,7=512m,1023=1T", m, &n, &why), 0);
	assert_int_equal(n, 3);
	assert_int_equal(m[0].node, 0);
	assert_true(m[0].bytes == 32ull << 30 && m[1].bytes == 512ull << 20 && m[2].bytes == 1ull << 40);
	assert_int_equal(m[2].node, 1023);
	assert_int_equal(conf_map_parse("3,1", m, &n, &why), 0);
	assert_true(n == 2 && m[0].node == 3 && m[1].node == 1 && m[0].bytes == 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(conf_map_parse(wrong[i], m, &n, &why), -EINVAL);
		assert_non_null(strstr(why.text, "--numa-map"));
	}
	for (int i = 0; i < 65; i++)
		snprintf(many + strlen(many), sizeof(many) - strlen(many), "%s%d", i ? "," : "", i);
	assert_int_equal(conf_map_parse(many, m, &n, &why), -EINVAL);
	*strrchr(many, ',') = '\0';
	assert_int_equal(conf_map_parse(many, m, &n, &why), 0);
	assert_int_equal(n, 64);
}

static void rules(void **state)
{
	struct conf c;
	struct why why;

	(void)state;
	assert_int_equal(parse(&c, &why, REQUIRED), 0);
	assert_true(c.numa_policy == CONF_NUMA_LOCAL && c.numa == CONF_WANT_TRY && c.numa_spill == CONF_SPILL_NEAR);
	assert_true(c.numa_check_seconds == 30 && c.nmap == 0 && c.pages.huge_1g == CONF_WANT_TRY);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--numa-policy", "manual"), -EINVAL);
	assert_int_equal(parse(&c, &why, REQUIRED, "--numa-map", "0,1"), -EINVAL);
	assert_int_equal(parse(&c, &why, REQUIRED, "--numa-policy", "manual", "--numa-map", "0=60G,1=50G"), -EINVAL);
	assert_non_null(strstr(why.text, "110.00 GiB"));
	assert_int_equal(parse(&c, &why, REQUIRED, "--numa-policy", "manual", "--numa-map", "0=60G,1=40G"), 0);
	assert_int_equal(c.nmap, 2);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--l1-use-hugepages"), 0);
	assert_string_equal(c.l1_pages, "2m");
	assert_int_equal(c.pages.huge_2m, CONF_WANT_YES);
	conf_free(&c);
	assert_int_equal(parse(&c, &why, REQUIRED, "--l1-use-hugepages", "--l1-pages", "1g"), -EINVAL);
	assert_int_equal(parse(&c, &why, REQUIRED, "--l1-use-hugepages", "--l1-pages", "2m"), 0);
	conf_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"01 page sizes in order", pages, NULL, NULL, NULL},
		{"02 maps of nodes", maps, NULL, NULL, NULL},
		{"03 rules between options", rules, NULL, NULL, NULL},
	};

	clean_environment();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
