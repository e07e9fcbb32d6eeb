#include "daemon/conf/conf_int.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char prefix[] = "LMCACHE_APPLIANCE_";

/* Kubernetes puts the address of a service called "lmcache-appliance" into every pod as LMCACHE_APPLIANCE_PORT=tcp://...,
 * and more names of the forms LMCACHE_APPLIANCE_SERVICE_* and LMCACHE_APPLIANCE_PORT_*. None of them is meant for us. */
static bool from_kubernetes(const char *name, const char *text)
{
	const char *rest = name + sizeof(prefix) - 1;

	if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return false;
	return strncmp(rest, "SERVICE_", 8) == 0 || strncmp(rest, "PORT_", 5) == 0 ||
	       (strcmp(rest, "PORT") == 0 && strstr(text, "://"));
}

static bool names_an_option(const char *name)
{
	char buf[CONF_ENV_CAP];

	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		if (strcmp(conf_env_name(&conf_options[i], buf), name) == 0)
			return true;
	}
	return false;
}

static int read_options(struct conf *c, struct why *why)
{
	char buf[CONF_ENV_CAP];

	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const char *name = conf_env_name(&conf_options[i], buf);
		const char *text = getenv(name);
		int rc;

		/* Compose files pass on unset variables as empty ones. */
		if (!text || (!*text && !conf_options[i].empty_ok) || from_kubernetes(name, text))
			continue;
		rc = conf_set(c, i, text, 'e', name, why);
		if (rc)
			return rc;
	}
	return 0;
}

static int refuse_absent(struct conf *c, struct why *why)
{
	char buf[CONF_ENV_CAP];

	for (unsigned i = 0; conf_absents[i].flag; i++) {
		const char *names[] = {conf_env_of_flag(conf_absents[i].flag, buf), conf_absents[i].env};

		for (int k = 0; k < 2; k++) {
			const char *text = names[k] ? getenv(names[k]) : NULL;
			int rc = text && *text ? conf_apply(c, (struct conf_match){CONF_IS_ABSENT, i, false}, text, 'e',
							    names[k], why)
					       : 0;
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* A misspelt variable would otherwise go unnoticed; it may as well belong to somebody else, so it does not stop the start. */
static void warn_unknown(void)
{
	for (char **e = environ; e && *e; e++) {
		const char *equals = strchr(*e, '=');
		char name[CONF_ENV_CAP];
		size_t len = equals ? (size_t)(equals - *e) : 0;

		if (strncmp(*e, prefix, sizeof(prefix) - 1) != 0 || len == 0 || len >= sizeof(name))
			continue;
		memcpy(name, *e, len);
		name[len] = '\0';
		if (!names_an_option(name) && !from_kubernetes(name, equals + 1))
			log_warn("environment variable %s names no option and is ignored", name);
	}
}

int conf_env_read(struct conf *c, struct why *why)
{
	int rc = read_options(c, why);

	if (rc == 0)
		rc = refuse_absent(c, why);
	if (rc == 0)
		warn_unknown();
	return rc;
}
