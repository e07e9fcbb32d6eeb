#include "tools/bench_tiers.h"

#include "tools/httpc.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	size_t at;
} rows[] = {
	{"lmcache_mp_lookup_requested_tokens_total", offsetof(struct bench_tiers, asked_tokens)},
	{"lmcache_mp_lookup_hit_l1_tokens_total", offsetof(struct bench_tiers, l1_tokens)},
	{"lmcache_mp_lookup_hit_l2_tokens_total", offsetof(struct bench_tiers, l2_tokens)},
	{"lmcache_appliance_l2_read_bytes_total", offsetof(struct bench_tiers, l2_read_bytes)},
	{"lmcache_appliance_l2_written_bytes_total", offsetof(struct bench_tiers, l2_write_bytes)},
	{"lmcache_appliance_l2_dropped_objects_total", offsetof(struct bench_tiers, l2_dropped)},
};

/* The sum of a metric's series in Prometheus text: lines NAME VALUE and NAME{...} VALUE. */
static double sum_of(const char *text, const char *name)
{
	size_t n = strlen(name);
	double sum = 0;

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, n) != 0 || (line[n] != ' ' && line[n] != '{'))
			continue;
		const char *end = strchr(line, '\n'), *value = line + n;
		if (*value == '{') /* the last brace of the line: label values may hold others */
			for (const char *p = value; *p && p != end; p++)
				value = *p == '}' ? p + 1 : value;
		sum += strtod(value, NULL);
	}
	return sum;
}

int bench_tiers_read(const char *url, double timeout_s, struct bench_tiers *out, struct why *why)
{
	static const char *const paths[] = {"/metrics", NULL};
	struct httpc_answer a;
	int err = httpc_first(url, paths, NULL, timeout_s, &a, why);

	if (err)
		return err;
	err = httpc_check(&a, why);
	for (size_t i = 0; !err && i < sizeof(rows) / sizeof(rows[0]); i++) {
		double value = sum_of(a.body, rows[i].name);
		memcpy((char *)out + rows[i].at, &value, sizeof(value));
	}
	httpc_free(&a);
	return err;
}

struct bench_tiers bench_tiers_since(const struct bench_tiers *before, const struct bench_tiers *after)
{
	return (struct bench_tiers){
		.asked_tokens = after->asked_tokens - before->asked_tokens,
		.l1_tokens = after->l1_tokens - before->l1_tokens,
		.l2_tokens = after->l2_tokens - before->l2_tokens,
		.l2_read_bytes = after->l2_read_bytes - before->l2_read_bytes,
		.l2_write_bytes = after->l2_write_bytes - before->l2_write_bytes,
		.l2_dropped = after->l2_dropped - before->l2_dropped,
	};
}
