/* Ways in and out of a snapshot: this system, captures, XML, what hwloc's environment names, and what must be refused. */
#include "tests/unit/numa/dump.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define DIR_MACHINES "tests/machines/"

struct file {
	char path[64];
};

static void write_file(struct file *f, const char *text, size_t n)
{
	int fd;

	snprintf(f->path, sizeof(f->path), "/tmp/lmca-load-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
}

static int load_text(const char *text, struct machine **m, struct why *why)
{
	struct file f;
	int r;

	write_file(&f, text, strlen(text));
	r = machine_load(f.path, m, why);
	unlink(f.path);
	return r;
}

static char *read_file(const char *path, size_t *n)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);

	assert_non_null(f);
	*n = fread(text, 1, (1 << 20) - 1, f);
	fclose(f);
	return text;
}

/* What moves from one look to the next. */
static void still(struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++)
		m->nodes[i].free_bytes = 0;
	m->limits.shm_free = 0;
	m->this_system = false;
	snprintf(m->source, sizeof(m->source), "x");
	for (uint32_t i = 0; i < m->limits.nhugetlb; i++)
		m->limits.hugetlb[i].used = m->limits.hugetlb[i].rsvd_used = 0;
}

static void test_1_a_capture_is_the_machine_it_was_taken_on(void **state)
{
	struct machine *live, *replay;
	struct why why = {0};
	char *text = NULL, *a, *b;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	if (machine_capture(f, &why))
		fail_msg("%s", why.text);
	fclose(f);
	assert_true(n > 1000 && n < 4u << 20);
	assert_int_equal(machine_load(NULL, &live, &why), 0);
	if (load_text(text, &replay, &why))
		fail_msg("%s", why.text);
	assert_true(live->this_system);
	assert_false(replay->this_system);
	assert_true(live->nnodes > 0 && live->ncpus > 0);
	assert_non_null(strstr(replay->source, "capture lmca-load-"));
	still(live);
	still(replay);
	a = dump_both(live);
	b = dump_both(replay);
	assert_string_equal(a, b);
	free(a);
	free(b);
	free(text);
	machine_destroy(live);
	machine_destroy(replay);
}

/* ---- refused ---- */

struct refused {
	const char *text, *says;
};

#define HEAD "{\"lmcache-appliance capture\": 1, "

static void test_2_no_capture_and_no_xml(void **state)
{
	static const struct refused bad[] = {
		{"", "neither"},
		{"\n \t", "neither"},
		{"hello", "neither"},
		{"[1]", "neither"},
		{"{", "line 1"},
		{"{\"a\": 1, \"a\": 2}", "line 1"},
		{"{\"a\": \"\\u0000\"}", "line 1"},
		{"{}", "no capture of ours"},
		{"{\"lmcache-appliance capture\": \"1\"}", "no capture of ours"},
		{"{\"lmcache-appliance capture\": 2, \"hwloc\": \"\"}", "version 2, this build reads version 1"},
		{HEAD "\"x\": 1}", "\"hwloc\" is missing"},
		{HEAD "\"hwloc\": 7}", "\"hwloc\" is missing or not text"},
		{HEAD "\"hwloc\": \"\", \"files\": []}", "\"files\" is not an object"},
		{HEAD "\"hwloc\": \"\", \"files\": {\"/a\": 1}}", "something is not text"},
		{HEAD "\"hwloc\": \"\", \"links\": {\"/a\": null}}", "something is not text"},
		{HEAD "\"hwloc\": \"\", \"values\": {\"a\": {}}}", "something is not text"},
		{HEAD "\"hwloc\": \"\", \"dirs\": {\"/a\": \"b\"}}", "something is not a list"},
		{HEAD "\"hwloc\": \"\", \"dirs\": {\"/a\": [1]}}", "not a file name"},
		{HEAD "\"hwloc\": \"\"}", "does not accept"},
		{HEAD "\"hwloc\": \"<topology/>\"}", "does not accept"},
		{"<", "does not accept"},
		{"<?xml version=\"1.0\"?><topology version=\"3.0\"></topology>", "lstopo --export-xml-flags v2"},
		{"<html><body>no</body></html>", "does not accept"},
	};
	struct machine *m;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct why why = {0};
		int r = load_text(bad[i].text, &m, &why);

		if (r != -EPROTO || m || why.err != r || !strstr(why.text, bad[i].says) ||
		    !strstr(why.text, "/tmp/lmca-load"))
			fail_msg("%s: %d \"%s\"", bad[i].text, r, why.text);
	}
}

static void expect_refusal(json_t *root, const char *says)
{
	char *text = json_dumps(root, JSON_COMPACT);
	struct why why = {0};
	struct machine *m;

	assert_true(load_text(text, &m, &why) < 0);
	if (!strstr(why.text, says))
		fail_msg("%s", why.text);
	free(text);
	json_decref(root);
}

static json_t *capture_of(const char *name)
{
	char path[128];
	json_t *root;

	snprintf(path, sizeof(path), DIR_MACHINES "%s", name);
	root = json_load_file(path, 0, NULL);
	assert_non_null(root);
	return root;
}

static void test_3_bounds(void **state)
{
	json_t *root = capture_of("plain.json"), *names = json_array();
	char *big = malloc((256u << 10) + 2), *name = calloc(1, 300);

	(void)state;
	memset(big, 'x', (256u << 10) + 1);
	big[(256u << 10) + 1] = '\0';
	json_object_set_new(json_object_get(root, "files"), "/proc/self/status", json_string(big));
	expect_refusal(root, "longer than 262144 bytes");
	free(big);

	root = capture_of("plain.json");
	for (int i = 0; i < 4097; i++)
		json_array_append_new(names, json_string("x"));
	json_object_set_new(json_object_get(root, "dirs"), "/sys/class/net", names);
	expect_refusal(root, "more than 4096 names");

	root = capture_of("plain.json");
	memset(name, 'n', 299);
	json_array_append_new(json_object_get(json_object_get(root, "dirs"), "/sys/class/net"), json_string(name));
	expect_refusal(root, "not a file name");
	free(name);
}

/* Each of these is read where a number or a list belongs. None may become one, and none may stop the load. */
static void test_4_nonsense_in_files_is_unknown(void **state)
{
	static const char *const junk[] = {"",   "x",     "-1",          "99999999999999999999999", "0-", "4096",
					   "0x", "1 2 3", "\xc3\xa9\x01"};
	json_t *root, *v;
	const char *key;

	(void)state;
	for (size_t i = 0; i < sizeof(junk) / sizeof(junk[0]); i++) {
		struct machine *m;
		struct why why = {0};
		char *text;

		root = capture_of("disputed.json");
		json_object_foreach(json_object_get(root, "files"), key, v)
		{
			if (!strstr(key, "/class") && !strstr(key, "/vendor"))
				json_string_set_nocheck(v, junk[i]);
		}
		json_object_del(json_object_get(root, "values"), "env:HWLOC_PCI_LOCALITY");
		text = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);
		if (!text) { /* no valid UTF-8: jansson refuses to write it, and would to read it */
			json_decref(root);
			continue;
		}
		if (load_text(text, &m, &why))
			fail_msg("%s: %s", junk[i], why.text);
		assert_int_equal(m->nnodes, 2);
		for (uint32_t k = 0; k < m->ndevices; k++) {
			for (uint32_t f = 0; f < m->devices[k].nfacts; f++) {
				const struct fact_node *fact = &m->devices[k].fact[f];

				assert_true(fact->source == FACT_HWLOC || !node_known(fact->node) || atoi(junk[i]) > 0);
			}
		}
		assert_false(m->nodes[0].huge[0].known && m->nodes[0].huge[0].total > 4096);
		machine_destroy(m);
		free(text);
		json_decref(root);
	}
}

static void test_5_files_that_cannot_be_read(void **state)
{
	struct machine *m;
	struct why why = {0};
	struct file f;

	(void)state;
	assert_int_equal(machine_load("/nowhere/at/all", &m, &why), -ENOENT);
	assert_non_null(strstr(why.text, "/nowhere/at/all"));
	assert_int_equal(machine_load("/tmp", &m, &why), -EISDIR);
	assert_int_equal(machine_load("/dev/null", &m, &why), -EPROTO);
	write_file(&f, "{", 1);
	assert_int_equal(truncate(f.path, 40ll << 20), 0);
	assert_int_equal(machine_load(f.path, &m, &why), -EFBIG);
	unlink(f.path);
	assert_null(m);
}

/* hwloc 2.9 reads through a null pointer here. Whatever other versions do, we are still there afterwards. */
static void test_6_damaged_xml_does_not_kill_us(void **state)
{
	static const char *const cut[] = {" complete_cpuset=\"", " nodeset=\"", " cpuset=\"", " os_index=\"",
					  " gp_index=\""};
	size_t n;
	char *text = read_file(DIR_MACHINES "lstopo.xml", &n), *damaged = malloc(n + 1);
	uint32_t refused = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
		char *at = strstr(text, cut[i]), *end = strchr(at + strlen(cut[i]), '"') + 1;
		struct machine *m;
		struct why why = {0};
		int r;

		memcpy(damaged, text, (size_t)(at - text));
		memcpy(damaged + (at - text), end, strlen(end) + 1);
		r = load_text(damaged, &m, &why);
		assert_true(r == 0 || r == -EPROTO);
		refused += r != 0;
		machine_destroy(m);
	}
	assert_true(refused > 0);
	free(damaged);
	free(text);
}

/* ---- hwloc's environment ---- */

static void test_7_another_machine_by_environment(void **state)
{
	struct machine *m;
	struct why why = {0};
	FILE *sink = fopen("/dev/null", "w");

	(void)state;
	setenv("HWLOC_SYNTHETIC", "numa:2(memory=1073741824) pu:3", 1);
	assert_int_equal(machine_load(NULL, &m, &why), 0);
	assert_int_equal(machine_capture(sink, &why), -EXDEV);
	unsetenv("HWLOC_SYNTHETIC");
	assert_false(m->this_system); /* nothing of it may be applied, and none of our own files may be mixed in */
	assert_int_equal(m->nnodes, 2);
	assert_int_equal(m->ncpus, 6);
	assert_int_equal(m->ndevices, 0);
	assert_int_equal(m->nodes[0].memory_bytes, 1073741824);
	assert_int_equal(m->nodes[1].free_bytes, 0);
	assert_int_equal(m->nodes[1].nhuge, 0);
	assert_int_equal(m->limits.mbind, PROBE_UNKNOWN);
	assert_int_equal(m->limits.seccomp, UINT32_MAX);
	machine_destroy(m);
	fclose(sink);
}

static void test_8_the_operators_word(void **state)
{
	struct machine *m;
	uint32_t known = 0;

	(void)state;
	setenv("HWLOC_PCI_LOCALITY", "0000:00-ff 0x1", 1);
	assert_int_equal(machine_load(NULL, &m, NULL), 0);
	unsetenv("HWLOC_PCI_LOCALITY");
	for (uint32_t i = 0; i < m->ndevices; i++) {
		const struct mach_device *d = &m->devices[i];

		if (strncmp(d->pci, "0000:", 5) != 0)
			continue;
		assert_int_equal(d->fact[0].source, FACT_OVERRIDE);
		assert_true(node_same(d->node, m->cpus[0].node));
		assert_int_equal(d->confidence, CONF_CERTAIN);
		known++;
	}
	if (!known)
		printf("# this system has no PCI device to try it on\n");
	machine_destroy(m);
}

static void test_9_no_room_to_write_to(void **state)
{
	struct why why = {0};
	FILE *full = fopen("/dev/full", "w");

	(void)state;
	assert_non_null(full);
	assert_int_equal(machine_capture(full, &why), -EIO);
	fclose(full);
	machine_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_a_capture_is_the_machine_it_was_taken_on),
		cmocka_unit_test(test_2_no_capture_and_no_xml),
		cmocka_unit_test(test_3_bounds),
		cmocka_unit_test(test_4_nonsense_in_files_is_unknown),
		cmocka_unit_test(test_5_files_that_cannot_be_read),
		cmocka_unit_test(test_6_damaged_xml_does_not_kill_us),
		cmocka_unit_test(test_7_another_machine_by_environment),
		cmocka_unit_test(test_8_the_operators_word),
		cmocka_unit_test(test_9_no_room_to_write_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
