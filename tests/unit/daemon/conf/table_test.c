/* The tables themselves, and every option through all four sources. */
#include "tests/unit/daemon/conf/util.h"

static void the_table_is_sound(void **state)
{
	static const size_t sizes[] = {[CONF_STR] = sizeof(char *),
				       [CONF_U32] = sizeof(uint32_t),
				       [CONF_DOUBLE] = sizeof(double),
				       [CONF_FLAG] = sizeof(bool),
				       [CONF_PAIR] = sizeof(bool),
				       [CONF_ENUM] = sizeof(int),
				       [CONF_LIST] = sizeof(struct conf_list)};
	(void)state;
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const struct conf_option *o = &conf_options[i];

		assert_int_equal(o->size, sizes[o->type]);
		assert_true(o->text && o->text[0] && o->since);
		assert_true(o->type != CONF_ENUM || o->names);
		assert_true((o->type != CONF_U32 && o->type != CONF_DOUBLE) || o->max > o->min);
		assert_true(!o->required || !o->def);
		assert_true(i == 0 || o->group >= conf_options[i - 1].group);
	}
	assert_int_equal(conf_option_count(), CONF_OPTIONS);
}

static void no_name_is_used_twice(void **state)
{
	const char *names[512];
	size_t n = 0;

	(void)state;
	for (unsigned i = 0; i < CONF_OPTIONS; i++)
		names[n++] = conf_options[i].flag;
	for (unsigned i = 0; conf_absents[i].flag; i++)
		names[n++] = conf_absents[i].flag;
	for (unsigned i = 0; conf_deprecateds[i].flag; i++)
		names[n++] = conf_deprecateds[i].flag;
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(names[i], names[k]);
	}
}

/* tests/golden/upstream-flags.txt: all flags of the surface reference, sections 1.3 to 1.9. */
static void every_upstream_flag_is_known(void **state)
{
	char *list = slurp("tests/golden/upstream-flags.txt"), *rest = list;
	unsigned n = 0;

	(void)state;
	for (char *flag = strsep(&rest, "\n"); flag && *flag; flag = strsep(&rest, "\n"), n++) {
		if (conf_match(flag + 2, strlen(flag + 2)).is == CONF_IS_UNKNOWN)
			fail_msg("%s is in no table", flag);
	}
	assert_in_range(n, 100, 1000);
	free(list);
}

/* ---- sources ---------------------------------------------------------------------------------------------------- */

/* The n-th name of an enum is one that conf prints; aliases and absent names come after these. */
static bool is_canonical(const struct conf_option *o, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (o->names[i].value == o->names[n].value)
			return false;
	}
	return o->names[n].text && o->names[n].value != CONF_NAME_ABSENT;
}

/* The k-th (1, 2, 3) valid text for an option, different from its neighbours and from the default where the type allows. */
static void sample(const struct conf_option *o, unsigned k, char *buf, size_t cap)
{
	static const char *const pages[] = {"auto", "2m", "1g,4k", "thp"}, *const dialects[] = {"D2", "D3b", "D6",
												"D7"};
	unsigned n = 0;

	switch (o->type) {
	case CONF_LIST:
		snprintf(buf, cap, "{\"n\":%u}", k);
		break;
	case CONF_STR:
		if (o == &conf_options[CONF_AT_l1_pages])
			snprintf(buf, cap, "%s", pages[k % 4]);
		else if (o == &conf_options[CONF_AT_dialect])
			snprintf(buf, cap, "%s", dialects[k % 4]);
		else if (o == &conf_options[CONF_AT_numa_map])
			snprintf(buf, cap, "0,%u", k);
		else
			snprintf(buf, cap, "127.0.0.%u", 1 + k);
		break;
	case CONF_U32:
		snprintf(buf, cap, "%.0f", o->pow2 ? 4096.0 * (1u << k) : o->min + 1 + k);
		break;
	case CONF_DOUBLE:
		snprintf(buf, cap, "%.4g", (o->def ? atof(o->def) : 40) * (1 + 0.03125 * k));
		break;
	case CONF_ENUM:
		while (is_canonical(o, n))
			n++;
		snprintf(buf, cap, "%s", o->names[k % n].text);
		break;
	default:
		snprintf(buf, cap, "%s", (strcmp(o->def, "true") == 0) == (k % 2 == 0) ? "true" : "false");
	}
}

/* The value of a field as text that compares with a sample. */
static void show(const struct conf *c, const struct conf_option *o, char *buf, size_t cap)
{
	const char *field = (const char *)c + o->offset;
	char *s;
	double d;
	uint32_t u;

	switch (o->type) {
	case CONF_LIST:
		s = ((const struct conf_list *)field)->n == 1 ? ((const struct conf_list *)field)->v[0] : NULL;
		snprintf(buf, cap, "%s", s ? s : "(null)");
		break;
	case CONF_STR:
		memcpy(&s, field, sizeof(s));
		snprintf(buf, cap, "%s", s ? s : "(null)");
		break;
	case CONF_U32:
		memcpy(&u, field, sizeof(u));
		snprintf(buf, cap, "%u", u);
		break;
	case CONF_DOUBLE:
		memcpy(&d, field, sizeof(d));
		snprintf(buf, cap, "%.4g", d);
		break;
	case CONF_ENUM:
		snprintf(buf, cap, "%s", conf_enum_text(o, c));
		break;
	default:
		snprintf(buf, cap, "%s", *(const bool *)field ? "true" : "false");
	}
}

/* Parses with the option given on the command line (or not), beside what environment and file say; checks value and source. */
static void expect(unsigned i, const char *flag_text, const char *file, const char *want, char source)
{
	const struct conf_option *o = &conf_options[i];
	const char *args[ARGS_MAX] = {"--l1-size-gb", "100", "--eviction-policy", "LRU"};
	char flag[96], got[128];
	struct conf c;
	struct why why;
	unsigned n = 4;

	if (o->required)
		args[2 * (i == CONF_AT_eviction_policy)] = NULL;
	if (o->required && i == CONF_AT_l1_size_gb) {
		args[0] = args[2];
		args[1] = args[3];
		n = 2;
	} else if (o->required) {
		n = 2;
	}
	/* each needs the other */
	if (i == CONF_AT_numa_map && source != 'd') {
		args[n++] = "--numa-policy";
		args[n++] = "manual";
	}
	if (i == CONF_AT_numa_policy && strcmp(want, "manual") == 0) {
		args[n++] = "--numa-map";
		args[n++] = "0";
	}
	if (file) {
		args[n++] = "--config";
		args[n++] = file;
	}
	if (flag_text && (o->type == CONF_FLAG || o->type == CONF_PAIR)) {
		snprintf(flag, sizeof(flag), "--%s%s", strcmp(flag_text, "true") == 0 ? "" : "no-", o->flag);
		args[n++] = flag;
	} else if (flag_text) {
		snprintf(flag, sizeof(flag), "--%s", o->flag);
		args[n++] = flag;
		args[n++] = flag_text;
	}
	args[n] = NULL;
	if (parse_list(&c, &why, args) != 0)
		fail_msg("--%s: %s", o->flag, why.text);
	show(&c, o, got, sizeof(got));
	if (want && o->type == CONF_ENUM && strcmp(got, want) != 0)
		fail_msg("--%s: got %s, want %s", o->flag, got, want);
	else if (want)
		assert_string_equal(got, want);
	assert_int_equal(c.source[i], source);
	conf_free(&c);
}

static void every_option_has_four_sources(void **state)
{
	char file[] = "/tmp/conf_test.XXXXXX", one[128], two[128], three[128], line[256], env[CONF_ENV_CAP];

	(void)state;
	close(mkstemp(file));
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const struct conf_option *o = &conf_options[i];

		if (i == CONF_AT_config)
			continue;
		sample(o, 1, one, sizeof(one));
		sample(o, 2, two, sizeof(two));
		sample(o, 3, three, sizeof(three));
		if (!o->required)
			expect(i, NULL, NULL, o->def && o->type != CONF_DOUBLE ? o->def : NULL, 'd');
		snprintf(line, sizeof(line), "%s = %s\n", o->flag, one);
		write_file(file, line);
		expect(i, NULL, file, one, 'f');
		setenv(conf_env_name(o, env), two, 1);
		expect(i, NULL, file, two, 'e');
		expect(i, three, file, three, 'c');
		unsetenv(env);
		unsetenv(conf_env_name(o, env));
	}
	unlink(file);
}

/* Keys with '_' and values of the other JSON types give the same. */
static void every_option_in_json(void **state)
{
	char one[128], text[256], key[96], got[128];

	(void)state;
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const struct conf_option *o = &conf_options[i];
		bool quoted = o->type == CONF_STR || o->type == CONF_ENUM;
		struct conf c = {0};
		struct why why = {0};

		if (o->not_in_file)
			continue;
		sample(o, 1, one, sizeof(one));
		snprintf(key, sizeof(key), "%s", o->flag);
		for (char *s = key; *s; s++)
			*s = *s == '-' ? '_' : *s;
		snprintf(text, sizeof(text), quoted ? "{\"%s\": \"%s\"}" : "{\"%s\": %s}", key, one);
		c.source = calloc(CONF_OPTIONS, 1);
		if (conf_file_parse(&c, "x.json", text, strlen(text), &why) != 0)
			fail_msg("%s: %s", text, why.text);
		show(&c, o, got, sizeof(got));
		assert_string_equal(got, one);
		assert_int_equal(c.source[i], 'f');
		conf_free(&c);
	}
}

/* One below the least and one above the greatest value is refused with flag, value and range; both ends are accepted. */
static void every_range_is_checked(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const struct conf_option *o = &conf_options[i];
		double over = o->max * 2 + 1, under = o->min / 2;
		char text[64], range[256];
		struct conf c = {.source = calloc(CONF_OPTIONS, 1)};
		struct why why = {0};

		conf_range_text(o, range, sizeof(range));
		if (o->type == CONF_U32 || o->type == CONF_DOUBLE) {
			snprintf(text, sizeof(text), "%.10g", o->max);
			assert_int_equal(conf_set(&c, i, text, 'c', o->flag, &why), 0);
			snprintf(text, sizeof(text), "%.10g", o->min);
			assert_int_equal(conf_set(&c, i, text, 'c', o->flag, &why), 0);
			snprintf(text, sizeof(text), o->type == CONF_U32 ? "%.0f" : "%.10g", over);
			assert_int_equal(conf_set(&c, i, text, 'c', o->flag, &why), -EINVAL);
			assert_non_null(strstr(why.text, o->flag));
			assert_non_null(strstr(why.text, text));
			assert_non_null(strstr(why.text, range));
		}
		if (o->type == CONF_STR) {
			char *longest = calloc(1, 4096 + 2);
			size_t most = o->max > 0 ? (size_t)o->max : 4096;

			memset(longest, 'x', most);
			assert_int_equal(conf_set(&c, i, longest, 'c', o->flag, &why), 0);
			longest[most] = 'x';
			assert_int_equal(conf_set(&c, i, longest, 'c', o->flag, &why), -EINVAL);
			free(longest);
		}
		if (under >= 1 || (o->type == CONF_DOUBLE && under > 0)) {
			snprintf(text, sizeof(text), o->type == CONF_U32 ? "%.0f" : "%.10g", under);
			assert_int_equal(conf_set(&c, i, text, 'c', o->flag, &why), -EINVAL);
		}
		conf_free(&c);
	}
}

static int setup(void **state)
{
	(void)state;
	clean_environment();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"01 the table is sound", the_table_is_sound, setup, NULL, NULL},
		{"02 no name is used twice", no_name_is_used_twice, setup, NULL, NULL},
		{"03 every upstream flag is known", every_upstream_flag_is_known, setup, NULL, NULL},
		{"04 every option has four sources", every_option_has_four_sources, setup, NULL, NULL},
		{"05 every option in JSON", every_option_in_json, setup, NULL, NULL},
		{"06 every range is checked", every_range_is_checked, setup, NULL, NULL},
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
