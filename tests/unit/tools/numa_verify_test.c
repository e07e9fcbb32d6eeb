/* verify against this very process, as if it were the server; and against answers no server gives. */
#include "tools/numa_verify.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (1u << 20)

static const struct machine nothing = {.this_system = true};
static const struct verify_conf all = {0};

struct server {
	int fd;
	char *memory;
	char name[64], cpus[64];
};

static void start(struct server *s)
{
	struct cpu_set mine;

	snprintf(s->name, sizeof(s->name), "numa_verify_test_%d", getpid());
	s->fd = memfd_create(s->name, MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->fd, BYTES), 0);
	s->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	memset(s->memory, 1, BYTES);
	assert_int_equal(cpus_of_thread(getpid(), 0, &mine), 0);
	cpus_format(&mine, s->cpus, sizeof(s->cpus));
}

static void stop(struct server *s)
{
	munmap(s->memory, BYTES);
	close(s->fd);
}

static json_t *status_of(const struct server *s, json_t *node, const char *cpus, const char *thread)
{
	return json_pack("{s:{s:s}, s:{s:[{s:o,s:i,s:i,s:i}], s:[{s:s,s:i,s:s?,s:i}]}}", "arena", "backing", s->name,
			 "numa", "pools", "node", node, "start", 0, "bytes", (int)BYTES, "page_bytes", 4096, "threads",
			 "name", thread, "tid", (int)getpid(), "planned_cpus", cpus, "cpu", 0);
}

static const char *own_name(char buf[32])
{
	FILE *f = fopen("/proc/self/comm", "r");

	assert_non_null(fgets(buf, 32, f));
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

static void test_1_in_its_place(void **state)
{
	struct server s;
	struct verify *v;
	struct why why = {0};
	char name[32], *text = NULL;
	size_t n;
	(void)state;

	start(&s);
	json_t *status = status_of(&s, json_null(), s.cpus, own_name(name));
	assert_int_equal(verify_collect(status, &nothing, &all, &v, &why), 0);
	assert_int_equal(v->pid, getpid());
	assert_int_equal(v->nfindings, 0);
	assert_int_equal(v->pools[0].looked, BYTES / 4096);
	assert_int_equal(v->pools[0].on_node, BYTES / 4096);
	assert_true(v->pools[0].source == SEEN_MOVE_PAGES || v->pools[0].source == SEEN_NUMA_MAPS);
	assert_true(v->threads[0].seen && v->threads[0].planned && !v->threads[0].astray);
	FILE *f = open_memstream(&text, &n);
	verify_print(v, f);
	fclose(f);
	for (char *line = text; *line; line += strcspn(line, "\n") + 1)
		assert_in_range(strcspn(line, "\n"), 0, 80);
	free(text);
	json_t *o = verify_json(v);
	assert_int_equal(json_integer_value(json_object_get(o, "pid")), getpid());
	json_decref(o);
	verify_destroy(v);
	json_decref(status);
	stop(&s);
}

/* Planned on a node that this machine does not have, with CPUs that it does not have. */
static void test_2_out_of_place(void **state)
{
	struct server s;
	struct verify *v;
	struct why why = {0};
	char name[32];
	(void)state;

	start(&s);
	json_t *status = status_of(&s, json_integer(1000), "4000-4010", own_name(name));
	assert_int_equal(verify_collect(status, &nothing, &all, &v, &why), 0);
	assert_int_equal(v->pools[0].elsewhere, BYTES / 4096);
	assert_int_equal(v->pools[0].on_node, 0);
	assert_int_equal(v->nfindings, 2);
	assert_non_null(strstr(v->findings[0], "256 of 256 pages are not on node 1000 but 256 on node"));
	assert_non_null(strstr(v->findings[1], "planned: 4000-4010"));
	assert_true(v->threads[0].astray);
	verify_destroy(v);
	json_decref(status);
	stop(&s);
}

/* Pages that a sample skips are not counted; pages never touched are absent. */
static void test_3_sampled_and_absent(void **state)
{
	struct server s;
	struct verify *v;
	struct verify_conf few = {.max_pages = 10};
	char name[32];
	(void)state;

	start(&s);
	json_t *status = status_of(&s, json_null(), NULL, own_name(name));
	assert_int_equal(verify_collect(status, &nothing, &few, &v, NULL), 0);
	if (v->pools[0].source == SEEN_MOVE_PAGES)
		assert_in_range(v->pools[0].looked, 5, 10);
	verify_destroy(v);
	assert_int_equal(madvise(s.memory, BYTES / 2, MADV_REMOVE), 0);
	assert_int_equal(verify_collect(status, &nothing, &all, &v, NULL), 0);
	if (v->pools[0].source == SEEN_MOVE_PAGES) {
		assert_int_equal(v->pools[0].absent, BYTES / 4096 / 2);
		assert_non_null(strstr(v->findings[0], "128 of 256 pages are in no memory"));
	}
	verify_destroy(v);
	json_decref(status);
	stop(&s);
}

/* The same number may be another process here than where the server is. */
static void test_4_another_process_of_that_number(void **state)
{
	struct server s;
	struct verify *v;
	(void)state;

	start(&s);
	json_t *status = status_of(&s, json_null(), s.cpus, "somebody-else");
	assert_int_equal(verify_collect(status, &nothing, &all, &v, NULL), 0);
	assert_int_equal(v->pid, 0);
	assert_int_equal(v->pools[0].source, SEEN_NOT);
	assert_false(v->threads[0].seen);
	assert_int_equal(v->nfindings, 1);
	assert_non_null(strstr(v->findings[0], "not visible from here"));
	verify_destroy(v);
	/* Its own count is then the last resort. */
	json_t *pool = json_array_get(json_object_get(json_object_get(status, "numa"), "pools"), 0);
	json_object_set_new(pool, "pages_looked_at", json_integer(256));
	json_object_set_new(pool, "pages_on_node", json_integer(250));
	json_object_set_new(pool, "pages_elsewhere", json_integer(6));
	json_object_set_new(pool, "pages_absent", json_integer(0));
	assert_int_equal(verify_collect(status, &nothing, &all, &v, NULL), 0);
	assert_int_equal(v->pools[0].source, SEEN_BY_SERVER);
	assert_int_equal(v->pools[0].elsewhere, 6);
	assert_int_equal(v->nfindings, 1);
	verify_destroy(v);
	json_decref(status);
	stop(&s);
}

#define NUMA(pools, threads) "{\"numa\":{\"pools\":" pools ",\"threads\":" threads "}}"
#define POOL(node, start, bytes, page) \
	"[{\"node\":" node ",\"start\":" start ",\"bytes\":" bytes ",\"page_bytes\":" page "}]"

static void test_5_hostile_answers(void **state)
{
	static const char *const bad[] = {
		"{}",
		"{\"numa\":7}",
		"{\"numa\":{}}",
		NUMA("{}", "[]"),
		NUMA("[7]", "[]"),
		NUMA("[]", "[7]"),
		NUMA("[]", "[{\"name\":\"x\"}]"),
		NUMA("[]", "[{\"tid\":-1}]"),
		NUMA("[]", "[{\"tid\":1,\"planned_cpus\":\"x\"}]"),
		NUMA(POOL("-1", "0", "4096", "4096"), "[]"),
		NUMA(POOL("1024", "0", "4096", "4096"), "[]"),
		NUMA(POOL("\"0\"", "0", "4096", "4096"), "[]"),
		NUMA(POOL("0", "-1", "4096", "4096"), "[]"),
		NUMA(POOL("0", "9223372036854775807", "4096", "4096"), "[]"),
		NUMA(POOL("0", "0", "9223372036854775807", "4096"), "[]"),
		NUMA(POOL("0", "0", "4096", "0"), "[]"),
		NUMA(POOL("0", "0", "4096", "1"), "[]"),
		NUMA(POOL("0", "0", "4096", "5000"), "[]"),
	};
	struct verify *v;
	(void)state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *o = json_loads(bad[i], 0, NULL);
		assert_non_null(o);
		assert_int_equal(verify_collect(o, &nothing, &all, &v, NULL), -EBADMSG);
		json_decref(o);
	}
	json_t *o = json_loads(NUMA("[]", "[{\"tid\":1,\"name\":\"a\\u001b[2Jb\"}]"), 0, NULL);
	assert_int_equal(verify_collect(o, &nothing, &all, &v, NULL), 0);
	assert_string_equal(v->threads[0].name, "a?[2Jb");
	verify_destroy(v);
	json_decref(o);
}

static void test_6_out_of_memory(void **state)
{
	struct server s;
	struct verify *v;
	char name[32];
	int rc = -1;
	(void)state;

	start(&s);
	json_t *status = status_of(&s, json_null(), s.cpus, own_name(name));
	for (unsigned n = 1; rc; n++) {
		mem_fail_at(n);
		rc = verify_collect(status, &nothing, &all, &v, NULL);
		mem_fail_at(0);
		assert_true(rc == 0 || rc == -ENOMEM);
	}
	verify_destroy(v);
	json_decref(status);
	stop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_in_its_place),       cmocka_unit_test(test_2_out_of_place),
		cmocka_unit_test(test_3_sampled_and_absent), cmocka_unit_test(test_4_another_process_of_that_number),
		cmocka_unit_test(test_5_hostile_answers),    cmocka_unit_test(test_6_out_of_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
