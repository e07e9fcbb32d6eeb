/* The kernel's text about another process's memory. */
#include "numa/procmap.h"

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

static FILE *text(const char *s)
{
	FILE *f = tmpfile();

	assert_non_null(f);
	fputs(s, f);
	rewind(f);
	return f;
}

static int find(const char *maps, const char *name, uint64_t bytes, uint64_t *base)
{
	FILE *f = text(maps);
	int rc = procmap_find(f, name, bytes, base);

	fclose(f);
	return rc;
}

#define SPLIT                                                                             \
	"7f0000000000-7f0000100000 rw-s 00000000 00:1b 77   /dev/shm/lmcache_l1_pool_5\n" \
	"7f0000100000-7f0000200000 rw-s 00100000 00:1b 77   /dev/shm/lmcache_l1_pool_5\n"
#define OTHER "7e0000000000-7e0000200000 rw-s 00000000 00:1b 78   /dev/shm/engine (deleted)\n"

static void test_1_split_by_policies(void **state)
{
	uint64_t base = 0;
	(void)state;

	assert_int_equal(find("55000000-55001000 r--p 00000000 fe:00 11 /bin/x\n" SPLIT, "", 2 << 20, &base), 0);
	assert_int_equal(base, 0x7f0000000000);
	assert_int_equal(find(SPLIT, "", (2 << 20) + 1, &base), -ENOENT);
	/* The same file twice, a gap, a private one, one that does not begin at its beginning: not in one piece. */
	assert_int_equal(find("7f0000000000-7f0000100000 rw-s 00000000 00:1b 77 /a\n"
			      "7f0000100000-7f0000200000 rw-s 00000000 00:1b 77 /a\n"
			      "7f0000300000-7f0000400000 rw-s 00100000 00:1b 77 /a\n"
			      "7f1000000000-7f2000000000 rw-p 00000000 00:1b 79 /a\n"
			      "7f3000000000-7f4000000000 rw-s 00001000 00:1b 80 /a\n"
			      "7f5000000000-7f6000000000 rw-s 00000000 00:00 0 \n",
			      "", 2 << 20, &base),
			 -ENOENT);
}

static void test_2_the_name_decides(void **state)
{
	uint64_t base = 0;
	(void)state;

	assert_int_equal(find(OTHER SPLIT, "lmcache_l1_pool_5", 2 << 20, &base), 0);
	assert_int_equal(base, 0x7f0000000000);
	assert_int_equal(find(SPLIT OTHER, "engine", 2 << 20, &base), 0);
	assert_int_equal(base, 0x7e0000000000);
	assert_int_equal(find(OTHER SPLIT, "", 2 << 20, &base), -ENOTUNIQ);
	assert_int_equal(find(OTHER SPLIT, "no such name", 2 << 20, &base), -ENOTUNIQ);
	assert_int_equal(find(OTHER OTHER, "engine", 2 << 20, &base), -ENOTUNIQ);
}

static void test_3_nonsense(void **state)
{
	uint64_t base = 0;
	char *line = malloc(100000);
	(void)state;

	assert_int_equal(find("", "", 1, &base), -ENOENT);
	assert_int_equal(find("\n\n-\n7f-7e rw-s 0 0:0 5 x\nzz-zz rw-s 0 0:0 5\n", "", 1, &base), -ENOENT);
	memset(line, 'a', 99999);
	line[99999] = '\0';
	assert_int_equal(find(line, "", 1, &base), -ENOENT);
	free(line);
}

static void test_4_a_real_mapping(void **state)
{
	uint64_t bytes = 3 << 20, base = 0, page = 0;
	int fd = memfd_create("procmap_test_memory", MFD_CLOEXEC);
	struct pages_census c = {0};
	(void)state;

	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(p, 1, bytes);
	FILE *f = fopen("/proc/self/maps", "r");
	assert_int_equal(procmap_find(f, "procmap_test_memory", bytes, &base), 0);
	assert_int_equal(base, (uintptr_t)p);
	fclose(f);
	f = fopen("/proc/self/numa_maps", "r");
	if (f) {
		assert_int_equal(procmap_count(f, base, bytes, &c, &page), 0);
		assert_int_equal(page, sysconf(_SC_PAGESIZE));
		assert_int_equal(c.looked, bytes / page);
		fclose(f);
	}
	munmap(p, bytes);
	close(fd);
}

static void test_5_numa_maps(void **state)
{
	static const char lines[] =
		"7e0000000000 default file=/x N0=9 kernelpagesize_kB=4\n"
		"7f0000000000 bind:1 file=/anon_hugepage\\040(deleted) huge dirty=32 N1=30 N0=2 "
		"kernelpagesize_kB=2048\n"
		"7f0004000000 bind:70 file=/y N70=5 N99999=1 N1=x N2=3y Nx=1 kernelpagesize_kB=2048\n"
		"7f0008000000 default N0=1000 kernelpagesize_kB=4\n";
	struct pages_census c = {0};
	uint64_t page = 0;
	FILE *f = text(lines);
	(void)state;

	assert_int_equal(procmap_count(f, 0x7f0000000000, 0x8000000, &c, &page), 0);
	assert_int_equal(page, 2 << 20);
	assert_int_equal(pages_on(&c, node_of(1)), 30);
	assert_int_equal(pages_on(&c, node_of(0)), 2);
	assert_int_equal(pages_on(&c, node_of(70)), 5);
	assert_int_equal(c.others, 1);
	assert_int_equal(c.looked, 38);
	rewind(f);
	assert_int_equal(procmap_count(f, 0x1000, 0x1000, &c, &page), -ENOENT);
	fclose(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_split_by_policies), cmocka_unit_test(test_2_the_name_decides),
		cmocka_unit_test(test_3_nonsense),          cmocka_unit_test(test_4_a_real_mapping),
		cmocka_unit_test(test_5_numa_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
