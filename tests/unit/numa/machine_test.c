/* The machines of tests/machines, as text and as JSON, byte for byte: G1 and G2 of the goals. */
#include "tests/unit/numa/dump.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <hwloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#define DIR_MACHINES "tests/machines/"

static const char *const machines[] = {"gpu8.json",     "big.json",   "plain.json", "epyc8.json",   "gh200.json",
				       "vm.json",       "lab.json",   "cxl.json",   "cpuset.json",  "cgroup1.json",
				       "asym.json",     "holes.json", "dgx2.json",  "offline.json", "many.json",
				       "disputed.json", "lstopo.xml"};
#define NMACHINES (sizeof(machines) / sizeof(machines[0]))

static struct machine *load(const char *name)
{
	struct why why = {0};
	struct machine *m;
	char path[128];

	snprintf(path, sizeof(path), DIR_MACHINES "%s", name);
	if (machine_load(path, &m, &why))
		fail_msg("%s: %s", name, why.text);
	return m;
}

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text;
	long n;

	if (!f)
		return NULL;
	fseek(f, 0, SEEK_END);
	n = ftell(f);
	rewind(f);
	text = calloc(1, (size_t)n + 1);
	assert_int_equal(fread(text, 1, (size_t)n, f), n);
	fclose(f);
	return text;
}

static void compare(const char *name, const char *ext, const char *text)
{
	char path[160], *golden;

	snprintf(path, sizeof(path), DIR_MACHINES "golden/%.*s.%s", (int)strcspn(name, "."), name, ext);
	if (getenv("LMCA_UPDATE_GOLDEN")) {
		FILE *f = fopen(path, "w");

		assert_non_null(f);
		fputs(text, f);
		fclose(f);
	}
	golden = read_file(path);
	if (!golden)
		fail_msg("%s is missing", path);
	for (size_t i = 0, line = 1; golden[i] || text[i]; line += golden[i] == '\n', i++) {
		if (golden[i] != text[i])
			fail_msg("%s, line %zu: LMCA_UPDATE_GOLDEN=1 writes what is there now", path, line);
	}
	free(golden);
}

static void test_1_every_machine_as_text_and_json(void **state)
{
	(void)state;
	for (size_t i = 0; i < NMACHINES; i++) {
		struct machine *m = load(machines[i]);
		json_t *j = dump_json(m);
		char *text = NULL, *json;
		size_t n = 0;
		FILE *f = open_memstream(&text, &n);

		dump_text(m, f);
		fclose(f);
		compare(machines[i], "txt", text);
		json = json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(6));
		assert_non_null(json);
		compare(machines[i], "json", json);
		assert_false(m->this_system);
		free(json);
		free(text);
		json_decref(j);
		machine_destroy(m);
	}
}

/* What must hold of every machine, so that a golden file cannot be rewritten into nonsense. */
static void check_sane(const struct machine *m)
{
	for (uint32_t i = 0; i < m->nnodes; i++) {
		const struct mach_node *n = &m->nodes[i];
		struct cpu_set inside = n->cpus;

		assert_true(node_known(n->id));
		assert_true(i == 0 || n->id.os > m->nodes[i - 1].id.os);
		assert_int_equal(machine_node_index(m, n->id), i);
		cpus_and(&inside, &n->all_cpus);
		assert_true(cpus_equal(&inside, &n->cpus));
		assert_true(n->distance[i] == 0 || n->distance[i] == 10);
		for (uint32_t k = 0; k < n->nhuge; k++)
			assert_true(n->huge[k].free <= n->huge[k].total);
	}
	for (uint32_t i = 0; i < m->ncpus; i++) {
		const struct mach_cpu *c = &m->cpus[i];

		assert_true(i == 0 || c->os > m->cpus[i - 1].os);
		assert_false(cpus_has(&m->offline_cpus, c->os));
		for (uint32_t k = 0; k < m->nnodes; k++)
			assert_int_equal(cpus_has(&m->nodes[k].all_cpus, c->os), node_same(m->nodes[k].id, c->node));
	}
	for (uint32_t i = 0; i < m->ndevices; i++) {
		const struct mach_device *d = &m->devices[i];

		assert_ptr_equal(machine_device(m, d->pci[0] ? d->pci : d->name), d);
		assert_int_equal(node_known(d->node), d->confidence != CONF_UNKNOWN);
		assert_true(!node_known(d->node) || machine_node(m, d->node));
		for (uint32_t k = 0; k < d->nfacts; k++)
			assert_true(d->fact[k].source != FACT_NONE && d->fact[k].where[0]);
		/* the conclusion is some source's word */
		for (uint32_t k = 0; node_known(d->node) && !node_same(d->fact[k].node, d->node); k++)
			assert_true(k + 1 < d->nfacts);
	}
}

static void test_2_what_holds_of_all(void **state)
{
	struct machine *m;

	(void)state;
	for (size_t i = 0; i < NMACHINES; i++) {
		m = load(machines[i]);
		check_sane(m);
		machine_destroy(m);
	}
	assert_int_equal(machine_load(NULL, &m, NULL), 0);
	check_sane(m);
	assert_true(m->this_system);
	assert_int_equal(m->ncpus, sysconf(_SC_NPROCESSORS_ONLN));
	machine_destroy(m);
}

static const struct mach_node *node(const struct machine *m, int os)
{
	const struct mach_node *n = machine_node(m, node_of(os));

	assert_non_null(n);
	return n;
}

static void expect_device(const struct machine *m, const char *name, int os, enum confidence c)
{
	const struct mach_device *d = machine_device(m, name);

	assert_non_null(d);
	assert_int_equal(d->node.os, os);
	assert_int_equal(d->confidence, c);
}

/* The point of each machine, said here in words of its own and not only in its golden file. */
static void test_3_strange_machines(void **state)
{
	struct machine *m;

	(void)state;
	m = load("gh200.json");
	assert_int_equal(m->nnodes, 9);
	assert_int_equal(node(m, 1)->kind, NODE_GPU_MEMORY);
	assert_int_equal(node(m, 8)->kind, NODE_EMPTY);
	assert_int_equal(machine_device(m, "gpu0")->bytes, node(m, 1)->memory_bytes);
	machine_destroy(m);

	m = load("holes.json");
	assert_int_equal(m->nodes[1].id.os, 8);
	assert_int_equal(node(m, 255)->kind, NODE_GPU_MEMORY);
	assert_null(machine_node(m, node_of(1)));
	assert_int_equal(m->nodes[0].distance[machine_node_index(m, node_of(252))], 80);
	machine_destroy(m);

	m = load("many.json");
	assert_int_equal(m->nnodes, 72);
	assert_int_equal(m->nodes[71].id.os, 213);
	assert_int_equal(node(m, 195)->huge[0].free, 65);
	expect_device(m, "nvme65n1", 195, CONF_CERTAIN);
	machine_destroy(m);

	m = load("offline.json");
	assert_int_equal(cpus_count(&node(m, 1)->all_cpus), 0);
	assert_true(cpus_has(&m->offline_cpus, 5) && !cpus_has(&m->offline_cpus, 3));
	assert_true(m->cpus[2].isolated && !m->cpus[1].isolated);
	machine_destroy(m);

	m = load("cxl.json"); /* sysfs says nothing here and hwloc's local nodes are 1 and 2: the one with CPUs */
	assert_int_equal(node(m, 2)->kind, NODE_SLOW);
	expect_device(m, "nvme0n1", 1, CONF_CERTAIN);
	machine_destroy(m);

	m = load("lab.json");
	assert_int_equal(node(m, 2)->kind, NODE_DRAM);
	expect_device(m, "nvme0n1", 1, CONF_CERTAIN);
	expect_device(m, "eth2", -1, CONF_UNKNOWN);
	expect_device(m, "rxe0", 1, CONF_INHERITED);
	assert_ptr_equal(machine_device(m, "eth1"), machine_device(m, "rxe0"));
	expect_device(m, "rxe1", -1, CONF_UNKNOWN);
	machine_destroy(m);

	m = load("disputed.json");
	expect_device(m, "gpu0", 0, CONF_DISPUTED);
	expect_device(m, "gpu1", 1, CONF_DISPUTED);
	expect_device(m, "gpu2", 1, CONF_INHERITED);
	expect_device(m, "gpu3", 1, CONF_INHERITED);
	expect_device(m, "gpu4", 1, CONF_CERTAIN);
	expect_device(m, "nvme4n1", -1, CONF_UNKNOWN);
	expect_device(m, "10000:01:00.0", 1, CONF_CERTAIN);
	expect_device(m, "eth0", 0, CONF_INHERITED);
	assert_null(machine_device(m, "mlx5_1")); /* a slice of mlx5_0 */
	machine_destroy(m);
}

static void test_4_devices_by_name_and_address(void **state)
{
	struct machine *m = load("gpu8.json");
	const struct mach_device *d = machine_device(m, "gpu3");
	char buf[24];

	(void)state;
	assert_non_null(d);
	assert_string_equal(d->pci, "0000:36:00.0");
	assert_ptr_equal(machine_device(m, "0000:36:00.0"), d);
	assert_ptr_equal(machine_device(m, "36:00.0"), d);
	assert_ptr_equal(machine_device(m, "ib3"), machine_device(m, "mlx5_3"));
	assert_null(machine_device(m, ""));
	assert_null(machine_device(m, NULL));
	assert_null(machine_device(m, "gpu8"));
	assert_null(machine_device(m, "0000:00:02.0")); /* the screen of its board */
	assert_null(machine_node(m, NODE_UNKNOWN));
	assert_int_equal(machine_node_index(m, NODE_UNKNOWN), UINT32_MAX);
	assert_string_equal(machine_node_text(NODE_UNKNOWN, buf), "node ?");
	assert_string_equal(machine_node_text(node_of(7), buf), "node 7");
	assert_string_equal(mach_device_kind_name((enum mach_device_kind)99), "?");
	assert_string_equal(fact_source_name((enum fact_source)99), "?");
	assert_string_equal(fact_source_name(FACT_PARENT), "parent");
	machine_destroy(m);
}

/* ---- nothing is known: G2 ---- */

/* The same XML without devices: hwloc then has no word on any. */
static json_t *without_devices(const char *xml)
{
	hwloc_topology_t hw;
	char *out;
	json_t *j;
	int n;

	assert_int_equal(hwloc_topology_init(&hw), 0);
	assert_int_equal(hwloc_topology_set_xmlbuffer(hw, xml, (int)strlen(xml) + 1), 0);
	hwloc_topology_set_flags(hw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
	hwloc_topology_set_io_types_filter(hw, HWLOC_TYPE_FILTER_KEEP_NONE);
	assert_int_equal(hwloc_topology_load(hw), 0);
	assert_int_equal(hwloc_topology_export_xmlbuffer(hw, &out, &n, 0), 0);
	j = json_string(out);
	hwloc_free_xmlbuffer(hw, out);
	hwloc_topology_destroy(hw);
	return j;
}

static struct machine *load_json(json_t *root, struct why *why)
{
	char path[] = "/tmp/lmca-machine-XXXXXX";
	struct machine *m = NULL;
	int fd = mkstemp(path);
	FILE *f = fdopen(fd, "w");

	assert_non_null(f);
	assert_int_equal(json_dumpf(root, f, JSON_COMPACT), 0);
	fclose(f);
	machine_load(path, &m, why);
	unlink(path);
	return m;
}

/* Every numa_node says -1, or nothing when `gone`. */
static json_t *silence(const char *name, bool gone)
{
	char path[128];
	json_t *root, *files, *v;
	const char *key;
	void *tmp;

	snprintf(path, sizeof(path), DIR_MACHINES "%s", name);
	root = json_load_file(path, 0, NULL);
	assert_non_null(root);
	files = json_object_get(root, "files");
	json_object_foreach_safe(files, tmp, key, v)
	{
		size_t n = strlen(key);

		if (n < 10 || strcmp(key + n - 10, "/numa_node") != 0)
			continue;
		if (gone)
			json_object_del(files, key);
		else
			json_string_set(v, "-1");
	}
	json_object_del(json_object_get(root, "values"), "env:HWLOC_PCI_LOCALITY");
	json_object_set_new(root, "hwloc", without_devices(json_string_value(json_object_get(root, "hwloc"))));
	return root;
}

static void test_5_unknown_stays_unknown(void **state)
{
	uint32_t devices = 0;

	(void)state;
	for (size_t i = 0; i < 2 * (NMACHINES - 1); i++) {
		struct machine *whole = load(machines[i / 2]), *m;
		json_t *root = silence(machines[i / 2], i % 2);
		struct why why = {0};

		m = load_json(root, &why);
		if (!m)
			fail_msg("%s: %s", machines[i / 2], why.text);
		assert_int_equal(m->ndevices, whole->ndevices);
		for (uint32_t k = 0; k < m->ndevices; k++) {
			const struct mach_device *d = &m->devices[k];

			assert_false(node_known(d->node));
			assert_int_equal(d->confidence, CONF_UNKNOWN);
			for (uint32_t f = 0; f < d->nfacts; f++)
				assert_false(node_known(d->fact[f].node));
			devices++;
		}
		check_sane(m);
		json_decref(root);
		machine_destroy(m);
		machine_destroy(whole);
	}
	assert_true(devices > 200);
}

/* CPUs of nodes whose lists are nowhere to be read belong to no node. */
static void test_6_cpus_without_a_node(void **state)
{
	json_t *root = json_load_file(DIR_MACHINES "plain.json", 0, NULL), *files = json_object_get(root, "files");
	struct machine *m;

	(void)state;
	json_object_set_new(files, "/sys/devices/system/node/node0/cpulist", json_string(""));
	m = load_json(root, NULL);
	assert_non_null(m);
	for (uint32_t i = 0; i < m->ncpus; i++)
		assert_false(node_known(m->cpus[i].node));
	machine_destroy(m);
	json_decref(root);
}

static void test_7_out_of_memory_is_no_smaller_machine(void **state)
{
	static const char *const names[] = {"disputed.json", "cpuset.json", "lstopo.xml"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct machine *m = load(names[i]);
		char *whole = dump_both(m), path[128];
		uint64_t failed = 0;

		machine_destroy(m);
		snprintf(path, sizeof(path), DIR_MACHINES "%s", names[i]);
		for (uint64_t n = 1;; n++) {
			struct why why = {0};
			int r;

			mem_fail_at(n);
			r = machine_load(path, &m, &why);
			mem_fail_at(0);
			if (r == 0)
				break;
			assert_int_equal(r, -ENOMEM);
			assert_null(m);
			assert_non_null(strstr(why.text, "memory"));
			failed++;
		}
		assert_true(failed > 5);
		{
			char *after = dump_both(m);

			assert_string_equal(after, whole);
			free(after);
		}
		free(whole);
		machine_destroy(m);
	}
}

/* ---- slow memory: each source alone is enough ---- */

enum { BY_TIER = 1, BY_DAX = 2, BY_BANDWIDTH = 4, BY_HWLOC = 8 };

static json_t *cxl_with(int sources)
{
	json_t *root = json_load_file(DIR_MACHINES "cxl.json", 0, NULL), *files = json_object_get(root, "files");
	const char *xml = json_string_value(json_object_get(root, "hwloc"));
	char *copy = strdup(xml), *at = strstr(copy, "DAXDevice");

	assert_non_null(at);
	if (!(sources & BY_HWLOC))
		memcpy(at, "OtherInfo", 9);
	json_object_set_new(root, "hwloc", json_string(copy));
	free(copy);
	if (!(sources & BY_TIER))
		json_object_del(json_object_get(root, "dirs"), "/sys/devices/virtual/memory_tiering");
	json_object_set_new(files, "/sys/devices/system/node/node0/access0/initiators/read_bandwidth",
			    json_string("200000"));
	if (!(sources & BY_BANDWIDTH))
		json_object_del(files, "/sys/devices/system/node/node2/access0/initiators/read_bandwidth");
	if (sources & BY_DAX) {
		json_object_set_new(json_object_get(root, "dirs"), "/sys/bus/dax/devices", json_pack("[s]", "dax2.0"));
		json_object_set_new(files, "/sys/bus/dax/devices/dax2.0/target_node", json_string("2"));
	}
	return root;
}

static void test_8_slow_memory_by_each_source(void **state)
{
	(void)state;
	for (int sources = 0; sources < 16; sources++) {
		json_t *root = cxl_with(sources);
		struct machine *m = load_json(root, NULL);

		assert_non_null(m);
		assert_int_equal(node(m, 0)->kind, NODE_DRAM);
		assert_int_equal(node(m, 1)->kind, NODE_DRAM);
		assert_int_equal(node(m, 2)->kind, sources ? NODE_SLOW : NODE_DRAM);
		expect_device(m, "nvme0n1", 1, CONF_CERTAIN); /* a node without CPUs is no device's node, slow or not */
		machine_destroy(m);
		json_decref(root);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_every_machine_as_text_and_json),
		cmocka_unit_test(test_2_what_holds_of_all),
		cmocka_unit_test(test_3_strange_machines),
		cmocka_unit_test(test_4_devices_by_name_and_address),
		cmocka_unit_test(test_5_unknown_stays_unknown),
		cmocka_unit_test(test_6_cpus_without_a_node),
		cmocka_unit_test(test_7_out_of_memory_is_no_smaller_machine),
		cmocka_unit_test(test_8_slow_memory_by_each_source),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
