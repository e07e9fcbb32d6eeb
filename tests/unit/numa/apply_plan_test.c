/* What plans ask for is what apply may write, and what the sample files of config/ hold. */
#include "numa/apply_journal.h"
#include "tests/unit/numa/machine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define KINDS 4

static bool is_inside(const char *file, const char *line)
{
	char buf[400];
	bool found = false;
	FILE *f = fopen(file, "r");

	if (!f)
		fail_msg("%s is not here: tests run from the repository's root", file);
	while (fgets(buf, sizeof(buf), f)) {
		buf[strcspn(buf, "\n")] = '\0';
		found = found || strcmp(buf[0] == '#' ? buf + 1 : buf, line) == 0;
	}
	fclose(f);
	return found;
}

static void check_action(const struct plan_action *a, uint32_t seen[KINDS])
{
	char path[APPLY_PATH], line[1400];

	seen[a->kind]++;
	switch (a->kind) {
	case ACT_SYSFS:
		assert_int_equal(apply_path_of(a->path, path), 0);
		assert_true(apply_path_ok(path));
		assert_int_equal(strpbrk(a->value, "[]\n") ? 1 : 0, 0);
		break;
	case ACT_SYSCTL:
		assert_int_equal(apply_path_of(a->path, path), 0);
		assert_true(apply_path_ok(path));
		snprintf(line, sizeof(line), "%s = %s", path + strlen("/proc/sys/"), a->value);
		for (char *c = line; (c = strchr(c, '/'));)
			*c = '.';
		assert_true(is_inside("config/sysctl.d/60-lmcache-appliance.conf", line));
		break;
	case ACT_KERNEL_ARG:
		assert_int_equal(strncmp(a->value, "hugepagesz=", strlen("hugepagesz=")), 0);
		break;
	case ACT_UNIT:
		assert_true(is_inside("config/lmcache-appliance.service.in", a->value));
		break;
	}
}

static struct machine *poor_machine(void)
{
	static const uint32_t on[] = {0, 1};
	struct machine *m = fix_machine(2);

	for (uint32_t i = 0; i < 2; i++) {
		fix_memory(m, i, 64 * FIX_GIB);
		m->nodes[i].free_bytes = 60 * FIX_GIB;
		fix_huge(m, i, 2 * FIX_MIB, 0, 0);
		fix_huge(m, i, FIX_GIB, 0, 0);
	}
	fix_cpus(m, on, 2, 4, 1, 4);
	m->limits.numa_balancing = true;
	m->limits.memlock = 64 << 10;
	snprintf(m->limits.shmem_thp, sizeof(m->limits.shmem_thp), "never");
	return m;
}

static void plan_all(const struct machine *m, uint32_t seen[KINDS])
{
	static const struct plan_conf confs[] = {
		{.numa = WANT_TRY, .huge_1g = WANT_TRY, .huge_2m = WANT_TRY, .thp = WANT_TRY},
		{.numa = WANT_TRY, .huge_2m = WANT_YES},
		{.numa = WANT_TRY, .huge_1g = WANT_YES},
		{.numa = WANT_TRY, .thp = WANT_YES},
		{.numa = WANT_TRY},
	};

	for (uint32_t i = 0; i < sizeof(confs) / sizeof(confs[0]); i++)
		for (enum plan_policy policy = PLAN_LOCAL; policy < PLAN_MANUAL; policy++) {
			struct plan_conf conf = confs[i];
			struct plan *p;
			conf.policy = policy;
			conf.l1_bytes = 8 * FIX_GIB;
			assert_int_equal(plan_make(m, &conf, &p, NULL), 0);
			for (uint32_t k = 0; k < p->nactions; k++)
				check_action(&p->actions[k], seen);
			plan_destroy(p);
		}
}

static void test_1_a_machine_that_needs_everything(void **state)
{
	uint32_t seen[KINDS] = {0};
	struct machine *m = poor_machine();
	(void)state;

	plan_all(m, seen);
	machine_destroy(m);
	for (uint32_t i = 0; i < KINDS; i++)
		assert_true(seen[i] > 0);
}

/* Nothing of what `make install` puts below /etc acts before somebody has edited it. */
static void test_2_the_samples_are_inactive(void **state)
{
	static const char *const files[] = {"config/sysctl.d/60-lmcache-appliance.conf",
					    "config/tmpfiles.d/lmcache-appliance.conf",
					    "config/kernel-command-line.cfg"};
	(void)state;

	for (uint32_t i = 0; i < 3; i++) {
		char line[400];
		uint32_t settings = 0;
		FILE *f = fopen(files[i], "r");
		assert_non_null(f);
		while (fgets(line, sizeof(line), f)) {
			assert_true(line[0] == '#' || line[0] == '\n');
			settings += line[0] == '#' && line[1] != ' ' && line[1] != '\n';
		}
		fclose(f);
		assert_true(settings >= 2);
	}
}

/* "w PATH - - - - VALUE" and "key = value": each names a setting that apply knows too. */
static void test_3_the_samples_name_settings_of_apply(void **state)
{
	char line[400], path[APPLY_PATH], name[200];
	FILE *f = fopen("config/tmpfiles.d/lmcache-appliance.conf", "r");
	(void)state;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "#w %199s - - - - %*s", name) == 1)
			assert_true(apply_path_ok(name));
	fclose(f);
	f = fopen("config/sysctl.d/60-lmcache-appliance.conf", "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (line[0] != '#' || line[1] == ' ' || sscanf(line, "#%199[a-z_.0-9] =", name) != 1)
			continue;
		assert_int_equal(apply_path_of(name, path), 0);
		assert_true(apply_path_ok(path));
	}
	fclose(f);
}

/* With a mount namespace of its own the service's huge pages have a name that no engine sees. */
static void test_4_the_unit_has_no_mount_namespace(void **state)
{
	static const char *const words[] = {"ProtectSystem=",
					    "ProtectHome=",
					    "ProtectKernel",
					    "ProtectProc=",
					    "ProtectControlGroups=",
					    "PrivateTmp=yes",
					    "PrivateDevices=",
					    "PrivateMounts=",
					    "PrivateIPC=yes",
					    "ReadOnlyPaths=",
					    "ReadWritePaths=",
					    "InaccessiblePaths=",
					    "BindPaths=",
					    "TemporaryFileSystem=",
					    "RootDirectory=",
					    "DynamicUser=",
					    "NUMAMask=",
					    "NUMAPolicy=bind",
					    "CPUAffinity="};
	char line[400];
	FILE *f = fopen("config/lmcache-appliance.service.in", "r");
	(void)state;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		for (uint32_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			assert_false(strncmp(line, words[i], strlen(words[i])) == 0);
	fclose(f);
	assert_true(is_inside("config/lmcache-appliance.service.in", "LimitMEMLOCK=infinity"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_a_machine_that_needs_everything),
		cmocka_unit_test(test_2_the_samples_are_inactive),
		cmocka_unit_test(test_3_the_samples_name_settings_of_apply),
		cmocka_unit_test(test_4_the_unit_has_no_mount_namespace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
