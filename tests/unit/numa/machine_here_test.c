/* The system this runs on, against the kernel's own files read in another way. The lab runs it in guests with several nodes, and
 * under limits that it names in LMCA_HERE_* so that they are known to be found. */
#include "numa/machine.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
	struct machine *m;
	struct why why = {0};

	if (machine_load(NULL, &m, &why)) {
		printf("# %s\n", why.text);
		return -1;
	}
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(*state);
	return 0;
}

/* The first number in a file; `none` when there is no such file. */
static long long number(long long none, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static long long number(long long none, const char *fmt, ...)
{
	char path[512];
	long long v = none;
	va_list ap;
	FILE *f;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	f = fopen(path, "r");
	if (f && fscanf(f, "%lli", &v) != 1)
		v = none;
	if (f)
		fclose(f);
	return v;
}

static uint32_t entries(const char *dir, const char *prefix)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	uint32_t n = 0;

	while (d && (e = readdir(d)))
		n += strncmp(e->d_name, prefix, strlen(prefix)) == 0 && e->d_name[strlen(prefix)] >= '0' &&
		     e->d_name[strlen(prefix)] <= '9';
	if (d)
		closedir(d);
	return n;
}

static void test_1_nodes(void **state)
{
	const struct machine *m = *state;

	assert_int_equal(m->nnodes, entries("/sys/devices/system/node", "node"));
	for (uint32_t i = 0; i < m->nnodes; i++) {
		const struct mach_node *n = &m->nodes[i];
		char dir[128];

		snprintf(dir, sizeof(dir), "/sys/devices/system/node/node%d", n->id.os);
		assert_int_equal(cpus_count(&n->all_cpus), entries(dir, "cpu"));
		assert_true(n->memory_bytes > 0);
		for (uint32_t k = 0; k < n->nhuge; k++)
			assert_int_equal(n->huge[k].total, number(-1, "%s/hugepages/hugepages-%llukB/nr_hugepages", dir,
								  (unsigned long long)n->huge[k].page_bytes >> 10));
		assert_true(m->nnodes == 1 || n->distance[i] == 10);
	}
}

/* Every drive and network card is listed once, on the node that the kernel says or on none. */
static void test_2_devices(void **state)
{
	const struct machine *m = *state;
	DIR *d = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	uint32_t found = 0;

	while (d && (e = readdir(d))) {
		long long cls = number(-1, "/sys/bus/pci/devices/%s/class", e->d_name) >> 8;
		const struct mach_device *dev = machine_device(m, e->d_name);
		long long node = number(-1, "/sys/bus/pci/devices/%s/numa_node", e->d_name);

		if (e->d_name[0] == '.' || (cls != 0x0108 && cls != 0x0200))
			continue;
		assert_non_null(dev);
		assert_true(node >= 0 ? dev->node.os == node : dev->confidence != CONF_CERTAIN);
		if (cls == 0x0108)
			assert_int_equal(dev->bytes, number(0, "/sys/class/block/%s/size", dev->name) << 9);
		found++;
	}
	if (d)
		closedir(d);
	printf("# %u devices on %u nodes\n", found, m->nnodes);
	assert_true(found <= m->ndevices);
}

/* A software RDMA device is where its network card is. */
static void test_3_rdma(void **state)
{
	const struct machine *m = *state;
	const struct mach_device *d = machine_device(m, "rxe0");

	if (!d) {
		assert_null(getenv("LMCA_HERE_RDMA"));
		return;
	}
	assert_int_equal(d->kind, DEV_RDMA);
	assert_ptr_equal(machine_device(m, d->netdev), d);
	assert_int_equal(d->node.os, atoi(getenv("LMCA_HERE_RDMA") ? getenv("LMCA_HERE_RDMA") : "-1"));
}

static void test_4_limits(void **state)
{
	const struct machine *m = *state;
	const char *huge = getenv("LMCA_HERE_HUGETLB"), *rsvd = getenv("LMCA_HERE_RSVD"),
		   *mems = getenv("LMCA_HERE_MEMS");

	for (uint32_t i = 0; i < m->limits.nhugetlb; i++) {
		const struct mach_hugetlb_limit *h = &m->limits.hugetlb[i];

		if (h->page_bytes != 2ull << 20)
			continue;
		assert_true(!huge || h->max == strtoull(huge, NULL, 10));
		assert_true(!huge || strstr(h->where, "hugetlb.2MB.max"));
		assert_true(!rsvd || h->rsvd_max == strtoull(rsvd, NULL, 10));
	}
	assert_true(!huge || m->limits.nhugetlb);
	assert_int_equal(m->limits.mems_restricted, mems != NULL);
	for (uint32_t i = 0; mems && i < m->nnodes; i++)
		assert_int_equal(m->nodes[i].allowed, m->nodes[i].id.os == atoi(mems));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_nodes),
		cmocka_unit_test(test_2_devices),
		cmocka_unit_test(test_3_rdma),
		cmocka_unit_test(test_4_limits),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
