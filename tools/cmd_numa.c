/* cmd_numa.c - what the commands of `numa` share: sizes, the machine, wishes from options, where results go. */
#include "tools/cmd_numa.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define GIB     (1024.0 * 1024 * 1024)
#define MAX_L1  (1ull << 46) /* 64 TiB, as --l1-size-gb */
#define MAP_TOP 64u

static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

/* What follows the digits: K, KB, KiB ... T; 0 when it is none of them. */
static double unit_bytes(const char *text)
{
	static const char letters[] = "KMGT";
	const char *at = *text ? strchr(letters, *text & ~0x20) : NULL;
	if (!at || (text[1] && strcasecmp(text + 1, "b") != 0 && strcasecmp(text + 1, "ib") != 0))
		return 0;
	return ldexp(1, 10 * (int)(at - letters + 1));
}

int numa_size_parse(const char *text, uint64_t *out)
{
	char digits[20], *end;
	size_t n = strspn(text, "0123456789.");
	if (!n || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, n);
	digits[n] = '\0';
	double v = strtod(digits, &end), bytes = v * unit_bytes(text + n);
	if (*end || end == digits || unit_bytes(text + n) == 0)
		return -EINVAL;
	if (bytes < 4096 || bytes > (double)MAX_L1)
		return -ERANGE;
	*out = (uint64_t)bytes;
	return 0;
}

const char *numa_size_text(uint64_t bytes, char buf[24])
{
	double v = (double)bytes;
	unsigned u = 0;
	/* rounded as printed: 1023.96 MiB is 1 GiB */
	for (; u < 5 && v >= 1023.95; u++)
		v /= 1024;
	double tenths = v < 100 ? round(v * 10) / 10 : round(v);
	snprintf(buf, 24, tenths == floor(tenths) ? "%.0f %s" : "%.1f %s", tenths, units[u]);
	return buf;
}

uint64_t numa_default_l1(const struct machine *m, char how[128])
{
	uint64_t of_size[64] = {0}, huge = 0, memory = 0; /* by the page size's power of two */
	for (uint32_t i = 0; i < m->nnodes; i++) {
		const struct mach_node *n = &m->nodes[i];
		if (n->kind != NODE_DRAM || !n->allowed)
			continue;
		for (uint32_t k = 0; k < n->nhuge; k++)
			if (n->huge[k].known && n->huge[k].page_bytes)
				of_size[__builtin_ctzll(n->huge[k].page_bytes)] +=
					n->huge[k].free * n->huge[k].page_bytes;
		memory += n->free_bytes ? n->free_bytes : n->memory_bytes / 2;
	}
	/* all pools have one page size */
	for (int i = 0; i < 64; i++)
		huge = of_size[i] > huge ? of_size[i] : huge;
	uint64_t bytes = huge ? huge : memory / 2;
	snprintf(how, 128, huge ? "the free huge pages" : "half of the free memory");
	if (bytes > m->limits.memory_max / 2 && !huge) {
		bytes = m->limits.memory_max / 2;
		snprintf(how, 128, "half of what the cgroup allows");
	}
	if (!bytes) {
		bytes = 4ull << 30;
		snprintf(how, 128, "4 GiB, as the machine does not say what it has");
	}
	bytes = bytes > MAX_L1 ? MAX_L1 : bytes;
	return bytes >= 1ull << 30 ? bytes >> 30 << 30 : bytes >> 21 ? bytes >> 21 << 21 : 2ull << 20;
}

int numa_parse(const struct cli_cmd *cmd, const struct cli_spec *spec, int argc, char **argv, struct numa_options *o)
{
	int code = cli_parse(cmd, spec, argc, argv, &o->common);
	if (code < 0 && o->json)
		o->common.format = REPORT_JSON;
	return code;
}

int numa_load(const struct cli_cmd *cmd, const struct numa_options *o, struct machine **m)
{
	struct why why = {0};
	int rc = machine_load(o->from, m, &why);
	if (!rc)
		return -1;
	cli_error(cmd, "%s", why.text[0] ? why.text : strerror(-rc));
	return CLI_UNREADABLE;
}

/* One "NODE=SIZE". */
static int map_entry(const char *text, struct plan_conf *conf)
{
	char *end;
	errno = 0;
	unsigned long node = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || errno || *end != '=' || node >= NODE_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < conf->nmanual; i++)
		if (conf->manual[i].node.os == (int)node)
			return -EEXIST;
	conf->manual[conf->nmanual].node = node_of((int)node);
	return numa_size_parse(end + 1, &conf->manual[conf->nmanual++].bytes);
}

static int parse_map(const struct cli_cmd *cmd, const char *text, struct plan_conf *conf)
{
	uint64_t sum = 0;
	for (const char *at = text;; at++) {
		char entry[48];
		size_t n = strcspn(at, ",");
		if (n >= sizeof(entry) || conf->nmanual == MAP_TOP)
			return cli_usage(cmd, "--map: at most %u nodes as NODE=SIZE, with commas between", MAP_TOP);
		snprintf(entry, sizeof(entry), "%.*s", (int)n, at);
		int rc = map_entry(entry, conf);
		if (rc)
			return cli_usage(cmd, "--map: '%s': %s", entry,
					 rc == -EEXIST   ? "this node is there already"
					 : rc == -ERANGE ? "expected a size from 4K to 64T"
							 : "expected NODE=SIZE, such as 0=32G");
		sum += conf->manual[conf->nmanual - 1].bytes;
		at += n;
		if (!*at)
			break;
	}
	if (conf->l1_bytes && conf->l1_bytes != sum)
		return cli_usage(cmd, "--l1 and the sum of --map differ; leave one away");
	conf->l1_bytes = sum;
	conf->policy = PLAN_MANUAL;
	return -1;
}

/* A size asked for by name is taken or missed: only auto goes on to smaller ones. */
static void want_pages(struct plan_conf *conf, enum numa_pages pages)
{
	bool automatic = pages == PAGES_AUTO;
	conf->huge_1g = automatic ? WANT_TRY : pages == PAGES_1G ? WANT_YES : WANT_NO;
	conf->huge_2m = automatic ? WANT_TRY : pages == PAGES_2M ? WANT_YES : WANT_NO;
	conf->thp = automatic ? WANT_TRY : pages == PAGES_THP ? WANT_YES : WANT_NO;
}

int numa_plan_conf(const struct cli_cmd *cmd, const struct numa_options *o, const struct machine *m,
		   struct plan_conf *conf, char how[128])
{
	*conf = (struct plan_conf){.policy = (enum plan_policy)o->policy,
				   .numa = (enum plan_want)o->strict,
				   .transfer_workers = o->transfer_workers,
				   .lookup_workers = o->lookup_workers};
	how[0] = '\0';
	want_pages(conf, (enum numa_pages)o->pages);
	numa_held(o->status, conf);
	if (o->l1 && numa_size_parse(o->l1, &conf->l1_bytes))
		return cli_usage(cmd, "--l1 %.32s: expected a size from 4K to 64T, such as 64G or 1.5T", o->l1);
	if (o->map)
		return parse_map(cmd, o->map, conf);
	if (conf->policy == PLAN_MANUAL)
		return cli_usage(cmd, "--policy manual needs --map, such as --map 0=32G,1=32G");
	if (!conf->l1_bytes && (conf->l1_bytes = numa_l1_of(o->status)))
		snprintf(how, 128, "as the server has");
	if (!conf->l1_bytes)
		conf->l1_bytes = numa_default_l1(m, how);
	return -1;
}

int numa_plan(const struct cli_cmd *cmd, const struct numa_options *o, const struct machine *m, struct plan **p,
	      char how[128])
{
	struct plan_conf conf;
	struct why why = {0};
	int code = numa_plan_conf(cmd, o, m, &conf, how);
	if (code >= 0)
		return code;
	int rc = plan_make(m, &conf, p, &why);
	if (!rc)
		return -1;
	cli_error(cmd, "%s", why.text[0] ? why.text : strerror(-rc));
	return rc == -EINVAL ? CLI_USAGE : CLI_FAILED;
}

static const char *out_name(const struct numa_options *o)
{
	return o->common.output ? o->common.output : "standard output";
}

FILE *numa_open(const struct cli_cmd *cmd, const struct numa_options *o)
{
	const char *path = o->common.output ? o->common.output : o->common.quiet ? "/dev/null" : NULL;
	FILE *out = path ? fopen(path, "we") : stdout;
	if (!out)
		cli_error(cmd, "%s: %s", out_name(o), strerror(errno));
	return out;
}

int numa_close(const struct cli_cmd *cmd, const struct numa_options *o, FILE *out, int code)
{
	bool failed = ferror(out);
	if (fflush(out) || (out != stdout && fclose(out)))
		failed = true;
	if (failed)
		cli_error(cmd, "%s: %s", out_name(o), errno ? strerror(errno) : "cannot be written");
	return failed && code == CLI_OK ? CLI_FAILED : code;
}

int numa_finish_json(const struct cli_cmd *cmd, const struct numa_options *o, json_t *json, int code)
{
	if (!json) {
		cli_error(cmd, "%s", strerror(ENOMEM));
		return CLI_FAILED;
	}
	FILE *out = numa_open(cmd, o);
	if (!out) {
		json_decref(json);
		return CLI_FAILED;
	}
	if (json_dumpf(json, out, JSON_INDENT(2)) || fputc('\n', out) == EOF)
		code = code == CLI_OK ? CLI_FAILED : code;
	json_decref(json);
	return numa_close(cmd, o, out, code);
}
