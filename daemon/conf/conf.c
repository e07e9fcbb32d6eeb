/* conf_parse: defaults, then the config file, then the environment, then the flags, each over the one before; then the rules
 * that span several options. The command line is split first, because it names the file. */
#include "daemon/conf/conf_int.h"

#include "daemon/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int set_defaults(struct conf *c, struct why *why)
{
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		int rc = conf_options[i].def ? conf_set(c, i, conf_options[i].def, 'd', conf_options[i].flag, why) : 0;
		if (rc)
			return rc;
		c->source[i] = 'd';
	}
	return 0;
}

static int set_flags(struct conf *c, const struct conf_cli *cli, struct why *why)
{
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		char where[96];
		int rc;

		if (!cli->value[i])
			continue;
		snprintf(where, sizeof(where), "--%s", conf_options[i].flag);
		for (unsigned k = 0; k < cli->nmore; k++) {
			rc = cli->more[k].option == i ? conf_set(c, i, cli->more[k].text, 'c', where, why) : 0;
			if (rc)
				return rc;
		}
		rc = conf_set(c, i, cli->value[i], 'c', where, why);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_required(const struct conf *c, struct why *why)
{
	char list[256] = "";
	size_t len = 0;

	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		if (conf_options[i].required && c->source[i] == 'd' && len < sizeof(list))
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s--%s", len ? ", " : "",
						conf_options[i].flag);
	}
	if (!len)
		return 0;
	return why_set(why, -EINVAL, "required and given neither by flag, environment nor config file: %s", list);
}

static bool is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	char bare[64];
	size_t len = strlen(host);

	if (strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (len >= 2 && len < sizeof(bare) && host[0] == '[' && host[len - 1] == ']') {
		memcpy(bare, host + 1, len - 2);
		bare[len - 2] = '\0';
		host = bare;
	}
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* An IPv6 address is kept in brackets: host:port is written and shown in many places. */
static int bracket(char **host, struct why *why)
{
	struct in6_addr v6;
	char text[64];

	if (inet_pton(AF_INET6, *host, &v6) != 1)
		return 0;
	snprintf(text, sizeof(text), "[%s]", *host);
	mem_free(*host);
	*host = mem_strndup(text, strlen(text));
	return *host ? 0 : why_set(why, -ENOMEM, "out of memory");
}

static int check_bind(const struct conf *c, const char *flag, const char *host, struct why *why)
{
	if (strstr(host, "://")) /* engines are given tcp://host, so that is what people paste */
		return why_set(why, -EINVAL, "--%s %.80s: give the address alone, without %.*s", flag, host,
			       (int)(strstr(host, "://") - host) + 3, host);
	if (c->insecure_allow_remote || is_loopback(host))
		return 0;
	return why_set(why, -EINVAL,
		       "--%s %.80s is not loopback: whoever reaches it can read and clear the cache; if the network is "
		       "trusted add --insecure-allow-remote (or LMCACHE_APPLIANCE_INSECURE_ALLOW_REMOTE=true)",
		       flag, host);
}

/* The names of transport/wire, which this layer cannot ask; a test of daemon/core compares them. */
static int check_dialect(const struct conf *c, struct why *why)
{
	static const char *const names[] = {"D1E", "D1", "D2", "D3", "D3b", "D4", "D4v3", "D5a", "D5", "D6", "D7"};

	for (size_t i = 0; c->dialect && i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcasecmp(c->dialect, names[i]) == 0)
			return 0;
	}
	if (!c->dialect)
		return 0;
	return why_set(why, -EINVAL, "--dialect %.40s: unknown value (D1E, D1, D2, D3, D3b, D4, D4v3, D5a, D5, D6, D7)",
		       c->dialect);
}

static uint32_t prefetch_mb(double l1_gib)
{
	double mib = l1_gib * 1024 / 4;

	return mib < 1 ? 1 : mib > 4096 ? 4096 : (uint32_t)mib;
}

static int finish(struct conf *c, struct why *why)
{
	int rc = check_required(c, why);

	if (rc)
		return rc;
	c->workers_open = c->source[CONF_AT_max_workers] == 'd' && c->source[CONF_AT_max_gpu_workers] == 'd' &&
			  c->source[CONF_AT_max_cpu_workers] == 'd';
	if (c->source[CONF_AT_max_gpu_workers] == 'd')
		c->max_gpu_workers = c->max_workers;
	if (c->source[CONF_AT_max_cpu_workers] == 'd')
		c->max_cpu_workers = c->max_workers;
	if (c->source[CONF_AT_l2_prefetch_max_mb] == 'd')
		c->l2_prefetch_max_mb = prefetch_mb(c->l1_size_gb);
	if (c->l1_init_size_gb > c->l1_size_gb)
		c->l1_init_size_gb = c->l1_size_gb;
	if (c->worker_registration_grace_seconds < c->worker_reap_timeout_seconds)
		return why_set(why, -EINVAL,
			       "--worker-registration-grace-seconds %g: must be at least "
			       "--worker-reap-timeout-seconds (%g)",
			       c->worker_registration_grace_seconds, c->worker_reap_timeout_seconds);
	rc = conf_placement(c, why);
	if (rc == 0)
		rc = check_dialect(c, why);
	if (rc == 0)
		rc = bracket(&c->host, why);
	if (rc == 0)
		rc = bracket(&c->http_host, why);
	if (rc == 0)
		rc = check_bind(c, "host", c->host, why);
	if (rc == 0 && !c->no_http)
		rc = check_bind(c, "http-host", c->http_host, why);
	return rc;
}

static const char *config_path(const struct conf_cli *cli)
{
	const char *path = cli->value[CONF_AT_config];
	char buf[CONF_ENV_CAP];

	if (path)
		return path;
	path = getenv(conf_env_name(&conf_options[CONF_AT_config], buf));
	return path && *path ? path : NULL;
}

static int fill(struct conf *c, const struct conf_cli *cli, struct why *why)
{
	const char *path = config_path(cli);
	int rc;

	c->source = mem_calloc(CONF_OPTIONS, 1);
	if (!c->source)
		return why_set(why, -ENOMEM, "out of memory");
	rc = set_defaults(c, why);
	if (rc == 0 && path)
		rc = conf_file_read(c, path, why);
	if (rc == 0)
		rc = conf_env_read(c, why);
	if (rc == 0)
		rc = set_flags(c, cli, why);
	return rc ? rc : finish(c, why);
}

int conf_parse(int argc, char **argv, struct conf *out, struct why *why)
{
	struct conf c = {0};
	struct conf_cli cli;
	int rc = conf_cli_parse(argc, argv, &cli, why);

	memset(out, 0, sizeof(*out));
	if (rc)
		return rc;
	if (cli.help || cli.version) {
		if (cli.help)
			conf_write_help(stdout, "lmcache-appliance server");
		else
			printf("lmcache-appliance %s\n", CONF_VERSION);
		return 1;
	}
	rc = fill(&c, &cli, why);
	if (rc) {
		conf_free(&c);
		return rc;
	}
	*out = c;
	return 0;
}

void conf_free(struct conf *c)
{
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		char *s;

		if (conf_options[i].type == CONF_LIST)
			conf_list_free((struct conf_list *)((char *)c + conf_options[i].offset));
		if (conf_options[i].type != CONF_STR)
			continue;
		memcpy(&s, (char *)c + conf_options[i].offset, sizeof(s));
		mem_free(s);
	}
	mem_free(c->source);
	memset(c, 0, sizeof(*c));
}
