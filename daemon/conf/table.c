#include "daemon/conf/conf_int.h"

#include <ctype.h>
#include <string.h>

static const struct conf_name conf_hash_names[] = {{"blake3", CONF_HASH_BLAKE3},
						   {"sha256_cbor", CONF_HASH_SHA256_CBOR},
						   {"builtin", CONF_HASH_BUILTIN},
						   {NULL, 0}};
static const struct conf_name conf_engine_names[] = {
	{"default", CONF_ENGINE_DEFAULT}, {"blend", CONF_NAME_ABSENT}, {"blend_legacy", CONF_NAME_ABSENT}, {NULL, 0}};
static const struct conf_name conf_wire_names[] = {{"zmq", CONF_WIRE_ZMQ}, {"grpc", CONF_NAME_ABSENT}, {NULL, 0}};
/* gpu and non_gpu are the names of stage S2. */
static const struct conf_name conf_transfer_names[] = {{"auto", CONF_TRANSFER_AUTO},
						       {"lmcache_driven", CONF_TRANSFER_LMCACHE_DRIVEN},
						       {"engine_driven", CONF_TRANSFER_ENGINE_DRIVEN},
						       {"gpu", CONF_TRANSFER_LMCACHE_DRIVEN},
						       {"non_gpu", CONF_TRANSFER_ENGINE_DRIVEN},
						       {NULL, 0}};
static const struct conf_name conf_policy_names[] = {{"LRU", CONF_LRU},
						     {"IsolatedLRU", CONF_ISOLATED_LRU},
						     {"noop", CONF_NOOP},
						     {"ARC", CONF_NAME_ABSENT},
						     {NULL, 0}};
static const struct conf_name conf_numa_policy_names[] = {{"local", CONF_NUMA_LOCAL},
							  {"spread", CONF_NUMA_SPREAD},
							  {"pack", CONF_NUMA_PACK},
							  {"manual", CONF_NUMA_MANUAL},
							  {NULL, 0}};
static const struct conf_name conf_want_names[] = {
	{"yes", CONF_WANT_YES}, {"try", CONF_WANT_TRY}, {"no", CONF_WANT_NO}, {NULL, 0}};
static const struct conf_name conf_l2_store_names[] = {
	{"default", CONF_L2_STORE_DEFAULT}, {"skip_l1", CONF_L2_STORE_SKIP_L1}, {NULL, 0}};
static const struct conf_name conf_l2_prefetch_names[] = {
	{"default", CONF_L2_PREFETCH_DEFAULT}, {"retain", CONF_L2_PREFETCH_RETAIN}, {NULL, 0}};
static const struct conf_name conf_l2_admission_names[] = {
	{"all", CONF_L2_ADMIT_ALL}, {"second-touch", CONF_L2_ADMIT_SECOND_TOUCH}, {NULL, 0}};
static const struct conf_name conf_cuda_names[] = {
	{"auto", CONF_CUDA_AUTO}, {"off", CONF_CUDA_OFF}, {"required", CONF_CUDA_REQUIRED}, {NULL, 0}};
static const struct conf_name conf_gpu_path_names[] = {{"auto", CONF_GPU_AUTO},
						       {"direct", CONF_GPU_DIRECT},
						       {"batch", CONF_GPU_BATCH},
						       {"staged", CONF_GPU_STAGED},
						       {NULL, 0}};
static const struct conf_name conf_spill_names[] = {{"near", CONF_SPILL_NEAR}, {"evict", CONF_SPILL_EVICT}, {NULL, 0}};
/* WARN and CRITICAL are what Python's logging also understands. */
static const struct conf_name conf_log_names[] = {{"DEBUG", LOG_LVL_DEBUG},
						  {"INFO", LOG_LVL_INFO},
						  {"WARNING", LOG_LVL_WARNING},
						  {"ERROR", LOG_LVL_ERROR},
						  {"WARN", LOG_LVL_WARNING},
						  {"CRITICAL", LOG_LVL_ERROR},
						  {NULL, 0}};

const struct conf_option conf_options[CONF_OPTIONS] = {
#define OPTION(f, ...) \
	{.field = #f, .offset = offsetof(struct conf, f), .size = sizeof(((struct conf *)NULL)->f), __VA_ARGS__},
#include "daemon/conf/options.def"
#undef OPTION
};

const struct conf_absent conf_absents[] = {
#define ABSENT(name, k, what, variable) {.flag = name, .kind = CONF_KIND_##k, .feature = what, .env = variable},
#include "daemon/conf/absent.def"
#undef ABSENT
	{.flag = NULL}};

const struct conf_deprecated conf_deprecateds[] = {
#define DEPRECATED(name, k, other, why) {.flag = name, .kind = CONF_KIND_##k, .now = other, .text = why},
#include "daemon/conf/deprecated.def"
#undef DEPRECATED
	{.flag = NULL}};

const char *const conf_group_titles[CONF_GROUPS] = {[CONF_SERVER] = "MP Server",         [CONF_HTTP] = "HTTP Frontend",
						    [CONF_L1] = "L1 Memory Manager",     [CONF_TTL] = "L1 Manager TTL",
						    [CONF_EVICTION] = "Eviction Policy", [CONF_L2] = "L2",
						    [CONF_OBS] = "Observability",        [CONF_OURS] = "Appliance"};

size_t conf_option_count(void)
{
	return CONF_OPTIONS;
}

/* Config-file keys may be written with '_' as well. */
static bool same_name(const char *flag, const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < len && flag[i]; i++) {
		if (flag[i] != (name[i] == '_' ? '-' : name[i]))
			return false;
	}
	return i == len && flag[i] == '\0';
}

static struct conf_match match_plain(const char *name, size_t len)
{
	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		if (same_name(conf_options[i].flag, name, len))
			return (struct conf_match){CONF_IS_OPTION, i, false};
	}
	for (unsigned i = 0; conf_deprecateds[i].flag; i++) {
		if (same_name(conf_deprecateds[i].flag, name, len))
			return (struct conf_match){CONF_IS_DEPRECATED, i, false};
	}
	for (unsigned i = 0; conf_absents[i].flag; i++) {
		if (same_name(conf_absents[i].flag, name, len))
			return (struct conf_match){CONF_IS_ABSENT, i, false};
	}
	return (struct conf_match){CONF_IS_UNKNOWN, 0, false};
}

struct conf_match conf_match(const char *name, size_t len)
{
	struct conf_match m = match_plain(name, len);

	if (m.is != CONF_IS_UNKNOWN || len <= 3 || !same_name("no-", name, 3))
		return m;
	m = match_plain(name + 3, len - 3);
	if (m.is == CONF_IS_OPTION && conf_options[m.index].type == CONF_PAIR)
		return (struct conf_match){CONF_IS_NEGATION, m.index, true};
	if (m.is == CONF_IS_ABSENT && conf_absents[m.index].kind == CONF_KIND_P)
		return (struct conf_match){CONF_IS_ABSENT, m.index, true};
	return (struct conf_match){CONF_IS_UNKNOWN, 0, false};
}

bool conf_takes_value(struct conf_match m)
{
	switch (m.is) {
	case CONF_IS_OPTION:
		return conf_options[m.index].type != CONF_FLAG && conf_options[m.index].type != CONF_PAIR;
	case CONF_IS_DEPRECATED:
		return conf_deprecateds[m.index].kind == CONF_KIND_V;
	case CONF_IS_ABSENT:
		return conf_absents[m.index].kind == CONF_KIND_V;
	default:
		return false;
	}
}

/* Characters of the longest common start and of the longest common end, without counting any twice. */
static size_t likeness(const char *flag, const char *name, size_t len)
{
	size_t n = strlen(flag), shorter = n < len ? n : len, head = 0, tail = 0;

	while (head < shorter && flag[head] == name[head])
		head++;
	while (tail < shorter - head && flag[n - 1 - tail] == name[len - 1 - tail])
		tail++;
	return head + tail;
}

const char *conf_nearest(const char *name, size_t len)
{
	const char *best = NULL;
	size_t best_off = 3; /* characters that may differ, but for a mere prefix */

	for (unsigned i = 0; i < CONF_OPTIONS; i++) {
		const char *flag = conf_options[i].flag;
		size_t n = strlen(flag), longer = n > len ? n : len;
		size_t off = longer - likeness(flag, name, len);

		if (off < best_off) {
			best_off = off;
			best = flag;
		}
	}
	for (unsigned i = 0; !best && len >= 3 && i < CONF_OPTIONS; i++) {
		if (strncmp(conf_options[i].flag, name, len) == 0)
			best = conf_options[i].flag;
	}
	return best;
}

const char *conf_env_of_flag(const char *flag, char buf[CONF_ENV_CAP])
{
	static const char prefix[] = "LMCACHE_APPLIANCE_";
	size_t n = sizeof(prefix) - 1;

	memcpy(buf, prefix, n);
	for (; *flag && n < CONF_ENV_CAP - 1; flag++)
		buf[n++] = (char)(*flag == '-' ? '_' : toupper((unsigned char)*flag));
	buf[n] = '\0';
	return buf;
}

const char *conf_env_name(const struct conf_option *o, char buf[CONF_ENV_CAP])
{
	return o->env ? o->env : conf_env_of_flag(o->flag, buf);
}
