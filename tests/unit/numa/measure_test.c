/* Measuring, its file, and the kernel's answers about pages. */
#include "numa/measure.h"

#include "daemon/base/mem.h"
#include "numa/measure_int.h"
#include "numa/pages.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NODES 2u

/* One real CPU on node 0; node 1 has memory only. */
struct two {
	struct machine m;
	struct mach_node nodes[NODES];
	struct mach_device drives[4];
};

static void two_nodes(struct two *t)
{
	struct cpu_set mine;

	memset(t, 0, sizeof(*t));
	assert_int_equal(cpus_of_thread(getpid(), 0, &mine), 0);
	t->m = (struct machine){.this_system = true, .nodes = t->nodes, .nnodes = NODES, .devices = t->drives};
	snprintf(t->m.host, sizeof(t->m.host), "h");
	for (uint32_t i = 0; i < NODES; i++)
		t->nodes[i] = (struct mach_node){.id = node_of((int)i), .allowed = true, .memory_bytes = 1 << 30};
	cpus_add(&t->nodes[0].cpus, (uint32_t)cpus_next(&mine, 0));
}

static const struct measure_conf quick = {.bytes = 4 << 20, .threads = 2, .seconds = 0.02, .drives = true};

static void count_cell(void *ctx, const struct measure_cell *c)
{
	assert_true(c->gbs > 0 || c->reason[0]);
	++*(unsigned *)ctx;
}

static void test_1_this_machine(void **state)
{
	struct machine *m;
	struct measure *r;
	struct why why = {0};
	unsigned seen = 0, want = 0;
	(void)state;

	assert_int_equal(machine_load(NULL, &m, &why), 0);
	for (uint32_t i = 0; i < m->nnodes; i++)
		for (uint32_t k = 0; k < m->nnodes; k++)
			want += cpus_count(&m->nodes[i].cpus) && m->nodes[k].memory_bytes &&
				m->nodes[k].kind != NODE_GPU_MEMORY && m->nodes[k].allowed;
	struct measure_watch watch = {.cell = count_cell, .ctx = &seen};
	assert_int_equal(measure_run(m, &quick, &watch, &r, &why), 0);
	assert_int_equal(r->ncells, want);
	assert_int_equal(seen, want);
	if (want == 1) {
		const struct measure_cell *c = &r->cells[0];
		assert_true(c->gbs > 0.01 && c->gbs < 1e4);
		assert_true(fabs(measure_ratio(r, c->cpu, c->memory) - 1) < 1e-9);
		assert_in_range(c->threads, 1, 2);
		printf("# %.1f GB/s by %u threads\n", c->gbs, c->threads);
	}
	measure_destroy(r);
	machine_destroy(m);
}

static void test_2_refused(void **state)
{
	struct two t;
	struct measure *r;
	struct why why = {0};
	struct measure_conf bad = quick;
	(void)state;

	two_nodes(&t);
	t.m.this_system = false;
	assert_int_equal(measure_run(&t.m, &quick, NULL, &r, &why), -EXDEV);
	t.m.this_system = true;
	bad.seconds = NAN;
	assert_int_equal(measure_run(&t.m, &bad, NULL, &r, &why), -EINVAL);
}

/* Node 1023 is on no machine these tests run on: its cells have a reason and no rate, and the rest is measured. */
static void test_2_a_node_that_is_not_there(void **state)
{
	struct two t;
	struct measure *r;
	struct why why = {0};
	(void)state;

	two_nodes(&t);
	t.nodes[1].id = node_of(1023);
	assert_int_equal(measure_run(&t.m, &quick, NULL, &r, &why), 0);
	assert_int_equal(r->ncells, 2);
	assert_true(r->cells[0].gbs > 0 || r->cells[0].reason[0]);
	assert_true(r->cells[1].gbs == 0);
	assert_non_null(strstr(r->cells[1].reason, "1023"));
	measure_destroy(r);
}

static void test_3_drives_that_cannot_be_read(void **state)
{
	static const char *const names[] = {"nvme99n9", "../etc/passwd", "null", ""};
	struct two t;
	struct measure *r;
	struct why why = {0};
	(void)state;

	two_nodes(&t);
	t.m.nnodes = 1;
	for (unsigned i = 0; i < 4; i++) {
		t.drives[i].kind = DEV_NVME;
		t.drives[i].node = NODE_UNKNOWN;
		snprintf(t.drives[i].name, sizeof(t.drives[i].name), "%s", names[i]);
	}
	t.m.ndevices = 4;
	assert_int_equal(measure_run(&t.m, &quick, NULL, &r, &why), 0);
	assert_int_equal(r->ndrives, 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(r->drives[i].gbs == 0);
		assert_true(r->drives[i].reason[0]);
		assert_false(node_known(r->drives[i].cpu));
	}
	assert_non_null(strstr(r->drives[0].reason, "/dev/nvme99n9"));
	measure_destroy(r);
}

static void test_3_out_of_memory(void **state)
{
	struct two t;
	struct measure *r;
	int rc = -1;
	(void)state;

	two_nodes(&t);
	t.m.nnodes = 1;
	for (unsigned n = 1; rc; n++) {
		mem_fail_at(n);
		rc = measure_run(&t.m, &quick, NULL, &r, NULL);
		mem_fail_at(0);
		assert_true(rc == 0 || rc == -ENOMEM);
	}
	measure_destroy(r);
}

/* ---- the gate -------------------------------------------------------------------------------------------------------- */

struct at_gate {
	struct measure_gate *gate;
	bool ok, passed;
};

static void *pass(void *arg)
{
	struct at_gate *a = arg;

	a->passed = measure_gate_pass(a->gate, a->ok);
	return NULL;
}

static void test_4_all_or_none(void **state)
{
	(void)state;
	for (unsigned lame = 0; lame <= 3; lame++) {
		struct measure_gate g;
		struct at_gate a[3];
		pthread_t t[3];
		measure_gate_init(&g, 3);
		for (unsigned i = 0; i < 3; i++) {
			a[i] = (struct at_gate){.gate = &g, .ok = i != lame};
			pthread_create(&t[i], NULL, pass, &a[i]);
		}
		for (unsigned i = 0; i < 3; i++) {
			pthread_join(t[i], NULL);
			assert_int_equal(a[i].passed, lame == 3);
		}
		measure_gate_destroy(&g);
	}
}

static void test_4_fewer_threads_than_wanted(void **state)
{
	struct measure_gate g;
	struct at_gate a = {.gate = &g, .ok = true};
	pthread_t t;
	(void)state;

	measure_gate_init(&g, 2);
	pthread_create(&t, NULL, pass, &a);
	measure_gate_shrink(&g, 1);
	pthread_join(t, NULL);
	assert_false(a.passed);
	measure_gate_destroy(&g);
}

/* ---- the file -------------------------------------------------------------------------------------------------------- */

static struct measure *sample(void)
{
	struct measure *m = mem_calloc(1, sizeof(*m));

	snprintf(m->host, sizeof(m->host), "box");
	m->cells = mem_calloc(4, sizeof(*m->cells));
	m->drives = mem_calloc(2, sizeof(*m->drives));
	m->ncells = 4;
	m->ndrives = 2;
	for (unsigned i = 0; i < 4; i++)
		m->cells[i] = (struct measure_cell){.cpu = node_of((int)(i / 2)),
						    .memory = node_of(i % 2 ? 70 : 0),
						    .gbs = 10 + i,
						    .threads = 4,
						    .pages = 99};
	m->cells[3].gbs = 0;
	snprintf(m->cells[3].reason, sizeof(m->cells[3].reason), "no 64 MiB free");
	m->drives[0] = (struct measure_drive){
		.pci = "0000:01:00.0", .name = "nvme0n1", .device = NODE_UNKNOWN, .cpu = node_of(0), .gbs = 3.25};
	m->drives[1] = (struct measure_drive){.pci = "0000:02:00.0",
					      .name = "nvme1n1",
					      .device = node_of(1),
					      .cpu = NODE_UNKNOWN,
					      .reason = "no permission"};
	return m;
}

static void test_5_ratios(void **state)
{
	struct measure *m = sample();
	(void)state;

	assert_true(measure_gbs(m, node_of(0), node_of(70)) == 11);
	assert_true(measure_gbs(m, NODE_UNKNOWN, node_of(0)) == 0);
	assert_true(fabs(measure_ratio(m, node_of(0), node_of(70)) - 1.1) < 1e-9);
	/* Node 1 has no memory of its own: the best it reaches counts. */
	assert_true(fabs(measure_ratio(m, node_of(1), node_of(0)) - 1) < 1e-9);
	assert_true(measure_ratio(m, node_of(1), node_of(70)) == 0);
	assert_true(measure_ratio(m, node_of(5), node_of(0)) == 0);
	measure_destroy(m);
}

static void test_5_written_and_read(void **state)
{
	char folder[] = "/tmp/measure_test.XXXXXX", path[64];
	struct measure *m = sample(), *back;
	struct why why = {0};
	(void)state;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/new/m.json", folder);
	assert_int_equal(measure_read(path, &back, &why), -ENOENT);
	assert_int_equal(measure_write(m, path, &why), 0);
	assert_int_equal(measure_write(m, path, &why), 0);
	assert_int_equal(measure_read(path, &back, &why), 0);
	json_t *a = measure_json(m), *b = measure_json(back);
	assert_true(json_equal(a, b));
	assert_true(measure_gbs(back, node_of(1), node_of(0)) == 12);
	assert_false(node_known(back->drives[0].device));
	assert_int_equal(back->drives[1].device.os, 1);
	json_decref(a);
	json_decref(b);
	measure_destroy(back);
	measure_destroy(m);
	unlink(path);
	snprintf(path, sizeof(path), "%s/new", folder);
	assert_int_equal(rmdir(path), 0); /* no temporary file is left */
	assert_int_equal(measure_read(folder, &back, &why), -EBADMSG);
	rmdir(folder);
}

static int read_of(const char *text, struct measure **m)
{
	char path[] = "/tmp/measure_test.XXXXXX";
	int fd = mkstemp(path);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	int rc = measure_read(path, m, NULL);
	unlink(path);
	return rc;
}

#define CELL(cpu, gbs)                                                                         \
	"{\"version\":1,\"memcpy\":[{\"cpu_node\":" cpu ",\"memory_node\":0,\"gb_per_s\":" gbs \
	",\"threads\":1,\"pages\":2,\"misplaced_pages\":0}],\"nvme\":[]}"

static void test_6_hostile_files(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{}",
		"{\"version\":2,\"memcpy\":[],\"nvme\":[]}",
		"{\"version\":1,\"memcpy\":{},\"nvme\":[]}",
		"{\"version\":1,\"memcpy\":[7],\"nvme\":[]}",
		"{\"version\":1,\"memcpy\":[],\"nvme\":[null]}",
		CELL("null", "1.0"),
		CELL("-1", "1.0"),
		CELL("1024", "1.0"),
		CELL("4294967296", "1.0"),
		CELL("0", "-1"),
		CELL("0", "1e300"),
		CELL("0", "\"7\""),
		"{\"version\":1,\"host\":\"a\\u001b[2J\",\"memcpy\":[],\"nvme\":[]}",
		"{\"version\":1,\"host\":7,\"memcpy\":[],\"nvme\":[]}",
	};
	struct measure *m;
	(void)state;

	assert_int_equal(read_of(CELL("0", "1.5"), &m), 0);
	assert_true(measure_gbs(m, node_of(0), node_of(0)) == 1.5);
	measure_destroy(m);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(read_of(bad[i], &m), -EBADMSG);
}

static void test_6_columns(void **state)
{
	struct measure *m = sample();
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	(void)state;

	measure_print(m, f);
	fclose(f);
	assert_non_null(strstr(text, "node 70"));
	assert_non_null(strstr(text, "11.00 (110%)"));
	assert_non_null(strstr(text, "node ?"));
	for (char *line = text; *line; line += strcspn(line, "\n") + 1)
		assert_in_range(strcspn(line, "\n"), 1, 80);
	free(text);
	measure_destroy(m);
}

/* ---- pages ----------------------------------------------------------------------------------------------------------- */

static void test_7_pages(void **state)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), bytes = 3000 * page;
	struct pages_census c = {0};
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	(void)state;

	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 1000; i++)
		p[i * page] = 1;
	int rc = pages_count(0, (uintptr_t)p, bytes, page, &c);
	if (rc == -EPERM || rc == -ENOSYS) {
		munmap(p, bytes);
		skip();
	}
	assert_int_equal(rc, 0);
	assert_int_equal(c.looked, 3000);
	assert_int_equal(c.absent, 2000);
	assert_in_range(c.nat, 1, PAGES_NODES);
	uint64_t sum = 0;
	for (uint32_t i = 0; i < c.nat; i++)
		sum += pages_on(&c, c.at[i].node);
	assert_int_equal(sum, 1000);
	assert_int_equal(pages_on(&c, NODE_UNKNOWN), 0);
	assert_int_equal(pages_count(0, (uintptr_t)p, bytes, 0, &c), -EINVAL);
	assert_int_equal(pages_bind(p, bytes, NODE_UNKNOWN), -EINVAL);
	munmap(p, bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_this_machine),
		cmocka_unit_test(test_2_refused),
		cmocka_unit_test(test_2_a_node_that_is_not_there),
		cmocka_unit_test(test_3_drives_that_cannot_be_read),
		cmocka_unit_test(test_3_out_of_memory),
		cmocka_unit_test(test_4_all_or_none),
		cmocka_unit_test(test_4_fewer_threads_than_wanted),
		cmocka_unit_test(test_5_ratios),
		cmocka_unit_test(test_5_written_and_read),
		cmocka_unit_test(test_6_hostile_files),
		cmocka_unit_test(test_6_columns),
		cmocka_unit_test(test_7_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
