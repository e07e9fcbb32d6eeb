/* cmd_numa_server.c - what the commands of `numa` ask a running server. */
#include "tools/cmd_numa.h"

#include "tools/httpc.h"

int numa_status(const struct cli_cmd *cmd, const struct cli_common *o, json_t **status)
{
	static const char *const paths[] = {"/status", "/api/status", NULL};
	struct httpc_answer a;
	struct why why = {0};
	int rc = httpc_first(o->url.text, paths, NULL, o->timeout_s, &a, &why);

	if (rc == 0) {
		rc = httpc_check(&a, &why);
		*status = rc ? NULL : httpc_json(&a, &why);
		httpc_free(&a);
		if (*status)
			return -1;
	}
	cli_error(cmd, "%s", why.text);
	return CLI_UNREADABLE;
}

int numa_ask(const struct cli_cmd *cmd, struct numa_options *o)
{
	if (!o->common.url_text)
		return -1;
	if (o->from)
		return cli_usage(cmd, "--url asks a server of this system, --from is another machine; leave one away");
	if (o->common.url.kind != URL_HTTP)
		return cli_usage(cmd, "--url: the HTTP port is needed, such as " CLI_DEFAULT_HTTP);
	return numa_status(cmd, &o->common, &o->status);
}

void numa_held(const json_t *status, struct plan_conf *conf)
{
	const json_t *pools = json_object_get(json_object_get(status, "numa"), "pools");
	size_t top = sizeof(conf->held) / sizeof(conf->held[0]);

	for (size_t i = 0; i < json_array_size(pools) && conf->nheld < top; i++) {
		const json_t *p = json_array_get(pools, i), *node = json_object_get(p, "node");
		json_int_t bytes = json_integer_value(json_object_get(p, "committed_bytes"));
		json_int_t page = json_integer_value(json_object_get(p, "page_bytes")), os = json_integer_value(node);

		if (bytes <= 0 || page < 4096 || (json_is_integer(node) && (os < 0 || os >= NODE_MAX)))
			continue;
		conf->held[conf->nheld].node = json_is_integer(node) ? node_of((int)os) : NODE_UNKNOWN;
		conf->held[conf->nheld].page_bytes = (uint64_t)page;
		conf->held[conf->nheld++].pages = (uint64_t)(bytes / page);
	}
}

uint64_t numa_l1_of(const json_t *status)
{
	const json_t *pools = json_object_get(json_object_get(status, "numa"), "pools");
	uint64_t sum = 0;

	for (size_t i = 0; i < json_array_size(pools); i++) {
		json_int_t bytes = json_integer_value(json_object_get(json_array_get(pools, i), "bytes"));

		sum += bytes > 0 && bytes < (json_int_t)1 << 46 ? (uint64_t)bytes : 0;
	}
	return sum < 1ull << 46 ? sum : 0;
}
